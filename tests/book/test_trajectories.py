"""Where a run passes the target, whether it slows down, and where the oracle is nearest."""

from __future__ import annotations

import math
from dataclasses import replace

import synthetic

from unlearnlib.book.records import baseline_value
from unlearnlib.book.trajectories import pace_in_words, trajectory_table, turn_in_words
from unlearnlib.store import Record
from unlearnlib.study import UPDATES

BASELINES = synthetic.baselines()


def test_passing_the_target_is_the_first_update_at_or_above_it() -> None:
    run = synthetic.run("books", "ga", probe_every=1)
    rows = [{**row, "forget/perplexity": float(row["update"])} for row in run.trajectory]
    target = baseline_value(BASELINES, "books", "target", "forget/perplexity")
    table = trajectory_table([replace(run, trajectory=rows)], BASELINES)
    passed = table.loc[("Books", "GA"), ("Passing the target", "update")]
    reached = math.ceil(target)
    assert passed == (str(reached) if reached <= UPDATES else "never")


def test_words_count_the_runs_that_do_not_slow_down() -> None:
    def went(*path: float) -> Record:
        rows = [{"update": i, "forget/perplexity": x} for i, x in enumerate(path)]
        return replace(synthetic.run("books", "ga", probe_every=1), trajectory=rows)

    runs = [went(1.0, 2.0, 8.0), went(1.0, 4.0, 8.0), went(1.0, math.inf, math.nan)]
    assert "In 1 of 2 runs" in pace_in_words(runs)
    assert pace_in_words([went(1.0, 2.0)]) == ""


def test_words_say_where_along_a_run_the_oracle_is_nearest() -> None:
    def went(*path: float) -> Record:
        rows = [{"update": i, "oracle_kl/forget": x} for i, x in enumerate(path)]
        return replace(synthetic.run("books", "ga", probe_every=1), trajectory=rows)

    words = turn_in_words([went(2.0, 1.0, 3.0), went(2.0, 3.0, 4.0)])
    assert "after 0 to 1 of 2 updates, at 0.500 to 1.00 times" in words
    assert "2 of 2 runs end farther" in words
    assert "0 of 1 runs end farther" in turn_in_words([went(2.0, 3.0, 1.0)])
    assert turn_in_words([went(2.0)]) == ""
