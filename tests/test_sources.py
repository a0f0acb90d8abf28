"""Where a model comes from: its own precision, a tokenizer from elsewhere, a revision of the hub's.

The hub is a cache on this disk, laid out as `huggingface_hub` lays it out; nothing is fetched.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, documents, logits_of, tiny_bench, tiny_llama, tiny_tokenizer
from safetensors.torch import load_file

from unlearnlib import hub
from unlearnlib.bench import Models, open_bench
from unlearnlib.cli.main import main
from unlearnlib.corpus.texts import own_data
from unlearnlib.errors import UnlearnError
from unlearnlib.models import (
    load_model,
    load_tokenizer,
    model_config,
    model_hash,
    own_precision,
    save_model,
)

SETS = ("forget", "retain", "approximate", "general")
COMMITS = {"main": "a" * 40, "v1.0": "b" * 40}


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """The files of the four sets."""
    files = {}
    for name in SETS:
        rows = [json.dumps({"text": d.text}) for d in documents(name, 4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        files[name] = str(tmp_path / f"{name}.jsonl")
    return files


def folder_of(path: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    save_model(tiny_llama(dtype=dtype, seed=seed), tiny_tokenizer(), path)
    return path


def run_words(texts: dict[str, str], *more: object) -> list[str]:
    files = [word for name, path in texts.items() for word in (f"--{name}", path)]
    usual = ["--updates", 2, "--length", LENGTH, "--learning-rate", 1e-3, "--device", "cpu"]
    return [str(w) for w in ("run", *files, *usual, "--quiet", "--json", *more)]


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.endswith(".")
    return text


# ---- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
def test_a_model_is_loaded_in_the_precision_that_it_was_saved_in(
    precision: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "model", getattr(torch, precision))
    assert own_precision(folder) == precision
    model: Any = load_model(folder)
    assert str(model.dtype) == f"torch.{precision}"
    assert load_model(folder, "float32").dtype == torch.float32
    # Where the configuration does not say, the weights do.
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    assert own_precision(folder) == precision
    assert load_model(folder).dtype == model.dtype


def test_the_lab_is_in_float32() -> None:
    assert own_precision("lab") == "float32" and load_model("lab").dtype == torch.float32


@pytest.mark.parametrize("command", ["run", "tune"])
def test_a_model_in_bfloat16_is_unlearned_and_saved_in_bfloat16(
    command: str, texts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "model", torch.bfloat16)
    words = run_words(texts, "--model", folder, "--out", tmp_path / "out")
    if command == "tune":
        words[0] = "tune"
        at = words.index("--updates")
        del words[at : at + 2]
        at = words.index("--learning-rate")
        del words[at : at + 2]
        words += ["--start", "1e-3", "--runs", "1"]
    values = said(words, capsys)
    assert values["spec"]["precision"] == "bfloat16"
    kept = {str(t.dtype) for t in load_file(tmp_path / "out" / "model.safetensors").values()}
    assert kept == {"torch.bfloat16"}
    assert "- Precision: bfloat16" in (tmp_path / "out" / "README.md").read_text()
    if command == "run":
        assert "--set precision=bfloat16" in values["repeat"]
        wide = said([*words, "--precision", "float32", "--force"], capsys)
        assert wide["spec"]["precision"] == "float32" and "precision=float32" in wide["repeat"]
        assert load_model(tmp_path / "out").dtype == torch.float32


def test_a_model_in_float16_is_trained_in_float32_and_told_so(
    texts: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folder_of(tmp_path / "model", torch.float16)
    words = run_words(texts, "--model", folder, "--out", tmp_path / "out")
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["spec"]["precision"] == "float32"
    assert "saved in float16, which is not trained in: it becomes float32" in err
    assert "unknown precision 'float16'" in refused([*words, "--precision", "float16"], capsys)


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16", "float16"])
def test_score_is_in_the_models_own_precision_or_as_asked(
    precision: str | None,
    texts: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folder_of(tmp_path / "model", torch.bfloat16)
    words = ["score", texts["forget"], "--model", str(folder), "--members", texts["forget"]]
    words += ["--non-members", texts["approximate"], "--device", "cpu", "--json"]
    words += [] if precision is None else ["--precision", precision]
    assert main(words) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["precision"] == (precision or "bfloat16")
    assert f"scoring in {precision or 'bfloat16'}" in err
    exact = said([*words, "--precision", "float64"], capsys)  # the last one counts
    mine, right = (v["sets"]["texts"]["perplexity"] for v in (values, exact))
    assert mine == pytest.approx(right, rel=1e-6 if precision == "float32" else 2e-2)


def test_a_precision_that_there_is_not_is_refused(
    texts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "unknown precision 'int8'" in refused(
        ["score", texts["forget"], "--precision", "int8"], capsys
    )


def test_numbers_beyond_float16_are_told(
    texts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(6e4)
        model.model.layers[0].mlp.up_proj.weight.mul_(6e4)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    words = ["score", texts["forget"], "--model", str(tmp_path / "model"), "--device", "cpu"]
    assert main(words) == 0
    capsys.readouterr()
    text = refused([*words, "--precision", "float16"], capsys)
    assert "in float16 the model gives no numbers" in text and "--precision float32" in text


def test_a_bench_of_own_documents_is_in_the_models_own_precision(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", torch.bfloat16)
    data = own_data({"forget": [d.text for d in documents("forget", 3)]})
    bench = open_bench(models=Models(model=folder), data=data, length=LENGTH)
    assert bench.model.dtype == torch.bfloat16
    wide = open_bench(models=Models(model=folder, precision="float32"), data=data, length=LENGTH)
    assert wide.model.dtype == torch.float32


# ---- a tokenizer from elsewhere -----------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model's folder without a tokenizer; the tokenizer is in the folder `words`."""
    save_model(tiny_llama(dtype=torch.float32), None, tmp_path / "bare")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    return tmp_path / "bare"


