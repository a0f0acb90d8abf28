"""One run: a spec, a model and data in; the unlearned model and its record out."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from unlearnlib import cost, lora
from unlearnlib.corpus.chunks import Chunk, cut, last_word
from unlearnlib.corpus.documents import Document, DomainData, clip, overlaps
from unlearnlib.corpus.files import checked_limits, split_general
from unlearnlib.engine import (
    Checkpoint,
    Execution,
    Labelling,
    Outcome,
    Part,
    Training,
    keep_original,
    optimise,
    order,
    peak_memory_bytes,
)
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.methods import Method, Term, get_method
from unlearnlib.metrics import attack_scores, cloze, last_word_accuracy, mean_kl, summarise
from unlearnlib.metrics.membership import auc, min_k
from unlearnlib.metrics.perplexity import perplexity
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.models import (
    DTYPES,
    cache_folder,
    check_head,
    check_loaded,
    check_reach,
    disable_dropout,
    gather,
    head_of,
    lab_checkpoint,
    load_model,
    load_tokenizer,
    model_hash,
    shard,
)
from unlearnlib.scoring import Reference, as_documents, cloze_chunks, score_chunks
from unlearnlib.spec import YOURS, RunSpec, get_profile
from unlearnlib.store import Record, provenance, run_key

logger = logging.getLogger(__name__)

EVALUATED = ("forget", "approximate", "retain", "general")
RETAIN_SHARE = 1  # retain chunks evaluated per forget document: enough for a mean
QUESTIONED = 32  # documents per split whose facts are asked for: a hundred questions or so
KEPT_ATTACKS = ("loss", "zlib", "min_k_20", "min_k_40", "min_k_pp_20", "min_k_pp_40")


@dataclass(frozen=True)
class Corpus:
    """A source of documents, which profiles name.

    load    (domain, folder, limits) -> the five splits. `limits` (split -> most documents) spares
            reading more than is wanted; what is returned beyond them is cut off
    copied  there may be a local copy of the texts, so that a folder can be given; otherwise
            `folder` is None
    """

    load: Callable[[str, str | Path | None, Mapping[str, int] | None], DomainData]
    copied: bool = False


def _fictitious(
    domain: str, folder: str | Path | None, limits: Mapping[str, int] | None
) -> DomainData:
    from unlearnlib.corpus.fictitious import generate

    return generate(domain)


def _public(domain: str, folder: str | Path | None, limits: Mapping[str, int] | None) -> DomainData:
    from unlearnlib.corpus.public import load_public

    return load_public(domain, folder, limits=limits)


def _hub(domain: str, folder: str | Path | None, limits: Mapping[str, int] | None) -> DomainData:
    from unlearnlib.corpus.hub import HUB_DATASET, load_hub

    return load_hub(domain, folder or HUB_DATASET, limits=limits)


# The names that `Profile.corpus` may have.
CORPORA = {
    "fictitious": Corpus(_fictitious),
    "public": Corpus(_public, copied=True),
    "hub": Corpus(_hub, copied=True),
}


def load_domain(
    profile: str = "lab",
    domain: str = "books",
    folder: str | Path | None = None,
    limits: Mapping[str, int] | None = None,
) -> DomainData:
    """The five splits of a domain at a profile, from its corpus in `CORPORA`.

    `folder` is a local copy of the public texts ("open") or of the hub's data set ("paper");
    `limits` cuts splits to their first so many documents, in place of the profile's own limits.
    Documents are whole here; where a profile takes only the beginning of each, `clipped` cuts it,
    which needs the tokenizer.
    """
    scale = get_profile(profile)
    if domain not in scale.domains:
        raise unknown("domain", domain, scale.domains)
    if scale.corpus not in CORPORA:
        raise unknown("corpus", scale.corpus, CORPORA)
    corpus = CORPORA[scale.corpus]
    if folder is not None and not corpus.copied:
        raise UnlearnError(
            f"the folder {str(folder)!r} is given, and the texts of profile {profile!r} are "
            "invented here: leave it out (--corpora), or name another profile."
        )
    limits = {**dict(scale.limits), **(limits or {})} or None
    return limited(corpus.load(domain, folder, limits), limits)


def clipped(profile: str, data: DomainData, tokenizer: Any) -> DomainData:
    """The data of a profile with as much of each document as the profile takes."""
    scale = get_profile(profile)
    return clip(data, tokenizer, scale.length) if scale.clipped else data


def limited(data: DomainData, limits: Mapping[str, int] | None) -> DomainData:
    """`data` with its splits cut to their first so many documents."""
    cuts = {split: data.split(split)[:count] for split, count in checked_limits(limits).items()}
    return dataclasses.replace(data, **cuts)  # type: ignore[arg-type, unused-ignore]


@dataclass
class Bench:
    """What all runs on one model and one domain share: loaded, cut and hashed once.

    model      the model before unlearning, on its device; runs work on copies of it
    oracle     the exactly retrained model, where there is one
    """

    model: nn.Module
    tokenizer: Any
    data: DomainData
    length: int
    prefix: int = 32
    oracle: nn.Module | None = None
    execution: Execution = field(default_factory=Execution)
    source: str = ""

    def __post_init__(self) -> None:
        self.model_hash = model_hash(self.model)
        self.data_hash = self.data.hash()
        self.special = frozenset(int(t) for t in self.tokenizer.all_special_ids)
        # A tokenizer may have been given tokens that the model was not resized for.
        self.vocabulary = min(len(self.tokenizer), head_of(self.model).weight.shape[0])
        self._chunks: dict[tuple[str, int], list[Chunk]] = {}
        self._cloze: dict[tuple[str, int | None], tuple[list[Chunk], np.ndarray]] = {}
        self._references: dict[int, Reference] = {}
        self._last_words: dict[tuple[tuple[int, ...], int], tuple[int, int]] = {}

    def chunks(self, split: str, length: int | None = None) -> list[Chunk]:
        """The chunks of one of `SPLITS`."""
        key = (split, length or self.length)
        if key not in self._chunks:
            self._chunks[key] = cut(self.data.split(split), self.tokenizer, key[1], name=split)
        return self._chunks[key]

    def forgotten(self, spec: RunSpec) -> list[Chunk]:
        """The chunks that the run forgets: of the first `forget_size` documents."""
        names = {document.id for document in self.data.forget[: spec.forget_size]}
        chunks = [c for c in self.chunks("forget", spec.length) if c.document in names]
        if not chunks:
            raise UnlearnError("the forget set is empty: give at least one document to forget.")
        return chunks

    def evaluated(self, spec: RunSpec | None = None) -> dict[str, list[Chunk]]:
        """The chunks of each split of `EVALUATED` that there is."""
        spec = spec or RunSpec()
        length = spec.length
        sets = {
            "forget": self.forgotten(spec),
            "approximate": self.chunks("approximate", length),
            "retain": self.chunks("retain", length)[: RETAIN_SHARE * len(self.data.forget)],
            "general": self.chunks("general_evaluation", length),
        }
        return {name: chunks for name, chunks in sets.items() if chunks}

    def last_words(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """(C, 2) targets of each chunk's last word, as `last_word_accuracy` takes them."""
        for chunk in chunks:
            key = chunk.tokens, chunk.context
            if key not in self._last_words:
                self._last_words[key] = last_word(chunk, self.tokenizer) or (-1, -1)
        found = [self._last_words[chunk.tokens, chunk.context] for chunk in chunks]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def questions(self, split: str, limit: int | None = None) -> tuple[list[Chunk], np.ndarray]:
        """Cloze chunks of the facts in the documents of `questioned`."""
        key = (split, limit)
        if key not in self._cloze:
            self._cloze[key] = cloze_chunks(self.questioned(split, limit), self.tokenizer)
        return self._cloze[key]

    def questioned(self, split: str, limit: int | None = None) -> tuple[Document, ...]:
        """The documents whose facts are asked for: the first `QUESTIONED`, at most `limit`."""
        return self.data.split(split)[:QUESTIONED][:limit]

    def reference(self, spec: RunSpec | None = None) -> Reference | None:
        """The oracle's distributions on forget and approximate chunks."""
        if self.oracle is None:
            return None
        length = (spec.length if spec else None) or self.length
        if length not in self._references:
            chunks = self.chunks("forget", length) + self.chunks("approximate", length)
            self._references[length] = Reference(self.oracle, chunks)
        return self._references[length]


