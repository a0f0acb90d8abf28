"""The chapter on sensitivity: one field of the chosen setting swept, everything else left as it is.

A sweep is a list of `Point`s, whatever was swept: a field of the spec, or the updates of a probed
run (`points`). The chapter on the forget size shows two more sweeps with the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from unlearnlib.book.drawing import (
    axis_cap,
    baseline_values,
    baselines_in_words,
    draw_baselines,
    draw_path,
    name_rows,
    range_in_words,
    scale_course_axis,
)
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    KL,
    baseline_record,
    baseline_value,
    documents_in,
    domain_index,
    domains_of,
    first_perplexity,
    methods_of,
    probed_rows,
    select,
    value,
)
from unlearnlib.book.robust_region import Share, UsableWithin
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    checked,
    clamp,
    cross_handle,
    draw_cross,
    draw_points,
    figure_function,
    legend_height,
    set_log_axis,
)
from unlearnlib.looks import (
    BASELINE_STYLES,
    BASELINE_TITLES,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.spec import RunSpec
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

FIELD_TITLES = {
    "learning_rate": "learning rate",
    "updates": "updates",
    "batch_size": "documents per update",
    "retain_weight": "weight of the retain term",
    "forget_size": "documents to forget",
    "schedule": "schedule",
    "requests": "requests",
}

_SWEPT = (
    (FORGET, "forget perplexity"),
    (GENERAL, "general perplexity"),
    (KL, "KL to the oracle"),
)


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
            for row in probed_rows(record):
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


def shape_title(spec: Mapping[str, Any]) -> str:
    """A schedule in words: "linear", "constant, 25 % warm-up"."""
    warm = float(spec["warmup"])
    return str(spec["schedule"]) + (f", {100 * warm:g} % warm-up" if warm else "")


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
        index=domain_index(index),
        columns=[x if isinstance(x, str) else f"{x:g}" for x in values],
    )


def _cell(point: Point | None, general: float) -> str:
    if point is None:
        return "–"
    if point.diverged:
        return "diverged"
    return f"{number(point[FORGET])} (×{number(point[GENERAL] / general)})"


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


@figure_function
def swept(
    records: Iterable[Record],
    baselines: Iterable[Record],
    field: str,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Forget and general perplexity and KL to the oracle against one numeric setting.

    Where documents to forget are swept, the lines of vanilla and of the oracle follow the
    documents forgotten (`yardstick_at`).
    """
    title = FIELD_TITLES.get(field, field)
    records, baselines = checked(records, f"a sweep of {title}"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    every = points(records, field)
    values = sorted({float(p.x) for p in every})
    if not values:
        raise UnlearnError(f"no record has probes to sweep {title} over: run its study first.")
    extra = legend_height(layout, len(methods) + 4)
    figure, panels = layout.metric_panels(
        domains, _SWEPT, 2.0 if not narrow else 1.9, xlabel=title, extra=extra
    )
    for ax, domain, metric in panels:
        lines = _yardsticks(baselines, domain, metric, field, values, records)
        ours = [p for p in every if p.domain == domain]
        marks = [y for ys in lines.values() for y in ys]
        scale_course_axis(ax, metric, [p[metric] for p in ours], marks)
        low, high = ax.get_ylim()
        scale_swept_axis(ax, values, narrow)
        for which, ys in lines.items():
            known = [y for y in ys if math.isfinite(y)]
            if len(known) == len(ys) and len(set(known)) == 1:
                ax.axhline(known[0], zorder=1.5, **BASELINE_STYLES[which])
            elif len(known) > 1:
                ax.plot(values, [clamp(y, low, high) for y in ys], **BASELINE_STYLES[which])
        for method in methods:
            path = [
                (
                    float(p.x),
                    high if p.diverged and math.isnan(p[metric]) else p[metric],
                    p.diverged,
                )
                for p in ours
                if p.method == method
            ]
            draw_path(ax, path, method)
    alt = [f"Perplexities and KL to the oracle against {title}."]
    for domain in domains:
        parts = [
            f"{method_title(m)} {said}"
            for m in methods
            if (said := _ends([p for p in every if (p.domain, p.method) == (domain, m)]))
        ]
        ends = _yardsticks(baselines, domain, FORGET, field, (values[0], values[-1]), records)
        named = [
            f"{BASELINE_TITLES[which]} {' to '.join(map(number, dict.fromkeys(marks)))}"
            for which, marks in ends.items()
            if not all(map(math.isnan, marks))
        ]
        alt.append(
            f"{domain_title(domain)}, forget perplexity from the first to the last value: "
            f"{', '.join(parts) or 'no run'}; {', '.join(named) or 'no yardstick'}."
        )
    add_legend(figure, layout, methods, tuple(BASELINE_TITLES), [cross_handle()], line=True)
    figure.alt = " ".join(alt)
    return figure


def scale_swept_axis(ax: Axes, values: Sequence[float], is_narrow: bool) -> None:
    """Ticks at the swept values, on a log axis if they span a decade or nearly one."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 8:
        room = (high / low) ** 0.04
        ax.set_xscale("log")
        ax.set_xlim(low / room, high * room)
    else:
        room = 0.04 * ((high - low) or 1.0)
        ax.set_xlim(low - room, high + room)
    shown = list(values) if is_narrow or len(values) < 5 else list(values)[::2]
    ax.set_xticks(shown, [f"{x:g}" for x in shown])
    ax.xaxis.set_minor_locator(NullLocator())


def _yardsticks(
    baselines: Sequence[Record],
    domain: str,
    metric: str,
    field: str,
    values: Sequence[float],
    runs: Sequence[Record],
) -> dict[str, list[float]]:
    """Vanilla's, the target's and the oracle's `metric` at each of the swept `values`.

    Of the KL to the oracle only vanilla's: the oracle's own is 0, and the target has none.
    """
    return {
        which: [yardstick_at(baselines, domain, which, metric, field, x, runs) for x in values]
        for which in BASELINE_TITLES
        if metric != KL or which == "vanilla"
    }


def _ends(path: Sequence[Point]) -> str:
    """ "3.10 to 8.20, 1 diverged" of a sweep's first and last point, for an alternative text."""
    if not path:
        return ""
    diverged = sum(p.diverged for p in path)
    text = f"{number(path[0][FORGET])} to {number(path[-1][FORGET])}"
    return text + (f", {diverged} diverged" if diverged else "")


@figure_function
def schedules(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget and general perplexity per shape of the learning rate, a mark per method."""
    records, baselines = checked(records, "schedules"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    every = points(records, "schedule")
    shapes = list(dict.fromkeys(p.x for p in every))
    extra = legend_height(layout, len(methods) + 4)
    figure, axes = layout.grid(
        2 * len(domains), 0.75 + 0.34 * len(shapes), beside=len(domains), extra=extra
    )
    alt = ["Perplexities per schedule of the learning rate."]
    places = [(domain, name, label) for name, label in _SWEPT[:2] for domain in domains]
    for i, (ax, (domain, metric, label)) in enumerate(zip(axes, places, strict=True)):
        marks = list(baseline_values(baselines, domain, metric, records).values())
        ours = [p for p in every if p.domain == domain]
        set_log_axis(ax, "x", *axis_range([*(p[metric] for p in ours), *marks], axis_cap(marks)))
        column = i % len(domains)
        name_rows(ax, [_in_two_lines(s) for s in shapes], shown=narrow or column == 0)
        if narrow or i < len(domains):
            ax.set_title(domain_title(domain))
        if narrow or column == (len(domains) - 1) // 2:
            ax.set_xlabel(label)
        for odd in range(1, len(shapes), 2):
            ax.axhspan(odd - 0.5, odd + 0.5, color="#f3f5f6", zorder=0)
        draw_baselines(ax, "x", baselines, domain, metric, records)
        low, high = ax.get_xlim()
        for place, method in enumerate(methods):
            style = method_style(method)
            offset = 0.6 * ((place + 0.5) / len(methods) - 0.5)
            for point in (p for p in ours if p.method == method):
                y = shapes.index(point.x) + offset
                x = high if point.diverged and math.isnan(point[metric]) else point[metric]
                if point.diverged:
                    draw_cross(ax, clamp(x, low, high), y, style["color"])
                else:
                    draw_points(ax, [x], [y], markersize=5, markeredgewidth=0, **style)
    for domain in domains:
        parts = []
        for method in methods:
            ours = [p for p in every if (p.domain, p.method) == (domain, method)]
            if said := range_in_words(p[FORGET] for p in ours):
                parts.append(f"{method_title(method)} {said}")
        alt.append(
            f"{domain_title(domain)}, forget perplexity over all schedules: "
            f"{', '.join(parts) or 'no run'}; "
            f"{baselines_in_words(baselines, domain, FORGET, records)}."
        )
    add_legend(figure, layout, methods, tuple(BASELINE_TITLES), [cross_handle()])
    figure.alt = " ".join(alt)
    return figure


def _in_two_lines(words: str) -> str:
    """A label in two lines if it has a comma."""
    return words.replace(", ", ",\n", 1)
