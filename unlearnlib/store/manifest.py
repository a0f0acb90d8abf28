"""What the published files hold, in `data/results/manifest.json`: a loss can be named by it.

Every file is checked record by record when it is read. What cannot be read is what is not there: a
file that is gone, and a row that was taken out. So publishing writes down of each file how many
records it has, and its SHA-256; `python tools/manifest.py` does it for all.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.store.claims import exclusive
from unlearnlib.store.files import write_file

NAME = "manifest.json"
PATTERNS = ("*.parquet", "*.jsonl")
RESTORE = "restore it from the repository, or compute and publish it again"


def note(*paths: Path) -> None:
    """Write down what published files of one folder hold; a file that is gone is struck off."""
    manifest = paths[0].parent / NAME
    with exclusive(manifest):
        table = read_manifest(manifest.parent)
        for path in paths:
            table.pop(path.name, None)
            if path.exists():
                table[path.name] = _content(path)
        text = json.dumps(table, indent=1, sort_keys=True) + "\n"
        write_file(manifest, text.encode("utf-8"), replace=True)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a published file -> {"records": how many, "sha256": of the file}; empty for none."""
    path = folder / NAME
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {
            name: {"records": int(x["records"]), "sha256": str(x["sha256"])}
            for name, x in table.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnlearnError(
            f"{str(path)!r} cannot be read ({type(error).__name__}): restore it from the "
            "repository, or make it anew with `python tools/manifest.py`."
        ) from error


def losses(folder: Path, profile: str) -> dict[str, str]:
    """Published file of a profile -> how it is not what was published, in words; empty if all are.

    A file that nobody wrote down is no loss.
    """
    found = {}
    for name, was in read_manifest(folder).items():
        if not name.startswith(f"{profile}-"):
            continue
        path = folder / name
        if not path.exists():
            found[name] = f"the file is gone, which held {was['records']} records: {RESTORE}"
        elif (now := _content(path)) != was:
            found[name] = (
                f"it holds {now['records']} records and is not the file that was published with "
                f"{was['records']}: {RESTORE}"
            )
    return found


def _content(path: Path) -> dict[str, Any]:
    """How many records a published file has, and its SHA-256."""
    raw = path.read_bytes()
    return {"records": _count(raw, path), "sha256": hashlib.sha256(raw).hexdigest()}


def _count(raw: bytes, path: Path) -> int:
    """The rows of a Parquet file, or the lines of another; 0 for a file that is broken."""
    if path.suffix != ".parquet":
        return len(raw.splitlines())
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(pa.BufferReader(raw)).metadata.num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return 0
