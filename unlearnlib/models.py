"""Load and save causal language models and tokenizers, whatever the source.

A source is the word "lab" (the checkpoints that come with the project), a folder of a model or of
a LoRA adapter (which is merged into its base), a hub id (with a revision, as in owner/name@v1.0),
or a GGUF file. Only safetensors are read (GGUF through transformers' own reader, converted once);
no pickle, no code that comes with a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearnlib import hub
from unlearnlib.decoder import check_head, disable_dropout, head_of
from unlearnlib.devices import choose_device, tell_of_emulation
from unlearnlib.errors import UnlearnError, first_line, unknown
from unlearnlib.folders import FROM_SCRATCH, cache_folder, data_folder
from unlearnlib.loading import (
    border,
    check_files,
    check_finite,
    check_report,
    check_size,
    check_tokenizer,
    own_dtype,
    read_config,
)
from unlearnlib.lora import check_peft, merge
from unlearnlib.quantised import bits_of, check_kind, how_to_load
from unlearnlib.rope import older_names
from unlearnlib.sharding import plain_copy
from unlearnlib.store.claims import scratch_name
from unlearnlib.store.files import move_in, undisturbed, write_file
from unlearnlib.text import file_name, source_name
from unlearnlib.threads import ONE_AT_A_TIME
from unlearnlib.trained import TRAINING, lab_checkpoint

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# Half as wide as float32 and no wider in range than 65,504: what a model says in it can be
# measured, but gradients that are below its smallest number would be lost.
SCORED = DTYPES | {"float16": torch.float16}
ADAPTER = "adapter_config.json"
WEIGHTS = "weights.json"  # in a converted folder: what `weights_of` says of it
KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
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
    device: str | torch.device = "auto",
    bits: int = 0,
) -> nn.Module:
    """The causal LM of a source, dropout off; a LoRA adapter is merged into its base.

    `precision` is a name in `SCORED`, by default the model's own (see `own_precision`). `device` is
    "auto" (see `devices`), or as torch has it. With `bits` (4, see `quantised`) the linear
    layers are held in so many, and only adapters beside them can be trained.

    `UnlearnError` for a folder without safetensors, a corrupt file, a missing tensor or one too
    many, weights that are not finite, an unreachable hub, a head that is more than a linear layer.
    """
    if precision is not None and precision not in SCORED:
        raise unknown("precision", precision, SCORED)
    device = choose_device(str(device))
    model: Any = _loaded(source, precision, bits, device)
    tell_of_emulation(str(model.dtype).removeprefix("torch."), device)
    return model if bits_of(model) else model.to(device)


def _loaded(
    source: str | Path, precision: str | None, bits: int = 0, device: str = "cpu"
) -> nn.Module:
    """The checked causal LM of a source, in the computer's memory; with few bits on `device`."""
    with border("model", source, REMEDY):
        folder = _resolve(source)
        check_files(folder)
        with ONE_AT_A_TIME:
            if (folder / ADAPTER).is_file():
                if bits:
                    raise UnlearnError(
                        f"{str(source)!r} is an adapter, which is merged into its base and not "
                        "quantised: save the merged model, and give that, or leave base_bits out."
                    )
                model: Any = _merged(folder, source, precision)
            else:
                model = _read(folder, source, precision, bits, device)
        check_finite(model, source)
        head_of(model)
        check_kind(bits_of(model), source)
        if commit := hub.commit_of(folder):
            model.name_or_path = model.config.name_or_path = str(source)
            model.config._commit_hash = commit
        return check_head(disable_dropout(model))


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


def _read(
    folder: Path, source: str | Path, precision: str | None, bits: int = 0, device: str = "cpu"
) -> Any:
    """The model of a folder, complete, and as large as its configuration says."""
    from transformers import AutoModelForCausalLM

    _check_weights(folder, source)
    config = read_config(folder, source)
    check_size(config, folder, source)
    precision = precision or _name_of(own_dtype(config, folder, source), SCORED)
    if hub.commit_of(folder):
        hub.fetch_weights(str(source), folder)
    few = how_to_load(bits, SCORED[precision], device)
    if few or getattr(config, "quantization_config", None) is not None:
        few["device_map"] = {"": device}  # such layers are made where they stay
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=SCORED[precision],
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **few,
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
    return merge(_loaded(base, precision), folder)


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
    profile, _, name = str(source).partition("/")
    if isinstance(source, str) and profile in FROM_SCRATCH:
        return lab_checkpoint(name or "vanilla", profile)
    path = Path(source)
    if path.suffix.lower() in {".gguf", ".whl"} and path.is_file():
        return convert_gguf(path)
    if path.is_dir():
        return path
    if path.is_absolute() or path.exists() or str(source).startswith((".", "~")):
        raise UnlearnError(f"{str(source)!r} is not a model folder: give one, or a hub id.")
    return hub.fetch(str(source))


