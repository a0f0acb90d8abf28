"""Context: ask for the documents in another place than they were unlearned in.

A model that recognises a document by its beginning, and only then holds back, says it elsewhere:
from its middle on, behind another text, or when its facts are asked for in other words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from unlearnlib.audits.case import Case, Measured, Tick, losses_of, measured, tokens
from unlearnlib.corpus.chunks import MINIMUM_TOKENS, Chunk
from unlearnlib.scoring import cloze_chunks

FORMS = ("as_is", "middle", "after", "questions")
LOOKED_AT = ("forget", "approximate")


def from_middle(chunks: Sequence[Chunk], special: frozenset[int]) -> list[Chunk]:
    """The second half of each chunk, behind its <bos> if it has one; a prompt stays away."""
    made = []
    for chunk in chunks:
        begin = tuple(chunk.tokens[:1]) if chunk.tokens[0] in special else ()
        half = tuple(chunk.tokens[max(chunk.context, len(chunk.tokens) // 2) :])
        if len(half) >= MINIMUM_TOKENS:
            made.append(_changed(chunk, (*begin, *half), len(begin) + (not begin)))
    return made


def behind(chunks: Sequence[Chunk], others: Sequence[Chunk], length: int) -> list[Chunk]:
    """Each chunk behind the beginning of another text, a quarter of a whole chunk long.

    The other texts come in turn; targets are those of the chunk, as far as there is room.
    """
    made = []
    for number, chunk in enumerate(chunks):
        if not others:
            break
        before = tuple(others[number % len(others)].tokens[: length // 4])
        own = tuple(chunk.tokens)[1 if len(chunk.tokens) > 1 else 0 :]
        context = len(before) + chunk.context - 1
        whole = (*before, *own)[:length]
        if len(whole) > context:
            made.append(_changed(chunk, whole, max(1, context)))
    return made


def _changed(chunk: Chunk, whole: tuple[int, ...], context: int) -> Chunk:
    return dataclasses.replace(chunk, tokens=whole, context=context)


@dataclass(frozen=True)
class Context:
    """The forms in which the documents are asked for.

    forms  as_is      the documents themselves
           middle     from their middle on
           after      behind the beginning of a general text
           questions  the answers to their facts, asked in words that no document uses, where it is
                      known what they say
    """

    forms: tuple[str, ...] = FORMS
    audit: ClassVar[str] = "context"

    def chunks(self, case: Case, form: str, split: str) -> list[Chunk]:
        """What a form makes of a split; nothing where it cannot be made."""
        chunks = case.chunks(split)
        if form == "as_is":
            return chunks
        if form == "middle":
            return from_middle(chunks, case.bench.special)
        if form == "after":
            others = [c for c in case.chunks("general_evaluation") if c.context == 1]
            return behind(chunks, others, case.bench.length)
        return self._questions(case, {chunk.document for chunk in chunks}, split)

    def _questions(self, case: Case, names: set[str], split: str) -> list[Chunk]:
        asked = []
        for document in case.bench.data.split(split):
            facts = [
                dataclasses.replace(fact, prompt=words, paraphrases=())
                for fact in document.facts
                for words in fact.paraphrases
            ]
            if facts and document.id in names:
                asked.append(dataclasses.replace(document, text="", facts=tuple(facts)))
        made, _ = cloze_chunks(asked, case.bench.tokenizer)
        questions = sum(len(document.facts) for document in asked)
        return made[:: len(made) // questions] if questions else []  # the right answers

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        return sum(tokens(self.chunks(case, f, s)) for f in self.forms for s in LOOKED_AT)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """The losses of each form, on the documents and on unread ones."""
        found = Measured()
        for form in self.forms:
            chunks = [self.chunks(case, form, split) for split in LOOKED_AT]
            if chunks[0]:
                losses = [losses_of(model, some, case.execution) for some in chunks]
                found.rows.append({"form": form, **measured(*losses)})
            tick(sum(map(tokens, chunks)))
        return found
