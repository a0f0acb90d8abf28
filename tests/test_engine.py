"""The optimisation loop: an update is the unified view's, however it is computed."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import random
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_processes
from helpers import (
    HEAD_ROWS,
    LENGTH,
    QUIET,
    TABLE,
    documents,
    flat,
    flat_gradient,
    naive_term,
    naive_unlearn,
    tiny_bench,
    tiny_llama,
    tiny_tokenizer,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from unlearnlib import engine
from unlearnlib.corpus.chunks import Chunk, collate, collate_packed, cut
from unlearnlib.decoder import disable_dropout
from unlearnlib.engine import (
    Checkpoint,
    Execution,
    Labelling,
    Part,
    Training,
    draw_update,
    hidden_states,
    keep_original,
    make_optimizer,
    optimise,
    order,
    peak_memory_bytes,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS, Ascent, Descent, KLToOriginal, Term
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

SPECIAL = frozenset({0, 1, 2})


def chunks_of(name: str, count: int = 5) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


def part_of(model: Any, name: str, term: Term, chunks: list[Chunk], weight: float = 1.0) -> Part:
    kept = keep_original(
        model,
        chunks,
        term,
        Labelling(SPECIAL, len(tiny_tokenizer())),
        execution=QUIET,
    )
    return Part(name, chunks, term, weight, kept)


def one_update(model: Any, parts: list[Part], rate: float = 0.0, **settings: Any) -> Any:
    execution = settings.pop("execution", QUIET)
    training = Training(1, **{"batch_size": 100, "rate": lambda _: rate} | settings)
    return optimise(model, parts, training, execution=execution)


# ---- an update ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", PAPER_METHODS)
def test_the_gradient_of_an_update_is_that_of_the_unified_view(method: str, tied: bool) -> None:
    original = tiny_llama(tied=tied)
    # Away from the original, so that the KL term has a gradient; but for the head, which
    # `optimise` takes as it finds it.
    model = copy.deepcopy(original)
    with torch.no_grad():
        for number, parameter in enumerate(model.model.layers.parameters()):
            make = torch.Generator().manual_seed(number)
            parameter += 0.05 * torch.randn(parameter.shape, generator=make, dtype=parameter.dtype)
    row, weight = METHODS[method], 0.7
    parts = [part_of(original, "forget", row.forget, chunks_of("forget"))]
    if row.retain is not None:
        parts.append(part_of(original, "retain", row.retain, chunks_of("retain"), weight))

    reference = copy.deepcopy(model)
    for part, kind in zip(parts, TABLE[method], strict=False):
        assert kind is not None
        targets = sum(len(chunk.tokens) - 1 for chunk in part.chunks)
        for chunk, kept in zip(part.chunks, part.stored_reference, strict=True):
            labelled = kind in ("random", "adversarial")
            form, labels = ("labels", kept) if labelled else (kind, None)
            loss = naive_term(form, reference, chunk, original, labels)
            (part.weight * loss / targets).backward()
    one_update(model, parts)
    torch.testing.assert_close(
        flat_gradient(model), flat_gradient(reference), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_ascent_update_is_exactly_the_negative_of_a_descent_update(
    dtype: torch.dtype,
) -> None:
    chunks = chunks_of("forget")
    up, down = tiny_llama(dtype=dtype), tiny_llama(dtype=dtype)
    start = flat(up)
    one_update(up, [Part("forget", chunks, Ascent())], rate=1e-3)
    one_update(down, [Part("forget", chunks, Descent())], rate=1e-3)
    assert torch.equal(flat_gradient(up), -flat_gradient(down))
    assert flat_gradient(up).any()
    # The steps are negatives too, but for the rounding of adding them to the parameters.
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(flat(up) - start, start - flat(down), rtol=0, atol=rounding)


def test_the_loss_of_an_update_is_per_target_token_whatever_the_chunks_lengths() -> None:
    model, chunks = tiny_llama(), chunks_of("forget")
    outcome = one_update(model, [Part("loss", chunks, Descent())])
    with torch.no_grad():
        total = sum(float(naive_term("descent", model, chunk, None)) for chunk in chunks)
    targets = sum(len(chunk.tokens) - 1 for chunk in chunks)
    assert outcome.trajectory[0]["loss"] == pytest.approx(total / targets, rel=1e-12)
    assert outcome.tokens == sum(len(chunk.tokens) for chunk in chunks)


def test_kl_to_an_unmoved_model_is_zero_and_so_is_its_gradient() -> None:
    model = tiny_llama()
    outcome = one_update(model, [part_of(model, "retain", KLToOriginal(), chunks_of("retain"))])
    assert abs(outcome.trajectory[0]["retain"]) < 1e-14
    assert flat_gradient(model).abs().max() < 1e-14


def test_kl_ignores_padding() -> None:
    model = tiny_llama()
    short, long = chunks_of("retain", 2), chunks_of("other", 12)
    short = [chunk for chunk in short if len(chunk.tokens) < LENGTH]
    wide = [chunk for chunk in long if len(chunk.tokens) == max(len(c.tokens) for c in long)]
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.model.norm.weight.mul_(1.3)
    alone = part_of(model, "retain", KLToOriginal(), short)
    values = []
    for parts in ([alone], [alone, Part("wide", wide, Descent())]):
        # Beside a longer chunk the same chunks are padded further.
        outcome = one_update(copy.deepcopy(moved), parts)
        values.append(outcome.trajectory[0]["retain"])
    assert values[0] > 1e-4
    assert values[0] == pytest.approx(values[1], rel=1e-12)


# ---- a whole run ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_a_run_is_the_naive_loop_over_single_chunks_with_full_logits(method: str) -> None:
    bench = tiny_bench()
    spec = RunSpec(
        method=method,
        updates=3,
        batch_size=4,
        learning_rate=1e-3,
        retain_weight=0.5,
        seed=5,
        precision="float64",
    )
    model, _ = execute(bench, spec)
    forget, retain, split = TABLE[method]
    labels = keep_original(
        bench.model,
        bench.chunks("forget"),
        METHODS[method].forget,
        Labelling(bench.special, bench.vocabulary, seed=5),
        execution=QUIET,
    )
    expected = naive_unlearn(
        bench.model,
        bench.chunks("forget"),
        bench.chunks(split) if split else [],
        (forget, retain),
        updates=3,
        batch_size=4,
        learning_rate=1e-3,
        retain_weight=0.5,
        seed=5,
        random_labels={
            chunk.id: made
            for chunk, made in zip(bench.chunks("forget"), labels, strict=True)
            if made is not None
        },
    )
    assert not torch.allclose(flat(model), flat(bench.model), rtol=0, atol=1e-4)
    torch.testing.assert_close(flat(model), flat(expected), rtol=1e-9, atol=1e-9)


def trained(method: str, dtype: torch.dtype, **execution: Any) -> torch.Tensor:
    """The parameters after five updates of 4 + 4 chunks."""
    model, row = tiny_llama(dtype=dtype), METHODS[method]
    parts = [part_of(model, "forget", row.forget, chunks_of("forget", 6))]
    if row.retain is not None:
        parts.append(part_of(model, "retain", row.retain, chunks_of("retain", 6)))
    optimise(
        model,
        parts,
        Training(updates=5, batch_size=4, rate=lambda _: 1e-3),
        execution=Execution(progress=False, **execution),
    )
    return flat(model)


@pytest.mark.parametrize("method", METHODS)
def test_the_micro_batch_does_not_change_the_model(method: str) -> None:
    whole = trained(method, torch.float64)
    for micro in (1, 2, 4):  # of the 4 or 8 chunks of an update; 64 by default
        other = trained(method, torch.float64, micro_chunks=micro)
        torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-9)
    narrow = trained(method, torch.float64, micro_tokens=2 * LENGTH)
    torch.testing.assert_close(narrow, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", [{"recompute": True}, {"packed": True}])
@pytest.mark.parametrize("method", METHODS)
def test_recomputing_and_packing_do_not_change_the_model(method: str, how: dict[str, bool]) -> None:
    whole = trained(method, torch.float64)
    for micro in (2, 64):
        other = trained(method, torch.float64, micro_chunks=micro, **how)
        torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-9)


def test_packed_chunks_do_not_see_each_other() -> None:
    """What stands before a chunk in its row changes nothing in the chunk."""
    model = tiny_llama()
    one, two, other = chunks_of("forget", 3)
    width = len(one.tokens)
    before = hidden_states(model, collate_packed([one, two]))[0]
    after = hidden_states(model, collate_packed([other, two]))[0]
    torch.testing.assert_close(before[width:], after[len(other.tokens) :], rtol=0, atol=1e-12)
    alone = hidden_states(model, collate([two]))[0]
    torch.testing.assert_close(before[width:], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["opt", "bloom", "mamba"])
def test_a_model_whose_packed_chunks_see_each_other_is_refused(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "opt":
        shape |= {"word_embed_proj_dim": 16, "ffn_dim": 32, "init_std": 0.2}
    config = AutoConfig.for_model(kind, vocab_size=HEAD_ROWS, initializer_range=0.2, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = disable_dropout(AutoModelForCausalLM.from_config(config))
    before = flat(model)

    def run(packed: bool) -> None:
        optimise(
            model,
            [Part("all", chunks_of("forget"), Descent())],
            Training(updates=1, batch_size=4, rate=lambda _: 1e-3),
            execution=Execution(progress=False, packed=packed),
        )

    with pytest.raises(UnlearnError, match="see each other: leave out --packed"):
        run(packed=True)
    assert torch.equal(flat(model), before)
    run(packed=False)
    assert not torch.equal(flat(model), before)


def test_a_model_of_a_fixed_width_is_refused_where_rows_are_wider() -> None:
    """GPT-Neo keeps a mask of as many positions as it has: no row of documents is longer."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    chunks = chunks_of("forget")
    longest = max(len(chunk.tokens) for chunk in chunks)
    config = GPTNeoConfig(
        vocab_size=HEAD_ROWS, hidden_size=16, num_layers=2, num_heads=2,
        attention_types=[[["global"], 2]], max_position_embeddings=longest,
    )  # fmt: skip
    model = disable_dropout(GPTNeoForCausalLM(config))
    before = flat(model)

    def run(packed: bool, micro_tokens: int = 4096) -> None:
        optimise(
            model,
            [Part("all", chunks, Descent())],
            Training(updates=1, batch_size=4, rate=lambda _: 1e-3),
            execution=Execution(progress=False, packed=packed, micro_tokens=micro_tokens),
        )

    with pytest.raises(UnlearnError, match=f"reads at most {longest} tokens in a row"):
        run(packed=True)
    assert torch.equal(flat(model), before)
    run(packed=True, micro_tokens=longest)
    run(packed=False)


