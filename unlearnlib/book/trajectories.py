"""The chapter on trajectories: perplexities and membership after every update."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from unlearnlib.book.drawing import (
    baseline_values,
    baselines_in_words,
    course,
    draw_baselines,
    scale_course_axis,
)
from unlearnlib.book.records import FORGET, GENERAL, baseline_value, domains_of, methods_of, select
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    checked,
    clamp,
    draw_cross,
    figure_function,
    legend_height,
)
from unlearnlib.looks import ATTACK, BASELINE_TITLES, domain_title, method_style, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

PROBES = (
    (FORGET, "forget perplexity"),
    (GENERAL, "general perplexity"),
    (f"membership/{ATTACK}/auc", "membership AUC"),
)


def trajectory_table(trajectory: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """When a run passes the target, and what it has cost in general perplexity, then and after."""
    import pandas as pd

    trajectory, baselines = list(trajectory), list(baselines)
    index, rows = [], []
    for domain in domains_of(trajectory):
        target = baseline_value(baselines, domain, "target", "forget/perplexity", trajectory)
        general = baseline_value(baselines, domain, "vanilla", "general/perplexity", trajectory)
        for method in methods_of(select(trajectory, domain)):
            run = select(trajectory, domain, method)[0]
            probed = [row for row in run.trajectory if "forget/perplexity" in row]
            passed = next((row for row in probed if row["forget/perplexity"] >= target), None)
            last = probed[-1] if probed else {}
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    "never" if passed is None else str(passed["update"]),
                    "–" if passed is None else _ratio(passed, general),
                    number(last.get("forget/perplexity", math.nan)),
                    _ratio(last, general),
                    number(last.get(f"membership/{ATTACK}/auc", math.nan)),
                    "no" if run.diverged_at is None else f"at update {run.diverged_at}",
                ]
            )
    columns = [
        ("Passing the target", "update"),
        ("Passing the target", "general, × vanilla"),
        ("At the end", "forget"),
        ("At the end", "general, × vanilla"),
        ("At the end", "AUC"),
        ("", "diverged"),
    ]
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "method"]),
        columns=pd.MultiIndex.from_tuples(columns),
    )


def _ratio(row: Mapping[str, Any], general: float) -> str:
    return number(row.get("general/perplexity", math.nan) / general)


def pace_in_words(trajectory: Iterable[Record]) -> str:
    """Whether runs slow down by themselves: is any update larger than the last? Markdown."""
    paths = [
        [float(row["forget/perplexity"]) for row in run.trajectory if "forget/perplexity" in row]
        for run in trajectory
    ]
    steps = [
        [math.log(b / a) for a, b in itertools.pairwise(path)]
        for path in paths
        if len(path) > 2 and all(0 < x < math.inf for x in path)
    ]
    if not steps:
        return ""
    fastest = sum(step[-1] == max(step) for step in steps)
    return (
        f"In {fastest} of {len(steps)} runs the last update moves the logarithm of forget "
        "perplexity at least as much as any before it: these do not stop by themselves."
    )


def turn_in_words(trajectory: Iterable[Record]) -> str:
    """Where along a run the oracle is nearest, by KL on the forget set, in a Markdown sentence."""
    name = "oracle_kl/forget"
    paths = [[row for row in run.trajectory if name in row] for run in trajectory]
    paths = [path for path in paths if len(path) > 1 and path[0][name] > 0]
    if not paths:
        return ""
    turns = [min(path, key=lambda row: float(row[name])) for path in paths]
    shares = [turn[name] / path[0][name] for turn, path in zip(turns, paths, strict=True)]
    updates = [int(turn["update"]) for turn in turns]
    last = max(int(path[-1]["update"]) for path in paths)
    farther = sum(path[-1][name] > path[0][name] for path in paths)
    return (
        f"A run is nearest to the oracle on the forget set after {min(updates)} to {max(updates)} "
        f"of {last} updates, at {number(min(shares))} to {number(max(shares))} times the distance "
        f"that vanilla has (KL). {farther} of {len(paths)} runs end farther from it than vanilla "
        "is."
    )


@figure_function
def trajectories(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget perplexity, general perplexity and membership AUC after every update."""
    records, baselines = checked(records, "trajectories"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = legend_height(layout, len(methods) + 3)
    figure, panels = layout.metric_panels(
        domains, PROBES, 2.0 if not narrow else 1.9, xlabel="update", extra=extra
    )
    alt = ["Course of perplexities and membership AUC over updates."]
    for ax, domain, metric in panels:
        marks = list(baseline_values(baselines, domain, metric, records).values())
        runs = [(m, r) for m in methods for r in select(records, domain, m)[:1]]
        scale_course_axis(ax, metric, [v for _, r in runs for v in course(r, metric)[1]], marks)
        draw_baselines(ax, "y", baselines, domain, metric, records)
        low, high = ax.get_ylim()
        for method, run in runs:
            updates, values = course(run, metric)
            inside = [clamp(v, low, high) for v in values]
            style = method_style(method)
            ax.plot(updates, inside, linewidth=1.5, markersize=3.6, markeredgewidth=0, **style)
            if run.diverged_at is not None and inside:
                draw_cross(ax, updates[-1], inside[-1], style["color"])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for domain in domains:
        ends = []
        for method in methods:
            for run in select(records, domain, method)[:1]:
                values = course(run, FORGET)[1]
                if values:
                    end = f"{method_title(method)} {number(values[-1])}"
                    stop = f" (diverged at update {run.diverged_at})" if run.diverged_at else ""
                    ends.append(end + stop)
        alt.append(
            f"{domain_title(domain)}, forget perplexity at the end: "
            f"{', '.join(ends) or 'no probe'}; "
            f"{baselines_in_words(baselines, domain, FORGET, records)}."
        )
    add_legend(figure, layout, methods, tuple(BASELINE_TITLES), line=True)
    figure.alt = " ".join(alt)
    return figure
