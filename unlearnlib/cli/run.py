"""`unlearn run`: one unlearning, evaluated; with --plan what it will need."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.audits.audit import AuditSpec, make_audit, store_folder
from unlearnlib.bench import Models, evaluate, key_of, sources
from unlearnlib.cli.arguments import (
    chosen_execution,
    chosen_tasks,
    given_settings,
    hush_transformers,
    is_main_process,
    lone_process,
    process_count,
    store_path,
)
from unlearnlib.cli.inputs import (
    Inputs,
    bare_spec,
    check_inputs,
    chunk_length,
    is_own,
    open_inputs,
    own_spec,
    repeat_command,
)
from unlearnlib.cli.output import Report, columns
from unlearnlib.decoder import check_tokens
from unlearnlib.devices import memory
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import published_files
from unlearnlib.models import load_tokenizer, model_config
from unlearnlib.planning import Machine, plan_reading, plan_run, trained_chunks
from unlearnlib.profiles import YOURS, clipped, get_profile, load_domain
from unlearnlib.report.audit import audit_files
from unlearnlib.report.audited import remarks, verdict
from unlearnlib.report.card import score_rows
from unlearnlib.report.saved import ELSEWHERE, card_facts, save_unlearned
from unlearnlib.report.tuning import check_extra
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec
from unlearnlib.store.claims import reserved
from unlearnlib.store.folder import Store
from unlearnlib.store.published import Library
from unlearnlib.study.chosen import BATCH, settings
from unlearnlib.tasks import run_tasks, tasks_key, tasks_record
from unlearnlib.text import duration, file_name, gigabytes

if TYPE_CHECKING:
    from torch import nn

    from unlearnlib.bench import Bench
    from unlearnlib.engine import Execution
    from unlearnlib.planning import Plan, Reading
    from unlearnlib.store.record import Record
    from unlearnlib.tasks import TaskSet

logger = logging.getLogger(__name__)


def run_command(args: argparse.Namespace) -> Report:
    """One run: of a profile, of a profile's texts with another model, or of a user's documents."""
    own = is_own(args.files, args.out)
    spec = own_spec(args, needs_out=not args.plan) if own else _profile_spec(args)
    if args.published and args.out is not None:
        raise UnlearnError(
            "--published takes numbers in place of a run, and --out needs the run for its "
            "model: leave out one of them."
        )
    if args.audit:
        _check_audit(spec, args.out is not None)
    inputs = check_inputs(args, spec, needs_out=not args.plan)
    if args.plan:
        return _plan_report(inputs, _run_execution(args, progress=False))
    if inputs.out is None or not is_main_process():
        return _run(args, inputs)
    with reserved(inputs.out, f"a model for --out {str(inputs.out)!r}", ELSEWHERE):
        return _run(args, inputs)


def _run(args: argparse.Namespace, inputs: Inputs) -> Report:
    """The run itself, or the record of it that is at hand."""
    asked = args.tasks, args.task_limit, args.confirm_unsafe_code
    tasks = chosen_tasks(*asked)
    bench, spec = open_inputs(inputs, _run_execution(args))
    where = store_path(args.store, args.model, args.limit, args.files)
    store = None if where is None else Store(where)
    out, key = inputs.out, key_of(bench, spec)
    if out is None and not args.audit:
        library = Library(published_files() if args.published else [], store)
        recorded = _recorded(library, key, bench, tasks)
        if recorded is not None:
            return _run_report(recorded, computed=False, store=where)

    command = repeat_command(args, spec, _task_words(*asked))
    progress = not args.quiet
    before: dict[str, float] = {}
    with _claimed(store, key if out is None and is_main_process() else None):
        # Between looking and claiming, another process may have finished. Several processes of one
        # run must do the same, and what one of them finds now another may not: they compute.
        found = out is None and not args.audit and process_count() == 1
        if found and store is not None:
            recorded = _recorded(library, key, bench, tasks)
            if recorded is not None:
                return _run_report(recorded, computed=False, store=where)
        if out is not None:
            logger.info("scoring the model before")
            before = evaluate(bench, bench.model, spec)[0]
            before |= _answers(bench.model, bench.tokenizer, tasks, progress)
        logger.info("unlearning: %s, %d updates, in %s", spec.method, spec.updates, spec.precision)
        model, record = execute(bench, spec, in_place=not args.audit, command=command)
        answers = _answers(model, bench.tokenizer, tasks, progress)
        if store is not None and is_main_process():
            _put(store, record, tasks, answers)
    record = _with_metrics(record, answers)
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
    audited = _audited(bench, model, record) if args.audit else None
    if out is not None and is_main_process():
        facts = card_facts(bench, spec, record, before, args.adapter)
        facts = dataclasses.replace(facts, audit=audited)
        more = {}
        if audited is not None:
            count = len(bench.data.forget)
            names = {"model": f"{facts.source}, unlearned", "original": facts.source}
            more = audit_files(audited, **names, documents=count)
        save_unlearned(out, model, bench.tokenizer, record, facts, more, force=args.force)
    made = _run_report(record, computed=True, store=where, before=before, out=out)
    return made if audited is None else _with_audit(made, audited)


def _check_audit(spec: RunSpec, page: bool) -> None:
    """`UnlearnError` for a run that cannot be audited."""
    if process_count() > 1:
        raise UnlearnError(
            f"an audit is made by one process and {process_count()} were launched: leave out "
            "--audit, and give the model in --out to `unlearn audit`."
        )
    for name in ("base_bits", "exposure"):
        if value := getattr(spec, name):
            raise UnlearnError(
                f"{name} is {value}, and an audit is of a model in full and of all documents to "
                f"forget: leave out {name}, or --audit."
            )
    if page:
        check_extra()


def _audited(bench: Bench, model: nn.Module, record: Record) -> Record:
    """The audit of the model that a run made; `bench` has the one before."""
    own = record.spec["domain"] == YOURS
    return make_audit(
        bench,
        model,
        AuditSpec(),
        store=Store(store_folder(None)),
        command=f"{record.provenance['command']} --audit",
        profile="" if own else record.spec["profile"],
        about={"unlearned": {"key": record.key, "spec": record.spec}},
    )


def _with_audit(made: Report, audited: Record) -> Report:
    """A run's report with what the audit found."""
    said = [verdict(audited), *remarks(audited)]
    values = {"key": audited.key, "verdict": said[0], "metrics": audited.metrics}
    return Report({**made.values, "audit": values}, "\n".join([made.text, "", *said]), made.code)


