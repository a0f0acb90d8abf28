"""The figure of a search: what each of its runs reached, and at which harm. It needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    clamp,
    draw_points,
    figure_function,
    set_log_axis,
)
from unlearnlib.looks import BASELINE_STYLES, method_style
from unlearnlib.text import number
from unlearnlib.tuning_rule import TOLERATED_RISE, Situation, Step


@figure_function
def search(
    steps: Sequence[Step], situation: Situation, best: int | None = None, *, narrow: bool = False
) -> DescribedFigure:
    """The runs of a search: forget perplexity after each update, and the harm at the end of each.

    The chosen run is drawn in colour, the others in grey, numbered in their order.
    """
    layout = Layout(narrow)
    figure, (left, right) = layout.grid(2, 2.9, beside=2, extra=0.1)
    every = [p for step in steps for p in step.path if math.isfinite(p)]
    low, high = axis_range([*every, situation.target, situation.forget], 10 * situation.target)
    set_log_axis(left, "y", low, high)
    set_log_axis(right, "y", low, high)
    rises = [100 * math.expm1(min(step.rise(situation), 50.0)) for step in steps]
    finite = [r for r in rises if r < 1000]
    right.set_xlim(min([0.0, *finite]) - 1, max([6.0, *finite]) * 1.15 + 1)
    said = []
    for i, (step, rise) in enumerate(zip(steps, rises, strict=True)):
        colour = method_style("ga_gd_in_dist")["color"] if i == best else "#9aa1a9"
        front = 3 if i == best else 2
        path = [clamp(p, low, high) for p in step.path]
        left.plot(range(len(path)), path, color=colour, marker="o", markersize=3, zorder=front)
        end = clamp(step.path[step.updates], low, high)
        draw_points(right, [rise], [end], color=colour, marker="o", markersize=6, zorder=front)
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
    add_legend(figure, layout, lines=("vanilla", "target"))
    figure.alt = (
        f"Search of {len(steps)} runs; target perplexity {number(situation.target)}, before "
        f"unlearning {number(situation.forget)}: {'; '.join(said)}."
    )
    return figure
