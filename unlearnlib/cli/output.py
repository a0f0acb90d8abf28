"""What a command prints: its report on stdout, as text or JSON, and complaints on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """What a command says: `values` for --json, `text` for people, and the exit code."""

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    code: int = 0


def complain(sentence: str, code: int) -> int:
    """One line on stderr; what does not print, in a file's name say, is spelt as an escape."""
    from unlearnlib.text import printable

    with contextlib.suppress(BrokenPipeError):
        print(f"unlearn: {printable(' '.join(sentence.splitlines()))}", file=sys.stderr, flush=True)
    return code


def print_report(text: str) -> None:
    """Print to stdout; a reader that has gone (`unlearn ... | head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain then.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Line(logging.Formatter):
    """A message is one line, whatever names of documents and files are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        from unlearnlib.text import printable

        return printable(super().formatMessage(record))


@contextlib.contextmanager
def set_up_logging(quiet: bool) -> Iterator[None]:
    """The package's log goes to stderr while a command runs; `quiet` leaves warnings only."""
    log = logging.getLogger("unlearnlib")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("unlearn: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def out_of_memory_sentence(what: str) -> str:
    """What to do where the memory of `what` (a computer, a GPU) is not enough."""
    return (
        f"the memory of {what} is not enough: lower --micro-tokens or --length, use a smaller "
        "model, or another --device."
    )


def columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a header; columns of numbers are flush right, as `text.show` prints them."""
    from unlearnlib.text import printable, show

    def numeric(value: object) -> bool:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

    def cell(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        if value is None or isinstance(value, float):
            return show(value)
        return printable(str(value))

    right = [all(numeric(row[c]) for row in rows) for c in range(len(header))]
    lines = [list(header), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(header))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
