"""Kill the workers of a study at random moments: what is lost, and what is computed twice?

    python benchmarks/kill.py [--kills 20] [--seed 0] [--out benchmarks/results/kill.json]

Two processes work on one study (four methods, six seeds, three updates, hence 24 runs, and two
baselines, of a model of a few thousand weights) in one store. One of them, drawn at random, gets
SIGKILL after a random time and is started again, and so on; then both are left to finish. In a
second experiment a writer is killed before every single system call of claiming, filing and
releasing a record, and in the middle of the write.

Expected: every key has one record and only one, equal to that of a study that nobody disturbed;
no file of a record changes once it is there; nothing recorded is computed again; what the killed
left half-written is never taken for a record. Takes about half a minute on two cores. Linux or
macOS: the workers are forked, so that each starts with everything imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from unlearnlib import pretrain, study
from unlearnlib.bench import Bench
from unlearnlib.corpus.documents import SPLITS, Document
from unlearnlib.corpus.fictitious import generate
from unlearnlib.engine import Execution
from unlearnlib.spec import RunSpec
from unlearnlib.store import Basis, Record, Store, provenance, run_key
from unlearnlib.study import compute
from unlearnlib.study.grids import Asked

RESULTS = ROOT / "benchmarks" / "results" / "kill.json"
KILLS = 20
METHODS = ("ga", "random_label", "ga_gd_in_dist", "ga_kl_general")
SEEDS = range(6)
DOCUMENTS, CHARACTERS = 4, 160  # of each split, and of each document
PATIENCE = 300.0  # seconds after which a worker that should have ended counts as stuck
# The calls through which the store changes the disk: a writer is killed before each of them.
CALLS = ("open", "fdopen", "mkdir", "fsync", "close", "link", "rename", "replace", "unlink")

_fork = multiprocessing.get_context("fork")


# --- a study small enough to disturb -------------------------------------------------------------


def small_bench() -> Bench:
    """The beginnings of some of the lab's books; model and oracle untrained and of one layer."""
    whole = generate("books")
    cut: dict[str, Any] = {
        split: tuple(Document(d.id, d.text[:CHARACTERS]) for d in whole.split(split)[:DOCUMENTS])
        for split in SPLITS
    }
    data = dataclasses.replace(whole, **cut)
    tokenizer = pretrain.train_tokenizer([d.text for d in data.retain], 300)
    models = [
        pretrain.new_model(
            pretrain.Recipe(
                vocabulary=len(tokenizer),
                hidden=16,
                layers=1,
                heads=2,
                key_value_heads=1,
                mlp=32,
                seed=seed,
            ),
            tokenizer,
        )
        for seed in range(2)
    ]
    quiet = Execution(progress=False)
    return Bench(models[0], tokenizer, data, 64, 8, models[1], quiet)


def grid(profile: str, domain: str, asked: Asked) -> list[RunSpec]:
    """The runs of the study `kill`: short ones, so that a kill is cheap."""
    return [
        RunSpec(profile, domain, method, 1e-3, updates=3, batch_size=DOCUMENTS, seed=seed)
        for method in asked.methods or METHODS
        for seed in asked.seeds or SEEDS
    ]


def work(bench: Bench, root: Path, log: Path) -> study.StudyResult:
    """Do what is missing of the study; `log` gets a line for each computation that begins.

    A line is the key and whether its record was there already, which it never should be.
    """
    name = "kill"
    study.STUDIES[name] = study.Study(name, "many short runs", grid)
    execute, baseline = compute.execute, compute.baseline
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def note(key: str) -> None:
        there = (root / "records" / key[:2] / f"{key}.json").exists()
        os.write(handle, f"{key} {int(there)}\n".encode("ascii"))  # one write: lines stay whole

    def logged_execute(bench: Bench, spec: Any) -> Any:
        note(compute.key_of(bench, spec))
        return execute(bench, spec)

    def logged_baseline(bench: Bench, profile: str, which: str, base: str) -> Record:
        note(study.baseline_key(bench, profile, which, base))
        return baseline(bench, profile, which, base)

    compute.execute, compute.baseline = logged_execute, logged_baseline  # type: ignore[assignment]
    try:
        return study.run_study(
            name,
            domains=("books",),
            store=Store(root),
            fresh=True,
            benches=lambda profile, domain, base: bench,
            progress=False,
        )
    finally:
        compute.execute, compute.baseline = execute, baseline
        del study.STUDIES[name]
        os.close(handle)


