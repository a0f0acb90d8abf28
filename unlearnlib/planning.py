"""What a run will need, before it is begun: memory by its parts, time, and cost against retraining.

Nothing is loaded but the model's configuration. Activations are not guessed by a formula per
architecture: a forward pass of the very model class is traced with tensors that have shapes and
no data (`FakeTensorMode`), and what autograd would keep of it is added up. Everything else
follows from the number of parameters and from what the engine does (see `engine.optimise`).
A test compares the sum with the measured peak. That is what a run needs; allocators hold some
more, since they keep what is freed for later (on Linux's CPU side up to half as much again).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.texts import YOURS, own_data
from unlearnlib.cost import FLOPS_FORWARD, training_flops
from unlearnlib.decoder import decoder_of
from unlearnlib.devices import choose_device, synchronize
from unlearnlib.engine import Execution, micro_batches
from unlearnlib.errors import UnlearnError
from unlearnlib.loading import blank_model, border
from unlearnlib.lora import inject, linear_layers, trained_parameters
from unlearnlib.methods import KeepsStates, LabelTerm, Term, get_method
from unlearnlib.models import DTYPES, REMEDY, model_config
from unlearnlib.objectives import chunk_positions
from unlearnlib.quantised import check_kind, check_same, saved_bits
from unlearnlib.spec import RunSpec

# Share of a plain matrix product's rate that training reaches: on a CPU as measured by
# benchmarks/run.py (0.40 to 0.48 in float32); on a GPU the aim of benchmarks/gpu_queue.py.
CPU_SHARE, GPU_SHARE = 0.45, 0.45
MOMENT_BYTES = {"adamw": 4, "adamw_8bit": 1, "paged_adamw_8bit": 1}
# (n, V) tensors at once in objectives.py, by the kind of term; any other has "cross_entropy".
LOGITS_HELD = {
    "cross_entropy": 3,
    "MaximumEntropy": 4,
    "KLToOriginal": 6,
    "Undial": 7,
    "JensenShannon": 9,
}


@dataclass(frozen=True)
class Anatomy:
    """What of a model decides memory and time.

    parameters   all of the model, tied ones once
    active       those that take part in arithmetic: all but an untied embedding table
    largest      elements of the largest parameter
    kept         bytes that autograd keeps of one traced micro-batch
    layers       of the decoder
    hidden       width of its hidden states
    vocabulary   rows of the output head
    adapter      parameters of the adapters, which then alone are trained; 0 without
    linear       elements of the layers that have adapters, which base_bits holds in fewer bits
    """

    parameters: int
    active: int
    largest: int
    kept: int
    layers: int
    hidden: int
    vocabulary: int
    adapter: int = 0
    linear: int = 0


@dataclass(frozen=True)
class Machine:
    """What a run is computed on.

    device     "auto" (what a run here would take), or as torch has it: "cpu", "cuda", "cuda:1"
    processes  that share the work; with `Execution.shard` they share the model too
    rate       floating-point operations per second to expect of a process; None: measured here
               and now, for a second
    """

    device: str = "auto"
    processes: int = 1
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.device == "auto":
            object.__setattr__(self, "device", choose_device())

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Plan:
    """Memory of one process in bytes, and time.

    always      held from the first update to the last, by part
    backward    held in addition while gradients are computed
    step        held in addition while the optimizer steps
    tokens      that go forward and backward in the whole run
    flops       floating-point operations of the whole run
    rate        floating-point operations per second to expect of a process
    parameters  of the model, its adapters among them
    trained     those of them that are trained
    end         held in all when a base in few bits is a plain model again; empty for any other
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
    end: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        most = max(sum(self.backward.values()), sum(self.step.values()))
        return max(sum(self.always.values()) + most, sum(self.end.values()))

    @property
    def seconds(self) -> float:
        """Of the updates; loading and evaluating come on top."""
        return self.flops / self.rate / self.processes

    @property
    def tokens_per_second(self) -> float:
        """Trained on, padding left out."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Reading:
    """What documents take besides the updates.

    size     bytes that texts, token ids and scores take in the computer's memory
    tokens   that an evaluation goes over; there is one before and one after
    seconds  of an evaluation
    """

    size: int
    tokens: int
    seconds: float


TOKEN_BYTES = 4  # of an id
SCORE_BYTES, SCORING_BYTES = 17, 40  # of a token's scores, and in addition while it is scored


def plan_reading(planned: Plan, data: DomainData, forget: Sequence[Chunk]) -> Reading:
    """What the documents of a run take that is planned; `forget` has its chunks to forget.

    The other sets are not tokenised for it: they are taken to have as many tokens to a letter as
    those to forget have.
    """
    letters = {name: sum(map(_letters, data.split(name))) for name in SPLITS}
    held = sum(sys.getsizeof(part) for d in _every(data) for part in (d.text, *d.given))
    per_letter = sum(len(chunk.tokens) for chunk in forget) / max(1, letters["forget"])
    tokens = {name: int(count * per_letter) for name, count in letters.items()}
    # Of the retain set as many chunks are evaluated as there are documents to forget.
    longest = max((len(chunk.tokens) for chunk in forget), default=0)
    retain = min(tokens["retain"], len(data.forget) * longest)
    measured = [tokens["forget"], tokens["approximate"], retain, tokens["general_evaluation"]]
    size = held + TOKEN_BYTES * sum(tokens.values())
    size += SCORE_BYTES * sum(measured) + SCORING_BYTES * max(measured)
    flops = FLOPS_FORWARD * planned.parameters * sum(measured)
    return Reading(size, sum(measured), flops / planned.rate)


def _letters(document: Document) -> int:
    return len(document.text) + sum(map(len, document.given))


def _every(data: DomainData) -> Iterator[Document]:
    for name in SPLITS:
        yield from data.split(name)


def anatomy(config: Any, precision: str, rows: int, width: int, lora_rank: int = 0) -> Anatomy:
    """Trace one micro-batch of `rows` chunks of `width` tokens through a model of that config."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = blank_model(config, DTYPES[precision])
    with torch.device("meta"):
        model.train()
        sizes = [p.numel() for p in model.parameters()]
        linear = 0
        if lora_rank:
            linear = sum(model.get_submodule(n).weight.numel() for n in linear_layers(model))
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
            linear,
        )


