"""Killed, out of space, read-only, broken, or two at once: nothing recorded is lost or made twice.

The workers of benchmarks/kill.py run in a process of their own, which forks them: a fork of this
one would have its threads.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from helpers import LENGTH, QUIET, documents, tiny_bench, tiny_data, tiny_llama, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib import study
from unlearnlib.bench import Bench, key_of
from unlearnlib.cli import main
from unlearnlib.cli import pretrain as cli_pretrain
from unlearnlib.cli import run as cli_run
from unlearnlib.cli.arguments import write_output
from unlearnlib.cli.parser import build_parser
from unlearnlib.cli.run import _claimed
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.models import load_model, model_hash, save_model
from unlearnlib.report.saved import check_out
from unlearnlib.run import execute
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store import FORMAT, Store, manifest, read_parquet, write_parquet
from unlearnlib.store.claims import _boot, _born, _namespace, reserved, scratch_name
from unlearnlib.study import Portion, Shard, Study, StudyResult, run_study
from unlearnlib.study.grids import Asked
from unlearnlib.trained import lab_checkpoint

PROJECT = Path(__file__).resolve().parent.parent
KILL = PROJECT / "benchmarks" / "kill.py"
SLURM = PROJECT / "configs" / "slurm" / "study.sh"
METHODS = ("ga", "random_label", "ga_gd_in_dist")


def one_sentence(error: pytest.ExceptionInfo[UnlearnError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ": " in text
    return text


# --- killed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What benchmarks/kill.py counts, with 20 kills."""
    out = tmp_path_factory.mktemp("kill") / "kill.json"
    done = subprocess.run(
        [sys.executable, str(KILL), "--kills", "20", "--seed", "0", "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_study_killed_twenty_times_ends_in_the_records_of_an_undisturbed_one(
    counts: dict[str, Any],
) -> None:
    drawn = counts["at_random"]
    assert drawn["kills"] == 20 == len(drawn["moments"])
    assert drawn["records_before_resuming"] < drawn["records_expected"]  # work was left
    assert (drawn["runs"], drawn["baselines"]) == (24, 2)
    assert drawn["records_expected"] == drawn["records_after"] == drawn["records_equal"] == 26
    assert drawn["unexpected_records"] == drawn["busy_at_the_end"] == 0


def test_nothing_recorded_is_computed_again_changed_or_lost(counts: dict[str, Any]) -> None:
    drawn = counts["at_random"]
    assert drawn["recomputed"] == drawn["rewritten"] == drawn["lost"] == 0
    # What was begun twice is what a kill had ended: never more than the kills.
    assert 0 < drawn["computations_lost_to_kills"] <= drawn["kills"]


def test_nothing_half_written_is_taken_for_a_record(counts: dict[str, Any]) -> None:
    drawn, steps = counts["at_random"], counts["at_every_step"]
    assert drawn["unreadable"] == drawn["set_aside"] == 0
    assert steps["steps"] > 20 and steps["partial_files"] > 0  # some did die in the middle
    assert 0 < steps["filed_before_the_kill"] < steps["steps"]
    assert steps["unreadable"] == steps["rewritten"] == steps["not_resumed"] == 0


MOVER = """
import os, shutil, signal, sys
from pathlib import Path
from unlearnlib.store.files import move_in
root = Path(sys.argv[1])
def write(folder, which, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(which)
OLD = ["config.json", "model-00001-of-00002.safetensors", "record.json", "notes.txt",
       "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
NEW = ["config.json", "model.safetensors", "record.json", "tokenizer.json",
       "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
def steps(real):  # every change of a name counts; the one that is chosen is never made
    def counted(*given, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))
            if sys.argv[2] == "SIGKILL":
                signal.pause()
        return real(*given, **more)
    return counted
os.replace, os.unlink = steps(os.replace), steps(os.unlink)
Path.unlink = lambda self, missing_ok=False: os.path.exists(self) and os.unlink(self)
for number in range(1, 12):
    folder, staged = root / str(number), root / f"staged-{number}"
    write(folder, "old", OLD)
    write(staged, "new", NEW)
    if (child := os.fork()) == 0:
        left = number
        try:
            move_in(staged, folder, [folder / "model-00001-of-00002.safetensors"])
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def moved(root: Path, name: str) -> list[int]:
    """The exit codes of moving a model over another one, ended by a signal at step 1, 2, ..."""
    done = subprocess.run(
        [sys.executable, "-c", MOVER, str(root), name],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(code) for code in done.stdout.split()]


def test_a_model_killed_while_it_replaces_another_is_old_or_new_or_does_not_load(
    tmp_path: Path,
) -> None:
    codes = moved(tmp_path, "SIGKILL")
    assert codes == [-9] * 9 + [0] * 2  # two marks, old weights, six new files
    for number in range(1, len(codes) + 1):
        folder = tmp_path / str(number)
        for mark in (folder / "config.json", folder / "adapter" / "adapter_config.json"):
            if mark.exists():
                files = [p for p in mark.parent.iterdir() if p.is_file() and p.suffix != ".txt"]
                assert len({p.read_text() for p in files}) == 1
        assert (folder / "notes.txt").read_text() == "old"


def test_an_interrupt_waits_until_a_model_is_in_its_place(tmp_path: Path) -> None:
    codes = moved(tmp_path, "SIGINT")
    assert codes == [130] * 9 + [0] * 2
    for number in range(1, len(codes) + 1):
        files = [p for p in (tmp_path / str(number)).rglob("*.*") if p.suffix != ".txt"]
        assert len(files) == 6 and {p.read_text() for p in files} == {"new"}


TERMINATED = """
import sys, tempfile, time
from importlib import import_module
from pathlib import Path
from unlearnlib.cli.output import Report
cli = import_module("unlearnlib.cli.main")
def command(args):
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]), prefix=".unlearn-"):
        if sys.argv[2] == "saved":
            (Path(args.out) / "config.json").write_text("a new one")
        print("ready", file=sys.stderr, flush=True)
        for _ in range(3000):  # a signal just before a long sleep would wait for its end
            time.sleep(0.01)
    return Report({}, "")
