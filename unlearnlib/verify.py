"""Re-run published records and say whether they agree: a result that nobody can check is a claim.

Comparing is a pure function of two records (`compare`); only `verify` runs a model. What must
come out equal is what a run's key determines: every number of the record but its provenance, the
ids of its documents, the status, and the update at which it diverged. Machines add floating-point
numbers in different orders, so numbers are compared within a tolerance; NaN agrees with NaN and
with nothing else.

Where vanilla is a published model trained further, that training too comes out with other bits on
another kind of machine, and so its hash is another and no key is the same. What can be said then
is less: that the same recipe, carried out here, leads to metrics like the published ones
(`remade`). Only metrics are compared, within `REMADE`, and the result names the base as remade.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics import LATER
from unlearnlib.spec import DOMAINS, RunSpec, get_profile
from unlearnlib.store import Record, run_key

if TYPE_CHECKING:
    from unlearnlib.run import Bench

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
PARTS = ("trajectory", "documents", "extra")  # of a record, beside its metrics
REMADE = (0.01, 0.025)  # relative, and absolute: one document of 48 may change sides


@dataclass(frozen=True)
class Tolerance:
    """Two numbers a and b agree if |a - b| <= absolute + relative x |a|, a the published one."""

    relative: float = TOLERANCE
    absolute: float = TOLERANCE

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UnlearnError(
                    f"the {name} tolerance is {value}: give a finite number that is not negative."
                )

    def allowed(self, published: float) -> float:
        """How far a repetition of `published` may be from it."""
        return self.absolute + self.relative * abs(published)

    def excess(self, published: float, repeated: float) -> float:
        """|a - b| in units of what is allowed: up to 1 the numbers agree; 0 for equal ones.

        Two NaN are equal, as are two infinities of one sign; any other pair with a number that
        is not finite differs by infinity.
        """
        if published == repeated or (math.isnan(published) and math.isnan(repeated)):
            return 0.0
        if not (math.isfinite(published) and math.isfinite(repeated)):
            return math.inf
        allowed = self.allowed(published)
        return abs(published - repeated) / allowed if allowed else math.inf


@dataclass(frozen=True)
class Difference:
    """One number in two records; NaN stands for one that is missing on that side.

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

    `differences` has every number that was compared, the largest excess first; `reason` says
    in words what else is not the same, and is empty if nothing is. `repeated` is the new record,
    None for one that was not run again. `base` is the hash of the model that the repetition started
    from, where it is another one than the record's.
    """

    record: Record
    differences: tuple[Difference, ...] = ()
    reason: str = ""
    repeated: Record | None = None
    base: str = ""

    @property
    def agrees(self) -> bool:
        """Whether everything is the same within the tolerance."""
        return not self.reason and all(d.agrees for d in self.differences)

    @property
    def largest(self) -> Difference | None:
        """The number furthest apart, in units of the tolerance; None if none was compared."""
        return self.differences[0] if self.differences else None


def numbers(record: Record) -> dict[str, float]:
    """Every number that a repetition must reproduce, by name.

    Metrics go by their own names, the rest by their place: "trajectory/3/forget",
    "documents/forget/nll/17", "extra/tokens".
    """
    # A metric that bears the name of a place would hide there, or hide what is there.
    found = {
        f"metrics/{name}" if name.partition("/")[0] in PARTS else name: value
        for name, value in record.metrics.items()
    }
    found.update((name, float(x)) for name, x in _leaves(record) if _is_number(x))
    return found


def words(record: Record) -> dict[str, Any]:
    """What a repetition must reproduce to the letter, by its place: ids of documents and the like.

    That is every text, truth value and null of the record but those of its spec, which the key
    covers, and of its provenance.
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(
    published: Record,
    repeated: Record,
    tolerance: Tolerance | None = None,
    remade: bool = False,
) -> Comparison:
    """Compare two records number by number; a number that only one of them has disagrees.

    Unless it is of a metric that came after records were published (`metrics.LATER`), and it is
    the published record that lacks it. `remade` says that the repetition started from a remade
    model: then only metrics are compared, and keys differ by nature.
    """
    tolerance = tolerance or (Tolerance(*REMADE) if remade else Tolerance())
    old, new = (r.metrics if remade else numbers(r) for r in (published, repeated))
    differences = []
    for name in sorted({*old, *new}):
        if name not in old and name.rpartition("/")[2] in LATER:
            continue
        both = name in old and name in new
        a, b = old.get(name, math.nan), new.get(name, math.nan)
        differences.append(Difference(name, a, b, tolerance.excess(a, b) if both else math.inf))
    differences.sort(key=lambda d: -d.excess)  # stable: equal ones stay in the order of names
    reasons = [
        f"{name} is {after!r}, not {before!r}"
        for name, before, after in (
            *([] if remade else [("its key", published.key, repeated.key)]),
            ("its status", published.status, repeated.status),
            ("the update of divergence", published.diverged_at, repeated.diverged_at),
        )
        if before != after
    ]
    if not remade:
        told, again = words(published), words(repeated)
        if other := [n for n in sorted({*told, *again}) if told.get(n, ()) != again.get(n, ())]:
            # The text itself is not repeated here: it may be of whoever changed the record.
            count = "1 text is" if len(other) == 1 else f"{len(other)} texts are"
            reasons.append(f"{count} not the same, first {other[0]}")
    base = repeated.model_hash if remade else ""
    return Comparison(published, tuple(differences), "; ".join(reasons), repeated, base)


