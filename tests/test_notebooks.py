"""The templates are as papermill, the book and a reader expect them, and run on made-up records."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import synthetic
from templates import TEMPLATES, attributes, code, imports, read, shown

from unlearnlib.experiment.parameters import (
    AXIS_NOTES,
    DEFAULTS,
    PARAMETERS,
    cell_of,
    known_parameters,
)
from unlearnlib.study.grids import STUDIES

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "unlearnlib" / "book"
SHARED = {
    "at_equal",
    "drawing",
    "exhibits",
    "origins",
    "peers",
    "records",
    "theory",
}  # modules of the book that are no chapter
OF_ALL = {"no_torch", "findings"}  # tests of several modules of the book together
# Chapters whose usual profile is not the one of all others.
PROFILES_OF = {"real_model", "lab", "equal_forgetting", "exposure", "modern_methods"}
# Chapters whose studies may be missing at a profile, and which then say so.
PATIENT = ("forget_size", "robust_region", "sensitivity", "target_check", "what_holds")

# Chapters that show records: at a profile without any each of them says so. The engine's have no
# profile, and a real model's are shown beside those of the lab.
OTHERS = {"engine", "real_model", "step_by_step", "open_in_colab"}
EMPTY = sorted({path.stem for path in TEMPLATES} - OTHERS)
# What these draw without records: the authors' release by account, texts, and solved problems.
DRAWN_ANYWAY = {"cost", "data", "modern_methods", "what_holds"}

every_template = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
# The first page answers and leads on; it teaches nothing and shows every domain.
every_chapter = pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if path.stem != "index"], ids=lambda path: path.stem
)


def modules(folder: Path) -> set[str]:
    """The names of the modules in a folder, without the package itself."""
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_every_module_of_the_book_is_a_chapter_or_shared_by_chapters() -> None:
    assert modules(BOOK) == {path.stem for path in TEMPLATES} | SHARED


def test_every_test_of_the_book_is_of_one_of_its_modules() -> None:
    tests = {name for name in modules(ROOT / "tests" / "book") if name.startswith("test_")}
    assert {name.removeprefix("test_") for name in tests} == modules(BOOK) | OF_ALL


@pytest.mark.parametrize("name", sorted(modules(BOOK)))
def test_a_module_of_the_book_says_what_it_is_of_and_has_a_test(name: str) -> None:
    assert ast.get_docstring(ast.parse((BOOK / f"{name}.py").read_text(encoding="utf-8")))
    tests = ROOT / "tests" / "book" / f"test_{name}.py"
    tree = ast.parse(tests.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert any(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in tree.body)


# The one that computes one run always, and the one that makes its own models, open no study.
every_experiment = pytest.mark.parametrize(
    "path",
    [path for path in TEMPLATES if path.stem not in ("step_by_step", "open_in_colab")],
    ids=lambda path: path.stem,
)


@every_template
def test_a_template_opens_the_chapter_of_its_name(path: Path) -> None:
    assert imports(path)["chapter"] == f"unlearnlib.book.{path.stem}"
    assert attributes(path, "chapter")


@every_template
def test_a_template_is_a_valid_notebook_with_named_cells(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert all(name.startswith(path.stem.replace("_", "-")) for name in names)


@every_template
def test_a_template_holds_no_results(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@every_experiment
def test_a_template_is_asked_by_the_parameters_of_all_and_by_those_of_its_studies(
    path: Path,
) -> None:
    """In one order, each with its default and a sentence; then those of its own."""
    found = cell_of(path)
    studies, own = opened(path)
    usual = known_parameters(studies)
    assert tuple(found)[: len(usual)] == usual
    assert tuple(found)[len(usual) :] == own
    for name in usual:
        default, note = found[name]
        assert note == (PARAMETERS | AXIS_NOTES)[name]
        if name != "profile" or path.stem not in PROFILES_OF:
            assert ast.literal_eval(default) == DEFAULTS.get(name)
    assert all(note for _, note in found.values())


def opened(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """(studies, names of its own parameters) that a template opens its experiment with."""
    for node in ast.walk(ast.parse(code(path))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "exhibits.experiment":
            name, namespace, *studies = node.args
            assert ast.literal_eval(name) == path.stem and ast.unparse(namespace) == "globals()"
            more = [ast.literal_eval(word.value) for word in node.keywords if word.arg == "more"]
            return [ast.literal_eval(study) for study in studies], (*more, ())[0]
    raise AssertionError(f"{path.stem} opens no experiment")


@every_experiment
def test_a_template_shows_every_study_that_it_names_and_no_other(path: Path) -> None:
    """A study that is not named is checked too late; one not shown is computed for nothing."""
    asked = set(re.findall(r"""experiment\.study\(\s*"(\w+)\"""", code(path)))
    for names in re.findall(r"""for (?:name|n) in \(([^)]*)\)""", code(path)):
        asked |= set(re.findall(r'"(\w+)"', names)) & set(STUDIES)
    for names in re.findall(r"""map\(experiment\.study, \(([^)]*)\)\)""", code(path)):
        asked |= set(re.findall(r'"(\w+)"', names))
    if "experiment.baselines()" in code(path):
        asked.add("main")
    assert asked - {"robust_region"} == set(opened(path)[0]) - {"robust_region"}