cli._function_of = lambda name: command
sys.exit(cli.main(["run", "--method", "ga", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("when", ["before", "saved"])
def test_a_command_that_is_ended_leaves_no_hidden_copy_and_tells_the_truth(
    name: str, when: str, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path), when],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == {"SIGTERM": -15, "SIGINT": 130}[name]
    assert [p.name for p in tmp_path.iterdir()] == (["config.json"] if when == "saved" else [])
    truth = f"the model and its card are in {tmp_path}" if when == "saved" else "nothing was saved"
    assert truth in said and "Traceback" not in said


def test_no_command_writes_a_file_by_itself() -> None:
    """Files that a user names are written by `write_output`: whole, or the old one stays."""
    direct = re.compile(r"\.write_(text|bytes)\(|open\([^)]*[\"'][wax]b?[\"']")
    found = {
        path.name: len(direct.findall(path.read_text(encoding="utf-8")))
        for path in (PROJECT / "unlearnlib" / "cli").glob("*.py")
    }
    assert {name: count for name, count in found.items() if count} == {}


def test_a_disk_that_fills_leaves_the_old_file_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UnlearnError, match="free some space"):
            write_output(out, b"new", "--report", force=True)
    with pytest.raises(UnlearnError, match=r"--report .* was written by something else meanwhile"):
        write_output(out, b"new", "--report", force=False)
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]
    (tmp_path / "link").symlink_to(out)
    write_output(tmp_path / "link", b"new", "--report", force=True)
    assert out.read_text() == "new" and (tmp_path / "link").is_symlink()
    write_output(Path("/dev/null"), b"new", "--report", force=True)
    assert Path("/dev/null").is_char_device()


