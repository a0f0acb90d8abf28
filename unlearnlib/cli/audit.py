"""`unlearn audit`: attempts to bring back what a model is to have forgotten."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.audits.audit import AuditSpec, make_audit, store_folder
from unlearnlib.audits.findings import AUDITS, result_names
from unlearnlib.bench import Models, Selection, open_bench
from unlearnlib.cli.arguments import (
    FILES,
    chosen_execution,
    chosen_limits,
    column_words,
    file_to_write,
    hush_transformers,
    pairs,
    write_output,
)
from unlearnlib.cli.inputs import check_named, chunk_length, is_own, own_documents
from unlearnlib.cli.output import Report, columns
from unlearnlib.corpus.hub_rows import is_hub
from unlearnlib.devices import choose_device
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.models import load_model
from unlearnlib.profiles import check_domains
from unlearnlib.report.audit import PAGE, RECORD, audit_files
from unlearnlib.report.audited import (
    HEADING,
    lines,
    percent,
    remarks,
    result_rows,
    verdict,
    with_section,
)
from unlearnlib.report.tuning import check_extra
from unlearnlib.store.folder import Store
from unlearnlib.text import file_name, shell_join, source_name

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.store.record import Record

logger = logging.getLogger(__name__)

CARD = "README.md"
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Requirement:
    """What must hold of a number of the report, as "inside<=0.25" says it."""

    text: str
    name: str
    sign: str
    bound: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether it does; a number that is not known meets nothing."""
        return COMPARISONS[self.sign](metrics.get(self.name, float("nan")), self.bound)


