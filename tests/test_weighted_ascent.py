"""Weighted ascent: each row against a few lines of plain torch, and what theory says of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from helpers import (
    LENGTH,
    QUIET,
    documents,
    flat_gradient,
    logits_of,
    tiny_bench,
    tiny_llama,
    tiny_tokenizer,
)
from test_objectives import BOTH, PLAIN, Case, full_logits
from torch import Tensor
from torch.nn.functional import cross_entropy as full_cross_entropy

from unlearnlib import objectives, run
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import Labelling, Part, Training, keep_original, optimise, order
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS, Descent
from unlearnlib.objectives import Head, log_probability
from unlearnlib.spec import RunSpec
from unlearnlib.terms import Ascent
from unlearnlib.weighted_ascent import (
    NPO,
    WGA,
    SatImp,
    SimNPO,
    TokenNPO,
    Unlikelihood,
    WeightedAscent,
)

SPECIAL = frozenset({0, 1, 2})
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


# The definitions, of one chunk: z (T, V) logits, y (T,) true tokens, r (T,) log r -> the chunk's
# loss, of which autograd takes the gradient.


def logp_of(z: Tensor, y: Tensor) -> Tensor:
    return z.log_softmax(1)[torch.arange(len(y)), y]


def npo(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    ratio = (logp_of(z, y).sum() - r.sum()).exp()  # P / R
    return -(2 / 0.1) * (1 / (1 + ratio**0.1)).log()


def simnpo(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    nll = full_cross_entropy(z, y)
    return -len(y) * (2 / 4.5) * (1 / (1 + (-4.5 * nll).exp())).log()


def tnpo(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    p, q = logp_of(z, y).exp().detach(), r.exp()
    return -(2 * p**4 / (p**4 + q**4) * full_cross_entropy(z, y, reduction="none")).sum()


def wga(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    each = full_cross_entropy(z, y, reduction="none")
    return -((-each).exp().detach() ** 5 * each).sum()


def satimp(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    each = full_cross_entropy(z, y, reduction="none")
    p = (-each).exp().detach()
    return -(p**5 * (1 - p) * each).sum()


def unlikelihood(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return -(1 - logp_of(z, y).exp()).log().sum()


ROWS: dict[str, tuple[WeightedAscent, Loss]] = {
    "npo": (NPO(), npo),
    "simnpo": (SimNPO(), simnpo),
    "tnpo": (TokenNPO(), tnpo),
    "wga": (WGA(), wga),
    "satimp": (SatImp(), satimp),
    "ceu": (Unlikelihood(), unlikelihood),
}
LENGTHS = (7, 1, 10, 5)  # of the chunks that a case's 23 positions are of


def chunks_in(case: Case) -> list[slice]:
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return [slice(end - length, end) for end, length in zip(ends, LENGTHS, strict=True)]


def original_logp(case: Case) -> Tensor:
    return logp_of(full_logits(case.original_hidden, case.original), case.targets)


def grads(value: Tensor, case: Case) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, case.leaves)


def term_loss(term: WeightedAscent, case: Case, coefficient: Tensor) -> Tensor:
    kept = original_logp(case) if term.needs_original else None
    return term.loss(
        case.hidden, case.head, case.targets, kept, coefficient, case.original, LENGTHS
    )


@pytest.mark.parametrize("form", [PLAIN, BOTH], ids=["plain", "scaled and capped"])
@pytest.mark.parametrize("at_a_time", [1, 4, 1000])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_value_and_gradient_of_its_definition(
    name: str, at_a_time: int, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(bias=True, **form)
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", at_a_time * len(case.weight))
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 1)
    term, definition = ROWS[name]
    share = torch.tensor([0.5, 2.0, 0.0, 0.7], dtype=torch.float64)  # of each chunk
    logits, r = full_logits(case.hidden, case.head), original_logp(case)
    losses = [definition(logits[c], case.targets[c], r[c]) for c in chunks_in(case)]
    expected = (share * torch.stack(losses)).sum()
    value = term_loss(term, case, share.repeat_interleave(torch.tensor(LENGTHS)))
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    ours, theirs = grads(3.0 * value, case), grads(3.0 * expected, case)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


def test_every_row_of_the_family_is_tested_here() -> None:
    rows = {n for n, m in METHODS.items() if isinstance(m.forget, WeightedAscent)}
    assert rows == {*ROWS, *(f"{name}_gd_in_dist" for name in ROWS)}
    for name, (term, _) in ROWS.items():
        assert METHODS[name].forget == term and METHODS[name].retain is None
        other = METHODS[f"{name}_gd_in_dist"]
        assert (other.forget, other.retain) == (term, Descent())


# ---- identities -----------------------------------------------------------------------------


def ascent_by_chunk(case: Case) -> list[tuple[Tensor, ...]]:
    """The gradients of plain ascent on each chunk alone."""
    return [
        grads(
            Ascent().loss(
                case.hidden[c], case.head, case.targets[c], None, case.coefficient[c] * 0 + 1,
                case.original,
            ),
            case,
        )
        for c in chunks_in(case)
    ]  # fmt: skip


def ones(case: Case) -> Tensor:
    return torch.ones(len(case.targets), dtype=torch.float64)


def logp_now(case: Case) -> Tensor:
    return logp_of(full_logits(case.hidden, case.head), case.targets).detach()


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_the_gradient_of_npo_is_twice_a_sigmoid_times_that_of_ascent(beta: float) -> None:
    case = Case(bias=True)
    margin = logp_now(case) - original_logp(case)
    expected = [torch.zeros_like(leaf) for leaf in case.leaves]
    for c, parts in zip(chunks_in(case), ascent_by_chunk(case), strict=True):
        weight = 2 / (1 + math.exp(-beta * margin[c].sum().item()))
        expected = [e + weight * part for e, part in zip(expected, parts, strict=True)]
    found = grads(term_loss(NPO(beta=beta), case, ones(case)), case)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_the_gradient_of_simnpo_is_twice_a_sigmoid_times_that_of_ascent(gamma: float) -> None:
    case = Case(bias=True)
    expected = [torch.zeros_like(leaf) for leaf in case.leaves]
    for c, parts in zip(chunks_in(case), ascent_by_chunk(case), strict=True):
        nll = -logp_now(case)[c].mean().item()
        weight = 2 / (1 + math.exp(2.5 * (nll - gamma)))
        expected = [e + weight * part for e, part in zip(expected, parts, strict=True)]
    found = grads(term_loss(SimNPO(beta=2.5, gamma=gamma), case, ones(case)), case)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


def test_npo_tends_to_ascent_as_beta_tends_to_0() -> None:
    """Proposition 1 of its authors: (2 / beta) log 2 a chunk apart, in value and gradient."""
    case = Case(bias=True)
    plain = Ascent().loss(case.hidden, case.head, case.targets, None, ones(case), case.original)
    shift = original_logp(case).sum()
    far = []
    for beta in (1e-2, 1e-4, 1e-6):
        value = term_loss(NPO(beta=beta), case, ones(case))
        rest = value - len(LENGTHS) * (2 / beta) * math.log(2) - (plain - shift)
        gaps = [
            float((a - b).abs().max())
            for a, b in zip(grads(value, case), grads(
                Ascent().loss(
                    case.hidden, case.head, case.targets, None, ones(case), case.original
                ), case), strict=True)
        ]  # fmt: skip
        far.append((abs(rest.item()), max(gaps)))
    assert far[0] > far[1] > far[2] and far[2][0] < 1e-3 and far[2][1] < 1e-3


def test_the_gradient_of_unlikelihood_is_that_of_ce_u_and_a_multiple_of_ascents() -> None:
    """CE-U as its author has it: cross-entropy against one's own softmax without the truth."""
    case = Case(bias=True)
    logits = full_logits(case.hidden, case.head)
    others = logits.detach().clone()
    others[torch.arange(len(others)), case.targets] = -torch.inf
    author = grads(full_cross_entropy(logits, others.softmax(1), reduction="sum"), case)
    found = grads(term_loss(Unlikelihood(), case, ones(case)), case)
    p = logp_now(case).exp()
    multiple = grads(
        Ascent().loss(case.hidden, case.head, case.targets, None, p / (1 - p), case.original),
        case,
    )
    for mine, one, two in zip(found, author, multiple, strict=True):
        torch.testing.assert_close(mine, one, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(mine, two, rtol=1e-9, atol=1e-11)


def test_two_rows_are_ascent_at_0_and_satimp_without_its_second_power_is_wga() -> None:
    case = Case(bias=True)
    logp, r = logp_now(case), original_logp(case)
    assert torch.equal(WGA(beta=0.0).weigh(logp, None, LENGTHS)[0], ones(case))
    satimp, wga = SatImp(beta=2.0, gamma=0.0), WGA(beta=2.0)
    assert torch.equal(satimp.weigh(logp, None, LENGTHS)[0], wga.weigh(logp, None, LENGTHS)[0])
    # A token that is as likely as it was takes part in full, in both kinds of NPO.
    for term in (NPO(), TokenNPO()):
        assert torch.equal(term.weigh(r, r, LENGTHS)[0], ones(case))


def test_npo_of_a_long_chunk_stops_where_token_npo_goes_on() -> None:
    """2048 tokens that have each lost 0.05 nats: 2 sigma(-10.24) is 7e-5."""
    r = torch.full((2048,), -3.0, dtype=torch.float64)
    logp = r - 0.05
    whole = NPO(beta=0.1).weigh(logp, r, [2048])[0][0].item()
    assert whole == pytest.approx(2 / (1 + math.exp(10.24)), rel=1e-9)
    assert TokenNPO(beta=0.1).weigh(logp, r, [2048])[0][0].item() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROWS)
