"""The run store (`Store`): a folder with one content-addressed record per run, never rewritten.

A run is a pure function of its spec, so its record is filed under a key that hashes the spec and
what it rests on: data, model, tokenizer and more (`run_key`). Resuming a study is then asking which
keys are missing; two machines that share a folder need no other agreement. On disk:

    ROOT/format.json             {"format": 2}
    ROOT/records/ab/KEY.json     {"format": 2, "digest": SHA-256 of the body, "record": {...}}
    ROOT/claims/KEY.json         who is computing KEY at the moment (`Store.claim`)
    ROOT/set_aside/              damaged records, moved out of the way, never deleted

Records of an earlier format (`record.FORMAT`) stay where they are, and are not used: their keys
leave out what now belongs to them. A warning says how they get new ones.

A record appears whole or not at all: it is written to a temporary file in its own folder, synced,
and then linked to its name, which fails if the name is taken.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from unlearnlib.errors import UnlearnError
from unlearnlib.store.claims import STALE_AFTER, Claims
from unlearnlib.store.files import file_error, link_new, make_folder, write_file
from unlearnlib.store.record import (
    FORMAT,
    KEY,
    Damaged,
    Outdated,
    Record,
    check_format,
    check_key,
    pack,
    unpack,
)

_log = logging.getLogger(__name__)


class Store:
    """A folder of records. Opening one that does not exist yet is fine; `put` makes it."""

    def __init__(self, root: Path) -> None:
        """Raises UnlearnError if a newer release wrote the store, or `format.json` is damaged."""
        self.root = Path(root)
        self._told = False  # that there are records of an earlier format
        self._check_store_format()

    def _check_store_format(self) -> bool:
        """Whether `format.json` says this format; UnlearnError if it rules this release out."""
        path = self.root / "format.json"
        try:
            content = json.loads(path.read_bytes())
            check_format(content["format"], f"the store {self.root}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise file_error("read", path, error) from None
        except UnlearnError:
            raise
        except (Damaged, ValueError, KeyError, TypeError):
            raise UnlearnError(
                f"{path} does not say the store's format: restore it or delete that one file."
            ) from None
        return bool(content["format"] == FORMAT)

    def _path(self, key: str) -> Path:
        return self.root / "records" / check_key(key)[:2] / f"{key}.json"

    def _read(self, key: str) -> Record | None:
        """The record, or None if there is none of this format.

        Raises Damaged after moving a bad one aside.
        """
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error("read", path, error) from None
        try:
            return unpack(raw, key, f"the record {path}")
        except Outdated:
            self._tell_of_outdated()
            return None
        except Damaged as error:
            moved = self._set_aside(path)
            where = f"moved to {moved}" if moved else "could not be moved"
            _log.warning(
                "the record %s is damaged (%s) and was set aside (%s): run the study again to "
                "replace it; the other records are unaffected.",
                path,
                error,
                where,
            )
            raise Damaged(f"{error}; {where}") from None

    def _tell_of_outdated(self) -> None:
        """Warn once of records of an earlier format, and say how they are taken along."""
        if not self._told:
            self._told = True
            _log.warning(
                "the store %s has records of an earlier format, which are left there and not used, "
                "since their keys leave out the tokenizer and more: `python tools/rekey.py --store "
                "%s` gives them their keys.",
                self.root,
                self.root,
            )

    def _set_aside(self, path: Path) -> Path | None:
        """Move a damaged file to `set_aside/`, overwriting nothing; None if that is impossible."""
        folder = self.root / "set_aside"
        try:
            make_folder(folder)
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
                unpack(target.read_bytes(), path.stem, str(target))
            except Damaged:
                return target
            except Outdated:
                pass
            if link_new(target, path):
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
            text = json.dumps({"format": FORMAT}).encode("ascii")
            write_file(self.root / "format.json", text, replace=True)
        if record.key in self:
            return False
        return write_file(self._path(record.key), pack(record).encode("ascii"))

    def get(self, key: str) -> Record:
        """The record under `key`. Raises UnlearnError if it is absent or damaged."""
        try:
            record = self._read(key)
        except Damaged as error:
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
            return self._read(check_key(key)) is not None
        except Damaged:
            return False

    def keys(self) -> list[str]:
        """The keys of all record files, sorted; whether each is intact shows on reading it."""
        paths = (self.root / "records").glob("??/*.json")
        return sorted(
            path.stem
            for path in paths
            if KEY.fullmatch(path.stem) and path.parent.name == path.stem[:2]
        )

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have no intact record, in the given order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def records(self) -> Iterator[Record]:
        """All intact records by key; damaged ones are set aside, each with a warning."""
        for key in self.keys():
            with contextlib.suppress(Damaged):
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
        taken over if it was not touched for `stale_after` seconds by the file system's clock,
        wherever its process is; sooner if that was of this host, this boot and this PID namespace
        (containers have their own) and no longer exists. A claim saves work and is not needed for
        correctness: `put` keeps the first record whoever computes. Raises UnlearnError if the
        folder cannot be written.
        """
        return Claims(self.root / "claims").hold(check_key(key), stale_after)
