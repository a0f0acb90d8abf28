"""What follows from the measurements of an audit: pure arithmetic on the rows of its record.

The record of an audit has one row per measurement in its `trajectory`; each says of which
`audit` and of which `model` it is. `results` makes the numbers of its `metrics` from them.

What is *kept*, and *memory*, `memory.py` explains: 0 is as if a model had never read the
documents, 1 is as if nothing had been unlearned.

    relearning        share of the way back from a model's own loss to vanilla's, at most
    relearning/kept   kept after the attack, of several, that lowers the loss most
    quantisation      kept at the number format at which it is surest that something is
    inside            the same of layers
    context           the same of contexts
    extraction        of what vanilla says word by word beyond the retrained model

"NAME/low" and "NAME/high" are the ends of an interval of 95 %, by draws of documents.
With "/" and a model's name at the end a number is of that model: "relearning/oracle".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unlearnlib.audits.memory import LEAST, Kept, Row, kept, surest

AUDITS = ("relearning", "quantisation", "inside", "context", "extraction")
MODELS = ("unlearned", "vanilla", "oracle", "impostor")
SOURCES = ("forget", "approximate", "general")  # what is taught in relearning
FORMATS = ("int8", "int4", "nf4")
LEAST_SHARE = 0.02  # of what vanilla says word by word beyond the retrained model
CAUGHT = 0.5  # an audit that finds so much of the impostor's documents has caught it


def rows_of(rows: Iterable[Row], audit: str, **wanted: Any) -> list[Row]:
    """The rows of an audit that have these values."""
    return [
        row
        for row in rows
        if row["audit"] == audit and all(row.get(name) == v for name, v in wanted.items())
    ]


def models_of(rows: Iterable[Row], audit: str) -> tuple[str, ...]:
    """The models that an audit measured, in the order of `MODELS`."""
    there = {row["model"] for row in rows_of(rows, audit)}
    return tuple(name for name in MODELS if name in there)


def share(part: float, whole: float, least: float = LEAST) -> float:
    """part / whole; NaN where the whole is too small to be divided."""
    return part / whole if whole >= least else math.nan


def highest(values: Iterable[float]) -> float:
    """The largest of the numbers that are none NaN; NaN without any."""
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def curve(rows: Iterable[Row], model: str, source: str, rate: float) -> list[tuple[int, float]]:
    """(updates, loss) of one attack by relearning, from 0 updates on."""
    found = rows_of(rows, "relearning", model=model, source=source, rate=rate)
    return sorted((int(row["update"]), float(row["loss"])) for row in found)


def rates_of(rows: Iterable[Row]) -> list[float]:
    """The learning rates that relearning tried."""
    return sorted({float(row["rate"]) for row in rows_of(rows, "relearning")})


def sources_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """What relearning taught, in the order of `SOURCES`."""
    there = {row["source"] for row in rows_of(rows, "relearning")}
    return tuple(name for name in SOURCES if name in there)


def best_attack(rows: Sequence[Row], model: str, source: str) -> Row:
    """The row of the learning rate and the update at which most came back: the lowest loss."""
    attacks = rows_of(rows, "relearning", model=model, source=source)
    return min(attacks, key=lambda row: (row["loss"], row["update"], row["rate"]))


def _suffix(model: str) -> str:
    """What stands behind the name of a number of this model."""
    return "" if model == "unlearned" else f"/{model}"


def _relearning(rows: Sequence[Row]) -> dict[str, float]:
    """Share of the way back by what was taught, the largest of them, and what is kept then."""
    mine = rows_of(rows, "relearning")
    sources, models = sources_of(mine), models_of(mine, "relearning")
    if not sources:
        return {}
    before = {m: curve(mine, m, sources[0], rates_of(mine)[0])[0][1] for m in models}
    found: dict[str, float] = {}
    for m in models:
        if m == "vanilla":
            continue
        back, left = {}, []
        for source in sources:
            best = best_attack(mine, m, source)
            whole = before[m] - before["vanilla"]
            back[source] = share(before[m] - float(best["loss"]), whole)
            if m != "oracle":
                left.append(kept(alike(mine, best), m))
        found[f"relearning{_suffix(m)}"] = highest(back.values())
        found |= {f"relearning/{s}{_suffix(m)}": value for s, value in back.items()}
        if m != "oracle":
            found |= _with_interval("relearning/kept", m, surest(left))
    return found


def alike(rows: Sequence[Row], attack: Row) -> dict[str, Row]:
    """Model -> its row under the same attack by relearning.

    Empty where it broke the oracle or vanilla, so that there is nothing to compare with.
    """
    at = {name: attack[name] for name in ("source", "rate", "update")}
    found = {row["model"]: row for row in rows_of(rows, "relearning", **at)}
    needed = {"vanilla", "oracle"} & set(models_of(rows, "relearning"))
    return found if needed <= set(found) else {}


def slim(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows without the losses of single documents where no result is made of them.

    Of relearning only the attacks that came furthest have them; `results` are the same.
    """
    mine = rows_of(rows, "relearning")
    best = [best_attack(mine, m, s) for m in models_of(mine, "relearning") for s in
            sources_of(mine) if rows_of(mine, "relearning", model=m, source=s)]  # fmt: skip
    wanted = {(row["source"], row["rate"], row["update"]) for row in best}
    each = ("losses", "unreads")
    return [
        dict(row)
        if row["audit"] != "relearning" or (row["source"], row["rate"], row["update"]) in wanted
        else {name: value for name, value in row.items() if name not in each}
        for row in rows
    ]


