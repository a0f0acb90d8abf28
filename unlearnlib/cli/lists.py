"""`unlearn methods` and `unlearn profiles`."""

from __future__ import annotations

import argparse
import dataclasses

from unlearnlib.cli.output import Report, columns
from unlearnlib.profiles import DOMAINS, PROFILES

LEGEND = """
A number under weight or target is the weight on the gradient of ascent, and q is the distribution \
that p is brought to. p: the probability of the true token, r: under the original model. Strengths \
are set with --set, as in --set beta=0.5. More memory: what a method holds beside what ga does, H \
the hidden size of the model."""


def methods_command(args: argparse.Namespace) -> Report:
    """Every registered method: family, formula, terms, memory, and the documents that it needs."""
    from unlearnlib import methods as rows  # loads torch, as the next line does
    from unlearnlib.report.saved import term_in_words

    found = [
        {
            "name": name,
            "title": method.title,
            "family": rows.family_of(method.forget),
            "formula": rows.formula_of(method.forget),
            "strengths": method.options,
            "forget": term_in_words(method.forget),
            "retain": None if method.retain is None else term_in_words(method.retain),
            "data": method.data,
            "documents": rows.data_of(method),
            "memory": rows.memory_of(method),
        }
        for name, method in rows.METHODS.items()
    ]
    table = {name: rows.row_in_words(method) for name, method in rows.METHODS.items()}
    header = ("method", *table["ga"])
    listed = columns(header, [(name, *row.values()) for name, row in table.items()])
    return Report({"methods": found}, listed + LEGEND)


def profiles_command(args: argparse.Namespace) -> Report:
    """Every profile: its model, its corpus, its scale."""
    profiles = [dataclasses.asdict(profile) for profile in PROFILES.values()]
    header = ("name", "model", "corpus", "length", "about")
    return Report(
        {"profiles": profiles, "domains": list(DOMAINS)},
        columns(header, [[p[name] for name in header] for p in profiles]),
    )
