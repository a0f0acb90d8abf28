"""From arguments to checked values: settings, devices, processes, stores and files."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnlib.errors import UnlearnError
from unlearnlib.profiles import check_domains, default_domains, left_out

if TYPE_CHECKING:
    from unlearnlib.corpus.columns import Named
    from unlearnlib.engine import Execution
    from unlearnlib.tasks import TaskSet

logger = logging.getLogger(__name__)

SHORTCUTS = ("learning_rate", "updates", "batch_size", "length", "precision")


NOT_BY_SET = ("profile", "domain", "method")  # they have flags of their own
FILES = ("forget", "retain", "approximate", "general")


def pairs(given: Sequence[str], flag: str, example: str) -> dict[str, str]:
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


def named_columns(args: argparse.Namespace) -> Named:
    """Which columns of the user's tables hold what, as `corpus.files` takes them."""
    return {
        "column": args.column,
        "ids": args.id,
        "prompt_column": args.prompt_column,
        "chat": args.chat,
    }


def column_words(args: argparse.Namespace) -> list[str]:
    """The words of the command line that name columns."""
    named = {"--column": args.column, "--prompt-column": args.prompt_column, "--id": args.id}
    words = [word for flag, name in named.items() if name is not None for word in (flag, name)]
    return [*words, *(["--chat"] if args.chat else [])]


def chosen_limits(given: Sequence[str]) -> dict[str, int]:
    """--limit as split -> count, checked."""
    from unlearnlib.corpus.files import checked_limits

    limits: dict[str, int] = {}
    for split, text in pairs(given, "--limit", "forget=16").items():
        try:
            limits[split] = int(text)
        except ValueError:
            raise UnlearnError(
                f"the limit of {split!r} is {text!r}: give a whole number of at least 1."
            ) from None
    return checked_limits(limits)


def given_settings(args: argparse.Namespace) -> dict[str, str]:
    """What --set and its shortcuts give."""
    settings = pairs(args.settings, "--set", "updates=8")
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


def chosen_execution(args: argparse.Namespace, progress: bool = True) -> Execution:
    """How a command computes, by the arguments that `cli.parser` adds for it."""
    from unlearnlib.engine import Execution

    if said := lone_process():
        logger.warning("one process computes all of it: %s", said)
    return Execution(
        micro_tokens=args.micro_tokens,
        progress=progress and not args.quiet and is_main_process(),
        packed=args.packed,
        recompute=args.recompute,
    )


def process_count() -> int:
    """How many processes a launcher (accelerate, torchrun) has started for this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lone_process() -> str:
    """What to do where accelerate was told to start several processes and started one.

    It does so with MULTI_CPU and without mpirun; then it names a master and no number of processes.
    Empty where that is not so.
    """
    several = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if not several or "WORLD_SIZE" in os.environ:
        return ""
    return (
        "with distributed_type MULTI_CPU accelerate needs mpirun to start several; take the "
        "configuration configs/accelerate/two_cpu_processes.yaml, or torchrun"
    )


def is_main_process() -> bool:
    """Whether this process is the one of them that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def hush_transformers() -> None:
    """Leave the terminal to our own progress bars and sentences."""
    from unlearnlib.models import hush_transformers as hush  # here, because help needs no torch

    hush()


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
    """The domains given, each once; by default all that can be had, and which cannot is told."""
    if given:
        return check_domains(profile, given)
    if said := left_out(profile):
        logger.info("%s", said)
    return default_domains(profile)


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
    from unlearnlib.store.files import write_named  # the store loads NumPy, and help needs none

    if not write_named(path, raw, replace=force):
        raise UnlearnError(
            f"{option} {str(path)!r} was written by something else meanwhile, and is left as it "
            "is: give another name, or --force."
        )
