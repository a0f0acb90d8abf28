"""Every table of the book, and the findings that its prose quotes, from records alone.

Nothing here touches a model. Numbers are means over seeds with the sample standard deviation
behind a ±; what a run that diverged left behind are the metrics of its last finite parameters,
and the row says so. Sentences (`findings_in_words` and the like) are made from the same values as
the tables, so that prose can never claim what the records do not show.
"""

from __future__ import annotations

import html
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib import exhibits
from unlearnlib.cost import FLOPS_PER_PARAMETER_TOKEN, YI_6B, YI_6B_TOKENS, Account
from unlearnlib.looks import (
    ATTACK,
    ATTACK_TITLES,
    BASELINE_TITLES,
    METHOD_LOOKS,
    domain_title,
    method_title,
)
from unlearnlib.metrics.distance import target_gap
from unlearnlib.search import TOLERATED_RISE
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.corpus.documents import Document, DomainData
    from unlearnlib.metrics.scores import TokenScores

CLAIMED_RATIO = 1e5  # the paper's abstract: more than so many times cheaper than retraining
NEAR_TARGET = 1.5  # a perplexity counts as near the target if it is within this factor of it
# Chunks of 4,096 tokens in one update of the authors' release: its effective batch.
RELEASE_BATCH = {"arxiv": 480, "github": 680}
RELEASE_LENGTH = 4096
# What an update takes, in passes forward and backward over its forget chunks: as many retain chunks
# are another pass, and the original model's forward pass over these, for KL, a third of one.
KINDS = {"forget alone": 1.0, "forget + descent": 2.0, "forget + KL": 2.0 + 1 / 3}


@dataclass(frozen=True)
class Column:
    """A column of the main table: a group, what it is measured on, and the metric's name."""

    group: str
    split: str
    metric: str


COLUMNS: tuple[Column, ...] = (
    *(Column("Perplexity", s, f"{s}/perplexity") for s in ("forget", "approximate", "retain")),
    Column("Perplexity", "general", "general/perplexity"),
    *(Column("Accuracy", s, f"{s}/accuracy") for s in ("forget", "approximate", "retain")),
    Column("Accuracy", "general", "general/accuracy"),
    Column("Membership AUC", "Min-40 %", f"membership/{ATTACK}/auc"),
    Column("Cloze accuracy", "forget", "forget/cloze_choice_accuracy"),
    Column("Verbatim share", "forget", "forget/verbatim_share"),
    Column("KL to oracle, nats", "forget", "oracle_kl/forget"),
    Column("KL to oracle, nats", "approximate", "oracle_kl/approximate"),
)
FORGETTING = tuple(c for c in COLUMNS if c.group != "Accuracy")
ACCURACIES = tuple(c for c in COLUMNS if c.group == "Accuracy")

# What the paper's target is made of: vanilla on the approximate set, in the place of "forget".
_TARGET = {
    f"forget/{name}": f"approximate/{name}"
    for name in ("perplexity", "accuracy", "cloze_choice_accuracy", "verbatim_share")
}


# --- reading records -----------------------------------------------------------------------------


def domains_of(records: Iterable[Record]) -> list[str]:
    """The domains of some records, in the book's order."""
    found = {record.spec["domain"] for record in records}
    return [d for d in DOMAINS if d in found] + sorted(found - set(DOMAINS))


def methods_of(records: Iterable[Record]) -> list[str]:
    """The methods of some records, in the paper's order, others after them."""
    found = {r.spec["method"] for r in records if "method" in r.spec}
    return [m for m in METHOD_LOOKS if m in found] + sorted(found - set(METHOD_LOOKS))


def select(records: Iterable[Record], domain: str, method: str | None = None) -> list[Record]:
    """The records of one domain (and method), by seed."""
    chosen = [
        r
        for r in records
        if r.spec["domain"] == domain and (method is None or r.spec.get("method") == method)
    ]
    return sorted(chosen, key=lambda r: int(r.spec.get("seed", 0)))


def value(record: Record, metric: str) -> float:
    """A metric of a record; NaN where it was not measured."""
    return record.metrics.get(metric, math.nan)


def seed_values(records: Iterable[Record], domain: str, method: str, metric: str) -> list[float]:
    """A metric's value for each seed of a method on a domain, in seed order."""
    return [value(record, metric) for record in select(records, domain, method)]


def baseline_record(
    baselines: Iterable[Record], domain: str, which: str, runs: Iterable[Record] = ()
) -> Record | None:
    """The scores of "vanilla" or "oracle" on a domain; None if there are none.

    Where there are several (of models that were trained anew), those that belong to the model
    that `runs` started from.
    """
    found = [r for r in select(baselines, domain) if r.spec.get("baseline") == which]
    bases = {run.model_hash for run in runs}
    fitting = [r for r in found if r.model_hash in bases]
    return next(iter(fitting or found), None)


def baseline_value(
    baselines: Iterable[Record],
    domain: str,
    which: str,
    metric: str,
    runs: Iterable[Record] = (),
) -> float:
    """A metric of "vanilla", "oracle", or "target" (vanilla on the approximate set) on a domain.

    The target has a value only for what is measured on the forget set; its membership AUC is
    0.5 by definition, since a set is compared with its like. NaN where there is none.
    """
    if which == "target":
        if metric.startswith("membership/") and metric.endswith("/auc"):
            return 0.5
        if metric not in _TARGET:
            return math.nan
        which, metric = "vanilla", _TARGET[metric]
    record = baseline_record(baselines, domain, which, runs)
    return math.nan if record is None else value(record, metric)


