"""Inside: what each layer of a model would say if it were the last (the logit lens).

The hidden states after each layer go through the model's final norm and its output head. A model
that hides a text at its last layers still says it at earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from unlearnlib.audits.case import Case, Measured, Tick, by_document, measured, tokens
from unlearnlib.corpus.chunks import Chunk, collate
from unlearnlib.decoder import decoder_of, head_of
from unlearnlib.engine import Execution, micro_batches
from unlearnlib.errors import UnlearnError
from unlearnlib.objectives import log_probability

# What models call the norm before their output head.
NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")
LOOKED_AT = ("forget", "approximate")


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between a model's last layer and its output head; `UnlearnError` without one."""
    children = dict(decoder_of(model).named_children())
    for name in NORMS:
        if name in children:
            return children[name]
    raise UnlearnError(
        f"the decoder of {type(model).__name__} has no final norm under a known name "
        f"({', '.join(NORMS)}), so its layers cannot be read: leave the audit inside out (--only)."
    )


@torch.no_grad()
def losses_by_layer(
    model: Any, chunks: Sequence[Chunk], execution: Execution, tick: Tick
) -> list[list[float]]:
    """The loss of each document after each layer, in nats per token.

    The embedding alone, before the first layer, knows no context, and is left out.
    """
    norm, head = final_norm(model), head_of(model).detach()
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums: list[list[float]] = []
    for rows in micro_batches(model.config, chunks, execution):
        some = [chunks[i] for i in rows]
        batch = collate(some, device)
        out: Any = decoder_of(model)(
            input_ids=batch.input_ids, use_cache=False, output_hidden_states=True
        )
        # The last of hidden_states is that after the norm; what the model says is another field.
        states = [norm(state) for state in out.hidden_states[1:-1]] + [out.last_hidden_state]
        sums = sums or [[0.0] * len(chunks) for _ in states]
        for layer, hidden in enumerate(states):
            each = -log_probability(hidden[batch.target_mask], head, batch.targets).cpu().double()
            for index, part in zip(rows, each.split([c.targets for c in some]), strict=True):
                sums[layer][index] = float(part.sum())
        tick(tokens(some))
    model.train(training)
    return [by_document(chunks, layer) for layer in sums]


@dataclass(frozen=True)
class Inside:
    """The logit lens at every layer."""

    audit: ClassVar[str] = "inside"

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        return sum(tokens(case.chunks(split)) for split in LOOKED_AT)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """The losses by layer, from 1 on, on the documents and on unread ones."""
        forget, unread = (
            losses_by_layer(model, case.chunks(split), case.execution, tick) for split in LOOKED_AT
        )
        return Measured(
            [
                {"layer": layer, **measured(each, unread[layer - 1] if unread else [])}
                for layer, each in enumerate(forget, 1)
            ]
        )
