"""What unlearning and retraining cost: floating-point operations, and their ratio.

Training costs about 6 operations per parameter and token, 2 forward and 4 backward
(Kaplan et al. 2020, section 2.1). Attention over the context adds some; the account leaves it
out on both sides, so the ratio is one of tokens times epochs, and every term can be checked.

The 4 backward are two matrix products of 2 each: the gradient with respect to a layer's input, and
that with respect to its weight. A frozen weight (LoRA) needs the first alone, which makes 4 of the
6; what is trained beside it costs its own 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unlearnlib.errors import UnlearnError

FLOPS_PER_PARAMETER_TOKEN = 6
FLOPS_PER_FROZEN_PARAMETER_TOKEN = 4
FLOPS_FORWARD = 2


def training_flops(
    active: int,
    tokens: int,
    *,
    adapter: int = 0,
    reference_tokens: int = 0,
    recompute: bool = False,
) -> float:
    """Operations of training a model of `active` parameters on `tokens` tokens.

    With `adapter` parameters beside it (LoRA) the model itself is frozen. `reference_tokens` also
    go forward through the model without its adapter, for a term that compares with the original.
    `recompute` adds a forward pass.
    """
    again = FLOPS_FORWARD if recompute else 0
    every = FLOPS_PER_PARAMETER_TOKEN + again
    frozen = FLOPS_PER_FROZEN_PARAMETER_TOKEN + again
    each = frozen * active + every * adapter if adapter else every * active
    return float(each) * tokens + float(FLOPS_FORWARD) * active * reference_tokens


def _elements(parameter: Any) -> int:
    """Number of weights in a parameter; two share a byte where it is in 4 bits."""
    packed = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if packed is None else math.prod(packed.shape))


def run_flops(model: Any, tokens: int, adapter: int = 0, reference_tokens: int = 0) -> float:
    """Operations of training `model` on `tokens` tokens, recomputed activations left out.

    Embedding tables that are only looked up do no arithmetic and are left out; tied to the
    output head they count once, for the head. What a term keeps of the original before the first
    update is left out too. See `training_flops` for `adapter` and `reference_tokens`.
    """
    total = sum(_elements(p) for p in model.parameters())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and embedding.weight is not head.weight:
        total -= embedding.weight.numel()
    return training_flops(total, tokens, adapter=adapter, reference_tokens=reference_tokens)


@dataclass(frozen=True)
class LlamaShape:
    """The numbers of a Llama's shape that decide its parameter count."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    mlp: int
    vocabulary: int
    tied: bool = False

    def active_parameters(self) -> int:
        """Parameters that take part in arithmetic: all but an untied embedding table."""
        head_width = self.hidden // self.heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * head_width * self.key_value_heads
        norms = (2 * self.layers + 1) * self.hidden
        layer = attention + 3 * self.hidden * self.mlp
        return self.layers * layer + norms + self.vocabulary * self.hidden

    def parameters(self) -> int:
        """All parameters."""
        extra = 0 if self.tied else self.vocabulary * self.hidden
        return self.active_parameters() + extra


# Yi-6B, from its model card's configuration; about 3e12 tokens of pre-training.
YI_6B = LlamaShape(4096, 32, 32, 4, 11008, 64000)
YI_6B_TOKENS = 3e12
# SmolLM2-135M, from its model card: configuration and tokens of pre-training.
SMOLLM2_135M = LlamaShape(576, 30, 9, 3, 1536, 49152, tied=True)
SMOLLM2_135M_TOKENS = 2e12


@dataclass(frozen=True)
class Account:
    """Both sides of the ratio, each term shown.

    Unlearning touches `chunks` chunks of `length` tokens once per part (forget, and retain where
    the method has it; a forward pass alone is a third of a part); retraining touches
    `pretraining_tokens`.
    """

    parameters: float
    chunks: int
    length: int
    parts: float
    pretraining_tokens: float

    def __post_init__(self) -> None:
        if min(self.parameters, self.chunks, self.length, self.parts, self.pretraining_tokens) <= 0:
            raise UnlearnError(f"{self} has a term that is not positive: give counts above 0.")

    @property
    def unlearning_tokens(self) -> float:
        """Tokens that unlearning trains on, padding included (the release computes on it)."""
        return float(self.chunks) * self.length * self.parts

    @property
    def unlearning_flops(self) -> float:
        """6 N D of unlearning."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.unlearning_tokens

    @property
    def retraining_flops(self) -> float:
        """6 N D of retraining."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.pretraining_tokens

    @property
    def ratio(self) -> float:
        """How many times cheaper unlearning is."""
        return self.retraining_flops / self.unlearning_flops
