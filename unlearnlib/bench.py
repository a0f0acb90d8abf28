"""The bench: a model, its tokenizer, a domain's data and the oracle, loaded once for many runs.

`open_bench` loads them; `evaluate` computes every metric of a model on that data.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from unlearnlib.corpus.chunks import Chunk, cut, last_word
from unlearnlib.corpus.documents import Document, DomainData
from unlearnlib.decoder import check_tokens, head_of
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import FROM_SCRATCH
from unlearnlib.identity import config_hash, oracle_hash, tokenizer_hash
from unlearnlib.metrics import summarise
from unlearnlib.metrics.distance import mean_kl
from unlearnlib.metrics.extraction import verbatim_share
from unlearnlib.metrics.membership import attack_scores, auc, loss_score, min_k, min_k_plus_plus
from unlearnlib.metrics.perplexity import perplexity
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.metrics.utility import cloze, last_word_accuracy
from unlearnlib.models import load_model, load_tokenizer, model_hash, weights_in_memory, weights_of
from unlearnlib.profiles import PROFILES, clipped, get_profile, load_domain
from unlearnlib.scoring import Reference, cloze_chunks, score_chunks
from unlearnlib.spec import RunSpec
from unlearnlib.store.record import Basis, run_key
from unlearnlib.trained import lab_checkpoint, made_checkpoint

EVALUATED = ("forget", "approximate", "retain", "general")
RETAIN_SHARE = 1  # retain chunks evaluated per forget document: enough for a mean
QUESTIONED = 32  # documents per split whose facts are asked for: a hundred questions or so
# Splits on which distances to the oracle are measured, and membership is inferred.
COMPARED_SPLITS = ("forget", "approximate")
KEPT_ATTACKS = ("loss", "zlib", "min_k_20", "min_k_40", "min_k_pp_20", "min_k_pp_40")
PROBED_ATTACKS: dict[str, Callable[[TokenScores], np.ndarray]] = {
    "min_k_40": functools.partial(min_k, k=0.4),
    "min_k_pp_20": functools.partial(min_k_plus_plus, k=0.2),
    "loss": loss_score,
}


@dataclass
class Bench:
    """What all runs on one model and one domain share: loaded, cut and hashed once.

    model      the model before unlearning, on its device; runs work on copies of it
    oracle     the exactly retrained model, where there is one
    length     tokens per chunk, where a spec does not say
    prefix     target tokens given before verbatim extraction is measured
    source     where the model came from, as the user named it
    weights    which weights those are, with their hash (see `models.weights_of`)
    """

    model: nn.Module
    tokenizer: Any
    data: DomainData
    length: int
    prefix: int = 32
    oracle: nn.Module | None = None
    execution: Execution = field(default_factory=Execution)
    source: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.execution.autocast:
            raise UnlearnError(
                "the execution has autocast, which changes results: it is for training a model "
                "further, so leave it out."
            )
        weights = (self.model,) if self.oracle is None else (self.model, self.oracle)
        hashes = [(model_hash(m), config_hash(getattr(m, "config", None))) for m in weights]
        self.weights = {**(self.weights or weights_in_memory(self.model)), "hash": hashes[0][0]}
        self._hashes = {
            "data_hash": self.data.hash(),
            "model_hash": hashes[0][0],
            "config_hash": hashes[0][1],
            "tokenizer_hash": tokenizer_hash(self.tokenizer, prompts=self.data.has_prompts),
            "oracle_hash": "" if self.oracle is None else oracle_hash(*hashes[1]),
        }
        self.special = frozenset(int(t) for t in self.tokenizer.all_special_ids)
        # A tokenizer may have been given tokens that the model was not resized for.
        self.vocabulary = min(len(self.tokenizer), head_of(self.model).weight.shape[0])
        self._chunks: dict[tuple[str, int, bool], list[Chunk]] = {}
        self._cloze: dict[tuple[str, tuple[str, ...]], tuple[list[Chunk], np.ndarray]] = {}
        self._references: dict[tuple[int, bool], Reference] = {}
        self._last_words: dict[tuple[Sequence[int], int], tuple[int, int]] = {}

    @property
    def basis(self) -> Basis:
        """What the numbers of a run rest on, beside its spec."""
        return Basis(**self._hashes, length=self.length, prefix=self.prefix)

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights that runs start from."""
        return self.basis.model_hash

    @property
    def data_hash(self) -> str:
        """SHA-256 of the data."""
        return self.basis.data_hash

    def chunks(
        self, split: str, length: int | None = None, bos_every_chunk: bool = False
    ) -> list[Chunk]:
        """The chunks of one of `SPLITS`."""
        key = (split, length or self.length, bos_every_chunk)
        if key not in self._chunks:
            made = cut(
                self.data.split(split),
                self.tokenizer,
                key[1],
                name=split,
                bos_every_chunk=bos_every_chunk,
            )
            self._check_known(made)
            self._chunks[key] = made
        return self._chunks[key]

    def _check_known(self, chunks: Sequence[Chunk]) -> None:
        model: Any = self.model
        rows = model.get_input_embeddings().weight.shape[0]
        check_tokens(rows, [chunk.tokens for chunk in chunks])

    def forgotten(self, spec: RunSpec) -> list[Chunk]:
        """The chunks of the documents that the run forgets."""
        names = {document.id for document in spec.forgets(self.data.forget)}
        chunks = [
            c
            for c in self.chunks("forget", spec.length, spec.bos_every_chunk)
            if c.document in names
        ]
        if not chunks:
            raise UnlearnError("the forget set is empty: give at least one document to forget.")
        return chunks

    def evaluated(self, spec: RunSpec | None = None) -> dict[str, list[Chunk]]:
        """The chunks of each split of `EVALUATED` that there is."""
        spec = spec or RunSpec()
        how = spec.length, spec.bos_every_chunk
        sets = {
            "forget": self.forgotten(spec),
            "approximate": self.chunks("approximate", *how),
            "retain": self.chunks("retain", *how)[: RETAIN_SHARE * len(self.data.forget)],
            "general": self.chunks("general_evaluation", *how),
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

    def questions(self, split: str, spec: RunSpec | None = None) -> tuple[list[Chunk], np.ndarray]:
        """Cloze chunks of the facts in the documents of `questioned`."""
        key = tuple(document.id for document in self.questioned(split, spec))
        if (split, key) not in self._cloze:
            made = cloze_chunks(self.questioned(split, spec), self.tokenizer)
            self._check_known(made[0])
            self._cloze[split, key] = made
        return self._cloze[split, key]

    def questioned(self, split: str, spec: RunSpec | None = None) -> tuple[Document, ...]:
        """The documents whose facts are asked for: the first `QUESTIONED`, as far as forgotten."""
        documents = self.data.split(split)
        if spec is not None and split == "forget":
            documents = spec.forgets(documents)
        return documents[:QUESTIONED]

    def reference(self, spec: RunSpec | None = None) -> Reference | None:
        """The oracle's distributions on forget and approximate chunks."""
        if self.oracle is None:
            return None
        how = (
            (spec.length if spec else None) or self.length,
            spec.bos_every_chunk if spec else False,
        )
        if how not in self._references:
            chunks = self.chunks("forget", *how) + self.chunks("approximate", *how)
            self._references[how] = Reference(self.oracle, chunks)
        return self._references[how]


def evaluate(
    bench: Bench, model: nn.Module, spec: RunSpec | None = None
) -> tuple[dict[str, float], dict[str, dict[str, list[Any]]], dict[str, TokenScores]]:
    """All metrics of `model` on the bench's data: (metrics, per-chunk scores, token scores).

    Where a model that diverged gives NaN for a split, all that is computed from that split is
    NaN, under the same names.
    """
    quiet = _quiet(bench)
    scores = score_splits(bench, model, spec)
    broken = {split for split, values in scores.items() if has_nan(values)}
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
        chunks, starts = bench.questions(split, spec)
        if chunks:
            asked = score_chunks(model, chunks, execution=quiet)
            facts = sum(len(document.facts) for document in bench.questioned(split, spec))
            for name, value in cloze(asked, starts, len(chunks) // facts).items():
                metrics[f"{split}/cloze_{name}"] = value
    for name in metrics:
        words = set(name.split("/"))
        if broken & (words | ({"forget", "approximate"} if "membership" in words else set())):
            metrics[name] = float("nan")
    documents = {s: _columns(s, values, bench.prefix, s in broken) for s, values in scores.items()}
    read = {document.id: document.exposure for document in bench.data.forget}
    if any(read.values()):
        chunks = bench.evaluated(spec)["forget"]
        documents["forget"]["exposure"] = [read[chunk.document] for chunk in chunks]
    return metrics, documents, scores


def score_splits(
    bench: Bench,
    model: nn.Module,
    spec: RunSpec | None = None,
    compared: Sequence[str] = COMPARED_SPLITS,
) -> dict[str, TokenScores]:
    """The scores of each split of `EVALUATED`, those of `compared` with the distance to the oracle.

    One forward pass over each.
    """
    reference, quiet = bench.reference(spec), _quiet(bench)
    return {
        split: score_chunks(
            model,
            chunks,
            reference=reference if split in compared else None,
            execution=quiet,
        )
        for split, chunks in bench.evaluated(spec).items()
    }


def _quiet(bench: Bench) -> Execution:
    """How a bench's models are scored: as they are trained, without bars."""
    return Execution(bench.execution.micro_tokens, bench.execution.micro_chunks, progress=False)


def _columns(split: str, scores: TokenScores, prefix: int, broken: bool) -> dict[str, list[Any]]:
    """What a record keeps of each chunk of a split; `broken` says that the model gave NaN."""
    columns = {
        "id": list(scores.ids),
        "tokens": scores.lengths.tolist(),
        "nll": _short(chunk_nll(scores)),
    }
    if split in COMPARED_SPLITS:
        nothing = np.full(len(scores), np.nan)
        attacks = dict.fromkeys(KEPT_ATTACKS, nothing) if broken else attack_scores(scores)
        columns.update({name: _short(attacks[name]) for name in KEPT_ATTACKS})
        columns["verbatim"] = _short(nothing if broken else verbatim_share(scores, prefix))
        if scores.kl is not None:
            columns["kl"] = _short(scores.chunk_means(scores.kl))
    return columns


def chunk_nll(scores: TokenScores) -> np.ndarray:
    """(C,) mean negative log-likelihood of each chunk's targets, in nats."""
    return -scores.chunk_means(scores.logprob)


def columns_before(scores: Mapping[str, TokenScores]) -> dict[str, dict[str, list[float]]]:
    """What the record of a run that stops early keeps of an earlier probe, by split."""
    columns = {split: {"nll_before": _short(chunk_nll(one))} for split, one in scores.items()}
    for split, one in scores.items():
        if one.kl is not None:
            columns[split]["kl_before"] = _short(one.chunk_means(one.kl))
    return columns


def has_nan(scores: TokenScores) -> bool:
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


def probe_scores(bench: Bench, model: nn.Module, spec: RunSpec) -> dict[str, TokenScores]:
    """The scores that a probe is made of.

    A run that stops at the retrained model keeps its distance on the approximate set, too.
    """
    stops = spec.stop != "end"
    return score_splits(bench, model, spec, COMPARED_SPLITS if stops else ("forget",))


def probe_metrics(scores: Mapping[str, TokenScores]) -> dict[str, float]:
    """The few metrics that a trajectory shows after an update."""
    out = {f"{split}/perplexity": perplexity(one) for split, one in scores.items()}
    if "approximate" in scores:
        broken = any(has_nan(one) for split, one in scores.items() if split != "retain")
        for name, attack in PROBED_ATTACKS.items():
            members, others = (scores[s] for s in ("forget", "approximate"))
            value = float("nan") if broken else auc(attack(members), attack(others))
            out[f"membership/{name}/auc"] = value
    if scores["forget"].kl is not None:
        out["oracle_kl/forget"] = mean_kl(scores["forget"])
    return out


def forget_perplexity(bench: Bench, model: nn.Module, spec: RunSpec) -> float:
    """The perplexity of the chunks that a run forgets."""
    return perplexity(score_chunks(model, bench.forgotten(spec), execution=_quiet(bench)))


def check_stop(bench: Bench, spec: RunSpec) -> None:
    """`UnlearnError` for a run that is to stop at a retrained model that there is not."""
    if spec.stop == "retrained" and bench.oracle is None:
        raise UnlearnError(
            "stop is 'retrained', and there is no retrained model whose perplexity could be "
            "reached: take a profile that has one, give it as oracle, or leave stop out."
        )


def key_of(bench: Bench, spec: RunSpec) -> str:
    """The key of a run on a bench."""
    return run_key(spec.as_dict(), bench.basis)


@dataclass(frozen=True)
class Models:
    """Which models a bench has, and how they are loaded.

    model      a folder or hub id; None: the profile's
    oracle     the exactly retrained model, a folder or hub id; None: the profile's, where `model`
               is the profile's too
    base       "vanilla"; "second" for the profile's vanilla of another seed, with its oracle; or
               "published" for the model that the profile's vanilla was trained further from, which
               has no oracle of the profile
    precision  a name in `DTYPES`; None: that of the profile's studies, or the model's own with a
               user's documents
    device     that the models are loaded to: "auto", or as torch has it (see `devices`)
    tokenizer  a folder or hub id, where the model has none; None: the model's
    bits       that the linear layers are held in (4, see `quantised`); 0: in `precision`
    """

    model: str | Path | None = None
    oracle: str | Path | None = None
    base: str = "vanilla"
    precision: str | None = None
    device: str = "auto"
    tokenizer: str | Path | None = None
    bits: int = 0


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
    from unlearnlib.trained import continued_checkpoint  # which imports this file

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
    if models.base == "second":
        return (
            model or _of_second(profile, "vanilla-s1"),
            oracle or (None if model or own else _of_second(profile, f"oracle-{domain}-s1")),
        )
    if model is None and scale.continued and not own:
        return (
            continued_checkpoint(profile, "vanilla", needed=True),
            oracle or continued_checkpoint(profile, f"oracle-{domain}", needed=True),
        )
    source = model or scale.model
    if oracle is None and scale.name in FROM_SCRATCH and str(source) == scale.model and not own:
        oracle = lab_checkpoint(f"oracle-{domain}", profile)
    return source, oracle


def _of_second(profile: str, name: str) -> Path:
    """The folder of a model of the second seed; `UnlearnError` where there is none."""
    if "second" not in get_profile(profile).bases:
        having = [name for name, scale in PROFILES.items() if "second" in scale.bases]
        remedy = f", or take the profile {' or '.join(having)}" if having else ""
        raise UnlearnError(
            f"base is 'second', and profile {profile!r} has one vanilla: leave base at "
            f"'vanilla'{remedy}."
        )
    return made_checkpoint(name, profile)


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
    precision = models.precision or (None if own else scale.precision)
    data = data or load_domain(profile, domain, selection.folder, selection.limits)
    source, oracle = sources(profile, domain, models, own)
    model = load_model(source, precision, models.device, models.bits)
    tokenizer = load_tokenizer(source if models.tokenizer is None else models.tokenizer)
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
        weights_of(source),
    )
