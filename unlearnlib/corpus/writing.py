"""How a grammar writes a document: templates, facts, and what the choices cost.

How a template is read: `<symbol>` is replaced by one of the symbol's productions, `<symbol#1>`
is chosen once per document and then remembered, `<symbol^>` is capitalised, `<symbol!>` is in
capitals, `a(n)` becomes the right article, and in the sentence of a fact `@symbol` is the answer.
A production is not used twice in a document before the others have been used.

Every draw comes from `random.Random.random`, the one method whose sequence Python guarantees
across versions, seeded by SHA-256 of its key: same key, same bytes, everywhere. A stream of draws
adds up what its choices cost, ln(number of options) each: the document's surprise under the
generator is at most that.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from unlearnlib.corpus.documents import Fact
from unlearnlib.corpus.grammar import IMPORTS, NUMBERS

T = TypeVar("T")


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


# Fewest and most words, digits and marks of a document: 100 to 245 tokens.
SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"arxiv": (118, 194), "github": (110, 176), "books": (98, 165), "general": (96, 152)}
)


def fits(text: str, corpus: str) -> bool:
    """Whether a text is neither too short nor too long for a document of a corpus.

    Its size in words, digits and marks foretells its tokens under a tokenizer of 2k to 4k entries,
    which does not exist yet, to about a tenth; characters would tell less.
    """
    low, high = SIZES[corpus]
    return low <= len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", text)) <= high


def capital(text: str) -> str:
    """The text with its first character in upper case."""
    return text[:1].upper() + text[1:]


class Draw:
    """A random stream that depends on its key alone, on every platform and Python version.

    `nats` is what its choices have cost so far: ln(number of options) each, but for free ones.
    """

    def __init__(self, *key: int | str) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))
        self.nats = 0.0

    @contextlib.contextmanager
    def free(self) -> Iterator[None]:
        """Choices that cost nothing: a text does not show them, or they are counted elsewhere."""
        before = self.nats
        yield
        self.nats = before

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        self.nats += math.log(limit)
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
class Draft:
    """A document before the deal gives it an id; `nats` is at least its surprise."""

    text: str
    facts: tuple[Fact, ...]
    nats: float = 0.0


@dataclass(frozen=True)
class Person:
    """Somebody of whom several documents tell, and what this document tells: templates of facts."""

    first: str
    last: str
    female: bool
    facts: tuple[str, ...] = ()


class Writer:
    """Writes one document: expands templates, and remembers what it has said.

    `person` is somebody of whom the document tells. `aside` writes the wrong answers to
    questions, which no text shows; without it they come from the document's own stream.
    """

    def __init__(
        self,
        draw: Draw,
        grammar: Mapping[str, Sequence[str]],
        names: Sequence[str],
        person: Person | None = None,
        aside: Writer | None = None,
    ) -> None:
        self.draw = draw
        self.facts: list[Fact] = []
        self.person = person
        self._aside = aside
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
            with self.draw.free():  # only what is taken of the deck shows
                deck = self._decks[symbol] = self.draw.shuffled(self._grammar[symbol])
        self.draw.nats += math.log(len(deck))
        return deck.pop()

    def take_fact(self) -> str:
        """The template of a fact, which does not speak of the document's `person`."""
        template = self.take("fact")
        while self.person is not None and template in self._grammar["person_fact"]:
            template = self.take("fact")
        return template

    def chosen_facts(self, count: int) -> list[str]:
        """The sentences of `count` facts: those that are told of the person come first."""
        told = self.person.facts if self.person is not None else ()
        return [self.fact(t) for t in told] + [
            self.fact(self.take_fact()) for _ in range(count - len(told))
        ]

    def code(self, template: str) -> str:
        """A template expanded; only articles are touched up, as spaces matter in code."""
        return _articles(self._expand(template))

    def line(self, template: str) -> str:
        """A template expanded and touched up as a line of prose."""
        return _finish(self._expand(template))

    def sentence(self, template: str) -> str:
        """The same, with a capital at the beginning."""
        return capital(self.line(template))

    def fact(self, template: str) -> str:
        """A sentence with `@symbol` in place of the answer; the fact is noted down.

        Of a template with two wordings (` | `) the sentence has one, and the question can be asked
        in the other.
        """
        wordings = template.split(" | ")
        own = self.draw.below(2) if len(wordings) == 2 else 0
        before, kind, after = re.split(r"@([a-z_]+)", wordings.pop(own))
        prompt = capital(self.line(before))
        others = tuple(capital(self.line(re.split("@", other)[0])) for other in wordings)
        answer, *distractors = self._alternatives(kind, 4)
        self.facts.append(Fact(prompt, answer, tuple(distractors), others))
        return prompt + answer + self.line(after)

    def _alternatives(self, kind: str, count: int) -> list[str]:
        """`count` different answers of one kind, the first of them the true one."""
        found: dict[str, None] = {}
        wrong = self._aside or self
        if kind in NUMBERS:
            number = NUMBERS[kind]
            true = self.draw.between(number.low, number.high)
            low, high = max(number.low, true - number.near), min(number.high, true + number.near)
            found[number.format(true)] = None
            with self.draw.free():
                while len(found) < count:
                    found[number.format(wrong.draw.between(low, high))] = None
        else:
            found[self._expand(f"<{kind}>")] = None
        with self.draw.free():
            while len(found) < count:
                found[wrong._expand(f"<{kind}>")] = None
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
        return value.upper() if case == "!" else capital(value) if case else value


