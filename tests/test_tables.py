"""Tables and findings say what the records say: no more, and not less."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.book.cost import (
    KINDS,
    RELEASE_BATCH,
    Retraining,
    account_table,
    cost_in_words,
    cost_ratios,
    cost_table,
    release_accounts,
)
from unlearnlib.book.data import data_table, facts_table, overlap, trigram_table
from unlearnlib.book.exhibits import table_html
from unlearnlib.book.learning_rates import rates_table, usable
from unlearnlib.book.main_table import findings, findings_in_words, main_table, settings_table
from unlearnlib.book.membership import membership_in_words, membership_table
from unlearnlib.book.records import (
    auc_with_interval,
    baseline_record,
    baseline_value,
    by_document,
    select,
    within_factor,
)
from unlearnlib.book.release import alignment_table, averages_table, flipped_table, padding_in_words
from unlearnlib.book.step_by_step import beginning_shared
from unlearnlib.book.trajectories import pace_in_words, trajectory_table, turn_in_words
from unlearnlib.corpus.documents import Document, DomainData, Fact
from unlearnlib.errors import UnlearnError
from unlearnlib.looks import BASELINE_TITLES
from unlearnlib.metrics.ngram import Trigram
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record
from unlearnlib.study import RATES, UPDATES
from unlearnlib.text import mean_and_spread, number, with_spread
from unlearnlib.tuning_rule import TOLERATED_RISE

BASELINES = synthetic.baselines()
MAIN = synthetic.main_study()


def changed(record: Record, **metrics: float) -> Record:
    """The record with some metrics replaced; "__" stands for "/"."""
    new = {name.replace("__", "/"): x for name, x in metrics.items()}
    return replace(record, metrics={**record.metrics, **new})


class Words(tuple):
    """Stands for a tokenizer of single characters."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 128 for c in text]}

    def __len__(self) -> int:
        return 128


# --- numbers as text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.5, "0.500"),
        (31.42, "31.4"),
        (2150.4, "2,150"),
        (4.1e12, "4.1 × 10¹²"),
        (-0.25, "−0.250"),
        (0.0, "0"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (2e-5, "2.0 × 10⁻⁵"),
        (0.9998, "1.00"),
        (9.998, "10.0"),
        (999_999.0, "1.0 × 10⁶"),
        (9.97e-5, "1.0 × 10⁻⁴"),
    ],
)
def test_a_number_is_written_with_three_significant_digits(x: float, text: str) -> None:
    assert number(x) == text


@given(st.floats(min_value=1e-3, max_value=9e5))
def test_a_written_number_is_within_one_percent_of_itself(x: float) -> None:
    assert float(number(x).replace(",", "")) == pytest.approx(x, rel=0.01)


def test_spread_over_seeds_is_the_sample_standard_deviation() -> None:
    assert with_spread([9.0, 10.0, 11.0]) == "10.0 ± 1.0"
    assert with_spread([9.0]) == "9.00"


def test_a_seed_without_a_value_is_left_out_and_an_infinite_one_shows() -> None:
    assert with_spread([9.0, math.nan, 11.0]) == "10.0 ± 1.4"
    assert with_spread([9.0, math.inf]) == "∞"
    assert with_spread([math.nan, math.nan]) == "–"


# --- the main table


def test_the_main_table_has_every_model_of_every_domain() -> None:
    table = main_table(MAIN, BASELINES)
    assert len(table) == 3 * (3 + 7)
    assert list(table.index.get_level_values(0).unique()) == ["arXiv", "GitHub", "Books"]


def test_the_cells_of_the_main_table_are_the_means_of_the_records() -> None:
    seeds = [r.metrics["forget/perplexity"] for r in select(MAIN, "books", "ga")]
    cell = main_table(MAIN, BASELINES).loc[("Books", "GA"), ("Perplexity", "forget")]
    assert cell == with_spread(seeds)
    mean, spread = mean_and_spread(seeds)
    assert mean == pytest.approx(np.mean(seeds)) and spread == pytest.approx(np.std(seeds, ddof=1))


