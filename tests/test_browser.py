"""The built book in a browser: every page at two widths, in the light and the dark scheme.

    .venv/bin/python -m pytest tests/test_browser.py --browser

The book is `_build/html`, or what $UNLEARN_BOOK names; a server of Python's own lends it on a
free port of this machine, and Chromium, as the system has it, is driven by Playwright, which
downloads nothing here. A page fails for what a reader would meet: an error on the console, a file
that does not come or comes from another host, an image that shows nothing or says nothing, a page
that is wider than the screen, and whatever breaks WCAG 2.2, levels A and AA, as far as axe can
tell. Each of these checks is also shown to fail, on a page made to break it.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
BOOK = Path(os.environ.get("UNLEARN_BOOK") or ROOT / "_build" / "html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), "")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
FIRST = "book/_run/index.html"
# Chromium's sandbox does not start for root; the rest keeps a test from talking to anyone.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# What cannot be mended from here: (axe's rule, the beginning of its selector), with the reason.
EXCEPTIONS: tuple[tuple[str, str], ...] = ()


# --- the book, and something to look at it with ------------------------------------------------


def pages_of(folder: Path) -> list[str]:
    """The pages below `folder`, as paths with slashes, sorted.

    Without the theme's macros, which are no pages, and without the book's address itself, which
    leads on to the first page.
    """
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    return sorted(path for path in found if path != "index.html" and path[:8] != "_static/")


def build() -> ModuleType:
    """book/build.py, which is on no path."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves `folder` on a free port; gives its address, with a slash at the end."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests, with a profile of its own that is empty."""
    if not CHROMIUM:
        pytest.skip("no Chromium or Chrome on the path: install one, as in `apt install chromium`")
    for module in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the Python package {module} is missing: run `make setup`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def book() -> Iterator[str]:
    """The address at which the built book is served."""
    if not (BOOK / "index.html").is_file():
        pytest.skip("there is no built book: run `make book`, or name one with UNLEARN_BOOK")
    with served(BOOK) as address:
        yield address


# --- the checks: each gives what is wrong, in words ----------------------------------------------


def watch(page: Any, base: str) -> list[str]:
    """A list that fills, while `page` loads, with errors, failed requests and other hosts."""
    found: list[str] = []

    def console(message: Any) -> None:
        # The console also tells of a file that did not come; the response says which.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            found.append(f"console error: {message.text}")

    def response(answer: Any) -> None:
        if answer.status >= 400:
            found.append(f"status {answer.status} for {answer.url}")

    def failed(request: Any) -> None:
        if request.url.startswith(base):
            found.append(f"request failed: {request.url}")

    def foreign(route: Any) -> None:
        found.append(f"request to another host: {route.request.url}")
        route.abort()

    page.on("console", console)
    page.on("pageerror", lambda error: found.append(f"script error: {error}"))
    page.on("response", response)
    page.on("requestfailed", failed)
    page.route(lambda url: not url.startswith(base), foreign)
    return found


def images(page: Any) -> list[str]:
    """Images that show nothing, and images that say nothing to those who do not see them."""
    return page.evaluate(
        """async () => {
            const found = [];
            for (const image of document.images) {
                const name = (image.currentSrc || image.src).slice(0, 80);
                image.loading = "eager";
                await image.decode().catch(() => {});
                if (!image.naturalWidth) found.push(`missing image: ${name}`);
                if (!image.alt.trim()) found.push(`no alternative text: ${name}`);
            }
            return found;
        }"""
    )


def overflow(page: Any) -> list[str]:
    """Whether the page scrolls sideways, and what in the text ends beyond the screen's edge.

    What lies in a box that itself scrolls is within reach and counts as fitting.
    """
    return page.evaluate(
        """() => {
            const found = [], root = document.documentElement, edge = root.clientWidth;
            if (root.scrollWidth > edge)
                found.push(`the page is ${root.scrollWidth} px wide, the screen ${edge} px`);
            const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
                || scrolls(e.parentElement));
            const main = document.querySelector("article") || document.body;
            for (const e of main.querySelectorAll("*")) {
                const box = e.getBoundingClientRect();
                if (box.width > 1 && box.right > edge + 1 && !scrolls(e)
                        && !e.closest("mjx-assistive-mml")) {  // which is for ears alone
                    const name = e.tagName.toLowerCase() + (e.id ? "#" + e.id : "");
                    found.push(`${name}.${e.className} ends at ${Math.round(box.right)} px`);
                }
            }
            return found.slice(0, 5);
        }"""
    )


def accessibility(page: Any) -> list[str]:
    """What breaks WCAG 2.2, levels A and AA, contrast of colours included, found by axe."""
    from axe_playwright_python.sync_playwright import Axe

    # Without `preload`, axe fetches no style sheets of its own, at addresses that are wrong.
    options = {"runOnly": WCAG, "resultTypes": ["violations"], "preload": False}
    found = []
    for violation in Axe().run(page, options=options).response["violations"]:
        places = []
        for node in violation["nodes"]:
            target = " ".join(map(str, node["target"]))
            if not any(violation["id"] == r and target.startswith(s) for r, s in EXCEPTIONS):
                reasons = (c["message"] for c in (*node["any"], *node["all"], *node["none"]))
                places.append(f"{target} ({'; '.join(reasons)})")
        if places:
            found.append(f"{violation['id']} in {len(places)} places: {', '.join(places[:3])}")
    return found


CHECKS: tuple[Callable[[Any], list[str]], ...] = (images, overflow, accessibility)


@contextmanager
def opened(chromium: Any, base: str, path: str, size: str, scheme: str) -> Iterator[Any]:
    """`path` in a fresh window, laid out and with everything unfolded: (page, what went wrong)."""
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=size == "phone",
        is_mobile=size == "phone",
        reduced_motion="reduce",  # a colour that is still changing has no contrast to judge
    )
    page = context.new_page()
    try:
        found = watch(page, base)
        page.goto(base + path, wait_until="load")
        page.evaluate(
            """async () => {
                await document.fonts.ready;
                await window.MathJax?.startup?.promise;
                for (const part of document.querySelectorAll("details")) part.open = true;
                await new Promise(requestAnimationFrame);
            }"""
        )
        yield page, found
    finally:
        context.close()


def problems(chromium: Any, base: str, path: str, size: str, scheme: str) -> list[str]:
    """Everything that is wrong with one page at one width in one scheme."""
    with opened(chromium, base, path, size, scheme) as (page, found):
        for check in CHECKS:
            found += check(page)
        return [f"{scheme}: {line}" for line in found]


class Links(HTMLParser):
    """The places that a page can be entered at, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, text in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(text or "")
            elif name in {"href", "src", "poster"} and text is not None:
                self.addresses.add(text)