@every_chapter
def test_a_chapter_says_what_is_learned_and_ends_with_what_is_next(path: Path) -> None:
    cells = read(path).cells
    assert cells[0].cell_type == cells[-1].cell_type == "markdown"
    assert cells[0].source.startswith("# ") and "**What you will learn.**" in cells[0].source
    assert "## Summary" in cells[-1].source and "**What is next.**" in cells[-1].source


@every_template
def test_a_template_imports_public_names_that_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(code(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlearnlib"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert not alias.name.startswith("_")
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


def module_of(name: str) -> ModuleType | None:
    """The module of a full name such as unlearnlib.study, or None where it names no module."""
    parent, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(parent), last, None)
    if found is None:
        found = importlib.import_module(name)
    return found if isinstance(found, ModuleType) else None


@every_template
def test_every_attribute_of_a_module_that_a_template_uses_is_public_there(path: Path) -> None:
    checked = 0
    for name, full in imports(path).items():
        if (module := module_of(full)) is None:
            continue
        for attribute in attributes(path, name):
            found = getattr(module, attribute, None)
            assert found is not None, f"{full}.{attribute} does not exist"
            assert not isinstance(found, ModuleType), f"{full}.{attribute} is a module"
            assert not attribute.startswith("_"), f"{full}.{attribute}"
            checked += 1
    assert checked


@every_template
def test_no_figure_is_shown_without_a_caption_and_a_command(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(code(path))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func) == "exhibits.show"
        ):
            assert len(node.args) == 4
            names.append(ast.unparse(node.args[1]))
    assert len(set(names)) == len(names)


@every_template
def test_prose_holds_no_measured_number(path: Path) -> None:
    """Decimal fractions in prose are 0.5 (chance) or they were typed by hand.

    Those of a chapter's findings are held against the records by `test_findings`.
    """
    markdown = [c for c in read(path).cells if c.cell_type == "markdown"]
    prose = "\n".join(c.source for c in markdown if not c.id.endswith("-short"))
    assert set(re.findall(r"\d+\.\d+", prose)) <= {"0.5", "0.1"}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with made-up records of every study."""
    return synthetic.write_results(tmp_path_factory.mktemp("made-up") / "data")


@pytest.mark.parametrize("name", ["main_table", "trajectories", "what_holds"])
def test_a_template_runs_on_records_alone(
    name: str, made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("UNLEARN_DATA", str(made_up))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    # The kernel's working directory is elsewhere: it finds the package where this test does.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    result = tmp_path / f"{name}.ipynb"
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(result),
        parameters={"profile": "lab", "domains": "books"},
        cwd=str(tmp_path),
        kernel_name="python3",
        progress_bar=False,
    )
    outputs = [o for c in read(result).cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    pages = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any("<figure" in page for page in pages) and any("<table" in page for page in pages)
    if name != "what_holds":  # the account of cost is of the authors' data, GitHub's too
        assert not any("GitHub" in page for page in pages)
    assert list((tmp_path / "figures").glob("*.svg"))


@pytest.mark.parametrize("name", PATIENT[:-1])  # the last one has run with a kernel
def test_a_chapter_shows_every_figure_that_it_has_records_for(
    name: str, made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(made_up))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown(name, {"domains": "books"}, monkeypatch)
    figures = re.findall(r"exhibits\.show\(", code(ROOT / "notebooks" / f"{name}.ipynb"))
    assert sum("<figure" in page for page in pages) == len(figures) > 0
    assert not any("has no records" in page for page in pages)


@pytest.mark.parametrize("name", EMPTY)
def test_a_chapter_whose_study_has_not_been_run_says_how_to_run_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown(name, {}, monkeypatch)
    if name == "what_holds":
        assert sum("Verdict: not decided." in page for page in pages) == 4
    elif name != "data":  # it shows texts, and says that vanilla has not been scored
        # A study whose settings are not chosen yet names the study that chooses them.
        commands = f"`unlearn notebook {name} ", "`unlearn study rates "
        assert any(command in page for page in pages for command in commands)
    if name not in DRAWN_ANYWAY:
        assert not any("<figure" in page for page in pages)
