"""Small books for tests: the extensions of book/_ext, and a book of two pages built with them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = ROOT / "book" / "_ext"


def extension(name: str) -> ModuleType:
    """A module of book/_ext, which is on no path but Sphinx's."""
    spec = importlib.util.spec_from_file_location(f"book_{name}", EXTENSIONS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(EXTENSIONS))  # one extension may use another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXTENSIONS))
    return module


def chapter(shown: str) -> dict[str, Any]:
    """A notebook that was run: a title, a cell of parameters, and a cell that showed HTML."""

    def cell(source: str, tags: list[str], outputs: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "cell_type": "code",
            "execution_count": 1,
            "metadata": {"tags": tags},
            "source": source,
            "outputs": outputs,
        }

    data = {"text/html": shown, "text/plain": "an object"}
    return {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": "# A chapter"},
            cell("profile = 'lab'", ["parameters"], []),
            cell("show()", [], [{"output_type": "display_data", "metadata": {}, "data": data}]),
        ],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def small_book(
    folder: Path,
    root: str,
    shown: str,
    *,
    extensions: list[str],
    builder: str = "html",
    **config: Any,
) -> Path:
    """The HTML of a book of index.md (`root`) and book/_run/chapter.ipynb, which showed `shown`."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    (folder / "book/_run").mkdir(parents=True)
    (folder / "book/_run/chapter.ipynb").write_text(json.dumps(chapter(shown)), encoding="utf-8")
    (folder / "index.md").write_text(root, encoding="utf-8")
    settings = {
        "extensions": ["myst_nb", *extensions],
        "html_theme": "sphinx_book_theme",
        "nb_execution_mode": "off",
        **config,
    }
    sys.path.insert(0, str(EXTENSIONS))
    try:
        with docutils_namespace():  # a process may build several
            Sphinx(
                folder,
                confdir=None,
                outdir=folder / "out",
                doctreedir=folder / "trees",
                buildername=builder,
                confoverrides=settings,
                status=None,
                warningiserror=True,
            ).build()
    finally:
        sys.path.remove(str(EXTENSIONS))
    return folder / "out"
