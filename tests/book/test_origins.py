"""Every number of a table leads to its records, and figures and tables have numbers."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from books import extension, small_book

from unlearnlib.book import exhibits, guidelines, origins
from unlearnlib.book.main_table import main_table, settings_table
from unlearnlib.book.target_check import target_check
from unlearnlib.experiment.experiment import Source
from unlearnlib.experiment.searches import step_records
from unlearnlib.folders import data_folder
from unlearnlib.store import read_parquet, run_key
from unlearnlib.study.searches import load_searches

BASELINES = synthetic.baselines()
MAIN = synthetic.main_study()
RECORDS = [*MAIN, *BASELINES]
MADE = Source("", records=tuple(RECORDS))
FORMATS = {"figure": "Figure %s", "table": "Table %s"}
THEME = {"repository_url": "https://github.com/them/it", "repository_branch": "side"}


def keys(**wanted: object) -> set[str]:
    return {r.key for r in RECORDS if all(r.spec.get(k) == v for k, v in wanted.items())}


def test_a_row_is_of_the_runs_of_its_domain_and_method() -> None:
    table = main_table(MAIN, BASELINES)
    found = dict(zip(table.index, origins.cell_records(table, RECORDS), strict=True))
    for cell in found["Books", "GA + KL, in-dist."]:
        assert set(cell) == keys(domain="books", method="ga_kl_in_dist")
    (oracle,) = keys(domain="arxiv", baseline="oracle")
    (vanilla,) = keys(domain="arxiv", baseline="vanilla")
    assert set(found["arXiv", "Oracle (truth)"]) == {(oracle,)}
    # The paper's target is what vanilla scores.
    assert set(found["arXiv", "Paper’s target"]) == {(vanilla,)}


def test_a_column_may_name_the_domain_the_seed_or_the_value_of_a_setting() -> None:
    table = settings_table(MAIN)
    found = dict(zip(table.index, origins.cell_records(table, RECORDS), strict=True))
    assert set(found["GA"][0]) == keys(domain="arxiv", method="ga")
    seeds = pd.DataFrame({"seed 0": [1], "seed 1": [2]}, index=["GA"])
    ((zero, one),) = origins.cell_records(seeds, MAIN)
    assert set(zero) == keys(method="ga", seed=0) and set(one) == keys(method="ga", seed=1)
    rates = sorted({r.spec["learning_rate"] for r in MAIN})
    assert len(rates) > 1
    table = pd.DataFrame([[0.0] * len(rates)], index=["GA"], columns=[f"{r:g}" for r in rates])
    (row,) = origins.cell_records(table, MAIN)
    for rate, cell in zip(rates, row, strict=True):
        assert set(cell) == keys(method="ga", learning_rate=rate)


def test_a_row_that_names_no_run_has_no_record() -> None:
    table = pd.DataFrame({"x": [1.0, 2.0]}, index=["All methods", "Vanilla"])
    # Without baselines among them, vanilla's row must not be given all runs either.
    assert origins.cell_records(table, MAIN) == [[()], [()]]


def test_a_table_of_baselines_alone_is_of_those_of_the_domain() -> None:
    index = pd.MultiIndex.from_tuples([("arXiv", "1"), ("Books", "1")])
    table = pd.DataFrame({"first documents": [0.9, 1.1]}, index=index)
    ((arxiv,), (books,)) = origins.cell_records(table, BASELINES)
    both = {r.key for r in BASELINES}
    assert set(arxiv) == keys(domain="arxiv") & both and len(arxiv) == 2
    assert set(books) == keys(domain="books") & both
    assert origins.cell_records(table, RECORDS) == [[()], [()]]


def test_what_a_table_carries_comes_out_as_it_went_in() -> None:
    table = main_table(MAIN, BASELINES)
    page, found = origins.unpacked(exhibits.table_html(table, "Main", MADE))
    assert page.count(origins.PLACE) == 1 and set(found) == {"csv", "records"}
    again = pd.read_csv(io.StringIO(found["csv"]), header=[0, 1], index_col=[0, 1])
    assert again.shape == table.shape
    assert all(f'"{key}"' in found["records"] for key in keys())


def test_without_records_nothing_is_linked() -> None:
    page = exhibits.table_html(main_table(MAIN, BASELINES), "Main")
    assert "data-records" not in page and "<!-- records" not in page


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = exhibits.figure_html(
        target_check(BASELINES), "Check.", Source("", records=tuple(BASELINES)), "check"
    )
    shown += exhibits.table_html(main_table(MAIN, BASELINES), "Main", MADE)
    root = "# Root\n\n```{toctree}\nbook/_run/chapter\n```\n\n```{exhibits}\n```\n\n"
    root += "See {numref}`figure-check`, {numref}`table-main` and {ref}`table-main`.\n"
    return small_book(
        tmp_path_factory.mktemp("book"),
        root,
        shown,
        extensions=["exhibits", "record_pages"],
        html_theme_options=THEME,
        numfig=True,
        numfig_format=FORMATS,
    )


def test_figures_and_tables_are_numbered_and_can_be_referred_to(built: Path) -> None:
    index = (built / "index.html").read_text(encoding="utf-8")
    chapter = (built / "book/_run/chapter.html").read_text(encoding="utf-8")
    assert '<figcaption><span class="caption-number">Figure 1. </span>Check.' in chapter
    assert '<caption><span class="caption-number">Table 1. </span>Main' in chapter
    for words in ("Figure 1", "Table 1"):
        assert f'<span class="std std-numref">{words}</span>' in index
        assert f"<p>{words}: <a" in index
    assert '<span class="std std-ref">Main</span>' in index


def test_a_table_can_be_had_as_csv(built: Path) -> None:
    chapter = (built / "book/_run/chapter.html").read_text(encoding="utf-8")
    assert '<a href="../../tables/table-main.csv" download>' in chapter
    assert (built / "tables/table-main.csv").read_text() == main_table(MAIN, BASELINES).to_csv()


def test_each_row_leads_to_key_spec_command_and_commit(built: Path) -> None:
    chapter = (built / "book/_run/chapter.html").read_text(encoding="utf-8")
    page = (built / "book/records/chapter.html").read_text(encoding="utf-8")
    links = re.findall(
        r'href="\.\./\.\./book/records/chapter\.html\?only=([^#"]+)(#\w+)?"', chapter
    )
    assert len(links) == main_table(MAIN, BASELINES).shape[0]
    named = {key for only, _ in links for key in only.split(",")}
    assert named == {key[: exhibits.SHORT] for key in keys()}
    assert all(f'<li id="{key}"' in page for key in named)
    assert all(f"<code>{key}</code>" in page for key in keys())
    assert page.count("learning_rate") >= len(MAIN) and page.count("<code>unlearn run") == len(MAIN)
    assert 'href="?of=figure-check#of-figure-check"' in page and "6 of the records" in page


def test_a_commit_is_linked_and_says_when_it_was_not_clean() -> None:
    made = {"key": "a" * 64, "kind": "run", "status": "diverged", "device": "cpu", "seconds": 1.0}
    made |= {"spec": {"method": "ga"}, "command": "unlearn run <x>", "started": "2026-01-02T03"}
    module = extension("record_pages")
    shown = module.entry({**made, "commit": "0123456789abcdef-dirty"}, {}, [2], "https://r")
    assert 'href="https://r/commit/0123456789ab">0123456789</a> with changes' in shown
    assert "unlearn run &lt;x&gt;" in shown and "(diverged)" in shown and 'data-of="2"' in shown


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to parse the script")
def test_the_script_of_the_records_is_sound() -> None:
    script = Path(__file__).resolve().parents[2] / "book/_static/records.js"
    done = subprocess.run(["node", "--check", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_run_of_a_search_is_a_record_with_its_key_and_command() -> None:
    """Its key is that of its spec and of what the published runs of its domain rest on."""
    bases = {b.basis for b in read_parquet(data_folder() / "results" / "lab-baselines.parquet")}
    searches = load_searches("lab")
    made = [run for search in searches for run in step_records("lab", search)]
    assert len(made) == sum(len(search.steps) for search in searches) > 20
    for run in made:
        assert run.key in {run_key(run.spec, basis) for basis in bases}
        assert run.provenance["command"].startswith("unlearn run --profile lab --domain ")


def test_each_row_of_a_search_leads_to_its_run_and_each_search_to_all_of_its_runs() -> None:
    first, second, *_ = [search for search in load_searches("lab") if len(search.steps) > 1]
    runs = step_records("lab", first)
    source = Source("unlearn notebook guidelines", records=runs)
    page = exhibits.table_html(
        guidelines.trace(first), "A search", source, rows=guidelines.step_keys(first)
    )
    linked = re.findall(r'<th scope="row"[^>]* data-records="(\w+)"', page)
    assert linked == [run.key[: exhibits.SHORT] for run in runs]
    listed = json.loads(origins.unpacked(page)[1]["records"])
    assert [origin["key"] for origin in listed] == [run.key for run in runs]
    rows = [guidelines.Judged(search, 1, 0.1, 0.1, 0.1, 1) for search in (first, second)]
    page = exhibits.table_html(
        guidelines.searches_table(rows), "Searches", source, rows=guidelines.searches_keys(rows)
    )
    assert [len(keys.split()) for keys in re.findall(r'data-records="([^"]*)"', page)] == [
        len(first.steps),
        len(second.steps),
    ]
