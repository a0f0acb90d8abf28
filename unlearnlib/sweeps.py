"""Reading the sweeps: which settings are usable, what each setting does, where a target stops.

From records alone, as `tables`. Three ideas:

- With a constant schedule the first u updates of a run *are* the run of u updates, so one probed
  run per learning rate gives a whole column of the grid learning rate x updates (`region_cells`).
- A sweep is a list of `Point`s, whatever was swept: a field of the spec, or the updates of a
  probed run (`points`).
- The target can be held against the truth for requests of any size, from the scores of single
  documents (`target_ratios`), and along a run: when would either have stopped it (`early_stops`).

And runs that end at different points can be compared where they have forgotten alike
(`at_equal_forgetting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.looks import BASELINE_TITLES, domain_title, method_title
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record
from unlearnlib.tables import (
    baseline_record,
    baseline_value,
    by_document,
    domains_of,
    methods_of,
    number,
    select,
    value,
    with_spread,
    within_factor,
)

if TYPE_CHECKING:
    import pandas as pd

FORGET, GENERAL, KL = "forget/perplexity", "general/perplexity", "oracle_kl/forget"
YARDSTICKS = {"oracle": "the truth", "target": "the paper’s target"}


@dataclass(frozen=True)
class UsableWithin:
    """Within which limits a setting is usable.

    near      forget perplexity may be off the yardstick by this factor, either way
    harmless  general perplexity may be at most this multiple of vanilla's
    """

    near: float
    harmless: float

    def is_near(self, forget: float, yardstick: float) -> bool:
        """Is a forget perplexity within the factor `near` of the yardstick?"""
        return within_factor(forget, yardstick, self.near)

    def allows(self, forget: float, general: float, yardstick: float, vanilla: float) -> bool:
        """Near the yardstick, and general perplexity not above `harmless` x `vanilla`?"""
        return self.is_near(forget, yardstick) and general <= self.harmless * vanilla * (1 + 1e-12)

    def in_words(self, yardstick: str = "oracle") -> str:
        """ "forget perplexity within a factor 1.25 of the truth, general ... up by at most 5 %"."""
        return (
            f"forget perplexity within a factor {self.near:g} of {YARDSTICKS[yardstick]}, general "
            f"perplexity up by at most {100 * (self.harmless - 1):.0f} %"
        )


# --- the robust region ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One setting of the grid: learning rate x updates. NaN where a value was not measured.

    broken  the run had diverged by then, or its perplexity is not finite
    seed    of the run: the order of its documents
    """

    domain: str
    method: str
    learning_rate: float
    updates: int
    forget: float
    general: float
    broken: bool
    seed: int = 0


def region_cells(records: Iterable[Record]) -> list[Cell]:
    """Every `probe_every`-th update of every run as a cell; vanilla's own is left out.

    A run without probes is one cell, its end. A run that diverged has broken cells from there to
    the updates that it was meant to have.
    """
    cells = []
    for record in records:
        spec = record.spec
        last = int(spec["updates"])
        step = int(spec.get("probe_every") or last)
        if not step:
            continue
        probed: dict[int, Mapping[str, float]] = {last: record.metrics}
        if spec.get("probe_every"):
            probed = {int(row["update"]): row for row in record.trajectory if FORGET in row}
        for update in range(step, last + 1, step):
            row = probed.get(update, {})
            forget, general = (float(row.get(name, math.nan)) for name in (FORGET, GENERAL))
            diverged = record.diverged_at is not None and update >= record.diverged_at
            lost = bool(row) and not (math.isfinite(forget) and math.isfinite(general))
            cells.append(
                Cell(
                    spec["domain"],
                    spec["method"],
                    float(spec["learning_rate"]),
                    update,
                    forget,
                    general,
                    diverged or lost,
                    int(spec["seed"]),
                )
            )
    return cells


def is_usable(cell: Cell, tolerance: UsableWithin, yardstick: float, vanilla: float) -> bool:
    """Is a cell near the yardstick and harmless (`vanilla`: its general perplexity)?"""
    return not cell.broken and tolerance.allows(cell.forget, cell.general, yardstick, vanilla)


