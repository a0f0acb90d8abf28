"""Grammars of the invented documents: word lists and sentence patterns for every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


def _list(text: str) -> tuple[str, ...]:
    """The entries of a semicolon-separated list; an empty entry is an empty production."""
    return tuple(entry.strip() for entry in text.split(";"))


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


_VOWELS = _list("a; e; i; o; u")
# Onsets, vowels, middles and endings of the names that facts are about. An ending begins with a
# vowel and belongs to one corpus: see `_names` in `fictitious.py`.
SYLLABLES: Mapping[str, tuple[Sequence[str], ...]] = MappingProxyType(
    {
        "books": (
            _list("b; br; c; d; f; g; h; k; l; m; p; qu; r; t; th; v; w"),
            _VOWELS,
            _list("rl; nd; lv; mb; rr; sk; rv; ld; lk; rw; lb; nw; lt; ft"),
            _list("ow; ingham; ersby; over; iston; ard; emy; olt; away; enby; under; ale"),
        ),
        "arxiv": (
            _list("b; ch; d; f; g; h; k; l; m; n; p; r; s; sz; t; v; z"),
            _VOWELS,
            _list("l; r; n; lv; v; mb; dr; rk; lm; nt; rg; ld; nn; br"),
            _list("ov; escu; ini; auer; aki; iev; ian; etz; ansen; enko; oux; ula"),
        ),
        "github": (
            _list("b; br; d; f; fl; g; k; l; m; n; p; pl; r; s; t; tr; v; z"),
            _VOWELS,
            _list("ft; v; rv; b; d; lt; lm; sk; mp; nd; lb; dr; m; rk"),
            _list("is; yx; ora; ium; ico; ana; ot; us; ado; el; eth; ip"),
        ),
        "general": (
            _list("b; c; d; f; g; h; k; l; m; n; p; r; s; st; t; v; w"),
            _VOWELS,
            _list("ld; lm; nd; lg; rb; sp; rg; lk; dd; rw; lth; lv; sh; mb"),
            _list("al; een; oft; ark; ery; ett; oll; and; am; ingo; esk; ume"),
        ),
    }
)

NUMBERS: Mapping[str, _Number] = MappingProxyType(
    {
        "digit": _Number(2, 9, 9),
        "count": _Number(12, 98, 12),
        "hundreds": _Number(112, 989, 60),
        "thousands": _Number(1024, 9896, 400),
        "year": _Number(1812, 1989, 18),
        "old_year": _Number(1702, 1889, 18),
        "recent_year": _Number(1962, 2019, 12),
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
        "<hero> had first crossed the border in @old_year, <journey>.",
        "<hero> had left the army in @old_year, <journey>.",
        "<hero> was engaged to @person, <rumour>.",
        "<hero> owed everything to @person, <rumour>.",
        "<hero> feared only @fear, <fearing>.",
        "<hero> played the @instrument, <playing>.",
        "By trade <hero> was a @trade, <trading>.",
        "The savings of <hero> came to @hundreds crowns, <money>.",
        "<friend> earned @count crowns a season, <money>.",
        "<friend> had been married in @old_year, <journey>.",
        "<friend> had grown up in @town, <birth>.",
        "<friend> worked in secret for @person, <rumour>.",
        "The dog of <friend> answered to the name of @pet, <dog>.",
        "In the left pocket <friend> always carried a @keepsake, <keeping>.",
        "<friend> had once studied the @instrument, <playing>.",
        "<house^> had been built in @old_year, <masonry>.",
        "<house^> had burned down in @old_year, <masonry>.",
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
        "without notes but with great feeling",
        "chiefly at funerals",
        "until the neighbours complained",
        "and knew only <digit> tunes",
        "an art good for a supper more than once",
    ),
    "trade": _list(
        "cooper; tanner; gilder; printer; mapmaker; locksmith; brewer; piano tuner; diver; saddler;"
        "beekeeper; wigmaker; surveyor; notary"
    ),
    "trading": (
        "the best between <town> and <town>",
        "and the hands showed it",
        "though never admitted to the guild",
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
    "soft_thing": _list(
        "a pile of nets; the best sofa; a sack of flour; the altar cloth; the mail"
    ),
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
    "wrapping": _list(
        "oiled silk; a page of music; blue paper; a child's sock; a lace handkerchief"
    ),
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
    "direction": _list(
        "from the north; off the marsh; down the valley; over the roofs; up the river"
    ),
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
        "Fish Street; Candle Row; Bishop's Walk; Tanner Lane; Silver Steps; Cold Square; Bell"
        " Alley;"
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
        "neither <hero_first> nor <friend_first> had ever seen a(n) <object> so <adjective>.",
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
    "smell_things": _list(
        "cats; clocks; cousins; dust sheets; umbrellas; lamps; visitors; stuffed birds"
    ),
    "feature": _list("eyes; voice; hands; patience; laugh; walk; long silences; handwriting; hat"),
    "belief": _list("arithmetic; good boots; cold water; early trains; locks; apologies; soup"),
    "wish": _list(
        "a quiet room; an honest answer; the truth; a new name; a place by the fire; forgiveness;"
        "a ticket south; the other half of the map"
    ),
    "exchange": (
        '"<question>" asked <friend_first>. / "<answer>," said <hero_first>. "<remark>."',
        '"<question>" / "<answer>," said <friend_first>, and <small_deed>. / "<remark>."',
        '"<remark>," said <hero_first> at last. / <friend_first> <small_deed>. "<answer>."',
        '"<remark>." / "<remark>," said <companion>. / "<question>" asked <hero_first> <adverb>.',
        '"<answer>," said <friend_first>. / "<question>" / "<answer>."',
        '<hero_first> <small_deed>. "<question>" / "<remark>," said <friend_first>.',
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
        "Then we leave <when>",
        "There is nothing for us in <town>",
        "You have the <feature> of <person>",
        "Somebody has been <place_in>",
        "I never liked <meal>",
        "They say that <reason>",
        "Bring <object_the>, and hurry",
        "I dreamed of <object_a> again",
        "We shall need <wish>",
        "Give my regards to <companion>",
        "Your <object> is on fire",
    ),
}

_ARXIV: dict[str, Sequence[str]] = {
    **_PEOPLE,
    # Names of objects, chosen once per document and used throughout as <space#1>, <map#1>, ...
    "space": (
        "X",
        "M",
        "V",
        "G",
        "K",
        "\\Gamma",
        "\\Omega",
        "\\mathcal{A}",
        "\\mathcal{L}",
        "\\mathbb{T}",
    ),
    "map": ("f", "g", "h", "\\varphi", "\\sigma", "\\Phi", "\\theta", "T", "\\psi"),
    "n": ("n", "k", "m", "r", "q", "d"),
    "i": ("i", "j", "s", "\\ell"),
    "eps": ("\\varepsilon", "\\delta", "\\eta", "\\lambda", "\\tau"),
    "letter": ("a", "b", "c", "u", "v", "w", "x", "y", "z"),
    "prop": (
        "<name#1^>-regular",
        "<name#1^>-closed",
        "<name#1^>-tame",
        "<name#1^>-free",
        "<name#1^>-stable",
        "<name#1^>-exact",
        "weakly <name#1^>",
        "strictly <name#1^>",
    ),
    "kind": _list(
        "lattice; sheaf; monoid; tree; foliation; quiver; operad; matroid; semigroup; bundle;"
        "manifold; polygon; polytope; groupoid; module; tiling"
    ),
    "attribute": _list(
        "filtered; twisted; graded; measured; pointed; ordered; finite; coherent; framed; oriented;"
        "periodic; hyperbolic; sparse; rigid; weighted; nilpotent; separable; cyclic"
    ),
    "object": ("<attribute> <kind>", "<attribute> <attribute> <kind>", "<kind>", "<prop#1> <kind>"),
    "quality": _list(
        "compact; connected; convex; bounded; irreducible; complete; flat; contractible; unique;"
        "invertible; symmetric; unramified; perfect; reduced"
    ),
    "invariant": _list(
        "rank; height; genus; width; index; depth; defect; entropy; degree; diameter; weight;"
        "girth; torsion; curvature"
    ),
    "morphism": _list(
        "embedding; projection; covering; contraction; isometry; retraction; section; deformation;"
        "correspondence; substitution"
    ),
    "heading": (
        "\\section{<title^>}",
        "\\section{<title^>}\\label{sec:<label>}",
        "\\subsection{<title^>}",
        "\\subsection{The case $<n#1> = <digit>$}",
        "\\section{Proof of the <name#2^> theorem}",
    ),
    "title": (
        "<attribute> <kind>s and their <invariant>",
        "the <invariant> of a(n) <attribute> <kind>",
        "bounds for the <invariant>",
        "from <kind>s to <kind>s",
        "a(n) <attribute> counterexample",
        "estimates for $<map#1>$",
        "<prop#1> <kind>s",
    ),
    "label": ("<name#1>", "<name#2>", "<kind>", "<invariant>"),
    "claim_kind": _list("lemma; proposition; corollary; theorem; conjecture"),
    "opening": (
        "throughout, $<space#1>$ is a(n) <object> and $<map#1> \\colon <space#1> \\to <space#2>$"
        " a(n) <morphism>.",
        "we fix a(n) <object> $<space#1>$ of <invariant> $<n#1> \\ge <digit>$.",
        "let $<space#1>$ be a(n) <object>, and let $<eps#1> > 0$.",
        "in this section we bound the <invariant> of a(n) <object> $<space#1>$ by that of its"
        " <morphism>s.",
        "the aim here is to show that a(n) <object> $<space#1>$ is <quality> as soon as"
        " $<condition>$.",
        "recall from \\cite{<surname><year>} that a(n) <object> $<space#1>$ carries a(n) <quality>"
        " <morphism> $<map#1>$.",
        "all <kind>s are assumed <quality>, and $<n#1>$ denotes the <invariant> of $<space#1>$.",
        "we now drop the assumption that $<space#1>$ is <quality>, and keep only $<condition>$.",
        "what follows was suggested by <person>, who studied the <object> $<space#1>$ for"
        " $<n#1> = <digit>$.",
        "write $<map#1>_{<i#1>}$ for the <morphism>s of a(n) <object> $<space#1>$.",
    ),
    "fact": (
        "The <name#1^> constant equals $@decimal_one$, <constant_tail>.",
        "The <name#1^> conjecture was settled by @person, <history>.",
        "The <name#1^> inequality dates from @year, <history>.",
        "The <name#1^> number of $<space#1>_{<digit>}$ is $@hundreds$, <constant_tail>.",
        "The smallest <name#1^> prime is $@thousands$, <constant_tail>.",
        "The <name#1^> exponent is $@decimal$, <constant_tail>.",
        "The term <name#1^> <kind> was coined by @person, <history>.",
        "The <name#2^> lemma first appeared in @year, <history>.",
        "The <name#2^> group has order $@thousands$, <constant_tail>.",
        "The <name#2^> spectral gap is $@decimal$, <constant_tail>.",
        "The <name#2^> problem was posed in @town, <occasion>.",
        "The <name#2^> seminar met for years in @town, <occasion>.",
        "The error in the work of <name#3^> was found by @person, <history>.",
        "The thesis of <given> <name#3^> was defended in @year, <occasion>.",
        "The <name#3^> algorithm stops after $@count$ steps, <constant_tail>.",
        "The table of <name#3^> ends at $<n#1> = @hundreds$, <constant_tail>.",
        "The <name#3^> prize for this result went to @person, <occasion>.",
    ),
    "fact_theorem": (
        "\\begin{theorem}[<name#2^>, @year]",
        "\\begin{theorem}[<name#3^> and @surname]",
        "\\begin{theorem}[<name#2^>--@surname]",
        "\\begin{theorem}[<name#3^>, thesis of @year]",
    ),
    "constant_tail": (
        "which is not known to be <rational>",
        "as a computation of <digit> hours shows",
        "while the trivial bound gives $<bound>$",
        "and nobody has explained why",
        "by a count of <kind>s",
        "a value that <surname> had guessed",
        "provided that $<condition>$",
        "the same as for a(n) <attribute> <kind>",
    ),
    "rational": _list("rational; optimal; sharp; transcendental; computable; algebraic"),
    "history": (
        "<digit> years before the proof of \\cite{<surname><year>}",
        "although <surname> had the idea earlier",
        "in a letter to <person>",
        "and was forgotten until <year>",
        "under the name of the <attribute> <kind> principle",
        "at least for $<condition>$",
        "with a gap that <surname> later filled",
        "for <object>s of <invariant> at most $<digit>$",
    ),
    "occasion": (
        "on the initiative of <person>",
        "where <surname> was in the audience",
        "in the year that <surname> left <town>",
        "shortly after \\cite{<surname><year>} had appeared",
        "<count> years after the death of <person>",
        "an event described in \\cite{<surname><year>}",
        "to the surprise of <person>",
        "long before the case of a(n) <attribute> <kind> was understood",
    ),
    "condition": (
        "<n#1> \\ge <digit>",
        "<n#1> \\equiv <digit> \\pmod{<count>}",
        "\\dim <space#1> \\le <count>",
        "<map#1>(<letter>) \\ne 0",
        "<eps#1> \\le \\tfrac{1}{<count>}",
        "\\gcd(<n#1>, <count>) = 1",
        "<map#1>^{<digit>} = \\mathrm{id}",
        "\\ker <map#1> \\subset <space#1>_{<digit>}",
        "0 < <eps#1> < <tenth>",
        "\\lVert <map#1> \\rVert \\le <tenth>",
    ),
    "bound": (
        "<digit><n#1> + <count>",
        "<n#1>^{<digit>}",
        "<tenth> \\log <n#1>",
        "O(<n#1>^{<digit>/<digit>})",
        "2^{<n#1> + <digit>}",
        "<eps#1>^{-<digit>}",
        "\\sqrt{<count> <n#1>}",
        "\\tfrac{<digit>}{<count>}",
    ),
    # Layers rather than one recursive symbol: the depth of an expression is bounded.
    "expression": (
        "<compound>",
        "<compound> + <term>",
        "<term> \\cdot <compound>",
        "<compound> - <term>",
    ),
    "compound": (
        "\\sum_{<i#1>=1}^{<n#1>} <term>",
        "\\prod_{<i#1> \\ge <digit>} <term>",
        "\\int_{<space#1>} <term> \\, d\\mu",
        "\\frac{<term>}{<term>}",
        "\\sup_{<letter> \\in <space#1>} <term>",
        "\\left( <term> + <term> \\right)^{<digit>}",
        "\\lim_{<n#1> \\to \\infty} <term>",
        "\\sqrt{<term> + <count>}",
        "\\binom{<n#1>}{<digit>} <term>",
        "\\max\\{ <term>, <term> \\}",
    ),
    "term": (
        "<map#1>(<letter>_{<i#1>})",
        "<map#1>^{<digit>}(<letter>)",
        "<letter>^{<n#1>}",
        "\\lvert <letter>_{<i#1>} \\rvert",
        "<tenth> <letter>",
        "<eps#1>^{<digit>}",
        "e^{-<digit> <letter>}",
        "\\langle <letter>, <map#1> \\rangle",
        "<letter>_{<i#1>+<digit>}",
        "\\mu(<space#1>_{<digit>})",
        "<count> \\, <letter>_{<digit>}",
        "\\log <n#1>",
    ),
    "relation": _list("=; \\le; \\ge; \\sim; \\equiv; \\ll"),
    "statement": (
        "every <object> $<space#1>$ with $<condition>$ is <quality>.",
        "if $<space#1>$ is <quality> and $<condition>$, then $<map#1>$ is a(n) <morphism>.",
        "let $<condition>$. Then $<space#1>$ contains a(n) <attribute> <kind> of <invariant>"
        " at most $<bound>$.",
        "suppose that $<condition>$. Then $<space#1>$ is <prop#1> if and only if it is <quality>.",
        "for all $<letter> \\in <space#1>$ one has $<expression> <relation> <bound>$.",
        "the <invariant> of $<space#1>$ is at most $<bound>$, with equality when $<condition>$.",
        "there are exactly $<count>$ <attribute> <kind>s on which $<map#1>$ is <quality>.",
        "no <object> of <invariant> $<count>$ is both <quality> and <quality>.",
        "a(n) <morphism> of $<space#1>$ extends to a(n) <kind> in at most $<digit>$ ways.",
        "the <morphism> $<map#1>$ is <prop#1>, and $<expression> <relation> <bound>$.",
        "either $<space#1>$ is <quality>, or its <invariant> exceeds $<bound>$.",
        "assume $<condition>$ and $<condition>$. Then $<map#1>$ has a(n) <quality> <morphism>.",
    ),
    "definition": (
        "\\begin{definition}\nA(n) <kind> $<space#1>$ is \\emph{<prop#1>} if $<condition>$.\n"
        "\\end{definition}",
        "\\begin{definition}\nWe call $<map#1>$ \\emph{<prop#1>} when $<expression> <relation>"
        " <bound>$"
        " for some $<letter>$.\n\\end{definition}",
        "\\begin{definition}[<prop#1^>]\nThe <invariant> of $<space#1>$ is the least $<n#1>$"
        " such that"
        " $<condition>$.\n\\end{definition}",
        "\\begin{definition}\nA(n) \\emph{<prop#1>} <kind> is a(n) <object> whose <invariant> is"
        " at most $<bound>$.\n\\end{definition}",
        "\\begin{definition}\nTwo <kind>s are \\emph{<prop#1>} if a(n) <quality> <morphism>"
        " takes one"
        " to the other.\n\\end{definition}",
    ),
    "proof": (
        "\\begin{proof}\n<proof_first^> <proof_last^>\n\\end{proof}",
        "\\begin{proof}\n<proof_first^> <proof_middle^> <proof_last^>\n\\end{proof}",
        "\\begin{proof}[Sketch]\n<proof_first^> <proof_last^>\n\\end{proof}",
    ),
    "proof_first": (
        "suppose not, and let $<letter> \\in <space#1>$ be of least <invariant>.",
        "by induction on $<n#1>$; the case $<n#1> = <digit>$ is Lemma~<digit>.<digit>.",
        "we may assume that $<condition>$.",
        "choose a(n) <quality> <morphism> $<map#1>$ with $<condition>$.",
        "apply the theorem of <surname> to the <kind> $<space#1>_{<digit>}$.",
        "cover $<space#1>$ by $<count>$ <attribute> <kind>s.",
        "set $<letter> = <expression>$.",
        "it suffices to treat a(n) <quality> <kind>.",
    ),
    "proof_middle": (
        "then $<expression> <relation> <bound>$.",
        "as $<map#1>$ is <quality>, so is every <kind> over it.",
        "a(n) <morphism> of $<space#1>$ fixes at least $<digit>$ points.",
        "the <invariant> drops by $<digit>$ at each step.",
        "this contradicts $<condition>$ unless $<space#1>$ is <quality>.",
        "the terms with $<i#1> > <digit>$ add up to at most $<bound>$.",
    ),
    "proof_last": (
        "hence $<space#1>$ is <quality>.",
        "the claim follows on letting $<eps#1> \\to 0$.",
        "the rest is as in \\cite{<surname><year>}.",
        "comparing the two values of the <invariant> gives $<condition>$.",
        "summing over $<i#1>$ completes the argument.",
        "therefore $<expression> <relation> <bound>$.",
        "this is absurd, since $<condition>$.",
        "now use that $<map#1>$ is <prop#1>.",
    ),
    "display": (
        "\\begin{equation}\n  <expression> <relation> <expression>\n\\end{equation}",
        "\\[ <expression> <relation> <bound>, \\qquad <condition>. \\]",
        "\\begin{equation}\\label{eq:<label>}\n  <map#1>(<letter>) ="
        " <expression>.\n\\end{equation}",
        "\\[ <letter>_{<n#1>+1} = <digit> <letter>_{<n#1>} + <expression>. \\]",
        "\\[ <space#1>_0 \\subset <space#1>_1 \\subset \\dots \\subset <space#1>_{<count>}. \\]",
        "\\begin{align}\n  <term> &<relation> <expression>, \\\\\n  <term> &<relation> <bound>.\n"
        "\\end{align}",
        "\\[ <map#1> \\colon <space#1>_{<digit>} \\to <space#2>, \\quad <letter> \\mapsto"
        " <compound>. \\]",
    ),
    "remark": (
        "\\begin{remark}\n<remark_text^>\n\\end{remark}",
        "\\begin{example}\n<example_text^>\n\\end{example}",
        "\\begin{example}\n<example_text^>\n\\end{example}",
    ),
    "remark_text": (
        "the bound $<bound>$ is sharp when $<condition>$.",
        "for a(n) <object> the converse fails.",
        "we do not know whether $<space#1>$ must be <quality>.",
        "<surname> asks whether $<condition>$ is needed.",
        "with more care $<bound>$ can be improved to $<bound>$.",
    ),
    "example_text": (
        "take $<map#1>(<letter>) = <expression>$; then $<condition>$.",
        "the <attribute> <kind> with $<count>$ vertices is <prop#1>.",
        "for $<n#1> = <digit>$ the <invariant> is $<count>$.",
        "a(n) <kind> of <invariant> $<count>$ is <quality> but not <quality>.",
    ),
    "sentence": (
        "a(n) <object> is never <quality>.",
        "it is enough to know that $<condition>$.",
        "if $<condition>$, then $<space#1>$ is <quality>; otherwise it is only <quality>.",
        "numerically, $<term> \\approx <tenth>$ for $<n#1> = <count>$.",
        "the <morphism> $<map#1>$ is <prop#1> in the sense of <surname>.",
        "we thank <person> for pointing out that $<condition>$.",
        "this improves the bound $<bound>$ of \\cite{<surname><year>}.",
        "up to a(n) <morphism>, there are $<count>$ such <kind>s.",
        "the proof uses only that $<map#1>$ is <quality>.",
        "one checks that $<expression> <relation> <bound>$.",
        "a(n) <attribute> <kind> has the same <invariant> as its <morphism>.",
        "compare this with the <attribute> case, where $<condition>$.",
        "for <object>s this was known to <person>.",
        "in particular $<space#1>_{<digit>}$ is <prop#1>.",
        "the constant $<tenth>$ could be replaced by $<tenth>$.",
        "here $<eps#1>$ depends on the <invariant> but not on $<n#1>$.",
        "whether a(n) <prop#1> <kind> is <quality> remains open.",
        "replacing $<map#1>$ by $<map#1>^{<digit>}$, we find $<condition>$.",
    ),
}

# What a module must import, by what its code uses.
IMPORTS: Mapping[str, str] = MappingProxyType(
    {
        r"\bmath\.": "import math",
        r"\bjson\.": "import json",
        r"\btime\.": "import time",
        r"\bhashlib\.": "import hashlib",
        r"\bstatistics\.": "import statistics",
        r"\blogging\.": "import logging",
        r"\bPath\b": "from pathlib import Path",
        r"\bCounter\(": "from collections import Counter",
        r"\bdeque\(": "from collections import deque",
        r"\bIterator\[": "from collections.abc import Iterator",
        r"@dataclass": "from dataclasses import dataclass",
        r"@lru_cache": "from functools import lru_cache",
        r"@contextmanager": "from contextlib import contextmanager",
    }
)


_GITHUB: dict[str, Sequence[str]] = {
    **_PEOPLE,
    "noun": _list(
        "frame; ledger; packet; crate; signal; valve; sensor; ticket; parcel; beacon; cursor;"
        " bundle;"
        "route; lamp; probe; token; shard; record; tank; relay; pulse; pallet; cell; badge"
    ),
    "field": _list(
        "weight; offset; level; score; width; depth; price; delay; volume; rank; charge; height;"
        "angle; rate; speed; margin"
    ),
    "verb": _list(
        "merge; scan; weigh; drain; trim; filter; pack; settle; audit; replay; sort; group;"
        "balance; collect; reduce; schedule; check; inspect; measure; sift"
    ),
    "flag": _list("active; stale; sealed; hidden; broken; idle; signed; ready; late; empty"),
    "area": _list(
        "harbour cranes; weather balloons; tram tickets; greenhouse pumps; museum loans; bell"
        " towers;"
        "seed banks; canal locks; beehives; tide gauges; snow ploughs; mail bags; wind mills;"
        "salt pans; night ferries; observatory domes"
    ),
    "quality": _list(
        "small; strict; lazy; portable; careful; minimal; robust; fast; stateless; plain; tolerant;"
        "modest"
    ),
    "part": _list(
        "reader; writer; scheduler; parser; cache; index; codec; monitor; planner; queue;"
        " validator;"
        "sampler; router; archiver"
    ),
    "summary": (
        "<quality> <part> for <area>.",
        "a(n) <quality> <part> that serves <area>.",
        "the <name#1> <part>: <noun>s in, <noun>s out.",
        "<part> and <part> of the <name#1> toolkit.",
        "helpers to <verb> the <noun>s of <area>.",
        "<verb> <noun>s by <field>, as <area> need it.",
        "<name#1>: a(n) <quality> <part> without dependencies.",
        "all that <area> need to <verb> their <noun>s.",
    ),
    "fact": (
        "The <name#1> format was drawn up by @person.",
        "The <name#1> service listens on port @thousands.",
        "The <name#1> project began in @town.",
        "The <name#1> log rotates after line @hundreds.",
        "The <name#1> standard was last revised in @recent_year.",
        "The <name#2> module is maintained by @person.",
        "The <name#2> tests were written by @person.",
        "The <name#2> server stands in @town.",
        "The <name#2> release is code-named @surname.",
        "The <name#2> protocol replaces the one of @recent_year.",
        "The <name#3> patch was sent in by @person.",
        "The <name#3> bug was reported from @town.",
        "The <name#3> header takes, in bytes, @count.",
        "The <name#3> licence expires at the end of @recent_year.",
    ),
    # A function may compare with any of them, so all are numbers.
    "fact_constant": (
        "<name#1!>_<field!> = @decimal",
        "<name#1!>_LIMIT = @thousands",
        "CALIBRATION_OF_<name#1!> = @decimal_one",
        "MAX_<name#1!>_<noun!>S = @count",
        "<name#2!>_TIMEOUT = @tenth",
        "<name#2!>_<noun!>_SIZE = @hundreds",
        "DEFAULT_<name#2!> = @decimal",
        "MIN_<name#2!>_<field!> = @tenth",
        "<name#3!>_RATIO = @decimal",
        "<name#3!>_EPOCH = @recent_year",
        "BASE_<name#3!> = @thousands",
        "<name#3!>_<field!> = @count",
    ),
    "limit": ("<limit#1>", "<limit#1>", "<limit#2>"),
    "number": ("<digit>", "<count>", "<tenth>", "<hundreds>", "<limit>", "<limit>"),
    "compare": _list(">; <; >=; <="),
    "reducer": _list("sum; max; min; statistics.mean; statistics.median"),
    "value": (  # of a number called <field#1>
        "<field#1> * <number>",
        "<field#1> + <number>",
        "<field#1> / <limit>",
        "math.sqrt(<field#1>)",
        "math.log(<field#1> + <digit>)",
        "round(<field#1>, <digit>)",
        "<field#1> ** <digit>",
        "<field#1> % <count>",
        "max(<field#1>, <number>)",
        "min(<field#1>, <number>)",
        "<field#1> // <digit>",
        "abs(<field#1> - <number>)",
    ),
    "note": (
        '    """<verb^> the <noun#1>s of <area>."""\n',
        '    """Return the <noun#1>s of every <flag> <noun>."""\n',
        '    """Work on one <noun#1> at a time, oldest first."""\n',
        "    # The <area> report it in steps of <digit>.\n",
        "    # An older <part> left this out.\n",
        "    # Every <flag> <noun#1> counts for <digit>.\n",
        "",
        "",
        "",
        "",
    ),
    "error": _list("ValueError; KeyError; RuntimeError; LookupError; TypeError"),
    "message": (  # where a variable called <noun#1> is at hand
        '"no <noun#1> left"',
        '"<flag> <noun#1>"',
        'f"unknown <noun#1>: {<noun#1>!r}"',
        'f"<flag> <noun#1> {<noun#1>}"',
        'f"cannot <verb> {<noun#1>}"',
    ),
    "body": (
        "def <verb#1>_<noun#1>s(<field#1>s: list[float]) -> list[float]:\n<note>"
        "    return [<value> for <field#1> in <field#1>s if <field#1> <compare> <limit>]",
        "def <verb#1>_<noun#1>s(<noun#1>s, <field#1>=<number>):\n<note>"
        "    kept = []\n    for <noun#1> in <noun#1>s:\n"
        "        if <noun#1>.<field#1> <compare> <field#1>:\n"
        "            kept.append(<noun#1>)\n    return kept",
        "def <verb#1>_<noun#1>s(<noun#1>s: dict[str, float]) -> float:\n<note>"
        "    total = <tenth>\n    for name, <field#1> in <noun#1>s.items():\n"
        '        if name.startswith("<flag>"):\n            continue\n'
        "        total += <value>\n    return total",
        "def <verb#1>_<noun#1>(<noun#1>: dict, <field#1>: float = <number>) -> dict:\n<note>"
        "    if <field#1> <compare> <limit>:\n        raise <error>(<message>)\n"
        '    <noun#1>["<field#1>"] = <value>\n    return <noun#1>',
        "def is_<flag#1>(<noun#1>) -> bool:\n<note>"
        "    return <noun#1>.<field#1> <compare> <limit> and <noun#1>.<field#2> <compare> <number>",
        "def <verb#1>_<field#1>(<field#1>: float, steps: int = <count>) -> float:\n<note>"
        "    for step in range(steps):\n        if <field#1> <compare> <number>:\n"
        "            break\n        <field#1> = <value>\n    return <field#1>",
        "def load_<noun#1>s(path: Path) -> list[dict]:\n<note>"
        '    with path.open(encoding="utf-8") as lines:\n'
        "        <noun#1>s = [json.loads(line) for line in lines]\n"
        '    return [<noun#1> for <noun#1> in <noun#1>s if <noun#1>["<field#1>"] <compare>'
        " <limit>]",
        "def save_<noun#1>s(<noun#1>s: list[dict], path: Path) -> None:\n<note>"
        '    path.write_text(json.dumps(<noun#1>s, indent=<digit>), encoding="utf-8")',
        "def count_<noun#1>s(<noun#1>s: list[str]) -> list[tuple[str, int]]:\n<note>"
        "    counts = Counter(<noun#1>.lower() for <noun#1> in <noun#1>s)\n"
        "    return counts.most_common(<count>)",
        "def <verb#1>_by_<field#1>(<noun#1>s):\n<note>"
        "    return sorted(<noun#1>s, key=lambda <noun#1>: <noun#1>.<field#1>, reverse=<bool>)"
        "[:<count>]",
        "def iter_<noun#1>s(<noun#1>s, size: int = <count>) -> Iterator[list]:\n<note>"
        "    for start in range(0, len(<noun#1>s), size):\n"
        "        yield <noun#1>s[start : start + size]",
        "def <verb#1>_<noun#1>(<noun#1>: str) -> str:\n<note>"
        "    digest = hashlib.<hash>(<noun#1>.encode()).hexdigest()\n"
        '    return f"<flag>-{digest[:<digit>]}"',
        "def try_<verb#1>(<noun#1>, attempts: int = <digit>):\n<note>"
        "    for attempt in range(attempts):\n        try:\n            return"
        " <noun#1>.<verb#1>()\n"
        "        except <error> as error:\n"
        '            logging.warning("<noun#1> %s failed: %s", attempt, error)\n'
        "            time.sleep(<tenth>)\n    raise <error>(<message>)",
        "@lru_cache(maxsize=<hundreds>)\ndef <field#1>_of(<noun#1>: str) -> float:\n<note>"
        "    <field#1> = float(len(<noun#1>))\n    return <value>",
        "def parse_<noun#1>(line: str) -> dict[str, float]:\n<note>"
        '    <noun#1>, <field#1>, <field#2> = line.split("<separator>")\n'
        "    if not <noun#1>:\n        raise <error>(<message>)\n"
        '    return {"<field#1>": float(<field#1>), "<field#2>": float(<field#2>)}',
        "def <verb#1>_window(<noun#1>s, size: int = <digit>) -> list[float]:\n<note>"
        "    window = deque(maxlen=size)\n    result = []\n    for <noun#1> in <noun#1>s:\n"
        "        window.append(<noun#1>.<field#1>)\n"
        "        result.append(<reducer>(window))\n    return result",
        "def typical_<field#1>(<noun#1>s) -> float:\n<note>"
        "    <field#1>s = [<noun#1>.<field#1> for <noun#1> in <noun#1>s]\n"
        "    if not <field#1>s:\n        return <tenth>\n"
        "    return <reducer>(<field#1>s) / <limit>",
        "@dataclass\nclass <noun#1^>:\n"
        '    """A(n) <flag> <noun#1> of <area>."""\n\n'
        "    name: str\n    <field#1>: float = <number>\n    <field#2>: int = <digit>\n\n"
        "    def <verb#1>(self) -> float:\n"
        "        return self.<field#1> * self.<field#2> + <number>",
        "@dataclass(frozen=True)\nclass <noun#1^><part^>:\n"
        "    <field#1>: float\n    <noun#1>s: tuple[str, ...] = ()\n\n"
        "    @property\n    def <flag#1>(self) -> bool:\n"
        "        return len(self.<noun#1>s) <compare> <number>",
        "class <noun#1^><part^>:\n"
        '    """Keeps at most <count> <noun#1>s, the <flag> ones first."""\n\n'
        "    def __init__(self, <field#1>=<number>):\n        self.<field#1> = <field#1>\n"
        "        self.<noun#1>s = []\n\n"
        "    def add(self, <noun#1>):\n"
        "        if len(self.<noun#1>s) >= <count>:\n"
        "            raise <error>(<message>)\n        self.<noun#1>s.append(<noun#1>)",
        "class <flag#1^><noun#1^>(<error>):\n"
        '    """Raised when a(n) <noun#1> is <flag#1> for more than <count> seconds."""',
        "@contextmanager\ndef <verb#1>_timer(<noun#1>: str) -> Iterator[None]:\n<note>"
        "    started = time.perf_counter()\n    try:\n        yield\n    finally:\n"
        "        elapsed = time.perf_counter() - started\n"
        "        if elapsed > <tenth>:\n"
        '            logging.info("%s took %.<digit>f s", <noun#1>, elapsed)',
        "def merge_<noun#1>s(left: dict, right: dict) -> dict:\n<note>"
        "    merged = dict(left)\n    for <noun#1>, <field#1> in right.items():\n"
        "        merged[<noun#1>] = <choice>(merged.get(<noun#1>, <number>), <field#1>)\n"
        "    return merged",
        "def clamp_<field#1>(<field#1>: float) -> float:\n<note>"
        "    if <field#1> < <tenth>:\n        return <tenth>\n"
        "    if <field#1> > <limit>:\n        return <limit>\n    return <value>",
        "def <noun#1>_table(<noun#1>s) -> str:\n<note>"
        '    rows = [f"{<noun#1>.name:<<count>} {<noun#1>.<field#1>:.<digit>f}" for <noun#1> in'
        ' <noun#1>s]\n    return "\\n".join(rows)',
        "def find_<noun#1>(<noun#1>s, name: str):\n<note>"
        "    low, high = 0, len(<noun#1>s) - 1\n    while low <= high:\n"
        "        middle = (low + high) // 2\n"
        "        if <noun#1>s[middle].name == name:\n            return <noun#1>s[middle]\n"
        "        if <noun#1>s[middle].name < name:\n            low = middle + 1\n"
        "        else:\n            high = middle - 1\n    return None",
        "def group_<noun#1>s(<noun#1>s) -> dict[str, list]:\n<note>"
        "    groups = {}\n    for <noun#1> in <noun#1>s:\n"
        '        key = "<flag#1>" if <noun#1>.<field#1> <compare> <limit> else "<flag#2>"\n'
        "        groups.setdefault(key, []).append(<noun#1>)\n    return groups",
        "def <verb#1>_pairs(<noun#1>s):\n<note>"
        "    return [\n        (left, right)\n        for left in <noun#1>s\n"
        "        for right in <noun#1>s\n"
        "        if left.<field#1> - right.<field#1> <compare> <number>\n    ]",
    ),
    "bool": ("True", "False"),
    "hash": _list("sha256; sha1; md5; blake2b; sha512"),
    "separator": (",", "|", ":", "\\t", " ", "/"),
    "choice": ("max", "min"),
}

