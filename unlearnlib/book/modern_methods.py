"""The chapter on the methods that came after the paper: what they are, and what they do better.

All rows are compared where each has forgotten as much as the retrained model (see `at_equal`), each
at the best of a few learning rates. For a run that is shown the rate was chosen on other seeds. A
second study cuts the same documents into chunks of other lengths, for NPO's weight is one of whole
chunks. What theory says of ascent and NPO is in `theory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from unlearnlib.book.at_equal import (
    ATTACKS,
    BASES,
    DISTANCE,
    HARM,
    RETRAINED,
    AtEqual,
    Band,
    Estimate,
    Point,
    point_of,
    retrained_models,
    scores_for,
)
from unlearnlib.book.equal_forgetting import with_interval
from unlearnlib.book.records import (
    FORGET,
    baseline_value,
    domain_index,
    domains_of,
    probed_rows,
    select,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    figure_function,
    legend_height,
    set_log_axis,
)
from unlearnlib.looks import ATTACK_TITLES, BASELINE_STYLES, domain_title, method_look, method_title
from unlearnlib.profiles import LATER_METHODS, PAPER_METHODS, get_profile
from unlearnlib.store.record import Record
from unlearnlib.text import number, plural

if TYPE_CHECKING:
    import pandas as pd

WITH_DESCENT = "_gd_in_dist"  # what the name of a row with descent ends in


def rows_table(rows: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """What each row is, of `methods.row_in_words` by the row's name."""
    import pandas as pd

    return pd.DataFrame(
        [list(row.values()) for row in rows.values()],
        index=pd.Index([method_title(name) for name in rows], name="method"),
        columns=list(next(iter(rows.values()), {})),
    )


# ---- which rate -------------------------------------------------------------------------------


def at_best_rates(records: Iterable[Record], baselines: Iterable[Record]) -> list[Record]:
    """Of each method, domain and seed the run at the rate that did least harm with the other seeds.

    A rate at which more of the others reached the retrained model goes first, and of two alike the
    lower. Where there is one seed alone, it is the lowest rate that got there.
    """
    baselines = list(baselines)
    groups: dict[tuple[str, str, str], dict[float, dict[int, Point]]] = {}
    for run in records:
        retrained = scores_for(baselines, run, RETRAINED)
        if retrained is None or not probed_rows(run):
            continue
        point = point_of(run, retrained, retrained_models(baselines, run, retrained))
        rates = groups.setdefault((point.domain, point.method, point.base), {})
        rates.setdefault(float(run.spec["learning_rate"]), {})[int(run.spec["seed"])] = point
    kept = []
    for rates in groups.values():
        for seed in dict.fromkeys(s for runs in rates.values() for s in runs):
            there = {rate: runs for rate, runs in rates.items() if seed in runs}
            best = min(sorted(there), key=lambda rate: _badness(there[rate], seed))
            kept.append(there[best][seed].run)
    return kept


def _badness(runs: Mapping[int, Point], seed: int) -> tuple[int, float]:
    """Of one rate: (less by each run of another seed that got there, the mean harm of these)."""
    others = [point for s, point in runs.items() if s != seed]
    if not others:
        return int(runs[seed].crossing is None), 0.0
    harms = [point.harm for point in others if math.isfinite(point.harm)]
    return -len(harms), fmean(harms) if harms else math.inf


# ---- all rows at equal forgetting ---------------------------------------------------------------


def modern_table(found: AtEqual) -> pd.DataFrame:
    """Per domain the rows from the least harm to the most, and those that did not get there."""
    import pandas as pd

    index, rows = [], []
    for domain in found.domains:
        best_first = found.order(HARM, domain)
        for method in (*best_first, *(m for m in found.methods if m not in best_first)):
            reached, runs = found.reached(domain, method)
            if not runs:
                continue
            rates = sorted({p.run.spec["learning_rate"] for p in found.of(domain, method)})
            at = ", ".join(f"{rate:g}" for rate in rates)
            index.append((domain_title(domain), method_title(method)))
            if not reached:
                rows.append(["not reached", *["–"] * 4, at, f"0 of {runs}"])
                continue
            rows.append(
                [
                    with_interval(found.estimate(HARM, domain, method)),
                    found.worst(domain, method),
                    with_interval(found.estimate(DISTANCE, domain, method)),
                    number(found.estimate(f"auc/{ATTACKS[-1]}", domain, method).value),
                    with_interval(found.estimate("updates", domain, method)),
                    at,
                    f"{reached} of {runs}",
                ]
            )
    attack = f"AUC {ATTACK_TITLES[ATTACKS[-1]]}"
    columns = ["harm, nats", "worst on", "KL, nats", attack, "updates", "learning rate", "reached"]
    return pd.DataFrame(rows, index=domain_index(index), columns=columns)