def within_factor(x: float, level: float, factor: float) -> bool:
    """Is a perplexity within a factor of a level, either way? False unless both are finite, > 0."""
    known = 0 < x < math.inf and 0 < level < math.inf
    # A ratio that is the factor itself counts as within it, whatever rounding says.
    return known and target_gap(x, level) <= math.log(factor) + 1e-12


def by_document(chunks: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """(documents in order of appearance, index of each chunk's document), from names of chunks.

    Chunk 3 of the document `books-7` is named "books-7#3"; a name without "#" is a document's.
    """
    names = [str(chunk).rpartition("#")[0] or str(chunk) for chunk in chunks]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(places), np.array([places[name] for name in names], dtype=np.int64)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, sample standard deviation); the latter NaN for fewer than two or infinite values."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return math.nan, math.nan
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return fmean(known), math.nan
    return fmean(known), stdev(known)


# --- numbers as text -----------------------------------------------------------------------------

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float, digits: int = 3) -> str:
    """`x` with so many significant digits: "0.512", "31.4", "2,150", "4.1 × 10¹²", "∞", "–"."""
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if abs(x) < 1e-9:  # a divergence of a model from itself, but for rounding
        return "0"
    # Of the rounded value: 0.9998 is "1.00", not "1.000".
    exponent = int(f"{abs(x):.{digits - 1}e}".partition("e")[2])
    if exponent >= 6 or exponent < -3:
        # One digit fewer, and rounding to that may carry over again.
        mantissa, _, power = f"{x:.{max(0, digits - 2)}e}".partition("e")
        return f"{mantissa} × 10{str(int(power)).translate(SUPERSCRIPTS)}".replace("-", "−")
    return f"{x:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def with_spread(values: Sequence[float]) -> str:
    """ "mean ± standard deviation" of the values of several seeds, to the same decimals."""
    mean, spread = mean_and_spread(values)
    text = number(mean)
    if math.isnan(spread) or "×" in text or "∞" in text:
        return text
    decimals = len(text.partition(".")[2])
    return f"{text} ± {spread:,.{decimals}f}"


# --- the main table ------------------------------------------------------------------------------


def main_table(
    records: Iterable[Record],
    baselines: Iterable[Record],
    columns: Sequence[Column] = COLUMNS,
) -> pd.DataFrame:
    """Vanilla, target, oracle and the methods, per domain, as text: mean ± std over seeds.

    A method whose runs diverged says how many of them; one without runs is left out.
    """
    import pandas as pd

    records, baselines = list(records), list(baselines)
    index, rows = [], []
    for domain in domains_of(records or baselines):
        for which, title in BASELINE_TITLES.items():
            values = [baseline_value(baselines, domain, which, c.metric, records) for c in columns]
            if not all(map(math.isnan, values)):
                index.append((domain_title(domain), title))
                rows.append([number(x) for x in values])
        for method in methods_of(records):
            runs = select(records, domain, method)
            if not runs:
                continue
            diverged = sum(r.status == "diverged" for r in runs)
            note = f" (diverged: {diverged} of {len(runs)})" if diverged else ""
            index.append((domain_title(domain), method_title(method) + note))
            rows.append([with_spread([value(r, c.metric) for r in runs]) for c in columns])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "model"]),
        columns=pd.MultiIndex.from_tuples([(c.group, c.split) for c in columns]),
    )


