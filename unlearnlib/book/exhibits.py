"""Figures and tables as HTML with an anchor, a title, and how to repeat them.

Only the build of the book knows which notebook a figure or table is from, where that notebook can
be read, and with which parameters it was run. So a notebook leaves a mark, an HTML comment, and the
extension `book/_ext/exhibits.py` replaces it by the link and the papermill command. In a notebook
that is opened by itself the mark stays a comment and shows nothing. Comments also carry a table's
values, which the book offers as CSV, and the origins of the records that an exhibit was drawn from,
to which the book links its rows and numbers.
"""

from __future__ import annotations

import html
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unlearnlib.book.origins import carried, carried_records, cell_records
from unlearnlib.book.records import Finding
from unlearnlib.experiment.experiment import Experiment, Source, open_experiment
from unlearnlib.experiment.parameters import FAILED
from unlearnlib.figures import DescribedFigure, image_html, to_svg
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["figure", "table"]

# The mark after a command that is already there, and the marks that stand alone.
MARK = "<!-- repeat -->"
SHORT = 12  # digits of a key by which cells and the book's pages name a record
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


def repeat(kind: Kind, source: Source) -> str:
    """HTML that says how to repeat a figure or table, folded up.

    Without a command only the mark: a notebook that is open in front of the reader needs no more.
    """
    if not source.command:
        return MARKS[kind]
    took = f" (it took {html.escape(source.took)})" if source.took else ""
    line = f"<p>Compute its records again{took}: <code>{html.escape(source.command)}</code></p>"
    return folded(kind, line + MARK)


def folded(kind: Kind, content: str) -> str:
    """The HTML `content` behind the words "Repeat this figure" or "table"."""
    return f'<details class="repeat"><summary>Repeat this {kind}</summary>{content}</details>'


def table_html(
    table: pd.DataFrame, caption: str = "", source: Source | str = "", name: str = ""
) -> str:
    """HTML of a table: numbers right-aligned, words left, domains as row groups.

    A two-level header spans its groups; of a two-level index, the first level becomes a line
    above its rows. It scrolls by itself where the page is narrower, and the book's script
    `sort_tables.js` sorts it. With a name, which is the caption's words if none is given, it has an
    anchor and says how to repeat it; `source` is what it is drawn from, or the command that makes
    its records again. From the source's records the book links each row or number to its own.
    """
    source = as_source(source)
    known = list(source.records)
    body = _body(table, cell_records(table, known) if known else None)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    shown = (
        f'<div class="table-scroll"><table class="dataframe sortable">{title}<thead>{_head(table)}'
        f"</thead><tbody>{body}</tbody></table></div>"
    )
    data = carried("csv", table.to_csv()) + carried_records(known)
    return exhibit(shown, caption, source, name, data)


def _wordy(table: pd.DataFrame) -> list[bool]:
    """Of each column, whether it holds words."""
    return [_is_text(table.iloc[:, i]) for i in range(table.shape[1])]


def _head(table: pd.DataFrame) -> str:
    """The rows of a table's head as HTML, one per level of its columns."""
    name = str(table.index.names[-1] or "")
    columns = [c if isinstance(c, tuple) else (c,) for c in table.columns]
    wordy = _wordy(table)
    head = []
    for level in range(table.columns.nlevels):
        bottom = level == table.columns.nlevels - 1
        cells = [f'<th scope="col" class="text">{html.escape(name) if bottom else ""}</th>']
        position = 0
        while position < len(columns):
            span = 1
            while (
                not bottom
                and position + span < len(columns)
                and (columns[position + span][level] == columns[position][level])
            ):
                span += 1
            kind = "text" if wordy[position] and bottom else "number"
            scope = "col" if bottom else "colgroup"
            cells.append(
                f'<th scope="{scope}" colspan="{span}" class="{kind}">'
                f"{html.escape(str(columns[position][level]))}</th>"
            )
            position += span
        head.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(head)


