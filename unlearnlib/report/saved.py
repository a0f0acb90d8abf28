"""Writing an unlearned model, its tokenizer, its model card and its record to a folder (`save`)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import itertools
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.corpus.chunks import cut, left_out, without_chunks
from unlearnlib.corpus.documents import SPLITS
from unlearnlib.corpus.texts import TEXTS, own_data
from unlearnlib.decoder import check_loaded
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.lora import save_adapter
from unlearnlib.methods import Descent, get_method
from unlearnlib.models import earlier_weights, is_weights, save_model
from unlearnlib.profiles import get_profile
from unlearnlib.report.card import CardFacts, model_card, split_facts
from unlearnlib.run import unlearn
from unlearnlib.spec import RunSpec
from unlearnlib.store.claims import exclusive, existing, reserved, scratch_name
from unlearnlib.store.files import move_in, undisturbed
from unlearnlib.store.record import Record
from unlearnlib.text import file_name, strict_json, weights_in_words

if TYPE_CHECKING:
    from torch import nn

    from unlearnlib.bench import Bench
    from unlearnlib.corpus.chunks import Chunk
    from unlearnlib.corpus.documents import Document, DomainData

logger = logging.getLogger(__name__)

ELSEWHERE = "wait for it, or give another folder"
ADAPTER, ADAPTER_FILES = "adapter", ("adapter_config.json", "adapter_model.safetensors")
REPORTS = ("report.html", "audit.html", "audit.json")  # of an earlier model
# What is written beside weights. A tokenizer may have files of other names, see `_put_in_place`.
WRITTEN = {"README.md", "record.json", "config.json", "generation_config.json"}
WRITTEN |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


def save(
    model: nn.Module,
    tokenizer: Any,
    record: Record,
    folder: str | Path,
    texts: Mapping[str, Iterable[str | Document]] | DomainData,
    *,
    before: Mapping[str, float] | None = None,
    adapter: bool = False,
    force: bool = False,
) -> None:
    """Write an unlearned model, its tokenizer, its model card and its record to one folder.

    model, record   as `unlearn` returned them
    folder          made if it is not there
    texts           what `unlearn` got as `forget`, `retain`, `approximate` and `general`, by these
                    names, or the `DomainData` of a run. The card gives their names and SHA-256,
                    never the texts
    before          metrics of the model before unlearning, as in the record of a run with
                    `updates=0` and `in_place=False`; the card takes the target from them
    adapter         also write the adapter of a run with `lora_rank` alone, to `adapter/`. Whoever
                    has it and the model can undo the unlearning
    force           write into a folder that is not empty: weights, card and record of an earlier
                    model there are replaced, other files stay. Files of these names that are not
                    an earlier model's are refused

    The folder has safetensors, `README.md` (the card), `record.json` and the tokenizer's files;
    `transformers` loads it. All are written to a temporary folder and then moved. The card names
    the base model by `model.name_or_path`; a path is cut to its last part.

    Raises `UnlearnError` for texts that are not those of the record, an adapter that is not there,
    a folder that is not empty or cannot be written, and too little space.
    """
    check_loaded(model, tokenizer)
    _check_run(model, record, before, adapter)
    if not str(folder).strip():
        raise UnlearnError(f"folder is {str(folder)!r}: give a name.")
    data = own_data(texts)
    if data.hash() != record.data_hash:
        raise UnlearnError(
            "the texts are not those of the record: give the same ones that unlearn got, in the "
            "same order."
        )
    out, source = Path(folder), _source_of(model)
    check_out(out, force, source or None, option="folder")
    check_space(model, out, option="folder")
    length = _length(record)
    chunks = {
        name: cut(
            _used(data, name, record.spec),
            tokenizer,
            length,
            name=name,
            bos_every_chunk=record.spec.get("bos_every_chunk", False),
        )
        for name in SPLITS
    }
    name = _public_name(source) if source else (type(model).__name__, None)
    card = _facts(record, data, chunks, before or {}, name, adapter)
    with reserved(out, f"a model for folder {str(out)!r}", ELSEWHERE):
        save_unlearned(out, model, tokenizer, record, card, force=force)


def _check_run(model: Any, record: object, before: object, adapter: bool) -> None:
    """Whether these are what a run leaves behind; `UnlearnError` for what is not."""
    if not isinstance(record, Record):
        raise UnlearnError(
            f"record is a {type(record).__name__}: give the record that unlearn returned."
        )
    if before is not None and not isinstance(before, Mapping):
        raise UnlearnError(
            f"before is a {type(before).__name__}: give metrics, as in before=record.metrics."
        )
    if adapter and not hasattr(model, "lora_adapter"):
        raise UnlearnError(
            "adapter is True and the model has no adapter of its own: unlearn with lora_rank=16, "
            "or leave adapter out."
        )


def _source_of(model: Any) -> str:
    """Where `transformers` loaded a model from; "" where it does not say."""
    source = str(getattr(model, "name_or_path", "") or "")
    lab = (data_folder() / "lab").resolve()
    if source and Path(source).resolve().parent == lab:
        return f"lab/{Path(source).name}"
    return source


def check_out(out: Path, force: bool, model: str | None = None, *, option: str = "--out") -> None:
    """Whether a model can be written to `out`; leaves nothing behind.

    `model` is where the base model came from, `option` what errors call the folder.
    """
    if out.exists() and not out.is_dir():
        raise UnlearnError(f"{option} {str(out)!r} is a file: give a folder.")
    if out.is_dir():
        if model is not None and Path(model).is_dir() and out.samefile(model):
            raise UnlearnError(
                f"{option} {str(out)!r} is the folder of the base model: give another folder."
            )
        if out.resolve().is_relative_to((data_folder() / "lab").resolve()):
            raise UnlearnError(
                f"{option} {str(out)!r} is a folder of the lab's own models: give another folder."
            )
        if not force and _content(out):
            forced = "--force" if option.startswith("--") else "force=True"
            raise UnlearnError(
                f"{option} {str(out)!r} is not empty: give another folder, or {forced} to write "
                "into it."
            )
        if foreign := _foreign(out):
            raise UnlearnError(
                f"{option} {str(out)!r} has {foreign[0]}, which unlearnlib did not write: move it "
                "away, or give another folder."
            )
    place = existing(out)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".unlearn-"):
            pass
    except OSError as error:
        raise UnlearnError(
            f"{option} {str(out)!r} cannot be written ({error.strerror}): check its permissions or "
            "give another folder."
        ) from None


def _content(folder: Path) -> list[str]:
    """What is in a folder beside what processes that write there keep in it meanwhile."""
    return [item.name for item in folder.iterdir() if not item.name.startswith(".unlearn")]


def is_written(name: str) -> bool:
    """Whether a saved model has a file of this name."""
    return name in WRITTEN or is_weights(name)


def _is_ours(folder: Path) -> bool:
    """Whether `save_unlearned` wrote the record in a folder."""
    try:
        body = json.loads((folder / "record.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(body, dict) and {"format", "base_model", "record"} <= set(body)


def _foreign(folder: Path) -> list[str]:
    """Files in a folder that are not an earlier model's, and that a model would replace or load."""
    ours = _is_ours(folder)
    names = sorted(item.name for item in folder.iterdir())
    weights = [n for n in names if n.endswith((".safetensors", ".safetensors.index.json"))]
    if ours:
        return [name for name in weights if not is_weights(name)]
    return weights + [name for name in names if is_written(name) and name not in weights]


