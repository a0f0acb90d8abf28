"""LoRA beside a base in 4 bits: what is trained is what is returned, measured and saved.

With bitsandbytes the real layers are used, on the processor. Without it stand-ins are, which look
like its layers and hold their weights in full.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import LENGTH, documents, flat, logits_of, tiny_bench, tiny_llama, tiny_tokenizer
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from unlearnlib import lora, unlearn
from unlearnlib.bench import Models, open_bench
from unlearnlib.cli.main import main
from unlearnlib.corpus.texts import own_data
from unlearnlib.cost import run_flops
from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, parameter_count, save_model
from unlearnlib.planning import Machine, plan_run
from unlearnlib.quantised import bits_of
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

SPEC = RunSpec(
    method="ga_kl_in_dist", updates=2, batch_size=2, learning_rate=1e-2, lora_rank=2, base_bits=4
)
REAL = "bitsandbytes is not installed: pip install bitsandbytes"


class Linear4bit(nn.Linear):
    """Looks like the layer of bitsandbytes, and is a plain one."""

    __module__ = "bitsandbytes.nn.modules"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose linear layers look as if they were in 4 bits, and its plain twin."""
    model, twin = (tiny_llama(dtype=torch.float32) for _ in range(2))
    for name in lora.linear_layers(model):
        model.get_submodule(name).__class__ = Linear4bit
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    model.is_quantized = True
    on_any_device(monkeypatch)
    monkeypatch.setattr(lora, "expanded", lambda layer: layer.weight.detach().clone().float())
    return model, twin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_llama(dtype=torch.bfloat16, hidden=64)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def test_a_run_on_a_base_in_few_bits_ends_in_a_plain_model(stand_in: Any, tmp_path: Path) -> None:
    model, twin = stand_in
    assert bits_of(model) == 4 and bits_of(twin) == 0
    made, record = execute(tiny_bench(model=model), SPEC)
    right, _ = execute(tiny_bench(model=twin), SPEC.replace(base_bits=0))
    assert torch.equal(flat(made), flat(right))  # the stand-in lost nothing
    assert bits_of(made) == 0 and bits_of(model) == 4 and record.spec["base_bits"] == 4
    assert all(type(m) is not Linear4bit and p.requires_grad
               for m in made.modules() for p in m.parameters())  # fmt: skip
    save_model(made, tiny_tokenizer(), tmp_path / "out")
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    chunk = tiny_bench().chunks("forget")[0]
    assert torch.equal(logits_of(load_model(tmp_path / "out"), chunk), logits_of(made, chunk))


def test_a_spec_and_a_model_agree_about_the_bits(stand_in: Any) -> None:
    model, twin = stand_in
    texts: dict[str, Any] = {"method": "ga", "forget": [d.text for d in documents("forget", 3)]}
    with pytest.raises(UnlearnError, match=r"in 4 bits, in which it cannot be trained: set lora"):
        unlearn(model, tiny_tokenizer(), length=LENGTH, **texts)
    with pytest.raises(UnlearnError, match="base_bits is 4 and the model was loaded in full"):
        execute(tiny_bench(model=twin), SPEC)
    with pytest.raises(UnlearnError, match="base_bits is 0 and the model was loaded in 4 bits"):
        execute(tiny_bench(model=model), SPEC.replace(base_bits=0))
    with pytest.raises(UnlearnError, match="precision is float64 and the model in 4 bits comput"):
        unlearn(model, tiny_tokenizer(), precision="float64", lora_rank=2, length=LENGTH, **texts)
    _, record = unlearn(model, tiny_tokenizer(), lora_rank=2, length=LENGTH, updates=1, **texts)
    assert record.spec["base_bits"] == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_bits": 4}, "base_bits is 4 and lora_rank is 0"),
        ({"base_bits": 3, "lora_rank": 2}, "base_bits is 3: give 4"),
        ({"base_bits": 8, "lora_rank": 2}, "rounds a token by its neighbours"),
        ({"base_bits": 16, "lora_rank": 2}, "base_bits is 16"),
        ({"base_bits": "many", "lora_rank": 2}, "base_bits is 'many'"),
    ],
)
def test_other_numbers_of_bits_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UnlearnError, match=said):
        RunSpec(**settings)


def test_a_spec_without_bits_is_written_as_before() -> None:
    assert "base_bits" not in RunSpec(lora_rank=4).as_dict()
    assert RunSpec(lora_rank=4, base_bits=4).as_dict()["base_bits"] == 4


def test_without_bitsandbytes_one_sentence_names_it(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UnlearnError, match=r"base_bits is 4 and needs the package bitsandbytes"):
        load_model(folder, bits=4)
    (tmp_path / "f.txt").write_text(" ".join(d.text for d in documents("forget", 3)))
    words = ["run", "--model", str(folder), "--forget", str(tmp_path / "f.txt"), "--method", "ga"]
    words += ["--out", str(tmp_path / "o"), "--set", "lora_rank=2", "--set", "base_bits=4"]
    assert main(words) == 2
    assert "needs the package bitsandbytes" in capsys.readouterr().err


