"""What a model reproduces of a text is marked word by word, and each text is an exhibit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import EXHIBIT, Open
from templates import NOTEBOOKS, read, shown

from unlearnlib.book.step_by_step import DEFAULTS, Asked, asked, beginning_shared, samples_html
from unlearnlib.errors import UnlearnError


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


def test_the_parameters_of_the_notebook_are_those_that_are_known() -> None:
    (cell,) = (
        c
        for c in read(NOTEBOOKS / "step_by_step.ipynb").cells
        if "parameters" in c.metadata.get("tags", [])
    )
    given: dict[str, Any] = {}
    exec(cell.source, given)
    given.pop("__builtins__")
    assert given == DEFAULTS
    assert asked(given) == Asked(
        "books", "ga_gd_in_dist", 0, None, None, None, "unlearn notebook step_by_step"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "ga"}, "unknown parameter 'method'"),
        ({"methods": "ga,adversarial"}, "this notebook has one"),
        ({"domains": None}, "this notebook has one"),
        ({"new_tokens": 0}, "new_tokens is 0"),
    ],
)
def test_what_the_notebook_cannot_show_is_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnlearnError, match=said):
        asked({**DEFAULTS, **changes})


def test_another_rate_is_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was asked for is what is run and drawn, on the device that is named at the top."""
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path))
    small = {"methods": "ga", "rates": 7e-5, "updates": 1, "limits": "forget=2,retain=2"}
    pages = shown("step_by_step", {**small, "new_tokens": 2}, monkeypatch)
    assert any(page.startswith("Computed on ") for page in pages)
    assert any("learning rate 7e-05" in page and "1 update of" in page for page in pages)
    assert any("-p rates 7e-05" in page for page in pages)
