"""The chapter on membership inference: AUCs of every attack, and ROC curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib.book.drawing import (
    baselines_in_words,
    draw_baselines,
    draw_seeds,
    means_in_words,
    method_panels,
)
from unlearnlib.book.main_table import domains_in, main_table
from unlearnlib.book.records import (
    Column,
    Finding,
    baseline_record,
    domains_of,
    methods_of,
    seed_values,
    select,
)
from unlearnlib.figures import DescribedFigure, Layout, add_legend, checked, figure_function
from unlearnlib.looks import (
    ATTACK,
    ATTACK_TITLES,
    BASELINE_STYLES,
    BASELINE_TITLES,
    INK,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.metrics.membership import auc, roc
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd


def membership_table(
    records: Iterable[Record],
    baselines: Iterable[Record],
    measure: str = "auc",
    attacks: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One `measure` ("auc", "tpr_at_5_fpr", ...) of several attacks, laid out as the main table."""
    names = attacks or ATTACK_TITLES
    titles = {
        "auc": "AUC",
        "tpr_at_5_fpr": "TPR at 5 % FPR",
        "tpr_at_1_fpr": "TPR at 1 % FPR",
        "balanced_accuracy": "Best balanced accuracy",
    }
    columns = [
        Column(titles.get(measure, measure), title, f"membership/{attack}/{measure}")
        for attack, title in names.items()
    ]
    return main_table(records, baselines, columns)


def membership_in_words(found: Mapping[str, Finding]) -> str:
    """Membership inference before and after, as a Markdown list."""
    lines = []
    for domain in domains_in(found):
        below = int(found[f"{domain}.below_half"])
        count = (
            f"Of {found['methods']} methods, {below} {'ends' if below == 1 else 'end'} below 0.5: "
            "there the forget set looks less like training data than text the model never saw."
            if below
            else "No method ends below 0.5, where the forget set would look less like training "
            "data than text the model never saw."
        )
        if elsewhere := found[f"{domain}.below_elsewhere"]:
            count += f" By other attacks of the table below some do: {elsewhere}."
        low, high = (float(found[f"{domain}.oracle_auc_{side}"]) for side in ("low", "high"))
        spread = "" if math.isnan(low) else f" (95 % {number(low)} to {number(high)})"
        lines.append(
            f"- **{domain_title(domain)}.** By {ATTACK_TITLES[ATTACK]}, vanilla’s AUC is "
            f"{number(float(found[f'{domain}.vanilla_auc']))}, the oracle’s "
            f"{number(float(found[f'{domain}.oracle_auc']))}{spread}. {count}"
        )
    return "\n".join(lines)


@figure_function
def membership_auc(
    records: Iterable[Record],
    baselines: Iterable[Record],
    attack: str = ATTACK,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """AUC of a membership attack after each method, unflipped; 0.5 is where it tells nothing."""
    records, baselines = checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    metric = f"membership/{attack}/auc"
    xlabel = "membership AUC" + ("" if narrow else "  (shaded: over-unlearned)")
    figure, panels = method_panels(layout, domains, methods, xlabel, row_height=0.28)
    alt = [f"AUC of the attack {attack}, forget set against approximate set, not flipped."]
    for ax, domain in panels:
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        ax.axvspan(0, 0.5, color="#f4f0ec", zorder=0)
        ax.axvline(0.5, color=INK, linewidth=1)
        draw_baselines(ax, "x", baselines, domain, metric, records, ("vanilla", "oracle"))
        for row, method in enumerate(methods):
            values = seed_values(records, domain, method, metric)
            draw_seeds(ax, values, row, method_style(method)["color"])
        alt.append(
            f"{domain_title(domain)}: {baselines_in_words(baselines, domain, metric, records)}; "
            f"{means_in_words(records, domain, metric)}."
        )
    add_legend(figure, layout, lines=("vanilla", "oracle"))
    figure.alt = " ".join(alt)
    return figure


@figure_function
def roc_curves(
    records: Iterable[Record],
    baselines: Iterable[Record],
    domain: str,
    attack: str = ATTACK,
    seed: int = 0,
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """ROC curves of a membership attack on one domain, from the scores of single documents."""
    records, baselines = checked(records, "this figure"), list(baselines)
    layout = Layout(narrow)
    curves: list[tuple[str, Record | None, dict[str, Any]]] = [
        (
            BASELINE_TITLES[which],
            baseline_record(baselines, domain, which, records),
            BASELINE_STYLES[which],
        )
        for which in ("vanilla", "oracle")
    ]
    for method in methods_of(select(records, domain)):
        runs = [r for r in select(records, domain, method) if r.spec.get("seed") == seed]
        style = {"color": method_style(method)["color"], "linewidth": 1.5}
        curves.append((method_title(method), runs[0] if runs else None, style))
    figure, (ax,) = layout.grid(1, 4.0 if not narrow else 3.9, extra=0 if not narrow else 1.2)
    ax.plot([0, 1], [0, 1], color="#c3c9cf", linewidth=1)
    said = []
    for title, record, style in curves:
        if record is None:
            continue
        members, others = _attack_scores(record, attack)
        if not len(members) or not len(others):
            continue
        false, true = roc(members, others)[:2]
        area = auc(members, others)
        ax.plot(false, true, label=f"{title}  {area:.2f}", **style)
        said.append(f"{title} {area:.2f}")
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")
    ax.set_xlabel("false positive rate (approximate set)")
    ax.set_ylabel("true positive rate (forget set)")
    ax.set_title(domain_title(domain))
    where: Any = "outside lower center" if narrow else "outside right upper"
    figure.legend(loc=where, ncols=2 if narrow else 1, title="AUC", alignment="left", fontsize=9)
    figure.alt = (
        f"ROC curves of the attack {attack} on {domain_title(domain)}, seed {seed}. "
        f"Area under each: {', '.join(said) or 'no scores'}."
    )
    return figure


def _attack_scores(record: Record, attack: str) -> tuple[np.ndarray, np.ndarray]:
    """(member, non-member) scores of a record's documents, without what has no score."""
    sides = []
    for split in ("forget", "approximate"):
        kept = record.documents.get(split, {}).get(attack, [])
        scores = np.array([math.nan if x is None else x for x in kept], dtype=np.float64)
        sides.append(scores[~np.isnan(scores)])
    return sides[0], sides[1]