def _run_execution(args: argparse.Namespace, progress: bool = True) -> Execution:
    """`chosen_execution`, with several processes and checkpoints where they are asked for."""
    # One process under a launcher is allowed, since a script may be run with fewer processes.
    if args.fsdp and "WORLD_SIZE" not in os.environ:
        raise UnlearnError(
            "--fsdp divides a model among processes, and there is one: "
            + (lone_process() or "start several with `accelerate launch ... -m unlearnlib`")
            + ", or leave it out."
        )
    execution = chosen_execution(args, progress)
    return dataclasses.replace(execution, shard=args.fsdp, save_every=args.save_every)


def _recorded(library: Library, key: str, bench: Bench, tasks: TaskSet | None) -> Record | None:
    """The record of a run with its answers to the tasks, if the library has both."""
    if key not in library:
        return None
    record = library.get(key)
    if tasks is None:
        return record
    asked = tasks_key(record.spec, bench.basis, tasks)
    return _with_metrics(record, library.get(asked).metrics) if asked in library else None


def _put(store: Store, record: Record, tasks: TaskSet | None, answers: Mapping[str, float]) -> None:
    """Keep the record of a run, and beside it that of its answers to the tasks."""
    store.put(record)
    if tasks is not None:
        store.put(tasks_record(record, tasks, answers))


def _task_words(names: Sequence[str], limit: int | None, unsafe: bool) -> list[str]:
    """The words that ask for the same tasks again; files by name only."""
    words = []
    for name in names:
        words += ["--tasks", file_name(name) if Path(name).exists() else name]
    if limit is not None:
        words += ["--task-limit", str(limit)]
    return [*words, "--confirm-unsafe-code"] if unsafe else words


def _answers(
    model: nn.Module, tokenizer: Any, tasks: TaskSet | None, progress: bool
) -> dict[str, float]:
    """What a model answers to the tasks, as metrics; none without tasks."""
    if tasks is None:
        return {}
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
    if args.model is not None and args.profile is None:
        raise UnlearnError(
            f"there is nothing to forget for the model {args.model!r}: give your documents with "
            "--forget FILE, or take a profile's with --profile and --domain."
        )
    spec = bare_spec(args.profile, args.domain, args.method)
    given = given_settings(args)
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
        **record.basis.as_dict(),
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
        lines.append(columns(("score", "before", "after"), [row[:3] for row in rows]))
        target = before.get("approximate/perplexity")
        if target is not None:
            lines.append(f"the target for the forget set is a perplexity of {target:.4g}")
    else:
        lines.append(columns(("score", "after"), [(row[0], row[2]) for row in rows]))
    if out is not None:
        lines.append(f"the model and its card are in {out}")
    elif store is not None and computed:
        lines.append(f"the record is in {store}")
    return Report(values, "\n".join(lines))


