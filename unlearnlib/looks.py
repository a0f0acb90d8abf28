"""How methods, domains, splits and attacks are shown: title, colour, marker, each in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Look:
    """How a method is shown: its short name, its colour and its marker."""

    short: str
    colour: str
    marker: str


# The markers of rows that came after the paper say which retain data they have.
ALONE, GENERAL, IN_DIST = "^", "o", "s"


def _alone_and_with_descent(name: str, short: str, colour: str) -> dict[str, Look]:
    """A forget term by itself, and with descent on retain documents of the domain."""
    return {
        name: Look(short, colour, ALONE),
        f"{name}_gd_in_dist": Look(f"{short} + GD", colour, IN_DIST),
    }


# In the order in which figures and tables list the methods. Of the later ones the colour says the
# family: greens are weighted ascent, violets target distributions.
METHOD_LOOKS: dict[str, Look] = {
    "ga": Look("GA", "#22272e", "X"),
    "random_label": Look("Random labels", "#cc79a7", "^"),
    "adversarial": Look("Adversarial labels", "#882255", "v"),
    "ga_gd_general": Look("GA + GD, general", "#56b4e9", "o"),
    "ga_gd_in_dist": Look("GA + GD, in-dist.", "#0072b2", "s"),
    "ga_kl_general": Look("GA + KL, general", "#e69f00", "D"),
    "ga_kl_in_dist": Look("GA + KL, in-dist.", "#d55e00", "P"),
    "ga_js_general": Look("GA + JS, general", "#8d6e63", GENERAL),
    "ga_js_in_dist": Look("GA + JS, in-dist.", "#8d6e63", IN_DIST),
    **_alone_and_with_descent("npo", "NPO", "#2f7d32"),
    **_alone_and_with_descent("tnpo", "Token NPO", "#00897b"),
    **_alone_and_with_descent("simnpo", "SimNPO", "#6a9a1f"),
    **_alone_and_with_descent("wga", "WGA", "#827717"),
    **_alone_and_with_descent("satimp", "SatImp", "#4c9f70"),
    **_alone_and_with_descent("ceu", "Unlikelihood", "#2c8c99"),
    **_alone_and_with_descent("undial", "UNDIAL", "#7e57c2"),
    **_alone_and_with_descent("max_entropy", "Max. entropy", "#b04fc9"),
}
OWN_COLOUR, OWN_MARKER = "#6b7280", "*"  # of a method without a look
BASELINE_TITLES = {
    "vanilla": "Vanilla",
    "target": "Paper’s target",
    "oracle": "Oracle (truth)",
}
INK, GREY = "#22272e", "#57606a"  # of what belongs to no method
BASELINE_STYLES: dict[str, dict[str, Any]] = {
    "vanilla": {"color": "#7a828b", "linestyle": ":", "linewidth": 1.8},
    "target": {"color": INK, "linestyle": (0, (5, 2)), "linewidth": 1.4},
    "oracle": {"color": "#00805d", "linestyle": "-", "linewidth": 1.8},
}
# Splits have hues of their own, so that no split looks like a method.
SPLIT_COLOURS = {"forget": "#8c510a", "approximate": "#5e3c99", "retain": "#7a828b"}
DOMAIN_TITLES = {
    "arxiv": "arXiv",
    "github": "GitHub",
    "books": "Books",
    "yours": "Your documents",
}
ATTACK = "min_k_40"  # the attack that is shown where only one is
ATTACK_TITLES = {
    "loss": "Loss",
    "zlib": "zlib",
    "min_k_20": "Min-20 %",
    "min_k_40": "Min-40 %",
    "min_k_pp_20": "Min-20 %++",
    "min_k_pp_40": "Min-40 %++",
}


def method_look(method: str) -> Look:
    """The look of a method; without one its id, in `OWN_COLOUR` with `OWN_MARKER`."""
    return METHOD_LOOKS.get(method, Look(method, OWN_COLOUR, OWN_MARKER))


def method_title(method: str) -> str:
    """The short name that figures and tables print; of a method without a look, its id."""
    return method_look(method).short


def method_style(method: str) -> dict[str, Any]:
    """Colour and marker of a method, the same in every figure, as Matplotlib's arguments."""
    look = method_look(method)
    return {"color": look.colour, "marker": look.marker}


def domain_title(domain: str) -> str:
    """The domain's name as printed; of a domain without a title, its id."""
    return DOMAIN_TITLES.get(domain, domain)
