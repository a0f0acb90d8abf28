"""The queue of GPU jobs, all of it in small on a CPU: resumed, trained otherwise, published.

.venv/bin/python -m pytest -q tests/test_gpu_queue.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic

from unlearnlib import study
from unlearnlib.continue_pretraining import Continuation
from unlearnlib.folders import data_folder
from unlearnlib.spec import PROFILES
from unlearnlib.store import Store, read_parquet, write_parquet
from unlearnlib.trained import read_record

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def queue() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu_queue

        yield gpu_queue
    PROFILES.pop("tiny", None)


class Machine:
    """A bare machine: a cache and a data folder of its own."""

    def __init__(self, queue: Any, folder: Path) -> None:
        self.queue, self.folder = queue, folder

    def call(
        self,
        resume: Path | None = None,
        only: str = "*",
        mixed: bool = False,
        seconds: float = 900,
        patient: bool = True,
    ) -> tuple[Any, list[dict[str, Any]], Path]:
        """One call: the desk, the lines that it printed, and its OUT."""
        out = self.folder / "out"
        with pytest.MonkeyPatch.context() as patch, self.queue.data_at(self.folder / "work"):
            patch.setenv("UNLEARN_CACHE", str(self.folder / "cache"))
            lines: list[dict[str, Any]] = []
            patch.setattr(
                self.queue, "print", lambda text, **_: lines.append(json.loads(text)), raising=False
            )
            patch.setattr(self.queue, "run_tests", lambda: (0, ["5 skipped in 0.1s"]))
            desk = self.queue.Desk(
                "tiny", Store(self.folder / "store"), out, self.model(), None, "cpu", mixed, patient
            )  # fmt: skip
            if resume is not None:
                desk.resume(resume)
            self.queue.work(desk, seconds, only)
        return desk, lines, out

    def model(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("UNLEARN_DATA", raising=False)  # the lab's tokenizer
            return str(self.queue.tiny_profile(self.folder / "model"))


@pytest.fixture(scope="module")
def whole(queue: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """All jobs on one machine."""
    return Machine(queue, tmp_path_factory.mktemp("whole")).call()  # type: ignore[return-value]


def jobs(lines: list[dict[str, Any]]) -> list[str]:
    return [line["job"] for line in lines if "job" in line]


def test_every_job_works_and_what_is_left_is_two_files(whole: tuple[Any, Any, Path]) -> None:
    desk, lines, out = whole
    assert lines[-1]["failed"] == 0 and lines[-1]["no_time_for"] == 0
    assert not [line for line in lines if "error" in line or "waits" in line]
    assert sorted(p.name for p in out.iterdir()) == ["records.parquet", "state.json"]
    records = read_parquet(out / "records.parquet")
    assert {r.key for r in records} == set(desk.records)
    kinds = [r.kind for r in records]
    assert kinds.count("throughput") == 4 and kinds.count("score") == 3
    of = {r.spec["recipe"] for r in records if r.kind == "throughput"}
    assert of == {"ours", "plain"}
    stages = {job.partition("-")[0] for job in jobs(lines)}
    assert {"rates", "main", "published", "trajectory", "robust_region", "tune"} <= stages
    state = json.loads((out / "state.json").read_text())
    assert state["tests"] == "5 skipped in 0.1s"
    assert state["verify"] and all(row["agrees"] for row in state["verify"])
    assert set(state["continued"]) == {"vanilla", "oracle-books"}


def test_the_most_valuable_records_come_first(whole: tuple[Any, Any, Path]) -> None:
    done = jobs(whole[1])
    order = ["tests", "throughput", "plain", "models", "rates", "main", "published"]
    order += ["robust_region", "tune"]
    first = [next(i for i, job in enumerate(done) if job.startswith(word)) for word in order]
    assert first == sorted(first)


def test_a_bare_machine_makes_the_models_again_and_goes_on(
    queue: Any, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    desk, lines, _ = Machine(queue, tmp_path).call(resume=whole[2])
    again = [job for job in jobs(lines) if not job.startswith("choose")]
    assert again == ["models"] and desk.same_bits
    assert set(desk.records) == set(whole[0].records)
    # Even where it is not told to make the models first.
    _, lines, _ = Machine(queue, tmp_path / "bare").call(resume=whole[2], only="main-books-ga")
    assert [line.get("computed") for line in lines if "job" in line] == [0]


def test_models_that_come_out_otherwise_are_told_and_their_runs_are_made_anew(
    queue: Any, whole: tuple[Any, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "TINY_RECIPE", lambda: Continuation(4, 2e-3, most_epochs=1))
    machine = Machine(queue, tmp_path)
    _, lines, out = machine.call(resume=whole[2], only="[mrb]*")  # models, rates, main, ...
    (told,) = (line for line in lines if line.get("job") == "models")
    old = whole[0].state["continued"]["vanilla"]["model_hash"]
    assert told["vanilla"]["differs_from"] == old and not lines[-1]["same_models_as_resumed"]
    assert sum(job.startswith("rates-") for job in jobs(lines)) == 7
    assert not [job for job in jobs(lines) if job.startswith("published")]
    # Published are, of each study, the records of one model: here that with more of them.
    data = tmp_path / "data"
    with queue.data_at(data):
        queue.publish(out, "tiny")
        for name in ("rates", "main"):
            found = read_parquet(data / "results" / f"tiny-{name}.parquet")
            assert len(found) == 7 and len({r.model_hash for r in found}) == 1
    # Where somebody says that they count, nothing is made anew.
    more = tmp_path / "mixed"
    _, lines, _ = Machine(queue, more).call(resume=whole[2], only="rates*", mixed=True)
    assert [job for job in jobs(lines) if job.startswith("rates-")] == []


def test_a_job_that_does_not_fit_is_not_begun(queue: Any, tmp_path: Path) -> None:
    desk, lines, _ = Machine(queue, tmp_path).call(seconds=5, patient=False, only="m*")
    assert not desk.records and lines[-1]["did"] == 0 and lines[-1]["no_time_for"] > 0


@pytest.mark.slow
def test_the_tests_for_a_gpu_are_found_and_skipped_without_one(queue: Any) -> None:
    status, lines = queue.run_tests()
    assert status == 0 and "skipped" in lines[-1] and "passed" not in lines[-1]


def test_tests_that_fail_are_named_and_are_made_again(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = type("Desk", (), {"state": {}})()
    lines = ["..F", "FAILED tests/test_gpu.py::test_x", "1 failed, 4 passed in 2s"]
    monkeypatch.setattr(queue, "run_tests", lambda: (1, lines))
    job = queue.tests_job()
    said = "FAILED tests/test_gpu.py::test_x (1 failed, 4 passed in 2s)"
    assert queue.attempt(job, desk) == ({}, said) and not job.done(desk)
    monkeypatch.setattr(queue, "run_tests", lambda: (0, ["5 passed in 2s"]))
    assert queue.attempt(job, desk) == ({"tests": "5 passed in 2s"}, "") and job.done(desk)


def test_a_study_that_cannot_be_computed_is_a_job_that_failed(queue: Any, tmp_path: Path) -> None:
    machine = Machine(queue, tmp_path)
    model = machine.model()
    with queue.data_at(tmp_path / "work"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
        desk = queue.Desk("tiny", Store(tmp_path / "store"), None, model, None, "cpu")
        desk.make_models = dict
        jobs = queue.study_jobs("tiny", "rates", "books", 1.0)[:2]
        for job in jobs:  # the second as well, though nothing new is to be told
            _, said = queue.attempt(job, desk)
            assert said.startswith("The study `rates` cannot be computed: the vanilla model of")


def test_no_run_begins_that_would_end_too_late(queue: Any, tmp_path: Path) -> None:
    """A study stops between its runs, and the job is there for the next call."""
    machine = Machine(queue, tmp_path)
    _, lines, _ = machine.call(only="rates-books-ga")
    assert [line["computed"] for line in lines if "job" in line] == [3]
    job = queue.study_jobs("tiny", "rates", "books", 1.0, seeds=(1, 2))[0]
    with queue.data_at(tmp_path / "work"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
        desk = queue.Desk("tiny", Store(tmp_path / "store"), None, machine.model(), None, "cpu")
        desk.resume(tmp_path / "out")
        desk.end = time.monotonic() + 0.5  # less than one run takes
        assert queue.attempt(job, desk) == ({"computed": 0}, "") and not job.done(desk)
        desk.end = time.monotonic() + 60
        assert queue.attempt(job, desk)[0]["computed"] == 2 and job.done(desk)


@pytest.mark.slow
def test_nothing_that_runs_notebooks_is_needed(tmp_path: Path) -> None:
    """As on the GPU's machine, which has neither papermill nor datasets."""
    blocked = dict.fromkeys(("papermill", "nbformat", "nbclient", "IPython", "datasets"))
    program = (
        f"import sys; sys.modules.update({blocked}); import gpu_queue as q; sys.exit(q.main())"
    )
    words = ["--tiny", "--out", str(tmp_path / "out"), "--only", "rates-books-ga"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    kinds = sorted(r.kind for r in read_parquet(tmp_path / "out" / "records.parquet"))
    assert kinds == ["run", "score", "score"]


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'x'"), RuntimeError(), TypeError("\ntwo\nlines")]
)
def test_whatever_a_job_raises_the_others_are_done_and_kept(
    queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(desk: Any) -> dict[str, Any]:
        raise error

    record = synthetic.run("books", "ga")
    work = [
        queue.Job("first", "first", 0.0, fails, lambda desk: False),
        queue.Job("then", "then", 0.0, lambda desk: desk.put(record) or {}, lambda desk: False),
    ]
    monkeypatch.setattr(queue, "stages", lambda *_: [lambda: work])
    _, lines, out = Machine(queue, tmp_path).call()
    assert jobs(lines) == ["first", "then"] and lines[-1]["failed"] == 1
    assert lines[0]["error"] in ("No module named 'x'", "RuntimeError", "two")
    assert read_parquet(out / "records.parquet") == [record]


def test_an_interrupted_call_keeps_what_was_done(
    queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(desk: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    record = synthetic.run("books", "ga")
    work = [
        queue.Job("first", "first", 0.0, lambda desk: desk.put(record) or {}, lambda desk: False),
        queue.Job("then", "then", 0.0, interrupted, lambda desk: False),
    ]
    monkeypatch.setattr(queue, "stages", lambda *_: [lambda: work])
    monkeypatch.setattr(queue, "SAVE_SECONDS", 1e9)
    with pytest.raises(KeyboardInterrupt):
        Machine(queue, tmp_path).call()
    assert read_parquet(tmp_path / "out" / "records.parquet") == [record]


def test_memory_of_a_job_that_failed_can_be_freed(queue: Any) -> None:
    class Model:
        pass

    gone: list[Any] = []

    def fails(desk: Any) -> dict[str, Any]:
        model = Model()
        gone.append(weakref.ref(model))
        raise RuntimeError("out of memory")

    job = queue.Job("first", "first", 0.0, fails, lambda desk: False)
    assert queue.attempt(job, None) == ({}, "out of memory")
    assert gone[0]() is None


def test_what_a_call_left_is_published_by_study(
    queue: Any, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    with queue.data_at(tmp_path):
        told = queue.publish(whole[2], "tiny")
        assert told["throughput"] == 4 and told["published"]["main"] == 7
        part = tmp_path / "part"  # a call that had no time for the other timings
        part.mkdir()
        (part / "state.json").write_text("{}")
        records = read_parquet(whole[2] / "records.parquet")
        write_parquet(
            [next(r for r in records if r.kind == "throughput")], part / "records.parquet"
        )
        assert queue.publish(part, "tiny")["throughput"] == 1
        assert len(read_parquet(data_folder() / "results" / "tiny-throughput.parquet")) == 4
        main = study.load_study("main", "tiny", ("books",), Store(tmp_path / "none"))
        assert len(main.records) == main.wanted == 7
        assert {b.spec["baseline"] for b in main.baselines} == {"vanilla", "oracle"}
        apart = study.load_study("published", "tiny", ("books",), Store(tmp_path / "none"))
        (alone,) = apart.baselines
        assert alone.spec["base"] == "published" and "oracle_kl/forget" not in alone.metrics
        assert read_record("tiny", "vanilla")["epochs"] >= 1
        assert (data_folder() / "results" / "tiny-tuning.jsonl").read_text().count("\n") == 1


def test_the_training_that_is_published_is_that_of_the_records(
    queue: Any, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    state = json.loads((whole[2] / "state.json").read_text())
    made = state["continued"]
    # As if a later call had trained another vanilla, and done little with it.
    state["continued"] = {name: record | {"epochs": 99} for name, record in made.items()}
    state["starts"]["f" * 64] = state["continued"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "state.json").write_text(json.dumps(state))
    shutil.copy(whole[2] / "records.parquet", out)
    with queue.data_at(tmp_path / "data"):
        queue.publish(out, "tiny")
        assert {name: read_record("tiny", name) for name in made} == made


def test_the_list_gives_an_estimate_of_the_whole(queue: Any) -> None:
    text = queue.listed("open", False)
    *lines, last = text.splitlines()
    assert len(lines) > 10 and last.endswith("minutes")
    total = sum(float(line.split()[0]) for line in lines)
    assert total == pytest.approx(float(last.split()[0]), abs=len(lines))
    assert "throughput: 8 jobs" in text
