"""The chapter on the target: the paper's target beside the retrained model's perplexity.

For requests of any size, from the scores of single documents (`target_ratios`); and along a run, at
which update either of the two would have stopped it (`early_stops`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from unlearnlib.book.drawing import method_panels, name_rows
from unlearnlib.book.records import (
    FORGET,
    baseline_record,
    baseline_value,
    bootstrap_perplexity,
    crossing,
    document_totals,
    domain_index,
    domains_of,
    first_perplexity,
    methods_of,
    select,
    value,
)
from unlearnlib.book.sensitivity import scale_swept_axis
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    checked,
    clamp,
    draw_points,
    figure_function,
    mark_handle,
    set_log_axis,
)
from unlearnlib.looks import (
    BASELINE_STYLES,
    BASELINE_TITLES,
    INK,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

TARGET_WITHIN = 1.10  # the paper's target may be off by this factor


@dataclass(frozen=True)
class TargetRatio:
    """The paper's target as a multiple of the truth, for requests of `size` documents.

    first      of the first `size` documents of the forget set
    low, high  95 % of requests drawn at random lie between
    off        share of such requests for which the target is off by more than a given factor
    early      share for which the target is below the truth: it would stop too early
    """

    size: int
    first: float
    low: float
    median: float
    high: float
    off: float
    early: float


def target_ratios(
    baselines: Iterable[Record],
    domain: str,
    sizes: Sequence[int],
    within: float = 1.1,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[TargetRatio]:
    """Target ÷ truth for requests of several sizes, from the scores of single documents.

    A request of n documents is drawn with replacement from the forget set, and the approximate
    set is drawn anew with it (bootstrap): both are samples of the same kind of document. Sizes
    beyond the forget set, and domains without both baselines, are left out.
    """
    baselines = list(baselines)
    vanilla, oracle = (baseline_record(baselines, domain, b) for b in ("vanilla", "oracle"))
    if vanilla is None or oracle is None:
        return []
    target = value(vanilla, "approximate/perplexity")
    near_tokens, near_nats = document_totals(vanilla, "approximate")
    tokens, nats = document_totals(oracle, "forget")
    if not len(tokens) or not len(near_tokens):
        return []
    draw = np.random.default_rng(seed)
    out = []
    for size in sizes:
        if size > len(tokens):
            continue
        ours = draw.integers(len(tokens), size=(resamples, size))
        near = draw.integers(len(near_tokens), size=(resamples, len(near_tokens)))
        with np.errstate(invalid="ignore", over="ignore"):
            logs = near_nats[near].sum(1) / near_tokens[near].sum(1)
            logs = logs - nats[ours].sum(1) / tokens[ours].sum(1)
            ratios = np.exp(logs)
            tail = (1 - level) / 2
            low, median, high = np.quantile(ratios, [tail, 0.5, 1 - tail])
            off = float(np.mean(~(np.abs(logs) <= math.log(within))))
        first = first_perplexity(oracle, "forget", size)
        out.append(
            TargetRatio(
                size,
                target / first if first else math.nan,
                float(low),
                float(median),
                float(high),
                off,
                float(np.mean(logs < 0)),
            )
        )
    return out


@dataclass(frozen=True)
class EarlyStop:
    """At which update a run would have been stopped, by the paper's target and by the truth.

    Updates are interpolated between probes, in the logarithm of the perplexity; infinite where
    the run never gets there, NaN where there is no yardstick or no probe.
    """

    domain: str
    method: str
    learning_rate: float
    by_target: float
    by_truth: float

    @property
    def late(self) -> float:
        """Updates that the target stops after the truth (negative: before it).

        Infinite where the target never stops a run that the truth stops, and minus infinite the
        other way round; NaN where neither does.
        """
        if math.isinf(self.by_target) and math.isinf(self.by_truth):
            return math.nan
        return self.by_target - self.by_truth


def early_stops(records: Iterable[Record], baselines: Iterable[Record]) -> list[EarlyStop]:
    """At which updates target and truth would have stopped each probed run, in the book's order."""
    records, baselines = list(records), list(baselines)
    out = []
    for domain in domains_of(records):
        target, truth = (
            baseline_value(baselines, domain, which, FORGET, records)
            for which in ("target", "oracle")
        )
        for method in methods_of(select(records, domain)):
            out += [
                EarlyStop(
                    domain,
                    method,
                    run.spec["learning_rate"],
                    crossing(run, target),
                    crossing(run, truth),
                )
                for run in select(records, domain, method)
                if any(FORGET in row for row in run.trajectory)
            ]
    return out


