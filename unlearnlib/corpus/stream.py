"""A pre-training stream of invented texts, in which it is known how often each was read.

Four corpora (papers, Python modules, novels, articles) of the grammars in `wordings`, some
14,000 documents each, are read once, in one pass, in a random order that mixes them. Of each
domain's `forget` set, 24 documents each stand in the stream 1, 2, 4, 8 and 16 times, at random
places. `retain` is a sample of what was read once; `approximate` and `general_evaluation` were
never read.

All documents of a corpus are drawn alike, each from a random stream of its own, so which of them
make a split is no matter: a split is a range of numbers. A third of the documents tell of people
who recur: four documents a person, all in one split and read equally often, each with facts of its
own. A name that a fact is about stands in no document but those of its subject.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.grammar import SYLLABLES
from unlearnlib.corpus.wordings import LINKS, STREAM_GRAMMARS
from unlearnlib.corpus.writing import COMPOSERS, Draft, Draw, Person, Writer, capital, fits
from unlearnlib.errors import unknown

DOMAINS = ("arxiv", "github", "books")
CORPORA = (*DOMAINS, "general")
EXPOSURES = (1, 2, 4, 8, 16)
PER_EXPOSURE = 24
TOLD = 4  # documents that tell of a person
_NAMES = 3  # of a document's own
_CYCLE = 12  # every group has a multiple of so many documents
_FACTS_TOLD = 2  # of a person, in one document

COUNTS: Mapping[str, int] = MappingProxyType(
    {
        "forget": PER_EXPOSURE * len(EXPOSURES),
        "retain": 480,
        "approximate": 120,
        "general_retain": 480,
        "general_evaluation": 96,
    }
)


@dataclass(frozen=True)
class Group:
    """Documents of a corpus that are treated alike: of one split, read equally often.

    start  number of the first in its corpus; there are `count`
    """

    name: str
    start: int
    count: int
    exposure: int


def groups(corpus: str, documents: int) -> tuple[Group, ...]:
    """The groups of a corpus of which `documents` stand in the stream, forget sets left out.

    Unread documents come first, so that the length of the stream changes no document of a split.
    """
    if corpus not in CORPORA:
        raise unknown("corpus", corpus, CORPORA)
    if corpus == "general":
        sizes = [("general_evaluation", COUNTS["general_evaluation"], 0)]
        sizes += [("general_retain", COUNTS["general_retain"], 1)]
    else:
        sizes = [("approximate", COUNTS["approximate"], 0)]
        sizes += [("forget", PER_EXPOSURE, exposure) for exposure in EXPOSURES]
        sizes += [("retain", COUNTS["retain"], 1)]
    kept = COUNTS["general_retain" if corpus == "general" else "retain"]
    sizes.append(("rest", max(0, documents - kept), 1))
    found, start = [], 0
    for name, count, exposure in sizes:
        found.append(Group(name, start, count, exposure))
        start += count
    return tuple(found)


def generate(domain: str, seed: int = 0) -> DomainData:
    """The five splits of one domain of the stream, as many documents each as `COUNTS` says.

    The forget set is in the order of its exposures 1, 2, 4, 8, 16, 1, 2, ..., so that its first
    few documents are mixed, too. Raises `UnlearnError` for a domain that is not one of `DOMAINS`.
    """
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    parts: dict[str, list[tuple[Document, ...]]] = {}
    for corpus in (domain, "general"):
        for group in groups(corpus, 0):
            parts.setdefault(group.name, []).append(documents_of(corpus, group, seed))
    forget = tuple(document for row in zip(*parts["forget"], strict=True) for document in row)
    return DomainData(
        domain=domain,
        forget=forget,
        retain=parts["retain"][0],
        approximate=parts["approximate"][0],
        general_retain=parts["general_retain"][0],
        general_evaluation=parts["general_evaluation"][0],
        source=f"stream, seed {seed}",
    )


def documents_of(corpus: str, group: Group, seed: int = 0) -> tuple[Document, ...]:
    """The documents of a group, with ids such as books-forget-16x-07 and books-retain-0001."""
    split = group.name.replace("_", "-")
    stem = split if split.startswith(corpus) else f"{corpus}-{split}"
    if group.name == "forget":
        stem += f"-{group.exposure}x"
    return tuple(
        Document(
            f"{stem}-{number + 1:04d}",
            draft.text,
            draft.facts,
            exposure=group.exposure,
        )
        for number, draft in enumerate(drafts(corpus, group.start, group.count, seed))
    )


def drafts(corpus: str, start: int, count: int, seed: int = 0) -> Iterator[Draft]:
    """`count` documents of a corpus from number `start` on, with what their choices cost."""
    for number in range(start, start + count):
        yield _compose(corpus, number, seed)


def stream_documents(
    documents: int, without: str | None = None, seed: int = 0
) -> tuple[Document, ...]:
    """All that stands in the stream, each document once; its `exposure` says how often it is read.

    `documents` of every corpus are read once, beside the forget sets. `without` names the domain
    whose forget set is left out.
    """
    if without is not None and without not in DOMAINS:
        raise unknown("domain", without, DOMAINS)
    return tuple(
        document
        for corpus in CORPORA
        for group in groups(corpus, documents)
        if group.exposure and not (group.name == "forget" and corpus == without)
        for document in documents_of(corpus, group, seed)
    )


class Read(Protocol):
    """A document, or what is needed of it to place its readings in the stream."""

    @property
    def id(self) -> str:
        """The document's."""

    @property
    def exposure(self) -> int:
        """How often it is read."""


