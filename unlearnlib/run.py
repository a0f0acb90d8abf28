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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unlearnlib import cost, lora
from unlearnlib.corpus.chunks import Chunk, cut, last_word
from unlearnlib.corpus.documents import Document, DomainData, clip, overlaps
from unlearnlib.engine import (
    Checkpoint,
    Execution,
    Outcome,
    Part,
    keep_original,
    optimise,
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
    What a profile takes of each document alone, `clipped` says: it needs the tokenizer.
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
    from unlearnlib.corpus.files import checked_limits

    cuts = {split: data.split(split)[:count] for split, count in checked_limits(limits).items()}
    return dataclasses.replace(data, **cuts)  # type: ignore[arg-type, unused-ignore]


@dataclass
class Bench:
    """What runs on one model and one domain share: loaded, cut and hashed once.

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
    enough: Callable[[nn.Module, int], bool] | None = None,
) -> tuple[nn.Module, Record]:
    """Unlearn and evaluate: (the unlearned model, its record). `bench.model` stays as it is.

    A run whose loss or gradient becomes non-finite stops before that update reaches the
    parameters; its record says "diverged" and at which update, and carries the metrics of the
    last finite parameters.

    `enough(model, u)`, asked after each update u, may end the run early. Its record is then that
    of the run with so many updates, which makes the same ones.

    With several processes all must call this alike. Where `Execution.shard` divides the model,
    the model that comes back is whole again, on the CPU.

    With `lora_rank` the model that comes back has the adapter added to its weights, and the adapter
    alone as its attribute `lora_adapter` (see `lora.save_adapter`).
    """
    started = time.time()
    method = get_method(spec.method)
    if enough is not None and (spec.schedule != "constant" or spec.warmup or spec.requests > 1):
        raise UnlearnError(
            f"a run with schedule {spec.schedule!r}, warmup {spec.warmup} and {spec.requests} "
            "requests cannot be ended early: its first updates are not those of a shorter run."
        )
    requests = _requests(bench.forgotten(spec), spec.requests)
    retain = _retain(bench, spec, method)
    bench.evaluated(spec)  # what cannot be cut or asked shows before anything is changed
    for split in ("forget", "approximate"):
        bench.questions(split, spec.forget_size if split == "forget" else None)
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
    adapter = None
    try:
        first = _probe(bench, model, spec) if spec.probe_every else {}
        trained = time.time()
        outcome = Outcome()
        for number, forget in enumerate(requests):
            if not (spec.updates and spec.learning_rate) or outcome.diverged_at is not None:
                break
            _forget(bench, model, spec, method, number, forget, retain, outcome, enough)
        made = len(outcome.trajectory)
        ended = enough is not None and outcome.diverged_at is None and 0 < made < spec.updates
        if ended and spec.probe_every and made % spec.probe_every:
            # The shorter run looks at its last update.
            outcome.trajectory[-1].update(_probe(bench, model, spec))
        model.zero_grad(set_to_none=True)  # as large as the model, and no part of what is returned
        if attached is not None:
            adapter = lora.take_off(model, attached)
    finally:  # interrupted, a model changed in place is the original one again
        if attached is not None and adapter is None:
            lora.drop(model, attached)
    if enough is not None and outcome.diverged_at is None:
        spec = spec.replace(updates=len(outcome.trajectory))
    seconds_training = time.time() - trained
    model.eval()
    metrics, documents, scores = evaluate(bench, model, spec)
    if divided:
        model = gather(model)
    if adapter is not None:
        model.__dict__["lora_adapter"] = adapter
    diverged_at = outcome.diverged_at
    if diverged_at is None and outcome.trajectory and any(map(_has_nan, scores.values())):
        # The last step did it: no later loss was there to show it.
        diverged_at = spec.updates * len(requests)
    trajectory = ([{"update": 0.0, **first}] if first else []) + outcome.trajectory
    record = Record(
        key=key_of(bench, spec),
        kind="run",
        status="done" if diverged_at is None else "diverged",
        spec=spec.as_dict(),
        data_hash=bench.data_hash,
        model_hash=bench.model_hash,
        metrics=metrics,
        trajectory=[_row(row) for row in trajectory],
        documents=documents,
        diverged_at=diverged_at,
        extra={
            "tokens": outcome.tokens,
            "flops": cost.run_flops(bench.model, outcome.tokens, adapter_size, outcome.recalled),
            **({"trained_parameters": adapter_size} if attached else {}),
        },
        provenance=provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=str(device),
            command=command or command_of(spec),
            packages=("peft",) if attached else (),
            seconds_training=seconds_training,
            peak_memory_bytes=peak_memory_bytes(device),
        ),
    )
    return model, record


def _several_processes() -> bool:
    from accelerate import PartialState

    return bool(PartialState().num_processes > 1)


def warn_of_data(bench: Bench, spec: RunSpec) -> None:
    """Log what of a user's data works against the run: texts in two sets, or never drawn."""
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
    """The chunks in `count` requests: documents in their order, divided as evenly as can be."""
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
    method: Method,
    request: int,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    outcome: Outcome,
    enough: Callable[[nn.Module, int], bool] | None,
) -> None:
    """One request: its updates, and what they report added to `outcome`.

    What a term keeps of "the original model" is of the model as the request found it.
    """
    seed = spec.seed + request
    before = request * spec.updates
    common: dict[str, Any] = {
        "special": bench.special,
        "vocabulary": bench.vocabulary,
        "seed": seed,
        "alignment": spec.label_alignment,
        "execution": bench.execution,
    }
    # Later requests look at the model as they found it, which has the adapter on.
    at_hand = bool(spec.lora_rank) and request == 0
    everything = range(len(forget))
    parts = [_part("forget", model, forget, everything, method.forget, 1.0, common, at_hand)]
    if method.retain is not None and spec.retain_weight > 0:
        used = _needed(retain, spec, seed)
        weight = spec.retain_weight
        parts.append(_part("retain", model, retain, used, method.retain, weight, common, at_hand))

    def each(update: int) -> dict[str, float]:
        last = update == spec.updates
        due = spec.probe_every and ((before + update) % spec.probe_every == 0 or last)
        return _probe(bench, model, spec) if due else {}

    result = optimise(
        model,
        parts,
        updates=spec.updates,
        batch_size=spec.batch_size,
        rate=spec.rate,
        seed=seed,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        execution=bench.execution,
        optimizer=spec.optimizer,
        checkpoint=_checkpoint(bench, spec),
        each=each,
        enough=None if enough is None else functools.partial(enough, model),
        description=f"{spec.domain} {spec.method}",
    )
    outcome.trajectory += [row | {"update": row["update"] + before} for row in result.trajectory]
    outcome.tokens += result.tokens
    outcome.recalled += result.recalled
    if result.diverged_at is not None:
        outcome.diverged_at = before + result.diverged_at