def check_space(model: Any, out: Path, *, option: str = "--out") -> None:
    """Whether the disk of `out` has room for the model's parameters."""
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(existing(out)).free
    if free < needed:
        raise UnlearnError(
            f"{option} {str(out)!r} has {free / 1e9:.1f} GB left and the model needs "
            f"{needed / 1e9:.1f} GB: free some space or give another folder."
        )


def term_in_words(term: Any) -> str:
    """What a term of the objective is, from the first line of its documentation."""
    if term is None:
        return "none"
    if isinstance(term, Descent):
        words = "cross-entropy of the true tokens"
        return f"minus {words} (gradient ascent)" if term.sign < 0 else f"{words} (descent)"
    return (inspect.getdoc(term) or type(term).__name__).splitlines()[0].rstrip(".")


def card_facts(
    bench: Bench,
    spec: RunSpec,
    record: Record,
    before: Mapping[str, float],
    adapter: bool = False,
) -> CardFacts:
    """What the model card of a run on a bench tells.

    `before` has the metrics of the model before; `adapter` says whether LoRA's stands beside it.
    """
    chunks = {
        name: (
            bench.forgotten(spec)
            if name == "forget"
            else bench.chunks(name, spec.length, spec.bos_every_chunk)
        )
        for name in SPLITS
        if bench.data.split(name)
    }
    name = _public_name(bench.source or spec.profile)
    return _facts(record, bench.data, chunks, before, name, adapter)