def membership_table(
    records: Iterable[Record],
    baselines: Iterable[Record],
    measure: str = "auc",
    attacks: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One `measure` ("auc", "tpr_at_5_fpr", ...) of several attacks, laid out as the main table."""
    names = attacks or ATTACK_TITLES
    titles = {
        "auc": "AUC",
        "tpr_at_5_fpr": "TPR at 5 % FPR",
        "tpr_at_1_fpr": "TPR at 1 % FPR",
        "balanced_accuracy": "Best balanced accuracy",
    }
    columns = [
        Column(titles.get(measure, measure), title, f"membership/{attack}/{measure}")
        for attack, title in names.items()
    ]
    return main_table(records, baselines, columns)


# --- findings ------------------------------------------------------------------------------------

Finding = float | int | str


def findings(records: Iterable[Record], baselines: Iterable[Record]) -> dict[str, Finding]:
    """The named numbers that prose quotes; names of a domain's begin with "DOMAIN.".

    runs, methods, seeds, domains, diverged
    D.vanilla, D.target, D.truth      perplexity of vanilla on forget, of vanilla on approximate,
                                      of the oracle on forget
    D.target_over_truth               the paper's target as a multiple of the truth
    D.vanilla_auc, D.oracle_auc       membership AUC, Min-40 %
    D.oracle_auc_low, _high           the latter's 95 % interval, by bootstrap over documents
    D.kl.vanilla, D.kl.METHOD         mean KL to the oracle on forget, nats per token
    D.kl.floor                        vanilla's on approximate, which neither model was trained on:
                                      what training twice differs by
    D.closest, D.closest_kl           the method with the least of these, and its value
    D.nearer                          number of methods with less than vanilla
    D.nearest_target                  the method whose forget perplexity is nearest the target
    D.gd_against_ga                   "closer", "farther" or "no clear difference": is ascent +
                                      in-distribution descent closer to the oracle than ascent?
                                      A difference is clear if it has one sign for every seed.
    D.below_half                      number of methods whose mean AUC is below 0.5
    D.below_elsewhere                 the same by the other attacks of `ATTACK_TITLES`, in words
    """
    records, baselines = list(records), list(baselines)
    out: dict[str, Finding] = {
        "runs": len(records),
        "methods": len(methods_of(records)),
        "seeds": len({r.spec.get("seed") for r in records}),
        "domains": len(domains_of(records)),
        "diverged": sum(r.status == "diverged" for r in records),
    }
    for domain in domains_of(records or baselines):
        of_domain = (
            _baseline_findings(records, baselines, domain)
            | _distance_findings(records, baselines, domain)
            | _membership_findings(records, domain)
        )
        out |= {f"{domain}.{name}": x for name, x in of_domain.items()}
    return out


def _baseline_findings(
    records: Sequence[Record], baselines: Sequence[Record], domain: str
) -> dict[str, Finding]:
    """What vanilla and the oracle score, and the target against the truth."""
    vanilla, target, truth = (
        baseline_value(baselines, domain, which, "forget/perplexity", records)
        for which in ("vanilla", "target", "oracle")
    )
    vanilla_auc, oracle_auc = (
        baseline_value(baselines, domain, which, f"membership/{ATTACK}/auc", records)
        for which in ("vanilla", "oracle")
    )
    oracle = baseline_record(baselines, domain, "oracle", records)
    low, high = (math.nan,) * 2 if oracle is None else auc_with_interval(oracle)[1:]
    return {
        "vanilla": vanilla,
        "target": target,
        "truth": truth,
        "target_over_truth": target / truth if truth else math.nan,
        "vanilla_auc": vanilla_auc,
        "oracle_auc": oracle_auc,
        "oracle_auc_low": low,
        "oracle_auc_high": high,
    }


def _distance_findings(
    records: Sequence[Record], baselines: Sequence[Record], domain: str
) -> dict[str, Finding]:
    """Which methods end nearest to the oracle, and nearest to the target."""
    before, floor = (
        baseline_value(baselines, domain, "vanilla", f"oracle_kl/{split}", records)
        for split in ("forget", "approximate")
    )
    target = baseline_value(baselines, domain, "target", "forget/perplexity", records)
    distance = _seed_means(records, domain, "oracle_kl/forget")
    gap = {
        method: target_gap(x, target)
        for method, x in _seed_means(records, domain, "forget/perplexity").items()
        if x > 0 and target > 0
    }
    closest, nearest = _least(distance), _least(gap)
    return {
        "kl.vanilla": before,
        "kl.floor": floor,
        **{f"kl.{method}": x for method, x in distance.items()},
        "closest": method_title(closest) if closest else "none",
        "closest_kl": distance[closest] if closest else math.nan,
        "nearer": sum(x < before for x in distance.values()),
        "nearest_target": method_title(nearest) if nearest else "none",
        "gd_against_ga": _compare(records, domain, "ga_gd_in_dist", "ga"),
    }


def _membership_findings(records: Sequence[Record], domain: str) -> dict[str, Finding]:
    """After how many methods the forget set looks less like training data than unseen text."""
    aucs = _seed_means(records, domain, f"membership/{ATTACK}/auc")
    return {
        "below_half": sum(x < 0.5 for x in aucs.values()),
        "below_elsewhere": _below_elsewhere(records, domain),
    }


def _seed_means(records: Sequence[Record], domain: str, metric: str) -> dict[str, float]:
    """Method -> a metric's mean over the seeds on a domain."""
    return {
        method: mean_and_spread(seed_values(records, domain, method, metric))[0]
        for method in methods_of(select(records, domain))
    }


def auc_with_interval(record: Record, attack: str = ATTACK) -> tuple[float, float, float]:
    """(AUC, low, high): forget against approximate documents, 95 % by bootstrap over documents.

    The scores of a document's chunks are averaged first: they are alike. NaN where the record has
    no such scores, or some that are no numbers.
    """
    from unlearnlib.metrics.membership import auc, bootstrap_auc

    sides = []
    for split in ("forget", "approximate"):
        part = record.documents.get(split, {})
        scores = np.asarray(part.get(attack, ()), dtype=float)
        documents, of = by_document(part.get("id", ())[: len(scores)])
        sides.append(np.array([scores[of == i].mean() for i in range(len(documents))]))
    if not all(len(side) and np.isfinite(side).all() for side in sides):
        return math.nan, math.nan, math.nan
    members, others = sides
    return (auc(members, others), *bootstrap_auc(members, others))


def _below_elsewhere(records: Sequence[Record], domain: str) -> str:
    """ "GA + GD, in-dist. (Min-20 %, Min-20 %++)": below 0.5 by attacks other than `ATTACK`."""
    found = []
    for method in methods_of(select(records, domain)):
        attacks = [
            title
            for attack, title in ATTACK_TITLES.items()
            if attack != ATTACK
            and mean_and_spread(seed_values(records, domain, method, f"membership/{attack}/auc"))[0]
            < 0.5
        ]
        if attacks:
            found.append(f"{method_title(method)} ({', '.join(attacks)})")
    return " and ".join(found)


def _least(table: Mapping[str, float]) -> str | None:
    known = {name: x for name, x in table.items() if math.isfinite(x)}
    return min(known, key=lambda name: known[name]) if known else None


def _compare(records: Sequence[Record], domain: str, one: str, other: str) -> str:
    """Is `one` closer to the oracle than `other`? Runs of the same seed are compared."""
    sides = []
    for method in (one, other):
        runs = select(records, domain, method)
        sides.append({r.spec.get("seed"): value(r, "oracle_kl/forget") for r in runs})
    differences = [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]
    differences = [d for d in differences if not math.isnan(d)]
    if not differences:
        return "unknown"
    if all(d < 0 for d in differences):
        return "closer"
    return "farther" if all(d > 0 for d in differences) else "no clear difference"


def findings_in_words(found: Mapping[str, Finding]) -> str:
    """The findings as a Markdown list: the target against the truth, and who is closest."""
    lines = [
        f"- {found['runs']} runs: {found['methods']} methods on {found['domains']} "
        f"{_plural('domain', found['domains'])}, {found['seeds']} "
        f"{_plural('seed', found['seeds'])} each. {_diverged(int(found['diverged']))}"
    ]
    for domain in _domains_in(found):
        title = domain_title(domain)
        ratio = float(found[f"{domain}.target_over_truth"])
        lines.append(f"- **{title}.** {_target_sentence(found, domain, ratio)}")
        closest_kl = float(found[f"{domain}.closest_kl"])
        if not math.isnan(closest_kl):
            before, floor = (float(found[f"{domain}.kl.{x}"]) for x in ("vanilla", "floor"))
            nearer = int(found[f"{domain}.nearer"])
            lines[-1] += (
                f" {nearer or 'No'} {'method ends' if nearer < 2 else 'methods end'} nearer to the "
                f"oracle on the forget set than vanilla is, at {number(before)} nats per token"
            )
            lines[-1] += "" if math.isnan(floor) else f" ({number(floor)} on unseen documents)"
            lines[-1] += f"; the nearest is {found[f'{domain}.closest']}, at {number(closest_kl)}."
        verdict = found[f"{domain}.gd_against_ga"]
        if verdict != "unknown":
            seeds = "for every seed" if int(found["seeds"]) > 1 else "with the one seed there is"
            how = {
                "closer": f"nearer to it than GA, {seeds}",
                "farther": f"farther from it than GA, {seeds}",
            }.get(str(verdict), f"neither nearer nor farther than GA {seeds}")
            lines[-1] += f" At their chosen rates {method_title('ga_gd_in_dist')} ends {how}."
    return "\n".join(lines)


def _target_sentence(found: Mapping[str, Finding], domain: str, ratio: float) -> str:
    target, truth = (number(float(found[f"{domain}.{x}"])) for x in ("target", "truth"))
    if math.isnan(ratio):
        return f"The paper’s target is a perplexity of {target}; there is no oracle to compare."
    percent = abs(ratio - 1) * 100
    side = "above" if ratio > 1 else "below"
    near = f"{percent:.1f} % {side}" if percent >= 0.05 else "equal to"
    return (
        f"The paper’s target is a perplexity of {target}, {near} the truth, {truth} "
        f"(vanilla before unlearning: {number(float(found[f'{domain}.vanilla']))})."
    )


def _diverged(count: int) -> str:
    if not count:
        return "None diverged."
    return f"{count} diverged; {'its' if count == 1 else 'their'} last finite state is shown."


def _plural(word: str, count: Finding) -> str:
    return word if count == 1 else word + "s"


def _domains_in(found: Mapping[str, Finding]) -> list[str]:
    named = [name.partition(".")[0] for name in found if name.endswith(".target_over_truth")]
    return list(dict.fromkeys(named))


def membership_in_words(found: Mapping[str, Finding]) -> str:
    """Membership inference before and after, as a Markdown list."""
    lines = []
    for domain in _domains_in(found):
        below = int(found[f"{domain}.below_half"])
        count = (
            f"Of {found['methods']} methods, {below} {'ends' if below == 1 else 'end'} below 0.5: "
            "there the forget set looks less like training data than text the model never saw."
            if below
            else "No method ends below 0.5, where the forget set would look less like training "
            "data than text the model never saw."
        )
        if elsewhere := found[f"{domain}.below_elsewhere"]:
            count += f" By other attacks of the table below some do: {elsewhere}."
        low, high = (float(found[f"{domain}.oracle_auc_{side}"]) for side in ("low", "high"))
        spread = "" if math.isnan(low) else f" (95 % {number(low)} to {number(high)})"
        lines.append(
            f"- **{domain_title(domain)}.** By {ATTACK_TITLES[ATTACK]}, vanilla’s AUC is "
            f"{number(float(found[f'{domain}.vanilla_auc']))}, the oracle’s "
            f"{number(float(found[f'{domain}.oracle_auc']))}{spread}. {count}"
        )
    return "\n".join(lines)


def glue(found: Mapping[str, Finding], prefix: str = "") -> None:
    """Store findings in the notebook under PREFIX + name, for {glue:text} in other chapters.

    Nothing is shown. Writes what `myst_nb.glue` writes, without needing the book's tools.
    """
    from IPython.display import display

    hidden = "application/papermill.record/"
    for name, x in found.items():
        text = number(x) if isinstance(x, float) else str(x)
        display(
            {f"{hidden}text/plain": text},
            raw=True,
            metadata={"scrapbook": {"name": prefix + name, "mime_prefix": hidden}},
        )


# --- learning rates ------------------------------------------------------------------------------


def usable(record: Record, target: float, general: float) -> bool:
    """Did a run come within a factor `NEAR_TARGET` of the target without harming other texts?

    general  vanilla's general perplexity, which may rise by the factor `TOLERATED_RISE`
    """
    return (
        record.status == "done"
        and within_factor(value(record, "forget/perplexity"), target, NEAR_TARGET)
        and value(record, "general/perplexity") <= TOLERATED_RISE * general
    )


def robustness(rates: Iterable[Record], baselines: Iterable[Record]) -> dict[str, tuple[int, int]]:
    """Method -> (usable settings, settings tried), over learning rates and domains."""
    rates, baselines = list(rates), list(baselines)
    out = {}
    for method in methods_of(rates):
        good = tried = 0
        for domain in domains_of(rates):
            target = baseline_value(baselines, domain, "target", "forget/perplexity", rates)
            general = baseline_value(baselines, domain, "vanilla", "general/perplexity", rates)
            runs = select(rates, domain, method)
            tried += len(runs)
            good += sum(usable(r, target, general) for r in runs)
        out[method] = (good, tried)
    return out


def rates_table(rates: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Per domain and method: forget perplexity, and the rise of general perplexity, per rate."""
    import pandas as pd

    rates, baselines = list(rates), list(baselines)
    steps = sorted({r.spec["learning_rate"] for r in rates})
    index, rows = [], []
    for domain in domains_of(rates):
        general = baseline_value(baselines, domain, "vanilla", "general/perplexity", rates)
        for method in methods_of(select(rates, domain)):
            by_rate = {r.spec["learning_rate"]: r for r in select(rates, domain, method)}
            index.append((domain_title(domain), method_title(method)))
            row = []
            for step in steps:
                run = by_rate.get(step)
                if run is None:
                    row.append("–")
                elif run.status == "diverged":
                    row.append(f"diverged at {run.diverged_at}")
                else:
                    ratio = value(run, "general/perplexity") / general
                    row.append(f"{number(value(run, 'forget/perplexity'))} (×{number(ratio)})")
            rows.append(row)
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "method"]),
        columns=[f"{step:g}" for step in steps],
    )


def robustness_in_words(rates: Iterable[Record], baselines: Iterable[Record]) -> str:
    """Which methods have the most usable learning rates, in a Markdown paragraph."""
    table = robustness(rates, baselines)
    parts = [
        f"{method_title(method)} {good} of {tried}"
        for method, (good, tried) in sorted(table.items(), key=lambda item: -item[1][0])
    ]
    return (
        f"Usable settings (forget perplexity within a factor {NEAR_TARGET:g} of the target, "
        f"general perplexity up by at most {100 * (TOLERATED_RISE - 1):.0f} %): {'; '.join(parts)}."
    )


def settings_table(records: Iterable[Record]) -> pd.DataFrame:
    """The learning rate of each method on each domain, as the runs used it."""
    import pandas as pd

    records = list(records)
    domains = domains_of(records)
    rows = []
    for method in methods_of(records):
        row = []
        for domain in domains:
            used = sorted({r.spec["learning_rate"] for r in select(records, domain, method)})
            row.append(", ".join(f"{x:g}" for x in used) or "–")
        rows.append(row)
    index = pd.Index([method_title(m) for m in methods_of(records)], name="method")
    return pd.DataFrame(rows, index=index, columns=[domain_title(d) for d in domains])


# --- trajectories --------------------------------------------------------------------------------


def trajectory_table(trajectory: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """When a run passes the target, and what it has cost in general perplexity, then and after."""
    import pandas as pd

    trajectory, baselines = list(trajectory), list(baselines)
    index, rows = [], []
    for domain in domains_of(trajectory):
        target = baseline_value(baselines, domain, "target", "forget/perplexity", trajectory)
        general = baseline_value(baselines, domain, "vanilla", "general/perplexity", trajectory)
        for method in methods_of(select(trajectory, domain)):
            run = select(trajectory, domain, method)[0]
            probed = [row for row in run.trajectory if "forget/perplexity" in row]
            passed = next((row for row in probed if row["forget/perplexity"] >= target), None)
            last = probed[-1] if probed else {}
            index.append((domain_title(domain), method_title(method)))
            rows.append(
                [
                    "never" if passed is None else str(passed["update"]),
                    "–" if passed is None else _ratio(passed, general),
                    number(last.get("forget/perplexity", math.nan)),
                    _ratio(last, general),
                    number(last.get(f"membership/{ATTACK}/auc", math.nan)),
                    "no" if run.diverged_at is None else f"at update {run.diverged_at}",
                ]
            )
    columns = [
        ("Passing the target", "update"),
        ("Passing the target", "general, × vanilla"),
        ("At the end", "forget"),
        ("At the end", "general, × vanilla"),
        ("At the end", "AUC"),
        ("", "diverged"),
    ]
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "method"]),
        columns=pd.MultiIndex.from_tuples(columns),
    )


def pace_in_words(trajectory: Iterable[Record]) -> str:
    """Whether runs slow down by themselves: is any update larger than the last? Markdown."""
    paths = [
        [float(row["forget/perplexity"]) for row in run.trajectory if "forget/perplexity" in row]
        for run in trajectory
    ]
    steps = [
        [math.log(b / a) for a, b in itertools.pairwise(path)]
        for path in paths
        if len(path) > 2 and all(0 < x < math.inf for x in path)
    ]
    if not steps:
        return ""
    fastest = sum(step[-1] == max(step) for step in steps)
    return (
        f"In {fastest} of {len(steps)} runs the last update moves the logarithm of forget "
        "perplexity at least as much as any before it: these do not stop by themselves."
    )


def turn_in_words(trajectory: Iterable[Record]) -> str:
    """Where along a run the oracle is nearest, by KL on the forget set, in a Markdown sentence."""
    name = "oracle_kl/forget"
    paths = [[row for row in run.trajectory if name in row] for run in trajectory]
    paths = [path for path in paths if len(path) > 1 and path[0][name] > 0]
    if not paths:
        return ""
    turns = [min(path, key=lambda row: float(row[name])) for path in paths]
    shares = [turn[name] / path[0][name] for turn, path in zip(turns, paths, strict=True)]
    updates = [int(turn["update"]) for turn in turns]
    last = max(int(path[-1]["update"]) for path in paths)
    farther = sum(path[-1][name] > path[0][name] for path in paths)
    return (
        f"A run is nearest to the oracle on the forget set after {min(updates)} to {max(updates)} "
        f"of {last} updates, at {number(min(shares))} to {number(max(shares))} times the distance "
        f"that vanilla has (KL). {farther} of {len(paths)} runs end farther from it than vanilla "
        "is."
    )


def _ratio(row: Mapping[str, Any], general: float) -> str:
    return number(row.get("general/perplexity", math.nan) / general)


# --- cost ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retraining:
    """What making the oracle took: tokens trained on, seconds, parameters."""

    tokens: float
    seconds: float
    parameters: float


def lab_retraining(domains: Iterable[str]) -> dict[str, Retraining]:
    """Domain -> what its lab oracle took, from the record beside its weights; absent without."""
    from unlearnlib.models import lab_checkpoint

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
                    number(_mean(r.extra.get("tokens") for r in runs)),
                    number(_mean(r.extra.get("flops") for r in runs)),
                    with_spread([r.provenance.get("seconds_training", math.nan) for r in runs]),
                    number(_mean(r.provenance.get("peak_memory_bytes") for r in runs) / 2**30),
                    number(_mean(ratios.flops)),
                    number(_mean(ratios.seconds)),
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


def _mean(values: Iterable[float | None]) -> float:
    known = [float(v) for v in values if v is not None]
    return fmean(known) if known else math.nan


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
        f"for up to {least} {_plural('update', least)} of the dearest kind."
    )


# --- the release's differences -------------------------------------------------------------------


def alignment_table(
    alignment: Iterable[Record], records: Iterable[Record], baselines: Iterable[Record]
) -> pd.DataFrame:
    """Aligned labels beside the release's, for the methods that make labels."""
    import pandas as pd

    alignment, records, baselines = list(alignment), list(records), list(baselines)
    columns = [
        Column("Perplexity", "forget", "forget/perplexity"),
        Column("Perplexity", "general", "general/perplexity"),
        Column("Membership AUC", "Min-40 %", f"membership/{ATTACK}/auc"),
        Column("KL to oracle, nats", "forget", "oracle_kl/forget"),
    ]
    index, rows = [], []
    for domain in domains_of(alignment):
        for which in ("target", "oracle"):
            values = [baseline_value(baselines, domain, which, c.metric, records) for c in columns]
            if not all(map(math.isnan, values)):
                index.append((domain_title(domain), BASELINE_TITLES[which]))
                rows.append([number(x) for x in values])
        for method in methods_of(alignment):
            for name, group in (("aligned", records), ("release", alignment)):
                runs = select(group, domain, method)
                if runs:
                    index.append((domain_title(domain), f"{method_title(method)}, {name}"))
                    rows.append([with_spread([value(r, c.metric) for r in runs]) for c in columns])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "labels"]),
        columns=pd.MultiIndex.from_tuples([(c.group, c.split) for c in columns]),
    )


