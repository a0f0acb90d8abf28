"""Searching for a setting on a real, small model, from Python and from the command line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import QUIET, tiny_bench, tiny_tokenizer

from unlearnlib.cli.main import main
from unlearnlib.engine import Part, Training, optimise
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import Descent
from unlearnlib.models import load_model, model_hash, save_model
from unlearnlib.run import execute
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.tuning import search

# ---- a real model --------------------------------------------------------------------------------


def spec(**more: Any) -> RunSpec:
    return RunSpec(method="ga_gd_in_dist", updates=4, batch_size=3, **more)


def remembered() -> Any:
    """A bench whose model knows its forget set better than its approximate set."""
    bench = tiny_bench(execution=QUIET)
    learned = bench.model
    optimise(
        learned,
        [Part("all", bench.chunks("forget"), Descent())],
        Training(updates=30, batch_size=6, rate=lambda _: 3e-3),
        execution=QUIET,
    )
    return tiny_bench(model=learned, execution=QUIET)


def test_tuning_ends_near_the_target_and_returns_that_model(tmp_path: Path) -> None:
    bench = remembered()
    untouched = model_hash(bench.model)
    heard: list[str] = []
    found = search(
        bench,
        spec(),
        start=1e-3,
        runs=6,
        trace=tmp_path,
        on_proposal=lambda _, p: heard.append(p.reason),
    )
    assert model_hash(bench.model) == untouched
    assert found.best is not None and found.record is not None
    chosen = found.steps[found.best]
    assert found.record.metrics["forget/perplexity"] == pytest.approx(
        chosen.path[chosen.updates], rel=1e-4
    )
    assert found.record.spec["updates"] == chosen.updates
    assert chosen.shortfall(found.situation) == min(
        s.shortfall(found.situation) for s in found.steps
    )
    assert abs(chosen.gap(found.situation)) < abs(
        math.log(found.situation.forget / found.situation.target)
    )
    assert len(heard) == len(found.steps) + 1 and heard[-1] == found.ending

    # The record is that of a plain run with as many updates: anybody can repeat it.
    again = execute(bench, RunSpec().replace(**found.record.spec))[1]
    assert again.comparable() == found.record.comparable()


def test_a_search_that_leaves_checkpoints_is_the_same_after_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    bench = remembered()
    bench.execution = dataclasses.replace(QUIET, save_every=1)
    expected = search(bench, spec(), start=1e-3, runs=1)
    seen = 0

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt
        return score_chunks(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr("unlearnlib.tuning.score_chunks", killed)
        with pytest.raises(KeyboardInterrupt):
            search(bench, spec(), start=1e-3, runs=1)
    again = search(bench, spec(), start=1e-3, runs=1)
    assert [s.path for s in again.steps] == [s.path for s in expected.steps]


def test_an_interrupted_search_goes_on_from_its_trace(tmp_path: Path) -> None:
    bench = remembered()
    whole = search(bench, spec(), start=1e-3, runs=4, trace=tmp_path / "whole")

    class Killed(Exception):
        pass

    def killed(number: int, _: object) -> None:
        if number == 3:
            raise Killed

    with pytest.raises(Killed):
        search(bench, spec(), start=1e-3, runs=4, trace=tmp_path / "cut", on_proposal=killed)
    made: list[int] = []
    again = search(
        bench,
        spec(),
        start=1e-3,
        runs=4,
        trace=tmp_path / "cut",
        on_proposal=lambda n, _: made.append(n),
    )
    assert made[0] == 3
    assert [s.path for s in again.steps] == [s.path for s in whole.steps]
    assert again.best == whole.best
    assert model_hash(again.model) == model_hash(whole.model)
    # Another search keeps a trace of its own.
    search(bench, spec(seed=1), start=1e-3, runs=1, trace=tmp_path / "cut")
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_a_damaged_trace_is_named(tmp_path: Path) -> None:
    bench = remembered()
    search(bench, spec(), start=1e-3, runs=1, trace=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({"steps": [{"rate": 1}]}))
    with pytest.raises(UnlearnError, match=re.escape(path.name)):
        search(bench, spec(), start=1e-3, runs=1, trace=tmp_path)


@pytest.mark.parametrize(("runs", "start"), [(0, 1e-4), (1, 0.0), (1, math.nan), (1, -1.0)])
def test_a_search_that_cannot_be_made_is_an_error(runs: int, start: float) -> None:
    with pytest.raises(UnlearnError, match="give numbers above 0"):
        search(tiny_bench(execution=QUIET), spec(), runs=runs, start=start)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of `unlearn tune` on a model and documents of one's own."""
    bench = remembered()
    save_model(bench.model.float(), tiny_tokenizer(), tmp_path / "<b>model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    words = ["tune", "--model", "<b>model", "--length", "32", "--updates", "4", "--device", "cpu"]
    for name, split in (
        ("forget", "forget"),
        ("retain", "retain"),
        ("approximate", "approximate"),
        ("general", "general_evaluation"),
    ):
        rows = [json.dumps({"text": d.text}) for d in bench.data.split(split)]
        Path(f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        words += [f"--{name}", f"{name}.jsonl"]
    return [*words, "--batch-size", "3", "--start", "1e-3", "--runs", "3", "--quiet"]


def test_the_command_saves_the_model_and_a_report_that_needs_nothing_else(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own, "--out", "out", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["runs"] == len(values["steps"]) <= 3
    assert model_hash(load_model("out")) != model_hash(load_model("<b>model"))
    record = json.loads(Path("out/record.json").read_text())["record"]
    assert "unlearn run" in record["provenance"]["command"]

    page = Path("out/report.html").read_text()
    for heading in (
        "What was forgotten",
        "How the setting was found",
        "What the scores cannot say",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "<b>model" not in page and "&lt;b&gt;model" in page
    assert page.count("<img") == page.count("alt=") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    for text in (
        json.loads(line)["text"] for line in Path("forget.jsonl").read_text().splitlines()
    ):
        assert text not in page
    for step in values["steps"]:
        assert f"{step['learning_rate']:.3g}" in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--learning-rate", "1e-4"], "learning_rate is given, and tuning decides it"),
        (["--set", "retain_weight=2"], "retain_weight is given, and tuning decides it"),
        (["--set", "schedule=linear"], "schedule is given, and tuning decides it"),
        (["--start", "-1"], "start is -1.0"),
    ],
)
def test_what_tuning_decides_cannot_be_given(
    more: list[str], said: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own, *more, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_where_there_is_nothing_to_forget_nothing_is_said_to_be_written(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    own[own.index("--forget") + 1] = "approximate.jsonl"
    assert main([*own, "--out", "out", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["runs"], values["best"], values["out"]) == (0, None, None)
    assert not Path("out").exists()
    assert main([*own, "--out", "out"]) == 0
    assert "the model was left as it is, and out is not written" in capsys.readouterr().out


def test_what_the_report_needs_is_asked_for_before_the_search(
    own: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*_: object, **__: object) -> None:
        pytest.fail("the search began")

    monkeypatch.setitem(sys.modules, "markdown_it", None)  # as where it is not installed
    monkeypatch.setattr("unlearnlib.cli.tune.search", searched)
    assert main([*own, "--out", "out"]) == 2
    assert "the report needs markdown_it" in capsys.readouterr().err


def test_tuning_needs_texts_that_were_never_seen(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at = own.index("--approximate")
    assert main([*own[:at], *own[at + 2 :], "--out", "out"]) == 2
    assert "tuning needs approximate documents" in capsys.readouterr().err