def test_a_tokenizer_is_taken_from_where_it_is_said_to_be(
    bare: Path, texts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = run_words(texts, "--model", bare, "--out", tmp_path / "out")
    assert "--tokenizer" in refused(words, capsys)
    words += ["--tokenizer", str(tmp_path / "words")]
    values = said(words, capsys)
    assert "--tokenizer words" in values["repeat"]
    # The saved model has it, and needs no other.
    text = documents("forget", 1)[0].text
    assert (
        load_tokenizer(tmp_path / "out")(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    )
    score = ["score", texts["forget"], "--device", "cpu", "--json", "--length", str(LENGTH)]
    mine = said([*score, "--model", str(bare), "--tokenizer", str(tmp_path / "words")], capsys)
    assert mine["sets"]["texts"]["tokens"] == values_of(tmp_path / "out", score, capsys)["tokens"]
    assert main([*words, "--force", "--plan"]) == 0
    capsys.readouterr()
    study = ["study", "main", "--tokenizer", str(tmp_path / "words")]
    assert "is given without --model" in refused(study, capsys)
    data = ["data", "--domain", "books", "--tokenizer", str(tmp_path / "words"), "--json"]
    other = said(data, capsys)["statistics"][0]["tokens"]
    assert other > said([*data[:3], "--json"], capsys)["statistics"][0]["tokens"]


def values_of(model: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return said([*words, "--model", str(model)], capsys)["sets"]["texts"]  # type: ignore[no-any-return]


def test_a_bench_takes_a_tokenizer_too(bare: Path, tmp_path: Path) -> None:
    data = own_data({"forget": [d.text for d in documents("forget", 3)]})
    where = Models(model=bare, tokenizer=tmp_path / "words")
    bench = open_bench(models=where, data=data, length=LENGTH)
    assert bench.chunks("forget")[0].tokens == tiny_bench(data=data).chunks("forget")[0].tokens


# ---- revisions ----------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with two revisions of owner/tiny, which differ in their weights."""
    root = tmp_path / "hub" / "models--owner--tiny"
    (root / "refs").mkdir(parents=True)
    for number, (name, commit) in enumerate(COMMITS.items()):
        (root / "refs" / name).write_text(commit)
        folder_of(root / "snapshots" / commit, seed=number)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return root


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub_cache: Path) -> None:
    whole = {name: model_hash(tiny_llama(dtype=torch.float32, seed=n)) for n, name in
             enumerate(COMMITS)}  # fmt: skip
    assert model_hash(load_model("owner/tiny")) == whole["main"] != whole["v1.0"]
    for name, commit in COMMITS.items():
        for revision in (name, commit):
            model: Any = load_model(f"owner/tiny@{revision}")
            assert model_hash(model) == whole[name]
            assert model.name_or_path == f"owner/tiny@{revision}"
            assert model.config._commit_hash == commit
    assert model_config("owner/tiny@v1.0").model_type == "llama"
    assert load_tokenizer("owner/tiny@v1.0").name_or_path == "owner/tiny@v1.0"
    assert own_precision("owner/tiny@v1.0") == "float32"


@pytest.mark.parametrize("source", ["owner/tiny@v2", "owner/tiny@", "@main", "owner/tiny@ "])
def test_a_revision_that_there_is_not_is_a_sentence(source: str, hub_cache: Path) -> None:
    for read in (load_model, load_tokenizer, model_config):
        with pytest.raises(UnlearnError, match=r"hub id") as caught:
            read(source)
        assert source in str(caught.value) and str(caught.value).endswith(".")


def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    assert load_model(folder_of(tmp_path / "model@home")).dtype == torch.float32


def test_a_run_on_a_revision_says_so_and_names_no_folder(
    hub_cache: Path, texts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = run_words(texts, "--model", "owner/tiny@v1.0", "--out", out)
    words += ["--set", "lora_rank=2", "--adapter"]
    values = said(words, capsys)
    assert "--model owner/tiny@v1.0" in values["repeat"]
    assert r"This is owner/tiny\@v1.0 after" in (out / "README.md").read_text()
    adapter = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "owner/tiny" and adapter["revision"] == "v1.0"
    for file in out.rglob("*.*"):
        if file.suffix in (".json", ".md"):
            assert str(tmp_path) not in file.read_text(), file


def test_weights_come_last_and_their_size_is_known_before(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = hub_cache / "snapshots" / COMMITS["v1.0"]
    away = snapshot.parent.parent / "model.safetensors"
    shutil.move(snapshot / "model.safetensors", away)
    count = sum(p.numel() for p in tiny_llama().parameters())
    asked: list[tuple[str, Any]] = []

    def fetched(name: str, revision: str | None, allow_patterns: Any, **_: Any) -> str:
        asked.append((f"{name}@{revision}", allow_patterns))
        if "model.safetensors" in allow_patterns:
            shutil.copy(away, snapshot)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(hub, "held", lambda source: {"F32": count})
    model_config("owner/tiny@v1.0")
    load_tokenizer("owner/tiny@v1.0")
    assert {tuple(patterns) for _, patterns in asked} == {hub.BESIDE_WEIGHTS}
    asked.clear()

    # A configuration that asks for more than the hub says there is: nothing is fetched.
    config = json.loads((snapshot / "config.json").read_text())
    large = config | {"vocab_size": 2**22, "hidden_size": 64}
    (snapshot / "config.json").write_text(json.dumps(large))
    with pytest.raises(UnlearnError, match="the weights hold"):
        load_model("owner/tiny@v1.0")
    (snapshot / "config.json").write_text(json.dumps(config))

    # More than the disk has: nothing is fetched.
    monkeypatch.setattr(hub, "held", lambda source: {"F32": 10**15})
    with pytest.raises(UnlearnError, match=r"take 4000000\.00 GB and the hub's cache has"):
        load_model("owner/tiny@v1.0")
    assert not any("model.safetensors" in patterns for _, patterns in asked)

    monkeypatch.setattr(hub, "held", lambda source: {"F32": count})
    with caplog.at_level("INFO"):
        load_model("owner/tiny@v1.0")
    assert asked[-1] == (f"owner/tiny@{COMMITS['v1.0']}", ["model.safetensors"])
    assert "fetching owner/tiny@v1.0: 0 MB of weights" in caplog.text


def test_shards_are_fetched_by_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}
    (snapshot / hub.INDEX).write_text(json.dumps(index))
    (snapshot / names[0]).write_bytes(b"")
    asked: list[Any] = []

    def fetched(*_: Any, allow_patterns: Any, **more: Any) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(hub, "held", lambda source: None)
    hub.fetch_weights("owner/tiny", snapshot)
    assert asked == [[names[1]]]


def test_a_hub_that_cannot_be_asked_is_mute() -> None:
    assert hub.held("owner/nothing-of-the-kind") is None


def test_logits_are_those_of_the_revision(hub_cache: Path) -> None:
    chunk = tiny_bench().chunks("forget")[0]
    one, other = (logits_of(load_model(f"owner/tiny@{name}"), chunk) for name in COMMITS)
    assert not torch.allclose(one, other, atol=1e-2)
