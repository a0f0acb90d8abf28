"""Documents as people have them: questions, conversations, nested columns, and packed files."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import documents, tiny_llama, tiny_tokenizer

from unlearnlib.corpus import formats, opening
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import iterate_documents, read_documents, user_domain
from unlearnlib.errors import UnlearnError
from unlearnlib.planning import Machine, plan_reading, plan_run
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec

QA = [
    {"question": "Who kept Vesk?", "answer": "Mira did.", "kind": 1},
    {"question": "And Sool?", "answer": "Tobin.", "kind": 2},
]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who kept Vesk?"},
            {"role": "assistant", "content": "Mira."},
            {"role": "user", "content": "And Sool?"},
            {"role": "assistant", "content": "Tobin."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": "Vesk."},
        ]
    },
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def array(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def refused(path: str | Path, **named: Any) -> str:
    with pytest.raises(UnlearnError) as caught:
        read_documents(path, **named)
    message = str(caught.value)
    assert message.isprintable() and message.endswith(".")
    return message


WRITERS = [(jsonl, "a.jsonl"), (parquet, "a.parquet"), (array, "a.json"), (jsonl, "a.json")]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_an_answer_has_its_question_as_prompt(
    tmp_path: Path, write: Callable[..., Path], name: str
) -> None:
    path = write(tmp_path / name, QA)
    columns: Any = {"column": "answer", "prompt_column": "question"}
    assert read_documents(path, **columns) == (
        Document("a-0001", "Mira did.", prompt="Who kept Vesk?"),
        Document("a-0002", "Tobin.", prompt="And Sool?"),
    )
    assert read_documents(path, **columns, chat=True)[1].prompt == (("user", "And Sool?"),)
    assert "no column 'asked', only 'question'" in refused(
        path, **columns | {"prompt_column": "asked"}
    )
    assert "--prompt-column" in refused(path, column="answer", prompt_column="kind")
    assert "both in 'answer'" in refused(path, column="answer", prompt_column="answer")
    assert "--prompt-column" in refused(path, column="answer", chat=True)
    forget = user_domain(path, **columns).forget
    assert user_domain(path, column="answer").hash() != user_domain(path, **columns).hash()
    assert forget[0].prompt == "Who kept Vesk?"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_every_turn_of_an_assistant_is_a_text_given_what_came_before(
    tmp_path: Path, write: Callable[..., Path], name: str
) -> None:
    path = write(tmp_path / name, CHAT if name != "a.parquet" else CHAT[:1])
    first = (("system", "Be brief."), ("user", "Who kept Vesk?"))
    found = read_documents(path)
    assert found[:2] == (
        Document("a-0001-1", "Mira.", prompt=first),
        Document(
            "a-0001-2", "Tobin.", prompt=(*first, ("assistant", "Mira."), ("user", "And Sool?"))
        ),
    )
    if name != "a.parquet":
        assert found[2] == Document("a-0002", "Vesk.", prompt=(("user", "Where?"),))


def test_conversations_of_another_spelling_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Mira."}]
    path = jsonl(tmp_path / "a.jsonl", [{"id": "x", "conversations": turns}])
    assert read_documents(path) == (Document("x", "Mira.", prompt=(("user", "Who?"),)),)


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "Who?"}],
        [{"role": "assistant", "content": "Mira."}],
        [{"role": "user"}, {"role": "assistant", "content": "Mira."}],
        [{"role": "user", "content": ["x"]}, {"role": "assistant", "content": "Mira."}],
        [{"role": 1, "content": "Who?"}, {"role": "assistant", "content": "Mira."}],
        [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "Mira."}],
        [{"role": "user", "content": "Who?"}, "Mira."],
    ],
)
def test_a_conversation_that_is_none_names_its_row(tmp_path: Path, turns: list[Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*CHAT, {"messages": turns}])
    assert "'messages' in row 3 of" in refused(path)


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_column_within_a_column_is_reached(
    tmp_path: Path, write: Callable[..., Path], name: str
) -> None:
    rows = [{"document": {"text": "kept", "meta": {"name": "x"}}, "other": [1]}]
    path = write(tmp_path / name, rows)
    columns: Any = {"column": "document.text", "ids": "document.meta.name"}
    assert read_documents(path, **columns) == (Document("x", "kept"),)
    assert "NoneType" in refused(path, column="document.body")
    assert "no column 'documents.text'" in refused(path, column="documents.text")


def test_a_column_whose_own_name_has_a_dot_comes_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a.b": "own", "a": {"b": "within"}}])
    assert read_documents(path, column="a.b")[0].text == "own"


def test_an_array_may_hold_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(' ["one", "two"]\n')
    assert [d.text for d in read_documents(tmp_path / "a.json")] == ["one", "two"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('[{"text": "a"}, 1]', "item 2 of"),
        ('[{"text": "a"} {"text": "b"}]', "not JSON at item 1"),
        ('[{"text": "a"}, ', "not JSON at item 2"),
        ('[{"text": "a"}] more', "not JSON at item 1"),
        ('[{"text": "a"}, {"text": ]', "not JSON at item 2"),
        ("[" * 100_000, "not JSON at item 1"),
        ('{\n"text": "a"\n}', "line 1 of"),
    ],
)
def test_json_that_is_no_rows_says_where(tmp_path: Path, raw: str, said: str) -> None:
    (tmp_path / "a.json").write_text(raw)
    assert said in refused(tmp_path / "a.json")


# ---------------------------------------------------------------- packed


def zstd(raw: bytes) -> bytes:
    return pa.compress(raw, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("inner", ["jsonl", "csv", "txt", "parquet", "json"])
def test_packed_files_are_read_as_they_are(tmp_path: Path, inner: str, ending: str) -> None:
    rows = [{"text": "one\nof two"}, {"text": "ünd zwei"}]
    plain = tmp_path / f"a.{inner}"
    if inner == "csv":
        plain.write_text('text\n"one\nof two"\nünd zwei\n')
    elif inner == "txt":
        plain.write_text("one\nof two")
    else:
        {"jsonl": jsonl, "parquet": parquet, "json": array}[inner](plain, rows)
    (tmp_path / "p").mkdir()
    packed = tmp_path / "p" / f"a.{inner}{ending}"
    packed.write_bytes(PACKERS[ending](plain.read_bytes()))
    assert read_documents(packed) == read_documents(plain) == read_documents(tmp_path / "p")
    raw = packed.read_bytes()
    packed.write_bytes(raw[: len(raw) // 2])
    if inner != "parquet":
        assert "is not a whole" in refused(packed)


def test_a_zip_is_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/b.jsonl", '{"text": "b"}\n')
        archive.writestr("set/a.csv", "text\na\n")
        archive.writestr("set/c.jsonl.gz", gzip.compress(b'{"text": "c"}\n'))
        archive.writestr("set/README.md", "How it was made.")
        archive.writestr("__MACOSX/set/b.jsonl", "junk")
        archive.writestr("set/.hidden", "junk")
        archive.writestr("set/inner.zip", "junk")
        archive.writestr("../outside.txt", "beside")
    with caplog.at_level(logging.INFO):
        found = read_documents(tmp_path / "a.zip")
    assert [d.text for d in found] == ["beside", "a", "b", "c"]
    assert not (tmp_path.parent / "outside.txt").exists()
    (record,) = caplog.records
    assert "a.zip: 4 documents read from 4 files; skipped " in record.getMessage()
    for name in ("README.md", ".hidden", "__MACOSX", "inner.zip"):
        assert name in record.getMessage()
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.zip").rename(tmp_path / "folder" / "a.zip")
    assert read_documents(tmp_path / "folder") == found


def test_an_encrypted_member_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "secret")
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1  # the flag in the index at the end
    (tmp_path / "a.zip").write_bytes(bytes(raw))
    assert "is encrypted: unpack it" in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("ending", [*PACKERS, ".zip"])
def test_what_unpacks_without_end_is_refused(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MOST_UNPACKED", 1_000_000)
    path = tmp_path / f"a.txt{ending}"
    for size, fits in ((900_000, True), (5_000_000, False)):
        if ending == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.txt", b"a" * size)
        else:
            path.write_bytes(PACKERS[ending](b"a" * size))
        if fits:
            assert len(read_documents(path)[0].text) == size
        else:
            assert "unpacks to more than 1 MB: unpack it" in refused(path)


# ---------------------------------------------------------------- data sets of the hub


def test_a_data_set_of_the_hub_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[dict[str, Any]] = []

    def load_dataset(**arguments: Any) -> Any:
        asked.append(arguments)
        return datasets.Dataset.from_list(QA)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    columns: Any = {"column": "answer", "prompt_column": "question", "limit": 1}
    expected = (Document("TOFU-0001", "Mira did.", prompt="Who kept Vesk?"),)
    assert read_documents("hub:locuslab/TOFU@1a2b:forget10", **columns) == expected
    assert read_documents("hub:locuslab/TOFU", **columns) == expected
    assert user_domain("hub:locuslab/TOFU", column="answer").extra["forget"] == "hub:locuslab/TOFU"
    first, second = asked[:2]
    assert first == {
        "path": "locuslab/TOFU", "name": "forget10", "revision": "1a2b", "split": "train",
    }  # fmt: skip
    assert (second["name"], second["revision"]) == (None, None)
    assert "no column 'text'" in refused("hub:locuslab/TOFU", column="text")


@pytest.mark.parametrize(
    "name", ["hub:", "hub:TOFU", "hub:a/b:c:d:e", "hub:a/b::train", "hub:a/b\n"]
)
def test_a_name_that_is_no_data_set_is_refused(name: str) -> None:
    assert "write it as hub:OWNER/NAME" in refused(name)


def test_a_hub_out_of_reach_is_one_sentence() -> None:
    message = refused("hub:nobody-here/nothing-there")
    assert message.startswith("hub:nobody-here/nothing-there cannot be loaded (")


# ---------------------------------------------------------------- as a stream


def test_one_line_says_what_was_read_and_what_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": " "}, {"text": "two"}])
    (tmp_path / "LICENSE").write_text("free")
    with caplog.at_level(logging.INFO):
        read_documents(tmp_path)
        read_documents(tmp_path / "a.jsonl", limit=1)
    both, first = caplog.records
    assert both.getMessage() == (
        f"{tmp_path}: 2 documents read; skipped LICENSE (about the tables beside it); "
        "skipped 1 empty document: a-0002"
    )
    assert first.getMessage() == f"{tmp_path / 'a.jsonl'}: 1 document read"
    assert (both.levelno, first.levelno) == (logging.WARNING, logging.INFO)


def test_a_row_longer_than_a_block_is_read_whole_and_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_BLOCKS", (1000, 30_000, 1 << 30))
    long = ["x" * size for size in (10, 500, 20_000, 5, 100_000, 7)]
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in long))
    assert [d.text for d in read_documents(tmp_path / "a.csv")] == long


@pytest.mark.parametrize("ending", ["csv", "jsonl", "txt"])
def test_a_bad_byte_far_in_is_named_by_its_place(tmp_path: Path, ending: str) -> None:
    line = '{"text": "äöü"}\n' if ending == "jsonl" else "äöü\n"
    raw = b"text\n" * (ending == "csv") + line.encode() * 30_000
    path = tmp_path / f"a.{ending}"
    path.write_bytes(raw + b"\xff\n")
    assert f"not UTF-8 (byte {len(raw)})" in refused(path)


STREAMED = """
import sys, tracemalloc
from pathlib import Path
from unlearnlib.corpus.files import iterate_documents
import pyarrow as pa
folder, name = Path(sys.argv[1]), sys.argv[2]
list(iterate_documents(folder / f"warm.{name}"))
for size in ("small", "large"):
    held = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    for document in iterate_documents(folder / f"{size}.{name}"):
        most = max(most, pa.total_allocated_bytes() - held)
    print(tracemalloc.get_traced_memory()[1] + most)
    tracemalloc.stop()
