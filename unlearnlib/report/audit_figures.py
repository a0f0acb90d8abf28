"""The figures of an audit: relearning by updates, and what each layer still says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import FixedLocator, MaxNLocator

from unlearnlib.audits.findings import (
    best_attack,
    curve,
    kept_by,
    models_of,
    rows_of,
    sources_of,
)
from unlearnlib.audits.memory import Row, memory
from unlearnlib.figures import DescribedFigure, Layout, add_legend, figure_function, mark_handle
from unlearnlib.looks import BASELINE_STYLES, GREY
from unlearnlib.report.audited import MODEL_TITLES
from unlearnlib.store.record import Record
from unlearnlib.text import number

SOURCE_TITLES = {
    "forget": "Taught: the other half",
    "approximate": "Taught: unread documents",
    "general": "Taught: general texts",
}
STYLES: Mapping[str, Mapping[str, Any]] = {
    "unlearned": {"color": "#0072b2", "linestyle": "-", "linewidth": 2.2, "marker": "o"},
    "vanilla": BASELINE_STYLES["vanilla"],
    "oracle": BASELINE_STYLES["oracle"],
    "impostor": {"color": "#d55e00", "linestyle": "--", "linewidth": 1.6},
}


def _legend(figure: DescribedFigure, layout: Layout, models: tuple[str, ...]) -> None:
    handles = [mark_handle(MODEL_TITLES[m], **STYLES[m]) for m in models]
    add_legend(figure, layout, extra=handles)


@figure_function
def relearning(record: Record, *, narrow: bool = False) -> DescribedFigure:
    """Loss on documents that are not taught after so many updates; each model at its best rate."""
    rows: list[Row] = rows_of(record.trajectory, "relearning")
    sources, models = sources_of(rows), models_of(rows, "relearning")
    layout = Layout(narrow)
    figure, axes = layout.grid(len(sources), 2.6, beside=3, extra=0.3)
    said = []
    for ax, source in zip(axes, sources, strict=True):
        steps: list[int] = []
        for model in models:
            points = curve(rows, model, source, best_attack(rows, model, source)["rate"])
            steps = max(steps, [update for update, _ in points], key=len)
            at = [math.log2(1 + update) for update, _ in points]
            ax.plot(at, [loss for _, loss in points], markersize=3.5, **STYLES[model])
            low = min(loss for _, loss in points)
            said.append(
                f"{MODEL_TITLES[model].lower()} from {number(points[0][1])} to {number(low)} "
                f"when taught {source} texts"
            )
        ax.xaxis.set_major_locator(FixedLocator([math.log2(1 + step) for step in steps]))
        ax.set_xticklabels([str(step) for step in steps])
        ax.set_title(SOURCE_TITLES[source])
        ax.set_xlabel("updates")
        if narrow or ax is axes[0]:
            ax.set_ylabel("loss on documents\nnot taught, nats")
    _legend(figure, layout, models)
    figure.alt = f"Loss on the documents that are not taught, by updates: {'; '.join(said)}."
    return figure


@figure_function
def inside(record: Record, *, narrow: bool = False) -> DescribedFigure:
    """Memory of the documents at each layer, in nats per token."""
    rows: list[Row] = rows_of(record.trajectory, "inside")
    models = models_of(rows, "inside")
    layout = Layout(narrow)
    figure, (ax,) = layout.grid(1, 2.8, beside=1, extra=0.3)
    for model in models:
        mine = rows_of(rows, "inside", model=model)
        ax.plot(
            [row["layer"] for row in mine],
            [memory(row) for row in mine],
            markersize=4,
            **STYLES[model],
        )
    compared = all(row["unread"] is not None for row in rows)
    if compared:
        ax.axhline(0, color=GREY, linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.set_xlabel("layer")
    what = "below unread documents" if compared else "negated"
    ax.set_ylabel(f"loss on the documents\n{what}, nats")
    _legend(figure, layout, models)
    layers = [
        f"layer {layer} {number(100 * one.value, 2)} %"
        for layer, one in kept_by(rows, "inside", "unlearned")
    ]
    figure.alt = (
        "How much of the memory of the model before is there at each layer of this model: "
        f"{', '.join(layers)}."
    )
    return figure
