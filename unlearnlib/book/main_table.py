"""The main table: seven methods, three domains, and the comparison at equal forgetting.

`findings` are the numbers that the prose of several chapters quotes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D

from unlearnlib.book.drawing import (
    axis_cap,
    baseline_values,
    baselines_in_words,
    draw_baselines,
    draw_seeds,
    means_in_words,
    method_panels,
)
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    KL,
    Column,
    Finding,
    auc_with_interval,
    baseline_record,
    baseline_value,
    crossing,
    domain_index,
    domains_of,
    methods_of,
    probed_rows,
    seed_values,
    select,
    value,
)
from unlearnlib.figures import (
    BEYOND,
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    checked,
    draw_points,
    figure_function,
    legend_height,
    mark_handle,
    set_log_axis,
)
from unlearnlib.looks import (
    ATTACK,
    ATTACK_TITLES,
    BASELINE_STYLES,
    BASELINE_TITLES,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.metrics.distance import target_gap
from unlearnlib.store.record import Record
from unlearnlib.text import mean_and_spread, number, plural, with_spread

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: tuple[Column, ...] = (
    *(Column("Perplexity", s, f"{s}/perplexity") for s in ("forget", "approximate", "retain")),
    Column("Perplexity", "general", "general/perplexity"),
    *(Column("Accuracy", s, f"{s}/accuracy") for s in ("forget", "approximate", "retain")),
    Column("Accuracy", "general", "general/accuracy"),
    Column("Membership AUC", "Min-40 %", f"membership/{ATTACK}/auc"),
    Column("Cloze accuracy", "forget", "forget/cloze_choice_accuracy"),
    Column("Verbatim share", "forget", "forget/verbatim_share"),
    Column("KL to oracle, nats", "forget", "oracle_kl/forget"),
    Column("KL to oracle, nats", "approximate", "oracle_kl/approximate"),
)
FORGETTING = tuple(c for c in COLUMNS if c.group != "Accuracy")
ACCURACIES = tuple(c for c in COLUMNS if c.group == "Accuracy")


def at_rate(records: Iterable[Record], learning_rate: float) -> list[Record]:
    """The records with the learning rate that is nearest in the logarithm: a slice of the grid."""
    records = list(records)
    if not records:
        return []
    gap = lambda r: abs(math.log(r.spec["learning_rate"] / learning_rate))  # noqa: E731
    nearest = min(records, key=gap).spec["learning_rate"]
    return [r for r in records if r.spec["learning_rate"] == nearest]


def findings(records: Iterable[Record], baselines: Iterable[Record]) -> dict[str, Finding]:
    """The named numbers that prose quotes; names of a domain's begin with "DOMAIN.".

    runs, methods, seeds, domains, diverged
    D.vanilla, D.target, D.truth      perplexity of vanilla on forget, of vanilla on approximate,
                                      of the oracle on forget
    D.target_over_truth               the paper's target as a multiple of the truth
    D.vanilla_auc, D.oracle_auc       membership AUC, Min-40 %
    D.oracle_auc_low, _high           the latter's 95 % interval, by bootstrap over documents
    D.kl.vanilla, D.kl.METHOD         mean KL to the oracle on forget, nats per token
    D.kl.floor                        vanilla's on approximate, which neither model was trained on:
                                      how far two separately trained models differ
    D.closest, D.closest_kl           the method with the least of these, and its value
    D.nearer                          number of methods with less than vanilla
    D.nearest_target                  the method whose forget perplexity is nearest the target
    D.gd_against_ga                   "closer", "farther" or "no clear difference": is ascent +
                                      in-distribution descent closer to the oracle than ascent?
                                      A difference is clear if it has one sign for every seed.
    D.below_half                      number of methods whose mean AUC is below 0.5
    D.below_elsewhere                 the same by the other attacks of `ATTACK_TITLES`, in words
    """
    records, baselines = list(records), list(baselines)
    out: dict[str, Finding] = {
        "runs": len(records),
        "methods": len(methods_of(records)),
        "seeds": len({r.spec.get("seed") for r in records}),
        "domains": len(domains_of(records)),
        "diverged": sum(r.status == "diverged" for r in records),
    }
    for domain in domains_of(records or baselines):
        of_domain = (
            _baseline_findings(records, baselines, domain)
            | _distance_findings(records, baselines, domain)
            | _membership_findings(records, domain)
        )
        out |= {f"{domain}.{name}": x for name, x in of_domain.items()}
    return out


def _baseline_findings(
    records: Sequence[Record], baselines: Sequence[Record], domain: str
) -> dict[str, Finding]:
    """What vanilla and the oracle score, and the target against the truth."""
    vanilla, target, truth = (
        baseline_value(baselines, domain, which, "forget/perplexity", records)
        for which in ("vanilla", "target", "oracle")
    )
    vanilla_auc, oracle_auc = (
        baseline_value(baselines, domain, which, f"membership/{ATTACK}/auc", records)
        for which in ("vanilla", "oracle")
    )
    oracle = baseline_record(baselines, domain, "oracle", records)
    low, high = (math.nan,) * 2 if oracle is None else auc_with_interval(oracle)[1:]
    return {
        "vanilla": vanilla,
        "target": target,
        "truth": truth,
        "target_over_truth": target / truth if truth else math.nan,
        "vanilla_auc": vanilla_auc,
        "oracle_auc": oracle_auc,
        "oracle_auc_low": low,
        "oracle_auc_high": high,
    }


def _distance_findings(
    records: Sequence[Record], baselines: Sequence[Record], domain: str
) -> dict[str, Finding]:
    """Which methods end nearest to the oracle, and nearest to the target."""
    before, floor = (
        baseline_value(baselines, domain, "vanilla", f"oracle_kl/{split}", records)
        for split in ("forget", "approximate")
    )
    target = baseline_value(baselines, domain, "target", "forget/perplexity", records)
    distance = _seed_means(records, domain, "oracle_kl/forget")
    gap = {
        method: target_gap(x, target)
        for method, x in _seed_means(records, domain, "forget/perplexity").items()
        if x > 0 and target > 0
    }
    closest, nearest = _least(distance), _least(gap)
    return {
        "kl.vanilla": before,
        "kl.floor": floor,
        **{f"kl.{method}": x for method, x in distance.items()},
        "closest": method_title(closest) if closest else "none",
        "closest_kl": distance[closest] if closest else math.nan,
        "nearer": sum(x < before for x in distance.values()),
        "nearest_target": method_title(nearest) if nearest else "none",
        "gd_against_ga": _compare(records, domain, "ga_gd_in_dist", "ga"),
    }


def _membership_findings(records: Sequence[Record], domain: str) -> dict[str, Finding]:
    """After how many methods the forget set looks less like training data than unseen text."""
    aucs = _seed_means(records, domain, f"membership/{ATTACK}/auc")
    return {
        "below_half": sum(x < 0.5 for x in aucs.values()),
        "below_elsewhere": _below_elsewhere(records, domain),
    }


def _seed_means(records: Sequence[Record], domain: str, metric: str) -> dict[str, float]:
    """Method -> a metric's mean over the seeds on a domain."""
    return {
        method: mean_and_spread(seed_values(records, domain, method, metric))[0]
        for method in methods_of(select(records, domain))
    }


