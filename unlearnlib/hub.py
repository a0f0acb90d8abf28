"""Models of the Hugging Face hub, named owner/name or owner/name@revision.

A revision is a branch, a tag or a commit. What is needed of a model is fetched into the hub's own
cache, where each commit has a folder; from there on it is a folder like any other. The weights come
last: what they take is known before, from their headers alone, where the hub can tell.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from unlearnlib.errors import UnlearnError
from unlearnlib.text import gigabytes

logger = logging.getLogger(__name__)

# All that stands beside the weights; files in sub-folders belong to other formats.
BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja")
INDEX = "model.safetensors.index.json"
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


def parts(source: str) -> tuple[str, str | None]:
    """The hub id of a source, and the revision that it names."""
    name, at, revision = source.partition("@")
    if at and not (name.strip() and revision.strip()):
        raise UnlearnError(
            f"the model is {source!r}: give a hub id and a branch, tag or commit of it, as in "
            "owner/name@main."
        )
    return name, revision or None


def fetch(source: str, patterns: Sequence[str] = BESIDE_WEIGHTS) -> Path:
    """The cache's folder of a model, with the files of its top folder that match `patterns`."""
    from huggingface_hub import snapshot_download

    name, revision = parts(source)
    folder = snapshot_download(
        name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
    )
    return Path(folder)


def fetch_weights(source: str, folder: Path) -> None:
    """Fetch the weights that a model's folder in the cache lacks."""
    lacking = _lacking(folder)
    if not lacking:
        return
    if size := sum(BYTES.get(kind, 1) * n for kind, n in (held(source) or {}).items()):
        logger.info("fetching %s: %s of weights", source, gigabytes(size))
        if (free := shutil.disk_usage(folder).free) < size:
            raise UnlearnError(
                f"the weights of {source!r} take {gigabytes(size)} and the hub's cache has "
                f"{gigabytes(free)} left: free some space, or name another disk in HF_HOME."
            )
    # By the commit that the folder is of: a branch may have moved on since.
    commit = commit_of(folder)
    fetch(parts(source)[0] + (f"@{commit}" if commit else ""), lacking)


def _lacking(folder: Path) -> list[str]:
    """The files of weights that a model's folder in the cache does not have yet."""
    names = {"model.safetensors"}
    if (folder / "adapter_config.json").is_file():
        names = {"adapter_model.safetensors"}
    if (folder / INDEX).is_file():
        names = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    return sorted(name for name in names if not (folder / name).is_file())


def held(source: str) -> dict[str, int] | None:
    """Name of a dtype, as safetensors has it -> number of elements; None where the hub is mute."""
    from huggingface_hub import get_safetensors_metadata

    name, revision = parts(source)
    try:
        found = get_safetensors_metadata(name, revision=revision).parameter_count
        return {str(kind): count for kind, count in found.items()}
    except Exception as error:  # no network, no safetensors, no right to read them: told later
        logger.debug("%s does not say what its weights hold: %s", source, error)
        return None


def commit_of(folder: object) -> str | None:
    """The commit that a folder of the hub's cache is of; None for any other folder."""
    path = Path(str(folder))
    of_cache = path.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", path.name)
    return path.name if of_cache else None
