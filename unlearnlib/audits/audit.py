"""Make an audit: every attack on every model, each kept as soon as it is measured (`audit`).

A measurement is of one model, and its record's key is of that model's weights, the documents and
the attack's settings. So an audit that was interrupted goes on where it was, and the next audit of
another model finds vanilla, the oracle and the impostor measured.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from unlearnlib.audits.case import Attack, Case, Tick
from unlearnlib.audits.context import Context
from unlearnlib.audits.extraction import Extraction
from unlearnlib.audits.findings import AUDITS, FORMATS, results, slim
from unlearnlib.audits.inside import Inside, final_norm
from unlearnlib.audits.quantisation import Quantisation
from unlearnlib.audits.relearning import Relearning
from unlearnlib.bench import Bench
from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.corpus.texts import own_data
from unlearnlib.cost import FLOPS_FORWARD
from unlearnlib.decoder import check_head, check_here, check_loaded, check_reach, disable_dropout
from unlearnlib.engine import check_execution, check_gradients
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.folders import cache_folder
from unlearnlib.loading import check_finite
from unlearnlib.models import parameter_count
from unlearnlib.planning import expected_rate
from unlearnlib.quantised import bits_of
from unlearnlib.store.folder import Store
from unlearnlib.store.provenance import provenance
from unlearnlib.store.record import Record, run_key
from unlearnlib.text import duration

logger = logging.getLogger(__name__)

# To be raised when an attack measures something else than before: what was kept is of the earlier.
VERSION = 1
LENGTH = 1024  # tokens per chunk of a user's documents, as in `unlearnlib.unlearn`


@dataclass(frozen=True)
class AuditSpec:
    """Which audits are made, and how; the defaults are those of the attacks.

    audits   those of `findings.AUDITS` that are made
    rates    learning rates of relearning: the worst one counts
    steps    after how many updates of relearning the held-out documents are scored
    batch_size  chunks per update of relearning
    formats  what weights are rounded to
    prefixes, span, tries   see `Extraction`
    seed     of how documents are halved, and of the order in which they are taught
    most     documents that are looked at, at most: of halves, and of each set but the forget set
    """

    audits: tuple[str, ...] = AUDITS
    rates: tuple[float, ...] = (1e-5, 5e-5, 2e-4, 1e-3)
    steps: tuple[int, ...] = Relearning.steps
    batch_size: int = Relearning.batch_size
    formats: tuple[str, ...] = FORMATS
    prefixes: tuple[int, ...] = Extraction.prefixes
    span: int = Extraction.span
    tries: tuple[int, ...] = Extraction.tries
    seed: int = 0
    most: int = 48

    def __post_init__(self) -> None:
        for name in self.audits:
            if name not in AUDITS:
                raise unknown("audit", name, AUDITS)
        for name in self.formats:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS)
        _check_numbers("rates", self.rates, above=0.0)
        _check_numbers("steps", self.steps, above=-1)
        _check_numbers("prefixes", self.prefixes, above=0)
        _check_numbers("tries", self.tries, above=0)
        for each in ("batch_size", "span", "most"):
            _check_numbers(each, (getattr(self, each),), above=0)
        if 0 not in self.steps or max(self.steps) == 0:
            raise UnlearnError(
                f"steps is {self.steps}: give 0, from where the way back is measured, and others."
            )

    @classmethod
    def of_texts(cls, audits: tuple[str, ...], settings: Mapping[str, str]) -> AuditSpec:
        """The spec with settings that are given as texts, several values with commas.

        `UnlearnError` for an unknown setting, and for what is no number where one is needed.
        """
        usual = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "audits"}
        changes: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in usual:
                raise unknown("setting", name, usual)
            default: Any = usual[name]
            kind = type(default[0] if isinstance(default, tuple) else default)
            try:
                values = tuple(kind(part.strip()) for part in text.split(","))
            except ValueError:
                what = "whole numbers" if kind is int else "numbers"
                raise UnlearnError(f"{name} is {text!r}: give {what}, with commas.") from None
            if not isinstance(default, tuple) and len(values) > 1:
                raise UnlearnError(f"{name} is {text!r}: give one number.")
            changes[name] = values if isinstance(default, tuple) else values[0]
        return cls(audits, **changes)

    def attacks(self, case: Case) -> list[Attack]:
        """What is done to every model, in this order."""
        made: list[Attack] = []
        for audit in AUDITS:
            if audit not in self.audits:
                continue
            if audit == "relearning":
                how = self.steps, self.batch_size, self.seed
                made += [Relearning(s, r, *how) for s in case.sources() for r in self.rates]
            elif audit == "quantisation":
                made.append(Quantisation(self.formats))
            elif audit == "inside":
                made.append(Inside())
            elif audit == "context":
                made.append(Context())
            else:
                made.append(Extraction(self.prefixes, self.span, self.tries))
        return made


def _check_numbers(name: str, values: Sequence[float], above: float) -> None:
    """`UnlearnError` for a setting without numbers, or with one that is too small."""
    bad = [v for v in values if isinstance(v, bool) or not math.isfinite(v) or v <= above]
    if bad or not values:
        raise UnlearnError(
            f"{name} is {tuple(values)}: give at least one number, and each above {above:g}."
        )


def audit(
    unlearned: nn.Module,
    original: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Iterable[str | Document]] | DomainData,
    *,
    oracle: nn.Module | None = None,
    spec: AuditSpec | None = None,
    length: int = LENGTH,
    store: str | Path | None = None,
) -> Record:
    """Try to bring back what a model is to have forgotten: the record of the audit.

    unlearned, original   models of `transformers`: after unlearning, and before; they stay as they
                          are, but for dropout, which is set to 0
    texts     what was given to `unlearn`: "forget" and, as far as there are some, "retain",
              "approximate" and "general", or a `DomainData`
    oracle    an exactly retrained model, if there is one: attacked alike, it says what of an attack
              is memory. Without one vanilla on the approximate texts stands for it where it can
    spec      which audits, and how (`AuditSpec`)
    length    tokens per chunk
    store     a folder that keeps what is measured, by default in the user's cache: an audit
              that was interrupted goes on there

    `record.metrics` has the results: `findings.py` says what they are. Raises `UnlearnError` for
    bad input.
    """
    check_loaded(original, tokenizer)
    for model, name in ((unlearned, "the unlearned model"), (oracle, "the oracle")):
        if model is None:
            continue
        if not isinstance(model, nn.Module):
            raise UnlearnError(f"{name} is {model!r}: give a loaded model.")
        check_here(model, name)
    data = own_data(texts)
    for model in (unlearned, original, *([] if oracle is None else [oracle])):
        disable_dropout(model)
    bench = Bench(original, tokenizer, data, length, oracle=oracle)
    return make_audit(
        bench, unlearned, spec or AuditSpec(), store=Store(store_folder(store)),
        command="unlearnlib.audit(...)",
    )  # fmt: skip


def store_folder(named: str | Path | None) -> Path:
    """Where measurements are kept: where it was said, else in the user's cache."""
    return cache_folder() / "audits" if named is None else Path(named)