# --- a tiny study --------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudyResult]:
    """Runs a study of six runs and a baseline per domain, on models of a few thousand weights."""

    def grid(profile: str, domain: str, asked: Asked) -> list[RunSpec]:
        return [
            RunSpec(profile, domain, method, 1e-3, updates=1, batch_size=2, seed=seed)
            for method in asked.methods or METHODS
            for seed in asked.seeds or range(2)
        ]

    monkeypatch.setitem(study.STUDIES, "small", Study("small", "a few runs", grid))
    made: dict[str, Bench] = {}

    def open_one(profile: str, domain: str, base: str) -> Bench:
        if domain not in made:
            data = tiny_data(3, 4)
            made[domain] = tiny_bench(
                dtype=torch.float32, data=type(data)(**{**vars(data), "domain": domain})
            )
        return made[domain]

    def run(root: Path, domains: tuple[str, ...] = ("books",), **more: Any) -> StudyResult:
        return run_study(
            "small",
            domains=domains,
            store=Store(root),
            fresh=True,
            benches=open_one,
            progress=False,
            **more,
        )

    return run


def records_of(root: Path) -> dict[str, dict[str, Any]]:
    return {record.key: record.comparable() for record in Store(root).records()}


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the last change of each record's file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.glob("records/??/*.json")
    }