def requirement(text: str, names: Sequence[str]) -> Requirement:
    """A requirement, from the text of --require; `UnlearnError` for what is none."""
    parts = re.fullmatch(r"\s*([\w/]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    try:
        if parts is None:
            raise ValueError
        bound = float(parts[3])
    except ValueError:
        raise UnlearnError(
            f"--require {text!r} says no limit: write it as in --require 'relearning<=0.25'."
        ) from None
    if parts[1] not in names:
        raise unknown("result", parts[1], names)
    return Requirement(text.strip(), parts[1], parts[2], bound)


def audit_command(args: argparse.Namespace) -> Report:
    """Audit a model, and say what was found."""
    own = is_own(args.files, args.out)
    check_named(args)
    _check_what(args, own)
    settings = pairs(args.settings, "--set", "rates=1e-5,1e-4")
    spec = AuditSpec.of_texts(_audits(args.only), settings)
    wanted = [requirement(text, result_names(spec.audits)) for text in args.require]
    files = _files(args)
    card = _card(args)
    bench = _open(args, own)
    precision = str(_dtype(bench.model)).removeprefix("torch.")
    unlearned = load_model(args.model, precision, _device(bench.model))
    record = make_audit(
        bench,
        unlearned,
        spec,
        store=Store(store_folder(args.store)),
        command=_again(args),
        profile="" if own else args.profile or "lab",
        about={"unlearned": _run_of(args.model)},
    )
    if files:
        texts = audit_files(
            record,
            model=source_name(args.model),
            original=source_name(bench.source),
            documents=len(bench.data.forget),
        )
        Path(args.out).mkdir(parents=True, exist_ok=True)
        for path in files:
            write_output(path, texts[path.name].encode("utf-8"), "--out", args.force)
    if card is not None:
        changed = with_section(card.read_text(encoding="utf-8"), record)
        assert changed is not None  # it was looked at before
        write_output(card, changed.encode("utf-8"), "--card", True)
    return _report(args, record, wanted)


def _dtype(model: Any) -> Any:
    return model.dtype


def _device(model: Any) -> str:
    return str(next(model.parameters()).device)


def _audits(given: Sequence[str] | None) -> tuple[str, ...]:
    """The audits that --only names, in their own order; all without it."""
    for name in given or ():
        if name not in AUDITS:
            raise unknown("audit", name, AUDITS)
    return tuple(name for name in AUDITS if not given or name in given)


def _check_what(args: argparse.Namespace, own: bool) -> None:
    """Whether it is said what was to be forgotten, and what the model was before."""
    if own:
        for name in ("profile", "domain", "corpora"):
            if getattr(args, name) is not None:
                raise UnlearnError(
                    f"--{name} is given together with files of your own: leave out one of the two."
                )
        for name, value in (
            ("forget", args.files.get("forget")),
            ("original", args.original),
        ):
            if value is None:
                raise UnlearnError(
                    f"--{name} is missing: an audit with documents of your own needs --original "
                    "and --forget."
                )
        return
    if args.profile is None and args.domain is None:
        raise UnlearnError(
            f"it is not said what {args.model!r} is to have forgotten: give your documents with "
            "--forget FILE, or take a profile's with --profile and --domain."
        )
    check_domains(args.profile or "lab", [args.domain or "books"])
    if args.tokenizer is not None and args.original is None:
        raise UnlearnError(
            f"--tokenizer {args.tokenizer!r} is given without --original: a profile's model has "
            "one of its own; leave it out."
        )
    if args.length is not None:
        raise UnlearnError(
            f"--length {args.length} is for documents of your own: a profile has its own; leave "
            "it out."
        )


def _files(args: argparse.Namespace) -> list[Path]:
    """The files that --out receives, checked before anything is computed."""
    if args.out is None:
        return []
    check_extra()
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UnlearnError(f"--out {args.out!r} is a file: give a folder.")
    if not out.absolute().parent.is_dir():
        raise UnlearnError(f"the folder of --out {args.out!r} does not exist: make it first.")
    if out.is_dir():
        for name in (PAGE, RECORD):
            file_to_write(str(out / name), "--out", args.force)
    return [out / PAGE, out / RECORD]


def _card(args: argparse.Namespace) -> Path | None:
    """The model card that the result is put into; `UnlearnError` where there is none of ours."""
    if not args.card:
        return None
    path = Path(args.model) / CARD
    try:
        known = HEADING in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        known = False
    if not known:
        raise UnlearnError(
            f"--card is given and {args.model!r} has no model card with a section on audits: save "
            "the model with this release of unlearnlib, or leave --card out."
        )
    return path


def _open(args: argparse.Namespace, own: bool) -> Bench:
    """The bench of the audit: the model before, the retrained one, and the documents."""
    limits = chosen_limits(args.limit)
    device = choose_device(args.device)
    data = own_documents(args, limits) if own else None
    hush_transformers()
    bench = open_bench(
        args.profile or "lab",
        args.domain or "books",
        models=Models(
            args.original,
            args.oracle,
            device=device,
            tokenizer=args.tokenizer,
        ),
        selection=Selection(args.corpora, limits),
        data=data,
        execution=dataclasses.replace(chosen_execution(args), packed=False),
    )
    model: Any = bench.model
    if own:
        bench.length = chunk_length(model.config, args.length, None)
    return bench


def _run_of(model: str) -> dict[str, Any]:
    """What the folder of an unlearned model says of the run that made it: key and settings."""
    try:
        body = json.loads((Path(model) / "record.json").read_bytes())["record"]
        return {"name": source_name(model), "key": body["key"], "spec": body["spec"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {"name": source_name(model)}


def _again(args: argparse.Namespace) -> str:
    """The command that makes the audit again; files and folders by name only."""
    words = ["unlearn", "audit", "--model", source_name(args.model)]
    for name in ("original", "oracle", "tokenizer"):
        if getattr(args, name) is not None:
            words += [f"--{name}", source_name(getattr(args, name))]
    for name in FILES:
        if name in args.files:
            given = args.files[name]
            words += [f"--{name}", given if is_hub(given) else file_name(given)]
    words += column_words(args) if args.files else []
    if not args.files:
        words += ["--profile", args.profile or "lab", "--domain", args.domain or "books"]
        words += [] if args.corpora is None else ["--corpora", file_name(args.corpora)]
    for limit in args.limit:
        words += ["--limit", limit]
    words += [] if args.length is None else ["--length", str(args.length)]
    for name in args.only or ():
        words += ["--only", name]
    for text in args.settings:
        words += ["--set", text]
    for text in args.require:
        words += ["--require", text]
    return shell_join(words)


def _report(args: argparse.Namespace, record: Record, wanted: Sequence[Requirement]) -> Report:
    """The audit for people and for --json, and the exit code."""
    broken = [one.text for one in wanted if not one.holds(record.metrics)]
    values = {
        "key": record.key,
        "verdict": verdict(record),
        "remarks": remarks(record),
        "audits": [
            {**dataclasses.asdict(line), "catches_impostor": line.catches} for line in lines(record)
        ],
        "metrics": record.metrics,
        "requirements": {one.text: one.text not in broken for one in wanted},
        "spec": record.spec,
        **record.basis.as_dict(),
        "seconds": record.provenance["seconds"],
        "repeat": record.provenance["command"],
        "store": store_folder(args.store),
        "out": args.out,
    }
    shown = [
        (
            line.audit,
            percent(line.value),
            line.interval,
            line.impostor_in_words,
        )
        for line in lines(record)
    ]
    parts = [
        columns(("audit", "this model", "95 % interval", "impostor"), shown),
        columns(("number", "value"), result_rows(record.metrics)),
        "\n".join([verdict(record), *remarks(record)]),
    ]
    if args.out is not None:
        parts.append(f"the page for whoever files it: {Path(args.out) / PAGE}")
    for text in broken:
        parts.append(f"REQUIREMENT NOT MET: {text}")
    return Report(values, "\n\n".join(parts), 1 if broken else 0)
