"""The settings of rotary positions (RoPE): the names that others read them by, and their turn.

transformers 5 writes them all into `rope_parameters`, which transformers 4 does not read: it would
take a theta of 10,000 without a word, and compute another model. A saved model has both names.

Longrope, of Phi, takes other frequencies for a whole batch once one of its sequences is longer than
what the model was first trained on. Chunks of both sides must not share a batch (`turns`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The two kinds of layers of models that have a RoPE for each.
WHOLE, NEAR = "full_attention", "sliding_attention"
# What transformers 4 has beside `rope_scaling`, and not in it.
BESIDE = ("rope_theta", "partial_rotary_factor")


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that transformers 4 reads, by its names; `config` is that of a config.json."""
    found = config.get("rope_parameters")
    if not isinstance(found, Mapping) or not found:
        return {}
    kind = str(config.get("model_type", ""))
    older: dict[str, Any] = {}
    if isinstance(found.get(WHOLE), Mapping):
        near = found.get(NEAR) or found[WHOLE]
        if kind.startswith("gemma3"):
            older["rope_local_base_freq"] = near.get("rope_theta")
        elif kind.startswith("modernbert"):
            return {
                "global_rope_theta": found[WHOLE].get("rope_theta"),
                "local_rope_theta": near.get("rope_theta"),
            }
        found = found[WHOLE]
    older |= {name: found[name] for name in BESIDE if found.get(name) is not None}
    if kind == "gpt_neox":
        older = {"rotary_emb_base": older.get("rope_theta"), "rotary_pct": older.get(BESIDE[1])}
    scaling = {name: value for name, value in found.items() if name not in BESIDE}
    how = scaling.get("rope_type", "default")
    if how == "longrope":  # it wants these three, and the limit beside them
        limit = scaling.get("original_max_position_embeddings")
        if limit is not None:
            older["original_max_position_embeddings"] = limit
        scaling = {name: scaling[name] for name in ("short_factor", "long_factor")}
        scaling["type"] = "longrope"
    if how != "default":
        older["rope_scaling"] = scaling
    return {name: value for name, value in older.items() if value is not None}


def turns(config: Any) -> list[int]:
    """The lengths above which a model's RoPE is another for the whole batch, in ascending order."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    settings = getattr(text, "rope_parameters", None)
    if not isinstance(settings, Mapping):
        return []
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    limits = {
        each.get("original_max_position_embeddings")
        for each in nested or [settings]
        if each.get("rope_type", each.get("type")) == "longrope"
    }
    return sorted(limit for limit in limits if isinstance(limit, int))
