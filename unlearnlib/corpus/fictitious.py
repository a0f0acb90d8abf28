"""Three invented corpora for the `lab` profile: papers, Python modules and novels.

Nothing here comes from outside: a recursive grammar with an invented lexicon writes every
document from a seed. That buys what no public corpus can give:

* the splits of a domain are a random division of one pool, so `approximate` is of the same
  distribution as `forget` by construction, not by hope;
* every document carries two to four facts that stand in no other document, each with three
  wrong answers of the same kind, so that what a model *knows* can be probed, not only how
  likely it finds a text.

Facts can stand nowhere else because their subjects cannot: a subject's name is drawn without
replacement from a product of syllables, and the syllables of two domains differ. Answers, in
contrast, come from lexicons that all documents share, so a model that has not read the document
has no reason to prefer the right one.

How templates are read and draws are made is told in `writing`; the draws of a document depend on
(seed, domain, index) alone: same seed, same bytes, everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.grammar import GRAMMARS, SYLLABLES
from unlearnlib.corpus.writing import COMPOSERS, Draft, Draw, Writer, fits
from unlearnlib.errors import unknown

DOMAINS = ("arxiv", "github", "books")

COUNTS: Mapping[str, int] = MappingProxyType(
    {
        "forget": 64,
        "retain": 512,
        "approximate": 64,
        "general_retain": 256,
        "general_evaluation": 128,
    }
)

_DOMAIN_SPLITS = ("forget", "retain", "approximate")
_GENERAL_SPLITS = ("general_retain", "general_evaluation")
_NAMES_PER_DOCUMENT = 3


def generate(domain: str, seed: int = 0) -> DomainData:
    """The five splits of one invented domain, as many documents each as `COUNTS` says.

    The general splits are the same whatever the domain. Raises `UnlearnError` for a domain that
    is not one of `DOMAINS`. Takes about a second at the first call.
    """
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    splits = _split(domain, _DOMAIN_SPLITS, seed) | _split("general", _GENERAL_SPLITS, seed)
    return DomainData(
        domain=domain,
        forget=splits["forget"],
        retain=splits["retain"],
        approximate=splits["approximate"],
        general_retain=splits["general_retain"],
        general_evaluation=splits["general_evaluation"],
        source=f"fictitious, seed {seed}",
    )


@functools.cache
def _split(corpus: str, names: tuple[str, ...], seed: int) -> dict[str, tuple[Document, ...]]:
    """The pool of one corpus, dealt to the splits `names` in a seeded random order."""
    drafts = _pool(corpus, sum(COUNTS[name] for name in names), seed)
    deal = Draw(seed, corpus, "split").shuffled(drafts)
    splits: dict[str, tuple[Document, ...]] = {}
    for name in names:
        taken, deal = deal[: COUNTS[name]], deal[COUNTS[name] :]
        prefix = name.replace("_", "-") if corpus == "general" else f"{corpus}-{name}"
        splits[name] = tuple(
            Document(f"{prefix}-{number:04d}", draft.text, draft.facts)
            for number, draft in enumerate(taken, start=1)
        )
    return splits


def _pool(corpus: str, count: int, seed: int) -> list[Draft]:
    """`count` drafts of one corpus, each from its own random stream."""
    names = _names(corpus, count * _NAMES_PER_DOCUMENT, seed)
    drafts = []
    for index in range(count):
        own = names[index * _NAMES_PER_DOCUMENT : (index + 1) * _NAMES_PER_DOCUMENT]
        drafts.append(_compose(corpus, own, Draw(seed, corpus, index)))
    return drafts


def _compose(corpus: str, names: Sequence[str], draw: Draw) -> Draft:
    """The first attempt that is neither too short nor too long."""
    while True:
        draft = COMPOSERS[corpus](Writer(draw, GRAMMARS[corpus], names))
        if fits(draft.text, corpus):
            return draft


def _names(corpus: str, count: int, seed: int) -> list[str]:
    """`count` different invented names.

    Onset, vowel, middle and ending can be told apart in the result (consonants and vowels
    alternate), and no ending is shared between corpora, so no two corpora share a name either.
    """
    onsets, vowels, middles, endings = SYLLABLES[corpus]
    draw = Draw(seed, corpus, "names")
    names: dict[str, None] = {}  # a dictionary rather than a set: it keeps the order of drawing
    while len(names) < count:
        parts = (draw.pick(onsets), draw.pick(vowels), draw.pick(middles), draw.pick(endings))
        names["".join(parts)] = None
    return list(names)
