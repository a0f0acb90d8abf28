"""Cross-entropy to a target distribution: terms that say what the model shall predict instead.

The gradient by the logits is p - q, the model's distribution less the target, so such a term has a
fixed point, p = q, where it stops. Labels (`terms.RandomLabels`, `terms.AdversarialLabels`) are the
case in which the target is all on one token. Here are those with a spread-out target; full logits,
of the model or of the target, never exist (`objectives.kl_to_target`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearnlib.objectives import Head, Target, lowered_target, uniform_target
from unlearnlib.terms import KeepsStates, Original, TargetTerm


@dataclass(frozen=True)
class Undial(KeepsStates):
    """Cross-entropy to the original model's distribution with the true token's logit lowered.

    target  softmax(z - beta e), z the original model's logits and e 1 at the true token: of a
            true token that the original gives r it has r e^-beta / (r e^-beta + 1 - r)
    beta    5, as the code of its authors has it, who run it with 3 and 10, too; open-unlearning
            has 10

    UNDIAL, Dong et al. 2024 (arXiv 2402.10052). What is reported is the KL divergence, 0 at the
    target. The authors use no retain term.
    """

    formula: ClassVar[str] = "q = softmax(z_original - beta e_true)"
    beta: float = 5.0

    def target(self, targets: Tensor, kept: Tensor, head: Head, original_head: Head) -> Target:
        """The original model's distributions with the true tokens' logits lowered."""
        return lowered_target(kept, original_head, targets, self.beta)


@dataclass(frozen=True)
class MaximumEntropy(TargetTerm):
    """Cross-entropy to the uniform distribution over the tokenizer's tokens.

    At its fixed point the perplexity is the size of the vocabulary. Yuan et al. 2024 (arXiv
    2410.08109), who weigh it by 0.1 against 1 for the retain term: a retain_weight of 10. They
    spread the target over rows that only pad the head, too. What is reported is the KL divergence.
    """

    formula: ClassVar[str] = "q = 1 / V"
    needs_original: bool = False

    def prepare(self, original: Original) -> Tensor:
        """(T - 1,) i64: how many tokens there are to spread the target over."""
        return torch.full((original.chunk.targets,), original.vocabulary)

    def target(self, targets: Tensor, kept: Tensor, head: Head, original_head: Head) -> Target:
        """The uniform distribution."""
        return uniform_target(head.detach(), int(kept[0]))
