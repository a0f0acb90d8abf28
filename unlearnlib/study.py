"""Studies: named grids of runs behind the figures and tables; resumable, shared between workers.

A study is a function from a profile and some domains to a list of run specs. Running one means
asking which keys are missing from the local store and from the published records, and computing
those. Any number of processes may work on one store: each run is claimed before it is computed.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import PAPER_METHODS, get_method
from unlearnlib.models import data_folder
from unlearnlib.run import Bench, Models, evaluate, execute, key_of, open_bench
from unlearnlib.search import shortfall
from unlearnlib.spec import COMPARED, DOMAINS, RunSpec, get_profile
from unlearnlib.store import (
    Library,
    Record,
    Store,
    provenance,
    read_parquet,
    run_key,
    write_file,
    write_parquet,
)

logger = logging.getLogger(__name__)

BASELINES = ("vanilla", "oracle")
TUNING_SEED = get_profile("lab").tuning_seed
RATES = get_profile("lab").rates
MAIN_SEEDS = get_profile("lab").seeds
UPDATES, BATCH = get_profile("lab").updates, 16  # three passes over the lab's 64 documents
REGION_SEEDS = (TUNING_SEED + 1, TUNING_SEED + 2)  # beside the tuning seed, that of the map
REGION_RATES = get_profile("lab").region.rates
SIZES = (1, 2, 4, 8, 16, 32, 64)
REQUESTS = (1, 2, 4, 8, 16)
RETAIN_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SHAPES = (
    ("constant", 0.0),
    ("constant", 0.25),
    ("constant", 0.5),
    ("linear", 0.0),
    ("linear", 0.25),
    ("cosine", 0.0),
    ("cosine", 0.25),
)

Specs = list[RunSpec]
Grid = Callable[[str, str], Specs]


@dataclass(frozen=True)
class Study:
    """A named grid: `runs(profile, domain)` are its specs for one domain.

    base   which model all of its runs unlearn (see `RunSpec`)
    """

    name: str
    about: str
    runs: Grid
    base: str = "vanilla"


def _rates(profile: str, domain: str) -> Specs:
    scale = get_profile(profile)
    return [
        RunSpec(
            profile,
            domain,
            method,
            rate,
            scale.updates,
            BATCH,
            seed=scale.tuning_seed,
            precision=scale.precision,
        )
        for method in PAPER_METHODS
        for rate in scale.rates
    ]


def _chosen(profile: str, domain: str, method: str, seed: int, **more: Any) -> RunSpec:
    scale = get_profile(profile)
    spec = RunSpec(profile, domain, method, updates=scale.updates, batch_size=BATCH, seed=seed)
    return spec.replace(precision=scale.precision, **settings(profile, domain, method), **more)


def _main(profile: str, domain: str) -> Specs:
    return [
        _chosen(profile, domain, method, seed)
        for method in PAPER_METHODS
        for seed in get_profile(profile).seeds
    ]


def _trajectory(profile: str, domain: str) -> Specs:
    return [_chosen(profile, domain, method, 0, probe_every=1) for method in PAPER_METHODS]


def _alignment(profile: str, domain: str) -> Specs:
    return [
        _chosen(profile, domain, method, seed, label_alignment="release")
        for method in ("random_label", "adversarial")
        for seed in get_profile(profile).seeds
    ]


def _robust_region(profile: str, domain: str) -> Specs:
    """One run per rate: with a constant schedule its first u updates are the run of u updates."""
    return _region(profile, domain, get_profile(profile).tuning_seed)


def _region_seeds(profile: str, domain: str) -> Specs:
    """The same settings with other orders of the documents, of the methods that C3 compares."""
    return [spec for seed in REGION_SEEDS for spec in _region(profile, domain, seed, COMPARED)]


def _region(profile: str, domain: str, seed: int, methods: Sequence[str] = ()) -> Specs:
    scale = get_profile(profile)
    return [
        RunSpec(
            profile,
            domain,
            method,
            rate,
            scale.region.updates,
            BATCH,
            seed=seed,
            probe_every=scale.region.every,
            precision=scale.precision,
        )
        for method in methods or scale.region.methods or PAPER_METHODS
        for rate in scale.region.rates
    ]


def _swept(profile: str, domain: str, methods: Iterable[str], **values: Sequence[Any]) -> Specs:
    """The chosen setting of each method with one field swept over values."""
    ((field, grid),) = values.items()
    return [
        _chosen(profile, domain, method, TUNING_SEED, **{field: value})
        for method in methods
        for value in grid
    ]


def _batch_size(profile: str, domain: str) -> Specs:
    return _swept(profile, domain, PAPER_METHODS, batch_size=SIZES)


def _forget_size(profile: str, domain: str) -> Specs:
    # The whole set is None, not 64: so these runs are the same runs as other studies'.
    return _swept(profile, domain, PAPER_METHODS, forget_size=(*SIZES[:-1], None))


def _retain_weight(profile: str, domain: str) -> Specs:
    methods = [name for name in PAPER_METHODS if get_method(name).retain is not None]
    return _swept(profile, domain, methods, retain_weight=RETAIN_WEIGHTS)


def _schedule(profile: str, domain: str) -> Specs:
    return [
        _chosen(profile, domain, method, TUNING_SEED, schedule=schedule, warmup=warmup)
        for method in PAPER_METHODS
        for schedule, warmup in SHAPES
    ]


def _sequential(profile: str, domain: str) -> Specs:
    """The forget set in one request or in several: three passes over each document in all.

    Small batches, so that even the last of 16 requests has some updates; four times as many
    updates of a fourth of the chosen step, because Adam's steps are per update.
    """
    return [
        chosen.replace(
            learning_rate=chosen.learning_rate / 4,
            batch_size=BATCH // 4,
            updates=4 * UPDATES // requests,
            requests=requests,
        )
        for method in PAPER_METHODS
        for chosen in [_chosen(profile, domain, method, TUNING_SEED)]
        for requests in REQUESTS
    ]


def _published(profile: str, domain: str) -> Specs:
    """The chosen settings, on a model whose training data nobody outside knows.

    They were chosen for vanilla: the same dose, on a model that was never shown the forget set
    again, is what tells apart what unlearning does from what there was to unlearn.
    """
    seed = get_profile(profile).seeds[0]
    return [_chosen(profile, domain, method, seed, base="published") for method in PAPER_METHODS]


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("rates", "learning rates per method; chooses the main study's settings", _rates),
        Study("main", "seven methods on three domains, three seeds", _main),
        Study("trajectory", "perplexities and membership after every update", _trajectory),
        Study("alignment", "the release's label positions beside the aligned ones", _alignment),
        Study(
            "robust_region", "learning rate x updates: which settings are usable", _robust_region
        ),
        Study("region_seeds", "the robust region with two other seeds, two methods", _region_seeds),
        Study("forget_size", "from one document to the whole forget set", _forget_size),
        Study("retain_weight", "weight of the retain term, over three decades", _retain_weight),
        Study("batch_size", "documents per update", _batch_size),
        Study("sequential", "one request after another against all at once", _sequential),
        Study("schedule", "shape of the learning rate, with and without warm-up", _schedule),
        Study(
            "published",
            "the published model itself: membership unknown, no oracle",
            _published,
            base="published",
        ),
    )
}


def get_study(name: str) -> Study:
    """The study of that name; `UnlearnError` lists the valid ones, nearest first."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


