"""A Sphinx extension: the directive `{citation} FILE` shows a CITATION.cff as BibTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def bibtex(citation: dict[str, Any], key: str) -> str:
    """A `@software` entry of what a citation file says; COMMIT is left for the reader to fill.

    A name that is one piece, as that of a group, is kept in one piece by a second pair of braces.
    """
    names = [
        f"{{{author['name']}}}"
        if "name" in author
        else f"{author['family-names']}, {author['given-names']}"
        for author in citation["authors"]
    ]
    fields = {
        "title": citation["title"],
        "author": " and ".join(names),
        "version": citation["version"],
        "note": "commit COMMIT",
        "url": citation["repository-code"],
    }
    width = max(map(len, fields))
    lines = "".join(f"  {name:<{width}} = {{{text}}},\n" for name, text in fields.items())
    return f"@software{{{key},\n{lines}}}"


class Citation(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = self.env.relfn2path(self.arguments[0])[1]
        self.env.note_dependency(path)
        citation = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        name = citation["repository-code"].rstrip("/").split("/")[-2]
        text = bibtex(citation, name)
        return [nodes.literal_block(text, text, language="bibtex")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("citation", Citation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
