"""Run published records again and compare.

    for comparison in verify("lab", study="main", sample=3):
        print(comparison.record.key, comparison.agrees)

`verify` is `find_runs`, `pick`, `with_baselines` and `verify_records`, one after the other.
`check_published` looks at what was made of the records: chosen settings and searches.

`compare` is a pure function of two records; only `verify_records` runs a model. Compared is what a
run's key determines: every number of the record except those of its provenance, the ids of its
documents, the status, and the update at which it diverged. Machines add floating-point numbers in
different orders, so numbers are compared within a tolerance (`comparison.STRICT`, for two kinds of
x86 processors). NaN agrees with NaN only.

The scores of vanilla and of the retrained model ("baselines") are what every run is held against,
so those of a picked run's domain are verified with it.

Some profiles train a published model further to get vanilla. On another kind of machine that
training gives other bits, so the model's hash differs, and so does every key. Then the comparison
is weaker: whether the same recipe, carried out here, leads to metrics close to the published ones.
Only metrics are compared, within `REMADE`, and the comparison names the remade base.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from unlearnlib.comparison import STRICT, Comparison, NumericalTolerance, compare
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder, published_files, settings_path
from unlearnlib.profiles import DOMAINS, get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.manifest import losses
from unlearnlib.store.published import read_parquet
from unlearnlib.store.record import Record, run_key
from unlearnlib.study.searches import (
    Search,
    decided_otherwise,
    load_searches,
    searches_path,
    usual_pairs,
)

if TYPE_CHECKING:
    from unlearnlib.bench import Bench

# Of a sample whose size is not given: seconds by what is recorded, and how many runs at least.
BUDGET, LEAST = 300.0, 3


def verify(
    profile: str = "lab",
    domains: Sequence[str] | None = None,
    *,
    study: str | None = None,
    store: str | Path | None = None,
    sample: int | None = None,
    seed: int = 0,
    tolerance: NumericalTolerance | None = None,
) -> list[Comparison]:
    """Repeat `sample` runs of a profile, picked at random by `seed`, on the CPU, and compare.

    Without a `sample` as many as took five minutes when they were recorded, and three at least.

    The scores of vanilla and of the retrained models that the runs are held against come after.

    domains, study, store  which runs to pick from, see `find_runs`
    tolerance              within which numbers agree

    Raises `UnlearnError` if there is no such run.
    """
    runs = find_runs(profile, domains, study=study, store=store)
    picked = with_baselines(pick(runs, sample, seed), find_baselines(profile, store=store))
    return verify_records(picked, tolerance=tolerance)


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


def find_baselines(profile: str = "lab", *, store: str | Path | None = None) -> list[Record]:
    """The scores of vanilla and retrained models of a profile, published or of a run store."""
    path = data_folder() / "results" / f"{profile}-baselines.parquet"
    if store is not None:
        records = list(Store(Path(store)).records())
    else:
        records = _whole_file(path) if path.exists() else []
    return [r for r in records if _is_baseline(r) and r.spec.get("profile") == profile]


def with_baselines(runs: Sequence[Record], baselines: Iterable[Record]) -> list[Record]:
    """The runs, and after them the baselines that they are held against, each once.

    A baseline belongs to a run of the same profile, domain, starting model and `Basis`. Copies of
    one that are not equal all come, since one of them may be wrong. The scores of a model of
    another seed, which does not come with the project, are left out where its weights are not here.
    """
    started = {_start(run) for run in runs}
    found: list[Record] = []
    for one in baselines:
        same = (other.comparable() == one.comparable() for other in found)
        if _start(one) in started and not any(same) and _has_weights(one):
            found.append(one)
    return [*runs, *sorted(found, key=lambda record: record.key)]


def _start(record: Record) -> tuple[Any, ...]:
    """What a run and its baselines share."""
    spec = record.spec
    base = spec.get("base", "vanilla")
    return spec.get("profile"), spec.get("domain"), base, record.basis


def _has_weights(baseline: Record) -> bool:
    """Whether the weights that a baseline is of are here; those of seed 0 are."""
    spec = baseline.spec
    if "weights" not in spec:
        return True
    from unlearnlib.study.compute import seed_hash

    try:
        return spec["weights"] == seed_hash(spec["profile"], spec["domain"], spec["baseline"])
    except UnlearnError:
        return False


def _is_baseline(record: Record) -> bool:
    return record.kind == "score" and "baseline" in record.spec


def _published_records(profile: str, study: str | None) -> list[Record]:
    """All published records, or those that were published with a study at a profile."""
    from unlearnlib.study.grids import get_study

    if study is None:
        return [record for path in published_files() for record in _whole_file(path)]
    get_study(study)  # an unknown name has a sentence of its own
    path = data_folder() / "results" / f"{profile}-{study}.parquet"
    if not path.exists():
        raise UnlearnError(
            f"study {study!r} is not published at profile {profile!r}: run `unlearn "
            f"study {study} --profile {profile} --publish` first."
        )
    return _whole_file(path)


def _whole_file(path: Path) -> list[Record]:
    """The records of a published file; `UnlearnError` if it holds none, which agrees with all."""
    records = read_parquet(path)
    if not records:
        raise UnlearnError(
            f"{path} holds no records, so there is nothing to compare: restore it from the "
            "repository, or publish its study again."
        )
    return records


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


def pick(records: Sequence[Record], count: int | None = None, seed: int = 0) -> list[Record]:
    """`count` of the records at random, in their order; all of them if there are no more.

    Without a count as many as took `BUDGET` seconds together, by their own records, and at least
    `LEAST`.
    """
    if count is None:
        drawn = random.Random(seed).sample(range(len(records)), len(records))
        total, count = 0.0, 0
        for place in drawn:
            total += recorded_seconds([records[place]])
            if total > BUDGET and count >= LEAST:
                break
            count += 1
        return [records[place] for place in sorted(drawn[:count])]
    if count < 1:
        raise UnlearnError(f"the sample is {count} records: give at least 1.")
    if count >= len(records):
        return list(records)
    places = random.Random(seed).sample(range(len(records)), count)
    return [records[place] for place in sorted(places)]


def recorded_seconds(records: Iterable[Record]) -> float:
    """How long the records took when they were made, together; as if none where they do not say."""
    seconds = (record.provenance.get("seconds", 0.0) for record in records)
    return sum(s for s in seconds if isinstance(s, int | float) and math.isfinite(s))


def verify_records(
    records: Sequence[Record],
    bench_for: Callable[[RunSpec], Bench] | None = None,
    tolerance: NumericalTolerance | None = None,
    progress: bool = True,
    remade: NumericalTolerance | None = None,
) -> list[Comparison]:
    """Run each record's spec again (of a baseline: score the model again) and compare, in order.

    bench_for  loads model and data for a spec, by default the profile's own on the CPU; it is
               called once per profile, domain, precision, base and its bits
    tolerance  within which numbers agree, by default `comparison.tolerance_for` each record
    remade     if given, records of a vanilla that another machine trained are compared with runs
               on the vanilla that was trained here by the same recipe, within this tolerance

    A record of another model or of other data is not run: its comparison has the reason.
    """
    from unlearnlib.run import execute  # here: comparing needs no torch
    from unlearnlib.study.compute import baseline

    load = bench_for or _profile_bench
    specs = [_bench_spec(record) for record in records]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, spec in enumerate(specs):
        group = (spec.profile, spec.domain, spec.precision, spec.base, spec.base_bits)
        groups.setdefault(group, []).append(place)
    done: dict[int, Comparison] = {}
    with tqdm(total=len(records), desc="verify", disable=not progress) as bar:
        for places in groups.values():
            bench = load(specs[places[0]])
            for place in places:
                record = records[place]
                on_remade = remade is not None and _of_other_models(record, bench)
                why_not = why_not_remade if on_remade else _why_not_repeatable
                reason = why_not(record, bench)
                if reason:
                    done[place] = Comparison(record, reason=reason)
                else:
                    if _is_baseline(record):
                        again = baseline(
                            bench, specs[place].profile, record.spec["baseline"], specs[place].base
                        )
                    else:
                        _, again = execute(bench, specs[place])
                    allowed = remade if on_remade else tolerance
                    done[place] = compare(record, again, allowed, remade=on_remade)
                bar.update()
    return [done[place] for place in range(len(records))]


def _bench_spec(record: Record) -> RunSpec:
    """The record's spec; of a baseline one that names the bench that it was scored on."""
    spec = record.spec
    if not _is_baseline(record):
        return RunSpec.from_dict(spec)
    profile, domain, base = spec["profile"], spec["domain"], spec.get("base", "vanilla")
    return RunSpec(profile, domain, precision=get_profile(profile).precision, base=base)


