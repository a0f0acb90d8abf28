"""The page of an audit, for the person who files it: the answer first, then how it was found.

It needs no other file and no network, and holds no text of any document. Its figures need
matplotlib (the extra `report`).
"""

from __future__ import annotations

import json
import math

from markupsafe import Markup

from unlearnlib.audits.findings import CAUGHT, SOURCES, kept_by, rows_of
from unlearnlib.report.audited import (
    ASKED,
    MODEL_TITLES,
    between,
    found_something,
    lines,
    models,
    percent,
    remarks,
    verdict,
)
from unlearnlib.report.page import render
from unlearnlib.report.tuning import check_extra
from unlearnlib.store.record import Record
from unlearnlib.text import show

PAGE, RECORD = "audit.html", "audit.json"
SOURCE_WORDS = {
    "forget": "the other half of the documents to forget",
    "approximate": "documents of the same kind that no model read",
    "general": "general texts",
}

WORDS = {
    "full": "as they are",
    "int8": "8 bits, evenly spaced",
    "int4": "4 bits, evenly spaced",
    "nf4": "4 bits, NormalFloat",
    "as_is": "as they are",
    "middle": "from the middle on",
    "after": "behind another text",
    "questions": "facts, asked in other words",
}


def audit_files(record: Record, *, model: str, original: str, documents: int) -> dict[str, str]:
    """Name -> text of what an audit leaves in a folder: the page, and the record."""
    page = audit_page(record, model=model, original=original, documents=documents)
    return {PAGE: page, RECORD: json.dumps(record.to_json(), indent=1) + "\n"}


def audit_page(record: Record, *, model: str, original: str, documents: int) -> str:
    """The page as HTML; `model` and `original` are their names, without folders around them."""
    check_extra()
    from unlearnlib.figures import image_html
    from unlearnlib.report import audit_figures

    figures = {"relearning": "", "inside": ""}
    if rows_of(record.trajectory, "relearning"):
        figures["relearning"] = image_html(
            audit_figures.relearning(record),
            "Loss on the documents that are not taught, after so many updates, each model at the "
            "learning rate that brings back most. A model that remembers falls further than one "
            "that never read the documents.",
        )
    if rows_of(record.trajectory, "inside"):
        figures["inside"] = image_html(
            audit_figures.inside(record),
            "How much less unexpected the documents are than unread ones, if each layer were the "
            "last. Where this model’s line is above the retrained model’s, there is memory.",
        )
    return render(
        "audit.html",
        title=f"{model}: is it gone, or hidden?",
        model=model,
        original=original,
        documents=documents,
        record=record,
        verdict=verdict(record),
        remarks=remarks(record),
        lines=lines(record),
        asked=ASKED,
        attacked=[MODEL_TITLES[name].lower() for name in models(record)],
        percent=percent,
        show=show,
        isnan=math.isnan,
        hidden=found_something(record),
        most=CAUGHT,
        taught=_taught(record),
        rounded=_kept(record, "quantisation"),
        contexts=_kept(record, "context"),
        layered=_kept(record, "inside"),
        extracted=_extracted(record),
        extracted_header=_extracted_header(record),
        figures={name: Markup(figure) for name, figure in figures.items()},
        provenance=record.provenance,
    )


def _taught(record: Record) -> list[tuple[str, ...]]:
    """(what was taught, share of the way back of this model, of the retrained one, of the impostor)

    One row per source that there was.
    """
    found = record.metrics
    names = [name for name in SOURCES if f"relearning/{name}" in found]
    return [
        (
            SOURCE_WORDS[name],
            *(
                percent(found.get(f"relearning/{name}{end}", math.nan))
                for end in ("", "/oracle", "/impostor")
            ),
        )
        for name in names
    ]


def _kept(record: Record, audit: str) -> list[tuple[str, ...]]:
    """(what was tried, kept by this model, between, kept by the impostor) of an audit's parts."""
    if not rows_of(record.trajectory, audit):
        return []
    ours, theirs = (
        dict(kept_by(record.trajectory, audit, name)) for name in ("unlearned", "impostor")
    )
    return [
        (
            WORDS.get(name, f"layer {name}"),
            percent(one.value),
            between(one.low, one.high),
            percent(theirs[name].value),
        )
        for name, one in ours.items()
    ]


def _extracted_header(record: Record) -> tuple[str, ...]:
    """The header of `_extracted`."""
    titles = [MODEL_TITLES[name].lower() for name in models(record)]
    kinds = ("greedy", "sampled")
    return ("tokens given", *(f"{kind}: {title}" for kind in kinds for title in titles))


def _extracted(record: Record) -> list[tuple[str, ...]]:
    """(length of prefix, then greedy and leak of each model) of extraction, on the documents."""
    rows = rows_of(record.trajectory, "extraction", split="forget")
    tries = max((int(row["tries"]) for row in rows), default=0)
    found = []
    for prefix in sorted({int(row["prefix"]) for row in rows}):
        cells = [str(prefix)]
        for kind, k in (("greedy", 0), ("leak", tries)):
            for name in models(record):
                at = {"model": name, "prefix": prefix, "kind": kind, "tries": k}
                cells += [percent(float(row[kind])) for row in rows_of(rows, "extraction", **at)]
        found.append(tuple(cells))
    return found
