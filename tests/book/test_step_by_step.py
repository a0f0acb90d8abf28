"""What a model reproduces of a text is marked word by word, and each text is an exhibit."""

from __future__ import annotations

import pytest
from pages import EXHIBIT, Open

from unlearnlib.book.step_by_step import beginning_shared, samples_html


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


def test_the_continuations_of_a_text_are_tables_with_anchors() -> None:
    page = samples_html([("books-1", "Once", {"truth": "upon", "vanilla": "upon"})])
    assert [anchor for _, anchor, _ in EXHIBIT.findall(page)] == ["table-books-1-continued"]
    assert not any(Open(page).wrong.values())
