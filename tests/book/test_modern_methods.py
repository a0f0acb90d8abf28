"""The chapter on later methods: how a rate is chosen, what is said of rows and of chunks.

.venv/bin/python -m pytest -q tests/book/test_modern_methods.py
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from equal import WAYS, Lab, Way, way
from matplotlib.text import Text
from synthetic import drawn
from templates import NOTEBOOKS, code, shown

from unlearnlib.book import theory
from unlearnlib.book.at_equal import HARM, AtEqual, Band, at_equal, band_of
from unlearnlib.book.equal_forgetting import methods_by, with_interval
from unlearnlib.book.modern_methods import (
    at_best_rates,
    chunk_figure,
    chunk_in_words,
    chunk_table,
    descent_effects,
    modern_in_words,
    modern_table,
    rise,
    rises,
    rows_table,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS, row_in_words
from unlearnlib.spec import DOMAINS, PAPER_METHODS, RunSpec
from unlearnlib.store import Record, write_parquet
from unlearnlib.study.grids import CHUNK_BETAS, STUDIES, Asked

SOME = ("ga", "ga_gd_in_dist", "npo", "npo_gd_in_dist", "wga", "wga_gd_in_dist")
ALL_WAYS = {
    **WAYS,
    "npo": way(0.08, 0.120, 0.05, "approximate"),
    "npo_gd_in_dist": way(0.04, 0.004, 0.004, "general"),
    "wga": way(0.07, 0.140, 0.06, "approximate"),
    "wga_gd_in_dist": way(0.001, 0.002, 0.002, "general"),  # never gets there
    "tnpo": way(0.08, 0.1, 0.05),
}
USUAL = {name: row.options["beta"] for name, row in METHODS.items() if "beta" in row.options}
LAB = Lab("books")
BASELINES = LAB.baselines()


def modern_runs(lab: Lab, ways: dict[str, Way] = ALL_WAYS) -> list[Record]:
    """Some rows, at two rates, with three seeds."""
    return [
        lab.run(method, seed=seed, rate=rate, updates=32, ways=ways)
        for method in SOME
        for seed in (0, 1, 2)
        for rate in (1e-4, 3e-4)
    ]


@cache
def found() -> tuple[AtEqual, dict[str, Band]]:
    made = at_equal(at_best_rates(modern_runs(LAB), BASELINES), BASELINES, resamples=100)
    return made, {"books": band_of(BASELINES, "books", made.draws)}


# ---- which rate


def run_of(seed: int, rate: float, worst: float) -> Record:
    """An ascent whose harm is `worst` by its speed."""
    return LAB.run("ga", seed=seed, rate=rate, ways={"ga": way(0.1, worst, 0.05)})


def test_a_run_is_shown_at_the_rate_that_was_best_with_the_other_seeds() -> None:
    """Seed 0 alone would choose the higher rate, which did more harm with seeds 1 and 2."""
    runs = [run_of(0, 1e-4, 0.2), run_of(0, 3e-4, 0.01)]
    runs += [run_of(s, r, w) for s in (1, 2) for r, w in ((1e-4, 0.02), (3e-4, 0.2))]
    kept = {r.spec["seed"]: r.spec["learning_rate"] for r in at_best_rates(runs, BASELINES)}
    assert kept[0] == 1e-4
    # For seed 1: at the lower rate seeds 0 and 2 have 0.2 and 0.02, at the higher 0.01 and 0.2.
    assert kept[1] == kept[2] == 3e-4


def test_a_rate_that_gets_there_goes_before_one_that_does_not() -> None:
    runs = [
        LAB.run("ga", seed=seed, rate=rate, updates=5, ways={"ga": way(0.03, harm, 0.05)})
        for seed in (0, 1)
        for rate, harm in ((1e-4, 0.001), (9e-4, 0.2))
    ]
    assert {r.spec["learning_rate"] for r in at_best_rates(runs, BASELINES)} == {9e-4}


def test_with_one_seed_it_is_the_lowest_rate_that_got_there() -> None:
    runs = [
        LAB.run("ga", rate=rate, updates=9, ways={"ga": way(0.03, 0.1, 0.05)})
        for rate in (1e-5, 9e-4, 1.8e-3)
    ]
    assert [r.spec["learning_rate"] for r in at_best_rates(runs, BASELINES)] == [9e-4]
    assert at_best_rates([], BASELINES) == [] == at_best_rates(runs, [])


# ---- all rows


def test_the_list_compares_the_best_later_row_with_the_paper_s_best() -> None:
    made, bands = found()
    first, second, third, last = modern_in_words(made, bands).splitlines()
    ours, theirs = (made.estimate(HARM, "books", m) for m in ("npo_gd_in_dist", "ga_gd_in_dist"))
    assert first.startswith(
        "- **Least harm of a later row against the least of the paper’s seven** (nats per token). "
        f"Books: NPO + GD, {with_interval(ours)}, against GA + GD, in-dist., "
        f"{with_interval(theirs)}; the difference is {with_interval(ours.minus(theirs))}"
    )
    assert "where two retrained models are 0.3" in second
    assert third.startswith("- **Descent beside a forget term**")
    assert "lowers the harm of 2 of 2 rows, raises that of 0" in third
    assert last.endswith("in 15 of 18 runs; not reached: WGA + GD on Books 3 of 3.")


def test_what_descent_changes_is_the_difference_of_two_rows() -> None:
    made, _ = found()
    effects = descent_effects(made)
    assert set(effects) == {"ga", "npo"}  # WGA's never gets there
    difference = made.difference(HARM, "npo_gd_in_dist", "npo")
    assert effects["npo"].value == difference.value < 0


def test_the_table_has_the_least_harm_first_and_names_what_never_gets_there() -> None:
    table = modern_table(found()[0]).loc["Books"]
    assert list(table.index)[:2] == ["NPO + GD", "GA + GD, in-dist."]
    assert table.index[-1] == "WGA + GD"
    assert table.loc["WGA + GD", "harm, nats"] == "not reached"
    assert table.loc["NPO", "learning rate"] == "0.0001" and table.loc["NPO", "reached"] == "3 of 3"


def test_the_figure_of_equal_forgetting_draws_all_rows() -> None:
    figure = methods_by(*found(), HARM)
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels[0] == "NPO + GD" and len(labels) == len(SOME) + 1  # and the model before
    assert drawn(figure)


def test_the_table_of_rows_says_what_each_is() -> None:
    table = rows_table({name: row_in_words(row) for name, row in METHODS.items()})
    assert len(table) == len(METHODS)
    assert table.loc["Token NPO", "weight or target"] == "2 p^beta / (p^beta + r^beta)"
    assert table.loc["UNDIAL + GD", "family"] == "target distribution"
    assert table.loc["UNDIAL + GD", "retain term"] == "descent"
    assert table.loc["NPO", "more memory"].startswith("1 number per forget token")
    assert table.loc["GA + JS, general", "documents"] == "forget, general"


# ---- chunks


def chunk_run(spec: RunSpec) -> Record:
    """A run whose loss rises by 1 nat; with NPO by 10 / (beta x tokens), at most by 1."""
    record = LAB.run(spec.method, asked=spec, ways=ALL_WAYS)
    length = spec.length or 320
    beta = USUAL["npo"] if spec.beta is None else spec.beta
    gain = 1.0 if spec.method == "tnpo" else min(1.0, 10 / (beta * length))
    rows: list[dict[str, Any]] = [dict(row) for row in record.trajectory]
    for row in rows:
        share = row["update"] / rows[-1]["update"]
        row["forget/perplexity"] = 3.0 * math.exp(gain * share)
    return replace(record, trajectory=rows)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data" / "results").mkdir(parents=True)
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    chosen = {m: {"learning_rate": 1e-4} for m in PAPER_METHODS}
    (tmp_path / "data" / "settings.json").write_text(
        json.dumps({"lab": dict.fromkeys(DOMAINS, chosen)})
    )
    return tmp_path / "data"


def test_rises_are_those_of_the_runs_by_length_and_strength(settings: Path) -> None:
    runs = [chunk_run(spec) for spec in STUDIES["chunk_beta"].runs("lab", "books")]
    lines = rises(runs, "books", USUAL)
    assert set(lines) == {*(("npo", beta) for beta in CHUNK_BETAS), ("tnpo", 4.0)}
    for (method, beta), line in lines.items():
        assert list(line) == [40, 80, 160, 320]
        for length, x in line.items():
            assert x == pytest.approx(1.0 if method == "tnpo" else min(1, 10 / (beta * length)))
    table = chunk_table(runs, USUAL)
    assert table.loc[("Books", "NPO, β = 1"), "320 tokens"] == "0.031"
    words = chunk_in_words(runs, USUAL)
    assert "NPO, β = 0.1: 1.0 in chunks of 40 tokens and 0.31 in chunks of 320" in words
    figure = chunk_figure(runs, BASELINES, USUAL)
    assert "NPO, β = 1 0.25 at 40, 0.12 at 80, 0.062 at 160, 0.031 at 320" in figure.alt
    assert drawn(figure)
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 9


def test_runs_without_a_rise_are_no_numbers_and_no_error() -> None:
    record = LAB.run("npo", ways=ALL_WAYS)
    bare = replace(record, trajectory=record.trajectory[:1])
    assert math.isnan(rise(bare)) and chunk_in_words([bare], USUAL) == ""
    assert list(chunk_table([bare], USUAL).iloc[0]) == ["–"]
    broken = replace(
        record, trajectory=[record.trajectory[0], {"update": 1, "forget/perplexity": math.inf}]
    )
    assert rise(broken) == math.inf
    with pytest.raises(UnlearnError, match="run the study chunk_beta"):
        chunk_figure([bare], BASELINES, USUAL)


# ---- the notebook


def test_the_notebook_shows_all_of_it_from_published_records(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.delenv("UNLEARN_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)  # where there is no book
    few = theory.synthetic(seeds=(1000,), steps=100)
    monkeypatch.setattr(theory, "synthetic", lambda: few)
    asked = Asked(methods=SOME)
    modern = [
        LAB.run(s.method, asked=s, ways=ALL_WAYS)
        for s in STUDIES["modern"].runs("lab", "books", asked)
    ]
    chunks = [chunk_run(spec) for spec in STUDIES["chunk_beta"].runs("lab", "books")]
    write_parquet(modern, settings / "results" / "lab-modern.parquet")
    write_parquet(chunks, settings / "results" / "lab-chunk_beta.parquet")
    write_parquet(BASELINES, settings / "results" / "lab-baselines.parquet")
    pages = shown("modern_methods", {"profile": "lab", "domains": "books"}, monkeypatch)
    figures = re.findall(r"exhibits\.show\(", code(NOTEBOOKS / "modern_methods.ipynb"))
    assert sum("<figure" in page for page in pages) == len(figures) == 5
    assert sum("<table" in page for page in pages) == 5
    assert any(page.startswith("- **Least harm of a later row") for page in pages)
