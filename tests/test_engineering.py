"""The chapter on the engine says what the benchmarks wrote, good or bad."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import synthetic

from unlearnlib import engineering as e
from unlearnlib import figures, real, tables
from unlearnlib.errors import UnlearnError

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
    speed, kill = e.measured("speed-cpu"), e.measured("kill")
    assert speed is not None and kill is not None
    assert "targets are met" in e.speed_in_words(speed)
    assert "AUCs within" in e.rounding_in_words(speed)
    assert len(e.speed_table(speed)) + len(e.memory_table(speed)) == len(speed["rows"])
    plate = figures.speed(speed)
    assert all(e.work_title(row) in plate.alt for row in speed["rows"])
    assert "nothing was lost" in e.kill_in_words(kill)


def test_a_target_is_met_from_its_own_side() -> None:
    row = {"work": "evaluation", "ours": "float32", "target": 4.0, "ratio": {"median": 4.1}}
    assert e.met(row) and not e.met({**row, "target": 4.2})
    memory = {"work": "memory of ga", "bytes": 1, "target": 0.3, "ratio": {"median": 0.31}}
    assert not e.met(memory) and e.met({**memory, "target": 0.32})


def test_ways_that_differ_too_much_are_counted() -> None:
    assert "4 of 6 runs" not in e.invariance_in_words(invariance())
    words = e.invariance_in_words(invariance(2e-4))
    assert "in float32 2 of 6 runs end within 1.0 × 10⁻⁴" in words
    assert "farthest: 2.0 × 10⁻⁴" in words and "4 of 4 end in bit-identical" in words
    table = e.invariance_table(invariance())
    assert table.loc["packed", ("all parameters", "float64")] == "3.0 × 10⁻¹³"
    assert table.loc["the same again", ("one parameter", "float32")] == "0"
    assert "2 of 6 are exactly 0" in figures.invariance(invariance()).alt


@pytest.mark.parametrize("name", ["recomputed", "lost", "unreadable"])
def test_a_kill_that_did_harm_is_not_praised(name: str) -> None:
    kill = copy.deepcopy(e.measured("kill"))
    assert kill is not None
    kill["at_random"][name] = 1
    assert "not everything" in e.kill_in_words(kill)


def test_what_is_not_measured_names_its_command(tmp_path: Path) -> None:
    assert e.measured("kill", tmp_path) is None
    for name, command in e.COMMANDS.items():
        assert command in e.missing_in_words(name)
        assert (ROOT / command.split()[1]).is_file()
    (tmp_path / "kill.json").write_text("{")
    with pytest.raises(UnlearnError, match="make it again"):
        e.measured("kill", tmp_path)


@pytest.mark.parametrize(("x", "text"), [(0.0, "0"), (3.64e-12, "3.6 × 10⁻¹²"), (math.nan, "–")])
def test_small_differences_are_not_rounded_to_nothing(x: float, text: str) -> None:
    assert e.power(x) == text


# --- the chapter on a real model -----------------------------------------------------------------


def test_two_models_are_compared_method_by_method() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    table = real.compared(runs, base, runs, base, "books")
    assert list(table.index) == [tables.method_title(m) for m in tables.methods_of(runs)]
    for metric in ("forget perplexity", "general perplexity", "KL to the oracle"):
        assert (table[metric, "lab"] == table[metric, "SmolLM2"]).all()
    words = real.compared_in_words(runs, base, runs, base, "books")
    assert "ρ = 1.0" in words and "times the truth" in words
    sides = {"in the lab": (runs, base), "on SmolLM2": (runs, base)}
    assert "general perplexity" in figures.two_models(sides, "books").alt


def test_the_nearest_run_is_found_and_measured_against_vanilla() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    of = [r for r in runs if r.spec["domain"] == "books"]
    best = min(of, key=lambda r: r.metrics[real.KL])
    words = real.nearest_in_words(runs, base, "books")
    assert f"Of all {len(of)} runs" in words and tables.number(best.metrics[real.KL]) in words
    assert (
        real.nearest_in_words(runs, [], "books") == "" == real.nearest_in_words([], base, "books")
    )


def test_opposite_rankings_correlate_negatively() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    assert real.rank_correlation(one, {"a": 3.0, "b": 2.0, "c": 1.0}) == pytest.approx(-1)
    assert math.isnan(real.rank_correlation(one, {"a": 1.0, "b": 2.0}))


def test_the_history_of_training_further_is_told_from_its_record() -> None:
    record = json.loads((ROOT / "data" / "continued" / "open_cpu-vanilla.json").read_text())
    table = real.history_table({"vanilla": record, "oracle-books": record})
    assert len(table) == 1 + 2 * record["epochs"]
    words = real.history_in_words(record)
    assert f"After {record['epochs']} epoch" in words and "0.820" in words
