"""What tests read out of a page of HTML."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

EXHIBIT = re.compile(r'<(figure|div) class="exhibit" id="([^"]+)" data-title="([^"]*)"')


class Open(HTMLParser):
    """Elements that were opened and not closed, or closed and not open."""

    VOID = ("img", "source", "br", "meta", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.wrong: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.wrong[tag] += tag not in self.VOID

    def handle_endtag(self, tag: str) -> None:
        self.wrong[tag] -= 1


class Cells(HTMLParser):
    """Counts the columns of every row, and collects classes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.widths.append(0)
        elif tag in ("th", "td"):
            self.widths[-1] += int(given.get("colspan") or 1)
        elif tag == "table":
            self.classes.add(given.get("class") or "")
