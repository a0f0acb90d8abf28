"""One key holds all that determines the numbers: `pytest tests/test_identity.py`."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, tiny_bench, tiny_llama, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ByT5Tokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
)

from unlearnlib.bench import key_of
from unlearnlib.cli import main
from unlearnlib.corpus import fictitious
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.identity import config_hash, oracle_hash, tokenizer_hash
from unlearnlib.models import load_model, model_hash, save_model
from unlearnlib.spec import RunSpec
from unlearnlib.store import Basis

SCALED = {"rope_type": "linear", "factor": 2.0}
KINDS = {
    "llama": LlamaConfig(),
    "llama with another theta": LlamaConfig(rope_theta=100.0),
    "llama with scaled positions": LlamaConfig(rope_theta=100.0, rope_scaling=SCALED),
    "gpt2": GPT2Config(n_layer=2),
    "gpt_neox": GPTNeoXConfig(),
    "mixtral": MixtralConfig(),
    "gemma2": Gemma2Config(num_hidden_layers=3),
    "mpt": MptConfig(n_layers=2),
}


# --- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_has_the_same_hash_once_it_is_saved_and_loaded(
    kind: str, tmp_path: Path
) -> None:
    KINDS[kind].save_pretrained(tmp_path)
    assert config_hash(AutoConfig.from_pretrained(tmp_path)) == config_hash(KINDS[kind])


def test_every_kind_of_model_has_a_configuration_of_its_own() -> None:
    assert len({config_hash(config) for config in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 100.0},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-3},
        {"rms_norm_eps": 0.0},
        {"tie_word_embeddings": True},
        {"head_dim": 64},
        {"pad_token_id": 7},  # its embedding gets no gradient
        {"attention_bias": True},
        {"max_position_embeddings": 4096},
    ],
)
def test_what_determines_numbers_changes_a_configurations_hash(change: dict[str, Any]) -> None:
    assert config_hash(LlamaConfig(**change)) != config_hash(LlamaConfig())


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False},
        {"dtype": "bfloat16"},
        {"architectures": ["LlamaForCausalLM"]},
        {"eos_token_id": 5},
        {"attention_dropout": 0.3},
        {"initializer_range": 0.5},
        {"rope_theta": 10000.0},  # as it is by default
        {"attn_implementation": "eager"},
        {"something_that_this_version_does_not_know": None},
    ],
)
def test_what_only_names_or_stores_does_not(change: dict[str, Any]) -> None:
    assert config_hash(LlamaConfig(**change)) == config_hash(LlamaConfig())


@pytest.mark.parametrize("names", [("rope_theta",), ("rope_theta", "rope_parameters")])
def test_a_theta_is_one_theta_under_whatever_name_it_is_written(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    config = LlamaConfig(rope_theta=100.0)
    written = json.loads(config.to_json_string()) | {"rope_theta": 100.0}
    for name in {"rope_theta", "rope_parameters"} - set(names):
        del written[name]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert config_hash(AutoConfig.from_pretrained(tmp_path)) == config_hash(config)


# --- tokenizers ----------------------------------------------------------------------------------


def test_a_tokenizer_has_the_same_hash_saved_loaded_and_used(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(loaded) == before
    loaded("a text that is too long", padding="max_length", max_length=4, truncation=True)
    assert tokenizer_hash(loaded) == before


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, Change] = {
    "a merge less": lambda t: t["model"]["merges"].pop(),
    "another order of merges": lambda t: t["model"]["merges"].reverse(),
    "no special token before a text": lambda t: t.update(post_processor=None),
    "another normalizer": lambda t: t.update(normalizer={"type": "Lowercase"}),
    "a token that takes the space before it": lambda t: t["added_tokens"][0].update(lstrip=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_tokenizer_has_another_hash(change: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text())
    CHANGES[change](written)
    path.write_text(json.dumps(written))
    assert tokenizer_hash(AutoTokenizer.from_pretrained(tmp_path)) != tokenizer_hash(
        tiny_tokenizer()
    )


def test_an_added_token_and_a_special_one_change_the_hash() -> None:
    added, special = copy.deepcopy(tiny_tokenizer()), copy.deepcopy(tiny_tokenizer())
    added.add_tokens(["<one more>"])
    special.add_special_tokens({"additional_special_tokens": ["<one more>"]})
    hashes = {tokenizer_hash(t) for t in (tiny_tokenizer(), added, special)}
    assert len(hashes) == 3


def test_a_tokenizer_that_is_written_in_python_has_a_hash_too(tmp_path: Path) -> None:
    one, other = ByT5Tokenizer(), ByT5Tokenizer(extra_ids=3)
    assert getattr(one, "backend_tokenizer", None) is None
    one.save_pretrained(tmp_path)
    assert tokenizer_hash(ByT5Tokenizer.from_pretrained(tmp_path)) == tokenizer_hash(one)
    assert tokenizer_hash(other) != tokenizer_hash(one)


# --- the bench's key -----------------------------------------------------------------------------


def test_the_key_of_a_run_holds_everything_that_a_bench_computes_with() -> None:
    spec = RunSpec(method="ga")
    other_epsilon = tiny_llama()
    other_epsilon.config.rms_norm_eps = 1e-3
    other_tokenizer = copy.deepcopy(tiny_tokenizer())
    other_tokenizer.add_tokens(["<one more>"])
    turned = tiny_llama(seed=1)
    turned.config.rope_parameters = {"rope_type": "default", "rope_theta": 100.0}
    benches = [
        tiny_bench(),
        tiny_bench(model=other_epsilon),
        tiny_bench(tokenizer=other_tokenizer),
        tiny_bench(oracle=tiny_llama(seed=1)),
        tiny_bench(oracle=tiny_llama(seed=2)),
        tiny_bench(oracle=turned),
        tiny_bench(length=LENGTH - 8),
        tiny_bench(prefix=5),
    ]
    assert len({key_of(bench, spec) for bench in benches}) == len(benches)
    faster = tiny_bench(execution=Execution(micro_chunks=1, packed=True, progress=False))
    assert key_of(faster, spec) == key_of(tiny_bench(), spec)


def test_a_bench_says_what_it_rests_on() -> None:
    model, oracle, tokenizer = tiny_llama(), tiny_llama(seed=1), tiny_tokenizer()
    bench = tiny_bench(model=model, oracle=oracle)
    assert bench.basis == Basis(
        bench.data.hash(),
        model_hash(model),
        config_hash(model.config),
        tokenizer_hash(tokenizer),
        oracle_hash(model_hash(oracle), config_hash(oracle.config)),
        LENGTH,
        4,
    )


def test_a_bench_refuses_an_execution_that_changes_results() -> None:
    with pytest.raises(UnlearnError, match="autocast"):
        tiny_bench(execution=Execution(autocast=True, progress=QUIET.progress))


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder; the lab's texts are generated once."""
    monkeypatch.setattr(fictitious, "generate", _generate)
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


