"""Prompts: what is given before a text is context; losses and scores are of the text alone."""

from __future__ import annotations

import copy
import zlib
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    LENGTH,
    QUIET,
    TABLE,
    documents,
    flat,
    logits_of,
    naive_unlearn,
    tiny_bench,
    tiny_llama,
    tiny_tokenizer,
)

import unlearnlib
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import Document, DomainData, Fact, hash_documents, overlaps
from unlearnlib.engine import Execution, Labelling, keep_original
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS
from unlearnlib.metrics.membership import attack_scores
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.run import execute
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prompted(prefix: str, count: int) -> tuple[Document, ...]:
    """Documents with questions of unequal lengths before them, some longer than a chunk."""
    made = []
    for number, document in enumerate(documents(prefix, count)):
        prompt = " ".join(["Who was it?", *["And where, and when?"] * (number * 3 % 8)])
        made.append(Document(document.id, document.text, prompt=prompt))
    return tuple(made)


def data() -> DomainData:
    splits = ("forget", "retain", "approximate", "general-retain", "general-evaluation")
    return DomainData("books", *(prompted(split, 5) for split in splits))


def chatty(template: str = TEMPLATE) -> Any:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


# ---- cutting --------------------------------------------------------------------------------


def test_a_short_answer_is_one_chunk_and_all_of_it_is_predicted() -> None:
    tokenizer = tiny_tokenizer()
    (chunk,) = cut([Document("a", "Mira.", prompt="Who kept Vesk?")], tokenizer, 64)
    assert list(chunk.tokens) == tokenizer("Who kept Vesk? Mira.")["input_ids"]
    given = tokenizer.decode(list(chunk.tokens[: chunk.context]), skip_special_tokens=True)
    answer = tokenizer.decode(list(chunk.tokens[chunk.context :]), skip_special_tokens=True)
    assert (given, answer) == ("Who kept Vesk?", " Mira.")
    assert chunk.zlib_bytes == len(zlib.compress(b"Mira."))


@pytest.mark.parametrize("prompt", ["Who?\n", "Who? "])
def test_white_space_between_prompt_and_answer_is_left_as_it_is(prompt: str) -> None:
    (chunk,) = cut([Document("a", "Mira.", prompt=prompt)], tiny_tokenizer(), 64)
    assert list(chunk.tokens) == tiny_tokenizer()(prompt + "Mira.")["input_ids"]


def test_one_word_is_an_answer_though_it_would_be_no_document() -> None:
    tokenizer = tiny_tokenizer()
    (chunk,) = cut([Document("a", "a", prompt="b")], tokenizer, 64)
    assert chunk.targets >= 1
    with pytest.raises(UnlearnError, match="shorter than 5 tokens"):
        cut([Document("a", "a")], tokenizer, 64)


def test_a_prompt_that_has_to_be_cut_is_told(caplog: pytest.LogCaptureFixture) -> None:
    texts = [Document("a", "Mira.", prompt="Who?"), Document("b", "Mira.", prompt="Who? " * 40)]
    cut(texts, tiny_tokenizer(), 32, name="forget")
    (record,) = caplog.records
    assert record.getMessage().startswith("the prompts of 1 of 2 forget documents leave too little")
    assert record.getMessage().endswith(": b")


