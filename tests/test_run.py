"""A run: a spec, a model and data in; the unlearned model and its record out."""

from __future__ import annotations

import copy
import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    LENGTH,
    QUIET,
    documents,
    flat,
    logits_of,
    tiny_bench,
    tiny_data,
    tiny_llama,
    tiny_tokenizer,
)

import unlearnlib
from unlearnlib.bench import Models, evaluate, key_of, open_bench
from unlearnlib.corpus.documents import Document
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.distance import mean_kl
from unlearnlib.metrics.perplexity import perplexity
from unlearnlib.models import model_hash, save_model
from unlearnlib.profiles import load_domain
from unlearnlib.run import execute
from unlearnlib.scoring import Reference, score_chunks
from unlearnlib.spec import RunSpec, command_of
from unlearnlib.store import Record


def spec_of(**changes: Any) -> RunSpec:
    """Two small updates."""
    settings = {"method": "ga", "updates": 2, "batch_size": 4, "learning_rate": 1e-3}
    return RunSpec(**(settings | changes))


def bench_of(**changes: Any) -> Any:
    return tiny_bench(dtype=torch.float32, **changes)


def texts(name: str, count: int = 4) -> list[str]:
    return [document.text for document in documents(name, count)]


# ---- a run is a pure function of its spec ----------------------------------------------------


@pytest.mark.parametrize("method", ["random_label", "ga_kl_in_dist"])
def test_the_same_spec_and_seed_give_the_same_record_and_model(method: str) -> None:
    runs = []
    for _ in range(2):
        bench = bench_of(oracle=tiny_llama(dtype=torch.float32, seed=1))
        runs.append(execute(bench, spec_of(method=method, probe_every=1)))
        torch.rand(3)  # what else draws random numbers has no say
    (one, first), (other, second) = runs
    assert torch.equal(flat(one), flat(other))
    assert first.comparable() == second.comparable()
    assert Record.from_json(first.to_json()).comparable() == first.comparable()


def test_another_seed_or_setting_is_another_run() -> None:
    bench, spec = bench_of(), spec_of(method="random_label", updates=1)
    model, record = execute(bench, spec)
    for changes in ({"seed": 1}, {"learning_rate": 2e-3}, {"label_alignment": "release"}):
        changed, other = execute(bench, spec.replace(**changes))
        assert other.key != record.key
        assert not torch.equal(flat(changed), flat(model))


def test_the_key_depends_on_spec_data_and_model_and_on_nothing_else() -> None:
    spec = spec_of()
    key = key_of(bench_of(), spec)
    from unlearnlib.engine import Execution

    assert key_of(bench_of(execution=Execution(micro_chunks=1, progress=False)), spec) == key
    assert key_of(bench_of(data=tiny_data(forget=5)), spec) != key
    assert key_of(bench_of(model=tiny_llama(dtype=torch.float32, seed=1)), spec) != key


def test_a_run_leaves_the_benchs_model_alone() -> None:
    bench = bench_of()
    before = bench.model_hash
    model, record = execute(bench, spec_of())
    assert model_hash(bench.model) == before == record.model_hash
    assert model_hash(model) != before


@pytest.mark.parametrize("changes", [{"learning_rate": 0.0}, {"updates": 0}])
def test_no_updates_or_no_rate_leave_the_parameters(changes: dict[str, Any]) -> None:
    bench = bench_of()
    model, record = execute(bench, spec_of(method="ga_kl_in_dist", **changes))
    assert model_hash(model) == bench.model_hash
    assert record.status == "done"
    untouched, _, _ = evaluate(bench, bench.model, spec_of())
    assert record.metrics == untouched


def test_a_retain_weight_of_zero_is_plain_ascent() -> None:
    bench = bench_of()
    plain, _ = execute(bench, spec_of(method="ga"))
    weightless, _ = execute(bench, spec_of(method="ga_gd_in_dist", retain_weight=0.0))
    assert torch.equal(flat(plain), flat(weightless))


# ---- what a record holds -----------------------------------------------------------------------


