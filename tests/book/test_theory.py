"""Ascent grows with time and NPO with its logarithm; NPO's published experiment comes out here too.

.venv/bin/python -m pytest -q tests/book/test_theory.py
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from synthetic import drawn

from unlearnlib.book.theory import (
    ASCENT,
    NEAR,
    SYNTHETIC,
    Course,
    Growth,
    growth,
    growth_figure,
    growth_table,
    npo_weight,
    synthetic,
    synthetic_figure,
    synthetic_in_words,
    synthetic_table,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.weighted_ascent import NPO

PLAIN = [m for m in SYNTHETIC if not m.retain]


@cache
def grown(samples: int, beta: float) -> Growth:
    return growth(samples, beta)


@cache
def courses() -> dict[str, Course]:
    """Two of the five seeds."""
    return {c.method.name: c for c in synthetic(seeds=(1000, 4000))}


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_the_weight_is_that_of_the_row(beta: float) -> None:
    logp, logr = -np.linspace(0.1, 9, 30), -np.linspace(4, 0.2, 30)
    weight, _ = NPO(beta).weigh(torch.tensor(logp), torch.tensor(logr), [1] * 30)
    assert npo_weight(logp, logr, beta) == pytest.approx(weight.numpy(), rel=1e-12)
    assert (npo_weight(logp, logr, ASCENT) == 1).all()


@pytest.mark.parametrize("samples", [1, 16])
def test_ascent_moves_in_proportion_to_time(samples: int) -> None:
    """Theorem 2: eta t / sqrt(n), when the examples are forgotten."""
    one = grown(samples, ASCENT)
    slope, explained = one.fit(logarithm=False)
    assert slope == pytest.approx(1 / math.sqrt(samples), rel=1e-3) == one.expected_slope
    assert explained > 0.99999 > 0.95 > one.fit(logarithm=True)[1]


@pytest.mark.parametrize(("samples", "beta"), [(1, 0.5), (1, 2.0), (16, 1.0)])
def test_npo_moves_in_proportion_to_the_logarithm_of_time(samples: int, beta: float) -> None:
    """Theorem 2: sqrt(n) log t, and, which is sharper, by 1 / beta of it."""
    one = grown(samples, beta)
    slope, explained = one.fit(logarithm=True)
    assert slope == pytest.approx(math.sqrt(samples) / beta, rel=0.06)
    assert explained > 0.999 > 0.95 > one.fit(logarithm=False)[1]


def test_a_law_that_does_not_hold_is_not_found() -> None:
    """With a small beta NPO is ascent for as long as it is followed."""
    slope, explained = growth(1, 1e-5, steps=6000).fit(logarithm=False)
    assert explained > 0.999 and slope == pytest.approx(1, rel=0.05)


def test_more_examples_than_dimensions_are_refused() -> None:
    with pytest.raises(UnlearnError, match="samples is 9 and dimension 8"):
        growth(9, 1.0, dimension=8)


def test_the_published_claims_of_the_synthetic_experiment_hold() -> None:
    """Section 4.1 of the NPO paper: all come near in 1200 steps, and some keep what they knew.

    Of the five seeds two forget in another direction than the retrained model; these two do not.
    """
    found = courses()
    for name in ("Ascent", "Ascent + descent", "NPO, β = 1", "NPO + descent, β = 1"):
        assert len(found[name].near()) == 2 and found[name].first <= 1200, name
    last = {name: float(course.retain[:, -1].mean()) for name, course in found.items()}
    before = float(found["Ascent"].retain[:, 0].mean())
    assert last["Ascent"] > 20 * before and last["Ascent + descent"] > 4 * before
    assert last["NPO + descent, β = 1"] < before  # levels off
    near = [course for course in found.values() if course.near()]
    assert min(near, key=lambda c: c.retain[:, -1].mean()).method.name == "NPO + descent, β = 1"
    assert last["Descent"] < before and not found["Descent"].near()


def test_a_smaller_beta_forgets_sooner_and_harms_more() -> None:
    found = [courses()[f"NPO, β = {beta}"] for beta in (0.1, 1, 10)]
    ends = [float(course.retain[:, -1].mean()) for course in found]
    assert ends == sorted(ends, reverse=True) and ends[0] > 3 * ends[1]
    assert found[0].first < found[1].first < found[2].first == math.inf


def test_without_a_gap_what_is_forgotten_cannot_be_told_from_what_is_kept() -> None:
    for course in synthetic(PLAIN[:2], seeds=(1000,), gap=0.0, steps=300):
        assert course.forget[0] == pytest.approx(course.retain[0], rel=0.15)


def test_all_methods_begin_as_ascent_by_their_rates() -> None:
    """Before the first step NPO's weight is 1 whatever its beta; a method is its own column."""
    made = {c.method.name: c for c in synthetic(SYNTHETIC, seeds=(3,), steps=1, every=1)}
    alone = synthetic(SYNTHETIC[:1], seeds=(3,), steps=1, every=1)[0]
    assert made["Ascent"].forget == pytest.approx(alone.forget, rel=1e-12)
    pace = {n: float(c.forget[0, 1] - c.forget[0, 0]) / c.method.rate for n, c in made.items()}
    assert pace["Ascent"] < 0
    for name in ("NPO, β = 0.1", "NPO, β = 1", "NPO, β = 10"):
        assert pace[name] == pytest.approx(pace["Ascent"], rel=0.02)


def test_tables_and_figures_say_what_was_measured() -> None:
    some = [grown(1, ASCENT), grown(1, 0.5), grown(1, 2.0)]
    table = growth_table(some)
    assert list(table["better"]) == ["t", "log t", "log t"]
    assert list(table["theory’s"]) == ["1.00", "2.00", "0.500"]
    figure = growth_figure(some)
    assert "ascent: 1.00 times t; NPO, β = 0.5: 2.00 times log t" in figure.alt
    found = list(courses().values())
    assert list(synthetic_table(found).index) == [m.name for m in SYNTHETIC]
    assert synthetic_table(found).loc["Descent", f"seeds within {NEAR:g}"] == "0 of 2"
    picture = synthetic_figure(found)
    assert "Descent: near in 0 of 2 seeds; on what is kept 0.0" in picture.alt
    words = synthetic_in_words(found).splitlines()
    assert "NPO, β = 1 in 2 of 2 seeds (in the middle one at step " in words[0]
    assert "Of these methods NPO + descent, β = 1 ends nearest" in words[1]
    for one in (figure, picture):
        assert drawn(one)
        assert min(t.get_fontsize() for t in one.findobj(Text) if t.get_text()) >= 9
