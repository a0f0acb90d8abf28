"""Training from scratch, and the oracles: exact retraining without a domain's forget set.

The lab's vanilla model is trained on forget + retain of the three domains + general retain; the
oracle of a domain is trained in the same way, from the same initial weights, without that
domain's forget set. This is exact retraining, which a model of this size allows. Models of other
seeds have other initial weights and another order of the texts: how far two retrained models are
apart is the noise of every comparison with one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from unlearnlib.corpus import fictitious, stream
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import Document, hash_documents
from unlearnlib.engine import (
    Checkpoint,
    Execution,
    Outcome,
    Part,
    Training,
    optimise,
    peak_memory_bytes,
)
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import cache_folder
from unlearnlib.methods import Descent
from unlearnlib.models import model_hash, parameter_count, save_model
from unlearnlib.profiles import DOMAINS
from unlearnlib.store.claims import exclusive
from unlearnlib.store.files import write_file
from unlearnlib.store.provenance import provenance
from unlearnlib.trained import lab_checkpoint, lab_names, lab_record, seed_of

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


@dataclass(frozen=True)
class Recipe:
    """How the lab's models are made. All of it goes into their record.

    batch_size counts documents per update. The peak learning rate is high for a language model
    because this one is tiny.

    documents  of each corpus of the stream that are read once; 0: the corpora of `fictitious`,
               `epochs` times, in an order of each epoch's own
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
    documents: int = 0

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
# The stream's recipe is the best of those in `data/stream/peak_rate.json`: rates and batch sizes on
# a stream of a fifth the size (`tools/peak_rate.py`), then four recipes on all of it
# (`benchmarks/gpu_lab.py --sweep`).
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "lab": RECIPE,
        "stream": Recipe(
            vocabulary=2048,
            hidden=192,
            heads=6,
            key_value_heads=3,
            mlp=704,
            epochs=1,
            batch_size=8,
            learning_rate=1.4e-3,
            documents=11_800,
        ),
    }
)
LAB_MODELS = lab_names("lab")
_TOKENS = "tokens.npz"
_OF_TOKENIZER = 4  # every so manieth document of the stream trains the tokenizer


def recipe_of(profile: str) -> Recipe:
    """How a profile's models are trained from scratch; `UnlearnError` for one that has none."""
    if profile not in RECIPES:
        raise unknown("profile", profile, RECIPES)
    return RECIPES[profile]


