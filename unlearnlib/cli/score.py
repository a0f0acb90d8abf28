"""`unlearn score`: the metrics of a model on documents."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.cli.arguments import (
    chosen_device,
    chosen_execution,
    chosen_tasks,
    file_to_write,
    hush_transformers,
)
from unlearnlib.cli.inputs import chunk_length
from unlearnlib.cli.output import Report, columns
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import check_column, read_documents
from unlearnlib.decoder import check_reach
from unlearnlib.errors import UnlearnError
from unlearnlib.metrics.membership import attack_scores, membership
from unlearnlib.metrics.perplexity import accuracy, chunk_perplexity, perplexity
from unlearnlib.models import load_model, load_tokenizer
from unlearnlib.report.card import task_score_rows
from unlearnlib.scoring import score_chunks
from unlearnlib.tasks import run_tasks

if TYPE_CHECKING:
    from unlearnlib.metrics.scores import TokenScores


def score_command(args: argparse.Namespace) -> Report:
    """Perplexity, accuracy and the attacks' scores of texts; AUCs of members and non-members."""
    _check_sets(args)
    out = file_to_write(args.out, "--out", args.force)
    sets = _read_sets(args.texts, args.members, args.non_members, args.column)
    tasks = chosen_tasks(args.tasks, args.task_limit, args.confirm_unsafe_code)
    device = chosen_device(args.device)
    hush_transformers()
    tokenizer = load_tokenizer(args.model)
    model: Any = load_model(args.model, device=device)
    length = chunk_length(model.config, args.length, None)
    chunks = {
        name: cut(documents, tokenizer, length, name=name) for name, documents in sets.items()
    }
    check_reach(model, [chunk.tokens for parts in chunks.values() for chunk in parts])
    execution = chosen_execution(args)
    scores = {
        name: score_chunks(model, parts, execution=execution, name=name)
        for name, parts in chunks.items()
    }
    if out is not None:
        scores["texts"].save(out)
    values: dict[str, Any] = {"model": args.model, "length": length, "out": out, "sets": {}}
    for name, token_scores in scores.items():
        values["sets"][name] = {"documents": len(sets[name]), **_score_values(token_scores)}
    tables = [_sets_table(values["sets"])] if scores else []
    if tasks is not None:
        values["tasks"] = run_tasks(model, tokenizer, tasks, progress=not args.quiet)
        tables.append(_tasks_table(values["tasks"]))
    if args.members is not None:
        values["membership"] = membership(scores["members"], scores["non_members"])
        tables.append(_membership_table(values["membership"]))
    return Report(values, "\n\n".join(tables))


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


def _read_sets(
    texts: Sequence[str], members: str | None, non_members: str | None, column: str | None
) -> dict[str, tuple[Document, ...]]:
    """The documents of each set that is given: texts, members, non_members."""
    sets: dict[str, tuple[Document, ...]] = {}
    if texts:
        sets["texts"] = _read_all(texts, column)
    if members is not None and non_members is not None:
        sets["members"] = read_documents(members, column=column)
        sets["non_members"] = read_documents(non_members, column=column)
    return sets


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


def _read_all(paths: Sequence[str], column: str | None) -> tuple[Document, ...]:
    """The documents of several files; names get the path in front where there are several."""
    check_column(column, paths)
    if len(set(paths)) < len(paths):
        raise UnlearnError(f"a file is given twice among {', '.join(paths)}: give each once.")
    documents: list[Document] = []
    for path in paths:
        found = read_documents(path, column=column)
        prefix = f"{Path(path).as_posix()}:" if len(paths) > 1 else ""
        documents += [Document(prefix + d.id, d.text) for d in found]
    return tuple(documents)


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