def test_the_target_is_vanilla_on_the_approximate_set() -> None:
    vanilla = baseline_record(BASELINES, "books", "vanilla")
    assert vanilla is not None
    for name in ("perplexity", "accuracy", "verbatim_share"):
        target = baseline_value(BASELINES, "books", "target", f"forget/{name}")
        assert target == vanilla.metrics[f"approximate/{name}"]
    assert math.isnan(baseline_value(BASELINES, "books", "target", "general/perplexity"))


def test_a_method_that_diverged_says_so_in_its_row() -> None:
    run = synthetic.run("books", "ga", rate=RATES[-1])
    assert run.status == "diverged"
    table = main_table([run], BASELINES)
    assert ("Books", "GA (diverged: 1 of 1)") in table.index
    assert table.loc[("Books", "GA (diverged: 1 of 1)"), ("Perplexity", "forget")] == "∞"


def test_missing_methods_and_a_missing_oracle_leave_rows_out() -> None:
    some = [r for r in MAIN if r.spec["method"] != "adversarial"]
    vanilla = [r for r in BASELINES if r.spec["baseline"] == "vanilla"]
    names = main_table(some, vanilla).index.get_level_values(1)
    assert "Adversarial labels" not in names
    assert BASELINE_TITLES["oracle"] not in names


def test_baselines_of_the_model_that_the_runs_started_from_are_preferred() -> None:
    old = replace(BASELINES[0], model_hash=synthetic.key("older"), key=synthetic.key("o"))
    old = changed(old, forget__perplexity=99.0)
    x = baseline_value([old, *BASELINES], "arxiv", "vanilla", "forget/perplexity", MAIN)
    assert x == BASELINES[0].metrics["forget/perplexity"]


# --- findings


def test_findings_count_runs_methods_and_seeds() -> None:
    found = findings(MAIN, BASELINES)
    assert (found["runs"], found["methods"], found["seeds"], found["domains"]) == (63, 7, 3, 3)


def test_the_closest_method_has_the_least_divergence_from_the_oracle() -> None:
    runs = [
        changed(r, oracle_kl__forget=0.001) if r.spec["method"] == "ga_kl_general" else r
        for r in MAIN
    ]
    found = findings(runs, BASELINES)
    assert {found[f"{d}.closest"] for d in DOMAINS} == {"GA + KL, general"}
    assert "the nearest is GA + KL, general, at 0.00100" in findings_in_words(found)


@pytest.mark.parametrize(
    ("divergences", "said"),
    [
        ((0.5, 0.6), "No method ends nearer"),
        ((0.5, 0.1), "1 method ends nearer"),
        ((0.2, 0.1), "2 methods end nearer"),
    ],
)
def test_words_say_whether_anything_ends_nearer_to_the_oracle_than_doing_nothing(
    divergences: tuple[float, float], said: str
) -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    pair = [changed(vanilla, oracle_kl__forget=0.5), oracle]
    runs = [
        changed(synthetic.run("books", method), oracle_kl__forget=x)
        for method, x in zip(("ga", "ga_kl_general"), divergences, strict=True)
    ]
    assert f"{said} to the oracle" in findings_in_words(findings(runs, pair))


@pytest.mark.parametrize(
    ("divergences", "verdict"),
    [
        ((0.1, 0.1, 0.1), "closer"),
        ((0.9, 0.9, 0.9), "farther"),
        ((0.1, 0.1, 0.9), "no clear difference"),
        ((math.nan,) * 3, "unknown"),
    ],
)
def test_a_difference_between_methods_is_clear_only_if_every_seed_agrees(
    divergences: tuple[float, ...], verdict: str
) -> None:
    runs = [changed(synthetic.run("books", "ga", s), oracle_kl__forget=0.5) for s in range(3)]
    runs += [
        changed(synthetic.run("books", "ga_gd_in_dist", s), oracle_kl__forget=x)
        for s, x in enumerate(divergences)
    ]
    found = findings(runs, BASELINES)
    assert found["books.gd_against_ga"] == verdict
    assert "with the one seed" not in findings_in_words(found)
    alone = findings_in_words(findings([runs[0], runs[3]], BASELINES))
    assert "for every seed" not in alone and ("with the one seed" in alone) == (
        verdict != "unknown"
    )


