"""Rows of data sets through the `datasets` library: of the hub, or of files that it reads.

Only data is ever loaded: `datasets` from version 4 on runs no code of a repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unlearnlib.corpus.columns import Named, Text, choose
from unlearnlib.errors import UnlearnError, first_line
from unlearnlib.text import printable

HUB = "hub:"  # how the name of a data set of the hub begins where a file could be given
_ID = re.compile(r"hub:(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<parts>.*))?", re.S)


def is_hub(path: object) -> bool:
    """Whether this names a data set of the hub and no file."""
    return str(path).startswith(HUB)


def load_split(source: object, named: str, remedy: str, **arguments: Any) -> Any:
    """A `datasets.Dataset`, or several by name; `UnlearnError` says what of `source` failed."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UnlearnError(
            f"reading {source} needs the package 'datasets': install it with pip."
        ) from error
    try:
        return load_dataset(**arguments)
    except Exception as error:  # `datasets` passes on what its HTTP and Arrow libraries raise.
        raise UnlearnError(f"{named} cannot be loaded ({first_line(error)}): {remedy}.") from error


def hub_texts(source: str, named: Named) -> Iterator[Text]:
    """The texts of "hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]"; the split is "train" by default.

    Raises `UnlearnError` for another form, and for what cannot be loaded or has no such column.
    """
    found = _ID.fullmatch(source)
    parts = [] if found is None or not found["parts"] else found["parts"].split(":")
    if found is None or len(parts) > 2 or not all(parts):
        raise UnlearnError(
            f"{source!r} names no data set of the hub: write it as hub:OWNER/NAME, or "
            "hub:OWNER/NAME@REVISION:CONFIG:SPLIT."
        )
    config, split = ([*parts, "train"] if len(parts) == 1 else parts) or (None, "train")
    rows = load_split(
        source,
        printable(source),
        "check names and network, or give the files of the data set",
        path=found["id"],
        name=config,
        revision=found["revision"],
        split=split,
    )
    columns = choose(printable(source), list(rows.column_names), named)
    for number, row in enumerate(rows.select_columns(list(columns.roots)), 1):
        yield from columns.texts(number, row, None)
