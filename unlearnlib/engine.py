"""The optimisation loop: one for pre-training, further training and unlearning.

Its result does not depend on how it was computed. The chunks of update u are a function of seed
and u alone; the loss of an update is the sum over its target tokens divided by their number in
the whole update; gradients of all processes are added, not averaged. So micro-batch size,
gradient accumulation and the number of processes change speed and memory only.

Forget and retain chunks share micro-batches: ascent and descent happen in one forward pass.

Several processes (accelerate) either hold the whole model each and add their gradients, or hold a
part of it each (`Execution.shard`: FSDP, full shard). A long run can write a checkpoint every so
many updates, and go on from there after an interruption (`Checkpoint`).
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import logging
import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from unlearnlib import rope
from unlearnlib.corpus.chunks import Batch, Chunk, collate, collate_packed, pack
from unlearnlib.decoder import decoder_of, head_of
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import KeepsStates, LabelTerm, Original, Term
from unlearnlib.objectives import Head, cross_entropy_by_group
from unlearnlib.profiles import Alignment
from unlearnlib.seeds import seeded_generator
from unlearnlib.sharding import reshard, sharded
from unlearnlib.spec import OPTIMIZERS
from unlearnlib.store.files import write_file
from unlearnlib.weighted_ascent import WeightedAscent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a run is computed: changes speed and memory, never results.

    micro_tokens  padded tokens per micro-batch
    micro_chunks  chunks per micro-batch at most
    progress      show a tqdm bar
    packed        put the chunks of a micro-batch into one row, with attention inside each chunk
                  alone, instead of padding them to the longest
    recompute     activation checkpointing: keep only each layer's input and compute the rest
                  again on the way back
    shard         with several processes: each holds a part of parameters, gradients and
                  optimizer state (FSDP, full shard)
    save_every    write a checkpoint after every so many updates (0: never)
    autocast      run matrix products in bfloat16 over float32 parameters (this one does change
                  results, within bfloat16's rounding; only pre-training uses it, and its record
                  says so)
    """

    micro_tokens: int = 4096
    micro_chunks: int = 64
    progress: bool = True
    packed: bool = False
    recompute: bool = False
    shard: bool = False
    save_every: int = 0
    autocast: bool = False


def check_execution(execution: object) -> None:
    """`UnlearnError` for what is no `Execution`; None stands for the usual one."""
    if execution is not None and not isinstance(execution, Execution):
        raise UnlearnError(f"execution is {execution!r}: give an Execution, or leave it out.")


def check_gradients() -> None:
    """`UnlearnError` where torch was told to keep no gradients."""
    if not torch.is_grad_enabled():
        raise UnlearnError(
            "gradients are switched off here (torch.no_grad or torch.inference_mode), and nothing "
            "can be trained without: make the call outside of it."
        )


@dataclass(frozen=True)
class Training:
    """What is trained and how: with the model and the data it decides the result.

    updates        number of updates
    batch_size     chunks of every part per update, over all processes (a part with fewer gives
                   each of its chunks once)
    rate           the learning rate of an update, by its number (from 0)
    seed           of the order of chunks
    betas          AdamW's decay rates of the two moments
    weight_decay   AdamW's
    max_grad_norm  the gradient is scaled down to this norm where it is larger; 0: never
    optimizer      one of `spec.OPTIMIZERS`
    in_order       the chunks come once, in the order that they are given in; `seed` is not used,
                   and the last update may have fewer
    """

    updates: int
    batch_size: int
    rate: Callable[[int], float]
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    optimizer: str = "adamw"
    in_order: bool = False


@dataclass(frozen=True)
class Budget:
    """A part's weight as the multiplier of a constraint: its loss may rise by at most so much.

    After each update the weight grows by `rate` times what the loss, at the documents of the
    update, has risen beyond `most`, and shrinks as long as it has not; it is never negative. That
    is dual ascent, as PDU (Entesari et al. 2025, arXiv 2506.05314) has it, on a bound relative to
    the loss before the first update, where PDU's is absolute; PDU also warms up the weight.

    most    nats per target by which the loss may exceed what it was
    rate    step of the weight per nat
    before  loss of each chunk before the first update, summed over its targets
    """

    most: float
    rate: float
    before: Sequence[float]

    def rise(self, loss: float, chunks: Sequence[int], targets: int) -> float:
        """How far the mean loss at these chunks (their numbers) is above what it was."""
        return loss - sum(self.before[i] for i in chunks) / targets

    def next_weight(self, weight: float, rise: float) -> float:
        """The weight after an update that was made with `weight`."""
        return max(0.0, weight + self.rate * (rise - self.most))


