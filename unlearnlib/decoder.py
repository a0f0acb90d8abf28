"""The parts of a causal language model: its decoder, its output head, and checks of both."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial

from unlearnlib.errors import UnlearnError
from unlearnlib.objectives import Head
from unlearnlib.threads import ONE_AT_A_TIME

# What models do to the logits of their output layer, by the names in their configurations.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon H1
DIVISORS = ("logits_scaling",)  # Granite
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2; RecurrentGemma


def disable_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout to 0, in place; so too layers left out and routers shaken at random.

    A dropout mask depends on how documents share micro-batches, and a run's result must not; nor is
    its noise a function of the run's seed.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        # Half of transformers' models have no Dropout but a number, under a name of their own:
        # attention_dropout, attn_dropout, residual_dropout, hidden_dropout, layerdrop.
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)
    return model


@torch.no_grad()
def cast(model: Any, dtype: torch.dtype) -> Any:
    """Change a model's precision, in place, to what `from_pretrained(dtype=...)` loads: the model.

    What a file holds, parameters and persistent buffers, is rounded. A buffer that is not saved
    (the frequencies of RoPE, a table of positions) is computed anew as the model's class does it:
    rounded, as by `model.to(dtype)`, it would be another model's than the one that is saved.
    """
    saved = frozenset(model.state_dict())
    fresh = _unsaved_buffers(model, dtype, saved)
    # Some models name parts that stay in float32, in which they are loaded, too.
    wide = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    parts = (*model.named_parameters(), *model.named_buffers())
    exact = {n: t.data for n, t in parts if n in saved and any(w in n for w in wide)}
    model.to(dtype)
    for name, value in exact.items():
        parent, _, child = name.rpartition(".")
        getattr(model.get_submodule(parent), child).data = value.float()
    for name, buffer in fresh.items():
        parent, _, child = name.rpartition(".")
        module = model.get_submodule(parent)
        setattr(module, child, buffer.to(getattr(module, child).device))
    return model


def _unsaved_buffers(
    model: Any, dtype: torch.dtype, saved: frozenset[str]
) -> dict[str, torch.Tensor]:
    """The buffers that no file holds, on the CPU, as in a model loaded in `dtype`.

    As `from_pretrained` makes them: the class builds a model without memory, and then initialises
    the buffers alone.
    """
    if all(name in saved for name, _ in model.named_buffers()):
        return {}
    with ONE_AT_A_TIME:
        return _initialised_buffers(model, dtype, saved)


def _initialised_buffers(
    model: Any, dtype: torch.dtype, saved: frozenset[str]
) -> dict[str, torch.Tensor]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            empty = type(model)(bare_config(model))
        for name, buffer in list(empty.named_buffers()):
            if name not in saved:
                parent, _, child = name.rpartition(".")
                setattr(empty.get_submodule(parent), child, torch.empty_like(buffer, device="cpu"))
        with torch.random.fork_rng(devices=[]):
            empty.initialize_weights()
    finally:
        torch.set_default_dtype(usual)
    here = dict(model.named_buffers())
    return {n: b for n, b in empty.named_buffers() if n not in saved and n in here}


def bare_config(model: Any) -> Any:
    """A copy of a model's configuration that does not say that it was quantized.

    `transformers` would build another model by it, and refuse to save this one.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def decoder_of(model: Any) -> nn.Module:
    """The part of a causal LM that ends in hidden states: everything but the output head."""
    decoder = getattr(model, model.base_model_prefix, None)
    if not isinstance(decoder, nn.Module):
        raise UnlearnError(f"{type(model).__name__} has no decoder part: give a causal LM.")
    return decoder


def check_loaded(model: object, tokenizer: object) -> None:
    """Check that these are a model and a tokenizer: not their names, and not in the other order.

    Raises `UnlearnError` where one is not, and for a model whose weights are not in memory.
    """
    if not isinstance(model, nn.Module):
        raise UnlearnError(
            f"model is {_short(model)}, which is no model: load one, as in load_model('lab')."
        )
    if not (callable(tokenizer) and hasattr(tokenizer, "all_special_ids")):
        raise UnlearnError(
            f"tokenizer is {_short(tokenizer)}, which is no tokenizer: load one, as in "
            "load_tokenizer('lab')."
        )
    check_here(model)


def check_here(model: nn.Module, name: str = "the model") -> None:
    """`UnlearnError` for a model that has shapes and no weights (on the device "meta")."""
    for where, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnlearnError(
                f"{name} has no weights in memory, none in {where!r} for one (its device is "
                "meta): load it with its weights, and without offloading any (device_map)."
            )


