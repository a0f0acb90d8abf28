"""`unlearn pretrain`: train the lab's models, or a profile's vanilla and oracles."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from unlearnlib.cli.arguments import hush_transformers, is_main_process
from unlearnlib.cli.output import Report, columns
from unlearnlib.continue_pretraining import train_further
from unlearnlib.devices import choose_device
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import FROM_SCRATCH
from unlearnlib.pretrain import train_lab_model
from unlearnlib.profiles import PROFILES, Profile, get_profile
from unlearnlib.store.claims import reserved
from unlearnlib.trained import (
    continued_checkpoint,
    continued_names,
    is_made,
    is_whole,
    lab_checkpoint,
    lab_names,
    made_here,
)

SAVE_EVERY = 200  # updates: a minute or so of training is lost where it is interrupted


def pretrain_command(args: argparse.Namespace) -> Report:
    """Make a profile's models, vanilla and the oracles: from scratch, or by training further."""
    scale = get_profile(args.profile)
    if scale.continued:
        return _train_further(args)
    if scale.name not in FROM_SCRATCH:
        raise UnlearnError(
            f"the model of profile {args.profile!r} is used as it was published ({scale.model}): "
            f"models are made for {', '.join(n for n, p in PROFILES.items() if _is_made(p))}."
        )
    of_continued = {
        "--model": args.model,
        "--corpora": args.corpora,
        "--keep-record": args.keep_record,
    }
    for flag, given in of_continued.items():
        if given:
            raise UnlearnError(
                f"{flag} is given, and the lab's models are made from nothing: leave it out."
            )
    every = lab_names(args.profile)
    names = tuple(dict.fromkeys(args.only or every))
    for name in names:
        if name not in every:
            raise unknown("lab model", name, every)
    if args.missing:
        folders = {name: lab_checkpoint(name, args.profile) for name in names}
        names = tuple(
            name
            for name, folder in folders.items()
            if not (is_whole(folder) and (folder / "record.json").exists())
        )
    models = [
        {
            "name": r["name"],
            "folder": str(lab_checkpoint(r["name"], args.profile)),
            "parameters": r["parameters"],
            "updates": r["updates"],
            "loss": r["losses"][-1],
            "seconds": r["provenance"]["seconds"],
            "model_hash": r["model_hash"],
        }
        for r in _train_lab(
            args.profile, names, args.jobs, not args.quiet, choose_device(args.device)
        )
    ]
    header = ("name", "parameters", "updates", "loss", "seconds")
    return _models_report(args.profile, models, header)


def _train_lab(
    profile: str, names: Sequence[str], jobs: int, progress: bool, device: str
) -> list[dict[str, Any]]:
    """Train lab models, at most `jobs` at a time; the records of their training, in order."""
    jobs = max(1, min(jobs, len(names)))
    if jobs == 1:
        return [train_one(name, progress, profile=profile, device=device) for name in names]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # "spawn": a fork of a process that has started torch's threads may hang.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_tidy_when_terminated) as pool:
        waiting = [
            pool.submit(train_one, name, progress, threads, profile, device) for name in names
        ]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def _tidy_when_terminated() -> None:
    """Let SIGTERM end what a process does as an error would: no half-written folder stays."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _models_report(
    profile: str, models: Sequence[Mapping[str, Any]], header: Sequence[str]
) -> Report:
    """The models that were made; `header` names the values that people are shown."""
    text = columns(header, [[model[name] for name in header] for model in models])
    return Report({"profile": profile, "models": models}, text if models else "all are there")


def _is_made(profile: Profile) -> bool:
    return profile.continued or profile.name in FROM_SCRATCH


def _train_further(args: argparse.Namespace) -> Report:
    """Vanilla and oracles of a profile whose model is trained further."""
    if args.jobs > 1:
        raise UnlearnError(
            f"--jobs is {args.jobs}, and oracles wait for vanilla's number of epochs: leave it out."
        )
    every = continued_names(args.profile)
    for name in args.only or ():
        if name not in every:
            raise unknown("model", name, every)
    names = [name for name in every if not args.only or name in args.only]
    if args.missing:
        # Weights without the record of their training say nothing of how they were made, and the
        # oracles would take another machine's number of epochs.
        names = [n for n in names if not (is_made(args.profile, n) and made_here(args.profile, n))]
    device = choose_device(args.device)
    hush_transformers()
    records = []
    for name in names:
        with _reserved(continued_checkpoint(args.profile, name), name, args.profile):
            records.append(
                train_further(
                    args.profile,
                    name,
                    source=args.model,
                    corpora=args.corpora,
                    device=device,
                    execution=Execution(progress=not args.quiet),
                    publish=not args.keep_record,
                )
            )
    models = [
        {
            "name": r["name"],
            "folder": str(continued_checkpoint(args.profile, r["name"])),
            "epochs": r["epochs"],
            "updates": r["updates"],
            "loss": r["losses"][-1],
            "auc": min(v for k, v in r["history"][-1].items() if k.endswith("/loss/auc")),
            "seconds": r["provenance"]["seconds"],
            "model_hash": r["model_hash"],
        }
        for r in records
    ]
    header = ("name", "epochs", "updates", "loss", "auc", "seconds")
    return _models_report(args.profile, models, header)


def train_one(
    name: str,
    progress: bool,
    threads: int | None = None,
    profile: str = "lab",
    device: str = "cpu",
) -> dict[str, Any]:
    """Train one lab model, in this process or in one of several."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    with _reserved(lab_checkpoint(name, profile), name, profile):
        execution = Execution(progress=progress, save_every=SAVE_EVERY)
        return train_lab_model(name, execution=execution, profile=profile, device=device)


def _reserved(folder: Path, name: str, profile: str) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from training the same model; one of several under a launcher does it.

    A folder that cannot be written is found before the training, too.
    """
    if not is_main_process():
        return contextlib.nullcontext()
    return reserved(folder, f"the model {name!r} of profile {profile!r}")
