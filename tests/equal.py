"""Made-up records of the lab of one pass, whose runs are exact functions of the update.

Every document has a loss under vanilla and under the retrained models; a method moves it by the
same number of nats with every update. So where a run crosses, and what it has done by then, is
known. They never belong in `data/`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearnlib.spec import DOMAINS, PAPER_METHODS, RunSpec
from unlearnlib.store import Record, write_parquet
from unlearnlib.study import STUDIES

EXPOSURES = (1, 2, 4, 8, 16)
SPLITS = ("forget", "retain", "approximate", "general")
ATTACKS = ("loss", "min_k_40", "min_k_pp_20")


@dataclass(frozen=True)
class Way:
    """What one update does, in nats per token: to the forget set, to each kept split, to the KL.

    erased  by how much it takes away what attacks see, as a share of `speed`
    lean    how much more it moves documents that are known better: 0 all alike, 1 in proportion
    """

    speed: float
    harm: dict[str, float]
    kl: float
    erased: float = 1.0
    lean: float = 0.0


def way(
    speed: float,
    worst: float,
    kl: float,
    where: str = "retain",
    erased: float = 1.0,
    lean: float = 0.0,
) -> Way:
    """`worst` on one split, a third of it on the others."""
    others = ("retain", "approximate", "general")
    harm = {s: worst if s == where else worst / 3 for s in others}
    return Way(speed, harm, kl, erased, lean)


# In the paper's order. At equal forgetting harm and KL are (slope / speed) x the way to go, so the
# two in-distribution methods are best and the labels worst, by every measure on every domain.
WAYS = {
    "ga": way(0.10, 0.170, 0.080, "approximate", 0.4, 0.2),
    "random_label": way(0.06, 0.162, 0.096, "retain", 0.0, 0.0),
    "adversarial": way(0.08, 0.176, 0.096, "retain", 0.2, 0.1),
    "ga_gd_general": way(0.09, 0.117, 0.054, "approximate", 0.6, 0.4),
    "ga_gd_in_dist": way(0.05, 0.010, 0.005, "general", 1.2, 0.9),
    "ga_kl_general": way(0.07, 0.063, 0.028, "retain", 0.8, 0.6),
    "ga_kl_in_dist": way(0.04, 0.020, 0.008, "general", 1.0, 0.8),
}
BEST_FIRST = (
    "ga_gd_in_dist",
    "ga_kl_in_dist",
    "ga_kl_general",
    "ga_gd_general",
    "ga",
    "adversarial",
    "random_label",
)


def key(*words: object) -> str:
    """64 hex digits, a function of `words`."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


