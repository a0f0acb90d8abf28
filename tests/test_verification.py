"""`verify` tells the truth: what was changed by hand in the published files is found.

.venv/bin/python -m pytest -q tests/test_verification.py
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unlearnlib.comparison import (
    LOST,
    STRICT,
    Comparison,
    NumericalTolerance,
    compare,
    tolerance_for,
)
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import data_folder
from unlearnlib.profiles import PROFILES
from unlearnlib.spec import DOMAINS
from unlearnlib.store import Record, read_parquet, write_parquet
from unlearnlib.store.manifest import PATTERNS, losses, note, read_manifest
from unlearnlib.verification import (
    check_published,
    find_baselines,
    find_runs,
    pick,
    recorded_seconds,
    with_baselines,
)


@pytest.fixture(scope="module")
def record() -> Record:
    """A published run that was looked at after every update."""
    return read_parquet(data_folder() / "results" / "lab-trajectory.parquet")[0]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published files that `check_published` reads, for a test to change."""
    (tmp_path / "results").mkdir()
    for name in ("rates.parquet", "baselines.parquet", "tuning.jsonl"):
        shutil.copy(data_folder() / "results" / f"lab-{name}", tmp_path / "results")
    shutil.copy(data_folder() / "settings.json", tmp_path)
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    return tmp_path


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [1e-3, -1e-3])
def test_a_metric_moved_by_a_thousandth_is_found(record: Record, change: float) -> None:
    for name, value in record.metrics.items():
        if name.endswith("/cloze_answer_logprob"):
            continue  # of size 10, where 2e-4 of it is 0.002
        if abs(value) < 4:
            moved = dataclasses.replace(record, metrics=record.metrics | {name: value + change})
            assert [d.name for d in compare(moved, record).off] == [name]


def test_an_auc_moved_by_seven_pairs_is_found_and_one_of_two_pairs_is_rounding() -> None:
    name, pair = "membership/min_k_40/auc", 1 / 4096
    assert STRICT.excess(0.5, 0.5 + 0.0016, name) > 1
    assert STRICT.excess(0.5, 0.5 + 2 * pair, name) <= 1 < STRICT.excess(0.5, 0.5 + 3 * pair, name)
    assert STRICT.excess(0.5, 0.5 + 2 * pair, "forget/nll") > 1


def test_rates_of_0_are_found_whatever_the_tolerance(record: Record) -> None:
    rows = [row | {"rate": 0.0} if "rate" in row else row for row in record.trajectory]
    assert rows != record.trajectory
    still = dataclasses.replace(record, trajectory=rows)
    for tolerance in (None, NumericalTolerance(0.1, 0.1)):
        off = {d.name for d in compare(still, record, tolerance).off}
        assert off == {
            f"trajectory/{n}/rate" for n, row in enumerate(record.trajectory) if row.get("rate")
        }


def test_every_number_of_a_trajectory_is_compared(record: Record) -> None:
    for place, row in list(enumerate(record.trajectory))[::4]:
        for name, value in row.items():
            rows = list(record.trajectory)
            rows[place] = row | {name: value * 1.001 + 0.0001}
            other = dataclasses.replace(record, trajectory=rows)
            assert [d.name for d in compare(other, record).off] == [f"trajectory/{place}/{name}"]


def test_a_model_that_broke_is_allowed_what_rounding_grew_to_and_no_tampering(
    record: Record,
) -> None:
    """The numbers are those of a published run at e^105, and of its repetition elsewhere."""

    def with_perplexity(value: float) -> Record:
        return dataclasses.replace(record, metrics=record.metrics | {"forget/perplexity": value})

    lost, again = with_perplexity(3.3245309e44), with_perplexity(8.7427021e44)
    assert tolerance_for(record) is STRICT and tolerance_for(lost) is LOST
    assert compare(lost, again).agrees and compare(lost, lost).agrees
    assert not compare(with_perplexity(1e30), again).agrees
    assert not compare(lost, record).agrees, "a healthy run does not pass for a lost one"
    assert not compare(record, lost).agrees


def test_nothing_compared_is_no_agreement(record: Record) -> None:
    assert not Comparison(record).agrees


