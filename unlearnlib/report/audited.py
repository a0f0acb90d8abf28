"""What an audit found, in words and rows: for its page, the model card and the terminal.

`audit_section` is the card's section, and says so where there was no audit. No text of a document
and no name from outside is in any of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from unlearnlib.audits.findings import AUDITS, CAUGHT, MODELS, caught, headline, models_of
from unlearnlib.store.record import Record

HEADING = "## Is it gone, or hidden?"
PART = 0.25  # of what vanilla had: more is not what one calls gone
ASKED = {
    "relearning": "What comes back when the model is trained a little on related texts",
    "quantisation": "What comes back when the weights are rounded to 8 or 4 bits",
    "inside": "What layers before the last one still say",
    "context": "What it says in another place: from the middle of a document on, behind another "
    "text, or asked in other words",
    "extraction": "What the model says word by word when it is given a beginning",
}
MODEL_TITLES = {
    "unlearned": "This model",
    "vanilla": "Before unlearning",
    "oracle": "Retrained model",
    "impostor": "Impostor",
}


@dataclass(frozen=True)
class Line:
    """One audit: how much it found of what the model before had; NaN where it cannot tell.

    value     in the model that is audited: 0 as if it had never read the documents, 1 as before
    low, high of its 95 % interval; NaN where there is none
    impostor  the same as `value` in the impostor
    back      relearning's share of the way back from the model's own loss, and the retrained
              model's under the same attack; NaN of other audits
    """

    audit: str
    value: float
    low: float
    high: float
    impostor: float
    back: float = math.nan
    back_oracle: float = math.nan

    @property
    def catches(self) -> bool:
        """Whether it tells an impostor from a model that has forgotten."""
        return self.impostor >= CAUGHT

    @property
    def finds(self) -> bool:
        """Whether something is there: more than a little, and not by chance."""
        return self.value >= PART and not self.low <= 0

    @property
    def interval(self) -> str:
        """The 95 % interval as it is printed."""
        return between(self.low, self.high)

    @property
    def impostor_in_words(self) -> str:
        """What it found in the impostor, and whether that catches it."""
        if math.isnan(self.impostor):
            return "not known"
        return f"{percent(self.impostor)}, {'caught' if self.catches else 'passes'}"


def lines(record: Record) -> list[Line]:
    """The audits that were made, in the order of `AUDITS`."""
    found = record.metrics
    return [
        Line(
            name,
            found[headline(name)],
            found.get(f"{headline(name)}/low", math.nan),
            found.get(f"{headline(name)}/high", math.nan),
            found.get(f"{headline(name)}/impostor", math.nan),
            found.get(name, math.nan) if name == "relearning" else math.nan,
            found.get(f"{name}/oracle", math.nan) if name == "relearning" else math.nan,
        )
        for name in AUDITS
        if headline(name) in found
    ]


def models(record: Record) -> list[str]:
    """The models that were attacked, in the order of `MODELS`."""
    there = {model for audit in AUDITS for model in models_of(record.trajectory, audit)}
    return [name for name in MODELS if name in there]


def percent(value: float) -> str:
    """A share as it is printed."""
    return "–" if math.isnan(value) else f"{100 * value:.0f} %".replace("-", "−")


def between(low: float, high: float) -> str:
    """An interval of shares as it is printed."""
    return "–" if math.isnan(low) else f"{percent(low)} to {percent(high)}"


def found_something(record: Record) -> bool:
    """Whether the answer is not good: something was found, or nothing that counts was asked."""
    return _worst(record) is not None or not _cleared(record)


def _worst(record: Record) -> Line | None:
    """The audit that found most, if that is more than `PART`.

    Also one that the impostor passes: what it finds is there, and only where it finds nothing does
    it say little.
    """
    known = [line for line in lines(record) if line.finds]
    return max(known, key=lambda line: line.value, default=None)


def _cleared(record: Record) -> list[Line]:
    """The audits that catch an impostor and found nothing in this model."""
    return [line for line in lines(record) if line.catches and not line.finds and line.value < PART]


def verdict(record: Record) -> str:
    """One sentence: what was found at the worst, or by which audits nothing was."""
    worst, cleared = _worst(record), _cleared(record)
    if worst is not None:
        how = "Hidden" if worst.value >= CAUGHT else "Hidden in part"
        return (
            f"{how}: the audit “{worst.audit}” finds {percent(worst.value)} of what the model "
            f"before had of the documents beyond {_measure(record)}."
        )
    if not cleared:
        return (
            "Not known: nothing was found, by audits that find nothing in an impostor either, "
            "which has forgotten nothing."
        )
    names = " and ".join(f"“{line.audit}”" for line in cleared)
    return (
        f"Nothing was found beyond {percent(PART)} of what the model before had of the documents "
        f"beyond {_measure(record)}, by {names}, which {'catch' if len(cleared) > 1 else 'catches'}"
        " an impostor."
    )


def _measure(record: Record) -> str:
    """What stands for a model that never read the documents."""
    return "a retrained model" if record.oracle_hash else "unread documents of the same kind"


def remarks(record: Record) -> list[str]:
    """What must be known to read the numbers, a sentence each."""
    said = []
    passed = [name for name, is_caught in caught(record.metrics).items() if not is_caught]
    if passed:
        names = ", ".join(passed)
        said.append(
            f"The impostor has forgotten nothing and passes these audits: {names}. Where they find "
            "nothing, that alone is no evidence."
        )
    for line in lines(record):
        if math.isnan(line.value):
            said.append(
                f"{line.audit.capitalize()} cannot tell: the model before and "
                f"{_measure(record)} are too near to each other under this attack."
            )
        if not math.isnan(line.back):
            beside = (
                ""
                if math.isnan(line.back_oracle)
                else f"; the retrained model, trained alike, {percent(line.back_oracle)}"
            )
            said.append(
                f"Trained on related texts, this model goes {percent(line.back)} of the way back "
                f"from its own loss on the other documents to that of the model before{beside}."
            )
    if not record.oracle_hash:
        said.append(
            "There was no retrained model to attack alike: its memory of the documents was taken "
            "to be that of unread documents of the same kind."
        )
    return said


def audit_section(record: Record | None) -> str:
    """The section of a model card on its audit, as Markdown, with its heading."""
    if record is None:
        return (
            f"{HEADING}\n\n**Not audited.** Nobody has tried to bring the forgotten texts back: "
            "the scores below say how the model answers, and not what its weights still hold. "
            "`unlearn audit` tries it.\n"
        )
    rows = "\n".join(
        f"| {line.audit} | {ASKED[line.audit]} | {percent(line.value)} | {line.impostor_in_words} |"
        for line in lines(record)
    )
    notes = "\n".join(f"- {said}" for said in remarks(record))
    return (
        f"{HEADING}\n\n**{verdict(record)}**\n\n"
        "0 % is as if the model had never read the documents, 100 % is as before unlearning.\n\n"
        f"| Audit | What it asks | This model | 95 % interval | Impostor |\n"
        f"| --- | --- | --- | --- | --- |\n{rows}\n\n"
        f"{notes}\n"
    )


def with_section(card: str, record: Record) -> str | None:
    """A model card with the audit's section in place of the one it has; None where it has none."""
    before, heading, rest = card.partition(f"{HEADING}\n")
    if not heading:
        return None
    _, following, after = rest.partition("\n## ")
    return before + audit_section(record) + following + after


def result_rows(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """(name, value) of all numbers of the audited model, for the terminal."""
    ends = tuple(f"/{name}" for name in MODELS)
    return [(name, value) for name, value in metrics.items() if not name.endswith(ends)]