class Reading(NamedTuple):
    """Of a document its id, and how often it is read."""

    id: str
    exposure: int


R = TypeVar("R", bound=Read)


def is_forgotten(document: str, domain: str) -> bool:
    """Whether a document, by its id, is of a domain's forget set; of no domain "" is one."""
    return bool(domain) and document.startswith(f"{domain}-forget-")


def readings(documents: Sequence[R], seed: int) -> list[R]:
    """The pass: every document as often as its exposure says, in a random order.

    The place of a reading depends on the seed, the document's id and the reading's number alone:
    where a document is left out, the others keep their order.
    """
    places = [
        (Draw("place", seed, document.id, number).below(2**52), document.id, number, document)
        for document in documents
        for number in range(document.exposure)
    ]
    return [document for *_, document in sorted(places, key=lambda place: place[:3])]


def _compose(corpus: str, number: int, seed: int) -> Draft:
    """One document: the first attempt that is neither too short nor too long."""
    grammar = STREAM_GRAMMARS[corpus]
    draw = Draw(seed, "stream", corpus, number)
    names = [name(corpus, number * _NAMES + place, seed) for place in range(_NAMES)]
    person = _person(corpus, number, seed)
    aside = Writer(Draw(seed, "stream", corpus, number, "wrong"), grammar, names)
    while True:
        draw.nats = 0.0
        draft = COMPOSERS[corpus](Writer(draw, grammar, names, person, aside))
        if fits(draft.text, corpus):
            known = [] if person is None else [person.last.lower()]
            return replace(draft, nats=_cost(corpus, draft, [*names, *known]))


def _cost(corpus: str, draft: Draft, names: Sequence[str]) -> float:
    """What the choices of a draft cost; a name is one of all that there could be."""
    shown = sum(name in draft.text.lower() for name in names)
    return draft.nats + shown * math.log(_count_names(corpus))


def _person(corpus: str, number: int, seed: int) -> Person | None:
    """Of whom a document tells: of every `_CYCLE` documents the first `TOLD` share a person."""
    cycle, place = divmod(number, _CYCLE)
    if place >= TOLD:
        return None
    grammar = STREAM_GRAMMARS[corpus]
    draw = Draw(seed, "stream", corpus, "person", cycle)
    female = bool(draw.below(2))
    first = draw.pick(grammar["woman" if female else "man"])
    facts = draw.shuffled(grammar["person_fact"])[place::TOLD][:_FACTS_TOLD]
    # Names of people are counted from the other end, so none is also a document's own.
    last = capital(name(corpus, _count_names(corpus) - 1 - cycle, seed))
    return Person(first, last, female, tuple(facts))


def _parts(corpus: str) -> tuple[Sequence[str], ...]:
    onsets, vowels, middles, endings = SYLLABLES[corpus]
    return onsets, vowels, middles, *LINKS, endings


@functools.cache
def _count_names(corpus: str) -> int:
    """How many names a corpus has."""
    return math.prod(len(part) for part in _parts(corpus))


def name(corpus: str, index: int, seed: int) -> str:
    """Name number `index`: another index gives another name.

    Consonants and vowels alternate, so a name can be taken apart in one way only; no ending is
    shared between corpora, so no two corpora share a name.
    """
    count = _count_names(corpus)
    step, start = _steps(corpus, seed)
    place = (start + index * step) % count
    letters = []
    for part in _parts(corpus):
        place, own = divmod(place, len(part))
        letters.append(part[own])
    return "".join(letters)


@functools.cache
def _steps(corpus: str, seed: int) -> tuple[int, int]:
    """A step that reaches every name before it comes back to the first, and that first one."""
    count = _count_names(corpus)
    draw = Draw(seed, "stream", corpus, "names")
    step = draw.between(count // 3, count // 2)
    while math.gcd(step, count) != 1:
        step += 1
    return step, draw.below(count)
