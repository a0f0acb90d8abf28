"""Scores of one padded, packed forward pass against full logits of one chunk at a time."""

from __future__ import annotations

import copy
import dataclasses
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LENGTH, QUIET, documents, logits_of, tiny_llama, tiny_tokenizer

import unlearnlib
from unlearnlib import objectives
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import Document, Fact
from unlearnlib.corpus.texts import as_documents
from unlearnlib.engine import Execution, Part, Training, optimise
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import Descent
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.metrics.utility import cloze
from unlearnlib.scoring import Reference, _moments, cloze_chunks, score_chunks


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def oracle() -> Any:
    return tiny_llama(seed=1)


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return cut(documents("scored", 7), tiny_tokenizer(), LENGTH)


def naive(model: Any, chunk: Chunk, oracle: Any = None) -> dict[str, np.ndarray]:
    """The five values of every target of one chunk, from full logits."""
    with torch.no_grad():
        logp = logits_of(model, chunk)[:-1].log_softmax(-1)
        truth = torch.tensor(chunk.tokens[1:])
        p = logp.exp()
        mean = (p * logp).sum(-1)
        values = {
            "tokens": truth,
            "logprob": logp[torch.arange(len(truth)), truth],
            "top1": logp.argmax(-1) == truth,
            "mean": mean,
            "variance": (p * logp.square()).sum(-1) - mean.square(),
        }
        if oracle is not None:
            q = logits_of(oracle, chunk)[:-1].softmax(-1)
            values["kl"] = (q * (q.log() - logp)).sum(-1)
    return {name: value.numpy() for name, value in values.items()}


