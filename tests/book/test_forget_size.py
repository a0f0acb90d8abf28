"""The number of documents and of requests along an axis, with yardsticks of the same documents.

The chapter opens the functions of the chapter on sensitivity: what they do for every sweep is
tested there, what is particular to documents and requests here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import TOLERANCE, base
from templates import NOTEBOOKS, attributes

from unlearnlib.book import forget_size as chapter
from unlearnlib.book import sensitivity
from unlearnlib.book.records import FORGET, KL, baseline_record, first_perplexity
from unlearnlib.text import number

BASELINES = synthetic.baselines()


def test_what_the_page_opens_is_what_the_chapter_on_sensitivity_makes() -> None:
    opened = attributes(NOTEBOOKS / "forget_size.ipynb", "chapter")
    assert opened == {name for name, thing in vars(chapter).items() if callable(thing)}
    for name in opened:
        assert getattr(chapter, name) is getattr(sensitivity, name)


def test_the_lines_of_a_sweep_over_documents_follow_the_documents() -> None:
    figure = chapter.swept(synthetic.swept_study("forget_size"), BASELINES, "forget_size")
    record = baseline_record(BASELINES, "books", "oracle")
    assert record is not None
    ends = [number(first_perplexity(record, "forget", n)) for n in (1, 64)]
    assert f"Oracle (truth) {ends[0]} to {ends[1]}" in figure.alt


def test_yardsticks_of_a_sweep_over_documents_are_those_of_the_documents() -> None:
    oracle = baseline_record(BASELINES, "books", "oracle")
    assert oracle is not None
    kept = oracle.documents["forget"]
    two = math.exp(np.average(kept["nll"][:2], weights=kept["tokens"][:2]))
    asked = ("books", "oracle", FORGET, "forget_size", 2)
    assert sensitivity.yardstick_at(BASELINES, *asked) == pytest.approx(two)
    target = sensitivity.yardstick_at(BASELINES, "books", "target", FORGET, "forget_size", 2)
    assert target == base("target")
    few, whole = (
        sensitivity.yardstick_at(BASELINES, "books", "vanilla", KL, "forget_size", n)
        for n in (2, 64)
    )
    assert math.isnan(few) and whole == base("vanilla", KL)


def test_a_run_that_says_nothing_of_requests_had_one() -> None:
    one = synthetic.swept_study("batch_size", ("books",))[0]
    several = replace(one, spec={**one.spec, "requests": 4})
    assert "requests" not in one.spec
    assert [p.x for p in sensitivity.points([several, one], "requests")] == [1, 4]


def test_requests_are_told_and_tabled_by_how_many_there_were() -> None:
    records = synthetic.swept_study("sequential", ("books",))
    table = chapter.swept_table(records, BASELINES, "requests")
    assert list(table.columns) == [
        str(n) for n in sorted({r.spec.get("requests", 1) for r in records})
    ]
    assert len(table.columns) > 1
    assert chapter.swept_in_words(records, BASELINES, "requests", TOLERANCE)
