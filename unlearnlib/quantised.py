"""Models whose linear layers are held in 4 bits (bitsandbytes), to train adapters beside them.

QLoRA (Dettmers et al. 2023): W is kept in 4-bit NormalFloat, which takes a quarter of bfloat16's
memory, is expanded for each product, and is frozen; the adapter beside it is trained as ever. What
is saved afterwards is a plain model again: W as the products had it, in the model's precision, with
the adapter added. So what was trained is what is measured and saved, up to that one rounding.

There are no 8 bits here: by LLM.int8 (Dettmers et al. 2022) a token is rounded by its neighbours in
the batch, and a score would depend on its company. And only a CUDA device trains: on a processor
the layers change into a form without gradients once they have been used for scoring.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unlearnlib.errors import UnlearnError

# The classes of bitsandbytes, by name: it is not a package that everyone has.
LAYERS = {"Linear4bit": 4, "Linear8bitLt": 8}
# What transformers notes on a model that it has quantised.
NOTES = (
    "hf_quantizer",
    "is_quantized",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "is_4bit_serializable",
    "is_8bit_serializable",
    "quantization_method",
    "_weight_conversions",
)


def check_bitsandbytes(bits: int) -> None:
    """`UnlearnError` where the package is missing: better before a model is loaded than after."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UnlearnError(
            f"base_bits is {bits} and needs the package bitsandbytes: install it (pip install "
            "bitsandbytes), or leave base_bits at 0."
        ) from error


def check_device(device: str) -> None:
    """`UnlearnError` for a device on which nothing is trained beside a base in 4 bits."""
    if not device.startswith("cuda"):
        raise UnlearnError(
            f"the device is {device!r}, and beside a base in 4 bits bitsandbytes trains on a CUDA "
            "device alone: use one, or leave base_bits at 0."
        )


def how_to_load(bits: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for a model in 4 bits; none for 0."""
    if not bits:
        return {}
    if bits != 4:
        raise UnlearnError(f"bits is {bits!r}: give 4, or 0 for a plain model.")
    from transformers import BitsAndBytesConfig

    check_bitsandbytes(bits)
    check_device(device)
    made: Any = BitsAndBytesConfig
    return {
        "quantization_config": made(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def bits_of_layer(module: nn.Module) -> int:
    """4 or 8 for a linear layer of bitsandbytes, 0 for any other module."""
    kind = type(module)
    ours = isinstance(module, nn.Linear) and kind.__module__.startswith("bitsandbytes.")
    return LAYERS.get(kind.__name__, 0) if ours else 0


def bits_of(model: nn.Module) -> int:
    """The bits of a model's linear layers: 4 or 8, or 0 where none is quantised."""
    return max(map(bits_of_layer, model.modules()))


@torch.no_grad()
def expanded(layer: Any) -> Tensor:
    """The weight of a quantised layer as its products have it, (outputs, inputs), in float32."""
    from peft.utils.integrations import dequantize_module_weight

    weight: Tensor = dequantize_module_weight(layer)
    return weight.detach().float()


def plain_layer(weight: Tensor, layer: Any, dtype: torch.dtype) -> nn.Linear:
    """A linear layer of `dtype` with this weight, and the bias of `layer`."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        made = nn.Linear(inputs, outputs, bias=layer.bias is not None)
    made.weight = nn.Parameter(weight.to(dtype))
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().to(dtype))
    return made


def saved_bits(config: Any, device: str) -> int:
    """The bits, 4 or 8, in which bitsandbytes saved a checkpoint, by its configuration; else 0.

    Raises what loading would raise where a way of quantising is not supported here: a plan is to
    say so before anything is loaded.
    """
    saved = getattr(config, "quantization_config", None)
    if saved is None:
        return 0
    from transformers.quantizers import AutoHfQuantizer

    kinds: Any = AutoHfQuantizer
    if not kinds.supports_quant_method(saved):
        return 0
    found = kinds.from_config(saved, pre_quantized=True)
    found.validate_environment(device_map={"": device}, weights_only=True)
    how = found.quantization_config
    return 8 if getattr(how, "load_in_8bit", False) else 4 * getattr(how, "load_in_4bit", False)


def check_same(bits: int, asked: int) -> None:
    """`UnlearnError` for a model that is not in the bits that a spec names."""
    if bits != asked:
        held = f"in {bits} bits" if bits else "in full"
        raise UnlearnError(
            f"base_bits is {asked} and the model was loaded {held}: load it in the same, as with "
            "load_model(..., bits=4)."
        )


def check_kind(bits: int, source: object) -> None:
    """`UnlearnError` for a checkpoint in 8 bits."""
    if bits == 8:
        raise UnlearnError(
            f"{str(source)!r} is in 8 bits, in which a token is rounded by its neighbours in the "
            "batch, so that a score would depend on its company: give the model in full."
        )


def forget_quantisation(model: Any) -> None:
    """Take off a model, whose layers are plain ones again, what says that it was quantised."""
    for name in NOTES:
        vars(model).pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