def test_words_follow_the_side_on_which_the_target_lies() -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    for target, side in ((11.0, "10.0 % above"), (9.0, "10.0 % below"), (10.0, "equal to")):
        pair = [
            changed(vanilla, approximate__perplexity=target),
            changed(oracle, forget__perplexity=10.0),
        ]
        found = findings([synthetic.run("books", "ga")], pair)
        assert side in findings_in_words(found)


def test_words_set_a_distance_beside_what_training_twice_costs() -> None:
    vanilla, oracle = (r for r in BASELINES if r.spec["domain"] == "books")
    pair = [changed(vanilla, oracle_kl__approximate=0.123), oracle]
    found = findings([synthetic.run("books", "ga")], pair)
    assert found["books.kl.floor"] == 0.123
    assert "(0.123 on unseen documents)" in findings_in_words(found)


@pytest.mark.parametrize(("auc", "said"), [(0.4, "1 ends below 0.5: there"), (0.6, "No method")])
def test_words_count_the_methods_that_went_past_one_half(auc: float, said: str) -> None:
    run = changed(synthetic.run("books", "ga"), membership__min_k_40__auc=auc)
    words = membership_in_words(findings([run], BASELINES))
    assert said in words and "By Min-40 %, vanilla’s" in words
    assert "By other attacks" not in words


def test_words_give_the_interval_of_the_oracle_s_auc_where_documents_have_scores() -> None:
    run = synthetic.run("books", "ga")
    words = membership_in_words(findings([run], BASELINES))
    oracle = baseline_record(BASELINES, "books", "oracle")
    assert oracle is not None
    _, low, high = auc_with_interval(oracle)
    assert 0 <= low < high <= 1 and f"(95 % {number(low)} to" in words
    bare = [replace(b, documents={}) for b in BASELINES]
    assert "95 %" not in membership_in_words(findings([run], bare))


def test_words_name_the_methods_that_only_another_attack_finds_below_one_half() -> None:
    run = changed(
        synthetic.run("books", "ga"),
        membership__min_k_40__auc=0.6,
        membership__min_k_20__auc=0.4,
        membership__zlib__auc=0.3,
    )
    words = membership_in_words(findings([run], BASELINES))
    assert "No method ends below 0.5" in words
    assert "some do: GA (zlib, Min-20 %)." in words


def test_words_do_not_fail_on_a_study_that_went_wrong() -> None:
    broken = [replace(r, metrics=dict.fromkeys(r.metrics, math.nan)) for r in MAIN]
    found = findings(broken, [])
    assert found["books.closest"] == "none"
    assert "no oracle" in findings_in_words(found)
    assert membership_in_words(found)


# --- learning rates, trajectories, cost


def test_a_setting_is_usable_only_near_the_target_and_without_harm() -> None:
    run = synthetic.run("books", "ga")
    good = changed(run, forget__perplexity=10.0, general__perplexity=5.0)
    assert usable(good, target=10.0, general=5.0)
    assert not usable(good, target=20.0, general=5.0)
    assert not usable(good, target=10.0, general=4.0)
    assert not usable(changed(good, forget__perplexity=math.nan), 10.0, 5.0)


def test_general_perplexity_may_rise_by_what_is_tolerated_and_no_more() -> None:
    run = changed(synthetic.run("books", "ga"), forget__perplexity=10.0)
    for general, allowed in ((0.999, True), (1.001, False)):
        risen = changed(run, general__perplexity=5.0 * TOLERATED_RISE * general)
        assert usable(risen, target=10.0, general=5.0) is allowed


@pytest.mark.parametrize(
    ("x", "level", "within"),
    [
        (10.0, 10.0, True),
        (15.0, 10.0, True),  # the factor itself, either way
        (10.0, 15.0, True),
        (15.01, 10.0, False),
        (6.66, 10.0, False),
        (0.0, 10.0, False),
        (-10.0, 10.0, False),
        (math.nan, 10.0, False),
        (10.0, math.nan, False),
        (math.inf, math.inf, False),
    ],
)
def test_within_a_factor_is_meant_either_way_and_of_perplexities_only(
    x: float, level: float, within: bool
) -> None:
    assert within_factor(x, level, 1.5) is within


