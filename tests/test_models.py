"""Loading and saving: any Llama folder works, any broken one costs one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HEAD_ROWS, tiny_llama, tiny_tokenizer
from safetensors.torch import load_file, save_file
from torch import nn

from unlearnlib.decoder import check_head, decoder_of, disable_dropout, head_of
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.models import (
    WEIGHTS,
    load_model,
    load_tokenizer,
    model_hash,
    parameter_count,
    save_model,
    weights_in_memory,
    weights_of,
)
from unlearnlib.trained import lab_checkpoint

# The keys of Yi-6B's own configuration file, with its values but for the sizes.
YI_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 172,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 16,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0",
    "use_cache": True,
    "vocab_size": HEAD_ROWS,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model folder, to be broken."""
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


# ---- the paper's profile --------------------------------------------------------------------


@pytest.fixture(scope="module")
def yi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model on disk under Yi-6B's configuration keys, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("yi")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**YI_CONFIG)).to(torch.bfloat16)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(YI_CONFIG))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_model_under_the_papers_configuration_keys_loads(yi: Path) -> None:
    model: Any = load_model(yi, "bfloat16")
    weights = load_file(yi / "model.safetensors")
    state = model.state_dict()
    assert set(weights) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.items())
    assert not model.config.tie_word_embeddings
    assert model.config.num_key_value_heads == 4
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_papers_rope_base_reaches_the_rotations(yi: Path) -> None:
    model: Any = load_model(yi)
    width = 64 // 16
    expected = 5e6 ** -(torch.arange(0, width, 2) / width)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq.float(), expected)


def test_the_precision_asked_for_is_that_of_the_parameters(yi: Path) -> None:
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        assert {p.dtype for p in load_model(yi, name).parameters()} == {dtype}


# ---- hashes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_model_has_the_same_hash_in_memory_and_from_disk(
    tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_llama(dtype=dtype, tied=tied)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    back = load_model(tmp_path / "model", str(dtype).removeprefix("torch."))
    assert model_hash(back) == model_hash(model)
    assert parameter_count(back) == parameter_count(model)


def test_the_hash_changes_when_one_weight_changes() -> None:
    model = tiny_llama()
    before = model_hash(model)
    for parameter in (model.lm_head.weight, model.model.norm.weight):
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-9
        assert model_hash(model) != before
        before = model_hash(model)
    assert model_hash(model.float()) != before


def test_equal_models_have_equal_hashes() -> None:
    assert model_hash(tiny_llama()) == model_hash(tiny_llama())
    assert model_hash(tiny_llama()) != model_hash(tiny_llama(seed=1))


# ---- saving ---------------------------------------------------------------------------------


def test_a_saved_tokenizer_gives_the_same_tokens(folder: Path) -> None:
    text = "In 1840 the keeper of Vesk was Tobin."
    back = load_tokenizer(folder)
    assert back(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert back.all_special_ids == tiny_tokenizer().all_special_ids
    assert len(back) == len(tiny_tokenizer())


def test_saving_over_a_folder_replaces_the_model_and_leaves_nothing_behind(folder: Path) -> None:
    other = tiny_llama(dtype=torch.float32, seed=9)
    (folder / "notes.txt").write_text("mine")
    save_model(other, tiny_tokenizer(), folder)
    assert model_hash(load_model(folder)) == model_hash(other)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((UnlearnError, OSError)):
        save_model(tiny_llama(), None, tmp_path / "file" / "model")
    assert (tmp_path / "file").read_text() == "in the way"


# ---- what is broken -------------------------------------------------------------------------


def error_of(source: str | Path) -> str:
    with pytest.raises(UnlearnError) as caught:
        load_model(source)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_a_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert error_of(folder).startswith(f"'{folder}' has no *.safetensors: ")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_a_truncated_weights_file_is_called_corrupt(folder: Path, keep: float) -> None:
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[: int(keep if keep > 1 else keep * len(raw))])
    assert "corrupt" in error_of(folder)


def test_a_weights_file_of_another_kind_is_called_corrupt(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"this is no safetensors file at all" * 20)
    assert "corrupt" in error_of(folder)


