"""Continued pre-training: a published model trained further, and the oracles beside it.

Nobody knows what a published model was trained on, and nobody can train it again without a
document. So vanilla is the published model trained further, on the forget and retain sets of a
profile's domains, until membership can be measured; the oracle of a domain is the same published
model trained further in the same way without that domain's forget set. Retraining is exact for the
part of training that we add, and for no other.

The number of epochs is not chosen by hand: vanilla stops after the first epoch at which the loss
attack separates the forget set from the approximate set in every domain (AUC at least
`Continuation.auc`), and the oracles train for as many epochs. The weights are in the user's
cache; what was done, epoch by epoch, is in `data/continued/PROFILE-NAME.json`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import Document, DomainData, hash_documents
from unlearnlib.decoder import check_reach
from unlearnlib.engine import Execution, Outcome, Part, Training, optimise, peak_memory_bytes
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import Descent
from unlearnlib.metrics.membership import auc, loss_score, min_k
from unlearnlib.metrics.perplexity import accuracy, perplexity
from unlearnlib.models import (
    load_model,
    load_tokenizer,
    model_hash,
    parameter_count,
    save_model,
    weights_of,
)
from unlearnlib.profiles import clipped, get_profile, load_domain
from unlearnlib.scoring import score_chunks
from unlearnlib.store.files import write_file
from unlearnlib.store.provenance import provenance
from unlearnlib.trained import (
    TRAINING,
    continued_checkpoint,
    continued_names,
    made_here,
    read_record,
    record_path,
)

logger = logging.getLogger(__name__)

SCORED = ("forget", "approximate", "retain", "general_evaluation")


@dataclass(frozen=True)
class Continuation:
    """How a published model is trained further. All of it goes into the record.

    batch_size counts chunks per update. The learning rate is constant after its warm-up (a share
    of the first epoch), so that training can end after any epoch.
    """

    batch_size: int = 8
    learning_rate: float = 1e-4
    warmup: float = 0.5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    auc: float = 0.7
    most_epochs: int = 8

    def updates(self, chunks: int, epochs: int) -> int:
        """Updates in so many epochs."""
        return math.ceil(chunks * epochs / self.batch_size)

    def rate(self, update: int, chunks: int) -> float:
        """The learning rate of update number `update` (from 0)."""
        warm = max(1, round(self.warmup * self.updates(chunks, 1)))
        return self.learning_rate * min(1.0, (update + 1) / warm)

    def training(self, chunks: int, epochs: int) -> Training:
        """So many epochs over so many chunks, as the optimisation loop takes them."""
        return Training(
            updates=self.updates(chunks, epochs),
            batch_size=self.batch_size,
            rate=lambda update: self.rate(update, chunks),
            seed=self.seed,
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )


def training_documents(name: str, data: Mapping[str, DomainData]) -> tuple[Document, ...]:
    """What a model is trained on: forget and retain of all domains, an oracle's forget left out."""
    documents: list[Document] = []
    for domain, splits in data.items():
        if name != f"oracle-{domain}":
            documents += splits.forget
        documents += splits.retain
    return tuple(documents)


def epoch_scores(
    model: nn.Module, splits: Mapping[str, Mapping[str, Sequence[Chunk]]], execution: Execution
) -> dict[str, float]:
    """Perplexity and accuracy per domain and split, and the AUCs of two attacks per domain."""
    found: dict[str, float] = {}
    for domain, chunks in splits.items():
        scores = {
            split: score_chunks(model, part, execution=execution) for split, part in chunks.items()
        }
        for split, values in scores.items():
            found[f"{domain}/{split}/perplexity"] = perplexity(values)
            found[f"{domain}/{split}/accuracy"] = accuracy(values)
        for attack, of in (("loss", loss_score), ("min_k_40", lambda s: min_k(s, 0.4))):
            found[f"{domain}/membership/{attack}/auc"] = auc(
                of(scores["forget"]), of(scores["approximate"])
            )
    return found


def _most_epochs(profile: str, name: str, recipe: Continuation) -> int:
    """How long a model may train: vanilla as the recipe says, an oracle as long as vanilla did."""
    if name not in continued_names(profile):
        raise unknown("model", name, continued_names(profile))
    if name == "vanilla":
        return recipe.most_epochs
    vanilla = made_here(profile, "vanilla") or read_record(profile, "vanilla")
    return int(vanilla["epochs"])


def _domains(profile: str, corpora: str | Path | None, tokenizer: Any) -> dict[str, DomainData]:
    """The data of all domains of a profile, as much of each document as the profile takes."""
    data = {d: load_domain(profile, d, corpora) for d in get_profile(profile).domains}
    return {domain: clipped(profile, splits, tokenizer) for domain, splits in data.items()}


