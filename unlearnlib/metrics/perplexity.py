"""How well a model predicts a text: negative log-likelihood, perplexity, next-token accuracy.

Each comes in two averages. *Per token*, every target token counts the same: the quantity that
training minimises. *Per chunk*, every chunk counts the same whatever its length: what the release
of Yao et al. (arXiv:2402.15159) reports. The two agree only if all chunks are equally long, and
short chunks are harder (less context), so the second is usually the worse number.

Chunks without targets are left out; where nothing is left the value is NaN. A NaN log-probability
makes the value NaN, one of -inf makes a perplexity infinite: both say that the model diverged.
"""

from __future__ import annotations

import numpy as np

from unlearnlib.metrics.registry import metric
from unlearnlib.metrics.scores import TokenScores


@metric()
def nll(scores: TokenScores) -> float:
    """Mean negative log-likelihood per target token, in nats."""
    return -_mean(scores.logprob)


@metric()
def perplexity(scores: TokenScores) -> float:
    """exp of the mean negative log-likelihood per token; inf where that overflows."""
    return _exp(nll(scores))


@metric()
def chunk_perplexity(scores: TokenScores) -> float:
    """exp of the mean over chunks of a chunk's mean negative log-likelihood (the release)."""
    return _exp(-_mean(_chunk_means(scores, scores.logprob)))


@metric()
def accuracy(scores: TokenScores) -> float:
    """Share of target tokens that were the model's most likely token."""
    return _mean(scores.top1)


@metric()
def chunk_accuracy(scores: TokenScores) -> float:
    """Mean over chunks of a chunk's next-token accuracy (the release)."""
    return _mean(_chunk_means(scores, scores.top1))


def _chunk_means(scores: TokenScores, values: np.ndarray) -> np.ndarray:
    return scores.chunk_means(values)[scores.lengths > 0]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def _exp(value: float) -> float:
    # A diverged model has a perplexity beyond float64: a result, not worth a warning.
    with np.errstate(over="ignore"):
        return float(np.exp(value))
