"""What a model still knows: cloze questions, and predicting the last word of a text.

A cloze question is scored as `options` chunks, one per possible answer: the tokens of
prompt + option. Option 0 is the right one, the others are wrong answers of the same kind.
"""

from __future__ import annotations

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.registry import metric
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
    answer_logprob   mean over questions of the log-probability of the right answer, in nats, summed
                     over its tokens from `answer_starts` on: tokens that all options share with
                     it at their beginning are no part of the sum (see `cloze_chunks`)
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


@metric(later=True)
def last_word_accuracy(scores: TokenScores, words: np.ndarray) -> float:
    """Share of texts whose last word the model predicts greedily given all before it.

    words   (C, 2) ints: first target of each chunk's last word and the one after its last; a
            negative first one says that the chunk has no such word, and it is left out

    As in LAMBADA (Paperno et al., 2016, arXiv:1606.06031) the word counts as predicted if greedy
    decoding gives its tokens; whether the model would end the word there is not asked. By the
    argument at the head of `extraction.py` that is so exactly if `top1` holds for all of them.
    Unlike LAMBADA's, the passages are not chosen so that people can guess the word: compare a
    model with another one, not with published figures. Which tokens a word has, `chunks.last_word`
    says. NaN without a word.
    """
    spans = np.asarray(words, dtype=np.int64).reshape(-1, 2)
    if len(spans) != len(scores):
        raise UnlearnError(
            f"there are {len(spans)} words for {len(scores)} chunks: give one pair for each chunk."
        )
    asked = np.flatnonzero(spans[:, 0] >= 0)
    bad = asked[(spans[asked, 1] > scores.lengths[asked]) | (spans[asked, 1] <= spans[asked, 0])]
    if len(bad):
        first, stop = spans[bad[0]].tolist()
        raise UnlearnError(
            f"the last word of chunk {scores.ids[bad[0]]!r} is targets {first} to {stop}, but the "
            f"chunk has {scores.lengths[bad[0]]}: give targets of the chunk."
        )
    right = [bool(scores.top1[scores.offsets[i] :][slice(*spans[i])].all()) for i in asked]
    return float(np.mean(right)) if right else float("nan")


def last_token_accuracy(scores: TokenScores) -> float:
    """Share of chunks whose last target was the model's most likely token; NaN without chunks.

    A proxy for `last_word_accuracy` that needs no words: the token is judged with all of the chunk
    as its context.
    """
    last = scores.offsets[1:][scores.lengths > 0] - 1
    return float(scores.top1[last].mean()) if len(last) else float("nan")
