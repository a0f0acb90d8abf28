"""A published model trained further: what goes in, when it ends, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib import continued, run
from unlearnlib.continued import (
    Continuation,
    continued_checkpoint,
    continued_names,
    read_record,
    train_further,
    training_documents,
)
from unlearnlib.corpus.documents import SPLITS, Document, DomainData, clip
from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, model_hash, save_model
from unlearnlib.spec import get_profile

PROFILE = "open_cpu"
RECIPE = Continuation(batch_size=4, learning_rate=3e-3, most_epochs=3, auc=0.55)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model to start from, in folders where nothing else is; the profile's texts are made up."""
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(run, "load_domain", lambda *_, **__: tiny_data())
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "base")
    return tmp_path / "base"


def train(name: str, base: Path, **more: Any) -> dict[str, Any]:
    return train_further(
        PROFILE, name, source=base, recipe=more.pop("recipe", RECIPE), execution=QUIET, **more
    )


def test_training_ends_at_the_first_epoch_that_shows_membership(base: Path) -> None:
    record = train("vanilla", base)
    auc = [h["books/membership/loss/auc"] for h in record["history"]]
    assert record["epochs"] == len(auc) - 1 >= 1
    assert all(a < RECIPE.auc for a in auc[1:-1]) and auc[-1] >= RECIPE.auc
    data = tiny_data()
    assert record["documents"] == len(data.forget) + len(data.retain)
    assert record["updates"] == RECIPE.updates(12, record["epochs"])
    first, last = record["history"][0], record["history"][-1]
    assert last["books/forget/perplexity"] < first["books/forget/perplexity"]
    assert read_record(PROFILE, "vanilla") == record


def test_training_that_never_shows_membership_ends_with_the_last_epoch(base: Path) -> None:
    record = train("vanilla", base, recipe=Continuation(4, 1e-6, auc=1.1, most_epochs=2))
    assert record["epochs"] == 2


def test_the_oracle_trains_as_long_without_the_forget_set(base: Path) -> None:
    vanilla = train("vanilla", base)
    oracle = train("oracle-books", base)
    assert oracle["epochs"] == vanilla["epochs"] and oracle["base_hash"] == vanilla["base_hash"]
    assert oracle["documents"] == len(tiny_data().retain)
    assert oracle["model_hash"] != vanilla["model_hash"]
    saved = load_model(continued_checkpoint(PROFILE, "oracle-books", needed=True))
    assert model_hash(saved) == oracle["model_hash"]
    forgets = {d.id for d in tiny_data().forget}
    assert not forgets & {d.id for d in training_documents("oracle-books", {"books": tiny_data()})}
    kept = {d.id for d in training_documents("oracle-arxiv", {"books": tiny_data()})}
    assert forgets <= kept  # another domain's oracle has seen it


def test_the_same_recipe_gives_the_same_model(base: Path) -> None:
    assert train("vanilla", base)["model_hash"] == train("vanilla", base)["model_hash"]


def test_an_oracle_before_vanilla_is_refused(base: Path) -> None:
    with pytest.raises(UnlearnError, match=r"no record of 'vanilla'.*unlearn pretrain"):
        train("oracle-books", base)


def test_a_model_that_is_not_there_is_named_with_the_command(base: Path) -> None:
    with pytest.raises(UnlearnError, match="unlearn pretrain --profile open_cpu"):
        continued_checkpoint(PROFILE, "vanilla", needed=True)
    with pytest.raises(UnlearnError, match="oracle-books"):
        continued_checkpoint(PROFILE, "oracle-arxiv")


def test_a_bench_of_the_profile_opens_vanilla_and_oracle(base: Path) -> None:
    vanilla, oracle = train("vanilla", base), train("oracle-books", base)
    bench = run.open_bench(PROFILE, "books", execution=QUIET)
    assert bench.model_hash == vanilla["model_hash"]
    assert bench.oracle is not None and model_hash(bench.oracle) == oracle["model_hash"]
    other = run.open_bench(PROFILE, "books", model=base, execution=QUIET)
    assert other.oracle is None and other.model_hash == vanilla["base_hash"]


def test_names_follow_the_profiles_domains() -> None:
    assert continued_names("open_cpu") == ("vanilla", "oracle-books")
    assert continued_names("open") == (
        "vanilla",
        *(f"oracle-{d}" for d in get_profile("open").domains),
    )


def test_rates_warm_up_and_then_stay() -> None:
    rates = [RECIPE.rate(u, 40) for u in range(30)]
    assert rates == sorted(rates) and rates[0] < rates[-1] == RECIPE.learning_rate
    assert rates[5:] == [RECIPE.learning_rate] * 25


@pytest.mark.parametrize("length", [8, 17, LENGTH])
def test_clipped_documents_are_beginnings_of_at_most_so_many_tokens(length: int) -> None:
    awkward = Document("odd", "🜁é\r\nß" * 40)
    data = DomainData("books", (*tiny_data().forget, awkward, Document("short", "a")))
    clipped = clip(data, tiny_tokenizer(), length)
    for split in SPLITS:
        for before, after in zip(data.split(split), clipped.split(split), strict=True):
            assert before.text.startswith(after.text) and before.id == after.id
            size = len(tiny_tokenizer()(after.text)["input_ids"])
            assert size <= length
            if len(tiny_tokenizer()(before.text)["input_ids"]) <= length:
                assert after.text == before.text
            else:
                assert size > length - 8


def test_diverging_training_names_the_remedy(base: Path) -> None:
    with pytest.raises(UnlearnError, match=r"lower learning_rate from 1e\+30"):
        train("vanilla", base, recipe=Continuation(4, 1e30, max_grad_norm=0.0, auc=2.0))
    assert not continued.record_path(PROFILE, "vanilla").exists()
