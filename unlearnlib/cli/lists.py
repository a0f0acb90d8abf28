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

    short = {rows.Descent: "descent", rows.KLToOriginal: "KL", rows.JensenShannon: "Jensen-Shannon"}
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
    header = ("method", "family", "weight or target", "strengths", "retain term", "documents")
    table = [
        (
            name,
            rows.family_of(method.forget),
            rows.formula_of(method.forget),
            " ".join(f"{option}={value:g}" for option, value in method.options.items()),
            short.get(type(method.retain), "" if method.retain is None else "its own"),
            rows.data_of(method),
            rows.memory_of(method),
        )
        for name, method in rows.METHODS.items()
    ]
    return Report({"methods": found}, columns((*header, "more memory"), table) + LEGEND)


def profiles_command(args: argparse.Namespace) -> Report:
    """Every profile: its model, its corpus, its scale."""
    profiles = [dataclasses.asdict(profile) for profile in PROFILES.values()]
    header = ("name", "model", "corpus", "length", "about")
    return Report(
        {"profiles": profiles, "domains": list(DOMAINS)},
        columns(header, [[p[name] for name in header] for p in profiles]),
    )
