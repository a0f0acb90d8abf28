"""The `unlearn` command end to end, in this process, on models of a few thousand weights."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import documents, tiny_llama, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib import pretrain, study
from unlearnlib.bench import Bench, Selection, open_bench
from unlearnlib.cli.inputs import repeat_command
from unlearnlib.cli.main import COMMANDS as FUNCTIONS
from unlearnlib.cli.main import _function_of
from unlearnlib.cli.parser import build_parser
from unlearnlib.cli.run import _profile_spec
from unlearnlib.comparison import Comparison, NumericalTolerance, compare, numbers
from unlearnlib.corpus import fictitious
from unlearnlib.corpus.documents import Document
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS
from unlearnlib.metrics.membership import auc, loss_score
from unlearnlib.metrics.scores import TokenScores
from unlearnlib.models import load_model, load_tokenizer, model_hash, save_model
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.report import card
from unlearnlib.report.verification import verification
from unlearnlib.spec import PROFILES, RunSpec
from unlearnlib.store import Basis, Record, Store, manifest, read_parquet, run_key, write_parquet
from unlearnlib.text import printable, shell_join, show, strict_json
from unlearnlib.verification import find_runs, pick, runs_to_verify, verify_records

COMMANDS = ("run", "study", "pretrain", "score", "audit", "verify", "data", "methods", "profiles")
LIMITS = [
    word
    for limit in ("forget=3", "retain=4", "approximate=3", "general_retain=3")
    for word in ("--limit", limit)
] + ["--limit", "general_evaluation=2"]

_generate = functools.cache(fictitious.generate)  # a second each, and always the same


# --- a user's files, a model, a small lab --------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def lab_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose lab models are tiny and untrained."""
    data = tmp_path_factory.mktemp("data")
    tokenizer = tiny_tokenizer()
    for seed, name in enumerate(("vanilla", "oracle-books", "oracle-arxiv")):
        recipe = pretrain.Recipe(
            vocabulary=len(tokenizer),
            hidden=16,
            layers=1,
            heads=2,
            key_value_heads=1,
            mlp=32,
            seed=seed,
        )
        save_model(pretrain.new_model(recipe, tokenizer), tokenizer, data / "lab" / name)
    return data


