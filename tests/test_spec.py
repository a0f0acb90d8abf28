"""A spec is checked when it is made; each error is one sentence that names value and remedy."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import typing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.errors import UnlearnError
from unlearnlib.methods import METHODS
from unlearnlib.models import DTYPES
from unlearnlib.spec import (
    DOMAINS,
    LARGEST,
    LATER_FIELDS,
    PROFILES,
    SCHEDULES,
    Precision,
    RunSpec,
    get_profile,
)
from unlearnlib.store import Basis, run_key

BAD: list[tuple[dict[str, Any], str]] = [
    ({"learning_rate": -1e-4}, "learning_rate is -0.0001: give a number that is not negative"),
    ({"learning_rate": math.nan}, "learning_rate is nan: give a finite number"),
    ({"learning_rate": math.inf}, "learning_rate is inf: give a finite number"),
    ({"learning_rate": "nan"}, "learning_rate is nan: give a finite number"),
    ({"learning_rate": "fast"}, "learning_rate is 'fast': give a number"),
    ({"learning_rate": None}, "learning_rate is None: give a number"),
    ({"learning_rate": True}, "learning_rate is True: give a number"),
    ({"learning_rate": [1e-4]}, r"learning_rate is \[0.0001\]: give a number"),
    ({"updates": -1}, "updates is -1: give a number that is not negative"),
    ({"updates": 2.5}, "updates is 2.5: give a whole number"),
    ({"updates": "2.5"}, "updates is '2.5': give a whole number"),
    ({"updates": math.nan}, "updates is nan: give a whole number"),
    ({"updates": math.inf}, "updates is inf: give a whole number"),
    ({"updates": "many"}, "updates is 'many': give a whole number"),
    ({"batch_size": 0}, "batch_size is 0: give at least 1"),
    ({"batch_size": None}, "batch_size is None: give a whole number"),
    ({"retain_weight": -0.5}, "retain_weight is -0.5: give a number that is not negative"),
    ({"retain_weight": math.nan}, "retain_weight is nan: give a finite number"),
    ({"weight_decay": -1}, "weight_decay is -1.0: give a number that is not negative"),
    ({"max_grad_norm": math.nan}, "max_grad_norm is nan: give a finite number"),
    ({"warmup": 1.5}, "warmup is 1.5: give a share of the updates, 0 to 1"),
    ({"seed": -3}, "seed is -3: give a number that is not negative"),
    ({"seed": "zero"}, "seed is 'zero': give a whole number"),
    ({"forget_size": 0}, "forget_size is 0: give at least 1"),
    ({"forget_size": -2}, "forget_size is -2: give a number that is not negative"),
    ({"length": 4}, "length is 4: give at least 8 tokens per chunk"),
    ({"probe_every": -1}, "probe_every is -1: give a number that is not negative"),
    ({"method": 3}, "method is 3: give a word"),
    ({"method": "gradient_ascent"}, "unknown method 'gradient_ascent': choose one of "),
    ({"domain": "book"}, "unknown domain 'book': choose one of books, "),
    ({"profile": "labs"}, "unknown profile 'labs': choose one of lab, "),
    ({"schedule": "cosin"}, "unknown schedule 'cosin': choose one of cosine, "),
    ({"label_alignment": "releas"}, "unknown label_alignment 'releas': choose one of release, "),
    ({"precision": "float16"}, "unknown precision 'float16': choose one of bfloat16, "),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(c) for c, _ in BAD])
def test_bad_input_costs_one_sentence(changes: dict[str, Any], message: str) -> None:
    for make in (lambda: RunSpec(**changes), lambda: RunSpec().replace(**changes)):
        with pytest.raises(UnlearnError, match=f"^{message}") as caught:
            make()
        text = str(caught.value)
        assert text.endswith(".") and "\n" not in text


def test_an_unknown_name_lists_every_valid_one_nearest_first() -> None:
    with pytest.raises(UnlearnError) as caught:
        RunSpec(method="ga_gd_indist")
    listed = str(caught.value).split("choose one of ")[1].rstrip(".").split(", ")
    assert listed[0] == "ga_gd_in_dist"
    assert sorted(listed) == sorted(METHODS)
    with pytest.raises(UnlearnError, match=r"unknown setting 'lerning_rate': .*learning_rate, "):
        RunSpec().replace(lerning_rate=1.0)
    with pytest.raises(UnlearnError, match=r"unknown profile 'pape': choose one of paper, "):
        get_profile("pape")


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("domain", [*DOMAINS, "yours"])
@pytest.mark.parametrize("method", METHODS)
def test_every_combination_of_valid_names_is_a_spec(name: str, domain: str, method: str) -> None:
    spec = RunSpec(profile=name, domain=domain, method=method)
    assert (spec.profile, spec.domain, spec.method) == (name, domain, method)


def test_words_of_a_command_line_become_the_fields_types() -> None:
    spec = RunSpec().replace(learning_rate="1e-3", updates="12", length="none", forget_size="3")
    assert spec == RunSpec(learning_rate=1e-3, updates=12, length=None, forget_size=3)
    assert isinstance(spec.updates, int) and isinstance(spec.learning_rate, float)


def test_equal_specs_have_equal_keys_however_their_numbers_were_written() -> None:
    one = RunSpec(learning_rate=1, updates=4.0, seed=np.int64(2), warmup=np.float64(0.5))  # type: ignore[arg-type]
    other = RunSpec(learning_rate=1.0, updates=4, seed=2, warmup=0.5)
    assert one == other
    key = run_key(one.as_dict(), Basis("d", "m"))
    assert run_key(other.as_dict(), Basis("d", "m")) == key
    assert run_key(one.replace(seed=3).as_dict(), Basis("d", "m")) != key


@given(
    st.builds(
        RunSpec,
        method=st.sampled_from(sorted(METHODS)),
        learning_rate=st.floats(0, 1),
        updates=st.integers(0, 1000),
        seed=st.integers(0, 2**63 - 1),
        schedule=st.sampled_from(SCHEDULES),
        forget_size=st.none() | st.integers(1, 100),
    )
)
def test_a_spec_survives_json(spec: RunSpec) -> None:
    assert RunSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


def test_a_large_seed_is_kept_to_the_last_digit() -> None:
    assert RunSpec(seed=2**60 + 1).seed == 2**60 + 1


# ---- the schedule ---------------------------------------------------------------------------


def rates(**changes: Any) -> list[float]:
    spec = RunSpec(learning_rate=2.0, **changes)
    return [spec.rate(update) for update in range(spec.updates)]


def test_a_constant_schedule_is_constant() -> None:
    assert rates(updates=4) == [2.0] * 4


def test_warm_up_rises_linearly_to_the_peak() -> None:
    assert rates(updates=8, warmup=0.5)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(updates=4, warmup=1.0) == [0.5, 1.0, 1.5, 2.0]


def test_a_linear_schedule_falls_by_equal_steps() -> None:
    assert rates(updates=4, schedule="linear") == [2.0, 1.5, 1.0, 0.5]


def test_a_cosine_schedule_is_half_way_down_in_the_middle() -> None:
    values = rates(updates=4, schedule="cosine")
    assert values == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])


@given(st.sampled_from(SCHEDULES), st.integers(1, 50), st.floats(0, 1))
def test_no_rate_is_negative_or_above_the_peak(schedule: str, updates: int, warmup: float) -> None:
    for rate in rates(schedule=schedule, updates=updates, warmup=warmup):
        assert 0 <= rate <= 2.0


def test_later_fields_at_their_defaults_leave_keys_as_they_were() -> None:
    """Records were published before these fields came; their keys must stay valid."""
    spec = RunSpec()
    assert not set(LATER_FIELDS) & set(spec.as_dict())
    assert RunSpec.from_dict(spec.as_dict()) == spec
    changed = spec.replace(
        requests=2,
        optimizer="adamw_8bit",
        lora_rank=4,
        lora_alpha=4,
        base="published",
        bos_every_chunk=True,
        base_bits=4,
        exposure=4,
        method="satimp_gd_in_dist",
        beta=2,
        gamma=3,
        retain_budget=0,
        dual_rate=2,
    )
    stopping = spec.replace(stop="retrained")  # which a run of several requests cannot
    assert set(LATER_FIELDS) < {*changed.as_dict(), *stopping.as_dict()}
    for one in (changed, stopping):
        assert RunSpec.from_dict(one.as_dict()) == one


@pytest.mark.parametrize(("method", "own"), [("npo", 0.1), ("undial", 5), ("tnpo_gd_in_dist", 4)])
def test_a_strength_that_is_the_rows_own_is_no_part_of_the_key(method: str, own: float) -> None:
    spec = RunSpec(method=method, beta=own)
    assert spec == RunSpec(method=method) and spec.beta is None
    other = spec.replace(beta=str(own + 1))
    assert other.as_dict() == spec.as_dict() | {"beta": own + 1}
    assert run_key(other.as_dict(), Basis("d", "m")) != run_key(spec.as_dict(), Basis("d", "m"))
    assert RunSpec.from_dict(other.as_dict()) == other


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": 0}, "requests is 0: give at least 1."),
        ({"optimizer": "adam"}, "unknown optimizer 'adam': choose one of adamw"),
        ({"base": "publshed"}, "unknown base 'publshed': choose one of published, "),
        ({"exposure": -1}, "exposure is -1: give a number that is not negative."),
        ({"exposure": "once"}, "exposure is 'once': give a whole number."),
        ({"stop": "retraind"}, "unknown stop 'retraind': choose one of retrained, end."),
        (
            {"stop": "retrained", "requests": 2},
            "stop is 'retrained' and requests is 2: a run of several requests makes all of its "
            "updates, so leave one of the two out.",
        ),
        ({"bos_every_chunk": "yes"}, "bos_every_chunk is 'yes': give true or false."),
        ({"beta": 1}, "beta is 1 and method 'ga_gd_in_dist' has none: leave it out, or choose a "),
        ({"method": "npo", "gamma": 1}, "gamma is 1 and method 'npo' has none: leave it out, or "),
        ({"method": "npo", "beta": 0}, "beta is 0.0: give a number above 0."),
        ({"method": "wga", "beta": "big"}, "beta is 'big': give a number."),
        (
            {"method": "ga", "retain_budget": 0.1},
            "retain_budget is 0.1 and method 'ga' has no retain term: choose a method that has ",
        ),
        ({"dual_rate": 2}, "dual_rate is 2.0 and retain_budget is none: give a budget, or "),
        ({"retain_budget": 1, "dual_rate": 0}, "dual_rate is 0, with which the weight would "),
        ({"retain_budget": -1}, "retain_budget is -1.0: give a number that is not negative."),
    ],
)
def test_later_fields_are_checked_too(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnlearnError, match=re.escape(said)):
        RunSpec().replace(**changes)


def test_a_spec_of_the_papers_methods_needs_no_torch() -> None:
    code = (
        "import sys; from unlearnlib.spec import PAPER_METHODS, RunSpec;"
        "[RunSpec(method=method) for method in PAPER_METHODS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_precision_has_a_dtype() -> None:
    assert set(typing.get_args(Precision)) == set(DTYPES)


def test_titles_and_colours_need_neither_torch_nor_matplotlib() -> None:
    code = "import sys, unlearnlib.looks; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_domain_of_a_profile_of_its_own_is_valid_there_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROFILES, "post", replace(PROFILES["lab"], domains=("letters",)))
    assert RunSpec("post", "letters").domain == "letters"
    with pytest.raises(UnlearnError, match="unknown domain 'letters'"):
        RunSpec("lab", "letters")


@pytest.mark.parametrize("name", sorted(LARGEST))
@pytest.mark.parametrize("text", ["10000000000000000000", "9" * 400, "9" * 9000, "1e19", "1e300"])
def test_a_whole_number_that_nothing_can_run_is_one_sentence(name: str, text: str) -> None:
    for value in (text, float(text), *([int(text)] if len(text) == 20 else [])):
        with pytest.raises(UnlearnError) as caught:
            RunSpec(**{name: value})
        assert str(caught.value).startswith(f"{name} is ") and len(str(caught.value)) < 200


def test_the_largest_of_every_whole_number_is_bounded_and_a_trillion_updates_are_refused() -> None:
    kinds = typing.get_type_hints(RunSpec)
    whole = {f.name for f in dataclasses.fields(RunSpec) if kinds[f.name] in (int, int | None)}
    assert whole == set(LARGEST)
    with pytest.raises(UnlearnError, match=r"updates is 1,000,000,000,000, .* 100,000,000"):
        RunSpec(updates="1e12")
    assert RunSpec(seed=2**63 - 1).seed == 2**63 - 1
