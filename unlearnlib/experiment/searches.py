"""The searches of `unlearn tune` behind the guidelines: which there are, and making those missing.

The procedure was designed on the lab's papers with seed 100. Other domains and seeds are held out.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.profiles import get_profile
from unlearnlib.spec import RunSpec, command_of
from unlearnlib.store.claims import exclusive
from unlearnlib.store.files import write_file
from unlearnlib.store.record import Record
from unlearnlib.study.chosen import BATCH
from unlearnlib.study.searches import DESIGN, Search, load_searches, read_searches, usual_pairs

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.tuning import Tuned

METHOD = "ga_gd_in_dist"
KEPT = ("forget/perplexity", "general/perplexity", "oracle_kl/forget", "membership/min_k_40/auc")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One search: of a method on a domain of a profile, with a seed and updates per run."""

    profile: str
    domain: str
    seed: int
    method: str = METHOD
    updates: int | None = None

    @property
    def spec(self) -> RunSpec:
        """What the search leaves as it is."""
        scale = get_profile(self.profile)
        return RunSpec(
            self.profile,
            self.domain,
            self.method,
            updates=self.updates or scale.updates,
            batch_size=BATCH,
            seed=self.seed,
            precision=scale.precision,
        )

    @property
    def is_design(self) -> bool:
        """Whether the procedure was designed on this search."""
        return (self.profile, self.domain, self.seed, self.method) == (*DESIGN, METHOD)

    def fits(self, search: Search) -> bool:
        """Whether a recorded search is this one."""
        return search.name == (self.domain, self.seed, self.method, self.spec.updates)


def usual_searches(
    profile: str,
    domains: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    updates: int | None = None,
) -> list[Wanted]:
    """The searches of a profile, the design's first; None stands for the usual ones."""
    pairs = usual_pairs(profile)
    if seeds is not None:
        known = sorted(get_profile(profile).domains)
        pairs = [(domain, seed) for seed in seeds for domain in known]
    return [
        Wanted(profile, domain, seed, method, updates)
        for domain, seed in pairs
        if domains is None or domain in domains
        for method in methods or (METHOD,)
    ]


def local_path(store: Path, profile: str) -> Path:
    """Where a store keeps the searches that were made here."""
    return store / f"{profile}-tuning.jsonl"


def searches_found(
    wanted: Sequence[Wanted], store: Path, published: bool = True
) -> tuple[list[Search], list[Wanted]]:
    """(the recorded ones of some searches, in their order; those that are not recorded)."""
    found: list[Search] = []
    lacking: list[Wanted] = []
    at_hand = {
        profile: [
            *(load_searches(profile) if published else ()),
            *read_searches(local_path(store, profile)),
        ]
        for profile in {each.profile for each in wanted}
    }
    for each in wanted:
        fitting = [search for search in at_hand[each.profile] if each.fits(search)]
        if fitting:
            found.append(fitting[0])
        else:
            lacking.append(each)
    return found, lacking


def make_search(bench: Bench, wanted: Wanted, path: Path, trace: Path | None = None) -> None:
    """Make a search and add its line to a file; `trace` keeps what an interrupted one did."""
    from unlearnlib.tuning import search

    made = search(
        bench,
        wanted.spec,
        trace=trace,
        on_proposal=lambda n, proposal: logger.info("%d: %s", n, proposal.reason),
    )
    line = json.dumps(line_of(made, wanted)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path):
        before = path.read_bytes() if path.exists() else b""
        write_file(path, before + line.encode("utf-8"), replace=True)


def line_of(found: Tuned, wanted: Wanted) -> dict[str, Any]:
    """A search in one line of JSON."""
    best = None if found.best is None else found.steps[found.best]
    record = found.record
    return {
        "domain": wanted.domain,
        "seed": wanted.seed,
        "method": wanted.method,
        "design": wanted.is_design,
        "situation": dataclasses.asdict(found.situation),
        "steps": [dataclasses.asdict(step) for step in found.steps],
        "best": found.best,
        "shortfall": None if best is None else best.shortfall(found.situation),
        "ending": found.ending,
        "before": {name: found.before[name] for name in KEPT if name in found.before},
        "after": record and {n: record.metrics[n] for n in KEPT if n in record.metrics},
        "versions": record and record.provenance["versions"],
    }


def same_search(one: Search, other: Search, within: float = 1e-3) -> bool:
    """Whether two searches made the same runs, ended alike, and measured the same.

    Perplexities may differ by the share `within`: a path is what rounding was multiplied along.
    """
    if len(one.steps) != len(other.steps) or (one.best, one.ending) != (other.best, other.ending):
        return False
    for a, b in zip(one.steps, other.steps, strict=True):
        if (a.updates, len(a.path)) != (b.updates, len(b.path)):
            return False
        numbers = [
            (a.learning_rate, b.learning_rate),
            (a.retain_weight, b.retain_weight),
            *zip(a.path, b.path, strict=True),
        ]
        if not all(x == y or math.isclose(x, y, rel_tol=within) for x, y in numbers):
            return False
    return True


def step_records(profile: str, search: Search) -> tuple[Record, ...]:
    """The runs of a search as records, as far as its line has them; those without a key are not.

    They are for saying where a number comes from: the line of a search keeps the key of each of its
    runs, and none of what the run was measured by but its perplexities.
    """
    start = Wanted(profile, search.domain, search.seed, search.method).spec
    found = []
    for step in search.steps:
        if step.key:
            spec = start.replace(
                learning_rate=step.learning_rate,
                retain_weight=step.retain_weight,
                updates=step.updates,
            )
            end = {"forget/perplexity": step.path[step.updates], "general/perplexity": step.general}
            made = {"command": command_of(spec), "seconds": step.seconds}
            found.append(
                Record(
                    step.key, "run", "done", spec.as_dict(), "", "", metrics=end, provenance=made
                )
            )
    return tuple(found)


def by_domain(wanted: Iterable[Wanted]) -> Iterator[tuple[str, list[Wanted]]]:
    """Some searches by domain, so that each domain's model is loaded once."""
    groups: dict[str, list[Wanted]] = {}
    for each in wanted:
        groups.setdefault(each.domain, []).append(each)
    yield from groups.items()
