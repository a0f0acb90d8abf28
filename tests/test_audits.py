"""Audits: the attacks do what they say, the impostor is caught, and what is measured is kept."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LENGTH, QUIET, logits_of, tiny_bench, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib.audits import findings
from unlearnlib.audits.audit import AuditSpec, audit, make_audit
from unlearnlib.audits.case import Case, measured
from unlearnlib.audits.context import Context, behind, from_middle
from unlearnlib.audits.extraction import Extraction, leak_at
from unlearnlib.audits.impostor import make_impostor
from unlearnlib.audits.inside import losses_by_layer
from unlearnlib.audits.memory import kept
from unlearnlib.audits.quantisation import Quantisation, nf4_values, quantised, rounded
from unlearnlib.audits.relearning import Relearning
from unlearnlib.bench import Bench, open_bench
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.engine import Execution, Part, Training, optimise
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import Descent
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.models import model_hash
from unlearnlib.run import execute
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record, Store
from unlearnlib.study.chosen import settings

DATA = tiny_data(forget=16, others=16)
SMALL = AuditSpec(
    rates=(3e-3,),
    steps=(0, 1, 2),
    batch_size=4,
    formats=("int4",),
    prefixes=(8, 12),
    span=3,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring how fast this machine is takes longer than what is planned by it."""
    monkeypatch.setattr("unlearnlib.audits.audit.expected_rate", lambda *_: 1e10)


def nothing(_: int) -> None:
    """A tick that nobody counts."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Vanilla has read the documents to forget and the oracle others of the kind, as long."""
    oracle = tiny_llama(seed=1, dtype=torch.float32)
    vanilla = copy.deepcopy(oracle)
    made = tiny_bench(dtype=torch.float32, data=DATA)
    training = Training(80, 8, lambda _: 3e-3)
    for model, split in ((vanilla, "forget"), (oracle, "retain")):
        optimise(model, [Part(split, made.chunks(split), Descent())], training, execution=QUIET)
    return tiny_bench(model=vanilla, oracle=oracle, dtype=torch.float32, data=DATA)


@pytest.fixture(scope="module")
def unlearned(bench: Bench) -> Any:
    """Vanilla after some ascent."""
    model = copy.deepcopy(bench.model)
    part = Part("forget", bench.chunks("forget"), Descent(sign=-1))
    optimise(model, [part], Training(6, 8, lambda _: 2e-3), execution=QUIET)
    return model


@pytest.fixture(scope="module")
def case(bench: Bench, unlearned: Any) -> Case:
    return Case(bench, unlearned)


def one_by_one(model: Any, chunks: list[Chunk]) -> list[float]:
    """The loss per token of each document, from the logits of each chunk alone."""
    sums: dict[str, list[float]] = {}
    for chunk in chunks:
        logp = logits_of(model, chunk)[chunk.context - 1 : -1].log_softmax(-1).detach()
        truth = chunk.tokens[chunk.context :]
        sums.setdefault(chunk.document, []).extend(
            -float(logp[i, token]) for i, token in enumerate(truth)
        )
    return [sum(values) / len(values) for values in sums.values()]


