"""What brings the lab's models and records home from a GPU (`benchmarks/gpu_lab.py`)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import main_study

from unlearnlib.experiment.everything import studies_of
from unlearnlib.profiles import get_profile
from unlearnlib.store import Store, write_parquet
from unlearnlib.trained import lab_checkpoint, lab_record

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The script, on a machine whose data and cache are empty."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_lab

    move(monkeypatch, tmp_path / "there")
    yield gpu_lab


def move(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(machine / "data"))
    monkeypatch.setenv("UNLEARN_CACHE", str(machine / "cache"))


def make(name: str, weights: bytes) -> None:
    folder = lab_checkpoint(name, "stream")
    folder.mkdir(parents=True)
    files = {"config.json": b"{}", "model.safetensors": weights, "record.json": name.encode()}
    for file, content in files.items():
        (folder / file).write_bytes(content)


def test_models_arrive_where_each_belongs(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("vanilla", b"first")
    make("vanilla-s1", b"second")
    lab.pack(tmp_path / "out", ["vanilla", "vanilla-s1", "oracle-books"])  # the last is not made
    move(monkeypatch, tmp_path / "here")
    lab.take(tmp_path / "out", tmp_path / "store")
    for name, weights in (("vanilla", b"first"), ("vanilla-s1", b"second")):
        folder = lab_checkpoint(name, "stream")
        assert folder.is_relative_to(tmp_path / "here")
        assert (folder / "model.safetensors").read_bytes() == weights
        assert lab_record(name, "stream").read_text() == name  # it is published, the weights not
    assert not lab_checkpoint("oracle-books", "stream").exists()


def test_nothing_else_of_an_archive_is_written(lab: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with tarfile.open(out / "models-vanilla.tar.gz", "w:gz") as packed:
        for name in ("../escaped", "vanilla/../../escaped", "other/config.json"):
            member = tarfile.TarInfo(name)
            member.size = 1
            packed.addfile(member, io.BytesIO(b"x"))
    lab.take(out, tmp_path / "store")
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"models-vanilla.tar.gz"}


def test_records_arrive_in_the_store(lab: Any, tmp_path: Path) -> None:
    records = main_study()[:3]
    (tmp_path / "out").mkdir()
    write_parquet(records[:2], tmp_path / "out" / "records-0.parquet")
    write_parquet(records[2:], tmp_path / "out" / "records-1.parquet")
    lab.take(tmp_path / "out", tmp_path / "store")
    assert {r.key for r in Store(tmp_path / "store").records()} == {r.key for r in records}


def test_every_study_has_its_place(lab: Any) -> None:
    every = studies_of("stream", get_profile("stream").domains)
    assert set(lab.ORDER) | {"rates"} >= set(every)


def test_nothing_is_chosen_before_all_rates_are_there(lab: Any, tmp_path: Path) -> None:
    assert not lab.choose(Store(tmp_path / "store"))
    assert not (tmp_path / "there" / "data" / "settings.json").exists()