@dataclass(frozen=True)
class Part:
    """Data with a term: the forget part, the retain part, or all there is to pre-train on.

    `stored_reference` is what the term keeps of the original model, one entry per chunk. With LoRA
    the original model is there (adapter off), so a large reference is not stored but recomputed
    for each micro-batch: `recompute_reference(chunks)` gives one entry for each of its chunks.

    With a `budget` the weight is that of the first update, and the trajectory has NAME_weight of
    every update and NAME_rise, by which the loss was above what it was at first.
    """

    name: str
    chunks: Sequence[Chunk]
    term: Term
    weight: float = 1.0
    stored_reference: Sequence[Tensor | None] = ()
    recompute_reference: Callable[[Sequence[Chunk]], Sequence[Tensor | None]] | None = None
    budget: Budget | None = None


@dataclass
class Outcome:
    """What `optimise` reports: per-update values, and where it diverged (None: it did not).

    tokens            that went forward and backward, padding left out
    reference_tokens  those of parts with `recompute_reference`, which went forward through the
                      original model too
    """

    trajectory: list[dict[str, float]] = field(default_factory=list)
    diverged_at: int | None = None
    tokens: int = 0
    reference_tokens: int = 0

    def count(self, parts: Sequence[Part], picks: Sequence[tuple[int, int]]) -> None:
        """Add the tokens of an update (`picks`: see `draw_update`)."""
        for p, i in picks:
            tokens = len(parts[p].chunks[i].tokens)
            self.tokens += tokens
            self.reference_tokens += tokens if parts[p].recompute_reference is not None else 0


