"""A model divided among processes (FSDP, full shard), and put together again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unlearnlib.decoder import bare_config, cast, decoder_of, disable_dropout
from unlearnlib.errors import UnlearnError
from unlearnlib.threads import ONE_AT_A_TIME


def plain_copy(model: Any, state: dict[str, Tensor]) -> Any:
    """A model of the same kind with parameters `state`.

    Its configuration does not say that it was quantized: `transformers` would refuse to save it.
    """
    with ONE_AT_A_TIME:
        plain = cast(type(model)(bare_config(model)), model.dtype)
    plain.load_state_dict(state)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


def sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the model only (see `shard`)."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def shard(model: Any) -> Any:
    """Divide a model among the processes, in place: FSDP, full shard, a layer at a time.

    Gradients are added over processes, not averaged. `UnlearnError` for a model whose decoder has
    no list of layers.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UnlearnError(
            f"torch {torch.__version__} cannot add the gradients of a divided model: install torch "
            "2.8 or newer, or leave out --fsdp."
        )
    decoder = decoder_of(model)
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UnlearnError(
            f"{type(model).__name__} has no list of layers to divide among processes: run it with "
            "one process for each whole model."
        )
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    head = model.get_output_embeddings()
    if tied:  # the decoder's part has replaced the parameter that the head still has whole
        head.weight = model.get_input_embeddings().weight
    else:
        fully_shard(head, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no sum with a factor
    return model


def reshard(model: nn.Module) -> None:
    """Free what the last forward pass gathered, so that each process holds its part again."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def gather(model: Any) -> Any:
    """The whole of a sharded model, as a plain one on the CPU; every process must take part."""
    reshard(model)
    state = {
        name: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor.cpu()
        for name, tensor in model.state_dict().items()
    }
    return disable_dropout(plain_copy(model, state)).eval()
