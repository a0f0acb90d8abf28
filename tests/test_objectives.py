"""Every term against an independent reference in float64 with full logits: value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearnlib import objectives
from unlearnlib.methods import AdversarialLabels, Ascent, Descent, KLToOriginal, RandomLabels, Term
from unlearnlib.objectives import (
    Head,
    cross_entropy,
    cross_entropy_by_group,
    kl_to_reference,
    positions_per_chunk,
)

N, H, V = 23, 6, 11
Reference = Callable[["Case", Tensor, Tensor, Tensor | None], Tensor]


class Case:
    """Random hidden states, heads and labels in float64."""

    def __init__(
        self,
        bias: bool,
        count: int = N,
        dtype: torch.dtype = torch.float64,
        scale: float = 1.0,
        cap: float | None = None,
    ):
        make = torch.Generator().manual_seed(7)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make, dtype=torch.float64).to(dtype)

        self.hidden = normal(count, H).requires_grad_()
        self.weight = normal(V, H).requires_grad_()
        self.bias = normal(V).requires_grad_() if bias else None
        self.original_hidden = normal(count, H)
        self.scale, self.cap = scale, cap
        self.original = Head(normal(V, H), normal(V) if bias else None, scale, cap)
        self.targets = torch.randint(V, (count,), generator=make)
        self.labels = torch.randint(V, (count,), generator=make)
        # Some positions count more than others, and some not at all.
        self.coefficient = torch.rand(count, generator=make, dtype=torch.float64)
        self.coefficient[:3] = 0.0

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.hidden, self.weight, self.bias) if t is not None]

    @property
    def head(self) -> Head:
        return Head(self.weight, self.bias, self.scale, self.cap)


def full_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = head.scale * (hidden @ head.weight.T + (0 if head.bias is None else head.bias))
    return logits if head.cap is None else head.cap * (logits / head.cap).tanh()


def reference_cross_entropy(labels: Tensor, case: Case) -> Tensor:
    logits = full_logits(case.hidden, case.head)
    surprise = logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]
    return (case.coefficient * surprise).sum()


def reference_kl(case: Case) -> Tensor:
    p = full_logits(case.hidden, case.head).softmax(1)
    q = full_logits(case.original_hidden, case.original).softmax(1)
    return (case.coefficient[:, None] * q * (q / p).log()).sum()


TERMS: dict[str, tuple[Term, Callable[[Case], Tensor | None], Callable[[Case], Tensor]]] = {
    "ascent": (Ascent(), lambda c: None, lambda c: -reference_cross_entropy(c.targets, c)),
    "descent": (Descent(), lambda c: None, lambda c: reference_cross_entropy(c.targets, c)),
    "random labels": (
        RandomLabels(),
        lambda c: c.labels,
        lambda c: reference_cross_entropy(c.labels, c),
    ),
    "adversarial labels": (
        AdversarialLabels(),
        lambda c: c.labels,
        lambda c: reference_cross_entropy(c.labels, c),
    ),
    "kl": (KLToOriginal(), lambda c: c.original_hidden, reference_kl),
}


PLAIN = {"scale": 1.0, "cap": None}
SCALED, CAPPED = {"scale": 0.3, "cap": None}, {"scale": 1.0, "cap": 2.0}
BOTH = {"scale": 1.7, "cap": 1.5}


@pytest.mark.parametrize("form", [PLAIN, SCALED, CAPPED, BOTH], ids=["plain", "s", "c", "s and c"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("at_a_time", [1, 4, N, 1000])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_has_the_value_and_gradient_of_its_definition(
    name: str,
    at_a_time: int,
    bias: bool,
    form: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", at_a_time * V)
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 1)
    case = Case(bias, **form)
    assert positions_per_chunk(case.weight) == at_a_time
    term, kept, reference = TERMS[name]
    value = term.loss(
        case.hidden, case.head, case.targets, kept(case), case.coefficient, case.original
    )
    expected = reference(case)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(3.0 * value, case.leaves)  # an outer factor passes through
    theirs = torch.autograd.grad(3.0 * expected, case.leaves)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    case = Case(bias=True, count=4)
    term, kept, _ = TERMS[name]

    def value() -> Tensor:
        return term.loss(
            case.hidden, case.head, case.targets, kept(case), case.coefficient, case.original
        )

    step = 1e-6
    for leaf, gradient in zip(case.leaves, torch.autograd.grad(value(), case.leaves), strict=True):
        numbers, slopes = leaf.detach().view(-1), gradient.reshape(-1)
        for index in range(len(numbers)):
            before = numbers[index].item()
            ends = []
            for shifted in (before + step, before - step):
                numbers[index] = shifted
                ends.append(value().item())
            numbers[index] = before
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slopes[index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    case = Case(bias=False)
    value = cross_entropy(case.hidden, case.head, case.labels, case.coefficient)
    value.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="freed"):
        value.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_a_frozen_tensor_gets_no_gradient_and_the_others_keep_theirs(frozen: str) -> None:
    case = Case(bias=True)
    getattr(case, frozen).requires_grad_(False)
    leaves = [t for t in case.leaves if t.requires_grad]
    ours = torch.autograd.grad(
        cross_entropy(case.hidden, case.head, case.labels, case.coefficient), leaves
    )
    theirs = torch.autograd.grad(reference_cross_entropy(case.labels, case), leaves)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-11, atol=1e-12)


def test_a_bias_alone_can_be_trained() -> None:
    case = Case(bias=True)
    case.hidden.requires_grad_(False)
    case.weight.requires_grad_(False)
    assert case.bias is not None
    (ours,) = torch.autograd.grad(
        cross_entropy(case.hidden, case.head, case.labels, case.coefficient), [case.bias]
    )
    (right,) = torch.autograd.grad(reference_cross_entropy(case.labels, case), [case.bias])
    torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-12)


def test_ascent_is_bit_for_bit_the_negative_of_descent() -> None:
    case = Case(bias=True, dtype=torch.float32)
    sides = [
        term.loss(case.hidden, case.head, case.targets, None, case.coefficient, case.original)
        for term in (Ascent(), Descent())
    ]
    up, down = (torch.autograd.grad(side, case.leaves) for side in sides)
    assert sides[0].item() == -sides[1].item()
    for one, other in zip(up, down, strict=True):
        assert torch.equal(one, -other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kl_between_equal_models_is_zero_with_zero_gradient(dtype: torch.dtype) -> None:
    case = Case(bias=True, dtype=dtype)
    value = kl_to_reference(
        case.hidden, case.head, case.hidden.detach(), case.head.detach(), case.coefficient
    )
    assert value.item() == 0.0
    for gradient in torch.autograd.grad(value, case.leaves):
        assert not gradient.any()


def test_kl_is_from_the_original_to_the_current_and_not_the_reverse() -> None:
    # Two tokens, by hand: the original is (1/2, 1/2), the current model (1/4, 3/4).
    one = torch.ones(1, 1, dtype=torch.float64)
    current = Head(torch.tensor([[0.0], [3.0]], dtype=torch.float64).log().nan_to_num(neginf=0.0))
    original = Head(torch.zeros(2, 1, dtype=torch.float64))
    value = kl_to_reference(one, current, one, original, torch.ones(1)).item()
    forward = 0.5 * torch.tensor([2.0, 2 / 3], dtype=torch.float64).log().sum().item()
    reverse = 0.25 * torch.tensor(0.5).log().item() + 0.75 * torch.tensor(1.5).log().item()
    assert value == pytest.approx(forward, rel=1e-12)
    assert abs(value - reverse) > 1e-3


def test_kl_is_a_divergence_and_not_a_cross_entropy() -> None:
    case = Case(bias=False)
    value = kl_to_reference(
        case.hidden, case.head, case.original_hidden, case.original, case.coefficient
    )
    p = full_logits(case.hidden, case.head).log_softmax(1)
    q = full_logits(case.original_hidden, case.original).log_softmax(1)
    each = torch.nn.functional.kl_div(p, q, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(value, (each * case.coefficient).sum(), rtol=1e-12, atol=1e-12)


def test_positions_with_coefficient_zero_are_left_out() -> None:
    case = Case(bias=False)
    keep = slice(3, None)
    whole = cross_entropy(case.hidden, case.head, case.labels, case.coefficient)
    part = cross_entropy(case.hidden[keep], case.head, case.labels[keep], case.coefficient[keep])
    torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(whole, [case.hidden])
    assert not gradient[:3].any()
    assert gradient[3:].any()


def test_no_positions_give_a_loss_of_zero() -> None:
    case = Case(bias=False, count=4)
    none = slice(0, 0)
    value = cross_entropy(case.hidden[none], case.head, case.labels[none], case.coefficient[none])
    assert value.item() == 0.0
    for gradient in torch.autograd.grad(value, case.leaves):
        assert not gradient.any()


def test_bfloat16_hidden_states_sum_in_float32() -> None:
    case = Case(bias=False, count=400, dtype=torch.bfloat16)
    value = cross_entropy(case.hidden, case.head, case.labels, case.coefficient)
    assert value.dtype == torch.float32
    wide = torch.nn.functional.linear(case.hidden, case.weight).double()
    expected = torch.nn.functional.cross_entropy(wide, case.labels, reduction="none")
    assert value.item() == pytest.approx((expected * case.coefficient).sum().item(), rel=1e-4)
    for gradient, leaf in zip(torch.autograd.grad(value, case.leaves), case.leaves, strict=True):
        assert gradient.dtype == leaf.dtype


def test_a_huge_logit_neither_overflows_nor_underflows() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    head = Head(torch.tensor([[1.0], [-1.0]]))
    value = cross_entropy(hidden, head, torch.tensor([0, 0]), torch.ones(2))
    assert value.item() == pytest.approx(2e4)
    same = kl_to_reference(hidden, head, hidden.detach(), head, torch.ones(2))
    assert same.item() == 0.0


def test_groups_are_told_apart_in_value_and_share_one_gradient() -> None:
    case = Case(bias=True)
    group = torch.arange(len(case.labels)) % 3
    total, each = cross_entropy_by_group(
        case.hidden, case.head, case.labels, case.coefficient, group, 4
    )
    alone = [
        cross_entropy(case.hidden[g], case.head, case.labels[g], case.coefficient[g])
        for g in (group == number for number in range(4))
    ]
    torch.testing.assert_close(each, torch.stack(alone).detach())
    assert each[3] == 0 and not each.requires_grad
    ours = torch.autograd.grad(total, case.leaves)
    theirs = torch.autograd.grad(torch.stack(alone).sum(), case.leaves)
    torch.testing.assert_close(ours, theirs)
