"""Reports: HTML files to keep on file, which need no other file and no network.

The report of a tuned unlearning (`report`) is the model card, rendered, with the search before it:
what was removed, by what evidence, how the settings were found, what it cost the model, and what
the evidence does not show. That of a verification (`verification`) puts every published number
beside its repetition. Neither holds text of any document. The pages are the templates in
`report/templates/`, which escape every value.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unlearnlib.card import CardFacts, card_text, printable, show
from unlearnlib.errors import UnlearnError
from unlearnlib.search import GOOD_ENOUGH, TOLERATED_RISE, Situation, Step
from unlearnlib.verify import Comparison, Difference, NumericalTolerance

MOST_SHOWN = 200  # numbers of one run, beside its metrics, that are listed one by one


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

    from unlearnlib.figures import figure_html, search

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


def render(template: str, **values: Any) -> str:
    """A whole page: a template of `report/templates`, dated today, with `values` escaped.

    Only `Markup` is taken as HTML. Every page needs the value `title`.
    """
    return _templates().get_template(template).render(today=date.today().isoformat(), **values)


@functools.cache
def _templates() -> Environment:
    """The templates of HTML pages; a value that is text is escaped, and in one line."""
    return Environment(
        loader=PackageLoader("unlearnlib", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
    )


# --- the report of a verification ----------------------------------------------------------------


def verification(
    comparisons: Sequence[Comparison],
    tolerance: NumericalTolerance,
    *,
    available: int,
    command: str = "",
    remade: NumericalTolerance | None = None,
) -> str:
    """The report of `unlearn verify` as HTML: the verdict first, then every run, number by number.

    available  how many records the comparisons were picked from; command  what repeats it all;
    remade  what is allowed where the repetition started from a model that was trained here
    """
    others = [c for c in comparisons if c.base] if remade else []
    return render(
        "verification.html",
        title="Published and repeated: report",
        differing=sum(not c.agrees for c in comparisons),
        runs=[_Run.of(c, remade if c.base and remade else tolerance) for c in comparisons],
        available=available,
        compared=sum(len(c.differences) for c in comparisons),
        tolerance=tolerance,
        others=len(others),
        bases=sorted({(c.record.model_hash[:12], c.base[:12]) for c in others}),
        remade=remade,
        command=command,
        places=_places(comparisons),
        most_shown=MOST_SHOWN,
        share=_share,
        digits=_digits,
        isfinite=math.isfinite,
    )


@dataclass(frozen=True)
class _Run:
    """What the page shows of one comparison.

    shown    the numbers that are listed: every metric, and of the others those that differ
    others   part of the record -> how many of its numbers were compared beside the metrics
    off      how many of `others` differ
    """

    comparison: Comparison
    tolerance: NumericalTolerance
    shown: Sequence[Difference]
    others: Mapping[str, int]
    off: int

    @classmethod
    def of(cls, comparison: Comparison, tolerance: NumericalTolerance) -> _Run:
        """Differences first, among the metrics too; at most `MOST_SHOWN` beside the metrics."""
        known = comparison.record.metrics
        metrics = [d for d in comparison.differences if d.name in known or "/" not in d.name]
        listed = {d.name for d in metrics}
        rest = [d for d in comparison.differences if d.name not in listed]
        off = [d for d in rest if not d.agrees]
        parts = Counter(d.name.partition("/")[0] for d in rest)
        return cls(
            comparison,
            tolerance,
            [*off[:MOST_SHOWN], *sorted(metrics, key=lambda d: (d.agrees, d.name))],
            dict(sorted(parts.items())),
            len(off),
        )


def _places(comparisons: Sequence[Comparison]) -> list[tuple[tuple[str, ...], int]]:
    """What the published numbers and the repeated ones were computed with, and how many runs."""
    rows: Counter[tuple[str, ...]] = Counter()
    for comparison in comparisons:
        rows["published", *_place(comparison.record.provenance)] += 1
        if comparison.repeated is not None:
            rows["repeated", *_place(comparison.repeated.provenance)] += 1
    return sorted(rows.items())


def _place(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """(device, threads, versions, commit, day) of a record's provenance; "–" for what is not."""
    versions = provenance.get("versions")
    commit = str(provenance.get("commit") or "–")
    device = provenance.get("accelerator") or provenance.get("processor")
    named = [str(x) for x in (provenance.get("device"), device, provenance.get("system")) if x]
    return (
        ", ".join(named) or "–",
        str(provenance.get("threads", "–")),
        ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        if isinstance(versions, Mapping)
        else "–",
        commit[:12] + ("-dirty" if commit.endswith("-dirty") else ""),
        str(provenance.get("started") or "–")[:10],
    )


def _share(excess: float) -> str:
    """How much of what is allowed a difference takes."""
    return "∞" if math.isinf(excess) else f"{excess:.2g}"


def _digits(x: float) -> str:
    """Seven significant digits: more than rounding leaves alike."""
    return f"{x:.7g}" if math.isfinite(x) else show(x)
