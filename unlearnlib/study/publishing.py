"""Publishing records: writing them into `data/results/PROFILE-STUDY.parquet`, and noting it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.profiles import get_profile
from unlearnlib.spec import RunSpec
from unlearnlib.store.claims import exclusive
from unlearnlib.store.manifest import note
from unlearnlib.store.published import read_parquet, write_parquet
from unlearnlib.store.record import Basis, Record
from unlearnlib.study.grids import STUDIES, Specs, specs_of
from unlearnlib.study.records import StudyResult, place_of, spec_text, start_of

logger = logging.getLogger(__name__)


def publish_records(profile: str, records: Iterable[Record]) -> dict[str, int]:
    """Publish records that were computed elsewhere, each under every study that it belongs to.

    No model is needed: a record belongs to a study if its spec is in the study's grid. Of a study
    and a domain only records of one `Basis` are published, that of most of them: a model that was
    trained again may be another one. Returns study -> records published.
    """
    records = list(records)
    folder = data_folder() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    bases: set[Basis] = set()
    for name, study in STUDIES.items():
        chosen: list[Record] = []
        grid: Specs = []
        for domain in get_profile(profile).domains:
            try:
                wanted = study.runs(profile, domain)
            except UnlearnError:
                continue  # its settings have not been chosen
            grid += wanted
            specs = [spec.as_dict() for spec in wanted]
            found = [r for r in records if r.kind == "run" and r.spec in specs]
            for start in dict.fromkeys(map(start_of, found)):
                count = Counter(r.basis for r in found if start_of(r) == start)
                most = max(count, key=lambda basis: count[basis])
                chosen += [r for r in found if start_of(r) == start and r.basis == most]
                if left := count.total() - count[most]:
                    logger.warning(
                        "%d records of study %s on %s are of another model and are left out",
                        left, name, domain,
                    )  # fmt: skip
        if chosen:
            counts[name] = len(chosen)
            bases |= {r.basis for r in chosen}
            _merge(folder / f"{profile}-{name}.parquet", chosen, grid)
    baselines = [
        r
        for r in records
        if r.kind == "score" and r.spec.get("profile") == profile and r.basis in bases
    ]
    if baselines:
        counts["baselines"] = len(baselines)
        _merge(folder / f"{profile}-baselines.parquet", baselines)
    return counts


def publish(name: str, profile: str, result: StudyResult) -> Path:
    """Write a study's records to `data/results/PROFILE-STUDY.parquet`, and the baselines too."""
    folder = data_folder() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile}-{name}.parquet"
    domains = list(dict.fromkeys(record.spec["domain"] for record in result.records))
    _merge(path, result.records, specs_of(name, profile, domains))
    _merge(folder / f"{profile}-baselines.parquet", result.baselines)
    return path


def _merge(path: Path, records: Sequence[Record], grid: Iterable[RunSpec] = ()) -> None:
    """Add records to a published file; those of other domains stay, equal ones are replaced.

    Of several processes that add to one file none loses what another added.

    The runs of a domain that unlearn the same of a profile's models (`RunSpec.base`) are of one
    `Basis`, hence of one model: those of another go when the new ones are at least as many of the
    `grid`. Of fewer, both stay: a part is no reason to lose the whole, and who reads the file takes
    the runs of the basis that has most (`load_study`). Scores of vanilla and oracle stay for every
    basis: studies may differ in theirs.
    """
    with exclusive(path):
        kept = {place_of(r): r for r in read_parquet(path)} if path.exists() else {}
        write_parquet(_merged(kept, records, grid, path.name), path)
    note(path)


def _merged(
    kept: dict[tuple[str, Basis], Record],
    records: Sequence[Record],
    grid: Iterable[RunSpec],
    file: str,
) -> Iterable[Record]:
    """What a published file holds after `records` are added to those that it has (`kept`)."""
    kept.update({place_of(r): r for r in records})
    wanted = {spec_text(spec.as_dict()) for spec in grid}
    for start in {start_of(r) for r in records if r.kind == "run"}:
        count: Counter[Basis] = Counter()
        for (spec, basis), r in kept.items():
            if r.kind == "run" and start_of(r) == start:
                count[basis] += spec in wanted  # 0 for a basis of whose runs none is wanted
        new = {r.basis for r in records if r.kind == "run" and start_of(r) == start}
        most = max(count[basis] for basis in new)
        old = {basis for basis in count if basis not in new and count[basis] <= most}
        if more := sorted(set(count) - new - old, key=lambda basis: basis.model_hash):
            logger.warning(
                "%s: on %s another model (%s) has %d runs, more than the %d of the new one: both "
                "stay, and its runs are shown",
                file, start[0], more[0].model_hash[:12], count[more[0]], most,
            )  # fmt: skip
        kept = {
            place: r
            for place, r in kept.items()
            if r.kind != "run" or start_of(r) != start or r.basis not in old
        }
    return kept.values()
