"""The terms of the objective: pure functions from hidden states and labels to a loss.

All of them see the final hidden states of the N target positions of a micro-batch, (N, H), and
the output head, (V, H), and return a *sum* over positions, each position weighted by
`coefficient`. The caller divides by the number of targets of the whole update, which is what
makes a result independent of micro-batches and processes.

Full logits, (N, V), never exist: positions are taken C at a time (`positions_per_chunk`) and the
gradients with respect to hidden states and head are computed in the forward pass, while the chunk's
logits are at hand. Compared with `torch.nn.functional.cross_entropy` on full logits this needs
V * C instead of V * N floats and the same three matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Distributions to bring the model to: (q, log q), (n, V) or (1, V), at a slice of the positions.
# Where q is 0 its logarithm is any finite number.
Target = Callable[[slice], tuple[Tensor, Tensor]]
Compare = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # see `_ToTarget`

CHUNK_FLOATS = 1 << 20  # logits at a time: 4 MiB in float32, which a processor's cache holds
# But with a large vocabulary that is a handful of positions, for each of which the whole head
# would be read from memory: products need this many to be worth their reading.
CHUNK_POSITIONS = 256
CHUNK_FLOATS_GPU = 1 << 26  # a GPU wants larger products: 256 MiB


def positions_per_chunk(weight: Tensor) -> int:
    """How many positions' logits are held at a time, for a head's (V, H) weight."""
    return chunk_positions(weight.shape[0], weight.is_cuda)


def chunk_positions(vocabulary: int, on_gpu: bool) -> int:
    """`positions_per_chunk` for a head that need not exist yet."""
    return max(CHUNK_POSITIONS, (CHUNK_FLOATS_GPU if on_gpu else CHUNK_FLOATS) // vocabulary)


@dataclass(frozen=True)
class Head:
    """The output layer: logits = capped(scale * (hidden @ weight.T + bias)).

    weight (V, H), bias (V,) or None. Most models have neither scale nor cap. Cohere and Granite
    scale their logits; Gemma 2 keeps them between -cap and cap, by cap * tanh(logits / cap).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, H) -> (n, V), in at least float32."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias)
        out = out if out.dtype == torch.float64 else out.float()
        if self.scale != 1.0:
            out = out * self.scale
        return out if self.cap is None else torch.tanh(out / self.cap) * self.cap

    def slope(self, logits: Tensor) -> Tensor | float:
        """How much these logits, (n, V), move per unit of hidden @ weight.T + bias."""
        if self.cap is None:
            return self.scale
        return (1 - (logits / self.cap).square()) * self.scale

    def detach(self, clone: bool = False) -> Head:
        """The same numbers without gradient; `clone` keeps them when the original moves on."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        if clone:
            weight, bias = weight.clone(), None if bias is None else bias.clone()
        return replace(self, weight=weight, bias=bias)

    def to(self, dtype: torch.dtype) -> Head:
        """The same head with its parameters in another precision."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)


class _CrossEntropy(torch.autograd.Function):
    """sum_i coefficient_i * -log softmax(logits_i)[label_i], chunked over positions.

    Also the same sum over each of `groups` groups of positions, without gradient. `form` is the
    head, of which weight and bias are given besides, for autograd to see them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: Head,
        labels: Tensor,
        coefficient: Tensor,
        group: Tensor,
        groups: int,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        each = torch.zeros(groups, dtype=wide, device=hidden.device)

        def piece(rows: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
            logp = torch.log_softmax(logits, dim=-1)  # (n, V)
            picked = logp.gather(1, labels[rows, None]).squeeze(1)
            gradient = logp.exp_()
            gradient.scatter_add_(1, labels[rows, None], gradient.new_full((len(picked), 1), -1.0))
            each.index_add_(0, group[rows], -picked * coefficient[rows].to(picked.dtype))
            return -picked, gradient

        head = replace(form, weight=weight, bias=bias)
        total = _accumulate(ctx, piece, hidden, head, coefficient)
        ctx.mark_non_differentiable(each)
        return total, each

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_scaled(ctx, grads[0]), None, None, None, None, None)


class _ToTarget(torch.autograd.Function):
    """sum_i coefficient_i * compare(softmax(logits_i), target_i), chunked over positions.

    `target` gives the distributions of a slice of positions, see `Target`; `compare` takes log p, q
    and log q, (n, V) each, and gives the value of each position and its gradient by the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: Head,
        target: Target,
        compare: Compare,
        coefficient: Tensor,
    ) -> Tensor:

        def piece(rows: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
            return compare(torch.log_softmax(logits, dim=-1), *target(rows))

        head = replace(form, weight=weight, bias=bias)
        return _accumulate(ctx, piece, hidden, head, coefficient)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_scaled(ctx, grads[0]), None, None, None, None)


