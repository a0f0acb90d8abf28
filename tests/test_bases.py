"""Studies that unlearn two vanillas, and the scores of models that another seed trained.

.venv/bin/python -m pytest -q tests/test_bases.py
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from helpers import LENGTH, QUIET, tiny_bench, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib import profiles, study
from unlearnlib.bench import Bench, Models, open_bench
from unlearnlib.cli.study import _study_counts, _study_metrics, _study_text
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.distance import mean_kl
from unlearnlib.models import model_hash, save_model
from unlearnlib.profiles import PAPER_METHODS, PROFILES, Corpus
from unlearnlib.scoring import Reference, score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record, Store, read_parquet
from unlearnlib.study.grids import Asked, get_study
from unlearnlib.trained import lab_checkpoint
from unlearnlib.verification import find_baselines, find_runs, verify_records, with_baselines

PROFILE = "tiny"
ASKED = Asked(methods=("ga",), seeds=(0,), rates=(3e-3,), updates=(3,))
MORE = ("oracle-s1", "oracle-s2", "vanilla-s1")
# Name of a model of another seed -> the seed of its random weights.
WEIGHTS = {"vanilla-s1": 2, "oracle-books-s1": 3, "oracle-books-s2": 4}


def tiny_model(seed: int) -> Any:
    return tiny_llama(dtype=torch.float32, seed=seed)


def open_tiny(profile: str, domain: str, base: str) -> Bench:
    """The bench of a base: of the first its models are made here, of the second loaded."""
    if base == "second":
        return open_bench(profile, domain, models=Models(base=base, device="cpu"), execution=QUIET)
    return tiny_bench(model=tiny_model(0), oracle=tiny_model(1))


def compute(name: str, store: Path, asked: Asked = ASKED, **more: Any) -> study.StudyResult:
    return study.run_study(
        name,
        PROFILE,
        ("books",),
        portion=study.Portion(asked=asked, **more),
        store=Store(store),
        benches=open_tiny,
        progress=False,
    )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile of tiny models with two vanillas and three retrained models; its empty store."""
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    scale = dataclasses.replace(
        PROFILES["stream"],
        name=PROFILE,
        corpus=PROFILE,
        domains=("books",),
        length=LENGTH,
        prefix=4,
    )
    monkeypatch.setitem(PROFILES, PROFILE, scale)
    monkeypatch.setitem(profiles.CORPORA, PROFILE, Corpus(lambda *_: tiny_data()))
    study.write_settings(PROFILE, "books", {m: {"learning_rate": 4e-4} for m in PAPER_METHODS})
    for name, seed in WEIGHTS.items():
        model = tiny_model(seed)
        save_model(model, tiny_tokenizer(), lab_checkpoint(name, PROFILE))
    return tmp_path / "store"


def names(baselines: list[Record]) -> list[tuple[str, str]]:
    return [(r.spec.get("base", "vanilla"), r.spec["baseline"]) for r in baselines]


ALL = [
    ("vanilla", "vanilla"),
    ("vanilla", "oracle"),
    *(("vanilla", which) for which in MORE),
    ("second", "vanilla"),
    ("second", "oracle"),
]


def test_a_study_of_two_vanillas_has_the_runs_and_baselines_of_each(tiny: Path) -> None:
    found = compute("equal_forgetting", tiny)
    specs = get_study("equal_forgetting").runs(PROFILE, "books", ASKED)
    assert [RunSpec.from_dict(r.spec) for r in found.records] == specs
    assert [spec.base for spec in specs] == ["vanilla", "second"]
    assert names(found.baselines) == ALL and found.computed == len(specs) + len(ALL)
    one, two = {r.model_hash for r in found.records[:1]}, {r.model_hash for r in found.records[1:]}
    assert len(one) == len(two) == 1 and one != two
    for record in found.baselines:
        assert {record.model_hash} == (one if record.spec.get("base") is None else two)
    assert compute("equal_forgetting", tiny).computed == 0
    # Who reads them finds both, each with the basis that it has.
    read = study.at_hand("equal_forgetting", PROFILE, ("books",), Store(tiny), asked=ASKED)
    assert read.records == found.records and read.wanted == len(specs)
    assert sorted(names(read.baselines)) == sorted(ALL)
    only = Asked(**{**dataclasses.asdict(ASKED), "bases": ("second",)})
    second = study.at_hand("equal_forgetting", PROFILE, ("books",), Store(tiny), asked=only)
    assert second.records == found.records[1:]
    assert sorted(names(second.baselines)) == sorted(ALL[-2:])


