"""A learning rate is usable near the target and without harm; the ticks of its axis can be read."""

from __future__ import annotations

import math
from dataclasses import replace

import synthetic
from synthetic import changed

from unlearnlib.book.learning_rates import learning_rates, rates_table, usable
from unlearnlib.study import RATES
from unlearnlib.tuning_rule import TOLERATED_RISE

BASELINES = synthetic.baselines()
RUN = synthetic.rates_study()[0]


def test_a_setting_is_usable_only_near_the_target_and_without_harm() -> None:
    run = synthetic.run("books", "ga")
    good = changed(run, forget__perplexity=10.0, general__perplexity=5.0)
    assert usable(good, target=10.0, general=5.0)
    assert not usable(good, target=20.0, general=5.0)
    assert not usable(good, target=10.0, general=4.0)
    assert not usable(changed(good, forget__perplexity=math.nan), 10.0, 5.0)


def test_general_perplexity_may_rise_by_what_is_tolerated_and_no_more() -> None:
    run = changed(synthetic.run("books", "ga"), forget__perplexity=10.0)
    for general, allowed in ((0.999, True), (1.001, False)):
        risen = changed(run, general__perplexity=5.0 * TOLERATED_RISE * general)
        assert usable(risen, target=10.0, general=5.0) is allowed


def test_the_table_of_rates_names_the_update_of_a_divergence() -> None:
    table = rates_table(synthetic.rates_study(), BASELINES)
    assert table.shape == (21, len(RATES))
    assert table.loc[("Books", "GA"), f"{RATES[-1]:g}"] == "diverged at 5"


def ticks_of(rates: tuple[float, ...]) -> list[str]:
    """The labels under the learning rates of a figure with such a grid."""
    runs = [replace(RUN, spec={**RUN.spec, "learning_rate": rate}) for rate in rates]
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
