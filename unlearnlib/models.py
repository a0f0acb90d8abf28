"""Load and save causal language models and tokenizers, whatever the source.

A source is the word "lab" (the checkpoints that come with the project), a folder, a hub id, or
a GGUF file. Only safetensors are read (GGUF through transformers' own reader, converted once);
no pickle, no code that comes with a model.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.objectives import Head

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def data_folder() -> Path:
    """The project's `data/`: $UNLEARN_DATA, else beside the package, else in this folder."""
    if named := os.environ.get("UNLEARN_DATA"):
        return Path(named)
    beside = Path(__file__).resolve().parent.parent / "data"
    return beside if beside.is_dir() else Path("data")


def cache_folder() -> Path:
    """Where conversions are kept: $UNLEARN_CACHE, else the user's cache folder."""
    named = os.environ.get("UNLEARN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(named) if named else Path(base) / "unlearnlib"


def lab_checkpoint(name: str = "vanilla") -> Path:
    """The folder of a lab model: "vanilla" or "oracle-DOMAIN"."""
    return data_folder() / "lab" / name


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a model source."""
    from transformers import AutoTokenizer

    folder = _resolve(source)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UnlearnError(
            f"no tokenizer can be read from {str(source)!r} ({_first_line(error)}): give a folder "
            "or hub id that has tokenizer.json."
        ) from error


def load_model(
    source: str | Path = "lab", precision: str = "float32", device: str | torch.device = "cpu"
) -> nn.Module:
    """The causal LM of a source, dropout off, on `device`.

    `UnlearnError` for a folder without safetensors, a corrupt file, a missing tensor, an
    unreachable hub, or a head that is more than a linear layer.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    folder = _resolve(source)
    if isinstance(folder, Path) and not list(folder.glob("*.safetensors")):
        raise UnlearnError(
            f"{str(folder)!r} has no *.safetensors: give a folder with a model's weights in that "
            "format."
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise UnlearnError(
            f"the weights in {str(source)!r} are corrupt ({_first_line(error)}): fetch or rebuild "
            "them."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnlearnError(
            f"no model can be read from {str(source)!r} ({_first_line(error)}): give a folder with "
            "config.json and *.safetensors, or a hub id that this machine can reach."
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers makes them up, with a warning
        raise UnlearnError(
            f"the weights in {str(source)!r} lack {missing[0]!r} and {len(missing) - 1} other "
            "tensors: fetch or rebuild them."
        )
    head_of(model)
    return check_head(disable_dropout(model).to(device))


def model_config(source: str | Path) -> Any:
    """The configuration of a model source, without its weights."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(_resolve(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnlearnError(
            f"no configuration can be read from {str(source)!r} ({_first_line(error)}): give a "
            "folder with config.json, or a hub id that this machine can reach."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _resolve(source: str | Path) -> Path | str:
    """A folder if the source is local (converted from GGUF if need be), else the hub id."""
    if not isinstance(source, str | Path) or not str(source).strip():
        raise UnlearnError(f"the model is {source!r}: give a folder, a hub id, or lab.")
    if str(source) == "lab":
        return lab_checkpoint()
    if isinstance(source, str) and source.startswith("lab/"):
        return lab_checkpoint(source.removeprefix("lab/"))
    path = Path(source)
    if path.suffix in {".gguf", ".whl"} and path.is_file():
        return convert_gguf(path)
    if path.is_dir():
        return path
    if path.is_absolute() or path.exists() or str(source).startswith((".", "~")):
        raise UnlearnError(f"{str(source)!r} is not a model folder: give one, or a hub id.")
    return str(source)


def convert_gguf(path: Path) -> Path:
    """The folder of safetensors made from a GGUF file, or from the one inside a wheel.

    Converted once into the user's cache, under the file's own hash, through transformers'
    GGUF reader; quantised weights are expanded to float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    target = cache_folder() / f"{path.stem}-{digest.hexdigest()[:16]}"
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        gguf = path
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                names = [n for n in wheel.namelist() if n.endswith(".gguf")]
                if not names:
                    raise UnlearnError(f"{str(path)!r} holds no .gguf file: give one that does.")
                gguf = Path(wheel.extract(names[0], scratch))
        logger.info("converting %s to safetensors, once", gguf.name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UnlearnError(
                f"{str(path)!r} cannot be read as GGUF ({_first_line(error)}): give a Llama-like "
                "model's file and have the package gguf installed."
            ) from error
        staged = Path(scratch) / "model"
        save_model(_plain(model, model.state_dict()), tokenizer, staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():  # somebody else's conversion came first: theirs is the same
                raise
    return target


def _plain(model: Any, state: dict[str, Tensor]) -> Any:
    """A model of the same kind with parameters `state`.

    It knows nothing of having been quantized, which `transformers` would refuse to save.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(state)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model (safetensors) and tokenizer; the folder appears whole or not at all."""
    from safetensors import SafetensorError

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(staged, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        staged.chmod(0o755)  # a temporary folder is its owner's alone, and so are some files in it
        for item in staged.iterdir():
            item.chmod(0o644)
        if folder.exists():
            for item in staged.iterdir():
                os.replace(item, folder / item.name)
        else:
            staged.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UnlearnError(
            f"the model cannot be written to {str(folder)!r} ({_first_line(error)}): choose "
            "another folder or free some space."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def disable_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout to 0, in place; so too layers left out and routers shaken at random.

    A dropout mask depends on how documents share micro-batches, and a run must not; forgetting
    is also no place for noise that nobody seeds.
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


def decoder_of(model: Any) -> nn.Module:
    """The part of a causal LM that ends in hidden states: everything but the output head."""
    decoder = getattr(model, model.base_model_prefix, None)
    if not isinstance(decoder, nn.Module):
        raise UnlearnError(f"{type(model).__name__} has no decoder part: give a causal LM.")
    return decoder


def check_loaded(model: object, tokenizer: object) -> None:
    """Whether these are a model and its tokenizer, and not their names or each other.

    Raises `UnlearnError` where one is not.
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


def _short(value: object) -> str:
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


def check_reach(model: Any, tokens: Sequence[Sequence[int]]) -> None:
    """Whether a model can read chunks with these tokens.

    Raises `UnlearnError` for one that is too long, and for a token that the model does not have.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max((max(chunk, default=0) for chunk in tokens), default=0)
    if largest >= rows:
        raise UnlearnError(
            f"the texts have the token {largest} and the model knows {rows} tokens: give the "
            "model's own tokenizer."
        )
    most = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, tokens), default=0)
    if most is not None and longest > most:
        raise UnlearnError(
            f"there is a chunk of {longest} tokens and the model reads at most {most}: give "
            f"length={most} or less."
        )


def head_of(model: Any) -> Head:
    """The output head; `UnlearnError` where logits are not a linear map of hidden states."""
    layer = model.get_output_embeddings()
    config = model.config
    odd = [
        name
        for name in (
            "final_logit_softcapping",
            "logits_soft_cap",
            "logit_scale",
            "logits_scaling",
            "lm_head_multiplier",
        )
        if getattr(config, name, None) not in (None, 1.0)
    ]
    if not isinstance(layer, nn.Linear) or odd:
        raise UnlearnError(
            f"{type(model).__name__} ends in {odd[0] if odd else type(layer).__name__}, not in a "
            "plain linear head: give a model whose logits are a linear map of its hidden states."
        )
    return Head(_whole(layer.weight), None if layer.bias is None else _whole(layer.bias))


@torch.no_grad()
def check_head(model: Any) -> Any:
    """The model; `UnlearnError` where its logits are not those of `head_of` on its hidden states.

    Not all that a model does to its logits stands in its configuration under a known name, nor
    what it does before the head. So a few tokens are asked for both.
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
    # NaN passes: weights that are no numbers are another fault.
    if bool((head.logits(hidden) - theirs).abs().max() > rounding * theirs.abs().max()):
        raise UnlearnError(
            f"the logits of {type(model).__name__} are not its output layer's of its last hidden "
            "states: give a model whose logits are a linear map of its hidden states."
        )
    return model


def _whole(parameter: Any) -> Any:
    """A parameter, gathered from all processes if each holds a part of it.

    The way back adds up what each process found of its gradient and gives each its part.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.full_tensor(grad_placements=[Partial()])


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
    """Let go of what the last forward pass gathered, so that parameters are parts again."""
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
    return disable_dropout(_plain(model, state)).eval()


def model_hash(model: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and bytes of all parameters and buffers saved.

    The same for a model in memory and for the one loaded from the files that it was saved to.
    Tied parameters count once, under the name that comes first.
    """
    digest = hashlib.sha256()
    seen: set[int] = set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
