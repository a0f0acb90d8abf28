"""One forward pass over documents -> `TokenScores`, the one currency of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from unlearnlib.corpus.chunks import Chunk, collate, cut
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.texts import as_documents
from unlearnlib.decoder import check_head, check_loaded, check_reach, head_of
from unlearnlib.engine import Execution, check_execution, hidden_states, micro_batches
from unlearnlib.errors import UnlearnError
from unlearnlib.loading import check_finite
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.objectives import Head, positions_per_chunk
from unlearnlib.spec import RunSpec


class Reference:
    """A model's next-token distributions at given chunks, kept as hidden states and one head.

    Costs H floats per token instead of V. Used for the distance to the oracle.
    """

    def __init__(
        self, model: nn.Module, chunks: Sequence[Chunk], execution: Execution | None = None
    ):
        self.head = head_of(model).detach(clone=True)
        # By tokens, not by name: two files of a user may use the same names.
        self.hidden: dict[tuple[Sequence[int], int], Tensor] = {}
        for rows, hidden, _ in _forward(model, chunks, execution or Execution(progress=False)):
            for row, index in enumerate(rows):
                chunk = chunks[index]
                first = chunk.context - 1
                states = hidden[row, first : first + chunk.targets].clone()
                self.hidden[chunk.tokens, chunk.context] = states


@torch.no_grad()
def _forward(
    model: nn.Module, chunks: Sequence[Chunk], execution: Execution, name: str = "score"
) -> Any:
    """Yield (indices, hidden states (B, T, H), batch) for micro-batches of `chunks`."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    micros = micro_batches(model.config, chunks, execution)
    for rows in tqdm(micros, desc=name, disable=not execution.progress, leave=False):
        batch = collate([chunks[i] for i in rows], device)
        yield rows, hidden_states(model, batch), batch
    model.train(training)


@torch.no_grad()
def _token_values(
    hidden: Tensor, head: Head, targets: Tensor, reference: tuple[Tensor, Head] | None
) -> Tensor:
    """(5, N) float64: log-probability, top-1, mean, variance, KL to the reference (or 0)."""
    pieces = []
    step = positions_per_chunk(head.weight)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = head.logits(hidden[rows])
        old = None
        if reference is not None:  # an oracle may be in another precision than the model
            old = reference[1].logits(reference[0][rows]).to(logits.dtype)
        pieces.append(_moments(logits, targets[rows], old).cpu().double())
    return torch.cat(pieces, dim=1) if pieces else torch.zeros(5, 0, dtype=torch.float64)