@pytest.mark.parametrize("length", [8, 13, 40])
def test_a_long_answer_goes_on_without_its_prompt_and_none_of_it_is_lost(length: int) -> None:
    tokenizer = tiny_tokenizer()
    for document in prompted("long", 8):
        chunks = cut([document], tokenizer, length)
        whole = tokenizer(f"{document.prompt} {document.text}")["input_ids"]
        answer = whole[len(tokenizer(document.prompt)["input_ids"]) - 1 :]  # it ends in </s>
        first, *later = chunks
        assert all(len(chunk.tokens) <= length for chunk in chunks)
        assert all(chunk.context == 1 for chunk in later)
        kept = [*first.tokens[first.context :], *(t for chunk in later for t in chunk.tokens)]
        assert kept == answer[: len(kept)]
        assert len(answer) - len(kept) == chunks[-1].left_out < 5
        # The prompt is cut at its beginning, behind <bos>, to make room.
        assert first.targets >= min(len(answer), length // 2)
        assert first.tokens[0] == whole[0]
        given = list(first.tokens[1 : first.context])
        assert given == whole[: len(whole) - len(answer)][len(whole) - len(answer) - len(given) :]


def test_a_text_that_begins_with_bos_gets_no_second_one() -> None:
    tokenizer = tiny_tokenizer()
    bos = tokenizer.bos_token
    text = documents("bos", 1)[0].text
    for prompt in ("", "Who? "):
        plain, own = (
            cut([Document("a", t, prompt=p)], tokenizer, 64)[0]
            for t, p in ((text, prompt), (text, bos + prompt) if prompt else (bos + text, ""))
        )
        assert own.tokens == plain.tokens and own.context == plain.context


def test_every_chunk_may_begin_with_bos() -> None:
    tokenizer = tiny_tokenizer()
    texts = [*documents("bos", 3), *prompted("asked", 3)]
    plain, framed = cut(texts, tokenizer, 10), cut(texts, tokenizer, 10, bos_every_chunk=True)
    assert any(chunk.tokens[0] != tokenizer.bos_token_id for chunk in plain)
    assert all(chunk.tokens[0] == tokenizer.bos_token_id for chunk in framed)
    assert all(5 <= len(chunk.tokens) <= 10 for chunk in framed)

    def inside(chunks: list[Chunk], name: str) -> list[int]:
        """All tokens of a document but the <bos> that were added, and the end that is left out."""
        mine = [c for c in chunks if c.document == name]
        return [
            t
            for n, c in enumerate(mine)
            for t in list(c.tokens)[1 if n and c.tokens[0] == tokenizer.bos_token_id else 0 :]
        ]

    for document in texts[:3]:
        one, other = inside(plain, document.id), inside(framed, document.id)
        short = min(len(one), len(other))
        assert one[:short] == other[:short] and abs(len(one) - len(other)) < 5
    nameless = copy.deepcopy(tokenizer)
    nameless.bos_token = None
    with pytest.raises(UnlearnError, match="has no <bos>"):
        cut(texts, nameless, 10, bos_every_chunk=True)


# ---- scores and runs ------------------------------------------------------------------------


def test_scores_are_those_of_the_answers_by_hand() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    chunks = cut(prompted("scored", 6), tokenizer, LENGTH)
    assert any(chunk.context > 1 for chunk in chunks)
    for execution in (QUIET, Execution(micro_tokens=1, progress=False)):
        scores = score_chunks(model, chunks, execution=execution)
        for number, chunk in enumerate(chunks):
            logp = logits_of(model, chunk).log_softmax(-1)
            places = range(chunk.context, len(chunk.tokens))
            byhand = [float(logp[t - 1, chunk.tokens[t]].detach()) for t in places]
            np.testing.assert_allclose(scores.logprob[scores.chunk(number)], byhand, rtol=1e-5)
            assert list(scores.tokens[scores.chunk(number)]) == list(chunk.tokens[chunk.context :])
    loss = attack_scores(scores)["loss"]
    assert loss == pytest.approx(scores.chunk_means(scores.logprob))


def test_another_prompt_of_a_text_gives_other_scores_and_the_same_number_of_them() -> None:
    texts = [Document("a", "Mira.", prompt="Who kept Vesk?"), Document("b", "Mira.", prompt="Who?")]
    scores = unlearnlib.score(tiny_llama(), tiny_tokenizer(), texts, length=64)
    one, other = (scores.logprob[scores.chunk(i)] for i in (0, 1))
    assert len(one) == len(other) and not np.allclose(one, other)


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_a_run_on_prompts_is_the_naive_loop_over_answers(method: str) -> None:
    bench = tiny_bench(data=data())
    spec = RunSpec(
        method=method, updates=2, batch_size=3, learning_rate=1e-3, seed=5, precision="float64"
    )
    forget, retain, split = TABLE[method]
    assert any(chunk.context > 1 for chunk in bench.chunks("forget"))
    labels = keep_original(
        bench.model,
        bench.chunks("forget"),
        METHODS[method].forget,
        Labelling(bench.special, bench.vocabulary, seed=5),
        execution=QUIET,
    )
    expected = naive_unlearn(
        bench.model,
        bench.chunks("forget"),
        bench.chunks(split) if split else [],
        (forget, retain),
        updates=2,
        batch_size=3,
        learning_rate=1e-3,
        seed=5,
        random_labels={
            chunk.id: made
            for chunk, made in zip(bench.chunks("forget"), labels, strict=True)
            if made is not None
        },
    )
    ways = ({}, {"micro_tokens": 1}, {"packed": True}, {"recompute": True})
    for how in ways if method in ("ga_kl_in_dist", "adversarial") else ways[:1]:
        bench.execution = Execution(progress=False, **how)
        model, _ = execute(bench, spec)
        assert not torch.allclose(flat(model), flat(bench.model), rtol=0, atol=1e-4)
        torch.testing.assert_close(flat(model), flat(expected), rtol=1e-9, atol=1e-9)


OLD_HASH = "26d626257bdcf8ab7a6a93745dc45f613d0aba91c5259780816844b65280cc41"  # before prompts


# ---- identity -------------------------------------------------------------------------------


def test_documents_without_a_prompt_have_the_hash_that_they_always_had() -> None:
    plain = (Document("a", "Text one"), Document("b", "Grüße", (Fact("p", "a", ("x", "y", "z")),)))
    assert hash_documents(plain) == OLD_HASH
    assert Document("a", "Text one") == Document("a", "Text one", prompt="")


def test_a_prompt_is_part_of_the_hash_whole_and_in_its_place() -> None:
    turn = ("user", "q")
    given: list[Any] = ["", "q", "qa", (turn,), (turn, ("user", "")), (("q", ""),)]
    made = [Document("i", "a", prompt=prompt) for prompt in given]
    made += [Document("i", "aq"), Document("i", "", prompt="aq")]
    assert len({hash_documents([document]) for document in made}) == len(made)


def test_an_answer_to_another_question_is_no_overlap() -> None:
    forget = (Document("a", "Yes.", prompt="Was it Mira?"),)
    assert not overlaps(DomainData("yours", forget, (Document("b", "Yes.", prompt="Is it?"),)))
    again = (Document("b", " Yes.", prompt="Was it Mira?"),)
    assert overlaps(DomainData("yours", forget, again)) == {"retain": ("a",)}


def test_turns_are_taken_as_people_write_them() -> None:
    pairs = (("user", "Who?"), ("assistant", "Mira."))
    spelt: list[Any] = [{"role": role, "content": said} for role, said in pairs]
    assert Document("a", "b", prompt=spelt) == Document("a", "b", prompt=pairs)
    for wrong in (None, 3, [1], [("user",)], [{"role": "user"}], [("user", 3)]):
        with pytest.raises(UnlearnError, match="neither a string nor a list of turns"):
            Document("a", "b", prompt=wrong)  # type: ignore[arg-type]


def test_half_a_surrogate_pair_from_python_is_one_sentence() -> None:
    for bad in ("a \ud800", Document("a", "b", prompt="\udfff")):
        with pytest.raises(UnlearnError, match=r"^number 2 of text is not valid Unicode"):
            unlearnlib.score(tiny_llama(), tiny_tokenizer(), ["fine", bad])


def test_the_chat_template_is_part_of_a_key_where_there_are_prompts() -> None:
    def key(data: DomainData, template: str) -> str:
        return tiny_bench(data=data, tokenizer=chatty(template)).basis.tokenizer_hash

    plain = DomainData("books", documents("forget", 3))
    asked = DomainData("books", prompted("forget", 3))
    assert key(plain, TEMPLATE) == key(plain, "another")
    assert key(asked, TEMPLATE) != key(asked, "another")


# ---- conversations --------------------------------------------------------------------------

TURNS = (("system", "Be brief."), ("user", "Who kept Vesk?"))


def test_a_conversation_is_spelt_by_the_chat_template_and_the_answer_predicted() -> None:
    tokenizer = chatty()
    (chunk,) = cut([Document("a", "Mira.", prompt=TURNS)], tokenizer, 90)
    before = "<system>Be brief.</s><user>Who kept Vesk?</s><assistant>"
    whole = tokenizer(before + "Mira.</s>", add_special_tokens=False)["input_ids"]
    assert list(chunk.tokens) == whole
    assert chunk.context == len(tokenizer(before, add_special_tokens=False)["input_ids"])


def test_a_tokenizer_without_a_template_is_told_apart() -> None:
    with pytest.raises(UnlearnError, match=r"^the documents document 'a' .* has no chat template"):
        cut([Document("a", "Mira.", prompt=TURNS)], tiny_tokenizer(), 90)


def test_a_template_that_refuses_is_one_sentence() -> None:
    strict = chatty("{{ raise_exception('no system turn, please') }}")
    with pytest.raises(UnlearnError, match=r"refuses .*'a' \(no system turn, please\)"):
        cut([Document("a", "Mira.", prompt=TURNS)], strict, 90)


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    odd = chatty("{{ messages | length }}" + TEMPLATE)
    with pytest.raises(UnlearnError, match="in another way"):
        cut([Document("a", "Mira.", prompt=TURNS)], odd, 90)


def test_the_date_in_a_template_is_not_todays() -> None:
    dated = chatty("{{ strftime_now('%d %b %Y') }}{{ date_string }}" + TEMPLATE)
    (chunk,) = cut([Document("a", "Mira.", prompt=TURNS)], dated, 120)
    text = dated.decode(list(chunk.tokens))
    assert text.startswith("26 Jul 202426 Jul 2024")
    assert str(datetime.now().year) not in text
