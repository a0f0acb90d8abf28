"""The parts that all figures are made of: style, panels, axes, legends and alternative texts.

A `DescribedFigure` is a matplotlib figure with an alternative text and a second drawing for narrow
screens. A method has one colour and one marker in all figures (`looks.py`). A value beyond the axes
is drawn at their edge as an arrow, a value that is not a number is left out, and the alternative
text says so.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any, ParamSpec

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from unlearnlib.errors import UnlearnError
from unlearnlib.looks import (
    BASELINE_STYLES,
    BASELINE_TITLES,
    GREY,
    domain_title,
    method_style,
    method_title,
)
from unlearnlib.store.record import Record
from unlearnlib.text import number

WIDE, NARROW = 7.5, 4.4  # inches; the narrow one is about a phone's width at reading size
NARROW_SCREEN = "(max-width: 600px)"
RASTER = 192  # dots per inch of what is drawn as an image: two for each of a screen's

# Perplexities this many times beyond every baseline say no more than "destroyed".
BEYOND = 30.0
BROKEN = 1e30  # no model that still works has such a perplexity or distance

P = ParamSpec("P")


class DescribedFigure(Figure):
    """A figure with its alternative text, and the function that draws it for narrow screens."""

    alt: str = ""
    narrow: Callable[[], DescribedFigure] | None = None


@dataclass(frozen=True)
class Layout:
    """How many panels stand beside each other, and how wide the figure is."""

    is_narrow: bool

    @property
    def width(self) -> float:
        """Inches."""
        return NARROW if self.is_narrow else WIDE

    def grid(
        self, count: int, height: float, *, beside: int = 3, extra: float = 0.0
    ) -> tuple[DescribedFigure, list[Axes]]:
        """A figure with `count` panels, `height` inches each, `extra` inches for the legend."""
        columns = 1 if self.is_narrow else max(1, min(beside, count))
        rows = math.ceil(count / columns)
        width = self.width
        figure = DescribedFigure(figsize=(width, rows * height + extra))
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
        return figure, axes

    def panels(
        self,
        domains: Sequence[str],
        height: float,
        *,
        xlabel: str = "",
        ylabel: str = "",
        extra: float = 0.0,
    ) -> tuple[DescribedFigure, list[tuple[Axes, str]]]:
        """A figure with a titled panel per domain, and its (axes, domain) in their order.

        Beside each other, the middle panel has the label of x and the first that of y; under each
        other, on a narrow screen, every panel has both. Heights are in inches, as in `grid`.
        """
        figure, axes = self.grid(len(domains), height, extra=extra)
        for ax, domain in zip(axes, domains, strict=True):
            ax.set_title(domain_title(domain))
            if self.is_narrow or ax is axes[(len(axes) - 1) // 2]:
                ax.set_xlabel(xlabel)
            if self.is_narrow or ax is axes[0]:
                ax.set_ylabel(ylabel)
        return figure, list(zip(axes, domains, strict=True))

    def metric_panels(
        self,
        domains: Sequence[str],
        metrics: Sequence[tuple[str, str]],
        height: float,
        *,
        xlabel: str,
        extra: float = 0.0,
    ) -> tuple[DescribedFigure, list[tuple[Axes, str, str]]]:
        """A column of panels per domain and a row per metric: (axes, domain, metric) of each.

        `metrics` are (name, label): the first column has the labels of y, the last row that of x.
        On a narrow screen every panel has the label of x and names its domain and its metric.
        """
        figure, axes = self.grid(
            len(metrics) * len(domains), height, beside=len(domains), extra=extra
        )
        places = [(domain, name, label) for name, label in metrics for domain in domains]
        for i, (ax, (domain, _, label)) in enumerate(zip(axes, places, strict=True)):
            if self.is_narrow:
                ax.set_title(f"{domain_title(domain)}: {label}")
            elif i < len(domains):
                ax.set_title(domain_title(domain))
            if not self.is_narrow and i % len(domains) == 0:
                ax.set_ylabel(label)
            if self.is_narrow or i >= len(axes) - len(domains):
                ax.set_xlabel(xlabel)
        return figure, [(ax, *place[:2]) for ax, place in zip(axes, places, strict=True)]


def figure_function(draw: Callable[P, DescribedFigure]) -> Callable[P, DescribedFigure]:
    """Draw in the book's style; the result can draw itself again for a narrow screen."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> DescribedFigure:
        # Drawn twice, and an iterator can be read once.
        given: Any = [list(a) if isinstance(a, Iterator) else a for a in args]
        with _style():
            figure = draw(*given, **kwargs)
        if not kwargs.get("narrow"):
            again: Any = {**kwargs, "narrow": True}
            figure.narrow = lambda: drawn(*given, **again)
        return figure

    return drawn


def _style() -> Any:
    with as_file(files("unlearnlib").joinpath("unlearn.mplstyle")) as path:
        return matplotlib.style.context(["default", str(path)])


def _tick(x: float, _: object = None) -> str:
    """A tick's label: "0.05", "20", "5,000", "10⁶"."""
    power = math.log10(x) if x > 0 else math.nan
    if abs(power) >= 4 and math.isclose(power, round(power)):
        return f"$10^{{{round(power)}}}$"
    return f"{x:,.6g}" if abs(x) < 1e6 else number(x)


