"""The chapter on the authors' release: what its label positions and averages change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from unlearnlib.book.main_table import main_table
from unlearnlib.book.records import (
    Column,
    baseline_value,
    domains_of,
    methods_of,
    seed_values,
    select,
    value,
)
from unlearnlib.looks import ATTACK, BASELINE_TITLES, domain_title, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import mean_and_spread, number, with_spread

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.metrics.scores import TokenScores


def alignment_table(
    alignment: Iterable[Record], records: Iterable[Record], baselines: Iterable[Record]
) -> pd.DataFrame:
    """Aligned labels beside the release's, for the methods that make labels."""
    import pandas as pd

    alignment, records, baselines = list(alignment), list(records), list(baselines)
    columns = [
        Column("Perplexity", "forget", "forget/perplexity"),
        Column("Perplexity", "general", "general/perplexity"),
        Column("Membership AUC", "Min-40 %", f"membership/{ATTACK}/auc"),
        Column("KL to oracle, nats", "forget", "oracle_kl/forget"),
    ]
    index, rows = [], []
    for domain in domains_of(alignment):
        for which in ("target", "oracle"):
            values = [baseline_value(baselines, domain, which, c.metric, records) for c in columns]
            if not all(map(math.isnan, values)):
                index.append((domain_title(domain), BASELINE_TITLES[which]))
                rows.append([number(x) for x in values])
        for method in methods_of(alignment):
            for name, group in (("aligned", records), ("release", alignment)):
                runs = select(group, domain, method)
                if runs:
                    index.append((domain_title(domain), f"{method_title(method)}, {name}"))
                    rows.append([with_spread([value(r, c.metric) for r in runs]) for c in columns])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "labels"]),
        columns=pd.MultiIndex.from_tuples([(c.group, c.split) for c in columns]),
    )


def flipped_table(
    records: Iterable[Record], baselines: Iterable[Record], attack: str = ATTACK
) -> pd.DataFrame:
    """AUC as measured beside max(AUC, 1 - AUC), which hides on which side of 0.5 it lies."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    metric = f"membership/{attack}/auc"
    index, rows = [], []
    for domain in domains_of(records):
        named = [
            (BASELINE_TITLES[which], baseline_value(baselines, domain, which, metric, records))
            for which in ("vanilla", "oracle")
        ]
        named += [
            (method_title(m), mean_and_spread(seed_values(records, domain, m, metric))[0])
            for m in methods_of(select(records, domain))
        ]
        for title, x in named:
            if not math.isnan(x):
                side = "less like members" if x < 0.5 else "more like members"
                index.append((domain_title(domain), title))
                rows.append([number(x), number(max(x, 1 - x)), side if x != 0.5 else "alike"])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "model"]),
        columns=["AUC", "flipped", "forget set looks"],
    )


def averages_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Perplexity per token beside perplexity per chunk, as the release averages."""
    columns = [
        Column(f"{split} perplexity", title, f"{split}/{name}")
        for split in ("forget", "general")
        for title, name in (("per token", "perplexity"), ("per chunk", "chunk_perplexity"))
    ]
    table = main_table(records, baselines, columns)
    keep = [row for row in table.index if row[1] != BASELINE_TITLES["target"]]
    return table.loc[keep]


def labels_table(tokens: Sequence[str], labels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Beside each other: the last token read, the next one (the truth), and made labels for it.

    tokens  T tokens of a text; labels: name -> T - 1 labels, the t-th for the token after t
    """
    import pandas as pd

    columns = {"last token read": tokens[:-1], "truth": tokens[1:], **labels}
    return pd.DataFrame({name: list(map(repr, x)) for name, x in columns.items()}).set_index(
        "last token read"
    )


def entropy_in_words(scores: TokenScores) -> str:
    """A model's divergence from itself, which is 0, and its cross-entropy with itself."""
    entropy = -float(np.mean(scores.mean, dtype=np.float64))
    return (
        f"Of vanilla against itself, over {len(scores)} retain chunks, the divergence is 0; the "
        f"cross-entropy is its own entropy, {number(entropy)} nats per token."
    )


def padding_in_words(lengths: Sequence[int], full: int) -> str:
    """Which share of the positions is padding when chunks are padded to `full` tokens."""
    share = 100 * (1 - sum(lengths) / (full * len(lengths)))
    return (
        f"Padded to {full:,} tokens, {number(share)} % of the positions of the {len(lengths)} "
        f"forget chunks would be padding: their mean length is {number(fmean(lengths))} tokens."
    )
