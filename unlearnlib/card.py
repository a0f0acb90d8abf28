"""The model card of an unlearned model: what was forgotten, how, and what the scores can say.

A pure function from facts to Markdown (`model_card`). It is published beside the weights, so it
holds no text of any document, and everything that came from outside, such as a file's name, is
escaped: it can neither format the page nor add a link, a tag or a line to it.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearnlib.corpus.documents import Document, hash_documents
from unlearnlib.errors import UnlearnError

MOST_LISTED = 50  # documents listed one by one; more are in record.json
PAPER = "arXiv:2402.15159"
NAMED = (
    "Whoever has one of these texts can tell by its SHA-256 that it was to be forgotten. Where "
    "that must not be known, take names and hashes out of here and out of `record.json` before "
    "both are published."
)

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


@dataclass(frozen=True)
class SplitFacts:
    """What the card says of a split: counts and SHA-256 (hex), never a text.

    `documents` has the name and the SHA-256 of the UTF-8 text of each document.
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
        tuple((d.id, hashlib.sha256(d.text.encode("utf-8")).hexdigest()) for d in documents),
    )


@dataclass(frozen=True)
class CardFacts:
    """All that the card tells.

    source      the base model as the user named it (a hub id or a folder's name)
    base_model  its hub id, or None if it came from this machine
    model_hash  SHA-256 of the base model's weights as they were loaded
    title       the method's name in words; `forget_term`, `retain_term` its terms in words
    spec        the settings, as in the record
    splits      the splits there were, "forget" first
    before, after   metrics of the two models on the same chunks
    command     the command that repeats it
    versions    package -> version
    device      "cpu", or the accelerator's name
    diverged_at the update whose loss was not finite, or None
    measured    set -> how many of its chunks were scored (of a large retain set not all are)
    adapter     whether LoRA's adapter alone stands beside the model, in `adapter/`
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


# --- escaping ------------------------------------------------------------------------------------


def escape(text: object) -> str:
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
    return escaped.replace("  ", " \u00a0")  # or Markdown would make them one


def printable(text: str) -> str:
    """`text` with every character that does not print spelt as a Python escape."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shell_join(words: Sequence[str]) -> str:
    """`shlex.join` in one line: a word with characters that do not print becomes $'...'."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + printable(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def fenced(code: str, language: str = "") -> str:
    """A code block that `code` cannot close: its fence is longer than any run of backticks."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(code)}\n{fence}"