def _part(
    name: str,
    model: nn.Module,
    chunks: Sequence[Chunk],
    used: Sequence[int],
    term: Term,
    weight: float,
    common: Mapping[str, Any],
    at_hand: bool,
) -> Part:
    """A part with what its term keeps of the original model at the chunks of numbers `used`.

    Where the original is at hand (`at_hand`: the model without its adapter), hidden states are
    computed anew in each micro-batch instead of kept: tokens x hidden numbers, which for a large
    model and long documents is more than the rest of a small computer's memory. It costs a forward
    pass per use, as many operations as keeping while no chunk comes twice, and half as many again
    as training on the chunk with an adapter. Labels are small, and are kept.
    """
    if at_hand and term.needs_original and used:
        (sample,) = keep_original(model, [chunks[used[0]]], term, **common)
        if sample is not None and sample.is_floating_point():
            recall = functools.partial(_recall, model, term, dict(common))
            return Part(name, chunks, term, weight, recall=recall)
    kept: list[torch.Tensor | None] = [None] * len(chunks)
    made = keep_original(model, [chunks[i] for i in used], term, **common)
    for index, tensor in zip(used, made, strict=True):
        kept[index] = tensor
    return Part(name, chunks, term, weight, kept)


def _recall(
    model: nn.Module, term: Term, common: Mapping[str, Any], chunks: Sequence[Chunk]
) -> list[torch.Tensor | None]:
    """What `term` keeps of the model without its adapter, left on the model's device."""
    device = next(model.parameters()).device
    with lora.adapter_off(model):
        return keep_original(model, chunks, term, place=device, **common)


