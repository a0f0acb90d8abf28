"""The chapter on the robust region: which settings (learning rate x updates) are usable.

With a constant schedule the first u updates of a run are the run of u updates, so one probed run
gives all settings of its learning rate (`region_cells`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D

from unlearnlib.book.drawing import method_panels
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    YARDSTICKS,
    baseline_value,
    domain_index,
    domains_of,
    methods_of,
    select,
    within_factor,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    checked,
    figure_function,
    legend_height,
    mark_handle,
    set_log_axis,
)
from unlearnlib.looks import GREY, INK, domain_title, method_style, method_title
from unlearnlib.store.record import Record
from unlearnlib.tuning_rule import TOLERATED_RISE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class UsableWithin:
    """Within which limits a setting is usable.

    near      forget perplexity may be off the yardstick by this factor, either way
    harmless  general perplexity may be at most this multiple of vanilla's
    """

    near: float
    harmless: float

    def is_near(self, forget: float, yardstick: float) -> bool:
        """Is a forget perplexity within the factor `near` of the yardstick?"""
        return within_factor(forget, yardstick, self.near)

    def allows(self, forget: float, general: float, yardstick: float, vanilla: float) -> bool:
        """Near the yardstick, and general perplexity not above `harmless` x `vanilla`?"""
        return self.is_near(forget, yardstick) and general <= self.harmless * vanilla * (1 + 1e-12)

    def in_words(self, yardstick: str = "oracle") -> str:
        """ "forget perplexity within a factor 1.25 of the truth, general ... up by at most 5 %"."""
        return (
            f"forget perplexity within a factor {self.near:g} of {YARDSTICKS[yardstick]}, general "
            f"perplexity up by at most {100 * (self.harmless - 1):.0f} %"
        )


# A setting is usable if forget perplexity is within this factor of the oracle's, and general
# perplexity rises by at most `TOLERATED_RISE`.
NEAR_TRUTH = 1.25

USABLE = UsableWithin(NEAR_TRUTH, TOLERATED_RISE)

TOLERANCES = tuple(float(x) for x in np.geomspace(1.05, 4.0, 30))  # factors from the yardstick


@dataclass(frozen=True)
class Cell:
    """One setting of the grid: learning rate x updates. NaN where a value was not measured.

    broken  the run had diverged by then, or its perplexity is not finite
    seed    of the run: the order of its documents
    """

    domain: str
    method: str
    learning_rate: float
    updates: int
    forget: float
    general: float
    broken: bool
    seed: int = 0


def region_cells(records: Iterable[Record]) -> list[Cell]:
    """Every `probe_every`-th update of every run as a cell; vanilla's own is left out.

    A run without probes is one cell, its end. A run that diverged has broken cells from there to
    the updates that it was meant to have.
    """
    cells = []
    for record in records:
        spec = record.spec
        last = int(spec["updates"])
        step = int(spec.get("probe_every") or last)
        if not step:
            continue
        probed: dict[int, Mapping[str, float]] = {last: record.metrics}
        if spec.get("probe_every"):
            probed = {int(row["update"]): row for row in record.trajectory if FORGET in row}
        for update in range(step, last + 1, step):
            row = probed.get(update, {})
            forget, general = (float(row.get(name, math.nan)) for name in (FORGET, GENERAL))
            diverged = record.diverged_at is not None and update >= record.diverged_at
            lost = bool(row) and not (math.isfinite(forget) and math.isfinite(general))
            cells.append(
                Cell(
                    spec["domain"],
                    spec["method"],
                    float(spec["learning_rate"]),
                    update,
                    forget,
                    general,
                    diverged or lost,
                    int(spec["seed"]),
                )
            )
    return cells


def is_usable(cell: Cell, tolerance: UsableWithin, yardstick: float, vanilla: float) -> bool:
    """Is a cell near the yardstick and harmless (`vanilla`: its general perplexity)?"""
    return not cell.broken and tolerance.allows(cell.forget, cell.general, yardstick, vanilla)


@dataclass(frozen=True)
class Share:
    """So many of so many settings, with Wilson's 95 % interval.

    The interval treats settings as independent draws. Settings of one run are not independent, so
    the true uncertainty is larger.
    """

    usable: int
    settings: int

    @property
    def share(self) -> float:
        """usable / settings; NaN for none."""
        return self.usable / self.settings if self.settings else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high), inside [0, 1] even for none or all (Wilson 1927, without correction)."""
        if not self.settings:
            return math.nan, math.nan
        from scipy.stats import binomtest

        found = binomtest(self.usable, self.settings).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        if not self.settings:
            return "–"
        return f"{self.usable} of {self.settings} ({100 * low:.0f} to {100 * high:.0f} %)"