def _kl(logp: Tensor, q: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p)."""
    value = (q * (logq - logp)).sum(-1)
    return value, logp.exp_().sub_(q)


def _js(logp: Tensor, q: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """JS(q, p)."""
    apart = logq - logp
    nothing = torch.zeros((), dtype=logp.dtype, device=logp.device)
    # With m the mean of p and q: log(q / m) and log(p / m), both exactly 0 where p is q.
    other = math.log(2) - torch.logaddexp(-apart, nothing)
    own = math.log(2) - torch.logaddexp(apart, nothing)
    p = logp.exp_()
    far = (p * own).sum(-1)  # KL(p || m)
    value = (far + (q * other).sum(-1)) / 2
    return value, own.sub_(far[:, None]).mul_(p).div_(2)


def _accumulate(ctx: Any, piece: Any, hidden: Tensor, head: Head, coefficient: Tensor) -> Tensor:
    """Run `piece` over chunks of positions; keep value and gradients for hidden, weight, bias.

    `piece` gives the gradient by the logits, and leaves them as they are.
    """
    weight, bias = head.weight, head.bias
    need_h, need_w, need_b = ctx.needs_input_grad[:3]
    # Sums over tokens are kept in at least float32, also when the model is in bfloat16.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=hidden.device)
    grad_h = torch.empty_like(hidden) if need_h else None
    grad_w = torch.zeros_like(weight, dtype=wide) if need_w else None
    grad_b = torch.zeros_like(bias, dtype=wide) if need_b and bias is not None else None
    step = positions_per_chunk(weight)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = head.logits(hidden[rows])
        value, gradient = piece(rows, logits)
        weights = coefficient[rows].to(value.dtype)
        total += (value * weights).sum()
        if not (need_h or need_w or need_b):
            continue
        gradient *= weights[:, None]  # (n, V): d loss / d logits
        if head.scale != 1.0 or head.cap is not None:
            gradient *= head.slope(logits)
        narrow = gradient.to(weight.dtype)
        if grad_h is not None:
            grad_h[rows] = narrow @ weight
        if grad_w is not None:
            if grad_w.dtype == narrow.dtype:
                grad_w.addmm_(narrow.T, hidden[rows])  # no second (V, H) for the product
            else:
                grad_w += narrow.T @ hidden[rows]
        if grad_b is not None:
            grad_b += gradient.sum(0)
    ctx.gradients = (
        grad_h,
        None if grad_w is None else grad_w.to(weight.dtype),
        None if grad_b is None or bias is None else grad_b.to(bias.dtype),
    )
    return total


def _scaled(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
    """The kept gradients times the incoming scalar gradient."""
    gradients = ctx.gradients
    if gradients is None:
        raise RuntimeError(
            "a term's gradients are freed by its first backward pass: compute it anew"
        )
    ctx.gradients = None  # they are as large as the head: free them at once
    return tuple(None if g is None else g.mul_(outer.to(g.dtype)) for g in gradients)


def cross_entropy(hidden: Tensor, head: Head, labels: Tensor, coefficient: Tensor) -> Tensor:
    """sum_i coefficient_i * -log p(labels_i | position i), in nats.

    hidden (N, H), labels (N,) i64, coefficient (N,). A coefficient of -1 is gradient ascent,
    +1 descent, 0 leaves the position out. Yao et al., eq. of the unified view.
    """
    group = torch.zeros_like(labels)
    return cross_entropy_by_group(hidden, head, labels, coefficient, group, 1)[0]


def cross_entropy_by_group(
    hidden: Tensor, head: Head, labels: Tensor, coefficient: Tensor, group: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """`cross_entropy`, and its share in each group of positions: (scalar, (groups,)).

    group (N,) i64 in [0, groups). The shares have no gradient: ascent on one group and descent on
    another go backward together, with one gradient of the head between them.
    """
    return _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.detach(), labels, coefficient, group, groups
    )


@torch.no_grad()
def log_probability(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    """(N,) log p(labels_i | position i) in nats, without gradient.

    hidden (N, H), labels (N,) i64. A first pass over the head, for terms whose gradient depends on
    these numbers; as in every term a few positions' logits exist at a time.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    picked = torch.empty(len(labels), dtype=wide, device=hidden.device)
    step = positions_per_chunk(head.weight)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logp = torch.log_softmax(head.logits(hidden[rows]), dim=-1)
        picked[rows] = logp.gather(1, labels[rows, None]).squeeze(1)
    return picked


