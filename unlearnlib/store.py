"""The run store: one content-addressed record per run, never rewritten, and where it came from.

A run is a pure function of its spec, so its record is filed under a key that hashes the spec,
the data's hash and the base model's hash (`run_key`). Resuming a study is then asking which keys
are missing; two machines that share a folder need no other agreement. On disk:

    ROOT/format.json             {"format": 1}
    ROOT/records/ab/KEY.json     {"format": 1, "digest": SHA-256 of the body, "record": {...}}
    ROOT/claims/KEY.json         who is computing KEY at the moment (`Store.claim`)
    ROOT/set_aside/              damaged records, moved out of the way, never deleted

A record appears whole or not at all: it is written to a temporary file in its own folder, synced,
and then linked to its name, which fails if the name is taken. Published records are one Parquet
file (`write_parquet`) with the same digests; `Library` looks in a store first and then in those.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import platform
import re
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from unlearnlib.errors import UnlearnError, unknown

FORMAT = 1  # of the store and of every record in it
STATUSES = ("done", "diverged")
STALE_AFTER = 600.0  # seconds without a heartbeat after which a claim counts as abandoned

_LARGEST = 10**300  # of whole numbers, in magnitude
_DEEPEST = 100  # lists and dictionaries within one another
_KEY = re.compile(r"[0-9a-f]{64}")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_ESCAPED = re.compile(r"'*(nan|inf|-inf)")
_log = logging.getLogger(__name__)


# --- plain values and canonical JSON ---------------------------------------------------------


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


# --- records ---------------------------------------------------------------------------------


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
        _check_key(self.key)
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


# Checked on creation: a record from outside may have a digest that fits and still be none.
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


def _check_key(key: object) -> str:
    """`key`, if it is one; it becomes a file name, so nothing else may pass."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise UnlearnError(f"the key {key!r} is not 64 hex digits: take it from run_key.")
    return key


class _Damaged(Exception):
    """A stored record that cannot be trusted; the text says why."""


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body, "the record").encode("ascii")).hexdigest()


def _pack(record: Record) -> str:
    """The text of a record's file. No newline at the end, so every proper prefix is broken JSON."""
    body = record.to_json()
    return _canonical({"format": FORMAT, "digest": _digest(body), "record": body}, "the record")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unpack(raw: bytes, key: str, where: str) -> Record:
    """The record in the text `raw`. Raises _Damaged, or UnlearnError if it is of a newer format."""
    try:
        envelope = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _Damaged("not valid JSON") from None
    if not isinstance(envelope, dict) or set(envelope) != {"format", "digest", "record"}:
        raise _Damaged("not a record")
    _check_format(envelope["format"], where)
    body = envelope["record"]
    try:
        intact = isinstance(body, dict) and _digest(body) == envelope["digest"]
        if not intact:
            raise _Damaged("its digest does not match")
        record = Record.from_json(body)
    except (UnlearnError, AttributeError, TypeError, RecursionError) as error:
        raise _Damaged(str(error)) from None
    if record.key != key:
        raise _Damaged(f"it holds the record {record.key}")
    return record


def _check_format(version: object, where: str) -> None:
    """Raise UnlearnError if `version` is newer than ours, _Damaged if it is no version at all."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise _Damaged(f"its format is {version!r}")
    if version > FORMAT:
        # Not damaged: a newer release wrote it, and moving it aside would be taking it away.
        raise UnlearnError(
            f"{where} is of format {version} and this release reads up to {FORMAT}: "
            "upgrade unlearnlib."
        )


# --- files -----------------------------------------------------------------------------------


def _cannot(verb: str, path: Path, error: OSError) -> UnlearnError:
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run again, what is stored stays"
    else:
        remedy = "check its permissions or choose another folder"
    return UnlearnError(f"cannot {verb} {path} ({reason}): {remedy}.")


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, as far as its file system knows how to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some (of network shares and virtual machines) sync files and no folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _link_new(source: Path, target: Path) -> bool:
    """Give the file `source` the name `target` too; False if that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links (exFAT, some network shares). Renaming is atomic too;
        # only a second writer of the same key within these two lines could replace the first.
        if target.exists():
            return False
        os.rename(source, target)
    return True