_generate = functools.cache(fictitious.generate)
LIMITED = ("forget=2", "retain=2", "approximate=2", "general_evaluation=2")


def _run(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    words = ["run", "--json", "--quiet", "--model", str(folder), "--profile", "lab"]
    words += ["--domain", "books", "--method", "ga", "--length", "32", "--set", "updates=1"]
    words += ["--set", "batch_size=2", "--store", str(folder.parent / "runs")]
    for limit in LIMITED:
        words += ["--limit", limit]
    capsys.readouterr()
    assert main(words) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def _without_special_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    written["post_processor"] = None
    path.write_text(json.dumps(written))


def _with_another_theta(folder: Path) -> None:
    path = folder / "config.json"
    text = path.read_text()
    assert "10000.0" in text
    path.write_text(text.replace("10000.0", "100.0"))


@pytest.mark.parametrize("change", [_without_special_tokens, _with_another_theta])
def test_a_store_does_not_answer_for_another_tokenizer_or_configuration(
    change: Callable[[Path], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = _run(folder, capsys), _run(folder, capsys)
    assert first["computed"] and not again["computed"] and again["key"] == first["key"]
    weights = model_hash(load_model(folder))
    change(folder)
    assert model_hash(load_model(folder)) == weights  # which was all that the key held of them
    other = _run(folder, capsys)
    assert other["computed"] and other["key"] != first["key"]
    assert other["metrics"]["forget/perplexity"] != first["metrics"]["forget/perplexity"]
