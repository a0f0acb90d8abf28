"""The chapter on the guidelines: `unlearn tune` beside a full grid and a random search.

The searches are those that `benchmarks/tuning.py` made, the grid is the study robust_region. Both
are judged by the search's own yardstick, `tuning_rule.shortfall`, because that is what a
practitioner without an oracle can measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unlearnlib.book.robust_region import Cell, region_cells
from unlearnlib.errors import UnlearnError
from unlearnlib.looks import domain_title, method_title
from unlearnlib.store.record import Record
from unlearnlib.study.searches import Search as Search
from unlearnlib.study.searches import load_searches as load_searches
from unlearnlib.text import number
from unlearnlib.tuning_rule import GOOD_ENOUGH, TOLERATED_RISE, Situation, shortfall

if TYPE_CHECKING:
    import pandas as pd


def cell_shortfall(cell: Cell, situation: Situation) -> float:
    """The shortfall of a grid point; infinite if the model broke or was not measured."""
    if cell.broken:
        return math.inf
    return shortfall(cell.forget, situation.target, cell.general, situation.general)


def grid(search: Search, region: Iterable[Record]) -> list[float]:
    """The shortfall of every grid point of the search's domain and method, ascending."""
    return sorted(
        cell_shortfall(cell, search.situation)
        for cell in region_cells(region)
        if (cell.domain, cell.method) == (search.domain, search.method)
    )


def random_search(shortfalls: Sequence[float], runs: int) -> float:
    """The median of the best of `runs` grid points drawn at random without replacement.

    `shortfalls` ascending. The chance that none of the first k is drawn is
    C(n - k, runs) / C(n, runs); the median is the first k at which that falls to one half.
    """
    count = len(shortfalls)
    if not 0 < runs <= count:
        raise UnlearnError(f"{runs} runs cannot be drawn from {count} grid points.")
    for k in range(1, count + 1):
        if math.comb(count - k, runs) <= math.comb(count, runs) / 2:
            return shortfalls[k - 1]
    raise AssertionError("the chance of drawing none of all is 0")


@dataclass(frozen=True)
class Judged:
    """A search beside its grid: shortfalls, and the number of runs of the search."""

    search: Search
    runs: int
    tuned: float
    best_grid: float
    random: float
    points: int

    @property
    def excess(self) -> float:
        """The search's shortfall as a multiple of the best grid point's."""
        return self.tuned / self.best_grid if self.best_grid else math.inf


def judged(searches: Iterable[Search], region: Iterable[Record]) -> list[Judged]:
    """Every search whose grid is at hand."""
    region = list(region)
    out = []
    for search in searches:
        points = grid(search, region)
        runs = len(search.steps)
        if points and runs:
            out.append(
                Judged(
                    search,
                    runs,
                    search.shortfall,
                    points[0],
                    random_search(points, min(runs, len(points))),
                    len(points),
                )
            )
    return out


def held_out(rows: Iterable[Judged]) -> dict[tuple[str, int], tuple[float, int]]:
    """(domain, seed) -> (excess, runs) of the searches that the rule was not designed on."""
    return {
        (row.search.domain, row.search.seed): (row.excess, row.runs)
        for row in rows
        if not row.search.design
    }


def searches_table(rows: Iterable[Judged]) -> pd.DataFrame:
    """One row per search."""
    import pandas as pd

    rows = list(rows)
    names = [
        "runs",
        "forget ÷ target",
        "general ÷ vanilla",
        "shortfall",
        "best of grid",
        "random, same runs",
        "excess",
    ]
    values = []
    for row in rows:
        after, before = row.search.after, row.search.before
        values.append(
            [
                str(row.runs),
                after["forget/perplexity"] / row.search.situation.target,
                after["general/perplexity"] / before["general/perplexity"],
                row.tuned,
                row.best_grid,
                row.random,
                f"{number(row.excess)}×",
            ]
        )
    index = pd.MultiIndex.from_tuples(
        [
            (
                domain_title(row.search.domain),
                f"seed {row.search.seed}" + (" (design)" if row.search.design else ""),
            )
            for row in rows
        ],
        names=["domain", "search"],
    )
    return pd.DataFrame(values, index=index, columns=names)


def trace(search: Search) -> pd.DataFrame:
    """Every run of a search: its setting, where it ended, and why it was made."""
    import pandas as pd

    from unlearnlib.tuning_rule import rise_in_words

    rows = [
        [
            f"{step.learning_rate:.3g}",
            f"{step.retain_weight:g}",
            str(step.updates),
            step.path[step.updates],
            rise_in_words(step, search.situation),
            step.shortfall(search.situation),
            step.reason,
        ]
        for step in search.steps
    ]
    names = ["rate", "retain weight", "updates", "forget", "general", "shortfall", "why"]
    index = pd.Index([str(n) for n in range(1, len(rows) + 1)], name="run")
    return pd.DataFrame(rows, index=index, columns=names)


def step_keys(search: Search) -> list[list[str]]:
    """Of each run of a search, in the order of `trace`, the key of its record."""
    return [[step.key] if step.key else [] for step in search.steps]


def searches_keys(rows: Iterable[Judged]) -> list[list[str]]:
    """Of each search, in the order of `searches_table`, the keys of its runs."""
    return [[key for keys in step_keys(row.search) for key in keys] for row in rows]


def search_title(search: Search) -> str:
    """ "GA + GD, in-dist. on Books, seed 200"."""
    return f"{method_title(search.method)} on {domain_title(search.domain)}, seed {search.seed}"


def searches_in_words(rows: Iterable[Judged]) -> str:
    """How near the searches came to the best grid point, in a Markdown paragraph."""
    rows = [row for row in rows if not row.search.design]
    if not rows:
        return "No search on held-out domains and seeds is published."
    beaten = sum(row.tuned <= row.best_grid * (1 + 1e-12) for row in rows)
    lucky = sum(row.tuned < row.random for row in rows)
    near = sum(row.tuned <= GOOD_ENOUGH for row in rows)
    harmed = sum(_rise(row.search) > TOLERATED_RISE for row in rows)
    runs = [row.runs for row in rows]
    return (
        f"{len(rows)} {'search' if len(rows) == 1 else 'searches'} on domains and seeds that the "
        "design did not see took "
        f"{min(runs)} to {max(runs)} runs each, against {rows[0].points} points of the grid. "
        f"{near} of them end with a shortfall of at most {number(GOOD_ENOUGH)}; {harmed} with "
        f"general perplexity up by more than is tolerated; {beaten} end at or below "
        f"the best grid point’s; {lucky} end below what random search with as many runs would "
        f"reach in half of the cases. Their shortfalls are "
        f"{number(min(r.tuned for r in rows))} to {number(max(r.tuned for r in rows))}, "
        f"{number(min(r.excess for r in rows))} to {number(max(r.excess for r in rows))} times the "
        "best grid point’s."
    )


def _rise(search: Search) -> float:
    """The factor by which the chosen run raised general perplexity; 1 if no run was made."""
    name = "general/perplexity"
    return search.after[name] / search.before[name] if search.after else 1.0
