"""Two records, number by number: what differs, and whether it is within what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics import LATER
from unlearnlib.store.record import Record

# What rounding leaves between two kinds of processors: records of the lab that were made on an
# Intel Xeon and repeated on an AMD EPYC differ by at most 5e-6 of a metric, 2e-5 of a document's
# score. Ten times that is allowed. Numbers near 0, as a model's distance to itself, get a floor.
RELATIVE = 2e-4
ABSOLUTE = 1e-5
# Ranks and shares move in steps. Where two documents of 64 and 64 change places, an AUC moves by
# 1 / 4096, which was seen. Two such pairs are allowed.
RANKS = 5e-4
# Min-K%++ of one document divides by a variance that may be nearly 0: 3e-4 of it was seen.
NORMALISED = 1e-3
_RANKED = re.compile(
    r"(auc|tpr_at_\d+_fpr|(\w+_)?accuracy|\w+_share|cloze_exact|longest_verbatim_run)"
)
# These follow from the spec and the data by whole numbers or one formula: no rounding moves them.
_SETTLED = re.compile(
    r"(trajectory/\d+/(rate|update)|documents/\w+/tokens/\d+|extra/.*|(\w+/)?cloze_questions)"
)
PARTS = ("trajectory", "documents", "extra")  # of a record, beside its metrics
# What probes and the scores of chunks hold since records were published. One that has none of a
# name says nothing about it.
_LATER = re.compile(
    r"trajectory/\d+/(retain/perplexity|membership/(?:min_k_pp_20|loss)/auc)"
    r"|documents/\w+/(kl|verbatim)/\d+"
)
_NORMALISED = re.compile(r"documents/\w+/min_k_pp_\d+/\d+")


@dataclass(frozen=True)
class NumericalTolerance:
    """Two numbers a and b agree if |a - b| <= absolute + relative x |a|, a the published one.

    The defaults are for two kinds of x86 processors, in float32, with the pinned libraries: what
    the published records leave room for, and little more. A GPU, another precision or another
    version of torch may need more.

    Where the name of a number is given, too, its kind counts: for ranks and shares `absolute` is
    at least `ranks`, and what follows from spec and data alone (rates, counts of tokens) must be
    equal up to the last digits, whatever the tolerance. `logarithms` compares perplexities by
    their logarithms.
    """

    relative: float = RELATIVE
    absolute: float = ABSOLUTE
    ranks: float | None = None
    logarithms: bool = False

    def __post_init__(self) -> None:
        for name in ("relative", "absolute", "ranks"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise UnlearnError(
                    f"the {name} tolerance is {value}: give a finite number that is not negative."
                )

    def allowed(self, published: float, name: str = "") -> float:
        """How far a repetition of `published` may be from it."""
        if _SETTLED.fullmatch(name):
            return 1e-9 * abs(published)
        floor, share = self.absolute, self.relative
        if _RANKED.fullmatch(name.rpartition("/")[2]):
            floor = max(floor, self.ranks or 0.0)
        if self.ranks is not None and _NORMALISED.fullmatch(name):
            share = max(share, NORMALISED)
        if self._by_logarithm(name) and published > 0:
            return published * math.expm1(floor + share * abs(math.log(published)))
        return floor + share * abs(published)

    def _by_logarithm(self, name: str) -> bool:
        return self.logarithms and name.endswith("perplexity")

    def excess(self, published: float, repeated: float, name: str = "") -> float:
        """|a - b| in units of what is allowed: up to 1 the numbers agree; 0 for equal ones.

        Two NaN are equal, as are two infinities of one sign; any other pair with a number that
        is not finite differs by infinity.
        """
        if published == repeated or (math.isnan(published) and math.isnan(repeated)):
            return 0.0
        if not (math.isfinite(published) and math.isfinite(repeated)):
            return math.inf
        if self._by_logarithm(name) and published > 0 and repeated > 0:
            published, repeated, name = math.log(published), math.log(repeated), ""
        allowed = self.allowed(published, name)
        return abs(published - repeated) / allowed if allowed else math.inf


# Of two kinds of processors.
STRICT = NumericalTolerance(ranks=RANKS)
# A model that ascent has broken makes rounding larger with every update: at a perplexity of e^30 to
# e^46, 7e-4 was seen, at e^105 a perplexity 3.5 times as large.
BROKEN = NumericalTolerance(relative=1e-3, absolute=1e-3, ranks=1e-3)
LOST = NumericalTolerance(relative=0.05, absolute=0.05, ranks=0.1, logarithms=True)
BROKEN_AT, LOST_AT = 20.0, 50.0  # the largest logarithm of a perplexity, in nats


def tolerance_for(published: Record) -> NumericalTolerance:
    """What is allowed by default: `STRICT`, and more where the published model broke on its way."""
    every = (x for name, x in numbers(published).items() if name.endswith("perplexity"))
    worst = max((math.log(x) for x in every if x > 0), default=0.0)
    return STRICT if worst < BROKEN_AT else BROKEN if worst < LOST_AT else LOST


# For runs on a remade vanilla. One document of 48 may change sides, hence the absolute part.
REMADE = NumericalTolerance(relative=0.01, absolute=0.025)


@dataclass(frozen=True)
class Difference:
    """One number in two records; NaN where the record of that side lacks it.

    `excess` is the distance in units of the tolerance.
    """

    name: str
    published: float
    repeated: float
    excess: float

    @property
    def agrees(self) -> bool:
        """Whether the two are within the tolerance."""
        return self.excess <= 1


@dataclass(frozen=True)
class Comparison:
    """A published record beside its repetition.

    differences  every number that was compared, the largest excess first
    reason       in words, what else is not the same; empty if everything else is
    repeated     the new record; None if the run was not repeated
    base         the hash of the model that the repetition started from, if it is not the record's
    tolerance    within which it was compared
    """

    record: Record
    differences: tuple[Difference, ...] = ()
    reason: str = ""
    repeated: Record | None = None
    base: str = ""
    tolerance: NumericalTolerance = STRICT

    @property
    def agrees(self) -> bool:
        """Whether everything is the same within the tolerance; nothing compared is no agreement."""
        return not self.reason and bool(self.differences) and not self.off

    @property
    def off(self) -> tuple[Difference, ...]:
        """The numbers that are not within the tolerance."""
        return tuple(d for d in self.differences if not d.agrees)

    @property
    def largest(self) -> Difference | None:
        """The number furthest apart, in units of the tolerance; None if none was compared."""
        return self.differences[0] if self.differences else None


def numbers(record: Record) -> dict[str, float]:
    """Every number that a repetition must reproduce, by name.

    Metrics go by their own names, the rest by their place: "trajectory/3/forget",
    "documents/forget/nll/17", "extra/tokens".
    """
    # A metric whose name begins as a place does would have the same name as a number there.
    found = {
        f"metrics/{name}" if name.partition("/")[0] in PARTS else name: value
        for name, value in record.metrics.items()
    }
    found.update((name, float(x)) for name, x in _leaves(record) if _is_number(x))
    return found


def texts(record: Record) -> dict[str, Any]:
    """What a repetition must reproduce to the letter, by its place: ids of documents and the like.

    These are all texts, truth values and nulls in the record's `PARTS`. The key covers the spec;
    the provenance may differ.
    """
    return {name: value for name, value in _leaves(record) if not _is_number(value)}


def _leaves(record: Record) -> Iterator[tuple[str, Any]]:
    """(place, value) of everything in a record's `PARTS` that is no list and no dictionary."""
    for part in PARTS:
        yield from _inside(getattr(record, part), part)