def _below_elsewhere(records: Sequence[Record], domain: str) -> str:
    """ "GA + GD, in-dist. (Min-20 %, Min-20 %++)": below 0.5 by attacks other than `ATTACK`."""
    found = []
    for method in methods_of(select(records, domain)):
        attacks = [
            title
            for attack, title in ATTACK_TITLES.items()
            if attack != ATTACK
            and mean_and_spread(seed_values(records, domain, method, f"membership/{attack}/auc"))[0]
            < 0.5
        ]
        if attacks:
            found.append(f"{method_title(method)} ({', '.join(attacks)})")
    return " and ".join(found)


def _least(table: Mapping[str, float]) -> str | None:
    known = {name: x for name, x in table.items() if math.isfinite(x)}
    return min(known, key=lambda name: known[name]) if known else None


def _compare(records: Sequence[Record], domain: str, one: str, other: str) -> str:
    """Is `one` closer to the oracle than `other`? Runs of the same seed are compared."""
    sides = []
    for method in (one, other):
        runs = select(records, domain, method)
        sides.append({r.spec.get("seed"): value(r, "oracle_kl/forget") for r in runs})
    differences = [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]
    differences = [d for d in differences if not math.isnan(d)]
    if not differences:
        return "unknown"
    if all(d < 0 for d in differences):
        return "closer"
    return "farther" if all(d > 0 for d in differences) else "no clear difference"


def domains_in(found: Mapping[str, Finding]) -> list[str]:
    """The domains that some findings are about."""
    named = [name.partition(".")[0] for name in found if name.endswith(".target_over_truth")]
    return list(dict.fromkeys(named))