# --- settings: chosen by a rule from the study `rates` -------------------------------------------


def settings_path() -> Path:
    """Where the chosen settings are kept: PROFILE -> domain -> method -> fields of `RunSpec`."""
    return data_folder() / "settings.json"


def settings(profile: str, domain: str, method: str) -> dict[str, Any]:
    """The chosen hyperparameters of a method on a domain (see `Profile.settings_of`)."""
    profile, domain = get_profile(profile).settings_of or (profile, domain)
    try:
        table = json.loads(settings_path().read_text())
        return dict(table[profile][domain][method])
    except (OSError, ValueError, KeyError) as error:
        raise UnlearnError(
            f"no settings are chosen for {method!r} on {domain!r} at profile {profile!r}: run "
            f"`unlearn study rates --profile {profile} --domain {domain} --choose` first."
        ) from error


def choose(rates: Iterable[Record], vanilla: Record) -> dict[str, dict[str, Any]]:
    """Per method the setting of the study `rates` with the least `shortfall`.

    The oracle has no say: a practitioner has none.
    """
    by_method: dict[str, list[Record]] = {}
    for record in rates:
        by_method.setdefault(record.spec["method"], []).append(record)
    return {
        method: {
            "learning_rate": min(
                [r for r in records if r.status == "done"] or records,
                key=lambda record: _shortfall(record, vanilla),
            ).spec["learning_rate"]
        }
        for method, records in by_method.items()
    }


