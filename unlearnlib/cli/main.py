"""The `unlearn` command: chooses the command, prints its report, turns errors into exit codes.

Every command is a function from parsed arguments to a `Report`; `main` prints it, as a short
text or, with --json, as one line of JSON, and nothing else ever reaches stdout. Progress and log
go to stderr. Exit codes: 0 fine; 1 `verify` found a difference; 2 bad input, with one sentence;
130 interrupted. A command's file is imported when the command is chosen, so that help comes at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

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
    "verify": "unlearnlib.cli.verify:verify_command",
    "data": "unlearnlib.cli.data:data_command",
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
    try:
        with set_up_logging(args.quiet), contextlib.redirect_stdout(sys.stderr):
            report = _function_of(args.command)(args)
    except UnlearnError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain(f"interrupted; {_what_remains(args)}.", 130)
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


def _what_remains(args: argparse.Namespace) -> str:
    """What an interrupted command leaves behind."""
    store = None
    if args.command == "pretrain":
        return "finished models stay, and --missing goes on with the others"
    if args.command == "tune":
        return "finished runs of the search are remembered, the same command goes on"
    if args.command == "run":
        if args.save_every:
            return "the same command goes on after the last state that --save-every kept"
        store = store_path(args.store, args.model, args.limit, args.files)
    if args.command == "study":
        store = store_path(args.store, args.model, args.limit)
    if store is None:
        return "nothing was saved, the same command starts again"
    return f"finished runs are in {store}, the same command goes on"
