"""Which records the numbers of a table come from, and what a record says of its origin.

A chapter gives `exhibits.styled` or `show` the records that it drew from. A cell belongs to those
of them that its row and column name: the domain, the method or baseline, the seed, and settings
such as the learning rate where the labels of the columns are values of one.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unlearnlib.looks import BASELINE_TITLES, domain_title, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

# Words in a table that name the model of a baseline's record; the paper's target is vanilla's.
_BASELINES = {
    **{title.lower(): which for which, title in BASELINE_TITLES.items()},
    "target": "target",
    "truth": "oracle",
    "oracle": "oracle",
    "retrained": "oracle",
    "retrained model": "oracle",
    "retraining (oracle)": "oracle",
}
# What carries data in the HTML of a notebook to the build of the book.
_CARRIED = re.compile(r"<!-- (csv|records) ([A-Za-z0-9+/=]+) -->")
PLACE = "<!-- carried -->"  # where the first of it stood


def origin(record: Record) -> dict[str, Any]:
    """What a page shows of a record: its key, spec, and the command and commit that made it."""
    made = record.provenance
    return {
        "key": record.key,
        "kind": record.kind,
        "status": record.status,
        "spec": record.spec,
        "command": made.get("command") or "",
        "commit": made.get("commit") or "",
        "device": made.get("device") or "",
        "started": made.get("started") or "",
        "seconds": made.get("seconds"),
    }


def carried(kind: str, text: str) -> str:
    """`text` as an HTML comment that shows nothing; `kind` is "csv" or "records"."""
    packed = base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")
    return f"<!-- {kind} {packed} -->"


def unpacked(page: str) -> tuple[str, dict[str, str]]:
    """HTML with `PLACE` for what it carries, and that by its kind; of two of a kind the last."""
    found = {
        match[1]: zlib.decompress(base64.b64decode(match[2])).decode("utf-8")
        for match in _CARRIED.finditer(page)
    }
    return _CARRIED.sub("", _CARRIED.sub(PLACE, page, count=1)), found


def carried_records(records: Iterable[Record]) -> str:
    """The origins of these records, each once and in their order, as a comment; "" for none."""
    found = list({record.key: origin(record) for record in records}.values())
    return carried("records", json.dumps(found, separators=(",", ":"))) if found else ""


def cell_records(table: pd.DataFrame, records: Iterable[Record]) -> list[list[tuple[str, ...]]]:
    """For every row a list with the keys of the records of each of its cells, () where unknown.

    A cell whose labels name neither a method, nor a baseline, nor a seed is of no certain record,
    unless all records are baselines: then it is of those of its domain.
    """
    distinct = list({record.key: record for record in records}.values())
    words = [(record.key, _words(record.spec)) for record in distinct]
    columns = [c if isinstance(c, tuple) else (c,) for c in table.columns]
    field = _field_of([str(c[-1]) for c in columns], distinct)
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows = []
    for label in table.index:
        above = [str(part) for part in (label if isinstance(label, tuple) else (label,))]
        row = []
        for column in columns:
            labels = [*above, *map(str, column[:-1])]
            labels.append(f"{field}={column[-1]}" if field else str(column[-1]))
            names = tuple(name.strip().lower() for name in labels)
            if names not in known:
                known[names] = _named(names, words)
            row.append(known[names])
        rows.append(row)
    return rows


def _words(spec: dict[str, Any]) -> dict[str, set[str]]:
    """By facet, the words that name what a record is of, in lower case."""
    facets = {"domain": {str(spec.get("domain", "")), domain_title(spec.get("domain", "")).lower()}}
    baseline = spec.get("baseline")
    if baseline is None:
        method = str(spec.get("method", ""))
        facets["model"] = {method, method_title(method).lower()}
        facets["seed"] = {f"seed {spec.get('seed')}"}
    else:
        wanted = {baseline, "target"} if baseline == "vanilla" else {baseline}
        facets["model"] = {word for word, which in _BASELINES.items() if which in wanted}
    for name, x in spec.items():
        facets[name + "="] = {f"{name}={text}".lower() for text in _spellings(x)}
    return facets


def _spellings(x: Any) -> set[str]:
    """The texts by which a table may print a setting."""
    if isinstance(x, int | float) and not isinstance(x, bool):
        return {str(x), f"{x:g}", number(float(x))}
    return {str(x)}


def _field_of(labels: Sequence[str], records: Iterable[Record]) -> str:
    """The setting that the labels of the columns are values of; "" unless it is just one."""
    if len(labels) < 2:
        return ""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, x in record.spec.items():
            values.setdefault(name, set()).update(_spellings(x))
    fitting = [
        name
        for name, texts in values.items()
        if set(labels) <= texts and name not in ("domain", "method", "baseline")
    ]
    return fitting[0] if len(fitting) == 1 else ""


def _named(
    names: tuple[str, ...], words: Sequence[tuple[str, dict[str, set[str]]]]
) -> tuple[str, ...]:
    """The keys of the records that fit all the names that mean something."""
    meanings = []  # a name, and the facets in which a record may have it
    for name in names:
        facets = {
            facet for _, all_words in words for facet, texts in all_words.items() if name in texts
        }
        if name in _BASELINES:
            facets.add("model")  # also where none of these records is of that baseline
        if facets:
            meanings.append((name, facets))
    said = set().union(*(facets for _, facets in meanings))
    # Of a domain there are many runs, but where a table is of baselines alone, it is of both.
    alone = "domain" in said and not any("seed" in all_words for _, all_words in words)
    if not alone and not said & {"model", "seed"}:
        return ()
    return tuple(
        key
        for key, all_words in words
        if all(any(name in all_words.get(f, ()) for f in facets) for name, facets in meanings)
    )