def _shortfall(record: Record, vanilla: Record) -> float:
    """The `shortfall` of a run; the target is vanilla's perplexity on the approximate set."""
    forget, general = (record.metrics[f"{split}/perplexity"] for split in ("forget", "general"))
    before = vanilla.metrics
    return shortfall(
        forget, before["approximate/perplexity"], general, before["general/perplexity"]
    )


def write_settings(profile: str, domain: str, chosen: dict[str, dict[str, Any]]) -> None:
    """Merge the choice for one domain into `settings_path()`."""
    path = settings_path()
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UnlearnError(
            f"the settings in {path} cannot be read ({type(error).__name__}): restore the file "
            "from the repository, or delete it and choose all settings anew."
        ) from error
    table.setdefault(profile, {})[domain] = chosen
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    write_file(path, text.encode("utf-8"), replace=True)


# --- running -------------------------------------------------------------------------------------


def published_files() -> list[Path]:
    """The published records, `data/results/*.parquet`."""
    return sorted((data_folder() / "results").glob("*.parquet"))


def default_store() -> Store:
    """The local store: $UNLEARN_STORE, else `runs/` in this folder."""
    import os

    return Store(Path(os.environ.get("UNLEARN_STORE", "runs")))


def open_library(store: Store | None = None, fresh: bool = False) -> Library:
    """Local records (of `store`) before published ones; `fresh` leaves the published ones out."""
    return Library([] if fresh else published_files(), store)


def baseline_key(bench: Bench, profile: str, which: str, base: str = "vanilla") -> str:
    """The key of the scores of vanilla or of the oracle on a bench's data."""
    return run_key(_baseline_spec(bench, profile, which, base), bench.data_hash, bench.model_hash)


def _baseline_spec(bench: Bench, profile: str, which: str, base: str) -> dict[str, Any]:
    if which not in BASELINES:
        raise unknown("baseline", which, BASELINES)
    spec = {"profile": profile, "domain": bench.data.domain, "baseline": which, "seed": 0}
    return spec if base == "vanilla" else spec | {"base": base}


def baseline(bench: Bench, profile: str, which: str, base: str = "vanilla") -> Record:
    """Vanilla's or the oracle's own scores, as a record of kind "score".

    The vanilla model's distance to the oracle is in its metrics; the oracle's own is 0. Its key
    holds vanilla's hash on both sides: the oracle is the reference of that vanilla. Where `base`
    is "published", that model stands in vanilla's place.
    """
    started = time.time()
    model = bench.model if which == "vanilla" else bench.oracle
    if model is None:
        raise UnlearnError(
            f"{bench.data.domain!r} at profile {profile!r} has no oracle: train one, or leave its "
            "line out."
        )
    metrics, documents, _ = evaluate(bench, model)
    return Record(
        key=baseline_key(bench, profile, which, base),
        kind="score",
        status="done",
        spec=_baseline_spec(bench, profile, which, base),
        data_hash=bench.data_hash,
        model_hash=bench.model_hash,
        metrics=metrics,
        documents=documents,
        provenance=provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=str(next(model.parameters()).device),
            command=f"unlearn study main --profile {profile} --domain {bench.data.domain}",
        ),
    )


