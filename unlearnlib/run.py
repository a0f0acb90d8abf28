"""One run: a spec, a model and data in; the unlearned model and its record out."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from unlearnlib import cost, lora
from unlearnlib.bench import Bench as Bench
from unlearnlib.bench import (
    check_stop,
    columns_before,
    evaluate,
    forget_perplexity,
    has_nan,
    key_of,
    probe_metrics,
    probe_scores,
)
from unlearnlib.bench import open_bench as open_bench
from unlearnlib.corpus.chunks import Chunk, left_out
from unlearnlib.corpus.documents import Document, overlaps
from unlearnlib.corpus.texts import own_data
from unlearnlib.decoder import (
    cast,
    check_head,
    check_here,
    check_loaded,
    check_reach,
    disable_dropout,
)
from unlearnlib.devices import tell_of_emulation
from unlearnlib.engine import (
    Budget,
    Checkpoint,
    Execution,
    Labelling,
    Outcome,
    Part,
    Training,
    check_execution,
    check_gradients,
    keep_original,
    losses_before,
    optimise,
    order,
    peak_memory_bytes,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import cache_folder
from unlearnlib.loading import check_finite
from unlearnlib.methods import Method, Term, chosen_method, get_method
from unlearnlib.models import DTYPES
from unlearnlib.profiles import YOURS
from unlearnlib.quantised import bits_of, check_device, check_same
from unlearnlib.sharding import gather, shard
from unlearnlib.spec import RunSpec, command_of
from unlearnlib.store.provenance import provenance
from unlearnlib.store.record import Record

logger = logging.getLogger(__name__)


def _retain(bench: Bench, spec: RunSpec, method: Method) -> list[Chunk]:
    if method.data is None:
        return []
    split = "retain" if method.data == "in_distribution" else "general_retain"
    chunks = bench.chunks(split, spec.length, spec.bos_every_chunk)
    if not chunks:
        flag = "--retain" if split == "retain" else "--general"
        raise UnlearnError(
            f"method {spec.method!r} needs {split.replace('_', ' ')} documents and got none: give "
            f"them ({flag}, or the argument of that name), or choose a method without a retain "
            "term."
        )
    return chunks


def execute(
    bench: Bench,
    spec: RunSpec,
    *,
    in_place: bool = False,
    command: str | None = None,
    stop_after: Callable[[nn.Module, int], bool] | None = None,
) -> tuple[nn.Module, Record]:
    """Unlearn and evaluate: (the unlearned model, its record). `bench.model` stays as it is.

    A run whose loss or gradient becomes non-finite stops before that update reaches the
    parameters; its record says "diverged" and at which update, and carries the metrics of the
    last finite parameters.

    A run with `stop="retrained"` makes as many updates as it needs to reach the retrained model's
    perplexity, at most `updates`: its trajectory says how many. They are the first ones of the run
    that does not stop.

    `stop_after(model, u)`, asked after each update u, may end the run early. Its record is then
    that of the run with so many updates, which makes the same ones.

    With several processes all must call this alike. Where `Execution.shard` divides the model,
    the model that comes back is whole again, on the CPU.

    With `lora_rank` the model that comes back has the adapter added to its weights, and the adapter
    alone as its attribute `lora_adapter` (see `lora.save_adapter`).
    """
    started = time.time()
    if stop_after is not None:
        _check_may_stop(spec)
    requests = _requests(bench.forgotten(spec), spec.requests)
    retain = _retain(bench, spec, get_method(spec.method))
    _check_evaluation(bench, spec)
    if spec.lora_rank:
        lora.check_peft()
    _check_bits(bench, spec)
    device = next(bench.model.parameters()).device
    tell_of_emulation(spec.precision, str(device))
    model = bench.model if in_place else copy.deepcopy(bench.model)
    if not spec.base_bits:
        cast(model, DTYPES[spec.precision])
    vars(model).pop("lora_adapter", None)  # of an earlier run on this model
    attached = None
    if spec.lora_rank:
        attached = lora.attach(model, spec.lora_rank, spec.alpha, spec.seed)
    adapter_size = lora.trained_parameters(model) if attached else 0
    if divided := bench.execution.shard and _several_processes():
        model = shard(model)
    looks = _Looks(bench, model, spec)
    trained = _train(looks, attached, requests, retain, stop_after)
    outcome = trained.outcome
    if stop_after is not None and outcome.diverged_at is None:
        spec = spec.replace(updates=len(outcome.trajectory))
    model.eval()
    metrics, documents, scores = evaluate(bench, model, spec)
    for split, columns in looks.before(len(outcome.trajectory)).items():
        documents[split].update(columns)
    if divided:
        model = gather(model)
    if trained.adapter is not None:
        model.__dict__["lora_adapter"] = trained.adapter
    if outcome.diverged_at is None and outcome.trajectory and any(map(has_nan, scores.values())):
        # The last update diverged, and no loss was computed after it that could show this.
        outcome.diverged_at = len(outcome.trajectory)
    origin = provenance(
        started=datetime.fromtimestamp(started, UTC),
        seconds=time.time() - started,
        device=str(device),
        command=command or command_of(spec),
        packages=("peft",) if attached else (),
        seconds_training=trained.seconds,
        weights=dict(bench.weights),
        peak_memory_bytes=peak_memory_bytes(device),
    )
    return model, _record(bench, spec, trained, adapter_size, metrics, documents, origin)


def with_bits(spec: RunSpec, model: Any) -> RunSpec:
    """The spec of a run on this model, which may have been loaded in 4 bits.

    `UnlearnError` where these cannot be trained, or compute in another precision than the spec's.
    """
    bits = bits_of(model)
    if not bits:
        return spec
    check_device(model.device.type)
    if not spec.lora_rank:
        raise UnlearnError(
            f"the model is in {bits} bits, in which it cannot be trained: set lora_rank=16 to "
            "train adapters beside it, or load it in full."
        )
    if model.dtype != DTYPES[spec.precision]:
        held = str(model.dtype).removeprefix("torch.")
        raise UnlearnError(
            f"precision is {spec.precision} and the model in {bits} bits computes in {held}: set "
            f"precision={held}, or load it in the other."
        )
    return spec.replace(base_bits=bits)


def _check_bits(bench: Bench, spec: RunSpec) -> None:
    """`UnlearnError` for a bench whose model is not in the bits that the spec names."""
    bits = bits_of(bench.model)
    check_same(bits, spec.base_bits)
    if bits and bench.execution.shard:
        raise UnlearnError(
            f"base_bits is {bits}, and such a model is not divided among processes: leave out "
            "--fsdp (shard=True of Execution), or base_bits."
        )


def _check_may_stop(spec: RunSpec) -> None:
    """`UnlearnError` for a run that, ended early, would not be that of so many updates."""
    if spec.stop != "end":
        raise UnlearnError(
            f"stop is {spec.stop!r}, and this run is ended by something else: leave stop out."
        )
    if spec.schedule != "constant" or spec.warmup or spec.requests > 1:
        raise UnlearnError(
            f"a run with schedule {spec.schedule!r}, warmup {spec.warmup} and {spec.requests} "
            "requests cannot be ended early: its first updates are not those of a shorter run."
        )


def _check_evaluation(bench: Bench, spec: RunSpec) -> None:
    """Cut all chunks and questions: what cannot be cut or asked shows before training."""
    check_stop(bench, spec)
    bench.evaluated(spec)
    for split in ("forget", "approximate"):
        bench.questions(split, spec)


class _Looks:
    """What a run sees of its model on the way: probes, and whether it is where it is to stop.

    Of a run that stops, each probe's values per chunk are kept, and those of the model before.
    """

    def __init__(self, bench: Bench, model: nn.Module, spec: RunSpec):
        self.bench, self.model, self.spec = bench, model, spec
        self.stops = spec.stop == "retrained"
        self._columns: dict[int, dict[str, dict[str, list[float]]]] = {}
        self._forget: tuple[int, float] | None = None  # number of the last probe, its perplexity

    @functools.cached_property
    def level(self) -> float:
        """The retrained model's perplexity on the chunks that the run forgets."""
        assert self.bench.oracle is not None
        return forget_perplexity(self.bench, self.bench.oracle, self.spec)

    def first(self) -> dict[str, float]:
        """The probe before the first update; empty where the spec asks for none."""
        return self.probe(0) if self.spec.probe_every or self.stops else {}

    def probe(self, update: int) -> dict[str, float]:
        """The metrics of a probe after so many updates."""
        scores = probe_scores(self.bench, self.model, self.spec)
        metrics = probe_metrics(scores)
        if self.stops:
            self._columns[update] = columns_before(scores)
            self._forget = update, metrics["forget/perplexity"]
        return metrics

    def look_again(self, update: int) -> None:
        """Look at the state that a run goes on from as it was looked at before the interruption."""
        self.probe(update)

    def reached(self, update: int) -> bool:
        """Whether the run stops after so many updates: at the level, or where it is none any more.

        The last probe is taken where it is of this update.
        """
        if not self.stops:
            return False
        if self._forget is None or self._forget[0] != update:
            self._forget = update, forget_perplexity(self.bench, self.model, self.spec)
        return not self._forget[1] < self.level  # NaN, too

    def before(self, updates: int) -> dict[str, dict[str, list[float]]]:
        """What the last probe before the end of so many updates found of each chunk, by split."""
        earlier = [u for u in self._columns if u < max(1, updates)]
        return self._columns[max(earlier)] if earlier else {}


