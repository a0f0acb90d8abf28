"""The border between a model's files, which anyone may have made, and a model that is checked.

Inside `border` whatever goes wrong in transformers, safetensors, tokenizers or peft becomes one
sentence. Before anything is built from the files they are looked at: which of them are read, how
large a model they ask for, and whether they would have code run, which never happens.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from unlearnlib import hub
from unlearnlib.errors import UnlearnError, first_line, is_failure
from unlearnlib.hub import INDEX
from unlearnlib.threads import ONE_AT_A_TIME

# Above what any model has; building one of 20,000 layers takes minutes though no weight is read.
MOST = {"layer": 1000, "block": 1000, "expert": 10_000, "head": 10_000, "group": 10_000}
LARGEST = 2**40  # of any whole number in a configuration
ATTENTION = ("eager", "sdpa")
# As safetensors names them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
SMALL = 10_000_000  # elements; below that no model's size is judged
# Masks and tables that older versions of transformers wrote beside the weights.
TABLES = re.compile(r"(\.attn\.bias|\.attention\.bias|masked_bias|inv_freq)$")


@contextlib.contextmanager
def border(what: str, source: object, remedy: str) -> Iterator[None]:
    """Inside, whatever is raised becomes an `UnlearnError`: no `what` can be read from `source`."""
    try:
        yield
    except UnlearnError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise _told(error, what, source, remedy) from error


def _told(error: BaseException, what: str, source: object, remedy: str) -> UnlearnError:
    said = first_line(error)
    if "trust_remote_code" in str(error):
        return UnlearnError(
            f"{str(source)!r} brings code of its own, which is never run: give a {what} of a kind "
            "that transformers itself has."
        )
    if type(error).__name__ == "SafetensorError":
        return UnlearnError(
            f"the weights in {str(source)!r} are corrupt ({said}): fetch or rebuild them."
        )
    if isinstance(error, ImportError):
        remedy = f"install what it needs, or give a {what} that does without."
    return UnlearnError(f"no {what} can be read from {str(source)!r} ({said}): {remedy}")


def check_files(folder: Path) -> None:
    """`UnlearnError` for what is no file among a folder's files, and for an index that leads away.

    Reading a pipe would wait for ever. An index may name files in its own folder that end in
    .safetensors: anything else would be unpickled.
    """
    for item in folder.iterdir():
        if not item.exists() or stat.S_IFMT(item.stat().st_mode) not in (
            stat.S_IFREG,
            stat.S_IFDIR,
        ):
            raise UnlearnError(
                f"{str(item)!r} is no regular file, or leads to none: fetch the model anew, or "
                "take it out of the folder."
            )
    index = folder / INDEX
    if not index.is_file():
        return
    with border("index of weights", index, "fetch it anew."):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        for name in sorted({str(name) for name in names}):
            if not name.endswith(".safetensors") or re.search(r"[/\\:\0]", name):
                raise UnlearnError(
                    f"{str(index)!r} names {name!r}: give weights whose index names .safetensors "
                    "files of its own folder alone."
                )


def read_config(folder: Path, source: object) -> Any:
    """The configuration; `UnlearnError` where no model of its size can be built, or runs here."""
    from transformers import AutoConfig

    file = folder / "config.json"
    # Before anything is made of it: for each layer there is an entry in some list.
    for name, value in _numbers(json.loads(file.read_bytes()) if file.is_file() else {}):
        most = next((n for word, n in MOST.items() if _counts(name, word)), LARGEST)
        if abs(value) > most:
            raise UnlearnError(
                f"the configuration in {str(source)!r} says {name}: {_abbreviated(value)}, and at "
                f"most {most} is read: give the model's own config.json."
            )
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    asked = getattr(config, "_attn_implementation_internal", None)
    for kind in asked.values() if isinstance(asked, Mapping) else [asked]:
        if kind is not None and kind not in ATTENTION:
            raise UnlearnError(
                f"the configuration in {str(source)!r} asks for attention {str(kind)!r}: take "
                f"attn_implementation out of its config.json, or set it to one of "
                f"{', '.join(ATTENTION)}."
            )
    return config


def _counts(name: str, word: str) -> bool:
    """Whether a setting is a number of such parts: num_hidden_layers, n_layer, num_experts."""
    return bool(re.match(rf"(n|num|encoder|decoder)_(\w+_)*{word}s?$", name))


def _numbers(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """All numbers in a configuration, with their names."""
    if depth > 20:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, "", depth + 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _abbreviated(value: float) -> str:
    text = str(value) if abs(value) < 10**18 else "a number of more than 18 digits"
    return text


def blank_model(config: Any, dtype: torch.dtype) -> Any:
    """A causal LM of a configuration without memory, on the device "meta"."""
    from transformers import AutoModelForCausalLM

    with ONE_AT_A_TIME, torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=False
        )


def check_size(config: Any, folder: Path, source: object) -> None:
    """`UnlearnError` for a configuration that asks for far more than the weights hold.

    Memory for what the weights lack would be taken before anyone could say that they lack it.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    held = sum(_held(folder, source).values())
    if not held:  # the hub does not tell, or there are no weights
        return
    blank = blank_model(config, torch.float32)
    asked = sum(p.numel() for p in blank.parameters())
    tables = sum(b.numel() for n, b in blank.named_buffers() if n not in blank.state_dict())
    if max(asked, tables / 10) > 2 * held + SMALL:
        raise UnlearnError(
            f"the configuration in {str(source)!r} asks for {asked + tables:,} numbers and the "
            f"weights hold {held:,}: give the model's own config.json."
        )


