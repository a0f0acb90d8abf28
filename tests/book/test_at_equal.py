"""Where a run has forgotten as much as the retrained model, what it cost by then, how surely."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import equal
import numpy as np
import pytest
from equal import BEST_FIRST, WAYS, Lab, way

from unlearnlib.book.at_equal import (
    BEFORE,
    DISTANCE,
    HARM,
    MEASURES,
    RATE,
    SIBLINGS,
    UNDECIDED,
    UPDATES,
    Draws,
    Leeway,
    Stretch,
    Tolerance,
    at_equal,
    band_of,
    drawn_aucs,
    find_crossing,
    has_more_leeway,
    leeways,
    more_leeway,
    point_of,
    spearman,
    stretch_within,
    verdict,
)
from unlearnlib.metrics.membership import auc
from unlearnlib.store import Record

LAB = Lab()
ORACLE = LAB.baseline("oracle")


def excess(lab: Lab, split: str, before: str, *retrained: str) -> float:
    """ln(a vanilla's perplexity / the retrained models') on a split, before any update."""
    theirs = np.mean([lab.nll(name, split) for name in retrained], axis=0)
    return lab.mean(lab.nll(before, split) - theirs, split)


# ---- one run


@pytest.mark.parametrize("method", sorted(WAYS))
def test_a_run_crosses_where_its_perplexity_is_the_retrained_model_s(method: str) -> None:
    """Perplexity is an exact function of the update, so that everything there is known."""
    point, own = point_of(LAB.run(method), ORACLE), WAYS[method]
    updates = LAB.way_to_go() / own.speed
    assert point.updates == pytest.approx(updates)
    assert point.dose == pytest.approx(1e-4 * updates)
    assert point.distance == pytest.approx(
        LAB.mean(0.3 + 0.1 * np.abs(LAB.noise[1]), "forget") + own.kl * updates
    )
    for split, step in own.harm.items():
        assert point.harms[split] == pytest.approx(
            step * updates + excess(LAB, split, "vanilla", "oracle")
        )
    assert point.harm == max(point.harms.values())
    assert point.worst == max(point.harms, key=lambda split: point.harms[split])


def test_the_place_between_two_probes_is_found_in_the_logarithm() -> None:
    rows = [{"update": u, "forget/perplexity": x, "x": u} for u, x in ((0, 1.0), (4, 16.0))]
    found = find_crossing(rows, math.log(4.0))
    assert found is not None and found.update == 2.0 and found.share == 0.5 and found.final
    assert found.at("x") == 2.0 and found.log_at("forget/perplexity") == pytest.approx(math.log(4))
    assert math.isnan(found.at("not probed"))


def test_the_first_crossing_counts_and_a_probe_without_value_is_passed_over() -> None:
    path = ((0, 1.0), (1, math.nan), (2, 4.0), (3, 1.0), (4, 8.0))
    rows = [{"update": u, "forget/perplexity": x} for u, x in path]
    found = find_crossing(rows, math.log(2.0))
    assert found is not None and found.update == pytest.approx(1.0) and not found.final


def test_a_run_that_never_gets_there_has_no_value() -> None:
    run = LAB.run("ga_kl_in_dist", updates=3)
    point = point_of(run, ORACLE)
    assert point.crossing is None and point.worst == ""
    assert all(math.isnan(point.value(m)) for m in (*MEASURES, "updates", "dose", "auc/loss"))
    found = at_equal([run, LAB.run("ga")], LAB.baselines(), resamples=10)
    assert found.reached("books", "ga_kl_in_dist") == (0, 1)
    assert math.isnan(found.estimate(HARM, "books", "ga_kl_in_dist").value)
    assert found.order(HARM, "books") == ["ga"]


def test_a_run_that_breaks_at_once_is_not_interpolated() -> None:
    rows = [{"update": 0, "forget/perplexity": 1.0}, {"update": 1, "forget/perplexity": math.inf}]
    found = find_crossing(rows, math.log(2.0))
    assert found is not None and found.update == 1.0 and found.log_at("forget/perplexity") > 1e9


def test_a_run_that_starts_above_the_level_crosses_before_its_first_update() -> None:
    rows = [{"update": 0, "forget/perplexity": 3.0}, {"update": 1, "forget/perplexity": 4.0}]
    found = find_crossing(rows, math.log(2.0))
    assert found is not None and found.update == 0.0
    assert found.log_at("forget/perplexity") == pytest.approx(math.log(3.0))


def test_forgetting_some_documents_is_measured_on_those() -> None:
    for exposure in equal.EXPOSURES:
        point = point_of(LAB.run("ga", exposure=exposure), ORACLE)
        assert point.updates == pytest.approx(LAB.way_to_go(exposure=exposure) / WAYS["ga"].speed)
        assert point.exposure == exposure


def test_each_run_goes_to_its_own_retrained_model_and_harm_is_against_all_of_them() -> None:
    runs = [LAB.run("ga", base=base) for base in ("vanilla", "second")]
    found = at_equal(runs, LAB.baselines(), resamples=10)
    for point in found.points:
        assert point.updates == pytest.approx(LAB.way_to_go(point.base) / WAYS["ga"].speed)
        assert point.harms["general"] == pytest.approx(
            WAYS["ga"].harm["general"] * point.updates
            + excess(LAB, "general", BEFORE[point.base], *SIBLINGS)
        )
    assert at_equal(runs, [ORACLE], resamples=10).bases == ["vanilla"]  # the other has none


def test_scores_made_for_the_second_vanilla_are_those_of_its_own_models() -> None:
    """They say "oracle" and "vanilla" too; no table takes them for the first one's."""
    second = [LAB.baseline(name, "second") for name in ("oracle", "vanilla")]
    runs = [LAB.run("ga", base=base) for base in ("vanilla", "second")]
    named = at_equal(runs, LAB.baselines(), resamples=10)
    own = at_equal(runs, [*second, *LAB.baselines()], resamples=10)
    assert [p.updates for p in own.points] == [p.updates for p in named.points]
    alone = at_equal(runs, second, resamples=10)
    assert alone.bases == ["second"] and alone.points[0].updates == named.points[1].updates
    assert band_of([*second, *LAB.baselines()], "books").distances == (
        band_of(LAB.baselines(), "books").distances
    )


