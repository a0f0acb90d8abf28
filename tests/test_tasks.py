"""Tasks of lm-evaluation-harness: asked by name or from a file of one's own, no network.

    .venv/bin/python -m pytest -q tests/test_tasks.py

What needs the harness is skipped without it: pip install "lm_eval>=0.4.9".
"""

from __future__ import annotations

import builtins
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import documents, tiny_llama, tiny_tokenizer

from unlearnlib.cli.main import main
from unlearnlib.comparison import compare
from unlearnlib.errors import UnlearnError
from unlearnlib.models import load_model, load_tokenizer, save_model
from unlearnlib.store import Store
from unlearnlib.tasks import load_tasks, metrics_of, run_tasks, stderr_of, task_rows, without_ending

harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason='needs lm-evaluation-harness: pip install "unlearnlib[tasks]"',
)

CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
LAST_WORD = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{prompt.rstrip()}}}}"
doc_to_target: " {{{{answer.strip()}}}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
"""
GENERATION = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def write_task(
    folder: Path, name: str = "keepers", form: str = CHOICE, more: str = "", questions: int = 12
) -> Path:
    """A task on the facts of invented documents, the right option at no fixed place."""
    rows = []
    for number, document in enumerate(documents("forget", questions)):
        fact = document.facts[0]
        options, right = [*fact.distractors], number % 4
        options.insert(right, fact.answer)
        rows.append(
            {"prompt": fact.prompt, "options": options, "right": right, "answer": fact.answer}
        )
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines)
    path = folder / f"{name}.yaml"
    path.write_text(form.format(name=name) + more)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are converted into a folder of the test's own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))


@harness
def test_a_choice_task_gives_the_share_of_questions_whose_right_option_is_most_likely(
    tmp_path: Path, cache: None
) -> None:
    import torch

    path = write_task(tmp_path / "own")
    model, tokenizer = tiny_llama(dtype=torch.float32), tiny_tokenizer()
    found = run_tasks(model, tokenizer, load_tasks([str(path)], unsafe=True), progress=False)

    # The slow way: each option's log-probability after its prompt, one forward pass each.
    right = 0
    for number, document in enumerate(documents("forget", 12)):
        fact = document.facts[0]
        options = [*fact.distractors]
        options.insert(number % 4, fact.answer)
        sums = []
        for option in options:
            # Bytes and merges of the prompt are the same with any option after it.
            plain = without_ending(tokenizer)
            prompt = plain(fact.prompt.rstrip())["input_ids"]
            whole = plain(fact.prompt + option)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([whole])).logits[0]
            logs = logits.double().log_softmax(-1)
            first = next(
                (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
                len(prompt),
            )
            sums.append(sum(float(logs[i - 1, whole[i]]) for i in range(first, len(whole))))
        right += max(range(4), key=sums.__getitem__) == number % 4
    assert found["task/keepers/acc"] == pytest.approx(right / 12)
    share = right / 12
    expected = math.sqrt(share * (1 - share) / 11)
    assert found["task/keepers/acc_stderr"] == pytest.approx(expected)


@harness
def test_a_generation_task_is_judged_by_what_the_model_writes(tmp_path: Path, cache: None) -> None:
    import torch

    path = write_task(tmp_path / "own", "recall", GENERATION)
    model, tokenizer = tiny_llama(dtype=torch.float32), tiny_tokenizer()
    rows = [json.loads(line) for line in (path.parent / "recall.jsonl").read_text().splitlines()]
    # The questions' answers are made to be what the model writes for every other question.
    for row in rows[::2]:
        tokens = without_ending(tokenizer)(row["prompt"], return_tensors="pt")["input_ids"]
        more = model.generate(tokens, max_new_tokens=4, do_sample=False)[0, tokens.shape[1] :]
        row["answer"] = tokenizer.decode(more, skip_special_tokens=True).split(".")[0]
    (path.parent / "recall.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = run_tasks(model, tokenizer, load_tasks([str(path)], unsafe=True), progress=False)
    assert found["task/recall/exact_match"] == pytest.approx(0.5, abs=0.1)


def tokenizers() -> dict[str, Any]:
    """Two that differ in this alone: the one puts an end token after every text."""
    ending = tiny_tokenizer()
    start, end = ending("a")["input_ids"][0], ending("a")["input_ids"][-1]
    assert {start, end} <= set(ending.all_special_ids)
    return {"ending": ending, "open": without_ending(ending)}


@pytest.mark.parametrize("kind", ["ending", "open"])
def test_a_tokenizer_for_tasks_puts_nothing_after_a_text(kind: str) -> None:
    tokenizer = tokenizers()[kind]
    before = tokenizer("some text")["input_ids"]
    made = without_ending(tokenizer)
    inner = tokenizer("some text", add_special_tokens=False)["input_ids"]
    assert made("some text")["input_ids"] == [before[0], *inner]
    assert tokenizer("some text")["input_ids"] == before, "ours stays as it is"


@harness
@pytest.mark.parametrize("kind", ["ending", "open"])
def test_the_likelihood_of_a_last_word_is_that_by_hand(
    tmp_path: Path, cache: None, kind: str
) -> None:
    import torch

    path = write_task(tmp_path / "own", "last", LAST_WORD)
    model, tokenizer = tiny_llama(dtype=torch.float32), tokenizers()[kind]
    found = run_tasks(model, tokenizer, load_tasks([str(path)], unsafe=True), progress=False)
    start = tokenizer("a")["input_ids"][:1]
    totals = []
    for document in documents("forget", 12):
        fact = document.facts[0]
        text, word = fact.prompt.rstrip(), " " + fact.answer.strip()
        prompt, whole = (
            start + tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, text + word)
        )
        with torch.no_grad():
            logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        places = range(len(prompt), len(whole))
        totals.append(sum(float(logs[i - 1, whole[i]]) for i in places))
    expected = math.exp(-sum(totals) / len(totals))
    assert found["task/last/perplexity"] == pytest.approx(expected, rel=1e-3)


@harness
@pytest.mark.parametrize("how", ["template", "function"])
def test_code_in_a_task_file_runs_only_where_that_is_confirmed(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """The file would write another, by a Jinja expression or by a function beside it."""
    sign, path = tmp_path / "written", write_task(tmp_path / "own")
    if how == "template":
        evil = "{{ cycler.__init__.__globals__.os.system('touch " + str(sign) + "') }}"
        path.write_text(path.read_text().replace('"{{prompt}}"', json.dumps(evil)))
        assert str(sign) in path.read_text()
    else:
        (path.parent / "code.py").write_text(f"open({str(sign)!r}, 'w')\ndef f(x): return x\n")
        path.write_text(path.read_text() + "process_docs: !function code.f\n")
    code = main(["score", "--model", "lab", "--tasks", str(path), "--quiet"])
    shown = capsys.readouterr()
    assert code == 2 and not shown.out and shown.err.count("\n") == 1
    assert "--confirm-unsafe-code" in shown.err and "keepers.yaml" in shown.err
    assert not sign.exists()


@harness
def test_a_limit_asks_only_the_first_questions_and_a_folder_all_of_its_tasks(
    tmp_path: Path, cache: None
) -> None:
    import torch

    write_task(tmp_path / "own", "one")
    write_task(tmp_path / "own", "two", GENERATION)
    tasks = load_tasks([str(tmp_path / "own")], limit=4, unsafe=True)
    assert set(tasks.tasks) == {"one", "two"} and tasks.names == ("own",)
    tokenizer = tiny_tokenizer()
    found = run_tasks(tiny_llama(dtype=torch.float32), tokenizer, tasks, progress=False)
    assert found["task/one/acc"] * 4 == int(found["task/one/acc"] * 4)
    assert "task/two/exact_match" in found


@harness
def test_the_fingerprint_follows_questions_limit_and_settings_and_not_the_place(
    tmp_path: Path, cache: None
) -> None:
    here, there = (
        load_tasks([str(write_task(tmp_path / f))], unsafe=True) for f in ("here", "there")
    )
    fewer = load_tasks([str(write_task(tmp_path / "fewer", questions=11))], unsafe=True)
    other = load_tasks([str(write_task(tmp_path / "other", more="num_fewshot: 1\n"))], unsafe=True)
    limited = load_tasks([str(tmp_path / "here" / "keepers.yaml")], limit=3, unsafe=True)
    assert here.fingerprint == there.fingerprint
    assert len({t.fingerprint for t in (here, fewer, other, limited)}) == 4


@harness
def test_code_of_the_model_runs_only_where_that_is_confirmed(
    tmp_path: Path, cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    path = write_task(tmp_path / "own", "coder", GENERATION, "unsafe_code: true\n")
    with pytest.raises(UnlearnError, match=r"coder.yaml' is not one of .* --confirm-unsafe-code"):
        load_tasks([str(path)])
    assert load_tasks([str(path)], unsafe=True).unsafe


@harness
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("arc_eazy", "arc_easy"),
        ("humaneval", "--confirm-unsafe-code"),
        ("arc_easy", "hub"),
        ("no/such/task.yaml", "there is no task file"),
    ],
)
def test_a_task_that_cannot_be_had_is_one_sentence(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["score", "--model", "lab", "--tasks", name, "--quiet"])
    shown = capsys.readouterr()
    assert code == 2 and not shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("unlearn:")]
    assert len(lines) == 1 and said in lines[0] and name in lines[0]


@harness
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: [", "cannot be read"),
        ("output_type: multiple_choice", "no name under 'task'"),
        (CHOICE.format(name="lost"), "'lost' cannot be read"),
    ],
)
def test_a_harmed_task_file_is_one_sentence(
    tmp_path: Path, cache: None, text: str, said: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UnlearnError) as caught:
        load_tasks([str(tmp_path / "bad.yaml")], unsafe=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_harness_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError("No module named 'lm_eval'")
        return true_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnlearnError, match=r"pip install 'unlearnlib\[tasks\]'"):
        load_tasks(["arc_easy"])


@pytest.mark.parametrize("flag", [["--task-limit", "3"], ["--confirm-unsafe-code"]])
def test_flags_of_tasks_need_tasks(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--profile", "lab", *flag]) == 2
    assert "--tasks" in capsys.readouterr().err


def test_results_become_metrics_and_what_is_no_number_is_left_out() -> None:
    found = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "sample_len": 5,
                "exact_match,strict-match": 0.25,
                "exact_match_stderr,strict-match": 0.1,
            },
            "arc": {"acc,none": 0.5, "acc_stderr,none": "N/A"},
        },
        "groups": {"mmlu": {"acc,none": 0.75, "acc_stderr,none": 0.125}},
    }
    metrics = metrics_of(found)
    assert metrics == {
        "task/mmlu/acc": 0.75,
        "task/mmlu/acc_stderr": 0.125,
        "task/gsm8k/exact_match,strict-match": 0.25,
        "task/gsm8k/exact_match_stderr,strict-match": 0.1,
        "task/arc/acc": 0.5,
    }
    assert [row[1:] for row in task_rows(metrics)] == [
        ("mmlu", "acc"),
        ("gsm8k", "exact_match,strict-match"),
        ("arc", "acc"),
    ]
    assert stderr_of(metrics, "task/gsm8k/exact_match,strict-match") == 0.1
    assert math.isnan(stderr_of(metrics, "task/arc/acc"))


RUN = ["run", "--profile", "lab", "--domain", "books", "--limit", "forget=4"]
RUN += ["--limit", "retain=4", "--limit", "approximate=4", "--set", "updates=1"]


@harness
def test_tasks_change_no_key_and_no_record_and_are_found_again(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    task, where = str(write_task(tmp_path / "own")), tmp_path / "store"
    command = [*RUN, "--store", str(where), "--json", "--quiet"]

    def answer(*more: str) -> dict[str, Any]:
        flag = ["--confirm-unsafe-code"] if "--tasks" in more else []
        assert main([*command, *more, *flag]) == 0
        return dict(json.loads(capsys.readouterr().out))

    plain = answer()
    first = {r.key: r for r in Store(where).records()}
    asked = answer("--tasks", task)
    assert asked["key"] == plain["key"] and asked["computed"]
    assert 0 <= asked["metrics"]["task/keepers/acc"] <= 1
    after = {r.key: r for r in Store(where).records()}
    assert after[plain["key"]] == first[plain["key"]], "the run's own record stays as it is"
    (of_tasks,) = (r for r in after.values() if r.kind == "tasks")
    assert set(of_tasks.metrics) == {"task/keepers/acc", "task/keepers/acc_stderr"}
    assert of_tasks.extra["run"] == plain["key"]
    again = answer("--tasks", task)
    assert not again["computed"] and again["metrics"] == asked["metrics"]
    limited = answer("--tasks", task, "--task-limit", "2")
    assert limited["computed"] and sum(r.kind == "tasks" for r in Store(where).records()) == 2
    assert compare(first[plain["key"]], after[plain["key"]]).agrees


@harness
def test_model_card_and_record_show_the_tasks_before_and_after(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    task, out = str(write_task(tmp_path / "own")), tmp_path / "out"
    arguments = [*RUN, "--out", str(out), "--tasks", task, "--task-limit", "8", "--quiet"]
    arguments += ["--confirm-unsafe-code"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "keepers, acc" in shown and "±" in shown
    body = json.loads((out / "record.json").read_text())
    assert "task/keepers/acc" in body["before"]
    assert "task/keepers/acc" in body["record"]["metrics"]
    card = (out / "README.md").read_text()
    assert "keepers, acc" in card and "--tasks keepers.yaml --task-limit 8" in card
    assert str(tmp_path) not in card, "where files lay is nobody's business"
    # The saved tokenizer is the one that came in: the harness has not given it padding.
    assert load_tokenizer(out).pad_token == load_tokenizer("lab").pad_token
    words = ["score", "--model", str(out), "--tasks", task, "--task-limit", "8", "--json"]
    assert main([*words, "--confirm-unsafe-code"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["tasks"]["task/keepers/acc"] == body["record"]["metrics"]["task/keepers/acc"]


@harness
def test_a_tokenizer_without_padding_stays_without(tmp_path: Path, cache: None) -> None:
    import torch

    folder = tmp_path / "model"
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = None
    tasks = load_tasks([str(write_task(tmp_path / "own"))], limit=2, unsafe=True)
    run_tasks(load_model(folder), tokenizer, tasks, progress=False)
    assert tokenizer.pad_token is None
