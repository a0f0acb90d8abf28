"""Which records make up a study, and what publishing does to those that are there.

Vanilla that is trained again on another machine has other last bits: its runs are of another
starting model, and a study must not mix them with those that are published.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import synthetic

from unlearnlib import study
from unlearnlib.book.records import domains_of
from unlearnlib.errors import UnlearnError
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record, Store, read_parquet, write_parquet
from unlearnlib.store.manifest import losses, read_manifest

HERE, THERE = "a" * 64, "b" * 64  # hashes of two starting models
METHODS = tuple(PAPER_METHODS)


def of(model: str, record: Record) -> Record:
    """The record, as if it had started from `model`."""
    key = synthetic.key(model, record.spec)
    return dataclasses.replace(record, key=key, model_hash=model)


def runs(model: str, methods: Iterable[str] = METHODS, domain: str = "books") -> list[Record]:
    """Runs of the study `main` with seed 0, of some methods."""
    return [of(model, synthetic.run(domain, method)) for method in methods]


def baselines(model: str, domain: str = "books") -> list[Record]:
    return [of(model, synthetic.baseline(domain, which)) for which in study.BASELINES]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of results, where nothing is published yet; the settings are the made-up ones."""
    (tmp_path / "data" / "results").mkdir(parents=True)
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    for domain in DOMAINS:
        chosen = {m: {"learning_rate": synthetic.chosen_rate(m)} for m in METHODS}
        study.write_settings("lab", domain, chosen)
    return tmp_path / "data" / "results"


def local(folder: Path, records: Iterable[Record]) -> Store:
    store = Store(folder / "store")
    for record in records:
        store.put(record)
    return store


def starts(records: Sequence[Record]) -> set[str]:
    return {record.model_hash for record in records}


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("published", "here", "wins"), [(3, 2, THERE), (2, 3, HERE)])
def test_of_two_starting_models_the_one_with_more_runs_wins_with_its_own_baselines(
    data: Path, tmp_path: Path, published: int, here: int, wins: str
) -> None:
    write_parquet(runs(THERE, METHODS[:published]), data / "lab-main.parquet")
    write_parquet(baselines(THERE), data / "lab-baselines.parquet")
    store = local(tmp_path, [*runs(HERE, METHODS[:here]), *baselines(HERE)])
    found = study.load_study("main", "lab", ("books",), store)
    assert starts(found.records) == starts(found.baselines) == {wins}
    assert len(found.records) == 3
    assert sorted(b.spec["baseline"] for b in found.baselines) == sorted(study.BASELINES)


@pytest.mark.parametrize("here", [HERE, "c" * 64])  # whichever hash comes first
def test_of_as_many_runs_the_published_ones_win(data: Path, tmp_path: Path, here: str) -> None:
    write_parquet(runs(THERE, METHODS[:3]), data / "lab-main.parquet")
    write_parquet(baselines(THERE), data / "lab-baselines.parquet")
    store = local(tmp_path, [*runs(here, METHODS[3:6]), *baselines(here)])
    found = study.load_study("main", "lab", ("books",), store)
    assert [r.spec["method"] for r in found.records] == list(METHODS[:3])
    assert starts(found.records) == starts(found.baselines) == {THERE}


def test_each_domain_has_a_starting_model_of_its_own(data: Path, tmp_path: Path) -> None:
    write_parquet(runs(THERE, METHODS, "books"), data / "lab-main.parquet")
    store = local(
        tmp_path,
        [
            *runs(HERE, METHODS[:1], "books"),
            *runs(HERE, METHODS[:2], "github"),
            *baselines(HERE, "github"),
            *baselines(THERE, "github"),
        ],
    )
    found = study.load_study("main", "lab", ("books", "github"), store)
    by_domain = {r.spec["domain"]: r.model_hash for r in found.records}
    assert by_domain == {"books": THERE, "github": HERE} and len(found.records) == len(METHODS) + 2
    assert starts(found.baselines) == {HERE}


def test_runs_of_one_model_that_are_partly_published_are_put_together(
    data: Path, tmp_path: Path
) -> None:
    write_parquet(runs(THERE, METHODS[:2]), data / "lab-main.parquet")
    store = local(tmp_path, [*runs(THERE, METHODS[2:4]), *runs(HERE, METHODS[:3])])
    found = study.load_study("main", "lab", ("books",), store)
    assert [r.spec["method"] for r in found.records] == list(METHODS[:4])
    assert starts(found.records) == {THERE}


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_written_whole_or_not_at_all(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = study.settings_path().read_text()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UnlearnError, match="free some space"):
            study.write_settings("lab", "books", {"ga": {"learning_rate": 1.0}})
    assert study.settings_path().read_text() == before


def test_settings_that_were_cut_off_are_named_and_not_overwritten(data: Path) -> None:
    study.settings_path().write_text('{"lab": {"bo')
    with pytest.raises(UnlearnError, match=r"settings\.json cannot be read.*restore"):
        study.write_settings("lab", "books", {"ga": {"learning_rate": 1.0}})
    assert study.settings_path().read_text() == '{"lab": {"bo'


# --- publishing ----------------------------------------------------------------------------------


def publish(records: Sequence[Record], scores: Sequence[Record] = ()) -> list[Record]:
    """Publish them as the study `main`; what its file holds then."""
    result = study.StudyResult(list(records), list(scores), len(records))
    return read_parquet(study.publish("main", "lab", result))


