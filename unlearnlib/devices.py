"""Which device computes, what it is in words, and which precision it does well.

`choose_device` is the one place that turns "auto" into a device: a CUDA device, else Apple's MPS
if every operation that a run uses is there, else the processor. Nobody lists those operations by
hand: `probe.py` makes one small run on the device and on the processor and compares them. It does
so in a process of its own, since a missing MPS operation may end the process, and once for each
version of torch and macOS, since it takes some seconds.

No precision is changed behind a user's back. `describe` says which one the device does well, and
`tell_of_emulation` warns where a run asks for one that the device can only imitate. The precision
of a run is in its spec, hence in its record and its key.

All that depends on a GPU is in the functions of this file that name "cuda" or "mps", and in the
lines that CONTRIBUTING.md lists.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import cache_folder
from unlearnlib.text import gigabytes

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps")
# From this compute capability on (Ampere) a card multiplies in bfloat16; older ones imitate it.
BFLOAT16_CAPABILITY = (8, 0)
# What Linux calls the same of processors: Intel and AMD, and ARM.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
PROBE_SECONDS = 300


@dataclass(frozen=True)
class Device:
    """A device in words.

    name       as torch has it: "cpu", "cuda", "cuda:1", "mps"
    title      of the processor or card
    memory     in bytes; None where the system does not say
    precision  that the device does well: "bfloat16" or "float32"
    reason     why not bfloat16; empty where it is
    """

    name: str
    title: str
    memory: int | None
    precision: Literal["float32", "bfloat16"]
    reason: str = ""

    def __str__(self) -> str:
        held = "" if self.memory is None else f", {gigabytes(self.memory)} of memory"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.title} ({self.name}){held}, precision {self.precision}{why}"


def choose_device(name: str = "auto") -> str:
    """The device that a name stands for, as torch has it; of several processes each has its own.

    `UnlearnError` for a name that there is not, and for a device that this machine lacks.
    """
    import torch

    kind, colon, number = str(name).partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise unknown("device", name, DEVICES)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # a launcher shares the devices out
        from accelerate import PartialState

        place = PartialState(cpu=kind == "cpu" or not torch.cuda.is_available()).device
        return str(place) if place.type == "cuda" else str(place.type)
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            sees = f"{count} CUDA devices" if count else "no CUDA device"
            raise UnlearnError(
                f"the device is {name!r}, and torch {torch.__version__} sees {sees} here: use "
                "--device cpu (device='cpu'), or install a driver and a build of torch for it."
            )
    if kind == "mps" and (lack := _mps_lacks()):
        raise UnlearnError(f"the device is 'mps', and {lack}: use --device cpu (device='cpu').")
    if kind != "auto":
        return str(name) if kind == "cuda" else kind
    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if _mps_lacks() else "mps"


@functools.cache
def _mps_lacks() -> str:
    """What speaks against computing on Apple's MPS, in words; empty if nothing does."""
    import torch

    if not torch.backends.mps.is_available():
        return f"torch {torch.__version__} sees no MPS device here"
    kept = cache_folder() / f"mps-{torch.__version__}-{platform.mac_ver()[0]}.txt"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    found = probe("mps")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(found, encoding="utf-8")
    if found:
        logger.warning("the processor is used: %s", found)
    return found


def probe(device: str) -> str:
    """What goes wrong when a device computes what a run needs (see `probe.py`); empty if nothing.

    Operations that torch would pass on to the processor count as missing.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "unlearnlib.probe", device],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "PYTORCH_ENABLE_MPS_FALLBACK": "0", "WORLD_SIZE": "1"},
        )
    except subprocess.TimeoutExpired:
        return f"the device {device!r} did not finish a small run in {PROBE_SECONDS} seconds"
    if not done.returncode:
        return ""
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    last = said[-1].rstrip(".") if said else f"the process ended with {done.returncode}"
    return f"the device {device!r} lacks what a run needs ({last[:300]})"


def describe(name: str = "auto") -> Device:
    """The device that a name stands for; as text it is a line for the top of a notebook."""
    device = choose_device(name)
    if device.startswith("cuda"):
        import torch

        card = torch.cuda.get_device_properties(device)
        reason = _no_bfloat16(device)
        return Device(
            device,
            str(card.name),
            int(card.total_memory),
            "float32" if reason else "bfloat16",
            reason,
        )
    title = processor()
    if device == "cpu":
        title = f"{title}, {cores()} cores"
    return Device(device, title, memory(device), "float32", _SLOW[device])


_SLOW = {
    "cpu": "a processor gains little by bfloat16",
    "mps": "bfloat16 is not everywhere on MPS",
}


def memory(device: str) -> int | None:
    """Bytes of memory that a device has for us; None where the system does not say.

    For a processor what its container is allowed, where that is less than what the machine has.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    if device == "mps":
        import torch

        return int(torch.mps.recommended_max_memory())
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    for path in LIMITS:
        try:
            return min(whole, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return whole


def processor() -> str:
    """The processor's model. Linux's own `platform.processor` is often empty."""
    return _cpuinfo().get("model name", "") or platform.processor() or platform.machine()


def accelerator(device: str) -> str | None:
    """The name of a card; None where a run is computed by the processor."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device)) if torch.cuda.is_available() else None
    return f"{processor()} (MPS)" if device == "mps" else None


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core."""
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return found


def _no_bfloat16(device: str) -> str:
    """Why a device only imitates bfloat16; empty where it multiplies in it."""
    if device.startswith("cuda"):
        import torch

        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) >= BFLOAT16_CAPABILITY:
            return ""
        return f"bfloat16 needs compute capability 8.0, and this card has {major}.{minor}"
    if device == "mps":
        return _SLOW["mps"]
    flags = f"{_cpuinfo().get('flags', '')} {_cpuinfo().get('Features', '')}".split()
    return "" if BFLOAT16_FLAGS & set(flags) else "this processor has no products in bfloat16"


@functools.cache
def tell_of_emulation(precision: str, device: str) -> str:
    """Warn, once, that a device only imitates a precision; returns why (empty if it does not).

    Nothing is changed: what was asked for is computed, and the record says what that was.
    """
    reason = _no_bfloat16(device) if precision == "bfloat16" else ""
    if reason:
        logger.warning(
            "bfloat16 is imitated on %s, slowly: %s. In float32 (--set precision=float32) a run "
            "is faster here, and is another run, with a key of its own",
            device,
            reason,
        )
    return reason


def synchronize(device: str) -> None:
    """Wait for what a device was given to compute; a processor is never behind."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