def target_sizes_table(
    baselines: Iterable[Record], sizes: Sequence[int], within: float = 1.1
) -> pd.DataFrame:
    """`target_ratios` of every domain as text."""
    import pandas as pd

    baselines = list(baselines)
    index, rows = [], []
    for domain in domains_of(baselines):
        for ratio in target_ratios(baselines, domain, sizes, within):
            index.append((domain_title(domain), f"{ratio.size}"))
            interval = f"{number(ratio.low)} to {number(ratio.high)}"
            shares = (f"{100 * x:.0f} %" for x in (ratio.off, ratio.early))
            rows.append([number(ratio.first), number(ratio.median), interval, *shares])
    return pd.DataFrame(
        rows,
        index=domain_index(index, "documents"),
        columns=[
            "first documents",
            "median request",
            "95 % of requests",
            f"off by more than {100 * (within - 1):.0f} %",
            "below the truth",
        ],
    )


def early_stops_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method: the update at which each yardstick stops, and the difference.

    Whole updates are what a practitioner can stop at: the first at or above the level.
    """
    import pandas as pd

    index, rows = [], []
    for stop in early_stops(records, baselines):
        index.append((domain_title(stop.domain), method_title(stop.method)))
        rows.append([_whole(stop.by_target), _whole(stop.by_truth), late_in_words(stop.late)])
    return pd.DataFrame(
        rows,
        index=domain_index(index),
        columns=["stopped by the target", "stopped by the truth", "target stops"],
    )


def _whole(update: float) -> str:
    if math.isnan(update):
        return "–"
    return "never" if math.isinf(update) else f"{math.ceil(update - 1e-9)}"


def target_sizes_in_words(
    baselines: Iterable[Record], sizes: Sequence[int], within: float = 1.1
) -> str:
    """How accurate the target is for one document and for the whole set, as a Markdown list."""
    baselines = list(baselines)
    lines = []
    for domain in domains_of(baselines):
        ratios = target_ratios(baselines, domain, sizes, within)
        if not ratios:
            lines.append(f"- **{domain_title(domain)}.** There is no oracle to compare with.")
            continue
        parts = [
            f"for {r.size} {'document' if r.size == 1 else 'documents'} between {number(r.low)} "
            f"and {number(r.high)} times the truth in 95 % of requests drawn at random, off by "
            f"more than {100 * (within - 1):.0f} % in {100 * r.off:.0f} % of them"
            for r in dict.fromkeys((ratios[0], ratios[-1]))
        ]
        lines.append(f"- **{domain_title(domain)}.** The target is, {'; '.join(parts)}.")
    return "\n".join(lines)


def early_stops_in_words(records: Iterable[Record], baselines: Iterable[Record]) -> str:
    """How early or late the target would stop, per domain, as a Markdown list."""
    lines = []
    found = early_stops(records, baselines)
    for domain in dict.fromkeys(s.domain for s in found):
        ours = [s for s in found if s.domain == domain]
        known = [s.late for s in ours if math.isfinite(s.late)]
        one = sum(math.isinf(s.late) for s in ours)
        line = (
            f"- **{domain_title(domain)}.** Of {len(ours)} runs, {len(known)} reach both levels, "
            f"{one} only one of them."
        )
        if known:
            early, late = sum(x < 0 for x in known), sum(x > 0 for x in known)
            least, most = (number(f(map(abs, known))) for f in (min, max))
            line += (
                f" Of those that reach both, the target stops {early} too early and {late} too "
                f"late, by {least} to {most} updates."
            )
        lines.append(line)
    return "\n".join(lines)


def late_in_words(late: float) -> str:
    """ "0.3 updates late", "1.2 updates early"; words where there is no number."""
    if math.isnan(late):
        return "–"
    if math.isinf(late):
        return "never, the truth does" if late > 0 else "though the truth never does"
    side = "late" if late > 0 else "early"
    return "with the truth" if abs(late) < 0.05 else f"{abs(late):.1f} updates {side}"


@figure_function
def target_check(baselines: Iterable[Record], *, narrow: bool = False) -> DescribedFigure:
    """The paper's target (vanilla on approximate) beside the truth (oracle on forget)."""
    baselines = checked(baselines, "the target")
    layout, domains = Layout(narrow), domains_of(baselines)
    figure, axes = layout.grid(2, 0.8 + 0.62 * len(domains), beside=2, extra=0.35)
    alt = ["The paper’s target beside the truth, per domain."]
    rows = (
        ("vanilla", "vanilla", "forget", -0.24),
        ("target", "vanilla", "approximate", 0.0),
        ("oracle", "oracle", "forget", 0.24),
    )
    markers = {"vanilla": "o", "target": "D", "oracle": "s"}
    perplexities: list[float] = []
    for row, domain in enumerate(domains):
        said = []
        for name, which, split, offset in rows:
            record = baseline_record(baselines, domain, which)
            if record is None:
                continue
            style = {"color": BASELINE_STYLES[name]["color"], "marker": markers[name]}
            x = value(record, f"{split}/perplexity")
            low, high = bootstrap_perplexity(record, split)
            if math.isfinite(x):
                perplexities += [x, low, high]
                axes[0].plot([low, high], [row + offset] * 2, color=style["color"], linewidth=2)
                axes[0].plot(x, row + offset, markersize=7.5, **style)
            right = value(record, f"{split}/accuracy")
            if math.isfinite(right):
                axes[1].plot(100 * right, row + offset, markersize=7.5, **style)
            said.append(
                f"{BASELINE_TITLES[name]}: perplexity {number(x)} (95 % {number(low)} to "
                f"{number(high)}), accuracy {number(100 * right)} %"
            )
        alt.append(f"{domain_title(domain)}: {'; '.join(said)}.")
    for ax, label in zip(axes, ("perplexity", "next-token accuracy, %"), strict=True):
        name_rows(ax, [domain_title(d) for d in domains], shown=narrow or ax is axes[0])
        ax.set_xlabel(label)
    set_log_axis(axes[0], "x", *axis_range(perplexities))
    names = {
        "vanilla": "vanilla on forget",
        "target": "target: vanilla on approximate",
        "oracle": "truth: oracle on forget",
    }
    handles = [
        mark_handle(label, marker=markers[n], color=BASELINE_STYLES[n]["color"])
        for n, label in names.items()
    ]
    columns = 1 if narrow else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9)
    if narrow:
        figure.set_figheight(figure.get_figheight() + 0.4)
    figure.alt = " ".join(alt)
    return figure


