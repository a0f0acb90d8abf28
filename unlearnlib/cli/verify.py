"""`unlearn verify`: repeat published runs and compare every number."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unlearnlib.bench import Models, Selection, open_bench
from unlearnlib.cli.arguments import (
    chosen_domains,
    chosen_execution,
    chosen_limits,
    file_to_write,
    hush_transformers,
    write_output,
)
from unlearnlib.cli.inputs import check_tokenizer_of
from unlearnlib.cli.output import Report, columns
from unlearnlib.comparison import REMADE, STRICT, NumericalTolerance, as_row
from unlearnlib.devices import choose_device
from unlearnlib.profiles import get_profile
from unlearnlib.report.verification import verification
from unlearnlib.spec import RunSpec
from unlearnlib.text import duration, file_name, shell_join, source_name
from unlearnlib.verification import (
    check_published,
    find_baselines,
    find_runs,
    pick,
    recorded_seconds,
    verify_records,
    with_baselines,
)

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.comparison import Comparison


logger = logging.getLogger(__name__)


def verify_command(args: argparse.Namespace) -> Report:
    """Pick published runs at random, run them again with their baselines, and compare."""
    check_tokenizer_of(args)
    page = file_to_write(args.report, "--report", args.force)
    given = None if args.tolerance is None else NumericalTolerance(args.tolerance, args.tolerance)
    tolerance = given or STRICT
    remade = (given or REMADE) if args.remade else None
    domains, limits = chosen_domains(args.profile, args.domain), chosen_limits(args.limit)
    runs = find_runs(args.profile, domains, study=args.study, store=args.store)
    baselines = with_baselines(runs, find_baselines(args.profile, store=args.store))[len(runs) :]
    picked = with_baselines(pick(runs, args.sample, args.seed), baselines)
    expected = recorded_seconds(picked)
    logger.info(
        "repeating %d of %d records: about %s, by what they took when they were recorded",
        len(picked),
        len(runs) + len(baselines),
        duration(expected),
    )
    checks = [] if args.store is not None else check_published(args.profile, domains)
    device = choose_device(args.device)
    hush_transformers()

    def bench_for(spec: RunSpec) -> Bench:
        return open_bench(
            spec.profile,
            spec.domain,
            models=Models(
                args.model,
                base=spec.base,
                precision=spec.precision,
                device=device,
                tokenizer=args.tokenizer,
                bits=spec.base_bits,
            ),
            selection=Selection(args.corpora, limits),
            execution=chosen_execution(args, progress=False),
        )

    started = time.time()
    comparisons = verify_records(picked, bench_for, given, progress=not args.quiet, remade=remade)
    values = {
        "profile": args.profile,
        "study": args.study,
        "records": len(runs) + len(baselines),
        "sample": len(comparisons),
        "seed": args.seed,
        "tolerance": {"relative": tolerance.relative, "absolute": tolerance.absolute},
        **_verification_values(comparisons),
        "files": [dataclasses.asdict(c) | {"agrees": c.agrees} for c in checks],
        "expected_seconds": round(expected, 3),
        "seconds": round(time.time() - started, 3),
    }
    text = _verification_text(values, comparisons, tolerance, remade)
    if page is not None:
        command = _verify_again(args)
        html = verification(
            comparisons, tolerance, available=values["records"], command=command, remade=remade
        )
        write_output(page, html.encode("utf-8"), "--report", args.force)
        values["report"] = str(page)
        text += f"\nevery number: {page}"
    differ = values["differ"] or not all(check.agrees for check in checks)
    return Report(values, text, 1 if differ else 0)


def _verification_values(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How many records agree, the largest difference, and a row per record, for --json."""
    rows = [as_row(comparison) for comparison in comparisons]
    agree = sum(row["agrees"] for row in rows)
    measured = [row for row in rows if row["excess"] is not None]
    return {
        "remade": sum(row["remade"] for row in rows),
        "agree": agree,
        "differ": len(rows) - agree,
        "largest": max(measured, key=lambda row: row["excess"], default=None),
        "comparisons": rows,
    }


def _verification_text(
    values: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    tolerance: NumericalTolerance,
    remade: NumericalTolerance | None,
) -> str:
    """A row per record, how many agree, and what to know about a base that differs."""
    rows, largest = values["comparisons"], values["largest"]
    lines = [
        _verification_table(rows),
        f"{values['agree']} of {len(rows)} records agree (of {values['records']} in all); numbers "
        f"may differ by {_within(tolerance)}",
    ]
    for check in values["files"]:
        lines.append(f"{check['file']}: {'agrees' if check['agrees'] else 'DIFFERS'}")
        if said := check["reason"] or check["note"]:
            lines[-1] += f" ({said})"
    if remade is not None and values["remade"]:
        bases = {(c.record.model_hash[:12], c.base[:12]) for c in comparisons if c.base}
        which = ", ".join(f"published {theirs}, here {ours}" for theirs, ours in sorted(bases))
        lines.append(
            f"THE BASE DIFFERS in {values['remade']} of them: they were repeated on a vanilla "
            f"that was trained here ({which}). Of these only metrics were compared, within "
            f"{_within(remade)}: agreement says that the recipe leads to the same numbers, not "
            "that the runs are the same"
        )
    elif get_profile(values["profile"]).continued and any(
        re.search(r"another (retrained )?model", row["reason"]) for row in rows
    ):
        lines.append(
            "The vanilla of this profile is trained, and another kind of machine trains it to "
            "other bits: --remade compares with one that was trained here"
        )
    if largest is not None:
        lines.append(f"largest difference: {largest['excess']:.2g} of what is allowed")
    return "\n".join(lines)


def _within(tolerance: NumericalTolerance) -> str:
    """How far a repeated number may be from the published one."""
    ranks = f", ranks and shares by {tolerance.ranks:g} + the like" if tolerance.ranks else ""
    return f"{tolerance.absolute:g} + {tolerance.relative:g} x the published one{ranks}"


def _verification_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per record: whether it agrees, and the number that is furthest off."""
    return columns(
        ("record", "domain", "method", "seed", "result", "furthest off", "published", "repeated"),
        [
            (
                row["key"][:12],
                row["domain"],
                row["method"],
                str(row["seed"]),
                ("agree" if row["agrees"] else "DIFFER") + (" (remade)" if row["remade"] else ""),
                row["reason"] or row["metric"] or "",
                row["published"],
                row["repeated"],
            )
            for row in rows
        ],
    )


def _verify_again(args: argparse.Namespace) -> str:
    """The command that verifies the same records again; folders by name only, as in records."""
    words = ["unlearn", "verify", "--profile", args.profile]
    if args.study is not None:
        words += ["--study", args.study]
    words += [] if args.sample is None else ["--sample", str(args.sample)]
    words += ["--seed", str(args.seed)]
    if args.tolerance is not None:
        words += ["--tolerance", str(args.tolerance)]
    words += ["--remade"] if args.remade else []
    for name in args.domain or ():
        words += ["--domain", name]
    for limit in args.limit:
        words += ["--limit", limit]
    if args.model is not None:
        words += ["--model", source_name(args.model)]
    if args.tokenizer is not None:
        words += ["--tokenizer", source_name(args.tokenizer)]
    if args.store is not None:
        words += ["--store", file_name(args.store)]
    if args.corpora is not None:
        words += ["--corpora", file_name(args.corpora)]
    return shell_join(words)