def _held(folder: Path, source: object) -> dict[str, int]:
    """Name of a dtype, as safetensors has it -> number of elements of it in a model's weights.

    Those in the folder are looked into. Of weights that are still to be fetched the hub is asked.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files and hub.commit_of(folder):
        return hub.held(str(source)) or {}
    total: dict[str, int] = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dictionary)
                tensor = weights.get_slice(name)
                kind = str(tensor.get_dtype())
                total[kind] = total.get(kind, 0) + math.prod(tensor.get_shape())
    return total


def own_dtype(config: Any, folder: Path, source: object) -> torch.dtype | None:
    """The dtype that a model was saved in: as its configuration says, else that of most weights."""
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(said, torch.dtype):
        return said
    held = _held(folder, source)
    return DTYPES.get(max(held, key=lambda kind: held[kind])) if held else None


def check_report(report: Mapping[str, Any], source: object) -> None:
    """`UnlearnError` for tensors that the weights lack, or that the model has no place for.

    transformers makes up the former, and leaves out the latter, with a warning.
    """
    if missing := sorted(report["missing_keys"]):
        raise UnlearnError(
            f"the weights in {str(source)!r} lack {missing[0]!r} and {len(missing) - 1} other "
            "tensors: fetch or rebuild them."
        )
    if extra := sorted(k for k in report["unexpected_keys"] if not TABLES.search(k)):
        raise UnlearnError(
            f"the weights in {str(source)!r} have {extra[0]!r} and {len(extra) - 1} other tensors "
            "that its configuration has no place for: give the model's own config.json."
        )


def check_finite(model: Any, source: object = "") -> None:
    """`UnlearnError` for a model that has NaN or infinity among its weights: it says where."""
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not bool(torch.isfinite(parameter.detach()).all()):
            where = f"the weights in {str(source)!r}" if source else "the model's weights"
            raise UnlearnError(
                f"{where} are not finite, {name!r} for one: fetch them anew, or take an earlier "
                "checkpoint."
            )


def check_tokenizer(tokenizer: Any, source: object) -> Any:
    """The tokenizer; `UnlearnError` where it knows no word.

    For many kinds of models transformers makes an empty one where a folder has no tokenizer files.
    """
    text = "The quick brown fox, 123. 你好 привет"
    made = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not all(isinstance(i, int) for i in made) or set(made) <= set(tokenizer.all_special_ids):
        raise UnlearnError(
            f"{str(source)!r} has no tokenizer, or an empty one: put the tokenizer files of the "
            "model (tokenizer.json, tokenizer_config.json) into a folder with its weights, or name "
            "another source of it with --tokenizer."
        )
    return tokenizer