def broken_links(folder: Path, root: Path | None = None, repository: str = "") -> list[str]:
    """Addresses in the pages below `folder` that lead nowhere in it, anchors included.

    Where `root` is given, so are files of the `repository` (its address) that `root` lacks.
    Links to other hosts are not followed.
    """
    read = {path: Links((folder / path).read_text(encoding="utf-8")) for path in pages_of(folder)}
    in_repository = re.compile(
        rf"{re.escape(urlsplit(repository).path)}/(?:blob|tree|edit|raw)/[^/]+/([^?#]+)"
    )
    found = []
    for page, links in read.items():
        for address in sorted(links.addresses):
            # A host that no one has: what leaves it was not relative.
            url = urlsplit(urljoin(f"http://book.invalid/{page}", address))
            if url.netloc != "book.invalid":
                match = in_repository.search(url.path) if root and repository else None
                if root and match and not (root / unquote(match[1])).exists():
                    found.append(f"{page}: {address}: the repository has no such file")
                continue
            target = unquote(url.path).lstrip("/")
            if target.endswith("/") or not target:
                target += "index.html"
            anchors = read[target].anchors if target in read else {unquote(url.fragment)}
            if not (folder / target).is_file():
                found.append(f"{page}: {address}: no such file")
            elif url.fragment and unquote(url.fragment) not in anchors:
                found.append(f"{page}: {address}: no such place on the page")
    return found


