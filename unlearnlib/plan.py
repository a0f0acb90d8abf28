"""What a run will need, before it is begun: memory by its parts, time, and cost against retraining.

Nothing is loaded but the model's configuration. Activations are not guessed by a formula per
architecture: a forward pass of the very model class is traced with tensors that have shapes and
no data (`FakeTensorMode`), and what autograd would keep of it is added up. Everything else
follows from the number of parameters and from what the engine does (see `engine.optimise`).
A test compares the sum with the measured peak. That is what a run needs; allocators hold some
more, since they keep what is freed for later (on Linux's CPU side up to half as much again).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlearnlib.corpus.chunks import Chunk, pack
from unlearnlib.cost import FLOPS_FORWARD, training_flops
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.lora import inject, trained_parameters
from unlearnlib.methods import LabelTerm, get_method
from unlearnlib.models import DTYPES, decoder_of, model_config
from unlearnlib.objectives import chunk_positions
from unlearnlib.spec import RunSpec

# Share of a plain matrix product's rate that training reaches: on a CPU as measured by
# benchmarks/run.py (0.40 to 0.48 in float32); on a GPU the aim of benchmarks/gpu_queue.py.
CPU_SHARE, GPU_SHARE = 0.45, 0.45
MOMENT_BYTES = {"adamw": 4, "adamw_8bit": 1, "paged_adamw_8bit": 1}
LOGITS_HELD = {"cross_entropy": 3, "kl": 6}  # (n, V) tensors at once in objectives.py


@dataclass(frozen=True)
class Anatomy:
    """What of a model decides memory and time.

    parameters   all of the model, tied ones once
    active       those that take part in arithmetic: all but an untied embedding table
    adapter      parameters of the adapters, which then alone are trained; 0 without
    largest      elements of the largest parameter
    kept         bytes that autograd keeps of one traced micro-batch
    layers       of the decoder
    """

    parameters: int
    active: int
    largest: int
    kept: int
    layers: int
    hidden: int
    vocabulary: int
    adapter: int = 0


@dataclass(frozen=True)
class Plan:
    """Memory of one process in bytes, and time.

    always      held from the first update to the last, by part
    backward    held in addition while gradients are computed
    step        held in addition while the optimizer steps
    tokens      that go forward and backward in the whole run
    parameters  of the model, its adapters among them
    trained     those of them that are trained
    rate        floating-point operations per second that are expected
    """

    always: dict[str, int]
    backward: dict[str, int]
    step: dict[str, int]
    tokens: int
    flops: float
    rate: float
    parameters: int
    trained: int
    processes: int = 1

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return sum(self.always.values()) + max(sum(self.backward.values()), sum(self.step.values()))

    @property
    def seconds(self) -> float:
        """Of the updates; loading and evaluating come on top."""
        return self.flops / self.rate / self.processes

    @property
    def tokens_per_second(self) -> float:
        """Trained on, padding left out."""
        return self.tokens / self.seconds if self.seconds else 0.0


def anatomy(config: Any, precision: str, rows: int, width: int, lora_rank: int = 0) -> Anatomy:
    """Trace one micro-batch of `rows` chunks of `width` tokens through a model of that config."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision])
        model.train()
        sizes = [p.numel() for p in model.parameters()]
        if lora_rank:
            inject(model, lora_rank, 1.0)
    decoder = decoder_of(model)
    with FakeTensorMode():
        # As if on a CPU: the device "meta" computes attention in a way that no other does.
        tensors = {
            name: torch.empty(t.shape, dtype=t.dtype, requires_grad=t.requires_grad)
            for name, t in (*decoder.named_parameters(), *decoder.named_buffers())
        }
        own = {t.untyped_storage()._cdata for t in tensors.values()}
        kept: dict[int, Any] = {}  # the storages themselves, or an address might be used again

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # No mask: a micro-batch of equal lengths has none, and others little more to keep.
            ids = torch.zeros(rows, width, dtype=torch.int64)
            torch.func.functional_call(decoder, tensors, (), {"input_ids": ids, "use_cache": False})
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        untied = 0 if head.weight is embedding.weight else embedding.weight.numel()
        return Anatomy(
            sum(sizes),
            sum(sizes) - untied,
            max(sizes),
            sum(storage.nbytes() for storage in kept.values()),
            int(config.num_hidden_layers),
            int(head.weight.shape[1]),
            int(head.weight.shape[0]),
            trained_parameters(model) if lora_rank else 0,
        )


