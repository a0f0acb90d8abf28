"""Weighted ascent: gradient ascent that each token, or each chunk, takes part in by a weight.

The gradient of such a term is that of ascent, with the gradient of each log p(token) multiplied by
a weight that itself has none. A method of this family is its weight. Plain ascent has weight 1
everywhere and no bound; here the weight falls as the token is forgotten, so that a run slows down
by itself. Below, p is the probability of the true token under the current model, r that under the
original model, T the number of targets of a chunk, sigma the logistic function.

A weight needs p first, and some need the sum over the whole chunk: the head is gone over twice, the
first time for log p alone, and full logits never exist (`objectives.log_probability`). A chunk is
never divided among micro-batches, so weights do not depend on how an update is computed.

Like every term these are sums over targets, which the engine divides by the targets of the update,
so that a retain weight means the same in every row. Authors who take the mean over sequences of a
sum over tokens have a forget term that is T times larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from unlearnlib.errors import UnlearnError
from unlearnlib.objectives import Head, cross_entropy, log_probability
from unlearnlib.terms import LabelTerm, Original


@dataclass(frozen=True)
class WeightedAscent(LabelTerm):
    """Gradient ascent with a weight on each token's gradient."""

    sign: float = field(default=-1.0, init=False)
    needs_original: bool = field(default=False, init=False)

    def labels(self, targets: Tensor, kept: Tensor | None) -> Tensor:
        """The true tokens."""
        return targets

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """(weight, loss) of each target, (N,) each; the sum of losses is what is reported.

        logp     (N,) log p of the true tokens under the current model
        kept     (N,) log r of the same, where the term needs the original
        lengths  targets of each chunk: the N are those of the chunks one after another
        """
        raise TypeError(f"{type(self).__name__} does not say how it weighs tokens")

    def weigh_at(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        lengths: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """`weigh` at N positions' hidden states, (N, H)."""
        logp = log_probability(hidden.detach(), head.detach(), targets)
        return self.weigh(logp, None if kept is None else kept.to(logp.dtype), lengths)

    def loss(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        coefficient: Tensor,
        original_head: Head,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """The weighted sum of the losses of `weigh`; without `lengths` all is one chunk."""
        whole = [len(targets)] if lengths is None else lengths
        weight, loss = self.weigh_at(hidden, head, targets, kept, whole)
        pushed = cross_entropy(hidden, head, targets, -coefficient * weight)
        return pushed + ((coefficient * loss).sum() - pushed.detach())


@dataclass(frozen=True)
class _AgainstOriginal(WeightedAscent):
    """A weight that compares p with r: log r of the true tokens is kept, a number each."""

    needs_original: bool = field(default=True, init=False)

    def prepare(self, original: Original) -> Tensor:
        """(T - 1,) log r of the true tokens."""
        hidden = original.states()
        return log_probability(hidden, original.head, original.truth().to(hidden.device))


@dataclass(frozen=True)
class NPO(_AgainstOriginal):
    """Negative preference optimisation: ascent, until the chunk is less likely than it was.

    loss    of a chunk: (2 / beta) log(1 + (P / R)^beta), P and R the products of its p and r
    weight  2 sigma(beta log(P / R)), the same for all its tokens
    beta    0.1, as its authors have it, and open-unlearning. Towards 0 it becomes ascent.

    Zhang et al. 2024 (arXiv 2404.05868), eq. 3 and 5. The logarithm of P / R is a sum over tokens:
    of a long chunk it is far below 0 as soon as each token has lost a little, and the weight with
    it. See `TokenNPO`.
    """

    formula: ClassVar[str] = "2 sigma(beta sum_chunk log(p / r))"
    beta: float = 0.1

    def __post_init__(self) -> None:
        _check_positive(self, "beta")

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`; a chunk's loss is spread evenly over its targets."""
        assert kept is not None
        margin = self.beta * _chunk_sums(logp - kept, lengths)
        count = torch.tensor(lengths, device=logp.device)
        loss = softplus(margin, threshold=math.inf) * (2 / self.beta) / count
        return _per_target(2 * margin.sigmoid(), lengths), _per_target(loss, lengths)


@dataclass(frozen=True)
class SimNPO(WeightedAscent):
    """NPO without the original model: the chunk's mean log p in the place of log(P / R).

    loss    of a chunk: T (2 / beta) log(1 + exp(-beta (NLL - gamma))), NLL its mean -log p
    weight  2 sigma(-beta (NLL - gamma)), the same for all its tokens
    beta    4.5, its authors' for TOFU forget10 and open-unlearning's; the authors have 2.5 for
            forget05, and 0.7 for MUSE
    gamma   0, the margin, as everywhere

    Fan et al. 2024 (arXiv 2410.07163), eq. 4. The authors take the mean over sequences, here a
    chunk counts by its targets as in every term; chunks of one length give the same. They weigh
    this term by 0.125 against 1 for the retain term, which is a retain_weight of 8.
    """

    formula: ClassVar[str] = "2 sigma(beta (mean_chunk log p + gamma))"
    beta: float = 4.5
    gamma: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self, "beta")

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`."""
        count = torch.tensor(lengths, device=logp.device)
        margin = self.beta * (_chunk_sums(logp, lengths) / count + self.gamma)
        loss = softplus(margin, threshold=math.inf) * (2 / self.beta)
        return _per_target(2 * margin.sigmoid(), lengths), _per_target(loss, lengths)


@dataclass(frozen=True)
class TokenNPO(_AgainstOriginal):
    """NPO token by token: ascent on a token, until it is less likely than it was.

    loss    weight times log p
    weight  2 p^beta / (p^beta + r^beta)
    beta    4, as its authors have it (TNPO)

    Wang et al. 2025 (arXiv 2502.19301). How long a chunk is plays no part, unlike in `NPO`.
    """

    formula: ClassVar[str] = "2 p^beta / (p^beta + r^beta)"
    beta: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(self, "beta")

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`."""
        assert kept is not None
        weight = 2 * (self.beta * (logp - kept)).sigmoid()
        return weight, weight * logp


@dataclass(frozen=True)
class WGA(WeightedAscent):
    """Weighted gradient ascent: a token counts by a power of its probability.

    loss    weight times log p
    weight  p^beta
    beta    5. At 0 it is ascent. Sources disagree on what its authors have: 5 by one reading of
            their experiments, and 1 by the note of the peer that lists the paper's settings;
            their code has no default, and open-unlearning's is 1

    Wang et al. 2025 (arXiv 2502.19301).
    """

    formula: ClassVar[str] = "p^beta"
    beta: float = 5.0

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`."""
        weight = (self.beta * logp).exp()
        return weight, weight * logp


@dataclass(frozen=True)
class SatImp(WeightedAscent):
    """Saturation and importance: tokens that are neither certain nor forgotten count most.

    loss    weight times log p
    weight  p^beta (1 - p)^gamma
    beta    5, as its authors have it (beta_1)
    gamma   1, as its authors have it (beta_2). At 0 it is `WGA`.

    Yang et al. 2025 (arXiv 2505.11953). The authors weigh this term and the retain term 1 to 0.1,
    open-unlearning's configuration 0.1 to 1: retain_weight 0.1 or 10.
    """

    formula: ClassVar[str] = "p^beta (1 - p)^gamma"
    beta: float = 5.0
    gamma: float = 1.0

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`."""
        weight = (self.beta * logp).exp() * (-torch.expm1(logp)) ** self.gamma
        return weight, weight * logp


@dataclass(frozen=True)
class Unlikelihood(WeightedAscent):
    """Unlikelihood, which is also CE-U: descent on -log(1 - p).

    loss    -log(1 - p)
    weight  p / (1 - p)

    Welleck et al. 2019 (arXiv 1908.04319), eq. 4. CE-U (Yang 2025, arXiv 2503.01224) is the
    cross-entropy against the model's own distribution with the true token taken out and the
    target held fixed; its gradient is this one, its value another. It has no strength to set.
    open-unlearning leaves out a sequence's first token.
    """

    formula: ClassVar[str] = "p / (1 - p)"

    def weigh(
        self, logp: Tensor, kept: Tensor | None, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `WeightedAscent.weigh`.

        1 - p is held above the rounding of p, where the weight would be infinite and what it
        multiplies is 0.
        """
        surprise = (-logp).clamp_min(torch.finfo(logp.dtype).eps)
        return 1 / torch.expm1(surprise), -torch.log(-torch.expm1(-surprise))


def _check_positive(term: WeightedAscent, name: str) -> None:
    value = getattr(term, name)
    if not value > 0:
        raise UnlearnError(f"{name} is {value}: give a number above 0.")


def _chunk_sums(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(C,) the sum of each chunk's values; added up alike wherever the chunk stands."""
    return torch.stack([part.sum() for part in values.split(list(lengths))])


def _per_target(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N,) each chunk's value at each of its targets."""
    return torch.repeat_interleave(values, torch.tensor(lengths, device=values.device))
