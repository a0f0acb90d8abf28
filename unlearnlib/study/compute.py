"""Computing a study, which can be interrupted and divided among workers.

Running a study means asking which keys are missing from the local store and from the published
records, and computing those. Any number of processes may work on one store: each run is claimed
before it is computed.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import nn
from tqdm import tqdm

from unlearnlib.bench import Bench, Models, evaluate, key_of, open_bench
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.models import load_model, model_hash
from unlearnlib.profiles import DOMAINS, get_profile
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.provenance import provenance
from unlearnlib.store.published import Library
from unlearnlib.store.record import Record, run_key
from unlearnlib.study.grids import OWN, Asked, get_study
from unlearnlib.study.records import StudyResult, default_store, open_library
from unlearnlib.trained import made_checkpoint

logger = logging.getLogger(__name__)

BASELINES = ("vanilla", "oracle")


def baselines_of(profile: str, base: str = "vanilla") -> tuple[str, ...]:
    """The models whose scores a study asks for, beside its runs that unlearn `base`."""
    more = get_profile(profile).more_baselines if base == "vanilla" else ()
    return (*BASELINES, *more)


def baseline_key(bench: Bench, profile: str, which: str, base: str = "vanilla") -> str:
    """The key of the scores of vanilla, of the oracle or of one of `more_baselines`."""
    spec = _baseline_spec(bench, profile, which, base)
    if which not in BASELINES:
        spec["weights"] = seed_hash(profile, bench.data.domain, which)
    return run_key(spec, bench.basis)


def _baseline_spec(bench: Bench, profile: str, which: str, base: str) -> dict[str, Any]:
    if which not in (valid := baselines_of(profile, base)):
        raise unknown("baseline", which, valid)
    spec = {"profile": profile, "domain": bench.data.domain, "baseline": which, "seed": 0}
    return spec if base == "vanilla" else spec | {"base": base}


def seed_model(profile: str, domain: str, which: str) -> nn.Module:
    """A model of another seed, as `Profile.more_baselines` names it; `UnlearnError` without it."""
    kind, seed = which.split("-")
    name = which if kind == "vanilla" else f"{kind}-{domain}-{seed}"
    return load_model(made_checkpoint(name, profile), get_profile(profile).precision, "cpu")


def seed_hash(profile: str, domain: str, which: str) -> str:
    """The hash of the weights of `seed_model`."""
    return model_hash(seed_model(profile, domain, which))


def baseline(bench: Bench, profile: str, which: str, base: str = "vanilla") -> Record:
    """Vanilla's or the oracle's own scores, as a record of kind "score".

    The vanilla model's distance to the oracle is in its metrics; the oracle's own is 0. Its key
    holds vanilla's hash on both sides: the oracle is the reference of that vanilla. Where `base`
    is "published" or "second", that model stands in vanilla's place.

    Of `Profile.more_baselines` the distance is to the same oracle, and the hash of the weights is
    in the spec.
    """
    started = time.time()
    device = next(bench.model.parameters()).device
    model = bench.model if which == "vanilla" else bench.oracle
    spec = _baseline_spec(bench, profile, which, base)
    if which not in BASELINES:
        model = seed_model(profile, bench.data.domain, which)
        spec["weights"] = model_hash(model)  # no part of what runs rest on
        model = model.to(device)
    if model is None:
        raise UnlearnError(
            f"{bench.data.domain!r} at profile {profile!r} has no oracle: train one, or leave its "
            "line out."
        )
    metrics, documents, _ = evaluate(bench, model)
    return Record(
        key=run_key(spec, bench.basis),
        kind="score",
        status="done",
        spec=spec,
        **bench.basis.as_dict(),
        metrics=metrics,
        documents=documents,
        provenance=provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=str(device),
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
    benches: Callable[[str, str, str], Bench] | None = None,
    progress: bool = True,
) -> StudyResult:
    """Compute what is missing of a study and return all of it, in the grid's order.

    Records that are published or in `store` are not computed again (`fresh`: published ones do
    not count). A run that another process has claimed is left to it and counted as busy. The
    scores of a model of another seed that is not on this machine are taken from the records, and
    left out where there are none.

    `benches(profile, domain, base)` opens the bench of a domain's runs that unlearn that base.

    Of a `portion` with a shard, which runs it has follows from the grid alone (the same arguments
    give the same parts, whatever is recorded already and whichever domains have an oracle), so a
    worker that starts again goes on with what was its own.
    """
    study, portion = get_study(name), portion or Portion()
    store = store or default_store()
    library = open_library(store, fresh)
    open_one = benches or (lambda p, d, b: open_bench(p, d, models=Models(base=b)))
    records: list[Record] = []
    baselines: list[Record] = []
    grid: list[tuple[RunSpec, str | None]] = []  # and the run's key, where its bench was opened
    computed = busy = 0
    places = itertools.count()
    for domain in domains:
        for base, specs in study.by_base(portion.specs(study.runs(profile, domain, portion.asked))):
            # An oracle keeps its place where there is none: no shard depends on what is at hand.
            wanted = (*baselines_of(profile, base), *specs)
            mine = [one for one in wanted if portion.takes(next(places))]
            if not mine or portion.over:  # spare the loading
                grid += [(spec, None) for spec in specs]
                continue
            sitting = _Sitting(open_one(profile, domain, base), profile, base, library, store)
            grid += [(spec, key_of(sitting.bench, spec)) for spec in specs]
            for one in tqdm(mine, desc=f"{name} {domain}", disable=not progress):
                found = sitting.have(one, begin=not portion.over)
                if found is not None:
                    (records if isinstance(one, RunSpec) else baselines).append(found)
            computed, busy = computed + sitting.computed, busy + sitting.busy
    counted = portion.shard is not None or portion.deadline is not None
    left = _left(grid, library) if counted else 0
    return StudyResult(records, baselines, computed, busy, len(grid), left)


@dataclass
class _Sitting:
    """The runs and baselines of a study on one bench: found, or computed and stored."""

    bench: Bench
    profile: str
    base: str
    library: Library
    store: Store
    computed: int = 0
    busy: int = 0

    def have(self, wanted: RunSpec | str, begin: bool = True) -> Record | None:
        """The record of a run or of a baseline; None where another process computes it.

        And where there is no such model, or it is missing and nothing is to `begin` any more.
        """
        if wanted == "oracle" and self.bench.oracle is None:
            return None
        try:
            key = self._key(wanted)
        except UnlearnError as error:
            if isinstance(wanted, RunSpec) or wanted in BASELINES:
                raise
            return self._recorded(wanted, str(error))
        if key not in self.library:
            if not begin:
                return None
            with self.store.claim(key) as ours:
                if not ours:
                    self.busy += 1
                    return None
                if key not in self.store:
                    self.store.put(self._compute(wanted))
                    self.computed += 1
        return self.library.get(key)

    def _key(self, wanted: RunSpec | str) -> str:
        if isinstance(wanted, RunSpec):
            return key_of(self.bench, wanted)
        return baseline_key(self.bench, self.profile, wanted, self.base)

    def _compute(self, wanted: RunSpec | str) -> Record:
        if isinstance(wanted, RunSpec):
            return execute(self.bench, wanted)[1]
        return baseline(self.bench, self.profile, wanted, self.base)

    def _recorded(self, which: str, why: str) -> Record | None:
        """The record of a baseline whose weights are not here; without one it is left out."""
        for record in self.library.records():
            spec = record.spec
            names = spec.get("profile"), spec.get("domain"), spec.get("baseline")
            if names == (self.profile, self.bench.data.domain, which) and (
                record.kind == "score" and record.basis == self.bench.basis
            ):
                return record
        logger.warning("the scores of %s are left out: %s", which, why)
        return None


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