def write_file(path: Path, raw: bytes, *, replace: bool = False) -> bool:
    """Write a file whole or not at all; unless `replace`, False if the name is taken.

    Raises UnlearnError if the folder cannot be written or the disk is full; the temporary file
    is then removed and whatever stood at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _make_folder(path.parent)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                os.replace(temporary, path)
            elif not _link_new(temporary, path):
                return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot("write", path, error) from None
    return True


# --- the store -------------------------------------------------------------------------------


class Store:
    """A folder of records. Opening one that does not exist yet is fine; `put` makes it."""

    def __init__(self, root: Path) -> None:
        """Raises UnlearnError if a newer release wrote the store, or `format.json` is damaged."""
        self.root = Path(root)
        self._check_store_format()

    def _check_store_format(self) -> bool:
        """Whether `format.json` is there; raises UnlearnError if it rules this release out."""
        path = self.root / "format.json"
        try:
            content = json.loads(path.read_bytes())
            _check_format(content["format"], f"the store {self.root}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _cannot("read", path, error) from None
        except UnlearnError:
            raise
        except (_Damaged, ValueError, KeyError, TypeError):
            raise UnlearnError(
                f"{path} does not say the store's format: restore it or delete that one file."
            ) from None
        return True

    def _path(self, key: str) -> Path:
        return self.root / "records" / _check_key(key)[:2] / f"{key}.json"

    def _read(self, key: str) -> Record | None:
        """The record, or None if there is none. Raises _Damaged after moving a bad one aside."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot("read", path, error) from None
        try:
            return _unpack(raw, key, f"the record {path}")
        except _Damaged as error:
            moved = self._set_aside(path)
            where = f"moved to {moved}" if moved else "could not be moved"
            _log.warning(
                "the record %s is damaged (%s) and was set aside (%s): run the study again to "
                "replace it; the other records are unaffected.",
                path,
                error,
                where,
            )
            raise _Damaged(f"{error}; {where}") from None

    def _set_aside(self, path: Path) -> Path | None:
        """Move a damaged file to `set_aside/`, overwriting nothing; None if that is impossible."""
        folder = self.root / "set_aside"
        try:
            _make_folder(folder)
            for number in itertools.count():
                target = folder / (f"{path.stem}.{number}.json" if number else path.name)
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                    break
            try:
                os.replace(path, target)
            except OSError:
                target.unlink()
                raise
            # Between our reading and our moving, another process may have done both and stored
            # the record anew; then we have just moved a good one, and give it its name back.
            try:
                _unpack(target.read_bytes(), path.stem, str(target))
            except _Damaged:
                return target
            if _link_new(target, path):
                target.unlink(missing_ok=True)
            return target
        except OSError:
            return None

    def put(self, record: Record) -> bool:
        """File a record; False, and nothing written, if its key is present already.

        A damaged record under the same key does not count as present: it is set aside. Raises
        UnlearnError if the folder cannot be written or the disk is full.
        """
        if not self._check_store_format():
            write_file(self.root / "format.json", json.dumps({"format": FORMAT}).encode("ascii"))
        if record.key in self:
            return False
        return write_file(self._path(record.key), _pack(record).encode("ascii"))

    def get(self, key: str) -> Record:
        """The record under `key`. Raises UnlearnError if it is absent or damaged."""
        try:
            record = self._read(key)
        except _Damaged as error:
            raise UnlearnError(
                f"the record {self._path(key)} is damaged ({error}): run the study again to "
                "replace it."
            ) from None
        if record is None:
            raise UnlearnError(f"no record {key} in {self.root}: run its study first.")
        return record

    def __contains__(self, key: object) -> bool:
        """Whether an intact record is there; a damaged one is set aside, with a warning."""
        try:
            return self._read(_check_key(key)) is not None
        except _Damaged:
            return False

    def keys(self) -> list[str]:
        """The keys of all record files, sorted; whether each is intact shows on reading it."""
        paths = (self.root / "records").glob("??/*.json")
        return sorted(
            path.stem
            for path in paths
            if _KEY.fullmatch(path.stem) and path.parent.name == path.stem[:2]
        )

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have no intact record, in the given order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def records(self) -> Iterator[Record]:
        """All intact records by key; damaged ones are set aside, each with a warning."""
        for key in self.keys():
            with contextlib.suppress(_Damaged):
                record = self._read(key)
                if record is not None:
                    yield record

    def claim(
        self, key: str, stale_after: float = STALE_AFTER
    ) -> contextlib.AbstractContextManager[bool]:
        """Claim the computation of `key`: yields True to one process and False to the others.

            with store.claim(key) as mine:
                if mine and key not in store:
                    store.put(compute())

        (Look into the store again inside: another process may have finished just before.) The
        claim is a file that names host and process; while the block runs a thread touches it
        every `stale_after` / 10 seconds, and leaving the block in any way removes it. A claim is
        taken over if its process no longer exists on this host, or if it was not touched for
        `stale_after` seconds, on whatever host. A claim saves work and is not needed for
        correctness: `put` keeps the first record whoever computes. Raises UnlearnError if the
        folder cannot be written.
        """
        return Claims(self.root / "claims").hold(_check_key(key), stale_after)