@dataclass(frozen=True)
class Checkpoint:
    """Where a run saves its state, and the run's key, by which it knows the state as its own.

    The file is safetensors: parameters, the optimizer's moments, and as metadata the run's key,
    the number of updates made and the outcome so far. The order of documents needs no state: it
    is a function of the update's number.

    `on_load(u)` is called when the state after u updates has been read and the run goes on from it.
    """

    path: Path
    key: str
    on_load: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Labelling:
    """What `Term.prepare` needs to choose labels, the same for all chunks of a run.

    special     ids of the tokenizer's special tokens
    vocabulary  size of the tokenizer's vocabulary
    seed        of random labels
    alignment   "aligned", or "release" for the authors' label positions
    """

    special: frozenset[int]
    vocabulary: int
    seed: int = 0
    alignment: Alignment = "aligned"


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(B, T, H) final hidden states; those of padding have no meaning."""
    # No mask: padding is on the right, where causal attention does not look, and without a mask
    # attention skips the half that it would hide. For a packed batch transformers makes a
    # block-diagonal mask from the positions, which begin at 0 in each chunk.
    where = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    out = decoder_of(model)(input_ids=batch.input_ids, use_cache=False, **where)
    return out.last_hidden_state


def micro_batches(config: Any, chunks: Sequence[Chunk], execution: Execution) -> list[list[int]]:
    """`pack`, of a model with this configuration: the longest first, what differs apart.

    Where a model computes otherwise as soon as one sequence of a batch is long (see `rope.turns`),
    chunks of both sides share no micro-batch: a chunk's score would depend on its company.
    """
    limits = rope.turns(config)
    sides: dict[int, list[int]] = {}
    for index, chunk in enumerate(chunks):
        sides.setdefault(bisect.bisect_left(limits, len(chunk.tokens)), []).append(index)
    return [
        [side[i] for i in rows]
        for _, side in sorted(sides.items(), reverse=True)
        for rows in pack([chunks[i] for i in side], execution.micro_tokens, execution.micro_chunks)
    ]


def order(seed: int, stream: str, count: int) -> Iterator[int]:
    """Chunk indices without end: epoch after epoch, each in an order of its own.

    A function of seed, stream name and position alone.
    """
    epoch = 0
    while True:
        generator = seeded_generator(f"order:{seed}:{stream}:{epoch}")
        yield from torch.randperm(count, generator=generator).tolist()
        epoch += 1


@torch.no_grad()
def keep_original(
    model: nn.Module,
    chunks: Sequence[Chunk],
    term: Term,
    labelling: Labelling,
    *,
    execution: Execution,
    place: torch.device | str = "cpu",
) -> list[Tensor | None]:
    """What `term` keeps of the original model at each chunk, in the memory of `place`."""
    head = head_of(model).detach()
    device = head.weight.device
    kept: list[Tensor | None] = [None] * len(chunks)
    for rows in micro_batches(model.config, chunks, execution):
        states = None
        if term.needs_original:
            states = hidden_states(model, collate([chunks[i] for i in rows], device))
        for row, index in enumerate(rows):
            chunk = chunks[index]
            hidden = None if states is None else states[row, : len(chunk.tokens)]
            made = term.prepare(
                Original(
                    chunk,
                    hidden,
                    head,
                    labelling.special,
                    labelling.vocabulary,
                    labelling.seed,
                    labelling.alignment,
                )
            )
            kept[index] = None if made is None else made.to(place)
    return kept


@torch.no_grad()
def losses_before(
    model: nn.Module, part: Part, used: Sequence[int], execution: Execution
) -> list[float]:
    """The loss of each chunk of a part, summed over its targets; 0 of those that are not `used`.

    A distance to the original model is 0 at the original, and is not computed.
    """
    found = [0.0] * len(part.chunks)
    if isinstance(part.term, KeepsStates):
        return found
    head = head_of(model)
    device = next(model.parameters()).device
    for rows in micro_batches(model.config, [part.chunks[i] for i in used], execution):
        indices = [used[row] for row in rows]
        batch = collate([part.chunks[i] for i in indices], device)
        states = hidden_states(model, batch)
        targets = batch.targets.split([part.chunks[i].targets for i in indices])
        for row, index in enumerate(indices):
            kept = part.stored_reference[index] if part.stored_reference else None
            hidden = states[row][batch.target_mask[row]]
            at = hidden, head, targets[row], None if kept is None else kept.to(device)
            found[index] = _loss_alone(part.term, at, head)
    return found


def optimise(
    model: nn.Module,
    parts: Sequence[Part],
    training: Training,
    *,
    execution: Execution | None = None,
    checkpoint: Checkpoint | None = None,
    on_update: Callable[[int], Mapping[str, float] | None] | None = None,
    stop_after: Callable[[int], bool] | None = None,
    description: str = "updates",
) -> Outcome:
    """Update `model` in place.

    `on_update(u)` is called after u updates (from 1) and may add values to the trajectory. Then
    `stop_after(u)` is asked: if it is true, the run ends. A non-finite loss or gradient ends the
    run before it reaches the parameters.

    Where there is a `checkpoint`, the run goes on from it, and ends in the same parameters as
    without the interruption.

    Raises `UnlearnError` without chunks or trainable parameters, and for a model of which the
    result would depend on how it is computed (see `check_computation`).
    """
    check_gradients()
    execution = execution or Execution()
    world = PartialState(cpu=next(model.parameters()).device.type == "cpu")
    parts = _check_chunks(model, parts, execution)
    masters = _master_parameters(model)
    parameters = _trainable_parameters(model)
    optimizer = make_optimizer(
        training.optimizer,
        list(masters.values()),
        betas=training.betas,
        weight_decay=training.weight_decay,
    )
    original_head = _original_head(model, parts)
    streams = _streams(parts, training)
    outcome = Outcome()
    done = 0
    if checkpoint is not None:
        done = _load_checkpoint(checkpoint, model, masters, optimizer, outcome)
    _begin_training(model, execution)
    quiet = not (execution.progress and world.is_main_process)
    bar = tqdm(range(training.updates), desc=description, disable=quiet)
    for update in bar:
        picks = draw_update(parts, streams, training.batch_size)
        if update < done:  # made before the interruption; drawn again to reach the next one
            continue
        parts = _with_weights(parts, outcome.trajectory)
        sums = accumulate_gradients(model, parts, picks, original_head, execution, world)
        _all_reduce_gradients(parameters, sums, world)
        norm = gradient_norm(parameters)
        outcome.count(parts, picks)
        rate = training.rate(update)
        losses = {
            part.name: value / (part.weight or 1.0)
            for part, value in zip(parts, sums.tolist(), strict=True)
        }
        row = {"update": float(update + 1), "rate": rate, "grad_norm": norm, **losses}
        row.update(_rises(parts, picks, losses))
        if not all(math.isfinite(v) for v in (norm, *losses.values())):
            logger.warning("diverged at update %d: %s", update + 1, row)
            outcome.trajectory.append(row)
            outcome.diverged_at = update + 1
            break
        apply_update(model, masters, optimizer, rate, norm, training.max_grad_norm)
        if on_update is not None:
            row.update(on_update(update + 1) or {})
            model.train()
        outcome.trajectory.append(row)
        bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()}, refresh=False)
        if stop_after is not None and stop_after(update + 1):
            break
        due = execution.save_every and (update + 1) % execution.save_every == 0
        if checkpoint is not None and due and update + 1 < training.updates:
            _save_checkpoint(checkpoint, update + 1, model, masters, optimizer, outcome)
    _end_training(model, execution)
    if checkpoint is not None:
        _shard_path(checkpoint, model).unlink(missing_ok=True)
    return outcome


def _with_weights(parts: list[Part], trajectory: Sequence[Mapping[str, float]]) -> list[Part]:
    """The parts with the weights of the next update: of budgets, by the last row so far."""
    if not trajectory or all(part.budget is None for part in parts):
        return parts
    last = trajectory[-1]
    return [
        part
        if part.budget is None
        else replace(
            part,
            weight=part.budget.next_weight(last[f"{part.name}_weight"], last[f"{part.name}_rise"]),
        )
        for part in parts
    ]


def _rises(
    parts: Sequence[Part], picks: Sequence[tuple[int, int]], losses: Mapping[str, float]
) -> dict[str, float]:
    """Weight and rise of each part that has a budget, for the trajectory."""
    row = {}
    for number, part in enumerate(parts):
        if part.budget is None:
            continue
        own = [i for p, i in picks if p == number]
        targets = sum(part.chunks[i].targets for i in own)
        row[f"{part.name}_weight"] = part.weight
        row[f"{part.name}_rise"] = part.budget.rise(losses[part.name], own, targets)
    return row


def _streams(parts: Sequence[Part], training: Training) -> list[Iterator[int]]:
    """In which order the chunks of each part come."""
    if training.in_order:
        return [iter(range(len(part.chunks))) for part in parts]
    return [order(training.seed, part.name, len(part.chunks)) for part in parts]


def _check_chunks(model: nn.Module, parts: Sequence[Part], execution: Execution) -> list[Part]:
    """The parts that have chunks.

    `UnlearnError` if there is none, and by `check_computation` on a few of the chunks.
    """
    parts = [part for part in parts if part.chunks]
    if not parts:
        raise UnlearnError("there are no documents to train on: give at least one.")
    sample = [part.chunks[0] for part in parts] + list(parts[0].chunks[1:2])
    check_computation(model, sample, execution)
    if execution.packed:
        _check_row(model, sample, execution)
    return parts


@torch.no_grad()
def _check_row(model: Any, chunks: Sequence[Chunk], execution: Execution) -> None:
    """`UnlearnError` for a model that cannot read a row of chunks longer than its positions.

    Positions begin at 0 in each chunk of a row, so most models can; one that keeps a mask of a
    fixed width (GPT-Neo) cannot. Only a row shows it, no longer than those that training makes.
    """
    most = getattr(model.config, "max_position_embeddings", None) or math.inf
    row, tokens = [], 0
    for chunk in itertools.cycle(chunks):
        if tokens > most or tokens + len(chunk.tokens) > execution.micro_tokens:
            break
        row.append(replace(chunk, context=1))
        tokens += len(chunk.tokens)
    if tokens <= most:
        return
    try:
        hidden_states(model, collate_packed(row, next(model.parameters()).device))
    except (RuntimeError, IndexError) as error:
        if "memory" in str(error):  # that is told where memory is
            raise
        raise UnlearnError(
            f"{type(model).__name__} reads at most {most} tokens in a row, also where documents "
            f"are packed: leave out --packed, or give --micro-tokens {most} or less."
        ) from None


def _trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen; `UnlearnError` if there is none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UnlearnError(
            f"every parameter of {type(model).__name__} is frozen, and none can be trained: call "
            "requires_grad_() on it, or set lora_rank."
        )
    return parameters


def _original_head(model: nn.Module, parts: Sequence[Part]) -> Head:
    """The output head as it is now: a copy, if it is trained and a term needs the original's."""
    head = head_of(model)
    trained = head.weight.requires_grad and any(p.term.needs_original for p in parts)
    return head.detach(clone=trained)


