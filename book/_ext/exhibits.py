"""A Sphinx extension: figures and tables are numbered, say how to repeat them, and are listed.

The notebooks leave marks (`unlearnlib/book/exhibits.py`). Here each becomes a link to the template
of the notebook in the repository of `_config.yml`, the command with the parameters that
the notebook was run with, and a link to the figure or table itself. What the HTML carries becomes
the table's CSV and links to its records (`record_pages.py`). Sphinx numbers them (`numfig`), so a
page refers to one by its anchor, as in {numref}`figure-trajectories`. The directive `{exhibits}`
lists them by chapter, in the order of the book. An anchor that two of them share fails the build.
"""

from __future__ import annotations

import ast
import html
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from unlearnlib.book.exhibits import MARK, MARKS, folded
from unlearnlib.book.origins import PLACE, unpacked
from unlearnlib.experiment.parameters import as_word

logger = logging.getLogger(__name__)

RESULTS = "book/_run/"  # where executed notebooks are, from the root of the book
RECORDS = "book/records/"  # where the pages of their records are
OPENING = re.compile(
    r'<(?:figure|div) class="exhibit" id="(?P<id>[^"]+)" data-title="(?P<title>[^"]*)"'
)
ANY_MARK = re.compile("|".join(map(re.escape, (MARK, *MARKS.values()))))
CELL = re.compile(r'(<t[hd][^>]*?) data-records="([0-9a-f ]+)">(.*?)(</t[hd]>)')
TABLES = "tables"  # the folder of the CSV files in the built book


@dataclass(frozen=True)
class Exhibit:
    """A figure or table: its page, its anchor on the page, and the words of its title.

    csv      a table's values
    records  the origins of the records that it was drawn from, see `origins.origin`
    """

    page: str
    anchor: str
    title: str
    csv: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """ "figure" or "table"."""
        return self.anchor.partition("-")[0]


def parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """Names and values that papermill put into a notebook: those that are not its own defaults."""
    found: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if "injected-parameters" not in cell.get("metadata", {}).get("tags", []):
            continue
        for line in ast.parse("".join(cell["source"])).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                found[line.targets[0].id] = ast.literal_eval(line.value)
    return found


def command(name: str, given: dict[str, Any]) -> str:
    """The command that makes notebooks/NAME.ipynb again; what is None is left to the notebook."""
    words = ["unlearn", "notebook", name]
    for key, value in given.items():
        if value is not None:
            words += ["-p", key, as_word(value, quoted=False)]
    return shlex.join(words)


def filled(page: str, notebook: str, repeat: str) -> str:
    """The HTML `page` with its marks replaced, and without what it carries.

    notebook  HTML of a link to the notebook; repeat  its command
    """
    page = unpacked(page)[0].replace(PLACE, "")
    # Each mark belongs to the figure or table that was opened last before it.
    openings = [(match.start(), match["id"]) for match in OPENING.finditer(page)]

    def replaced(match: re.Match[str]) -> str:
        before = [anchor for start, anchor in openings if start < match.start()]
        if not before:
            return ""
        kind = "figure" if before[-1].startswith("figure-") else "table"
        content = (
            f"<p>Make it again, with the rest of {notebook}:</p>"
            f'<div><div class="highlight"><pre>{html.escape(repeat)}</pre></div></div>'
            f'<p><a href="#{before[-1]}">Link to this {kind}</a></p>'
        )
        return content if match[0] == MARK else folded(kind, content)  # type: ignore[arg-type]

    return ANY_MARK.sub(replaced, page)


def linked(page: str, records: str) -> str:
    """The HTML `page` with a link at each cell whose records are known.

    records  the address of the page that lists them; without one the cells become plain
    """

    def cell(match: re.Match[str]) -> str:
        opened, keys, text, closed = match.groups()
        if not records:
            return f"{opened}>{text}{closed}"
        first, *more = keys.split()
        # Of several, the one at which the page opens would look like the one that was meant.
        address = f"{records}?only={','.join([first, *more])}" + ("" if more else f"#{first}")
        count = f"{1 + len(more)} records" if more else "Record"
        return f'{opened}><a class="origin" href="{address}" title="{count}">{text}</a>{closed}'

    return CELL.sub(cell, page)


