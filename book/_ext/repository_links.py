"""A Sphinx extension: the launch buttons of a notebook page open its template.

The page of a notebook is made from `book/_run/NAME.ipynb`, which the repository does not hold;
what Binder and Colab can open is the template it was run from, `notebooks/NAME.ipynb`.
"""

from __future__ import annotations

from typing import Any

from docutils.nodes import document
from sphinx.application import Sphinx

RESULTS, TEMPLATES = "book/_run/", "notebooks/"


def repoint(buttons: list[dict[str, Any]]) -> None:
    """Rewrites, in place, the addresses of these header buttons and of the groups among them."""
    for button in buttons:
        if button.get("label") == "download-buttons":
            continue  # these point into the built book, not into the repository
        if "url" in button:
            button["url"] = button["url"].replace(RESULTS, TEMPLATES)
        repoint(button.get("buttons", []))


def repoint_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    if pagename.startswith(RESULTS):
        repoint(context.get("header_buttons", []))


def setup(app: Sphinx) -> dict[str, bool]:
    # After the theme has made the buttons, which it does at the default priority of 500.
    app.connect("html-page-context", repoint_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
