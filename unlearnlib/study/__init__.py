"""Studies: named grids of runs, their settings, records, computation and publication.

`grids.py` names them, `chosen.py` chooses and reads the settings, `records.py` finds what is
recorded, `compute.py` computes what is missing, `publishing.py` writes it to `data/results`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Resolved on first use: reading records must not load torch, which computing them needs.
_PUBLIC = {
    "unlearnlib.folders": (
        "published_files",
        "settings_path",
    ),
    "unlearnlib.study.compute": (
        "BASELINES",
        "Portion",
        "Shard",
        "baseline",
        "baseline_key",
        "baselines_of",
        "run_study",
    ),
    "unlearnlib.study.grids": (
        "Grid",
        "MAIN_SEEDS",
        "RATES",
        "REGION_RATES",
        "REGION_SEEDS",
        "REQUESTS",
        "RETAIN_WEIGHTS",
        "SHAPES",
        "SIZES",
        "STUDIES",
        "Specs",
        "Study",
        "TUNING_SEED",
        "get_study",
    ),
    "unlearnlib.study.publishing": (
        "publish",
        "publish_records",
    ),
    "unlearnlib.study.records": (
        "StudyResult",
        "at_hand",
        "default_store",
        "joined",
        "load_study",
        "open_library",
        "state_in_words",
    ),
    "unlearnlib.study.chosen": (
        "BATCH",
        "UPDATES",
        "average",
        "choose",
        "settings",
        "write_settings",
    ),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from unlearnlib.folders import published_files as published_files
    from unlearnlib.folders import settings_path as settings_path
    from unlearnlib.study.chosen import BATCH as BATCH
    from unlearnlib.study.chosen import UPDATES as UPDATES
    from unlearnlib.study.chosen import average as average
    from unlearnlib.study.chosen import choose as choose
    from unlearnlib.study.chosen import settings as settings
    from unlearnlib.study.chosen import write_settings as write_settings
    from unlearnlib.study.compute import BASELINES as BASELINES
    from unlearnlib.study.compute import Portion as Portion
    from unlearnlib.study.compute import Shard as Shard
    from unlearnlib.study.compute import baseline as baseline
    from unlearnlib.study.compute import baseline_key as baseline_key
    from unlearnlib.study.compute import baselines_of as baselines_of
    from unlearnlib.study.compute import run_study as run_study
    from unlearnlib.study.grids import MAIN_SEEDS as MAIN_SEEDS
    from unlearnlib.study.grids import RATES as RATES
    from unlearnlib.study.grids import REGION_RATES as REGION_RATES
    from unlearnlib.study.grids import REGION_SEEDS as REGION_SEEDS
    from unlearnlib.study.grids import REQUESTS as REQUESTS
    from unlearnlib.study.grids import RETAIN_WEIGHTS as RETAIN_WEIGHTS
    from unlearnlib.study.grids import SHAPES as SHAPES
    from unlearnlib.study.grids import SIZES as SIZES
    from unlearnlib.study.grids import STUDIES as STUDIES
    from unlearnlib.study.grids import TUNING_SEED as TUNING_SEED
    from unlearnlib.study.grids import Grid as Grid
    from unlearnlib.study.grids import Specs as Specs
    from unlearnlib.study.grids import Study as Study
    from unlearnlib.study.grids import get_study as get_study
    from unlearnlib.study.publishing import publish as publish
    from unlearnlib.study.publishing import publish_records as publish_records
    from unlearnlib.study.records import StudyResult as StudyResult
    from unlearnlib.study.records import at_hand as at_hand
    from unlearnlib.study.records import default_store as default_store
    from unlearnlib.study.records import joined as joined
    from unlearnlib.study.records import load_study as load_study
    from unlearnlib.study.records import open_library as open_library
    from unlearnlib.study.records import state_in_words as state_in_words


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
