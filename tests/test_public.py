"""The names that other people's code may import, and that a name means one thing."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import unlearnlib

PUBLIC = {
    "Document",
    "Execution",
    "METHODS",
    "RunSpec",
    "TokenScores",
    "UnlearnError",
    "audit",
    "load_domain",
    "load_model",
    "load_tokenizer",
    "plan",
    "save",
    "score",
    "tune",
    "unlearn",
    "verify",
}
# What was importable from these before they became folders, or gave parts of theirs away.
FACES = {
    "unlearnlib.run": ("Bench", "execute", "open_bench", "unlearn"),
    "unlearnlib.spec": ("DOMAINS", "PROFILES", "Profile", "Region", "RunSpec", "get_profile"),
    "unlearnlib.store": (
        "Library",
        "Record",
        "Store",
        "provenance",
        "read_parquet",
        "run_key",
        "write_file",
        "write_parquet",
    ),
    "unlearnlib.study": (
        "STUDIES",
        "at_hand",
        "choose",
        "get_study",
        "load_study",
        "publish",
        "published_files",
        "run_study",
        "settings",
        "settings_path",
        "write_settings",
    ),
}


def test_the_public_names_are_these() -> None:
    assert set(unlearnlib.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_documented_and_no_module(name: str) -> None:
    found = getattr(unlearnlib, name)
    assert not isinstance(found, ModuleType)
    assert found.__doc__


def test_no_public_name_is_hidden_by_a_module_of_that_name() -> None:
    """Importing `package.name` would put the module in the name's place."""
    for module, names in {"unlearnlib": tuple(PUBLIC), "unlearnlib.study": study_names()}.items():
        package = importlib.import_module(module)
        files = {found.name for found in pkgutil.iter_modules(package.__path__)}
        assert not files & set(names), module


def study_names() -> tuple[str, ...]:
    return tuple(importlib.import_module("unlearnlib.study").__all__)


@pytest.mark.parametrize("name", study_names())
def test_every_name_of_the_studies_face_can_be_imported(name: str) -> None:
    assert getattr(importlib.import_module("unlearnlib.study"), name) is not None


@pytest.mark.parametrize("module", FACES)
def test_what_was_importable_still_is(module: str) -> None:
    for name in FACES[module]:
        assert not isinstance(getattr(importlib.import_module(module), name), ModuleType), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    for module in ("unlearnlib", "unlearnlib.study"):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = importlib.import_module(module).nothing


def test_listing_commands_loads_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys\nfrom unlearnlib.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'matplotlib', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]", done.stderr
