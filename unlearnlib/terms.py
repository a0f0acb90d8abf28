"""The terms of the objective that the paper's seven methods are made of, and what any term is.

A term is a small class with the functions of `Term`. What a term computes with is in
`objectives.py`; which terms make a method is in `methods.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unlearnlib.corpus.chunks import Chunk
from unlearnlib.objectives import (
    Head,
    Target,
    cross_entropy,
    js_to_target,
    kl_to_target,
    model_target,
    positions_per_chunk,
)
from unlearnlib.profiles import Alignment
from unlearnlib.seeds import seeded_generator

Distance = Callable[[Tensor, Head, Target, Tensor], Tensor]  # as `kl_to_target`


@dataclass(frozen=True)
class Original:
    """What a term may know of the original model at one chunk, before the first update.

    chunk      the chunk, T tokens
    hidden     (T, H) final hidden states of the original model at every token, or None where
               the term did not ask for them
    head       the original output head
    special    ids of the tokenizer's special tokens
    vocabulary size of the tokenizer's vocabulary (the head may be padded beyond it)
    seed       the run's seed
    alignment  "aligned", or "release" for the authors' labels
    """

    chunk: Chunk
    hidden: Tensor | None
    head: Head
    special: frozenset[int]
    vocabulary: int
    seed: int
    alignment: Alignment

    def states(self, ahead: int = 0) -> Tensor:
        """(T - 1, H) hidden states that predict the targets, or those `ahead` of these."""
        assert self.hidden is not None
        first = self.chunk.context - 1 + ahead
        return self.hidden[first : first + self.chunk.targets]

    def truth(self) -> Tensor:
        """(T - 1,) i64 the targets."""
        return torch.tensor(self.chunk.tokens[self.chunk.context :])


class Term(Protocol):
    """One term of the objective.

    needs_original  ask for the original model's hidden states in `prepare`
    prepare(o)      what to keep per chunk from the original model, (T - 1, ...) or None
    loss(...)       the weighted sum over the N target positions of a micro-batch; `kept` is
                    what `prepare` returned, concatenated over the micro-batch's chunks
    """

    @property
    def needs_original(self) -> bool: ...

    def prepare(self, original: Original) -> Tensor | None: ...

    def loss(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        coefficient: Tensor,
        original_head: Head,
    ) -> Tensor: ...


@dataclass(frozen=True)
class LabelTerm:
    """`sign` times a cross-entropy against labels, whichever: the engine computes all of an
    update's label terms in one call (`objectives.cross_entropy_by_group`)."""

    sign: float = 1.0
    needs_original: bool = False

    def prepare(self, original: Original) -> Tensor | None:
        """Nothing to keep."""
        return None

    def labels(self, targets: Tensor, kept: Tensor | None) -> Tensor:
        """(N,) i64 labels of the positions whose true tokens are `targets`."""
        raise TypeError(f"{type(self).__name__} does not say which labels it takes")

    def loss(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        coefficient: Tensor,
        original_head: Head,
    ) -> Tensor:
        """`sign` times the weighted sum of -log p(label)."""
        return cross_entropy(hidden, head, self.labels(targets, kept), self.sign * coefficient)


@dataclass(frozen=True)
class Descent(LabelTerm):
    """Cross-entropy of the true tokens: ordinary training."""

    @property
    def formula(self) -> str:
        """The weight on ascent's gradient, or the target distribution."""
        return "1" if self.sign < 0 else "q = 1 at the true token"

    def labels(self, targets: Tensor, kept: Tensor | None) -> Tensor:
        """The true tokens."""
        return targets


def Ascent() -> Descent:
    """Minus cross-entropy of the true tokens: gradient ascent."""
    return Descent(sign=-1.0)


@dataclass(frozen=True)
class _Relabelled(LabelTerm):
    """Cross-entropy against labels that `prepare` made."""

    def labels(self, targets: Tensor, kept: Tensor | None) -> Tensor:
        """The made labels."""
        assert kept is not None
        return kept


