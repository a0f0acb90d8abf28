"""The parser of the `unlearn` command: every command, flag and help text."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from unlearnlib import __version__
from unlearnlib.cli.arguments import FILES, NOT_BY_SET, SHORTCUTS
from unlearnlib.devices import DEVICES
from unlearnlib.errors import UnlearnError
from unlearnlib.profiles import DOMAINS, PROFILES
from unlearnlib.spec import RunSpec


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
        _add_audit,
        _add_verify,
        _add_data,
        _add_notebook,
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
        help="hub id (owner/name, or owner/name@revision), folder with safetensors, GGUF file, or "
        "lab (default: the profile's)",
    )


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        metavar="SOURCE",
        help="folder or hub id of the tokenizer of --model, where that has none (default: --model)",
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto: a CUDA device, else Apple's MPS, else the processor (default: auto)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
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
    _add_tokenizer(parser)
    _add_files(parser)
    _add_columns(parser)
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
        + ", ".join(f.name for f in dataclasses.fields(RunSpec) if f.name not in NOT_BY_SET),
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


def _add_files(parser: argparse.ArgumentParser) -> None:
    """The user's own documents: common to `run`, `tune` and `data`."""
    for name, about in zip(
        FILES,
        (
            "documents to forget: text, JSON, Parquet, CSV, a folder or .zip of them, or a data "
            "set of the hub (hub:OWNER/NAME:CONFIG:SPLIT)",
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


def _add_columns(parser: argparse.ArgumentParser) -> None:
    """What the columns of a user's tables are called: common to all commands that read some."""
    parser.add_argument(
        "--column",
        help="the column that holds the text, or the conversation; a.b is b within a (default: "
        "text, ... messages)",
    )
    parser.add_argument(
        "--prompt-column",
        metavar="COLUMN",
        help="the column that holds what is given before the text, such as its question: losses "
        "and scores are of the text alone",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="with --prompt-column: a user asks and an assistant answers, as the tokenizer's chat "
        "template has it",
    )
    parser.add_argument(
        "--id",
        metavar="COLUMN",
        help="the column that holds the names of documents, or none to number them (default: id)",
    )


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
        help="let tasks such as humaneval run the code that the model writes, and a task file of "
        "your own its templates and functions, on this machine",
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
        "--audit",
        action="store_true",
        help="then try to bring back what was forgotten, as `unlearn audit` does; the page and the "
        "card's section go to --out",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="do nothing, but say what memory and time the run would take, and what it would cost",
    )


def _add_study(commands: Any) -> None:
    parser = _command(commands, "study", "compute what is missing of a named grid of runs")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study; see --list")
    parser.add_argument("--list", action="store_true", help="list the studies")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every study: the rates, the settings that they choose, and the others",
    )
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="with --all: processes side by side",
    )
    _add_scale(parser, several=True, default="lab")
    parser.add_argument("--method", action="append", help="only this method; repeat for several")
    parser.add_argument("--seed", action="append", type=int, help="only this seed; repeatable")
    _add_model(parser)
    _add_tokenizer(parser)
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
    _add_where(parser)
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
        "texts", nargs="*", metavar="FILE", help="text, JSON, Parquet, CSV, folder, .zip, hub:..."
    )
    _add_model(parser, "lab")
    _add_tokenizer(parser)
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="float32, float64, bfloat16 or float16 (default: what the model was saved in)",
    )
    _add_columns(parser)
    parser.add_argument("--length", type=_count, metavar="N", help="tokens per chunk (1024)")
    parser.add_argument(
        "--bos-every-chunk",
        action="store_true",
        help="every chunk begins with <bos>, not only the first of a document (Gemma needs it)",
    )
    parser.add_argument("--members", metavar="FILE", help="texts the model was trained on")
    parser.add_argument("--non-members", metavar="FILE", help="texts it never saw")
    parser.add_argument("--out", metavar="FILE.npz", help="save the token scores of the texts")
    parser.add_argument("--force", action="store_true", help="replace an --out that is there")
    _add_abilities(parser)
    _add_device(parser)


