"""Low-rank adapters (LoRA, Hu et al. 2021) through `peft`: train little, keep the model as it is.

Beside every linear layer x -> W x of the decoder, the output head left out, comes a product of two
thin matrices, W x + (alpha / rank) B A x. Only A and B are trained; W is frozen and needs neither a
gradient nor moments nor, in bfloat16, a float32 copy. With B = 0, as at the beginning, or with the
adapter off, the model computes what the original does, to the bit, so no second model is needed.

After the run the product is added to W (`take_off`) and the model is a plain one again. What was
added is kept beside it as an `Adapter`, which `peft` can load onto the original model, or not.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unlearnlib.errors import UnlearnError
from unlearnlib.quantised import (
    bits_of,
    bits_of_layer,
    expanded,
    forget_quantisation,
    plain_layer,
)
from unlearnlib.seeds import seeded_generator
from unlearnlib.threads import ONE_AT_A_TIME

logger = logging.getLogger(__name__)

NAME = "default"  # of the adapter, inside peft; it is not in the files


@dataclass(frozen=True)
class Attached:
    """What `take_off` needs to undo `attach`: peft's config, and which parameters were frozen."""

    config: Any
    frozen: frozenset[str]


@dataclass(frozen=True)
class Adapter:
    """A trained adapter alone.

    tensors   peft's name -> A (rank, inputs) or B (outputs, rank), on the CPU
    config    peft's `LoraConfig`
    """

    tensors: dict[str, Tensor]
    config: Any


def check_peft(
    what: str = "lora_rank", remedy: str = "leave lora_rank at 0 to train all parameters"
) -> None:
    """`UnlearnError` where the package is missing: better before a model is loaded than after."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UnlearnError(
            f"{what} needs the package peft: install it (pip install peft), or {remedy}."
        ) from error


def merge(model: Any, folder: Path) -> Any:
    """A model with the LoRA adapter of a folder added to its weights: a plain model again."""
    from peft import PeftModel

    with ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes to peft's developers
        merged: Any = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    vars(merged).pop("peft_config", None)
    vars(merged).pop("_hf_peft_config_loaded", None)
    for parameter in merged.parameters():
        parameter.requires_grad_(True)  # peft has frozen them
    return merged


def inject(model: Any, rank: int, alpha: float) -> Any:
    """Put adapters beside the model's linear layers, in place, and freeze the rest: their config.

    A and B are 0, and have the model's dtype, but at least float32: they are small, and steps on
    them are mostly smaller than the gap between two numbers of bfloat16. Experts that are kept in
    one tensor for all of them are no linear layers and get none. `UnlearnError` without `peft`, or
    for a model that has no linear layer besides its head.
    """
    check_peft()
    targets = linear_layers(model)
    if not targets:
        raise UnlearnError(
            f"{type(model).__name__} has no linear layer besides its head: set lora_rank=0 to "
            "train all parameters."
        )
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        # peft's files have a whole number here, and its arithmetic takes any.
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type, unused-ignore]
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    frozen = _frozen(model)
    # Not peft's way to make empty layers: it changes how all threads make theirs. What peft draws
    # at random is replaced below, and leaves no trace.
    with ONE_AT_A_TIME, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # a note that GPT-2's weights are transposed
        try:
            inject_adapter_in_model(config, model, NAME)
        except ValueError as error:
            raise UnlearnError(
                f"{type(model).__name__} takes no adapter ({' '.join(str(error).split())}): set "
                "lora_rank=0 to train all parameters."
            ) from error
    if odd := [name for name, layer in _layers(model).items() if not _is_linear(layer)]:
        drop(model, Attached(config, frozen))
        raise UnlearnError(
            f"{type(model).__name__} takes no adapter (peft would put one on {odd[0]!r}, which is "
            "no linear layer): set lora_rank=0 to train all parameters."
        )
    for layer in _layers(model).values():
        base = layer.get_base_layer().weight
        wide = torch.promote_types(base.dtype, torch.float32)
        for thin in (layer.lora_A[NAME], layer.lora_B[NAME]):
            zeros = torch.zeros(thin.weight.shape, dtype=wide, device=base.device)
            thin.weight = nn.Parameter(zeros)
    return config


def check_layers(model: Any) -> None:
    """`UnlearnError` for a model that takes no adapter; it is left as it is.

    Tried by putting the smallest ones on and taking them off: better before the model is scored.
    """
    check_peft()
    frozen = _frozen(model)
    drop(model, Attached(inject(model, 1, 1.0), frozen))


def linear_layers(model: Any) -> list[str]:
    """The names of a model's linear layers, its output head left out.

    A linear layer that computes more than x -> W x + b in its forward pass is none (a router).
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's, with transposed weights

    head, plain = model.get_output_embeddings(), (nn.Linear.forward, Conv1D.forward)
    return [
        name
        for name, module in model.named_modules()
        if (type(module).forward in plain or bits_of_layer(module)) and module is not head
    ]


