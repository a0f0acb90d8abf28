"""Run published records again and compare: `find_runs`, `pick`, `verify_records`.

    for comparison in verify_records(pick(find_runs("lab", study="main"), 3)):
        print(comparison.record.key, comparison.agrees)

`compare` is a pure function of two records; only `verify_records` runs a model. Compared is what a
run's key determines: every number of the record except those of its provenance, the ids of its
documents, the status, and the update at which it diverged. Machines add floating-point numbers in
different orders, so numbers are compared within a tolerance. NaN agrees with NaN only.

Some profiles train a published model further to get vanilla. On another kind of machine that
training gives other bits, so the model's hash differs, and so does every key. Then the comparison
is weaker: whether the same recipe, carried out here, leads to metrics close to the published ones.
Only metrics are compared, within `REMADE`, and the comparison names the remade base.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics import LATER
from unlearnlib.spec import DOMAINS, RunSpec, get_profile
from unlearnlib.store import Record, Store, read_parquet, run_key

if TYPE_CHECKING:
    from unlearnlib.run import Bench

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
PARTS = ("trajectory", "documents", "extra")  # of a record, beside its metrics


@dataclass(frozen=True)
class NumericalTolerance:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(
    published: Record,
    repeated: Record,
    tolerance: NumericalTolerance | None = None,
    remade: bool = False,
) -> Comparison:
    """Compare two records number by number; a number that only one of them has is a difference.

    There is one exception: a metric that was added after records were published (`metrics.LATER`)
    may be missing in the published record.

    `remade` says that the repetition started from a remade model. Then the keys cannot be equal,
    and only metrics are compared.
    """
    tolerance = tolerance or (REMADE if remade else NumericalTolerance())
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
    return Comparison(published, tuple(differences), "; ".join(reasons), repeated, base)


def find_runs(
    profile: str = "lab",
    domains: Sequence[str] | None = None,
    *,
    study: str | None = None,
    store: str | Path | None = None,
) -> list[Record]:
    """The runs that a profile can repeat, by key: of the published records, or of a run store.

    domains  by default all of the profile
    study    only runs of this study
    store    the folder of a run store, in place of the published records

    Raises `UnlearnError` if there is no such run.
    """
    domains = get_profile(profile).domains if domains is None else domains
    if store is None:
        records = _published_records(profile, study)
    else:
        records = _stored_records(Path(store), profile, study, domains)
    return runs_to_verify(records, profile, domains)


def _published_records(profile: str, study: str | None) -> list[Record]:
    """All published records, or those that were published with a study at a profile."""
    from unlearnlib.models import data_folder  # here: comparing needs no torch
    from unlearnlib.study import get_study, published_files

    if study is None:
        return [record for path in published_files() for record in read_parquet(path)]
    get_study(study)  # an unknown name has a sentence of its own
    path = data_folder() / "results" / f"{profile}-{study}.parquet"
    if not path.exists():
        raise UnlearnError(
            f"study {study!r} is not published at profile {profile!r}: run `unlearn "
            f"study {study} --profile {profile} --publish` first."
        )
    return read_parquet(path)


def _stored_records(
    store: Path, profile: str, study: str | None, domains: Sequence[str]
) -> list[Record]:
    """All records of a run store, or those of a study's runs."""
    from unlearnlib.study import get_study  # here: comparing needs no torch

    wanted = None if study is None else get_study(study)
    if not store.is_dir():
        raise UnlearnError(f"--store {str(store)!r} is no folder: give that of a run store.")
    records = list(Store(store).records())
    if wanted is None:
        return records
    specs = [spec.as_dict() for domain in domains for spec in wanted.runs(profile, domain)]
    return [record for record in records if record.spec in specs]


