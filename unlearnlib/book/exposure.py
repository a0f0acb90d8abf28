"""The chapter on exposure: what it takes to forget documents that were read once, or many times.

The forget set holds documents that the model read 1, 2, 4, 8 or 16 times in training. Runs that
forget those of one exposure alone are compared where they reach the retrained model's perplexity on
them; a run that forgets all of them is looked at exposure by exposure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from unlearnlib.book.at_equal import (
    DISTANCE,
    HARM,
    RETRAINED,
    TOLERANCE,
    AtEqual,
    Draws,
    Estimate,
    Point,
    document_sums,
    drawn_means,
    named_scores,
    names_in,
    point_draws,
    scores_for,
)
from unlearnlib.book.drawing import label_ends
from unlearnlib.book.equal_forgetting import with_interval
from unlearnlib.book.lab import chosen, times
from unlearnlib.book.records import domain_index, known_mean
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    axis_range,
    clamp,
    figure_function,
    set_log_axis,
)
from unlearnlib.looks import (
    BASELINE_STYLES,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

_NO_VALUE = Estimate(math.nan, np.zeros(0))
DOSE = "dose"
# What is drawn by exposure: what its axis says, and by how much it is multiplied for that.
SHOWN = {
    DOSE: ("rate × updates, 10⁻⁴", 1e4),
    HARM: ("harm, nats per token", 1.0),
    DISTANCE: ("KL to retrained, nats per token", 1.0),
}
READ = "times that the documents were read"


# ---- the paper's target -------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetAt:
    """The documents of one exposure: what models make of them, and how far the target is off.

    vanilla, retrained  perplexity on them
    target              the paper's: perplexity of vanilla on unseen documents
    error               ln(target / retrained); its interval is over documents of both sets
    way                 ln(retrained / vanilla): what there is to forget
    """

    domain: str
    exposure: int
    documents: int
    vanilla: Estimate
    retrained: Estimate
    target: Estimate
    error: Estimate
    way: Estimate

    @property
    def share(self) -> float:
        """The error as a share of what there is to forget.

        NaN where that is nothing, or cannot be told from nothing by its interval.
        """
        low = self.way.interval[0]
        known = low > 0 if math.isfinite(low) else self.way.value > 0
        return self.error.value / self.way.value if known else math.nan


def targets(
    baselines: Iterable[Record],
    exposures: Mapping[str, Mapping[str, int]],
    draws: Draws | None = None,
) -> list[TargetAt]:
    """The paper's target on each domain and exposure, against the retrained model.

    `exposures`: domain -> document -> how often it was read (`lab.exposures_of`).
    """
    baselines, draws, out = list(baselines), draws or Draws(), []
    for domain, known in exposures.items():
        vanilla, oracle = (named_scores(baselines, domain, name) for name in ("vanilla", "oracle"))
        if vanilla is None or oracle is None:
            continue
        target = _mean_loss(vanilla, "approximate", names_in(vanilla, "approximate"), draws)
        for exposure in sorted(set(known.values())):
            names = chosen(names_in(vanilla, "forget"), known, exposure)
            ours, theirs = (_mean_loss(r, "forget", names, draws) for r in (vanilla, oracle))
            out.append(
                TargetAt(
                    domain,
                    exposure,
                    len(names),
                    _exp(ours),
                    _exp(theirs),
                    _exp(target),
                    target.minus(theirs),
                    theirs.minus(ours),
                )
            )
    return out


def _mean_loss(record: Record, split: str, names: Sequence[str], draws: Draws) -> Estimate:
    """Mean loss per token on some documents of a split, nats."""
    tokens, nats = document_sums(record, split, "nll", names)
    counts = draws.counts(record.spec["domain"], split, len(names))
    value = float(nats.sum() / tokens.sum()) if len(names) else math.nan
    return Estimate(value, drawn_means(counts, tokens, nats))


def _exp(loss: Estimate) -> Estimate:
    """A perplexity from a mean loss."""
    return Estimate(math.exp(loss.value), np.exp(loss.draws))


def target_table(found: Sequence[TargetAt]) -> pd.DataFrame:
    """Per domain and exposure: perplexities, the target's error, and its share of the way."""
    import pandas as pd

    rows = [
        [
            number(at.vanilla.value),
            number(at.retrained.value),
            number(at.target.value),
            with_interval(at.error.percent()),
            f"{100 * at.share:.0f} %" if math.isfinite(at.share) else "–",
        ]
        for at in found
    ]
    return pd.DataFrame(
        rows,
        index=domain_index([(domain_title(at.domain), times(at.exposure)) for at in found], "read"),
        columns=pd.MultiIndex.from_tuples(
            [
                ("Perplexity", "vanilla"),
                ("Perplexity", "retrained"),
                ("Perplexity", "paper’s target"),
                ("The target’s error", "%"),
                ("The target’s error", "of the way"),
            ]
        ),
    )