def test_a_record_has_the_metrics_of_the_unlearned_model() -> None:
    oracle = tiny_llama(dtype=torch.float32, seed=1)
    bench = bench_of(oracle=oracle)
    model, record = execute(bench, spec_of())
    for split, name in (("forget", "forget"), ("general", "general_evaluation")):
        scores = score_chunks(model, bench.chunks(name))
        assert record.metrics[f"{split}/perplexity"] == pytest.approx(perplexity(scores))
    reference = Reference(oracle, bench.chunks("forget"))
    distance = mean_kl(score_chunks(model, bench.chunks("forget"), reference=reference))
    assert record.metrics["oracle_kl/forget"] == pytest.approx(distance)
    assert {"membership/min_k_40/auc", "forget/cloze_exact", "retain/accuracy"} <= set(
        record.metrics
    )
    assert record.documents["forget"]["id"] == [chunk.id for chunk in bench.chunks("forget")]
    nll = record.documents["forget"]["nll"][0]
    with torch.no_grad():
        chunk = bench.chunks("forget")[0]
        logp = logits_of(model, chunk)[:-1].log_softmax(-1)
    truth = torch.tensor(chunk.tokens[1:])
    assert nll == pytest.approx(-logp[torch.arange(len(truth)), truth].mean().item(), rel=1e-4)
    assert record.extra["tokens"] > 0 and record.extra["flops"] > 0
    assert record.provenance["peak_memory_bytes"] > 0


def test_ascent_raises_the_loss_on_the_forget_set_update_by_update() -> None:
    # A model that knows the forget set a little: ascent has somewhere to go.
    _, record = execute(bench_of(), spec_of(updates=4, batch_size=100, learning_rate=3e-3))
    losses = [row["forget"] for row in record.trajectory]
    assert losses == sorted(losses, reverse=True)  # minus cross-entropy falls
    assert [row["update"] for row in record.trajectory] == [1, 2, 3, 4]


def test_probes_show_the_path_from_the_original_on() -> None:
    bench = bench_of(oracle=tiny_llama(dtype=torch.float32, seed=1))
    _, record = execute(bench, spec_of(updates=5, probe_every=2))
    probed = [row["update"] for row in record.trajectory if "forget/perplexity" in row]
    assert probed == [0, 2, 4, 5]
    assert record.trajectory[-1]["forget/perplexity"] == pytest.approx(
        record.metrics["forget/perplexity"], rel=1e-6
    )
    _, plain = execute(bench, spec_of(updates=5))
    assert plain.metrics == record.metrics  # looking changes nothing


def test_only_the_first_documents_are_forgotten_when_a_run_says_so() -> None:
    bench = bench_of()
    _, record = execute(bench, spec_of(forget_size=2))
    names = {"forget-0", "forget-1"}
    assert {chunk.document for chunk in bench.forgotten(spec_of(forget_size=2))} == names
    assert {name.split("#")[0] for name in record.documents["forget"]["id"]} == names
    assert record.metrics["forget/cloze_questions"] == 2
    assert record.metrics["approximate/cloze_questions"] == 6


def test_distances_to_the_oracle_are_those_of_the_runs_own_chunk_length() -> None:
    oracle = tiny_llama(dtype=torch.float32, seed=1)
    shared = bench_of(oracle=oracle)
    for length in (16, None, 24):  # one after the other on one bench, as in a study
        spec = spec_of(updates=0, length=length)
        fresh = bench_of(oracle=oracle)
        assert execute(shared, spec)[1].metrics == execute(fresh, spec)[1].metrics


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_a_run_trains_in_the_precision_it_names(precision: str) -> None:
    model, record = execute(bench_of(), spec_of(precision=precision, learning_rate=1e-2))
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{precision}"}
    assert record.status == "done"


def test_the_command_of_a_record_repeats_its_spec() -> None:
    spec = spec_of(learning_rate=3e-5, forget_size=None, length=64, seed=7, probe_every=2)
    words = shlex.split(command_of(spec))
    assert words[:2] == ["unlearn", "run"]
    named = {w[2:]: v for w, v in zip(words[2::2], words[3::2], strict=True) if w != "--set"}
    set_ = [v.split("=") for w, v in zip(words[2::2], words[3::2], strict=True) if w == "--set"]
    assert RunSpec.from_dict(named | dict(set_)) == spec  # type: ignore[arg-type]


