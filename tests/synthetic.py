"""Made-up records with plausible numbers, for tests of figures, tables and notebooks only.

They never belong in `data/`: a book that is built from them would be a forgery. `write_results`
lays them out as published records do, in a folder that a test points $UNLEARN_DATA at.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearnlib.book.records import FORGET, GENERAL, baseline_value
from unlearnlib.book.robust_region import UsableWithin
from unlearnlib.figures import DescribedFigure, to_svg
from unlearnlib.spec import COMPARED, DOMAINS, PAPER_METHODS, RunSpec
from unlearnlib.store import Record, write_parquet
from unlearnlib.study import (
    BATCH,
    MAIN_SEEDS,
    RATES,
    REGION_RATES,
    REGION_SEEDS,
    STUDIES,
    TUNING_SEED,
    UPDATES,
)

ATTACKS = ("loss", "zlib", "min_k_20", "min_k_40", "min_k_pp_20", "min_k_pp_40")
DOCUMENTS = 64
TOLERANCE = UsableWithin(near=1.25, harmless=1.05)  # narrow enough to be missed either way
# Per domain: perplexity of vanilla on forget, on approximate, on general; KL of vanilla to oracle.
LEVELS = {
    "arxiv": (3.0, 9.0, 6.0, 0.7),
    "github": (2.2, 5.0, 6.0, 0.5),
    "books": (4.0, 14.0, 6.0, 0.9),
}


def key(*words: object) -> str:
    """64 hex digits, a function of `words`."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def _metrics(draw: random.Random, levels: tuple[float, ...], reach: float, harm: float) -> dict:
    """Metrics of a model that went the share `reach` of the way from vanilla to the oracle."""
    forget, approximate, general, kl = levels
    noise = lambda: math.exp(draw.gauss(0, 0.03))  # noqa: E731
    out: dict[str, float] = {}
    values = {
        "forget": forget * (approximate / forget) ** reach,
        "approximate": approximate * (1 + 0.5 * harm),
        "retain": forget * 1.02 * (1 + harm),
        "general": general * (1 + harm),
    }
    for split, middle in values.items():
        perplexity = middle * noise()
        out[f"{split}/nll"] = math.log(perplexity)
        out[f"{split}/perplexity"] = perplexity
        out[f"{split}/chunk_perplexity"] = perplexity * 1.02
        out[f"{split}/accuracy"] = out[f"{split}/chunk_accuracy"] = 0.9 / (1 + math.log(perplexity))
    area = min(max(0.5 + 0.45 * (1 - reach) + draw.gauss(0, 0.02), 0.0), 1.0)
    for attack in ATTACKS:
        out[f"membership/{attack}/auc"] = area
        out[f"membership/{attack}/balanced_accuracy"] = max(0.5, area)
        out[f"membership/{attack}/tpr_at_5_fpr"] = area / 3
        out[f"membership/{attack}/tpr_at_1_fpr"] = area / 5
    for split in ("forget", "approximate", "retain"):
        out[f"{split}/cloze_choice_accuracy"] = 0.25 + 0.6 * max(0.0, 1 - reach)
    for split in ("forget", "approximate"):
        out[f"{split}/verbatim_share"] = 0.1 * max(0.0, 1 - reach)
    out["oracle_kl/forget"] = kl * (abs(1 - reach) + 0.15) * noise()
    out["oracle_kl/approximate"] = kl * (0.2 + harm) * noise()
    return out


def _documents(
    draw: random.Random, metrics: dict[str, float], forget_size: int | None = None
) -> dict[str, dict[str, list[Any]]]:
    shift = {"forget": 1.5 * (metrics["membership/loss/auc"] - 0.5), "approximate": 0.0}
    out: dict[str, dict[str, list[Any]]] = {}
    for split in ("forget", "approximate", "retain", "general"):
        nll = metrics[f"{split}/nll"]
        out[split] = {
            "id": [f"{split}-{n:04d}#0" for n in range(DOCUMENTS)],
            "tokens": [draw.randrange(100, 250) for _ in range(DOCUMENTS)],
            "nll": [nll + draw.gauss(0, 0.15) for _ in range(DOCUMENTS)],
        }
        if split in shift:
            for attack in ATTACKS:
                out[split][attack] = [draw.gauss(shift[split], 0.5) for _ in range(DOCUMENTS)]
    out["forget"] = {name: values[:forget_size] for name, values in out["forget"].items()}
    return out


def baseline(domain: str, which: str) -> Record:
    """Scores of "vanilla" or "oracle" on a domain."""
    draw = random.Random(f"{domain}-{which}")
    metrics = _metrics(draw, LEVELS[domain], 0.0 if which == "vanilla" else 1.0, 0.0)
    if which == "oracle":
        metrics["oracle_kl/forget"] = metrics["oracle_kl/approximate"] = 0.0
    return Record(
        key=key("baseline", domain, which),
        kind="score",
        status="done",
        spec={"profile": "lab", "domain": domain, "baseline": which, "seed": 0},
        data_hash=key("data", domain),
        model_hash=key("model"),
        metrics=metrics,
        documents=_documents(draw, metrics),
        provenance={"seconds": 9.0},
    )


