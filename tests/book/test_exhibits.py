"""Every figure and table can be linked to, says how to repeat it, and stands in the index."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
import yaml
from books import extension, small_book
from pages import EXHIBIT, Cells, Open

from unlearnlib.book import exhibits
from unlearnlib.book.cost import Retraining, account_table, cost_table
from unlearnlib.book.exhibits import table_html
from unlearnlib.book.main_table import main_table, settings_table
from unlearnlib.book.membership import membership_table
from unlearnlib.book.release import averages_table
from unlearnlib.book.target_check import target_check
from unlearnlib.book.trajectories import trajectory_table
from unlearnlib.errors import UnlearnError
from unlearnlib.figures import DescribedFigure

ROOT = Path(__file__).resolve().parents[2]
BOOK = extension("exhibits")
BASELINES = synthetic.baselines()
MAIN = synthetic.main_study()
TABLE = pd.DataFrame({"a": ["1", "2"]}, index=pd.Index(["x", "y"], name="n"))


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


def test_a_figure_without_alternative_text_is_refused() -> None:
    with pytest.raises(UnlearnError, match="alternative text"):
        exhibits.figure_html(DescribedFigure(), "caption")


def a_figure(command: str = "") -> str:
    plate = target_check(BASELINES)
    return exhibits.figure_html(plate, "The target & more. Explained.", command, "check")


def test_a_figure_and_a_table_have_an_anchor_and_the_title_that_the_index_shows() -> None:
    assert EXHIBIT.findall(a_figure()) == [("figure", "figure-check", "The target &amp; more")]
    page = table_html(TABLE, "By learning rate")
    assert EXHIBIT.findall(page) == [("div", "table-by-learning-rate", "By learning rate")]
    page = table_html(TABLE, "By learning rate", name="rates")
    assert EXHIBIT.findall(page) == [("div", "table-rates", "By learning rate")]


def test_what_has_no_name_has_no_anchor_and_no_mark() -> None:
    for page in (
        table_html(TABLE),
        exhibits.figure_html(target_check(BASELINES), "C."),
    ):
        assert not EXHIBIT.search(page) and "<!--" not in page and "<details" not in page


@pytest.mark.parametrize("command", ["", "unlearn study main"])
def test_a_plain_notebook_shows_the_command_and_no_link(command: str) -> None:
    for page in (a_figure(command), table_html(TABLE, "Words", command)):
        assert "<a " not in page and command in page
        assert ("<details" in page) == bool(command)


@pytest.mark.parametrize("command", ["", "unlearn study main"])
def test_the_book_adds_the_notebook_the_command_and_a_link_to_each(command: str) -> None:
    page = a_figure(command) + table_html(TABLE, "Words", command)
    again = "unlearn notebook x -p name 'a & b'"
    done = BOOK.filled(page, '<a href="https://there/x">x</a>', again)
    assert "<!--" not in done
    assert done.count('<a href="https://there/x">x</a>') == 2
    assert done.count("notebook x -p name &#x27;a &amp; b&#x27;") == 2
    assert re.findall(r'href="(#[^"]+)"', done) == ["#figure-check", "#table-words"]
    assert re.findall(r"<summary>(.*?)</summary>", done) == [
        "Repeat this figure",
        "Repeat this table",
    ]
    assert not any(Open(done).wrong.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("By learning rate", "by-learning-rate"),
        ("Target ÷ truth", "target-truth"),
        ("<b>GA + GD</b>", "b-ga-gd-b"),
        ("Müller’s “Möbel”", "mullers-mobel"),
        ("÷", ""),
    ],
)
def test_an_anchor_has_letters_digits_and_hyphens(text: str, words: str) -> None:
    assert exhibits.slug(text) == words


def test_the_title_is_the_first_sentence_of_the_caption() -> None:
    assert (
        exhibits.first_sentence("Perplexity, 0.5 % of it. And more.") == "Perplexity, 0.5 % of it"
    )
    assert exhibits.first_sentence("Before: both. ") == "Before: both"
    assert exhibits.first_sentence("No stop") == "No stop"


def notebook(*cells: tuple[str, str]) -> dict[str, Any]:
    return {"cells": [{"metadata": {"tags": [tag]}, "source": text} for tag, text in cells]}


def test_the_command_has_what_the_notebook_was_run_with() -> None:
    one = notebook(
        ("parameters", 'profile = "lab"  # where\nrate = 3e-4\nupdates = None\n'),
        ("injected-parameters", '# Parameters\nprofile = "open"\nname = "a b"\n'),
        ("hide-input", "profile = other()"),
    )
    given = BOOK.parameters(one)
    assert given == {"profile": "open", "name": "a b"}  # the others are its own
    assert BOOK.command("x", given) == "unlearn notebook x -p profile open -p name 'a b'"
    several = {"rates": [1e-4, 3e-4], "limits": {"forget": 3}, "seeds": None}
    assert BOOK.command("x", several) == (
        "unlearn notebook x -p rates 0.0001,0.0003 -p limits forget=3"
    )


def test_two_exhibits_with_one_anchor_are_found() -> None:
    one, two, three = (
        BOOK.Exhibit(page, anchor, "T")
        for page, anchor in (("a", "table-x"), ("b", "table-x"), ("b", "figure-x"))
    )
    assert list(BOOK.repeated([one, two, three])) == [(one, two)]


def test_the_index_lists_every_exhibit_and_its_links_lead_to_them(tmp_path: Path) -> None:
    shown = a_figure("unlearn study main") + table_html(TABLE, "Words & <b>")
    root = "# Root\n\n```{toctree}\nbook/_run/chapter\n```\n\n```{exhibits}\n```\n"
    theme = {"repository_url": "https://github.com/them/it", "repository_branch": "side"}
    built = small_book(tmp_path, root, shown, extensions=["exhibits"], html_theme_options=theme)
    index = (built / "index.html").read_text(encoding="utf-8")
    chapter = (built / "book/_run/chapter.html").read_text(encoding="utf-8")
    listed = index[index.index('class="exhibits') :]
    links = re.findall(r'href="book/_run/chapter\.html#([^"]+)">([^<]*)<', listed)
    assert links == [
        ("figure-check", "The target &amp; more"),
        ("table-words-b", "Words &amp; &lt;b&gt;"),
    ]
    assert "Figure: " in listed and "Table: " in listed
    assert all(f'id="{anchor}"' in chapter for anchor, _ in links)
    assert (
        chapter.count('<a href="https://github.com/them/it/blob/side/notebooks/chapter.ipynb">')
        == 2
    )
    assert chapter.count("unlearn notebook chapter") == 2


def test_the_citation_is_made_of_the_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    entry = extension("citation").bibtex(citation, "key")
    assert entry.startswith("@software{key,\n") and entry.endswith("}")
    for name in ("title", "version", "repository-code"):
        assert f"{{{citation[name]}}}" in entry
    assert "{{The unlearnlib developers}}" in entry and entry.count("{") == entry.count("}")


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


def test_showing_leaves_both_drawings_and_the_alternative_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path))
    exhibits.show(target_check(BASELINES), "check", "A caption.", "unlearn study main")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "check-narrow.svg",
        "check.svg",
        "check.txt",
    ]


def test_the_html_carries_images_alternative_text_caption_and_command() -> None:
    figure = target_check(BASELINES)
    page = exhibits.figure_html(figure, 'A "caption" & more', "unlearn study main")
    images = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) == 2 and all(b"<svg" in base64.b64decode(image) for image in images)
    assert "A &quot;caption&quot; &amp; more" in page
    assert "<code>unlearn study main</code>" in page
    assert figure.alt[:40] in page


def test_nothing_is_left_behind_where_there_is_no_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNLEARN_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    exhibits.show(target_check(BASELINES), "check", "A caption.")
    assert list(tmp_path.iterdir()) == []
