"""What is trained, measured, returned and saved is one model, to the bit, in every precision.

A model in bfloat16 has buffers that no file holds (the frequencies of RoPE, tables of positions).
Rounded with the parameters they would make the model that is measured another than the saved one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HEAD_ROWS, tiny_bench, tiny_tokenizer

from unlearnlib.bench import evaluate
from unlearnlib.decoder import cast, disable_dropout
from unlearnlib.models import DTYPES, load_model, save_model
from unlearnlib.run import execute
from unlearnlib.sharding import gather
from unlearnlib.spec import RunSpec

SHAPE = {
    "vocab_size": HEAD_ROWS,
    "hidden_size": 24,  # its root, by which Gemma scales embeddings, is no number of bfloat16
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Llama: RoPE. GPT-2: no such buffer. Gemma: one more, in the model's own precision. XGLM: a table
# of positions, rounded. CTRL: one that is not.
KINDS = ["llama", "gpt2", "gemma", "xglm", "ctrl"]


def of_kind(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {k: v for k, v in SHAPE.items() if kind in ("llama", "gemma") or k != "head_dim"}
    extra = {"n_positions": 128} if kind in ("gpt2", "ctrl") else {}
    extra |= {"init_std": 0.3, "dff": 32, "ffn_dim": 32} if kind in ("xglm", "ctrl") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **shape, **extra)
        model: Any = disable_dropout(AutoModelForCausalLM.from_config(config))
        return cast(model, dtype).eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(100)[None] % HEAD_ROWS
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits  # type: ignore[no-any-return]


def saved(model: Any, folder: Path, dtype: torch.dtype | str = "auto") -> Any:
    """The model as it comes back from its files."""
    from transformers import AutoModelForCausalLM

    save_model(model, tiny_tokenizer(), folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [0, 3], ids=["full", "LoRA"])
def test_the_model_returned_is_the_model_saved(
    kind: str, precision: str, rank: int, tmp_path: Path
) -> None:
    bench = tiny_bench(model=of_kind(kind))
    spec = RunSpec(
        method="ga_gd_in_dist", updates=2, batch_size=2, learning_rate=1e-2, precision=precision
    ).replace(lora_rank=rank)
    model, _ = execute(bench, spec)
    assert {p.dtype for p in model.parameters()} == {DTYPES[precision]}
    expected = logits(saved(model, tmp_path / "out"))
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(gather(model)), expected)
    assert torch.equal(logits(load_model(tmp_path / "out", precision)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_is_cast_is_the_model_loaded_in_that_precision(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = of_kind(kind)
    loaded: Any = disable_dropout(saved(whole, tmp_path / "model", dtype))
    narrow = cast(cast(whole, torch.bfloat16), dtype) if dtype == torch.bfloat16 else whole
    here, there = dict(narrow.named_buffers()), dict(loaded.named_buffers())
    assert here.keys() == there.keys()
    for name, buffer in there.items():
        assert buffer.dtype == here[name].dtype and torch.equal(buffer, here[name]), name
    assert torch.equal(logits(narrow), logits(loaded))


def test_to_another_precision_and_back_the_buffers_are_as_they_were() -> None:
    for kind in KINDS:
        model = of_kind(kind)
        unsaved = {n: b.clone() for n, b in model.named_buffers() if n not in model.state_dict()}
        cast(cast(model, torch.bfloat16), torch.float32)
        for name, buffer in model.named_buffers():
            if name in unsaved:
                assert buffer.dtype == unsaved[name].dtype and torch.equal(buffer, unsaved[name])


def test_casting_draws_no_random_number() -> None:
    model = of_kind("llama")
    before = torch.random.get_rng_state()
    cast(model, torch.bfloat16)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_a_part_that_stays_in_float32_when_loaded_stays_so_when_cast() -> None:
    model = of_kind("llama")
    model._keep_in_fp32_modules_strict = {"norm"}
    exact = model.model.norm.weight.detach().clone().normal_()
    model.model.norm.weight.data.copy_(exact)
    cast(model, torch.bfloat16)
    assert torch.equal(model.model.norm.weight, exact)
    assert model.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["llama", "gemma", "xglm"])
def test_zero_updates_in_bfloat16_leave_every_metric_as_it_was(kind: str, tmp_path: Path) -> None:
    save_model(of_kind(kind), tiny_tokenizer(), tmp_path / "model")
    bench = tiny_bench(model=load_model(tmp_path / "model", "bfloat16"))
    before, documents, _ = evaluate(bench, bench.model)
    _, record = execute(bench, RunSpec(updates=0, precision="bfloat16"))
    assert record.metrics == before and record.documents == documents
