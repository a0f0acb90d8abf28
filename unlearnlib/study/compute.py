"""Computing a study, which can be interrupted and divided among workers.

Running a study means asking which keys are missing from the local store and from the published
records, and computing those. Any number of processes may work on one store: each run is claimed
before it is computed.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from unlearnlib.bench import Bench, Models, evaluate, key_of, open_bench
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import DOMAINS
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.provenance import provenance
from unlearnlib.store.published import Library
from unlearnlib.store.record import Record, run_key
from unlearnlib.study.grids import OWN, Asked, get_study
from unlearnlib.study.records import StudyResult, default_store, open_library

BASELINES = ("vanilla", "oracle")


def baseline_key(bench: Bench, profile: str, which: str, base: str = "vanilla") -> str:
    """The key of the scores of vanilla or of the oracle on a bench's data."""
    return run_key(_baseline_spec(bench, profile, which, base), bench.basis)


def _baseline_spec(bench: Bench, profile: str, which: str, base: str) -> dict[str, Any]:
    if which not in BASELINES:
        raise unknown("baseline", which, BASELINES)
    spec = {"profile": profile, "domain": bench.data.domain, "baseline": which, "seed": 0}
    return spec if base == "vanilla" else spec | {"base": base}


def baseline(bench: Bench, profile: str, which: str, base: str = "vanilla") -> Record:
    """Vanilla's or the oracle's own scores, as a record of kind "score".

    The vanilla model's distance to the oracle is in its metrics; the oracle's own is 0. Its key
    holds vanilla's hash on both sides: the oracle is the reference of that vanilla. Where `base`
    is "published", that model stands in vanilla's place.
    """
    started = time.time()
    model = bench.model if which == "vanilla" else bench.oracle
    if model is None:
        raise UnlearnError(
            f"{bench.data.domain!r} at profile {profile!r} has no oracle: train one, or leave its "
            "line out."
        )
    metrics, documents, _ = evaluate(bench, model)
    return Record(
        key=baseline_key(bench, profile, which, base),
        kind="score",
        status="done",
        spec=_baseline_spec(bench, profile, which, base),
        **bench.basis.as_dict(),
        metrics=metrics,
        documents=documents,
        provenance=provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=str(next(model.parameters()).device),
            command=f"unlearn study main --profile {profile} --domain {bench.data.domain}",
            weights=dict(bench.weights) if which == "vanilla" else {},
        ),
    )


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of a study that is divided among `count` workers."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from "I/N", as in "2/8"; `UnlearnError` for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UnlearnError(
                f"the shard is {text!r}: write I/N with a whole number I from 1 to N, as in 2/8."
            )
        return cls(int(match[1]), int(match[2]))

    def takes(self, place: int) -> bool:
        """Whether the place (from 0) in a study's order is this shard's: every `count`-th is."""
        return place % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Portion:
    """What of a study is computed: the runs of some methods, some seeds, one shard.

    None stands for all. A shard counts places among the runs of these methods and seeds.

    asked     values in place of the study's own
    deadline  no run begins after this time of `time.monotonic`; what is then missing is left
    """

    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    shard: Shard | None = None
    asked: Asked = OWN
    deadline: float | None = None

    def specs(self, grid: Iterable[RunSpec]) -> list[RunSpec]:
        """The runs of a grid that have the methods and seeds."""
        return [
            spec
            for spec in grid
            if (self.methods is None or spec.method in self.methods)
            and (self.seeds is None or spec.seed in self.seeds)
        ]

    def takes(self, place: int) -> bool:
        """Whether the run at a place (from 0) is this worker's."""
        return self.shard is None or self.shard.takes(place)

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def run_study(
    name: str,
    profile: str = "lab",
    domains: Sequence[str] = DOMAINS,
    *,
    portion: Portion | None = None,
    store: Store | None = None,
    fresh: bool = False,
    benches: Callable[[str, str], Bench] | None = None,
    progress: bool = True,
) -> StudyResult:
    """Compute what is missing of a study and return all of it, in the grid's order.

    Records that are published or in `store` are not computed again (`fresh`: published ones do
    not count). A run that another process has claimed is left to it and counted as busy.

    Of a `portion` with a shard, which runs it has follows from the grid alone (the same arguments
    give the same parts, whatever is recorded already and whichever domains have an oracle), so a
    worker that starts again goes on with what was its own.
    """
    study, portion = get_study(name), portion or Portion()
    store = store or default_store()
    library = open_library(store, fresh)
    open_one = benches or (lambda p, d: open_bench(p, d, models=Models(base=study.base)))
    records: list[Record] = []
    baselines: list[Record] = []
    grid: list[tuple[RunSpec, str | None]] = []  # and the run's key, where its bench was opened
    computed = busy = 0
    places = itertools.count()
    for domain in domains:
        specs = portion.specs(study.runs(profile, domain, portion.asked))
        # An oracle keeps its place where there is none: no shard depends on what is at hand.
        whole = [(next(places), wanted) for wanted in (*BASELINES, *specs)]
        mine = [wanted for place, wanted in whole if portion.takes(place)]
        if not mine or portion.over:  # spare the loading
            grid += [(spec, None) for spec in specs]
            continue
        bench = open_one(profile, domain)
        grid += [(spec, key_of(bench, spec)) for spec in specs]
        for wanted in tqdm(mine, desc=f"{name} {domain}", disable=not progress):
            if wanted == "oracle" and bench.oracle is None:
                continue
            key = _key_of_wanted(bench, profile, wanted, study.base)
            if key not in library:
                if portion.over:
                    continue
                with store.claim(key) as ours:
                    if not ours:
                        busy += 1
                        continue
                    if key not in store:
                        store.put(_compute(bench, profile, wanted, study.base))
                        computed += 1
            (records if isinstance(wanted, RunSpec) else baselines).append(library.get(key))
    counted = portion.shard is not None or portion.deadline is not None
    left = _left(grid, library) if counted else 0
    return StudyResult(records, baselines, computed, busy, len(grid), left)


def _key_of_wanted(bench: Bench, profile: str, wanted: RunSpec | str, base: str) -> str:
    """The key of a run, or of one of `BASELINES`."""
    if isinstance(wanted, RunSpec):
        return key_of(bench, wanted)
    return baseline_key(bench, profile, wanted, base)


def _compute(bench: Bench, profile: str, wanted: RunSpec | str, base: str) -> Record:
    """The record of a run, or of one of `BASELINES`."""
    if isinstance(wanted, RunSpec):
        return execute(bench, wanted)[1]
    return baseline(bench, profile, wanted, base)


def _left(grid: Sequence[tuple[RunSpec, str | None]], library: Library) -> int:
    """How many runs of a grid have no record.

    No model is loaded for the count: a run whose key is not known counts as recorded if any record
    has its spec.
    """
    specs: set[str] = set()
    if any(key is None for _, key in grid):
        specs = {json.dumps(r.spec, sort_keys=True) for r in library.records() if r.kind == "run"}
    return sum(
        json.dumps(spec.as_dict(), sort_keys=True) not in specs
        if key is None
        else key not in library
        for spec, key in grid
    )