def plan(
    model: nn.Module | str | Path,
    tokenizer: Any,
    texts: Mapping[str, Iterable[str | Document]],
    *,
    execution: Execution | None = None,
    machine: Machine | None = None,
    oracle: bool = False,
    **settings: Any,
) -> Plan:
    """What `unlearn` with these texts and settings will need; no weights are loaded.

    model      a model, or the source of one (see `models.load_model`)
    texts      "forget" and, as far as there are some, "retain" and "general": lists of texts
    machine    what it is to be computed on; by default one process here, with a measured rate
    oracle     an oracle is loaded beside the model
    settings   fields of `RunSpec`: method, updates, batch_size, length (tokens per chunk; by
               default 1024), precision, lora_rank, ...
    """
    spec = RunSpec().replace(**{"domain": YOURS, "length": 1024, **settings})
    return plan_run(
        model.config if isinstance(model, nn.Module) else model,
        spec,
        *trained_chunks(spec, own_data(texts), tokenizer, spec.length or 1024),
        execution=execution,
        machine=machine,
        oracle=oracle,
    )


def trained_chunks(
    spec: RunSpec, data: DomainData, tokenizer: Any, length: int
) -> tuple[list[Chunk], list[Chunk]]:
    """(those to forget, those of the retain term) of a run, in chunks of `length` tokens."""
    retain = {"in_distribution": data.retain, "general": data.general_retain}
    method, bos = get_method(spec.method), spec.bos_every_chunk
    parts = {
        "forget": spec.forgets(data.forget),
        "retain": retain.get(method.data or "", ()),
    }
    forget, retained = (
        cut(documents, tokenizer, length, name=name, bos_every_chunk=bos)
        for name, documents in parts.items()
    )
    return forget, retained


def plan_run(
    source: str | Path | Any,
    spec: RunSpec,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk] = (),
    *,
    execution: Execution | None = None,
    machine: Machine | None = None,
    oracle: bool = False,
    copied: bool = False,
) -> Plan:
    """The plan of a run.

    source      a model source (see `models.load_model`), or a `transformers` configuration
    oracle      an oracle is loaded beside the model
    copied      the run works on a copy and the original stays loaded (as in a study)
    """
    execution, machine = execution or Execution(), machine or Machine()
    config = model_config(source) if isinstance(source, (str, Path)) else source
    unweighted = not spec.retain_weight and spec.retain_budget is None
    if get_method(spec.method).retain is None or unweighted:
        retain = ()
    named = source if isinstance(source, (str, Path)) else type(config).__name__
    with border("model", named, REMEDY):
        if saved := saved_bits(config, machine.device):  # what loading it would say
            check_kind(saved, named)
            check_same(saved, spec.base_bits)
        work = _workload(config, spec, forget, retain, execution, machine.processes)
    tokens = _tokens(forget, spec) + _tokens(retain, spec)
    rate = machine.rate
    if rate is None:
        rate = expected_rate(spec.precision, machine.device)
    return Plan(
        _always(work, spec.optimizer, oracle, copied),
        _backward(work, execution, machine.on_gpu),
        _step(work),
        tokens,
        _flops(work, spec, forget, retain, execution),
        rate,
        work.shape.parameters + work.shape.adapter,
        work.trained,
        machine.processes,
        {"the model, plain again": work.shape.parameters * work.size} if work.bits else {},
    )


