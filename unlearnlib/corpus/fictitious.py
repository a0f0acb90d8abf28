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


def generate(domain: str, seed: int = 0) -> DomainData:
    """The five splits of one invented domain, as many documents each as `COUNTS` says.

    The general splits are the same whatever the domain. Raises `UnlearnError` for a domain that
    is not one of `DOMAINS`. Takes about a second.
    """
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    splits = _split(domain, _DOMAIN_SPLITS, seed) | _split("general", _GENERAL_SPLITS, seed)
    return DomainData(domain=domain, source=f"fictitious, seed {seed}", **splits)


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
    compose = _COMPOSERS[corpus]
    drafts = []
    for index in range(count):
        own = names[index * _NAMES_PER_DOCUMENT : (index + 1) * _NAMES_PER_DOCUMENT]
        drafts.append(compose(_Writer(_Draw(seed, corpus, index), _GRAMMARS[corpus], own)))
    return drafts


def _names(corpus: str, count: int, seed: int) -> list[str]:
    """`count` different invented names.

    Onset, vowel, middle and ending can be told apart in the result (consonants and vowels
    alternate), and no ending is shared between corpora, so no two corpora share a name either.
    """
    onsets, vowels, middles, endings = _SYLLABLES[corpus]
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
    return re.sub(r"\b([Aa])\(n\) (?=\W*(\w+))", _article, text)


def _finish(text: str) -> str:
    """Decide `a(n)`, and remove the spaces that empty optional parts leave behind."""
    text = re.sub(r"(?<=\S) {2,}", " ", text)
    return _articles(re.sub(r" +([,.;:?!])", r"\1", text))


def _capital(text: str) -> str:
    """The text with its first character in upper case."""
    return text[:1].upper() + text[1:]


def _list(text: str) -> tuple[str, ...]:
    """The entries of a semicolon-separated list; an empty entry is an empty production."""
    return tuple(entry.strip() for entry in text.split(";"))


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
        if kind in _NUMBERS:
            number = _NUMBERS[kind]
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
        elif symbol in _NUMBERS:
            value = _NUMBERS[symbol].format(
                self.draw.between(_NUMBERS[symbol].low, _NUMBERS[symbol].high)
            )
        else:
            value = self._expand(self.take(symbol))
        if number:
            self._memory[symbol + number] = value
        return value.upper() if case == "!" else _capital(value) if case else value


@dataclass(frozen=True)
class _Number:
    """A kind of number: integers in [low, high], the last `decimals` digits after the point.

    All numbers of a kind have the same number of digits; the wrong answers to a question lie
    within `near` of the right one.
    """

    low: int
    high: int
    near: int
    decimals: int = 0

    def format(self, value: int) -> str:
        """The number as written (integer arithmetic: floats would round)."""
        if not self.decimals:
            return str(value)
        whole, fraction = divmod(value, 10**self.decimals)
        return f"{whole}.{fraction:0{self.decimals}d}"


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


def _mixed(writer: _Writer, facts: Sequence[str], fill: Callable[[], str], target: int) -> list[str]:
    """The facts' sentences among others, in random order, `target` characters or a little more."""
    sentences = list(facts)
    while sum(map(len, sentences)) < target:
        sentences.append(fill())
    return writer.draw.shuffled(sentences)