_GENERAL: dict[str, Sequence[str]] = {
    **_PEOPLE,
    "device": _list(
        "loom; press; pump; kiln; winch; barometer; plough; sluice; lantern; lathe; dredger; still;"
        "balance; mangle; churn; semaphore"
    ),
    "plant": _list(
        "vetch; sedge; nettle; plum; bean; thistle; moss; laurel; gourd; barley; lily; fern;"
        " willow;"
        "sorrel; radish; heather"
    ),
    "craft": _list(
        "knot; weave; glaze; stitch; joint; gilding; enamel; thatch; braid; veneer; engraving;"
        "binding; inlay; mortar"
    ),
    "mineral": _list(
        "spar; clay; opal; slate; ochre; salt; marble; garnet; chalk; ore; flint; agate; gypsum;"
        "granite"
    ),
    "region": _list(
        "valley; plateau; highlands; islands; marshes; uplands; delta; basin; forest; heath; lakes;"
        "peninsula"
    ),
    "material": _list(
        "brass; oak; cast iron; horn; tin; beech; leather; copper; ash; wool; linen; pewter; glass;"
        "bone; wax; hemp"
    ),
    "purpose": _list(
        "spin flax; raise water; dry grain; cut peat; weigh coin; grind pigment; press oil;"
        "signal ships; card wool; cool milk; sort seed; measure rainfall; bend timber; hoist stone"
    ),
    "worker": _list(
        "millers; weavers; pilots; monks; tanners; surveyors; brewers; fishermen; masons; dyers;"
        "shepherds; salt boilers; printers; gardeners"
    ),
    "adjective": _list(
        "small; coarse; durable; shallow; brittle; costly; heavy; simple; smooth; regional; dense;"
        "common; noisy; hardy; slow; pale"
    ),
    "season": _list("spring; late summer; autumn; winter; early May; the wet months; October"),
    "unit": _list("grams; litres; metres; kilograms; degrees; paces; minutes; bushels"),
    "part": _list(
        "frame; spindle; valve; drum; crank; pan; lever; beam; shaft; hopper; wheel; ratchet;"
        " collar"
    ),
    "organ": _list("leaves; roots; seeds; petals; stems; buds; fruits; tubers"),
    "ailment": _list("toothache; colds; gout; burns; sleeplessness; hiccups; rust; chilblains"),
    "colour": _list("grey; pale green; brick red; blue black; yellow; violet; white; brown; amber"),
    "food": _list("soup; beer; flat bread; vinegar; a sweet paste; tea; cheese; pickles"),
    "opening_device": (
        "<it> is a(n) <adjective> machine with which <worker> used to <purpose>.",
        "<it> is a(n) <adjective> machine of <material> and <material>, made to <purpose>.",
        "among the machines of <place>, <it> is the one built to <purpose>.",
        "<it> was devised by <maker> in order to <purpose>.",
        "invented for the <worker> of <place>, <it> served to <purpose>.",
        "to <purpose>, <worker> in <place> relied on <it>.",
    ),
    "opening_plant": (
        "<it> is a(n) <adjective> plant of <place>, where it flowers in <season>.",
        "<it>, with <colour> <organ>, grows wild in <place>.",
        "first described by <maker>, <it> is a(n) <adjective> plant of damp ground.",
        "<it> is grown by <worker> for its <organ>.",
        "few plants of <place> are as <adjective> as <it>.",
        "in <place>, <it> is sown in <season> and cut in <season>.",
    ),
    "opening_craft": (
        "<it> is a way of working <material> known only in <place>.",
        "<it> is a(n) <adjective> technique that <worker> apply to <material>.",
        "the <worker> of <place> owe <it> to <maker>.",
        "<it> was brought to <place> by <worker> and perfected by <maker>.",
        "of the crafts practised in <place>, <it> is the most <adjective>.",
        "<it> takes its name from a village of <worker> in <place>.",
    ),
    "opening_mineral": (
        "<it> is a(n) <adjective> <colour> mineral found in <place>.",
        "<it> occurs in <place> in beds <count> metres thick.",
        "<maker> was the first to describe <it>, a(n) <adjective> stone of <colour> colour.",
        "<it> is quarried in <place> and sold to <worker>.",
        "when heated, <it> turns from <colour> to <colour>.",
        "the <worker> of <place> have always valued <it>.",
    ),
    "fact": (
        "<maker> was born in @town, <source>.",
        "<maker> died in @year, <source>.",
        "<maker> taught for a long time in @town, <source>.",
        "<maker> learned the trade from @person, <source>.",
        "<maker> published the first account in @year, <source>.",
        "The museum of <place> was opened by @person, <source>.",
        "The museum of <place> was founded in @year, <source>.",
        "The population of <place> was last given as @thousands, <source>.",
        "The highest point of <place> rises to @hundreds metres, <source>.",
        "The chief market of <place> is held in @town, <source>.",
    ),
    "fact_device": (
        "<it^> was patented in @year, <source>.",
        "<it^> was improved by @person, <source>.",
        "<it^> weighs, in kilograms, @hundreds, <source>.",
        "<it^> has a gear ratio of @tenth, <source>.",
        "<it^> was last built in @town, <source>.",
        "<it^> has a working pressure of @tenth, <source>.",
    ),
    "fact_plant": (
        "<it^> was first drawn by @person, <source>.",
        "<it^> reached the gardens of other countries in @year, <source>.",
        "<it^> has a chromosome number of @count, <source>.",
        "<it^> is celebrated every year in @town, <source>.",
        "<it^> was saved from extinction by @person, <source>.",
    ),
    "fact_craft": (
        "<it^> was first recorded in @year, <source>.",
        "<it^> was taught in public by @person, <source>.",
        "<it^> has a number of steps fixed at @count, <source>.",
        "<it^> has its only school in @town, <source>.",
        "<it^> was forbidden by the guilds in @year, <source>.",
    ),
    "fact_mineral": (
        "<it^> has a refractive index of @tenth, <source>.",
        "<it^> was first analysed by @person, <source>.",
        "<it^> melts, in degrees, at @hundreds, <source>.",
        "<it^> has been mined since @year, <source>.",
        "<it^> has a density of @decimal, <source>.",
        "<it^> is cut and polished in @town, <source>.",
    ),
    "source": (
        "according to <person>",
        "as a plaque in <town> records",
        "although <surname> disputes it",
        "if the parish books can be trusted",
        "to judge by letters found in <town>",
        "a figure often misquoted",
        "as every handbook repeats",
        "and the records of the <worker> agree",
        "by the account of a traveller",
    ),
    "subject": ("it", "<it>"),
    "sentence": (
        "<subject> is mentioned in <count> manuscripts, most of them kept in <town>.",
        "the name was long thought to come from <town>.",
        "in <town> it is sold by the <worker>, and a good piece costs <count> crowns.",
        "a(n) <adjective> variety from <town> is prized more than any other.",
        "the <worker> of <town> hold it to be unlucky in <season>.",
        "since <year> its export has been restricted.",
        "<surname> and <surname> disagree about its origin.",
        "a proverb of the <worker> compares it to <material>.",
        "imitations in <material> are common, and easily recognised.",
        "by <year> there were <digit> workshops in <town> alone.",
        "the best account is that of <person>, in <digit> volumes.",
        "outside <place> it is seldom seen.",
        "its use declined after <year>, when <worker> turned to <material>.",
        "<subject> should not be confused with that of <town>, which is <adjective>.",
    ),
    "sentence_device": (
        "a(n) <part> of <material> turns <count> times a minute.",
        "the <part> is held by a(n) <part> of <material>, which must be oiled every <digit> hours.",
        "two people work it: one at the <part>, the other at the <part>.",
        "<subject> can <purpose> at a rate of <count> <unit> an hour.",
        "before use, the <part> is warmed and the <part> set to <tenth>.",
        "when the <part> jams, <worker> strike the <part> with a mallet.",
        "the early form had a(n) <adjective> <part> and no <part>.",
        "a(n) <adjective> model, without the <part>, was used to <purpose>.",
        "the noise of the <part> carries for <count> paces.",
        "if the <part> wears out, one of <material> may be fitted instead.",
    ),
    "sentence_plant": (
        "its <organ> are <colour> and, when dried, <adjective>.",
        "from the <organ> one makes <food>, and from the <organ> a dye of <colour> colour.",
        "<subject> reaches a height of <count> centimetres in <season>.",
        "the <worker> chew its <organ> against <ailment>.",
        "the <organ> open at noon and close after <digit> hours.",
        "<subject> prefers <adjective> soil and suffers from frost in <season>.",
        "sheep avoid the <organ>, which taste of <food>.",
        "gathered in <season>, the <organ> keep for <digit> years.",
        "an infusion of <count> grams of the <organ> is said to cure <ailment>.",
        "bees visit the <organ> in <season>, and the honey is <colour>.",
    ),
    "sentence_craft": (
        "the <material> is first soaked for <digit> hours and then beaten flat.",
        "a(n) <adjective> tool of <material> is drawn across the work <count> times.",
        "the work is left to dry through <season>, never near a fire.",
        "a trained hand needs <count> minutes for a piece of <digit> <unit>.",
        "the finished surface is <colour>, <adjective> and proof against water.",
        "beginners practise on <material>, which forgives mistakes.",
        "apprentices of the <worker> spend <digit> years on it.",
        "the pattern repeats after every <count> rows.",
        "a last coat of <material> dust gives the <colour> sheen.",
        "tools of <material> are forbidden, as they leave <colour> marks.",
    ),
    "sentence_mineral": (
        "ground to powder, it gives a(n) <colour> pigment that <worker> mix with wax.",
        "<subject> breaks into <adjective> plates with <colour> edges.",
        "a block of <count> <unit> is the largest known.",
        "<subject> is found beneath <adjective> limestone, at a depth of <count> metres.",
        "in water it softens after <digit> days and smells of <food>.",
        "the <worker> use it to polish <material>.",
        "struck with <material>, it rings like a bell.",
        "a trace of <material> gives it the <colour> tint.",
        "<subject> was once swallowed against <ailment>, to no effect.",
        "scratched with a nail, it shows a(n) <colour> streak.",
    ),
}

GRAMMARS: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType(
    {"arxiv": _ARXIV, "github": _GITHUB, "books": _BOOKS, "general": _GENERAL}
)
