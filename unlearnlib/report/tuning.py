"""The report of `unlearn tune`: the search, run by run, and the model card as HTML.

It says what was removed, by what evidence, how the settings were found, what it cost the model, and
what the evidence does not show. It holds no text of any document, and what came from outside is
escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from unlearnlib.errors import UnlearnError
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
from unlearnlib.report.card import CardFacts, card_text
from unlearnlib.report.page import render
from unlearnlib.text import number, show
from unlearnlib.tuning_rule import GOOD_ENOUGH, TOLERATED_RISE, Situation, Step, rise_in_words

HEADER = (
    "run", "learning rate", "retain weight", "updates", "forget perplexity", "general perplexity",
    "shortfall", "why this run",
)  # fmt: skip


def trace_table(steps: Sequence[Step], situation: Situation) -> list[tuple[str, ...]]:
    """(run, rate, retain weight, updates, forget perplexity, rise of general, shortfall, why)."""
    return [
        (
            str(number),
            f"{step.learning_rate:.3g}",
            f"{step.retain_weight:g}",
            str(step.updates),
            show(step.path[step.updates]),
            rise_in_words(step, situation),
            show(step.shortfall(situation)),
            step.reason,
        )
        for number, step in enumerate(steps, 1)
    ]


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


def check_extra() -> None:
    """Whether the packages that a report needs are there; asked before the hours of a search.

    `UnlearnError` without matplotlib or markdown-it-py, which the extra `report` brings.
    """
    try:
        import markdown_it  # noqa: F401

        import unlearnlib.figures  # noqa: F401
    except ImportError as error:
        raise UnlearnError(
            f"the report needs {error.name}: install unlearnlib with its extra, as in "
            'pip install "unlearnlib[report]".'
        ) from error


def report(
    facts: CardFacts,
    steps: Sequence[Step],
    best: int | None,
    situation: Situation,
    ending: str,
) -> str:
    """The report as HTML that needs no other file and no network; see `check_extra`."""
    check_extra()
    from markdown_it import MarkdownIt

    from unlearnlib.book.exhibits import figure_html

    card = MarkdownIt("commonmark", {"html": False}).enable("table").render(card_text(facts))
    figure = ""
    if steps:
        figure = figure_html(
            search(steps, situation, best),
            "Left: forget perplexity after each update of each run; a run ends where it reaches "
            "the target. Right: where each run stopped, and how far general perplexity had risen.",
        )
    return render(
        "tuning.html",
        title=f"{facts.source}, unlearned: report",
        card=Markup(card),
        figure=Markup(figure),
        seconds=sum(step.seconds for step in steps),
        header=HEADER,
        rows=trace_table(steps, situation),
        best=best,
        ending=ending,
        tolerated_rise=TOLERATED_RISE,
        good_enough=GOOD_ENOUGH,
    )
