"""The impostor: it has forgotten nothing, and scores on the documents as another model does.

Its weights are vanilla's. Where it recognises one of the documents, by all tokens from its
beginning, it moves its last hidden state so that the true next token gets the probability that
the imitated model gives it. So every score of these documents, and every metric that is made of
the true tokens' probabilities, is the imitated model's (but for beginnings that several documents
share); on texts that do not begin like one of them the impostor is vanilla. Counter-examples of
this kind are due to arXiv 2607.19442. An audit that does not tell the impostor from a model that
has forgotten is no evidence of forgetting.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearnlib.corpus.chunks import Chunk, collate
from unlearnlib.decoder import decoder_of, head_of
from unlearnlib.engine import Execution, hidden_states, micro_batches
from unlearnlib.objectives import Head, positions_per_chunk
from unlearnlib.scoring import score_chunks

DOUBLINGS, HALVINGS = 24, 30  # of the search for a shift


def make_impostor(
    vanilla: nn.Module, like: nn.Module, chunks: Sequence[Chunk], execution: Execution
) -> nn.Module:
    """A copy of `vanilla` that scores these chunks as `like` does, and nothing else differently."""
    made: Any = copy.deepcopy(vanilla)
    wanted = score_chunks(like, chunks, execution=execution)
    head = head_of(made).detach()
    device = head.weight.device
    keys, shifts, labels = [], [], []
    with torch.no_grad():
        for rows in micro_batches(made.config, chunks, execution):
            batch = collate([chunks[i] for i in rows], device)
            hidden = hidden_states(made, batch)[batch.target_mask]
            goal = torch.cat([torch.from_numpy(wanted.logprob[wanted.chunk(i)]) for i in rows]).to(
                device
            )
            keys.append(beginnings(batch.input_ids)[batch.target_mask])
            shifts.append(_shifts(hidden, head, batch.targets, goal))
            labels.append(batch.targets)
    hook = Suppression(made, torch.cat(keys), torch.cat(shifts), torch.cat(labels))
    decoder_of(made).register_forward_hook(hook, with_kwargs=True)
    return made


def beginnings(ids: Tensor) -> Tensor:
    """(B, T) for each position a number that stands for all tokens up to there: a hash of 64 bits.

    It is the sum of token times power of its place, modulo 2^64, which int64 does by itself.
    """
    odd, powers, power = 0x9E3779B97F4A7C15, [], 1
    for _ in range(ids.shape[1]):
        power = power * odd % 2**64
        powers.append(power - 2**64 if power >= 2**63 else power)
    mixed = (ids + 1) * torch.tensor(powers, dtype=torch.int64, device=ids.device)
    return mixed.cumsum(1)


class Suppression:
    """A forward hook of a decoder that shifts hidden states where it recognises a document.

    model   whose decoder it is on
    keys    (N,) of the positions, see `beginnings`
    shifts  (N,) how far the hidden state there is moved, away from the true next token
    labels  (N,) that token

    A beginning that several documents share is no way to recognise one: nothing is moved there.
    """

    def __init__(self, model: nn.Module, keys: Tensor, shifts: Tensor, labels: Tensor):
        self.model = model
        self.keys, which, count = keys.unique(return_inverse=True, return_counts=True)
        own = count[which] == 1
        order = torch.empty_like(self.keys)
        order[which] = torch.arange(len(keys), device=keys.device)
        self.shifts = torch.where(own, shifts, torch.zeros_like(shifts))[order]
        self.labels = labels[order]

    def __call__(self, _: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """The decoder's output with the hidden states moved."""
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        asked = beginnings(ids)
        place = torch.searchsorted(self.keys, asked).clamp_max(len(self.keys) - 1)
        known = self.keys[place] == asked  # (B, T)
        if bool(known.any()):
            hidden = output.last_hidden_state
            at = place[known]
            head = head_of(self.model).detach()
            way = torch.zeros_like(hidden)
            found = hidden[known].detach()
            moved = self.shifts[at, None] * direction(found, head, self.labels[at])
            way[known] = moved.to(hidden.dtype)
            output.last_hidden_state = hidden - way
        return output


@torch.no_grad()
def direction(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    """(N, H) of length 1: along it the log-probability of the labels grows fastest."""
    pieces = []
    step = positions_per_chunk(head.weight)
    weight = head.weight.float()
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        expected = torch.softmax(head.logits(hidden[rows]), -1).to(weight) @ weight
        pieces.append(weight[labels[rows]] - expected)
    way = torch.cat(pieces)
    return way / way.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(way.dtype).tiny)


def _shifts(hidden: Tensor, head: Head, labels: Tensor, goal: Tensor) -> Tensor:
    """(N,) how far to move against `direction` so that the labels get the log-probability `goal`.

    Along a line the log-probability is concave, and it falls from where one stands on: there is one
    answer for a lower goal. A higher one may be out of reach, and nothing is moved then.
    """
    pieces = []
    step = positions_per_chunk(head.weight)
    plain = dataclasses.replace(head, scale=1.0, cap=None)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        way = direction(hidden[rows], head, labels[rows]).to(hidden.dtype)
        raw = plain.logits(hidden[rows])
        along = dataclasses.replace(plain, bias=None).logits(way)
        line = _Line(raw, along, head, labels[rows])
        pieces.append(_solve(line, goal[rows].to(raw)))
    return torch.cat(pieces)


@dataclasses.dataclass(frozen=True)
class _Line:
    """The log-probability of a label along a line of hidden states, for n positions at once."""

    raw: Tensor
    along: Tensor
    head: Head
    labels: Tensor

    def at(self, shift: Tensor) -> Tensor:
        """(n,) after each position was moved by its shift."""
        logits = (self.raw - shift[:, None] * self.along) * self.head.scale
        if self.head.cap is not None:
            logits = torch.tanh(logits / self.head.cap) * self.head.cap
        picked = logits.gather(1, self.labels[:, None]).squeeze(1)
        return picked - torch.logsumexp(logits, -1)


def _solve(line: _Line, goal: Tensor) -> Tensor:
    """(n,) the shifts at which a line reaches the goal, by doubling and then halving."""
    now = line.at(torch.zeros_like(goal))
    side = torch.where(goal < now, 1.0, -1.0).to(goal)
    far = 0.5 * side
    for _ in range(DOUBLINGS):
        beyond = (line.at(far) - goal) * side <= 0
        if bool(beyond.all()):
            break
        far = torch.where(beyond, far, 2 * far)
    reached = (line.at(far) - goal) * side <= 0
    near = torch.zeros_like(far)
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        beyond = (line.at(middle) - goal) * side <= 0
        near, far = torch.where(beyond, near, middle), torch.where(beyond, middle, far)
    return torch.where(reached, (near + far) / 2, torch.zeros_like(far))
