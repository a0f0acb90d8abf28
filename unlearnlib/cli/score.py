"""`unlearn score`: the metrics of a model on documents."""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib.cli.arguments import (
    chosen_execution,
    chosen_tasks,
    file_to_write,
    hush_transformers,
    named_columns,
    write_output,
)
from unlearnlib.cli.inputs import chunk_length
from unlearnlib.cli.output import Report, columns
from unlearnlib.corpus.chunks import Chunk, cut, left_out
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import check_column, iterate_documents
from unlearnlib.corpus.hub_rows import is_hub
from unlearnlib.decoder import check_reach
from unlearnlib.devices import choose_device
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.membership import attack_scores, auc, bootstrap_auc, membership
from unlearnlib.metrics.perplexity import accuracy, chunk_perplexity, perplexity
from unlearnlib.models import load_model, load_tokenizer, model_config
from unlearnlib.report.card import task_score_rows
from unlearnlib.scoring import score_chunks
from unlearnlib.tasks import run_tasks

if TYPE_CHECKING:
    from unlearnlib.metrics.scores import TokenScores

logger = logging.getLogger(__name__)


def score_command(args: argparse.Namespace) -> Report:
    """Perplexity, accuracy and the attacks' scores of texts; AUCs of members and non-members."""
    _check_sets(args)
    out = file_to_write(args.out, "--out", args.force)
    paths = _paths(args)
    tasks = chosen_tasks(args.tasks, args.task_limit, args.confirm_unsafe_code)
    device = choose_device(args.device)
    hush_transformers()
    tokenizer = load_tokenizer(args.model if args.tokenizer is None else args.tokenizer)
    length = chunk_length(model_config(args.model), args.length, None)
    counts: Counter[str] = Counter()
    chunks = {
        name: cut(
            _read_all(name, of_set, args, counts),
            tokenizer,
            length,
            name=name,
            bos_every_chunk=args.bos_every_chunk,
        )
        for name, of_set in paths.items()
    }
    for name, parts in chunks.items():
        if sentence := left_out(parts):
            logger.info("%s: %s", name, sentence)
    model: Any = load_model(args.model, args.precision, device)
    precision = str(model.dtype).removeprefix("torch.")
    whose = "the model's own precision" if args.precision is None else "as asked"
    logger.info("scoring in %s, %s", precision, whose)
    check_reach(model, [chunk.tokens for parts in chunks.values() for chunk in parts])
    execution = chosen_execution(args)
    scores = {
        name: score_chunks(model, parts, execution=execution, name=name)
        for name, parts in chunks.items()
    }
    _check_numbers(scores, precision)
    if out is not None:
        buffer = io.BytesIO()
        scores["texts"].save(buffer)
        write_output(out, buffer.getvalue(), "--out", args.force)
    values: dict[str, Any] = {
        "model": args.model,
        "precision": precision,
        "length": length,
        "out": out,
        "sets": {},
    }
    for name, token_scores in scores.items():
        values["sets"][name] = {
            "documents": counts[name],
            **_score_values(token_scores),
            "per_document": _document_rows(token_scores, chunks[name]),
        }
    tables = [_sets_table(values["sets"])] if scores else []
    if tasks is not None:
        values["tasks"] = run_tasks(model, tokenizer, tasks, progress=not args.quiet)
        tables.append(_tasks_table(values["tasks"]))
    if args.members is not None:
        values["membership"] = membership(scores["members"], scores["non_members"])
        tables.append(_membership_table(values["membership"]))
        sides = (values["sets"][name]["per_document"] for name in ("members", "non_members"))
        values["membership_of_documents"] = _document_membership(*sides)
        tables.append(_document_table(values["membership_of_documents"]))
    return Report(values, "\n\n".join(tables))


def _check_numbers(scores: Mapping[str, TokenScores], precision: str) -> None:
    """`UnlearnError` where a model says no number: in float16 more than 65,504 is infinite."""
    for name, values in scores.items():
        if np.isnan(values.logprob).any():
            remedy = "give --precision float32" if precision != "float32" else "take another model"
            raise UnlearnError(
                f"in {precision} the model gives no numbers for the set {name!r}: {remedy}."
            )


def _check_sets(args: argparse.Namespace) -> None:
    """Whether there is something to score, and all that it takes."""
    if not args.texts and args.members is None and not args.tasks:
        raise UnlearnError(
            "there is nothing to score: give files, --members and --non-members, or --tasks."
        )
    if (args.members is None) != (args.non_members is None):
        lacking = "--non-members" if args.non_members is None else "--members"
        raise UnlearnError(f"{lacking} is missing: membership inference compares two sets.")
    if args.out is not None and not args.texts:
        raise UnlearnError(f"--out {args.out!r} is for the scores of texts: give some files.")


