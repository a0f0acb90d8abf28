"""The chapter on a real model: SmolLM2, trained further, beside the lab's model.

And the model that they were trained further from, whose training data is not known.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unlearnlib.book import guidelines, what_holds
from unlearnlib.book.cost import CLAIMED_RATIO
from unlearnlib.book.guidelines import Judged
from unlearnlib.book.learning_rates import usable
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    KL,
    NEAR_TARGET,
    auc_with_interval,
    baseline_record,
    baseline_value,
    domains_of,
    methods_of,
    seed_values,
    select,
    value,
)
from unlearnlib.book.robust_region import USABLE, is_usable, region_cells
from unlearnlib.cost import SMOLLM2_135M, SMOLLM2_135M_TOKENS, training_flops
from unlearnlib.figures import (
    BEYOND,
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    checked,
    draw_points,
    figure_function,
    set_log_axis,
)
from unlearnlib.looks import (
    BASELINE_STYLES,
    BASELINE_TITLES,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.profiles import PROFILES, Profile, get_profile
from unlearnlib.store.record import Record
from unlearnlib.study.grids import get_study
from unlearnlib.study.records import StudyResult, at_hand, joined
from unlearnlib.text import mean_and_spread, number, weights_in_words

SPLITS = {
    "forget": "forget",
    "approximate": "approximate",
    "retain": "retain",
    "general_evaluation": "general",
}
ATTACKS = {"loss": "AUC of the loss", "min_k_40": "AUC of Min-40%"}

RANKED = {
    FORGET: "forget perplexity",
    GENERAL: "general perplexity",
    KL: "KL to the oracle",
}

ORDERS = 50_000  # of a permutation test: all orders of up to eight methods, or so many at random
Sides = Mapping[str, tuple[Sequence[Record], Sequence[Record]]]


def family(profile: str) -> tuple[str, ...]:
    """A profile, and those that take its settings for domains that it does not have."""
    return (profile, *(n for n, p in PROFILES.items() if (p.settings_of or ("",))[0] == profile))


SMALL = family("open_cpu")  # what two CPU cores can afford


def relative(
    records: Sequence[Record], baselines: Sequence[Record], domain: str, metric: str
) -> dict[str, float]:
    """Method -> the mean of a metric over seeds, as a multiple of vanilla's."""
    base = baseline_value(baselines, domain, "vanilla", metric, records)
    found = {
        method: mean_and_spread(seed_values(records, domain, method, metric))[0] / base
        for method in methods_of(records)
    }
    return {method: x for method, x in found.items() if not math.isnan(x)}


