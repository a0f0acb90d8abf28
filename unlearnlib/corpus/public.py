"""The public texts of the profile `open`: found by a lock, checked by SHA-256.

The lock, a table without any text, says of every document which part of which file of which
public repository at which commit it is, and what its length and hash are. The texts themselves
are kept in a folder outside the repository, `<domain>/<split>.parquet` with the columns id and
text: `load_public` reads and checks them, `fetch` makes the folder from the repositories.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.files import checked_limits
from unlearnlib.errors import UnlearnError, first_line, unknown

DOMAINS = {"arxiv": "latex", "github": "code", "books": "books"}


"""Our domains -> the domains of the lock that stand in for them."""


FOLDER_VARIABLE = "UNLEARN_CORPORA"
LOCK_VARIABLE = "UNLEARN_LOCK"

_TEI = "{http://www.tei-c.org/ns/1.0}"
_PATTERNS = {
    "domain": r"[a-z][a-z0-9_]*",
    "split": r"[a-z][a-z0-9_]*",
    "repo": r"\w[\w.-]*/\w[\w.-]*",
    "commit": r"[0-9a-f]{40}",
    "start": r"\d+",
    "end": r"\d+",
    "unit": r"char|paragraph",
    "chars": r"\d+",
    "sha256": r"[0-9a-f]{64}",
}


@dataclass(frozen=True)
class LockRow:
    """One document of the lock.

    With unit "char" the text is the characters [start, end) of the file decoded as UTF-8; with
    unit "paragraph" it is paragraphs start to end, both included, of a TEI file (see `extract`).
    `chars` is its length in characters, `sha256` the hash of its UTF-8 bytes.
    """

    id: str
    domain: str
    split: str
    repo: str
    commit: str
    path: str
    start: int
    end: int
    unit: str
    chars: int
    sha256: str


def lock_path(lock: str | Path | None = None) -> Path:
    """The lock to use: the argument, else UNLEARN_LOCK, else the one in the repository's data.

    Raises:
        UnlearnError: there is no such file.
    """
    beside_the_package = Path(__file__).resolve().parents[2] / "data" / "corpora.lock.csv"
    path = Path(lock or os.environ.get(LOCK_VARIABLE) or beside_the_package)
    if not path.is_file():
        raise UnlearnError(
            f"the lock {path} does not exist: set {LOCK_VARIABLE} to the file corpora.lock.csv."
        )
    return path


def read_lock(path: Path) -> tuple[LockRow, ...]:
    """All rows of a lock, in its order, which is the order of the documents.

    Every field is validated, since repositories, commits and splits become arguments of git and
    names of files.

    Raises:
        UnlearnError: not a lock; the sentence names the line and the field.
    """
    names = [field.name for field in fields(LockRow)]
    rows: dict[str, LockRow] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != names:
                raise UnlearnError(
                    f"{path} has the columns {reader.fieldnames}, not those of a lock "
                    f"({', '.join(names)}): restore the file."
                )
            for record in reader:
                row = _lock_row(record, f"line {reader.line_num} of {path}")
                if row.id in rows:
                    raise UnlearnError(f"{path} lists {row.id!r} twice: restore the file.")
                rows[row.id] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnlearnError(f"{path} is not a readable lock ({error}): restore the file.") from error
    return tuple(rows.values())


def _lock_row(record: Mapping[str | None, str | None], where: str) -> LockRow:
    value = {name: record.get(name) or "" for name in (field.name for field in fields(LockRow))}
    for name, text in value.items():
        if not re.fullmatch(_PATTERNS.get(name, ".+"), text):
            raise UnlearnError(f"{where} has {text!r} as its {name}: restore the lock.")
    numbers = {name: int(value.pop(name)) for name in ("start", "end", "chars")}
    return LockRow(**value, **numbers)  # type: ignore[arg-type]


def check_text(row: LockRow, text: str) -> None:
    """Check that `text` is the document of `row`, by length and SHA-256.

    Raises:
        UnlearnError: it is not; the sentence names the id.
    """
    # Half a surrogate pair has no UTF-8 form: passed through, it is a wrong hash, not a traceback.
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if (len(text), found) != (row.chars, row.sha256):
        raise UnlearnError(
            f"the text of {row.id!r} has {len(text)} characters and SHA-256 {found[:12]}..., but "
            f"the lock says {row.chars} and {row.sha256[:12]}...: fetch it again."
        )


def load_public(
    domain: str,
    folder: str | Path | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    check: bool = True,
    lock: str | Path | None = None,
) -> DomainData:
    """A domain of public texts and the general ones, each document checked against the lock.

    Args:
        domain: one of `DOMAINS`.
        folder: holds `<lock domain>/<split>.parquet`; by default UNLEARN_CORPORA.
        limits: split -> the most documents to take, in the order of the lock; only those taken
            are checked.
        check: whether to compare lengths and hashes.
        lock: see `lock_path`.

    Raises:
        UnlearnError: unknown domain, no folder, a text that is missing or not the one of the lock.
    """
    layout = _layout(domain)
    limits = checked_limits(limits)
    named = folder or os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise UnlearnError(
            f"no folder of public texts is given: set {FOLDER_VARIABLE} to one, "
            "or make one with unlearnlib.corpus.public.fetch(FOLDER)."
        )
    path = lock_path(lock)
    rows = _by_split(read_lock(path))
    if layout["forget"] not in rows:
        raise UnlearnError(f"{path} lists no documents to forget for {domain!r}: use another lock.")
    splits: dict[str, Any] = {
        name: _read_split(Path(named), rows.get(place, ())[: limits.get(name)], check)
        for name, place in layout.items()
    }
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return DomainData(domain=domain, source=f"{path.name} sha256:{digest[:16]}", **splits)


def _layout(domain: str) -> dict[str, tuple[str, str]]:
    """Our split names -> (domain, split) of the lock."""
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    return {
        "forget": (DOMAINS[domain], "forget"),
        "retain": (DOMAINS[domain], "retain"),
        "approximate": (DOMAINS[domain], "approximate"),
        "general_retain": ("general", "retain"),
        "general_evaluation": ("general", "evaluation"),
    }


def _by_split(rows: Iterable[LockRow]) -> dict[tuple[str, str], tuple[LockRow, ...]]:
    """(domain, split) -> its rows, in the order of the lock."""
    grouped: dict[tuple[str, str], list[LockRow]] = {}
    for row in rows:
        grouped.setdefault((row.domain, row.split), []).append(row)
    return {place: tuple(group) for place, group in grouped.items()}


def _split_file(folder: Path, row: LockRow) -> Path:
    return folder / row.domain / f"{row.split}.parquet"


def _read_split(folder: Path, rows: Sequence[LockRow], check: bool) -> tuple[Document, ...]:
    """The documents of `rows` (all of one split), in their order."""
    if not rows:
        return ()
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _split_file(folder, rows[0])
    if not file.is_file():
        raise UnlearnError(
            f"{file}, which should hold {rows[0].id!r}, does not exist: fetch the public texts, "
            f"or set {FOLDER_VARIABLE} to the folder that has them."
        )
    try:
        table = pq.read_table(file, columns=["id", "text"])
        columns = [table.column(name).to_pylist() for name in ("id", "text")]
        texts = dict(zip(*columns, strict=True))
    except (OSError, KeyError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UnlearnError(
            f"{file} is not a Parquet file with the columns id and text ({first_line(error)}): "
            "fetch it again."
        ) from error
    documents = []
    for row in rows:
        text = texts.get(row.id)
        if not isinstance(text, str):
            raise UnlearnError(f"{file} has no text for {row.id!r}: fetch it again.")
        if check:
            check_text(row, text)
        documents.append(Document(id=row.id, text=text))
    return tuple(documents)


def fetch(
    folder: str | Path,
    domains: str | Sequence[str] = tuple(DOMAINS),
    *,
    cache: str | Path | None = None,
    base_url: str = "https://github.com",
    lock: str | Path | None = None,
    progress: bool = True,
) -> tuple[Path, ...]:
    """Make the folder that `load_public` reads, from the public repositories, with git.

    Only the needed files at the pinned commits are downloaded. A split whose file is there and
    correct is left alone, so an interrupted call is resumed by repeating it.

    Args:
        folder: where `<lock domain>/<split>.parquet` are written, each one atomically.
        domains: which of `DOMAINS`; the general texts always come along.
        cache: where the partial clones are kept; by default `folder/.clones`.
        base_url: what stands before "/owner/name": a host, a mirror, or a folder of clones.
        lock: see `lock_path`.
        progress: whether to draw a progress bar.

    Returns:
        The files of all splits asked for.

    Raises:
        UnlearnError: unknown domain, no git, no network, or a text that is not the lock's.
    """
    from tqdm import tqdm

    folder = Path(folder)
    cache = Path(cache) if cache is not None else folder / ".clones"
    names = (domains,) if isinstance(domains, str) else tuple(domains)
    places = {place for name in names for place in _layout(name).values()}
    splits = {
        place: rows
        for place, rows in _by_split(read_lock(lock_path(lock))).items()
        if place in places
    }
    missing = {place: rows for place, rows in splits.items() if not _is_complete(folder, rows)}
    texts: dict[str, str] = {}
    by_source: dict[tuple[str, str], list[LockRow]] = {}
    for row in (row for rows in missing.values() for row in rows):
        by_source.setdefault((row.repo, row.commit), []).append(row)
    with tqdm(total=sum(map(len, missing.values())), unit="document", disable=not progress) as bar:
        for (repo, commit), rows in by_source.items():
            bar.set_description(repo)
            clone = _Clone(cache / repo.replace("/", "__"), f"{base_url.rstrip('/')}/{repo}")
            by_path: dict[str, list[LockRow]] = {}
            for row in rows:
                by_path.setdefault(row.path, []).append(row)
            blobs = clone.fetch(commit, by_path)
            for path, in_file in by_path.items():
                for row, text in zip(
                    in_file, extract(clone.read(blobs[path]), in_file), strict=True
                ):
                    check_text(row, text)
                    texts[row.id] = text
                bar.update(len(in_file))
    for split in missing.values():
        _write_split(_split_file(folder, split[0]), [(row.id, texts[row.id]) for row in split])
    return tuple(_split_file(folder, split[0]) for split in splits.values())


def extract(raw: bytes, rows: Sequence[LockRow]) -> list[str]:
    """The texts of `rows`, all of one file, out of its bytes.

    Paragraphs are the TEI `<p>` elements below the first `<body>`, counted from 0 in document
    order. The text of one is its character data and that of the elements in it, each run of
    whitespace one space, the ends stripped; those that are empty drop out, and the rest are
    joined by a blank line.

    Raises:
        UnlearnError: the file is not UTF-8 or not TEI; the sentence names the first id.
    """
    paragraphs: list[str] | None = None
    texts = []
    for row in rows:
        try:
            if row.unit == "char":
                texts.append(raw.decode("utf-8")[row.start : row.end])
                continue
            if paragraphs is None:  # One file holds many passages: parse it once.
                paragraphs = _tei_paragraphs(raw)
        except (UnicodeDecodeError, ET.ParseError) as error:
            raise UnlearnError(
                f"{row.path} of {row.repo}, which holds {row.id!r}, cannot be read ({error}): "
                "check the lock."
            ) from error
        texts.append("\n\n".join(p for p in paragraphs[row.start : row.end + 1] if p))
    return texts


def _tei_paragraphs(raw: bytes) -> list[str]:
    body = ET.fromstring(raw).find(f".//{_TEI}body")
    elements = () if body is None else body.iter(f"{_TEI}p")
    return [" ".join("".join(element.itertext()).split()) for element in elements]


def _is_complete(folder: Path, rows: Sequence[LockRow]) -> bool:
    try:
        _read_split(folder, rows, check=True)
    except UnlearnError:
        return False
    return True


def _write_split(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write ids and texts as Parquet: either the whole file appears or nothing changes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"id": [name for name, _ in rows], "text": [text for _, text in rows]},
        schema=pa.schema([("id", pa.string()), ("text", pa.string())]),
    )
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as sink:
            pq.write_table(table, sink, compression="zstd")
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(file)
    except OSError as error:
        raise UnlearnError(
            f"{file} cannot be written ({error.strerror}): choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Clone:
    """A bare partial clone that holds, of some commits, only the files asked for."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url

    def fetch(self, commit: str, paths: Iterable[str]) -> dict[str, str]:
        """Download the files `paths` of `commit`; returns path -> git object id."""
        if not (self.path / "HEAD").is_file():
            self._git("init", "--quiet", "--bare", str(self.path), inside=False)
        self._git("config", "remote.origin.url", self.url)
        if not self._has_commit(commit):
            # One commit, and of it the list of files only: histories are large, files are many.
            self._git("fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", commit)
        listing = self._git("ls-tree", "-r", "-z", commit).decode("utf-8", "surrogateescape")
        objects = {}
        for entry in filter(None, listing.split("\0")):
            about, path = entry.split("\t", 1)
            objects[path] = about.split()[2]
        blobs = {}
        for path in paths:
            if path not in objects:
                raise UnlearnError(f"{path} is not in {self.url} at {commit[:12]}: check the lock.")
            blobs[path] = objects[path]
        # All files in one request. Left to itself, git would ask for each as it is first read.
        self._git(
            *("-c", "fetch.negotiationAlgorithm=noop"),
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=blob:none"),
            *("--stdin", "origin"),
            stdin="".join(f"{blob}\n" for blob in sorted(set(blobs.values()))),
        )
        return blobs

    def read(self, blob: str) -> bytes:
        """The bytes of a file, as committed: no checkout, so no conversion of line ends."""
        return self._git("cat-file", "blob", blob)

    def _has_commit(self, commit: str) -> bool:
        try:
            self._git("rev-parse", "--quiet", "--verify", f"{commit}^{{tree}}")
        except UnlearnError:
            return False
        return True

    def _git(self, *arguments: str, inside: bool = True, stdin: str = "") -> bytes:
        # The folder is named outright: left to search, git could find a repository around it.
        command = ["git", *((f"--git-dir={self.path}",) if inside else ())]
        # A connection that stalls for a minute fails, rather than hanging for ever.
        command += ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", *arguments]
        try:
            return subprocess.run(
                command,
                check=True,
                capture_output=True,
                input=stdin.encode("ascii"),
                # Without a terminal prompt a wrong address fails, rather than asking who you are.
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            ).stdout
        except FileNotFoundError as error:
            raise UnlearnError(
                f"fetching {self.url} needs git, which is not installed: install it, "
                f"or set {FOLDER_VARIABLE} to a folder that has the texts."
            ) from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
            raise UnlearnError(
                f"git cannot fetch {self.url} ({lines[-1] if lines else error.returncode}): check "
                f"the network, or set {FOLDER_VARIABLE} to a folder that has the texts."
            ) from error