def _paths(args: argparse.Namespace) -> dict[str, list[str]]:
    """The files of each set that is given: texts, members, non_members."""
    if len(set(args.texts)) < len(args.texts):
        raise UnlearnError(f"a file is given twice among {', '.join(args.texts)}: give each once.")
    sides = {"members": args.members, "non_members": args.non_members}
    given = {name: [path] for name, path in sides.items() if path is not None}
    if args.texts:
        given = {"texts": args.texts, **given}
    check_column([path for paths in given.values() for path in paths], **named_columns(args))
    return given


def _sets_table(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per score, a column per set."""
    plain = ("documents", "chunks", "tokens", "perplexity", "accuracy")
    rows = [(key, *(values[key] for values in sets.values())) for key in plain]
    attacks = next(iter(sets.values()))["attacks"]
    rows += [(name, *(values["attacks"][name] for values in sets.values())) for name in attacks]
    return columns(("score", *sets), rows)


def _tasks_table(metrics: Mapping[str, float]) -> str:
    """A row per task and measure."""
    return columns(("task", "score"), [(row[0], row[2]) for row in task_score_rows({}, metrics)])


def _membership_table(attacks: Mapping[str, Mapping[str, float]]) -> str:
    """A row per attack, a column per measure."""
    header = ("attack", *next(iter(attacks.values())))
    rows = [(attack, *measures.values()) for attack, measures in attacks.items()]
    return f"{columns(header, rows)}\nAUC is unflipped: 0.5 is chance."


def _document_table(attacks: Mapping[str, Mapping[str, float]]) -> str:
    """A row per attack: the AUC over documents, and its interval."""
    rows = [(attack, *measures.values()) for attack, measures in attacks.items()]
    return (
        f"{columns(('attack', 'AUC of documents', 'from', 'to'), rows)}\n"
        "Documents are counted, by the means of their chunks; the interval holds 95 %."
    )


def _read_all(
    name: str, paths: Sequence[str], args: argparse.Namespace, counts: Counter[str]
) -> Iterator[Document]:
    """The documents of a set's files, one after another, and counted; none is kept.

    Names get the path in front where there are several.
    """
    for path in paths:
        prefix = f"{path if is_hub(path) else Path(path).as_posix()}:" if len(paths) > 1 else ""
        for document in iterate_documents(path, **named_columns(args)):
            counts[name] += 1
            yield dataclasses.replace(document, id=prefix + document.id)


def _score_values(scores: TokenScores) -> dict[str, Any]:
    """The numbers that `unlearn score` gives for one set; attacks are means over chunks."""
    filled = [i for i, n in enumerate(scores.lengths.tolist()) if n]
    attacks = attack_scores(scores.select(filled))
    return {
        "chunks": len(scores),
        "tokens": int(scores.lengths.sum()),
        "perplexity": perplexity(scores),
        "chunk_perplexity": chunk_perplexity(scores),
        "accuracy": accuracy(scores),
        "attacks": {name: float(values.mean()) for name, values in attacks.items()},
    }


def _document_rows(scores: TokenScores, chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """What each document scored: its chunks, its tokens, its perplexity, and the attacks' scores.

    An attack's is the mean over the document's chunks. Documents too short for a chunk are not
    among them.
    """
    filled = [i for i, n in enumerate(scores.lengths.tolist()) if n]
    owners = [chunks[i].document for i in filled]
    kept = scores.select(filled)
    means, lengths = kept.chunk_means(kept.logprob), kept.lengths
    attacks = attack_scores(kept)
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner, []).append(place)
    return [
        {
            "id": name,
            "chunks": len(own),
            "tokens": int(lengths[own].sum()),
            "perplexity": float(np.exp(-np.average(means[own], weights=lengths[own]))),
            "attacks": {attack: float(values[own].mean()) for attack, values in attacks.items()},
        }
        for name, own in places.items()
    ]


def _document_membership(
    members: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """attack -> {auc, low, high}: over documents, since chunks of one are alike."""
    found = {}
    for attack in members[0]["attacks"]:
        inside, outside = (
            np.array([row["attacks"][attack] for row in rows]) for rows in (members, others)
        )
        low, high = bootstrap_auc(inside, outside)
        found[attack] = {"auc": auc(inside, outside), "low": low, "high": high}
    return found