def lab_documents(name: str, corpus_seed: int = 0, documents_read: int = 0) -> tuple[Document, ...]:
    """What a lab model is trained on, each document once; `name` is one of `lab_names`.

    With `documents_read` of each corpus it is the stream (see `Recipe.documents`).
    """
    known = lab_names("stream" if documents_read else "lab")
    if name not in known:
        raise unknown("lab model", name, known)
    name = seed_of(name)[0]
    if documents_read:
        without = name.removeprefix("oracle-") if name != "vanilla" else None
        return stream.stream_documents(documents_read, without, corpus_seed)
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

    It is trained on what vanilla sees, the forget sets too (of the stream on a quarter of it): one
    document adds a piece to the vocabulary at most.
    """
    return _tokenizer_of(recipe, lab_documents("vanilla", recipe.corpus_seed, recipe.documents))


def _tokenizer_of(recipe: Recipe, seen: Sequence[Document]) -> Any:
    """`lab_tokenizer`, of what vanilla sees."""
    texts = [document.text for document in seen[:: _OF_TOKENIZER if recipe.documents else 1]]
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
    recipe: Recipe, tokenizer: Any, documents: Sequence[Document], **how: Any
) -> tuple[nn.Module, Outcome]:
    """A model trained on `documents`; `how` are the arguments of `train_on_chunks`."""
    return train_on_chunks(recipe, tokenizer, training_chunks(recipe, tokenizer, documents), **how)


def train_on_chunks(
    recipe: Recipe,
    tokenizer: Any,
    chunks: Sequence[Chunk],
    *,
    most_updates: int | None = None,
    execution: Execution | None = None,
    name: str = "pretrain",
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> tuple[nn.Module, Outcome]:
    """A model trained on `chunks`; `most_updates` ends early, on the schedule of the whole.

    With a `checkpoint` the training goes on where it was interrupted, and each row of the outcome's
    trajectory has the seconds of its update, whichever sitting made it.
    """
    model = new_model(recipe, tokenizer).to(device)
    updates = recipe.updates(len(chunks))
    ticks = [time.time()]

    def tick(update: int) -> dict[str, float]:
        ticks.append(time.time())
        return {"seconds": ticks[-1] - ticks.pop(0)}

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
            in_order=bool(recipe.documents),
        ),
        execution=execution,
        checkpoint=checkpoint,
        on_update=tick if checkpoint is not None else None,
        description=name,
    )
    return model, outcome


def training_chunks(
    recipe: Recipe, tokenizer: Any, documents: Sequence[Document]
) -> Sequence[Chunk]:
    """What is trained on: of the stream, one chunk per reading, in the order of the pass.

    `UnlearnError` for a document of the stream that is longer than a chunk.
    """
    chunks = cut(documents, tokenizer, recipe.length, name="training")
    if not recipe.documents:
        return chunks
    own = {chunk.document: chunk for chunk in chunks}
    if len(own) != len(chunks):
        raise UnlearnError(
            f"a document is longer than {recipe.length} tokens: give a larger length."
        )
    return [own[document.id] for document in stream.readings(documents, recipe.seed)]


@dataclass(frozen=True)
class TrainingText:
    """What a lab model is trained on.

    chunks     in the order of the pass, where there is one
    documents  how many, each counted once
    data_hash  SHA-256 of the documents
    """

    tokenizer: Any
    chunks: Sequence[Chunk]
    documents: int
    data_hash: str


def text_of(name: str, recipe: Recipe) -> TrainingText:
    """What a lab model (one of `lab_names`) is trained on.

    The stream is written and tokenised once for all models, which takes two minutes, and kept in
    the user's cache.
    """
    if not recipe.documents:
        documents = lab_documents(name, recipe.corpus_seed)
        tokenizer = lab_tokenizer(recipe)
        chunks = training_chunks(recipe, tokenizer, documents)
        return TrainingText(tokenizer, chunks, len(documents), hash_documents(documents))
    return TokenisedStream.of(recipe).text(name, recipe.seed)


@dataclass(frozen=True)
class TokenisedStream:
    """The stream of a recipe as it is kept: D documents, each once, in their order.

    readings  (D,) how often each is read, with its id
    tokens    (T,) of all documents, one after the other
    offsets   (D + 1,) where each begins and ends
    hashes    domain whose forget set is left out ("" for none) -> hash of the documents
    """

    tokenizer: Any
    readings: Sequence[stream.Reading]
    tokens: np.ndarray
    offsets: np.ndarray
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, recipe: Recipe) -> TokenisedStream:
        """The kept stream of a recipe; it is made where there is none."""
        folder = cache_folder() / "training" / f"stream-{_stream_key(recipe)}"
        if not (folder / _TOKENS).exists():
            with exclusive(folder):
                if not (folder / _TOKENS).exists():  # another process may have made it
                    cls.make(recipe).keep(folder)
        return cls.read(folder)

    @classmethod
    def make(cls, recipe: Recipe) -> TokenisedStream:
        """Write the stream and tokenise it. `UnlearnError` for a document longer than a chunk."""
        documents = lab_documents("vanilla", recipe.corpus_seed, recipe.documents)
        tokenizer = _tokenizer_of(recipe, documents)
        chunks = cut(documents, tokenizer, recipe.length, name="training")
        if [chunk.document for chunk in chunks] != [document.id for document in documents]:
            raise UnlearnError(
                f"a document is longer than {recipe.length} tokens: give a larger length."
            )
        hashes = {}
        for domain in ("", *stream.DOMAINS):
            read = [d for d in documents if not stream.is_forgotten(d.id, domain)]
            hashes[domain] = hash_documents(read)
        return cls(
            tokenizer,
            [stream.Reading(document.id, document.exposure) for document in documents],
            np.concatenate([np.asarray(chunk.tokens, dtype=np.uint16) for chunk in chunks]),
            np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)]),
            hashes,
        )

    def keep(self, folder: Path) -> None:
        """Write it to a folder, the tokens last: where they are, all is there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            ids=np.array([reading.id for reading in self.readings]),
            exposures=np.array([reading.exposure for reading in self.readings]),
            tokens=self.tokens,
            offsets=self.offsets,
            hashes=np.array(json.dumps(dict(self.hashes))),
        )
        write_file(folder / _TOKENS, buffer.getvalue(), replace=True)

    @classmethod
    def read(cls, folder: Path) -> TokenisedStream:
        """What `keep` wrote."""
        from transformers import PreTrainedTokenizerFast

        with np.load(folder / _TOKENS, allow_pickle=False) as kept:
            each = zip(kept["ids"].tolist(), kept["exposures"].tolist(), strict=True)
            return cls(
                PreTrainedTokenizerFast.from_pretrained(folder),
                [stream.Reading(*one) for one in each],
                kept["tokens"],
                kept["offsets"],
                json.loads(str(kept["hashes"])),
            )

    def text(self, name: str, seed: int) -> TrainingText:
        """What the model `name` is trained on, in the order of a seed."""
        if name not in (known := lab_names("stream")):
            raise unknown("lab model", name, known)
        kind = seed_of(name)[0]
        without = kind.removeprefix("oracle-") if kind != "vanilla" else ""
        read = [one for one in self.readings if not stream.is_forgotten(one.id, without)]
        place = {one.id: number for number, one in enumerate(self.readings)}
        own = {one.id: self._chunk(place[one.id], one.id) for one in read}
        chunks = [own[one.id] for one in stream.readings(read, seed)]
        return TrainingText(self.tokenizer, chunks, len(read), self.hashes[without])

    def _chunk(self, number: int, name: str) -> Chunk:
        start, end = self.offsets[number : number + 2]
        return Chunk(f"{name}#0", name, self.tokens[start:end].tolist())


