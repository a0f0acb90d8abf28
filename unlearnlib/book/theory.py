"""Ascent and NPO on problems whose answer is known, and which need no language model.

How far they move: logistic regression on as many forgotten examples as there are directions, where
ascent moves the model in proportion to time and NPO in proportion to its logarithm (Zhang et al.
2024, arXiv 2404.05868, theorem 2). And where they arrive: the synthetic experiment of the same
paper (section 4), in which the retrained model is known.

A method is here what its row is in `methods.py`, weight x ascent's gradient, for one answer in the
place of a text. Everything is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import linregress

from unlearnlib.errors import UnlearnError
from unlearnlib.figures import (
    DescribedFigure,
    Layout,
    add_legend,
    axis_range,
    figure_function,
    legend_height,
    set_log_axis,
)
from unlearnlib.looks import BASELINE_STYLES, GREY, INK
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

ASCENT = math.inf  # in the place of NPO's beta where it is ascent, whose weight does not fall


def npo_weight(logp: np.ndarray, logr: np.ndarray, beta: float) -> np.ndarray:
    """2 sigma(beta (log p - log r)), the weight of NPO on ascent's gradient; 1 for `ASCENT`."""
    if beta == ASCENT:
        return np.ones_like(logp)
    return np.asarray(2 * expit(beta * (logp - logr)))


# ---- how far they move ------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """How far a model moves while it forgets.

    samples   examples to forget
    beta      of NPO; `ASCENT`
    rate      of the gradient steps
    times     (P,) steps after which it was measured
    distance  (P,) the norm of the change of the examples' logits, ||theta - theta_0|| in X'X
    """

    samples: int
    beta: float
    rate: float
    times: np.ndarray
    distance: np.ndarray

    @cached_property
    def _late(self) -> np.ndarray:
        """Which measurements the laws are about: they hold when the examples are forgotten."""
        return self.times >= self.times[-1] / 10

    def fit(self, logarithm: bool) -> tuple[float, float]:
        """(slope, share of the variance explained) of the distance on t, or on log t."""
        times = self.times[self._late]
        found = linregress(np.log(times) if logarithm else times, self.distance[self._late])
        return float(found.slope), float(found.rvalue**2)

    @property
    def expected_slope(self) -> float:
        """What theory says for examples at right angles: of ascent on t, of NPO on log t."""
        root = math.sqrt(self.samples)
        return self.rate / root if self.beta == ASCENT else root / self.beta


def growth(
    samples: int,
    beta: float,
    *,
    rate: float = 1.0,
    steps: int = 20_000,
    dimension: int = 32,
    seed: int = 0,
) -> Growth:
    """Forget some examples of a logistic regression by gradient steps.

    The examples are `samples` directions at right angles and of length 1, out of `dimension`; the
    model before is a random one, and it is NPO's original.
    """
    if not 1 <= samples <= dimension:
        raise UnlearnError(
            f"samples is {samples} and dimension {dimension}: the law is of no more examples than "
            "dimensions, so give 1 to that many."
        )
    draw = np.random.default_rng(seed)
    square, _ = np.linalg.qr(draw.normal(size=(dimension, dimension)))
    signed = square[:samples] * draw.choice([-1.0, 1.0], size=(samples, 1))  # y x
    before = draw.normal(size=dimension)
    theta, logr = before.copy(), log_expit(signed @ before)
    wanted = np.unique(np.geomspace(1, steps, 400).round()).astype(int)
    distances: list[float] = []
    for step in range(1, steps + 1):
        margin = signed @ theta
        weight = npo_weight(log_expit(margin), logr, beta)
        theta -= rate / samples * (weight * expit(-margin)) @ signed
        if step == wanted[len(distances)]:
            distances.append(float(np.linalg.norm(signed @ (theta - before))))
    return Growth(samples, beta, rate, wanted.astype(float), np.array(distances))


# ---- where they arrive ------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic:
    """A method of the synthetic experiment.

    beta    of NPO, `ASCENT`, or 0: no forget term
    retain  weight of the descent on the examples to keep
    rate    of the gradient steps
    """

    name: str
    beta: float
    retain: float
    rate: float


# Rates as in the authors' file of parameters for a gap of 1; those of NPO's other betas are NPO's.
SYNTHETIC = (
    Synthetic("Ascent", ASCENT, 0.0, 5e-4),
    Synthetic("Ascent + descent", ASCENT, 1.0, 5e-4),
    Synthetic("NPO, β = 0.1", 0.1, 0.0, 5e-3),
    Synthetic("NPO, β = 1", 1.0, 0.0, 5e-3),
    Synthetic("NPO, β = 10", 10.0, 0.0, 5e-3),
    Synthetic("NPO + descent, β = 1", 1.0, 1.0, 5e-3),
    Synthetic("Descent", 0.0, 1.0, 5e-3),
)
SEEDS = (1000, 2000, 3000, 4000, 5000)
NEAR = 0.005  # nats: how near to the retrained model the paper has methods come
_INPUTS, _FEATURES = 16, 128
_KEEP, _FORGET, _SCORED = 1000, 200, 1000


@dataclass(frozen=True)
class Course:
    """A method along its steps: the mean over seeds, and each seed's, (seeds, P).

    forget, retain  KL(retrained model || model), nats per example, on other examples of the kind
                    that is to be forgotten, and of the kind that is to be kept
    """

    method: Synthetic
    steps: np.ndarray
    forget: np.ndarray
    retain: np.ndarray

    def near(self, within: float = NEAR) -> list[int]:
        """Of each seed that comes so near on what is to be forgotten, its first measurement."""
        below = self.forget < within
        return [int(row.argmax()) for row in below if row.any()]

    @property
    def first(self) -> float:
        """The step at which the middle one of those seeds comes near; infinite for none."""
        return float(np.median(self.steps[self.near()])) if self.near() else math.inf


def _examples(
    draw: np.random.Generator, count: int, sign: float, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs around -sign x gap, and answers +1 or -1; those of the two kinds contradict."""
    centred = draw.normal(size=(count, _INPUTS))
    logit = sign * (centred.sum(1) / math.sqrt(_INPUTS) + 1)
    answers = np.where(draw.random(count) < expit(logit), 1.0, -1.0)
    return centred - sign * gap, answers


