"""What a file of documents holds: a text, or rows of texts, read one after another.

A reader for each kind of file, found by its name. Whatever goes wrong in one, here or in a library,
becomes one sentence that names the file. Rows come from a stream: of a file of many no more than a
few are in memory.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unlearnlib.corpus.columns import Named, Text, check_encodable, choose, id_in_rows
from unlearnlib.corpus.opening import Entry, kind, opened, seekable
from unlearnlib.errors import UnlearnError, first_line

LINES = (".jsonl", ".ndjson")
JSON = ".json"
# The files that have rows, and so columns.
ROWS = (*LINES, JSON, ".parquet", ".csv", ".tsv", ".arrow")
UNREAD = dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), "unpack it")
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16, or UTF-32, begins
_MARK = b"\xef\xbb\xbf"  # how Windows begins a file in UTF-8; no part of its text
_HEAD = 1 << 16  # bytes that tell how a file is encoded
_BLOCKS = (1 << 18, 1 << 22, 1 << 26, (1 << 31) - 1)  # bytes of a table of commas at a time


def is_binary(entry: Entry) -> bool:
    """Whether a file found in a folder is no text at all.

    Only a file that has a NUL byte *and* is not UTF-8: NUL alone is a legal character, and bad
    UTF-8 alone, or UTF-16, is a text in another encoding, which the user should hear about.
    """
    if kind(entry.inner) in ROWS:
        return False
    with opened(entry) as stream:
        if _is_utf16(stream.peek(_HEAD)[:_HEAD]):
            return False
        decoder, nul, broken = codecs.getincrementaldecoder("utf-8")(), False, False
        while (block := stream.read(_HEAD)) and not (nul and broken):
            nul = nul or b"\0" in block
            try:
                broken or decoder.decode(block)
            except UnicodeDecodeError:
                broken = True
        with contextlib.suppress(UnicodeDecodeError):
            return nul and (broken or decoder.decode(b"", final=True) is None)
        return nul


def _is_utf16(raw: bytes) -> bool:
    """Whether bytes begin with the mark of UTF-16, or have its NUL beside every Latin letter."""
    if raw.startswith(_OTHER_UNICODE):
        return True
    if b"\0" not in raw:
        return False
    low, high = sorted(half.count(b"\0") for half in (raw[::2], raw[1::2]))
    return low == 0 and len(raw) >= 16 and 4 * high > len(raw)


def has_rows(entry: Entry, named: Named) -> bool:
    """Whether a .json found in a folder is rows of texts, and not settings of some program."""
    try:
        return next(read_texts(entry, named), None) is not None
    except UnlearnError:
        return False


def read_texts(entry: Entry, named: Named) -> Iterator[Text]:
    """The texts of a file: a text file is one, and a row of another file is one or several."""
    ending = kind(entry.inner)
    if ending in LINES:
        yield from _row_texts(entry, _objects(entry), named)
    elif ending == JSON:
        array = _begins(entry) == "["
        yield from _row_texts(entry, _array(entry) if array else _objects(entry), named)
    elif ending in ROWS:
        yield from _table_texts(entry, named)
    else:
        text = _text(entry)
        check_encodable(text, str(entry))
        yield Text(1, None, text)


# ---------------------------------------------------------------- UTF-8


def _check_encoding(entry: Entry, head: bytes) -> None:
    if _is_utf16(head):  # may well be UTF-8 too, with a NUL after every letter
        raise UnlearnError(f"{entry} is UTF-16 or UTF-32, not UTF-8: convert it to UTF-8 first.")


def _not_utf8(entry: Entry, place: int) -> UnlearnError:
    return UnlearnError(f"{entry} is not UTF-8 (byte {place}): convert it to UTF-8 first.")


def _text(entry: Entry) -> str:
    """The whole file as text, newlines untouched, without the byte-order mark of Windows."""
    with opened(entry) as stream:
        raw = stream.read()
    _check_encoding(entry, raw)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_utf8(entry, error.start) from error


def _lines(entry: Entry) -> Iterator[str]:
    """The lines of a file, without the byte-order mark of Windows."""
    with opened(entry) as stream:
        _check_encoding(entry, stream.peek(_HEAD)[:_HEAD])
        place = 0
        # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a string.
        for line in stream:
            try:
                yield line.decode("utf-8").removeprefix("" if place else "\ufeff")
            except UnicodeDecodeError as error:
                raise _not_utf8(entry, place + error.start) from error
            place += len(line)


class _CheckedUtf8(io.RawIOBase):
    """A stream of bytes that are UTF-8, without the mark of Windows; others are refused."""

    def __init__(self, entry: Entry, stream: io.BufferedReader[Any]):
        self._entry, self._stream, self._place = entry, stream, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        _check_encoding(entry, stream.peek(_HEAD)[:_HEAD])
        if stream.peek(len(_MARK)).startswith(_MARK):
            self._place += len(stream.read(len(_MARK)))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        held = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_utf8(self._entry, self._place - held + error.start) from error
        self._place += len(block)
        buffer[: len(block)] = block
        return len(block)


# ---------------------------------------------------------------- JSON


def _row_texts(
    entry: Entry, rows: Iterator[tuple[int, Mapping[str, Any]]], named: Named
) -> Iterator[Text]:
    """The texts of numbered rows; the first one decides on the columns."""
    columns, other = None, id_in_rows(named)
    for number, row in rows:
        columns = columns or choose(str(entry), list(row), named)
        yield from columns.texts(number, row, other)


def _objects(entry: Entry) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    for number, line in enumerate(_lines(entry), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnlearnError(
                f"line {number} of {entry} is not JSON: write one object per line."
            ) from error
        if not isinstance(row, dict):
            raise UnlearnError(
                f"line {number} of {entry} is not a JSON object: write lines such as "
                '{"id": "...", "text": "..."}.'
            )
        yield number, row


def _begins(entry: Entry) -> str:
    """The first letter of a file that is no space."""
    return next((line.lstrip()[0] for line in _lines(entry) if line.strip()), "")


def _array(entry: Entry) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of each item of a JSON array; a string is an object's text."""
    text, decoder = _text(entry), json.JSONDecoder()
    place, number = text.index("[") + 1, 0
    while True:
        place = _skipped(text, place)
        if text[place : place + 1] == "]" and _skipped(text, place + 1) == len(text):
            return
        if number:
            if text[place : place + 1] != ",":
                break
            place = _skipped(text, place + 1)
        number += 1
        try:
            row, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise UnlearnError(
                f"item {number} of {entry} is not a JSON object: write items such as "
                '{"id": "...", "text": "..."}.'
            )
        yield number, row
    raise UnlearnError(
        f"{entry} is not JSON at item {number} (character {place}): write an array of objects, or "
        "one object per line."
    )