def _is_linear(layer: Any) -> bool:
    return isinstance(getattr(layer.get_base_layer(), "weight", None), Tensor)


def _frozen(model: nn.Module) -> frozenset[str]:
    return frozenset(n for n, p in model.named_parameters() if not p.requires_grad)


def attach(model: Any, rank: int, alpha: float, seed: int) -> Attached:
    """`inject`, with A a function of `seed` and the layer's name alone.

    A is uniform over +- 1 / sqrt(inputs), as peft draws it, but from a generator of our own on the
    CPU: no other draw, device or version of peft changes it. B is 0.
    """
    frozen = _frozen(model)
    config = inject(model, rank, alpha)
    if experts := [name for name, p in model.named_parameters() if p.dim() > 2]:
        logger.info(
            "%s keeps experts in one tensor, which is no linear layer and gets no adapter: %s",
            type(model).__name__,
            experts[0],
        )
    for name, layer in _layers(model).items():
        a = layer.lora_A[NAME].weight
        drawn = 2 * torch.rand(a.shape, generator=seeded_generator(f"lora:{seed}:{name}")) - 1
        with torch.no_grad():
            a.copy_(drawn / math.sqrt(a.shape[1]))
    return Attached(config, frozen)


def _layers(model: nn.Module) -> dict[str, Any]:
    """The linear layers that have an adapter, by the names that they have without it."""
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def trained_parameters(model: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what it did before it had an adapter, to the bit."""
    layers = _layers(model).values()
    # By a factor of 0. peft's own switch also turns `requires_grad` off, which FSDP looks at once,
    # the first time that it gathers a parameter.
    for layer in layers:
        layer.scale_layer(0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.unscale_layer()


@torch.no_grad()
def take_off(model: Any, attached: Attached) -> Adapter:
    """Make the model a plain one again, in place, with the adapter added to its weights.

    A model in 4 bits becomes one of its precision (see `quantised`).
    The sum is computed in at least float32 and rounded once to the weights' dtype: a model in
    bfloat16 keeps of the adapter what eight bits can show, and the adapter beside it keeps all.
    On a model that is divided among processes all must call this.
    """
    tensors: dict[str, Tensor] = {}
    quantised = bits_of(model)
    for name, layer in _layers(model).items():
        a, b = (_whole(thin[NAME].weight) for thin in (layer.lora_A, layer.lora_B))
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.detach().cpu().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.detach().cpu().clone()
        change = (b @ a) * layer.scaling[NAME]  # (outputs, inputs)
        if bits_of_layer(base := layer.get_base_layer()):
            whole = plain_layer(expanded(base).add_(change), base, model.dtype)
            _put(model, name, whole)
            continue
        # GPT-2's weights are transposed: (inputs, outputs).
        _add(layer.get_base_layer().weight, change.T if layer.fan_in_fan_out else change)
    drop(model, attached)
    if quantised:
        forget_quantisation(model)
        model.requires_grad_(True)
    return Adapter(tensors, attached.config)


def drop(model: Any, attached: Attached) -> None:
    """Make the model a plain one again, in place, without its adapter."""
    for name, layer in _layers(model).items():
        _put(model, name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in attached.frozen)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _add(weight: Any, change: Tensor) -> None:
    if isinstance(weight, DTensor):
        change = distribute_tensor(change, weight.device_mesh, weight.placements).to_local()
        weight = weight.to_local()
    weight.copy_(change.add_(weight))


def save_adapter(
    adapter: Adapter, folder: Path, base_model: str | None = None, revision: str | None = None
) -> None:
    """Write an adapter to a folder as peft does: `adapter_config.json`, and safetensors.

    `base_model` is the hub id of the original model that is written into it, and `revision` its
    branch, tag or commit, so that peft can load both by the adapter alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(adapter.config)
    config.base_model_name_or_path = base_model
    config.revision = revision
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set: in no order
    config.save_pretrained(folder)
    save_file(adapter.tensors, folder / "adapter_model.safetensors", {"format": "pt"})
