"""Every figure of the book, from records alone: nothing here touches a model.

A figure function takes the records of a study and its baselines and returns a `DescribedFigure`: a
matplotlib figure that carries an alternative text computed from the same values, and a second
drawing of itself for narrow screens, where small multiples stand under each other. `show` puts
both into a notebook, and the files beside it.

A method has one colour and one marker everywhere; related methods have related hues, and the
colours (Okabe and Ito's, with additions) stay apart for colour-blind readers. Vanilla, target
and oracle are lines: dotted, dashed, solid. A value beyond the axes is drawn at their edge as an
arrow, a value that is not a number is left out, and the alternative text says so.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from unlearnlib import exhibits, sweeps
from unlearnlib.claims import HALF_WAY, TARGET_WITHIN, USABLE, share_of_way
from unlearnlib.engineering import (
    LIMITS,
    is_memory,
    met,
    power,
    way_title,
    work_title,
    worst,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.looks import (
    ATTACK,
    BASELINE_STYLES,
    BASELINE_TITLES,
    GREY,
    INK,
    METHOD_LOOKS,
    SPLIT_COLOURS,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.metrics.membership import auc, roc
from unlearnlib.real import relative
from unlearnlib.search import TOLERATED_RISE, Situation, Step
from unlearnlib.store import Record
from unlearnlib.sweeps import FORGET, GENERAL, KL, YARDSTICKS, UsableWithin
from unlearnlib.tables import (
    CLAIMED_RATIO,
    Ratios,
    baseline_record,
    baseline_value,
    domains_of,
    mean_and_spread,
    methods_of,
    number,
    release_accounts,
    seed_values,
    select,
    value,
)

WIDE, NARROW = 7.5, 4.4  # inches; the narrow one is about a phone's width at reading size
NARROW_SCREEN = "(max-width: 600px)"

# Perplexities this many times beyond every baseline say no more than "destroyed".
BEYOND = 30.0
BROKEN = 1e30  # no model that still works has such a perplexity or distance

P = ParamSpec("P")


class DescribedFigure(Figure):
    """A figure with its alternative text, and the function that draws it for narrow screens."""

    alt: str = ""
    narrow: Callable[[], DescribedFigure] | None = None


@dataclass(frozen=True)
class Layout:
    """How many panels stand beside each other, and how wide the figure is."""

    is_narrow: bool

    @property
    def width(self) -> float:
        """Inches."""
        return NARROW if self.is_narrow else WIDE

    def grid(
        self, count: int, height: float, *, beside: int = 3, extra: float = 0.0
    ) -> tuple[DescribedFigure, list[Axes]]:
        """A figure with `count` panels, `height` inches each, `extra` inches for the legend."""
        columns = 1 if self.is_narrow else max(1, min(beside, count))
        rows = math.ceil(count / columns)
        width = self.width
        figure = DescribedFigure(figsize=(width, rows * height + extra))
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
        return figure, axes

    def panels(
        self,
        domains: Sequence[str],
        height: float,
        *,
        xlabel: str = "",
        ylabel: str = "",
        extra: float = 0.0,
    ) -> tuple[DescribedFigure, list[tuple[Axes, str]]]:
        """A figure with a titled panel per domain, and its (axes, domain) in their order.

        Beside each other, the middle panel has the label of x and the first that of y; under each
        other, on a narrow screen, every panel has both. Heights are in inches, as in `grid`.
        """
        figure, axes = self.grid(len(domains), height, extra=extra)
        for ax, domain in zip(axes, domains, strict=True):
            ax.set_title(domain_title(domain))
            if self.is_narrow or ax is axes[(len(axes) - 1) // 2]:
                ax.set_xlabel(xlabel)
            if self.is_narrow or ax is axes[0]:
                ax.set_ylabel(ylabel)
        return figure, list(zip(axes, domains, strict=True))

    def metric_panels(
        self,
        domains: Sequence[str],
        metrics: Sequence[tuple[str, str]],
        height: float,
        *,
        xlabel: str,
        extra: float = 0.0,
    ) -> tuple[DescribedFigure, list[tuple[Axes, str, str]]]:
        """A column of panels per domain and a row per metric: (axes, domain, metric) of each.

        `metrics` are (name, label): the first column has the labels of y, the last row that of x.
        On a narrow screen every panel has the label of x and names its domain and its metric.
        """
        figure, axes = self.grid(
            len(metrics) * len(domains), height, beside=len(domains), extra=extra
        )
        places = [(domain, name, label) for name, label in metrics for domain in domains]
        for i, (ax, (domain, _, label)) in enumerate(zip(axes, places, strict=True)):
            if self.is_narrow:
                ax.set_title(f"{domain_title(domain)}: {label}")
            elif i < len(domains):
                ax.set_title(domain_title(domain))
            if not self.is_narrow and i % len(domains) == 0:
                ax.set_ylabel(label)
            if self.is_narrow or i >= len(axes) - len(domains):
                ax.set_xlabel(xlabel)
        return figure, [(ax, *place[:2]) for ax, place in zip(axes, places, strict=True)]


def _figure_function(draw: Callable[P, DescribedFigure]) -> Callable[P, DescribedFigure]:
    """Draw in the book's style; the result can draw itself again for a narrow screen."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> DescribedFigure:
        # Drawn twice, and an iterator can be read once.
        given: Any = [list(a) if isinstance(a, Iterator) else a for a in args]
        with _style():
            figure = draw(*given, **kwargs)
        if not kwargs.get("narrow"):
            again: Any = {**kwargs, "narrow": True}
            figure.narrow = lambda: drawn(*given, **again)
        return figure

    return drawn


def _style() -> Any:
    with as_file(files("unlearnlib").joinpath("unlearn.mplstyle")) as path:
        return matplotlib.style.context(["default", str(path)])


# --- pieces that figures share -------------------------------------------------------------------


def _tick(x: float, _: object = None) -> str:
    """A tick's label: "0.05", "20", "5,000", "10⁶"."""
    power = math.log10(x) if x > 0 else math.nan
    if abs(power) >= 4 and math.isclose(power, round(power)):
        return f"$10^{{{round(power)}}}$"
    return f"{x:,.6g}" if abs(x) < 1e6 else number(x)


def _log_ticks(axis: Any, low: float, high: float) -> None:
    """Few ticks at round numbers on a log axis, written plainly."""
    decades = math.log10(high / low)
    if decades < 0.9:  # a decade has too few round numbers to label it like a log axis
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=6 if decades > 5 else 12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def _range(values: Iterable[float], cap: float = math.inf) -> tuple[float, float]:
    """(low, high) around the positive, finite values up to `cap`, with room; (0.5, 2) for none.

    What a broken model gives (beyond `BROKEN`) does not stretch the axis: it is drawn at its edge.
    """
    known = [v for v in values if 1 / BROKEN < v < BROKEN]
    if not known:
        return 0.5, 2.0
    low, high = min(known), min(max(known), max(cap, min(known)))
    room = max((high / low) ** 0.08, 1.04)
    return low / room, high * room


def _set_log(ax: Axes, axis: str, low: float, high: float) -> None:
    if axis == "x":
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        _log_ticks(ax.xaxis, low, high)
    else:
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        _log_ticks(ax.yaxis, low, high)


def _inside(x: float, low: float, high: float) -> float:
    """`x` moved to the nearest edge of an axis; NaN stays."""
    return x if math.isnan(x) else min(max(x, low), high)


def _points(ax: Axes, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """Draw points; what lies beyond an axis becomes an arrow at its edge."""
    (x0, x1), (y0, y1) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(x) or math.isnan(y):
            continue
        arrow = "right" if x > x1 else "up" if y > y1 else "left" if x < x0 else "down"
        beyond = not (x0 <= x <= x1 and y0 <= y <= y1)
        look = {**style, "marker": f"$\\{arrow}arrow$"} if beyond else style
        ax.plot(_inside(x, x0, x1), _inside(y, y0, y1), linestyle="", clip_on=False, **look)


def _cross(ax: Axes, x: float, y: float, colour: str, size: float = 9) -> None:
    """Mark where a run diverged; `size` in points."""
    ax.plot(x, y, marker="x", color=colour, markersize=size, clip_on=False)


def _name_rows(ax: Axes, names: Sequence[str], *, shown: bool = True, top: float = -0.6) -> None:
    """A row per name from top to bottom, without the line of an axis; `shown`: with the names."""
    ax.set_ylim(len(names) - 0.4, top)
    ax.set_yticks(range(len(names)), list(names) if shown else [""] * len(names))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _legend(
    figure: DescribedFigure,
    layout: Layout,
    methods: Sequence[str] = (),
    lines: Sequence[str] = (),
    extra: Sequence[Line2D] = (),
    line: bool = False,
) -> None:
    """One legend for the whole figure, below it."""
    handles = [
        Line2D([], [], linestyle="-" if line else "", label=method_title(m), **method_style(m))
        for m in methods
    ]
    handles += [
        Line2D([], [], label=BASELINE_TITLES[which], **BASELINE_STYLES[which]) for which in lines
    ]
    handles += list(extra)
    columns = 2 if layout.is_narrow else 4
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4, fontsize=9
    )