@dataclass(frozen=True)
class _Trained:
    """What the updates of a run leave besides the model.

    outcome  of all requests together
    first    the probe before the first update; empty where the spec asks for none
    adapter  the trained adapter, taken off the model; None without LoRA
    seconds  of the updates and of the probes between them
    """

    outcome: Outcome
    first: dict[str, float]
    adapter: lora.Adapter | None
    seconds: float


def _train(
    looks: _Looks,
    attached: lora.Attached | None,
    requests: Sequence[Sequence[Chunk]],
    retain: Sequence[Chunk],
    stop_after: Callable[[nn.Module, int], bool] | None,
) -> _Trained:
    """All requests in turn, and then the adapter added to the weights.

    If it is interrupted, the adapter is dropped: with LoRA the model is then the original again.
    """
    model, spec = looks.model, looks.spec
    adapter = None
    try:
        first = looks.first()
        started = time.time()
        outcome = Outcome()
        for number, forget in enumerate(requests):
            if not (spec.updates and spec.learning_rate) or outcome.diverged_at is not None:
                break
            made = _forget(looks, number, forget, retain, stop_after)
            _append(outcome, made, before=number * spec.updates)
        updates = len(outcome.trajectory)
        stopped = outcome.diverged_at is None and 0 < updates < spec.updates
        if stopped and spec.probe_every and updates % spec.probe_every:
            # The shorter run is evaluated after its last update.
            outcome.trajectory[-1].update(looks.probe(updates))
        model.zero_grad(set_to_none=True)  # as large as the model, and no part of what is returned
        if attached is not None:
            adapter = lora.take_off(model, attached)
    finally:
        if attached is not None and adapter is None:
            lora.drop(model, attached)
    first = first if spec.probe_every else {}
    return _Trained(outcome, first, adapter, time.time() - started)