def test_the_rate_is_added_up_as_it_was() -> None:
    run = LAB.run("ga")
    for row in run.trajectory[1:]:
        row["rate"] = 1e-4 / row["update"]
    point = point_of(run, ORACLE)
    whole, part = divmod(point.updates, 1)
    rates = [1e-4 / u for u in range(1, int(whole) + 1)]
    assert point.dose == pytest.approx(sum(rates) + part * 1e-4 / (whole + 1))


def test_traces_are_taken_from_the_retrained_model_s_auc_not_from_one_half() -> None:
    point = point_of(LAB.run("ga"), ORACLE)
    theirs = ORACLE.metrics["membership/min_k_pp_20/auc"]
    assert theirs != 0.5
    assert point.value("membership") == pytest.approx(abs(point.aucs["min_k_pp_20"] - theirs))


# ---- intervals


def test_the_mean_of_all_documents_is_the_value_itself() -> None:
    """A resample that draws every document once crosses where the run does."""

    class Once(Draws):
        def counts(self, domain: str, split: str, documents: int) -> np.ndarray:
            return np.ones((1, documents), dtype=int)

    from unlearnlib.book.at_equal import point_draws

    point = point_of(LAB.run("ga_gd_in_dist"), ORACLE)
    drawn = point_draws(point, ORACLE, Once(1))
    for name, values in drawn.items():
        assert values == pytest.approx([point.value(name)], abs=1e-9), name
    assert {*MEASURES, "updates", "dose", "auc/loss"} <= set(drawn)