# --- records -------------------------------------------------------------------------------------


def test_baselines_come_with_the_runs_of_their_domain() -> None:
    runs, baselines = find_runs("lab", ["books"], study="alignment"), find_baselines("lab")
    assert {b.spec["domain"] for b in baselines} == set(DOMAINS)
    (run,) = pick(runs, 1, seed=3)
    picked = with_baselines([run], baselines)
    assert picked[0] == run and len(picked) == 3
    assert {(b.spec["domain"], b.spec["baseline"]) for b in picked[1:]} == {
        ("books", "vanilla"),
        ("books", "oracle"),
    }
    doubled = dataclasses.replace(
        picked[1], metrics={n: 2 * x for n, x in picked[1].metrics.items()}
    )
    assert len(with_baselines([run], [*baselines, doubled])) == 4, "one of two copies is wrong"


def test_a_file_without_rows_is_no_agreement(data: Path) -> None:
    write_parquet([], data / "results" / "lab-main.parquet")
    for study in (None, "main"):
        with pytest.raises(UnlearnError, match="holds no records, so there is nothing to compare"):
            find_runs("lab", study=study)


@pytest.mark.parametrize("taken", [1, 41])
def test_runs_that_were_deleted_from_a_published_file_are_named(data: Path, taken: int) -> None:
    path = data / "results" / "lab-rates.parquet"
    records = read_parquet(path)
    gone = [r for r in records if r.spec["domain"] == "books"][:taken]
    write_parquet([r for r in records if r not in gone], path)
    checks = {check.file: check for check in check_published("lab", DOMAINS)}
    found = checks["lab-rates.parquet"]
    assert not found.agrees and f"of the {len(records)} runs of its study" in found.reason
    assert " on books with seed 100" in found.reason
    assert f"it lacks {taken} of" in found.note
    if taken == 1:
        assert f"{gone[0].spec['method']} on books" in found.reason
        assert f"learning rate {gone[0].spec['learning_rate']:g}" in found.reason


@pytest.mark.parametrize(
    "kept", [{"domain": "books"}, {"method": "ga"}, {"domain": "books", "method": "ga"}]
)
def test_what_is_published_in_part_is_named_and_no_fault(
    data: Path, kept: dict[str, object]
) -> None:
    path = data / "results" / "lab-rates.parquet"
    records = read_parquet(path)
    some = [r for r in records if kept.items() <= r.spec.items()]
    write_parquet(some, path)
    found = {check.file: check for check in check_published("lab", DOMAINS)}["lab-rates.parquet"]
    assert found.agrees
    assert f"published in part: it lacks {len(records) - len(some)} of" in found.note


@pytest.mark.parametrize("which", ["vanilla", "oracle"])
def test_scores_that_were_deleted_are_named(data: Path, which: str) -> None:
    path = data / "results" / "lab-baselines.parquet"
    gone = {"domain": "arxiv", "baseline": which}
    write_parquet([r for r in read_parquet(path) if not gone.items() <= r.spec.items()], path)
    reasons = {c.file: c.reason for c in check_published("lab", DOMAINS) if not c.agrees}
    assert f"it lacks the scores of {which} on arxiv" in reasons["lab-baselines.parquet"]


def test_a_search_that_was_deleted_is_named(data: Path) -> None:
    path = data / "results" / "lab-tuning.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    gone = json.loads(first)
    path.write_text("".join(others))
    (off,) = [check for check in check_published("lab", DOMAINS) if not check.agrees]
    assert off.reason == f"it lacks the search on {gone['domain']} with seed {gone['seed']}"


