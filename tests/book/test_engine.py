"""What the chapter on the engine says is what the benchmarks wrote, good or bad."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from unlearnlib.book import engine
from unlearnlib.errors import UnlearnError

ROOT = Path(__file__).resolve().parents[2]

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
