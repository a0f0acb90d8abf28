"""How far an unlearned model is from where it should be: from the oracle, and from the target."""

from __future__ import annotations

import math

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.registry import metric
from unlearnlib.metrics.scores import TokenScores


@metric("forget", "approximate", key="oracle_kl/{split}", reference=True)
def mean_kl(scores: TokenScores) -> float:
    """Mean over target tokens of KL(reference || model) of the next token, in nats.

    0 if the two models predict alike. `scores` must have been made with a reference model (the
    oracle); NaN if they are of no token.
    """
    if scores.kl is None:
        raise UnlearnError(
            "these scores carry no KL divergence (kl is None): score the documents again with a "
            "reference model."
        )
    return float(np.mean(scores.kl, dtype=np.float64)) if len(scores.kl) else float("nan")


def target_gap(value: float, target: float) -> float:
    """|log(value / target)| of two perplexities: their distance in nats per token, 0 at best.

    A ratio, so that twice and half the target are equally far away. inf if one of the two is
    infinite (a diverged model); NaN if one is NaN or both are infinite.
    """
    for name, number in (("value", value), ("target", target)):
        if number <= 0:
            raise UnlearnError(f"{name} is {number}: a perplexity is above 0, so give one that is.")
    # A difference of logs, because the ratio of two large perplexities may overflow.
    return abs(math.log(value) - math.log(target))
