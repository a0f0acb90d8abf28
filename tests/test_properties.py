"""Whatever the bytes: what is read back is what was written, or it is refused in a sentence."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from helpers import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnlib.corpus.chunks import MINIMUM_TOKENS, cut
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import read_documents
from unlearnlib.errors import UnlearnError
from unlearnlib.store import Record, Store, read_parquet, write_parquet

ROOT = Path(__file__).resolve().parent.parent
RECORDS = sorted(synthetic.main_study()[:3], key=lambda r: r.key)
# What happens to a file: bytes replaced, cut off, or put in between.
HARM = st.tuples(
    st.sampled_from(["replace", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1)
)


def harmed(raw: bytes, harm: tuple[str, float, bytes]) -> bytes:
    kind, where, new = harm
    at = int(where * (len(raw) - 1))
    if kind == "cut":
        return raw[:at]
    return raw[:at] + new + raw[at + (len(new) if kind == "replace" else 0) :]


def check_harmed_record(harm: tuple[str, float, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.put(RECORDS[0])
        (file,) = (Path(folder) / "records").glob("*/*.json")
        file.write_bytes(harmed(file.read_bytes(), harm))
        try:
            assert store.get(RECORDS[0].key) == RECORDS[0]
        except UnlearnError as error:
            assert "\n" not in str(error)
            assert store.put(RECORDS[0])  # and it can be computed and filed again
        assert [r for r in store.records()] == [RECORDS[0]]


@settings(max_examples=60, deadline=None)
@given(HARM)
def test_a_harmed_record_is_never_taken_for_another(harm: tuple[str, float, bytes]) -> None:
    check_harmed_record(harm)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(HARM)
def test_500_harmed_records_are_never_taken_for_another(harm: tuple[str, float, bytes]) -> None:
    check_harmed_record(harm)


# What somebody may write into a record, with the digest that fits.
HOSTILE = st.sampled_from(
    [None, True, -1, 10**400, 1e308, "", "\ud800", "\n\x1b[2J", "NaN", "x" * 9999, [], {}, [[]],
     {"": {}}]
)  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value, but for long lists to their first elements."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for name, part in inner:
        yield (*above, name)
        if isinstance(part, dict | list):
            yield from places(part, (*above, name))


BODY = RECORDS[0].to_json()
PLACES = sorted(places(BODY), key=str)


def check_rewritten_record(way: tuple[Any, ...], value: Any, kind: str) -> None:
    """A record whose content was changed is read as it is or refused; nothing else happens."""
    body = copy.deepcopy(BODY)
    *above, last = way
    part = functools.reduce(lambda inner, name: inner[name], above, body)
    if kind == "delete":
        del part[last]
    else:
        part[last] = value
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    key = RECORDS[0].key
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.put(RECORDS[1])
        file = Path(folder) / "records" / key[:2] / f"{key}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'{{"digest":"{digest}","format":1,"record":{text}}}', encoding="ascii")
        rewritten = file.read_bytes()
        try:
            record = store.get(key)
        except UnlearnError as error:
            assert "\n" not in str(error) and "\x1b" not in str(error)
            assert not file.exists() and list((Path(folder) / "set_aside").iterdir())
            assert [r.key for r in store.records()] == [RECORDS[1].key]
            return
        assert record.key == key and file.read_bytes() == rewritten
        write_parquet([record], Path(folder) / "x.parquet")
        assert [r.comparable() for r in read_parquet(Path(folder) / "x.parquet")] == [
            record.comparable()
        ]


REWRITTEN = given(
    st.sampled_from(PLACES), HOSTILE, st.sampled_from(["replace", "replace", "delete"])
)


@settings(max_examples=60, deadline=None)
@REWRITTEN
def test_a_rewritten_record_is_read_as_it_is_or_set_aside(
    way: tuple[Any, ...], value: Any, kind: str
) -> None:
    check_rewritten_record(way, value, kind)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@REWRITTEN
def test_500_rewritten_records_are_read_as_they_are_or_set_aside(
    way: tuple[Any, ...], value: Any, kind: str
) -> None:
    check_rewritten_record(way, value, kind)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("published") / "x.parquet"
    write_parquet(RECORDS, path)
    return path.read_bytes()


def check_harmed_file(published: bytes, harm: tuple[str, float, bytes]) -> None:
    found: list[Record]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        path.write_bytes(harmed(published, harm))
        try:
            found = read_parquet(path)
        except UnlearnError as error:
            assert "\n" not in str(error)
        else:
            assert found == RECORDS  # the harm was to bytes that mean nothing


@settings(max_examples=60, deadline=None)
@given(harm=HARM)
def test_harmed_published_records_are_refused(
    published: bytes, harm: tuple[str, float, bytes]
) -> None:
    check_harmed_file(published, harm)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(harm=HARM)
def test_500_harmed_files_of_published_records_are_refused(
    published: bytes, harm: tuple[str, float, bytes]
) -> None:
    check_harmed_file(published, harm)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["x.jsonl", "x.txt", "x.parquet", "x.md"]))
def test_any_file_of_a_user_is_read_or_refused(raw: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            documents = read_documents(path)
        except UnlearnError as error:
            assert "\n" not in str(error)
        else:
            assert all(document.text for document in documents)
            if name.endswith((".txt", ".md")):
                assert [d.text.encode() for d in documents] == [raw]


AWKWARD = ["🜁" * 40, "\0" * 30, "a\r\nb\r\n" * 9, "שלום עולם " * 9, "x", "a" * 1_000_000]


@pytest.mark.parametrize("text", AWKWARD, ids=["emoji", "NUL", "CRLF", "rtl", "one", "megabyte"])
def test_awkward_texts_are_cut_without_loss(text: str) -> None:
    check_cut(text, 64)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=200), st.integers(8, 64))
def test_any_text_is_cut_without_loss(text: str, length: int) -> None:
    check_cut(text, length)


def check_cut(text: str, length: int) -> None:
    """Chunks are the tokens in order, and only a last one that is too short may be missing."""
    tokenizer = tiny_tokenizer()
    whole = tokenizer(text)["input_ids"]
    try:
        chunks = cut([Document("d", text)], tokenizer, length)
    except UnlearnError:
        assert len(whole) < MINIMUM_TOKENS
        return
    joined = [t for chunk in chunks for t in chunk.tokens]
    assert joined == whole[: len(joined)] and len(whole) - len(joined) < MINIMUM_TOKENS
    assert all(MINIMUM_TOKENS <= len(chunk.tokens) <= length for chunk in chunks)
    if len(joined) == len(whole):
        assert tokenizer.decode(joined, skip_special_tokens=True) == text


# --- nothing that comes with a file is executed --------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "unlearnlib").rglob("*.py")), ids=lambda p: p.stem)
def test_the_package_neither_unpickles_nor_evaluates(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None) or "", *(a.name for a in node.names)}
            assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.match(r"Auto\w+\.from_", called):  # asked on the terminal, where it is not given
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}
            assert called not in ("eval", "exec", "torch.load")
            if called == "np.load":
                named = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert named.get("allow_pickle") == "False"
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) == "False"
                if keyword.arg in ("use_safetensors", "safe_serialization"):
                    assert ast.unparse(keyword.value) == "True"
