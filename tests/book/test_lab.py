"""The lab in tables: its models, what they know by exposure, and how far retrained ones differ."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from equal import EXPOSURES, Lab

from unlearnlib.book.at_equal import band_of
from unlearnlib.book.lab import (
    auc_of,
    chosen,
    exposure_table,
    exposures_of,
    floor_in_words,
    floor_table,
    generator_losses,
    knowledge_table,
    known_in_words,
    model_records,
    models_table,
)
from unlearnlib.store import Record
from unlearnlib.trained import lab_record

LAB = Lab("books")
BASELINES = LAB.baselines()
VANILLA = BASELINES[0]
READ = exposures_of([LAB.run("ga", exposure=e) for e in EXPOSURES])
MADE = {
    "documents": 50_000,
    "tokens": 10_000_000,
    "parameters": 2_400_000,
    "updates": 1_950,
    "losses": [9.0] * 10 + [1.25] * 50,
    "provenance": {"seconds": 3_000.0},
}


def test_the_table_of_models_has_what_each_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    for name in ("vanilla", "oracle-books", "oracle-arxiv", "oracle-books-s1"):
        path = lab_record(name, "stream")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(MADE))
    models = model_records("stream", ("books",))
    assert list(models) == ["vanilla", "oracle-books", "oracle-books-s1"]
    table = models_table(models)
    assert list(table.index) == [
        "vanilla",
        "retrained without Books",
        "retrained without Books, second seed",
    ]
    assert list(table.iloc[0]) == ["50,000", "10,000,000", "2,400,000", "1,950", "1.25", "50 min"]
    assert model_records("stream", ("github",)).keys() == {"vanilla"}


def test_exposures_come_from_runs_that_forget_one_of_them() -> None:
    assert set(READ["books"].values()) == set(EXPOSURES) and len(READ["books"]) == 120
    assert exposures_of(BASELINES) == {}


def test_exposures_come_from_scores_that_say_so() -> None:
    documents = {**VANILLA.documents}
    documents["forget"] = {**documents["forget"], "exposure": LAB.exposures.tolist()}
    said = Record(**{**VANILLA.__dict__, "documents": documents})
    assert exposures_of([said]) == READ


def test_a_row_is_of_the_documents_of_its_exposure() -> None:
    table = exposure_table(BASELINES, READ)
    assert list(table.loc["Books"].index) == [
        "once",
        "2 times",
        "4 times",
        "8 times",
        "16 times",
        "all",
    ]
    picked = LAB.chosen(16)
    row = table.loc[("Books", "16 times")]
    assert row[("", "documents")] == "24"
    for column, model in (("forget", "vanilla"), ("retrained", "oracle")):
        loss = LAB.mean(LAB.nll(model, "forget"), "forget", picked)
        assert row[("Perplexity", column)] == f"{math.exp(loss):.2f}"
    aucs = [float(x) for x in table.loc["Books"][("Membership AUC", "Min-20 %++")]]
    assert aucs[:5] == sorted(aucs[:5]) and aucs[4] > aucs[0]
    whole = VANILLA.metrics["membership/min_k_pp_20/auc"]
    assert auc_of(VANILLA, "min_k_pp_20", list(READ["books"])) == pytest.approx(whole)
    assert table.loc[("Books", "all"), ("Membership AUC", "Min-20 %++")] == f"{whole:.3f}"


def test_the_words_compare_the_least_with_the_most_read() -> None:
    words = known_in_words(BASELINES, READ)
    names = [chosen(READ["books"], READ["books"], e) for e in (1, 16)]
    low, high = (auc_of(VANILLA, "loss", some) for some in names)
    assert f"Read once and 16 times: Loss {low:.3f} and {high:.3f}" in words
    assert known_in_words([], READ) == ""


def test_the_floor_is_what_retrained_models_differ_by() -> None:
    bands = {"books": band_of(BASELINES, "books")}
    table, words = floor_table(bands), floor_in_words(bands)
    assert table.loc["Books", ("", "models")] == "3"
    assert table.loc["Books", ("KL on forget, nats", "mean")] == f"{bands['books'].floor.value:.3f}"
    assert f"differ on it by {bands['books'].floor.value:.3f} on Books" in words
    assert f"within {100 * math.expm1(bands['books'].spread()):.1f} % of each other" in words
    alone = {"books": band_of([LAB.baseline("oracle")], "books")}
    assert floor_in_words(alone) == ""
    assert floor_table(alone).loc["Books", ("KL on forget, nats", "mean")] == "–"


def test_losses_stand_between_the_generator_and_the_ngrams() -> None:
    table = knowledge_table(BASELINES, {"books": 0.9}, {"books": {"1": 40.0, "3": math.exp(2.5)}})
    loss = LAB.mean(LAB.nll("vanilla", "approximate"), "approximate")
    row = table.loc["Books"]
    assert (row["generator"], row["best n-gram, unseen"]) == ("0.900", "2.50")
    assert row["vanilla, unseen"] == f"{loss:.3f}"
    assert knowledge_table(BASELINES, {}, {}).loc["Books", "generator"] == "–"


def test_the_generator_counts_the_unseen_documents_of_its_own_corpus() -> None:
    from unlearnlib.corpus.stream import drafts, groups

    (found,) = generator_losses("stream", BASELINES).values()
    group = next(g for g in groups("books", 0) if g.name == "approximate")
    nats = sum(d.nats for d in drafts("books", group.start, group.count))
    assert found == pytest.approx(nats / LAB.tokens["approximate"].sum())
    assert generator_losses("lab", BASELINES) == {}
    few = Lab("books", each=8).baselines()  # not all of the unseen documents
    assert generator_losses("stream", few) == {}
