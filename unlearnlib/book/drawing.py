"""What several chapters draw: a row per method, lines of the baselines, courses over updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from unlearnlib.book.records import baseline_value, methods_of, select, value
from unlearnlib.figures import (
    BEYOND,
    DescribedFigure,
    Layout,
    axis_range,
    clamp,
    draw_cross,
    draw_points,
    set_log_axis,
)
from unlearnlib.looks import BASELINE_STYLES, BASELINE_TITLES, INK, method_style, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import mean_and_spread, number


def name_rows(ax: Axes, names: Sequence[str], *, shown: bool = True, top: float = -0.6) -> None:
    """A row per name from top to bottom, without the line of an axis; `shown`: with the names."""
    ax.set_ylim(len(names) - 0.4, top)
    ax.set_yticks(range(len(names)), list(names) if shown else [""] * len(names))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def baseline_values(
    baselines: Sequence[Record], domain: str, metric: str, runs: Sequence[Record]
) -> dict[str, float]:
    """The value of vanilla, target and oracle for a metric; NaN where there is none."""
    return {
        which: baseline_value(baselines, domain, which, metric, runs) for which in BASELINE_TITLES
    }


def axis_cap(marks: Iterable[float]) -> float:
    """How far an axis may reach for what runs give: `BEYOND` times the largest baseline."""
    return BEYOND * max((m for m in marks if math.isfinite(m)), default=math.inf)


def draw_baselines(
    ax: Axes,
    axis: str,
    baselines: Sequence[Record],
    domain: str,
    metric: str,
    runs: Sequence[Record],
    which: Sequence[str] = tuple(BASELINE_TITLES),
) -> None:
    """Draw vanilla, target and oracle as lines at their values on an axis, "x" or "y"."""
    for name, x in baseline_values(baselines, domain, metric, runs).items():
        if name in which and math.isfinite(x):
            draw = ax.axhline if axis == "y" else ax.axvline
            draw(x, zorder=1.5, **BASELINE_STYLES[name])


def means_in_words(records: Sequence[Record], domain: str, metric: str) -> str:
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


def baselines_in_words(
    baselines: Sequence[Record], domain: str, metric: str, runs: Sequence[Record]
) -> str:
    """ "BASELINE VALUE, ..." for an alternative text."""
    known = baseline_values(baselines, domain, metric, runs)
    return ", ".join(
        f"{BASELINE_TITLES[which]} {number(x)}" for which, x in known.items() if not math.isnan(x)
    )


def range_in_words(values: Iterable[float]) -> str:
    """ "LOWEST to HIGHEST" of the values that are numbers, for an alternative text."""
    known = [v for v in values if not math.isnan(v)]
    return f"{number(min(known))} to {number(max(known))}" if known else ""


def method_panels(
    layout: Layout,
    domains: Sequence[str],
    methods: Sequence[str],
    xlabel: str,
    *,
    row_height: float = 0.3,
    extra: float = 0.4,
    below: Sequence[str] = (),
) -> tuple[DescribedFigure, list[tuple[Axes, str]]]:
    """`Layout.panels` with a row per method, `row_height` inches each, named at the first panel.

    `below` are the titles of rows under those of the methods.
    """
    titles = [*map(method_title, methods), *below]
    figure, panels = layout.panels(
        domains, 0.75 + row_height * len(titles), xlabel=xlabel, extra=extra
    )
    for i, (ax, _) in enumerate(panels):
        name_rows(ax, titles, shown=layout.is_narrow or i == 0)
    return figure, panels


def draw_seeds(
    ax: Axes, values: Sequence[float], y: float, colour: str, filled: bool = True
) -> None:
    """The seeds' range as a line, the seeds as small dots, their mean as a large one."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return
    low, high = ax.get_xlim()
    ends = [clamp(v, low, high) for v in (min(known), max(known))]
    ax.plot(ends, [y, y], color=colour, linewidth=1.6, solid_capstyle="round", zorder=2)
    common: dict[str, Any] = {"color": colour, "marker": "o"}
    draw_points(ax, known, [y] * len(known), markersize=3.5, alpha=0.6, markeredgewidth=0, **common)
    face = colour if filled else "white"
    mean = mean_and_spread(known)[0]
    draw_points(
        ax, [mean], [y], markersize=7, markerfacecolor=face, markeredgewidth=1.4, zorder=3, **common
    )


def label_ends(
    ax: Axes,
    ends: Sequence[tuple[float, str, str]],
    *,
    size: float = 9,
    height: float | None = None,
) -> None:
    """Names to the right of the panel for lines that end there: (y, name, colour) of each.

    Names that would overlap are moved apart, in the order of their lines, and a hair line leads
    from each to its end. `size` is in points; `height` of the panel in inches, where it is not as
    its axes are now.
    """
    to_axes, at = ax.transData + ax.transAxes.inverted(), ax.get_xlim()[1]
    known = [end for end in ends if math.isfinite(end[0])]
    places = [(float(to_axes.transform((at, y))[1]), name, colour) for y, name, colour in known]
    places.sort(key=lambda place: place[0])
    inches = height or ax.get_window_extent().height / ax.figure.dpi
    gap = 1.25 * size / 72 / inches
    for (y, name, colour), text_y in zip(
        places, apart([y for y, _, _ in places], gap), strict=True
    ):
        here: dict[str, Any] = {"transform": ax.transAxes, "color": colour, "clip_on": False}
        ends_at = min(max(y, 0.0), 1.0)
        ax.add_artist(Line2D([1.01, 1.05], [ends_at, text_y], linewidth=0.6, **here))
        ax.text(1.06, text_y, name, fontsize=size, va="center", **here)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places moved as little as it takes to be `gap` apart, into 0 to 1 if they fit."""
    from scipy.optimize import isotonic_regression

    if not places:
        return []
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.array(places) - steps).x + steps
    room = max(1.0, float(steps[-1])) - moved[-1]
    moved += min(0.0, room) if moved[0] >= 0 else max(0.0, -moved[0])
    return [float(x) for x in moved]


def course(record: Record, metric: str) -> tuple[list[float], list[float]]:
    """(updates, values) of a metric along a run."""
    rows = [row for row in record.trajectory if metric in row]
    return [float(row["update"]) for row in rows], [float(row[metric]) for row in rows]


def scale_course_axis(
    ax: Axes, metric: str, values: Sequence[float], marks: Sequence[float]
) -> None:
    """Scale y for a metric: 0 to 1 with a line at one half for an AUC, else logarithmic."""
    if metric.endswith("/auc"):
        ax.set_ylim(0, 1)
        ax.axhline(0.5, color=INK, linewidth=0.8)
    else:
        set_log_axis(ax, "y", *axis_range([*values, *marks], axis_cap(marks)))


def draw_path(
    ax: Axes, points: Sequence[tuple[float, float, bool]], method: str, *, cross_size: float = 9
) -> None:
    """A method's runs as points along a line: (x, y, whether the run diverged), which is a cross.

    A value beyond the axis of y is drawn at its edge.
    """
    low, high = ax.get_ylim()
    style = method_style(method)
    inside = [(x, clamp(y, low, high)) for x, y, _ in points]
    ax.plot([x for x, _ in inside], [y for _, y in inside], linewidth=1.4, color=style["color"])
    for (x, y, diverged), (_, edge) in zip(points, inside, strict=True):
        if diverged:
            draw_cross(ax, x, edge, style["color"], cross_size)
        else:
            draw_points(ax, [x], [y], markersize=4.6, markeredgewidth=0, **style)
