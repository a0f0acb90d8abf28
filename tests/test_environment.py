"""The three files that name versions say the same: pyproject.toml, requirements.lock and
environment.yml."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
UNLOCKED = ("tasks",)  # extras that cannot be installed beside the lock, see pyproject.toml


def pins(lines: list[str]) -> dict[str, Version]:
    """`name==version` lines as a mapping; anything else is a failure."""
    found: dict[str, Version] = {}
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator, f"{line!r} is not a pin of the form name==version"
        assert canonicalize_name(name) not in found, f"{name} is pinned twice"
        found[canonicalize_name(name)] = Version(version)
    return found


@pytest.fixture(scope="module")
def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lock(lock_text: str) -> dict[str, Version]:
    lines = [line for line in lock_text.splitlines() if line and not line.startswith("#")]
    return pins(lines)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def direct(project: dict) -> dict[str, Requirement]:
    """Everything that pyproject.toml asks for, by name; extras that are not locked left out."""
    table = project["project"]
    lines = list(table["dependencies"])
    for name, extra in table["optional-dependencies"].items():
        lines += extra if name not in UNLOCKED else []
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


@pytest.fixture(scope="module")
def conda() -> list:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["dependencies"]


@pytest.fixture(scope="module")
def conda_pip(conda: list) -> list[str]:
    (section,) = (entry["pip"] for entry in conda if isinstance(entry, dict))
    return section


def test_every_direct_dependency_is_locked_at_a_version_that_pyproject_allows(
    direct: dict[str, Requirement], lock: dict[str, Version]
) -> None:
    missing = sorted(direct.keys() - lock.keys())
    assert not missing, f"not in requirements.lock: {missing}"
    refused = {
        name: str(lock[name])
        for name, requirement in direct.items()
        if not requirement.specifier.contains(lock[name])
    }
    assert not refused, f"locked at a version that pyproject.toml excludes: {refused}"


def test_the_lock_has_what_builds_the_package_in_place(
    project: dict, lock: dict[str, Version]
) -> None:
    for line in project["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)])


def test_environment_yml_pins_the_direct_dependencies_as_the_lock_does(
    direct: dict[str, Requirement], lock: dict[str, Version], conda_pip: list[str]
) -> None:
    conda_pins = pins([line for line in conda_pip if not line.startswith("-")])
    assert conda_pins == {name: lock[name] for name in direct}


def test_environment_yml_constrains_the_rest_by_the_lock_and_installs_the_package(
    conda_pip: list[str],
) -> None:
    """And takes the CPU build of torch, whose local version comes before the plain one."""
    assert [line for line in conda_pip if line.startswith("-")] == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "-c requirements.lock",
        "-e .",
    ]


def test_the_python_of_environment_yml_is_one_that_pyproject_allows(
    project: dict, conda: list
) -> None:
    (python,) = (entry for entry in conda if isinstance(entry, str) and entry.startswith("python="))
    allowed = Requirement(f"python{project['project']['requires-python']}").specifier
    assert allowed.contains(Version(python.removeprefix("python=")))


def test_torch_is_locked_without_a_local_suffix(lock: dict[str, Version]) -> None:
    assert str(lock["torch"]) == "2.13.0"
    assert not [name for name, version in lock.items() if version.local]


def test_the_lock_names_no_host_and_no_path(lock_text: str) -> None:
    assert not re.findall(r"://|\s@\s|^-|file:|/(?:home|root|tmp|opt|usr)/", lock_text, re.M)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_mends_an_environment_that_was_left_without_pip(tmp_path: Path) -> None:
    """As `python3 -m venv` leaves it where ensurepip is missing; the path has a blank."""
    place = tmp_path / "a place"
    (place / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    script = place / ".venv" / "bin" / "python"
    script.write_text("#!/bin/sh\ntest -e pip || exit 1\n")  # whatever is asked, without pip
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in venv) touch pip;; esac\n')
    for file in (script, python):
        file.chmod(0o755)
    words = ["make", "setup", f"PYTHON={python}"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Creating .venv" in done.stdout and (place / "pip").exists()
    again = subprocess.run(words, cwd=place, capture_output=True, text=True)
    assert again.returncode == 0 and "Creating" not in again.stdout


def test_the_citation_has_the_version_and_licence_of_the_package(project: dict) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["project"]["version"]
    assert citation["license"] == project["project"]["license"]


def test_the_repository_is_named_alike_everywhere(project: dict) -> None:
    book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    url = project["project"]["urls"]["Repository"]
    assert book["repository"]["url"] == citation["repository-code"] == url