def _begin_training(model: nn.Module, execution: Execution) -> None:
    model.train()  # dropout is off (models.disable_dropout); recomputing needs train mode
    if execution.recompute:
        _set_activation_checkpointing(model, True)


def _end_training(model: nn.Module, execution: Execution) -> None:
    if execution.recompute:
        _set_activation_checkpointing(model, False)
    model.eval()


@torch.no_grad()
def check_computation(model: nn.Module, chunks: Sequence[Chunk], execution: Execution) -> None:
    """`UnlearnError` for a model of which a result would depend on how it is computed.

    That is a model that computes something else in training mode (dropout), and, where chunks are
    packed, one whose chunks see each other: not every model makes a mask from positions, and a
    recurrent state has no mask. Both show in the first tokens of two `chunks`.
    """
    few = [replace(c, tokens=c.tokens[:8], context=1) for c in chunks[:2]]
    device = next(model.parameters()).device
    last = collate(few[-1:], device)
    name = type(model).__name__
    training = model.training
    model.eval()
    alone = hidden_states(model, last)[0].cpu().double()  # (T, H)
    packed = None
    if execution.packed and len(few) > 1:
        packed = hidden_states(model, collate_packed(few, device))[0, -len(alone) :]
    model.train()
    trained = hidden_states(model, last)[0]
    model.train(training)
    rounding = 0.01 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 0.1
    for states, fault in (
        (
            trained,
            f"{name} computes otherwise in training than in use: set its dropout to 0 "
            "(models.disable_dropout, or its configuration).",
        ),
        (
            packed,
            f"packed documents of {name} see each other: leave out --packed (packed=True of "
            "Execution).",
        ),
    ):
        if states is None:
            continue
        far = (states.cpu().double() - alone).norm(dim=-1) / alone.norm(dim=-1)
        if bool((far > rounding).any()):  # NaN, of a broken model, shows elsewhere
            raise UnlearnError(fault)


