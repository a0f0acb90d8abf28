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

FORMAT = 1  # of the store and of every record in it
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


def run_key(
    spec: Mapping[str, object],
    data_hash: str,
    model_hash: str,
    extra: Mapping[str, str] | None = None,
) -> str:
    """The key of a run: SHA-256 (64 hex digits) of the canonical JSON of all that determines it.

    The order of dictionaries does not matter and a tuple counts as a list. JSON tells `1` from
    `1.0` and from `true`, and so does the key: whoever makes the spec gives every field its one
    type (`RunSpec` does). `extra` is for whatever else determines a record of another kind.
    Raises UnlearnError for NaN, infinities and values that JSON does not know.
    """
    parts = {"spec": spec, "data": data_hash, "model": model_hash, "extra": extra or {}}
    text = _canonical(_plain(parts, "run"), "the spec")
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Record:
    """What a run leaves behind.

    key           64 hex digits, see `run_key`
    kind          "run", "pretrain", "score", ...
    status        "done", or "diverged" when the loss became non-finite at update `diverged_at`
    spec          what determines the run
    data_hash     SHA-256 of the data, `DomainData.hash`
    model_hash    SHA-256 of the base model's weights
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


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body, "the record").encode("ascii")).hexdigest()


def pack(record: Record) -> str:
    """The text of a record's file. No newline at the end, so every proper prefix is broken JSON."""
    body = record.to_json()
    return _canonical({"format": FORMAT, "digest": _digest(body), "record": body}, "the record")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def unpack(raw: bytes, key: str, where: str) -> Record:
    """The record in the text `raw`. Raises Damaged, or UnlearnError if it is of a newer format."""
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
        if not intact:
            raise Damaged("its digest does not match")
        record = Record.from_json(body)
    except (UnlearnError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
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
