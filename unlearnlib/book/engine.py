"""The chapter on the engine: what the benchmarks measured.

The measurements are the JSON files that the scripts in `benchmarks/` write. An experiment that
computes runs these scripts, in processes of their own; a file that is not there is named with the
command that makes it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from unlearnlib.book.drawing import name_rows
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.experiment.experiment import Experiment
from unlearnlib.experiment.parameters import items
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    figure_function,
    mark_handle,
    set_log_axis,
)
from unlearnlib.folders import data_folder
from unlearnlib.looks import BASELINE_STYLES, INK, METHOD_LOOKS, method_style, method_title
from unlearnlib.text import number, power

COMMANDS = {
    "speed-cpu": "python benchmarks/run.py --quick --out benchmarks/results/speed-cpu.json",
    "invariance": "python benchmarks/invariance.py benchmarks/results/invariance.json",
    "kill": "python benchmarks/kill.py --out benchmarks/results/kill.json",
}

LIMITS = {"float64": 1e-9, "float32": 1e-4}
Rows = list[dict[str, Any]]


def measured(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """What a benchmark wrote, one of `COMMANDS`; None if it has not been run."""
    path = (folder or data_folder().parent / "benchmarks" / "results") / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UnlearnError(
            f"{path.name} is not what a benchmark writes: make it again with `{COMMANDS[name]}`."
        ) from error


def work_title(row: Mapping[str, Any]) -> str:
    """A benchmark's row in words."""
    work = str(row["work"])
    kind, _, method = work.rpartition(" of ")
    name = method_title(method)
    return f"{kind or ('training' if method in METHOD_LOOKS else '')} {name}".strip()


def way_title(way: str) -> str:
    """A way of computing, as it is printed."""
    return "the same again" if way == "again" else way


def is_memory(row: Mapping[str, Any]) -> bool:
    """Whether less is better."""
    return "bytes" in row


def met(row: Mapping[str, Any]) -> bool:
    """Whether a ratio's median reaches its target."""
    median = row["ratio"]["median"]
    return bool(median <= row["target"] if is_memory(row) else median >= row["target"])


def worst(rows: Iterable[Mapping[str, Any]], what: str = "norm") -> float:
    """The largest difference; NaN for no rows."""
    return max((float(r[what]) for r in rows), default=math.nan)


def speed_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """A row per work and way: ratio, range, target, tokens per second, and the limits.

    "from fewer tokens" is the ratio that going over fewer tokens alone would give, at the same
    speed per token.
    """
    rows = []
    for row in found["rows"]:
        if is_memory(row):
            continue
        ratio = row["ratio"]
        rows.append(
            {
                "work": f"{work_title(row)}, {row['ours']}",
                "ratio": float(ratio["median"]),
                "range": f"{number(ratio['lowest'])} to {number(ratio['highest'])}",
                "target": float(row["target"]),
                "target met": "yes" if met(row) else "no",
                "from fewer tokens": float(row["fewer_tokens"]),
                "tokens per second": float(row["tokens_per_second"]),
                "plain recipe’s": float(row["plain_tokens_per_second"]),
                "of a product’s rate": f"{row['share_of_product_rate']:.0%}",
            }
        )
    return pd.DataFrame(rows).set_index("work")


def memory_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """A row per work and way: memory beyond weights and optimizer, and the plain recipe's."""
    rows = [
        {
            "work": f"{work_title(row).removeprefix('memory ')}, {row['ours']}",
            "MB": row["bytes"] / 1e6,
            "plain recipe’s MB": row["plain_bytes"] / 1e6,
            "ratio": float(row["ratio"]["median"]),
            "target": number(row["target"]),
            "target met": "yes" if met(row) else "no",
        }
        for row in found["rows"]
        if is_memory(row)
    ]
    return pd.DataFrame(rows).set_index("work")


def invariance_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """A row per way of computing: the largest differences over all methods, per precision."""
    rows: Rows = found["rows"]
    ways = list(dict.fromkeys(r["way"] for r in rows))
    titles = {
        "norm": "all parameters",
        "difference": "one parameter",
        "perplexity": "a perplexity",
    }
    table: dict[tuple[str, str], list[str]] = {
        (title, precision): [
            power(worst((r for r in rows if (r["way"], r["precision"]) == (way, precision)), what))
            for way in ways
        ]
        for what, title in titles.items()
        for precision in LIMITS
    }
    table["bit-", "identical"] = [
        f"{sum(r['identical'] for r in rows if r['way'] == way)} of "
        f"{sum(r['way'] == way for r in rows)}"
        for way in ways
    ]
    return pd.DataFrame(table, index=pd.Index([way_title(way) for way in ways], name="way"))


