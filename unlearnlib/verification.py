"""Run published records again and compare.

    for comparison in verify("lab", study="main", sample=3):
        print(comparison.record.key, comparison.agrees)

`verify` is `find_runs`, `pick` and `verify_records`, one after the other.

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
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from unlearnlib.comparison import Comparison, NumericalTolerance, compare
from unlearnlib.errors import UnlearnError
from unlearnlib.profiles import DOMAINS, get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.published import read_parquet
from unlearnlib.store.record import Record, run_key

if TYPE_CHECKING:
    from unlearnlib.bench import Bench


def verify(
    profile: str = "lab",
    domains: Sequence[str] | None = None,
    *,
    study: str | None = None,
    store: str | Path | None = None,
    sample: int = 10,
    seed: int = 0,
    tolerance: NumericalTolerance | None = None,
) -> list[Comparison]:
    """Repeat `sample` runs of a profile, picked at random by `seed`, on the CPU, and compare.

    domains, study, store  which runs to pick from, see `find_runs`
    tolerance              within which numbers agree

    Raises `UnlearnError` if there is no such run.
    """
    runs = find_runs(profile, domains, study=study, store=store)
    return verify_records(pick(runs, sample, seed), tolerance=tolerance)


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
    from unlearnlib.folders import (
        data_folder,  # here: comparing needs no torch
        published_files,
    )
    from unlearnlib.study.grids import get_study

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
    from unlearnlib.study.grids import get_study  # here: comparing needs no torch

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
    from unlearnlib.bench import Models, open_bench
    from unlearnlib.engine import Execution

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
    from unlearnlib.models import load_model, model_hash
    from unlearnlib.trained import continued_checkpoint, made_here, read_record

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