def test_publishing_a_part_on_another_model_loses_nothing_that_was_whole(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = runs(THERE), runs(HERE, METHODS[:3])
    publish(whole, baselines(THERE))
    assert publish(part, baselines(HERE)) == sorted([*whole, *part], key=lambda r: r.key)
    assert f"another model ({THERE[:12]}) has {len(whole)} runs" in caplog.text
    nothing = Store(tmp_path / "none")
    found = study.load_study("main", "lab", ("books",), nothing)
    assert found.records == whole and starts(found.baselines) == {THERE}
    # And once the rest of them is there, the older ones give way.
    assert starts(publish(runs(HERE, METHODS[3:]))) == {HERE}
    found = study.load_study("main", "lab", ("books",), nothing)
    assert len(found.records) == len(METHODS) and starts(found.baselines) == {HERE}


def test_publishing_as_many_on_another_model_replaces_them_on_that_domain_alone(
    data: Path,
) -> None:
    elsewhere = runs(THERE, METHODS, "github")
    publish([*runs(THERE), *elsewhere])
    stale = of(THERE, synthetic.run("books", "ga", rate=0.5))  # of settings that were given up
    kept = read_parquet(data / "lab-main.parquet")
    write_parquet([*kept, stale], data / "lab-main.parquet")
    found = publish(runs(HERE))
    assert starts([r for r in found if r.spec["domain"] == "books"]) == {HERE}
    assert [r for r in found if r.spec["domain"] == "github"] == sorted(
        elsewhere, key=lambda r: r.key
    )


def test_publishing_the_same_run_again_replaces_it(data: Path) -> None:
    first = runs(HERE, METHODS[:1])
    publish([*first, *runs(HERE, METHODS[1:])])
    again = dataclasses.replace(first[0], provenance={"seconds": 99.0})
    found = publish([again])
    assert len(found) == len(METHODS) and again in found
    assert read_manifest(data)["lab-main.parquet"]["records"] == len(found)
    assert not losses(data, "lab")


def test_baselines_of_two_starting_models_stay_beside_each_other(data: Path) -> None:
    publish(runs(THERE), baselines(THERE))
    publish(runs(HERE), baselines(HERE))
    again = [dataclasses.replace(b, provenance={"seconds": 1.0}) for b in baselines(HERE)]
    publish(runs(HERE), again)
    found = read_parquet(data / "lab-baselines.parquet")
    assert found == sorted([*baselines(THERE), *again], key=lambda r: r.key)


def test_records_from_elsewhere_are_published_of_one_model_and_lose_nothing_either(
    data: Path, tmp_path: Path
) -> None:
    whole = [*runs(THERE), *baselines(THERE)]
    part = [*runs(HERE, METHODS[:2]), *baselines(HERE)]
    assert study.publish_records("lab", whole) == {"main": len(METHODS), "baselines": 2}
    assert study.publish_records("lab", part)["main"] == 2
    found = study.load_study("main", "lab", ("books",), Store(tmp_path / "none"))
    assert starts(found.records) == starts(found.baselines) == {THERE}
    assert len(found.records) == len(METHODS)
    # Of a call that holds both only one model is published.
    for path in data.iterdir():
        path.unlink()
    study.publish_records("lab", [*part, *whole])
    assert starts(read_parquet(data / "lab-main.parquet")) == {THERE}


def test_a_domain_is_not_shown_with_two_vanillas() -> None:
    one = study.StudyResult([synthetic.run("books", "ga")], baselines(HERE), 0)
    github = [synthetic.run("github", "ga")], [synthetic.baseline("github", "vanilla")]
    apart = [one, study.StudyResult(*github, 0)]
    both = study.joined(apart)
    assert domains_of(both.records) == ["github", "books"]
    assert len(both.baselines) == len(one.baselines) + 1
    with pytest.raises(UnlearnError, match="'books' is in two of the profiles"):
        study.joined([one, study.StudyResult([], one.baselines, 0)])


@pytest.mark.parametrize("name", study.__all__)
def test_every_name_that_studies_offer_can_be_had_whatever_was_imported_before(name: str) -> None:
    """Importing a file of the package must not put the file in the place of its function."""
    for module in pkgutil.iter_modules(study.__path__):
        importlib.import_module(f"unlearnlib.study.{module.name}")
    assert not isinstance(getattr(study, name), ModuleType)


# --- one basis -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["config_hash", "tokenizer_hash", "oracle_hash", "data_hash"])
def test_what_rests_on_something_else_is_not_shown_as_the_same_study(
    part: str, data: Path, tmp_path: Path
) -> None:
    """The weights are the same, and yet the numbers are not of the same kind."""

    def with_another(records: Iterable[Record]) -> list[Record]:
        return [
            dataclasses.replace(r, key=synthetic.key(part, r.spec), **{part: "f" * 64})
            for r in records
        ]

    write_parquet(runs(THERE, METHODS[:3]), data / "lab-main.parquet")
    write_parquet(baselines(THERE), data / "lab-baselines.parquet")
    theirs = with_another(runs(THERE, METHODS[:5]))
    store = local(tmp_path, [*theirs, *with_another(baselines(THERE))])
    found = study.load_study("main", "lab", ("books",), store)
    assert {getattr(r, part) for r in (*found.records, *found.baselines)} == {"f" * 64}
    assert len(found.records) == 5 and len(found.baselines) == 2
    mixed = [*runs(THERE, METHODS[:3]), *theirs, *baselines(THERE), *with_another(baselines(THERE))]
    (data / "lab-main.parquet").unlink()
    (data / "lab-baselines.parquet").unlink()
    assert study.publish_records("lab", mixed)["main"] == 5
    shown = read_parquet(data / "lab-main.parquet") + read_parquet(data / "lab-baselines.parquet")
    assert {getattr(r, part) for r in shown} == {"f" * 64}
