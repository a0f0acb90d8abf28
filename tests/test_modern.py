"""The two studies of the methods that came after the paper: which runs they are made of.

.venv/bin/python -m pytest -q tests/test_modern.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from unlearnlib.experiment import everything as module
from unlearnlib.experiment.everything import Everything
from unlearnlib.experiment.work import Work
from unlearnlib.methods import METHODS, family_of
from unlearnlib.profiles import LATER_METHODS, PAPER_METHODS, get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.study.grids import (
    CHUNK_BETAS,
    MODERN_FACTORS,
    MODERN_SETTINGS,
    OWN,
    Asked,
    specs_of,
)

DOMAINS = ("arxiv", "github", "books")
CHOSEN = {"ga": 5e-5, "ga_gd_in_dist": 1.2e-4}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Chosen settings of the paper's methods at the profile stream."""
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    chosen = {m: {"learning_rate": CHOSEN.get(m, 8e-5)} for m in PAPER_METHODS}
    (tmp_path / "settings.json").write_text(json.dumps({"stream": dict.fromkeys(DOMAINS, chosen)}))
    return tmp_path


def named(specs: list[RunSpec]) -> set[str]:
    return {json.dumps(spec.as_dict()) for spec in specs}


def test_every_row_that_is_compared_is_one_of_the_package() -> None:
    assert {*PAPER_METHODS, *LATER_METHODS} <= set(METHODS)
    assert not set(PAPER_METHODS) & set(LATER_METHODS)


@pytest.mark.parametrize("name", LATER_METHODS)
def test_a_later_row_takes_the_rate_of_a_method_with_its_data_and_family(name: str) -> None:
    row, like = METHODS[name], METHODS[LATER_METHODS[name]]
    assert row.data == like.data
    if row.data is None:
        assert family_of(row.forget) == family_of(like.forget)


def test_modern_has_every_row_on_every_domain_with_three_seeds_and_few_rates(
    settings: Path,
) -> None:
    specs = specs_of("modern", "stream", DOMAINS)
    assert len(specs) == len(named(specs)) <= 500
    cells = Counter((s.domain, s.method, s.seed) for s in specs)
    seeds, rows = get_profile("stream").seeds, (*PAPER_METHODS, *LATER_METHODS)
    assert set(cells) == {(d, m, s) for d in DOMAINS for m in rows for s in seeds}
    assert set(cells.values()) == {len(MODERN_FACTORS)}
    assert all(s.stop == "retrained" and s.probe_every == 1 for s in specs)
    rates = {s.learning_rate for s in specs if s.method == "npo_gd_in_dist"}
    assert rates == {1.2e-4, 3.6e-4}
    for spec in specs:
        own = MODERN_SETTINGS.get(spec.method, {})
        assert (spec.beta, spec.retain_weight) == (own.get("beta"), own.get("retain_weight", 1.0))


def test_modern_shares_the_runs_of_equal_forgetting(settings: Path) -> None:
    """At the chosen rate the paper's methods are computed already."""
    shared = named(specs_of("modern", "stream", DOMAINS))
    shared &= named(specs_of("equal_forgetting", "stream", DOMAINS))
    assert len(shared) == len(PAPER_METHODS) * len(DOMAINS) * len(get_profile("stream").seeds)


def test_modern_at_other_rates_has_those(settings: Path) -> None:
    asked = Asked(methods=("npo",), rates=(1e-4, 2e-4), seeds=(7,), updates=(5,))
    specs = specs_of("modern", "stream", ("books",), asked)
    assert [(s.method, s.learning_rate, s.seed, s.updates) for s in specs] == [
        ("npo", 1e-4, 7, 5),
        ("npo", 2e-4, 7, 5),
    ]


def test_chunks_of_every_length_make_updates_of_as_many_tokens(settings: Path) -> None:
    specs = specs_of("chunk_beta", "stream", DOMAINS)
    assert len(specs) == len(named(specs)) <= 60
    whole = get_profile("stream").length
    assert {s.batch_size * (s.length or whole) for s in specs} == {16 * whole}
    assert {s.beta for s in specs if s.method == "tnpo"} == {None}
    strengths = {0.1 if s.beta is None else s.beta for s in specs if s.method == "npo"}
    assert strengths == set(CHUNK_BETAS)  # the row's own is left out of its spec
    few = specs_of("chunk_beta", "stream", ("books",), Asked(lengths=(64,), methods=("tnpo",)))
    assert [(s.length, s.batch_size) for s in few] == [(64, 80)]


def test_before_settings_are_chosen_as_many_runs_are_told_as_there_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(module, "effort_of", None)
    work = Work("rates", "stream", ("books",), OWN, str(tmp_path / "runs"), device="cpu")
    missing = Everything(work).missing(["modern", "chunk_beta"])
    assert [len(specs) for specs in missing.values()] == [150, 20]
