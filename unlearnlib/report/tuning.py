"""The report of `unlearn tune`: the search, run by run, and the model card as HTML.

It says what was removed, by what evidence, how the settings were found, what it cost the model, and
what the evidence does not show. It holds no text of any document, and what came from outside is
escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from unlearnlib.errors import UnlearnError
from unlearnlib.report.card import CardFacts, card_text
from unlearnlib.report.page import render
from unlearnlib.text import show
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


def check_extra() -> None:
    """Whether the packages that a report needs are there; asked before the hours of a search.

    `UnlearnError` without matplotlib or markdown-it-py, which the extra `report` brings.
    """
    try:
        import markdown_it  # noqa: F401
        import matplotlib  # noqa: F401
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

    from unlearnlib.figures import image_html
    from unlearnlib.report.search_figure import search

    card = MarkdownIt("commonmark", {"html": False}).enable("table").render(card_text(facts))
    figure = ""
    if steps:
        figure = image_html(
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
