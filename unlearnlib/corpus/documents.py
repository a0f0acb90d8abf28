"""What every source of documents yields: `Document`s, grouped into a `DomainData`.

The sources differ (a seeded generator, public repositories, a hub, a user's files); everything
after them sees only these three types, so an experiment never asks where a text came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unlearnlib.errors import UnlearnError


@dataclass(frozen=True)
class Fact:
    """A cloze question: `prompt` is the beginning of a sentence that `answer` completes.

    `prompt + answer` is a substring of the document that carries the fact (so the prompt ends
    with the space, if there is one, that precedes the answer). `distractors` are answers of the
    same kind that are wrong here; with three of them chance level is 25 %. `paraphrases` are other
    beginnings that the answer completes, in words that the document does not use.
    """

    prompt: str
    answer: str
    distractors: tuple[str, ...]
    paraphrases: tuple[str, ...] = ()


Turn = tuple[str, str]  # who says it ("system", "user", "assistant"), and what


def _turns(prompt: Any) -> tuple[Turn, ...]:
    """Turns as pairs, also of a list of {"role": ..., "content": ...}."""
    try:
        pairs = tuple((t["role"], t["content"]) if isinstance(t, Mapping) else t for t in prompt)
        if all(isinstance(role, str) and isinstance(said, str) for role, said in pairs):
            return tuple((role, said) for role, said in pairs)
    except (TypeError, ValueError, KeyError):
        pass
    raise UnlearnError(
        "a prompt is neither a string nor a list of turns: give a question, or "
        '[{"role": "user", "content": "..."}, ...].'
    )


@dataclass(frozen=True)
class Document:
    """A text with a name. `facts` is empty wherever nobody knows what the text says.

    `prompt` is what is given before the text, a question for one: every loss and every score is of
    the text alone. A string is put before the text, with a space between the two unless there is
    white space already; turns of a conversation are spelt by the tokenizer's chat template, and the
    text is the assistant's next one.

    `exposure` is how often the model read the document in training; 0: nobody knows.
    """

    id: str
    text: str
    facts: tuple[Fact, ...] = ()
    prompt: str | tuple[Turn, ...] = ""
    exposure: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", _turns(self.prompt))

    @property
    def given(self) -> tuple[str, ...]:
        """The words of the prompt as strings, () without one: turns are role, text, role, ..."""
        if isinstance(self.prompt, str):
            return (self.prompt,) if self.prompt else ()
        return tuple(part for turn in self.prompt for part in turn)

    def sha256(self) -> str:
        """SHA-256 (hex) of the text in UTF-8; with a prompt of all its parts, each behind a NUL."""
        digest = hashlib.sha256(self.text.encode("utf-8"))
        for part in self.given:
            digest.update(b"\0" + part.encode("utf-8"))
        return digest.hexdigest()


def hash_documents(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) over the ids, texts, facts, prompts and exposures, in order.

    It is the identity of a split. What a document does not have adds nothing to it.
    """
    digest = hashlib.sha256()
    for document in documents:
        parts = [document.id, document.text]
        for fact in document.facts:
            parts += [fact.prompt, fact.answer, *fact.distractors, *fact.paraphrases]
        for part in parts:
            raw = part.encode("utf-8")
            # Lengths first, so that moving a character over a boundary changes the hash.
            digest.update(len(raw).to_bytes(8, "big"))
            digest.update(raw)
        if document.given:  # no length is so large: what follows can be nothing else
            digest.update((b"\xfe" if isinstance(document.prompt, str) else b"\xfd") * 8)
            for part in document.given:
                raw = part.encode("utf-8")
                digest.update(len(raw).to_bytes(8, "big"))
                digest.update(raw)
        if document.exposure:
            digest.update(b"\xfc" * 8 + document.exposure.to_bytes(8, "big"))
        digest.update(b"\xff" * 8)
    return digest.hexdigest()


SPLITS = ("forget", "retain", "approximate", "general_retain", "general_evaluation")


@dataclass(frozen=True)
class DomainData:
    """The five splits of one domain.

    `forget` and `retain` were trained on, `approximate` is of the same kind and was not;
    `general_retain` and `general_evaluation` are free of the domain. A user's own data may
    leave any but `forget` empty.
    """

    domain: str
    forget: tuple[Document, ...]
    retain: tuple[Document, ...] = ()
    approximate: tuple[Document, ...] = ()
    general_retain: tuple[Document, ...] = ()
    general_evaluation: tuple[Document, ...] = ()
    source: str = ""
    extra: dict[str, str] = field(default_factory=dict, compare=False)

    def split(self, name: str) -> tuple[Document, ...]:
        """The documents of one of `SPLITS`."""
        return getattr(self, name)

    @property
    def has_prompts(self) -> bool:
        """Whether any document has a prompt."""
        return any(document.prompt for name in SPLITS for document in self.split(name))

    def hash(self) -> str:
        """SHA-256 (hex) over the five splits: the data's part of a run's key."""
        digest = hashlib.sha256()
        for name in SPLITS:
            digest.update(f"{name}:{hash_documents(self.split(name))}\n".encode())
        return digest.hexdigest()


def overlaps(data: DomainData) -> dict[str, tuple[str, ...]]:
    """Split -> ids of the documents to forget whose whole text stands in that split, too.

    Splits that share none are left out. Outer whitespace makes no other text, and another prompt
    does.
    """

    def identity(document: Document) -> str:
        return replace(document, text=document.text.strip()).sha256()

    forget = [(document.id, identity(document)) for document in data.forget]
    found = {}
    for name in SPLITS:
        texts = set(map(identity, data.split(name))) if name != "forget" else set()
        if both := tuple(own for own, digest in forget if digest in texts):
            found[name] = both
    return found


def clip(data: DomainData, tokenizer: Any, length: int) -> DomainData:
    """Every document cut after the last character of its first `length` tokens.

    `tokenizer` is a fast one of `transformers` (it tells where tokens lie in the text). A clipped
    document is `length` tokens long or, where its last words cut short tokenise otherwise, a few
    less, never more.
    """

    def clipped(document: Document) -> Document:
        coded = tokenizer(document.text, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in coded["offset_mapping"]]
        last = length
        text = document.text
        while len(tokenizer(text, verbose=False)["input_ids"]) > length:
            text = document.text[: ends[last - 1]]
            last -= 1
        return replace(document, text=text)

    cut = {name: tuple(map(clipped, data.split(name))) for name in SPLITS}
    return replace(data, **cut)  # type: ignore[arg-type]