def rank_correlation(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """(Spearman's ρ, p) over the methods that both have; NaN for fewer than three or all alike.

    p is the share of the orders of the methods whose ρ is at least as far from 0: of all orders up
    to eight methods, of `ORDERS` drawn at random beyond.
    """
    from scipy.stats import permutation_test, rankdata, spearmanr

    shared = [m for m in one if m in other]
    a, b = (rankdata([side[m] for m in shared]) for side in (one, other))
    if len(shared) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan

    def from_zero(ranks: np.ndarray, axis: int = -1) -> np.ndarray:
        """|ρ| but for a factor that no reordering changes."""
        return np.abs(np.sum(ranks * (b - b.mean()), axis=axis))

    every = permutation_test(
        (a,),
        from_zero,
        permutation_type="pairings",
        alternative="greater",
        vectorized=True,
        n_resamples=ORDERS,
        rng=np.random.default_rng(0),
    )
    return float(spearmanr(a, b).statistic), float(every.pvalue)


@dataclass(frozen=True)
class Agreement:
    """How far two orders of the methods agree, by a metric over vanilla's.

    one, other  (model, domain) of either order
    rho         Spearman's rank correlation
    chance      share of all orders whose correlation is at least as far from 0
    """

    one: tuple[str, str]
    other: tuple[str, str]
    metric: str
    rho: float
    chance: float


def agreements(sides: Sides, domains: Sequence[str]) -> list[Agreement]:
    """How far the orders agree: of each two domains of one model, and two models on one domain.

    `sides` are the models: title -> (records, baselines). Pairs that cannot be ranked are left out.
    """
    places = [(title, domain) for title in sides for domain in domains]
    pairs = [
        (one, other)
        for one, other in itertools.combinations(places, 2)
        if one[0] == other[0] or one[1] == other[1]
    ]
    found = []
    for metric in RANKED:
        values = {
            (title, domain): relative(
                select(sides[title][0], domain), sides[title][1], domain, metric
            )
            for title, domain in places
        }
        for one, other in pairs:
            rho, chance = rank_correlation(values[one], values[other])
            if math.isfinite(rho):
                found.append(Agreement(one, other, metric, rho, chance))
    return found


@dataclass(frozen=True)
class MatchedRate:
    """The learning rate at which a method's forget perplexity ends at the oracle's.

    general   general perplexity there, as a multiple of vanilla's
    distance  KL to the oracle on the forget set there, nats per token
    """

    learning_rate: float
    general: float
    distance: float


def matched_rates(region: StudyResult, domain: str) -> dict[str, MatchedRate]:
    """Method -> the rate at which it forgets as much as the oracle.

    Methods that no two neighbouring rates bring past the oracle are left out. Runs that end at
    different forget perplexities differ by their rates as much as by their methods; at the matched
    rates all have forgotten alike.
    Between two rates the logarithms of rate and perplexities, and the divergence, are interpolated
    over the logarithm of forget perplexity.
    """
    truth = baseline_value(region.baselines, domain, "oracle", FORGET, region.records)
    vanilla = baseline_value(region.baselines, domain, "vanilla", GENERAL, region.records)
    out: dict[str, MatchedRate] = {}
    for method in methods_of(region.records):
        runs = sorted(select(region.records, domain, method), key=lambda r: r.spec["learning_rate"])
        for low, high in itertools.pairwise(r for r in runs if r.status == "done"):
            ends = [value(r, FORGET) for r in (low, high)]
            if not 0 < ends[0] < truth <= ends[1] < math.inf:
                continue
            share = math.log(truth / ends[0]) / math.log(ends[1] / ends[0])

            def between(a: float, b: float, share: float = share) -> float:
                return a + share * (b - a)

            out[method] = MatchedRate(
                math.exp(between(*(math.log(r.spec["learning_rate"]) for r in (low, high)))),
                math.exp(between(*(math.log(value(r, GENERAL)) for r in (low, high)))) / vanilla,
                between(*(value(r, KL) for r in (low, high))),
            )
            break
    return out


def studies_at_hand(name: str, profiles: Sequence[str] = SMALL) -> dict[str, StudyResult]:
    """Profile -> the records of a study that are published or in the local store."""
    return {p: at_hand(name, p, get_profile(p).domains) for p in profiles}


def searches_at_hand(region: StudyResult, profiles: Sequence[str] = SMALL) -> list[Judged]:
    """The recorded searches of `unlearn tune` at some profiles, held against their grids."""
    searches = [s for profile in profiles for s in guidelines.load_searches(profile)]
    return guidelines.judged(searches, region.records)


def claims_here(
    main: StudyResult,
    region: StudyResult,
    searches: Iterable[Judged],
    profiles: Sequence[str] = SMALL,
) -> dict[str, what_holds.Verdict]:
    """The tests of `what_holds.py` on the domains of some profiles.

    C1 and C5 are tested on every domain, C3 on those whose whole grid was run (its first runs may
    belong to the study main) and C4 where there was a search. C2 is held against the model's own
    pre-training. A profile has fewer seeds, settings and domains than the tests were written for:
    to pass one here is weaker evidence than in the lab.
    """
    scales = [get_profile(profile) for profile in profiles]
    domains = [domain for scale in scales for domain in scale.domains]
    mapped = [
        domain for scale in scales for domain in scale.domains if _is_mapped(scale, domain, region)
    ]
    found = what_holds.verdicts(
        what_holds.Evidence(main.records, main.baselines, tuning=guidelines.held_out(searches)),
        domains,
        seeds=min(len(scale.seeds) for scale in scales),
    )
    robust = what_holds.verdicts(
        what_holds.Evidence(region.records, region.baselines, region.records),
        mapped or scales[0].domains,
        settings=min(scale.region.settings for scale in scales),
    )
    return found | {"C2": cheaper_than_pretraining(main.records), "C3": robust["C3"]}


def _is_mapped(scale: Profile, domain: str, region: StudyResult) -> bool:
    wanted = get_study("robust_region").runs(scale.name, domain)
    return len(select(region.records, domain)) >= len(wanted)


def claims_at_hand(profiles: Sequence[str] = SMALL) -> dict[str, what_holds.Verdict]:
    """`claims_here` from the records that are published or in the local store."""
    main, region = (
        joined(studies_at_hand(name, profiles).values()) for name in ("main", "robust_region")
    )
    return claims_here(main, region, searches_at_hand(region, profiles), profiles)


def cheaper_than_pretraining(records: Iterable[Record]) -> what_holds.Verdict:
    """C2 on SmolLM2: the operations of the runs against those of its own pre-training.

    Both are 6 per parameter and token, padding left out; of a run, what a term computes of the
    original model once before the first update is left out too. The tokens of the pre-training are
    those that its model card names.
    """
    spent = [float(r.extra["flops"]) for r in records if r.extra.get("flops")]
    if not spent:
        return what_holds.Verdict(
            what_holds.CLAIMS["C2"],
            what_holds.UNDECIDED,
            "Not decided: no run has counted its operations.",
        )
    whole = training_flops(SMOLLM2_135M.active_parameters(), int(SMOLLM2_135M_TOKENS))
    ratios = [whole / flops for flops in spent]
    passed = sum(ratio >= CLAIMED_RATIO for ratio in ratios)
    return what_holds.Verdict(
        what_holds.CLAIMS["C2"],
        what_holds.graded(passed, len(ratios)),
        f"The pre-training of SmolLM2 took {number(whole)} operations by account, on "
        f"{number(SMOLLM2_135M_TOKENS)} tokens. The {len(spent)} runs took {number(min(spent))} to "
        f"{number(max(spent))} each: {number(min(ratios))} to {number(max(ratios))} times "
        "less. That follows from the size of the forget set and says nothing of what a run "
        "achieves.",
        {"least": min(ratios), "most": max(ratios), "passed": passed, "of": len(ratios)},
    )


def history_table(records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Perplexities and AUCs before and after each epoch; `records`: model's name -> its record."""
    rows, index = [], []
    for name, record in records.items():
        title = BASELINE_TITLES.get(name.partition("-")[0], name)
        for epoch in record["history"]:
            passed = int(epoch["epoch"])
            if not passed and name != "vanilla":
                continue  # the same published model
            domains = list(dict.fromkeys(k.partition("/")[0] for k in epoch if "/" in k))
            for domain in domains:
                row = {
                    f"{shown} perplexity": epoch[f"{domain}/{split}/perplexity"]
                    for split, shown in SPLITS.items()
                }
                row |= {
                    shown: epoch[f"{domain}/membership/{attack}/auc"]
                    for attack, shown in ATTACKS.items()
                }
                rows.append(row)
                after = f"{passed} epoch{'s' * (passed != 1)}"
                index.append((domain_title(domain), f"{title}, {after}" if passed else "published"))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=["", "model"]))


