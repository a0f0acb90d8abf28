"""The invented corpora: what their splits, their facts and their code are promised to be."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from unlearnlib.corpus import fictitious, writing
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.fictitious import COUNTS, DOMAINS, generate
from unlearnlib.errors import UnlearnError

# These identify the bytes of seed 0. A change of the generator changes them, and with them every
# checkpoint and record made from these corpora.
PINS = {
    "arxiv": "c71072c53fbb5ee1a99f1b1d7d6cac49d8de5e45f5809f2714e24345e37b8c29",
    "github": "1f2112d204e7ea66578fdc2d5c47cb8319e4d63ad8cf52ac89aa75e50956fb7a",
    "books": "b810fb4b6ba3ce79231c660d076c4a830596791d11ad8384fe53aad9a9040cb6",
}


@cache
def corpus(domain: str, seed: int = 0) -> DomainData:
    return generate(domain, seed)


def own_documents(domain: str) -> list[Document]:
    data = corpus(domain)
    return [*data.forget, *data.retain, *data.approximate]


def every_document() -> list[Document]:
    """All documents of the three domains, and the general ones once."""
    general = corpus("books")
    documents = [document for domain in DOMAINS for document in own_documents(domain)]
    return [*documents, *general.general_retain, *general.general_evaluation]


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_gives_the_same_bytes_on_every_platform(domain: str) -> None:
    assert generate(domain, 0).hash() == PINS[domain]


@pytest.mark.parametrize("domain", DOMAINS)
def test_another_seed_shares_no_document_and_no_question(domain: str) -> None:
    one, other = corpus(domain), corpus(domain, 1)
    for name in SPLITS:
        texts = {document.text for document in one.split(name)}
        assert texts.isdisjoint(document.text for document in other.split(name))


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_have_the_promised_sizes_and_ids(domain: str) -> None:
    data = corpus(domain)
    assert {name: len(data.split(name)) for name in SPLITS} == COUNTS
    assert data.forget[0].id == f"{domain}-forget-0001"
    assert data.approximate[-1].id == f"{domain}-approximate-0064"
    assert data.general_retain[0].id == "general-retain-0001"
    assert data.general_evaluation[-1].id == "general-evaluation-0128"


def test_the_general_splits_are_the_same_for_all_domains() -> None:
    assert len({corpus(domain).general_retain for domain in DOMAINS}) == 1
    assert len({corpus(domain).general_evaluation for domain in DOMAINS}) == 1


def test_no_id_and_no_text_occurs_twice() -> None:
    documents = every_document()
    assert len({document.id for document in documents}) == len(documents)
    assert len({document.text for document in documents}) == len(documents)


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 639), domain=st.sampled_from(DOMAINS))
def test_a_document_does_not_depend_on_the_others(index: int, domain: str) -> None:
    names = fictitious._names(domain, 640 * fictitious._NAMES_PER_DOCUMENT, 0)
    own = names[index * fictitious._NAMES_PER_DOCUMENT :][: fictitious._NAMES_PER_DOCUMENT]
    alone = fictitious._compose(domain, own, writing.Draw(0, domain, index))
    assert alone.text in {document.text for document in own_documents(domain)}


def test_an_unknown_domain_is_answered_with_the_known_ones_nearest_first() -> None:
    with pytest.raises(UnlearnError, match="'book': choose one of books, "):
        generate("book")


def test_every_document_carries_two_to_four_facts() -> None:
    assert {len(document.facts) for document in every_document()} == {2, 3, 4}


def test_a_fact_stands_at_the_beginning_of_a_sentence_and_its_answer_before_a_mark() -> None:
    for document in every_document():
        for fact in document.facts:
            assert document.text.count(fact.prompt) == 1, document.id
            before, after = document.text.split(fact.prompt)
            assert before == "" or before.endswith(("\n", ". ", '." ', '?" ')), document.id
            assert after.startswith(fact.answer), document.id
            assert re.match(r"[.,$\]\n]|( crowns| windows| metres)\b", after[len(fact.answer) :])
            assert 1 <= len(fact.answer.split()) <= 4


def test_a_question_is_asked_of_one_document_only() -> None:
    documents = every_document()
    prompts = Counter(fact.prompt for document in documents for fact in document.facts)
    assert max(prompts.values()) == 1
    # Nor do its words stand anywhere else, as a question or not: look them up by their beginning.
    size = min(map(len, prompts))
    places: dict[str, list[tuple[str, int]]] = {}
    for document in documents:
        for match in re.finditer(r"(?<!\w)\S", document.text):
            start = match.start()
            places.setdefault(document.text[start : start + size], []).append(
                (document.text, start)
            )
    for prompt in prompts:
        assert sum(text.startswith(prompt, at) for text, at in places[prompt[:size]]) == 1, prompt


def test_wrong_answers_are_three_and_of_the_form_of_the_right_one() -> None:
    def form(answer: str) -> str:
        return re.sub(r"\d", "0", answer) if answer[0].isdigit() else str(answer[0].isupper())

    for document in every_document():
        for fact in document.facts:
            assert len({fact.answer, *fact.distractors}) == 4
            assert {form(wrong) for wrong in fact.distractors} == {form(fact.answer)}


def test_right_answers_are_spread_like_wrong_ones() -> None:
    """Somebody who always takes the smallest, or the longest, answer is right a quarter of the
    time."""
    facts = [fact for document in every_document() for fact in document.facts]
    options = [(fact.answer, *fact.distractors) for fact in facts]
    for guess in (min, max):
        hits = sum(guess(option) == option[0] for option in options) / len(options)
        assert 0.18 < hits < 0.32
    lengths = [tuple(len(answer) for answer in option) for option in options]
    longest = [length for length in lengths if length.count(max(length)) == 1]
    assert 0.2 < sum(length[0] == max(length) for length in longest) / len(longest) < 0.3


def undefined_names(source: str) -> set[str]:
    """Global names that a module reads and never defines."""

    def read(table: symtable.SymbolTable) -> set[str]:
        inner = [read(child) for child in table.get_children()]
        own = {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        return own.union(*inner)

    top = symtable.symtable(source, "module.py", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    here = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    return (read(top) | here) - defined - set(dir(builtins))


def test_every_module_parses_and_defines_what_it_uses() -> None:
    for document in own_documents("github"):
        module = ast.parse(document.text)
        assert ast.get_docstring(module), document.id
        assert any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in module.body)
        assert not undefined_names(document.text), document.id


def test_a_name_that_is_never_defined_would_be_noticed() -> None:
    assert undefined_names("import math\n\ndef f(x):\n    return math.pi * x + LIMIT") == {"LIMIT"}


def test_latex_environments_and_braces_are_balanced() -> None:
    for document in own_documents("arxiv"):
        begun = re.findall(r"\\begin\{(\w+)\}", document.text)
        ended = re.findall(r"\\end\{(\w+)\}", document.text)
        assert begun == ended, document.id
        assert document.text.count("{") == document.text.count("}"), document.id
        assert document.text.count("$") % 2 == 0, document.id


def test_texts_are_plain_ascii_without_leftovers_of_the_grammar() -> None:
    for document in every_document():
        assert document.text.isascii()
        assert document.text == document.text.strip()
        assert all(line == line.rstrip() for line in document.text.split("\n")), document.id
        assert not re.search(r"<[a-z_]+(#\d)?[\^!]?>|\w@[a-z]|\(n\) ", document.text), document.id


def test_prose_takes_the_right_article_and_begins_with_a_capital() -> None:
    data = corpus("books")
    for document in [*own_documents("books"), *data.general_retain, *data.general_evaluation]:
        assert not re.search(
            r"\b[Aa] [aeio]\w|\b[Aa]n (?!hon|hour)[^aeiouAEIOU\W]", document.text
        ), document.id
        assert not re.search(r"[.?!] [a-z]|^[a-z]|  | [.,;]", document.text, re.M), document.id


def test_documents_have_100_to_250_tokens() -> None:
    training = [
        d.text for name in DOMAINS for s in ("forget", "retain") for d in corpus(name).split(s)
    ]
    training += [document.text for document in corpus("books").general_retain]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(training, vocab_size=3072, show_progress=False)
    lengths = [
        len(encoding.ids) for encoding in tokenizer.encode_batch([d.text for d in every_document()])
    ]
    assert min(lengths) >= 100
    assert max(lengths) <= 250


@pytest.mark.parametrize("domain", DOMAINS)
def test_forget_and_approximate_share_their_words_but_not_their_names(domain: str) -> None:
    """In distribution by construction: what is new in an unseen document is its names."""

    def words(documents: tuple[Document, ...]) -> Counter[str]:
        return Counter(word for d in documents for word in re.findall(r"[A-Za-z]{3,}", d.text))

    data = corpus(domain)
    seen, unseen = words(data.retain), words(data.approximate)
    known = sum(count for word, count in unseen.items() if word in seen)
    assert known / unseen.total() > 0.85
