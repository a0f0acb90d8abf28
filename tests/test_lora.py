"""LoRA: what is trained, what it is measured against, and what is left of it afterwards."""

from __future__ import annotations

import copy
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    HEAD_ROWS,
    LENGTH,
    QUIET,
    documents,
    flat,
    logits_of,
    naive_term,
    tiny_bench,
    tiny_llama,
    tiny_tokenizer,
)
from safetensors.torch import load_file
from test_models import of_type
from torch.utils.flop_counter import FlopCounterMode

from unlearnlib import lora, unlearn
from unlearnlib.bench import key_of
from unlearnlib.cli.main import main
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.cost import run_flops, training_flops
from unlearnlib.decoder import disable_dropout
from unlearnlib.engine import (
    Checkpoint,
    Execution,
    Labelling,
    Part,
    Training,
    keep_original,
    optimise,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS, Descent, KLToOriginal
from unlearnlib.models import load_model, save_model
from unlearnlib.planning import Machine, plan_run
from unlearnlib.run import _recompute_reference, command_of, execute
from unlearnlib.spec import RunSpec
from unlearnlib.tuning import search

pytest.importorskip("peft")

RANK, ALPHA = 3, 5.0
SPEC = RunSpec(
    updates=3, batch_size=3, learning_rate=1e-2, precision="float64", lora_rank=RANK, seed=4
)
LABELLING = Labelling(frozenset({0, 1, 2}), vocabulary=280)


def chunks_of(name: str, count: int = 5) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


def tiny_gpt2() -> Any:
    """GPT-2 lays the weights of its linear layers out the other way round, and has biases."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=288, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).double().eval()


def moved(model: Any, seed: int = 0) -> lora.Attached:
    """Adapters on `model`, away from where they begin."""
    attached = lora.attach(model, RANK, ALPHA, seed)
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return attached


MODELS = {"llama": tiny_llama, "tied": lambda: tiny_llama(tied=True), "gpt2": tiny_gpt2}


# ---- the adapter ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_the_adapter_off_is_the_original_model(kind: str) -> None:
    model, original = MODELS[kind](), MODELS[kind]()
    chunk = chunks_of("forget")[0]
    moved(model)
    assert not torch.allclose(logits_of(model, chunk), logits_of(original, chunk), atol=1e-2)
    with lora.adapter_off(model):
        assert torch.equal(logits_of(model, chunk), logits_of(original, chunk))
    assert not torch.allclose(logits_of(model, chunk), logits_of(original, chunk), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_new_adapter_changes_nothing(dtype: torch.dtype) -> None:
    model, original = tiny_llama(dtype=dtype), tiny_llama(dtype=dtype)
    chunk = chunks_of("forget")[0]
    lora.attach(model, RANK, ALPHA, 0)
    assert torch.equal(logits_of(model, chunk), logits_of(original, chunk))


@pytest.mark.parametrize("kind", MODELS)
def test_merged_equals_the_adapter_on(kind: str) -> None:
    model = MODELS[kind]()
    names, chunk = [n for n, _ in model.named_parameters()], chunks_of("forget")[0]
    attached = moved(model)
    on = logits_of(model, chunk)
    lora.take_off(model, attached)
    torch.testing.assert_close(logits_of(model, chunk), on, rtol=1e-9, atol=1e-9)
    assert [n for n, _ in model.named_parameters()] == names  # a plain model again
    assert not hasattr(model, "peft_config")
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_in_bfloat16_takes_the_sum_rounded_once() -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    attached = moved(model)
    layer = model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A[lora.NAME].weight, layer.lora_B[lora.NAME].weight
    assert a.dtype == b.dtype == torch.float32 and layer.base_layer.weight.dtype == torch.bfloat16
    exact = before.double() + ALPHA / RANK * b.detach().double() @ a.detach().double()
    lora.take_off(model, attached)
    after = model.model.layers[0].mlp.up_proj.weight.detach()
    # Half the gap between neighbours: 2^-8 of the number.
    torch.testing.assert_close(after.double(), exact, rtol=2**-8, atol=1e-6)
    assert after.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", MODELS)
def test_only_adapter_parameters_change(kind: str) -> None:
    model = MODELS[kind]()
    lora.attach(model, RANK, ALPHA, 0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimise(
        model,
        [Part("forget", chunks_of("forget"), Descent())],
        Training(updates=2, batch_size=3, rate=lambda _: 1e-2, weight_decay=0.1),
        execution=QUIET,
    )
    after = dict(model.named_parameters())
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if ".lora_" in n} == {
        n for n, p in after.items() if p.requires_grad
    }  # fmt: skip
    assert all(after[n].grad is None for n in before if n not in changed)
    head = model.get_output_embeddings()
    assert type(head) is torch.nn.Linear  # has no adapter: every term wants a plain head


def test_every_linear_layer_of_the_decoder_has_an_adapter_and_nothing_else() -> None:
    model = tiny_llama()
    linear = {
        name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    moved(model)
    adapted = {n.split(".lora_")[0].removeprefix("model.") for n, p in model.named_parameters()
               if p.requires_grad}  # fmt: skip
    assert adapted == linear and len(linear) == 14


def test_the_beginning_depends_on_the_seed_and_on_nothing_else() -> None:
    def start(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        torch.rand(3)
        model = tiny_llama(dtype=dtype)
        lora.attach(model, RANK, ALPHA, seed)
        return torch.cat([p.detach().double().flatten() for p in model.parameters()
                          if p.requires_grad])  # fmt: skip

    assert torch.equal(start(1), start(1))
    assert torch.equal(start(1), start(1, torch.float32))  # another precision begins there too
    assert not torch.equal(start(1), start(2))
    assert 0 < start(1).abs().max() <= 1 / math.sqrt(16)


# ---- the reference --------------------------------------------------------------------------


def test_a_recomputed_reference_is_what_would_have_been_stored() -> None:
    model, data = tiny_llama(), chunks_of("retain")
    stored = keep_original(tiny_llama(), data, KLToOriginal(), LABELLING, execution=QUIET)
    moved(model)
    for some in (data, data[2:4]):
        again = _recompute_reference(model, KLToOriginal(), LABELLING, QUIET, some)
        for one, other in zip(again, [stored[data.index(c)] for c in some], strict=True):
            assert one is not None and other is not None
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_kl_with_lora_equals_kl_against_a_full_copy() -> None:
    """Value and gradient, with the slow, obvious reference: two models and full logits."""
    model, original, data = tiny_llama(), tiny_llama(), chunks_of("retain")
    moved(model)
    naive = copy.deepcopy(model)
    targets = sum(chunk.targets for chunk in data)
    total = sum(naive_term("kl", naive, chunk, original) for chunk in data) / targets
    total.backward()
    total = total.detach()

    def again(chunks: Any) -> Any:
        return _recompute_reference(model, KLToOriginal(), LABELLING, QUIET, chunks)

    outcome = optimise(
        model,
        [Part("retain", data, KLToOriginal(), recompute_reference=again)],
        Training(updates=1, batch_size=100, rate=lambda _: 0.0),
        execution=Execution(progress=False, micro_chunks=2),
    )
    assert outcome.trajectory[0]["retain"] == pytest.approx(float(total), rel=1e-9)
    assert float(total) > 1e-2
    assert outcome.reference_tokens == outcome.tokens
    for (name, one), (_, other) in zip(
        model.named_parameters(), naive.named_parameters(), strict=True
    ):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("method", ["ga_kl_in_dist", "adversarial"])
def test_a_run_is_the_same_with_the_reference_stored_or_recomputed(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unlearnlib.run as run

    spec = SPEC.replace(method=method, updates=5)
    recomputed, _ = execute(tiny_bench(), spec)
    usual = run._with_reference
    monkeypatch.setattr(run, "_with_reference", lambda *given: usual(*given[:-1], False))
    stored, _ = execute(tiny_bench(), spec)
    torch.testing.assert_close(flat(recomputed), flat(stored), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(flat(recomputed), flat(tiny_llama()), atol=1e-3)


def test_a_later_request_is_compared_with_the_model_as_it_found_it() -> None:
    """KL of the second request's first update is 0: the adapter on is its original."""
    spec = SPEC.replace(method="ga_kl_in_dist", requests=2, updates=2)
    _, record = execute(tiny_bench(), spec)
    first, moved_away, second, _ = (row["retain"] for row in record.trajectory)
    assert abs(first) < 1e-12 and abs(second) < 1e-12 < moved_away


# ---- a run ----------------------------------------------------------------------------------


def test_the_same_spec_twice_is_the_same_run_bit_for_bit() -> None:
    bench = tiny_bench()
    before = flat(bench.model)
    one, first = execute(bench, SPEC)
    torch.rand(7)
    two, second = execute(bench, SPEC)
    assert torch.equal(flat(one), flat(two)) and not torch.equal(flat(one), before)
    assert first.comparable() == second.comparable()
    assert torch.equal(flat(bench.model), before)  # and works on a copy
    assert type(one) is type(bench.model)
    other, _ = execute(bench, SPEC.replace(seed=5))
    assert not torch.equal(flat(one), flat(other))


@pytest.mark.parametrize("how", [{"micro_chunks": 1}, {"packed": True}, {"recompute": True},
                                 {"recompute": True, "micro_chunks": 2}])  # fmt: skip
@pytest.mark.parametrize("method", ["ga_kl_in_dist", "adversarial", "ga_gd_general"])
def test_how_it_is_computed_does_not_change_the_model(method: str, how: dict[str, Any]) -> None:
    spec = SPEC.replace(method=method)
    whole, _ = execute(tiny_bench(), spec)
    other, _ = execute(tiny_bench(execution=Execution(progress=False, **how)), spec)
    torch.testing.assert_close(flat(other), flat(whole), rtol=1e-9, atol=1e-9)


def test_a_run_that_was_killed_goes_on_to_the_same_model(tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for the end of a process."""

    def train(path: Path, killed_at: int | None = None) -> tuple[torch.Tensor, Any]:
        model, row = tiny_llama(), METHODS["ga_kl_in_dist"]
        lora.attach(model, RANK, ALPHA, 0)
        assert row.retain is not None
        term = row.retain
        parts = [
            Part("forget", chunks_of("forget"), row.forget),
            Part("retain", chunks_of("retain"), term,
                 recompute_reference=partial(
                     _recompute_reference, model, term, LABELLING, QUIET)),
        ]  # fmt: skip

        def on_update(update: int) -> None:
            if update == killed_at:
                raise Killed

        outcome = optimise(
            model, parts, Training(updates=5, batch_size=2, rate=lambda _: 1e-2),
            execution=Execution(progress=False, save_every=2), checkpoint=Checkpoint(path, "run"),
            on_update=on_update,
        )  # fmt: skip
        return flat(model), outcome

    whole, expected = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=3)
    saved = load_file(tmp_path / "killed")
    assert all(".lora_" in name for name in saved)  # what is frozen needs no checkpoint
    again, outcome = train(tmp_path / "killed")
    assert torch.equal(again, whole) and outcome == expected


def test_an_interrupted_run_in_place_leaves_the_model_as_it_was() -> None:
    model = tiny_llama()
    bench, before = tiny_bench(model=model), flat(model)

    def stop(model: Any, update: int) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(bench, SPEC, in_place=True, stop_after=stop)
    assert torch.equal(flat(model), before)
    assert [n for n, _ in model.named_parameters() if "lora" in n] == []


def test_probes_see_the_adapter_and_the_end_is_the_last_probe() -> None:
    _, record = execute(tiny_bench(), SPEC.replace(probe_every=1))
    seen = [row["forget/perplexity"] for row in record.trajectory]
    vanilla = execute(tiny_bench(), SPEC.replace(updates=0))[1].metrics["forget/perplexity"]
    assert seen[0] == pytest.approx(vanilla, rel=1e-6)
    assert len(set(seen)) == len(seen) == SPEC.updates + 1
    assert seen[-1] == pytest.approx(record.metrics["forget/perplexity"], rel=1e-6)


def test_unlearn_and_tune_take_a_rank() -> None:
    texts = [d.text for d in documents("forget", 4)]
    model, record = unlearn(
        tiny_llama(dtype=torch.float32), tiny_tokenizer(), method="ga", forget=texts,
        approximate=[d.text for d in documents("approximate", 4)], lora_rank=2, lora_alpha=3,
        learning_rate=1e-2, updates=2, length=LENGTH, execution=QUIET,
    )  # fmt: skip
    assert record.spec["lora_rank"] == 2 and record.spec["lora_alpha"] == 3.0
    assert record.extra["trained_parameters"] == sum(
        t.numel() for t in model.lora_adapter.tensors.values()
    )
    assert "peft" in record.provenance["versions"]
    found = search(tiny_bench(dtype=torch.float32), RunSpec(updates=2, batch_size=3, lora_rank=2),
                 start=1e-2, runs=1)  # fmt: skip
    assert found.record is not None and found.record.spec["lora_rank"] == 2
    assert found.model.lora_adapter.tensors


# ---- settings and keys ----------------------------------------------------------------------


def test_the_key_differs_from_the_full_runs_and_old_keys_are_unchanged() -> None:
    bench, full = tiny_bench(), RunSpec(method="ga")
    assert not any(name.startswith("lora") for name in full.as_dict())
    assert key_of(bench, full.replace(lora_rank=0, lora_alpha=None)) == key_of(bench, full)
    keys = {
        key_of(bench, full.replace(lora_rank=rank, lora_alpha=alpha))
        for rank, alpha in ((0, None), (4, None), (8, None), (4, 4))
    }
    assert len(keys) == 4
    same = full.replace(lora_rank=4, lora_alpha=8)  # which is what none means
    assert key_of(bench, same) == key_of(bench, full.replace(lora_rank=4))
    assert same.alpha == 8.0 and full.replace(lora_rank=4, lora_alpha=1).alpha == 1.0
    assert RunSpec.from_dict(same.as_dict()) == same
    assert command_of(full.replace(lora_rank=4, lora_alpha=2)).endswith(
        "--set lora_rank=4 --set lora_alpha=2.0"
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora_rank": -1}, "lora_rank is -1: give a number that is not negative"),
        ({"lora_rank": 1.5}, "lora_rank is 1.5: give a whole number"),
        ({"lora_rank": "many"}, "lora_rank is 'many'"),
        ({"lora_alpha": 8}, "lora_alpha is 8.0 and lora_rank is 0: give a rank"),
        ({"lora_rank": 4, "lora_alpha": 0}, "lora_alpha is 0, which keeps adapters off"),
        ({"lora_rank": 4, "lora_alpha": math.inf}, "lora_alpha is inf: give a finite number"),
    ],
)
def test_a_bad_setting_is_one_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UnlearnError, match=says):
        RunSpec(**settings)


def test_without_peft_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    bench = tiny_bench()
    before = flat(bench.model)
    with pytest.raises(UnlearnError, match="lora_rank needs the package peft: install it"):
        execute(bench, SPEC, in_place=True)
    assert torch.equal(flat(bench.model), before)
    execute(bench, SPEC.replace(lora_rank=0, updates=1))  # which needs no peft


EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mixtral", {"num_local_experts": 4}),
        ("qwen2_moe", {"num_experts": 4, "shared_expert_intermediate_size": 16}),
        ("phimoe", {"num_local_experts": 4}),  # its router is a linear layer that does more
    ],
)
def test_experts_in_one_tensor_get_no_adapter_and_the_linear_layers_do(
    kind: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"vocab_size": HEAD_ROWS, "bos_token_id": 1, "eos_token_id": 2} | settings
    model = of_type(kind, **EXPERTS, **settings)
    bench = tiny_bench(model=disable_dropout(model))
    with caplog.at_level("INFO"):
        made, record = execute(bench, RunSpec(method="ga", updates=1, batch_size=2, lora_rank=2))
    assert "is no linear layer and gets no adapter" in caplog.text
    names = {name.split(".")[-3] for name in made.lora_adapter.tensors}  # type: ignore[union-attr]
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= names and "router" not in names
    experts = [n for n, p in model.named_parameters() if p.dim() > 2]
    after = dict(made.named_parameters())
    assert experts and all(torch.equal(after[n], model.get_parameter(n)) for n in experts)
    assert record.status == "done"


def test_an_adapter_that_peft_would_put_on_experts_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As peft does with DeepSeek's experts, whose names are those of linear layers elsewhere.
    monkeypatch.setattr(lora, "_is_linear", lambda layer: layer.in_features != 32)
    model = tiny_llama()
    before = {name: (p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()}
    for action in (lora.check_layers, lambda m: lora.attach(m, 2, 4.0, 0)):
        with pytest.raises(UnlearnError, match=r"down_proj', which is no linear layer\): set lora"):
            action(model)
        found = {name: (p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()}
        assert found == before


def test_trying_whether_a_model_takes_adapters_leaves_it_as_it_was() -> None:
    model = tiny_llama()
    model.lm_head.requires_grad_(False)
    before, state = flat(model), torch.random.get_rng_state()
    lora.check_layers(model)
    assert torch.equal(flat(model), before) and torch.equal(torch.random.get_rng_state(), state)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert not hasattr(model, "peft_config")


def test_a_model_without_linear_layers_is_refused() -> None:
    model = tiny_llama()
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UnlearnError, match="lora_rank=0"):
        lora.attach(model, RANK, ALPHA, 0)


# ---- what it costs --------------------------------------------------------------------------


def test_a_frozen_weight_costs_four_operations_and_a_trained_one_six() -> None:
    """Counted by torch on the layers of a model, without the head's and attention's."""
    model, tokens = tiny_llama(dtype=torch.float32, hidden=64), 5
    weights = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    lora.attach(model, 2, 4.0, 0)
    adapter = lora.trained_parameters(model)
    hidden = torch.randn(1, tokens, 64, requires_grad=True)  # as after layers below
    positions = torch.arange(tokens)[None]
    rotary = model.model.rotary_emb(hidden, positions)
    with FlopCounterMode(display=False, depth=None) as counter:
        out = hidden
        for layer in model.model.layers:
            out = layer(out, position_embeddings=rotary, position_ids=positions)
        out.sum().backward()
    expected = training_flops(weights, tokens, adapter=adapter)
    assert expected == (4 * weights + 6 * adapter) * tokens
    attention = sum(
        count
        for name, count in counter.get_flop_counts()["Global"].items()
        if "attention" in str(name)
    )
    assert counter.get_total_flops() - attention == pytest.approx(expected, rel=1e-6)


def test_the_account_of_a_run_is_that_of_frozen_weights() -> None:
    model = tiny_llama()
    full, thin = run_flops(model, 10), run_flops(model, 10, adapter=1)
    assert thin - 60 == pytest.approx(2 / 3 * full)
    # A term that looks at the original adds a forward pass over its own tokens.
    assert run_flops(model, 10, 1, reference_tokens=6) - thin == pytest.approx(full / 10 * 6 / 3)
    record = execute(tiny_bench(), SPEC)[1]
    adapter, tokens = record.extra["trained_parameters"], record.extra["tokens"]
    assert record.extra["flops"] == run_flops(model, tokens, adapter)


def test_the_plan_counts_what_is_trained_alone() -> None:
    data, config = chunks_of("forget"), tiny_llama().config
    full = RunSpec(method="ga_kl_in_dist", updates=2, batch_size=3, precision="bfloat16")
    thin = full.replace(lora_rank=RANK)

    def planned(spec: RunSpec) -> Any:
        return plan_run(config, spec, data, chunks_of("retain"), machine=Machine(rate=1e9))

    model = tiny_llama()
    lora.attach(model, RANK, ALPHA, 0)
    adapter = lora.trained_parameters(model)
    one, other = planned(thin), planned(full)
    assert one.trained == adapter and one.parameters == other.parameters + adapter
    assert other.trained == other.parameters
    assert one.always["parameters"] == other.always["parameters"]
    assert one.always["adapters"] == 4 * adapter and one.always["optimizer"] == 8 * adapter
    assert one.step["gradients"] == 4 * adapter
    for name in ("master weights", "original head", "original hidden states"):
        assert name in other.always and name not in one.always
    assert "gradients of the head" in other.backward and "gradients of the head" not in one.backward
    assert one.flops < other.flops


# ---- the command line -----------------------------------------------------------------------


def test_the_command_line_saves_the_model_the_adapter_and_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "base")
    for name in ("forget", "retain", "approximate", "general"):
        rows = [json.dumps({"text": d.text}) for d in documents(name, 4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    files = [w for n in ("forget", "retain", "approximate", "general")
             for w in (f"--{n}", str(tmp_path / f"{n}.jsonl"))]  # fmt: skip
    out = tmp_path / "out"
    command = ["run", "--model", str(tmp_path / "base"), *files, "--updates", "3", "--length",
               str(LENGTH), "--learning-rate", "1e-2", "--device", "cpu", "--quiet", "--json",
               "--out", str(out)]  # fmt: skip
    assert main([*command, "--set", "lora_rank=4", "--adapter"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["spec"]["lora_rank"] == 4 and "lora_rank=4" in values["repeat"]
    assert "--adapter" in values["repeat"].split()
    assert sorted(p.name for p in (out / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    assert str(tmp_path) not in (out / "adapter" / "adapter_config.json").read_text()
    card = (out / "README.md").read_text()
    assert "LoRA adapters of rank 4 and alpha 8" in card and "Do not publish `adapter/`" in card

    chunk, base = chunks_of("forget")[0], load_model(tmp_path / "base")
    merged = logits_of(load_model(out), chunk)
    vanilla = logits_of(base, chunk)
    beside: Any = PeftModel.from_pretrained(base, str(out / "adapter"))
    torch.testing.assert_close(logits_of(beside, chunk), merged, rtol=1e-4, atol=1e-4)
    with beside.disable_adapter():  # and removed again
        assert torch.equal(logits_of(beside, chunk), vanilla)
    assert not torch.allclose(merged, vanilla, atol=1e-2)

    # Another model in the same folder does not keep this one's adapter, nor touch other files.
    # Without --adapter the model alone is written: with both, the unlearning can be undone.
    (out / "adapter" / "notes.txt").write_text("mine")
    assert main([*command, "--set", "lora_rank=4", "--force"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["key"] == values["key"] and "--adapter" not in again["repeat"]
    assert [p.name for p in (out / "adapter").iterdir()] == ["notes.txt"]
    card = (out / "README.md").read_text()
    assert "LoRA adapters of rank 4 and alpha 8" in card and "adapter/" not in card
    torch.testing.assert_close(logits_of(load_model(out), chunk), merged)

    (out / "adapter" / "notes.txt").unlink()
    assert main([*command, "--force"]) == 0
    assert not (out / "adapter").exists() and "LoRA" not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--adapter", "--out", "o"], "lora_rank is 0"),
        (["tune", "--adapter", "--out", "o"], "lora_rank is 0"),
        (["run", "--adapter", "--set", "lora_rank=4"], "without --out"),
    ],
)
def test_an_adapter_is_written_on_demand_where_there_is_one(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