@dataclass
class Lab:
    """A domain's documents and what models make of them; all of it a function of `seed`.

    each      documents per exposure, and a fifth of every other split
    spread    of the documents' losses, and a third of it between two models' on one document
    gaps      exposure -> by how much vanilla's loss is below that of unseen text
    """

    domain: str = "books"
    seed: int = 0
    each: int = 24
    spread: float = 0.3
    gaps: dict[int, float] = field(
        default_factory=lambda: {1: 0.05, 2: 0.1, 4: 0.2, 8: 0.4, 16: 0.8}
    )
    unseen: float = 1.0

    def __post_init__(self) -> None:
        draw = np.random.default_rng([self.seed, *map(ord, self.domain)])
        count = self.each * len(self.gaps)
        self.tokens = {s: draw.integers(100, 250, count) for s in SPLITS}
        self.losses = {s: self.unseen + draw.normal(0, self.spread, count) for s in SPLITS}
        self.exposures = np.repeat(list(self.gaps), self.each)
        self.gap = np.repeat(list(self.gaps.values()), self.each)
        self.models = {
            name: {s: draw.normal(0, self.spread / 3, count) for s in SPLITS}
            for name in ("vanilla", "vanilla-s1", "oracle", "oracle-s1", "oracle-s2")
        }
        self.noise = draw.normal(0, 0.2, (2, count))

    def nll(self, model: str, split: str) -> np.ndarray:
        """(D,) of every document of a split under a model before unlearning, or a retrained one."""
        known = self.gap if split == "forget" and model.startswith("vanilla") else 0.0
        return np.asarray(self.losses[split] + self.models[model][split] - known)

    def mean(self, values: np.ndarray, split: str, chosen: np.ndarray | None = None) -> float:
        """Mean per token over the documents of a split, or some of them."""
        pick = slice(None) if chosen is None else chosen
        return float(np.average(values[pick], weights=self.tokens[split][pick]))

    def chosen(self, exposure: int) -> np.ndarray:
        """(D,) which documents are forgotten."""
        return np.asarray((self.exposures == exposure) | (exposure == 0))

    def baseline(self, name: str, base: str = "vanilla") -> Record:
        """The scores of a model; for runs of the second vanilla "oracle" is its own oracle."""
        spec: dict[str, Any] = {
            "profile": "lab",
            "domain": self.domain,
            "baseline": name,
            "seed": 0,
        }
        if base == "second":
            spec["base"], name = base, f"{name}-s1"
        nll = {s: self.nll(name, s) for s in SPLITS}
        kl = np.full(len(self.gap), 0.0 if name == "oracle" else 0.3)
        kl = kl + (0 if name == "oracle" else 0.1 * np.abs(self.noise[0]))
        metrics, documents = self._scored(nll, kl, self.gap * (name.startswith("vanilla")))
        return Record(
            key=key("baseline", self.seed, spec),
            kind="score",
            status="done",
            spec=spec,
            data_hash=key("data", self.domain),
            model_hash=key("model", base),
            metrics=metrics,
            documents=documents,
            provenance={"seconds": 9.0},
        )

    def baselines(self) -> list[Record]:
        """The scores of both vanillas and of all retrained models."""
        return [self.baseline(name) for name in self.models]

    def run(
        self,
        method: str,
        *,
        seed: int = 0,
        base: str = "vanilla",
        exposure: int = 0,
        rate: float = 1e-4,
        stop: bool = True,
        updates: int = 60,
        ways: dict[str, Way] = WAYS,
        asked: RunSpec | None = None,
    ) -> Record:
        """A run, probed after every update, to its first update at or above the retrained model.

        `rate` moves as many nats per update as it is times 1e-4; each seed is 5 % faster than the
        one before. A spec that is `asked` for says all of it.
        """
        if asked is not None:
            method, seed, base, exposure = asked.method, asked.seed, asked.base, asked.exposure
            rate, stop, updates = asked.learning_rate, asked.stop == "retrained", asked.updates
        strength = rate / 1e-4 * (1 + 0.05 * seed)
        own, picked = ways[method], self.chosen(exposure)
        before, theirs = ("vanilla", "oracle") if base == "vanilla" else ("vanilla-s1", "oracle-s1")
        level = self.mean(self.nll(theirs, "forget"), "forget", picked)

        even = self.gap / self.mean(self.gap, "forget", picked)
        moved = own.speed * (1 - own.lean + own.lean * even)  # on average over tokens, `speed`

        def losses(update: int) -> dict[str, np.ndarray]:
            steps: dict[str, Any] = {"forget": moved, **own.harm}
            return {s: self.nll(before, s) + update * strength * steps[s] for s in SPLITS}

        def divergence(update: int) -> np.ndarray:
            return np.asarray(0.3 + 0.1 * np.abs(self.noise[1]) + update * strength * own.kl)

        rows: list[dict[str, Any]] = []
        for update in range(updates + 1):
            gone = update * strength * own.speed * own.erased
            known = np.maximum(0.0, self.gap - gone)
            metrics, documents = self._scored(losses(update), divergence(update), known, picked)
            names = [f"{s}/perplexity" for s in SPLITS] + ["oracle_kl/forget"]
            names += [f"membership/{attack}/auc" for attack in ATTACKS]
            rows.append({"update": update, **{n: metrics[n] for n in names}})
            rows[-1] |= {"rate": rate} if update else {}
            if stop and math.log(metrics["forget/perplexity"]) >= level:
                break
        last = max(0, len(rows) - 2)
        if stop:
            for split in SPLITS:
                chosen = picked if split == "forget" else np.ones_like(picked)
                documents[split]["nll_before"] = losses(last)[split][chosen].tolist()
            for split in ("forget", "approximate"):
                chosen = picked if split == "forget" else np.ones_like(picked)
                documents[split]["kl_before"] = divergence(last)[chosen].tolist()
        spec: dict[str, Any] = {"profile": "lab", "domain": self.domain, "method": method}
        spec |= {"learning_rate": rate, "updates": updates, "seed": seed, "probe_every": 1}
        spec |= {"schedule": "constant", "batch_size": 16}
        spec |= {"base": base} if base != "vanilla" else {}
        spec |= {"exposure": exposure} if exposure else {}
        spec |= {"stop": "retrained"} if stop else {}
        spec = spec if asked is None else asked.as_dict()
        return Record(
            key=key("run", self.seed, spec),
            kind="run",
            status="done",
            spec=spec,
            data_hash=key("data", self.domain),
            model_hash=key("model", base),
            metrics=metrics,
            trajectory=rows,
            documents=documents,
            provenance={"seconds": 20.0, "command": "unlearn run"},
        )

    def way_to_go(self, base: str = "vanilla", exposure: int = 0) -> float:
        """ln(the retrained model's perplexity / vanilla's) on what is forgotten."""
        before, theirs = ("vanilla", "oracle") if base == "vanilla" else ("vanilla-s1", "oracle-s1")
        both = self.nll(theirs, "forget") - self.nll(before, "forget")
        return self.mean(both, "forget", self.chosen(exposure))

    def _scored(
        self,
        nll: dict[str, np.ndarray],
        kl: np.ndarray,
        known: np.ndarray | float,
        picked: np.ndarray | None = None,
    ) -> tuple[dict[str, float], dict[str, dict[str, list[Any]]]]:
        """(metrics, documents); `known` is by how much forget documents look like members."""
        from unlearnlib.metrics.membership import auc

        picked = np.ones(len(self.gap), dtype=bool) if picked is None else picked
        documents: dict[str, dict[str, list[Any]]] = {}
        metrics: dict[str, float] = {}
        signs = {"forget": 1.0, "approximate": 0.0}
        for split in SPLITS:
            chosen = picked if split == "forget" else np.ones_like(picked)
            documents[split] = {
                "id": [f"{split}-{i:04d}#0" for i in np.flatnonzero(chosen)],
                "tokens": self.tokens[split][chosen].tolist(),
                "nll": nll[split][chosen].tolist(),
            }
            metrics[f"{split}/perplexity"] = math.exp(self.mean(nll[split], split, chosen))
            if split in signs:
                side = self.noise[0 if split == "forget" else 1]
                documents[split]["kl"] = kl[chosen].tolist()
                for attack, scale in zip(ATTACKS, (0.5, 0.7, 1.5), strict=True):
                    scores = side + signs[split] * scale * known
                    documents[split][attack] = scores[chosen].tolist()
        metrics["oracle_kl/forget"] = self.mean(kl, "forget", picked)
        metrics["oracle_kl/approximate"] = self.mean(kl, "approximate")
        for attack in ATTACKS:
            sides = (np.array(documents[s][attack]) for s in signs)
            metrics[f"membership/{attack}/auc"] = auc(*sides)
        return metrics, documents