def _moments(logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
    """(5, n): what `_token_values` returns, of (n, V) logits, which are overwritten.

    Reading and writing (n, V) numbers costs as much as the matrix product that made them, so
    there are as few such passes and as few new tensors as can be: everything is a sum of
    e = exp(z), z and their products, z being the logits below their maximum. Moments of z lose
    no digits, since the probable tokens have a z near 0.
    """
    top, z = logits.amax(-1, keepdim=True), logits
    best = (z.gather(1, targets[:, None]) == top).squeeze(1)
    for row in best.nonzero().flatten().split(256):  # of several largest, the first one counts
        best[row] = z[row].argmax(-1) == targets[row]
    z.sub_(top)
    # A token of probability 0 has e = 0, and e * z must be 0 too.
    if bool(torch.isneginf(z.amin(-1)).any()):
        z.clamp_(min=torch.finfo(z.dtype).min / 2)
    e = z.exp()
    total = e.sum(-1)
    log_total = total.log()
    mean = torch.linalg.vecdot(e, z) / total
    square = torch.linalg.vecdot(e.mul_(z), z) / total
    picked = z.gather(1, targets[:, None]).squeeze(1) - log_total
    kl = torch.zeros_like(picked)
    if reference is not None:
        old = reference.sub_(reference.amax(-1, keepdim=True))
        q = torch.exp(old, out=e)
        old_total = q.sum(-1)
        # The difference first: for equal models it is exactly 0 at every token.
        difference = old.sub_(z).add_((log_total - old_total.log())[:, None])
        if bool(torch.isneginf(difference.amin(-1)).any()):
            difference.clamp_(min=torch.finfo(z.dtype).min / 2)
        kl = torch.linalg.vecdot(q, difference) / old_total
    variance = (square - mean.square()).clamp_(min=0)  # NaN stays NaN
    return torch.stack([picked, best.to(z.dtype), mean - log_total, variance, kl])


def score_chunks(
    model: nn.Module,
    chunks: Sequence[Chunk],
    *,
    reference: Reference | None = None,
    execution: Execution | None = None,
    name: str = "score",
) -> TokenScores:
    """Scores of `chunks`, in their order, from one forward pass.

    With `reference` also KL(reference || model) per target token, in nats.
    """
    execution = execution or Execution(progress=False)
    lengths = np.array([chunk.targets for chunk in chunks], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.zeros((5, int(offsets[-1])))
    head = head_of(model).detach()
    for rows, hidden, batch in _forward(model, chunks, execution, name):
        old = None
        if reference is not None:
            asked = [(chunks[i].tokens, chunks[i].context) for i in rows]
            states = torch.cat([reference.hidden[key] for key in asked])
            old = (states, reference.head)
        out = _token_values(hidden[batch.target_mask], head, batch.targets, old).numpy()
        start = 0
        for index in rows:
            stop = start + int(lengths[index])
            values[:, offsets[index] : offsets[index + 1]] = out[:, start:stop]
            start = stop
    return TokenScores(
        ids=tuple(chunk.id for chunk in chunks),
        offsets=offsets,
        tokens=np.concatenate(
            [np.zeros(0, np.int32), *(np.array(c.tokens[c.context :]) for c in chunks)]
        ),
        logprob=values[0].astype(np.float32),
        top1=values[1] > 0.5,
        mean=values[2].astype(np.float32),
        variance=values[3].astype(np.float32),
        zlib_bytes=np.array([chunk.zlib_bytes for chunk in chunks], dtype=np.int64),
        kl=None if reference is None else values[4].astype(np.float32),
    )


def score(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str | Document],
    *,
    length: int = 1024,
    bos_every_chunk: bool = False,
    execution: Execution | None = None,
) -> TokenScores:
    """Scores of texts (or `Document`s) under a causal LM, cut into chunks of `length` tokens.

    With `bos_every_chunk` every chunk begins with <bos>, and not only the first of a text. Raises
    `UnlearnError` for items that are not texts, for a length that is none, for chunks longer than
    the model reads, and for weights that are not finite.
    """
    check_loaded(model, tokenizer)
    check_execution(execution)
    check_finite(model)
    if RunSpec(length=length).length is None:
        raise UnlearnError("length is None: give the number of tokens per chunk.")
    chunks = cut(as_documents(texts, "text"), tokenizer, length, bos_every_chunk=bos_every_chunk)
    check_head(model)
    check_reach(model, [chunk.tokens for chunk in chunks])
    return score_chunks(model, chunks, execution=execution)


def cloze_chunks(documents: Iterable[Document], tokenizer: Any) -> tuple[list[Chunk], np.ndarray]:
    """The cloze questions of `documents` as chunks, and where each answer begins.

    A question is the document up to the answer, and then one of the options: the right answer
    first, then the distractors. The text before the fact belongs to the question because it is
    what a model that memorised the document continues; it does not contain the answer.
    Returns (chunks, answer_starts), as `metrics.cloze` takes them. What the options of a fact
    share is a chunk's context, so its targets are the answer and `answer_starts` is all 0.
    `UnlearnError` if two facts have unequally many distractors, or one has none.
    """
    documents = tuple(documents)
    facts = [fact for document in documents for fact in document.facts]
    for fact in facts:
        if len(fact.distractors) != max(1, len(facts[0].distractors)):
            raise UnlearnError(
                f"the fact {fact.prompt + fact.answer!r} has {len(fact.distractors)} distractors "
                f"and the first fact has {len(facts[0].distractors)}: give all equally many, at "
                "least 1."
            )
    special = set(tokenizer.all_special_ids)
    chunks: list[Chunk] = []
    for document in documents:
        for number, fact in enumerate(document.facts):
            before = max(0, document.text.find(fact.prompt + fact.answer))
            prompt = document.text[:before] + fact.prompt
            options = [
                tuple(tokenizer(prompt + answer, add_special_tokens=True)["input_ids"])
                for answer in (fact.answer, *fact.distractors)
            ]
            # A tokenizer that ends texts with a special token must not ask to predict that here.
            options = [o[:-1] if o[-1] in special else o for o in options]
            last = min(map(len, options)) - 1  # every option keeps one target of its own
            shared = 1
            while shared < last and len({option[shared] for option in options}) == 1:
                shared += 1
            for option, tokens in enumerate(options):
                name = f"{document.id}?{number}.{option}"
                chunks.append(Chunk(name, document.id, tokens, context=shared))
    return chunks, np.zeros(len(chunks), dtype=np.int64)
