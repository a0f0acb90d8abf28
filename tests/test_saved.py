"""What `save` writes, the card's front matter, and that a report needs no book and no Jupyter."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, documents, tiny_llama, tiny_tokenizer
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

import unlearnlib
from unlearnlib.comparison import compare
from unlearnlib.corpus.documents import DomainData
from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, load_tokenizer, model_hash, save_model
from unlearnlib.report import card, saved
from unlearnlib.report.page import render
from unlearnlib.report.saved import save
from unlearnlib.spec import RunSpec
from unlearnlib.store import Record
from unlearnlib.text import printable, show

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {name: documents(name, 4) for name in ("forget", "retain", "approximate", "general")}
SETTINGS: dict[str, Any] = {"updates": 2, "batch_size": 2, "length": LENGTH, "execution": QUIET}


@dataclasses.dataclass(frozen=True)
class Run:
    """An unlearned model and its record, and the metrics of the model before."""

    model: Any
    record: Record
    before: dict[str, float]


@pytest.fixture(scope="module")
def run() -> Run:
    """A run in Python on a tiny model that was never in a file."""
    model = tiny_llama(dtype=torch.float32)
    arguments: dict[str, Any] = {**TEXTS, **SETTINGS, "method": "ga_gd_in_dist"}
    _, vanilla = unlearnlib.unlearn(
        model, tiny_tokenizer(), **arguments | {"updates": 0}, in_place=False
    )
    model, record = unlearnlib.unlearn(model, tiny_tokenizer(), **arguments, learning_rate=1e-3)
    return Run(model, record, vanilla.metrics)


def facts(**changes: Any) -> card.CardFacts:
    """What a card may have to tell, in few words."""
    spec = RunSpec().as_dict() | {"length": LENGTH}
    plain: dict[str, Any] = {
        "source": "org/model",
        "base_model": "org/model",
        "model_hash": "ab" * 32,
        "title": "a method",
        "forget_term": "a term",
        "retain_term": "none",
        "spec": spec,
        "splits": [card.split_facts("forget", TEXTS["forget"], 5)],
        "before": {"forget/perplexity": 2.0},
        "after": {"forget/perplexity": 9.0},
        "command": "unlearn run",
    }
    return card.CardFacts(**plain | changes)


# ---- the folder ----------------------------------------------------------------------------------


def test_a_saved_folder_is_a_model_that_transformers_loads(run: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unlearnlib.save(run.model, tiny_tokenizer(), run.record, tmp_path / "new" / "out", TEXTS)
    out = tmp_path / "new" / "out"
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model_hash(model) == model_hash(run.model)
    assert len(AutoTokenizer.from_pretrained(out)) == len(tiny_tokenizer())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]  # nothing left beside it


def test_a_saved_record_is_read_back_with_its_key_and_the_scores_before(
    run: Run, tmp_path: Path
) -> None:
    save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS, before=run.before)
    body = json.loads((tmp_path / "record.json").read_text())
    again = Record.from_json(body["record"])
    assert again.key == run.record.key and compare(run.record, again).agrees
    assert body["before"]["forget/perplexity"] == run.before["forget/perplexity"]
    assert {name: len(split["documents"]) for name, split in body["splits"].items()} == {
        "forget": 4, "retain": 4, "approximate": 4, "general_retain": 3, "general_evaluation": 1,
    }  # fmt: skip


def test_the_card_tells_strengths_and_a_budget_where_the_run_chose_some() -> None:
    chosen = RunSpec(method="satimp_gd_in_dist", beta=2, retain_budget=0.1, dual_rate=3)
    spec = chosen.as_dict() | {"length": LENGTH}
    text = card.model_card(facts(spec=spec, retain_term="descent"))
    assert "- Strength beta of the forget term: 2\n" in text
    assert "by 3 per nat: the retain term's loss may rise by at most 0.1 nats per token" in text
    plain = card.model_card(facts(retain_term="descent"))
    assert "Strength" not in plain and "per nat" not in plain


def test_a_saved_card_tells_the_scores_to_people_and_to_the_hub(run: Run, tmp_path: Path) -> None:
    save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS, before=run.before)
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.library_name == "transformers" and read.data.base_model is None
    assert read.data.model_name == "LlamaForCausalLM, unlearned"
    results = {result.metric_name: result.metric_value for result in read.data.eval_results}
    for metric, (label, _) in card.MEANINGS.items():
        measured = run.record.metrics.get(metric, math.nan)
        assert (label in results) == math.isfinite(measured)
        if label in results:
            assert results[label] == pytest.approx(measured, rel=1e-5)
    shown = show(run.before["approximate/perplexity"])
    assert f"a perplexity of {shown}" in read.text
    for document in TEXTS["forget"]:
        assert document.id in read.text and document.text not in read.text


def test_the_card_of_a_run_in_python_has_the_call_that_repeats_it(run: Run, tmp_path: Path) -> None:
    save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS)
    text = (tmp_path / "README.md").read_text()
    (call,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    place: dict[str, Any] = {
        **TEXTS,
        "model": tiny_llama(dtype=torch.float32),
        "tokenizer": tiny_tokenizer(),
    }
    exec(call, place)
    assert place["record"].key == run.record.key
    assert place["record"].metrics == run.record.metrics
    assert "The scores of the base model were not given" in text


def test_save_and_the_command_line_write_the_same(tmp_path: Path) -> None:
    """But for the call that repeats it, and what is measured with a clock."""
    base = tmp_path / "base"
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), base)
    words = ["run", "--model", str(base), "--method", "ga_gd_in_dist", "--device", "cpu"]
    texts = {name: [d.text for d in TEXTS[name]] for name in TEXTS}
    for name, rows in texts.items():
        lines = [json.dumps({"id": f"{name}-{i:04d}", "text": t}) for i, t in enumerate(rows, 1)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        words += [f"--{name}", str(tmp_path / f"{name}.jsonl")]
    words += ["--length", str(LENGTH), "--updates", "2", "--batch-size", "2", "--quiet"]
    from unlearnlib.cli.main import main

    assert main([*words, "--learning-rate", "1e-3", "--out", str(tmp_path / "theirs")]) == 0

    before = json.loads((tmp_path / "theirs" / "record.json").read_text())["before"]
    model, record = unlearnlib.unlearn(
        load_model(base), load_tokenizer(base), method="ga_gd_in_dist", **texts, **SETTINGS,
        learning_rate=1e-3,
    )  # fmt: skip
    before = {name: float(value) for name, value in before.items()}
    save(model, load_tokenizer(base), record, tmp_path / "ours", texts, before=before)
    ours, theirs = ({p.name: p for p in (tmp_path / n).iterdir()} for n in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"README.md", "record.json"}:
        assert ours[name].read_bytes() == theirs[name].read_bytes(), name
    cards = [p["README.md"].read_text().partition("## Repeat it")[0] for p in (ours, theirs)]
    assert cards[0] == cards[1]
    assert str(tmp_path) not in ours["README.md"].read_text() + ours["record.json"].read_text()


def test_the_data_of_a_domain_are_texts_too(tmp_path: Path) -> None:
    data = DomainData("yours", *(TEXTS[n] for n in ("forget", "retain", "approximate")))
    model, record = unlearnlib.unlearn(
        tiny_llama(dtype=torch.float32), tiny_tokenizer(), method="ga", forget=data.forget,
        retain=data.retain, approximate=data.approximate, forget_size=2, **SETTINGS,
    )  # fmt: skip
    save(model, tiny_tokenizer(), record, tmp_path, data)
    splits = json.loads((tmp_path / "record.json").read_text())["splits"]
    assert len(splits["forget"]["documents"]) == 2  # as many as the run forgot
    assert len(splits["approximate"]["documents"]) == 4


def test_an_adapter_is_saved_on_demand_and_loads_beside_the_base_model(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_llama(dtype=torch.float32)
    arguments: dict[str, Any] = {"method": "ga", "forget": TEXTS["forget"], **SETTINGS}
    model, record = unlearnlib.unlearn(
        base, tiny_tokenizer(), **arguments, in_place=False, lora_rank=2, learning_rate=1e-2
    )
    texts = {"forget": TEXTS["forget"]}
    save(model, tiny_tokenizer(), record, tmp_path, texts, adapter=True)
    assert "Do not publish `adapter/`" in (tmp_path / "README.md").read_text()
    beside = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.arange(8)[None]
    torch.testing.assert_close(
        beside(ids).logits, load_model(tmp_path)(ids).logits, rtol=1e-4, atol=1e-4
    )
    save(model, tiny_tokenizer(), record, tmp_path, texts, force=True)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("source", "named", "hub_id"),
    [
        ("org/model", "org/model", "org/model"),
        ("/home/somebody/models/fine-tuned", "fine-tuned", None),  # no longer there
        ("../models/fine-tuned", "fine-tuned", None),
        ("lab/vanilla", "lab/vanilla", None),
    ],
)
def test_the_card_names_where_the_model_came_from_without_its_folders(
    source: str, named: str, hub_id: str | None, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if source.startswith("lab/"):  # as transformers names it
        lab = tmp_path / "data" / "lab" / "vanilla"
        lab.mkdir(parents=True)
        monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
        source = str(lab)
    monkeypatch.setattr(run.model, "name_or_path", source)
    save(run.model, tiny_tokenizer(), run.record, tmp_path / "out", TEXTS)
    read = ModelCard.load(tmp_path / "out" / "README.md")
    assert read.data.base_model == hub_id
    assert read.data.model_name == f"{named}, unlearned"
    for name in ("README.md", "record.json", "config.json"):
        assert "/home/somebody" not in (tmp_path / "out" / name).read_text()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": {**TEXTS, "forget": TEXTS["forget"][:3]}}, "not those of the record"),
        ({"texts": {"forgotten": TEXTS["forget"]}}, "unknown set of texts 'forgotten'"),
        ({"texts": ["a text"]}, "texts is a list: give the texts by name"),
        ({"texts": {"forget": "one text"}}, "forget is one str"),
        ({"record": {"key": "k"}}, "record is a dict: give the record"),
        ({"before": "scores"}, "before is a str: give metrics"),
        ({"adapter": True}, "has no adapter of its own"),
        ({"folder": " "}, "folder is ' ': give a name"),
        ({"model": "lab"}, "which is no model"),
        ({"tokenizer": None}, "which is no tokenizer"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(
    changes: dict[str, Any], said: str, run: Run, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "model": run.model,
        "tokenizer": tiny_tokenizer(),
        "record": run.record,
        "folder": tmp_path / "out",
        "texts": TEXTS,
    }
    with pytest.raises(UnlearnError, match=re.escape(said)):
        save(**arguments | changes)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused_unless_forced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier model")
    (tmp_path / "record.json").write_text('{"format": 1, "base_model": "lab", "record": {}}')
    with pytest.raises(UnlearnError, match=r"is not empty.*force=True"):
        save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model-00001-of-00002.safetensors", "notes.txt", "record.json",
    ]  # fmt: skip
    save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [("lora.safetensors", True), ("model.safetensors", False), ("README.md", False),
     ("record.json", False)],
)  # fmt: skip
def test_a_file_that_no_earlier_model_wrote_is_never_deleted_or_replaced(
    name: str, ours: bool, run: Run, tmp_path: Path
) -> None:
    if ours:
        save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UnlearnError, match=rf"has {name}, which unlearnlib did not write: move it"):
        save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS, force=True)
    assert (tmp_path / name).read_bytes() == b"{}"


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_folder_that_was_filled_meanwhile_is_left_and_the_model_is_kept_beside_it(
    there: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    write = saved.save_model

    def slow(*given: Any) -> None:
        write(*given)
        out.mkdir(exist_ok=True)
        (out / "model.safetensors").write_bytes(b"another's")

    monkeypatch.setattr(saved, "save_model", slow)
    kept = (out if there else tmp_path) / "out-2"
    with pytest.raises(UnlearnError, match=re.escape(f"the model is in {str(kept)!r}")):
        save(run.model, tiny_tokenizer(), run.record, out, TEXTS)
    assert (out / "model.safetensors").read_bytes() == b"another's"
    assert model_hash(load_model(kept)) == model_hash(run.model)
    assert not [p for p in tmp_path.rglob(".*")]


def test_the_folder_of_the_base_model_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.model, "name_or_path", str(tmp_path))
    with pytest.raises(UnlearnError, match=r"folder .* is the folder of the base model"):
        save(run.model, tiny_tokenizer(), run.record, tmp_path, TEXTS, force=True)


def test_too_little_space_is_named_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UnlearnError, match="free some space"):
        save(run.model, tiny_tokenizer(), run.record, tmp_path / "out", TEXTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_an_interrupted_save_leaves_nothing(
    there: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: card.CardFacts) -> str:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    if there:
        out.mkdir()
    monkeypatch.setattr(
        "unlearnlib.report.saved.model_card", stop
    )  # when the weights are written already
    with pytest.raises(KeyboardInterrupt):
        save(run.model, tiny_tokenizer(), run.record, out, TEXTS)
    assert [p for p in tmp_path.rglob("*")] == ([out] if there else [])


# ---- the card's front matter ---------------------------------------------------------------------


hostile = st.text(max_size=20) | st.sampled_from(
    ["---\nlicense: mit", "a: b", "'\"", "{{ 1 }}", "[x]", "# c", "&a *b", "\u2028---", "null", "1"]
)


@given(hostile, hostile, hostile)
def test_no_name_breaks_the_front_matter_or_adds_to_it(source: str, task: str, name: str) -> None:
    forget = dataclasses.replace(facts().splits[0], documents=((name, "0" * 64),))
    after = {"forget/perplexity": 9.0, f"task/{task}/acc": 0.5}
    text = card.model_card(facts(source=source, base_model=None, splits=[forget], after=after))
    read = ModelCard(text)
    assert str(read) == text
    assert set(read.data.to_dict()) == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert read.data.model_name == f"{printable(source)}, unlearned"
    assert [r.metric_value for r in read.data.eval_results] == [9.0, 0.5]
    assert read.data.eval_results[1].dataset_name == printable(task)
    assert card.escape(name) in read.text


@given(st.text("`ab \n", min_size=1))
def test_code_cannot_close_its_span(code: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    page = markdown_it.MarkdownIt("commonmark").renderInline(f"x {card.code_span(code)} y")
    (inside,) = re.findall(r"^x <code>(.*)</code> y$", page)
    assert inside.strip() == printable(code).strip()


def test_scores_that_are_not_finite_are_not_among_the_hubs_results() -> None:
    after = {"forget/perplexity": math.inf, "general/perplexity": math.nan}
    read = ModelCard(card.model_card(facts(after=after)))
    assert read.data.eval_results is None and "| 2 | ∞ |" in read.text
    assert read.data.base_model == "org/model"


def test_every_metric_of_the_card_has_a_place_among_the_hubs_results() -> None:
    assert list(card.HUB_METRICS) == list(card.MEANINGS)


def test_a_card_is_made_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refused)
    assert "machine-unlearning" in card.model_card(facts())


@given(hostile)
def test_a_value_of_a_page_is_text_in_one_line(value: str) -> None:
    page = render(
        "tuning.html", title=value, card="", figure="", seconds=1, header=[value], rows=[[value]],
        best=None, ending=value, tolerated_rise=1.05, good_enough=0.02,
    )  # fmt: skip
    (cell,) = re.findall(r"<td>(.*?)</td>", page)
    assert html.unescape(cell) == printable(value)
    assert not re.search(r"[<>]", cell)


def test_a_template_without_a_value_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        render("tuning.html", title="a title")


# ---- what a report needs -------------------------------------------------------------------------


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def test_the_book_has_what_a_report_needs() -> None:
    extras = project()["optional-dependencies"]
    assert extras["report"] and set(extras["report"]) <= set(extras["book"])


MADE_WITHOUT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
for name in REFUSED:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was not refused")

from unlearnlib.report.card import CardFacts, model_card, split_facts
from unlearnlib.corpus.documents import Document
from unlearnlib.report.tuning import report
from unlearnlib.tuning_rule import Situation, Step
from unlearnlib.spec import RunSpec

facts = CardFacts(
    source="a model", base_model=None, model_hash="ab" * 32, title="a method", forget_term="a",
    retain_term="none", spec=RunSpec().as_dict() | {"length": 8},
    splits=[split_facts("forget", [Document("name", "text")], 1)],
    before={"forget/perplexity": 3.0}, after={"forget/perplexity": 9.0}, command="unlearn run",
)
assert "a model, unlearned" in model_card(facts)
step = Step(1e-4, 1.0, (3.0, 9.0), 1, 9.0, "a first rate")
page = report(facts, [step], 0, Situation(3.0, 9.0, 9.0, 1), "it is near enough")
assert page.count("<img") == 1 and "How the setting was found" in page
"""
PACKAGES = (
    "IPython", "ipykernel", "jupyter", "jupyter_client", "jupyter_core", "nbformat", "nbclient",
    "nbconvert", "pandas", "papermill", "seaborn", "scipy", "sklearn", "sphinx", "myst_nb",
)  # fmt: skip


