"""The rule that proposes the next setting, on simulated answers of a model."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnlib.report.tuning import trace_table
from unlearnlib.tuning_rule import (
    GOOD_ENOUGH,
    LARGEST,
    RUNS,
    TOLERATED_RISE,
    Situation,
    Step,
    propose,
    shortfall,
)


@pytest.mark.parametrize(
    ("forget", "general", "expected"),
    [
        (4.0, 5.0, 0.0),
        (8.0, 5.0, math.log(2)),
        (2.0, 4.0, math.log(2)),  # a fall of general perplexity does not make up for it
        (4.0, 5.0 * TOLERATED_RISE, 0.0),
        (4.0, 10.0, math.log(2 / TOLERATED_RISE)),
        (math.inf, 5.0, math.inf),
        (4.0, math.nan, math.inf),
        (0.0, 5.0, math.inf),
    ],
)
def test_the_shortfall_can_be_checked_by_hand(
    forget: float, general: float, expected: float
) -> None:
    assert shortfall(forget, 4.0, general, 5.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("general", "harms"), [(5.24, False), (5.26, True), (math.inf, True)])
def test_a_step_harms_if_general_perplexity_rose_by_more_than_is_tolerated(
    general: float, harms: bool
) -> None:
    assert Step(1e-4, 1.0, (1.7, 3.7), 1, general, "").harms(SITUATION) is harms


SITUATION = Situation(forget=1.7, target=3.7, general=5.0, updates=12)


def answer(
    rate: float,
    weight: float,
    *,
    dose: float,
    power: float = 2.0,
    harm: float = 0.02,
    relief: float = 1.0,
) -> Step:
    """A model whose log-perplexity rises as (rate x updates / dose) ** power.

    At the target general perplexity has risen by `harm` (as a logarithm), and `weight` of the
    retain term divides that by weight ** relief, and the effect of the rate by weight ** 0.3.
    """
    path = [SITUATION.forget]
    for update in range(1, SITUATION.updates + 1):
        log = SITUATION.distance * (rate * update / dose / weight**0.3) ** power
        path.append(SITUATION.forget * math.exp(min(log, 80.0)))
        if path[-1] >= SITUATION.target:
            break
    end = len(path) - 1
    if end > 1 and path[-1] > SITUATION.target:
        before, after = (abs(math.log(p / SITUATION.target)) for p in path[-2:])
        end -= before < after
    reached = math.log(path[end] / SITUATION.forget) / SITUATION.distance
    general = SITUATION.general * math.exp(min(harm * reached / weight**relief, 80.0))
    return Step(rate, weight, tuple(path), end, general, "")


def searched(**model: float) -> tuple[list[Step], str]:
    """The steps of a search on such a model, and why it ended."""
    steps: list[Step] = []
    while True:
        proposal = propose(steps, SITUATION)
        if proposal.learning_rate is None:
            return steps, proposal.reason
        steps.append(answer(proposal.learning_rate, proposal.retain_weight, **model))


def best(steps: list[Step]) -> float:
    return min(step.shortfall(SITUATION) for step in steps)


@settings(max_examples=300, deadline=None)
@given(log_dose=st.floats(-5.3, -1.3), power=st.floats(1.0, 3.5))
def test_the_dose_is_found_whatever_the_model_needs(log_dose: float, power: float) -> None:
    """Doses from 5e-6 to 5e-2, with a first rate of 1e-4: four decades."""
    steps, why = searched(dose=10**log_dose, power=power)
    assert len(steps) <= RUNS
    assert best(steps) <= 0.06, why


def test_near_the_first_rate_few_runs_are_needed() -> None:
    for dose in (6e-4, 1.2e-3, 3e-3):
        steps, why = searched(dose=dose)
        assert best(steps) <= GOOD_ENOUGH and len(steps) <= 5, why


def test_nothing_to_forget_is_said_without_a_run() -> None:
    known = dataclasses.replace(SITUATION, forget=3.7)
    proposal = propose([], known)
    assert proposal.learning_rate is None and "nothing to forget" in proposal.reason


def test_harm_asks_for_more_weight_on_the_retain_term() -> None:
    steps, _ = searched(dose=1.2e-3, harm=0.15)
    weights = [step.retain_weight for step in steps]
    assert weights[0] == 1 and max(weights) > 1 and weights == sorted(weights)
    chosen = min(steps, key=lambda step: step.shortfall(SITUATION))
    assert (
        chosen.retain_weight > 1
        and chosen.rise(SITUATION) <= math.log(TOLERATED_RISE) + GOOD_ENOUGH
    )


def test_weight_that_does_not_help_ends_the_search() -> None:
    steps, why = searched(dose=1.2e-3, harm=0.3, relief=-0.5)
    chosen = min(steps, key=lambda step: step.shortfall(SITUATION))
    assert chosen.retain_weight == 1
    assert "less good than harm" in why or "used up" in why


def test_no_rate_is_tried_twice_and_none_jumps_too_far() -> None:
    steps, _ = searched(dose=0.03, harm=0.2)
    seen = [(step.learning_rate, step.retain_weight) for step in steps]
    assert len(set(seen)) == len(seen)
    for a, b in itertools.pairwise(steps):
        assert 1 / (LARGEST * 1.01) <= b.learning_rate / a.learning_rate <= LARGEST * 1.01


def test_a_model_that_breaks_asks_for_a_lower_rate() -> None:
    broken = Step(1e-4, 1.0, (1.7, math.inf), 1, math.inf, "")
    assert broken.shortfall(SITUATION) == math.inf
    proposal = propose([broken], SITUATION)
    assert proposal.learning_rate is not None and proposal.learning_rate < 1e-4


def test_the_crossing_lies_between_two_updates() -> None:
    step = Step(1e-4, 1.0, (1.0, 2.0, 8.0), 2, 5.0, "")
    situation = Situation(forget=1.0, target=4.0, general=5.0, updates=4)
    assert step.crossing(situation) == pytest.approx(1.5)
    assert dataclasses.replace(step, path=(1.0, 2.0, 3.0)).crossing(situation) is None


def test_the_trace_table_shows_every_run() -> None:
    steps, _ = searched(dose=1.2e-3)
    rows = trace_table(steps, SITUATION)
    assert [row[0] for row in rows] == [str(n) for n in range(1, len(steps) + 1)]
