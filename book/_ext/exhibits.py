"""A Sphinx extension: every figure and table says how to repeat it, and an index lists them all.

The notebooks leave marks (`unlearnlib/book/exhibits.py`). Here each becomes a link to the template
of the notebook in the repository of `_config.yml`, the papermill command with the parameters that
the notebook was run with, and a link to the figure or table itself. The directive `{exhibits}`
lists them by chapter, in the order of the book. An anchor that two of them share fails the build.
"""

from __future__ import annotations

import ast
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from unlearnlib.book.exhibits import MARK, MARKS, folded

logger = logging.getLogger(__name__)

RESULTS = "book/_run/"  # where executed notebooks are, from the root of the book
OPENING = re.compile(
    r'<(?:figure|div) class="exhibit" id="(?P<id>[^"]+)" data-title="(?P<title>[^"]*)"'
)
ANY_MARK = re.compile("|".join(map(re.escape, (MARK, *MARKS.values()))))


@dataclass(frozen=True)
class Exhibit:
    """A figure or table: its page, its anchor on the page, and the words of its title."""

    page: str
    anchor: str
    title: str

    @property
    def kind(self) -> str:
        """ "figure" or "table"."""
        return self.anchor.partition("-")[0]


def parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """Names and values that a notebook was run with: its own, and those papermill put in."""
    found: dict[str, Any] = {}
    for tag in ("parameters", "injected-parameters"):
        for cell in notebook["cells"]:
            if tag not in cell.get("metadata", {}).get("tags", []):
                continue
            for line in ast.parse("".join(cell["source"])).body:
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                    found[line.targets[0].id] = ast.literal_eval(line.value)
    return found


def command(name: str, given: dict[str, Any]) -> str:
    """The papermill command for notebooks/NAME.ipynb; what is None is left to the notebook."""
    words = ["papermill", f"notebooks/{name}.ipynb", "out.ipynb"]
    for key, value in given.items():
        if value is not None:
            words += ["-p", key, str(value)]
    return shlex.join(words)


def filled(page: str, notebook: str, repeat: str) -> str:
    """The HTML `page` with its marks replaced.

    notebook  HTML of a link to the notebook; repeat  its papermill command
    """
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
    found = all_exhibits(app.env)
    for node in doctree.findall(nodes.raw):
        text = node.astext()
        if "html" not in node.get("format", "").split() or not OPENING.search(text):
            continue
        node[:] = [nodes.Text(filled(text, link, repeat))]
        for match in OPENING.finditer(text):
            exhibit = Exhibit(page, match["id"], html.unescape(match["title"]))
            found.setdefault(page, []).append(exhibit)


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
            line = nodes.paragraph("", f"{exhibit.kind.capitalize()}: ")
            line += link(f"{address}#{exhibit.anchor}", exhibit.title)
            below += nodes.list_item("", line)
        chapters += nodes.list_item("", nodes.paragraph("", "", link(address, title)), below)
    return chapters


def link(address: str, text: str) -> nodes.reference:
    return nodes.reference("", text, refuri=address, internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(ExhibitList)
    app.add_directive("exhibits", Exhibits)
    app.connect("doctree-read", read_page)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", fill_list)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
