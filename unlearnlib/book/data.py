"""The chapter on the data: lengths, facts, overlaps, and how far n-grams get."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from unlearnlib.book.records import baseline_value
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import DescribedFigure, Layout, add_legend, figure_function
from unlearnlib.looks import SPLIT_COLOURS, domain_title
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.corpus.documents import Document, DomainData


def token_lengths(data: DomainData, tokenizer: Any) -> dict[str, list[int]]:
    """Split -> tokens of each document, special tokens included."""
    from unlearnlib.corpus.documents import SPLITS

    return {
        split: [len(tokenizer(d.text, verbose=False)["input_ids"]) for d in data.split(split)]
        for split in SPLITS
    }


def overlap(one: Iterable[str], other: Iterable[str], n: int) -> float:
    """Share of the distinct n-grams of words of `one` that also stand in `other`; NaN for none."""
    grams = [
        {
            tuple(words[i : i + n])
            for text in texts
            for words in [text.split()]
            for i in _starts(words, n)
        }
        for texts in (one, other)
    ]
    return len(grams[0] & grams[1]) / len(grams[0]) if grams[0] else math.nan


def _starts(words: Sequence[str], n: int) -> range:
    return range(len(words) - n + 1)


def data_table(data: Mapping[str, DomainData], tokenizer: Any) -> pd.DataFrame:
    """Per domain and split: documents, tokens in all, tokens per document, facts."""
    import pandas as pd

    index, rows = [], []
    for domain, one in data.items():
        for split, lengths in token_lengths(one, tokenizer).items():
            if lengths:
                facts = sum(len(document.facts) for document in one.split(split))
                index.append((domain_title(domain), split.replace("_", " ")))
                rows.append(
                    [
                        f"{len(lengths):,}",
                        f"{sum(lengths):,}",
                        f"{fmean(lengths):.0f}",
                        f"{min(lengths)} to {max(lengths)}",
                        f"{facts:,}",
                    ]
                )
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "split"]),
        columns=["documents", "tokens", "mean length", "shortest to longest", "facts"],
    )


def facts_table(data: DomainData, split: str = "forget", count: int = 5) -> pd.DataFrame:
    """The first facts of a split as cloze questions: prompt, answer, wrong answers."""
    import pandas as pd

    rows = [
        (fact.prompt.strip(), fact.answer, ", ".join(fact.distractors))
        for document in data.split(split)
        for fact in document.facts
    ][:count]
    return pd.DataFrame(rows, columns=["prompt", "answer", "wrong answers"]).set_index("prompt")


def overlap_table(
    data: Mapping[str, DomainData], sizes: Sequence[int] = (3, 5, 8, 13)
) -> pd.DataFrame:
    """Per domain, how much of one split's n-grams another split holds, in %.

    Forget and approximate sets that are alike share as much with the retain set.
    """
    import pandas as pd

    pairs = (("forget", "retain"), ("approximate", "retain"), ("forget", "approximate"))
    index, rows = [], []
    for domain, one in data.items():
        texts = {s: [d.text for d in one.split(s)] for s in ("forget", "retain", "approximate")}
        for a, b in pairs:
            if texts[a] and texts[b]:
                index.append((domain_title(domain), f"{a} in {b}"))
                shares = (overlap(texts[a], texts[b], n) for n in sizes)
                rows.append(["–" if math.isnan(x) else f"{100 * x:.1f}" for x in shares])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "n-grams of"]),
        columns=[f"{n} words" for n in sizes],
    )


def trigram_table(
    data: Mapping[str, DomainData],
    trained_on: Iterable[Document],
    baselines: Iterable[Record],
    tokenizer: Any,
) -> pd.DataFrame:
    """Accuracy on the approximate set: vanilla's beside that of a trigram of its training data."""
    import pandas as pd

    from unlearnlib.metrics.ngram import NGram

    def tokens(documents: Iterable[Document]) -> list[list[int]]:
        return [tokenizer(d.text, verbose=False)["input_ids"] for d in documents]

    baselines = list(baselines)
    model = NGram(tokens(trained_on), len(tokenizer))
    rows = []
    for domain, one in data.items():
        right, perplexity = model.score(tokens(one.approximate))
        measured = [
            baseline_value(baselines, domain, "vanilla", f"approximate/{name}")
            for name in ("accuracy", "perplexity")
        ]
        rows.append([number(x) for x in (right, measured[0], perplexity, measured[1])])
    return pd.DataFrame(
        rows,
        index=pd.Index([domain_title(d) for d in data], name="domain"),
        columns=pd.MultiIndex.from_product([["Accuracy", "Perplexity"], ["trigram", "vanilla"]]),
    )


@figure_function
def document_lengths(
    lengths: Mapping[str, Mapping[str, Sequence[int]]], *, narrow: bool = False
) -> DescribedFigure:
    """Histograms of document lengths, a panel per domain; lengths: domain -> split -> tokens."""
    layout, domains = Layout(narrow), list(lengths)
    if not domains:
        raise UnlearnError("there are no document lengths: give at least one domain.")
    figure, panels = layout.panels(domains, 2.3, ylabel="share of documents, %", extra=0.35)
    shown = [n for d in domains for s in SPLIT_COLOURS for n in lengths[d].get(s, ())] or [0, 1]
    bins = np.linspace(min(shown), max(shown) + 1, 19).tolist()
    alt = ["Histograms of document lengths in tokens."]
    for ax, domain in panels:
        said = []
        for split, colour in SPLIT_COLOURS.items():
            values = lengths[domain].get(split, ())
            if not len(values):
                continue
            filled = split == "retain"
            shares = np.full(len(values), 100 / len(values))
            look: dict[str, Any] = {"alpha": 0.3} if filled else {"linewidth": 1.8}
            kind: Any = "stepfilled" if filled else "step"
            ax.hist(values, bins, weights=shares, color=colour, histtype=kind, **look)
            said.append(f"{split} {len(values)} documents, mean {number(float(np.mean(values)))}")
        ax.set_xlabel("tokens per document")
        alt.append(f"{domain_title(domain)}: {'; '.join(said)}.")
    handles = [Line2D([], [], color=c, label=s, linewidth=3) for s, c in SPLIT_COLOURS.items()]
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure
