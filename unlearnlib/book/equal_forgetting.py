"""The chapter on equal forgetting: the methods where all of them have forgotten as much.

Every run is taken where its perplexity on the forget set reaches that of the model that was
retrained without it (see `at_equal`). Methods are ordered there by harm, by the distance to the
retrained model, and by what a membership attack still sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from unlearnlib.book.at_equal import (
    ATTACKS,
    BASES,
    DISTANCE,
    HARM,
    HARMED,
    MEASURES,
    MEMBERSHIP,
    SIBLINGS,
    AtEqual,
    Band,
    Estimate,
    harms_of,
    named_scores,
)
from unlearnlib.book.drawing import method_panels, name_rows
from unlearnlib.book.records import KL, domain_index, known_mean
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    draw_points,
    figure_function,
    legend_height,
    mark_handle,
    set_log_axis,
)
from unlearnlib.looks import (
    ATTACK_TITLES,
    BASELINE_STYLES,
    GREY,
    INK,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.store.record import Record
from unlearnlib.text import number, plural

if TYPE_CHECKING:
    import pandas as pd

# What the axis of a measure says, and what the value of the retrained model is.
AXES = {
    HARM: "harm, nats per token on the worst split",
    DISTANCE: "KL to the retrained model, nats per token",
    MEMBERSHIP: f"AUC of {ATTACK_TITLES[ATTACKS[-1]]}, off the retrained model’s",
}
BY = {HARM: "harm", DISTANCE: "distance", MEMBERSHIP: "membership"}
BASE_TITLES = {"vanilla": "first vanilla", "second": "second vanilla"}
# Methods that differ only in which texts their retain term is of: in-distribution, general.
NONE = np.zeros(0)  # no resamples
BEFORE_STYLE = {"color": GREY, "marker": "o"}
WIDE = 20  # largest distance / least, from which on their axis is logarithmic
PAIRS = (("ga_gd_in_dist", "ga_gd_general"), ("ga_kl_in_dist", "ga_kl_general"))


def with_interval(estimate: Estimate, digits: int = 2) -> str:
    """ "0.12 (0.10 to 0.14)"; without an interval the value alone, and a dash for none."""
    low, high = estimate.interval
    text = number(estimate.value, digits)
    if math.isnan(estimate.value) or math.isnan(low):
        return text
    return f"{text} ({number(low, digits)} to {number(high, digits)})"


def overall_order(found: AtEqual, measure: str) -> list[str]:
    """The methods by the mean of their ranks over domains; those without a value come last."""
    ranks: dict[str, list[int]] = {method: [] for method in found.methods}
    for domain in found.domains:
        for rank, method in enumerate(found.order(measure, domain)):
            ranks[method].append(rank)
    return sorted(found.methods, key=lambda m: fmean(ranks[m]) if ranks[m] else math.inf)


# ---- tables ---------------------------------------------------------------------------------


def cost_table(
    found: AtEqual, baselines: Iterable[Record], bands: Mapping[str, Band]
) -> pd.DataFrame:
    """Per domain the methods from the least harm to the most: what each has done by then.

    Above them the model before unlearning and another retrained model, for comparison.
    """
    import pandas as pd

    baselines = list(baselines)
    index, rows = [], []
    for domain in found.domains:
        title = domain_title(domain)
        for name, row in _reference_rows(baselines, domain, bands.get(domain)):
            index.append((title, name))
            rows.append(row)
        best_first = found.order(HARM, domain)
        for method in (*best_first, *(m for m in found.methods if m not in best_first)):
            reached, runs = found.reached(domain, method)
            if not runs:
                continue
            index.append((title, method_title(method)))
            if not reached:
                rows.append(["not reached", *["–"] * (2 + len(ATTACKS))])
                continue
            rows.append(
                [
                    with_interval(found.estimate(HARM, domain, method)),
                    found.worst(domain, method),
                    with_interval(found.estimate(DISTANCE, domain, method)),
                    *(
                        number(found.estimate(f"auc/{attack}", domain, method).value)
                        for attack in ATTACKS
                    ),
                ]
            )
    columns = ["harm, nats", "worst on", "KL, nats", *(f"AUC {ATTACK_TITLES[a]}" for a in ATTACKS)]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def _reference_rows(
    baselines: Sequence[Record], domain: str, band: Band | None
) -> list[tuple[str, list[str]]]:
    """The rows of the model before unlearning, and of the other retrained models' mean."""
    vanilla = named_scores(baselines, domain, "vanilla")
    known = [named_scores(baselines, domain, name) for name in SIBLINGS]
    every = [record for record in known if record is not None]
    siblings = [record for record in known[1:] if record is not None]
    rows = []
    for name, records in (
        ("Vanilla", [vanilla] if vanilla else []),
        ("Another retrained model", siblings if known[0] is not None else []),
    ):
        if not every or not records:
            continue
        harms = [harms_of(record, every) for record in records]
        worst = max(HARMED, key=lambda split: known_mean(h[split] for h in harms))
        harm = known_mean(max(h.values()) for h in harms)
        kl = Estimate(known_mean(r.metrics.get(KL) for r in records), np.zeros(0))
        if band is not None and records is siblings:
            kl = band.floor
        aucs = [known_mean(r.metrics.get(f"membership/{a}/auc") for r in records) for a in ATTACKS]
        rows.append((name, [number(harm, 2), worst, with_interval(kl), *map(number, aucs)]))
    return rows


