"""What figures and tables of the book have in common: an anchor, a title, and how to repeat them.

Only the book knows which notebook a figure or table is from, where that notebook can be read, and
what it was run with. So a notebook leaves a mark, an HTML comment that nobody sees, and the
extension `book/_ext/exhibits.py` puts the link and the papermill command there while the book is
built. In a plain notebook the mark stays a comment and nothing is broken.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Literal

Kind = Literal["figure", "table"]

# The mark inside what there is to say already, and the one that stands for all of it.
MARK = "<!-- repeat -->"
MARKS: dict[Kind, str] = {"figure": "<!-- repeat figure -->", "table": "<!-- repeat table -->"}


def slug(text: str) -> str:
    """The words of `text` as they may stand in an address: "By learning rate" → by-learning-rate.

    Letters that ASCII has no look-alike of are left out; "" if nothing remains.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def anchor(kind: Kind, name: str) -> str:
    """The id of a figure or table, without "#": "figure-target-check"."""
    return f"{kind}-{slug(name)}"


def first_sentence(caption: str) -> str:
    """A caption up to its first full stop that a space follows, without it."""
    return re.split(r"\.\s", caption.strip() + " ", maxsplit=1)[0].strip()


def opening(kind: Kind, name: str, caption: str) -> str:
    """The attributes of the element around a figure or table; nothing for one without a name.

    The title is the caption's first sentence: the index of figures and tables shows it.
    """
    if not slug(name):
        return ""
    title = html.escape(first_sentence(caption) or name, quote=True)
    return f' class="exhibit" id="{anchor(kind, name)}" data-title="{title}"'


def repeat(kind: Kind, command: str = "") -> str:
    """HTML that says how to repeat a figure or table, folded up; `command` makes its records.

    Without a command only the mark: a notebook that is open in front of the reader needs no more.
    """
    if not command:
        return MARKS[kind]
    line = f"<p>Compute its records again: <code>{html.escape(command)}</code></p>"
    return folded(kind, line + MARK)


def folded(kind: Kind, content: str) -> str:
    """The HTML `content` behind the words "Repeat this figure" or "table"."""
    return f'<details class="repeat"><summary>Repeat this {kind}</summary>{content}</details>'
