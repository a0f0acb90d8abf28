"""The chapter on cost: unlearning beside retraining, in operations and in seconds.

Ratios are measured on the runs at hand (`cost_ratios`) and computed for the authors' release on
Yi-6B (`release_accounts`); `throughputs` are timings of its updates on a GPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.lines import Line2D

from unlearnlib.book.drawing import draw_seeds, name_rows
from unlearnlib.book.records import domains_of, known_mean, methods_of, select
from unlearnlib.cost import FLOPS_PER_PARAMETER_TOKEN, YI_6B, YI_6B_TOKENS, Account
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    figure_function,
    mark_handle,
    set_log_axis,
)
from unlearnlib.folders import data_folder
from unlearnlib.looks import GREY, INK, METHOD_LOOKS, domain_title, method_style, method_title
from unlearnlib.store.published import read_parquet
from unlearnlib.store.record import Record
from unlearnlib.text import mean_and_spread, number, plural, with_spread

CLAIMED_RATIO = 1e5  # the paper's abstract: more than so many times cheaper than retraining

# Chunks of 4,096 tokens in one update of the authors' release: its effective batch.
RELEASE_BATCH = {"arxiv": 480, "github": 680}
RELEASE_LENGTH = 4096
# What an update takes, in passes forward and backward over its forget chunks: as many retain chunks
# are another pass, and the original model's forward pass over these, for KL, a third of one.
KINDS = {"forget alone": 1.0, "forget + descent": 2.0, "forget + KL": 2.0 + 1 / 3}

SECONDS_A_YEAR = 365.25 * 24 * 3600

_TIMED = ("shape", "method", "recipe")
_SHAPES = {"yi-6b": "Yi-6B", "smollm2-135m": "SmolLM2-135M"}


@dataclass(frozen=True)
class Retraining:
    """What making the oracle took: tokens trained on, seconds, parameters."""

    tokens: float
    seconds: float
    parameters: float


def lab_retraining(domains: Iterable[str]) -> dict[str, Retraining]:
    """Domain -> what its lab oracle took, from the record beside its weights; absent without."""
    from unlearnlib.trained import lab_checkpoint

    out = {}
    for domain in domains:
        path = lab_checkpoint(f"oracle-{domain}") / "record.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            out[domain] = Retraining(
                record["tokens"], record["provenance"]["seconds"], record["parameters"]
            )
    return out


@dataclass(frozen=True)
class Ratios:
    """How many times cheaper a method's runs were than retraining; one entry per run."""

    flops: list[float]
    seconds: list[float]


def cost_ratios(
    records: Iterable[Record], retraining: Mapping[str, Retraining]
) -> dict[str, Ratios]:
    """Method -> ratios of retraining to unlearning, over all runs of the domains at hand.

    Operations are 6 per active parameter and token on both sides; the run's own record has the
    number of active parameters in its quotient of operations and tokens.
    """
    records = [r for r in records if r.spec["domain"] in retraining]
    out = {}
    for method in methods_of(records):
        flops, seconds = [], []
        for run in (r for r in records if r.spec["method"] == method):
            again = retraining[run.spec["domain"]]
            if run.extra.get("tokens"):
                flops.append(again.tokens / run.extra["tokens"])
            if run.provenance.get("seconds_training"):
                seconds.append(again.seconds / run.provenance["seconds_training"])
        out[method] = Ratios(flops, seconds)
    return out


def release_accounts() -> dict[tuple[str, str], Account]:
    """(domain, kind) -> the account of ONE update of the authors' release on Yi-6B.

    Kinds: those of `KINDS`; with a retain term there are as many retain chunks as forget chunks.
    """
    return {
        (domain, kind): Account(
            YI_6B.active_parameters(), chunks, RELEASE_LENGTH, passes, YI_6B_TOKENS
        )
        for domain, chunks in RELEASE_BATCH.items()
        for kind, passes in KINDS.items()
    }


def throughputs(profile: str = "open") -> list[Record]:
    """The published timings of `benchmarks/gpu_queue.py`; none if no GPU was there yet."""
    path = data_folder() / "results" / f"{profile}-throughput.parquet"
    return [r for r in read_parquet(path) if r.kind == "throughput"] if path.exists() else []


