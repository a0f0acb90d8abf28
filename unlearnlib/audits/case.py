"""The case that an audit looks into: the models, the documents, and the halves they come in."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from unlearnlib.audits.impostor import make_impostor
from unlearnlib.bench import Bench
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.identity import config_hash, oracle_hash
from unlearnlib.models import model_hash
from unlearnlib.scoring import score_chunks
from unlearnlib.seeds import seeded_generator
from unlearnlib.store.record import Basis

SPLITS = {"forget": "forget", "approximate": "approximate", "general": "general_retain"}
TRAINING_COST = 3  # an update costs so many times what looking at its chunks does

Tick = Callable[[int], None]  # is told how many tokens went forward, or the like of them


@dataclass
class Measured:
    """What an attack found out about one model: rows, and values of single documents."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    documents: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


class Attack(Protocol):
    """One part of an audit: its fields are its settings, and make its key with the model's hash.

    audit    one of `findings.AUDITS`
    work     tokens that `measure` looks at, a training step counting as `TRAINING_COST` looks
    measure  the attack on one model, which stays as it is
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    audit: ClassVar[str]

    def work(self, case: Case) -> int: ...

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured: ...


@dataclass
class Case:
    """The models and the documents of an audit.

    bench      has vanilla (its model), the oracle if there is one, and the documents
    unlearned  the model that is audited
    seed       of how documents are halved, and of the order in which they are taught
    most       documents of a half, or of general texts, that are looked at, at most
    """

    bench: Bench
    unlearned: nn.Module
    seed: int = 0
    most: int = 48

    def __post_init__(self) -> None:
        self._hashes = {
            "unlearned": _hashes(self.unlearned),
            "vanilla": (self.bench.basis.model_hash, self.bench.basis.config_hash),
        }
        if self.bench.oracle is not None:
            self._hashes["oracle"] = _hashes(self.bench.oracle)
        # The impostor has vanilla's weights, and another model's scores.
        marks = [*self._hashes["vanilla"], *self._hashes[self.imitated]]
        mark = hashlib.sha256(b"impostor " + " ".join(marks).encode()).hexdigest()
        self._hashes["impostor"] = mark, self._hashes["vanilla"][1]
        wide = dataclasses.replace(self.bench.execution, progress=False, packed=False)
        self.execution: Execution = dataclasses.replace(wide, save_every=0, shard=False)

    @property
    def imitated(self) -> str:
        """The model that the impostor scores like."""
        return "oracle" if self.bench.oracle is not None else "unlearned"

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are attacked, by the names of `findings.MODELS`."""
        return tuple(self._hashes)

    def model(self, name: str) -> nn.Module:
        """One of the models; the impostor is made when it is asked for."""
        if name == "impostor":
            return self._impostor
        found = {"unlearned": self.unlearned, "vanilla": self.bench.model}
        oracle = self.bench.oracle
        return found[name] if oracle is None else {**found, "oracle": oracle}[name]

    @functools.cached_property
    def _impostor(self) -> nn.Module:
        chunks = self.chunks("forget")
        return make_impostor(self.bench.model, self.model(self.imitated), chunks, self.execution)

    def basis(self, name: str) -> Basis:
        """What the measurements of one model rest on; a third model is no part of it."""
        weights, config = self._hashes[name]
        return dataclasses.replace(
            self.bench.basis, model_hash=weights, config_hash=config, oracle_hash=""
        )

    @property
    def unlearned_hash(self) -> str:
        """SHA-256 of the unlearned model, weights and configuration."""
        return oracle_hash(*self._hashes["unlearned"])

    def chunks(self, split: str) -> list[Chunk]:
        """The chunks of a split; of the forget and the approximate set all, else of `most`."""
        chunks = self.bench.chunks(split)
        if split in ("forget", "approximate"):
            return chunks
        names = [document.id for document in self.bench.data.split(split)[: self.most]]
        return _of(chunks, names)

    def halves(self, split: str) -> tuple[list[Chunk], list[Chunk]]:
        """The chunks of a split in two halves of its documents, drawn by the seed."""
        chunks = self.bench.chunks(split)
        names = list(dict.fromkeys(chunk.document for chunk in chunks))
        draw = seeded_generator(f"audit:{self.seed}:{split}")
        mixed = [names[i] for i in torch.randperm(len(names), generator=draw).tolist()]
        middle = len(mixed) // 2
        return _of(chunks, mixed[:middle]), _of(chunks, mixed[middle:])

    def taught(self, source: str) -> list[Chunk]:
        """What relearning from a source teaches: half of its documents; of general texts all."""
        if source == "general":
            return self.bench.chunks(SPLITS[source])
        return self.halves(SPLITS[source])[0]

    def held_out(self) -> list[Chunk]:
        """The documents to forget that relearning does not teach, `most` of them at most."""
        return self._not_taught("forget")

    def unread(self) -> list[Chunk]:
        """Documents of the same kind that no model read and relearning does not teach."""
        return self._not_taught("approximate") if self.taught_count("approximate") else []

    def _not_taught(self, split: str) -> list[Chunk]:
        """The other half of a split, `most` documents of it at most."""
        kept = self.halves(split)[1]
        names = list(dict.fromkeys(chunk.document for chunk in kept))
        return _of(kept, names[: self.most])

    def sources(self) -> tuple[str, ...]:
        """What there is to teach; `UnlearnError` where the forget set cannot be halved."""
        if len(self.bench.data.forget) < 2:
            raise UnlearnError(
                "there is one document to forget, and relearning teaches half of them and asks for "
                "the others: give two at least, or leave relearning out (--only)."
            )
        return tuple(source for source in SPLITS if self.taught_count(source))

    def taught_count(self, source: str) -> int:
        """How many documents a source has to teach."""
        count = len(self.bench.data.split(SPLITS[source]))
        return count if source == "general" else count // 2


