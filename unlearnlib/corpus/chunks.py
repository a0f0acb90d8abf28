"""Tokens: documents are tokenised, cut into chunks, and chunks are put together into batches.

As in the authors' release a document is cut into chunks of `length` tokens and chunks under
`minimum` tokens are dropped; unlike there, nothing is padded to the full length: a micro-batch
is as wide as its longest chunk, and chunks of like length share one. Neither choice changes a
result, because every loss here is a sum over target tokens divided by their number in the
whole update.
"""

from __future__ import annotations

import itertools
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unlearnlib.corpus.chat import spelt
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.tokens import TokenIds, encode
from unlearnlib.errors import UnlearnError
from unlearnlib.text import listed, plural

logger = logging.getLogger(__name__)

MINIMUM_TOKENS = 5


@dataclass(frozen=True)
class Chunk:
    """A run of T tokens of one document. `id` is "DOCUMENT#INDEX".

    The first `context` tokens are given and the others predicted: all but the first, unless
    only an answer at the end is of interest. `left_out` is how many tokens follow in the document
    that are too few for a chunk of their own.
    """

    id: str
    document: str
    tokens: Sequence[int]
    zlib_bytes: int = 0
    context: int = 1
    left_out: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", TokenIds(self.tokens))

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return len(self.tokens) - self.context


@dataclass(frozen=True)
class Cutting:
    """How documents are cut.

    length     tokens of a chunk at most
    minimum    tokens that a chunk has at least; an answer to a prompt has one at least
    every_bos  every chunk begins with the tokenizer's <bos>, and not only the first of a document
    """

    length: int
    minimum: int = MINIMUM_TOKENS
    every_bos: bool = False


def cut(
    documents: Iterable[Document],
    tokenizer: Any,
    length: int,
    minimum: int = MINIMUM_TOKENS,
    name: str = "documents",
    bos_every_chunk: bool = False,
) -> list[Chunk]:
    """The chunks of `documents`, in order, each of `minimum` to `length` tokens.

    `tokenizer` is a `transformers` tokenizer; its own special tokens are added once per document,
    and with `bos_every_chunk` its <bos> to every chunk that would begin without. Of a document with
    a prompt the first chunk begins with the prompt, which is given and not predicted; a prompt that
    leaves less than half a chunk to a longer answer is cut at its beginning.

    A document shorter than the minimum has no chunk: a logged warning names it, and
    `UnlearnError` refuses a set most of whose documents are so. `name` is what the set is called
    in both. Documents may come from an iterator: none is kept.
    """
    cutting = Cutting(length, minimum, bos_every_chunk)
    bos = _bos(tokenizer) if bos_every_chunk else None
    chunks: list[Chunk] = []
    seen: list[str] = []
    shortened: list[str] = []
    for document in documents:
        seen.append(document.id)
        chunks += _cut_one(document, tokenizer, cutting, bos, name, shortened)
    if shortened:
        logger.warning(
            "the prompts of %d of %d %s documents leave too little room for the text in %d tokens, "
            "and are cut at their beginning: %s",
            len(shortened),
            len(seen),
            name,
            length,
            listed(shortened),
        )
    short = without_chunks(seen, chunks)
    if seen and not chunks:
        raise UnlearnError(
            f"all {len(seen)} {name} documents are shorter than {minimum} tokens: give longer "
            "texts."
        )
    if 2 * len(short) > len(seen):
        raise UnlearnError(
            f"{len(short)} of {len(seen)} {name} documents are shorter than {minimum} tokens "
            f"({listed(short, 20)}): give longer texts, or take these out."
        )
    if short:
        logger.warning(
            "%d of %d %s documents are shorter than %d tokens and left out: %s",
            len(short),
            len(seen),
            name,
            minimum,
            listed(short),
        )
    return chunks