def flipped_table(
    records: Iterable[Record], baselines: Iterable[Record], attack: str = ATTACK
) -> pd.DataFrame:
    """AUC as measured beside max(AUC, 1 - AUC), which hides on which side of 0.5 it lies."""
    import pandas as pd

    records, baselines = list(records), list(baselines)
    metric = f"membership/{attack}/auc"
    index, rows = [], []
    for domain in domains_of(records):
        named = [
            (BASELINE_TITLES[which], baseline_value(baselines, domain, which, metric, records))
            for which in ("vanilla", "oracle")
        ]
        named += [
            (method_title(m), mean_and_spread(seed_values(records, domain, m, metric))[0])
            for m in methods_of(select(records, domain))
        ]
        for title, x in named:
            if not math.isnan(x):
                side = "less like members" if x < 0.5 else "more like members"
                index.append((domain_title(domain), title))
                rows.append([number(x), number(max(x, 1 - x)), side if x != 0.5 else "alike"])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "model"]),
        columns=["AUC", "flipped", "forget set looks"],
    )


def averages_table(records: Iterable[Record], baselines: Iterable[Record]) -> pd.DataFrame:
    """Perplexity per token beside perplexity per chunk, as the release averages."""
    columns = [
        Column(f"{split} perplexity", title, f"{split}/{name}")
        for split in ("forget", "general")
        for title, name in (("per token", "perplexity"), ("per chunk", "chunk_perplexity"))
    ]
    table = main_table(records, baselines, columns)
    keep = [row for row in table.index if row[1] != BASELINE_TITLES["target"]]
    return table.loc[keep]


