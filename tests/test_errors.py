"""What other libraries say in their errors is cut to one line by one function."""

from __future__ import annotations

import pytest

from unlearnlib.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such thing.\nStack:\n  at 3"), "no such thing"),
        (ValueError(""), "ValueError"),
        (ValueError(" \n\n second line "), "second line"),
        (ValueError("it failed because:\nthe file is cut"), "it failed because: the file is cut"),
        (KeyError("text"), "KeyError: 'text'"),
        (ValueError("\x1b[31mred\x1b[0m\tand so on"), "[31mred [0m and so on"),
        (ValueError("x" * 5000), "x" * 297 + "..."),
        (RecursionError(), "RecursionError"),
    ],
)
def test_an_error_is_told_in_one_printable_line(error: Exception, said: str) -> None:
    assert first_line(error) == said
