"""Published records: Parquet files, and a library of these and of a local store.

A Parquet file holds the same text, digest included, as the record's file in a store
(`write_parquet`). `Library` looks in a store first and then in those files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError, first_line
from unlearnlib.store.files import file_error, write_file
from unlearnlib.store.folder import Store
from unlearnlib.store.record import Damaged, Outdated, Record, check_key, pack, unpack

_SPEC_COLUMNS = {"profile": str, "domain": str, "method": str, "seed": int}
COLUMNS = ("key", "kind", "status", *_SPEC_COLUMNS, "record")


def _row(record: Record) -> dict[str, Any]:
    """One row of the Parquet file; null where the spec has no such field of that type."""
    row: dict[str, Any] = {"key": record.key, "kind": record.kind, "status": record.status}
    for name, kind in _SPEC_COLUMNS.items():
        value = record.spec.get(name)
        row[name] = value if type(value) is kind and _fits_column(value) else None
    row["record"] = pack(record)
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
        raise file_error("read", Path(path), error) from None
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
        raise UnlearnError(
            f"{path} is not a readable Parquet file ({first_line(error)}): {remedy}."
        ) from None
    if table.column_names != list(COLUMNS):
        raise UnlearnError(
            f"{path} has the columns {', '.join(table.column_names) or '(none)'} instead of "
            f"{', '.join(COLUMNS)}: {remedy}."
        )
    records: list[Record] = []
    for number, row in enumerate(rows):
        try:
            record = unpack(str(row["record"]).encode(), row["key"], f"{path}, row {number},")
            if _row(record) != row:
                raise Damaged("its columns do not match it")
        except Outdated as error:
            raise UnlearnError(
                f"{path}, row {number}: the record {row['key']} cannot be used ({error}): give the "
                "file's records their keys with `python tools/rekey.py FILE`."
            ) from None
        except Damaged as error:
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
        if check_key(key) not in self._published:
            raise UnlearnError(f"no published record {key}: run its study first.")
        return self._published[key]

    def __contains__(self, key: object) -> bool:
        return check_key(key) in self._published or (self.store is not None and key in self.store)

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
