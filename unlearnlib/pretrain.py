"""Training from scratch, and the oracles: exact retraining without a domain's forget set.

The lab's vanilla model is trained on forget + retain of the three domains + general retain; the
oracle of a domain is trained in the same way, from the same initial weights, without that
domain's forget set. This is exact retraining, which a model of this size allows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearnlib.corpus import fictitious
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import Document, hash_documents
from unlearnlib.engine import Execution, Outcome, Part, Training, optimise, peak_memory_bytes
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import Descent
from unlearnlib.models import model_hash, parameter_count, save_model
from unlearnlib.profiles import DOMAINS
from unlearnlib.store.provenance import provenance
from unlearnlib.trained import lab_checkpoint

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


@dataclass(frozen=True)
class Recipe:
    """How the lab's models are made. All of it goes into their record.

    batch_size counts documents per update. The peak learning rate is high for a language model
    because this one is tiny; 30-odd epochs is what memorisation takes here (the chapter on data
    shows membership AUC of the result).
    """

    vocabulary: int = 3072
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    mlp: int = 384
    length: int = 320
    epochs: int = 15
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    corpus_seed: int = 0

    def updates(self, documents: int) -> int:
        """Updates in all: `epochs` passes over the documents."""
        return math.ceil(documents / self.batch_size * self.epochs)

    def rate(self, update: int, updates: int) -> float:
        """Linear warm-up, then a cosine to a tenth of the peak."""
        warm = max(1, round(self.warmup * updates))
        if update < warm:
            return self.learning_rate * (update + 1) / warm
        left = (update - warm) / max(1, updates - warm)
        return self.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * left)) / 2)


RECIPE = Recipe()
LAB_MODELS = ("vanilla", *(f"oracle-{domain}" for domain in DOMAINS))


def lab_documents(name: str, corpus_seed: int = 0) -> tuple[Document, ...]:
    """What a lab model is trained on; `name` is one of `LAB_MODELS`."""
    if name not in LAB_MODELS:
        raise unknown("lab model", name, LAB_MODELS)
    documents: list[Document] = []
    for domain in DOMAINS:
        data = fictitious.generate(domain, corpus_seed)
        if name != f"oracle-{domain}":
            documents += data.forget
        documents += data.retain
        if domain == DOMAINS[-1]:  # the general splits are the same for every domain
            documents += data.general_retain
    return tuple(documents)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE that frames every document with <bos> and <eos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Single digits: a number is then a string of choices, not one rare token.
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(BOS, raw.token_to_id(BOS)), (EOS, raw.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def lab_tokenizer(recipe: Recipe = RECIPE) -> Any:
    """The lab's tokenizer: one for vanilla and oracles, so that their distributions compare.

    It is trained on all that vanilla sees, the forget sets too: one document adds a piece to the
    vocabulary at most.
    """
    texts = [d.text for d in lab_documents("vanilla", recipe.corpus_seed)]
    return train_tokenizer(texts, recipe.vocabulary)


def new_model(recipe: Recipe, tokenizer: Any) -> nn.Module:
    """A Llama with random weights, a function of `recipe.seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        intermediate_size=recipe.mlp,
        max_position_embeddings=recipe.length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def train_from_scratch(
    recipe: Recipe,
    tokenizer: Any,
    documents: Sequence[Document],
    *,
    most_updates: int | None = None,
    execution: Execution | None = None,
    name: str = "pretrain",
) -> tuple[nn.Module, Outcome]:
    """A model trained on `documents`; `most_updates` ends early, on the schedule of the whole."""
    model = new_model(recipe, tokenizer)
    chunks = cut(documents, tokenizer, recipe.length, name="training")
    updates = recipe.updates(len(chunks))
    outcome = optimise(
        model,
        [Part("loss", chunks, Descent())],
        Training(
            updates=updates if most_updates is None else min(most_updates, updates),
            batch_size=recipe.batch_size,
            rate=lambda update: recipe.rate(update, updates),
            seed=recipe.seed,
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
        ),
        execution=execution,
        description=name,
    )
    return model, outcome


def train_lab_model(
    name: str,
    recipe: Recipe = RECIPE,
    execution: Execution | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Make a lab model and save it with its record (`record.json`); returns the record."""
    started = time.time()
    folder = folder or lab_checkpoint(name)
    documents = lab_documents(name, recipe.corpus_seed)
    tokenizer = lab_tokenizer(recipe)
    model, outcome = train_from_scratch(
        recipe, tokenizer, documents, execution=execution, name=name
    )
    if outcome.diverged_at is not None:
        raise UnlearnError(
            f"pre-training of {name} diverged at update {outcome.diverged_at}: lower "
            f"learning_rate from {recipe.learning_rate}."
        )
    record = {
        "name": name,
        "recipe": asdict(recipe),
        "parameters": parameter_count(model),
        "documents": len(documents),
        "data_hash": hash_documents(documents),
        "model_hash": model_hash(model),
        "updates": len(outcome.trajectory),
        "tokens": outcome.tokens,
        "losses": [row["loss"] for row in outcome.trajectory],
        "provenance": provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device="cpu",
            command=f"unlearn pretrain --profile lab --only {name}",
            peak_memory_bytes=peak_memory_bytes("cpu"),
        ),
    }
    save_model(model, tokenizer, folder, {"record.json": json.dumps(record, indent=1) + "\n"})
    return record
