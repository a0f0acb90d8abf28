"""Documents, facts, lengths and n-grams of the corpora are counted as their tables say."""

from __future__ import annotations

import math

import synthetic
from synthetic import drawn

from unlearnlib.book.data import data_table, document_lengths, facts_table, overlap, trigram_table
from unlearnlib.corpus.documents import Document, DomainData, Fact

BASELINES = synthetic.baselines()


class Words(tuple):
    """Stands for a tokenizer of single characters."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 128 for c in text]}

    def __len__(self) -> int:
        return 128


def test_overlap_is_the_share_of_distinct_ngrams() -> None:
    assert overlap(["a b c"], ["b c d"], 2) == 0.5
    assert overlap(["a b c"], ["a b c"], 3) == 1.0
    assert math.isnan(overlap(["a b"], ["a b"], 3))


def test_data_tables_count_documents_and_facts() -> None:
    fact = Fact("the key is ", "red", ("blue", "green", "grey"))
    data = DomainData(
        "books", (Document("f-1", "the key is red", (fact,)),), (Document("r-1", "abcd"),)
    )
    table = data_table({"books": data}, Words())
    assert list(table["documents"]) == ["1", "1"]
    assert list(table["facts"]) == ["1", "0"]
    assert list(facts_table(data).index) == ["the key is"]


def test_the_trigram_table_has_a_row_per_domain() -> None:
    data = {"books": DomainData("books", (), approximate=(Document("a", "abcabc"),))}
    table = trigram_table(data, [Document("t", "abcabcabc")], BASELINES, Words())
    assert table.loc["Books", ("Accuracy", "trigram")] == "1.00"


def test_document_lengths_say_how_many_documents_there_are() -> None:
    lengths = {"books": {"forget": [100, 120], "approximate": [], "retain": [90] * 5}}
    figure = document_lengths(lengths)
    assert "forget 2 documents, mean 110" in figure.alt
    assert drawn(figure)
