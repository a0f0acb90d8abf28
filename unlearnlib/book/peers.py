"""Our metrics beside those of other people's code, on the same inputs.

`golden.json` holds what functions of OpenUnlearning and of the authors' release gave, as numbers;
`tools/golden.py` computes them anew. The inputs are documents of the lab under its models,
and scores drawn from a seed, so that our side is computed here and now.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.looks import ATTACK_TITLES
from unlearnlib.metrics.extraction import verbatim_share
from unlearnlib.metrics.membership import (
    attack_scores,
    auc,
    best_balanced_accuracy,
    tpr_at_fpr,
)
from unlearnlib.metrics.perplexity import accuracy, chunk_perplexity, perplexity
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.text import number

if TYPE_CHECKING:
    import pandas as pd

    from unlearnlib.bench import Bench
    from unlearnlib.corpus.chunks import Chunk

GOLDEN = Path(__file__).with_name("golden.json")
SPLITS = "forget", "approximate"
DOCUMENTS = 8  # of each split
SEED = 0
# Texts of which a model predicts some tokens (1) and others not (0), the last one among them.
PREDICTED = "1110", "0111", "1111", "0000", "1011"
MEMBERS, OTHERS = 30, 50  # so many scores are drawn; 5 % of the latter are no whole number

TITLES = {"OpenUnlearning": "OpenUnlearning", "release": "The authors’ release"}


_CUT = (
    "They leave the last token out, which is right where it ends an answer. A document cut at its "
    "end would lose a token of its text, so ours counts it."
)
_FLOOR = f"{_CUT} Their variance is at least 10⁻⁶, ours 10⁻⁷."
_ZLIB = (
    "They divide the mean over tokens by the compressed length, we the total. Their score falls as "
    "a text grows, whatever it says, so among texts of unequal length the total is right."
)
# Attack -> what differs, and whether the scores are the same.
_ATTACKS = {
    "loss": ("Alike, but that ours is turned: higher is a member.", True),
    "zlib": (_ZLIB, False),
    "min_k_20": (_CUT, False),
    "min_k_40": (_CUT, False),
    "min_k_pp_20": (_FLOOR, False),
    "min_k_pp_40": (_FLOOR, False),
}


@dataclass(frozen=True)
class Number:
    """What a function of somebody's gave: one value, or one of each document in order."""

    project: str
    name: str
    file: str
    function: str
    values: np.ndarray


@dataclass(frozen=True)
class Golden:
    """What `golden.json` holds.

    documents  hashes of models and documents that the numbers are of
    numbers    (project, name of the measure) -> number
    files      what was run, and where it was read: project, repository, commit, path, functions
    """

    documents: dict[str, str]
    numbers: dict[tuple[str, str], Number]
    files: list[dict[str, Any]]

    def values(self, project: str, name: str) -> np.ndarray:
        """What a project says: (1,), or one value of each document in order."""
        return self.numbers[project, name].values


@dataclass(frozen=True)
class Scored:
    """Our token scores of the inputs, in order: those of documents to forget come first.

    documents  under vanilla, with the divergence from the retrained model
    positions  the same with one token more each, so that the last position has a target, too
    retrained  those with one token more, under the retrained model
    """

    documents: TokenScores
    positions: TokenScores
    retrained: TokenScores


@dataclass(frozen=True)
class Row:
    """One measure, theirs beside ours.

    theirs, ours  one value, or one of each document
    made          ours, turned into theirs by what `differs` says; None where that cannot be
    differs       a sentence or two: what differs, and who is right
    """

    project: str
    measure: str
    theirs: np.ndarray
    ours: np.ndarray
    made: np.ndarray | None
    differs: str

    @property
    def difference(self) -> float:
        """The largest over documents; of means, where ours is no number of a document."""
        if self.theirs.shape == self.ours.shape:
            return float(np.abs(self.theirs - self.ours).max())
        return float(abs(self.theirs.mean() - self.ours.mean()))

    @property
    def rest(self) -> float:
        """The largest difference that is left once ours is turned into theirs; NaN if it cannot."""
        return float("nan") if self.made is None else float(np.abs(self.theirs - self.made).max())


