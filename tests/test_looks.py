"""Every method has a colour and a marker of its own, and related methods have related hues."""

from __future__ import annotations

import colorsys

import pytest
from matplotlib.colors import to_rgb

from unlearnlib.looks import METHOD_LOOKS, method_look
from unlearnlib.profiles import PAPER_METHODS


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
