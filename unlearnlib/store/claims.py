"""Claims: which process computes which key now, so that several can share a store's work."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import logging
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unlearnlib.errors import UnlearnError
from unlearnlib.store.files import file_error, write_file

_log = logging.getLogger(__name__)

STALE_AFTER = 600.0  # seconds without a heartbeat after which a claim counts as abandoned


_SHORT = 30.0  # the same for `exclusive`, whose blocks take a moment


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes out of the blocks on the same file, on whatever machine, one by one.

    For reading a shared file, changing it and writing it: `write_file` alone would let the later
    writer drop what the earlier one added. It waits; a claim beside the file says who is inside,
    and one whose process was ended counts as abandoned, see `Claims`.
    """
    claims = Claims(path.parent)
    for attempt in itertools.count():
        with claims.hold(f".{path.name}.lock", _SHORT) as mine:
            if mine:
                yield
                return
        if attempt == 20:
            _log.info("waiting for another process that writes %s", path)
        time.sleep(0.05)


def existing(path: Path) -> Path:
    """`path` or its nearest parent that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def scratch_name(folder: Path) -> str:
    """What a folder's hidden claim and its half-written copies are called, wherever they lie."""
    digest = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return f".unlearn-{digest[:16]}"


@contextlib.contextmanager
def reserved(folder: Path, what: str, remedy: str = "wait for it") -> Iterator[None]:
    """Keep other processes from making the content of the same folder while the block runs.

    If one is making it: `UnlearnError`, before anything is computed, which says that it makes
    `what`. What one left that was killed while it wrote is removed: its name says which folder it
    was for, and nobody claims that.
    """
    place, name = existing(folder), scratch_name(folder)
    with Claims(place).hold(name) as mine:
        if not mine:
            raise UnlearnError(f"another process is making {what}: {remedy}.")
        for near in {place, existing(folder.parent)}:
            for left in near.glob(f"{name}-*"):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
        yield


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
        for path in self.folder.glob(f"{glob.escape(key)}*.json"):
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
                "namespace": _namespace(),
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
        raise file_error("read", path, error) from None


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
        raise file_error("write", probe, error) from None
    # An owner touches its claim, so one that is dated further ahead than that (a clock was put
    # right) is nobody's either.
    if abs(now - touched) > stale_after:
        return True
    try:
        owner = json.loads(content)
        host, pid, born = owner["host"], int(owner["pid"]), owner.get("born")
        namespace = owner.get("namespace")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # it names nobody: only its age can tell
    here = (socket.gethostname(), _boot(_born(os.getpid())), _namespace())
    if (host, _boot(born), namespace) != here or (sys.platform == "linux" and None in here):
        return False  # a process that this one cannot see
    return not _is_alive(pid, born)


def _boot(born: object) -> str | None:
    """The boot in a process's birth (see `_born`): several machines may share a host's name."""
    return born.partition(":")[0] if isinstance(born, str) and born else None


def _namespace() -> int | None:
    """The PID namespace of this process, by which containers of one host differ; None off Linux."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


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
