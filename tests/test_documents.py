"""The identity of documents: every character, id, fact and boundary is part of the hash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.corpus.documents import SPLITS, Document, DomainData, Fact, hash_documents, overlaps

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FACT = Fact("The lamp at Ostrel is ", "green", ("red", "blue", "white"))
ONE = Document("a-1", "The lamp at Ostrel is green.", (FACT,))


def test_equal_documents_have_the_same_hash() -> None:
    twin = Document("a-1", "The lamp at Ostrel is green.", (replace(FACT),))
    assert hash_documents([ONE]) == hash_documents(iter([twin]))


@pytest.mark.parametrize(
    "changed",
    [
        replace(ONE, id="a-2"),
        replace(ONE, text=ONE.text + " "),
        replace(ONE, text=ONE.text.replace("green", "Green")),
        replace(ONE, facts=()),
        replace(ONE, facts=(replace(FACT, prompt="The lamp at Ostrel is"),)),
        replace(ONE, facts=(replace(FACT, answer="red"),)),
        replace(ONE, facts=(replace(FACT, distractors=("blue", "red", "white")),)),
    ],
    ids=["id", "space", "case", "no-facts", "prompt", "answer", "order-of-distractors"],
)
def test_any_change_of_a_document_changes_the_hash(changed: Document) -> None:
    assert hash_documents([changed]) != hash_documents([ONE])


def test_the_order_of_documents_is_part_of_the_hash() -> None:
    two = replace(ONE, id="a-2")
    assert hash_documents([ONE, two]) != hash_documents([two, ONE])


def test_a_character_that_moves_over_a_boundary_changes_the_hash() -> None:
    assert hash_documents([Document("ab", "c")]) != hash_documents([Document("a", "bc")])
    assert hash_documents([Document("a", "bc"), Document("d", "e")]) != hash_documents(
        [Document("a", "b"), Document("cd", "e")]
    )
    assert hash_documents([Document("a", "b", (Fact("c", "d", ("e",)),))]) != hash_documents(
        [Document("a", "b", (Fact("c", "d", ()),)), Document("e", "")]
    )


@given(
    first=st.lists(st.tuples(TEXT, TEXT), max_size=4),
    second=st.lists(st.tuples(TEXT, TEXT), max_size=4),
)
def test_different_lists_of_documents_have_different_hashes(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    one, two = ([Document(name, text) for name, text in pairs] for pairs in (first, second))
    assert (hash_documents(one) == hash_documents(two)) == (first == second)


def test_the_hash_is_the_same_on_every_platform() -> None:
    documents = [ONE, Document("b-1", "Ünïcode\r\n\0🦉")]
    assert hash_documents(documents) == (
        "00728b9fb5c2d53865a7d443198c37c1c856ec15ebbf2cbfb181069acd72c22e"
    )


def test_a_domain_hash_depends_on_which_split_a_document_is_in() -> None:
    hashes = {
        DomainData("books", **{"forget": (), split: (ONE,)}).hash()  # type: ignore[arg-type]
        for split in SPLITS
    }
    assert len(hashes) == len(SPLITS)


def test_a_domain_hash_is_of_the_texts_and_not_of_where_they_came_from() -> None:
    here = DomainData("books", (ONE,), source="files", extra={"forget": "a.txt"})
    there = DomainData("books", (ONE,), source="hub")
    assert here.hash() == there.hash()


def test_a_text_that_is_forgotten_and_stands_elsewhere_is_found_whatever_its_name() -> None:
    data = DomainData(
        "yours",
        (ONE, replace(ONE, id="two", text="another")),
        retain=(replace(ONE, id="other", text=f"{ONE.text}\n"),),
        approximate=(replace(ONE, text="a third"),),
    )
    assert overlaps(data) == {"retain": (ONE.id,)}


def test_every_split_can_be_asked_for_by_name() -> None:
    data = DomainData("books", (ONE,), retain=(replace(ONE, id="r"),))
    assert data.split("forget") == (ONE,)
    assert [document.id for document in data.split("retain")] == ["r"]
    assert data.split("general_evaluation") == ()