def _profile_bench(spec: RunSpec) -> Bench:
    """The profile's own model and data for a spec, on the CPU."""
    from unlearnlib.bench import Models, open_bench
    from unlearnlib.engine import Execution

    return open_bench(
        spec.profile,
        spec.domain,
        models=Models(base=spec.base, precision=spec.precision, bits=spec.base_bits),
        execution=Execution(progress=False),  # verifying has a bar of its own
    )


_PARTS = {
    "model_hash": "model",
    "config_hash": "configuration of the model",
    "tokenizer_hash": "tokenizer",
    "data_hash": "data",
    "oracle_hash": "retrained model",
    "length": "length of chunks",
    "prefix": "length of prefixes",
}
_TRAINED = ("model_hash", "oracle_hash")  # which another machine trains to other bits


def _why_not_repeatable(record: Record, bench: Bench) -> str:
    """Why the bench cannot repeat the record; empty if it can."""
    return _other_part(record, bench) or _wrong_key(record)


def _other_part(record: Record, bench: Bench, ignored: Sequence[str] = ()) -> str:
    """What the record rests on and the bench has another of; empty if all is the same."""
    theirs, ours = record.basis.as_dict(), bench.basis.as_dict()
    for name, what in _PARTS.items():
        if theirs[name] != ours[name] and name not in ignored:
            there, here = (str(parts[name])[:12] or "none" for parts in (theirs, ours))
            return f"it is of another {what} ({there}, here {here})"
    return ""