def files_line(exhibit: Exhibit, root: str, records: str) -> str:
    """HTML of the links below a figure or table: its values as CSV, and its records.

    root  the address of the book's root, with a slash at the end unless it is empty
    """
    links = []
    if exhibit.csv:
        address = f"{root}{TABLES}/{exhibit.anchor}.csv"
        links.append(f'<a href="{address}" download>Download as CSV</a>')
    if exhibit.records and records:
        count = len(exhibit.records)
        words = f"{count} records" if count > 1 else "Its record"
        address = f"{records}?of={exhibit.anchor}#of-{exhibit.anchor}"
        links.append(f'<a href="{address}">{words}</a>')
    return f'<p class="exhibit-files">{" · ".join(links)}</p>' if links else ""


def parts(text: str) -> Iterator[str]:
    """HTML cut before each figure or table, so that each piece has one at most."""
    starts = [match.start() for match in OPENING.finditer(text)]
    ends = [0, *starts[1:], len(text)] if starts else [0, len(text)]
    for start, end in itertools.pairwise(ends):
        yield text[start:end]


def read_page(app: Sphinx, doctree: nodes.document) -> None:
    """Fill the marks of a page that was read, and note its figures and tables."""
    page = app.env.docname
    if not page.startswith(RESULTS):
        return
    name = page.removeprefix(RESULTS)
    source = json.loads(Path(app.env.doc2path(page)).read_text(encoding="utf-8"))
    theme = app.config.html_theme_options
    address = f"{theme['repository_url']}/blob/{theme['repository_branch']}/notebooks/{name}.ipynb"
    link = f'<a href="{html.escape(address)}">notebooks/{name}.ipynb</a>'
    repeat = command(name, parameters(source))
    # The book as one page has no pages of records beside it.
    single = app.builder.name == "singlehtml"
    root = "" if single else "../" * page.count("/")
    found = all_exhibits(app.env).setdefault(page, [])
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if "html" not in node.get("format", "").split() or not OPENING.search(text):
            continue
        pieces, anchors = [], []
        for part in parts(text):
            piece, data = unpacked(part)
            match = OPENING.search(piece)
            if match is None:
                pieces.append(piece)
                continue
            origins = json.loads(data.get("records", "[]"))
            title = html.unescape(match["title"])
            exhibit = Exhibit(page, match["id"], title, data.get("csv", ""), origins)
            records = "" if single or not origins else f"{root}{RECORDS}{name}.html"
            line = files_line(exhibit, root, records)
            pieces.append(linked(filled(piece.replace(PLACE, line), link, repeat), records))
            found.append(exhibit)
            anchors.append(exhibit)
        node[:] = [nodes.Text("".join(pieces))]
        enclose(app, doctree, node, anchors)


def enclose(app: Sphinx, doctree: nodes.document, node: nodes.raw, found: list[Exhibit]) -> None:
    """Put the HTML of figures and tables into an element for each, which Sphinx numbers and finds.

    The first is the outermost, and so has the lower number.
    """
    labels = app.env.domains["std"].data
    outer: nodes.Element | None = None
    for exhibit in found:
        element: nodes.Element = KINDS[exhibit.kind](ids=[exhibit.anchor], title=exhibit.title)
        if outer is None:
            node.replace_self(element)
        else:
            outer += element
        outer = element
        doctree.ids[exhibit.anchor] = element
        labels["anonlabels"][exhibit.anchor] = exhibit.page, exhibit.anchor
        labels["labels"][exhibit.anchor] = exhibit.page, exhibit.anchor, exhibit.title
    if outer is not None:
        outer += node


class FigureExhibit(nodes.General, nodes.Element):  # type: ignore[misc]
    """Around the HTML of a figure."""


class TableExhibit(nodes.General, nodes.Element):  # type: ignore[misc]
    """Around the HTML of a table."""


KINDS = {"figure": FigureExhibit, "table": TableExhibit}
CAPTIONS = {"figure": "<figcaption>", "table": "<caption>"}


def put_number(translator: Any, element: nodes.Element) -> None:
    """Write the number of a figure or table before its caption."""
    anchor, builder = element["ids"][0], translator.builder
    kind = anchor.partition("-")[0]
    # The single page numbers by chapter, and has as many.
    name = f"{translator.docnames[-1]}/{kind}" if builder.name == "singlehtml" else kind
    number = builder.fignumbers.get(name, {}).get(anchor)
    if not number:
        return
    label = builder.config.numfig_format[kind] % ".".join(map(str, number))
    for raw in element.findall(nodes.raw):
        before, opened, after = raw.astext().partition(f' id="{anchor}"')
        caption = CAPTIONS[kind]
        shown = f'{caption}<span class="caption-number">{html.escape(label)}. </span>'
        raw[:] = [nodes.Text(before + opened + after.replace(caption, shown, 1))]


