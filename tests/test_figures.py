"""Every figure can be drawn from records alone, and survives whatever a run may leave behind."""

from __future__ import annotations

import base64
import colorsys
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from matplotlib.colors import to_rgb

from unlearnlib.book import exhibits
from unlearnlib.book.cost import Retraining, cost_ratio, cost_ratios
from unlearnlib.book.data import document_lengths
from unlearnlib.book.learning_rates import learning_rates
from unlearnlib.book.main_table import at_rate, distance_to_oracle, forget_vs_general
from unlearnlib.book.membership import membership_auc, roc_curves
from unlearnlib.book.records import (
    baseline_record,
    baseline_value,
    bootstrap_perplexity,
    first_perplexity,
    seed_values,
)
from unlearnlib.book.robust_region import region_tolerance, robust_region, shares_figure
from unlearnlib.book.sensitivity import schedules, swept
from unlearnlib.book.step_by_step import loss_terms, run_trajectory
from unlearnlib.book.target_check import early_stops_figure, target_check, target_sizes
from unlearnlib.book.trajectories import trajectories
from unlearnlib.book.what_holds import share_of_the_way
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import WIDE, DescribedFigure, Layout, to_svg
from unlearnlib.looks import METHOD_LOOKS, domain_title, method_look
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.study import RATES
from unlearnlib.text import number

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


def drawn(figure: DescribedFigure) -> str:
    """The SVG of a figure and of its narrow twin, which makes matplotlib lay both out."""
    assert figure.narrow is not None
    return to_svg(figure) + to_svg(figure.narrow())


def spoilt(record: Record, x: float) -> Record:
    """The record with every metric, probe and document score replaced by `x`."""
    documents = {
        split: {
            name: [x] * len(values) if name not in ("id", "tokens") else values
            for name, values in columns.items()
        }
        for split, columns in record.documents.items()
    }
    trajectory = [
        {name: v if name == "update" else x for name, v in row.items()} for row in record.trajectory
    ]
    metrics = dict.fromkeys(record.metrics, x)
    return replace(record, metrics=metrics, documents=documents, trajectory=trajectory)


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


def test_a_diverged_run_is_named_in_the_alternative_text() -> None:
    run = synthetic.run("books", "ga", rate=RATES[-1])
    figure = forget_vs_general([run], BASELINES)
    assert "GA infinite (diverged)" in figure.alt


def test_the_alternative_text_has_the_values_of_the_records() -> None:
    figure = membership_auc(STUDIES["main"], BASELINES)
    for domain in DOMAINS:
        values = seed_values(STUDIES["main"], domain, "ga", "membership/min_k_40/auc")
        assert f"GA {number(float(np.mean(values)))}" in figure.alt


def test_the_same_records_give_the_same_bytes() -> None:
    one, two = (to_svg(target_check(BASELINES)) for _ in range(2))
    assert one == two


def test_records_may_come_from_a_generator() -> None:
    figure = membership_auc((r for r in STUDIES["main"]), iter(BASELINES))
    assert drawn(figure).count("<svg") == 2


def test_every_method_of_the_paper_has_a_colour_and_marker_of_its_own() -> None:
    assert set(PAPER_METHODS) <= set(METHOD_LOOKS)
    looks = [method_look(method) for method in (*PAPER_METHODS, "my_method")]
    for part in ("short", "colour", "marker"):
        assert len({getattr(look, part) for look in looks}) == len(PAPER_METHODS) + 1


@pytest.mark.parametrize(
    "pair", [("ga_gd_general", "ga_gd_in_dist"), ("ga_kl_general", "ga_kl_in_dist")]
)
def test_related_methods_have_related_hues(pair: tuple[str, str]) -> None:
    hues = [colorsys.rgb_to_hsv(*to_rgb(METHOD_LOOKS[m].colour))[0] for m in pair]
    assert abs(hues[0] - hues[1]) < 0.08


def test_a_method_of_ones_own_gets_a_style_and_keeps_its_name() -> None:
    run = synthetic.run("books", "ga")
    own = replace(run, spec={**run.spec, "method": "my_method"})
    figure = forget_vs_general([own], BASELINES)
    assert "my_method" in figure.alt
    assert drawn(figure)


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


