"""`unlearn study --all`: every study of a profile, resumable, in the order that settings need.

.venv/bin/python -m pytest -q tests/test_everything.py
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LENGTH, QUIET, tiny_bench, tiny_data, tiny_llama

from unlearnlib import profiles, study
from unlearnlib.bench import Bench
from unlearnlib.errors import UnlearnError
from unlearnlib.experiment import everything as module
from unlearnlib.experiment import work as work_module
from unlearnlib.experiment.effort import Effort
from unlearnlib.experiment.everything import Everything, studies_of
from unlearnlib.experiment.work import Work
from unlearnlib.profiles import PROFILES, Corpus
from unlearnlib.store import Store, read_parquet
from unlearnlib.study import grids
from unlearnlib.study.grids import OWN, STUDIES
from unlearnlib.study.searches import load_searches

PROFILE = "tiny"
KEPT = ("rates", "main", "equal_forgetting", "exposure", "published")
Unlearn = Callable[..., tuple[int, str, str]]


def data() -> Any:
    whole = tiny_data()
    forget = [
        dataclasses.replace(d, exposure=1 + number % 2) for number, d in enumerate(whole.forget)
    ]
    return dataclasses.replace(whole, forget=tuple(forget))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile whose studies are of two methods and models of a few thousand weights."""
    for name in ("cache", "data", "runs"):
        monkeypatch.setenv(f"UNLEARN_{'STORE' if name == 'runs' else name.upper()}",
                           str(tmp_path / name))  # fmt: skip
    (tmp_path / "data" / "results").mkdir(parents=True)
    monkeypatch.setitem(profiles.CORPORA, PROFILE, Corpus(lambda *_: data()))
    scale = dataclasses.replace(
        PROFILES["lab"],
        name=PROFILE,
        corpus=PROFILE,
        domains=("books",),
        length=LENGTH,
        seeds=(0,),
        rates=(1e-3, 4e-3),
        updates=1,
        exposures=(2,),
        stop_updates=2,
    )
    monkeypatch.setitem(PROFILES, PROFILE, scale)
    monkeypatch.setattr(grids, "PAPER_METHODS", ("ga", "ga_gd_in_dist"))
    for name in set(STUDIES) - set(KEPT):
        monkeypatch.delitem(STUDIES, name)

    def bench(work: Work, profile: str, domain: str, base: str | None = None) -> Bench:
        models = [tiny_llama(dtype=torch.float32, seed=seed) for seed in range(2)]
        return tiny_bench(model=models[0], oracle=models[1], data=data(), execution=QUIET)

    monkeypatch.setattr(work_module, "bench_of", bench)
    monkeypatch.setattr(module, "bench_of", bench)
    monkeypatch.setattr(
        module, "effort_of", lambda specs, _: Effort(3600.0 * len(specs), "a clock")
    )
    return tmp_path


def all_of(tiny: Path, **more: Any) -> tuple[Everything, list[str]]:
    told: list[str] = []
    work = Work("rates", PROFILE, ("books",), OWN, str(tiny / "runs"), device="cpu")
    return Everything(work, tell=told.append, **more), told


def test_a_profile_has_the_studies_that_it_can_have() -> None:
    assert studies_of("lab", ("books",))[0] == "rates"
    assert not {"exposure", "published"} & set(studies_of("lab", ("books",)))
    of_stream = studies_of("stream", ("books",))
    assert set(STUDIES) - {"published"} == set(of_stream) and of_stream[0] == "rates"


def test_all_studies_are_computed_and_published_and_nothing_twice(tiny: Path) -> None:
    made, told = all_of(tiny, publish=True)
    computed = made.compute()
    names = ["rates", "main", "equal_forgetting", "exposure"]
    assert list(computed) == [*names, "searches"] and computed["searches"] == 1
    # Two methods at two rates, and two baselines; then two at the chosen rate, in each study anew;
    # an exposure is forgotten at two rates.
    assert [computed[name] for name in names] == [6, 2, 2, 4]
    assert [told[place].partition(",")[0] for place in range(4)] == [
        f"Study {number} of 4" for number in (1, 2, 3, 4)
    ]
    assert told[0].startswith("Study 1 of 4, rates (learning rates per method; ")
    assert told[0].endswith("4 runs to compute, about 4.0 h; all that is left, 12.0 h.")
    assert told[3].endswith((" s.", " min.")), "at the pace of those before"
    chosen = json.loads((tiny / "data" / "settings.json").read_text())[PROFILE]["books"]
    assert set(chosen) == {"ga", "ga_gd_in_dist"}
    results = tiny / "data" / "results"
    for name in names:
        found = {r.key for r in read_parquet(results / f"{PROFILE}-{name}.parquet")}
        specs = study.STUDIES[name].runs(PROFILE, "books")
        assert len(found) == len(specs)
    assert len(load_searches(PROFILE)) == 1
    again, told = all_of(tiny, publish=True)
    assert set(again.compute().values()) == {0}
    assert all("all its runs are recorded" in line for line in told[:4])


def test_a_call_that_was_stopped_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Store.put
    count: list[int] = []

    def stopped(self: Store, record: Any) -> Any:
        count.append(1)
        if len(count) == 9:  # in the third study
            raise KeyboardInterrupt
        return put(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", stopped)
        with pytest.raises(KeyboardInterrupt):
            all_of(tiny)[0].compute()
    there = len(list(Store(tiny / "runs").keys()))
    assert there == 8
    computed = all_of(tiny)[0].compute()
    assert computed["rates"] == 0
    assert len(list(Store(tiny / "runs").keys())) == there + sum(
        count for name, count in computed.items() if name != "searches"
    )


def test_a_study_that_cannot_be_computed_is_told_and_the_others_are(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = work_module.bench_of

    def lacking(work: Work, profile: str, domain: str, base: str | None = None) -> Bench:
        if work.study == "equal_forgetting":
            raise UnlearnError("the second vanilla is not on this machine: make it.")
        return bench(work, profile, domain, base)

    monkeypatch.setattr(work_module, "bench_of", lacking)
    made, told = all_of(tiny)
    with pytest.raises(UnlearnError) as caught:
        made.compute()
    assert str(caught.value) == (
        "of the studies at profile 'tiny', equal_forgetting could not be computed (first because "
        "the second vanilla is not on this machine: make it): give the same command again when "
        "that is mended."
    )
    assert any(
        "The study equal_forgetting is left out: the second vanilla" in line for line in told
    )
    store = {r.spec.get("exposure") for r in Store(tiny / "runs").records()}
    assert 2 in store, "the study after it was computed"


def test_the_command_computes_them_and_says_what(tiny: Path, unlearn: Unlearn) -> None:
    words = ("study", "--all", "--profile", PROFILE, "--device", "cpu", "--workers", "1")
    code, out, _ = unlearn(*words, "--json")
    line = json.loads(out)
    assert code == 0 and line["computed"]["rates"] == 6 and line["workers"] == 1
    code, out, _ = unlearn(*words)
    assert code == 0 and "records computed now" in out and "exposure" in out
    for more in (("--method", "ga"), ("--shard", "1/2"), ("--choose",), ("--limit", "forget=2")):
        code, _, err = unlearn(*words, *more)
        assert code == 2 and f"{more[0]} is given with --all" in err
    code, _, err = unlearn("study", "rates", "--workers", "2")
    assert code == 2 and "--workers is for --all" in err