# --- the data ------------------------------------------------------------------------------------


def token_lengths(data: DomainData, tokenizer: Any) -> dict[str, list[int]]:
    """Split -> tokens of each document, special tokens included."""
    from unlearnlib.corpus.documents import SPLITS

    return {
        split: [len(tokenizer(d.text, verbose=False)["input_ids"]) for d in data.split(split)]
        for split in SPLITS
    }


def data_table(data: Mapping[str, DomainData], tokenizer: Any) -> pd.DataFrame:
    """Per domain and split: documents, tokens in all, tokens per document, facts."""
    import pandas as pd

    index, rows = [], []
    for domain, one in data.items():
        for split, lengths in token_lengths(one, tokenizer).items():
            if lengths:
                facts = sum(len(document.facts) for document in one.split(split))
                index.append((domain_title(domain), split.replace("_", " ")))
                rows.append(
                    [
                        f"{len(lengths):,}",
                        f"{sum(lengths):,}",
                        f"{fmean(lengths):.0f}",
                        f"{min(lengths)} to {max(lengths)}",
                        f"{facts:,}",
                    ]
                )
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "split"]),
        columns=["documents", "tokens", "mean length", "shortest to longest", "facts"],
    )


def facts_table(data: DomainData, split: str = "forget", count: int = 5) -> pd.DataFrame:
    """The first facts of a split as cloze questions: prompt, answer, wrong answers."""
    import pandas as pd

    rows = [
        (fact.prompt.strip(), fact.answer, ", ".join(fact.distractors))
        for document in data.split(split)
        for fact in document.facts
    ][:count]
    return pd.DataFrame(rows, columns=["prompt", "answer", "wrong answers"]).set_index("prompt")


