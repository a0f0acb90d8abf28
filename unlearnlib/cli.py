"""The `unlearn` command: the package's functions with words for arguments.

Every command is a function from parsed arguments to a `Report`; `main` prints it, as a short
text or, with --json, as one line of JSON, and nothing else ever reaches stdout. Progress and log
go to stderr. Exit codes: 0 fine; 1 `verify` found a difference; 2 bad input, with one sentence;
130 interrupted. torch is imported inside the commands only, so that help comes at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib import __version__
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.saved import _check_space, card_facts, check_out, save_unlearned, term_in_words
from unlearnlib.spec import DOMAINS, PROFILES, YOURS, Profile, RunSpec, get_profile

if TYPE_CHECKING:
    from torch import nn

    from unlearnlib.engine import Execution
    from unlearnlib.metrics.scores import TokenScores
    from unlearnlib.plan import Plan
    from unlearnlib.run import Bench
    from unlearnlib.search import Proposal
    from unlearnlib.store import Library, Record, Store
    from unlearnlib.study import Shard, StudyResult
    from unlearnlib.tasks import TaskSet
    from unlearnlib.tune import Tuned
    from unlearnlib.verify import Comparison, NumericalTolerance

logger = logging.getLogger("unlearnlib.cli")

KEY_METRICS = (
    "forget/perplexity",
    "approximate/perplexity",
    "retain/perplexity",
    "general/perplexity",
    "forget/accuracy",
    "forget/verbatim_share",
    "forget/cloze_choice_accuracy",
    "membership/min_k_40/auc",
    "oracle_kl/forget",
)
# Metric -> heading, for the tables that people read; --json has all of KEY_METRICS.
HEADINGS = {
    "forget/perplexity": "ppl forget",
    "approximate/perplexity": "ppl approx",
    "general/perplexity": "ppl general",
    "membership/min_k_40/auc": "AUC min-40%",
    "oracle_kl/forget": "KL oracle",
}
SHORTCUTS = ("learning_rate", "updates", "batch_size", "length")
TUNED = ("learning_rate", "updates", "batch_size")  # always spelt out in a command that repeats
DECIDED_BY_TUNE = ("learning_rate", "retain_weight", "schedule", "warmup", "requests")
_NOT_BY_SET = ("profile", "domain", "method")  # they have flags of their own
FILES = ("forget", "retain", "approximate", "general")


@dataclass(frozen=True)
class Report:
    """What a command says: `values` for --json, `text` for people, and the exit code."""

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    code: int = 0


# --- main ----------------------------------------------------------------------------------------

# Command -> where its function is, as "module:function".
COMMANDS = {
    "run": "unlearnlib.cli:run_command",
    "tune": "unlearnlib.cli:tune_command",
    "study": "unlearnlib.cli:study_command",
    "pretrain": "unlearnlib.cli:pretrain_command",
    "score": "unlearnlib.cli:score_command",
    "verify": "unlearnlib.cli:verify_command",
    "data": "unlearnlib.cli:data_command",
    "methods": "unlearnlib.cli:methods_command",
    "profiles": "unlearnlib.cli:profiles_command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. argparse's own errors exit with code 2."""
    words = _with_negative_numbers(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser().parse_args(words)
    except UnlearnError as error:
        return _complain(str(error), 2)
    if _processes() > 1 and args.command != "run":
        return _complain(
            f"{_processes()} processes were launched for a command that runs in one: start it "
            "without the launcher (only `unlearn run` divides its work).",
            2,
        )
    try:
        with _logging(args.quiet), contextlib.redirect_stdout(sys.stderr):
            report = _function_of(args.command)(args)
    except UnlearnError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain(f"interrupted; {_what_remains(args)}.", 130)
    except MemoryError:
        return _complain(_out_of_memory("the computer"), 2)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        why = error.strerror or type(error).__name__
        return _complain(
            f"cannot access{where} ({why}): check its permissions and the space left.", 2
        )
    except RuntimeError as error:
        # torch's own errors, told by name and text: importing torch for an `except` costs seconds.
        if type(error).__name__ == "OutOfMemoryError":
            return _complain(_out_of_memory("the GPU"), 2)
        if "DefaultCPUAllocator" in str(error):
            return _complain(_out_of_memory("the computer"), 2)
        raise
    if _is_main():
        _print(json.dumps(_strict(report.values)) if args.json else report.text)
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


def _complain(sentence: str, code: int) -> int:
    """One line on stderr, whatever a file's name would do to the terminal."""
    from unlearnlib.card import printable

    with contextlib.suppress(BrokenPipeError):
        print(f"unlearn: {printable(' '.join(sentence.splitlines()))}", file=sys.stderr, flush=True)
    return code


def _print(text: str) -> None:
    """Print to stdout; a reader that has gone (`unlearn ... | head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain then.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _logging(quiet: bool) -> Iterator[None]:
    """The package's log goes to stderr while a command runs; `quiet` leaves warnings only."""
    log = logging.getLogger("unlearnlib")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("unlearn: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _out_of_memory(what: str) -> str:
    return (
        f"the memory of {what} is not enough: lower --micro-tokens or --length, use a smaller "
        "model, or another --device."
    )


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
        store = _store_path(args.store, args.model, args.limit, args.files)
    if args.command == "study":
        store = _store_path(args.store, args.model, args.limit)
    if store is None:
        return "nothing was saved, the same command starts again"
    return f"finished runs are in {store}, the same command goes on"


def _strict(value: Any) -> Any:
    """`value` for strict JSON; numbers that are not finite are spelt as in the run store."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


# --- arguments -----------------------------------------------------------------------------------


def _count(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


class _Once(argparse.Action):
    """Keep the file of a set in `files`; of two, argparse alone would drop the first silently."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if self.dest in namespace.files:
            raise UnlearnError(
                f"{option_string} is given twice ({namespace.files[self.dest]!r} and "
                f"{values!r}): put the documents into one folder and give that."
            )
        namespace.files = {**namespace.files, self.dest: values}  # the default is left as it is


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="unlearn",
        description="Machine unlearning of pre-trained language models: run it, measure it, "
        "check it.",
        epilog="`unlearn COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"unlearn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_run,
        _add_tune,
        _add_study,
        _add_pretrain,
        _add_score,
        _add_verify,
        _add_data,
        _add_methods,
        _add_profiles,
    ):
        add(commands)
    return parser


def _command(commands: Any, name: str, about: str, **more: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, warnings only")
    return parser


def _add_scale(parser: argparse.ArgumentParser, *, several: bool, default: str | None) -> None:
    parser.add_argument(
        "--profile", default=default, help=f"one of {', '.join(PROFILES)} (default: lab)"
    )
    about = f"one of {', '.join(DOMAINS)}"
    if several:
        parser.add_argument(
            "--domain", action="append", metavar="DOMAIN", help=f"{about}; repeat for several"
        )
    else:
        parser.add_argument("--domain", help=f"{about} (default: books)")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpora",
        metavar="FOLDER",
        help="local copy of the public texts (open) or of the hub's data set (paper)",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="SPLIT=COUNT",
        help="take only the first COUNT documents of a split; repeat for several",
    )


def _add_model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--model",
        default=default,
        metavar="SOURCE",
        help="hub id, folder with safetensors, GGUF file, or lab (default: the profile's)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--micro-tokens",
        type=_count,
        default=4096,
        metavar="N",
        help="tokens that are computed at once: changes memory and speed, not results",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="activation checkpointing: a third more time for much less memory, the same results",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="several documents in one row without padding, each attending to itself alone",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fsdp",
        action="store_true",
        help="under `accelerate launch`: each process holds a part of the model, not all of it",
    )
    parser.add_argument(
        "--save-every",
        type=_count,
        default=0,
        metavar="N",
        help="keep the state after every N updates, and go on there if interrupted",
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", metavar="DIR", help="the run store (default: $UNLEARN_STORE, else runs)"
    )


def _add_task(parser: argparse.ArgumentParser) -> None:
    """What is unlearned from what, how, and where: common to `run` and `tune`."""
    _add_scale(parser, several=False, default=None)
    _add_model(parser)
    for name, about in zip(
        FILES,
        (
            "documents to forget: text, JSON Lines or Parquet, or a folder of them",
            "documents of the same kind to keep",
            "documents of the same kind that the model never saw: the target",
            "other documents; two thirds are kept, one third is only measured",
        ),
        strict=True,
    ):
        parser.add_argument(
            f"--{name}", action=_Once, default=argparse.SUPPRESS, metavar="FILE", help=about
        )
    parser.set_defaults(files={})
    parser.add_argument("--column", help="the column that holds the text (default: text, ...)")
    _add_source(parser)
    parser.add_argument(
        "--method",
        default=RunSpec.method,
        help=f"see `unlearn methods` (default: {RunSpec.method})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="a setting: "
        + ", ".join(f.name for f in dataclasses.fields(RunSpec) if f.name not in _NOT_BY_SET),
    )
    for name in SHORTCUTS:
        flag = name.replace("_", "-")
        parser.add_argument(f"--{flag}", metavar="VALUE", help=f"the same as --set {name}=VALUE")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="with lora_rank: also write what was learnt alone, to adapter/ in --out (who has it "
        "and the model can undo the unlearning)",
    )
    _add_device(parser)


