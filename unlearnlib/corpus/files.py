"""A user's own documents: text files, folders, JSON Lines and Parquet.

Texts are taken exactly as they stand: no newline is translated, nothing is stripped, and a
document that is not valid UTF-8 is refused with the position of the first bad byte, because a
silently repaired text is not the text that is to be forgotten.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.errors import UnlearnError, unknown

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("text", "content", "document", "body")


"""Column names that are taken for the text, in this order, when none is given."""


_TABLES = {
    ".csv": "save the table as Parquet or JSON Lines",
    ".tsv": "save the table as Parquet or JSON Lines",
    ".json": "write one JSON object per line to a .jsonl file",
    ".ndjson": "rename it to .jsonl",
}
_ROWS = (".jsonl", ".parquet")  # the files that have rows, and so columns
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16, or UTF-32, begins

# (row number from 1, id or None, text): a row before it gets its final id.
_Row = tuple[int, str | None, str]


def checked_limits(limits: Mapping[str, int] | None) -> dict[str, int]:
    """`limits` (split name -> most documents to take) after validation; empty for None.

    Raises:
        UnlearnError: an unknown split, or a limit that is not a whole number of at least 1.
    """
    for split, limit in (limits or {}).items():
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        _check_limit(limit, f"the limit of split {split!r}")
    return dict(limits or {})


def _check_limit(limit: object, what: str) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise UnlearnError(f"{what} is {limit!r}: give a whole number of at least 1.")


def split_general(
    documents: Sequence[Document],
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Cut general documents into (retain, evaluation): the first two thirds, and the rest.

    The cut is at the whole document nearest to two thirds, so two documents give one each, and
    a single document is for retaining.
    """
    cut = (2 * len(documents) + 1) // 3
    return tuple(documents[:cut]), tuple(documents[cut:])


def read_documents(
    path: str | Path, *, column: str | None = None, limit: int | None = None
) -> tuple[Document, ...]:
    """The documents of a file or folder, in a fixed order.

    A text file (any extension) is one document; a `.jsonl` or `.parquet` file is one document
    per row; a folder is all its files in the order of their paths, recursively, hidden ones and
    binary ones left out (a text in UTF-16 is not binary, and is refused). Ids are those of the "id"
    column where there is one, and else the file's stem and the row number ("notes-0001"); files of
    one folder that share a stem are numbered on.

    Args:
        path: the file or folder.
        column: the text column of rows; by default the first of `TEXT_COLUMNS` that is there.
        limit: the most documents to take (from the beginning); all by default.

    Returns:
        At least one document; each has text other than whitespace (others are skipped, with a
        logged warning).

    Raises:
        UnlearnError: `path` is missing, empty, not UTF-8, has no text column, is malformed,
            repeats an id, or holds no document.
    """
    if not str(path).strip():  # Path("") would be the working folder
        raise UnlearnError(f"the path of the documents is {str(path)!r}: give a file or folder.")
    path = Path(path)
    if limit is not None:
        _check_limit(limit, "limit")
    if not path.exists():
        raise UnlearnError(f"{path} does not exist: check the path of the documents.")

    documents: dict[str, Document] = {}
    blank: list[str] = []
    rows_before: Counter[str] = Counter()
    for file in _files(path):
        number = 0
        for number, given_id, text in _rows(file, column):
            name = given_id or f"{file.stem}-{rows_before[file.stem] + number:04d}"
            if not text.strip():
                blank.append(name)
                continue
            if name in documents:
                raise UnlearnError(
                    f"the id {name!r} occurs twice in {path} (again in row {number} of "
                    f"{file.name}): give each document an id of its own."
                )
            _check_encodable(name, f"the name of row {number} of {file.name!r}")
            documents[name] = Document(id=name, text=text)
            if len(documents) == limit:
                break
        rows_before[file.stem] += number
        if len(documents) == limit:
            break
    if blank:
        logger.warning("%s: skipped %d empty documents, first %s", path, len(blank), blank[0])
    if not documents:
        raise UnlearnError(f"{path} holds no documents: give a file or folder with some text.")
    return tuple(documents.values())


def user_domain(
    forget: str | Path,
    retain: str | Path | None = None,
    approximate: str | Path | None = None,
    general_retain: str | Path | None = None,
    general_evaluation: str | Path | None = None,
    column: str | None = None,
    limits: Mapping[str, int] | None = None,
) -> DomainData:
    """The domain "yours", made of a user's own files; only `forget` is required.

    General documents given as `general_retain` alone serve both ends: see `split_general`.
    `limits` cuts each split after that, so that a limit never moves a document between splits.

    Raises:
        UnlearnError: see `read_documents` and `checked_limits`.
    """
    limits = checked_limits(limits)
    paths: dict[str, str | Path | None] = {
        "forget": forget,
        "retain": retain,
        "approximate": approximate,
        "general_retain": general_retain,
        "general_evaluation": general_evaluation,
    }
    given = {split: path for split, path in paths.items() if path is not None}
    check_column(column, given.values())
    shared_general = "general_retain" in given and "general_evaluation" not in given
    splits: dict[str, Any] = {
        split: read_documents(
            path,
            column=column,
            limit=None if shared_general and split == "general_retain" else limits.get(split),
        )
        for split, path in given.items()
    }
    if shared_general:
        splits["general_retain"], splits["general_evaluation"] = split_general(
            splits["general_retain"]
        )
    return DomainData(
        domain="yours",
        source="files",
        extra={split: Path(path).name for split, path in given.items()},
        **{split: documents[: limits.get(split)] for split, documents in splits.items()},
    )


