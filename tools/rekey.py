"""Give records of format 1 the keys of format 2, without running anything.

    python tools/rekey.py --store runs
    python tools/rekey.py --store runs --model FOLDER --oracle FOLDER
    python tools/rekey.py --model WHEEL data/results/*.parquet data/results/*.jsonl

A key of format 1 hashed the spec, the data and the model's weights. A key of format 2 also hashes
the model's configuration, the tokenizer, the retrained model that distances are measured to, and
the lengths of chunks and prefixes (`unlearnlib.store.Basis`). They are looked up by the hash of the
weights, in

- the models of the lab, which come with the project,
- the models that `unlearn pretrain` made on this machine, and the records of those that were made
  elsewhere (`data/continued`), which are of the configuration and tokenizer of the model that they
  were trained from: give that one with --model,
- the models that are given with --model, and with --oracle the retrained models beside them.

Everything else in a record stays as it is. In a store the new records come beside the old ones,
which are left. A published file is replaced whole, and only if all of its records can be given
their keys; of published searches the keys of their steps are. What cannot be given a key is named,
and the exit code is 2.

Of models that were trained further, some are lost, and no record of theirs is left. With --lost
the records of such a vanilla get the configuration and the tokenizer of the model that it was
trained from, and in place of the retrained model's hash one that no model has, so that they are
never taken for those of another one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.identity import config_hash, oracle_hash, tokenizer_hash
from unlearnlib.models import load_model, load_tokenizer, model_hash
from unlearnlib.profiles import DOMAINS, PROFILES, YOURS, get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store import manifest
from unlearnlib.store.files import write_file
from unlearnlib.store.folder import Store
from unlearnlib.store.published import write_parquet
from unlearnlib.store.record import Basis, Damaged, Record, open_envelope, run_key
from unlearnlib.study.chosen import BATCH
from unlearnlib.trained import (
    continued_checkpoint,
    is_made,
    lab_checkpoint,
    made_here,
    read_record,
)

EARLIER = 1
OWN_PREFIX = 32  # of documents of a user's own


@dataclass
class Known:
    """What is known of models, by the hash of their weights.

    models   -> hashes of configuration and tokenizer
    oracles  and domain -> hash of the retrained model, weights and configuration
    any      the retrained models that were given; used if there is one
    bases    profile -> hash of the model that its vanilla is trained from
    lost     whether a vanilla that is not known is taken for one that is lost
    """

    models: dict[str, tuple[str, str]] = field(default_factory=dict)
    oracles: dict[tuple[str, str], str] = field(default_factory=dict)
    any: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)
    lost: bool = False

    def add(self, source: str | Path, precision: str, oracles: Mapping[str, Path]) -> None:
        """A model, and domain -> the retrained model of it."""
        model: Any = load_model(source, precision)
        weights = model_hash(model)
        self.models[weights] = config_hash(model.config), tokenizer_hash(load_tokenizer(source))
        for domain, folder in oracles.items():
            self.oracles[weights, domain] = retrained(folder, precision)

    def add_trained(self, record: Mapping[str, Any], oracles: Mapping[str, Any]) -> None:
        """A model that was trained further, by its record, and domain -> the oracle's record."""
        base = self.models.get(record.get("base_hash", ""))
        if base is None:
            return
        self.bases[record["profile"]] = record["base_hash"]
        self.models.setdefault(record["model_hash"], base)
        for domain, oracle in oracles.items():
            hashed = oracle_hash(oracle["model_hash"], base[0])
            self.oracles.setdefault((record["model_hash"], domain), hashed)

    def basis(self, record: Mapping[str, Any]) -> Basis:
        """What a record of format 1 rests on; `UnlearnError` where that is not known."""
        spec, weights = record["spec"], record["model_hash"]
        if record["kind"] == "throughput":  # of no model: it has random weights
            return Basis(record["data_hash"], weights)
        lost = self.lost and weights not in self.models and spec["profile"] in self.bases
        if lost and spec["domain"] != YOURS and spec.get("base", "vanilla") == "vanilla":
            self.models[weights] = self.models[self.bases[spec["profile"]]]
            beside = f"retrained beside {weights}, and lost"
            self.oracles[weights, spec["domain"]] = hashlib.sha256(beside.encode()).hexdigest()
        if weights not in self.models:
            raise UnlearnError(f"its model ({weights[:12]}) is not known: give it with --model.")
        domain, scale = spec["domain"], get_profile(spec["profile"])
        own = domain == YOURS
        oracle = ""
        if any(name.startswith("oracle_kl") for name in record["metrics"]):
            oracle = self.oracles.get((weights, domain), "")
            oracle = oracle or (self.any[0] if len(self.any) == 1 else "")
            if not oracle:
                raise UnlearnError(
                    f"the retrained model beside its model ({weights[:12]}) is not known: give it, "
                    "and no other, with --oracle."
                )
        return Basis(
            record["data_hash"],
            weights,
            *self.models[weights],
            oracle,
            length=spec["length"] if own else scale.length,
            prefix=OWN_PREFIX if own else scale.prefix,
        )


