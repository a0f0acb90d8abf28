"""Texts that a Python user has in memory, as documents and as a domain of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unlearnlib.corpus.columns import check_encodable
from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.files import split_general
from unlearnlib.errors import UnlearnError, unknown

YOURS = "yours"  # the domain of a user's own documents
TEXTS = ("forget", "retain", "approximate", "general")  # the sets that a user may give


def as_documents(texts: Iterable[str | Document], prefix: str) -> tuple[Document, ...]:
    """Texts as documents named PREFIX-0001 and so on; documents stay as they are.

    Raises:
        UnlearnError: `texts` is one text, a table or a dictionary, where a loop would go over
            letters or names; an item is not a text, or no valid Unicode; two documents have the
            same id.
    """
    wrong = isinstance(texts, str | bytes | Document | Mapping) or hasattr(texts, "columns")
    if wrong or not isinstance(texts, Iterable):
        what = "None" if texts is None else f"one {type(texts).__name__}"
        raise UnlearnError(f"{prefix} is {what}: give a list of texts, as in [text, ...].")
    documents: dict[str, Document] = {}
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str | Document):
            raise UnlearnError(
                f"number {number} of {prefix} is {type(text).__name__}, not a text: give strings."
            )
        made = text if isinstance(text, Document) else Document(f"{prefix}-{number:04d}", text)
        for part in (made.id, made.text, *made.given):
            check_encodable(part, f"number {number} of {prefix}")
        if made.id in documents:
            raise UnlearnError(
                f"the id {made.id!r} occurs twice in {prefix}: give each document an id of its own."
            )
        documents[made.id] = made
    return tuple(documents.values())


def own_data(texts: Mapping[str, Iterable[str | Document]] | DomainData) -> DomainData:
    """A user's texts, by the names of `TEXTS`, as a domain; a domain stays as it is.

    The general texts are divided into those to retain and those to evaluate on. Raises
    `UnlearnError` for a set of another name and for what `as_documents` refuses.
    """
    if isinstance(texts, DomainData):
        return texts
    if not isinstance(texts, Mapping):
        raise UnlearnError(
            f"texts is a {type(texts).__name__}: give the texts by name, as in "
            'texts={"forget": [...], "retain": [...]}.'
        )
    for name in texts:
        if name not in TEXTS:
            raise unknown("set of texts", name, TEXTS)
    # The general texts first: their errors come before those of a set that is checked as a whole.
    given = {name: as_documents(texts.get(name, ()), name) for name in ("general", *TEXTS[:3])}
    general_retain, general_evaluation = split_general(given["general"])
    return DomainData(
        YOURS,
        given["forget"],
        given["retain"],
        given["approximate"],
        general_retain,
        general_evaluation,
        source="texts",
    )
