"""Metrics: pure NumPy functions of `TokenScores`; nothing here touches a model."""

from __future__ import annotations

from unlearnlib.metrics.distance import mean_kl, target_gap
from unlearnlib.metrics.extraction import (
    extractable_share,
    extraction,
    longest_verbatim_run,
    verbatim_share,
)
from unlearnlib.metrics.membership import (
    KS,
    attack_scores,
    auc,
    best_balanced_accuracy,
    bootstrap_auc,
    loss_score,
    membership,
    min_k,
    min_k_plus_plus,
    roc,
    tpr_at_fpr,
    zlib_score,
)
from unlearnlib.metrics.perplexity import (
    accuracy,
    chunk_accuracy,
    chunk_perplexity,
    nll,
    perplexity,
)
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.metrics.utility import cloze, last_token_accuracy, last_word_accuracy

# Metrics that came after records were published: a record that lacks one says nothing about it.
LATER = ("last_word_accuracy",)

__all__ = [
    "KS",
    "LATER",
    "TokenScores",
    "accuracy",
    "attack_scores",
    "auc",
    "best_balanced_accuracy",
    "bootstrap_auc",
    "chunk_accuracy",
    "chunk_perplexity",
    "cloze",
    "extractable_share",
    "extraction",
    "last_token_accuracy",
    "last_word_accuracy",
    "longest_verbatim_run",
    "loss_score",
    "mean_kl",
    "membership",
    "min_k",
    "min_k_plus_plus",
    "nll",
    "perplexity",
    "roc",
    "summarise",
    "target_gap",
    "tpr_at_fpr",
    "verbatim_share",
    "zlib_score",
]


def summarise(
    forget: TokenScores | None,
    approximate: TokenScores | None = None,
    retain: TokenScores | None = None,
    general: TokenScores | None = None,
    *,
    prefix: int = 32,
    span: int = 16,
) -> dict[str, float]:
    """Every metric of a model's splits as one flat record, "GROUP/METRIC" -> value.

    - SPLIT/nll, perplexity, chunk_perplexity, accuracy, chunk_accuracy of each split given;
    - forget/ and approximate/ verbatim_share, longest_verbatim_run, extractable_share (means
      over chunks; `prefix` and `span` in tokens, see `extraction`);
    - membership/ATTACK/auc, balanced_accuracy, tpr_at_5_fpr, tpr_at_1_fpr if both sides are given;
    - oracle_kl/forget and oracle_kl/approximate, of scores that carry a KL divergence.

    A split that is None leaves no key. `UnlearnError` if a log-probability of forget or
    approximate is NaN, because a diverged model's membership scores have no ranks.
    """
    record: dict[str, float] = {}
    splits = {"forget": forget, "approximate": approximate, "retain": retain, "general": general}
    for split, scores in splits.items():
        if scores is None:
            continue
        for metric in (nll, perplexity, chunk_perplexity, accuracy, chunk_accuracy):
            record[f"{split}/{metric.__name__}"] = metric(scores)
        if split in ("forget", "approximate"):
            for name, value in extraction(scores, prefix, span).items():
                record[f"{split}/{name}"] = value
            if scores.kl is not None:
                record[f"oracle_kl/{split}"] = mean_kl(scores)
    if forget is not None and approximate is not None:
        for attack, values in membership(forget, approximate).items():
            for name, value in values.items():
                record[f"membership/{attack}/{name}"] = value
    return record
