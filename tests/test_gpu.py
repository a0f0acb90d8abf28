"""What a GPU computes: what the processor does, up to rounding. Run on one with `pytest --gpu`.

What is tested there is tested on the processor as well (the probe in `test_devices.py`), so that
only the device is new on a card.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers import flat, tiny_bench, tiny_llama

from unlearnlib import probe
from unlearnlib.devices import choose_device, describe
from unlearnlib.engine import Execution
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def bench_on(device: str, execution: Execution | None = None):  # type: ignore[no-untyped-def]
    """A small bench, its model and a retrained one on a device."""
    model = tiny_llama(dtype=torch.float32)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    return tiny_bench(
        model=model.to(device),
        oracle=other.to(device),
        execution=execution or Execution(progress=False),
    )


@pytest.mark.gpu
def test_every_kind_of_run_ends_as_on_the_processor() -> None:
    assert probe.compare("cuda") == ""


@pytest.mark.parametrize("device", DEVICES)
def test_a_record_has_the_numbers_of_the_processor_and_names_its_device(device: str) -> None:
    spec = RunSpec(method="ga_gd_in_dist", updates=2, batch_size=4, learning_rate=1e-3)
    here, there = (execute(bench_on(place), spec)[1] for place in ("cpu", device))
    assert there.key == here.key and there.metrics.keys() == here.metrics.keys()
    assert there.provenance["device"].startswith(device)
    for name in ("forget/perplexity", "general/perplexity", "oracle_kl/forget"):
        assert there.metrics[name] == pytest.approx(here.metrics[name], rel=1e-2), name


@pytest.mark.parametrize("device", DEVICES)
def test_small_micro_batches_give_the_same_model(device: str) -> None:
    spec = RunSpec(method="ga_gd_in_dist", updates=2, batch_size=4, learning_rate=1e-3)
    small = Execution(micro_tokens=96, progress=False, recompute=True)
    one, other = (flat(execute(bench_on(device, how), spec)[0]).cpu() for how in (None, small))
    assert float((one - other).norm() / one.norm()) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_in_bfloat16_is_near_the_one_in_float32(device: str) -> None:
    spec = RunSpec(method="ga_gd_in_dist", updates=2, batch_size=4, learning_rate=1e-3)
    half = execute(bench_on(device), spec.replace(precision="bfloat16"))[1]
    full = execute(bench_on(device), spec)[1]
    for name in ("forget/perplexity", "general/perplexity"):
        assert math.log(half.metrics[name] / full.metrics[name]) == pytest.approx(0, abs=0.1), name


@pytest.mark.gpu
def test_auto_is_the_card() -> None:
    assert choose_device() == "cuda" and describe().memory