def scored_chunks(
    data: Mapping[str, DomainData], tokenizer: Any, length: int
) -> dict[str, dict[str, list[Chunk]]]:
    """Domain -> split -> the chunks that are scored after each epoch."""
    return {
        domain: {
            # As many documents as there are to forget: enough for a mean.
            split: cut(d.split(split)[: len(d.forget)], tokenizer, length, name=split)
            for split in SCORED
        }
        for domain, d in data.items()
    }


def course(outcome: Outcome, history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What a model's record says of its updates and epochs."""
    return {
        "epochs": int(history[-1]["epoch"]),
        "updates": len(outcome.trajectory),
        "tokens": outcome.tokens,
        "losses": [float(f"{row['loss']:.6g}") for row in outcome.trajectory],
        "history": [{k: float(f"{v:.6g}") for k, v in row.items()} for row in history],
    }


def _save(model: nn.Module, tokenizer: Any, record: Mapping[str, Any], publish: bool) -> None:
    """Write a model with its record and, with `publish`, the record into the project."""
    profile, name = record["profile"], record["name"]
    text = json.dumps(record, indent=1) + "\n"
    save_model(model, tokenizer, continued_checkpoint(profile, name), {TRAINING: text})
    if publish:
        write_file(record_path(profile, name), text.encode("utf-8"), replace=True)


def train_on(
    model: nn.Module,
    name: str,
    chunks: Sequence[Chunk],
    evaluation: Mapping[str, Mapping[str, Sequence[Chunk]]],
    recipe: Continuation,
    epochs: int,
    execution: Execution,
) -> tuple[Outcome, list[dict[str, float]]]:
    """Train a model further, in place: what its updates report, and its scores after each epoch.

    `evaluation` has the chunks that are scored, by domain and split (see `scored_chunks`). An
    oracle takes all `epochs`; vanilla may end earlier (see the head of this file).
    """
    quiet = Execution(execution.micro_tokens, execution.micro_chunks, progress=False)
    history = [{"epoch": 0.0, **epoch_scores(model, evaluation, quiet)}]
    ends = {recipe.updates(len(chunks), epoch): epoch for epoch in range(1, epochs + 1)}

    def evaluate_epoch(update: int) -> bool:
        """At the end of an epoch: add its scores, and say whether training may end there."""
        epoch = ends.get(update)
        if epoch is None:
            return False
        history.append({"epoch": float(epoch), **epoch_scores(model, evaluation, quiet)})
        reached = min(history[-1][f"{domain}/membership/loss/auc"] for domain in evaluation)
        logger.info("epoch %d: lowest AUC of the loss attack %.3f", epoch, reached)
        return name == "vanilla" and reached >= recipe.auc

    outcome = optimise(
        model,
        [Part("loss", chunks, Descent())],
        recipe.training(len(chunks), epochs),
        execution=execution,
        stop_after=evaluate_epoch,
        description=name,
    )
    if outcome.diverged_at is not None:
        raise UnlearnError(
            f"training {name} further diverged at update {outcome.diverged_at}: lower "
            f"learning_rate from {recipe.learning_rate}."
        )
    return outcome, history


def train_further(
    profile: str,
    name: str,
    *,
    source: str | Path | None = None,
    corpora: str | Path | None = None,
    recipe: Continuation | None = None,
    device: str = "auto",
    execution: Execution | None = None,
    publish: bool = True,
) -> dict[str, Any]:
    """Make vanilla or an oracle of a profile, save it, and return its record.

    `source` is the model to start from (by default the profile's), `corpora` a local copy of the
    texts. The oracles take the number of epochs from vanilla's record, so vanilla comes first.
    Without `publish` the record is written beside the weights only.
    """
    started, scale, recipe = time.time(), get_profile(profile), recipe or Continuation()
    epochs = _most_epochs(profile, name, recipe)
    source = source or scale.model
    tokenizer = load_tokenizer(source)
    data = _domains(profile, corpora, tokenizer)
    documents = training_documents(name, data)
    chunks = cut(documents, tokenizer, scale.length, name="training")
    check_reach(model := load_model(source, "float32", device), [chunk.tokens for chunk in chunks])
    weights = {**weights_of(source), "hash": model_hash(model)}
    place = next(model.parameters()).device
    execution = execution or Execution()
    evaluation = scored_chunks(data, tokenizer, scale.length)
    outcome, history = train_on(model, name, chunks, evaluation, recipe, epochs, execution)
    record = {
        "profile": profile,
        "name": name,
        "base": weights["name"],
        "base_weights": weights,
        "base_hash": weights["hash"],
        "recipe": asdict(recipe),
        "autocast": execution.autocast,
        "parameters": parameter_count(model),
        "documents": len(documents),
        "data_hash": hash_documents(documents),
        "model_hash": model_hash(model),
        **course(outcome, history),
        "provenance": provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=str(place),
            command=f"unlearn pretrain --profile {profile} --only {name}",
            peak_memory_bytes=peak_memory_bytes(place),
            float32_products=torch.get_float32_matmul_precision(),
        ),
    }
    _save(model, tokenizer, record, publish)
    return record