# ---- divergence ------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [1, 6])
@pytest.mark.parametrize("probe_every", [0, 1])
def test_a_run_that_diverges_is_a_result(updates: int, probe_every: int) -> None:
    bench = bench_of(oracle=tiny_llama(dtype=torch.float32, seed=1))
    sound = execute(bench, spec_of(updates=1))[1]
    spec = spec_of(learning_rate=1e30, updates=updates, probe_every=probe_every)
    model, record = execute(bench, spec)
    assert record.status == "diverged"
    assert record.diverged_at is not None and 1 <= record.diverged_at <= min(updates, 3)
    assert torch.isfinite(flat(model)).all()
    # The same names as ever, so that tables need no exception; and no number that means nothing.
    assert set(record.metrics) == set(sound.metrics)
    for name in ("forget/perplexity", "forget/accuracy", "membership/min_k_40/auc"):
        assert math.isnan(record.metrics[name])
    assert math.isnan(record.metrics["oracle_kl/forget"])
    assert Record.from_json(record.to_json()).comparable() == record.comparable()


def test_a_diverged_run_is_repeated_exactly() -> None:
    spec = spec_of(learning_rate=1e30, updates=6)
    first, second = (execute(bench_of(), spec)[1] for _ in range(2))
    assert first.comparable() == second.comparable()


# ---- requests, one after another; runs that end early ---------------------------------------


@pytest.mark.parametrize("method", ["ga", "ga_kl_in_dist", "random_label"])
def test_requests_are_runs_one_after_another(method: str) -> None:
    """Each with the next seed, on its own documents, from the model that the last one left."""
    spec = spec_of(method=method, precision="float64", updates=2, batch_size=2)
    model, record = execute(tiny_bench(), spec.replace(requests=3))

    data, current = tiny_bench().data, tiny_bench().model
    for number in range(3):
        mine = dataclasses.replace(data, forget=data.forget[2 * number : 2 * number + 2])
        current, _ = execute(tiny_bench(data=mine, model=current), spec.replace(seed=number))
    torch.testing.assert_close(flat(model), flat(current), rtol=1e-12, atol=1e-12)
    assert [row["update"] for row in record.trajectory] == [1, 2, 3, 4, 5, 6]


def test_one_request_is_the_plain_run() -> None:
    (_, plain), (_, one) = (execute(bench_of(), s) for s in (spec_of(), spec_of(requests=1)))
    assert plain.key == one.key and plain.comparable() == one.comparable()


def test_more_requests_than_documents_is_an_error() -> None:
    with pytest.raises(UnlearnError, match="requests is 7, and there are 6 documents to forget"):
        execute(bench_of(), spec_of(requests=7))


def test_a_run_that_diverges_makes_no_further_request() -> None:
    _, record = execute(bench_of(), spec_of(learning_rate=1e30, updates=4, requests=2))
    assert record.status == "diverged" and record.diverged_at is not None
    assert record.diverged_at == record.trajectory[-1]["update"] <= 4


def test_a_run_that_is_ended_early_is_the_shorter_run() -> None:
    asked: list[int] = []

    def stop(model: Any, update: int) -> bool:
        asked.append(update)
        return update == 3

    _, ended = execute(bench_of(), spec_of(updates=6), stop_after=stop)
    _, short = execute(bench_of(), spec_of(updates=3))
    assert asked == [1, 2, 3]
    assert ended.key == short.key and ended.comparable() == short.comparable()


def test_a_run_that_is_ended_early_has_the_probes_of_the_shorter_run() -> None:
    _, ended = execute(
        bench_of(), spec_of(updates=6, probe_every=4), stop_after=lambda _, u: u == 3
    )
    _, short = execute(bench_of(), spec_of(updates=3, probe_every=4))
    assert ended.key == short.key and ended.comparable() == short.comparable()


def test_labels_are_tokens_that_the_model_has_though_the_tokenizer_has_more() -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([f"added{number}" for number in range(200)])
    _, record = execute(bench_of(tokenizer=tokenizer), spec_of(method="random_label"))
    assert record.status == "done"


def test_no_gradient_is_left_on_the_model() -> None:
    for changes in ({}, {"learning_rate": 1e30}):
        model, _ = execute(bench_of(), spec_of(**changes))
        assert all(p.grad is None for p in model.parameters())