def load_golden(path: Path = GOLDEN) -> Golden:
    """The numbers of other people's code; `UnlearnError` where the file is not that."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        numbers = [Number(**{**x, "values": np.array(x["values"])}) for x in made["numbers"]]
        known = {(x.project, x.name): x for x in numbers}
        return Golden(dict(made["inputs"]["documents"]), known, list(made["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnlearnError(
            f"{path} holds no numbers of other people's code ({error}): take it from the "
            "repository again."
        ) from error


def inputs_of(bench: Bench, split: str) -> list[Chunk]:
    """The documents of a split that the numbers are of."""
    return bench.chunks(split)[:DOCUMENTS]


def hashes_of(bench: Bench) -> dict[str, str]:
    """Hashes of what determines the numbers: both models, and the tokens of the documents."""
    tokens = [[int(t) for t in c.tokens] for split in SPLITS for c in inputs_of(bench, split)]
    text = json.dumps(tokens, separators=(",", ":"))
    return {
        "model_hash": bench.basis.model_hash,
        "config_hash": bench.basis.config_hash,
        "oracle_hash": bench.basis.oracle_hash,
        "tokens_hash": hashlib.sha256(text.encode("ascii")).hexdigest(),
    }


def inputs_at_hand(golden: Golden, bench: Bench | None) -> list[Chunk]:
    """The documents that the numbers are of; none where a bench has other models or texts."""
    if bench is None or golden.documents != hashes_of(bench):
        return []
    return [chunk for split in SPLITS for chunk in inputs_of(bench, split)]


def ranks(seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Scores of an attack on a forget set that looks less like training data than unseen text."""
    draw = random.Random(seed)  # whose `random` is the same in every version
    members = [draw.random() - 0.3 for _ in range(MEMBERS)]
    return np.array(members), np.array([draw.random() for _ in range(OTHERS)])


