"""The plan of a run against what the run then needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from unlearnlib.corpus.chunks import Chunk
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.planning import Machine, anatomy, plan_run
from unlearnlib.spec import RunSpec

SHAPE: dict[str, Any] = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
LENGTH, BATCH = 384, 4
SLOW = Machine(rate=1e9)  # a rate that need not be measured


def chunks(name: str, count: int = BATCH, length: int = LENGTH) -> list[Chunk]:
    return [Chunk(f"{name}#{i}", f"{name}-{i}", tuple(range(3, 3 + length))) for i in range(count)]


# A process of its own: the largest resident set is that of a whole life.
MEASURE = f"""
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.engine import Execution, Labelling, Part, Training, optimise, peak_memory_bytes
from unlearnlib.lora import attach
from unlearnlib.methods import get_method
from unlearnlib.run import _with_reference

method, precision, recompute, micro, rank, shape = json.loads(sys.argv[1])
torch.set_num_threads(1)

def chunks(name, count, length):
    return [Chunk(f"{{name}}#{{i}}", f"{{name}}-{{i}}", tuple(range(3, 3 + length)))
            for i in range(count)]

def run(config, count, length):
    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(old)
    if rank:
        attach(model, rank, 2 * rank, 0)
    row = get_method(method)
    execution = Execution(micro_tokens=micro, recompute=recompute, progress=False)
    parts = []
    for name, term in (("forget", row.forget), ("retain", row.retain)):
        if term is not None:
            data = chunks(name, count, length)
            labelling = Labelling(frozenset(), vocabulary=100)
            part = Part(name, data, term)
            parts.append(
                _with_reference(part, model, range(count), labelling, execution, rank > 0)
            )
    optimise(model, parts, Training(2, count, rate=lambda u: 1e-6), execution=execution)

small = dict(shape, hidden_size=64, num_hidden_layers=2, vocab_size=256, intermediate_size=64)
run(LlamaConfig(**small), 2, 32)  # what libraries themselves need
before = peak_memory_bytes("cpu")
run(LlamaConfig(**shape), {BATCH}, {LENGTH})
print(json.dumps(peak_memory_bytes("cpu") - before))
"""


@pytest.mark.parametrize(
    ("method", "precision", "recompute", "micro", "rank"),
    [
        ("ga_gd_in_dist", "float32", False, 2 * LENGTH, 0),
        ("ga_kl_in_dist", "float32", True, 4 * LENGTH, 0),
        pytest.param("ga", "float32", False, 8 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("ga_kl_in_dist", "float32", False, 2 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("ga_gd_in_dist", "float64", False, 2 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("ga_gd_in_dist", "bfloat16", True, 4 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("ga_js_in_dist", "float32", True, 4 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("undial", "float32", True, 4 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("max_entropy", "float32", True, 4 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("npo", "float32", True, 4 * LENGTH, 0, marks=pytest.mark.slow),
        pytest.param("undial", "float32", False, 2 * LENGTH, 8, marks=pytest.mark.slow),
        pytest.param("ga_kl_in_dist", "float32", False, 2 * LENGTH, 8, marks=pytest.mark.slow),
        pytest.param("ga_kl_in_dist", "bfloat16", False, 4 * LENGTH, 8, marks=pytest.mark.slow),
        pytest.param("ga_gd_in_dist", "bfloat16", True, 4 * LENGTH, 8, marks=pytest.mark.slow),
    ],
)
def test_planned_memory_is_measured_memory(
    method: str, precision: str, recompute: bool, micro: int, rank: int
) -> None:
    spec = RunSpec(method=method, updates=2, batch_size=BATCH, precision=precision, lora_rank=rank)
    planned = plan_run(
        LlamaConfig(**SHAPE),
        spec,
        chunks("forget"),
        chunks("retain"),
        execution=Execution(micro_tokens=micro, recompute=recompute),
        machine=SLOW,
    ).peak
    case = json.dumps([method, precision, recompute, micro, rank, SHAPE])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, case],
        capture_output=True,
        text=True,
        check=False,
        # Memory that is freed goes back at once, so that the peak is what was needed.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout.strip().splitlines()[-1])
    assert planned == pytest.approx(measured, rel=0.25)


def test_anatomy_counts_what_the_model_has() -> None:
    tied = anatomy(LlamaConfig(**SHAPE), "float32", 1, 64)
    untied = anatomy(LlamaConfig(**{**SHAPE, "tie_word_embeddings": False}), "float32", 1, 64)
    assert untied.parameters - tied.parameters == tied.vocabulary * tied.hidden
    assert untied.active == tied.active == tied.parameters
    assert tied.largest == tied.vocabulary * tied.hidden
    wider = anatomy(LlamaConfig(**SHAPE), "float32", 1, 128)
    assert wider.kept == pytest.approx(2 * tied.kept, rel=0.05)
    half = anatomy(LlamaConfig(**SHAPE), "bfloat16", 1, 128)
    assert 0.4 < half.kept / wider.kept < 0.8  # norms are computed in float32 all the same


def test_other_architectures_are_traced_too() -> None:
    found = anatomy(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=300), "float32", 2, 32)
    assert found.layers == 2 and found.vocabulary == 300 and found.kept > 0


def test_what_sharing_and_options_do_to_the_parts() -> None:
    spec = RunSpec(method="ga_kl_in_dist", updates=3, batch_size=2)
    config = LlamaConfig(**SHAPE)

    def planned(spec: RunSpec = spec, machine: Machine = SLOW, **more: Any) -> Any:
        return plan_run(config, spec, chunks("f"), chunks("r"), machine=machine, **more)

    one = planned()
    assert "original hidden states" in one.always and "oracle" not in one.always
    assert planned(oracle=True).peak - one.peak == one.always["parameters"]
    assert planned(copied=True).always["the model before"] == one.always["parameters"]
    four = planned(machine=replace(SLOW, processes=4), execution=Execution(shard=True))
    assert four.always["optimizer"] == one.always["optimizer"] // 4
    assert four.peak < one.peak and four.seconds == pytest.approx(one.seconds / 4)
    low = planned(spec.replace(precision="bfloat16"))
    assert low.always["master weights"] == 2 * low.always["parameters"]
    eight = planned(spec.replace(optimizer="adamw_8bit"))
    assert eight.always["optimizer"] == one.always["optimizer"] // 4
    less = planned(execution=Execution(recompute=True))
    assert less.backward["activations"] < one.backward["activations"] / 3
    # What is kept of the original is not computed twice.
    assert one.seconds < less.seconds < 4 / 3 * one.seconds
    assert one.tokens == 2 * 2 * 3 * LENGTH
    ascent = plan_run(config, spec.replace(method="ga"), chunks("f"), chunks("r"), machine=SLOW)
    assert ascent.tokens == one.tokens / 2 and "original head" not in ascent.always
    again = Execution(recompute=True)
    twice = plan_run(config, spec.replace(method="ga"), chunks("f"), execution=again, machine=SLOW)
    assert twice.seconds == pytest.approx(4 / 3 * ascent.seconds)


def test_nothing_to_forget_is_refused() -> None:
    with pytest.raises(UnlearnError, match="nothing to forget"):
        plan_run(LlamaConfig(**SHAPE), RunSpec(), [], [], machine=SLOW)
