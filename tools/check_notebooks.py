"""Fails when a notebook template carries outputs or counts, or has no cell tagged `parameters`.

A template is committed as it was written: what it prints belongs to a run. And papermill puts
`-p NAME VALUE` after the cell tagged `parameters`, so a template without one cannot be varied.

    python tools/check_notebooks.py [FOLDER]        (notebooks/ by default)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(path: Path) -> list[str]:
    """One sentence for each thing that is wrong with the notebook at `path`."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError):
        return ["is not a notebook in format 4: save it again with Jupyter"]
    found = []
    tags: list[str] = []
    for number, cell in enumerate(cells, start=1):
        tags += cell.get("metadata", {}).get("tags", [])
        if cell.get("cell_type") != "code":
            continue
        if cell.get("outputs"):
            found.append(f"cell {number} has outputs: clear them")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number} has an execution count: clear the outputs")
    if tags.count("parameters") != 1:
        found.append(f"has {tags.count('parameters')} cells tagged 'parameters': tag exactly one")
    if "injected-parameters" in tags:
        found.append("is the result of a run, not a template: it has injected parameters")
    return found


def main(arguments: list[str]) -> int:
    """Prints every problem; 0 if there is none."""
    folder = Path(arguments[0]) if arguments else ROOT / "notebooks"
    if not folder.is_dir():
        print(f"{folder} is not a folder: name the one that holds the notebooks", file=sys.stderr)
        return 2
    paths = sorted(folder.glob("*.ipynb"))
    found = [f"{path}: {problem}" for path in paths for problem in problems(path)]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    print(f"{len(paths)} notebooks checked, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
