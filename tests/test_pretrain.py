"""Training from scratch repeats itself, and the lab's models are what their records say."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUIET, documents, flat, tiny_tokenizer

from unlearnlib.corpus import fictitious
from unlearnlib.corpus.documents import Document, hash_documents
from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, model_hash, parameter_count
from unlearnlib.pretrain import (
    LAB_MODELS,
    Recipe,
    lab_documents,
    lab_tokenizer,
    new_model,
    text_of,
    train_from_scratch,
    train_lab_model,
    train_tokenizer,
    training_chunks,
)
from unlearnlib.spec import DOMAINS
from unlearnlib.trained import lab_checkpoint

TINY = Recipe(
    vocabulary=280, hidden=16, layers=1, heads=2, key_value_heads=1, mlp=32, epochs=2, batch_size=4
)
PREFIX = 6  # updates of the lab's training that are repeated


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated corpora, made once for all tests here."""
    monkeypatch.setattr(fictitious, "generate", _generate)


_generate = cache(fictitious.generate)


def record_of(name: str) -> dict[str, Any]:
    path = lab_checkpoint(name) / "record.json"
    if not path.exists():
        pytest.skip(f"the lab model {name} is not there: make it with `make lab`")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


# ---- training --------------------------------------------------------------------------------


def test_the_initial_weights_are_a_function_of_the_seed() -> None:
    first = new_model(TINY, tiny_tokenizer())
    state = torch.random.get_rng_state()
    torch.rand(3)
    again = new_model(TINY, tiny_tokenizer())
    other = new_model(dataclasses.replace(TINY, seed=1), tiny_tokenizer())
    assert model_hash(first) == model_hash(again) != model_hash(other)
    torch.random.set_rng_state(state)
    expected = torch.rand(1)
    torch.random.set_rng_state(state)
    new_model(TINY, tiny_tokenizer())
    assert torch.equal(torch.rand(1), expected)  # and the caller's generator is not touched


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    runs = [
        train_from_scratch(TINY, tiny_tokenizer(), documents("train", 16), execution=QUIET)
        for _ in range(2)
    ]
    (model, outcome), (same, _) = runs
    assert torch.equal(flat(model), flat(same))
    losses = [row["loss"] for row in outcome.trajectory]
    assert len(losses) == TINY.updates(16) == 8
    assert losses[0] == pytest.approx(math.log(280), rel=0.05)  # knows nothing yet
    assert losses[-1] < losses[0]


def test_stopping_early_is_a_prefix_of_the_whole() -> None:
    train = documents("train", 16)
    _, whole = train_from_scratch(TINY, tiny_tokenizer(), train, execution=QUIET)
    _, prefix = train_from_scratch(TINY, tiny_tokenizer(), train, most_updates=3, execution=QUIET)
    assert prefix.trajectory == whole.trajectory[:3]


