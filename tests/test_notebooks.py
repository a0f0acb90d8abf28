"""The templates are as papermill, the book and a reader expect them, and run on made-up records."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import synthetic

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = {
    "cost",
    "data",
    "engine",
    "forget_size",
    "learning_rates",
    "main_table",
    "membership",
    "real_model",
    "release",
    "robust_region",
    "sensitivity",
    "step_by_step",
    "target_check",
    "trajectories",
    "what_holds",
}
# Chapters whose studies may be missing at a profile, and which then say so.
PATIENT = ("forget_size", "robust_region", "sensitivity", "target_check", "what_holds")

every_template = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
# The first page answers and leads on; it teaches nothing and shows every domain.
every_chapter = pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if path.stem != "index"], ids=lambda path: path.stem
)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> str:
    """All code of a template that is plain Python."""
    cells = [c.source for c in read(path).cells if c.cell_type == "code"]
    return "\n".join(re.sub(r"^\s*[!%].*$", "    pass", source, flags=re.M) for source in cells)


def test_every_chapter_with_results_has_a_template() -> None:
    assert {path.stem for path in TEMPLATES} >= CHAPTERS


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


@every_chapter
def test_a_template_can_be_varied_by_profile_and_domain(path: Path) -> None:
    tagged = [c for c in read(path).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = {
        target.id
        for node in ast.parse(tagged[0].source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert {"profile", "domain"} <= names


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


@every_template
def test_every_attribute_of_figures_and_tables_that_a_template_uses_exists(path: Path) -> None:
    modules = {
        n: importlib.import_module(f"unlearnlib.{n}") for n in ("figures", "tables", "study")
    }
    for node in ast.walk(ast.parse(code(path))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), node.attr


@every_template
def test_no_figure_is_shown_without_a_caption_and_a_command(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(code(path))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "show"
        ):
            assert len(node.args) == 4
            names.append(ast.unparse(node.args[1]))
    assert len(set(names)) == len(names)


@every_template
def test_prose_holds_no_measured_number(path: Path) -> None:
    """Decimal fractions in prose are 0.5 (chance) or they were typed by hand."""
    prose = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
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
        parameters={"profile": "lab", "domain": "books"},
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


def shown(name: str, domain: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a template displays, as text; run in this process, without a kernel."""
    display = pytest.importorskip("IPython.display")
    seen: list[Any] = []
    monkeypatch.setattr(display, "display", lambda *things, **_: seen.extend(things))
    namespace: dict[str, Any] = {"display": display.display}
    for cell in read(ROOT / "notebooks" / f"{name}.ipynb").cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "remove-cell" not in tags:
            exec(compile(cell.source, f"{name}.ipynb, {cell.id}", "exec"), namespace)
        if "parameters" in tags:
            namespace["domain"] = domain
    return [str(getattr(thing, "data", thing)) for thing in seen]


@pytest.mark.parametrize("name", PATIENT[:-1])  # the last one has run with a kernel
def test_a_chapter_shows_every_figure_that_it_has_records_for(
    name: str, made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(made_up))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown(name, "books", monkeypatch)
    figures = re.findall(r"figures\.show\(", code(ROOT / "notebooks" / f"{name}.ipynb"))
    assert sum("<figure" in page for page in pages) == len(figures) > 0
    assert not any("has no records" in page for page in pages)


@pytest.mark.parametrize("name", PATIENT)
def test_a_chapter_whose_study_has_not_been_run_says_how_to_run_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown(name, "all", monkeypatch)
    if name == "what_holds":
        assert sum("Verdict: not decided." in page for page in pages) == 4
    else:
        assert any("`unlearn study " in page for page in pages)
        assert not any("<figure" in page for page in pages)
