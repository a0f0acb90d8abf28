"""The sitting: what it asks for, that its plan fits a T4 and a budget, and that all of it runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import documents, tiny_llama, tiny_tokenizer
from templates import NOTEBOOKS, code, read, shown

from unlearnlib import planning, sitting
from unlearnlib.book import open_in_colab
from unlearnlib.book.open_in_colab import DEFAULTS, asked, command, steps_table
from unlearnlib.corpus.documents import SPLITS, Document, DomainData
from unlearnlib.devices import Device
from unlearnlib.errors import UnlearnError
from unlearnlib.models import save_model
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.store.folder import Store

# A T4 multiplies float32 at 8.1e12 operations a second by its data sheet, and at half of that
# under its limit of 70 W; training reaches the share of it that the plan takes of any GPU.
T4 = Device("cuda", "Tesla T4", 15_835_660_288, "float32", "an old card")
T4_RATE = 0.5 * 8.1e12 * planning.GPU_SHARE
FEW = {split: 4 for split in SPLITS}


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public texts as long as those of the corpora, and as many as a sitting takes."""

    def load(profile: str, domain: str, folder: Any, limits: dict[str, int]) -> DomainData:
        return DomainData(domain, **{s: long_documents(s, limits[s]) for s in SPLITS})

    monkeypatch.setattr(sitting, "load_domain", load)
    monkeypatch.setenv("UNLEARN_CORPORA", "somewhere")


@cache
def long_documents(split: str, count: int) -> tuple[Document, ...]:
    """Documents of about `length` tokens."""
    return tuple(Document(d.id, " ".join([d.text] * 12)) for d in documents(split, count))


