"""The chapter on what holds: the paper's five claims, the test of each, and its verdict.

The tests of C3 and C4 were written before the runs that decide them. Those of C1, C2 and C5 were
written after the numbers were known; `Claim.seen` says what was known. A verdict is a pure
function of records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D

from unlearnlib.book.cost import CLAIMED_RATIO, KINDS, RELEASE_LENGTH, Retraining, cost_ratios
from unlearnlib.book.drawing import draw_seeds, method_panels, range_in_words
from unlearnlib.book.records import (
    FORGET,
    Finding,
    Recorded,
    baseline_value,
    domains_of,
    methods_of,
    select,
    value,
    within_factor,
)
from unlearnlib.book.robust_region import NEAR_TRUTH, USABLE, Share, region_shares
from unlearnlib.book.target_check import TARGET_WITHIN, early_stops
from unlearnlib.cost import YI_6B, YI_6B_TOKENS, Account
from unlearnlib.figures import DescribedFigure, Layout, add_legend, checked, figure_function
from unlearnlib.looks import BASELINE_STYLES, INK, domain_title, method_style, method_title
from unlearnlib.profiles import COMPARED, DOMAINS, PAPER_METHODS
from unlearnlib.store.record import Record
from unlearnlib.text import number
from unlearnlib.tuning_rule import TOLERATED_RISE

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.study.searches import Search

NEAR_BEST = 1.10  # tuning may end this factor of distance from the best grid point
RUNS_ALLOWED = 8


HALF_WAY = 0.5  # of the way from vanilla's forget perplexity to the oracle's, in the logarithm
SEEDS = 3  # of the study main
GRID = 7 * 8  # settings of the study robust_region per method and domain
# Documents to forget in the authors' data, where published; the books were not.
RELEASE_FORGET = {"arxiv": 500, "github": 2000}

HOLDS, IN_PART, NOT_HERE, UNDECIDED = (
    "holds",
    "holds in part",
    "does not hold here",
    "not decided",
)


@dataclass(frozen=True)
class Claim:
    """What the paper says, and how it is tested here.

    test    what decides between "holds", "holds in part" and "does not hold here"
    seen    what was known of the numbers when the test was written
    reach   what the lab's small model can and cannot say of one of billions of parameters
    """

    name: str
    says: str
    test: str
    seen: str
    reach: str


CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim(
            "C1",
            "One framework holds seven methods, and they are evaluated on three domains.",
            "Every method is a forget term plus a weighted retain term of shared code, and at its "
            "chosen setting takes forget perplexity at least half of the way, in the logarithm, "
            "from vanilla's to the oracle's, without diverging, on every domain and seed of the "
            "study main. In part: some methods do on every domain.",
            "The study main had been run.",
            "That the methods run is independent of size; how far they get is not.",
        ),
        Claim(
            "C2",
            "Unlearning takes less than 1/10⁵ of the compute of retraining.",
            "By account, one pass over the forget set at the release's setting on Yi-6B is at "
            "least 10⁵ times cheaper than its pre-training for every kind of method and every "
            "domain whose size is known. In part: for some.",
            "The account had been made. In the lab the ratio is measured, and cannot be 10⁵ with "
            "so small a training set.",
            "The account is about the large model. The lab counts in the same way and has seconds "
            "beside it; with so small a training set its ratio says nothing about the large one.",
        ),
        Claim(
            "C3",
            "Gradient ascent with gradient descent on in-distribution data is robust to "
            "hyperparameters.",
            f"Over a common grid of 7 learning rates (1e-5 to 1e-2, even in the logarithm) and 8 "
            f"numbers of updates (3 to 24), a setting is usable if forget perplexity lies within "
            f"a factor {NEAR_TRUTH} of the oracle's and general perplexity rises by at most "
            f"{(TOLERATED_RISE - 1):.0%}. Holds if this method has more usable settings than "
            "ascent alone in every domain; in part: in some.",
            "A coarser study of learning rates at 12 updates had been run: there it had 2 of 18 "
            "usable settings and ascent 1, and ascent broke at lower rates.",
            "The shape of the region depends on the model. The counts are of a handful of "
            "settings: one more or less changes the verdict.",
        ),
        Claim(
            "C4",
            "There are guidelines that make tuning efficient.",
            f"The procedure of `unlearn tune` ends within {(NEAR_BEST - 1):.0%} of the best grid "
            f"point's distance to the target in at most {RUNS_ALLOWED} runs, on every domain and "
            "seed held out from its design; in part: on some.",
            "Nothing: the procedure had not been written.",
            "The procedure is tested as it would be used; the numbers in it may shift with size.",
        ),
        Claim(
            "C5",
            "The approximate set stands in for retraining: vanilla's score on it is what a "
            "retrained model would score on the forget set.",
            f"Vanilla's perplexity on the approximate set is within a factor {TARGET_WITHIN} of "
            "the oracle's on the forget set in every domain, and so are the accuracies; in part: "
            "in some. Beside it, how many updates too early or too late the target stops.",
            "The perplexities had been seen: within 5 % of each other.",
            "The lab's splits are random, which is the best case; published texts seldom are.",
        ),
    )
}


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim.

    verdict   `HOLDS`, `IN_PART`, `NOT_HERE`, or `UNDECIDED` if records are missing
    numbers   what it rests on, by name
    sentence  the same in words, made from the numbers
    """

    claim: Claim
    verdict: str
    sentence: str
    numbers: dict[str, Finding] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What the claims are judged by.

    main, region, trajectory  records of the studies main, robust_region and trajectory
    baselines                 vanilla's and the oracle's scores
    retraining                domain -> what the oracle took (the measured side of C2)
    tuning                    (domain, seed) -> (distance to the target at the end of `unlearn
                              tune` ÷ that of the best grid point, runs it took)
    """

    main: Sequence[Record] = ()
    baselines: Sequence[Record] = ()
    region: Sequence[Record] = ()
    trajectory: Sequence[Record] = ()
    retraining: Mapping[str, Retraining] = field(default_factory=dict)
    tuning: Mapping[tuple[str, int], tuple[float, int]] = field(default_factory=dict)


def verdicts(
    found: Evidence,
    domains: Sequence[str] = DOMAINS,
    *,
    seeds: int = SEEDS,
    settings: int = GRID,
) -> dict[str, Verdict]:
    """The verdict on every claim, by its name.

    domains   those that the claims are tested on; each must have its records
    seeds     runs per method and domain that C1 needs
    settings  settings per method and domain that C3 needs

    With fewer seeds than `SEEDS` or settings than `GRID` it is another, weaker test.
    """
    return {
        "C1": _one_framework(found.main, found.baselines, domains, seeds),
        "C2": _cheap(found.main, found.retraining),
        "C3": _robust(found.region, found.baselines, domains, settings),
        "C4": _tuned(found.tuning),
        "C5": _target(found.baselines, found.trajectory, domains),
    }


def verdicts_at_hand(profile: str = "lab", domains: Sequence[str] = DOMAINS) -> dict[str, Verdict]:
    """The verdicts from the records of a profile that are published or in the local store."""
    from unlearnlib.book.guidelines import load_searches
    from unlearnlib.study.records import at_hand

    main, region, trajectory = (
        at_hand(name, profile, domains) for name in ("main", "robust_region", "trajectory")
    )
    return verdicts_of(main, region, trajectory, load_searches(profile), profile, domains)


def verdicts_of(
    main: Recorded,
    region: Recorded,
    trajectory: Recorded,
    searches: Iterable[Search],
    profile: str,
    domains: Sequence[str],
) -> dict[str, Verdict]:
    """The verdicts from the records of three studies and from searches of `unlearn tune`."""
    from unlearnlib.book.cost import lab_retraining
    from unlearnlib.book.guidelines import held_out, judged

    found = Evidence(
        main.records,
        main.baselines,
        region.records,
        trajectory.records,
        lab_retraining(domains) if profile == "lab" else {},
        held_out(judged(searches, region.records)),
    )
    return verdicts(found, domains)


def graded(passed: int, of: int) -> str:
    """`HOLDS` for all, `IN_PART` for some, `NOT_HERE` for none."""
    return HOLDS if passed == of else IN_PART if passed else NOT_HERE


def _undecided(name: str, lacking: str) -> Verdict:
    return Verdict(CLAIMS[name], UNDECIDED, f"Not decided: {lacking}.")


def _titles(domains: Iterable[str]) -> str:
    return ", ".join(map(domain_title, domains))


def share_of_way(record: Record, baselines: Iterable[Record]) -> float:
    """Which share of the way from vanilla's forget perplexity to the oracle's a run has gone.

    In the logarithm: 0 is vanilla, 1 the oracle, above 1 too far. NaN without either.
    """
    baselines = list(baselines)
    ends = [
        baseline_value(baselines, record.spec["domain"], which, FORGET, [record])
        for which in ("vanilla", "oracle")
    ]
    x = value(record, FORGET)
    if not all(0 < v < math.inf for v in ends) or ends[0] == ends[1] or math.isnan(x) or x <= 0:
        return math.nan
    if math.isinf(x):
        return math.inf
    return math.log(x / ends[0]) / math.log(ends[1] / ends[0])


def _one_framework(
    main: Sequence[Record], baselines: Sequence[Record], domains: Sequence[str], seeds: int
) -> Verdict:
    for domain in domains:
        for method in PAPER_METHODS:
            runs = select(main, domain, method)
            if len(runs) < seeds:
                return _undecided(
                    "C1",
                    f"{method_title(method)} has {len(runs)} of {seeds} runs on "
                    f"{domain_title(domain)}",
                )
        if math.isnan(baseline_value(baselines, domain, "oracle", FORGET, main)):
            return _undecided("C1", f"{domain_title(domain)} has no oracle")
    shares = {
        method: [(share_of_way(r, baselines), r) for d in domains for r in select(main, d, method)]
        for method in PAPER_METHODS
    }
    arrived = [
        method
        for method, runs in shares.items()
        if all(share >= HALF_WAY and r.status == "done" for share, r in runs)
    ]
    every = [(share, r) for runs in shares.values() for share, r in runs]
    known = [(share, r) for share, r in every if not math.isnan(share)]
    diverged = sum(r.status == "diverged" for _, r in every)
    numbers: dict[str, Finding] = {
        "methods": len(shares),
        "arrived": len(arrived),
        "runs": len(every),
        "diverged": diverged,
    }
    sentence = (
        f"{len(arrived)} of {len(shares)} methods go at least half of the way from vanilla to the "
        f"oracle, without diverging, in every run on {_titles(domains)} ({len(every)} runs, "
        f"{diverged} diverged)."
    )
    if known:
        (least, short), (most, far) = (f(known, key=lambda pair: pair[0]) for f in (min, max))
        numbers |= {"least": least, "most": most}
        sentence += (
            f" The shortest way is {number(least)} of it ({_name(short)}), the longest "
            f"{number(most)} ({_name(far)})."
        )
    short_of = [method_title(m) for m in shares if m not in arrived]
    if short_of:
        sentence += f" Short of it at least once: {', '.join(short_of)}."
    return Verdict(CLAIMS["C1"], graded(len(arrived), len(shares)), sentence, numbers)


def _name(record: Record) -> str:
    spec = record.spec
    title = method_title(spec["method"])
    return f"{title} on {domain_title(spec['domain'])}, seed {spec['seed']}"


def one_pass() -> dict[tuple[str, str], float]:
    """(domain, kind) -> how many times cheaper one pass over the forget set is than pre-training.

    By account, on Yi-6B, one chunk of the release's full length to each document. How many chunks
    the documents have is not published with their number; the ratio falls as theirs rises.
    """
    return {
        (domain, kind): Account(
            YI_6B.active_parameters(), documents, RELEASE_LENGTH, 1, YI_6B_TOKENS
        ).ratio
        / passes
        for domain, documents in RELEASE_FORGET.items()
        for kind, passes in KINDS.items()
    }


def _cheap(main: Sequence[Record], retraining: Mapping[str, Retraining]) -> Verdict:
    ratios = one_pass()
    passed = sum(ratio >= CLAIMED_RATIO for ratio in ratios.values())
    (low_domain, low_kind), low = min(ratios.items(), key=lambda item: item[1])
    high = max(ratios.values())
    numbers: dict[str, Finding] = {"least": low, "most": high, "passed": passed, "of": len(ratios)}
    numbers["chunks_allowed"] = low / CLAIMED_RATIO
    sentence = (
        f"By account one pass is {number(low)} ({domain_title(low_domain)}, {low_kind}) to "
        f"{number(high)} times cheaper; {passed} of {len(ratios)} kinds and domains reach 10⁵. "
        f"That is with one chunk of {RELEASE_LENGTH:,} tokens to a document; the dearest stays "
        f"above 10⁵ up to {number(low / CLAIMED_RATIO)} chunks to a document."
    )
    measured = [x for r in cost_ratios(main, retraining).values() for x in r.flops]
    if measured:
        numbers |= {"measured_least": min(measured), "measured_most": max(measured)}
        sentence += (
            f" In the lab, with its small training set, {number(min(measured))} to "
            f"{number(max(measured))} times are counted."
        )
    return Verdict(CLAIMS["C2"], graded(passed, len(ratios)), sentence, numbers)


def _robust(
    region: Sequence[Record], baselines: Sequence[Record], domains: Sequence[str], settings: int
) -> Verdict:
    shares = region_shares(region, baselines, USABLE)
    pair = COMPARED[::-1]
    for domain in domains:
        for method in pair:
            measured = shares.get((domain, method), Share(0, 0)).settings
            if measured < settings:
                return _undecided(
                    "C3",
                    f"{method_title(method)} has {measured} of {settings} settings measured "
                    f"against an oracle on {domain_title(domain)}",
                )
    numbers: dict[str, Finding] = {}
    parts, wider, fewer, apart = [], 0, 0, 0
    for domain in domains:
        ours, alone = (shares[domain, method] for method in pair)
        wider += ours.usable > alone.usable
        fewer += ours.usable < alone.usable
        apart += ours.interval[0] > alone.interval[1]
        for method in pair:
            numbers[f"{domain}.{method}"] = shares[domain, method].usable
        most = max(s.usable for (d, _), s in shares.items() if d == domain)
        best = [
            method_title(m)
            for m in PAPER_METHODS
            if (domain, m) in shares and shares[domain, m].usable == most
        ]
        leaders = f"most: {' and '.join(best)}, {most}" if most else "no method has any"
        parts.append(f"{domain_title(domain)} {ours} against {alone} ({leaders})")
    numbers |= {
        "domains": len(domains),
        "wider": wider,
        "fewer": fewer,
        "intervals_apart": apart,
    }
    sentence = (
        f"Usable settings of {method_title(pair[0])} against {method_title(pair[1])}: "
        f"{'; '.join(parts)}. More in {wider} of {len(domains)} domain{'s' * (len(domains) != 1)}, "
        f"fewer in {fewer}, as many in {len(domains) - wider - fewer}; the 95 % intervals are "
        f"apart in {apart}"
    )
    dependent = any(record.spec.get("probe_every") for record in region)
    sentence += "; cells of one run are dependent, so the intervals are too narrow." * dependent
    sentence += "." * (not dependent)
    return Verdict(CLAIMS["C3"], graded(wider, len(domains)), sentence, numbers)


def _tuned(tuning: Mapping[tuple[str, int], tuple[float, int]]) -> Verdict:
    if not tuning:
        return _undecided("C4", "no tuning on held-out domains and seeds is recorded")
    passed = sum(
        excess <= NEAR_BEST * (1 + 1e-12) and runs <= RUNS_ALLOWED
        for excess, runs in tuning.values()
    )
    worst_excess = max(excess for excess, _ in tuning.values())
    most_runs = max(runs for _, runs in tuning.values())
    numbers: dict[str, Finding] = {
        "cases": len(tuning),
        "passed": passed,
        "worst_excess": worst_excess,
        "most_runs": most_runs,
    }
    sentence = (
        f"{passed} of {len(tuning)} held-out pairs of domain and seed end within "
        f"{(NEAR_BEST - 1):.0%} of the best grid point’s distance in at most {RUNS_ALLOWED} runs; "
        f"the worst ends at {number(worst_excess)} times that distance, the longest takes "
        f"{most_runs} runs."
    )
    return Verdict(CLAIMS["C4"], graded(passed, len(tuning)), sentence, numbers)


def _target(
    baselines: Sequence[Record], trajectory: Sequence[Record], domains: Sequence[str]
) -> Verdict:
    numbers: dict[str, Finding] = {}
    parts, passed = [], 0
    for domain in domains:
        ratios = {}
        for measure in ("perplexity", "accuracy"):
            target, truth = (
                baseline_value(baselines, domain, which, f"forget/{measure}", trajectory)
                for which in ("target", "oracle")
            )
            ratios[measure] = target / truth if truth else math.nan
            if math.isnan(ratios[measure]):
                return _undecided("C5", f"{domain_title(domain)} lacks vanilla’s or the oracle’s")
            numbers[f"{domain}.{measure}"] = ratios[measure]
        passed += all(within_factor(ratio, 1.0, TARGET_WITHIN) for ratio in ratios.values())
        parts.append(
            f"{domain_title(domain)} {number(ratios['perplexity'])} in perplexity and "
            f"{number(ratios['accuracy'])} in accuracy"
        )
    sentence = (
        f"Target ÷ truth: {'; '.join(parts)}. Both are within a factor {TARGET_WITHIN:g} in "
        f"{passed} of {len(domains)} domain{'s' * (len(domains) != 1)}."
    )
    found = [s.late for s in early_stops(trajectory, baselines) if s.domain in domains]
    late = [x for x in found if math.isfinite(x)]
    numbers |= {"passed": passed, "domains": len(domains), "stopped": len(late)}
    if late:
        numbers |= {"earliest": min(late), "latest": max(late)}
        sentence += (
            f" Of {len(found)} runs that were probed after every update, {len(late)} are stopped "
            f"by both: {sum(x < 0 for x in late)} too early and {sum(x > 0 for x in late)} too "
            f"late by the target, by at most {number(max(map(abs, late)))} updates."
        )
    return Verdict(CLAIMS["C5"], graded(passed, len(domains)), sentence, numbers)


def verdict_table(found: Mapping[str, Verdict]) -> pd.DataFrame:
    """Per claim: what the paper says, the verdict, and the numbers in words."""
    import pandas as pd

    rows = [(v.claim.says, v.verdict, v.sentence) for v in found.values()]
    index = pd.Index(list(found), name="")
    return pd.DataFrame(rows, index=index, columns=["The paper claims", "Verdict", "Measured here"])


def verdict_in_words(verdict: Verdict) -> str:
    """Claim, test, verdict and reach as Markdown paragraphs."""
    claim = verdict.claim
    sentence = f" {verdict.sentence}"
    if verdict.verdict == UNDECIDED:  # the verdict has been named just before
        lacking = verdict.sentence.removeprefix("Not decided: ")
        sentence = f" {lacking[0].upper()}{lacking[1:]}"
    return "\n\n".join(
        (
            f"**The claim.** {claim.says}",
            f"**The test.** {claim.test}",
            f"**What was known when the test was written.** {claim.seen}",
            f"**Verdict: {verdict.verdict}.**{sentence}",
            f"**How far it reaches.** {claim.reach}",
        )
    )


@figure_function
def share_of_the_way(
    records: Iterable[Record], baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Share of the way from vanilla's to the oracle's forget perplexity; a dot per seed."""
    records, baselines = checked(records, "this figure"), list(baselines)
    layout, domains, methods = Layout(narrow), domains_of(records), methods_of(records)
    figure, panels = method_panels(
        layout,
        domains,
        methods,
        "share of the way from vanilla to oracle",
        row_height=0.28,
        extra=0.35,
    )
    found = {
        (d, m): [share_of_way(r, baselines) for r in select(records, d, m)]
        for d in domains
        for m in methods
    }
    finite = [x for xs in found.values() for x in xs if math.isfinite(x)]
    # One run that went very far must not squeeze all others together.
    right = min(max([1.2, *finite]), 3.0) + 0.1
    left = max(min([0.0, *finite]), -1.0) - 0.05
    alt = ["Share of the way from vanilla to the oracle in log forget perplexity."]
    for ax, domain in panels:
        ax.set_xlim(left, right)
        ax.axvline(HALF_WAY, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        ax.axvline(0.0, **BASELINE_STYLES["vanilla"])
        ax.axvline(1.0, **BASELINE_STYLES["oracle"])
        said = []
        for row, method in enumerate(methods):
            xs = found[domain, method]
            draw_seeds(ax, xs, row, method_style(method)["color"])
            if reached := range_in_words(xs):
                diverged = any(r.status == "diverged" for r in select(records, domain, method))
                note = " (diverged)" if diverged else ""
                said.append(f"{method_title(method)} {reached}{note}")
        alt.append(f"{domain_title(domain)}: {', '.join(said) or 'no value'}.")
    half = Line2D([], [], color=INK, linewidth=1, linestyle=(0, (2, 2)), label="half way")
    add_legend(figure, layout, lines=("vanilla", "oracle"), extra=[half])
    figure.alt = " ".join(alt)
    return figure