def _log_ticks(axis: Any, low: float, high: float) -> None:
    """Few ticks at round numbers on a log axis, written plainly."""
    decades = math.log10(high / low)
    if decades < 0.9:  # a decade has too few round numbers to label it like a log axis
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=6 if decades > 5 else 12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def axis_range(values: Iterable[float], cap: float = math.inf) -> tuple[float, float]:
    """(low, high) around the positive, finite values up to `cap`, with room; (0.5, 2) for none.

    What a broken model gives (beyond `BROKEN`) does not stretch the axis: it is drawn at its edge.
    """
    known = [v for v in values if 1 / BROKEN < v < BROKEN]
    if not known:
        return 0.5, 2.0
    low, high = min(known), min(max(known), max(cap, min(known)))
    room = max((high / low) ** 0.08, 1.04)
    return low / room, high * room


def set_log_axis(ax: Axes, axis: str, low: float, high: float) -> None:
    """Make "x" or "y" a log axis from low to high, with a few plain ticks."""
    if axis == "x":
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        _log_ticks(ax.xaxis, low, high)
    else:
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        _log_ticks(ax.yaxis, low, high)


def clamp(x: float, low: float, high: float) -> float:
    """`x` moved to the nearest edge of an axis; NaN stays."""
    return x if math.isnan(x) else min(max(x, low), high)


def draw_points(ax: Axes, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """Draw points; what lies beyond an axis becomes an arrow at its edge."""
    (x0, x1), (y0, y1) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(x) or math.isnan(y):
            continue
        arrow = "right" if x > x1 else "up" if y > y1 else "left" if x < x0 else "down"
        beyond = not (x0 <= x <= x1 and y0 <= y <= y1)
        look = {**style, "marker": f"$\\{arrow}arrow$"} if beyond else style
        ax.plot(clamp(x, x0, x1), clamp(y, y0, y1), linestyle="", clip_on=False, **look)


def draw_cross(ax: Axes, x: float, y: float, colour: str, size: float = 9) -> None:
    """Mark where a run diverged; `size` in points."""
    ax.plot(x, y, marker="x", color=colour, markersize=size, clip_on=False)


def add_legend(
    figure: DescribedFigure,
    layout: Layout,
    methods: Sequence[str] = (),
    lines: Sequence[str] = (),
    extra: Sequence[Line2D] = (),
    line: bool = False,
) -> None:
    """One legend for the whole figure, below it."""
    handles = [
        Line2D([], [], linestyle="-" if line else "", label=method_title(m), **method_style(m))
        for m in methods
    ]
    handles += [
        Line2D([], [], label=BASELINE_TITLES[which], **BASELINE_STYLES[which]) for which in lines
    ]
    handles += list(extra)
    columns = 2 if layout.is_narrow else 4
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4, fontsize=9
    )


def mark_handle(label: str, **look: Any) -> Line2D:
    """A legend's entry for a mark without a line: a grey dot, or of another `look`."""
    return Line2D([], [], label=label, **{"linestyle": "", "marker": "o", "color": GREY, **look})


def legend_height(layout: Layout, entries: int) -> float:
    """The height in inches of a legend with so many entries."""
    return 0.15 + 0.22 * math.ceil(entries / (2 if layout.is_narrow else 4))


def checked(records: Iterable[Record], what: str) -> list[Record]:
    """The records as a list; `UnlearnError` where there is none to draw `what` from."""
    found = list(records)
    if not found:
        raise UnlearnError(f"there are no records for {what}: run its study first.")
    return found


def scientific_tick(x: float, _: object = None) -> str:
    """A tick as "1.35e-4", whatever its size."""
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def cross_handle() -> Line2D:
    """The legend's entry for a run that diverged."""
    return mark_handle("diverged", marker="x")


def to_svg(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same bytes.

    The cells of a heat map are an image in it: outlines would take several times as much.
    """
    for mesh in figure.findobj(QuadMesh):
        mesh.set_rasterized(True)
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=RASTER)
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure's SVG as an address that an <img> takes."""
    raw = to_svg(figure).encode("utf-8")
    return "data:image/svg+xml;base64," + base64.b64encode(raw).decode("ascii")


def _pixels(figure: Figure) -> str:
    """A figure's size as attributes, so that a page keeps its place free while it loads."""
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return f'width="{width}" height="{height}"'


def image_html(figure: DescribedFigure, caption: str, *, around: str = "", below: str = "") -> str:
    """An HTML figure: both drawings as images, the alternative text and the caption.

    around  attributes of the <figure> element, as HTML
    below   HTML that follows the caption

    `UnlearnError` for a figure without an alternative text.
    """
    if not figure.alt:
        raise UnlearnError("the figure has no alternative text: set its `alt`.")
    sources = ""
    if figure.narrow is not None:
        narrow = figure.narrow()
        sources = f'<source media="{NARROW_SCREEN}" srcset="{data_uri(narrow)}" {_pixels(narrow)}>'
    image = (
        f'<img src="{data_uri(figure)}" alt="{html.escape(figure.alt, quote=True)}" '
        f"{_pixels(figure)}>"
    )
    return (
        f"<figure{around}><picture>{sources}{image}</picture>"
        f"<figcaption>{html.escape(caption)}{below}</figcaption></figure>"
    )