def test_a_file_that_is_gone_is_named_and_so_is_a_row(data: Path) -> None:
    results = data / "results"
    note(*results.glob("lab-*"))
    assert all(check.agrees for check in check_published("lab", DOMAINS))
    rates, searches = results / "lab-rates.parquet", results / "lab-tuning.jsonl"
    records = read_parquet(rates)
    # Runs of a whole method: by the grid alone they count as not published yet.
    some = [r for r in records if r.spec["method"] != "ga"]
    write_parquet(some, rates)
    searches.unlink()
    off = {c.file: c.reason for c in check_published("lab", DOMAINS) if not c.agrees}
    assert set(off) == {rates.name, searches.name}
    assert f"holds {len(some)} records and is not the file" in off[rates.name]
    assert f"published with {len(records)}: restore it" in off[rates.name]
    assert "the file is gone, which held " in off[searches.name]
    note(rates, searches)  # as publishing does
    assert all(check.agrees for check in check_published("lab", DOMAINS))
    (results / "manifest.json").write_text('{"lab-rates.parquet": 1}')
    with pytest.raises(UnlearnError, match=r"manifest\.json' cannot be read"):
        check_published("lab", DOMAINS)


def test_the_manifest_has_all_that_is_published() -> None:
    """A file that came by another way than publishing is noted with `python tools/manifest.py`."""
    folder = data_folder() / "results"
    there = {path.name for pattern in PATTERNS for path in folder.glob(pattern)}
    assert set(read_manifest(folder)) == there
    assert not [name for profile in PROFILES for name in losses(folder, profile)]


def test_what_is_published_is_whole() -> None:
    checks = check_published("open_cpu", ["books"])
    assert len(checks) > 4 and all(check.agrees for check in checks)


def test_without_a_count_a_sample_is_what_took_five_minutes_and_three_at_least(
    record: Record,
) -> None:
    def lasting(seconds: float) -> list[Record]:
        return [
            dataclasses.replace(record, provenance={"seconds": seconds}, metrics={"n": float(n)})
            for n in range(50)
        ]

    assert [len(pick(lasting(seconds))) for seconds in (1, 10, 99, 100, 150, 4000)] == [
        50, 30, 3, 3, 3, 3,
    ]  # fmt: skip
    assert pick(lasting(10)) == pick(lasting(10)) != pick(lasting(10), seed=1)
    assert recorded_seconds(pick(lasting(10))) == 300
    assert len(pick([record.__class__(**{**vars(record), "provenance": {}})] * 7)) == 7
    places = [r.metrics["n"] for r in pick(lasting(10))]
    assert places == sorted(places)


# --- what was made of records --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"lab": []}', '{"lab": {"books": {}}}', "\x00"])
def test_settings_that_were_emptied_are_found(data: Path, text: str) -> None:
    (data / "settings.json").write_text(text)
    checks = {check.file: check for check in check_published("lab", DOMAINS)}
    assert not any(checks[f"settings.json, {domain}"].agrees for domain in DOMAINS)
    (data / "settings.json").unlink()
    assert not check_published("lab", ["books"])[0].agrees


def test_another_rate_in_the_settings_is_found(data: Path) -> None:
    path = data / "settings.json"
    table = json.loads(path.read_text())
    table["lab"]["books"]["ga"]["learning_rate"] *= 2
    path.write_text(json.dumps(table))
    off = [check for check in check_published("lab", DOMAINS) if not check.agrees]
    assert [check.file for check in off] == ["settings.json, books"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "garbage\n",
        lambda text: '"garbage"\n',
        lambda text: text.replace('"learning_rate": 0.0001,', '"learning_rate": 0.0002,', 1),
        lambda text: text.replace("1.6965933,", "1.7,", 1),
        lambda text: text.replace('"path": [', '"path": ["x", ', 1),
        lambda text: text.replace('"updates": 12,', '"updates": 99,', 2),
        lambda text: text.replace('"best": ', '"best": 1', 1),
        lambda text: text.replace('"ending": "', '"ending": "well, ', 1),
        lambda text: text.replace('"general": 4.90', '"general": 4.95', 1),
        lambda text: text.replace('"before": {', '"before": [], "was": {', 1),
    ],
)
def test_a_search_that_was_changed_is_found(data: Path, change: Callable[[str], str]) -> None:
    path = data / "results" / "lab-tuning.jsonl"
    before = path.read_text()
    assert change(before) != before
    path.write_text(change(before))
    *settings, searches = check_published("lab", DOMAINS)
    assert all(check.agrees for check in settings)
    assert searches.file == "lab-tuning.jsonl" and not searches.agrees
    assert "\n" not in searches.reason
