"""A user's own documents: text files, tables and folders of them.

Texts are taken exactly as they stand: no newline is translated, nothing is stripped, and a
document that is not valid UTF-8 is refused with the position of the first bad byte, because a
silently repaired text is not the text that is to be forgotten. Nor is a document left out in
silence: what cannot be read is an error, and every file that is skipped is named.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.formats import (
    NO_IDS,
    ROWS,
    UNREAD,
    check_regular,
    is_binary,
    kind,
    plain_name,
    read_rows,
    shown,
    status,
)
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.text import listed, printable

logger = logging.getLogger(__name__)

# Names, without endings, of the files that tell of the data beside them, as hubs have them.
_ABOUT = ("readme", "license", "licence", "copying", "notice", "citation", "changelog")
# What `datasets.save_to_disk` writes beside its tables.
_BOOKS = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")


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
    path: str | Path,
    *,
    column: str | None = None,
    limit: int | None = None,
    ids: str | None = None,
) -> tuple[Document, ...]:
    """The documents of a file or folder, in a fixed order.

    A text file (any extension) is one document; a `.jsonl`, `.parquet`, `.csv`, `.tsv` or `.arrow`
    file is one document per row; any of them may be packed as `.gz`. A folder, also one of
    `datasets.save_to_disk`, is all its files in the order of their paths, recursively. Left out,
    and named in a logged warning, are hidden files, binary and empty ones, links to folders, kinds
    that are not read, and, beside tables, README, LICENSE and the like. Ids are those of the "id"
    column where there is one, and else the file's stem and the row number ("notes-0001"); files of
    one folder that share a stem are numbered on.

    Args:
        path: the file or folder.
        column: the text column of rows; by default the first of `TEXT_COLUMNS` that is there.
        limit: the most documents to take (from the beginning); all by default.
        ids: the column of the ids of rows; "none": rows are numbered, whatever columns there are.

    Returns:
        At least one document; each has text other than whitespace (others are skipped, with a
        logged warning).

    Raises:
        UnlearnError: `path` is missing, empty, not UTF-8, has no text column, is malformed,
            repeats an id, or holds no document; a folder or a file in it cannot be read, or is a
            pipe, a socket or a device.
    """
    if not str(path).strip():  # Path("") would be the working folder
        raise UnlearnError(f"the path of the documents is {str(path)!r}: give a file or folder.")
    path = Path(path)
    if limit is not None:
        _check_limit(limit, "limit")
    status(path)

    documents: dict[str, Document] = {}
    blank: list[str] = []
    left_out: list[str] = []
    rows_before: Counter[str] = Counter()
    for file in _files(path, left_out):
        number, stem = 0, Path(plain_name(file)).stem
        for number, given_id, text in read_rows(file, column, ids):
            name = given_id or f"{stem}-{rows_before[stem] + number:04d}"
            if not text.strip():
                blank.append(printable(name))
                continue
            if name in documents:
                raise UnlearnError(
                    f"the id {name!r} occurs twice in {shown(path)} (again in row {number} of "
                    f"{shown(Path(file.name))}): give each document an id of its own, name another "
                    "column with ids=... (--id), or number the rows with 'none'."
                )
            _check_name(name, file)
            documents[name] = Document(id=name, text=text)
            if len(documents) == limit:
                break
        rows_before[stem] += number
        if len(documents) == limit:
            break
    if left_out:
        logger.warning("%s: skipped %s", shown(path), listed(left_out))
    if blank:
        logger.warning("%s: skipped %d empty documents: %s", shown(path), len(blank), listed(blank))
    if not documents:
        raise UnlearnError(
            f"{shown(path)} holds no documents: give a file or folder with some text."
        )
    return tuple(documents.values())


def _check_name(name: str, file: Path) -> None:
    """Refuse the name of a file that is no text, of which a document would get its own."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnlearnError(
            f"the name of {shown(file)} is not valid Unicode (character {error.start}): rename it."
        ) from error