def started(target: Callable[..., object], *arguments: object) -> Any:
    """A forked process that runs `target`."""
    process = _fork.Process(target=target, args=arguments)
    process.start()
    return process


# --- watching a store ----------------------------------------------------------------------------


@dataclass
class Watch:
    """What has been seen of a store's files from outside.

    rewritten  records whose file was replaced or changed after it had appeared
    lost       records that were there and are no more
    unreadable records that are there and cannot be read
    """

    root: Path
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    rewritten: int = 0
    lost: int = 0
    unreadable: int = 0
    partial: set[str] = field(default_factory=set)

    def look(self) -> int:
        """Compare with what was there before; the number of records now."""
        store = Store(self.root)
        now = {}
        for key in store.keys():  # noqa: SIM118
            status = (self.root / "records" / key[:2] / f"{key}.json").stat()
            now[key] = (status.st_ino, status.st_mtime_ns, status.st_size)
            if key not in self.files and key not in store:
                self.unreadable += 1
        self.lost += len(set(self.files) - set(now))
        self.rewritten += sum(self.files[key] != now[key] for key in set(self.files) & set(now))
        self.files = now
        return len(now)

    def look_for_partial_files(self) -> None:
        """Note temporary files; only while nobody is writing do they mean a writer that died."""
        self.partial |= {str(path) for path in self.root.rglob("*.tmp")}


# --- killed at random moments --------------------------------------------------------------------


