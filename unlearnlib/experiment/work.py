"""The runs that a notebook lacks, computed by one process or by several side by side."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unlearnlib.bench import Bench, Models, Selection, open_bench
from unlearnlib.devices import choose_device, cores
from unlearnlib.engine import Execution
from unlearnlib.models import hush_transformers
from unlearnlib.store.folder import Store
from unlearnlib.study.compute import Portion, run_study
from unlearnlib.study.grids import Asked, get_study
from unlearnlib.study.records import StudyResult


@dataclass(frozen=True)
class Work:
    """What is to be computed of a study, as a process is told of it.

    store      the folder of the store
    runs       whether its runs are wanted, and not the scores of vanilla and oracle alone
    published  whether published records count as computed
    limits     split -> number of documents taken of it; None: all
    corpora    a folder with a copy of the texts; None: where the profile has them from
    deadline   no run begins after this time of `time.monotonic`, a clock that processes share
    """

    study: str
    profile: str
    domains: tuple[str, ...]
    asked: Asked
    store: str
    runs: bool = True
    published: bool = True
    device: str = "auto"
    limits: Mapping[str, int] | None = None
    corpora: str | None = None
    deadline: float | None = None


def bench_of(work: Work, profile: str, domain: str, base: str | None = None) -> Bench:
    """The bench that a piece of work is computed on; `base` is by default the study's."""
    return open_bench(
        profile,
        domain,
        models=Models(base=base or get_study(work.study).base, device=choose_device(work.device)),
        selection=Selection(work.corpora, work.limits),
        execution=Execution(progress=False),  # the study has a bar of its own
    )


Benches = Callable[[str, str, str], Bench]  # (profile, domain, base) -> the bench


def compute(work: Work, benches: Benches | None = None, *, progress: bool = True) -> StudyResult:
    """Compute what the store lacks, in this process, until the deadline.

    `benches` opens what it is computed on; by default `bench_of`.
    """
    hush_transformers()
    return run_study(
        work.study,
        work.profile,
        work.domains,
        portion=Portion(None if work.runs else (), asked=work.asked, deadline=work.deadline),
        store=Store(Path(work.store)),
        fresh=not work.published,
        benches=benches or functools.partial(bench_of, work),
        progress=progress,
    )


def compute_side_by_side(
    work: Work,
    workers: int = 1,
    count: int | None = None,
    benches: Benches | None = None,
    *,
    progress: bool = True,
) -> StudyResult:
    """`compute` by several processes on one store, each taking the runs that no other has begun.

    Every process gets its share of the cores. `count` is how many runs are missing: no more
    processes start; `benches` are for one that computes alone. What goes wrong in one of them is
    told by the last call here, which gathers what all have made and computes what they have left.
    Each ends when this process ends: the pipe that told it its work stays open until then.
    """
    if count is not None:
        workers = min(workers, count)
    if workers <= 1:
        return compute(work, benches, progress=progress)
    text = json.dumps(asdict(work)) + "\n"
    threads = str(max(1, cores() // workers))
    begun, running = time.time(), []
    try:
        for _ in range(workers):
            process = subprocess.Popen(
                [sys.executable, "-m", "unlearnlib.experiment.work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": threads},
                text=True,
            )
            running.append(process)
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it has ended already
                process.stdin.write(text)
                process.stdin.flush()
        words = f"{work.study}, {workers} processes"
        with tqdm(desc=words, total=count, unit="run", disable=not progress) as bar:
            while any(process.poll() is None for process in running):
                time.sleep(0.5)
                bar.n = _made_since(Path(work.store), begun)
                bar.refresh()
    finally:  # an interrupt may reach this process alone
        for process in running:
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(OSError):
                process.communicate()
    return compute(work, progress=progress)


def _made_since(store: Path, begun: float) -> int:
    """How many records a store was given since a time."""
    return sum(path.stat().st_mtime >= begun for path in store.glob("records/??/*.json"))


def parse(text: str) -> Work:
    """The work that a process is told, from the JSON of a `Work`."""
    told = json.loads(text)
    asked: dict[str, Any] = {
        axis: None if values is None else tuple(map(_hashable, values))
        for axis, values in told.pop("asked").items()
    }
    return Work(**{**told, "domains": tuple(told["domains"]), "asked": Asked(**asked)})


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has gone, however it went."""
    os.read(sys.stdin.fileno(), 1)  # and not sys.stdin.read, whose lock the end would wait for
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    told = parse(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compute(told, progress=False)
