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
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Unpack

from unlearnlib.corpus.columns import NO_IDS, Named
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.formats import JSON, ROWS, UNREAD, has_rows, is_binary, read_texts
from unlearnlib.corpus.hub_rows import hub_texts, is_hub
from unlearnlib.corpus.opening import (
    Entry,
    check_regular,
    kind,
    plain_name,
    shown,
    size_of,
    status,
    unzipped,
)
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.text import listed, plural, printable

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
    path: str | Path, *, limit: int | None = None, **named: Unpack[Named]
) -> tuple[Document, ...]:
    """The documents of a file or folder, in a fixed order.

    A text file (any extension) is one document; a file with rows (JSON Lines, a JSON array,
    Parquet, CSV, Arrow) is one document per row, or one per answer where a row is a conversation.
    Any of them may be packed (`opening.PACKED`). A folder, also one of `datasets.save_to_disk` or a
    .zip, is all its files in the order of their paths, recursively. "hub:OWNER/NAME" is a data set
    of the hub (see `hub_rows.hub_texts`). Left out, and named in a logged line, are hidden files,
    binary and empty ones, links to folders, kinds that are not read, and, beside tables, README,
    LICENSE and the like. Ids are those of the "id" column where there is one, and else the file's
    stem and the row number ("notes-0001"); files of one folder that share a stem are numbered on.

    Args:
        path: the file or folder.
        limit: the most documents to take (from the beginning); all by default.
        named: which columns hold what; see `columns.Named`.

    Returns:
        At least one document; each has text other than whitespace (others are skipped, and named).

    Raises:
        UnlearnError: `path` is missing, empty, not UTF-8, has no text column, is malformed,
            repeats an id, or holds no document; a folder or a file in it cannot be read, or is a
            pipe, a socket or a device.
    """
    return tuple(iterate_documents(path, limit=limit, **named))


@dataclass
class _Reading:
    """What was read of a path, and what was left out: the line that says so at the end."""

    path: str
    files: int = 0
    documents: int = 0
    blank: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Log the line; as a warning where something was left out."""
        read = f"{self.path}: {self.documents:,} {plural('document', self.documents)} read"
        if self.files > 1:
            read += f" from {self.files:,} files"
        parts = []
        if self.left_out:
            parts.append(f"skipped {listed(self.left_out)}")
        if self.blank:
            count = len(self.blank)
            what = f"{count:,} empty {plural('document', count)}"
            parts.append(f"skipped {what}: {listed(self.blank)}")
        level = logging.WARNING if parts else logging.INFO
        logger.log(level, "%s", "; ".join([read, *parts]))


def iterate_documents(
    path: str | Path, *, limit: int | None = None, **named: Unpack[Named]
) -> Iterator[Document]:
    """The documents of `read_documents`, one after another: none is kept, only their names are."""
    if not str(path).strip():  # Path("") would be the working folder
        raise UnlearnError(f"the path of the documents is {str(path)!r}: give a file or folder.")
    if limit is not None:
        _check_limit(limit, "limit")
    if named.get("chat") and named.get("prompt_column") is None:
        raise UnlearnError(
            "chat (--chat) is given without a column of prompts: name it with prompt_column=... "
            "(--prompt-column); conversations need neither."
        )
    names: set[str] = set()
    reading = _Reading(printable(str(path)) if is_hub(path) else shown(Path(path)))
    for where, name, document in _named_texts(path, named, reading):
        if not document.text.strip():
            reading.blank.append(printable(name))
            continue
        if name in names:
            raise UnlearnError(
                f"the id {name!r} occurs twice in {reading.path} (again in {where}): give each "
                "document an id of its own, name another column with ids=... (--id), or number "
                "the rows with 'none'."
            )
        names.add(name)
        yield document
        if len(names) == limit:
            break
    reading.documents = len(names)
    reading.tell()
    if not names:
        raise UnlearnError(
            f"{reading.path} holds no documents: give a file or folder with some text."
        )


def _named_texts(
    path: str | Path, named: Named, reading: _Reading
) -> Iterator[tuple[str, str, Document]]:
    """(where it stands, id, document) of each text that a path leads to, also of empty ones."""
    if is_hub(path):
        stem = str(path).partition("/")[2].partition(":")[0].partition("@")[0]
        for text in hub_texts(str(path), named):
            name = text.name(f"{stem}-{text.row:04d}")
            yield f"row {text.row}", name, Document(name, text.text, prompt=text.prompt)
        return
    path = Path(path)
    status(path)
    rows_before: Counter[str] = Counter()
    for file in _files(path, named, reading.left_out):
        number, stem = 0, PurePath(plain_name(file.inner)).stem
        reading.files += 1
        for text in read_texts(file, named):
            number = text.row
            name = text.name(f"{stem}-{rows_before[stem] + number:04d}")
            _check_name(name, file)
            where = f"row {number} of {shown(PurePath(file.inner.name))}"
            yield where, name, Document(name, text.text, prompt=text.prompt)
        rows_before[stem] += number


def _check_name(name: str, file: Entry) -> None:
    """Refuse the name of a file that is no text, of which a document would get its own."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnlearnError(
            f"the name of {file} is not valid Unicode (character {error.start}): rename it."
        ) from error


