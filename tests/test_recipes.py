"""CONTRIBUTING's recipes, carried out as they stand, outside the package and inside a copy of it.

pytest -q tests/test_recipes.py
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unlearnlib.looks import method_title
from unlearnlib.spec import DOMAINS, PAPER_METHODS, get_profile

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    title: text
    for title, _, text in (
        section.partition("\n")
        for section in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")
    )
}
# A step: what to do, the name of a dictionary (of `Add to`), the file, and the code.
STEP = re.compile(
    r"^(Add to|Append to|Import it in|Write) (?:`(\w+)` in )?`([\w/.]+)`:\n\n```python\n(.*?)^```",
    re.M | re.S,
)
METHOD, METRIC, SOURCE = "Add a method", "Add a metric", "Add a data source"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, its data and its notebooks, in which all recipes were followed."""
    copy = tmp_path_factory.mktemp("recipes")
    for name in ("unlearnlib", "data", "notebooks"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for title in (METHOD, METRIC, SOURCE):
        follow(title, copy)
    return copy


def python(place: Path, *arguments: str) -> str:
    """What Python prints, given the package that lies in `place`."""
    environment = {name: v for name, v in os.environ.items() if name != "UNLEARN_DATA"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment | {"PYTHONPATH": str(place), "UNLEARN_STORE": str(place / "runs")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def follow(title: str, place: Path) -> None:
    """Carry out the steps of a recipe that change the package."""
    steps = STEP.findall(RECIPES[title])
    assert steps and len(steps) + 1 == RECIPES[title].count("```python")  # one is from outside
    for what, dictionary, name, code in steps:
        path = place / name
        old = path.read_text(encoding="utf-8") if what != "Write" else ""
        if what == "Add to":
            opening = re.compile(rf"^{dictionary}\b[^\n]*{{\n", re.M).search(old)
            assert opening, f"{name} has no dictionary {dictionary}"
            end = old.index("\n}", opening.end()) + 1
            new = old[:end] + code + old[end:]
        elif what == "Import it in":
            new = re.sub(r"^from unlearnlib", f"{code}from unlearnlib", old, count=1, flags=re.M)
        else:
            assert what == "Append to" or not path.exists()
            new = f"{old}\n\n{code}" if old else code
        assert new != old
        path.write_text(new, encoding="utf-8")


def commands(title: str, place: Path) -> list[dict[str, Any]]:
    """Give the recipe's commands in the copy; what each says with --json."""
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", RECIPES[title], re.M | re.S)).splitlines()
    assert lines and all(line.startswith("unlearn ") for line in lines)
    told = []
    for line in lines:
        words = [*shlex.split(line)[1:], "--json", "--quiet"]
        told.append(json.loads(python(place, "-m", "unlearnlib", *words).splitlines()[-1]))
    return told


LOAD = """
import json
from unlearnlib import study
from unlearnlib.looks import method_title
from unlearnlib.spec import DOMAINS
found = {}
for name in ("main", "trajectory", "rates"):
    records = study.load_study(name, "lab", DOMAINS).records
    found[name] = sorted({r.spec["method"] for r in records}), len(records)
print(json.dumps(found))
"""


@pytest.mark.parametrize("title", [METHOD, METRIC, SOURCE])
def test_a_recipe_works_from_outside_the_package(title: str, tmp_path: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```", RECIPES[title], re.M | re.S)[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split()[-1]) > 0


def test_a_method_that_is_kept_can_be_run_and_has_its_look(place: Path) -> None:
    (run,) = commands(METHOD, place)
    assert run["spec"]["method"] == "random_label_gd"
    listed = json.loads(python(place, "-m", "unlearnlib", "methods", "--json"))["methods"]
    titles = {row["name"]: row["title"] for row in listed}
    assert titles["random_label_gd"] == "Random labels + descent"
    look = "from unlearnlib.looks import *; print(method_look('random_label_gd'))"
    assert "Random + GD, in-dist." in python(place, "-c", look)


def test_a_metric_that_is_kept_is_in_every_record_and_asked_of_none_before(place: Path) -> None:
    (run,) = commands(METRIC, place)
    splits = ("forget", "approximate", "retain", "general")
    assert all(run["metrics"][f"{split}/entropy"] > 0 for split in splits)
    later = python(place, "-c", "from unlearnlib.metrics import LATER; print(*LATER)").split()
    assert set(later) == {"entropy", "last_word_accuracy"}


def test_a_source_that_is_kept_has_a_domain_of_its_own_from_run_to_table(place: Path) -> None:
    run, grid = commands(SOURCE, place)
    assert (run["spec"]["profile"], run["spec"]["domain"]) == ("post", "letters")
    assert grid["runs"] == 2
    table = (
        "from unlearnlib import study;"
        "from unlearnlib.book.main_table import FORGETTING, main_table;"
        "found = study.at_hand('rates', 'post', ('letters',));"
        "print(main_table(found.records, found.baselines, FORGETTING).to_string())"
    )
    assert "Letters" in python(place, "-c", table)


def test_what_is_added_leaves_the_published_studies_as_they_are(place: Path) -> None:
    found = json.loads(python(place, "-c", LOAD))
    scale, seven = get_profile("lab"), sorted(PAPER_METHODS)
    cases = len(DOMAINS) * len(PAPER_METHODS)
    assert found == {
        "main": [seven, cases * len(scale.seeds)],
        "trajectory": [seven, cases],
        "rates": [seven, cases * len(scale.rates)],
    }


def test_what_is_added_leaves_the_main_chapter_as_it_is(place: Path) -> None:
    built = place / "built.ipynb"
    chapter = "notebooks/main_table.ipynb"
    python(place, "-m", "papermill", "--no-progress-bar", "-k", "python3", chapter, str(built))
    text = built.read_text(encoding="utf-8")
    assert all(f"{method_title(method)}<" in text for method in PAPER_METHODS)
    assert "Random + GD" not in text
