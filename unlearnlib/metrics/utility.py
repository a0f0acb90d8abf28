"""What a model still knows: cloze questions, and predicting the last token of a text.

A cloze question is scored as `options` chunks, one per possible answer: the tokens of
prompt + option. Option 0 is the right one, the others are wrong answers of the same kind.
"""

from __future__ import annotations

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.scores import TokenScores


def cloze(scores: TokenScores, answer_starts: np.ndarray, options: int) -> dict[str, float]:
    """How the model answers F cloze questions, scored as F * options chunks, question by question.

    answer_starts  (F * options,) ints: index among a chunk's targets of the answer's first one;
                   the answer goes on to the end of the chunk
    options        chunks per question; the first of them is the right answer

    Returns
    choice_accuracy  share of questions whose right option has the highest mean log-probability
                     per answer token (the mean, so that short answers have no advantage); a tie
                     of n options counts 1/n, so chance is 1 / options
    exact            share of questions whose right answer greedy decoding gives, token by token
    answer_logprob   mean over questions of the right answer's total log-probability, in nats
    questions        F

    Without questions the first three are NaN; so are those that a NaN log-probability enters.
    """
    starts = np.asarray(answer_starts)
    if options < 2:
        raise UnlearnError(f"options is {options}: give at least 2, the right one and a wrong one.")
    if len(scores) % options:
        raise UnlearnError(
            f"{len(scores)} chunks do not divide into questions of {options} options: score every "
            "option of every question."
        )
    if starts.shape != (len(scores),):
        raise UnlearnError(
            f"answer_starts has shape {starts.shape}: give one index for each of the "
            f"{len(scores)} chunks."
        )
    bad = np.flatnonzero((starts < 0) | (starts >= scores.lengths))
    if len(bad):
        raise UnlearnError(
            f"the answer of chunk {scores.ids[bad[0]]!r} begins at target {starts[bad[0]]}, but "
            f"the chunk has {scores.lengths[bad[0]]}: leave at least one target to the answer."
        )
    questions = len(scores) // options
    if not questions:
        nan = float("nan")
        return {"choice_accuracy": nan, "exact": nan, "answer_logprob": nan, "questions": 0.0}

    # Bounds in pairs (answer begins, chunk ends); every other stretch of reduceat is an answer.
    bounds = np.stack([scores.offsets[:-1] + starts, scores.offsets[1:]], axis=1).ravel()
    logprob = np.append(scores.logprob.astype(np.float64), 0.0)
    totals = np.add.reduceat(logprob, bounds)[::2].reshape(questions, options)
    means = totals / (scores.lengths - starts).reshape(questions, options)
    exact = np.logical_and.reduceat(np.append(scores.top1, True), bounds)[::2]

    best = means == means.max(axis=1, keepdims=True)  # (F, options); NaN rows have none
    chosen = np.where(
        np.isnan(means).any(axis=1), np.nan, best[:, 0] / np.maximum(best.sum(axis=1), 1)
    )
    return {
        "choice_accuracy": float(chosen.mean()),
        "exact": float(exact[::options].mean()),
        "answer_logprob": float(totals[:, 0].mean()),
        "questions": float(questions),
    }


def last_token_accuracy(scores: TokenScores) -> float:
    """Share of chunks whose last target was the model's most likely token; NaN without chunks.

    A proxy for last-word prediction: the token is judged with all of the chunk as its context.
    """
    last = scores.offsets[1:][scores.lengths > 0] - 1
    return float(scores.top1[last].mean()) if len(last) else float("nan")