def baselines() -> list[Record]:
    """Vanilla's and the oracle's records on every domain."""
    return [baseline(domain, which) for domain in DOMAINS for which in ("vanilla", "oracle")]


def chosen_rate(method: str) -> float:
    """The learning rate that the made-up settings give a method."""
    return RATES[1 + PAPER_METHODS.index(method) % 3]


def run(domain: str, method: str, seed: int = 0, rate: float | None = None, **more: Any) -> Record:
    """One run. Gradient ascent at the highest rates diverges; its forget perplexity is infinite."""
    rate = rate if rate is not None else chosen_rate(method)
    spec = RunSpec("lab", domain, method, rate, UPDATES, BATCH, seed=seed).replace(**more)
    draw = random.Random(json.dumps(spec.as_dict(), sort_keys=True))
    strength = rate / chosen_rate(method) * (spec.batch_size / BATCH) ** 0.3
    strength *= 0.7 if spec.schedule != "constant" else 1.0
    reach = min(strength, 30.0) ** 0.5 * (0.85 + 0.05 * PAPER_METHODS.index(method))
    harm = 0.02 * strength * (3 if method == "ga" else 1) / max(spec.retain_weight, 0.1) ** 0.3
    metrics = _metrics(draw, LEVELS[domain], reach, harm)
    diverged = 5 if method == "ga" and rate >= RATES[-1] else None
    if diverged:
        metrics["forget/perplexity"] = math.inf
    retain = "_gd_" in method or "_kl_" in method
    trajectory: list[dict[str, Any]] = []
    for update in range((diverged or spec.updates) + 1):
        row: dict[str, Any] = {"update": update}
        if update:
            row |= {"rate": rate, "grad_norm": 1.0, "forget": -1.0 - 0.2 * update}
            row |= {"retain": 1.0 + 0.01 * update} if retain else {}
        if spec.probe_every and update % spec.probe_every == 0:
            share = update / UPDATES
            part = _metrics(draw, LEVELS[domain], reach * share, harm * share)
            names = ("forget/perplexity", "approximate/perplexity", "general/perplexity")
            names += ("membership/min_k_40/auc", "oracle_kl/forget")
            row |= {name: part[name] for name in names}
        trajectory.append(row)
    if diverged:
        trajectory[-1] = {
            "update": diverged,
            "rate": rate,
            "grad_norm": math.nan,
            "forget": math.nan,
        }
    if not spec.probe_every:
        trajectory = trajectory[1:]
    tokens = spec.updates * spec.batch_size * 170 * (2 if retain else 1)
    return Record(
        key=key("run", spec.as_dict()),
        kind="run",
        status="diverged" if diverged else "done",
        spec=spec.as_dict(),
        data_hash=key("data", domain),
        model_hash=key("model"),
        metrics=metrics,
        trajectory=trajectory,
        documents=_documents(draw, metrics, spec.forget_size),
        diverged_at=diverged,
        extra={"tokens": tokens, "flops": 6.0 * 1.2e6 * tokens},
        provenance={
            "seconds": 20.0,
            "seconds_training": draw.uniform(8, 12),
            "peak_memory_bytes": 9e8,
            "command": "unlearn run",
        },
    )


def main_study(domains: tuple[str, ...] = DOMAINS) -> list[Record]:
    """Seven methods, three seeds."""
    return [run(d, m, seed) for d in domains for m in PAPER_METHODS for seed in MAIN_SEEDS]


def rates_study(domains: tuple[str, ...] = DOMAINS) -> list[Record]:
    """Seven methods at five learning rates."""
    return [run(d, m, TUNING_SEED, rate) for d in domains for m in PAPER_METHODS for rate in RATES]


def trajectory_study(domains: tuple[str, ...] = DOMAINS) -> list[Record]:
    """Seven methods, probed after every update."""
    return [run(d, m, probe_every=1) for d in domains for m in PAPER_METHODS]


def alignment_study(domains: tuple[str, ...] = DOMAINS) -> list[Record]:
    """The two label methods with the release's positions."""
    return [
        run(d, m, seed, label_alignment="release")
        for d in domains
        for m in ("random_label", "adversarial")
        for seed in MAIN_SEEDS
    ]


def region_study(
    domains: tuple[str, ...] = DOMAINS,
    seeds: tuple[int, ...] = (TUNING_SEED,),
    methods: Iterable[str] = PAPER_METHODS,
) -> list[Record]:
    """Seven methods at the rates of the robust region, probed after every third update."""
    return [
        run(d, m, seed, rate, updates=24, probe_every=3)
        for d in domains
        for seed in seeds
        for m in methods
        for rate in REGION_RATES
    ]


