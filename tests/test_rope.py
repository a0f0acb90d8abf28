"""Rotary positions: transformers 4 and 5 read a saved model alike; long and short stay apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HEAD_ROWS, SHAPE, documents, flat, tiny_bench, tiny_data, tiny_tokenizer

from unlearnlib.bench import evaluate
from unlearnlib.corpus.chunks import cut
from unlearnlib.engine import Execution, micro_batches
from unlearnlib.models import model_config, save_model
from unlearnlib.planning import plan_run
from unlearnlib.rope import older_names, turns
from unlearnlib.run import execute
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e5,
    "short_factor": [1.0, 1.0],
    "long_factor": [2.0, 5.0],
    "original_max_position_embeddings": 32,
}
LIMIT = 32
THETA = {"rope_type": "default", "rope_theta": 1e5}
# kind, its settings, and what transformers 4 calls them
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {"rope_parameters": THETA}, {"rope_theta": 1e5}),
    (
        "llama",
        {"rope_parameters": LLAMA3},
        {
            "rope_theta": 5e5,
            "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        },
    ),
    (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": LIMIT},
        {
            "rope_theta": 1e5,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.0],
                "long_factor": [2.0, 5.0],
            },
            "original_max_position_embeddings": LIMIT,
        },
    ),
    (
        "gemma3_text",
        {
            "head_dim": 4,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    (
        "stablelm",
        {"rope_parameters": THETA | {"partial_rotary_factor": 0.5}},
        {"rope_theta": 1e5, "partial_rotary_factor": 0.5},
    ),
    (
        "gpt_neox",
        {"rope_parameters": THETA | {"partial_rotary_factor": 0.5}},
        {"rotary_emb_base": 1e5, "rotary_pct": 0.5},
    ),
]
NAMES = [f"{kind} {i}" for i, (kind, _, _) in enumerate(KINDS)]


def of_kind(kind: str, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **SHAPE, **settings)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("kind", "settings", "older"), KINDS, ids=NAMES)
def test_a_saved_model_has_ropes_settings_under_both_names(
    kind: str, settings: dict[str, Any], older: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = of_kind(kind, **settings)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {name: saved.get(name) for name in older} == older
    assert saved["rope_parameters"] == model.config.to_dict()["rope_parameters"]
    # For transformers 5 the second names change nothing.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=False)
    read = {k: v for k, v in again.config.rope_parameters.items() if k != "type"}  # Phi's, twice
    assert read == model.config.rope_parameters
    ids = torch.arange(100)[None] % HEAD_ROWS
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    save_model(again, tiny_tokenizer(), tmp_path / "again")
    twice = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: twice.get(name) for name in older} == older


def test_a_model_without_rope_has_no_such_names(tmp_path: Path) -> None:
    assert older_names({"model_type": "gpt2"}) == {} == older_names({"rope_parameters": {}})
    save_model(of_kind("gpt2"), tiny_tokenizer(), tmp_path / "model")
    assert "rope" not in (tmp_path / "model" / "config.json").read_text()


def phi(dtype: torch.dtype = torch.float64) -> Any:
    return of_kind("phi3", **KINDS[2][1]).to(dtype)


def test_chunks_of_both_sides_of_the_turn_share_no_micro_batch() -> None:
    config = phi().config
    assert turns(config) == [LIMIT] and turns(of_kind("llama").config) == []
    chunks = cut(documents("mixed", 20), tiny_tokenizer(), 64)
    lengths = [len(c.tokens) for c in chunks]
    assert min(lengths) <= LIMIT < max(lengths)
    micros = micro_batches(config, chunks, Execution())
    assert sorted(i for rows in micros for i in rows) == list(range(len(chunks)))
    for rows in micros:
        assert len({lengths[i] > LIMIT for i in rows}) == 1
    assert lengths[micros[0][0]] == max(lengths) and lengths[micros[-1][-1]] == min(lengths)


def test_a_chunks_score_does_not_depend_on_its_micro_batch() -> None:
    model = phi()
    chunks = cut(documents("mixed", 12), tiny_tokenizer(), 64)
    made = [
        score_chunks(model, chunks, execution=Execution(progress=False, micro_chunks=count)).logprob
        for count in (1, 64)
    ]
    torch.testing.assert_close(*map(torch.from_numpy, made), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["ga_kl_in_dist", "adversarial"])
@pytest.mark.parametrize("rank", [0, 2], ids=["full", "LoRA"])
def test_a_run_does_not_depend_on_its_micro_batches(method: str, rank: int) -> None:
    spec = RunSpec(method=method, updates=2, batch_size=4, learning_rate=1e-3, precision="float64")
    spec = spec.replace(lora_rank=rank)
    made = []
    for how in ({}, {"micro_chunks": 1}, {"packed": True}):
        bench = tiny_bench(
            model=phi(), data=tiny_data(8), execution=Execution(progress=False, **how)
        )
        lengths = [len(c.tokens) for c in bench.chunks("forget")]
        assert min(lengths) <= LIMIT < max(lengths)
        model, _ = execute(bench, spec)
        made.append(flat(model))
        evaluate(bench, model)
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-7, atol=1e-7)


def test_the_plan_divides_as_the_run_does(tmp_path: Path) -> None:
    save_model(phi(torch.float32), tiny_tokenizer(), tmp_path / "model")
    chunks = cut(documents("mixed", 12), tiny_tokenizer(), 64)
    made = plan_run(tmp_path / "model", RunSpec(method="ga", batch_size=12), chunks)
    assert made.backward["gradients"]  # two micro-batches, and so gradients of the one before
    assert turns(model_config(tmp_path / "model")) == [LIMIT]