def runs_to_verify(
    records: Iterable[Record], profile: str, domains: Sequence[str] = DOMAINS
) -> list[Record]:
    """The runs among `records` that a profile can repeat, by key; others need a user's files.

    A run that several studies share is published with each of them, and is returned once. Copies
    of a run that are not equal are all returned, since one of them may be wrong.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        where = record.spec.get("profile"), record.spec.get("domain")
        if record.kind != "run" or where[0] != profile or where[1] not in domains:
            continue
        same = found.setdefault(record.key, [])
        if not any(record.comparable() == other.comparable() for other in same):
            same.append(record)
    if not found:
        raise UnlearnError(
            f"there is no record of a run at profile {profile!r} to verify: run "
            f"`unlearn study main --profile {profile}` first, or name another study or store."
        )
    return [record for key in sorted(found) for record in found[key]]


def pick(records: Sequence[Record], count: int, seed: int = 0) -> list[Record]:
    """`count` of the records at random, in their order; all of them if there are no more."""
    if count < 1:
        raise UnlearnError(f"the sample is {count} records: give at least 1.")
    if count >= len(records):
        return list(records)
    places = random.Random(seed).sample(range(len(records)), count)
    return [records[place] for place in sorted(places)]


def verify_records(
    records: Sequence[Record],
    bench_for: Callable[[RunSpec], Bench] | None = None,
    tolerance: NumericalTolerance | None = None,
    progress: bool = True,
    remade: NumericalTolerance | None = None,
) -> list[Comparison]:
    """Run each record's spec again and compare, in the given order.

    bench_for  loads model and data for a spec, by default the profile's own on the CPU; it is
               called once per profile, domain, precision and base
    tolerance  within which numbers agree
    remade     if given, records of a vanilla that another machine trained are compared with runs
               on the vanilla that was trained here by the same recipe, within this tolerance

    A record of another model or of other data is not run: its comparison has the reason.
    """
    from unlearnlib.run import execute  # here: comparing needs no torch

    load = bench_for or _profile_bench
    specs = [RunSpec.from_dict(record.spec) for record in records]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, spec in enumerate(specs):
        group = (spec.profile, spec.domain, spec.precision, spec.base)
        groups.setdefault(group, []).append(place)
    done: dict[int, Comparison] = {}
    with tqdm(total=len(records), desc="verify", disable=not progress) as bar:
        for places in groups.values():
            bench = load(specs[places[0]])
            for place in places:
                record = records[place]
                on_remade = remade is not None and record.model_hash != bench.model_hash
                why_not = why_not_remade if on_remade else _why_not_repeatable
                reason = why_not(record, bench)
                if reason:
                    done[place] = Comparison(record, reason=reason)
                else:
                    _, repeated = execute(bench, specs[place])
                    allowed = remade if on_remade else tolerance
                    done[place] = compare(record, repeated, allowed, remade=on_remade)
                bar.update()
    return [done[place] for place in range(len(records))]


def _profile_bench(spec: RunSpec) -> Bench:
    """The profile's own model and data for a spec, on the CPU."""
    from unlearnlib.engine import Execution
    from unlearnlib.run import Models, open_bench

    return open_bench(
        spec.profile,
        spec.domain,
        models=Models(base=spec.base, precision=spec.precision),
        execution=Execution(progress=False),  # verifying has a bar of its own
    )


def _why_not_repeatable(record: Record, bench: Bench) -> str:
    """Why the bench cannot repeat the record; empty if it can."""
    for what, theirs, ours in (
        ("model", record.model_hash, bench.model_hash),
        ("data", record.data_hash, bench.data_hash),
    ):
        if theirs != ours:
            return f"it is of another {what} ({theirs[:12]}, here {ours[:12]})"
    return _wrong_key(record)


def _wrong_key(record: Record) -> str:
    """That a record's key is not the one of its spec, data and model; empty if it is."""
    if record.key != run_key(record.spec, record.data_hash, record.model_hash):
        return "its key does not follow from its spec, data and model"
    return ""


def why_not_remade(record: Record, bench: Bench) -> str:
    """Why the bench's model does not count as the record's vanilla, remade; empty if it does.

    It counts if it was trained here from the same published model, on the same documents, by the
    same recipe and for as many epochs as the record of the published training says.
    """
    from unlearnlib.continued import continued_checkpoint, made_here, read_record
    from unlearnlib.models import load_model, model_hash

    if wrong_key := _wrong_key(record):
        return wrong_key
    profile = record.spec["profile"]
    other_model = _why_not_repeatable(record, bench)
    if record.data_hash != bench.data_hash:
        return _why_not_repeatable(dataclasses.replace(record, model_hash=bench.model_hash), bench)
    if not get_profile(profile).continued or record.spec.get("base", "vanilla") != "vanilla":
        return f"{other_model}, and no model of it is trained by the project"
    here, weights = made_here(profile, "vanilla"), continued_checkpoint(profile, "vanilla")
    trained = ""
    if bench.source == str(weights):
        # Trained in float32: a bench in bfloat16 holds other numbers, and has another hash.
        full = record.spec["precision"] == "float32"
        trained = bench.model_hash if full else model_hash(load_model(weights))
    if not trained or here.get("model_hash") != trained:
        return f"{other_model}, and this machine has no record of training the latter"
    theirs = read_record(profile, "vanilla")
    if theirs["model_hash"] == trained:
        return ""  # making the model here replaced the published record: there is none to compare
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
