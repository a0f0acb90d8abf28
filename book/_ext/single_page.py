"""A Sphinx extension: the whole book as one page, to print or to carry along.

Over Sphinx's own single page: a title and contents in front; every chapter on the same level, the
first one included; an id stands for one thing, though chapters share headings such as "Summary";
and the page lies at the root of its folder, where its style sheets and scripts are looked for.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.singlehtml import SingleFileHTMLBuilder

PAGE = "index.html"


class SinglePage(SingleFileHTMLBuilder):
    """The builder `singlehtml`, mended."""

    def get_outfilename(self, pagename: str) -> str:
        return str(Path(self.outdir) / PAGE)

    def assemble_doctree(self) -> nodes.document:
        tree = super().assemble_doctree()
        root = addnodes.start_of_file(docname=self.config.root_doc)
        root += [node.deepcopy() for node in tree.children]
        chapters = [root, *level(root)]
        make_unique(chapters)
        tree.children = []
        tree += nodes.raw("", self.title_page(), format="html")
        tree += chapters
        return tree

    def fix_refuris(self, tree: nodes.Node) -> None:
        """Keep the chapter of a link in `page`; "#document-CHAPTER#id" becomes "#id"."""
        for reference in tree.findall(nodes.reference):
            page, _, anchor = reference.get("refuri", "").partition("#document-")[2].partition("#")
            if anchor:
                reference["refuri"] = f"#{anchor}"
                reference["page"] = page

    def title_page(self) -> str:
        """HTML of the title, who made it and when, and the chapters by part."""
        config = self.config
        parts = "".join(
            (f"<p>{html.escape(caption)}</p>" if caption else "")
            + f"<ul>{''.join(self.entry(page) for page in pages)}</ul>"
            for caption, pages in self.parts()
        )
        return (
            f'<header class="title-page"><p class="book-title">{html.escape(config.html_title)}</p>'
            f"<p>{html.escape(config.author)}, {date.today().isoformat()}</p></header>"
            '<nav class="book-contents" aria-label="Contents"><p class="book-title">Contents</p>'
            f"{parts}</nav>"
        )

    def parts(self) -> Iterator[tuple[str, list[str]]]:
        """(caption, pages) of the parts of the book; the first page stands by itself."""
        root = self.config.root_doc
        yield "", [root]
        for toctree in self.env.get_doctree(root).findall(addnodes.toctree):
            yield toctree.get("caption") or "", list(map(str, toctree["includefiles"]))

    def entry(self, page: str) -> str:
        """HTML of a line of the contents, with the pages below it."""
        below = (
            ""
            if page == self.config.root_doc
            else "".join(self.entry(each) for each in self.env.toctree_includes.get(page, []))
        )
        title = html.escape(self.env.titles[page].astext())
        below = f"<ul>{below}</ul>" if below else ""
        return f'<li><a href="#document-{page}">{title}</a>{below}</li>'


def level(chapter: nodes.Element) -> list[nodes.Element]:
    """Take the chapters inside a chapter out of it, at any depth, and return them in order."""
    inside = list(chapter.findall(addnodes.start_of_file))[1:]
    for node in inside:
        node.parent.remove(node)
    return inside


def make_unique(chapters: list[nodes.Element]) -> None:
    """Rename, in later chapters, the ids that an earlier one has; links follow.

    A link is one inside its chapter unless `fix_refuris` has noted another page.
    """
    seen: set[str] = set()
    renamed: dict[tuple[str, str], str] = {}
    for chapter in chapters:
        page = chapter["docname"]
        own = Counter(i for node in chapter.findall(nodes.Element) for i in node.get("ids", []))
        for name in own:
            if name in seen:
                renamed[page, name] = f"{page.replace('/', '-')}--{name}"
        seen |= set(own)
    for chapter in chapters:
        page = chapter["docname"]
        for node in chapter.findall(nodes.Element):
            for field in ("ids", "backrefs"):
                if node.get(field):
                    node[field] = [renamed.get((page, name), name) for name in node[field]]
            if "refid" in node:
                node["refid"] = renamed.get((page, node["refid"]), node["refid"])
            if node.get("refuri", "").startswith("#"):
                name = node["refuri"][1:]
                target = (node.get("page", page), name)
                node["refuri"] = f"#{renamed.get(target, name)}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_builder(SinglePage, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
