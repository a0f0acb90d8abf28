"""From arguments to checked values: settings, devices, processes, stores and files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import get_profile

if TYPE_CHECKING:
    from unlearnlib.engine import Execution
    from unlearnlib.tasks import TaskSet

SHORTCUTS = ("learning_rate", "updates", "batch_size", "length", "precision")


NOT_BY_SET = ("profile", "domain", "method")  # they have flags of their own
FILES = ("forget", "retain", "approximate", "general")


def _pairs(given: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """NAME=VALUE arguments as a dictionary."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UnlearnError(f"{flag} {text!r} has no value: write it as in {flag} {example}.")
        if name in pairs:
            raise UnlearnError(f"{flag} gives {name!r} twice: give it once.")
        pairs[name] = value.strip()
    return pairs


def chosen_limits(given: Sequence[str]) -> dict[str, int]:
    """--limit as split -> count, checked."""
    from unlearnlib.corpus.files import checked_limits

    limits: dict[str, int] = {}
    for split, text in _pairs(given, "--limit", "forget=16").items():
        try:
            limits[split] = int(text)
        except ValueError:
            raise UnlearnError(
                f"the limit of {split!r} is {text!r}: give a whole number of at least 1."
            ) from None
    return checked_limits(limits)


def given_settings(args: argparse.Namespace) -> dict[str, str]:
    """What --set and its shortcuts give."""
    settings = _pairs(args.settings, "--set", "updates=8")
    for name in SHORTCUTS:
        value = getattr(args, name)
        if value is None:
            continue
        if name in settings:
            raise UnlearnError(
                f"{name} is given by --set and by --{name.replace('_', '-')}: give it once."
            )
        settings[name] = value
    for name in NOT_BY_SET:
        if name in settings:
            raise UnlearnError(f"--set cannot change the {name}: use --{name}.")
    return settings


def chosen_device(name: str) -> str:
    """ "cpu" or "cuda"; of several processes each has a GPU of its own, "cuda:1" say."""
    import torch

    if process_count() > 1:
        from accelerate import PartialState

        cpu = name == "cpu" or not torch.cuda.is_available()
        return str(PartialState(cpu=cpu).device)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UnlearnError(
            f"--device is cuda, but torch {torch.__version__} sees no CUDA device here: use "
            "--device cpu, or install a driver and a build of torch for it."
        )
    return name


def chosen_execution(args: argparse.Namespace, progress: bool = True) -> Execution:
    """How a command computes, by the arguments that `cli.parser` adds for it."""
    from unlearnlib.engine import Execution

    return Execution(
        micro_tokens=args.micro_tokens,
        progress=progress and not args.quiet and is_main_process(),
        packed=args.packed,
        recompute=args.recompute,
    )


def process_count() -> int:
    """How many processes a launcher (accelerate, torchrun) has started for this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one of them that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def hush_transformers() -> None:
    """Leave the terminal to our own progress bars and sentences."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


def store_path(
    named: str | None,
    model: str | None,
    limits: Sequence[str],
    files: Mapping[str, str] | None = None,
) -> Path | None:
    """The run store that a command writes to: the one named, else the default one, or none.

    Records of another model or of a part of the data have the same spec as those of the whole
    profile, and a study finds its records by their specs: they need a store of their own.
    """
    if named is not None:
        return Path(named)
    if model or limits or files:
        return None
    from unlearnlib.study.records import default_store

    return default_store().root


def chosen_domains(profile: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """The domains given, each once; by default all that the profile has."""
    scale = get_profile(profile)
    if given:
        for domain in given:
            if domain not in scale.domains:
                raise unknown("domain", domain, scale.domains)
        return tuple(dict.fromkeys(given))
    if scale.corpus == "hub":
        from unlearnlib.corpus.hub import HUB_DOMAINS

        return HUB_DOMAINS
    return scale.domains


def chosen_tasks(names: Sequence[str], limit: int | None, unsafe: bool) -> TaskSet | None:
    """The tasks that --tasks names, with their data, before any model is loaded."""
    if not names:
        for flag, given in (("--task-limit", limit), ("--confirm-unsafe-code", unsafe)):
            if given:
                raise UnlearnError(f"{flag} is given without tasks: name some with --tasks.")
        return None
    if process_count() > 1:
        raise UnlearnError(
            f"tasks are asked by one process and {process_count()} were launched: leave out "
            "--tasks, and give the model in --out to `unlearn score --tasks`."
        )
    from unlearnlib.tasks import load_tasks

    return load_tasks(names, limit=limit, unsafe=unsafe)


def file_to_write(name: str | None, option: str, force: bool) -> Path | None:
    """The file that an option names, checked before hours are spent; None if it was not given."""
    if name is None:
        return None
    path = Path(name)
    if path.is_dir() or (path.exists() and not force):
        raise UnlearnError(f"{option} {name!r} exists: give another name, or --force.")
    if not path.absolute().parent.is_dir():
        raise UnlearnError(f"the folder of {option} {name!r} does not exist: make it first.")
    return path


def write_output(path: Path, raw: bytes, option: str, force: bool) -> None:
    """Write the file that an option names, whole or not at all; see `file_to_write`.

    Without `force`, a file that came there meanwhile is left, and `UnlearnError` says so.
    """
    from unlearnlib.store.files import write_file  # the store loads NumPy, and help needs none

    if path.exists() and not path.is_file():  # a device or a pipe: nothing to keep
        path.write_bytes(raw)
    # A link stays one: what it leads to is replaced.
    elif not write_file(path.resolve(), raw, replace=force):
        raise UnlearnError(
            f"{option} {str(path)!r} was written by something else meanwhile, and is left as it "
            "is: give another name, or --force."
        )
