"""The first page opens functions of the chapters, and shows what they say of the same records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import synthetic
from templates import NOTEBOOKS, attributes, shown

from unlearnlib.book import index as chapter
from unlearnlib.book import learning_rates, main_table
from unlearnlib.study import MAIN_SEEDS

OPENED = attributes(NOTEBOOKS / "index.ipynb", "chapter")


@pytest.mark.parametrize("name", sorted(OPENED))
def test_what_the_first_page_opens_is_the_chapters_own_function(name: str) -> None:
    function = getattr(chapter, name)
    assert function.__module__.startswith("unlearnlib.book.")
    assert function.__module__ != chapter.__name__
    assert getattr(sys.modules[function.__module__], name) is function


def test_the_first_page_opens_all_that_its_module_offers() -> None:
    offered = {name for name, thing in vars(chapter).items() if callable(thing)}
    assert offered == OPENED


def test_the_first_page_says_of_records_what_the_chapters_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(synthetic.write_results(tmp_path / "data")))
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    pages = shown("index", {}, monkeypatch)
    main, baselines = synthetic.main_study(), synthetic.baselines()
    assert len({r.spec["seed"] for r in main}) == len(MAIN_SEEDS)
    assert main_table.findings_in_words(main_table.findings(main, baselines)) in pages
    assert learning_rates.robustness_in_words(synthetic.rates_study(), baselines) in pages
    figures = [page for page in pages if "<figure" in page]
    assert len(figures) == 4 == len(list((tmp_path / "figures").glob("*-narrow.svg")))
