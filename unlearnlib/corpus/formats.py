"""What a file of documents holds: a text, or rows of texts; only regular files are opened.

A reader for each kind of file, found by its name. Whatever goes wrong in one, here or in a library,
becomes one sentence that names the file.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from unlearnlib.errors import UnlearnError, first_line
from unlearnlib.text import printable

TEXT_COLUMNS = ("text", "content", "document", "body")
"""Column names that are taken for the text, in this order, when none is given."""

NO_IDS = "none"  # in place of a column of ids: rows are numbered

ROWS = (".jsonl", ".parquet", ".csv", ".tsv", ".arrow")  # the files that have rows, and so columns
UNREAD = {
    ".json": "write one JSON object per line to a .jsonl file",
    ".ndjson": "rename it to .jsonl",
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".bz2", ".xz", ".zst"), "unpack it"),
}
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16, or UTF-32, begins
_POINTER = b"version https://git-lfs.github.com/spec/"  # how one of Git LFS begins
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
}

# (row number from 1, id or None, text): a row before it gets its final id.
Row = tuple[int, str | None, str]


def shown(path: PurePath) -> str:
    """A path as sentences have it, in one line."""
    return printable(str(path))


def kind(file: PurePath) -> str:
    """The ending that says what a file holds, in small letters; that of what a `.gz` packs."""
    return PurePath(plain_name(file)).suffix.lower()


def plain_name(file: PurePath) -> str:
    """The name of a file without `.gz`."""
    return file.stem if file.suffix.lower() == ".gz" else file.name


def status(path: Path) -> os.stat_result:
    """What the system says of a path; `UnlearnError` where it says nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        raise UnlearnError(
            f"{shown(path)} does not exist: check the path of the documents."
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def check_regular(path: Path) -> int:
    """The size in bytes of a regular file; a pipe or a device is refused, for it may never end."""
    found = status(path)
    _refuse_others(path, found.st_mode)
    return found.st_size


def _refuse_others(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UnlearnError(
            f"{shown(path)} is {what}, not a file: write its contents to a file and give that."
        )


def _unreadable(path: Path, error: Exception) -> UnlearnError:
    why = getattr(error, "strerror", None) or printable(str(error)) or type(error).__name__
    return UnlearnError(f"{shown(path)} cannot be read ({why}): check its permissions.")


def _open(path: Path) -> BinaryIO:
    """A regular file, opened without ever waiting for a writer at its other end."""
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with contextlib.ExitStack() as stack:
        stack.callback(handle.close)
        # It may have been replaced since it was looked at.
        _refuse_others(path, os.fstat(handle.fileno()).st_mode)
        stack.pop_all()
    return handle


def _bytes(file: Path) -> bytes:
    """What a file holds, unpacked."""
    try:
        with _open(file) as handle:
            raw = handle.read()
    except OSError as error:
        raise _unreadable(file, error) from error
    _refuse_pointer(file, raw)
    if file.suffix.lower() != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UnlearnError(
            f"{shown(file)} is not a whole gzip file ({printable(str(error))}): pack it again."
        ) from error


def _refuse_pointer(file: Path, raw: bytes) -> None:
    if raw.startswith(_POINTER):
        raise UnlearnError(
            f"{shown(file)} is a pointer of Git LFS and not the file itself: run `git lfs pull` "
            "in its folder."
        )


def is_binary(file: Path) -> bool:
    """Whether a file found in a folder is no text at all.

    Only a file that has a NUL byte *and* is not UTF-8: NUL alone is a legal character, and bad
    UTF-8 alone, or UTF-16, is a text in another encoding, which the user should hear about.
    """
    if kind(file) in ROWS:
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
    if b"\0" not in raw:
        return False
    low, high = sorted(half.count(b"\0") for half in (raw[::2], raw[1::2]))
    return low == 0 and len(raw) >= 16 and 4 * high > len(raw)


def read_rows(file: Path, column: str | None, ids: str | None) -> Iterator[Row]:
    """The rows of a file; a text file is one row.

    `column` holds the texts (by default the first of `TEXT_COLUMNS`), `ids` the ids: by default
    "id" where there is one, and none for `NO_IDS`.
    """
    if kind(file) == ".jsonl":
        yield from _jsonl_rows(file, column, ids)
    elif kind(file) in ROWS:
        yield from _table_rows(file, column, ids)
    else:
        text = _text(file)
        _check_encodable(text, shown(file))
        yield 1, None, text


def _text(file: Path) -> str:
    """The whole file as text, newlines untouched, without the byte-order mark of Windows."""
    raw = _bytes(file)
    if _is_utf16(raw):  # may well be UTF-8 too, with a NUL after every letter
        raise UnlearnError(
            f"{shown(file)} is UTF-16 or UTF-32, not UTF-8: convert it to UTF-8 first."
        )
    try:
        # The mark belongs to the file and not to its text.
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UnlearnError(
            f"{shown(file)} is not UTF-8 (byte {error.start}): convert it to UTF-8 first."
        ) from error


# ---------------------------------------------------------------- JSON Lines


def _jsonl_rows(file: Path, column: str | None, ids: str | None) -> Iterator[Row]:
    """The rows of a file of JSON Lines; the first one decides on the columns."""
    chosen: tuple[str, str | None] | None = None
    for number, row in _objects(file):
        chosen = chosen or (_text_column(file, list(row), column), _id_column(file, list(row), ids))
        # Rows may differ: one without an id may come first.
        text, name = chosen[0], (chosen[1] or "id")
        given = None if ids == NO_IDS else row.get(name)
        yield _row(file, number, (text, row.get(text)), (name, given))


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnlearnError(
                f"line {number} of {shown(file)} is not JSON: write one object per line."
            ) from error
        if not isinstance(row, dict):
            raise UnlearnError(
                f"line {number} of {shown(file)} is not a JSON object: write lines such as "
                '{"id": "...", "text": "..."}.'
            )
        yield number, row


# ---------------------------------------------------------------- tables


def _table_rows(file: Path, column: str | None, ids: str | None) -> Iterator[Row]:
    """The rows of a table; of its columns only those of the texts and of the ids are read."""
    import pyarrow as pa

    what = {".parquet": "Parquet", ".arrow": "Arrow"}.get(kind(file), kind(file)[1:].upper())
    try:
        with contextlib.ExitStack() as stack:
            names, batches = _opened(file, stack, (column, ids))
            text, name = _text_column(file, names, column), _id_column(file, names, ids)
            number = 0
            for batch in batches((text,) if name is None else (text, name)):
                # A damaged file's offsets may point anywhere: looked at before they are followed.
                batch.validate(full=True)
                values = batch.column(text).to_pylist()
                given = [None] * len(values) if name is None else batch.column(name).to_pylist()
                for value, one in zip(values, given, strict=True):
                    number += 1
                    yield _row(file, number, (text, value), (name or "id", one))
    except UnlearnError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        raise UnlearnError(
            f"{shown(file)} is not a readable {what} file ({first_line(error)}): write it again."
        ) from error


def _opened(
    file: Path, stack: contextlib.ExitStack, wanted: tuple[str | None, ...]
) -> tuple[list[str], Any]:
    """The columns of a table, and a function from some of them to batches of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind(file) in (".csv", ".tsv"):
        table = _csv_table(file, wanted)
        return table.column_names, lambda some: table.select(list(some)).to_batches()
    source: BinaryIO
    if file.suffix.lower() == ".gz":
        source = io.BytesIO(_bytes(file))
    else:
        source = stack.enter_context(_open(file))
        _refuse_pointer(file, source.read(len(_POINTER)))
        source.seek(0)
    if kind(file) == ".parquet":
        parquet = stack.enter_context(pq.ParquetFile(source))
        names = parquet.schema_arrow.names
        return names, lambda some: parquet.iter_batches(batch_size=256, columns=list(some))
    try:
        stream = pa.ipc.open_stream(source)
    except pa.ArrowInvalid:  # the other format of Arrow, that has its index at the end
        source.seek(0)
        whole = pa.ipc.open_file(source)
        names, found = whole.schema.names, map(whole.get_batch, range(whole.num_record_batches))
    else:
        names, found = stream.schema.names, iter(stream)
    return names, lambda some: (batch.select(list(some)) for batch in found)


def _csv_table(file: Path, wanted: tuple[str | None, ...]) -> Any:
    """A table of values between commas or tabs, under a row of names.

    Texts and ids are read as they are spelt; nothing in them is taken for a number.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    raw = _text(file).encode("utf-8")
    names = {*TEXT_COLUMNS, "id", *(name for name in wanted if name is not None)}
    return pc.read_csv(
        io.BytesIO(raw),
        # One block: a row may be longer than a block of the usual size.
        read_options=pc.ReadOptions(use_threads=False, block_size=max(1 << 20, len(raw) + 1)),
        parse_options=pc.ParseOptions(
            delimiter="\t" if kind(file) == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


# ---------------------------------------------------------------- columns and ids


def _row(file: Path, number: int, text: tuple[str, Any], name: tuple[str, Any]) -> Row:
    """One row, from the (column, value) of its text and of its id."""
    column, value = text
    if not isinstance(value, str):
        raise UnlearnError(
            f"{column!r} in row {number} of {shown(file)} is {type(value).__name__}, not a string: "
            "correct the row, or name another column with column=... (--column)."
        )
    _check_encodable(value, f"{column!r} in row {number} of {shown(file)}")
    given = _given_id(name[1], f"{name[0]!r} in row {number} of {shown(file)}")
    if given is not None:
        _check_encodable(given, f"{name[0]!r} in row {number} of {shown(file)}")
    return number, given, value


def _text_column(file: Path, found: list[str], column: str | None) -> str:
    for name in TEXT_COLUMNS if column is None else (column,):
        if name in found:
            _check_once(file, found, name)
            return name
    what = "no text column" if column is None else f"no column {column!r}"
    raise UnlearnError(
        f"{shown(file)} has {what}, only {', '.join(map(repr, found)) or 'none at all'}: "
        "name the one that holds the text with column=... (--column)."
    )


def _id_column(file: Path, found: list[str], ids: str | None) -> str | None:
    """The column of the ids; None where rows are numbered."""
    if ids == NO_IDS or (ids is None and "id" not in found):
        return None
    name = "id" if ids is None else ids
    if name not in found:
        raise UnlearnError(
            f"{shown(file)} has no column {name!r}, only {', '.join(map(repr, found))}: name the "
            "one that holds the ids with ids=... (--id), or number the rows with 'none'."
        )
    _check_once(file, found, name)
    return name


def _check_once(file: Path, found: list[str], name: str) -> None:
    if found.count(name) > 1:
        raise UnlearnError(
            f"{shown(file)} has {found.count(name)} columns {name!r}: give each a name of its own."
        )


def _given_id(value: object, where: str) -> str | None:
    """The id of a row as a string; None where the row has none."""
    if value is None or value == "":
        return None
    if isinstance(value, float):  # what pandas makes of whole numbers where one is missing
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnlearnError(
            f"{where} is {type(value).__name__}: give a string or a whole number, name another "
            "column with ids=... (--id), or number the rows with 'none'."
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