# --- the card ------------------------------------------------------------------------------------


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, with the front matter that the hub reads."""
    if not facts.splits or facts.splits[0].name != "forget":
        raise UnlearnError("a model card needs the forget set: give its facts as the first split.")
    return (
        "\n\n".join(
            (
                _front_matter(facts),
                f"# {escape(facts.source)}, unlearned",
                f"{_opening(facts)}",
                "## What was forgotten",
                _forgotten(facts),
                "## How",
                _how(facts),
                "## Scores before and after",
                _scores(facts),
                "## What the scores cannot say",
                _limits(facts),
                "## Repeat it",
                _repeat(facts),
            )
        )
        + "\n"
    )


def _front_matter(facts: CardFacts) -> str:
    # A JSON string is a YAML string too, and escapes whatever it holds.
    lines = ["library_name: transformers", "tags: [machine-unlearning]"]
    if facts.base_model is not None:
        lines.append(f"base_model: {json.dumps(facts.base_model)}")
    return "\n".join(["---", *lines, "---"])


def _opening(facts: CardFacts) -> str:
    count = len(facts.splits[0].documents)
    text = (
        f"This is {escape(facts.source)} after machine unlearning of {_count(count, 'document')} "
        f"by the method “{escape(facts.title)}” ({PAPER}). The base model's licence and its other "
        "limits apply unchanged."
    )
    if facts.diverged_at is not None:
        text += (
            f"\n\n**The run diverged:** the loss of update {facts.diverged_at} was not finite. The "
            "weights are those of the update before it, and the scores are theirs."
        )
    return text


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells must be escaped already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _forgotten(facts: CardFacts) -> str:
    rows = [
        [
            escape(split.name.replace("_", " ")),
            SPLIT_ROLES.get(split.name, ""),
            f"{len(split.documents):,}",
            f"{split.chunks:,}",
            f"`{split.sha256}`",
        ]
        for split in facts.splits
    ]
    table = _table(["Set", "Role", "Documents", "Chunks", "SHA-256 of names and texts"], rows)
    forgotten = facts.splits[0].documents
    if len(forgotten) > MOST_LISTED:
        return (
            f"{table}\n\nThe names of the {len(forgotten):,} documents to be forgotten, with the "
            f"SHA-256 of each text, are in `record.json`. {NAMED}"
        )
    listed = _table(
        ["Forgotten document", "SHA-256 of its text"],
        [[escape(name), f"`{digest}`"] for name, digest in forgotten],
    )
    return f"{table}\n\n{listed}\n\n{NAMED}"


def _how(facts: CardFacts) -> str:
    spec = facts.spec
    lines = [
        f"- Method: {escape(facts.title)} (`{spec['method']}`)",
        f"- Forget term: {facts.forget_term}",
        f"- Retain term: {facts.retain_term}",
        *(
            f"- {label}: {value}"
            for label, value in (
                ("Updates", spec["updates"]),
                ("Forget chunks per update", spec["batch_size"]),
                ("Peak learning rate", f"{spec['learning_rate']:g} ({spec['schedule']})"),
                ("Warm-up (share of updates)", f"{spec['warmup']:g}"),
                ("Weight of the retain term", f"{spec['retain_weight']:g}"),
                ("Weight decay", f"{spec['weight_decay']:g}"),
                ("Gradient norm clipped to", f"{spec['max_grad_norm']:g}"),
                ("Label positions", spec["label_alignment"]),
                ("Tokens per chunk", spec["length"]),
                ("Precision", spec["precision"]),
                ("Trained", _adapters(spec, facts.adapter)),
                ("Seed", spec["seed"]),
                ("Requests, one after another", spec.get("requests")),
                ("Optimizer", spec.get("optimizer")),
            )
            if value is not None
            and not (label.startswith("Gradient norm") and not spec["max_grad_norm"])
            and not (label.startswith("Weight of") and facts.retain_term == "none")
        ),
        f"- Base model: {escape(facts.source)}, SHA-256 of its weights `{facts.model_hash}`",
    ]
    return "\n".join(lines)


def _adapters(spec: Mapping[str, Any], beside: bool) -> str | None:
    """What was trained, where it was not everything, and whether it is `beside` the model too."""
    if not spec.get("lora_rank"):
        return None
    rank, alpha = spec["lora_rank"], spec.get("lora_alpha") or 2.0 * spec["lora_rank"]
    trained = (
        f"LoRA adapters of rank {rank} and alpha {alpha:g} beside the linear layers, and nothing "
        "else; they are added to the weights here"
    )
    if not beside:
        return trained
    return (
        f"{trained}, and are alone in `adapter/`, to be loaded onto the base model with peft. **Do "
        "not publish `adapter/` with the model:** whoever has both can subtract it, which undoes "
        "the unlearning"
    )


def show(value: float | None) -> str:
    """A number as it is printed: four significant digits; a dash for one that is not there."""
    if value is None or math.isnan(value):
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}"


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


def _scores(facts: CardFacts) -> str:
    table = _table(
        ["Score", "Before", "After", "What it means"],
        [
            [escape(label), a, b, meaning]
            for label, a, b, meaning in score_rows(facts.before, facts.after)
        ],
    )
    target = facts.before.get("approximate/perplexity")
    if target is None:
        return (
            f"{table}\n\nNo approximate set was given, so there is no target for the forget set "
            "and no membership inference: a higher perplexity alone does not say when to stop."
        )
    reached = facts.after.get("forget/perplexity", math.nan)
    return (
        f"{table}\n\n**Target.** The paper's estimate of what retraining without the forgotten "
        "texts would score on them is what the base model scores on texts of the same kind that "
        f"it never saw: a perplexity of {show(target)}. The unlearned model's on the forget set "
        f"is {show(reached)}. Below the target something may be left; far above it the model "
        "avoids these texts more than one that never saw them would, which is itself a trace."
    )


def _limits(facts: CardFacts) -> str:
    chunks = {split.name: split.chunks for split in facts.splits}
    lines = [
        "- They are evidence and no proof. A score near the target does not show that the "
        "information has left the weights: paraphrased questions, further training, quantisation "
        "or other attacks may bring it back.",
        "- Whether the base model had seen the forgotten texts at all is not known; compare the "
        "scores before.",
    ]
    lines += _shared(facts.splits)
    spec = facts.spec
    drawn = spec["updates"] * spec["batch_size"] * (spec.get("requests") or 1)
    if drawn < chunks["forget"]:
        lines.append(
            f"- The updates drew {drawn:,} of the {_count(chunks['forget'], 'chunk')} to be "
            "forgotten; the scores are of all of them."
        )
    scored = facts.measured.get("retain", 0)
    if 0 < scored < chunks.get("retain", 0):
        lines.append(
            f"- The retain set was scored on its first {_count(scored, 'chunk')} of "
            f"{chunks['retain']:,}."
        )
    if "approximate" in chunks:
        lines.append(
            "- The target is an estimate, and only as good as the approximate set: those texts "
            "must be of the same kind and must not have been in the training data. Nothing here "
            "can check either."
        )
        lines.append(
            f"- Membership inference compares {_count(chunks['forget'], 'chunk')} with "
            f"{_count(chunks['approximate'], 'chunk')}; with few of them its AUC is uncertain by "
            "chance alone."
        )
    if "general_evaluation" not in chunks:
        lines.append("- No general texts were measured, so harm to other abilities is not known.")
    asked = any(name.startswith("task/") for name in facts.after)
    lines.append(
        "- Abilities that no task above asks for were not measured."
        if asked
        else "- Abilities other than predicting texts such as these were not measured."
    )
    return "\n".join(lines)


def _shared(splits: Sequence[SplitFacts]) -> list[str]:
    """A line for each set in which documents to be forgotten stand, too."""
    forgotten = {digest for _, digest in splits[0].documents}
    lines = []
    for split in splits[1:]:
        both = len(forgotten & {digest for _, digest in split.documents})
        if both:
            lines.append(
                f"- {_count(both, 'text')} to be forgotten "
                f"{'stands' if both == 1 else 'stand'} in the set “{split.name.replace('_', ' ')}” "
                f"({SPLIT_ROLES.get(split.name, '')}) as well: "
                "what is said of that set is not true of them."
            )
    return lines


def _repeat(facts: CardFacts) -> str:
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in facts.versions.items())
    return (
        "In a folder that holds the files (only their names are given here, not where they "
        f"were):\n\n{fenced(facts.command, 'sh')}\n\n"
        f"Run on {escape(facts.device)} with {versions}. Every number, the settings and the loss "
        "after every update are in `record.json`."
    )


def name_only(path: str | Path) -> str:
    """The last part of a path: cards are published, and where files lay is nobody's business."""
    return Path(path).name or str(path)