# --- the book --------------------------------------------------------------------------------


# Without a book one test remains, so that the reason for skipping is told.
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", pages_of(BOOK) or ["index.html"])
def test_a_page_of_the_book_is_sound(chromium: Any, book: str, path: str, size: str) -> None:
    found = [line for scheme in SCHEMES for line in problems(chromium, book, path, size, scheme)]
    assert not found, "\n".join(found)


def test_the_address_of_the_book_leads_to_its_first_page(chromium: Any, book: str) -> None:
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(book)
        page.wait_for_url(f"**/{FIRST}")


def test_every_link_of_the_book_leads_somewhere(book: str) -> None:
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    (repository,) = re.findall(r"^repository:\n  url: (\S+)$", config, re.M)
    found = broken_links(BOOK, ROOT, repository)
    assert not found, "\n".join(found)


def test_the_book_is_light(book: str) -> None:
    found = build().too_heavy(BOOK)
    assert not found, "\n".join(found)
    inlined = [p for p in pages_of(BOOK) if ";base64," in (BOOK / p).read_text(encoding="utf-8")]
    assert not inlined, f"images within the HTML of {', '.join(inlined)}"


def test_the_book_tells_nothing_of_the_machine_that_built_it(book: str) -> None:
    """No path of it, and no output in the notebooks that a page offers."""
    places = [f"{place}/" for place in (ROOT, Path.home()) if place != Path("/")]
    for path in BOOK.rglob("*"):
        if path.suffix in {".html", ".js", ".json", ".ipynb", ".svg", ".csv", ".md", ".xml"}:
            text = path.read_text(encoding="utf-8")
            assert not [place for place in places if place in text], path
    sources = list((BOOK / "_sources").rglob("*.ipynb"))
    assert sources
    for path in sources:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert "papermill" not in notebook["metadata"], path
        for cell in notebook["cells"]:
            assert not cell.get("outputs") and set(cell["metadata"]) <= {"tags"}, path


def test_formulas_are_set_and_told_to_those_who_listen(chromium: Any, book: str) -> None:
    with opened(chromium, book, "book/methods.html", "desktop", "light") as (page, found):
        assert page.locator("mjx-container").count()
        assert page.locator("mjx-assistive-mml").count()
        assert not found, "\n".join(found)


def test_every_icon_is_drawn_though_few_are_loaded(chromium: Any, book: str) -> None:
    assert (BOOK / "_static/scripts/fontawesome.js").stat().st_size < 200_000
    for path in (FIRST, "search.html"):
        with opened(chromium, book, path, "desktop", "light") as (page, found):
            page.wait_for_selector("svg.svg-inline--fa", state="attached")
            assert not page.locator('i[class*="fa-"]').count()
            # One that is missing is drawn as a group of shapes that ask for it.
            assert not page.locator("svg.svg-inline--fa > g").count()
            assert page.locator("svg.svg-inline--fa > path").count() > 5
            assert not found, "\n".join(found)


def test_a_page_without_formulas_loads_no_mathjax(book: str) -> None:
    for path in pages_of(BOOK):
        text = (BOOK / path).read_text(encoding="utf-8")
        assert ("tex-chtml" in text) == bool(re.search(r'class="math\b', text)), path


def test_a_phone_loads_the_drawing_for_phones_alone(chromium: Any, book: str) -> None:
    for size, narrow in (("phone", True), ("desktop", False)):
        asked: list[str] = []
        width, height = SIZES[size]
        with chromium.new_context(viewport={"width": width, "height": height}) as context:
            page = context.new_page()
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(book + FIRST, wait_until="load")
            images(page)
        drawn = [url for url in asked if "/_images/figure-" in url]
        assert drawn and all(url.endswith("-narrow.svg") == narrow for url in drawn)


