"""What the authors' release averages, flips and pads is set beside what was meant."""

from __future__ import annotations

import synthetic
from synthetic import changed

from unlearnlib.book.release import alignment_table, flipped_table, padding_in_words

BASELINES = synthetic.baselines()

MAIN = synthetic.main_study()


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