def region_shares(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin,
    yardstick: str = "oracle",
) -> dict[tuple[str, str], Share]:
    """(domain, method) -> usable settings of the grid, by the "oracle" or by the "target".

    Cells that were never measured are no settings; broken ones are, and are not usable. A domain
    without the yardstick is left out.
    """
    records, baselines = list(records), list(baselines)
    cells = region_cells(records)
    out = {}
    for domain in domains_of(records):
        mark = baseline_value(baselines, domain, yardstick, FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        if not (math.isfinite(mark) and math.isfinite(vanilla)):
            continue
        for method in methods_of(select(records, domain)):
            ours = [
                c
                for c in cells
                if (c.domain, c.method) == (domain, method)
                and (c.broken or not (math.isnan(c.forget) or math.isnan(c.general)))
            ]
            usable = sum(is_usable(c, tolerance, mark, vanilla) for c in ours)
            out[domain, method] = Share(usable, len(ours))
    return out


def tolerance_curves(
    records: Iterable[Record],
    baselines: Iterable[Record],
    harmless: float,
    factors: Sequence[float] = TOLERANCES,
) -> dict[tuple[str, str], np.ndarray]:
    """(domain, method) -> (seeds, factors): usable share of the grid, for each factor `near`.

    Where a method has few usable settings at one tolerance, the curve shows whether the others miss
    it narrowly or by far. Seeds in rising order; the truth is the yardstick.
    """
    records, baselines = list(records), list(baselines)
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(int(record.spec["seed"]), []).append(record)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _, ours in sorted(by_seed.items()):
        rows: dict[tuple[str, str], list[float]] = {}
        for near in factors:
            shares = region_shares(ours, baselines, UsableWithin(near, harmless))
            for place, share in shares.items():
                rows.setdefault(place, []).append(share.share)
        for place, row in rows.items():
            found.setdefault(place, []).append(row)
    return {place: np.array(rows) for place, rows in found.items()}


def region_table(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> pd.DataFrame:
    """Per domain and method: usable settings by the truth and by the paper's target; divergences.

    "agree" counts the settings on which both yardsticks give the same answer.
    """
    import pandas as pd

    records, baselines = list(records), list(baselines)
    shares = {y: region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    cells = region_cells(records)
    index, rows = [], []
    for domain in domains_of(records):
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        marks = [baseline_value(baselines, domain, y, FORGET, records) for y in YARDSTICKS]
        for method in methods_of(select(records, domain)):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            agree = sum(
                len({is_usable(c, tolerance, mark, vanilla) for mark in marks}) == 1 for c in ours
            )
            both = all((domain, method) in shares[y] for y in YARDSTICKS)
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    *(str(shares[y].get((domain, method), Share(0, 0))) for y in YARDSTICKS),
                    f"{agree} of {len(ours)}" if both else "–",
                    f"{sum(c.broken for c in ours)}",
                ]
            )
    return pd.DataFrame(
        rows,
        index=domain_index(index),
        columns=["usable by the truth", "usable by the target", "both agree", "diverged"],
    )


def seeds_table(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> pd.DataFrame:
    """Per domain and method: usable settings with each seed, and those usable with every seed."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    seeds = sorted({int(r.spec["seed"]) for r in records})
    cells = region_cells(records)
    index, rows = [], []
    for domain in domains_of(records):
        mark = baseline_value(baselines, domain, "oracle", FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for method in methods_of(select(records, domain)):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            usable = {
                seed: {
                    (c.learning_rate, c.updates)
                    for c in ours
                    if c.seed == seed and is_usable(c, tolerance, mark, vanilla)
                }
                for seed in seeds
            }
            settings = {s: sum(c.seed == s for c in ours) for s in seeds}
            measured = [s for s in seeds if settings[s]]
            every = set.intersection(*(usable[s] for s in measured)) if measured else set()
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    *(f"{len(usable[s])} of {settings[s]}" if settings[s] else "–" for s in seeds),
                    f"{len(every)}" if len(measured) > 1 else "–",
                ]
            )
    columns = [*(f"seed {seed}" for seed in seeds), "with every seed"]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def region_in_words(
    records: Iterable[Record], baselines: Iterable[Record], tolerance: UsableWithin
) -> str:
    """Per domain the methods by usable settings, and what the choice of yardstick changes."""
    records, baselines = list(records), list(baselines)
    shares = {y: region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    lines = []
    for domain in domains_of(records):
        ours = {m: s for (d, m), s in shares["oracle"].items() if d == domain}
        if not ours:
            lines.append(f"- **{domain_title(domain)}.** There is no oracle to compare with.")
            continue
        ranked = sorted(ours.items(), key=lambda item: -item[1].share)
        parts = [f"{method_title(m)} {s.usable} of {s.settings}" for m, s in ranked]
        by_target = sum(s.usable for (d, _), s in shares["target"].items() if d == domain)
        by_truth = sum(s.usable for s in ours.values())
        lines.append(
            f"- **{domain_title(domain)}.** Usable settings: {'; '.join(parts)}. By the paper’s "
            f"target {by_target} settings of all methods would be usable, by the truth {by_truth}."
        )
    return "\n".join([f"Usable: {tolerance.in_words()}.\n", *lines])


def seeds_in_words(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin,
    one: str = "ga_gd_in_dist",
    other: str = "ga",
) -> str:
    """In how many domains and seeds one method has more usable settings than another; Markdown."""
    records, baselines = list(records), list(baselines)
    sentences = []
    for near in (tolerance.near, 2.0):
        curves = tolerance_curves(records, baselines, tolerance.harmless, (near,))
        more = same = of = 0
        for domain in domains_of(records):
            if not {(domain, one), (domain, other)} <= set(curves):
                continue
            pairs = zip(curves[domain, one][:, 0], curves[domain, other][:, 0], strict=False)
            for ours, theirs in pairs:
                of += 1
                more += ours > theirs
                same += ours == theirs
        if of:
            sentences.append(
                f"within a factor {near:g} of the truth in {more} of {of} cases, as many in "
                f"{same}, fewer in {of - more - same}"
            )
    if not sentences:
        return ""
    return (
        f"A case is a domain with a seed. {method_title(one)} has more usable settings than "
        f"{method_title(other)} {'; '.join(sentences)}. General perplexity may rise by at most "
        f"{100 * (tolerance.harmless - 1):.0f} % in both."
    )


_CLIP = 2.0  # the colours of the heat maps end at a factor 2 ** 2 from the yardstick
_MISSING = "#eceff1"

_REGION_MARKS: dict[str, dict[str, Any]] = {
    "usable": {"marker": "o", "color": "#111418", "markeredgewidth": 0},
    "near": {
        "marker": "o",
        "markerfacecolor": "none",
        "markeredgecolor": "#111418",
        "markeredgewidth": 0.9,
    },
    "broken": {"marker": "x", "color": GREY, "markeredgewidth": 1.1},
}


@figure_function
def robust_region(
    records: Iterable[Record],
    baselines: Iterable[Record],
    yardstick: str = "oracle",
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Heat maps learning rate x updates, method by domain: forget perplexity ÷ the yardstick.

    A dot is a usable setting, a ring one that is near the yardstick and has harmed general
    perplexity, a cross one that diverged; a grey cell was not measured.
    """
    records, baselines = checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    cells = region_cells(records)
    if not cells:
        raise UnlearnError("no record is of any update: run the study robust_region first.")
    rates = sorted({c.learning_rate for c in cells})
    steps = sorted({c.updates for c in cells})
    # The maps stand beside each other on a phone too: in one column of 21 none can be compared.
    row_height, rest = (0.98, 1.35) if not narrow else (0.92, 1.9)
    figure = DescribedFigure(figsize=(layout.width, row_height * len(methods) + rest))
    axes = figure.subplots(len(methods), len(domains), sharex=True, sharey=True, squeeze=False)
    mesh: Any = None
    for column, domain in enumerate(domains):
        mark = baseline_value(baselines, domain, yardstick, FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for row, method in enumerate(methods):
            ours = [c for c in cells if (c.domain, c.method) == (domain, method)]
            grid, marks = _region_map(ours, rates, steps, tolerance, mark, vanilla)
            mesh = _draw_region(axes[row][column], grid, marks, 4.2 if not narrow else 3.4)
    _name_maps(axes, domains, methods, narrow)
    _region_ticks(axes[0][0], rates, steps)
    axes[-1][(len(domains) - 1) // 2].set_xlabel("updates")
    figure.supylabel("learning rate", fontsize=10, y=0.6)
    bar = figure.colorbar(
        mesh, ax=axes, location="bottom", aspect=45 if not narrow else 28, pad=0.02, extend="both"
    )
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["¼", "½", "1", "2", "4"])
    bar.set_label(f"forget perplexity ÷ {YARDSTICKS[yardstick]}")
    bar.outline.set_visible(False)
    labels = {"usable": "usable", "near": "near, but harmed", "broken": "diverged"}
    handles = [
        mark_handle(labels[kind], markersize=6, **look) for kind, look in _REGION_MARKS.items()
    ]
    add_legend(figure, layout, extra=handles)
    alt = [
        f"Heat maps of forget perplexity divided by {YARDSTICKS[yardstick]}, over "
        f"{len(rates)} learning rates and {len(steps)} numbers of updates. Usable: "
        f"{tolerance.in_words(yardstick)}."
    ]
    shares = region_shares(records, baselines, tolerance, yardstick)
    for domain in domains:
        said = [
            f"{method_title(m)} {shares[domain, m].usable} of {shares[domain, m].settings}"
            for m in methods
            if (domain, m) in shares
        ]
        broken = sum(c.broken for c in cells if c.domain == domain)
        alt.append(
            f"{domain_title(domain)}, usable settings: {', '.join(said) or 'no yardstick'}; "
            f"{broken} diverged."
        )
    figure.alt = " ".join(alt)
    return figure


def _region_map(
    cells: Iterable[Cell],
    rates: Sequence[float],
    steps: Sequence[int],
    tolerance: UsableWithin,
    yardstick: float,
    vanilla: float,
) -> tuple[np.ndarray, dict[str, list[tuple[int, int]]]]:
    """One method's map: log2(forget perplexity ÷ yardstick), and the (x, y) of the marked cells.

    The map is of shape (len(rates), len(steps)), clipped to ±`_CLIP`, NaN where nothing is known.
    `yardstick` is a forget perplexity, `vanilla` the general perplexity before unlearning.
    """
    grid = np.full((len(rates), len(steps)), np.nan)
    marks: dict[str, list[tuple[int, int]]] = {kind: [] for kind in _REGION_MARKS}
    for cell in cells:
        x, y = steps.index(cell.updates), rates.index(cell.learning_rate)
        if cell.broken:
            marks["broken"].append((x, y))
        elif cell.forget > 0 and 0 < yardstick < math.inf:
            ratio = math.log2(cell.forget) - math.log2(yardstick)
            grid[y, x] = min(max(ratio, -_CLIP), _CLIP)
            if is_usable(cell, tolerance, yardstick, vanilla):
                marks["usable"].append((x, y))
            elif tolerance.is_near(cell.forget, yardstick):
                marks["near"].append((x, y))
    return grid, marks


def _draw_region(
    ax: Axes, grid: np.ndarray, marks: Mapping[str, Sequence[tuple[int, int]]], size: float
) -> Any:
    """Draw a map and the marks on its cells, `size` points each; returns the coloured mesh."""
    import seaborn as sns  # here: it takes a second to load, and this figure alone needs it

    # Without the nearly black ends of the colour map: most settings are far off, and would hide
    # the others.
    ends = matplotlib.colormaps["RdBu_r"](np.linspace(0.12, 0.88, 256))
    ax.set_facecolor(_MISSING)  # shows where a cell has no value
    sns.heatmap(
        grid,
        ax=ax,
        cmap=ListedColormap(ends),
        vmin=-_CLIP,
        vmax=_CLIP,
        linewidths=0.5,
        linecolor="white",
        cbar=False,
        xticklabels=False,
        yticklabels=False,
    )
    ax.set_ylim(0, len(grid))  # the lowest rate at the bottom
    ax.tick_params(length=0)
    for kind, look in _REGION_MARKS.items():
        xs, ys = ([place[i] + 0.5 for place in marks[kind]] for i in (0, 1))
        ax.plot(xs, ys, linestyle="", markersize=size, **look)
    return ax.collections[0]


def _name_maps(axes: Any, domains: Sequence[str], methods: Sequence[str], is_narrow: bool) -> None:
    """The domains above the columns of maps, the methods beside the rows.

    On a narrow screen a method stands above its row, below the domain's name in the first.
    """
    for row, method in enumerate(methods):
        for column, domain in enumerate(domains):
            ax = axes[row][column]
            if is_narrow:
                over = f"{domain_title(domain)}\n" if row == 0 else ""
                ax.set_title(over + (method_title(method) if column == 0 else " "), fontsize=9)
                continue
            if row == 0:
                ax.set_title(domain_title(domain))
            if column == 0:
                ax.set_ylabel(method_title(method), rotation=0, ha="right", va="center")


def _region_ticks(ax: Axes, rates: Sequence[float], steps: Sequence[int]) -> None:
    """Ticks of a map: every second number of updates, and the rates that are powers of ten."""
    shown = range(1, len(steps), 2) if len(steps) > 4 else range(len(steps))
    ax.set_xticks([i + 0.5 for i in shown], [str(steps[i]) for i in shown])
    decades = [
        i
        for i, rate in enumerate(rates)
        if math.isclose(math.log10(rate), round(math.log10(rate)), abs_tol=1e-6)
    ] or list(range(len(rates)))
    ax.set_yticks([i + 0.5 for i in decades], [_power(rates[i]) for i in decades])


def _power(x: float) -> str:
    """ "10⁻³" for a power of ten, else the number."""
    power = math.log10(x)
    whole = math.isclose(power, round(power), abs_tol=1e-6)
    return f"$10^{{{round(power)}}}$" if whole else f"{x:g}"


@figure_function
def shares_figure(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Usable share of the grid per method, by the truth (filled) and by the target (open)."""
    records, baselines = checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    shares = {y: region_shares(records, baselines, tolerance, y) for y in YARDSTICKS}
    figure, panels = method_panels(layout, domains, methods, "usable settings, %", extra=0.35)
    tops = [s.interval[1] for found in shares.values() for s in found.values()]
    top = max([100 * t for t in tops if math.isfinite(t)] or [10.0])
    alt = [
        f"Usable share of the settings with 95 % intervals. {tolerance.in_words().capitalize()}."
    ]
    for ax, domain in panels:
        ax.set_xlim(-0.02 * top, 1.04 * top)
        said = []
        for row, method in enumerate(methods):
            colour = method_style(method)["color"]
            words = []
            for (yardstick, found), offset in zip(shares.items(), (-0.15, 0.15), strict=True):
                share = found.get((domain, method))
                if share is None or not share.settings:
                    continue
                filled = yardstick == "oracle"
                ends = [100 * x for x in share.interval]
                ax.plot(ends, [row + offset] * 2, color=colour, linewidth=1.6, zorder=2)
                ax.plot(
                    100 * share.share,
                    row + offset,
                    marker="o",
                    markersize=7,
                    color=colour,
                    markerfacecolor=colour if filled else "white",
                    markeredgewidth=1.4,
                    zorder=3,
                    clip_on=False,
                )
                words.append(f"{share} by {YARDSTICKS[yardstick]}")
            if words:
                said.append(f"{method_title(method)} {', '.join(words)}")
        alt.append(f"{domain_title(domain)}: {'; '.join(said) or 'no yardstick'}.")
    handles = [
        mark_handle("near the truth", markersize=7),
        mark_handle("near the paper’s target", markersize=7, markerfacecolor="white"),
    ]
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


_NOTHING: dict[str, Any] = {"color": "#e6e0d8", "zorder": 0, "linewidth": 0}


@figure_function
def region_tolerance(
    records: Iterable[Record],
    baselines: Iterable[Record],
    tolerance: UsableWithin = USABLE,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Usable share of the grid against the allowed factor from the truth; a line per method.

    Lines are means over seeds, bands their range. The dotted line is the tolerance of the test. In
    the shaded part vanilla itself is within the factor, so settings that change nothing count.
    """
    records, baselines = checked(records, "the robust region"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    curves = tolerance_curves(records, baselines, tolerance.harmless)
    extra = legend_height(layout, len(methods) + 2)
    figure, panels = layout.panels(
        domains,
        2.5,
        xlabel="allowed factor from the truth",
        ylabel="usable settings, %",
        extra=extra,
    )
    top = max([100 * float(c.max()) for c in curves.values()] or [10.0]) or 10.0
    alt = [
        "Usable share of the settings against the factor from the truth that is allowed, general "
        f"perplexity up by at most {100 * (tolerance.harmless - 1):.0f} %."
    ]
    for ax, domain in panels:
        set_log_axis(ax, "x", TOLERANCES[0], TOLERANCES[-1])
        ax.set_xticks([1.25, 2, 3, 4], ["1.25", "2", "3", "4"])
        ax.set_ylim(-0.02 * top, 1.05 * top)
        ax.axvline(tolerance.near, color=INK, linestyle=":", linewidth=1.4, zorder=1)
        ends = [
            baseline_value(baselines, domain, w, FORGET, records) for w in ("vanilla", "oracle")
        ]
        if all(0 < x < math.inf for x in ends):
            nothing = math.exp(abs(math.log(ends[1]) - math.log(ends[0])))
            if nothing < TOLERANCES[-1]:
                ax.axvspan(max(nothing, TOLERANCES[0]), TOLERANCES[-1], **_NOTHING)
        said = []
        for method in methods:
            rows = curves.get((domain, method))
            if rows is None:
                continue
            style = method_style(method)
            xs = list(TOLERANCES)
            middle = 100 * rows.mean(axis=0)
            ax.plot(xs, middle, markevery=(4, 8), markersize=5, **style)
            if len(rows) > 1:
                low, high = 100 * rows.min(axis=0), 100 * rows.max(axis=0)
                ax.fill_between(xs, low, high, color=style["color"], alpha=0.13, linewidth=0)
            at = int(np.argmin(np.abs(np.log(np.array(xs) / 2.0))))
            said.append(f"{method_title(method)} {middle[at]:.0f} %")
        alt.append(
            f"{domain_title(domain)}, at a factor of 2: {', '.join(said) or 'no yardstick'}."
        )
    test = Line2D([], [], color=INK, linestyle=":", label="tolerance of the test")
    shaded = mark_handle(
        "vanilla is near enough", marker="s", markersize=9, color=_NOTHING["color"]
    )
    add_legend(figure, layout, methods, extra=[test, shaded], line=True)
    figure.alt = " ".join(alt)
    return figure
