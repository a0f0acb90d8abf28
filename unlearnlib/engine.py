"""The optimisation loop: one for pre-training, further training and unlearning.

Its result does not depend on how it was computed. The chunks of update u are a function of seed
and u alone; the loss of an update is the sum over its target tokens divided by their number in
the whole update; gradients of all processes are added, not averaged. So micro-batch size,
gradient accumulation and the number of processes change speed and memory only.

Forget and retain chunks share micro-batches: ascent and descent happen in one forward pass.

Several processes (accelerate) either hold the whole model each and add their gradients, or hold a
part of it each (`Execution.shard`: FSDP, full shard). A long run can leave a checkpoint every so
many updates and be taken up again there (`Checkpoint`).
"""

from __future__ import annotations

import contextlib
import hashlib
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
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from unlearnlib.corpus.chunks import Batch, Chunk, collate, collate_packed, pack
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import Alignment, LabelTerm, Original, Term
from unlearnlib.models import decoder_of, head_of, reshard, sharded
from unlearnlib.objectives import Head, cross_entropy_by_group
from unlearnlib.spec import OPTIMIZERS
from unlearnlib.store import write_file

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
    save_every    leave a checkpoint after every so many updates (0: never)
    autocast      run matrix products in bfloat16 over float32 parameters (this one does change
                  results, within bfloat16's rounding; only pre-training uses it, and says so)
    """

    micro_tokens: int = 4096
    micro_chunks: int = 64
    progress: bool = True
    packed: bool = False
    recompute: bool = False
    shard: bool = False
    save_every: int = 0
    autocast: bool = False


@dataclass(frozen=True)
class Part:
    """Data with a term: the forget part, the retain part, or all there is to pre-train on.

    `kept` is what the term kept of the original model, one entry per chunk. Where the original is
    always at hand, `recall` gives the same of any chunks when a micro-batch needs it.
    """

    name: str
    chunks: Sequence[Chunk]
    term: Term
    weight: float = 1.0
    kept: Sequence[Tensor | None] = ()
    recall: Callable[[Sequence[Chunk]], Sequence[Tensor | None]] | None = None


@dataclass
class Outcome:
    """What `optimise` reports: per-update values, and where it diverged (None: it did not).

    tokens counts the tokens that went forward and backward, padding left out; `recalled` those
    that besides went forward through the original model, for parts with `recall`.
    """

    trajectory: list[dict[str, float]] = field(default_factory=list)
    diverged_at: int | None = None
    tokens: int = 0
    recalled: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """Where a run leaves its state, and what marks the state as this run's.

    The file is safetensors: parameters, the optimizer's moments, and as metadata the run's key,
    the number of updates made and the outcome so far. The order of documents needs no state: it
    is a function of the update's number.
    """

    path: Path
    key: str


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(B, T, H) final hidden states; of padding they mean nothing."""
    # No mask: padding stands to the right, where causal attention does not look, and without a
    # mask attention leaves out the half that is never seen. Of a packed batch transformers makes
    # a block-diagonal mask, from positions that begin anew with each chunk.
    where = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    out = decoder_of(model)(input_ids=batch.input_ids, use_cache=False, **where)
    return out.last_hidden_state  # type: ignore[no-any-return]


def order(seed: int, stream: str, count: int) -> Iterator[int]:
    """Chunk indices for ever: epoch after epoch, each in an order of its own.

    A function of seed, stream name and position alone.
    """
    epoch = 0
    while True:
        digest = hashlib.sha256(f"order:{seed}:{stream}:{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        yield from torch.randperm(count, generator=generator).tolist()
        epoch += 1


@torch.no_grad()
def keep_original(
    model: nn.Module,
    chunks: Sequence[Chunk],
    term: Term,
    *,
    special: frozenset[int],
    vocabulary: int,
    seed: int,
    alignment: Alignment,
    execution: Execution,
    place: torch.device | str = "cpu",
) -> list[Tensor | None]:
    """What `term` keeps of the original model at each chunk, in the memory of `place`."""
    head = head_of(model).detach()
    device = head.weight.device
    kept: list[Tensor | None] = [None] * len(chunks)
    for rows in pack(chunks, execution.micro_tokens, execution.micro_chunks):
        states = None
        if term.needs_original:
            states = hidden_states(model, collate([chunks[i] for i in rows], device))
        for row, index in enumerate(rows):
            chunk = chunks[index]
            hidden = None if states is None else states[row, : len(chunk.tokens)]
            made = term.prepare(Original(chunk, hidden, head, special, vocabulary, seed, alignment))
            kept[index] = None if made is None else made.to(place)
    return kept


def optimise(
    model: nn.Module,
    parts: Sequence[Part],
    *,
    updates: int,
    batch_size: int,
    rate: Callable[[int], float],
    seed: int,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    max_grad_norm: float = 0.0,
    execution: Execution | None = None,
    optimizer: str = "adamw",
    checkpoint: Checkpoint | None = None,
    each: Callable[[int], Mapping[str, float] | None] | None = None,
    enough: Callable[[int], bool] | None = None,
    description: str = "updates",
) -> Outcome:
    """Update `model` in place.

    Each update takes `batch_size` chunks of every part (a part with fewer gives each of its
    chunks once). `rate(u)` is the learning rate of update u; `each(u)` is called after u
    updates (from 1) and may add values to the trajectory; `enough(u)`, asked after that, may end
    the run. A non-finite loss or gradient stops the run before it reaches the parameters. A run
    with a `checkpoint` goes on where that ends, if it is there, and ends in the same parameters as
    without the interruption.
    """
    from accelerate import PartialState

    execution = execution or Execution()
    world = PartialState(cpu=next(model.parameters()).device.type == "cpu")
    parts = [part for part in parts if part.chunks]
    if not parts:
        raise UnlearnError("there are no documents to train on: give at least one.")
    sample = [part.chunks[0] for part in parts] + list(parts[0].chunks[1:2])
    check_computation(model, sample, execution)
    owned = _owned(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UnlearnError(
            f"every parameter of {type(model).__name__} is frozen, and none can be trained: call "
            "requires_grad_() on it, or set lora_rank."
        )
    device = parameters[0].device
    stepper = make_optimizer(
        optimizer, list(owned.values()), betas=betas, weight_decay=weight_decay
    )
    head = head_of(model)
    moves = head.weight.requires_grad and any(p.term.needs_original for p in parts)
    original_head = head.detach(clone=moves)
    streams = [order(seed, part.name, len(part.chunks)) for part in parts]
    outcome = Outcome()
    done = 0
    if checkpoint is not None:
        done = _take_up(checkpoint, model, owned, stepper, outcome)
    model.train()  # dropout is off (models.disable_dropout); recomputing needs train mode
    if execution.recompute:
        _recompute(model, True)
    bar = tqdm(
        range(updates),
        desc=description,
        disable=not (execution.progress and world.is_main_process),
    )
    for update in bar:
        picks = [  # (part, chunk) of the whole update, whichever process holds them
            (p, next(stream))
            for p, (part, stream) in enumerate(zip(parts, streams, strict=True))
            for _ in range(min(batch_size, len(part.chunks)))
        ]
        if update < done:
            continue
        chunks = [parts[p].chunks[i] for p, i in picks]
        counts = [
            sum(parts[q].chunks[i].targets for q, i in picks if q == p) for p in range(len(parts))
        ]
        sums = torch.zeros(len(parts), dtype=torch.float64)
        micros = pack(chunks, execution.micro_tokens, execution.micro_chunks)
        model.zero_grad(set_to_none=True)
        own = micros[world.process_index :: world.num_processes]
        # Where each process holds a part of every layer, all must walk through the layers equally
        # often: one with nothing left walks through its smallest micro-batch for a weight of 0.
        idle = math.ceil(len(micros) / world.num_processes) - len(own) if sharded(model) else 0
        for number, rows in enumerate(own + [micros[-1]] * idle):
            mine = number < len(own)
            with torch.autocast(device.type, torch.bfloat16, enabled=execution.autocast):
                loss, shares = _losses(
                    model,
                    parts,
                    [picks[r] for r in rows],
                    counts if mine else [math.inf] * len(parts),
                    original_head,
                    device,
                    execution.packed,
                )
            loss.backward()  # type: ignore[no-untyped-call]
            if mine:
                sums += shares
        norm = _gather(parameters, sums, world)
        outcome.tokens += sum(len(chunk.tokens) for chunk in chunks)
        outcome.recalled += sum(
            len(parts[p].chunks[i].tokens) for p, i in picks if parts[p].recall is not None
        )
        values = {
            part.name: float(value) / (part.weight or 1.0)
            for part, value in zip(parts, sums.tolist(), strict=True)
        }
        row = {"update": float(update + 1), "rate": rate(update), "grad_norm": norm, **values}
        if not all(math.isfinite(v) for v in (norm, *values.values())):
            logger.warning("diverged at update %d: %s", update + 1, row)
            outcome.trajectory.append(row)
            outcome.diverged_at = update + 1
            break
        if max_grad_norm and norm > max_grad_norm:
            for p in parameters:
                if p.grad is not None:
                    p.grad.mul_(max_grad_norm / norm)
        for group in stepper.param_groups:
            group["lr"] = rate(update)
        for name, parameter in model.named_parameters():
            if name in owned and parameter.grad is not None:
                owned[name].grad = _local(parameter.grad).to(owned[name].dtype)
                if owned[name] is not parameter:
                    parameter.grad = None
        stepper.step()
        _hand_over(model, owned)
        for name, parameter in model.named_parameters():
            if name in owned and owned[name] is not parameter:
                owned[name].grad = None  # float32: twice the model, not to be held on the way back
        if each is not None:
            row.update(each(update + 1) or {})
            model.train()
        outcome.trajectory.append(row)
        bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)
        if enough is not None and enough(update + 1):
            break
        due = execution.save_every and (update + 1) % execution.save_every == 0
        if checkpoint is not None and due and update + 1 < updates:
            _leave(checkpoint, update + 1, model, owned, stepper, outcome)
    if execution.recompute:
        _recompute(model, False)
    model.eval()
    if checkpoint is not None:
        _shard_path(checkpoint, model).unlink(missing_ok=True)
    return outcome


@torch.no_grad()
def check_computation(model: nn.Module, chunks: Sequence[Chunk], execution: Execution) -> None:
    """`UnlearnError` for a model of which a result would depend on how it is computed.

    That is one with something random left in training mode and, where chunks are packed, one whose
    chunks see each other: not every model makes a mask from positions, and a state that is carried
    from token to token knows none. A few tokens of `chunks` show both.
    """
    few = [replace(c, tokens=c.tokens[:8], context=1) for c in chunks[:2]]
    device = next(model.parameters()).device
    last = collate(few[-1:], device)
    name = type(model).__name__
    training = model.training
    model.eval()
    alone = hidden_states(model, last)[0].double()  # (T, H)
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
        far = (states.double() - alone).norm(dim=-1) / alone.norm(dim=-1)
        if bool((far > rounding).any()):  # NaN, of a broken model, shows elsewhere
            raise UnlearnError(fault)


def _recompute(model: Any, on: bool) -> None:
    """Switch activation checkpointing on or off, by the name that this transformers gives it."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        # The reentrant kind needs inputs that require gradients; token ids do not.
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()


# --- optimizers ----------------------------------------------------------------------------------


def _owned(model: nn.Module) -> dict[str, Tensor]:
    """What this process steps, by name: the trainable parameters, or its part of each.

    AdamW works element by element, so a part can be stepped as a plain tensor that shares the
    parameter's memory; that spares the optimizer what it does not know of. Of parameters in
    bfloat16 a float32 copy is stepped (master weights): a step is mostly smaller than the gap
    between two numbers of 8 bits, and would be rounded away.
    """
    reshard(model)
    owned: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensor = _local(parameter)
        if tensor.dtype in (torch.bfloat16, torch.float16):
            owned[name] = nn.Parameter(tensor.detach().float())
        else:
            owned[name] = parameter if tensor is parameter else nn.Parameter(tensor.detach())
    return owned


@torch.no_grad()
def _hand_over(model: nn.Module, owned: Mapping[str, Tensor]) -> None:
    """Give the model what was stepped, where that is a copy in another dtype."""
    for name, parameter in model.named_parameters():
        if name in owned and owned[name].dtype != parameter.dtype:
            _local(parameter).copy_(owned[name])


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
    return kinds[name](  # type: ignore[no-any-return]
        parameters, lr=0.0, betas=betas, weight_decay=weight_decay
    )


# --- checkpoints ---------------------------------------------------------------------------------


def _shard_path(checkpoint: Checkpoint, model: nn.Module) -> Path:
    """The file of this process: one for all, or where the model is sharded one for each."""
    if not sharded(model):
        return checkpoint.path
    import torch.distributed as dist

    name = f"{checkpoint.path.stem}-{dist.get_rank() + 1}-of-{dist.get_world_size()}"
    return checkpoint.path.with_name(name + checkpoint.path.suffix)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _leave(
    checkpoint: Checkpoint,
    update: int,
    model: nn.Module,
    owned: Mapping[str, Tensor],
    stepper: torch.optim.Optimizer,
    outcome: Outcome,
) -> None:
    """Write the state after `update` updates; the file is there whole or not at all."""
    from accelerate import PartialState
    from safetensors.torch import save

    if not (sharded(model) or PartialState().is_main_process):
        return
    tensors = {}
    numbers: dict[str, float] = {}  # bitsandbytes counts steps in a plain number
    for name, parameter in owned.items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for key, value in stepper.state[parameter].items():
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
                "recalled": outcome.recalled,
            }
        ),
    }
    path = _shard_path(checkpoint, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(tensors, metadata), replace=True)


def _take_up(
    checkpoint: Checkpoint,
    model: nn.Module,
    owned: Mapping[str, Tensor],
    stepper: torch.optim.Optimizer,
    outcome: Outcome,
) -> int:
    """Restore what `_leave` wrote: the number of updates made, 0 if there is nothing to restore.

    A file that is damaged or another run's is set aside, with a warning: the run begins anew.
    """
    from safetensors import SafetensorError, safe_open

    path = _shard_path(checkpoint, model)
    if not path.exists():
        return _agreed(0)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != checkpoint.key:
                raise ValueError("it belongs to another run")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            past = json.loads(metadata["outcome"])
            done = int(metadata["update"])
            state: dict[str, Any] = {**tensors, **json.loads(metadata.get("numbers", "{}"))}
        if {f"parameter/{name}" for name in owned} - set(tensors):
            raise ValueError("it lacks parameters")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        aside = path.with_name(path.name + ".damaged")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.replace(aside)
        logger.warning(
            "the checkpoint %s cannot be used (%s): it is set aside as %s, and the run begins anew",
            path,
            " ".join(str(error).split()),
            aside.name,
        )
        return _agreed(0)
    if _agreed(done) != done:  # another process's part is missing: none can be used
        return 0
    with torch.no_grad():
        for name, parameter in owned.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            # All on the parameter's device, the count of steps too: fused AdamW reads it there.
            stepper.state[parameter] = {
                key: value.to(parameter.device) if isinstance(value, Tensor) else value
                for key, _, of in (k.partition("/") for k in state)
                if of == name and key != "parameter"
                for value in (state[f"{key}/{name}"],)
            }
    _hand_over(model, owned)
    outcome.trajectory = past["trajectory"]
    outcome.tokens = past["tokens"]
    outcome.recalled = past.get("recalled", 0)
    logger.info("going on after update %d", done)
    return done


def _agreed(done: int) -> int:
    """The least of what all processes can restore: they must go on from the same update."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return done
    from accelerate import PartialState

    least = torch.tensor(done, device=PartialState().device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


# --- one update ----------------------------------------------------------------------------------


def _losses(
    model: nn.Module,
    parts: Sequence[Part],
    picks: Sequence[tuple[int, int]],
    counts: Sequence[float],
    original_head: Head,
    device: torch.device,
    packed: bool,
) -> tuple[Tensor, Tensor]:
    """One micro-batch's share of the update's loss, from one forward pass, and each part's of it.

    (scalar to go backward from, (parts,) float64 on the CPU).
    """
    chunks = [parts[p].chunks[i] for p, i in picks]
    # Before the pass that is kept for the way back: then its memory is free again.
    remembered = [_kept(model, parts, number, picks) for number in range(len(parts))]
    batch = (collate_packed if packed else collate)(chunks, device)
    hidden = hidden_states(model, batch)[batch.target_mask]  # (N, H)
    head = head_of(model)
    if torch.is_autocast_enabled(device.type):
        # Once for the micro-batch: left to itself autocast would convert the head anew for every
        # chunk of positions.
        narrow = torch.get_autocast_dtype(device.type)
        hidden = hidden.to(narrow)
        head = Head(head.weight.to(narrow), None if head.bias is None else head.bias.to(narrow))
    owner = torch.repeat_interleave(
        torch.tensor([p for p, _ in picks]), torch.tensor([c.targets for c in chunks])
    ).to(device)  # (N,) which part each target belongs to
    labels = batch.targets.clone()
    coefficient = torch.zeros(len(owner), device=device, dtype=torch.float64)
    labelled = torch.zeros(len(owner), device=device, dtype=torch.bool)
    losses: list[Tensor] = []
    values = torch.zeros(len(parts), dtype=torch.float64)
    for number, part in enumerate(parts):
        mine = owner == number
        if not bool(mine.any()):  # a micro-batch of the other parts' chunks alone
            continue
        tensors = [k for k in remembered[number] if k is not None]
        old = torch.cat(tensors).to(device) if tensors else None
        share = part.weight / counts[number]
        if isinstance(part.term, LabelTerm):
            labels[mine] = part.term.labels(batch.targets[mine], old)
            coefficient[mine] = part.term.sign * share
            labelled |= mine
            continue
        weights = torch.full((int(mine.sum()),), share, device=device, dtype=torch.float64)
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
        total, each = cross_entropy_by_group(hidden, head, labels, coefficient, owner, len(parts))
        losses.append(total)
        values += each.double().cpu()
    return torch.stack(losses).sum(), values


def _kept(
    model: nn.Module, parts: Sequence[Part], number: int, picks: Sequence[tuple[int, int]]
) -> Sequence[Tensor | None]:
    """What one part's term has of the original model at its chunks of a micro-batch."""
    part = parts[number]
    rows = [i for p, i in picks if p == number]
    if part.recall is None:
        return [part.kept[i] for i in rows] if part.kept else []
    if rows:
        return part.recall([part.chunks[i] for i in rows])
    if sharded(model):  # the processes that have chunks of this part need this one's layers
        part.recall([min(part.chunks, key=lambda chunk: len(chunk.tokens))])
    return []


def _gather(parameters: Sequence[Tensor], sums: Tensor, world: Any) -> float:
    """Add gradients and loss sums over processes; the gradient's global norm."""
    import torch.distributed as dist

    parts = any(isinstance(p, DTensor) for p in parameters)
    if world.num_processes > 1:
        for p in parameters:  # a process without a micro-batch takes part with zeros
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            if not parts:  # FSDP has added the gradients of parts already
                dist.all_reduce(p.grad)
        shared = sums.to(parameters[0].device)
        dist.all_reduce(shared)
        sums.copy_(shared)
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
    square = torch.stack(norms).double().pow(2).sum()
    if parts:
        dist.all_reduce(square)
    return float(square.sqrt())


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
