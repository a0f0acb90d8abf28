"""The model card of an unlearned model: what was forgotten, how, and what the scores can say.

A pure function from facts to Markdown (`model_card`); the words are in `templates/card.md`. It is
published beside the weights, so it holds no text of any document, and everything that came from
outside, such as a file's name, is escaped: it can neither format the page nor add a link, a tag or
a line to it.
"""

from __future__ import annotations

import functools
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unlearnlib.corpus.chunks import MINIMUM_TOKENS
from unlearnlib.corpus.documents import Document, hash_documents
from unlearnlib.errors import UnlearnError
from unlearnlib.report.audited import audit_section
from unlearnlib.store.record import Record
from unlearnlib.text import printable, show

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment

MOST_LISTED = 50  # documents listed one by one; more are in record.json
SPLIT_ROLES = {
    "forget": "to be forgotten",
    "retain": "same kind, to be kept",
    "approximate": "same kind, never seen in training",
    "general_retain": "other texts, to be kept",
    "general_evaluation": "other texts, only measured",
}

# Metric -> (how it is printed, what it means); the rows of the table of scores, in their order.
MEANINGS: Mapping[str, tuple[str, str]] = {
    "forget/perplexity": (
        "Perplexity, forget set",
        "How unexpected the forgotten texts are to the model; compare it with the target.",
    ),
    "approximate/perplexity": (
        "Perplexity, approximate set",
        "How unexpected texts of the same kind are that it never saw; before, this is the target.",
    ),
    "retain/perplexity": (
        "Perplexity, retain set",
        "How unexpected texts of the same kind are that it should keep; the less it rises the "
        "better.",
    ),
    "general/perplexity": (
        "Perplexity, general texts",
        "How unexpected unrelated texts are; the less it rises the better.",
    ),
    "general/last_word_accuracy": (
        "Last-word accuracy, general texts",
        "Share of unrelated texts whose last word greedy decoding gives, all before it known.",
    ),
    "forget/accuracy": (
        "Next-token accuracy, forget set",
        "Share of tokens of the forgotten texts that are the model's first guess.",
    ),
    "forget/verbatim_share": (
        "Verbatim share, forget set",
        "Share of a forgotten text that greedy decoding continues word by word from its beginning.",
    ),
    "membership/min_k_40/auc": (
        "Membership AUC, Min-40%",
        "Chance that a forgotten text looks more like training data than an unseen one: 0.5 is "
        "no difference; well below 0.5 gives forgetting away as much as well above it does.",
    ),
    "membership/loss/auc": (
        "Membership AUC, loss",
        "The same by the plain loss. Unflipped: values below 0.5 are shown as they are.",
    ),
    "oracle_kl/forget": (
        "Distance to retraining (nats per token)",
        "Mean KL divergence from the exactly retrained model on the forget set; 0 is equal.",
    ),
}

# Metric -> (the set that it is measured on, the kind of metric), for the hub's table of results.
HUB_METRICS: Mapping[str, tuple[str, str]] = {
    "forget/perplexity": ("forget set", "perplexity"),
    "approximate/perplexity": ("approximate set", "perplexity"),
    "retain/perplexity": ("retain set", "perplexity"),
    "general/perplexity": ("general texts", "perplexity"),
    "general/last_word_accuracy": ("general texts", "accuracy"),
    "forget/accuracy": ("forget set", "accuracy"),
    "forget/verbatim_share": ("forget set", "verbatim_share"),
    "membership/min_k_40/auc": ("forget set against approximate set", "roc_auc"),
    "membership/loss/auc": ("forget set against approximate set", "roc_auc"),
    "oracle_kl/forget": ("forget set", "kl_divergence"),
}


@dataclass(frozen=True)
class SplitFacts:
    """What the card says of a split: counts and SHA-256 (hex), never a text.

    `documents` has the name and the SHA-256 of each document (`Document.sha256`), also of one that
    is too short to have a chunk (see `CardFacts.short`).
    """

    name: str
    chunks: int
    sha256: str
    documents: tuple[tuple[str, str], ...]