def swept_study(name: str, domains: tuple[str, ...] = DOMAINS) -> list[Record]:
    """A study of one swept setting, at the made-up learning rates."""
    fields = ("batch_size", "retain_weight", "forget_size", "schedule", "warmup")
    fields += ("requests", "updates")
    slower = 1 / 4 if name == "sequential" else 1.0  # as the study divides the chosen step
    return [
        run(
            s.domain,
            s.method,
            s.seed,
            chosen_rate(s.method) * slower,
            **{field: getattr(s, field) for field in fields},
        )
        for domain in domains
        for s in STUDIES[name].runs("lab", domain)
    ]


SWEPT = ("batch_size", "retain_weight", "forget_size", "schedule", "sequential")


def write_results(folder: Path) -> Path:
    """A data folder with settings, published records and the oracles' records; no model."""
    (folder / "results").mkdir(parents=True)
    settings = {d: {m: {"learning_rate": chosen_rate(m)} for m in PAPER_METHODS} for d in DOMAINS}
    (folder / "settings.json").write_text(json.dumps({"lab": settings}))
    for name, records in {
        "rates": rates_study(),
        "main": main_study(),
        "trajectory": trajectory_study(),
        "alignment": alignment_study(),
        "robust_region": region_study(),
        "region_seeds": region_study(seeds=REGION_SEEDS, methods=COMPARED),
        **{name: swept_study(name) for name in SWEPT},
        "baselines": baselines(),
    }.items():
        write_parquet(records, folder / "results" / f"lab-{name}.parquet")
    for domain in DOMAINS:
        oracle = folder / "lab" / f"oracle-{domain}"
        oracle.mkdir(parents=True)
        record = {"tokens": 5_000_000, "parameters": 1_200_000, "provenance": {"seconds": 600.0}}
        (oracle / "record.json").write_text(json.dumps(record))
    return folder


def changed(record: Record, **metrics: float) -> Record:
    """The record with some metrics replaced; "__" stands for "/"."""
    new = {name.replace("__", "/"): x for name, x in metrics.items()}
    return replace(record, metrics={**record.metrics, **new})


def base(which: str, metric: str = FORGET) -> float:
    return baseline_value(baselines(), "books", which, metric)


def probed(*perplexities: float, general: float = 1.0, step: int = 1, **more: object) -> Record:
    """A run on books whose forget perplexity went through these values, from update 0."""
    probed_run = run(
        "books", "ga_gd_in_dist", updates=step * (len(perplexities) - 1), probe_every=step
    )
    vanilla = base("vanilla", GENERAL)
    rows = [
        {"update": step * i, FORGET: x, GENERAL: general * vanilla}
        for i, x in enumerate(perplexities)
    ]
    return replace(probed_run, trajectory=rows, **more)


def drawn(figure: DescribedFigure) -> str:
    """The SVG of a figure and of its narrow twin, which makes matplotlib lay both out."""
    assert figure.narrow is not None
    return to_svg(figure) + to_svg(figure.narrow())


def spoilt(record: Record, x: float) -> Record:
    """The record with every metric, probe and document score replaced by `x`."""
    documents = {
        split: {
            name: [x] * len(values) if name not in ("id", "tokens") else values
            for name, values in columns.items()
        }
        for split, columns in record.documents.items()
    }
    trajectory = [
        {name: v if name == "update" else x for name, v in row.items()} for row in record.trajectory
    ]
    metrics = dict.fromkeys(record.metrics, x)
    return replace(record, metrics=metrics, documents=documents, trajectory=trajectory)


def scored(method: str | None, forget: list[float], approximate: list[float]) -> Record:
    """A record of a published model on books, from the mean losses of documents of two chunks.

    Vanilla's where `method` is None; its forget perplexity is a third of a run's.
    """
    spec: dict[str, Any] = {"profile": "open_cpu", "domain": "books", "seed": 0}
    spec |= {"base": "published"}
    spec |= {"baseline": "vanilla"} if method is None else {"method": method}
    documents = {
        split: {
            "id": [f"{split}-{i}#{half}" for i in range(len(values)) for half in (0, 1)],
            "loss": [v + shift for v in values for shift in (-0.5, 0.5)],
        }
        for split, values in (("forget", forget), ("approximate", approximate))
    }
    metrics = {f"{s}/perplexity": 20.0 for s in ("forget", "approximate", "general")}
    metrics["forget/perplexity"] *= 1 if method is None else 3
    return Record(
        key=hashlib.sha256(str(method).encode()).hexdigest(),
        kind="score" if method is None else "run",
        status="done",
        spec=spec,
        data_hash="d",
        model_hash="m",
        metrics=metrics,
        documents=documents,
    )
