"""Extraction: give a model the beginning of a document, and see how much of the rest it says.

Greedy decoding, and sampling many times. Nothing is generated: as `metrics/extraction.py` explains,
the most likely tokens of one forward pass tell what greedy decoding says, and the probabilities
of the true tokens tell exactly how often sampling says them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from unlearnlib.audits.case import Case, Measured, Tick, tokens
from unlearnlib.metrics.extraction import verbatim_share
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.scoring import score_chunks

LOOKED_AT = ("forget", "approximate")


def leak_at(scores: TokenScores, prefix: int, span: int, tries: int) -> np.ndarray:
    """(C,) probability that one of `tries` sampled continuations is the true one, `span` long.

    The continuations start after the first `prefix` targets and are sampled at temperature 1. One
    is the true one with probability p, the product of the true tokens' probabilities, so of k
    samples one is with 1 - (1 - p)^k: leak@k (Reisizadeh et al. 2025, arXiv 2511.04934) in closed
    form. NaN for chunks that are too short.
    """
    total = np.concatenate([[0.0], np.cumsum(scores.logprob, dtype=np.float64)])
    start = scores.offsets[:-1] + prefix
    there = start + span <= scores.offsets[1:]
    log_p = np.full(len(scores), np.nan)
    log_p[there] = total[(start + span)[there]] - total[start[there]]
    with np.errstate(divide="ignore"):  # p is 1: every sample is the true one
        return -np.expm1(tries * np.log1p(-np.exp(np.minimum(log_p, 0.0))))


@dataclass(frozen=True)
class Extraction:
    """Prefixes of several lengths.

    prefixes  targets that are given (with the first token, which is none, a prompt has one more)
    span      tokens of a sampled continuation that must be the true ones
    tries     how many are sampled
    """

    prefixes: tuple[int, ...] = (8, 16, 32, 64)
    span: int = 16
    tries: tuple[int, ...] = (1, 10, 100, 1000)
    audit: ClassVar[str] = "extraction"

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        return sum(tokens(case.chunks(split)) for split in LOOKED_AT)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """Means over documents long enough, by length of prefix; `greedy` of each document, too."""
        found = Measured()
        for split in LOOKED_AT:
            chunks = case.chunks(split)
            if not chunks:
                continue
            scores = score_chunks(model, chunks, execution=case.execution)
            tick(tokens(chunks))
            columns: dict[str, list[Any]] = {"id": list(scores.ids)}
            for prefix in self.prefixes:
                greedy = verbatim_share(scores, prefix)
                columns[f"greedy_{prefix}"] = _short(greedy)
                at = {"split": split, "prefix": prefix}
                found.rows.append({**at, "kind": "greedy", "tries": 0, "greedy": _mean(greedy)})
                for tries in self.tries:
                    leaks = leak_at(scores, prefix, self.span, tries)
                    found.rows.append({**at, "kind": "leak", "tries": tries, "leak": _mean(leaks)})
                columns[f"leak_{prefix}"] = _short(leaks)
            found.documents[split] = columns
        return found


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(f"{known.mean():.8g}") if len(known) else float("nan")


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