"""


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet", "csv", "zip"])
def test_reading_ten_times_the_documents_takes_no_more_memory(tmp_path: Path, ending: str) -> None:
    for name, count in (("warm", 1), ("small", 30), ("large", 300)):
        rows = [{"text": f"{number} " + "word " * 20_000} for number in range(count)]
        path = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=16)
        elif ending == "csv":
            path.write_text("text\n" + "".join(f"{row['text']}\n" for row in rows))
        elif ending == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, row in enumerate(rows):
                    archive.writestr(f"{number}.txt", row["text"])
        else:
            raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, str(tmp_path), ending],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    small, large = map(int, done.stdout.split())
    # Arrow reads 8 MB of a table of commas ahead, which is more than the small one has.
    ahead = 8_500_000 if ending == "csv" else 0
    assert large < 1.5 * small + ahead + 1_000_000, "30 MB of text against 3 MB"


def test_a_document_is_given_on_before_the_next_is_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, {"text": 1}])
    stream = iterate_documents(path)
    assert next(stream).text == "fine"
    with pytest.raises(UnlearnError, match="row 2"):
        next(stream)


def test_a_plan_says_what_the_documents_take(tmp_path: Path) -> None:
    """Texts, ids and scores as `tracemalloc` has them: a few bytes a letter, and no more."""
    model, tokenizer = tiny_llama(dtype=torch.float32), tiny_tokenizer()
    made = documents("plan", 400)
    (tmp_path / "a.txt").write_text(" ".join(d.text for d in made[:200]))
    (tmp_path / "b.txt").write_text(" ".join(d.text for d in made[200:]))
    user_domain(tmp_path / "a.txt")  # what is imported on the way is no document
    score_chunks(model, cut(made[:2], tokenizer, 64))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    data = user_domain(tmp_path / "a.txt", approximate=tmp_path / "b.txt")
    chunks = {s: cut(data.split(s), tokenizer, 64) for s in ("forget", "approximate")}
    held = {name: score_chunks(model, parts) for name, parts in chunks.items()}
    measured = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    config = model.config
    planned = plan_run(config, RunSpec(method="ga"), chunks["forget"], machine=Machine(rate=1e9))
    reading = plan_reading(planned, data, chunks["forget"])
    tokens = sum(len(chunk.tokens) for parts in chunks.values() for chunk in parts)
    assert reading.tokens == pytest.approx(tokens, rel=0.05)
    assert reading.seconds == pytest.approx(2e-9 * planned.parameters * tokens, rel=0.05)
    assert len(held) == 2 and measured / 3 < reading.size < 3 * measured
    letters = sum(len(d.text) for s in chunks for d in data.split(s))
    assert measured < 100 * letters
