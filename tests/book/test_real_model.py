"""What the records of a published model say of the claims, and which vanilla they start from."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import synthetic
from synthetic import scored

from unlearnlib.book import guidelines, real_model, what_holds
from unlearnlib.book.real_model import two_models
from unlearnlib.book.records import (
    FORGET,
    GENERAL,
    KL,
    baseline_value,
    methods_of,
    select,
)
from unlearnlib.cost import SMOLLM2_135M, SMOLLM2_135M_TOKENS
from unlearnlib.looks import domain_title, method_title
from unlearnlib.spec import COMPARED, DOMAINS, PAPER_METHODS, get_profile
from unlearnlib.store import Record
from unlearnlib.study import STUDIES, StudyResult
from unlearnlib.text import number
from unlearnlib.trained import read_record
from unlearnlib.tuning_rule import Situation, Step

BASELINES = [r for r in synthetic.baselines() if r.spec["domain"] == "books"]

MAIN = [synthetic.run("books", method) for method in PAPER_METHODS]

GRID = get_profile("open_cpu").region


def level(which: str, metric: str = FORGET) -> float:
    return baseline_value(BASELINES, "books", which, metric)


def at(record: Record, forget: float, general: float = 1.0) -> Record:
    """The run as it would be with this share of the oracle's and of vanilla's perplexity."""
    told = {FORGET: forget * level("oracle"), GENERAL: general * level("vanilla", GENERAL)}
    return dataclasses.replace(
        record, metrics={**record.metrics, **told}, status="done", diverged_at=None
    )


def region(usable: dict[str, int]) -> list[Record]:
    """The grid of `open_cpu`, of each method so many usable settings: those of the lowest rates."""
    return [
        at(synthetic.run("books", spec.method, spec.seed, spec.learning_rate, updates=6), near)
        for method, count in usable.items()
        for order, spec in enumerate(
            s for s in STUDIES["robust_region"].runs("open_cpu", "books") if s.method == method
        )
        for near in [1.0 if order < count else 10.0]
    ]


def result(records: list[Record], baselines: list[Record] = BASELINES) -> StudyResult:
    return StudyResult(records, baselines, 0)


def here(records: list[Record], **more: object) -> dict[str, what_holds.Verdict]:
    given = {"main": result(MAIN), "searches": (), "profiles": ("open_cpu",), **more}
    return real_model.claims_here(region=result(records), **given)  # type: ignore[arg-type]


def test_the_region_of_a_cpu_has_one_setting_per_rate_and_the_methods_of_the_claim() -> None:
    specs = STUDIES["robust_region"].runs("open_cpu", "books")
    assert [s.method for s in specs] == [m for m in COMPARED for _ in GRID.rates]
    assert (
        GRID.settings == len(GRID.rates) and get_profile("lab").region.settings == what_holds.GRID
    )
    steps = [b / a for a, b in zip(GRID.rates, GRID.rates[1:], strict=False)]
    assert max(steps) / min(steps) < 1.02  # even in the logarithm
    shared = {s.learning_rate for s in STUDIES["rates"].runs("open_cpu", "books")}
    assert shared <= set(GRID.rates)


@pytest.mark.parametrize(
    ("plain", "retained", "expected"),
    [(1, 3, what_holds.HOLDS), (2, 2, what_holds.NOT_HERE), (3, 1, what_holds.NOT_HERE)],
)
def test_robustness_is_decided_by_the_settings_that_the_profile_has(
    plain: int, retained: int, expected: str
) -> None:
    records = region({"ga": plain, "ga_gd_in_dist": retained})
    found = here(records)["C3"]
    assert found.verdict == expected
    assert found.numbers["books.ga"] == plain and found.numbers["books.ga_gd_in_dist"] == retained
    assert "dependent" not in found.sentence  # each setting is a run of its own
    assert here(records[1:])["C3"].verdict == what_holds.UNDECIDED


def test_one_seed_is_enough_for_a_profile_of_one_seed() -> None:
    assert here([])["C1"].verdict != what_holds.UNDECIDED
    assert here([], main=result(MAIN[1:]))["C1"].verdict == what_holds.UNDECIDED
    assert (
        what_holds.verdicts(what_holds.Evidence(MAIN, BASELINES), ("books",))["C1"].verdict
        == what_holds.UNDECIDED
    )


def test_the_target_is_judged_by_the_baselines_of_the_main_study() -> None:
    found = here([])["C5"]
    assert found.numbers["books.perplexity"] == level("target") / level("oracle")


def test_what_was_run_on_every_domain_is_judged_on_every_domain() -> None:
    every = result(
        [r for r in synthetic.main_study() if r.spec["seed"] == 0], synthetic.baselines()
    )
    found = here(region({"ga": 1, "ga_gd_in_dist": 3}), main=every, profiles=real_model.SMALL)
    assert found["C1"].numbers["runs"] == len(PAPER_METHODS) * len(DOMAINS)
    assert found["C5"].numbers["domains"] == len(DOMAINS)
    assert found["C3"].numbers["domains"] == 1  # the grid was run on books alone
    shared = [synthetic.run("github", "ga", learning_rate=GRID.rates[1], updates=6)]
    begun = [*region({"ga": 1, "ga_gd_in_dist": 3}), *shared]
    found = here(begun, main=every, profiles=real_model.SMALL)
    assert found["C3"].numbers["domains"] == 1  # one run of a grid is no grid
    assert (
        here([], profiles=real_model.SMALL)["C1"].verdict == what_holds.UNDECIDED
    )  # no other domain


def test_the_profiles_at_hand_have_each_domain_once_and_one_choice_of_settings() -> None:
    assert real_model.family("open") == ("open",) and set(real_model.SMALL) > {"open_cpu"}
    scales = [get_profile(name) for name in real_model.SMALL]
    assert sorted(d for s in scales for d in s.domains) == sorted(DOMAINS)
    chosen = {
        (spec.method, spec.learning_rate)
        for name, scale in zip(real_model.SMALL, scales, strict=True)
        for spec in STUDIES["main"].runs(name, scale.domains[0])
    }
    assert len(chosen) == len(PAPER_METHODS)


def scaled(records: list[Record], order: list[str], metric: str) -> list[Record]:
    """Records whose metric grows in this order of the methods, and nothing else changes."""
    return [
        dataclasses.replace(r, metrics={**r.metrics, metric: 1.0 + order.index(r.spec["method"])})
        for r in records
    ]


def test_orders_of_methods_are_compared_between_domains_and_between_models() -> None:
    order = list(PAPER_METHODS)
    runs = {
        domain: [synthetic.run(domain, method) for method in PAPER_METHODS]
        for domain in ("github", "books")
    }
    baselines = synthetic.baselines()
    up = scaled(runs["books"], order, GENERAL), scaled(runs["github"], order, GENERAL)
    down = scaled(runs["books"], order[::-1], GENERAL), scaled(runs["github"], order, GENERAL)
    sides = {"one": ([*up[0], *up[1]], baselines), "two": ([*down[0], *down[1]], baselines)}
    found = real_model.agreements(sides, ("github", "books"))
    rho = {(a.one, a.other): a.rho for a in found if a.metric == GENERAL}
    assert rho == pytest.approx(
        {
            (("one", "github"), ("one", "books")): 1.0,
            (("one", "github"), ("two", "github")): 1.0,
            (("one", "books"), ("two", "books")): -1.0,
            (("two", "github"), ("two", "books")): -1.0,
        }
    )
    table = real_model.agreement_table(found)
    assert len(table) == len(rho)
    assert table.loc["One and two: Books", "general perplexity"] == "−1.0 (0.04%)"
    words = real_model.agreement_in_words(found)
    assert "−1.0 to 1.0 between one and two on one domain" in words
    assert "1.0 between domains of one" in words
    assert real_model.agreement_in_words([]) == ""


def test_a_search_is_judged_by_the_grid_of_the_profile() -> None:
    records = region({"ga": 0, "ga_gd_in_dist": 1})
    situation = Situation(2.0, level("target"), level("vanilla", GENERAL), 6)
    step = Step(1e-4, 1.0, (2.0, level("oracle")), 1, situation.general, "first")
    search = guidelines.Search(
        "books", 200, "ga_gd_in_dist", False, situation, (step,), 0, "it is near", {}, {}
    )
    judged = guidelines.judged([search], records)
    assert [row.points for row in judged] == [GRID.settings]
    found = here(records, searches=judged)["C4"]
    assert found.numbers["cases"] == 1 and found.verdict == what_holds.HOLDS
    assert here(records)["C4"].verdict == what_holds.UNDECIDED


def test_the_published_records_decide_every_claim_that_needs_no_search() -> None:
    found = real_model.claims_at_hand()
    assert list(found) == list(what_holds.CLAIMS)
    decided = {name for name, v in found.items() if v.verdict != what_holds.UNDECIDED}
    assert decided >= {"C1", "C2", "C3", "C5"}


def test_the_cost_is_held_against_the_models_own_pretraining() -> None:
    whole = 6 * SMOLLM2_135M.active_parameters() * SMOLLM2_135M_TOKENS
    cheap, dear = (
        dataclasses.replace(MAIN[0], extra={"flops": whole / ratio}) for ratio in (4e6, 2e4)
    )
    found = real_model.cheaper_than_pretraining([cheap, dear])
    assert found.verdict == what_holds.IN_PART
    assert found.numbers["least"] == pytest.approx(2e4)
    assert found.numbers["most"] == pytest.approx(4e6)
    assert real_model.cheaper_than_pretraining([cheap]).verdict == what_holds.HOLDS
    assert real_model.cheaper_than_pretraining([]).verdict == what_holds.UNDECIDED


def test_the_table_has_both_verdicts_of_every_claim() -> None:
    lab = what_holds.verdicts(what_holds.Evidence())
    table = real_model.claims_table(lab, here([]))
    assert list(table.index) == list(what_holds.CLAIMS)
    assert table.loc["C2", "In the lab"] == lab["C2"].verdict
    assert table.loc["C1", "On SmolLM2"] == here([])["C1"].verdict


def test_words_name_the_usable_rates_and_a_vanilla_that_was_trained_anew() -> None:
    records = region({"ga": 1, "ga_gd_in_dist": 2})
    words = real_model.region_in_words(result(records), result(MAIN), "books")
    assert f"{method_title('ga')} 1 of 4 (2.7e-05)" in words
    assert f"{method_title('ga_gd_in_dist')} 2 of 4 (2.7e-05, 4e-05)" in words
    assert "anew" not in words

    def moved(record: Record) -> Record:
        metrics = {**record.metrics, FORGET: 1.5 * record.metrics[FORGET]}
        place = {**record.provenance, "processor": "another make"}
        return dataclasses.replace(record, model_hash="f" * 64, metrics=metrics, provenance=place)

    full = region({"ga": 4, "ga_gd_in_dist": 0})
    words = real_model.region_in_words(result(full), result([]), "books")
    assert f"{method_title('ga')} 4 of 4 (all, so that its limits" in words
    anew = result([moved(r) for r in records], [moved(b) for b in BASELINES])
    told = real_model.region_in_words(anew, result(MAIN), "books")
    assert "trained anew" in told and "another make" in told and "had been run" not in told
    told = real_model.region_in_words(anew, result(records), "books")
    assert f"{len(records)} of the settings had been run" in told and "by at most 50 %" in told
    assert number(1.5 * level("vanilla"), 5) in told and math.isfinite(level("vanilla"))


def test_methods_are_compared_where_they_have_forgotten_alike() -> None:
    ends = {"ga": (0.5, 0.8, 1.25, 9.0), "ga_gd_in_dist": (0.5, 0.6, 0.7, 0.9)}
    records = [
        at(run, near, general=near**0.5)
        for method, shares in ends.items()
        for run, near in zip(region({method: 4}), shares, strict=True)
    ]
    found = real_model.matched_rates(result(records), "books")
    assert set(found) == {"ga"}  # the other never gets there
    # Half of the way in the logarithm, from one rate to the next.
    assert found["ga"].learning_rate == pytest.approx(math.sqrt(GRID.rates[1] * GRID.rates[2]))
    assert found["ga"].general == pytest.approx(1.0)
    ends_of = [r.metrics["oracle_kl/forget"] for r in records[1:3]]
    assert found["ga"].distance == pytest.approx(sum(ends_of) / 2)
    words = real_model.matched_rates_in_words(result(records), "books")
    assert f"{method_title('ga')} at a rate of" in words
    broken = [dataclasses.replace(r, status="diverged", diverged_at=1) for r in records]
    assert real_model.matched_rates(result(broken), "books") == {}
    assert real_model.matched_rates_in_words(result(broken), "books") == ""


ROOT = Path(__file__).resolve().parents[2]


def test_two_models_are_compared_method_by_method() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    table = real_model.compared(runs, base, runs, base, ("github", "books"))
    assert list(table.index) == [
        (domain_title(domain), method_title(m))
        for domain in ("github", "books")
        for m in methods_of(runs)
    ]
    for metric in ("forget perplexity", "general perplexity", "KL to the oracle"):
        assert (table[metric, "lab"] == table[metric, "SmolLM2"]).all()
    words = real_model.compared_in_words(runs, base, runs, base, "books")
    assert "ρ = 1.0" in words and "times the truth" in words
    sides = {"in the lab": (runs, base), "on SmolLM2": (runs, base)}
    plate = two_models(sides, ("github", "books"))
    assert len(plate.axes) == 4  # two metrics to a domain
    assert all(f"{domain_title(d)}, general perplexity" in plate.alt for d in ("github", "books"))
    sides["on SmolLM2"] = (select(runs, "books"), base)
    assert len(two_models(sides, ("github", "books")).axes) == 2


def test_the_nearest_run_is_found_and_measured_against_vanilla() -> None:
    runs, base = synthetic.main_study(), synthetic.baselines()
    of = [r for r in runs if r.spec["domain"] == "books"]
    best = min(of, key=lambda r: r.metrics[KL])
    words = real_model.nearest_in_words(runs, base, "books")
    assert f"Of all {len(of)} runs" in words and number(best.metrics[KL]) in words
    assert (
        real_model.nearest_in_words(runs, [], "books")
        == ""
        == real_model.nearest_in_words([], base, "books")
    )


def test_opposite_rankings_correlate_negatively() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    # Of the 6 orders of three, one runs along and one runs against.
    assert real_model.rank_correlation(one, {"a": 3.0, "b": 2.0, "c": 1.0}) == pytest.approx(
        (-1, 2 / 6)
    )
    assert all(map(math.isnan, real_model.rank_correlation(one, {"a": 1.0, "b": 2.0})))


def test_chance_is_the_share_of_orders_that_correlate_as_much() -> None:
    one = {name: float(place) for place, name in enumerate("abcde")}
    other = {"a": 1.0, "b": 0.0, "c": 2.0, "d": 3.0, "e": 4.0}
    rho, chance = real_model.rank_correlation(one, other)
    assert rho == pytest.approx(0.9)
    assert chance == pytest.approx(2 * (1 + 4) / 120)  # itself, four neighbours, and the reverses
    assert all(map(math.isnan, real_model.rank_correlation(one, dict.fromkeys(one, 1.0))))


def test_chance_is_what_it_was_before_scipy_computed_it() -> None:
    """With ties, for which the orders are not symmetric: the numbers of this book's own code."""
    one = {name: float(place) for place, name in enumerate("abcdefg")}
    for values, rho, chance in (
        ((3.0, 1.0, 2.0, 7.0, 5.0, 6.0, 4.0), 0.5714285714285714, 1008 / 5040),
        ((1.0, 1.0, 1.0, 2.0, 2.0, 0.0, 3.0), 0.39295262399668784, 1992 / 5040),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 0.6123724356957945, 1440 / 5040),
        ((2.0, 9.0, 4.0, 4.0, 1.0, 8.0, 3.0), -0.0900937462695559, 4328 / 5040),
    ):
        found = real_model.rank_correlation(one, dict(zip(one, values, strict=True)))
        assert found == pytest.approx((rho, chance), abs=1e-12)


