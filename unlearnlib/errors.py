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