def kl_to_target(hidden: Tensor, head: Head, target: Target, coefficient: Tensor) -> Tensor:
    """sum_i coefficient_i * KL(target_i || current), in nats.

    Its gradient is that of the cross-entropy to the target; the target's own entropy is taken off,
    so that the value is 0 where the model is at the target. `cross_entropy` is the same for a
    target that is all on one token, without a target of V numbers per position.
    """
    return _ToTarget.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.detach(), target, _kl, coefficient
    )


def js_to_target(hidden: Tensor, head: Head, target: Target, coefficient: Tensor) -> Tensor:
    """sum_i coefficient_i * JS(target_i, current), in nats: at most log 2 at a position."""
    return _ToTarget.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.detach(), target, _js, coefficient
    )


def model_target(hidden: Tensor, head: Head) -> Target:
    """What another model, of these hidden states (N, H) and this head, says at the N positions."""

    def target(rows: slice) -> tuple[Tensor, Tensor]:
        logq = torch.log_softmax(head.logits(hidden[rows]), dim=-1)
        return logq.exp(), logq

    return target


def lowered_target(hidden: Tensor, head: Head, tokens: Tensor, by: float) -> Target:
    """`model_target` with the logit of the token at each position, (N,) i64, lowered by `by`."""

    def target(rows: slice) -> tuple[Tensor, Tensor]:
        logits = head.logits(hidden[rows])
        down = logits.new_full((len(logits), 1), -by)
        logq = torch.log_softmax(logits.scatter_add(1, tokens[rows, None], down), dim=-1)
        return logq.exp(), logq

    return target


def uniform_target(head: Head, count: int) -> Target:
    """The uniform distribution over the first `count` tokens; rows beyond pad the head."""
    weight = head.weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    ids = torch.arange(weight.shape[0], device=weight.device)
    q = (ids < count).to(wide)[None] / count  # (1, V)
    logq = torch.where(q > 0, -math.log(count), torch.zeros_like(q))

    def target(rows: slice) -> tuple[Tensor, Tensor]:
        return q, logq

    return target


def kl_to_reference(
    hidden: Tensor, head: Head, reference_hidden: Tensor, reference: Head, coefficient: Tensor
) -> Tensor:
    """sum_i coefficient_i * KL(original || current) of the next-token distribution, in nats.

    reference_hidden (N, H) are the original model's hidden states at the same positions: H
    numbers per position instead of V, and no second model in memory. The entropy part is kept,
    so the value is a divergence (0 for equal models), and padding is not among the N positions;
    the authors' release averages a cross-entropy between the distributions over padding too.
    """
    return kl_to_target(hidden, head, model_target(reference_hidden, reference), coefficient)


def jensen_shannon(
    hidden: Tensor, head: Head, reference_hidden: Tensor, reference: Head, coefficient: Tensor
) -> Tensor:
    """sum_i coefficient_i * JS(original, current) of the next-token distribution, in nats.

    Half of each one's KL to the mean of both: symmetric, 0 for equal models and at most log 2.
    """
    return js_to_target(hidden, head, model_target(reference_hidden, reference), coefficient)