@pytest.fixture
def lab(lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small lab as the project's data, in a folder of this test alone."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "lab").symlink_to(lab_data / "lab")
    monkeypatch.setenv("UNLEARN_DATA", str(data))
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.setattr(fictitious, "generate", _generate)
    return data


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a user's documents in it."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("forget", 5), ("retain", 6), ("approximate", 5), ("general", 6)):
        rows = [json.dumps({"id": d.id, "text": d.text}) for d in documents(name, count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


Unlearn = Callable[..., tuple[int, str, str]]


def values(result: tuple[int, str, str]) -> dict[str, Any]:
    """What --json printed, which must be one line, after a command that went well."""
    code, out, err = result
    assert code == 0, err
    assert out.count("\n") == 1 and out.endswith("\n")
    return json.loads(out)  # type: ignore[no-any-return]


def own(model: Path, *more: object) -> list[object]:
    """`unlearn run` on the user's files."""
    return [
        "run", "--model", model, "--forget", "forget.jsonl", "--retain", "retain.jsonl",
        "--approximate", "approximate.jsonl", "--general", "general.jsonl", "--length", 48,
        "--quiet", *more,
    ]  # fmt: skip


def lab_run(*more: object) -> list[object]:
    """`unlearn run` on a small part of the lab's books, in the run store."""
    return [
        "run", "--profile", "lab", "--domain", "books", "--method", "ga", *LIMITS,
        "--store", os.environ["UNLEARN_STORE"], "--set", "updates=1", "--set", "batch_size=2",
        "--quiet", "--json", *more,
    ]  # fmt: skip


# --- help ----------------------------------------------------------------------------------------


def test_help_names_every_command(unlearn: Unlearn) -> None:
    code, out, _ = unlearn("--help")
    assert code == 0
    assert all(re.search(rf"^ +{name} ", out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, unlearn: Unlearn) -> None:
    code, out, err = unlearn(name, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out and out.startswith(f"usage: unlearn {name}")


def test_every_command_of_the_parser_has_a_function() -> None:
    (commands,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(commands.choices) == set(FUNCTIONS)
    for name in FUNCTIONS:
        assert inspect.signature(_function_of(name)).return_annotation == "Report"


def test_help_does_not_wait_for_torch() -> None:
    program = """
import sys
from unlearnlib import cli
for words in (["--help"], ["run", "--help"]):
    try:
        cli.main(words)
    except SystemExit as end:
        assert not end.code
assert cli.main(["profiles"]) == 0
heavy = {"torch", "transformers", "numpy", "pyarrow"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = (
        f"{shlex.quote(sys.executable)} -m unlearnlib profiles | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_command_and_an_unknown_one_exit_with_2(unlearn: Unlearn) -> None:
    assert unlearn()[0] == 2
    assert unlearn("runn")[0] == 2


# --- a user's own documents ----------------------------------------------------------------------


def test_a_users_documents_are_unlearned_and_saved_with_a_card(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    before = model_hash(load_model(model))
    result = unlearn(*own(model, "--method", "ga_gd_in_dist", "--out", "out", "--json"))
    line = values(result)
    assert "Traceback" not in result[2]
    assert (line["status"], line["domain"], line["computed"]) == ("done", "yours", True)
    assert line["metrics"]["forget/perplexity"] > line["before"]["forget/perplexity"]
    assert {p.name for p in (files / "out").iterdir()} >= {
        "model.safetensors", "config.json", "tokenizer.json", "record.json", "README.md",
    }  # fmt: skip
    saved = load_model(files / "out")
    assert model_hash(saved) != before
    assert model_hash(load_model(model)) == before  # the base model's folder is left as it was
    assert len(load_tokenizer(files / "out")) == len(tiny_tokenizer())
    assert not [p for p in files.iterdir() if p.name.startswith(".")]  # nothing left behind
    assert not (files / "runs").exists()

    body = json.loads((files / "out" / "record.json").read_text())
    record = Record.from_json(body["record"])
    assert strict_json(record.metrics) == line["metrics"]
    assert body["before"]["forget/perplexity"] == line["before"]["forget/perplexity"]

    written = (files / "out" / "README.md").read_text()
    assert before in written  # the base model's hash
    for split, count in (("forget", 5), ("retain", 6), ("approximate", 5)):
        assert re.search(rf"\| {split} \| [^|]+ \| {count} \| \d+ \| `[0-9a-f]{{64}}`", written)
    for document in documents("forget", 5):
        assert document.id in written
        for text in (written, json.dumps(body)):
            assert document.text not in text and document.text[:24] not in text
    assert "by its SHA-256 that it was to be forgotten" in written
    target = show(line["before"]["approximate/perplexity"])
    assert f"a perplexity of {target}" in written
    assert "Unflipped" in written and "no proof" in written
    assert f"torch {torch.__version__}" in written
    assert str(files) not in written + json.dumps(body)  # where it happened is nobody's business


def test_the_scores_of_the_card_are_those_of_the_saved_model(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    line = values(unlearn(*own(model, "--method", "ga", "--out", "out", "--json")))
    again = values(
        unlearn("score", "--model", "out", "forget.jsonl", "--length", 48, "--quiet", "--json")
    )
    expected = line["metrics"]["forget/perplexity"]
    assert again["sets"]["texts"]["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_the_command_on_the_card_repeats_the_run(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    (files / "tiny").symlink_to(model)  # the card gives names; this is the folder that has them
    first = values(
        unlearn(
            *own("tiny", "--method", "random_label", "--out", "out", "--json"),  # type: ignore[arg-type]
            "--limit",
            "forget=3",
            "--set",
            "seed=4",
            "--updates",
            2,
            "--learning-rate",
            "1e-3",
        )
    )
    fence = re.search(r"```sh\n(.*)\n```", (files / "out" / "README.md").read_text())
    assert fence is not None and fence[1] == first["repeat"]
    words = shlex.split(first["repeat"])
    assert words[:2] == ["unlearn", "run"]
    words[words.index("--out") + 1] = "again"
    second = values(unlearn(*words[1:], "--quiet", "--json"))
    assert second["key"] == first["key"]
    assert second["metrics"] == first["metrics"]


def test_people_get_a_short_summary(model: Path, files: Path, unlearn: Unlearn) -> None:
    code, out, _ = unlearn(*own(model, "--method", "ga", "--out", "out"))
    assert code == 0
    assert "before" in out and "Perplexity, forget set" in out and "the target" in out
    assert len(out.splitlines()) < 20


def test_names_of_documents_cannot_format_the_card(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    hostile = "x|y\n# z <img src=q> [l](http:q) `c` **b** www.example.org \u202e"
    row = {"id": hostile, "text": documents("forget", 1)[0].text}
    (files / "``` [a](b) <i>.jsonl").write_text(json.dumps(row))
    words = ["run", "--model", model, "--forget", "``` [a](b) <i>.jsonl", "--method", "ga"]
    result = unlearn(*words, "--length", 48, "--out", "out", "--quiet", "--json")
    assert values(result)["status"] == "done"
    page = (
        markdown_it.MarkdownIt("gfm-like", {"linkify": False})
        .enable("table")
        .render((files / "out" / "README.md").read_text())
    )
    for tag in ("<img", "<i>", "<a ", "<b>", "<h1>z"):
        assert tag not in page
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    shown = "x|y\\n# z &lt;img src=q&gt; [l](http:q) `c` **b** www.example.org \\u202e"
    assert shown in cells
    assert page.count("<pre>") == 1 and "``` [a](b) &lt;i&gt;.jsonl" in page


@given(st.text(max_size=30))
def test_an_escaped_text_is_one_line_and_reads_as_it_was(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    escaped = card.escape(text)
    assert "\n" not in escaped
    page = markdown_it.MarkdownIt("commonmark").renderInline(f"({escaped})")
    import html

    shown = printable(text).replace("  ", " \u00a0")
    assert html.unescape(page) == f"({shown})"


@given(st.text(max_size=20))
def test_a_word_of_the_shell_is_one_line(word: str) -> None:
    line = shell_join(["unlearn", word])
    assert line.isprintable()
    if word.isprintable():
        assert shlex.split(line) == ["unlearn", word]


def test_the_shell_reads_an_unprintable_word_as_it_was() -> None:
    for word in ("a\nb", "it's\ttab\\", "\u202ex\u2028"):
        line = "printf %s " + shell_join([word])
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
        assert done.stdout.decode() == word


def test_a_diverged_run_is_a_result(model: Path, files: Path, unlearn: Unlearn) -> None:
    line = values(
        unlearn(*own(model, "--method", "ga", "--learning-rate", "1e38", "--out", "o", "--json"))
    )
    assert line["status"] == "diverged" and line["diverged_at"] >= 1
    assert "The run diverged" in (files / "o" / "README.md").read_text()


def test_a_profiles_texts_with_another_model(lab: Path, model: Path, unlearn: Unlearn) -> None:
    words = ["run", "--model", model, "--profile", "lab", "--domain", "books", *LIMITS]
    line = values(
        unlearn(*words, "--length", 64, "--method", "ga", "--out", lab / "o", "--quiet", "--json")
    )
    assert line["model_hash"] == model_hash(load_model(model))
    assert line["domain"] == "books" and line["store"] is None  # not among the profile's records
    assert "--limit forget=3" in line["repeat"]
    assert (lab / "o" / "README.md").exists()


def test_a_plan_says_what_a_run_would_take_and_runs_nothing(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    line = values(unlearn(*own(model, "--method", "ga_kl_in_dist", "--plan", "--json")))
    assert line["peak_bytes"] >= sum(line["always"].values()) > 0 and line["fits"]
    assert line["seconds"] > 0 and line["tokens"] > 0
    assert "original hidden states" in line["always"]
    more = values(
        unlearn(*own(model, "--method", "ga_kl_in_dist", "--set", "updates=80", "--plan", "--json"))
    )
    assert more["tokens"] == 10 * line["tokens"]  # 8 updates unless more are asked for
    code, text, _ = unlearn(*own(model, "--method", "ga", "--plan"))
    assert code == 0 and "at a time" in text and "retain" not in text
    code, text, _ = unlearn(*own(model, "--method", "ga", "--set", "stop=retrained", "--plan"))
    assert code == 0 and "may stop at the retrained model before its 8 updates are made" in text
    assert not (files / "runs").exists()


def test_force_leaves_no_weights_of_an_earlier_model(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    out = files / "out"
    out.mkdir()
    (out / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (out / "record.json").write_text('{"format": 1, "base_model": "x", "record": {}}')
    (out / "notes.txt").write_text("mine")
    assert unlearn(*own(model, "--method", "ga", "--out", "out"))[0] == 2
    assert unlearn(*own(model, "--method", "ga", "--out", "out", "--force"))[0] == 0
    assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"


def test_the_labs_own_models_are_not_written_over(lab: Path, files: Path, unlearn: Unlearn) -> None:
    out = lab / "lab" / "vanilla"
    code, _, err = unlearn(*own(Path("lab"), "--method", "ga", "--out", out, "--force"))
    assert code == 2 and "the lab's own models" in err


def test_the_files_of_one_command_line_are_not_those_of_the_next() -> None:
    parser = build_parser()
    first = parser.parse_args(["run", "--forget", "a", "--general", "b"])
    assert first.files == {"forget": "a", "general": "b"}
    assert parser.parse_args(["run"]).files == {}


def test_two_files_for_one_set_are_not_one_of_them(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    code, _, err = unlearn(*own(model, "--forget", "general.jsonl", "--out", "out"))
    assert code == 2 and err.count("\n") == 1
    assert "--forget is given twice ('forget.jsonl' and 'general.jsonl')" in err
    assert not (files / "out").exists()


def test_the_card_says_what_was_forgotten_and_kept_at_once_and_what_was_not_drawn(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    rows = [json.dumps({"text": d.text}) for d in documents("retain", 40)]
    rows[1] = json.dumps({"text": documents("forget", 1)[0].text})
    (files / "retain.jsonl").write_text("\n".join(rows))
    more = ["--updates", 1, "--batch-size", 2, "--out", "out"]
    assert "in the retain set, too (first forget-0)" in unlearn(*own(model, *more))[2]
    written = (files / "out" / "README.md").read_text()
    assert "1 text to be forgotten stands in the set “retain”" in written
    assert "stands in the set “approximate”" not in written
    assert "The updates drew 2 of the 5 chunks to be forgotten" in written
    assert re.search(r"The retain set was scored on its first 5 chunks of \d\d\.", written)


def test_the_card_calls_forgotten_only_what_was_trained_on(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    for name in ("forget", "approximate"):
        with (files / f"{name}.jsonl").open("a") as rows:
            rows.write('\n{"id": "stone\\u001b[2J", "text": "ab"}')
    code, _, err = unlearn(*own(model, "--updates", 1, "--out", "out"))
    assert code == 0 and "1 of 6 forget documents are shorter than 5 tokens" in err
    assert "stone\\x1b[2J" in err and "\x1b" not in err
    written = (files / "out" / "README.md").read_text()
    assert "unlearning of 5 documents" in written
    assert "**Left out:** 1 document of the set “forget” is shorter than 5 tokens" in written
    assert "of the set “approximate” is shorter" in written
    assert not any(line.startswith("| stone") for line in written.splitlines())
    assert "| forget-4 |" in written


def test_a_folder_that_is_there_is_written_from_inside(
    model: Path, files: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a link to another disk, into which no file can be moved."""
    (files / "disk").mkdir()
    (files / "out").symlink_to(files / "disk")
    move = os.replace

    def within(source: Path, target: Path) -> None:
        disks = {Path(p).resolve().is_relative_to(files / "disk") for p in (source, target)}
        if len(disks) > 1:
            raise OSError(18, "Invalid cross-device link", str(source))
        move(source, target)

    monkeypatch.setattr(os, "replace", within)
    code, _, err = unlearn(*own(model, "--method", "ga", "--out", "out"))
    assert code == 0, err
    assert (files / "disk" / "model.safetensors").is_file()
    assert not [p for p in files.rglob("*") if p.name.startswith(".")]


def test_a_report_of_an_earlier_model_does_not_stay_beside_another(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    command = [*own(model, "--method", "ga", "--updates", 0, "--out", "out"), "--force"]
    (files / "out").mkdir()
    page = files / "out" / "report.html"
    page.write_text("mine")
    assert unlearn(*command)[0] == 0
    assert page.exists()  # no model was there that it could tell of
    assert unlearn(*command)[0] == 0
    assert not page.exists()


# --- bad input -----------------------------------------------------------------------------------


def bad_files(folder: Path) -> None:
    """Files that nobody should give."""
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text(" \n\t\n")
    (folder / "latin1.txt").write_bytes("café".encode("latin-1"))
    (folder / "columns.jsonl").write_text('{"title": "t", "words": "w"}\n')
    (folder / "short.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (folder / "bare").mkdir()
    (folder / "bare" / "config.json").write_text("{}")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("some text that can be read")


BAD: dict[str, tuple[list[str], list[str]]] = {
    # name: (words that replace or follow those of a good command, what the sentence says)
    "unknown method": (
        ["--method", "ga_gd_indist"],
        ["unknown method 'ga_gd_indist'", "one of ga_gd_in_dist,", "random_label"],
    ),
    "negative": (["--learning-rate", "-1e-4"], ["learning_rate is -0.0001"]),
    "NaN": (["--set", "learning_rate=nan"], ["learning_rate is nan", "finite"]),
    "infinite": (["--set", "retain_weight=inf"], ["retain_weight is inf", "finite"]),
    "unknown exposure": (["--set", "exposure=2"], ["exposure is 2", "leave exposure out"]),
    "nothing to stop at": (["--set", "stop=retrained"], ["there is no retrained model"]),
    "wrong type": (["--set", "updates=many"], ["updates is 'many'", "whole number"]),
    "half an update": (["--updates", "1.5"], ["updates is '1.5'", "whole number"]),
    "unknown setting": (["--set", "update=3"], ["unknown setting 'update'", "one of updates,"]),
    "setting without value": (["--set", "updates"], ["--set 'updates'", "--set updates=8"]),
    "setting twice": (["--updates", "3", "--set", "updates=4"], ["updates", "once"]),
    "method as a setting": (["--set", "method=ga"], ["--method"]),
    "unknown split": (["--limit", "forgot=3"], ["unknown split 'forgot'", "one of forget,"]),
    "zero documents": (["--limit", "forget=0"], ["'forget' is 0"]),
    "missing file": (["--forget", "gone.txt"], ["gone.txt does not exist"]),
    "empty file": (["--forget", "empty.txt"], ["empty.txt is empty"]),
    "empty forget set": (["--forget", "blank.txt"], ["blank.txt holds no documents"]),
    "not UTF-8": (["--forget", "latin1.txt"], ["latin1.txt is not UTF-8 (byte 3)"]),
    "no text column": (["--forget", "columns.jsonl"], ["'title', 'words'", "--column"]),
    "wrong column": (["--column", "body"], ["no column 'body'", "'id', 'text'"]),
    "all too short": (["--forget", "short.jsonl"], ["all 2 forget documents", "5 tokens"]),
    "no weights": (["--model", "bare"], ["'bare' has no *.safetensors"]),
    "no such model": (["--model", "./gone"], ["'./gone' is not a model folder"]),
    "chunks too long": (["--length", "4096"], ["4096 tokens", "--length 128"]),
    "out has files": (["--out", "full"], ["'full' is not empty", "--force"]),
    "out is a file": (["--out", "forget.jsonl"], ["'forget.jsonl' is a file"]),
    "out among the documents": (["--general", "texts", "--out", "texts/o"], ["lies in --general"]),
    "empty path": (["--forget", ""], ["--forget is ''", "leave --forget out"]),
    "empty folder name": (["--out", ""], ["--out is ''"]),
    "empty model": (["--model", ""], ["the model is ''"]),
    "files and a profile": (["--profile", "lab"], ["--profile", "files of your own"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_2_and_one_sentence(
    case: str, model: Path, files: Path, unlearn: Unlearn
) -> None:
    bad_files(files)
    words, said = BAD[case]
    before = {p: p.stat().st_mtime_ns for p in files.rglob("*")}
    command = [*own(model, "--method", "ga_gd_in_dist", "--out", "out", "--json"), *words]
    for flag in ("--length", "--forget", "--general"):
        if flag in words:
            at = command.index(flag)
            del command[at : at + 2]
    code, out, err = unlearn(*command)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if "skipped" not in line]
    assert len(lines) == 1 and lines[0].startswith("unlearn: ") and lines[0].endswith(".")
    for part in said:
        assert part in lines[0]
    assert {p: p.stat().st_mtime_ns for p in files.rglob("*")} == before  # nothing was written


@pytest.mark.parametrize(
    ("method", "flag"),
    [("ga_gd_in_dist", "--retain"), ("ga_kl_in_dist", "--retain"), ("ga_gd_general", "--general")],
)
def test_a_method_that_needs_retain_data_says_which(
    method: str, flag: str, model: Path, files: Path, unlearn: Unlearn
) -> None:
    words = ["--forget", "forget.jsonl", "--method", method, "--out", "out"]
    code, _, err = unlearn("run", "--model", model, *words, "--quiet")
    assert code == 2 and err.count("\n") == 1
    assert repr(method) in err and f"{flag} FILE" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--profile", "labb"], ["unknown profile 'labb'", "one of lab,"]),
        (["run", "--domain", "book"], ["unknown domain 'book'", "one of books,"]),
        (["run", "--domain", "yours"], ["unknown domain 'yours'"]),
        (["run", "--model", "lab"], ["--forget"]),
        (["run", "--forget", "f", "--model", "lab"], ["--out"]),
        (["run", "--forget", "f", "--out", "o"], ["--model"]),
        (["run", "--published", "--out", "o"], ["--published", "--out", "one of them"]),
        (["run", "--method", "ga", "--fsdp"], ["--fsdp", "accelerate launch"]),
        (["study", "mian"], ["unknown study 'mian'", "one of main,"]),
        (["study", "main", "--domain", "gitub"], ["unknown domain 'gitub'", "one of github,"]),
        (["study", "rates", "--method", "gaa"], ["unknown method 'gaa'", "one of ga,"]),
        (["study", "rates", "--seed", "12345"], ["no run with the methods and seeds"]),
        (["study", "rates", "--limit", "forget=2"], ["--store"]),
        (["study", "main", "--choose"], ["--choose", "'main'"]),
        (
            ["study", "rates", "--profile", "open_cpu_github", "--choose"],
            ["'open_cpu_github'", "'books'", "--choose"],
        ),
        (["study", "main"], ["no settings are chosen", "unlearn study rates"]),
        (["pretrain", "--profile", "paper"], ["'paper'", "Yi-6B", "lab, stream, open"]),
        (["pretrain", "--profile", "open_cpu", "--jobs", "2"], ["--jobs is 2", "vanilla"]),
        (["pretrain", "--profile", "open_cpu", "--only", "oracle-arxiv"], ["oracle-books"]),
        (["pretrain", "--corpora", "x"], ["--corpora is given", "leave it out"]),
        (["pretrain", "--only", "vanila"], ["unknown lab model 'vanila'", "one of vanilla,"]),
        (["score"], ["nothing to score"]),
        (["score", "--members", "m"], ["--non-members is missing"]),
        (["score", "gone.txt"], ["gone.txt does not exist"]),
        (["data", "--fetch", "x"], ["'lab'", "--profile open"]),
        (["data", "--corpora", "x"], ["'x'", "'lab'", "leave it out (--corpora)"]),
        (["score", ""], ["path of the documents is ''"]),
        (["verify", "--tolerance", "nan"], ["tolerance is nan"]),
        (["verify", "--tolerance", "-1"], ["tolerance is -1.0"]),
        (["verify", "--study", "mane"], ["unknown study 'mane'", "one of main,"]),
        (["verify"], ["no record of a run"]),
        (["verify", "--store", "gone"], ["'gone' is no folder"]),
        (["verify", "--report", "."], ["--report '.' exists"]),
        (["verify", "--report", "gone/x.html"], ["--report 'gone/x.html'", "make it first"]),
    ],
)  # fmt: skip
def test_bad_words_end_with_2_and_one_sentence(
    words: list[str], said: list[str], lab: Path, unlearn: Unlearn
) -> None:
    code, out, err = unlearn(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("unlearn: ") and err.endswith(".\n")
    for part in said:
        assert part in err


def test_cuda_is_asked_for_in_vain_where_there_is_none(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = unlearn("run", "--device", "cuda")
    assert code == 2 and "the device is 'cuda'" in err and "--device cpu" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; finished runs are in {store}, the same command"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--micro-tokens"),
        (MemoryError(), 2, "--micro-tokens"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), 2, "--micro-tokens"),
        (OSError(28, "No space left on device", "x"), 2, "cannot access x (No space left on dev"),
    ],
)
def test_what_the_machine_does_is_told_in_a_sentence(
    error: BaseException,
    code: int,
    said: str,
    lab: Path,
    unlearn: Unlearn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("unlearnlib.cli.run.execute", stop)
    found, out, err = unlearn(*lab_run())
    assert (found, out) == (code, "")
    assert err.startswith("unlearn: ") and err.count("\n") == 1
    assert said.format(store=os.environ["UNLEARN_STORE"]) in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--out", "o"], "nothing was saved, the same command starts again"),
        (["run", "--out", "o", "--save-every", "2"], "after the last state that --save-every"),
        (["tune", "--out", "o"], "finished runs of the search are remembered"),
    ],
)
def test_an_interrupted_command_says_what_is_left(
    words: list[str],
    said: str,
    model: Path,
    files: Path,
    unlearn: Unlearn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unlearnlib.bench.open_bench", stop)
    command, *more = words
    code, out, err = unlearn(command, *own(model)[1:], *more)
    assert (code, out) == (130, "") and said in err


def test_a_bug_of_ours_keeps_its_traceback(
    lab: Path, monkeypatch: pytest.MonkeyPatch, unlearn: Unlearn
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("unlearnlib.cli.run.execute", stop)
    with pytest.raises(RuntimeError, match="a bug"):
        unlearn(*lab_run())


# --- runs of a profile, and the store ------------------------------------------------------------


def test_a_run_in_the_store_is_reported_and_not_computed_again(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = values(unlearn(*lab_run()))
    assert first["computed"] and first["key"] in Store(Path(first["store"]))
    monkeypatch.setattr("unlearnlib.cli.run.execute", None)  # would fail if it were called
    second = values(unlearn(*lab_run()))
    assert not second["computed"]
    assert second["metrics"] == first["metrics"]
    assert second["spec"]["updates"] == 1 and second["spec"]["batch_size"] == 2
    assert "--set updates=1" in first["repeat"] and "--limit forget=3" in first["repeat"]


def test_the_model_of_a_run_in_the_store_is_made_again_on_demand(
    lab: Path, unlearn: Unlearn
) -> None:
    first = values(unlearn(*lab_run()))
    second = values(unlearn(*lab_run("--out", lab / "out")))
    assert second["computed"] and second["key"] == first["key"]
    assert second["metrics"] == first["metrics"]
    assert (lab / "out" / "model.safetensors").exists()


def test_settings_that_were_chosen_are_the_default(
    lab: Path, unlearn: Unlearn, capsys: pytest.CaptureFixture[str]
) -> None:
    def spec_of(*words: str) -> Any:
        args = build_parser().parse_args(["run", "--method", "ga", *words])
        return _profile_spec(args)

    assert spec_of() == RunSpec(method="ga")
    study.write_settings("lab", "books", {"ga": {"learning_rate": 0.25}})
    assert spec_of().learning_rate == 0.25
    assert spec_of().updates == study.UPDATES and spec_of().batch_size == study.BATCH
    assert spec_of("--set", "seed=3") == RunSpec(method="ga", seed=3)
    assert spec_of("--domain", "arxiv") == RunSpec(method="ga", domain="arxiv")
    study.settings_path().write_text("{broken")
    with pytest.raises(UnlearnError):
        spec_of()


def test_the_command_of_a_run_gives_its_spec_whatever_was_chosen_since(lab: Path) -> None:
    parser = build_parser()
    for words in (
        ["--set", "learning_rate=1e-4"],
        ["--updates", "3", "--set", "forget_size=2"],
        [],
    ):
        args = parser.parse_args(["run", "--method", "ga", *words])
        spec = _profile_spec(args)
        repeat = shlex.split(repeat_command(args, spec))
        study.write_settings("lab", "books", {"ga": {"learning_rate": 0.5}})
        assert _profile_spec(parser.parse_args(repeat[1:])) == spec
        study.settings_path().unlink()


def test_a_damaged_record_is_named_and_set_aside_and_the_rest_is_read(
    lab: Path, unlearn: Unlearn
) -> None:
    one = values(unlearn(*lab_run()))
    two = values(unlearn(*lab_run("--set", "seed=1")))
    store = Path(os.environ["UNLEARN_STORE"])
    (bad,) = store.glob(f"records/*/{one['key']}.json")
    bad.write_text(bad.read_text().replace("0", "1", 3))
    code, out, err = unlearn(
        "verify", "--store", store, "--sample", 9, *LIMITS, "--quiet", "--json"
    )
    line = json.loads(out)
    assert code == 0
    assert [row["key"] for row in line["comparisons"]] == [two["key"]]
    assert err.count("\n") == 1 and one["key"] in err and "set aside" in err
    assert list((store / "set_aside").iterdir())
    assert values(unlearn(*lab_run()))["computed"]  # and the same command replaces it


# --- studies -------------------------------------------------------------------------------------


def study_words(*more: object) -> list[object]:
    return [
        "study", *more, "--domain", "books", *LIMITS, "--store", os.environ["UNLEARN_STORE"],
        "--quiet", "--json",
    ]  # fmt: skip


def test_a_study_goes_on_where_it_stopped_is_published_and_verified(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {method: {"learning_rate": 1e-3} for method in PAPER_METHODS}
    study.write_settings("lab", "books", chosen)
    monkeypatch.setitem(PROFILES, "lab", dataclasses.replace(PROFILES["lab"], updates=1))
    only = ["--method", "ga", "--method", "random_label"]
    first = values(unlearn(*study_words("main", *only, "--seed", 0)))
    assert (first["study"], first["profile"], first["runs"]) == ("main", "lab", 2)
    assert (first["computed"], first["busy"], first["diverged"]) == (4, 0, 0)  # and two baselines
    assert first["seconds"] >= 0 and [b["baseline"] for b in first["baselines"]] == [
        "vanilla", "oracle",
    ]  # fmt: skip
    second = values(unlearn(*study_words("main", *only, "--seed", 0, "--seed", 1, "--publish")))
    assert (second["runs"], second["computed"]) == (4, 2)
    path = Path(second["published"])
    records = {r.spec["method"] + str(r.spec["seed"]): r for r in read_parquet(path)}
    row = next(row for row in second["means"] if row["method"] == "ga")
    mean = np.mean([records[f"ga{s}"].metrics["forget/perplexity"] for s in (0, 1)])
    assert row["runs"] == 2
    assert row["metrics"]["forget/perplexity"] == pytest.approx(mean)
    assert "oracle_kl/forget" in row["metrics"] and "membership/min_k_40/auc" in row["metrics"]

    words = ["verify", "--study", "main", *LIMITS, "--quiet", "--json"]
    checked = values(unlearn(*words, "--sample", 2, "--seed", 5))
    # Vanilla and the retrained model, which runs are held against, come with whatever is picked.
    assert (checked["agree"], checked["differ"], checked["records"]) == (4, 0, 6)
    assert {row["method"] for row in checked["comparisons"][2:]} == {"vanilla", "oracle"}
    assert checked["largest"]["excess"] <= 1

    # One number, changed by 2 % and published anew with a digest that fits.
    changed = records["ga0"]
    metrics = changed.metrics | {"general/nll": changed.metrics["general/nll"] * 1.02}
    records["ga0"] = dataclasses.replace(changed, metrics=metrics)
    write_parquet(records.values(), path)
    manifest.note(path)
    code, out, _ = unlearn(*words, "--sample", 9)
    line = json.loads(out)
    assert code == 1 and (line["agree"], line["differ"]) == (5, 1)
    assert line["largest"]["metric"] == "general/nll" and line["largest"]["key"] == changed.key
    code, out, _ = unlearn(*words[:-1], "--sample", 9, "--report", lab / "report.html")
    assert code == 1 and "DIFFER" in out and "general/nll" in out and "report.html" in out
    page = (lab / "report.html").read_text(encoding="utf-8")
    assert page.index("1 of 6 records differs") < page.index("<table")  # the verdict comes first
    assert differing_rows(page) == ["general/nll"]
    code, _, err = unlearn(*words, "--report", lab / "report.html")
    assert code == 2 and "report.html' exists" in err
    assert values(unlearn(*words, "--sample", 9, "--tolerance", 0.1))["differ"] == 0

    # A baseline that was doubled is found with whichever run is picked.
    write_parquet([changed if r.key == changed.key else r for r in records.values()], path)
    where = path.with_name("lab-baselines.parquet")
    vanilla, oracle = sorted(read_parquet(where), key=lambda r: r.spec["baseline"] == "oracle")
    doubled = {name: 2 * x for name, x in vanilla.metrics.items()}
    write_parquet([dataclasses.replace(vanilla, metrics=doubled), oracle], where)
    code, out, _ = unlearn(*words, "--sample", 1)
    line = json.loads(out)
    assert code == 1 and [r["method"] for r in line["comparisons"] if not r["agrees"]] == [
        "vanilla"
    ]
    # A file without rows agrees with everything, and so with nothing.
    write_parquet([], path)
    for more in ((), ("--study", "main")):
        code, out, err = unlearn("verify", *more, *LIMITS, "--quiet", "--json")
        assert code == 2 and not out and "lab-main.parquet holds no records" in err


def differing_rows(page: str) -> list[str]:
    """The names of the numbers that a report of a verification shows as different."""
    rows = re.findall(r"<tr><th scope=row>([^<]*)</th>(.*?)</tr>", page)
    return [name for name, cells in rows if "differs" in cells]


def test_runs_are_found_and_repeated_from_python(lab: Path, unlearn: Unlearn) -> None:
    for seed in (0, 1):
        values(unlearn(*lab_run("--set", f"seed={seed}")))
    where = os.environ["UNLEARN_STORE"]
    found = find_runs("lab", store=where)
    assert sorted(record.spec["seed"] for record in found) == [0, 1]
    assert find_runs("lab", ["books"], store=Path(where)) == found
    limits = {"forget": 3, "retain": 4, "approximate": 3}
    limits |= {"general_retain": 3, "general_evaluation": 2}
    quiet = Execution(progress=False)
    opened = []

    def bench_for(spec: RunSpec) -> Bench:
        opened.append(spec)
        selection = Selection(limits=limits)
        return open_bench(spec.profile, spec.domain, selection=selection, execution=quiet)

    comparisons = verify_records(found, bench_for, progress=False)
    assert [comparison.record for comparison in comparisons] == found
    assert all(comparison.agrees and comparison.differences for comparison in comparisons)
    assert len(opened) == 1, "a bench serves all runs of a domain"
    # By default the profile's own data are taken, and these records are of a part of them.
    (other,) = verify_records(found[:1], progress=False)
    assert "another data" in other.reason and other.repeated is None

    with pytest.raises(UnlearnError, match="no record of a run"):
        find_runs("lab", ["arxiv"], store=where)
    with pytest.raises(UnlearnError, match="'main' is not published at profile 'lab'"):
        find_runs("lab", study="main")
    with pytest.raises(UnlearnError, match="unknown study 'mane'"):
        find_runs("lab", study="mane", store=where)


def test_records_of_other_data_do_not_agree(lab: Path, unlearn: Unlearn) -> None:
    values(unlearn(*lab_run()))
    limits = [word.replace("retain=4", "retain=5") for word in LIMITS]
    assert limits != LIMITS
    words = ["verify", "--store", os.environ["UNLEARN_STORE"], *limits]
    code, out, _ = unlearn(*words, "--quiet", "--json")
    assert code == 1
    assert "another data" in json.loads(out)["comparisons"][0]["reason"]


def test_choose_writes_the_settings_that_a_run_then_takes(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(PROFILES["lab"], rates=(7e-4,), updates=1)
    monkeypatch.setitem(PROFILES, "lab", short)
    line = values(unlearn(*study_words("rates", "--choose")))
    assert line["runs"] == len(PAPER_METHODS)
    assert set(line["chosen"]["books"]) == set(PAPER_METHODS)
    assert study.settings("lab", "books", "ga") == {"learning_rate": 7e-4}


def test_studies_are_listed(unlearn: Unlearn) -> None:
    listed = values(unlearn("study", "--list", "--json"))["studies"]
    assert {s["name"] for s in listed} == set(study.STUDIES)
    assert "rates" in unlearn("study")[1]


# --- comparing records ---------------------------------------------------------------------------


def a_record(**changes: Any) -> Record:
    spec = {"profile": "lab", "domain": "books", "method": "ga", "seed": 0}
    fields: dict[str, Any] = {
        "key": run_key(spec, Basis("d", "m")),
        "kind": "run",
        "status": "done",
        "spec": spec,
        "data_hash": "d",
        "model_hash": "m",
        "metrics": {"a": 1.5, "b": float("nan"), "c": float("inf"), "d": 0.0, "e": -300.0},
        "trajectory": [{"update": 1, "forget": -2.5}],
        "documents": {"forget": {"id": ["x#0"], "nll": [3.25]}},
        "extra": {"tokens": 1234},
        "provenance": {"seconds": 3.0},
    }
    return Record(**(fields | changes))


def test_a_record_agrees_with_its_copy_and_nan_equals_nan() -> None:
    result = compare(a_record(), a_record(provenance={"seconds": 99.0}))
    assert result.agrees and result.largest is not None and result.largest.excess == 0
    assert len(result.differences) == len(numbers(a_record())) == 5 + 2 + 1 + 1


@pytest.mark.parametrize("place", sorted(numbers(a_record())))
@pytest.mark.parametrize("change", [1.01, float("nan"), float("inf"), None])
def test_any_changed_number_is_caught(place: str, change: float | None) -> None:
    record = a_record()
    body = record.to_json()
    part, *path = place.split("/") if "/" in place else ["metrics", place]
    holder = body[part]
    for step in path[:-1]:
        holder = holder[int(step) if isinstance(holder, list) else step]
    last: Any = int(path[-1]) if isinstance(holder, list) else path[-1]
    old = numbers(record)[place]
    if change is None:
        del holder[last]  # a number that is gone is a difference too
    elif np.isfinite(change):
        holder[last] = 7.0 if not np.isfinite(old) else old * change + 0.01
    else:
        new = "nan" if np.isnan(change) else "inf"
        holder[last] = new if holder[last] != new else "-inf"
    changed = Record.from_json(body)
    for one, other in ((record, changed), (changed, record)):
        result = compare(one, other)
        assert not result.agrees
        assert result.largest is not None and result.largest.name == place


def test_another_status_key_or_update_is_a_difference() -> None:
    diverged = a_record(status="diverged", diverged_at=3)
    assert not compare(a_record(), diverged).agrees
    assert not compare(diverged, a_record(status="diverged", diverged_at=4)).agrees
    assert not compare(a_record(), a_record(key="0" * 64)).agrees


def test_another_document_or_any_other_text_is_a_difference() -> None:
    for forget in ({"id": ["y#0"]}, {"note": ["all is well"]}, {"sure": [True]}, {"gone": [None]}):
        documents = {"forget": {"id": ["x#0"], "nll": [3.25]} | forget}
        for one, other in permutations((a_record(), a_record(documents=documents))):
            result = compare(one, other)
            assert not result.agrees and "1 text is not" in result.reason
            assert all(difference.agrees for difference in result.differences)


def test_a_metric_cannot_hide_under_the_name_of_another_number() -> None:
    record = a_record()
    hidden = a_record(metrics=record.metrics | {"documents/forget/nll/0": 99.0})
    assert not compare(hidden, record).agrees and not compare(record, hidden).agrees


def test_a_run_that_two_studies_share_is_verified_once_unless_its_copies_differ() -> None:
    record = a_record()
    copies = [record, a_record(provenance={"seconds": 99.0})]
    assert runs_to_verify(copies, "lab") == [record]
    changed = a_record(metrics=record.metrics | {"a": 1.0})
    assert runs_to_verify([*copies, changed], "lab") == [record, changed]


def test_a_metric_that_came_later_is_no_difference_where_the_published_record_lacks_it() -> None:
    old = a_record()
    new = a_record(metrics=old.metrics | {"general/last_word_accuracy": 0.25})
    assert compare(old, new).agrees
    assert not compare(new, old).agrees, "what was published must come again"
    other = a_record(metrics=old.metrics | {"general/of_our_own": 0.25})
    assert not compare(old, other).agrees


@given(st.floats(-1e6, 1e6), st.floats(0, 0.5), st.floats(1e-9, 1.0), st.floats(0, 0.999))
def test_numbers_within_the_tolerance_agree_and_others_do_not(
    number: float, relative: float, absolute: float, share: float
) -> None:
    tolerance = NumericalTolerance(relative, absolute)
    allowed = absolute + relative * abs(number)
    assert tolerance.excess(number, number + 2 * allowed + 1e-6 * abs(number)) > 1
    if share * allowed > 1e-9 * abs(number):
        assert tolerance.excess(number, number + share * allowed) <= 1


def test_zero_tolerance_wants_equal_numbers() -> None:
    exact = NumericalTolerance(0, 0)
    assert exact.excess(1.0, 1.0) == 0 and exact.excess(1.0, 1.0 + 1e-12) == float("inf")


def test_the_same_seed_picks_the_same_records() -> None:
    records = [a_record(key=f"{n:064x}") for n in range(50)]
    assert pick(records, 5, 1) == pick(records, 5, 1) != pick(records, 5, 2)
    assert len({r.key for r in pick(records, 5, 1)}) == 5
    assert pick(records, 80) == records
    with pytest.raises(UnlearnError, match="0 records"):
        pick(records, 0)


def test_a_report_of_a_verification_shows_every_metric_and_where_it_was_computed() -> None:
    there = {"device": "cpu", "processor": "A", "threads": 4, "versions": {"torch": "2.13.0"}}
    here = there | {"processor": "B", "threads": 2}
    published = a_record(provenance=there)
    metrics = published.metrics | {"a": 1.6}
    result = compare(published, a_record(provenance=here, metrics=metrics))
    page = verification(
        [result], NumericalTolerance(), available=7, command="unlearn verify --sample 1"
    )
    assert "1 of 1 record differs" in page and "1 of 7 published runs" in page
    assert differing_rows(page) == ["a"]
    for cell in ("1.5", "1.6", "0.1", "0.00031", "cpu, A", "cpu, B", "torch 2.13.0"):
        assert f"<td>{cell}</td>" in page
    assert all(f"<th scope=row>{name}</th>" in page for name in published.metrics)
    assert "4 numbers were compared" in page and "unlearn verify --sample 1" in page
    same = verification([compare(published, published)], NumericalTolerance(), available=1)
    assert "1 of 1 record agrees" in same and differing_rows(same) == []


def test_a_number_that_is_no_metric_is_listed_when_it_differs() -> None:
    changed = a_record(trajectory=[{"update": 1, "forget": -3.5}])
    page = verification([compare(a_record(), changed)], NumericalTolerance(), available=1)
    assert differing_rows(page) == ["trajectory/0/forget"]


def test_a_report_says_where_a_repetition_started_from_another_model() -> None:
    published, wide = a_record(), NumericalTolerance(0.1, 0.1)
    name = next(iter(published.metrics))
    changed = a_record(metrics={**published.metrics, name: published.metrics[name] * 1.05})
    other = dataclasses.replace(compare(published, changed, wide), base="f" * 64)
    page = verification([other], NumericalTolerance(), available=1, remade=wide)
    assert "The base differs in 1 of them" in page and "here ffffffffffff" in page
    assert differing_rows(page) == [] and "0.1 + 0.1" in page
    assert "base differs" not in verification([compare(published, published)], wide, available=1)


def test_a_report_of_a_verification_escapes_what_records_hold() -> None:
    evil = "<script>alert(1)</script>\n"
    spec = {"profile": evil, "domain": evil, "method": evil, "seed": evil}
    made = {"device": evil, "processor": evil, "commit": evil, "command": evil, "started": evil}
    record = a_record(
        spec=spec,
        metrics={evil: 1.0},
        trajectory=[{evil: 2.0}],
        provenance=made | {"versions": {evil: evil}},
    )
    changed = a_record(spec=spec, metrics={evil: 2.0}, key="0" * 64)
    for comparison in (compare(record, changed), Comparison(record, reason=evil)):
        page = verification([comparison], NumericalTolerance(), available=1, command=evil)
        assert "<script" not in page and "&lt;script&gt;" in page
        assert r"&lt;/script&gt;\n" in page and "&lt;/script&gt;\n" not in page  # in one line


# --- the other commands --------------------------------------------------------------------------


def test_score_gives_perplexity_attacks_and_unflipped_auc(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    line = values(
        unlearn(
            "score",
            "--model",
            model,
            "forget.jsonl",
            "retain.jsonl",
            "--out",
            "s.npz",
            "--members",
            "forget.jsonl",
            "--non-members",
            "approximate.jsonl",
            "--length",
            48,
            "--quiet",
            "--json",
        )
    )
    scores = TokenScores.load(files / "s.npz")
    texts = line["sets"]["texts"]
    assert texts["documents"] == len(scores) == 11 and texts["tokens"] == len(scores.logprob)
    assert texts["perplexity"] == pytest.approx(np.exp(-scores.logprob.mean(dtype=np.float64)))
    assert texts["attacks"]["loss"] == pytest.approx(loss_score(scores).mean())
    assert scores.ids[0].startswith("forget.jsonl:") and len(set(scores.ids)) == 11
    unseen = tuple(documents("approximate", 5))
    seen = tuple(documents("forget", 5))
    from unlearnlib.scoring import score

    sides = [
        loss_score(score(load_model(model), tiny_tokenizer(), side, length=48))
        for side in (seen, unseen)
    ]
    assert line["membership"]["loss"]["auc"] == pytest.approx(auc(*sides))
    assert unlearn("score", "--model", model, "forget.jsonl", "--out", "s.npz")[0] == 2
    code, out, _ = unlearn("score", "--model", model, "forget.jsonl", "--quiet")
    assert code == 0 and "perplexity" in out and "min_k_40" in out


def test_membership_is_told_per_document_with_an_interval(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    # Documents of several chunks each, whose ids are another column.
    for name in ("members", "others"):
        made = documents(name, 12, seed=3)
        rows = [
            json.dumps({"key": d.id, "id": 0, "text": f"{d.text} {d.text}" * (1 + n % 3)})
            for n, d in enumerate(made)
        ]
        (files / f"{name}.jsonl").write_text("\n".join(rows))
    words = [
        "score", "--model", model, "--members", "members.jsonl", "--non-members", "others.jsonl",
        "--length", 24, "--quiet",
    ]  # fmt: skip
    code, _, err = unlearn(*words)
    assert code == 2 and "occurs twice" in err and "--id" in err
    line = values(unlearn(*words, "--id", "key", "--json"))
    found = line["sets"]["members"]
    rows = found["per_document"]
    assert [row["id"] for row in rows] == [f"members-{number}" for number in range(12)]
    assert sum(row["chunks"] for row in rows) == found["chunks"] > 24
    assert sum(row["tokens"] for row in rows) == found["tokens"]
    total = sum(row["tokens"] * np.log(row["perplexity"]) for row in rows)
    assert np.exp(total / found["tokens"]) == pytest.approx(found["perplexity"])
    sides = [
        np.array([row["attacks"]["loss"] for row in line["sets"][name]["per_document"]])
        for name in ("members", "non_members")
    ]
    measured = line["membership_of_documents"]["loss"]
    assert measured["auc"] == pytest.approx(auc(*sides))
    assert measured["low"] < measured["auc"] < measured["high"]
    numbered = values(unlearn(*words, "--id", "none", "--json"))
    assert numbered["sets"]["members"]["per_document"][0]["id"] == "members-0001"
    assert "AUC of documents" in unlearn(*words, "--id", "none")[1]


def test_a_run_takes_its_ids_from_the_column_that_is_named(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    more = ["--updates", 1, "--batch-size", 2, "--out", "out", "--json"]
    line = values(unlearn(*own(model, "--id", "none", *more)))
    assert "--id none" in line["repeat"]
    assert "| forget-0001 |" in (files / "out" / "README.md").read_text()
    for command in ("run", "tune"):
        code, _, err = unlearn(command, "--profile", "lab", "--id", "none")
        assert code == 2 and "--id 'none' is for documents of your own" in err


def test_methods_and_profiles_are_listed(unlearn: Unlearn) -> None:
    methods = values(unlearn("methods", "--json"))["methods"]
    names = [m["name"] for m in methods]
    assert names == list(METHODS) and names[: len(PAPER_METHODS)] == list(PAPER_METHODS)
    by_name = {m["name"]: m for m in methods}
    assert by_name["ga"]["forget"].startswith("minus cross-entropy")
    assert by_name["ga"]["retain"] is None
    assert by_name["ga_gd_general"]["data"] == "general"
    assert "random tokens" in by_name["random_label"]["forget"]
    assert by_name["ga"]["family"] == by_name["npo"]["family"] == "weighted ascent"
    assert by_name["adversarial"]["family"] == by_name["undial"]["family"] == "target distribution"
    assert by_name["satimp"]["strengths"] == {"beta": 5.0, "gamma": 1.0}
    assert by_name["wga"]["formula"] == "p^beta" and by_name["wga"]["memory"] == "nothing"
    assert by_name["npo"]["memory"] == "1 number per forget token, the original head"
    assert by_name["ga_js_general"]["memory"] == "H numbers per retain token, the original head"
    assert by_name["random_label"]["memory"] == "1 number per forget token"
    assert by_name["undial_gd_in_dist"]["documents"] == "forget, retain"
    said = unlearn("methods")[1]
    assert all(word in said for word in ("2 p^beta / (p^beta + r^beta)", "beta=4.5 gamma=0"))
    profiles = values(unlearn("profiles", "--json"))["profiles"]
    assert {p["name"] for p in profiles} == set(PROFILES)
    assert "ga_kl_in_dist" in unlearn("methods")[1] and "SmolLM2" in unlearn("profiles")[1]


def test_data_counts_shows_and_exports_what_a_run_reads(
    lab: Path, unlearn: Unlearn, tmp_path: Path
) -> None:
    words = ["data", "--domain", "books", *LIMITS, "--json", "--quiet"]
    line = values(unlearn(*words, "--show", 1, "--export", tmp_path / "texts"))
    rows = {row["split"]: row for row in line["statistics"]}
    forget = _generate("books").forget[:3]
    tokenizer = tiny_tokenizer()
    assert rows["forget"]["documents"] == 3
    assert rows["forget"]["characters"] == sum(len(d.text) for d in forget)
    assert rows["forget"]["tokens"] == sum(len(tokenizer(d.text)["input_ids"]) for d in forget)
    assert line["shown"][0]["text"] == forget[0].text

    from unlearnlib.corpus.files import read_documents

    back = read_documents(tmp_path / "texts" / "books" / "forget.jsonl")
    assert back == tuple(Document(d.id, d.text) for d in forget)
    assert unlearn(*words, "--export", tmp_path / "texts")[0] == 2
    code, out, _ = unlearn(*words[:-2], "--quiet", "--show", 1)
    assert code == 0 and forget[0].text in out


def test_what_is_shown_of_a_document_cannot_steer_the_terminal(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Document("a\n--- books, forget: b\x1b[2J", "one\n\ttwo\r\x1b[31mthree")
    data = dataclasses.replace(_generate("books"), forget=(odd,))
    monkeypatch.setattr("unlearnlib.cli.data.load_domain", lambda *_: data)
    code, out, _ = unlearn("data", "--domain", "books", "--quiet", "--show", 1)
    assert code == 0 and "\n--- books, forget: a\\n--- books, forget: b\\x1b[2J\n" in out
    assert "one\n\ttwo\\r\\x1b[31mthree" in out and "\x1b" not in out


def test_pretrain_makes_the_models_asked_for(
    lab: Path, unlearn: Unlearn, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def train(name: str, **_: object) -> dict[str, Any]:
        made.append(name)
        return {
            "name": name, "parameters": 10, "updates": 2, "losses": [3.0, 2.0],
            "model_hash": "h", "provenance": {"seconds": 1.0},
        }  # fmt: skip

    monkeypatch.setattr("unlearnlib.cli.pretrain.train_lab_model", train)
    line = values(unlearn("pretrain", "--json", "--quiet"))
    assert made == list(pretrain.LAB_MODELS) == [m["name"] for m in line["models"]]
    assert line["models"][0]["loss"] == 2.0
    made.clear()
    values(unlearn("pretrain", "--only", "oracle-books", "--json", "--quiet"))
    assert made == ["oracle-books"]
    made.clear()
    for name in ("vanilla", "oracle-books", "oracle-arxiv"):
        (lab / "lab" / name / "record.json").write_text("{}")
    values(unlearn("pretrain", "--missing", "--json", "--quiet"))
    assert made == ["oracle-github"]


def test_a_repeated_command_has_no_paths() -> None:
    args = build_parser().parse_args(
        ["run", "--model", "/home/me/m", "--forget", "/home/me/f f.txt", "--out", "../here/o/"]
    )
    assert isinstance(args, argparse.Namespace)
    command = repeat_command(args, RunSpec(domain="yours", length=64))
    assert "--forget 'f f.txt'" in command and "--out o" in command and "here" not in command


# --- the lab's own models ------------------------------------------------------------------------


@pytest.mark.skipif(
    not Path(__file__).parent.parent.joinpath("data", "lab", "vanilla").is_dir(),
    reason="the lab's models are not there: run `unlearn pretrain`",
)
def test_ascent_makes_the_lab_forget(unlearn: Unlearn, tmp_path: Path) -> None:
    words = ["run", "--profile", "lab", "--domain", "books", "--method", "ga"]
    settings = ["--set", "learning_rate=1e-4", "--set", "updates=2", "--set", "batch_size=8"]
    limits = [w for s in ("forget", "approximate", "retain") for w in ("--limit", f"{s}=8")]
    line = values(unlearn(*words, *settings, *limits, "--out", tmp_path / "o", "--quiet", "--json"))
    assert line["before"]["forget/perplexity"] < line["before"]["approximate/perplexity"]
    assert line["metrics"]["forget/perplexity"] > line["before"]["forget/perplexity"]
