"""The public texts: each is the piece of a pinned commit that the lock says, or it is refused."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnlib.corpus.documents import SPLITS
from unlearnlib.corpus.public import (
    DOMAINS,
    FOLDER_VARIABLE,
    LOCK_VARIABLE,
    LockRow,
    check_text,
    extract,
    fetch,
    load_public,
    lock_path,
    read_lock,
)
from unlearnlib.errors import UnlearnError

REAL_FOLDER = os.environ.get(FOLDER_VARIABLE)

NOTES = "Préface 🦉\r\n\r\nFirst note, with an owl.\r\n\r\nSecond note.\n"
NOVEL = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0">
  <teiHeader><p>Not of the text.</p></teiHeader>
  <text><body>
    <div><head>Chapter the First</head>
      <p>The  ferry was <hi>late</hi>,
         as it was<!-- always --> on Thursdays &amp; feast days.</p>
      <p> </p>
      <p>Nobody minded: <q>not even the goat</q>.</p>
    </div>
    <div><p>The goat minded a little.</p><p>It rained on Thörnwick.</p></div>
  </body><body><p>A second body.</p></body></text>
</TEI>
"""
PASSAGES = {
    (0, 2): "The ferry was late, as it was on Thursdays & feast days.\n\n"
    "Nobody minded: not even the goat.",
    (3, 3): "The goat minded a little.",
    (3, 4): "The goat minded a little.\n\nIt rained on Thörnwick.",
}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv(LOCK_VARIABLE, raising=False)


def locked(name: str, text: str, **place: object) -> LockRow:
    """A row for `text`; `place` says where it is."""
    domain, split, _ = name.split("-")
    row = LockRow(
        id=name,
        domain=domain,
        split=split,
        repo="someone/notes",
        commit="0" * 40,
        path="notes.txt",
        start=0,
        end=len(text),
        unit="char",
        chars=len(text),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return replace(row, **place)  # type: ignore[arg-type]


def write_lock(path: Path, rows: list[LockRow]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(LockRow))
        writer.writerows(astuple(row) for row in rows)
    return path


def write_split(folder: Path, domain: str, split: str, texts: dict[str, str]) -> None:
    (folder / domain).mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, folder / domain / f"{split}.parquet")


