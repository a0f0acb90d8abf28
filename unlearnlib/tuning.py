"""Find the settings of an unlearning: the search of `tuning_rule.py`, carried out.

`tune` is for a model and texts of one's own, `search` for a bench. Each run stops where forget
perplexity reaches the target.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unlearnlib.bench import Bench, evaluate
from unlearnlib.corpus.documents import Document
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.distance import target_gap
from unlearnlib.metrics.perplexity import perplexity
from unlearnlib.run import execute, open_own
from unlearnlib.scoring import score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store.files import write_file
from unlearnlib.store.record import Record
from unlearnlib.study.chosen import BATCH, UPDATES
from unlearnlib.tuning_rule import RUNS, START, Proposal, Situation, Step, propose

# Fields of a spec that the search decides, or that its rule needs as they are.
DECIDED = ("learning_rate", "retain_weight", "schedule", "warmup", "requests", "stop")


@dataclass(frozen=True)
class Tuned:
    """What a search found: the model of the best step, its record, and every step."""

    model: nn.Module
    record: Record | None
    steps: tuple[Step, ...]
    best: int | None
    situation: Situation
    ending: str
    before: dict[str, float]


def look(bench: Bench, spec: RunSpec) -> tuple[Situation, dict[str, float]]:
    """Vanilla's scores on a bench; `UnlearnError` if a set that the search needs is missing."""
    sets = bench.evaluated(spec)
    for split, flag, why in (
        ("approximate", "--approximate", "the target is taken from texts that were never seen"),
        ("general", "--general", "harm is measured on other texts"),
    ):
        if split not in sets:
            raise UnlearnError(f"tuning needs {split} documents ({why}): give some with {flag}.")
    before = evaluate(bench, bench.model, spec)[0]
    situation = Situation(
        before["forget/perplexity"],
        before["approximate/perplexity"],
        before["general/perplexity"],
        spec.updates,
    )
    return situation, before


def tune(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Iterable[str | Document]],
    *,
    start: float = START,
    runs: int = RUNS,
    on_proposal: Callable[[int, Proposal], None] | None = None,
    execution: Execution | None = None,
    **settings: Any,
) -> Tuned:
    """Make a causal LM forget texts with settings that are found by at most `runs` runs.

    model, tokenizer  of `transformers`; the model stays as it is, the result holds another
    texts             "forget", "approximate" (the target is taken from them), "general" (harm is
                      measured on them) and, for the in-distribution methods, "retain": lists of
                      texts or of `Document`s
    start             learning rate of the first run
    on_proposal       `on_proposal(n, proposal)` is called before run n, and at the end
    settings          fields of `RunSpec` that the search does not decide: method, updates,
                      batch_size, seed, length (tokens per chunk, by default 1024), ...

    `Tuned.record.spec` has the settings of the best run, and `save` writes its model. Raises
    `UnlearnError` for bad input and for a setting that the search decides.
    """
    for name in DECIDED:
        if name in settings:
            raise UnlearnError(f"{name} is given, and tuning decides it: leave it out.")
    settings = {"updates": UPDATES, "batch_size": BATCH, "length": 1024, **settings}
    bench, spec = open_own(model, tokenizer, texts, settings, execution=execution)
    return search(bench, spec, start=start, runs=runs, on_proposal=on_proposal)


