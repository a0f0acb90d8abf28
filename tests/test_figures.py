"""Panels are labelled once beside each other and each by each when stacked."""

from __future__ import annotations

import pytest

from unlearnlib.figures import Layout
from unlearnlib.looks import domain_title
from unlearnlib.spec import DOMAINS


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
