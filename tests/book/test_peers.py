"""Our metrics are those of others on the same inputs, or theirs turned as the page says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unlearnlib.bench import Bench, Selection, open_bench
from unlearnlib.book import peers
from unlearnlib.book.peers import Golden, Row, Scored
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.membership import zlib_score
from unlearnlib.scoring import Reference, score_chunks

# Both sides compute in float32, and sum up to 200 numbers in another order.
ROUNDING = 2e-5
# The release adds 1e-12 to every probability before its logarithm.
RELEASE_KL = 1e-3


@pytest.fixture(scope="module")
def golden() -> Golden:
    return peers.load_golden()


@pytest.fixture(scope="module")
def bench() -> Bench:
    """The lab's novels, no more of them than are needed."""
    return open_bench("lab", "books", selection=Selection(limits=dict.fromkeys(peers.SPLITS, 8)))


@pytest.fixture(scope="module")
def scored(golden: Golden, bench: Bench) -> Scored:
    documents = peers.inputs_at_hand(golden, bench)
    assert len(documents) == 16, "the lab is another one: run tools/golden.py, see there"
    assert bench.oracle is not None
    longer = peers.with_one_more(documents)
    return Scored(
        score_chunks(bench.model, documents, reference=Reference(bench.oracle, documents)),
        score_chunks(bench.model, longer, reference=Reference(bench.oracle, longer)),
        score_chunks(bench.oracle, longer),
    )


@pytest.fixture(scope="module")
def rows(golden: Golden, scored: Scored) -> dict[tuple[str, str], Row]:
    return {(row.project, row.measure): row for row in peers.rows_of(golden, scored)}


def test_every_measure_of_others_is_ours_turned_as_the_page_says(
    rows: dict[tuple[str, str], Row],
) -> None:
    turned = {key: row for key, row in rows.items() if row.made is not None}
    assert len(turned) == len(rows) - 2  # padding within a batch is not offered
    for key, row in turned.items():
        assert row.made is not None and row.made.shape == row.theirs.shape
        assert row.rest <= (RELEASE_KL if key == ("release", "KL") else ROUNDING), key


def test_areas_and_rates_are_those_of_others_exactly(rows: dict[tuple[str, str], Row]) -> None:
    judged = [row for (_, name), row in rows.items() if re.search("AUC|FPR|balanced", name)]
    assert len(judged) == 13
    assert all(row.rest < 1e-9 for row in judged)


@pytest.mark.parametrize(
    ("project", "measure"),
    [
        ("OpenUnlearning", "Loss"),
        ("OpenUnlearning", "Loss, AUC"),
        ("OpenUnlearning", "over-unlearned, AUC"),
        *(("release", f"Min-{k} %") for k in (30, 40, 50, 60, 100)),
    ],
)
def test_what_must_agree_agrees_as_it_is(
    rows: dict[tuple[str, str], Row], project: str, measure: str
) -> None:
    assert rows[project, measure].difference <= ROUNDING


def test_zlib_scores_of_others_are_ours_per_token_and_turn_the_side(
    golden: Golden, scored: Scored, rows: dict[tuple[str, str], Row]
) -> None:
    ours, lengths = zlib_score(scored.documents), scored.documents.lengths
    theirs = golden.values("OpenUnlearning", "zlib")
    np.testing.assert_allclose(theirs * lengths, -ours, rtol=1e-4)
    row = rows["OpenUnlearning", "zlib, AUC"]
    assert row.theirs[0] < 0.5 < row.ours[0]


def test_a_mean_over_compressed_bytes_falls_as_a_text_grows_and_a_total_does_not() -> None:
    scores = peers.predicted(["1" * 40, "1" * 80])
    scores = replace(scores, logprob=np.full_like(scores.logprob, -1.0))
    short, long = zlib_score(scores)
    assert short == long
    short, long = zlib_score(scores) / scores.lengths
    assert long == short / 2


def test_probabilities_are_averaged_above_the_inverse_of_a_perplexity(
    rows: dict[tuple[str, str], Row],
) -> None:
    row = rows["OpenUnlearning", "probability"]
    assert row.theirs.mean() > row.ours[0] + 0.01


def test_the_last_token_is_what_others_leave_out(scored: Scored) -> None:
    cut = peers.without_last(scored.documents)
    assert (cut.lengths == scored.documents.lengths - 1).all()
    for i in range(len(cut)):
        whole, part = scored.documents.chunk(i), cut.chunk(i)
        assert (cut.logprob[part] == scored.documents.logprob[whole][:-1]).all()
    empty = peers.without_last(peers.predicted(["", "1", "10"]))
    assert empty.lengths.tolist() == [0, 0, 1] and empty.top1.tolist() == [True]


