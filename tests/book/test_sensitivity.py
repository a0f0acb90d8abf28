"""A sweep has a point per value of the swept setting, in tables, in words and in its span."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import synthetic
from synthetic import TOLERANCE, probed

from unlearnlib.book import sensitivity
from unlearnlib.book.records import FORGET
from unlearnlib.book.sensitivity import (
    points,
    shape_title,
    span,
    swept_in_words,
    swept_table,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.study import RETAIN_WEIGHTS, SIZES

BASELINES = synthetic.baselines()

REGION = synthetic.region_study(("books",))


@pytest.mark.parametrize(
    ("name", "values"),
    [("batch_size", SIZES), ("retain_weight", RETAIN_WEIGHTS), ("forget_size", SIZES)],
)
def test_a_sweep_has_a_point_per_value_in_rising_order(
    name: str, values: tuple[float, ...]
) -> None:
    records = synthetic.swept_study(name, ("books",))
    points = [p for p in sensitivity.points(records[::-1], name) if p.method == "ga_gd_in_dist"]
    assert [p.x for p in points] == list(values)


def test_a_sweep_over_updates_reads_the_probes_and_ends_where_a_run_diverged() -> None:
    run = probed(3.0, 4.0, 5.0, math.nan, step=3, status="diverged", diverged_at=7)
    points = sensitivity.points([run], "updates")
    assert [(p.x, p.diverged) for p in points] == [(3, False), (6, False), (9, True)]
    assert [p[FORGET] for p in points] == [4.0, 5.0, math.inf]
    assert math.isnan(points[0]["no/such_metric"])


def test_a_schedule_is_named_with_its_warm_up() -> None:
    assert shape_title({"schedule": "linear", "warmup": 0.25}) == "linear, 25 % warm-up"
    assert shape_title({"schedule": "cosine", "warmup": 0.0}) == "cosine"


def test_a_sweep_over_what_is_no_setting_is_refused() -> None:
    with pytest.raises(UnlearnError, match="'speed'"):
        points(REGION, "speed")


def test_the_span_of_a_sweep_is_its_largest_value_over_its_least() -> None:
    runs = [
        replace(run, metrics={**run.metrics, FORGET: x})
        for run, x in zip(
            synthetic.swept_study("batch_size", ("books",))[:7],
            (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            strict=True,
        )
    ]
    assert span(runs, BASELINES, "batch_size") == {"ga": pytest.approx(4.0)}
    broken = [*runs[:-1], replace(runs[-1], status="diverged", diverged_at=1)]
    assert span(broken, BASELINES, "batch_size") == {"ga": math.inf}
    assert math.isnan(span(runs[:1], BASELINES, "batch_size")["ga"])
    assert "GA ×4.00" in swept_in_words(runs, BASELINES, "batch_size", TOLERANCE)


def test_the_table_of_a_sweep_names_divergence_and_what_is_missing() -> None:
    records = synthetic.swept_study("batch_size", ("books",))
    changed = [replace(records[0], status="diverged", diverged_at=1), *records[2:]]
    table = swept_table(changed, BASELINES, "batch_size")
    assert list(table.columns) == [f"{n}" for n in SIZES]
    assert table.loc[("Books", "GA")].tolist()[:2] == ["diverged", "–"]


@pytest.mark.parametrize("name", synthetic.SWEPT)
def test_a_sweep_is_told_in_words_without_baselines_or_numbers(name: str) -> None:
    records = synthetic.swept_study(name, ("books",))
    field = "requests" if name == "sequential" else name
    lost = [replace(r, metrics={}) for r in records]
    for found, baselines in ((records, []), (lost, BASELINES), (records, BASELINES)):
        assert swept_in_words(found, baselines, field, TOLERANCE)
        assert len(swept_table(found, baselines, field))
