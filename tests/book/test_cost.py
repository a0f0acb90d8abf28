"""Ratios of cost are counted in tokens, and timings tell what the paper's own runs would take."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import synthetic

from unlearnlib.book.cost import (
    KINDS,
    RELEASE_BATCH,
    Retraining,
    cost_in_words,
    cost_ratios,
    release_accounts,
    throughput_in_words,
    throughput_table,
    throughputs,
)
from unlearnlib.store import Record
from unlearnlib.text import number

MAIN = synthetic.main_study()


def test_the_measured_ratio_is_one_of_tokens() -> None:
    run = synthetic.run("books", "ga")
    again = {"books": Retraining(10 * run.extra["tokens"], 100.0, 1.2e6)}
    ratios = cost_ratios([run], again)["ga"]
    assert ratios.flops == [10.0]
    assert ratios.seconds == [pytest.approx(100.0 / run.provenance["seconds_training"])]


def test_domains_without_a_retrained_model_have_no_measured_ratio() -> None:
    assert cost_ratios(MAIN, {}) == {}
    assert "nothing is measured" in cost_in_words(MAIN, {})


def test_the_accounted_ratio_halves_when_as_much_is_retained() -> None:
    accounts = release_accounts()
    for domain in RELEASE_BATCH:
        alone, both, kl = (accounts[domain, kind].ratio for kind in KINDS)
        assert alone == pytest.approx(2 * both) == pytest.approx(kl * 7 / 3)


def test_words_say_how_far_apart_the_times_of_equal_retrainings_are() -> None:
    again = {
        "books": Retraining(1e6, 300.0, 1.2e6),
        "arxiv": Retraining(1.01e6, 900.0, 1.2e6),
    }
    words = cost_in_words(MAIN, again)
    assert "2 retrainings took 300 to 900 of them" in words and "by 1.0 %" in words
    assert "coarse" not in cost_in_words(MAIN, {"books": again["books"]})


def timing(recipe: str = "ours", rate: float = 10_000.0) -> Record:
    spec = {"shape": "yi-6b", "method": "ga_gd_in_dist", "length": 4096, "batch": 8}
    told = {
        "tokens_per_second": rate,
        "flops_per_second": 3e14,
        "product_flops_per_second": 6e14,
        "peak_memory_bytes": 9.05e10,
        "accelerator": "a GPU",
        "device": "cuda",
    }
    key = hashlib.sha256(recipe.encode()).hexdigest()
    return Record(key, "throughput", "done", spec | {"recipe": recipe}, "r", "r", provenance=told)


def test_timings_on_a_gpu_say_what_the_papers_updates_and_retraining_take() -> None:
    words = throughput_in_words([timing("plain"), timing()])
    assert "10,000 tokens a second" in words and "50% of a plain" in words
    assert f"{number(2 * 480 * 4096 / 10_000 / 60)} minutes on arXiv" in words
    assert f"{number(3e12 / 10_000 / 86400 / 365.25)} years" in words
    table = throughput_table([timing("plain"), timing()])
    assert list(table["peak memory"]) == ["90.5 GB"] * 2 and len(table.index.unique()) == 2


def test_without_timings_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    assert throughputs() == []
    assert "benchmarks/gpu_queue.py --only 'throughput*'" in throughput_in_words([])