def _plan_report(inputs: Inputs, execution: Execution) -> Report:
    """What a run would take; loads the tokenizer and the documents, not the model."""
    planned, reading = _plan_run(inputs, execution)
    available = memory(inputs.device)
    fits = available is None or planned.peak <= available
    values = {
        "spec": inputs.spec.as_dict(),
        "device": inputs.device,
        "processes": planned.processes,
        "always": planned.always,
        "backward": planned.backward,
        "step": planned.step,
        "end": planned.end,
        "peak_bytes": planned.peak,
        "memory_bytes": available,
        "fits": fits,
        "parameters": planned.parameters,
        "trained_parameters": planned.trained,
        "tokens": planned.tokens,
        "flops": planned.flops,
        "tokens_per_second": planned.tokens_per_second,
        "seconds": planned.seconds,
        "documents_bytes": reading.size,
        "evaluated_tokens": reading.tokens,
        "seconds_evaluating": reading.seconds,
        "retraining_ratio_per_1e12_tokens": 1e12 / planned.tokens if planned.tokens else None,
    }
    text = _plan_text(planned, reading, inputs.device, available)
    if inputs.spec.stop != "end":
        text += (
            f"\nthe run may stop at the retrained model before its {inputs.spec.updates:,} updates "
            "are made: this is the most that it takes"
        )
    return Report(values, text, 0 if fits else 1)


def _plan_run(inputs: Inputs, execution: Execution) -> tuple[Plan, Reading]:
    """Memory and time of the run that the inputs describe, and of its documents."""
    hush_transformers()
    spec, own = inputs.spec, inputs.data is not None
    scale = get_profile(spec.profile)
    data = inputs.data or load_domain(spec.profile, spec.domain, inputs.corpora, inputs.limits)
    models = Models(inputs.model, base=spec.base)
    source, oracle = sources(spec.profile, spec.domain, models, own)
    tokenizer = load_tokenizer(source if inputs.tokenizer is None else inputs.tokenizer)
    config = model_config(source)
    length = chunk_length(config, spec.length, None if own else scale.length)
    if not own:
        data = clipped(spec.profile, data, tokenizer)
    forgotten, retained = trained_chunks(spec, data, tokenizer, length)
    rows = config.get_text_config().vocab_size
    check_tokens(rows, [chunk.tokens for chunk in (*forgotten, *retained)])
    planned = plan_run(
        source,
        spec,
        forgotten,
        retained,
        execution=execution,
        machine=Machine(inputs.device, process_count()),
        oracle=oracle is not None,
    )
    return planned, plan_reading(planned, data, forgotten)


def _plan_text(planned: Plan, reading: Reading, device: str, available: int | None) -> str:
    """A plan for people; `available` is the device's memory in bytes, None if unknown."""
    parts = {
        "always": planned.always,
        "on the way back": planned.backward,
        "in a step": planned.step,
        "at the end": planned.end,
    }
    rows = [
        (title, name, gigabytes(size))
        for title, part in parts.items()
        for name, size in part.items()
    ]
    lines = [
        columns(("held", "what", "memory"), rows),
        f"{planned.trained:,} of {planned.parameters:,} parameters are trained",
        f"at most {gigabytes(planned.peak)} at a time"
        + ("" if available is None else f", of {gigabytes(available)} on this machine's {device}"),
        f"{planned.tokens:,} tokens at about {planned.tokens_per_second:,.0f} a second: "
        f"{duration(planned.seconds)} of updates; loading and evaluating come on top",
        f"documents take {gigabytes(reading.size)} of the computer's memory, and each of the two "
        f"evaluations, of {reading.tokens:,} tokens, about {duration(reading.seconds)}",
    ]
    if planned.tokens:
        lines.append(
            f"training the model again on 10^12 tokens would take {1e12 / planned.tokens:,.0f} "
            "times as long"
        )
    if available is not None and planned.peak > available:
        lines.append(
            "that does not fit: try --recompute, a smaller --micro-tokens, --set "
            "precision=bfloat16, --set lora_rank=16 (with --set base_bits=4), --set "
            "optimizer=adamw_8bit, or --fsdp on several GPUs"
        )
    return "\n".join(lines)
