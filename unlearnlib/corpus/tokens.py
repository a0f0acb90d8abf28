"""Texts as token ids, in bounded memory: four bytes a token, and long texts a window at a time.

A tokenizer keeps some two hundred bytes of notes for each character that it is given at once. A
text longer than `WINDOW` characters is therefore given in windows that overlap, and joined where
two of them agree: a stretch in the middle of the overlap must have the same tokens at the same
places in both, whatever stood at the edge of either. Where they do not (a "word" of a million
letters that the tokenizer takes as one), the window is doubled, in the end to the whole text. The
ids are those of the whole text.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from unlearnlib.errors import UnlearnError, first_line, is_failure
from unlearnlib.text import printable

logger = logging.getLogger(__name__)

WINDOW = 1 << 17  # characters that a tokenizer is given at once
OVERLAP = 1 << 12  # characters that two windows share
LONG = 16 * WINDOW  # characters that take so long that it is told


class TokenIds(Sequence[int]):
    """Token ids in four bytes each, where a tuple takes 36; equal to, and hashed as, the tuple."""

    __slots__ = ("_ids",)

    _ids: np.ndarray

    def __init__(self, ids: Iterable[int] = ()):
        self._ids = ids._ids if isinstance(ids, TokenIds) else np.array(_plain(ids), np.int32)
        self._ids.setflags(write=False)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...
    def __getitem__(self, index: int | slice) -> int | TokenIds:
        return TokenIds(self._ids[index]) if isinstance(index, slice) else int(self._ids[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return np.array_equal(self._ids, other._ids)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The ids as NumPy's functions take them, without a copy where none is needed."""
        return np.array(self._ids, dtype=dtype, copy=copy)


def _plain(ids: Iterable[int]) -> Any:
    return ids if isinstance(ids, Sequence | np.ndarray | array) else list(ids)


def encode(text: str, tokenizer: Any, name: str, special: bool = True) -> np.ndarray:
    """(T,) i32 ids of a text, `special` with the tokenizer's own special tokens around it.

    `name` is what the text is called where the tokenizer fails on it: `UnlearnError`.
    """
    try:
        long = len(text) > WINDOW and getattr(tokenizer, "is_fast", False)
        frame = _frame(text, tokenizer, special) if long else None
        if frame is None:
            return _array(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
        if len(text) > LONG:
            logger.info(
                "%s has %s characters: its tokens take some seconds for each million",
                printable(name),
                f"{len(text):,}",
            )
        before, after = map(_array, frame)
        return np.concatenate([before, *_joined(text, tokenizer, name), after])
    except BaseException as error:
        if isinstance(error, UnlearnError) or not is_failure(error):
            raise
        raise UnlearnError(
            f"the tokenizer fails on {printable(name)} ({first_line(error)}): take it out, or give "
            "the tokenizer that the model was trained with."
        ) from error


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def _frame(text: str, tokenizer: Any, special: bool) -> tuple[list[int], list[int]] | None:
    """The special tokens that stand before a text and after it; None where that is not told."""
    if not special:
        return [], []
    some = text[:64]
    inner = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
    whole = tokenizer(some, add_special_tokens=True, verbose=False)["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    return None


# The ids of a window, and for each where in the whole text it begins and ends.
_Window = tuple[np.ndarray, np.ndarray]


def _window(text: str, start: int, stop: int, tokenizer: Any) -> _Window:
    coded = tokenizer(
        text[start:stop],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    places = np.array(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start
    return _array(coded["input_ids"]), places


def _joined(text: str, tokenizer: Any, name: str) -> Iterator[np.ndarray]:
    """The ids of a text, in parts: see the docstring of this file."""
    done = start = 0  # where the next id begins, and where the window does
    stop = WINDOW
    ids, places = _window(text, start, stop, tokenizer)
    while stop < len(text):
        following = stop - OVERLAP
        end = min(len(text), following + WINDOW)
        after = _window(text, following, end, tokenizer)
        cut = _agreed((ids, places), after, following, stop)
        if cut is None:  # no place to part: the window is doubled
            end = min(len(text), start + 2 * (stop - start))
            if end - start > LONG:
                logger.warning(
                    "%s has no place in %s characters where its tokens could be parted: it is "
                    "tokenised as one piece, which takes memory of 200 bytes a character",
                    printable(name),
                    f"{stop - start:,}",
                )
            ids, places = _window(text, start, end, tokenizer)
            stop = end
            continue
        yield ids[(places[:, 0] >= done) & (places[:, 0] < cut)]
        done, start, stop = cut, following, end
        ids, places = after
    yield ids[places[:, 0] >= done]


def _agreed(one: _Window, other: _Window, start: int, stop: int) -> int | None:
    """A place in the middle of `start` to `stop` to part two windows at; None if they disagree."""
    quarter = (stop - start) // 4
    low, high = start + quarter, stop - quarter
    (ids, places), (ids_other, places_other) = (
        (ids[inside], places[inside])
        for ids, places in (one, other)
        for inside in [(places[:, 0] >= low) & (places[:, 1] <= high)]
    )
    if not np.array_equal(ids, ids_other) or not np.array_equal(places, places_other):
        return None
    if len(places) < 2:
        return None
    # Where a token begins, and all before it have ended: letters may be of several tokens.
    begins, ends = places[1:, 0], np.maximum.accumulate(places[:-1, 1])
    clean = begins[(begins >= ends) & (begins > places[:-1, 0])]
    return int(clean[len(clean) // 2]) if len(clean) > 8 else None
