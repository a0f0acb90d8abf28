"""What the chapter says of methods at equal forgetting is what was put into the records."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import equal
import numpy as np
import pytest
from equal import BEST_FIRST, WAYS, Lab
from matplotlib.text import Text
from synthetic import drawn, spoilt
from templates import NOTEBOOKS, code, shown

from unlearnlib.book.at_equal import (
    DISTANCE,
    HARM,
    MEASURES,
    AtEqual,
    Band,
    Estimate,
    at_equal,
    band_of,
)
from unlearnlib.book.equal_forgetting import (
    BASE_TITLES,
    agreement_figure,
    agreement_table,
    agreements,
    conclusions_in_words,
    cost_table,
    effort_table,
    methods_by,
    overall_order,
    with_interval,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.looks import method_title
from unlearnlib.store import Record
from unlearnlib.text import number

DOMAINS = ("arxiv", "books")
BASELINES = equal.baselines(DOMAINS)


@cache
def found() -> tuple[AtEqual, dict[str, Band]]:
    """All methods on two domains, of two vanillas."""
    made = at_equal(equal.equal_study(DOMAINS, seeds=(0,)), BASELINES, resamples=100)
    return made, {d: band_of(BASELINES, d, made.draws) for d in DOMAINS}


def one(*runs: Record) -> tuple[AtEqual, dict[str, Band]]:
    made = at_equal(runs, BASELINES, resamples=20)
    return made, {d: band_of(BASELINES, d, made.draws) for d in made.domains}


def test_the_list_begins_with_the_method_that_does_the_least_harm() -> None:
    lines = conclusions_in_words(*found()).splitlines()
    assert lines[0].startswith("- **Least harm** (nats per token). arXiv: GA + GD, in-dist., 0.0")
    assert "worst on general" in lines[0] and "the most has Random labels" in lines[0]
    assert "two retrained models are 0.32 apart" in lines[1]
    assert "Min-20 %++" in lines[2]
    assert lines[-1] == "- **As much forgotten as by the retrained model** in 28 of 28 runs."


def test_the_list_says_the_opposite_of_the_opposite() -> None:
    """Where the two ends of the order change places, so do their names."""
    swapped = {**WAYS, "ga_gd_in_dist": WAYS["random_label"], "random_label": WAYS["ga_gd_in_dist"]}
    lab = Lab("books")
    words = conclusions_in_words(
        *one(*(lab.run(m, ways=swapped) for m in ("ga", "ga_gd_in_dist", "random_label")))
    )
    first = words.splitlines()[0]
    assert "Books: Random labels" in first and "the most has GA + GD, in-dist." in first


def test_the_retain_term_s_texts_are_compared_with_the_right_sign() -> None:
    made, _ = found()
    difference = made.difference(HARM, "ga_gd_in_dist", "ga_gd_general")
    expected = [
        made.estimate(HARM, d, "ga_gd_in_dist").value
        - made.estimate(HARM, d, "ga_gd_general").value
        for d in DOMAINS
    ]
    assert difference.value == pytest.approx(np.mean(expected)) and difference.value < -0.2
    assert difference.interval[0] < difference.value < difference.interval[1] < 0
    (line,) = [x for x in conclusions_in_words(*found()).splitlines() if "GA + GD, general.**" in x]
    assert f"changes harm by {with_interval(difference)} and distance by −" in line


def test_what_two_methods_share_is_not_in_the_interval_of_their_difference() -> None:
    made, _ = found()
    width = lambda e: e.interval[1] - e.interval[0]  # noqa: E731
    apart = [made.estimate(HARM, "books", m, base="vanilla") for m in ("ga", "adversarial")]
    both = Estimate(apart[0].value - apart[1].value, apart[0].draws - apart[1].draws)
    assert width(both) < 0.7 * math.hypot(*map(width, apart))


def test_the_table_has_the_least_harm_first_and_what_to_compare_it_with() -> None:
    table = cost_table(found()[0], BASELINES, found()[1])
    for title in ("arXiv", "Books"):
        rows = table.loc[title]
        expected = ["Vanilla", "Another retrained model", *map(method_title, BEST_FIRST)]
        assert list(rows.index) == expected
    made, _ = found()
    assert table.loc[("Books", "GA"), "harm, nats"] == with_interval(
        made.estimate(HARM, "books", "ga")
    )
    assert table.loc[("Books", "GA"), "worst on"] == "approximate"
    assert table.loc[("Books", "Vanilla"), "KL, nats"].startswith("0.3")


def test_a_method_that_never_gets_there_is_named_as_such() -> None:
    lab = Lab("books")
    made, bands = one(lab.run("ga"), lab.run("ga_kl_in_dist", updates=2))
    table = cost_table(made, BASELINES, bands)
    assert table.loc[("Books", "GA + KL, in-dist."), "harm, nats"] == "not reached"
    last = conclusions_in_words(made, bands).splitlines()[-1]
    assert "in 1 of 2 runs; " in last and "not reached: GA + KL, in-dist. on Books 1." in last
    assert effort_table(made).loc[("Books", "GA + KL, in-dist."), "runs that got there"] == "0 of 1"


def test_effort_is_updates_times_rate() -> None:
    lab = Lab("books")
    made, _ = one(lab.run("ga", rate=2e-4))
    row = effort_table(made).loc[("Books", "GA")]
    updates = lab.way_to_go() / (2 * WAYS["ga"].speed)
    assert row["updates"].startswith(f"{updates:.1f} (") and row["learning rate"] == "0.0002"
    assert row["rate × updates, 10⁻⁴"].startswith(f"{2 * updates:.1f} (")


def test_orders_are_compared_between_domains_and_between_vanillas() -> None:
    made, _ = found()
    labels = [label for label, _, _ in agreements(made, HARM)]
    assert labels == ["arXiv and Books", "arXiv, two vanillas", "Books, two vanillas"]
    table = agreement_table(made)
    assert list(table.columns) == ["by harm", "by distance", "by membership"]
    assert table.loc["arXiv and Books", "by harm"].startswith("1.0 (")


def test_an_interval_stands_in_brackets() -> None:
    assert with_interval(Estimate(0.123, np.linspace(0.1, 0.2, 101))) == "0.12 (0.10 to 0.20)"
    assert with_interval(Estimate(0.123, np.zeros(0))) == "0.12"
    assert with_interval(Estimate(math.nan, np.zeros(0))) == "–"


@pytest.mark.parametrize("measure", MEASURES)
def test_the_figure_has_the_best_method_on_top_and_says_every_value(measure: str) -> None:
    made, bands = found()
    figure = methods_by(made, bands, measure)
    order = [method_title(m) for m in overall_order(made, measure)]
    rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert rows == [*order, "before unlearning"]
    assert order == [method_title(m) for m in BEST_FIRST]
    for domain, base in itertools.product(DOMAINS, made.bases):
        value = with_interval(made.estimate(measure, domain, "ga", base=base))
        assert f"GA {value}" in figure.alt
        start = number(made.before[domain, base][measure], 2)
        assert f"{BASE_TITLES[base]} before unlearning {start}" in figure.alt
    assert "retrained model" in " ".join(t.get_text() for ax in figure.axes for t in ax.texts)


def test_the_figures_are_drawn_at_both_widths() -> None:
    made, bands = found()
    assert drawn(methods_by(made, bands)) and drawn(agreement_figure(made))


@pytest.mark.parametrize("x", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("whose", ["run", "baselines"])
def test_records_that_broke_the_model_are_no_numbers_and_no_error(x: float, whose: str) -> None:
    lab = Lab("books")
    runs, baselines = [lab.run("ga"), lab.run("adversarial")], lab.baselines()
    if whose == "run":
        runs[0] = spoilt(runs[0], x)
    else:
        baselines = [spoilt(b, x) for b in baselines]
    made = at_equal(runs, baselines, resamples=20)
    bands = {d: band_of(baselines, d, made.draws) for d in made.domains}
    assert conclusions_in_words(made, bands)
    assert len(cost_table(made, baselines, bands)) == 4 and len(effort_table(made)) == 2
    if whose == "run":
        assert made.order(HARM, "books")[0] == "adversarial"
        assert drawn(methods_by(made, bands))


def test_records_without_documents_have_values_and_no_intervals() -> None:
    lab = Lab("books")
    bare = [replace(r, documents={}) for r in (lab.run("ga"), *lab.baselines())]
    made = at_equal(bare[:1], bare[1:], resamples=20)
    assert made.estimate(HARM, "books", "ga").value == pytest.approx(
        at_equal([lab.run("ga")], BASELINES, resamples=20).estimate(HARM, "books", "ga").value
    )
    assert all(map(math.isnan, made.estimate(HARM, "books", "ga").interval))


def test_type_is_at_least_nine_points() -> None:
    made, bands = found()
    for figure in (methods_by(made, bands, DISTANCE), agreement_figure(made)):
        assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 9


def test_without_any_run_at_equal_forgetting_the_figure_says_what_to_run() -> None:
    made, bands = one(Lab("books").run("ga", updates=1))
    assert conclusions_in_words(made, bands).endswith("in 0 of 1 run; not reached: GA on Books 1.")
    with pytest.raises(UnlearnError, match="run the study equal_forgetting"):
        methods_by(made, bands)
    with pytest.raises(UnlearnError, match="no two orders"):
        agreement_figure(made)


def test_the_notebook_shows_all_of_it_from_published_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "UNLEARN_DATA", str(equal.write_results(tmp_path / "data", DOMAINS, "equal_forgetting"))
    )
    monkeypatch.delenv("UNLEARN_FIGURES", raising=False)
    monkeypatch.chdir(
        tmp_path
    )  # where there is no book, so each figure is drawn into the page alone
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    few = {"profile": "lab", "domains": list(DOMAINS), "methods": "ga,ga_gd_in_dist,adversarial"}
    pages = shown("equal_forgetting", few, monkeypatch)
    figures = re.findall(r"exhibits\.show\(", code(NOTEBOOKS / "equal_forgetting.ipynb"))
    assert sum("<figure" in page for page in pages) == len(figures) == 4
    assert sum("<table" in page for page in pages) == 3
    assert pages[0].startswith("- **Least harm** (nats per token). arXiv: GA + GD, in-dist.")