# --- shards --------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 100))
def test_shards_divide_a_study_without_gap_or_overlap(count: int, places: int) -> None:
    shards = [Shard.parse(f"{number}/{count}") for number in range(1, count + 1)]
    owners = [[str(shard) for shard in shards if shard.takes(place)] for place in range(places)]
    assert all(len(owner) == 1 for owner in owners)
    sizes = [sum(map(shard.takes, range(places))) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text",
    ["", "/", "1", "1/", "/2", "0/4", "5/4", "-1/4", "1/0", "0/0", "1/2/3", "a/b", "1.0/2", "1 /2",
     "+1/2", "1_0/20", "²/3", "\uff11/\uff12", "1/2\n", "1/" + "9" * 5000],
)  # fmt: skip
def test_a_shard_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UnlearnError) as error:
        Shard.parse(text)
    assert "I/N" in str(error.value) and repr(text) in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_shards_together_are_the_whole_study(
    count: int, small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    domains = ("books", "arxiv")
    whole = small(tmp_path / "whole", domains)
    assert (whole.computed, whole.wanted) == (14, 12)  # and vanilla's scores on each domain
    left, computed = [], []
    for number in range(1, count + 1):
        part = small(tmp_path / "shards", domains, portion=Portion(shard=Shard(number, count)))
        assert part.busy == 0 and part.wanted == 12
        assert len(part.records) + len(part.baselines) == part.computed
        computed.append(part.computed)
        left.append(part.left)
    assert sum(computed) == 14 and left[-1] == 0
    assert left == sorted(left, reverse=True) and len(set(left)) == count
    assert records_of(tmp_path / "shards") == records_of(tmp_path / "whole")
    gathered = small(tmp_path / "shards", domains)
    assert gathered.computed == 0
    assert [r.spec for r in gathered.records] == [r.spec for r in whole.records]


def test_a_shard_that_starts_again_has_the_same_runs(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    first = small(tmp_path, portion=Portion(shard=Shard(2, 3)))
    small(
        tmp_path, portion=Portion(methods=["ga"])
    )  # what somebody else records meanwhile changes nothing
    again = small(tmp_path, portion=Portion(shard=Shard(2, 3)))
    assert [r.key for r in again.records] == [r.key for r in first.records]
    assert (first.computed > 0, again.computed) == (True, 0)


def test_more_shards_than_runs_leave_some_without_work(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    part = small(tmp_path, portion=Portion(shard=Shard(50, 99)))
    assert (part.records, part.baselines, part.computed, part.left) == ([], [], 0, 6)


def test_the_slurm_example_is_a_command_of_ours_and_its_shards_are_all_of_them() -> None:
    text = SLURM.read_text()
    variables = dict(re.findall(r'^([A-Z]+)="?(?:\$\{[A-Z]+:-)?([^}"\n]+)\}?"?$', text, re.M))
    (array,) = re.findall(r"^#SBATCH --array=1-(\d+)$", text, re.M)
    assert variables["SHARDS"] == array
    (line,) = [line for line in text.splitlines() if line.startswith("unlearn ")]
    for task in range(1, int(array) + 1):
        filled = line.replace("$SLURM_ARRAY_TASK_ID", str(task))
        for name, value in variables.items():
            filled = filled.replace(f"${name}", value)
        assert "$" not in filled
        args = build_parser().parse_args(shlex.split(filled)[1:])
        assert Shard.parse(args.shard) == Shard(task, int(array))
        assert args.name in study.STUDIES and args.store and args.command == "study"
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0
    # The command that gathers, in the comments, is one of ours too.
    (gather,) = re.findall(r"^#   unlearn (study .*)$", text, re.M)
    assert build_parser().parse_args(shlex.split(gather)).shard is None


# --- no space, no permission ---------------------------------------------------------------------


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory; skips the test where that needs a right we lack."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root; the same is simulated in test_store.py")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_study_on_a_full_disk_is_one_sentence_and_goes_on_when_there_is_space(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    small(tmp_path / "whole")
    size = sum(p.stat().st_size for p in (tmp_path / "whole").glob("records/??/*"))
    with disk(tmp_path / "disk", f"{size // 2 // 1024}k") as folder:
        with pytest.raises(UnlearnError) as error:
            small(folder / "runs")
        assert "free some space" in one_sentence(error) and str(folder) in str(error.value)
        before = files_of(folder / "runs")
        whole = records_of(tmp_path / "whole")
        assert 0 < len(before) < 7
        assert records_of(folder / "runs").items() <= whole.items()
        assert not list((folder / "runs").rglob("*.tmp"))
        remount(folder, "size=16m")
        again = small(folder / "runs")
        assert again.computed == 7 - len(before)
        assert records_of(folder / "runs") == whole
        assert files_of(folder / "runs").items() >= before.items()


def test_a_study_whose_disk_fills_at_any_moment_keeps_what_it_has(
    small: Callable[..., StudyResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path / "whole")
    whole, real = records_of(tmp_path / "whole"), os.fsync
    filled, synced = 0, []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: synced.append(handle) or real(handle))
        small(tmp_path / "counted", portion=Portion(methods=["ga"]))
    assert len(synced) > 5
    for allowed in range(0, len(synced), max(1, len(synced) // 6)):
        calls = iter(range(allowed))

        def full(handle: int, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        root = tmp_path / str(allowed)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UnlearnError) as error:
                small(root, portion=Portion(methods=["ga"]))
        assert "free some space" in one_sentence(error)
        before = files_of(root)
        filled += len(before)
        assert records_of(root).items() <= whole.items()
        small(root, portion=Portion(methods=["ga"]))
        assert files_of(root).items() >= before.items() and len(files_of(root)) == 3
    assert filled > 0


def test_a_read_only_store_is_read_and_a_missing_run_in_it_is_one_sentence(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "16m") as folder:
        small(folder / "runs", portion=Portion(methods=["ga"]))
        remount(folder, "ro")
        read = small(folder / "runs", portion=Portion(methods=["ga"]))
        assert (read.computed, len(read.records)) == (0, 2)
        with pytest.raises(UnlearnError) as error:
            small(folder / "runs")
        assert "check its permissions or choose another folder" in one_sentence(error)


def test_a_model_that_does_not_fit_on_the_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    model = tiny_llama(dtype=torch.float32, hidden=64)
    with disk(tmp_path / "disk", "128k") as folder:
        with pytest.raises(UnlearnError) as error:
            save_model(model, tiny_tokenizer(), folder / "model")
        assert "free some space" in one_sentence(error)
        assert list(folder.iterdir()) == []
        remount(folder, "size=16m")
        save_model(model, tiny_tokenizer(), folder / "model")
        assert model_hash(load_model(folder / "model")) == model_hash(model)


def test_a_checkpoint_that_does_not_fit_is_one_sentence_and_the_store_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(updates=4, batch_size=2, learning_rate=1e-3, precision="float64", method="ga")
    bench = tiny_bench(execution=Execution(progress=False, save_every=2))
    with disk(tmp_path / "cache", "16k") as folder:
        monkeypatch.setenv("UNLEARN_CACHE", str(folder))
        with pytest.raises(UnlearnError) as error:
            execute(bench, spec)
        assert "free some space" in one_sentence(error)
        assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_study_leaves_a_store_of_a_newer_version_alone(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    small(tmp_path, portion=Portion(methods=["ga"]))
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UnlearnError) as error:
        small(tmp_path)
    assert "upgrade unlearnlib" in one_sentence(error)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_store_that_a_newer_version_takes_over_while_a_study_runs_gets_no_more_records(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    small(tmp_path, portion=Portion(methods=["ga"]))
    opened = Store(tmp_path)
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    before = files_of(tmp_path)
    record = next(iter(opened.records()))
    with pytest.raises(UnlearnError, match="upgrade unlearnlib"):
        opened.put(record)
    assert files_of(tmp_path) == before


# --- truncated weights ---------------------------------------------------------------------------


def test_weights_truncated_at_any_byte_are_one_sentence(tmp_path: Path) -> None:
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    raw = weights.read_bytes()
    draw = random.Random(7)
    for length in (0, 1, 7, 8, len(raw) - 1, *(draw.randrange(len(raw)) for _ in range(12))):
        weights.write_bytes(raw[:length])
        with pytest.raises(UnlearnError) as error:
            load_model(tmp_path / "model")
        assert "corrupt" in one_sentence(error) and "model" in str(error.value)
        assert weights.stat().st_size == length  # nobody else's file is touched
    weights.write_bytes(raw)
    load_model(tmp_path / "model")


def test_a_run_whose_checkpoint_is_truncated_at_any_byte_begins_anew_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    spec = RunSpec(updates=4, batch_size=2, learning_rate=1e-3, precision="float64", method="ga")
    plain = tiny_bench()
    _, expected = execute(plain, spec)
    bench = tiny_bench(execution=Execution(progress=False, save_every=2))
    path = tmp_path / "checkpoints" / f"{key_of(bench, spec)}.safetensors"

    class Stop(Exception):
        pass

    def stop(*_: object) -> bool:
        raise Stop

    def after_three(model: object, update: int) -> bool:
        return stop() if update == 3 else False

    with pytest.raises(Stop):
        execute(bench, spec, stop_after=after_three)
    raw = path.read_bytes()
    draw = random.Random(11)
    for length in (0, 8, len(raw) - 1, *(draw.randrange(len(raw)) for _ in range(6))):
        path.write_bytes(raw[:length])
        caplog.clear()
        _, record = execute(bench, spec)
        assert record.comparable() == expected.comparable()
        assert "cannot be used" in caplog.text and not path.exists()
    path.write_bytes(raw)
    caplog.clear()
    _, record = execute(bench, spec)
    assert record.comparable() == expected.comparable() and "cannot be used" not in caplog.text


# --- two at once ---------------------------------------------------------------------------------


def test_two_workers_asked_for_the_same_study_at_once_compute_each_run_once(
    small: Callable[..., StudyResult], tmp_path: Path
) -> None:
    barrier, results = threading.Barrier(2), []

    def work() -> None:
        barrier.wait(60)
        results.append(small(tmp_path / "both"))

    small(tmp_path / "alone")
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert len(results) == 2
    assert sum(result.computed for result in results) == 7
    assert records_of(tmp_path / "both") == records_of(tmp_path / "alone")


def test_a_run_that_another_process_computes_is_refused_by_name(tmp_path: Path) -> None:
    bench = tiny_bench()
    key = key_of(bench, RunSpec(method="ga"))
    with (
        Store(tmp_path).claim(key) as mine,
        pytest.raises(UnlearnError) as error,
        _claimed(Store(tmp_path), key),
    ):
        raise AssertionError("the second process was let in")
    assert mine and key[:12] in one_sentence(error) and "another process" in str(error.value)
    with _claimed(Store(tmp_path), key):
        pass  # and now it is free


def test_a_run_that_another_process_finishes_before_the_claim_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--json", "--quiet", "--profile", "lab", "--domain", "books", "--method", "ga"]

    @contextmanager
    def later(store: Store, key: str) -> Iterator[None]:
        """Another process finishes the run between our looking and our claiming."""
        store.put(dataclasses.replace(synthetic.main_study()[0], key=key))
        with _claimed(store, key):
            yield

    def execute(*_: object, **__: object) -> None:
        raise AssertionError("it is made again")

    monkeypatch.setattr(cli_run, "_claimed", later)
    monkeypatch.setattr(cli_run, "execute", execute)
    assert main([*words, "--set", "updates=1", "--store", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] is False
    assert not list((tmp_path / "claims").iterdir())


PUBLISHER = """
import sys, time
from pathlib import Path
from unlearnlib.store import read_parquet
from unlearnlib.study import publishing
write = publishing.write_parquet
def slowly(records, path):
    Path(sys.argv[1]).touch()  # the file was read, and is not written yet
    time.sleep(0.5)
    write(records, path)
publishing.write_parquet = slowly
found = [r for r in read_parquet(Path(sys.argv[2])) if r.spec["domain"] == sys.argv[4]]
publishing._merge(Path(sys.argv[3]), found)
"""


def test_two_processes_that_publish_into_one_file_lose_nothing_of_each_other(
    tmp_path: Path,
) -> None:
    records = synthetic.main_study()
    write_parquet(records, tmp_path / "all.parquet")
    folder = tmp_path / "results"
    files = [tmp_path / "read", tmp_path / "all.parquet", folder / "lab-main.parquet"]
    sent = [sys.executable, "-c", PUBLISHER, *map(str, files)]
    there = os.environ | {"PYTHONPATH": str(PROJECT)}
    first = subprocess.Popen([*sent, "books"], env=there)
    while first.poll() is None and not (tmp_path / "read").exists():
        time.sleep(0.01)
    second = subprocess.Popen([*sent, "arxiv"], env=there)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    found = read_parquet(folder / "lab-main.parquet")
    assert {r.spec["domain"] for r in found} == {"books", "arxiv"}
    assert {path.name for path in folder.iterdir()} == {"lab-main.parquet", "manifest.json"}
    assert manifest.losses(folder, "lab") == {}  # and no lock: what both have sent is noted


# --- claims of processes that are no more --------------------------------------------------------


def claimed_by(root: Path, key: str, **owner: object) -> None:
    path = root / "claims" / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    here = {"host": socket.gethostname(), "namespace": _namespace()}
    body = {**here, "time": "", "token": "x", **owner}
    path.write_text(json.dumps(body))


def test_a_process_that_was_killed_and_not_yet_reaped_holds_no_claim(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("only Linux tells that a process is a zombie")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        claimed_by(tmp_path, "a" * 64, pid=child.pid, born=_born(child.pid))
        with Store(tmp_path).claim("a" * 64) as mine:
            assert not mine
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
        with Store(tmp_path).claim("a" * 64) as mine:
            assert mine
    finally:
        child.kill()
        child.communicate()


def test_a_process_that_got_the_number_of_a_dead_one_holds_no_claim(tmp_path: Path) -> None:
    if _born(os.getpid()) is None:
        pytest.skip("this system does not tell when a process began")
    claimed_by(tmp_path, "a" * 64, pid=os.getpid(), born=_born(os.getpid()))
    with Store(tmp_path).claim("a" * 64) as mine:
        assert not mine
    claimed_by(tmp_path, "b" * 64, pid=os.getpid(), born=f"{_boot(_born(os.getpid()))}:17")
    with Store(tmp_path).claim("b" * 64) as mine:
        assert mine


@pytest.mark.parametrize("ended", [0, 1, 2])
def test_token_scores_are_saved_whole_or_the_old_ones_stay(
    ended: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended while the bytes are written, while they are synced, or not at all."""
    old, new = (score_chunks(tiny_llama(seed=seed), _chunks(), execution=QUIET) for seed in (0, 1))
    path = tmp_path / "scores.npz"
    old.save(path)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    if ended:
        monkeypatch.setattr(os, ("fsync", "replace")[ended - 1], end)
        with pytest.raises(KeyboardInterrupt):
            new.save(path)
        monkeypatch.undo()
    else:
        new.save(path)
    found = TokenScores.load(path)
    assert np.array_equal(found.logprob, (old if ended else new).logprob)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.npz"]
    (tmp_path / "link").symlink_to(path)
    new.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    new.save("/dev/null")
    assert not Path("/dev/null").is_file()
    with pytest.raises(UnlearnError, match="cannot write"):
        new.save(path / "below a file")


def _chunks() -> list[Chunk]:
    return cut(documents("scored", 3), tiny_tokenizer(), LENGTH)


# --- one folder, one run -------------------------------------------------------------------------


def test_a_second_run_on_one_folder_learns_it_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new" / "out", tmp_path / "empty"):
        with reserved(out, "a model"):
            same = Path(f"{out.parent}/./{out.name}")
            with (
                pytest.raises(UnlearnError, match="another process is making a model: wait for it"),
                reserved(same, "a model"),
            ):
                pass
            with reserved(out.with_name("other"), "a model"):
                pass
            check_out(out, force=False)  # what the other keeps there is no model
        with reserved(out, "a model"):
            pass
    assert {p.name for p in tmp_path.rglob("*")} == {"empty"}


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "forget.txt"
    texts.write_text("some text to forget")
    model = str(lab_checkpoint("vanilla"))
    words = ["--model", model, "--forget", str(texts), "--out", str(tmp_path / "out")]
    with reserved(tmp_path / "out", "a model"):
        for command in ("run", "tune"):
            assert main([command, *words, "--method", "ga"]) == 2
            assert "another process is making a model" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from unlearnlib.report import saved
def save_model(model, tokenizer, folder, more):
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
saved.save_model = save_model
saved.json = SimpleNamespace(dumps=lambda body, indent: "")
saved.model_card = lambda card: ""
card = SimpleNamespace(source="", splits=(), before={})
record = SimpleNamespace(to_json=dict)
out = Path(sys.argv[1])
with saved.reserved(out, ""):
    saved.save_unlearned(out, None, None, record, card)
"""


def test_what_a_killed_run_left_hidden_is_removed_by_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {p.name for p in tmp_path.iterdir()}
    assert len(left) == 2 and all(name.startswith(".unlearn-") for name in left)  # and the claim
    (tmp_path / ".unlearn-of-somebody-else").mkdir()
    with reserved(tmp_path / "other", "a model"):  # of another folder it removes nothing
        assert left < {p.name for p in tmp_path.iterdir()}
    with reserved(out, "a model"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".unlearn-of-somebody-else"]


def test_two_do_not_train_one_model_and_the_next_removes_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    monkeypatch.setattr(cli_pretrain, "train_lab_model", lambda name, **how: RECORD)
    folder = tmp_path / "lab" / "vanilla"
    words = ["pretrain", "--only", "vanilla", "--quiet"]
    with reserved(folder, "it"):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "another process is making the model 'vanilla' of profile 'lab': wait for it" in said
    left = tmp_path / "lab" / f"{scratch_name(folder)}-abc"
    left.mkdir(parents=True)
    assert main(words) == 0 and not left.exists()


RECORD = {
    "name": "vanilla", "parameters": 1, "updates": 1, "losses": [1.0], "model_hash": "m",
    "provenance": {"seconds": 1.0},
}  # fmt: skip