def retrained(source: str | Path, precision: str) -> str:
    """The hash of a retrained model."""
    oracle: Any = load_model(source, precision)
    return oracle_hash(model_hash(oracle), config_hash(oracle.config))


def gather(models: Sequence[str], oracles: Sequence[str], precisions: Iterable[str]) -> Known:
    """All models that are known here, in each of the precisions that records were made in."""
    known = Known()
    for precision in sorted(set(precisions)):
        lab = {domain: lab_checkpoint(f"oracle-{domain}") for domain in DOMAINS}
        known.add(lab_checkpoint(), precision, lab)
        for source in models:
            known.add(source, precision, {})
        known.any += [retrained(source, precision) for source in oracles]
        for profile, scale in PROFILES.items():
            names = {domain: f"oracle-{domain}" for domain in scale.domains}
            if scale.continued and all(is_made(profile, n) for n in ("vanilla", *names.values())):
                folders = {domain: continued_checkpoint(profile, n) for domain, n in names.items()}
                known.add(continued_checkpoint(profile, "vanilla"), precision, folders)
    for profile, scale in PROFILES.items():
        for read in (read_record, made_here) if scale.continued else ():
            try:
                oracles_of = {domain: read(profile, f"oracle-{domain}") for domain in scale.domains}
                known.add_trained(read(profile, "vanilla"), oracles_of)
            except (UnlearnError, KeyError):
                continue  # none of that profile
    return known


def earlier_key(spec: Mapping[str, Any], data: str, model: str, extra: Mapping[str, str]) -> str:
    """A key of format 1."""
    parts = {"spec": spec, "data": data, "model": model, "extra": extra}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def renewed(body: Mapping[str, Any], known: Known) -> Record:
    """The record of format 2 of the one of format 1 that has this body."""
    spec, extra, hashed = dict(body["spec"]), dict(body["extra"]), {}
    if body["kind"] == "tasks":
        asked = {name: spec.pop(name) for name in ("tasks", "task_limit")}
        hashed = {"kind": "tasks", "tasks": extra["fingerprint"]}
    elif body["kind"] == "throughput":
        hashed = {"kind": "throughput"}
    if body["key"] != earlier_key(spec, body["data_hash"], body["model_hash"], hashed):
        raise UnlearnError("its key does not follow from its spec, data and model: restore it.")
    basis = known.basis({**body, "spec": spec})
    if body["kind"] == "tasks":
        extra["run"] = run_key(spec, basis)
        spec |= {**asked, "task_fingerprint": extra.pop("fingerprint")}
    record = Record.from_json({**body, **basis.as_dict(), "spec": spec, "extra": extra})
    return replace(record, key=run_key(record.spec, record.basis))


def bodies_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Format and body of each record in a published file, or in a store's folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        texts = [(str(p), p.read_bytes()) for p in sorted(path.glob("records/??/*.json"))]
    elif not path.is_file():
        raise UnlearnError(f"there is no file or folder {str(path)!r}: give one that is there.")
    else:
        try:
            rows = pq.read_table(path).column("record").to_pylist()
            texts = [(f"{path}, row {n},", row.encode("utf-8")) for n, row in enumerate(rows)]
        except (pa.ArrowException, KeyError, AttributeError):
            raise UnlearnError(
                f"{path} is not a Parquet file of records: restore it first."
            ) from None
    for where, raw in texts:
        try:
            version, body = open_envelope(raw, where)
        except Damaged as error:
            raise UnlearnError(f"{where} is damaged ({error}): restore it first.") from None
        check_body(body, where)
        yield version, body


def check_body(body: Any, where: str) -> None:
    """`UnlearnError` for a record that lacks what its key is made of, or has it in another type."""
    types: dict[str, type] = dict.fromkeys(("key", "kind", "data_hash", "model_hash"), str)
    types |= dict.fromkeys(("spec", "extra", "metrics"), dict)
    wrong = [name for name, kind in types.items() if not isinstance(body.get(name), kind)]
    if not wrong and body["kind"] != "throughput":
        profile, domain = (body["spec"].get(name) for name in ("profile", "domain"))
        known = isinstance(profile, str) and profile in PROFILES
        wrong = [*([] if known else ["profile"]), *([] if isinstance(domain, str) else ["domain"])]
    if wrong:
        raise UnlearnError(
            f"{where} is no record of this project ({', '.join(wrong)}): restore it first."
        )


