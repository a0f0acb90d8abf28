"""Runs at equal forgetting: where they reach the retrained model, what they cost there, how surely.

A run is taken where its perplexity on the forgotten documents reaches that of the retrained model:
between the two probes around that point the logarithms of perplexities, divergences and AUCs are
interpolated over the update. Harm is the worst of retain, approximate and general perplexity there,
each against the retrained models': ln of the ratio to their geometric mean, nats per token. All
retrained models of a domain count, whichever vanilla a run starts from: on texts to keep two of
them differ by as much as a method differs from one of them.

Intervals come from resampling documents, the same ones for every run of a domain, and the runs of a
method on a domain (its seeds). The last part is about leeway: how far a run may be off.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from unlearnlib.book.records import (
    FORGET,
    KL,
    by_document,
    domains_of,
    known_mean,
    methods_of,
    probed_rows,
    select,
)
from unlearnlib.store.record import Record

HARMED = ("retain", "approximate", "general")  # the splits on which harm is measured
ATTACKS = ("loss", "min_k_pp_20")  # one that every paper has, and one that sees more
HARM, DISTANCE, MEMBERSHIP = "harm", "distance", "membership"
MEASURES = (HARM, DISTANCE, MEMBERSHIP)  # by which methods are ordered: less is better
BASES = ("vanilla", "second")  # of a run: which of two models before unlearning
# By the base: who was trained without the forget set, and who with it.
RETRAINED = {"vanilla": "oracle", "second": "oracle-s1"}
BEFORE = {"vanilla": "vanilla", "second": "vanilla-s1"}
SIBLINGS = ("oracle", "oracle-s1", "oracle-s2")  # retrained models that differ in their seed alone
RESAMPLES = 1000
LEVEL = 0.95  # of every interval
# Records keep a document's loss in a few digits: a level made of them is met within this, in nats.
SLACK = 1e-4
ROUNDING = 1e-6  # of two computations of one perplexity, in its logarithm


# ---- whom a run is compared with ------------------------------------------------------------


def base_of(record: Record) -> str:
    """Which model a run unlearns: "vanilla", or "second"."""
    return str(record.spec.get("base", "vanilla"))


def scores_for(baselines: Iterable[Record], run: Record, names: Mapping[str, str]) -> Record | None:
    """The scores, on a run's texts, of `RETRAINED` or `BEFORE` of its base; None if there are none.

    Those that were made for runs of that base come first; else those of the model of that name.
    """
    base = base_of(run)
    found = [r for r in select(baselines, run.spec["domain"]) if r.data_hash == run.data_hash]
    for wanted, of in ((names["vanilla"], base), (names.get(base), "vanilla")):
        known = [r for r in found if r.spec.get("baseline") == wanted and base_of(r) == of]
        if known:
            return min(known, key=lambda r: r.basis != run.basis)
    return None


def retrained_models(baselines: Iterable[Record], run: Record, own: Record) -> list[Record]:
    """The scores of all retrained models on a run's texts, `own` alone if there are no others."""
    names = set(SIBLINGS)
    found = [
        r
        for r in select(baselines, run.spec["domain"])
        if r.data_hash == run.data_hash
        and base_of(r) == "vanilla"
        and r.spec.get("baseline") in names
    ]
    return found if len(found) > 1 else [own]


def mean_log(records: Iterable[Record], split: str) -> float:
    """The mean of ln perplexity on a split over some models; NaN where one has none."""
    values = [float(r.metrics.get(f"{split}/perplexity", math.nan)) for r in records]
    return fmean(math.log(x) if x > 0 else math.nan for x in values)


def named_scores(baselines: Iterable[Record], domain: str, name: str) -> Record | None:
    """The scores of the baseline of a name on a domain; None if there are none."""
    found = (r for r in select(baselines, domain) if base_of(r) == "vanilla")
    return next((r for r in found if r.spec.get("baseline") == name), None)


# ---- documents ------------------------------------------------------------------------------


def names_in(record: Record, split: str) -> list[str]:
    """The documents of a split that a record has scores of, in their order."""
    return by_document(record.documents.get(split, {}).get("id", ()))[0]