def plan(
    source: str | Path | Any,
    spec: RunSpec,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk] = (),
    *,
    execution: Execution | None = None,
    device: str = "cpu",
    processes: int = 1,
    oracle: bool = False,
    copied: bool = False,
    rate: float | None = None,
) -> Plan:
    """The plan of a run.

    source      a model source (see `models.load_model`), or a `transformers` configuration
    processes   that share the work; with `Execution.shard` they share the model too
    oracle      an oracle is loaded beside the model
    copied      the run works on a copy and the original stays loaded (as in a study)
    rate        operations per second to expect; by default measured here and now, for a second
    """
    execution = execution or Execution()
    config = model_config(source) if isinstance(source, (str, Path)) else source
    method = get_method(spec.method)
    with_retain = bool(retain) and method.retain is not None and spec.retain_weight > 0
    in_update = list(forget[: spec.batch_size]) + (
        list(retain[: spec.batch_size]) if with_retain else []
    )
    if not in_update:
        raise UnlearnError("there is nothing to forget: give at least one document.")
    micros = pack(in_update, execution.micro_tokens, execution.micro_chunks)
    rows, width = max(
        ((len(m), len(in_update[m[0]].tokens)) for m in micros), key=lambda m: m[0] * m[1]
    )
    shape = anatomy(config, spec.precision, rows, width, spec.lora_rank)
    size = torch.empty((), dtype=DTYPES[spec.precision]).element_size()
    # With adapters the rest is frozen, and adapters are never narrower than float32.
    trained, trained_size = shape.parameters, size
    if spec.lora_rank:
        trained, trained_size = shape.adapter, max(4, size)
    narrow = trained_size < 4
    share = processes if execution.shard else 1
    head_bytes = shape.vocabulary * shape.hidden * max(4, size)
    terms = [method.forget, *([method.retain] if with_retain and method.retain else [])]
    asks = any(term.needs_original for term in terms)
    others = sum(not isinstance(term, LabelTerm) for term in terms)
    calls = others + (others < len(terms))

    always = {"parameters": shape.parameters * size // share}
    if spec.lora_rank:
        always["adapters"] = trained * trained_size // share
    if copied:
        always["the model before"] = shape.parameters * size
    if oracle:
        always["oracle"] = shape.parameters * size
    if narrow:
        always["master weights"] = shape.parameters * 4 // share
    moment = MOMENT_BYTES[spec.optimizer] if spec.optimizer != "adamw" else max(4, size)
    always["optimizer"] = 2 * moment * trained // share
    distances = with_retain and bool(method.retain and method.retain.needs_original)
    recalls = distances and bool(spec.lora_rank) and spec.requests == 1
    if asks and not spec.lora_rank:  # a frozen head is the original one
        always["original head"] = shape.vocabulary * shape.hidden * size
    if distances and not recalls:
        used = min(len(retain), spec.updates * spec.batch_size)
        average = sum(len(c.tokens) for c in retain) / len(retain)
        always["original hidden states"] = int(used * average * shape.hidden * size)

    positions = rows * width
    chunk = min(positions, chunk_positions(shape.vocabulary, device.startswith("cuda")))
    held = LOGITS_HELD["kl" if distances else "cross_entropy"]
    logits = held * chunk * shape.vocabulary * max(4, size)
    gradients = trained * trained_size // share
    backward = {
        # Those of the micro-batches before; the first one's grow as its activations are let go.
        "gradients": gradients if len(micros) > 1 else 0,
        "activations": shape.kept,
        "logits": logits,
        # Kept from the forward pass to the backward pass: one for all label terms, one for each
        # other; a frozen head has none.
        "gradients of the head": 0 if spec.lora_rank else head_bytes * calls,
        "original hidden states": positions * shape.hidden * size if recalls else 0,
    }
    if execution.recompute:
        # A layer is computed again, and its gradients, when the logits are gone.
        backward["activations"] = positions * shape.hidden * size * shape.layers
        backward["logits"] = 0
        backward["logits, or one layer"] = max(logits, 2 * shape.kept // shape.layers)
    if share > 1:  # one layer and the head are gathered at a time
        backward["gathered"] = size * (
            (shape.parameters - shape.vocabulary * shape.hidden) // shape.layers
            + shape.vocabulary * shape.hidden
        )
    backward = {name: value for name, value in backward.items() if value}
    step = {"gradients": trained * 4 // share if narrow else gradients}
    if narrow:
        step["largest gradient, before it is handed over"] = shape.largest * size // share

    tokens = _tokens(forget, spec) + (_tokens(retain, spec) if with_retain else 0)
    flops = training_flops(
        shape.active,
        tokens,
        adapter=shape.adapter,
        recalled=_tokens(retain, spec) if recalls else 0,
        recompute=execution.recompute,
    )
    if asks and not recalls:  # one forward pass for what is kept of the original
        flops += FLOPS_FORWARD * shape.active * min(tokens, _once(forget, retain))
    if rate is None:
        rate = product_rate(spec.precision, device)
        rate *= GPU_SHARE if device.startswith("cuda") else CPU_SHARE
    return Plan(
        always,
        backward,
        step,
        tokens,
        flops,
        rate,
        shape.parameters + shape.adapter,
        trained,
        processes,
    )


def _tokens(chunks: Sequence[Chunk], spec: RunSpec) -> int:
    """Tokens that the updates of one part go over."""
    each = min(spec.batch_size, len(chunks)) * spec.updates * spec.requests
    return int(each * sum(len(c.tokens) for c in chunks) / len(chunks)) if chunks else 0


def _once(*parts: Sequence[Chunk]) -> int:
    return sum(len(chunk.tokens) for part in parts for chunk in part)


def product_rate(precision: str, device: str = "cpu", size: int = 2048, repeats: int = 4) -> float:
    """Floating-point operations per second of a plain square matrix product here and now."""
    matrix = torch.randn(size, size, device=device).to(DTYPES[precision])
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
