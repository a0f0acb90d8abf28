"""The methods, one row each: a forget term, a retain term, and where the retain data comes from.

An update of the model minimises

    forget term on the forget set  +  weight x retain term on other data        (unified view)

and each of the paper's seven methods is a choice of the two terms and of the data. A new method
is a new row (`register`), a new term a small class with the two functions of `Term`; nothing
else in the package asks which method it is running.

Two methods that peers have are no rows. RMU (Li et al. 2024, arXiv 2403.03218) needs the states of
a layer in the middle, which the engine never holds: it would take a hook that captures them once
although layers are recomputed, gathered or packed, in every architecture, and a second kind of term
beside the one that sees the last states and the head. A task vector (Ilharco et al. 2023, arXiv
2212.04089) is subtracted after training on the forget set, so no probe on the way is of the model
that comes out, and what is compared, stopped and interrupted here is a run along its updates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.target_distribution import MaximumEntropy as MaximumEntropy
from unlearnlib.target_distribution import Undial as Undial
from unlearnlib.terms import AdversarialLabels as AdversarialLabels
from unlearnlib.terms import Ascent as Ascent
from unlearnlib.terms import Descent as Descent
from unlearnlib.terms import JensenShannon as JensenShannon
from unlearnlib.terms import KeepsStates as KeepsStates
from unlearnlib.terms import KLToOriginal as KLToOriginal
from unlearnlib.terms import LabelTerm as LabelTerm
from unlearnlib.terms import Original as Original
from unlearnlib.terms import RandomLabels as RandomLabels
from unlearnlib.terms import Term as Term
from unlearnlib.weighted_ascent import NPO as NPO
from unlearnlib.weighted_ascent import WGA as WGA
from unlearnlib.weighted_ascent import SatImp as SatImp
from unlearnlib.weighted_ascent import SimNPO as SimNPO
from unlearnlib.weighted_ascent import TokenNPO as TokenNPO
from unlearnlib.weighted_ascent import Unlikelihood as Unlikelihood
from unlearnlib.weighted_ascent import WeightedAscent as WeightedAscent

RetainData = Literal["general", "in_distribution"]
OPTIONS = ("beta", "gamma")  # fields of a forget term that are fields of `RunSpec`, too


@dataclass(frozen=True)
class Method:
    """A row: the two terms, and where the retain data comes from (None without).

    `title` is the full name, which model cards and `unlearn methods --json` print. Figures and
    tables print the short one of `looks.METHOD_LOOKS`, or the row's key.
    """

    title: str
    forget: Term
    retain: Term | None = None
    data: RetainData | None = None

    @property
    def options(self) -> dict[str, float]:
        """The strengths of the forget term that a run may choose, as this row has them."""
        own = getattr(self.forget, "__dataclass_fields__", {})
        return {name: getattr(self.forget, name) for name in OPTIONS if name in own}

    def __post_init__(self) -> None:
        if (self.retain is None) != (self.data is None):
            raise UnlearnError(
                f"method {self.title!r} has a retain term without retain data or the reverse: "
                'give both, with data "general" or "in_distribution".'
            )


METHODS: dict[str, Method] = {
    "ga": Method("Gradient ascent", Ascent()),
    "random_label": Method("Random labels", RandomLabels()),
    "adversarial": Method("Adversarial labels", AdversarialLabels()),
    "ga_gd_general": Method("Ascent + descent, general", Ascent(), Descent(), "general"),
    "ga_gd_in_dist": Method(
        "Ascent + descent, in-distribution", Ascent(), Descent(), "in_distribution"
    ),
    "ga_kl_general": Method("Ascent + KL, general", Ascent(), KLToOriginal(), "general"),
    "ga_kl_in_dist": Method(
        "Ascent + KL, in-distribution", Ascent(), KLToOriginal(), "in_distribution"
    ),
}


def _with_and_without_descent(name: str, title: str, forget: Term) -> dict[str, Method]:
    """Two rows: the forget term alone, and with descent on retain documents of the domain."""
    both = Method(f"{title} + descent, in-distribution", forget, Descent(), "in_distribution")
    return {name: Method(title, forget), f"{name}_gd_in_dist": both}


# What came after the paper. Other retain terms and data: `register` a row of your own.
METHODS |= {
    **_with_and_without_descent("npo", "Negative preference optimisation", NPO()),
    **_with_and_without_descent("simnpo", "SimNPO", SimNPO()),
    **_with_and_without_descent("tnpo", "Token-wise NPO", TokenNPO()),
    **_with_and_without_descent("wga", "Weighted gradient ascent", WGA()),
    **_with_and_without_descent("satimp", "Saturation and importance", SatImp()),
    **_with_and_without_descent("ceu", "Unlikelihood (CE-U)", Unlikelihood()),
    **_with_and_without_descent("undial", "Self-distillation (UNDIAL)", Undial()),
    **_with_and_without_descent("max_entropy", "Maximum entropy", MaximumEntropy()),
    "ga_js_general": Method(
        "Ascent + Jensen-Shannon, general", Ascent(), JensenShannon(), "general"
    ),
    "ga_js_in_dist": Method(
        "Ascent + Jensen-Shannon, in-distribution", Ascent(), JensenShannon(), "in_distribution"
    ),
}


def register(name: str, method: Method) -> None:
    """Add a method under a new name; from then on every command and study knows it."""
    if name in METHODS:
        raise UnlearnError(f"method {name!r} exists already: choose another name.")
    METHODS[name] = method


def get_method(name: str) -> Method:
    """The method of that name; `UnlearnError` lists the valid ones, nearest first."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def chosen_method(name: str, **options: float | None) -> Method:
    """The method of that name with other strengths, by their names in `OPTIONS`; None: the row's.

    `UnlearnError` for a strength that the method does not have, or that its term refuses.
    """
    method = get_method(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in method.options:
            have = [n for n, m in METHODS.items() if option in m.options]
            raise UnlearnError(
                f"{option} is {value:g} and method {name!r} has none: leave it out, or choose a "
                f"method that has one ({', '.join(have)})."
            )
    if not given:
        return method
    forget: Any = method.forget
    return replace(method, forget=replace(forget, **given))


def family_of(term: Term) -> str:
    """The mechanism that a forget term is a case of."""
    if isinstance(term, WeightedAscent) or (isinstance(term, Descent) and term.sign < 0):
        return "weighted ascent"
    if isinstance(term, LabelTerm | Undial | MaximumEntropy):
        return "target distribution"
    return "its own"


def formula_of(term: Term) -> str:
    """A forget term's weight on ascent's gradient, or the distribution that it brings p to."""
    return str(getattr(term, "formula", type(term).__name__))


def memory_of(method: Method) -> str:
    """What a method holds in memory beside what plain ascent does, for a model of hidden size H."""
    parts = []
    for term, name in ((method.forget, "forget"), (method.retain, "retain")):
        if term is None or isinstance(term, Descent):
            continue
        if isinstance(term, KeepsStates):
            parts.append(f"H numbers per {name} token")
        elif type(term).prepare is not LabelTerm.prepare:
            parts.append(f"1 number per {name} token")
    if any(term is not None and term.needs_original for term in (method.forget, method.retain)):
        parts.append("the original head")
    return ", ".join(parts) or "nothing"


def data_of(method: Method) -> str:
    """The sets of documents that a method needs."""
    more = {None: "", "general": ", general", "in_distribution": ", retain"}
    return "forget" + more[method.data]


def row_in_words(method: Method) -> dict[str, str]:
    """What a row is, as tables print it: heading -> words."""
    short = {Descent: "descent", KLToOriginal: "KL", JensenShannon: "Jensen-Shannon"}
    usual = "" if method.retain is None else "its own"
    options = method.options.items()
    return {
        "family": family_of(method.forget),
        "weight or target": formula_of(method.forget),
        "strengths": " ".join(f"{option}={value:g}" for option, value in options),
        "retain term": next((w for t, w in short.items() if type(method.retain) is t), usual),
        "documents": data_of(method),
        "more memory": memory_of(method),
    }
