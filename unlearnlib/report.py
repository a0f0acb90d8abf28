"""The report of a tuned unlearning: one HTML file to keep on file, with its figure inside.

It is the model card, rendered, with the search before it: what was removed, by what evidence, how
the settings were found, what it cost the model, and what the evidence does not show. Like the card
it holds no text of any document, and what came from outside is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import date
from importlib.resources import files

from unlearnlib.card import CardFacts, model_card, printable, show
from unlearnlib.errors import UnlearnError
from unlearnlib.search import HARM, NEAR, Situation, Step


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


def rise_in_words(step: Step, situation: Situation) -> str:
    """The rise of general perplexity in per cent; infinite for a model that broke."""
    rise = step.rise(situation)
    return "∞" if rise > 20 else f"{100 * math.expm1(rise):+.1f} %"


HEADER = (
    "run", "learning rate", "retain weight", "updates", "forget perplexity", "general perplexity",
    "shortfall", "why this run",
)  # fmt: skip


def report(
    facts: CardFacts,
    steps: Sequence[Step],
    best: int | None,
    situation: Situation,
    ending: str,
) -> str:
    """The report as HTML that needs no other file and no network.

    `UnlearnError` without matplotlib or markdown-it-py, which the extra `book` brings.
    """
    try:
        from markdown_it import MarkdownIt

        from unlearnlib.figures import search, to_html
    except ImportError as error:
        raise UnlearnError(
            f"the report needs {error.name}: install unlearnlib with its extra, as in "
            "pip install 'unlearnlib[book]'."
        ) from error

    # The card's own front matter is for the hub; its words are escaped Markdown.
    card = model_card(facts).split("---\n", 2)[2]
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(card)
    rows = "".join(
        f"<tr{' class=chosen' if number == best else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(trace_table(steps, situation))
    )
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in HEADER)
    chosen = "No run was needed." if best is None else f"Run {best + 1} was chosen."
    figure = ""
    if steps:
        figure = to_html(
            search(steps, situation, best),
            "Left: forget perplexity after each update of each run; a run ends where it reaches "
            "the target. Right: where each run stopped, and how far general perplexity had risen.",
        )
    seconds = sum(step.seconds for step in steps)
    style = files("unlearnlib").joinpath("report.css").read_text(encoding="utf-8")
    title = html.escape(printable(f"{facts.source}, unlearned: report"))
    found = (
        "<h2>How the setting was found</h2>"
        f"<p>{len(steps)} {'run' if len(steps) == 1 else 'runs'}, {seconds:,.0f} seconds in all. "
        f"{chosen} The search ended because {html.escape(ending)}.</p>"
        "<p>The shortfall is the distance of forget perplexity from the target, as the logarithm "
        "of their ratio, plus the log-rise of general perplexity as far as it exceeds "
        f"{HARM:g}. At most {NEAR:g} needs no further run.</p>"
        f"{figure}<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>"
        f"<p class=date>{date.today().isoformat()}</p>{body}{found}</main></body></html>\n"
    )
