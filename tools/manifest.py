"""Write down what the published files hold: `python tools/manifest.py`, see `store.manifest`.

Publishing does it by itself. This is for files that came by another way, as by a merge.
"""

from __future__ import annotations

from unlearnlib.folders import data_folder
from unlearnlib.store.manifest import PATTERNS, note, read_manifest


def main() -> None:
    """Note every file of `data/results`, and strike off those that are gone."""
    folder = data_folder() / "results"
    there = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    note(*there, *(folder / name for name in read_manifest(folder)))
    print(f"{len(there)} files are in {folder.name}/manifest.json")


if __name__ == "__main__":
    main()