@dataclass(frozen=True)
class StudyResult:
    """The records of a study, how many of them this call computed, and how many there should be.

    busy    runs that another process had claimed
    wanted  runs of the whole grid (0: not counted)
    left    of a shard: runs of the whole grid that have no record yet, whoever is to compute them
    """

    records: list[Record]
    baselines: list[Record]
    computed: int
    busy: int = 0
    wanted: int = 0
    left: int = 0


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of a study that is divided among `count` workers."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from "I/N", as in "2/8"; `UnlearnError` for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UnlearnError(
                f"the shard is {text!r}: write I/N with a whole number I from 1 to N, as in 2/8."
            )
        return cls(int(match[1]), int(match[2]))

    def takes(self, place: int) -> bool:
        """Whether the place (from 0) in a study's order is this shard's: every `count`-th is."""
        return place % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def run_study(
    name: str,
    profile: str = "lab",
    domains: Sequence[str] = DOMAINS,
    *,
    store: Store | None = None,
    fresh: bool = False,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    benches: Callable[[str, str], Bench] | None = None,
    progress: bool = True,
    shard: Shard | None = None,
) -> StudyResult:
    """Compute what is missing of a study and return all of it, in the grid's order.

    Records that are published or in `store` are not computed again (`fresh`: published ones do
    not count). A run that another process has claimed is left to it and counted as busy.

    With a `shard` only its part is computed and returned. Which part that is follows from the
    grid alone (the same arguments give the same parts, whatever is recorded already and whichever
    domains have an oracle), so a worker that starts again goes on with what was its own.
    """
    study = get_study(name)
    store = store or default_store()
    library = open_library(store, fresh)
    open_one = benches or (lambda p, d: open_bench(p, d, models=Models(base=study.base)))
    records: list[Record] = []
    baselines: list[Record] = []
    grid: list[tuple[RunSpec, str | None]] = []  # and the run's key, where its bench was opened
    computed = busy = 0
    places = itertools.count()
    for domain in domains:
        specs = [
            spec
            for spec in study.runs(profile, domain)
            if (methods is None or spec.method in methods) and (seeds is None or spec.seed in seeds)
        ]
        # An oracle keeps its place where there is none: no shard depends on what is at hand.
        whole = [(next(places), wanted) for wanted in (*BASELINES, *specs)]
        mine = [wanted for place, wanted in whole if shard is None or shard.takes(place)]
        if not mine:  # spare the loading
            grid += [(spec, None) for spec in specs]
            continue
        bench = open_one(profile, domain)
        grid += [(spec, key_of(bench, spec)) for spec in specs]
        bar = tqdm(mine, desc=f"{name} {domain}", disable=not progress)
        for wanted in bar:
            if wanted == "oracle" and bench.oracle is None:
                continue
            is_run = isinstance(wanted, RunSpec)
            key = (
                key_of(bench, wanted)
                if is_run
                else baseline_key(bench, profile, wanted, study.base)
            )
            if key not in library:
                with store.claim(key) as ours:
                    if not ours:
                        busy += 1
                        continue
                    if key not in store:
                        store.put(
                            execute(bench, wanted)[1]
                            if is_run
                            else baseline(bench, profile, wanted, study.base)
                        )
                        computed += 1
            (records if is_run else baselines).append(library.get(key))
    left = 0 if shard is None else _left(grid, library)
    return StudyResult(records, baselines, computed, busy, len(grid), left)


def _left(grid: Sequence[tuple[RunSpec, str | None]], library: Library) -> int:
    """How many runs of a grid have no record.

    Loading models only to count would be dear: a run whose key is not known counts as recorded
    if any record has its spec.
    """
    specs: set[str] = set()
    if any(key is None for _, key in grid):
        specs = {json.dumps(r.spec, sort_keys=True) for r in library.records() if r.kind == "run"}
    return sum(
        json.dumps(spec.as_dict(), sort_keys=True) not in specs
        if key is None
        else key not in library
        for spec, key in grid
    )


def load_study(
    name: str, profile: str = "lab", domains: Sequence[str] = DOMAINS, store: Store | None = None
) -> StudyResult:
    """The records of a study that are at hand, computed or published; computes nothing.

    Records are matched by their spec, so a reader needs neither model nor torch time. Raises
    UnlearnError if there is none at all.
    """
    base = get_study(name).base
    result = _matching(name, _specs(name, profile, domains), profile, domains, store, base)
    if not result.records:
        raise UnlearnError(
            f"there is no record of study {name!r} at profile {profile!r}: run "
            f"`unlearn study {name} --profile {profile}` first."
        )
    if missing := result.wanted - len(result.records):
        logger.warning("study %s lacks %d of %d records", name, missing, result.wanted)
    return result