def _of_other_models(record: Record, bench: Bench) -> bool:
    """Whether a record is of another starting model, or held against another retrained one."""
    return any(getattr(record.basis, name) != getattr(bench.basis, name) for name in _TRAINED)


def _wrong_key(record: Record) -> str:
    """That a record's key is not the one of its spec and basis; empty if it is."""
    if record.key != run_key(record.spec, record.basis):
        return "its key does not follow from its spec, data, model and tokenizer"
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
    if other := _other_part(record, bench, _TRAINED):
        return other
    other_model = _other_part(record, bench)
    if not get_profile(profile).continued or record.spec.get("base", "vanilla") != "vanilla":
        return f"{other_model}, and no model of it is trained by the project"
    here, weights = made_here(profile, "vanilla"), continued_checkpoint(profile, "vanilla")
    trained = ""
    if bench.source == str(weights):
        # Trained in float32: a bench in bfloat16 holds other numbers, and has another hash.
        full = record.spec["precision"] == "float32"
        trained = bench.model_hash if full else model_hash(load_model(weights, "float32"))
    if not trained or here.get("model_hash") != trained:
        return f"{other_model}, and this machine has no record of training the latter"
    theirs = read_record(profile, "vanilla")
    if theirs["model_hash"] == trained:
        return ""  # making the model here replaced the published record: there is none to compare
    for name in ("base_hash", "data_hash", "recipe", "epochs", "autocast"):
        if (theirs.get(name) or False) != (here.get(name) or False):
            return f"the vanilla here was trained with another {name.replace('_', ' ')}"
    return ""


@dataclass(frozen=True)
class Check:
    """Whether a published file that was made of records follows from them.

    reason  in words, what does not; empty if all does
    note    what else there is to know of it
    """

    file: str
    reason: str = ""
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the file follows from the records."""
        return not self.reason


def check_published(profile: str, domains: Sequence[str]) -> list[Check]:
    """Choose a profile's settings again from its published rates, and decide its searches again.

    And look whether what is published is whole: every file that the manifest has, every run of a
    study's grid, the scores that runs are held against, every search. Runs no model.
    What cannot be recomputed, as settings without a whole published study `rates`, has no `Check`.
    """
    gone = [Check(name, said) for name, said in losses(data_folder() / "results", profile).items()]
    whole = [*gone, *_check_studies(profile, domains), _check_baselines(profile, domains)]
    found = [_check_settings(profile, domain) for domain in domains]
    every = (*found, *whole, _check_searches(profile))
    return [check for check in every if check is not None]


def _published_runs(profile: str, domains: Sequence[str]) -> dict[str, list[Record]]:
    """Name of a study -> the runs in its published file, on the domains."""
    from unlearnlib.study.grids import STUDIES

    found = {}
    for name in STUDIES:
        path = data_folder() / "results" / f"{profile}-{name}.parquet"
        if path.exists():
            runs = (r for r in read_parquet(path) if r.kind == "run")
            found[name] = [r for r in runs if r.spec.get("domain") in domains]
    return found


def _check_studies(profile: str, domains: Sequence[str]) -> list[Check]:
    """Whether each published file holds every run of its study's grid that it ought to hold.

    A study may be published in part, of some domains, bases, methods and seeds: what is of none of
    those that are there is a note. What is of one that is there, and missing, was taken out.
    """
    from unlearnlib.study.grids import get_study
    from unlearnlib.study.records import spec_text, start_of

    checks = []
    for name, runs in _published_runs(profile, domains).items():
        there = {spec_text(run.spec) for run in runs}
        methods = {(*start_of(run), run.spec["method"]) for run in runs}
        seeds = {(*start_of(run), run.spec["seed"]) for run in runs}
        grid: list[RunSpec] = []
        for domain in domains:
            with contextlib.suppress(UnlearnError):  # its settings have not been chosen
                grid += get_study(name).runs(profile, domain)
        lacking = [spec for spec in grid if spec_text(spec.as_dict()) not in there]
        holes = [
            spec
            for spec in lacking
            if (spec.domain, spec.base, spec.method) in methods
            and (spec.domain, spec.base, spec.seed) in seeds
        ]
        checks.append(
            Check(
                f"{profile}-{name}.parquet",
                f"it lacks {_told(holes, len(grid))}" if holes else "",
                f"published in part: it lacks {_told(lacking, len(grid))}" if lacking else "",
            )
        )
    return checks


def _told(lacking: Sequence[RunSpec], wanted: int) -> str:
    """Which runs of a study's grid a file lacks, in words."""
    first = lacking[0]
    return (
        f"{len(lacking)} of the {wanted} runs of its study, first {first.method} on "
        f"{first.domain} with seed {first.seed}, learning rate {first.learning_rate:g} and "
        f"{first.updates} updates"
    )