def _skipped(text: str, place: int) -> int:
    """The next place that is no white space of JSON."""
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


# ---------------------------------------------------------------- tables


def _table_texts(entry: Entry, named: Named) -> Iterator[Text]:
    """The texts of a table; of its columns only those that are asked for are read."""
    import pyarrow as pa

    ending = kind(entry.inner)
    what = {".parquet": "Parquet", ".arrow": "Arrow"}.get(ending, ending[1:].upper())
    try:
        if ending in (".csv", ".tsv"):
            yield from _csv_texts(entry, named)
        else:
            with contextlib.ExitStack() as stack:
                names, batches = _opened(entry, stack)
                columns = choose(str(entry), names, named)
                rows = _batch_rows(batches(columns.roots), columns.roots)
                for number, row in enumerate(rows, 1):
                    yield from columns.texts(number, row, None)
    except UnlearnError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        raise UnlearnError(
            f"{entry} is not a readable {what} file ({first_line(error)}): write it again."
        ) from error


def _batch_rows(batches: Any, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of Arrow's batches, one at a time."""
    for batch in batches:
        # A damaged file's offsets may point anywhere: looked at before they are followed.
        batch.validate(full=True)
        columns = [batch.column(name) for name in names]
        for place in range(batch.num_rows):
            yield {name: column[place].as_py() for name, column in zip(names, columns, strict=True)}


def _opened(entry: Entry, stack: contextlib.ExitStack) -> tuple[list[str], Callable[..., Any]]:
    """The columns of a table, and a function from some of them to batches of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = stack.enter_context(seekable(entry))
    if kind(entry.inner) == ".parquet":
        parquet = stack.enter_context(pq.ParquetFile(source))
        names = parquet.schema_arrow.names
        # Columns within a column have names like a.b here: all of them are wanted.
        return names, lambda some: parquet.iter_batches(batch_size=32, columns=list(some))
    try:
        stream = pa.ipc.open_stream(source)
    except pa.ArrowInvalid:  # the other format of Arrow, that has its index at the end
        source.seek(0)
        whole = pa.ipc.open_file(source)
        names, found = whole.schema.names, map(whole.get_batch, range(whole.num_record_batches))
    else:
        names, found = stream.schema.names, iter(stream)
    return names, lambda some: (batch.select(list(some)) for batch in found)


def _csv_texts(entry: Entry, named: Named) -> Iterator[Text]:
    """The texts of a table of values between commas or tabs, under a row of names.

    They are read as they are spelt; nothing in them is taken for a number. Where a row is longer
    than a block longer ones are read; Arrow reads up to 32 of them ahead.
    """
    import pyarrow as pa

    done = 0
    for size in _BLOCKS:
        try:
            with opened(entry) as stream:
                names = _csv_reader(_CheckedUtf8(entry, stream), entry, size, None).schema.names
            columns = choose(str(entry), names, named)
            with opened(entry) as stream:
                reader = _csv_reader(_CheckedUtf8(entry, stream), entry, size, columns.roots)
                for number, row in enumerate(_batch_rows(reader, columns.roots), 1):
                    if number > done:
                        yield from columns.texts(number, row, None)
                        done = number
            return
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or size == _BLOCKS[-1]:
                raise


def _csv_reader(source: Any, entry: Entry, size: int, wanted: tuple[str, ...] | None) -> Any:
    """Arrow's reader of batches of the columns `wanted`, all of them strings; None: of all."""
    import pyarrow as pa
    import pyarrow.csv as pc

    types = {} if wanted is None else dict.fromkeys(wanted, pa.string())
    return pc.open_csv(
        pa.PythonFile(io.BufferedReader(source), "r"),
        read_options=pc.ReadOptions(use_threads=False, block_size=size),
        parse_options=pc.ParseOptions(
            delimiter="\t" if kind(entry.inner) == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=pc.ConvertOptions(
            column_types=types, include_columns=None if wanted is None else list(wanted)
        ),
    )