def _facts(
    record: Record,
    data: DomainData,
    chunks: Mapping[str, Sequence[Chunk]],
    before: Mapping[str, float],
    name: tuple[str, str | None],
    adapter: bool,
) -> CardFacts:
    """The card's facts from a record.

    `chunks` are those of each split; `name` is the base model's, see `_public_name`.
    """
    spec, provenance = record.spec, record.provenance
    method = get_method(spec["method"])
    used = {split: _used(data, split, spec) for split in SPLITS}
    term = term_in_words(method.retain)
    if method.data is not None:
        term += f", on {'retain' if method.data == 'in_distribution' else 'general'} documents"
    command, language = provenance["command"], "sh"
    if command.startswith("unlearnlib.unlearn("):
        command, language = _call(record, data), "python"
    return CardFacts(
        source=name[0],
        base_model=name[1],
        model_hash=record.model_hash,
        title=method.title,
        forget_term=term_in_words(method.forget),
        retain_term=term,
        spec=spec | {"length": _length(record)},
        splits=[
            split_facts(split, docs, len(chunks[split])) for split, docs in used.items() if docs
        ],
        before=before,
        after=record.metrics,
        command=command,
        versions=provenance["versions"],
        device=provenance["accelerator"] or provenance["device"],
        diverged_at=record.diverged_at,
        measured={split: len(rows["id"]) for split, rows in record.documents.items()},
        adapter=adapter,
        language=language,
        weights=weights_in_words(provenance.get("weights", {})),
        short={
            split: without_chunks([document.id for document in docs], chunks[split])
            for split, docs in used.items()
            if docs
        },
        ends={split: left_out(parts) for split, parts in chunks.items()},
        prompted=data.has_prompts,
    )


def _used(data: DomainData, split: str, spec: Mapping[str, Any]) -> tuple[Document, ...]:
    """The documents of a split that a run used: of the forget set those that it forgets."""
    documents = data.split(split)
    return RunSpec.from_dict(spec).forgets(documents) if split == "forget" else documents


def _length(record: Record) -> int:
    """Tokens per chunk of a run: its own, else its profile's."""
    return record.spec["length"] or get_profile(record.spec["profile"]).length


