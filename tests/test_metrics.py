"""Metrics on cases worked out by hand, against scikit-learn, and against a real greedy decode.

pytest -q tests/test_metrics.py
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from unlearnlib import metrics
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.distance import mean_kl, target_gap
from unlearnlib.metrics.extraction import (
    extractable_share,
    extraction,
    longest_verbatim_run,
    verbatim_share,
)
from unlearnlib.metrics.membership import (
    KS,
    attack_scores,
    auc,
    best_balanced_accuracy,
    bootstrap_auc,
    loss_score,
    membership,
    min_k,
    min_k_plus_plus,
    roc,
    tpr_at_fpr,
    zlib_score,
)
from unlearnlib.metrics.perplexity import (
    accuracy,
    chunk_accuracy,
    chunk_perplexity,
    nll,
    perplexity,
)
from unlearnlib.metrics.registry import METRICS, metric
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.metrics.utility import cloze, last_token_accuracy, last_word_accuracy


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Division by zero, overflow and means of nothing are handled, not warned about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def make_scores(
    logprobs: Sequence[Sequence[float]],
    top1: Sequence[Sequence[bool]] | None = None,
    mean: float = -2.0,
    variance: float = 1.0,
    zlib_bytes: int = 50,
    kl: float | None = None,
) -> TokenScores:
    """TokenScores from the log-probabilities of each chunk; the rest is constant."""
    lengths = [len(chunk) for chunk in logprobs]
    flat = np.array([value for chunk in logprobs for value in chunk], dtype=np.float32)
    right = np.array([value for chunk in top1 or [] for value in chunk], dtype=bool)
    return TokenScores(
        ids=tuple(f"document{i}#0" for i in range(len(lengths))),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        tokens=np.arange(len(flat), dtype=np.int32),
        logprob=flat,
        top1=np.zeros(len(flat), dtype=bool) if top1 is None else right,
        mean=np.full(len(flat), mean, dtype=np.float32),
        variance=np.full(len(flat), variance, dtype=np.float32),
        zlib_bytes=np.full(len(lengths), zlib_bytes, dtype=np.int64),
        kl=None if kl is None else np.full(len(flat), kl, dtype=np.float32),
    )


def make_top1(*chunks: str) -> TokenScores:
    """TokenScores from strings such as "110": 1 where the prediction was right."""
    return make_scores(
        [[-1.0] * len(chunk) for chunk in chunks],
        [[mark == "1" for mark in chunk] for chunk in chunks],
    )


NOTHING = make_scores([])
# Small integers make ties frequent.
ratings = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30).map(np.array)
log_probabilities = st.floats(-20, 0, width=32)
chunk_lists = st.lists(st.lists(log_probabilities, max_size=12), min_size=1, max_size=6)


# ---- perplexity and accuracy -------------------------------------------------------------------


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    scores = make_scores([[-math.log(50)] * 3, [-math.log(50)] * 7])
    assert nll(scores) == pytest.approx(math.log(50))
    assert perplexity(scores) == pytest.approx(50)
    assert chunk_perplexity(scores) == pytest.approx(50)


def test_per_token_and_per_chunk_averages_differ_when_lengths_differ() -> None:
    scores = make_scores([[-4.0], [-1.0, -1.0, -1.0]], [[False], [True, True, False]])
    assert perplexity(scores) == pytest.approx(math.exp(7 / 4))
    assert chunk_perplexity(scores) == pytest.approx(math.exp((4 + 1) / 2))
    assert accuracy(scores) == 2 / 4
    assert chunk_accuracy(scores) == pytest.approx((0 + 2 / 3) / 2)


@given(st.lists(st.lists(log_probabilities, min_size=4, max_size=4), min_size=1, max_size=5))
def test_per_token_and_per_chunk_averages_agree_when_lengths_agree(
    chunks: list[list[float]],
) -> None:
    scores = make_scores(chunks)
    assert chunk_perplexity(scores) == pytest.approx(perplexity(scores))


def test_empty_chunks_count_in_no_average() -> None:
    with_empty = make_scores([[], [-1.0, -2.0], [], [-3.0], []])
    without = make_scores([[-1.0, -2.0], [-3.0]])
    assert chunk_perplexity(with_empty) == chunk_perplexity(without)
    assert chunk_accuracy(with_empty) == chunk_accuracy(without)


@pytest.mark.parametrize(
    "metric",
    [
        nll,
        perplexity,
        chunk_perplexity,
        accuracy,
        chunk_accuracy,
        last_token_accuracy,
        lambda scores: last_word_accuracy(scores, np.full((len(scores), 2), -1)),
    ],
)
def test_the_average_of_nothing_is_nan(metric: Callable[[TokenScores], float]) -> None:
    assert math.isnan(metric(NOTHING))
    assert math.isnan(metric(make_scores([[], []])))


def test_perplexity_of_a_diverged_model_is_infinite() -> None:
    for logprob in (-1e4, -math.inf):
        scores = make_scores([[logprob, logprob]])
        assert perplexity(scores) == math.inf
        assert chunk_perplexity(scores) == math.inf


# ---- attacks -----------------------------------------------------------------------------------


def test_loss_is_the_mean_log_probability_and_zlib_relates_the_total_to_the_bytes() -> None:
    scores = make_scores([[-1.0, -3.0], [-2.0, -4.0, -6.0]], zlib_bytes=40)
    assert loss_score(scores).tolist() == [-2.0, -4.0]
    assert zlib_score(scores) == pytest.approx([-4 / 40, -12 / 40])


def test_min_k_is_the_mean_of_the_least_likely_tokens() -> None:
    scores = make_scores([[-1.0, -9.0, -2.0, -7.0, -3.0], [-5.0, -0.5]])
    # floor(0.4 * 5) = 2 tokens of the first chunk; floor(0.4 * 2) = 0, so one of the second.
    assert min_k(scores, 0.4).tolist() == [-8.0, -5.0]


def test_min_k_takes_every_token_that_its_fraction_pays_for() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point, and means 29 tokens.
    scores = make_scores([[-float(i) for i in range(100)]])
    assert min_k(scores, 0.29)[0] == pytest.approx(-np.mean(np.arange(71, 100)))


@given(chunk_lists)
def test_min_k_of_100_percent_is_the_mean(chunks: list[list[float]]) -> None:
    scores = make_scores(chunks)
    np.testing.assert_allclose(min_k(scores, 1.0), loss_score(scores), atol=1e-12)


@given(chunk_lists, st.sampled_from(KS))
def test_min_k_equals_sorting_each_chunk(chunks: list[list[float]], k: float) -> None:
    expected = [
        float(np.mean(sorted(chunk)[: max(1, math.floor(k * len(chunk) + 1e-9))]))
        if chunk
        else math.nan
        for chunk in chunks
    ]
    np.testing.assert_allclose(min_k(make_scores(chunks), k), expected, atol=1e-12)


@given(st.lists(st.lists(log_probabilities, min_size=1, max_size=12), min_size=1, max_size=6))
def test_min_k_rises_with_k(chunks: list[list[float]]) -> None:
    scores = make_scores(chunks)
    rows = np.stack([min_k(scores, k) for k in KS])
    assert (np.diff(rows, axis=0) >= -1e-9).all()


def test_min_k_plus_plus_standardises_before_it_selects() -> None:
    scores = replace(
        make_scores([[-4.0, -3.0]]),
        mean=np.array([-3.5, -1.0], dtype=np.float32),
        variance=np.array([0.25, 4.0], dtype=np.float32),
    )
    # z = (-0.5 / 0.5, -2 / 2): the first is the less likely token, yet both have z = -1.
    assert min_k_plus_plus(scores, 1.0).tolist() == [-1.0]
    unequal = replace(scores, variance=np.array([0.25, 1.0], dtype=np.float32))
    assert min_k(unequal, 0.5).tolist() == [-4.0]
    assert min_k_plus_plus(unequal, 0.5).tolist() == [-2.0]


def test_min_k_plus_plus_of_a_certain_prediction_is_zero_if_right_and_very_low_if_wrong() -> None:
    certain = make_scores([[0.0, 0.0], [0.0, -60.0]], mean=0.0, variance=0.0)
    right, wrong = min_k_plus_plus(certain, 1.0)
    assert right == 0
    assert -math.inf < wrong < -1e4
    uniform = make_scores([[-math.log(7)] * 3], mean=-math.log(7), variance=0.0)
    assert min_k_plus_plus(uniform, 0.5).tolist() == [0.0]


@pytest.mark.parametrize("k", [0.0, -0.1, 1.01, math.nan])
def test_a_fraction_outside_0_to_1_is_refused_by_value(k: float) -> None:
    for attack in (min_k, min_k_plus_plus):
        with pytest.raises(UnlearnError, match=f"k is {k}"):
            attack(make_scores([[-1.0]]), k)


def test_attack_scores_name_every_attack_and_equal_the_single_functions() -> None:
    scores = make_scores([[-1.0, -9.0, -2.0, -7.0], [-5.0, -0.5], []], mean=-3, variance=2)
    attacks = attack_scores(scores)
    percents = (10, 20, 30, 40, 50, 60, 100)
    assert set(attacks) == {"loss", "zlib"} | {
        f"{name}_{percent}" for name in ("min_k", "min_k_pp") for percent in percents
    }
    np.testing.assert_array_equal(attacks["loss"], loss_score(scores))
    np.testing.assert_array_equal(attacks["zlib"], zlib_score(scores))
    for percent in percents:
        np.testing.assert_array_equal(attacks[f"min_k_{percent}"], min_k(scores, percent / 100))
        np.testing.assert_array_equal(
            attacks[f"min_k_pp_{percent}"], min_k_plus_plus(scores, percent / 100)
        )


def test_every_attack_scores_a_more_likely_text_higher() -> None:
    likely, unlikely = make_scores([[-0.5] * 20]), make_scores([[-5.0] * 20])
    higher, lower = attack_scores(likely), attack_scores(unlikely)
    assert all(higher[attack] > lower[attack] for attack in higher)


def test_an_impossible_token_makes_the_lowest_score_and_no_error() -> None:
    members = make_scores([[-math.inf, -1.0]] * 3)
    report = membership(members, make_scores([[-9.0, -1.0]] * 3))
    assert {values["auc"] for values in report.values()} == {0.0}


@pytest.mark.parametrize("field", ["logprob", "mean", "variance"])
def test_a_nan_is_refused_with_the_name_of_its_chunk(field: str) -> None:
    scores = make_scores([[], [-1.0, -2.0], [], [-3.0, -4.0]])
    getattr(scores, field)[2] = np.nan
    with pytest.raises(UnlearnError, match=r"document3#0.*NaN"):
        attack_scores(scores)


def test_a_chunk_without_compressed_length_is_refused_by_name() -> None:
    with pytest.raises(UnlearnError, match="zlib length of chunk 'document0#0' is 0"):
        zlib_score(make_scores([[-1.0]], zlib_bytes=0))


# ---- telling members from non-members ----------------------------------------------------------


def test_auc_counts_the_pairs_that_a_member_wins_and_half_of_the_ties() -> None:
    # Pairs: 3 beats 1 and 2, 2 beats 1 and ties with 2: 3.5 of 4.
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 3.5 / 4


def test_auc_below_one_half_is_reported_unflipped() -> None:
    assert auc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 0
    over_unlearned = make_scores([[-9.0, -8.0]] * 4)
    report = membership(over_unlearned, make_scores([[-1.0, -2.0]] * 4))
    assert report["min_k_50"]["auc"] == 0


@given(ratings, ratings)
def test_auc_agrees_with_scikit_learn(members: np.ndarray, non_members: np.ndarray) -> None:
    labels = np.repeat([1, 0], [len(members), len(non_members)])
    expected = roc_auc_score(labels, np.concatenate([members, non_members]))
    assert auc(members, non_members) == pytest.approx(expected, abs=1e-12)


@given(ratings, ratings)
def test_roc_agrees_with_scikit_learn(members: np.ndarray, non_members: np.ndarray) -> None:
    labels = np.repeat([1, 0], [len(members), len(non_members)])
    expected = roc_curve(labels, np.concatenate([members, non_members]), drop_intermediate=False)
    for ours, theirs in zip(roc(members, non_members), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@given(ratings, ratings)
def test_exchanging_members_and_non_members_mirrors_the_auc(a: np.ndarray, b: np.ndarray) -> None:
    assert auc(a, b) + auc(b, a) == pytest.approx(1, abs=1e-12)


@given(ratings, ratings)
def test_auc_depends_on_the_order_of_scores_alone(a: np.ndarray, b: np.ndarray) -> None:
    lowest = {-4.0: -math.inf}
    a_stretched = np.array([lowest.get(x, math.exp(x)) for x in a])
    b_stretched = np.array([lowest.get(x, math.exp(x)) for x in b])
    assert auc(a_stretched, b_stretched) == auc(a, b)


@given(ratings, ratings, st.floats(0, 1))
def test_tpr_at_fpr_is_the_best_threshold_that_keeps_to_the_rate(
    members: np.ndarray, non_members: np.ndarray, rate: float
) -> None:
    thresholds = [math.inf, *members, *non_members]
    expected = max(np.mean(members >= t) for t in thresholds if np.mean(non_members >= t) <= rate)
    assert tpr_at_fpr(members, non_members, rate) == pytest.approx(expected)


def test_tpr_at_fpr_does_not_interpolate() -> None:
    members, non_members = np.array([4.0, 2.0, 1.0]), np.array([3.0, 0.0])
    assert tpr_at_fpr(members, non_members, 0.49) == pytest.approx(1 / 3)
    assert tpr_at_fpr(members, non_members, 0.5) == 1


@pytest.mark.parametrize("rate", [-0.01, 1.5, math.nan])
def test_a_rate_outside_0_to_1_is_refused_by_value(rate: float) -> None:
    with pytest.raises(UnlearnError, match=f"rate is {rate}"):
        tpr_at_fpr(np.ones(2), np.zeros(2), rate)


def test_balanced_accuracy_weighs_both_sides_equally() -> None:
    # At threshold 2 both members are caught, and 1 of 4 non-members.
    members, non_members = np.array([2.0, 3.0]), np.array([0.0, 1.0, 1.0, 2.5])
    assert best_balanced_accuracy(members, non_members) == (1 + 3 / 4) / 2


def test_balanced_accuracy_is_one_half_where_members_score_lower() -> None:
    assert best_balanced_accuracy(np.zeros(5), np.ones(5)) == 0.5


def test_membership_leaves_out_chunks_without_targets() -> None:
    forget = make_scores([[], [-1.0, -2.0], [-3.0]])
    approximate = make_scores([[-2.0], []])
    report = membership(forget, approximate)
    assert report == membership(forget.select([1, 2]), approximate.select([0]))
    assert report["loss"] == {
        "auc": 0.5,
        "balanced_accuracy": 0.75,
        "tpr_at_5_fpr": 0.5,
        "tpr_at_1_fpr": 0.5,
    }


def test_membership_of_an_empty_side_is_nan() -> None:
    something = make_scores([[-1.0, -2.0]])
    for forget, approximate in ((NOTHING, something), (something, NOTHING), (NOTHING, NOTHING)):
        report = membership(forget, approximate)
        values = [value for row in report.values() for value in row.values()]
        assert len(values) == 16 * 4
        assert all(math.isnan(value) for value in values)


@pytest.mark.parametrize("function", [auc, roc, best_balanced_accuracy])
def test_a_nan_score_is_refused_with_its_position(function: Callable[..., object]) -> None:
    with pytest.raises(UnlearnError, match="score of non-member 1 is NaN"):
        function(np.array([1.0]), np.array([0.0, np.nan]))


def test_bootstrap_interval_covers_the_auc_and_repeats_by_seed() -> None:
    rng = np.random.default_rng(7)
    members, non_members = rng.normal(0.7, 1, 60), rng.normal(0, 1, 80)
    low, high = bootstrap_auc(members, non_members)
    assert low < auc(members, non_members) < high
    assert bootstrap_auc(members, non_members) == (low, high)
    assert bootstrap_auc(members, non_members, seed=1) != (low, high)
    narrow = bootstrap_auc(members, non_members, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_interval_agrees_with_resampling_one_document_at_a_time() -> None:
    rng = np.random.default_rng(3)
    # So lopsided that confusing the two sides' sizes would change the width two- or threefold.
    members, non_members = rng.integers(0, 9, 15) + 1.0, rng.integers(0, 9, 150) + 0.0
    aucs = [auc(rng.choice(members, 15), rng.choice(non_members, 150)) for _ in range(2000)]
    interval = bootstrap_auc(members, non_members, resamples=4000)
    # The standard error of such a quantile is about 0.005.
    assert interval == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=0.02)


def test_bootstrap_of_separable_scores_has_no_width_and_of_nothing_no_value() -> None:
    assert bootstrap_auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1, 1)
    assert np.isnan(bootstrap_auc(np.zeros(0), np.ones(3))).all()


@pytest.mark.parametrize("setting", [{"resamples": 0}, {"level": 1.0}, {"level": math.nan}])
def test_bootstrap_refuses_settings_by_name(setting: dict[str, float]) -> None:
    with pytest.raises(UnlearnError, match=next(iter(setting))):
        bootstrap_auc(np.ones(2), np.ones(2), **setting)  # type: ignore[arg-type]


# ---- extraction --------------------------------------------------------------------------------

# A model as a table: NEXT[a, b] is the most likely token after the tokens a, b.
VOCABULARY = 5
NEXT = np.random.default_rng(11).integers(0, VOCABULARY, (VOCABULARY, VOCABULARY))


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    """`count` tokens generated greedily by the table after `prompt`, one at a time."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(NEXT[text[-2] if len(text) > 1 else 0, text[-1]]))
    return text[len(prompt) :]