@dataclass(frozen=True)
class _Workload:
    """What of a run decides its memory and time.

    shape          of the model
    terms          of the objective: forget, and retain where there is one
    micros         number of micro-batches per update
    positions      tokens in the largest of them, padding included
    size           bytes of a parameter
    trained        number of parameters that are trained
    trained_size   bytes of each; below 4 a float32 master copy is stepped
    share          number of processes that hold a part of the model each
    stored_tokens  tokens whose original hidden states are stored before the first update
    bits           that the linear layers are held in; 0: in `size` bytes
    recomputes     whether a term's reference is recomputed in each micro-batch
    """

    shape: Anatomy
    terms: tuple[Term, ...]
    micros: int
    positions: int
    size: int
    trained: int
    trained_size: int
    share: int
    stored_tokens: float
    recomputes: bool
    bits: int = 0

    @property
    def base_bytes(self) -> int:
        """Bytes of the model itself; scales take a thirtieth more where it is in few bits."""
        if not self.bits:
            return self.shape.parameters * self.size
        plain = (self.shape.parameters - self.shape.linear) * self.size
        return plain + self.shape.linear * self.bits * 31 // (8 * 30)

    @property
    def lora(self) -> bool:
        """Whether adapters are trained, and the model itself is frozen."""
        return self.shape.adapter > 0

    @property
    def has_masters(self) -> bool:
        """Whether a float32 copy of the trained parameters is stepped."""
        return self.trained_size < 4

    @property
    def trained_bytes(self) -> int:
        """Bytes of one process's trained parameters, and of their gradients as well."""
        return self.trained * self.trained_size // self.share

    @property
    def asks_original(self) -> bool:
        """Whether a term is computed with the original model."""
        return any(term.needs_original for term in self.terms)

    @property
    def keeps_states(self) -> bool:
        """Whether a term is computed from the original model's hidden states."""
        return any(isinstance(term, KeepsStates) for term in self.terms)


def _workload(
    config: Any,
    spec: RunSpec,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    execution: Execution,
    processes: int,
) -> _Workload:
    """Divide an update into micro-batches, and trace the largest."""
    method = get_method(spec.method)
    in_update = [*forget[: spec.batch_size], *retain[: spec.batch_size]]
    if not in_update:
        raise UnlearnError("there is nothing to forget: give at least one document.")
    micros = micro_batches(config, in_update, execution)
    rows, width = max(
        ((len(m), len(in_update[m[0]].tokens)) for m in micros), key=lambda m: m[0] * m[1]
    )
    shape = anatomy(config, spec.precision, rows, width, spec.lora_rank)
    size = torch.empty((), dtype=DTYPES[spec.precision]).element_size()
    terms: tuple[Term, ...] = (method.forget,)
    if retain and method.retain is not None:
        terms += (method.retain,)
    states = [
        # All chunks to forget, as soon as they are prepared; of the others those that are drawn.
        (part, len(part) if part is forget else min(len(part), spec.updates * spec.batch_size))
        for part, term in zip((forget, retain), terms, strict=False)
        if isinstance(term, KeepsStates)
    ]
    recomputes = bool(states) and bool(spec.lora_rank) and spec.requests == 1
    stored_tokens = sum(used * _once(part) / len(part) for part, used in states if not recomputes)
    return _Workload(
        shape,
        terms,
        len(micros),
        rows * width,
        size,
        # With adapters the rest is frozen, and adapters are never narrower than float32.
        trained=shape.adapter if spec.lora_rank else shape.parameters,
        trained_size=max(4, size) if spec.lora_rank else size,
        share=processes if execution.shard else 1,
        stored_tokens=stored_tokens,
        recomputes=recomputes,
        bits=spec.base_bits,
    )


