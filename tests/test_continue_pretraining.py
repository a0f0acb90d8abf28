"""A published model trained further: what goes in, when it ends, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib import run, study
from unlearnlib.bench import Models, open_bench
from unlearnlib.cli.main import main
from unlearnlib.comparison import REMADE, Comparison
from unlearnlib.continue_pretraining import Continuation, train_further, training_documents
from unlearnlib.corpus.documents import SPLITS, Document, DomainData, clip
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.models import load_model, model_hash, save_model
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.spec import RunSpec, get_profile
from unlearnlib.store import Record, Store, run_key
from unlearnlib.text import weights_in_words
from unlearnlib.trained import (
    TRAINING,
    continued_checkpoint,
    continued_names,
    made_here,
    read_record,
    record_path,
)
from unlearnlib.verification import verify_records, why_not_remade

PROFILE = "open_cpu"
RECIPE = Continuation(batch_size=4, learning_rate=3e-3, most_epochs=3, auc=0.55)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model to start from, in folders where nothing else is; the profile's texts are made up."""
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    for user in ("bench", "continue_pretraining"):  # what opens a run, and what trains further
        monkeypatch.setattr(f"unlearnlib.{user}.load_domain", lambda *_, **__: tiny_data())
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


def test_a_record_says_which_weights_training_started_from(base: Path) -> None:
    made = train("vanilla", base)
    assert made["base"] == made["base_weights"]["name"] == base.name
    assert made["base_weights"]["format"] == "safetensors, float32"
    assert made["base_weights"]["hash"] == made["base_hash"]
    bench = open_bench(
        PROFILE, "books", models=Models(oracle=base, precision="float32"), execution=QUIET
    )
    said = weights_in_words(bench.weights)
    assert said == (
        f"{PROFILE}-vanilla, safetensors, float32; trained further from {base.name}, "
        "safetensors, float32"
    )
    assert bench.weights["hash"] == made["model_hash"]


