"""A page of the book is light, shows what its links lead to, and says where it is published."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from books import chapter, extension, small_book
from matplotlib.figure import Figure

from unlearnlib.figures import DescribedFigure, image_html, to_svg

ROOT = Path(__file__).resolve().parent.parent
THEME = {"repository_url": "https://github.com/Them/it", "repository_branch": "side"}
FORMATS = {"figure": "Figure %s", "table": "Table %s"}
INDEX = """# Root

```{toctree}
book/_run/chapter
words
```

Every run has a dose. Runs have doses, and a [run](words.md) of `a dose`. See {numref}`figure-x`
and {term}`Dose`.
"""
WORDS = """# Words

Here $x^2$ is a formula.

```{glossary}
Dose
  Learning rate times updates: $r t$. A dose is a dose.

Run
  One unlearning.
```
"""


def drawing(*, is_narrow: bool = False) -> DescribedFigure:
    figure = DescribedFigure(figsize=(4.4, 3.0) if is_narrow else (7.5, 3.0))
    ax = figure.add_subplot()
    ax.plot([0, 1, 2], [1, 0.5, 2])
    ax.set_title("A curve" if is_narrow else "A wide curve")
    figure.alt = "A curve that falls and rises."
    if not is_narrow:
        figure.narrow = lambda: drawing(is_narrow=True)
    return figure


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    (folder / "words.md").write_text(WORDS, encoding="utf-8")
    around = ' class="exhibit" id="figure-x" data-title="X"'
    return small_book(
        folder,
        INDEX,
        image_html(drawing(), "A caption of the figure.", around=around),
        extensions=[
            *("sphinx.ext.mathjax", "sphinx_tippy", "sphinx_sitemap", "sphinxext.opengraph"),
            *("exhibits", "light_pages", "previews", "publication"),
        ],
        html_theme_options=THEME,
        html_title="A title: all of it",
        author="Those who made it",
        numfig=True,
        numfig_format=FORMATS,
        myst_enable_extensions=["dollarmath"],
        mathjax_path="mathjax/tex-chtml.js",
        tippy_js=["previews.js"],
        tippy_enable_wikitips=False,
        tippy_enable_doitips=False,
        tippy_tip_selector="figure",
        sitemap_url_scheme="{link}",
    )


def read(built: Path, name: str) -> str:
    return (built / name).read_text(encoding="utf-8")


def test_a_drawing_is_a_file_for_each_screen_and_half_as_long(built: Path) -> None:
    page = read(built, "book/_run/chapter.html")
    assert ";base64," not in page
    assert re.search(r'<source [^>]*srcset="\.\./\.\./_images/figure-x-narrow\.svg"', page)
    assert re.search(r'<img loading="lazy"[^>]* src="\.\./\.\./_images/figure-x\.svg"', page)
    for name, figure in (("figure-x", drawing()), ("figure-x-narrow", drawing(is_narrow=True))):
        short = read(built, f"_images/{name}.svg")
        assert short.startswith("<") and len(short) < 0.7 * len(to_svg(figure))


def test_a_page_keeps_the_place_of_a_drawing_free() -> None:
    shown = image_html(drawing(), "C")
    assert re.search(r'<source [^>]*width="422" height="288">', shown)
    assert re.search(r'<img [^>]*width="720" height="288">', shown)


def test_the_cells_of_a_heat_map_are_an_image() -> None:
    def drawn() -> str:
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().pcolormesh([[float(i * j) for i in range(40)] for j in range(40)])
        return to_svg(figure)

    assert drawn().count("<image") == 1 and len(drawn()) < 40_000
    assert drawn() == drawn()


def test_two_images_of_one_exhibit_are_two_files_and_the_same_one_is_one() -> None:
    one, two = (base64.b64encode(text).decode() for text in (b"<svg>1</svg>", b"<svg>2</svg>"))
    images = "".join(f'<img src="data:image/svg+xml;base64,{data}">' for data in (one, two, one))
    text, found = extension("light_pages").image_files(
        f'<figure class="exhibit" id="figure-x" data-title="X">{images}</figure>'
    )
    assert sorted(found.values()) == [b"<svg>1</svg>", b"<svg>2</svg>"] and "figure-x.svg" in found
    assert all(f'src="_images/{name}"' in text for name in found)


def test_a_notebook_that_is_offered_has_no_output_and_no_path(built: Path) -> None:
    offered = json.loads(read(built, "_sources/book/_run/chapter.ipynb"))
    assert all(not cell.get("outputs") for cell in offered["cells"])
    ran: dict[str, Any] = chapter("shown")
    ran["metadata"]["papermill"] = {"input_path": "/home/me/x.ipynb"}
    ran["cells"][1]["metadata"]["papermill"] = {"duration": 1.0}
    ran["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "now"}
    kept = extension("light_pages").cleared(ran)
    assert "papermill" not in json.dumps(kept) and "/home/me" not in json.dumps(kept)
    assert [cell["source"] for cell in kept["cells"]] == [cell["source"] for cell in ran["cells"]]
    assert kept["cells"][1]["metadata"] == {"tags": ["parameters"]}
    assert kept["metadata"]["kernelspec"]["name"] == "python3"


def test_mathjax_is_asked_for_by_pages_with_formulas_alone(built: Path) -> None:
    assert "tex-chtml" in read(built, "words.html")
    assert "tex-chtml" not in read(built, "index.html")


def test_what_no_page_names_is_not_published(tmp_path: Path) -> None:
    names = ["used.js", "used.css", "deep.woff2", "deep.ttf", "left.js", "used.js.map"]
    names += ["mathjax/tex-chtml.js", "mathjax/tex-svg.js", "mathjax/sre/a.json"]
    names += ["mathjax/output/chtml/fonts/woff-v2/F.woff", "mathjax/output/svg/fonts/tex.js"]
    for name in names:
        path = tmp_path / "_static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mentions tex-svg.js", encoding="utf-8")
    (tmp_path / "_static/used.css").write_text("src: url(deep.woff2), url(deep.ttf)")
    (tmp_path / "page.html").write_text('<script src="_static/used.js"><link href="used.css">')
    gone = {p.relative_to(tmp_path / "_static").as_posix() for p in module().unnamed(tmp_path)}
    assert gone == {
        *("deep.ttf", "left.js", "used.js.map", "mathjax/tex-svg.js", "mathjax/sre/a.json"),
        "mathjax/output/svg/fonts/tex.js",
    }


def test_icons_that_nothing_names_are_left_out() -> None:
    script = 'var a={angle:[1,2,[],"f105","M1"],"arrow-up":[1,2,[8593,"up"],"f062",["M2","M3"]],'
    script += 'bars:[4,5,["navicon"],"f0c9","M4"]},b={c:[1,2]};'
    kept = module().spared_icons(script, {"navicon", "arrow-up"})
    assert kept == (
        'var a={"arrow-up":[1,2,[8593,"up"],"f062",["M2","M3"]],'
        'bars:[4,5,["navicon"],"f0c9","M4"]},b={c:[1,2]};'
    )


def module() -> ModuleType:
    return extension("light_pages")


def test_the_first_mention_of_a_term_on_a_page_links_to_the_glossary(built: Path) -> None:
    page = read(built, "index.html")
    linked = re.findall(
        r'class="term reference internal" href="words\.html#term-(\w+)">(\w+)<', page
    )
    assert linked == [("Run", "run"), ("Dose", "dose")]
    # Not on the page that defines them, and not the formula or the word itself.
    assert "term reference" not in read(built, "words.html")


def test_a_preview_has_what_its_link_leads_to_and_nothing_to_press(built: Path) -> None:
    (script,) = (built / "_static/tippy").glob("index*.js")
    assert script.name == "index.js"
    assert 'src="_static/tippy/index.js' in read(built, "index.html")
    (line,) = re.findall(r"selector_to_html = (.*)", script.read_text(encoding="utf-8"))
    tips = json.loads(line)
    term = tips['a[href="words.html#term-Dose"]']
    assert term.startswith("<dl>") and "Learning rate times updates" in term
    figure = tips['a[href="book/_run/chapter.html#figure-x"]']
    assert 'src="_images/figure-x.svg"' in figure or 'src="book/_run/../../_images' in figure
    assert "Figure 1. " in figure and "A caption of the figure." in figure
    for tip in tips.values():
        assert not re.search(r'<a |<source|<button|<details| id="', tip)


def test_a_preview_of_a_table_has_its_first_rows() -> None:
    rows = "".join(f"<tr><td>{i}</td></tr>" for i in range(20))
    table = f'<div class="exhibit" id="t"><table><tbody>{rows}</tbody></table></div>'
    short = extension("previews").shortened(table)
    assert short.count("<tr>") == 6 and ' id="' not in short


def test_a_page_says_where_it_is_published(built: Path) -> None:
    page, base = read(built, "words.html"), "https://them.github.io/it/"
    assert f'<link rel="canonical" href="{base}words.html"' in page
    assert f'property="og:image" content="{base}_static/social.png"' in page
    assert f'property="og:url" content="{base}words.html"' in page
    assert f"<loc>{base}words.html</loc>" in read(built, "sitemap.xml")
    assert (built / "_static/social.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("https://github.com/Them/it", "https://them.github.io/it/"),
        ("https://github.com/them/it/", "https://them.github.io/it/"),
        ("https://github.com/Them/them.github.io", "https://them.github.io/"),
        ("https://example.org/them/it", ""),
        ("", ""),
    ],
)
def test_the_address_of_the_pages_is_that_of_the_repository(repository: str, address: str) -> None:
    assert extension("publication").pages_address(repository) == address


def test_a_heavy_book_is_refused_by_name(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    (tmp_path / "light.html").write_bytes(b"x" * 1000)
    assert build.too_heavy(tmp_path) == []
    (tmp_path / "heavy.html").write_bytes(b"x" * 700_001)
    (message,) = build.too_heavy(tmp_path)
    assert message.startswith("heavy.html has 700 kB, more than 700")
    (tmp_path / "film.bin").write_bytes(bytes(14_400_000))
    assert "film.bin (14,400 kB)" in build.too_heavy(tmp_path)[1]
