"""Membership inference: does a model treat a text as one that it was trained on?

An attack gives every chunk a score, HIGHER meaning more member-like. The forget set supplies the
members, the approximate set (same kind, never trained on) the non-members, and the attack's power
is how well the score tells the two apart. After ideal unlearning it cannot: AUC 0.5.

AUC is never flipped. The authors' release turns an AUC below 0.5 into 1 - AUC; but a forget set
that looks *less* like training data than unseen text is the sign of over-unlearning, and
flipping hides it.

A log-probability of -inf is fine (it is the lowest there is); NaN raises `UnlearnError`, because
it has no rank. Chunks without targets score NaN and `membership` leaves them out. Where either
side is empty, values are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.registry import metric
from unlearnlib.metrics.scores import TokenScores

KS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
"""Fractions of a chunk's tokens used by Min-K% and Min-K%++ (30 to 100 % are the paper's)."""

# A distribution sharper than float32 can express has variance 0 on paper; see min_k_plus_plus.
_VARIANCE_FLOOR = float(np.finfo(np.float32).eps)

# Bound on the elements of one block of bootstrap resamples: 2**21 float64 are 16 MiB.
_BLOCK = 2**21


# ---- attacks: (C,) scores of the chunks, higher = more member-like -----------------------------


def loss_score(scores: TokenScores) -> np.ndarray:
    """(C,) mean log-probability of a chunk's tokens, in nats (Yeom et al. 2018's loss attack)."""
    _check_chunks(scores, scores.logprob, "log-probability")
    return scores.chunk_means(scores.logprob)


def zlib_score(scores: TokenScores) -> np.ndarray:
    """(C,) *total* log-likelihood of a chunk over its zlib-compressed length, in nats per byte.

    Carlini et al. 2021 (Extracting Training Data from Large Language Models) divide the log of
    the perplexity, a mean over tokens, by the zlib length; their samples all have equally many
    tokens, so mean and total rank alike there. Chunks here differ in length, so the total is
    taken: how much better the model compresses the text than zlib does. Others (OpenUnlearning,
    mimir) divide the *mean*: divide these scores by `scores.lengths` to get theirs.
    """
    bad = np.flatnonzero(scores.zlib_bytes <= 0)
    if len(bad):
        raise UnlearnError(
            f"the zlib length of chunk {scores.ids[bad[0]]!r} is {scores.zlib_bytes[bad[0]]}: "
            "score the documents again."
        )
    return loss_score(scores) * scores.lengths / scores.zlib_bytes


def min_k(scores: TokenScores, k: float) -> np.ndarray:
    """(C,) Min-K% Prob: mean of the fraction `k` of lowest log-probabilities, in nats.

    Shi et al. 2024 (Detecting Pretraining Data from Large Language Models). The number of tokens
    is rounded down, and is at least one. `k` in (0, 1]; 1 is the loss attack.
    """
    _check_chunks(scores, scores.logprob, "log-probability")
    return _lowest_means(scores, scores.logprob, (k,))[0]


def min_k_plus_plus(scores: TokenScores, k: float) -> np.ndarray:
    """(C,) Min-K%++: as `min_k`, of log-probabilities standardised under the model's prediction.

    Zhang et al. 2024 (Min-K%++: Improved Baseline for Detecting Pre-Training Data from Large
    Language Models): z = (logprob - mean) / sqrt(variance). Variance 0 means that all tokens the
    model thinks possible are equally likely, so that a possible target has z = 0 / 0. The
    variance is floored at float32's epsilon: that z is then 0, its limit, rounding errors of the
    numerator stay small, and an impossible target still gets a very low value.
    """
    return _lowest_means(scores, _standardised(scores), (k,))[0]


def attack_scores(scores: TokenScores) -> dict[str, np.ndarray]:
    """Every attack's (C,) scores: "loss", "zlib", "min_k_10" ..., "min_k_pp_10" ... (see KS)."""
    attacks = {"loss": loss_score(scores), "zlib": zlib_score(scores)}
    for name, values in (("min_k", scores.logprob), ("min_k_pp", _standardised(scores))):
        for k, lowest in zip(KS, _lowest_means(scores, values, KS), strict=True):
            attacks[f"{name}_{round(100 * k)}"] = lowest
    return attacks