def check_column(column: str | None, paths: Iterable[str | Path]) -> None:
    """Whether there is a file that could have a column, where one is named.

    Raises:
        UnlearnError: a column is named, and no file has rows.
    """
    if column is None:
        return
    for path in map(Path, paths):
        found = path.rglob("*") if path.is_dir() else (path,)
        if any(file.suffix.lower() in _ROWS for file in found):
            return
    raise UnlearnError(
        f"the column {column!r} is named, and no file is {' or '.join(_ROWS)}: leave out "
        "column=... (--column), or give files with rows."
    )


def _files(path: Path) -> Iterator[Path]:
    """The files to read under `path`: itself, or what a folder holds, in the order of paths."""
    if not path.is_dir():
        remedy = _TABLES.get(path.suffix.lower())
        if remedy is not None:
            raise UnlearnError(f"{path} is a {path.suffix} file, which is not read: {remedy}.")
        if path.is_file() and path.stat().st_size == 0:
            raise UnlearnError(f"{path} is empty: give a file with some text.")
        yield path
        return
    # Sorted as strings with forward slashes: the same order on every platform.
    found = list(path.rglob("*"))
    for link in sorted(p for p in found if p.is_symlink() and not p.is_file()):
        logger.warning(
            "%s: skipped %s, a link that leads to no file (links to folders are not followed)",
            path,
            link.relative_to(path),
        )
    for relative in sorted(p.relative_to(path).as_posix() for p in found if p.is_file()):
        file = path / relative
        if any(part.startswith(".") for part in Path(relative).parts):
            continue
        if file.suffix.lower() in _TABLES:
            logger.warning("%s: skipped %s (%s)", path, relative, _TABLES[file.suffix.lower()])
        elif file.stat().st_size == 0:
            logger.warning("%s: skipped %s, which is empty", path, relative)
        elif _is_binary(file):
            logger.warning("%s: skipped %s, which is not text", path, relative)
        else:
            yield file


def _is_binary(file: Path) -> bool:
    """Whether a file found in a folder is no text at all.

    Only a file that has a NUL byte *and* is not UTF-8: NUL alone is a legal character, and bad
    UTF-8 alone, or UTF-16, is a text in another encoding, which the user should hear about.
    """
    if file.suffix.lower() == ".parquet":
        return False
    raw = _bytes(file)
    if b"\0" not in raw or _is_utf16(raw):
        return False
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _is_utf16(raw: bytes) -> bool:
    """Whether bytes begin with the mark of UTF-16, or have its NUL beside every Latin letter."""
    if raw.startswith(_OTHER_UNICODE):
        return True
    low, high = sorted(half.count(b"\0") for half in (raw[::2], raw[1::2]))
    return low == 0 and len(raw) >= 16 and 4 * high > len(raw)


def _rows(file: Path, column: str | None) -> Iterator[_Row]:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _text_rows(file, _parquet_rows(file), column)
    elif suffix == ".jsonl":
        yield from _text_rows(file, _jsonl_rows(file), column)
    else:
        yield 1, None, _text(file)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnlearnError(
            f"{file} cannot be read ({error.strerror}): check its permissions."
        ) from error


def _text(file: Path) -> str:
    """The whole file as text, newlines untouched."""
    raw = _bytes(file)
    if b"\0" in raw and _is_utf16(raw):  # may well be UTF-8 too, with a NUL after every letter
        raise UnlearnError(f"{file} is UTF-16 or UTF-32, not UTF-8: convert it to UTF-8 first.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnlearnError(
            f"{file} is not UTF-8 (byte {error.start}): convert it to UTF-8 first."
        ) from error


def _jsonl_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    # A byte-order mark belongs to the file, not to its first object. Only "\n" ends a line:
    # str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(_text(file).removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnlearnError(
                f"line {number} of {file} is not JSON: write one object per line."
            ) from error
        if not isinstance(row, dict):
            raise UnlearnError(
                f"line {number} of {file} is not a JSON object: write lines such as "
                '{"id": "...", "text": "..."}.'
            )
        yield number, row


def _parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, {column: value}) of each row, without reading the file whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UnlearnError(
            f"{file} is not a readable Parquet file ({reason}): write it again."
        ) from error


def _text_rows(
    file: Path, rows: Iterator[tuple[int, dict[str, Any]]], column: str | None
) -> Iterator[_Row]:
    """Pick the id and the text out of each row; the first row decides on the column."""
    chosen: str | None = None
    for number, row in rows:
        if chosen is None:
            chosen = _text_column(file, list(row), column)
        text = row.get(chosen)
        if not isinstance(text, str):
            raise UnlearnError(
                f"{chosen!r} in row {number} of {file} is {type(text).__name__}, not a string: "
                "correct the row, or name another column with column=... (--column)."
            )
        _check_encodable(text, f"{chosen!r} in row {number} of {file}")
        yield number, _given_id(row.get("id"), number, file), text


def _text_column(file: Path, found: list[str], column: str | None) -> str:
    for name in TEXT_COLUMNS if column is None else (column,):
        if name in found:
            return name
    what = "no text column" if column is None else f"no column {column!r}"
    raise UnlearnError(
        f"{file} has {what}, only {', '.join(map(repr, found)) or 'none at all'}: "
        "name the one that holds the text with column=... (--column)."
    )


def _given_id(value: object, number: int, file: Path) -> str | None:
    """The id of a row as a string; None where the row has none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnlearnError(
            f"'id' in row {number} of {file} is {type(value).__name__}: "
            "give a string or a whole number."
        )
    return str(value)


def _check_encodable(text: str, what: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell but no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnlearnError(
            f"{what} is not valid Unicode (character {error.start}): correct it."
        ) from error