@dataclass(frozen=True)
class Share:
    """So many of so many settings, with Wilson's 95 % interval.

    The interval takes the settings for independent draws. Cells of one run are not, so it is
    narrower than it should be; it says how coarse the grid is, and no more.
    """

    usable: int
    settings: int

    @property
    def share(self) -> float:
        """usable / settings; NaN for none."""
        return self.usable / self.settings if self.settings else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high), inside [0, 1] even for none or all (Wilson 1927, without correction)."""
        if not self.settings:
            return math.nan, math.nan
        from scipy.stats import binomtest

        found = binomtest(self.usable, self.settings).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        if not self.settings:
            return "–"
        return f"{self.usable} of {self.settings} ({100 * low:.0f} to {100 * high:.0f} %)"


def region_shares(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin,
    yardstick: str = "oracle",
) -> dict[tuple[str, str], Share]:
    """(domain, method) -> usable settings of the grid, by the "oracle" or by the "target".

    Cells that were never measured are no settings; broken ones are, and are not usable. A domain
    without the yardstick is left out.
    """
    records, baselines = list(records), list(baselines)
    cells = region_cells(records)
    out = {}
    for domain in domains_of(records):
        mark = baseline_value(baselines, domain, yardstick, FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        if not (math.isfinite(mark) and math.isfinite(vanilla)):
            continue
        for method in methods_of(select(records, domain)):
            ours = [
                c
                for c in cells
                if (c.domain, c.method) == (domain, method)
                and (c.broken or not (math.isnan(c.forget) or math.isnan(c.general)))
            ]
            usable = sum(is_usable(c, tolerance, mark, vanilla) for c in ours)
            out[domain, method] = Share(usable, len(ours))
    return out


def region_table(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> pd.DataFrame:
    """Per domain and method: usable settings by the truth and by the paper's target; divergences.

    "agree" counts the settings on which both yardsticks give the same answer.
    """
    import pandas as pd

    records, baselines = list(records), list(baselines)
    shares = {y: region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    cells = region_cells(records)
    index, rows = [], []
    for domain in domains_of(records):
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        marks = [baseline_value(baselines, domain, y, FORGET, records) for y in YARDSTICKS]
        for method in methods_of(select(records, domain)):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            agree = sum(
                len({is_usable(c, tolerance, mark, vanilla) for mark in marks}) == 1 for c in ours
            )
            both = all((domain, method) in shares[y] for y in YARDSTICKS)
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    *(str(shares[y].get((domain, method), Share(0, 0))) for y in YARDSTICKS),
                    f"{agree} of {len(ours)}" if both else "–",
                    f"{sum(c.broken for c in ours)}",
                ]
            )
    return pd.DataFrame(
        rows,
        index=_index(index),
        columns=["usable by the truth", "usable by the target", "both agree", "diverged"],
    )


def region_in_words(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> str:
    """Per domain the methods by usable settings, and what the choice of yardstick changes."""
    records, baselines = list(records), list(baselines)
    shares = {y: region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    lines = []
    for domain in domains_of(records):
        ours = {m: s for (d, m), s in shares["oracle"].items() if d == domain}
        if not ours:
            lines.append(f"- **{domain_title(domain)}.** There is no oracle to compare with.")
            continue
        ranked = sorted(ours.items(), key=lambda item: -item[1].share)
        parts = [f"{method_title(m)} {s.usable} of {s.settings}" for m, s in ranked]
        by_target = sum(s.usable for (d, _), s in shares["target"].items() if d == domain)
        by_truth = sum(s.usable for s in ours.values())
        lines.append(
            f"- **{domain_title(domain)}.** Usable settings: {'; '.join(parts)}. By the paper’s "
            f"target {by_target} settings of all methods would be usable, by the truth {by_truth}."
        )
    return "\n".join([f"Usable: {tolerance.in_words()}.\n", *lines])


TOLERANCES = tuple(float(x) for x in np.geomspace(1.05, 4.0, 30))  # factors from the yardstick


def tolerance_curves(
    records: Iterable[Record],
    baselines: Iterable[Record],
    harmless: float,
    factors: Sequence[float] = TOLERANCES,
) -> dict[tuple[str, str], np.ndarray]:
    """(domain, method) -> (seeds, factors): usable share of the grid by how near is near enough.

    Where a single tolerance leaves a handful of settings, the curve tells a method that misses
    narrowly from one that misses by far. Seeds in rising order; the truth is the yardstick.
    """
    records, baselines = list(records), list(baselines)
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(int(record.spec["seed"]), []).append(record)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _, ours in sorted(by_seed.items()):
        rows: dict[tuple[str, str], list[float]] = {}
        for near in factors:
            shares = region_shares(ours, baselines, UsableWithin(near, harmless))
            for place, share in shares.items():
                rows.setdefault(place, []).append(share.share)
        for place, row in rows.items():
            found.setdefault(place, []).append(row)
    return {place: np.array(rows) for place, rows in found.items()}


def seeds_table(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> pd.DataFrame:
    """Per domain and method: usable settings with each seed, and those usable with every seed."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    seeds = sorted({int(r.spec["seed"]) for r in records})
    cells = region_cells(records)
    index, rows = [], []
    for domain in domains_of(records):
        mark = baseline_value(baselines, domain, "oracle", FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for method in methods_of(select(records, domain)):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            usable = {
                seed: {
                    (c.learning_rate, c.updates)
                    for c in ours
                    if c.seed == seed and is_usable(c, tolerance, mark, vanilla)
                }
                for seed in seeds
            }
            settings = {s: sum(c.seed == s for c in ours) for s in seeds}
            measured = [s for s in seeds if settings[s]]
            every = set.intersection(*(usable[s] for s in measured)) if measured else set()
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    *(f"{len(usable[s])} of {settings[s]}" if settings[s] else "–" for s in seeds),
                    f"{len(every)}" if len(measured) > 1 else "–",
                ]
            )
    columns = [*(f"seed {seed}" for seed in seeds), "with every seed"]
    return pd.DataFrame(rows, index=_index(index), columns=columns)


