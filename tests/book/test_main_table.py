"""Cells are means over seeds, and sentences follow the records whichever way those come out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import base, changed, drawn, probed

from unlearnlib.book.main_table import (
    at_equal_forgetting,
    at_rate,
    equal_forgetting_in_words,
    equal_forgetting_table,
    findings,
    findings_in_words,
    forget_vs_general,
    main_table,
)
from unlearnlib.book.membership import membership_in_words
from unlearnlib.book.records import KL, select
from unlearnlib.looks import BASELINE_TITLES
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.study import RATES
from unlearnlib.text import mean_and_spread, with_spread

BASELINES = synthetic.baselines()

MAIN = synthetic.main_study()


def test_the_main_table_has_every_model_of_every_domain() -> None:
    table = main_table(MAIN, BASELINES)
    assert len(table) == 3 * (3 + 7)
    assert list(table.index.get_level_values(0).unique()) == ["arXiv", "GitHub", "Books"]


def test_the_cells_of_the_main_table_are_the_means_of_the_records() -> None:
    seeds = [r.metrics["forget/perplexity"] for r in select(MAIN, "books", "ga")]
    cell = main_table(MAIN, BASELINES).loc[("Books", "GA"), ("Perplexity", "forget")]
    assert cell == with_spread(seeds)
    mean, spread = mean_and_spread(seeds)
    assert mean == pytest.approx(np.mean(seeds)) and spread == pytest.approx(np.std(seeds, ddof=1))


def test_a_method_that_diverged_says_so_in_its_row() -> None:
    run = synthetic.run("books", "ga", rate=RATES[-1])
    assert run.status == "diverged"
    table = main_table([run], BASELINES)
    assert ("Books", "GA (diverged: 1 of 1)") in table.index
    assert table.loc[("Books", "GA (diverged: 1 of 1)"), ("Perplexity", "forget")] == "∞"


def test_missing_methods_and_a_missing_oracle_leave_rows_out() -> None:
    some = [r for r in MAIN if r.spec["method"] != "adversarial"]
    vanilla = [r for r in BASELINES if r.spec["baseline"] == "vanilla"]
    names = main_table(some, vanilla).index.get_level_values(1)
    assert "Adversarial labels" not in names
    assert BASELINE_TITLES["oracle"] not in names


def test_findings_count_runs_methods_and_seeds() -> None:
    found = findings(MAIN, BASELINES)
    assert (found["runs"], found["methods"], found["seeds"], found["domains"]) == (63, 7, 3, 3)


def test_the_closest_method_has_the_least_divergence_from_the_oracle() -> None:
    runs = [
        changed(r, oracle_kl__forget=0.001) if r.spec["method"] == "ga_kl_general" else r
        for r in MAIN
    ]
    found = findings(runs, BASELINES)
    assert {found[f"{d}.closest"] for d in DOMAINS} == {"GA + KL, general"}
    assert "the nearest is GA + KL, general, at 0.00100" in findings_in_words(found)


@pytest.mark.parametrize(
    ("divergences", "said"),
    [
        ((0.5, 0.6), "No method ends nearer"),
        ((0.5, 0.1), "1 method ends nearer"),
        ((0.2, 0.1), "2 methods end nearer"),
    ],
)
def test_words_say_whether_anything_ends_nearer_to_the_oracle_than_doing_nothing(
    divergences: tuple[float, float], said: str
) -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    pair = [changed(vanilla, oracle_kl__forget=0.5), oracle]
    runs = [
        changed(synthetic.run("books", method), oracle_kl__forget=x)
        for method, x in zip(("ga", "ga_kl_general"), divergences, strict=True)
    ]
    assert f"{said} to the oracle" in findings_in_words(findings(runs, pair))


@pytest.mark.parametrize(
    ("divergences", "verdict"),
    [
        ((0.1, 0.1, 0.1), "closer"),
        ((0.9, 0.9, 0.9), "farther"),
        ((0.1, 0.1, 0.9), "no clear difference"),
        ((math.nan,) * 3, "unknown"),
    ],
)
def test_a_difference_between_methods_is_clear_only_if_every_seed_agrees(
    divergences: tuple[float, ...], verdict: str
) -> None:
    runs = [changed(synthetic.run("books", "ga", s), oracle_kl__forget=0.5) for s in range(3)]
    runs += [
        changed(synthetic.run("books", "ga_gd_in_dist", s), oracle_kl__forget=x)
        for s, x in enumerate(divergences)
    ]
    found = findings(runs, BASELINES)
    assert found["books.gd_against_ga"] == verdict
    assert "with the one seed" not in findings_in_words(found)
    alone = findings_in_words(findings([runs[0], runs[3]], BASELINES))
    assert "for every seed" not in alone and ("with the one seed" in alone) == (
        verdict != "unknown"
    )


def test_words_follow_the_side_on_which_the_target_lies() -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    for target, side in ((11.0, "10.0 % above"), (9.0, "10.0 % below"), (10.0, "equal to")):
        pair = [
            changed(vanilla, approximate__perplexity=target),
            changed(oracle, forget__perplexity=10.0),
        ]
        found = findings([synthetic.run("books", "ga")], pair)
        assert side in findings_in_words(found)


def test_words_set_a_distance_beside_what_training_twice_costs() -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    pair = [changed(vanilla, oracle_kl__approximate=0.123), oracle]
    found = findings([synthetic.run("books", "ga")], pair)
    assert found["books.kl.floor"] == 0.123
    assert "(0.123 on unseen documents)" in findings_in_words(found)


def test_words_do_not_fail_on_a_study_that_went_wrong() -> None:
    broken = [replace(r, metrics=dict.fromkeys(r.metrics, math.nan)) for r in MAIN]
    found = findings(broken, [])
    assert found["books.closest"] == "none"
    assert "no oracle" in findings_in_words(found)
    assert membership_in_words(found)


REGION = synthetic.region_study(("books",))


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


def test_a_slice_takes_the_nearest_rate_of_the_grid() -> None:
    assert {r.spec["learning_rate"] for r in at_rate(REGION, 2.5e-4)} == {3e-4}
    assert at_rate([], 1e-3) == []


def test_a_diverged_run_is_named_in_the_alternative_text() -> None:
    run = synthetic.run("books", "ga", rate=RATES[-1])
    figure = forget_vs_general([run], BASELINES)
    assert "GA infinite (diverged)" in figure.alt


def test_a_method_of_ones_own_gets_a_style_and_keeps_its_name() -> None:
    run = synthetic.run("books", "ga")
    own = replace(run, spec={**run.spec, "method": "my_method"})
    figure = forget_vs_general([own], BASELINES)
    assert "my_method" in figure.alt
    assert drawn(figure)