def at_hand(
    name: str, profile: str = "lab", domains: Sequence[str] = DOMAINS, store: Store | None = None
) -> StudyResult:
    """`load_study` for a chapter that can say what is missing: no records are no error.

    Nor is it that a study's settings have not been chosen at a profile yet.
    """
    base = get_study(name).base
    try:
        specs = _specs(name, profile, domains)
    except UnlearnError as error:
        logger.warning("%s", error)
        specs = []
    return _matching(name, specs, profile, domains, store, base)


def joined(parts: Iterable[StudyResult]) -> StudyResult:
    """The same study at several profiles, each with domains of its own, as one.

    A figure or table looks up vanilla and oracle by domain, so no domain may be in two of them.
    """
    parts = list(parts)
    owner: dict[str, int] = {}
    for order, part in enumerate(parts):
        for record in (*part.records, *part.baselines):
            domain = record.spec["domain"]
            if owner.setdefault(domain, order) != order:
                raise UnlearnError(
                    f"the domain {domain!r} is in two of the profiles that are joined, and each "
                    "has its own vanilla: show them one after the other."
                )
    return StudyResult(
        [r for part in parts for r in part.records],
        [r for part in parts for r in part.baselines],
        sum(part.computed for part in parts),
        wanted=sum(part.wanted for part in parts),
    )


def _specs(name: str, profile: str, domains: Sequence[str]) -> Specs:
    return [spec for domain in domains for spec in get_study(name).runs(profile, domain)]


def _published_records(name: str, profile: str, specs: Specs) -> list[Record]:
    """Published records of a profile, by key: those of a study's own file, and the baselines.

    A study's file holds all of its records, runs that other studies share among them. Where it
    lacks a run, as one that was published in part, every file of the profile is read.
    """
    files = {path.stem: path for path in published_files()}
    own = [files[stem] for stem in (f"{profile}-{name}", f"{profile}-baselines") if stem in files]
    records = {r.key: r for path in own for r in read_parquet(path)}
    recorded = {_text(r.spec) for r in records.values()}
    if any(_text(spec.as_dict()) not in recorded for spec in specs):
        every = [path for stem, path in files.items() if stem.startswith(f"{profile}-")]
        records = {r.key: r for path in every for r in read_parquet(path)}
    return [records[key] for key in sorted(records)]


def _matching(
    name: str,
    specs: Specs,
    profile: str,
    domains: Sequence[str],
    store: Store | None,
    base: str = "vanilla",
) -> StudyResult:
    """The records of some specs of a study, in their order, and the baselines of the domains.

    Published ones come first; the local store fills in what was computed here and is not published.
    (Whoever asks for a run by its key, `Library`, gets the local record first: it is the same.)
    A model that was trained again may be another one, so all records of a domain are of one
    starting model, that of most of them.
    """
    wanted = {_text(spec.as_dict()): order for order, spec in enumerate(specs)}
    found: dict[tuple[str, str], dict[int, Record]] = {}  # by domain and starting model
    scores: dict[tuple[str, str], Record] = {}
    local = Library([], store or default_store())
    for record in itertools.chain(_published_records(name, profile, specs), local.records()):
        if record.kind == "run":
            place = wanted.get(_text(record.spec))
            if place is not None:
                start = record.spec["domain"], record.model_hash
                found.setdefault(start, {}).setdefault(place, record)
        elif (
            record.kind == "score"
            and record.spec.get("profile") == profile
            and record.spec["domain"] in domains
            and record.spec.get("base", "vanilla") == base
        ):
            scores.setdefault((_text(record.spec), record.model_hash), record)
    chosen: dict[str, str] = {}
    for (domain, model), runs in found.items():
        if domain not in chosen or len(runs) > len(found[domain, chosen[domain]]):
            chosen[domain] = model
    placed = {p: r for start in chosen.items() for p, r in found[start].items()}
    baselines = [
        r for r in scores.values() if r.model_hash == chosen.get(r.spec["domain"], r.model_hash)
    ]
    return StudyResult(
        [placed[place] for place in sorted(placed)], baselines, 0, wanted=len(wanted)
    )


def state_in_words(name: str, profile: str, result: StudyResult) -> str:
    """What is missing of a study, as Markdown; empty if nothing is."""
    command = f"`unlearn study {name} --profile {profile}`"
    if not result.records:
        return (
            f"*The study `{name}` has no records at the profile `{profile}` yet, so its figures "
            f"and tables are left out here. {command} computes it.*"
        )
    if len(result.records) < result.wanted:
        return (
            f"*Of the study `{name}`, {len(result.records)} of {result.wanted} runs are recorded; "
            f"what follows is of those. {command} computes the others.*"
        )
    return ""