def test_a_report_and_a_card_need_no_jupyter_and_none_of_the_books_packages() -> None:
    program = f"REFUSED = {PACKAGES!r}\n{MADE_WITHOUT}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wheel_has_what_the_package_reads(tmp_path: Path) -> None:
    """Templates, notebooks, records, models: from the wheel alone comes the list of notebooks."""
    source = tmp_path / "source"
    no_bytecode = shutil.ignore_patterns("__pycache__", "oracle-*")
    for name in ("unlearnlib", "data", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=no_bytecode)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*words, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    templates = sorted(ROOT.glob("unlearnlib/report/templates/*"))
    assert {p.name for p in templates} >= {"card.md", "page.html", "page.css", "tuning.html"}
    held = set(zipfile.ZipFile(wheel).namelist())
    code = {str(p.relative_to(ROOT)) for p in ROOT.glob("unlearnlib/**/*.py")}
    shipped = {
        f"unlearnlib/shipped_{folder}/{path.relative_to(ROOT / folder)}"
        for folder, pattern in (
            ("data", "results/*"), ("data", "lab/vanilla/*"), ("data", "*.*"),
            ("data", "continued/*"), ("notebooks", "*.ipynb"),
        )
        for path in (ROOT / folder).glob(pattern)
    }  # fmt: skip
    assert {str(p.relative_to(ROOT)) for p in templates} | code | shipped <= held
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    listed = subprocess.run(
        [sys.executable, "-m", "unlearnlib", "notebook", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    names = [row["name"] for row in json.loads(listed.stdout)["notebooks"]]
    assert names == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