def _add_abilities(parser: argparse.ArgumentParser) -> None:
    """General ability by lm-evaluation-harness: common to `run` and `score`."""
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="ask a task of lm-evaluation-harness too: its name there (arc_easy, gsm8k ...), or a "
        "YAML file or folder of your own; repeat for several",
    )
    parser.add_argument(
        "--task-limit", type=_count, metavar="N", help="only the first N questions of each task"
    )
    parser.add_argument(
        "--confirm-unsafe-code",
        action="store_true",
        help="let tasks such as humaneval run the code that the model writes, on this machine",
    )


def _add_tune(commands: Any) -> None:
    parser = _command(
        commands,
        "tune",
        "find the settings and unlearn: the guidelines, carried out",
        epilog="""examples:
  on a profile
    unlearn tune --profile lab --domain books
  on documents of your own; --out receives model, record, model card and report.html
    unlearn tune --model FOLDER --forget f.jsonl --retain r.jsonl --approximate a.jsonl \\
        --general g.jsonl --out unlearned

The search needs forget, approximate and general texts, and retain texts for the default method. It
ends by itself, says why each run is made, and goes on where it was interrupted.""",
    )
    _add_task(parser)
    parser.add_argument(
        "--start",
        type=float,
        default=1e-4,
        metavar="RATE",
        help="learning rate of the first run (default: 1e-4; for a large model rather 1e-6)",
    )
    parser.add_argument(
        "--runs", type=_count, default=8, metavar="N", help="runs at most (default: 8)"
    )
    parser.add_argument("--out", metavar="DIR", help="save model, record, card and report here")
    parser.add_argument("--force", action="store_true", help="replace what is in --out")


def _add_run(commands: Any) -> None:
    parser = _command(
        commands,
        "run",
        "unlearn once, and evaluate",
        epilog="""examples:
  a run of a profile; its record goes to the run store
    unlearn run --profile lab --domain books --method ga --set learning_rate=1e-4 --set updates=8
  documents of your own; model, record and model card go to --out
    unlearn run --model FOLDER --forget f.jsonl --retain r.jsonl --approximate a.jsonl \\
        --general g.jsonl --method ga_gd_in_dist --out unlearned
  a profile's texts with another model
    unlearn run --model FOLDER --profile open --domain books --corpora TEXTS \\
        --limit forget=16 --limit retain=64 --out unlearned
  general ability too; the answers are a record of their own, beside the run's
    unlearn run --profile lab --domain books --tasks arc_easy --task-limit 200

Without settings, a run of a profile takes the chosen ones (data/settings.json) where there are
some. With --model or --limit a record is kept only in a --store that is named: it would mix with
those of the whole profile. In --out stand names of documents, never their texts.

Without settings, documents of your own are unlearned as by `unlearnlib.unlearn`, at a rate that is
low for a small model: `unlearn tune` finds one that reaches the target.""",
    )
    _add_task(parser)
    _add_abilities(parser)
    _add_processes(parser)
    _add_store(parser)
    parser.add_argument("--published", action="store_true", help="a published record will do, too")
    parser.add_argument("--out", metavar="DIR", help="save model, record and model card here")
    parser.add_argument("--force", action="store_true", help="write into an --out that has files")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="do nothing, but say what memory and time the run would take, and what it would cost",
    )


def _add_study(commands: Any) -> None:
    parser = _command(commands, "study", "compute what is missing of a named grid of runs")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study; see --list")
    parser.add_argument("--list", action="store_true", help="list the studies")
    _add_scale(parser, several=True, default="lab")
    parser.add_argument("--method", action="append", help="only this method; repeat for several")
    parser.add_argument("--seed", action="append", type=int, help="only this seed; repeatable")
    _add_model(parser)
    _add_source(parser)
    _add_device(parser)
    _add_store(parser)
    parser.add_argument("--fresh", action="store_true", help="do not use published records")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="compute every N-th run only, from the I-th on: for N workers that share a --store",
    )
    parser.add_argument("--publish", action="store_true", help="write the records to data/results")
    parser.add_argument(
        "--choose", action="store_true", help="of rates: choose the settings of the main study"
    )


def _add_pretrain(commands: Any) -> None:
    parser = _command(
        commands, "pretrain", "make a profile's vanilla model and its oracles (exact retraining)"
    )
    parser.add_argument(
        "--profile", default="lab", help="lab (from scratch), open or open_cpu (default: lab)"
    )
    _add_model(parser)
    parser.add_argument("--corpora", metavar="FOLDER", help="local copy of the public texts")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--only", action="append", metavar="NAME", help="vanilla, oracle-books ...")
    parser.add_argument("--jobs", type=_count, default=1, help="models trained at the same time")
    parser.add_argument("--missing", action="store_true", help="leave models that are there alone")
    parser.add_argument(
        "--keep-record",
        action="store_true",
        help="open: leave the published record of the training, for `unlearn verify --remade`",
    )


def _add_score(commands: Any) -> None:
    parser = _command(commands, "score", "score texts under a model; membership of two sets")
    parser.add_argument(
        "texts", nargs="*", metavar="FILE", help="text, JSON Lines, Parquet, folder"
    )
    _add_model(parser, "lab")
    parser.add_argument("--column", help="the column that holds the text (default: text, ...)")
    parser.add_argument("--length", type=_count, metavar="N", help="tokens per chunk (1024)")
    parser.add_argument("--members", metavar="FILE", help="texts the model was trained on")
    parser.add_argument("--non-members", metavar="FILE", help="texts it never saw")
    parser.add_argument("--out", metavar="FILE.npz", help="save the token scores of the texts")
    parser.add_argument("--force", action="store_true", help="replace an --out that is there")
    _add_abilities(parser)
    _add_device(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands,
        "verify",
        "re-run published records and compare",
        epilog="Exits with 0 if all agree, with 1 if one differs, with 2 on bad input.",
    )
    parser.add_argument("--study", metavar="NAME", help="only records of this study")
    _add_scale(parser, several=True, default="lab")
    parser.add_argument("--sample", type=int, default=3, help="how many, picked at random (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random pick (0)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="numbers a, b agree if |a - b| <= T + T |a| (default: 1e-3)",
    )
    parser.add_argument(
        "--remade",
        action="store_true",
        help="open: repeat records of a vanilla that another machine trained on the one trained "
        "here by the same recipe (`unlearn pretrain --keep-record`); only metrics are compared, by "
        "default within 0.025 + 0.01 |a|",
    )
    parser.add_argument("--store", metavar="DIR", help="verify a run store's records instead")
    parser.add_argument("--report", metavar="FILE.html", help="also write every number, as a page")
    parser.add_argument("--force", action="store_true", help="replace a --report that is there")
    _add_model(parser)
    _add_source(parser)
    _add_device(parser)


def _add_data(commands: Any) -> None:
    parser = _command(commands, "data", "what a profile's corpora hold; fetch or export them")
    _add_scale(parser, several=True, default="lab")
    _add_model(parser)
    _add_source(parser)
    parser.add_argument(
        "--show", type=_count, metavar="N", help="show the first N documents of every split"
    )
    parser.add_argument("--fetch", metavar="FOLDER", help="open: download the public texts")
    parser.add_argument(
        "--export", metavar="FOLDER", help="write FOLDER/DOMAIN/SPLIT.jsonl, one row per document"
    )
    parser.add_argument("--force", action="store_true", help="replace exported files")


def _add_methods(commands: Any) -> None:
    _command(commands, "methods", "list the unlearning methods")


def _add_profiles(commands: Any) -> None:
    _command(commands, "profiles", "list the profiles")


# --- shared by the commands ----------------------------------------------------------------------