def _body(table: pd.DataFrame, keys: list[list[tuple[str, ...]]] | None) -> str:
    """The rows of a table's body as HTML; `keys` are those of the records of every cell."""
    nested = table.index.nlevels == 2
    wordy = _wordy(table)
    none: list[tuple[str, ...]] = [()] * len(wordy)
    body: list[str] = []
    previous = None
    for place, (label, row) in enumerate(
        zip(table.index, table.itertuples(index=False), strict=True)
    ):
        if nested and label[0] != previous:
            previous = label[0]
            body.append(
                f'<tr><th scope="rowgroup" colspan="{1 + len(wordy)}" class="text"><strong>'
                f"{html.escape(str(previous))}</strong></th></tr>"
            )
        shown = label[1] if nested else label
        own = keys[place] if keys else none
        # A row of one set of records is linked as one; else each number is by itself.
        whole = own[0] if own and all(cell == own[0] for cell in own) else ()
        cells = [f'<th scope="row" class="text"{_of(whole)}>{html.escape(str(shown))}</th>']
        for x, words, cell in zip(row, wordy, own, strict=True):
            text = number(x) if isinstance(x, float) else str(x)
            kind = ("text long" if len(text) > 60 else "text") if words else "number"
            origin = "" if whole or text == "–" else _of(cell)
            cells.append(f'<td class="{kind}"{origin}>{html.escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(body)


def _of(keys: Iterable[str]) -> str:
    """The attribute that names the records of a cell, by as many digits as the book's pages do."""
    short = " ".join(key[:SHORT] for key in keys)
    return f' data-records="{short}"' if short else ""


def _is_text(column: Iterable[Any]) -> bool:
    """Whether most cells of a column hold words or lists, not numbers."""
    seen = Counter(
        isinstance(x, str)
        and (", " in x or sum(map(str.isalpha, x)) > max(2, sum(map(str.isdigit, x))))
        for x in column
    )
    return seen[True] > seen[False]


def exhibit(
    shown: str, caption: str, source: Source | str = "", name: str = "", data: str = ""
) -> str:
    """The HTML of a table in an element with an anchor, with how to repeat it and `data` below."""
    around, source = opening("table", name or caption, caption), as_source(source)
    if not around:
        return shown
    return f"<div{around}>{shown}{footer_html(source)}{repeat('table', source)}{data}</div>"


def as_source(source: Source | str) -> Source:
    """What an exhibit is drawn from, where only the command that computes it again is given."""
    return Source(source) if isinstance(source, str) else source


def footer_html(source: Source) -> str:
    """How freshly computed records agree with the published ones, below what is drawn of them."""
    return f'<p class="agreement">{html.escape(source.footer)}</p>' if source.footer else ""


def styled(
    table: pd.DataFrame, caption: str = "", source: Source | str = "", name: str = ""
) -> Any:
    """The table as notebooks and the book show it; see `table_html`."""
    from IPython.display import HTML

    return HTML(table_html(table, caption, source, name))


def figure_html(
    figure: DescribedFigure, caption: str, source: Source | str = "", name: str = ""
) -> str:
    """An HTML figure (see `figures.image_html`) with an anchor, and how to repeat it.

    With a name it has an anchor and says how to repeat it. `records` are those that it was drawn
    from: the book links to them.
    """
    source = as_source(source)
    again = repeat("figure", source) if name or source.command else ""
    below = footer_html(source) + again
    if slug(name):
        below += carried_records(source.records)
    return image_html(figure, caption, around=opening("figure", name, caption), below=below)


def experiment(
    chapter: str, namespace: Mapping[str, Any], *studies: str, more: Sequence[str] = ()
) -> Experiment:
    """What a notebook's parameters ask for (see `experiment.open_experiment`).

    What is missing and what is being computed is shown in the notebook, and so is what could not
    be computed: that is marked, so that whoever runs the notebook can tell (`failures_in`).
    """
    return open_experiment(chapter, namespace, *studies, more=more, tell=say, fail=say_failure)


def figures_folder() -> Path | None:
    """Where `show` leaves files: $UNLEARN_FIGURES, else book/_run/figures where there is a book."""
    if named := os.environ.get("UNLEARN_FIGURES"):
        return Path(named)
    return Path("book/_run/figures") if Path("book").is_dir() else None


def show(figure: DescribedFigure, name: str, caption: str, source: Source | str = "") -> None:
    """Display a figure in a notebook and leave NAME.svg and NAME-narrow.svg with the book.

    `source` is what the figure is drawn from, or the command that computes its records again; the
    figure's anchor is `figure-NAME`.
    """
    from IPython.display import HTML, display

    folder = figures_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(to_svg(figure), encoding="utf-8")
        (folder / f"{name}.txt").write_text(figure.alt + "\n", encoding="utf-8")
        if figure.narrow is not None:
            (folder / f"{name}-narrow.svg").write_text(to_svg(figure.narrow()), encoding="utf-8")
    display(HTML(figure_html(figure, caption, source, name)))


def say(text: str) -> None:
    """Show Markdown that was made from records; nothing for no text."""
    from IPython.display import Markdown, display

    if text:
        display(Markdown(text))


def say_failure(text: str) -> None:
    """Show what could not be computed, as Markdown that is marked as such."""
    from IPython.display import Markdown, display

    display(Markdown(text), metadata={FAILED: True})


def glue(found: Mapping[str, Finding], prefix: str = "") -> None:
    """Store findings in the notebook under PREFIX + name, for {glue:text} in other chapters.

    Nothing is shown. Writes what `myst_nb.glue` writes, without needing the book's tools.
    """
    from IPython.display import display

    hidden = "application/papermill.record/"
    for name, x in found.items():
        text = number(x) if isinstance(x, float) else str(x)
        display(
            {f"{hidden}text/plain": text},
            raw=True,
            metadata={"scrapbook": {"name": prefix + name, "mime_prefix": hidden}},
        )
