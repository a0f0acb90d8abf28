"""What a setting does, and when the target misleads, is read off the records and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.book import sensitivity
from unlearnlib.book.main_table import (
    at_equal_forgetting,
    at_rate,
    equal_forgetting_in_words,
    equal_forgetting_table,
)
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    KL,
    baseline_record,
    baseline_value,
    crossing,
    documents_in,
    first_perplexity,
)
from unlearnlib.book.robust_region import (
    TOLERANCES,
    Share,
    UsableWithin,
    region_cells,
    region_in_words,
    region_shares,
    region_table,
    seeds_in_words,
    seeds_table,
    tolerance_curves,
)
from unlearnlib.book.sensitivity import (
    points,
    shape_title,
    span,
    swept_in_words,
    swept_table,
    yardstick_at,
)
from unlearnlib.book.target_check import (
    EarlyStop,
    early_stops,
    early_stops_in_words,
    early_stops_table,
    late_in_words,
    target_ratios,
    target_sizes_in_words,
    target_sizes_table,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.spec import PAPER_METHODS
from unlearnlib.store import Record
from unlearnlib.study import REGION_RATES, RETAIN_WEIGHTS, SIZES

BASELINES = synthetic.baselines()
REGION = synthetic.region_study(("books",))
TOLERANCE = UsableWithin(near=1.25, harmless=1.05)


def base(which: str, metric: str = FORGET) -> float:
    return baseline_value(BASELINES, "books", which, metric)


def probed(*perplexities: float, general: float = 1.0, step: int = 1, **more: object) -> Record:
    """A run on books whose forget perplexity went through these values, from update 0."""
    run = synthetic.run(
        "books", "ga_gd_in_dist", updates=step * (len(perplexities) - 1), probe_every=step
    )
    vanilla = base("vanilla", GENERAL)
    rows = [
        {"update": step * i, FORGET: x, GENERAL: general * vanilla}
        for i, x in enumerate(perplexities)
    ]
    return replace(run, trajectory=rows, **more)


# --- what is usable


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


# --- the robust region


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


# --- at equal forgetting


def arriving(method: str, kl: tuple[float, ...], general: float = 1.0, seed: int = 0) -> Record:
    """A run on books that passes the truth halfway, in the logarithm, between updates 3 and 6."""
    truth = base("oracle")
    run = probed(truth / 4, truth / 2, 2 * truth, general=general, step=3)
    rows = [{**row, KL: x} for row, x in zip(run.trajectory, kl, strict=True)]
    return replace(run, trajectory=rows, spec={**run.spec, "method": method, "seed": seed})


def test_runs_are_compared_where_their_forget_perplexity_is_the_oracle_s() -> None:
    (found,) = at_equal_forgetting([arriving("ga", (0.7, 0.8, 1.0), general=1.1)], BASELINES)
    assert found.update == pytest.approx(4.5)
    assert found.distance == pytest.approx(0.9)
    assert found.general == pytest.approx(1.1)


def test_a_run_that_never_reaches_the_truth_is_not_compared() -> None:
    short = probed(base("vanilla"), base("oracle") * 0.99)
    assert at_equal_forgetting([short], BASELINES) == []
    table = equal_forgetting_table([short], BASELINES)
    assert table.loc[("Books", "GA + GD, in-dist.")].tolist() == ["never", "–", "–"]
    assert equal_forgetting_in_words([short], BASELINES) == ""


def test_words_name_the_nearest_and_the_least_harmful_at_equal_forgetting() -> None:
    runs = [
        arriving("ga", (0.7, 0.8, 1.0), general=1.1),
        arriving("ga_gd_in_dist", (0.7, 0.7, 0.9), general=1.2),
        arriving("ga_gd_in_dist", (0.7, 0.7, 0.9), general=1.2, seed=1),
    ]
    words = equal_forgetting_in_words(runs, BASELINES)
    assert "nearest to the oracle: GA + GD, in-dist., 0.800 nats" in words
    assert "least harm: GA, general perplexity ×1.10" in words
    assert "nearer than GA (0.800 against 0.900), with more harm (×1.20 against ×1.10)" in words
    table = equal_forgetting_table(runs, BASELINES)
    assert table.loc[("Books", "GA + GD, in-dist."), "KL to oracle, nats"] == "0.800 ± 0.000"


# --- sweeps of one setting


@pytest.mark.parametrize(
    ("name", "values"),
    [("batch_size", SIZES), ("retain_weight", RETAIN_WEIGHTS), ("forget_size", SIZES)],
)
def test_a_sweep_has_a_point_per_value_in_rising_order(
    name: str, values: tuple[float, ...]
) -> None:
    records = synthetic.swept_study(name, ("books",))
    points = [p for p in sensitivity.points(records[::-1], name) if p.method == "ga_gd_in_dist"]
    assert [p.x for p in points] == list(values)


def test_a_sweep_over_updates_reads_the_probes_and_ends_where_a_run_diverged() -> None:
    run = probed(3.0, 4.0, 5.0, math.nan, step=3, status="diverged", diverged_at=7)
    points = sensitivity.points([run], "updates")
    assert [(p.x, p.diverged) for p in points] == [(3, False), (6, False), (9, True)]
    assert [p[FORGET] for p in points] == [4.0, 5.0, math.inf]
    assert math.isnan(points[0]["no/such_metric"])


def test_a_run_that_says_nothing_of_requests_had_one() -> None:
    base = synthetic.swept_study("batch_size", ("books",))[0]
    several = replace(base, spec={**base.spec, "requests": 4})
    assert "requests" not in base.spec
    assert [p.x for p in points([several, base], "requests")] == [1, 4]


def test_a_schedule_is_named_with_its_warm_up() -> None:
    assert shape_title({"schedule": "linear", "warmup": 0.25}) == "linear, 25 % warm-up"
    assert shape_title({"schedule": "cosine", "warmup": 0.0}) == "cosine"


def test_a_sweep_over_what_is_no_setting_is_refused() -> None:
    with pytest.raises(UnlearnError, match="'speed'"):
        points(REGION, "speed")


def test_a_slice_takes_the_nearest_rate_of_the_grid() -> None:
    assert {r.spec["learning_rate"] for r in at_rate(REGION, 2.5e-4)} == {3e-4}
    assert at_rate([], 1e-3) == []


def test_yardsticks_of_a_sweep_over_documents_are_those_of_the_documents() -> None:
    oracle = baseline_record(BASELINES, "books", "oracle")
    assert oracle is not None
    kept = oracle.documents["forget"]
    two = math.exp(np.average(kept["nll"][:2], weights=kept["tokens"][:2]))
    asked = ("books", "oracle", FORGET, "forget_size", 2)
    assert yardstick_at(BASELINES, *asked) == pytest.approx(two)
    target = yardstick_at(BASELINES, "books", "target", FORGET, "forget_size", 2)
    assert target == base("target")
    few, whole = (
        yardstick_at(BASELINES, "books", "vanilla", KL, "forget_size", n) for n in (2, 64)
    )
    assert math.isnan(few) and whole == base("vanilla", KL)


def test_the_perplexity_of_the_first_documents_takes_all_chunks_of_each() -> None:
    record = replace(
        BASELINES[0],
        documents={
            "forget": {"id": ["b#0", "a#0", "b#1"], "tokens": [10, 30, 10], "nll": [1.0, 2.0, 3.0]}
        },
    )
    assert documents_in(record) == 2
    assert first_perplexity(record, "forget", 1) == pytest.approx(math.exp(2.0))
    assert first_perplexity(record, "forget", 2) == pytest.approx(math.exp(2.0))
    assert math.isnan(first_perplexity(record, "forget", 3))
    assert math.isnan(first_perplexity(record, "retain", 1))


def test_the_span_of_a_sweep_is_its_largest_value_over_its_least() -> None:
    runs = [
        replace(run, metrics={**run.metrics, FORGET: x})
        for run, x in zip(
            synthetic.swept_study("batch_size", ("books",))[:7],
            (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            strict=True,
        )
    ]
    assert span(runs, BASELINES, "batch_size") == {"ga": pytest.approx(4.0)}
    broken = [*runs[:-1], replace(runs[-1], status="diverged", diverged_at=1)]
    assert span(broken, BASELINES, "batch_size") == {"ga": math.inf}
    assert math.isnan(span(runs[:1], BASELINES, "batch_size")["ga"])
    assert "GA ×4.00" in swept_in_words(runs, BASELINES, "batch_size", TOLERANCE)


def test_the_table_of_a_sweep_names_divergence_and_what_is_missing() -> None:
    records = synthetic.swept_study("batch_size", ("books",))
    changed = [replace(records[0], status="diverged", diverged_at=1), *records[2:]]
    table = swept_table(changed, BASELINES, "batch_size")
    assert list(table.columns) == [f"{n}" for n in SIZES]
    assert table.loc[("Books", "GA")].tolist()[:2] == ["diverged", "–"]


@pytest.mark.parametrize("name", synthetic.SWEPT)
def test_a_sweep_is_told_in_words_without_baselines_or_numbers(name: str) -> None:
    records = synthetic.swept_study(name, ("books",))
    field = "requests" if name == "sequential" else name
    lost = [replace(r, metrics={}) for r in records]
    for found, baselines in ((records, []), (lost, BASELINES), (records, BASELINES)):
        assert swept_in_words(found, baselines, field, TOLERANCE)
        assert len(swept_table(found, baselines, field))


# --- the target against the truth


def alike(nll: float, split: str, which: str) -> Record:
    """A baseline on books with two documents that are alike."""
    record = synthetic.baseline("books", which)
    scores = {"id": ["a#0", "b#0"], "tokens": [10, 10], "nll": [nll, nll]}
    metrics = {**record.metrics, f"{split}/perplexity": math.exp(nll)}
    return replace(record, documents={split: scores}, metrics=metrics)


def test_of_documents_that_are_all_alike_every_request_is_alike() -> None:
    pair = [alike(1.2, "approximate", "vanilla"), alike(1.0, "forget", "oracle")]
    (one, two) = target_ratios(pair, "books", (1, 2, 4), within=1.1)
    for ratio in (one, two):
        assert (ratio.low, ratio.first, ratio.high) == pytest.approx((math.exp(0.2),) * 3)
        assert (ratio.off, ratio.early) == (1.0, 0.0)


def test_the_target_is_surer_for_many_documents_than_for_one() -> None:
    ratios = target_ratios(BASELINES, "books", SIZES)
    assert [r.size for r in ratios] == list(SIZES)
    widths = [math.log(r.high / r.low) for r in ratios]
    assert widths[0] > 2 * widths[-1]
    assert all(r.low <= r.median <= r.high for r in ratios)
    assert ratios == target_ratios(BASELINES, "books", SIZES)


def test_without_an_oracle_there_is_no_ratio_and_words_say_so() -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    assert target_ratios(vanilla, "books", SIZES) == []
    assert len(target_sizes_table(vanilla, SIZES)) == 0
    assert "no oracle" in target_sizes_in_words(vanilla, SIZES)


def test_a_run_crosses_a_level_between_probes_evenly_in_the_logarithm() -> None:
    run = probed(1.0, 2.0, 8.0)
    assert crossing(run, 4.0) == pytest.approx(1.5)
    assert crossing(run, 0.5) == 0.0
    assert crossing(run, 8.0) == pytest.approx(2.0)
    assert crossing(run, 9.0) == math.inf
    assert crossing(probed(1.0, math.nan, math.inf), 2.0) == 2.0
    assert math.isnan(crossing(run, math.nan))
    assert math.isnan(crossing(synthetic.run("books", "ga"), 2.0))


@pytest.mark.parametrize(
    ("by_target", "by_truth", "words"),
    [
        (3.0, 2.5, "0.5 updates late"),
        (2.0, 3.2, "1.2 updates early"),
        (2.0, 2.01, "with the truth"),
        (math.inf, 2.0, "never, the truth does"),
        (2.0, math.inf, "though the truth never does"),
        (math.inf, math.inf, "–"),
        (math.nan, 2.0, "–"),
    ],
)
def test_late_is_after_the_truth_and_early_before_it(
    by_target: float, by_truth: float, words: str
) -> None:
    stop = EarlyStop("books", "ga", 1e-4, by_target, by_truth)
    assert late_in_words(stop.late) == words


def test_stops_are_found_for_every_probed_run_in_whole_updates_too() -> None:
    truth, target = base("oracle"), base("target")
    run = probed(1.0, min(truth, target) * 0.9, max(truth, target) * 1.1)
    (stop,) = early_stops([run, synthetic.run("books", "ga")], BASELINES)
    assert 1 < stop.by_target < 2 and 1 < stop.by_truth < 2
    assert (stop.late < 0) == (target < truth)
    table = early_stops_table([run], BASELINES)
    assert table.iloc[0].tolist()[:2] == ["2", "2"]
    assert "1 reach both levels" in early_stops_in_words([run], BASELINES)
    assert "0 reach both levels" in early_stops_in_words([probed(1.0, 1.0)], BASELINES)
    assert len(early_stops_table([], BASELINES)) == 0
