"""The guidelines as a search: which run to make next, decided from the runs so far.

What is fixed: the method (ascent with descent on in-distribution data, which the paper calls
robust), a constant learning rate, batches of 16. What is searched: the dose, learning rate times
updates, because forget perplexity follows it and little else; and only where the dose that reaches
the target does too much harm, the weight of the retain term. It uses only what a practitioner can
measure: forget perplexity against the paper's target, which is vanilla's perplexity on the
approximate set, and the rise of general perplexity. An oracle is not needed.

`shortfall` and `TOLERATED_RISE` are also the rule by which the settings of the main study are
chosen, and by which the chapters call a setting harmless.

Nothing here runs a model (`tuning.py` does), so the search can be tested against any answer that a
model might give, and an interrupted one goes on from its trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unlearnlib.metrics.distance import target_gap

RUNS = 8
START = 1e-4  # of the first run, if none is given
GOOD_ENOUGH = 0.02  # the search ends at a shortfall of at most this
TOLERATED_RISE = 1.05  # general perplexity may rise by this factor
SLOWEST = 0.5  # a dose is slow enough if the target is reached in the last half of the updates
LARGEST = 4.0  # factor between one learning rate and the next
HEAVIER = 3.0  # factor between one retain weight and the next


def shortfall(forget: float, target: float, general: float, general_before: float) -> float:
    """How far a run ends from what is asked of it: 0 is perfect, infinite is useless.

    |log(forget / target)|, plus log(general / general_before) as far as that exceeds the log of
    `TOLERATED_RISE`. All four are perplexities; infinite if `forget` or `general` is not a finite
    number above 0, as after a divergence.
    """
    if not (0 < forget < math.inf and 0 < general < math.inf):
        return math.inf
    rise = math.log(general / general_before)
    return target_gap(forget, target) + max(0.0, rise - math.log(TOLERATED_RISE))


@dataclass(frozen=True)
class Situation:
    """Perplexities before unlearning, and the target.

    forget, general   of vanilla on the forget set and on general texts
    target            of vanilla on the approximate set
    updates           updates that a run may make
    """

    forget: float
    target: float
    general: float
    updates: int

    @property
    def distance(self) -> float:
        """log(target / forget): how far forget perplexity has to rise."""
        return math.log(self.target / self.forget)


@dataclass(frozen=True)
class Proposal:
    """The next run, and why; no rate means that the search has ended."""

    reason: str
    learning_rate: float | None = None
    retain_weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """One run of the search.

    path       forget perplexity before the first and after each update
    updates    where the run was ended: the update nearest the target, or the last
    general    general perplexity at the end
    """

    learning_rate: float
    retain_weight: float
    path: tuple[float, ...]
    updates: int
    general: float
    reason: str
    key: str = ""
    seconds: float = 0.0

    def gap(self, situation: Situation) -> float:
        """log(forget perplexity / target) at the end; infinite if the model broke."""
        reached = self.path[self.updates]
        if not (0 < reached < math.inf):
            return math.inf
        return math.log(reached / situation.target)

    def rise(self, situation: Situation) -> float:
        """log of the rise of general perplexity."""
        if not (0 < self.general < math.inf):
            return math.inf
        return math.log(self.general / situation.general)

    def harms(self, situation: Situation) -> bool:
        """Has general perplexity risen by more than `TOLERATED_RISE`?"""
        return self.rise(situation) > math.log(TOLERATED_RISE)

    def shortfall(self, situation: Situation) -> float:
        """The `shortfall` of where the run ended."""
        reached = self.path[self.updates]
        return shortfall(reached, situation.target, self.general, situation.general)

    def crossing(self, situation: Situation) -> float | None:
        """The update, between two, at which the path crosses the target; None if it does not."""
        for update, (a, b) in enumerate(zip(self.path, self.path[1:], strict=False)):
            if not (b < situation.target):  # so that infinity and NaN count as beyond
                if not (0 < b < math.inf) or b <= a:
                    return update + 1.0
                return update + math.log(situation.target / a) / math.log(b / a)
        return None


def propose(
    steps: Sequence[Step], situation: Situation, *, start: float = START, runs: int = RUNS
) -> Proposal:
    """What to run next. A pure function of the runs so far.

    1. Nothing to do if forget perplexity is at the target already.
    2. Dose: raise the rate until a run reaches the target, lower it while the target is reached
       in the first half of the updates, then bring the crossing onto a whole update.
    3. Harm: if general perplexity rose too much, weigh the retain term more and dose again.
    """
    if situation.distance <= GOOD_ENOUGH:
        return Proposal(
            f"forget perplexity {situation.forget:.3g} is at the target {situation.target:.3g} "
            "before unlearning: there is nothing to forget that this could measure"
        )
    if not steps:
        return Proposal(f"a first rate of {start:.2g}, to see how the model answers", start)
    best = min(steps, key=lambda step: step.shortfall(situation))
    if best.shortfall(situation) <= GOOD_ENOUGH:
        return Proposal(
            f"forget perplexity is within {abs(best.gap(situation)):.1%} of the target and general "
            f"perplexity rose by {math.expm1(best.rise(situation)):.1%}"
        )
    if len(steps) >= runs:
        return Proposal(f"the {runs} runs allowed are used up")
    weight = steps[-1].retain_weight
    tried = [step for step in steps if step.retain_weight == weight]
    found = _next_rate(tried, situation)
    if found is not None:
        rate, why = found
        return Proposal(why, rate, weight)
    dosed = min(tried, key=lambda step: abs(step.gap(situation)))
    if dosed.harms(situation):
        earlier = [s for s in steps if s.retain_weight < weight]
        before = min((s.rise(situation) for s in earlier), default=math.inf)
        if earlier and dosed.rise(situation) >= before:
            return Proposal("more weight on the retain term did less good than harm")
        return Proposal(
            f"the target is reached, but general perplexity rose by "
            f"{math.expm1(dosed.rise(situation)):.1%}: give the retain term {HEAVIER:g} times its "
            "weight",
            dosed.learning_rate,
            weight * HEAVIER,
        )
    return Proposal("no rate nearby comes closer to the target")


def _next_rate(tried: Sequence[Step], situation: Situation) -> tuple[float, str] | None:
    """The next rate at one retain weight, and why; None if the dose is as good as it gets."""
    below = [s for s in tried if s.crossing(situation) is None]
    beyond = [s for s in tried if s.crossing(situation) is not None]
    too_low = max((s.learning_rate for s in below), default=0.0)
    too_high = min((s.learning_rate for s in beyond), default=math.inf)
    last = tried[-1]
    crossing = last.crossing(situation)
    if crossing is None:
        # Forget perplexity rises faster and faster: about as the square of the dose.
        share = max(math.log(last.path[-1] / situation.forget) / situation.distance, 1e-3)
        factor = min(max(share**-0.5, 1.15), LARGEST)
        rate = last.learning_rate * factor
        if rate >= too_high:
            rate = math.sqrt(too_low * too_high)
        why = (
            f"after {situation.updates} updates forget perplexity is {last.path[-1]:.3g}, short of "
            f"the target {situation.target:.3g}: a higher rate"
        )
    else:
        slowest = math.ceil(SLOWEST * situation.updates)
        if crossing < slowest:
            # Early in a run a dose is cheaper than later: aim beyond the middle.
            aim = 0.75 * situation.updates
            rate = last.learning_rate * max(crossing / aim, 1 / LARGEST)
            why = (
                f"the target is reached after {crossing:.1f} of {situation.updates} updates, in "
                "steps too coarse to stop at it: a lower rate"
            )
        else:
            if abs(last.gap(situation)) <= GOOD_ENOUGH:
                return None
            whole = max(round(crossing), slowest)
            rate = last.learning_rate * crossing / whole
            why = (
                f"the target lies between two updates, at {crossing:.2f}: a rate that brings it "
                f"to update {whole}"
            )
        if rate <= too_low:
            rate = math.sqrt(too_low * min(too_high, last.learning_rate))
    if any(math.isclose(rate, s.learning_rate, rel_tol=1e-3) for s in tried):
        return None
    return float(f"{rate:.4g}"), why


def rise_in_words(step: Step, situation: Situation) -> str:
    """The rise of general perplexity in per cent; infinite for a model that broke."""
    rise = step.rise(situation)
    return "∞" if rise > 20 else f"{100 * math.expm1(rise):+.1f} %"