def _inside(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(item, f"{name}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _inside(item, f"{name}/{index}")
    else:
        yield name, value


def _later(name: str) -> str:
    """A name of `_LATER` without the numbers of rows, by which it is one of many; else empty."""
    return re.sub(r"/\d+", "", name) if _LATER.fullmatch(name) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(
    published: Record,
    repeated: Record,
    tolerance: NumericalTolerance | None = None,
    remade: bool = False,
) -> Comparison:
    """Compare two records number by number; a number that only one of them has is a difference.

    There is one exception: a metric that was added after records were published (`metrics.LATER`,
    `_LATER`) may be missing in the published record, if it is missing everywhere.

    Without a tolerance it is `tolerance_for(published)`.

    `remade` says that the repetition started from a remade model. Then the keys cannot be equal,
    and only metrics are compared.
    """
    tolerance = tolerance or (REMADE if remade else tolerance_for(published))
    old, new = (r.metrics if remade else numbers(r) for r in (published, repeated))
    differences = []
    there = {_later(name) for name in old}
    for name in sorted({*old, *new}):
        if name not in old and name.rpartition("/")[2] in LATER:
            continue
        if name not in old and (later := _later(name)) and later not in there:
            continue
        both = name in old and name in new
        a, b = old.get(name, math.nan), new.get(name, math.nan)
        excess = tolerance.excess(a, b, name) if both else math.inf
        differences.append(Difference(name, a, b, excess))
    differences.sort(key=lambda d: -d.excess)  # stable: equal ones stay in the order of names
    reasons = [
        f"{name} is {new_value!r}, not {old_value!r}"
        for name, old_value, new_value in (
            *([] if remade else [("its key", published.key, repeated.key)]),
            ("its status", published.status, repeated.status),
            ("the update of divergence", published.diverged_at, repeated.diverged_at),
        )
        if old_value != new_value
    ]
    if not remade:
        before, after = texts(published), texts(repeated)
        if other := [n for n in sorted({*before, *after}) if before.get(n, ()) != after.get(n, ())]:
            # Only the place is named: the text may come from whoever changed the record.
            count = "1 text is" if len(other) == 1 else f"{len(other)} texts are"
            reasons.append(f"{count} not the same, first {other[0]}")
    base = repeated.model_hash if remade else ""
    return Comparison(published, tuple(differences), "; ".join(reasons), repeated, base, tolerance)


def as_row(comparison: Comparison) -> dict[str, Any]:
    """A comparison in brief: which run, whether it agrees, and where it is furthest off."""
    spec, largest = comparison.record.spec, comparison.largest
    return {
        "key": comparison.record.key,
        "domain": spec["domain"],
        "method": spec.get("method") or spec["baseline"],
        "seed": spec["seed"],
        "agrees": comparison.agrees,
        "reason": comparison.reason,
        "base": comparison.base or comparison.record.model_hash,
        "remade": bool(comparison.base),
        "compared": len(comparison.differences),
        "disagreeing": [d.name for d in comparison.off],
        "metric": largest.name if largest else None,
        "published": largest.published if largest else None,
        "repeated": largest.repeated if largest else None,
        "excess": largest.excess if largest else None,
    }
