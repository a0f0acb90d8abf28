"""Numbers are written with three significant digits, and as means with a spread."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.text import number, power, with_spread


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.5, "0.500"),
        (31.42, "31.4"),
        (2150.4, "2,150"),
        (4.1e12, "4.1 × 10¹²"),
        (-0.25, "−0.250"),
        (0.0, "0"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (2e-5, "2.0 × 10⁻⁵"),
        (0.9998, "1.00"),
        (9.998, "10.0"),
        (999_999.0, "1.0 × 10⁶"),
        (9.97e-5, "1.0 × 10⁻⁴"),
    ],
)
def test_a_number_is_written_with_three_significant_digits(x: float, text: str) -> None:
    assert number(x) == text


@given(st.floats(min_value=1e-3, max_value=9e5))
def test_a_written_number_is_within_one_percent_of_itself(x: float) -> None:
    assert float(number(x).replace(",", "")) == pytest.approx(x, rel=0.01)


def test_spread_over_seeds_is_the_sample_standard_deviation() -> None:
    assert with_spread([9.0, 10.0, 11.0]) == "10.0 ± 1.0"
    assert with_spread([9.0]) == "9.00"


def test_a_seed_without_a_value_is_left_out_and_an_infinite_one_shows() -> None:
    assert with_spread([9.0, math.nan, 11.0]) == "10.0 ± 1.4"
    assert with_spread([9.0, math.inf]) == "∞"
    assert with_spread([math.nan, math.nan]) == "–"


@pytest.mark.parametrize(("x", "text"), [(0.0, "0"), (3.64e-12, "3.6 × 10⁻¹²"), (math.nan, "–")])
def test_small_differences_are_not_rounded_to_nothing(x: float, text: str) -> None:
    assert power(x) == text