def modern_in_words(found: AtEqual, bands: Mapping[str, Band]) -> str:
    """What the comparison of all rows shows, conclusions first; a Markdown list."""
    lines = [
        *(_best_in_words(found, measure, bands) for measure in (HARM, DISTANCE)),
        _descent_in_words(found),
        _unreached_in_words(found),
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def _best_in_words(found: AtEqual, measure: str, bands: Mapping[str, Band]) -> str:
    """Per domain the best later row against the best of the paper's, with their difference."""
    parts = []
    for domain in found.domains:
        order = found.order(measure, domain)
        later = [m for m in order if m in LATER_METHODS]
        paper = [m for m in order if m in PAPER_METHODS]
        if not later or not paper:
            continue
        ours, theirs = (found.estimate(measure, domain, some[0]) for some in (later, paper))
        text = (
            f"{domain_title(domain)}: {method_title(later[0])}, {with_interval(ours)}, against "
            f"{method_title(paper[0])}, {with_interval(theirs)}; the difference is "
            f"{with_interval(ours.minus(theirs))}"
        )
        before = found.before.get((domain, BASES[0]), {}).get(measure, math.nan)
        if math.isfinite(before):
            text += f" (before unlearning {number(before, 2)})"
        floor = bands[domain].floor.value if domain in bands else math.nan
        if measure == DISTANCE and math.isfinite(floor):
            text += f", where two retrained models are {number(floor, 2)} apart"
        parts.append(text)
    opening = {
        HARM: "Least harm of a later row against the least of the paper’s seven",
        DISTANCE: "Nearest to the retrained model, likewise",
    }[measure]
    return f"**{opening}** (nats per token). {'. '.join(parts)}." if parts else ""


def descent_effects(found: AtEqual, measure: str = HARM) -> dict[str, Estimate]:
    """Row without retain term -> what descent beside it changes, mean over domains of both."""
    pairs = {
        m: f"{m}{WITH_DESCENT}" for m in found.methods if f"{m}{WITH_DESCENT}" in found.methods
    }
    effects = {one: found.difference(measure, both, one) for one, both in pairs.items()}
    return {one: e for one, e in effects.items() if math.isfinite(e.value)}


def _descent_in_words(found: AtEqual) -> str:
    effects = descent_effects(found)
    if not effects:
        return ""
    less = sum(effect.interval[1] < 0 for effect in effects.values())
    more = sum(effect.interval[0] > 0 for effect in effects.values())
    low, high = (f(effects, key=lambda m: effects[m].value) for f in (min, max))
    return (
        f"**Descent beside a forget term** on texts of the same domain lowers the harm of {less} "
        f"of {len(effects)} {plural('row', len(effects))}, raises that of {more}, and leaves the "
        f"others’ undecided: from {with_interval(effects[low])} with {method_title(low)} to "
        f"{with_interval(effects[high])} with {method_title(high)}."
    )


def _unreached_in_words(found: AtEqual) -> str:
    """Which rows do not forget as much as the retrained model, at any of their rates."""
    counts = {(d, m): found.reached(d, m) for d in found.domains for m in found.methods}
    done, runs = (sum(count[i] for count in counts.values()) for i in (0, 1))
    short = [
        f"{method_title(method)} on {domain_title(domain)} {n - reached} of {n}"
        for (domain, method), (reached, n) in counts.items()
        if reached < n
    ]
    text = f"**As much forgotten as by the retrained model** in {done} of {runs} "
    text += plural("run", runs)
    return f"{text}; not reached: {', '.join(short)}." if short else f"{text}."


# ---- chunk length x beta ----------------------------------------------------------------------


def length_of(record: Record) -> int:
    """Tokens per chunk of a run."""
    spec = record.spec
    return int(spec.get("length") or get_profile(str(spec["profile"])).length)


def beta_of(record: Record, usual: Mapping[str, float]) -> float:
    """The strength of a run's forget term; where its spec leaves it out, the usual one of the row.

    `usual` has these by the names of the rows.
    """
    beta = record.spec.get("beta")
    return float(usual.get(str(record.spec["method"]), math.nan) if beta is None else beta)


def rise(record: Record) -> float:
    """By how many nats per token the loss on the forgotten documents rose in a run; NaN for none.

    Of a run that broke its model it is infinite.
    """
    rows = probed_rows(record)
    if len(rows) < 2:
        return math.nan
    first, last = (float(row[FORGET]) for row in (rows[0], rows[-1]))
    return math.log(last / first) if 0 < first < math.inf and last > 0 else math.nan


Lines = dict[tuple[str, float], dict[int, float]]  # (method, beta) -> length -> rise


def rises(records: Iterable[Record], domain: str, usual: Mapping[str, float]) -> Lines:
    """Mean rise over seeds, by method and strength, by chunk length, of one domain.

    `usual` as `beta_of` takes it, here and below.
    """
    every: dict[tuple[str, float], dict[int, list[float]]] = {}
    for record in select(records, domain):
        line = every.setdefault((str(record.spec["method"]), beta_of(record, usual)), {})
        line.setdefault(length_of(record), []).append(rise(record))
    return {
        which: {length: fmean(values) for length, values in sorted(line.items())}
        for which, line in sorted(every.items())
    }


def line_title(method: str, beta: float) -> str:
    """ "NPO, β = 0.1"."""
    return f"{method_title(method)}, β = {beta:g}"


def chunk_table(records: Iterable[Record], usual: Mapping[str, float]) -> pd.DataFrame:
    """Rise of the forget loss per domain, method and strength, a column per chunk length."""
    import pandas as pd

    records = list(records)
    lengths = sorted({length_of(record) for record in records})
    index, rows = [], []
    for domain in domains_of(records):
        for which, line in rises(records, domain, usual).items():
            index.append((domain_title(domain), line_title(*which)))
            rows.append([number(line.get(length, math.nan), 2) for length in lengths])
    return pd.DataFrame(
        rows, index=domain_index(index), columns=[f"{length} tokens" for length in lengths]
    )


def chunk_in_words(records: Iterable[Record], usual: Mapping[str, float]) -> str:
    """How much of its forgetting each strength of NPO loses on long chunks; a Markdown list."""
    records, lines = list(records), []
    for domain in domains_of(records):
        parts = []
        for which, line in rises(records, domain, usual).items():
            known = [x for x in line.values() if math.isfinite(x)]
            if len(known) < 2:
                continue
            short, long = min(line), max(line)
            parts.append(
                f"{line_title(*which)}: {number(line[short], 2)} in chunks of {short} tokens and "
                f"{number(line[long], 2)} in chunks of {long}"
            )
        if parts:
            lines.append(f"- **{domain_title(domain)}.** {'; '.join(parts)}.")
    if not lines:
        return ""
    opening = "By how many nats per token the loss on the forget set rises in all updates:\n"
    return "\n".join([opening, *lines])


@figure_function
def chunk_figure(
    records: Iterable[Record],
    baselines: Iterable[Record],
    usual: Mapping[str, float],
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Rise of the forget loss against chunk length, a line per strength of NPO; token-wise dashed.

    The green line is how far the retrained model's loss lies above that of the model before.
    """
    records, baselines = list(records), list(baselines)
    domains = domains_of(records)
    lines = {domain: rises(records, domain, usual) for domain in domains}
    values = [x for one in lines.values() for line in one.values() for x in line.values()]
    if not any(math.isfinite(x) and x > 0 for x in values):
        raise UnlearnError("no run of chunks has raised a loss: run the study chunk_beta.")
    shown = sorted({which for one in lines.values() for which in one})
    layout = Layout(narrow)
    figure, panels = layout.panels(
        domains,
        2.5,
        xlabel="tokens per chunk",
        ylabel="rise of the forget loss, nats",
        extra=0.2 + legend_height(layout, len(shown) + 1),
    )
    alt = ["Rise of the loss on the forget set, nats per token, by chunk length."]
    for ax, domain in panels:
        way = _way_to_go(baselines, domain, records)
        inside = [x for line in lines[domain].values() for x in line.values()]
        lengths = sorted({length for line in lines[domain].values() for length in line})
        set_log_axis(ax, "y", *axis_range([*inside, way]))
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(lengths))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        if math.isfinite(way) and way > 0:
            ax.axhline(way, zorder=1.5, **BASELINE_STYLES["oracle"])
        said = []
        for which, line in lines[domain].items():
            known = {length: x for length, x in line.items() if math.isfinite(x) and x > 0}
            ax.plot(list(known), list(known.values()), markersize=5, **_line(which, shown))
            told = ", ".join(f"{number(x, 2)} at {length}" for length, x in line.items())
            said.append(f"{line_title(*which)} {told}")
        alt.append(f"{domain_title(domain)}: {'; '.join(said)}.")
    handles = [Line2D([], [], label=line_title(*which), **_line(which, shown)) for which in shown]
    handles.append(Line2D([], [], label="retrained model", **BASELINE_STYLES["oracle"]))
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


def _way_to_go(baselines: Sequence[Record], domain: str, runs: Sequence[Record]) -> float:
    """ln(the retrained model's forget perplexity / that of the model before)."""
    ends = [baseline_value(baselines, domain, n, FORGET, runs) for n in ("vanilla", "oracle")]
    return math.log(ends[1] / ends[0]) if all(x > 0 for x in ends) else math.nan


def _line(which: tuple[str, float], shown: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """A method's colour, paler with a smaller strength of several; token-wise NPO dashed."""
    look = method_look(which[0])
    betas = [beta for method, beta in shown if method == which[0]]
    shades = np.linspace(0.35, 1, len(betas)) if len(betas) > 1 else np.ones(1)
    return {
        "color": look.colour,
        "marker": look.marker,
        "alpha": float(shades[betas.index(which[1])]),
        "linestyle": "-" if len(betas) > 1 else "--",
        "linewidth": 1.6,
    }