def first_link(page: Any, kind: str) -> Any:
    """A link in the text of a page that leads to a place of that kind."""
    return page.locator(f"article.bd-article a[data-preview]{kind}").first


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("book/question.html", ".term"),
        ("book/question.html", '[href*="references.html#"]'),
        ("book/exhibits.html", '[href*="#figure-"]'),
        ("book/exhibits.html", '[href*="#table-"]'),
    ],
)
def test_a_link_shows_what_it_leads_to(chromium: Any, book: str, path: str, kind: str) -> None:
    for scheme in SCHEMES:
        with opened(chromium, book, path, "desktop", scheme) as (page, found):
            link, preview = first_link(page, kind), page.locator("#preview")
            link.scroll_into_view_if_needed()
            link.hover()
            preview.wait_for(state="visible")
            assert preview.inner_text().strip() or preview.locator("img").count()
            assert link.get_attribute("aria-describedby") == "preview"
            found += images_in(page, "#preview") + accessibility(page)
            page.keyboard.press("Escape")
            preview.wait_for(state="hidden")
            page.keyboard.press("Shift")  # from now on the focus counts as one of the keyboard
            link.focus()
            preview.wait_for(state="visible")
            assert not found, "\n".join(found)


def images_in(page: Any, place: str) -> list[str]:
    """Images in a part of a page that show nothing."""
    return page.evaluate(
        """async (place) => {
            const found = [];
            for (const image of document.querySelectorAll(`${place} img`)) {
                await image.decode().catch(() => {});
                if (!image.naturalWidth) found.push(`missing image: ${image.src}`);
            }
            return found;
        }""",
        place,
    )


def test_a_row_leads_to_its_record(chromium: Any, book: str) -> None:
    rows = (p for p in pages_of(BOOK) if 'class="origin"' in (BOOK / p).read_text("utf-8"))
    if (path := next(rows, None)) is None:
        pytest.skip("no table of this book names its records")
    with opened(chromium, book, path, "desktop", "light") as (page, found):
        images(page)  # what is under way when the page is left would count as failed
        link = page.locator("a.origin").first
        keys = link.get_attribute("href").partition("only=")[2].partition("#")[0].split(",")
        link.click()
        page.wait_for_selector(".records-shown:visible")
        shown = page.locator("ol.records > li:visible")
        assert [entry.get_attribute("id") for entry in shown.all()] and shown.count() == len(keys)
        assert {entry.get_attribute("id") for entry in shown.all()} == set(keys)
        page.click(".records-shown a")
        page.wait_for_url(lambda url: "?" not in url)
        page.locator("ol.records > li").first.wait_for(state="visible")
        assert page.locator("ol.records > li:visible").count() > len(keys)
        assert not found, "\n".join(found)


def test_the_pages_say_where_they_are_published(book: str) -> None:
    sitemap = (BOOK / "sitemap.xml").read_text(encoding="utf-8")
    listed = set(re.findall(r"<loc>([^<]+)</loc>", sitemap))
    assert (BOOK / ".nojekyll").is_file()
    for path in pages_of(BOOK):
        text = (BOOK / path).read_text(encoding="utf-8")
        (canonical,) = re.findall(r'<link rel="canonical" href="([^"]+)"', text)
        assert canonical.endswith("/" + path)
        if path.startswith("book/") and "/records/" not in path:
            assert canonical in listed and f'property="og:url" content="{canonical}"' in text
            (card,) = re.findall(r'property="og:image" content="([^"]+)"', text)
            assert (BOOK / card.removeprefix(canonical.removesuffix(path))).is_file()


@pytest.mark.parametrize("menu", ["primary", "secondary"])
def test_a_menu_of_a_phone_opens_and_is_sound(chromium: Any, book: str, menu: str) -> None:
    for scheme in SCHEMES:
        with opened(chromium, book, FIRST, "phone", scheme) as (page, found):
            page.click(f"button.{menu}-toggle:visible")
            page.wait_for_selector(f"#pst-{menu}-sidebar-modal[open] nav a")
            found += overflow(page) + accessibility(page)
            assert not found, "\n".join(found)


