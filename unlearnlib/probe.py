"""Whether a device computes what runs need: `python -m unlearnlib.probe DEVICE` ends with 0 if so.

A small model with random weights unlearns by every kind of term, with all parameters and with an
adapter, and is scored, on the device and on the processor. The device serves if nothing fails on
the way and both end in the same numbers, up to the rounding of float32. `devices.choose_device`
starts this in a process of its own, since some operations that MPS lacks end the process.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unlearnlib import lora
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.engine import Execution, Labelling, Part, Training, keep_original, optimise
from unlearnlib.methods import get_method
from unlearnlib.scoring import Reference, score_chunks
from unlearnlib.seeds import seeded_generator

METHODS = ("ga_gd_in_dist", "ga_kl_in_dist", "random_label", "adversarial")
VOCABULARY = 96
TOLERANCE = 1e-2  # nats per token, of devices that add up in another order


def main() -> int:
    """Compare the device that the command line names with the processor."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    fault = compare(device)
    if fault:
        print(fault, file=sys.stderr)
    return int(bool(fault))


def compare(device: str) -> str:
    """What differs between a device and the processor, in words; empty if nothing does."""
    for method in METHODS:
        for rank in (0, 2) if importlib.util.find_spec("peft") else (0,):
            here, there = (scores(method, rank, place) for place in ("cpu", device))
            far = float(np.abs(here - there).max())
            if not far <= TOLERANCE:  # NaN too
                what = f"{method} with an adapter" if rank else method
                return f"{what} differs from the processor by {far:.2g} nats"
    return ""


def scores(method: str, rank: int, device: str) -> np.ndarray:
    """(4, N) per-token values of the small model after it unlearned on a device."""
    model = _model().to(device)
    original = copy.deepcopy(model)
    chunks = [_chunks("forget"), _chunks("retain")]
    attached = lora.attach(model, rank, 2.0 * rank, 0) if rank else None
    quiet = Execution(progress=False, recompute=True)
    row = get_method(method)
    parts = []
    for name, part, term in zip(
        ("forget", "retain"), chunks, (row.forget, row.retain), strict=True
    ):
        if term is not None:
            labelling = Labelling(frozenset(), VOCABULARY)
            kept = keep_original(model, part, term, labelling, execution=quiet)
            parts.append(Part(name, part, term, stored_reference=kept))
    training = Training(2, 2, lambda update: 1e-2, max_grad_norm=1.0, weight_decay=0.01)
    optimise(model, parts, training, execution=quiet)
    if attached is not None:
        lora.take_off(model, attached)
    found = score_chunks(model, chunks[0], reference=Reference(original, chunks[0]))
    measured = (found.logprob, found.mean, found.variance, found.kl)
    return np.stack([values for values in measured if values is not None])


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def _chunks(name: str) -> Sequence[Chunk]:
    """Chunks of unequal length, so that there is padding."""
    draw = seeded_generator(f"probe:{name}")
    return [Chunk(f"{name}-{n}#0", f"{name}-{n}", _tokens(draw, n)) for n in (24, 31, 40)]


def _tokens(draw: torch.Generator, count: int) -> tuple[int, ...]:
    return tuple(torch.randint(1, VOCABULARY, (count,), generator=draw).tolist())


if __name__ == "__main__":
    sys.exit(main())
