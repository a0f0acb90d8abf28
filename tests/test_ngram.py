"""An n-gram model predicts what always follows, with probabilities that sum to one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.ngram import NGram


def test_a_trigram_predicts_what_always_follows() -> None:
    model = NGram([[1, 2, 3, 1, 2, 3, 1, 2, 3]], vocabulary=5)
    assert model.probabilities([1, 2]).argmax() == 3
    assert model.score([[1, 2, 3, 1]])[0] == 1.0


@given(st.lists(st.integers(0, 6), max_size=4))
def test_trigram_probabilities_are_positive_and_sum_to_one(context: list[int]) -> None:
    p = NGram([[0, 1, 2, 1, 0, 3], [4, 1, 2]], vocabulary=7).probabilities(context)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1)


def test_a_trigram_interpolates_as_witten_and_bell() -> None:
    model = NGram([[0, 1]], vocabulary=2)
    # No context: one count each of two tokens; 0.5 each whatever the uniform part.
    assert model.probabilities([]) == pytest.approx([0.5, 0.5])
    # After 0: one count, one distinct follower, so half of its own and half of the above.
    assert model.probabilities([0]) == pytest.approx([0.25, 0.75])


def test_a_trigram_without_tokens_or_beyond_its_vocabulary_is_refused() -> None:
    with pytest.raises(UnlearnError, match="at least one text"):
        NGram([], 5)
    with pytest.raises(UnlearnError, match="token 9"):
        NGram([[9]], 5)


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=6))
def test_counting_only_what_is_judged_changes_no_answer(sequences: list[list[int]]) -> None:
    judged = [[0, 1, 2, 3, 4, 0, 1], [2, 2]]
    for order in (1, 2, 4):
        whole = NGram(sequences, 5, order)
        few = NGram(sequences, 5, order, judged)
        assert few.score(judged) == pytest.approx(whole.score(judged))


def test_more_context_predicts_what_depends_on_it() -> None:
    """After 1, 2 comes what stood before them: two tokens of context do not tell, three do."""
    text = [[0, 1, 2, 0], [3, 1, 2, 3]] * 20
    (low, _), (high, _) = (NGram(text, 4, order).score(text) for order in (3, 4))
    assert low < 1 == high