_FIRST: dict[str, Any] = {
    "marker": "o",
    "color": "#8c510a",
    "markerfacecolor": "white",
    "markeredgewidth": 1.3,
    "zorder": 3,
}


@figure_function
def target_sizes(
    baselines: Iterable[Record],
    sizes: Sequence[int],
    within: float = TARGET_WITHIN,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Target ÷ truth for requests of 1, 2, 4, ... documents; bars hold 95 % of requests."""
    baselines = checked(baselines, "the target")
    layout = Layout(narrow)
    found = {d: target_ratios(baselines, d, sizes, within) for d in domains_of(baselines)}
    domains = [d for d, ratios in found.items() if ratios] or list(found)
    figure, panels = layout.panels(
        domains,
        2.6 if not narrow else 2.3,
        xlabel="documents to forget",
        ylabel="target ÷ truth",
        extra=0.4,
    )
    every = [x for d in domains for r in found[d] for x in (r.low, r.high, r.first)]
    low, high = axis_range([*every, 1 / within, within])
    alt = [f"The paper’s target divided by the truth, by number of documents (band: ±{within:g}×)."]
    for ax, domain in panels:
        set_log_axis(ax, "y", low, high)
        scale_swept_axis(ax, [float(n) for n in sizes], narrow)
        ax.axhspan(1 / within, within, color="#e3efe9", zorder=0)
        ax.axhline(1.0, zorder=1, **BASELINE_STYLES["oracle"])
        said = []
        for ratio in found[domain]:
            if not math.isfinite(ratio.median):
                continue
            ends = [clamp(x, low, high) for x in (ratio.low, ratio.high)]
            left, right = ratio.size / 1.07, ratio.size * 1.07  # beside each other, both seen
            ax.plot([left] * 2, ends, color=INK, linewidth=1.6)
            draw_points(ax, [left], [ratio.median], marker="D", color=INK, markersize=5)
            draw_points(ax, [right], [ratio.first], markersize=5.5, **_FIRST)
            said.append(
                f"{ratio.size} {number(ratio.low)} to {number(ratio.high)}, first ones "
                f"{number(ratio.first)}"
            )
        alt.append(f"{domain_title(domain)}: {'; '.join(said) or 'no oracle'}.")
    handles = [
        Line2D([], [], color=INK, marker="D", markersize=5, label="95 % of requests, median"),
        mark_handle("the first documents", **_FIRST),
    ]
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


@figure_function
def early_stops_figure(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """The update at which target and truth would each have stopped a run, per method."""
    records, baselines = checked(records, "trajectories"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    found = early_stops(records, baselines)
    figure, panels = method_panels(layout, domains, methods, "update")
    end = max(int(r.spec["updates"]) for r in records)
    reached = [x for s in found for x in (s.by_target, s.by_truth) if math.isfinite(x)]
    start = max(0, math.floor(min(reached, default=0.0)) - 1)
    looks: dict[str, dict[str, Any]] = {
        "target": {"marker": "D", "color": BASELINE_STYLES["target"]["color"], "markersize": 6},
        "oracle": {"marker": "s", "color": BASELINE_STYLES["oracle"]["color"], "markersize": 6},
    }
    alt = ["Update at which a run reaches the paper’s target and the truth."]
    for ax, domain in panels:
        ax.set_xlim(start, end + 0.03 * (end - start))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        said = []
        for stop in (s for s in found if s.domain == domain):
            row = methods.index(stop.method)
            both = {"oracle": stop.by_truth, "target": stop.by_target}
            known = [x for x in both.values() if math.isfinite(x)]
            ax.plot(known, [row] * len(known), color=method_style(stop.method)["color"])
            for offset, (which, x) in zip((0.14, -0.14), both.items(), strict=True):
                draw_points(ax, [x], [row + offset], **looks[which])
            said.append(
                f"{method_title(stop.method)} {_update(stop.by_target)} and "
                f"{_update(stop.by_truth)}"
            )
        alt.append(f"{domain_title(domain)}, target and truth: {'; '.join(said) or 'no probe'}.")
    labels = {"target": "reaches the paper’s target", "oracle": "reaches the truth"}
    handles = [mark_handle(labels[which], **look) for which, look in looks.items()]
    handles.append(mark_handle("not in this run", marker=r"$\rightarrow$", markersize=9))
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


def _update(x: float) -> str:
    return "no value" if math.isnan(x) else "never" if math.isinf(x) else number(x)