# --- claims -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claims:
    """Who computes which key at the moment: files in one folder, which several machines may share.

    A claim that was abandoned must be taken over by one process only. Deleting it and making a new
    one would not do: a slower process that judged the old claim may delete the new one. So claims
    are numbered, KEY.json, KEY.1.json, ..., the highest one counts, and taking over claim n is
    creating n + 1, which only one process can, while claim n is still that claim.
    """

    folder: Path

    @contextlib.contextmanager
    def hold(self, key: str, stale_after: float = STALE_AFTER) -> Iterator[bool]:
        """Hold the claim on `key` for the length of a block, see `Store.claim`."""
        held = self._acquire(key, stale_after)
        if held is None:
            yield False
            return
        path, body = held
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(path, stop, stale_after / 10), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            with contextlib.suppress(OSError):
                if path.read_bytes() == body:  # else it was taken over, and is not ours to remove
                    self._release(key, path)

    def _release(self, key: str, path: Path) -> None:
        """Remove a claim of ours and the abandoned ones below it."""
        claims = self._standing(key)
        # Ours last, so that no abandoned one below it ever seems to be the highest.
        for number in sorted(claims):
            claims[number].unlink(missing_ok=True)
            if claims[number] == path:
                break

    def _standing(self, key: str) -> dict[int, Path]:
        """Number -> file of the claims on `key`."""
        found = {}
        for path in self.folder.glob(f"{key}*.json"):
            number = path.name.removeprefix(key).removesuffix("json").strip(".") or "0"
            if number.isdecimal():
                found[int(number)] = path
        return found

    def _acquire(self, key: str, stale_after: float) -> tuple[Path, bytes] | None:
        """File and content of a new claim of ours, or None if somebody else holds one."""
        body = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "born": _born(os.getpid()),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "token": uuid.uuid4().hex,
            }
        ).encode("ascii")
        while True:
            claims = self._standing(key)
            last = max(claims, default=-1)
            held = _read_claim(claims[last]) if claims else None
            if claims and held is None:
                continue  # released while we looked
            if held is not None and not _abandoned(held, self.folder, stale_after):
                return None
            path = self.folder / (f"{key}.{last + 1}.json" if claims else f"{key}.json")
            try:
                if not write_file(path, body):
                    continue  # somebody was faster
            except UnlearnError:
                # The folder could not be flushed: the file may be there, and nobody will own it.
                with contextlib.suppress(OSError):
                    if path.read_bytes() == body:
                        path.unlink(missing_ok=True)
                raise
            below = _read_claim(claims[last]) if held is not None else None
            if held is None or (below is not None and below[0] == held[0]):
                return path, body
            # The claim that we meant to take over has gone, and its number may have a new owner.
            path.unlink(missing_ok=True)


