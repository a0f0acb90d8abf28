"""Between a folder that anyone may have made and a checked model stands one border.

Whatever is in the folder, it is a model, or one sentence: no traceback, no question, no code run,
no pipe waited for, no memory taken for what is not there. 500 mutations of a sound folder are tried
with --slow, a sample of them always.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HEAD_ROWS, logits_of, tiny_data, tiny_llama, tiny_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_models import of_type

from unlearnlib.bench import Bench
from unlearnlib.cli.main import main
from unlearnlib.corpus.chunks import Chunk
from unlearnlib.decoder import check_head
from unlearnlib.errors import UnlearnError
from unlearnlib.loading import INDEX, border
from unlearnlib.models import load_model, load_tokenizer, model_config, model_hash, save_model
from unlearnlib.planning import plan

JSON = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": d.text}) + "\n" for d in tiny_data().forget))
    return str(path)


def change(file: Path, **settings: Any) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | settings))


def sentence(action: Any, *arguments: Any) -> str:
    with pytest.raises(UnlearnError) as caught:
        action(*arguments)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 1000
    return text


# ---- no code of a model's -----------------------------------------------------------------------


@pytest.fixture
def with_code(folder: Path) -> Path:
    """A folder whose own code would leave a mark."""
    (folder / "mine.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast, LlamaConfig, LlamaForCausalLM\n"
        "class Mine(PreTrainedTokenizerFast): pass\n"
        "class MyConfig(LlamaConfig): model_type = 'mine'\n"
        "class MyModel(LlamaForCausalLM): config_class = MyConfig\n"
    )
    return folder


@pytest.fixture
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)


@pytest.mark.usefixtures("nobody_asks")
def test_code_that_comes_with_a_tokenizer_is_never_run(with_code: Path) -> None:
    change(
        with_code / "tokenizer_config.json",
        tokenizer_class="Mine",
        auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]},
    )
    said = sentence(load_tokenizer, with_code)
    assert "brings code of its own, which is never run" in said
    assert not (with_code / "ran").exists()


@pytest.mark.usefixtures("nobody_asks")
def test_code_that_comes_with_a_model_is_never_run(with_code: Path) -> None:
    change(
        with_code / "config.json",
        model_type="mine",
        auto_map={"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"},
    )
    for action in (load_model, model_config):
        said = sentence(action, with_code)
        assert "brings code of its own, which is never run" in said
    assert not (with_code / "ran").exists()


@pytest.mark.usefixtures("nobody_asks")
def test_a_model_that_transformers_has_needs_none_of_its_code(with_code: Path) -> None:
    expected = model_hash(load_model(with_code))
    change(with_code / "config.json", auto_map={"AutoModelForCausalLM": "mine.MyModel"})
    assert model_hash(load_model(with_code)) == expected
    assert not (with_code / "ran").exists()


# ---- which weights are read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["weights.bin", "../model.safetensors", "/tmp/model.safetensors", "a\\b.safetensors"]
)
def test_an_index_leads_to_safetensors_of_its_own_folder_alone(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    torch.save(weights, folder / "weights.bin")
    change(folder / INDEX, metadata={}, weight_map=dict.fromkeys(weights, "part.safetensors"))
    assert model_hash(load_model(folder))
    change(folder / INDEX, weight_map=dict.fromkeys(weights, name))
    said = sentence(load_model, folder)
    assert repr(name) in said and "safetensors files of its own folder alone" in said


def test_weights_that_the_model_has_no_place_for_are_named(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=1, layer_types=None)
    said = sentence(load_model, folder)
    assert "'model.layers.1." in said and "has no place for" in said


def test_tables_that_older_versions_saved_are_no_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    weights["model.layers.0.self_attn.masked_bias"] = torch.ones(())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(folder)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_before_a_run(folder: Path, wrong: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 3] = wrong
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said = sentence(load_model, folder)
    assert "not finite" in said and "model.layers.1.mlp.up_proj.weight" in said


# ---- how large a model is built -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 20_000),
        ("num_hidden_layers", 10**7),
        ("num_attention_heads", 10**6),
        ("vocab_size", 10**300),
        ("max_position_embeddings", 10**30),
    ],
)
def test_what_no_model_has_is_refused_before_it_is_built(
    folder: Path, name: str, value: int
) -> None:
    change(folder / "config.json", layer_types=None, **{name: value})
    for action in (load_model, model_config):
        assert f"says {name}: " in sentence(action, folder)


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "vocab_size"])
def test_memory_is_not_taken_for_weights_that_are_not_there(folder: Path, name: str) -> None:
    change(folder / "config.json", **{name: 2**28})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "asks for" in sentence(load_model, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize("name", ["flex_attention", "flash_attention_2", "someone/kernel", "?"])
def test_an_attention_that_hangs_or_is_fetched_is_refused(folder: Path, name: str) -> None:
    change(folder / "config.json", attn_implementation=name)
    assert "attn_implementation" in sentence(load_model, folder)


def test_a_plan_of_what_cannot_be_built_is_a_sentence(folder: Path) -> None:
    change(folder / "config.json", num_attention_heads=0)
    sentence(plan, folder, tiny_tokenizer(), {"forget": [d.text for d in tiny_data().forget]})


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "awq", "hqq", "nonsense"])
def test_a_quantised_model_is_a_sentence(folder: Path, method: str) -> None:
    change(
        folder / "config.json",
        quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True},
    )
    assert "no model can be read from" in sentence(load_model, folder)


def test_a_pipe_among_the_files_is_not_waited_for(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    for action in (load_model, load_tokenizer, model_config):
        assert "is no regular file" in sentence(action, folder)


# ---- anything at all ----------------------------------------------------------------------------

ODD = st.one_of(
    st.sampled_from([None, True, 0, 1, -1, 3, 7, 1.5, -0.0, 10**6, 2**31, 2**63, 10**40, 1e300]),
    st.sampled_from(["", "64", "abc", "évil", "\u001b[31m", "flex_attention", "bfloat16", "gpt2"]),
    st.sampled_from([[], {}, [1], {"a": 1}, [[]]]),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5),
)
NAMES = """hidden_size num_attention_heads num_key_value_heads num_hidden_layers head_dim vocab_size
    dtype model_type rope_parameters rope_scaling hidden_act quantization_config layer_types
    max_position_embeddings pad_token_id auto_map attn_implementation rms_norm_eps
    transformers_weights tie_word_embeddings tokenizer_class added_tokens_decoder eos_token
    model_max_length model normalizer pre_tokenizer post_processor decoder added_tokens
    architectures torch_dtype base_model_tp_plan is_decoder use_cache return_dict
    output_hidden_states"""
KEYS = st.sampled_from(NAMES.split())
MUTATION = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(JSON[:3]), KEYS, ODD),
    st.tuples(st.just("raw"), st.sampled_from(JSON), st.floats(0, 1), st.binary(max_size=8)),
    st.tuples(st.just("whole"), st.sampled_from([*JSON, INDEX]), st.none(), ODD),
    st.tuples(st.just("header"), st.just("model.safetensors"), KEYS, ODD),
    st.tuples(st.just("raw"), st.just("model.safetensors"), st.floats(0, 1), st.binary(max_size=8)),
    st.tuples(
        st.just("whole"), st.just("adapter_config.json"), st.none(),
        st.fixed_dictionaries({"peft_type": st.just("LORA"), "base_model_name_or_path": ODD}),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "model"
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), path)
    return path


def mutate(folder: Path, kind: str, name: str, where: Any, new: Any) -> None:
    file = folder / name
    if kind == "set":
        with contextlib.suppress(ValueError, TypeError):  # broken by an earlier mutation
            change(file, **{where: new})
    elif kind == "whole":
        file.write_text(json.dumps(new))
    elif kind == "header":
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        try:
            header = json.loads(raw[8 : 8 + size])
            header["model.norm.weight"]["shape"] = new
        except (ValueError, KeyError):  # broken by an earlier mutation
            return
        made = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + size :])
    else:
        raw = file.read_bytes()
        at = int(where * (len(raw) - 1))
        file.write_bytes(raw[:at] + new + raw[at + max(1, len(new)) :])


def survive(sound: Path, mutations: list[tuple[str, str, Any, Any]]) -> None:
    """Every way into the folder gives a model, or a sentence."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(sound, folder)
        for mutation in mutations:
            mutate(folder, *mutation)
        for action in (load_model, load_tokenizer, model_config):
            try:
                action(folder)
            except UnlearnError as error:
                text = str(error)
                assert "\n" not in text and text.endswith(".") and len(text) < 2000