def _mark(label: str, **look: Any) -> Line2D:
    """A legend's entry for a mark without a line: a grey dot, or of another `look`."""
    return Line2D([], [], label=label, **{"linestyle": "", "marker": "o", "color": GREY, **look})


def _legend_height(layout: Layout, entries: int) -> float:
    return 0.15 + 0.22 * math.ceil(entries / (2 if layout.is_narrow else 4))


def _baseline_values(
    baselines: Sequence[Record], domain: str, metric: str, runs: Sequence[Record]
) -> dict[str, float]:
    """The value of vanilla, target and oracle for a metric; NaN where there is none."""
    return {
        which: baseline_value(baselines, domain, which, metric, runs) for which in BASELINE_TITLES
    }


def _cap(marks: Iterable[float]) -> float:
    """How far an axis may reach for what runs give: `BEYOND` times the largest baseline."""
    return BEYOND * max((m for m in marks if math.isfinite(m)), default=math.inf)


def _lines(
    ax: Axes,
    axis: str,
    baselines: Sequence[Record],
    domain: str,
    metric: str,
    runs: Sequence[Record],
    which: Sequence[str] = tuple(BASELINE_TITLES),
) -> None:
    """Draw vanilla, target and oracle as lines at their values on an axis, "x" or "y"."""
    for name, x in _baseline_values(baselines, domain, metric, runs).items():
        if name in which and math.isfinite(x):
            draw = ax.axhline if axis == "y" else ax.axvline
            draw(x, zorder=1.5, **BASELINE_STYLES[name])


def _checked(records: Iterable[Record], what: str) -> list[Record]:
    found = list(records)
    if not found:
        raise UnlearnError(f"there are no records for {what}: run its study first.")
    return found


def _means(records: Sequence[Record], domain: str, metric: str) -> str:
    """ "METHOD VALUE, ..." for an alternative text."""
    parts = []
    for method in methods_of(select(records, domain)):
        runs = select(records, domain, method)
        mean = mean_and_spread([value(r, metric) for r in runs])[0]
        text = "no value" if math.isnan(mean) else "infinite" if math.isinf(mean) else number(mean)
        if any(r.status == "diverged" for r in runs):
            text += " (diverged)"
        parts.append(f"{method_title(method)} {text}")
    return ", ".join(parts)


def _named(baselines: Sequence[Record], domain: str, metric: str, runs: Sequence[Record]) -> str:
    """ "BASELINE VALUE, ..." for an alternative text."""
    known = _baseline_values(baselines, domain, metric, runs)
    return ", ".join(
        f"{BASELINE_TITLES[which]} {number(x)}" for which, x in known.items() if not math.isnan(x)
    )


def _from_to(values: Iterable[float]) -> str:
    """ "LOWEST to HIGHEST" of the values that are numbers, for an alternative text."""
    known = [v for v in values if not math.isnan(v)]
    return f"{number(min(known))} to {number(max(known))}" if known else ""


# --- the main study ------------------------------------------------------------------------------


