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
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib import __version__
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.spec import DOMAINS, PROFILES, YOURS, Profile, RunSpec, get_profile

if TYPE_CHECKING:
    from unlearnlib.card import CardFacts
    from unlearnlib.corpus.documents import Document, DomainData
    from unlearnlib.engine import Execution
    from unlearnlib.metrics.scores import TokenScores
    from unlearnlib.run import Bench
    from unlearnlib.search import Proposal
    from unlearnlib.store import Record, Store
    from unlearnlib.study import StudyResult
    from unlearnlib.tasks import TaskSet

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
_FIXED = (("schedule", ""), ("warmup", ""), ("requests", ""))  # by the procedure of `unlearn tune`
_NOT_BY_SET = ("profile", "domain", "method")  # they have flags of their own
FILES = ("forget", "retain", "approximate", "general")
ADAPTER, ADAPTER_FILES = "adapter", ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Report:
    """What a command says: `values` for --json, `text` for people, and the exit code."""

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    code: int = 0


# --- main ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. argparse's own errors exit with code 2."""
    words = _with_negative_numbers(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser().parse_args(words)
    except UnlearnError as error:
        return _complain(str(error), 2)
    if _processes() > 1 and args.run is not run_command:
        return _complain(
            f"{_processes()} processes were launched for a command that runs in one: start it "
            "without the launcher (only `unlearn run` divides its work).",
            2,
        )
    try:
        with _logging(args), contextlib.redirect_stdout(sys.stderr):
            report: Report = args.run(args)
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
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """The package's log goes to stderr while a command runs."""
    log = logging.getLogger("unlearnlib")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("unlearn: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if args.quiet else logging.INFO)
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
    if args.command == "pretrain":
        return "finished models stay, and --missing goes on with the others"
    if args.command == "tune":
        return "finished runs of the search are remembered, the same command goes on"
    if getattr(args, "save_every", 0):
        return "the same command goes on after the last state that --save-every kept"
    store = _store_path(args) if args.command in ("run", "study") else None
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
    """Take one value; of two, argparse alone would drop the first without a word."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise UnlearnError(
                f"{option_string} is given twice ({getattr(namespace, self.dest)!r} and "
                f"{values!r}): put the documents into one folder and give that."
            )
        setattr(namespace, self.dest, values)


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
        parser.add_argument(f"--{name}", action=_Once, metavar="FILE", help=about)
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
    parser.set_defaults(run=tune_command)


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
    parser.set_defaults(run=run_command)


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
    parser.set_defaults(run=study_command)


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
    parser.set_defaults(run=pretrain_command)


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
    parser.set_defaults(run=score_command)


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
    parser.set_defaults(run=verify_command)


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
    parser.set_defaults(run=data_command)


def _add_methods(commands: Any) -> None:
    _command(commands, "methods", "list the unlearning methods").set_defaults(run=methods_command)


def _add_profiles(commands: Any) -> None:
    _command(commands, "profiles", "list the profiles").set_defaults(run=profiles_command)


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


def _limits(args: argparse.Namespace) -> dict[str, int]:
    """--limit as split -> count, checked."""
    from unlearnlib.corpus.files import checked_limits

    limits: dict[str, int] = {}
    for split, text in _pairs(args.limit, "--limit", "forget=16").items():
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
    from unlearnlib.engine import Execution

    # Under a launcher one process is a script that was scaled down; without, a misunderstanding.
    if getattr(args, "fsdp", False) and "WORLD_SIZE" not in os.environ:
        raise UnlearnError(
            "--fsdp divides a model among processes, and there is one: start several with "
            "`accelerate launch ... -m unlearnlib`, or leave it out."
        )
    return Execution(
        micro_tokens=args.micro_tokens,
        progress=progress and not args.quiet and _is_main(),
        packed=args.packed,
        recompute=args.recompute,
        shard=getattr(args, "fsdp", False),
        save_every=getattr(args, "save_every", 0),
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


def _store_path(args: argparse.Namespace) -> Path | None:
    """The run store that a command writes to, if it writes to one.

    Records of another model or of a part of the data have the same spec as those of the whole
    profile, and a study finds its records by their specs: they need a store of their own.
    """
    if not hasattr(args, "store"):
        return None
    if args.store is not None:
        return Path(args.store)
    apart = bool(getattr(args, "limit", None) or getattr(args, "model", None))
    if apart or any(getattr(args, name, None) for name in FILES):
        return None
    from unlearnlib.study import default_store

    return default_store().root


def _domains(args: argparse.Namespace) -> tuple[str, ...]:
    """The domains asked for, each once; by default all that the profile has."""
    profile = get_profile(args.profile)
    if args.domain:
        for domain in args.domain:
            if domain not in profile.domains:
                raise unknown("domain", domain, profile.domains)
        return tuple(dict.fromkeys(args.domain))
    if profile.corpus == "hub":
        from unlearnlib.corpus.hub import HUB_DOMAINS

        return HUB_DOMAINS
    return profile.domains


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
    own = _is_own(args)
    spec = _own_spec(args) if own else _profile_spec(args)
    limits = _limits(args)
    out = Path(args.out) if args.out is not None else None
    if out is not None:
        if args.published:
            raise UnlearnError(
                "--published takes numbers in place of a run, and --out needs the run for its "
                "model: leave out one of them."
            )
        _check_apart(out, args)
        check_out(out, args.force, args.model)
    device = _device(args.device)
    data = _own_documents(args, limits) if own else None
    _check_retain(args, spec, data)
    _check_lora(args, spec)
    if args.plan:
        return _plan_report(args, spec, data, limits, device)
    tasks = _tasks(args)

    from unlearnlib.run import Corpus, Models, execute, key_of, open_bench, warn_of_data
    from unlearnlib.store import Library, Store
    from unlearnlib.study import published_files

    _hush_transformers()
    bench = open_bench(
        spec.profile,
        spec.domain,
        models=Models(args.model, base=spec.base, precision=spec.precision, device=device),
        corpus=Corpus(args.corpora, limits),
        data=data,
        execution=_execution(args),
    )
    spec = _fit_length(bench, spec, own)
    bench.forgotten(spec)  # says so if there is nothing to forget
    if own:
        warn_of_data(bench, spec)
    if out is not None:
        _check_space(bench.model, out)
    where = _store_path(args)
    store = None if where is None else Store(where)
    key = key_of(bench, spec)
    library = Library(published_files() if args.published else [], store)
    asked = None if tasks is None else _tasks_key(spec, bench, tasks)
    if out is None and key in library and (asked is None or asked in library):
        record = library.get(key)
        answers = {} if asked is None else library.get(asked).metrics
        return _run_report(args, _with_metrics(record, answers), computed=False, store=where)

    command = repeat_command(args, spec)
    with _claimed(store, key if out is None and _is_main() else None):
        if out is None:
            before: dict[str, float] = {}
        else:
            from unlearnlib.run import evaluate

            logger.info("scoring the model before")
            before = evaluate(bench, bench.model, spec)[0] | _answers(args, bench, None, tasks)
        logger.info("unlearning: %s, %d updates", spec.method, spec.updates)
        model, record = execute(bench, spec, in_place=True, command=command)
        answers = _answers(args, bench, model, tasks)
        if store is not None and _is_main():
            store.put(record)
            if tasks is not None:
                from unlearnlib.tasks import tasks_record

                store.put(tasks_record(record, tasks, answers))
        record = _with_metrics(record, answers)
    if _processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
    if out is not None and _is_main():
        facts = card_facts(bench, spec, record, before, args.adapter)
        save_unlearned(out, model, bench, record, facts)
    return _run_report(args, record, computed=True, store=where, before=before, out=out)


def _tasks(args: argparse.Namespace) -> TaskSet | None:
    """The tasks that --tasks names, with their data, before any model is loaded."""
    if not args.tasks:
        for flag in ("task_limit", "confirm_unsafe_code"):
            if getattr(args, flag):
                raise UnlearnError(
                    f"--{flag.replace('_', '-')} is given without tasks: name some with --tasks."
                )
        return None
    if _processes() > 1:
        raise UnlearnError(
            f"tasks are asked by one process and {_processes()} were launched: leave out --tasks, "
            "and give the model in --out to `unlearn score --tasks`."
        )
    from unlearnlib.tasks import load_tasks

    return load_tasks(args.tasks, limit=args.task_limit, unsafe=args.confirm_unsafe_code)


def _tasks_key(spec: RunSpec, bench: Bench, tasks: TaskSet) -> str:
    from unlearnlib.tasks import tasks_key

    return tasks_key(spec.as_dict(), bench.data_hash, bench.model_hash, tasks)


def _answers(
    args: argparse.Namespace, bench: Bench, model: Any, tasks: TaskSet | None
) -> dict[str, float]:
    """What a model (None: the bench's own) makes of the tasks; nothing without tasks."""
    if tasks is None:
        return {}
    from unlearnlib.tasks import run_tasks

    logger.info("asking the tasks %s", ", ".join(tasks.names))
    return run_tasks(model or bench.model, bench.tokenizer, tasks, progress=not args.quiet)


def _with_metrics(record: Record, more: Mapping[str, float]) -> Record:
    return dataclasses.replace(record, metrics=record.metrics | dict(more)) if more else record


def _plan_report(
    args: argparse.Namespace,
    spec: RunSpec,
    data: DomainData | None,
    limits: Mapping[str, int],
    device: str,
) -> Report:
    """What a run would take; loads the tokenizer and the documents, not the model."""
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.methods import get_method
    from unlearnlib.models import load_tokenizer, model_config
    from unlearnlib.plan import Machine, plan
    from unlearnlib.run import Models, clipped, load_domain, sources

    _hush_transformers()
    scale, own = get_profile(spec.profile), data is not None
    data = data or load_domain(spec.profile, spec.domain, args.corpora, limits)
    models = Models(args.model, base=spec.base)
    source, oracle = sources(spec.profile, spec.domain, models, own)
    tokenizer = load_tokenizer(source)
    length = _chunk_length(model_config(source), spec.length, None if own else scale.length)
    if not own:
        data = clipped(spec.profile, data, tokenizer)
    method = get_method(spec.method)
    kept = {"in_distribution": data.retain, "general": data.general_retain}.get(method.data or "")
    forget = cut(data.forget[: spec.forget_size], tokenizer, length, name="forget")
    planned = plan(
        source,
        spec,
        forget,
        cut(kept or (), tokenizer, length, name="retain"),
        execution=_execution(args, progress=False),
        machine=Machine(device, _processes()),
        oracle=oracle is not None,
    )
    here = _memory_here(device)
    values = {
        "spec": spec.as_dict(),
        "device": device,
        "processes": planned.processes,
        "always": planned.always,
        "backward": planned.backward,
        "step": planned.step,
        "peak_bytes": planned.peak,
        "memory_bytes": here,
        "fits": here is None or planned.peak <= here,
        "parameters": planned.parameters,
        "trained_parameters": planned.trained,
        "tokens": planned.tokens,
        "flops": planned.flops,
        "tokens_per_second": planned.tokens_per_second,
        "seconds": planned.seconds,
        "retraining_ratio_per_1e12_tokens": 1e12 / planned.tokens if planned.tokens else None,
    }

    def rows(title: str, part: Mapping[str, int]) -> list[tuple[str, str, str]]:
        return [(title, name, _gigabytes(size)) for name, size in part.items()]

    table = _columns(
        ("held", "what", "memory"),
        [
            *rows("always", planned.always),
            *rows("on the way back", planned.backward),
            *rows("in a step", planned.step),
        ],
    )
    lines = [
        table,
        f"{planned.trained:,} of {planned.parameters:,} parameters are trained",
        f"at most {_gigabytes(planned.peak)} at a time"
        + ("" if here is None else f", of {_gigabytes(here)} on this machine's {device}"),
        f"{planned.tokens:,} tokens at about {planned.tokens_per_second:,.0f} a second: "
        f"{_duration(planned.seconds)} of updates; loading and evaluating come on top",
    ]
    if planned.tokens:
        lines.append(
            f"training the model again on 10^12 tokens would take {1e12 / planned.tokens:,.0f} "
            "times as long"
        )
    if not values["fits"]:
        lines.append(
            "that does not fit: try --recompute, a smaller --micro-tokens, --set "
            "precision=bfloat16, --set lora_rank=16, --set optimizer=adamw_8bit, or --fsdp on "
            "several GPUs"
        )
    return Report(values, "\n".join(lines), 0 if values["fits"] else 1)


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
    """Search for the dose that reaches the target, and keep the model of the best run."""
    own = _is_own(args)
    given = _given_settings(args)
    for name, instead in (("learning_rate", "--start"), ("retain_weight", "nothing"), *_FIXED):
        if name in given:
            raise UnlearnError(
                f"{name} is given, and tuning decides it: leave it out"
                + (f" ({instead} sets the first one)." if instead == "--start" else ".")
            )
    from unlearnlib.study import BATCH, UPDATES

    defaults: dict[str, Any] = {"updates": UPDATES, "batch_size": BATCH, **given}
    if own:
        spec = _own_spec(args).replace(**defaults)
    else:
        spec = RunSpec(args.profile or "lab", args.domain or RunSpec.domain, args.method)
        if spec.domain == YOURS:
            raise unknown("domain", spec.domain, DOMAINS)
        spec = spec.replace(**defaults)
    limits = _limits(args)
    out = Path(args.out) if args.out is not None else None
    if out is not None:
        _check_apart(out, args)
        check_out(out, args.force, args.model)
    device = _device(args.device)
    data = _own_documents(args, limits) if own else None
    _check_retain(args, spec, data)
    _check_lora(args, spec)

    from unlearnlib.models import cache_folder
    from unlearnlib.report import check_extra, report, trace_table
    from unlearnlib.run import Corpus, Models, open_bench, warn_of_data
    from unlearnlib.tune import tune

    if out is not None:
        check_extra()

    _hush_transformers()
    bench = open_bench(
        spec.profile,
        spec.domain,
        models=Models(args.model, base=spec.base, precision=spec.precision, device=device),
        corpus=Corpus(args.corpora, limits),
        data=data,
        execution=_execution(args),
    )
    spec = _fit_length(bench, spec, own)
    if own:
        warn_of_data(bench, spec)
    if out is not None:
        _check_space(bench.model, out)

    def show(number: int, proposal: Proposal) -> None:
        if proposal.learning_rate is None:
            print(f"end: {proposal.reason}", flush=True)
        else:
            rate = f"learning rate {proposal.learning_rate:.3g}"
            weight = f", retain weight {proposal.retain_weight:g}"
            weight = "" if proposal.retain_weight == 1 else weight
            print(f"run {number}: {rate}{weight}: {proposal.reason}", flush=True)

    found = tune(
        bench,
        spec,
        start=args.start,
        runs=args.runs,
        trace=cache_folder() / "tuning",
        on_proposal=None if args.quiet else show,
    )
    values: dict[str, Any] = {
        "ending": found.ending,
        "runs": len(found.steps),
        "best": None if found.best is None else found.best + 1,
        "situation": dataclasses.asdict(found.situation),
        "steps": [dataclasses.asdict(step) for step in found.steps],
        "before": found.before,
        "out": None,
    }
    rows = [row[:-1] for row in trace_table(found.steps, found.situation)]
    text = _columns(report_header(), rows) if rows else ""
    if found.record is None or found.best is None:
        unwritten = "" if out is None else f", and {out} is not written"
        return Report(values, f"{found.ending}: the model was left as it is{unwritten}")
    step = found.steps[found.best]
    values |= {
        "key": found.record.key,
        "spec": found.record.spec,
        "metrics": found.record.metrics,
        "shortfall": step.shortfall(found.situation),
    }
    if out is not None:
        record = dataclasses.replace(
            found.record,
            provenance=found.record.provenance
            | {"command": repeat_command(args, spec.replace(**found.record.spec))},
        )
        made = spec.replace(**record.spec)
        facts = card_facts(bench, made, record, found.before, args.adapter)
        page = report(facts, found.steps, found.best, found.situation, found.ending)
        save_unlearned(out, found.model, bench, record, facts, {"report.html": page})
        values["out"] = str(out)
        text += f"\n\nrun {found.best + 1} is saved in {out}, with report.html"
    else:
        text += f"\n\nrun {found.best + 1} is the best; give --out DIR to save its model"
    return Report(values, text)


def report_header() -> tuple[str, ...]:
    """The columns of the search that a terminal has room for: all but the reasons."""
    from unlearnlib.report import HEADER

    return HEADER[:-1]


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


def _is_own(args: argparse.Namespace) -> bool:
    """Whether documents of one's own are given; `UnlearnError` for a word that is empty."""
    for name in (*FILES, "out"):  # Path("") would be the working folder
        if getattr(args, name) is not None and not getattr(args, name).strip():
            raise UnlearnError(
                f"--{name} is {getattr(args, name)!r}: give a name, or leave --{name} out."
            )
    return any(getattr(args, name) is not None for name in FILES)


def _profile_spec(args: argparse.Namespace) -> RunSpec:
    """The spec of a run of a profile: given, else chosen, else default settings."""
    if args.model is not None and args.profile is None:
        raise UnlearnError(
            f"there is nothing to forget for the model {args.model!r}: give your documents with "
            "--forget FILE, or take a profile's with --profile and --domain."
        )
    if args.column is not None:
        raise UnlearnError(
            f"--column {args.column!r} is for documents of your own: give them with --forget FILE."
        )
    spec = RunSpec(
        args.profile or "lab",
        RunSpec.domain if args.domain is None else args.domain,
        args.method,
    )
    if spec.domain == YOURS:
        raise unknown("domain", spec.domain, DOMAINS)
    given = _given_settings(args)
    if given:
        return spec.replace(**given)
    from unlearnlib.study import BATCH, settings

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


def _own_spec(args: argparse.Namespace) -> RunSpec:
    """The spec of a run on a user's documents; defaults are those of `unlearnlib.unlearn`."""
    for name in ("profile", "domain", "corpora"):
        if getattr(args, name) is not None:
            raise UnlearnError(
                f"--{name} is given together with files of your own: leave out one of the two."
            )
    planned = getattr(args, "plan", False)  # which writes nothing
    for name in ("forget", "model", *(() if planned else ("out",))):
        if getattr(args, name) is None:
            raise UnlearnError(
                f"--{name} is missing: documents of your own need --model, --forget and --out."
            )
    from unlearnlib.run import unlearn

    signature = inspect.signature(unlearn).parameters
    defaults = {name: signature[name].default for name in TUNED}
    return (
        RunSpec(domain=YOURS, method=args.method)
        .replace(**defaults)
        .replace(**_given_settings(args))
    )


def _own_documents(args: argparse.Namespace, limits: Mapping[str, int]) -> DomainData:
    from unlearnlib.corpus.files import user_domain

    return user_domain(
        args.forget,
        args.retain,
        args.approximate,
        args.general,
        column=args.column,
        limits=limits,
    )


def _check_retain(args: argparse.Namespace, spec: RunSpec, data: DomainData | None) -> None:
    """Retain data for a method that needs some, before any model is loaded."""
    from unlearnlib.methods import get_method

    needs = get_method(spec.method).data
    if data is None or needs is None:
        return
    flag, split = (
        ("retain", "retain")
        if needs == "in_distribution"
        else (
            "general",
            "general_retain",
        )
    )
    if not data.split(split):
        raise UnlearnError(
            f"method {spec.method!r} needs {split.replace('_', ' ')} documents and got none: give "
            f"them with --{flag} FILE, or choose a method without a retain term."
        )


def _check_lora(args: argparse.Namespace, spec: RunSpec) -> None:
    """Whether the adapter asked for can be made and written, before any model is loaded."""
    if args.adapter and not spec.lora_rank:
        raise UnlearnError(
            "--adapter is given and lora_rank is 0, so there is no adapter to write: give a rank "
            "with --set lora_rank=16, or leave --adapter out."
        )
    if args.adapter and args.out is None and not getattr(args, "plan", False):
        raise UnlearnError("--adapter is given without --out: name a folder with --out DIR.")
    if spec.lora_rank:
        from unlearnlib.lora import check_peft

        check_peft()


def _chunk_length(config: Any, asked: int | None, profile: int | None) -> int:
    """Tokens per chunk: as asked, or the profile's; for own documents as many as the model reads.

    Own documents (`profile` is None) take `run.unlearn`'s length at most.
    """
    from unlearnlib.run import unlearn

    most = getattr(config, "max_position_embeddings", None) or math.inf
    usual = inspect.signature(unlearn).parameters["length"].default
    length = asked or profile or int(min(usual, most))
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


def check_out(out: Path, force: bool, model: str | None = None) -> None:
    """Whether a model can be written to `out`; leaves nothing behind."""
    if out.exists() and not out.is_dir():
        raise UnlearnError(f"--out {str(out)!r} is a file: give a folder.")
    if out.is_dir():
        if model is not None and Path(model).is_dir() and out.samefile(model):
            raise UnlearnError(
                f"--out {str(out)!r} is the folder of the base model: give another folder."
            )
        from unlearnlib.models import data_folder

        if out.resolve().is_relative_to((data_folder() / "lab").resolve()):
            raise UnlearnError(
                f"--out {str(out)!r} is a folder of the lab's own models: give another folder."
            )
        if not force and any(out.iterdir()):
            raise UnlearnError(
                f"--out {str(out)!r} is not empty: give another folder, or --force to write into "
                "it."
            )
    place = _existing(out)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".unlearn-"):
            pass
    except OSError as error:
        raise UnlearnError(
            f"--out {str(out)!r} cannot be written ({error.strerror}): check its permissions or "
            "give another folder."
        ) from None


def _check_apart(out: Path, args: argparse.Namespace) -> None:
    """Whether `out` is outside of the user's documents: there its files would be documents, too."""
    for name in FILES:
        given = getattr(args, name)
        if given is None or not Path(given).is_dir():
            continue
        if out.resolve().is_relative_to(Path(given).resolve()):
            raise UnlearnError(
                f"--out {str(out)!r} lies in --{name} {given!r}, where the model card would be "
                "read as a document: give a folder elsewhere."
            )


def _existing(path: Path) -> Path:
    """`path` or its nearest parent that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _check_space(model: Any, out: Path) -> None:
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(_existing(out)).free
    if free < needed:
        raise UnlearnError(
            f"--out {str(out)!r} has {free / 1e9:.1f} GB left and the model needs "
            f"{needed / 1e9:.1f} GB: free some space or give another folder."
        )


def _file_name(path: str) -> str:
    """The last part of a path that a user gave, also of "." and "x/"."""
    return Path(os.path.abspath(path)).name


def _source_name(model: str) -> str:
    """A model source without the folders around it; hub ids and lab models as they are."""
    is_lab = model == "lab" or model.startswith("lab/")
    return model if is_lab or not Path(model).exists() else _file_name(model)


def repeat_command(args: argparse.Namespace, spec: RunSpec) -> str:
    """The command that repeats a run, in one line; files by name only, since it is published."""
    from unlearnlib.card import shell_join

    words = ["unlearn", "run"]
    if args.model is not None:
        words += ["--model", _source_name(args.model)]
    if spec.domain == YOURS:
        for name in FILES:
            if getattr(args, name) is not None:
                words += [f"--{name}", _file_name(getattr(args, name))]
        if args.column is not None:
            words += ["--column", args.column]
    else:
        words += ["--profile", spec.profile, "--domain", spec.domain]
        if args.corpora is not None:
            words += ["--corpora", _file_name(args.corpora)]
    for limit in args.limit:
        words += ["--limit", limit]
    for task in getattr(args, "tasks", ()):
        words += ["--tasks", _file_name(task) if Path(task).exists() else task]
    if getattr(args, "task_limit", None):
        words += ["--task-limit", str(args.task_limit)]
    if getattr(args, "confirm_unsafe_code", False):
        words += ["--confirm-unsafe-code"]
    words += ["--method", spec.method]
    default = RunSpec()
    for name, value in spec.as_dict().items():
        if name not in _NOT_BY_SET and (name in TUNED or value != getattr(default, name)):
            words += ["--set", f"{name}={'none' if value is None else value}"]
    if args.adapter:
        words += ["--adapter"]
    if args.out is not None:
        words += ["--out", _file_name(args.out)]
    return shell_join(words)


def term_in_words(term: Any) -> str:
    """What a term of the objective is, from the first line of its documentation."""
    from unlearnlib.methods import Descent

    if term is None:
        return "none"
    if isinstance(term, Descent):
        words = "cross-entropy of the true tokens"
        return f"minus {words} (gradient ascent)" if term.sign < 0 else f"{words} (descent)"
    return (inspect.getdoc(term) or type(term).__name__).splitlines()[0].rstrip(".")


def card_facts(
    bench: Bench,
    spec: RunSpec,
    record: Record,
    before: Mapping[str, float],
    adapter: bool = False,
) -> CardFacts:
    """What the model card of a run tells; `adapter` says whether LoRA's stands beside it."""
    from unlearnlib.card import CardFacts, split_facts
    from unlearnlib.corpus.documents import SPLITS
    from unlearnlib.methods import get_method

    method = get_method(spec.method)
    splits = []
    for name in SPLITS:
        documents = bench.data.split(name)
        if name == "forget":
            documents = documents[: spec.forget_size]
        if documents:
            count = len(
                bench.forgotten(spec) if name == "forget" else bench.chunks(name, spec.length)
            )
            splits.append(split_facts(name, documents, count))
    source = bench.source or spec.profile
    from_here = source == "lab" or source.startswith("lab/") or Path(source).exists()
    shown = record.spec | {"length": spec.length or bench.length}
    term = term_in_words(method.retain)
    if method.data is not None:
        term += f", on {'retain' if method.data == 'in_distribution' else 'general'} documents"
    return CardFacts(
        source=_source_name(source),
        base_model=None if from_here else source,
        model_hash=bench.model_hash,
        title=method.title,
        forget_term=term_in_words(method.forget),
        retain_term=term,
        spec=shown,
        splits=splits,
        before=before,
        after=record.metrics,
        command=record.provenance["command"],
        versions=record.provenance["versions"],
        device=record.provenance["accelerator"] or record.provenance["device"],
        diverged_at=record.diverged_at,
        measured={name: len(chunks) for name, chunks in bench.evaluated(spec).items()},
        adapter=adapter,
    )


def save_unlearned(
    out: Path,
    model: Any,
    bench: Bench,
    record: Record,
    card: CardFacts,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write model, tokenizer, record.json, README.md and `more` (name -> text) to `out`.

    A model trained with LoRA comes with its adapter, in `out/adapter`, only where the card says so.
    All are complete before any appears. What an earlier model left in `out` goes: together the two
    would be no model.
    """
    from unlearnlib.card import model_card
    from unlearnlib.lora import save_adapter
    from unlearnlib.models import save_model

    body = {
        "format": 1,
        "base_model": card.source,
        "splits": {s.name: dataclasses.asdict(s) for s in card.splits},
        "before": _strict(card.before),
        "record": record.to_json(),
    }
    # A folder that is there may be a link or a mount of another disk, or its parent not ours to
    # write: what is complete can only be moved into it from inside.
    out.parent.mkdir(parents=True, exist_ok=True)
    place, stale = (out, (out / "record.json").exists()) if out.exists() else (out.parent, False)
    with tempfile.TemporaryDirectory(dir=place, prefix=".unlearn-") as scratch:
        staged = Path(scratch) / "model"
        save_model(model, bench.tokenizer, staged)
        (staged / "record.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        (staged / "README.md").write_text(model_card(card), encoding="utf-8")
        for name, text in (more or {}).items():
            (staged / name).write_text(text, encoding="utf-8")
        if card.adapter:
            save_adapter(model.lora_adapter, staged / ADAPTER, card.base_model)
        out.mkdir(exist_ok=True)
        written = sorted(item for item in staged.iterdir() if item.is_file())
        for name in ADAPTER_FILES:
            if card.adapter:
                (out / ADAPTER).mkdir(exist_ok=True)
                os.replace(staged / ADAPTER / name, out / ADAPTER / name)
            else:  # of an earlier model
                (out / ADAPTER / name).unlink(missing_ok=True)
        if not card.adapter:
            with contextlib.suppress(OSError):  # there is none, or it holds files of the user's
                (out / ADAPTER).rmdir()
        for item in written:
            os.replace(item, out / item.name)
    names = {item.name for item in written}
    for weights in (*out.glob("*.safetensors"), *out.glob("*.safetensors.index.json")):
        if weights.name not in names:
            weights.unlink()
    if stale and "report.html" not in names:  # it tells how the earlier model was made
        (out / "report.html").unlink(missing_ok=True)
    logger.info("saved the model, record.json and README.md in %s", out)


def _run_report(
    args: argparse.Namespace,
    record: Record,
    *,
    computed: bool,
    store: Path | None,
    before: Mapping[str, float] | None = None,
    out: Path | None = None,
) -> Report:
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


# --- unlearn study -------------------------------------------------------------------------------


def study_command(args: argparse.Namespace) -> Report:
    """Compute what is missing of a study; publish it, or choose settings from it, if asked."""
    from unlearnlib.study import STUDIES

    if args.list or args.name is None:
        studies = [{"name": s.name, "about": s.about} for s in STUDIES.values()]
        listed = [(s["name"], s["about"]) for s in studies]
        return Report({"studies": studies}, _columns(("study", "what it is"), listed))

    from unlearnlib.methods import get_method
    from unlearnlib.run import Corpus, Models, open_bench
    from unlearnlib.store import Store
    from unlearnlib.study import Shard, get_study, publish, run_study

    study, domains, limits = get_study(args.name), _domains(args), _limits(args)
    shard = None if args.shard is None else Shard.parse(args.shard)
    if shard is not None and (args.publish or args.choose):
        raise UnlearnError(
            f"--publish and --choose need all runs, and shard {shard} has a part of them: give the "
            "command without --shard when all shards are done."
        )
    for method in args.method or ():
        get_method(method)
    if args.choose and args.name != "rates":
        raise UnlearnError(f"--choose is for the study 'rates', not {args.name!r}: leave it out.")
    if args.choose and (source := get_profile(args.profile).settings_of):
        raise UnlearnError(
            f"profile {args.profile!r} takes the settings that {source[0]!r} chose on "
            f"{source[1]!r}, so that nothing is chosen from what it reports: leave out --choose."
        )
    if args.choose and (args.method or args.seed):
        raise UnlearnError(
            "--choose compares all methods of a domain: leave out --method and --seed."
        )
    where = _store_path(args)
    if where is None:
        raise UnlearnError(
            "records of another model or of a part of the data must not mix with those of the "
            "whole profile: give them a folder with --store DIR."
        )
    wanted = [
        spec
        for domain in domains
        for spec in study.runs(args.profile, domain)
        if (not args.method or spec.method in args.method)
        and (not args.seed or spec.seed in args.seed)
    ]
    if not wanted:
        raise UnlearnError(
            f"study {args.name!r} has no run with the methods and seeds given: leave out --method "
            "or --seed."
        )
    device = _device(args.device)
    _hush_transformers()

    def open_one(profile: str, domain: str) -> Bench:
        return open_bench(
            profile,
            domain,
            models=Models(args.model, base=study.base, device=device),
            corpus=Corpus(args.corpora, limits),
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
        benches=open_one,
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
    rows = _study_rows(result)
    values = {
        "study": args.name,
        "profile": args.profile,
        "domains": list(domains),
        "runs": len(result.records),
        "computed": result.computed,
        "busy": result.busy,
        "shard": None if shard is None else str(shard),
        "wanted": result.wanted,
        "left": result.busy if shard is None else result.left,
        "diverged": sum(record.status == "diverged" for record in result.records),
        "seconds": round(time.time() - started, 3),
        "store": where,
        "published": published,
        "chosen": chosen,
        "baselines": [
            {"domain": r.spec["domain"], "baseline": r.spec["baseline"], "metrics": _key_metrics(r)}
            for r in result.baselines
        ],
        "means": rows,
    }
    return Report(values, _study_text(values, result))


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


def _study_rows(result: StudyResult) -> list[dict[str, Any]]:
    """Means over seeds: one row per domain, method and learning rate, in the grid's order."""
    from unlearnlib.study import average

    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in result.records:
        spec = record.spec
        key = (spec["domain"], spec["method"], spec["learning_rate"])
        groups.setdefault(key, []).append(record)
    return [
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


def _study_text(values: Mapping[str, Any], result: StudyResult) -> str:
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
    scale = get_profile(args.profile)
    if scale.continued:
        return _train_further(args)
    if scale.model != "lab":
        raise UnlearnError(
            f"the model of profile {args.profile!r} is used as it was published ({scale.model}): "
            f"models are made for {', '.join(n for n, p in PROFILES.items() if _is_made(p))}."
        )
    for flag in ("model", "corpora", "keep_record"):
        if getattr(args, flag):
            raise UnlearnError(
                f"--{flag.replace('_', '-')} is given, and the lab's models are made from nothing: "
                "leave it out."
            )
    from unlearnlib.models import lab_checkpoint
    from unlearnlib.pretrain import LAB_MODELS

    names = tuple(dict.fromkeys(args.only or LAB_MODELS))
    for name in names:
        if name not in LAB_MODELS:
            raise unknown("lab model", name, LAB_MODELS)
    if args.missing:
        needed = ("model.safetensors", "record.json")
        names = tuple(n for n in names if not all((lab_checkpoint(n) / f).exists() for f in needed))
    jobs = max(1, min(args.jobs, len(names)))
    if jobs == 1:
        records = [train_one(name, not args.quiet) for name in names]
    else:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        # "spawn": a fork of a process that has started torch's threads may hang.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(train_one, name, not args.quiet, threads) for name in names]
            try:
                records = [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
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
        for r in records
    ]
    header = ("name", "parameters", "updates", "loss", "seconds")
    text = _columns(header, [[m[h] for h in header] for m in models])
    return Report({"profile": args.profile, "models": models}, text if models else "all are there")


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
    text = _columns(header, [[m[h] for h in header] for m in models])
    return Report({"profile": args.profile, "models": models}, text if models else "all are there")


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
    from unlearnlib.corpus.files import read_documents

    if not args.texts and args.members is None and not args.tasks:
        raise UnlearnError(
            "there is nothing to score: give files, --members and --non-members, or --tasks."
        )
    if (args.members is None) != (args.non_members is None):
        lacking = "--non-members" if args.non_members is None else "--members"
        raise UnlearnError(f"{lacking} is missing: membership inference compares two sets.")
    if args.out is not None and not args.texts:
        raise UnlearnError(f"--out {args.out!r} is for the scores of texts: give some files.")
    out = _file_to_write(args.out, "--out", args.force)
    sets: dict[str, tuple[Document, ...]] = {}
    if args.texts:
        sets["texts"] = _read_all(args.texts, args.column)
    if args.members is not None:
        sets["members"] = read_documents(args.members, column=args.column)
        sets["non_members"] = read_documents(args.non_members, column=args.column)
    tasks = _tasks(args)

    from unlearnlib.corpus.chunks import cut
    from unlearnlib.metrics import membership
    from unlearnlib.models import load_model, load_tokenizer
    from unlearnlib.scoring import score_chunks

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
    for name, each in scores.items():
        values["sets"][name] = {"documents": len(sets[name]), **_score_values(each)}
    text = (
        ""
        if not scores
        else _columns(
            ("score", *scores),
            [
                (key, *(values["sets"][name][key] for name in scores))
                for key in ("documents", "chunks", "tokens", "perplexity", "accuracy")
            ]
            + [
                (attack, *(values["sets"][name]["attacks"][attack] for name in scores))
                for attack in next(iter(values["sets"].values()))["attacks"]
            ],
        )
    )
    if tasks is not None:
        from unlearnlib.card import task_score_rows
        from unlearnlib.tasks import run_tasks

        values["tasks"] = run_tasks(model, tokenizer, tasks, progress=not args.quiet)
        rows = [(row[0], row[2]) for row in task_score_rows({}, values["tasks"])]
        text += ("\n\n" if text else "") + _columns(("task", "score"), rows)
    if args.members is not None:
        values["membership"] = membership(scores["members"], scores["non_members"])
        rows = [(attack, *row.values()) for attack, row in values["membership"].items()]
        header = ("attack", *next(iter(values["membership"].values())))
        text += f"\n\n{_columns(header, rows)}\nAUC is unflipped: 0.5 is chance."
    return Report(values, text)


def _read_all(paths: Sequence[str], column: str | None) -> tuple[Document, ...]:
    """The documents of several files; names get the path in front where there are several."""
    from unlearnlib.corpus.documents import Document
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
        "attacks": {name: float(each.mean()) for name, each in attacks.items()},
    }


# --- unlearn verify ------------------------------------------------------------------------------


def verify_command(args: argparse.Namespace) -> Report:
    """Pick published records at random, run them again, and compare."""
    from unlearnlib.verify import REMADE, Tolerance, as_row, pick, runs_to_verify, verify

    page = _file_to_write(args.report, "--report", args.force)
    remade = None
    if args.remade:
        given = REMADE if args.tolerance is None else (args.tolerance, args.tolerance)
        remade = Tolerance(*given)
    tolerance = Tolerance() if args.tolerance is None else Tolerance(args.tolerance, args.tolerance)
    domains, limits = _domains(args), _limits(args)
    records = runs_to_verify(_records_to_verify(args, domains), args.profile, domains)
    picked = pick(records, args.sample, args.seed)

    from unlearnlib.run import Corpus, Models, open_bench

    device = _device(args.device)
    _hush_transformers()
    started = time.time()
    comparisons = verify(
        picked,
        lambda spec: open_bench(
            spec.profile,
            spec.domain,
            models=Models(args.model, base=spec.base, precision=spec.precision, device=device),
            corpus=Corpus(args.corpora, limits),
            execution=_execution(args, progress=False),
        ),
        tolerance,
        progress=not args.quiet,
        remade=remade,
    )
    rows = [as_row(c) for c in comparisons]
    agree = sum(row["agrees"] for row in rows)
    measured = [row for row in rows if row["excess"] is not None]
    largest = max(measured, key=lambda row: row["excess"], default=None)
    values = {
        "profile": args.profile,
        "study": args.study,
        "records": len(records),
        "sample": len(rows),
        "seed": args.seed,
        "tolerance": dataclasses.asdict(tolerance),
        "remade": sum(row["remade"] for row in rows),
        "agree": agree,
        "differ": len(rows) - agree,
        "largest": largest,
        "comparisons": rows,
        "seconds": round(time.time() - started, 3),
    }
    table = _columns(
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
    text = (
        f"{table}\n{agree} of {len(rows)} records agree (of {len(records)} in all); numbers may "
        f"differ by {tolerance.absolute:g} + {tolerance.relative:g} x the published one"
    )
    if remade is not None and values["remade"]:
        bases = {(c.record.model_hash[:12], c.base[:12]) for c in comparisons if c.base}
        which = ", ".join(f"published {theirs}, here {ours}" for theirs, ours in sorted(bases))
        text += (
            f"\nTHE BASE DIFFERS in {values['remade']} of them: they were repeated on a vanilla "
            f"that was trained here ({which}). Of these only metrics were compared, within "
            f"{remade.absolute:g} + {remade.relative:g} x the published one: agreement says that "
            "the recipe leads to the same numbers, not that the runs are the same"
        )
    elif (
        any("another model" in row["reason"] for row in rows)
        and get_profile(args.profile).continued
    ):
        text += (
            "\nThe vanilla of this profile is trained, and another kind of machine trains it to "
            "other bits: --remade compares with one that was trained here"
        )
    if largest is not None:
        text += f"\nlargest difference: {largest['excess']:.2g} of what is allowed"
    if page is not None:
        from unlearnlib.report import verification

        whole = verification(
            comparisons,
            tolerance,
            available=len(records),
            command=_verify_again(args),
            remade=remade,
        )
        page.write_text(whole, encoding="utf-8")
        values["report"] = str(page)
        text += f"\nevery number: {page}"
    return Report(values, text, 0 if agree == len(rows) else 1)


def _verify_again(args: argparse.Namespace) -> str:
    """The command that verifies the same records again; folders by name only, as in records."""
    from unlearnlib.card import shell_join

    words = ["unlearn", "verify", "--profile", args.profile]
    for name in ("study", "sample", "seed", "tolerance"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    words += ["--remade"] if args.remade else []
    for name in args.domain or ():
        words += ["--domain", name]
    for limit in args.limit:
        words += ["--limit", limit]
    if args.model is not None:
        words += ["--model", _source_name(args.model)]
    for name in ("store", "corpora"):
        if getattr(args, name) is not None:
            words += [f"--{name}", _file_name(getattr(args, name))]
    return shell_join(words)


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


def _records_to_verify(args: argparse.Namespace, domains: Sequence[str]) -> list[Record]:
    """The published records, or a store's; of one study or of all."""
    from unlearnlib.models import data_folder
    from unlearnlib.store import Store, read_parquet
    from unlearnlib.study import get_study, published_files

    study = None if args.study is None else get_study(args.study)
    if args.store is not None:
        if not Path(args.store).is_dir():
            raise UnlearnError(f"--store {args.store!r} is no folder: give that of a run store.")
        records = list(Store(Path(args.store)).records())
        if study is None:
            return records
        specs = [s.as_dict() for d in domains for s in study.runs(args.profile, d)]
        return [record for record in records if record.spec in specs]
    if study is None:
        return [record for path in published_files() for record in read_parquet(path)]
    path = data_folder() / "results" / f"{args.profile}-{study.name}.parquet"
    if not path.exists():
        raise UnlearnError(
            f"study {study.name!r} is not published at profile {args.profile!r}: run `unlearn "
            f"study {study.name} --profile {args.profile} --publish` first."
        )
    return read_parquet(path)


# --- unlearn data, methods, profiles -------------------------------------------------------------


def data_command(args: argparse.Namespace) -> Report:
    """Documents, characters and tokens per split; fetch, show or export them."""
    from unlearnlib.corpus.documents import SPLITS

    profile, domains, limits = get_profile(args.profile), _domains(args), _limits(args)
    if args.fetch is not None and profile.corpus != "public":
        raise UnlearnError(
            f"profile {args.profile!r} has no public texts to fetch: use --profile open."
        )
    if args.export is not None:
        _check_export(Path(args.export), domains, args.force)
    if args.fetch is not None:
        from unlearnlib.corpus.public import fetch

        fetch(args.fetch, domains, progress=not args.quiet)
    from unlearnlib.run import load_domain

    _hush_transformers()
    folder = args.fetch or args.corpora
    sets = {domain: load_domain(args.profile, domain, folder, limits) for domain in domains}
    tokenizer = _tokenizer(args, profile.model)
    statistics = []
    for domain, data in sets.items():
        for split in SPLITS:
            documents = data.split(split)
            statistics.append(
                {
                    "domain": domain,
                    "split": split,
                    "documents": len(documents),
                    "characters": sum(len(d.text) for d in documents),
                    "tokens": None if tokenizer is None else _tokens(tokenizer, documents),
                    "facts": sum(len(d.facts) for d in documents),
                }
            )
    header = ("domain", "split", "documents", "characters", "tokens", "facts")
    values: dict[str, Any] = {"profile": args.profile, "statistics": statistics}
    text = _columns(header, [[row[name] for name in header] for row in statistics])
    if args.export is not None:
        files = [f for data in sets.values() for f in _export(Path(args.export), data)]
        values["exported"] = [str(file) for file in files]
        text += f"\nwrote {len(files)} files in {args.export}"
    if args.show is not None:
        shown = [
            {"domain": domain, "split": split, "id": d.id, "text": d.text}
            for domain, data in sets.items()
            for split in SPLITS
            for d in data.split(split)[: args.show]
        ]
        values["shown"] = shown
        text += "".join(
            f"\n\n--- {s['domain']}, {s['split']}: {s['id']}\n{s['text']}" for s in shown
        )
    return Report(values, text)


def _tokenizer(args: argparse.Namespace, source: str) -> Any:
    """The tokenizer of the model given or of the profile; None, with a warning, without one."""
    from unlearnlib.models import load_tokenizer

    if args.model is not None:
        return load_tokenizer(args.model)
    try:
        return load_tokenizer(source)
    except UnlearnError as error:
        if source == "lab":
            from unlearnlib.pretrain import lab_tokenizer

            return lab_tokenizer()
        logger.warning("tokens are not counted: %s", error)
        return None


def _tokens(tokenizer: Any, documents: Sequence[Document]) -> int:
    return sum(len(tokenizer(d.text, verbose=False)["input_ids"]) for d in documents)


def _export_files(folder: Path, domain: str) -> dict[str, Path]:
    from unlearnlib.corpus.documents import SPLITS

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
