"""A Sphinx extension: hover previews by sphinx-tippy, short, and terms that link to the glossary.

sphinx-tippy collects, for every link into the book, the HTML of what it leads to. Here that is cut
down to what fits beside a line of text: no ids (each is on its page already), no buttons, of a
figure the drawing and the caption, of a table its first rows. They are shown by `previews.js`.

The first mention on a page of each term of the glossary becomes a link to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROWS = 6  # of a table in its preview
NEEDLESS = (
    "details, .headerlink, .exhibit-files, .backrefs, .eqno, .sort-button, source, script, button"
)
PLAIN = ("book/changelog", "book/references")  # pages whose words stay as they are
# Where a term is no link: it is one already, is code, is a title, or is being defined.
CLOSED = (
    nodes.reference,
    nodes.literal,
    nodes.literal_block,
    nodes.title,
    nodes.term,
    nodes.caption,
    nodes.math,
    nodes.raw,
    nodes.table,
    nodes.topic,
    addnodes.pending_xref,
    addnodes.toctree,
)


def shortened(tip: str) -> str:
    """The HTML of a preview without what only its own page needs."""
    tree = BeautifulSoup(tip, "html.parser")
    for tag in tree.select(NEEDLESS):
        tag.decompose()
    for table in tree.find_all("table"):
        for row in table.select("tbody tr")[ROWS:]:
            row.decompose()
    for tag in tree.find_all(True):
        for name in ("id", "data-title", "tabindex", "role", "loading", "decoding"):
            del tag[name]
    for image in tree.find_all("img"):
        image["alt"] = ""  # the link's own words and the caption say it; a preview is short
    for anchor in tree.find_all("a"):
        anchor.unwrap()  # a preview goes when it is left, and holds nothing to press
    for tag in tree.find_all(["figure", "div"]):
        if isinstance(tag, Tag) and not tag.get_text(strip=True) and not tag.find("img"):
            tag.decompose()
    if tree.find(["dt", "dd"]) and not tree.find("dl"):  # a term came without its list
        return f"<dl>{tree}</dl>"
    return str(tree)


def shorten_tips(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Shorten what sphinx-tippy has just collected from a page, and name its script by the page."""
    pages = getattr(app.env, "tippy_data", {"pages": {}})["pages"]
    if doctree is None or pagename not in pages:
        return
    data = pages[pagename]
    data["id_to_html"] = {name: shortened(tip) for name, tip in data["id_to_html"].items()}
    # It has a name by chance in it, against old copies; a built book should have the same twice.
    path: Path = data["js_path"]
    plain = path.with_name(f"{path.name.removesuffix('.js').rpartition('.')[0]}.js")
    data["js_path"] = plain
    # In place: MathJax is added to the same list, later.
    context["script_files"][:] = [
        type(script)(
            str(script.filename).replace(path.name, plain.name),
            priority=script.priority,
            **script.attributes,
        )
        if path.name in str(script.filename)
        else script
        for script in context["script_files"]
    ]


def terms_of(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Term in lower case -> (page, id) in the glossary."""
    return {
        name.lower(): place
        for (kind, name), place in app.env.domains["std"].data["objects"].items()
        if kind == "term"
    }


def pattern_of(terms: dict[str, tuple[str, str]]) -> re.Pattern[str]:
    """Finds the terms as whole words, in singular or plural, the longest first."""
    words = "|".join(re.escape(term) for term in sorted(terms, key=lambda t: (-len(t), t)))
    return re.compile(rf"(?<![\w-])({words})(s?)(?![\w-])", re.IGNORECASE)


def open_texts(doctree: nodes.document) -> Iterator[nodes.Text]:
    """The texts of paragraphs in which a term may become a link."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        above = paragraph.parent
        while above is not None and not isinstance(above, CLOSED):
            above = above.parent
        if above is not None:
            continue
        for text in list(paragraph.findall(nodes.Text)):
            parent = text.parent
            while parent is not paragraph and parent is not None and not isinstance(parent, CLOSED):
                parent = parent.parent
            if parent is paragraph:
                yield text


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the first mention of each term on a page a link to the glossary."""
    terms = terms_of(app)
    if app.builder.format != "html" or not terms:
        return
    if page in PLAIN or page in {defined for defined, _ in terms.values()}:
        return
    pattern = pattern_of(terms)
    seen: set[tuple[str, str]] = set()
    for text in open_texts(doctree):
        words = text.astext()
        pieces: list[nodes.Node] = []
        end = 0
        for match in pattern.finditer(words):
            place = terms[match[1].lower()]
            if place in seen:
                continue
            seen.add(place)
            address = f"{app.builder.get_relative_uri(page, place[0])}#{place[1]}"
            if app.builder.name == "singlehtml":
                address = f"#{place[1]}"
            pieces.append(nodes.Text(words[end : match.start()]))
            link = nodes.reference("", match[0], refuri=address, internal=True, classes=["term"])
            pieces.append(link)
            end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(words[end:])])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link_terms)
    # sphinx-tippy collects at 450; the theme and `sound_pages` come later.
    app.connect("html-page-context", shorten_tips, priority=460)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
