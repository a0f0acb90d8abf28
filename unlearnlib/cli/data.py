"""`unlearn data`: count, show, fetch and export the documents of a profile."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearnlib.cli.arguments import chosen_domains, chosen_limits, hush_transformers, write_output
from unlearnlib.cli.inputs import check_named, is_own, own_documents
from unlearnlib.cli.output import Report, columns
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.corpus.public import fetch
from unlearnlib.corpus.tokens import encode
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import FROM_SCRATCH
from unlearnlib.models import load_tokenizer
from unlearnlib.pretrain import lab_tokenizer, recipe_of
from unlearnlib.profiles import YOURS, get_profile, load_domain
from unlearnlib.text import printable

logger = logging.getLogger(__name__)


def data_command(args: argparse.Namespace) -> Report:
    """Documents, characters and tokens per split of a profile or of files; fetch or export them."""
    profile, limits = get_profile(args.profile), chosen_limits(args.limit)
    own = is_own(args.files, None)
    check_named(args)
    if own:
        _check_own(args)
    domains = (YOURS,) if own else chosen_domains(args.profile, args.domain)
    if args.fetch is not None and profile.corpus != "public":
        raise UnlearnError(
            f"profile {args.profile!r} has no public texts to fetch: use --profile open."
        )
    if args.export is not None:
        _check_export(Path(args.export), domains, args.force)
    if args.fetch is not None:
        fetch(args.fetch, domains, progress=not args.quiet)
    hush_transformers()
    folder = args.fetch or args.corpora
    sets = (
        [own_documents(args, limits)]
        if own
        else [load_domain(args.profile, domain, folder, limits) for domain in domains]
    )
    tokenizer = _tokenizer(args.model if args.tokenizer is None else args.tokenizer, profile.model)
    statistics = [row for data in sets for row in _statistics(data, tokenizer)]
    values: dict[str, Any] = {"profile": args.profile, "statistics": statistics}
    header = ("domain", "split", "documents", "characters", "tokens", "facts")
    text = columns(header, [[row[name] for name in header] for row in statistics])
    if args.export is not None:
        files = [file for data in sets for file in _export(Path(args.export), data, args.force)]
        values["exported"] = [str(file) for file in files]
        text += f"\nwrote {len(files)} files in {args.export}"
    if args.show is not None:
        values["shown"] = [row for data in sets for row in _first_documents(data, args.show)]
        text += "".join(
            f"\n\n--- {row['domain']}, {row['split']}: {printable(row['id'])}\n"
            # Lines and tabs stay; what would steer the terminal is spelt.
            + "".join(c if c in "\n\t" else printable(c) for c in _shown(row))
            for row in values["shown"]
        )
    return Report(values, text)


def _check_own(args: argparse.Namespace) -> None:
    """`UnlearnError` for what does not go with files of the user's own."""
    for name in ("domain", "corpora", "fetch"):
        if getattr(args, name):
            raise UnlearnError(
                f"--{name} is given together with files of your own: leave out one of the two."
            )
    if "forget" not in args.files:
        raise UnlearnError("--forget is missing: of your own documents it is always given.")


def _statistics(data: DomainData, tokenizer: Any) -> list[dict[str, Any]]:
    """Counts per split; None for tokens without a tokenizer."""
    return [
        {
            "domain": data.domain,
            "split": split,
            "documents": len(documents),
            "characters": sum(len(d.text) for d in documents),
            "tokens": None if tokenizer is None else _tokens(tokenizer, documents),
            "facts": sum(len(d.facts) for d in documents),
        }
        for split, documents in ((split, data.split(split)) for split in SPLITS)
    ]


def _first_documents(data: DomainData, count: int) -> list[dict[str, str]]:
    """The first `count` documents of every split."""
    return [
        {"domain": data.domain, "split": split, **_shown_values(document)}
        for split in SPLITS
        for document in data.split(split)[:count]
    ]


def _shown_values(document: Document) -> dict[str, str]:
    """The id and the text of a document, and its prompt, if there is one, as one string."""
    prompt = document.prompt
    if not isinstance(prompt, str):
        prompt = "\n".join(f"[{role}] {said}" for role, said in prompt)
    return {"id": document.id, **({"prompt": prompt} if prompt else {}), "text": document.text}


def _shown(row: dict[str, str]) -> str:
    return f"{row['prompt']}\n=> {row['text']}" if "prompt" in row else row["text"]


def _tokenizer(source: str | None, of_profile: str) -> Any:
    """The tokenizer of the source given or of the profile; None, with a warning, without one."""
    if source is not None:
        return load_tokenizer(source)
    try:
        return load_tokenizer(of_profile)
    except UnlearnError as error:
        if of_profile in FROM_SCRATCH:
            return lab_tokenizer(recipe_of(of_profile))
        logger.warning("tokens are not counted: %s", error)
        return None


def _tokens(tokenizer: Any, documents: Sequence[Document]) -> int:
    return sum(len(encode(d.text, tokenizer, f"the document {d.id!r}")) for d in documents)


def _export_files(folder: Path, domain: str) -> dict[str, Path]:
    return {split: folder / domain / f"{split}.jsonl" for split in SPLITS}


def _check_export(folder: Path, domains: Sequence[str], force: bool) -> None:
    for domain in domains:
        for file in _export_files(folder, domain).values():
            if file.exists() and not force:
                raise UnlearnError(f"{file} exists: export to another folder, or give --force.")


def _row(document: Document) -> dict[str, Any]:
    """A document as a row; without a prompt there is no column for one."""
    row = dataclasses.asdict(document)
    if not document.prompt:
        del row["prompt"]
    elif not isinstance(document.prompt, str):
        row["prompt"] = [{"role": role, "content": said} for role, said in document.prompt]
    return row


def _export(folder: Path, data: DomainData, force: bool) -> list[Path]:
    """Write the splits that have documents; returns the files."""
    files = []
    for split, file in _export_files(folder, data.domain).items():
        documents = data.split(split)
        if not documents:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_row(d), ensure_ascii=False) + "\n" for d in documents]
        write_output(file, "".join(lines).encode("utf-8"), "--export", force)
        files.append(file)
    return files