def test_a_model_with_dropout_left_on_is_refused() -> None:
    model = tiny_llama()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    before = flat(model)
    with pytest.raises(UnlearnError, match="computes otherwise in training than in use"):
        execute(tiny_bench(model=model), RunSpec(method="ga", precision="float64"), in_place=True)
    assert torch.equal(flat(model), before)


def test_a_model_whose_parameters_are_all_frozen_is_refused() -> None:
    model = tiny_llama().requires_grad_(False)
    with pytest.raises(UnlearnError, match="is frozen, and none can be trained"):
        execute(tiny_bench(model=model), RunSpec(method="ga", precision="float64"))


def test_a_packed_batch_has_the_targets_of_a_padded_one() -> None:
    chunks = chunks_of("forget", 4)
    packed, padded = collate_packed(chunks), collate(chunks)
    assert packed.targets.tolist() == padded.targets.tolist()
    assert packed.input_ids.numel() == sum(len(c.tokens) for c in chunks)
    assert int(packed.target_mask.sum()) == sum(c.targets for c in chunks)


# ---- interrupted and resumed ---------------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of a process in the middle of a run."""


def resumed(
    path: Path, method: str = "ga_kl_in_dist", *, killed_at: int | None = None, key: str = "a run"
) -> tuple[torch.Tensor, Any]:
    """Seven updates with a checkpoint after every second; killed after `killed_at` of them."""
    model, row = tiny_llama(), METHODS[method]
    parts = [part_of(model, "forget", row.forget, chunks_of("forget", 6))]
    if row.retain is not None:
        parts.append(part_of(model, "retain", row.retain, chunks_of("retain", 6)))

    def on_update(update: int) -> dict[str, float]:
        if update == killed_at:
            raise Killed
        return {"seen": float(update)}

    training = Training(
        updates=7, batch_size=4, rate=lambda update: 1e-3 / (1 + update), weight_decay=0.01
    )

    outcome = optimise(
        model,
        parts,
        training,
        execution=Execution(progress=False, save_every=2),
        checkpoint=Checkpoint(path, key),
        on_update=on_update,
    )
    return flat(model), outcome


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 7])
def test_a_run_that_was_killed_goes_on_to_the_same_model(killed_at: int, tmp_path: Path) -> None:
    whole, expected = resumed(tmp_path / "whole.safetensors")
    path = tmp_path / "killed.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=killed_at)
    assert path.exists() == (killed_at > 2)
    again, outcome = resumed(path)
    assert torch.equal(again, whole)
    assert outcome == expected
    assert not list(tmp_path.iterdir())  # a run that has ended needs no checkpoint


