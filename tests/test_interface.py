"""The Python interface: one kind of error, before anything is changed, and threads side by side."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, documents, flat, tiny_llama, tiny_tokenizer

from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, model_hash
from unlearnlib.run import unlearn
from unlearnlib.scoring import score

TEXTS = [d.text for d in documents("forget", 4)]
HALF = "The clerk carried the river stone home, smiling \ud83d and singing loudly."


def call(model: Any, **changes: Any) -> Any:
    usual: dict[str, Any] = {
        "method": "ga",
        "forget": TEXTS,
        "length": LENGTH,
        "updates": 2,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "execution": QUIET,
    }
    return unlearn(model, tiny_tokenizer(), **(usual | changes))


def llama(seed: int = 0) -> Any:
    return tiny_llama(dtype=torch.float32, seed=seed)


def shaken() -> Any:
    """A model with dropout."""
    model = llama()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    return model


def dropouts(model: Any) -> set[float]:
    return {m.attention_dropout for m in model.modules() if hasattr(m, "attention_dropout")}


def not_finite() -> Any:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[3, 5] = float("nan")
    return model


def sentence(action: Callable[[], Any]) -> str:
    with pytest.raises(UnlearnError) as caught:
        action()
    text = str(caught.value)
    assert text.endswith((".", ").")) and "\n" not in text
    return text


def test_half_a_letter_is_named() -> None:
    said = "number 2 of {} is not valid Unicode (character 48)"
    texts = [TEXTS[0], HALF]
    assert said.format("forget") in sentence(lambda: call(llama(), forget=texts))
    assert said.format("text") in sentence(lambda: score(llama(), tiny_tokenizer(), texts))
    assert "retain" in sentence(lambda: call(llama(), retain=[HALF], method="ga_gd_in_dist"))


def test_a_model_without_weights_is_named() -> None:
    empty = llama().to("meta")
    said = "has no weights in memory, none in 'model.embed_tokens.weight' for one"
    assert f"the model {said}" in sentence(lambda: call(empty))
    assert said in sentence(lambda: score(empty, tiny_tokenizer(), TEXTS))
    assert f"the oracle {said}" in sentence(lambda: call(llama(), oracle=empty))


def test_weights_that_are_not_finite_are_named_before_anything_is_done() -> None:
    said = "the model's weights are not finite, 'lm_head.weight' for one"
    assert said in sentence(lambda: call(not_finite()))
    assert said in sentence(lambda: score(not_finite(), tiny_tokenizer(), TEXTS))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_can_be_trained(off: Any) -> None:
    model = llama()
    with off():
        assert "gradients are switched off here" in sentence(lambda: call(model))
        score(model, tiny_tokenizer(), TEXTS, length=LENGTH)


@pytest.mark.parametrize("length", [0, -1, 4, "x", None, 2.5, 1e3 + 0.5, True, 10**30])
def test_a_length_that_is_none_is_named(length: Any) -> None:
    assert "length is" in sentence(lambda: score(llama(), tiny_tokenizer(), TEXTS, length=length))


def test_an_execution_that_is_none_is_named() -> None:
    wrong: Any = 3
    assert "execution is 3" in sentence(
        lambda: score(llama(), tiny_tokenizer(), TEXTS, execution=wrong)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": -1},
        {"method": "ga_gd_in_dist"},  # without retain texts
        {"length": 500, "forget": [" ".join(TEXTS) * 9]},
        {"requests": 9},
        {"forget": []},
        {"forget": [HALF]},
        {"lora_rank": 2, "lora_alpha": 0},
    ],
)
def test_an_error_comes_before_the_model_is_changed(changes: dict[str, Any]) -> None:
    model = shaken()
    before = model_hash(model)
    sentence(lambda: call(model, **changes))
    assert dropouts(model) == {0.5} and model_hash(model) == before
    assert all(p.requires_grad for p in model.parameters())


def test_a_frozen_model_keeps_its_dropout_too() -> None:
    model = shaken().requires_grad_(False)
    sentence(lambda: call(model))
    assert dropouts(model) == {0.5}


def test_a_run_sets_dropout_to_zero() -> None:
    model = shaken()
    call(model)
    assert dropouts(model) == {0.0}


def at_once(action: Callable[[int], Any], count: int = 4) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(action, range(count)))


def test_models_are_loaded_in_several_threads() -> None:
    precisions = ["float32", "bfloat16", "float64", "float32"]
    usual = torch.get_default_dtype()
    alone = [model_hash(load_model("lab", p)) for p in precisions]
    assert at_once(lambda i: model_hash(load_model("lab", precisions[i]))) == alone
    assert torch.get_default_dtype() == usual


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "LoRA"])
def test_models_are_unlearned_in_several_threads(rank: int) -> None:
    def made(seed: int) -> torch.Tensor:
        return flat(call(copy.deepcopy(models[seed]), seed=seed, lora_rank=rank)[0])

    models = [llama(seed) for seed in range(4)]
    alone = [made(seed) for seed in range(4)]
    for ours, theirs in zip(at_once(made), alone, strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_may_be_built_while_another_takes_adapters() -> None:
    # peft's own way to make empty layers would leave this model without memory.
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        runs = [pool.submit(call, copy.deepcopy(llama()), lora_rank=2) for _ in range(3)]
        built = [llama() for _ in range(20)]
        for run in runs:
            run.result()
    assert not any(p.is_meta for model in built for p in model.parameters())