def _set_activation_checkpointing(model: Any, on: bool) -> None:
    """Switch activation checkpointing on or off, by the name that this transformers gives it."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        # The reentrant kind needs inputs that require gradients; token ids do not.
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()


def _master_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What the optimizer of this process steps, by the trainable parameter's name.

    The parameter itself, or of a sharded model this process's shard as a plain tensor in the same
    memory: AdamW works element by element, so it need not know of shards. Of parameters in
    bfloat16 or float16 a float32 master copy: a step is mostly smaller than the gap between two
    numbers of 8 bits, and would be rounded away.
    """
    reshard(model)
    masters: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensor = _local(parameter)
        if tensor.dtype in (torch.bfloat16, torch.float16):
            masters[name] = nn.Parameter(tensor.detach().float())
        else:
            masters[name] = parameter if tensor is parameter else nn.Parameter(tensor.detach())
    return masters


@torch.no_grad()
def _copy_back(model: nn.Module, masters: Mapping[str, Tensor]) -> None:
    """Copy masters of another dtype into the model's parameters."""
    for name, parameter in model.named_parameters():
        if name in masters and masters[name].dtype != parameter.dtype:
            _local(parameter).copy_(masters[name])


def make_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """One of `OPTIMIZERS` over parameters; `UnlearnError` where bitsandbytes is needed and absent.

    adamw             torch's own: two moments in the parameters' dtype
    adamw_8bit        two moments of one byte each: a different rounding, hence other results
    paged_adamw_8bit  the same, paged out to the computer's memory when the GPU's is short
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if name == "adamw":
        fused = parameters[0].dtype in (torch.float32, torch.float64, torch.bfloat16)
        return torch.optim.AdamW(
            parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=fused
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise UnlearnError(
            f"optimizer {name!r} needs the package bitsandbytes and a GPU: install it, or choose "
            "adamw."
        ) from error
    kinds = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return kinds[name](parameters, lr=0.0, betas=betas, weight_decay=weight_decay)


def _shard_path(checkpoint: Checkpoint, model: nn.Module) -> Path:
    """The file of this process: one for all, or where the model is sharded one for each."""
    if not sharded(model):
        return checkpoint.path
    name = f"{checkpoint.path.stem}-{dist.get_rank() + 1}-of-{dist.get_world_size()}"
    return checkpoint.path.with_name(name + checkpoint.path.suffix)


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _save_checkpoint(
    checkpoint: Checkpoint,
    update: int,
    model: nn.Module,
    masters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    outcome: Outcome,
) -> None:
    """Write the state after `update` updates, as a whole file or none."""
    if not (sharded(model) or PartialState().is_main_process):
        return
    tensors = {}
    numbers: dict[str, float] = {}  # bitsandbytes counts steps in a plain number
    for name, parameter in masters.items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value.detach().contiguous()
            else:
                numbers[f"{key}/{name}"] = value
    metadata = {
        "numbers": json.dumps(numbers),
        "key": checkpoint.key,
        "update": str(update),
        "outcome": json.dumps(
            {
                "trajectory": outcome.trajectory,
                "tokens": outcome.tokens,
                "recalled": outcome.reference_tokens,
            }
        ),
    }
    metadata["digest"] = _checkpoint_digest(tensors, metadata)
    path = _shard_path(checkpoint, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(tensors, metadata), replace=True)


def _checkpoint_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a checkpoint holds, but for the digest itself."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_local(tensor).cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, text in sorted(metadata.items()):
        if name != "digest":
            digest.update(f"{name} {text}\n".encode())
    return digest.hexdigest()


def _read_checkpoint(
    path: Path, key: str, masters: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a checkpoint; an error of any kind where it cannot be used.

    Earlier versions wrote no digest: of theirs only names and shapes are checked.
    """
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        if metadata.get("key") != key:
            raise ValueError("it belongs to another run")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("digest", "") not in ("", _checkpoint_digest(tensors, metadata)):
        raise ValueError("it was changed since it was written")
    if {f"parameter/{name}" for name in masters} - set(tensors):
        raise ValueError("it lacks parameters")
    for name, parameter in masters.items():
        found = tensors[f"parameter/{name}"]
        if found.shape != parameter.shape or found.dtype != parameter.dtype:
            raise ValueError(f"{name} has the shape {tuple(found.shape)} of {found.dtype}")
    return tensors, metadata


