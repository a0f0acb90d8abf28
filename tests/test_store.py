"""The run store: `pytest tests/test_store.py`."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unlearnlib.errors import UnlearnError
from unlearnlib.store import (
    COLUMNS,
    FORMAT,
    Basis,
    Library,
    Record,
    Store,
    git_commit,
    provenance,
    read_parquet,
    run_key,
    write_parquet,
)
from unlearnlib.store.claims import _boot, _born, _namespace

SPAWN = multiprocessing.get_context("spawn")


def make_record(seed: int = 0, **changes: Any) -> Record:
    spec = {"profile": "lab", "domain": "books", "method": "ga", "seed": seed, "rate": 1e-4}
    fields: dict[str, Any] = {
        "key": run_key(spec, Basis("d" * 64, "m" * 64)),
        "kind": "run",
        "status": "done",
        "spec": spec,
        "data_hash": "d" * 64,
        "model_hash": "m" * 64,
        "metrics": {"forget_perplexity": 12.5 + seed, "auc": 0.1 + 0.2},
        "trajectory": [{"update": 1, "loss": 2.25}],
        "documents": {"forget": {"ids": ["a#0", "b#0"], "loss": [1.5, 2.5]}},
        "provenance": {"seconds": 1.0},
    }
    return Record(**(fields | changes))


def one_sentence(error: pytest.ExceptionInfo[UnlearnError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ": " in text
    return text


def file_of(store: Store, record: Record) -> Path:
    return store.root / "records" / record.key[:2] / f"{record.key}.json"


def files_under(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# --- keys ------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
) | st.text(max_size=8)
HASHES = ("config_hash", "tokenizer_hash", "oracle_hash")
SPECS = st.dictionaries(st.text(max_size=8), LEAVES, min_size=1, max_size=6)


@given(SPECS, st.randoms())
def test_key_does_not_depend_on_the_order_of_a_spec(
    spec: dict[str, object], shuffler: random.Random
) -> None:
    items = list(spec.items())
    shuffler.shuffle(items)
    assert run_key(dict(items), Basis("d", "m")) == run_key(spec, Basis("d", "m"))


@given(SPECS, LEAVES, st.data())
def test_key_depends_on_every_field_of_a_spec(
    spec: dict[str, object], value: object, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(spec)))
    assume((type(value), repr(value)) != (type(spec[name]), repr(spec[name])))
    assert run_key(spec | {name: value}, Basis("d", "m")) != run_key(spec, Basis("d", "m"))
    without = {key: item for key, item in spec.items() if key != name}
    assert run_key(without, Basis("d", "m")) != run_key(spec, Basis("d", "m"))


def test_key_depends_on_all_that_a_record_rests_on_and_keeps_it_apart() -> None:
    keys = [
        run_key({"a": 1}, Basis("x", "y")),
        run_key({"a": 1}, Basis("y", "x")),
        run_key({"a": 1}, Basis("xy", "")),
        *(run_key({"a": 1}, Basis("x", "y", **{part: "z"})) for part in HASHES),
        *(run_key({"a": 1}, Basis("x", "y", **{part: 3})) for part in ("length", "prefix")),
        run_key({"a": 1.0}, Basis("x", "y")),
        run_key({"a": True}, Basis("x", "y")),
        run_key({"a": "1"}, Basis("x", "y")),
    ]
    assert len(set(keys)) == len(keys)


def test_key_is_the_hash_of_one_spelling() -> None:
    text = (
        r'{"config_hash":"c","data_hash":"d","length":9,"model_hash":"m","oracle_hash":"o",'
        r'"prefix":4,"spec":{"n":[1,2],"name":"\u00e9","rate":0.0001},"tokenizer_hash":"t"}'
    )
    expected = hashlib.sha256(text.encode("ascii")).hexdigest()
    basis = Basis("d", "m", "c", "t", "o", 9, 4)
    assert run_key({"rate": 1e-4, "name": "é", "n": [1, 2]}, basis) == expected


def test_key_counts_a_tuple_as_a_list_and_a_numpy_number_as_a_number() -> None:
    same = {"k": (1, np.float64(0.5))}, {"k": [1, 0.5]}
    assert len({run_key(spec, Basis("d", "m")) for spec in same}) == 1


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"rate": math.nan}, "NaN"),
        ({"rate": [math.inf]}, "infinite"),
        ({1: "x"}, "1"),
        ({"path": Path("x")}, "Path"),
    ],
)
def test_key_refuses_what_json_cannot_tell_apart(spec: dict[str, object], named: str) -> None:
    with pytest.raises(UnlearnError) as error:
        run_key(spec, Basis("d", "m"))
    assert named in one_sentence(error)


# --- records ---------------------------------------------------------------------------------


def test_nan_and_infinities_survive_and_texts_that_look_like_them_stay_texts(
    tmp_path: Path,
) -> None:
    record = make_record(
        status="diverged",
        diverged_at=3,
        metrics={"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0, "e": 5e-324},
        trajectory=[{"loss": math.nan, "note": "nan"}],
        documents={"forget": {"ids": ["nan", "'inf", "''-inf", "x"], "loss": [math.inf, 1.0]}},
    )
    store = Store(tmp_path)
    store.put(record)
    back = store.get(record.key)
    assert back == record
    assert math.isnan(back.metrics["a"]) and back.metrics["b"] == math.inf
    assert math.copysign(1, back.metrics["d"]) == -1
    assert back.trajectory[0]["note"] == "nan"
    assert back.documents["forget"]["ids"] == ["nan", "'inf", "''-inf", "x"]
    assert back.documents["forget"]["loss"] == [math.inf, 1.0]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
    | st.from_regex(r"\A'*-?(nan|inf)\Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_a_record_through_strict_json_is_the_same_record(extra: dict[str, Any]) -> None:
    record = make_record(extra=extra)
    text = json.dumps(record.to_json(), allow_nan=False)
    assert Record.from_json(json.loads(text)) == record


def test_a_record_takes_numpy_values_and_is_cut_off_from_the_callers_objects() -> None:
    losses = [np.float32(0.5), np.float64("nan")]
    record = make_record(metrics={"a": np.float32(0.25), "n": 3}, documents={"f": {"l": losses}})
    losses.append(np.float32(1))
    assert record.metrics == {"a": 0.25, "n": 3.0} and type(record.metrics["n"]) is float
    assert len(record.documents["f"]["l"]) == 2


def test_comparable_ignores_only_the_provenance() -> None:
    record = make_record(metrics={"a": math.nan})
    again = make_record(metrics={"a": float("nan")}, provenance={"seconds": 99.0})
    assert record.comparable() == again.comparable() and record != again
    assert record.comparable() != make_record(metrics={"a": 1.0}).comparable()
    left_out = {field.name for field in dataclasses.fields(Record)} - set(record.comparable())
    assert left_out == {"provenance"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"status": "don"}, "done"),
        ({"status": "diverged"}, "diverged"),
        ({"diverged_at": 2}, "2"),
        ({"key": "../../etc"}, "../../etc"),
        ({"metrics": {"auc": "high"}}, "auc"),
        ({"extra": {"when": datetime(2024, 1, 1)}}, "datetime"),
    ],
)
def test_a_malformed_record_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnlearnError) as error:
        make_record(**changes)
    assert named in one_sentence(error)


# --- the store -------------------------------------------------------------------------------


def test_putting_a_key_twice_keeps_the_first_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = make_record()
    assert store.put(first) is True
    before = files_under(tmp_path)
    assert store.put(make_record(metrics={"auc": 0.9})) is False
    assert files_under(tmp_path) == before
    assert store.get(first.key) == first


def test_resuming_is_asking_which_keys_are_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [make_record(seed) for seed in range(4)]
    keys = [record.key for record in records]
    assert store.missing(keys) == keys and store.keys() == []
    store.put(records[1])
    store.put(records[3])
    assert store.missing([*keys, keys[0]]) == [keys[0], keys[2]]
    assert keys[1] in store and keys[0] not in store
    assert store.keys() == sorted([keys[1], keys[3]])
    assert [record.key for record in store.records()] == store.keys()


def test_reading_a_store_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert list(store.records()) == [] and make_record().key not in store
    assert not store.root.exists()


def test_an_absent_record_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError) as error:
        Store(tmp_path).get("0" * 64)
    assert "0" * 64 in one_sentence(error)
    with pytest.raises(UnlearnError, match="64 hex digits"):
        Store(tmp_path).get("../format")


def put_at_once(root: Path, barrier: Any, results: Any, number: int) -> None:
    store = Store(root)
    record = make_record(provenance={"writer": number, "ballast": "x" * 200_000})
    barrier.wait(30)
    results.put(store.put(record))


def test_two_processes_putting_one_key_leave_one_whole_record(tmp_path: Path) -> None:
    barrier, results = SPAWN.Barrier(2), SPAWN.Queue()
    workers = [
        SPAWN.Process(target=put_at_once, args=(tmp_path, barrier, results, number))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    assert sorted(results.get(timeout=60) for _ in workers) == [False, True]
    for worker in workers:
        worker.join()
    store = Store(tmp_path)
    (record,) = store.records()
    assert (
        record.provenance["writer"] in (0, 1) and record.comparable() == make_record().comparable()
    )
    assert sorted(files_under(tmp_path)) == [
        "format.json",
        f"records/{record.key[:2]}/{record.key}.json",
    ]


def test_many_threads_putting_one_key_write_it_once(tmp_path: Path) -> None:
    barrier, results = threading.Barrier(8), []

    def put() -> None:
        barrier.wait(30)
        results.append(Store(tmp_path).put(make_record()))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_a_record_truncated_at_any_position_is_set_aside_and_the_rest_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    bad, good = make_record(0), make_record(1)
    store.put(bad)
    store.put(good)
    path = file_of(store, bad)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        caplog.clear()
        assert list(store.records()) == [good]
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING and path.name in warning.getMessage()
        assert not path.exists()
        (moved,) = (tmp_path / "set_aside").iterdir()
        assert moved.name == path.name and moved.read_bytes() == whole[:length]
        moved.unlink()


def test_no_change_of_one_byte_changes_what_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = make_record(metrics={"auc": 0.1 + 0.2})
    store.put(record)
    path = file_of(store, record)
    whole = path.read_bytes()
    harmless, newer = [], whole.index(b'"format":2') + len('"format":')
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        if position == newer:  # it says 3, and how a record of format 3 is checked nobody knows yet
            with pytest.raises(UnlearnError, match="upgrade"):
                store.get(record.key)
        elif record.key in store:
            assert store.get(record.key) == record
            harmless.append(position)
    # 0.30000000000000005 is another spelling of the same double, and no damage.
    assert harmless == [whole.index(b"0.30000000000000004") + len("0.3000000000000000")]
    # Nothing that was set aside overwrote anything else that was.
    assert len(list((tmp_path / "set_aside").iterdir())) == len(whole) - len(harmless) - 1


def test_a_damaged_record_is_named_with_the_remedy_and_can_be_run_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = make_record()
    store.put(record)
    file_of(store, record).write_bytes(b"\xff\xfe")
    with pytest.raises(UnlearnError) as error:
        store.get(record.key)
    assert record.key in one_sentence(error) and "run the study again" in str(error.value)
    assert store.missing([record.key]) == [record.key]
    assert store.put(record) is True and store.get(record.key) == record
    assert (tmp_path / "set_aside" / f"{record.key}.json").read_bytes() == b"\xff\xfe"


def test_put_replaces_a_damaged_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = make_record()
    store.put(record)
    file_of(store, record).write_bytes(b"")
    assert store.put(record) is True and store.get(record.key) == record


def test_a_record_under_another_key_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    one, other = make_record(0), make_record(1)
    store.put(one)
    file_of(store, other).parent.mkdir(exist_ok=True)
    shutil.copy(file_of(store, one), file_of(store, other))
    assert list(store.records()) == [one]
    assert one.key in caplog.text and other.key in caplog.text


def get_stuck_in_a_write(root: Path, ready: Any) -> None:
    real = os.fsync

    def stuck(handle: Any) -> None:
        real(handle)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            ready.set()
            time.sleep(60)

    Store(root).put(make_record(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", stuck)
        Store(root).put(make_record(1))


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    ready = SPAWN.Event()
    worker = SPAWN.Process(target=get_stuck_in_a_write, args=(tmp_path, ready))
    worker.start()
    assert ready.wait(60)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    left = [path for path in tmp_path.rglob("*.tmp") if path.stat().st_size]
    assert len(left) == 1  # the writer did die in the middle
    store = Store(tmp_path)
    assert list(store.records()) == [make_record(0)]
    assert store.missing([make_record(1).key]) == [make_record(1).key]
    assert store.put(make_record(1)) is True


def test_a_store_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).put(make_record())
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    before = files_under(tmp_path)
    with pytest.raises(UnlearnError) as error:
        Store(tmp_path)
    assert "upgrade" in one_sentence(error) and files_under(tmp_path) == before


def test_a_record_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(make_record())
    path = file_of(store, make_record())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    before = files_under(tmp_path)
    with pytest.raises(UnlearnError) as error:
        store.get(make_record().key)
    assert path.name in one_sentence(error) and files_under(tmp_path) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "one"}', '{"format": 0}'])
def test_an_unreadable_format_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "format.json").write_text(content)
    with pytest.raises(UnlearnError) as error:
        Store(tmp_path)
    assert "format.json" in one_sentence(error)


def failing(code: int) -> Callable[..., int]:
    def fail(*arguments: object, **named: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["fsync", "open", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_full_disk_or_read_only_folder_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    store = Store(tmp_path)
    store.put(make_record(0))
    before = files_under(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(UnlearnError) as error:
            store.put(make_record(1))
    sentence = one_sentence(error)
    assert str(tmp_path) in sentence and os.strerror(code) in sentence
    assert ("free some space" in sentence) == (code == errno.ENOSPC)
    assert files_under(tmp_path) == before
    assert store.put(make_record(1)) is True


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_folders_keeps_records_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sync = os.fsync

    def of_files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        sync(handle)

    monkeypatch.setattr(os, "fsync", of_files_only)
    store = Store(tmp_path / "store")
    assert store.put(make_record(1)) is True
    assert store.get(make_record(1).key) == make_record(1)
    with store.claim(make_record(2).key) as mine:
        assert mine


def test_a_root_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("not a folder")
    with pytest.raises(UnlearnError) as error:
        Store(root).put(make_record())
    assert str(root) in one_sentence(error) and root.read_text() == "not a folder"


def test_damage_in_a_folder_that_cannot_be_written_is_skipped_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put(make_record(0))
    store.put(make_record(1))
    file_of(store, make_record(0)).write_text("{")
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    assert list(store.records()) == [make_record(1)]
    assert make_record(0).key in caplog.text and "could not be moved" in caplog.text


def test_a_file_system_without_hard_links_keeps_the_first_record_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    store = Store(tmp_path)
    assert store.put(make_record()) is True
    assert store.put(make_record(metrics={})) is False
    assert store.get(make_record().key) == make_record()


# --- claims ----------------------------------------------------------------------------------

KEY = make_record().key


def claims_in(root: Path) -> list[Path]:
    return sorted((root / "claims").glob("*"))


def dead_process() -> int:
    worker = subprocess.Popen(["true"])
    worker.wait()
    return worker.pid


def leave_claim(root: Path, host: str, pid: int, age: float = 0.0) -> Path:
    path = root / "claims" / f"{KEY}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"born": f"{_boot(_born(os.getpid()))}:1", "namespace": _namespace()}
    path.write_text(json.dumps({"host": host, "pid": pid, "time": "", "token": "old", **place}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_second_claimant_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(KEY) as first:
        with store.claim(KEY) as second, store.claim("0" * 64) as other:
            assert (first, second, other) == (True, False, True)
        with Store(tmp_path).claim(KEY) as third:
            assert third is False  # the refused one did not remove the owner's claim
    assert claims_in(tmp_path) == []
    with store.claim(KEY) as again:
        assert again is True


def test_a_claim_is_removed_when_the_computation_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store(tmp_path).claim(KEY) as mine:
        assert mine and claims_in(tmp_path)
        raise ZeroDivisionError
    assert claims_in(tmp_path) == []


def test_a_claim_of_a_process_that_died_is_taken_over(tmp_path: Path) -> None:
    leave_claim(tmp_path, socket.gethostname(), dead_process())
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is True
        with Store(tmp_path).claim(KEY) as other:
            assert other is False
    assert claims_in(tmp_path) == []


def test_a_claim_of_another_host_counts_until_its_heartbeat_stops(tmp_path: Path) -> None:
    leave_claim(tmp_path, "elsewhere", dead_process(), age=5)
    with Store(tmp_path).claim(KEY, stale_after=60) as mine:
        assert mine is False
    with Store(tmp_path).claim(KEY, stale_after=4) as mine:
        assert mine is True
    assert claims_in(tmp_path) == []


@pytest.mark.parametrize("other", [{"namespace": 1}, {"born": "another boot:1"}, {"host": "there"}])
def test_a_process_that_cannot_be_seen_from_here_holds_its_claim_until_the_heartbeat_stops(
    other: dict[str, Any], tmp_path: Path
) -> None:
    path = leave_claim(tmp_path, socket.gethostname(), dead_process())
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is False
    os.utime(path, (0, 0))
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is True


def test_a_claim_from_before_namespaces_were_written_counts_until_it_is_old(tmp_path: Path) -> None:
    path = leave_claim(tmp_path, socket.gethostname(), dead_process())
    body = json.loads(path.read_text())
    del body["namespace"]
    path.write_text(json.dumps(body))
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is (sys.platform != "linux")


def test_a_claim_of_the_future_does_not_block_for_ever(tmp_path: Path) -> None:
    leave_claim(tmp_path, "elsewhere", 1, age=-1e6)
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is True
    leave_claim(tmp_path, "elsewhere", 1, age=-5)  # two clocks that differ a little
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is False


def test_blocks_that_exclude_each_other_run_one_after_the_other(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    code = (
        "import sys, pathlib; from unlearnlib.store.claims import exclusive\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for _ in range(10):\n"
        "    with exclusive(path):\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(count)]) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert count.read_text() == "20"
    assert list(tmp_path.iterdir()) == [count]


def test_a_claim_that_names_nobody_counts_until_it_is_old(tmp_path: Path) -> None:
    path = leave_claim(tmp_path, "", 0)
    path.write_text("")
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is False
    os.utime(path, (0, 0))
    with Store(tmp_path).claim(KEY) as mine:
        assert mine is True


def test_the_heartbeat_keeps_a_long_computation_claimed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(KEY, stale_after=0.5):
        (path,) = claims_in(tmp_path)
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_an_owner_that_was_taken_over_does_not_remove_its_successors_claim(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(KEY):
        (path,) = claims_in(tmp_path)
        path.unlink()
        leave_claim(tmp_path, "elsewhere", 1)
    assert claims_in(tmp_path) == [path]


def test_an_abandoned_claim_is_taken_over_by_exactly_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(20):
        leave_claim(tmp_path, "elsewhere", 1, age=1000)
        barrier, done = threading.Barrier(4), threading.Barrier(4)
        results: list[bool] = []

        def compete(
            start: threading.Barrier = barrier,
            end: threading.Barrier = done,
            won: list[bool] = results,
        ) -> None:
            start.wait(30)
            with store.claim(KEY) as mine:
                won.append(mine)
                end.wait(30)  # nobody lets go before everybody has tried

        threads = [threading.Thread(target=compete) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [False, False, False, True]
        assert claims_in(tmp_path) == []


def test_a_claim_in_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    with pytest.raises(UnlearnError) as error, Store(tmp_path).claim(KEY):
        pass
    assert "claims" in one_sentence(error)


# --- published records -----------------------------------------------------------------------


def some_records() -> list[Record]:
    return [
        *(make_record(seed) for seed in range(5)),
        make_record(9, status="diverged", diverged_at=2, metrics={"loss": math.nan}),
        make_record(spec={"steps": 3}, key=run_key({"steps": 3}, Basis("d", "m")), kind="pretrain"),
    ]


def test_parquet_gives_back_equal_records_and_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = some_records()
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write_parquet(records, one)
    assert read_parquet(one) == sorted(records, key=lambda record: record.key)
    write_parquet(reversed(records), two)
    write_parquet(read_parquet(one), one)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [one.name, two.name]


def test_parquet_columns_say_what_a_row_is(tmp_path: Path) -> None:
    write_parquet(some_records(), tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    assert tuple(table.column_names) == COLUMNS
    rows = {row["key"]: row for row in table.to_pylist()}
    run, pretrain = rows[make_record(3).key], rows[some_records()[-1].key]
    assert (run["profile"], run["domain"], run["method"], run["seed"]) == ("lab", "books", "ga", 3)
    assert pretrain["kind"] == "pretrain" and pretrain["seed"] is None


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [
        ("record", "12.5", "11.5"),
        ("record", '"format":2', '"format":3'),
        ("record", '"format":2', '"format":1'),
        ("record", "}", ""),
        ("key", "", "0"),
        ("method", "ga", "adversarial"),
    ],
)
def test_a_changed_value_in_a_published_file_is_caught(
    tmp_path: Path, column: str, old: str, new: str
) -> None:
    path = tmp_path / "r.parquet"
    write_parquet([make_record()], path)
    table = pq.read_table(path)
    rows = table.to_pylist()
    changed = rows[0][column].replace(old, new, 1)
    assert changed != rows[0][column]
    rows[0][column] = changed
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(UnlearnError) as error:
        read_parquet(path)
    assert str(path) in one_sentence(error)


def test_a_broken_missing_or_foreign_parquet_file_is_named(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.parquet", tmp_path / "r.parquet"
    write_parquet(some_records(), whole)
    raw = whole.read_bytes()
    for length in (0, 4, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(UnlearnError) as error:
            read_parquet(path)
        assert str(path) in one_sentence(error)
    pq.write_table(pa.table({"key": ["a"], "score": [1.0]}), path)
    with pytest.raises(UnlearnError) as error:
        read_parquet(path)
    assert str(path) in one_sentence(error) and "score" in str(error.value)
    with pytest.raises(UnlearnError) as error:
        read_parquet(tmp_path / "none.parquet")
    assert "none.parquet" in one_sentence(error)


def test_publishing_one_key_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=KEY):
        write_parquet([make_record(), make_record(metrics={})], tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_file_published_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.parquet"
    write_parquet([make_record(0)], path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(UnlearnError, match="free some space"):
            write_parquet([make_record(1)], path)
    assert read_parquet(path) == [make_record(0)] and list(tmp_path.iterdir()) == [path]


def test_a_library_looks_in_the_store_first_and_then_in_the_published_files(tmp_path: Path) -> None:
    published, local = make_record(0), make_record(0, metrics={"auc": 0.7})
    write_parquet([published, make_record(1)], tmp_path / "a.parquet")
    write_parquet([make_record(1, metrics={}), make_record(2)], tmp_path / "b.parquet")
    store = Store(tmp_path / "store")
    library = Library([tmp_path / "a.parquet", tmp_path / "b.parquet"], store)
    keys = [make_record(seed).key for seed in range(4)]
    assert library.missing([*keys, keys[3]]) == [keys[3]]
    assert library.get(keys[0]) == published and library.get(keys[1]) == make_record(1)
    store.put(local)
    store.put(make_record(3))
    assert library.missing(keys) == [] and library.get(keys[0]) == local
    assert library.keys() == sorted(keys)
    assert [record.key for record in library.records()] == sorted(keys)
    file_of(store, local).write_text("")
    assert library.get(keys[0]) == published
    for empty in (Library(), Library([], store)):
        with pytest.raises(UnlearnError) as error:
            empty.get("0" * 64)
        assert "0" * 64 in one_sentence(error)


# --- provenance ------------------------------------------------------------------------------


def test_provenance_says_what_ran_where_and_names_neither_host_nor_paths() -> None:
    started = datetime(2024, 5, 6, 9, 8, 7, tzinfo=timezone(timedelta(hours=2)))
    origin = provenance(started, 1.5, "cpu", "unlearn run --method ga", flops=1e9)
    assert origin["started"] == "2024-05-06T07:08:07+00:00"
    assert (origin["seconds"], origin["flops"], origin["device"]) == (1.5, 1e9, "cpu")
    assert set(origin["versions"]) == {"python", "torch", "transformers", "numpy", "unlearnlib"}
    assert origin["versions"]["numpy"] == np.__version__ and origin["threads"] >= 1
    text = json.dumps(origin)
    assert socket.gethostname() not in text and str(Path.home()) not in text
    assert make_record(provenance=origin).provenance == origin


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_of_the_checkout_that_tracks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # set when the tests run from a git hook

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file, installed = tmp_path / "a.py", tmp_path / "b.py"
    assert git_commit(file) is None
    file.write_text("1")
    installed.write_text("1")
    git("init")
    git("add", "a.py")
    git("-c", "commit.gpgsign=false", "commit", "--no-verify", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit(file) == commit
    assert git_commit(installed) is None
    file.write_text("2")
    assert git_commit(file) == f"{commit}-dirty"