def _with_interval(name: str, model: str, value: Kept) -> dict[str, float]:
    end = _suffix(model)
    return {
        f"{name}{end}": value.value,
        f"{name}/low{end}": value.low,
        f"{name}/high{end}": value.high,
    }


COLUMNS = {"quantisation": "format", "inside": "layer", "context": "form"}


def kept_by(rows: Sequence[Row], audit: str, model: str) -> list[tuple[Any, Kept]]:
    """(format, layer or form, what a model kept there) of one of `COLUMNS`."""
    mine, column = rows_of(rows, audit), COLUMNS[audit]
    found = []
    for value in dict.fromkeys(row[column] for row in mine):
        each = {row["model"]: row for row in rows_of(mine, audit, **{column: value})}
        found.append((value, kept(each, model)))
    return found


def _kept_at_most(rows: Sequence[Row], audit: str) -> dict[str, float]:
    """What is kept at each format, layer or form, and where it is surest that something is."""
    found: dict[str, float] = {}
    for m in models_of(rows, audit):
        if m in ("vanilla", "oracle"):
            continue
        values = kept_by(rows, audit, m)
        found |= _with_interval(audit, m, surest([one for _, one in values]))
        found |= {f"{audit}/{at}{_suffix(m)}": one.value for at, one in values}
    return found


def _extraction(rows: Sequence[Row]) -> dict[str, float]:
    """How much of what vanilla gives away beyond the retrained model a model gives away, too.

    Over all lengths of prefix together: by greedy decoding, and by sampling as often as was tried
    most; the larger of the two. Where there is no retrained model, vanilla on the approximate set
    stands for it. `extraction/greedy` and `extraction/leak` are the plain means, of which shares
    are made.
    """
    models = models_of(rows, "extraction")
    if not models:
        return {}

    def mean(model: str, split: str, measure: str) -> float:
        values = [
            float(row[measure])
            for row in rows_of(rows, "extraction", model=model, split=split, kind=measure)
        ]
        known = [v for v in values if not math.isnan(v)]
        return sum(known) / len(known) if known else math.nan

    most = max(int(row["tries"]) for row in rows_of(rows, "extraction", kind="leak"))
    rows = [row for row in rows if row.get("kind") != "leak" or row["tries"] == most]
    other = ("oracle", "forget") if "oracle" in models else ("vanilla", "approximate")
    found: dict[str, float] = {}
    for m in models:
        end = _suffix(m)
        shares = []
        for measure in ("greedy", "leak"):
            value, base = mean(m, "forget", measure), mean(*other, measure)
            found[f"extraction/{measure}{end}"] = value
            shares.append(
                share(value - base, mean("vanilla", "forget", measure) - base, LEAST_SHARE)
            )
        if m not in ("vanilla", "oracle"):
            found[f"extraction{end}"] = highest(shares)
    return found


def results(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers that follow from the rows, as the metrics of an audit's record."""
    found = _relearning(rows)
    for audit in COLUMNS:
        found |= _kept_at_most(rows, audit)
    return found | _extraction(rows)


def result_names(audits: Sequence[str], sources: Sequence[str] = SOURCES) -> tuple[str, ...]:
    """The numbers of the unlearned model that such an audit gives, known before it is made."""
    parts: dict[str, tuple[str, ...]] = {
        "relearning": ("kept", "kept/low", "kept/high", *sources),
        "quantisation": ("low", "high", "full", *FORMATS),
        "inside": ("low", "high"),
        "context": ("low", "high", "as_is", "middle", "after", "questions"),
        "extraction": ("greedy", "leak"),
    }
    return tuple(
        name for audit in audits for name in (audit, *(f"{audit}/{part}" for part in parts[audit]))
    )


def headline(audit: str) -> str:
    """The number of an audit that says how much is kept."""
    return "relearning/kept" if audit == "relearning" else audit


def caught(metrics: Mapping[str, float]) -> dict[str, bool]:
    """Audit -> whether it caught the impostor, of the audits that can tell."""
    found = {audit: metrics.get(f"{headline(audit)}/impostor", math.nan) for audit in AUDITS}
    return {audit: value >= CAUGHT for audit, value in found.items() if not math.isnan(value)}
