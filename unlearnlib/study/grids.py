"""Studies: named grids of runs behind the figures and tables.

A study is a function from a profile and a domain to a list of run specs. Whoever asks for it may
put other values in the place of its own (`Asked`), so that any setting can be run and drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import (
    COMPARED,
    LATER_METHODS,
    PAPER_METHODS,
    WITH_RETAIN_TERM,
    get_profile,
)
from unlearnlib.spec import SHORTEST, RunSpec
from unlearnlib.study.chosen import BATCH, settings

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

# Of the study `modern`: rates as multiples of the chosen one, of the paper's method in
# `LATER_METHODS` for a later row. Harm at equal forgetting hardly depends on the rate, so two do.
MODERN_FACTORS = (1.0, 3.0)
# Other strengths than the row's: defaults are for answers that the model knows by heart, and beside
# descent they weigh documents that it does not know so well by almost nothing, so that WGA and
# SatImp with their defaults never reach the retrained model. SimNPO's is its authors' for MUSE,
# WGA's open-unlearning's, and SatImp's the same for the same power of p, with the retain weight
# that its authors have.
MODERN_SETTINGS: dict[str, dict[str, float]] = {
    "simnpo": {"beta": 0.7},
    "simnpo_gd_in_dist": {"beta": 0.7},
    "wga": {"beta": 1.0},
    "wga_gd_in_dist": {"beta": 1.0},
    "satimp": {"beta": 1.0},
    "satimp_gd_in_dist": {"beta": 1.0, "retain_weight": 0.1},
}
# Of the study `chunk_beta`: chunk lengths as parts of the profile's, and strengths of NPO.
CHUNK_PARTS = (8, 4, 2, 1)
CHUNK_BETAS = (0.01, 0.1, 1.0, 4.0)
CHUNK_METHODS = ("npo", "tnpo")  # by sequences, by tokens

Specs = list[RunSpec]

# Of every study: which methods and seeds, and in place of the chosen settings.
COMMON_AXES = ("methods", "seeds", "rates", "updates")


@dataclass(frozen=True)
class Asked:
    """Values that are asked of a study in place of its own; None: the study's own.

    methods         names in `METHODS`
    seeds           orders of the documents
    rates           learning rates
    updates         numbers of updates; of a study that is measured along its runs, where
    batch_sizes     documents per update
    retain_weights  weights of the retain term
    sizes           numbers of documents to forget
    requests        into how many requests the forget set is divided
    schedules       (shape, share of the updates that warm up), as ("linear", 0.25)
    bases           which of a profile's models is unlearned (see `RunSpec.base`)
    exposures       how often the model read the documents to forget; 0: all documents
    lengths         tokens per chunk
    """

    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    rates: Sequence[float] | None = None
    updates: Sequence[int] | None = None
    batch_sizes: Sequence[int] | None = None
    retain_weights: Sequence[float] | None = None
    sizes: Sequence[int] | None = None
    requests: Sequence[int] | None = None
    schedules: Sequence[tuple[str, float]] | None = None
    bases: Sequence[str] | None = None
    exposures: Sequence[int] | None = None
    lengths: Sequence[int] | None = None

    def only(self, axes: Iterable[str]) -> Asked:
        """The values of some axes alone."""
        return Asked(**{axis: getattr(self, axis) for axis in axes})


OWN = Asked()  # nothing in place of a study's own values
AXES = tuple(field.name for field in dataclasses.fields(Asked))
Grid = Callable[[str, str, Asked], Specs]


@dataclass(frozen=True)
class Study:
    """A named grid of runs.

    grid   (profile, domain, values asked for) -> the specs of one domain
    axis   what the grid varies beside `COMMON_AXES`: a field of `Asked`
    base   which model its baselines are of where no runs are asked for (see `RunSpec`)
    """

    name: str
    about: str
    grid: Grid
    axis: str | None = None
    base: str = "vanilla"

    @property
    def axes(self) -> tuple[str, ...]:
        """The fields of `Asked` that the grid takes."""
        return COMMON_AXES if self.axis is None else (*COMMON_AXES, self.axis)

    def runs(self, profile: str, domain: str, asked: Asked = OWN) -> Specs:
        """The specs for one domain. Values of axes that the study has not are refused."""
        for name in AXES:
            if getattr(asked, name) is not None and name not in self.axes:
                raise UnlearnError(
                    f"{name} is given, and study {self.name!r} does not vary it: leave it out, or "
                    f"give {', '.join(self.axes[:-1])} or {self.axes[-1]}."
                )
        return self.grid(profile, domain, asked)

    def by_base(self, specs: Iterable[RunSpec]) -> list[tuple[str, Specs]]:
        """Runs by the model that they unlearn; without runs those of `base`, none."""
        groups: dict[str, Specs] = {}
        for spec in specs:
            groups.setdefault(spec.base, []).append(spec)
        return list(groups.items()) or [(self.base, [])]


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


def _chosen(profile: str, domain: str, asked: Asked, method: str, seed: int, **more: Any) -> Specs:
    """A method at its chosen setting, or at the rates and numbers of updates asked for."""
    scale = get_profile(profile)
    own = settings(profile, domain, method) if asked.rates is None else {}
    rates = [{"learning_rate": rate} for rate in asked.rates or ()] or [{}]
    start = RunSpec(profile, domain, method, batch_size=BATCH, seed=seed).replace(
        precision=scale.precision
    )
    return [
        start.replace(**{"updates": updates, **own, **rate, **more})
        for rate in rates
        for updates in asked.updates or (scale.updates,)
    ]


def _rates(profile: str, domain: str, asked: Asked) -> Specs:
    scale = get_profile(profile)
    return [
        spec
        for seed in asked.seeds or (scale.tuning_seed,)
        for updates in asked.updates or (scale.updates,)
        for spec in _by_rate(
            profile,
            domain,
            RunSpec(updates=updates, seed=seed),
            asked.methods or PAPER_METHODS,
            asked.rates or scale.rates,
        )
    ]


def _main(profile: str, domain: str, asked: Asked) -> Specs:
    return [
        spec
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or get_profile(profile).seeds
        for spec in _chosen(profile, domain, asked, method, seed)
    ]


def _trajectory(profile: str, domain: str, asked: Asked) -> Specs:
    return [
        spec
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or (0,)
        for spec in _chosen(profile, domain, asked, method, seed, probe_every=1)
    ]


def _alignment(profile: str, domain: str, asked: Asked) -> Specs:
    return [
        spec
        for method in asked.methods or ("random_label", "adversarial")
        for seed in asked.seeds or get_profile(profile).seeds
        for spec in _chosen(profile, domain, asked, method, seed, label_alignment="release")
    ]


def _robust_region(profile: str, domain: str, asked: Asked) -> Specs:
    """One run per rate: with a constant schedule its first u updates are the run of u updates."""
    own = get_profile(profile).region.methods or PAPER_METHODS
    return _region(profile, domain, asked, (get_profile(profile).tuning_seed,), own)


def _region_seeds(profile: str, domain: str, asked: Asked) -> Specs:
    """The same settings with other orders of the documents, of the methods that C3 compares."""
    return _region(profile, domain, asked, REGION_SEEDS, COMPARED)


def _region(
    profile: str, domain: str, asked: Asked, seeds: Sequence[int], methods: Sequence[str]
) -> Specs:
    region = get_profile(profile).region
    most, every = region.updates, region.every
    if asked.updates is not None:
        most, every = max(asked.updates), math.gcd(*asked.updates)
    return [
        spec
        for seed in asked.seeds or seeds
        for spec in _by_rate(
            profile,
            domain,
            RunSpec(updates=most, seed=seed, probe_every=every),
            asked.methods or methods,
            asked.rates or region.rates,
        )
    ]


def _swept(
    profile: str, domain: str, asked: Asked, methods: Sequence[str], **values: Sequence[Any]
) -> Specs:
    """The chosen setting of each method with one field swept over values."""
    ((field, grid),) = values.items()
    return [
        spec
        for method in asked.methods or methods
        for seed in asked.seeds or (TUNING_SEED,)
        for value in grid
        for spec in _chosen(profile, domain, asked, method, seed, **{field: value})
    ]


def _batch_size(profile: str, domain: str, asked: Asked) -> Specs:
    return _swept(profile, domain, asked, PAPER_METHODS, batch_size=asked.batch_sizes or SIZES)


def _forget_size(profile: str, domain: str, asked: Asked) -> Specs:
    # The whole set is None, not 64: so these runs are the same runs as other studies'.
    sizes = asked.sizes or (*SIZES[:-1], None)
    return _swept(profile, domain, asked, PAPER_METHODS, forget_size=sizes)


def _retain_weight(profile: str, domain: str, asked: Asked) -> Specs:
    weights = asked.retain_weights or RETAIN_WEIGHTS
    return _swept(profile, domain, asked, WITH_RETAIN_TERM, retain_weight=weights)


def _schedule(profile: str, domain: str, asked: Asked) -> Specs:
    return [
        spec
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or (TUNING_SEED,)
        for shape, warmup in asked.schedules or SHAPES
        for spec in _chosen(profile, domain, asked, method, seed, schedule=shape, warmup=warmup)
    ]


def _sequential(profile: str, domain: str, asked: Asked) -> Specs:
    """The forget set in one request or in several: three passes over each document in all.

    Small batches, so that even the last of 16 requests has some updates; four times as many
    updates of a fourth of the chosen step, because Adam's steps are per update. Where there are
    more requests than updates, each request gets one.
    """
    return [
        chosen.replace(
            learning_rate=chosen.learning_rate / 4,
            batch_size=BATCH // 4,
            updates=max(1, 4 * chosen.updates // requests),
            requests=requests,
        )
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or (TUNING_SEED,)
        for chosen in _chosen(profile, domain, asked, method, seed)
        for requests in asked.requests or REQUESTS
    ]


def _published(profile: str, domain: str, asked: Asked) -> Specs:
    """The chosen settings, on a model whose training data nobody outside knows.

    The settings were chosen for vanilla, which was trained on the forget set again. How much less
    they change the published model shows how much of the change is due to that training.
    """
    return [
        spec
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or get_profile(profile).seeds[:1]
        for spec in _chosen(profile, domain, asked, method, seed, base="published")
    ]


def _stopping(
    profile: str,
    domain: str,
    asked: Asked,
    method: str,
    seed: int,
    divisors: Sequence[float],
    **more: Any,
) -> Specs:
    """A method at parts of its chosen rate, until it has forgotten as much as the retrained model.

    It is measured after every update, so that all methods can be compared where they have forgotten
    equally much. Rates that are asked for are taken as they are.
    """
    most = asked.updates or (get_profile(profile).stop_updates,)
    chosen = _chosen(
        profile,
        domain,
        dataclasses.replace(asked, updates=most),
        method,
        seed,
        stop="retrained",
        probe_every=1,
        **more,
    )
    parts = divisors if asked.rates is None else (1.0,)
    return [
        spec.replace(learning_rate=spec.learning_rate / part) for spec in chosen for part in parts
    ]


def _equal_forgetting(profile: str, domain: str, asked: Asked) -> Specs:
    """Every method until it has forgotten as much as the retrained model of its vanilla."""
    scale = get_profile(profile)
    return [
        spec
        for base in asked.bases or scale.bases
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or scale.seeds
        for spec in _stopping(
            profile, domain, asked, method, seed, scale.stop_divisors[:1], base=base
        )
    ]


def _exposure(profile: str, domain: str, asked: Asked) -> Specs:
    """Every method on the documents of each exposure, until the retrained model's level.

    At more than one rate: what was read once may be forgotten in one update of the chosen rate.
    """
    scale = get_profile(profile)
    return [
        spec
        for exposure in asked.exposures or scale.exposures
        for method in asked.methods or PAPER_METHODS
        for seed in asked.seeds or scale.seeds[:1]
        for spec in _stopping(
            profile, domain, asked, method, seed, scale.stop_divisors, exposure=exposure
        )
    ]


def _modern(profile: str, domain: str, asked: Asked) -> Specs:
    """Every row until it has forgotten as much as the retrained model, at a few rates of its own.

    The seeds are the profile's: for each the rate is chosen on the others, by whoever reads them.
    """
    most = asked.updates or (get_profile(profile).stop_updates,)
    asked = dataclasses.replace(asked, updates=most)
    factors = MODERN_FACTORS if asked.rates is None else (1.0,)
    return [
        spec.replace(
            method=method,
            learning_rate=float(f"{spec.learning_rate * factor:.6g}"),
            **MODERN_SETTINGS.get(method, {}),
        )
        for method in asked.methods or (*PAPER_METHODS, *LATER_METHODS)
        for seed in asked.seeds or get_profile(profile).seeds
        for spec in _chosen(
            profile,
            domain,
            asked,
            LATER_METHODS.get(method, method),
            seed,
            stop="retrained",
            probe_every=1,
        )
        for factor in factors
    ]


def _chunk_beta(profile: str, domain: str, asked: Asked) -> Specs:
    """NPO and token-wise NPO on the same documents, cut into shorter and longer chunks.

    An update has as many tokens, whatever the length. NPO is run with each of its strengths,
    token-wise NPO with its own; both at the rate chosen for ascent, which they are at first.
    """
    whole = get_profile(profile).length
    parts = [whole // part for part in CHUNK_PARTS]
    most = asked.updates or (get_profile(profile).stop_updates,)
    return [
        spec.replace(
            method=method,
            length=None if length == whole else length,
            batch_size=max(1, BATCH * whole // length),
            **({} if beta is None else {"beta": beta}),
        )
        for method in asked.methods or CHUNK_METHODS
        for beta in (CHUNK_BETAS if method == "npo" else (None,))
        for seed in asked.seeds or get_profile(profile).seeds[:1]
        for length in asked.lengths or [n for n in parts if n >= SHORTEST]
        for spec in _chosen(
            profile,
            domain,
            dataclasses.replace(asked, updates=most),
            "ga",
            seed,
            probe_every=4,
        )
    ]


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
        Study("forget_size", "from one document to the whole forget set", _forget_size, "sizes"),
        Study(
            "retain_weight",
            "weight of the retain term, over three decades",
            _retain_weight,
            "retain_weights",
        ),
        Study("batch_size", "documents per update", _batch_size, "batch_sizes"),
        Study(
            "sequential", "one request after another against all at once", _sequential, "requests"
        ),
        Study(
            "schedule",
            "shape of the learning rate, with and without warm-up",
            _schedule,
            "schedules",
        ),
        Study(
            "equal_forgetting",
            "every method until it has forgotten as much as the retrained model, on two vanillas",
            _equal_forgetting,
            "bases",
        ),
        Study(
            "exposure",
            "the same on documents that the model read once, twice, ... sixteen times",
            _exposure,
            "exposures",
        ),
        Study(
            "modern",
            "the paper's methods and those since, until each has forgotten as much as retraining",
            _modern,
        ),
        Study(
            "chunk_beta",
            "chunk length x strength of NPO, beside token-wise NPO",
            _chunk_beta,
            "lengths",
        ),
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


def specs_of(name: str, profile: str, domains: Sequence[str], asked: Asked = OWN) -> Specs:
    """The specs of a study for some domains, one domain after the other."""
    return [spec for domain in domains for spec in get_study(name).runs(profile, domain, asked)]