@dataclass(frozen=True)
class EqualForgetting:
    """A probed run where its forget perplexity first reaches the oracle's, between two probes.

    update    where that is
    general   general perplexity there, as a multiple of vanilla's
    distance  KL to the oracle on the forget set there, nats per token
    """

    domain: str
    method: str
    seed: int
    update: float
    general: float
    distance: float


def at_equal_forgetting(
    records: Iterable[Record], baselines: Iterable[Record]
) -> list[EqualForgetting]:
    """Every probed run at the truth, in the book's order; those that never reach it are left out.

    At their ends runs have forgotten different amounts, and a run that has forgotten less is nearer
    to vanilla in every measure. Here every run is taken at the same forget perplexity. Between
    probes the logarithms of the perplexities and the divergence are interpolated over the update,
    as in `crossing`.
    """
    records, baselines = list(records), list(baselines)
    out = []
    for domain in domains_of(records):
        truth = baseline_value(baselines, domain, "oracle", FORGET, records)
        vanilla = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        for method in methods_of(select(records, domain)):
            for run in select(records, domain, method):
                update = crossing(run, truth)
                if not math.isfinite(update) or update <= 0:
                    continue
                rows = probed_rows(run)
                after = next(i for i, row in enumerate(rows) if row["update"] >= update)
                a, b = rows[max(after - 1, 0)], rows[after]
                width = b["update"] - a["update"]
                share = (update - a["update"]) / width if width else 1.0

                def at(name: str, of: Callable[[float], float], a: Any = a, b: Any = b) -> float:
                    ends = [of(float(row.get(name, math.nan))) for row in (a, b)]
                    return ends[0] + share * (ends[1] - ends[0])  # noqa: B023

                out.append(
                    EqualForgetting(
                        domain,
                        method,
                        int(run.spec["seed"]),
                        update,
                        math.exp(at(GENERAL, math.log)) / vanilla,
                        at(KL, float),
                    )
                )
    return out


def main_table(
    records: Iterable[Record],
    baselines: Iterable[Record],
    columns: Sequence[Column] = COLUMNS,
) -> pd.DataFrame:
    """Vanilla, target, oracle and the methods, per domain, as text: mean ± std over seeds.

    A method whose runs diverged says how many of them; one without runs is left out.
    """
    import pandas as pd

    records, baselines = list(records), list(baselines)
    index, rows = [], []
    for domain in domains_of(records or baselines):
        for which, title in BASELINE_TITLES.items():
            values = [baseline_value(baselines, domain, which, c.metric, records) for c in columns]
            if not all(map(math.isnan, values)):
                index.append((domain_title(domain), title))
                rows.append([number(x) for x in values])
        for method in methods_of(records):
            runs = select(records, domain, method)
            if not runs:
                continue
            diverged = sum(r.status == "diverged" for r in runs)
            note = f" (diverged: {diverged} of {len(runs)})" if diverged else ""
            index.append((domain_title(domain), method_title(method) + note))
            rows.append([with_spread([value(r, c.metric) for r in runs]) for c in columns])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "model"]),
        columns=pd.MultiIndex.from_tuples([(c.group, c.split) for c in columns]),
    )


def _diverged(count: int) -> str:
    if not count:
        return "None diverged."
    return f"{count} diverged; {'its' if count == 1 else 'their'} last finite state is shown."


def settings_table(records: Iterable[Record]) -> pd.DataFrame:
    """The learning rate of each method on each domain, as the runs used it."""
    import pandas as pd

    records = list(records)
    domains = domains_of(records)
    rows = []
    for method in methods_of(records):
        row = []
        for domain in domains:
            used = sorted({r.spec["learning_rate"] for r in select(records, domain, method)})
            row.append(", ".join(f"{x:g}" for x in used) or "–")
        rows.append(row)
    index = pd.Index([method_title(m) for m in methods_of(records)], name="method")
    return pd.DataFrame(rows, index=index, columns=[domain_title(d) for d in domains])


