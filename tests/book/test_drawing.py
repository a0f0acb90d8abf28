"""Every figure of the book has an alternative text, and survives broken and missing records.

Figures are drawn at both widths. What one figure shows is tested with its chapter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import synthetic
from synthetic import drawn, spoilt

from unlearnlib.book.cost import Retraining, cost_ratio, cost_ratios
from unlearnlib.book.drawing import apart, label_ends
from unlearnlib.book.learning_rates import learning_rates
from unlearnlib.book.main_table import at_rate, distance_to_oracle, forget_vs_general
from unlearnlib.book.membership import membership_auc, roc_curves
from unlearnlib.book.robust_region import region_tolerance, robust_region, shares_figure
from unlearnlib.book.sensitivity import schedules, swept
from unlearnlib.book.step_by_step import loss_terms, run_trajectory
from unlearnlib.book.target_check import early_stops_figure, target_check
from unlearnlib.book.trajectories import trajectories
from unlearnlib.book.what_holds import share_of_the_way
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import WIDE, DescribedFigure, Layout, to_svg
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record

Draw = Callable[[list[Record], list[Record]], DescribedFigure]

BASELINES = synthetic.baselines()

STUDIES = {
    "main": synthetic.main_study(),
    "rates": synthetic.rates_study(),
    "trajectory": synthetic.trajectory_study(),
    "region": synthetic.region_study(),
    "region_seeds": synthetic.region_study(seeds=synthetic.REGION_SEEDS),
    **{name: synthetic.swept_study(name) for name in synthetic.SWEPT},
}

RETRAINING = {d: Retraining(5e6, 600.0, 1.2e6) for d in DOMAINS}

FIGURES: dict[str, tuple[str, Draw]] = {
    "forget_vs_general": ("main", forget_vs_general),
    "distance_to_oracle": ("main", distance_to_oracle),
    "membership_auc": ("main", membership_auc),
    "roc_curves": ("main", lambda r, b: roc_curves(r, b, r[0].spec["domain"])),
    "trajectories": ("trajectory", trajectories),
    "learning_rates": ("rates", learning_rates),
    "cost_ratio": (
        "main",
        lambda r, b: cost_ratio(cost_ratios(r, RETRAINING)),
    ),
    "robust_region": ("region", robust_region),
    "robust_region_by_target": (
        "region",
        lambda r, b: robust_region(r, b, "target"),
    ),
    "region_shares": ("region", shares_figure),
    "region_tolerance": ("region_seeds", region_tolerance),
    "updates": ("region", lambda r, b: swept(at_rate(r, 3e-4), b, "updates")),
    "batch_size": ("batch_size", lambda r, b: swept(r, b, "batch_size")),
    "retain_weight": ("retain_weight", lambda r, b: swept(r, b, "retain_weight")),
    "forget_size": ("forget_size", lambda r, b: swept(r, b, "forget_size")),
    "schedules": ("schedule", schedules),
    "stops": ("trajectory", early_stops_figure),
    "share_of_the_way": ("main", share_of_the_way),
    "loss_terms": ("trajectory", lambda r, b: loss_terms(r[0])),
    "run_trajectory": ("trajectory", lambda r, b: run_trajectory(r[0], b)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_in_words_what_it_shows(name: str) -> None:
    study, draw = FIGURES[name]
    figure = draw(STUDIES[study], BASELINES)
    assert len(figure.alt) > 60
    assert drawn(figure).count("<svg") == 2


@pytest.mark.parametrize("x", [math.nan, math.inf, 1e300, 0.0])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_survives_runs_that_broke_the_model(name: str, x: float) -> None:
    study, draw = FIGURES[name]
    records = synthetic_subset(study)
    drawn(draw([spoilt(r, x) for r in records], BASELINES))
    drawn(draw([*records[:-1], spoilt(records[-1], x)], [spoilt(b, x) for b in BASELINES]))


def synthetic_subset(study: str) -> list[Record]:
    """Two methods on one domain of a study: enough to draw, quick to draw often."""
    return [
        r
        for r in STUDIES[study]
        if r.spec["domain"] == "books" and r.spec["method"] in ("ga", "ga_gd_in_dist")
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_survives_missing_baselines_methods_and_domains(name: str) -> None:
    study, draw = FIGURES[name]
    drawn(draw(synthetic_subset(study), []))


@pytest.mark.parametrize(
    "name",
    [n for n in FIGURES if n not in ("loss_terms", "run_trajectory", "cost_ratio", "roc_curves")],
)
def test_a_figure_without_records_names_the_remedy(name: str) -> None:
    with pytest.raises(UnlearnError, match="run its study first"):
        FIGURES[name][1]([], BASELINES)


def test_records_may_come_from_a_generator() -> None:
    figure = membership_auc((r for r in STUDIES["main"]), iter(BASELINES))
    assert drawn(figure).count("<svg") == 2


def test_type_is_at_least_nine_points() -> None:
    for study, draw in FIGURES.values():
        figure = draw(STUDIES[study], BASELINES)
        sizes = [
            t.get_fontsize() for t in figure.findobj(match=lambda a: hasattr(a, "get_fontsize"))
        ]
        assert min(sizes) >= 9
        assert figure.get_figwidth() == WIDE


def test_a_figure_for_phones_stacks_its_panels() -> None:
    figure = membership_auc(STUDIES["main"], BASELINES)
    assert figure.narrow is not None
    narrow = figure.narrow()
    assert narrow.get_figwidth() < figure.get_figwidth() < narrow.get_figheight()


def test_the_same_records_give_the_same_bytes() -> None:
    one, two = (to_svg(target_check(BASELINES)) for _ in range(2))
    assert one == two


def test_names_at_the_ends_of_lines_are_moved_apart_and_keep_their_order() -> None:
    assert apart([], 0.1) == []
    assert apart([0.2, 0.5, 0.9], 0.1) == pytest.approx([0.2, 0.5, 0.9])  # none need move
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert apart([0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1])
    assert apart([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    crowded = apart([0.1] * 20, 0.1)  # more than fit: they stay apart
    assert min(b - a for a, b in itertools.pairwise(crowded)) > 0.099


def test_every_line_that_ends_in_a_number_is_named() -> None:
    figure = Layout(False).grid(1, 2.0)[0]
    (ax,) = figure.axes
    ax.set_ylim(0, 2)
    label_ends(ax, [(1.0, "one", "red"), (math.nan, "none", "red"), (1.01, "two", "blue")])
    placed = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert list(placed) == ["one", "two"] and placed["two"] - placed["one"] > 0.05
