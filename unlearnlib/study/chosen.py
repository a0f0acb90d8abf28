"""The chosen settings of each method: how they are chosen, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.folders import settings_path
from unlearnlib.profiles import get_profile
from unlearnlib.store.claims import exclusive
from unlearnlib.store.files import write_file
from unlearnlib.store.record import Record
from unlearnlib.tuning_rule import shortfall


class NotChosen(UnlearnError):
    """No settings have been chosen for a method on a domain yet."""


UPDATES, BATCH = get_profile("lab").updates, 16  # three passes over the lab's 64 documents


def settings(profile: str, domain: str, method: str) -> dict[str, Any]:
    """The chosen hyperparameters of a method on a domain (see `Profile.settings_of`)."""
    profile, domain = get_profile(profile).settings_of or (profile, domain)
    try:
        table = json.loads(settings_path().read_text())
        return dict(table[profile][domain][method])
    except (OSError, ValueError, KeyError) as error:
        raise NotChosen(
            f"no settings are chosen for {method!r} on {domain!r} at profile {profile!r}: run "
            f"`unlearn study rates --profile {profile} --domain {domain} --choose` first."
        ) from error


def choose(rates: Iterable[Record], vanilla: Record) -> dict[str, dict[str, Any]]:
    """Per method the setting of the study `rates` with the least `shortfall`.

    The oracle is not used, since a practitioner has none.
    """
    by_method: dict[str, list[Record]] = {}
    for record in rates:
        by_method.setdefault(record.spec["method"], []).append(record)
    return {
        method: {
            "learning_rate": min(
                [r for r in records if r.status == "done"] or records,
                key=lambda record: _shortfall(record, vanilla),
            ).spec["learning_rate"]
        }
        for method, records in by_method.items()
    }


def choose_settings(
    profile: str, domains: Iterable[str], rates: Sequence[Record], baselines: Iterable[Record]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Choose and write the settings of each domain, of the runs of the study `rates`."""
    vanillas = {r.spec["domain"]: r for r in baselines if r.spec["baseline"] == "vanilla"}
    chosen = {}
    for domain in domains:
        chosen[domain] = choose([r for r in rates if r.spec["domain"] == domain], vanillas[domain])
        write_settings(profile, domain, chosen[domain])
    return chosen


def _shortfall(record: Record, vanilla: Record) -> float:
    """The `shortfall` of a run; the target is vanilla's perplexity on the approximate set."""
    forget, general = (record.metrics[f"{split}/perplexity"] for split in ("forget", "general"))
    before = vanilla.metrics
    return shortfall(
        forget, before["approximate/perplexity"], general, before["general/perplexity"]
    )


def read_settings() -> dict[str, dict[str, Any]]:
    """All chosen settings, profile -> domain -> method; none where there is no file."""
    path = settings_path()
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(table, dict) or not all(isinstance(x, dict) for x in table.values()):
            raise ValueError
    except (OSError, ValueError) as error:
        raise UnlearnError(
            f"the settings in {path} cannot be read ({type(error).__name__}): restore the file "
            "from the repository, or delete it and choose all settings anew."
        ) from error
    return table


def write_settings(profile: str, domain: str, chosen: dict[str, dict[str, Any]]) -> None:
    """Merge the choice for one domain into `settings_path()`."""
    path = settings_path()
    with exclusive(path):
        table = read_settings()
        table.setdefault(profile, {})[domain] = chosen
        text = json.dumps(table, indent=1, sort_keys=True) + "\n"
        write_file(path, text.encode("utf-8"), replace=True)


def average(values: Sequence[float]) -> float:
    """The mean, NaN for none."""
    return fmean(values) if values else math.nan
