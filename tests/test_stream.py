"""The stream: how often each text is read, whose names recur, and what a text's choices cost."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache

import pytest

from unlearnlib.corpus import stream
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.stream import COUNTS, DOMAINS, EXPOSURES, PER_EXPOSURE, TOLD
from unlearnlib.corpus.writing import Draw
from unlearnlib.errors import UnlearnError

# They identify the bytes of seed 0: of every model and record that is made from the stream.
PINS = {
    "arxiv": "032a4c644f4ddf5e1429d3aa3111f17918528e8e93c6f9f3b913d69b10de3a77",
    "github": "5e2e7fd28401704214b03236ab9f6d27641abd7e4c0e0a125f61c41920878775",
    "books": "ceab2d701f4cd72e3865fd7490513af02a172951c3662f654ab624c5bb5ee04c",
}
READ_ONCE = 600  # of each corpus, in the streams of these tests


@cache
def corpus(domain: str, seed: int = 0) -> DomainData:
    return stream.generate(domain, seed)


@cache
def whole(without: str | None = None) -> tuple[Document, ...]:
    return stream.stream_documents(READ_ONCE, without)


def every_document() -> list[Document]:
    """The documents of all splits; the general ones once."""
    general = corpus("books")
    own = [d for domain in DOMAINS for name in SPLITS[:3] for d in corpus(domain).split(name)]
    return [*own, *general.general_retain, *general.general_evaluation]


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_gives_the_same_bytes_on_every_platform(domain: str) -> None:
    assert corpus(domain).hash() == PINS[domain]
    assert corpus(domain, 1).hash() != PINS[domain]


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_have_the_promised_sizes_and_exposures(domain: str) -> None:
    data = corpus(domain)
    assert {name: len(data.split(name)) for name in SPLITS} == COUNTS
    assert Counter(d.exposure for d in data.forget) == dict.fromkeys(EXPOSURES, PER_EXPOSURE)
    assert {d.exposure for d in (*data.retain, *data.general_retain)} == {1}
    assert {d.exposure for d in (*data.approximate, *data.general_evaluation)} == {0}
    first = data.forget[:10]
    assert [d.exposure for d in first] == [*EXPOSURES, *EXPOSURES]
    assert [d.id for d in first[:2]] == [f"{domain}-forget-1x-0001", f"{domain}-forget-2x-0001"]


def test_a_pass_reads_each_document_as_often_as_its_exposure_says() -> None:
    documents = whole()
    read = Counter(document.id for document in stream.readings(documents, 0))
    assert read == {document.id: document.exposure for document in documents}
    places = {c: sum(d.id.startswith(c) for d in documents) for c in stream.CORPORA}
    assert places == {c: READ_ONCE + (120 if c != "general" else 0) for c in stream.CORPORA}
    for domain in DOMAINS:
        seen = {document.id for document in documents}
        assert seen.issuperset(d.id for d in (*corpus(domain).forget, *corpus(domain).retain))
        assert seen.isdisjoint(d.id for d in corpus(domain).approximate)


def test_a_split_does_not_depend_on_how_long_the_stream_is() -> None:
    longer = {d.id: d for d in stream.stream_documents(READ_ONCE + 60)}
    assert all(longer[document.id] == document for document in whole())


def test_an_oracle_reads_the_same_in_the_same_order_without_its_forget_set() -> None:
    forget = {document.id for document in corpus("github").forget}
    full = [d.id for d in stream.readings(whole(), 3) if d.id not in forget]
    assert [d.id for d in stream.readings(whole("github"), 3)] == full
    assert [d.id for d in stream.readings(whole("github"), 4)] != full


def test_the_places_of_readings_are_spread_over_the_pass() -> None:
    order = [document.id for document in stream.readings(whole(), 0)]
    at = [place / len(order) for place, name in enumerate(order) if "-16x-" in name]
    assert len(at) == 3 * 16 * PER_EXPOSURE
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):  # the deviation of a share is at most 0.015
        assert sum(a < share for a in at) / len(at) == pytest.approx(share, abs=0.06)


def test_no_id_and_no_text_occurs_twice() -> None:
    documents = every_document()
    assert len({document.id for document in documents}) == len(documents)
    assert len({document.text for document in documents}) == len(documents)


def test_names_are_never_given_twice() -> None:
    for name in stream.CORPORA:
        names = [stream.name(name, index, 0) for index in range(50_000)]
        assert len(set(names)) == len(names)


def test_a_question_stands_in_one_document_in_one_wording() -> None:
    documents = every_document()
    text = "\n".join(document.text for document in documents)
    asked = [fact for document in documents for fact in document.facts]
    assert len(asked) > 2 * len(documents)
    for fact in asked[::25]:
        assert text.count(fact.prompt) == 1, fact.prompt
        for other in fact.paraphrases:
            assert text.count(other) == 0, other
            assert other != fact.prompt and re.search(r"[ $]$", other)


def test_both_wordings_of_a_fact_are_written() -> None:
    """So a paraphrase asks in words that the model knows of other documents."""
    text = "\n".join(document.text for document in every_document())
    for one, other in (
        (" was born in ", "The birthplace of "),
        (" constant equals $", "the constant of "),
        (" service listens on port ", "The port of the "),
        (" was patented in ", "The patent for "),
    ):
        assert min(text.count(one), text.count(other)) >= 5


def test_paraphrases_are_there_for_most_facts() -> None:
    for domain in DOMAINS:
        facts = [fact for document in corpus(domain).forget for fact in document.facts]
        share = sum(len(fact.paraphrases) == 1 for fact in facts) / len(facts)
        assert share > (0.45 if domain == "github" else 0.8)  # constants of code have none


def test_a_person_is_told_of_in_four_documents_read_equally_often() -> None:
    for domain, pattern in (
        ("books", r"^(?:The (?:birthplace|trade) of |By trade )?([A-Z]\w+ [A-Z]\w+)"),
        ("arxiv", r"The (?:papers|collected works|thesis|advisor) of ([A-Z]\w+ [A-Z]\w+)"),
    ):
        told: dict[str, list[Document]] = {}
        for document in corpus(domain).forget:
            for fact in document.facts:
                found = re.search(pattern, fact.prompt)
                if found:
                    told.setdefault(found[1], []).append(document)
        people = {n: ds for n, ds in told.items() if len({d.id for d in ds}) > 1}
        assert people
        for documents in people.values():
            assert len({d.exposure for d in documents}) == 1
            assert len({d.id for d in documents}) <= TOLD


def test_what_is_told_of_a_person_is_told_once() -> None:
    for domain in DOMAINS:
        prompts = Counter(f.prompt for d in corpus(domain).forget for f in d.facts)
        assert max(prompts.values()) == 1


def test_wrong_answers_are_three_and_change_nothing_in_the_text() -> None:
    for document in every_document()[::7]:
        for fact in document.facts:
            assert len({fact.answer, *fact.distractors}) == 4


def test_a_draw_counts_what_shows_and_not_what_is_free() -> None:
    draw = Draw("test")
    draw.below(8)
    with draw.free():
        draw.shuffled(range(100))
    draw.pick("ab")
    assert draw.nats == pytest.approx(math.log(16))


def test_the_bound_on_surprise_is_that_of_the_choices() -> None:
    """A grammar of known entropy: four sentences in a random order are ln 24 nats, not more."""
    from unlearnlib.corpus.writing import Writer

    writer = Writer(Draw("test"), {"s": ("a", "b", "c", "d")}, ())
    taken = [writer.take("s") for _ in range(4)]
    assert sorted(taken) == ["a", "b", "c", "d"]
    assert writer.draw.nats == pytest.approx(math.log(24))
    writer.take("s")
    assert writer.draw.nats == pytest.approx(math.log(96))


def test_an_unknown_domain_is_answered_with_the_known_ones() -> None:
    for call in (
        lambda: stream.generate("book"),
        lambda: stream.stream_documents(10, "general"),
        lambda: stream.groups("poems", 10),
    ):
        with pytest.raises(UnlearnError, match="choose one of "):
            call()