def _of(chunks: Sequence[Chunk], names: Sequence[str]) -> list[Chunk]:
    wanted = set(names)
    return [chunk for chunk in chunks if chunk.document in wanted]


def _hashes(model: nn.Module) -> tuple[str, str]:
    return model_hash(model), config_hash(getattr(model, "config", None))


def by_document(chunks: Sequence[Chunk], sums: Sequence[float]) -> list[float]:
    """The loss per token of each document, from the summed losses of its chunks."""
    names = {name: i for i, name in enumerate(dict.fromkeys(chunk.document for chunk in chunks))}
    total, count = np.zeros(len(names)), np.zeros(len(names))
    for chunk, value in zip(chunks, sums, strict=True):
        total[names[chunk.document]] += value
        count[names[chunk.document]] += chunk.targets
    return [float(f"{value:.6g}") for value in total / count]


def losses_of(model: nn.Module, chunks: Sequence[Chunk], execution: Execution) -> list[float]:
    """The loss of each document that the chunks are of, in nats per token."""
    if not chunks:
        return []
    scores = score_chunks(model, chunks, execution=execution)
    return by_document(chunks, -scores.chunk_means(scores.logprob) * scores.lengths)


def measured(losses: Sequence[float], unread: Sequence[float]) -> dict[str, Any]:
    """What a row says of the losses of the documents, and of unread ones: means, and each.

    A mean is over documents, so that a long one counts no more than a short one.
    """
    return {
        "loss": float(f"{np.mean(losses):.8g}"),
        "unread": float(f"{np.mean(unread):.8g}") if len(unread) else None,
        "losses": list(losses),
        "unreads": list(unread),
    }


def tokens(chunks: Sequence[Chunk]) -> int:
    """How many tokens chunks have together."""
    return sum(len(chunk.tokens) for chunk in chunks)


def pupil(model: nn.Module) -> nn.Module:
    """A copy of a model that may be changed, every parameter to be trained."""
    return copy.deepcopy(model).requires_grad_(True)
