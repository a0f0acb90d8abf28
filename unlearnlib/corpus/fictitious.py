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

How a template is read: `<symbol>` is replaced by one of the symbol's productions, `<symbol#1>`
is chosen once per document and then remembered, `<symbol^>` is capitalised, `<symbol!>` is in
capitals, `a(n)` becomes the right article, and in the sentence of a fact `@symbol` is the answer.
A production is not used twice in a document before the others have been used.

Every draw comes from `random.Random.random`, the one method whose sequence Python guarantees
across versions, seeded by SHA-256 of (seed, domain, index): same seed, same bytes, everywhere.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from unlearnlib.corpus.documents import Document, DomainData, Fact
from unlearnlib.corpus.grammar import GRAMMARS, IMPORTS, NUMBERS, SYLLABLES
from unlearnlib.errors import unknown

T = TypeVar("T")

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
# Fewest and most words, digits and marks of a document: 100 to 245 tokens.
_SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"arxiv": (118, 194), "github": (110, 176), "books": (98, 165), "general": (96, 152)}
)


def generate(domain: str, seed: int = 0) -> DomainData:
    """The five splits of one invented domain, as many documents each as `COUNTS` says.

    The general splits are the same whatever the domain. Raises `UnlearnError` for a domain that
    is not one of `DOMAINS`. Takes about a second.
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


def _split(corpus: str, names: Sequence[str], seed: int) -> dict[str, tuple[Document, ...]]:
    """The pool of one corpus, dealt to the splits `names` in a seeded random order."""
    drafts = _pool(corpus, sum(COUNTS[name] for name in names), seed)
    deal = _Draw(seed, corpus, "split").shuffled(drafts)
    splits: dict[str, tuple[Document, ...]] = {}
    for name in names:
        taken, deal = deal[: COUNTS[name]], deal[COUNTS[name] :]
        prefix = name.replace("_", "-") if corpus == "general" else f"{corpus}-{name}"
        splits[name] = tuple(
            Document(f"{prefix}-{number:04d}", draft.text, draft.facts)
            for number, draft in enumerate(taken, start=1)
        )
    return splits


def _pool(corpus: str, count: int, seed: int) -> list[_Draft]:
    """`count` drafts of one corpus, each from its own random stream."""
    names = _names(corpus, count * _NAMES_PER_DOCUMENT, seed)
    drafts = []
    for index in range(count):
        own = names[index * _NAMES_PER_DOCUMENT : (index + 1) * _NAMES_PER_DOCUMENT]
        drafts.append(_compose(corpus, own, _Draw(seed, corpus, index)))
    return drafts


def _compose(corpus: str, names: Sequence[str], draw: _Draw) -> _Draft:
    """The first attempt that is neither too short nor too long.

    The size of a text in words, digits and marks foretells its tokens under a tokenizer of 2k to
    4k entries, which does not exist yet, to about a tenth; characters would tell less.
    """
    low, high = _SIZES[corpus]
    while True:
        draft = _COMPOSERS[corpus](_Writer(draw, GRAMMARS[corpus], names))
        if low <= len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", draft.text)) <= high:
            return draft


def _names(corpus: str, count: int, seed: int) -> list[str]:
    """`count` different invented names.

    Onset, vowel, middle and ending can be told apart in the result (consonants and vowels
    alternate), and no ending is shared between corpora, so no two corpora share a name either.
    """
    onsets, vowels, middles, endings = SYLLABLES[corpus]
    draw = _Draw(seed, corpus, "names")
    names: dict[str, None] = {}  # a dictionary rather than a set: it keeps the order of drawing
    while len(names) < count:
        parts = (draw.pick(onsets), draw.pick(vowels), draw.pick(middles), draw.pick(endings))
        names["".join(parts)] = None
    return list(names)


def _article(match: re.Match[str]) -> str:
    """`a` or `an`, by the sound that the following word starts with."""
    article, word = match.group(1), match.group(2).lower()
    vowel = word[0] in "aeiou" and not word.startswith(("uni", "use", "eu", "one"))
    return article + ("n " if vowel or word.startswith(("hour", "honest", "heir")) else " ")


def _articles(text: str) -> str:
    """The text with every `a(n)` decided."""
    return re.sub(r"\b([Aa])\(n\) (?=(?:\\\w+\{)?\W*(\w+))", _article, text)


def _finish(text: str) -> str:
    """Decide `a(n)`, and remove the spaces that empty optional parts leave behind."""
    text = re.sub(r"(?<=\S) {2,}", " ", text)
    return _articles(re.sub(r" +([,.;:?!])", r"\1", text))


def _capital(text: str) -> str:
    """The text with its first character in upper case."""
    return text[:1].upper() + text[1:]


class _Draw:
    """A random stream that depends on its key alone, on every platform and Python version."""

    def __init__(self, *key: int | str) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return int(self._random.random() * limit)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in random order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


@dataclass(frozen=True)
class _Draft:
    """A document before the deal gives it an id."""

    text: str
    facts: tuple[Fact, ...]


class _Writer:
    """Writes one document: expands templates, and remembers what it has said."""

    def __init__(
        self, draw: _Draw, grammar: Mapping[str, Sequence[str]], names: Sequence[str]
    ) -> None:
        self.draw = draw
        self.facts: list[Fact] = []
        self._grammar = grammar
        self._decks: dict[str, list[str]] = {}
        self._memory = {f"name#{number}": name for number, name in enumerate(names, start=1)}

    def bind(self, symbol: str, template: str) -> str:
        """Fix what a symbol stands for in this document."""
        self._memory[symbol] = self._expand(template)
        return self._memory[symbol]

    def forget_numbered(self, symbols: Iterable[str]) -> None:
        """Let `<symbol#1>`, `<symbol#2>`, ... be chosen anew, as for the next function."""
        for key in [key for key in self._memory if key.split("#")[0] in symbols]:
            del self._memory[key]

    def take(self, symbol: str) -> str:
        """A production of `symbol`, as it stands; none comes twice before all have come once."""
        deck = self._decks.get(symbol)
        if not deck:
            deck = self._decks[symbol] = self.draw.shuffled(self._grammar[symbol])
        return deck.pop()

    def code(self, template: str) -> str:
        """A template expanded; only articles are touched up, as spaces matter in code."""
        return _articles(self._expand(template))

    def line(self, template: str) -> str:
        """A template expanded and touched up as a line of prose."""
        return _finish(self._expand(template))

    def sentence(self, template: str) -> str:
        """The same, with a capital at the beginning."""
        return _capital(self.line(template))

    def fact(self, template: str) -> str:
        """A sentence with `@symbol` in place of the answer; the fact is noted down."""
        before, kind, after = re.split(r"@([a-z_]+)", template)
        prompt = _capital(self.line(before))
        answer, *distractors = self._alternatives(kind, 4)
        self.facts.append(Fact(prompt, answer, tuple(distractors)))
        return prompt + answer + self.line(after)

    def _alternatives(self, kind: str, count: int) -> list[str]:
        """`count` different answers of one kind, the first of them the true one."""
        found: dict[str, None] = {}
        if kind in NUMBERS:
            number = NUMBERS[kind]
            true = self.draw.between(number.low, number.high)
            low, high = max(number.low, true - number.near), min(number.high, true + number.near)
            found[number.format(true)] = None
            while len(found) < count:
                found[number.format(self.draw.between(low, high))] = None
        while len(found) < count:
            found[self._expand(f"<{kind}>")] = None
        return list(found)

    def _expand(self, template: str) -> str:
        return re.sub(r"<([a-z_]+)(#\d)?([\^!]?)>", self._replacement, template)

    def _replacement(self, match: re.Match[str]) -> str:
        symbol, number, case = match.group(1), match.group(2) or "", match.group(3)
        if symbol + number in self._memory:
            value = self._memory[symbol + number]
        elif symbol in NUMBERS:
            value = NUMBERS[symbol].format(
                self.draw.between(NUMBERS[symbol].low, NUMBERS[symbol].high)
            )
        else:
            value = self._expand(self.take(symbol))
        if number:
            self._memory[symbol + number] = value
        return value.upper() if case == "!" else _capital(value) if case else value


def _flowing(writer: _Writer, sentences: list[str], low: int, high: int) -> str:
    """Sentences joined into paragraphs of `low` to `high` sentences."""
    paragraphs = []
    while sentences:
        size = writer.draw.between(low, high)
        # A sentence alone at the end would make a poor paragraph: keep it with the others.
        size = len(sentences) if len(sentences) <= size + 1 else size
        paragraphs.append(" ".join(sentences[:size]))
        sentences = sentences[size:]
    return "\n\n".join(paragraphs)


def _mixed(
    writer: _Writer, facts: Sequence[str], fill: Callable[[], str], target: int
) -> list[str]:
    """The facts' sentences among others, in random order, `target` characters or a little more."""
    sentences = list(facts)
    while sum(map(len, sentences)) < target:
        sentences.append(fill())
    return writer.draw.shuffled(sentences)


