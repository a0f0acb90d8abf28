"""The chapter on learning rates: the perplexities that each rate ends at, and which are usable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogFormatterMathtext, LogLocator

from unlearnlib.book.drawing import (
    baseline_values,
    baselines_in_words,
    draw_baselines,
    draw_path,
    range_in_words,
    scale_course_axis,
)
from unlearnlib.book.records import (
    FORGET,
    NEAR_TARGET,
    baseline_value,
    domains_of,
    methods_of,
    select,
    value,
    within_factor,
)
from unlearnlib.book.trajectories import PROBES
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    checked,
    cross_handle,
    figure_function,
    legend_height,
    scientific_tick,
    set_log_axis,
)
from unlearnlib.looks import BASELINE_TITLES, domain_title, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import number
from unlearnlib.tuning_rule import TOLERATED_RISE

if TYPE_CHECKING:
    import pandas as pd


def usable(record: Record, target: float, general: float) -> bool:
    """Did a run come within a factor `NEAR_TARGET` of the target without harming other texts?

    general  vanilla's general perplexity, which may rise by the factor `TOLERATED_RISE`
    """
    return (
        record.status == "done"
        and within_factor(value(record, "forget/perplexity"), target, NEAR_TARGET)
        and value(record, "general/perplexity") <= TOLERATED_RISE * general
    )


def robustness(rates: Iterable[Record], baselines: Iterable[Record]) -> dict[str, tuple[int, int]]:
    """Method -> (usable settings, settings tried), over learning rates and domains."""
    rates, baselines = list(rates), list(baselines)
    out = {}
    for method in methods_of(rates):
        good = tried = 0
        for domain in domains_of(rates):
            target = baseline_value(baselines, domain, "target", "forget/perplexity", rates)
            general = baseline_value(baselines, domain, "vanilla", "general/perplexity", rates)
            runs = select(rates, domain, method)
            tried += len(runs)
            good += sum(usable(r, target, general) for r in runs)
        out[method] = (good, tried)
    return out


def rates_table(rates: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method: forget perplexity, and the rise of general perplexity, per rate."""
    import pandas as pd

    rates, baselines = list(rates), list(baselines)
    steps = sorted({r.spec["learning_rate"] for r in rates})
    index, rows = [], []
    for domain in domains_of(rates):
        general = baseline_value(baselines, domain, "vanilla", "general/perplexity", rates)
        for method in methods_of(select(rates, domain)):
            by_rate = {r.spec["learning_rate"]: r for r in select(rates, domain, method)}
            index.append((domain_title(domain), method_title(method)))
            row = []
            for step in steps:
                run = by_rate.get(step)
                if run is None:
                    row.append("–")
                elif run.status == "diverged":
                    row.append(f"diverged at {run.diverged_at}")
                else:
                    ratio = value(run, "general/perplexity") / general
                    row.append(f"{number(value(run, 'forget/perplexity'))} (×{number(ratio)})")
            rows.append(row)
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "method"]),
        columns=[f"{step:g}" for step in steps],
    )


def robustness_in_words(rates: Iterable[Record], baselines: Iterable[Record]) -> str:
    """Which methods have the most usable learning rates, in a Markdown paragraph."""
    table = robustness(rates, baselines)
    parts = [
        f"{method_title(method)} {good} of {tried}"
        for method, (good, tried) in sorted(table.items(), key=lambda item: -item[1][0])
    ]
    return (
        f"Usable settings (forget perplexity within a factor {NEAR_TARGET:g} of the target, "
        f"general perplexity up by at most {100 * (TOLERATED_RISE - 1):.0f} %): {'; '.join(parts)}."
    )


@figure_function
def learning_rates(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget and general perplexity at the end of a run against its learning rate."""
    records, baselines = checked(records, "learning rates"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = legend_height(layout, len(methods) + 4)
    figure, panels = layout.metric_panels(
        domains, PROBES[:2], 2.4 if not narrow else 2.1, xlabel="learning rate", extra=extra
    )
    steps = [r.spec["learning_rate"] for r in records]
    alt = ["Perplexities at the end of a run against its learning rate."]
    for ax, domain, metric in panels:
        marks = list(baseline_values(baselines, domain, metric, records).values())
        ours = select(records, domain)
        scale_course_axis(ax, metric, [value(r, metric) for r in ours], marks)
        set_log_axis(ax, "x", *axis_range(steps))
        _rate_axis(ax, steps)
        draw_baselines(ax, "y", baselines, domain, metric, records)
        for method in methods:
            runs = sorted(select(records, domain, method), key=lambda r: r.spec["learning_rate"])
            path = [
                (r.spec["learning_rate"], value(r, metric), r.status == "diverged") for r in runs
            ]
            draw_path(ax, path, method, cross_size=8)
    for domain in domains:
        parts = [
            f"{method_title(m)} {said}"
            for m in methods
            if (said := range_in_words(value(r, FORGET) for r in select(records, domain, m)))
        ]
        alt.append(
            f"{domain_title(domain)}, forget perplexity over all rates: {', '.join(parts)}; "
            f"{baselines_in_words(baselines, domain, FORGET, records)}."
        )
    add_legend(figure, layout, methods, tuple(BASELINE_TITLES), [cross_handle()], line=True)
    figure.alt = " ".join(alt)
    return figure


def _rate_axis(ax: Axes, rates: Iterable[float]) -> None:
    """Powers of ten as ticks of a logarithmic axis; the rates themselves within one decade."""
    steps = sorted(set(rates))
    if len(steps) <= 7 and steps[-1] < 10 * steps[0]:
        ax.xaxis.set_major_locator(FixedLocator(steps))
        ax.xaxis.set_major_formatter(scientific_tick)
    else:
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.xaxis.set_major_formatter(LogFormatterMathtext())
