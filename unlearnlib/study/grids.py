"""Studies: named grids of runs behind the figures and tables.

A study is a function from a profile and a domain to a list of run specs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unlearnlib.errors import unknown
from unlearnlib.profiles import COMPARED, PAPER_METHODS, WITH_RETAIN_TERM, get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.study.chosen import BATCH, UPDATES, settings

TUNING_SEED = get_profile("lab").tuning_seed
RATES = get_profile("lab").rates
MAIN_SEEDS = get_profile("lab").seeds

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
    start = RunSpec(updates=scale.updates, seed=scale.tuning_seed)
    return _by_rate(profile, domain, start, PAPER_METHODS, scale.rates)


def _by_rate(
    profile: str, domain: str, start: RunSpec, methods: Sequence[str], rates: Sequence[float]
) -> Specs:
    """Each method at each learning rate; `start` has what the runs share besides the profile's."""
    shared = start.replace(
        profile=profile, domain=domain, batch_size=BATCH, precision=get_profile(profile).precision
    )
    return [
        shared.replace(method=method, learning_rate=rate) for method in methods for rate in rates
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
    region = get_profile(profile).region
    start = RunSpec(updates=region.updates, seed=seed, probe_every=region.every)
    methods = methods or region.methods or PAPER_METHODS
    return _by_rate(profile, domain, start, methods, region.rates)


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
    return _swept(profile, domain, WITH_RETAIN_TERM, retain_weight=RETAIN_WEIGHTS)


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

    The settings were chosen for vanilla, which was trained on the forget set again. How much less
    they change the published model shows how much of the change is due to that training.
    """
    seed = get_profile(profile).seeds[0]
    return [_chosen(profile, domain, method, seed, base="published") for method in PAPER_METHODS]


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("rates", "learning rates per method; chooses the main study's settings", _rates),
        Study("main", "seven methods on three domains, three seeds", _main),
        Study("trajectory", "perplexities and membership after every update", _trajectory),
        Study("alignment", "the release's labels beside the aligned ones", _alignment),
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


def specs_of(name: str, profile: str, domains: Sequence[str]) -> Specs:
    return [spec for domain in domains for spec in get_study(name).runs(profile, domain)]
