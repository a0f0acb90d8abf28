"""A notebook as an experiment: what it was asked for, what of that is recorded, and the rest of it.

With compute="published" a notebook draws what is recorded and names what is not; with "missing" it
computes what is not; with "fresh" it computes all of it anew, in a store of its own, and compares.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from unlearnlib.comparison import Comparison, compare
from unlearnlib.devices import cores
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.experiment.effort import Effort, effort_of
from unlearnlib.experiment.parameters import (
    COMPUTE,
    DEFAULTS,
    chosen_deadline,
    chosen_device,
    chosen_domains,
    chosen_folder,
    chosen_limits,
    chosen_values,
    command_of,
    known_parameters,
    positive,
    refuse_unknown,
)
from unlearnlib.experiment.searches import (
    Wanted,
    by_domain,
    local_path,
    make_search,
    same_search,
    searches_found,
    usual_searches,
)
from unlearnlib.folders import published_files
from unlearnlib.profiles import get_profile, left_out, load_domain
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.published import Library
from unlearnlib.store.record import Record
from unlearnlib.study.chosen import NotChosen
from unlearnlib.study.grids import OWN, Asked, get_study, specs_of
from unlearnlib.study.records import StudyResult, at_hand, default_store, spec_text
from unlearnlib.study.searches import Search, load_searches
from unlearnlib.text import duration, plural

if TYPE_CHECKING:
    from unlearnlib.bench import Bench
    from unlearnlib.corpus.documents import DomainData
    from unlearnlib.experiment.work import Work


@dataclass(frozen=True)
class Source:
    """What an exhibit is drawn from: the command that computes it again, and how it compares.

    command  computes its records again, and makes it
    took     in words, how long that took when they were recorded; empty for nothing recorded
    footer   in words, how freshly computed records agree with published ones; else empty
    records  those that it is drawn from
    """

    command: str
    took: str = ""
    footer: str = ""
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Found:
    """The records of a study that an experiment has, and what its exhibits say of them."""

    result: StudyResult
    source: Source

    @property
    def records(self) -> list[Record]:
        """The runs, in the order of the grid."""
        return self.result.records

    @property
    def baselines(self) -> list[Record]:
        """The scores of vanilla and of the retrained models."""
        return self.result.baselines


@dataclass(frozen=True)
class Part:
    """What an experiment wants of a study: its runs on some domains of a profile.

    runs  whether its runs are wanted, and not the scores of vanilla and retrained models alone
    """

    study: str
    profile: str
    domains: tuple[str, ...]
    asked: Asked = OWN
    runs: bool = True

    def specs(self) -> list[RunSpec]:
        """The runs that are wanted; `UnlearnError` where no settings have been chosen."""
        return specs_of(self.study, self.profile, self.domains, self.asked) if self.runs else []


@dataclass
class Kept:
    """The bench that was opened last: the next study of its model and domain need not load it."""

    name: tuple[str, str, str] | None = None  # profile, domain, base
    bench: Bench | None = None

    def open(self, work: Work, profile: str, domain: str, base: str | None = None) -> Bench:
        """The bench that a piece of work is computed on; the one kept before is let go first."""
        from unlearnlib.experiment.work import bench_of

        base = base or get_study(work.study).base
        name = (profile, domain, base)
        if self.bench is None or self.name != name:
            self.bench = None  # its memory is free before the next one is loaded
            self.name, self.bench = name, bench_of(work, profile, domain, base)
        return self.bench


@dataclass
class Experiment:
    """What a notebook was asked for. Make one with `open_experiment`.

    chapter   the notebook's name
    given     its parameters that are not at their defaults, for the command that repeats it
    tell      called with what is to be read, as Markdown
    fail      called in its place with what could not be computed
    store     the local store; with compute="fresh", or with limits, one of its own
    deadline  of `time.monotonic`; None without a budget
    told      what was told already: it is told once
    kept      the model and the data that were loaded last
    progress  whether bars show how far it is
    The other fields are its parameters, checked.
    """

    chapter: str
    profile: str
    domains: tuple[str, ...]
    asked: Asked
    device: str
    compute: str
    workers: int
    limits: dict[str, int] | None
    corpora: str | None
    deadline: float | None
    given: dict[str, Any]
    tell: Callable[[str], None]
    fail: Callable[[str], None]
    store: Store = field(default_factory=default_store)
    told: set[str] = field(default_factory=set)
    kept: Kept = field(default_factory=Kept)
    progress: bool = True

    @property
    def counts_published(self) -> bool:
        """Whether published records count as found."""
        return self.compute != "fresh" and self.limits is None

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def study(
        self,
        name: str,
        profile: str | None = None,
        domains: Sequence[str] | None = None,
        **changes: Sequence[Any] | None,
    ) -> Found:
        """The records of a study, those computed now among them; says what is missing.

        `profile` and `domains` are the experiment's unless a chapter shows another's; `changes` are
        values of `Asked` in place of those that the notebook was given.
        """
        asked = replace(self.asked.only(get_study(name).axes), **changes)
        profile, domains = profile or self.profile, tuple(domains or self.domains)
        return self._found(Part(name, profile, domains, asked))

    def baselines(self) -> list[Record]:
        """The scores of vanilla and of the retrained models, and no runs."""
        found = self._found(Part("main", self.profile, self.domains, runs=False))
        there = {r.spec["domain"] for r in found.baselines if r.spec["baseline"] == "vanilla"}
        if lacking := [domain for domain in self.domains if domain not in there]:
            self._tell_once(
                f"*Vanilla has not been scored at the profile `{self.profile}` on "
                f"{', '.join(lacking)}. This command does it: "
                f"`{self.command(compute='missing')}`*"
            )
        return found.baselines

    def searches(self, domains: Sequence[str] | None = None) -> list[Search]:
        """The searches of `unlearn tune`, those made now among them; says which are missing.

        Those of the notebook's domains, or of some others, and of the methods, seeds and number of
        updates that it was given.
        """
        asked = self.asked
        wanted = usual_searches(
            self.profile,
            domains or self.domains,
            asked.seeds,
            asked.methods,
            None if asked.updates is None else max(asked.updates),
        )
        store, published = self.store.root, self.counts_published
        found, lacking = searches_found(wanted, store, published)
        if lacking and self.compute != "published":
            self._search(lacking)
            found, lacking = searches_found(wanted, store, published)
        if lacking:
            first = lacking[0]
            self._tell_once(
                f"*{len(lacking)} of {len(wanted)} searches are not recorded and not shown: "
                f"{first.domain}, {first.method}, seed {first.seed}"
                f"{', and others' * (len(lacking) > 1)}. This command makes them: "
                f"`{self.command(compute='missing')}`*"
            )
        return found

    def source_of(self, searches: Sequence[Search]) -> Source:
        """What an exhibit of searches is drawn from."""
        command = self.command(compute="fresh")
        if self.compute != "fresh" or not searches:
            return Source(command)
        usual = load_searches(self.profile) if self.limits is None else []
        pairs = [
            (search, other) for search in searches for other in usual if search.name == other.name
        ]
        if not pairs:
            said = "None of them is published, so there is nothing to compare with."
        else:
            same = sum(same_search(*pair) for pair in pairs)
            said = f"{same} of {len(pairs)} that are published made the same runs and ended alike."
        count = f"{len(searches)} {'search' if len(searches) == 1 else 'searches'}"
        return Source(command, footer=f"Computed anew: {count}. {said}")

    def _search(self, lacking: Sequence[Wanted]) -> None:
        """Make searches, until the deadline; one that was interrupted goes on."""
        work = self._work(Part("main", self.profile, self.domains))
        path = local_path(self.store.root, self.profile)
        for domain, several in by_domain(lacking):
            for wanted in tqdm(several, desc=f"searches {domain}", disable=not self.progress):
                if self.over:
                    return
                bench = self.kept.open(work, self.profile, domain)
                make_search(bench, wanted, path, self.store.root / "searches")

    def texts(self) -> dict[str, DomainData]:
        """Domain -> its documents; a domain whose texts are not here is left out, and told."""
        found = {}
        for domain in self.domains:
            try:
                found[domain] = load_domain(self.profile, domain, self.corpora, self.limits)
            except UnlearnError as error:
                self._tell_once(f"*The texts of {domain} cannot be shown: {error}*")
        return found

    def tokenizer(self) -> Any:
        """The profile's tokenizer; None where it is not here, which is told."""
        from unlearnlib.models import load_tokenizer

        try:
            return load_tokenizer(get_profile(self.profile).model)
        except UnlearnError as error:
            self._tell_once(f"*Tokens cannot be counted: {error}*")
            return None

    def bench(self, domain: str) -> Bench | None:
        """Model and data of a domain; None where they are not here, which is told."""
        work = self._work(Part("main", self.profile, (domain,)))
        try:
            return self.kept.open(work, self.profile, domain)
        except UnlearnError as error:
            said = f"*The model or the texts of {domain} cannot be loaded: {error}*"
            self._tell_once(said, failed=self.compute != "published")
            return None

    def source(self, records: Iterable[Record] = ()) -> Source:
        """What an exhibit is drawn from that no single study has the records of."""
        records = tuple(records)
        command = self.command(compute="fresh")
        return Source(command, took_in_words(records), self._footer(records), records)

    def command(self, **changes: Any) -> str:
        """The command that makes this notebook again, with some parameters changed."""
        return command_of(self.chapter, {**self.given, **changes})

    def effort(self, specs: Sequence[RunSpec]) -> Effort:
        """How long some runs take here."""
        return effort_of(specs, self.device, self.limits, self.corpora)

    def missing(self, part: Part) -> tuple[list[RunSpec], StudyResult]:
        """The runs of a part that have no record, and the records that there are."""
        specs = part.specs()
        result = at_hand(
            part.study,
            part.profile,
            part.domains,
            self.store,
            asked=part.asked,
            published=self.counts_published,
        )
        there = {spec_text(record.spec) for record in result.records}
        return [spec for spec in specs if spec_text(spec.as_dict()) not in there], result

    def _found(self, part: Part) -> Found:
        failed = self.compute != "published" and not self._compute(part)
        try:
            missing, result = self.missing(part)
        except UnlearnError as error:  # its settings have not been chosen
            self._tell_once(f"*The study `{part.study}` is left out: {error}*")
            return Found(StudyResult([], [], 0), self.source())
        if not failed:  # why, and what to do, is told
            self._tell_once(self._state(part, missing, result))
        return Found(result, self.source((*result.records, *result.baselines)))

    def _compute(self, part: Part) -> bool:
        """Compute what the store lacks, until the deadline; tells why where that cannot be.

        Returns whether it can be.
        """
        from unlearnlib.experiment.work import compute_side_by_side

        try:
            count = len(self.missing(part)[0])
            work = self._work(part)
            benches = functools.partial(self.kept.open, work)
            compute_side_by_side(work, self.workers, count, benches, progress=self.progress)
        except UnlearnError as error:  # its model has not been made, its texts are not here, ...
            said = f"*The study `{part.study}` cannot be computed: {error}*"
            self._tell_once(said, failed=True)
            return False
        return True

    def _work(self, part: Part) -> Work:
        """What a process is told to compute."""
        from unlearnlib.experiment.work import Work

        return Work(
            part.study,
            part.profile,
            part.domains,
            part.asked,
            str(self.store.root),
            runs=part.runs,
            published=self.counts_published,
            device=self.device,
            limits=self.limits,
            corpora=self.corpora,
            deadline=self.deadline,
        )

    def _tell_once(self, text: str, failed: bool = False) -> None:
        if text and text not in self.told:
            self.told.add(text)
            (self.fail if failed else self.tell)(text)

    def _state(self, part: Part, missing: Sequence[RunSpec], result: StudyResult) -> str:
        """What of a study is missing, what it would take, and by which command; else empty."""
        if not missing:
            return ""
        whole = len(missing) + len(result.records)
        if self.compute != "published":
            return (
                f"*{len(missing)} of {whole} runs of the study `{part.study}` are not computed "
                "yet: the budget was spent, or another process has them. The same command goes "
                f"on: `{self.command()}`*"
            )
        first = missing[0]
        return (
            f"*Of the study `{part.study}` at the profile `{part.profile}`, {len(missing)} of "
            f"{whole} {plural('run', whole)} {'is' if whole == 1 else 'are'} not recorded and not "
            "shown: "
            f"{first.domain}, {first.method}, learning rate {first.learning_rate:g}, "
            f"{first.updates} updates, seed {first.seed}{', and others' * (len(missing) > 1)}. "
            f"{self.effort(missing)} This command computes what is "
            f"missing: `{self.command(compute='missing')}`*"
        )

    def _footer(self, records: Sequence[Record]) -> str:
        """How what was computed anew agrees with what is published, in words."""
        if self.compute != "fresh" or not records:
            return ""
        published = Library(published_files())
        found = [compare(published.get(r.key), r) for r in records if r.key in published]
        return agreement_in_words(found, len(records))