def _append(outcome: Outcome, made: Outcome, before: int) -> None:
    """Add a request's outcome to that of the `before` updates before it."""
    outcome.trajectory += [row | {"update": row["update"] + before} for row in made.trajectory]
    outcome.tokens += made.tokens
    outcome.reference_tokens += made.reference_tokens
    if made.diverged_at is not None:
        outcome.diverged_at = before + made.diverged_at


def _record(
    bench: Bench,
    spec: RunSpec,
    trained: _Trained,
    adapter_size: int,
    metrics: dict[str, float],
    documents: dict[str, dict[str, list[Any]]],
    origin: dict[str, Any],
) -> Record:
    """The record of a run; `adapter_size` is 0 without LoRA, `origin` the run's provenance."""
    outcome = trained.outcome
    first = [{"update": 0.0, **trained.first}] if trained.first else []
    flops = cost.run_flops(bench.model, outcome.tokens, adapter_size, outcome.reference_tokens)
    return Record(
        key=key_of(bench, spec),
        kind="run",
        status="done" if outcome.diverged_at is None else "diverged",
        spec=spec.as_dict(),
        **bench.basis.as_dict(),
        metrics=metrics,
        trajectory=[_row(row) for row in first + outcome.trajectory],
        documents=documents,
        diverged_at=outcome.diverged_at,
        extra={
            "tokens": outcome.tokens,
            "flops": flops,
            **({"trained_parameters": adapter_size} if spec.lora_rank else {}),
        },
        provenance=origin,
    )


