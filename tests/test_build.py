"""The book as one page and as PDF: what `make single-page` and `make pdf` stand on."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import synthetic
from books import small_book

from unlearnlib.store import Store

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_book_runs_its_pages_and_no_notebook_beside_them(build: ModuleType) -> None:
    templates = sorted(build.TEMPLATES.glob("*.ipynb"))
    beside = {path.stem for path in templates} - {p.stem for p in build.of_the_book(templates)}
    # One trains for as long as its reader allows; of the other no records are published yet.
    assert beside == {"open_in_colab", "modern_methods"}


# --- one page

INDEX = """# Root

```{toctree}
:caption: A part
book/_run/chapter
one
two
```

See {ref}`further <further>`, {ref}`last <last>` and the [figure](book/_run/chapter.ipynb).

## Summary

Of the root.

```{exhibits}
```
"""
ONE = "# One\n\n```{toctree}\nbelow\n```\n\n(further)=\n## Summary\n\nOf one; [here](#summary).\n"
BELOW = "# Below\n\n## Summary\n\nOf the page below, $x^2$.\n"
TWO = "# Two & more\n\n(last)=\n## Summary\n\nOf two.\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("single")
    for name, text in (("one", ONE), ("below", BELOW), ("two", TWO)):
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    shown = '<figure class="exhibit" id="figure-x" data-title="X">x<!-- repeat figure --></figure>'
    theme = {"repository_url": "https://github.com/them/it", "repository_branch": "side"}
    built = small_book(
        folder,
        INDEX,
        shown,
        extensions=["exhibits", "single_page"],
        builder="singlehtml",
        html_theme_options=theme,
        html_title="The <title>",
        author="Those who made it",
        myst_heading_anchors=2,
        myst_enable_extensions=["dollarmath"],
        suppress_warnings=["myst.xref_ambiguous"],
    )
    return (built / "index.html").read_text(encoding="utf-8")


def test_the_single_page_has_every_chapter_once_on_one_level(page: str) -> None:
    article = page[page.index('class="title-page"') :]
    titles = re.findall(r"<h1>([^<]*)<", article)
    assert titles == ["Root", "A chapter", "One", "Below", "Two &amp; more"]
    assert re.findall(r"<h2>(Summary)<", article) == ["Summary"] * 4


def test_the_single_page_opens_with_title_and_contents(page: str) -> None:
    start, contents = page.index("The &lt;title&gt;</p>"), page.index('aria-label="Contents"')
    assert start < contents < page.index("<h1>Root", contents)
    listed = page[contents : page.index("</nav>", contents)]
    assert re.findall(r'<li><a href="#document-([^"]+)">', listed) == [
        "index",
        "book/_run/chapter",
        "one",
        "below",
        "two",
    ]
    assert "<p>A part</p>" in listed and "Two &amp; more" in listed


def test_on_the_single_page_an_id_is_one_thing_and_every_link_leads_to_one(page: str) -> None:
    ids = Counter(re.findall(r'\sid="([^"]+)"', page))
    assert [name for name, count in ids.items() if count > 1] == []
    links = [name for name in re.findall(r'href="#([^"]+)"', page)]
    assert links and [name for name in links if name not in ids] == []


def test_on_the_single_page_links_lead_to_the_chapter_that_was_meant(page: str) -> None:
    def under(anchor: str) -> str:
        return page[page.index(f'id="{anchor}"') :].partition("<p>")[2].partition("<")[0]

    targets = dict(re.findall(r'href="#([^"]+)"><span class="std std-ref">(\w+)<', page))
    meant = {words: under(anchor) for anchor, words in targets.items()}
    assert meant == {"further": "Of one; ", "last": "Of two."}
    assert 'href="#figure-x"' in page[page.index('class="exhibits') :]


# --- what is run again


def test_a_notebook_is_run_again_when_the_local_store_has_other_records(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def execute(template: Path, result: Path, given: Mapping[str, str], *, progress: bool) -> None:
        ran.append(template.stem)
        result.write_text("{}")

    monkeypatch.setattr(build, "execute", execute)
    monkeypatch.setattr(build, "shared_inputs", lambda: iter(()))
    monkeypatch.setattr(build, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "a store"))
    templates = [ROOT / "notebooks" / "index.ipynb"]
    for runs in (1, 1):
        build.execute_changed(templates, force=False)
        assert len(ran) == runs
    Store(tmp_path / "a store").put(synthetic.run("books", "ga"))  # as `unlearn study` does
    for runs in (2, 2):
        build.execute_changed(templates, force=False)
        assert len(ran) == runs


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_notebooks_run_at_a_time_and_one_that_fails_ends_the_others_that_wait(
    jobs: int, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from papermill.exceptions import PapermillExecutionError

    together = threading.Barrier(jobs, timeout=30)
    ran = []

    def execute(template: Path, result: Path, given: Mapping[str, str], *, progress: bool) -> None:
        ran.append(template.stem)
        together.wait()  # breaks unless so many run at a time
        if template.stem == "bad":
            raise PapermillExecutionError(0, 3, "1/0", "ZeroDivisionError", "by zero", [])
        result.write_text("{}")

    monkeypatch.setattr(build, "execute", execute)
    monkeypatch.setattr(build, "shared_inputs", lambda: iter(()))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "RESULTS", tmp_path / "results")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    templates = []
    for name in (*(f"good{n}" for n in range(jobs)), "bad", *(f"other{n}" for n in range(9))):
        templates.append(tmp_path / f"{name}.ipynb")
        templates[-1].write_text("{}")
    build.execute_changed(templates[:jobs], force=False, jobs=jobs)
    assert sorted(ran) == [f"good{n}" for n in range(jobs)]
    together.reset()
    with pytest.raises(SystemExit, match=r"bad\.ipynb: the cell In \[3\] failed"):
        build.execute_changed(templates, force=False, jobs=jobs)
    assert len(ran) < len(templates)
    assert not (tmp_path / "results" / "bad.sha256").exists()


# --- the PDF


def a_browser(folder: Path, script: str) -> Path:
    path = folder / "browser"
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_browser_that_is_named_comes_first(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = a_browser(tmp_path, "")
    monkeypatch.setenv("CHROMIUM", str(browser))
    assert build.find_browser() == str(browser)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "gone"))
    assert build.find_browser() is None


def test_without_a_browser_make_pdf_says_so_before_it_builds_anything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "book/build.py"), "--pdf"],
        env={"PATH": str(tmp_path), "CHROMIUM": "gone"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "There is no browser" in done.stderr


def test_the_page_is_printed_by_the_browser(build: ModuleType, tmp_path: Path) -> None:
    script = (
        "given = dict(w.split('=', 1) for w in sys.argv[1:] if '=' in w)\n"
        "pathlib.Path(given['--print-to-pdf']).write_text(sys.argv[-1])"
    )
    page, pdf = tmp_path / "page.html", tmp_path / "book.pdf"
    build.print_pdf(page, pdf, str(a_browser(tmp_path, script)))
    assert pdf.read_text() == page.as_uri()


@pytest.mark.parametrize("script", ["sys.exit(3)", "pass"])
def test_a_browser_that_prints_nothing_is_an_error_and_leaves_no_old_book(
    script: str, build: ModuleType, tmp_path: Path
) -> None:
    pdf = tmp_path / "book.pdf"
    pdf.write_text("old")
    with pytest.raises(SystemExit, match="did not print the book"):
        build.print_pdf(tmp_path / "page.html", pdf, str(a_browser(tmp_path, script)))
    assert not pdf.exists()
