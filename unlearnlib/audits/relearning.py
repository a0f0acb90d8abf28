"""Relearning: teach a model some texts for a few updates, and see whether others come back.

Half of the documents to forget are never taught: what returns of them was not told again. Taught
are the other half, texts of the same kind that no model ever saw, and general texts. A model that
has never read the documents gains from such teaching, too, so the retrained model is taught the
same; what it gains is not memory.

The protocol is that of retraining on other facts of the set (Deeb and Roger 2024,
arXiv 2410.08827), with the worst of several learning rates for each model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from unlearnlib.audits.case import (
    TRAINING_COST,
    Case,
    Measured,
    Tick,
    losses_of,
    measured,
    pupil,
    tokens,
)
from unlearnlib.engine import Part, Training, optimise
from unlearnlib.methods import Descent


@dataclass(frozen=True)
class Relearning:
    """Plain descent on one source at one learning rate.

    source      what is taught: one of `findings.SOURCES`
    rate        learning rate of AdamW, constant
    steps       after how many updates the held-out half is scored; the last one ends the attack
    batch_size  chunks per update
    seed        of the order in which chunks are taught
    """

    source: str = "forget"
    rate: float = 2e-4
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    batch_size: int = 4
    seed: int = 0
    audit: ClassVar[str] = "relearning"

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        looked = tokens(case.held_out()) + tokens(case.unread())
        return int(max(self.steps) * self._update(case)) + len(self.steps) * looked

    def _update(self, case: Case) -> float:
        """What an update costs, in tokens looked at."""
        taught = case.taught(self.source)
        return TRAINING_COST * min(self.batch_size, len(taught)) * tokens(taught) / len(taught)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """The losses by update, in nats per token: `loss` on the held-out half.

        `unread` is that on documents of the same kind that nobody taught, where there are some.
        """
        found = Measured([self._row(0, self._look(case, model, tick))])
        found.rows += [self._row(*one) for one in self._attack(case, model, tick)]
        for name, chunks in (("held_out", case.held_out()), ("unread", case.unread())):
            found.documents[name] = {"id": list(dict.fromkeys(c.document for c in chunks))}
        return found

    def _row(self, update: int, losses: dict[str, Any]) -> dict[str, Any]:
        return {"source": self.source, "rate": self.rate, "update": update, **losses}

    def _look(self, case: Case, model: nn.Module, tick: Tick) -> dict[str, Any]:
        """The losses of a model on the held-out half, and on unread documents."""
        held_out, unread = case.held_out(), case.unread()
        tick(tokens(held_out) + tokens(unread))
        return measured(
            losses_of(model, held_out, case.execution), losses_of(model, unread, case.execution)
        )

    def _attack(self, case: Case, model: nn.Module, tick: Tick) -> list[tuple[int, dict[str, Any]]]:
        """(update, losses) after each of the steps, as long as they are finite."""
        student = pupil(model)
        found: list[tuple[int, dict[str, Any]]] = []
        each = int(self._update(case))

        def look(update: int) -> None:
            tick(each)
            if update in self.steps:
                row = self._look(case, student, tick)
                if np.isfinite([*row["losses"], *row["unreads"]]).all():
                    found.append((update, row))

        optimise(
            student,
            [Part("relearning", case.taught(self.source), Descent())],
            Training(max(self.steps), self.batch_size, lambda _: self.rate, seed=self.seed),
            execution=case.execution,
            on_update=look,
        )
        return found