def _book(writer: _Writer) -> _Draft:
    """A passage of an invented novel: two people, a house, some weather, an exchange or two."""
    for role, name in (("hero", "<name#1^>"), ("friend", "<name#2^>")):
        female = writer.draw.below(2)
        writer.bind(f"{role}_first", "<woman>" if female else "<man>")
        writer.bind(role, f"<{role}_first> {name}")
        writer.bind(f"{role}_he", "she" if female else "he")
    writer.bind("house", "the <name#3^> <building>")
    blocks = []
    if writer.draw.below(3) == 0:
        blocks.append(writer.line("CHAPTER <ordinal!>"))
    facts = [writer.fact(writer.take("fact")) for _ in range(writer.draw.between(2, 4))]
    target = writer.draw.between(400, 620)
    talk = []
    if writer.draw.below(4):
        talk.append("\n".join(writer.line(writer.take("exchange")).split(" / ")))
        target -= len(talk[0])
    body = _mixed(writer, facts, lambda: writer.sentence(writer.take("sentence")), target)
    paragraphs = _flowing(writer, [writer.sentence(writer.take("opening")), *body], 3, 4).split(
        "\n\n"
    )
    paragraphs[1:1] = talk
    blocks += paragraphs
    return _Draft("\n\n".join(blocks), tuple(writer.facts))


