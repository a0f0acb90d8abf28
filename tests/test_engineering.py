"""The chapter on the engine says what the benchmarks wrote, good or bad."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from unlearnlib.book import engine, real_model
from unlearnlib.book.cost import throughput_in_words, throughput_table, throughputs
from unlearnlib.book.real_model import two_models
from unlearnlib.book.records import KL, auc_with_interval, methods_of, select
from unlearnlib.errors import UnlearnError
from unlearnlib.looks import domain_title, method_title
from unlearnlib.metrics.membership import auc, bootstrap_auc
from unlearnlib.store import Record
from unlearnlib.text import number, power

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("again", "packed", "two processes, sharded")


def invariance(difference: float = 3e-6) -> dict[str, Any]:
    rows = [
        {
            "precision": precision,
            "method": method,
            "way": way,
            "difference": 0.0
            if way == "again"
            else difference * (1 if precision == "float32" else 1e-7),
            "norm": 0.0 if way == "again" else difference * (1 if precision == "float32" else 1e-7),
            "perplexity": 0.0,
            "identical": way == "again",
        }
        for precision in ("float64", "float32")
        for method in ("ga", "ga_gd_in_dist")
        for way in WAYS
    ]
    return {"rows": rows}


def test_the_published_measurements_can_be_shown() -> None:
    speed, kill = engine.measured("speed-cpu"), engine.measured("kill")
    assert speed is not None and kill is not None
    assert "targets are met" in engine.speed_in_words(speed)
    assert "AUCs within" in engine.rounding_in_words(speed)
    assert len(engine.speed_table(speed)) + len(engine.memory_table(speed)) == len(speed["rows"])
    plate = engine.speed(speed)
    assert all(engine.work_title(row) in plate.alt for row in speed["rows"])
    assert "nothing was lost" in engine.kill_in_words(kill)


def test_a_target_is_met_from_its_own_side() -> None:
    row = {"work": "evaluation", "ours": "float32", "target": 4.0, "ratio": {"median": 4.1}}
    assert engine.met(row) and not engine.met({**row, "target": 4.2})
    memory = {"work": "memory of ga", "bytes": 1, "target": 0.3, "ratio": {"median": 0.31}}
    assert not engine.met(memory) and engine.met({**memory, "target": 0.32})


def test_ways_that_differ_too_much_are_counted() -> None:
    assert "4 of 6 runs" not in engine.invariance_in_words(invariance())
    words = engine.invariance_in_words(invariance(2e-4))
    assert "in float32 2 of 6 runs end within 1.0 × 10⁻⁴" in words
    assert "farthest: 2.0 × 10⁻⁴" in words and "4 of 4 end in bit-identical" in words
    table = engine.invariance_table(invariance())
    assert table.loc["packed", ("all parameters", "float64")] == "3.0 × 10⁻¹³"
    assert table.loc["the same again", ("one parameter", "float32")] == "0"
    assert "2 of 6 are exactly 0" in engine.invariance(invariance()).alt


@pytest.mark.parametrize("name", ["recomputed", "lost", "unreadable"])
def test_a_kill_that_did_harm_is_not_praised(name: str) -> None:
    kill = copy.deepcopy(engine.measured("kill"))
    assert kill is not None
    kill["at_random"][name] = 1
    assert "not everything" in engine.kill_in_words(kill)


def test_what_is_not_measured_names_its_command(tmp_path: Path) -> None:
    assert engine.measured("kill", tmp_path) is None
    for name, command in engine.COMMANDS.items():
        assert command in engine.missing_in_words(name)
        assert (ROOT / command.split()[1]).is_file()
    (tmp_path / "kill.json").write_text("{")
    with pytest.raises(UnlearnError, match="make it again"):
        engine.measured("kill", tmp_path)


@pytest.mark.parametrize(("x", "text"), [(0.0, "0"), (3.64e-12, "3.6 × 10⁻¹²"), (math.nan, "–")])
def test_small_differences_are_not_rounded_to_nothing(x: float, text: str) -> None:
    assert power(x) == text


# --- the chapter on a real model -----------------------------------------------------------------


def test_two_models_are_compared_method_by_method() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    table = real_model.compared(runs, base, runs, base, ("github", "books"))
    assert list(table.index) == [
        (domain_title(domain), method_title(m))
        for domain in ("github", "books")
        for m in methods_of(runs)
    ]
    for metric in ("forget perplexity", "general perplexity", "KL to the oracle"):
        assert (table[metric, "lab"] == table[metric, "SmolLM2"]).all()
    words = real_model.compared_in_words(runs, base, runs, base, "books")
    assert "ρ = 1.0" in words and "times the truth" in words
    sides = {"in the lab": (runs, base), "on SmolLM2": (runs, base)}
    plate = two_models(sides, ("github", "books"))
    assert len(plate.axes) == 4  # two metrics to a domain
    assert all(f"{domain_title(d)}, general perplexity" in plate.alt for d in ("github", "books"))
    sides["on SmolLM2"] = (select(runs, "books"), base)
    assert len(two_models(sides, ("github", "books")).axes) == 2


def test_the_nearest_run_is_found_and_measured_against_vanilla() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    of = [r for r in runs if r.spec["domain"] == "books"]
    best = min(of, key=lambda r: r.metrics[KL])
    words = real_model.nearest_in_words(runs, base, "books")
    assert f"Of all {len(of)} runs" in words and number(best.metrics[KL]) in words
    assert (
        real_model.nearest_in_words(runs, [], "books")
        == ""
        == real_model.nearest_in_words([], base, "books")
    )


def test_opposite_rankings_correlate_negatively() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    # Of the 6 orders of three, one runs along and one runs against.
    assert real_model.rank_correlation(one, {"a": 3.0, "b": 2.0, "c": 1.0}) == pytest.approx(
        (-1, 2 / 6)
    )
    assert all(map(math.isnan, real_model.rank_correlation(one, {"a": 1.0, "b": 2.0})))


def test_chance_is_the_share_of_orders_that_correlate_as_much() -> None:
    one = {name: float(place) for place, name in enumerate("abcde")}
    other = {"a": 1.0, "b": 0.0, "c": 2.0, "d": 3.0, "e": 4.0}
    rho, chance = real_model.rank_correlation(one, other)
    assert rho == pytest.approx(0.9)
    assert chance == pytest.approx(2 * (1 + 4) / 120)  # itself, four neighbours, and the reverses
    assert all(map(math.isnan, real_model.rank_correlation(one, dict.fromkeys(one, 1.0))))


def test_chance_is_what_it_was_before_scipy_computed_it() -> None:
    """With ties, for which the orders are not symmetric: the numbers of this book's own code."""
    one = {name: float(place) for place, name in enumerate("abcdefg")}
    for values, rho, chance in (
        ((3.0, 1.0, 2.0, 7.0, 5.0, 6.0, 4.0), 0.5714285714285714, 1008 / 5040),
        ((1.0, 1.0, 1.0, 2.0, 2.0, 0.0, 3.0), 0.39295262399668784, 1992 / 5040),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 0.6123724356957945, 1440 / 5040),
        ((2.0, 9.0, 4.0, 4.0, 1.0, 8.0, 3.0), -0.0900937462695559, 4328 / 5040),
    ):
        found = real_model.rank_correlation(one, dict(zip(one, values, strict=True)))
        assert found == pytest.approx((rho, chance), abs=1e-12)


