"""`unlearn audit`: what it asks for, what it writes, and how it ends."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUIET, tiny_bench, tiny_data, tiny_llama, tiny_tokenizer

from unlearnlib.audits.audit import AuditSpec, make_audit
from unlearnlib.cli.audit import requirement
from unlearnlib.engine import Part, Training, optimise
from unlearnlib.errors import UnlearnError
from unlearnlib.methods import Descent
from unlearnlib.models import save_model
from unlearnlib.report import card
from unlearnlib.report.audit import audit_page
from unlearnlib.report.audited import HEADING, audit_section, with_section
from unlearnlib.store import Record, Store

Unlearn = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring how fast this machine is takes longer than what is planned by it."""
    monkeypatch.setattr("unlearnlib.audits.audit.expected_rate", lambda *_: 1e10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and documents: `original` has read forget.jsonl, `unlearned` is from before that."""
    place = tmp_path_factory.mktemp("audit")
    data = tiny_data(forget=8, others=8)
    unlearned = tiny_llama(seed=1, dtype=torch.float32)
    original = copy.deepcopy(unlearned)
    bench = tiny_bench(model=original, dtype=torch.float32, data=data)
    part = Part("forget", bench.chunks("forget"), Descent())
    optimise(original, [part], Training(30, 8, lambda _: 3e-3), execution=QUIET)
    save_model(unlearned, tiny_tokenizer(), place / "unlearned")
    save_model(original, tiny_tokenizer(), place / "original")
    for split in ("forget", "approximate"):
        rows = [json.dumps({"id": d.id, "text": d.text}) for d in data.split(split)]
        (place / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return place


def words(folder: Path, *more: str, model: str = "unlearned") -> list[str]:
    return [
        "audit",
        *("--model", str(folder / model)),
        *("--original", str(folder / "original")),
        *("--forget", str(folder / "forget.jsonl")),
        *("--approximate", str(folder / "approximate.jsonl")),
        *("--store", str(folder / "store"), "--device", "cpu", "--length", "48"),
        *more,
    ]


def test_an_audit_of_ones_own_documents(folder: Path, unlearn: Unlearn) -> None:
    out = folder / "audited"
    only = ("--only", "extraction", "--only", "inside")
    code, said, _ = unlearn(*words(folder, *only, "--out", str(out), "--json", "--quiet"))
    values = json.loads(said)
    assert code == 0
    assert [row["audit"] for row in values["audits"]] == ["inside", "extraction"]
    assert values["metrics"]["inside"] == pytest.approx(0, abs=0.6)
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert values["verdict"] in page.replace("&#39;", "'")
    assert str(folder) not in page
    record = Record.from_json(json.loads((out / "audit.json").read_text(encoding="utf-8")))
    assert record.key == values["key"]
    assert str(folder) not in json.dumps(record.to_json())


def test_a_requirement_that_is_not_met_ends_with_1(folder: Path, unlearn: Unlearn) -> None:
    only = ("--only", "quantisation", "--quiet")
    code, said, _ = unlearn(*words(folder, *only, "--require", "quantisation<=0.99"))
    assert code == 0 and "NOT MET" not in said
    code, said, _ = unlearn(
        *words(folder, *only, "--require", "quantisation<=0.25", model="original")
    )
    assert code == 1 and "REQUIREMENT NOT MET: quantisation<=0.25" in said


def test_a_number_that_is_not_known_meets_nothing() -> None:
    wanted = requirement("inside <= 1e9", ("inside",))
    assert wanted.holds({"inside": 0.0})
    assert not wanted.holds({"inside": float("nan")})
    assert not wanted.holds({})


@pytest.mark.parametrize("text", ["inside", "inside<=", "inside==1", "<=3", "inside<=x"])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(UnlearnError, match="says no limit"):
        requirement(text, ("inside",))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "x"], "not said what 'x' is to have forgotten"),
        (["--model", "x", "--profile", "lab", "--domain", "bocks"], "unknown domain 'bocks'"),
        (["--model", "x", "--forget", "f"], "--original is missing"),
        (["--model", "x", "--original", "y", "--retain", "f"], "--forget is missing"),
        (["--model", "x", "--domain", "books", "--only", "relerning"], "unknown audit 'relerning'"),
        (["--model", "x", "--domain", "books", "--require", "gone<=1"], "unknown result 'gone'"),
        (["--model", "x", "--domain", "books", "--set", "rate=1"], "unknown setting 'rate'"),
        (["--model", "x", "--domain", "books", "--set", "rates=x"], "rates is 'x': give numbers"),
        (["--model", "x", "--domain", "books", "--set", "most=1.5"], "give whole numbers"),
        (["--model", "x", "--domain", "books", "--length", "9"], "--length 9 is for documents"),
        (["--model", "x", "--domain", "books", "--tokenizer", "t"], "given without --original"),
        (["--model", "x", "--domain", "books", "--out", "no/such"], "does not exist: make it"),
        (["--model", "x", "--domain", "books", "--card"], "no model card with a section"),
        (["--model", "x", "--forget", "f", "--profile", "lab"], "together with files"),
    ],
)
def test_bad_input_is_one_sentence(given: list[str], said: str, unlearn: Unlearn) -> None:
    code, out, err = unlearn("audit", *given)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1


def test_settings_are_lists_of_numbers_with_commas() -> None:
    spec = AuditSpec.of_texts(("inside",), {"rates": "1e-6, 1e-5", "steps": "0,4", "most": "9"})
    assert spec == AuditSpec(("inside",), rates=(1e-6, 1e-5), steps=(0, 4), most=9)


# --- the page and the card -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    """An audit with an oracle."""
    oracle = tiny_llama(seed=1, dtype=torch.float32)
    bench = tiny_bench(
        model=tiny_llama(seed=2, dtype=torch.float32),
        oracle=oracle,
        dtype=torch.float32,
        data=tiny_data(forget=8, others=8),
    )
    small = {"rates": (1e-3,), "steps": (0, 1), "formats": ("int4",)}
    spec = AuditSpec(**small, prefixes=(2, 4), span=3)  # type: ignore[arg-type]
    return make_audit(bench, oracle, spec, store=Store(folder / "other"), command="again")


def test_the_page_tells_what_was_asked_and_escapes_names(record: Record) -> None:
    page = audit_page(record, model="<b>mine</b>", original="vanilla", documents=8)
    assert "<b>mine" not in page and "&lt;b&gt;mine" in page
    assert "this model" in page and "retrained model" in page and "again" in page
    assert page.count("<figure") == 2


def test_a_card_that_was_not_audited_says_so_on_its_first_screen() -> None:
    section = audit_section(None)
    template = Path(card.__file__).parent / "templates" / "card.md"
    text = template.read_text(encoding="utf-8")
    assert "Not audited" in section
    assert text.index("{{ audit }}") < text.index("## What was forgotten")


def test_an_audit_takes_the_place_of_the_sentence_that_there_is_none(record: Record) -> None:
    before = f"# A model\n\n{audit_section(None)}\n## What was forgotten\n\nA table\n"
    after = with_section(before, record)
    assert after is not None
    assert "Not audited" not in after and after.count(HEADING) == 1
    assert after.endswith("## What was forgotten\n\nA table\n")
    assert with_section(after, record) == after
    assert with_section("# Another card\n", record) is None


def test_an_impostor_that_passes_is_told(record: Record) -> None:
    changed: Any = copy.deepcopy(record)
    changed.metrics["extraction/impostor"] = 0.0
    changed.metrics["inside/impostor"] = 1.0
    text = audit_section(changed)
    assert "passes these audits: extraction" in text
    assert "| extraction |" in text and "0 %, passes" in text
    changed.metrics["extraction/impostor"] = float("nan")
    assert "passes" not in audit_section(changed)


# --- run and then audit --------------------------------------------------------------------------


def test_a_run_may_be_audited_at_once_and_a_later_run_is_not(
    folder: Path, unlearn: Unlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unlearnlib.cli.run.AuditSpec", lambda: AuditSpec(("inside",)))
    words = ["run", "--model", str(folder / "original"), "--method", "ga", "--updates", "1"]
    words += ["--forget", str(folder / "forget.jsonl"), "--length", "48", "--device", "cpu"]
    words += ["--approximate", str(folder / "approximate.jsonl"), "--quiet", "--json"]
    out = tmp_path / "out"
    code, said, err = unlearn(*words, "--out", out, "--audit")
    assert code == 0, err
    found = json.loads(said)["audit"]
    assert found["metrics"]["inside/impostor"] == pytest.approx(1.0)
    card_text = (out / "README.md").read_text(encoding="utf-8")
    assert HEADING in card_text and "Not audited" not in card_text
    assert "unlearned: is it gone, or hidden?" in (out / "audit.html").read_text(encoding="utf-8")
    # The same model, audited from its folder, has been measured already.
    words = ["audit", "--model", out, "--original", folder / "original", "--only", "inside"]
    words += ["--forget", folder / "forget.jsonl", "--approximate", folder / "approximate.jsonl"]
    code, said, err = unlearn(*words, "--length", "48", "--device", "cpu", "--json", "--card")
    assert code == 0 and "measurements are to be made" not in err, err
    assert json.loads(said)["key"] == found["key"]
    again = (out / "README.md").read_text(encoding="utf-8")
    assert again == card_text


def test_a_model_that_replaces_an_audited_one_takes_its_audit_away(
    folder: Path, unlearn: Unlearn, tmp_path: Path
) -> None:
    words = ["run", "--model", str(folder / "original"), "--method", "ga", "--updates", "1"]
    words += ["--forget", str(folder / "forget.jsonl"), "--length", "48", "--device", "cpu"]
    words += ["--quiet", "--json", "--out", str(tmp_path / "out")]
    assert unlearn(*words)[0] == 0
    (tmp_path / "out" / "audit.html").write_text("of the first model", encoding="utf-8")
    assert unlearn(*words, "--force")[0] == 0
    assert not (tmp_path / "out" / "audit.html").exists()
    assert "Not audited" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_run_that_cannot_be_audited_says_so_before_it_starts(unlearn: Unlearn) -> None:
    code, out, err = unlearn("run", "--profile", "stream", "--set", "exposure=2", "--audit")
    assert (code, out) == (2, "") and "exposure is 2, and an audit is" in err
