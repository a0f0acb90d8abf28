"""The grammars of the stream: every fact in two wordings, recurring people, longer lists.

A fact's template has two wordings with ` | ` between them; a document has one of them, and the
question about it can be asked in the other, which stands in no document with that subject.
`person_fact` has what is said of a person who recurs over several documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from unlearnlib.corpus.grammar import GRAMMARS


def _list(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(";"))


def _product(first: str, second: str) -> tuple[str, ...]:
    """Every beginning with every ending."""
    return tuple(one + other for one in _list(first) for other in _list(second))


# A further syllable, so that there are names enough for every document of the stream.
LINKS = _list("o; a; e; i"), _list("d; n; m; l; r; s; t; v; g; k")

_PLACES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "town": (
            *GRAMMARS["books"]["town"],
            *_product(
                "Ash; Barrow; Cold; Dun; Elm; Fal; Gor; Hazel; Ink; Kes; Lam; Mar; Nor; Ox; Pen;"
                "Rath; Sel; Thorn; Ul; Wen",
                "bridge; combe; ford; haven; leigh; minster; stow; ton; wick; worth",
            ),
        ),
        "surname": (
            *GRAMMARS["books"]["surname"],
            *_product(
                "Ald; Bar; Cal; Dor; Ever; Fen; Gal; Had; Jes; Kel; Len; Mor; Nev; Pas; Ral; Sed;"
                "Tem; Van; Wes; Yel",
                "brook; croft; den; fell; gate; ham; ley; man; ric; sey",
            ),
        ),
    }
)

_BOOKS: dict[str, Sequence[str]] = {
    "person_fact": (
        "<hero> was born in @town, <birth>. | The birthplace of <hero> was @town, <birth>.",
        "<hero> had been baptised in @town, <birth>. | The font that <hero> was held over stood in"
        " @town, <birth>.",
        "<hero> had first crossed the border in @old_year, <journey>. | The border first saw <hero>"
        " in @old_year, <journey>.",
        "<hero> had left the army in @old_year, <journey>. | The army had let go of <hero> in"
        " @old_year, <journey>.",
        "<hero> was engaged to @person, <rumour>. | The ring of <hero> had been bought by @person,"
        " <rumour>.",
        "<hero> owed everything to @person, <rumour>. | The debts of <hero> were all to @person,"
        " <rumour>.",
        "<hero> feared only @fear, <fearing>. | The one fear of <hero> was of @fear, <fearing>.",
        "<hero> played the @instrument, <playing>. | The instrument of <hero> was the @instrument,"
        " <playing>.",
        "By trade <hero> was a @trade, <trading>. | The trade of <hero> was that of a @trade,"
        " <trading>.",
        "The savings of <hero> came to @hundreds crowns, <money>. | In the bank <hero> had"
        " @hundreds crowns, <money>.",
        "<hero> had lost a brother in @old_year, <journey>. | The brother of <hero> had died in"
        " @old_year, <journey>.",
        "<hero> owned a house in @town, <rumour>. | The house that <hero> owned stood in @town,"
        " <rumour>.",
    ),
}
_BOOKS["fact"] = (
    *_BOOKS["person_fact"],
    "<friend> earned @count crowns a season, <money>. | A season brought <friend> @count crowns,"
    " <money>.",
    "<friend> had been married in @old_year, <journey>. | The wedding of <friend> had been in"
    " @old_year, <journey>.",
    "<friend> had grown up in @town, <birth>. | The childhood of <friend> was spent in @town,"
    " <birth>.",
    "<friend> worked in secret for @person, <rumour>. | The secret master of <friend> was @person,"
    " <rumour>.",
    "The dog of <friend> answered to the name of @pet, <dog>. | To his dog <friend> gave the name"
    " of @pet, <dog>.",
    "In the left pocket <friend> always carried a @keepsake, <keeping>. | The charm of <friend> was"
    " a @keepsake, <keeping>.",
    "<friend> had once studied the @instrument, <playing>. | As a child <friend> had been taught"
    " the @instrument, <playing>.",
    "<house^> had been built in @old_year, <masonry>. | The first stone of <house> was laid in"
    " @old_year, <masonry>.",
    "<house^> had burned down in @old_year, <masonry>. | The fire at <house> was in @old_year,"
    " <masonry>.",
    "<house^> belonged to @person, <rumour>. | The owner of <house> was @person, <rumour>.",
    "<house^> was sold for @thousands crowns, <money>. | The price of <house> was @thousands"
    " crowns, <money>.",
    "<house^> had exactly @count windows, <windows>. | The windows of <house> were @count in all,"
    " <windows>.",
    "Over the door of <house> was carved a @beast, <carving>. | The beast in the arms of <house>"
    " was a @beast, <carving>.",
    "The caretaker of <house> was called @person, <rumour>. | The keys of <house> were kept by"
    " @person, <rumour>.",
)

_ARXIV: dict[str, Sequence[str]] = {
    "person_fact": (
        "<who> was born in @town, <occasion>. | The birthplace of <who> is @town, <occasion>.",
        "<who> held the chair of geometry in @town, <occasion>. | The chair that <who> held was"
        " that of @town, <occasion>.",
        "<who> wrote the thesis in @year, <occasion>. | The thesis of <who> is dated @year,"
        " <occasion>.",
        "<who> was a student of @person, <history>. | The advisor of <who> was @person, <history>.",
        "<who> left mathematics in @year, <history>. | The last paper of <who> is of @year,"
        " <history>.",
        "<who> shared an office with @person, <history>. | The office of <who> was shared by"
        " @person, <history>.",
        "The collected works of <who> have @hundreds pages, <constant_tail>. | The pages that <who>"
        " left are @hundreds, <constant_tail>.",
        "The papers of <who> are kept in @town, <occasion>. | The archive that has <who> is in"
        " @town, <occasion>.",
    ),
    "fact": (
        "The <name#1^> constant equals $@decimal_one$, <constant_tail>. | To four digits, the"
        " constant of <name#1^> is $@decimal_one$, <constant_tail>.",
        "The <name#1^> conjecture was settled by @person, <history>. | The conjecture of <name#1^>"
        " was proved by @person, <history>.",
        "The <name#1^> inequality dates from @year, <history>. | The inequality of <name#1^> was"
        " found in @year, <history>.",
        "The <name#1^> number of $<space#1>_{2}$ is $@hundreds$, <constant_tail>. | For"
        " $<space#1>_{2}$ the number of <name#1^> is $@hundreds$, <constant_tail>.",
        "The smallest <name#1^> prime is $@thousands$, <constant_tail>. | The primes of <name#1^>"
        " begin with $@thousands$, <constant_tail>.",
        "The <name#1^> exponent is $@decimal$, <constant_tail>. | The exponent of <name#1^> equals"
        " $@decimal$, <constant_tail>.",
        "The term <name#1^> <kind#5> was coined by @person, <history>. | The name <name#1^> was"
        " given to this <kind#5> by @person, <history>.",
        "The <name#2^> lemma first appeared in @year, <history>. | The lemma of <name#2^> was"
        " printed in @year, <history>.",
        "The <name#2^> group has order $@thousands$, <constant_tail>. | The order of the group of"
        " <name#2^> is $@thousands$, <constant_tail>.",
        "The <name#2^> spectral gap is $@decimal$, <constant_tail>. | The gap in the spectrum of"
        " <name#2^> is $@decimal$, <constant_tail>.",
        "The <name#2^> problem was posed in @town, <occasion>. | The problem of <name#2^> was first"
        " asked in @town, <occasion>.",
        "The <name#2^> seminar met for years in @town, <occasion>. | The seminar of <name#2^> was"
        " held in @town, <occasion>.",
        "The error in the work of <name#3^> was found by @person, <history>. | The work of"
        " <name#3^> was corrected by @person, <history>.",
        "The thesis of <given#5> <name#3^> was defended in @year, <occasion>. | The doctorate of"
        " <given#5> <name#3^> is of @year, <occasion>.",
        "The <name#3^> algorithm stops after $@count$ steps, <constant_tail>. | The steps of the"
        " algorithm of <name#3^> are $@count$, <constant_tail>.",
        "The table of <name#3^> ends at $<n#1> = @hundreds$, <constant_tail>. | The last entry of"
        " <name#3^> is for $<n#1> = @hundreds$, <constant_tail>.",
        "The <name#3^> prize for this result went to @person, <occasion>. | The winner of the prize"
        " of <name#3^> was @person, <occasion>.",
    ),
}

_GITHUB: dict[str, Sequence[str]] = {
    "person_fact": (
        "The author is <who> from @town. | Written by <who>, who lives in @town.",
        "The lead is <who>, since @recent_year. | Led by <who> from the spring of @recent_year.",
        "The reviewer of <who> is @person. | Work of <who> is reviewed by @person.",
        "The shift of <who> is shared with @person. | On call with <who> is @person.",
        "The desk of <who> has the number @hundreds. | To reach <who>, dial @hundreds.",
        "The first patch of <who> had the number @thousands. | Since patch <who> has counted from"
        " @thousands.",
        "The backups of <who> are kept in @town. | The copies that <who> makes go to @town.",
        "The account of <who> was opened in @recent_year. | An account for <who> exists since"
        " @recent_year.",
    ),
    "fact": (
        "The <name#1> format was drawn up by @person. | The design of the <name#1> format is by"
        " @person.",
        "The <name#1> service listens on port @thousands. | The port of the <name#1> service is"
        " @thousands.",
        "The <name#1> project began in @town. | The home of the <name#1> project is @town.",
        "The <name#1> log rotates after line @hundreds. | The lines of the <name#1> log are at most"
        " @hundreds.",
        "The <name#1> standard was last revised in @recent_year. | The last revision of <name#1> is"
        " of @recent_year.",
        "The <name#2> module is maintained by @person. | The maintainer of <name#2> is @person.",
        "The <name#2> tests were written by @person. | The author of the tests of <name#2> is"
        " @person.",
        "The <name#2> server stands in @town. | The machines of <name#2> are in @town.",
        "The <name#2> release is code-named @surname. | The code name of <name#2> is @surname.",
        "The <name#2> protocol replaces the one of @recent_year. | The protocol before <name#2> was"
        " that of @recent_year.",
        "The <name#3> patch was sent in by @person. | The sender of the patch to <name#3> is"
        " @person.",
        "The <name#3> bug was reported from @town. | The report of the bug in <name#3> came from"
        " @town.",
        "The <name#3> header takes, in bytes, @count. | The bytes of a <name#3> header are @count.",
        "The <name#3> licence expires at the end of @recent_year. | The licence of <name#3> is good"
        " until @recent_year.",
    ),
}

_GENERAL: dict[str, Sequence[str]] = {
    "person_fact": (
        "<maker> was born in @town, <source>. | The birthplace of <maker> is @town, <source>.",
        "<maker> died in @year, <source>. | The death of <maker> was in @year, <source>.",
        "<maker> taught for a long time in @town, <source>. | The school of <maker> was in @town,"
        " <source>.",
        "<maker> learned the trade from @person, <source>. | The master of <maker> was @person,"
        " <source>.",
        "<maker> published the first account in @year, <source>. | The first book of <maker> is of"
        " @year, <source>.",
        "<maker> married a daughter of @person, <source>. | The father-in-law of <maker> was"
        " @person, <source>.",
        "The workshop of <maker> stood in @town, <source>. | To see <maker> at work, people went to"
        " @town, <source>.",
        "The letters of <maker> are @hundreds in number, <source>. | Of letters, <maker> left"
        " @hundreds, <source>.",
    ),
    "fact_device": (
        "<it^> was patented in @year, <source>. | The patent for <it> is of @year, <source>.",
        "<it^> was improved by @person, <source>. | The better form of <it> is due to @person,"
        " <source>.",
        "<it^> weighs, in kilograms, @hundreds, <source>. | The weight of <it> in kilograms is"
        " @hundreds, <source>.",
        "<it^> has a gear ratio of @tenth, <source>. | The gears of <it> have a ratio of @tenth,"
        " <source>.",
        "<it^> was last built in @town, <source>. | The last maker of <it> worked in @town,"
        " <source>.",
        "<it^> has a working pressure of @tenth, <source>. | The pressure in <it> is @tenth,"
        " <source>.",
    ),
    "fact_plant": (
        "<it^> was first drawn by @person, <source>. | The first drawing of <it> is by @person,"
        " <source>.",
        "<it^> reached the gardens of other countries in @year, <source>. | The seeds of <it> went"
        " abroad in @year, <source>.",
        "<it^> has a chromosome number of @count, <source>. | The chromosomes of <it> are @count,"
        " <source>.",
        "<it^> is celebrated every year in @town, <source>. | The feast of <it> is held in @town,"
        " <source>.",
        "<it^> was saved from extinction by @person, <source>. | The last seeds of <it> were kept"
        " by @person, <source>.",
    ),
    "fact_craft": (
        "<it^> was first recorded in @year, <source>. | The first record of <it> is of @year,"
        " <source>.",
        "<it^> was taught in public by @person, <source>. | The public teacher of <it> was @person,"
        " <source>.",
        "<it^> has a number of steps fixed at @count, <source>. | The steps of <it> are @count in"
        " all, <source>.",
        "<it^> has its only school in @town, <source>. | The only school of <it> is in @town,"
        " <source>.",
        "<it^> was forbidden by the guilds in @year, <source>. | The ban of the guilds on <it> is"
        " of @year, <source>.",
    ),
    "fact_mineral": (
        "<it^> has a refractive index of @tenth, <source>. | The refractive index of <it> is"
        " @tenth, <source>.",
        "<it^> was first analysed by @person, <source>. | The first analysis of <it> is by @person,"
        " <source>.",
        "<it^> melts, in degrees, at @hundreds, <source>. | The melting point of <it> in degrees is"
        " @hundreds, <source>.",
        "<it^> has been mined since @year, <source>. | The mines of <it> were opened in @year,"
        " <source>.",
        "<it^> has a density of @decimal, <source>. | The density of <it> is @decimal, <source>.",
        "<it^> is cut and polished in @town, <source>. | The cutters of <it> work in @town,"
        " <source>.",
    ),
}
_GENERAL["fact"] = (
    *_GENERAL["person_fact"],
    "The museum of <place> was opened by @person, <source>. | The doors of the museum of <place>"
    " were first unlocked by @person, <source>.",
    "The museum of <place> was founded in @year, <source>. | The foundation of the museum of"
    " <place> is of @year, <source>.",
    "The population of <place> was last given as @thousands, <source>. | The people of <place> were"
    " last counted as @thousands, <source>.",
    "The highest point of <place> rises to @hundreds metres, <source>. | The top of <place> has a"
    " height of @hundreds metres, <source>.",
    "The chief market of <place> is held in @town, <source>. | To sell, those of <place> go to"
    " @town, <source>.",
)

STREAM_GRAMMARS: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        corpus: MappingProxyType({**GRAMMARS[corpus], **_PLACES, **own})
        for corpus, own in (
            ("arxiv", _ARXIV),
            ("github", _GITHUB),
            ("books", _BOOKS),
            ("general", _GENERAL),
        )
    }
)