def _beat(path: Path, stop: threading.Event, every: float) -> None:
    """Touch a claim every `every` seconds until told to stop."""
    while not stop.wait(every):
        with contextlib.suppress(OSError):
            os.utime(path)


def _read_claim(path: Path) -> tuple[bytes, float] | None:
    """Content and time of the last heartbeat (seconds) of a claim; None if it has gone."""
    try:
        return path.read_bytes(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", path, error) from None


def _abandoned(claim: tuple[bytes, float], folder: Path, stale_after: float) -> bool:
    """Whether nobody stands behind a claim any more."""
    content, touched = claim
    # A shared file system stamps files by its own clock, so "now" has to be asked of it as well.
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        try:
            probe.write_bytes(b".")
            now = probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot("write", probe, error) from None
    if now - touched > stale_after:
        return True
    try:
        owner = json.loads(content)
        host, pid, born = owner["host"], int(owner["pid"]), owner.get("born")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # it names nobody: only its age can tell
    return host == socket.gethostname() and not _is_alive(pid, born)


def _is_alive(pid: int, born: object = None) -> bool:
    """Whether a process of this host exists; True where the system cannot be asked harmlessly.

    Numbers of processes are used again, at once where a container starts anew: a process that
    began at another time than `born` is another one. One that was killed and is only waiting for
    its parent to hear of it is not alive.
    """
    if os.name == "nt":  # there, os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it exists and belongs to somebody else
    now = _born(pid)
    return now != "" and (now is None or not born or now == born)


def _born(pid: int) -> str | None:
    """When a process began (boot and clock tick), "" if it has ended; None off Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        state, ticks = fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
    return "" if state in (b"Z", b"X") else f"{boot}:{ticks}"


# --- published records -----------------------------------------------------------------------

_SPEC_COLUMNS = {"profile": str, "domain": str, "method": str, "seed": int}
COLUMNS = ("key", "kind", "status", *_SPEC_COLUMNS, "record")


def _row(record: Record) -> dict[str, Any]:
    """One row of the Parquet file; null where the spec has no such field of that type."""
    row: dict[str, Any] = {"key": record.key, "kind": record.kind, "status": record.status}
    for name, kind in _SPEC_COLUMNS.items():
        value = record.spec.get(name)
        row[name] = value if type(value) is kind and _fits_column(value) else None
    row["record"] = _pack(record)
    return row


def _fits_column(value: Any) -> bool:
    """Whether Parquet can hold a text (not half a surrogate pair) or a number (64 bits)."""
    if isinstance(value, str):
        return value.isascii() or value == value.encode("utf-8", "replace").decode("utf-8")
    return -(2**63) <= int(value) < 2**63


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Publish records as one Parquet file, replacing it atomically.

    Columns `COLUMNS`, one row per record: those from the spec are there for whoever reads the
    file with other tools, `record` is the text of the record's file in a store, digest included.
    Rows are sorted by key, so the same records give the same bytes (with the same pyarrow).
    Raises UnlearnError for two records with one key, or if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_key: dict[str, Record] = {}
    for record in records:
        if record.key in by_key:
            raise UnlearnError(f"two records have the key {record.key}: give each run once.")
        by_key[record.key] = record
    types = {
        name: pa.int64() if _SPEC_COLUMNS.get(name) is int else pa.string() for name in COLUMNS
    }
    schema = pa.schema(list(types.items()))
    rows = [_row(by_key[key]) for key in sorted(by_key)]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema),
        buffer,
        compression="zstd",
        write_statistics=False,  # they would repeat whole records in the footer
    )
    write_file(Path(path), buffer.getvalue().to_pybytes(), replace=True)


def read_parquet(path: Path) -> list[Record]:
    """The records of a file made by `write_parquet`, sorted by key, each checked by its digest.

    The records of a file that was read before are the same objects again: a file's bytes, not its
    time, tell whether it changed. Raises UnlearnError if the file is missing, broken, has other
    columns, is of a newer format, or holds a record that was changed.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise _cannot("read", Path(path), error) from None
    return list(_records_in(raw, str(path)))


# Parsing and checking take a thousand times as long as reading the bytes, and the chapters ask for
# the same few files again and again.
@functools.lru_cache(maxsize=64)
def _records_in(raw: bytes, path: str) -> tuple[Record, ...]:
    """The records in the bytes of a Parquet file; `path` is named in errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "restore it from the repository or publish it again"
    try:
        table = pq.ParquetFile(pa.BufferReader(raw)).read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        # An Arrow message may run over several lines.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")
        raise UnlearnError(f"{path} is not a readable Parquet file ({reason}): {remedy}.") from None
    if table.column_names != list(COLUMNS):
        raise UnlearnError(
            f"{path} has the columns {', '.join(table.column_names) or '(none)'} instead of "
            f"{', '.join(COLUMNS)}: {remedy}."
        )
    records: list[Record] = []
    for number, row in enumerate(rows):
        try:
            record = _unpack(str(row["record"]).encode(), row["key"], f"{path}, row {number},")
            if _row(record) != row:
                raise _Damaged("its columns do not match it")
        except _Damaged as error:
            raise UnlearnError(
                f"{path}, row {number}: the record {row['key']} is damaged ({error}): {remedy}."
            ) from None
        if records and records[-1].key >= record.key:
            raise UnlearnError(f"{path}, row {number}: the keys are out of order: {remedy}.")
        records.append(record)
    return tuple(records)


class Library:
    """All records at hand: those of a local store first, then the published ones."""

    def __init__(self, published: Sequence[Path] = (), store: Store | None = None) -> None:
        """Reads the published files; where two hold one key, the first wins (see read_parquet)."""
        self.store = store
        self._published: dict[str, Record] = {}
        for path in published:
            for record in read_parquet(path):
                self._published.setdefault(record.key, record)

    def get(self, key: str) -> Record:
        """The record under `key`. Raises UnlearnError if there is no intact one anywhere."""
        if self.store is not None and (key not in self._published or key in self.store):
            return self.store.get(key)
        if _check_key(key) not in self._published:
            raise UnlearnError(f"no published record {key}: run its study first.")
        return self._published[key]

    def __contains__(self, key: object) -> bool:
        return _check_key(key) in self._published or (self.store is not None and key in self.store)

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted({*self._published, *(self.store.keys() if self.store else [])})

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are nowhere, in the given order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def records(self) -> Iterator[Record]:
        """All intact records by key, each once."""
        for key in self.keys():
            if key in self:
                yield self.get(key)


# --- provenance ------------------------------------------------------------------------------


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed


def _processor() -> str:
    """The processor's model. Linux's own `platform.processor` is often empty."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def git_commit(file: Path) -> str | None:
    """The commit of the checkout that tracks `file`, "-dirty" added if tracked files differ.

    None without git, or if `file` is not tracked: an installed package may well lie inside
    somebody else's checkout, whose commit says nothing about it.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(file.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(
    started: datetime,
    seconds: float,
    device: str,
    command: str,
    packages: Sequence[str] = (),
    **more: object,
) -> dict[str, Any]:
    """Where a record came from: versions, machine, time and the command that repeats it.

    `started` is written as ISO 8601 in UTC, `seconds` is the run's duration, `packages` are those
    that this run used besides the usual ones, `more` is added as given (`flops`,
    `peak_memory_bytes`, ...). Neither the host's name nor any path is recorded,
    since records are published; keep paths out of `command` as well.
    """
    import torch

    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    packages = ("torch", "transformers", "numpy", "unlearnlib", *packages)
    record: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
            "torch": str(torch.__version__),  # names the build, as in 2.13.0+cpu
        },
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "device": device,
        "accelerator": torch.cuda.get_device_name(device) if on_gpu else None,
        "threads": torch.get_num_threads(),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "command": command,
        "commit": git_commit(Path(__file__).resolve()),
    }
    return record | more
