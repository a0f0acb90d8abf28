"""A search is judged beside the best grid point, and beside random search at equal cost."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from statistics import median

import pytest

from unlearnlib.book import guidelines
from unlearnlib.book.robust_region import Cell
from unlearnlib.errors import UnlearnError
from unlearnlib.tuning_rule import TOLERATED_RISE, Situation, Step

SITUATION = Situation(forget=1.7, target=3.7, general=5.0, updates=12)

STEPS = (
    Step(1e-4, 1.0, (1.7, 1.9), 1, 5.0, "first"),
    Step(2e-4, 1.0, (1.7, 3.6), 1, 5.1, "higher"),
)

SEARCH = guidelines.Search(
    "books", 200, "ga_gd_in_dist", False, SITUATION, STEPS, 1, "it is near",
    {"forget/perplexity": 1.7, "general/perplexity": 5.0},
    {"forget/perplexity": 3.6, "general/perplexity": 5.1},
)  # fmt: skip


def cell(forget: float, general: float, broken: bool = False) -> Cell:
    return Cell("books", "ga_gd_in_dist", 1e-4, 3, forget, general, broken)


def test_a_grid_point_is_judged_as_a_step_is() -> None:
    step = Step(1e-4, 1.0, (1.7, 4.1), 1, 5.6, "")
    assert guidelines.cell_shortfall(cell(4.1, 5.6), SITUATION) == pytest.approx(
        step.shortfall(SITUATION)
    )
    assert step.shortfall(SITUATION) == pytest.approx(
        math.log(4.1 / 3.7) + math.log(5.6 / 5.0 / TOLERATED_RISE)
    )


@pytest.mark.parametrize("bad", [cell(3.7, 5.0, True), cell(math.nan, 5.0), cell(3.7, math.inf)])
def test_a_broken_grid_point_is_no_good(bad: Cell) -> None:
    assert guidelines.cell_shortfall(bad, SITUATION) == math.inf


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_random_search_is_the_median_over_all_draws(runs: int) -> None:
    values = [0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 9.0]
    draws = [min(drawn) for drawn in itertools.combinations(values, runs)]
    exact = median(draws)
    found = guidelines.random_search(values, runs)
    # With an even number of draws the median may lie between two values; the function names one.
    assert found in values and abs(found - exact) <= 0.3
    assert sum(d <= found for d in draws) >= len(draws) / 2
    assert sum(d < found for d in draws) < len(draws) / 2 or found == min(values)


def test_more_draws_than_points_is_an_error() -> None:
    with pytest.raises(UnlearnError, match="3 runs cannot be drawn from 2 grid points"):
        guidelines.random_search([0.1, 0.2], 3)


def judged(**changes: object) -> guidelines.Judged:
    row = guidelines.Judged(SEARCH, 2, SEARCH.shortfall, 0.05, 0.3, 56)
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def test_excess_is_a_multiple_of_the_best_grid_point() -> None:
    assert judged(tuned=0.1).excess == pytest.approx(2.0)
    assert judged(best_grid=0.0).excess == math.inf


def test_the_design_case_decides_nothing() -> None:
    design = dataclasses.replace(SEARCH, design=True, domain="arxiv", seed=100)
    rows = [judged(), judged(search=design)]
    assert set(guidelines.held_out(rows)) == {("books", 200)}
    assert "1 search on" in guidelines.searches_in_words(rows)
    assert "(design)" in guidelines.searches_table(rows).to_string()


def test_words_and_tables_name_every_run() -> None:
    assert list(guidelines.trace(SEARCH)["why"]) == ["first", "higher"]
    assert "No search" in guidelines.searches_in_words([])


@pytest.mark.parametrize(("general", "harmed"), [(1.04, 0), (1.06, 1)])
def test_words_count_the_searches_that_did_more_harm_than_is_tolerated(
    general: float, harmed: int
) -> None:
    before = {"general/perplexity": 5.0}
    search = dataclasses.replace(SEARCH, before=before, after={"general/perplexity": 5.0 * general})
    words = guidelines.searches_in_words([judged(search=search)])
    assert f"{harmed} with general perplexity up by more than is tolerated" in words


def test_searches_are_read_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    assert guidelines.load_searches() == []
    path = tmp_path / "results" / "lab-tuning.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(dataclasses.asdict(SEARCH)) + "\n")
    assert guidelines.load_searches() == [SEARCH]
    path.write_text('{"domain": "books"}\n')
    with pytest.raises(UnlearnError, match=r"lab-tuning\.jsonl"):
        guidelines.load_searches()
