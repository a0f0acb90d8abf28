"""What a run is: `RunSpec`, and the profiles (scales) at which everything runs.

A spec holds all that can change a result and nothing that cannot: the micro-batch, the number
of processes or the device are not in it. It is checked when it is made, so that a typing error
costs a sentence and not an hour.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unlearnlib.errors import UnlearnError, unknown

Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES: tuple[str, ...] = typing.get_args(Schedule)
ALIGNMENTS = ("aligned", "release")
PRECISIONS = ("float32", "float64", "bfloat16")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
# Fields that came after records were published: at their defaults they are left out of a spec's
# dictionary, and so of keys, which stay what they were.
LATER_FIELDS = ("requests", "optimizer", "lora_rank", "lora_alpha", "base")
BASES = ("vanilla", "published")
DOMAINS = ("arxiv", "github", "books")
YOURS = "yours"  # the domain of a user's own documents
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

    model       where the vanilla model comes from: "lab", a hub id or a folder
    corpus      "fictitious", "public" or "hub"
    length      tokens per chunk
    prefix      target tokens given before verbatim extraction is measured
    continued   vanilla is not `model` itself but `model` trained further on forget and retain
                sets, and so there are oracles (see `continued.py`)
    domains     of `DOMAINS`, those that there are
    limits      documents per split, (split, count) pairs; a split that is not named is whole
    clipped     of each document only the first `length` tokens are taken
    seeds       of the study `main`
    updates     per run of a study
    rates       learning rates of the study `rates`, which chooses the settings
    tuning_seed of that study
    precision   of the studies' runs
    region      the grid of the study `robust_region`
    settings_of (profile, domain) whose chosen settings the studies take, so that nothing is chosen
                from the runs that are reported; None: each domain's own, which `rates` chooses
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
    precision: str = "float32"
    tuning_seed: int = 100  # the settings are chosen on a seed that the main study does not use
    region: Region = Region()
    settings_of: tuple[str, str] | None = None


_OPEN_CPU = Profile(
    "open_cpu",
    "HuggingFaceTB/SmolLM2-135M",
    "public",
    256,
    64,
    "the same for two CPU cores and an hour: one domain, short documents, one seed",
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
    ),
}


def get_profile(name: str) -> Profile:
    """The profile of that name; `UnlearnError` lists the valid ones, nearest first."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]


