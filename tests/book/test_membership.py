"""AUCs and ROC curves are those of the documents' scores, and words say who ends below one half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import changed

from unlearnlib.book.main_table import findings
from unlearnlib.book.membership import (
    membership_auc,
    membership_in_words,
    membership_table,
    roc_curves,
)
from unlearnlib.book.records import auc_with_interval, baseline_record, seed_values
from unlearnlib.looks import ATTACK_TITLES, BASELINE_TITLES
from unlearnlib.metrics.membership import auc
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.text import number, with_spread

BASELINES = synthetic.baselines()
MAIN = synthetic.main_study()


def test_the_alternative_text_has_the_values_of_the_records() -> None:
    figure = membership_auc(MAIN, BASELINES)
    for domain in DOMAINS:
        values = seed_values(MAIN, domain, "ga", "membership/min_k_40/auc")
        assert f"GA {number(float(np.mean(values)))}" in figure.alt


@pytest.mark.parametrize(("area", "said"), [(0.4, "1 ends below 0.5: there"), (0.6, "No method")])
def test_words_count_the_methods_that_went_past_one_half(area: float, said: str) -> None:
    run = changed(synthetic.run("books", "ga"), membership__min_k_40__auc=area)
    words = membership_in_words(findings([run], BASELINES))
    assert said in words and "By Min-40 %, vanilla’s" in words
    assert "By other attacks" not in words


def test_words_give_the_interval_of_the_oracle_s_auc_where_documents_have_scores() -> None:
    run = synthetic.run("books", "ga")
    words = membership_in_words(findings([run], BASELINES))
    oracle = baseline_record(BASELINES, "books", "oracle")
    assert oracle is not None
    _, low, high = auc_with_interval(oracle)
    assert 0 <= low < high <= 1 and f"(95 % {number(low)} to" in words
    bare = [replace(b, documents={}) for b in BASELINES]
    assert "95 %" not in membership_in_words(findings([run], bare))


def test_words_name_the_methods_that_only_another_attack_finds_below_one_half() -> None:
    run = changed(
        synthetic.run("books", "ga"),
        membership__min_k_40__auc=0.6,
        membership__min_k_20__auc=0.4,
        membership__zlib__auc=0.3,
    )
    words = membership_in_words(findings([run], BASELINES))
    assert "No method ends below 0.5" in words
    assert "some do: GA (zlib, Min-20 %)." in words


def test_the_table_of_a_measure_has_every_attack_and_the_means_of_the_records() -> None:
    table = membership_table(MAIN, BASELINES, "tpr_at_5_fpr")
    assert [title for _, title in table.columns] == list(ATTACK_TITLES.values())
    assert set(table.columns.get_level_values(0)) == {"TPR at 5 % FPR"}
    values = seed_values(MAIN, "books", "ga", "membership/zlib/tpr_at_5_fpr")
    assert table.loc[("Books", "GA"), ("TPR at 5 % FPR", "zlib")] == with_spread(values)


def test_an_auc_below_one_half_is_drawn_and_told_where_it_lies() -> None:
    run = changed(synthetic.run("books", "ga"), membership__min_k_40__auc=0.2)
    figure = membership_auc([run], BASELINES)
    assert "GA 0.200" in figure.alt
    (ax,) = figure.axes
    assert 0.2 in [x for line in ax.lines for x in np.atleast_1d(line.get_xdata())]


def of_scores(forget: list[float | None], approximate: list[float]) -> Record:
    """A run of GA on books whose documents have these scores by the attack that is shown."""
    documents = {"forget": {"min_k_40": forget}, "approximate": {"min_k_40": approximate}}
    return replace(synthetic.run("books", "ga"), documents=documents)


@pytest.mark.parametrize(
    ("forget", "area"),
    [([3.0, 4.0], "1.00"), ([-1.0, 0.0], "0.00"), ([1.5, 1.5], "0.50"), ([3.0, None], "1.00")],
)
def test_a_roc_curve_is_that_of_the_documents_scores(forget: list[float | None], area: str) -> None:
    """Of documents without a score there is no point."""
    figure = roc_curves([of_scores(forget, [1.0, 2.0])], [], "books")
    assert f"GA {area}" in figure.alt
    (curve,) = [line for line in figure.axes[0].lines if line.get_label() == f"GA  {area}"]
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(float(area))


def test_roc_curves_are_of_one_seed_with_those_of_vanilla_and_the_oracle() -> None:
    figure = roc_curves(MAIN, BASELINES, "books", seed=1)
    for which in ("vanilla", "oracle"):
        record = baseline_record(BASELINES, "books", which)
        assert record is not None
        sides = [np.array(record.documents[s]["min_k_40"]) for s in ("forget", "approximate")]
        assert f"{BASELINE_TITLES[which]} {auc(*sides):.2f}" in figure.alt
    assert "seed 1" in figure.alt
    assert "no scores" in roc_curves(MAIN, [], "books", seed=9).alt