def _check_baselines(profile: str, domains: Sequence[str]) -> Check | None:
    """Whether the scores that published runs are held against are there, too."""
    runs = [run for some in _published_runs(profile, domains).values() for run in some]
    there = {(_start(one), one.spec["baseline"]) for one in find_baselines(profile)}
    if not runs:
        return None
    for run in runs:
        for which in ("vanilla", "oracle") if run.oracle_hash else ("vanilla",):
            if (_start(run), which) not in there:
                reason = f"it lacks the scores of {which} on {run.spec['domain']}, which published "
                return Check(f"{profile}-baselines.parquet", reason + "runs are held against")
    return Check(f"{profile}-baselines.parquet")


def _check_settings(profile: str, domain: str) -> Check | None:
    """Whether the settings of a domain are those that the rule chooses from the published rates."""
    from unlearnlib.study.chosen import choose, read_settings
    from unlearnlib.study.grids import get_study

    path = data_folder() / "results" / f"{profile}-rates.parquet"
    if not path.exists():
        return None
    grid = [spec.as_dict() for spec in get_study("rates").runs(profile, domain)]
    rates = [r for r in read_parquet(path) if r.kind == "run" and r.spec in grid]
    vanillas = [b for b in find_baselines(profile) if b.spec["baseline"] == "vanilla"]
    for vanilla in vanillas:
        runs = [run for run in rates if _start(run) == _start(vanilla)]
        if len(runs) == len(grid):
            what = f"{settings_path().name}, {domain}"
            try:
                chosen = read_settings().get(profile, {}).get(domain)
            except UnlearnError as error:
                return Check(what, str(error).rstrip("."))
            if chosen == choose(runs, vanilla):
                return Check(what)
            return Check(what, "it is not what the rule chooses from the published rates")
    return None


def _check_searches(profile: str) -> Check | None:
    """Whether the published searches are decided as they were, and rest on vanilla's scores."""
    path = searches_path(profile)
    if not path.exists():
        return None
    try:
        searches = load_searches(profile)
    except UnlearnError as error:
        return Check(path.name, str(error).rstrip("."))
    there = {(search.domain, search.seed) for search in searches}
    for domain, seed in usual_pairs(profile):
        if (domain, seed) not in there:
            return Check(path.name, f"it lacks the search on {domain} with seed {seed}")
    vanillas = [b for b in find_baselines(profile) if b.spec["baseline"] == "vanilla"]
    for number, search in enumerate(searches, 1):
        here = [vanilla for vanilla in vanillas if vanilla.spec["domain"] == search.domain]
        try:
            reason = decided_otherwise(search) or _wrong_scores(search, here)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            reason = f"it is no search ({type(error).__name__})"
        if reason:
            return Check(path.name, f"line {number}: {reason}")
    return Check(path.name)


def _wrong_scores(search: Search, vanillas: Sequence[Record]) -> str:
    """Which score of a search is not that of the model it names; empty if all are."""
    situation, before, after = search.situation, search.before, search.after
    pairs = [
        ("its start", situation.forget, before.get("forget/perplexity")),
        ("its general perplexity", situation.general, before.get("general/perplexity")),
    ]
    if search.best is not None:
        step = search.steps[search.best]
        pairs += [
            ("its end", step.path[step.updates], after.get("forget/perplexity")),
            ("its end's general perplexity", step.general, after.get("general/perplexity")),
        ]
    for what, used, measured in pairs:
        if measured is None or STRICT.excess(measured, used) > 1:
            return f"{what} is not the perplexity that was measured"
    vanilla = {**before, "approximate/perplexity": situation.target}
    if vanillas and not any(_same_scores(one.metrics, vanilla) for one in vanillas):
        return "its scores before are not those of a published vanilla"
    return ""


def _same_scores(published: Mapping[str, float], measured: Mapping[str, float]) -> bool:
    """Whether the numbers that both have agree."""
    both = published.keys() & measured.keys()
    return all(STRICT.excess(published[name], measured[name], name) <= 1 for name in both)