def split_facts(name: str, documents: Sequence[Document], chunks: int) -> SplitFacts:
    """The facts of a split; `sha256` is that of `hash_documents`."""
    return SplitFacts(
        name,
        chunks,
        hash_documents(documents),
        tuple((d.id, d.sha256()) for d in documents),
    )


@dataclass(frozen=True)
class CardFacts:
    """All that the card tells.

    source      the base model as the user named it (a hub id or a folder's name)
    base_model  its hub id, or None if it came from this machine
    model_hash  SHA-256 of the base model's weights as they were loaded
    weights     what those are, in words (`text.weights_in_words`)
    title       the method's name in words; `forget_term`, `retain_term` its terms in Markdown
    spec        the settings, as in the record
    splits      the splits there were, "forget" first
    before, after   metrics of the two models on the same chunks
    command     what repeats it
    language    the language of `command`: "sh", or "python" for a call of `unlearn`
    versions    package -> version
    device      "cpu", or the accelerator's name
    diverged_at the update whose loss was not finite, or None
    measured    set -> how many of its chunks were scored (of a large retain set not all are)
    adapter     whether LoRA's adapter alone stands beside the model, in `adapter/`
    short       split -> names of its documents that are too short to have a chunk, and so were
                neither trained on nor scored
    prompted    whether documents have prompts, which are given and not predicted
    ends        split -> a sentence on the ends of its documents that were not either, or ""
    audit       the record of an audit of the model; None where it was not audited
    """

    source: str
    base_model: str | None
    model_hash: str
    title: str
    forget_term: str
    retain_term: str
    spec: Mapping[str, Any]
    splits: Sequence[SplitFacts]
    before: Mapping[str, float]
    after: Mapping[str, float]
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    diverged_at: int | None = None
    measured: Mapping[str, int] = field(default_factory=dict)
    adapter: bool = False
    language: str = "sh"
    short: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)
    prompted: bool = False
    weights: str = ""
    audit: Record | None = None


class Markdown(str):
    """Text that is Markdown already; the template escapes every other value."""


def escape(text: object) -> Markdown:
    """`text` as one line of Markdown that shows exactly these characters and formats nothing.

    Characters that do not print (line breaks, controls, marks that reverse the direction of
    writing) are spelt as escapes; every sign that Markdown or HTML could read is neutralised.
    """
    visible = printable(str(text))
    # "&", "<" and ">" as HTML entities; quotes need none outside of attributes.
    entities = html.escape(visible, quote=False)
    # "www." and "x:", "x@y" would become links by themselves on some sites.
    escaped = re.sub(r"([\\`*_{}\[\]#|~^$:@!])", r"\\\1", entities)
    escaped = re.sub(r"(?i)(www)\.", r"\1\\.", escaped)
    return Markdown(escaped.replace("  ", " \u00a0"))  # or Markdown would make them one


def fenced(code: str, language: str = "") -> Markdown:
    """A code block that `code` cannot close: its fence is longer than any run of backticks.

    Characters that do not print are spelt as escapes; only line breaks stay.
    """
    fence = "`" * max(3, _longest_fence(code) + 1)
    lines = "\n".join(map(printable, code.split("\n")))
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def code_span(code: str) -> Markdown:
    """`code` between backticks, in one line, which it cannot close."""
    fence = "`" * (_longest_fence(code) + 1)
    space = " " if len(fence) > 1 else ""  # Markdown takes it off again
    return Markdown(f"{fence}{space}{printable(code)}{space}{fence}")


