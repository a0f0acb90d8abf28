"""The notebooks' templates as tests read them: their code, what it opens, and what it displays."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TEMPLATES = sorted(NOTEBOOKS.glob("*.ipynb"))


def read(path: Path) -> Any:
    """The notebook at `path`."""
    return nbformat.read(path, as_version=4)


def code(path: Path) -> str:
    """All code of a template that is plain Python."""
    cells = [c.source for c in read(path).cells if c.cell_type == "code"]
    return "\n".join(re.sub(r"^([ \t]*)[!%].*$", r"\1pass", source, flags=re.M) for source in cells)


def imports(path: Path) -> dict[str, str]:
    """Name in the template -> what it is of the package: "book.cost", "study", "spec.DOMAINS"."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code(path)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unlearnlib"
        for alias in node.names
    }


def attributes(path: Path, name: str) -> set[str]:
    """Every X of `name.X` in a template."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code(path)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    }


def shown(name: str, parameters: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a template displays, as text; run in this process, without a kernel."""
    display = pytest.importorskip("IPython.display")
    seen: list[Any] = []
    monkeypatch.setattr(display, "display", lambda *things, **_: seen.extend(things))
    namespace: dict[str, Any] = {"display": display.display}
    for cell in read(NOTEBOOKS / f"{name}.ipynb").cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "remove-cell" not in tags:
            tree, where = ast.parse(cell.source), f"{name}.ipynb, {cell.id}"
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, where, "exec"), namespace)
            if last is not None:  # Jupyter shows what the last line of a cell is
                value = eval(compile(ast.Expression(last.value), where, "eval"), namespace)
                seen.extend([] if value is None else [value])
        if "parameters" in tags:
            namespace.update(parameters)
    return [str(getattr(thing, "data", thing)) for thing in seen]