def equal_forgetting_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method, at the truth: update, harm, distance; mean ± std over seeds."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    found = at_equal_forgetting(records, baselines)
    index, rows = [], []
    for domain in domains_of(records):
        before = baseline_value(baselines, domain, "vanilla", KL, records)
        index.append((domain_title(domain), BASELINE_TITLES["vanilla"]))
        rows.append(["0", "1", number(before)])
        for method in methods_of(select(records, domain)):
            ours = [a for a in found if (a.domain, a.method) == (domain, method)]
            index.append((domain_title(domain), method_title(method)))
            values = ([getattr(a, x) for a in ours] for x in ("update", "general", "distance"))
            rows.append([with_spread(x) for x in values] if ours else ["never", "–", "–"])
    return pd.DataFrame(
        rows,
        index=domain_index(index),
        columns=["at update", "general, × vanilla", "KL to oracle, nats"],
    )


def findings_in_words(found: Mapping[str, Finding]) -> str:
    """The findings as a Markdown list: the target against the truth, and who is closest."""
    lines = [
        f"- {found['runs']} runs: {found['methods']} methods on {found['domains']} "
        f"{plural('domain', found['domains'])}, {found['seeds']} "
        f"{plural('seed', found['seeds'])} each. {_diverged(int(found['diverged']))}"
    ]
    for domain in domains_in(found):
        title = domain_title(domain)
        ratio = float(found[f"{domain}.target_over_truth"])
        lines.append(f"- **{title}.** {_target_sentence(found, domain, ratio)}")
        closest_kl = float(found[f"{domain}.closest_kl"])
        if not math.isnan(closest_kl):
            before, floor = (float(found[f"{domain}.kl.{x}"]) for x in ("vanilla", "floor"))
            nearer = int(found[f"{domain}.nearer"])
            lines[-1] += (
                f" {nearer or 'No'} {'method ends' if nearer < 2 else 'methods end'} nearer to the "
                f"oracle on the forget set than vanilla is, at {number(before)} nats per token"
            )
            lines[-1] += "" if math.isnan(floor) else f" ({number(floor)} on unseen documents)"
            lines[-1] += f"; the nearest is {found[f'{domain}.closest']}, at {number(closest_kl)}."
        verdict = found[f"{domain}.gd_against_ga"]
        if verdict != "unknown":
            seeds = "for every seed" if int(found["seeds"]) > 1 else "with the one seed there is"
            how = {
                "closer": f"nearer to it than GA, {seeds}",
                "farther": f"farther from it than GA, {seeds}",
            }.get(str(verdict), f"neither nearer nor farther than GA {seeds}")
            lines[-1] += f" At their chosen rates {method_title('ga_gd_in_dist')} ends {how}."
    return "\n".join(lines)


def _target_sentence(found: Mapping[str, Finding], domain: str, ratio: float) -> str:
    target, truth = (number(float(found[f"{domain}.{x}"])) for x in ("target", "truth"))
    if math.isnan(ratio):
        return f"The paper’s target is a perplexity of {target}; there is no oracle to compare."
    percent = abs(ratio - 1) * 100
    side = "above" if ratio > 1 else "below"
    near = f"{percent:.1f} % {side}" if percent >= 0.05 else "equal to"
    return (
        f"The paper’s target is a perplexity of {target}, {near} the truth, {truth} "
        f"(vanilla before unlearning: {number(float(found[f'{domain}.vanilla']))})."
    )


def equal_forgetting_in_words(
    records: Iterable[Record],
    baselines: Iterable[Record],
    one: str = "ga_gd_in_dist",
    other: str = "ga",
) -> str:
    """Who is nearest to the oracle at the truth, and who does least harm, as a Markdown list."""
    records, baselines = list(records), list(baselines)
    found = at_equal_forgetting(records, baselines)
    lines = []
    for domain in domains_of(records):
        means = {
            m: tuple(
                fmean(getattr(a, x) for a in found if (a.domain, a.method) == (domain, m))
                for x in ("distance", "general")
            )
            for m in dict.fromkeys(a.method for a in found if a.domain == domain)
        }
        known = {m: x for m, x in means.items() if not any(map(math.isnan, x))}
        if not known:
            continue
        parts = []
        for place, what, unit in (
            (0, "nearest to the oracle", "{} nats per token"),
            (1, "least harm", "general perplexity ×{}"),
        ):
            best = min(known, key=lambda m, place=place: known[m][place])  # type: ignore[misc]
            parts.append(f"{what}: {method_title(best)}, {unit.format(number(known[best][place]))}")
        line = f"- **{domain_title(domain)}.** At equal forgetting, {'; '.join(parts)}."
        if one in known and other in known:
            sides = [
                ("nearer", "farther")[known[one][0] > known[other][0]],
                ("less", "more")[known[one][1] > known[other][1]],
            ]
            line += (
                f" {method_title(one)} is {sides[0]} than {method_title(other)} "
                f"({number(known[one][0])} against {number(known[other][0])}), with {sides[1]} "
                f"harm (×{number(known[one][1])} against ×{number(known[other][1])})."
            )
        lines.append(line)
    return "\n".join(lines)