def smollm_like(folder: Path, layers: int = 30, hidden: int = 576) -> Path:
    """A folder with the configuration of SmolLM2-135M and a tokenizer, and without weights."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536 * hidden // 576,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), folder)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def planned(
    monkeypatch: pytest.MonkeyPatch, model: Path, device: Device = T4, **more: Any
) -> sitting.Sitting:
    monkeypatch.setattr(sitting, "describe", lambda _: device)
    return sitting.open_sitting(sitting.Wish(model=str(model), **more), rate=T4_RATE)


def test_on_a_t4_the_sitting_ends_within_half_an_hour_by_the_plan(
    texts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned(monkeypatch, smollm_like(tmp_path / "model"))
    assert found.limits == sitting.LARGEST  # nothing had to be left out
    assert sum(len(c.tokens) for c in found.chunks(found.data.forget, "forget")) > 96 * 400
    assert 5 * 60 < found.seconds <= 30 * 60
    assert str(found.way) == "all parameters in float32"
    assert set(PAPER_METHODS) < set(found.steps)


def test_less_time_means_fewer_documents_and_no_time_is_a_sentence(
    texts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = smollm_like(tmp_path / "model")
    found = planned(monkeypatch, model, minutes=8)
    assert found.seconds <= 8 * 60 and found.limits["forget"] < sitting.LARGEST["forget"]
    assert "as many as there is time for in 8 minutes" in open_in_colab.plan_in_words(found)
    with pytest.raises(UnlearnError, match=r"budget_minutes is 0\.1: give more minutes"):
        planned(monkeypatch, model, minutes=0.1)


@pytest.mark.slow
def test_a_larger_model_is_trained_by_adapters_where_it_does_not_fit(
    texts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    model = smollm_like(tmp_path / "model", hidden=1152)
    large = planned(monkeypatch, model, limits=FEW)
    assert large.way.lora_rank == 0
    need = large.way.peak
    small = Device("cuda", "a small card", int(0.55 * need), "float32")
    found = planned(monkeypatch, model, small, limits=FEW)
    assert found.way.lora_rank == sitting.LORA_RANK and found.way.peak < 0.5 * need
    assert found.specs("ga")[0].lora_rank == sitting.LORA_RANK
    assert found.specs("ga")[0].learning_rate == 10 * large.specs("ga")[0].learning_rate
    processor = Device("cpu", "a processor", 10**11, "float32")
    beside = planned(monkeypatch, model, processor, limits=FEW)
    assert beside.way.peak > large.way.peak  # the oracle lies in the same memory
    tiny = Device("cuda", "a tiny card", int(0.05 * need), "float32")
    with pytest.raises(UnlearnError, match=r"a tiny card has .*give a smaller model"):
        planned(monkeypatch, model, tiny, limits=FEW)


def namespace(**changes: Any) -> dict[str, Any]:
    return {**DEFAULTS, **changes}


def test_the_parameters_of_the_notebook_are_those_that_are_known() -> None:
    (cell,) = (
        c
        for c in read(NOTEBOOKS / "open_in_colab.ipynb").cells
        if "parameters" in c.metadata.get("tags", [])
    )
    given: dict[str, Any] = {}
    exec(cell.source, given)
    given.pop("__builtins__")
    assert given == DEFAULTS


def test_parameters_are_checked_and_repeated_without_folders() -> None:
    wish = asked(namespace())
    assert wish["methods"] == PAPER_METHODS and wish["command"] == "unlearn notebook open_in_colab"
    assert (wish["rate"], wish["updates"], wish["minutes"]) == (None, 6, 30)
    given = namespace(model="/home/me/m.whl", corpora="/home/me/texts", limits="forget=4")
    assert command(given) == (
        "unlearn notebook open_in_colab -p limits forget=4 -p corpora FOLDER -p model m.whl"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget_minute": 3}, "unknown parameter 'budget_minute'"),
        ({"domains": "books,arxiv"}, "this notebook has one"),
        ({"domains": "novels"}, "unknown domain"),
        ({"compute": "all"}, "unknown compute"),
        ({"budget_minutes": 0}, "budget_minutes is 0"),
        ({"rates": [1e-5, 2e-5]}, "rates is"),
        ({"updates": 0}, "updates is 0"),
    ],
)
def test_wrong_parameters_are_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnlearnError, match=said):
        asked(namespace(**changes))


def test_the_table_of_steps_has_sums() -> None:
    steps = {n: sitting.Step(n, 60.0, took) for n, took in (("vanilla", 30.0), ("ga", None))}
    table = steps_table(steps)
    assert list(table.loc["training vanilla"]) == ["60 s", "30 s"]
    assert list(table.loc["all"]) == ["2 min", "30 s"] and table.loc["GA", "took"] == "–"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    return tmp_path


def test_the_notebook_runs_on_the_labs_model_and_goes_on_where_it_was(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"profile": "lab", "methods": "ga", "limits": FEW, "updates": 1, "length": 64}
    pages = shown("open_in_colab", small, monkeypatch)
    assert sum("<figure" in page for page in pages) == 1
    assert sum("<table" in page for page in pages) == 4
    store = Store(kept / "runs" / "sittings")
    (key,) = store.keys()
    record = store.get(key)
    assert record.provenance["weights"]["base"]["name"] == "lab/vanilla"
    assert record.provenance["command"].startswith("unlearn notebook open_in_colab -p profile lab")
    trained = []
    monkeypatch.setattr(sitting.Sitting, "_train", lambda *a: trained.append(a))
    shown("open_in_colab", small, monkeypatch)
    assert not trained and list(store.keys()) == [key]


def test_the_plan_alone_trains_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitting.Sitting, "_train", None)
    given = {"profile": "lab", "methods": "ga", "limits": FEW, "compute": "published"}
    pages = shown("open_in_colab", given, monkeypatch)
    assert not any("<figure" in page for page in pages)
    assert any("**Device.**" in page for page in pages)


@pytest.mark.slow
def test_adapters_make_vanilla_and_oracle_too(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    plan = sitting.plan_run
    monkeypatch.setattr(
        sitting,
        "plan_run",
        lambda source, spec, *a, **k: (
            plan(source, spec, *a, **k) if spec.lora_rank else SimpleNamespace(peak=10**15)
        ),
    )
    wish = sitting.Wish(profile="lab", limits=FEW, methods=("ga",), updates=1, length=64)
    here = sitting.open_sitting(wish)
    runs, baselines = here.run(progress=False)
    assert here.histories["vanilla"]["lora_rank"] == runs[0].spec["lora_rank"] == 16
    assert runs[0].status == "done" and len(baselines) == 2
    assert here.histories["vanilla"]["model_hash"] != here.histories["oracle"]["model_hash"]


def test_no_cell_asks_for_a_token_or_a_path() -> None:
    text = code(NOTEBOOKS / "open_in_colab.ipynb")
    assert not any(word in text for word in ("token=", "login", "getpass", "/content", "input("))
