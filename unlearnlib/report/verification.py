"""The report of `unlearn verify`: every published number beside its repetition."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearnlib.comparison import Comparison, Difference, NumericalTolerance
from unlearnlib.report.page import render
from unlearnlib.text import show

MOST_SHOWN = 200  # numbers of one run, beside its metrics, that are listed one by one


def verification(
    comparisons: Sequence[Comparison],
    tolerance: NumericalTolerance,
    *,
    available: int,
    command: str = "",
    remade: NumericalTolerance | None = None,
) -> str:
    """The report of `unlearn verify` as HTML: the verdict first, then every run, number by number.

    available  how many records the comparisons were picked from; command  what repeats it all;
    remade  what is allowed where the repetition started from a model that was trained here
    """
    others = [c for c in comparisons if c.base] if remade else []
    return render(
        "verification.html",
        title="Published and repeated: report",
        differing=sum(not c.agrees for c in comparisons),
        runs=[_Run.of(c) for c in comparisons],
        available=available,
        compared=sum(len(c.differences) for c in comparisons),
        tolerance=tolerance,
        others=len(others),
        bases=sorted({(c.record.model_hash[:12], c.base[:12]) for c in others}),
        remade=remade,
        command=command,
        places=_places(comparisons),
        most_shown=MOST_SHOWN,
        share=_share,
        digits=_digits,
        isfinite=math.isfinite,
    )


@dataclass(frozen=True)
class _Run:
    """What the page shows of one comparison.

    shown    the numbers that are listed: every metric, and of the others those that differ
    others   part of the record -> how many of its numbers were compared beside the metrics
    off      how many of `others` differ
    """

    comparison: Comparison
    shown: Sequence[Difference]
    others: Mapping[str, int]
    off: int

    @classmethod
    def of(cls, comparison: Comparison) -> _Run:
        """Differences first, among the metrics too; at most `MOST_SHOWN` beside the metrics."""
        known = comparison.record.metrics
        metrics = [d for d in comparison.differences if d.name in known or "/" not in d.name]
        listed = {d.name for d in metrics}
        rest = [d for d in comparison.differences if d.name not in listed]
        off = [d for d in rest if not d.agrees]
        parts = Counter(d.name.partition("/")[0] for d in rest)
        return cls(
            comparison,
            [*off[:MOST_SHOWN], *sorted(metrics, key=lambda d: (d.agrees, d.name))],
            dict(sorted(parts.items())),
            len(off),
        )


def _places(comparisons: Sequence[Comparison]) -> list[tuple[tuple[str, ...], int]]:
    """What the published numbers and the repeated ones were computed with, and how many runs."""
    rows: Counter[tuple[str, ...]] = Counter()
    for comparison in comparisons:
        rows["published", *_place(comparison.record.provenance)] += 1
        if comparison.repeated is not None:
            rows["repeated", *_place(comparison.repeated.provenance)] += 1
    return sorted(rows.items())


def _place(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """(device, threads, versions, commit, day) of a record's provenance; "–" for what is not."""
    versions = provenance.get("versions")
    commit = str(provenance.get("commit") or "–")
    device = provenance.get("accelerator") or provenance.get("processor")
    named = [str(x) for x in (provenance.get("device"), device, provenance.get("system")) if x]
    return (
        ", ".join(named) or "–",
        str(provenance.get("threads", "–")),
        ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        if isinstance(versions, Mapping)
        else "–",
        commit[:12] + ("-dirty" if commit.endswith("-dirty") else ""),
        str(provenance.get("started") or "–")[:10],
    )


def _share(excess: float) -> str:
    """How much of what is allowed a difference takes."""
    return "∞" if math.isinf(excess) else f"{excess:.2g}"


def _digits(x: float) -> str:
    """Seven significant digits: more than rounding leaves alike."""
    return f"{x:.7g}" if math.isfinite(x) else show(x)