def make_text(first: int, deviations: Sequence[int]) -> list[int]:
    """A text that follows the table, except where a deviation is not 0."""
    text = [first]
    for deviation in deviations:
        text.append((greedy(text, 1)[0] + deviation) % VOCABULARY)
    return text


def teacher_forced(texts: Sequence[Sequence[int]]) -> TokenScores:
    """What scoring the texts with the table leaves: top1 from the true tokens before each."""
    right = [[greedy(text[:i], 1)[0] == text[i] for i in range(1, len(text))] for text in texts]
    return make_scores([[-1.0] * (len(text) - 1) for text in texts], right)


texts = st.lists(
    st.builds(
        make_text,
        st.integers(0, VOCABULARY - 1),
        # Two thirds of the tokens are those that the table predicts.
        st.lists(st.sampled_from([0] * 8 + [1, 2, 3, 4]), max_size=25),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200)
@given(texts, st.integers(0, 8))
def test_verbatim_share_is_what_greedy_decoding_reproduces(
    documents: list[list[int]], prefix: int
) -> None:
    expected = []
    for text in documents:
        prompt, rest = text[: prefix + 1], text[prefix + 1 :]
        generated = greedy(prompt, len(rest))
        same = 0
        while same < len(rest) and generated[same] == rest[same]:
            same += 1
        expected.append(same / len(rest) if rest else np.nan)
    np.testing.assert_array_equal(verbatim_share(teacher_forced(documents), prefix), expected)


def test_verbatim_share_ends_at_the_first_mistake_after_the_prefix() -> None:
    scores = make_top1("0011011", "1111", "11", "000", "")
    expected = [2 / 5, 1, np.nan, 0, np.nan]
    np.testing.assert_array_equal(verbatim_share(scores, prefix=2), expected)


def test_runs_do_not_cross_from_one_chunk_into_the_next() -> None:
    scores = make_top1("0111", "", "110", "1111", "", "000")
    assert longest_verbatim_run(scores).tolist() == [3, 0, 2, 4, 0, 0]


def test_extractable_share_counts_tokens_in_long_runs_only() -> None:
    scores = make_top1("1101110111", "11", "111", "")
    expected = [6 / 10, 0, 1, np.nan]
    np.testing.assert_array_equal(extractable_share(scores, span=3), expected)


@given(st.lists(st.text("01", max_size=20), min_size=1, max_size=5), st.integers(1, 5))
def test_runs_equal_splitting_at_the_mistakes(chunks: list[str], span: int) -> None:
    scores = make_top1(*chunks)
    runs = [[len(run) for run in chunk.split("0")] for chunk in chunks]
    assert longest_verbatim_run(scores).tolist() == [max(lengths) for lengths in runs]
    shares = [
        sum(n for n in lengths if n >= span) / len(chunk) if chunk else np.nan
        for lengths, chunk in zip(runs, chunks, strict=True)
    ]
    np.testing.assert_allclose(extractable_share(scores, span), shares)


def test_extraction_means_leave_out_chunks_that_end_before_the_prefix_does() -> None:
    scores = make_top1("0110", "11", "")
    assert extraction(scores, prefix=2, span=2) == {
        "verbatim_share": 0.5,
        "longest_verbatim_run": 2.0,
        "extractable_share": (0.5 + 1) / 2,
    }
    assert all(math.isnan(value) for value in extraction(NOTHING).values())


def test_extraction_refuses_a_negative_prefix_and_an_empty_span() -> None:
    with pytest.raises(UnlearnError, match="prefix is -1"):
        verbatim_share(make_top1("1"), prefix=-1)
    with pytest.raises(UnlearnError, match="span is 0"):
        extractable_share(make_top1("1"), span=0)


# ---- cloze and the last token ------------------------------------------------------------------


def test_cloze_case_worked_out_by_hand() -> None:
    # Question 1: prompt of one target; means -1.0, -1.5 (total -1.5), so the right one wins
    # although the wrong one has the higher total. Question 2: the wrong option wins.
    scores = make_scores(
        [[-9.0, -1.0, -1.0], [-9.0, -1.5], [-4.0, -3.0], [-0.5, -1.0]],
        [[False, True, True], [True, True], [True, False], [True, True]],
    )
    assert cloze(scores, np.array([1, 1, 0, 1]), options=2) == {
        "choice_accuracy": 0.5,
        "exact": 0.5,
        "answer_logprob": (-2.0 - 7.0) / 2,
        "questions": 2.0,
    }


def test_a_right_answer_is_exact_only_if_each_of_its_tokens_is_predicted() -> None:
    marks = [[False, True, True], [True, True, False], [False, True, False], [True, True, True]]
    scores = make_scores([[-1.0] * 3] * 4, marks)
    assert cloze(scores, np.array([1, 1, 1, 1]), options=2)["exact"] == 0.5


@given(st.integers(2, 5), st.integers(1, 4))
def test_cloze_ties_count_as_chance(options: int, questions: int) -> None:
    scores = make_scores([[-1.0, -2.0]] * (options * questions))
    report = cloze(scores, np.ones(options * questions, dtype=int), options)
    assert report["choice_accuracy"] == pytest.approx(1 / options)
    assert report["questions"] == questions


def test_cloze_without_questions_is_nan_and_with_nan_stays_nan() -> None:
    report = cloze(NOTHING, np.zeros(0, dtype=int), options=4)
    assert report["questions"] == 0
    assert math.isnan(report["choice_accuracy"])
    broken = make_scores([[-1.0], [math.nan]])
    assert math.isnan(cloze(broken, np.zeros(2, int), options=2)["choice_accuracy"])


@pytest.mark.parametrize(
    ("starts", "options", "message"),
    [
        ([0, 0, 0, 0], 1, "options is 1"),
        ([0, 0, 0, 0], 3, "4 chunks do not divide"),
        ([0, 0, 0], 2, r"shape \(3,\)"),
        ([0, 2, 0, 0], 2, "document1#0.*begins at target 2"),
        ([0, 0, -1, 0], 2, "document2#0.*begins at target -1"),
    ],
)
def test_cloze_refuses_what_are_no_questions(starts: list[int], options: int, message: str) -> None:
    with pytest.raises(UnlearnError, match=message):
        cloze(make_scores([[-1.0, -1.0]] * 4), np.array(starts), options)


def test_a_last_word_counts_if_all_of_its_tokens_are_predicted() -> None:
    scores = make_top1("0011", "0110", "011", "1")
    # Tokens 2 and 3; 2 and 3, one of them wrong; the middle one alone; and a chunk without a word.
    words = np.array([[2, 4], [2, 4], [1, 2], [-1, -1]])
    assert last_word_accuracy(scores, words) == 2 / 3


@pytest.mark.parametrize("words", [[[0, 1]], [[0, 3], [0, 1]], [[1, 1], [0, 1]]])
def test_a_last_word_that_is_no_part_of_its_chunk_is_refused(words: list[list[int]]) -> None:
    with pytest.raises(UnlearnError, match=r"for 2 chunks|give targets of the chunk"):
        last_word_accuracy(make_top1("01", "11"), np.array(words))


def test_last_token_accuracy_judges_the_last_target_of_each_chunk() -> None:
    assert last_token_accuracy(make_top1("001", "110", "", "1", "0")) == 2 / 4


# ---- distance ----------------------------------------------------------------------------------


def test_mean_kl_is_the_mean_over_tokens() -> None:
    scores = make_scores([[-1.0], [-1.0, -1.0, -1.0]], kl=0.0)
    scores.kl[:] = [4.0, 0.0, 0.0, 2.0]  # type: ignore[index]
    assert mean_kl(scores) == 1.5
    assert math.isnan(mean_kl(make_scores([], kl=0.0)))


def test_mean_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(UnlearnError, match="reference"):
        mean_kl(make_scores([[-1.0]]))


def test_twice_and_half_the_target_are_equally_far_from_it() -> None:
    assert target_gap(10, 10) == 0
    assert target_gap(20, 10) == pytest.approx(math.log(2))
    assert target_gap(5, 10) == pytest.approx(math.log(2))
    assert target_gap(math.inf, 10) == math.inf
    assert math.isnan(target_gap(math.nan, 10))


@pytest.mark.parametrize(("value", "target"), [(0.0, 1.0), (1.0, -2.0)])
def test_a_perplexity_of_zero_or_less_is_refused(value: float, target: float) -> None:
    with pytest.raises(UnlearnError, match="above 0"):
        target_gap(value, target)


# ---- the summary -------------------------------------------------------------------------------


def test_summarise_gives_one_flat_record_of_floats() -> None:
    forget = make_scores([[-1.0] * 40, [-2.0] * 40], kl=0.25)
    record = metrics.summarise(forget, make_scores([[-3.0] * 40], kl=0.5), forget, forget)
    assert all(type(value) is float for value in record.values())
    averages = {"nll", "perplexity", "chunk_perplexity", "accuracy", "chunk_accuracy"}
    extraction = {"verbatim_share", "longest_verbatim_run", "extractable_share"}
    rates = {"auc", "balanced_accuracy", "tpr_at_5_fpr", "tpr_at_1_fpr"}
    expected = {
        f"{split}/{name}"
        for split in ("forget", "approximate", "retain", "general")
        for name in averages
    }
    expected |= {f"{split}/{name}" for split in ("forget", "approximate") for name in extraction}
    expected |= {
        f"membership/{attack}/{name}" for attack in attack_scores(forget) for name in rates
    }
    expected |= {"oracle_kl/forget", "oracle_kl/approximate"}
    assert set(record) == expected
    assert record["forget/perplexity"] == pytest.approx(math.exp(1.5))
    assert record["approximate/nll"] == 3
    assert record["membership/loss/auc"] == 1
    assert record["oracle_kl/approximate"] == 0.5


def test_summarise_leaves_out_what_is_absent() -> None:
    record = metrics.summarise(make_scores([[-1.0, -2.0]]), None, None, None)
    assert {name.split("/")[0] for name in record} == {"forget"}
    assert metrics.summarise(None) == {}


def test_summarise_passes_prefix_and_span_on() -> None:
    record = metrics.summarise(make_top1("0110"), prefix=1, span=2)
    assert record["forget/verbatim_share"] == pytest.approx(2 / 3)
    assert record["forget/extractable_share"] == 0.5


def test_the_order_of_a_record_is_split_by_split_then_membership() -> None:
    forget = make_scores([[-1.0] * 40], kl=0.25)
    names = list(metrics.summarise(forget, forget, forget, forget))
    averages = ["nll", "perplexity", "chunk_perplexity", "accuracy", "chunk_accuracy"]
    extraction = ["verbatim_share", "longest_verbatim_run", "extractable_share"]
    expected: list[str] = []
    for split in ("forget", "approximate"):
        expected += [f"{split}/{name}" for name in averages + extraction]
        expected.append(f"oracle_kl/{split}")
    expected += [f"{split}/{name}" for split in ("retain", "general") for name in averages]
    assert names[: len(expected)] == expected
    assert {name.split("/")[0] for name in names[len(expected) :]} == {"membership"}


def test_a_metric_needs_no_more_than_its_decorator() -> None:
    @metric("retain")
    def chunks_with_targets(scores: TokenScores) -> float:
        return float((scores.lengths > 0).sum())

    try:
        scores = make_scores([[-1.0], [], [-2.0, -3.0]])
        record = metrics.summarise(scores, None, scores)
        assert record["retain/chunks_with_targets"] == 2
        assert "forget/chunks_with_targets" not in record
        with pytest.raises(UnlearnError, match="exists already"):
            metric()(chunks_with_targets)
    finally:
        del METRICS["chunks_with_targets"]


def test_a_metric_on_an_unknown_split_is_refused() -> None:
    with pytest.raises(UnlearnError, match="unknown split"):
        metric("forgot")


def test_a_metric_says_which_names_its_values_have() -> None:
    scores = make_scores([[-1.0] * 40], kl=0.25)
    known = {"prefix": 32, "span": 16, "words": np.array([[0, 1]])}
    for name, each in METRICS.items():
        sides = [scores] * (len(each.splits) if each.together else 1)
        keys = [key for key, _ in each.values("forget", *sides, known=known)]
        if not each.key.endswith("{split}"):
            assert {key.split("/")[-1] for key in keys} == set(each.names), name


def test_metrics_that_came_later_say_so_themselves() -> None:
    assert metrics.LATER == ("last_word_accuracy",)


def test_metrics_need_no_torch() -> None:
    code = "import sys, unlearnlib.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- TokenScores -------------------------------------------------------------------------------

FIELDS = ("offsets", "tokens", "logprob", "top1", "mean", "variance", "zlib_bytes", "kl")


def assert_same(ours: TokenScores, theirs: TokenScores) -> None:
    assert ours.ids == theirs.ids
    for name in FIELDS:
        a, b = getattr(ours, name), getattr(theirs, name)
        if b is None:
            assert a is None
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kl", [None, 0.5])
@pytest.mark.parametrize("name", ["scores.npz", "scores", "forget.scores"])
def test_scores_come_back_from_the_very_file_they_were_saved_to(
    tmp_path: Path, name: str, kl: float | None
) -> None:
    scores = make_scores([[-1.0, -2.0], [], [-math.inf]], [[True, False], [], [True]], kl=kl)
    scores.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert_same(TokenScores.load(tmp_path / name), scores)


def test_scores_of_nothing_survive_saving(tmp_path: Path) -> None:
    NOTHING.save(tmp_path / "nothing.npz")
    assert_same(TokenScores.load(tmp_path / "nothing.npz"), NOTHING)


@given(chunk_lists, st.data())
def test_selecting_and_selecting_back_changes_nothing(
    chunks: list[list[float]], data: st.DataObject
) -> None:
    scores = make_scores(chunks, kl=1.0)
    order = data.draw(st.permutations(range(len(scores))))
    assert_same(scores.select(order).select(np.argsort(order).tolist()), scores)


def test_select_takes_chunks_in_the_given_order_and_counts_from_the_end() -> None:
    scores = make_scores([[-1.0, -2.0], [-3.0], [-4.0, -5.0]])
    chosen = scores.select([-1, 0])
    assert chosen.ids == ("document2#0", "document0#0")
    assert chosen.logprob.tolist() == [-4, -5, -1, -2]
    assert_same(scores.select([]), NOTHING)
    with pytest.raises(IndexError):
        scores.select([3])


def test_chunk_means_of_empty_chunks_are_nan_wherever_they_stand() -> None:
    scores = make_scores([[], [-1.0, -3.0], [], [-5.0], []])
    expected = [np.nan, -2, np.nan, -5, np.nan]
    np.testing.assert_array_equal(scores.chunk_means(scores.logprob), expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "scores.npz"
    make_scores([[-1.0] * 50]).save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(UnlearnError, match=r"scores\.npz is not a file of token scores"):
        TokenScores.load(path)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.999), st.integers(1, 255))
