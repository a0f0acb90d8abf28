"""What forgetting takes and costs by exposure, and how far the paper's target is off."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache
from pathlib import Path

import equal
import pytest
from equal import EXPOSURES, WAYS, Lab, way
from synthetic import drawn, spoilt
from templates import NOTEBOOKS, code, shown

from unlearnlib.book.at_equal import DISTANCE, HARM, AtEqual, Draws, at_equal
from unlearnlib.book.exposure import (
    DOSE,
    SHOWN,
    TargetAt,
    at_once_in_words,
    by_exposure,
    exposure_in_words,
    exposures_in,
    growth,
    measure_table,
    mixed,
    mixed_figure,
    mixed_in_words,
    mixed_table,
    target_figure,
    target_in_words,
    target_table,
    targets,
)
from unlearnlib.book.lab import exposures_of
from unlearnlib.errors import UnlearnError
from unlearnlib.store import Record

METHODS = ("ga", "ga_gd_in_dist", "random_label")
LAB = Lab("books")
BASELINES = LAB.baselines()
RUNS = equal.exposure_study(("books",), METHODS)
READ = exposures_of(RUNS)


@cache
def found() -> AtEqual:
    return at_equal(RUNS, BASELINES, resamples=100)


@cache
def at_targets() -> list[TargetAt]:
    return targets(BASELINES, READ, Draws(100))


# ---- what it takes


def test_more_exposure_takes_as_much_more_as_there_is_to_forget() -> None:
    assert exposures_in(found()) == list(EXPOSURES)
    expected = LAB.way_to_go(exposure=16) / LAB.way_to_go(exposure=1)
    for method in METHODS:
        assert growth(found(), DOSE, "books", method) == pytest.approx(expected)
    words = exposure_in_words(found())
    assert f"Documents read 16 times take {expected:.0f} times the rate × updates" in words
    low, high = (found().estimate(HARM, "books", m, exposure=16).value for m in METHODS[1:])
    assert f"{low:.2f} to {high:.1f} for those read 16 times" in words


def test_the_tables_have_a_column_per_exposure() -> None:
    table = measure_table(found(), DOSE)
    assert list(table.columns) == ["read once", *(f"read {e} times" for e in EXPOSURES[1:])]
    updates = LAB.way_to_go(exposure=16) / WAYS["ga"].speed
    assert table.loc[("Books", "GA"), "read 16 times"].startswith(f"{updates:.1f} (")  # of 1e-4


def test_where_vanilla_is_there_already_there_is_nothing_to_forget() -> None:
    run = LAB.run("ga", exposure=1)
    first = {**run.trajectory[0], "update": 0}
    there = dataclasses.replace(run, trajectory=[first | {"forget/perplexity": 1e6}])
    made = at_equal([there, LAB.run("ga", exposure=16)], BASELINES, resamples=10)
    assert measure_table(made, DOSE).loc[("Books", "GA"), "read once"] == "nothing to forget"
    assert drawn(by_exposure(made, DOSE))  # a dose of 0 is no place on a logarithmic axis


def test_an_exposure_that_is_never_forgotten_is_named_as_such() -> None:
    runs = [LAB.run("ga", exposure=1), LAB.run("ga", exposure=16, updates=2)]
    table = measure_table(at_equal(runs, BASELINES, resamples=10), HARM)
    assert table.loc[("Books", "GA"), "read 16 times"] == "not reached"


def test_the_words_count_what_one_update_of_the_chosen_rate_passes() -> None:
    """0.1 nats per update: more than the gap of documents read once, less than of sixteen times."""
    runs = [LAB.run("ga", exposure=e, rate=r) for e in (1, 16) for r in (1e-4, 1e-5)]
    words = at_once_in_words(at_equal(runs, BASELINES, resamples=10))
    assert LAB.way_to_go(exposure=1) < 0.1
    assert "1 of 1 where the documents were read once, 0 of 1 where" in words
    assert at_once_in_words(at_equal([LAB.run("ga")], BASELINES, resamples=10)) == ""


# ---- the paper's target


def test_the_target_s_error_is_to_the_retrained_model_on_the_same_documents() -> None:
    for at, exposure in zip(at_targets(), EXPOSURES, strict=True):
        picked = LAB.chosen(exposure)
        theirs = LAB.mean(LAB.nll("oracle", "forget"), "forget", picked)
        target = LAB.mean(LAB.nll("vanilla", "approximate"), "approximate")
        assert at.exposure == exposure and at.documents == 24
        assert at.error.value == pytest.approx(target - theirs)
        assert at.way.value == pytest.approx(LAB.way_to_go(exposure=exposure))
        if at.way.interval[0] > 0:  # else it cannot be told from nothing
            assert at.share == pytest.approx((target - theirs) / LAB.way_to_go(exposure=exposure))
        else:
            assert math.isnan(at.share)
        assert at.error.interval[0] < at.error.value < at.error.interval[1]


def test_the_words_and_the_table_give_the_error_in_percent() -> None:
    first = at_targets()[0]
    percent = 100 * math.expm1(first.error.value)
    text = f"{percent:.1f}".replace("-", "−")
    assert f"Documents read once: the paper’s target {text} (" in target_in_words(at_targets())
    cell = target_table(at_targets()).loc[("Books", "once"), ("The target’s error", "%")]
    assert cell.startswith(f"{text} (")
    assert target_in_words([]) == ""


def test_there_is_no_share_of_nothing() -> None:
    lab = Lab("books", gaps={1: -0.5, 2: 0.4})
    runs = [lab.run("ga", exposure=e) for e in (1, 2)]
    first, second = targets(lab.baselines(), exposures_of(runs), Draws(10))
    assert math.isnan(first.share) and math.isfinite(second.share)
    assert target_table([first]).iloc[0, -1] == "–"


# ---- one run over all exposures


def whole(lean: float, **more: float) -> list[Record]:
    """Runs over all exposures of a method that moves better-known documents so much more."""
    ways = {"ga": way(0.05, 0.02, 0.01, lean=lean)}
    lab = Lab("books", spread=0.0)
    return [lab.run("ga", ways=ways, seed=seed) for seed in (0, 1)]


def off(lean: float) -> dict[int, float]:
    lab = Lab("books", spread=0.0)
    made = at_equal(whole(lean), lab.baselines(), resamples=20)
    (one,) = mixed(made, lab.baselines(), READ)
    return {exposure: estimate.value for exposure, estimate in one.off.items()}


def test_a_step_for_all_alike_forgets_too_much_of_one_and_too_little_of_the_other() -> None:
    """All move by the mean gap: what was read once is as far above as its gap is below the mean."""
    lab = Lab("books", spread=0.0)
    mean = lab.mean(lab.gap, "forget")
    assert off(0.0) == pytest.approx({e: mean - gap for e, gap in lab.gaps.items()})


def test_a_step_in_proportion_serves_all_exposures() -> None:
    assert off(1.0) == pytest.approx(dict.fromkeys(EXPOSURES, 0.0), abs=1e-9)


@pytest.mark.parametrize(("lean", "cases"), [(0.0, "0 of 1 cases"), (1.0, "1 of 1 cases")])
def test_the_words_say_whether_one_rate_serves_all(lean: float, cases: str) -> None:
    lab = Lab("books", spread=0.0)
    made = mixed(at_equal(whole(lean), lab.baselines(), resamples=20), lab.baselines(), READ)
    words = mixed_in_words(made)
    assert f"within 10 % of the retrained model, in {cases}" in words
    assert ("GA on Books" in words) == (lean == 1.0)
    table = mixed_table(made)
    assert list(table.columns)[-1] == "most over least" and len(table.columns) == 6


def test_each_exposure_s_interval_holds_its_value() -> None:
    made = at_equal([LAB.run("ga")], BASELINES, resamples=200)
    (one,) = mixed(made, BASELINES, READ)
    for estimate in one.off.values():
        low, high = estimate.interval
        assert low < estimate.value < high


def test_a_run_that_went_on_cannot_be_looked_at_by_exposure() -> None:
    made = at_equal([LAB.run("ga", stop=False, updates=20)], BASELINES, resamples=10)
    assert mixed(made, BASELINES, READ) == []
    assert mixed_in_words([]) == ""


# ---- figures


@pytest.mark.parametrize("measure", SHOWN)
def test_a_line_is_named_where_it_ends(measure: str) -> None:
    figure = by_exposure(found(), measure)
    names = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert {"GA", "GA + GD, in-dist.", "Random labels"} <= set(names)
    assert drawn(figure) and "Books, from the least read: GA " in figure.alt


def test_the_other_figures_are_drawn_and_described() -> None:
    figure = target_figure(at_targets())
    assert drawn(figure) and "read once: vanilla" in figure.alt
    names = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert set(names) == {"vanilla", "retrained", "paper’s target"}
    figure = mixed_figure(
        mixed(at_equal([LAB.run("ga")], BASELINES, resamples=20), BASELINES, READ)
    )
    assert drawn(figure) and "GA " in figure.alt


def test_a_gap_in_the_runs_is_a_gap_in_the_line() -> None:
    runs = [LAB.run("ga", exposure=e, updates=2 if e == 16 else 60) for e in EXPOSURES]
    figure = by_exposure(at_equal(runs, BASELINES, resamples=10), DISTANCE)
    (line, *_) = (x for x in figure.axes[0].lines if len(x.get_xdata()) == len(EXPOSURES))
    assert math.isnan(line.get_ydata()[-1]) and drawn(figure)


@pytest.mark.parametrize("x", [math.nan, math.inf, 0.0])
def test_records_that_broke_the_model_are_no_numbers_and_no_error(x: float) -> None:
    runs = [LAB.run("ga", exposure=e) for e in (1, 16)]
    runs[0] = spoilt(runs[0], x)
    for baselines in (BASELINES, [spoilt(b, x) for b in BASELINES]):
        made, read = at_equal(runs, baselines, resamples=20).finest(), exposures_of(runs)
        at = targets(baselines, read, Draws(20))
        assert len(at) == 2 and len(target_table(at)) == 2 and target_in_words(at)
        assert len(measure_table(made, HARM)) == 1
        exposure_in_words(made), at_once_in_words(made)
        if baselines is BASELINES:
            assert drawn(by_exposure(made))
        else:
            assert drawn(target_figure(at))


def test_without_records_the_figures_say_what_to_run() -> None:
    nothing = at_equal([LAB.run("ga")], BASELINES, resamples=10)
    for figure in (
        lambda: by_exposure(nothing),
        lambda: target_figure([]),
        lambda: mixed_figure([]),
    ):
        with pytest.raises(UnlearnError, match="run"):
            figure()


def test_the_notebook_shows_all_of_it_from_published_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = equal.write_results(tmp_path / "data", ("books",), "exposure", "equal_forgetting")
    monkeypatch.setenv("UNLEARN_DATA", str(data))
    monkeypatch.delenv("UNLEARN_FIGURES", raising=False)
    monkeypatch.chdir(
        tmp_path
    )  # where there is no book, so each figure is drawn into the page alone
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    few = {"profile": "lab", "domains": "books", "methods": "ga,ga_gd_in_dist"}
    few |= {"exposures": [1, 16]}
    pages = shown("exposure", few, monkeypatch)
    figures = re.findall(r"exhibits\.show\(", code(NOTEBOOKS / "exposure.ipynb"))
    assert sum("<figure" in page for page in pages) == len(figures) == 5
    assert sum("<table" in page for page in pages) == 5
    assert pages[0].startswith("- **Books.** Documents read 16 times take")