def predicted(texts: Sequence[str] = PREDICTED) -> TokenScores:
    """Scores of made-up texts: of every token whether it was predicted (1) or not (0)."""
    lengths = np.array(list(map(len, texts)), dtype=np.int64)
    top1 = np.array([c == "1" for c in "".join(texts)], dtype=bool)
    nothing = np.zeros(len(top1), np.float32)
    return TokenScores(
        ids=tuple(f"text-{i}#0" for i in range(len(texts))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=np.ones(len(top1), np.int32),
        logprob=nothing,
        top1=top1,
        mean=nothing,
        variance=nothing,
        zlib_bytes=lengths,
    )


def with_one_more(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The chunks with a token more each, whichever: the last position then has a target."""
    return [replace(chunk, tokens=(*chunk.tokens, chunk.tokens[0])) for chunk in chunks]


def without_last(scores: TokenScores) -> TokenScores:
    """The scores without every chunk's last target, as where it is a token that ends the text."""
    keep = np.ones(len(scores.tokens), dtype=bool)
    keep[scores.offsets[1:][scores.lengths > 0] - 1] = False
    offsets = np.concatenate([[0], np.cumsum(np.maximum(scores.lengths - 1, 0))])
    names = ("tokens", "logprob", "top1", "mean", "variance", "kl")
    arrays = {n: getattr(scores, n)[keep] for n in names if getattr(scores, n) is not None}
    return replace(scores, offsets=offsets.astype(np.int64), **arrays)


def extraction_strength(scores: TokenScores) -> np.ndarray:
    """(C,) share of a chunk that the shortest sufficient beginning leaves to be decoded verbatim.

    What OpenUnlearning calls so, by way of `verbatim_share`: the prefix is the shortest at which
    that is 1. 0 if not even the last token is decoded.
    """
    strength = np.zeros(len(scores))
    lengths = scores.lengths
    for prefix in reversed(range(int(lengths.max(initial=0)))):
        whole = verbatim_share(scores, prefix) == 1
        strength[whole] = 1 - prefix / lengths[whole]
    return strength


def attack_rows(golden: Golden, scored: Scored) -> list[Row]:
    """Membership attacks of OpenUnlearning: vanilla's scores, and the retrained model's AUC."""
    whole, cut = attack_scores(scored.documents), attack_scores(without_last(scored.documents))
    retrained = without_last(scored.retrained)
    judged, judged_cut = attack_scores(retrained), attack_scores(without_last(retrained))
    rows = []
    for name, (says, same) in _ATTACKS.items():
        title = ATTACK_TITLES[name]
        # A loss is higher for what looks less like a member; our scores are minus that.
        ours, judging = -whole[name], judged[name]
        made, judging_made = (ours, judging) if same else (-cut[name], judged_cut[name])
        if name == "zlib":
            made = ours / scored.documents.lengths
            judging_made = judging / retrained.lengths
        theirs, area = (golden.values("OpenUnlearning", n) for n in (name, f"{name}/auc"))
        rows.append(Row("OpenUnlearning", title, theirs, ours, made, says))
        rows.append(
            Row(
                "OpenUnlearning",
                f"{title}, AUC",
                area,
                _one(auc(*_sides(judging))),
                _one(auc(*_sides(judging_made))),
                "Of the retrained model: the right way round, and not flipped."
                + ("" if same else " It differs as the scores do."),
            )
        )
    return rows


def memory_rows(golden: Golden, scored: Scored) -> list[Row]:
    """What OpenUnlearning says of memorisation."""
    documents, cut = scored.documents, without_last(scored.documents)
    mine = attack_scores(documents)["loss"]
    strength = np.maximum(extraction_strength(cut), 1 / cut.lengths)
    return [
        Row(
            "OpenUnlearning",
            "probability",
            golden.values("OpenUnlearning", "probability"),
            _one(1 / chunk_perplexity(documents)),
            np.exp(mine),
            "They average probabilities per token over documents, we their logarithms, which is "
            "one over the perplexity per chunk. Neither is wrong; theirs is ruled by the documents "
            "that are known best.",
        ),
        Row(
            "OpenUnlearning",
            "exact memorisation",
            golden.values("OpenUnlearning", "exact_memorization"),
            documents.chunk_means(documents.top1),
            cut.chunk_means(cut.top1),
            "Next-token accuracy per document, without the last token. Both are right.",
        ),
        Row(
            "OpenUnlearning",
            "extraction strength",
            golden.values("OpenUnlearning", "extraction_strength"),
            extraction_strength(documents),
            strength,
            "Without the last token. Our verbatim share fixes how much is given; theirs looks for "
            "the shortest beginning from which the rest is verbatim.",
        ),
    ]


def release_rows(golden: Golden, scored: Scored) -> list[Row]:
    """What the release says of perplexity, accuracy and membership."""
    documents = scored.documents
    sets = [documents.select(range(i, i + DOCUMENTS)) for i in (0, DOCUMENTS)]
    attacks = attack_scores(documents)
    rows = [
        Row(
            "release",
            "perplexity",
            golden.values("release", "ppl"),
            np.array([perplexity(part) for part in sets]),
            np.array([chunk_perplexity(part) for part in sets]),
            "They average over chunks, we over tokens. Both are in every record; what training "
            "minimises is the average over tokens.",
        ),
        Row(
            "release",
            "accuracy, %",
            golden.values("release", "acc"),
            np.array([100 * accuracy(part) for part in sets]),
            np.array([100 * part.chunk_means(part.top1).mean() for part in sets]),
            "The same two averages.",
        ),
    ]
    for k in (30, 40, 50, 60, 100):
        name = f"min_k_{k}"
        theirs = golden.values("release", name)
        says = "Alike: every token counts, the last one too."
        rows.append(Row("release", f"Min-{k} %", theirs, attacks[name], attacks[name], says))
    rows += _judged(golden, "min_k_40", "Min-40 %", *_sides(attacks["min_k_40"]))
    return rows


def drawn_rows(golden: Golden) -> list[Row]:
    """What both say of made-up texts, and of members that look less like members than others."""
    members, others = ranks()
    theirs = golden.values("OpenUnlearning", "ranks/auc")
    ours = _one(auc(members, others))
    says = "Not flipped, so that over-unlearning shows. Both are right."
    texts = predicted()
    strength = extraction_strength(texts)
    return [
        Row(
            "OpenUnlearning",
            "made-up texts, extraction strength",
            golden.values("OpenUnlearning", "predicted/extraction_strength"),
            strength,
            np.maximum(strength, 1 / texts.lengths),
            "Theirs is never 0: where not even the last token is predicted, a text of n tokens "
            "gets 1/n. Right would be 0, as ours.",
        ),
        Row("OpenUnlearning", "over-unlearned, AUC", theirs, ours, ours, says),
        *_judged(golden, "ranks", "over-unlearned", members, others),
    ]


def _judged(
    golden: Golden, name: str, title: str, members: np.ndarray, others: np.ndarray
) -> list[Row]:
    """What the release says of an attack's scores, whose sign it turns."""
    area = auc(members, others)
    measures: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float], str]] = {
        "balanced_accuracy": (
            "balanced accuracy",
            best_balanced_accuracy,
            "It is of the attack with its sign turned, and not turned back. Ours is right.",
        ),
        "tpr_at_5_fpr": (
            "TPR at 5 % FPR",
            lambda inside, outside: tpr_at_fpr(inside, outside, 0.05),
            "Of the attack with its sign turned, too, and written down as at 0.1 %. Ours is right.",
        ),
    }
    rows = [
        Row(
            "release",
            f"{title}, AUC",
            golden.values("release", f"{name}/auc"),
            _one(area),
            _one(max(area, 1 - area)),
            "It is flipped where it is below 0.5, which hides over-unlearning. Ours is right.",
        )
    ]
    for key, (measure, judge, says) in measures.items():
        value = golden.values("release", f"{name}/{key}")
        ours, made = _one(judge(members, others)), _one(judge(-members, -others))
        rows.append(Row("release", f"{title}, {measure}", value, ours, made, says))
    return rows


