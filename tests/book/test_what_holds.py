"""A verdict can come out either way, and follows from the records by the test that was fixed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import synthetic

from unlearnlib.book import what_holds
from unlearnlib.book.cost import KINDS, Retraining
from unlearnlib.book.records import FORGET, GENERAL, baseline_value
from unlearnlib.book.robust_region import NEAR_TRUTH, USABLE
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.study import MAIN_SEEDS, STUDIES
from unlearnlib.tuning_rule import TOLERATED_RISE

BASELINES = synthetic.baselines()

MAIN = synthetic.main_study()


def base(domain: str, which: str, metric: str = FORGET) -> float:
    return baseline_value(BASELINES, domain, which, metric)


def gone(record: Record, share: float) -> Record:
    """The run, having gone this share of the way from vanilla to the oracle."""
    ends = [base(record.spec["domain"], which) for which in ("vanilla", "oracle")]
    x = ends[0] * (ends[1] / ends[0]) ** share
    return replace(record, metrics={**record.metrics, FORGET: x}, status="done", diverged_at=None)


def region(domain: str, method: str, usable: int) -> list[Record]:
    """The grid of a method on a domain with so many usable settings: those of the lowest rates."""
    runs = []
    truth, vanilla = base(domain, "oracle"), base(domain, "vanilla", GENERAL)
    for spec in STUDIES["robust_region"].runs("lab", domain):
        if spec.method != method:
            continue
        run = synthetic.run(
            domain, method, spec.seed, spec.learning_rate, updates=24, probe_every=3
        )
        rows = []
        for update in range(3, 25, 3):
            near, usable = usable > 0, usable - 1
            forget = truth if near else 100 * truth
            rows.append({"update": update, FORGET: forget, GENERAL: vanilla})
        runs.append(replace(run, trajectory=rows, status="done", diverged_at=None))
    return runs


def verdict(name: str, **given: object) -> what_holds.Verdict:
    domains = given.pop("domains", DOMAINS)
    found = what_holds.Evidence(**{"main": MAIN, "baselines": BASELINES, **given})  # type: ignore[arg-type]
    return what_holds.verdicts(found, domains)[name]  # type: ignore[arg-type]


def test_the_numbers_of_the_tests_are_those_of_the_studies() -> None:
    assert len(MAIN_SEEDS) == what_holds.SEEDS
    grid = STUDIES["robust_region"].runs("lab", "books")
    cells = sum(s.updates // s.probe_every for s in grid if s.method == "ga")
    assert cells == what_holds.GRID
    assert (USABLE.near, USABLE.harmless) == (NEAR_TRUTH, TOLERATED_RISE)


def test_every_claim_gets_a_verdict_even_without_records() -> None:
    found = what_holds.verdicts(what_holds.Evidence())
    assert list(found) == list(what_holds.CLAIMS)
    undecided = {name for name, v in found.items() if v.verdict == what_holds.UNDECIDED}
    assert undecided == {"C1", "C3", "C4", "C5"}  # the account of C2 needs no run
    assert len(what_holds.verdict_table(found)) == 5
    for one in found.values():
        words = what_holds.verdict_in_words(one)
        assert one.claim.test in words and f"Verdict: {one.verdict}." in words


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ((), what_holds.HOLDS),
        (("ga",), what_holds.IN_PART),
        (tuple(PAPER_METHODS), what_holds.NOT_HERE),
    ],
)
def test_the_framework_holds_if_every_method_gets_half_way_in_every_run(
    short: tuple[str, ...], expected: str
) -> None:
    main = [
        gone(r, 0.49 if r.spec["method"] in short and r.spec["seed"] == 1 else 0.5001) for r in MAIN
    ]
    found = verdict("C1", main=main)
    assert found.verdict == expected
    assert found.numbers["arrived"] == len(PAPER_METHODS) - len(short)


def test_a_method_that_diverged_once_has_not_arrived() -> None:
    main = [gone(r, 1.0) for r in MAIN]
    main[0] = replace(main[0], status="diverged", diverged_at=1)
    found = verdict("C1", main=main)
    assert found.verdict == what_holds.IN_PART and found.numbers["diverged"] == 1


@pytest.mark.parametrize("x", [math.nan, 0.0])
def test_a_run_without_a_perplexity_has_gone_no_way(x: float) -> None:
    run = MAIN[0]
    assert math.isnan(what_holds.share_of_way(replace(run, metrics={FORGET: x}), BASELINES))
    main = [replace(run, metrics={FORGET: x}), *(gone(r, 1.0) for r in MAIN[1:])]
    assert verdict("C1", main=main).verdict == what_holds.IN_PART


def test_the_framework_is_undecided_while_a_seed_or_an_oracle_is_missing() -> None:
    assert verdict("C1", main=MAIN[1:]).verdict == what_holds.UNDECIDED
    vanilla = [b for b in BASELINES if b.spec["baseline"] == "vanilla"]
    assert verdict("C1", baselines=vanilla).verdict == what_holds.UNDECIDED


def test_the_account_of_one_pass_can_be_checked_by_hand() -> None:
    ratios = what_holds.one_pass()
    assert ratios["arxiv", "forget alone"] == pytest.approx(3e12 / (500 * 4096))
    assert ratios["github", "forget + descent"] == pytest.approx(3e12 / (2000 * 4096 * 2))
    assert set(ratios) == {(d, k) for d in ("arxiv", "github") for k in KINDS}


def test_cheapness_follows_the_account_and_could_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("C2").verdict == what_holds.HOLDS
    monkeypatch.setattr(what_holds, "RELEASE_FORGET", {"arxiv": 500, "github": 10_000})
    found = verdict("C2")
    assert found.verdict == what_holds.IN_PART and found.numbers["passed"] == 3
    monkeypatch.setattr(what_holds, "RELEASE_FORGET", {"github": 10_000})
    assert verdict("C2").verdict == what_holds.NOT_HERE


def test_what_the_lab_measured_stands_beside_the_account() -> None:
    again = {d: Retraining(5e6, 600.0, 1.2e6) for d in DOMAINS}
    found = verdict("C2", retraining=again)
    assert "are counted" in found.sentence and "measured_least" in found.numbers
    assert "measured_least" not in verdict("C2").numbers


@pytest.mark.parametrize(
    ("wins", "expected"),
    [
        (3, what_holds.HOLDS),
        (2, what_holds.IN_PART),
        (1, what_holds.IN_PART),
        (0, what_holds.NOT_HERE),
    ],
)
def test_robustness_needs_more_usable_settings_than_ascent_in_every_domain(
    wins: int, expected: str
) -> None:
    records = []
    for number, domain in enumerate(DOMAINS):
        records += region(domain, "ga", 4)
        records += region(domain, "ga_gd_in_dist", 5 if number < wins else 4)
    found = verdict("C3", region=records)
    assert found.verdict == expected
    assert found.numbers["wider"] == wins
    assert f"More in {wins} of 3 domains, fewer in 0, as many in {3 - wins}" in found.sentence


def test_robustness_also_counts_the_domains_where_ascent_has_more_usable_settings() -> None:
    records = []
    for domain, ours in zip(DOMAINS, (5, 4, 3), strict=True):
        records += region(domain, "ga", 4) + region(domain, "ga_gd_in_dist", ours)
    found = verdict("C3", region=records)
    assert "More in 1 of 3 domains, fewer in 1, as many in 1" in found.sentence
    assert (found.numbers["wider"], found.numbers["fewer"]) == (1, 1)


def test_robustness_is_undecided_while_settings_are_missing() -> None:
    records = [r for d in DOMAINS for m in ("ga", "ga_gd_in_dist") for r in region(d, m, 4)]
    assert verdict("C3", region=records).verdict == what_holds.NOT_HERE
    assert verdict("C3", region=records[:-1]).verdict == what_holds.UNDECIDED
    assert "48 of 56" in verdict("C3", region=records[:-1]).sentence
    one = verdict("C3", region=records[:14], domains=DOMAINS[:1])
    assert one.verdict == what_holds.NOT_HERE


def test_settings_lost_to_divergence_count_as_tried() -> None:
    records = [r for d in DOMAINS for m in ("ga", "ga_gd_in_dist") for r in region(d, m, 4)]
    broken = [
        replace(r, status="diverged", diverged_at=1, trajectory=[])
        if r.spec["method"] == "ga"
        else r
        for r in records
    ]
    assert verdict("C3", region=broken).verdict == what_holds.HOLDS


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        ({("books", 7): (1.10, 8), ("arxiv", 7): (0.9, 3)}, what_holds.HOLDS),
        ({("books", 7): (1.11, 8), ("arxiv", 7): (1.0, 3)}, what_holds.IN_PART),
        ({("books", 7): (1.0, 9), ("arxiv", 7): (math.nan, 3)}, what_holds.NOT_HERE),
        ({}, what_holds.UNDECIDED),
    ],
)
def test_tuning_must_end_near_the_best_in_few_runs(
    tuning: dict[tuple[str, int], tuple[float, int]], expected: str
) -> None:
    assert verdict("C4", tuning=tuning).verdict == expected


def test_the_target_must_be_near_in_perplexity_and_in_accuracy() -> None:
    exact = BASELINES
    for domain in DOMAINS:
        for metric in ("perplexity", "accuracy"):
            x = base(domain, "oracle", f"forget/{metric}")
            exact = [
                replace(b, metrics={**b.metrics, f"approximate/{metric}": 1.1 * x})
                if (b.spec["domain"], b.spec["baseline"]) == (domain, "vanilla")
                else b
                for b in exact
            ]
    assert verdict("C5", baselines=exact).verdict == what_holds.HOLDS
    for metric in ("perplexity", "accuracy"):
        far = [
            replace(b, metrics={**b.metrics, f"approximate/{metric}": 9.0})
            if (b.spec["domain"], b.spec["baseline"]) == ("books", "vanilla")
            else b
            for b in exact
        ]
        found = verdict("C5", baselines=far)
        assert found.verdict == what_holds.IN_PART and found.numbers["passed"] == 2


def test_the_target_fails_where_no_domain_is_near() -> None:
    far = [
        replace(b, metrics={**b.metrics, "approximate/perplexity": 900.0})
        if b.spec["baseline"] == "vanilla"
        else b
        for b in BASELINES
    ]
    assert verdict("C5", baselines=far).verdict == what_holds.NOT_HERE


def test_the_verdict_on_the_target_says_when_it_would_stop() -> None:
    found = verdict("C5", trajectory=synthetic.trajectory_study())
    assert "stopped by both" in found.sentence
    assert found.numbers["earliest"] <= found.numbers["latest"]


def test_a_domain_without_an_oracle_leaves_the_target_undecided() -> None:
    some = [b for b in BASELINES if b.spec != {**b.spec, "domain": "books", "baseline": "oracle"}]
    assert verdict("C5", baselines=some).verdict == what_holds.UNDECIDED
    assert verdict("C5", baselines=some, domains=("arxiv",)).verdict != what_holds.UNDECIDED