FUZZ: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.mark.usefixtures("nobody_asks")
@settings(max_examples=25, derandomize=True, **FUZZ)
@given(st.lists(MUTATION, min_size=1, max_size=2))
def test_a_mutated_folder_is_a_model_or_a_sentence(
    sound: Path, mutations: list[tuple[str, str, Any, Any]]
) -> None:
    survive(sound, mutations)


@pytest.mark.slow
@pytest.mark.usefixtures("nobody_asks")
@settings(max_examples=500, **FUZZ)
@given(st.lists(MUTATION, min_size=1, max_size=3))
def test_500_mutated_folders_are_models_or_sentences(
    sound: Path, mutations: list[tuple[str, str, Any, Any]]
) -> None:
    survive(sound, mutations)


def test_a_panic_inside_a_library_is_a_sentence_and_an_interrupt_is_not() -> None:
    class PanicException(BaseException):
        pass

    def inside(error: BaseException) -> None:
        with border("model", "x", "give another."):
            raise error

    said = sentence(inside, PanicException("called `Option::unwrap()`\nat line 3"))
    assert said == "no model can be read from 'x' (called `Option::unwrap()`): give another."
    with pytest.raises(KeyboardInterrupt):
        inside(KeyboardInterrupt())


@pytest.mark.parametrize("suffix", [".gguf", ".GGUF", ".whl"])
@pytest.mark.parametrize("raw", [b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 40, b"PK\3\4" * 9])
def test_a_broken_file_is_a_sentence(tmp_path: Path, suffix: str, raw: bytes) -> None:
    (tmp_path / f"x{suffix}").write_bytes(raw)
    for action in (load_model, load_tokenizer, model_config):
        assert "can be read from" in sentence(action, tmp_path / f"x{suffix}")


