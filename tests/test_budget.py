"""The retain weight as a multiplier: retained loss may rise by at most so much."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, documents, flat, logits_of, tiny_bench, tiny_llama, tiny_tokenizer
from torch import Tensor

from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import (
    Budget,
    Checkpoint,
    Execution,
    Part,
    Training,
    losses_before,
    optimise,
)
from unlearnlib.methods import METHODS, Ascent, Descent, KLToOriginal
from unlearnlib.run import command_of, execute
from unlearnlib.spec import RunSpec

QUIET = Execution(progress=False)


def run(method: str = "ga_gd_in_dist", **settings: Any) -> Any:
    given: dict[str, Any] = {"updates": 8, "batch_size": 4, "learning_rate": 3e-3}
    return execute(tiny_bench(), RunSpec(method=method, precision="float64", **(given | settings)))


@pytest.mark.parametrize(
    "method", ["ga_gd_in_dist", "ga_kl_general", "ga_js_in_dist", "npo_gd_in_dist"]
)
def test_the_weight_follows_the_rise_of_the_loss_beyond_the_budget(method: str) -> None:
    _, record = run(method, retain_budget=0.02, dual_rate=5.0, retain_weight=0.5)
    rows = record.trajectory
    assert len(rows) == 8 and rows[0]["retain_weight"] == 0.5
    assert rows[0]["retain_rise"] == pytest.approx(0.0, abs=1e-12)
    for row, following in pairwise(rows):
        expected = max(0.0, row["retain_weight"] + 5.0 * (row["retain_rise"] - 0.02))
        assert following["retain_weight"] == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert len({row["retain_weight"] for row in rows}) > 5


def test_the_rise_is_the_loss_less_that_of_the_original_at_the_same_documents() -> None:
    _, record = run(retain_budget=0.02)
    bench = tiny_bench()
    chunks = bench.chunks("retain")
    assert len({chunk.targets for chunk in chunks}) > 1  # so that a mean of means would show
    with torch.no_grad():
        each = [naive_loss(bench.model, chunk) for chunk in chunks]
    total = sum(each) / sum(chunk.targets for chunk in chunks)
    assert run(retain_budget=0.02, batch_size=100)[1].trajectory[0]["retain"] == pytest.approx(
        total, rel=1e-7
    )
    every = run(retain_budget=0.02, batch_size=100)[1].trajectory
    for row in every:
        assert row["retain_rise"] == pytest.approx(row["retain"] - total, rel=1e-5, abs=1e-6)
    assert any(row["retain_rise"] != row["retain"] for row in record.trajectory)


def naive_loss(model: Any, chunk: Chunk) -> float:
    logp = logits_of(model, chunk)[chunk.context - 1 : -1].log_softmax(1)
    return -float(logp[torch.arange(chunk.targets), list(chunk.tokens[chunk.context :])].sum())


def test_the_losses_before_are_those_of_single_chunks_and_0_for_a_distance() -> None:
    model, chunks = tiny_llama(), chunks_of("retain", 5)
    part = Part("retain", chunks, Descent())
    for micro in (1, 64):
        execution = Execution(progress=False, micro_chunks=micro)
        found = losses_before(model, part, [0, 2, 3], execution)
        with torch.no_grad():
            right = [naive_loss(model, c) if i in (0, 2, 3) else 0.0 for i, c in enumerate(chunks)]
        assert found == pytest.approx(right, rel=1e-12)
    assert losses_before(model, Part("retain", chunks, KLToOriginal()), [0, 2], QUIET) == [0.0] * 5


def test_a_budget_keeps_the_retained_loss_lower_than_the_same_run_without() -> None:
    kept = run(retain_budget=0.0, dual_rate=20.0, retain_weight=0.1, updates=16)[1].trajectory
    free = run(retain_weight=0.1, updates=16)[1].trajectory
    assert kept[-1]["retain"] < free[-1]["retain"] - 0.1
    wide = run(retain_budget=1e6, retain_weight=0.1, updates=3)[1].trajectory
    assert [row["retain_weight"] for row in wide] == [0.1, 0.0, 0.0]


def test_at_weight_0_the_loss_is_known_and_nothing_is_pushed() -> None:
    """From there on a run with far too wide a budget is the run without a retain term."""
    weighted, record = run(retain_budget=1e6, retain_weight=0.0, updates=4)
    alone, plain = run("ga", updates=4)
    torch.testing.assert_close(flat(weighted), flat(alone), rtol=0, atol=1e-12)
    rows = record.trajectory
    assert [row["retain_weight"] for row in rows] == [0.0] * 4
    assert rows[-1]["retain"] > rows[0]["retain"] > 0 and rows[-1]["retain_rise"] > 0
    assert [row["forget"] for row in rows] == pytest.approx([r["forget"] for r in plain.trajectory])


def chunks_of(name: str, count: int) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


class Killed(Exception):
    pass


def trained(path: Path | None = None, killed_at: int = 0, **how: Any) -> Tensor:
    """Parameters after six updates under a budget, the weight 0 in some of them."""

    def on_update(update: int) -> dict[str, float]:
        if update == killed_at:
            raise Killed
        return {}

    model = tiny_llama()
    retain = Part("retain", chunks_of("retain", 6), Descent(), 0.02)
    before = losses_before(model, retain, range(6), QUIET)
    parts = [
        Part("forget", chunks_of("forget", 6), Ascent()),
        Part("retain", retain.chunks, retain.term, 0.02, budget=Budget(0.01, 3.0, before)),
    ]
    outcome = optimise(
        model,
        parts,
        Training(updates=6, batch_size=4, rate=lambda _: 3e-3),
        execution=Execution(progress=False, **how),
        checkpoint=None if path is None else Checkpoint(path, "a key"),
        on_update=on_update,
    )
    weights = [row["retain_weight"] for row in outcome.trajectory]
    assert 0.0 in weights and max(weights) > 0.02
    return flat(model)


def test_the_result_under_a_budget_does_not_depend_on_how_it_is_computed() -> None:
    whole = trained()
    for how in ({"micro_chunks": 1}, {"micro_chunks": 3, "packed": True}, {"recompute": True}):
        torch.testing.assert_close(trained(**how), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("saved_after", [1, 3])
def test_an_interrupted_run_goes_on_with_the_weight_that_it_had(
    saved_after: int, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    whole = trained()
    with pytest.raises(Killed):
        trained(path, killed_at=saved_after + 1, save_every=saved_after)
    assert path.exists()
    assert torch.equal(trained(path, save_every=saved_after), whole)


def test_with_lora_and_in_several_requests_there_is_a_budget_too() -> None:
    for more in ({"lora_rank": 2}, {"requests": 2, "updates": 3}):
        rows = run(retain_budget=0.01, **more)[1].trajectory
        first = [row for row in rows if row["update"] in ((1, 4) if "requests" in more else (1,))]
        for row in first:  # a request's budget is over what it found
            assert row["retain_weight"] == 1.0
            assert row["retain_rise"] == pytest.approx(0.0, abs=1e-9)
        assert all(math.isfinite(row["retain_rise"]) for row in rows)


def test_a_budget_is_part_of_the_record_and_of_the_command_and_nothing_without() -> None:
    _, record = run(retain_budget=0.25, updates=1)
    assert record.spec["retain_budget"] == 0.25 and "dual_rate" not in record.spec
    assert "--set retain_budget=0.25" in command_of(RunSpec.from_dict(record.spec))
    _, without = run(updates=1)
    assert not {"retain_budget", "retain_weight", "retain_rise"} & set(without.trajectory[0])
    assert without.key != record.key


def test_any_row_with_a_retain_term_takes_a_budget() -> None:
    for name, row in METHODS.items():
        if row.retain is not None:
            assert RunSpec(method=name, retain_budget=0.1).retain_budget == 0.1