@figure_function
def forget_vs_general(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Forget perplexity against the rise of general perplexity; a dot per seed, a ring the mean."""
    records, baselines = checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    extra = legend_height(layout, len(methods) + 3)
    figure, panels = layout.panels(
        domains,
        2.9 if not narrow else 2.6,
        xlabel="general perplexity ÷ vanilla’s",
        ylabel="forget perplexity",
        extra=extra,
    )
    alt = ["Forget perplexity (log) against general perplexity relative to vanilla."]
    for ax, domain in panels:
        base = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        base = base if math.isfinite(base) and base > 0 else 1.0
        marks = list(baseline_values(baselines, domain, FORGET, records).values())
        xs = {m: [v / base for v in seed_values(records, domain, m, GENERAL)] for m in methods}
        ys = {m: seed_values(records, domain, m, FORGET) for m in methods}
        low, high = axis_range(
            [*marks, *(v for values in ys.values() for v in values)], axis_cap(marks)
        )
        set_log_axis(ax, "y", low, high)
        left, right = axis_range([1.0, *(v for values in xs.values() for v in values)], BEYOND)
        set_log_axis(ax, "x", min(left, 0.98), max(right, 1.05))
        draw_baselines(ax, "y", baselines, domain, FORGET, records)
        ax.axvline(1.0, color="#c3c9cf", linewidth=1, zorder=1)
        for method in methods:
            style = method_style(method)
            draw_points(
                ax, xs[method], ys[method], alpha=0.45, markersize=5, markeredgewidth=0, **style
            )
            mean = [mean_and_spread(values[method])[0] for values in (xs, ys)]
            draw_points(ax, mean[:1], mean[1:], markersize=8.5, markeredgecolor="white", **style)
        alt.append(
            f"{domain_title(domain)}: {baselines_in_words(baselines, domain, FORGET, records)}; "
            f"{means_in_words(records, domain, FORGET)}."
        )
    add_legend(figure, layout, methods, tuple(BASELINE_TITLES))
    figure.alt = " ".join(alt)
    return figure


@figure_function
def distance_to_oracle(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Mean KL to the oracle per method: on the forget (filled) and the approximate set (open)."""
    records, baselines = checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    sets = ("forget", "approximate")
    figure, panels = method_panels(layout, domains, methods, "KL(oracle ‖ model), nats per token")
    alt = ["Mean KL divergence from the oracle in nats per token, lower is closer."]
    spread = [
        v
        for d in domains
        for m in methods
        for s in sets
        for v in seed_values(records, d, m, f"oracle_kl/{s}")
    ]
    spread += [
        baseline_value(baselines, d, "vanilla", f"oracle_kl/{s}") for d in domains for s in sets
    ]
    for ax, domain in panels:
        base = [
            baseline_value(baselines, domain, "vanilla", f"oracle_kl/{s}", records) for s in sets
        ]
        set_log_axis(ax, "x", *axis_range(spread, axis_cap(base)))
        for x, dashes in zip(base, ("-", ":"), strict=True):
            if math.isfinite(x):
                ax.axvline(
                    x, color=BASELINE_STYLES["vanilla"]["color"], linestyle=dashes, linewidth=1.6
                )
        for row, method in enumerate(methods):
            colour = method_style(method)["color"]
            for name, offset, filled in (("forget", -0.14, True), ("approximate", 0.14, False)):
                values = seed_values(records, domain, method, f"oracle_kl/{name}")
                draw_seeds(ax, values, row + offset, colour, filled)
        alt.append(
            f"{domain_title(domain)}, forget set: "
            f"{baselines_in_words(baselines, domain, KL, records)}; "
            f"{means_in_words(records, domain, KL)}."
        )
    grey = BASELINE_STYLES["vanilla"]["color"]
    add_legend(
        figure,
        layout,
        extra=[
            mark_handle("on the forget set"),
            mark_handle("on the approximate set", markerfacecolor="white"),
            Line2D([], [], color=grey, linestyle="-", label="vanilla, forget"),
            Line2D([], [], color=grey, linestyle=":", label="vanilla, approximate"),
        ],
    )
    figure.alt = " ".join(alt)
    return figure