def leave(translator: Any, element: nodes.Element) -> None:
    """Nothing follows a figure or table."""


def write_tables(app: Sphinx, exception: Exception | None) -> None:
    """Write the CSV of every table."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir, TABLES)
    for exhibit in (e for found in all_exhibits(app.env).values() for e in found if e.csv):
        folder.mkdir(exist_ok=True)
        (folder / f"{exhibit.anchor}.csv").write_text(exhibit.csv, encoding="utf-8")


def all_exhibits(env: BuildEnvironment) -> dict[str, list[Exhibit]]:
    """Page -> its figures and tables in their order; kept with what Sphinx knows of the pages."""
    if not hasattr(env, "exhibits"):
        env.exhibits = {}  # type: ignore[attr-defined]
    return env.exhibits  # type: ignore[attr-defined]


def forget_page(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    all_exhibits(env).pop(page, None)


def merge_pages(
    app: Sphinx, env: BuildEnvironment, pages: Iterable[str], other: BuildEnvironment
) -> None:
    all_exhibits(env).update({p: e for p, e in all_exhibits(other).items() if p in set(pages)})


def in_order(env: BuildEnvironment, page: str, seen: set[str] | None = None) -> Iterator[str]:
    """`page` and the pages below it in the table of contents, each once."""
    seen = set() if seen is None else seen
    if page in seen:
        return
    seen.add(page)
    yield page
    for below in env.toctree_includes.get(page, []):
        yield from in_order(env, below, seen)


def repeated(exhibits: Iterable[Exhibit]) -> Iterator[tuple[Exhibit, Exhibit]]:
    """Pairs that share an anchor: on the single page of the book a link would miss one of them."""
    first: dict[str, Exhibit] = {}
    for exhibit in exhibits:
        other = first.setdefault(exhibit.anchor, exhibit)
        if other is not exhibit:
            yield other, exhibit


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, where two figures or tables have one anchor."""
    for one, two in repeated(e for found in all_exhibits(env).values() for e in found):
        logger.warning(
            "%s and %s both have a %s with the anchor %r: give one of them another name.",
            one.page,
            two.page,
            one.kind,
            one.anchor,
        )


class ExhibitList(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands for the list until every page has been read."""


class Exhibits(SphinxDirective):
    """`{exhibits}`: the figures and tables of the book, by chapter."""

    def run(self) -> list[nodes.Node]:
        return [ExhibitList()]


def fill_list(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the list where the directive is."""
    for node in list(doctree.findall(ExhibitList)):
        node.replace_self(as_list(app, page))


def as_list(app: Sphinx, page: str) -> nodes.Node:
    """Chapters, each with its figures and tables, as links from `page`."""
    chapters = nodes.bullet_list(classes=["exhibits"])
    for chapter in in_order(app.env, app.config.root_doc):
        found = all_exhibits(app.env).get(chapter, [])
        if not found:
            continue
        address = app.builder.get_relative_uri(page, chapter)
        title = app.env.titles[chapter].astext()
        below = nodes.bullet_list()
        for exhibit in found:
            line = nodes.paragraph("", f"{label(app, exhibit)}: ")
            line += link(f"{address}#{exhibit.anchor}", exhibit.title)
            below += nodes.list_item("", line)
        chapters += nodes.list_item("", nodes.paragraph("", "", link(address, title)), below)
    return chapters


def label(app: Sphinx, exhibit: Exhibit) -> str:
    """ "Figure 3", or "Figure" in a book that does not number them."""
    numbers = app.env.toc_fignumbers.get(exhibit.page, {}).get(exhibit.kind, {})
    if exhibit.anchor not in numbers:
        return exhibit.kind.capitalize()
    number = ".".join(map(str, numbers[exhibit.anchor]))
    return app.config.numfig_format[exhibit.kind] % number


def link(address: str, text: str) -> nodes.reference:
    return nodes.reference("", text, refuri=address, internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(ExhibitList)
    app.add_directive("exhibits", Exhibits)
    for kind, element in KINDS.items():
        app.add_enumerable_node(element, kind, lambda node: node["title"], html=(put_number, leave))
    app.connect("doctree-read", read_page)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", fill_list)
    app.connect("build-finished", write_tables)
    return {
        "version": "1",
        "env_version": 2,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