def _bos(tokenizer: Any) -> int:
    """The id of <bos>; `UnlearnError` for a tokenizer that has none."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        raise UnlearnError(
            "bos_every_chunk is set, and the tokenizer has no <bos> token: leave it out."
        )
    return int(bos)


def _cut_one(
    document: Document,
    tokenizer: Any,
    cutting: Cutting,
    bos: int | None,
    name: str,
    shortened: list[str],
) -> Iterator[Chunk]:
    """The chunks of one document; where its prompt has to be cut its id is added to `shortened`."""
    tokens, given = _tokens(document, tokenizer, f"the {name} document {document.id!r}")
    if bos is not None and len(tokens) and tokens[0] != bos:
        tokens, given = np.insert(tokens, 0, bos), given + 1
    whole_prompt = given
    tokens, given = _fit_prompt(tokens, given, cutting.length, tokenizer)
    if given < whole_prompt:
        shortened.append(document.id)
    # An answer of one word is an answer; less than the minimum of a text is no text.
    parts = list(_parts(len(tokens), given + 1 if document.prompt else cutting.minimum, cutting))
    left = len(tokens) - (parts[-1][1] if parts else 0)
    for index, (start, stop) in enumerate(parts):
        part, context = tokens[start:stop], given if start == 0 else 1
        whole = stop - start == len(tokens)
        text = (
            document.text
            if whole
            else tokenizer.decode(
                part[context if document.prompt and start == 0 else 0 :].tolist(),
                skip_special_tokens=True,
            )
        )
        yield Chunk(
            f"{document.id}#{index}",
            document.id,
            TokenIds(part if bos is None or start == 0 else np.insert(part, 0, bos)),
            len(zlib.compress(text.encode("utf-8"))),
            context,
            left if index == len(parts) - 1 else 0,
        )


def _parts(count: int, fewest: int, cutting: Cutting) -> Iterator[tuple[int, int]]:
    """(start, stop) of each chunk of a document of so many tokens; the first has `fewest` or more.

    With `every_bos` all but the first leave room for it.
    """
    start, size = 0, cutting.length
    while start < count:
        stop = min(count, start + size)
        if stop - start < fewest:
            return
        yield start, stop
        start, fewest = stop, cutting.minimum - cutting.every_bos
        size = cutting.length - cutting.every_bos


def _tokens(document: Document, tokenizer: Any, name: str) -> tuple[np.ndarray, int]:
    """The tokens of a document, and how many of them are given: those of its prompt, at least 1."""
    if not document.prompt:
        return _one_bos(encode(document.text, tokenizer, name), tokenizer), 1
    chat = not isinstance(document.prompt, str)
    before, text = spelt(document, tokenizer, name)
    whole, prompt = (
        _one_bos(
            encode(part, tokenizer, name, special=not chat), tokenizer
        )  # a template has its own
        for part in (text, before)
    )
    # Where a token has letters of both, it is one of the answer. An end token is no part of either.
    short = min(len(whole), len(prompt))
    apart = np.flatnonzero(whole[:short] != prompt[:short])
    return whole, max(1, int(apart[0]) if len(apart) else short)


def _one_bos(tokens: np.ndarray, tokenizer: Any) -> np.ndarray:
    """The tokens without the second <bos> where a text begins with one and gets another."""
    twice = len(tokens) > 1 and tokens[0] == tokens[1] == getattr(tokenizer, "bos_token_id", None)
    return tokens[1:] if twice else tokens


def _fit_prompt(
    tokens: np.ndarray, given: int, length: int, tokenizer: Any
) -> tuple[np.ndarray, int]:
    """The prompt cut at its beginning so that the answer begins in the first chunk.

    The answer is all in it if it takes less than half of it; <bos> stays in front.
    """
    keep = max(1, length - (len(tokens) - given), length // 2)
    if given <= keep or len(tokens) <= length:
        return tokens, given
    first = int(keep > 1 and tokens[0] == getattr(tokenizer, "bos_token_id", None))
    return np.concatenate([tokens[:first], tokens[given - keep + first :]]), keep


def left_out(chunks: Iterable[Chunk]) -> str:
    """A sentence on the ends of documents that are too short for a chunk; "" if there are none."""
    ends = [chunk.left_out for chunk in chunks if chunk.left_out]
    if not ends:
        return ""
    return (
        f"{sum(ends):,} {plural('token', sum(ends))} at the {plural('end', len(ends))} of "
        f"{len(ends):,} {plural('document', len(ends))} {'is' if sum(ends) == 1 else 'are'} left "
        f"out: fewer than {MINIMUM_TOKENS} follow the last whole chunk"
    )


def without_chunks(documents: Iterable[str], chunks: Iterable[Chunk]) -> tuple[str, ...]:
    """Which of these ids of documents have no chunk: what is not trained on and not scored."""
    whole = {chunk.document for chunk in chunks}
    return tuple(document for document in documents if document not in whole)


# A word that is all there, at the end of a text that may have been cut anywhere: something of what
# follows a word was still there.
_ENDED = re.compile(r"[.,;:!?…][)\]\"'’”»]*$")


def last_word(chunk: Chunk, tokenizer: Any) -> tuple[int, int] | None:
    """Where the last whole word of a chunk stands: its first target, and the one after its last.

    Words are split on white space, and punctuation around them is no part of them. Where a chunk
    ends in the middle of a document its last word may be cut; one counts as whole if white space
    follows it, or if it ends in a punctuation mark. The word's tokens are those that share a
    character with it. None if no word is whole, or if its first token is given and not predicted.
    """
    for width in (16, 64, len(chunk.tokens)):
        tail = chunk.tokens[-width:]
        start = len(chunk.tokens) - len(tail)
        shown = [
            tokenizer.decode(
                list(tail[:count]), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for count in range(len(tail) + 1)
        ]
        # Where each token begins, in whole letters: bytes of half a letter belong to its place.
        begins = list(itertools.accumulate((len(s.rstrip("\ufffd")) for s in shown), max))
        special = set(tokenizer.all_special_ids)
        for word in reversed(list(re.finditer(r"\S+", shown[-1]))):
            core = re.search(r"\w(?:.*\w)?", word[0])
            whole = word.end() < len(shown[-1]) or _ENDED.search(word[0])
            if core is None or not whole:
                continue
            if word.start() == 0 and start > 0:
                break  # it may begin before the tail
            first, stop = word.start() + core.start(), word.start() + core.end()
            covered = [
                t
                for t, token in enumerate(tail)
                if token not in special
                and begins[t] < stop
                and next((b for b in begins[t:] if b > begins[t]), len(shown[-1])) > first
            ]
            span = start + covered[0] - chunk.context, start + covered[-1] + 1 - chunk.context
            return span if span[0] >= 0 else None
    return None


def pack(chunks: Sequence[Chunk], max_tokens: int, max_chunks: int) -> list[list[int]]:
    """Micro-batches of chunk indices: like lengths together, at most `max_tokens` padded tokens.

    Of all ways to divide the chunks, sorted by length, the one with the fewest padded tokens, where
    beginning a micro-batch counts as much as `max_tokens` / 32 of them. (Filling each in turn would
    pad a short chunk to a long one wherever there is room: up to 40 % more tokens on a few
    documents of mixed lengths.) A chunk longer than `max_tokens` gets a micro-batch of its own.
    Longest first, so that a machine too small for the work says so at once.
    """
    order = sorted(range(len(chunks)), key=lambda i: (-len(chunks[i].tokens), i))
    widths = np.array([len(chunks[i].tokens) for i in order], dtype=np.int64)
    cost = np.zeros(len(order) + 1)  # the least cost of the first so many chunks
    begin = np.zeros(len(order) + 1, dtype=np.int64)  # where the last micro-batch of those begins
    for end in range(1, len(order) + 1):
        first = np.arange(max(0, end - max_chunks), end)
        padded = (end - first) * widths[first]
        total = cost[first] + padded + max_tokens / 32
        total[(padded > max_tokens) & (first < end - 1)] = np.inf
        best = int(np.argmin(total))
        cost[end], begin[end] = total[best], first[best]
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begin[end] : end])
        end = int(begin[end])
    return batches[::-1]


@dataclass(frozen=True)
class Batch:
    """B chunks padded on the right to their longest, T tokens.

    input_ids       (B, T) i64
    target_mask     (B, T) bool  True at t where token t + 1 of the chunk exists and is no context:
                                 the positions whose output predicts; padding never does
    targets         (N,) i64     the predicted tokens, row by row, N = target_mask.sum()
    position_ids    (B, T) i64   None unless packed: then B = 1, the chunks stand one after another,
                                 and positions begin at 0 with each
    """

    input_ids: torch.Tensor
    target_mask: torch.Tensor
    targets: torch.Tensor
    position_ids: torch.Tensor | None = None


def collate(chunks: Sequence[Chunk], device: torch.device | str = "cpu") -> Batch:
    """Pad `chunks` on the right into a `Batch`.

    Padding carries token 0, whatever that is: with causal attention nothing real can see what
    stands to its right, and no padded position is a target.
    """
    lengths = torch.tensor([len(chunk.tokens) for chunk in chunks])
    width = int(lengths.max())
    input_ids = torch.zeros(len(chunks), width, dtype=torch.int64)
    for row, chunk in enumerate(chunks):
        input_ids[row, : len(chunk.tokens)] = torch.from_numpy(np.array(chunk.tokens))
    position = torch.arange(width)
    context = torch.tensor([chunk.context for chunk in chunks])
    target_mask = (position < lengths[:, None] - 1) & (position >= context[:, None] - 1)  # (B, T)
    shifted = torch.roll(input_ids, -1, dims=1)
    return Batch(
        input_ids.to(device),
        target_mask.to(device),
        shifted[target_mask].to(device),
    )


def collate_packed(chunks: Sequence[Chunk], device: torch.device | str = "cpu") -> Batch:
    """Put `chunks` one after another into a single row: no padding, T the sum of their lengths.

    The last token of a chunk is no position that predicts, so no chunk predicts the next one's
    first token; that none sees another is the attention's part, by `position_ids`.
    """
    lengths = torch.tensor([len(chunk.tokens) for chunk in chunks])
    joined = np.concatenate([np.array(chunk.tokens, dtype=np.int64) for chunk in chunks])
    input_ids = torch.from_numpy(joined)[None]
    position_ids = torch.cat([torch.arange(n) for n in lengths.tolist()])  # (T,)
    last = torch.repeat_interleave(lengths, lengths) - 1
    context = torch.repeat_interleave(torch.tensor([c.context for c in chunks]), lengths)
    target_mask = ((position_ids < last) & (position_ids >= context - 1))[None]
    return Batch(
        input_ids.to(device),
        target_mask.to(device),
        torch.roll(input_ids, -1, dims=1)[target_mask].to(device),
        position_ids[None].to(device),
    )