def overlap(one: Iterable[str], other: Iterable[str], n: int) -> float:
    """Share of the distinct n-grams of words of `one` that also stand in `other`; NaN for none."""
    grams = [
        {
            tuple(words[i : i + n])
            for text in texts
            for words in [text.split()]
            for i in _starts(words, n)
        }
        for texts in (one, other)
    ]
    return len(grams[0] & grams[1]) / len(grams[0]) if grams[0] else math.nan


def _starts(words: Sequence[str], n: int) -> range:
    return range(len(words) - n + 1)


def overlap_table(
    data: Mapping[str, DomainData], sizes: Sequence[int] = (3, 5, 8, 13)
) -> pd.DataFrame:
    """Per domain, how much of one split's n-grams another split holds, in %.

    Forget and approximate sets that are alike share as much with the retain set.
    """
    import pandas as pd

    pairs = (("forget", "retain"), ("approximate", "retain"), ("forget", "approximate"))
    index, rows = [], []
    for domain, one in data.items():
        texts = {s: [d.text for d in one.split(s)] for s in ("forget", "retain", "approximate")}
        for a, b in pairs:
            if texts[a] and texts[b]:
                index.append((domain_title(domain), f"{a} in {b}"))
                shares = (overlap(texts[a], texts[b], n) for n in sizes)
                rows.append(["–" if math.isnan(x) else f"{100 * x:.1f}" for x in shares])
    return pd.DataFrame(
        rows,
        index=pd.MultiIndex.from_tuples(index, names=["domain", "n-grams of"]),
        columns=[f"{n} words" for n in sizes],
    )


