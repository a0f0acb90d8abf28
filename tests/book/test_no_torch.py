"""Reading needs no torch: neither the book nor what it reads records and settings with."""

from __future__ import annotations

import subprocess
import sys

import pytest

EVERY = """
import importlib, pkgutil, sys
import unlearnlib.book

names = [module.name for module in pkgutil.iter_modules(unlearnlib.book.__path__)]
assert len(names) > 15, names
for name in names:
    importlib.import_module(f"unlearnlib.book.{name}")
    if "torch" in sys.modules:
        sys.exit(f"unlearnlib.book.{name} loads torch")
"""
READERS = (
    "figures",
    "looks",
    "metrics",
    "profiles",
    "spec",
    "store",
    "study",
    "study.grids",
    "study.records",
    "study.chosen",
    "text",
    "trained",
    "tuning_rule",
    "report.search_figure",
)


def run(program: str) -> None:
    """Runs a program in a Python of its own, which has not loaded anything yet."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_of_the_book_loads_torch() -> None:
    run(EVERY)


@pytest.mark.parametrize("name", READERS)
def test_a_module_that_the_book_reads_with_loads_no_torch(name: str) -> None:
    run(f"import sys, unlearnlib.{name}; sys.exit('loads torch' if 'torch' in sys.modules else 0)")


def test_the_records_of_a_study_are_read_without_torch() -> None:
    run(
        "import sys; from unlearnlib import study; found = study.load_study('main');"
        "assert found.records and found.baselines; assert 'torch' not in sys.modules"
    )


def test_a_module_that_computes_does_load_torch() -> None:
    """Else the tests above would say nothing."""
    run("import sys, unlearnlib.engine; assert 'torch' in sys.modules")