def took_in_words(records: Iterable[Record]) -> str:
    """How long some records took, and on what; empty where none of them says."""
    timed = [r.provenance for r in records if r.provenance.get("seconds")]
    if not timed:
        return ""
    machines = sorted({str(p.get("accelerator") or p.get("processor") or "") for p in timed} - {""})
    seconds = sum(float(p["seconds"]) for p in timed)
    return duration(seconds) + (f" on {', '.join(machines)}" if machines else "")


def agreement_in_words(found: Sequence[Comparison], records: int) -> str:
    """How many of so many fresh records agree with their published ones, and what is furthest."""
    computed = f"Computed anew: {records} {plural('record', records)}."
    if not found:
        return f"{computed} None of them is published, so there is nothing to compare with."
    off = [comparison for comparison in found if not comparison.agrees]
    text = (
        f"{computed} {len(found) - len(off)} of {len(found)} that are published agree with it "
        "within the tolerance of `unlearn verify`."
    )
    if off:
        worst = max(off, key=lambda c: c.largest.excess if c.largest else 0.0)
        text += f" Furthest off is {worst.record.key[:12]}"
        if (largest := worst.largest) is not None:
            text += f": {largest.name} was {largest.published:.6g} and is {largest.repeated:.6g}"
        text += "."
    return text