def test_scores_with_one_token_more_are_the_same_before_it(scored: Scored) -> None:
    same = peers.without_last(scored.positions)
    assert (same.tokens == scored.documents.tokens).all()
    np.testing.assert_allclose(same.logprob, scored.documents.logprob, atol=1e-4)


def test_extraction_strength_is_the_share_of_the_right_end() -> None:
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(["0", "1"], n, p=[0.2, 0.8])) for n in range(1, 60)]
    expected = [(len(t) - len(t.rstrip("1"))) / len(t) for t in texts]
    np.testing.assert_allclose(
        peers.extraction_strength(peers.predicted(texts)), expected, atol=1e-12
    )
    assert peers.extraction_strength(peers.predicted(["", "0", "1"])).tolist() == [0, 0, 1]


def test_extraction_strength_of_others_is_never_0(golden: Golden) -> None:
    ours = peers.extraction_strength(peers.predicted())
    theirs = golden.values("OpenUnlearning", "predicted/extraction_strength")
    assert ours.tolist() == [0, 0.75, 1, 0, 0.5]
    assert theirs.tolist() == [0.25, 0.75, 1, 0.25, 0.5]


def test_the_release_s_divergence_is_that_of_others_and_an_entropy(
    golden: Golden, scored: Scored
) -> None:
    retrained = scored.retrained.select(range(8))
    entropy = -retrained.chunk_means(retrained.mean)
    gap = golden.values("release", "kl") - golden.values("OpenUnlearning", "kl")
    np.testing.assert_allclose(gap, entropy, atol=RELEASE_KL)


@pytest.mark.parametrize("project", ["OpenUnlearning", "release"])
def test_padding_changes_the_divergence_of_others(
    golden: Golden, scored: Scored, project: str
) -> None:
    alone, padded = golden.values(project, "kl"), golden.values(project, "kl/padded")[0]
    positions = scored.positions.select(range(8)).lengths
    assert abs(padded - np.average(alone, weights=positions)) > 1


def test_the_release_flips_an_area_and_leaves_what_belongs_to_it(
    rows: dict[tuple[str, str], Row],
) -> None:
    area = rows["release", "over-unlearned, AUC"]
    assert area.ours[0] < 0.5 and area.theirs[0] == pytest.approx(1 - area.ours[0], abs=1e-9)
    said = {"AUC": 1, "balanced accuracy": 0.5, "TPR at 5 % FPR": 0}  # of what is memorised
    for name, value in said.items():
        row = rows["release", f"Min-40 %, {name}"]
        assert (row.theirs[0], row.ours[0]) == (value, 1)


def test_drawn_scores_are_the_same_in_every_version() -> None:
    members, others = peers.ranks()
    assert members[:2] == pytest.approx([0.8444218515250481 - 0.3, 0.7579544029403025 - 0.3])
    assert (len(members), len(others)) == (30, 50)


def test_other_models_or_texts_are_not_compared(golden: Golden, bench: Bench) -> None:
    assert peers.inputs_at_hand(golden, None) == []
    other = replace(golden, documents={**golden.documents, "tokens_hash": "0"})
    assert peers.inputs_at_hand(other, bench) == []
    measures = [row.measure for row in peers.rows_of(golden, None)]
    assert len(measures) == 5 and all(re.search("over-unlearned|made-up", m) for m in measures)
    assert "only the scores that were drawn" in peers.inputs_in_words(None)


def test_the_table_has_a_sentence_for_every_measure(
    golden: Golden, scored: Scored, rows: dict[tuple[str, str], Row]
) -> None:
    table = peers.peers_table(list(rows.values()))
    assert list(table.index.get_level_values(0).unique()) == list(peers.TITLES.values())
    assert table.index.is_unique and len(table) == len(rows)
    assert all(text.endswith(".") for text in table["what differs, and who is right"])
    assert (table["left"] == "–").sum() == 2
    assert peers.inputs_in_words(scored) == ""


def test_every_number_has_a_file_a_commit_and_a_function(golden: Golden) -> None:
    files = {(f["project"], f["path"]): f for f in golden.files}
    for x in golden.numbers.values():
        source = files[x.project, x.file]
        assert x.function in source["functions"]
        assert re.fullmatch(r"[0-9a-f]{40}", source["commit"]) and "/" in source["repository"]
    table = peers.sources_table(golden)
    assert len(table) == len(golden.files)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"inputs": {"documents": 1}})])
def test_a_file_that_holds_no_numbers_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "golden.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnlearnError, match=re.escape(str(path))):
        peers.load_golden(path)
