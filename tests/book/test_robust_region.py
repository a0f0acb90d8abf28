"""Settings are usable by the tolerances that were fixed, and every grid point is counted once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from synthetic import TOLERANCE, base, probed

from unlearnlib.book.records import baseline_value
from unlearnlib.book.robust_region import (
    TOLERANCES,
    Share,
    region_cells,
    region_in_words,
    region_shares,
    region_table,
    robust_region,
    seeds_in_words,
    seeds_table,
    tolerance_curves,
)
from unlearnlib.spec import PAPER_METHODS
from unlearnlib.study import REGION_RATES

BASELINES = synthetic.baselines()

REGION = synthetic.region_study(("books",))


@pytest.mark.parametrize(
    ("forget", "general", "allowed"),
    [
        (10.0, 5.0, True),
        (12.5, 5.25, True),
        (8.0, 5.0, True),
        (12.6, 5.0, False),
        (7.9, 5.0, False),
        (10.0, 5.26, False),
        (10.0, math.nan, False),
        (math.nan, 5.0, False),
        (math.inf, 5.0, False),
        (0.0, 5.0, False),
    ],
)
def test_a_setting_is_usable_within_the_factor_either_way_and_without_harm(
    forget: float, general: float, allowed: bool
) -> None:
    assert TOLERANCE.allows(forget, general, yardstick=10.0, vanilla=5.0) is allowed


def test_without_a_yardstick_nothing_is_usable() -> None:
    assert not TOLERANCE.allows(10.0, 5.0, math.nan, 5.0)
    assert not TOLERANCE.allows(10.0, 5.0, 10.0, math.nan)


def test_the_updates_of_a_probed_run_are_settings_of_the_grid() -> None:
    cells = [c for c in region_cells(REGION) if c.method == "ga_kl_in_dist"]
    assert {(c.learning_rate, c.updates) for c in cells} == {
        (rate, updates) for rate in REGION_RATES for updates in range(3, 25, 3)
    }


def test_a_run_that_diverged_has_broken_settings_from_there_on() -> None:
    run = probed(3.0, 4.0, 5.0, math.nan, math.nan, step=3, status="diverged", diverged_at=7)
    cells = region_cells([run])
    assert [(c.updates, c.broken) for c in cells] == [(3, False), (6, False), (9, True), (12, True)]


def test_a_perplexity_that_is_not_finite_is_broken_and_one_never_measured_is_missing() -> None:
    cells = region_cells([probed(3.0, math.inf)])
    assert [c.broken for c in cells] == [True]
    unfinished = probed(3.0, 4.0, 5.0)
    unfinished = replace(unfinished, trajectory=unfinished.trajectory[:2])
    assert [c.broken for c in region_cells([unfinished])] == [False, False]
    share = region_shares([unfinished], BASELINES, TOLERANCE)["books", "ga_gd_in_dist"]
    assert share.settings == 1


def test_a_run_without_probes_is_one_setting_its_end() -> None:
    run = synthetic.run("books", "ga")
    (cell,) = region_cells([run])
    assert (cell.updates, cell.learning_rate) == (run.spec["updates"], run.spec["learning_rate"])
    assert (cell.forget, cell.general) == (
        run.metrics["forget/perplexity"],
        run.metrics["general/perplexity"],
    )
    assert not cell.broken
    (lost,) = region_cells([replace(run, status="diverged", diverged_at=2)])
    assert lost.broken


def test_a_run_of_no_updates_is_no_setting() -> None:
    run = synthetic.run("books", "ga")
    assert region_cells([replace(run, spec={**run.spec, "updates": 0})]) == []


def test_usable_settings_are_counted_by_the_yardstick_that_is_asked_for() -> None:
    oracle, target = base("oracle"), base("target")
    shifted = [
        replace(b, metrics={**b.metrics, "approximate/perplexity": 3 * oracle})
        if b.spec["baseline"] == "vanilla"
        else b
        for b in BASELINES
    ]
    assert target != 3 * oracle
    run = probed(2.0, oracle, 3 * oracle, 3.1 * oracle)
    for yardstick, usable in (("oracle", 1), ("target", 2)):
        shares = region_shares([run], shifted, TOLERANCE, yardstick)
        assert shares["books", "ga_gd_in_dist"].usable == usable
    table = region_table([run], shifted, TOLERANCE)
    assert table["both agree"].tolist() == ["0 of 3"]


def test_harm_makes_a_setting_near_the_truth_unusable() -> None:
    for general, usable in ((1.05, 1), (1.06, 0)):
        shares = region_shares([probed(2.0, base("oracle"), general=general)], BASELINES, TOLERANCE)
        assert shares["books", "ga_gd_in_dist"].usable == usable


def test_a_domain_without_an_oracle_has_no_share_and_words_say_so() -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    assert region_shares(REGION, vanilla, TOLERANCE) == {}
    assert "no oracle" in region_in_words(REGION, vanilla, TOLERANCE)
    assert set(region_table(REGION, vanilla, TOLERANCE)["both agree"]) == {"–"}


def test_a_wider_tolerance_never_makes_a_setting_unusable() -> None:
    curves = tolerance_curves(REGION, BASELINES, 1.05)
    assert set(curves) == {("books", m) for m in PAPER_METHODS}
    for rows in curves.values():
        assert rows.shape == (1, len(TOLERANCES))
        assert (np.diff(rows, axis=1) >= 0).all()
    at_the_test = tolerance_curves(REGION, BASELINES, TOLERANCE.harmless, (TOLERANCE.near,))
    for place, share in region_shares(REGION, BASELINES, TOLERANCE).items():
        assert at_the_test[place][0, 0] == share.share


def test_settings_are_counted_by_seed_and_where_every_seed_agrees() -> None:
    oracle = base("oracle")
    one = probed(2.0, oracle, oracle)  # usable after each of two probes
    other = probed(2.0, oracle, 9 * oracle)
    other = replace(other, spec={**other.spec, "seed": one.spec["seed"] + 1})
    table = seeds_table([one, other], BASELINES, TOLERANCE)
    assert table.iloc[0].tolist() == ["2 of 2", "1 of 2", "1"]
    curves = tolerance_curves([other, one], BASELINES, 1.05, (TOLERANCE.near,))
    assert curves["books", "ga_gd_in_dist"].tolist() == [[1.0], [0.5]]


def test_words_count_in_how_many_cases_a_method_has_more_usable_settings() -> None:
    oracle = base("oracle")
    ours = probed(2.0, oracle, oracle)
    alone = replace(probed(2.0, oracle, 9 * oracle), spec={**ours.spec, "method": "ga"})
    words = seeds_in_words([ours, alone], BASELINES, TOLERANCE)
    assert "in 1 of 1 cases, as many in 0, fewer in 0" in words
    same = replace(ours, spec={**ours.spec, "method": "ga"})
    assert "in 0 of 1 cases, as many in 1, fewer in 0" in seeds_in_words(
        [ours, same], BASELINES, TOLERANCE
    )
    assert seeds_in_words([ours], BASELINES, TOLERANCE) == ""


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # 10 of 50: Brown, Cai and DasGupta's formula by hand.
    low, high = Share(10, 50).interval
    assert (low, high) == pytest.approx((0.1124, 0.3304), abs=1e-4)
    assert Share(0, 56).interval[0] == 0.0
    assert Share(56, 56).interval[1] == pytest.approx(1.0)
    assert all(map(math.isnan, Share(0, 0).interval))
    assert math.isnan(Share(0, 0).share)
    assert str(Share(0, 0)) == "–"


@pytest.mark.parametrize(
    ("usable", "settings", "expected"),
    [  # as this book printed them when it computed Wilson's formula itself
        (0, 7, (0.0, 0.354330439)),
        (1, 7, (0.025679624, 0.513127832)),
        (7, 7, (0.645669561, 1.0)),
        (3, 56, (0.018385781, 0.146073092)),
        (17, 56, (0.19900325, 0.433358654)),
        (55, 56, (0.905543628, 0.99684079)),
        (100, 1000, (0.082909443, 0.120151963)),
    ],
)
def test_wilsons_interval_is_what_it_was_before_scipy_computed_it(
    usable: int, settings: int, expected: tuple[float, float]
) -> None:
    assert Share(usable, settings).interval == pytest.approx(expected, abs=1e-7)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_lies_in_zero_to_one(counts: tuple[int, int]) -> None:
    share = Share(*counts)
    low, high = share.interval
    assert 0 <= low <= share.share + 1e-12 and share.share <= high + 1e-12 and high <= 1


def test_the_map_of_the_region_marks_usable_harmed_and_diverged_settings() -> None:
    run = synthetic.run("books", "ga_gd_in_dist", updates=6, probe_every=3)
    truth, vanilla = (
        baseline_value(BASELINES, "books", which, metric)
        for which, metric in (("oracle", "forget/perplexity"), ("vanilla", "general/perplexity"))
    )
    rows = [
        {"update": 3, "forget/perplexity": truth, "general/perplexity": vanilla},
        {"update": 6, "forget/perplexity": truth, "general/perplexity": 2 * vanilla},
    ]
    broken = replace(
        synthetic.run("books", "ga_gd_in_dist", rate=1e-2, updates=6, probe_every=3),
        status="diverged",
        diverged_at=5,
        trajectory=rows[:1],
    )
    figure = robust_region([replace(run, trajectory=rows), broken], BASELINES)
    marks = {
        name: [line for line in figure.axes[0].lines if line.get_marker() == look["marker"]]
        for name, look in (("usable", {"marker": "o"}), ("broken", {"marker": "x"}))
    }
    usable, harmed = marks["usable"]
    assert len(usable.get_xdata()) == 2 and len(harmed.get_xdata()) == 1
    assert len(marks["broken"][0].get_xdata()) == 1
    assert "GA + GD, in-dist. 2 of 4; 1 diverged" in figure.alt