def _paper(writer: _Writer) -> _Draft:
    """A piece of an invented paper: a section with a definition, a theorem, a proof, equations."""
    blocks = [writer.line(writer.take("heading"))]
    count = writer.draw.between(2, 4)
    facts = [writer.fact(writer.take("fact")) for _ in range(count - 1)]
    theorem = writer.draw.below(2) == 0
    if theorem:
        statement = writer.fact(writer.take("fact_theorem")) + "\n"
    else:
        facts.append(writer.fact(writer.take("fact")))
        statement = writer.line("\\begin{<claim_kind#1>}\n")
    statement += writer.sentence(writer.take("statement"))
    statement += writer.line("\n\\end{theorem}" if theorem else "\n\\end{<claim_kind#1>}")
    target = writer.draw.between(330, 500) - len(statement) - len(blocks[0])
    optional = writer.draw.shuffled(("definition", "proof", "display", "display", "remark"))
    parts: list[str] = []
    while optional and sum(map(len, parts)) + sum(map(len, facts)) < target:
        parts.append(writer.line(writer.take(optional.pop())))
    # A proof follows its claim; everything else may stand on either side of it.
    proofs = [part for part in parts if part.startswith("\\begin{proof}")]
    others = [part for part in parts if part not in proofs]
    sentences = _mixed(
        writer,
        facts,
        lambda: writer.sentence(writer.take("sentence")),
        target - sum(map(len, parts)),
    )
    opening = writer.sentence(writer.take("opening"))
    half = writer.draw.between(0, len(sentences))
    lead = " ".join([opening, *sentences[:half]])
    tail = [" ".join(sentences[half:])] if sentences[half:] else []
    cut = writer.draw.between(0, len(others))
    blocks += [lead, *others[:cut], statement, *proofs, *tail, *others[cut:]]
    return _Draft("\n".join(blocks), tuple(writer.facts))


def _module(writer: _Writer) -> _Draft:
    """An invented Python module: docstring, the imports it needs, constants, functions."""
    count = writer.draw.between(2, 4)
    constants = writer.draw.between(1, 2)
    summary = writer.sentence(writer.take("summary"))
    notes = [writer.fact(writer.take("fact")) for _ in range(count - constants)]
    docstring = "\n".join([summary, "", *notes, ""] if notes else [summary])
    docstring = f'"""{docstring}"""'
    lines = []
    for number in range(1, constants + 1):
        lines.append(writer.fact(writer.take("fact_constant")))
        # Functions compare with `<limit#1>` and `<limit#2>`: constants that the module defines.
        writer.bind(f"limit#{number}", writer.facts[-1].prompt.removesuffix(" = "))
    for number in range(constants + 1, 3):
        writer.bind(f"limit#{number}", "<limit#1>")
    target = writer.draw.between(400, 560) - len(docstring) - sum(map(len, lines))
    bodies: list[str] = []
    while not bodies or sum(map(len, bodies)) < target:
        writer.forget_numbered(("noun", "field", "verb"))
        bodies.append(writer.code(writer.take("body")))
    code = "\n\n\n".join(bodies)
    imports = sorted(
        line for pattern, line in IMPORTS.items() if re.search(pattern, code) is not None
    )
    imports.sort(key=lambda line: line.startswith("from"))
    blocks = [docstring, *(["\n".join(imports)] if imports else []), "\n".join(lines)]
    return _Draft("\n\n".join(blocks) + "\n\n\n" + code, tuple(writer.facts))


def _article_text(writer: _Writer) -> _Draft:
    """An entry of an invented encyclopaedia: a craft, a machine, a plant, a mineral."""
    kind = writer.draw.pick(("device", "plant", "craft", "mineral"))
    writer.bind("it", f"the <name#1^> <{kind}>")
    writer.bind("maker", "<given> <name#2^>")
    writer.bind("place", "the <name#3^> <region>")
    facts = [writer.fact(writer.take("fact")) for _ in range(writer.draw.between(1, 2))]
    facts += [writer.fact(writer.take(f"fact_{kind}")) for _ in range(writer.draw.between(1, 2))]
    target = writer.draw.between(350, 560)

    def fill() -> str:
        own = writer.draw.below(2)
        return writer.sentence(writer.take(f"sentence_{kind}" if own else "sentence"))

    body = _mixed(writer, facts, fill, target)
    text = _flowing(writer, [writer.sentence(writer.take(f"opening_{kind}")), *body], 4, 6)
    return _Draft(text, tuple(writer.facts))


_COMPOSERS: Mapping[str, Callable[[_Writer], _Draft]] = MappingProxyType(
    {"arxiv": _paper, "github": _module, "books": _book, "general": _article_text}
)
