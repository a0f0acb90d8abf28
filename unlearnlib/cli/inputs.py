"""What a run or a search starts from, checked before a model is loaded, and then opened."""

from __future__ import annotations

import argparse
import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.cli.arguments import (
    FILES,
    NOT_BY_SET,
    chosen_limits,
    column_words,
    given_settings,
    hush_transformers,
    named_columns,
)
from unlearnlib.corpus.documents import DomainData
from unlearnlib.corpus.hub_rows import is_hub
from unlearnlib.devices import choose_device
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.profiles import DOMAINS, YOURS
from unlearnlib.quantised import check_bitsandbytes, check_device
from unlearnlib.report.saved import check_out, check_space, is_written
from unlearnlib.spec import RunSpec
from unlearnlib.text import file_name, source_name

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.engine import Execution

logger = logging.getLogger(__name__)

TUNED = ("learning_rate", "updates", "batch_size")  # always spelt out in a command that repeats


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
    tokenizer  the source of the tokenizer, where it is not the model's own
    """

    spec: RunSpec
    model: str | None
    data: DomainData | None
    corpora: str | None
    limits: Mapping[str, int]
    out: Path | None
    device: str
    tokenizer: str | None = None


def check_inputs(args: argparse.Namespace, spec: RunSpec, needs_out: bool = True) -> Inputs:
    """Read the user's documents, and check all that can be checked without the model.

    `needs_out` says that an adapter that is asked for needs a folder.
    """
    check_named(args)
    check_tokenizer_of(args)
    limits = chosen_limits(args.limit)
    out = None if args.out is None else Path(args.out)
    if out is not None:
        _check_apart(out, args.files)
        check_out(out, args.force, args.model)
    device = choose_device(args.device)
    data = own_documents(args, limits) if args.files else None
    _check_retain(spec, data)
    _check_lora(spec.lora_rank, args.adapter, needs_out and out is None)
    if spec.base_bits and not getattr(args, "plan", False):
        check_bitsandbytes(spec.base_bits)
        check_device(device)
    if data is not None:
        spec = _in_own_precision(spec, args)
    return Inputs(spec, args.model, data, args.corpora, limits, out, device, args.tokenizer)


def check_tokenizer_of(args: argparse.Namespace) -> None:
    """`UnlearnError` for a tokenizer that is given without the model that it belongs to."""
    if args.tokenizer is not None and args.model is None:
        raise UnlearnError(
            f"--tokenizer {args.tokenizer!r} is given without --model: a profile's model has one "
            "of its own; leave it out, or give the model that it belongs to."
        )


def _in_own_precision(spec: RunSpec, args: argparse.Namespace) -> RunSpec:
    """The spec with the precision that the user's model was saved in, if none was asked for."""
    from unlearnlib.models import DTYPES, own_precision

    if "precision" in given_settings(args):
        return spec
    hush_transformers()
    own = own_precision(args.model)
    if own not in DTYPES:
        logger.warning(
            "the model was saved in %s, which is not trained in: it becomes float32 (--precision "
            "bfloat16 takes half the memory)",
            own,
        )
    return spec.replace(precision=own if own in DTYPES else "float32")


def check_named(args: argparse.Namespace) -> None:
    """`UnlearnError` where columns are named, and there are no files of the user's own."""
    words = column_words(args)
    if words and not args.files:
        given = " ".join([words[0], *map(repr, words[1:2])])
        raise UnlearnError(f"{given} is for documents of your own: give them with --forget FILE.")


def open_inputs(inputs: Inputs, execution: Execution) -> tuple[Bench, RunSpec]:
    """Load model and data: the bench, and the spec with chunks that the model can read."""
    from unlearnlib.bench import Models, Selection, check_stop, open_bench
    from unlearnlib.lora import check_layers
    from unlearnlib.run import warn_of_data, with_bits

    spec, own = inputs.spec, inputs.data is not None
    hush_transformers()
    bench = open_bench(
        spec.profile,
        spec.domain,
        models=Models(
            inputs.model,
            base=spec.base,
            precision=spec.precision,
            device=inputs.device,
            tokenizer=inputs.tokenizer,
            bits=spec.base_bits,
        ),
        selection=Selection(inputs.corpora, inputs.limits),
        data=inputs.data,
        execution=execution,
    )
    spec = _fit_length(bench, spec, own)
    spec = with_bits(spec, bench.model)
    if spec.lora_rank:
        check_layers(bench.model)
    bench.forgotten(spec)  # an error if there is nothing to forget
    check_stop(bench, spec)
    if own:
        warn_of_data(bench, spec)
    if inputs.out is not None:
        check_space(bench.model, inputs.out)
    return bench, spec