@dataclass(frozen=True)
class RandomLabels(_Relabelled):
    """Cross-entropy against uniformly random tokens, drawn once per run and chunk.

    Labels are uniform over the tokens that are not special; a target that is itself a special
    token keeps it, so that a document still ends where it ends. With `alignment="release"` each
    label is uniform over all ids of the tokenizer, specials among them and the truth, whatever the
    target is, as the release draws them. (There a drawn padding id is ignored; here it is a label
    like any other, since a padding id need not exist.) They are in place: only the release's
    adversarial labels are one off.
    """

    formula: ClassVar[str] = "q = 1 at a random token"

    def prepare(self, original: Original) -> Tensor:
        """(T - 1,) i64 labels; a function of seed and chunk alone, whatever batch it is in."""
        generator = seeded_generator(f"random-labels:{original.seed}:{original.chunk.id}")
        targets = original.truth()
        if original.alignment == "release":
            return torch.randint(original.vocabulary, targets.shape, generator=generator)
        ordinary = torch.tensor(
            [t for t in range(original.vocabulary) if t not in original.special]
        )
        labels = ordinary[torch.randint(len(ordinary), targets.shape, generator=generator)]
        special = torch.isin(targets, torch.tensor(sorted(original.special), dtype=torch.int64))
        return torch.where(special, targets, labels)


@dataclass(frozen=True)
class AdversarialLabels(_Relabelled):
    """Cross-entropy against the original model's most likely *wrong* token.

    Aligned: the label of the token at t + 1 is the original model's best guess there (its output
    at t) with x_{t+1} removed. "release": the label that the library's shift ends up comparing
    with the output at t is the best guess for t + 2 with x_{t+1} removed, the off-by-one of the
    authors' label generation.
    """

    formula: ClassVar[str] = "q = 1 at the original's best wrong token"
    needs_original: bool = True

    def prepare(self, original: Original) -> Tensor:
        """(T - 1,) i64 labels from the original model's hidden states."""
        # Row t predicts token t + 1; the release reads the row one further on.
        hidden = original.states(ahead=int(original.alignment == "release"))
        truth = original.truth().to(hidden.device)
        labels = torch.empty_like(truth)
        step = positions_per_chunk(original.head.weight)
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = original.head.logits(hidden[rows])
            logits[:, original.vocabulary :] = -torch.inf  # rows that pad the head are no tokens
            logits.scatter_(1, truth[rows, None], -torch.inf)
            labels[rows] = logits.argmax(-1)
        return labels.cpu()


@dataclass(frozen=True)
class TargetTerm:
    """The distance of the current model's distribution from a target, per position."""

    distance: ClassVar[Distance] = staticmethod(kl_to_target)

    def target(self, targets: Tensor, kept: Tensor, head: Head, original_head: Head) -> Target:
        """The distributions at the positions; `targets` are their true tokens."""
        raise TypeError(f"{type(self).__name__} does not say what its target is")

    def loss(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        coefficient: Tensor,
        original_head: Head,
    ) -> Tensor:
        """The weighted sum of the distances."""
        assert kept is not None
        target = self.target(targets, kept, head, original_head)
        return type(self).distance(hidden, head, target, coefficient)


@dataclass(frozen=True)
class KeepsStates(TargetTerm):
    """A term that keeps the original model's hidden states: H numbers at every target.

    Its target is what the original model says there.
    """

    needs_original: bool = field(default=True, init=False)

    def prepare(self, original: Original) -> Tensor:
        """(T - 1, H): the original hidden states at the target positions."""
        return original.states()

    def target(self, targets: Tensor, kept: Tensor, head: Head, original_head: Head) -> Target:
        """The original model's distributions."""
        return model_target(kept, original_head)


@dataclass(frozen=True)
class KLToOriginal(KeepsStates):
    """KL(original model || current model), per position over the whole vocabulary."""


@dataclass(frozen=True)
class JensenShannon(KeepsStates):
    """Jensen-Shannon divergence between the original and the current model, per position.

    Unlike KL it is bounded, by log 2: no token that the model has lost outweighs the others. It is
    the retain term of JensUn (Singh et al. 2025, arXiv 2509.02820).
    """

    distance: ClassVar[Distance] = staticmethod(js_to_target)