def test_an_oracle_may_be_in_another_precision_than_the_run() -> None:
    oracle = tiny_llama(dtype=torch.float32, seed=1)
    near, exact = (
        execute(bench_of(oracle=oracle), spec_of(precision=p))[1].metrics["oracle_kl/forget"]
        for p in ("float32", "float64")
    )
    assert near == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("changes", [{"schedule": "linear"}, {"warmup": 0.5}, {"requests": 2}])
def test_a_run_whose_beginning_knows_its_end_cannot_be_ended(changes: dict[str, Any]) -> None:
    with pytest.raises(UnlearnError, match="cannot be ended early"):
        execute(bench_of(), spec_of(**changes), stop_after=lambda *_: True)


def test_a_run_of_the_library_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    execution = Execution(progress=False, save_every=2)
    spec = spec_of(method="ga_kl_in_dist", updates=5)
    expected, record = execute(bench_of(), spec)

    def killed(model: Any, update: int) -> bool:
        if update == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        execute(bench_of(execution=execution), spec, stop_after=killed)
    assert [p.stem for p in (tmp_path / "checkpoints").iterdir()] == [record.key]
    model, again = execute(bench_of(execution=execution), spec)
    assert torch.equal(flat(model), flat(expected))
    assert again.comparable() == record.comparable()


def test_texts_in_two_sets_and_chunks_that_are_never_drawn_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments: dict[str, Any] = {"method": "ga", "forget": texts("forget"), "execution": QUIET}
    model = tiny_llama(dtype=torch.float32)
    with caplog.at_level("WARNING"):
        unlearnlib.unlearn(model, tiny_tokenizer(), updates=1, length=LENGTH, **arguments)
    assert not caplog.records
    with caplog.at_level("WARNING"):
        unlearnlib.unlearn(
            model, tiny_tokenizer(), updates=1, batch_size=1, retain=texts("forget")[:2],
            length=LENGTH, **arguments,
        )  # fmt: skip
    first, second = caplog.messages
    assert first.startswith("2 of ") and "in the retain set, too (first forget-0001)" in first
    assert second.startswith("1 updates of 1 forget chunks draw 1 of the ")


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forget": "a text"}, "forget is one str"),
        ({"retain": None}, "retain is None"),
        ({"length": None}, "length is None"),
        ({"oracle": "lab"}, "oracle is 'lab'"),
        ({"execution": "cpu"}, "execution is 'cpu'"),
        ({"domain": "books"}, "domain is given with texts of your own"),
        ({"profile": "paper"}, "profile is given with texts of your own"),
        ({"forget": ["one two three " * 99]}, "the model reads at most 128: give length=128"),
    ],
)
def test_an_argument_of_another_kind_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in error_of(**changes)


def test_a_name_is_no_model() -> None:
    for model, tokenizer, said in (
        ("lab", tiny_tokenizer(), "model is 'lab'"),
        (tiny_llama(), "lab", "tokenizer is 'lab'"),
        (tiny_tokenizer(), tiny_llama(), "which is no model"),
    ):
        with pytest.raises(UnlearnError, match=said):
            unlearnlib.unlearn(model, tokenizer, forget=texts("forget"))


def test_a_frozen_model_cannot_be_unlearned_and_a_half_one_is_said_to_become_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments: dict[str, Any] = {"method": "ga", "forget": texts("forget"), "updates": 1}
    arguments |= {"execution": QUIET, "length": LENGTH}
    frozen = tiny_llama(dtype=torch.float32).requires_grad_(False)
    with pytest.raises(UnlearnError, match="every parameter of the model is frozen"):
        unlearnlib.unlearn(frozen, tiny_tokenizer(), **arguments)
    with caplog.at_level("WARNING"):
        half, _ = unlearnlib.unlearn(tiny_llama().half(), tiny_tokenizer(), **arguments)
    assert next(half.parameters()).dtype is torch.float32
    assert "the model is torch.float16, which is not trained in" in caplog.text


def test_a_folder_of_texts_is_not_passed_over_where_texts_are_invented(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="'lab' are invented here: leave it out"):
        load_domain("lab", "books", tmp_path)