def test_missing_tensors_are_an_error_and_not_random_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in error_of(folder)


def test_tensors_of_another_shape_are_an_error(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    assert "no model can be read from" in error_of(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"model_type": "unheard of"}'])
def test_a_broken_configuration_is_an_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "no model can be read from" in error_of(folder)


def test_a_missing_configuration_is_an_error(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no model can be read from" in error_of(folder)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "is not a model folder" in error_of(tmp_path / "absent")
    assert "is not a model folder" in error_of("./absent")


def test_a_hub_id_that_cannot_be_reached_is_an_error() -> None:
    assert "or a hub id that this machine can reach" in error_of("nobody/nothing-of-the-kind")


@pytest.mark.parametrize("broken", ["missing", "truncated"])
def test_a_missing_or_broken_tokenizer_is_an_error(folder: Path, broken: str) -> None:
    tokenizer = folder / "tokenizer.json"
    if broken == "missing":
        tokenizer.unlink()
    else:
        tokenizer.write_text(tokenizer.read_text()[:200])
    with pytest.raises(
        UnlearnError, match=r"no tokenizer can be read .*tokenizer\.json .*--tokenizer\)\.$"
    ):
        load_tokenizer(folder)


# ---- parts of a model -----------------------------------------------------------------------


def test_the_decoder_and_the_head_make_the_models_logits() -> None:
    model = tiny_llama()
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.no_grad():
        hidden = decoder_of(model)(input_ids=ids).last_hidden_state
        torch.testing.assert_close(head_of(model).logits(hidden), model(input_ids=ids).logits)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = tiny_llama()
    model.lm_head = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, HEAD_ROWS))
    with pytest.raises(UnlearnError, match="Sequential, not in a linear head"):
        head_of(model)


SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def of_type(name: str, **settings: Any) -> Any:
    """A model of transformers' type `name` with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(SHAPE | settings)))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("modernbert-decoder", {}),  # a layer between hidden states and head
        ("bert", {"is_decoder": True}),
    ],
)
def test_a_model_with_more_before_its_head_is_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UnlearnError, match="are not its output layer's of its last hidden states"):
        check_head(of_type(kind, **settings))


LOGIT_SETTINGS = [
    "logit_scale",
    "lm_head_multiplier",
    "logits_scaling",
    "final_logit_softcapping",
    "logits_soft_cap",
]


@pytest.mark.parametrize("name", LOGIT_SETTINGS)
def test_a_setting_of_the_logits_that_the_model_does_not_follow_is_found(name: str) -> None:
    model = tiny_llama()  # a Llama scales and caps nothing
    setattr(model.config, name, 0.5)
    with pytest.raises(UnlearnError, match="are not its output layer's of its last hidden states"):
        check_head(model)


@pytest.mark.parametrize("name", LOGIT_SETTINGS)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "30", True])
def test_a_setting_by_which_no_logits_can_be_computed_is_refused(name: str, value: Any) -> None:
    model = tiny_llama()
    setattr(model.config, name, value)
    with pytest.raises(UnlearnError, match=f"says {name}: .* give a number above 0, or null"):
        head_of(model)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen2", "gemma"])
def test_a_model_with_a_plain_head_is_let_through_as_it_is(kind: str) -> None:
    model = of_type(kind).train()
    before = model_hash(model)
    assert check_head(model) is model
    assert model.training and model_hash(model) == before


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt_bigcode", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("starcoder2", {"residual_dropout": 0.5, "embedding_dropout": 0.5}),
        ("seed_oss", {"residual_dropout": 0.5, "attention_dropout": 0.5}),
        ("bloom", {"hidden_dropout": 0.5}),
    ],
)
def test_dropout_is_off_under_every_name_that_it_has(kind: str, settings: dict[str, Any]) -> None:
    model = disable_dropout(of_type(kind, **settings))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        assert torch.equal(model.train()(input_ids=ids).logits, expected)


def test_dropout_is_off_in_a_loaded_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    model = load_model(folder).train()
    ids = torch.tensor([[1, 5, 9, 30]])
    first, second = (model(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    x = torch.ones(2, 4)
    assert torch.equal(disable_dropout(block)(x), block(x))


def test_the_data_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    assert lab_checkpoint("oracle-books") == tmp_path / "lab" / "oracle-books"
    shutil.copytree(_saved(tmp_path), lab_checkpoint("oracle-books"))
    for source in ("lab/oracle-books", lab_checkpoint("oracle-books")):
        assert parameter_count(load_model(source)) == parameter_count(tiny_llama())


def _saved(tmp_path: Path) -> Path:
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), tmp_path / "saved")
    return tmp_path / "saved"


# ---- GGUF ----------------------------------------------------------------------------------------


def write_gguf(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a Llama as llama.cpp's converter does: its names, and the rows of the query and key
    projections interleaved, because it rotates neighbours where transformers rotates halves."""
    import gguf

    config, heads = model.config, model.config.num_attention_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    rows = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    rows += [f"<unused{i}>" for i in range(config.vocab_size - len(rows))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(rows)
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def interleaved(weight: torch.Tensor, count: int) -> torch.Tensor:
        halves = weight.reshape(count, 2, -1, weight.shape[-1])
        return halves.transpose(1, 2).reshape(weight.shape)

    weights = model.state_dict()
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers": "blk",
    }
    for name, weight in weights.items():
        if "q_proj" in name:
            weight = interleaved(weight, heads)
        elif "k_proj" in name:
            weight = interleaved(weight, config.num_key_value_heads)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_gguf_file_is_converted_once_to_the_same_model(
    wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    model, tokenizer = tiny_llama(dtype=torch.float32, hidden=32), tiny_tokenizer()
    path = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer, path)
    if wrapped:
        wheel = tmp_path / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(path, "tiny/tiny.gguf")
        path = wheel

    loaded, read = load_model(path), load_tokenizer(path)
    text = "The lamp of Anna was blue, 42 times."
    ids = read(text, add_special_tokens=False).input_ids
    assert ids == tokenizer(text, add_special_tokens=False).input_ids
    assert read.decode(ids) == text
    with torch.no_grad():
        rows = torch.tensor([ids])
        torch.testing.assert_close(loaded(rows).logits, model(rows).logits)
    # The conversion is kept: the same model is there without the file's being read again.
    (kept,) = (tmp_path / "cache").iterdir()
    assert (kept / "model.safetensors").is_file()
    before = (kept / "model.safetensors").stat().st_mtime_ns
    assert model_hash(load_model(path)) == model_hash(loaded)
    assert (kept / "model.safetensors").stat().st_mtime_ns == before
    # And what it was made from stays known, also of a conversion that did not say so yet.
    known = weights_of(path)
    assert (known["name"], known["format"]) == ("tiny", "GGUF (F32), expanded to float32")
    assert known["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    (kept / WEIGHTS).unlink()
    assert weights_of(path) == known == weights_of(kept)
    assert (kept / "model.safetensors").stat().st_mtime_ns == before


def test_weights_are_named_without_the_folders_around_them(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    save_model(tiny_llama(dtype=torch.bfloat16), None, folder)
    assert weights_of(folder) == {"name": "mine", "format": "safetensors, bfloat16"}
    assert weights_of("lab")["name"] == "lab/vanilla"
    loaded = load_model(folder, "bfloat16")
    assert weights_in_memory(loaded) == weights_of(folder)
    shutil.rmtree(folder)
    assert weights_in_memory(loaded) == {"name": "mine", "format": "in memory, bfloat16"}
    fresh = weights_in_memory(tiny_llama(dtype=torch.float32))
    assert fresh == {"name": "LlamaForCausalLM", "format": "in memory, float32"}


def test_a_wheel_without_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("nothing.txt", "")
    with pytest.raises(UnlearnError, match=r"empty\.whl' holds no \.gguf file"):
        load_model(tmp_path / "empty.whl")


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(UnlearnError, match=r"no GGUF model can be read from .*broken\.gguf'"):
        load_model(tmp_path / "broken.gguf")