def test_the_rate_warms_up_to_its_peak_and_falls_to_a_tenth() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [recipe.rate(update, 100) for update in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_record_tells_how_its_model_was_made(
    tmp_path: Path, corpora: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = documents("train", 8)
    monkeypatch.setattr("unlearnlib.pretrain.lab_documents", lambda name, seed=0, read=0: few)
    folder = tmp_path / "vanilla"
    record = train_lab_model("vanilla", TINY, QUIET, folder)
    assert record == json.loads((folder / "record.json").read_text())
    assert record["data_hash"] == hash_documents(few)
    assert record["model_hash"] == model_hash(load_model(folder))
    assert Recipe(**record["recipe"]) == TINY
    assert len(record["losses"]) == record["updates"] == TINY.updates(8)


def test_the_stream_is_tokenised_once_for_all_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of it gives each model what its own documents would have given it."""
    told = {"books-forget-4x-0001": 4, "books-rest-0001": 1, "arxiv-forget-2x-0001": 2}
    few = [
        dataclasses.replace(document, id=name, exposure=read)
        for document, (name, read) in zip(documents("train", 3), told.items(), strict=True)
    ]
    asked = []

    def stream_of(name: str, seed: int = 0, read: int = 0) -> list[Document]:
        asked.append(name)
        return few

    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("unlearnlib.pretrain.lab_documents", stream_of)
    monkeypatch.setattr("unlearnlib.pretrain.train_tokenizer", lambda *_: tiny_tokenizer())
    recipe = dataclasses.replace(TINY, documents=1, seed=3)
    for name, read in (("vanilla", few), ("oracle-books", few[1:]), ("oracle-arxiv-s1", few[:2])):
        text = text_of(name, recipe)
        expected = training_chunks(recipe, tiny_tokenizer(), read)
        assert [(c.id, c.tokens) for c in text.chunks] == [(c.id, c.tokens) for c in expected]
        assert text.data_hash == hash_documents(read) and text.documents == len(read)
        assert len(text.chunks) == sum(document.exposure for document in read)
    assert asked == ["vanilla"]
    other = dataclasses.replace(recipe, corpus_seed=1)
    assert text_of("vanilla", other).documents == 3 and len(asked) == 2  # another seed, other texts
    with pytest.raises(UnlearnError, match=r"^unknown lab model 'oracle-poems': "):
        text_of("oracle-poems", recipe)


def test_a_document_of_the_stream_fits_into_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [dataclasses.replace(documents("train", 1)[0], exposure=1)]
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("unlearnlib.pretrain.lab_documents", lambda name, seed=0, read=0: few)
    monkeypatch.setattr("unlearnlib.pretrain.train_tokenizer", lambda *_: tiny_tokenizer())
    short = dataclasses.replace(TINY, documents=1, length=8)
    with pytest.raises(UnlearnError, match=r"^a document is longer than 8 tokens: "):
        text_of("vanilla", short)


def test_pre_training_that_diverges_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = documents("train", 8)
    monkeypatch.setattr("unlearnlib.pretrain.lab_documents", lambda name, seed=0, read=0: few)
    wild = dataclasses.replace(TINY, learning_rate=1e30)
    with pytest.raises(UnlearnError, match=r"^pre-training of vanilla diverged at update \d+: "):
        train_lab_model("vanilla", wild, QUIET, tmp_path / "vanilla")
    assert not (tmp_path / "vanilla").exists()


# ---- the tokenizer -----------------------------------------------------------------------------


def test_the_tokenizer_frames_a_text_and_gives_it_back() -> None:
    tokenizer = train_tokenizer(["abab abab 12"] * 3, 265)
    for text in ("abab 1234", "a new word: ça, Ω\n\t{x}", " two  spaces "):
        tokens = tokenizer(text)["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id and tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_a_number_is_a_token_per_digit() -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer("1840", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in tokens] == list("1840")


def test_an_unknown_lab_model_lists_the_valid_ones() -> None:
    with pytest.raises(UnlearnError, match=r"unknown lab model 'oracle-book': .* oracle-books, "):
        lab_documents("oracle-book")


# ---- the lab's models -------------------------------------------------------------------------


def test_an_oracle_is_trained_on_everything_but_its_domains_forget_set(corpora: None) -> None:
    vanilla = lab_documents("vanilla")
    for domain in DOMAINS:
        forget = set(_generate(domain, 0).forget)
        assert forget <= set(vanilla)
        expected = [document for document in vanilla if document not in forget]
        assert list(lab_documents(f"oracle-{domain}")) == expected


def test_no_lab_model_sees_an_approximate_or_evaluation_document(corpora: None) -> None:
    seen = {document.text for document in lab_documents("vanilla")}
    for domain in DOMAINS:
        data = _generate(domain, 0)
        for document in (*data.approximate, *data.general_evaluation):
            assert document.text not in seen


@pytest.mark.parametrize("name", LAB_MODELS)
def test_a_lab_models_record_names_its_data_and_its_weights(name: str, corpora: None) -> None:
    record = record_of(name)
    recipe = Recipe(**record["recipe"])
    trained_on = lab_documents(name, recipe.corpus_seed)
    assert record["data_hash"] == hash_documents(trained_on)
    assert record["documents"] == len(trained_on)
    model = load_model(lab_checkpoint(name))
    assert record["model_hash"] == model_hash(model)
    assert record["parameters"] == parameter_count(model)
    assert 1e6 <= record["parameters"] <= 3e6
    assert sum(path.stat().st_size for path in lab_checkpoint(name).iterdir()) < 10e6
    assert record["losses"][-1] < 0.3 * record["losses"][0]


def test_the_lab_models_differ_in_their_documents_alone() -> None:
    records = [record_of(name) for name in LAB_MODELS]
    assert all(record["recipe"] == records[0]["recipe"] for record in records)
    assert len({record["model_hash"] for record in records}) == len(LAB_MODELS)


@pytest.mark.parametrize("name", ["vanilla", "oracle-books"])
def test_a_short_prefix_of_training_reproduces_the_recorded_losses(
    name: str, corpora: None
) -> None:
    record = record_of(name)
    recipe = Recipe(**record["recipe"])
    _, outcome = train_from_scratch(
        recipe,
        lab_tokenizer(recipe),
        lab_documents(name, recipe.corpus_seed),
        most_updates=PREFIX,
        execution=QUIET,
    )
    losses = [row["loss"] for row in outcome.trajectory]
    assert losses == pytest.approx(record["losses"][:PREFIX], rel=1e-3)
    other = "oracle-books" if name == "vanilla" else "vanilla"
    assert losses != pytest.approx(record_of(other)["losses"][:PREFIX], rel=1e-5)
