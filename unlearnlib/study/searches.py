"""The published searches of `unlearn tune`: read, and decided again by today's rule."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.profiles import get_profile
from unlearnlib.tuning_rule import Situation, Step, propose

# The procedure was designed on this search; the others are held out.
DESIGN = ("lab", "arxiv", 100)
HELD_OUT = (200, 201, 202)  # seeds; of other profiles the first alone


def usual_pairs(profile: str) -> list[tuple[str, int]]:
    """(domain, seed) of a profile's published searches, the design's first."""
    domains = sorted(get_profile(profile).domains)
    if profile != DESIGN[0]:
        return [(domain, HELD_OUT[0]) for domain in domains]
    return [DESIGN[1:], *((d, s) for s in HELD_OUT for d in domains if d != DESIGN[1])]


def searches_path(profile: str) -> Path:
    """Where the searches of a profile are published, one JSON object per line."""
    return data_folder() / "results" / f"{profile}-tuning.jsonl"


@dataclass(frozen=True)
class Search:
    """One search and its end.

    design         whether the rule was designed on this search; the others are held out
    before, after  metrics of vanilla and of the chosen model; `after` is empty if no run was made
    """

    domain: str
    seed: int
    method: str
    design: bool
    situation: Situation
    steps: tuple[Step, ...]
    best: int | None
    ending: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def name(self) -> tuple[str, int, str, int]:
        """What tells a search from others of its profile: domain, seed, method, updates per run."""
        return self.domain, self.seed, self.method, self.situation.updates

    @property
    def shortfall(self) -> float:
        """The shortfall of the chosen run; of vanilla if no run was made."""
        if self.best is None:
            return abs(self.situation.distance)
        return self.steps[self.best].shortfall(self.situation)


def load_searches(profile: str = "lab") -> list[Search]:
    """The published searches of a profile, the design's first; empty if there are none."""
    return read_searches(searches_path(profile))


def read_searches(path: Path) -> list[Search]:
    """The searches in a file, the design's first; empty if there is no file."""
    if not path.exists():
        return []
    try:
        return [_search(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnlearnError(
            f"{str(path)!r} has a line that is no search ({type(error).__name__}): make the file "
            "anew with benchmarks/tuning.py."
        ) from error


def _search(line: Mapping[str, Any]) -> Search:
    return Search(
        line["domain"],
        int(line["seed"]),
        line["method"],
        bool(line["design"]),
        Situation(**line["situation"]),
        tuple(Step(**{**step, "path": tuple(step["path"])}) for step in line["steps"]),
        line["best"],
        line["ending"],
        line["before"],
        line["after"] or {},
    )


def decided_otherwise(search: Search) -> str:
    """Where the rule, given the steps before, decides otherwise than the search did; else empty.

    Rates, weights, reasons, the ending and the step that was chosen all follow from the steps.
    """
    for number, step in enumerate(search.steps, 1):
        if not 0 <= step.updates < len(step.path):
            return f"step {number} ends at update {step.updates}, which its path lacks"
        if not math.isclose(step.path[0], search.situation.forget, rel_tol=1e-6):
            return f"the path of step {number} does not begin at vanilla"
    for done, step in enumerate(search.steps):
        again = propose(search.steps[:done], search.situation)
        wanted = again.learning_rate, again.retain_weight, again.reason
        if wanted != (step.learning_rate, step.retain_weight, step.reason):
            return f"step {done + 1} is not what the rule proposes after those before"
    end = propose(search.steps, search.situation)
    if end.learning_rate is not None or end.reason != search.ending:
        return "the rule does not end it there, or for another reason"
    shortfalls = [step.shortfall(search.situation) for step in search.steps]
    best = shortfalls.index(min(shortfalls)) if shortfalls else None
    if search.best != best:
        return "another step than the one chosen comes nearest to the target"
    return ""