@dataclass
class Done:
    """What was done: how many keys were given, how many were there, and what has none, and why."""

    given: int = 0
    there: int = 0
    left: list[str] = field(default_factory=list)


def records_of(path: Path, known: Known, done: Done) -> list[Record]:
    """The records of a file or store in format 2, as far as they can be given their keys."""
    found = []
    for version, body in bodies_of(path):
        try:
            if version > EARLIER:
                found.append(Record.from_json(body))
                done.there += 1
            else:
                found.append(renewed(body, known))
                done.given += 1
        except UnlearnError as error:
            done.left.append(f"{path}: the record {body['key'][:12]} keeps its key: {error}")
    return found


def search_of(text: str, where: str) -> dict[str, Any]:
    """A published search, of its line; `UnlearnError` for a line that is none."""
    try:
        line: dict[str, Any] = json.loads(text)
        _ = line["domain"], line["method"], line["seed"], line["situation"]["updates"]
        for step in line["steps"]:
            _ = step["key"], step["updates"], step["learning_rate"], step["retain_weight"]
    except (ValueError, KeyError, TypeError):
        raise UnlearnError(f"{where} is no published search: restore it first.") from None
    return line


def rekey_searches(path: Path, bases: Iterable[Basis], done: Done) -> None:
    """The steps of published searches; `bases` are those that runs of the profile may rest on."""
    profile = path.name.removesuffix("-tuning.jsonl")
    bases, lines = list(bases), []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = search_of(text, f"{path}, line {number},")
        for step in line["steps"]:
            spec = RunSpec(
                profile, line["domain"], line["method"], step["learning_rate"],
                batch_size=BATCH, retain_weight=step["retain_weight"], seed=line["seed"],
                precision=get_profile(profile).precision,
            )  # fmt: skip
            # A run that diverged counts the updates that were asked for.
            specs = [
                spec.replace(updates=updates).as_dict()
                for updates in {step["updates"], line["situation"]["updates"]}
            ]
            pairs = [(s, b) for s in specs for b in bases]
            if any(step["key"] == run_key(*pair) for pair in pairs):
                done.there += 1
                continue
            for s, b in pairs:
                if step["key"] == earlier_key(s, b.data_hash, b.model_hash, {}):
                    step["key"] = run_key(s, b)
                    done.given += 1
                    break
            else:
                done.left.append(f"{path}, line {number}: the key of a step is of no known run")
        lines.append(json.dumps(line) + "\n")
    write_file(path, "".join(lines).encode("utf-8"), replace=True)


def rekey(
    store: Path | None, files: Sequence[Path], models: Sequence[str], oracles: Sequence[str],
    lost: bool = False,
) -> Done:  # fmt: skip
    """Give the records of a store and of files their keys, see the head of this file."""
    tables = [path for path in files if path.suffix == ".parquet"]
    places = [*tables, *([] if store is None else [store])]
    usual = {profile: scale.precision for profile, scale in PROFILES.items()}
    specs = [body["spec"] for path in places for _, body in bodies_of(path)]
    specs = [spec for spec in specs if "profile" in spec]
    precisions = {spec.get("precision") or usual[spec["profile"]] for spec in specs}
    known = gather(models, oracles, precisions)
    known.lost = lost
    done, bases = Done(), dict[Basis, None]()
    for path in tables:
        unable = len(done.left)
        records = records_of(path, known, done)
        bases |= {record.basis: None for record in records}
        if len(done.left) == unable:
            write_parquet(records, path)
    if store is not None:
        filed = Store(store)
        for record in records_of(store, known, done):
            filed.put(record)
    for path in files:
        if path not in tables:
            rekey_searches(path, bases, done)
    for folder in {path.parent for path in files if (path.parent / manifest.NAME).exists()}:
        manifest.note(*(path for path in files if path.parent == folder))
    return done


def main() -> int:
    """Read the arguments, do it, and say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="published .parquet and .jsonl files")
    parser.add_argument("--store", type=Path, help="the folder of a run store")
    parser.add_argument("--model", action="append", default=[], help="a model that runs start from")
    parser.add_argument("--oracle", action="append", default=[], help="a retrained model")
    parser.add_argument("--lost", action="store_true", help="see above")
    arguments = parser.parse_args()
    if arguments.store is None and not arguments.files:
        parser.error("there is nothing to do: give --store DIR, or published files")
    try:
        done = rekey(
            arguments.store, arguments.files, arguments.model, arguments.oracle,
            arguments.lost,
        )  # fmt: skip
    except (UnlearnError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print("\n".join(done.left), file=sys.stderr, end="\n" if done.left else "")
    print(f"{done.given} keys given, {done.there} were there already, {len(done.left)} not known")
    return 2 if done.left else 0


if __name__ == "__main__":
    raise SystemExit(main())
