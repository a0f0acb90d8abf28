"""Hashes of what determines a model's numbers beside its weights: configuration and tokenizer.

The weights' own hash is `models.model_hash`. Each is the same before and after saving and loading,
and in every version of transformers that computes the same: what only names, describes or speeds
something up is left out, and so is what a class has by default.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of a configuration: names, versions, how to store and how to generate, the spread of weights
# that are loaded anyway. `pad_token_id` is none of these: its embedding gets no gradient.
_WITHOUT_EFFECT = re.compile(
    r"\w*name_or_path|architectures|auto_map|transformers_version|(torch_)?dtype"
    r"|(bos|eos|sep|unk|decoder_start)_token_id|use_cache|return_dict|problem_type"
    r"|output_(attentions|hidden_states|router_logits)"
    r"|id2label|label2id|num_labels|finetuning_task|task_specific_params|tokenizer_class"
    r"|chunk_size_feed_forward|initializer_range|_attn_implementation\w*|attn_implementation"
    # Dropout is off.
    r"|(\w+_)?(dropout|pdrop|dropout_prob)(_rate)?"
)
# Where transformers 5 has rotary embeddings, and the names that transformers 4 had for it.
_ROTARY, _ROTARY_BEFORE = "rope_parameters", ("rope_theta", "rope_scaling")
_EXAMPLE = "  The Quick\tbrown fox, 1234 ÀÉ\n\nñandú 你好: don't  "
# What a call may have left in a tokenizer.
_OF_A_CALL = ("padding", "truncation", "version")


def config_hash(config: Any) -> str:
    """SHA-256 (hex) of a configuration of transformers: of all in it that determines numbers."""
    if config is None:
        return _digest({})
    values = config.to_dict()
    try:
        usual = type(config)().to_dict()
    except Exception:  # some cannot be made without arguments, and fail as they like
        usual = {}
    found = _different(values, usual)
    return _digest({**found, "model_type": getattr(config, "model_type", "")})


def oracle_hash(weights: str, config: str) -> str:
    """SHA-256 (hex) of a retrained model, from the hashes of its weights and configuration."""
    return _digest({"model": weights, "config": config})


def _different(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What of `values` has an effect and is not as usual; what says null or false is as absent."""
    found: dict[str, Any] = {}
    for name in {*values, *usual}:
        if _WITHOUT_EFFECT.fullmatch(name) or (values.get(_ROTARY) and name in _ROTARY_BEFORE):
            continue
        value, default = values.get(name), usual.get(name)
        if isinstance(value, Mapping):
            if inner := _different(value, default if isinstance(default, Mapping) else {}):
                found[name] = inner
        elif value != default and (value or default or type(value) in (int, float)):
            found[name] = value
    return found


def tokenizer_hash(tokenizer: Any, prompts: bool = False) -> str:
    """SHA-256 (hex) of a tokenizer: its tokens and their numbers, how it takes a text apart.

    Of a fast one that is what its tokenizer.json says, of a slow one the vocabulary files that it
    saves and an example; of both the special tokens. With `prompts` also how it spells a
    conversation, which documents without prompts do not rest on.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        whole = json.loads(backend.to_str())
        parts = _without_nothing({k: v for k, v in whole.items() if k not in _OF_A_CALL})
    else:
        parts = _of_slow(tokenizer)
    special = sorted(int(i) for i in tokenizer.all_special_ids)
    tidy = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
    made = {"tokenizer": parts, "special": special, "tidy": tidy}
    if prompts:
        bos = getattr(tokenizer, "bos_token_id", None)
        made |= {"template": getattr(tokenizer, "chat_template", None), "bos": bos}
    return _digest(made)


def _of_slow(tokenizer: Any) -> dict[str, Any]:
    """What determines a tokenizer that is written in Python, and how it takes a text apart."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(tokenizer, "save_vocabulary"):
            tokenizer.save_vocabulary(folder)
        for path in sorted(Path(folder).iterdir()):
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "class": type(tokenizer).__name__,
        "vocabulary": tokenizer.get_vocab(),
        "files": files,
        "example": tokenizer(_EXAMPLE)["input_ids"],
    }


def _without_nothing(value: Any) -> Any:
    """`value` without entries that are null or false: a later version may write more of these."""
    if isinstance(value, Mapping):
        return {
            k: _without_nothing(v) for k, v in value.items() if v is not None and v is not False
        }
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    return value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