def _short(value: object) -> str:
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


def check_reach(model: Any, tokens: Sequence[Sequence[int]]) -> None:
    """Check that a model can read chunks with these tokens.

    Raises `UnlearnError` for one that is too long, and for a token that the model does not have.
    """
    check_tokens(model.get_input_embeddings().weight.shape[0], tokens)
    most = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, tokens), default=0)
    if most is not None and longest > most:
        raise UnlearnError(
            f"there is a chunk of {longest} tokens and the model reads at most {most}: give "
            f"length={most} or less."
        )


def check_tokens(rows: int, tokens: Sequence[Sequence[int]]) -> None:
    """`UnlearnError` for a token that a model whose embedding has so many rows does not have."""
    largest = max((max(chunk, default=0) for chunk in tokens), default=0)
    if largest >= rows:
        raise UnlearnError(
            f"the texts have the token {largest} and the model knows {rows} tokens: give the "
            "model's own tokenizer."
        )


def head_of(model: Any) -> Head:
    """The output head, with what the configuration says is done to its logits.

    `UnlearnError` where there is no linear layer. Whether the model does what its configuration
    says is for `check_head` to find.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise UnlearnError(
            f"{type(model).__name__} ends in {type(layer).__name__}, not in a linear head: give a "
            "model whose logits are a linear map of its hidden states, scaled or capped at most."
        )
    scale, cap = 1.0, None
    for name in MULTIPLIERS:
        scale *= _number(model.config, name, 1.0)
    for name in DIVISORS:
        scale /= _number(model.config, name, 1.0)
    for name in CAPS:
        cap = cap or _number(model.config, name, 0.0) or None
    bias = None if layer.bias is None else _whole(layer.bias)
    return Head(_whole(layer.weight), bias, scale, cap)


def _number(config: Any, name: str, usual: float) -> float:
    """A setting of the head; `UnlearnError` for one by which no logits can be computed."""
    value = getattr(config, name, None)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UnlearnError(
            f"the model's configuration says {name}: {value!r}, by which no logits can be "
            "computed: give a number above 0, or null for none."
        )
    return float(value)


@torch.no_grad()
def check_head(model: Any) -> Any:
    """The model; `UnlearnError` where its logits are not those of `head_of` on its hidden states.

    A model may change its hidden states or its logits in ways that its configuration does not show.
    So both are computed for a few tokens, and compared. So too for a model that reads later tokens.
    """
    head = head_of(model)
    ids = torch.arange(8, device=head.weight.device)[None] % head.weight.shape[0]
    training = model.training
    model.eval()
    states = decoder_of(model)(input_ids=ids, use_cache=False)
    hidden = getattr(states, "last_hidden_state", None)
    if hidden is None:  # the model inside an adapter's wrapping, for one
        raise UnlearnError(
            f"the decoder of {type(model).__name__} ends in no hidden states: give a causal LM as "
            "transformers loads it, an adapter of peft merged into it (merge_and_unload)."
        )
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    model.train(training)
    rounding = 1e-2 if head.weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    # The comparison is false for NaN: weights that are NaN are reported elsewhere.
    if bool((head.logits(hidden) - theirs).abs().max() > rounding * theirs.abs().max()):
        raise UnlearnError(
            f"the logits of {type(model).__name__} are not its output layer's of its last hidden "
            "states: give a model whose logits are a linear map of its hidden states, scaled or "
            "capped as its configuration says."
        )
    _check_causal(model, ids, hidden, rounding / 10)
    return model


def _check_causal(model: Any, ids: torch.Tensor, hidden: torch.Tensor, rounding: float) -> None:
    """`UnlearnError` where a token changes what a model says before it: (1, T), (1, T, H).

    A score would then depend on what comes later, padding and packed neighbours included.
    """
    other, half = ids.clone(), ids.shape[1] // 2
    other[:, half:] = ids[:, half:].flip(1)
    training = model.training
    model.eval()
    again = decoder_of(model)(input_ids=other, use_cache=False).last_hidden_state
    model.train(training)
    moved = (again[:, :half] - hidden[:, :half]).abs().max()
    if bool(moved > rounding * hidden.abs().max()):
        raise UnlearnError(
            f"{type(model).__name__} reads later tokens, too: give a causal language model, whose "
            "prediction of a token depends on those before it alone."
        )


def _whole(parameter: Any) -> Any:
    """A parameter, gathered from all processes if each holds a part of it.

    The backward pass sums the gradient over the processes and gives each its part.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.full_tensor(grad_placements=[Partial()])