def evaluate(
    bench: Bench, model: nn.Module, spec: RunSpec | None = None
) -> tuple[dict[str, float], dict[str, dict[str, list[Any]]], dict[str, TokenScores]]:
    """All metrics of `model` on the bench's data: (metrics, per-chunk scores, token scores).

    Where a model that diverged gives NaN for a split, all that is computed from that split is
    NaN, under the same names.
    """
    reference = bench.reference(spec)
    quiet = Execution(bench.execution.micro_tokens, bench.execution.micro_chunks, progress=False)
    scores = {
        split: score_chunks(
            model,
            chunks,
            reference=reference if split in ("forget", "approximate") else None,
            execution=quiet,
        )
        for split, chunks in bench.evaluated(spec).items()
    }
    broken = {split for split, values in scores.items() if _has_nan(values)}
    numbers = {s: _zeros(values) if s in broken else values for s, values in scores.items()}
    metrics = summarise(
        numbers.get("forget"),
        numbers.get("approximate"),
        numbers.get("retain"),
        numbers.get("general"),
        prefix=bench.prefix,
    )
    for split, chunks in bench.evaluated(spec).items():
        ends = bench.last_words(chunks)
        metrics[f"{split}/last_word_accuracy"] = last_word_accuracy(numbers[split], ends)
    for split in ("forget", "approximate"):
        limit = spec.forget_size if spec and split == "forget" else None
        chunks, starts = bench.questions(split, limit)
        if chunks:
            asked = score_chunks(model, chunks, execution=quiet)
            facts = sum(len(document.facts) for document in bench.questioned(split, limit))
            for name, value in cloze(asked, starts, len(chunks) // facts).items():
                metrics[f"{split}/cloze_{name}"] = value
    for name in metrics:
        words = set(name.split("/"))
        if broken & (words | ({"forget", "approximate"} if "membership" in words else set())):
            metrics[name] = float("nan")
    documents: dict[str, dict[str, list[Any]]] = {}
    for split, values in scores.items():
        documents[split] = {
            "id": list(values.ids),
            "tokens": values.lengths.tolist(),
            "nll": _short(-values.chunk_means(values.logprob)),
        }
        if split in ("forget", "approximate"):
            nothing = dict.fromkeys(KEPT_ATTACKS, np.full(len(values), np.nan))
            attacks = nothing if split in broken else attack_scores(values)
            documents[split].update({name: _short(attacks[name]) for name in KEPT_ATTACKS})
    return metrics, documents, scores


def _has_nan(scores: TokenScores) -> bool:
    """Whether the model gave NaN: its parameters are no use though they may still be finite."""
    return bool(np.isnan(scores.logprob).any())


def _zeros(scores: TokenScores) -> TokenScores:
    """Scores of the same chunks that every metric accepts."""
    names = [
        name for name in ("logprob", "mean", "variance", "kl") if getattr(scores, name) is not None
    ]
    return dataclasses.replace(scores, **{n: np.zeros_like(getattr(scores, n)) for n in names})


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _probe(bench: Bench, model: nn.Module, spec: RunSpec) -> dict[str, float]:
    """The few metrics that a trajectory shows after an update."""
    quiet = Execution(bench.execution.micro_tokens, bench.execution.micro_chunks, progress=False)
    sets = bench.evaluated(spec)
    reference = bench.reference(spec)
    out: dict[str, float] = {}
    scores = {}
    for split in ("forget", "approximate", "general"):
        if split in sets:
            old = reference if split == "forget" else None
            scores[split] = score_chunks(model, sets[split], reference=old, execution=quiet)
            out[f"{split}/perplexity"] = perplexity(scores[split])
    if "approximate" in scores:
        out["membership/min_k_40/auc"] = float("nan")
        if not any(map(_has_nan, scores.values())):
            members, others = (min_k(scores[s], 0.4) for s in ("forget", "approximate"))
            out["membership/min_k_40/auc"] = auc(members, others)
    if reference is not None:
        out["oracle_kl/forget"] = mean_kl(scores["forget"])
    return out


def _retain(bench: Bench, spec: RunSpec, method: Method) -> list[Chunk]:
    if method.data is None:
        return []
    split = "retain" if method.data == "in_distribution" else "general_retain"
    chunks = bench.chunks(split, spec.length)
    if not chunks:
        flag = "--retain" if split == "retain" else "--general"
        raise UnlearnError(
            f"method {spec.method!r} needs {split.replace('_', ' ')} documents and got none: give "
            f"them ({flag}, or the argument of that name), or choose a method without a retain "
            "term."
        )
    return chunks


def key_of(bench: Bench, spec: RunSpec) -> str:
    """The key of a run on a bench."""
    return run_key(spec.as_dict(), bench.data_hash, bench.model_hash)


def execute(
    bench: Bench,
    spec: RunSpec,
    *,
    in_place: bool = False,
    command: str | None = None,
    stop_after: Callable[[nn.Module, int], bool] | None = None,
) -> tuple[nn.Module, Record]:
    """Unlearn and evaluate: (the unlearned model, its record). `bench.model` stays as it is.

    A run whose loss or gradient becomes non-finite stops before that update reaches the
    parameters; its record says "diverged" and at which update, and carries the metrics of the
    last finite parameters.

    `stop_after(model, u)`, asked after each update u, may end the run early. Its record is then
    that of the run with so many updates, which makes the same ones.

    With several processes all must call this alike. Where `Execution.shard` divides the model,
    the model that comes back is whole again, on the CPU.

    With `lora_rank` the model that comes back has the adapter added to its weights, and the adapter
    alone as its attribute `lora_adapter` (see `lora.save_adapter`).
    """
    started = time.time()
    if stop_after is not None:
        _check_may_stop(spec)
    requests = _requests(bench.forgotten(spec), spec.requests)
    retain = _retain(bench, spec, get_method(spec.method))
    _check_evaluation(bench, spec)
    if spec.lora_rank:
        lora.check_peft()
    model = bench.model if in_place else copy.deepcopy(bench.model)
    model.to(DTYPES[spec.precision])  # type: ignore[call-overload]
    device = next(model.parameters()).device
    vars(model).pop("lora_adapter", None)  # of an earlier run on this model
    attached = None
    if spec.lora_rank:
        attached = lora.attach(model, spec.lora_rank, spec.alpha, spec.seed)
    adapter_size = lora.trained_parameters(model) if attached else 0
    if divided := bench.execution.shard and _several_processes():
        model = shard(model)
    trained = _train(bench, model, spec, attached, requests, retain, stop_after)
    outcome = trained.outcome
    if stop_after is not None and outcome.diverged_at is None:
        spec = spec.replace(updates=len(outcome.trajectory))
    model.eval()
    metrics, documents, scores = evaluate(bench, model, spec)
    if divided:
        model = gather(model)
    if trained.adapter is not None:
        model.__dict__["lora_adapter"] = trained.adapter
    if outcome.diverged_at is None and outcome.trajectory and any(map(_has_nan, scores.values())):
        # The last step did it: no later loss was there to show it.
        outcome.diverged_at = spec.updates * len(requests)
    origin = provenance(
        started=datetime.fromtimestamp(started, UTC),
        seconds=time.time() - started,
        device=str(device),
        command=command or command_of(spec),
        packages=("peft",) if attached else (),
        seconds_training=trained.seconds,
        peak_memory_bytes=peak_memory_bytes(device),
    )
    return model, _record(bench, spec, trained, adapter_size, metrics, documents, origin)


def _check_may_stop(spec: RunSpec) -> None:
    """`UnlearnError` for a run that, ended early, would not be that of so many updates."""
    if spec.schedule != "constant" or spec.warmup or spec.requests > 1:
        raise UnlearnError(
            f"a run with schedule {spec.schedule!r}, warmup {spec.warmup} and {spec.requests} "
            "requests cannot be ended early: its first updates are not those of a shorter run."
        )


def _check_evaluation(bench: Bench, spec: RunSpec) -> None:
    """Cut all chunks and questions: what cannot be cut or asked shows before training."""
    bench.evaluated(spec)
    for split in ("forget", "approximate"):
        bench.questions(split, spec.forget_size if split == "forget" else None)


@dataclass(frozen=True)
class _Trained:
    """What the updates of a run leave besides the model.

    outcome  of all requests together
    first    the probe before the first update; empty where the spec asks for none
    adapter  the trained adapter, taken off the model; None without LoRA
    seconds  of the updates and of the probes between them
    """

    outcome: Outcome
    first: dict[str, float]
    adapter: lora.Adapter | None
    seconds: float


def _train(
    bench: Bench,
    model: nn.Module,
    spec: RunSpec,
    attached: lora.Attached | None,
    requests: Sequence[Sequence[Chunk]],
    retain: Sequence[Chunk],
    stop_after: Callable[[nn.Module, int], bool] | None,
) -> _Trained:
    """All requests in turn, and then the adapter added to the weights.

    If it is interrupted, the adapter is dropped: with LoRA the model is then the original again.
    """
    adapter = None
    try:
        first = _probe(bench, model, spec) if spec.probe_every else {}
        started = time.time()
        outcome = Outcome()
        for number, forget in enumerate(requests):
            if not (spec.updates and spec.learning_rate) or outcome.diverged_at is not None:
                break
            made = _forget(bench, model, spec, number, forget, retain, stop_after)
            _append(outcome, made, before=number * spec.updates)
        updates = len(outcome.trajectory)
        stopped = outcome.diverged_at is None and 0 < updates < spec.updates
        if stopped and spec.probe_every and updates % spec.probe_every:
            # The shorter run is evaluated after its last update.
            outcome.trajectory[-1].update(_probe(bench, model, spec))
        model.zero_grad(set_to_none=True)  # as large as the model, and no part of what is returned
        if attached is not None:
            adapter = lora.take_off(model, attached)
    finally:
        if attached is not None and adapter is None:
            lora.drop(model, attached)
    return _Trained(outcome, first, adapter, time.time() - started)


def _append(outcome: Outcome, made: Outcome, before: int) -> None:
    """Add a request's outcome to that of the `before` updates before it."""
    outcome.trajectory += [row | {"update": row["update"] + before} for row in made.trajectory]
    outcome.tokens += made.tokens
    outcome.reference_tokens += made.reference_tokens
    if made.diverged_at is not None:
        outcome.diverged_at = before + made.diverged_at


def _record(
    bench: Bench,
    spec: RunSpec,
    trained: _Trained,
    adapter_size: int,
    metrics: dict[str, float],
    documents: dict[str, dict[str, list[Any]]],
    origin: dict[str, Any],
) -> Record:
    """The record of a run; `adapter_size` is 0 without LoRA, `origin` the run's provenance."""
    outcome = trained.outcome
    first = [{"update": 0.0, **trained.first}] if trained.first else []
    flops = cost.run_flops(bench.model, outcome.tokens, adapter_size, outcome.reference_tokens)
    return Record(
        key=key_of(bench, spec),
        kind="run",
        status="done" if outcome.diverged_at is None else "diverged",
        spec=spec.as_dict(),
        data_hash=bench.data_hash,
        model_hash=bench.model_hash,
        metrics=metrics,
        trajectory=[_row(row) for row in first + outcome.trajectory],
        documents=documents,
        diverged_at=outcome.diverged_at,
        extra={
            "tokens": outcome.tokens,
            "flops": flops,
            **({"trained_parameters": adapter_size} if spec.lora_rank else {}),
        },
        provenance=origin,
    )


def _several_processes() -> bool:
    return bool(PartialState().num_processes > 1)


def warn_of_data(bench: Bench, spec: RunSpec) -> None:
    """Log a warning for documents to forget that are in another set too, or are never drawn."""
    for split, names in overlaps(bench.data).items():
        logger.warning(
            "%d of %d documents to forget are in the %s set, too (first %s): take them out of one",
            len(names),
            len(bench.data.forget),
            split.replace("_", " "),
            names[0],
        )
    chunks, drawn = len(bench.forgotten(spec)), spec.updates * spec.batch_size * spec.requests
    if 0 < drawn < chunks:
        logger.warning(
            "%d updates of %d forget chunks draw %d of the %d there are: give more updates or a "
            "larger batch_size to draw all",
            spec.updates * spec.requests,
            spec.batch_size,
            drawn,
            chunks,
        )


def _requests(chunks: Sequence[Chunk], count: int) -> list[list[Chunk]]:
    """The chunks of `count` requests: documents in their order, as evenly divided as possible."""
    names = list(dict.fromkeys(chunk.document for chunk in chunks))
    if count > len(names):
        raise UnlearnError(
            f"requests is {count}, and there are {len(names)} documents to forget: give at most as "
            "many requests."
        )
    owner = {name: number * count // len(names) for number, name in enumerate(names)}
    return [[c for c in chunks if owner[c.document] == request] for request in range(count)]


def _forget(
    bench: Bench,
    model: nn.Module,
    spec: RunSpec,
    request: int,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    stop_after: Callable[[nn.Module, int], bool] | None,
) -> Outcome:
    """The updates of one request (its number, from 0), and what they report.

    What a term keeps of "the original model" is of the model as the request found it.
    """
    seed = spec.seed + request
    before = request * spec.updates

    def probe(update: int) -> dict[str, float]:
        last = update == spec.updates
        due = spec.probe_every and ((before + update) % spec.probe_every == 0 or last)
        return _probe(bench, model, spec) if due else {}

    return optimise(
        model,
        _parts(bench, model, spec, request, forget, retain),
        Training(
            updates=spec.updates,
            batch_size=spec.batch_size,
            rate=spec.rate,
            seed=seed,
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
            optimizer=spec.optimizer,
        ),
        execution=bench.execution,
        checkpoint=_checkpoint(bench, spec),
        on_update=probe,
        stop_after=None if stop_after is None else functools.partial(stop_after, model),
        description=f"{spec.domain} {spec.method}",
    )


def _parts(
    bench: Bench,
    model: nn.Module,
    spec: RunSpec,
    request: int,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
) -> list[Part]:
    """The forget part of a request and, where the method has a retain term, the retain part."""
    method, seed = get_method(spec.method), spec.seed + request
    alignment: Any = spec.label_alignment
    labelling = Labelling(bench.special, bench.vocabulary, seed, alignment)
    # Later requests look at the model as they found it, which has the adapter on.
    recompute = bool(spec.lora_rank) and request == 0
    part = Part("forget", forget, method.forget)
    used: Sequence[int] = range(len(forget))
    parts = [_with_reference(part, model, used, labelling, bench.execution, recompute)]
    if method.retain is not None and spec.retain_weight > 0:
        part = Part("retain", retain, method.retain, spec.retain_weight)
        used = _needed(retain, spec, seed)
        parts.append(_with_reference(part, model, used, labelling, bench.execution, recompute))
    return parts


def _with_reference(
    part: Part,
    model: nn.Module,
    used: Sequence[int],
    labelling: Labelling,
    execution: Execution,
    recompute: bool,
) -> Part:
    """The part with what its term keeps of the original model at the chunks of numbers `used`.

    With `recompute` (the model without its adapter is the original) hidden states are computed
    anew in each micro-batch instead of stored: tokens x hidden numbers, which for a large model
    and long documents is more than the rest of a small computer's memory. It costs a forward pass
    per use: as many operations as storing while no chunk comes twice, and half as many as training
    on the chunk with an adapter. Labels are small, and are stored.
    """
    if recompute and part.term.needs_original and used:
        first = [part.chunks[used[0]]]
        (sample,) = keep_original(model, first, part.term, labelling, execution=execution)
        if sample is not None and sample.is_floating_point():
            again = functools.partial(_recompute_reference, model, part.term, labelling, execution)
            return dataclasses.replace(part, recompute_reference=again)
    stored: list[torch.Tensor | None] = [None] * len(part.chunks)
    chunks = [part.chunks[i] for i in used]
    made = keep_original(model, chunks, part.term, labelling, execution=execution)
    for index, tensor in zip(used, made, strict=True):
        stored[index] = tensor
    return dataclasses.replace(part, stored_reference=stored)


def _recompute_reference(
    model: nn.Module,
    term: Term,
    labelling: Labelling,
    execution: Execution,
    chunks: Sequence[Chunk],
) -> list[torch.Tensor | None]:
    """What `term` keeps of the model without its adapter, left on the model's device."""
    device = next(model.parameters()).device
    with lora.adapter_off(model):
        return keep_original(model, chunks, term, labelling, execution=execution, place=device)


def _checkpoint(bench: Bench, spec: RunSpec) -> Checkpoint | None:
    """Where a run saves its state, if asked to: in the user's cache, named by the run's key.

    A run of several requests saves none: a run that goes on begins with the first request, and the
    state may be that of a later one.
    """
    if not bench.execution.save_every or spec.requests > 1:
        return None
    key = key_of(bench, spec)
    return Checkpoint(cache_folder() / "checkpoints" / f"{key}.safetensors", key)


def _needed(retain: Sequence[Chunk], spec: RunSpec, seed: int) -> list[int]:
    """Which retain chunks the run will meet: only these need the original's hidden states."""
    count = spec.updates * min(spec.batch_size, len(retain))
    return sorted(set(islice(order(seed, "retain", len(retain)), count)))


def _row(row: Mapping[str, float]) -> dict[str, Any]:
    return {name: int(v) if name == "update" else float(f"{v:.8g}") for name, v in row.items()}


def command_of(spec: RunSpec) -> str:
    """The command that repeats a run of a profile."""
    words = ["unlearn", "run", "--profile", spec.profile, "--domain", spec.domain]
    words += ["--method", spec.method]
    default = RunSpec()
    for name, value in spec.as_dict().items():
        if name not in ("profile", "domain", "method") and value != getattr(default, name):
            words += ["--set", f"{name}={'none' if value is None else value}"]
    return shlex.join(words)


@dataclass(frozen=True)
class Models:
    """Which models a bench has, and how they are loaded.

    model      a folder or hub id; None: the profile's
    oracle     the exactly retrained model, a folder or hub id; None: the profile's, where `model`
               is the profile's too
    base       "vanilla", or "published" for the model that the profile's vanilla was trained
               further from, which has no oracle of the profile
    precision  a name in `DTYPES`; None: that of the profile's studies
    device     that the models are loaded to
    """

    model: str | Path | None = None
    oracle: str | Path | None = None
    base: str = "vanilla"
    precision: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Selection:
    """Which of a profile's texts a bench has (see `load_domain`).

    folder  a local copy of the texts; None: where the profile has them from
    limits  split -> number of documents taken of it, from the first; None: the profile's
    """

    folder: str | Path | None = None
    limits: Mapping[str, int] | None = None


def sources(
    profile: str, domain: str, models: Models, own: bool = False
) -> tuple[str | Path, str | Path | None]:
    """Where a bench's model and oracle come from; `own` says that the documents are a user's."""
    from unlearnlib.continued import continued_checkpoint  # which imports this file

    scale, model, oracle = get_profile(profile), models.model, models.oracle
    if model is not None and not str(model).strip():
        raise UnlearnError(f"the model is {model!r}: give a folder or a hub id, or leave it out.")
    if models.base == "published":
        if not scale.continued:
            raise UnlearnError(
                f"base is {models.base!r}, and the model of profile {profile!r} was not trained "
                "further: leave base at 'vanilla', or take the profile open or open_cpu."
            )
        return model or scale.model, oracle
    if model is None and scale.continued and not own:
        return (
            continued_checkpoint(profile, "vanilla", needed=True),
            oracle or continued_checkpoint(profile, f"oracle-{domain}", needed=True),
        )
    source = model or scale.model
    if oracle is None and str(source) == "lab" and scale.corpus == "fictitious" and not own:
        oracle = lab_checkpoint(f"oracle-{domain}")
    return source, oracle


def open_bench(
    profile: str = "lab",
    domain: str = "books",
    *,
    models: Models | None = None,
    selection: Selection | None = None,
    data: DomainData | None = None,
    length: int | None = None,
    execution: Execution | None = None,
) -> Bench:
    """Load a profile's model, tokenizer, data and (where there is one) oracle.

    `data` is a user's own, in place of the profile's texts (`selection`); `length` is in tokens per
    chunk, by default the profile's.
    """
    scale, models = get_profile(profile), models or Models()
    selection = selection or Selection()
    own = data is not None
    precision = models.precision or scale.precision
    data = data or load_domain(profile, domain, selection.folder, selection.limits)
    source, oracle = sources(profile, domain, models, own)
    model, tokenizer = load_model(source, precision, models.device), load_tokenizer(source)
    if not own:
        data = clipped(profile, data, tokenizer)
    return Bench(
        model,
        tokenizer,
        data,
        length or scale.length,
        scale.prefix,
        load_model(oracle, precision, models.device) if oracle else None,
        execution or Execution(),
        str(source),
    )


def unlearn(
    model: nn.Module,
    tokenizer: Any,
    *,
    method: str = "ga_gd_in_dist",
    forget: Iterable[str | Document],
    retain: Iterable[str | Document] = (),
    approximate: Iterable[str | Document] = (),
    general: Iterable[str | Document] = (),
    learning_rate: float = 1e-5,
    updates: int = 8,
    batch_size: int = 16,
    retain_weight: float = 1.0,
    seed: int = 0,
    length: int = 1024,
    oracle: nn.Module | None = None,
    in_place: bool = True,
    execution: Execution | None = None,
    **settings: Any,
) -> tuple[nn.Module, Record]:
    """Make a causal LM forget texts: (the unlearned model, the record of the run).

    model, tokenizer   of `transformers`; the model is changed in place unless `in_place=False`
    forget             texts (or `Document`s) to forget
    retain             texts of the same kind to keep, for the in-distribution methods
    approximate        texts of the same kind that the model never saw: the target and the
                       non-members of membership inference
    general            other texts; the first two thirds serve as retain data of the general
                       methods, the rest is evaluated on
    oracle             an exactly retrained model, if there is one, to measure the distance to
    settings           any other field of `RunSpec` (schedule, warmup, max_grad_norm, ...); with
                       `lora_rank` the adapter alone is the attribute `lora_adapter` of the model
                       that comes back; `precision` is by default the model's own, float32 where
                       it cannot be trained in that

    Raises `UnlearnError` for bad input, before anything is changed.
    """
    _check_arguments(model, tokenizer, length, oracle, execution, settings)
    data = _own_data(forget, retain, approximate, general)
    if "precision" not in settings:
        settings["precision"] = _precision_of(model)
    spec = RunSpec().replace(
        domain=YOURS,
        method=method,
        learning_rate=learning_rate,
        updates=updates,
        batch_size=batch_size,
        retain_weight=retain_weight,
        seed=seed,
        length=length,
        **settings,
    )
    check_head(model)
    if not in_place:
        model = copy.deepcopy(model)
    bench = Bench(
        disable_dropout(model), tokenizer, data, length, 32, oracle, execution or Execution()
    )
    used = [*bench.evaluated(spec).values(), _retain(bench, spec, get_method(spec.method))]
    check_reach(model, [chunk.tokens for chunks in used for chunk in chunks])
    if not spec.lora_rank and not any(p.requires_grad for p in model.parameters()):
        raise UnlearnError(
            "every parameter of the model is frozen, so nothing can be unlearned: let some be "
            "trained, as with model.requires_grad_(True)."
        )
    warn_of_data(bench, spec)
    return execute(bench, spec, in_place=True, command="unlearnlib.unlearn(...)")


def _check_arguments(
    model: Any,
    tokenizer: Any,
    length: Any,
    oracle: Any,
    execution: Any,
    settings: Mapping[str, Any],
) -> None:
    """`UnlearnError` for arguments of `unlearn` that are not what they should be."""
    check_loaded(model, tokenizer)
    for name, value, kind in (("oracle", oracle, nn.Module), ("execution", execution, Execution)):
        if value is not None and not isinstance(value, kind):
            what = "a loaded model" if kind is nn.Module else "an Execution"
            raise UnlearnError(f"{name} is {value!r}: give {what}, or leave it out.")
    for name in ("profile", "domain"):
        if name in settings:
            raise UnlearnError(f"{name} is given with texts of your own: leave it out.")
    if length is None:
        raise UnlearnError("length is None: give the number of tokens per chunk.")


def _own_data(
    forget: Iterable[str | Document],
    retain: Iterable[str | Document],
    approximate: Iterable[str | Document],
    general: Iterable[str | Document],
) -> DomainData:
    """A user's texts as a domain; the general ones are divided into retain and evaluation."""
    general_retain, general_evaluation = split_general(as_documents(general, "general"))
    return DomainData(
        YOURS,
        as_documents(forget, "forget"),
        as_documents(retain, "retain"),
        as_documents(approximate, "approximate"),
        tuple(general_retain),
        tuple(general_evaluation),
        source="texts",
    )


def _precision_of(model: nn.Module) -> str:
    """The name in `DTYPES` of a model's dtype; float32, with a warning, where it has none."""
    dtype = next(model.parameters()).dtype
    if dtype not in DTYPES.values():
        logger.warning("the model is %s, which is not trained in: it becomes float32", dtype)
    return {v: k for k, v in DTYPES.items()}.get(dtype, "float32")