def make_audit(
    bench: Bench,
    unlearned: nn.Module,
    spec: AuditSpec,
    *,
    store: Store,
    command: str,
    profile: str = "",
    about: Mapping[str, Any] | None = None,
) -> Record:
    """An audit on a bench, whose model is vanilla.

    profile  of the documents, for the record; empty for a user's own
    about    what is known of the unlearned model, for the record's provenance
    """
    check_execution(bench.execution)
    check_gradients()
    case = Case(bench, unlearned, spec.seed, spec.most)
    _check_models(case, spec)
    attacks = spec.attacks(case)
    jobs = [(attack, name, _part_key(case, attack, name)) for attack in attacks for name in
            case.names]  # fmt: skip
    whole = audit_key(case, spec, attacks, profile)
    if whole in store:
        return store.get(whole)
    origin = _origin(case, command)
    _measure(case, [job for job in jobs if job[2] not in store], origin, store)
    parts = [(attack, name, store.get(key)) for attack, name, key in jobs]
    rows = [
        {"audit": attack.audit, "model": name, **row}
        for attack, name, part in parts
        for row in part.trajectory
    ]
    seconds = sum(float(part.provenance["seconds"]) for *_, part in parts)
    record = Record(
        key=whole,
        kind="audit",
        status="done",
        spec=_audit_spec(case, attacks, profile),
        **bench.basis.as_dict(),
        metrics=results(rows),
        trajectory=slim(rows),
        documents=_documents(case, parts),
        provenance={**origin, "seconds": seconds, **(about or {})},
    )
    store.put(record)
    return record


def _check_models(case: Case, spec: AuditSpec) -> None:
    """`UnlearnError` for models that cannot be audited, or that do not fit the documents."""
    if not case.bench.data.forget:
        raise UnlearnError("the forget set is empty: give at least one document to forget.")
    read = [c.tokens for s in ("forget", "approximate") for c in case.bench.chunks(s)]
    for name in case.names:
        if name == "impostor":
            continue
        model = case.model(name)
        if bits_of(model):
            raise UnlearnError(
                f"the {name} model is in {bits_of(model)} bits, and an audit trains and rounds "
                "weights: load it in full."
            )
        check_finite(model)
        check_head(model)
        check_reach(model, read)
        if "inside" in spec.audits:
            final_norm(model)


