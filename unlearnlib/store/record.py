"""What a record of a run is, how its key is made, and how it becomes text and back.

The text is canonical JSON with a digest, so that a damaged record is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearnlib.errors import UnlearnError, unknown

# Of the store and of every record in it. Keys of format 1 held spec, data and weights alone, so
# that another configuration, tokenizer or retrained model had the same key.
FORMAT = 2
STATUSES = ("done", "diverged")


_LARGEST = 10**300  # of whole numbers, in magnitude
_DEEPEST = 100  # lists and dictionaries within one another
KEY = re.compile(r"[0-9a-f]{64}")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_ESCAPED = re.compile(r"'*(nan|inf|-inf)")


def _plain(value: object, where: str, depth: int = 0) -> Any:
    """A copy of `value` in JSON's own types: tuples become lists, NumPy values Python's.

    Every NaN becomes the one object `math.nan`. Containers compare by identity before equality,
    so two records that are NaN in the same places are equal with a plain `==`.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return math.nan if math.isnan(value) else float(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if abs(value) >= _LARGEST:  # beyond some thousand digits Python itself will not print it
            raise UnlearnError(f"{where} is a whole number of over 300 digits: give a smaller one.")
        return int(value)
    if depth > _DEEPEST:
        raise UnlearnError(f"{where[:40]}... is nested over {_DEEPEST} deep: give a flatter value.")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                # JSON would turn 1 into "1" and so make two different specs one.
                raise UnlearnError(f"{where} has the key {key!r}: use text for every key.")
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise UnlearnError(
        f"{where} is a {type(value).__name__}, which JSON does not know: "
        "give text, numbers, true or false, lists or dictionaries."
    )


def _map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to everything that is not a list or a dictionary."""
    if isinstance(value, dict):
        return {key: _map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_leaves(item, change) for item in value]
    return change(value)


def _encode_leaf(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str) and _ESCAPED.fullmatch(value):
        return "'" + value  # a text that happens to read "nan" stays a text
    return value


def _decode_leaf(value: Any) -> Any:
    if isinstance(value, str) and _ESCAPED.fullmatch(value):
        return _NON_FINITE.get(value, value[1:])
    return value


def _canonical(value: object, what: str) -> str:
    """JSON with one spelling per value: sorted keys, no white space, ASCII, floats by `repr`."""
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except ValueError:
        raise UnlearnError(
            f"{what} holds a number that is NaN or infinite: give finite numbers."
        ) from None


@dataclass(frozen=True)
class Basis:
    """What a record's numbers rest on, beside its spec. With the spec it makes the key.

    data_hash       SHA-256 of the data, `DomainData.hash`
    model_hash      SHA-256 of the base model's weights, `models.model_hash`
    config_hash     SHA-256 of the base model's configuration, `identity.config_hash`
    tokenizer_hash  SHA-256 of the tokenizer, `identity.tokenizer_hash`
    oracle_hash     SHA-256 of the retrained model that distances are measured to, weights and
                    configuration, `Bench`; empty where there is none
    length          tokens per chunk, where the spec does not say
    prefix          target tokens given before verbatim extraction is measured
    """

    data_hash: str
    model_hash: str
    config_hash: str = ""
    tokenizer_hash: str = ""
    oracle_hash: str = ""
    length: int = 0
    prefix: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Field name to value: so they stand in a record and in what its key is the hash of."""
        return dataclasses.asdict(self)


def run_key(spec: Mapping[str, object], basis: Basis) -> str:
    """The key of a record: SHA-256 (64 hex digits) of the canonical JSON of all that determines it.

    The order of dictionaries does not matter and a tuple counts as a list. JSON tells `1` from
    `1.0` and from `true`, and so does the key: whoever makes the spec gives every field its one
    type (`RunSpec` does).
    Raises UnlearnError for NaN, infinities and values that JSON does not know.
    """
    text = _canonical(_plain({"spec": spec, **basis.as_dict()}, "run"), "the spec")
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Record:
    """What a run leaves behind.

    key           64 hex digits, see `run_key`
    kind          "run", "pretrain", "score", ...
    status        "done", or "diverged" when the loss became non-finite at update `diverged_at`
    spec          what determines the run
    data_hash, model_hash, config_hash, tokenizer_hash, oracle_hash, length, prefix
                  what the run rests on, see `Basis`; with the spec they give the key
    metrics       name -> number, flat; NaN and infinities are legitimate results
    trajectory    one dictionary per update: losses and the like
    documents     split -> name -> list with one entry per document
    provenance    how and where it was computed, see `provenance`
    extra         anything else that a repetition must reproduce

    Timings belong in `provenance`: everything else must come out equal when the run is repeated.
    Values are copied and brought to JSON's types on creation. Raises UnlearnError for values that
    JSON does not know, a malformed key, an unknown status or a metric that is not a number.
    """

    key: str
    kind: str
    status: str
    spec: dict[str, Any]
    data_hash: str
    model_hash: str
    metrics: dict[str, float] = field(default_factory=dict)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    documents: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    diverged_at: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    tokenizer_hash: str = ""
    oracle_hash: str = ""
    length: int = 0
    prefix: int = 0

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, _plain(getattr(self, each.name), each.name))
        check_key(self.key)
        for name, kind in _FIELD_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UnlearnError(
                    f"a record's {name} is a {type(value).__name__}: give a {kind.__name__}."
                )
        if self.status not in STATUSES:
            raise unknown("record status", self.status, STATUSES)
        if (self.status == "diverged") != (self.diverged_at is not None):
            raise UnlearnError(
                f"a record with status {self.status!r} has diverged_at={self.diverged_at!r}: "
                "give the update exactly when the run diverged."
            )
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UnlearnError(f"the metric {name!r} is {value!r}: give a number.")
            self.metrics[name] = float(value)

    @property
    def basis(self) -> Basis:
        """What the record rests on. Records of one spec and one basis are of the same run."""
        return Basis(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Basis)})

    def to_json(self) -> dict[str, Any]:
        """The record as a dictionary for JSON, which has no NaN and no infinities.

        They are written as the strings "nan", "inf" and "-inf", wherever they stand. A text that
        reads so itself gets an apostrophe in front, and one more if it has some already, so that
        `from_json` gives back exactly what was there.
        """
        body = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        encoded: dict[str, Any] = _map_leaves(body, _encode_leaf)
        return encoded

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`. Raises UnlearnError where fields are missing or unknown."""
        names = {each.name for each in dataclasses.fields(cls)}
        if set(body) != names:
            raise UnlearnError(
                f"a record lacks the fields {sorted(names - set(body))} and has the unknown fields "
                f"{sorted(set(body) - names)}: run the study again."
            )
        return cls(**_map_leaves(dict(body), _decode_leaf))

    def comparable(self) -> dict[str, Any]:
        """What must be equal when the run is repeated: everything but the provenance."""
        return {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name != "provenance"
        }


# Checked on creation: a text from outside may have a valid digest and fields of other types.
_FIELD_TYPES: dict[str, type] = {
    "kind": str,
    "status": str,
    "spec": dict,
    "data_hash": str,
    "model_hash": str,
    "config_hash": str,
    "tokenizer_hash": str,
    "oracle_hash": str,
    "length": int,
    "prefix": int,
    "metrics": dict,
    "trajectory": list,
    "documents": dict,
    "provenance": dict,
    "extra": dict,
}


def check_key(key: object) -> str:
    """`key`, if it is one; it becomes a file name, so nothing else may pass."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise UnlearnError(f"the key {key!r} is not 64 hex digits: take it from run_key.")
    return key


class Damaged(Exception):
    """A stored record that cannot be trusted; the text says why."""


class Outdated(Exception):
    """A stored record of an earlier format: it is intact, and its key says too little."""


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body, "the record").encode("ascii")).hexdigest()


def pack(record: Record) -> str:
    """The text of a record's file. No newline at the end, so every proper prefix is broken JSON."""
    body = record.to_json()
    return _canonical({"format": FORMAT, "digest": _digest(body), "record": body}, "the record")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def open_envelope(raw: bytes, where: str) -> tuple[int, dict[str, Any]]:
    """Format and body of a record's text. Raises Damaged, UnlearnError if the format is newer."""
    try:
        envelope = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Damaged("not valid JSON") from None
    if not isinstance(envelope, dict) or set(envelope) != {"format", "digest", "record"}:
        raise Damaged("not a record")
    check_format(envelope["format"], where)
    body = envelope["record"]
    try:
        intact = isinstance(body, dict) and _digest(body) == envelope["digest"]
    except (UnlearnError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if not intact:
        raise Damaged("its digest does not match")
    return envelope["format"], body


def unpack(raw: bytes, key: str, where: str) -> Record:
    """The record in the text `raw`.

    Raises Damaged, Outdated if it is of an earlier format, UnlearnError if it is of a newer one.
    """
    version, body = open_envelope(raw, where)
    if version < FORMAT and "config_hash" not in body:
        raise Outdated(f"it is of format {version}, whose keys leave out what now belongs to them")
    try:
        record = Record.from_json(body)
    except (UnlearnError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if version < FORMAT:
        raise Damaged(f"it says format {version} and is not")
    if record.key != key:
        raise Damaged(f"it holds the record {record.key}")
    return record


def check_format(version: object, where: str) -> None:
    """Raise UnlearnError if `version` is newer than ours, Damaged if it is no version at all."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Damaged(f"its format is {version!r}")
    if version > FORMAT:
        # Not damaged, but written by a newer release, which still needs it: it is not set aside.
        raise UnlearnError(
            f"{where} is of format {version} and this release reads up to {FORMAT}: "
            "upgrade unlearnlib."
        )
