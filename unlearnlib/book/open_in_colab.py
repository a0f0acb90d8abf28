"""The notebook that does the whole story in one sitting: what was asked, its plan, its times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.experiment.parameters import (
    COMPUTE,
    as_word,
    chosen_device,
    chosen_domains,
    chosen_folder,
    chosen_limits,
    chosen_values,
    one_value,
    positive,
    refuse_unknown,
)
from unlearnlib.looks import METHOD_LOOKS, domain_title, method_title
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.text import duration, gigabytes, number, weights_in_words

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.sitting import Sitting, Step

# The notebook's parameters and their defaults.
DEFAULTS: dict[str, Any] = {
    "profile": "open",
    "domains": "books",
    "methods": None,
    "seeds": 0,
    "device": "auto",
    "compute": "missing",
    "budget_minutes": 30,
    "limits": None,
    "corpora": None,
    "model": None,
    "updates": 6,
    "rates": None,
    "length": 512,
}
TITLES = {
    "vanilla": "training vanilla",
    "oracle": "training the oracle",
    "baselines": "scoring vanilla and oracle",
}


def asked(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's parameters, checked, as `sitting.Wish` takes them."""
    refuse_unknown(namespace, tuple(DEFAULTS))
    given = {name: namespace.get(name, default) for name, default in DEFAULTS.items()}
    domains = chosen_domains(given["profile"], given["domains"])
    if given["compute"] not in COMPUTE:
        raise unknown("compute", given["compute"], COMPUTE)
    values = chosen_values({n: given[n] for n in ("methods", "seeds", "updates", "rates")})
    if not all(count > 0 for count in values.updates or ()):
        raise UnlearnError(f"updates is {given['updates']!r}: give a whole number above 0.")
    return {
        "profile": given["profile"],
        "domain": one_value("domains", given["domains"], domains, "books"),
        "methods": tuple(values.methods or PAPER_METHODS),
        "seeds": tuple(values.seeds or (0,)),
        "model": given["model"],
        "device": chosen_device(given["device"]),
        "updates": one_value("updates", given["updates"], values.updates, 6),
        "rate": one_value("rates", given["rates"], values.rates, None),
        "length": positive("length", given["length"], whole=True),
        "limits": chosen_limits(given["limits"]),
        "minutes": positive("budget_minutes", given["budget_minutes"]),
        "corpora": chosen_folder("corpora", given["corpora"]),
        "command": command(given),
    }


def command(given: Mapping[str, Any]) -> str:
    """The command that repeats the sitting; no folder of this machine is in it."""
    words = ["unlearn notebook open_in_colab"]
    for name, default in DEFAULTS.items():
        value = given[name]
        if value is not None and value != default:
            shown = "FOLDER" if name == "corpora" else as_word(value)
            if shown.startswith(("/", "~", ".")):
                shown = shown.rpartition("/")[2]
            words.append(f"-p {name} {shown}")
    return " ".join(words)


def plan_in_words(sitting: Sitting) -> str:
    """Device, weights, texts, how the model is trained, and how long it takes, as Markdown."""
    counts, wish = sitting.limits, sitting.wish
    room = "" if wish.limits else f", as many as there is time for in {wish.minutes:g} minutes"
    return "\n".join(
        [
            f"- **Device.** {sitting.device}",
            f"- **Weights.** {weights_in_words(sitting.weights)}",
            f"- **Texts.** {domain_title(wish.domain)}: {counts['forget']} documents to forget, "
            f"{counts['retain']} to keep, {counts['approximate']} that the model is not shown, and "
            f"{counts['general_retain']} and {counts['general_evaluation']} of general text; the "
            f"first {sitting.length} tokens of each{room}",
            f"- **Training.** {str(sitting.way).capitalize()}, by the plan at most "
            f"{gigabytes(sitting.way.peak)} of memory",
            f"- **Time.** By the plan at most {duration(sitting.seconds)}, at "
            f"{number(sitting.rate)} operations a second; finding all this took "
            f"{duration(sitting.opened)}",
        ]
    )


def steps_table(steps: Mapping[str, Step]) -> pd.DataFrame:
    """Each step with its seconds by the plan and those that it took, and the sums."""
    import pandas as pd

    rows = {
        _title(step.name): (
            duration(step.planned),
            "–" if step.took is None else duration(step.took),
        )
        for step in steps.values()
    }
    taken = [step.took for step in steps.values() if step.took is not None]
    rows["all"] = (
        duration(sum(step.planned for step in steps.values())),
        duration(sum(taken)) if taken else "–",
    )
    return pd.DataFrame.from_dict(rows, orient="index", columns=["by the plan", "took"])


def _title(step: str) -> str:
    if step in TITLES:
        return TITLES[step]
    return method_title(step) if step in METHOD_LOOKS else step
