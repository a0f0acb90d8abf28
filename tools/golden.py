"""Computes anew what other people's code says of fixed inputs: `unlearnlib/book/golden.json`.

The book holds our metrics against those of OpenUnlearning and of the authors' release on the same
inputs. None of their code is part of this repository: this runs the functions that it names out of
folders that you have, as they stand there, and keeps the numbers.

    python tools/golden.py OPEN_UNLEARNING RELEASE

are clones of the two repositories; `FILES` says which commit of each file the kept numbers are of,
and where it was read: for some only a copy in a fork was at hand.
They are of the lab's models and documents, so they are made anew whenever the lab is. It needs
scikit-learn and matplotlib, and takes a minute.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import io
import json
import types
import warnings
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import sklearn
import torch
import transformers
from sklearn.metrics import auc, roc_auc_score, roc_curve
from torch.utils.data import DataLoader

from unlearnlib.bench import Bench, open_bench
from unlearnlib.book.peers import GOLDEN, PREDICTED, SEED, SPLITS, hashes_of, inputs_of, ranks

IGNORED = -100
BATCH = 4  # documents of a batch, padded to the longest one


@dataclass(frozen=True)
class File:
    """A file of somebody's, where it was read, and what of it is run."""

    project: str
    repository: str
    commit: str
    path: str
    functions: tuple[str, ...]


THEIRS, FORK = "locuslab/open-unlearning", "zgoel317/open-unlearning"
RELEASE = "yaojin17/Unlearning_LLM"
METRICS, ATTACKS = "src/evals/metrics", "src/evals/metrics/mia"
FILES = (
    File(
        "OpenUnlearning",
        THEIRS,
        "e305b27055ca1580b09b34600d345c54c05c5cff",
        f"{METRICS}/utils.py",
        (
            "aggregate_to_1D",
            "run_batchwise_evals",
            "evaluate_probability",
            "tokenwise_logprobs",
            "tokenwise_vocab_logprobs",
            "extract_target_texts_from_processed_data",
        ),
    ),
    File(
        "OpenUnlearning",
        THEIRS,
        "2db47ecbdcd130782522108ba68140cfb7e7b234",
        f"{METRICS}/memorization.py",
        ("probability", "exact_memorization", "extraction_strength"),
    ),
    File(
        "OpenUnlearning",
        FORK,
        "d2bfbbccb934a3cefee132255af2256154753e05",
        f"{ATTACKS}/all_attacks.py",
        ("Attack",),
    ),
    File(
        "OpenUnlearning",
        FORK,
        "2e16546d1b8033346a55b301166f48861b879062",
        f"{ATTACKS}/loss.py",
        ("LOSSAttack",),
    ),
    File(
        "OpenUnlearning",
        FORK,
        "d2bfbbccb934a3cefee132255af2256154753e05",
        f"{ATTACKS}/zlib.py",
        ("ZLIBAttack",),
    ),
    File(
        "OpenUnlearning",
        FORK,
        "2e16546d1b8033346a55b301166f48861b879062",
        f"{ATTACKS}/min_k.py",
        ("MinKProbAttack",),
    ),
    File(
        "OpenUnlearning",
        THEIRS,
        "f4d846351b70b143cc64778fdee2e25837c5eafb",
        f"{ATTACKS}/min_k_plus_plus.py",
        ("MinKPlusPlusAttack",),
    ),
    File(
        "OpenUnlearning",
        FORK,
        "2e16546d1b8033346a55b301166f48861b879062",
        f"{ATTACKS}/utils.py",
        ("mia_auc",),
    ),
    File(
        "OpenUnlearning",
        THEIRS,
        "19a6141d8baf4b1d25c3a888dd876a764d85def7",
        "src/trainer/utils.py",
        ("compute_kl_divergence",),
    ),
    File(
        "release",
        RELEASE,
        "0d78aa9b0a6b9079f4c71c6a4f3015483ee17641",
        "llm_unlearn/utils/mia_eval.py",
        ("sweep", "do_plot"),
    ),
    File(
        "release",
        RELEASE,
        "3cc1750895ccbef02fc751a6da4661fbecde8c64",
        "llm_unlearn/methods/ascent_plus_KLdivergence.py",
        ("compute_kl",),
    ),
    File(
        "release",
        RELEASE,
        "18510f00968298057652148458606dd6daca190c",
        "llm_unlearn/run_eval.py",
        ("preprocess_logits_for_metrics", "compute_min_k_ppl_acc", "compute_metrics"),
    ),
    File(
        "release",
        RELEASE,
        "0d78aa9b0a6b9079f4c71c6a4f3015483ee17641",
        "llm_unlearn/run_mia.py",
        ("preprocess_logits_for_metrics", "compute_min_k_ppl_acc", "compute_metrics"),
    ),
)


