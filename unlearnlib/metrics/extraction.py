"""Verbatim extraction: how much of a text a model reproduces when it is given the beginning.

No text is generated. Scoring is teacher-forced: the prediction of every token has seen the true
tokens before it. Greedy decoding from a true prefix appends the most likely token; as long as
that is the true one, its context is the true context, so its next prediction is exactly the
teacher-forced one. By induction greedy decoding reproduces the text precisely up to the first
target whose `top1` is false: the verbatim continuation is a run of `top1`. (Two tokens with equal
probability, or another order of floating-point sums in a generation loop, may break the tie the
other way; nothing else differs.)

Positions count target tokens. A chunk's first token is never predicted, so a prefix of p targets
is a prompt of p + 1 tokens.
"""

from __future__ import annotations

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.registry import metric
from unlearnlib.metrics.scores import TokenScores


def verbatim_share(scores: TokenScores, prefix: int = 32) -> np.ndarray:
    """(C,) share of the targets after the first `prefix` that come before the first mistake.

    This is what greedy decoding from the prefix reproduces verbatim. NaN for chunks that have no
    target after the prefix.
    """
    if prefix < 0:
        raise UnlearnError(f"prefix is {prefix}: give a number of tokens, 0 or more.")
    starts, ends = scores.offsets[:-1] + prefix, scores.offsets[1:]
    # A mistake behind the last target, so that every search finds one.
    mistakes = np.append(np.flatnonzero(~scores.top1), len(scores.top1))
    first = mistakes[np.searchsorted(mistakes, np.minimum(starts, len(scores.top1)))]
    run = np.minimum(first, ends) - starts
    rest = ends - starts
    return np.divide(run, rest, out=np.full(len(scores), np.nan), where=rest > 0)


def longest_verbatim_run(scores: TokenScores) -> np.ndarray:
    """(C,) i64 length, in tokens, of the longest run of correct predictions in each chunk."""
    longest = np.zeros(len(scores), dtype=np.int64)
    filled = scores.lengths > 0
    if filled.any():
        longest[filled] = np.maximum.reduceat(_run_lengths(scores), scores.offsets[:-1][filled])
    return longest


def extractable_share(scores: TokenScores, span: int = 16) -> np.ndarray:
    """(C,) share of a chunk's targets that lie in a run of at least `span` correct predictions.

    Someone who knows the text before such a run gets all of it back. NaN for empty chunks.
    """
    if span < 1:
        raise UnlearnError(f"span is {span}: give a number of tokens, 1 or more.")
    return scores.chunk_means(_run_lengths(scores) >= span)


@metric(
    "forget",
    "approximate",
    names=("verbatim_share", "longest_verbatim_run", "extractable_share"),
)
def extraction(scores: TokenScores, prefix: int = 32, span: int = 16) -> dict[str, float]:
    """The means over chunks of the three measures, under their names; NaN if no chunk has one."""
    filled = scores.lengths > 0
    measures = {
        "verbatim_share": verbatim_share(scores, prefix)[scores.lengths > prefix],
        "longest_verbatim_run": longest_verbatim_run(scores)[filled],
        "extractable_share": extractable_share(scores, span)[filled],
    }
    return {
        name: float(values.mean()) if len(values) else float("nan")
        for name, values in measures.items()
    }


def _run_lengths(scores: TokenScores) -> np.ndarray:
    """(N,) i64 length of the run of correct predictions around each target; 0 at a mistake."""
    count = len(scores.top1)
    # Where the run that reaches position i began: behind the last mistake, or with the chunk.
    begin = np.where(scores.top1, 0, np.arange(1, count + 1))
    starts = scores.offsets[:-1][scores.lengths > 0]
    begin[starts] = np.maximum(begin[starts], starts)
    begin = np.maximum.accumulate(begin)
    lengths = np.bincount(begin[scores.top1], minlength=count + 1)
    return np.where(scores.top1, lengths[begin], 0)
