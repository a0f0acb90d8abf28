"""Cutting documents into chunks, packing chunks into micro-batches, padding them into a batch."""

from __future__ import annotations

import itertools
import zlib

import pytest
import torch
from helpers import HEAD_ROWS, documents, logits_of, tiny_llama, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.corpus.chunks import MINIMUM_TOKENS, Chunk, collate, cut, last_word, pack
from unlearnlib.corpus.documents import Document
from unlearnlib.engine import hidden_states
from unlearnlib.errors import UnlearnError

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


def of_lengths(lengths: list[int]) -> list[Chunk]:
    make = torch.Generator().manual_seed(3)
    return [
        Chunk(f"d{i}#0", f"d{i}", tuple(torch.randint(1, 99, (n,), generator=make).tolist()))
        for i, n in enumerate(lengths)
    ]


# ---- cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, 13, 1000])
def test_the_chunks_of_a_document_are_its_tokens_in_order(length: int) -> None:
    texts = documents("cut", 8)
    tokenizer = tiny_tokenizer()
    chunks = cut(texts, tokenizer, length)
    for document in texts:
        mine = [chunk for chunk in chunks if chunk.document == document.id]
        tokens = tokenizer(document.text)["input_ids"]
        left = len(tokens) % length
        whole = tokens if left == 0 or left >= MINIMUM_TOKENS else tokens[:-left]
        assert [t for chunk in mine for t in chunk.tokens] == whole
        assert [chunk.id for chunk in mine] == [f"{document.id}#{i}" for i in range(len(mine))]
        assert all(MINIMUM_TOKENS <= len(chunk.tokens) <= length for chunk in mine)


def test_a_document_is_framed_once_and_not_chunk_by_chunk() -> None:
    tokenizer = tiny_tokenizer()
    chunks = cut(documents("cut", 1), tokenizer, 8)
    assert len(chunks) > 1
    first_tokens = [chunk.tokens[0] for chunk in chunks]
    assert first_tokens[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in first_tokens[1:]


def test_a_whole_documents_zlib_length_is_that_of_its_text() -> None:
    (document,) = documents("cut", 1)
    (chunk,) = cut([document], tiny_tokenizer(), 1000)
    assert chunk.zlib_bytes == len(zlib.compress(document.text.encode()))


def test_a_parts_zlib_length_is_that_of_its_own_text_without_special_tokens() -> None:
    (document,) = documents("cut", 1)
    tokenizer = tiny_tokenizer()
    for chunk in cut([document], tokenizer, 8):
        text = tokenizer.decode(chunk.tokens, skip_special_tokens=True)
        assert text in document.text
        assert chunk.zlib_bytes == len(zlib.compress(text.encode()))


def test_documents_that_are_all_too_short_are_an_error_that_says_so() -> None:
    short = [Document("a", "x"), Document("b", "y")]
    with pytest.raises(UnlearnError, match=r"^all 2 forget documents are shorter than 5 tokens: "):
        cut(short, tiny_tokenizer(), 100, name="forget")
    assert cut([], tiny_tokenizer(), 100) == []


def test_one_document_that_is_too_short_is_dropped() -> None:
    texts = (Document("a", "x"), *documents("cut", 1))
    assert [chunk.document for chunk in cut(texts, tiny_tokenizer(), 100)] == ["cut-0"]


# ---- pack -----------------------------------------------------------------------------------


@given(LENGTHS, st.integers(1, 120), st.integers(1, 8))
def test_every_chunk_is_in_exactly_one_micro_batch_within_the_limits(
    lengths: list[int], max_tokens: int, max_chunks: int
) -> None:
    batches = pack(of_lengths(lengths), max_tokens, max_chunks)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[i] for i in batch)
        assert len(batch) <= max_chunks
        assert len(batch) == 1 or len(batch) * widest <= max_tokens
    widths = [max(lengths[i] for i in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)


def cost_of(batches: list[list[int]], max_tokens: int) -> float:
    """What `pack` makes small, of micro-batches given by their lengths."""
    return sum(len(batch) * max(batch) + max_tokens / 32 for batch in batches)


@given(st.lists(st.integers(5, 60), min_size=1, max_size=7), st.integers(60, 200))
def test_no_other_division_has_fewer_padded_tokens(lengths: list[int], max_tokens: int) -> None:
    most = 4
    ours = [[lengths[i] for i in batch] for batch in pack(of_lengths(lengths), max_tokens, most)]
    ordered = sorted(lengths, reverse=True)
    inner = range(1, len(ordered))
    every = []
    for count in range(len(ordered)):
        for cuts in itertools.combinations(inner, count):
            ends = [0, *cuts, len(ordered)]
            parts = [ordered[a:b] for a, b in itertools.pairwise(ends)]
            if all(len(p) <= most and (len(p) == 1 or len(p) * p[0] <= max_tokens) for p in parts):
                every.append(cost_of(parts, max_tokens))
    assert cost_of(ours, max_tokens) == pytest.approx(min(every))


def test_a_short_chunk_is_not_padded_to_a_long_one_where_another_short_one_is() -> None:
    assert pack(of_lengths([512, 171, 160]), 1024, 64) == [[0], [1, 2]]


def test_no_chunks_make_no_micro_batches() -> None:
    assert pack([], 10, 10) == []


# ---- collate --------------------------------------------------------------------------------


@given(LENGTHS)
def test_the_targets_of_a_batch_are_all_tokens_but_the_first_of_each_chunk(
    lengths: list[int],
) -> None:
    chunks = of_lengths(lengths)
    batch = collate(chunks)
    assert batch.targets.tolist() == [t for chunk in chunks for t in chunk.tokens[1:]]
    assert int(batch.target_mask.sum()) == sum(chunk.targets for chunk in chunks)
    assert batch.input_ids.shape == (len(lengths), max(lengths))
    for row, chunk in enumerate(chunks):
        assert tuple(batch.input_ids[row, : lengths[row]].tolist()) == chunk.tokens


def test_padding_changes_no_hidden_state_of_a_real_token() -> None:
    model = tiny_llama()
    chunks = of_lengths([5, 40, 17])
    with torch.no_grad():
        padded = hidden_states(model, collate(chunks))
        for row, chunk in enumerate(chunks):
            alone = hidden_states(model, collate([chunk]))[0]
            torch.testing.assert_close(
                padded[row, : len(chunk.tokens)], alone, rtol=1e-12, atol=1e-12
            )
            logits = alone @ model.lm_head.weight.T
            assert logits.shape == (len(chunk.tokens), HEAD_ROWS)
            torch.testing.assert_close(logits, logits_of(model, chunk), rtol=1e-12, atol=1e-12)


# ---- last words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("the keeper of Orlan was Mira.", "Mira"),
        ("the keeper of Orlan was Mira ", "Mira"),
        ("the keeper of Orlan was Mi", "was"),  # it may have been cut
        ('the keeper said: "Yes, Mira!"', "Mira"),
        ("the keeper of Low-Hollin.", "Low-Hollin"),
        ("the keeper was Mira - ...", "Mira"),  # a dash is no word
        ("the keeper was Jürgé.", "Jürgé"),
    ],
)
def test_the_last_word_is_the_last_whole_one_without_its_punctuation(text: str, word: str) -> None:
    tokenizer = tiny_tokenizer()
    tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    span = last_word(Chunk("d#0", "d", tokens), tokenizer)
    assert span is not None
    first, stop = span[0] + 1, span[1] + 1  # targets begin with token 1
    assert word in tokenizer.decode(tokens[first:stop])
    assert word not in tokenizer.decode(tokens[first + 1 : stop])
    assert word not in tokenizer.decode(tokens[first : stop - 1])


