"""Floating-point operations: counted by hand, and against real models."""

from __future__ import annotations

import pytest
import torch
from helpers import HEAD_ROWS, tiny_llama

from unlearnlib.cost import YI_6B, YI_6B_TOKENS, Account, LlamaShape, run_flops
from unlearnlib.errors import UnlearnError
from unlearnlib.models import parameter_count

TINY = LlamaShape(16, 2, 4, 2, 32, HEAD_ROWS)


def test_the_shape_counts_the_parameters_of_a_real_llama() -> None:
    assert TINY.parameters() == parameter_count(tiny_llama())
    tied = LlamaShape(16, 2, 4, 2, 32, HEAD_ROWS, tied=True)
    assert tied.parameters() == parameter_count(tiny_llama(tied=True))


def test_yi_6b_has_its_six_billion_parameters() -> None:
    # 32 layers of attention 2 x 4096^2 + 2 x 4096 x 512, MLP 3 x 4096 x 11008, 2 norms.
    layer = 2 * 4096**2 + 2 * 4096 * 512 + 3 * 4096 * 11008 + 2 * 4096
    assert YI_6B.parameters() == 32 * layer + 4096 + 2 * 64000 * 4096
    assert YI_6B.parameters() == pytest.approx(6.06e9, rel=0.01)


@pytest.mark.parametrize("tied", [False, True])
def test_a_run_costs_six_operations_per_active_parameter_and_token(tied: bool) -> None:
    # The table that is only looked up costs nothing; tied to the head it works as the head.
    assert run_flops(tiny_llama(tied=tied), 10) == 6 * 10 * TINY.active_parameters()


def test_the_model_of_a_run_counts_what_pytorch_counts_without_attention_scores() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, tokens = tiny_llama(dtype=torch.float32), 3
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, tokens, dtype=torch.int64)).logits.sum().backward()
    # The norms multiply element by element, which the counter leaves out; attention over three
    # tokens adds a little, which our account leaves out.
    assert run_flops(model, tokens) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_ratio_is_one_of_tokens() -> None:
    account = Account(
        parameters=5.0, chunks=10, length=100, parts=2, pretraining_tokens=4_000_000.0
    )
    assert account.unlearning_tokens == 2000
    assert account.unlearning_flops == 6 * 5 * 2000
    assert account.retraining_flops == 6 * 5 * 4e6
    assert account.ratio == 2000.0


def test_the_papers_claim_of_1e5_holds_for_its_own_settings() -> None:
    # 500 documents of arXiv in chunks of 4096, were each of them ten chunks, with retain data.
    account = Account(YI_6B.active_parameters(), 5000, 4096, 2, YI_6B_TOKENS)
    assert account.ratio > 1e4
    assert Account(YI_6B.active_parameters(), 480, 4096, 2, YI_6B_TOKENS).ratio > 1e5


@pytest.mark.parametrize("field", ["parameters", "chunks", "length", "parts", "pretraining_tokens"])
def test_an_account_without_a_term_is_an_error(field: str) -> None:
    terms = {"parameters": 1, "chunks": 1, "length": 1, "parts": 1, "pretraining_tokens": 1}
    with pytest.raises(UnlearnError, match="not positive: give counts above 0"):
        Account(**(terms | {field: 0}))