def kill_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Per count of the test of killed processes: what was counted, and what it should be."""
    chance, steps = found["at_random"], found["at_every_step"]
    expected = chance["records_expected"]
    rows = [
        ("SIGKILLs at random moments", chance["kills"], ""),
        ("records that an undisturbed study has", expected, ""),
        ("records after resuming", chance["records_after"], expected),
        ("of them equal to the undisturbed ones", chance["records_equal"], expected),
        ("records computed again", chance["recomputed"], 0),
        ("records changed after they were filed", chance["rewritten"], 0),
        ("records lost", chance["lost"], 0),
        ("files that could not be read", chance["unreadable"], 0),
        ("computations that a kill interrupted", chance["computations_lost_to_kills"], ""),
        ("kills before every single system call of a writer", steps["steps"], ""),
        ("of them, half-written files taken for a record", steps["unreadable"], 0),
        ("of them, studies that could not go on", steps["not_resumed"], 0),
    ]
    table = pd.DataFrame(rows, columns=["", "counted", "expected"]).set_index("")
    return table.astype(str)


def measurements(experiment: Experiment, asked: Any = None) -> list[dict[str, Any] | None]:
    """What was measured of speed, invariance and interruption, in this order.

    With compute="missing" or "fresh" the benchmarks are run first, in the experiment's store; with
    "published" nothing is. `asked` names those to run, of `COMMANDS`; None stands for all. Of a
    benchmark that takes methods or a seed, those of the experiment are measured.
    """
    chosen = list(COMMANDS) if asked is None else [str(x) for x in items("measures", asked)]
    for name in chosen:
        if name not in COMMANDS:
            raise unknown("measure", name, COMMANDS)
    if experiment.compute == "published":
        return [measured(name) for name in COMMANDS]
    folder = experiment.store.root / "benchmarks"
    for name in chosen:
        if measured(name, folder) is None and not experiment.over:
            _measure(name, folder, experiment)
    return [measured(name, folder) if name in chosen else None for name in COMMANDS]


def _measure(name: str, folder: Path, experiment: Experiment) -> None:
    """Run a benchmark of the repository into a folder."""
    root = data_folder().resolve().parent
    script = root / "benchmarks" / COMMANDS[name].split()[1].rpartition("/")[2]
    if not script.is_file():
        raise UnlearnError(
            f"the benchmark {name!r} is not part of an installed package: clone the repository and "
            "run this notebook in it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # The name moves into place when the benchmark has ended: a part of it is not read.
    out = folder / f"{name}.part"
    words = {
        "speed-cpu": ["--quick", "--out", str(out)],
        "invariance": [str(out), *_of_methods(experiment)],
        "kill": ["--out", str(out), *_of_seed(experiment)],
    }[name]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not out.is_file():
        last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise UnlearnError(f"the benchmark {name!r} failed ({last}): run {COMMANDS[name]!r} alone.")
    out.replace(folder / f"{name}.json")


def _of_methods(experiment: Experiment) -> list[str]:
    return ["--methods", *experiment.asked.methods] if experiment.asked.methods else []


def _of_seed(experiment: Experiment) -> list[str]:
    return ["--seed", str(experiment.asked.seeds[0])] if experiment.asked.seeds else []


def missing_in_words(name: str) -> str:
    """How to make a measurement that is not there."""
    return f"*Not measured yet: `{COMMANDS[name]}` does it.*"


def speed_in_words(found: Mapping[str, Any]) -> str:
    """How many targets are met, and where and how it was measured, as Markdown."""
    rows = found["rows"]
    good = [r for r in rows if met(r)]
    where = f"{found['threads']} CPU threads" if found["device"] == "cpu" else found["device"]
    return (
        f"**{len(good)} of {len(rows)} targets are met**, on {where} ({found['processor']}, torch "
        f"{found['torch']}), with a model of the shape {found['shape']}, "
        f"{found['pairs']} pairs of runs and documents of "
        f"{' and '.join(str(n) for n in found['document_tokens'])} tokens in chunks of "
        f"{found['length']}. A plain matrix product reached "
        f"{number(found['product_rate']['float32'] / 1e9)} GFLOP/s in float32 and "
        f"{number(found['product_rate']['bfloat16'] / 1e9)} in bfloat16 there."
    )


def rounding_in_words(found: Mapping[str, Any]) -> str:
    """What evaluating in bfloat16 does to the numbers, as Markdown."""
    worst = found["rounding"]
    return (
        "Evaluation in bfloat16 is not exact: on the lab's model its perplexities are within "
        f"{100 * worst['perplexity']:.1f} % of those in float32, accuracies within "
        f"{100 * worst['accuracy']:.1f} %, AUCs within {number(worst['auc'])}. The published "
        "records were evaluated in float32."
    )


def invariance_in_words(found: Mapping[str, Any]) -> str:
    """Whether every way stays within the limits, as Markdown."""
    rows: Rows = found["rows"]
    said = []
    for precision, limit in LIMITS.items():
        of = [r for r in rows if r["precision"] == precision]
        within = sum(r["norm"] <= limit for r in of)
        said.append(
            f"in {precision} {within} of {len(of)} runs end within {power(limit)} of the run as a "
            f"whole (the farthest: {power(worst(of))})"
        )
    again = [r for r in rows if r["way"] == "again"]
    same = sum(r["identical"] for r in again)
    alone = {p: worst((r for r in rows if r["precision"] == p), "difference") for p in LIMITS}
    scores = {p: worst((r for r in rows if r["precision"] == p), "perplexity") for p in LIMITS}
    return (
        f"**{'; '.join(said)}.** A perplexity differs by at most {power(scores['float64'])} and "
        f"{power(scores['float32'])} of itself, one single parameter by {power(alone['float64'])} "
        f"and {power(alone['float32'])} of the largest change. Run again in the same way, "
        f"{same} of {len(again)} end in bit-identical parameters."
    ).replace("**in", "**In", 1)


def kill_in_words(found: Mapping[str, Any]) -> str:
    """Whether killed processes lost a record or computed one twice, as Markdown."""
    chance = found["at_random"]
    clean = (
        chance["records_equal"] == chance["records_expected"] == chance["records_after"]
        and not chance["recomputed"]
        and not chance["lost"]
        and not chance["unreadable"]
    )
    return f"**Two workers on one store were killed {chance['kills']} times; " + (
        "nothing was lost, nothing recorded was computed again, and every record equals that "
        "of an undisturbed study.**"
        if clean
        else "not everything came out as expected: see the table.**"
    )


@figure_function
def speed(found: Mapping[str, Any], *, narrow: bool = False) -> DescribedFigure:
    """Times as fast as the plain recipe (left) and share of its memory (right), with targets."""
    layout = Layout(narrow)
    panels = [
        ("times as fast as the plain recipe", [r for r in found["rows"] if not is_memory(r)]),
        ("share of its memory", [r for r in found["rows"] if is_memory(r)]),
    ]
    panels = [(title, rows) for title, rows in panels if rows]
    most = max(len(rows) for _, rows in panels)
    figure, axes = layout.grid(len(panels), 0.9 + 0.34 * most, beside=2, extra=0.4)
    alt = []
    for ax, (title, rows) in zip(axes, panels, strict=True):
        said = []
        for place, row in enumerate(rows):
            ratio, good = row["ratio"], met(row)
            colour = "#00805d" if good else INK
            ax.plot(
                [ratio["lowest"], ratio["highest"]], [place, place], color=colour, linewidth=1.6
            )
            ax.plot(
                ratio["median"],
                place,
                marker="o",
                markersize=7,
                color=colour,
                markerfacecolor=colour if good else "white",
            )
            ax.plot(row["target"], place, marker="|", color="#cf222e", markersize=13, mew=2)
            said.append(
                f"{work_title(row)} {row['ours']} {number(ratio['median'])}, target "
                f"{number(row['target'])}"
            )
        ax.axvline(1.0, **BASELINE_STYLES["vanilla"])
        ax.set_xlim(left=0)
        names = [
            f"{work_title(r).removeprefix('memory ').removeprefix('training ')}\n{r['ours']}"
            for r in rows
        ]
        name_rows(ax, names)
        ax.set_xlabel(title)
        alt.append(f"{title[0].upper()}{title[1:]}: {'; '.join(said)}.")
    handles = [
        mark_handle("target met", color="#00805d"),
        mark_handle("target not met", color=INK, markerfacecolor="white"),
        mark_handle("target", marker="|", color="#cf222e", mew=2, ms=12),
    ]
    add_legend(figure, layout, extra=handles)
    figure.alt = " ".join(alt)
    return figure


@figure_function
def invariance(found: Mapping[str, Any], *, narrow: bool = False) -> DescribedFigure:
    """How far each way of computing ends from the run as a whole; a mark per method."""
    layout, rows = Layout(narrow), list(found["rows"])
    ways = list(dict.fromkeys(r["way"] for r in rows))
    figure, axes = layout.grid(len(LIMITS), 0.9 + 0.3 * len(ways), beside=2, extra=0.4)
    floor = 1e-17  # where a difference of exactly 0 is drawn
    alt = ["Norm of the parameters' difference, relative to the run's change, log scale."]
    for ax, (precision, limit) in zip(axes, LIMITS.items(), strict=True):
        of = [r for r in rows if r["precision"] == precision]
        set_log_axis(ax, "x", floor / 2, 1e-2)
        ax.axvline(limit, color="#cf222e", linewidth=1.4)
        for row in of:
            ax.plot(
                max(row["norm"], floor),
                ways.index(row["way"]),
                markersize=5,
                linestyle="",
                clip_on=False,
                **method_style(row["method"]),
            )
        names = [way_title(w).replace("sharded, packed", "sharded,\npacked") for w in ways]
        name_rows(ax, names, shown=narrow or ax is axes[0])
        ax.set_title(precision)
        ax.set_xlabel("relative difference")
        alt.append(
            f"{precision}: at most {power(worst(of))}, allowed {power(limit)}; "
            f"{sum(r['norm'] == 0 for r in of)} of {len(of)} are exactly 0, drawn at the "
            "left edge."
        )
    add_legend(figure, layout, list(dict.fromkeys(r["method"] for r in rows)))
    figure.alt = " ".join(alt)
    return figure
