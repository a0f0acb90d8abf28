"""Baselines, documents, crossings and intervals, as all chapters read them from records."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import changed, probed, scored

from unlearnlib.book.records import (
    auc_with_interval,
    baseline_record,
    baseline_value,
    bootstrap_perplexity,
    by_document,
    crossing,
    documents_in,
    first_perplexity,
    within_factor,
)
from unlearnlib.metrics.membership import auc, bootstrap_auc

BASELINES = synthetic.baselines()

MAIN = synthetic.main_study()


def test_the_target_is_vanilla_on_the_approximate_set() -> None:
    vanilla = baseline_record(BASELINES, "books", "vanilla")
    assert vanilla is not None
    for name in ("perplexity", "accuracy", "verbatim_share"):
        target = baseline_value(BASELINES, "books", "target", f"forget/{name}")
        assert target == vanilla.metrics[f"approximate/{name}"]
    assert math.isnan(baseline_value(BASELINES, "books", "target", "general/perplexity"))


def test_baselines_of_the_model_that_the_runs_started_from_are_preferred() -> None:
    old = replace(BASELINES[0], model_hash=synthetic.key("older"), key=synthetic.key("o"))
    old = changed(old, forget__perplexity=99.0)
    x = baseline_value([old, *BASELINES], "arxiv", "vanilla", "forget/perplexity", MAIN)
    assert x == BASELINES[0].metrics["forget/perplexity"]


@pytest.mark.parametrize("part", ["model_hash", "oracle_hash", "tokenizer_hash"])
def test_scores_that_rest_on_something_else_are_no_yardstick(part: str) -> None:
    others = [replace(b, **{part: "f" * 64}) for b in BASELINES]
    for which in ("vanilla", "oracle", "target"):
        assert math.isnan(baseline_value(others, "arxiv", which, "forget/perplexity", MAIN))
        assert not math.isnan(baseline_value(others, "arxiv", which, "forget/perplexity"))


@pytest.mark.parametrize(
    ("x", "level", "within"),
    [
        (10.0, 10.0, True),
        (15.0, 10.0, True),  # the factor itself, either way
        (10.0, 15.0, True),
        (15.01, 10.0, False),
        (6.66, 10.0, False),
        (0.0, 10.0, False),
        (-10.0, 10.0, False),
        (math.nan, 10.0, False),
        (10.0, math.nan, False),
        (math.inf, math.inf, False),
    ],
)
def test_within_a_factor_is_meant_either_way_and_of_perplexities_only(
    x: float, level: float, within: bool
) -> None:
    assert within_factor(x, level, 1.5) is within


def test_chunks_are_counted_to_their_documents_in_the_order_of_appearance() -> None:
    documents, of = by_document(["b#0", "a#1", "b#1", "c", "a#0", "x#y#2"])
    assert documents == ["b", "a", "c", "x#y"]
    assert of.tolist() == [0, 1, 0, 2, 1, 3]
    documents, of = by_document([])
    assert documents == [] and of.tolist() == []


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


def test_a_run_crosses_a_level_between_probes_evenly_in_the_logarithm() -> None:
    run = probed(1.0, 2.0, 8.0)
    assert crossing(run, 4.0) == pytest.approx(1.5)
    assert crossing(run, 0.5) == 0.0
    assert crossing(run, 8.0) == pytest.approx(2.0)
    assert crossing(run, 9.0) == math.inf
    assert crossing(probed(1.0, math.nan, math.inf), 2.0) == 2.0
    assert math.isnan(crossing(run, math.nan))
    assert math.isnan(crossing(synthetic.run("books", "ga"), 2.0))


def test_the_bootstrap_interval_covers_the_perplexity_it_is_of() -> None:
    record = BASELINES[0]
    kept = record.documents["forget"]
    middle = math.exp(np.average(kept["nll"], weights=kept["tokens"]))
    low, high = bootstrap_perplexity(record, "forget")
    assert low < middle < high


def test_documents_that_are_all_alike_have_an_interval_of_no_width() -> None:
    record = replace(
        BASELINES[0],
        documents={"forget": {"id": ["a#0", "b#0"], "tokens": [10, 20], "nll": [2.0, 2.0]}},
    )
    assert bootstrap_perplexity(record, "forget") == pytest.approx((math.e**2,) * 2)


def test_chunks_of_one_document_are_drawn_together() -> None:
    columns = {"tokens": [10, 10], "nll": [1.0, 3.0]}
    one = replace(BASELINES[0], documents={"forget": {"id": ["a#0", "a#1"], **columns}})
    two = replace(BASELINES[0], documents={"forget": {"id": ["a#0", "b#0"], **columns}})
    low, high = bootstrap_perplexity(one, "forget")
    assert low == high == pytest.approx(math.e**2)
    assert bootstrap_perplexity(two, "forget") == pytest.approx((math.e, math.e**3))


def test_the_interval_of_the_auc_counts_documents_and_not_their_chunks() -> None:
    forget, others = [0.1, 0.2, 0.9, 1.4], [0.0, 0.3, 0.8, 1.0]
    members, rest = np.array(forget), np.array(others)
    found = auc_with_interval(scored("ga", forget, others), "loss")
    assert found == pytest.approx((auc(members, rest), *bootstrap_auc(members, rest)))
    assert all(map(math.isnan, auc_with_interval(scored("ga", [math.nan], others), "loss")))
    assert all(map(math.isnan, auc_with_interval(scored("ga", forget, []), "loss")))
