"""The `unlearn` command: chooses the command, prints its report, turns errors into exit codes.

Every command is a function from parsed arguments to a `Report`; `main` prints it, as a short
text or, with --json, as one line of JSON, and nothing else ever reaches stdout. Progress and log
go to stderr. Exit codes: 0 fine; 1 `verify` found a difference, or `audit`
what must not be; 2 bad input, with one sentence;
130 interrupted. A command's file is imported when the command is chosen, so that help comes at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

from unlearnlib.cli.arguments import is_main_process, process_count, store_path
from unlearnlib.cli.output import (
    Report,
    complain,
    out_of_memory_sentence,
    print_report,
    set_up_logging,
)
from unlearnlib.cli.parser import build_parser
from unlearnlib.errors import UnlearnError
from unlearnlib.text import strict_json

# Command -> where its function is, as "module:function".
COMMANDS = {
    "run": "unlearnlib.cli.run:run_command",
    "tune": "unlearnlib.cli.tune:tune_command",
    "study": "unlearnlib.cli.study:study_command",
    "pretrain": "unlearnlib.cli.pretrain:pretrain_command",
    "score": "unlearnlib.cli.score:score_command",
    "audit": "unlearnlib.cli.audit:audit_command",
    "verify": "unlearnlib.cli.verify:verify_command",
    "data": "unlearnlib.cli.data:data_command",
    "notebook": "unlearnlib.cli.notebook:notebook_command",
    "methods": "unlearnlib.cli.lists:methods_command",
    "profiles": "unlearnlib.cli.lists:profiles_command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. argparse's own errors exit with code 2."""
    words = _with_negative_numbers(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser().parse_args(words)
    except UnlearnError as error:
        return complain(str(error), 2)
    if process_count() > 1 and args.command != "run":
        return complain(
            f"{process_count()} processes were launched for a command that runs in one: start it "
            "without the launcher (only `unlearn run` divides its work).",
            2,
        )
    saved = _saved_model(args)
    try:
        with _termination(), set_up_logging(args.quiet), contextlib.redirect_stdout(sys.stderr):
            report = _function_of(args.command)(args)
    except UnlearnError as error:
        return complain(str(error), 2)
    except Terminated:
        complain(f"terminated; {_what_remains(args, saved)}.", 143)
        return _die_of(signal.SIGTERM)
    except KeyboardInterrupt:
        return complain(f"interrupted; {_what_remains(args, saved)}.", 130)
    except MemoryError:
        return complain(out_of_memory_sentence("the computer"), 2)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        why = error.strerror or type(error).__name__
        return complain(
            f"cannot access{where} ({why}): check its permissions and the space left.", 2
        )
    except RuntimeError as error:
        # torch's own errors, told by name and text: importing torch for an `except` costs seconds.
        if type(error).__name__ == "OutOfMemoryError":
            return complain(out_of_memory_sentence("the GPU"), 2)
        if "DefaultCPUAllocator" in str(error):
            return complain(out_of_memory_sentence("the computer"), 2)
        raise
    if is_main_process():
        print_report(json.dumps(strict_json(report.values)) if args.json else report.text)
    return report.code


def _function_of(command: str) -> Callable[[argparse.Namespace], Report]:
    """The function that carries a command out; its module is imported now, and not for help."""
    module, _, name = COMMANDS[command].partition(":")
    function: Callable[[argparse.Namespace], Report] = getattr(import_module(module), name)
    return function


def _with_negative_numbers(argv: Sequence[str]) -> list[str]:
    """`argv` with "--flag -1e-4" as "--flag=-1e-4": argparse would take the number for a flag."""
    words: list[str] = []
    for word in argv:
        if re.fullmatch(r"-(\d|\.\d|inf|nan).*", word) and words and words[-1].startswith("--"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send: the command tidies up, as after Ctrl-C."""


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` for a block, unless whoever called us handles it."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one means: at once
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _die_of(number: signal.Signals) -> int:
    """End as the signal would have ended us, so that whoever waits for us sees it."""
    os.kill(os.getpid(), number)
    return 128 + number  # where the signal was blocked


def _saved_model(args: argparse.Namespace) -> tuple[int, int] | None:
    """What tells the model in --out from another one that replaces it; None if there is none."""
    if args.command not in ("run", "tune") or not args.out:
        return None
    try:  # it comes last, so the model is whole
        mark = (Path(args.out) / "config.json").stat()
    except (OSError, ValueError):
        return None
    return mark.st_ino, mark.st_mtime_ns


def _what_remains(args: argparse.Namespace, saved: tuple[int, int] | None) -> str:
    """What an interrupted command leaves behind; `saved` is `_saved_model` before it."""
    store = None
    if _saved_model(args) != saved:
        return f"the model and its card are in {args.out}"
    if args.command == "pretrain":
        return "finished models stay, and --missing goes on with the others"
    if args.command == "notebook":
        return "finished runs are in the store, and the same command goes on with the others"
    if args.command == "audit":
        return "what was measured is kept, the same command goes on with the rest"
    if args.command == "tune":
        return "finished runs of the search are remembered, the same command goes on"
    if args.command == "run":
        if args.save_every:
            return "the same command goes on after the last state that --save-every kept"
        if args.out is None:  # with it, a run is made whatever the store has
            store = store_path(args.store, args.model, args.limit, args.files)
    if args.command == "study":
        store = store_path(args.store, args.model, args.limit)
    if store is None:
        return "nothing was saved, the same command starts again"
    return f"finished runs are in {store}, the same command goes on"