def assert_equal(one: TokenScores, other: TokenScores) -> None:
    for field in dataclasses.fields(TokenScores):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray) and mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
        else:
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("floats", [1, 1 << 11, 1 << 24])
def test_scores_are_those_of_full_logits_one_chunk_at_a_time(
    floats: int,
    model: Any,
    oracle: Any,
    chunks: list[Chunk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", floats)
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 1)
    scores = score_chunks(model, chunks, reference=Reference(oracle, chunks))
    assert scores.ids == tuple(chunk.id for chunk in chunks)
    assert len({len(chunk.tokens) for chunk in chunks}) > 1
    for index, chunk in enumerate(chunks):
        for name, expected in naive(model, chunk, oracle).items():
            mine = getattr(scores, name)[scores.chunk(index)]
            np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert scores.top1.any() or scores.logprob.max() < np.log(0.5)


def test_scores_without_a_reference_carry_no_divergence(model: Any, chunks: list[Chunk]) -> None:
    assert score_chunks(model, chunks).kl is None


def test_a_model_has_no_distance_to_itself(model: Any, chunks: list[Chunk]) -> None:
    kl = score_chunks(model, chunks, reference=Reference(model, chunks)).kl
    assert kl is not None and np.abs(kl).max() < 1e-12


def test_a_reference_stays_when_its_model_moves_on(chunks: list[Chunk]) -> None:
    moving = tiny_llama(seed=1)
    reference = Reference(moving, chunks)
    before = score_chunks(tiny_llama(), chunks, reference=reference)
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.mul_(3.0)
    assert_equal(before, score_chunks(tiny_llama(), chunks, reference=reference))


def test_a_reference_tells_chunks_of_one_name_apart(model: Any, oracle: Any) -> None:
    # Two files whose rows are both numbered from 1 give chunks of the same names.
    one, other = (cut(documents(name, 2), tiny_tokenizer(), LENGTH) for name in ("a", "b"))
    twins = [
        dataclasses.replace(chunk, id=twin.id, document=twin.document)
        for chunk, twin in zip(other, one, strict=False)
    ]
    reference = Reference(oracle, [*one, *twins])
    for chunks in (one, twins):
        kl = score_chunks(model, chunks, reference=reference).kl
        expected = np.concatenate([naive(model, chunk, oracle)["kl"] for chunk in chunks])
        np.testing.assert_allclose(kl, expected, rtol=1e-5, atol=1e-6)


def test_the_micro_batch_does_not_change_scores(
    model: Any, oracle: Any, chunks: list[Chunk]
) -> None:
    reference = Reference(oracle, chunks)
    whole = score_chunks(model, chunks, reference=reference)
    for execution in (
        Execution(micro_chunks=1, progress=False),
        Execution(micro_chunks=3, progress=False),
        Execution(micro_tokens=2 * LENGTH, progress=False),
    ):
        other = Reference(oracle, chunks, execution)
        assert_equal(score_chunks(model, chunks, reference=other, execution=execution), whole)


def test_the_order_of_chunks_only_orders_the_scores(model: Any, chunks: list[Chunk]) -> None:
    backwards = score_chunks(model, chunks[::-1])
    assert_equal(backwards.select(range(len(chunks))[::-1]), score_chunks(model, chunks))


def test_context_tokens_are_seen_and_not_scored(model: Any, chunks: list[Chunk]) -> None:
    given = [dataclasses.replace(chunk, context=6) for chunk in chunks]
    scores, whole = score_chunks(model, given), score_chunks(model, chunks)
    for index in range(len(chunks)):
        np.testing.assert_allclose(
            scores.logprob[scores.chunk(index)], whole.logprob[whole.chunk(index)][5:], rtol=1e-6
        )
        assert np.array_equal(
            scores.tokens[scores.chunk(index)], whole.tokens[whole.chunk(index)][5:]
        )


def test_scoring_leaves_the_model_as_it_was(chunks: list[Chunk]) -> None:
    model = tiny_llama()
    reference = copy.deepcopy(model.state_dict())
    for training in (True, False):
        model.train(training)
        score_chunks(model, chunks)
        assert model.training is training
    assert all(torch.equal(tensor, reference[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Table(dict[str, list[str]]):
    """As a data frame: Python goes through the names of its columns."""

    columns = ("text",)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("one text, not a list of letters", "text is one str"),
        ({"a": "text"}, "text is one dict"),
        (Table(text=["a text"]), "text is one Table"),
        (None, "text is None"),
        (3, "text is one int"),
        (["a text", 4], "number 2 of text is int"),
        ([b"bytes"], "number 1 of text is bytes"),
        ([Document("a", "x"), Document("a", "y")], "the id 'a' occurs twice in text"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts: Any, said: str) -> None:
    with pytest.raises(UnlearnError, match=said):
        as_documents(texts, "text")


def test_texts_may_come_from_a_generator_or_an_array() -> None:
    expected = as_documents(["a text", "another"], "text")
    assert as_documents(iter(["a text", "another"]), "text") == expected
    assert as_documents(np.array(["a text", "another"]), "text") == expected


def test_score_wants_a_model_and_chunks_that_it_can_read(model: Any) -> None:
    for given, said in (((model, "lab"), "tokenizer is 'lab'"), (("lab", None), "model is 'lab'")):
        with pytest.raises(UnlearnError, match=said):
            unlearnlib.score(*given, ["a text"])
    with pytest.raises(UnlearnError, match="the model reads at most 128: give length=128"):
        unlearnlib.score(model, tiny_tokenizer(), ["one two three " * 99], length=512)
    small = tiny_llama()
    small.resize_token_embeddings(20)
    with pytest.raises(UnlearnError, match="the model knows 20 tokens: give the model's own"):
        unlearnlib.score(small, tiny_tokenizer(), ["a short text of few words"])
    assert len(unlearnlib.score(model, tiny_tokenizer(), ["a short text of few words"])) == 1


def test_score_takes_texts_and_documents_alike(model: Any) -> None:
    texts = [document.text for document in documents("scored", 3)]
    scores = unlearnlib.score(model, tiny_tokenizer(), texts)
    assert scores.ids == ("text-0001#0", "text-0002#0", "text-0003#0")
    again = unlearnlib.score(model, tiny_tokenizer(), as_documents(texts, "text"), execution=QUIET)
    assert_equal(scores, again)
    assert scores.zlib_bytes.tolist() == [len(zlib.compress(text.encode())) for text in texts]


def test_min_k_plus_plus_moments_survive_probabilities_that_underflow() -> None:
    model = tiny_llama(dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(500.0)
    (chunk, *_) = cut(documents("scored", 1), tiny_tokenizer(), LENGTH)
    scores = score_chunks(model, [chunk])
    for values in (scores.mean, scores.variance, scores.logprob):
        assert np.isfinite(values).all()
    assert (scores.variance >= 0).all() and (scores.mean <= 0).all()


# ---- cloze questions ------------------------------------------------------------------------

STORY = Document(
    "story",
    "Snow fell. In 1840 the keeper of Vesk was Tobin. The lamp weighed 37 stones.",
    (
        Fact("In 1840 the keeper of Vesk was ", "Tobin", ("Mira", "Lune", "Corvel")),
        Fact("The lamp weighed ", "37", ("38", "51", "4")),
    ),
)


def test_a_question_is_the_text_up_to_the_fact_and_an_option() -> None:
    tokenizer = tiny_tokenizer()
    chunks, _ = cloze_chunks([STORY], tokenizer)
    assert len(chunks) == 8
    texts = [tokenizer.decode(chunk.tokens, skip_special_tokens=True) for chunk in chunks]
    options = [o for fact in STORY.facts for o in (fact.answer, *fact.distractors)]
    for text, option, fact in zip(
        texts, options, [f for f in STORY.facts for _ in range(4)], strict=True
    ):
        before = STORY.text[: STORY.text.index(fact.prompt)]
        assert text == before + fact.prompt + option
    assert [chunk.id for chunk in chunks[:2]] == ["story?0.0", "story?0.1"]


def test_answers_begin_where_the_options_part() -> None:
    tokenizer = tiny_tokenizer()
    for documents_ in ([STORY], documents("scored", 6)):
        chunks, starts = cloze_chunks(documents_, tokenizer)
        facts = [(fact, option) for d in documents_ for fact in d.facts for option in range(4)]
        for chunk, start, (fact, option) in zip(chunks, starts, facts, strict=True):
            answer = (fact.answer, *fact.distractors)[option]
            target = chunk.context + start
            asked = tokenizer.decode(chunk.tokens[target:], skip_special_tokens=True)
            given = tokenizer.decode(chunk.tokens[:target], skip_special_tokens=True)
            # What is predicted ends in the answer's end; what is given tells none of it that
            # the other options do not share.
            assert asked and answer.endswith(asked.strip())
            shared = given[given.rindex(fact.prompt.rstrip()) + len(fact.prompt.rstrip()) :]
            every = (fact.answer, *fact.distractors)
            assert all(o.startswith(shared.strip()) for o in every)
            assert tokenizer.eos_token_id not in chunk.tokens


def test_a_document_without_facts_asks_nothing(model: Any) -> None:
    chunks, starts = cloze_chunks([Document("a", "nothing to ask here")], tiny_tokenizer())
    assert chunks == [] and len(starts) == 0
    assert len(score_chunks(model, chunks)) == 0


def test_a_model_that_has_memorised_the_answers_answers_exactly() -> None:
    tokenizer = tiny_tokenizer()
    learned = documents("learned", 4)
    model = tiny_llama(dtype=torch.float32, hidden=32)
    questions, starts = cloze_chunks(learned, tokenizer)
    before = cloze(score_chunks(model, questions), starts, 4)
    optimise(
        model,
        [Part("loss", cut(learned, tokenizer, 100), Descent())],
        Training(updates=60, batch_size=4, rate=lambda _: 1e-2),
        execution=QUIET,
    )
    after = cloze(score_chunks(model, questions), starts, 4)
    assert before["exact"] == 0.0
    assert after["exact"] == 1.0
    assert after["choice_accuracy"] == 1.0
    assert after["answer_logprob"] > before["answer_logprob"]


def test_moments_of_awkward_logits_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 20 * torch.randn(6, 50, generator=generator)
    logits[0, 7] = -math.inf  # a token that cannot be
    logits[1] = 0.0  # all tie: the first one is the prediction
    logits[2, 4], logits[2, 9] = 80.0, 80.0
    logits[3] = torch.linspace(-400, 0, 50)  # most probabilities underflow
    old = logits + torch.randn(6, 50, generator=generator)
    old[5, 3] = logits[5, 3] = -math.inf
    targets = torch.tensor([3, 0, 9, 49, 11, 12])
    wide, other = logits.double(), old.double()
    logp, logq = wide.log_softmax(-1), other.log_softmax(-1)
    p, q = logp.exp(), logq.exp()
    safe = torch.where(p > 0, logp, 0.0)
    mean = (p * safe).sum(-1)
    expected = torch.stack(
        [
            logp.gather(1, targets[:, None]).squeeze(1),
            torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0]).double(),
            mean,
            (p * (safe - mean[:, None]).square()).sum(-1),
            torch.where(q > 0, q * (logq - logp), 0.0).sum(-1),
        ]
    )
    expected[1, [0, 4, 5]] = (logp.argmax(-1) == targets).double()[[0, 4, 5]]
    found = _moments(logits.clone(), targets, old.clone()).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    broken = logits.clone()
    broken[4, 5] = math.nan
    values = _moments(broken, targets, None)
    assert values[0, 4].isnan() and values[2, 4].isnan() and values[3, 4].isnan()
    assert not values[:, [0, 1, 2, 3, 5]].isnan().any()