def test_the_published_records_name_the_wheels_weights_and_not_the_hubs_model() -> None:
    """Of 4 bits and trained to follow instructions: another model than the profile's default."""
    for path in sorted((data_folder() / "continued").glob("*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        assert made["base"] == made["base_weights"]["name"] == "SmolLM2-135M-Instruct.Q4_1"
        assert made["base"] != get_profile(made["profile"]).model.rsplit("/", 1)[1]
        assert "Q4_1" in made["base_weights"]["format"]
        assert made["base_weights"]["hash"] == made["base_hash"]


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


def test_weights_without_the_record_of_their_training_count_as_missing(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a full disk leaves them: the oracle must not take the published vanilla's epochs."""
    vanilla = train("vanilla", base)
    command = ["pretrain", "--profile", PROFILE, "--model", str(base), "--only", "vanilla"]
    command += ["--missing", "--quiet", "--json"]
    assert main(command) == 0 and json.loads(capsys.readouterr().out)["models"] == []
    (continued_checkpoint(PROFILE, "vanilla") / TRAINING).unlink()
    assert read_record(PROFILE, "vanilla") == vanilla
    assert main(command) == 0
    (made,) = json.loads(capsys.readouterr().out)["models"]
    assert made_here(PROFILE, "vanilla")["model_hash"] == made["model_hash"]


def test_a_model_that_is_not_there_is_named_with_the_command(base: Path) -> None:
    with pytest.raises(UnlearnError, match="unlearn pretrain --profile open_cpu"):
        continued_checkpoint(PROFILE, "vanilla", needed=True)
    with pytest.raises(UnlearnError, match="oracle-books"):
        continued_checkpoint(PROFILE, "oracle-arxiv")


def test_a_bench_of_the_profile_opens_vanilla_and_oracle(base: Path) -> None:
    vanilla, oracle = train("vanilla", base), train("oracle-books", base)
    bench = open_bench(PROFILE, "books", execution=QUIET)
    assert bench.model_hash == vanilla["model_hash"]
    assert bench.oracle is not None and model_hash(bench.oracle) == oracle["model_hash"]
    other = open_bench(PROFILE, "books", models=Models(base), execution=QUIET)
    assert other.oracle is None and other.model_hash == vanilla["base_hash"]


def forged(published: dict[str, Any], record: Record) -> None:
    """As if the published training and record were of a machine that rounds otherwise."""
    path = record_path(PROFILE, "vanilla")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(published | {"model_hash": record.model_hash}))


def test_a_vanilla_of_another_machine_is_verified_against_one_made_here(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vanilla = train("vanilla", base, publish=False)
    assert not record_path(PROFILE, "vanilla").exists()
    assert made_here(PROFILE, "vanilla") == vanilla
    train("oracle-books", base, publish=False)
    bench = open_bench(PROFILE, "books", execution=QUIET)
    spec = RunSpec(PROFILE, "books", "ga", 1e-3, 1, 4)
    ours = run.execute(bench, spec)[1]
    other_hash = "0" * 64
    key = run_key(spec.as_dict(), dataclasses.replace(ours.basis, model_hash=other_hash))
    metrics = ours.metrics | {"forget/nll": ours.metrics["forget/nll"] * 1.01}
    theirs = dataclasses.replace(ours, key=key, model_hash=other_hash, metrics=metrics)
    forged(vanilla, theirs)

    def verified(record: Record, remade: bool = True) -> Comparison:
        tolerance = REMADE if remade else None
        return verify_records([record], lambda _: bench, progress=False, remade=tolerance)[0]

    assert "another model" in verified(theirs, remade=False).reason
    said = verified(theirs)
    assert said.agrees and said.base == bench.model_hash
    assert {d.name for d in said.differences} == set(ours.metrics)
    store = Store(tmp_path / "theirs")
    store.put(theirs)
    command = ["verify", "--profile", PROFILE, "--store", str(store.root), "--quiet"]
    assert main([*command, "--remade"]) == 0
    shown = capsys.readouterr().out
    assert "agree (remade)" in shown and "within 0.025 + 0.01 x" in shown
    assert "THE BASE DIFFERS in 1 of them" in shown
    assert other_hash[:12] in shown and bench.model_hash[:12] in shown
    assert main(command) == 1
    assert "another model" in (shown := capsys.readouterr().out) and "--remade" in shown
    far = dataclasses.replace(theirs, metrics=metrics | {"forget/nll": 2 * metrics["forget/nll"]})
    assert not verified(far).agrees
    # In bfloat16 the bench has another hash than what was trained, and is known all the same.
    rough = open_bench(PROFILE, "books", models=Models(precision="bfloat16"), execution=QUIET)
    rough_spec = theirs.spec | {"precision": "bfloat16"}
    rough_key = run_key(rough_spec, theirs.basis)
    half = dataclasses.replace(theirs, spec=rough_spec, key=rough_key)
    misfiled = dataclasses.replace(theirs, spec=rough_spec)
    assert "key does not follow" in why_not_remade(misfiled, rough)
    assert rough.model_hash != bench.model_hash and why_not_remade(half, rough) == ""
    # Its own records are still held to the strict tolerance.
    assert verified(ours).agrees and not verified(ours).base
    assert not verified(dataclasses.replace(ours, metrics=metrics)).agrees
    # And a training by another recipe is no repetition.
    forged(vanilla | {"recipe": vanilla["recipe"] | {"seed": 7}}, theirs)
    assert "another recipe" in verified(theirs).reason
    (continued_checkpoint(PROFILE, "vanilla") / TRAINING).unlink()
    assert "no record of training" in verified(theirs).reason


def test_the_published_model_is_a_base_of_its_own_without_an_oracle(base: Path) -> None:
    vanilla = train("vanilla", base)
    bench = open_bench(PROFILE, "books", models=Models(base, base="published"), execution=QUIET)
    assert bench.oracle is None and bench.model_hash == vanilla["base_hash"]
    with pytest.raises(UnlearnError, match=r"base is 'published'.*profile 'lab'"):
        open_bench("lab", "books", models=Models(base="published"))


def test_the_study_of_the_published_model_never_mixes_with_that_of_vanilla(
    base: Path, tmp_path: Path
) -> None:
    train("vanilla", base)
    chosen = {m: {"learning_rate": 1e-3} for m in PAPER_METHODS}
    study.write_settings(PROFILE, "books", chosen)
    store = Store(tmp_path / "store")
    benches = {
        name: open_bench(PROFILE, "books", models=Models(base, base=name), execution=QUIET)
        for name in ("published", "vanilla")
    }
    found = {}
    for name in ("published", "main"):
        found[name] = study.run_study(
            name, PROFILE, ("books",), portion=study.Portion(methods=["ga"]), store=store,
            benches=lambda p, d, b: benches[b], progress=False,
        )  # fmt: skip
        study.publish(name, PROFILE, found[name])
    for name, base_of in (("published", "published"), ("main", "vanilla")):
        read = study.at_hand(name, PROFILE, ("books",), store)
        assert read.records == found[name].records and len(read.records) == 1
        assert read.records[0].spec.get("base", "vanilla") == base_of
        assert [b.spec.get("base", "vanilla") for b in read.baselines] == [base_of]


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
    assert not record_path(PROFILE, "vanilla").exists()