def weights_of(source: str | Path) -> dict[str, Any]:
    """Which weights a source has, for records, cards and pages; nothing is loaded.

    name    the lab's, a hub id (with the commit, where the hub's cache knows it), or the file's or
            folder's name, without the folders around it
    format  "safetensors" or "GGUF" with the types of numbers in it; what a GGUF file's were
            quantised to stays visible here, since it is expanded when it is read
    sha256  of a GGUF file or the wheel around it, which has one for the whole
    base    the same of the model that these were trained further from, where the folder says so
    """
    folder = _resolve(source)
    if (folder / WEIGHTS).is_file():
        return dict(json.loads((folder / WEIGHTS).read_text(encoding="utf-8")))
    found: dict[str, Any] = {"name": source_name(str(source)), "format": "safetensors"}
    if folder.parent in [data_folder() / profile for profile in FROM_SCRATCH]:
        found["name"] = f"lab/{folder.name}"
    if commit := hub.commit_of(folder):
        found["commit"] = commit
    if kinds := tensor_kinds(folder.glob("*.safetensors")):
        found["format"] += f", {kinds}"
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        made = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        if base := made.get("base_weights"):
            found |= {"name": f"{made['profile']}-{made['name']}", "base": base}
    return found


def weights_in_memory(model: Any) -> dict[str, Any]:
    """What `weights_of` says, of a model that somebody loaded already."""
    source = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
    if Path(source).is_dir():  # it may have been changed since: its hash stands beside this
        return weights_of(source)
    kinds = Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters())
    return {
        "name": file_name(source) if Path(source).is_absolute() else source,
        "format": f"in memory, {' and '.join(kind for kind, _ in kinds.most_common())}",
    }


def convert_gguf(path: Path) -> Path:
    """The folder of safetensors made from a GGUF file, or from the one inside a wheel.

    Converted once into the user's cache, under the file's own hash, through transformers'
    GGUF reader; quantised weights are expanded to float32. The file `WEIGHTS` in the folder says
    what it was made from.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    target = cache_folder() / f"{path.stem}-{digest.hexdigest()[:16]}"
    if (target / "config.json").exists() and (target / WEIGHTS).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        gguf = _gguf_file(path, scratch)
        logger.info("converting %s to safetensors, once", gguf.name)
        remedy = "give a Llama-like model's file and have the package gguf installed."
        with border("GGUF model", path, remedy), ONE_AT_A_TIME:
            weights = json.dumps(
                {"name": gguf.stem, "format": _gguf_kinds(gguf), "sha256": digest.hexdigest()}
            )
            if (target / "config.json").exists():  # of a version that did not write this file
                write_file(target / WEIGHTS, weights.encode("utf-8"))
                return target
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
        save_model(whole, tokenizer, staged, {WEIGHTS: weights})
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():  # somebody else's conversion came first: theirs is the same
                raise
    return target


def _gguf_file(path: Path, scratch: str) -> Path:
    """The GGUF file itself, taken out of the wheel that it is in."""
    if path.suffix.lower() != ".whl":
        return path
    with border("wheel", path, "fetch it anew."), zipfile.ZipFile(path) as wheel:
        names = [n for n in wheel.namelist() if n.endswith(".gguf")]
        if not names:
            raise UnlearnError(f"{str(path)!r} holds no .gguf file: give one that does.")
        return Path(wheel.extract(names[0], scratch))


def _gguf_kinds(path: Path) -> str:
    """The format of a GGUF file, with the types of its tensors, most numbers first."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return f"GGUF ({', '.join(name for name, _ in sizes.most_common())}), expanded to float32"


def tensor_kinds(files: Iterable[Path]) -> str:
    """The types of numbers in safetensors files, most tensors first; only headers are read."""
    from safetensors import safe_open

    kinds: Counter[str] = Counter()
    for path in files:
        with safe_open(path, "pt") as file:
            kinds.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
    return " and ".join(KINDS.get(kind, kind) for kind, _ in kinds.most_common())


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
        staged = Path(tempfile.mkdtemp(dir=place, prefix=f"{scratch_name(folder)}-"))
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


def hush_transformers() -> None:
    """Leave the screen to our own progress bars and sentences."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


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