def error_of(**changes: Any) -> str:
    """The sentence of a call of `unlearn` that must not change its model."""
    model = tiny_llama(dtype=torch.float32)
    before = model_hash(model)
    arguments: dict[str, Any] = {
        "method": "ga",
        "forget": texts("forget"),
        "updates": 1,
        "execution": QUIET,
    }
    with pytest.raises(UnlearnError) as caught:
        unlearnlib.unlearn(model, tiny_tokenizer(), **(arguments | changes))
    assert model_hash(model) == before
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_a_document_longer_than_the_model_reads_is_an_error() -> None:
    long = " ".join(texts("forget", 12))
    text = error_of(forget=[long])
    assert "the model reads at most 128: give length=128 or less." in text
    error_of(forget=texts("forget"), method="ga_gd_in_dist", retain=[long])
    model = tiny_llama(dtype=torch.float32)
    with pytest.raises(UnlearnError, match="reads at most 128"):
        unlearnlib.score(model, tiny_tokenizer(), [long])
    assert len(unlearnlib.score(model, tiny_tokenizer(), [long], length=128)) > 1


def test_a_model_in_an_adapters_wrapping_is_an_error() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    wrapped = peft.get_peft_model(tiny_llama(dtype=torch.float32), config)
    with pytest.raises(UnlearnError, match="merged into it"):
        unlearnlib.unlearn(wrapped, tiny_tokenizer(), method="ga", forget=texts("forget"))


def test_two_documents_of_one_name_to_forget_are_an_error() -> None:
    twice = [Document("a letter", text) for text in texts("forget", 2)]
    assert "the id 'a letter' occurs twice in forget" in error_of(forget=twice, forget_size=1)


def test_facts_of_unequally_many_options_are_an_error_before_the_run() -> None:
    one, other = documents("forget", 2)
    fewer = dataclasses.replace(other.facts[0], distractors=other.facts[0].distractors[:1])
    text = error_of(forget=[one, dataclasses.replace(other, facts=(fewer,))])
    assert "has 1 distractors and the first fact has 3" in text
    none = dataclasses.replace(one.facts[0], distractors=())
    assert "0 distractors" in error_of(forget=[dataclasses.replace(one, facts=(none,))])


def test_an_empty_forget_set_is_an_error() -> None:
    assert error_of(forget=[]) == "the forget set is empty: give at least one document to forget."


@pytest.mark.parametrize(
    ("method", "flag"),
    [
        ("ga_gd_in_dist", "--retain"),
        ("ga_kl_in_dist", "--retain"),
        ("ga_gd_general", "--general"),
        ("ga_kl_general", "--general"),
    ],
)
def test_a_method_without_its_retain_data_is_an_error(method: str, flag: str) -> None:
    text = error_of(method=method)
    assert text.startswith(f"method {method!r} needs ") and flag in text


@pytest.mark.parametrize("split", ["forget", "retain", "approximate", "general"])
def test_documents_that_are_all_too_short_are_named_by_their_split(split: str) -> None:
    text = error_of(**{"method": "ga_gd_in_dist", "retain": texts("retain"), split: ["x", "y"]})
    if split == "general":  # cut into two: the first is for retaining, the second evaluates
        assert "general_evaluation documents are shorter than 5 tokens" in text
    else:
        assert text.startswith(f"all 2 {split} documents are shorter than 5 tokens: ")


def test_first_documents_that_are_too_short_leave_nothing_to_forget() -> None:
    assert "the forget set is empty" in error_of(forget=["x", *texts("forget")], forget_size=1)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"method": "gaa"}, "unknown method 'gaa': choose one of ga, "),
        ({"learning_rate": -1.0}, "learning_rate is -1.0: "),
        ({"learning_rate": math.nan}, "learning_rate is nan: "),
        ({"updates": "few"}, "updates is 'few': "),
        ({"batch_size": 0}, "batch_size is 0: "),
        ({"sched": "cosine"}, "unknown setting 'sched': choose one of schedule, "),
    ],
)
def test_bad_settings_are_an_error_before_anything_changes(
    changes: dict[str, Any], start: str
) -> None:
    assert error_of(**changes).startswith(start)


def test_an_unknown_domain_or_profile_lists_the_valid_ones() -> None:
    with pytest.raises(UnlearnError, match="unknown domain 'boks': choose one of books, "):
        load_domain("lab", "boks")
    with pytest.raises(UnlearnError, match="unknown profile 'lap': choose one of lab, "):
        load_domain("lap", "books")