def cost_table(records: Iterable[Record], retraining: Mapping[str, Retraining]) -> pd.DataFrame:
    """Means per domain and method: tokens, operations, seconds, memory, ratios to retraining."""
    import pandas as pd

    records = list(records)
    index: list[tuple[str, str]] = []
    rows = []
    for domain in domains_of(records):
        again = retraining.get(domain)
        if again is not None:
            flops = FLOPS_PER_PARAMETER_TOKEN * again.parameters * again.tokens
            index.append((domain_title(domain), "Retraining (oracle)"))
            cells = [again.tokens, flops, again.seconds]
            rows.append([*(number(x) for x in cells), "–", "1", "1"])
        for method in methods_of(select(records, domain)):
            runs = select(records, domain, method)
            ratios = cost_ratios(runs, retraining).get(method, Ratios([], []))
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    number(known_mean(r.extra.get("tokens") for r in runs)),
                    number(known_mean(r.extra.get("flops") for r in runs)),
                    with_spread([r.provenance.get("seconds_training", math.nan) for r in runs]),
                    number(known_mean(r.provenance.get("peak_memory_bytes") for r in runs) / 2**30),
                    number(known_mean(ratios.flops)),
                    number(known_mean(ratios.seconds)),
                ]
            )
    columns = [
        ("Training", "tokens"),
        ("Training", "FLOP"),
        ("Training", "seconds"),
        ("Peak memory", "GiB"),
        ("Cheaper than retraining", "× in FLOP"),
        ("Cheaper than retraining", "× in seconds"),
    ]
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "method"]),
        columns=pd.MultiIndex.from_tuples(columns),
    )


def account_table() -> pd.DataFrame:
    """The release's cost on Yi-6B by account: per update, and how many updates 10⁵ allows."""
    import pandas as pd

    rows, index = [], []
    for (domain, kind), account in release_accounts().items():
        index.append((domain_title(domain), kind))
        rows.append(
            [
                f"{account.chunks} × {account.length:,}" + " × 2" * (account.parts >= 2),
                number(account.unlearning_flops),
                number(account.retraining_flops),
                number(account.ratio),
                f"{math.floor(account.ratio / CLAIMED_RATIO)}",
            ]
        )
    columns = [
        "tokens per update",
        "FLOP per update",
        "FLOP of pre-training",
        "ratio at one update",
        "updates until 10⁵",
    ]
    return pd.DataFrame(
        rows, index=pd.MultiIndex.from_tuples(index, names=["domain", "data"]), columns=columns
    )


def throughput_table(records: Iterable[Record]) -> pd.DataFrame:
    """Per shape, method and recipe: tokens a second, share of a plain product's rate, memory."""
    rows, index = [], []
    for record in sorted(records, key=lambda r: [str(r.spec[n]) for n in _TIMED]):
        spec, timed = record.spec, record.provenance
        shape = _SHAPES.get(spec["shape"], spec["shape"])
        index.append((shape, f"{method_title(spec['method'])}, {spec['recipe']}"))
        rows.append(
            {
                "tokens per second": number(timed["tokens_per_second"]),
                "share of a plain product": f"{_share(record):.0%}",
                "peak memory": _gigabytes(timed.get("peak_memory_bytes")),
                "chunks per update": f"2 × {spec['batch']} × {spec['length']:,}",
                "device": timed.get("accelerator") or timed["device"],
            }
        )
    names = ["shape", "method, recipe"]
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=names))


def _share(record: Record) -> float:
    """Model FLOPs utilisation against what a bfloat16 matrix product reaches on that machine."""
    return float(
        record.provenance["flops_per_second"] / record.provenance["product_flops_per_second"]
    )


def _gigabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e9:.1f} GB"


def cost_in_words(records: Iterable[Record], retraining: Mapping[str, Retraining]) -> str:
    """The measured ratio and the accounted one, in a Markdown paragraph."""
    ratios = cost_ratios(records, retraining)
    flops = [x for r in ratios.values() for x in r.flops]
    seconds = [x for r in ratios.values() for x in r.seconds]
    accounts = [account.ratio for account in release_accounts().values()]
    least = math.floor(min(accounts) / CLAIMED_RATIO)
    measured = "No lab oracle has a record here, so nothing is measured. "
    if flops and seconds:
        measured = (
            f"At this profile unlearning took {number(min(flops))} to {number(max(flops))} times "
            f"fewer operations than retraining, as counted, and {number(min(seconds))} to "
            f"{number(max(seconds))} times fewer seconds. "
        )
        again = list(retraining.values())
        if len(again) > 1:
            tokens, took = ([getattr(r, x) for r in again] for x in ("tokens", "seconds"))
            measured += (
                f"Seconds are coarse: the {len(again)} retrainings took {number(min(took))} to "
                f"{number(max(took))} of them, for numbers of tokens that differ by "
                f"{100 * (max(tokens) / min(tokens) - 1):.1f} %. "
            )
    return measured + (
        f"By account, one update of the authors’ release on Yi-6B is {number(min(accounts))} to "
        f"{number(max(accounts))} times cheaper than its pre-training; the paper’s 10⁵ holds "
        f"for up to {least} {plural('update', least)} of the dearest kind."
    )


