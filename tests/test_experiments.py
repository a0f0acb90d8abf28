"""Every notebook computes what it shows when it is asked to, at a scale of seconds.

The notebooks run in this process, without a kernel, but for one that papermill runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from templates import TEMPLATES, code, shown

from unlearnlib.store.folder import Store

LIMITS = {name: 3 for name in ("forget", "retain", "approximate")} | {
    "general_retain": 3,
    "general_evaluation": 3,
}
# Two methods, one domain, one seed, one or two updates, three documents a split: seconds.
SMALL: dict[str, Any] = {
    "domains": "books",
    "methods": "ga,ga_gd_in_dist",
    "seeds": 0,
    "rates": 3e-4,
    "updates": 2,
    "limits": LIMITS,
    "device": "cpu",
}
OWN: dict[str, dict[str, Any]] = {
    "forget_size": {"sizes": [1, 2], "requests": [1, 2]},
    "release": {"methods": "random_label,adversarial"},
    "sensitivity": {
        "batch_sizes": [1, 2],
        "retain_weights": [1, 3],
        "schedules": ["constant 0", "linear 0.5"],
    },
    "real_model": {"profile": "lab"},  # SmolLM2 is not here: the same code on the lab's model
    "engine": {"measures": "invariance", "methods": "ga"},
}
COMPUTES = [path.stem for path in TEMPLATES]


def records(store: Path) -> dict[str, dict[str, Any]]:
    """The specs of the runs below a folder, by key."""
    found = {}
    for folder in {path.parent.parent.parent for path in store.rglob("records/??/*.json")}:
        one = Store(folder)
        found.update({r.key: r.spec for r in map(one.get, one.keys()) if r.kind == "run"})
    return found


def parameters(name: str, **changes: Any) -> dict[str, Any]:
    """The parameters of a notebook at a scale of seconds."""
    known = code(TEMPLATES[[p.stem for p in TEMPLATES].index(name)])
    given = {**SMALL, "compute": "fresh", **OWN.get(name, {}), **changes}
    return {n: v for n, v in given.items() if f"\n{n} = " in known}


@pytest.mark.parametrize("name", COMPUTES)
def test_a_notebook_computes_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown(name, parameters(name), monkeypatch)
    made = records(tmp_path / "runs")
    figures = sum("<figure" in page for page in pages)
    print(name, len(made), figures)
    assert made or list((tmp_path / "runs").rglob("*.json*"))
    assert figures or sum("<table" in page for page in pages)