def test_a_resumed_run_makes_only_the_updates_that_were_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    made: list[int] = []
    model = tiny_llama()
    optimise(
        model,
        [part_of(model, "forget", METHODS["ga"].forget, chunks_of("forget", 6))],
        Training(updates=7, batch_size=4, rate=lambda _: 1e-3),
        execution=Execution(progress=False, save_every=2),
        checkpoint=Checkpoint(path, "a run"),
        on_update=made.append,  # type: ignore[arg-type]
    )
    assert made == [5, 6, 7]


class Counting(torch.optim.Optimizer):
    """Plain steps that get smaller with their number, which is kept as bitsandbytes does."""

    def __init__(self, parameters: Any, **_: Any) -> None:
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros_like(p)}
                state["step"] += 1
                state["state1"] += p.grad
                p.sub_(state["state1"] * group["lr"] / state["step"])


def test_an_optimizer_that_counts_in_a_plain_number_is_resumed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "make_optimizer", lambda _, parameters, **__: Counting(parameters))
    whole, expected = resumed(tmp_path / "whole.safetensors")
    path = tmp_path / "killed.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    again, outcome = resumed(path)
    assert torch.equal(again, whole) and outcome == expected


def test_all_of_the_optimizers_state_is_restored_on_the_parameters_device(tmp_path: Path) -> None:
    # Fused AdamW on a GPU reads the count of steps there, and "meta" is a device that all have.
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    model = tiny_llama().to("meta")
    masters = dict(model.named_parameters())
    optimizer = make_optimizer("adamw", list(masters.values()))
    outcome = engine.Outcome()
    checkpoint = Checkpoint(path, "a run")
    assert engine._load_checkpoint(checkpoint, model, masters, optimizer, outcome) == 4
    for parameter in masters.values():
        state = optimizer.state[parameter]
        assert {"step", "exp_avg", "exp_avg_sq"} == set(state)
        assert {value.device.type for value in state.values()} == {"meta"}