def user_domain(
    forget: str | Path,
    retain: str | Path | None = None,
    approximate: str | Path | None = None,
    general_retain: str | Path | None = None,
    general_evaluation: str | Path | None = None,
    column: str | None = None,
    limits: Mapping[str, int] | None = None,
    ids: str | None = None,
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
    check_column(column, given.values(), ids)
    shared_general = "general_retain" in given and "general_evaluation" not in given
    splits: dict[str, Any] = {
        split: read_documents(
            path,
            column=column,
            ids=ids,
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


def check_column(column: str | None, paths: Iterable[str | Path], ids: str | None = None) -> None:
    """Whether there is a file that could have a column, where one is named.

    Raises:
        UnlearnError: a column of texts or of ids is named, and no file has rows.
    """
    named = column if column is not None else ids if ids != NO_IDS else None
    if named is None:
        return
    for path in map(Path, paths):
        found = path.rglob("*") if path.is_dir() else (path,)
        if any(kind(file) in ROWS for file in found):
            return
    option = "column=... (--column)" if column is not None else "ids=... (--id)"
    raise UnlearnError(
        f"the column {named!r} is named, and no file is {' or '.join(ROWS)}: leave out {option}, "
        "or give files with rows."
    )


def _files(path: Path, left_out: list[str]) -> Iterator[Path]:
    """The files to read under `path`: itself, or what a folder holds, in the order of paths.

    What is left out is added to `left_out`, with the reason.
    """
    if not path.is_dir():
        remedy = UNREAD.get(kind(path))
        size = check_regular(path)
        if remedy is not None:
            raise UnlearnError(
                f"{shown(path)} is a {kind(path)} file, which is not read: {remedy}."
            )
        if size == 0:
            raise UnlearnError(f"{shown(path)} is empty: give a file with some text.")
        yield path
        return
    found = _walk(path, left_out)
    tables = any(kind(PurePosixPath(relative)) in ROWS for relative in found)
    saved = _saved_tables(path, found)
    for relative in found:
        file = path / relative
        reason = _reason(file, tables, saved)
        if reason is None:
            yield file
        else:
            left_out.append(f"{printable(relative)} ({reason})")


def _walk(path: Path, left_out: list[str]) -> list[str]:
    """All files below a folder that are not hidden, as strings with forward slashes, sorted.

    The order is the same on every platform. Links to folders are not followed.
    """

    def refuse(error: OSError) -> None:
        raise UnlearnError(
            f"{printable(str(error.filename))} cannot be read ({error.strerror}): check its "
            "permissions, or take it out of the folder."
        ) from error

    found = []
    for folder, inner, files in os.walk(path, onerror=refuse):
        here = Path(folder).relative_to(path)
        links = [name for name in inner if Path(folder, name).is_symlink()]
        links += [n for n in files if Path(folder, n).is_symlink() and not Path(folder, n).exists()]
        for name in sorted({*inner, *files}):
            relative = printable((here / name).as_posix())
            if name.startswith("."):
                left_out.append(f"{relative} (hidden)")
            elif name in links:
                left_out.append(
                    f"{relative} (a link that leads to no file; links to folders are not followed)"
                )
        inner[:] = [name for name in inner if not name.startswith(".") and name not in links]
        found += [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and name not in links
        ]
    return sorted(found)


def _saved_tables(path: Path, found: Sequence[str]) -> dict[Path, set[str]]:
    """Folder -> the tables of the data set that `datasets.save_to_disk` wrote there.

    Beside them may stand tables of the package's own cache, which repeat documents.
    """
    saved = {}
    for relative in found:
        file = path / relative
        if file.name != "state.json":
            continue
        check_regular(file)
        try:
            state = json.loads(file.read_bytes())
            saved[file.parent] = {entry["filename"] for entry in state["_data_files"]}
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            continue  # another program's file of that name
    return saved


def _reason(file: Path, tables: bool, saved: Mapping[Path, set[str]]) -> str | None:
    """Why a file of a folder is left out; None for one that is read."""
    size = check_regular(file)
    plain = plain_name(file).lower()
    if tables and (plain in _BOOKS or plain.partition(".")[0] in _ABOUT):
        return "about the tables beside it"
    if kind(file) in UNREAD:
        return UNREAD[kind(file)]
    if kind(file) == ".arrow" and file.name not in saved.get(file.parent, {file.name}):
        return "no part of the saved data set"
    if size == 0:
        return "empty"
    return "not text" if is_binary(file) else None
