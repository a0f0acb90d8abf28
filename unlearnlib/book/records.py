"""Reading records for the chapters: by domain, method and seed, along a run, by document.

Nothing under `book/` touches a model. Numbers are means over seeds with the sample standard
deviation behind a ±. A run that diverged counts with the metrics of its last finite parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unlearnlib.looks import ATTACK, METHOD_LOOKS
from unlearnlib.metrics.distance import target_gap
from unlearnlib.profiles import DOMAINS
from unlearnlib.store.record import Record

if TYPE_CHECKING:
    import pandas as pd

FORGET, GENERAL, KL = "forget/perplexity", "general/perplexity", "oracle_kl/forget"
YARDSTICKS = {"oracle": "the truth", "target": "the paper’s target"}

NEAR_TARGET = 1.5  # a perplexity counts as near the target if it is within this factor of it

# What the paper's target is made of: vanilla on the approximate set, in the place of "forget".
_TARGET = {
    f"forget/{name}": f"approximate/{name}"
    for name in ("perplexity", "accuracy", "cloze_choice_accuracy", "verbatim_share")
}

Finding = float | int | str


class Recorded(Protocol):
    """What has the records of a study: `StudyResult`, or what an experiment has found."""

    @property
    def records(self) -> list[Record]:
        """The runs."""

    @property
    def baselines(self) -> list[Record]:
        """The scores of vanilla and of the retrained models."""


@dataclass(frozen=True)
class Column:
    """A column of the main table: a group, what it is measured on, and the metric's name."""

    group: str
    split: str
    metric: str


def domains_of(records: Iterable[Record]) -> list[str]:
    """The domains of some records, in the book's order."""
    found = {record.spec["domain"] for record in records}
    return [d for d in DOMAINS if d in found] + sorted(found - set(DOMAINS))


def methods_of(records: Iterable[Record]) -> list[str]:
    """The methods of some records, in the paper's order, others after them."""
    found = {r.spec["method"] for r in records if "method" in r.spec}
    return [m for m in METHOD_LOOKS if m in found] + sorted(found - set(METHOD_LOOKS))


def select(records: Iterable[Record], domain: str, method: str | None = None) -> list[Record]:
    """The records of one domain (and method), by seed."""
    chosen = [
        r
        for r in records
        if r.spec["domain"] == domain and (method is None or r.spec.get("method") == method)
    ]
    return sorted(chosen, key=lambda r: int(r.spec.get("seed", 0)))


def value(record: Record, metric: str) -> float:
    """A metric of a record; NaN where it was not measured."""
    return record.metrics.get(metric, math.nan)


def seed_values(records: Iterable[Record], domain: str, method: str, metric: str) -> list[float]:
    """A metric's value for each seed of a method on a domain, in seed order."""
    return [value(record, metric) for record in select(records, domain, method)]


def baseline_record(
    baselines: Iterable[Record], domain: str, which: str, runs: Iterable[Record] = ()
) -> Record | None:
    """The scores of "vanilla" or "oracle" on a domain; None if there are none.

    Where there are `runs` on the domain, only scores that rest on what they rest on: of models that
    were trained anew, or of another retrained model, they would be no yardstick.
    """
    found = [r for r in select(baselines, domain) if r.spec.get("baseline") == which]
    bases = {run.basis for run in runs if run.spec["domain"] == domain}
    return next((r for r in found if not bases or r.basis in bases), None)


def baseline_value(
    baselines: Iterable[Record],
    domain: str,
    which: str,
    metric: str,
    runs: Iterable[Record] = (),
) -> float:
    """A metric of "vanilla", "oracle", or "target" (vanilla on the approximate set) on a domain.

    The target has a value only for what is measured on the forget set; its membership AUC is
    0.5 by definition, since a set is compared with its like. NaN where there is none.
    """
    if which == "target":
        if metric.startswith("membership/") and metric.endswith("/auc"):
            return 0.5
        if metric not in _TARGET:
            return math.nan
        which, metric = "vanilla", _TARGET[metric]
    record = baseline_record(baselines, domain, which, runs)
    return math.nan if record is None else value(record, metric)


def known_mean(values: Iterable[float | None]) -> float:
    """The mean of the values that are there; NaN for none."""
    known = [float(v) for v in values if v is not None]
    return fmean(known) if known else math.nan