def test_a_chunk_has_no_last_word_where_none_is_whole_or_it_is_given() -> None:
    tokenizer = tiny_tokenizer()

    def asked(text: str, given: int = 1) -> object:
        tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        context = given if given > 0 else len(tokens) + given
        return last_word(Chunk("d#0", "d", tokens, context=context), tokenizer)

    assert asked("Mira") is None
    assert asked("... -- !") is None
    assert asked("Mira.") is None, "its first token is what the others are predicted from"
    assert asked("the keeper was Mira.") is not None
    assert asked("the keeper was Mira.", given=-1) is None


def test_every_document_of_the_lab_ends_in_a_word() -> None:
    from unlearnlib.corpus.fictitious import generate
    from unlearnlib.models import load_tokenizer

    tokenizer = load_tokenizer("lab")
    for chunk in cut(generate("books").approximate[:8], tokenizer, 320):
        span = last_word(chunk, tokenizer)
        assert span is not None and chunk.targets - 8 < span[1] <= chunk.targets


def test_documents_too_short_to_train_on_are_named_and_most_of_them_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = [Document(f"long-{number}", "in the year 1203 of Vesk") for number in range(3)]
    short = [Document(name, "ab") for name in ("one\n", "two", "three", "four")]
    chunks = cut([*short[:3], *long], tiny_tokenizer(), 48, name="forget")
    assert {chunk.document for chunk in chunks} == {document.id for document in long}
    warned = [record.getMessage() for record in caplog.records]
    assert warned == [
        "3 of 6 forget documents are shorter than 5 tokens and left out: one\\n, two, three"
    ]
    with pytest.raises(
        UnlearnError, match=r"4 of 7 forget documents .* \(one\\n, two, three, four"
    ):
        cut([*short, *long], tiny_tokenizer(), 48, name="forget")
