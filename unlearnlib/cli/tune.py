"""`unlearn tune`: the guidelines carried out, the settings found by at most eight runs."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from unlearnlib.cli.arguments import chosen_execution, given_settings
from unlearnlib.cli.inputs import (
    Inputs,
    bare_spec,
    check_inputs,
    is_own,
    open_inputs,
    own_spec,
    repeat_command,
)
from unlearnlib.cli.output import Report, columns
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import cache_folder
from unlearnlib.report.saved import ELSEWHERE, card_facts, save_unlearned
from unlearnlib.report.tuning import HEADER, check_extra, report, trace_table
from unlearnlib.spec import RunSpec
from unlearnlib.store.claims import reserved
from unlearnlib.study.chosen import BATCH, UPDATES
from unlearnlib.tuning import DECIDED, search

if TYPE_CHECKING:
    from unlearnlib.tuning import Tuned
    from unlearnlib.tuning_rule import Proposal


def tune_command(args: argparse.Namespace) -> Report:
    """Search for the settings that reach the target, and keep the model of the best run."""
    inputs = check_inputs(args, _tune_spec(args))
    if inputs.out is None:
        return _tune(args, inputs)
    check_extra()
    with reserved(inputs.out, f"a model for --out {str(inputs.out)!r}", ELSEWHERE):
        return _tune(args, inputs)


def _tune(args: argparse.Namespace, inputs: Inputs) -> Report:
    """The search itself; its model and report go to --out."""
    out = inputs.out
    bench, spec = open_inputs(inputs, chosen_execution(args))
    found = search(
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
    text = columns(HEADER[:-1], rows)
    if out is None:
        text += f"\n\nrun {found.best + 1} is the best; give --out DIR to save its model"
        return Report(values, text)
    made = spec.replace(**found.record.spec)
    provenance = found.record.provenance | {"command": repeat_command(args, made)}
    record = dataclasses.replace(found.record, provenance=provenance)
    facts = card_facts(bench, made, record, found.before, args.adapter)
    page = report(facts, found.steps, found.best, found.situation, found.ending)
    more = {"report.html": page}
    save_unlearned(out, found.model, bench.tokenizer, record, facts, more, force=args.force)
    values["out"] = str(out)
    text += f"\n\nrun {found.best + 1} is saved in {out}, with report.html"
    return Report(values, text)


def _tune_spec(args: argparse.Namespace) -> RunSpec:
    """The spec that the search starts from: none of the settings that it decides may be given."""
    own = is_own(args.files, args.out)
    given = given_settings(args)
    for name in DECIDED:
        if name in given:
            instead = " (--start sets the first one)" if name == "learning_rate" else ""
            raise UnlearnError(f"{name} is given, and tuning decides it: leave it out{instead}.")
    spec = own_spec(args) if own else bare_spec(args.profile, args.domain, args.method)
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
