"""The optimisation loop: one for pre-training, further training and unlearning.

Its result does not depend on how it was computed. The chunks of update u are a function of seed
and u alone; the loss of an update is the sum over its target tokens divided by their number in
the whole update; gradients of all processes are added, not averaged. So micro-batch size,
gradient accumulation and the number of processes change speed and memory only.

Forget and retain chunks share micro-batches: ascent and descent happen in one forward pass.
"""

from __future__ import annotations

import hashlib
import logging
import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from unlearnlib.corpus.chunks import Batch, Chunk, collate, pack
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import Alignment, Original, Term
from unlearnlib.models import decoder_of, head_of
from unlearnlib.objectives import Head

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a run is computed: changes speed and memory, never results.

    micro_tokens  padded tokens per micro-batch
    micro_chunks  chunks per micro-batch at most
    progress      show a tqdm bar
    autocast      run matrix products in bfloat16 over float32 parameters (this one does change
                  results, within bfloat16's rounding; only pre-training uses it, and says so)
    """

    micro_tokens: int = 4096
    micro_chunks: int = 64
    progress: bool = True
    autocast: bool = False


@dataclass(frozen=True)
class Part:
    """Data with a term: the forget part, the retain part, or all there is to pre-train on.

    `kept` is what the term kept of the original model, one entry per chunk.
    """

    name: str
    chunks: Sequence[Chunk]
    term: Term
    weight: float = 1.0
    kept: Sequence[Tensor | None] = ()


@dataclass
class Outcome:
    """What `optimise` reports: per-update values, and where it diverged (None: it did not).

    tokens counts the tokens that went forward and backward, padding left out.
    """

    trajectory: list[dict[str, float]] = field(default_factory=list)
    diverged_at: int | None = None
    tokens: int = 0


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(B, T, H) final hidden states."""
    out = decoder_of(model)(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
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
) -> list[Tensor | None]:
    """What `term` keeps of the original model at each chunk, before the first update."""
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
            kept[index] = term.prepare(
                Original(chunk, hidden, head, special, vocabulary, seed, alignment)
            )
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
    each: Callable[[int], Mapping[str, float] | None] | None = None,
    description: str = "updates",
) -> Outcome:
    """Update `model` in place.

    Each update takes `batch_size` chunks of every part (a part with fewer gives each of its
    chunks once). `rate(u)` is the learning rate of update u; `each(u)` is called after u
    updates (from 1) and may add values to the trajectory. A non-finite loss or gradient stops
    the run before it reaches the parameters.
    """
    from accelerate import PartialState

    execution = execution or Execution()
    world = PartialState(cpu=next(model.parameters()).device.type == "cpu")
    parts = [part for part in parts if part.chunks]
    if not parts:
        raise UnlearnError("there are no documents to train on: give at least one.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=_fused(parameters[0])
    )
    original_head = head_of(model).detach(clone=any(p.term.needs_original for p in parts))
    streams = [order(seed, part.name, len(part.chunks)) for part in parts]
    outcome = Outcome()
    model.train()  # dropout is off (models.disable_dropout); checkpointing needs train mode
    bar = tqdm(
        range(updates), desc=description, disable=not (execution.progress and world.is_main_process)
    )
    for update in bar:
        picks = [  # (part, chunk) of the whole update, whichever process holds them
            (p, next(stream))
            for p, (part, stream) in enumerate(zip(parts, streams, strict=True))
            for _ in range(min(batch_size, len(part.chunks)))
        ]
        chunks = [parts[p].chunks[i] for p, i in picks]
        counts = [
            sum(parts[q].chunks[i].targets for q, i in picks if q == p) for p in range(len(parts))
        ]
        sums = torch.zeros(len(parts), dtype=torch.float64)
        micros = pack(chunks, execution.micro_tokens, execution.micro_chunks)
        optimizer.zero_grad(set_to_none=True)
        for rows in micros[world.process_index :: world.num_processes]:
            with torch.autocast(device.type, torch.bfloat16, enabled=execution.autocast):
                losses = _losses(
                    model, parts, [picks[r] for r in rows], counts, original_head, device
                )
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            sums += torch.stack(losses).detach().double().cpu()
        norm = _gather(parameters, sums, world)
        outcome.tokens += sum(len(chunk.tokens) for chunk in chunks)
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
        for group in optimizer.param_groups:
            group["lr"] = rate(update)
        optimizer.step()
        if each is not None:
            row.update(each(update + 1) or {})
            model.train()
        outcome.trajectory.append(row)
        bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)
    model.eval()
    return outcome


def _fused(parameter: Tensor) -> bool:
    return parameter.dtype in (torch.float32, torch.float64, torch.bfloat16)


def _losses(
    model: nn.Module,
    parts: Sequence[Part],
    picks: Sequence[tuple[int, int]],
    counts: Sequence[int],
    original_head: Head,
    device: torch.device,
) -> list[Tensor]:
    """Each part's share of the update's loss in one micro-batch, from one forward pass."""
    chunks = [parts[p].chunks[i] for p, i in picks]
    batch = collate(chunks, device)
    hidden = hidden_states(model, batch)[batch.target_mask]  # (N, H)
    head = head_of(model)
    if hidden.dtype != head.weight.dtype:  # under autocast: the head in the products' dtype
        head = Head(head.weight.to(hidden.dtype), head.bias)
    owner = torch.repeat_interleave(
        torch.tensor([p for p, _ in picks]), torch.tensor([c.targets for c in chunks])
    ).to(device)  # (N,) which part each target belongs to
    losses = []
    for number, part in enumerate(parts):
        mine = owner == number
        kept = [part.kept[i] for p, i in picks if p == number] if part.kept else []
        tensors = [k for k in kept if k is not None]
        count = int(mine.sum())
        if not count:  # a micro-batch of the other parts' chunks alone
            losses.append(
                hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
            )
            continue
        coefficient = torch.full(
            (count,), part.weight / counts[number], device=device, dtype=torch.float64
        )
        losses.append(
            part.term.loss(
                hidden[mine],
                head,
                batch.targets[mine],
                torch.cat(tensors).to(device) if tensors else None,
                coefficient,
                original_head,
            )
        )
    return losses


def _gather(parameters: Sequence[Tensor], sums: Tensor, world: Any) -> float:
    """Add gradients and loss sums over processes; the gradient's global norm."""
    if world.num_processes > 1:
        import torch.distributed as dist

        for p in parameters:  # a process without a micro-batch takes part with zeros
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
        shared = sums.to(parameters[0].device)
        dist.all_reduce(shared)
        sums.copy_(shared)
    squares = [p.grad.double().pow(2).sum() for p in parameters if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def peak_memory_bytes(device: torch.device | str) -> int:
    """Peak memory of this process so far: GPU allocations on CUDA, resident set elsewhere."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
