"""Models that scale or cap their logits: every method as transformers' own logits have it.

Gemma 2 caps logits, and attention inside its layers; Cohere multiplies them, Granite divides them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    QUIET,
    SHAPE,
    TABLE,
    flat,
    logits_of,
    naive_term,
    naive_unlearn,
    tiny_bench,
)

from unlearnlib.decoder import cast, check_head, disable_dropout, head_of
from unlearnlib.engine import Execution, Labelling, keep_original
from unlearnlib.methods import METHODS
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.run import execute
from unlearnlib.scoring import Reference, score_chunks
from unlearnlib.spec import RunSpec

KINDS: dict[str, dict[str, Any]] = {
    # Caps at which the logits of a small random model are bent.
    "gemma2": {
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 1.0,
        "query_pre_attn_scalar": 4,
        "sliding_window": 16,
    },
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5},
}


def of_kind(kind: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **SHAPE, head_dim=4, **KINDS[kind])
        model: Any = disable_dropout(AutoModelForCausalLM.from_config(config))
    return check_head(cast(model, dtype).eval())


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_says_what_its_model_does(kind: str) -> None:
    head = head_of(of_kind(kind))
    expected = {"gemma2": (1.0, 2.0), "cohere": (0.25, None), "granite": (1 / 3, None)}
    assert (head.scale, head.cap) == expected[kind]
    assert (head.detach(clone=True).scale, head.to(torch.bfloat16).cap) == expected[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PAPER_METHODS)
def test_a_run_is_the_naive_loop_over_the_models_own_logits(method: str, kind: str) -> None:
    bench = tiny_bench(model=of_kind(kind))
    settings: dict[str, Any] = {"updates": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 5}
    model, _ = execute(bench, RunSpec(method=method, precision="float64", **settings))
    forget, retain, split = TABLE[method]
    chunks = bench.chunks("forget")
    labelling = Labelling(bench.special, bench.vocabulary, seed=5)
    labels = keep_original(bench.model, chunks, METHODS[method].forget, labelling, execution=QUIET)
    expected = naive_unlearn(
        bench.model,
        chunks,
        bench.chunks(split) if split else [],
        (forget, retain),
        **settings,
        random_labels={
            c.id: made for c, made in zip(chunks, labels, strict=True) if made is not None
        },
    )
    assert not torch.allclose(flat(model), flat(bench.model), rtol=0, atol=1e-4)
    torch.testing.assert_close(flat(model), flat(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_those_of_the_models_own_logits(kind: str, dtype: torch.dtype) -> None:
    model, oracle = of_kind(kind, dtype), of_kind(kind, dtype, seed=1)
    chunks = tiny_bench(model=model).chunks("forget")
    scores = score_chunks(model, chunks, reference=Reference(oracle, chunks))
    for index, chunk in enumerate(chunks):
        with torch.no_grad():
            logp = logits_of(model, chunk)[:-1].log_softmax(-1)
            q = logits_of(oracle, chunk)[:-1].softmax(-1)
        picked = logp[torch.arange(len(logp)), torch.tensor(chunk.tokens[1:])]
        place = scores.chunk(index)
        np.testing.assert_allclose(scores.logprob[place], picked, rtol=1e-4, atol=1e-5)
        kl = (q * (q.log() - logp)).sum(-1)
        np.testing.assert_allclose(scores.kl[place], kl, rtol=1e-3, atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 3], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", ["ga_kl_in_dist", "adversarial"])
def test_packed_or_one_by_one_the_model_is_the_same(method: str, rank: int, kind: str) -> None:
    spec = RunSpec(method=method, updates=2, batch_size=4, learning_rate=1e-2, precision="float64")
    spec = spec.replace(lora_rank=rank)
    ways = ({}, {"micro_chunks": 1}, {"packed": True}, {"packed": True, "recompute": True})
    made = [
        execute(tiny_bench(model=of_kind(kind), execution=Execution(progress=False, **how)), spec)
        for how in ways
    ]
    # Gemma's attention takes its softmax in float32, whatever the model is in.
    close = 1e-6 if kind == "gemma2" else 1e-8
    for model, _ in made[1:]:
        torch.testing.assert_close(flat(model), flat(made[0][0]), rtol=close, atol=close)
    # The first update's loss with LoRA is the original model's: B is 0.
    bench = tiny_bench(model=of_kind(kind))
    if method == "ga_kl_in_dist":
        assert made[0][1].trajectory[0]["retain"] == pytest.approx(0, abs=1e-9)
        picks = bench.chunks("forget")
        whole = execute(bench, spec.replace(batch_size=len(picks), updates=1))[1]
        ascent = sum(naive_term("ascent", bench.model, c, None).detach() for c in picks)
        targets = sum(c.targets for c in picks)
        assert whole.trajectory[0]["forget"] == pytest.approx(float(ascent) / targets, rel=1e-7)