def compared(
    lab: Sequence[Record],
    lab_baselines: Sequence[Record],
    real: Sequence[Record],
    real_baselines: Sequence[Record],
    domains: Sequence[str],
) -> pd.DataFrame:
    """Per domain and method: forget and general perplexity and KL to the oracle, over vanilla's."""
    sides = (("lab", lab, lab_baselines), ("SmolLM2", real, real_baselines))
    shown = {FORGET: "forget perplexity", GENERAL: "general perplexity", KL: "KL to the oracle"}
    parts = []
    for domain in domains:
        table = pd.DataFrame(
            {
                (words, title): relative(select(records, domain), baselines, domain, metric)
                for metric, words in shown.items()
                for title, records, baselines in sides
            }
        )
        order = [m for m in methods_of(lab) if m in table.index]
        table = table.loc[order]
        table.index = pd.MultiIndex.from_tuples(
            [(domain_title(domain), method_title(m)) for m in order], names=["", "method"]
        )
        parts.append(table)
    return pd.concat(parts)


def agreement_table(found: Iterable[Agreement]) -> pd.DataFrame:
    """Per pair and metric: ρ, and the share of all orders whose ρ is at least as far from 0."""
    cells: dict[str, dict[str, str]] = {}
    for agreement in found:
        cells.setdefault(_pair(agreement), {})[RANKED[agreement.metric]] = (
            f"{number(agreement.rho, 2)} ({_percent(agreement.chance)})"
        )
    table = pd.DataFrame.from_dict(cells, orient="index", columns=list(RANKED.values()))
    return table.fillna("–").rename_axis("orders of")


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)}%"  # of few orders one is less than a percent


