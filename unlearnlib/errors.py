"""The one error a user can cause, and the helpers that word it.

Everything that bad input can trigger raises `UnlearnError` with one sentence that names the
value and the remedy. The command line prints that sentence and exits with code 2; a notebook
shows it as the last line of a short traceback. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class UnlearnError(ValueError):
    """Bad input: one sentence that names the value at fault and what to do about it."""


def nearest_first(word: str, valid: Iterable[str]) -> list[str]:
    """`valid`, sorted by likeness to `word` (most alike first, ties in the given order)."""
    names = list(valid)
    return sorted(
        names, key=lambda name: -SequenceMatcher(None, word.lower(), name.lower()).ratio()
    )


def unknown(kind: str, word: object, valid: Iterable[str]) -> UnlearnError:
    """The error for a name that is not in a list: it lists the valid ones, nearest first."""
    return UnlearnError(
        f"unknown {kind} {word!r}: choose one of {', '.join(nearest_first(str(word), valid))}."
    )


def is_failure(error: BaseException) -> bool:
    """Whether a library failed, and nobody asked to stop: a panic inside Rust is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """What an error of another library says first, fit for the brackets of a sentence of ours.

    Some say nothing, or a bare key, and are named by their kind; some end in a colon, and go on in
    the next line; some put a whole file or codes for the terminal into their text.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = "".join(c if c.isprintable() else " " for c in text).strip().rstrip(".:")
    name = type(error).__name__
    if isinstance(error, KeyError | IndexError | RecursionError | AssertionError) or not text:
        text = f"{name}: {text}" if text else name
    return text if len(text) <= 300 else text[:297] + "..."
