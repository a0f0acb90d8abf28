"""Questions, conversations and long documents, from the command line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import documents, tiny_llama, tiny_tokenizer

from unlearnlib import Document, score
from unlearnlib.models import load_model, save_model

SETS = (("forget", 5), ("retain", 6), ("approximate", 5), ("general", 6))
QUESTION = "Who kept it, and when?"
COLUMNS = ("--column", "answer", "--prompt-column", "question")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chat"
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = TEMPLATE
    save_model(tiny_llama(dtype=torch.float32), tokenizer, folder)
    return folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: questions in NAME.jsonl, and the same as conversations in NAME-chat."""
    monkeypatch.chdir(tmp_path)
    for name, count in SETS:
        made = documents(name, count)
        rows = [{"id": d.id, "question": QUESTION, "answer": d.text} for d in made]
        turns = [
            {"id": d.id, "messages": [
                {"role": "user", "content": QUESTION}, {"role": "assistant", "content": d.text},
            ]}
            for d in made
        ]  # fmt: skip
        for end, lines in (("", rows), ("-chat", turns)):
            text = "".join(json.dumps(row) + "\n" for row in lines)
            (tmp_path / f"{name}{end}.jsonl").write_text(text)
    return tmp_path


Unlearn = Callable[..., tuple[int, str, str]]


