"""How far the target is from the truth, by number of documents, and where stopping by it ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import synthetic
from synthetic import base, drawn, probed, spoilt

from unlearnlib.book.target_check import (
    EarlyStop,
    early_stops,
    early_stops_in_words,
    early_stops_table,
    late_in_words,
    target_check,
    target_ratios,
    target_sizes,
    target_sizes_in_words,
    target_sizes_table,
)
from unlearnlib.store import Record
from unlearnlib.study import SIZES

BASELINES = synthetic.baselines()


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


@pytest.mark.parametrize("x", [math.nan, math.inf])
def test_the_target_can_be_drawn_without_an_oracle_or_numbers(x: float) -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    drawn(target_check(vanilla))
    drawn(target_check([spoilt(b, x) for b in BASELINES]))


@pytest.mark.parametrize("x", [math.nan, math.inf])
def test_the_target_by_size_can_be_drawn_without_an_oracle_or_numbers(x: float) -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    assert "no oracle" in target_sizes(vanilla, (1, 8)).alt
    drawn(target_sizes(vanilla, (1, 8)))
    drawn(target_sizes([spoilt(b, x) for b in BASELINES], (1, 8)))