@pytest.mark.parametrize("is_narrow", [False, True])
def test_panels_beside_each_other_are_labelled_once_and_stacked_ones_each(is_narrow: bool) -> None:
    layout = Layout(is_narrow)
    panels = layout.panels(DOMAINS, 2.0, xlabel="update", ylabel="perplexity")[1]
    axes = [ax for ax, _ in panels]
    assert [domain for _, domain in panels] == list(DOMAINS)
    assert [ax.get_title() for ax in axes] == [domain_title(d) for d in DOMAINS]
    once = ["update"] * 3 if is_narrow else ["", "update", ""]
    assert [ax.get_xlabel() for ax in axes] == once
    assert [ax.get_ylabel() for ax in axes] == (
        ["perplexity"] * 3 if is_narrow else ["perplexity", "", ""]
    )


@pytest.mark.parametrize("is_narrow", [False, True])
def test_panels_of_metrics_have_a_row_per_metric_and_a_column_per_domain(is_narrow: bool) -> None:
    metrics = (("forget/perplexity", "forget"), ("general/perplexity", "general"))
    domains = DOMAINS[:2]
    panels = Layout(is_narrow).metric_panels(domains, metrics, 2.0, xlabel="update")[1]
    assert [(d, m) for _, d, m in panels] == [(d, m) for m, _ in metrics for d in domains]
    one, two = (domain_title(d) for d in domains)
    titles = [ax.get_title() for ax, *_ in panels]
    if is_narrow:
        stacked = [f"{title}: {label}" for _, label in metrics for title in (one, two)]
        assert titles == stacked
        assert {ax.get_xlabel() for ax, *_ in panels} == {"update"}
        return
    assert titles == [one, two, "", ""]
    assert [ax.get_ylabel() for ax, *_ in panels] == ["forget", "", "general", ""]
    assert [ax.get_xlabel() for ax, *_ in panels] == ["", "", "update", "update"]


# --- the target


def test_the_bootstrap_interval_covers_the_perplexity_it_is_of() -> None:
    record = BASELINES[0]
    kept = record.documents["forget"]
    middle = math.exp(np.average(kept["nll"], weights=kept["tokens"]))
    low, high = bootstrap_perplexity(record, "forget")
    assert low < middle < high


def test_documents_that_are_all_alike_have_an_interval_of_no_width() -> None:
    record = replace(
        BASELINES[0],
        documents={"forget": {"id": ["a#0", "b#0"], "tokens": [10, 20], "nll": [2.0, 2.0]}},
    )
    assert bootstrap_perplexity(record, "forget") == pytest.approx((math.e**2,) * 2)


def test_chunks_of_one_document_are_drawn_together() -> None:
    columns = {"tokens": [10, 10], "nll": [1.0, 3.0]}
    one = replace(BASELINES[0], documents={"forget": {"id": ["a#0", "a#1"], **columns}})
    two = replace(BASELINES[0], documents={"forget": {"id": ["a#0", "b#0"], **columns}})
    low, high = bootstrap_perplexity(one, "forget")
    assert low == high == pytest.approx(math.e**2)
    assert bootstrap_perplexity(two, "forget") == pytest.approx((math.e, math.e**3))


@pytest.mark.parametrize("x", [math.nan, math.inf])
def test_the_target_can_be_drawn_without_an_oracle_or_numbers(x: float) -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    drawn(target_check(vanilla))
    drawn(target_check([spoilt(b, x) for b in BASELINES]))


@pytest.mark.parametrize("x", [math.nan, math.inf])
def test_the_target_by_size_can_be_drawn_without_an_oracle_or_numbers(x: float) -> None:
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    assert "no oracle" in target_sizes(vanilla, (1, 8)).alt
    drawn(target_sizes(vanilla, (1, 8)))
    drawn(target_sizes([spoilt(b, x) for b in BASELINES], (1, 8)))