def values(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def own(model: Path, end: str = "") -> list[object]:
    return ["--model", model, *(w for n, _ in SETS for w in (f"--{n}", f"{n}{end}.jsonl"))]


RUN = ("--updates", 1, "--batch-size", 2, "--length", 64, "--quiet", "--json")


def test_questions_are_context_in_score_and_membership(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    words = ["score", "--model", model, "forget.jsonl", "--members", "forget.jsonl",
             "--non-members", "approximate.jsonl", "--length", 64, "--quiet", "--json"]  # fmt: skip
    asked, alone = (
        values(unlearn(*words, *columns)) for columns in (COLUMNS, ("--column", "answer"))
    )
    texts = [Document(d.id, d.text, prompt=QUESTION) for d in documents("forget", 5)]
    byhand = score(load_model(model), tiny_tokenizer(), texts, length=64)
    found = asked["sets"]["texts"]
    assert found["tokens"] == len(byhand.logprob)
    assert found["perplexity"] == pytest.approx(np.exp(-byhand.logprob.mean(dtype=np.float64)))
    assert found["perplexity"] != pytest.approx(alone["sets"]["texts"]["perplexity"])
    # <bos> is given in both; what is predicted is the answer, and no letter of the question.
    assert abs(found["tokens"] - alone["sets"]["texts"]["tokens"]) <= 5
    assert asked["membership"]["loss"] and asked["membership_of_documents"]["loss"]


def test_a_run_and_a_plan_take_questions_and_the_command_repeats_it(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    line = values(unlearn("run", *own(model), *COLUMNS, *RUN, "--out", "out"))
    assert "--column answer --prompt-column question" in line["repeat"]
    plain = values(unlearn("run", *own(model), "--column", "answer", *RUN, "--out", "plain"))
    assert line["key"] != plain["key"]
    card, other = ((files / out / "README.md").read_text() for out in ("out", "plain"))
    assert "Documents have prompts" in card and "Documents have prompts" not in other
    assert line["metrics"]["forget/perplexity"] != plain["metrics"]["forget/perplexity"]
    planned = values(unlearn("run", *own(model), *COLUMNS, *RUN, "--plan", "--out", "p"))
    assert planned["tokens"] > 0


def test_a_search_takes_questions(model: Path, files: Path, unlearn: Unlearn) -> None:
    words = ["--runs", 1, "--set", "length=64", "--out", "out", "--quiet", "--json"]
    assert values(unlearn("tune", *own(model), *COLUMNS, *words))["runs"] <= 1


def test_conversations_and_questions_of_a_user_are_the_same(
    chat_model: Path, files: Path, unlearn: Unlearn
) -> None:
    asked = values(unlearn("run", *own(chat_model), *COLUMNS, "--chat", *RUN, "--out", "a"))
    spoken = values(unlearn("run", *own(chat_model, "-chat"), *RUN, "--out", "b"))
    assert asked["metrics"] == spoken["metrics"] and asked["key"] == spoken["key"]
    assert asked["repeat"].count("--chat") == 1


def test_a_conversation_needs_a_template(model: Path, files: Path, unlearn: Unlearn) -> None:
    code, _, err = unlearn("run", *own(model, "-chat"), *RUN, "--out", "out")
    assert code == 2 and "has no chat template" in err and "'forget-0'" in err
    code, _, err = unlearn("score", "--model", model, "forget-chat.jsonl", "--chat", "--quiet")
    assert code == 2 and "--chat" in err and "--prompt-column" in err


def test_data_counts_files_of_ones_own(model: Path, files: Path, unlearn: Unlearn) -> None:
    words = ["data", *own(model), *COLUMNS, "--quiet"]
    line = values(unlearn(*words, "--json", "--show", 1, "--export", "texts"))
    rows = {row["split"]: row for row in line["statistics"]}
    assert rows["forget"]["documents"] == 5 and rows["general_retain"]["documents"] == 4
    made = documents("forget", 5)
    assert rows["forget"]["characters"] == sum(len(d.text) for d in made)
    assert line["shown"][0] == {
        "domain": "yours", "split": "forget", "id": "forget-0", "prompt": QUESTION,
        "text": made[0].text,
    }  # fmt: skip
    exported = (files / "texts" / "yours" / "forget.jsonl").read_text().splitlines()
    assert json.loads(exported[0])["prompt"] == QUESTION
    assert f"{QUESTION}\n=> {made[0].text}" in unlearn(*words, "--show", 1)[1]
    for bad, said in (
        (["data", "--column", "answer"], "give them with --forget"),
        (["data", "--retain", "retain.jsonl"], "--forget is missing"),
        ([*words, "--domain", "books"], "leave out one of the two"),
    ):
        code, _, err = unlearn(*bad)
        assert code == 2 and said in err


def test_bos_in_every_chunk_is_another_run_with_another_score(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    text = " ".join(d.text for d in documents("long", 30))
    (files / "long.txt").write_text(text)
    words = ["score", "--model", model, "long.txt", "--length", 32, "--quiet", "--json"]
    plain, framed = values(unlearn(*words)), values(unlearn(*words, "--bos-every-chunk"))
    one, other = (line["sets"]["texts"] for line in (plain, framed))
    assert other["tokens"] > one["tokens"] and other["perplexity"] != one["perplexity"]
    run = ["run", "--model", model, "--forget", "long.txt", "--method", "ga", "--updates", 1,
           "--batch-size", 4, "--length", 32, "--quiet", "--json"]  # fmt: skip
    plain = values(unlearn(*run, "--out", "a"))
    framed = values(unlearn(*run, "--out", "b", "--set", "bos_every_chunk=true"))
    assert plain["key"] != framed["key"] and "bos_every_chunk=True" in framed["repeat"]
    assert "Every chunk begins with `<bos>`" in (files / "b" / "README.md").read_text()
    assert "<bos>" not in (files / "a" / "README.md").read_text()
    repeated = values(unlearn(*run, "--out", "c", "--set", "bos_every_chunk=True"))
    assert repeated["metrics"] == framed["metrics"]


def test_the_ends_of_documents_that_are_left_out_are_counted_and_told(
    model: Path, files: Path, unlearn: Unlearn
) -> None:
    tokenizer = tiny_tokenizer()
    text = " ".join(d.text for d in documents("long", 4))
    length = next(n for n in range(20, 40) if 0 < len(tokenizer(text)["input_ids"]) % n < 5)
    left = len(tokenizer(text)["input_ids"]) % length
    (files / "long.txt").write_text(text)
    code, _, err = unlearn("score", "--model", model, "long.txt", "--length", length)
    said = f"{left} token{'s' if left > 1 else ''} at the end of 1 document"
    assert code == 0 and said in err
    assert "unlearn: long.txt: 1 document read" in err
    words = ["run", "--model", model, "--forget", "long.txt", "--method", "ga", "--updates", 1]
    code, _, err = unlearn(*words, "--length", length, "--out", "out")
    assert code == 0 and said in err
    assert said in (files / "out" / "README.md").read_text()