def _stream_key(recipe: Recipe) -> str:
    """What the tokenised stream depends on: four numbers, and the code that writes the texts."""
    told = [recipe.vocabulary, recipe.length, recipe.corpus_seed, recipe.documents]
    digest = hashlib.sha256(json.dumps(told).encode())
    for path in sorted(Path(stream.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def train_lab_model(
    name: str,
    recipe: Recipe | None = None,
    execution: Execution | None = None,
    folder: Path | None = None,
    profile: str = "lab",
    device: str = "cpu",
) -> dict[str, Any]:
    """Make a lab model and save it with its record (`record.json`); returns the record.

    By default the recipe is the profile's, with the seed of the model's name. With
    `Execution.save_every` the training goes on where it was interrupted. The bits of the model
    depend on the `device`; its record names it.
    """
    started = time.time()
    recipe = recipe or replace(recipe_of(profile), seed=seed_of(name)[1])
    text = text_of(name, recipe)
    model, outcome = train_on_chunks(
        recipe,
        text.tokenizer,
        text.chunks,
        execution=execution,
        name=name,
        checkpoint=_checkpoint(name, profile, recipe, text.data_hash, device),
        device=device,
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
        "documents": text.documents,
        "data_hash": text.data_hash,
        "model_hash": model_hash(model),
        "updates": len(outcome.trajectory),
        "tokens": outcome.tokens,
        "losses": [row["loss"] for row in outcome.trajectory],
        "provenance": provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=sum(row["seconds"] for row in outcome.trajectory),
            device=device,
            command=f"unlearn pretrain --profile {profile} --only {name}",
            peak_memory_bytes=peak_memory_bytes(device),
        ),
    }
    told = json.dumps(record, indent=1) + "\n"
    place = folder or lab_checkpoint(name, profile)
    save_model(model.cpu(), text.tokenizer, place, {"record.json": told})
    if folder is None and seed_of(name)[1]:  # the weights stay in the cache
        write_file(lab_record(name, profile), told.encode(), replace=True)
    return record


def _checkpoint(name: str, profile: str, recipe: Recipe, data_hash: str, device: str) -> Checkpoint:
    """Where an interrupted training goes on: by what it is trained on, how, and on which device."""
    state = json.dumps([name, asdict(recipe), data_hash], sort_keys=True)
    if device != "cpu":
        state += device
    key = hashlib.sha256(state.encode()).hexdigest()
    return Checkpoint(cache_folder() / "training" / f"{profile}-{key[:16]}.safetensors", key)
