"""How long runs that nobody has made yet will take: by what was recorded, else by the plan."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from unlearnlib.cost import FLOPS_FORWARD
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import published_files
from unlearnlib.profiles import get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store.published import read_parquet
from unlearnlib.store.record import Record
from unlearnlib.text import duration

if TYPE_CHECKING:
    from unlearnlib.corpus.documents import DomainData
    from unlearnlib.planning import Machine


@dataclass(frozen=True)
class Effort:
    """How long some runs will take.

    seconds  in all, one after the other; None where it cannot be told
    basis    in words, what that follows from, or why it cannot be told
    """

    seconds: float | None
    basis: str

    def __str__(self) -> str:
        if self.seconds is None:
            return f"How long they take cannot be told here ({self.basis})."
        return f"They take about {duration(self.seconds)} by {self.basis}."


def effort_of(
    specs: Sequence[RunSpec],
    device: str = "cpu",
    limits: Mapping[str, int] | None = None,
    corpora: str | None = None,
) -> Effort:
    """How long some runs take: by the recorded seconds of runs like them, else by the plan.

    Recorded seconds count on a processor and for all documents; a GPU, and a part of the documents,
    are planned, with the documents of `corpora`.
    """
    profiles = {spec.profile for spec in specs}
    if device in ("auto", "cpu") and not limits and not _has_gpu(device):
        found = [seconds_recorded(spec) for spec in specs]
        if all(seconds is not None for seconds in found):
            processors = sorted({p for name in profiles for p in _processors(name)})
            return Effort(
                sum(seconds for seconds in found if seconds is not None),
                f"what such runs took when they were recorded ({', '.join(processors)})",
            )
    try:
        return _planned(specs, device, limits, corpora)
    except UnlearnError as error:
        return Effort(None, str(error).rstrip("."))


def _has_gpu(device: str) -> bool:
    """Whether "auto" is a GPU here. A driver is looked for before torch is loaded for it."""
    if device != "auto":
        return device != "cpu"
    from unlearnlib.devices import choose_device

    return choose_device(device) != "cpu"


def seconds_recorded(spec: RunSpec) -> float | None:
    """The median duration of the published runs that are most like a spec; None without any.

    Like: of the same profile and method, measured along the way or not. Time is taken to grow with
    the measurements of a run, one at the end and one every `probe_every` updates. A run that may
    stop is taken to make all of its updates; of a recorded one those count that it made.
    """
    wanted = spec.as_dict()
    runs = _published_runs(spec.profile)
    along = _looks(wanted, spec.updates) > 1
    probed = [r for r in runs if (_looks(r.spec, int(r.spec["updates"])) > 1) == along]
    same = [r for r in probed if r.spec["method"] == spec.method] or probed
    if not same:
        return None
    each = median(float(r.provenance["seconds"]) / _looks(r.spec, _updates_made(r)) for r in same)
    return each * _looks(wanted, spec.updates)


def _looks(spec: Mapping[str, Any], updates: int) -> int:
    """How often a run of so many updates is evaluated; one that may stop is after each of them."""
    every = 1 if _may_stop(spec) else int(spec["probe_every"])
    return 1 + (updates // every if every else 0)


def _may_stop(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("stop", "end") != "end")


def _updates_made(record: Record) -> int:
    """Updates of a recorded run: those of its spec, or as many as it made before it stopped."""
    if _may_stop(record.spec) and record.trajectory:
        return int(record.trajectory[-1]["update"])
    return int(record.spec["updates"])


def _published_runs(profile: str) -> tuple[Record, ...]:
    """The published runs of a profile on a processor."""
    records = [
        record
        for path in published_files()
        if path.stem.startswith(f"{profile}-")
        for record in read_parquet(path)
    ]
    return tuple(
        r
        for r in records
        if r.kind == "run"
        and str(r.provenance.get("device", "cpu")) == "cpu"
        and "seconds" in r.provenance
    )


def _processors(profile: str) -> set[str]:
    return {str(r.provenance.get("processor", "")) for r in _published_runs(profile)} - {""}


def _planned(
    specs: Sequence[RunSpec],
    device: str,
    limits: Mapping[str, int] | None,
    corpora: str | None,
) -> Effort:
    """Updates by the plan of one run per profile and method; evaluation by its tokens.

    A run that may stop is planned up to its most updates. The documents are those of the first
    domain: others are about as long.
    """
    from unlearnlib.devices import choose_device
    from unlearnlib.planning import Machine

    chosen = choose_device(device)
    machine: Machine | None = None
    planned: dict[tuple[str, str], tuple[float, float]] = {}  # seconds per update, per look
    total = 0.0
    for spec in specs:
        group = spec.profile, spec.method
        if group not in planned:
            machine = machine or Machine(chosen, rate=_rate(spec.precision, chosen))
            # What the plan does not ask for: so that it is made once for many studies.
            typical = spec.replace(seed=0, learning_rate=0.0, probe_every=0, stop="end")
            cuts = tuple(sorted((limits or {}).items()))
            planned[group] = _seconds_of(typical, machine, cuts, corpora)
        update, look = planned[group]
        looks = _looks(spec.as_dict(), spec.updates)
        total += update * spec.updates * spec.requests + look * looks
    return Effort(total, f"the plan, on {chosen}")


@functools.cache
def _rate(precision: str, device: str) -> float:
    """Operations per second to expect here."""
    from unlearnlib.planning import expected_rate

    return expected_rate(precision, device)


@functools.lru_cache(maxsize=16)
def _documents(
    profile: str, domain: str, base: str, limits: tuple[tuple[str, int], ...], corpora: str | None
) -> tuple[Any, DomainData]:
    """The tokenizer and the documents of a run."""
    from unlearnlib.bench import Models, sources
    from unlearnlib.models import load_tokenizer
    from unlearnlib.profiles import clipped, load_domain

    tokenizer = load_tokenizer(sources(profile, domain, Models(base=base))[0])
    data = load_domain(profile, domain, corpora, dict(limits))
    return tokenizer, clipped(profile, data, tokenizer)


@functools.lru_cache(maxsize=256)
def _seconds_of(
    spec: RunSpec, machine: Machine, limits: tuple[tuple[str, int], ...], corpora: str | None
) -> tuple[float, float]:
    """(seconds of an update, seconds of an evaluation) of a run."""
    from unlearnlib.bench import EVALUATED, Models, sources
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.planning import plan_run, trained_chunks

    source, oracle = sources(spec.profile, spec.domain, Models(base=spec.base))
    tokenizer, data = _documents(spec.profile, spec.domain, spec.base, limits, corpora)
    length = spec.length or get_profile(spec.profile).length
    chunks = trained_chunks(spec, data, tokenizer, length)
    plan = plan_run(source, spec, *chunks, machine=machine, oracle=oracle is not None)
    splits = [data.split("general_evaluation" if s == "general" else s) for s in EVALUATED]
    most = len(data.forget)  # of retain no more chunks are evaluated than of forget
    tokens = sum(
        len(chunk.tokens)
        for split in splits
        for chunk in cut(split[: max(most, 1)], tokenizer, length, name="evaluated")
    )
    look = FLOPS_FORWARD * plan.parameters * tokens / plan.rate
    return plan.seconds / max(1, spec.updates * spec.requests), look