def test_an_altered_byte_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: float, change: int
) -> None:
    path = tmp_path_factory.mktemp("altered") / "scores.npz"
    scores = make_scores([[-1.0, -2.0, -3.0]], kl=1.0)
    scores.save(path)
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] ^= change
    path.write_bytes(bytes(raw))
    try:
        loaded = TokenScores.load(path)
    except UnlearnError:
        return
    # A name in the archive's directory may change and take kl, the optional array, away.
    assert_same(loaded, scores if loaded.kl is not None else replace(scores, kl=None))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("missing", "text", "array", "other", "pickled")}
    files["text"].write_text("no scores here")
    with files["array"].open("wb") as file:
        np.save(file, np.arange(3))
    with files["other"].open("wb") as file:
        np.savez(file, ids=np.array(["a"]), something=np.arange(3))
    with files["pickled"].open("wb") as file:
        np.savez(file, ids=np.array([{"a": 1}], dtype=object))
    for path in files.values():
        with pytest.raises(UnlearnError, match=path.name):
            TokenScores.load(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logprob", np.zeros(2, np.float32), "logprob has shape"),
        ("kl", np.zeros(4, np.float32), "kl has shape"),
        ("zlib_bytes", np.zeros(1, np.int64), "1 zlib lengths"),
        ("ids", ("a",), "1 ids"),
        ("offsets", np.zeros(0, np.int64), "offsets"),
        ("offsets", np.array([1, 2, 3]), "offsets"),
        ("offsets", np.array([0, 4, 3]), "offsets"),
        ("offsets", np.array([0.0, 2.0, 3.0]), "offsets"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    field: str, value: object, message: str
) -> None:
    scores = make_scores([[-1.0, -2.0], [-3.0]])
    with pytest.raises(UnlearnError, match=message):
        replace(scores, **{field: value})  # type: ignore[arg-type]
