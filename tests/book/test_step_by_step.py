"""The chapter *step by step*: its tables, sentences and figures, from records made by hand."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

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


EXHIBIT = re.compile(r'<(figure|div) class="exhibit" id="([^"]+)" data-title="([^"]*)"')


class Open(HTMLParser):
    """Elements that were opened and not closed, or closed and not open."""

    VOID = ("img", "source", "br", "meta", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.wrong: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.wrong[tag] += tag not in self.VOID

    def handle_endtag(self, tag: str) -> None:
        self.wrong[tag] -= 1


def test_the_continuations_of_a_text_are_tables_with_anchors() -> None:
    page = samples_html([("books-1", "Once", {"truth": "upon", "vanilla": "upon"})])
    assert [anchor for _, anchor, _ in EXHIBIT.findall(page)] == ["table-books-1-continued"]
    assert not any(Open(page).wrong.values())
