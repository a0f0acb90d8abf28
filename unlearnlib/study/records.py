"""Reading the records of a study, published or in the local store; computes nothing, no torch."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnlib.errors import UnlearnError
from unlearnlib.folders import published_files
from unlearnlib.profiles import DOMAINS
from unlearnlib.store.folder import Store
from unlearnlib.store.published import Library, read_parquet
from unlearnlib.store.record import Basis, Record
from unlearnlib.study.grids import OWN, Asked, Specs, get_study, specs_of

logger = logging.getLogger(__name__)


def default_store() -> Store:
    """The local store: $UNLEARN_STORE, else `runs/` in this folder."""
    import os

    return Store(Path(os.environ.get("UNLEARN_STORE", "runs")))


def open_library(store: Store | None = None, fresh: bool = False) -> Library:
    """Local records (of `store`) before published ones; `fresh` leaves the published ones out."""
    return Library([] if fresh else published_files(), store)


@dataclass(frozen=True)
class StudyResult:
    """The records of a study, how many of them this call computed, and how many there should be.

    busy    runs that another process had claimed
    wanted  runs of the whole grid (0: not counted)
    left    of a shard, or after a deadline: runs of the whole grid that have no record yet, whoever
            is to compute them
    """

    records: list[Record]
    baselines: list[Record]
    computed: int
    busy: int = 0
    wanted: int = 0
    left: int = 0


def load_study(
    name: str, profile: str = "lab", domains: Sequence[str] = DOMAINS, store: Store | None = None
) -> StudyResult:
    """The records of a study that are at hand, computed or published; computes nothing.

    Records are matched by their spec, so a reader needs neither model nor torch time. Raises
    UnlearnError if there is none at all.
    """
    result = _matching(name, specs_of(name, profile, domains), profile, domains, store)
    if not result.records:
        raise UnlearnError(
            f"there is no record of study {name!r} at profile {profile!r}: run "
            f"`unlearn study {name} --profile {profile}` first."
        )
    if missing := result.wanted - len(result.records):
        logger.warning("study %s lacks %d of %d records", name, missing, result.wanted)
    return result


def at_hand(
    name: str,
    profile: str = "lab",
    domains: Sequence[str] = DOMAINS,
    store: Store | None = None,
    *,
    asked: Asked = OWN,
    published: bool = True,
) -> StudyResult:
    """`load_study` for a chapter that can say what is missing: no records are no error.

    Nor is it that a study's settings have not been chosen at a profile yet. `asked` are values in
    place of the study's own; without `published` only the records of the store count.
    """
    try:
        specs = specs_of(name, profile, domains, asked)
    except UnlearnError as error:
        if asked != OWN:  # what was asked for may be what is wrong
            raise
        logger.warning("%s", error)
        specs = []
    return _matching(name, specs, profile, domains, store, published=published)


def joined(parts: Iterable[StudyResult]) -> StudyResult:
    """The same study at several profiles, each with domains of its own, as one.

    A figure or table looks up vanilla and oracle by domain, so no domain may be in two of them.
    """
    parts = list(parts)
    owner: dict[str, int] = {}
    for order, part in enumerate(parts):
        for record in (*part.records, *part.baselines):
            domain = record.spec["domain"]
            if owner.setdefault(domain, order) != order:
                raise UnlearnError(
                    f"the domain {domain!r} is in two of the profiles that are joined, and each "
                    "has its own vanilla: show them one after the other."
                )
    return StudyResult(
        [r for part in parts for r in part.records],
        [r for part in parts for r in part.baselines],
        sum(part.computed for part in parts),
        wanted=sum(part.wanted for part in parts),
    )


def _published_records(name: str, profile: str, specs: Specs) -> list[Record]:
    """Published records of a profile, by key: those of a study's own file, and the baselines.

    A study's file holds all of its records, runs that other studies share among them. Where it
    lacks a run, as one that was published in part, every file of the profile is read.
    """
    files = {path.stem: path for path in published_files()}
    own = [files[stem] for stem in (f"{profile}-{name}", f"{profile}-baselines") if stem in files]
    records = {r.key: r for path in own for r in read_parquet(path)}
    recorded = {spec_text(r.spec) for r in records.values()}
    if any(spec_text(spec.as_dict()) not in recorded for spec in specs):
        every = [path for stem, path in files.items() if stem.startswith(f"{profile}-")]
        records = {r.key: r for path in every for r in read_parquet(path)}
    return [records[key] for key in sorted(records)]


def _matching(
    name: str,
    specs: Specs,
    profile: str,
    domains: Sequence[str],
    store: Store | None,
    *,
    published: bool = True,
) -> StudyResult:
    """The records of some specs of a study, in their order, and the baselines of the domains.

    Published ones come first; the local store fills in what was computed here and is not published.
    (Whoever asks for a run by its key, `Library`, gets the local record first: it is the same.)
    A model that was trained again may be another one, and so may its tokenizer or the retrained
    model, so all records of a domain that unlearn the same of a profile's models (`RunSpec.base`)
    are of one `Basis`, that of most of them.
    """
    bases = {base for base, _ in get_study(name).by_base(specs)}
    wanted = {spec_text(spec.as_dict()): order for order, spec in enumerate(specs)}
    found: dict[tuple[Start, Basis], dict[int, Record]] = {}
    scores: dict[tuple[str, Basis], Record] = {}
    local = Library([], store or default_store())
    public = _published_records(name, profile, specs) if published else []
    for record in itertools.chain(public, local.records()):
        if record.kind == "run":
            place = wanted.get(spec_text(record.spec))
            if place is not None:
                group = start_of(record), record.basis
                found.setdefault(group, {}).setdefault(place, record)
        elif (
            record.kind == "score"
            and record.spec.get("profile") == profile
            and record.spec["domain"] in domains
            and record.spec.get("base", "vanilla") in bases
        ):
            scores.setdefault(place_of(record), record)
    chosen: dict[Start, Basis] = {}
    for (start, basis), runs in found.items():
        if start not in chosen or len(runs) > len(found[start, chosen[start]]):
            chosen[start] = basis
    placed = {p: r for group in chosen.items() for p, r in found[group].items()}
    baselines = [r for r in scores.values() if r.basis == chosen.get(start_of(r), r.basis)]
    return StudyResult(
        [placed[place] for place in sorted(placed)], baselines, 0, wanted=len(wanted)
    )


def state_in_words(name: str, profile: str, result: StudyResult) -> str:
    """What is missing of a study, as Markdown; empty if nothing is."""
    command = f"`unlearn study {name} --profile {profile}`"
    if not result.records:
        return (
            f"*The study `{name}` has no records at the profile `{profile}` yet, so its figures "
            f"and tables are left out here. {command} computes it.*"
        )
    if len(result.records) < result.wanted:
        return (
            f"*Of the study `{name}`, {len(result.records)} of {result.wanted} runs are recorded; "
            f"what follows is of those. {command} computes the others.*"
        )
    return ""


Start = tuple[str, str]  # what a run begins with: its domain, and which model it unlearns


def start_of(record: Record) -> Start:
    """The domain of a run or of a baseline, and the model that is unlearned (`RunSpec.base`)."""
    return str(record.spec["domain"]), str(record.spec.get("base", "vanilla"))


def place_of(record: Record) -> tuple[str, Basis]:
    """By what a record is one of a study: of the same spec and basis there is one.

    Of a model of another seed that was made twice, too: the weights in its spec do not count.
    """
    spec = record.spec
    if record.kind == "score":
        spec = {name: value for name, value in spec.items() if name != "weights"}
    return spec_text(spec), record.basis


def spec_text(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)