def user_domain(
    forget: str | Path,
    retain: str | Path | None = None,
    approximate: str | Path | None = None,
    general_retain: str | Path | None = None,
    general_evaluation: str | Path | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    **named: Unpack[Named],
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
    check_column(given.values(), **named)
    shared_general = "general_retain" in given and "general_evaluation" not in given
    splits: dict[str, Any] = {
        split: read_documents(
            path,
            **named,
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
        extra={s: str(p) if is_hub(p) else Path(p).name for s, p in given.items()},
        **{split: documents[: limits.get(split)] for split, documents in splits.items()},
    )


def check_column(paths: Iterable[str | Path], **named: Unpack[Named]) -> None:
    """Whether there is a file that could have a column, where one is named.

    Raises:
        UnlearnError: a column of texts, of prompts or of ids is named, and no file has rows.
    """
    options = (("column", "--column"), ("prompt_column", "--prompt-column"), ("ids", "--id"))
    asked = [(str(named.get(name)), f"{name}=... ({flag})") for name, flag in options
             if named.get(name) not in (None, NO_IDS)]  # fmt: skip
    if not asked or any(map(_may_have_rows, paths)):
        return
    column, option = asked[0]
    raise UnlearnError(
        f"the column {column!r} is named, and no file is {' or '.join(ROWS)}: leave out {option}, "
        "or give files with rows."
    )


def _may_have_rows(path: str | Path) -> bool:
    if is_hub(path):
        return True
    found = Path(path).rglob("*") if Path(path).is_dir() else (Path(path),)
    return any(kind(file) in (*ROWS, ".zip") for file in found)


def _files(path: Path, named: Named, left_out: list[str]) -> Iterator[Entry]:
    """The files to read under `path`: itself, or what a folder or a .zip holds, in their order.

    What is left out is added to `left_out`, with the reason.
    """
    if path.is_dir():
        found = _walk(path, left_out)
        entries = [(name, Entry(path / name)) for name in found]
        for entry in _chosen(entries, named, _saved_tables(path, found), left_out):
            if kind(entry.inner) == ".zip":
                yield from _of_zip(entry.path, named, left_out)
            else:
                yield entry
        return
    remedy = UNREAD.get(kind(path))
    size = check_regular(path)
    if remedy is not None:
        raise UnlearnError(f"{shown(path)} is a {kind(path)} file, which is not read: {remedy}.")
    if size == 0:
        raise UnlearnError(f"{shown(path)} is empty: give a file with some text.")
    if kind(path) == ".zip":
        yield from _of_zip(path, named, left_out)
    else:
        yield Entry(path)


def _of_zip(path: Path, named: Named, left_out: list[str]) -> Iterator[Entry]:
    """The files to read in a .zip."""
    with unzipped(path) as entries:
        inside = []
        for entry in entries:
            name, parts = f"{path.name}/{entry.member}", entry.inner.parts
            if any(p == "__MACOSX" or (p.startswith(".") and p != "..") for p in parts):
                left_out.append(f"{printable(name)} (hidden)")
            elif kind(entry.inner) == ".zip":
                left_out.append(f"{printable(name)} (unpack it)")
            else:
                inside.append((name, entry))
        yield from _chosen(inside, named, {}, left_out)


def _chosen(
    entries: Sequence[tuple[str, Entry]],
    named: Named,
    saved: Mapping[Path, set[str]],
    left_out: list[str],
) -> Iterator[Entry]:
    """Of (name, file) those that are read; what is not is added to `left_out`."""
    tables = any(kind(e.inner) in ROWS and kind(e.inner) != JSON for _, e in entries)
    for name, entry in entries:
        reason = _reason(entry, named, tables, saved)
        if reason is None:
            yield entry
        else:
            left_out.append(f"{printable(name)} ({reason})")


def _walk(path: Path, left_out: list[str]) -> list[str]:
    """All files below a folder that are not hidden, as strings with forward slashes, sorted.

    The order is the same on every platform. Links to folders are not followed.
    """

    def refuse(error: OSError) -> None:
        raise UnlearnError(
            f"{printable(str(error.filename))} cannot be read ({error.strerror}): check its "
            "permissions, or take it out of the folder."
        ) from error

    found: list[str] = []
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


def _reason(entry: Entry, named: Named, tables: bool, saved: Mapping[Path, set[str]]) -> str | None:
    """Why a file of a folder is left out; None for one that is read."""
    size, file, ending = size_of(entry), entry.inner, kind(entry.inner)
    plain = plain_name(file).lower()
    if tables and (plain in _BOOKS or plain.partition(".")[0] in _ABOUT):
        return "about the tables beside it"
    if ending in UNREAD:
        return UNREAD[ending]
    if ending == ".arrow" and file.name not in saved.get(entry.path.parent, {file.name}):
        return "no part of the saved data set"
    if size == 0:
        return "empty"
    if ending == JSON and not has_rows(entry, named):
        return "no JSON of rows with texts"
    return "not text" if ending != ".zip" and is_binary(entry) else None