def test_chunks_are_counted_to_their_documents_in_the_order_of_appearance() -> None:
    documents, of = by_document(["b#0", "a#1", "b#1", "c", "a#0", "x#y#2"])
    assert documents == ["b", "a", "c", "x#y"]
    assert of.tolist() == [0, 1, 0, 2, 1, 3]
    documents, of = by_document([])
    assert documents == [] and of.tolist() == []


def test_the_table_of_rates_names_the_update_of_a_divergence() -> None:
    table = rates_table(synthetic.rates_study(), BASELINES)
    assert table.shape == (21, len(RATES))
    assert table.loc[("Books", "GA"), f"{RATES[-1]:g}"] == "diverged at 5"


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


def test_the_measured_ratio_is_one_of_tokens() -> None:
    run = synthetic.run("books", "ga")
    again = {"books": Retraining(10 * run.extra["tokens"], 100.0, 1.2e6)}
    ratios = cost_ratios([run], again)["ga"]
    assert ratios.flops == [10.0]
    assert ratios.seconds == [pytest.approx(100.0 / run.provenance["seconds_training"])]


def test_domains_without_a_retrained_model_have_no_measured_ratio() -> None:
    assert cost_ratios(MAIN, {}) == {}
    assert "nothing is measured" in cost_in_words(MAIN, {})


def test_the_accounted_ratio_halves_when_as_much_is_retained() -> None:
    accounts = release_accounts()
    for domain in RELEASE_BATCH:
        alone, both, kl = (accounts[domain, kind].ratio for kind in KINDS)
        assert alone == pytest.approx(2 * both) == pytest.approx(kl * 7 / 3)


def test_words_say_how_far_apart_the_times_of_equal_retrainings_are() -> None:
    again = {
        "books": Retraining(1e6, 300.0, 1.2e6),
        "arxiv": Retraining(1.01e6, 900.0, 1.2e6),
    }
    words = cost_in_words(MAIN, again)
    assert "2 retrainings took 300 to 900 of them" in words and "by 1.0 %" in words
    assert "coarse" not in cost_in_words(MAIN, {"books": again["books"]})


# --- differences from the release


def test_flipping_hides_on_which_side_of_chance_an_auc_lies() -> None:
    runs = [
        changed(synthetic.run("books", method), membership__min_k_40__auc=x)
        for method, x in (("ga", 0.2), ("adversarial", 0.8))
    ]
    table = flipped_table(runs, BASELINES)
    rows = [table.loc[("Books", title)] for title in ("GA", "Adversarial labels")]
    assert rows[0]["flipped"] == rows[1]["flipped"] == "0.800"
    assert rows[0]["forget set looks"] != rows[1]["forget set looks"]


def test_the_alignment_table_sets_release_beside_aligned() -> None:
    table = alignment_table(synthetic.alignment_study(), MAIN, BASELINES)
    names = list(table.loc["Books"].index)
    assert names[2:4] == ["Random labels, aligned", "Random labels, release"]


def test_padding_is_what_is_left_of_the_full_length() -> None:
    assert "75.0 % of the positions" in padding_in_words([100, 50, 50, 100, 75], 300)


# --- data


def test_overlap_is_the_share_of_distinct_ngrams() -> None:
    assert overlap(["a b c"], ["b c d"], 2) == 0.5
    assert overlap(["a b c"], ["a b c"], 3) == 1.0
    assert math.isnan(overlap(["a b"], ["a b"], 3))


def test_data_tables_count_documents_and_facts() -> None:
    fact = Fact("the key is ", "red", ("blue", "green", "grey"))
    data = DomainData(
        "books", (Document("f-1", "the key is red", (fact,)),), (Document("r-1", "abcd"),)
    )
    table = data_table({"books": data}, Words())
    assert list(table["documents"]) == ["1", "1"]
    assert list(table["facts"]) == ["1", "0"]
    assert list(facts_table(data).index) == ["the key is"]