def synthetic(
    methods: Sequence[Synthetic] = SYNTHETIC,
    seeds: Sequence[int] = SEEDS,
    *,
    gap: float = 1.0,
    steps: int = 2000,
    every: int = 25,
) -> list[Course]:
    """The experiment of the NPO paper: a logistic model on random features, once per seed.

    The model before has learnt 1000 examples to keep and 200 to forget, the retrained one the 1000
    alone, both until their gradients are 0 (the authors take 20,000 gradient steps). With `gap` 0
    the inputs of both kinds are of one distribution, which no method can then tell apart. The
    random numbers are not the authors'.
    """
    forget, retain = [], []
    for seed in seeds:
        one = _one_seed(methods, np.random.default_rng(seed), gap, steps, every)
        forget.append(one[0])
        retain.append(one[1])
    measured = np.arange(0, steps + 1, every)
    return [
        Course(method, measured, np.array([f[:, i] for f in forget]),
               np.array([r[:, i] for r in retain]))
        for i, method in enumerate(methods)
    ]  # fmt: skip


def _one_seed(
    methods: Sequence[Synthetic],
    draw: np.random.Generator,
    gap: float,
    steps: int,
    every: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(forget, retain) distances, (P, methods) each: all methods at once, a column each."""
    first = draw.normal(size=(_INPUTS, _FEATURES)) / math.sqrt(_INPUTS)

    def features(count: int, sign: float) -> tuple[np.ndarray, np.ndarray]:
        inputs, answers = _examples(draw, count, sign, gap)
        return np.maximum(inputs @ first, 0), answers[:, None]

    keep, forgotten = (a * y for a, y in (features(_KEEP, 1.0), features(_FORGET, -1.0)))
    scored = [features(_SCORED, sign)[0] for sign in (-1.0, 1.0)]
    retrained, before = _trained(keep), _trained(np.vstack([keep, forgotten]))
    logr = log_expit(forgotten @ before)
    betas = np.array([method.beta for method in methods])
    weights = np.array([method.retain for method in methods])
    rates = np.array([method.rate for method in methods])
    plain, finite = betas == ASCENT, np.where(betas == ASCENT, 0.0, betas)
    model = np.repeat(before, len(methods), axis=1)
    found = []
    for step in range(steps + 1):
        if step % every == 0:
            found.append([_divergence(z @ retrained, z @ model) for z in scored])
        margin = forgotten @ model
        push = 2 * expit(finite * (log_expit(margin) - logr)) * (finite > 0) + plain
        down = forgotten.T @ (push * expit(-margin)) / len(forgotten)
        up = keep.T @ expit(-keep @ model) / len(keep)
        model += rates * (weights * up - down)
    both = np.array(found)
    return both[:, 0], both[:, 1]


def _trained(signed: np.ndarray) -> np.ndarray:
    """(features, 1) the model that learnt some examples, answers multiplied into their features."""

    def loss(model: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signed @ model
        return -float(log_expit(margin).mean()), -(expit(-margin) @ signed) / len(signed)

    def curvature(model: np.ndarray) -> np.ndarray:
        margin = signed @ model
        share = expit(margin) * expit(-margin)
        return np.asarray((signed.T * share) @ signed / len(signed))

    start = np.zeros(signed.shape[1])
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", tol=1e-9)
    return np.asarray(found.x)[:, None]


def _divergence(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(columns,) mean KL of the answers' probabilities, of logits (n, 1) and (n, columns)."""
    p = expit(theirs)
    each = p * (log_expit(theirs) - log_expit(ours))
    return np.asarray((each + (1 - p) * (log_expit(-theirs) - log_expit(-ours))).mean(0))


# ---- shown ------------------------------------------------------------------------------------

_COLOURS = {ASCENT: INK, 0.1: "#56b4e9", 0.5: "#56b4e9", 1.0: "#0072b2", 2.0: "#009e73"}
_COLOURS |= {10.0: "#009e73", 0.0: GREY}


def _named(beta: float) -> str:
    return "ascent" if beta == ASCENT else f"NPO, β = {beta:g}"


def growth_table(grown: Sequence[Growth]) -> pd.DataFrame:
    """Per problem how well a line in t, and one in log t, fits the distance, and its slope."""
    import pandas as pd

    rows, index = [], []
    for one in grown:
        straight, logarithm = one.fit(logarithm=False), one.fit(logarithm=True)
        better = logarithm if logarithm[1] > straight[1] else straight
        index.append(f"{_named(one.beta)}, {one.samples} to forget")
        rows.append(
            [
                f"{straight[1]:.4f}",
                f"{logarithm[1]:.4f}",
                "log t" if better is logarithm else "t",
                number(better[0]),
                number(one.expected_slope),
            ]
        )
    columns = ["R² of a line in t", "R² in log t", "better", "its slope", "theory’s"]
    return pd.DataFrame(rows, index=pd.Index(index, name="problem"), columns=columns)


@figure_function
def growth_figure(grown: Sequence[Growth], *, narrow: bool = False) -> DescribedFigure:
    """The distance over steps, twice: in plain steps, and in their logarithm."""
    if not grown:
        raise UnlearnError("there is no problem to draw: give `growth` of at least one.")
    layout = Layout(narrow)
    figure, axes = layout.grid(2, 2.6, beside=2, extra=0.2 + legend_height(layout, len(grown)))
    parts = []
    for ax, logarithm in zip(axes, (False, True), strict=True):
        ax.set_title("in steps" if not logarithm else "in the logarithm of steps")
        ax.set_xlabel("gradient steps")
        if layout.is_narrow or ax is axes[0]:
            ax.set_ylabel("distance from the start")
        # Ascent leaves the picture at once; what NPO does is then at its foot.
        top = max((g.distance[-1] for g in grown if g.beta != ASCENT), default=math.inf)
        for one in grown:
            ax.plot(one.times, one.distance, color=_COLOURS.get(one.beta, GREY), label="")
        if logarithm:
            ax.set_xscale("log")
            if math.isfinite(top):
                ax.set_ylim(0, 1.6 * top)
    for one in grown:
        slope, _ = one.fit(logarithm=one.beta != ASCENT)
        law = "t" if one.beta == ASCENT else "log t"
        parts.append(f"{_named(one.beta)}: {number(slope)} times {law}")
    handles = [
        Line2D([], [], color=_COLOURS.get(g.beta, GREY), label=_named(g.beta)) for g in grown
    ]
    add_legend(figure, layout, extra=handles)
    figure.alt = f"Distance from the model before, over gradient steps. {'; '.join(parts)}."
    return figure


def synthetic_table(courses: Sequence[Course]) -> pd.DataFrame:
    """Per method in how many seeds it comes near the retrained model, when, and what is left."""
    import pandas as pd

    rows = [
        [
            f"{course.method.rate:g}",
            f"{len(course.near())} of {len(course.forget)}",
            f"{course.first:g}" if course.near() else "–",
            _with_range(course.forget.min(1)),
            _with_range(course.retain[:, -1]),
        ]
        for course in courses
    ]
    last = f", after {courses[0].steps[-1]:g} steps" if courses else ""
    return pd.DataFrame(
        rows,
        index=pd.Index([course.method.name for course in courses], name="method"),
        columns=[
            "learning rate",
            f"seeds within {NEAR:g}",
            "at step",
            "forget, at its least",
            f"retain{last}",
        ],
    )


def _with_range(values: np.ndarray) -> str:
    """Mean (lowest to highest) over seeds."""
    mean, low, high = (number(float(x)) for x in (values.mean(), values.min(), values.max()))
    return mean if len(values) < 2 else f"{mean} ({low} to {high})"


@figure_function
def synthetic_figure(courses: Sequence[Course], *, narrow: bool = False) -> DescribedFigure:
    """Distance to the retrained model over steps: the middle seed, and all of them shaded."""
    if not courses:
        raise UnlearnError("there is no method to draw: give `synthetic` at least one.")
    layout = Layout(narrow)
    extra = 0.2 + legend_height(layout, len(courses))
    figure, axes = layout.grid(2, 2.7, beside=2, extra=extra)
    for ax, kind in zip(axes, ("forget", "retain"), strict=True):
        ax.set_title("on what is forgotten" if kind == "forget" else "on what is kept")
        ax.set_xlabel("gradient steps")
        if layout.is_narrow or ax is axes[0]:
            ax.set_ylabel("KL to the retrained model, nats")
        values = [getattr(course, kind) for course in courses]
        low = NEAR / 5 if kind == "forget" else min(float(v.mean(0).min()) for v in values)
        set_log_axis(ax, "y", *axis_range([low, *(float(v.mean(0).max()) for v in values)]))
        for course, each in zip(courses, values, strict=True):
            look = _line(course.method)
            middle = np.maximum(np.median(each, 0), ax.get_ylim()[0])
            ax.fill_between(
                course.steps,
                np.maximum(each.min(0), ax.get_ylim()[0]),
                np.maximum(each.max(0), ax.get_ylim()[0]),
                color=look["color"],
                alpha=0.12,
                linewidth=0,
            )
            ax.plot(course.steps, middle, **look)
        if kind == "forget":
            ax.axhline(NEAR, **BASELINE_STYLES["oracle"])
    add_legend(
        figure,
        layout,
        extra=[Line2D([], [], label=c.method.name, **_line(c.method)) for c in courses],
    )
    figure.alt = "KL to the retrained model over gradient steps. " + " ".join(
        map(_in_words, courses)
    )
    return figure


def _line(method: Synthetic) -> dict[str, Any]:
    """Colour by the forget term; dashed with descent on what is kept."""
    dashed = method.retain > 0 and method.beta > 0
    return {"color": _COLOURS.get(method.beta, GREY), "linestyle": "--" if dashed else "-"}


def _in_words(course: Course) -> str:
    start, end = (float(course.retain[:, i].mean()) for i in (0, -1))
    when = f" at step {course.first:g}" if course.near() else ""
    near = f"near in {len(course.near())} of {len(course.forget)} seeds{when}"
    kept = f"on what is kept {number(start)} before, {number(end)} after"
    return f"{course.method.name}: {near}; {kept}."


def synthetic_in_words(courses: Sequence[Course]) -> str:
    """What becomes of the paper's claims here; a Markdown list."""
    lines = [
        f"**Within {NEAR:g} nats of the retrained model**, on what is to be forgotten, come: "
        + "; ".join(
            f"{c.method.name} in {len(c.near())} of {len(c.forget)} seeds"
            + (f" (in the middle one at step {c.first:g})" if c.near() else "")
            for c in courses
        )
        + "."
    ]
    if near := [course for course in courses if course.near()]:
        least, most = (f(near, key=lambda c: float(c.retain[:, -1].mean())) for f in (min, max))
        lines.append(
            f"**What was to be kept.** Of these methods {least.method.name} ends nearest to the "
            f"retrained model on it, {_with_range(least.retain[:, -1])} nats, and "
            f"{most.method.name} farthest, {_with_range(most.retain[:, -1])}; the model before was "
            f"{_with_range(least.retain[:, 0])} from it."
        )
    return "\n".join(f"- {line}" for line in lines)