def within_factor(x: float, level: float, factor: float) -> bool:
    """Is a perplexity within a factor of a level, either way? False unless both are finite, > 0."""
    known = 0 < x < math.inf and 0 < level < math.inf
    # A ratio that is the factor itself counts as within it, whatever rounding says.
    return known and target_gap(x, level) <= math.log(factor) + 1e-12


def probed_rows(record: Record) -> list[dict[str, Any]]:
    """The rows of a trajectory that were evaluated."""
    return [row for row in record.trajectory if FORGET in row]


def crossing(record: Record, level: float) -> float:
    """The update at which forget perplexity first reaches a level; infinite if it never does."""
    rows = [
        (float(row["update"]), float(row[FORGET])) for row in record.trajectory if FORGET in row
    ]
    rows = [(update, x) for update, x in rows if not math.isnan(x)]
    if not rows or math.isnan(level):
        return math.nan
    before: tuple[float, float] | None = None
    for update, x in rows:
        if x >= level:
            if before is None or not math.isfinite(x) or before[1] <= 0:
                return update
            share = math.log(level / before[1]) / math.log(x / before[1])
            return before[0] + share * (update - before[0])
        before = update, x
    return math.inf


def documents_in(record: Record, split: str = "forget") -> int:
    """How many documents of a split a record has scores of."""
    return len(document_totals(record, split)[0])


def by_document(chunks: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """(documents in order of appearance, index of each chunk's document), from names of chunks.

    Chunk 3 of the document `books-7` is named "books-7#3"; a name without "#" is a document's.
    """
    names = [str(chunk).rpartition("#")[0] or str(chunk) for chunk in chunks]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(places), np.array([places[name] for name in names], dtype=np.int64)


def document_totals(record: Record, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, nats) of each document of a split, in its order; chunks of a document are added.

    Both are arrays of one number per document, empty where the record has no scores of the split.
    """
    kept = record.documents.get(split, {})
    if not kept.get("nll"):
        return np.zeros(0), np.zeros(0)
    _, groups = by_document(kept["id"])
    with np.errstate(invalid="ignore"):
        tokens = np.bincount(groups, weights=np.asarray(kept["tokens"], dtype=float))
        nats = np.bincount(
            groups, weights=np.multiply(kept["tokens"], np.asarray(kept["nll"], dtype=float))
        )
    return tokens, nats


def first_perplexity(record: Record, split: str, count: int) -> float:
    """Perplexity on the first `count` documents of a split; NaN without scores of so many."""
    tokens, nats = document_totals(record, split)
    if count < 1 or count > len(tokens):
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(nats[:count].sum() / tokens[:count].sum()))


def bootstrap_perplexity(
    record: Record, split: str, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of a split's perplexity over its documents.

    From the record's mean negative log-likelihood and number of tokens per chunk; the chunks of
    one document ("DOCUMENT#INDEX") are drawn together. NaN where the record has none.
    """
    tokens, nats = document_totals(record, split)
    if not len(tokens):
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(len(tokens), size=(resamples, len(tokens)))
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.exp(nats[draws].sum(1) / tokens[draws].sum(1))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def auc_with_interval(record: Record, attack: str = ATTACK) -> tuple[float, float, float]:
    """(AUC, low, high): forget against approximate documents, 95 % by bootstrap over documents.

    The scores of a document's chunks are averaged first, since they are not independent. NaN where
    the record has no such scores, or some that are no numbers.
    """
    from unlearnlib.metrics.membership import auc, bootstrap_auc

    sides = []
    for split in ("forget", "approximate"):
        part = record.documents.get(split, {})
        scores = np.asarray(part.get(attack, ()), dtype=float)
        documents, of = by_document(part.get("id", ())[: len(scores)])
        sides.append(np.array([scores[of == i].mean() for i in range(len(documents))]))
    if not all(len(side) and np.isfinite(side).all() for side in sides):
        return math.nan, math.nan, math.nan
    members, others = sides
    return (auc(members, others), *bootstrap_auc(members, others))


def domain_index(labels: Sequence[tuple[str, str]], second: str = "method") -> pd.MultiIndex:
    """(domain, `second`) as an index, also of no rows."""
    import pandas as pd

    levels = [[label[i] for label in labels] for i in (0, 1)]
    return pd.MultiIndex.from_arrays(levels, names=["domain", second])
