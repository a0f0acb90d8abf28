"""Every method has a colour and a marker of its own, and related methods have related hues."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from unlearnlib.looks import ALONE, GENERAL, IN_DIST, METHOD_LOOKS, method_look
from unlearnlib.methods import METHODS, family_of
from unlearnlib.profiles import LATER_METHODS, PAPER_METHODS


def test_every_method_of_the_paper_has_a_colour_and_marker_of_its_own() -> None:
    assert set(PAPER_METHODS) <= set(METHOD_LOOKS)
    looks = [method_look(method) for method in (*PAPER_METHODS, "my_method")]
    for part in ("short", "colour", "marker"):
        assert len({getattr(look, part) for look in looks}) == len(PAPER_METHODS) + 1


@pytest.mark.parametrize(
    "pair", [("ga_gd_general", "ga_gd_in_dist"), ("ga_kl_general", "ga_kl_in_dist")]
)
def test_related_methods_have_related_hues(pair: tuple[str, str]) -> None:
    hues = [colorsys.rgb_to_hsv(*to_rgb(METHOD_LOOKS[m].colour))[0] for m in pair]
    assert abs(hues[0] - hues[1]) < 0.08


LATER = tuple(LATER_METHODS)
HUES = {"weighted ascent": (50, 195), "target distribution": (255, 300)}  # degrees


def luminance(colour: str) -> float:
    """Relative, as WCAG defines contrast by."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_every_row_that_is_compared_has_a_look_and_no_two_have_the_same() -> None:
    compared = (*PAPER_METHODS, *LATER)
    looks = [METHOD_LOOKS[name] for name in compared]
    assert len({look.short for look in looks}) == len({(x.colour, x.marker) for x in looks})
    assert len({look.short for look in looks}) == len(compared)


@pytest.mark.parametrize("name", LATER)
def test_of_later_rows_colour_says_the_family_and_marker_the_data(name: str) -> None:
    look, row = METHOD_LOOKS[name], METHODS[name]
    marker = {None: ALONE, "general": GENERAL, "in_distribution": IN_DIST}[row.data]
    assert look.marker == marker
    if not name.startswith("ga_"):  # those are told apart by their retain term, as in the paper
        low, high = HUES[family_of(row.forget)]
        assert low <= 360 * colorsys.rgb_to_hls(*to_rgb(look.colour))[0] <= high


def test_colours_of_later_rows_show_on_light_and_on_dark() -> None:
    """At least 3 to 1, which WCAG asks of graphics, on the book's white and on its dark ground."""
    for name in LATER:
        light = luminance(METHOD_LOOKS[name].colour) + 0.05
        assert 1.05 / light >= 3 and light / (luminance("#14181e") + 0.05) >= 3, name


def test_colours_of_later_rows_are_told_apart() -> None:
    colours = {METHOD_LOOKS[name].colour for name in LATER}
    assert len(colours) == 9
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(np.subtract(to_rgb(one), to_rgb(other))) > 0.15, (one, other)