def test_the_names_in_a_checkpoint_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """A run that an earlier version began can be finished by this one."""
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert set(metadata) == {"key", "update", "numbers", "outcome", "digest"}
    assert set(json.loads(metadata["outcome"])) == {"trajectory", "tokens", "recalled"}
    assert {name.partition("/")[0] for name in names} == {
        "parameter",
        "step",
        "exp_avg",
        "exp_avg_sq",
    }


@pytest.mark.parametrize("harm", ["truncated", "another run", "empty", "no model"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = resumed(tmp_path / "whole.safetensors")
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "no model":
        save_file({"x": torch.zeros(1)}, path, {"key": "a run", "outcome": "{}", "update": "4"})
    again, _ = resumed(path, key="other" if harm == "another run" else "a run")
    assert torch.equal(again, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors.damaged"]
    assert "cannot be used" in caplog.text and "run.safetensors" in caplog.text


def test_a_checkpoint_with_one_bit_flipped_is_set_aside_and_the_run_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = resumed(tmp_path / "whole.safetensors")
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    raw = path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    draw = random.Random(5)
    places = [raw.index(b"grad_norm") + 14, header + 9, len(raw) - 1]
    places += [draw.randrange(len(raw)) for _ in range(12)]
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << draw.randrange(7)
        path.write_bytes(changed)
        caplog.clear()
        again, outcome = resumed(path)
        assert torch.equal(again, whole) and outcome == expected
        assert not path.exists()
        if place >= header + 8:  # a letter of the header may mean nothing, as in a space
            assert "cannot be used" in caplog.text


@pytest.mark.parametrize("digest", [False, True])
def test_a_checkpoint_of_another_shape_is_set_aside(
    digest: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = resumed(tmp_path / "whole.safetensors")
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumed(path, killed_at=5)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    name = next(name for name in sorted(tensors) if name.startswith("parameter/"))
    tensors[name] = tensors[name][:1].clone()
    metadata.pop("digest")
    if digest:
        metadata["digest"] = engine._checkpoint_digest(tensors, metadata)
    save_file(tensors, path, metadata)
    again, _ = resumed(path)
    assert torch.equal(again, whole)
    assert "has the shape" in caplog.text and (tmp_path / "run.safetensors.damaged").exists()


def test_a_damaged_checkpoint_is_set_aside_by_whichever_process_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"")
    replaced = Path.replace

    def too_late(self: Path, target: Path) -> Path:
        if self == path:
            replaced(self, target)  # the other process's
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", too_late)
    _, outcome = resumed(path)
    assert len(outcome.trajectory) == 7


@pytest.mark.parametrize("method", ["ga", "adversarial", "ga_gd_in_dist", "ga_kl_general"])
def test_in_float32_the_micro_batch_changes_rounding_only(method: str) -> None:
    whole = trained(method, torch.float32)
    for micro in (1, 3):
        split = trained(method, torch.float32, micro_chunks=micro)
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "which", ["the paper's", pytest.param("all later ones", marks=pytest.mark.slow)]
)
def test_two_processes_give_the_same_model_as_one(which: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(two_processes.__file__)
    out = tmp_path / "parameters"
    workers = []
    for rank in range(2):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, str(script), str(out), which],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    # Meanwhile the same in one process.
    runs = two_processes.RUNS[which]
    alone = {name: two_processes.run(*setting) for name, setting in runs.items()}
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    for rank in range(2):
        with np.load(f"{out}-{rank}.npz") as together:
            assert together["processes"] == 2
            for name, (expected, _) in alone.items():
                np.testing.assert_allclose(
                    together[name], expected, rtol=1e-9, atol=1e-12, err_msg=name
                )
        metrics = json.loads(Path(f"{out}-{rank}.json").read_text())
        for name, (_, record) in alone.items():
            assert metrics[name] == pytest.approx(record["metrics"], rel=1e-4, abs=1e-4), name


# ---- order ----------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4))
def test_every_epoch_is_a_permutation(seed: int, count: int, epochs: int) -> None:
    stream = order(seed, "forget", count)
    for _ in range(epochs):
        assert sorted(islice(stream, count)) == list(range(count))


def test_the_order_is_a_function_of_seed_stream_and_position_alone() -> None:
    def first(seed: int, stream: str) -> list[int]:
        return list(islice(order(seed, stream, 50), 150))

    reference = first(3, "forget")
    torch.rand(5)
    assert first(3, "forget") == reference
    assert first(4, "forget") != reference
    assert first(3, "retain") != reference
    assert reference[:50] != reference[50:100] != reference[100:]


def test_the_order_is_the_same_on_every_machine() -> None:
    two_epochs = [7, 4, 0, 1, 2, 3, 6, 5, 1, 0, 3, 2, 7, 6, 4, 5]
    assert list(islice(order(0, "forget", 8), 16)) == two_epochs


def test_an_update_is_drawn_from_every_part_in_the_order_of_its_own_stream() -> None:
    parts = [Part(name, chunks_of(name), Descent()) for name in ("forget", "retain")]
    streams = [order(3, part.name, len(part.chunks)) for part in parts]
    drawn = [draw_update(parts, streams, 2) for _ in range(4)]
    assert [[p for p, _ in picks] for picks in drawn] == [[0, 0, 1, 1]] * 4
    for number, part in enumerate(parts):
        indices = [i for picks in drawn for p, i in picks if p == number]
        assert indices == list(islice(order(3, part.name, len(part.chunks)), 8))


def test_a_batch_larger_than_the_part_takes_each_chunk_once() -> None:
    chunks = chunks_of("forget", 3)
    outcome = optimise(
        tiny_llama(),
        [Part("loss", chunks, Descent())],
        Training(updates=2, batch_size=1000, rate=lambda _: 0.0),
        execution=QUIET,
    )
    assert outcome.tokens == 2 * sum(len(chunk.tokens) for chunk in chunks)
    first, second = (row["loss"] for row in outcome.trajectory)
    assert first == pytest.approx(second, rel=1e-12)


# ---- the loop's other promises ----------------------------------------------------------------


def test_clipping_bounds_the_gradient_and_reports_its_norm_before() -> None:
    chunks = chunks_of("forget")
    free, clipped = tiny_llama(), tiny_llama()
    one_update(free, [Part("loss", chunks, Descent())])
    norm = flat_gradient(free).norm().item()
    outcome = one_update(clipped, [Part("loss", chunks, Descent())], max_grad_norm=norm / 4)
    assert outcome.trajectory[0]["grad_norm"] == pytest.approx(norm, rel=1e-12)
    torch.testing.assert_close(flat_gradient(clipped), flat_gradient(free) / 4)
    loose = tiny_llama()
    one_update(loose, [Part("loss", chunks, Descent())], max_grad_norm=2 * norm)
    assert torch.equal(flat_gradient(loose), flat_gradient(free))


def test_on_update_is_called_after_every_update_and_adds_to_the_trajectory() -> None:
    seen: list[int] = []

    def on_update(update: int) -> dict[str, float]:
        seen.append(update)
        return {"twice": 2.0 * update}

    outcome = optimise(
        tiny_llama(),
        [Part("loss", chunks_of("forget"), Descent())],
        Training(updates=3, batch_size=2, rate=lambda update: 1e-4 * update),
        execution=QUIET,
        on_update=on_update,
    )
    assert seen == [1, 2, 3]
    assert [row["twice"] for row in outcome.trajectory] == [2.0, 4.0, 6.0]
    assert [row["rate"] for row in outcome.trajectory] == [0.0, 1e-4, 2e-4]


@pytest.mark.parametrize("injected", [math.inf, math.nan])
def test_a_non_finite_loss_stops_before_it_reaches_the_parameters(injected: float) -> None:
    class Breaks:
        """Descent whose third update is not finite."""

        needs_original = False
        calls = 0

        def prepare(self, original: object) -> None:
            return None

        def loss(self, *arguments: Any) -> torch.Tensor:
            self.calls += 1
            return Descent().loss(*arguments) * (injected if self.calls == 3 else 1.0)

    model = tiny_llama()
    states: list[torch.Tensor] = []
    outcome = optimise(
        model,
        [Part("loss", chunks_of("forget"), Breaks())],
        Training(updates=6, batch_size=2, rate=lambda _: 1e-3),
        execution=QUIET,
        on_update=lambda _: states.append(flat(model)),
    )
    assert outcome.diverged_at == 3
    assert [row["update"] for row in outcome.trajectory] == [1.0, 2.0, 3.0]
    assert not math.isfinite(outcome.trajectory[-1]["loss"])
    assert len(states) == 2
    assert torch.equal(flat(model), states[-1])
    assert torch.isfinite(flat(model)).all()


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(UnlearnError, match="no documents to train on"):
        one_update(tiny_llama(), [Part("loss", [], Descent())])


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory_bytes("cpu")
    block = torch.ones(64 << 20, dtype=torch.uint8)
    after = peak_memory_bytes("cpu")
    assert block.sum().item() == 64 << 20
    assert after >= before > 1 << 20


# ---- optimizers ----------------------------------------------------------------------------------


def test_an_unknown_optimizer_lists_the_known_ones() -> None:
    with pytest.raises(UnlearnError, match="unknown optimizer 'adam': choose one of adamw"):
        make_optimizer("adam", [torch.zeros(1, requires_grad=True)])


def test_an_optimizer_without_its_package_names_it() -> None:
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(UnlearnError, match="'adamw_8bit' needs the package bitsandbytes"):
        make_optimizer("adamw_8bit", [torch.zeros(1, requires_grad=True)])


def test_steps_too_small_for_bfloat16_add_up() -> None:
    """A step of 1e-5 is below the gap between neighbouring bfloat16 numbers near 0.02."""
    model = tiny_llama().to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.02) if parameter.ndim == 1 else parameter.clamp_(-0.05, 0.05)
    before = flat(model)
    data = chunks_of("forget")
    optimise(
        model, [Part("forget", data, Descent())],
        Training(updates=60, batch_size=len(data), rate=lambda u: 1e-5), execution=QUIET,
    )  # fmt: skip
    norms = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 1])
    assert bool((norms != torch.tensor(0.02, dtype=torch.bfloat16)).any())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not np.array_equal(np.asarray(before), np.asarray(flat(model)))