def document_sums(
    record: Record, split: str, column: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, tokens x value), each (D,): a column summed over the chunks of each document.

    In the order of `names`; NaN for a document, or a column, that the record has not.
    """
    kept = record.documents.get(split, {})
    sums = np.full((2, len(names)), np.nan)
    if len(kept.get(column, ())) and len(kept[column]) == len(kept["id"]):
        own, groups = by_document(kept["id"])
        tokens = np.asarray(kept["tokens"], dtype=float)
        values = np.asarray(kept[column], dtype=float)
        both = [np.bincount(groups, weights=w) for w in (tokens, tokens * values)]
        places = {name: place for place, name in enumerate(own)}
        for i, name in enumerate(names):
            if name in places:
                sums[:, i] = both[0][places[name]], both[1][places[name]]
    return sums[0], sums[1]


def document_means(record: Record, split: str, column: str, names: Sequence[str]) -> np.ndarray:
    """(D,) the plain mean of a column over the chunks of each document, as attacks are judged."""
    kept = record.documents.get(split, {})
    means = np.full(len(names), np.nan)
    if len(kept.get(column, ())) and len(kept[column]) == len(kept["id"]):
        own, groups = by_document(kept["id"])
        sums = np.bincount(groups, weights=np.asarray(kept[column], dtype=float))
        found = dict(zip(own, sums / np.bincount(groups), strict=True))
        means = np.array([found.get(name, math.nan) for name in names])
    return means


def log_perplexity(record: Record, split: str, names: Sequence[str]) -> float:
    """ln of the perplexity on some documents of a split; NaN where one is not scored."""
    tokens, nats = document_sums(record, split, "nll", names)
    return float(nats.sum() / tokens.sum()) if len(names) else math.nan


class Draws:
    """How often each document is drawn in each resample: the same for all runs of a domain."""

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.resamples = resamples
        self._seed = seed
        self._made: dict[tuple[str, str, int], np.ndarray] = {}

    def counts(self, domain: str, split: str, documents: int) -> np.ndarray:
        """(resamples, documents) of a split of a domain, drawn with replacement."""
        place = domain, split, documents
        if place not in self._made:
            word = zlib.crc32(f"{domain}/{split}".encode())
            draw = np.random.default_rng([self._seed, word, documents])
            made = np.zeros((self.resamples, 0), dtype=np.int64)
            if documents:
                made = draw.multinomial(documents, [1 / documents] * documents, self.resamples)
            self._made[place] = made
        return self._made[place]

    def runs(self, domain: str, count: int) -> np.ndarray:
        """(resamples, count) places of `count` runs, drawn with replacement."""
        draw = np.random.default_rng([self._seed, zlib.crc32(domain.encode()), 1 + count])
        return draw.integers(count, size=(self.resamples, count))


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """(low, high): the middle `level` of some resamples; NaN where they have no number."""
    known = draws[np.isfinite(draws)]
    if not len(known) or len(known) < len(draws) / 2:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def drawn_means(counts: np.ndarray, tokens: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(resamples,) mean per token of a column over the documents drawn."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((counts @ sums) / (counts @ tokens))


def drawn_aucs(
    members: np.ndarray, others: np.ndarray, drawn: np.ndarray, drawn_others: np.ndarray
) -> np.ndarray:
    """(resamples,) AUC of the members' scores against the others', over the documents drawn."""
    wins = (members[:, None] > others[None]) + 0.5 * (members[:, None] == others[None])
    if not (np.isfinite(members).all() and np.isfinite(others).all() and wins.size):
        return np.full(len(drawn), np.nan)
    pairs = drawn.sum(1) * drawn_others.sum(1)
    return np.asarray(((drawn @ wins) * drawn_others).sum(1) / pairs)


# ---- one run, where it has forgotten as much as the retrained model --------------------------


@dataclass(frozen=True)
class Crossing:
    """Between which two probes a run reaches a level, and how far from the first to the second.

    update  where that is: the first probe's update plus `share` of the way to the second's
    final   whether the second probe is the run's last, whose documents the record has
    """

    update: float
    share: float
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    final: bool

    def at(self, name: str, of: Callable[[float], float] = float) -> float:
        """A probed value at the crossing, interpolated as `of` has it; NaN where not probed."""
        ends = [of(float(row.get(name, math.nan))) for row in (self.before, self.after)]
        if ends[0] == ends[1] or self.share == 0:
            return ends[0]
        return ends[1] if self.share == 1 else ends[0] + self.share * (ends[1] - ends[0])

    def log_at(self, name: str) -> float:
        """ln of a perplexity at the crossing, interpolated in the logarithm."""
        return self.at(name, lambda x: math.log(x) if x > 0 else math.nan)


def find_crossing(
    rows: Sequence[Mapping[str, Any]], level: float, name: str = FORGET, slack: float = SLACK
) -> Crossing | None:
    """Where ln of a probed perplexity first reaches `level`, a logarithm; None if it never does.

    A level within `slack` counts as reached. A run that is above it at its first probe crosses
    there. Where a perplexity becomes infinite at once, there is nothing to interpolate: the run
    crosses at that probe.
    """
    known = [row for row in rows if not math.isnan(float(row.get(name, math.nan)))]
    logs = [math.log(row[name]) if row[name] > 0 else -math.inf for row in known]
    for place, (row, height) in enumerate(zip(known, logs, strict=True)):
        if not height >= level - slack:
            continue
        final = row is known[-1]
        if place == 0:
            return Crossing(float(row["update"]), 1.0, row, row, final)
        before, low = known[place - 1], logs[place - 1]
        rise = height - low
        share = (level - low) / rise if math.isfinite(rise) and rise > 0 else 1.0
        share = min(max(share, 0.0), 1.0)
        update = before["update"] + share * (row["update"] - before["update"])
        return Crossing(float(update), share, before, row, final)
    return None


@dataclass(frozen=True)
class Point:
    """A run at equal forgetting. What was not reached or not measured is NaN.

    crossing  None: the run never reached the retrained model's perplexity
    harms     split -> ln(perplexity / the retrained models'), nats per token
    distance  KL to the retrained model on the forgotten documents, nats per token
    aucs      attack -> AUC of forgotten against unseen documents
    traces    attack -> how far that AUC is from the retrained model's
    """

    run: Record
    crossing: Crossing | None
    harms: dict[str, float] = field(default_factory=dict)
    distance: float = math.nan
    aucs: dict[str, float] = field(default_factory=dict)
    traces: dict[str, float] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        """What was unlearned from."""
        return str(self.run.spec["domain"])

    @property
    def method(self) -> str:
        """By which method."""
        return str(self.run.spec["method"])

    @property
    def base(self) -> str:
        """Of which model before unlearning."""
        return base_of(self.run)

    @property
    def exposure(self) -> int:
        """How often the forgotten documents had been read; 0: all of the forget set."""
        return int(self.run.spec.get("exposure", 0))

    @property
    def updates(self) -> float:
        """How many updates it takes, in fractions of one."""
        return math.nan if self.crossing is None else self.crossing.update

    @property
    def dose(self) -> float:
        """The learning rates of these updates added up; of a constant one, rate x updates."""
        return dose_until(self.run, self.updates)

    @property
    def worst(self) -> str:
        """The split that is harmed most; "" where nothing is known."""
        known = {s: x for s, x in self.harms.items() if not math.isnan(x)}
        return max(known, key=lambda split: known[split]) if known else ""

    @property
    def harm(self) -> float:
        """The worst of `harms`; NaN unless all of them are known."""
        unknown = not self.harms or any(map(math.isnan, self.harms.values()))
        return math.nan if unknown else max(self.harms.values())

    def value(self, measure: str) -> float:
        """One of `MEASURES`, "updates", "dose", "auc/ATTACK" or "trace/ATTACK"."""
        name, _, attack = measure.partition("/")
        if name in ("auc", "trace"):
            return (self.aucs if name == "auc" else self.traces).get(attack, math.nan)
        if name == MEMBERSHIP:
            return self.traces.get(ATTACKS[-1], math.nan)
        return float(getattr(self, name))


def dose_until(run: Record, updates: float) -> float:
    """The sum of a run's learning rates up to an update, of the last one the part that is used."""
    if math.isnan(updates):
        return math.nan
    rate = float(run.spec["learning_rate"])
    rates = {int(row["update"]): float(row.get("rate", rate)) for row in run.trajectory}
    whole = math.floor(updates)
    total = sum(rates.get(update, rate) for update in range(1, whole + 1))
    return total + (updates - whole) * rates.get(whole + 1, rate)


def level_for(run: Record, retrained: Record) -> tuple[float, float]:
    """(ln of the retrained model's perplexity on the documents that a run forgets, its slack).

    Made of documents' losses it is known within `SLACK`, else as exactly as the run's own.
    """
    names = names_in(run, "forget")
    whole = retrained.metrics.get(FORGET, math.nan)
    if not names or set(names) == set(names_in(retrained, "forget")):
        return (math.log(whole) if whole > 0 else math.nan), ROUNDING
    return log_perplexity(retrained, "forget", names), SLACK


def point_of(run: Record, retrained: Record, all_retrained: Sequence[Record] = ()) -> Point:
    """A probed run where it has forgotten as much as the retrained model.

    `all_retrained` are the models that its harm is measured against; by default that one.
    """
    level, slack = level_for(run, retrained)
    crossing = find_crossing(probed_rows(run), level, slack=slack)
    if crossing is None:
        return Point(run, None)
    harms = {
        split: crossing.log_at(f"{split}/perplexity")
        - mean_log(all_retrained or [retrained], split)
        for split in HARMED
    }
    names, unseen = names_in(run, "forget"), names_in(run, "approximate")
    aucs = {attack: crossing.at(f"membership/{attack}/auc") for attack in ATTACKS}
    traces = {}
    for attack in ATTACKS:
        theirs = auc_of(retrained, attack, names, unseen)
        traces[attack] = abs(aucs[attack] - theirs)
    return Point(run, crossing, harms, crossing.at(KL), aucs, traces)


def auc_of(record: Record, attack: str, names: Sequence[str], unseen: Sequence[str]) -> float:
    """AUC of an attack on some forget documents against some that are unseen."""
    from unlearnlib.metrics.membership import auc

    members = document_means(record, "forget", attack, names)
    others = document_means(record, "approximate", attack, unseen)
    known = len(members) and len(others) and np.isfinite(members).all()
    return auc(members, others) if known and np.isfinite(others).all() else math.nan


def point_draws(
    point: Point, retrained: Record, draws: Draws, all_retrained: Sequence[Record] = ()
) -> dict[str, np.ndarray]:
    """By the names of `Point.value`, what each resample of the documents gives: (resamples,) each.

    A resample crosses where its own perplexity reaches the retrained model's on the same documents;
    beyond the two probes the line through them is taken on. Only a run that ends at the probe after
    its crossing has the losses of its documents at both probes: of others there is none. The AUC at
    the crossing varies as that at the end does.
    """
    crossing, run = point.crossing, point.run
    if crossing is None or not crossing.final:
        return {}
    ends: dict[str, list[np.ndarray]] = {}
    counts, names = {}, {}
    for split in ("forget", *HARMED):
        names[split] = names_in(run, split)
        counts[split] = draws.counts(point.domain, split, len(names[split]))

        def drawn(record: Record, column: str, split: str = split) -> np.ndarray:
            return drawn_means(counts[split], *document_sums(record, split, column, names[split]))

        against = [retrained] if split == "forget" else all_retrained or [retrained]
        theirs = np.mean([drawn(record, "nll") for record in against], axis=0)
        ends[split] = [drawn(run, "nll_before"), drawn(run, "nll"), theirs]
    before, after, level = ends["forget"]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(after > before, (level - before) / (after - before), np.nan)
    harms = [(1 - share) * a + share * b - r for a, b, r in (ends[split] for split in HARMED)]
    divergence = [
        drawn_means(counts["forget"], *document_sums(run, "forget", column, names["forget"]))
        for column in ("kl_before", "kl")
    ]
    first, last = (float(row["update"]) for row in (crossing.before, crossing.after))
    updates = first + share * (last - first)
    scale = point.dose / point.updates if point.updates else math.nan
    found = {
        HARM: np.max(harms, axis=0),
        DISTANCE: (1 - share) * divergence[0] + share * divergence[1],
        "updates": updates,
        "dose": updates * scale,
    }
    for attack in ATTACKS:
        ours, theirs = (
            drawn_aucs(
                document_means(record, "forget", attack, names["forget"]),
                document_means(record, "approximate", attack, names["approximate"]),
                counts["forget"],
                counts["approximate"],
            )
            for record in (run, retrained)
        )
        whole = auc_of(run, attack, names["forget"], names["approximate"])
        found[f"auc/{attack}"] = point.aucs[attack] + ours - whole
        found[f"trace/{attack}"] = np.abs(found[f"auc/{attack}"] - theirs)
    found[MEMBERSHIP] = found[f"trace/{ATTACKS[-1]}"]
    return found


# ---- methods --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and the resamples that it is made of."""

    value: float
    draws: np.ndarray

    @cached_property
    def interval(self) -> tuple[float, float]:
        """(low, high); NaN where there are no resamples."""
        return interval(self.draws)

    def minus(self, other: Estimate) -> Estimate:
        """The difference to another one; what both drew alike is not in its interval."""
        return Estimate(self.value - other.value, self.draws - other.draws)

    def percent(self) -> Estimate:
        """By how many percent two perplexities differ whose logarithms differ by this."""
        return Estimate(100 * math.expm1(self.value), 100 * np.expm1(self.draws))

    def times(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(factor * self.value, factor * self.draws)


@dataclass(frozen=True)
class AtEqual:
    """All runs of a study at equal forgetting. Make one with `at_equal`.

    points   every run, those that never got there among them
    drawn    key of a run -> what each resample of the documents gives (see `point_draws`)
    before   (domain, base) -> by measure what the model before unlearning has
    known    estimates that were asked for already
    """

    points: tuple[Point, ...]
    drawn: dict[str, dict[str, np.ndarray]]
    draws: Draws
    before: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    known: dict[tuple[Any, ...], Estimate] = field(default_factory=dict)

    @property
    def domains(self) -> list[str]:
        """In the book's order."""
        return domains_of(point.run for point in self.points)

    @property
    def methods(self) -> list[str]:
        """In the paper's order."""
        return methods_of(point.run for point in self.points)

    @property
    def bases(self) -> list[str]:
        """The models before unlearning."""
        return [base for base in BASES if any(point.base == base for point in self.points)]

    @property
    def any_reached(self) -> bool:
        """Whether a run has forgotten as much as the retrained model."""
        return any(point.crossing for point in self.points)

    def finest(self) -> AtEqual:
        """Of runs that differ in their learning rate alone the one with the lowest that got there.

        A lower rate has more probes on the way, so less is interpolated. Where none got there, it
        is the one with the lowest rate.
        """
        groups: dict[tuple[Any, ...], list[Point]] = {}
        for p in self.points:
            place = p.domain, p.method, p.base, p.exposure, p.run.spec.get("seed")
            groups.setdefault(place, []).append(p)
        kept = (
            min(several, key=lambda p: (p.crossing is None, p.run.spec["learning_rate"]))
            for several in groups.values()
        )
        return AtEqual(tuple(kept), self.drawn, self.draws, self.before)

    def of(
        self, domain: str, method: str, base: str | None = None, exposure: int | None = None
    ) -> list[Point]:
        """The runs of a method on a domain; of one base or exposure, or of all."""
        return [
            p
            for p in self.points
            if (p.domain, p.method) == (domain, method)
            and base in (None, p.base)
            and exposure in (None, p.exposure)
        ]

    def reached(self, domain: str, method: str, **which: Any) -> tuple[int, int]:
        """(runs that forgot as much as the retrained model, runs)."""
        points = self.of(domain, method, **which)
        return sum(p.crossing is not None for p in points), len(points)

    def estimate(self, measure: str, domain: str, method: str, **which: Any) -> Estimate:
        """A measure's mean over the runs that got there; of each base first, then over bases.

        The interval is over documents and, where there are several, over the runs of each base.
        """
        place = measure, domain, method, *sorted(which.items())
        if place not in self.known:
            self.known[place] = self._estimate(measure, domain, method, **which)
        return self.known[place]

    def _estimate(self, measure: str, domain: str, method: str, **which: Any) -> Estimate:
        points = [p for p in self.of(domain, method, **which) if p.crossing is not None]
        parts = []
        for base in dict.fromkeys(p.base for p in points):
            values, rows = [], []
            for p in points:
                if p.base == base:
                    values.append(p.value(measure))
                    nothing = np.full(self.draws.resamples, np.nan)
                    rows.append(self.drawn.get(p.run.key, {}).get(measure, nothing))
            picked = self.draws.runs(domain, len(rows))
            drawn = np.take_along_axis(np.array(rows).T, picked, axis=1).mean(1)
            parts.append((known_mean(values), drawn))
        if not parts:
            return Estimate(math.nan, np.zeros(0))
        return Estimate(
            fmean(value for value, _ in parts), np.mean([drawn for _, drawn in parts], axis=0)
        )

    def worst(self, domain: str, method: str, **which: Any) -> str:
        """The split that is harmed most, by the mean over the runs; "" where none got there."""
        points = [p for p in self.of(domain, method, **which) if p.crossing is not None]
        means = {s: known_mean(p.harms.get(s) for p in points) for s in HARMED}
        known = {s: x for s, x in means.items() if not math.isnan(x)}
        return max(known, key=lambda split: known[split]) if known else ""

    def order(self, measure: str, domain: str, **which: Any) -> list[str]:
        """The methods from the least to the most; those without a value are left out."""
        values = {m: self.estimate(measure, domain, m, **which).value for m in self.methods}
        known = [m for m in self.methods if math.isfinite(values[m])]
        return sorted(known, key=lambda method: values[method])

    def difference(self, measure: str, one: str, other: str) -> Estimate:
        """How much more of a measure `one` has than `other`, mean over the domains of both.

        Their documents are drawn together, so what the two share is not in the interval.
        """
        pairs = [[self.estimate(measure, d, m) for m in (one, other)] for d in self.domains]
        known = [pair for pair in pairs if all(math.isfinite(e.value) for e in pair)]
        if not known:
            return Estimate(math.nan, np.zeros(0))
        drawn = np.mean([a.draws - b.draws for a, b in known], axis=0)
        return Estimate(fmean(a.value - b.value for a, b in known), drawn)

    def agreement(
        self, measure: str, one: tuple[str, str | None], other: tuple[str, str | None]
    ) -> tuple[Estimate, int]:
        """(Spearman's rho of the methods on two (domain, base), number of methods) by a measure.

        A base of None is the mean over bases. Methods that have no value on a side are left out;
        of fewer than three there is no correlation.
        """
        sides = [
            {m: self.estimate(measure, domain, m, base=base) for m in self.methods}
            for domain, base in (one, other)
        ]
        shared = [m for m in self.methods if all(math.isfinite(side[m].value) for side in sides)]
        if len(shared) < 3:
            return Estimate(math.nan, np.zeros(0)), len(shared)
        values = [np.array([[side[m].value for m in shared]]) for side in sides]
        drawn = [np.array([side[m].draws for m in shared]).T for side in sides]
        rho = spearman(*values)[0]
        return Estimate(float(rho), spearman(*drawn)), len(shared)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(rows,) Spearman's rho of each row of one array with that of the other; ties share ranks."""
    from scipy.stats import rankdata

    broken = ~(np.isfinite(one).all(1) & np.isfinite(other).all(1))
    a, b = (rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(broken, np.nan, rho)


def at_equal(
    records: Iterable[Record],
    baselines: Iterable[Record],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> AtEqual:
    """The probed runs of a study at equal forgetting, each against its base's retrained model.

    A run without a retrained model to compare with is left out.
    """
    records, baselines = list(records), list(baselines)
    draws, points, drawn = Draws(resamples, seed), [], {}
    before: dict[tuple[str, str], dict[str, float]] = {}
    for domain in domains_of(records):
        for method in methods_of(select(records, domain)):
            for run in select(records, domain, method):
                retrained = scores_for(baselines, run, RETRAINED)
                if retrained is None or not probed_rows(run):
                    continue
                every = retrained_models(baselines, run, retrained)
                point = point_of(run, retrained, every)
                points.append(point)
                drawn[run.key] = point_draws(point, retrained, draws, every)
                if (domain, point.base) not in before:
                    start = scores_for(baselines, run, BEFORE)
                    before[domain, point.base] = measures_of(start, retrained, every)
    return AtEqual(tuple(points), drawn, draws, before)


def measures_of(
    record: Record | None, retrained: Record, all_retrained: Sequence[Record]
) -> dict[str, float]:
    """`MEASURES` of a model's scores on the whole forget set; empty without a record.

    Its distance and its AUCs are compared with `retrained`, its harm with all retrained models.
    """
    if record is None:
        return {}
    attack = f"membership/{ATTACKS[-1]}/auc"
    values = [r.metrics.get(attack, math.nan) for r in (record, retrained)]
    return {
        HARM: max(harms_of(record, all_retrained).values()),
        DISTANCE: float(record.metrics.get(KL, math.nan)),
        MEMBERSHIP: abs(values[0] - values[1]),
    }


def harms_of(record: Record, retrained: Sequence[Record]) -> dict[str, float]:
    """Split -> ln(a model's perplexity / the retrained models'); itself is not among these."""
    others = [r for r in retrained if r is not record]
    return {split: mean_log([record], split) - mean_log(others, split) for split in HARMED}


# ---- retrained models among themselves --------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """How far the retrained models of a domain differ, that were trained with other seeds.

    perplexities  split -> of each model, in the order of `SIBLINGS`
    distances     KL of each of the others to the first on the forget set, nats per token
    floor         their mean, with an interval over documents: no method can be expected below it
    """

    perplexities: dict[str, list[float]]
    distances: list[float]
    floor: Estimate

    def spread(self, split: str = "forget") -> float:
        """ln(highest / lowest perplexity) on a split; NaN for fewer than two models."""
        known = [x for x in self.perplexities.get(split, ()) if x > 0]
        return math.log(max(known) / min(known)) if len(known) > 1 else math.nan


def band_of(baselines: Iterable[Record], domain: str, draws: Draws | None = None) -> Band:
    """The retrained models of a domain; those that are not recorded are left out."""
    draws = draws or Draws()
    found = [named_scores(baselines, domain, name) for name in SIBLINGS]
    known = [record for record in found if record is not None]
    perplexities = {
        split: [record.metrics.get(f"{split}/perplexity", math.nan) for record in known]
        for split in ("forget", *HARMED)
    }
    others = [record for record in found[1:] if record is not None] if found[0] else []
    distances = [record.metrics.get(KL, math.nan) for record in others]
    rows = []
    for record in others:
        names = names_in(record, "forget")
        counts = draws.counts(domain, "forget", len(names))
        rows.append(drawn_means(counts, *document_sums(record, "forget", "kl", names)))
    drawn = np.mean(rows, axis=0) if rows else np.zeros(0)
    return Band(perplexities, distances, Estimate(known_mean(distances), drawn))


# ---- leeway: how far a run may be off ---------------------------------------------------------


@dataclass(frozen=True)
class Tolerance:
    """Within which limits a run is good.

    forgetting  how far it may be from the retrained model, either way, as a share of the way from
                vanilla to it, in ln perplexity of the forget set
    harm        nats per token, on the worst of `HARMED`
    """

    forgetting: float = 0.25
    harm: float = math.log(1.1)


TOLERANCE = Tolerance()
UPDATES, RATE = "updates", "rate"  # in what a run may be off
Path = tuple[np.ndarray, np.ndarray, np.ndarray]  # where, share of the way, harm of each split


@dataclass(frozen=True)
class Stretch:
    """The longest stretch of a path that is within tolerance; (NaN, NaN) where it is not known."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """high - low; 0 where nothing is within tolerance."""
        return self.high - self.low


UNKNOWN = Stretch(math.nan, math.nan)


def stretch_within(path: Path, tolerance: Tolerance) -> Stretch:
    """The longest stretch of a path within tolerance, its values joined by straight lines.

    path  places in rising order (P,); there the share of the way that is forgotten, less 1 (P,);
          and the harm of each split (P, splits). A step to or from a value that is no number holds
          nothing
    Unknown where the path begins within tolerance or beyond it, ends within it, or ends before it
    has come so far.
    """
    places, off, harms = path
    inside = (np.abs(off) <= tolerance.forgetting) & (harms <= tolerance.harm).all(1)
    if len(places) < 2 or inside[0] or inside[-1] or off[0] > 0:
        return UNKNOWN
    if np.isfinite(off[-1]) and off[-1] < 0 and (harms[-1] <= tolerance.harm).all():
        return UNKNOWN
    pieces: list[tuple[float, float]] = []
    limits = [(off, tolerance.forgetting), (-off, tolerance.forgetting)]
    limits += [(harm, tolerance.harm) for harm in harms.T]
    for i, j in itertools.pairwise(range(len(places))):
        low, high = 0.0, 1.0
        for values, most in limits:
            low, high = _below(float(values[i]), float(values[j]), most, low, high)
        if high > low:
            start, width = float(places[i]), float(places[j] - places[i])
            piece = start + low * width, start + high * width
            if pieces and math.isclose(pieces[-1][1], piece[0], abs_tol=1e-9):
                piece = pieces.pop()[0], piece[1]
            pieces.append(piece)
    return Stretch(*max(pieces, key=lambda p: p[1] - p[0])) if pieces else Stretch(0.0, 0.0)


def _below(a: float, b: float, most: float, low: float, high: float) -> tuple[float, float]:
    """The part of (low, high) in which the line from a (at 0) to b (at 1) is at most `most`."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return 1.0, 0.0
    if a == b:
        return (low, high) if a <= most else (1.0, 0.0)
    at = (most - a) / (b - a)
    return (low, min(high, at)) if b > a else (max(low, at), high)


@dataclass(frozen=True)
class Leeway:
    """How far the runs of one method, domain, base and seed may be off.

    updates  learning rate -> from which to which update a run is good
    rate     number of updates -> from which to which ln(learning rate) it is
    """

    domain: str
    method: str
    base: str
    seed: int
    updates: dict[float, Stretch]
    rate: dict[int, Stretch]

    def widths(self, what: str) -> dict[float, float]:
        """Setting -> width, of those that are known: updates, or ln of a factor of the rate."""
        found: Mapping[Any, Stretch] = self.updates if what == UPDATES else self.rate
        return {s: x.width for s, x in found.items() if not math.isnan(x.width)}


def leeways(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: Tolerance = TOLERANCE
) -> list[Leeway]:
    """The leeway of every method, from probed runs at several learning rates.

    With a constant schedule the first u updates of a run are the run of u updates, so the runs of a
    method are a map over rate and updates: along a run the updates may be off, across runs at one
    number of updates the rate.
    """
    groups: dict[tuple[str, str, str, int], dict[float, Record]] = {}
    for run in records:
        place = run.spec["domain"], run.spec["method"], base_of(run), int(run.spec["seed"])
        groups.setdefault(place, {})[float(run.spec["learning_rate"])] = run
    baselines, out = list(baselines), []
    for place, runs in groups.items():
        maps: dict[float, dict[int, tuple[float, list[float]]]] = {}
        for rate, run in sorted(runs.items()):
            retrained = scores_for(baselines, run, RETRAINED)
            before = scores_for(baselines, run, BEFORE)
            if retrained is not None and before is not None:
                every = retrained_models(baselines, run, retrained)
                maps[rate] = _course(run, before, retrained, every)
        updates = {
            rate: stretch_within(_path(list(map(float, course)), list(course.values())), tolerance)
            for rate, course in maps.items()
        }
        by_rate = {}
        for update in sorted({u for course in maps.values() for u in course if u}):
            there = {rate: course[update] for rate, course in maps.items() if update in course}
            path = _path([math.log(rate) for rate in there], list(there.values()))
            by_rate[update] = stretch_within(path, tolerance)
        out.append(Leeway(*place, updates, by_rate))
    return out


def _course(
    run: Record, before: Record, retrained: Record, all_retrained: Sequence[Record]
) -> dict[int, tuple[float, list[float]]]:
    """Update -> (share of the way less 1, harm of each split), from no update on.

    From where a run diverged on, both are infinite up to the updates that it was meant to have.
    """

    def logs(row: Mapping[str, Any], split: str) -> float:
        x = float(row.get(f"{split}/perplexity", math.nan))
        return math.log(x) if x > 0 else math.nan

    level, start = logs(retrained.metrics, "forget"), logs(before.metrics, "forget")
    rows: dict[int, Mapping[str, Any]] = {0: before.metrics}
    rows |= {int(row["update"]): row for row in probed_rows(run)}
    found, theirs = {}, {split: mean_log(all_retrained, split) for split in HARMED}
    for update, row in sorted(rows.items()):
        off = (logs(row, "forget") - level) / (level - start)
        found[update] = off, [logs(row, split) - theirs[split] for split in HARMED]
    step = int(run.spec.get("probe_every") or run.spec["updates"])
    if run.diverged_at is not None:
        for update in range(step, int(run.spec["updates"]) + 1, step):
            if update >= run.diverged_at:
                found[update] = math.inf, [math.inf] * len(HARMED)
    return dict(sorted(found.items()))


def _path(places: list[float], values: list[tuple[float, list[float]]]) -> Path:
    """As `stretch_within` takes it; values that are no number count as infinite."""
    harms = np.array([harm for _, harm in values]).reshape(len(places), len(HARMED))
    off = np.array([off for off, _ in values])
    return (
        np.array(places),
        np.where(np.isnan(off), np.inf, off),
        np.where(np.isnan(harms), np.inf, harms),
    )


def more_leeway(
    found: Sequence[Leeway], one: str, other: str, what: str, resamples: int = 2000
) -> Estimate:
    """How much more leeway `one` has than `other`, with its interval over models and seeds.

    what  `UPDATES` (at the same learning rates, in updates) or `RATE` (at the same numbers of
          updates, in ln of the factor by which the rate may vary)
    Compared are settings at which both are known and one of them has any leeway. Runs of the same
    domain, base and seed are compared, then averaged over the domain, then over domains. With one
    pair on a domain there is no interval.
    """
    differences: dict[str, list[float]] = {}
    for ours in found:
        for theirs in found:
            if (ours.method, theirs.method) != (one, other) or _cell(ours) != _cell(theirs):
                continue
            a, b = ours.widths(what), theirs.widths(what)
            pairs = [a[s] - b[s] for s in sorted(a.keys() & b.keys()) if a[s] > 0 or b[s] > 0]
            if a.keys() & b.keys():
                differences.setdefault(ours.domain, []).append(fmean(pairs) if pairs else 0.0)
    if not differences:
        return Estimate(math.nan, np.zeros(0))
    value = fmean(map(fmean, differences.values()))
    if min(map(len, differences.values())) < 2:
        return Estimate(value, np.zeros(0))
    draw = np.random.default_rng(0)
    drawn = [
        np.array(d)[draw.integers(len(d), size=(resamples, len(d)))].mean(1)
        for _, d in sorted(differences.items())
    ]
    return Estimate(value, np.mean(drawn, axis=0))


def _cell(leeway: Leeway) -> tuple[str, str, int]:
    return leeway.domain, leeway.base, leeway.seed


def has_more_leeway(found: Sequence[Leeway], one: str, other: str) -> bool:
    """The test of "`one` is more robust than `other`": more leeway in updates and in the rate.

    Passed if both intervals lie above 0.
    """
    return all(more_leeway(found, one, other, what).interval[0] > 0 for what in (UPDATES, RATE))


HOLDS, OPPOSITE, UNDECIDED = "holds", "the opposite holds", "not decided"


def verdict(test: Callable[[str, str], bool], one: str, other: str) -> str:
    """What a test of "`one` is better than `other`" decides: it is also run the other way round.

    A test that both pass, or neither, decides nothing.
    """
    passed, exchanged = test(one, other), test(other, one)
    if passed == exchanged:
        return UNDECIDED
    return HOLDS if passed else OPPOSITE