def test_the_search_finds_a_word_of_the_book(chromium: Any, book: str) -> None:
    for scheme in SCHEMES:
        with opened(chromium, book, "search.html?q=perplexity", "phone", scheme) as (page, found):
            page.wait_for_selector("text=Search finished")
            assert page.locator("#search-results li a").count()
            found += overflow(page) + accessibility(page)
            assert not found, "\n".join(found)


# --- the checks themselves: each is seen to fail --------------------------------------------------

GOOD = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>A page</title><link rel="icon" href="data:,"></head>
<body><main><h1 id="top">A page</h1>{}</main></body>
</html>"""
# What is wrong, what is said about it, and the line of the page that makes it so.
BAD = {
    "console": ("console error: it broke", "<script>console.error('it broke')</script>"),
    "script": ("script error: nothing", "<script>nothing</script>"),
    "file": ("status 404 for", "<script src='absent.js'></script>"),
    "host": ("request to another host", "<script src='http://book.invalid/a.js'></script>"),
    "image": ("missing image", "<img alt='A figure' src='data:image/png;base64,AAAA'>"),
    "alternative": ("no alternative text", "<img alt='' src='data:image/png;base64,AAAA'>"),
    "width": ("the page is 2000 px wide", "<p style='width: 2000px; margin: 0 -8px'>wide</p>"),
    "cut": (
        "b. ends at 2000 px",
        "<p style='overflow: hidden; margin: 0 -8px'>"
        "<b style='display: block; width: 2000px'>cut off</b></p>",
    ),
    "contrast": ("color-contrast", "<p style='color: #aaa; background: #fff'>pale</p>"),
    "name": ("link-name", "<a href='#top'></a>"),
    "scheme": (
        "color-contrast in 1 places: #top",
        "<style>@media (prefers-color-scheme: dark) { body { background: #111 } }</style>",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_page_is_found_out(chromium: Any, tmp_path: Path, fault: str) -> None:
    complaint, line = BAD[fault]
    (tmp_path / "page.html").write_text(GOOD.format(line), encoding="utf-8")
    with served(tmp_path) as base:
        found = problems(chromium, base, "page.html", "phone", "dark")
    assert any(words.startswith(f"dark: {complaint}") for words in found), found


def test_a_good_page_is_left_alone(chromium: Any, tmp_path: Path) -> None:
    table = "<div style='overflow: auto' tabindex='0'><p style='width: 2000px'>scrolls</p></div>"
    (tmp_path / "page.html").write_text(GOOD.format(table), encoding="utf-8")
    with served(tmp_path) as base:
        for size in SIZES:
            assert problems(chromium, base, "page.html", size, "light") == []


def test_a_link_that_leads_nowhere_is_found_out(tmp_path: Path) -> None:
    repository = "https://host.invalid/owner/name"
    links = {
        "b.html": "b.html: no such file",
        "#absent": "#absent: no such place on the page",
        "below/c.html#absent": "below/c.html#absent: no such place on the page",
        f"{repository}/blob/main/absent.py": "the repository has no such file",
    }
    fine = [
        "#top",
        "below/c.html#top",
        "below/",
        "https://elsewhere.invalid/x",
        "mailto:a@b.invalid",
    ]
    fine.append(f"{repository}/blob/main/a.html")
    (tmp_path / "below").mkdir()
    for name in ("below/c.html", "below/index.html"):
        (tmp_path / name).write_text(GOOD.format(""), encoding="utf-8")
    anchors = "".join(f"<a href='{address}'>x</a>" for address in (*links, *fine))
    (tmp_path / "a.html").write_text(GOOD.format(anchors), encoding="utf-8")
    found = broken_links(tmp_path, tmp_path, repository)
    assert len(found) == len(links)
    for complaint in links.values():
        assert any(line.endswith(complaint) for line in found), complaint
