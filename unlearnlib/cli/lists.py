"""`unlearn methods` and `unlearn profiles`."""

from __future__ import annotations

import argparse
import dataclasses

from unlearnlib.cli.output import Report, columns
from unlearnlib.profiles import DOMAINS, PROFILES


def methods_command(args: argparse.Namespace) -> Report:
    """Every registered method: its terms and its retain data."""
    from unlearnlib.methods import METHODS  # loads torch, as the next line does
    from unlearnlib.report.saved import term_in_words

    methods = [
        {
            "name": name,
            "title": method.title,
            "forget": term_in_words(method.forget),
            "retain": None if method.retain is None else term_in_words(method.retain),
            "data": method.data,
        }
        for name, method in METHODS.items()
    ]
    rows = [(m["name"], m["forget"], m["retain"] or "", m["data"] or "") for m in methods]
    text = columns(("method", "forget term", "retain term", "retain data"), rows)
    return Report({"methods": methods}, text)


def profiles_command(args: argparse.Namespace) -> Report:
    """Every profile: its model, its corpus, its scale."""
    profiles = [dataclasses.asdict(profile) for profile in PROFILES.values()]
    header = ("name", "model", "corpus", "length", "about")
    return Report(
        {"profiles": profiles, "domains": list(DOMAINS)},
        columns(header, [[p[name] for name in header] for p in profiles]),
    )