def test_of_many_methods_chance_is_estimated_and_comes_out_alike_each_time() -> None:
    one = {str(place): float(place) for place in range(12)}
    other = {name: -x for name, x in one.items()}
    rho, chance = real_model.rank_correlation(one, other)
    assert rho == pytest.approx(-1) and 0 < chance < 1e-3
    assert real_model.rank_correlation(one, other) == (rho, chance)


def test_the_history_of_training_further_is_told_from_its_record() -> None:
    record = json.loads((ROOT / "data" / "continued" / "open_cpu-vanilla.json").read_text())
    table = real_model.history_table({"vanilla": record, "oracle-books": record})
    assert len(table) == 1 + 2 * record["epochs"]
    words = real_model.history_in_words(record)
    assert f"After {record['epochs']} epoch" in words and "0.820" in words


def scored(method: str | None, forget: list[float], approximate: list[float]) -> Record:
    """A record of the published model with so many documents of two chunks, of equal loss."""
    spec: dict[str, Any] = {"profile": "open_cpu", "domain": "books", "seed": 0}
    spec |= {"base": "published"}
    spec |= {"baseline": "vanilla"} if method is None else {"method": method}
    documents = {
        split: {
            "id": [f"{split}-{i}#{half}" for i in range(len(values)) for half in (0, 1)],
            "loss": [v + shift for v in values for shift in (-0.5, 0.5)],
        }
        for split, values in (("forget", forget), ("approximate", approximate))
    }
    metrics = {f"{s}/perplexity": 20.0 for s in ("forget", "approximate", "general")}
    metrics["forget/perplexity"] *= 1 if method is None else 3
    return Record(
        key=hashlib.sha256(str(method).encode()).hexdigest(),
        kind="score" if method is None else "run",
        status="done",
        spec=spec,
        data_hash="d",
        model_hash="m",
        metrics=metrics,
        documents=documents,
    )


def test_the_interval_of_the_auc_counts_documents_and_not_their_chunks() -> None:
    forget, others = [0.1, 0.2, 0.9, 1.4], [0.0, 0.3, 0.8, 1.0]
    members, rest = np.array(forget), np.array(others)
    found = auc_with_interval(scored("ga", forget, others), "loss")
    assert found == pytest.approx((auc(members, rest), *bootstrap_auc(members, rest)))
    assert all(map(math.isnan, auc_with_interval(scored("ga", [math.nan], others), "loss")))
    assert all(map(math.isnan, auc_with_interval(scored("ga", forget, []), "loss")))


def test_what_the_protocol_says_of_a_published_model() -> None:
    some = [i / 30 for i in range(30)]
    before, kept = scored(None, some, some), scored("ga_gd_in_dist", some, some)
    over = scored("ga", [x - 2 for x in some], some)
    words = real_model.published_in_words([over, kept], [before], "books")
    assert "does not tell the forget set from texts held out" in words
    assert "Over-unlearning shows even so" in words and "after GA (0)" in words
    assert "there is none" in words and "off the target by more than a quarter" in words
    assert "After no method" in real_model.published_in_words([kept], [before], "books")
    seen = scored(None, [x + 2 for x in some], some)
    assert "nothing here can say which" in real_model.published_in_words([], [seen], "books")
    assert real_model.published_in_words([over], [], "books") == ""
    main = (synthetic.main_study(), synthetic.baselines())
    table = real_model.published_table([over, kept], [before], "books", main)
    assert table.index[0] == "as published" and len(table) == 3
    assert table.loc["GA", "forget perplexity, times"] == 3
    assert table.loc["GA", "the same on vanilla"] > 0
    assert math.isnan(table.loc["as published", "the same on vanilla"])
    assert table["AUC of the loss"].iloc[0].startswith("0.500 [")
    assert table["AUC of Min-40%"].iloc[0] == "–"


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