@_figure_function
def forget_vs_general(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget perplexity against the rise of general perplexity; a dot per seed, a ring the mean."""
    records, baselines = _checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = _legend_height(layout, len(methods) + 3)
    figure, panels = layout.panels(
        domains,
        2.9 if not narrow else 2.6,
        xlabel="general perplexity ÷ vanilla’s",
        ylabel="forget perplexity",
        extra=extra,
    )
    alt = ["Forget perplexity (log) against general perplexity relative to vanilla."]
    for ax, domain in panels:
        base = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        base = base if math.isfinite(base) and base > 0 else 1.0
        marks = list(_baseline_values(baselines, domain, FORGET, records).values())
        xs = {m: [v / base for v in seed_values(records, domain, m, GENERAL)] for m in methods}
        ys = {m: seed_values(records, domain, m, FORGET) for m in methods}
        low, high = _range([*marks, *(v for values in ys.values() for v in values)], _cap(marks))
        _set_log(ax, "y", low, high)
        left, right = _range([1.0, *(v for values in xs.values() for v in values)], BEYOND)
        _set_log(ax, "x", min(left, 0.98), max(right, 1.05))
        _lines(ax, "y", baselines, domain, FORGET, records)
        ax.axvline(1.0, color="#c3c9cf", linewidth=1, zorder=1)
        for method in methods:
            style = method_style(method)
            _points(
                ax, xs[method], ys[method], alpha=0.45, markersize=5, markeredgewidth=0, **style
            )
            mean = [mean_and_spread(values[method])[0] for values in (xs, ys)]
            _points(ax, mean[:1], mean[1:], markersize=8.5, markeredgecolor="white", **style)
        alt.append(
            f"{domain_title(domain)}: {_named(baselines, domain, FORGET, records)}; "
            f"{_means(records, domain, FORGET)}."
        )
    _legend(figure, layout, methods, tuple(BASELINE_TITLES))
    figure.alt = " ".join(alt)
    return figure


def _method_panels(
    layout: Layout,
    domains: Sequence[str],
    methods: Sequence[str],
    xlabel: str,
    *,
    row_height: float = 0.3,
    extra: float = 0.4,
) -> tuple[DescribedFigure, list[tuple[Axes, str]]]:
    """`Layout.panels` with a row per method, `row_height` inches each, named at the first panel."""
    figure, panels = layout.panels(
        domains, 0.75 + row_height * len(methods), xlabel=xlabel, extra=extra
    )
    titles = [method_title(m) for m in methods]
    for i, (ax, _) in enumerate(panels):
        _name_rows(ax, titles, shown=layout.is_narrow or i == 0)
    return figure, panels


@_figure_function
def distance_to_oracle(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Mean KL to the oracle per method: on the forget (filled) and the approximate set (open)."""
    records, baselines = _checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    sets = ("forget", "approximate")
    figure, panels = _method_panels(layout, domains, methods, "KL(oracle ‖ model), nats per token")
    alt = ["Mean KL divergence from the oracle in nats per token, lower is closer."]
    spread = [
        v
        for d in domains
        for m in methods
        for s in sets
        for v in seed_values(records, d, m, f"oracle_kl/{s}")
    ]
    spread += [
        baseline_value(baselines, d, "vanilla", f"oracle_kl/{s}") for d in domains for s in sets
    ]
    for ax, domain in panels:
        base = [
            baseline_value(baselines, domain, "vanilla", f"oracle_kl/{s}", records) for s in sets
        ]
        _set_log(ax, "x", *_range(spread, _cap(base)))
        for x, dashes in zip(base, ("-", ":"), strict=True):
            if math.isfinite(x):
                ax.axvline(
                    x, color=BASELINE_STYLES["vanilla"]["color"], linestyle=dashes, linewidth=1.6
                )
        for row, method in enumerate(methods):
            colour = method_style(method)["color"]
            for name, offset, filled in (("forget", -0.14, True), ("approximate", 0.14, False)):
                values = seed_values(records, domain, method, f"oracle_kl/{name}")
                _seed_dots(ax, values, row + offset, colour, filled)
        alt.append(
            f"{domain_title(domain)}, forget set: {_named(baselines, domain, KL, records)}; "
            f"{_means(records, domain, KL)}."
        )
    grey = BASELINE_STYLES["vanilla"]["color"]
    _legend(
        figure,
        layout,
        extra=[
            _mark("on the forget set"),
            _mark("on the approximate set", markerfacecolor="white"),
            Line2D([], [], color=grey, linestyle="-", label="vanilla, forget"),
            Line2D([], [], color=grey, linestyle=":", label="vanilla, approximate"),
        ],
    )
    figure.alt = " ".join(alt)
    return figure


def _seed_dots(
    ax: Axes, values: Sequence[float], y: float, colour: str, filled: bool = True
) -> None:
    """The seeds' range as a line, the seeds as small dots, their mean as a large one."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return
    low, high = ax.get_xlim()
    ends = [_inside(v, low, high) for v in (min(known), max(known))]
    ax.plot(ends, [y, y], color=colour, linewidth=1.6, solid_capstyle="round", zorder=2)
    common: dict[str, Any] = {"color": colour, "marker": "o"}
    _points(ax, known, [y] * len(known), markersize=3.5, alpha=0.6, markeredgewidth=0, **common)
    face = colour if filled else "white"
    mean = mean_and_spread(known)[0]
    _points(
        ax, [mean], [y], markersize=7, markerfacecolor=face, markeredgewidth=1.4, zorder=3, **common
    )


@_figure_function
def membership_auc(
    records: Iterable[Record],
    baselines: Iterable[Record],
    attack: str = ATTACK,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """AUC of a membership attack after each method, unflipped; 0.5 is where it tells nothing."""
    records, baselines = _checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    metric = f"membership/{attack}/auc"
    xlabel = "membership AUC" + ("" if narrow else "  (shaded: over-unlearned)")
    figure, panels = _method_panels(layout, domains, methods, xlabel, row_height=0.28)
    alt = [f"AUC of the attack {attack}, forget set against approximate set, not flipped."]
    for ax, domain in panels:
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        ax.axvspan(0, 0.5, color="#f4f0ec", zorder=0)
        ax.axvline(0.5, color=INK, linewidth=1)
        _lines(ax, "x", baselines, domain, metric, records, ("vanilla", "oracle"))
        for row, method in enumerate(methods):
            values = seed_values(records, domain, method, metric)
            _seed_dots(ax, values, row, method_style(method)["color"])
        alt.append(
            f"{domain_title(domain)}: {_named(baselines, domain, metric, records)}; "
            f"{_means(records, domain, metric)}."
        )
    _legend(figure, layout, lines=("vanilla", "oracle"))
    figure.alt = " ".join(alt)
    return figure


def _attack_scores(record: Record, attack: str) -> tuple[np.ndarray, np.ndarray]:
    """(member, non-member) scores of a record's documents, without what has no score."""
    sides = []
    for split in ("forget", "approximate"):
        kept = record.documents.get(split, {}).get(attack, [])
        scores = np.array([math.nan if x is None else x for x in kept], dtype=np.float64)
        sides.append(scores[~np.isnan(scores)])
    return sides[0], sides[1]


@_figure_function
def roc_curves(
    records: Iterable[Record],
    baselines: Iterable[Record],
    domain: str,
    attack: str = ATTACK,
    seed: int = 0,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """ROC curves of a membership attack on one domain, from the scores of single documents."""
    records, baselines = _checked(records, "this figure"), list(baselines)
    layout = Layout(narrow)
    curves: list[tuple[str, Record | None, dict[str, Any]]] = [
        (
            BASELINE_TITLES[which],
            baseline_record(baselines, domain, which, records),
            BASELINE_STYLES[which],
        )
        for which in ("vanilla", "oracle")
    ]
    for method in methods_of(select(records, domain)):
        runs = [r for r in select(records, domain, method) if r.spec.get("seed") == seed]
        style = {"color": method_style(method)["color"], "linewidth": 1.5}
        curves.append((method_title(method), runs[0] if runs else None, style))
    figure, (ax,) = layout.grid(1, 4.0 if not narrow else 3.9, extra=0 if not narrow else 1.2)
    ax.plot([0, 1], [0, 1], color="#c3c9cf", linewidth=1)
    said = []
    for title, record, style in curves:
        if record is None:
            continue
        members, others = _attack_scores(record, attack)
        if not len(members) or not len(others):
            continue
        false, true = roc(members, others)[:2]
        area = auc(members, others)
        ax.plot(false, true, label=f"{title}  {area:.2f}", **style)
        said.append(f"{title} {area:.2f}")
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")
    ax.set_xlabel("false positive rate (approximate set)")
    ax.set_ylabel("true positive rate (forget set)")
    ax.set_title(domain_title(domain))
    where: Any = "outside lower center" if narrow else "outside right upper"
    figure.legend(loc=where, ncols=2 if narrow else 1, title="AUC", alignment="left", fontsize=9)
    figure.alt = (
        f"ROC curves of the attack {attack} on {domain_title(domain)}, seed {seed}. "
        f"Area under each: {', '.join(said) or 'no scores'}."
    )
    return figure


# --- trajectories and learning rates -------------------------------------------------------------

_PROBES = (
    (FORGET, "forget perplexity"),
    (GENERAL, "general perplexity"),
    (f"membership/{ATTACK}/auc", "membership AUC"),
)


def _course(record: Record, metric: str) -> tuple[list[float], list[float]]:
    """(updates, values) of a metric along a run."""
    rows = [row for row in record.trajectory if metric in row]
    return [float(row["update"]) for row in rows], [float(row[metric]) for row in rows]


def _course_axis(ax: Axes, metric: str, values: Sequence[float], marks: Sequence[float]) -> None:
    if metric.endswith("/auc"):
        ax.set_ylim(0, 1)
        ax.axhline(0.5, color=INK, linewidth=0.8)
    else:
        _set_log(ax, "y", *_range([*values, *marks], _cap(marks)))


@_figure_function
def trajectories(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget perplexity, general perplexity and membership AUC after every update."""
    records, baselines = _checked(records, "trajectories"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = _legend_height(layout, len(methods) + 3)
    figure, panels = layout.metric_panels(
        domains, _PROBES, 2.0 if not narrow else 1.9, xlabel="update", extra=extra
    )
    alt = ["Course of perplexities and membership AUC over updates."]
    for ax, domain, metric in panels:
        marks = list(_baseline_values(baselines, domain, metric, records).values())
        runs = [(m, r) for m in methods for r in select(records, domain, m)[:1]]
        _course_axis(ax, metric, [v for _, r in runs for v in _course(r, metric)[1]], marks)
        _lines(ax, "y", baselines, domain, metric, records)
        low, high = ax.get_ylim()
        for method, run in runs:
            updates, values = _course(run, metric)
            inside = [_inside(v, low, high) for v in values]
            style = method_style(method)
            ax.plot(updates, inside, linewidth=1.5, markersize=3.6, markeredgewidth=0, **style)
            if run.diverged_at is not None and inside:
                _cross(ax, updates[-1], inside[-1], style["color"])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for domain in domains:
        ends = []
        for method in methods:
            for run in select(records, domain, method)[:1]:
                values = _course(run, FORGET)[1]
                if values:
                    end = f"{method_title(method)} {number(values[-1])}"
                    stop = f" (diverged at update {run.diverged_at})" if run.diverged_at else ""
                    ends.append(end + stop)
        alt.append(
            f"{domain_title(domain)}, forget perplexity at the end: "
            f"{', '.join(ends) or 'no probe'}; "
            f"{_named(baselines, domain, FORGET, records)}."
        )
    _legend(figure, layout, methods, tuple(BASELINE_TITLES), line=True)
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def learning_rates(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget and general perplexity at the end of a run against its learning rate."""
    records, baselines = _checked(records, "learning rates"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = _legend_height(layout, len(methods) + 4)
    figure, panels = layout.metric_panels(
        domains, _PROBES[:2], 2.4 if not narrow else 2.1, xlabel="learning rate", extra=extra
    )
    steps = [r.spec["learning_rate"] for r in records]
    alt = ["Perplexities at the end of a run against its learning rate."]
    for ax, domain, metric in panels:
        marks = list(_baseline_values(baselines, domain, metric, records).values())
        ours = select(records, domain)
        _course_axis(ax, metric, [value(r, metric) for r in ours], marks)
        _set_log(ax, "x", *_range(steps))
        _rate_axis(ax, steps)
        _lines(ax, "y", baselines, domain, metric, records)
        for method in methods:
            runs = sorted(select(records, domain, method), key=lambda r: r.spec["learning_rate"])
            path = [
                (r.spec["learning_rate"], value(r, metric), r.status == "diverged") for r in runs
            ]
            _path(ax, path, method, cross_size=8)
    for domain in domains:
        parts = [
            f"{method_title(m)} {said}"
            for m in methods
            if (said := _from_to(value(r, FORGET) for r in select(records, domain, m)))
        ]
        alt.append(
            f"{domain_title(domain)}, forget perplexity over all rates: {', '.join(parts)}; "
            f"{_named(baselines, domain, FORGET, records)}."
        )
    _legend(figure, layout, methods, tuple(BASELINE_TITLES), [_cross_handle()], line=True)
    figure.alt = " ".join(alt)
    return figure


def _path(
    ax: Axes, points: Sequence[tuple[float, float, bool]], method: str, *, cross_size: float = 9
) -> None:
    """A method's runs as points along a line: (x, y, whether the run diverged), which is a cross.

    A value beyond the axis of y is drawn at its edge.
    """
    low, high = ax.get_ylim()
    style = method_style(method)
    inside = [(x, _inside(y, low, high)) for x, y, _ in points]
    ax.plot([x for x, _ in inside], [y for _, y in inside], linewidth=1.4, color=style["color"])
    for (x, y, diverged), (_, edge) in zip(points, inside, strict=True):
        if diverged:
            _cross(ax, x, edge, style["color"], cross_size)
        else:
            _points(ax, [x], [y], markersize=4.6, markeredgewidth=0, **style)


def _scientific(x: float, _: object = None) -> str:
    """A tick as "1.35e-4", whatever its size."""
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _rate_axis(ax: Axes, rates: Iterable[float]) -> None:
    """Powers of ten as ticks of a logarithmic axis; the rates themselves within one decade."""
    steps = sorted(set(rates))
    if len(steps) <= 7 and steps[-1] < 10 * steps[0]:
        ax.xaxis.set_major_locator(FixedLocator(steps))
        ax.xaxis.set_major_formatter(_scientific)
    else:
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.xaxis.set_major_formatter(LogFormatterMathtext())


# --- the robust region ---------------------------------------------------------------------------

_CLIP = 2.0  # the colours of the heat maps end at a factor 2 ** 2 from the yardstick
_MISSING = "#eceff1"


@_figure_function
def robust_region(
    records: Iterable[Record],
    baselines: Iterable[Record],
    yardstick: str = "oracle",
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Heat maps learning rate x updates, method by domain: forget perplexity ÷ the yardstick.

    A dot is a usable setting, a ring one that is near the yardstick and has harmed general
    perplexity, a cross one that diverged; a grey cell was not measured.
    """
    records, baselines = _checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    cells = sweeps.region_cells(records)
    if not cells:
        raise UnlearnError("no record is of any update: run the study robust_region first.")
    rates = sorted({c.learning_rate for c in cells})
    steps = sorted({c.updates for c in cells})
    # Small multiples stay beside each other on a phone too: a column of 21 maps compares nothing.
    row_height, rest = (0.98, 1.35) if not narrow else (0.92, 1.9)
    figure = DescribedFigure(figsize=(layout.width, row_height * len(methods) + rest))
    axes = figure.subplots(len(methods), len(domains), sharex=True, sharey=True, squeeze=False)
    mesh: Any = None
    for column, domain in enumerate(domains):
        mark = baseline_value(baselines, domain, yardstick, FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for row, method in enumerate(methods):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            grid, marks = _region_map(ours, rates, steps, tolerance, mark, vanilla)
            mesh = _draw_region(axes[row][column], grid, marks, 4.2 if not narrow else 3.4)
    _name_maps(axes, domains, methods, narrow)
    _region_ticks(axes[0][0], rates, steps)
    axes[-1][(len(domains) - 1) // 2].set_xlabel("updates")
    figure.supylabel("learning rate", fontsize=10, y=0.6)
    bar = figure.colorbar(
        mesh, ax=axes, location="bottom", aspect=45 if not narrow else 28, pad=0.02, extend="both"
    )
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["¼", "½", "1", "2", "4"])
    bar.set_label(f"forget perplexity ÷ {YARDSTICKS[yardstick]}")
    bar.outline.set_visible(False)  # type: ignore[operator]
    labels = {"usable": "usable", "near": "near, but harmed", "broken": "diverged"}
    handles = [_mark(labels[kind], markersize=6, **look) for kind, look in _REGION_MARKS.items()]
    _legend(figure, layout, extra=handles)
    alt = [
        f"Heat maps of forget perplexity divided by {YARDSTICKS[yardstick]}, over "
        f"{len(rates)} learning rates and {len(steps)} numbers of updates. Usable: "
        f"{tolerance.in_words(yardstick)}."
    ]
    shares = sweeps.region_shares(records, baselines, tolerance, yardstick)
    for domain in domains:
        said = [
            f"{method_title(m)} {shares[domain, m].usable} of {shares[domain, m].settings}"
            for m in methods
            if (domain, m) in shares
        ]
        broken = sum(c.broken for c in cells if c.domain == domain)
        alt.append(
            f"{domain_title(domain)}, usable settings: {', '.join(said) or 'no yardstick'}; "
            f"{broken} diverged."
        )
    figure.alt = " ".join(alt)
    return figure


def _region_map(
    cells: Iterable[sweeps.Cell],
    rates: Sequence[float],
    steps: Sequence[int],
    tolerance: UsableWithin,
    yardstick: float,
    vanilla: float,
) -> tuple[np.ndarray, dict[str, list[tuple[int, int]]]]:
    """One method's map: log2(forget perplexity ÷ yardstick), and the (x, y) of the marked cells.

    The map is of shape (len(rates), len(steps)), clipped to ±`_CLIP`, NaN where nothing is known.
    `yardstick` is a forget perplexity, `vanilla` the general perplexity before unlearning.
    """
    grid = np.full((len(rates), len(steps)), np.nan)
    marks: dict[str, list[tuple[int, int]]] = {kind: [] for kind in _REGION_MARKS}
    for cell in cells:
        x, y = steps.index(cell.updates), rates.index(cell.learning_rate)
        if cell.broken:
            marks["broken"].append((x, y))
        elif cell.forget > 0 and 0 < yardstick < math.inf:
            ratio = math.log2(cell.forget) - math.log2(yardstick)
            grid[y, x] = min(max(ratio, -_CLIP), _CLIP)
            if sweeps.is_usable(cell, tolerance, yardstick, vanilla):
                marks["usable"].append((x, y))
            elif tolerance.is_near(cell.forget, yardstick):
                marks["near"].append((x, y))
    return grid, marks


def _draw_region(
    ax: Axes, grid: np.ndarray, marks: Mapping[str, Sequence[tuple[int, int]]], size: float
) -> Any:
    """Draw a map and the marks on its cells, `size` points each; returns the coloured mesh."""
    # Without its ends: most settings are far off, and a page of nearly black cells hides the rest.
    ends = matplotlib.colormaps["RdBu_r"](np.linspace(0.12, 0.88, 256))
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(grid),
        cmap=ListedColormap(ends).with_extremes(bad=_MISSING),
        vmin=-_CLIP,
        vmax=_CLIP,
        edgecolors="white",
        linewidth=0.5,
    )
    for kind, look in _REGION_MARKS.items():
        xs, ys = ([place[i] + 0.5 for place in marks[kind]] for i in (0, 1))
        ax.plot(xs, ys, linestyle="", markersize=size, **look)
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return mesh


def _name_maps(axes: Any, domains: Sequence[str], methods: Sequence[str], is_narrow: bool) -> None:
    """The domains above the columns of maps, the methods beside the rows.

    On a narrow screen a method stands above its row, below the domain's name in the first.
    """
    for row, method in enumerate(methods):
        for column, domain in enumerate(domains):
            ax = axes[row][column]
            if is_narrow:
                over = f"{domain_title(domain)}\n" if row == 0 else ""
                ax.set_title(over + (method_title(method) if column == 0 else " "), fontsize=9)
                continue
            if row == 0:
                ax.set_title(domain_title(domain))
            if column == 0:
                ax.set_ylabel(method_title(method), rotation=0, ha="right", va="center")


def _region_ticks(ax: Axes, rates: Sequence[float], steps: Sequence[int]) -> None:
    """Ticks of a map: every second number of updates, and the rates that are powers of ten."""
    shown = range(1, len(steps), 2) if len(steps) > 4 else range(len(steps))
    ax.set_xticks([i + 0.5 for i in shown], [str(steps[i]) for i in shown])
    decades = [
        i
        for i, rate in enumerate(rates)
        if math.isclose(math.log10(rate), round(math.log10(rate)), abs_tol=1e-6)
    ] or list(range(len(rates)))
    ax.set_yticks([i + 0.5 for i in decades], [_power(rates[i]) for i in decades])


_REGION_MARKS: dict[str, dict[str, Any]] = {
    "usable": {"marker": "o", "color": "#111418", "markeredgewidth": 0},
    "near": {
        "marker": "o",
        "markerfacecolor": "none",
        "markeredgecolor": "#111418",
        "markeredgewidth": 0.9,
    },
    "broken": {"marker": "x", "color": GREY, "markeredgewidth": 1.1},
}


def _power(x: float) -> str:
    """ "10⁻³" for a power of ten, else the number."""
    power = math.log10(x)
    whole = math.isclose(power, round(power), abs_tol=1e-6)
    return f"$10^{{{round(power)}}}$" if whole else f"{x:g}"


@_figure_function
def shares_figure(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Usable share of the grid per method, by the truth (filled) and by the target (open)."""
    records, baselines = _checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    shares = {y: sweeps.region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    figure, panels = _method_panels(layout, domains, methods, "usable settings, %", extra=0.35)
    tops = [s.interval[1] for found in shares.values() for s in found.values()]
    top = max([100 * t for t in tops if math.isfinite(t)] or [10.0])
    alt = [
        f"Usable share of the settings with 95 % intervals. {tolerance.in_words().capitalize()}."
    ]
    for ax, domain in panels:
        ax.set_xlim(-0.02 * top, 1.04 * top)
        said = []
        for row, method in enumerate(methods):
            colour = method_style(method)["color"]
            words = []
            for (yardstick, found), offset in zip(shares.items(), (-0.15, 0.15), strict=True):
                share = found.get((domain, method))
                if share is None or not share.settings:
                    continue
                filled = yardstick == "oracle"
                ends = [100 * x for x in share.interval]
                ax.plot(ends, [row + offset] * 2, color=colour, linewidth=1.6, zorder=2)
                ax.plot(
                    100 * share.share,
                    row + offset,
                    marker="o",
                    markersize=7,
                    color=colour,
                    markerfacecolor=colour if filled else "white",
                    markeredgewidth=1.4,
                    zorder=3,
                    clip_on=False,
                )
                words.append(f"{share} by {YARDSTICKS[yardstick]}")
            if words:
                said.append(f"{method_title(method)} {', '.join(words)}")
        alt.append(f"{domain_title(domain)}: {'; '.join(said) or 'no yardstick'}.")
    handles = [
        _mark("near the truth", markersize=7),
        _mark("near the paper’s target", markersize=7, markerfacecolor="white"),
    ]
    _legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


_NOTHING: dict[str, Any] = {"color": "#e6e0d8", "zorder": 0, "linewidth": 0}


@_figure_function
def region_tolerance(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Usable share of the grid against how near to the truth is near enough; a line per method.

    Lines are means over seeds, bands their range. The dotted line is the tolerance of the test.
    From the shaded part on vanilla itself is near enough, so that settings count which do nothing.
    """
    records, baselines = _checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    curves = sweeps.tolerance_curves(records, baselines, tolerance.harmless)
    extra = _legend_height(layout, len(methods) + 2)
    figure, panels = layout.panels(
        domains,
        2.5,
        xlabel="allowed factor from the truth",
        ylabel="usable settings, %",
        extra=extra,
    )
    top = max([100 * float(c.max()) for c in curves.values()] or [10.0]) or 10.0
    alt = [
        "Usable share of the settings against the factor from the truth that is allowed, general "
        f"perplexity up by at most {100 * (tolerance.harmless - 1):.0f} %."
    ]
    for ax, domain in panels:
        _set_log(ax, "x", sweeps.TOLERANCES[0], sweeps.TOLERANCES[-1])
        ax.set_xticks([1.25, 2, 3, 4], ["1.25", "2", "3", "4"])
        ax.set_ylim(-0.02 * top, 1.05 * top)
        ax.axvline(tolerance.near, color=INK, linestyle=":", linewidth=1.4, zorder=1)
        ends = [
            baseline_value(baselines, domain, w, FORGET, records) for w in ("vanilla", "oracle")
        ]
        if all(0 < x < math.inf for x in ends):
            nothing = math.exp(abs(math.log(ends[1]) - math.log(ends[0])))
            if nothing < sweeps.TOLERANCES[-1]:
                ax.axvspan(max(nothing, sweeps.TOLERANCES[0]), sweeps.TOLERANCES[-1], **_NOTHING)
        said = []
        for method in methods:
            rows = curves.get((domain, method))
            if rows is None:
                continue
            style = method_style(method)
            xs = list(sweeps.TOLERANCES)
            middle = 100 * rows.mean(axis=0)
            ax.plot(xs, middle, markevery=(4, 8), markersize=5, **style)
            if len(rows) > 1:
                low, high = 100 * rows.min(axis=0), 100 * rows.max(axis=0)
                ax.fill_between(xs, low, high, color=style["color"], alpha=0.13, linewidth=0)
            at = int(np.argmin(np.abs(np.log(np.array(xs) / 2.0))))
            said.append(f"{method_title(method)} {middle[at]:.0f} %")
        alt.append(
            f"{domain_title(domain)}, at a factor of 2: {', '.join(said) or 'no yardstick'}."
        )
    test = Line2D([], [], color=INK, linestyle=":", label="tolerance of the test")
    shaded = _mark("vanilla is near enough", marker="s", markersize=9, color=_NOTHING["color"])
    _legend(figure, layout, methods, extra=[test, shaded], line=True)
    figure.alt = " ".join(alt)
    return figure


# --- sweeps of one setting -----------------------------------------------------------------------

_SWEPT = (
    (FORGET, "forget perplexity"),
    (GENERAL, "general perplexity"),
    (KL, "KL to the oracle"),
)


def _swept_axis(ax: Axes, values: Sequence[float], is_narrow: bool) -> None:
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


@_figure_function
def swept(
    records: Iterable[Record],
    baselines: Iterable[Record],
    field: str,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Forget and general perplexity and KL to the oracle against one numeric setting.

    Where documents to forget are swept, the lines of vanilla and of the oracle follow the
    documents forgotten (`sweeps.yardstick_at`).
    """
    title = sweeps.FIELD_TITLES.get(field, field)
    records, baselines = _checked(records, f"a sweep of {title}"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    every = sweeps.points(records, field)
    values = sorted({float(p.x) for p in every})
    if not values:
        raise UnlearnError(f"no record has probes to sweep {title} over: run its study first.")
    extra = _legend_height(layout, len(methods) + 4)
    figure, panels = layout.metric_panels(
        domains, _SWEPT, 2.0 if not narrow else 1.9, xlabel=title, extra=extra
    )
    for ax, domain, metric in panels:
        lines = _yardsticks(baselines, domain, metric, field, values, records)
        ours = [p for p in every if p.domain == domain]
        marks = [y for ys in lines.values() for y in ys]
        _course_axis(ax, metric, [p[metric] for p in ours], marks)
        low, high = ax.get_ylim()
        _swept_axis(ax, values, narrow)
        for which, ys in lines.items():
            known = [y for y in ys if math.isfinite(y)]
            if len(known) == len(ys) and len(set(known)) == 1:
                ax.axhline(known[0], zorder=1.5, **BASELINE_STYLES[which])
            elif len(known) > 1:
                ax.plot(values, [_inside(y, low, high) for y in ys], **BASELINE_STYLES[which])
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
            _path(ax, path, method)
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
    _legend(figure, layout, methods, tuple(BASELINE_TITLES), [_cross_handle()], line=True)
    figure.alt = " ".join(alt)
    return figure


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
        which: [
            sweeps.yardstick_at(baselines, domain, which, metric, field, x, runs) for x in values
        ]
        for which in BASELINE_TITLES
        if metric != KL or which == "vanilla"
    }


def _cross_handle() -> Line2D:
    return _mark("diverged", marker="x")


def _ends(path: Sequence[sweeps.Point]) -> str:
    """ "3.10 to 8.20, 1 diverged" of a sweep's first and last point, for an alternative text."""
    if not path:
        return ""
    diverged = sum(p.diverged for p in path)
    text = f"{number(path[0][FORGET])} to {number(path[-1][FORGET])}"
    return text + (f", {diverged} diverged" if diverged else "")


@_figure_function
def schedules(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget and general perplexity per shape of the learning rate, a mark per method."""
    records, baselines = _checked(records, "schedules"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    every = sweeps.points(records, "schedule")
    shapes = list(dict.fromkeys(p.x for p in every))
    extra = _legend_height(layout, len(methods) + 4)
    figure, axes = layout.grid(
        2 * len(domains), 0.75 + 0.34 * len(shapes), beside=len(domains), extra=extra
    )
    alt = ["Perplexities per schedule of the learning rate."]
    places = [(domain, name, label) for name, label in _SWEPT[:2] for domain in domains]
    for i, (ax, (domain, metric, label)) in enumerate(zip(axes, places, strict=True)):
        marks = list(_baseline_values(baselines, domain, metric, records).values())
        ours = [p for p in every if p.domain == domain]
        _set_log(ax, "x", *_range([*(p[metric] for p in ours), *marks], _cap(marks)))
        column = i % len(domains)
        _name_rows(ax, [_in_two_lines(s) for s in shapes], shown=narrow or column == 0)
        if narrow or i < len(domains):
            ax.set_title(domain_title(domain))
        if narrow or column == (len(domains) - 1) // 2:
            ax.set_xlabel(label)
        for odd in range(1, len(shapes), 2):
            ax.axhspan(odd - 0.5, odd + 0.5, color="#f3f5f6", zorder=0)
        _lines(ax, "x", baselines, domain, metric, records)
        low, high = ax.get_xlim()
        for place, method in enumerate(methods):
            style = method_style(method)
            offset = 0.6 * ((place + 0.5) / len(methods) - 0.5)
            for point in (p for p in ours if p.method == method):
                y = shapes.index(point.x) + offset
                x = high if point.diverged and math.isnan(point[metric]) else point[metric]
                if point.diverged:
                    _cross(ax, _inside(x, low, high), y, style["color"])
                else:
                    _points(ax, [x], [y], markersize=5, markeredgewidth=0, **style)
    for domain in domains:
        parts = []
        for method in methods:
            ours = [p for p in every if (p.domain, p.method) == (domain, method)]
            if said := _from_to(p[FORGET] for p in ours):
                parts.append(f"{method_title(method)} {said}")
        alt.append(
            f"{domain_title(domain)}, forget perplexity over all schedules: "
            f"{', '.join(parts) or 'no run'}; {_named(baselines, domain, FORGET, records)}."
        )
    _legend(figure, layout, methods, tuple(BASELINE_TITLES), [_cross_handle()])
    figure.alt = " ".join(alt)
    return figure


def _in_two_lines(words: str) -> str:
    """A label in two lines if it has a comma."""
    return words.replace(", ", ",\n", 1)


# --- one run -------------------------------------------------------------------------------------


@_figure_function
def loss_terms(record: Record, *, narrow: bool = False) -> DescribedFigure:
    """The two terms of the objective after each update of one run: how they come apart."""
    layout = Layout(narrow)
    figure, (ax,) = layout.grid(1, 3.0)
    said = []
    styles = {"forget": SPLIT_COLOURS["forget"], "retain": SPLIT_COLOURS["approximate"]}
    for name, colour in styles.items():
        updates, values = _course(record, name)
        points = [(u, v) for u, v in zip(updates, values, strict=True) if math.isfinite(v)]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        ax.plot(xs, ys, color=colour, marker="o", markersize=4)
        ax.annotate(
            f"{name} term",
            (xs[-1], ys[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
        )
        said.append(f"the {name} term goes from {number(ys[0])} to {number(ys[-1])}")
    ax.margins(x=0.02)
    left, right = ax.get_xlim()
    ax.set_xlim(left, right + 0.2 * (right - left))  # room for the labels
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("update")
    ax.set_ylabel("loss term, nats per token")
    title = method_title(record.spec["method"])
    ax.set_title(f"{title} on {domain_title(record.spec['domain'])}")
    stop = f" It diverged at update {record.diverged_at}." if record.diverged_at else ""
    figure.alt = (
        f"Loss terms of {title} on {domain_title(record.spec['domain'])} after each update: "
        f"{'; '.join(said) or 'no finite loss'}.{stop}"
    )
    return figure


@_figure_function
def run_trajectory(
    record: Record, baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Perplexities on forget, approximate and general documents after each update of one run."""
    baselines, layout, domain = list(baselines), Layout(narrow), record.spec["domain"]
    figure, (ax,) = layout.grid(1, 3.4, extra=0.2)
    colours = {**SPLIT_COLOURS, "general": "#7a828b"}
    splits = ("forget", "approximate", "general")
    courses = {s: _course(record, f"{s}/perplexity") for s in splits}
    known = _baseline_values(baselines, domain, FORGET, [record])
    marks = [known["target"], known["oracle"]]
    every = [v for _, values in courses.values() for v in values]
    _course_axis(ax, "perplexity", every, marks)
    low, high = ax.get_ylim()
    _lines(ax, "y", baselines, domain, FORGET, [record], ("target", "oracle"))
    said = []
    handles = []
    for split, (updates, values) in courses.items():
        if values:
            inside = [_inside(v, low, high) for v in values]
            ax.plot(updates, inside, color=colours[split], marker="o", markersize=4)
            handles.append(
                Line2D([], [], color=colours[split], marker="o", markersize=4, label=f"{split} set")
            )
            said.append(f"{split} from {number(values[0])} to {number(values[-1])}")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("update")
    ax.set_ylabel("perplexity")
    ax.set_title(f"{method_title(record.spec['method'])} on {domain_title(domain)}")
    _legend(figure, layout, lines=("target", "oracle"), extra=handles)
    figure.alt = (
        f"Perplexity over updates: {'; '.join(said) or 'no probe'}; "
        f"{_named(baselines, domain, FORGET, [record])}."
    )
    return figure


@_figure_function
def search(
    steps: Sequence[Step], situation: Situation, best: int | None = None, *, narrow: bool = False
) -> DescribedFigure:
    """The runs of a search: forget perplexity after each update, and the harm at the end of each.

    The chosen run is drawn in colour, the others in grey, numbered in their order.
    """
    layout = Layout(narrow)
    figure, (left, right) = layout.grid(2, 2.9, beside=2, extra=0.1)
    every = [p for step in steps for p in step.path if math.isfinite(p)]
    low, high = _range([*every, situation.target, situation.forget], 10 * situation.target)
    _set_log(left, "y", low, high)
    _set_log(right, "y", low, high)
    rises = [100 * math.expm1(min(step.rise(situation), 50.0)) for step in steps]
    finite = [r for r in rises if r < 1000]
    right.set_xlim(min([0.0, *finite]) - 1, max([6.0, *finite]) * 1.15 + 1)
    said = []
    for i, (step, rise) in enumerate(zip(steps, rises, strict=True)):
        colour = method_style("ga_gd_in_dist")["color"] if i == best else "#9aa1a9"
        front = 3 if i == best else 2
        path = [_inside(p, low, high) for p in step.path]
        left.plot(range(len(path)), path, color=colour, marker="o", markersize=3, zorder=front)
        end = _inside(step.path[step.updates], low, high)
        _points(right, [rise], [end], color=colour, marker="o", markersize=6, zorder=front)
        left.annotate(
            str(i + 1), (len(path) - 1, path[-1]), (4, 0), textcoords="offset points",
            va="center", fontsize=9, color=colour,
        )  # fmt: skip
        if rise < 1000:
            right.annotate(
                str(i + 1), (rise, end), (6, 0), textcoords="offset points", va="center",
                fontsize=9, color=colour,
            )  # fmt: skip
        said.append(
            f"run {i + 1} at rate {step.learning_rate:g} ends at "
            f"{number(step.path[step.updates])} with general perplexity {number(rise)} % up"
        )
    for ax in (left, right):
        ax.axhline(situation.target, **BASELINE_STYLES["target"])
        ax.axhline(situation.forget, **BASELINE_STYLES["vanilla"])
    right.axvspan(
        right.get_xlim()[0], 100 * (TOLERATED_RISE - 1), color="#2e8b57", alpha=0.08, lw=0
    )
    left.set_xlim(-0.3, situation.updates + 1)
    left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    left.set_xlabel("update")
    left.set_ylabel("forget perplexity")
    right.set_xlabel("rise of general perplexity, %")
    left.set_title("Each run until it stops")
    right.set_title("Where it stops (shaded: tolerated)")
    _legend(figure, layout, lines=("vanilla", "target"))
    figure.alt = (
        f"Search of {len(steps)} runs; target perplexity {number(situation.target)}, before "
        f"unlearning {number(situation.forget)}: {'; '.join(said)}."
    )
    return figure


# --- the target, cost, data ----------------------------------------------------------------------


def bootstrap_perplexity(
    record: Record, split: str, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of a split's perplexity over its documents.

    From the record's mean negative log-likelihood and number of tokens per chunk; the chunks of
    one document ("DOCUMENT#INDEX") are drawn together. NaN where the record has none.
    """
    tokens, nats = sweeps.document_totals(record, split)
    if not len(tokens):
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(len(tokens), size=(resamples, len(tokens)))
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.exp(nats[draws].sum(1) / tokens[draws].sum(1))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@_figure_function
def target_check(baselines: Iterable[Record], *, narrow: bool = False) -> DescribedFigure:
    """The paper's target (vanilla on approximate) beside the truth (oracle on forget)."""
    baselines = _checked(baselines, "the target")
    layout, domains = Layout(narrow), domains_of(baselines)
    figure, axes = layout.grid(2, 0.8 + 0.62 * len(domains), beside=2, extra=0.35)
    alt = ["The paper’s target beside the truth, per domain."]
    rows = (
        ("vanilla", "vanilla", "forget", -0.24),
        ("target", "vanilla", "approximate", 0.0),
        ("oracle", "oracle", "forget", 0.24),
    )
    markers = {"vanilla": "o", "target": "D", "oracle": "s"}
    perplexities: list[float] = []
    for row, domain in enumerate(domains):
        said = []
        for name, which, split, offset in rows:
            record = baseline_record(baselines, domain, which)
            if record is None:
                continue
            style = {"color": BASELINE_STYLES[name]["color"], "marker": markers[name]}
            x = value(record, f"{split}/perplexity")
            low, high = bootstrap_perplexity(record, split)
            if math.isfinite(x):
                perplexities += [x, low, high]
                axes[0].plot([low, high], [row + offset] * 2, color=style["color"], linewidth=2)
                axes[0].plot(x, row + offset, markersize=7.5, **style)
            right = value(record, f"{split}/accuracy")
            if math.isfinite(right):
                axes[1].plot(100 * right, row + offset, markersize=7.5, **style)
            said.append(
                f"{BASELINE_TITLES[name]}: perplexity {number(x)} (95 % {number(low)} to "
                f"{number(high)}), accuracy {number(100 * right)} %"
            )
        alt.append(f"{domain_title(domain)}: {'; '.join(said)}.")
    for ax, label in zip(axes, ("perplexity", "next-token accuracy, %"), strict=True):
        _name_rows(ax, [domain_title(d) for d in domains], shown=narrow or ax is axes[0])
        ax.set_xlabel(label)
    _set_log(axes[0], "x", *_range(perplexities))
    names = {
        "vanilla": "vanilla on forget",
        "target": "target: vanilla on approximate",
        "oracle": "truth: oracle on forget",
    }
    handles = [
        _mark(label, marker=markers[n], color=BASELINE_STYLES[n]["color"])
        for n, label in names.items()
    ]
    columns = 1 if narrow else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9)
    if narrow:
        figure.set_figheight(figure.get_figheight() + 0.4)
    figure.alt = " ".join(alt)
    return figure


_FIRST: dict[str, Any] = {
    "marker": "o",
    "color": "#8c510a",
    "markerfacecolor": "white",
    "markeredgewidth": 1.3,
    "zorder": 3,
}


@_figure_function
def target_sizes(
    baselines: Iterable[Record],
    sizes: Sequence[int],
    within: float = TARGET_WITHIN,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Target ÷ truth for requests of 1, 2, 4, ... documents; bars hold 95 % of requests."""
    baselines = _checked(baselines, "the target")
    layout = Layout(narrow)
    found = {d: sweeps.target_ratios(baselines, d, sizes, within) for d in domains_of(baselines)}
    domains = [d for d, ratios in found.items() if ratios] or list(found)
    figure, panels = layout.panels(
        domains,
        2.6 if not narrow else 2.3,
        xlabel="documents to forget",
        ylabel="target ÷ truth",
        extra=0.4,
    )
    every = [x for d in domains for r in found[d] for x in (r.low, r.high, r.first)]
    low, high = _range([*every, 1 / within, within])
    alt = [f"The paper’s target divided by the truth, by number of documents (band: ±{within:g}×)."]
    for ax, domain in panels:
        _set_log(ax, "y", low, high)
        _swept_axis(ax, [float(n) for n in sizes], narrow)
        ax.axhspan(1 / within, within, color="#e3efe9", zorder=0)
        ax.axhline(1.0, zorder=1, **BASELINE_STYLES["oracle"])
        said = []
        for ratio in found[domain]:
            if not math.isfinite(ratio.median):
                continue
            ends = [_inside(x, low, high) for x in (ratio.low, ratio.high)]
            left, right = ratio.size / 1.07, ratio.size * 1.07  # beside each other, both seen
            ax.plot([left] * 2, ends, color=INK, linewidth=1.6)
            _points(ax, [left], [ratio.median], marker="D", color=INK, markersize=5)
            _points(ax, [right], [ratio.first], markersize=5.5, **_FIRST)
            said.append(
                f"{ratio.size} {number(ratio.low)} to {number(ratio.high)}, first ones "
                f"{number(ratio.first)}"
            )
        alt.append(f"{domain_title(domain)}: {'; '.join(said) or 'no oracle'}.")
    handles = [
        Line2D([], [], color=INK, marker="D", markersize=5, label="95 % of requests, median"),
        _mark("the first documents", **_FIRST),
    ]
    _legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def early_stops_figure(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """The update at which target and truth would each have stopped a run, per method."""
    records, baselines = _checked(records, "trajectories"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    found = sweeps.early_stops(records, baselines)
    figure, panels = _method_panels(layout, domains, methods, "update")
    end = max(int(r.spec["updates"]) for r in records)
    reached = [x for s in found for x in (s.by_target, s.by_truth) if math.isfinite(x)]
    start = max(0, math.floor(min(reached, default=0.0)) - 1)
    looks: dict[str, dict[str, Any]] = {
        "target": {"marker": "D", "color": BASELINE_STYLES["target"]["color"], "markersize": 6},
        "oracle": {"marker": "s", "color": BASELINE_STYLES["oracle"]["color"], "markersize": 6},
    }
    alt = ["Update at which a run reaches the paper’s target and the truth."]
    for ax, domain in panels:
        ax.set_xlim(start, end + 0.03 * (end - start))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        said = []
        for stop in (s for s in found if s.domain == domain):
            row = methods.index(stop.method)
            both = {"oracle": stop.by_truth, "target": stop.by_target}
            known = [x for x in both.values() if math.isfinite(x)]
            ax.plot(known, [row] * len(known), color=method_style(stop.method)["color"])
            for offset, (which, x) in zip((0.14, -0.14), both.items(), strict=True):
                _points(ax, [x], [row + offset], **looks[which])
            said.append(
                f"{method_title(stop.method)} {_update(stop.by_target)} and "
                f"{_update(stop.by_truth)}"
            )
        alt.append(f"{domain_title(domain)}, target and truth: {'; '.join(said) or 'no probe'}.")
    labels = {"target": "reaches the paper’s target", "oracle": "reaches the truth"}
    handles = [_mark(labels[which], **look) for which, look in looks.items()]
    handles.append(_mark("not in this run", marker=r"$\rightarrow$", markersize=9))
    _legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


def _update(x: float) -> str:
    return "no value" if math.isnan(x) else "never" if math.isinf(x) else number(x)


@_figure_function
def share_of_the_way(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Share of the way from vanilla's to the oracle's forget perplexity; a dot per seed."""
    records, baselines = _checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    figure, panels = _method_panels(
        layout,
        domains,
        methods,
        "share of the way from vanilla to oracle",
        row_height=0.28,
        extra=0.35,
    )
    found = {
        (d, m): [share_of_way(r, baselines) for r in select(records, d, m)]
        for d in domains
        for m in methods
    }
    finite = [x for xs in found.values() for x in xs if math.isfinite(x)]
    # One run that went very far must not squeeze all others together.
    right = min(max([1.2, *finite]), 3.0) + 0.1
    left = max(min([0.0, *finite]), -1.0) - 0.05
    alt = ["Share of the way from vanilla to the oracle in log forget perplexity."]
    for ax, domain in panels:
        ax.set_xlim(left, right)
        ax.axvline(HALF_WAY, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        ax.axvline(0.0, **BASELINE_STYLES["vanilla"])
        ax.axvline(1.0, **BASELINE_STYLES["oracle"])
        said = []
        for row, method in enumerate(methods):
            xs = found[domain, method]
            _seed_dots(ax, xs, row, method_style(method)["color"])
            if reached := _from_to(xs):
                diverged = any(r.status == "diverged" for r in select(records, domain, method))
                note = " (diverged)" if diverged else ""
                said.append(f"{method_title(method)} {reached}{note}")
        alt.append(f"{domain_title(domain)}: {', '.join(said) or 'no value'}.")
    half = Line2D([], [], color=INK, linewidth=1, linestyle=(0, (2, 2)), label="half way")
    _legend(figure, layout, lines=("vanilla", "oracle"), extra=[half])
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def cost_ratio(ratios: Mapping[str, Ratios], *, narrow: bool = False) -> DescribedFigure:
    """How many times cheaper than retraining: measured at this profile, and by account on Yi-6B."""
    layout = Layout(narrow)
    accounts = {
        f"Yi-6B, {domain_title(d)}, {kind}": a.ratio for (d, kind), a in release_accounts().items()
    }
    order = [m for m in METHOD_LOOKS if m in ratios] + sorted(set(ratios) - set(METHOD_LOOKS))
    names = [method_title(m) for m in order] + list(accounts)
    if narrow:
        names = [name.replace("Yi-6B, ", "Yi-6B\n", 1) for name in names]
    figure, (ax,) = layout.grid(1, 0.9 + (0.3 if not narrow else 0.38) * len(names), extra=0.3)
    said, every = [], [CLAIMED_RATIO, *accounts.values(), 1.0]
    every += [x for m in order for x in (*ratios[m].flops, *ratios[m].seconds)]
    _set_log(ax, "x", *_range(every))
    for row, method in enumerate(order):
        colour = method_style(method)["color"]
        _seed_dots(ax, ratios[method].flops, row - 0.13, colour)
        _seed_dots(ax, ratios[method].seconds, row + 0.13, colour, filled=False)
        flops, seconds = (
            mean_and_spread(v)[0] for v in (ratios[method].flops, ratios[method].seconds)
        )
        said.append(
            f"{method_title(method)} {number(flops)} in operations, {number(seconds)} in seconds"
        )
    for row, (name, ratio) in enumerate(accounts.items(), start=len(order)):
        ax.plot(ratio, row, marker="D", color=GREY, markersize=6.5)
        said.append(f"{name} {number(ratio)} for one update")
    if order:
        ax.axhline(len(order) - 0.5, color="#aeb7c0", linewidth=0.8)
    ax.axvline(CLAIMED_RATIO, color=INK, linestyle=(0, (5, 2)), linewidth=1.2)
    _name_rows(ax, names, top=-0.7)
    ax.set_xlabel("times cheaper than retraining")
    handles = [
        _mark("operations, counted"),
        _mark("seconds, measured", markerfacecolor="white"),
        _mark("by account, one update", marker="D"),
        Line2D([], [], label="the paper’s claim", linestyle=(0, (5, 2)), color=INK),
    ]
    _legend(figure, layout, extra=handles)
    figure.alt = f"How many times cheaper than retraining, log scale: {'; '.join(said)}."
    return figure


@_figure_function
def document_lengths(
    lengths: Mapping[str, Mapping[str, Sequence[int]]], *, narrow: bool = False
) -> DescribedFigure:
    """Histograms of document lengths, a panel per domain; lengths: domain -> split -> tokens."""
    layout, domains = Layout(narrow), list(lengths)
    if not domains:
        raise UnlearnError("there are no document lengths: give at least one domain.")
    figure, panels = layout.panels(domains, 2.3, ylabel="share of documents, %", extra=0.35)
    shown = [n for d in domains for s in SPLIT_COLOURS for n in lengths[d].get(s, ())] or [0, 1]
    bins = np.linspace(min(shown), max(shown) + 1, 19).tolist()
    alt = ["Histograms of document lengths in tokens."]
    for ax, domain in panels:
        said = []
        for split, colour in SPLIT_COLOURS.items():
            values = lengths[domain].get(split, ())
            if not len(values):
                continue
            filled = split == "retain"
            shares = np.full(len(values), 100 / len(values))
            look: dict[str, Any] = {"alpha": 0.3} if filled else {"linewidth": 1.8}
            kind: Any = "stepfilled" if filled else "step"
            ax.hist(values, bins, weights=shares, color=colour, histtype=kind, **look)
            said.append(f"{split} {len(values)} documents, mean {number(float(np.mean(values)))}")
        ax.set_xlabel("tokens per document")
        alt.append(f"{domain_title(domain)}: {'; '.join(said)}.")
    handles = [Line2D([], [], color=c, label=s, linewidth=3) for s, c in SPLIT_COLOURS.items()]
    _legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def speed(found: Mapping[str, Any], *, narrow: bool = False) -> DescribedFigure:
    """Times as fast as the plain recipe (left) and share of its memory (right), with targets."""
    layout = Layout(narrow)
    panels = [
        ("times as fast as the plain recipe", [r for r in found["rows"] if not is_memory(r)]),
        ("share of its memory", [r for r in found["rows"] if is_memory(r)]),
    ]
    panels = [(title, rows) for title, rows in panels if rows]
    most = max(len(rows) for _, rows in panels)
    figure, axes = layout.grid(len(panels), 0.9 + 0.34 * most, beside=2, extra=0.4)
    alt = []
    for ax, (title, rows) in zip(axes, panels, strict=True):
        said = []
        for place, row in enumerate(rows):
            ratio, good = row["ratio"], met(row)
            colour = "#00805d" if good else INK
            ax.plot(
                [ratio["lowest"], ratio["highest"]], [place, place], color=colour, linewidth=1.6
            )
            ax.plot(
                ratio["median"],
                place,
                marker="o",
                markersize=7,
                color=colour,
                markerfacecolor=colour if good else "white",
            )
            ax.plot(row["target"], place, marker="|", color="#cf222e", markersize=13, mew=2)
            said.append(
                f"{work_title(row)} {row['ours']} {number(ratio['median'])}, target "
                f"{number(row['target'])}"
            )
        ax.axvline(1.0, **BASELINE_STYLES["vanilla"])
        ax.set_xlim(left=0)
        names = [
            f"{work_title(r).removeprefix('memory ').removeprefix('training ')}\n{r['ours']}"
            for r in rows
        ]
        _name_rows(ax, names)
        ax.set_xlabel(title)
        alt.append(f"{title[0].upper()}{title[1:]}: {'; '.join(said)}.")
    handles = [
        _mark("target met", color="#00805d"),
        _mark("target not met", color=INK, markerfacecolor="white"),
        _mark("target", marker="|", color="#cf222e", mew=2, ms=12),
    ]
    _legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def invariance(found: Mapping[str, Any], *, narrow: bool = False) -> DescribedFigure:
    """How far each way of computing ends from the run as a whole; a mark per method."""
    layout, rows = Layout(narrow), list(found["rows"])
    ways = list(dict.fromkeys(r["way"] for r in rows))
    figure, axes = layout.grid(len(LIMITS), 0.9 + 0.3 * len(ways), beside=2, extra=0.4)
    floor = 1e-17  # where a difference of exactly 0 is drawn
    alt = ["Norm of the parameters' difference, relative to the run's change, log scale."]
    for ax, (precision, limit) in zip(axes, LIMITS.items(), strict=True):
        of = [r for r in rows if r["precision"] == precision]
        _set_log(ax, "x", floor / 2, 1e-2)
        ax.axvline(limit, color="#cf222e", linewidth=1.4)
        for row in of:
            ax.plot(
                max(row["norm"], floor),
                ways.index(row["way"]),
                markersize=5,
                linestyle="",
                clip_on=False,
                **method_style(row["method"]),
            )
        names = [way_title(w).replace("sharded, packed", "sharded,\npacked") for w in ways]
        _name_rows(ax, names, shown=narrow or ax is axes[0])
        ax.set_title(precision)
        ax.set_xlabel("relative difference")
        alt.append(
            f"{precision}: at most {power(worst(of))}, allowed {power(limit)}; "
            f"{sum(r['norm'] == 0 for r in of)} of {len(of)} are exactly 0, drawn at the "
            "left edge."
        )
    _legend(figure, layout, list(dict.fromkeys(r["method"] for r in rows)))
    figure.alt = " ".join(alt)
    return figure


@_figure_function
def two_models(
    sides: Mapping[str, tuple[Sequence[Record], Sequence[Record]]],
    domains: Sequence[str],
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Each method in the lab (x) and on a real model (y), over vanilla; sides: title -> records.

    A row of panels per domain that both have, a column per metric.
    """
    layout = Layout(narrow)
    (one, (lab, lab_base)), (other, (real, real_base)) = sides.items()
    _checked(lab, "this figure"), _checked(real, "this figure")
    shared = [d for d in domains if select(lab, d) and select(real, d)]
    metrics = {GENERAL: "general perplexity ÷ vanilla’s", KL: "KL to the oracle ÷ vanilla’s"}
    panels = [(domain, metric) for domain in shared for metric in metrics]
    figure, axes = layout.grid(len(panels), 3.2, beside=len(metrics), extra=0.4)
    alt = []
    methods = [m for m in methods_of(lab) if m in methods_of(real)]
    for ax, (domain, metric) in zip(axes, panels, strict=True):
        xs = relative(select(lab, domain), lab_base, domain, metric)
        ys = relative(select(real, domain), real_base, domain, metric)
        known = [m for m in methods if m in xs and m in ys]
        _set_log(ax, "x", *_range([*xs.values(), 1.0], BEYOND))
        _set_log(ax, "y", *_range([*ys.values(), 1.0], BEYOND))
        ax.axvline(1.0, **BASELINE_STYLES["vanilla"])
        ax.axhline(1.0, **BASELINE_STYLES["vanilla"])
        for method in known:
            _points(ax, [xs[method]], [ys[method]], markersize=8, **method_style(method))
        ax.set_title(f"{domain_title(domain)}: {metrics[metric]}")
        if narrow or domain == shared[-1]:
            ax.set_xlabel(one)
        if narrow or metric == GENERAL:
            ax.set_ylabel(other)
        said = "; ".join(f"{method_title(m)} {number(xs[m])} and {number(ys[m])}" for m in known)
        alt.append(f"{domain_title(domain)}, {metrics[metric]}, {one} and {other}: {said}.")
    _legend(figure, layout, methods)
    figure.alt = " ".join(alt)
    return figure


# --- showing -------------------------------------------------------------------------------------


def to_svg(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def figures_folder() -> Path | None:
    """Where `show` leaves files: $UNLEARN_FIGURES, else book/_run/figures where there is a book."""
    if named := os.environ.get("UNLEARN_FIGURES"):
        return Path(named)
    return Path("book/_run/figures") if Path("book").is_dir() else None


def figure_html(figure: DescribedFigure, caption: str, command: str = "", name: str = "") -> str:
    """An HTML figure: both drawings as images, the alternative text, the caption, the command.

    With a name it can be linked to and repeated: the book adds its notebook (`exhibits`).
    """
    if not figure.alt:
        raise UnlearnError("the figure has no alternative text: set its `alt`.")
    sources = ""
    if figure.narrow is not None:
        sources = f'<source media="{NARROW_SCREEN}" srcset="{_data_uri(figure.narrow())}">'
    width = round(figure.get_figwidth() * 96)
    image = (
        f'<img src="{_data_uri(figure)}" alt="{html.escape(figure.alt, quote=True)}" '
        f'width="{width}">'
    )
    again = exhibits.repeat("figure", command) if name or command else ""
    return (
        f"<figure{exhibits.opening('figure', name, caption)}><picture>{sources}{image}</picture>"
        f"<figcaption>{html.escape(caption)}{again}</figcaption></figure>"
    )


def _data_uri(figure: Figure) -> str:
    raw = to_svg(figure).encode("utf-8")
    return "data:image/svg+xml;base64," + base64.b64encode(raw).decode("ascii")


def show(figure: DescribedFigure, name: str, caption: str, command: str = "") -> None:
    """Display a figure in a notebook and leave NAME.svg and NAME-narrow.svg with the book.

    `command` is what computes the figure's records again; the figure's anchor is `figure-NAME`.
    """
    from IPython.display import HTML, display

    folder = figures_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(to_svg(figure), encoding="utf-8")
        (folder / f"{name}.txt").write_text(figure.alt + "\n", encoding="utf-8")
        if figure.narrow is not None:
            (folder / f"{name}-narrow.svg").write_text(to_svg(figure.narrow()), encoding="utf-8")
    display(HTML(figure_html(figure, caption, command, name)))