def _part_spec(case: Case, attack: Attack) -> dict[str, Any]:
    spec = {"audit": attack.audit, "most": case.most, "halves": case.seed}
    if VERSION > 1:
        spec["version"] = VERSION
    return spec | dataclasses.asdict(attack)  # type: ignore[call-overload, unused-ignore]


def _part_key(case: Case, attack: Attack, name: str) -> str:
    return run_key(_part_spec(case, attack), case.basis(name))


def _audit_spec(case: Case, attacks: Sequence[Attack], profile: str) -> dict[str, Any]:
    return {
        "profile": profile,
        "domain": case.bench.data.domain,
        "unlearned": case.unlearned_hash,
        "attacks": [_part_spec(case, attack) for attack in attacks],
    }


def audit_key(case: Case, spec: AuditSpec, attacks: Sequence[Attack], profile: str) -> str:
    """The key of an audit: of its settings, the hashes of all models, and the documents."""
    return run_key(_audit_spec(case, attacks, profile), case.bench.basis)


def planned_seconds(case: Case, jobs: Sequence[tuple[Attack, str, str]]) -> float:
    """How long measurements will take, by the speed of a matrix product here and now."""
    if not jobs:
        return 0.0
    model: Any = case.bench.model
    device = next(model.parameters()).device
    precision = str(model.dtype).removeprefix("torch.")
    work = sum(attack.work(case) for attack, *_ in jobs)
    rate = expected_rate(precision if precision != "float16" else "float32", device.type)
    return FLOPS_FORWARD * parameter_count(model) * work / rate


def _measure(
    case: Case, jobs: Sequence[tuple[Attack, str, str]], origin: Mapping[str, Any], store: Store
) -> None:
    """Make measurements, and put each into the store as soon as it is made."""
    if not jobs:
        return
    logger.info(
        "%d measurements are to be made: about %s by the speed of products here",
        len(jobs),
        duration(planned_seconds(case, jobs)),
    )
    work = sum(attack.work(case) for attack, *_ in jobs)
    quiet = not case.bench.execution.progress
    with tqdm(total=work, unit="tok", unit_scale=True, desc="audit", disable=quiet) as bar:
        for attack, name, key in jobs:
            words = [attack.audit, *(str(getattr(attack, n, "")) for n in ("source", "rate")), name]
            bar.set_postfix_str(" ".join(word for word in words if word))
            done = bar.n
            with store.claim(key):  # whoever else measures it: the first to be done counts
                if key not in store:
                    store.put(_part(case, attack, name, key, origin, bar.update))
            bar.update(attack.work(case) - (bar.n - done))  # what was planned and not counted


def _part(
    case: Case, attack: Attack, name: str, key: str, origin: Mapping[str, Any], tick: Tick
) -> Record:
    """One measurement, and its record."""
    started = time.time()
    measured = attack.measure(case, case.model(name), tick)
    when = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": time.time() - started,
    }
    return Record(
        key=key,
        kind="audit_part",
        status="done",
        spec=_part_spec(case, attack),
        **case.basis(name).as_dict(),
        trajectory=measured.rows,
        documents=measured.documents,
        provenance={**origin, **when},
    )


def _origin(case: Case, command: str) -> dict[str, Any]:
    """Where the audit is made; of a part the time is put in later."""
    device = next(case.bench.model.parameters()).device
    return provenance(
        started=datetime.now(UTC),
        seconds=0.0,
        device=str(device),
        command=command,
        weights=dict(case.bench.weights),
    )


def _documents(
    case: Case, parts: Sequence[tuple[Attack, str, Record]]
) -> dict[str, dict[str, list[Any]]]:
    """What was found of each document: columns MODEL/NAME, and how often it was read."""
    read = {document.id: document.exposure for document in case.bench.data.forget}
    found: dict[str, dict[str, list[Any]]] = {}
    for _, name, part in parts:
        for split, columns in part.documents.items():
            mine = found.setdefault(split, {"id": columns["id"]})
            mine |= {f"{name}/{column}": v for column, v in columns.items() if column != "id"}
            # A name is a document's, or a chunk's behind that of its document.
            often = [read.get(n, read.get(n.rpartition("#")[0], 0)) for n in columns["id"]]
            if any(often):
                mine["exposure"] = often
    return found
