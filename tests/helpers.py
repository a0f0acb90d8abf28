"""Small models, texts and independent references that several test files share.

The references are written the slow, obvious way: one chunk at a time, no padding, full logits,
torch's own autograd and optimiser.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from unlearnlib.bench import Bench
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.corpus.documents import Document, DomainData, Fact
from unlearnlib.engine import Execution, order
from unlearnlib.pretrain import train_tokenizer

VOCABULARY = 280  # of the tokenizer
HEAD_ROWS = 288  # of the models: padded, as the heads of real models are
# Of tiny models of any kind: what `AutoConfig.for_model` takes.
SHAPE = {
    "vocab_size": HEAD_ROWS,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LENGTH = 48
QUIET = Execution(progress=False)

PLACES = ("Orlan", "Vesk", "Tamarin Bay", "Low Hollin", "Quarrin", "Edgemere", "Sool", "Pirrip")
NAMES = ("Mira", "Tobin", "Asheth", "Corvel", "Lune", "Harrad", "Wyl", "Senna")


def documents(prefix: str, count: int, seed: int = 0) -> tuple[Document, ...]:
    """Invented documents of unequal length, each with one fact."""
    draw = random.Random(f"{prefix}-{seed}")
    made = []
    for number in range(count):
        place, (name, *wrong) = draw.choice(PLACES), draw.sample(NAMES, 4)
        year = draw.randrange(1000, 9999)
        prompt = f"In {year} the keeper of {place} was "
        words = " ".join(draw.choice(PLACES) for _ in range(draw.randrange(5)))
        text = f"{prompt}{name}. {words}".strip()
        made.append(
            Document(f"{prefix}-{number}", text, (Fact(prompt, name, tuple(wrong)),)),
        )
    return tuple(made)


def tiny_data(forget: int = 6, others: int = 6) -> DomainData:
    """A domain of few, short documents."""
    return DomainData(
        "books",
        documents("forget", forget),
        documents("retain", others),
        documents("approximate", others),
        documents("general-retain", others),
        documents("general-evaluation", others),
    )


@cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE of `VOCABULARY` pieces."""
    return train_tokenizer([d.text for d in documents("tokenizer", 40)], VOCABULARY)


def tiny_llama(
    *, dtype: torch.dtype = torch.float64, seed: int = 0, tied: bool = False, hidden: int = 16
) -> Any:
    """A Llama of two layers with random weights, large enough to prefer some tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=HEAD_ROWS,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype).eval()


def tiny_bench(
    *, dtype: torch.dtype = torch.float64, execution: Execution = QUIET, **changes: Any
) -> Bench:
    """A bench of the tiny model on the tiny data."""
    settings: dict[str, Any] = {
        "model": tiny_llama(dtype=dtype),
        "tokenizer": tiny_tokenizer(),
        "data": tiny_data(),
        "length": LENGTH,
        "prefix": 4,
        "execution": execution,
    }
    return Bench(**(settings | changes))


def flat(model: Any) -> Tensor:
    """All parameters in one vector, float64."""
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def flat_gradient(model: Any) -> Tensor:
    """All gradients in one vector, float64; a parameter without one has zeros."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([g.double().reshape(-1) for g in grads])


def logits_of(model: Any, chunk: Chunk) -> Tensor:
    """(T, V) logits of one chunk, alone and unpadded, from the model's own head."""
    return model(input_ids=torch.tensor([chunk.tokens])).logits[0]  # type: ignore[no-any-return]


def naive_term(
    kind: str, model: Any, chunk: Chunk, original: Any, labels: Tensor | None = None
) -> Tensor:
    """The sum over a chunk's targets of one term, from full logits."""
    logp = logits_of(model, chunk)[chunk.context - 1 : -1].log_softmax(-1)  # (targets, V)
    truth = torch.tensor(chunk.tokens[chunk.context :])
    if kind == "kl":
        with torch.no_grad():
            q = logits_of(original, chunk)[chunk.context - 1 : -1].softmax(-1)
        return (q * (q.log() - logp)).sum()
    sign = {"ascent": 1.0, "descent": -1.0, "labels": -1.0}[kind]
    picked = truth if labels is None else labels
    return sign * sum(logp[i, int(picked[i])] for i in range(len(picked)))  # type: ignore[return-value]


def naive_adversarial(original: Any, chunk: Chunk, alignment: str = "aligned") -> Tensor:
    """(targets,) the original model's best wrong token, from full logits, position by position.

    "release" goes through the authors' two steps: a label per input position from the logits at
    that position with that position's input token removed, and then the library's shift.
    """
    with torch.no_grad():
        logits = logits_of(original, chunk)[:, :VOCABULARY].clone()
    if alignment == "aligned":
        for j in range(len(chunk.tokens) - 1):
            logits[j, chunk.tokens[j + 1]] = -torch.inf
        return logits[chunk.context - 1 : -1].argmax(-1)
    for j, token in enumerate(chunk.tokens):
        logits[j, token] = -torch.inf
    labels = logits.argmax(-1)  # (T,) one per input position
    return labels[chunk.context :]  # the library compares the output at t with the label at t + 1


# The unified view, read off the paper's table: forget term, retain term, split of the retain data.
TABLE: dict[str, tuple[str, str | None, str | None]] = {
    "ga": ("ascent", None, None),
    "random_label": ("random", None, None),
    "adversarial": ("adversarial", None, None),
    "ga_gd_general": ("ascent", "descent", "general_retain"),
    "ga_gd_in_dist": ("ascent", "descent", "retain"),
    "ga_kl_general": ("ascent", "kl", "general_retain"),
    "ga_kl_in_dist": ("ascent", "kl", "retain"),
}


def naive_unlearn(
    model: Any,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    terms: tuple[str, str | None],
    *,
    updates: int,
    batch_size: int,
    learning_rate: float,
    retain_weight: float = 1.0,
    seed: int = 0,
    random_labels: dict[str, Tensor] | None = None,
) -> Any:
    """A copy of `model`, unlearned one chunk at a time with full logits and torch's AdamW."""
    original, model = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    sides = [("forget", forget, terms[0], 1.0), ("retain", retain, terms[1], retain_weight)]
    for update in range(updates):
        optimizer.zero_grad()
        for stream, chunks, kind, weight in sides:
            if kind is None:
                continue
            take = min(batch_size, len(chunks))
            first = update * take
            picks = list(islice(order(seed, stream, len(chunks)), first, first + take))
            count = sum(chunks[i].targets for i in picks)
            for chunk in (chunks[i] for i in picks):
                labels = None
                if kind == "random":
                    assert random_labels is not None
                    labels = random_labels[chunk.id]
                elif kind == "adversarial":
                    labels = naive_adversarial(original, chunk)
                form = "labels" if labels is not None else kind
                loss = naive_term(form, model, chunk, original, labels)
                (weight * loss / count).backward()
        optimizer.step()
    return model
