"""Files and folders that appear whole or not at all, on disks of every kind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from unlearnlib.errors import UnlearnError

# Without it nothing loads a model's folder, or an adapter's.
MARKS = ("config.json", "adapter_config.json")


def file_error(verb: str, path: Path, error: OSError) -> UnlearnError:
    """The sentence for a file or folder that cannot be read or written, with the remedy."""
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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durable before the next."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def link_new(source: Path, target: Path) -> bool:
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
        make_folder(path.parent)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                os.replace(temporary, path)
            elif not link_new(temporary, path):
                return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise file_error("write", path, error) from None
    return True


def write_named(path: Path, raw: bytes, *, replace: bool = False) -> bool:
    """`write_file` for a file that a user names: a link stays one, a device or pipe is written to.

    What a link leads to is replaced.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(raw)
        return True
    return write_file(path.resolve(), raw, replace=replace)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of a block that takes a moment (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def later(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    before = {number: signal.signal(number, later) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for waited in waiting:
            signal.raise_signal(waited)


def move_in(staged: Path, folder: Path, obsolete: Iterable[Path] = ()) -> None:
    """Move all files of a model's folder into another one, and delete `obsolete` files there.

    Both are on one disk. Whoever is ended in the middle leaves a folder that does not load, never
    one that mixes two models: the file without which nothing loads (`MARKS`) goes first and comes
    last. A record comes before the weights, so that they have an owner.
    """
    files = [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (path.name in MARKS, path.name != "record.json", path))
    with undisturbed():
        for mark in (*(folder / name for name in MARKS), *folder.glob("*/adapter_config.json")):
            if mark in obsolete or mark.relative_to(folder) in files:
                mark.unlink(missing_ok=True)
        _sync_folder(folder)
        for old in obsolete:
            old.unlink(missing_ok=True)
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(staged / name, folder / name)
        _sync_folder(folder)