def test_shards_of_a_study_of_two_vanillas_make_all_of_it(tiny: Path) -> None:
    parts = [
        compute("equal_forgetting", tiny, shard=study.Shard(number, 3)) for number in (1, 2, 3)
    ]
    assert sum(part.computed for part in parts) == 2 + len(ALL)
    assert [part.wanted for part in parts] == [2, 2, 2] and parts[-1].left == 0


def test_models_of_other_seeds_are_scored_against_the_same_retrained_model(tiny: Path) -> None:
    found = compute("main", tiny)
    assert names(found.baselines) == ALL[:-2]
    bench = open_tiny(PROFILE, "books", "vanilla")
    chunks = bench.chunks("forget")
    assert bench.oracle is not None
    reference = Reference(bench.oracle, chunks)
    for record in found.baselines[2:]:
        which = record.spec["baseline"].replace("oracle", "oracle-books")
        model = tiny_model(WEIGHTS[which])
        distance = mean_kl(score_chunks(model, chunks, reference=reference))
        assert record.metrics["oracle_kl/forget"] == pytest.approx(distance)
        assert record.basis == bench.basis and record.spec["weights"] == model_hash(model)
    assert not any("weights" in record.spec for record in found.baselines[:2])


def test_without_their_weights_what_is_recorded_serves_and_else_they_are_left_out(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = compute("main", tiny)
    shutil.rmtree(lab_checkpoint("oracle-books-s2", PROFILE))
    again = compute("main", tiny)
    assert again.computed == 0 and again.baselines == found.baselines and not caplog.text
    with caplog.at_level(logging.WARNING):
        anew = compute("main", tiny.parent / "other")
    assert names(anew.baselines) == [name for name in ALL[:-2] if name[1] != "oracle-s2"]
    assert (
        "the scores of oracle-s2 are left out: the oracle-books-s2 model of profile 'tiny' is not "
        "on this machine: make it with `unlearn pretrain --profile tiny --only oracle-books-s2`."
    ) in caplog.text


def test_what_is_published_of_two_vanillas_is_verified(tiny: Path) -> None:
    found = compute("equal_forgetting", tiny)
    study.publish("equal_forgetting", PROFILE, found)
    path = study.published_files()[-1].parent / f"{PROFILE}-equal_forgetting.parquet"
    assert len(read_parquet(path)) == 2
    runs = find_runs(PROFILE, ("books",), study=None)
    picked = with_baselines(runs, find_baselines(PROFILE))
    assert len(picked) == 2 + len(ALL)

    def bench_for(spec: RunSpec) -> Bench:
        return open_tiny(spec.profile, spec.domain, spec.base)

    assert all(c.agrees for c in verify_records(picked, bench_for, progress=False))
    # Elsewhere nobody has those weights, or others of that name.
    shutil.rmtree(lab_checkpoint("oracle-books-s2", PROFILE))
    save_model(tiny_model(9), tiny_tokenizer(), lab_checkpoint("vanilla-s1", PROFILE))
    there = {r.spec["baseline"] for r in with_baselines(runs, find_baselines(PROFILE))[2:]}
    assert there == {"vanilla", "oracle", "oracle-s1"}


def test_publishing_one_vanilla_again_leaves_the_others_runs(tiny: Path) -> None:
    found = compute("equal_forgetting", tiny)
    study.publish("equal_forgetting", PROFILE, found)
    other = [dataclasses.replace(r, model_hash="a" * 64, key="b" * 63 + str(n))
             for n, r in enumerate(found.records[:1])]  # fmt: skip
    path = study.publish("equal_forgetting", PROFILE, study.StudyResult(other, [], 1))
    kept = read_parquet(path)
    assert {r.key for r in kept} == {r.key for r in (*other, *found.records[1:])}
    counts = study.publish_records(PROFILE, [*found.records, *found.baselines])
    assert counts.get("equal_forgetting") is None, "asked for at other rates: of no grid"


def test_a_second_vanilla_that_there_is_not_is_one_sentence(tiny: Path) -> None:
    with pytest.raises(UnlearnError) as caught:
        open_bench("lab", "books", models=Models(base="second"))
    assert str(caught.value) == (
        "base is 'second', and profile 'lab' has one vanilla: leave base at 'vanilla', or take the "
        "profile stream or tiny."
    )
    shutil.rmtree(lab_checkpoint("vanilla-s1", PROFILE))
    with pytest.raises(UnlearnError, match="make it with `unlearn pretrain --profile tiny"):
        open_bench(PROFILE, "books", models=Models(base="second"))
    bench = open_tiny(PROFILE, "books", "vanilla")
    with pytest.raises(UnlearnError, match="unknown baseline 'oracle-s3': choose one of oracle-s1"):
        study.baseline(bench, PROFILE, "oracle-s3")


def test_a_run_that_stops_divides_the_chosen_rate_and_takes_the_rates_that_are_asked_for(
    tiny: Path,
) -> None:
    exposed = get_study("exposure").runs(PROFILE, "books", Asked(methods=("ga",)))
    assert [(s.exposure, s.learning_rate) for s in exposed] == [
        (exposure, rate) for exposure in (1, 2, 4, 8, 16) for rate in (4e-4, 1e-4)
    ]
    equal = get_study("equal_forgetting").runs(PROFILE, "books", Asked(methods=("ga",)))
    assert {s.learning_rate for s in equal} == {4e-4}
    assert [(s.base, s.seed) for s in equal] == [
        (base, seed) for base in ("vanilla", "second") for seed in (0, 1, 2)
    ]
    for spec in (*exposed, *equal):
        assert (spec.stop, spec.probe_every, spec.updates) == ("retrained", 1, 32)
    asked = Asked(methods=("ga",), exposures=(8,), rates=(1e-3,), updates=(5,))
    (one,) = get_study("exposure").runs(PROFILE, "books", asked)
    assert (one.exposure, one.learning_rate, one.updates) == (8, 1e-3, 5)


def test_the_tables_of_a_study_keep_vanillas_and_exposures_apart(tiny: Path) -> None:
    found = compute("equal_forgetting", tiny)
    values = {"study": "s", "profile": PROFILE, "domains": ["books"], "seconds": 0.0,
              **_study_counts(found, None), "published": None, "chosen": {},
              **_study_metrics(found)}  # fmt: skip
    assert [row.get("base") for row in values["means"]] == [None, "second"]
    text = _study_text(values)
    assert "ga (second)" in text and "vanilla (second)" in text and "oracle-s1" in text
    record = found.records[0]
    exposed = [
        dataclasses.replace(record, spec=record.spec | {"exposure": number}) for number in (1, 4)
    ]
    apart = _study_metrics(study.StudyResult(exposed, [], 0))["means"]
    assert [row["exposure"] for row in apart] == [1, 4] and apart[0]["runs"] == 1


def test_means_are_not_taken_over_strengths_or_chunk_lengths() -> None:
    found = [
        dataclasses.replace(synthetic.run("books", "ga", seed), spec={**spec, **more})
        for seed in (0, 1)
        for spec in (synthetic.run("books", "ga", seed).spec,)
        for more in ({}, {"beta": 0.5}, {"length": 40}, {"beta": 0.5, "length": 40})
    ]
    means = _study_metrics(study.StudyResult(found, [], 0))["means"]
    assert [(m.get("beta"), m.get("length"), m["runs"]) for m in means] == [
        (None, None, 2),
        (0.5, None, 2),
        (None, 40, 2),
        (0.5, 40, 2),
    ]
    text = _study_text(
        {**dict.fromkeys(("study", "profile"), "x"), "domains": ["books"], "shard": None,
         "seconds": 1.0, "published": None, "chosen": {}, "baselines": [], "means": means,
         **_study_counts(study.StudyResult(found, [], 0), None)}
    )  # fmt: skip
    assert "ga (beta 0.5, chunks of 40)" in text and "ga (chunks of 40)" in text
