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

from unlearnlib.audits.case import TRAINING_COST, Case, Measured, Tick, loss_of, pupil, tokens
from unlearnlib.engine import Part, Training, optimise
from unlearnlib.methods import Descent
from unlearnlib.metrics.scores import TokenScores


@dataclass(frozen=True)
class Relearning:
    """Plain descent on one source, at each of several learning rates.

    source      what is taught: one of `findings.SOURCES`
    rates       learning rates of AdamW, constant
    steps       after how many updates the held-out half is scored; the last one ends the attack
    batch_size  chunks per update
    seed        of the order in which chunks are taught
    """

    source: str = "forget"
    rates: tuple[float, ...] = (1e-5, 5e-5, 2e-4, 1e-3)
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    batch_size: int = 4
    seed: int = 0
    audit: ClassVar[str] = "relearning"

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        looks = 1 + len(self.rates) * sum(step > 0 for step in self.steps)
        looked = tokens(case.held_out()) + tokens(case.unread())
        return int(len(self.rates) * max(self.steps) * self._update(case)) + looks * looked

    def _update(self, case: Case) -> float:
        """What an update costs, in tokens looked at."""
        taught = case.taught(self.source)
        return TRAINING_COST * min(self.batch_size, len(taught)) * tokens(taught) / len(taught)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """The loss by rate and update, in nats per token: `loss` on the held-out half.

        `unread` is that on documents of the same kind that nobody taught, where there are some.
        """
        found = Measured()
        first, scores = self._look(case, model, tick)
        lowest = first["loss"], scores
        for rate in self.rates:
            at = {"source": self.source, "rate": rate}
            found.rows.append({**at, "update": 0, **first})
            for update, row, scores in self._attack(case, model, rate, tick):
                found.rows.append({**at, "update": update, **row})
                lowest = min(lowest, (row["loss"], scores), key=lambda pair: pair[0])
        columns: dict[str, list[Any]] = {"id": list(lowest[1].ids)}
        columns[f"nll_{self.source}"] = _short(lowest[1])
        found.documents["held_out"] = columns
        return found

    def _look(self, case: Case, model: nn.Module, tick: Tick) -> tuple[dict[str, Any], TokenScores]:
        """The losses of a model, and its scores of the held-out half."""
        loss, scores = loss_of(model, case.held_out(), case.execution)
        unread, _ = loss_of(model, case.unread(), case.execution)
        tick(tokens(case.held_out()) + tokens(case.unread()))
        assert scores is not None  # a forget set that can be halved has a second half
        return {"loss": loss, "unread": unread}, scores

    def _attack(
        self, case: Case, model: nn.Module, rate: float, tick: Tick
    ) -> list[tuple[int, dict[str, Any], TokenScores]]:
        """(update, losses, scores) of one learning rate, as long as they are finite."""
        student = pupil(model)
        found: list[tuple[int, dict[str, Any], TokenScores]] = []
        each = int(self._update(case))

        def look(update: int) -> None:
            tick(each)
            if update in self.steps:
                row, scores = self._look(case, student, tick)
                if np.isfinite(scores.logprob).all():
                    found.append((update, row, scores))

        optimise(
            student,
            [Part("relearning", case.taught(self.source), Descent())],
            Training(max(self.steps), self.batch_size, lambda _: rate, seed=self.seed),
            execution=case.execution,
            on_update=look,
        )
        return found


def _short(scores: TokenScores) -> list[float]:
    return [float(f"{-value:.6g}") for value in scores.chunk_means(scores.logprob)]
