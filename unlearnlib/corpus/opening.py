"""Files of documents, opened: regular ones alone, unpacked on the way, and never without end.

A packed file is read as a stream, up to `MOST_UNPACKED`: a few thousand bytes can unpack to all the
memory that there is. A .zip is a folder of files in one; nothing is ever written to disk.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from unlearnlib.errors import UnlearnError, first_line
from unlearnlib.text import gigabytes, printable

MOST_UNPACKED = 1 << 30  # bytes that a packed file may unpack to, and all files of a .zip together
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
POINTER = b"version https://git-lfs.github.com/spec/"  # how a pointer of Git LFS begins
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
}


@dataclass(frozen=True)
class Entry:
    """A file of documents: one of the file system, or a member of a .zip there, which is open."""

    path: Path
    member: str | None = None
    archive: Any = field(default=None, compare=False, repr=False)

    @property
    def inner(self) -> PurePath:
        """The path that tells what the file holds: the member's, of a .zip."""
        return self.path if self.member is None else PurePosixPath(self.member)

    def __str__(self) -> str:
        """As sentences have it, in one line."""
        within = "" if self.member is None else f" in {shown(self.path)}"
        return shown(self.inner) + within


def shown(path: PurePath) -> str:
    """A path as sentences have it, in one line."""
    return printable(str(path))


def kind(file: PurePath) -> str:
    """The ending that says what a file holds, in small letters; that of what a `.gz` packs."""
    return PurePath(plain_name(file)).suffix.lower()


def plain_name(file: PurePath) -> str:
    """The name of a file without `.gz` and the like."""
    return file.stem if file.suffix.lower() in PACKED else file.name


def status(path: Path) -> os.stat_result:
    """What the system says of a path; `UnlearnError` where it says nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        raise UnlearnError(
            f"{shown(path)} does not exist: check the path of the documents."
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(shown(path), error) from error


def check_regular(path: Path) -> int:
    """The size in bytes of a regular file; a pipe or a device is refused, for it may never end."""
    found = status(path)
    _refuse_others(path, found.st_mode)
    return found.st_size


def size_of(entry: Entry) -> int:
    """The size in bytes of a file as it lies there."""
    if entry.member is None:
        return check_regular(entry.path)
    return int(entry.archive.getinfo(entry.member).file_size)


def _refuse_others(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UnlearnError(
            f"{shown(path)} is {what}, not a file: write its contents to a file and give that."
        )


def _unreadable(name: str, error: Exception) -> UnlearnError:
    why = getattr(error, "strerror", None) or printable(str(error)) or type(error).__name__
    return UnlearnError(f"{name} cannot be read ({why}): check its permissions.")


def _open_regular(path: Path) -> BinaryIO:
    """A regular file, opened without ever waiting for a writer at its other end."""
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise _unreadable(shown(path), error) from error
    with contextlib.ExitStack() as stack:
        stack.callback(handle.close)
        # It may have been replaced since it was looked at.
        _refuse_others(path, os.fstat(handle.fileno()).st_mode)
        stack.pop_all()
    return handle


class _Stream(io.RawIOBase):
    """The bytes of a file, unpacked; whatever goes wrong under way is one sentence."""

    def __init__(self, name: str, source: Any, packed: str):
        self._name, self._source, self._packed, self._count = name, source, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._source.read(len(buffer))
        except Exception as error:  # each library has errors of its own
            if not self._packed:
                raise _unreadable(self._name, error) from error
            raise UnlearnError(
                f"{self._name} is not a whole {self._packed} file ({first_line(error)}): pack "
                "it again."
            ) from error
        self._count += len(block)
        if self._packed and self._count > MOST_UNPACKED:
            raise UnlearnError(
                f"{self._name} unpacks to more than {gigabytes(MOST_UNPACKED)}: unpack it, and "
                "give what it holds."
            )
        buffer[: len(block)] = block
        return len(block)


def _unpacked(handle: BinaryIO, packed: str) -> Any:
    """A reader of what a packed file holds."""
    if packed == "gzip":
        return gzip.GzipFile(fileobj=handle)
    if packed == "bzip2":
        return bz2.BZ2File(handle)
    if packed == "xz":
        return lzma.LZMAFile(handle)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(handle, "r"), "zstd")


@contextlib.contextmanager
def opened(entry: Entry) -> Iterator[io.BufferedReader[Any]]:
    """The bytes of a file as a stream, unpacked; a pointer of Git LFS is refused."""
    with contextlib.ExitStack() as stack:
        if entry.member is None:
            source: Any = stack.enter_context(_open_regular(entry.path))
            packed = ""
        else:
            source = _Stream(str(entry), stack.enter_context(_member(entry)), "zip")
            packed = "zip"
        if (how := PACKED.get(entry.inner.suffix.lower())) is not None:
            source, packed = _unpacked(source, how), how
        stream: io.BufferedReader[Any] = io.BufferedReader(
            _Stream(str(entry), source, packed), 1 << 16
        )
        if stream.peek(len(POINTER)).startswith(POINTER):
            raise UnlearnError(
                f"{entry} is a pointer of Git LFS and not the file itself: run `git lfs pull` in "
                "its folder."
            )
        yield stream


@contextlib.contextmanager
def seekable(entry: Entry) -> Iterator[BinaryIO]:
    """The same for readers that jump: a plain file itself, of a packed one all bytes in memory."""
    if entry.member is None and entry.inner.suffix.lower() not in PACKED:
        with opened(entry):
            pass
        with _open_regular(entry.path) as handle:
            yield handle
        return
    with opened(entry) as stream:
        whole = io.BytesIO(stream.read())
    yield whole


# ---------------------------------------------------------------- .zip


@contextlib.contextmanager
def _member(entry: Entry) -> Iterator[BinaryIO]:
    info = entry.archive.getinfo(entry.member)
    if info.flag_bits & 1:
        raise UnlearnError(f"{entry} is encrypted: unpack it, and give what it holds.")
    with _zip_errors(entry.path), entry.archive.open(info) as handle:
        yield handle


@contextlib.contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UnlearnError(
            f"{shown(path)} is not a whole zip file ({first_line(error)}): pack it again."
        ) from error


@contextlib.contextmanager
def unzipped(path: Path) -> Iterator[list[Entry]]:
    """The files in a .zip, in the order of their names; each can be opened meanwhile."""
    with _open_regular(path) as handle, contextlib.ExitStack() as stack:
        with _zip_errors(path):
            archive = stack.enter_context(zipfile.ZipFile(handle))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if sum(info.file_size for info in infos) > MOST_UNPACKED:
            raise UnlearnError(
                f"{shown(path)} unpacks to more than {gigabytes(MOST_UNPACKED)}: unpack it, and "
                "give what it holds."
            )
        yield [Entry(path, name, archive) for name in sorted({info.filename for info in infos})]
