"""The seven rows, the labels they make, and a method added from outside the package."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from helpers import (
    HEAD_ROWS,
    LENGTH,
    QUIET,
    TABLE,
    VOCABULARY,
    documents,
    flat,
    logits_of,
    naive_adversarial,
    tiny_bench,
    tiny_llama,
    tiny_tokenizer,
)
from torch import Tensor

import unlearnlib
from unlearnlib import objectives
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import Labelling, keep_original
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import (
    METHODS,
    AdversarialLabels,
    Ascent,
    Descent,
    KLToOriginal,
    Method,
    Original,
    RandomLabels,
    get_method,
    register,
)
from unlearnlib.objectives import Head
from unlearnlib.profiles import PAPER_METHODS, Alignment
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

SPECIAL = frozenset({0, 1, 2})
ALIGNMENTS: tuple[Alignment, ...] = ("aligned", "release")


def random_labels(
    tokens: tuple[int, ...],
    *,
    vocabulary: int = 40,
    special: frozenset[int] = SPECIAL,
    seed: int = 0,
    alignment: Alignment = "aligned",
    name: str = "a#0",
) -> Tensor:
    head = Head(torch.zeros(vocabulary + 8, 2))
    chunk = Chunk(name, "a", tokens)
    return RandomLabels().prepare(Original(chunk, None, head, special, vocabulary, seed, alignment))


def many_tokens(count: int, vocabulary: int = 40) -> tuple[int, ...]:
    make = torch.Generator().manual_seed(1)
    return tuple(torch.randint(3, vocabulary, (count,), generator=make).tolist())


# ---- the table -----------------------------------------------------------------------------


def test_the_rows_are_those_of_the_paper() -> None:
    assert set(PAPER_METHODS) == set(TABLE)
    names = {"ascent": Ascent(), "descent": Descent(), "kl": KLToOriginal()}
    names |= {"random": RandomLabels(), "adversarial": AdversarialLabels()}
    data = {"retain": "in_distribution", "general_retain": "general", None: None}
    for name, (forget, retain, split) in TABLE.items():
        row = METHODS[name]
        assert row.forget == names[forget]
        assert row.retain == (None if retain is None else names[retain])
        assert row.data == data[split]


def test_an_unknown_method_lists_the_valid_ones_nearest_first() -> None:
    with pytest.raises(UnlearnError, match=r"'ga_kl_in_dits': choose one of ga_kl_in_dist, "):
        get_method("ga_kl_in_dits")


def test_a_row_needs_both_or_neither_of_retain_term_and_data() -> None:
    with pytest.raises(UnlearnError, match="retain data or the reverse"):
        Method("half", Ascent(), Descent())
    with pytest.raises(UnlearnError, match="retain data or the reverse"):
        Method("half", Ascent(), data="general")


# Three updates of the tiny model in float64, before there were any other rows: gradient norm and
# losses of the third, and the norm of the parameters after it.
BEFORE: dict[str, tuple[float | None, ...]] = {
    "ga": (2.1421384, -6.0242641, None, 25.302236008),
    "random_label": (1.2834364, 5.8659084, None, 25.2750420715),
    "adversarial": (1.7306141, 3.4869809, None, 25.2889808748),
    "ga_gd_general": (2.2295123, -5.9605387, 5.9116951, 25.2897070834),
    "ga_gd_in_dist": (1.7580065, -5.9594267, 5.9471168, 25.2900626115),
    "ga_kl_general": (1.9786743, -6.022883, 0.0160346, 25.302093535),
    "ga_kl_in_dist": (1.9770612, -6.0228015, 0.013126751, 25.3022279976),
}


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_the_papers_seven_compute_what_they_did_before_there_were_others(method: str) -> None:
    spec = RunSpec(
        method=method,
        updates=3,
        batch_size=4,
        learning_rate=1e-3,
        retain_weight=0.7,
        precision="float64",
    )
    model, record = execute(tiny_bench(), spec)
    last = record.trajectory[-1]
    found = (*(last.get(name) for name in ("grad_norm", "forget", "retain")), flat(model).norm())
    for number, expected in zip(found, BEFORE[method], strict=True):
        assert number == (None if expected is None else pytest.approx(expected, rel=1e-9))


# ---- random labels --------------------------------------------------------------------------


def test_random_labels_are_never_special_tokens() -> None:
    labels = random_labels(many_tokens(5000))
    assert not set(labels.tolist()) & SPECIAL
    assert labels.max() < 40  # nor rows that only pad the head


def test_a_target_that_is_a_special_token_keeps_it() -> None:
    labels = random_labels((1, 7, 2, 8, 9, 2))
    assert labels[[1, 4]].tolist() == [2, 2]
    assert not set(labels[[0, 2, 3]].tolist()) & SPECIAL


def test_random_labels_work_without_any_special_token() -> None:
    labels = random_labels(many_tokens(2000), special=frozenset())
    assert set(labels.tolist()) == set(range(40))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_random_labels_are_a_function_of_seed_and_chunk_alone(alignment: Alignment) -> None:
    tokens = many_tokens(50)
    first = random_labels(tokens, alignment=alignment)
    torch.rand(17)  # the global generator has no say
    assert torch.equal(first, random_labels(tokens, alignment=alignment))
    assert not torch.equal(first, random_labels(tokens, alignment=alignment, seed=1))
    assert not torch.equal(first, random_labels(tokens, alignment=alignment, name="a#1"))


def chi_square(labels: Tensor, bins: list[int]) -> float:
    """Pearson's statistic against the uniform distribution over `bins`."""
    counts = torch.bincount(labels, minlength=max(bins) + 1)[bins].double()
    expected = len(labels) / len(bins)
    assert counts.sum() == len(labels)
    return float(((counts - expected) ** 2 / expected).sum())