def search(
    bench: Bench,
    spec: RunSpec,
    *,
    start: float = START,
    runs: int = RUNS,
    trace: Path | None = None,
    on_proposal: Callable[[int, Proposal], None] | None = None,
) -> Tuned:
    """Carry the procedure out on a bench: `spec` names method, updates, batch size and seed.

    `trace` is a folder that keeps the steps as they are made; a search with the same spec on the
    same `store.record.Basis` goes on from there. `on_proposal(n, proposal)` is called before run n,
    and once more with the proposal to end. The model of the best step is kept in memory while the
    others run.
    """
    if runs < 1 or not (0 < start < math.inf):
        raise UnlearnError(f"runs is {runs} and start is {start}: give numbers above 0.")
    situation, before = look(bench, spec)
    mark = {
        "spec": spec.replace(learning_rate=0.0).as_dict(),
        "basis": bench.basis.as_dict(),
        "start": start,
    }
    kept_at = None if trace is None else trace / f"{_digest(mark)}.json"
    steps = _read_trace(kept_at)
    kept: tuple[int, nn.Module, Record] | None = None
    while True:
        proposal = propose(steps, situation, start=start, runs=runs)
        if on_proposal is not None:
            on_proposal(len(steps) + 1, proposal)
        if proposal.learning_rate is None:
            break
        model, record, step = _one(bench, spec, proposal, situation)
        steps.append(step)
        if step.shortfall(situation) <= min(s.shortfall(situation) for s in steps):
            kept = (len(steps) - 1, model, record)
        _write_trace(kept_at, mark, steps)
    if not steps:
        return Tuned(bench.model, None, (), None, situation, proposal.reason, before)
    best = min(range(len(steps)), key=lambda i: steps[i].shortfall(situation))
    if kept is None or kept[0] != best:  # made before an interruption: a step can be repeated
        chosen = steps[best]
        again = spec.replace(
            learning_rate=chosen.learning_rate,
            retain_weight=chosen.retain_weight,
            updates=chosen.updates,
        )
        model, record = execute(bench, again)
    else:
        _, model, record = kept
    return Tuned(model, record, tuple(steps), best, situation, proposal.reason, before)


def _one(
    bench: Bench, spec: RunSpec, proposal: Proposal, situation: Situation
) -> tuple[nn.Module, Record, Step]:
    """One run, stopped at the update nearest the target."""
    assert proposal.learning_rate is not None
    started = time.time()
    chunks = bench.forgotten(spec)
    quiet = dataclasses.replace(bench.execution, progress=False)
    path = [situation.forget]
    asked = spec.replace(learning_rate=proposal.learning_rate, retain_weight=proposal.retain_weight)

    def reached(model: nn.Module, update: int) -> bool:
        path.append(perplexity(score_chunks(model, chunks, execution=quiet)))
        return not (path[-1] < situation.target)

    # Without checkpoints, so that it starts at update 0: the path needs every update.
    unsaved = copy.copy(bench)
    unsaved.execution = dataclasses.replace(bench.execution, save_every=0)
    model, record = execute(unsaved, asked, stop_after=reached)
    end = record.spec["updates"] if record.status == "done" else len(path) - 1
    if record.status == "done" and end > 1 and _nearer_before(path, end, situation.target):
        # The update before was nearer to the target: run again, to that one.
        end -= 1
        model, record = execute(bench, asked.replace(updates=end))
    general = record.metrics["general/perplexity"]
    step = Step(
        proposal.learning_rate,
        proposal.retain_weight,
        tuple(float(f"{p:.8g}") for p in path),
        end,
        general if record.status == "done" else math.inf,
        proposal.reason,
        record.key,
        round(time.time() - started, 2),
    )
    return model, record, step


def _nearer_before(path: Sequence[float], end: int, target: float) -> bool:
    if not (path[end] >= target):
        return False
    return target_gap(path[end - 1], target) < target_gap(path[end], target)


def _digest(mark: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()


def _read_trace(path: Path | None) -> list[Step]:
    """The steps of an earlier call of the same search; none if there was none."""
    if path is None or not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["steps"]
        return [Step(**{**row, "path": tuple(row["path"])}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnlearnError(
            f"the trace {str(path)!r} cannot be read ({type(error).__name__}): remove it, and the "
            "search begins anew."
        ) from error


def _write_trace(path: Path | None, mark: dict[str, Any], steps: Iterable[Step]) -> None:
    if path is None:
        return
    text = json.dumps({"mark": mark, "steps": [dataclasses.asdict(s) for s in steps]}, indent=1)
    write_file(path, text.encode("utf-8"), replace=True)