def borrowed(path: Path, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The functions and classes `names` of a file, run by themselves on what they need to know.

    Those within another function count, too; decorators, which only register, are left out.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[ast.stmt] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            node.decorator_list = []
            found.append(node)
    if lacking := set(names) - {getattr(node, "name", "") for node in found}:
        raise SystemExit(f"{path} has no function {', '.join(sorted(lacking))}: take that commit.")
    namespace = dict(known)
    exec(compile(ast.Module(found, []), str(path), "exec"), namespace)
    return {name: namespace[name] for name in names}


def library(folders: Mapping[str, Path]) -> dict[str, types.SimpleNamespace]:
    """Project -> its functions, under their names; those of the last two files under the file's."""
    known: dict[str, Any] = {
        "DataLoader": DataLoader,
        "F": torch.nn.functional,
        "IGNORE_INDEX": IGNORED,
        "auc": auc,
        "defaultdict": defaultdict,
        "nn": torch.nn,
        "np": np,
        "plt": plt,
        "roc_auc_score": roc_auc_score,
        "roc_curve": roc_curve,
        "torch": torch,
        "tqdm": lambda rows, **_: rows,
        "warnings": warnings,
        "zlib": zlib,
    }
    projects = {project: types.SimpleNamespace() for project in folders}
    for file in FILES:
        there = projects[file.project]
        made = borrowed(folders[file.project] / file.path, file.functions, {**known, **vars(there)})
        if Path(file.path).stem in ("run_eval", "run_mia"):
            made = {Path(file.path).stem: types.SimpleNamespace(**made)}
        vars(there).update(made)
    return projects


def padded(documents: Sequence[Sequence[int]], pad: int, first: bool) -> dict[str, torch.Tensor]:
    """A batch on the right padded; `first`: whether the first token stands among the labels."""
    width = max(map(len, documents))
    rows = [list(tokens) + [pad] * (width - len(tokens)) for tokens in documents]
    mask = [[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in documents]
    ids, attention = torch.tensor(rows), torch.tensor(mask)
    labels = ids.masked_fill(attention == 0, IGNORED)
    if not first:
        labels[:, 0] = IGNORED
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def collated(rows: Sequence[Mapping[str, Any]], pad: int = 0) -> dict[str, torch.Tensor]:
    """Documents as OpenUnlearning takes them: padded, with their place among all."""
    batch = padded([row["tokens"] for row in rows], pad, first=False)
    return {**batch, "index": torch.tensor([row["index"] for row in rows])}


Numbers = list[dict[str, Any]]


def entry(project: str, name: str, file: str, function: str, values: Any) -> dict[str, Any]:
    """A measure's values: one, or one of each document, forget documents first."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    shown = [float(f"{x:.10g}") for x in array]
    return {
        "project": project,
        "name": name,
        "file": file,
        "function": function,
        "values": shown,
    }


def of_open_unlearning(theirs: Any, bench: Bench, sets: Sequence[Any]) -> Numbers:
    """What OpenUnlearning says of the documents."""
    pad, model = bench.tokenizer.pad_token_id, bench.model
    collate = functools.partial(collated, pad=pad)
    data = [[{"tokens": t, "index": i} for i, t in enumerate(part)] for part in sets]
    both = {"forget": data[0], "holdout": data[1]}
    attacks: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "loss": ("loss", theirs.LOSSAttack, {}),
        "zlib": ("zlib", theirs.ZLIBAttack, {"tokenizer": bench.tokenizer}),
    }
    for k in (20, 40):
        attacks[f"min_k_{k}"] = ("min_k", theirs.MinKProbAttack, {"k": k / 100})
        attacks[f"min_k_pp_{k}"] = (
            "min_k_plus_plus",
            theirs.MinKPlusPlusAttack,
            {"k": k / 100},
        )
    found: Numbers = []
    for name, (stem, attack, options) in attacks.items():
        made = theirs.mia_auc(attack, model, both, collate, BATCH, **options)
        scores = [x["score"] for s in both for x in made[s]["value_by_index"].values()]
        path = f"{ATTACKS}/{stem}.py"
        found.append(entry("OpenUnlearning", name, path, attack.__name__, scores))
        # Of the model that never saw them: of vanilla all areas are 1.
        area = theirs.mia_auc(attack, bench.oracle, both, collate, BATCH, **options)["auc"]
        path = f"{ATTACKS}/utils.py"
        found.append(entry("OpenUnlearning", f"{name}/auc", path, "mia_auc", area))
    for name, key in (
        ("probability", "prob"),
        ("exact_memorization", "score"),
        ("extraction_strength", "score"),
    ):
        values = []
        for part in data:
            made = getattr(theirs, name)(model, data=part, collators=collate, batch_size=BATCH)
            values += [x[key] for x in made["value_by_index"].values()]
        found.append(entry("OpenUnlearning", name, f"{METRICS}/memorization.py", name, values))
    kl = [
        float(theirs.compute_kl_divergence(model, bench.oracle, padded(d, pad, first=False))[0])
        for d in (*([tokens] for tokens in sets[0]), sets[0])
    ]
    path, function = "src/trainer/utils.py", "compute_kl_divergence"
    found.append(entry("OpenUnlearning", "kl", path, function, kl[:-1]))
    found.append(entry("OpenUnlearning", "kl/padded", path, function, kl[-1]))
    return found


def of_release(theirs: Any, bench: Bench, sets: Sequence[Any]) -> Numbers:
    """What the release says of the documents."""
    pad = bench.tokenizer.pad_token_id
    scores: dict[str, list[float]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for part in sets:
        batch = padded(part, pad, first=True)
        model: Any = bench.model
        logits = model(**batch).logits
        labels = batch["labels"]
        for script, into in ((theirs.run_mia, scores), (theirs.run_eval, values)):
            made = script.preprocess_logits_for_metrics(logits, labels).numpy()
            for name, x in script.compute_metrics((made, labels.numpy())).items():
                into[name].extend(np.atleast_1d(np.asarray(x, dtype=np.float64)).tolist())
    found: Numbers = []
    path = "llm_unlearn/run_eval.py"
    for name, x in values.items():
        found.append(entry("release", name, path, "compute_min_k_ppl_acc", x))
    truth = [True] * len(sets[0]) + [False] * len(sets[1])
    path = "llm_unlearn/run_mia.py"
    for name, x in scores.items():
        name = name.removesuffix("_value").replace("min", "min_k")
        found.append(entry("release", name, path, "compute_min_k_ppl_acc", x))
        found += attacked(theirs, name, x, truth)
    kl = [
        float(theirs.compute_kl(bench.oracle, bench.model, padded(d, pad, first=True), "cpu"))
        for d in (*([tokens] for tokens in sets[0]), sets[0])
    ]
    path = "llm_unlearn/methods/ascent_plus_KLdivergence.py"
    found.append(entry("release", "kl", path, "compute_kl", kl[:-1]))
    found.append(entry("release", "kl/padded", path, "compute_kl", kl[-1]))
    return found


def attacked(theirs: Any, name: str, scores: Sequence[float], truth: Sequence[bool]) -> Numbers:
    """What the release says of an attack."""
    _, area, accuracy, rate = theirs.do_plot(scores, truth)
    path = "llm_unlearn/utils/mia_eval.py"
    said = {"auc": area, "balanced_accuracy": accuracy, "tpr_at_5_fpr": rate}
    return [entry("release", f"{name}/{key}", path, "do_plot", x) for key, x in said.items()]


def of_predicted(theirs: Any) -> Numbers:
    """What OpenUnlearning says of texts of which it is known what a model predicts."""

    def model(input_ids: torch.Tensor, **_: Any) -> types.SimpleNamespace:
        """Predicts token 1 at every place, but token 2 where the text is not predicted."""
        logits = torch.zeros(*input_ids.shape, 3)
        logits[..., 1] = 1.0
        for row, text in zip(logits, PREDICTED, strict=True):
            for place, right in enumerate(text):
                row[place, 2] = 0.0 if right == "1" else 2.0
        return types.SimpleNamespace(logits=logits)

    model.device = "cpu"  # type: ignore[attr-defined]
    # A token before what is predicted, and one after it, which they leave out.
    data = [{"tokens": [1] * (len(text) + 2), "index": i} for i, text in enumerate(PREDICTED)]
    made = theirs.extraction_strength(
        model, data=data, collators=collated, batch_size=len(PREDICTED)
    )
    values = [x["score"] for x in made["value_by_index"].values()]
    path, name = f"{METRICS}/memorization.py", "extraction_strength"
    return [entry("OpenUnlearning", f"predicted/{name}", path, name, values)]


def of_ranks(projects: Mapping[str, Any]) -> Numbers:
    """What both say of scores that were drawn, of members that look less like members."""
    members, others = ranks()
    scores = np.concatenate([members, others])
    truth = [True] * len(members) + [False] * len(others)

    class Drawn:
        """An attack that gives the scores; a loss is higher for what looks less like a member."""

        def __init__(self, data: Sequence[float], **_: Any) -> None:
            self.data = data

        def attack(self) -> dict[str, Any]:
            """The scores under their index."""
            return {"value_by_index": {i: {"score": -x} for i, x in enumerate(self.data)}}

    both = {"forget": members, "holdout": others}
    area = projects["OpenUnlearning"].mia_auc(Drawn, None, both, None, BATCH)["auc"]
    path = f"{ATTACKS}/utils.py"
    return [
        entry("OpenUnlearning", "ranks/auc", path, "mia_auc", area),
        *attacked(projects["release"], "ranks", scores.tolist(), truth),
    ]


@torch.no_grad()
def main() -> None:
    """Write the numbers beside the module that shows them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("open_unlearning", type=Path)
    parser.add_argument("release", type=Path)
    given = parser.parse_args()
    plt.switch_backend("agg")
    projects = library({"OpenUnlearning": given.open_unlearning, "release": given.release})
    bench = open_bench("lab", "books")
    sets = [[list(chunk.tokens) for chunk in inputs_of(bench, split)] for split in SPLITS]
    with contextlib.redirect_stdout(io.StringIO()):  # theirs print what they found
        numbers = [
            *of_open_unlearning(projects["OpenUnlearning"], bench, sets),
            *of_release(projects["release"], bench, sets),
            *of_predicted(projects["OpenUnlearning"]),
            *of_ranks(projects),
        ]
    versions = {p.__name__: str(p.__version__) for p in (np, sklearn, torch, transformers)}
    inputs = {"documents": hashes_of(bench), "ranks": {"seed": SEED}}
    files = [dataclasses.asdict(file) for file in FILES]
    lines = [
        f'"{name}": {json.dumps(x)}' for name, x in (("inputs", inputs), ("versions", versions))
    ]
    for name, rows in (("files", files), ("numbers", numbers)):
        lines.append(f'"{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n]")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
