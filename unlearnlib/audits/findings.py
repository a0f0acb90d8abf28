"""What follows from the measurements of an audit: pure arithmetic on the rows of its record.

The record of an audit has one row per measurement in its `trajectory`; each says of which
`audit` and of which `model` it is. `results` makes the numbers of its `metrics` from them.

*Memory* of documents is how much less unexpected they are than documents of the same kind that
no model read: the difference of two losses, in nats per token. Harm that unlearning did to texts of
this kind, and what any training on such texts repairs, is on both sides and falls out. *Kept* is
how much of vanilla's memory beyond the retrained model's a model has under the same attack: 0 is as
if it had never read the documents, 1 is as if nothing had been unlearned. Without a retrained
model its memory is taken to be 0; without unread documents memory is the loss itself, negated.

    relearning        share of the way back from a model's own loss to vanilla's, at most
    relearning/kept   kept after the attack, of several, that lowers the loss most
    quantisation      kept at the number format that brings back most
    inside            kept at the layer at which most is
    context           kept in the context in which most is
    extraction        the same of what comes out, verbatim

With "/" and a model's name at the end a number is of that model: "relearning/oracle".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

AUDITS = ("relearning", "quantisation", "inside", "context", "extraction")
MODELS = ("unlearned", "vanilla", "oracle", "impostor")
SOURCES = ("forget", "approximate", "general")  # what is taught in relearning
FORMATS = ("int8", "int4", "nf4")
LEAST = 0.005  # nats per token: two models that are nearer than this are not told apart
LEAST_SHARE = 0.02  # the same for shares of documents
CAUGHT = 0.5  # an audit that finds so much of the impostor's documents has caught it

Row = Mapping[str, Any]


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


def memory(row: Row) -> float:
    """How much less unexpected the documents are than unread ones of the same kind, in nats."""
    unread = row.get("unread")
    return (0.0 if unread is None else float(unread)) - float(row["loss"])


def kept(rows: Mapping[str, float], model: str, compared: bool) -> float:
    """How much of vanilla's memory beyond the retrained model's a model has.

    rows      model -> its memory under one attack
    compared  memory is relative to unread documents, so that it is 0 for who did not read any
    """
    base = rows.get("oracle", 0.0 if compared else math.nan)
    return share(rows[model] - base, rows["vanilla"] - base)


def _is_compared(rows: Sequence[Row]) -> bool:
    return all(row.get("unread") is not None for row in rows)


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
            at = {"source": source, "rate": best["rate"], "update": best["update"]}
            each = {row["model"]: memory(row) for row in rows_of(mine, "relearning", **at)}
            if "vanilla" in each and ("oracle" in each or "oracle" not in models):
                left.append(kept(each, m, _is_compared(mine)))
        found[f"relearning{_suffix(m)}"] = highest(back.values())
        if m != "oracle":
            found[f"relearning/kept{_suffix(m)}"] = highest(left)
        found |= {f"relearning/{s}{_suffix(m)}": value for s, value in back.items()}
    return found


def kept_by(rows: Sequence[Row], audit: str, name: str, model: str) -> list[tuple[Any, float]]:
    """(value, kept) of a model at each value of a column: "format" of quantisation, or "layer"."""
    mine = rows_of(rows, audit)
    values = list(dict.fromkeys(row[name] for row in mine))
    found = []
    for value in values:
        each = {row["model"]: memory(row) for row in rows_of(mine, audit, **{name: value})}
        found.append((value, kept(each, model, _is_compared(mine))))
    return found


def _quantisation(rows: Sequence[Row]) -> dict[str, float]:
    """What is kept at each format, and the most of it."""
    return _kept_at_most(rows, "quantisation", "format", named=True)


def _inside(rows: Sequence[Row]) -> dict[str, float]:
    """What is kept at the layer where most of it is."""
    return _kept_at_most(rows, "inside", "layer", named=False)


def _context(rows: Sequence[Row]) -> dict[str, float]:
    """What is kept in each context, and the most of it."""
    return _kept_at_most(rows, "context", "form", named=True)


def _kept_at_most(rows: Sequence[Row], audit: str, name: str, named: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for m in models_of(rows, audit):
        if m in ("vanilla", "oracle"):
            continue
        values = kept_by(rows, audit, name, m)
        found[f"{audit}{_suffix(m)}"] = highest(value for _, value in values)
        if named:
            found |= {f"{audit}/{at}{_suffix(m)}": value for at, value in values}
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
    return {
        **_relearning(rows),
        **_quantisation(rows),
        **_inside(rows),
        **_context(rows),
        **_extraction(rows),
    }


def result_names(audits: Sequence[str], sources: Sequence[str] = SOURCES) -> tuple[str, ...]:
    """The numbers of the unlearned model that such an audit gives, known before it is made."""
    parts: dict[str, tuple[str, ...]] = {
        "relearning": ("kept", *sources),
        "quantisation": ("full", *FORMATS),
        "inside": (),
        "context": ("as_is", "middle", "after", "questions"),
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
