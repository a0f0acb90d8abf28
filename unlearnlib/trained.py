"""Where the models that the project trained lie (the lab's, and those trained further)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import cache_folder, data_folder
from unlearnlib.profiles import get_profile

TRAINING = "training.json"  # the record beside the weights; `record_path` is the published one


def continued_names(profile: str) -> tuple[str, ...]:
    """The models of a profile: vanilla and an oracle per domain."""
    return ("vanilla", *(f"oracle-{domain}" for domain in get_profile(profile).domains))


def record_path(profile: str, name: str) -> Path:
    """Where the record of a model is kept; it is published with the project."""
    return data_folder() / "continued" / f"{profile}-{name}.json"


def read_record(profile: str, name: str) -> dict[str, Any]:
    """What was done to make a model: its epochs, scores, recipe and provenance."""
    path = record_path(profile, name)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UnlearnError(
            f"there is no record of {name!r} at profile {profile!r}: make the model with "
            f"`unlearn pretrain --profile {profile}`."
        ) from error


def made_here(profile: str, name: str) -> dict[str, Any]:
    """The record of making the weights that are on this machine; empty if there is none.

    It lies beside them: the published record (`read_record`) may be of another machine's.
    """
    try:
        path = continued_checkpoint(profile, name) / TRAINING
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def continued_checkpoint(profile: str, name: str, needed: bool = False) -> Path:
    """The folder of a model's weights; with `needed`, `UnlearnError` if it has none."""
    if name not in continued_names(profile):
        raise unknown("model", name, continued_names(profile))
    folder = cache_folder() / profile / name
    if needed and not is_made(profile, name):
        raise UnlearnError(
            f"the {name} model of profile {profile!r} is not on this machine: make it with "
            f"`unlearn pretrain --profile {profile} --corpora FOLDER`, or name another model with "
            f"--model ({get_profile(profile).model} is the one that it starts from)."
        )
    return folder


def is_made(profile: str, name: str) -> bool:
    """Whether a model's weights are on this machine."""
    return is_whole(continued_checkpoint(profile, name))


def is_whole(folder: Path) -> bool:
    """Whether a whole model lies in a folder, in one file of weights or several."""
    weights = (folder / name for name in ("model.safetensors", "model.safetensors.index.json"))
    return (folder / "config.json").exists() and any(path.exists() for path in weights)


def lab_names(profile: str = "lab") -> tuple[str, ...]:
    """The models of a profile that is trained here from scratch: vanilla, and the oracles.

    A name that ends in -s1 or -s2 is that of a model whose order of texts and initial weights are
    those of another seed (see `seed_of`).
    """
    scale = get_profile(profile)
    oracles = [f"oracle-{domain}" for domain in scale.domains]
    names = ["vanilla", *oracles]
    for seed in range(1, scale.retrained):
        names += [*(["vanilla-s1"] if seed == 1 else []), *(f"{o}-s{seed}" for o in oracles)]
    return tuple(names)


def seed_of(name: str) -> tuple[str, int]:
    """A lab model's name without its seed, and the seed: ("vanilla", 1) for vanilla-s1."""
    match = re.fullmatch(r"(.+)-s([0-9]+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def lab_checkpoint(name: str = "vanilla", profile: str = "lab") -> Path:
    """The folder of a lab model: "vanilla" or "oracle-DOMAIN", which come with the project.

    Models of other seeds (see `lab_names`) lie in the user's cache; `unlearn pretrain` makes them.
    """
    return (cache_folder() if seed_of(name)[1] else data_folder()) / profile / name


def lab_record(name: str, profile: str = "lab") -> Path:
    """The file with the record of a lab model's training, which comes with the project."""
    if seed_of(name)[1]:
        return data_folder() / profile / f"{name}.json"
    return lab_checkpoint(name, profile) / "record.json"


def made_checkpoint(name: str, profile: str) -> Path:
    """`lab_checkpoint` of a model that is on this machine; `UnlearnError` if it is not."""
    folder = lab_checkpoint(name, profile)
    if not is_whole(folder):
        raise UnlearnError(
            f"the {name} model of profile {profile!r} is not on this machine: make it with "
            f"`unlearn pretrain --profile {profile} --only {name}`."
        )
    return folder
