"""Numbers, durations, sizes and file names as text, for every table, page and message."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from unlearnlib.folders import FROM_SCRATCH


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, sample standard deviation); the latter NaN for fewer than two or infinite values."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return math.nan, math.nan
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return fmean(known), math.nan
    return fmean(known), stdev(known)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float, digits: int = 3) -> str:
    """`x` with so many significant digits: "0.512", "31.4", "2,150", "4.1 × 10¹²", "∞", "–"."""
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if abs(x) < 1e-9:  # a divergence of a model from itself, but for rounding
        return "0"
    # Of the rounded value: 0.9998 is "1.00", not "1.000".
    exponent = int(f"{abs(x):.{digits - 1}e}".partition("e")[2])
    if exponent >= 6 or exponent < -3:
        # One digit fewer, and rounding to that may carry over again.
        mantissa, _, power = f"{x:.{max(0, digits - 2)}e}".partition("e")
        return f"{mantissa} × 10{str(int(power)).translate(SUPERSCRIPTS)}".replace("-", "−")
    return f"{x:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def with_spread(values: Sequence[float]) -> str:
    """ "mean ± standard deviation" of the values of several seeds, to the same decimals."""
    mean, spread = mean_and_spread(values)
    text = number(mean)
    if math.isnan(spread) or "×" in text or "∞" in text:
        return text
    decimals = len(text.partition(".")[2])
    return f"{text} ± {spread:,.{decimals}f}"


def power(x: float) -> str:
    """A small difference: "3.6 × 10⁻¹²", and "0" only for exactly 0."""
    if not x or not math.isfinite(x):
        return number(x)
    exponent = math.floor(math.log10(abs(x)))
    return f"{number(x / 10.0**exponent, 2)} × 10{str(exponent).translate(SUPERSCRIPTS)}"


def printable(text: str) -> str:
    """`text` with every character that does not print spelt as a Python escape."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def listed(names: Sequence[str], most: int = 100) -> str:
    """Names in one line, as "a, b, c"; of very many the first ones, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def shell_join(words: Sequence[str]) -> str:
    """`shlex.join` in one line: a word with characters that do not print becomes $'...'."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + printable(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def show(value: float | None) -> str:
    """A number as it is printed: four significant digits; a dash for one that is not there."""
    if value is None or math.isnan(value):
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}"


def strict_json(value: Any) -> Any:
    """`value` for strict JSON; numbers that are not finite are spelt as in the run store."""
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def gigabytes(size: float) -> str:
    """A number of bytes as "1.25 GB" or "300 MB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """A time as "45 s", "12 min" or "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def file_name(path: str) -> str:
    """The last part of a path that a user gave, also of "." and "x/"."""
    return Path(os.path.abspath(path)).name


def source_name(model: str) -> str:
    """A model source without the folders around it; hub ids and lab models as they are."""
    is_lab = model.partition("/")[0] in FROM_SCRATCH
    return model if is_lab or not Path(model).exists() else file_name(model)


def weights_in_words(weights: Mapping[str, Any]) -> str:
    """Which weights a run started from, as a record's provenance has it (`models.weights_of`)."""
    if not weights:
        return ""
    commit = f" at {weights['commit'][:12]}" if weights.get("commit") else ""
    said = f"{weights['name']}{commit}, {weights['format']}"
    base = weights.get("base")
    return f"{said}; trained further from {weights_in_words(base)}" if base else said


def plural(word: str, count: float | str) -> str:
    """The word, with an "s" unless the count is 1."""
    return word if count == 1 else word + "s"