def effort_table(found: AtEqual) -> pd.DataFrame:
    """Per domain and method what it took: updates, learning rate, both multiplied."""
    import pandas as pd

    index, rows = [], []
    for domain in found.domains:
        for method in found.methods:
            reached, runs = found.reached(domain, method)
            if not runs:
                continue
            rates = sorted({p.run.spec["learning_rate"] for p in found.of(domain, method)})
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    with_interval(found.estimate("updates", domain, method)),
                    ", ".join(f"{rate:g}" for rate in rates),
                    with_interval(found.estimate("dose", domain, method).times(1e4)),
                    f"{reached} of {runs}",
                ]
            )
    columns = ["updates", "learning rate", "rate × updates, 10⁻⁴", "runs that got there"]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def agreements(found: AtEqual, measure: str) -> list[tuple[str, Estimate, int]]:
    """(what is compared, Spearman's rho, methods): domains in pairs, then the two vanillas."""
    out = []
    for one, other in itertools.combinations(found.domains, 2):
        rho, count = found.agreement(measure, (one, None), (other, None))
        out.append((f"{domain_title(one)} and {domain_title(other)}", rho, count))
    if len(found.bases) == 2:
        for domain in found.domains:
            first, second = ((domain, base) for base in found.bases)
            rho, count = found.agreement(measure, first, second)
            out.append((f"{domain_title(domain)}, two vanillas", rho, count))
    return out


def agreement_table(found: AtEqual) -> pd.DataFrame:
    """Spearman's rho between the orders of the methods, by each measure."""
    import pandas as pd

    columns = {measure: agreements(found, measure) for measure in MEASURES}
    labels = [label for label, _, _ in columns[HARM]]
    rows = [
        [with_interval(columns[measure][i][1]) for measure in MEASURES] for i in range(len(labels))
    ]
    return pd.DataFrame(
        rows,
        index=pd.Index(labels, name="orders compared"),
        columns=[f"by {BY[measure]}" for measure in MEASURES],
    )


# ---- words ----------------------------------------------------------------------------------


