"""`unlearn study`: compute what is missing of a study; choose settings; publish."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unlearnlib.bench import Models, Selection, open_bench
from unlearnlib.cli.arguments import (
    chosen_domains,
    chosen_execution,
    chosen_limits,
    hush_transformers,
    store_path,
)
from unlearnlib.cli.inputs import check_tokenizer_of
from unlearnlib.cli.output import Report, columns
from unlearnlib.devices import choose_device, cores
from unlearnlib.errors import UnlearnError
from unlearnlib.experiment.everything import Everything
from unlearnlib.experiment.work import Work
from unlearnlib.methods import get_method
from unlearnlib.profiles import get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.study.chosen import average, choose_settings
from unlearnlib.study.compute import Portion, Shard, run_study
from unlearnlib.study.grids import OWN, STUDIES, get_study
from unlearnlib.study.publishing import publish

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.store.record import Record
    from unlearnlib.study.records import StudyResult

logger = logging.getLogger(__name__)

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
# The model that is unlearned, how often what is forgotten was read, NPO's strength, the chunks.
VARIED = ("base", "exposure", "beta", "length")
# Metric -> heading, for the tables that people read; --json has all of KEY_METRICS.
HEADINGS = {
    "forget/perplexity": "ppl forget",
    "approximate/perplexity": "ppl approx",
    "general/perplexity": "ppl general",
    "membership/min_k_40/auc": "AUC min-40%",
    "oracle_kl/forget": "KL oracle",
}


def study_command(args: argparse.Namespace) -> Report:
    """Compute what is missing of a study; publish it, or choose settings from it, if asked."""
    if args.all:
        return _all_studies(args)
    if args.list or args.name is None:
        return _list_studies()
    if args.workers is not None:
        raise UnlearnError("--workers is for --all: leave it out, or divide the study by --shard.")
    study, limits = get_study(args.name), chosen_limits(args.limit)
    domains = chosen_domains(args.profile, args.domain)
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
    check_tokenizer_of(args)
    where = store_path(args.store, args.model, args.limit)
    if where is None:
        raise UnlearnError(
            "records of another model or of a part of the data must not mix with those of the "
            "whole profile: give them a folder with --store DIR."
        )
    specs = (spec for domain in domains for spec in study.runs(args.profile, domain))
    _check_any_run(args.name, specs, args.method, args.seed)
    device = choose_device(args.device)
    hush_transformers()

    def bench_for(profile: str, domain: str, base: str) -> Bench:
        return open_bench(
            profile,
            domain,
            models=Models(args.model, base=base, device=device, tokenizer=args.tokenizer),
            selection=Selection(args.corpora, limits),
            execution=chosen_execution(args, progress=False),  # the study has a bar of its own
        )

    started = time.time()
    result = run_study(
        args.name,
        args.profile,
        domains,
        portion=Portion(args.method, args.seed, shard),
        store=Store(where),
        fresh=args.fresh,
        benches=bench_for,
        progress=not args.quiet,
    )
    if result.busy and (args.publish or args.choose):
        raise UnlearnError(
            f"{result.busy} runs of {args.name!r} are being computed by another process: give the "
            "same command again when they are done."
        )
    chosen = {}
    if args.choose:
        chosen = choose_settings(args.profile, domains, result.records, result.baselines)
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
    studies = [{"name": study.name, "about": study.about} for study in STUDIES.values()]
    rows = [(study["name"], study["about"]) for study in studies]
    return Report({"studies": studies}, columns(("study", "what it is"), rows))


def _all_studies(args: argparse.Namespace) -> Report:
    """Every study of a profile, what is missing of each; see `experiment.everything`."""
    for flag, given in (
        ("NAME", args.name),
        ("--method", args.method),
        ("--seed", args.seed),
        ("--shard", args.shard),
        ("--choose", args.choose),
        ("--model", args.model),
        ("--tokenizer", args.tokenizer),
        ("--limit", args.limit),
    ):
        if given:
            raise UnlearnError(
                f"{flag} is given with --all, which computes every study whole: leave one of the "
                "two out."
            )
    hush_transformers()
    domains, started = chosen_domains(args.profile, args.domain), time.time()
    where = store_path(args.store, None, ())
    work = Work(
        "rates",
        args.profile,
        domains,
        OWN,
        str(where),
        published=not args.fresh,
        device=choose_device(args.device),
        corpora=args.corpora,
    )
    workers = min(args.workers or 1, cores())
    computed = Everything(work, workers, args.publish, logger.info).compute()
    values = {
        "profile": args.profile,
        "domains": list(domains),
        "computed": computed,
        "workers": workers,
        "seconds": round(time.time() - started, 3),
        "store": where,
    }
    text = columns(("study", "records computed now"), list(computed.items()))
    return Report(values, text)


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


def _key_metrics(record: Record) -> dict[str, float]:
    return {name: record.metrics[name] for name in KEY_METRICS if name in record.metrics}


def _study_metrics(result: StudyResult) -> dict[str, Any]:
    """The baselines, and means over seeds: a row per domain, method and learning rate.

    And by what else varies (`VARIED`), where it is not the usual.
    """
    groups: dict[tuple[str, str, float, str], list[Record]] = {}
    for record in result.records:
        spec = record.spec
        more = json.dumps({name: spec[name] for name in VARIED if spec.get(name) is not None})
        key = (spec["domain"], spec["method"], spec["learning_rate"], more)
        groups.setdefault(key, []).append(record)
    baselines = [
        {
            **{name: r.spec[name] for name in ("domain", "baseline", "base") if name in r.spec},
            "metrics": _key_metrics(r),
        }
        for r in result.baselines
    ]
    means = [
        {
            "domain": domain,
            "method": method,
            "learning_rate": rate,
            **json.loads(more),
            "runs": len(records),
            "diverged": sum(r.status == "diverged" for r in records),
            "metrics": {
                name: average([r.metrics[name] for r in records])
                for name in KEY_METRICS
                if all(name in r.metrics for r in records)
            },
        }
        for (domain, method, rate, more), records in groups.items()
    ]
    return {"baselines": baselines, "means": means}


def _named(row: Mapping[str, Any], name: str) -> str:
    """A method or a baseline, with what else varies (`VARIED`)."""
    more = [str(row["base"])] if "base" in row else []
    more += [f"read {row['exposure']}x"] if "exposure" in row else []
    more += [f"beta {row['beta']:g}"] if "beta" in row else []
    more += [f"chunks of {row['length']}"] if "length" in row else []
    return f"{row[name]} ({', '.join(more)})" if more else str(row[name])


def _study_text(values: Mapping[str, Any]) -> str:
    """A study for people: its means, its counts, and what was published and chosen."""
    rows: list[Sequence[object]] = [
        (b["domain"], _named(b, "baseline"), "", *(b["metrics"].get(m) for m in HEADINGS))
        for b in values["baselines"]
    ]
    rows += [
        (
            row["domain"],
            _named(row, "method"),
            f"{row['learning_rate']:g}",
            *(row["metrics"].get(m) for m in HEADINGS),
        )
        for row in values["means"]
    ]
    places = {domain: place for place, domain in enumerate(values["domains"])}
    rows.sort(key=lambda row: places[str(row[0])])
    lines = [
        columns(("domain", "method", "rate", *HEADINGS.values()), rows),
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
