"""Where things lie: the project's data, the user's cache, the published records.

Nothing here imports torch, so that whoever reads records need not load it.
"""

from __future__ import annotations

import os
from pathlib import Path

# Profiles whose models are trained here from scratch and lie in `data/` under the profile's name,
# which may also be given as the source of a model.
FROM_SCRATCH = ("lab", "stream")


def data_folder() -> Path:
    """The project's `data/`: $UNLEARN_DATA, else that of the checkout or of the installed package.

    An installed package brings the lab's models, the published records and the lock of the texts.
    """
    if named := os.environ.get("UNLEARN_DATA"):
        return Path(named)
    return _shipped("data")


def notebooks_folder() -> Path:
    """The project's `notebooks/`: of the checkout, or of the installed package."""
    return _shipped("notebooks")


def _shipped(name: str) -> Path:
    """A folder of the repository: beside the package, else as it was installed, else in this one.

    In a wheel the folder lies in the package, as `shipped_data` and so on (see pyproject.toml).
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / name, package / f"shipped_{name}"):
        if folder.is_dir():
            return folder
    return Path(name)


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
