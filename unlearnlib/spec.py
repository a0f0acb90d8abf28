"""What a run is: `RunSpec`.

A spec holds all that can change a result and nothing that cannot: the micro-batch, the number
of processes or the device are not in it. It is checked when it is made, so that a typing error is
found before a model is loaded.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import COMPARED as COMPARED
from unlearnlib.profiles import DOMAINS as DOMAINS
from unlearnlib.profiles import PAPER_METHODS, Alignment, Precision
from unlearnlib.profiles import PROFILES as PROFILES
from unlearnlib.profiles import YOURS as YOURS
from unlearnlib.profiles import Profile as Profile
from unlearnlib.profiles import Region as Region
from unlearnlib.profiles import get_profile as get_profile

if TYPE_CHECKING:
    from unlearnlib.corpus.documents import Document

# The words that fields may be; a field's annotation is its only list.
Schedule = Literal["constant", "linear", "cosine"]


Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Base = Literal["vanilla", "second", "published"]
Stop = Literal["end", "retrained"]
SCHEDULES: tuple[str, ...] = typing.get_args(Schedule)
OPTIMIZERS: tuple[str, ...] = typing.get_args(Optimizer)
SHORTEST = 8  # tokens of a chunk
# Above these nothing can be run: a mistyped number is refused rather than begun. Whole numbers of
# more than 64 bits would not fit into tensors and files, either.
LARGEST = {
    "updates": 10**8,
    "batch_size": 10**7,
    "forget_size": 10**9,
    "length": 10**8,
    "probe_every": 10**8,
    "requests": 10**6,
    "lora_rank": 10**6,
    "base_bits": 8,
    "seed": 2**63 - 1,
    "exposure": 10**6,
}
# Fields that came after records were published: at their defaults they are left out of a spec's
# dictionary, and so of keys, which stay what they were.
LATER_FIELDS = (
    "requests",
    "optimizer",
    "lora_rank",
    "lora_alpha",
    "base",
    "bos_every_chunk",
    "base_bits",
    "exposure",
    "stop",
    "beta",
    "gamma",
    "retain_budget",
    "dual_rate",
)


def _is_choice(kind: Any) -> bool:
    """Whether an annotation is a `Literal`: one of the words that it lists."""
    return typing.get_origin(kind) is Literal


def _shown(value: int) -> str:
    """A whole number in few digits; Python itself refuses to print one of thousands."""
    if value.bit_length() <= 64:
        return f"{value:,}"
    return f"a number of {round(value.bit_length() * math.log10(2))} digits or so"


def _convert(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; ints serve as floats, strings (of --set) are parsed."""
    optional = typing.get_origin(kind) is types.UnionType
    if optional:
        if value is None or value == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise UnlearnError(f"{name} is {value!r}: give true or false.")
    if kind is str or _is_choice(kind):
        if isinstance(value, str):
            return value
        raise UnlearnError(f"{name} is {value!r}: give a word.")
    try:
        if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
            raise ValueError
        # At once: on the way through a float a long seed loses digits.
        if kind is int and isinstance(value, numbers.Integral):
            return int(value)
        if kind is int and str(value).isdecimal():
            return int(str(value))
        number = float(value)
        if kind is int:
            if number != int(number):
                raise ValueError
            return int(number)
        return number
    except (ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        said = repr(value)
        said = said if len(said) <= 60 else f"{said[:60]}..."
        raise UnlearnError(f"{name} is {said}: give {what}.") from None


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
    max_grad_norm     clip the gradient's norm to this; 0 does not clip. The release clips at 1.0
    seed              order of documents and random labels
    label_alignment   "aligned", or "release" for labels as the authors make them
    forget_size       forget only the first this many documents (None: all)
    length            tokens per chunk (None: the profile's)
    precision         dtype of the model while training; the optimizer steps bfloat16 models in
                      float32 (master weights)
    probe_every       also evaluate every this many updates (0: only at the end)
    requests          forget in this many requests, one after another: the documents are divided
                      in their order, and each request gets `updates` updates of its own
    optimizer         a variant of AdamW
    lora_rank         train adapters of this rank beside the linear layers, and nothing else (0:
                      train all parameters); see `lora.py`
    lora_alpha        an adapter's product is weighted by lora_alpha / lora_rank. None: twice the
                      rank, so that another rank changes what can be learnt and not the size of
                      a step
    base              which of a profile's models is unlearned: "vanilla"; "second", a vanilla that
                      another seed trained, with its own oracle; or "published", the model that
                      vanilla was trained further from (it has no oracle)
    bos_every_chunk   every chunk begins with the tokenizer's <bos>, as models such as Gemma need
                      it; else only the first of a document does, where the tokenizer adds one
    base_bits         with lora_rank: the model is loaded in so many bits (4, by bitsandbytes), and
                      is a plain one of `precision` again when the adapter is added; 0: it is
                      loaded in `precision`
    exposure          forget only the documents that the model read this often (0: all); of these
                      `forget_size` takes the first
    stop              "end": make all updates; "retrained": end after the first update at which the
                      perplexity of the forgotten chunks is at least that of the retrained model
    beta, gamma       strengths of the forget term, for methods that have them (`unlearn methods`);
                      None: the row's own, which are the authors'
    retain_budget     nats per token by which the retain term's loss may rise above what it is
                      before the run; the weight of the retain term is then adapted after every
                      update, beginning with retain_weight (PDU, see `engine.Budget`). None: it
                      stays as it is
    dual_rate         with retain_budget: how much the weight changes per update and nat; PDU's
                      authors have 1 to 5
    """

    profile: str = "lab"
    domain: str = "books"
    method: str = "ga_gd_in_dist"
    learning_rate: float = 1e-4
    updates: int = 8
    batch_size: int = 64
    retain_weight: float = 1.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    seed: int = 0
    label_alignment: Alignment = "aligned"
    forget_size: int | None = None
    length: int | None = None
    precision: Precision = "float32"
    probe_every: int = 0
    requests: int = 1
    optimizer: Optimizer = "adamw"
    lora_rank: int = 0
    lora_alpha: float | None = None
    base: Base = "vanilla"
    bos_every_chunk: bool = False
    base_bits: int = 0
    exposure: int = 0
    stop: Stop = "end"
    beta: float | None = None
    gamma: float | None = None
    retain_budget: float | None = None
    dual_rate: float = 1.0

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _convert(field.name, getattr(self, field.name), kinds[field.name])
            object.__setattr__(self, field.name, value)
            if isinstance(value, float) and not math.isfinite(value):
                raise UnlearnError(f"{field.name} is {value}: give a finite number.")
            if isinstance(value, (int, float)) and value < 0:
                raise UnlearnError(f"{field.name} is {value}: give a number that is not negative.")
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and value > (most := LARGEST[field.name]):
                raise UnlearnError(
                    f"{field.name} is {_shown(value)}, and the largest that can be run is "
                    f"{most:,}: give a smaller number."
                )
        profile = get_profile(self.profile)
        if self.method not in PAPER_METHODS:
            from unlearnlib.methods import get_method  # here, because methods need torch

            get_method(self.method)
        choices = {
            "domain": tuple(dict.fromkeys((*DOMAINS, *profile.domains, YOURS))),
            **{name: typing.get_args(k) for name, k in kinds.items() if _is_choice(k)},
        }
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        for name, at_least in (
            ("updates", 0),
            ("batch_size", 1),
            ("forget_size", 1),
            ("requests", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise UnlearnError(f"{name} is {value}: give at least {at_least}.")
        if self.length is not None and self.length < SHORTEST:
            raise UnlearnError(
                f"length is {self.length}: give at least {SHORTEST} tokens per chunk."
            )
        self._check_together()
        self._check_method()
        if self.lora_alpha == 2 * self.lora_rank:  # the same run, hence the same key
            object.__setattr__(self, "lora_alpha", None)
        if self.warmup > 1:
            raise UnlearnError(f"warmup is {self.warmup}: give a share of the updates, 0 to 1.")

    def _check_together(self) -> None:
        """`UnlearnError` for fields that go by others, and do not go with theirs."""
        if self.base_bits == 8:
            raise UnlearnError(
                "base_bits is 8, in which bitsandbytes rounds a token by its neighbours in the "
                "batch, so that a score would depend on its company: give 4, or 0 for a plain base."
            )
        if self.base_bits not in (0, 4):
            raise UnlearnError(f"base_bits is {self.base_bits}: give 4, or 0 for a plain base.")
        if self.base_bits and not self.lora_rank:
            raise UnlearnError(
                f"base_bits is {self.base_bits} and lora_rank is 0: weights in so few bits cannot "
                "be trained, but adapters beside them can; give a rank, or leave base_bits out."
            )
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
        if self.stop != "end" and self.requests > 1:
            raise UnlearnError(
                f"stop is {self.stop!r} and requests is {self.requests}: a run of several requests "
                "makes all of its updates, so leave one of the two out."
            )

    def _check_method(self) -> None:
        """`UnlearnError` for strengths and a budget that the method has no use for.

        A strength that is the row's own is left out: the same run has the same key.
        """
        if self.retain_budget is None and self.dual_rate != 1.0:
            raise UnlearnError(
                f"dual_rate is {self.dual_rate} and retain_budget is none: give a budget, or leave "
                "dual_rate out."
            )
        if not self.dual_rate:
            raise UnlearnError(
                "dual_rate is 0, with which the weight would stay as it is: give a number above 0, "
                "or leave retain_budget out."
            )
        if self.beta is self.gamma is self.retain_budget is None:
            return
        from unlearnlib.methods import chosen_method  # here, because methods need torch

        chosen_method(self.method, beta=self.beta, gamma=self.gamma)  # refuses what there is not
        row = chosen_method(self.method)
        for name, usual in row.options.items():
            if getattr(self, name) == usual:
                object.__setattr__(self, name, None)
        if self.retain_budget is not None and row.retain is None:
            raise UnlearnError(
                f"retain_budget is {self.retain_budget} and method {self.method!r} has no retain "
                "term: choose a method that has one, or leave retain_budget out."
            )

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

    def forgets(self, documents: Sequence[Document]) -> tuple[Document, ...]:
        """Those of the documents to forget that the run forgets, by `exposure` and `forget_size`.

        `UnlearnError` for an exposure that none of them has.
        """
        if not self.exposure:
            return tuple(documents[: self.forget_size])
        chosen = [document for document in documents if document.exposure == self.exposure]
        if chosen:
            return tuple(chosen[: self.forget_size])
        there = sorted({document.exposure for document in documents if document.exposure})
        if not there:
            raise UnlearnError(
                f"exposure is {self.exposure}, and of no document to forget is it known how often "
                "the model read it: leave exposure out."
            )
        raise UnlearnError(
            f"exposure is {self.exposure}, and the documents to forget have the exposures "
            f"{', '.join(map(str, there))}: give one of these, or 0 for all documents."
        )

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


def command_of(spec: RunSpec) -> str:
    """The command that repeats a run of a profile."""
    words = ["unlearn", "run", "--profile", spec.profile, "--domain", spec.domain]
    words += ["--method", spec.method]
    default = RunSpec()
    for name, value in spec.as_dict().items():
        if name not in ("profile", "domain", "method") and value != getattr(default, name):
            words += ["--set", f"{name}={'none' if value is None else value}"]
    return shlex.join(words)
