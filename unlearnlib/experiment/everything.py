"""Every study of a profile in one command, which can be stopped and given again.

First `rates`; from it the settings are chosen; then the studies that take these, one after the
other, and at last the searches of `unlearn tune`. What is recorded is not computed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unlearnlib.errors import UnlearnError
from unlearnlib.experiment.effort import effort_of
from unlearnlib.experiment.searches import by_domain, local_path, make_search, usual_searches
from unlearnlib.experiment.work import Work, bench_of, compute_side_by_side
from unlearnlib.profiles import get_profile, load_domain
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.study.chosen import NotChosen, choose_settings
from unlearnlib.study.grids import MODERN_FACTORS, STUDIES, Asked, specs_of
from unlearnlib.study.publishing import publish
from unlearnlib.study.records import open_library, spec_text
from unlearnlib.study.searches import read_searches, searches_path
from unlearnlib.text import duration, plural

logger = logging.getLogger(__name__)


def studies_of(profile: str, domains: Sequence[str], corpora: str | None = None) -> list[str]:
    """The studies that a profile can have, in the order in which they are computed.

    A published model is unlearned where vanilla was trained further from it, and exposures are
    compared where the documents say how often they were read.
    """
    scale = get_profile(profile)
    names = []
    for study in STUDIES.values():
        if study.base == "published" and not scale.continued:
            continue
        if study.axis == "exposures" and not _exposed(profile, domains, corpora):
            continue
        names.append(study.name)
    return sorted(names, key=lambda name: name != "rates")


def _exposed(profile: str, domains: Sequence[str], corpora: str | None) -> bool:
    """Whether it is known how often each document to forget was read."""
    every = (load_domain(profile, domain, corpora).forget for domain in domains)
    return all(document.exposure for documents in every for document in documents)


@dataclass
class Everything:
    """All studies of a profile on some domains.

    work     what each study is computed with; its `study` is put in
    workers  processes that compute side by side
    publish  whether what is computed is written to `data/results`, and the searches too
    tell     called with a sentence for each study, before it is computed
    failed   study -> why it could not be computed
    """

    work: Work
    workers: int = 1
    publish: bool = False
    tell: Callable[[str], None] = logger.info
    failed: dict[str, str] = field(default_factory=dict)
    _expected: float = 0.0  # seconds that what was computed ought to have taken
    _spent: float = 0.0  # and took

    def compute(self) -> dict[str, int]:
        """Compute what is missing: study -> how many records were computed.

        A study that cannot be computed is told and left out. `UnlearnError` at the end names those.
        """
        names = studies_of(self.work.profile, self.work.domains, self.work.corpora)
        computed = {}
        for place, name in enumerate(names):
            missing = self.missing(names[place:])
            self.tell(f"Study {place + 1} of {len(names)}, {self._sentence(missing)}")
            try:
                computed[name] = self._study(name, missing[name])
            except UnlearnError as error:
                if not missing[name]:  # its models are not here, and all that is wanted of them is
                    self.tell(f"Nothing of the study {name} is computed: {error}")
                    computed[name] = 0
                    continue
                self.failed[name] = str(error)
                self.tell(f"The study {name} is left out: {error}")
                if name == "rates":  # all others take the settings that it chooses
                    break
        else:
            computed["searches"] = self._searches()
        if self.failed:
            raise UnlearnError(
                f"of the studies at profile {self.work.profile!r}, "
                f"{', '.join(self.failed)} could not be computed (first because "
                f"{next(iter(self.failed.values())).rstrip('.')}): give the same command again "
                "when that is mended."
            )
        return computed

    def missing(self, names: Sequence[str]) -> dict[str, list[RunSpec]]:
        """The runs of some studies that no record is of.

        Before settings are chosen, as many as there will be. For estimates: whether a record is of
        these very models, only the study itself can tell.
        """
        work = self.work
        library = open_library(Store(Path(work.store)), fresh=not work.published)
        there = {spec_text(record.spec) for record in library.records()}
        lacking = {}
        for name in names:
            try:
                specs = specs_of(name, work.profile, work.domains)
            except NotChosen:
                scale = get_profile(work.profile)
                several = {"exposure": len(scale.stop_divisors), "modern": len(MODERN_FACTORS)}
                some = Asked(rates=scale.rates[: several.get(name, 1)])
                specs = specs_of(name, work.profile, work.domains, some)
            lacking[name] = [spec for spec in specs if spec_text(spec.as_dict()) not in there]
        return lacking

    def _study(self, name: str, missing: Sequence[RunSpec]) -> int:
        """Compute what is missing of a study; the settings are chosen from the study `rates`."""
        work = replace(self.work, study=name)
        started = time.monotonic()
        result = compute_side_by_side(work, self.workers, len(missing))
        if result.busy:
            raise UnlearnError(
                f"{result.busy} runs of {name!r} are being computed by another process: wait for "
                "it."
            )
        if missing:
            self._spent += time.monotonic() - started
            self._expected += effort_of(missing, work.device).seconds or 0.0
        if name == "rates" and not get_profile(work.profile).settings_of:
            choose_settings(work.profile, work.domains, result.records, result.baselines)
        if self.publish:
            publish(name, work.profile, result)
        return result.computed

    def _searches(self) -> int:
        """Make the searches that are missing."""
        work = replace(self.work, study="main")
        own = local_path(Path(work.store), work.profile)
        path = searches_path(work.profile) if self.publish else own
        recorded = read_searches(path)
        if work.published and not self.publish:
            recorded += read_searches(searches_path(work.profile))
        lacking = [
            wanted
            for wanted in usual_searches(work.profile, work.domains)
            if not any(wanted.fits(search) for search in recorded)
        ]
        self.tell(f"The searches of unlearn tune: {len(lacking)} are missing.")
        for domain, several in by_domain(lacking):
            bench = bench_of(work, work.profile, domain)
            for wanted in several:
                make_search(bench, wanted, path, Path(work.store) / "searches")
        return len(lacking)

    def _sentence(self, missing: Mapping[str, Sequence[RunSpec]]) -> str:
        """Which study comes now, the first, what it lacks, and how long that and the rest take."""
        name = next(iter(missing))
        count = len(missing[name])
        whole = f"{name} ({STUDIES[name].about})"
        if not count:
            return f"{whole}: all its runs are recorded."
        told = f"{whole}: {count} {plural('run', count)} to compute"
        left = [self._seconds(specs) for specs in missing.values()]
        known = [seconds for seconds in left if seconds is not None]
        if left[0] is None or len(known) < len(left):
            return f"{told}."
        return f"{told}, about {duration(left[0])}; all that is left, {duration(sum(known))}."

    def _seconds(self, specs: Sequence[RunSpec]) -> float | None:
        """How long some runs will take, by the pace so far; None where nobody knows."""
        if not specs:
            return 0.0
        pace = self._spent / self._expected if self._expected else 1.0 / self.workers
        known = effort_of(specs, self.work.device).seconds
        return None if known is None else pace * known