def test_a_processor_trains_nothing_beside_4_bits(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    said = "beside a base in 4 bits bitsandbytes trains on a CUDA device alone"
    with pytest.raises(UnlearnError, match=said):
        load_model(folder, device="cpu", bits=4)
    with pytest.raises(UnlearnError, match=said):
        unlearn(stand_in[0], tiny_tokenizer(), method="ga", forget=["x " * 30], lora_rank=2)


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("there", [False, True])
def test_a_plan_refuses_a_checkpoint_saved_in_few_bits_as_the_run_does(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    there: bool,
) -> None:
    """Without bitsandbytes by what transformers says, and with it by the bits."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    saved = {"quant_method": "bitsandbytes", kind: True}
    path.write_text(json.dumps({**config, "quantization_config": saved}))
    (tmp_path / "f.txt").write_text(" ".join(d.text for d in documents("forget", 3)))
    words = ["run", "--model", str(folder), "--forget", str(tmp_path / "f.txt"), "--method", "ga"]
    if there:  # what transformers asks of the machine is fulfilled
        for name in ("bitsandbytes_4bit", "bitsandbytes_8bit"):
            way = AUTO_QUANTIZER_MAPPING[name]
            monkeypatch.setattr(way, "validate_environment", lambda *_, **__: None)
    assert main([*words, "--plan"]) == 2
    said = capsys.readouterr().err
    if there:
        assert ("is in 8 bits" if kind == "load_in_8bit" else "was loaded in 4 bits") in said
    else:
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err == said and "requires bitsandbytes" in said


def test_the_plan_counts_the_bits_and_the_plain_model_at_the_end(folder: Path) -> None:
    chunks = tiny_bench().chunks("forget")
    spec = RunSpec(method="ga", precision="bfloat16", lora_rank=2)
    whole, few = (
        plan_run(folder, spec.replace(base_bits=bits), chunks, machine=Machine("cpu", 1, 1e9))
        for bits in (0, 4)
    )
    parameters = parameter_count(load_model(folder))
    linear = sum(
        load_model(folder).get_submodule(n).weight.numel()
        for n in lora.linear_layers(load_model(folder))
    )
    assert whole.always["parameters"] == 2 * parameters and not whole.end
    assert few.always["parameters"] == pytest.approx(
        2 * (parameters - linear) + linear / 2, rel=0.05
    )
    assert list(few.end.values()) == [2 * parameters] and few.peak >= 2 * parameters


# ---- the real thing -----------------------------------------------------------------------------


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes on a processor, with its layers kept in the form that has gradients."""
    pytest.importorskip("bitsandbytes", reason=REAL)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    on_any_device(monkeypatch)


def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("unlearnlib.quantised", "unlearnlib.run", "unlearnlib.cli.inputs"):
        monkeypatch.setattr(f"{module}.check_device", lambda device: None)


def test_a_base_in_4_bits_by_bitsandbytes(anywhere: None, folder: Path, tmp_path: Path) -> None:
    bits = 4
    texts = {
        name: [d.text for d in documents(name, 4)] for name in ("forget", "retain", "approximate")
    }
    where = Models(model=folder, bits=bits, device="cpu")
    bench = open_bench(models=where, data=own_data(texts), length=LENGTH)
    model: Any = bench.model
    assert bits_of(model) == bits and model.dtype == torch.bfloat16
    assert run_flops(model, 10) == run_flops(load_model(folder, device="cpu"), 10)
    spec = SPEC.replace(base_bits=bits, precision="bfloat16")
    chunk = bench.chunks("forget")[0]
    before = logits_of(model, chunk).detach()
    same, _ = execute(bench, spec.replace(updates=0))
    # The weights at the end are those that were trained beside.
    assert torch.equal(logits_of(same, chunk), before)
    made, record = execute(bench, spec)
    assert bits_of(made) == 0 and record.status == "done"
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert not torch.equal(flat(made), flat(same))
    save_model(made, tiny_tokenizer(), tmp_path / "out")
    again = load_model(tmp_path / "out", device="cpu")
    assert torch.equal(logits_of(again, chunk), logits_of(made, chunk))
    assert record.trajectory[0]["retain"] == pytest.approx(0, abs=1e-6)  # B is 0


def test_the_command_line_loads_a_base_in_4_bits(
    anywhere: None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.txt").write_text(" ".join(d.text for d in documents("forget", 3)))
    words = ["run", "--model", str(folder), "--forget", str(tmp_path / "f.txt"), "--method", "ga"]
    words += ["--out", str(tmp_path / "o"), "--set", "lora_rank=2", "--set", "base_bits=4"]
    words += ["--length", str(LENGTH), "--device", "cpu", "--json", "--quiet"]
    assert main(words) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["spec"]["base_bits"] == 4 and "base_bits=4" in values["repeat"]
    assert "in 4 bits (bitsandbytes)" in (tmp_path / "o" / "README.md").read_text()
    # A checkpoint that is in 4 bits already needs no setting.
    load_model(folder, device="cpu", bits=4).save_pretrained(tmp_path / "few")  # type: ignore[operator]
    tiny_tokenizer().save_pretrained(tmp_path / "few")
    words[words.index(str(folder))] = str(tmp_path / "few")
    at = words.index("base_bits=4")
    del words[at - 1 : at + 1]
    assert main([*words, "--force"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["base_bits"] == 4
