"""A page's buttons open its template, at the repository and branch that _config.yml names."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from books import small_book

import unlearnlib

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
URL, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]


def test_binder_and_colab_open_the_template_of_the_page(tmp_path: Path) -> None:
    theme = {
        "repository_url": URL,
        "repository_branch": BRANCH,
        "launch_buttons": CONFIG["launch_buttons"],
        "use_download_button": True,
    }
    root = "# Root\n\n```{toctree}\nbook/_run/chapter\n```\n"
    built = small_book(
        tmp_path, root, "<p>x</p>", extensions=["repository_links"], html_theme_options=theme
    )
    page = (built / "book/_run/chapter.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r'href="([^"]*chapter\.ipynb)"', page))
    owner_and_name = URL.removeprefix("https://github.com/")
    place = "notebooks/chapter.ipynb"
    assert addresses == {
        f"https://mybinder.org/v2/gh/{owner_and_name}/{BRANCH}?urlpath=lab/tree/{place}",
        f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/{place}",
        "../../_sources/book/_run/chapter.ipynb",  # the download is the run, with its results
    }


def test_binder_reads_its_folder_and_nothing_before_it() -> None:
    """Of these, Binder takes the first that there is (its documentation, configuration files)."""
    assert sorted(path.name for path in (ROOT / "binder").iterdir()) == [
        "requirements.txt",
        "runtime.txt",
    ]
    assert not (ROOT / ".binder").exists() and not (ROOT / "binder" / "Dockerfile").exists()
    assert (ROOT / "environment.yml").is_file()  # conda's


def first_cell(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))


def test_every_template_fetches_the_project_alike() -> None:
    assert len({first_cell(path) for path in TEMPLATES}) == 1


def test_the_first_cell_fetches_the_repository_of_the_configuration() -> None:
    cell = first_cell(TEMPLATES[0])
    folder = URL.rsplit("/", 1)[1]
    assert re.findall(r"git clone .* (https://\S+)", cell) == [URL]
    assert f"%cd {folder}" in cell  # what git names the clone


@pytest.mark.parametrize(
    ("installed", "fetched", "ends_in"),
    [
        (False, False, "companion"),  # on Colab
        (True, True, "companion"),  # there, in a kernel that was started again after pip
        (False, True, "companion"),  # there, where pip was interrupted
        (True, False, "."),  # in a checkout: its data folder is found beside the package
    ],
)
def test_after_the_first_cell_the_published_records_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, fetched: bool, ends_in: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)

    done: list[str] = []

    def shell(line: str) -> None:
        done.append(line)
        if line.startswith("git clone"):
            Path("companion/data").mkdir(parents=True, exist_ok=True)

    if fetched:
        shell("git clone")
    cell = first_cell(TEMPLATES[0])
    for magic, call in (("!", "shell"), ("%pip ", "shell"), ("%cd ", "chdir")):
        cell = re.sub(
            rf"^( *){magic}(.*)$", lambda m, c=call: f"{m[1]}{c}({m[2]!r})", cell, flags=re.M
        )
    exec(cell, {"shell": shell, "chdir": monkeypatch.chdir})
    assert Path.cwd() == (tmp_path / ends_in).resolve()
    assert sum(line.startswith("git clone") for line in done) == 1 - (installed and not fetched)


def test_the_first_cell_takes_the_release_of_this_version_before_the_head_of_the_branch() -> None:
    (branches,) = re.findall(r"for _branch in (\(.*?\)):", first_cell(TEMPLATES[0]))
    assert ast.literal_eval(branches) == (f"v{unlearnlib.__version__}", BRANCH)


def test_what_the_first_cell_adds_to_a_kernel_comes_in_the_locks_versions() -> None:
    assert "%pip install --quiet -c companion/constraints.txt" in first_cell(TEMPLATES[0])
    assert "python companion/tools/constraints.py > companion/cons" in first_cell(TEMPLATES[0])
    spec = importlib.util.spec_from_file_location("constraints", ROOT / "tools" / "constraints.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    lines = ["# pins", "torch==2.13.0", "huggingface-hub==2.4.0", "", "gguf==0.19.0"]
    assert tool.lacking(lines, ["Torch", "huggingface_hub"]) == ["gguf==0.19.0"]
    everything = tool.lacking(tool.LOCK.read_text(encoding="utf-8").splitlines(), [])
    assert "gguf==0.19.0" in everything and len(everything) > 200


def test_the_first_cell_installs_extras_that_there_are() -> None:
    (extras,) = re.findall(r'%pip install .*"\./\w+\[(.*)\]"', first_cell(TEMPLATES[0]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_what_the_first_cell_installs_replaces_nothing_of_the_kernel_it_runs_in() -> None:
    """Colab's kernel is older than the one the book is built with, and must stay."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    names = {re.split(r"[<>=\[]", line)[0] for line in asked}
    assert not names & {"ipykernel", "ipython", "jupyter", "jupyter-book", "notebook", "papermill"}
