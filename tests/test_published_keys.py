"""The key of every published record follows from what the record says: no key may change unseen."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from unlearnlib import study
from unlearnlib.identity import config_hash, oracle_hash, tokenizer_hash
from unlearnlib.models import load_model, load_tokenizer, model_hash
from unlearnlib.profiles import DOMAINS
from unlearnlib.spec import RunSpec
from unlearnlib.store import Basis, Record, read_parquet, run_key
from unlearnlib.trained import lab_checkpoint


@pytest.fixture(scope="module")
def published() -> list[Record]:
    """Every record of `data/results/*.parquet`; one that several files hold comes several times."""
    return [record for path in study.published_files() for record in read_parquet(path)]


def test_every_published_key_is_the_hash_of_what_determines_the_record(
    published: list[Record],
) -> None:
    assert len(published) > 1000
    for record in published:
        assert run_key(record.spec, record.basis) == record.key


def test_a_published_spec_is_read_and_written_as_it_was(published: list[Record]) -> None:
    """A spec that gains a field, or writes one otherwise, gives other keys."""
    runs = [record for record in published if record.kind == "run"]
    assert runs
    for record in runs:
        assert RunSpec(**record.spec).as_dict() == record.spec


def test_the_key_of_a_run_written_out_by_hand() -> None:
    """Independent of `run_key`: JSON with sorted keys and no white space, hashed."""
    spec = RunSpec("lab", "books", "ga", 1e-4, 4, 16)
    basis = {
        "data_hash": "d" * 64,
        "model_hash": "m" * 64,
        "config_hash": "c" * 64,
        "tokenizer_hash": "t" * 64,
        "oracle_hash": "",
        "length": 320,
        "prefix": 32,
    }
    parts = {"spec": spec.as_dict(), **basis}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode("ascii")).hexdigest()
    assert run_key(spec.as_dict(), Basis(**basis)) == key


def test_a_published_record_names_all_that_it_rests_on(published: list[Record]) -> None:
    """A baseline is of the same basis as the runs that it stands beside."""
    for record in (r for r in published if r.kind != "throughput"):  # of random weights and texts
        basis = record.basis
        assert basis.config_hash and basis.tokenizer_hash and basis.length and basis.prefix
        assert bool(basis.oracle_hash) == any(m.startswith("oracle_kl") for m in record.metrics)
    scored = {(r.spec["domain"], r.basis) for r in published if r.kind == "score"}
    assert {(r.spec["domain"], r.basis) for r in published if r.kind == "run"} <= scored


def test_the_keys_of_the_lab_are_of_the_models_that_come_with_the_project(
    published: list[Record],
) -> None:
    """What they rest on is hashed anew from the weights, configuration and tokenizer in data/."""
    vanilla: Any = load_model("lab")
    oracles: dict[str, Any] = {d: load_model(lab_checkpoint(f"oracle-{d}")) for d in DOMAINS}
    hashes = model_hash(vanilla), config_hash(vanilla.config), tokenizer_hash(load_tokenizer("lab"))
    retrained = {
        domain: oracle_hash(model_hash(oracle), config_hash(oracle.config))
        for domain, oracle in oracles.items()
    }
    records = [r for r in published if r.spec.get("profile") == "lab"]
    assert records
    for record in records:
        expected = (*hashes, retrained[record.spec["domain"]], 320, 32)
        assert record.basis == Basis(record.data_hash, *expected)