def _load_checkpoint(
    checkpoint: Checkpoint,
    model: nn.Module,
    masters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    outcome: Outcome,
) -> int:
    """Restore the state from its file: the number of updates made, 0 if there is no such file.

    A file that is damaged or another run's is set aside, with a warning, and the run begins anew.
    """
    path = _shard_path(checkpoint, model)
    if not path.exists():
        return _min_over_ranks(0)
    try:
        tensors, metadata = _read_checkpoint(path, checkpoint.key, masters)
        past = json.loads(metadata["outcome"])
        done = int(metadata["update"])
        state: dict[str, Any] = {**tensors, **json.loads(metadata.get("numbers", "{}"))}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        aside = path.with_name(path.name + ".damaged")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.replace(aside)
        logger.warning(
            "the checkpoint %s cannot be used (%s): it is set aside as %s, and the run begins anew",
            path,
            " ".join(str(error).split()),
            aside.name,
        )
        return _min_over_ranks(0)
    if _min_over_ranks(done) != done:  # another process's file is missing: none can be used
        return 0
    with torch.no_grad():
        for name, parameter in masters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            # All on the parameter's device, the count of steps too: fused AdamW reads it there.
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if isinstance(value, Tensor) else value
                for key, _, of in (k.partition("/") for k in state)
                if of == name and key != "parameter"
                for value in (state[f"{key}/{name}"],)
            }
    _copy_back(model, masters)
    outcome.trajectory = past["trajectory"]
    outcome.tokens = past["tokens"]
    outcome.reference_tokens = past.get("recalled", 0)
    logger.info("going on after update %d", done)
    if checkpoint.on_load is not None:
        checkpoint.on_load(done)
    return done