def seeds_in_words(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin,
    one: str = "ga_gd_in_dist",
    other: str = "ga",
) -> str:
    """In how many domains and seeds one method has more usable settings than another; Markdown."""
    records, baselines = list(records), list(baselines)
    sentences = []
    for near in (tolerance.near, 2.0):
        curves = tolerance_curves(records, baselines, tolerance.harmless, (near,))
        more = same = of = 0
        for domain in domains_of(records):
            if not {(domain, one), (domain, other)} <= set(curves):
                continue
            pairs = zip(curves[domain, one][:, 0], curves[domain, other][:, 0], strict=False)
            for ours, theirs in pairs:
                of += 1
                more += ours > theirs
                same += ours == theirs
        if of:
            sentences.append(
                f"within a factor {near:g} of the truth in {more} of {of} cases, as many in "
                f"{same}, fewer in {of - more - same}"
            )
    if not sentences:
        return ""
    return (
        f"A case is a domain with a seed. {method_title(one)} has more usable settings than "
        f"{method_title(other)} {'; '.join(sentences)}. General perplexity may rise by at most "
        f"{100 * (tolerance.harmless - 1):.0f} % in both."
    )


# --- at equal forgetting -------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualForgetting:
    """A probed run where its forget perplexity first reaches the oracle's, between two probes.

    update    where that is
    general   general perplexity there, as a multiple of vanilla's
    distance  KL to the oracle on the forget set there, nats per token
    """

    domain: str
    method: str
    seed: int
    update: float
    general: float
    distance: float


