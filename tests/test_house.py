"""The house is kept: functions stay short, calls stay readable, and every file says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "unlearnlib"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES, PARAMETERS = 80, 8
DOORS = {"unlearn"}  # what a user calls with every setting by name


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}", node


def test_no_function_is_long() -> None:
    long = {
        where: node.end_lineno - node.lineno + 1
        for where, node in functions()
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LINES
    }
    assert not long


def test_no_function_takes_many_parameters() -> None:
    many = {}
    for where, node in functions():
        given = node.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names += [a.arg for a in (given.vararg, given.kwarg) if a is not None]
        names = [name for name in names if name not in ("self", "cls", "ctx")]
        if len(names) > PARAMETERS and node.name not in DOORS:
            many[where] = names
    assert not many


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_what_crosses_a_file_is_public() -> None:
    """A name with an underscore is its own file's: nobody imports it from there."""
    taken = [
        f"{path.relative_to(PACKAGE)}: {node.module}.{alias.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlearnlib")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not taken
