"""The published records agree with each other and with what was made of them."""

from __future__ import annotations

import math

import pytest

from unlearnlib import study
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.study.searches import decided_otherwise, load_searches
from unlearnlib.verification import check_published


def test_the_settings_are_those_that_the_rule_chooses_from_the_published_rates() -> None:
    checks = check_published("lab", DOMAINS)
    files = [check.file for check in checks]
    assert files[:3] == [f"settings.json, {domain}" for domain in DOMAINS]
    assert files[-1] == "lab-tuning.jsonl"
    # Between them: whether each study's file is whole.
    published = {p.name for p in study.published_files() if p.stem.startswith("lab-")}
    assert {file.partition(",")[0] for file in files[3:-1]} == published
    assert all(check.agrees for check in checks), checks


@pytest.fixture(scope="module")
def published() -> dict[str, study.StudyResult]:
    """Every study that is published for the lab, by name."""
    names = [p.stem.removeprefix("lab-") for p in study.published_files()]
    return {name: study.load_study(name) for name in study.STUDIES if name in names}


def test_a_published_study_is_whole(published: dict[str, study.StudyResult]) -> None:
    assert {"rates", "main", "trajectory", "alignment"} <= set(published)
    for name, result in published.items():
        wanted = sum(len(study.STUDIES[name].runs("lab", domain)) for domain in DOMAINS)
        assert len(result.records) == wanted, name


def test_every_record_is_of_the_same_models_and_data(
    published: dict[str, study.StudyResult],
) -> None:
    """One vanilla for all; per domain one set of texts."""
    records: list[Record] = [r for result in published.values() for r in result.records]
    assert len({r.model_hash for r in records}) == 1
    for domain in DOMAINS:
        assert len({r.data_hash for r in records if r.spec["domain"] == domain}) == 1


def test_a_trajectory_ends_where_the_run_without_probes_ended(
    published: dict[str, study.StudyResult],
) -> None:
    """Looking at a run does not change it: two runs that differ in `probe_every` end alike."""
    main = {
        (r.spec["domain"], r.spec["method"]): r
        for r in published["main"].records
        if r.spec["seed"] == 0
    }
    for watched in published["trajectory"].records:
        plain = main[watched.spec["domain"], watched.spec["method"]]
        for name in ("forget/nll", "general/nll", "oracle_kl/forget"):
            a, b = plain.metrics[name], watched.metrics[name]
            assert math.isclose(a, b, rel_tol=1e-3), (name, plain.spec)


@pytest.mark.parametrize("profile", ["lab", "open_cpu"])
def test_every_published_search_is_decided_again_as_it_was(profile: str) -> None:
    """Rates, weights, reasons and the run chosen follow from the steps before, by today's rule."""
    searches = load_searches(profile)
    assert searches
    assert [decided_otherwise(search) for search in searches] == [""] * len(searches)
    assert all(check.agrees for check in check_published(profile, DOMAINS))