def test_a_trigram_predicts_what_always_follows() -> None:
    model = Trigram([[1, 2, 3, 1, 2, 3, 1, 2, 3]], vocabulary=5)
    assert model.probabilities([1, 2]).argmax() == 3
    assert model.score([[1, 2, 3, 1]])[0] == 1.0


@given(st.lists(st.integers(0, 6), max_size=4))
def test_trigram_probabilities_are_positive_and_sum_to_one(context: list[int]) -> None:
    p = Trigram([[0, 1, 2, 1, 0, 3], [4, 1, 2]], vocabulary=7).probabilities(context)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1)


def test_a_trigram_interpolates_as_witten_and_bell() -> None:
    model = Trigram([[0, 1]], vocabulary=2)
    # No context: one count each of two tokens; 0.5 each whatever the uniform part.
    assert model.probabilities([]) == pytest.approx([0.5, 0.5])
    # After 0: one count, one distinct follower, so half of its own and half of the above.
    assert model.probabilities([0]) == pytest.approx([0.25, 0.75])


def test_a_trigram_without_tokens_or_beyond_its_vocabulary_is_refused() -> None:
    with pytest.raises(UnlearnError, match="at least one text"):
        Trigram([], 5)
    with pytest.raises(UnlearnError, match="token 9"):
        Trigram([[9]], 5)


def test_the_trigram_table_has_a_row_per_domain() -> None:
    data = {"books": DomainData("books", (), approximate=(Document("a", "abcabc"),))}
    table = trigram_table(data, [Document("t", "abcabcabc")], BASELINES, Words())
    assert table.loc["Books", ("Accuracy", "trigram")] == "1.00"


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("the red door", "the red gate", "<strong>the red </strong>door"),
        ("the red", "the red", "<strong>the red</strong>"),
        ("a < b", "c", "a &lt; b"),
        ("redder", "red", "redder"),
    ],
)
def test_only_whole_words_from_the_start_count_as_reproduced(
    text: str, truth: str, expected: str
) -> None:
    assert beginning_shared(text, truth) == expected


# --- HTML


class Cells(HTMLParser):
    """Counts the columns of every row, and collects classes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.widths.append(0)
        elif tag in ("th", "td"):
            self.widths[-1] += int(given.get("colspan") or 1)
        elif tag == "table":
            self.classes.add(given.get("class") or "")


@pytest.mark.parametrize(
    "table",
    [
        main_table(MAIN, BASELINES),
        settings_table(MAIN),
        account_table(),
        trajectory_table(synthetic.trajectory_study(), BASELINES),
        membership_table(MAIN, BASELINES),
        averages_table(MAIN, BASELINES),
        cost_table(MAIN, {"books": Retraining(1e6, 10.0, 1e6)}),
    ],
    ids=lambda table: str(table.columns[0]),
)
def test_every_row_of_the_html_is_equally_wide(table: pd.DataFrame) -> None:
    cells = Cells()
    cells.feed(table_html(table, "A caption"))
    assert set(cells.widths) == {1 + table.shape[1]}
    assert cells.classes == {"dataframe sortable"}


def test_html_escapes_what_the_records_hold() -> None:
    table = pd.DataFrame({"<b>": ["a & b"]}, index=pd.Index(["<i>"], name="x"))
    page = table_html(table)
    assert "a &amp; b" in page and "<i>" not in page and "<b>" not in page


def test_words_are_left_and_numbers_right_aligned() -> None:
    table = pd.DataFrame(
        {"word": ["in words", "more of them"], "number": ["1.0 ± 0.1", "3.2 × 10⁵"]}
    )
    page = table_html(table)
    assert page.count('<td class="text">') == 2 and page.count('<td class="number">') == 2


def test_lists_are_words_and_sentences_ask_for_room() -> None:
    sentence = "This sentence has more than sixty characters, so it wants a wide column."
    table = pd.DataFrame({"list": ["1, 2, 3", "4.5, 6, 7"], "long": [sentence, "a short one"]})
    page = table_html(table)
    assert page.count('<td class="text">') == 3 and page.count('<td class="text long">') == 1