def _public_name(source: str) -> tuple[str, str | None]:
    """(name, hub id or None) of a model source; the name has no folder of this machine in it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if source == "lab" or source.startswith("lab/"):
        return source, None
    if Path(source).exists():
        return file_name(source), None
    hub_id = source.partition("@")[0]  # a revision may follow
    try:
        validate_repo_id(hub_id)
    except HFValidationError:  # a folder that is no longer there
        return file_name(source), None
    return source, hub_id


def _call(record: Record, data: DomainData) -> str:
    """The call of `unlearn` that repeats a record, with its texts by their names."""
    default = RunSpec()
    # Defaults of `unlearn` may change; precision is the model's own if it is not given.
    spelt_out = {*inspect.signature(unlearn).parameters, "precision"}
    given = [name for name in TEXTS[:3] if data.split(name)]
    given += ["general"] if data.general_retain or data.general_evaluation else []
    lines = ["model,", "tokenizer,", *(f"{name}={name}," for name in given)]
    lines += [
        f"{name}={value!r},"
        for name, value in record.spec.items()
        if name not in ("profile", "domain")
        and (name in spelt_out or value != getattr(default, name))
    ]
    inner = "\n".join(f"    {line}" for line in lines)
    return f"from unlearnlib import unlearn\n\nmodel, record = unlearn(\n{inner}\n)"


def save_unlearned(
    out: Path,
    model: Any,
    tokenizer: Any,
    record: Record,
    card: CardFacts,
    more: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> None:
    """Write model, tokenizer, record.json, README.md and `more` (name -> text) to `out`.

    A model trained with LoRA comes with its adapter, in `out/adapter`, only where the card says so.
    Everything is written to a temporary folder, then moved. With `force`, weights, adapter and
    reports of an earlier model in `out` are deleted. If `out` was filled since `check_out`, the
    model is kept beside it, and `UnlearnError` says where.
    """
    body = {
        "format": 1,
        "base_model": card.source,
        "splits": {s.name: dataclasses.asdict(s) for s in card.splits},
        "before": strict_json(card.before),
        "record": record.to_json(),
    }
    texts = {
        "record.json": json.dumps(body, indent=1) + "\n",
        "README.md": model_card(card),
        **(more or {}),
    }
    # A folder that is there may be a link or a mount of another disk, or its parent not ours to
    # write: what is complete can only be moved into it from inside.
    out.parent.mkdir(parents=True, exist_ok=True)
    place = out if out.exists() else out.parent
    with tempfile.TemporaryDirectory(dir=place, prefix=f"{scratch_name(out)}-") as scratch:
        staged = Path(scratch) / "model"
        save_model(model, tokenizer, staged, texts)
        if card.adapter:
            revision = card.source.partition("@")[2] if card.base_model else ""
            save_adapter(model.lora_adapter, staged / ADAPTER, card.base_model, revision or None)
        if not _put_in_place(staged, out, force):
            kept = _keep_beside(staged, place, out.name)
            raise UnlearnError(
                f"{str(out)!r} was filled by something else meanwhile, and was left as it is: the "
                f"model is in {str(kept)!r}, move it to where you want it."
            )
    logger.info("saved the model, record.json and README.md in %s", out)


def _put_in_place(staged: Path, out: Path, force: bool) -> bool:
    """Make a whole model the content of `out`; False if that would replace what is not ours to."""
    if not out.exists():
        try:
            with undisturbed():
                staged.rename(out)
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    with exclusive(out / "unlearn"):
        if _content(out) and not force:
            return False
        ours = _is_ours(out)
        if _foreign(out) or (not ours and any((out / p.name).exists() for p in staged.iterdir())):
            return False
        obsolete = earlier_weights(out, staged) if ours else []
        old = [*(out / ADAPTER / name for name in ADAPTER_FILES), *(out / name for name in REPORTS)]
        obsolete += [path for path in old if ours and not (staged / path.relative_to(out)).exists()]
        move_in(staged, out, obsolete)
        with contextlib.suppress(OSError):  # there is none, or it holds files
            (out / ADAPTER).rmdir()
    return True


def _keep_beside(staged: Path, place: Path, name: str) -> Path:
    """Give a whole model the first free name like NAME-2 in a folder."""
    for number in itertools.count(2):
        kept = place / f"{name}-{number}"
        if not kept.exists():
            staged.rename(kept)
            return kept
    raise AssertionError("itertools.count ends")
