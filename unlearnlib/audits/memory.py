"""Memory of documents, how much of it a model has kept, and how sure that is.

*Memory* is how much less unexpected the documents are than documents of the same kind that no
model read: the difference of two losses, in nats per token, each a mean over documents. Harm that
unlearning did to texts of this kind, and what any training on such texts repairs, is on both sides
and falls out. *Kept* is how much of vanilla's memory beyond the retrained model's a model has
under the same attack: 0 is as if it had never read the documents, 1 is as if nothing had been
unlearned. Without a retrained model its memory is taken to be 0; without unread documents
memory is the loss itself, negated, and then it takes a retrained model to compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]

LEAST = 0.005  # nats per token: two models that are nearer than this are not told apart
SURE = 3.0  # standard errors by which vanilla and the retrained model must be apart
DRAWS = 1000  # of documents, for an interval


@dataclass(frozen=True)
class Kept:
    """How much is kept, and the interval that holds 95 % of draws of documents.

    All are NaN where an attack does not tell vanilla from a model that never read the documents.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


def memory(row: Row) -> float:
    """Memory by a row's mean losses."""
    unread = row.get("unread")
    return (0.0 if unread is None else float(unread)) - float(row["loss"])


def kept(rows: Mapping[str, Row], model: str) -> Kept:
    """What a model has kept, from the rows of all models under one attack, by their names.

    Documents are drawn anew, the same of all models, and unread ones apart from them.
    """
    if model not in rows or "vanilla" not in rows:
        return Kept()
    losses, unreads = _parts(rows, model)
    if "oracle" not in rows and not unreads.shape[1]:
        return Kept()
    whole, part = _differences(losses, unreads)
    if not whole >= max(LEAST, SURE * _error(losses, unreads)):
        return Kept()
    draw = np.random.default_rng(0)
    drawn = [_drawn(values, draw) for values in (losses, unreads)]
    many_whole, many_part = _differences(*drawn)
    ratio = many_part / np.where(many_whole > 0, many_whole, np.nan)
    low, high = np.nanpercentile(ratio, [2.5, 97.5])
    return Kept(float(part / whole), float(low), float(high))


def _parts(rows: Mapping[str, Row], model: str) -> tuple[np.ndarray, np.ndarray]:
    """(3, documents) losses of the model, of vanilla and of the oracle, and of unread documents.

    Without an oracle its losses of the documents are taken to be those of the unread ones, which
    are what `_differences` then makes of zeros.
    """
    found = []
    for column in ("losses", "unreads"):
        each = [np.array(rows[m][column], dtype=float) for m in (model, "vanilla")]
        other = rows["oracle"][column] if "oracle" in rows else np.zeros_like(each[0])
        found.append(np.stack([*each, np.array(other, dtype=float)]))
    return found[0], found[1]


def _differences(losses: np.ndarray, unreads: np.ndarray) -> tuple[Any, Any]:
    """Memory of vanilla and of the model, each beyond the oracle's; the last axis is averaged."""
    memories = -losses.mean(-1)
    if unreads.shape[-1]:
        memories = memories + unreads.mean(-1)
    return memories[1] - memories[2], memories[0] - memories[2]


def _error(losses: np.ndarray, unreads: np.ndarray) -> float:
    """The standard error of vanilla's memory beyond the oracle's."""
    square = 0.0
    for values in (losses, unreads):
        if values.shape[1] > 1:
            apart = values[1] - values[2]
            square += float(apart.var(ddof=1)) / len(apart)
    return math.sqrt(square)


def _drawn(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(3, DRAWS, documents) of (3, documents): so many draws with replacement."""
    count = values.shape[1]
    return values[:, draw.integers(0, max(1, count), (DRAWS, count))]


def surest(found: Sequence[Kept]) -> Kept:
    """Of several, the one that is most by its lower end; all NaN without any."""
    known = [one for one in found if not math.isnan(one.value)]
    return max(known, key=lambda one: one.low, default=Kept())
