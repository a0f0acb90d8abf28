"""Metrics: pure NumPy functions of `TokenScores`; nothing here touches a model.

A metric of every record is a function in one of these files with `@metric` before it: `summarise`
and `LATER` follow from that. The names below are what other code takes from here.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from unlearnlib.metrics.distance import mean_kl as mean_kl
from unlearnlib.metrics.distance import target_gap as target_gap
from unlearnlib.metrics.extraction import extractable_share as extractable_share
from unlearnlib.metrics.extraction import extraction as extraction
from unlearnlib.metrics.extraction import longest_verbatim_run as longest_verbatim_run
from unlearnlib.metrics.extraction import verbatim_share as verbatim_share
from unlearnlib.metrics.membership import KS as KS
from unlearnlib.metrics.membership import attack_scores as attack_scores
from unlearnlib.metrics.membership import auc as auc
from unlearnlib.metrics.membership import best_balanced_accuracy as best_balanced_accuracy
from unlearnlib.metrics.membership import bootstrap_auc as bootstrap_auc
from unlearnlib.metrics.membership import loss_score as loss_score
from unlearnlib.metrics.membership import membership as membership
from unlearnlib.metrics.membership import min_k as min_k
from unlearnlib.metrics.membership import min_k_plus_plus as min_k_plus_plus
from unlearnlib.metrics.membership import roc as roc
from unlearnlib.metrics.membership import tpr_at_fpr as tpr_at_fpr
from unlearnlib.metrics.membership import zlib_score as zlib_score
from unlearnlib.metrics.perplexity import accuracy as accuracy
from unlearnlib.metrics.perplexity import chunk_accuracy as chunk_accuracy
from unlearnlib.metrics.perplexity import chunk_perplexity as chunk_perplexity
from unlearnlib.metrics.perplexity import nll as nll
from unlearnlib.metrics.perplexity import perplexity as perplexity
from unlearnlib.metrics.registry import METRICS as METRICS
from unlearnlib.metrics.registry import metric as metric
from unlearnlib.metrics.scores import TokenScores as TokenScores
from unlearnlib.metrics.utility import cloze as cloze
from unlearnlib.metrics.utility import last_token_accuracy as last_token_accuracy
from unlearnlib.metrics.utility import last_word_accuracy as last_word_accuracy

for _module in pkgutil.iter_modules(__path__):  # so that the metrics of every file are there
    import_module(f"{__name__}.{_module.name}")

# Names of metrics that came after records were published: a record that lacks one says nothing
# about it.
LATER = tuple(name for m in METRICS.values() if m.later for name in m.names)


def summarise(
    forget: TokenScores | None,
    approximate: TokenScores | None = None,
    retain: TokenScores | None = None,
    general: TokenScores | None = None,
    *,
    prefix: int = 32,
    span: int = 16,
) -> dict[str, float]:
    """Every metric of `METRICS` on a model's splits as one flat record, "GROUP/METRIC" -> value.

    - SPLIT/nll, perplexity, chunk_perplexity, accuracy, chunk_accuracy of each split given;
    - forget/ and approximate/ verbatim_share, longest_verbatim_run, extractable_share (means
      over chunks; `prefix` and `span` in tokens, see `extraction`);
    - membership/ATTACK/auc, balanced_accuracy, tpr_at_5_fpr, tpr_at_1_fpr if both sides are given;
    - oracle_kl/forget and oracle_kl/approximate, of scores that carry a KL divergence.

    A split that is None leaves no key, and neither does a metric that takes more than scores,
    `prefix` and `span` (`last_word_accuracy`). `UnlearnError` if a log-probability of forget or
    approximate is NaN, because a diverged model's membership scores have no ranks.
    """
    given = {"forget": forget, "approximate": approximate, "retain": retain, "general": general}
    scores = {split: one for split, one in given.items() if one is not None}
    known = {"prefix": prefix, "span": span}
    metrics = [m for m in METRICS.values() if known.keys() >= set(m.options)]
    # Metrics of all splits first, those that need a reference model last.
    metrics.sort(key=lambda m: (-len(m.splits), m.reference))
    record: dict[str, float] = {}
    for split, one in scores.items():
        for m in metrics:
            if split in m.splits and not m.together and (one.kl is not None or not m.reference):
                record.update(m.values(split, one, known=known))
    for m in metrics:
        if m.together and all(split in scores for split in m.splits):
            record.update(m.values("", *(scores[split] for split in m.splits), known=known))
    return record