def runs_to_verify(
    records: Iterable[Record], profile: str, domains: Sequence[str] = DOMAINS
) -> list[Record]:
    """The runs among `records` that a profile can repeat, by key: others need a user's files.

    A run that several studies share is published with each, and is one run here. Copies that are
    not equal stay: each of them says something, and one of them may be wrong.
    """
    found: dict[str, list[Record]] = {}
    for r in records:
        if (
            r.kind != "run"
            or r.spec.get("profile") != profile
            or r.spec.get("domain") not in domains
        ):
            continue
        same = found.setdefault(r.key, [])
        if not any(r.comparable() == other.comparable() for other in same):
            same.append(r)
    if not found:
        raise UnlearnError(
            f"there is no record of a run at profile {profile!r} to verify: run "
            f"`unlearn study main --profile {profile}` first, or name another study or store."
        )
    return [r for key in sorted(found) for r in found[key]]


def pick(records: Sequence[Record], count: int, seed: int = 0) -> list[Record]:
    """`count` of the records at random, in their order; all of them if there are no more."""
    if count < 1:
        raise UnlearnError(f"the sample is {count} records: give at least 1.")
    if count >= len(records):
        return list(records)
    places = random.Random(seed).sample(range(len(records)), count)
    return [records[place] for place in sorted(places)]


def verify(
    records: Sequence[Record],
    open_one: Callable[[RunSpec], Bench],
    tolerance: Tolerance | None = None,
    progress: bool = True,
    remade: Tolerance | None = None,
) -> list[Comparison]:
    """Run each record's spec again and compare, in the given order.

    With a tolerance `remade`, records of a vanilla that was trained on another machine are held
    against runs on the vanilla that was trained here by the same recipe.

    `open_one` loads model and data for a spec; it is called once per profile, domain,
    precision and base. A record of another model or other data is not run: it is reported as such.
    """
    from unlearnlib.run import execute  # here: comparing needs no torch

    places: dict[tuple[str, ...], list[int]] = {}
    for place, record in enumerate(records):
        spec = RunSpec.from_dict(record.spec)
        places.setdefault((spec.profile, spec.domain, spec.precision, spec.base), []).append(place)
    done: dict[int, Comparison] = {}
    with tqdm(total=len(records), desc="verify", disable=not progress) as bar:
        for group in places.values():
            bench = open_one(RunSpec.from_dict(records[group[0]].spec))
            for place in group:
                record = records[place]
                reason = _foreign(record, bench)
                other = remade is not None and record.model_hash != bench.model_hash
                if other:
                    reason = not_remade(record, bench)
                if reason:
                    done[place] = Comparison(record, reason=reason)
                else:
                    _, again = execute(bench, RunSpec.from_dict(record.spec))
                    allowed = remade if other else tolerance
                    done[place] = compare(record, again, allowed, remade=other)
                bar.update()
    return [done[place] for place in range(len(records))]


def _foreign(record: Record, bench: Bench) -> str:
    """Why the bench cannot repeat the record, or nothing."""
    for what, theirs, ours in (
        ("model", record.model_hash, bench.model_hash),
        ("data", record.data_hash, bench.data_hash),
    ):
        if theirs != ours:
            return f"it is of another {what} ({theirs[:12]}, here {ours[:12]})"
    return _misfiled(record)


def _misfiled(record: Record) -> str:
    """That a record's key is not the one of its spec, data and model, or nothing if it is."""
    if record.key != run_key(record.spec, record.data_hash, record.model_hash):
        return "its key does not follow from its spec, data and model"
    return ""


def not_remade(record: Record, bench: Bench) -> str:
    """Why the bench's model is not the record's vanilla made once more, or nothing if it is.

    It is if it was trained here, and from the same published model, on the same documents, by the
    same recipe and for as many epochs, as the record of the published training says.
    """
    from unlearnlib.continued import continued_checkpoint, made_here, read_record
    from unlearnlib.models import load_model, model_hash

    if misfiled := _misfiled(record):
        return misfiled
    profile = record.spec["profile"]
    if record.data_hash != bench.data_hash:
        return _foreign(dataclasses.replace(record, model_hash=bench.model_hash), bench)
    if not get_profile(profile).continued or record.spec.get("base", "vanilla") != "vanilla":
        return f"{_foreign(record, bench)}, and no model of it is trained by the project"
    here, weights = made_here(profile, "vanilla"), continued_checkpoint(profile, "vanilla")
    trained = ""
    if bench.source == str(weights):
        # Trained in float32: a bench in bfloat16 holds other numbers, and has another hash.
        full = record.spec["precision"] == "float32"
        trained = bench.model_hash if full else model_hash(load_model(weights))
    if not trained or here.get("model_hash") != trained:
        return f"{_foreign(record, bench)}, and this machine has no record of training the latter"
    theirs = read_record(profile, "vanilla")
    if theirs["model_hash"] == trained:
        return ""  # its record was replaced by ours when the model was made: nothing to hold it to
    for name in ("base_hash", "data_hash", "recipe", "epochs", "autocast"):
        if (theirs.get(name) or False) != (here.get(name) or False):
            return f"the vanilla here was trained with another {name.replace('_', ' ')}"
    return ""


def as_row(comparison: Comparison) -> dict[str, Any]:
    """A comparison in brief: which run, whether it agrees, and where it is furthest off."""
    spec, largest = comparison.record.spec, comparison.largest
    return {
        "key": comparison.record.key,
        "domain": spec["domain"],
        "method": spec["method"],
        "seed": spec["seed"],
        "agrees": comparison.agrees,
        "reason": comparison.reason,
        "base": comparison.base or comparison.record.model_hash,
        "remade": bool(comparison.base),
        "compared": len(comparison.differences),
        "disagreeing": [d.name for d in comparison.differences if not d.agrees],
        "metric": largest.name if largest else None,
        "published": largest.published if largest else None,
        "repeated": largest.repeated if largest else None,
        "excess": largest.excess if largest else None,
    }