def target_in_words(found: Sequence[TargetAt]) -> str:
    """How far off the target is at the least and the largest exposure; a Markdown list."""
    lines = []
    for domain in dict.fromkeys(at.domain for at in found):
        ours = [at for at in found if at.domain == domain]
        ends = ours if len(ours) < 3 else [ours[0], ours[-1]]
        parts = [
            f"read {times(at.exposure)}: the paper’s target {with_interval(at.error.percent())} %, "
            f"vanilla {with_interval(at.way.times(-1).percent())} %"
            for at in ends
        ]
        lines.append(f"- **{domain_title(domain)}.** Documents {'; '.join(parts)}.")
    opening = "How far off the retrained model’s perplexity on the same documents:\n"
    return "\n".join([opening, *lines]) if lines else ""


def _sentence(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


@figure_function
def target_figure(found: Sequence[TargetAt], *, narrow: bool = False) -> DescribedFigure:
    """Perplexity of vanilla and of the retrained model by exposure, and the paper's target."""
    found = list(found)
    if not found:
        raise UnlearnError("no document’s exposure is known: run the study exposure first.")
    layout = Layout(narrow)
    domains = list(dict.fromkeys(at.domain for at in found))
    figure, panels = layout.panels(
        domains, 2.6, xlabel=READ, ylabel="perplexity on these documents"
    )
    alt = ["Perplexity by how often the documents were read."]
    for ax, domain in panels:
        ours = [at for at in found if at.domain == domain]
        places = [float(at.exposure) for at in ours]
        lines = {
            "vanilla": [at.vanilla for at in ours],
            "oracle": [at.retrained for at in ours],
            "target": [at.target for at in ours],
        }
        ends = [x for several in lines.values() for e in several for x in (e.value, *e.interval)]
        _exposure_axis(ax, places)
        set_log_axis(ax, "y", *axis_range(x for x in ends if math.isfinite(x)))
        names = {"vanilla": "vanilla", "oracle": "retrained", "target": "paper’s target"}
        for which, several in lines.items():
            style = BASELINE_STYLES[which]
            ax.plot(places, [e.value for e in several], **style)
            bounds = np.array([e.interval for e in several])
            ax.fill_between(places, *bounds.T, color=style["color"], alpha=0.15, linewidth=0)
        if narrow or ax is panels[-1][0]:
            last = [
                (lines[which][-1].value, name, BASELINE_STYLES[which]["color"])
                for which, name in names.items()
            ]
            label_ends(ax, last, height=1.8)
        said = [
            f"read {times(at.exposure)}: vanilla {number(at.vanilla.value)}, retrained "
            f"{with_interval(at.retrained, 3)}"
            for at in ours
        ]
        alt.append(
            f"{domain_title(domain)}: {'; '.join(said)}; paper’s target "
            f"{with_interval(ours[0].target, 3)}."
        )
    figure.alt = " ".join(alt)
    return figure


def _exposure_axis(ax: Axes, places: Sequence[float]) -> None:
    """A logarithmic x with a tick at each exposure."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(places))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(places) / 1.12, max(places) * 1.12)


# ---- runs that forget the documents of one exposure -------------------------------------------


def exposures_in(found: AtEqual) -> list[int]:
    """The exposures that the runs forget, from the least."""
    return sorted({p.exposure for p in found.points if p.exposure})


def measure_table(found: AtEqual, measure: str) -> pd.DataFrame:
    """Per domain and method a column per exposure: one of `SHOWN`, with intervals."""
    import pandas as pd

    scale = SHOWN[measure][1]
    exposures, index, rows = exposures_in(found), [], []
    for domain in found.domains:
        for method in found.methods:
            if not found.of(domain, method):
                continue
            cells = []
            for exposure in exposures:
                reached, runs = found.reached(domain, method, exposure=exposure)
                estimate = found.estimate(measure, domain, method, exposure=exposure)
                text = with_interval(estimate.times(scale))
                if nothing_to_forget(found, domain, method, exposure):
                    text = "nothing to forget"
                cells.append("not reached" if runs and not reached else text)
            index.append((domain_title(domain), method_title(method)))
            rows.append(cells)
    columns = [f"read {times(exposure)}" for exposure in exposures]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def nothing_to_forget(found: AtEqual, domain: str, method: str, exposure: int) -> bool:
    """Whether vanilla has the retrained model's perplexity on these documents before any update."""
    points = found.of(domain, method, exposure=exposure)
    return bool(points) and all(p.updates == 0 for p in points)


def growth(found: AtEqual, measure: str, domain: str, method: str) -> float:
    """A measure at the largest exposure over that at the least; NaN where one is not known."""
    exposures = exposures_in(found)
    low, high = (
        found.estimate(measure, domain, method, exposure=exposure).value
        for exposure in (exposures[0], exposures[-1])
    )
    return high / low if low > 0 else math.nan


def exposure_in_words(found: AtEqual) -> str:
    """Per domain: what documents of the largest exposure take and cost, and those of the least.

    A Markdown list; the numbers are the least and the largest over the methods.
    """
    exposures, lines = exposures_in(found), []
    if len(exposures) < 2:
        return ""
    ends = exposures[0], exposures[-1]
    for domain in found.domains:
        factors = [growth(found, DOSE, domain, m) for m in found.methods]
        known = [x for x in factors if math.isfinite(x)]
        if not known:
            continue
        said = []
        for measure, name in ((HARM, "harm"), (DISTANCE, "KL")):
            parts = []
            for exposure in ends:
                values = [
                    found.estimate(measure, domain, m, exposure=exposure).value
                    for m in found.methods
                ]
                parts.append(f"{_range(values)} for those read {times(exposure)}")
            said.append(f"{name} is {', '.join(parts)}")
        lines.append(
            f"- **{domain_title(domain)}.** Documents read {times(ends[1])} take {_range(known)} "
            f"times the rate × updates of those read {times(ends[0])}; {'; '.join(said)} (nats per "
            "token, least to most over the methods)."
        )
    return "\n".join(lines)


def at_once_in_words(found: AtEqual) -> str:
    """How many documents of each exposure are forgotten in the first update; Markdown.

    At the highest learning rate of each method, its chosen one; `found` has the runs at all rates.
    """
    counts: dict[int, list[bool]] = {}
    for domain in found.domains:
        for method in found.methods:
            points = found.of(domain, method)
            highest = max((p.run.spec["learning_rate"] for p in points), default=0.0)
            for p in points:
                if p.exposure and p.run.spec["learning_rate"] == highest:
                    counts.setdefault(p.exposure, []).append(p.updates <= 1)
    parts = [
        f"{sum(done)} of {len(done)} where the documents were read {times(exposure)}"
        for exposure, done in sorted(counts.items())
    ]
    if not parts:
        return ""
    return (
        "At the learning rate that was chosen for the whole forget set, the first update alone "
        f"passes the retrained model’s perplexity in this many runs: {', '.join(parts)}."
    )


def _range(values: Iterable[float]) -> str:
    """ "LEAST to MOST" of the numbers among some values."""
    known = sorted(x for x in values if math.isfinite(x))
    if not known:
        return "–"
    ends = list(dict.fromkeys(number(x, 2) for x in (known[0], known[-1])))
    return " to ".join(ends)


@figure_function
def by_exposure(found: AtEqual, measure: str = DOSE, *, narrow: bool = False) -> DescribedFigure:
    """One of `SHOWN` by how often the documents had been read: a line per method, panel per domain.

    Where a method never reached the retrained model its line has a gap, and that of the dose also
    where vanilla is there before any update.
    """
    exposures = exposures_in(found)
    if not exposures:
        raise UnlearnError("no run forgets documents of one exposure: run the study exposure.")
    label, scale = SHOWN[measure]
    layout = Layout(narrow)
    figure, panels = layout.panels(found.domains, 2.9, xlabel=READ, ylabel=label)
    alt = [f"{_sentence(label)}, by how often the documents were read."]
    for ax, domain in panels:
        rows = {
            method: [
                found.estimate(measure, domain, method, exposure=e).times(scale) for e in exposures
            ]
            for method in found.methods
            if found.of(domain, method)
        }
        if measure == DOSE:  # no dose is no place on a logarithmic axis
            rows = {m: [e if e.value > 0 else _NO_VALUE for e in row] for m, row in rows.items()}
        values = [x for row in rows.values() for e in row for x in (e.value,) if math.isfinite(x)]
        _exposure_axis(ax, [float(e) for e in exposures])
        if measure == HARM:
            _around_the_retrained(ax, values, 0.06)
        else:
            set_log_axis(ax, "y", *axis_range(values))
        _draw_methods(ax, exposures, rows, labelled=narrow or ax is panels[-1][0])
        alt.append(_rows_in_words(domain, rows))
    figure.alt = " ".join(alt)
    return figure


def _around_the_retrained(ax: Axes, values: Sequence[float], room: float) -> None:
    """A y axis from the least to the largest value with 0, where the retrained model's line is.

    `room` is the share of that stretch which is left free on either side.
    """
    low, high = min([0.0, *values]), max([0.0, *values])
    free = room * (high - low or 1.0)
    ax.set_ylim(low - free, high + free)
    ax.axhline(0, zorder=1.5, **BASELINE_STYLES["oracle"])


def _rows_in_words(domain: str, rows: Mapping[str, Sequence[Estimate]]) -> str:
    """What a panel shows, for those who cannot see it."""
    said = [f"{method_title(m)} {', '.join(map(with_interval, row))}" for m, row in rows.items()]
    return f"{domain_title(domain)}, from the least read: {'; '.join(said)}."


def _draw_methods(
    ax: Axes, exposures: Sequence[int], rows: Mapping[str, Sequence[Estimate]], *, labelled: bool
) -> None:
    """A line per method over the exposures; `labelled` with its name at the end."""
    low, high = ax.get_ylim()
    ends = []
    for method, row in rows.items():
        style = method_style(method)
        values = [clamp(e.value, low, high) for e in row]
        ax.plot(exposures, values, linewidth=1.5, markersize=4.6, markeredgewidth=0, **style)
        known = [x for x in values if math.isfinite(x)]
        if known:
            ends.append((known[-1], method_title(method), str(style["color"])))
    if labelled:
        label_ends(ax, ends, height=2.1)


# ---- one run over documents of mixed exposure --------------------------------------------------


@dataclass(frozen=True)
class Mixed:
    """Runs that forget documents of all exposures at once, where the whole set is forgotten.

    off  exposure -> ln(perplexity / the retrained model's) on the documents of that exposure: below
         0 too little is forgotten, above 0 too much
    """

    domain: str
    method: str
    off: dict[int, Estimate]

    @property
    def spread(self) -> float:
        """The largest value less the smallest, nats per token."""
        values = [e.value for e in self.off.values()]
        return max(values) - min(values)

    def serves_all(self, most: float = TOLERANCE.harm) -> bool:
        """Whether every exposure is within `most` of the retrained model, either way."""
        return all(abs(e.value) <= most for e in self.off.values())


def mixed(
    found: AtEqual, baselines: Iterable[Record], exposures: Mapping[str, Mapping[str, int]]
) -> list[Mixed]:
    """Per domain and method, runs over the whole forget set, exposure by exposure.

    From the losses of each document at the two probes around the crossing; the mean over runs.
    """
    baselines, out = list(baselines), []
    for domain in found.domains:
        known = exposures.get(domain, {})
        for method in found.methods:
            rows: dict[int, list[Estimate]] = {}
            for point in found.of(domain, method, exposure=0):
                retrained = scores_for(baselines, point.run, RETRAINED)
                if retrained is not None and known:
                    for exposure, e in _off(point, retrained, known, found.draws).items():
                        rows.setdefault(exposure, []).append(e)
            off = {
                exposure: Estimate(
                    known_mean(e.value for e in several),
                    np.mean([e.draws for e in several], axis=0),
                )
                for exposure, several in sorted(rows.items())
            }
            if off:
                out.append(Mixed(domain, method, off))
    return out


def _off(
    point: Point, retrained: Record, known: Mapping[str, int], draws: Draws
) -> dict[int, Estimate]:
    """Exposure -> ln(perplexity / the retrained model's) at the crossing of the whole set."""
    run, crossing = point.run, point.crossing
    if crossing is None or not crossing.final:
        return {}
    names = names_in(run, "forget")
    tokens, before = document_sums(run, "forget", "nll_before", names)
    after = document_sums(run, "forget", "nll", names)[1]
    theirs = document_sums(retrained, "forget", "nll", names)[1]
    if not all(np.isfinite(x).all() for x in (before, after, theirs)):
        return {}
    steps = crossing.after["update"] - crossing.before["update"]
    updates = point_draws(point, retrained, draws)["updates"]
    drawn_share = (updates - crossing.before["update"]) / steps if steps else 0 * updates + 1
    counts = draws.counts(point.domain, "forget", len(names))
    found = {}
    for exposure in sorted(set(known.values())):
        some = np.array([known.get(name) == exposure for name in names])
        if not some.any():
            continue
        total = tokens[some].sum()
        ends = [(x - theirs)[some].sum() / total for x in (before, after)]
        drawn = [
            drawn_means(counts[:, some], tokens[some], (x - theirs)[some]) for x in (before, after)
        ]
        found[exposure] = Estimate(
            float(ends[0] + crossing.share * (ends[1] - ends[0])),
            drawn[0] + drawn_share * (drawn[1] - drawn[0]),
        )
    return found


def mixed_table(found: Sequence[Mixed]) -> pd.DataFrame:
    """Per domain and method, by how many percent perplexity is off the retrained model's."""
    import pandas as pd

    exposures = sorted({e for one in found for e in one.off})
    rows = [
        [
            *(with_interval(one.off[e].percent()) if e in one.off else "–" for e in exposures),
            number(100 * math.expm1(one.spread), 2),
        ]
        for one in found
    ]
    index = [(domain_title(one.domain), method_title(one.method)) for one in found]
    columns = [*(f"read {times(e)}" for e in exposures), "most over least"]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def mixed_in_words(found: Sequence[Mixed], most: float = TOLERANCE.harm) -> str:
    """Whether one learning rate forgets documents of all exposures equally well; Markdown."""
    if not found:
        return ""
    serves = [one for one in found if one.serves_all(most)]
    exposures = sorted({e for one in found for e in one.off})
    parts = []
    for exposure in (exposures[0], exposures[-1]):
        values = [one.off[exposure].value for one in found if exposure in one.off]
        parts.append(
            f"{number(100 * math.expm1(fmean(values)), 2)} % "
            f"({_range(100 * math.expm1(x) for x in values)}) on documents read {times(exposure)}"
        )
    names = ", ".join(f"{method_title(one.method)} on {domain_title(one.domain)}" for one in serves)
    return (
        f"Where a run has the retrained model’s perplexity on the whole forget set, its perplexity "
        f"is off by {' and '.join(parts)} (mean over methods and domains, "
        "least to most). One learning rate serves all exposures, every one within "
        f"{100 * math.expm1(most):.0f} % of the retrained model, in {len(serves)} of {len(found)} "
        f"cases of a method and a domain{f': {names}' if 0 < len(serves) <= 6 else ''}."
    )


@figure_function
def mixed_figure(found: Sequence[Mixed], *, narrow: bool = False) -> DescribedFigure:
    """By exposure how far perplexity is off the retrained one, where the whole set is not."""
    found = list(found)
    if not found:
        raise UnlearnError(
            "no run over all exposures has reached the retrained model: run equal_forgetting."
        )
    layout = Layout(narrow)
    domains = list(dict.fromkeys(one.domain for one in found))
    label = "perplexity, % off the retrained model’s"
    figure, panels = layout.panels(domains, 2.9, xlabel=READ, ylabel=label)
    alt = [
        "Forgetting by exposure where the whole forget set is forgotten; 0 is the retrained model."
    ]
    for ax, domain in panels:
        rows = {
            one.method: [e.percent() for e in one.off.values()]
            for one in found
            if one.domain == domain
        }
        exposures = next(list(one.off) for one in found if one.domain == domain)
        _exposure_axis(ax, [float(e) for e in exposures])
        values = [e.value for row in rows.values() for e in row]
        _around_the_retrained(ax, values, 0.08)
        _draw_methods(ax, exposures, rows, labelled=narrow or ax is panels[-1][0])
        alt.append(_rows_in_words(domain, rows))
    figure.alt = " ".join(alt)
    return figure