def test_intervals_cover_what_is_true_of_all_documents() -> None:
    """Of 100 draws of documents about 95 intervals hold the value of endlessly many."""
    own = {"ga": way(0.1, 0.05, 0.02, "approximate")}
    gap = float(np.mean(list(Lab().gaps.values())))
    hit = dict.fromkeys(("harm", "updates"), 0)
    for seed in range(100):
        lab = Lab(seed=seed, each=8)
        found = at_equal([lab.run("ga", ways=own)], lab.baselines(), resamples=200)
        for name, true in (("harm", 0.05 * gap / 0.1), ("updates", gap / 0.1)):
            low, high = found.estimate(name, "books", "ga").interval
            hit[name] += low <= true <= high
    assert all(86 <= count <= 100 for count in hit.values()), hit


def test_more_documents_give_a_narrower_interval() -> None:
    widths = []
    for each in (8, 128):
        lab = Lab(each=each)
        low, high = (
            at_equal([lab.run("ga")], lab.baselines(), resamples=200)
            .estimate("updates", "books", "ga")
            .interval
        )
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_interval_grows_with_the_difference_between_seeds() -> None:
    runs = [LAB.run("ga", seed=seed) for seed in (0, 6, 12)]  # 30 % faster each
    both = []
    for some in (runs[1:2], runs):
        estimate = at_equal(some, LAB.baselines(), resamples=400).estimate("updates", "books", "ga")
        both.append(estimate.interval[1] - estimate.interval[0])
    assert both[1] > 1.5 * both[0]


def test_the_value_is_the_mean_over_seeds_then_over_models() -> None:
    runs = [LAB.run("ga", seed=s) for s in (0, 1, 2)] + [LAB.run("ga", base="second")]
    found = at_equal(runs, LAB.baselines(), resamples=10)
    values = [p.updates for p in found.points if p.base == "vanilla"]
    other = next(p.updates for p in found.points if p.base == "second")
    expected = (np.mean(values) + other) / 2
    assert found.estimate("updates", "books", "ga").value == pytest.approx(expected)
    assert found.estimate("updates", "books", "ga", base="second").value == pytest.approx(other)


def test_a_run_that_went_on_has_no_interval() -> None:
    """Its documents are those of its end, not of its crossing."""
    run = LAB.run("ga", stop=False, updates=20)
    estimate = at_equal([run], LAB.baselines(), resamples=10).estimate(HARM, "books", "ga")
    assert math.isfinite(estimate.value) and all(map(math.isnan, estimate.interval))


def test_drawn_aucs_are_aucs_of_the_documents_drawn() -> None:
    members, others = np.array([1.0, 2.0, 2.0]), np.array([0.0, 2.0])
    drawn, drawn_others = np.array([[1, 1, 1], [0, 3, 0]]), np.array([[1, 1], [0, 2]])
    found = drawn_aucs(members, others, drawn, drawn_others)
    assert found == pytest.approx([auc(members, others), 0.5])


# ---- methods


def study(**which: Any) -> list[Record]:
    return equal.equal_study(**which)


def test_of_several_rates_the_finest_that_got_there_counts() -> None:
    runs = [LAB.run("ga", exposure=e, rate=r, updates=20) for e in (1, 16) for r in (1e-4, 2.5e-5)]
    found = at_equal(runs, LAB.baselines(), resamples=10)
    assert found.reached("books", "ga") == (3, 4)  # sixteen times read, slowly: too far
    finest = {p.exposure: p.run.spec["learning_rate"] for p in found.finest().points}
    assert finest == {1: 2.5e-5, 16: 1e-4}
    lost = at_equal(runs[3:], LAB.baselines(), resamples=10).finest()
    assert lost.reached("books", "ga") == (0, 1)


def test_the_order_of_methods_is_the_one_that_was_put_in() -> None:
    domains = ("arxiv", "books")
    found = at_equal(study(domains=domains, seeds=(0,)), equal.baselines(domains), resamples=50)
    for domain, base in itertools.product(domains, (None, "vanilla", "second")):
        for measure in MEASURES:
            assert found.order(measure, domain, base=base) == list(BEST_FIRST)
    rho, methods = found.agreement(DISTANCE, ("arxiv", None), ("books", None))
    assert rho.value == pytest.approx(1.0) and methods == 7
    assert rho.interval[1] == pytest.approx(1.0)
    rho, _ = found.agreement(HARM, ("books", "vanilla"), ("books", "second"))
    assert rho.value == pytest.approx(1.0)