def _pair(found: Agreement) -> str:
    (title, domain), (second, another) = found.one, found.other
    if title == second:
        text = f"{title}: {domain_title(domain)} and {domain_title(another)}"
    else:
        text = f"{title} and {second}: {domain_title(domain)}"
    return text[0].upper() + text[1:]


def claims_table(
    lab: Mapping[str, what_holds.Verdict], here: Mapping[str, what_holds.Verdict]
) -> pd.DataFrame:
    """Per claim: the lab's verdict, what the same test says of the real model, and its numbers."""
    rows = [
        (here[name].claim.says, lab[name].verdict, here[name].verdict, here[name].sentence)
        for name in here
        if name in lab
    ]
    columns = ["The paper claims", "In the lab", "On SmolLM2", "Measured on SmolLM2"]
    return pd.DataFrame(
        rows, index=pd.Index([n for n in here if n in lab], name=""), columns=columns
    )


def published_table(
    records: Sequence[Record],
    baselines: Sequence[Record],
    domain: str,
    vanilla: tuple[Sequence[Record], Sequence[Record]] = ((), ()),
) -> pd.DataFrame:
    """The published model before and after each method, with intervals of the AUC.

    `vanilla` are the records and baselines of the study `main`: the same settings on the model that
    was trained on the forget set. Their rise of forget perplexity is a column of the table.
    """
    before = baseline_record(baselines, domain, "vanilla", records)
    shown = [r for r in records if r.spec["domain"] == domain]
    rows_of = {} if before is None else {"as published": before}
    rows_of |= {method_title(r.spec["method"]): r for r in shown}
    there = _rises(*vanilla, domain)
    rows = {}
    for title, record in rows_of.items():
        rise = math.nan if before is None else record.metrics[FORGET] / before.metrics[FORGET]
        rows[title] = {
            "forget perplexity": record.metrics[FORGET],
            "approximate perplexity": record.metrics["approximate/perplexity"],
            "general perplexity": record.metrics[GENERAL],
            "last word, general": record.metrics.get("general/last_word_accuracy", math.nan),
            "forget perplexity, times": rise,
            "the same on vanilla": there.get(record.spec.get("method", ""), math.nan),
            **{words: _interval(record, attack) for attack, words in ATTACKS.items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _rises(records: Sequence[Record], baselines: Sequence[Record], domain: str) -> dict[str, float]:
    """Method -> forget perplexity as a multiple of vanilla's."""
    return relative(records, baselines, domain, FORGET) if records else {}


def _interval(record: Record, attack: str) -> str:
    value, low, high = auc_with_interval(record, attack)
    if math.isnan(value):
        return "–"
    return f"{number(value)} [{number(low)}, {number(high)}]"


def start_in_words(vanilla: Mapping[str, Any]) -> str:
    """Which weights vanilla and the oracles of a profile were trained further from, as Markdown."""
    weights = vanilla.get("base_weights") or {"name": vanilla["base"], "format": "not recorded"}
    said = (
        f"All of them started from {weights_in_words(weights)} (SHA-256 of the weights "
        f"`{vanilla['base_hash'][:16]}…`)."
    )
    profile = PROFILES.get(vanilla["profile"])
    if profile is not None and weights["name"] not in (profile.model, profile.model.split("/")[-1]):
        said += (
            f" These are not the weights of {profile.model} on the hub, the profile's default: its "
            "numbers will differ."
        )
    return said


def history_in_words(vanilla: Mapping[str, Any]) -> str:
    """What training further did, as Markdown."""
    first, last = vanilla["history"][0], vanilla["history"][-1]
    domains = list(dict.fromkeys(k.partition("/")[0] for k in first if "/" in k))
    said = [
        f"on {domain_title(d)} the AUC of the loss attack rose from "
        f"{number(first[f'{d}/membership/loss/auc'])} to "
        f"{number(last[f'{d}/membership/loss/auc'])}, and forget perplexity fell from "
        f"{number(first[f'{d}/forget/perplexity'])} to {number(last[f'{d}/forget/perplexity'])}"
        for d in domains
    ]
    epochs = vanilla["epochs"]
    return (
        f"**After {epochs} epoch{'s' * (epochs != 1)} over {vanilla['documents']} documents** "
        f"({vanilla['updates']} updates, {number(float(vanilla['tokens']), 2)} tokens), "
        f"{'; '.join(said)}. The threshold was an AUC of {vanilla['recipe']['auc']:g}, fixed "
        "before any unlearning."
    )


def compared_in_words(
    lab: Sequence[Record],
    lab_baselines: Sequence[Record],
    real: Sequence[Record],
    real_baselines: Sequence[Record],
    domain: str,
) -> str:
    """Do the rankings agree, how good is the target, does any method end nearer the oracle."""
    sentences = []
    for metric, shown in ((GENERAL, "general perplexity"), (KL, "KL to the oracle")):
        rho, chance = rank_correlation(
            relative(lab, lab_baselines, domain, metric),
            relative(real, real_baselines, domain, metric),
        )
        if math.isfinite(rho):
            sentences.append(
                f"by {shown} the rankings correlate with ρ = {number(rho, 2)} (so far from 0 in "
                f"{_percent(chance)} of all orders)"
            )
    text = (
        f"**{domain_title(domain)}, the lab's and real ones: {'; '.join(sentences)}.** "
        if sentences
        else ""
    )
    for title, records, baselines in (
        ("In the lab", select(lab, domain), lab_baselines),
        ("On SmolLM2", select(real, domain), real_baselines),
    ):
        target = baseline_value(baselines, domain, "target", FORGET, records)
        truth = baseline_value(baselines, domain, "oracle", FORGET, records)
        nearer = [m for m, x in relative(records, baselines, domain, KL).items() if x < 1]
        general = baseline_value(baselines, domain, "vanilla", GENERAL, records)
        good = [
            m
            for m in methods_of(records)
            if any(usable(r, target, general) for r in records if r.spec["method"] == m)
        ]
        text += (
            f"{title} the target is {number(target / truth)} times the truth, "
            f"{len(good)} of {len(methods_of(records))} methods have a run within a factor "
            f"{NEAR_TARGET:g} of the target that does little harm, and "
            + (
                f"{len(nearer)} end nearer to the oracle than vanilla "
                f"({', '.join(method_title(m) for m in nearer)}). "
                if nearer
                else "none ends nearer to the oracle than vanilla. "
            )
        )
    return text.rstrip()


def agreement_in_words(found: Sequence[Agreement]) -> str:
    """Whether orders agree between domains of one model and between models, as Markdown."""
    kinds: dict[str, list[Agreement]] = {}
    for agreement in found:
        same = agreement.one[0] == agreement.other[0]
        kind = (
            f"between domains of {agreement.one[0]}"
            if same
            else f"between {agreement.one[0]} and {agreement.other[0]} on one domain"
        )
        kinds.setdefault(kind, []).append(agreement)
    parts = []
    for metric, shown in RANKED.items():
        said = []
        for kind, all_of in kinds.items():
            rhos = [a.rho for a in all_of if a.metric == metric]
            if rhos:
                span = number(min(rhos), 2)
                if len(rhos) > 1:
                    span += f" to {number(max(rhos), 2)}"
                said.append(f"{span} {kind}")
        if said:
            parts.append(f"- by {shown}: {', '.join(said)}")
    if not parts:
        return ""
    return "\n".join(("**Of the orders of the methods, ρ is**", "", *parts))


def nearest_in_words(records: Sequence[Record], baselines: Sequence[Record], domain: str) -> str:
    """Which of all runs ends nearest to the oracle, and whether it has forgotten, as Markdown."""
    done = [r for r in records if r.spec["domain"] == domain and r.metrics.get(KL, math.nan) >= 0]
    base = baseline_value(baselines, domain, "vanilla", KL, records)
    if not done or math.isnan(base):
        return ""
    best = min(done, key=lambda r: r.metrics[KL])
    start, truth = (
        baseline_value(baselines, domain, which, FORGET, records) for which in ("vanilla", "oracle")
    )
    share = math.log(best.metrics[FORGET] / start) / math.log(truth / start)
    return (
        f"Of all {len(done)} runs, the nearest to the oracle is "
        f"{method_title(best.spec['method'])} at {best.spec['learning_rate']:g}, "
        f"{number(best.metrics[KL])} nats per token from it (vanilla: {number(base)}), with "
        f"{share:.0%} of the way in log forget perplexity gone."
    )


def cost_in_words(records: Iterable[Record]) -> str:
    """How many runs, and how long they took, as Markdown."""
    records = list(records)
    seconds = sum(r.provenance.get("seconds", 0.0) for r in records)
    machines = sorted(
        {
            r.provenance.get("accelerator") or r.provenance.get("processor") or "unknown"
            for r in records
        }
    )
    threads = sorted({r.provenance.get("threads", 0) for r in records})
    return (
        f"{len(records)} runs on {', '.join(domain_title(d) for d in domains_of(records))}, "
        f"{number(seconds / 60)} minutes in all on {', '.join(machines)} "
        f"({'/'.join(map(str, threads))} threads)."
    )


def region_in_words(region: StudyResult, earlier: StudyResult, domain: str) -> str:
    """Which learning rates are usable, per method, as Markdown.

    Where vanilla was trained again for this study, a sentence says so, and how far its scores and
    those of settings that had been run before (`earlier`) differ from the earlier ones.
    """
    truth = baseline_value(region.baselines, domain, "oracle", FORGET, region.records)
    vanilla = baseline_value(region.baselines, domain, "vanilla", GENERAL, region.records)
    cells = [c for c in region_cells(region.records) if c.domain == domain]
    parts = []
    for method in methods_of(region.records):
        ours = sorted((c for c in cells if c.method == method), key=lambda c: c.learning_rate)
        good = [c for c in ours if is_usable(c, USABLE, truth, vanilla)]
        rates = ", ".join(f"{c.learning_rate:g}" for c in good)
        if good and len(good) == len(ours):
            rates = "all, so that its limits lie beyond these rates"
        parts.append(
            f"{method_title(method)} {len(good)} of {len(ours)}" + (f" ({rates})" if good else "")
        )
    return f"**Usable rates on {domain_title(domain)}: {'; '.join(parts)}.**" + _anew(
        region, earlier, domain
    )


def _anew(region: StudyResult, earlier: StudyResult, domain: str) -> str:
    """A sentence on a vanilla that was trained again for a study; empty if it was not."""
    if {r.model_hash for r in region.records} <= {r.model_hash for r in earlier.records}:
        return ""
    if not earlier.records:
        return ""
    here, there = (
        "/".join(sorted({str(r.provenance.get("processor", "unknown")) for r in s.records}))
        for s in (region, earlier)
    )
    levels = [
        baseline_value(s.baselines, domain, "vanilla", FORGET, s.records) for s in (region, earlier)
    ]
    said = (
        f" Vanilla was trained anew for these runs ({here}; before: {there}): the same recipe, "
        f"other last bits, a forget perplexity of {number(levels[0], 5)} against "
        f"{number(levels[1], 5)}."
    )
    before = {json.dumps(r.spec, sort_keys=True): r for r in earlier.records}
    apart = [
        abs(r.metrics[name] / old.metrics[name] - 1)
        for r in region.records
        if (old := before.get(json.dumps(r.spec, sort_keys=True))) is not None
        for name in (FORGET, GENERAL, "approximate/perplexity", "retain/perplexity")
    ]
    if apart:
        said += (
            f" {len(apart) // 4} of the settings had been run from the earlier one; their "
            f"perplexities on all four sets differ by at most {100 * max(apart):.2g} %."
        )
    return said


def matched_rates_in_words(region: StudyResult, domain: str) -> str:
    """General perplexity and distance to the oracle at the matched rates, as Markdown."""
    found = matched_rates(region, domain)
    if not found:
        return ""
    parts = [
        f"{method_title(method)} at a rate of {matched.learning_rate:.2g}: general perplexity "
        f"×{number(matched.general)}, {number(matched.distance)} nats per token from the oracle"
        for method, matched in found.items()
    ]
    start = baseline_value(region.baselines, domain, "vanilla", KL, region.records)
    return (
        "At equal forgetting, where forget perplexity is the oracle's, interpolated between rates: "
        f"{'; '.join(parts)}. Vanilla is {number(start)} from it."
    )


def published_in_words(
    records: Sequence[Record], baselines: Sequence[Record], domain: str, attack: str = "loss"
) -> str:
    """What the protocol says of a model whose training data is not known, as Markdown."""
    before = baseline_record(baselines, domain, "vanilla", records)
    if before is None:
        return ""
    value, low, high = auc_with_interval(before, attack)
    target, forget = before.metrics["approximate/perplexity"], before.metrics[FORGET]
    found = f"{number(value)} [{number(low)}, {number(high)}]"
    if math.isnan(value):
        opening = ""
    elif low <= 0.5 <= high:
        opening = (
            f"**Before, the AUC of the loss is {found}: the attack does not tell the forget set "
            "from texts held out.** That is how a model looks that has seen neither, and one that "
            "has seen both. "
        )
    else:
        opening = (
            f"**Before, the AUC of the loss is {found}, and chance is outside.** Either the model "
            "saw more of the forget set, or the two sets differ in kind; nothing here can say "
            "which. "
        )
    said = (
        f"The protocol's target is a forget perplexity of {number(target)}; it is {number(forget)} "
        f"before anything is done, {number(forget / target)} times the target. Whether the target "
        "is the truth, only a model trained without the forget set could say, and there is none."
    )
    below: list[str] = []
    near: list[str] = []
    far: list[str] = []
    for record in records:
        if record.spec["domain"] != domain:
            continue
        title = method_title(record.spec["method"])
        after, _, top = auc_with_interval(record, attack)
        if not math.isnan(after) and top < 0.5:
            below.append(f"{title} ({number(after)})")
        ratio = record.metrics[FORGET] / target
        (near if 0.8 <= ratio <= 1.25 else far).append(f"{title} ({number(ratio)})")
    if below:
        said += (
            " Over-unlearning shows even so: the interval of the AUC lies below chance after "
            f"{', '.join(below)}: these texts now look less like training data than texts that "
            "were never seen."
        )
    elif near or far:
        said += " After no method does the interval of the AUC lie below chance."
    if far:
        said += f" Forget perplexity ends off the target by more than a quarter: {', '.join(far)}."
    return opening + said


@figure_function
def two_models(
    sides: Mapping[str, tuple[Sequence[Record], Sequence[Record]]],
    domains: Sequence[str],
    *,
    narrow: bool = False,
) -> DescribedFigure:
    """Each method in the lab (x) and on a real model (y), over vanilla; sides: title -> records.

    A row of panels per domain that both have, a column per metric.
    """
    layout = Layout(narrow)
    (one, (lab, lab_base)), (other, (real, real_base)) = sides.items()
    checked(lab, "this figure"), checked(real, "this figure")
    shared = [d for d in domains if select(lab, d) and select(real, d)]
    metrics = {GENERAL: "general perplexity ÷ vanilla’s", KL: "KL to the oracle ÷ vanilla’s"}
    panels = [(domain, metric) for domain in shared for metric in metrics]
    figure, axes = layout.grid(len(panels), 3.2, beside=len(metrics), extra=0.4)
    alt = []
    methods = [m for m in methods_of(lab) if m in methods_of(real)]
    for ax, (domain, metric) in zip(axes, panels, strict=True):
        xs = relative(select(lab, domain), lab_base, domain, metric)
        ys = relative(select(real, domain), real_base, domain, metric)
        known = [m for m in methods if m in xs and m in ys]
        set_log_axis(ax, "x", *axis_range([*xs.values(), 1.0], BEYOND))
        set_log_axis(ax, "y", *axis_range([*ys.values(), 1.0], BEYOND))
        ax.axvline(1.0, **BASELINE_STYLES["vanilla"])
        ax.axhline(1.0, **BASELINE_STYLES["vanilla"])
        for method in known:
            draw_points(ax, [xs[method]], [ys[method]], markersize=8, **method_style(method))
        ax.set_title(f"{domain_title(domain)}: {metrics[metric]}")
        if narrow or domain == shared[-1]:
            ax.set_xlabel(one)
        if narrow or metric == GENERAL:
            ax.set_ylabel(other)
        said = "; ".join(f"{method_title(m)} {number(xs[m])} and {number(ys[m])}" for m in known)
        alt.append(f"{domain_title(domain)}, {metrics[metric]}, {one} and {other}: {said}.")
    add_legend(figure, layout, methods)
    figure.alt = " ".join(alt)
    return figure
