"""Prints the lines of requirements.lock that are of packages which this Python does not have yet.

Colab's first cell installs the package into a kernel that is running, with a torch, a NumPy and a
pandas of its own, which must stay. What it lacks comes in the version of the lock:

    python tools/constraints.py > constraints.txt
    pip install -c constraints.txt .
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def plain(name: str) -> str:
    """A package's name as all spell it alike."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lacking(lines: Iterable[str], installed: Iterable[str]) -> list[str]:
    """The pins among `lines` of packages that are not installed."""
    there = {plain(name) for name in installed}
    pins = (line.strip() for line in lines)
    return [pin for pin in pins if "==" in pin and plain(pin.partition("==")[0]) not in there]


def main() -> None:
    """Print them, one a line."""
    installed = [d.metadata["Name"] for d in metadata.distributions() if d.metadata["Name"]]
    print("\n".join(lacking(LOCK.read_text(encoding="utf-8").splitlines(), installed)))


if __name__ == "__main__":
    main()