def test_agreement_counts_the_methods_that_both_sides_have() -> None:
    runs = study(domains=("arxiv",), seeds=(0,), bases=("vanilla",))
    runs += study(domains=("books",), methods=("ga", "adversarial"), seeds=(0,), bases=("vanilla",))
    found = at_equal(runs, equal.baselines(("arxiv", "books")), resamples=10)
    rho, methods = found.agreement(HARM, ("arxiv", None), ("books", None))
    assert methods == 2 and math.isnan(rho.value)


def test_spearman_is_scipy_s() -> None:
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 5, 7)).round(1)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(expected)
    assert math.isnan(spearman(np.array([[1, 2, math.nan]]), np.array([[1, 2, 3]]))[0])


def test_the_band_is_of_the_retrained_models() -> None:
    band = band_of(LAB.baselines(), "books")
    means = [LAB.mean(LAB.nll(f"oracle{s}", "forget"), "forget") for s in ("", "-s1", "-s2")]
    assert band.spread() == pytest.approx(max(means) - min(means))
    assert len(band.distances) == 2 and band.floor.value == pytest.approx(np.mean(band.distances))
    low, high = band.floor.interval
    assert low < band.floor.value < high
    alone = band_of([ORACLE], "books")
    assert math.isnan(alone.spread()) and math.isnan(alone.floor.value)


# ---- leeway


def path(off: list[float], harm: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    harms = np.array([[h, 0.0, -1.0] for h in harm])
    return np.arange(len(off), dtype=float), np.array(off), harms


WITHIN = Tolerance(forgetting=0.25, harm=0.1)


@pytest.mark.parametrize(
    ("off", "harm", "low", "high"),
    [
        ([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], 0.75, 1.25),  # forgetting bounds both ends
        ([-1.0, 1.0], [0.0, 0.0], 0.375, 0.625),  # between two probes
        ([-1.0, 0.0, 1.0], [0.0, 0.1, 0.2], 0.75, 1.0),  # harm bounds the upper end
        ([-1.0, 0.0, 1.0], [0.2, 0.2, 0.2], 0.0, 0.0),  # harmful from the start
        ([-1.0, -0.5, -0.4], [0.0, 0.2, 0.3], 0.0, 0.0),  # too harmful before it has forgotten
        ([-1.0, math.inf], [0.0, math.inf], 0.0, 0.0),  # broken at once
        ([-1.0, 0.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0], 0.75, 1.25),  # the longest of two
    ],
)
def test_a_stretch_is_where_forgetting_and_harm_are_within_tolerance(
    off: list[float], harm: list[float], low: float, high: float
) -> None:
    found = stretch_within(path(off, harm), WITHIN)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "off", [[-1.0, -0.5], [-1.0, 0.1], [-0.2, 1.0], [-1.0], [0.3, 1.0], [math.inf, math.inf]]
)
def test_a_path_that_does_not_cross_the_tolerance_has_no_known_width(off: list[float]) -> None:
    assert math.isnan(stretch_within(path(off, [0.0] * len(off)), WITHIN).width)


def test_leeway_is_what_the_exact_runs_have() -> None:
    """Speed s covers the way w in w/s updates, so a quarter of it either way is w/2s of them."""
    rates = (0.5e-4, 1e-4, 2e-4, 4e-4)
    gentle = {"ga": way(0.05, 0.0, 0.01)}
    lab = Lab(spread=0.0)
    runs = [lab.run("ga", rate=r, stop=False, updates=24, ways=gentle) for r in rates]
    (found,) = leeways(runs, lab.baselines(), Tolerance(0.25, 1.0))
    w = lab.way_to_go()
    for rate in rates:
        stretch = found.updates[rate]
        assert stretch.width == pytest.approx(0.5 * w / (0.05 * rate / 1e-4))
        assert stretch.high / stretch.low == pytest.approx(1.25 / 0.75)
    assert found.rate and all(x >= 0 for x in found.widths(RATE).values())
    # Fine steps in the rate leave ln(1.25 / 0.75) of it, whatever the number of updates.
    fine = [lab.run("ga", rate=r, stop=False, updates=8, ways=gentle) for r in _steps(1e-4, 1e-3)]
    (found,) = leeways(fine, lab.baselines(), Tolerance(0.25, 1.0))
    known = found.widths(RATE)
    assert known and list(known.values()) == pytest.approx(
        [math.log(1.25 / 0.75)] * len(known), 0.02
    )


