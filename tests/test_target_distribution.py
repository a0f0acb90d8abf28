"""Cross-entropy to a target distribution, and Jensen-Shannon: definitions and fixed points."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    HEAD_ROWS,
    LENGTH,
    QUIET,
    VOCABULARY,
    documents,
    flat_gradient,
    logits_of,
    tiny_llama,
    tiny_tokenizer,
)
from test_objectives import BOTH, PLAIN, Case, V, full_logits
from torch import Tensor
from torch.nn.functional import cross_entropy as full_cross_entropy
from torch.nn.functional import kl_div

from unlearnlib import objectives
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import Labelling, Part, Training, keep_original, optimise
from unlearnlib.methods import METHODS, Descent, LabelTerm, Term
from unlearnlib.objectives import (
    Head,
    Target,
    cross_entropy,
    jensen_shannon,
    kl_to_reference,
    kl_to_target,
    lowered_target,
    uniform_target,
)
from unlearnlib.target_distribution import MaximumEntropy, Undial
from unlearnlib.terms import JensenShannon, KeepsStates, Original

TOKENS = V - 2  # of a case's tokenizer: its head is padded by two rows
# z and its original, (T, V) logits, y (T,) true tokens, tokens there are -> (T,) losses.
Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def undial(z: Tensor, old: Tensor, y: Tensor, tokens: int) -> Tensor:
    target = (old - 5.0 * torch.nn.functional.one_hot(y, z.shape[1])).softmax(1)
    entropy = -(target * target.log()).sum(1)
    return full_cross_entropy(z, target, reduction="none") - entropy


def max_entropy(z: Tensor, old: Tensor, y: Tensor, tokens: int) -> Tensor:
    return -z.log_softmax(1)[:, :tokens].mean(1) - math.log(tokens)


def js(z: Tensor, old: Tensor, y: Tensor, tokens: int) -> Tensor:
    p, q = z.softmax(1), old.softmax(1)
    m = ((p + q) / 2).log()
    return (kl_div(m, p, reduction="none") + kl_div(m, q, reduction="none")).sum(1) / 2


TERMS: dict[str, tuple[Term, Loss]] = {
    "undial": (Undial(), undial),
    "max_entropy": (MaximumEntropy(), max_entropy),
    "js": (JensenShannon(), js),
}


def term_loss(term: Term, case: Case) -> Tensor:
    kept = case.original_hidden
    if isinstance(term, MaximumEntropy):
        kept = torch.full((len(case.targets),), TOKENS)
    return term.loss(case.hidden, case.head, case.targets, kept, case.coefficient, case.original)


@pytest.mark.parametrize("form", [PLAIN, BOTH], ids=["plain", "scaled and capped"])
@pytest.mark.parametrize("at_a_time", [1, 4, 1000])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_has_the_value_and_gradient_of_its_definition(
    name: str, at_a_time: int, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", at_a_time * V)
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 1)
    case = Case(bias=True, **form)
    term, definition = TERMS[name]
    logits = full_logits(case.hidden, case.head)
    old = full_logits(case.original_hidden, case.original)
    expected = (case.coefficient * definition(logits, old, case.targets, TOKENS)).sum()
    value = term_loss(term, case)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    ours = torch.autograd.grad(3.0 * value, case.leaves)
    theirs = torch.autograd.grad(3.0 * expected, case.leaves)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


def test_labels_are_the_case_of_a_target_that_is_all_on_one_token() -> None:
    case = Case(bias=True)
    hot = torch.nn.functional.one_hot(case.labels, V).double()

    def one_token(rows: slice) -> tuple[Tensor, Tensor]:
        return hot[rows], torch.zeros_like(hot[rows])  # log 1, and 0 times anything

    value = kl_to_target(case.hidden, case.head, one_token, case.coefficient)
    labelled = cross_entropy(case.hidden, case.head, case.labels, case.coefficient)
    torch.testing.assert_close(value, labelled, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v, case.leaves) for v in (value, labelled))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for name in ("random_label", "adversarial"):
        assert isinstance(METHODS[name].forget, LabelTerm)


# ---- fixed points ---------------------------------------------------------------------------


def stopped(p: Tensor, target: Target) -> tuple[float, float]:
    """(loss, largest gradient by a logit) of a model that predicts p, (n, V)."""
    logits = p.log().requires_grad_()
    head = Head(torch.eye(V, dtype=torch.float64))
    loss = kl_to_target(logits, head, target, torch.ones(len(p), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, [logits])
    return loss.item(), gradient.abs().max().item()


@pytest.mark.parametrize("beta", [1.0, 5.0, 10.0])
def test_undial_stops_where_the_truths_odds_have_fallen_by_e_to_the_beta(beta: float) -> None:
    make = torch.Generator().manual_seed(1)
    old = torch.randn(3, V, generator=make, dtype=torch.float64)
    head, y = Head(torch.eye(V, dtype=torch.float64)), torch.tensor([0, 4, V - 1])
    rows = torch.arange(3)
    p = old.softmax(1)
    true = p[rows, y]
    lowered = true * math.exp(-beta) / (true * math.exp(-beta) + 1 - true)
    p *= ((1 - lowered) / (1 - true))[:, None]  # the other tokens share the rest as they did
    p[rows, y] = lowered
    target = lowered_target(old, head, y, beta)
    loss, gradient = stopped(p, target)
    assert abs(loss) < 1e-14 and gradient < 1e-15
    away, push = stopped(old.softmax(1), target)
    assert away > 0.01 and push > 0.01


def test_maximum_entropy_stops_at_a_perplexity_of_the_vocabulary() -> None:
    head = Head(torch.eye(V, dtype=torch.float64))
    p = torch.full((3, V), 1 / V, dtype=torch.float64)
    loss, gradient = stopped(p, uniform_target(head, V))
    assert abs(loss) < 1e-14 and gradient < 1e-15
    perplexity = cross_entropy(p.log(), head, torch.tensor([0, 4, 7]), torch.ones(3) / 3).exp()
    assert perplexity.item() == pytest.approx(V, rel=1e-6)


def test_the_uniform_target_gives_rows_that_pad_the_head_nothing() -> None:
    q, logq = uniform_target(Head(torch.zeros(V, 2)), TOKENS)(slice(0, 5))
    assert not q[:, TOKENS:].any() and logq.isfinite().all()
    torch.testing.assert_close(q[:, :TOKENS].sum(), torch.tensor(1.0))
    torch.testing.assert_close(logq[:, :TOKENS].exp(), q[:, :TOKENS])


def test_maximum_entropy_spreads_over_the_tokenizers_tokens() -> None:
    chunk = Chunk("a#0", "a", (1, 5, 6, 7))
    original = Original(chunk, None, Head(torch.zeros(9, 2)), frozenset(), 7, 0, "aligned")
    assert MaximumEntropy().prepare(original).tolist() == [7, 7, 7]


# ---- Jensen-Shannon -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_jensen_shannon_of_equal_models_is_zero_with_zero_gradient(dtype: torch.dtype) -> None:
    case = Case(bias=True, dtype=dtype)
    value = jensen_shannon(
        case.hidden, case.head, case.hidden.detach(), case.head.detach(), case.coefficient
    )
    assert value.item() == 0.0
    for gradient in torch.autograd.grad(value, case.leaves):
        assert not gradient.any()


def test_jensen_shannon_is_symmetric_and_bounded_where_kl_is_not() -> None:
    one = torch.tensor([[1.0]]).double()
    sure, other = (Head(torch.tensor([[z], [-z]]).double()) for z in (400.0, -400.0))
    weight = torch.ones(1).double()
    there, back = (
        jensen_shannon(one, sure, one, other, weight),
        jensen_shannon(one, other, one, sure, weight),
    )
    assert there.item() == back.item() == pytest.approx(math.log(2), rel=1e-12)
    assert kl_to_reference(one, sure, one, other, weight).item() > 700
    case = Case(bias=True)
    old = case.original_hidden
    same = Head(case.original.weight, case.original.bias)
    forth = jensen_shannon(case.hidden, case.head, old, same, case.coefficient)
    back = jensen_shannon(old, same, case.hidden.detach(), case.head.detach(), case.coefficient)
    torch.testing.assert_close(forth.detach(), back, rtol=1e-12, atol=1e-12)
    assert 0 < forth.item() < case.coefficient.sum().item() * math.log(2)


# ---- in an update ---------------------------------------------------------------------------


def chunks_of(name: str, count: int = 5) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_of_an_update_is_that_of_single_chunks_with_full_logits(name: str) -> None:
    original = tiny_llama()
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.3)
    term, definition = TERMS[name]
    chunks, other = chunks_of("these"), chunks_of("others")
    reference, total = copy.deepcopy(model), 0.0
    for chunk in chunks:
        y, rows = torch.tensor(chunk.tokens[chunk.context :]), slice(chunk.context - 1, -1)
        with torch.no_grad():
            old = logits_of(original, chunk)[rows]
        each = definition(logits_of(reference, chunk)[rows], old, y, VOCABULARY)
        loss = 0.7 * each.sum() / sum(c.targets for c in chunks)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item() / 0.7
    for chunk in other:
        y, rows = torch.tensor(chunk.tokens[chunk.context :]), slice(chunk.context - 1, -1)
        loss = full_cross_entropy(logits_of(reference, chunk)[rows], y, reduction="sum")
        (loss / sum(c.targets for c in other)).backward()  # type: ignore[no-untyped-call]
    labelling = Labelling(frozenset({0, 1, 2}), VOCABULARY)
    kept = keep_original(original, chunks, term, labelling, execution=QUIET)
    assert HEAD_ROWS > VOCABULARY
    assert isinstance(term, KeepsStates) == all(k is not None and k.dim() == 2 for k in kept)
    parts = [Part("these", chunks, term, 0.7, kept), Part("others", other, Descent())]
    outcome = optimise(model, parts, Training(1, 100, lambda _: 0.0), execution=QUIET)
    assert outcome.trajectory[0]["these"] == pytest.approx(total, rel=1e-9)
    torch.testing.assert_close(
        flat_gradient(model), flat_gradient(reference), rtol=1e-8, atol=1e-11
    )
