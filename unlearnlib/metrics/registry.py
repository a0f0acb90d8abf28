"""The metrics that a record holds: `@metric` puts a function of `TokenScores` among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.metrics.scores import TokenScores

SPLITS = ("forget", "approximate", "retain", "general")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A metric of a record: the function, and which keys its values have.

    function   of the scores of one split, or of the scores of each of `splits` if `together`;
               returns a number, or a (nested) dictionary of numbers
    splits     those of `SPLITS` that it is computed on
    key        of a value, with {split} and {name} to be filled in; {name} is the function's name,
               or the dictionary's, joined by "/"
    names      the last parts of the {name}s
    together   the function takes all its splits at once
    reference  it needs scores that carry a KL divergence from a reference model
    later      it came after records were published, so a record may lack it
    """

    function: Callable[..., Any]
    splits: tuple[str, ...]
    key: str
    names: tuple[str, ...]
    together: bool
    reference: bool
    later: bool

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the function's arguments after the scores."""
        scores = len(self.splits) if self.together else 1
        return tuple(inspect.signature(self.function).parameters)[scores:]

    def values(
        self, split: str, *scores: TokenScores, known: Mapping[str, Any]
    ) -> Iterator[tuple[str, float]]:
        """(key, value) pairs of one split's scores, or of all splits' if `together`.

        `known` has a value for each of `options`; others in it are left.
        """
        given = {name: known[name] for name in self.options}
        for name, value in _flat(self.function.__name__, self.function(*scores, **given)):
            yield self.key.format(split=split, name=name), value


METRICS: dict[str, Metric] = {}


def metric(
    *splits: str,
    key: str = "{split}/{name}",
    names: tuple[str, ...] = (),
    together: bool = False,
    reference: bool = False,
    later: bool = False,
) -> Callable[[F], F]:
    """Put the decorated function into every record; the arguments are the fields of `Metric`.

    Without `splits` it is computed on all. `names` is for a function that returns a dictionary.
    `UnlearnError` for an unknown split and for a name that is taken.
    """
    for split in splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)

    def register(function: F) -> F:
        name = function.__name__
        if name in METRICS:
            raise UnlearnError(f"metric {name!r} exists already: choose another name.")
        METRICS[name] = Metric(
            function, splits or SPLITS, key, names or (name,), together, reference, later
        )
        return function

    return register


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """A number under `name`; the numbers of a dictionary under theirs, joined by "/"."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for one, inner in value.items():
        for rest, number in _flat(one, inner):
            yield (f"{one}/{rest}" if isinstance(inner, Mapping) else rest), number
