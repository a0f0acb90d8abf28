"""Where a record came from: versions, machine, time, command and commit."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unlearnlib.devices import accelerator, processor


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed


def git_commit(file: Path) -> str | None:
    """The commit of the checkout that tracks `file`, "-dirty" added if tracked files differ.

    None without git, or if `file` is not tracked: an installed package may well lie inside
    somebody else's checkout, whose commit says nothing about it.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(file.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(
    started: datetime,
    seconds: float,
    device: str,
    command: str,
    packages: Sequence[str] = (),
    **more: object,
) -> dict[str, Any]:
    """Where a record came from: versions, machine, time and the command that repeats it.

    `started` is written as ISO 8601 in UTC, `seconds` is the run's duration, `packages` are those
    that this run used besides the usual ones, `more` is added as given (`flops`,
    `peak_memory_bytes`, ...). Neither the host's name nor any path is recorded,
    since records are published; keep paths out of `command` as well.
    """
    import torch

    packages = ("torch", "transformers", "numpy", "unlearnlib", *packages)
    record: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
            "torch": str(torch.__version__),  # names the build, as in 2.13.0+cpu
        },
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor(),
        "device": device,
        "accelerator": accelerator(device),
        "threads": torch.get_num_threads(),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "command": command,
        "commit": git_commit(Path(__file__).resolve()),
    }
    return record | more
