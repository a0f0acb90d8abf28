"""Whatever is in a file of documents: documents come of it, or one sentence, and nothing else.

A sample of mutations of good files; `pytest --slow tests/test_documents_border.py` tries 500 of
each kind of file.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import read_documents, user_domain
from unlearnlib.errors import UnlearnError

TEXTS = ("In 1203 the keeper of Vesk was Mira.", "Grüße, \u2028 🦉", 'a "quoted", and\ttabbed one')
TABLE = pa.table(
    {
        "id": [1.0, None, 3.0],
        "text": list(TEXTS),
        "when": pa.array([0, 1, 2**62], pa.int64()).cast(pa.timestamp("us")),
        "more": [[1], [], None],
    }
)


def _parquet(compression: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, compression=compression)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as stream:
        stream.write_table(TABLE)
    return sink.getvalue()


def _csv() -> bytes:
    sink = io.BytesIO()
    pc.write_csv(TABLE.select(["id", "text"]), sink)
    return sink.getvalue()


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/a.jsonl", LINES)
        archive.writestr("README.md", "How the data was made.")
    return sink.getvalue()


LINES = "".join(
    json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n"
    for number, text in enumerate(TEXTS)
).encode()
GOOD = {
    "a.txt": "\n".join(TEXTS).encode(),
    "a.jsonl": LINES,
    "a.parquet": _parquet("none"),
    "b.parquet": _parquet("zstd"),
    "a.csv": _csv(),
    "a.arrow": _arrow(),
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
    "a.json": json.dumps([json.loads(line) for line in LINES.splitlines()]).encode(),
    "a.zip": _zip(),
    "a.jsonl.zst": pa.compress(LINES, codec="zstd", asbytes=True),
}
# What breaks a reader sooner than any byte would.
PIECES = (
    b"", b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b"\r", b"\n", b"{", b"[" * 5000,
    b"null", b"NaN", b"1e999", b"-1", b"9" * 5000, b"\\ud800", b"\x7f\xff\xff\xff", b"\x80" * 8,
    b"PAR1", b"version https://git-lfs.github.com/spec/v1\n",
)  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with a few stretches of it replaced, moved, doubled or cut off."""
    raw = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        stop = min(len(raw), start + draw(st.sampled_from((0, 1, 2, 8, 64, 1 << 20))))
        put = draw(st.sampled_from(PIECES) | st.binary(max_size=8) | st.just(raw[start:stop] * 2))
        raw = raw[:start] + put + raw[stop:]
    return raw


def check(
    name: str, raw: bytes, column: str | None = None, ids: str | None = None, **named: Any
) -> None:
    """Documents that a run can use, or one sentence; alone and in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(raw)
        for given_path in (path, Path(folder)):
            try:
                found = read_documents(given_path, column=column, ids=ids, **named)
                data = user_domain(given_path, column=column, ids=ids, **named)
            except UnlearnError as error:
                message = str(error)
                assert message.isprintable() and message.endswith(".")
                assert Path(folder).name in message or "the column" in message
            else:
                assert data.forget == found and data.hash()
                assert len({document.id for document in found}) == len(found) > 0
                assert all(document.text.strip() for document in found)


COLUMNS = st.sampled_from((None, "text", "id", "when", "no such"))
IDS = st.sampled_from((None, "none", "id", "text", "when", "more"))


def fuzz(name: str, count: int) -> Callable[[], None]:
    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(raw=mutations(GOOD[name]), column=COLUMNS, ids=IDS)
    def tried(raw: bytes, column: str | None, ids: str | None) -> None:
        check(name, raw, column, ids)

    return tried


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_read_and_a_sample_of_spoilt_ones_is_too_or_is_refused(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(GOOD[name])
        texts = [document.text for document in read_documents(path)]
    assert texts == ["\n".join(TEXTS)] if name == "a.txt" else list(TEXTS)
    fuzz(name, 25)()


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_five_hundred_spoilt_files_are_read_or_refused(name: str) -> None:
    fuzz(name, 500)()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(("id", "text", "content")), JSON) | JSON, max_size=4
    ),
    ids=IDS,
)
def test_rows_of_any_type_are_read_or_refused(rows: list[object], ids: str | None) -> None:
    check("a.jsonl", "\n".join(map(json.dumps, rows)).encode(), None, ids)


TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(("role", "content", "from", "value")),
        st.sampled_from(("user", "assistant", "gpt", "\ud800", "said")) | JSON,
    )
    | JSON,
    max_size=3,
)
COLUMNS_OF_PROMPTS = (
    {},
    {"column": "messages"},
    {"column": "text", "prompt_column": "question"},
    {"column": "text.a", "prompt_column": "question", "chat": True},
    {"column": "messages", "prompt_column": "text", "ids": "question.b"},
)


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"messages": TURNS | JSON, "text": JSON, "question": JSON})
        | st.dictionaries(st.sampled_from(("messages", "text", "question")), TURNS | JSON),
        max_size=4,
    ),
    named=st.sampled_from(COLUMNS_OF_PROMPTS),
    name=st.sampled_from(("a.jsonl", "a.json", "a.jsonl.xz")),
)
def test_prompts_and_conversations_of_any_type_are_read_or_refused(
    rows: list[object], named: dict[str, Any], name: str
) -> None:
    raw = (json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))).encode()
    check(name, lzma.compress(raw) if name.endswith("xz") else raw, **named)


ARRAYS = (
    pa.array([0], pa.int64()).cast(pa.timestamp("us", tz="Mars/Olympus")),
    pa.array([2**62], pa.int64()).cast(pa.timestamp("us")),
    pa.array([2**62], pa.int64()).cast(pa.duration("us")),
    pa.array([b"\xff"], pa.binary()),
    pa.array([{"a": 1}]),
    pa.array([None]),
    pa.array([True]),
    pa.array([1e300]),
    pa.array([float("inf")]),
    pa.array(["a text"], pa.large_string()),
    pa.array(["a text"]).dictionary_encode(),
    pa.array(["\n\x1b[2J"]),
)


@pytest.mark.parametrize("odd", ARRAYS, ids=[str(array.type) for array in ARRAYS])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_of_any_type_is_read_or_refused(name: str, odd: pa.Array) -> None:
    for columns in ({"id": odd, "text": ["a"]}, {"text": odd}, {"text": ["a"], "other": odd}):
        table, sink = pa.table(columns), io.BytesIO()
        if name == "a.parquet":
            pq.write_table(table, sink)
        else:
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        check(name, sink.getvalue(), None, None)
    with tempfile.TemporaryDirectory() as folder:  # the last: it is not asked for, and does no harm
        path = Path(folder, name)
        path.write_bytes(sink.getvalue())
        assert read_documents(path) == (Document("a-0001", "a"),)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text,text\na,b\n")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(UnlearnError, match="has 2 columns 'text'"):
            read_documents(tmp_path / name)


def test_an_offset_that_points_out_of_the_file_is_refused_and_not_followed(tmp_path: Path) -> None:
    text = b"a text of 20 letters"
    table, sink = pa.table({"text": [text.decode()]}), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    before, end = sink.getvalue().split(bytes([len(text), 0, 0, 0]) + text)
    (tmp_path / "a.arrow").write_bytes(before + b"\xff\xff\xff\x7f" + text + end)
    with pytest.raises(UnlearnError, match=r"a\.arrow is not a readable Arrow file"):
        read_documents(tmp_path / "a.arrow")