def test_the_map_of_the_region_marks_usable_harmed_and_diverged_settings() -> None:
    run = synthetic.run("books", "ga_gd_in_dist", updates=6, probe_every=3)
    truth, vanilla = (
        baseline_value(BASELINES, "books", which, metric)
        for which, metric in (("oracle", "forget/perplexity"), ("vanilla", "general/perplexity"))
    )
    rows = [
        {"update": 3, "forget/perplexity": truth, "general/perplexity": vanilla},
        {"update": 6, "forget/perplexity": truth, "general/perplexity": 2 * vanilla},
    ]
    broken = replace(
        synthetic.run("books", "ga_gd_in_dist", rate=1e-2, updates=6, probe_every=3),
        status="diverged",
        diverged_at=5,
        trajectory=rows[:1],
    )
    figure = robust_region([replace(run, trajectory=rows), broken], BASELINES)
    marks = {
        name: [line for line in figure.axes[0].lines if line.get_marker() == look["marker"]]
        for name, look in (("usable", {"marker": "o"}), ("broken", {"marker": "x"}))
    }
    usable, harmed = marks["usable"]
    assert len(usable.get_xdata()) == 2 and len(harmed.get_xdata()) == 1
    assert len(marks["broken"][0].get_xdata()) == 1
    assert "GA + GD, in-dist. 2 of 4; 1 diverged" in figure.alt


def test_the_lines_of_a_sweep_over_documents_follow_the_documents() -> None:
    figure = swept(STUDIES["forget_size"], BASELINES, "forget_size")
    record = baseline_record(BASELINES, "books", "oracle")
    assert record is not None
    ends = [number(first_perplexity(record, "forget", n)) for n in (1, 64)]
    assert f"Oracle (truth) {ends[0]} to {ends[1]}" in figure.alt


def test_document_lengths_say_how_many_documents_there_are() -> None:
    lengths = {"books": {"forget": [100, 120], "approximate": [], "retain": [90] * 5}}
    figure = document_lengths(lengths)
    assert "forget 2 documents, mean 110" in figure.alt
    assert drawn(figure)


# --- showing


def test_showing_leaves_both_drawings_and_the_alternative_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path))
    exhibits.show(target_check(BASELINES), "check", "A caption.", "unlearn study main")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "check-narrow.svg",
        "check.svg",
        "check.txt",
    ]


def test_the_html_carries_images_alternative_text_caption_and_command() -> None:
    figure = target_check(BASELINES)
    page = exhibits.figure_html(figure, 'A "caption" & more', "unlearn study main")
    images = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) == 2 and all(b"<svg" in base64.b64decode(image) for image in images)
    assert "A &quot;caption&quot; &amp; more" in page
    assert "<code>unlearn study main</code>" in page
    assert figure.alt[:40] in page


def test_a_figure_without_alternative_text_is_refused() -> None:
    with pytest.raises(UnlearnError, match="alternative text"):
        exhibits.figure_html(DescribedFigure(), "caption")


def test_nothing_is_left_behind_where_there_is_no_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNLEARN_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    exhibits.show(target_check(BASELINES), "check", "A caption.")
    assert list(tmp_path.iterdir()) == []


def ticks_of(rates: tuple[float, ...]) -> list[str]:
    """The labels under the learning rates of a figure with such a grid."""
    runs = [
        replace(r, spec={**r.spec, "learning_rate": rate})
        for rate in rates
        for r in STUDIES["rates"][:1]
    ]
    figure = learning_rates(runs, BASELINES)
    figure.canvas.draw()
    low, high = figure.axes[-1].get_xlim()
    axis = figure.axes[-1].xaxis
    return [
        label.get_text()
        for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        if low <= place <= high
    ]


def test_rates_within_a_decade_are_the_ticks_themselves() -> None:
    assert ticks_of((1.8e-5, 4e-5, 1.35e-4)) == ["1.8e-5", "4e-5", "1.35e-4"]
    wide = ticks_of((1e-5, 4e-5, 1e-3))
    assert len(wide) >= 2 and all("10^{" in tick for tick in wide)
