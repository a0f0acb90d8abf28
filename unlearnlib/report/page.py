"""HTML pages from templates: a page needs no other file and no network."""

from __future__ import annotations

import functools
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unlearnlib.text import printable


def render(template: str, **values: Any) -> str:
    """A whole page: a template of `report/templates`, dated today, with `values` escaped.

    Only `Markup` is taken as HTML. Every page needs the value `title`.
    """
    return _templates().get_template(template).render(today=date.today().isoformat(), **values)


@functools.cache
def _templates() -> Environment:
    """The templates of HTML pages; a value that is text is escaped, and in one line."""
    return Environment(
        loader=PackageLoader("unlearnlib", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
    )