def sentence(call: Callable[[], object]) -> str:
    """The one sentence with which `call` fails."""
    with pytest.raises(UnlearnError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# ---------------------------------------------------------------- the lock that comes with us


def test_the_lock_of_the_repository_lists_every_document_once() -> None:
    rows = read_lock(lock_path())
    sizes = Counter((row.domain, row.split) for row in rows)
    assert sizes == {
        **{(domain, "forget"): 256 for domain in ("books", "latex")},
        **{(domain, "retain"): 1024 for domain in ("books", "latex")},
        **{(domain, "approximate"): 256 for domain in ("books", "latex")},
        ("code", "forget"): 187,
        ("code", "retain"): 748,
        ("code", "approximate"): 187,
        ("general", "retain"): 512,
        ("general", "evaluation"): 256,
    }
    assert len({row.sha256 for row in rows}) == len(rows)


def test_the_lock_of_the_repository_pins_one_commit_per_public_repository() -> None:
    pins = {(row.repo, row.commit) for row in read_lock(lock_path())}
    assert len(pins) == len({repo for repo, _ in pins}) == 12


def test_every_domain_has_its_own_place_in_the_lock() -> None:
    domains = {row.domain for row in read_lock(lock_path())}
    assert set(DOMAINS.values()) | {"general"} == domains


# ---------------------------------------------------------------- reading a folder


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of five texts and its lock."""
    texts = {
        "books-forget-0001": "To be forgotten.",
        "books-forget-0002": "Also to be forgotten: 🦉\r\n",
        "books-retain-0001": "To be kept.",
        "books-approximate-0001": "Never seen.",
        "general-evaluation-0001": "Something else.",
    }
    folder = tmp_path / "texts"
    for name in texts:
        domain, split, _ = name.split("-")
        same = {other: texts[other] for other in texts if other.startswith(f"{domain}-{split}-")}
        write_split(folder, domain, split, same)
    lock = write_lock(tmp_path / "lock.csv", [locked(*item) for item in texts.items()])
    return folder, lock


def test_the_splits_are_read_in_the_order_of_the_lock(small: tuple[Path, Path]) -> None:
    folder, lock = small
    rows = list(read_lock(lock))
    write_lock(lock, rows[::-1])
    data = load_public("books", folder, lock=lock)
    assert data.domain == "books"
    assert [(document.id, document.text) for document in data.forget] == [
        ("books-forget-0002", "Also to be forgotten: 🦉\r\n"),
        ("books-forget-0001", "To be forgotten."),
    ]
    assert [len(data.split(split)) for split in SPLITS] == [2, 1, 1, 0, 1]


def test_folder_and_lock_can_come_from_the_environment(
    small: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock = small
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv(LOCK_VARIABLE, str(lock))
    assert load_public("books") == load_public("books", folder, lock=lock)


def test_where_the_texts_lie_is_no_part_of_the_data(small: tuple[Path, Path]) -> None:
    folder, lock = small
    before = load_public("books", folder, lock=lock)
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    assert load_public("books", elsewhere, lock=lock) == before


def test_a_changed_text_is_refused_by_id(small: tuple[Path, Path]) -> None:
    folder, lock = small
    texts = {"books-forget-0001": "To be forgotten.", "books-forget-0002": "Changed."}
    write_split(folder, "books", "forget", texts)
    message = sentence(lambda: load_public("books", folder, lock=lock))
    assert "'books-forget-0002'" in message and "8 characters" in message


def test_a_text_changed_at_the_same_length_is_refused_by_id(small: tuple[Path, Path]) -> None:
    folder, lock = small
    write_split(folder, "books", "retain", {"books-retain-0001": "To be kepT."})
    assert "books-retain-0001" in sentence(lambda: load_public("books", folder, lock=lock))


def test_only_the_texts_taken_are_checked(small: tuple[Path, Path]) -> None:
    folder, lock = small
    texts = {"books-forget-0001": "To be forgotten.", "books-forget-0002": "Changed."}
    write_split(folder, "books", "forget", texts)
    data = load_public("books", folder, lock=lock, limits={"forget": 1})
    assert [document.id for document in data.forget] == ["books-forget-0001"]


def test_checking_can_be_turned_off(small: tuple[Path, Path]) -> None:
    folder, lock = small
    write_split(folder, "books", "retain", {"books-retain-0001": "Changed."})
    data = load_public("books", folder, lock=lock, check=False)
    assert data.retain[0].text == "Changed."


def test_a_missing_text_is_named(small: tuple[Path, Path]) -> None:
    folder, lock = small
    write_split(folder, "books", "forget", {"books-forget-0001": "To be forgotten."})
    assert "'books-forget-0002'" in sentence(lambda: load_public("books", folder, lock=lock))


def test_a_missing_file_is_named_with_its_first_document(small: tuple[Path, Path]) -> None:
    folder, lock = small
    (folder / "books" / "approximate.parquet").unlink()
    message = sentence(lambda: load_public("books", folder, lock=lock))
    assert "approximate.parquet" in message and "'books-approximate-0001'" in message


@pytest.mark.parametrize("content", [b"", b"PAR1 no"])
def test_a_corrupt_file_is_named(small: tuple[Path, Path], content: bytes) -> None:
    folder, lock = small
    (folder / "books" / "retain.parquet").write_bytes(content)
    assert "retain.parquet" in sentence(lambda: load_public("books", folder, lock=lock))


def test_a_file_without_the_columns_is_named(small: tuple[Path, Path]) -> None:
    folder, lock = small
    pq.write_table(pa.table({"words": ["a"]}), folder / "books" / "retain.parquet")
    assert "id and text" in sentence(lambda: load_public("books", folder, lock=lock))


def test_an_unknown_domain_lists_the_known_ones(small: tuple[Path, Path]) -> None:
    folder, lock = small
    message = sentence(lambda: load_public("book", folder, lock=lock))
    assert "choose one of books, " in message


def test_a_lock_without_the_domain_is_refused(small: tuple[Path, Path]) -> None:
    folder, lock = small
    assert "'arxiv'" in sentence(lambda: load_public("arxiv", folder, lock=lock))


def test_without_a_folder_the_remedy_is_named() -> None:
    message = sentence(lambda: load_public("books"))
    assert FOLDER_VARIABLE in message and "fetch" in message


# ---------------------------------------------------------------- a lock that is none


def test_a_missing_lock_is_named(tmp_path: Path) -> None:
    assert LOCK_VARIABLE in sentence(lambda: lock_path(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commit", "main"),
        ("commit", "--upload-pack=x"),
        ("repo", "../../etc"),
        ("domain", "../books"),
        ("split", "a/b"),
        ("start", "-1"),
        ("end", "1.5"),
        ("unit", "line"),
        ("sha256", "abc"),
        ("path", ""),
    ],
)
def test_a_field_that_is_not_of_its_kind_is_refused_with_its_line(
    tmp_path: Path, field: str, value: str
) -> None:
    good = locked("books-forget-0001", "text")
    bad = replace(good, id="books-forget-0002", **{field: value})  # type: ignore[arg-type]
    lock = write_lock(tmp_path / "lock.csv", [good, bad])
    message = sentence(lambda: read_lock(lock))
    assert "line 3" in message and field in message and repr(value) in message


def test_an_id_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    row = locked("books-forget-0001", "text")
    lock = write_lock(tmp_path / "lock.csv", [row, row])
    assert "'books-forget-0001' twice" in sentence(lambda: read_lock(lock))


@pytest.mark.parametrize("content", [b"", b"id,text\na,b\n", b"\xff\xfe"])
def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock.csv").write_bytes(content)
    assert "lock.csv" in sentence(lambda: read_lock(tmp_path / "lock.csv"))


# ---------------------------------------------------------------- extraction


def test_characters_are_code_points_and_newlines_are_kept() -> None:
    row = locked("general-retain-0001", "🦉\r\n", start=8, end=11)
    assert extract(NOTES.encode(), [row]) == ["🦉\r\n"]


def test_paragraphs_are_counted_below_the_first_body_and_empty_ones_drop_out() -> None:
    rows = [
        locked("books-forget-0001", text, start=start, end=end, unit="paragraph")
        for (start, end), text in PASSAGES.items()
    ]
    assert extract(NOVEL.encode(), rows) == list(PASSAGES.values())


@pytest.mark.parametrize(("unit", "raw"), [("char", b"\xff"), ("paragraph", b"<TEI>")])
def test_a_file_that_cannot_be_read_is_named(unit: str, raw: bytes) -> None:
    row = locked("books-forget-0001", "text", unit=unit)
    message = sentence(lambda: extract(raw, [row]))
    assert "notes.txt of someone/notes" in message and "'books-forget-0001'" in message


def test_half_a_surrogate_pair_never_passes_the_check() -> None:
    row = locked("books-forget-0001", "?")
    check_text(row, "?")
    # "?" is what a lenient encoder would put in its place.
    assert "books-forget-0001" in sentence(lambda: check_text(row, "\ud83e"))


# ---------------------------------------------------------------- fetching with git


def git(folder: Path, *arguments: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity},
    )
    return result.stdout.strip()


def commit(folder: Path, files: dict[str, str]) -> str:
    """A repository at `folder` with one more commit; returns its id."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    # What public hosts allow: partial clones, and asking for single objects.
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    git(folder, "-c", "core.autocrlf=false", "add", "--all")
    git(folder, "commit", "--quiet", "--message", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def remote(tmp_path: Path) -> tuple[str, Path, dict[str, str]]:
    """Two local repositories (as a base address), their lock, and the texts it lists by id."""
    base = tmp_path / "remotes"
    notes = commit(
        base / "someone" / "notes",
        {"doc/notes à.txt": NOTES, "big.bin": "unneeded " * 1000},
    )
    novel = commit(base / "library" / "novels", {"level1/goat.xml": NOVEL})
    # The pinned commits are not the newest ones.
    commit(base / "someone" / "notes", {"doc/notes à.txt": "Rewritten."})
    commit(base / "library" / "novels", {"level1/goat.xml": "<TEI/>"})
    texts, rows = {}, []
    for split, ((start, end), text) in zip(
        ("forget", "retain", "approximate"), PASSAGES.items(), strict=True
    ):
        place = {"path": "level1/goat.xml", "start": start, "end": end, "unit": "paragraph"}
        name = f"books-{split}-0001"
        texts[name] = text
        rows.append(locked(name, text, repo="library/novels", commit=novel, **place))
    for split, start, end in (("retain", 0, 13), ("evaluation", 13, 37)):
        name, text = f"general-{split}-0001", NOTES[start:end]
        texts[name] = text
        place = {"path": "doc/notes à.txt", "start": start, "end": end}
        rows.append(locked(name, text, commit=notes, **place))
    return base.as_uri(), write_lock(tmp_path / "lock.csv", rows), texts


def test_fetched_texts_are_the_ones_of_the_lock(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, texts = remote
    folder = tmp_path / "texts"
    files = fetch(folder, "books", base_url=base_url, lock=lock, progress=False)
    assert sorted(file.relative_to(folder).as_posix() for file in files) == [
        "books/approximate.parquet",
        "books/forget.parquet",
        "books/retain.parquet",
        "general/evaluation.parquet",
        "general/retain.parquet",
    ]
    data = load_public("books", folder, lock=lock)
    found = {document.id: document.text for split in SPLITS for document in data.split(split)}
    assert found == texts
    assert not list(folder.glob("**/*.tmp"))


def test_only_the_files_asked_for_are_downloaded(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    cache = tmp_path / "cache"
    fetch(tmp_path / "texts", "books", cache=cache, base_url=base_url, lock=lock, progress=False)
    clone = cache / "someone__notes"
    pinned = next(row.commit for row in read_lock(lock) if row.repo == "someone/notes")
    listing = git(clone, "rev-list", "--objects", "--missing=print", "--no-walk", pinned)
    objects = git(clone, "ls-tree", "-r", pinned).splitlines()
    unneeded = next(line.split()[2] for line in objects if line.endswith("big.bin"))
    needed = next(line.split()[2] for line in objects if not line.endswith("big.bin"))
    missing = [line for line in listing.splitlines() if line.startswith("?")]
    assert missing == [f"?{unneeded}"] and needed in listing


def test_a_server_without_partial_clones_serves_as_well(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    for repo in (tmp_path / "remotes").glob("*/*"):
        git(repo, "config", "uploadpack.allowFilter", "false")
    fetch(tmp_path / "texts", "books", base_url=base_url, lock=lock, progress=False)
    assert load_public("books", tmp_path / "texts", lock=lock).forget


def test_what_was_fetched_is_not_fetched_again_and_what_is_damaged_is(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    folder = tmp_path / "texts"

    def again() -> dict[str, int]:
        files = fetch(folder, "books", base_url=base_url, lock=lock, progress=False)
        return {file.parent.name + "/" + file.stem: file.stat().st_ino for file in files}

    before = again()
    assert again() == before
    damaged = folder / "books" / "retain.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    load_after = again()
    assert {name for name in before if load_after[name] != before[name]} == {"books/retain"}
    assert load_public("books", folder, lock=lock).retain


def test_the_cache_serves_without_the_repositories(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    cache = tmp_path / "cache"
    fetch(tmp_path / "one", "books", cache=cache, base_url=base_url, lock=lock, progress=False)
    (tmp_path / "remotes").rename(tmp_path / "gone")
    fetch(tmp_path / "two", "books", cache=cache, base_url=base_url, lock=lock, progress=False)
    assert load_public("books", tmp_path / "two", lock=lock).forget


def test_a_text_that_is_not_the_one_of_the_lock_is_never_written(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    rows = [
        replace(row, sha256="0" * 64) if row.id == "books-retain-0001" else row
        for row in read_lock(lock)
    ]
    write_lock(lock, rows)
    folder = tmp_path / "texts"
    message = sentence(lambda: fetch(folder, base_url=base_url, lock=lock, progress=False))
    assert "'books-retain-0001'" in message
    assert not list(folder.rglob("*.parquet"))


def test_a_file_that_the_commit_has_not_is_named(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    base_url, lock, _ = remote
    write_lock(lock, [replace(row, path="no.txt") for row in read_lock(lock)])
    message = sentence(
        lambda: fetch(tmp_path / "texts", base_url=base_url, lock=lock, progress=False)
    )
    assert "no.txt is not in" in message


def test_an_unreachable_repository_is_one_sentence(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    _, lock, _ = remote
    nowhere = (tmp_path / "nowhere").as_uri()
    message = sentence(
        lambda: fetch(tmp_path / "texts", base_url=nowhere, lock=lock, progress=False)
    )
    assert nowhere in message and FOLDER_VARIABLE in message


def test_without_git_the_remedy_is_named(
    remote: tuple[str, Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_url, lock, _ = remote
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
    message = sentence(
        lambda: fetch(tmp_path / "texts", base_url=base_url, lock=lock, progress=False)
    )
    assert "needs git" in message


def test_an_unknown_domain_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    assert "unknown domain" in sentence(lambda: fetch(tmp_path, "latex", progress=False))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the real texts


@pytest.mark.skipif(REAL_FOLDER is None, reason=f"needs the public texts: set {FOLDER_VARIABLE}")
@pytest.mark.parametrize("domain", DOMAINS)
def test_every_public_text_is_the_one_of_the_lock(domain: str) -> None:
    assert REAL_FOLDER is not None
    data = load_public(domain, REAL_FOLDER)
    assert len(data.retain) == 4 * len(data.forget) == 4 * len(data.approximate)
    assert (len(data.general_retain), len(data.general_evaluation)) == (512, 256)


@pytest.mark.network
def test_public_texts_come_from_their_repository(tmp_path: Path) -> None:
    rows = [row for row in read_lock(lock_path()) if row.repo == "pallets/werkzeug"]
    lock = write_lock(tmp_path / "lock.csv", rows)
    fetch(tmp_path / "texts", "github", lock=lock, progress=False)
    data = load_public("github", tmp_path / "texts", lock=lock)
    assert (len(data.forget), len(data.retain), len(data.approximate)) == (10, 40, 10)