def _add_audit(commands: Any) -> None:
    parser = _command(
        commands,
        "audit",
        "try to bring back what a model is to have forgotten: is it gone, or hidden",
        epilog="""examples:
  documents of your own; the page audit.html goes to --out
    unlearn audit --model unlearned --original FOLDER --forget f.jsonl --retain r.jsonl \\
        --approximate a.jsonl --general g.jsonl --out audited
  a model that was unlearned of a profile's documents, which have a retrained model
    unlearn audit --model unlearned --profile lab --domain books
  in a pipeline: exit code 1 where more than a quarter comes back
    unlearn audit --model unlearned --original FOLDER --forget f.jsonl --approximate a.jsonl \\
        --require "relearning<=0.25" --require "inside<=0.25"

The audits are relearning, quantisation, inside, context and extraction. Each is made on the model
before, on the retrained one and on an impostor, too. What is measured is kept, and the same command
goes on with the rest. A requirement is about a number of the report, such as relearning,
relearning/kept, quantisation/int4, inside or context; one that is not known is not met.

Exits with 0, with 1 if a requirement is not met, with 2 on bad input.""",
    )
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="the unlearned model, which is audited"
    )
    parser.add_argument(
        "--original",
        metavar="SOURCE",
        help="the model before unlearning (default: the profile's vanilla)",
    )
    parser.add_argument(
        "--oracle",
        metavar="SOURCE",
        help="an exactly retrained model, if there is one (default: the profile's)",
    )
    _add_scale(parser, several=False, default=None)
    _add_tokenizer(parser)
    _add_files(parser)
    _add_columns(parser)
    _add_source(parser)
    parser.add_argument("--length", type=_count, metavar="N", help="tokens per chunk (1024)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="AUDIT",
        help="relearning, quantisation, inside, context or extraction; repeatable (default: all)",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME<=NUMBER",
        help="what must hold of a number of the report; repeat for several",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="a setting, several numbers with commas: rates (for a large model rather 1e-6,1e-5), "
        "steps, batch_size, formats, prefixes, span, tries, seed, most",
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="where measurements are kept (default: in the user's cache)",
    )
    parser.add_argument("--out", metavar="DIR", help="write audit.html and audit.json here")
    parser.add_argument(
        "--card", action="store_true", help="put the result into the model card of --model"
    )
    parser.add_argument("--force", action="store_true", help="replace what is in --out")
    _add_device(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands,
        "verify",
        "re-run published records and compare",
        epilog="With the picked runs, the scores of the vanilla and retrained models that they are "
        "held\nagainst are verified, and without --store also that settings and searches follow "
        "from\nthe published records, and that no run or search is missing there.\n"
        "The default tolerance is for two kinds of x86 processors, in float32, with the pinned\n"
        "libraries: the published records leave room for no more. On a GPU, in another precision\n"
        "or with other libraries give a --tolerance.\n\n"
        "Exits with 0 if all agree, with 1 if one differs, with 2 on bad input.",
    )
    parser.add_argument("--study", metavar="NAME", help="only records of this study")
    _add_scale(parser, several=True, default="lab")
    parser.add_argument(
        "--sample",
        type=int,
        help="how many, picked at random (as many as took five minutes when they were recorded, "
        "and three at least)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random pick (0)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="numbers a, b agree if |a - b| <= T + T |a| (default: 1e-5 + 2e-4 |a|, for ranks and "
        "shares 5e-4 + 2e-4 |a|, and more for a model that broke on its way); learning rates and "
        "counts must be equal",
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
    _add_tokenizer(parser)
    _add_source(parser)
    _add_device(parser)


def _add_data(commands: Any) -> None:
    parser = _command(
        commands, "data", "what a profile's corpora, or files of yours, hold; fetch or export them"
    )
    _add_scale(parser, several=True, default="lab")
    _add_model(parser)
    _add_tokenizer(parser)
    _add_files(parser)
    _add_columns(parser)
    _add_source(parser)
    parser.add_argument(
        "--show", type=_count, metavar="N", help="show the first N documents of every split"
    )
    parser.add_argument("--fetch", metavar="FOLDER", help="open: download the public texts")
    parser.add_argument(
        "--export", metavar="FOLDER", help="write FOLDER/DOMAIN/SPLIT.jsonl, one row per document"
    )
    parser.add_argument("--force", action="store_true", help="replace exported files")


def _add_notebook(commands: Any) -> None:
    parser = _command(
        commands,
        "notebook",
        "run a notebook of the book with parameters of your own",
        epilog="""\
  unlearn notebook                                       list the notebooks
  unlearn notebook learning_rates --show                 list a notebook's parameters
  unlearn notebook learning_rates -p domains books -p rates 1e-4,5e-4 -p compute missing
""",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the notebook; see --list")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter; several values with commas",
    )
    parser.add_argument("--out", metavar="FILE", help="the executed notebook (NAME.ipynb)")
    parser.add_argument("--force", action="store_true", help="replace the file in --out")
    parser.add_argument("--show", action="store_true", help="list the notebook's parameters")
    parser.add_argument("--list", action="store_true", help="list the notebooks")


def _add_methods(commands: Any) -> None:
    _command(commands, "methods", "list the unlearning methods")


def _add_profiles(commands: Any) -> None:
    _command(commands, "profiles", "list the profiles")
