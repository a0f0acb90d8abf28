"""What the columns of rows hold: the text, its prompt or its conversation, and its name.

The first row, or a table's head, decides which columns there are; then each row is checked, and
becomes a text, or several: each turn of an assistant in a conversation is a text of its own, given
all that was said before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from unlearnlib.corpus.documents import Turn
from unlearnlib.errors import UnlearnError
from unlearnlib.text import printable

TEXT_COLUMNS = ("text", "content", "document", "body", "messages", "conversations")
"""Column names that are taken for the text, in this order, when none is given."""

NO_IDS = "none"  # in place of a column of ids: rows are numbered
# Who speaks in a conversation, by the names that data sets have for it.
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


class Named(TypedDict, total=False):
    """Which columns a user names, as the arguments of functions that read documents.

    column         the texts (or answers, or conversations); by default the first of `TEXT_COLUMNS`
                   that is there. "a.b" is b within a
    ids            the ids; by default "id" where there is one; "none": rows are numbered
    prompt_column  what is given before each text, a question for one
    chat           the prompt is what a user says, and the text what an assistant answers: both are
                   spelt by the tokenizer's chat template
    """

    column: str | None
    ids: str | None
    prompt_column: str | None
    chat: bool


@dataclass(frozen=True)
class Text:
    """What a row gives.

    row     its number, from 1
    id      None where it is to be numbered
    part    its number among the texts of the row, from 1; 0 where it is the only one
    """

    row: int
    id: str | None
    text: str
    prompt: str | tuple[Turn, ...] = ""
    part: int = 0

    def name(self, numbered: str) -> str:
        """The id of the document; `numbered` in place of one that the row lacks."""
        return (self.id or numbered) + (f"-{self.part}" if self.part else "")


@dataclass(frozen=True)
class Columns:
    """The columns of one file (`where` in errors), by the names that it has for them."""

    where: str
    found: tuple[str, ...]
    text: str
    ids: str | None = None
    prompt: str | None = None
    chat: bool = False

    @property
    def roots(self) -> tuple[str, ...]:
        """The columns that must be read, each once."""
        return tuple(dict.fromkeys(path[0] for path in self._paths if path))

    @property
    def _paths(self) -> tuple[tuple[str, ...], ...]:
        named = (self.text, self.prompt, self.ids)
        return tuple(_path(name, self.found) for name in named if name is not None)

    def texts(self, row: int, values: Mapping[str, Any], id_name: str | None) -> Iterator[Text]:
        """The texts of one row; where rows differ, some may have an id, named `id_name`."""
        name = self.ids or id_name
        given = None
        if name is not None:
            place = f"{name!r} in row {row} of {self.where}"
            given = given_id(value_at(values, _path(name, self.found)), place)
            if given is not None:
                check_encodable(given, place)
        value = value_at(values, _path(self.text, self.found))
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from self._turns(row, given, value)
            return
        text = self._string(row, self.text, value)
        if self.prompt is None:
            yield Text(row, given, text)
            return
        prompt = self._string(row, self.prompt, value_at(values, _path(self.prompt, self.found)))
        yield Text(row, given, text, (("user", prompt),) if self.chat else prompt)

    def _string(self, row: int, column: str, value: object) -> str:
        if not isinstance(value, str):
            option = "prompt_column=... (--prompt-column)"
            raise UnlearnError(
                f"{column!r} in row {row} of {self.where} is {type(value).__name__}, not a string: "
                "correct the row, or name another column with "
                f"{option if column == self.prompt else 'column=... (--column)'}."
            )
        check_encodable(value, f"{column!r} in row {row} of {self.where}")
        return value

    def _turns(self, row: int, given: str | None, value: Sequence[Any]) -> Iterator[Text]:
        """The assistant's turns of a conversation, each given those before it."""
        where = f"{self.text!r} in row {row} of {self.where}"
        turns = tuple(_turn(turn, where) for turn in value)
        said = [n for n, (role, _) in enumerate(turns) if role == "assistant"]
        if not said or said[0] == 0:
            raise UnlearnError(
                f"{where} has no turn of an assistant that answers something: give rows such as "
                '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
            )
        for number, place in enumerate(said, 1):
            part = number if len(said) > 1 else 0
            yield Text(row, given, turns[place][1], turns[:place], part)