def throughput_in_words(records: Iterable[Record]) -> str:
    """What the paper's updates take at the measured rate, and what retraining would, as Markdown.

    At Yi-6B's shape, ours; an update is the release's: forget and as many retain chunks.
    """
    records = [r for r in records if r.spec["shape"] == "yi-6b" and r.spec["recipe"] == "ours"]
    if not records:
        return (
            "*No GPU of that size was at hand yet: `python benchmarks/gpu_queue.py --only "
            "'throughput*'` measures it.*"
        )
    said = []
    for record in records:
        rate = record.provenance["tokens_per_second"]
        updates = ", ".join(
            f"{number(2 * chunks * RELEASE_LENGTH / rate / 60)} minutes on {domain_title(domain)}"
            for domain, chunks in RELEASE_BATCH.items()
        )
        said.append(
            f"**{method_title(record.spec['method'])} goes over {number(rate)} tokens a second on "
            f"one {record.provenance.get('accelerator') or record.provenance['device']}** "
            f"({_share(record):.0%} of a plain bfloat16 product's rate): an update of the "
            f"authors' release takes {updates}, and pre-training on "
            f"{number(YI_6B_TOKENS)} tokens at that rate "
            f"{number(YI_6B_TOKENS / rate / SECONDS_A_YEAR)} years."
        )
    return " ".join(said)


@figure_function
def cost_ratio(ratios: Mapping[str, Ratios], *, narrow: bool = False) -> DescribedFigure:
    """How many times cheaper than retraining: measured at this profile, and by account on Yi-6B."""
    layout = Layout(narrow)
    accounts = {
        f"Yi-6B, {domain_title(d)}, {kind}": a.ratio for (d, kind), a in release_accounts().items()
    }
    order = [m for m in METHOD_LOOKS if m in ratios] + sorted(set(ratios) - set(METHOD_LOOKS))
    names = [method_title(m) for m in order] + list(accounts)
    if narrow:
        names = [name.replace("Yi-6B, ", "Yi-6B\n", 1) for name in names]
    figure, (ax,) = layout.grid(1, 0.9 + (0.3 if not narrow else 0.38) * len(names), extra=0.3)
    said, every = [], [CLAIMED_RATIO, *accounts.values(), 1.0]
    every += [x for m in order for x in (*ratios[m].flops, *ratios[m].seconds)]
    set_log_axis(ax, "x", *axis_range(every))
    for row, method in enumerate(order):
        colour = method_style(method)["color"]
        draw_seeds(ax, ratios[method].flops, row - 0.13, colour)
        draw_seeds(ax, ratios[method].seconds, row + 0.13, colour, filled=False)
        flops, seconds = (
            mean_and_spread(v)[0] for v in (ratios[method].flops, ratios[method].seconds)
        )
        said.append(
            f"{method_title(method)} {number(flops)} in operations, {number(seconds)} in seconds"
        )
    for row, (name, ratio) in enumerate(accounts.items(), start=len(order)):
        ax.plot(ratio, row, marker="D", color=GREY, markersize=6.5)
        said.append(f"{name} {number(ratio)} for one update")
    if order:
        ax.axhline(len(order) - 0.5, color="#aeb7c0", linewidth=0.8)
    ax.axvline(CLAIMED_RATIO, color=INK, linestyle=(0, (5, 2)), linewidth=1.2)
    name_rows(ax, names, top=-0.7)
    ax.set_xlabel("times cheaper than retraining")
    handles = [
        mark_handle("operations, counted"),
        mark_handle("seconds, measured", markerfacecolor="white"),
        mark_handle("by account, one update", marker="D"),
        Line2D([], [], label="the paper’s claim", linestyle=(0, (5, 2)), color=INK),
    ]
    add_legend(figure, layout, extra=handles)
    figure.alt = f"How many times cheaper than retraining, log scale: {'; '.join(said)}."
    return figure