def trigram_table(
    data: Mapping[str, DomainData],
    trained_on: Iterable[Document],
    baselines: Iterable[Record],
    tokenizer: Any,
) -> pd.DataFrame:
    """Accuracy on the approximate set: vanilla's beside that of a trigram of its training data."""
    import pandas as pd

    from unlearnlib.metrics.ngram import Trigram

    def tokens(documents: Iterable[Document]) -> list[list[int]]:
        return [tokenizer(d.text, verbose=False)["input_ids"] for d in documents]

    baselines = list(baselines)
    model = Trigram(tokens(trained_on), len(tokenizer))
    rows = []
    for domain, one in data.items():
        right, perplexity = model.score(tokens(one.approximate))
        measured = [
            baseline_value(baselines, domain, "vanilla", f"approximate/{name}")
            for name in ("accuracy", "perplexity")
        ]
        rows.append([number(x) for x in (right, measured[0], perplexity, measured[1])])
    return pd.DataFrame(
        rows,
        index=pd.Index([domain_title(d) for d in data], name="domain"),
        columns=pd.MultiIndex.from_product([["Accuracy", "Perplexity"], ["trigram", "vanilla"]]),
    )


def labels_table(tokens: Sequence[str], labels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Beside each other: the last token read, the next one (the truth), and made labels for it.

    tokens  T tokens of a text; labels: name -> T - 1 labels, the t-th for the token after t
    """
    import pandas as pd

    columns = {"last token read": tokens[:-1], "truth": tokens[1:], **labels}
    return pd.DataFrame({name: list(map(repr, x)) for name, x in columns.items()}).set_index(
        "last token read"
    )


def beginning_shared(text: str, truth: str) -> str:
    """HTML of `text` with the words that it begins with as `truth` does in bold."""
    shared = 0
    for ours, true in zip(text, truth, strict=False):
        if ours != true:
            break
        shared += 1
    if shared < min(len(text), len(truth)) or len(text) > len(truth):
        # Half a word in common is none in common.
        shared = max(text[:shared].rfind(" "), text[:shared].rfind("\n")) + 1
    head, tail = html.escape(text[:shared]), html.escape(text[shared:])
    return (f"<strong>{head}</strong>" if head.strip() else head) + tail


def samples_html(samples: Iterable[tuple[str, str, Mapping[str, str]]]) -> str:
    """HTML of what models write: for each document its name, the prompt, and continuations.

    samples  (name, prompt, model -> continuation); "truth" is how the document itself goes on
    """
    parts = []
    for name, prompt, continuations in samples:
        truth = continuations.get("truth", "")
        rows = "".join(
            f'<tr><th scope="row" class="text">{html.escape(model)}</th>'
            f'<td class="text"><pre>{beginning_shared(text, truth)}</pre></td></tr>'
            for model, text in continuations.items()
        )
        caption = f"{name}, and how each model goes on"
        shown = (
            f'<div class="table-scroll"><table class="dataframe"><caption>{html.escape(caption)}'
            '</caption><thead><tr><th scope="row" class="text">given</th><td class="text">'
            f"<pre>{html.escape(prompt)}</pre></td></tr></thead><tbody>{rows}</tbody></table></div>"
        )
        parts.append(_exhibit(shown, caption, name=f"{name} continued"))
    # Breaks and indentation belong to code and formulas; long lines may still be broken.
    style = "<style scoped>td.text pre {white-space: pre-wrap; margin: 0; padding: 0; border: 0; "
    style += "background: none; color: inherit; text-align: left;}</style>"
    return f"<div>{style}{''.join(parts)}</div>"


def samples(given: Iterable[tuple[str, str, Mapping[str, str]]]) -> Any:
    """`samples_html` as notebooks and the book show it."""
    from IPython.display import HTML

    return HTML(samples_html(given))


# --- single runs and scores, in words ------------------------------------------------------------


def run_in_words(record: Record) -> str:
    """What a run did, in a Markdown sentence, and the command that repeats it."""
    spec, done = record.spec, record.provenance
    memory = done.get("peak_memory_bytes")
    stop = f" It diverged at update {record.diverged_at}." if record.diverged_at else ""
    return (
        f"{method_title(spec['method'])} on {domain_title(spec['domain'])}: {spec['updates']} "
        f"{_plural('update', spec['updates'])} of {spec['batch_size']} forget chunks at learning "
        f"rate {spec['learning_rate']:g}; {record.extra.get('tokens', 0):,} tokens went forward "
        f"and backward. With all evaluations it took "
        f"{number(float(done.get('seconds', math.nan)))} seconds on {done.get('device', '?')}"
        + (f", and at most {number(memory / 2**30)} GiB of memory" if memory else "")
        + f".{stop} To repeat it: `{done.get('command', '?')}`."
    )


def entropy_in_words(scores: TokenScores) -> str:
    """What a model's divergence from itself would read as, were it a cross-entropy."""
    entropy = -float(np.mean(scores.mean, dtype=np.float64))
    return (
        f"Of vanilla against itself, over {len(scores)} retain chunks, the divergence is 0; the "
        f"cross-entropy is its own entropy, {number(entropy)} nats per token."
    )


def padding_in_words(lengths: Sequence[int], full: int) -> str:
    """Which share of the positions is padding when chunks are padded to `full` tokens."""
    share = 100 * (1 - sum(lengths) / (full * len(lengths)))
    return (
        f"Padded to {full:,} tokens, {number(share)} % of the positions of the {len(lengths)} "
        f"forget chunks would be padding: their mean length is {number(fmean(lengths))} tokens."
    )


# --- as HTML -------------------------------------------------------------------------------------


def table_html(table: pd.DataFrame, caption: str = "", command: str = "", name: str = "") -> str:
    """HTML of a table: numbers right-aligned, words left, domains as row groups.

    A two-level header spans its groups; of a two-level index, the first level becomes a line
    above its rows. It scrolls by itself where the page is narrower, and the book's script
    `sort_tables.js` sorts it. With a name, which is the caption's words if none is given, it can
    be linked to and repeated (`exhibits`); `command` makes its records again.
    """
    nested = table.index.nlevels == 2
    names = [str(n) if n else "" for n in table.index.names]
    columns = [c if isinstance(c, tuple) else (c,) for c in table.columns]
    wordy = [_is_text(table.iloc[:, i]) for i in range(len(columns))]
    width = 1 + len(columns)
    head = []
    for level in range(table.columns.nlevels):
        bottom = level == table.columns.nlevels - 1
        cells = [f'<th scope="col" class="text">{html.escape(names[-1]) if bottom else ""}</th>']
        position = 0
        while position < len(columns):
            span = 1
            while (
                not bottom
                and position + span < len(columns)
                and (columns[position + span][level] == columns[position][level])
            ):
                span += 1
            kind = "text" if wordy[position] and bottom else "number"
            scope = "col" if bottom else "colgroup"
            cells.append(
                f'<th scope="{scope}" colspan="{span}" class="{kind}">'
                f"{html.escape(str(columns[position][level]))}</th>"
            )
            position += span
        head.append(f"<tr>{''.join(cells)}</tr>")
    body: list[str] = []
    previous = None
    for label, row in zip(table.index, table.itertuples(index=False), strict=True):
        if nested and label[0] != previous:
            previous = label[0]
            body.append(
                f'<tr><th scope="rowgroup" colspan="{width}" class="text"><strong>'
                f"{html.escape(str(previous))}</strong></th></tr>"
            )
        shown = label[1] if nested else label
        cells = [f'<th scope="row" class="text">{html.escape(str(shown))}</th>']
        for x, words in zip(row, wordy, strict=True):
            text = number(x) if isinstance(x, float) else str(x)
            kind = ("text long" if len(text) > 60 else "text") if words else "number"
            cells.append(f'<td class="{kind}">{html.escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    shown = (
        f'<div class="table-scroll"><table class="dataframe sortable">{title}<thead>{"".join(head)}'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )
    return _exhibit(shown, caption, command, name)


def _exhibit(shown: str, caption: str, command: str = "", name: str = "") -> str:
    """The HTML of a table in an element with an anchor, and how to repeat it below."""
    around = exhibits.opening("table", name or caption, caption)
    return f"<div{around}>{shown}{exhibits.repeat('table', command)}</div>" if around else shown


def _is_text(column: Iterable[Any]) -> bool:
    """Whether most cells of a column hold words or lists, not numbers."""
    seen = Counter(
        isinstance(x, str)
        and (", " in x or sum(map(str.isalpha, x)) > max(2, sum(map(str.isdigit, x))))
        for x in column
    )
    return seen[True] > seen[False]


def styled(table: pd.DataFrame, caption: str = "", command: str = "", name: str = "") -> Any:
    """The table as notebooks and the book show it; see `table_html`."""
    from IPython.display import HTML

    return HTML(table_html(table, caption, command, name))


def say(text: str) -> None:
    """Show Markdown that was made from records; nothing for no text."""
    from IPython.display import Markdown, display

    if text:
        display(Markdown(text))