def _pairs(given: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """NAME=VALUE arguments as a dictionary."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UnlearnError(f"{flag} {text!r} has no value: write it as in {flag} {example}.")
        if name in pairs:
            raise UnlearnError(f"{flag} gives {name!r} twice: give it once.")
        pairs[name] = value.strip()
    return pairs


def _limits(given: Sequence[str]) -> dict[str, int]:
    """--limit as split -> count, checked."""
    from unlearnlib.corpus.files import checked_limits

    limits: dict[str, int] = {}
    for split, text in _pairs(given, "--limit", "forget=16").items():
        try:
            limits[split] = int(text)
        except ValueError:
            raise UnlearnError(
                f"the limit of {split!r} is {text!r}: give a whole number of at least 1."
            ) from None
    return checked_limits(limits)


def _given_settings(args: argparse.Namespace) -> dict[str, str]:
    """What --set and its shortcuts give."""
    settings = _pairs(args.settings, "--set", "updates=8")
    for name in SHORTCUTS:
        value = getattr(args, name)
        if value is None:
            continue
        if name in settings:
            raise UnlearnError(
                f"{name} is given by --set and by --{name.replace('_', '-')}: give it once."
            )
        settings[name] = value
    for name in _NOT_BY_SET:
        if name in settings:
            raise UnlearnError(f"--set cannot change the {name}: use --{name}.")
    return settings


def _device(name: str) -> str:
    """ "cpu" or "cuda"; of several processes each has a GPU of its own, "cuda:1" say."""
    import torch

    if _processes() > 1:
        from accelerate import PartialState

        cpu = name == "cpu" or not torch.cuda.is_available()
        return str(PartialState(cpu=cpu).device)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UnlearnError(
            f"--device is cuda, but torch {torch.__version__} sees no CUDA device here: use "
            "--device cpu, or install a driver and a build of torch for it."
        )
    return name


def _execution(args: argparse.Namespace, progress: bool = True) -> Execution:
    """How a command computes, by the arguments of `_add_device`."""
    from unlearnlib.engine import Execution

    return Execution(
        micro_tokens=args.micro_tokens,
        progress=progress and not args.quiet and _is_main(),
        packed=args.packed,
        recompute=args.recompute,
    )


def _processes() -> int:
    """How many processes a launcher (accelerate, torchrun) has started for this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main() -> bool:
    """Whether this process is the one of them that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def _hush_transformers() -> None:
    """Leave the terminal to our own progress bars and sentences."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


def _store_path(
    named: str | None,
    model: str | None,
    limits: Sequence[str],
    files: Mapping[str, str] | None = None,
) -> Path | None:
    """The run store that a command writes to: the one named, else the default one, or none.

    Records of another model or of a part of the data have the same spec as those of the whole
    profile, and a study finds its records by their specs: they need a store of their own.
    """
    if named is not None:
        return Path(named)
    if model or limits or files:
        return None
    from unlearnlib.study import default_store

    return default_store().root


def _domains(profile: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """The domains given, each once; by default all that the profile has."""
    scale = get_profile(profile)
    if given:
        for domain in given:
            if domain not in scale.domains:
                raise unknown("domain", domain, scale.domains)
        return tuple(dict.fromkeys(given))
    if scale.corpus == "hub":
        from unlearnlib.corpus.hub import HUB_DOMAINS

        return HUB_DOMAINS
    return scale.domains


def _load_tasks(names: Sequence[str], limit: int | None, unsafe: bool) -> TaskSet | None:
    """The tasks that --tasks names, with their data, before any model is loaded."""
    if not names:
        for flag, given in (("--task-limit", limit), ("--confirm-unsafe-code", unsafe)):
            if given:
                raise UnlearnError(f"{flag} is given without tasks: name some with --tasks.")
        return None
    if _processes() > 1:
        raise UnlearnError(
            f"tasks are asked by one process and {_processes()} were launched: leave out --tasks, "
            "and give the model in --out to `unlearn score --tasks`."
        )
    from unlearnlib.tasks import load_tasks

    return load_tasks(names, limit=limit, unsafe=unsafe)


def _file_to_write(name: str | None, option: str, force: bool) -> Path | None:
    """The file that an option names, checked before hours are spent; None if it was not given."""
    if name is None:
        return None
    path = Path(name)
    if path.is_dir() or (path.exists() and not force):
        raise UnlearnError(f"{option} {name!r} exists: give another name, or --force.")
    if not path.absolute().parent.is_dir():
        raise UnlearnError(f"the folder of {option} {name!r} does not exist: make it first.")
    return path


def _columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a header; columns of numbers are flush right, as `card.show` prints them."""
    from unlearnlib.card import printable, show

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


# --- unlearn run ---------------------------------------------------------------------------------


def run_command(args: argparse.Namespace) -> Report:
    """One run: of a profile, of a profile's texts with another model, or of a user's documents."""
    from unlearnlib.run import evaluate, execute, key_of
    from unlearnlib.store import Library, Store
    from unlearnlib.study import published_files

    own = _is_own(args.files, args.out)
    spec = _own_spec(args, needs_out=not args.plan) if own else _profile_spec(args)
    if args.published and args.out is not None:
        raise UnlearnError(
            "--published takes numbers in place of a run, and --out needs the run for its "
            "model: leave out one of them."
        )
    inputs = _check_inputs(args, spec, needs_out=not args.plan)
    if args.plan:
        return _plan_report(inputs, _run_execution(args, progress=False))
    asked = args.tasks, args.task_limit, args.confirm_unsafe_code
    tasks = _load_tasks(*asked)
    bench, spec = _open_inputs(inputs, _run_execution(args))
    where = _store_path(args.store, args.model, args.limit, args.files)
    store = None if where is None else Store(where)
    out, key = inputs.out, key_of(bench, spec)
    if out is None:
        library = Library(published_files() if args.published else [], store)
        recorded = _recorded(library, key, bench, tasks)
        if recorded is not None:
            return _run_report(recorded, computed=False, store=where)

    command = repeat_command(args, spec, _task_words(*asked))
    progress = not args.quiet
    before: dict[str, float] = {}
    with _claimed(store, key if out is None and _is_main() else None):
        if out is not None:
            logger.info("scoring the model before")
            before = evaluate(bench, bench.model, spec)[0]
            before |= _answers(bench.model, bench.tokenizer, tasks, progress)
        logger.info("unlearning: %s, %d updates", spec.method, spec.updates)
        model, record = execute(bench, spec, in_place=True, command=command)
        answers = _answers(model, bench.tokenizer, tasks, progress)
        if store is not None and _is_main():
            _put(store, record, tasks, answers)
    record = _with_metrics(record, answers)
    if _processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
    if out is not None and _is_main():
        facts = card_facts(bench, spec, record, before, args.adapter)
        save_unlearned(out, model, bench.tokenizer, record, facts)
    return _run_report(record, computed=True, store=where, before=before, out=out)


def _run_execution(args: argparse.Namespace, progress: bool = True) -> Execution:
    """How a run computes: `_execution`, by several processes and with checkpoints if asked."""
    # Under a launcher one process is a script that was scaled down; without, a misunderstanding.
    if args.fsdp and "WORLD_SIZE" not in os.environ:
        raise UnlearnError(
            "--fsdp divides a model among processes, and there is one: start several with "
            "`accelerate launch ... -m unlearnlib`, or leave it out."
        )
    execution = _execution(args, progress)
    return dataclasses.replace(execution, shard=args.fsdp, save_every=args.save_every)


def _recorded(library: Library, key: str, bench: Bench, tasks: TaskSet | None) -> Record | None:
    """The record of a run with its answers to the tasks, if the library has both."""
    from unlearnlib.tasks import tasks_key

    if key not in library:
        return None
    record = library.get(key)
    if tasks is None:
        return record
    asked = tasks_key(record.spec, bench.data_hash, bench.model_hash, tasks)
    return _with_metrics(record, library.get(asked).metrics) if asked in library else None


def _put(store: Store, record: Record, tasks: TaskSet | None, answers: Mapping[str, float]) -> None:
    """Keep the record of a run, and beside it that of its answers to the tasks."""
    from unlearnlib.tasks import tasks_record

    store.put(record)
    if tasks is not None:
        store.put(tasks_record(record, tasks, answers))


def _task_words(names: Sequence[str], limit: int | None, unsafe: bool) -> list[str]:
    """The words that ask for the same tasks again; files by name only."""
    words = []
    for name in names:
        words += ["--tasks", _file_name(name) if Path(name).exists() else name]
    if limit is not None:
        words += ["--task-limit", str(limit)]
    return [*words, "--confirm-unsafe-code"] if unsafe else words


def _answers(
    model: nn.Module, tokenizer: Any, tasks: TaskSet | None, progress: bool
) -> dict[str, float]:
    """What a model answers to the tasks, as metrics; none without tasks."""
    if tasks is None:
        return {}
    from unlearnlib.tasks import run_tasks

    logger.info("asking the tasks %s", ", ".join(tasks.names))
    return run_tasks(model, tokenizer, tasks, progress=progress)


def _with_metrics(record: Record, more: Mapping[str, float]) -> Record:
    """The record with more metrics; the one in the store stays as it is."""
    return dataclasses.replace(record, metrics=record.metrics | dict(more)) if more else record


@contextlib.contextmanager
def _claimed(store: Store | None, key: str | None) -> Iterator[None]:
    """Keep other processes from computing the same run; nothing to do without store or key."""
    if store is None or key is None:
        yield
        return
    with store.claim(key) as mine:
        if not mine:
            raise UnlearnError(
                f"another process is computing this run ({key[:12]}): wait for it, or give "
                "another --store."
            )
        yield


def _profile_spec(args: argparse.Namespace) -> RunSpec:
    """The spec of a run of a profile: given, else chosen, else default settings."""
    from unlearnlib.study import BATCH, settings

    if args.model is not None and args.profile is None:
        raise UnlearnError(
            f"there is nothing to forget for the model {args.model!r}: give your documents with "
            "--forget FILE, or take a profile's with --profile and --domain."
        )
    if args.column is not None:
        raise UnlearnError(
            f"--column {args.column!r} is for documents of your own: give them with --forget FILE."
        )
    spec = _bare_spec(args.profile, args.domain, args.method)
    given = _given_settings(args)
    if given:
        return spec.replace(**given)
    try:
        chosen = settings(spec.profile, spec.domain, spec.method)
    except UnlearnError as error:
        if isinstance(error.__cause__, KeyError | FileNotFoundError):
            return spec
        raise  # the file is there and cannot be read
    scale = get_profile(spec.profile)
    usual = {"updates": scale.updates, "batch_size": BATCH, "precision": scale.precision}
    spec = spec.replace(**{**usual, **chosen})
    logger.info("settings chosen for %s on %s: %s", spec.method, spec.domain, chosen)
    return spec


def _run_report(
    record: Record,
    *,
    computed: bool,
    store: Path | None,
    before: Mapping[str, float] | None = None,
    out: Path | None = None,
) -> Report:
    """A run for people and for --json; `before` has the metrics of the model before."""
    from unlearnlib.card import score_rows

    before = before or {}
    values: dict[str, Any] = {
        "key": record.key,
        "status": record.status,
        "diverged_at": record.diverged_at,
        "profile": record.spec["profile"],
        "domain": record.spec["domain"],
        "method": record.spec["method"],
        "computed": computed,
        "spec": record.spec,
        "metrics": record.metrics,
        "data_hash": record.data_hash,
        "model_hash": record.model_hash,
        "seconds": record.provenance.get("seconds"),
        "repeat": record.provenance.get("command"),
        "store": store,
        "out": out,
    }
    if before:
        values["before"] = before
    lines = [
        f"{record.spec['method']} on {record.spec['domain']} ({record.key[:12]}): {record.status}"
        + (f" at update {record.diverged_at}" if record.diverged_at else "")
        + ("" if computed else ", from the records at hand")
    ]
    rows = score_rows(before, record.metrics)
    if before:
        lines.append(_columns(("score", "before", "after"), [row[:3] for row in rows]))
        target = before.get("approximate/perplexity")
        if target is not None:
            lines.append(f"the target for the forget set is a perplexity of {target:.4g}")
    else:
        lines.append(_columns(("score", "after"), [(row[0], row[2]) for row in rows]))
    if out is not None:
        lines.append(f"the model and its card are in {out}")
    elif store is not None and computed:
        lines.append(f"the record is in {store}")
    return Report(values, "\n".join(lines))


def _plan_report(inputs: Inputs, execution: Execution) -> Report:
    """What a run would take; loads the tokenizer and the documents, not the model."""
    planned = _plan_run(inputs, execution)
    available = _memory_here(inputs.device)
    fits = available is None or planned.peak <= available
    values = {
        "spec": inputs.spec.as_dict(),
        "device": inputs.device,
        "processes": planned.processes,
        "always": planned.always,
        "backward": planned.backward,
        "step": planned.step,
        "peak_bytes": planned.peak,
        "memory_bytes": available,
        "fits": fits,
        "parameters": planned.parameters,
        "trained_parameters": planned.trained,
        "tokens": planned.tokens,
        "flops": planned.flops,
        "tokens_per_second": planned.tokens_per_second,
        "seconds": planned.seconds,
        "retraining_ratio_per_1e12_tokens": 1e12 / planned.tokens if planned.tokens else None,
    }
    return Report(values, _plan_text(planned, inputs.device, available), 0 if fits else 1)


def _plan_run(inputs: Inputs, execution: Execution) -> Plan:
    """Memory and time of the run that the inputs describe."""
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.methods import get_method
    from unlearnlib.models import load_tokenizer, model_config
    from unlearnlib.plan import Machine, plan
    from unlearnlib.run import Models, clipped, load_domain, sources

    _hush_transformers()
    spec, own = inputs.spec, inputs.data is not None
    scale, method = get_profile(spec.profile), get_method(spec.method)
    data = inputs.data or load_domain(spec.profile, spec.domain, inputs.corpora, inputs.limits)
    models = Models(inputs.model, base=spec.base)
    source, oracle = sources(spec.profile, spec.domain, models, own)
    tokenizer = load_tokenizer(source)
    length = _chunk_length(model_config(source), spec.length, None if own else scale.length)
    if not own:
        data = clipped(spec.profile, data, tokenizer)
    retain = {"in_distribution": data.retain, "general": data.general_retain}
    return plan(
        source,
        spec,
        cut(data.forget[: spec.forget_size], tokenizer, length, name="forget"),
        cut(retain.get(method.data or "", ()), tokenizer, length, name="retain"),
        execution=execution,
        machine=Machine(inputs.device, _processes()),
        oracle=oracle is not None,
    )


def _plan_text(planned: Plan, device: str, available: int | None) -> str:
    """A plan for people; `available` is the device's memory in bytes, None if unknown."""
    parts = {
        "always": planned.always,
        "on the way back": planned.backward,
        "in a step": planned.step,
    }
    rows = [
        (title, name, _gigabytes(size))
        for title, part in parts.items()
        for name, size in part.items()
    ]
    lines = [
        _columns(("held", "what", "memory"), rows),
        f"{planned.trained:,} of {planned.parameters:,} parameters are trained",
        f"at most {_gigabytes(planned.peak)} at a time"
        + ("" if available is None else f", of {_gigabytes(available)} on this machine's {device}"),
        f"{planned.tokens:,} tokens at about {planned.tokens_per_second:,.0f} a second: "
        f"{_duration(planned.seconds)} of updates; loading and evaluating come on top",
    ]
    if planned.tokens:
        lines.append(
            f"training the model again on 10^12 tokens would take {1e12 / planned.tokens:,.0f} "
            "times as long"
        )
    if available is not None and planned.peak > available:
        lines.append(
            "that does not fit: try --recompute, a smaller --micro-tokens, --set "
            "precision=bfloat16, --set lora_rank=16, --set optimizer=adamw_8bit, or --fsdp on "
            "several GPUs"
        )
    return "\n".join(lines)


def _memory_here(device: str) -> int | None:
    """Bytes of memory that the device has, where the system says so."""
    import torch

    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- unlearn tune --------------------------------------------------------------------------------


def tune_command(args: argparse.Namespace) -> Report:
    """Search for the settings that reach the target, and keep the model of the best run."""
    from unlearnlib.models import cache_folder
    from unlearnlib.report import HEADER, check_extra, report, trace_table
    from unlearnlib.tune import tune

    inputs = _check_inputs(args, _tune_spec(args))
    out = inputs.out
    if out is not None:
        check_extra()
    bench, spec = _open_inputs(inputs, _execution(args))
    found = tune(
        bench,
        spec,
        start=args.start,
        runs=args.runs,
        trace=cache_folder() / "tuning",
        on_proposal=None if args.quiet else _print_proposal,
    )
    values = _tuned_values(found)
    if found.record is None or found.best is None:
        unwritten = "" if out is None else f", and {out} is not written"
        return Report(values, f"{found.ending}: the model was left as it is{unwritten}")
    values |= {
        "key": found.record.key,
        "spec": found.record.spec,
        "metrics": found.record.metrics,
        "shortfall": found.steps[found.best].shortfall(found.situation),
    }
    # A terminal has no room for the reasons, the last column.
    rows = [row[:-1] for row in trace_table(found.steps, found.situation)]
    text = _columns(HEADER[:-1], rows)
    if out is None:
        text += f"\n\nrun {found.best + 1} is the best; give --out DIR to save its model"
        return Report(values, text)
    made = spec.replace(**found.record.spec)
    provenance = found.record.provenance | {"command": repeat_command(args, made)}
    record = dataclasses.replace(found.record, provenance=provenance)
    facts = card_facts(bench, made, record, found.before, args.adapter)
    page = report(facts, found.steps, found.best, found.situation, found.ending)
    save_unlearned(out, found.model, bench.tokenizer, record, facts, {"report.html": page})
    values["out"] = str(out)
    text += f"\n\nrun {found.best + 1} is saved in {out}, with report.html"
    return Report(values, text)


def _tune_spec(args: argparse.Namespace) -> RunSpec:
    """The spec that the search starts from: none of the settings that it decides may be given."""
    from unlearnlib.study import BATCH, UPDATES

    own = _is_own(args.files, args.out)
    given = _given_settings(args)
    for name in DECIDED_BY_TUNE:
        if name in given:
            instead = " (--start sets the first one)" if name == "learning_rate" else ""
            raise UnlearnError(f"{name} is given, and tuning decides it: leave it out{instead}.")
    spec = _own_spec(args) if own else _bare_spec(args.profile, args.domain, args.method)
    return spec.replace(**{"updates": UPDATES, "batch_size": BATCH, **given})


def _print_proposal(number: int, proposal: Proposal) -> None:
    """Say what the search does next: run `number`, or its end."""
    if proposal.learning_rate is None:
        print(f"end: {proposal.reason}", flush=True)
        return
    weight = proposal.retain_weight
    shown = "" if weight == 1 else f", retain weight {weight:g}"
    rate = f"learning rate {proposal.learning_rate:.3g}"
    print(f"run {number}: {rate}{shown}: {proposal.reason}", flush=True)


def _tuned_values(found: Tuned) -> dict[str, Any]:
    """The search for --json."""
    return {
        "ending": found.ending,
        "runs": len(found.steps),
        "best": None if found.best is None else found.best + 1,
        "situation": dataclasses.asdict(found.situation),
        "steps": [dataclasses.asdict(step) for step in found.steps],
        "before": found.before,
        "out": None,
    }


# --- what is unlearned from what: shared by `run` and `tune` -------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a run or a search starts from, checked before any model is loaded.

    spec     the settings; the chunks' length is fitted to the model when it is loaded
    model    the source of the model; None for that of the spec's profile
    data     documents of the user's own; None for those of the spec's profile
    corpora  a local copy of the profile's texts, if there is one
    limits   split -> number of documents that are taken, where --limit says so
    out      the folder that the model is saved to; None if it is not saved
    device   "cpu" or "cuda"; "cuda:1", say, for one of several processes
    """

    spec: RunSpec
    model: str | None
    data: DomainData | None
    corpora: str | None
    limits: Mapping[str, int]
    out: Path | None
    device: str


def _check_inputs(args: argparse.Namespace, spec: RunSpec, needs_out: bool = True) -> Inputs:
    """Read the user's documents, and check all that can be checked without the model.

    `needs_out` says that an adapter that is asked for needs a folder.
    """
    limits = _limits(args.limit)
    out = None if args.out is None else Path(args.out)
    if out is not None:
        _check_apart(out, args.files)
        check_out(out, args.force, args.model)
    device = _device(args.device)
    data = _own_documents(args.files, args.column, limits) if args.files else None
    _check_retain(spec, data)
    _check_lora(spec.lora_rank, args.adapter, needs_out and out is None)
    return Inputs(spec, args.model, data, args.corpora, limits, out, device)


def _open_inputs(inputs: Inputs, execution: Execution) -> tuple[Bench, RunSpec]:
    """Load model and data: the bench, and the spec with chunks that the model can read."""
    from unlearnlib.run import Models, Selection, open_bench, warn_of_data

    spec, own = inputs.spec, inputs.data is not None
    _hush_transformers()
    bench = open_bench(
        spec.profile,
        spec.domain,
        models=Models(inputs.model, base=spec.base, precision=spec.precision, device=inputs.device),
        selection=Selection(inputs.corpora, inputs.limits),
        data=inputs.data,
        execution=execution,
    )
    spec = _fit_length(bench, spec, own)
    bench.forgotten(spec)  # an error if there is nothing to forget
    if own:
        warn_of_data(bench, spec)
    if inputs.out is not None:
        _check_space(bench.model, inputs.out)
    return bench, spec


def _is_own(files: Mapping[str, str], out: str | None) -> bool:
    """Whether documents of one's own are given; `UnlearnError` for a name that is empty."""
    given = dict(files) if out is None else {**files, "out": out}
    for name, path in given.items():
        if not path.strip():  # Path("") would be the working folder
            raise UnlearnError(f"--{name} is {path!r}: give a name, or leave --{name} out.")
    return bool(files)


def _bare_spec(profile: str | None, domain: str | None, method: str) -> RunSpec:
    """The spec of a profile's domain with default settings."""
    spec = RunSpec(profile or "lab", RunSpec.domain if domain is None else domain, method)
    if spec.domain == YOURS:
        raise unknown("domain", spec.domain, DOMAINS)
    return spec


def _own_spec(args: argparse.Namespace, needs_out: bool = True) -> RunSpec:
    """The spec of a run on a user's documents; defaults are those of `unlearnlib.unlearn`."""
    of_profile = {"profile": args.profile, "domain": args.domain, "corpora": args.corpora}
    for name, value in of_profile.items():
        if value is not None:
            raise UnlearnError(
                f"--{name} is given together with files of your own: leave out one of the two."
            )
    needed = {"forget": args.files.get("forget"), "model": args.model}
    if needs_out:
        needed["out"] = args.out
    for name, value in needed.items():
        if value is None:
            raise UnlearnError(
                f"--{name} is missing: documents of your own need --model, --forget and --out."
            )
    settings = {name: _usual(name) for name in TUNED} | _given_settings(args)
    return RunSpec(domain=YOURS, method=args.method).replace(**settings)


def _usual(name: str) -> Any:
    """What `unlearnlib.unlearn` takes for an argument that is not given."""
    from unlearnlib.run import unlearn

    return inspect.signature(unlearn).parameters[name].default


def _own_documents(
    files: Mapping[str, str], column: str | None, limits: Mapping[str, int]
) -> DomainData:
    """The documents in a user's files, by the names of `FILES`."""
    from unlearnlib.corpus.files import user_domain

    return user_domain(
        files["forget"],
        files.get("retain"),
        files.get("approximate"),
        files.get("general"),
        column=column,
        limits=limits,
    )


def _check_retain(spec: RunSpec, data: DomainData | None) -> None:
    """Retain data for a method that needs some, before any model is loaded."""
    from unlearnlib.methods import get_method

    needs = get_method(spec.method).data
    if data is None or needs is None:
        return
    general = needs != "in_distribution"
    flag, split = ("general", "general_retain") if general else ("retain", "retain")
    if not data.split(split):
        raise UnlearnError(
            f"method {spec.method!r} needs {split.replace('_', ' ')} documents and got none: give "
            f"them with --{flag} FILE, or choose a method without a retain term."
        )


def _check_lora(rank: int, adapter: bool, lacks_out: bool) -> None:
    """Whether the adapter asked for can be made and written, before any model is loaded."""
    if adapter and not rank:
        raise UnlearnError(
            "--adapter is given and lora_rank is 0, so there is no adapter to write: give a rank "
            "with --set lora_rank=16, or leave --adapter out."
        )
    if adapter and lacks_out:
        raise UnlearnError("--adapter is given without --out: name a folder with --out DIR.")
    if rank:
        from unlearnlib.lora import check_peft

        check_peft()


def _chunk_length(config: Any, asked: int | None, profile: int | None) -> int:
    """Tokens per chunk: as asked, or the profile's; for own documents as many as the model reads.

    Own documents (`profile` is None) take `run.unlearn`'s length at most.
    """
    most = getattr(config, "max_position_embeddings", None) or math.inf
    length = asked or profile or int(min(_usual("length"), most))
    if length > most:
        raise UnlearnError(
            f"chunks have {length} tokens and the model reads at most {most}: give --length {most} "
            "or less."
        )
    return length


def _fit_length(bench: Bench, spec: RunSpec, own: bool) -> RunSpec:
    """The spec with a chunk length that the model can read."""
    config: Any = bench.model.config
    length = _chunk_length(config, spec.length, None if own else bench.length)
    return spec.replace(length=length) if own else spec


def _check_apart(out: Path, files: Mapping[str, str]) -> None:
    """Whether `out` is outside of the user's documents: there its files would be documents, too."""
    for name, given in files.items():
        if Path(given).is_dir() and out.resolve().is_relative_to(Path(given).resolve()):
            raise UnlearnError(
                f"--out {str(out)!r} lies in --{name} {given!r}, where the model card would be "
                "read as a document: give a folder elsewhere."
            )


def _file_name(path: str) -> str:
    """The last part of a path that a user gave, also of "." and "x/"."""
    return Path(os.path.abspath(path)).name


def _source_name(model: str) -> str:
    """A model source without the folders around it; hub ids and lab models as they are."""
    is_lab = model == "lab" or model.startswith("lab/")
    return model if is_lab or not Path(model).exists() else _file_name(model)


def repeat_command(args: argparse.Namespace, spec: RunSpec, tasks: Sequence[str] = ()) -> str:
    """The command that repeats a run, in one line; files by name only, since it is published.

    `tasks` are the words that ask for tasks.
    """
    from unlearnlib.card import shell_join

    words = ["unlearn", "run"]
    if args.model is not None:
        words += ["--model", _source_name(args.model)]
    if spec.domain == YOURS:
        for name in FILES:
            if name in args.files:
                words += [f"--{name}", _file_name(args.files[name])]
        if args.column is not None:
            words += ["--column", args.column]
    else:
        words += ["--profile", spec.profile, "--domain", spec.domain]
        if args.corpora is not None:
            words += ["--corpora", _file_name(args.corpora)]
    for limit in args.limit:
        words += ["--limit", limit]
    words += [*tasks, "--method", spec.method]
    default = RunSpec()
    for name, value in spec.as_dict().items():
        if name not in _NOT_BY_SET and (name in TUNED or value != getattr(default, name)):
            words += ["--set", f"{name}={'none' if value is None else value}"]
    if args.adapter:
        words += ["--adapter"]
    if args.out is not None:
        words += ["--out", _file_name(args.out)]
    return shell_join(words)


# --- unlearn study -------------------------------------------------------------------------------


def study_command(args: argparse.Namespace) -> Report:
    """Compute what is missing of a study; publish it, or choose settings from it, if asked."""
    from unlearnlib.methods import get_method
    from unlearnlib.run import Models, Selection, open_bench
    from unlearnlib.store import Store
    from unlearnlib.study import Shard, get_study, publish, run_study

    if args.list or args.name is None:
        return _list_studies()
    study, limits = get_study(args.name), _limits(args.limit)
    domains = _domains(args.profile, args.domain)
    shard = None if args.shard is None else Shard.parse(args.shard)
    if shard is not None and (args.publish or args.choose):
        raise UnlearnError(
            f"--publish and --choose need all runs, and shard {shard} has a part of them: give the "
            "command without --shard when all shards are done."
        )
    for method in args.method or ():
        get_method(method)
    if args.choose:
        _check_choose(args.name, args.profile, some_runs=bool(args.method or args.seed))
    where = _store_path(args.store, args.model, args.limit)
    if where is None:
        raise UnlearnError(
            "records of another model or of a part of the data must not mix with those of the "
            "whole profile: give them a folder with --store DIR."
        )
    specs = (spec for domain in domains for spec in study.runs(args.profile, domain))
    _check_any_run(args.name, specs, args.method, args.seed)
    device = _device(args.device)
    _hush_transformers()

    def bench_for(profile: str, domain: str) -> Bench:
        return open_bench(
            profile,
            domain,
            models=Models(args.model, base=study.base, device=device),
            selection=Selection(args.corpora, limits),
            execution=_execution(args, progress=False),  # the study has a bar of its own
        )

    started = time.time()
    result = run_study(
        args.name,
        args.profile,
        domains,
        store=Store(where),
        fresh=args.fresh,
        methods=args.method,
        seeds=args.seed,
        benches=bench_for,
        progress=not args.quiet,
        shard=shard,
    )
    if result.busy and (args.publish or args.choose):
        raise UnlearnError(
            f"{result.busy} runs of {args.name!r} are being computed by another process: give the "
            "same command again when they are done."
        )
    chosen = _choose(args.profile, domains, result) if args.choose else {}
    published = publish(args.name, args.profile, result) if args.publish else None
    values = {
        "study": args.name,
        "profile": args.profile,
        "domains": list(domains),
        **_study_counts(result, shard),
        "seconds": round(time.time() - started, 3),
        "store": where,
        "published": published,
        "chosen": chosen,
        **_study_metrics(result),
    }
    return Report(values, _study_text(values))


def _list_studies() -> Report:
    """The studies that there are, each with what it is."""
    from unlearnlib.study import STUDIES

    studies = [{"name": study.name, "about": study.about} for study in STUDIES.values()]
    rows = [(study["name"], study["about"]) for study in studies]
    return Report({"studies": studies}, _columns(("study", "what it is"), rows))


def _check_choose(study: str, profile: str, some_runs: bool) -> None:
    """Whether settings can be chosen from a study; `some_runs`: from a part of its runs."""
    if study != "rates":
        raise UnlearnError(f"--choose is for the study 'rates', not {study!r}: leave it out.")
    if source := get_profile(profile).settings_of:
        raise UnlearnError(
            f"profile {profile!r} takes the settings that {source[0]!r} chose on "
            f"{source[1]!r}, so that nothing is chosen from what it reports: leave out --choose."
        )
    if some_runs:
        raise UnlearnError(
            "--choose compares all methods of a domain: leave out --method and --seed."
        )


def _check_any_run(
    study: str,
    specs: Iterable[RunSpec],
    methods: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> None:
    """Whether a study has a run with one of the methods and seeds given."""
    if not any(
        (not methods or spec.method in methods) and (not seeds or spec.seed in seeds)
        for spec in specs
    ):
        raise UnlearnError(
            f"study {study!r} has no run with the methods and seeds given: leave out --method "
            "or --seed."
        )


def _study_counts(result: StudyResult, shard: Shard | None) -> dict[str, Any]:
    """How many runs there are, were computed, diverged, and are left."""
    return {
        "runs": len(result.records),
        "computed": result.computed,
        "busy": result.busy,
        "shard": None if shard is None else str(shard),
        "wanted": result.wanted,
        "left": result.busy if shard is None else result.left,
        "diverged": sum(record.status == "diverged" for record in result.records),
    }


def _choose(profile: str, domains: Sequence[str], result: StudyResult) -> dict[str, Any]:
    """Choose and write the settings of each domain."""
    from unlearnlib.study import choose, write_settings

    chosen = {}
    for domain in domains:
        vanilla = next(
            r
            for r in result.baselines
            if r.spec["domain"] == domain and r.spec["baseline"] == "vanilla"
        )
        records = [r for r in result.records if r.spec["domain"] == domain]
        chosen[domain] = choose(records, vanilla)
        write_settings(profile, domain, chosen[domain])
    return chosen


def _key_metrics(record: Record) -> dict[str, float]:
    return {name: record.metrics[name] for name in KEY_METRICS if name in record.metrics}


def _study_metrics(result: StudyResult) -> dict[str, Any]:
    """The baselines, and means over seeds: a row per domain, method and learning rate."""
    from unlearnlib.study import average

    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in result.records:
        spec = record.spec
        key = (spec["domain"], spec["method"], spec["learning_rate"])
        groups.setdefault(key, []).append(record)
    baselines = [
        {"domain": r.spec["domain"], "baseline": r.spec["baseline"], "metrics": _key_metrics(r)}
        for r in result.baselines
    ]
    means = [
        {
            "domain": domain,
            "method": method,
            "learning_rate": rate,
            "runs": len(records),
            "diverged": sum(r.status == "diverged" for r in records),
            "metrics": {
                name: average([r.metrics[name] for r in records])
                for name in KEY_METRICS
                if all(name in r.metrics for r in records)
            },
        }
        for (domain, method, rate), records in groups.items()
    ]
    return {"baselines": baselines, "means": means}


def _study_text(values: Mapping[str, Any]) -> str:
    """A study for people: its means, its counts, and what was published and chosen."""
    rows: list[Sequence[object]] = [
        (b["domain"], b["baseline"], "", *(b["metrics"].get(m) for m in HEADINGS))
        for b in values["baselines"]
    ]
    rows += [
        (
            row["domain"],
            row["method"],
            f"{row['learning_rate']:g}",
            *(row["metrics"].get(m) for m in HEADINGS),
        )
        for row in values["means"]
    ]
    places = {domain: place for place, domain in enumerate(values["domains"])}
    rows.sort(key=lambda row: places[str(row[0])])
    lines = [
        _columns(("domain", "method", "rate", *HEADINGS.values()), rows),
        f"{values['study']} at {values['profile']}: {values['runs']} runs, {values['computed']} "
        f"records computed now, {values['busy']} left to other processes, {values['diverged']} "
        f"diverged, {values['seconds']:.0f} s",
    ]
    if values["shard"] is not None:
        lines.append(
            f"shard {values['shard']} ends here; of the {values['wanted']} runs of the whole study "
            f"{values['left']} are left to compute"
        )
    if values["published"] is not None:
        lines.append(f"published in {values['published']}")
    for domain, methods in values["chosen"].items():
        words = ", ".join(f"{m} {s['learning_rate']:g}" for m, s in methods.items())
        lines.append(f"chosen for {domain}: {words}")
    return "\n".join(lines)


# --- unlearn pretrain ----------------------------------------------------------------------------


def pretrain_command(args: argparse.Namespace) -> Report:
    """Make a profile's models, vanilla and the oracles: from scratch, or by training further."""
    from unlearnlib.models import lab_checkpoint
    from unlearnlib.pretrain import LAB_MODELS

    scale = get_profile(args.profile)
    if scale.continued:
        return _train_further(args)
    if scale.model != "lab":
        raise UnlearnError(
            f"the model of profile {args.profile!r} is used as it was published ({scale.model}): "
            f"models are made for {', '.join(n for n, p in PROFILES.items() if _is_made(p))}."
        )
    of_continued = {
        "--model": args.model,
        "--corpora": args.corpora,
        "--keep-record": args.keep_record,
    }
    for flag, given in of_continued.items():
        if given:
            raise UnlearnError(
                f"{flag} is given, and the lab's models are made from nothing: leave it out."
            )
    names = tuple(dict.fromkeys(args.only or LAB_MODELS))
    for name in names:
        if name not in LAB_MODELS:
            raise unknown("lab model", name, LAB_MODELS)
    if args.missing:
        needed = ("model.safetensors", "record.json")
        names = tuple(n for n in names if not all((lab_checkpoint(n) / f).exists() for f in needed))
    models = [
        {
            "name": r["name"],
            "folder": str(lab_checkpoint(r["name"])),
            "parameters": r["parameters"],
            "updates": r["updates"],
            "loss": r["losses"][-1],
            "seconds": r["provenance"]["seconds"],
            "model_hash": r["model_hash"],
        }
        for r in _train_lab(names, args.jobs, progress=not args.quiet)
    ]
    header = ("name", "parameters", "updates", "loss", "seconds")
    return _models_report(args.profile, models, header)


def _train_lab(names: Sequence[str], jobs: int, progress: bool) -> list[dict[str, Any]]:
    """Train lab models, at most `jobs` at a time; the records of their training, in order."""
    jobs = max(1, min(jobs, len(names)))
    if jobs == 1:
        return [train_one(name, progress) for name in names]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # "spawn": a fork of a process that has started torch's threads may hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(train_one, name, progress, threads) for name in names]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _models_report(
    profile: str, models: Sequence[Mapping[str, Any]], header: Sequence[str]
) -> Report:
    """The models that were made; `header` names the values that people are shown."""
    text = _columns(header, [[model[name] for name in header] for model in models])
    return Report({"profile": profile, "models": models}, text if models else "all are there")


def _is_made(profile: Profile) -> bool:
    return profile.continued or profile.model == "lab"


def _train_further(args: argparse.Namespace) -> Report:
    """Vanilla and oracles of a profile whose model is trained further."""
    from unlearnlib.continued import (
        continued_checkpoint,
        continued_names,
        is_made,
        made_here,
        train_further,
    )
    from unlearnlib.engine import Execution

    if args.jobs > 1:
        raise UnlearnError(
            f"--jobs is {args.jobs}, and oracles wait for vanilla's number of epochs: leave it out."
        )
    every = continued_names(args.profile)
    for name in args.only or ():
        if name not in every:
            raise unknown("model", name, every)
    names = [name for name in every if not args.only or name in args.only]
    if args.missing:
        # Weights without the record of their training say nothing of how they were made, and the
        # oracles would take another machine's number of epochs.
        names = [n for n in names if not (is_made(args.profile, n) and made_here(args.profile, n))]
    device = _device(args.device)
    _hush_transformers()
    records = [
        train_further(
            args.profile,
            name,
            source=args.model,
            corpora=args.corpora,
            device=device,
            execution=Execution(progress=not args.quiet),
            publish=not args.keep_record,
        )
        for name in names
    ]
    models = [
        {
            "name": r["name"],
            "folder": str(continued_checkpoint(args.profile, r["name"])),
            "epochs": r["epochs"],
            "updates": r["updates"],
            "loss": r["losses"][-1],
            "auc": min(v for k, v in r["history"][-1].items() if k.endswith("/loss/auc")),
            "seconds": r["provenance"]["seconds"],
            "model_hash": r["model_hash"],
        }
        for r in records
    ]
    header = ("name", "epochs", "updates", "loss", "auc", "seconds")
    return _models_report(args.profile, models, header)


def train_one(name: str, progress: bool, threads: int | None = None) -> dict[str, Any]:
    """Train one lab model, in this process or in one of several."""
    import torch

    from unlearnlib.engine import Execution
    from unlearnlib.pretrain import train_lab_model

    if threads is not None:
        torch.set_num_threads(threads)
    return train_lab_model(name, execution=Execution(progress=progress))


# --- unlearn score -------------------------------------------------------------------------------


def score_command(args: argparse.Namespace) -> Report:
    """Perplexity, accuracy and the attacks' scores of texts; AUCs of members and non-members."""
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.metrics import membership
    from unlearnlib.models import load_model, load_tokenizer
    from unlearnlib.scoring import score_chunks
    from unlearnlib.tasks import run_tasks

    _check_sets(args)
    out = _file_to_write(args.out, "--out", args.force)
    sets = _read_sets(args.texts, args.members, args.non_members, args.column)
    tasks = _load_tasks(args.tasks, args.task_limit, args.confirm_unsafe_code)
    device = _device(args.device)
    _hush_transformers()
    tokenizer = load_tokenizer(args.model)
    model: Any = load_model(args.model, device=device)
    length = _chunk_length(model.config, args.length, None)
    chunks = {
        name: cut(documents, tokenizer, length, name=name) for name, documents in sets.items()
    }
    execution = _execution(args)
    scores = {
        name: score_chunks(model, parts, execution=execution, name=name)
        for name, parts in chunks.items()
    }
    if out is not None:
        scores["texts"].save(out)
    values: dict[str, Any] = {"model": args.model, "length": length, "out": out, "sets": {}}
    for name, token_scores in scores.items():
        values["sets"][name] = {"documents": len(sets[name]), **_score_values(token_scores)}
    tables = [_sets_table(values["sets"])] if scores else []
    if tasks is not None:
        values["tasks"] = run_tasks(model, tokenizer, tasks, progress=not args.quiet)
        tables.append(_tasks_table(values["tasks"]))
    if args.members is not None:
        values["membership"] = membership(scores["members"], scores["non_members"])
        tables.append(_membership_table(values["membership"]))
    return Report(values, "\n\n".join(tables))


def _check_sets(args: argparse.Namespace) -> None:
    """Whether there is something to score, and all that it takes."""
    if not args.texts and args.members is None and not args.tasks:
        raise UnlearnError(
            "there is nothing to score: give files, --members and --non-members, or --tasks."
        )
    if (args.members is None) != (args.non_members is None):
        lacking = "--non-members" if args.non_members is None else "--members"
        raise UnlearnError(f"{lacking} is missing: membership inference compares two sets.")
    if args.out is not None and not args.texts:
        raise UnlearnError(f"--out {args.out!r} is for the scores of texts: give some files.")


def _read_sets(
    texts: Sequence[str], members: str | None, non_members: str | None, column: str | None
) -> dict[str, tuple[Document, ...]]:
    """The documents of each set that is given: texts, members, non_members."""
    from unlearnlib.corpus.files import read_documents

    sets: dict[str, tuple[Document, ...]] = {}
    if texts:
        sets["texts"] = _read_all(texts, column)
    if members is not None and non_members is not None:
        sets["members"] = read_documents(members, column=column)
        sets["non_members"] = read_documents(non_members, column=column)
    return sets


def _sets_table(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per score, a column per set."""
    plain = ("documents", "chunks", "tokens", "perplexity", "accuracy")
    rows = [(key, *(values[key] for values in sets.values())) for key in plain]
    attacks = next(iter(sets.values()))["attacks"]
    rows += [(name, *(values["attacks"][name] for values in sets.values())) for name in attacks]
    return _columns(("score", *sets), rows)


def _tasks_table(metrics: Mapping[str, float]) -> str:
    """A row per task and measure."""
    from unlearnlib.card import task_score_rows

    return _columns(("task", "score"), [(row[0], row[2]) for row in task_score_rows({}, metrics)])


def _membership_table(attacks: Mapping[str, Mapping[str, float]]) -> str:
    """A row per attack, a column per measure."""
    header = ("attack", *next(iter(attacks.values())))
    rows = [(attack, *measures.values()) for attack, measures in attacks.items()]
    return f"{_columns(header, rows)}\nAUC is unflipped: 0.5 is chance."


def _read_all(paths: Sequence[str], column: str | None) -> tuple[Document, ...]:
    """The documents of several files; names get the path in front where there are several."""
    from unlearnlib.corpus.files import check_column, read_documents

    check_column(column, paths)
    if len(set(paths)) < len(paths):
        raise UnlearnError(f"a file is given twice among {', '.join(paths)}: give each once.")
    documents: list[Document] = []
    for path in paths:
        found = read_documents(path, column=column)
        prefix = f"{Path(path).as_posix()}:" if len(paths) > 1 else ""
        documents += [Document(prefix + d.id, d.text) for d in found]
    return tuple(documents)


def _score_values(scores: TokenScores) -> dict[str, Any]:
    """The numbers that `unlearn score` gives for one set; attacks are means over chunks."""
    from unlearnlib.metrics import accuracy, attack_scores, chunk_perplexity, perplexity

    filled = [i for i, n in enumerate(scores.lengths.tolist()) if n]
    attacks = attack_scores(scores.select(filled))
    return {
        "chunks": len(scores),
        "tokens": int(scores.lengths.sum()),
        "perplexity": perplexity(scores),
        "chunk_perplexity": chunk_perplexity(scores),
        "accuracy": accuracy(scores),
        "attacks": {name: float(values.mean()) for name, values in attacks.items()},
    }


# --- unlearn verify ------------------------------------------------------------------------------


def verify_command(args: argparse.Namespace) -> Report:
    """Pick published records at random, run them again, and compare."""
    from unlearnlib.run import Models, Selection, open_bench
    from unlearnlib.verify import REMADE, NumericalTolerance, find_runs, pick, verify_records

    page = _file_to_write(args.report, "--report", args.force)
    given = None if args.tolerance is None else NumericalTolerance(args.tolerance, args.tolerance)
    tolerance = given or NumericalTolerance()
    remade = (given or REMADE) if args.remade else None
    domains, limits = _domains(args.profile, args.domain), _limits(args.limit)
    runs = find_runs(args.profile, domains, study=args.study, store=args.store)
    picked = pick(runs, args.sample, args.seed)
    device = _device(args.device)
    _hush_transformers()

    def bench_for(spec: RunSpec) -> Bench:
        return open_bench(
            spec.profile,
            spec.domain,
            models=Models(args.model, base=spec.base, precision=spec.precision, device=device),
            selection=Selection(args.corpora, limits),
            execution=_execution(args, progress=False),
        )

    started = time.time()
    comparisons = verify_records(
        picked, bench_for, tolerance, progress=not args.quiet, remade=remade
    )
    values = {
        "profile": args.profile,
        "study": args.study,
        "records": len(runs),
        "sample": len(comparisons),
        "seed": args.seed,
        "tolerance": dataclasses.asdict(tolerance),
        **_verification_values(comparisons),
        "seconds": round(time.time() - started, 3),
    }
    text = _verification_text(values, comparisons, tolerance, remade)
    if page is not None:
        command = _verify_again(args)
        _write_verification(page, comparisons, tolerance, len(runs), command, remade)
        values["report"] = str(page)
        text += f"\nevery number: {page}"
    return Report(values, text, 1 if values["differ"] else 0)


def _verification_values(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How many records agree, the largest difference, and a row per record, for --json."""
    from unlearnlib.verify import as_row

    rows = [as_row(comparison) for comparison in comparisons]
    agree = sum(row["agrees"] for row in rows)
    measured = [row for row in rows if row["excess"] is not None]
    return {
        "remade": sum(row["remade"] for row in rows),
        "agree": agree,
        "differ": len(rows) - agree,
        "largest": max(measured, key=lambda row: row["excess"], default=None),
        "comparisons": rows,
    }


def _verification_text(
    values: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    tolerance: NumericalTolerance,
    remade: NumericalTolerance | None,
) -> str:
    """A row per record, how many agree, and what to know about a base that differs."""
    rows, largest = values["comparisons"], values["largest"]
    lines = [
        _verification_table(rows),
        f"{values['agree']} of {len(rows)} records agree (of {values['records']} in all); numbers "
        f"may differ by {_within(tolerance)}",
    ]
    if remade is not None and values["remade"]:
        bases = {(c.record.model_hash[:12], c.base[:12]) for c in comparisons if c.base}
        which = ", ".join(f"published {theirs}, here {ours}" for theirs, ours in sorted(bases))
        lines.append(
            f"THE BASE DIFFERS in {values['remade']} of them: they were repeated on a vanilla "
            f"that was trained here ({which}). Of these only metrics were compared, within "
            f"{_within(remade)}: agreement says that the recipe leads to the same numbers, not "
            "that the runs are the same"
        )
    elif get_profile(values["profile"]).continued and any(
        "another model" in row["reason"] for row in rows
    ):
        lines.append(
            "The vanilla of this profile is trained, and another kind of machine trains it to "
            "other bits: --remade compares with one that was trained here"
        )
    if largest is not None:
        lines.append(f"largest difference: {largest['excess']:.2g} of what is allowed")
    return "\n".join(lines)


def _within(tolerance: NumericalTolerance) -> str:
    """How far a repeated number may be from the published one."""
    return f"{tolerance.absolute:g} + {tolerance.relative:g} x the published one"


def _verification_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per record: whether it agrees, and the number that is furthest off."""
    return _columns(
        ("record", "domain", "method", "seed", "result", "furthest off", "published", "repeated"),
        [
            (
                row["key"][:12],
                row["domain"],
                row["method"],
                str(row["seed"]),
                ("agree" if row["agrees"] else "DIFFER") + (" (remade)" if row["remade"] else ""),
                row["reason"] or row["metric"] or "",
                row["published"],
                row["repeated"],
            )
            for row in rows
        ],
    )


def _write_verification(
    page: Path,
    comparisons: Sequence[Comparison],
    tolerance: NumericalTolerance,
    available: int,
    command: str,
    remade: NumericalTolerance | None,
) -> None:
    """Write the page with every number beside its repetition."""
    from unlearnlib.report import verification

    text = verification(comparisons, tolerance, available=available, command=command, remade=remade)
    page.write_text(text, encoding="utf-8")


def _verify_again(args: argparse.Namespace) -> str:
    """The command that verifies the same records again; folders by name only, as in records."""
    from unlearnlib.card import shell_join

    words = ["unlearn", "verify", "--profile", args.profile]
    if args.study is not None:
        words += ["--study", args.study]
    words += ["--sample", str(args.sample), "--seed", str(args.seed)]
    if args.tolerance is not None:
        words += ["--tolerance", str(args.tolerance)]
    words += ["--remade"] if args.remade else []
    for name in args.domain or ():
        words += ["--domain", name]
    for limit in args.limit:
        words += ["--limit", limit]
    if args.model is not None:
        words += ["--model", _source_name(args.model)]
    if args.store is not None:
        words += ["--store", _file_name(args.store)]
    if args.corpora is not None:
        words += ["--corpora", _file_name(args.corpora)]
    return shell_join(words)


# --- unlearn data, methods, profiles -------------------------------------------------------------


def data_command(args: argparse.Namespace) -> Report:
    """Documents, characters and tokens per split; fetch, show or export them."""
    from unlearnlib.corpus.public import fetch
    from unlearnlib.run import load_domain

    profile, limits = get_profile(args.profile), _limits(args.limit)
    domains = _domains(args.profile, args.domain)
    if args.fetch is not None and profile.corpus != "public":
        raise UnlearnError(
            f"profile {args.profile!r} has no public texts to fetch: use --profile open."
        )
    if args.export is not None:
        _check_export(Path(args.export), domains, args.force)
    if args.fetch is not None:
        fetch(args.fetch, domains, progress=not args.quiet)
    _hush_transformers()
    folder = args.fetch or args.corpora
    sets = [load_domain(args.profile, domain, folder, limits) for domain in domains]
    tokenizer = _tokenizer(args.model, profile.model)
    statistics = [row for data in sets for row in _statistics(data, tokenizer)]
    values: dict[str, Any] = {"profile": args.profile, "statistics": statistics}
    header = ("domain", "split", "documents", "characters", "tokens", "facts")
    text = _columns(header, [[row[name] for name in header] for row in statistics])
    if args.export is not None:
        files = [file for data in sets for file in _export(Path(args.export), data)]
        values["exported"] = [str(file) for file in files]
        text += f"\nwrote {len(files)} files in {args.export}"
    if args.show is not None:
        values["shown"] = [row for data in sets for row in _first_documents(data, args.show)]
        text += "".join(
            f"\n\n--- {row['domain']}, {row['split']}: {row['id']}\n{row['text']}"
            for row in values["shown"]
        )
    return Report(values, text)


def _statistics(data: DomainData, tokenizer: Any) -> list[dict[str, Any]]:
    """Counts per split; None for tokens without a tokenizer."""
    return [
        {
            "domain": data.domain,
            "split": split,
            "documents": len(documents),
            "characters": sum(len(d.text) for d in documents),
            "tokens": None if tokenizer is None else _tokens(tokenizer, documents),
            "facts": sum(len(d.facts) for d in documents),
        }
        for split, documents in ((split, data.split(split)) for split in SPLITS)
    ]


def _first_documents(data: DomainData, count: int) -> list[dict[str, str]]:
    """The first `count` documents of every split."""
    return [
        {"domain": data.domain, "split": split, "id": document.id, "text": document.text}
        for split in SPLITS
        for document in data.split(split)[:count]
    ]


def _tokenizer(model: str | None, of_profile: str) -> Any:
    """The tokenizer of the model given or of the profile; None, with a warning, without one."""
    from unlearnlib.models import load_tokenizer
    from unlearnlib.pretrain import lab_tokenizer

    if model is not None:
        return load_tokenizer(model)
    try:
        return load_tokenizer(of_profile)
    except UnlearnError as error:
        if of_profile == "lab":
            return lab_tokenizer()
        logger.warning("tokens are not counted: %s", error)
        return None


def _tokens(tokenizer: Any, documents: Sequence[Document]) -> int:
    return sum(len(tokenizer(d.text, verbose=False)["input_ids"]) for d in documents)


def _export_files(folder: Path, domain: str) -> dict[str, Path]:
    return {split: folder / domain / f"{split}.jsonl" for split in SPLITS}


def _check_export(folder: Path, domains: Sequence[str], force: bool) -> None:
    for domain in domains:
        for file in _export_files(folder, domain).values():
            if file.exists() and not force:
                raise UnlearnError(f"{file} exists: export to another folder, or give --force.")


def _export(folder: Path, data: DomainData) -> list[Path]:
    """Write the splits that have documents; returns the files."""
    files = []
    for split, file in _export_files(folder, data.domain).items():
        documents = data.split(split)
        if not documents:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(d), ensure_ascii=False) + "\n" for d in documents]
        file.write_bytes("".join(lines).encode("utf-8"))
        files.append(file)
    return files


def methods_command(args: argparse.Namespace) -> Report:
    """Every registered method: its terms and its retain data."""
    from unlearnlib.methods import METHODS

    methods = [
        {
            "name": name,
            "title": method.title,
            "forget": term_in_words(method.forget),
            "retain": None if method.retain is None else term_in_words(method.retain),
            "data": method.data,
        }
        for name, method in METHODS.items()
    ]
    rows = [(m["name"], m["forget"], m["retain"] or "", m["data"] or "") for m in methods]
    text = _columns(("method", "forget term", "retain term", "retain data"), rows)
    return Report({"methods": methods}, text)


def profiles_command(args: argparse.Namespace) -> Report:
    """Every profile: its model, its corpus, its scale."""
    profiles = [dataclasses.asdict(profile) for profile in PROFILES.values()]
    header = ("name", "model", "corpus", "length", "about")
    return Report(
        {"profiles": profiles, "domains": list(DOMAINS)},
        _columns(header, [[p[name] for name in header] for p in profiles]),
    )