def _checkpoint(bench: Bench, spec: RunSpec) -> Checkpoint | None:
    """Where a run leaves its state, if it is to: in the user's cache, named by the run's key.

    A run of several requests leaves none: its later requests start from a model that no
    checkpoint of this request holds.
    """
    if not bench.execution.save_every or spec.requests > 1:
        return None
    key = key_of(bench, spec)
    return Checkpoint(cache_folder() / "checkpoints" / f"{key}.safetensors", key)


def _needed(retain: Sequence[Chunk], spec: RunSpec, seed: int) -> list[int]:
    """Which retain chunks the run will meet: only these need the original's hidden states."""
    from itertools import islice

    from unlearnlib.engine import order

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


def sources(
    profile: str,
    domain: str,
    model: str | Path | None = None,
    oracle: str | Path | None = None,
    own: bool = False,
    base: str = "vanilla",
) -> tuple[str | Path, str | Path | None]:
    """Where a bench's model and oracle come from; `own` says that the documents are a user's.

    `base` is a spec's: "published" is the model that a profile's vanilla was trained further from.
    """
    from unlearnlib.continued import continued_checkpoint

    scale = get_profile(profile)
    if model is not None and not str(model).strip():
        raise UnlearnError(f"the model is {model!r}: give a folder or a hub id, or leave it out.")
    if base == "published":
        if not scale.continued:
            raise UnlearnError(
                f"base is {base!r}, and the model of profile {profile!r} was not trained further: "
                "leave base at 'vanilla', or take the profile open or open_cpu."
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
    model: str | Path | None = None,
    oracle: str | Path | None = None,
    folder: str | Path | None = None,
    limits: Mapping[str, int] | None = None,
    data: DomainData | None = None,
    length: int | None = None,
    device: str = "cpu",
    precision: str | None = None,
    execution: Execution | None = None,
    base: str = "vanilla",
) -> Bench:
    """Load a profile's model, tokenizer, data and (where there is one) oracle.

    `precision` is by default that of the profile's studies.
    A `model` of one's own has no oracle but the one given with it; nor has the published model
    (`base`, of a spec).
    """
    scale = get_profile(profile)
    own = data is not None
    precision = precision or scale.precision
    data = data or load_domain(profile, domain, folder, limits)
    source, retrained = sources(profile, domain, model, oracle, own, base)
    vanilla, tokenizer = load_model(source, precision, device), load_tokenizer(source)
    if not own:
        data = clipped(profile, data, tokenizer)
    return Bench(
        vanilla,
        tokenizer,
        data,
        length or scale.length,
        scale.prefix,
        load_model(retrained, precision, device) if retrained else None,
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
    from unlearnlib.corpus.files import split_general
    from unlearnlib.models import check_head, check_loaded, check_reach, disable_dropout

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
    general_retain, general_evaluation = split_general(as_documents(general, "general"))
    data = DomainData(
        YOURS,
        as_documents(forget, "forget"),
        as_documents(retain, "retain"),
        as_documents(approximate, "approximate"),
        tuple(general_retain),
        tuple(general_evaluation),
        source="texts",
    )
    dtype = next(model.parameters()).dtype
    precision = {v: k for k, v in DTYPES.items()}.get(dtype, "float32")
    if dtype not in DTYPES.values() and "precision" not in settings:
        logger.warning("the model is %s, which is not trained in: it becomes float32", dtype)
    spec = RunSpec().replace(
        domain=YOURS,
        method=method,
        learning_rate=learning_rate,
        updates=updates,
        batch_size=batch_size,
        retain_weight=retain_weight,
        seed=seed,
        length=length,
        **{"precision": precision, **settings},
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