def is_own(files: Mapping[str, str], out: str | None) -> bool:
    """Whether documents of one's own are given; `UnlearnError` for a name that is empty."""
    given = dict(files) if out is None else {**files, "out": out}
    for name, path in given.items():
        if not path.strip():  # Path("") would be the working folder
            raise UnlearnError(f"--{name} is {path!r}: give a name, or leave --{name} out.")
    return bool(files)


def bare_spec(profile: str | None, domain: str | None, method: str) -> RunSpec:
    """The spec of a profile's domain with default settings."""
    spec = RunSpec(profile or "lab", RunSpec.domain if domain is None else domain, method)
    if spec.domain == YOURS:
        raise unknown("domain", spec.domain, DOMAINS)
    return spec


def own_spec(args: argparse.Namespace, needs_out: bool = True) -> RunSpec:
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
    settings = {name: _usual(name) for name in TUNED} | given_settings(args)
    return RunSpec(domain=YOURS, method=args.method).replace(**settings)


def _usual(name: str) -> Any:
    """What `unlearnlib.unlearn` takes for an argument that is not given."""
    from unlearnlib.run import unlearn

    return inspect.signature(unlearn).parameters[name].default


def own_documents(args: argparse.Namespace, limits: Mapping[str, int]) -> DomainData:
    """The documents in a user's files, by the names of `FILES`."""
    from unlearnlib.corpus.files import user_domain

    files = args.files
    return user_domain(
        files["forget"],
        files.get("retain"),
        files.get("approximate"),
        files.get("general"),
        limits=limits,
        **named_columns(args),
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


def chunk_length(config: Any, asked: int | None, profile: int | None) -> int:
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
    length = chunk_length(config, spec.length, None if own else bench.length)
    if not own:
        return spec
    bench.length = length  # as `run.unlearn` has it: one run has one key, whoever asks for it
    return spec.replace(length=length)


def _check_apart(out: Path, files: Mapping[str, str]) -> None:
    """Whether `out` is outside of the user's documents: there its files would be documents, too."""
    for name, given in files.items():
        if Path(given).is_dir() and out.resolve().is_relative_to(Path(given).resolve()):
            raise UnlearnError(
                f"--out {str(out)!r} lies in --{name} {given!r}, where the model card would be "
                "read as a document: give a folder elsewhere."
            )
        inside = Path(given).resolve().parent == out.resolve()
        if inside and Path(given).is_file() and is_written(Path(given).name):
            raise UnlearnError(
                f"--{name} {given!r} would be replaced by the model's own file of that name: move "
                "it, or give another --out."
            )


def repeat_command(args: argparse.Namespace, spec: RunSpec, tasks: Sequence[str] = ()) -> str:
    """The command that repeats a run, in one line; files by name only, since it is published.

    `tasks` are the words that ask for tasks.
    """
    from unlearnlib.text import shell_join

    words = ["unlearn", "run"]
    if args.model is not None:
        words += ["--model", source_name(args.model)]
    if args.tokenizer is not None:
        words += ["--tokenizer", source_name(args.tokenizer)]
    if spec.domain == YOURS:
        for name in FILES:
            if name in args.files:
                given = args.files[name]
                words += [f"--{name}", given if is_hub(given) else file_name(given)]
        words += column_words(args)
    else:
        words += ["--profile", spec.profile, "--domain", spec.domain]
        if args.corpora is not None:
            words += ["--corpora", file_name(args.corpora)]
    for limit in args.limit:
        words += ["--limit", limit]
    words += [*tasks, "--method", spec.method]
    default = RunSpec()
    # With a model of one's own the precision is that model's where none is given.
    always = (*TUNED, "precision") if spec.domain == YOURS else TUNED
    for name, value in spec.as_dict().items():
        if name not in NOT_BY_SET and (name in always or value != getattr(default, name)):
            words += ["--set", f"{name}={'none' if value is None else value}"]
    if args.adapter:
        words += ["--adapter"]
    if args.out is not None:
        words += ["--out", file_name(args.out)]
    return shell_join(words)
