"""The parameters of a notebook: which there are, and from what was given to checked values.

papermill hands over numbers and texts, a reader who edits the cell lists and dictionaries: either
will do ("ga,adversarial" or ["ga", "adversarial"]), also a list as a text that Python reads.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from unlearnlib.corpus.files import checked_limits
from unlearnlib.devices import DEVICES
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import check_domains, default_domains, get_profile
from unlearnlib.study.grids import AXES, Asked, get_study

COMPUTE = ("published", "missing", "fresh")
# What every notebook of results is asked by, in the order of its cell, and what each is.
PARAMETERS = {
    "profile": "the scale: lab, open_cpu, open or paper",
    "domains": 'None: all of the profile\'s; or some, as "books" or ["arxiv", "books"]',
    "methods": "None: those of the study; or some (`unlearn methods` lists them)",
    "seeds": "None: those of the study; or others, as [0, 1, 2]",
    "device": "auto: a GPU if there is one; or cpu, cuda, mps",
    "compute": "published: draw records; missing: compute the rest; fresh: compute all",
    "workers": "processes that compute side by side",
    "budget_minutes": "None: compute all; or begin no run after so many minutes",
    "limits": 'None: all documents; or the first of a split, as {"forget": 8, "retain": 16}',
    "corpora": "None: where the profile has its texts from; or a folder with a copy of them",
}
# What the axes of studies are, as far as they are not in `PARAMETERS`.
AXIS_NOTES = {
    "rates": "None: the study's learning rates; or others, as [1e-4, 5e-4]",
    "updates": "None: as many updates as in the study; or other numbers, as [6, 12]",
    "batch_sizes": "None: the study's documents per update; or others, as [4, 16]",
    "retain_weights": "None: the study's weights of the retain term; or others, as [0.5, 2]",
    "sizes": "None: the study's numbers of documents to forget; or others, as [1, 8]",
    "requests": "None: the study's numbers of requests; or others, as [1, 4]",
    "schedules": 'None: the study\'s shapes of the rate; or others, as ["linear 0.25"]',
    "bases": 'None: the profile\'s vanillas; or some, as ["vanilla", "second"]',
    "exposures": "None: the study's numbers of readings; or others, as [1, 16]",
    "lengths": "None: the study's tokens per chunk; or others, as [40, 320]",
}
_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "seeds": int,
    "rates": float,
    "updates": int,
    "batch_sizes": int,
    "retain_weights": float,
    "sizes": int,
    "requests": int,
    "exposures": int,
    "lengths": int,
}
# In the metadata of what an executed notebook shows: that it says what could not be computed.
FAILED = "unlearn_failed"
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
# Where a parameter has another default than None.
DEFAULTS = {"profile": "lab", "device": "auto", "compute": "published", "workers": 1}
_OF_IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def as_written(name: str, value: Any) -> Any:
    """A list or dictionary for a text that has one as Python writes it; else the value itself."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "(", "{")):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UnlearnError(
            f"{name} is {value!r}, which begins as a list or dictionary of Python and is none: "
            "write it whole, its words in quotes, or plain values with commas."
        ) from None


def items(name: str, value: Any) -> list[Any]:
    """A parameter's values: of a list, of a text with commas, or the one that it is."""
    value = as_written(name, value)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found or any(item is None or item == "" for item in found):
        raise UnlearnError(f"{name} is {value!r}: give at least one value, or None for the usual.")
    return found


def _numbers(name: str, value: Any) -> tuple[Any, ...]:
    """A parameter's values as numbers, each once."""
    kind = _NUMBERS[name]
    found = []
    for item in items(name, value):
        try:
            number = kind(item) if isinstance(item, str) else item
            if isinstance(item, bool) or number != kind(number):
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            what = "whole numbers" if kind is int else "numbers"
            raise UnlearnError(f"{name} has the value {item!r}: give {what}.") from None
        found.append(kind(number))
    return tuple(dict.fromkeys(found))


def _schedules(value: Any) -> tuple[tuple[str, float], ...]:
    """Schedules as ("linear", 0.25), of texts such as "linear 0.25" or of such pairs."""
    found = []
    value = as_written("schedules", value)
    if isinstance(value, list | tuple) and len(value) == 2 and not isinstance(value[1], str | list):
        value = [value]  # one pair
    for item in items("schedules", value):
        words = list(item) if isinstance(item, list | tuple) else str(item).split()
        try:
            shape, warmup = words if len(words) == 2 else (*words, 0.0)
            found.append((str(shape), float(warmup)))
        except (TypeError, ValueError):
            raise UnlearnError(
                f"schedules has the value {item!r}: give a shape and the share of updates that "
                'warm up, as in "linear 0.25".'
            ) from None
    return tuple(found)


def one_value(name: str, given: Any, values: Sequence[Any] | None, usual: Any) -> Any:
    """The one value of a parameter of which a notebook has one; `usual` where none is given."""
    if len(values or ()) > 1:
        raise UnlearnError(f"{name} is {given!r}: this notebook has one, so give one.")
    return values[0] if values else usual


def chosen_limits(value: Any) -> dict[str, int] | None:
    """The parameter limits as split -> count, of a dictionary or a text "forget=8, retain=16"."""
    read = as_written("limits", value)
    if read is None or read == {}:
        return None
    if isinstance(read, str):
        parts = [item.partition("=") for item in items("limits", read)]
        read = [(name.strip(), count.strip()) for name, _, count in parts]
    try:
        pairs = list(read.items() if isinstance(read, Mapping) else read)
        counts = {str(name): _whole(count) for name, count in pairs}
    except (TypeError, ValueError, OverflowError):
        raise UnlearnError(
            f'limits is {value!r}: give numbers of documents by split, as {{"forget": 8}} or '
            '"forget=8".'
        ) from None
    if len(counts) < len(pairs):
        raise UnlearnError(f"limits is {value!r}: give each split once.")
    return checked_limits(counts)


def _whole(value: Any) -> int:
    """A whole number, of a text or a number; `ValueError` for any other value."""
    number = int(value)
    if isinstance(value, bool) or (not isinstance(value, str) and number != value):
        raise ValueError
    return number


def chosen_device(value: Any) -> str:
    """The device as it is named; whether this machine has it is asked when it computes."""
    name = "auto" if value is None else str(value)
    if not re.fullmatch(rf"(?:{'|'.join(DEVICES)})(?::\d+)?", name, re.ASCII):
        raise unknown("device", name, DEVICES)
    return name


def chosen_folder(name: str, value: Any) -> str | None:
    """A folder's name as a text; `UnlearnError` where there is no such folder."""
    if value is None:
        return None
    if isinstance(value, str | Path) and "\0" not in str(value) and Path(value).is_dir():
        return str(value)
    raise UnlearnError(f"{name} is {value!r}: give a folder that is there, or None.")


def known_parameters(studies: Iterable[str], more: Iterable[str] = ()) -> tuple[str, ...]:
    """The names of a notebook's parameters: those of all, of its studies' axes, and its own."""
    axes = {axis for name in studies for axis in get_study(name).axes}
    own = [axis for axis in AXES if axis in axes and axis not in PARAMETERS]
    return (*PARAMETERS, *own, *more)


def refuse_unknown(namespace: Mapping[str, Any], known: Sequence[str]) -> None:
    """`UnlearnError` for a plain value in a notebook's namespace that is none of its parameters.

    papermill puts a misspelt parameter into the notebook, warns, and goes on.
    """
    for name, value in namespace.items():
        if name.startswith("_") or name in _OF_IPYTHON or name in known:
            continue
        if isinstance(value, _PLAIN) and not isinstance(value, ModuleType):
            raise unknown("parameter", name, known)


def chosen_values(given: Mapping[str, Any]) -> Asked:
    """The values that stand in place of the studies' own."""
    values: dict[str, Any] = {}
    for axis in AXES:
        value = given.get(axis)
        if value is None:
            continue
        if axis in ("methods", "bases"):
            values[axis] = tuple(dict.fromkeys(map(str, items(axis, value))))
        elif axis == "schedules":
            values[axis] = _schedules(value)
        else:
            values[axis] = _numbers(axis, value)
    return Asked(**values)


def positive(name: str, value: Any, whole: bool = False) -> Any:
    """A number above 0."""
    kind = int if whole else float
    try:
        number = kind(value)
        if isinstance(value, bool) or not 0 < number < float("inf") or number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = "a whole number" if whole else "a number"
        raise UnlearnError(f"{name} is {value!r}: give {what} above 0.") from None
    return number


def chosen_deadline(minutes: Any) -> float | None:
    if minutes is None:
        return None
    return time.monotonic() + 60 * positive("budget_minutes", minutes)


def chosen_domains(profile: str, given: Any) -> tuple[str, ...]:
    """The domains given, each once; by default all that can be had (see `profiles.left_out`)."""
    get_profile(profile)  # one that there is not is told before its domains
    if given in (None, "all"):
        return default_domains(profile)
    return check_domains(profile, map(str, items("domains", given)))


def command_of(notebook: str, given: Mapping[str, Any]) -> str:
    """The command that makes a notebook with parameters; what is None is left to the notebook."""
    words = [f"-p {name} {as_word(value)}" for name, value in given.items() if value is not None]
    return " ".join(["unlearn notebook", notebook, *words])


def as_word(value: Any, quoted: bool = True) -> str:
    """A parameter's value as one word of a command line; `quoted` for a shell."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={count}" for name, count in value.items())
    if isinstance(value, list | tuple):
        parts = [" ".join(map(str, x)) if isinstance(x, list | tuple) else str(x) for x in value]
        value = ",".join(parts)
    return shlex.quote(str(value)) if quoted else str(value)


def cell_of(template: Path) -> dict[str, tuple[str, str]]:
    """Name -> (default as it is written, what it is) of the parameters of a notebook's template."""
    found: dict[str, tuple[str, str]] = {}
    for cell in _cells(template):
        if "parameters" in cell.get("metadata", {}).get("tags", ()):
            for line in "".join(cell["source"]).splitlines():
                name, _, rest = line.partition(" = ")
                value, _, note = rest.partition("  # ")
                found[name.strip()] = value.strip(), note.strip()
    return found


def failures_in(notebook: Mapping[str, Any]) -> list[str]:
    """What an executed notebook says that it could not compute, in the order of its cells."""
    outputs = [output for cell in notebook.get("cells", ()) for output in cell.get("outputs", ())]
    marked = [output for output in outputs if output.get("metadata", {}).get(FAILED)]
    return ["".join(output["data"]["text/markdown"]).strip("*") for output in marked]


def title_of(template: Path) -> str:
    """The first heading of a notebook's template."""
    lines = ("".join(cell["source"]) for cell in _cells(template))
    return next((t.splitlines()[0].lstrip("# ") for t in lines if t.startswith("# ")), "")


def _cells(template: Path) -> list[dict[str, Any]]:
    return list(json.loads(template.read_text(encoding="utf-8"))["cells"])
