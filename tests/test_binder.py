"""What Binder installs: CPU wheels, by the lock, small, and all that the notebooks import.

    pytest tests/test_binder.py

Sizes are those of the packages installed here, whose torch is the CPU build where that is so.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from templates import TEMPLATES, code

ROOT = Path(__file__).resolve().parent.parent
LINES = [
    line
    for line in (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
# Without the image's own system and Jupyter, about 1.3 GB: together well under 4 GB.
LARGEST = 2.2e9
# Of those of the lock that only tests and the build of the book need.
LEFT_OUT = {"jupyter-book", "sphinx", "playwright", "pytest", "mypy", "hypothesis", "datasets"}


def asked() -> dict[str, Requirement]:
    """What is asked for, the package's own dependencies in place of the package."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in LINES if not line.startswith("-")]
    assert LINES[-1] == "-e .[notebooks]"
    lines += table["dependencies"] + table["optional-dependencies"]["notebooks"]
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), requirement)
    return found


def brought_along(names: set[str]) -> set[str]:
    """The names, and what they need, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def test_binder_takes_the_cpu_build_of_torch_and_the_locks_versions() -> None:
    assert [line for line in LINES if line.startswith("-")] == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "-c ../requirements.lock",
        "-e .[notebooks]",
    ]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(line.split("==") for line in lock.splitlines() if "==" in line and line[0] != "#")
    assert str(asked()["torch"].specifier) == f"=={locked['torch']}+cpu"
    assert {canonicalize_name(n) for n in asked()} <= {canonicalize_name(n) for n in locked}
    runtime = (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert runtime == "python-3.11"


def test_what_binder_installs_is_small() -> None:
    if not str(metadata.version("torch")).endswith("+cpu") and sys.platform == "linux":
        pytest.skip("the torch installed here is the CUDA build")
    names = brought_along(set(asked()))
    assert not names & LEFT_OUT
    sizes = {
        name: sum(
            Path(str(file.locate())).stat().st_size
            for file in metadata.files(name) or ()
            if Path(str(file.locate())).is_file()
        )
        for name in names
    }
    assert 3e8 < sum(sizes.values()) < LARGEST, sorted(sizes.items(), key=lambda x: -x[1])[:8]


def test_notebooks_import_what_binder_installs() -> None:
    known = {"unlearnlib", "IPython", *sys.stdlib_module_names}
    owners = metadata.packages_distributions()
    there = brought_along(set(asked()))
    for path in TEMPLATES:
        for node in ast.walk(ast.parse(code(path))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.split(".")[0]
                named = {canonicalize_name(n) for n in owners.get(top, ())}
                assert top in known or named & there, (path.stem, module)