def _always(work: _Workload, optimizer: str, oracle: bool, copied: bool) -> dict[str, int]:
    """Bytes held from the first update to the last, by part."""
    shape, size = work.shape, work.size
    always = {"parameters": work.base_bytes // work.share}
    if work.lora:
        always["adapters"] = work.trained_bytes
    if copied:
        always["the model before"] = work.base_bytes
    if oracle:
        always["oracle"] = shape.parameters * size
    if work.has_masters:
        always["master weights"] = shape.parameters * 4 // work.share
    moment = MOMENT_BYTES[optimizer] if optimizer != "adamw" else max(4, size)
    always["optimizer"] = 2 * moment * work.trained // work.share
    if work.asks_original and not work.lora:  # a frozen head is the original one
        always["original head"] = shape.vocabulary * shape.hidden * size
    if work.keeps_states and not work.recomputes:
        always["original hidden states"] = int(work.stored_tokens * shape.hidden * size)
    return always


def _backward(work: _Workload, execution: Execution, on_gpu: bool) -> dict[str, int]:
    """Bytes held in addition while gradients are computed, by part; none that is 0."""
    shape, size = work.shape, work.size
    chunk = min(work.positions, chunk_positions(shape.vocabulary, on_gpu))
    plain = LOGITS_HELD["cross_entropy"]
    held = max(LOGITS_HELD.get(type(term).__name__, plain) for term in work.terms)
    logits = held * chunk * shape.vocabulary * max(4, size)
    # All label terms are computed in one call, each other term in one of its own.
    others = sum(not isinstance(term, LabelTerm) for term in work.terms)
    calls = others + (others < len(work.terms))
    head_bytes = shape.vocabulary * shape.hidden * max(4, size)
    hidden_bytes = work.positions * shape.hidden * size
    backward = {
        # Of the micro-batches before; in the first, gradients replace activations one by one.
        "gradients": work.trained_bytes if work.micros > 1 else 0,
        "activations": shape.kept,
        "logits": logits,
        # Kept from the forward pass to the backward pass, one for each call; a frozen head has
        # none.
        "gradients of the head": 0 if work.lora else head_bytes * calls,
        "original hidden states": hidden_bytes if work.recomputes else 0,
    }
    if execution.recompute:
        # The logits are freed before the first layer is computed again.
        backward["activations"] = hidden_bytes * shape.layers
        backward["logits"] = 0
        backward["logits, or one layer"] = max(logits, 2 * shape.kept // shape.layers)
    if work.share > 1:  # one layer and the head are gathered at a time
        head = shape.vocabulary * shape.hidden
        backward["gathered"] = size * ((shape.parameters - head) // shape.layers + head)
    return {name: value for name, value in backward.items() if value}


def _step(work: _Workload) -> dict[str, int]:
    """Bytes held in addition while the optimizer steps, by part."""
    if not work.has_masters:
        return {"gradients": work.trained_bytes}
    return {
        "gradients": work.trained * 4 // work.share,
        "largest gradient, before it is handed over": work.shape.largest * work.size // work.share,
    }


def _flops(
    work: _Workload,
    spec: RunSpec,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    execution: Execution,
) -> float:
    """Floating-point operations of all updates, and of what is stored of the original."""
    tokens = _tokens(forget, spec) + _tokens(retain, spec)
    again = sum(
        _tokens(part, spec)
        for part, term in zip((forget, retain), work.terms, strict=False)
        if work.recomputes and isinstance(term, KeepsStates)
    )
    flops = training_flops(
        work.shape.active,
        tokens,
        adapter=work.shape.adapter,
        reference_tokens=again,
        recompute=execution.recompute,
    )
    if spec.retain_budget is not None and not isinstance(work.terms[-1], KeepsStates):
        flops += FLOPS_FORWARD * work.shape.active * min(_tokens(retain, spec), _once(retain))
    if work.asks_original and not work.recomputes:  # one forward pass
        flops += FLOPS_FORWARD * work.shape.active * min(tokens, _once(forget, retain))
    return flops


def _tokens(chunks: Sequence[Chunk], spec: RunSpec) -> int:
    """Tokens that the updates of one part go over."""
    each = min(spec.batch_size, len(chunks)) * spec.updates * spec.requests
    return int(each * sum(len(c.tokens) for c in chunks) / len(chunks)) if chunks else 0


def _once(*parts: Sequence[Chunk]) -> int:
    return sum(len(chunk.tokens) for part in parts for chunk in part)


def expected_rate(precision: str, device: str) -> float:
    """Floating-point operations per second that training can be expected to reach here."""
    return product_rate(precision, device) * (CPU_SHARE if device == "cpu" else GPU_SHARE)


def product_rate(precision: str, device: str = "cpu", size: int = 2048, repeats: int = 4) -> float:
    """Floating-point operations per second of a plain square matrix product here and now."""
    matrix = torch.randn(size, size, device=device).to(DTYPES[precision])
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
