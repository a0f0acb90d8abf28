"""Models of a few tokens: what a language model has to beat before it has learned anything.

Interpolated as by Witten and Bell (1991, The zero-frequency problem, method C): a context that
was followed by many different tokens trusts its own counts less and the shorter context more,

    p(w | h) = (count(h, w) + distinct(h) * p(w | shorter h)) / (count(h) + distinct(h)),

down to the uniform distribution. It is trained on the very tokens that the language model was
trained on, and judged on documents that neither has seen.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from unlearnlib.errors import UnlearnError


class NGram:
    """Counts of up to `order` tokens over training sequences of token ids below `vocabulary`."""

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        vocabulary: int,
        order: int = 3,
        judged: Iterable[Sequence[int]] | None = None,
    ) -> None:
        """Count; `UnlearnError` for no token at all, or a token outside the vocabulary.

        Where the sequences are known that will be `judged`, only what follows their contexts is
        counted: the same answers for them, in little memory.
        """
        self.vocabulary, self.order = vocabulary, order
        wanted = None if judged is None else set(self._contexts(judged))
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            for position, token in enumerate(sequence):
                if not 0 <= token < vocabulary:
                    raise UnlearnError(
                        f"token {token} is outside a vocabulary of {vocabulary}: give the size "
                        "that the tokenizer has."
                    )
                for length in range(min(order - 1, position) + 1):
                    context = tuple(sequence[position - length : position])
                    if wanted is None or context in wanted:
                        counts[context][token] += 1
        if not counts:
            raise UnlearnError("the n-gram model was given no tokens: give at least one text.")
        # Arrays, so that a context costs one indexed addition when its distribution is needed.
        self._followers = {
            context: (np.fromiter(seen, np.int64), np.fromiter(seen.values(), np.float64))
            for context, seen in counts.items()
        }

    def _contexts(self, sequences: Iterable[Sequence[int]]) -> Iterable[tuple[int, ...]]:
        """What the tokens of some sequences are predicted from, shorter ones too."""
        for sequence in sequences:
            for position in range(len(sequence)):
                for length in range(min(self.order - 1, position) + 1):
                    yield tuple(sequence[position - length : position])

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """(V,) distribution of the next token after `context`, of which the last ones count."""
        p = np.full(self.vocabulary, 1 / self.vocabulary)
        for length in range(min(self.order - 1, len(context)) + 1):
            found = self._followers.get(tuple(context[len(context) - length :]))
            if found is None:
                break  # a context never seen; longer ones that end in it were not either
            tokens, counts = found
            total = counts.sum() + len(tokens)
            p = p * (len(tokens) / total)
            p[tokens] += counts / total
        return p

    def score(self, sequences: Iterable[Sequence[int]]) -> tuple[float, float]:
        """(accuracy, perplexity) of predicting every token but each sequence's first.

        The tokens that a language model predicts, too, so the two compare. NaN without any.
        """
        right, nats, targets = 0, 0.0, 0
        for sequence in sequences:
            for position in range(1, len(sequence)):
                p = self.probabilities(sequence[max(0, position - self.order + 1) : position])
                right += int(p.argmax()) == sequence[position]
                nats -= math.log(p[sequence[position]])
                targets += 1
        if not targets:
            return math.nan, math.nan
        return right / targets, math.exp(nats / targets)