def divergence_rows(golden: Golden, scored: Scored) -> list[Row]:
    """The retain terms of both: divergence of the model from another one."""
    scores, positions, retrained = (
        part.select(range(DOCUMENTS))
        for part in (scored.documents, scored.positions, scored.retrained)
    )
    if scores.kl is None or positions.kl is None:
        raise UnlearnError("the scores have no divergence: score with a reference.")
    ours, all_positions = scores.chunk_means(scores.kl), positions.chunk_means(positions.kl)
    crossed = positions.chunk_means(positions.kl - retrained.mean)
    padded = (
        "The same documents in one batch: padding counts, so the value depends on what shares the "
        "batch. Ours is the mean over targets, whatever the batch, and right."
    )
    after = "They count the position after the last token too, where nothing is to be predicted"
    overall = _one(float(np.mean(scores.kl, dtype=np.float64)))
    return [
        Row(
            "OpenUnlearning",
            "KL",
            golden.values("OpenUnlearning", "kl"),
            ours,
            all_positions,
            f"{after}. Ours averages over targets, and is right.",
        ),
        Row(
            "OpenUnlearning",
            "KL, padded",
            golden.values("OpenUnlearning", "kl/padded"),
            overall,
            None,
            padded,
        ),
        Row(
            "release",
            "KL",
            golden.values("release", "kl"),
            ours,
            crossed,
            f"A cross-entropy: the entropy of the other model is in it. {after}. What is left is "
            "of the 10⁻¹² that they add to probabilities. Ours is 0 for equal models, as a "
            "divergence is.",
        ),
        Row("release", "KL, padded", golden.values("release", "kl/padded"), overall, None, padded),
    ]


def rows_of(golden: Golden, scored: Scored | None) -> list[Row]:
    """All rows, by project; those of drawn scores alone where the inputs are not at hand."""
    rows = drawn_rows(golden)
    if scored is not None:
        makers = (attack_rows, memory_rows, release_rows, divergence_rows)
        rows = [row for maker in makers for row in maker(golden, scored)] + rows
    return sorted(rows, key=lambda row: list(TITLES).index(row.project))


def inputs_in_words(scored: Scored | None) -> str:
    """Why the table is short, where it is."""
    if scored is not None:
        return ""
    return (
        "*The numbers are of the first novels of the lab under its models, which are not what this "
        "chapter was given: only the scores that were drawn are shown. "
        "`unlearn notebook release` shows all.*"
    )


def peers_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Theirs, ours (means over documents), how far apart they are, and why."""
    import pandas as pd

    return pd.DataFrame(
        {
            "theirs": [number(float(row.theirs.mean())) for row in rows],
            "ours": [number(float(row.ours.mean())) for row in rows],
            "difference": [number(row.difference, 2) for row in rows],
            "left": [number(row.rest, 2) for row in rows],
            "what differs, and who is right": [row.differs for row in rows],
        },
        index=pd.MultiIndex.from_tuples(
            [(TITLES[row.project], row.measure) for row in rows], names=["whose", "measure"]
        ),
    )


def sources_table(golden: Golden) -> pd.DataFrame:
    """Where each of their functions was read."""
    import pandas as pd

    return pd.DataFrame(
        {
            "functions": [", ".join(f["functions"]) for f in golden.files],
            "repository": [f["repository"] for f in golden.files],
            "commit": [f["commit"][:12] for f in golden.files],
        },
        index=pd.MultiIndex.from_tuples(
            [(TITLES[f["project"]], f["path"]) for f in golden.files], names=["whose", "file"]
        ),
    )


def _one(value: float) -> np.ndarray:
    return np.array([value])


def _sides(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(members, others) of one value per document."""
    return values[:DOCUMENTS], values[DOCUMENTS:]