def publish_records(profile: str, records: Iterable[Record]) -> dict[str, int]:
    """Publish records that were computed elsewhere, each under every study that it belongs to.

    No model is needed: a record belongs to a study if its spec is in the study's grid. Of a study
    and a domain only records of one starting model are published, that of most of them: a model
    that was trained again may be another one. Returns study -> records published.
    """
    records = list(records)
    folder = data_folder() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    models: set[str] = set()
    for name, study in STUDIES.items():
        chosen: list[Record] = []
        grid: Specs = []
        for domain in get_profile(profile).domains:
            try:
                wanted = study.runs(profile, domain)
            except UnlearnError:
                continue  # its settings have not been chosen
            grid += wanted
            specs = [spec.as_dict() for spec in wanted]
            found = [r for r in records if r.kind == "run" and r.spec in specs]
            hashes = [r.model_hash for r in found]
            most = max(hashes, key=hashes.count, default="")
            chosen += [r for r in found if r.model_hash == most]
            if left := len(found) - hashes.count(most):
                logger.warning(
                    "%d records of study %s on %s are of another model and are left out",
                    left, name, domain,
                )  # fmt: skip
        if chosen:
            counts[name] = len(chosen)
            models |= {r.model_hash for r in chosen}
            _merge(folder / f"{profile}-{name}.parquet", chosen, grid)
    baselines = [
        r
        for r in records
        if r.kind == "score" and r.spec.get("profile") == profile and r.model_hash in models
    ]
    if baselines:
        counts["baselines"] = len(baselines)
        _merge(folder / f"{profile}-baselines.parquet", baselines)
    return counts


def publish(name: str, profile: str, result: StudyResult) -> Path:
    """Write a study's records to `data/results/PROFILE-STUDY.parquet`, and the baselines too."""
    folder = data_folder() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile}-{name}.parquet"
    domains = list(dict.fromkeys(record.spec["domain"] for record in result.records))
    _merge(path, result.records, _specs(name, profile, domains))
    _merge(folder / f"{profile}-baselines.parquet", result.baselines)
    return path


def _merge(path: Path, records: Sequence[Record], grid: Iterable[RunSpec] = ()) -> None:
    """Add records to a published file; those of other domains stay, equal ones are replaced.

    The runs of a domain are of one starting model: those of another go when the new ones are at
    least as many of the `grid`. Of fewer, both stay: a part is no reason to lose the whole, and who
    reads the file takes the runs of the model that has most (`_matching`). Scores of vanilla and
    oracle stay for every starting model: studies may differ in theirs.
    """
    kept = {_place(r): r for r in read_parquet(path)} if path.exists() else {}
    kept.update({_place(r): r for r in records})
    wanted = {_text(spec.as_dict()) for spec in grid}
    for domain in {r.spec["domain"] for r in records if r.kind == "run"}:
        count: Counter[str] = Counter()
        for (spec, model), r in kept.items():
            if r.kind == "run" and r.spec["domain"] == domain:
                count[model] += spec in wanted  # 0 for a model of whose runs none is wanted
        new = {r.model_hash for r in records if r.kind == "run" and r.spec["domain"] == domain}
        most = max(count[model] for model in new)
        old = {model for model in count if model not in new and count[model] <= most}
        if more := sorted(set(count) - new - old):
            logger.warning(
                "%s: on %s another model (%s) has %d runs, more than the %d of the new one: both "
                "stay, and its runs are shown",
                path.name, domain, more[0][:12], count[more[0]], most,
            )  # fmt: skip
        kept = {
            place: r
            for place, r in kept.items()
            if r.kind != "run" or r.spec["domain"] != domain or r.model_hash not in old
        }
    write_parquet(kept.values(), path)


def _place(record: Record) -> tuple[str, str]:
    """What a record replaces in a published file: the one of the same spec and starting model."""
    return _text(record.spec), record.model_hash


def _text(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


def average(values: Sequence[float]) -> float:
    """The mean, NaN for none."""
    return fmean(values) if values else math.nan