def test_no_weight_is_infinite_for_certain_or_impossible_tokens(
    name: str, dtype: torch.dtype
) -> None:
    logp = torch.tensor([0.0, -1e-9, -1e-7, -50.0, -1e4], dtype=dtype)
    kept = torch.zeros(5, dtype=dtype)
    weight, loss = ROWS[name][0].weigh(logp, kept, [2, 3])
    assert weight.isfinite().all() and loss.isfinite().all() and (weight >= 0).all()
    forgotten = ROWS[name][0].weigh(torch.full((3,), -1e4, dtype=dtype), kept[:3], [3])[0]
    assert (forgotten < 1e-30).all()


@pytest.mark.parametrize("term", [NPO, SimNPO, TokenNPO])
@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_divided_by_is_above_0(term: type[Any], beta: float) -> None:
    with pytest.raises(UnlearnError, match=rf"beta is {beta}: give a number above 0\."):
        term(beta=beta)


# ---- in an update ---------------------------------------------------------------------------


def chunks_of(name: str, count: int = 5) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


def kept_of(model: Any, term: Any, chunks: Sequence[Chunk]) -> list[Tensor | None]:
    labelling = Labelling(SPECIAL, len(tiny_tokenizer()))
    return keep_original(model, chunks, term, labelling, execution=QUIET)


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_of_an_update_is_that_of_single_chunks_with_full_logits(name: str) -> None:
    original = tiny_llama()
    model = copy.deepcopy(original)
    with torch.no_grad():
        for number, parameter in enumerate(model.model.layers.parameters()):
            make = torch.Generator().manual_seed(number)
            parameter += 0.05 * torch.randn(parameter.shape, generator=make, dtype=parameter.dtype)
    term, definition = ROWS[name]
    forget, retain = chunks_of("forget"), chunks_of("retain")
    kept = kept_of(original, term, forget)
    reference, total = copy.deepcopy(model), 0.0
    targets = sum(chunk.targets for chunk in forget)
    for chunk in forget:
        y = torch.tensor(chunk.tokens[chunk.context :])
        rows = slice(chunk.context - 1, -1)
        with torch.no_grad():
            r = logp_of(logits_of(original, chunk)[rows], y)
        loss = definition(logits_of(reference, chunk)[rows], y, r) / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    for chunk in retain:
        y = torch.tensor(chunk.tokens[chunk.context :])
        loss = -logp_of(logits_of(reference, chunk)[chunk.context - 1 : -1], y).sum()
        (0.7 * loss / sum(c.targets for c in retain)).backward()  # type: ignore[no-untyped-call]
    parts = [Part("forget", forget, term, 1.0, kept), Part("retain", retain, Descent(), 0.7)]
    outcome = optimise(model, parts, Training(1, 100, lambda _: 0.0), execution=QUIET)
    assert outcome.trajectory[0]["forget"] == pytest.approx(total, rel=1e-10)
    torch.testing.assert_close(
        flat_gradient(model), flat_gradient(reference), rtol=1e-8, atol=1e-11
    )