# ---- the Python interface ----------------------------------------------------------------------


def test_unlearn_in_place_changes_the_model_and_returns_it() -> None:
    model = tiny_llama(dtype=torch.float32)
    before = flat(model)
    same, record = unlearnlib.unlearn(
        model, tiny_tokenizer(), method="ga", forget=texts("forget"), updates=1, execution=QUIET
    )
    assert same is model
    assert not torch.equal(flat(model), before)
    assert record.metrics["forget/perplexity"] > 0
    assert record.spec["domain"] == "yours" and record.spec["precision"] == "float32"
    assert not any(name.startswith(("retain/", "membership/")) for name in record.metrics)


def test_unlearn_on_a_copy_leaves_the_model_as_it_was_dropout_and_all() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config: LlamaConfig = copy.deepcopy(tiny_llama().config)
    config.attention_dropout = 0.25
    model = LlamaForCausalLM(config).train()
    before = model_hash(model)
    copied, record = unlearnlib.unlearn(
        model,
        tiny_tokenizer(),
        method="ga_gd_in_dist",
        forget=texts("forget"),
        retain=texts("retain"),
        approximate=texts("approximate"),
        general=texts("general", 6),
        updates=1,
        in_place=False,
        execution=QUIET,
    )
    assert copied is not model
    assert model_hash(model) == before == record.model_hash != model_hash(copied)
    assert model.training
    assert model.model.layers[0].self_attn.attention_dropout == 0.25
    assert {"retain/perplexity", "general/perplexity", "membership/loss/auc"} <= set(record.metrics)


def test_unlearn_says_what_execute_says() -> None:
    data = dataclasses.replace(
        tiny_data(), domain="yours", general_retain=(), general_evaluation=(), source="texts"
    )
    bench = bench_of(data=data, prefix=32)
    spec = spec_of(method="ga_gd_in_dist", domain="yours", length=LENGTH)
    model, record = execute(bench, spec)
    other, again = unlearnlib.unlearn(
        tiny_llama(dtype=torch.float32),
        tiny_tokenizer(),
        method="ga_gd_in_dist",
        forget=data.forget,
        retain=data.retain,
        approximate=data.approximate,
        learning_rate=1e-3,
        updates=2,
        batch_size=4,
        length=LENGTH,
        execution=QUIET,
    )
    assert torch.equal(flat(model), flat(other))
    assert record.comparable() == again.comparable()


def test_documents_of_the_same_name_in_two_sets_do_not_get_in_each_others_way() -> None:
    # Files whose rows are both numbered from 1.
    forget = [Document(str(n), text) for n, text in enumerate(texts("forget"))]
    unseen = [Document(str(n), text) for n, text in enumerate(texts("approximate"))]
    records = [
        unlearnlib.unlearn(
            tiny_llama(dtype=torch.float32),
            tiny_tokenizer(),
            method="ga",
            forget=forget,
            approximate=others,
            oracle=tiny_llama(dtype=torch.float32, seed=1),
            updates=1,
            execution=QUIET,
        )[1]
        for others in (unseen, texts("approximate"))
    ]
    one, other = (record.metrics for record in records)
    assert one == other
    assert one["oracle_kl/forget"] != one["oracle_kl/approximate"]


def test_a_bench_opens_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float32)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    data = dataclasses.replace(tiny_data(), domain="yours")
    bench = open_bench(models=Models(tmp_path / "model"), data=data, length=LENGTH, execution=QUIET)
    assert bench.oracle is None
    assert bench.model_hash == model_hash(model)
    _, record = execute(bench, spec_of(domain="yours", updates=1))
    expected = execute(bench_of(data=data, prefix=bench.prefix), spec_of(domain="yours", updates=1))
    assert record.comparable() == expected[1].comparable()


def test_perplexity_in_bfloat16_is_near_that_in_float32() -> None:
    chunks = bench_of().chunks("forget")
    model = tiny_llama(dtype=torch.float32)
    wide = perplexity(score_chunks(model, chunks))
    narrow = perplexity(score_chunks(copy.deepcopy(model).bfloat16(), chunks))
    assert np.isclose(narrow, wide, rtol=0.05)