def conclusions_in_words(found: AtEqual, bands: Mapping[str, Band]) -> str:
    """What the comparison shows, conclusions first; a Markdown list."""
    lines = [
        _least_in_words(found, HARM, bands),
        _least_in_words(found, DISTANCE, bands),
        _least_in_words(found, MEMBERSHIP, bands),
        *(_pair_in_words(found, *pair) for pair in PAIRS),
        _orders_in_words(found),
        _reached_in_words(found),
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def _least_in_words(found: AtEqual, measure: str, bands: Mapping[str, Band]) -> str:
    """Which method has the least of a measure on each domain, and which the most."""
    opening = {
        HARM: "Least harm",
        DISTANCE: "Nearest to the retrained model",
        MEMBERSHIP: f"Least that {ATTACK_TITLES[ATTACKS[-1]]} still sees",
    }[measure]
    parts = []
    for domain in found.domains:
        order = found.order(measure, domain)
        if len(order) < 2:
            continue
        best, last = (found.estimate(measure, domain, m) for m in (order[0], order[-1]))
        text = f"{method_title(order[0])}, {with_interval(best)}"
        if measure == HARM:
            text += f", worst on {found.worst(domain, order[0])}"
        floor = bands[domain].floor.value if domain in bands else math.nan
        if measure == DISTANCE and math.isfinite(floor):
            text += f", where two retrained models are {number(floor, 2)} apart"
        before = fmean(found.before.get((domain, b), {}).get(measure, math.nan) for b in BASES)
        if math.isfinite(before):
            text += f" (before unlearning {number(before, 2)})"
        text += f"; the most has {method_title(order[-1])}, {number(last.value, 2)}"
        parts.append(f"{domain_title(domain)}: {text}")
    units = "" if measure == MEMBERSHIP else " (nats per token)"
    return f"**{opening}**{units}. {'. '.join(parts)}." if parts else ""


def _pair_in_words(found: AtEqual, inside: str, general: str) -> str:
    """What it changes that the retain term is of the same domain's texts, not of general ones."""
    parts = []
    for measure in (HARM, DISTANCE):
        difference = found.difference(measure, inside, general)
        if math.isfinite(difference.value):
            parts.append(f"{BY[measure]} by {with_interval(difference)}")
    if not parts:
        return ""
    return (
        f"**{method_title(inside)} against {method_title(general)}.** A retain term of the same "
        f"domain’s texts instead of general ones changes {' and '.join(parts)} nats per token "
        "(mean over domains)."
    )


def _orders_in_words(found: AtEqual) -> str:
    """How far the orders of domains, and of vanillas, agree."""
    parts = []
    for measure in MEASURES:
        known = [(label, e) for label, e, _ in agreements(found, measure) if e.value == e.value]
        for what, inside in (
            ("between domains", [e for label, e in known if "vanillas" not in label]),
            ("between the two vanillas", [e for label, e in known if "vanillas" in label]),
        ):
            if inside:
                low = min(inside, key=lambda e: e.value)
                parts.append(f"by {BY[measure]} {what} at least {with_interval(low)}")
    return (
        f"**Orders of the methods** (Spearman’s rho, the least of each kind with its interval): "
        f"{'; '.join(parts)}."
        if parts
        else ""
    )


def _reached_in_words(found: AtEqual) -> str:
    """How many runs forget as much as the retrained model, and whose do not."""
    counts = {
        (domain, method): found.reached(domain, method)
        for domain in found.domains
        for method in found.methods
    }
    reached, runs = (sum(count[i] for count in counts.values()) for i in (0, 1))
    text = f"**As much forgotten as by the retrained model** in {reached} of {runs} "
    text += plural("run", runs)
    missing = [
        f"{method_title(method)} on {domain_title(domain)} {n - done}"
        for (domain, method), (done, n) in counts.items()
        if done < n
    ]
    return f"{text}; not reached: {', '.join(missing)}." if missing else f"{text}."


# ---- figures --------------------------------------------------------------------------------


@figure_function
def methods_by(
    found: AtEqual, bands: Mapping[str, Band], measure: str = HARM, *, narrow: bool = False
) -> DescribedFigure:
    """A row per method, best first, and a panel per domain: a measure, with its intervals.

    Filled: runs of the first vanilla; open: of the second. The last row has the two vanillas
    themselves. The green line is where a retrained model would be; for the distance it is how far
    two of them are apart.
    """
    if not found.any_reached:
        raise UnlearnError(
            "no run has forgotten as much as the retrained model: run the study equal_forgetting."
        )
    layout, methods = Layout(narrow), overall_order(found, measure)
    legend = len(found.bases) > 1
    extra = 0.1 + (legend_height(layout, len(found.bases)) if legend else 0.0)
    figure, panels = method_panels(
        layout, found.domains, methods, AXES[measure],
        row_height=0.34, extra=extra, below=["before unlearning"],
    )  # fmt: skip
    alt = [f"{AXES[measure].capitalize()}, at equal forgetting."]
    for ax, domain in panels:
        ideal = bands[domain].floor.value if measure == DISTANCE and domain in bands else 0.0
        _scale_measure(ax, found, domain, measure, ideal)
        _draw_ideal(ax, ideal, "two retrained models" if measure == DISTANCE else "retrained model")
        said = []
        for row, method in enumerate(methods):
            for base in found.bases:
                estimate = found.estimate(measure, domain, method, base=base)
                shift = 0.14 * (2 * found.bases.index(base) - 1) if legend else 0.0
                style = method_style(method)
                _draw_estimate(ax, estimate, row + shift, style, filled=base == "vanilla")
                if math.isfinite(estimate.value):
                    said.append(f"{method_title(method)} {with_interval(estimate)}")
        for base in found.bases:
            start = Estimate(found.before.get((domain, base), {}).get(measure, math.nan), NONE)
            shift = 0.14 * (2 * found.bases.index(base) - 1) if legend else 0.0
            _draw_estimate(ax, start, len(methods) + shift, BEFORE_STYLE, filled=base == "vanilla")
            if math.isfinite(start.value):
                said.append(f"{BASE_TITLES[base]} before unlearning {number(start.value, 2)}")
        alt.append(f"{domain_title(domain)}: {', '.join(said)}.")
    if legend:
        faces = {"vanilla": GREY, "second": "white"}
        handles = [
            mark_handle(BASE_TITLES[b], markerfacecolor=faces[b], markeredgecolor=GREY)
            for b in found.bases
        ]
        add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


def _scale_measure(ax: Axes, found: AtEqual, domain: str, measure: str, ideal: float) -> None:
    """The axis of a measure: all values, and where a retrained model is.

    Distances that differ by orders of magnitude get a logarithmic one.
    """
    values = [
        x
        for method in found.methods
        for base in found.bases
        for e in (found.estimate(measure, domain, method, base=base),)
        for x in (e.value, *e.interval)
        if math.isfinite(x)
    ]
    starts = [found.before.get((domain, base), {}).get(measure, math.nan) for base in found.bases]
    values += [x for x in (*starts, ideal) if math.isfinite(x)]
    if measure == DISTANCE and max(values) > WIDE * min(values) > 0:
        set_log_axis(ax, "x", *axis_range(values))
        return
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * (high - low or 1.0)
    ax.set_xlim(low - room, high + room)


def _draw_ideal(ax: Axes, x: float, text: str) -> None:
    """The line where a retrained model would be, with its name above the rows."""
    if not math.isfinite(x):
        return
    style = BASELINE_STYLES["oracle"]
    ax.axvline(x, zorder=1.5, **style)
    ax.set_ylim(ax.get_ylim()[0], -1.1)
    ax.text(x, -1.05, f" {text}", color=style["color"], fontsize=9, va="top", ha="left")


def _draw_estimate(
    ax: Axes, estimate: Estimate, y: float, style: Mapping[str, Any], filled: bool
) -> None:
    """A value as a mark, with its interval as a line."""
    low, high = estimate.interval
    if math.isfinite(low):
        ax.plot([low, high], [y, y], color=style["color"], linewidth=1.4, zorder=2)
    face = style["color"] if filled else "white"
    draw_points(
        ax,
        [estimate.value],
        [y],
        markersize=6.5,
        markerfacecolor=face,
        markeredgecolor=style["color"],
        marker=style["marker"],
        markeredgewidth=1.2,
        zorder=3,
    )


@figure_function
def agreement_figure(found: AtEqual, *, narrow: bool = False) -> DescribedFigure:
    """Spearman's rho between orders of the methods: a panel per measure, with 95 % intervals."""
    rows = {measure: agreements(found, measure) for measure in MEASURES}
    labels = [label for label, _, _ in rows[HARM]]
    if not labels:
        raise UnlearnError("there is one domain and one vanilla, so no two orders to compare.")
    layout = Layout(narrow)
    figure, axes = layout.grid(len(MEASURES), 0.8 + 0.3 * len(labels))
    alt = ["Spearman’s rho between the orders of the methods."]
    for ax, measure in zip(axes, MEASURES, strict=True):
        ax.set_title(f"by {BY[measure]}")
        name_rows(ax, labels, shown=narrow or ax is axes[0])
        ax.set_xlim(-1.05, 1.05)
        ax.set_xticks([-1, 0, 1])
        ax.axvline(0, color=GREY, linewidth=0.8)
        said = []
        for row, (label, rho, _) in enumerate(rows[measure]):
            low, high = rho.interval
            if math.isfinite(low):
                ax.plot([low, high], [row, row], color=INK, linewidth=1.4)
            draw_points(ax, [rho.value], [row], marker="o", color=INK, markersize=6)
            said.append(f"{label} {with_interval(rho)}")
        if narrow or ax is axes[1]:
            ax.set_xlabel("Spearman’s rho of the order of methods")
        alt.append(f"By {BY[measure]}: {', '.join(said)}.")
    figure.alt = " ".join(alt)
    return figure