def _steps(low: float, high: float, count: int = 25) -> list[float]:
    return [float(x) for x in np.geomspace(low, high, count)]


def test_a_run_that_diverged_is_out_of_tolerance_from_there_on() -> None:
    run = LAB.run("ga", stop=False, updates=24)
    broken = replace(run, status="diverged", diverged_at=3, trajectory=run.trajectory[:3])
    (found,) = leeways([broken], LAB.baselines(), Tolerance(0.25, 1.0))
    assert found.updates[1e-4] == Stretch(0.0, 0.0)


def some(method: str, domain: str, seed: int, updates: float, rate: float) -> Leeway:
    """A leeway of so many updates, and so much of the logarithm of the rate."""
    return Leeway(
        domain, method, "vanilla", seed, {1e-4: Stretch(0, updates)}, {8: Stretch(0, rate)}
    )


def many(a: tuple[float, float], b: tuple[float, float], seeds: int = 3) -> list[Leeway]:
    domains = ("arxiv", "books")
    return [
        some(name, d, s, *(x * (1 + 0.01 * s) for x in widths))
        for d in domains
        for s in range(seeds)
        for name, widths in (("one", a), ("other", b))
    ]


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (many((4.0, 0.5), (2.0, 0.3)), "holds"),
        (many((2.0, 0.3), (4.0, 0.5)), "the opposite holds"),
        (many((4.0, 0.3), (2.0, 0.5)), UNDECIDED),  # wider in one way, narrower in the other
        (many((2.0, 0.3), (2.0, 0.3)), UNDECIDED),
        (many((4.0, 0.5), (2.0, 0.3), seeds=1), UNDECIDED),  # one pair on a domain: no interval
        ([], UNDECIDED),
    ],
)
def test_robustness_is_decided_by_width_and_with_the_methods_exchanged(
    found: list[Leeway], word: str
) -> None:
    assert verdict(lambda a, b: has_more_leeway(found, a, b), "one", "other") == word


def test_a_test_that_both_pass_or_neither_decides_nothing() -> None:
    """As the count of C3 did: more usable settings in one domain, fewer in another."""
    assert verdict(lambda a, b: True, "one", "other") == UNDECIDED
    assert verdict(lambda a, b: False, "one", "other") == UNDECIDED


def test_leeway_is_compared_at_the_same_settings_of_the_same_model_and_seed() -> None:
    found = [
        Leeway("books", "one", "vanilla", 0, {1e-4: Stretch(0, 5), 2e-4: Stretch(0, 2)}, {}),
        Leeway("books", "other", "vanilla", 0, {2e-4: Stretch(0, 1), 4e-4: Stretch(0, 9)}, {}),
        Leeway("books", "other", "second", 0, {1e-4: Stretch(0, 1)}, {}),
    ]
    assert more_leeway(found, "one", "other", UPDATES).value == 1.0
    assert math.isnan(more_leeway(found, "one", "other", RATE).value)


def test_settings_where_neither_has_any_leeway_do_not_count() -> None:
    nothing = Stretch(0.0, 0.0)
    found = [
        Leeway("books", "one", "vanilla", 0, {1e-4: Stretch(0, 3), 1e-2: nothing}, {}),
        Leeway("books", "other", "vanilla", 0, {1e-4: Stretch(0, 1), 1e-2: nothing}, {}),
    ]
    assert more_leeway(found, "one", "other", UPDATES).value == 2.0
