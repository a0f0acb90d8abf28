"""Profiles: the scales at which everything runs, and how the texts of each are loaded.

A profile names a model, a source of documents (`CORPORA`) and the grid of its studies; a new one is
a row in `PROFILES`. `load_domain` gives the five splits of one of its domains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unlearnlib.corpus.documents import DomainData, clip
from unlearnlib.corpus.files import checked_limits
from unlearnlib.corpus.texts import YOURS as YOURS
from unlearnlib.errors import UnlearnError, unknown

Alignment = Literal[
    "aligned", "release"
]  # of labels; the release's adversarial ones are off by one
Precision = Literal["float32", "float64", "bfloat16"]

DOMAINS = ("arxiv", "github", "books")  # the paper's; a profile may have others
# The paper's seven methods, in its order: what studies run and the book compares. A method that
# comes to `methods.METHODS` later changes neither.
PAPER_METHODS = (
    "ga",
    "random_label",
    "adversarial",
    "ga_gd_general",
    "ga_gd_in_dist",
    "ga_kl_general",
    "ga_kl_in_dist",
)
# Those of them that have a retain term: known here, so that naming a grid needs no torch.
WITH_RETAIN_TERM = ("ga_gd_general", "ga_gd_in_dist", "ga_kl_general", "ga_kl_in_dist")
# Rows that came after the paper, which the study `modern` compares with its seven. Of each: the
# method of the paper whose chosen rate its own are measured by, one with the same retain data.
LATER_METHODS = {
    **{name: "ga" for name in ("npo", "tnpo", "simnpo", "wga", "satimp", "ceu")},
    **{name: "random_label" for name in ("undial", "max_entropy")},
    **{
        f"{name}_gd_in_dist": "ga_gd_in_dist"
        for name in (
            "npo", "tnpo", "simnpo", "wga", "satimp", "ceu", "undial", "max_entropy"
        )
    },
    "ga_js_general": "ga_kl_general",
    "ga_js_in_dist": "ga_kl_in_dist",
}  # fmt: skip
COMPARED = ("ga", "ga_gd_in_dist")  # by the paper's claim of robustness: without, with retain term


@dataclass(frozen=True)
class Region:
    """The grid of the study `robust_region`: learning rates x numbers of updates.

    rates    even in the logarithm
    updates  of a run, which is measured after every `every` of them; with a constant schedule
             those are the runs of so many updates
    every    0: at the end alone, so that a run is one setting
    methods  those that are compared (none: all)
    """

    rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    updates: int = 24
    every: int = 3
    methods: tuple[str, ...] = ()

    @property
    def settings(self) -> int:
        """Settings of one method on one domain."""
        return len(self.rates) * (self.updates // self.every if self.every else 1)


@dataclass(frozen=True)
class Profile:
    """A scale at which everything runs.

    model       where the vanilla model comes from: trained here (the profile's name), a hub id or
                a folder
    corpus      "fictitious", "stream", "public", "hub" or another name in `CORPORA`
    length      tokens per chunk
    prefix      target tokens given before verbatim extraction is measured
    continued   vanilla is not `model` itself but `model` trained further on forget and retain
                sets, and so there are oracles (see `continue_pretraining.py`)
    domains     those that its corpus has: the paper's, some of them, or others
    limits      documents per split, (split, count) pairs; a split that is not named is whole
    clipped     of each document only the first `length` tokens are taken
    seeds       of the study `main`
    updates     per run of a study
    rates       learning rates of the study `rates`, which chooses the settings
    tuning_seed of that study
    precision   of the studies' runs
    region      the grid of the study `robust_region`
    retrained   models retrained per domain of a profile that is trained here from scratch; with
                more than one there is a second vanilla, too
    yours       those of the domains whose texts nobody published: a user gives them (`left_out`)
    settings_of (profile, domain) whose chosen settings the studies take, so that nothing is chosen
                from the runs that are reported; None: each domain's own, which `rates` chooses
    exposures   of the documents to forget, which the study `exposure` compares
    stop_updates    most updates of a run that stops at the retrained model
    stop_divisors   of the chosen learning rate, for such runs: `equal_forgetting` has the first,
                    `exposure` all. The chosen rate is the one that forgets enough in `updates`
                    updates, so a divisor of 1 gets there in about as many: on the lab's domains, 10
                    to 18 of the 32 that there may be
    """

    name: str
    model: str
    corpus: str
    length: int
    prefix: int
    about: str
    continued: bool = False
    domains: tuple[str, ...] = DOMAINS
    limits: tuple[tuple[str, int], ...] = ()
    clipped: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 12
    rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3)
    precision: Precision = "float32"
    tuning_seed: int = 100  # the settings are chosen on a seed that the main study does not use
    region: Region = Region()
    settings_of: tuple[str, str] | None = None
    yours: tuple[str, ...] = ()
    retrained: int = 1
    exposures: tuple[int, ...] = (1, 2, 4, 8, 16)
    stop_updates: int = 32
    stop_divisors: tuple[float, ...] = (1.0, 4.0)

    @property
    def bases(self) -> tuple[str, ...]:
        """The vanillas that the study `equal_forgetting` unlearns (see `RunSpec.base`)."""
        return ("vanilla", "second") if self.retrained > 1 else ("vanilla",)

    @property
    def more_baselines(self) -> tuple[str, ...]:
        """The models of other seeds that are scored beside vanilla and the oracle.

        They measure how far two models of one recipe are apart.
        """
        oracles = [f"oracle-s{seed}" for seed in range(1, self.retrained)]
        return (*oracles, "vanilla-s1") if oracles else ()


_OPEN_CPU = Profile(
    "open_cpu",
    "HuggingFaceTB/SmolLM2-135M",
    "public",
    256,
    64,
    "the same for two CPU cores and an hour: one domain, short documents, one seed; the published "
    "records started from SmolLM2-135M-Instruct in 4 bits",
    continued=True,
    domains=("books",),
    limits=(
        ("forget", 48),
        ("retain", 192),
        ("approximate", 48),
        ("general_retain", 96),
        ("general_evaluation", 48),
    ),
    clipped=True,
    seeds=(0,),
    updates=6,
    rates=(4e-5, 6e-5),
    tuning_seed=0,  # the main study is then the better runs of this one, and costs no more
    # In steps of a factor 1.5, through the rates of the study `rates`: four runs are shared.
    region=Region(
        (2.7e-5, 4e-5, 6e-5, 9e-5),
        updates=6,
        every=0,
        methods=COMPARED,
    ),
)

PROFILES: dict[str, Profile] = {
    "lab": Profile(
        "lab",
        "lab",
        "fictitious",
        320,
        32,
        "a small Llama trained here from scratch on invented texts; any laptop, no network",
    ),
    "stream": Profile(
        "stream",
        "stream",
        "stream",
        320,
        32,
        "a small Llama trained here in one pass over invented texts, of which it is known how "
        "often each was read; any laptop, no network",
        # One pass leaves less to forget than fifteen do: the rates begin lower than the lab's.
        rates=(3e-5, 5e-5, 8e-5, 1.2e-4, 2e-4, 3e-4, 4.5e-4),
        region=Region(
            (4.5e-5, 6.7e-5, 1e-4, 1.5e-4, 2.2e-4, 3.3e-4, 5e-4, 7.5e-4), updates=24, every=4
        ),
        retrained=3,
    ),
    "open": Profile(
        "open",
        "HuggingFaceTB/SmolLM2-135M",
        "public",
        1024,
        64,
        "SmolLM2-135M, trained further on public texts at pinned commits; one GPU",
        continued=True,
        rates=(2e-5, 4e-5, 8e-5),
        # A run is then seconds on one GPU, and all studies fit into half an hour.
        precision="bfloat16",
    ),
    "open_cpu": _OPEN_CPU,
    # Models of their own, so that making one domain's does not take the texts of the others.
    **{
        f"open_cpu_{domain}": dataclasses.replace(
            _OPEN_CPU,
            name=f"open_cpu_{domain}",
            about=f"the same on {what}, with the settings that open_cpu chose on novels",
            domains=(domain,),
            settings_of=("open_cpu", "books"),
        )
        for domain, what in (("arxiv", "mathematics"), ("github", "code"))
    },
    "paper": Profile(
        "paper",
        "01-ai/Yi-6B",
        "hub",
        4096,
        64,
        "Yi-6B on the authors' published data; one 141 GB GPU or several",
        yours=("books",),
    ),
}


def get_profile(name: str) -> Profile:
    """The profile of that name; `UnlearnError` lists the valid ones, nearest first."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]


def check_domains(profile: str, domains: Iterable[str]) -> tuple[str, ...]:
    """Some domains of a profile, each once; `UnlearnError` for one that it has not."""
    valid = get_profile(profile).domains
    found = tuple(dict.fromkeys(domains))
    for domain in found:
        if domain not in valid:
            raise unknown("domain", domain, valid)
    return found


def default_domains(profile: str) -> tuple[str, ...]:
    """The domains of a profile that can be had without texts of the user's own."""
    scale = get_profile(profile)
    return tuple(domain for domain in scale.domains if domain not in scale.yours)


def left_out(profile: str) -> str:
    """Which domains a profile leaves out by default, and how they are given; empty for none."""
    if not (yours := get_profile(profile).yours):
        return ""
    names = " and ".join(yours)
    return (
        f"{names} is left out at the profile {profile!r}, since nobody published its texts: put "
        f"your own into FOLDER/{yours[0]} as forget.parquet, retain.parquet and "
        "approximate.parquet (column text), beside a copy of the published data, and give that "
        f"folder and the domain (--corpora FOLDER --domain {yours[0]}; in a notebook corpora and "
        "domains)."
    )


@dataclass(frozen=True)
class Corpus:
    """A source of documents, which profiles name.

    load    (domain, folder, limits) -> the five splits. `limits` (split -> most documents) spares
            reading more than is wanted; what is returned beyond them is cut off
    copied  there may be a local copy of the texts, so that a folder can be given; otherwise
            `folder` is None
    """

    load: Callable[[str, str | Path | None, Mapping[str, int] | None], DomainData]
    copied: bool = False


def _fictitious(
    domain: str, folder: str | Path | None, limits: Mapping[str, int] | None
) -> DomainData:
    from unlearnlib.corpus.fictitious import generate

    return generate(domain)


def _stream(domain: str, folder: str | Path | None, limits: Mapping[str, int] | None) -> DomainData:
    from unlearnlib.corpus.stream import generate

    return generate(domain)


def _public(domain: str, folder: str | Path | None, limits: Mapping[str, int] | None) -> DomainData:
    from unlearnlib.corpus.public import load_public

    return load_public(domain, folder, limits=limits)


def _hub(domain: str, folder: str | Path | None, limits: Mapping[str, int] | None) -> DomainData:
    from unlearnlib.corpus.hub import HUB_DATASET, load_hub

    return load_hub(domain, folder or HUB_DATASET, limits=limits)


# The names that `Profile.corpus` may have.
CORPORA = {
    "fictitious": Corpus(_fictitious),
    "stream": Corpus(_stream),
    "public": Corpus(_public, copied=True),
    "hub": Corpus(_hub, copied=True),
}


def load_domain(
    profile: str = "lab",
    domain: str = "books",
    folder: str | Path | None = None,
    limits: Mapping[str, int] | None = None,
) -> DomainData:
    """The five splits of a domain at a profile, from its corpus in `CORPORA`.

    `folder` is a local copy of the public texts ("open") or of the hub's data set ("paper");
    `limits` cuts splits to their first so many documents, in place of the profile's own limits.
    Documents are whole here; where a profile takes only the beginning of each, `clipped` cuts it,
    which needs the tokenizer.
    """
    scale = get_profile(profile)
    if domain not in scale.domains:
        raise unknown("domain", domain, scale.domains)
    if scale.corpus not in CORPORA:
        raise unknown("corpus", scale.corpus, CORPORA)
    corpus = CORPORA[scale.corpus]
    if folder is not None and not corpus.copied:
        raise UnlearnError(
            f"the folder {str(folder)!r} is given, and the texts of profile {profile!r} are "
            "invented here: leave it out (--corpora), or name another profile."
        )
    limits = {**dict(scale.limits), **(limits or {})} or None
    return limited(corpus.load(domain, folder, limits), limits)


def clipped(profile: str, data: DomainData, tokenizer: Any) -> DomainData:
    """The data of a profile with as much of each document as the profile takes."""
    scale = get_profile(profile)
    return clip(data, tokenizer, scale.length) if scale.clipped else data


def limited(data: DomainData, limits: Mapping[str, int] | None) -> DomainData:
    """`data` with its splits cut to their first so many documents."""
    cuts = {split: data.split(split)[:count] for split, count in checked_limits(limits).items()}
    return dataclasses.replace(data, **cuts)  # type: ignore[arg-type, unused-ignore]