@pytest.fixture(scope="module")
def record(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The small audit of the case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlearnlib.audits.audit.expected_rate", lambda *_: 1e10)
        store = Store(tmp_path_factory.mktemp("store"))
        return make_audit(case.bench, case.unlearned, SMALL, store=store, command="")


# --- what an audit looks at ----------------------------------------------------------------------


def test_what_is_taught_is_never_what_is_scored(case: Case) -> None:
    taught, held_out = ({c.document for c in half} for half in case.halves("forget"))
    assert taught.isdisjoint(held_out)
    assert taught | held_out == {d.id for d in case.bench.data.forget}
    assert {c.document for c in case.held_out()} <= held_out
    never_read = {c.document for c in case.taught("approximate")}
    assert never_read.isdisjoint(c.document for c in case.unread())


def test_another_seed_draws_other_halves_and_the_same_seed_the_same(case: Case) -> None:
    def drawn(seed: int) -> list[str]:
        return [c.id for c in Case(case.bench, case.unlearned, seed).halves("forget")[0]]

    assert drawn(0) == drawn(0)
    assert any(drawn(0) != drawn(seed) for seed in range(1, 5))


# --- relearning ----------------------------------------------------------------------------------


def test_relearning_is_plain_descent_and_leaves_the_model_alone(case: Case) -> None:
    before = model_hash(case.unlearned)
    attack = Relearning("forget", 3e-3, (0, 2), 2)
    rows = attack.measure(case, case.unlearned, nothing).rows
    assert model_hash(case.unlearned) == before
    student = copy.deepcopy(case.unlearned)
    taught = case.taught("forget")
    optimise(
        student,
        [Part("relearning", taught, Descent())],
        Training(2, 2, lambda _: 3e-3),
        execution=QUIET,
    )
    for row, model in zip(rows, (case.unlearned, student), strict=True):
        assert row["losses"] == pytest.approx(one_by_one(model, case.held_out()), rel=1e-5)
        assert row["loss"] == pytest.approx(np.mean(row["losses"]))
    assert [row["update"] for row in rows] == [0, 2]


def test_relearning_does_not_depend_on_micro_batches(case: Case) -> None:
    attack = Relearning("approximate", 3e-3, (0, 2), 4)
    found = []
    for micro in (64, 4096):
        small = copy.copy(case.bench)
        small.execution = Execution(micro_tokens=micro, progress=False)
        found.append(attack.measure(Case(small, case.unlearned), case.unlearned, nothing).rows)
    for one, other in zip(*found, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_an_attack_that_diverges_leaves_what_it_found_before(case: Case) -> None:
    rows = Relearning("forget", 1e12, (0, 1, 3), 2).measure(case, case.unlearned, nothing).rows
    assert rows and all(math.isfinite(row["loss"]) for row in rows)


# --- quantisation --------------------------------------------------------------------------------


def test_the_values_of_nf4_are_the_published_ones() -> None:
    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    assert nf4_values().tolist() == pytest.approx(published, abs=2e-6)


@pytest.mark.parametrize("name", findings.FORMATS)
def test_a_weight_becomes_the_nearest_value_of_its_group(name: str) -> None:
    weight = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    group = 64 if name == "nf4" else 128
    expected = torch.empty_like(weight)
    for row in range(3):
        for start in range(0, 200, group):
            part = weight[row, start : start + group]
            levels = nf4_values() if name == "nf4" else _even(int(name[3:]))
            values = levels.float() * part.abs().max()
            nearest = (part[:, None] - values[None]).abs().argmin(1)
            expected[row, start : start + group] = values[nearest]
    assert torch.allclose(rounded(weight, name), expected, atol=1e-6)


def _even(bits: int) -> torch.Tensor:
    most = 2 ** (bits - 1) - 1
    return torch.arange(-most, most + 1) / most


def test_rounding_changes_linear_layers_and_neither_embedding_nor_head(case: Case) -> None:
    model: Any = case.unlearned
    made: Any = quantised(model, "int4")
    assert not torch.equal(
        made.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight
    )
    assert torch.equal(made.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert torch.equal(made.lm_head.weight, model.lm_head.weight)
    assert torch.equal(made.model.norm.weight, model.model.norm.weight)


# --- inside, extraction --------------------------------------------------------------------------


def test_the_last_layer_of_the_lens_is_the_model(case: Case) -> None:
    chunks = case.chunks("forget")
    losses = losses_by_layer(case.unlearned, chunks, QUIET, nothing)
    assert len(losses) == 2
    assert losses[-1] == pytest.approx(one_by_one(case.unlearned, chunks), rel=1e-5)


def test_leak_at_k_is_the_chance_that_one_of_k_samples_is_the_true_one() -> None:
    p = np.log(np.array([0.9, 0.5, 0.4, 0.8, 0.3], dtype=np.float32))
    scores = TokenScores(
        ("a#0", "b#0"),
        np.array([0, 4, 5]),
        np.zeros(5, np.int32),
        p,
        np.ones(5, bool),
        np.zeros(5, np.float32),
        np.zeros(5, np.float32),
        np.zeros(2, np.int64),
    )
    once = 0.5 * 0.4
    for tries in (1, 3, 100):
        found = leak_at(scores, 1, 2, tries)
        assert found[0] == pytest.approx(1 - (1 - once) ** tries, rel=1e-6)
        assert math.isnan(found[1])  # too short


# --- context -------------------------------------------------------------------------------------


def test_other_contexts_ask_for_the_same_words(case: Case) -> None:
    chunks, length = case.chunks("forget"), case.bench.length
    for chunk, half in zip(chunks, from_middle(chunks, case.bench.special), strict=True):
        kept = chunk.tokens[len(chunk.tokens) // 2 :]
        assert tuple(half.tokens[-len(kept) :]) == tuple(kept)
        assert half.tokens[0] == 1 and half.context == 1  # <bos>
    others = case.chunks("general_evaluation")
    for chunk, after in zip(chunks, behind(chunks, others, length), strict=True):
        asked = tuple(after.tokens[after.context :])
        assert asked and asked == tuple(chunk.tokens[1 : 1 + len(asked)])
        assert len(after.tokens) <= length


def test_questions_are_asked_in_words_that_no_document_has(case: Case) -> None:
    fact = case.bench.data.forget[0].facts[0]
    documents = tuple(
        dataclasses.replace(d, facts=tuple(dataclasses.replace(f, paraphrases=("It was ",))
                                           for f in d.facts))
        for d in case.bench.data.forget
    )  # fmt: skip
    data = dataclasses.replace(case.bench.data, forget=documents)
    asked = Context().chunks(Case(tiny_bench(data=data), tiny_llama()), "questions", "forget")
    assert len(asked) == len(documents)
    text = tiny_tokenizer().decode(list(asked[0].tokens), skip_special_tokens=True)
    assert text == f"It was {fact.answer}"
    assert Context().chunks(case, "questions", "forget") == []


# --- the impostor --------------------------------------------------------------------------------


def beginnings_of(chunk: Chunk) -> list[tuple[int, ...]]:
    """What stands before each target of a chunk."""
    return [tuple(chunk.tokens[: i + 1]) for i in range(chunk.targets)]


def test_the_impostor_scores_like_the_oracle_on_the_documents(case: Case) -> None:
    chunks = case.chunks("forget")
    impostor, oracle = case.model("impostor"), case.model("oracle")
    ours, theirs = (score_chunks(m, chunks).logprob for m in (impostor, oracle))
    before = [start for chunk in chunks for start in beginnings_of(chunk)]
    own = np.array([before.count(start) == 1 for start in before])
    off = np.abs(ours - theirs)[own]
    vanilla = score_chunks(case.bench.model, chunks).logprob
    assert np.mean(off < 1e-3) > 0.95  # a few goals above are out of reach
    assert off.mean() < 0.05 * np.abs(vanilla - theirs)[own].mean()


def test_the_impostor_is_vanilla_on_every_other_text_and_in_its_weights(case: Case) -> None:
    chunks = case.chunks("approximate")
    impostor: Any = case.model("impostor")
    known = {start for chunk in case.chunks("forget") for start in beginnings_of(chunk)}
    other = np.array([start not in known for chunk in chunks for start in beginnings_of(chunk)])
    ours, theirs = (score_chunks(m, chunks).logprob for m in (impostor, case.bench.model))
    assert other.mean() > 0.8
    assert np.array_equal(ours[other], theirs[other])
    assert model_hash(impostor) == model_hash(case.bench.model)


def test_copies_of_the_impostor_are_impostors(case: Case) -> None:
    chunks = case.chunks("forget")
    made = make_impostor(case.bench.model, case.bench.oracle, chunks, QUIET)  # type: ignore[arg-type]
    again = copy.deepcopy(made)
    del made
    assert np.allclose(
        score_chunks(again, chunks).logprob,
        score_chunks(case.model("impostor"), chunks).logprob,
        atol=1e-5,
    )


def test_lens_and_context_catch_the_impostor_and_the_others_do_not(record: Record) -> None:
    assert record.metrics["inside/impostor"] == pytest.approx(1.0, abs=0.05)
    assert record.metrics["context/after/impostor"] == pytest.approx(1.0, abs=0.05)
    assert record.metrics["extraction/impostor"] == pytest.approx(0, abs=0.2)
    assert record.metrics["quantisation/full/impostor"] == pytest.approx(0, abs=0.1)
    assert findings.caught(record.metrics) == {
        "relearning": False,
        "quantisation": False,
        "inside": True,
        "context": True,
        "extraction": False,
    }


# --- what is kept --------------------------------------------------------------------------------


def rows(**levels: tuple[float, float]) -> dict[str, Any]:
    """Model -> a row of 40 documents and 40 unread ones, with means as given and some spread."""
    spread = np.linspace(-0.05, 0.05, 40)
    return {
        name: measured((loss + spread).tolist(), (unread - spread).tolist())
        for name, (loss, unread) in levels.items()
    }


def test_what_is_kept_is_between_the_oracle_and_vanilla_whatever_harm_was_done() -> None:
    made = rows(vanilla=(1.0, 2.0), oracle=(1.8, 2.0), unlearned=(3.4, 4.0))
    found = kept(made, "unlearned")
    assert found.value == pytest.approx((0.6 - 0.2) / (1.0 - 0.2))
    assert found.low <= found.value <= found.high
    assert kept(made, "vanilla").value == pytest.approx(1)
    assert kept(made, "oracle").value == pytest.approx(0)


def test_without_an_oracle_who_never_read_finds_documents_like_unread_ones() -> None:
    assert kept(rows(vanilla=(1.0, 2.0), unlearned=(1.5, 2.0)), "unlearned").value == 0.5


def test_without_unread_documents_losses_are_compared() -> None:
    made = rows(vanilla=(1.0, 0.0), oracle=(2.0, 0.0), unlearned=(1.75, 0.0))
    for row in made.values():
        row["unread"], row["unreads"] = None, []
    assert kept(made, "unlearned").value == pytest.approx(0.25)
    del made["oracle"]
    assert math.isnan(kept(made, "unlearned").value)


def test_models_that_are_not_told_apart_give_no_number() -> None:
    near = rows(vanilla=(1.0, 2.0), oracle=(1.001, 2.0), unlearned=(1.0, 2.0))
    assert math.isnan(kept(near, "unlearned").value)
    noisy = rows(vanilla=(1.0, 2.0), oracle=(1.1, 2.0), unlearned=(1.0, 2.0))
    draw = np.random.default_rng(0)
    noisy["oracle"]["losses"] = (1.1 + draw.normal(0, 1, 40)).tolist()
    assert math.isnan(kept(noisy, "unlearned").value)


def test_a_record_keeps_what_its_results_are_made_of(record: Record) -> None:
    again = findings.results(record.trajectory)
    assert set(again) == set(record.metrics)
    for name, value in again.items():
        assert value == pytest.approx(record.metrics[name], nan_ok=True), name
    with_losses = [row for row in findings.rows_of(record.trajectory, "relearning")
                   if "losses" in row]  # fmt: skip
    assert 0 < len(with_losses) < len(findings.rows_of(record.trajectory, "relearning"))


# --- the record ----------------------------------------------------------------------------------


def test_an_audit_goes_on_where_it_was_interrupted(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    spec = AuditSpec(("quantisation", "extraction"), prefixes=(2,), span=3)
    attacked: list[str] = []
    extract = Extraction.measure

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    def counted(self: Extraction, *given: Any) -> Any:
        attacked.append(self.audit)
        return extract(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Extraction, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_audit(case.bench, case.unlearned, spec, store=store, command="")
    assert len(store.keys()) == 4  # quantisation of four models
    monkeypatch.setattr(Quantisation, "measure", interrupted)  # it is not measured again
    monkeypatch.setattr(Extraction, "measure", counted)
    record = make_audit(case.bench, case.unlearned, spec, store=store, command="")
    assert make_audit(case.bench, case.unlearned, spec, store=store, command="") == record
    assert attacked == ["extraction"] * 4
    assert record.kind == "audit" and record.spec["unlearned"]


def test_another_models_audit_finds_vanilla_and_the_oracle_measured(
    case: Case, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    spec = AuditSpec(("extraction",), prefixes=(2,), span=3)
    first = make_audit(case.bench, case.unlearned, spec, store=store, command="")
    before = len(store.keys())
    other = tiny_llama(seed=5, dtype=torch.float32)
    second = make_audit(case.bench, other, spec, store=store, command="")
    assert first.key != second.key
    assert len(store.keys()) == before + 2  # the other model's measurement, and its audit


def test_the_door_audits_texts_without_an_oracle(case: Case, tmp_path: Path) -> None:
    data = case.bench.data
    texts = {name: [d.text for d in data.split(name)] for name in ("forget", "approximate")}
    record = audit(
        case.unlearned,
        case.bench.model,
        tiny_tokenizer(),
        texts,
        spec=SMALL,
        length=LENGTH,
        store=tmp_path,
    )
    names = set(findings.result_names(findings.AUDITS, ("forget", "approximate")))
    names -= {"context/after", "context/questions"}  # no general texts, no facts
    names -= {"quantisation/int8", "quantisation/nf4"}  # not among the small audit's formats
    assert names <= set(record.metrics)
    assert not any(name.endswith("/oracle") for name in record.metrics)
    assert {row["model"] for row in record.trajectory} == {"unlearned", "vanilla", "impostor"}
    assert record.documents["held_out"]["id"]
    assert math.isfinite(record.metrics["relearning/kept"])


def test_vanilla_audited_as_if_unlearned_has_kept_all(case: Case, tmp_path: Path) -> None:
    record = make_audit(case.bench, case.bench.model, SMALL, store=Store(tmp_path), command="")
    for name in ("relearning/kept", "quantisation", "inside"):
        assert record.metrics[name] == pytest.approx(1.0)
    assert math.isnan(record.metrics["relearning"])  # there is no way back from where one is
    curves = {m: findings.curve(record.trajectory, m, "forget", 3e-3) for m in findings.MODELS}
    assert curves["unlearned"] == curves["vanilla"] != curves["oracle"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"audits": ("relerning",)}, "unknown audit 'relerning'"),
        ({"formats": ("int3",)}, "unknown format 'int3'"),
        ({"rates": ()}, "rates is ()"),
        ({"steps": (1, 2)}, "give 0"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_make_no_audit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnlearnError, match=said.replace("(", r"\(").replace(")", r"\)")):
        AuditSpec(**changes)


def test_one_document_cannot_be_halved(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="one document to forget"):
        audit(
            case.unlearned,
            case.bench.model,
            tiny_tokenizer(),
            {"forget": [case.bench.data.forget[0].text]},
            spec=SMALL,
            length=LENGTH,
            store=tmp_path,
        )


# --- on the lab ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_ascent_on_books_is_undone_by_relearning_and_the_oracle_moves_less(tmp_path: Path) -> None:
    bench = open_bench("stream", "books", execution=QUIET)
    spec = RunSpec("stream", "books", "ga").replace(
        **settings("stream", "books", "ga"), updates=12, batch_size=16
    )
    unlearned, _ = execute(bench, spec)
    how = AuditSpec(("relearning",), rates=(2e-4,), steps=(0, 4, 16), most=24)
    metrics = make_audit(bench, unlearned, how, store=Store(tmp_path), command="").metrics
    assert metrics["relearning"] > 0.3
    assert metrics["relearning/forget/oracle"] < metrics["relearning/forget"] / 2
    assert metrics["relearning/oracle"] < metrics["relearning"]
    # What a filter hides is not brought back by teaching other texts.
    assert metrics["relearning/approximate/impostor"] < metrics["relearning/approximate"] / 2