# ---- tokenizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2", "gemma", "xglm"])
def test_a_folder_without_tokenizer_files_says_so(kind: str, tmp_path: Path) -> None:
    save_model(of_type(kind), None, tmp_path / "model")
    assert "tokenizer" in sentence(load_tokenizer, tmp_path / "model")
    assert "text" not in sentence(load_tokenizer, tmp_path / "model")


def test_tokens_beyond_the_embedding_are_named_by_every_command(
    folder: Path, texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<extra {i}>" for i in range(20)])
    tokenizer.save_pretrained(folder)
    chat = tmp_path / "chat.jsonl"
    chat.write_text(json.dumps({"text": "<extra 19> In 1840 the keeper of Vesk was Tobin."}))
    four = ["--forget", str(chat), "--retain", texts, "--approximate", texts, "--general", texts]
    for words in (
        ["score", str(chat)],
        ["run", *four, "--updates", "1", "--plan"],
        ["run", *four, "--updates", "1", "--out", str(tmp_path / "o")],
    ):
        assert main([*words, "--model", str(folder), "--length", "48", "--quiet"]) == 2
        said = capsys.readouterr().err
        assert f"the model knows {HEAD_ROWS} tokens: give the model's own tokenizer" in said


def test_a_bench_reaches_for_no_token_that_its_model_lacks() -> None:
    small: Any = of_type("llama")  # 64 rows
    bench = Bench(small, tiny_tokenizer(), tiny_data(), 48)
    assert "the model knows 64 tokens" in sentence(bench.chunks, "forget")


# ---- adapters -----------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder: Path) -> Path:
    """A LoRA adapter on the model of `folder`, as a fine-tune leaves it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    made = peft.get_peft_model(load_model(folder), config)
    made.peft_config["default"].base_model_name_or_path = str(folder)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


def test_an_adapter_is_merged_into_its_base(adapter: Path, folder: Path) -> None:
    from peft import PeftModel

    chunk = Chunk("d#0", "d", tuple(range(3, 20)))
    beside: Any = PeftModel.from_pretrained(load_model(folder), str(adapter)).eval()
    merged: Any = load_model(adapter)
    assert type(merged) is type(load_model(folder))
    torch.testing.assert_close(logits_of(merged, chunk), logits_of(beside, chunk))
    assert all(p.requires_grad for p in merged.parameters())
    assert model_config(adapter).hidden_size == merged.config.hidden_size
    assert len(load_tokenizer(adapter)) == len(load_tokenizer(folder))


def test_a_run_on_an_adapter_is_saved_as_a_plain_model(
    adapter: Path, texts: str, tmp_path: Path
) -> None:
    four = ["--forget", texts, "--retain", texts, "--approximate", texts, "--general", texts]
    for more in ([], ["--set", "lora_rank=2", "--force"]):
        words = ["run", "--model", str(adapter), *four, "--updates", "1", "--length", "48"]
        out = tmp_path / "out"
        assert main([*words, "--quiet", "--device", "cpu", "--out", str(out), *more]) == 0
        assert not (out / "adapter_config.json").exists()
        load_model(out)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "of kind 'IA3'"),
        ({"base_model_name_or_path": None}, "on the model None"),
        ({"base_model_name_or_path": "/absent"}, "is not a model folder"),
    ],
)
def test_an_adapter_that_cannot_be_merged_says_so(
    adapter: Path, settings: dict[str, Any], said: str
) -> None:
    change(adapter / "adapter_config.json", **settings)
    for action in (load_model, load_tokenizer, model_config):
        assert said in sentence(action, adapter)


def test_an_adapter_in_pickle_is_not_read(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "has adapter_config.json and no adapter_model.safetensors" in sentence(
        load_model, adapter
    )


def test_an_adapter_beside_a_model_is_ambiguous(adapter: Path, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", adapter)
    assert "of a model and of an adapter" in sentence(load_model, adapter)


# ---- causality ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("xlm", {"emb_dim": 16, "n_layers": 2, "n_heads": 4}),
    ],
)
def test_a_model_that_reads_later_tokens_is_refused(kind: str, settings: dict[str, Any]) -> None:
    assert "reads later tokens, too" in sentence(check_head, of_type(kind, **settings))


@pytest.mark.parametrize("kind", ["gemma3_text", "mixtral", "falcon", "mamba", "bloom"])
def test_a_causal_model_is_let_through(kind: str) -> None:
    check_head(of_type(kind))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