def test_what_is_kept_of_the_original_is_a_number_per_target() -> None:
    model, chunks = tiny_llama(), chunks_of("forget")
    for term in (NPO(), TokenNPO()):
        for chunk, kept in zip(chunks, kept_of(model, term, chunks), strict=True):
            assert kept is not None and kept.shape == (chunk.targets,)
            y = torch.tensor(chunk.tokens[chunk.context :])
            with torch.no_grad():
                right = logp_of(logits_of(model, chunk)[chunk.context - 1 : -1], y)
            torch.testing.assert_close(kept, right, rtol=1e-10, atol=1e-12)
    for name in ("simnpo", "wga", "satimp", "ceu"):
        assert kept_of(model, ROWS[name][0], chunks) == [None] * len(chunks)


@pytest.mark.parametrize("name", ROWS)
def test_full_logits_never_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK_FLOATS", 1)
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", 3)
    most = 0
    logits = Head.logits

    def watched(head: Head, hidden: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(hidden))
        return logits(head, hidden)

    monkeypatch.setattr(Head, "logits", watched)
    term_loss(ROWS[name][0], Case(bias=True), ones(Case(bias=True)))
    assert most == 3


def test_log_probability_has_no_gradient_and_is_that_of_full_logits() -> None:
    case = Case(bias=True, **BOTH)
    found = log_probability(case.hidden, case.head, case.targets)
    assert not found.requires_grad
    torch.testing.assert_close(found, logp_now(case), rtol=1e-12, atol=1e-12)
    narrow = Case(bias=False, dtype=torch.bfloat16)
    assert log_probability(narrow.hidden, narrow.head, narrow.targets).dtype == torch.float32


def test_with_lora_the_number_per_target_is_stored_and_not_computed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("the original model was run again")

    monkeypatch.setattr(run, "_recompute_reference", never)
    bench = tiny_bench()
    spec = RunSpec(method="npo", updates=2, batch_size=3, precision="float64", lora_rank=2)
    _, record = run.execute(bench, spec)
    chunks = bench.chunks("forget")
    drawn = [chunks[i].targets for i in islice(order(0, "forget", len(chunks)), 3)]
    # Before the first update P is R, in every chunk.
    start = 3 * (2 / 0.1) * math.log(2) / sum(drawn)
    assert record.trajectory[0]["forget"] == pytest.approx(start, rel=1e-7)
    assert record.trajectory[1]["forget"] < start