def baselines(domains: Sequence[str] = DOMAINS, **lab: Any) -> list[Record]:
    """Of every domain both vanillas and all retrained models."""
    return [record for domain in domains for record in Lab(domain, **lab).baselines()]


def equal_study(
    domains: Sequence[str] = DOMAINS,
    methods: Sequence[str] = PAPER_METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    bases: Sequence[str] = ("vanilla", "second"),
) -> list[Record]:
    """As the study `equal_forgetting` leaves them."""
    labs = {domain: Lab(domain) for domain in domains}
    return [
        labs[d].run(m, seed=s, base=b)
        for d in domains
        for m in methods
        for s in seeds
        for b in bases
    ]


def exposure_study(
    domains: Sequence[str] = DOMAINS, methods: Sequence[str] = PAPER_METHODS
) -> list[Record]:
    """As the study `exposure` leaves them."""
    labs = {domain: Lab(domain) for domain in domains}
    return [labs[d].run(m, exposure=e) for d in domains for m in methods for e in EXPOSURES]


def write_results(folder: Path, domains: Sequence[str], *studies: str) -> Path:
    """A data folder with settings and published records of some studies, at the profile lab."""
    (folder / "results").mkdir(parents=True)
    chosen = {d: {m: {"learning_rate": 2e-4} for m in PAPER_METHODS} for d in DOMAINS}
    (folder / "settings.json").write_text(json.dumps({"lab": chosen}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_DATA", str(folder))
        for name in studies:
            records = [
                Lab(d).run(s.method, asked=s) for d in domains for s in STUDIES[name].runs("lab", d)
            ]
            write_parquet(records, folder / "results" / f"lab-{name}.parquet")
    write_parquet(baselines(domains), folder / "results" / "lab-baselines.parquet")
    return folder