def test_of_many_methods_chance_is_estimated_and_comes_out_alike_each_time() -> None:
    one = {str(place): float(place) for place in range(12)}
    other = {name: -x for name, x in one.items()}
    rho, chance = real_model.rank_correlation(one, other)
    assert rho == pytest.approx(-1) and 0 < chance < 1e-3
    assert real_model.rank_correlation(one, other) == (rho, chance)


def test_the_history_of_training_further_is_told_from_its_record() -> None:
    record = json.loads((ROOT / "data" / "continued" / "open_cpu-vanilla.json").read_text())
    table = real_model.history_table({"vanilla": record, "oracle-books": record})
    assert len(table) == 1 + 2 * record["epochs"]
    words = real_model.history_in_words(record)
    assert f"After {record['epochs']} epoch" in words and "0.820" in words


def test_the_page_says_which_weights_its_numbers_started_from() -> None:
    words = real_model.start_in_words(read_record("open_cpu", "vanilla"))
    assert "SmolLM2-135M-Instruct.Q4_1, GGUF (Q4_1, Q8_0, F32), expanded to float32" in words
    assert "not the weights of HuggingFaceTB/SmolLM2-135M on the hub" in words
    hub = {
        "profile": "open",
        "base_hash": "0" * 64,
        "base_weights": {"name": "SmolLM2-135M", "format": "safetensors, bfloat16"},
    }
    assert "not the weights" not in real_model.start_in_words(hub)