def _turn(turn: object, where: str) -> Turn:
    """Who speaks, and what is said."""
    if isinstance(turn, Mapping):
        role = turn.get("role", turn.get("from"))
        said = turn.get("content", turn.get("value"))
        if isinstance(said, list):  # parts, of which those that are text can be read
            parts = [part.get("text") for part in said if isinstance(part, Mapping)]
            texts = [part for part in parts if isinstance(part, str)]
            said = "".join(texts) if len(texts) == len(said) else None
        if isinstance(role, str) and isinstance(said, str):
            check_encodable(role + said, where)
            return ROLES.get(role, role), said
    raise UnlearnError(
        f'{where} has a turn that is not {{"role": "...", "content": "..."}} with a text: correct '
        "the row."
    )


def choose(where: str, found: Sequence[str], named: Named) -> Columns:
    """The columns of a file that has those of `found`.

    Raises `UnlearnError` for one that is named and not there, or there twice, and where no column
    is known for the texts.
    """
    text = _text_column(where, found, named.get("column"))
    ids = _id_column(where, found, named.get("ids"))
    prompt = named.get("prompt_column")
    if prompt is not None:
        if not _has(found, prompt):
            raise UnlearnError(
                f"{where} has no column {prompt!r}, only {_all(found)}: name the one that holds "
                "what is given before the texts with prompt_column=... (--prompt-column)."
            )
        _check_once(where, found, prompt)
        if prompt == text:
            raise UnlearnError(
                f"{where} has its texts and what is given before them both in {prompt!r}: name "
                "another with column=... (--column) or prompt_column=... (--prompt-column)."
            )
    return Columns(where, tuple(found), text, ids, prompt, bool(named.get("chat")))


def id_in_rows(named: Named) -> str | None:
    """The column that may hold the id of a row where the first one has none."""
    ids = named.get("ids")
    return None if ids == NO_IDS else ids or "id"


def _all(found: Sequence[str]) -> str:
    return ", ".join(map(repr, found)) or "none at all"


def _path(name: str, found: Sequence[str]) -> tuple[str, ...]:
    """The way to a value: a column, or "a.b", which is b within the column a."""
    root, dot, rest = name.partition(".")
    return (name,) if name in found or not dot or root not in found else (root, *rest.split("."))


def _has(found: Sequence[str], name: str) -> bool:
    return name in found or ("." in name and name.partition(".")[0] in found)


def value_at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at the end of a path; None where there is none."""
    value: Any = values
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text_column(where: str, found: Sequence[str], column: str | None) -> str:
    for name in TEXT_COLUMNS if column is None else (column,):
        if name in found or (column is not None and _has(found, name)):
            _check_once(where, found, name)
            return name
    what = "no text column" if column is None else f"no column {column!r}"
    raise UnlearnError(
        f"{where} has {what}, only {_all(found)}: "
        "name the one that holds the text with column=... (--column)."
    )


def _id_column(where: str, found: Sequence[str], ids: str | None) -> str | None:
    """The column of the ids; None where rows are numbered."""
    if ids == NO_IDS or (ids is None and "id" not in found):
        return None
    name = "id" if ids is None else ids
    if not _has(found, name):
        raise UnlearnError(
            f"{where} has no column {name!r}, only {_all(found)}: name the "
            "one that holds the ids with ids=... (--id), or number the rows with 'none'."
        )
    _check_once(where, found, name)
    return name


def _check_once(where: str, found: Sequence[str], name: str) -> None:
    root = _path(name, found)[0]
    if found.count(root) > 1:
        raise UnlearnError(
            f"{where} has {found.count(root)} columns {root!r}: give each a name of its own."
        )


def given_id(value: object, where: str) -> str | None:
    """The id of a row as a string; None where the row has none."""
    if value is None or value == "":
        return None
    if isinstance(value, float):  # what pandas makes of whole numbers where one is missing
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnlearnError(
            f"{where} is {type(value).__name__}: give a string or a whole number, name another "
            "column with ids=... (--id), or number the rows with 'none'."
        )
    return str(value)


def check_encodable(text: str, what: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell but no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnlearnError(
            f"{printable(what)} is not valid Unicode (character {error.start}): correct it."
        ) from error