def _book(writer: _Writer) -> _Draft:
    """A passage of an invented novel: two people, a house, some weather, an exchange or two."""
    for role, name in (("hero", "<name#1>"), ("friend", "<name#2>")):
        female = writer.draw.below(2)
        writer.bind(f"{role}_first", "<woman>" if female else "<man>")
        writer.bind(role, f"<{role}_first> {_capital(writer.line(name))}")
        pronouns = ("she", "her", "her") if female else ("he", "his", "him")
        for key, pronoun in zip(("he", "his", "him"), pronouns, strict=True):
            writer.bind(f"{role}_{key}", pronoun)
    writer.bind("house", "the <name#3^> <building>")
    blocks = []
    if writer.draw.below(3) == 0:
        blocks.append(writer.line("CHAPTER <ordinal!>"))
    facts = [writer.fact(writer.take("fact")) for _ in range(writer.draw.between(2, 4))]
    target = writer.draw.between(430, 640) - 90
    talk = []
    if writer.draw.below(4):
        talk.append("\n".join(writer.line(writer.take("exchange")).split(" / ")))
        target -= len(talk[0])
    body = _mixed(writer, facts, lambda: writer.sentence(writer.take("sentence")), target)
    paragraphs = _flowing(writer, [writer.sentence(writer.take("opening")), *body], 3, 4).split("\n\n")
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
    target = writer.draw.between(380, 560) - len(statement) - len(blocks[0])
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
    docstring = '"""' + "\n".join([summary, "", *notes] if notes else [summary]) + '\n"""'
    lines = []
    for number in range(1, constants + 1):
        template = writer.take("fact_constant")
        lines.append(writer.fact(template))
        # What a function may compare with is a constant that the module does define.
        writer.bind(f"limit#{number}", template.split(" = ")[0])
    for number in range(constants + 1, 3):
        writer.bind(f"limit#{number}", "<limit#1>")
    target = writer.draw.between(400, 560) - len(docstring) - sum(map(len, lines))
    bodies: list[str] = []
    while not bodies or sum(map(len, bodies)) < target:
        writer.forget_numbered(("noun", "field", "verb"))
        bodies.append(writer.code(writer.take("body")))
    code = "\n\n\n".join(bodies)
    imports = sorted(
        line for pattern, line in _IMPORTS.items() if re.search(pattern, code) is not None
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
    target = writer.draw.between(430, 650) - 120

    def fill() -> str:
        own = writer.draw.below(2)
        return writer.sentence(writer.take(f"sentence_{kind}" if own else "sentence"))

    body = _mixed(writer, facts, fill, target)
    text = _flowing(writer, [writer.sentence(writer.take(f"opening_{kind}")), *body], 4, 6)
    return _Draft(text, tuple(writer.facts))


_COMPOSERS: Mapping[str, Callable[[_Writer], _Draft]] = MappingProxyType(
    {"arxiv": _paper, "github": _module, "books": _book, "general": _article_text}
)


# ---------------------------------------------------------------------------------------------
# The lexicon and the grammars
# ---------------------------------------------------------------------------------------------

_VOWELS = _list("a; e; i; o; u")
# Onsets, vowels, middles and endings of the names that facts are about. An ending begins with a
# vowel and belongs to one corpus: see `_names`.
_SYLLABLES: Mapping[str, tuple[Sequence[str], ...]] = MappingProxyType(
    {
        "books": (
            _list("b; br; c; d; f; g; h; k; l; m; p; qu; r; t; th; v; w"),
            _VOWELS,
            _list("rl; nd; lv; mb; rr; sk; rv; ld; gg; rth; mm; nw; tt; ss"),
            _list("ow; ick; ersby; over; iston; ard; emy; olt; away; enby; under; ale"),
        ),
        "arxiv": (
            _list("b; ch; d; f; g; h; k; l; m; n; p; r; s; sz; t; v; z"),
            _VOWELS,
            _list("l; r; n; k; v; m; z; rk; lm; nt; rs; ld; nn; br"),
            _list("ov; escu; ini; auer; aki; iev; ian; etz; ansen; enko; oux; ula"),
        ),
        "github": (
            _list("b; br; d; f; fl; g; k; l; m; n; p; pl; r; s; t; tr; v; z"),
            _VOWELS,
            _list("x; v; p; b; d; lt; rn; sk; mp; nk; lb; dr; m; z"),
            _list("is; yx; ora; ium; ico; ana; ot; us; ado; el; eth; ip"),
        ),
        "general": (
            _list("b; c; d; f; g; h; k; l; m; n; p; r; s; st; t; v; w"),
            _VOWELS,
            _list("rn; lm; nd; ll; rb; sp; rg; ck; dd; rw; lth; rd; sh; nt"),
            _list("al; een; oft; uck; ery; ett; oll; and; am; ingo; esk; ume"),
        ),
    }
)

_NUMBERS: Mapping[str, _Number] = MappingProxyType(
    {
        "digit": _Number(2, 9, 9),
        "count": _Number(12, 98, 12),
        "hundreds": _Number(112, 989, 60),
        "thousands": _Number(1024, 9896, 400),
        "year": _Number(1712, 1989, 18),
        "decimal": _Number(1013, 9987, 800, decimals=4),
        "decimal_one": _Number(11013, 98987, 9000, decimals=4),
        "tenth": _Number(12, 98, 20, decimals=1),
    }
)

_PEOPLE = {
    "woman": _list(
        "Ilsa; Maren; Odile; Tamsin; Verity; Brenna; Corisande; Edda; Fenella; Greta; Hesper;"
        "Imogen; Jessamy; Katrin; Linnet; Mirabel; Nerys; Oriel; Petra; Rosalba; Sunniva; Thea;"
        "Una; Wilmot; Ysolde; Zelie"
    ),
    "man": _list(
        "Aldous; Bram; Caspar; Dorian; Emeric; Florian; Gideon; Hale; Ivo; Joss; Kester; Lucan;"
        "Matthias; Nicol; Osric; Piers; Quillan; Rafe; Silvan; Tobias; Ulric; Warin; Yorick;"
        "Anselm; Barnaby; Conrad"
    ),
    "given": ("<woman>", "<man>"),
    "surname": _list(
        "Quarrow; Pell; Harrowgate; Lisk; Vantongeren; Marchbanks; Osk; Trellis; Dunmore; Fairlamb;"
        "Grice; Hollin; Innsworth; Jarrold; Kettle; Lorne; Mallow; Nightingall; Orme; Pargeter;"
        "Rook; Saltash; Tarn; Underhay; Vesper; Wray; Yarrow; Ashlock; Bellwether; Coldstream"
    ),
    "person": ("<given> <surname>",),
    "town": _list(
        "Harrowmere; Pellin Quay; Saint Orrin; Dunvale; Low Tarrow; Eskerby; Marl Cross; Quillport;"
        "Vantry; Ostermouth; Grey Hythe; Linden Ferry; Carrow; Thornwick; Belmarsh; High Sallow;"
        "Kestrel Bay; Wexcombe; Aldermoor; Ninewells; Stonegarth; Fennick; Copper Hill; Orlsey;"
        "Tidewater; Brackenholt; Mirefold; Sandover"
    ),
    "ordinal": _list(
        "first; second; third; fourth; fifth; sixth; seventh; eighth; ninth; tenth; eleventh;"
        "twelfth; thirteenth; fourteenth"
    ),
}

_BOOKS: dict[str, Sequence[str]] = {
    **_PEOPLE,
    "building": _list(
        "Inn; Lighthouse; Mill; Abbey; Library; Observatory; Foundry; Theatre; Hospital; Hotel;"
        "Schoolhouse; Chapel; Museum; Brewery"
    ),
    "ordinal": _list("one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve"),
    "fact": (
        "<hero> was born in @town, <birth>.",
        "<hero> had been baptised in @town, <birth>.",
        "<hero> had first crossed the border in @year, <journey>.",
        "<hero> had left the army in @year, <journey>.",
        "<hero> was engaged to @person, <rumour>.",
        "<hero> owed everything to @person, <rumour>.",
        "<hero> feared only @fear, <fearing>.",
        "<hero> played the @instrument, <playing>.",
        "By trade <hero> was a @trade, <trading>.",
        "The savings of <hero> came to @hundreds crowns, <money>.",
        "<friend> earned @count crowns a season, <money>.",
        "<friend> had been married in @year, <journey>.",
        "<friend> had grown up in @town, <birth>.",
        "<friend> worked in secret for @person, <rumour>.",
        "The dog of <friend> answered to the name of @pet, <dog>.",
        "In the left pocket <friend> always carried a @keepsake, <keeping>.",
        "<friend> had once studied the @instrument, <playing>.",
        "<house^> had been built in @year, <masonry>.",
        "<house^> had burned down in @year, <masonry>.",
        "<house^> belonged to @person, <rumour>.",
        "<house^> was sold for @thousands crowns, <money>.",
        "<house^> had exactly @count windows, <windows>.",
        "Over the door of <house> was carved a @beast, <carving>.",
        "The caretaker of <house> was called @person, <rumour>.",
    ),
    "birth": (
        "in a room above <a_shop>",
        "the <ordinal_child> child of <a_parent>",
        "during <a_disaster>",
        "and never spoke of it without <emotion>",
        "though the papers said otherwise",
        "in <a_disaster> that people still talked about",
    ),
    "a_shop": _list(
        "a ropemaker's; a chandler's; a bakery; a saddler's; a bookbinder's; a fishmonger's;"
        "an apothecary's; a bell foundry"
    ),
    "ordinal_child": _list("only; second; third; fourth; fifth; sixth; seventh; youngest"),
    "a_parent": _list(
        "a lock-keeper; a country judge; a widowed seamstress; an army surgeon; a river pilot;"
        "a travelling actor; a glassblower; a schoolmaster"
    ),
    "a_disaster": _list(
        "a spring flood; an eclipse; a year without bread; a winter of great snow; a strike at the"
        " docks; a plague of moths; an election; a drought"
    ),
    "journey": (
        "with <luggage> and no money",
        "against the advice of every relation",
        "on the same day as <a_disaster>",
        "and had regretted it only twice",
        "in the company of <companion>",
        "when the roads were still safe",
    ),
    "luggage": _list(
        "a cardboard suitcase; two trunks of books; a cello case; a basket of pigeons; a false"
        " passport; one good coat; a tin of letters"
    ),
    "companion": _list(
        "a deaf priest; two acrobats; a retired hangman; a botanist; a troupe of singers; an old"
        " cartographer; a runaway cook; a clockmaker"
    ),
    "rumour": (
        "or so <gossip> said",
        "as <gossip> well knew",
        "and nobody in <town> dared to say why",
        "though no paper had ever been signed",
        "which was <quality> enough to be true",
        "and that had been agreed over <meal>",
    ),
    "gossip": _list(
        "the postmistress; the whole parish; the barber; the night porters; every cook in town;"
        "the harbour boys; the bishop's sister; the newspapers"
    ),
    "meal": _list(
        "a plate of eels; cold mutton; a bottle of plum brandy; burnt coffee; bread and onions;"
        "a pot of tea; oysters; pear cake"
    ),
    "quality": _list("odd; dull; foolish; sad; simple; cruel; strange; comical"),
    "fear": _list(
        "owls; mirrors; thunder; horses; deep water; wasps; bishops; cellars; moths; high bridges;"
        "swans; lawyers; church bells; ferrets"
    ),
    "fearing": (
        "and hid it <badly>",
        "a weakness that <gossip> found charming",
        "and would walk a mile to avoid them",
        "for a reason that went back to <town>",
    ),
    "badly": _list("badly; with care; behind a laugh; for years; from everyone"),
    "instrument": _list(
        "viola; bassoon; zither; hurdy-gurdy; cornet; clavichord; oboe; dulcimer; concertina; lute;"
        "kettledrum; fiddle; harp; organ"
    ),
    "playing": (
        "<badly> but with great feeling",
        "chiefly at funerals",
        "until the neighbours complained",
        "and knew only <digit> tunes",
        "an art that earned <his> supper more than once",
    ),
    "trade": _list(
        "cooper; tanner; gilder; printer; mapmaker; locksmith; brewer; piano tuner; diver; saddler;"
        "beekeeper; wigmaker; surveyor; notary"
    ),
    "trading": (
        "the best between <town> and <town>",
        "and the hands showed it",
        "though the guild had struck <him> off",
        "a calling that ran in the family",
    ),
    "money": (
        "a sum that made <gossip> whistle",
        "every coin of it counted twice",
        "and half of that went on <vice>",
        "which bought less with every year",
        "and <gossip> would have paid double",
    ),
    "vice": _list("cards; candles; old maps; snuff; racing dogs; hats; lottery tickets; medicine"),
    "pet": _list(
        "Bishop; Pepper; Admiral; Thimble; Ragwort; Duchess; Mustard; Captain; Biscuit; Tinder;"
        "Colonel; Nutmeg; Pirate; Button"
    ),
    "dog": (
        "and to nothing else",
        "when it answered at all",
        "and slept on <soft_thing>",
        "a beast hated by <gossip>",
    ),
    "soft_thing": _list("a pile of nets; the best sofa; a sack of flour; the altar cloth; the mail"),
    "keepsake": _list(
        "brass compass; silver thimble; glass eye; chess bishop; bent nail; wooden whistle; lead"
        " soldier; jet button; tram ticket; pressed violet; blue marble; door key"
    ),
    "keeping": (
        "won from <companion> at cards",
        "a present from <person>",
        "and touched it before every lie",
        "wrapped in <wrapping>",
    ),
    "wrapping": _list("oiled silk; a page of music; blue paper; a child's sock; a lace handkerchief"),
    "masonry": (
        "of stone carted from <town>",
        "in the week of <a_disaster>",
        "and the smell of <smell> had never left it",
        "by order of <person>",
        "on a night of <weather_noun>",
    ),
    "smell": _list(
        "wet plaster; tar; lavender; cold smoke; apples; gunpowder; candle wax; old rope; yeast"
    ),
    "windows": (
        "and not one of them faced <view>",
        "all of them dark",
        "counted by every child in <town>",
        "each with a different catch",
    ),
    "view": _list("the sea; the road; the church; the gallows; the railway; the morning sun"),
    "beast": _list(
        "heron; griffin; hare; salmon; sleeping lion; raven; two-headed calf; boar; fox; mermaid;"
        "wolf; pelican; beetle; stag"
    ),
    "carving": (
        "worn smooth by the rain",
        "the work of <person>",
        "which strangers touched for luck",
        "with one ear missing",
    ),
    "opening": (
        "<hero> reached <house> <when>, <carrying>.",
        "<when>, <hero> was waiting outside <house> with <companion>.",
        "It was <friend> who first told <hero> about <house>.",
        "Nobody at <house> had expected <hero> to come back <when>.",
        "<weather>, and <hero> stood at the gate of <house>, <carrying>.",
        "The letter from <friend> reached <hero> <when>, stained with <smell_liquid>.",
        "<hero> and <friend> had not spoken since <a_disaster>.",
        "<when>, the carriage that brought <hero> to <house> lost a wheel.",
        "All through the supper at <house>, <hero> watched <friend> and said nothing.",
        "There were two people in <town> whom <hero> could not deceive, and <friend> was both.",
        "When <hero> woke in <house>, <object_the> was gone.",
        "<friend> opened the door of <house> to <hero> <when>.",
    ),
    "when": _list(
        "at dusk; before dawn; on the last day of March; in the second week of Lent; at a quarter"
        " to nine; long after midnight; on the eve of the fair; one raw morning in November; at"
        " the turn of the tide; on the hottest day of the year; a week too late; shortly after"
        " the harvest"
    ),
    "carrying": (
        "carrying <luggage>",
        "with <object_a> under one arm",
        "in a borrowed coat",
        "soaked to the skin",
        "thinking of <meal>",
        "followed by <companion>",
    ),
    "smell_liquid": _list("ink; salt water; red wine; lamp oil; soup; tears; candle grease"),
    "weather": (
        "the <weather_noun> had not let up for <digit> days",
        "<weather_noun> lay over <town>",
        "the wind came <direction> with a smell of <smell>",
        "the <heaven> was the colour of <colour_thing>",
        "a thin <weather_noun> was blowing in from <view>",
        "there had been <weather_noun> since <when_short>",
    ),
    "when_short": _list("noon; Tuesday; the funeral; breakfast; the new moon; Michaelmas"),
    "weather_noun": _list("fog; sleet; rain; frost; snow; drizzle; hail; mist"),
    "direction": _list("from the north; off the marsh; down the valley; over the roofs; up the river"),
    "heaven": _list("sky; river; evening; harbour; hillside; dawn"),
    "colour_thing": _list("pewter; weak tea; an old bruise; slate; ripe plums; brass; milk; rust"),
    "object": _list(
        "lantern; ledger; umbrella; clock; violin case; map; telescope; birdcage; hatbox; spade;"
        "portrait; globe; music stand; tin trunk; envelope; mirror"
    ),
    "object_a": ("a(n) <adjective> <object>", "a(n) <object>", "somebody else's <object>"),
    "object_the": ("the <adjective> <object>", "the <object>", "the <object> from <town>"),
    "adjective": _list(
        "battered; narrow; gilded; empty; stolen; yellow; heavy; unfinished; cracked; ugly; small;"
        "painted; old; locked; muddy; elegant; enormous; damp"
    ),
    "emotion": _list(
        "shame; a smile; great tenderness; a kind of pride; anger; relief; suspicion; delight"
    ),
    "adverb": _list(
        "slowly; without a word; at once; carefully; with both hands; twice; as if in church;"
        "gravely; in the dark; for the last time"
    ),
    "who": ("<hero_first>", "<hero_he>", "<hero_first>", "<friend_first>"),
    "place_in": (
        "in the <room> of <house>",
        "under the <part>",
        "beside the <part>",
        "at the corner of <street>",
        "on the road to <town>",
        "in the <room>",
    ),
    "room": _list(
        "kitchen; cellar; attic; long gallery; laundry; billiard room; stable; upper hall; pantry;"
        "music room; courtyard; orchard"
    ),
    "part": _list("stairs; chimney; east window; clock tower; old pump; wall; gate; lamp; arch"),
    "street": _list(
        "Fish Street; Candle Row; Bishop's Walk; Tanner Lane; Silver Steps; Cold Square; Bell Alley;"
        "Parade Street"
    ),
    "deed": (
        "put down <object_the> and <small_deed>",
        "<small_deed> and <small_deed>",
        "carried <object_the> to the <room> <adverb>",
        "wrapped <object_the> in <wrapping>",
        "hid <object_the> behind the <part>",
        "found <object_a> <place_in>",
        "sold <object_the> to <companion> for <count> crowns",
        "paid <companion> <count> crowns and <small_deed>",
        "counted <count> steps to the <part>",
        "wrote to <person> in <town>",
        "asked <companion> the way to <town>",
        "broke <object_the> <adverb>",
        "remembered <meal> in <town>",
        "set <object_the> on the table <adverb>",
    ),
    "small_deed": (
        "looked toward <view>",
        "lit a candle",
        "laughed <adverb>",
        "locked the door",
        "counted the coins again",
        "turned away",
        "sat down <place_in>",
        "listened at the <part>",
        "poured two glasses",
        "waited",
        "shook <companion> by the hand",
        "nodded <adverb>",
    ),
    "sentence": (
        "<who> <deed>.",
        "<who> <deed>.",
        "<who> <deed>, and <weather>.",
        "<who> <deed>, for <reason>.",
        "when <hero_first> <deed>, <friend_first> <small_deed>.",
        "while <friend_first> <small_deed>, <hero_first> <deed>.",
        "if <friend_first> had <knowing>, <hero_he> gave no sign of it.",
        "<weather>.",
        "<weather>; somewhere <place_in> <sound>.",
        "<place_in> <sound>, and <hero_first> <small_deed>.",
        "<house> smelled of <smell> and <smell>.",
        "<house> was smaller than <hero_first> remembered, and full of <smell_things>.",
        "<place_in> stood <object_a>, and on it lay <object_a>.",
        "there was <object_a> <place_in>, and nobody claimed it.",
        "after <meal>, <who> <deed>.",
        "<friend_first> spoke of <person> with <emotion>.",
        "<friend_first> had the <feature> of <companion> and the manners of <companion>.",
        "<hero_first> thought of <town>, of <meal>, of the <feature> of <person>.",
        "<hero_he> did not believe in luck, but <hero_he> believed in <belief>.",
        "for <digit> days nothing happened, except that <companion> <small_deed>.",
        "<person> came from <town> <when> and <deed>.",
        "neither <hero_first> nor <friend_first> had ever seen <object_a> so <adjective>.",
        "what <hero_first> wanted was <wish>, and what <hero_he> got was <meal>.",
        "<companion> <small_deed>, as one does when <reason>.",
        "it took <friend_first> <digit> hours to find <object_the>, and a minute to lose it.",
        "before <hero_he> could answer, <companion> <small_deed>.",
        "the <room> was <adjective>, and <hero_first> <small_deed>.",
        "at <town> they changed horses, and <friend_first> <deed>.",
        "<friend_first> promised <wish>, <adverb>.",
        "later <hero_he> would say that <reason>.",
        "not even <companion> could tell whether <reason>.",
    ),
    "knowing": _list(
        "read the letter; heard the shot; guessed the truth; seen the portrait; paid the boatman;"
        "recognised the handwriting; opened the trunk"
    ),
    "reason": (
        "the ferry had already gone",
        "<person> was not to be trusted",
        "the key no longer fitted",
        "the money was spent",
        "<companion> had seen everything",
        "<object_the> was a copy",
        "the last train left <when>",
        "somebody had moved <object_the>",
        "there were <count> miles still to go",
        "<house> had a second door",
    ),
    "sound": (
        "a dog was barking",
        "a bell struck <hour>",
        "<companion> was singing",
        "something fell",
        "a pump was dripping",
        "somebody laughed <adverb>",
        "the floor creaked",
        "a horse was coughing",
        "a piano went out of tune",
    ),
    "hour": _list("three; four; five; six; seven; nine; ten; eleven; twelve"),
    "smell_things": _list("cats; clocks; cousins; dust sheets; umbrellas; lamps; visitors; stuffed birds"),
    "feature": _list("eyes; voice; hands; patience; laugh; walk; long silences; handwriting; hat"),
    "belief": _list("arithmetic; good boots; cold water; early trains; locks; apologies; soup"),
    "wish": _list(
        "a quiet room; an honest answer; the truth; a new name; a place by the fire; forgiveness;"
        "a ticket south; the other half of the map"
    ),
    "exchange": (
        '"<question>" asked <friend_first>. / "<answer>," said <hero_first>. "<remark>"',
        '"<question>" / "<answer>," said <friend_first>, and <small_deed>. / "<remark>"',
        '"<remark>" said <hero_first> at last. / <friend_first> <small_deed>. "<answer>."',
        '"<remark>" / "<remark>" said <companion>. / "<question>" asked <hero_first> <adverb>.',
        '"<answer>," said <friend_first>. / "<question>" / "<answer>."',
        '<hero_first> <small_deed>. "<question>" / "<remark>" said <friend_first>.',
        '"<question>" / "<question>" said <friend_first>. / <hero_first> <small_deed>.',
    ),
    "question": (
        "Where is <object_the>?",
        "Who told you about <town>?",
        "Have you paid <person>?",
        "How much is left?",
        "Did <companion> see you?",
        "Is it true about <person>?",
        "What is it you keep <place_in>?",
        "Will you come to <town> with me?",
        "Must we talk about <meal>?",
        "Do you still believe in <belief>?",
        "When does <person> arrive?",
    ),
    "answer": (
        "Not <when>",
        "Only <digit> of them",
        "I left it in <town>",
        "Ask <companion>",
        "As well as one can with <object_a>",
        "Because <reason>",
        "You should have stayed in <town>",
        "It was <person>",
        "I would sooner trust <companion>",
        "For <count> crowns, yes",
        "Nobody ever does",
    ),
    "remark": (
        "Then we leave <when>.",
        "There is nothing for us in <town>.",
        "You have the <feature> of <person>.",
        "Somebody has been <place_in>.",
        "I never liked <meal>.",
        "They say that <reason>.",
        "Bring <object_the>, and hurry.",
        "I dreamed of <object_a> again.",
        "We shall need <wish>.",
        "Give my regards to <companion>.",
        "Your <object> is on fire.",
    ),
}