def _min_over_ranks(done: int) -> int:
    """The fewest updates that any process can restore: all must go on from the same update."""
    if not (dist.is_available() and dist.is_initialized()):
        return done
    least = torch.tensor(done, device=PartialState().device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def draw_update(
    parts: Sequence[Part], streams: Sequence[Iterator[int]], batch_size: int
) -> list[tuple[int, int]]:
    """The chunks of the next update, whichever process holds them: numbers of part and chunk."""
    return [
        (p, i)
        for p, (part, stream) in enumerate(zip(parts, streams, strict=True))
        for i in itertools.islice(stream, min(batch_size, len(part.chunks)))
    ]


def accumulate_gradients(
    model: nn.Module,
    parts: Sequence[Part],
    picks: Sequence[tuple[int, int]],
    original_head: Head,
    execution: Execution,
    world: Any,
) -> Tensor:
    """Set `grad` to this process's share of the update's gradient, micro-batch after micro-batch.

    Returns the process's share of each part's weighted loss, (parts,) float64 on the CPU. A part's
    loss is divided by its number of targets in the whole update, so shares add up to its mean.
    """
    device = next(model.parameters()).device
    chunks = [parts[p].chunks[i] for p, i in picks]
    counts = [
        sum(parts[q].chunks[i].targets for q, i in picks if q == p) for p in range(len(parts))
    ]
    sums = torch.zeros(len(parts), dtype=torch.float64)
    micros = micro_batches(model.config, chunks, execution)
    model.zero_grad(set_to_none=True)
    own = micros[world.process_index :: world.num_processes]
    # Of a sharded model all processes must run equally many forward and backward passes: one that
    # has no micro-batch left runs the update's smallest, with weight 0.
    idle = math.ceil(len(micros) / world.num_processes) - len(own) if sharded(model) else 0
    for number, rows in enumerate(own + [micros[-1]] * idle):
        mine = number < len(own)
        with torch.autocast(device.type, torch.bfloat16, enabled=execution.autocast):
            loss, shares = _micro_batch_loss(
                model,
                parts,
                [picks[r] for r in rows],
                counts if mine else [math.inf] * len(parts),
                original_head,
                execution.packed,
            )
        loss.backward()
        if mine:
            sums += shares
    return sums


def _micro_batch_loss(
    model: nn.Module,
    parts: Sequence[Part],
    picks: Sequence[tuple[int, int]],
    counts: Sequence[float],
    original_head: Head,
    packed: bool,
) -> tuple[Tensor, Tensor]:
    """A micro-batch's share of the update's loss, from one forward pass, and each part's share.

    (scalar to go backward from, (parts,) float64 on the CPU). `counts` are the targets of each
    part in the whole update.
    """
    chunks = [parts[p].chunks[i] for p, i in picks]
    device = next(model.parameters()).device
    # Before the forward pass whose activations are kept: the memory for this is free again then.
    references = [_reference(model, parts, number, picks) for number in range(len(parts))]
    batch = (collate_packed if packed else collate)(chunks, device)
    hidden = hidden_states(model, batch)[batch.target_mask]  # (N, H)
    hidden, head = _as_autocast(hidden, head_of(model))
    owner = torch.repeat_interleave(
        torch.tensor([p for p, _ in picks]), torch.tensor([c.targets for c in chunks])
    ).to(device)  # (N,) which part each target belongs to
    labels = batch.targets.clone()
    # As wide as the sums that it weighs: MPS has no float64.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    coefficient = torch.zeros(len(owner), device=device, dtype=wide)
    labelled = torch.zeros(len(owner), device=device, dtype=torch.bool)
    losses: list[Tensor] = []
    values = torch.zeros(len(parts), dtype=torch.float64)
    own: dict[int, float] = {}  # losses that are not the sum that goes backward
    for number, part in enumerate(parts):
        mine = owner == number
        if not bool(mine.any()):  # a micro-batch of the other parts' chunks alone
            continue
        tensors = [tensor for tensor in references[number] if tensor is not None]
        old = torch.cat(tensors).to(device) if tensors else None
        share = part.weight / counts[number]
        if part.budget is not None and not part.weight:
            # Nothing is pushed, and the loss must be known all the same.
            at = hidden[mine].detach(), head.detach(), batch.targets[mine], old
            own[number] = _loss_alone(part.term, at, original_head) / counts[number]
        if isinstance(part.term, LabelTerm):
            labels[mine] = part.term.labels(batch.targets[mine], old)
            coefficient[mine] = part.term.sign * share
            labelled |= mine
            if isinstance(part.term, WeightedAscent):
                lengths = [part.chunks[i].targets for p, i in picks if p == number]
                weight, loss = part.term.weigh_at(
                    hidden[mine], head, batch.targets[mine], old, lengths
                )
                coefficient[mine] *= weight
                own[number] = share * float(loss.sum())
            continue
        weights = torch.full((int(mine.sum()),), share, device=device, dtype=wide)
        losses.append(
            part.term.loss(hidden[mine], head, batch.targets[mine], old, weights, original_head)
        )
        values[number] = losses[-1].detach()
    if bool(labelled.any()):
        # All parts that are a cross-entropy at once: one gradient of the head, not one for each.
        if not bool(labelled.all()):
            hidden, labels, coefficient, owner = (
                x[labelled] for x in (hidden, labels, coefficient, owner)
            )
        total, by_part = cross_entropy_by_group(
            hidden, head, labels, coefficient, owner, len(parts)
        )
        losses.append(total)
        values += by_part.cpu().double()
    for number, value in own.items():
        values[number] = value
    return torch.stack(losses).sum(), values


def _as_autocast(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Hidden states and head in the precision that autocast computes in, where it is on.

    Once for the micro-batch: left to itself autocast would convert the head anew for every chunk of
    positions.
    """
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind):
        return hidden, head
    narrow = torch.get_autocast_dtype(kind)
    return hidden.to(narrow), head.to(narrow)


@torch.no_grad()
def _loss_alone(
    term: Term, at: tuple[Tensor, Head, Tensor, Tensor | None], original_head: Head
) -> float:
    """The sum of a term's loss over the positions `at`: hidden states, head, targets, kept."""
    hidden, head, targets, kept = at
    wide = torch.promote_types(hidden.dtype, torch.float32)
    ones = torch.ones(len(hidden), device=hidden.device, dtype=wide)
    return float(term.loss(hidden, head, targets, kept, ones, original_head))


def _reference(
    model: nn.Module, parts: Sequence[Part], number: int, picks: Sequence[tuple[int, int]]
) -> Sequence[Tensor | None]:
    """What the term of part `number` has of the original model at its chunks of a micro-batch."""
    part = parts[number]
    rows = [i for p, i in picks if p == number]
    if part.recompute_reference is None:
        return [part.stored_reference[i] for i in rows] if part.stored_reference else []
    if rows:
        return part.recompute_reference([part.chunks[i] for i in rows])
    if sharded(model):  # the processes that have chunks of this part need this one's layers
        part.recompute_reference([min(part.chunks, key=lambda chunk: len(chunk.tokens))])
    return []


def _all_reduce_gradients(parameters: Sequence[Tensor], sums: Tensor, world: Any) -> None:
    """Add gradients and loss sums over processes, in place."""
    if world.num_processes == 1:
        return
    is_sharded = any(isinstance(p, DTensor) for p in parameters)
    for p in parameters:  # a process without a micro-batch takes part with zeros
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if not is_sharded:  # FSDP has added the gradients of shards already
            dist.all_reduce(p.grad)
    total = sums.to(parameters[0].device)
    dist.all_reduce(total)
    sums.copy_(total)


def gradient_norm(parameters: Sequence[Tensor]) -> float:
    """The Euclidean norm of the gradient of all `parameters` together, over all shards."""
    grads = [_local(p.grad) for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    # Pieces in the gradient's own dtype (at least float32), their sum in float64: a float64 copy
    # takes longer than the optimizer's step. A processor adds up a piece one by one in a few
    # lanes, so there pieces are short, or rounding would show.
    size = 1 << 24 if grads[0].is_cuda else 1 << 16
    norms = [
        torch.linalg.vector_norm(piece, dtype=torch.promote_types(piece.dtype, torch.float32))
        for g in grads
        for piece in g.reshape(-1).split(size)
    ]
    square = torch.stack(norms).cpu().double().pow(2).sum()
    if any(isinstance(p, DTensor) for p in parameters):
        square = square.to(grads[0].device)
        dist.all_reduce(square)
    return float(square.sqrt())


def apply_update(
    model: nn.Module,
    masters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    rate: float,
    norm: float,
    max_grad_norm: float,
) -> None:
    """Clip the gradient, whose norm is `norm`, to `max_grad_norm`, and make one optimizer step.

    The optimizer steps `masters` (see `_master_parameters`); copies go back into the model.
    """
    for name, parameter in model.named_parameters():
        if name not in masters or parameter.grad is None:
            continue
        if max_grad_norm and norm > max_grad_norm:
            parameter.grad.mul_(max_grad_norm / norm)
        masters[name].grad = _local(parameter.grad).to(masters[name].dtype)
        if masters[name] is not parameter:
            parameter.grad = None
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    _copy_back(model, masters)
    for name, parameter in model.named_parameters():
        if name in masters and masters[name] is not parameter:
            masters[name].grad = None  # in float32 twice the model: not for the backward pass


def peak_memory_bytes(device: torch.device | str) -> int:
    """Peak memory of this process so far: GPU allocations on CUDA, resident set elsewhere."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if (status := Path("/proc/self/status")).exists():
        # Linux's ru_maxrss is at least that of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