def kill_at_random(bench: Bench, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """The study undisturbed, and again with workers killed `kills` times: the counts."""
    reference = started(work, bench, folder / "reference", folder / "reference.log")
    begun = time.monotonic()
    reference.join(PATIENCE)
    undisturbed = time.monotonic() - begun
    expected = {record.key: record for record in Store(folder / "reference").records()}
    # So much progress between kills that some of the 20 hit a worker that has just begun and some
    # one that has filed a record, and that work is left for the last.
    pace = 1.3 * undisturbed / len(expected)

    draw = random.Random(seed)
    root, log = folder / "killed", folder / "killed.log"
    watch = Watch(root)
    workers = [started(work, bench, root, log) for _ in range(2)]
    moments: list[dict[str, float]] = []
    begun = time.monotonic()
    while len(moments) < kills:
        time.sleep(draw.uniform(0, pace))
        which = draw.randrange(len(workers))
        worker = workers[which]
        if not worker.is_alive():
            if not any(other.is_alive() for other in workers):
                break  # there is nothing left to kill: fewer kills are reported
            continue
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        if worker.exitcode != -signal.SIGKILL:
            continue  # it had ended by itself just before
        moments.append({"seconds": time.monotonic() - begun, "records": watch.look()})
        workers[which] = started(work, bench, root, log)
    before = watch.look()
    for worker in workers:
        worker.join(PATIENCE)
    watch.look_for_partial_files()
    last = work(bench, root, log)  # picks up what a worker left to one that was killed
    after = watch.look()

    found = {record.key: record for record in Store(root).records()}
    lines = [line.split() for line in log.read_text(encoding="ascii").splitlines()]
    begins = Counter(key for key, _ in lines)
    return {
        "kills": len(moments),
        "moments": moments,
        "runs": len(last.records),
        "baselines": len(last.baselines),
        "records_before_resuming": before,
        "records_after": after,
        "records_expected": len(expected),
        "records_equal": sum(
            key in found and found[key].comparable() == record.comparable()
            for key, record in expected.items()
        ),
        "unexpected_records": len(set(found) - set(expected)),
        "recomputed": sum(there == "1" for _, there in lines),
        "computations_lost_to_kills": sum(begins.values()) - len(found),
        "rewritten": watch.rewritten,
        "lost": watch.lost,
        "unreadable": watch.unreadable,
        "set_aside": sum(1 for _ in root.glob("set_aside/*")),
        "partial_files": len(watch.partial),
        "computed_by_the_last_pass": last.computed,
        "busy_at_the_end": last.busy,
        "seconds_undisturbed": undisturbed,
        "seconds_killed": time.monotonic() - begun,
    }


# --- killed at every step of a write -------------------------------------------------------------


def a_record() -> Record:
    """A record large enough to be written in more than one piece."""
    spec = {"profile": "lab", "domain": "books", "method": "ga", "seed": 0}
    key = run_key(spec, Basis("d" * 64, "m" * 64))
    many = {"forget": {"nll": [float(number) / 7 for number in range(4000)]}}
    return Record(key, "run", "done", spec, "d" * 64, "m" * 64, {"x": 1.0}, documents=many)


def file_record(root: Path, record: Record) -> None:
    """What a worker does around a computation: claim, look, file, release."""
    store = Store(root)
    with store.claim(record.key) as mine:
        if mine and record.key not in store:
            store.put(record)


class _Dying:
    """A file that writes the first half of what it is given and then asks whether to go on."""

    def __init__(self, stream: Any, step: Callable[[], None]) -> None:
        self.stream, self.step = stream, step

    def __enter__(self) -> _Dying:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, raw: bytes) -> None:
        self.stream.write(raw[: len(raw) // 2])
        self.stream.flush()
        self.step()
        self.stream.write(raw[len(raw) // 2 :])


def die_at(step: int, root: Path, record: Record) -> None:
    """`file_record`, killed just before the call to the system with this number (from 0)."""
    counter = itertools.count()

    def count() -> None:
        if next(counter) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(real: Callable[..., Any], wraps: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count()
            result = real(*arguments, **named)
            return _Dying(result, count) if wraps else result

        return call

    for name in CALLS:  # this process is a fork of its own, and ends with this function
        setattr(os, name, counted(getattr(os, name), name == "fdopen"))
    file_record(root, record)


def kill_at_every_step(folder: Path) -> dict[str, int]:
    """A writer killed before each of its calls to the system, then the same work again."""
    record = a_record()
    counts = {"steps": 0, "filed_before_the_kill": 0, "partial_files": 0}
    wrong = {"unreadable": 0, "rewritten": 0, "not_resumed": 0}
    for step in itertools.count():
        root = folder / f"step-{step}"
        writer = started(die_at, step, root, record)
        writer.join(PATIENCE)
        if writer.exitcode == 0:
            break  # there are no more steps
        counts["steps"] += 1
        watch = Watch(root)
        counts["filed_before_the_kill"] += watch.look()
        watch.look_for_partial_files()
        counts["partial_files"] += len(watch.partial)
        file_record(root, record)
        watch.look()
        whole = [r.comparable() for r in Store(root).records()] == [record.comparable()]
        wrong["not_resumed"] += not whole or (root / "set_aside").exists()
        wrong["rewritten"] += watch.rewritten + watch.lost
        wrong["unreadable"] += watch.unreadable
    return counts | wrong


# --- the whole -----------------------------------------------------------------------------------


def _memory() -> Path | None:
    """A folder in memory, where there is one: a kill, unlike a power cut, needs no disk."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def measure(kills: int = KILLS, seed: int = 0) -> dict[str, Any]:
    """Both experiments in a temporary folder: a dictionary of counts, ready for JSON."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    begun = time.time()
    with tempfile.TemporaryDirectory(dir=_memory()) as scratch:
        at_random = kill_at_random(small_bench(), Path(scratch), kills, seed)
        at_every_step = kill_at_every_step(Path(scratch))
    return {
        "seed": seed,
        "at_random": at_random,
        "at_every_step": at_every_step,
        "provenance": provenance(
            started=datetime.fromtimestamp(begun, UTC),
            seconds=time.time() - begun,
            device="cpu",
            command=f"python benchmarks/kill.py --kills {kills} --seed {seed}",
        ),
    }


def faults(counts: dict[str, Any]) -> Iterator[str]:
    """What `measure` found that should not be; nothing if the store is safe to kill."""
    drawn, steps = counts["at_random"], counts["at_every_step"]
    for name in ("recomputed", "rewritten", "lost", "unreadable", "set_aside", "busy_at_the_end"):
        if drawn[name]:
            yield f"at random: {name} is {drawn[name]}"
    if drawn["unexpected_records"] or not (
        drawn["records_after"] == drawn["records_expected"] == drawn["records_equal"]
    ):
        yield "at random: the records are not those of the undisturbed study"
    for name in ("unreadable", "rewritten", "not_resumed"):
        if steps[name]:
            yield f"at every step: {name} is {steps[name]}"


def main() -> int:
    """Measure, print, write; the exit code is 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the counts are written")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    counts = measure(args.kills, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    shown = {name: value for name, value in counts["at_random"].items() if name != "moments"}
    print(json.dumps({"at_random": shown, "at_every_step": counts["at_every_step"]}, indent=1))
    found = list(faults(counts))
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
