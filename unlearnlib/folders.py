"""Where things lie: the project's data, the user's cache, the published records.

Nothing here imports torch, so that whoever reads records need not load it.
"""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """The project's `data/`: $UNLEARN_DATA, else beside the package, else in this folder."""
    if named := os.environ.get("UNLEARN_DATA"):
        return Path(named)
    beside = Path(__file__).resolve().parent.parent / "data"
    return beside if beside.is_dir() else Path("data")


def cache_folder() -> Path:
    """Where conversions are kept: $UNLEARN_CACHE, else the user's cache folder."""
    named = os.environ.get("UNLEARN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(named) if named else Path(base) / "unlearnlib"


def settings_path() -> Path:
    """Where the chosen settings are kept: PROFILE -> domain -> method -> fields of `RunSpec`."""
    return data_folder() / "settings.json"


def published_files() -> list[Path]:
    """The published records, `data/results/*.parquet`."""
    return sorted((data_folder() / "results").glob("*.parquet"))
