"""Reports: HTML files to keep on file, which need no other file and no network.

The report of a tuned unlearning (`report`) is the model card, rendered, with the search before it:
what was removed, by what evidence, how the settings were found, what it cost the model, and what
the evidence does not show. That of a verification (`verification`) puts every published number
beside its repetition. Neither holds text of any document, and what came from outside is escaped.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.resources import files
from typing import Any

from unlearnlib.card import CardFacts, model_card, printable, show
from unlearnlib.errors import UnlearnError
from unlearnlib.search import HARM, NEAR, Situation, Step
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

    `UnlearnError` without matplotlib or markdown-it-py, which the extra `book` brings.
    """
    try:
        import markdown_it  # noqa: F401

        import unlearnlib.figures  # noqa: F401
    except ImportError as error:
        raise UnlearnError(
            f"the report needs {error.name}: install unlearnlib with its extra, as in "
            "pip install 'unlearnlib[book]'."
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

    from unlearnlib.figures import search, to_html

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
    return _document(f"{facts.source}, unlearned: report", body + found)


def _document(title: str, body: str) -> str:
    """A whole page around the HTML `body`, dated today; `title` is text."""
    style = files("unlearnlib").joinpath("report.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>"
        f"<p class=date>{date.today().isoformat()}</p>{body}</main></body></html>\n"
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
    differing = sum(not c.agrees for c in comparisons)
    compared = sum(len(c.differences) for c in comparisons)
    verdict, count = ("differs", differing) if differing else ("agrees", len(comparisons))
    words = f"{count} of {len(comparisons)} {'record' if len(comparisons) == 1 else 'records'} "
    words += verdict if count == 1 else verdict.rstrip("s")
    parts = [
        "<h1>Published and repeated</h1>",
        f"<p class={verdict}><strong>{words}.</strong></p>",
        f"<p>{len(comparisons)} of {available:,} published runs were repeated and {compared:,} "
        "numbers compared. A repeated number agrees if it is within "
        f"{tolerance.absolute:g} + {tolerance.relative:g} × |published| of the published one.</p>",
        _bases(comparisons, remade),
        f"<pre><code>{_text(command)}</code></pre>" if command else "",
        "<h2>What was repeated</h2>",
        _table(
            ("run", "result", "domain", "method", "seed", "numbers", "furthest off"),
            [_overview(number, c) for number, c in enumerate(comparisons, 1)],
        ),
        "<h2>Where</h2>",
        "<p>Another processor, thread count or version of a library adds numbers in another "
        "order: small differences are expected where the columns differ.</p>",
        _places(comparisons),
        "<h2>Number by number</h2>",
        *(
            _one(number, c, remade if c.base and remade else tolerance)
            for number, c in enumerate(comparisons, 1)
        ),
    ]
    return _document("Published and repeated: report", "".join(parts))


def _bases(comparisons: Sequence[Comparison], remade: NumericalTolerance | None) -> str:
    """A warning where repetitions started from another model than the published runs."""
    others = [c for c in comparisons if c.base]
    if not others or remade is None:
        return ""
    pairs = sorted({(c.record.model_hash[:12], c.base[:12]) for c in others})
    which = "; ".join(f"published {_text(theirs)}, here {_text(ours)}" for theirs, ours in pairs)
    return (
        f"<p><strong>The base differs in {len(others)} of them</strong>: they were repeated on a "
        f"model that was trained here ({which}). Of these only metrics were compared, within "
        f"{remade.absolute:g} + {remade.relative:g} × |published|: agreement says that the recipe "
        "leads to the same numbers, not that the runs are the same.</p>"
    )


def _text(value: object) -> str:
    """Text of whatever origin for HTML: escaped, and in one line."""
    return html.escape(printable(str(value)))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; the cells are HTML already, and the first of each row is its header."""
    head = "".join(f"<th scope=col>{_text(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    # Where it is wider than the page it scrolls, for which a keyboard needs to reach it.
    return f"<div class=scroll tabindex=0 role=group aria-label=table>{table}</div>"


def _result(agrees: bool) -> str:
    """The word, with a class for its colour."""
    return "<span class=agrees>agrees</span>" if agrees else "<span class=differs>differs</span>"


def _overview(number: int, comparison: Comparison) -> tuple[str, ...]:
    spec, largest = comparison.record.spec, comparison.largest
    off = f"{_text(largest.name)}: {_share(largest.excess)} of what is allowed" if largest else ""
    return (
        f'<a href="#run-{number}">{_text(comparison.record.key[:12])}</a>',
        _result(comparison.agrees),
        *(_text(spec.get(name, "–")) for name in ("domain", "method", "seed")),
        f"{len(comparison.differences):,}",
        _text(comparison.reason) or off,
    )


def _share(excess: float) -> str:
    return "∞" if math.isinf(excess) else f"{excess:.2g}"


def _places(comparisons: Sequence[Comparison]) -> str:
    """What the published numbers and the repeated ones were computed with, and how many runs."""
    rows: Counter[tuple[str, ...]] = Counter()
    for comparison in comparisons:
        rows["published", *_place(comparison.record.provenance)] += 1
        if comparison.repeated is not None:
            rows["repeated", *_place(comparison.repeated.provenance)] += 1
    return _table(
        ("numbers", "device", "threads", "versions", "code", "from", "runs"),
        [(*map(_text, row), str(count)) for row, count in sorted(rows.items())],
    )


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


def _one(number: int, comparison: Comparison, tolerance: NumericalTolerance) -> str:
    """One run: its numbers, open where something differs."""
    record, spec = comparison.record, comparison.record.spec
    words = ", ".join(str(spec.get(name, "–")) for name in ("domain", "method"))
    title = f"{record.key[:12]}: {words}, seed {spec.get('seed', '–')}"
    metrics = [d for d in comparison.differences if d.name in record.metrics or "/" not in d.name]
    metrics = sorted(metrics, key=lambda d: (d.agrees, d.name))
    listed = {d.name for d in metrics}
    rest = [d for d in comparison.differences if d.name not in listed]
    off = [d for d in rest if not d.agrees]
    shown = [*off[:MOST_SHOWN], *metrics] if off else metrics
    content = f"<p>{_text(comparison.reason)}.</p>" if comparison.reason else ""
    if comparison.differences:
        content += _table(
            ("number", "published", "repeated", "difference", "allowed", "result"),
            [_row(d, tolerance) for d in shown],
        )
    if rest:
        parts = Counter(d.name.partition("/")[0] for d in rest)
        counts = ", ".join(f"{count:,} of {_text(part)}" for part, count in sorted(parts.items()))
        content += (
            f"<p>Beside the metrics, {len(rest):,} numbers were compared ({counts}): "
            f"{len(rest) - len(off):,} agree, {len(off):,} differ"
            f"{f', of which {MOST_SHOWN} are listed' if len(off) > MOST_SHOWN else ''}.</p>"
        )
    if command := record.provenance.get("command"):
        content += f"<pre><code>{_text(command)}</code></pre>"
    is_open = "" if comparison.agrees else " open"
    return (
        f'<details id="run-{number}"{is_open}><summary>{_text(title)}: '
        f"{_result(comparison.agrees)}</summary>{content}</details>"
    )


def _row(difference: Difference, tolerance: NumericalTolerance) -> tuple[str, ...]:
    published, repeated = difference.published, difference.repeated
    both = math.isfinite(published) and math.isfinite(repeated)
    return (
        _text(difference.name),
        _digits(published),
        _digits(repeated),
        f"{repeated - published:.2g}" if both else "–",
        f"{tolerance.allowed(published):.2g}" if math.isfinite(published) else "–",
        _result(difference.agrees),
    )


def _digits(x: float) -> str:
    """Seven significant digits: more than rounding leaves alike."""
    return f"{x:.7g}" if math.isfinite(x) else show(x)