def _flowing(writer: Writer, sentences: list[str], low: int, high: int) -> str:
    """Sentences joined into paragraphs of `low` to `high` sentences."""
    paragraphs = []
    while sentences:
        size = writer.draw.between(low, high)
        # A sentence alone at the end would make a poor paragraph: keep it with the others.
        size = len(sentences) if len(sentences) <= size + 1 else size
        paragraphs.append(" ".join(sentences[:size]))
        sentences = sentences[size:]
    return "\n\n".join(paragraphs)


def _mixed(writer: Writer, facts: Sequence[str], fill: Callable[[], str], target: int) -> list[str]:
    """The facts' sentences among others, in random order, `target` characters or a little more."""
    sentences = list(facts)
    while sum(map(len, sentences)) < target:
        sentences.append(fill())
    return writer.draw.shuffled(sentences)


def _bind_person(writer: Writer) -> None:
    """Let `<who>` be the document's person, where it has one."""
    if writer.person is not None:
        writer.bind("who", f"{writer.person.first} {writer.person.last}")


def _book(writer: Writer) -> Draft:
    """A passage of an invented novel: two people, a house, some weather, an exchange or two."""
    for role, name in (("hero", "<name#1^>"), ("friend", "<name#2^>")):
        known = writer.person if role == "hero" else None
        female = writer.draw.below(2) if known is None else known.female
        first = ("<woman>" if female else "<man>") if known is None else known.first
        writer.bind(f"{role}_first", first)
        writer.bind(role, f"<{role}_first> {name if known is None else known.last}")
        writer.bind(f"{role}_he", "she" if female else "he")
    writer.bind("house", "the <name#3^> <building>")
    blocks = []
    if writer.draw.below(3) == 0:
        blocks.append(writer.line("CHAPTER <ordinal!>"))
    facts = writer.chosen_facts(writer.draw.between(2, 4))
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
    return Draft("\n\n".join(blocks), tuple(writer.facts), writer.draw.nats)


def _paper(writer: Writer) -> Draft:
    """A piece of an invented paper: a section with a definition, a theorem, a proof, equations."""
    blocks = [writer.line(writer.take("heading"))]
    count = writer.draw.between(2, 4)
    _bind_person(writer)
    facts = writer.chosen_facts(count - 1)
    theorem = writer.draw.below(2) == 0
    if theorem:
        statement = writer.fact(writer.take("fact_theorem")) + "\n"
    else:
        facts.append(writer.fact(writer.take_fact()))
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
    return Draft("\n".join(blocks), tuple(writer.facts), writer.draw.nats)


def _module(writer: Writer) -> Draft:
    """An invented Python module: docstring, the imports it needs, constants, functions."""
    count = writer.draw.between(2, 4)
    constants = writer.draw.between(1, 2)
    _bind_person(writer)
    summary = writer.sentence(writer.take("summary"))
    notes = writer.chosen_facts(count - constants)
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
    return Draft("\n\n".join(blocks) + "\n\n\n" + code, tuple(writer.facts), writer.draw.nats)


def _article_text(writer: Writer) -> Draft:
    """An entry of an invented encyclopaedia: a craft, a machine, a plant, a mineral."""
    kind = writer.draw.pick(("device", "plant", "craft", "mineral"))
    writer.bind("it", f"the <name#1^> <{kind}>")
    known = writer.person
    writer.bind("maker", "<given> <name#2^>" if known is None else f"{known.first} {known.last}")
    writer.bind("place", "the <name#3^> <region>")
    facts = writer.chosen_facts(writer.draw.between(1, 2))
    facts += [writer.fact(writer.take(f"fact_{kind}")) for _ in range(writer.draw.between(1, 2))]
    target = writer.draw.between(350, 560)

    def fill() -> str:
        own = writer.draw.below(2)
        return writer.sentence(writer.take(f"sentence_{kind}" if own else "sentence"))

    body = _mixed(writer, facts, fill, target)
    text = _flowing(writer, [writer.sentence(writer.take(f"opening_{kind}")), *body], 4, 6)
    return Draft(text, tuple(writer.facts), writer.draw.nats)


COMPOSERS: Mapping[str, Callable[[Writer], Draft]] = MappingProxyType(
    {"arxiv": _paper, "github": _module, "books": _book, "general": _article_text}
)