def open_experiment(
    chapter: str,
    namespace: Mapping[str, Any],
    *studies: str,
    more: Sequence[str] = (),
    tell: Callable[[str], None] = print,
    fail: Callable[[str], None] | None = None,
) -> Experiment:
    """What a notebook's parameters ask for, checked; says what will be computed, where, how long.

    chapter    the notebook's name
    namespace  its `globals()`, right after the cell of its parameters
    studies    those that it draws
    more       names of parameters of its own, beside the studies'
    tell       called with what is to be read, as Markdown
    fail       called in its place with what could not be computed

    Raises UnlearnError for a parameter that there is not, and for a value that is not valid.
    """
    known = known_parameters(studies, more)
    refuse_unknown(namespace, known)
    given = {name: namespace.get(name) for name in known}
    profile = "lab" if given["profile"] is None else str(given["profile"])
    compute = "published" if given["compute"] is None else str(given["compute"])
    if compute not in COMPUTE:
        raise unknown("value of compute", compute, COMPUTE)
    limits = chosen_limits(given["limits"])
    workers = positive("workers", 1 if given["workers"] is None else given["workers"], whole=True)
    experiment = Experiment(
        chapter,
        profile,
        chosen_domains(profile, given["domains"]),
        chosen_values(given),
        chosen_device(given["device"]),
        compute,
        min(workers, cores()),
        limits,
        chosen_folder("corpora", given["corpora"]),
        chosen_deadline(given["budget_minutes"]),
        {n: v for n, v in given.items() if v is not None and v != DEFAULTS.get(n)},
        tell,
        fail or tell,
        _store(compute, limits),
    )
    if given["domains"] in (None, "all") and (said := left_out(profile)):
        tell(f"*{said}*")
    parts = [
        Part(name, profile, experiment.domains, experiment.asked.only(get_study(name).axes))
        for name in studies
    ]
    missing: dict[RunSpec, None] = {}
    for part in parts:  # a wrong value is told before anything is loaded
        with contextlib.suppress(NotChosen):
            if compute == "published":  # the records are read where they are shown
                part.specs()
            else:
                missing.update(dict.fromkeys(experiment.missing(part)[0]))
    if compute != "published":
        tell(_opening(experiment, list(missing)))
        if workers > experiment.workers:
            tell(
                f"{workers} workers were asked for and this machine has {experiment.workers} "
                f"{plural('core', experiment.workers)}: {experiment.workers} compute."
            )
    return experiment


def _opening(experiment: Experiment, missing: Sequence[RunSpec]) -> str:
    """What stands at the top of a notebook that computes: the device, what is missing, how long."""
    from unlearnlib.devices import describe

    where = f"Computed on {describe(experiment.device)}."
    if not missing:
        return f"{where} All runs are recorded."
    precisions = ", ".join(sorted({spec.precision for spec in missing}))
    return (
        f"{where} {len(missing)} {plural('run', len(missing))} in {precisions} "
        f"{'has' if len(missing) == 1 else 'have'} no record yet. {experiment.effort(missing)}"
    )


def _store(compute: str, limits: Mapping[str, int] | None) -> Store:
    """Where an experiment keeps its records.

    Those of a part of the documents have the specs of those of all: they lie apart. What is
    computed anew lies apart as well, by the state of the code, so that a call that was interrupted
    goes on and code that was changed computes again.
    """
    root = default_store().root
    if compute == "fresh":
        root = root / "fresh" / code_state()
    if limits:
        root = root / "limited" / "_".join(f"{name}-{n}" for name, n in sorted(limits.items()))
    return Store(root)


@functools.cache
def code_state() -> str:
    """12 hex digits that change with the package's code."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