def _longest_fence(code: str) -> int:
    """The length of the longest run of backticks in `code`."""
    return max((len(run) for run in re.findall(r"`+", code)), default=0)


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, with the front matter that the hub reads.

    It is made without a network: the hub is not asked to validate it.
    """
    from huggingface_hub import ModelCard

    content = f"---\n{_metadata(facts).to_yaml()}\n---\n\n{card_text(facts)}"
    return str(ModelCard(content))


def card_text(facts: CardFacts) -> str:
    """The card as Markdown, without front matter."""
    if not facts.splits or facts.splits[0].name != "forget":
        raise UnlearnError("a model card needs the forget set: give its facts as the first split.")
    spec, target = facts.spec, facts.before.get("approximate/perplexity")
    short = set(facts.short.get("forget", ()))
    return (
        _templates()
        .get_template("card.md")
        .render(
            facts=facts,
            spec=spec,
            roles=SPLIT_ROLES,
            most_listed=MOST_LISTED,
            # The first lines of docstrings, which are Markdown.
            forget_term=Markdown(facts.forget_term),
            retain_term=Markdown(facts.retain_term),
            audit=Markdown(audit_section(facts.audit)),
            forgotten=[row for row in facts.splits[0].documents if row[0] not in short],
            minimum=MINIMUM_TOKENS,
            scores=[(*row[:3], Markdown(row[3])) for row in score_rows(facts.before, facts.after)],
            target=None if target is None else show(target),
            reached=show(facts.after.get("forget/perplexity")),
            chunks={split.name: split.chunks for split in facts.splits},
            drawn=spec["updates"] * spec["batch_size"] * (spec.get("requests") or 1),
            shared=_shared(facts.splits),
            asked=any(name.startswith("task/") for name in facts.after),
        )
    )


@functools.cache
def _templates() -> Environment:
    """The templates of Markdown; every value is escaped but a `Markdown`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("unlearnlib", "report/templates"),
        undefined=StrictUndefined,
        # Jinja's own autoescape is for HTML.
        finalize=lambda value: value if isinstance(value, Markdown) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "code": code_span,
        "counted": _counted,
        "fenced": fenced,
        "thousands": "{:,}".format,
    }
    return templates


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _metadata(facts: CardFacts) -> ModelCardData:
    """The front matter: what the hub files the model under, and the scores that it shows."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=facts.base_model,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["machine-unlearning"],
        model_name=f"{printable(facts.source)}, unlearned",
        eval_results=_results(facts.after) or None,
    )


def _results(after: Mapping[str, float]) -> list[EvalResult]:
    """The scores after unlearning as the hub's results, to six digits.

    Those that are not finite are left out: the hub's JSON has no such numbers.
    """
    from huggingface_hub import EvalResult

    from unlearnlib.tasks import task_rows

    named = [
        (metric, measured, kind, MEANINGS[metric][0])
        for metric, (measured, kind) in HUB_METRICS.items()
    ]
    named += [(name, task, kind, f"{task}, {kind}") for name, task, kind in task_rows(after)]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=printable(measured).replace(" ", "-"),
            dataset_name=printable(measured),
            metric_type=printable(kind),
            metric_name=printable(title),
            metric_value=float(f"{after[metric]:.6g}"),
        )
        for metric, measured, kind, title in named
        if math.isfinite(after.get(metric, math.nan))
    ]


def _shared(splits: Sequence[SplitFacts]) -> list[tuple[str, int]]:
    """(set, how many texts to be forgotten stand in it, too) of each set that has any."""
    forgotten = {digest for _, digest in splits[0].documents}
    both = [
        (split.name, len(forgotten & {digest for _, digest in split.documents}))
        for split in splits[1:]
    ]
    return [(name, number) for name, number in both if number]


def score_rows(
    before: Mapping[str, float], after: Mapping[str, float]
) -> list[tuple[str, str, str, str]]:
    """(name, before, after, meaning) of each metric of `MEANINGS` that either side has.

    One that is NaN on both sides is left out: it could not be measured on these texts. The results
    of tasks follow.
    """
    rows = [
        (label, show(before.get(metric)), show(after.get(metric)), meaning)
        for metric, (label, meaning) in MEANINGS.items()
        if not all(math.isnan(side.get(metric, math.nan)) for side in (before, after))
    ]
    return rows + task_score_rows(before, after)


def task_score_rows(
    before: Mapping[str, float], after: Mapping[str, float]
) -> list[tuple[str, str, str, str]]:
    """The same of the results of tasks, each with its standard error."""
    from unlearnlib.tasks import stderr_of, task_rows

    def shown(side: Mapping[str, float], name: str) -> str:
        error = stderr_of(side, name)
        return show(side.get(name)) + ("" if math.isnan(error) else f" ± {show(error)}")

    return [
        (
            f"{task}, {metric}",
            shown(before, name),
            shown(after, name),
            "A task of lm-evaluation-harness; ± is its standard error.",
        )
        for name, task, metric in task_rows({**before, **after})
    ]