def _several_processes() -> bool:
    return bool(PartialState().num_processes > 1)


def warn_of_data(bench: Bench, spec: RunSpec) -> None:
    """Log a warning for documents to forget that are in another set too, or are never drawn.

    And a line for each set whose documents have ends that are left out.
    """
    for split in ("forget", "retain", "approximate", "general_evaluation"):
        sentence = left_out(bench.chunks(split, spec.length, spec.bos_every_chunk))
        if sentence:
            logger.info("%s: %s", split.replace("_", " "), sentence)
    for split, names in overlaps(bench.data).items():
        logger.warning(
            "%d of %d documents to forget are in the %s set, too (first %s): take them out of one",
            len(names),
            len(bench.data.forget),
            split.replace("_", " "),
            names[0],
        )
    chunks, drawn = len(bench.forgotten(spec)), spec.updates * spec.batch_size * spec.requests
    if 0 < drawn < chunks:
        logger.warning(
            "%d updates of %d forget chunks draw %d of the %d there are: give more updates or a "
            "larger batch_size to draw all",
            spec.updates * spec.requests,
            spec.batch_size,
            drawn,
            chunks,
        )


def _requests(chunks: Sequence[Chunk], count: int) -> list[list[Chunk]]:
    """The chunks of `count` requests: documents in their order, as evenly divided as possible."""
    names = list(dict.fromkeys(chunk.document for chunk in chunks))
    if count > len(names):
        raise UnlearnError(
            f"requests is {count}, and there are {len(names)} documents to forget: give at most as "
            "many requests."
        )
    owner = {name: number * count // len(names) for number, name in enumerate(names)}
    return [[c for c in chunks if owner[c.document] == request] for request in range(count)]


def _forget(
    looks: _Looks,
    request: int,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    stop_after: Callable[[nn.Module, int], bool] | None,
) -> Outcome:
    """The updates of one request (its number, from 0), and what they report.

    What a term keeps of "the original model" is of the model as the request found it.
    """
    bench, model, spec = looks.bench, looks.model, looks.spec
    seed = spec.seed + request
    before = request * spec.updates

    def probe(update: int) -> dict[str, float]:
        last = update == spec.updates
        due = spec.probe_every and ((before + update) % spec.probe_every == 0 or last)
        return looks.probe(before + update) if due else {}

    def ends(update: int) -> bool:
        return looks.reached(update) or (stop_after is not None and stop_after(model, update))

    return optimise(
        model,
        _parts(bench, model, spec, request, forget, retain),
        Training(
            updates=spec.updates,
            batch_size=spec.batch_size,
            rate=spec.rate,
            seed=seed,
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
            optimizer=spec.optimizer,
        ),
        execution=bench.execution,
        checkpoint=_checkpoint(looks),
        on_update=probe,
        stop_after=ends,
        description=f"{spec.domain} {spec.method}",
    )


def _parts(
    bench: Bench,
    model: nn.Module,
    spec: RunSpec,
    request: int,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
) -> list[Part]:
    """The forget part of a request and, where the method has a retain term, the retain part."""
    method, seed = chosen_method(spec.method, beta=spec.beta, gamma=spec.gamma), spec.seed + request
    alignment: Any = spec.label_alignment
    labelling = Labelling(bench.special, bench.vocabulary, seed, alignment)
    # Later requests look at the model as they found it, which has the adapter on.
    recompute = bool(spec.lora_rank) and request == 0
    part = Part("forget", forget, method.forget)
    used: Sequence[int] = range(len(forget))
    parts = [_with_reference(part, model, used, labelling, bench.execution, recompute)]
    if method.retain is not None and (spec.retain_weight > 0 or spec.retain_budget is not None):
        part = Part("retain", retain, method.retain, spec.retain_weight)
        used = _needed(retain, spec, seed)
        part = _with_reference(part, model, used, labelling, bench.execution, recompute)
        if spec.retain_budget is not None:
            before = losses_before(model, part, used, bench.execution)
            budget = Budget(spec.retain_budget, spec.dual_rate, before)
            part = dataclasses.replace(part, budget=budget)
        parts.append(part)
    return parts


def _with_reference(
    part: Part,
    model: nn.Module,
    used: Sequence[int],
    labelling: Labelling,
    execution: Execution,
    recompute: bool,
) -> Part:
    """The part with what its term keeps of the original model at the chunks of numbers `used`.

    With `recompute` (the model without its adapter is the original) hidden states are computed
    anew in each micro-batch instead of stored: tokens x hidden numbers, which for a large model
    and long documents is more than the rest of a small computer's memory. It costs a forward pass
    per use: as many operations as storing while no chunk comes twice, and half as many as training
    on the chunk with an adapter. A number per token (a label, a log-probability) is small, and is
    stored.
    """
    if recompute and part.term.needs_original and used:
        first = [part.chunks[used[0]]]
        (sample,) = keep_original(model, first, part.term, labelling, execution=execution)
        if sample is not None and sample.dim() > 1:
            again = functools.partial(_recompute_reference, model, part.term, labelling, execution)
            return dataclasses.replace(part, recompute_reference=again)
    stored: list[torch.Tensor | None] = [None] * len(part.chunks)
    chunks = [part.chunks[i] for i in used]
    made = keep_original(model, chunks, part.term, labelling, execution=execution)
    for index, tensor in zip(used, made, strict=True):
        stored[index] = tensor
    return dataclasses.replace(part, stored_reference=stored)


def _recompute_reference(
    model: nn.Module,
    term: Term,
    labelling: Labelling,
    execution: Execution,
    chunks: Sequence[Chunk],
) -> list[torch.Tensor | None]:
    """What `term` keeps of the model without its adapter, left on the model's device."""
    device = next(model.parameters()).device
    with lora.adapter_off(model):
        return keep_original(model, chunks, term, labelling, execution=execution, place=device)


def _checkpoint(looks: _Looks) -> Checkpoint | None:
    """Where a run saves its state, if asked to: in the user's cache, named by the run's key.

    A run of several requests saves none: a run that goes on begins with the first request, and the
    state may be that of a later one. Nor does a run that stops and is probed now and then: what the
    probe before the last one found is no part of the state.
    """
    bench, spec = looks.bench, looks.spec
    lost = looks.stops and spec.probe_every > 1
    if not bench.execution.save_every or spec.requests > 1 or lost:
        return None
    key = key_of(bench, spec)
    path = cache_folder() / "checkpoints" / f"{key}.safetensors"
    probed = looks.stops and spec.probe_every == 1
    return Checkpoint(path, key, looks.look_again if probed else None)


def _needed(retain: Sequence[Chunk], spec: RunSpec, seed: int) -> list[int]:
    """Which retain chunks the run will meet: only these need the original's hidden states."""
    count = spec.updates * min(spec.batch_size, len(retain))
    return sorted(set(islice(order(seed, "retain", len(retain)), count)))


def _row(row: Mapping[str, float]) -> dict[str, Any]:
    return {name: int(v) if name == "update" else float(f"{v:.8g}") for name, v in row.items()}


def unlearn(
    model: nn.Module,
    tokenizer: Any,
    *,
    method: str = "ga_gd_in_dist",
    forget: Iterable[str | Document],
    retain: Iterable[str | Document] = (),
    approximate: Iterable[str | Document] = (),
    general: Iterable[str | Document] = (),
    learning_rate: float = 1e-5,
    updates: int = 8,
    batch_size: int = 16,
    retain_weight: float = 1.0,
    seed: int = 0,
    length: int = 1024,
    oracle: nn.Module | None = None,
    in_place: bool = True,
    execution: Execution | None = None,
    **settings: Any,
) -> tuple[nn.Module, Record]:
    """Make a causal LM forget texts: (the unlearned model, the record of the run).

    model, tokenizer   of `transformers`; the model is changed in place unless `in_place=False`
    forget             texts (or `Document`s) to forget
    retain             texts of the same kind to keep, for the in-distribution methods
    approximate        texts of the same kind that the model never saw: the target and the
                       non-members of membership inference
    general            other texts; the first two thirds serve as retain data of the general
                       methods, the rest is evaluated on
    oracle             an exactly retrained model, if there is one, to measure the distance to
    settings           any other field of `RunSpec` (schedule, warmup, max_grad_norm, ...); with
                       `lora_rank` the adapter alone is the attribute `lora_adapter` of the model
                       that comes back; `precision` is by default the model's own, float32 where
                       it cannot be trained in that

    Raises `UnlearnError` for bad input, before anything is changed.
    """
    texts = {"forget": forget, "retain": retain, "approximate": approximate, "general": general}
    settings |= {
        "method": method,
        "learning_rate": learning_rate,
        "updates": updates,
        "batch_size": batch_size,
        "retain_weight": retain_weight,
        "seed": seed,
        "length": length,
    }
    bench, spec = open_own(
        model, tokenizer, texts, settings, oracle=oracle, execution=execution, in_place=in_place
    )
    return execute(bench, spec, in_place=True, command="unlearnlib.unlearn(...)")


def open_own(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Iterable[str | Document]],
    settings: Mapping[str, Any],
    *,
    oracle: nn.Module | None = None,
    execution: Execution | None = None,
    in_place: bool = True,
) -> tuple[Bench, RunSpec]:
    """A bench of a model and texts of one's own, and the spec of a run on it.

    texts     "forget" and, as far as there are some, "retain", "approximate" and "general"
    settings  fields of `RunSpec`; `precision` is by default the model's own

    Warns of what in the texts works against the run. Raises `UnlearnError` for whatever cannot be
    unlearned, before the model is changed; without `in_place` the bench holds a copy of it.
    """
    _check_arguments(model, tokenizer, oracle, execution, settings)
    data = own_data(texts)
    if "precision" not in settings:
        settings = {**settings, "precision": _precision_of(model)}
    spec = with_bits(RunSpec().replace(domain=YOURS, **settings), model)
    check_gradients()
    check_finite(model)
    check_head(model)
    if spec.lora_rank:
        lora.check_layers(model)
    if not in_place:
        model = copy.deepcopy(model)
    bench = Bench(
        model,
        tokenizer,
        data,
        settings["length"],
        oracle=oracle,
        execution=execution or Execution(),
    )
    used = [*bench.evaluated(spec).values(), _retain(bench, spec, get_method(spec.method))]
    check_reach(model, [chunk.tokens for chunks in used for chunk in chunks])
    if not spec.lora_rank and not any(p.requires_grad for p in model.parameters()):
        raise UnlearnError(
            "every parameter of the model is frozen, so nothing can be unlearned: let some be "
            "trained, as with model.requires_grad_(True)."
        )
    _requests(bench.forgotten(spec), spec.requests)
    _check_evaluation(bench, spec)
    warn_of_data(bench, spec)
    disable_dropout(model)  # the first change, when nothing speaks against the run any more
    return bench, spec


def _check_arguments(
    model: Any,
    tokenizer: Any,
    oracle: Any,
    execution: Any,
    settings: Mapping[str, Any],
) -> None:
    """`UnlearnError` for arguments that are not what they should be."""
    check_loaded(model, tokenizer)
    check_execution(execution)
    if oracle is not None:
        if not isinstance(oracle, nn.Module):
            raise UnlearnError(f"oracle is {oracle!r}: give a loaded model, or leave it out.")
        check_here(oracle, "the oracle")
    for name in ("profile", "domain"):
        if name in settings:
            raise UnlearnError(f"{name} is given with texts of your own: leave it out.")
    if settings.get("length") is None:
        raise UnlearnError("length is None: give the number of tokens per chunk.")


def _precision_of(model: nn.Module) -> str:
    """The name in `DTYPES` of a model's dtype; float32, with a warning, where it has none."""
    dtype = next(model.parameters()).dtype
    if dtype not in DTYPES.values():
        logger.warning("the model is %s, which is not trained in: it becomes float32", dtype)
    return {v: k for k, v in DTYPES.items()}.get(dtype, "float32")