def _standardised(scores: TokenScores) -> np.ndarray:
    """(N,) (logprob - mean) / sqrt(variance) in float64."""
    variance = np.maximum(scores.variance.astype(np.float64), _VARIANCE_FLOOR)
    with np.errstate(invalid="ignore"):  # inf - inf is reported below, with the chunk's name
        z = (scores.logprob.astype(np.float64) - scores.mean) / np.sqrt(variance)
    _check_chunks(scores, z, "standardised log-probability")
    return z


def _lowest_means(scores: TokenScores, values: np.ndarray, ks: Sequence[float]) -> np.ndarray:
    """(len(ks), C) mean of the lowest fraction k of each chunk's values; one sort for all ks."""
    for k in ks:
        if not 0 < k <= 1:
            raise UnlearnError(f"k is {k}: give the fraction of tokens, above 0 and at most 1.")
    result = np.full((len(ks), len(scores)), np.nan)
    filled = scores.lengths > 0
    if not filled.any():
        return result
    lengths, starts = scores.lengths[filled], scores.offsets[:-1][filled]
    order = np.lexsort((values, np.repeat(np.arange(len(lengths)), lengths)))
    # The closing 0 is never summed: it lets an end index stand behind the last value.
    ordered = np.append(values[order].astype(np.float64), 0.0)
    for row, k in zip(result, ks, strict=True):
        # The small term keeps 0.29 * 100 = 28.999999999999996 from losing a token.
        counts = np.maximum(1, np.floor(k * lengths + 1e-9).astype(np.int64))
        bounds = np.stack([starts, starts + counts], axis=1).ravel()
        row[filled] = np.add.reduceat(ordered, bounds)[::2] / counts
    return result


def _check_chunks(scores: TokenScores, values: np.ndarray, what: str) -> None:
    """`UnlearnError` naming the first chunk with a NaN among the (N,) values."""
    bad = np.flatnonzero(np.isnan(values))
    if len(bad):
        chunk = int(np.searchsorted(scores.offsets, bad[0], side="right")) - 1
        raise UnlearnError(
            f"a {what} of chunk {scores.ids[chunk]!r} is NaN: the model has diverged, so judge it "
            "at an earlier update or lower the learning rate."
        )


# ---- how well a score tells members from non-members -------------------------------------------


