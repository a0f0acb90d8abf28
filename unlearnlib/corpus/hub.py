"""The authors' published data, through the `datasets` library.

`llmunlearn/unlearn_dataset` holds the domains arxiv and github and the domain-free general
texts; the books were not published. A local folder of Parquet files in the same layout
(`arxiv/forget-00000-of-00001.parquet`, and so on) is read by the same code, which is how a copy
on a machine without network is used, and how a user gives books: `books/forget.parquet`, and so on.
Only data is ever loaded: `datasets` from version 4 on runs
no code of a repository.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.files import checked_limits
from unlearnlib.corpus.hub_rows import load_split
from unlearnlib.errors import UnlearnError, unknown

logger = logging.getLogger(__name__)

HUB_DATASET = "llmunlearn/unlearn_dataset"
HUB_DOMAINS = ("arxiv", "github")


@dataclass(frozen=True)
class HubSplit:
    """Where one of our splits lies in the published data set."""

    config: str
    split: str
    column: str


def hub_layout(domain: str, copied: bool = False) -> dict[str, HubSplit]:
    """Our split names -> config, split and text column of the published data set.

    Args:
        domain: one of `HUB_DOMAINS`; "books" where there is a copy.
        copied: whether the files lie in a local folder, to which a user may add books.

    Raises:
        UnlearnError: "books", which was not published, or an unknown domain.
    """
    if domain == "books" and not copied:
        raise UnlearnError(
            "the domain 'books' was not published by the authors: give a folder that has your own "
            "as books/forget.parquet, books/retain.parquet and books/approximate.parquet beside a "
            "copy of the published data (--corpora FOLDER), or take the profile 'open', whose "
            "novels are public."
        )
    if domain not in (*HUB_DOMAINS, "books"):
        raise unknown("domain", domain, HUB_DOMAINS)
    return {
        "forget": HubSplit(domain, "forget", "text"),
        "retain": HubSplit(domain, "retain", "text"),
        "approximate": HubSplit(domain, "approximate", "text"),
        "general_retain": HubSplit("general", "retain", "content"),
        "general_evaluation": HubSplit("general", "evaluation", "content"),
    }


def load_hub(
    domain: str,
    source: str | Path = HUB_DATASET,
    revision: str | None = None,
    limits: Mapping[str, int] | None = None,
    *,
    cache: Path | None = None,
) -> DomainData:
    """The five splits of a published domain; ids are "arxiv-forget-0001", numbered by row.

    What was downloaded once is read from the cache, also with HF_HUB_OFFLINE=1.

    Args:
        domain: "arxiv" or "github", of a local folder also "books".
        source: the hub id, or a local folder in the same layout.
        revision: branch, tag or commit on the hub; the newest by default.
        limits: split -> the most documents to take, from the beginning.
        cache: where `datasets` keeps its files; its own default if None.

    Raises:
        UnlearnError: an unknown or unpublished domain, a missing `datasets`, an unreachable hub,
            a missing file or column.
    """
    local = Path(source).is_dir()
    layout = hub_layout(domain, local)
    limits = checked_limits(limits)
    if not local and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise UnlearnError(
            f"{source} is neither a folder nor a data set of the hub: "
            f"give a folder of Parquet files, or an id such as {HUB_DATASET}."
        )
    splits: dict[str, Any] = {
        name: _documents(
            _load(place, source, local, revision, cache), place, source, limits.get(name)
        )
        for name, place in layout.items()
    }
    return DomainData(
        domain=domain,
        source=Path(source).name if local else f"{source}@{revision or 'main'}",
        **splits,
    )


def _load(
    place: HubSplit, source: str | Path, local: bool, revision: str | None, cache: Path | None
) -> Any:
    """The `datasets.Dataset` of one split."""
    if local:
        files = sorted(str(p) for p in Path(source, place.config).glob(f"{place.split}*.parquet"))
        if not files:
            raise UnlearnError(
                f"{Path(source, place.config)} holds no {place.split}*.parquet: "
                f"copy the Parquet files of the data set{_or_yours(place)} there."
            )
        arguments: dict[str, Any] = {"path": "parquet", "data_files": {place.split: files}}
        remedy = "write the Parquet files again"
    else:
        arguments = {"path": str(source), "name": place.config, "revision": revision}
        remedy = (
            "check the name and the network (HF_HUB_OFFLINE must not be set the first time), "
            "or give a local folder with the same Parquet files"
        )
    return load_split(
        source,
        f"{place.config}/{place.split} of {source}",
        remedy,
        split=place.split,
        cache_dir=cache and str(cache),
        **arguments,
    )


def _or_yours(place: HubSplit) -> str:
    return ", or your own books as such files," if place.config == "books" else ""


def _documents(
    rows: Any, place: HubSplit, source: str | Path, limit: int | None
) -> tuple[Document, ...]:
    """The first `limit` documents of a split that have text."""
    if place.column not in rows.column_names:
        raise UnlearnError(
            f"{place.config}/{place.split} of {source} has no column {place.column!r}, only "
            f"{', '.join(map(repr, rows.column_names))}: rename the one that holds the text."
        )
    documents: list[Document] = []
    blank = 0
    texts: Iterable[object] = (row[place.column] for row in rows)
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str | None):
            raise UnlearnError(
                f"{place.column!r} in row {number} of {place.config}/{place.split} of {source} is "
                f"{type(text).__name__}, not a string: store the texts as strings."
            )
        if text is None or not text.strip():
            blank += 1
            continue
        documents.append(Document(f"{place.config}-{place.split}-{number:04d}", text))
        if len(documents) == limit:
            break
    if blank:
        logger.warning(
            "%s/%s of %s: skipped %d empty documents", place.config, place.split, source, blank
        )
    if not documents:
        raise UnlearnError(
            f"{place.config}/{place.split} of {source} holds no documents: check the data set."
        )
    return tuple(documents)
