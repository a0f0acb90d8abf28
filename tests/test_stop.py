"""Runs that forget the documents of one exposure, and runs that stop at the retrained model.

.venv/bin/python -m pytest -q tests/test_stop.py
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LENGTH, QUIET, flat, tiny_bench, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib import bench as bench_module
from unlearnlib import engine
from unlearnlib.bench import Bench, evaluate, key_of, probe_metrics, probe_scores
from unlearnlib.comparison import compare
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import DomainData, hash_documents
from unlearnlib.engine import Execution, Part, Training, optimise
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.methods import Descent
from unlearnlib.metrics import auc, loss_score, min_k_plus_plus
from unlearnlib.metrics.extraction import verbatim_share
from unlearnlib.metrics.perplexity import perplexity
from unlearnlib.planning import trained_chunks
from unlearnlib.run import command_of, execute
from unlearnlib.scoring import Reference, score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record, read_parquet

EXPOSURES = (1, 2, 4, 1, 2, 1)


def exposed() -> DomainData:
    """The tiny data, its documents to forget read 1, 2 or 4 times."""
    data = tiny_data()
    forget = tuple(
        dataclasses.replace(document, exposure=exposure)
        for document, exposure in zip(data.forget, EXPOSURES, strict=True)
    )
    return dataclasses.replace(data, forget=forget)


@cache
def _vanilla() -> Any:
    """The tiny model, trained on the documents to forget."""
    model = tiny_llama()
    chunks = cut(tiny_data().forget, tiny_tokenizer(), LENGTH)
    training = Training(12, len(chunks), lambda update: 3e-3)
    optimise(model, [Part("loss", chunks, Descent())], training, execution=QUIET)
    return model


def bench_of(execution: Execution = QUIET, data: DomainData | None = None, **more: Any) -> Bench:
    """Vanilla knows the documents to forget, the retrained model does not."""
    settings: dict[str, Any] = {"model": copy.deepcopy(_vanilla()), "oracle": tiny_llama()}
    return tiny_bench(data=data or exposed(), execution=execution, **(settings | more))


def spec_of(**changes: Any) -> RunSpec:
    """Twelve updates at most, of which a run that stops makes some."""
    settings: dict[str, Any] = {
        "method": "ga",
        "updates": 12,
        "batch_size": 4,
        "learning_rate": 4.5e-3,
        "precision": "float64",
        "stop": "retrained",
        "probe_every": 1,
    }
    return RunSpec(**(settings | changes))


def level(bench: Bench, spec: RunSpec) -> float:
    assert bench.oracle is not None
    return perplexity(score_chunks(bench.oracle, bench.forgotten(spec)))


def updates(record: Record) -> int:
    """How many the run made."""
    return int(record.trajectory[-1]["update"])


# ---- exposure -----------------------------------------------------------------------------------


def test_how_often_a_document_was_read_is_part_of_its_identity_where_it_is_known() -> None:
    plain = exposed().forget
    assert hash_documents(plain) != hash_documents(tiny_data().forget)
    assert hash_documents(plain) != hash_documents([dataclasses.replace(plain[0], exposure=3)])
    unknown = [dataclasses.replace(document, exposure=0) for document in plain]
    assert hash_documents(unknown) == hash_documents(tiny_data().forget)


@pytest.mark.parametrize(("size", "names"), [(None, (0, 3, 5)), (2, (0, 3))])
def test_only_the_documents_of_an_exposure_are_forgotten_scored_and_asked_about(
    size: int | None, names: tuple[int, ...]
) -> None:
    bench, spec = bench_of(), spec_of(exposure=1, forget_size=size, updates=1)
    wanted = {f"forget-{number}" for number in names}
    assert {chunk.document for chunk in bench.forgotten(spec)} == wanted
    model, record = execute(bench, spec)
    assert {name.split("#")[0] for name in record.documents["forget"]["id"]} == wanted
    assert record.metrics["forget/cloze_questions"] == len(names)
    assert record.metrics["approximate/cloze_questions"] == 6
    alone = [bench.data.forget[number] for number in names]
    other = bench_of(data=dataclasses.replace(bench.data, forget=tuple(alone)))
    assert torch.equal(flat(execute(other, spec_of(updates=1))[0]), flat(model))
    forget, _ = trained_chunks(spec, bench.data, bench.tokenizer, LENGTH)
    assert forget == bench.forgotten(spec)


def test_an_exposure_that_no_document_has_lists_those_that_there_are() -> None:
    with pytest.raises(UnlearnError) as caught:
        execute(bench_of(), spec_of(exposure=3))
    assert str(caught.value) == (
        "exposure is 3, and the documents to forget have the exposures 1, 2, 4: give one of these, "
        "or 0 for all documents."
    )
    with pytest.raises(UnlearnError, match="of no document to forget is it known how often"):
        execute(bench_of(data=tiny_data()), spec_of(exposure=1))


# ---- probes and columns ------------------------------------------------------------------------


def test_a_probe_has_every_split_and_three_attacks() -> None:
    bench, spec = bench_of(), spec_of(stop="end")
    found = probe_metrics(probe_scores(bench, bench.model, spec))
    assert set(found) == {
        *(f"{split}/perplexity" for split in ("forget", "approximate", "retain", "general")),
        *(f"membership/{name}/auc" for name in ("min_k_40", "min_k_pp_20", "loss")),
        "oracle_kl/forget",
    }
    whole, _, _ = evaluate(bench, bench.model, spec)
    for name, value in found.items():
        assert value == pytest.approx(whole[name], rel=1e-12), name
    members, others = (
        score_chunks(bench.model, bench.chunks(s)) for s in ("forget", "approximate")
    )
    assert found["membership/loss/auc"] == auc(loss_score(members), loss_score(others))
    assert found["membership/min_k_pp_20/auc"] == auc(
        min_k_plus_plus(members, 0.2), min_k_plus_plus(others, 0.2)
    )


def test_a_record_has_distance_and_verbatim_share_of_every_chunk() -> None:
    bench = bench_of()
    _, documents, _ = evaluate(bench, bench.model)
    for split in ("forget", "approximate"):
        chunks = bench.chunks(split)
        assert bench.oracle is not None
        scores = score_chunks(bench.model, chunks, reference=Reference(bench.oracle, chunks))
        assert scores.kl is not None
        means = [scores.kl[scores.chunk(n)].mean() for n in range(len(chunks))]
        assert documents[split]["kl"] == pytest.approx(means, rel=1e-5)
        shares = verbatim_share(scores, bench.prefix)
        assert documents[split]["verbatim"] == pytest.approx(shares, rel=1e-5, nan_ok=True)
    assert not {"kl", "verbatim"} & set(documents["retain"])
    read = {document.id: document.exposure for document in bench.data.forget}
    names = [name.split("#")[0] for name in documents["forget"]["id"]]
    assert documents["forget"]["exposure"] == [read[name] for name in names]
    assert "exposure" not in documents["approximate"]
    _, alone, _ = evaluate(bench_of(oracle=None), bench.model)
    assert "kl" not in alone["forget"] and "verbatim" in alone["forget"]


def test_records_from_before_probes_had_these_names_still_agree_and_lose_nothing() -> None:
    """A published run that was looked at after every update, and what it would be today."""
    old = read_parquet(data_folder() / "results" / "lab-trajectory.parquet")[0]
    later = ("retain/perplexity", "membership/min_k_pp_20/auc", "membership/loss/auc")
    strip = [{n: v for n, v in row.items() if n not in later} for row in old.trajectory]
    documents = {
        split: {n: v for n, v in columns.items() if n not in ("kl", "verbatim")}
        for split, columns in old.documents.items()
    }
    old = dataclasses.replace(old, trajectory=strip, documents=documents)
    rows = [row | dict.fromkeys(later, 0.5) for row in old.trajectory]
    count = len(old.documents["forget"]["id"])
    more = {"kl": [0.25] * count, "verbatim": [math.nan] * count}
    new = dataclasses.replace(
        old, trajectory=rows, documents=documents | {"forget": documents["forget"] | more}
    )
    assert compare(old, new).agrees and compare(new, new).agrees
    assert not compare(new, old).agrees, "what is published must be there again"
    # One number that is there obliges to all.
    partly = [rows[0], *old.trajectory[1:]]
    missing = compare(dataclasses.replace(new, trajectory=partly), new).off
    assert {d.name.partition("/")[2].partition("/")[2] for d in missing} == set(later)
    short = documents | {"forget": documents["forget"] | {**more, "kl": more["kl"][1:]}}
    assert not compare(dataclasses.replace(new, documents=short), new).agrees


# ---- stopping ----------------------------------------------------------------------------------


def test_a_run_stops_after_the_first_update_at_the_retrained_models_perplexity() -> None:
    bench, spec = bench_of(), spec_of()
    _, record = execute(bench, spec)
    path = [row["forget/perplexity"] for row in record.trajectory]
    assert 3 <= updates(record) < spec.updates and record.status == "done"
    assert path[-1] >= level(bench, spec) > max(path[:-1])
    assert record.spec == spec.as_dict() and record.key == key_of(bench, spec)
    assert "--set stop=retrained" in command_of(spec)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_that_stopped_is_the_beginning_of_the_one_that_does_not(schedule: str) -> None:
    bench, spec = bench_of(), spec_of(schedule=schedule)
    model, stopped = execute(bench, spec)
    seen: list[torch.Tensor] = []
    whole, record = execute(bench, spec.replace(stop="end"))
    made = updates(stopped)
    assert 2 <= made < spec.updates == updates(record)
    assert stopped.trajectory == record.trajectory[: made + 1]  # and the row before the first
    if schedule == "constant":
        short, shorter = execute(bench, spec.replace(stop="end", updates=made))
        seen.append(flat(short))
        assert torch.equal(flat(model), flat(short))
        assert shorter.metrics == stopped.metrics
    assert not torch.equal(flat(model), flat(whole))


def test_how_it_is_computed_does_not_decide_where_a_run_stops() -> None:
    spec = spec_of()
    model, one = execute(bench_of(), spec)
    for execution in (
        Execution(micro_chunks=1, progress=False),
        Execution(micro_tokens=64, progress=False, packed=True),
    ):
        again, other = execute(bench_of(execution), spec)
        assert updates(other) == updates(one) and other.key == one.key
        torch.testing.assert_close(flat(again), flat(model), rtol=1e-9, atol=1e-9)
        assert compare(one, other).agrees


@pytest.mark.parametrize(("every", "earlier"), [(0, 0), (1, 3), (2, 2), (3, 3)])
def test_a_run_that_stops_keeps_what_the_probe_before_the_last_one_found(
    every: int, earlier: int
) -> None:
    bench, spec = bench_of(), spec_of(probe_every=every)
    _, record = execute(bench, spec)
    assert updates(record) == 4  # else `earlier` is of another run
    before, _ = execute(bench, spec.replace(stop="end", updates=earlier))
    _, documents, _ = evaluate(bench, before, spec)
    for split in ("forget", "approximate", "retain", "general"):
        columns = record.documents[split]
        assert columns["nll_before"] == documents[split]["nll"]
        assert ("kl_before" in columns) == (split in ("forget", "approximate"))
    assert record.documents["forget"]["kl_before"] == documents["forget"]["kl"]
    probed = [row["update"] for row in record.trajectory if "forget/perplexity" in row]
    assert probed == ([0, *range(every, 4, every), 4] if every else [])
    _, plain = execute(bench, spec.replace(stop="end"))
    assert "nll_before" not in plain.documents["forget"]


def test_a_run_that_is_there_at_once_keeps_the_model_before() -> None:
    bench, spec = bench_of(), spec_of(learning_rate=0.3)
    _, record = execute(bench, spec)
    assert updates(record) == 1
    _, documents, _ = evaluate(bench, bench.model, spec)
    for split, columns in documents.items():
        assert record.documents[split]["nll_before"] == columns["nll"]
    # One whose model is at the level already stops after its first update, too.
    swapped = bench_of(model=tiny_llama(), oracle=copy.deepcopy(_vanilla()))
    assert updates(execute(swapped, spec_of())[1]) == 1


def test_a_run_that_never_gets_there_makes_all_its_updates() -> None:
    spec = spec_of(learning_rate=1e-6, updates=3)
    _, record = execute(bench_of(), spec)
    _, plain = execute(bench_of(), spec.replace(stop="end"))
    assert updates(record) == 3 and record.trajectory == plain.trajectory
    assert record.documents["forget"]["nll_before"]


def test_a_run_that_breaks_on_its_way_says_where() -> None:
    _, record = execute(bench_of(), spec_of(learning_rate=1e300))
    assert record.status == "diverged" and record.diverged_at == updates(record) <= 2
    assert record.documents["forget"]["nll_before"]


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_run_that_was_killed_stops_where_it_would_have(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    spec, execution = spec_of(probe_every=every), Execution(progress=False, save_every=1)
    model, expected = execute(bench_of(), spec)
    applied = engine.apply_update
    made: list[int] = []

    def killed(*arguments: Any) -> None:
        made.append(1)
        if len(made) == 4:  # in the update after which the run stops
            raise KeyboardInterrupt
        applied(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "apply_update", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(bench_of(execution), spec)
    # What the probe before found is no part of a saved state, unless it is that of the state.
    saved = list((tmp_path / "checkpoints").glob("*"))
    assert len(saved) == (0 if every == 2 else 1)
    again, record = execute(bench_of(execution), spec)
    assert torch.equal(flat(again), flat(model))
    assert record.comparable() == expected.comparable()


def test_without_a_retrained_model_there_is_nothing_to_stop_at() -> None:
    bench = bench_of(oracle=None)
    before = flat(bench.model)
    with pytest.raises(UnlearnError, match="there is no retrained model whose perplexity could be"):
        execute(bench, spec_of(), in_place=True)
    assert torch.equal(flat(bench.model), before)
    with pytest.raises(UnlearnError, match=re.escape("stop is 'retrained', and this run is ended")):
        execute(bench_of(), spec_of(), stop_after=lambda *_: True)


def test_each_update_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured of a model is measured in one pass per split."""
    passes: list[int] = []
    score = score_chunks

    def counted(*arguments: Any, **named: Any) -> Any:
        passes.append(1)
        return score(*arguments, **named)

    monkeypatch.setattr(bench_module, "score_chunks", counted)
    bench, spec = bench_of(), spec_of()
    _, record = execute(bench, spec)
    probes, level_of_the_retrained, evaluation, questions = updates(record) + 1, 1, 4, 2
    assert len(passes) == 4 * probes + level_of_the_retrained + evaluation + questions
    assert np.isfinite(record.metrics["forget/perplexity"])
