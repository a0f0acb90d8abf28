"""The key of every published record follows from what the record says: no key may change unseen."""

from __future__ import annotations

import hashlib
import json

import pytest

from unlearnlib import study
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record, read_parquet, run_key


@pytest.fixture(scope="module")
def published() -> list[Record]:
    """Every record of `data/results/*.parquet`; one that several files hold comes several times."""
    return [record for path in study.published_files() for record in read_parquet(path)]


def test_every_published_key_is_the_hash_of_what_determines_the_record(
    published: list[Record],
) -> None:
    assert len(published) > 1000
    for record in published:
        assert run_key(record.spec, record.data_hash, record.model_hash) == record.key


def test_a_published_spec_is_read_and_written_as_it_was(published: list[Record]) -> None:
    """A spec that gains a field, or writes one otherwise, gives other keys."""
    runs = [record for record in published if record.kind == "run"]
    assert runs
    for record in runs:
        assert RunSpec(**record.spec).as_dict() == record.spec


def test_the_key_of_a_run_written_out_by_hand() -> None:
    """Independent of `run_key`: JSON with sorted keys and no white space, hashed."""
    spec = RunSpec("lab", "books", "ga", 1e-4, 4, 16)
    parts = {"spec": spec.as_dict(), "data": "d" * 64, "model": "m" * 64, "extra": {}}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode("ascii")).hexdigest()
    assert run_key(spec.as_dict(), "d" * 64, "m" * 64) == key