def auc(members: np.ndarray, non_members: np.ndarray) -> float:
    """P(a member scores higher than a non-member), ties counting half; unflipped.

    (M,) and (N,) scores; the Mann-Whitney statistic by ranks, in O((M + N) log(M + N)).
    """
    inside, outside = _tally(members, non_members)
    return float(_tally_auc(inside[None], outside[None])[0])


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fpr, tpr, thresholds), each (1 + number of distinct scores,), from (0, 0) to (1, 1).

    A chunk counts as a member if its score is at least the threshold; thresholds fall from inf
    through every distinct score. The rates of an empty side are NaN.
    """
    inside, outside = _tally(members, non_members)
    distinct = np.unique(np.concatenate([members, non_members]))[::-1]
    rates = []
    for counts in (outside, inside):
        caught = np.concatenate([[0], np.cumsum(counts[::-1])])
        total = caught[-1]
        rates.append(caught / total if total else np.full(len(caught), np.nan))
    return rates[0], rates[1], np.concatenate([[np.inf], distinct])


def tpr_at_fpr(members: np.ndarray, non_members: np.ndarray, fpr: float) -> float:
    """The largest true-positive rate among thresholds with a false-positive rate <= `fpr`.

    No interpolation: with fewer than 1 / fpr non-members this is the rate at no false positive.
    """
    if not 0 <= fpr <= 1:
        raise UnlearnError(f"the false-positive rate is {fpr}: give a value between 0 and 1.")
    if not (len(members) and len(non_members)):
        return float("nan")
    false, true, _ = roc(members, non_members)
    return float(true[false <= fpr].max())


def best_balanced_accuracy(members: np.ndarray, non_members: np.ndarray) -> float:
    """The largest (TPR + 1 - FPR) / 2 over all thresholds; at least 0.5.

    The threshold is chosen on the data it is judged on, so chance lies somewhat above 0.5.
    """
    false, true, _ = roc(members, non_members)
    return float(((true + 1 - false) / 2).max())


@metric(
    "forget",
    "approximate",
    key="membership/{name}",
    names=("auc", "balanced_accuracy", "tpr_at_5_fpr", "tpr_at_1_fpr"),
    together=True,
)
def membership(forget: TokenScores, approximate: TokenScores) -> dict[str, dict[str, float]]:
    """attack -> {auc, balanced_accuracy, tpr_at_5_fpr, tpr_at_1_fpr}; forget are the members.

    The release compares equally many chunks of both; `TokenScores.select` makes them so.
    """
    inside = attack_scores(forget.select(np.flatnonzero(forget.lengths > 0).tolist()))
    outside = attack_scores(approximate.select(np.flatnonzero(approximate.lengths > 0).tolist()))
    return {
        attack: {
            "auc": auc(inside[attack], outside[attack]),
            "balanced_accuracy": best_balanced_accuracy(inside[attack], outside[attack]),
            "tpr_at_5_fpr": tpr_at_fpr(inside[attack], outside[attack], 0.05),
            "tpr_at_1_fpr": tpr_at_fpr(inside[attack], outside[attack], 0.01),
        }
        for attack in inside
    }


def bootstrap_auc(
    members: np.ndarray,
    non_members: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of the AUC, both sides resampled.

    The scores are resampled independently, so give one per document: chunks of one document are
    alike, and counting them as independent would make the interval too narrow.
    """
    if resamples < 1:
        raise UnlearnError(f"resamples is {resamples}: give at least 1.")
    if not 0 < level < 1:
        raise UnlearnError(f"level is {level}: give a coverage between 0 and 1, such as 0.95.")
    inside, outside = _tally(members, non_members)
    if not (len(members) and len(non_members)):
        return float("nan"), float("nan")
    # Drawing M of M scores with replacement is, per distinct score, one multinomial draw.
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(inside))
    aucs = [
        _tally_auc(
            rng.multinomial(len(members), inside / len(members), size),
            rng.multinomial(len(non_members), outside / len(non_members), size),
        )
        for size in (min(block, resamples - begin) for begin in range(0, resamples, block))
    ]
    low, high = np.quantile(np.concatenate(aucs), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _tally(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each distinct score (ascending, U of them) occurs on each side: two (U,) i64."""
    for side, values in (("member", members), ("non-member", non_members)):
        bad = np.flatnonzero(np.isnan(values))
        if len(bad):
            raise UnlearnError(
                f"the score of {side} {bad[0]} is NaN and has no rank: leave it out, or score a "
                "model that has not diverged."
            )
    distinct, index = np.unique(np.concatenate([members, non_members]), return_inverse=True)
    index = index.ravel()
    inside = np.bincount(index[: len(members)], minlength=len(distinct))
    outside = np.bincount(index[len(members) :], minlength=len(distinct))
    return inside, outside


def _tally_auc(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(B,) AUC of B pairs of tallies (B, U): a member beats all lower non-members, half of ties."""
    beaten = np.cumsum(outside, axis=1) - outside / 2
    pairs = inside.sum(axis=1) * outside.sum(axis=1)
    wins = (inside * beaten).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