def _convert(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; ints serve as floats, strings (of --set) are parsed."""
    optional = typing.get_origin(kind) is types.UnionType
    if optional:
        if value is None or value == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is str or typing.get_origin(kind) is Literal:
        if isinstance(value, str):
            return value
        raise UnlearnError(f"{name} is {value!r}: give a word.")
    try:
        if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
            raise ValueError
        if kind is int and (isinstance(value, numbers.Integral) or str(value).isdecimal()):
            return int(str(value))  # at once: on the way through a float a long seed loses digits
        number = float(value)
        if kind is int:
            if number != int(number):
                raise ValueError
            return int(number)
        return number
    except (ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        raise UnlearnError(f"{name} is {value!r}: give {what}.") from None


@dataclass(frozen=True)
class RunSpec:
    """One unlearning of one model, evaluated.

    profile, domain   what is unlearned from; `domain` is "yours" for a user's documents
    method            a name in `METHODS`
    learning_rate     peak step size of AdamW
    updates           number of optimiser steps
    batch_size        forget chunks per update, over all processes; as many retain chunks
    retain_weight     weight of the retain term (ignored by methods without one)
    schedule, warmup  learning-rate schedule and the share of updates that warm up to it
    weight_decay      AdamW's
    max_grad_norm     clip the gradient's norm to this; 0 does not clip (as the paper's methods)
    seed              order of documents and random labels
    label_alignment   "aligned", or "release" for the authors' off-by-one
    forget_size       forget only the first this many documents (None: all)
    length            tokens per chunk (None: the profile's)
    precision         dtype of the model while training; the optimizer steps bfloat16 models in
                      float32 (master weights)
    probe_every       also evaluate every this many updates (0: only at the end)
    requests          forget in this many requests, one after another: the documents are divided
                      in their order, and each request gets `updates` updates of its own
    optimizer         one of `OPTIMIZERS`
    lora_rank         train adapters of this rank beside the linear layers, and nothing else (0:
                      train all parameters); see `lora.py`
    lora_alpha        an adapter's product is weighted by lora_alpha / lora_rank. None: twice the
                      rank, so that another rank changes what can be learnt and not the size of
                      a step
    base              which of a profile's models is unlearned: "vanilla", or "published", the model
                      that vanilla was trained further from (it has no oracle)
    """

    profile: str = "lab"
    domain: str = "books"
    method: str = "ga_gd_in_dist"
    learning_rate: float = 1e-4
    updates: int = 8
    batch_size: int = 64
    retain_weight: float = 1.0
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    seed: int = 0
    label_alignment: str = "aligned"
    forget_size: int | None = None
    length: int | None = None
    precision: str = "float32"
    probe_every: int = 0
    requests: int = 1
    optimizer: str = "adamw"
    lora_rank: int = 0
    lora_alpha: float | None = None
    base: str = "vanilla"

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _convert(field.name, getattr(self, field.name), kinds[field.name])
            object.__setattr__(self, field.name, value)
            if isinstance(value, float) and not math.isfinite(value):
                raise UnlearnError(f"{field.name} is {value}: give a finite number.")
            if isinstance(value, (int, float)) and value < 0:
                raise UnlearnError(f"{field.name} is {value}: give a number that is not negative.")
        from unlearnlib.methods import get_method  # here, so that a spec needs no torch to print

        get_profile(self.profile)
        get_method(self.method)
        for name, word, valid in (
            ("domain", self.domain, (*DOMAINS, YOURS)),
            ("schedule", self.schedule, SCHEDULES),
            ("label_alignment", self.label_alignment, ALIGNMENTS),
            ("precision", self.precision, PRECISIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("base", self.base, BASES),
        ):
            if word not in valid:
                raise unknown(name, word, valid)
        for name, at_least in (
            ("updates", 0),
            ("batch_size", 1),
            ("forget_size", 1),
            ("requests", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise UnlearnError(f"{name} is {value}: give at least {at_least}.")
        if self.length is not None and self.length < 8:
            raise UnlearnError(f"length is {self.length}: give at least 8 tokens per chunk.")
        if self.lora_alpha is not None and not self.lora_rank:
            raise UnlearnError(
                f"lora_alpha is {self.lora_alpha} and lora_rank is 0: give a rank, or leave "
                "lora_alpha out."
            )
        if self.lora_alpha == 0:
            raise UnlearnError(
                "lora_alpha is 0, which keeps adapters off: give a number above 0, or none for "
                "twice the rank."
            )
        if self.lora_alpha == 2 * self.lora_rank:  # the same run, hence the same key
            object.__setattr__(self, "lora_alpha", None)
        if self.warmup > 1:
            raise UnlearnError(f"warmup is {self.warmup}: give a share of the updates, 0 to 1.")

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed; an unknown field lists the valid ones."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise unknown("setting", name, names)
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Field name to value, ready for JSON; `LATER_FIELDS` only where they are no defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in LATER_FIELDS or getattr(self, field.name) != field.default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_dict`; missing fields take their defaults."""
        return cls().replace(**dict(values))

    @property
    def alpha(self) -> float:
        """LoRA's alpha, with its default filled in."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    def rate(self, update: int) -> float:
        """The learning rate of update number `update` (from 0)."""
        warm = math.ceil(self.warmup * self.updates)
        if update < warm:
            return self.learning_rate * (update + 1) / warm
        left = (update - warm) / max(1, self.updates - warm)
        if self.schedule == "linear":
            return self.learning_rate * (1 - left)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * left)) / 2
        return self.learning_rate
