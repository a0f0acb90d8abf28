"""Records of format 1 get the keys of format 2: `pytest tests/test_rekey.py`."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnlib import study
from unlearnlib.errors import UnlearnError
from unlearnlib.store import Basis, Record, Store, read_parquet, run_key, write_parquet
from unlearnlib.study.searches import searches_path

TOOLS = Path(__file__).resolve().parent.parent / "tools"
ADDED = ("config_hash", "tokenizer_hash", "oracle_hash", "length", "prefix")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    import rekey

    return rekey


@pytest.fixture(scope="module")
def published() -> list[Record]:
    """Runs and baselines of the lab."""
    files = [p for p in study.published_files() if p.stem in ("lab-main", "lab-baselines")]
    return [record for path in files for record in read_parquet(path)[:4]]


def written(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    return hashlib.sha256(written(value).encode()).hexdigest()


def of_format_1(record: Record, extra: dict[str, str] | None = None) -> dict[str, Any]:
    """The body that a record had then; `extra` is what its key held besides."""
    body = {k: v for k, v in record.to_json().items() if k not in ADDED}
    spec = {k: v for k, v in record.spec.items() if not k.startswith("task")}
    parts = {"spec": spec, "data": record.data_hash, "model": record.model_hash}
    return {**body, "key": digest({**parts, "extra": extra or {}})}


def text_of(body: dict[str, Any]) -> str:
    return written({"format": 1, "digest": digest(body), "record": body})


def put(store: Path, body: dict[str, Any]) -> Path:
    """File a record as format 1 did."""
    path = store / "records" / body["key"][:2] / f"{body['key']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(body))
    (store / "format.json").write_text('{"format": 1}')
    return path


def table(path: Path, bodies: list[dict[str, Any]]) -> Path:
    """Publish records as format 1 did."""
    columns = ("profile", "domain", "method", "seed")
    rows = [
        {
            **{name: body[name] for name in ("key", "kind", "status")},
            **{name: body["spec"].get(name) for name in columns},
            "record": text_of(body),
        }
        for body in sorted(bodies, key=lambda body: str(body["key"]))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_published_file_gets_the_keys_that_the_same_runs_have_today(
    tool: Any, published: list[Record], tmp_path: Path
) -> None:
    path = table(tmp_path / "lab-main.parquet", [of_format_1(record) for record in published])
    with pytest.raises(UnlearnError, match=r"tools/rekey.py"):
        read_parquet(path)
    done = tool.rekey(None, [path], [], [])
    assert (done.given, done.there, done.left) == (len(published), 0, [])
    assert read_parquet(path) == sorted(published, key=lambda record: record.key)
    done = tool.rekey(None, [path], [], [])
    assert (done.given, done.there, done.left) == (0, len(published), [])


def test_a_stores_records_stay_and_get_new_ones_beside_them(
    tool: Any, published: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = [put(tmp_path, of_format_1(record)) for record in published]
    before = [path.read_text() for path in old]
    store = Store(tmp_path)
    assert list(store.records()) == [] and old[0].stem not in store
    assert [r.levelno for r in caplog.records] == [logging.WARNING]  # once, not once a record
    assert f"tools/rekey.py --store {tmp_path}" in caplog.text
    assert not (tmp_path / "set_aside").exists()
    assert store.put(published[0])  # new work goes on beside them
    done = tool.rekey(tmp_path, [], [], [])
    assert (done.given, done.left) == (len(published), [])
    assert list(Store(tmp_path).records()) == sorted(published, key=lambda record: record.key)
    assert [path.read_text() for path in old] == before
    assert json.loads((tmp_path / "format.json").read_text()) == {"format": 2}


def test_answers_to_tasks_follow_their_run(
    tool: Any, published: list[Record], tmp_path: Path
) -> None:
    run = next(record for record in published if record.kind == "run")
    asked = {"tasks": ["arc_easy"], "task_limit": 5}
    body = of_format_1(run, {"kind": "tasks", "tasks": "f" * 64}) | {
        "kind": "tasks",
        "spec": run.spec | asked,
        "extra": {"run": "0" * 64, "fingerprint": "f" * 64},
    }
    put(tmp_path, body)
    assert tool.rekey(tmp_path, [], [], []).left == []
    (made,) = Store(tmp_path).records()
    assert made.spec == run.spec | asked | {"task_fingerprint": "f" * 64}
    assert made.extra == {"run": run.key} and made.metrics == run.metrics
    assert made.key == run_key(made.spec, run.basis)


def test_a_record_of_an_unknown_model_is_named_and_left(
    tool: Any, published: list[Record], tmp_path: Path
) -> None:
    strange = of_format_1(published[0])
    strange["model_hash"] = "e" * 64
    parts = {"spec": strange["spec"], "data": strange["data_hash"], "model": "e" * 64, "extra": {}}
    strange["key"] = digest(parts)
    path = table(tmp_path / "lab-main.parquet", [strange, of_format_1(published[1])])
    before = path.read_bytes()
    done = tool.rekey(None, [path], [], [])
    assert len(done.left) == 1 and "eeeeeeeeeeee" in done.left[0] and "--model" in done.left[0]
    assert path.read_bytes() == before  # a published file is replaced whole or not at all


def test_a_key_that_did_not_follow_from_its_record_gets_no_new_one(
    tool: Any, published: list[Record], tmp_path: Path
) -> None:
    body = of_format_1(published[0])
    body["spec"] = {**body["spec"], "seed": 77}
    path = table(tmp_path / "lab-main.parquet", [body])
    assert "does not follow" in tool.rekey(None, [path], [], []).left[0]


def test_the_steps_of_a_search_get_the_keys_of_their_runs(
    tool: Any, published: list[Record], tmp_path: Path
) -> None:
    """From the keys of today back to those of format 1, and forth again."""
    bases = {record.spec["domain"]: record.basis for record in published}
    lines = [json.loads(line) for line in searches_path("lab").read_text().splitlines()]
    line = next(line for line in lines if line["domain"] in bases)
    today = [step["key"] for step in line["steps"]]
    for step in line["steps"]:
        spec = tool.RunSpec(
            "lab", line["domain"], line["method"], step["learning_rate"], step["updates"],
            study.BATCH, step["retain_weight"], seed=line["seed"],
        ).as_dict()  # fmt: skip
        basis: Basis = bases[line["domain"]]
        assert step["key"] == run_key(spec, basis)
        step["key"] = tool.earlier_key(spec, basis.data_hash, basis.model_hash, {})
    file = tmp_path / "lab-tuning.jsonl"
    file.write_text(json.dumps(line) + "\n")
    beside = tmp_path / "lab-main.parquet"
    write_parquet(published, beside)
    done = tool.rekey(None, [beside, file], [], [])
    assert done.left == []
    assert [step["key"] for step in json.loads(file.read_text())["steps"]] == today


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", None),
        ("kind", None),
        ("model_hash", [1]),
        ("data_hash", None),
        ("metrics", None),
        ("spec", None),
        ("spec", {"domain": "books", "profile": "lap"}),
        ("spec", {"domain": "books", "profile": []}),
        ("spec", {"domain": None, "profile": "lab"}),
    ],
)
def test_a_body_that_is_no_record_is_one_sentence(
    tool: Any, published: list[Record], tmp_path: Path, field: str, value: object
) -> None:
    """Its digest may be right all the same; nothing is written."""
    whole, damaged = (of_format_1(record) for record in published[:2])
    put(tmp_path, whole)
    path = put(tmp_path, damaged)
    path.write_text(text_of({**damaged, field: value}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    with pytest.raises(UnlearnError, match=r"is no record of this project .*: restore it first"):
        tool.rekey(tmp_path, [], [], [])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("lab-main.parquet", b"abc"), ("lab-tuning.jsonl", b'{"a"'), ("lab-tuning.jsonl", b"[]\n")],
)
def test_a_damaged_published_file_is_one_sentence(
    tool: Any, tmp_path: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "gather", lambda *_: tool.Known())
    path = tmp_path / name
    with pytest.raises((UnlearnError, OSError)):
        tool.rekey(None, [path], [], [])  # it is not there
    path.write_bytes(content)
    with pytest.raises(UnlearnError, match="restore it first"):
        tool.rekey(None, [path], [], [])
    assert path.read_bytes() == content