def test_what_the_protocol_says_of_a_published_model() -> None:
    some = [i / 30 for i in range(30)]
    before, kept = scored(None, some, some), scored("ga_gd_in_dist", some, some)
    over = scored("ga", [x - 2 for x in some], some)
    words = real_model.published_in_words([over, kept], [before], "books")
    assert "does not tell the forget set from texts held out" in words
    assert "Over-unlearning shows even so" in words and "after GA (0)" in words
    assert "there is none" in words and "off the target by more than a quarter" in words
    assert "After no method" in real_model.published_in_words([kept], [before], "books")
    seen = scored(None, [x + 2 for x in some], some)
    assert "nothing here can say which" in real_model.published_in_words([], [seen], "books")
    assert real_model.published_in_words([over], [], "books") == ""
    main = (synthetic.main_study(), synthetic.baselines())
    table = real_model.published_table([over, kept], [before], "books", main)
    assert table.index[0] == "as published" and len(table) == 3
    assert table.loc["GA", "forget perplexity, times"] == 3
    assert table.loc["GA", "the same on vanilla"] > 0
    assert math.isnan(table.loc["as published", "the same on vanilla"])
    assert table["AUC of the loss"].iloc[0].startswith("0.500 [")
    assert table["AUC of Min-40%"].iloc[0] == "–"