def test_random_labels_are_uniform_over_the_ordinary_tokens() -> None:
    labels = random_labels(many_tokens(20001))
    bins = list(range(3, 40))
    # Mean 36, standard deviation 8.5: six of them leave room for chance and none for a bias.
    assert chi_square(labels, bins) < 36 + 6 * 8.5


@pytest.mark.parametrize("truth", [9, 2])
def test_random_labels_of_the_release_are_uniform_over_all_ids(truth: int) -> None:
    """The truth and special tokens among them, whatever the target is."""
    labels = random_labels((truth,) * 20001, alignment="release")
    bins = list(range(40))  # and no row that only pads the head
    assert chi_square(labels, bins) < 39 + 6 * 8.8


# ---- adversarial labels ---------------------------------------------------------------------


@pytest.fixture
def model() -> torch.nn.Module:
    """A model whose favourite tokens are always rows that only pad the head."""
    made = tiny_llama()
    with torch.no_grad():
        made.lm_head.weight[VOCABULARY] = 1000 * made.lm_head.weight[0]
        made.lm_head.weight[VOCABULARY + 1] = -1000 * made.lm_head.weight[0]
    return made  # type: ignore[no-any-return]


@pytest.fixture
def chunks() -> list[Chunk]:
    return cut(documents("adversarial", 5), tiny_tokenizer(), LENGTH)


def labels_of(
    model: torch.nn.Module, chunks: list[Chunk], alignment: Alignment = "aligned"
) -> list[Tensor]:
    kept = keep_original(
        model,
        chunks,
        AdversarialLabels(),
        Labelling(SPECIAL, VOCABULARY, alignment=alignment),
        execution=QUIET,
    )
    return [tensor for tensor in kept if tensor is not None]


@pytest.mark.parametrize("positions", [1, 7, 10000])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_adversarial_labels_are_the_brute_force_argmax(
    alignment: Alignment,
    positions: int,
    model: torch.nn.Module,
    chunks: list[Chunk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", positions * HEAD_ROWS)
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 1)
    made = labels_of(model, chunks, alignment)
    assert len({len(chunk.tokens) for chunk in chunks}) > 1  # so that padding has its chance
    for chunk, labels in zip(chunks, made, strict=True):
        assert torch.equal(labels, naive_adversarial(model, chunk, alignment))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_adversarial_labels_are_never_the_true_token(
    alignment: Alignment, model: torch.nn.Module, chunks: list[Chunk]
) -> None:
    for chunk, labels in zip(chunks, labels_of(model, chunks, alignment), strict=True):
        assert not (labels == torch.tensor(chunk.tokens[1:])).any()


def test_adversarial_labels_are_tokens_though_the_model_prefers_padding_rows(
    model: torch.nn.Module, chunks: list[Chunk]
) -> None:
    with torch.no_grad():
        assert int(logits_of(model, chunks[0]).argmax(-1).min()) >= VOCABULARY
    assert max(int(labels.max()) for labels in labels_of(model, chunks)) < VOCABULARY


def test_the_release_labels_a_position_with_a_guess_for_the_next_one(
    model: torch.nn.Module, chunks: list[Chunk]
) -> None:
    aligned, release = (torch.cat(labels_of(model, chunks, a)) for a in ALIGNMENTS)
    # Row t of the release is row t + 1 of the logits; only the removed token can differ.
    assert (aligned != release).double().mean() > 0.5
    one, other = (labels_of(model, chunks, a)[0] for a in ALIGNMENTS)
    assert (one[1:] == other[:-1]).double().mean() > 0.8


# ---- a method from outside the package -----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class UniformTarget:
    """Cross-entropy against the uniform distribution: a term that the package does not have."""

    needs_original: bool = False

    def prepare(self, original: Original) -> Tensor | None:
        return None

    def loss(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        kept: Tensor | None,
        coefficient: Tensor,
        original_head: Head,
    ) -> Tensor:
        return -(head.logits(hidden).log_softmax(-1).mean(-1) * coefficient).sum()


@pytest.fixture
def outside() -> Iterator[str]:
    register("uniform", Method("Uniform", UniformTarget(), Descent(), "in_distribution"))
    yield "uniform"
    del METHODS["uniform"]


def test_a_method_can_be_added_from_outside_the_package(outside: str) -> None:
    model = tiny_llama(dtype=torch.float32)
    before = flat(model)
    texts = [d.text for d in documents("outside", 4)]
    chunk = cut(documents("outside", 1), tiny_tokenizer(), LENGTH)[0]

    def spread() -> float:
        with torch.no_grad():
            return float(logits_of(model, chunk).log_softmax(-1).mean())

    flatter = spread()
    changed, record = unlearnlib.unlearn(
        model,
        tiny_tokenizer(),
        method=outside,
        forget=texts,
        retain=[d.text for d in documents("kept", 4)],
        learning_rate=1e-2,
        updates=5,
        batch_size=4,
        execution=QUIET,
    )
    assert record.spec["method"] == "uniform" and record.status == "done"
    assert not torch.equal(before, flat(changed))
    assert spread() > flatter


def test_a_name_can_be_registered_only_once(outside: str) -> None:
    with pytest.raises(UnlearnError, match="'uniform' exists already"):
        register(outside, copy.copy(METHODS["ga"]))
