"""A Sphinx extension: mends what the theme and docutils write into every page.

- The arrow that unfolds a chapter's pages in the sidebar has no name; it gets one.
- An entry of the references has a role that ARIA has given up, and the list around it wants
  items; it becomes one.
- Scripts that extensions put on a page twice stop with an error the second time. They come once;
  those of Thebe, which runs cells in the page and is not used here, do not come at all.

`tests/test_browser.py` finds these in a browser when they come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docutils.nodes import document
from sphinx.application import Sphinx

GIVEN_UP, ITEM = 'role="doc-biblioentry"', 'role="listitem"'


def named_arrows(generate: Callable[..., Any]) -> Callable[..., Any]:
    """The theme's maker of navigation trees (BeautifulSoup), with a name on every arrow."""

    def generate_named(*arguments: Any, **options: Any) -> Any:
        tree = generate(*arguments, **options)
        for arrow in tree.select("li.has-children > details > summary"):
            if chapter := arrow.find_parent("li").find("a"):
                arrow["aria-label"] = f"Pages of “{chapter.get_text(strip=True)}”"
        return tree

    return generate_named


def once(scripts: list[Any]) -> list[Any]:
    """The scripts of a page in their order, each once, without those of Thebe."""
    seen, kept = set(), []
    for script in scripts:
        key = (str(script.filename), tuple(sorted(script.attributes.items())))
        if key not in seen and "thebe" not in repr(key).lower():
            seen.add(key)
            kept.append(script)
    return kept


def mend(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Mends one page, in place, before it is written."""
    context["script_files"] = once(context["script_files"])
    context["body"] = context.get("body", "").replace(GIVEN_UP, ITEM)
    if generate := context.get("generate_toctree_html"):
        context["generate_toctree_html"] = named_arrows(generate)


def setup(app: Sphinx) -> dict[str, bool]:
    # After the theme and the extensions have added theirs, at the default priority of 500.
    app.connect("html-page-context", mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