def at_equal_forgetting(
    records: Iterable[Record], baselines: Iterable[Record]
) -> list[EqualForgetting]:
    """Every probed run at the truth, in the book's order; those that never reach it are left out.

    A run that has gone less far is nearer to vanilla in everything, so ends can only be compared
    as doses. Here all have forgotten alike. Between probes the logarithms of the perplexities and
    the divergence are interpolated over the update, as in `crossing`.
    """
    records, baselines = list(records), list(baselines)
    out = []
    for domain in domains_of(records):
        truth = baseline_value(baselines, domain, "oracle", FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for method in methods_of(select(records, domain)):
            for run in select(records, domain, method):
                update = crossing(run, truth)
                if not math.isfinite(update) or update <= 0:
                    continue
                rows = _probes(run)
                after = next(i for i, row in enumerate(rows) if row["update"] >= update)
                a, b = rows[max(after - 1, 0)], rows[after]
                width = b["update"] - a["update"]
                share = (update - a["update"]) / width if width else 1.0

                def at(name: str, of: Callable[[float], float], a: Any = a, b: Any = b) -> float:
                    ends = [of(float(row.get(name, math.nan))) for row in (a, b)]
                    return ends[0] + share * (ends[1] - ends[0])  # noqa: B023

                out.append(
                    EqualForgetting(
                        domain,
                        method,
                        int(run.spec["seed"]),
                        update,
                        math.exp(at(GENERAL, math.log)) / vanilla,
                        at(KL, float),
                    )
                )
    return out


def equal_forgetting_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method, at the truth: update, harm, distance; mean ± std over seeds."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    found = at_equal_forgetting(records, baselines)
    index, rows = [], []
    for domain in domains_of(records):
        before = baseline_value(baselines, domain, "vanilla", KL, records)
        index.append((domain_title(domain), BASELINE_TITLES["vanilla"]))
        rows.append(["0", "1", number(before)])
        for method in methods_of(select(records, domain)):
            ours = [a for a in found if (a.domain, a.method) == (domain, method)]
            index.append((domain_title(domain), method_title(method)))
            values = ([getattr(a, x) for a in ours] for x in ("update", "general", "distance"))
            rows.append([with_spread(x) for x in values] if ours else ["never", "–", "–"])
    return pd.DataFrame(
        rows,
        index=_index(index),
        columns=["at update", "general, × vanilla", "KL to oracle, nats"],
    )


def equal_forgetting_in_words(
    records: Iterable[Record],
    baselines: Iterable[Record],
    one: str = "ga_gd_in_dist",
    other: str = "ga",
) -> str:
    """Who is nearest to the oracle at the truth, and who does least harm, as a Markdown list."""
    records, baselines = list(records), list(baselines)
    found = at_equal_forgetting(records, baselines)
    lines = []
    for domain in domains_of(records):
        means = {
            m: tuple(
                fmean(getattr(a, x) for a in found if (a.domain, a.method) == (domain, m))
                for x in ("distance", "general")
            )
            for m in dict.fromkeys(a.method for a in found if a.domain == domain)
        }
        known = {m: x for m, x in means.items() if not any(map(math.isnan, x))}
        if not known:
            continue
        parts = []
        for place, what, unit in (
            (0, "nearest to the oracle", "{} nats per token"),
            (1, "least harm", "general perplexity ×{}"),
        ):
            best = min(known, key=lambda m, place=place: known[m][place])  # type: ignore[misc]
            parts.append(f"{what}: {method_title(best)}, {unit.format(number(known[best][place]))}")
        line = f"- **{domain_title(domain)}.** At equal forgetting, {'; '.join(parts)}."
        if one in known and other in known:
            sides = [
                ("nearer", "farther")[known[one][0] > known[other][0]],
                ("less", "more")[known[one][1] > known[other][1]],
            ]
            line += (
                f" {method_title(one)} is {sides[0]} than {method_title(other)} "
                f"({number(known[one][0])} against {number(known[other][0])}), with {sides[1]} "
                f"harm (×{number(known[one][1])} against ×{number(known[other][1])})."
            )
        lines.append(line)
    return "\n".join(lines)


def _index(labels: Sequence[tuple[str, str]], second: str = "method") -> pd.MultiIndex:
    """(domain, `second`) as an index, also of no rows."""
    import pandas as pd

    levels = [[label[i] for label in labels] for i in (0, 1)]
    return pd.MultiIndex.from_arrays(levels, names=["domain", second])


# --- sweeps of one setting -----------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One run of a sweep: `x` is the swept value, a number or (for the schedule) words."""

    domain: str
    method: str
    x: Any
    metrics: Mapping[str, float] = field(repr=False)
    diverged: bool = False

    def __getitem__(self, metric: str) -> float:
        """A metric; NaN where it was not measured."""
        return float(self.metrics.get(metric, math.nan))


FIELD_TITLES = {
    "learning_rate": "learning rate",
    "updates": "updates",
    "batch_size": "documents per update",
    "retain_weight": "weight of the retain term",
    "forget_size": "documents to forget",
    "schedule": "schedule",
    "requests": "requests",
}


def documents_in(record: Record, split: str = "forget") -> int:
    """How many documents of a split a record has scores of."""
    return len(document_totals(record, split)[0])


def shape_title(spec: Mapping[str, Any]) -> str:
    """A schedule in words: "linear", "constant, 25 % warm-up"."""
    warm = float(spec["warmup"])
    return str(spec["schedule"]) + (f", {100 * warm:g} % warm-up" if warm else "")


def points(records: Iterable[Record], swept: str) -> list[Point]:
    """The sweep of a field of `RunSpec`, by rising value.

    "updates": every probe of a probed run is the run of that many updates. "forget_size": a run
    on the whole set counts its documents. "schedule": in words, in the order of the records.
    """
    if swept not in RunSpec.__dataclass_fields__:
        raise UnlearnError(f"{swept!r} is no setting of a run: give a field of RunSpec.")
    out = []
    for record in records:
        place = record.spec["domain"], record.spec["method"]
        if swept == "updates" and record.spec.get("probe_every"):
            step, end = int(record.spec["probe_every"]), record.diverged_at or math.inf
            for row in _probes(record):
                if 0 < row["update"] < end:
                    out.append(Point(*place, int(row["update"]), row))
            if record.diverged_at is not None:  # a run of the next number of updates diverges
                lost = {name: math.inf for name in (FORGET, GENERAL, KL)}
                out.append(Point(*place, math.ceil(end / step) * step, lost, True))
            continue
        # A record leaves out a setting that came later while it has its default.
        x: Any = record.spec.get(swept, getattr(RunSpec, swept, None))
        if swept == "schedule":
            x = shape_title(record.spec)
        elif swept == "forget_size" and x is None:
            x = documents_in(record)
        out.append(Point(*place, x, record.metrics, record.status == "diverged"))
    return out if swept == "schedule" else sorted(out, key=lambda p: p.x)


def at_rate(records: Iterable[Record], learning_rate: float) -> list[Record]:
    """The records with the learning rate that is nearest in the logarithm: a slice of the grid."""
    records = list(records)
    if not records:
        return []
    gap = lambda r: abs(math.log(r.spec["learning_rate"] / learning_rate))  # noqa: E731
    nearest = min(records, key=gap).spec["learning_rate"]
    return [r for r in records if r.spec["learning_rate"] == nearest]


def yardstick_at(
    baselines: Iterable[Record],
    domain: str,
    which: str,
    metric: str,
    swept: str,
    x: Any,
    runs: Iterable[Record] = (),
) -> float:
    """The value of "vanilla", "target" or "oracle" that belongs to a point of a sweep.

    Where documents to forget are swept, vanilla's and the oracle's forget perplexity are those on
    the documents forgotten, the first x. The target stays vanilla's on the whole approximate set.
    Divergences of single documents are not kept, so theirs is not known for fewer than all.
    """
    baselines = list(baselines)
    if swept == "forget_size" and which in ("vanilla", "oracle") and metric in (FORGET, KL):
        record = baseline_record(baselines, domain, which, runs)
        if record is None:
            return math.nan
        if metric == FORGET:
            return first_perplexity(record, "forget", int(x))
        return value(record, metric) if x >= documents_in(record) else math.nan
    return baseline_value(baselines, domain, which, metric, runs)


def swept_table(records: Iterable[Record], baselines: Iterable[Record], swept: str) -> pd.DataFrame:
    """Per domain and method, for each value: forget perplexity (general as multiple of vanilla's).

    Where documents to forget are swept, rows for the truth on the documents forgotten are added.
    """
    import pandas as pd

    records, baselines = list(records), list(baselines)
    every = points(records, swept)
    values = list(dict.fromkeys(p.x for p in every))
    index, rows = [], []
    for domain in domains_of(records):
        general = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for which, title in (("target", "Paper’s target"), ("oracle", "Oracle (truth)")):
            marks = [
                yardstick_at(baselines, domain, which, FORGET, swept, x, records) for x in values
            ]
            if not all(map(math.isnan, marks)):
                index.append((domain_title(domain), title))
                rows.append([number(mark) for mark in marks])
        for method in methods_of(select(records, domain)):
            by_value = {p.x: p for p in every if (p.domain, p.method) == (domain, method)}
            index.append((domain_title(domain), method_title(method)))
            rows.append([_cell(by_value.get(x), general) for x in values])
    return pd.DataFrame(
        rows,
        index=_index(index),
        columns=[x if isinstance(x, str) else f"{x:g}" for x in values],
    )


def _cell(point: Point | None, general: float) -> str:
    if point is None:
        return "–"
    if point.diverged:
        return "diverged"
    return f"{number(point[FORGET])} (×{number(point[GENERAL] / general)})"


def _usable_points(
    records: Iterable[Record],
    baselines: Iterable[Record],
    swept: str,
    tolerance: UsableWithin,
) -> dict[tuple[str, str], Share]:
    """(domain, method) -> usable values of a sweep, by the truth that belongs to each value."""
    records, baselines = list(records), list(baselines)
    out: dict[tuple[str, str], Share] = {}
    for point in points(records, swept):
        mark = yardstick_at(baselines, point.domain, "oracle", FORGET, swept, point.x, records)
        vanilla = baseline_value(baselines, point.domain, "vanilla", GENERAL, records)
        if math.isnan(mark) or math.isnan(vanilla):
            continue
        good = not point.diverged and tolerance.allows(point[FORGET], point[GENERAL], mark, vanilla)
        old = out.get((point.domain, point.method), Share(0, 0))
        out[point.domain, point.method] = Share(old.usable + good, old.settings + 1)
    return out


def span(records: Iterable[Record], baselines: Iterable[Record], swept: str) -> dict[str, float]:
    """Method -> the factor by which forget perplexity ÷ truth varies over a sweep.

    Largest over least, the geometric mean over domains; infinite if a run diverged, NaN without
    an oracle or with fewer than two values.
    """
    records, baselines = list(records), list(baselines)
    every = points(records, swept)
    out = {}
    for method in methods_of(records):
        logs = []
        for domain in domains_of(records):
            ours = [p for p in every if (p.domain, p.method) == (domain, method)]
            ratios = [
                math.inf
                if p.diverged
                else p[FORGET]
                / yardstick_at(baselines, domain, "oracle", FORGET, swept, p.x, records)
                for p in ours
            ]
            known = [r for r in ratios if not math.isnan(r)]
            if len(known) < 2 or min(known) <= 0:
                continue
            finite = math.isfinite(max(known))
            logs.append(math.log(max(known)) - math.log(min(known)) if finite else math.inf)
        mean = sum(logs) / len(logs) if logs else math.nan
        out[method] = math.inf if mean > 700 else math.exp(mean)  # exp overflows from 710 on
    return out


def swept_in_words(
    records: Iterable[Record], baselines: Iterable[Record], swept: str, tolerance: UsableWithin
) -> str:
    """How much a setting matters: the span of forget perplexity per method, usable values."""
    records, baselines = list(records), list(baselines)
    every = points(records, swept)
    values = list(dict.fromkeys(p.x for p in every))
    spans = {m: s for m, s in span(records, baselines, swept).items() if not math.isnan(s)}
    shares = _usable_points(records, baselines, swept, tolerance)
    names = values if swept == "schedule" else [f"{x:g}" for x in values]
    what = FIELD_TITLES.get(swept, swept).capitalize()
    # The words of a schedule have commas of their own.
    lines = [f"{what}: {('; ' if swept == 'schedule' else ', ').join(names)}."]
    if spans:
        ranked = sorted(spans.items(), key=lambda item: item[1])
        parts = [f"{method_title(m)} ×{number(s)}" for m, s in ranked]
        lines.append(
            "From its least to its largest value over these, forget perplexity ÷ truth moves by "
            f"(geometric mean over domains): {'; '.join(parts)}."
        )
    if shares:
        totals: dict[str, Share] = {}
        for (_, method), share in shares.items():
            old = totals.get(method, Share(0, 0))
            totals[method] = Share(old.usable + share.usable, old.settings + share.settings)
        parts = [f"{method_title(m)} {s.usable} of {s.settings}" for m, s in totals.items()]
        lines.append(f"Usable values ({tolerance.in_words()}): {'; '.join(parts)}.")
    return "\n\n".join(lines)


# --- the target, held against the truth ----------------------------------------------------------


def document_totals(record: Record, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, nats) of each document of a split, in its order; chunks of a document are added.

    Both are arrays of one number per document, empty where the record has no scores of the split.
    """
    kept = record.documents.get(split, {})
    if not kept.get("nll"):
        return np.zeros(0), np.zeros(0)
    _, groups = by_document(kept["id"])
    with np.errstate(invalid="ignore"):
        tokens = np.bincount(groups, weights=np.asarray(kept["tokens"], dtype=float))
        nats = np.bincount(
            groups, weights=np.multiply(kept["tokens"], np.asarray(kept["nll"], dtype=float))
        )
    return tokens, nats


def first_perplexity(record: Record, split: str, count: int) -> float:
    """Perplexity on the first `count` documents of a split; NaN without scores of so many."""
    tokens, nats = document_totals(record, split)
    if count < 1 or count > len(tokens):
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(nats[:count].sum() / tokens[:count].sum()))


@dataclass(frozen=True)
class TargetRatio:
    """The paper's target as a multiple of the truth, for requests of `size` documents.

    first      of the first `size` documents of the forget set
    low, high  95 % of requests drawn at random lie between
    off        share of such requests for which the target is off by more than a given factor
    early      share for which the target is below the truth: it would stop too early
    """

    size: int
    first: float
    low: float
    median: float
    high: float
    off: float
    early: float


def target_ratios(
    baselines: Iterable[Record],
    domain: str,
    sizes: Sequence[int],
    within: float = 1.1,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[TargetRatio]:
    """Target ÷ truth for requests of several sizes, from the scores of single documents.

    A request of n documents is drawn with replacement from the forget set, and the approximate
    set is drawn anew with it (bootstrap): both are samples of the same kind of document. Sizes
    beyond the forget set, and domains without both baselines, are left out.
    """
    baselines = list(baselines)
    vanilla, oracle = (baseline_record(baselines, domain, b) for b in ("vanilla", "oracle"))
    if vanilla is None or oracle is None:
        return []
    target = value(vanilla, "approximate/perplexity")
    near_tokens, near_nats = document_totals(vanilla, "approximate")
    tokens, nats = document_totals(oracle, "forget")
    if not len(tokens) or not len(near_tokens):
        return []
    draw = np.random.default_rng(seed)
    out = []
    for size in sizes:
        if size > len(tokens):
            continue
        ours = draw.integers(len(tokens), size=(resamples, size))
        near = draw.integers(len(near_tokens), size=(resamples, len(near_tokens)))
        with np.errstate(invalid="ignore", over="ignore"):
            logs = near_nats[near].sum(1) / near_tokens[near].sum(1)
            logs = logs - nats[ours].sum(1) / tokens[ours].sum(1)
            ratios = np.exp(logs)
            tail = (1 - level) / 2
            low, median, high = np.quantile(ratios, [tail, 0.5, 1 - tail])
            off = float(np.mean(~(np.abs(logs) <= math.log(within))))
        first = first_perplexity(oracle, "forget", size)
        out.append(
            TargetRatio(
                size,
                target / first if first else math.nan,
                float(low),
                float(median),
                float(high),
                off,
                float(np.mean(logs < 0)),
            )
        )
    return out


def target_sizes_table(
    baselines: Iterable[Record], sizes: Sequence[int], within: float = 1.1
) -> pd.DataFrame:
    """`target_ratios` of every domain as text."""
    import pandas as pd

    baselines = list(baselines)
    index, rows = [], []
    for domain in domains_of(baselines):
        for ratio in target_ratios(baselines, domain, sizes, within):
            index.append((domain_title(domain), f"{ratio.size}"))
            interval = f"{number(ratio.low)} to {number(ratio.high)}"
            shares = (f"{100 * x:.0f} %" for x in (ratio.off, ratio.early))
            rows.append([number(ratio.first), number(ratio.median), interval, *shares])
    return pd.DataFrame(
        rows,
        index=_index(index, "documents"),
        columns=[
            "first documents",
            "median request",
            "95 % of requests",
            f"off by more than {100 * (within - 1):.0f} %",
            "below the truth",
        ],
    )


def target_sizes_in_words(
    baselines: Iterable[Record], sizes: Sequence[int], within: float = 1.1
) -> str:
    """What the target is worth for one document and for the whole set, as a Markdown list."""
    baselines = list(baselines)
    lines = []
    for domain in domains_of(baselines):
        ratios = target_ratios(baselines, domain, sizes, within)
        if not ratios:
            lines.append(f"- **{domain_title(domain)}.** There is no oracle to compare with.")
            continue
        parts = [
            f"for {r.size} {'document' if r.size == 1 else 'documents'} between {number(r.low)} "
            f"and {number(r.high)} times the truth in 95 % of requests drawn at random, off by "
            f"more than {100 * (within - 1):.0f} % in {100 * r.off:.0f} % of them"
            for r in dict.fromkeys((ratios[0], ratios[-1]))
        ]
        lines.append(f"- **{domain_title(domain)}.** The target is, {'; '.join(parts)}.")
    return "\n".join(lines)


@dataclass(frozen=True)
class EarlyStop:
    """At which update a run would have been stopped, by the paper's target and by the truth.

    Updates are interpolated between probes, in the logarithm of the perplexity; infinite where
    the run never gets there, NaN where there is no yardstick or no probe.
    """

    domain: str
    method: str
    learning_rate: float
    by_target: float
    by_truth: float

    @property
    def late(self) -> float:
        """Updates that the target stops after the truth (negative: before it).

        Infinite where the target never stops a run that the truth stops, and minus infinite the
        other way round; NaN where neither does.
        """
        if math.isinf(self.by_target) and math.isinf(self.by_truth):
            return math.nan
        return self.by_target - self.by_truth


def _probes(record: Record) -> list[dict[str, Any]]:
    """The rows of a trajectory that were evaluated."""
    return [row for row in record.trajectory if FORGET in row]


def crossing(record: Record, level: float) -> float:
    """The update at which forget perplexity first reaches a level; infinite if it never does."""
    rows = [
        (float(row["update"]), float(row[FORGET])) for row in record.trajectory if FORGET in row
    ]
    rows = [(update, x) for update, x in rows if not math.isnan(x)]
    if not rows or math.isnan(level):
        return math.nan
    before: tuple[float, float] | None = None
    for update, x in rows:
        if x >= level:
            if before is None or not math.isfinite(x) or before[1] <= 0:
                return update
            share = math.log(level / before[1]) / math.log(x / before[1])
            return before[0] + share * (update - before[0])
        before = update, x
    return math.inf


def early_stops(records: Iterable[Record], baselines: Iterable[Record]) -> list[EarlyStop]:
    """Where target and truth would have stopped each probed run, in the book's order."""
    records, baselines = list(records), list(baselines)
    out = []
    for domain in domains_of(records):
        target, truth = (
            baseline_value(baselines, domain, which, FORGET, records)
            for which in ("target", "oracle")
        )
        for method in methods_of(select(records, domain)):
            out += [
                EarlyStop(
                    domain,
                    method,
                    run.spec["learning_rate"],
                    crossing(run, target),
                    crossing(run, truth),
                )
                for run in select(records, domain, method)
                if any(FORGET in row for row in run.trajectory)
            ]
    return out


def early_stops_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method: the update at which each yardstick stops, and the difference.

    Whole updates are what a practitioner can stop at: the first at or above the level.
    """
    import pandas as pd

    index, rows = [], []
    for stop in early_stops(records, baselines):
        index.append((domain_title(stop.domain), method_title(stop.method)))
        rows.append([_whole(stop.by_target), _whole(stop.by_truth), late_in_words(stop.late)])
    return pd.DataFrame(
        rows,
        index=_index(index),
        columns=["stopped by the target", "stopped by the truth", "target stops"],
    )


def _whole(update: float) -> str:
    if math.isnan(update):
        return "–"
    return "never" if math.isinf(update) else f"{math.ceil(update - 1e-9)}"


def late_in_words(late: float) -> str:
    """ "0.3 updates late", "1.2 updates early"; words where there is no number."""
    if math.isnan(late):
        return "–"
    if math.isinf(late):
        return "never, the truth does" if late > 0 else "though the truth never does"
    side = "late" if late > 0 else "early"
    return "with the truth" if abs(late) < 0.05 else f"{abs(late):.1f} updates {side}"


def early_stops_in_words(records: Iterable[Record], baselines: Iterable[Record]) -> str:
    """How early or late the target would stop, per domain, as a Markdown list."""
    lines = []
    found = early_stops(records, baselines)
    for domain in dict.fromkeys(s.domain for s in found):
        ours = [s for s in found if s.domain == domain]
        known = [s.late for s in ours if math.isfinite(s.late)]
        one = sum(math.isinf(s.late) for s in ours)
        line = (
            f"- **{domain_title(domain)}.** Of {len(ours)} runs, {len(known)} reach both levels, "
            f"{one} only one of them."
        )
        if known:
            early, late = sum(x < 0 for x in known), sum(x > 0 for x in known)
            least, most = (number(f(map(abs, known))) for f in (min, max))
            line += (
                f" Of those that reach both, the target stops {early} too early and {late} too "
                f"late, by {least} to {most} updates."
            )
        lines.append(line)
    return "\n".join(lines)
