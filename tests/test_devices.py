"""Which device "auto" is, what is said of it, and that no precision is imitated in silence.

    pytest tests/test_devices.py

There is no GPU here: what torch says of one is put in its place.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_bench
from torch.utils._python_dispatch import TorchDispatchMode

from unlearnlib import devices, probe
from unlearnlib.devices import choose_device, describe, tell_of_emulation
from unlearnlib.errors import UnlearnError
from unlearnlib.planning import Machine
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

T4, A100 = ("Tesla T4", (7, 5), 15_835_660_288), ("NVIDIA A100", (8, 0), 42_297_786_368)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    for known in (devices._mps_lacks, devices._cpuinfo, tell_of_emulation):
        known.cache_clear()
    yield
    for known in (devices._mps_lacks, devices._cpuinfo, tell_of_emulation):
        known.cache_clear()


def cards(monkeypatch: pytest.MonkeyPatch, *there: tuple[str, tuple[int, int], int]) -> None:
    """Have torch see these CUDA devices."""

    def number(device: str) -> int:
        return int(str(device).partition(":")[2] or 0)

    def properties(device: str) -> SimpleNamespace:
        name, _, memory = there[number(device)]
        return SimpleNamespace(name=name, total_memory=memory)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(there))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(there))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: there[number(d)][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: there[number(d)][1])


def mps(monkeypatch: pytest.MonkeyPatch, lacks: str) -> list[str]:
    """Have torch see an MPS device, of which a probe says this; the probes that were made."""
    made: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11_453_251_584)
    monkeypatch.setattr(devices, "probe", lambda device: made.append(device) or lacks)
    return made


def test_auto_is_the_processor_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert {choose_device(name) for name in ("auto", "cpu", "cpu:0")} == {"cpu"}
    assert Machine().device == "cpu"


def test_auto_prefers_cuda_to_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, T4)
    probes = mps(monkeypatch, "")
    assert choose_device() == "cuda" and not probes
    assert Machine().device == "cuda" and Machine().on_gpu


def test_mps_is_taken_where_a_run_works_on_it_and_is_probed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch)
    probes = mps(monkeypatch, "")
    assert (choose_device(), choose_device("mps")) == ("mps", "mps")
    devices._mps_lacks.cache_clear()  # another process
    assert choose_device() == "mps" and probes == ["mps"]
    found = describe()
    assert found.precision == "float32" and "11.45 GB" in str(found)


def test_mps_that_lacks_an_operation_is_left_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards(monkeypatch)
    mps(monkeypatch, "the device 'mps' lacks what a run needs (aten::foo)")
    assert choose_device() == "cpu" and "aten::foo" in caplog.text
    with pytest.raises(UnlearnError, match="aten::foo"):
        choose_device("mps")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "unknown device 'gpu'"),
        ("cuda:x", "unknown device"),
        ("cpu:", "unknown device"),
        ("cuda:3", "sees 1 CUDA devices"),
    ],
)
def test_a_device_that_is_not_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    cards(monkeypatch, T4)
    with pytest.raises(UnlearnError, match=said):
        choose_device(name)


def test_bfloat16_is_for_cards_that_multiply_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, T4, A100)
    old, new = describe("cuda"), describe("cuda:1")
    assert (old.precision, new.precision) == ("float32", "bfloat16")
    assert str(old) == (
        "Tesla T4 (cuda), 15.84 GB of memory, precision float32 (bfloat16 needs compute "
        "capability 8.0, and this card has 7.5)"
    )
    assert str(new) == "NVIDIA A100 (cuda:1), 42.30 GB of memory, precision bfloat16"


def test_imitated_precision_is_told_once_and_not_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards(monkeypatch, T4, A100)
    assert "7.5" in tell_of_emulation("bfloat16", "cuda:0")
    assert tell_of_emulation("bfloat16", "cuda:0")
    assert len(caplog.records) == 1 and "precision=float32" in caplog.text
    assert not tell_of_emulation("bfloat16", "cuda:1")
    assert not tell_of_emulation("float32", "cuda:0")


def test_a_run_in_bfloat16_on_a_processor_without_it_says_so_and_is_that_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_cpuinfo", lambda: {"flags": "avx2"})
    monkeypatch.setattr(devices._cpuinfo, "cache_clear", lambda: None, raising=False)
    bench = tiny_bench(dtype=torch.float32)
    _, record = execute(bench, RunSpec(updates=1, batch_size=2, precision="bfloat16"))
    assert record.spec["precision"] == "bfloat16"
    assert "bfloat16 is imitated on cpu" in caplog.text


def test_a_processor_has_the_memory_that_its_container_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "LIMITS", (str(limit),))
    whole = devices.memory("cpu")
    assert whole and whole > 10**9
    limit.write_text("max\n")
    assert devices.memory("cpu") == whole
    limit.write_text("2147483648\n")
    assert devices.memory("cpu") == 2**31 and "2.15 GB" in str(describe("cpu"))


def test_the_probe_passes_on_the_processor_and_names_what_fails() -> None:
    assert devices.probe("cpu") == ""
    assert "lacks what a run needs" in devices.probe("no_such_device")


def test_the_probe_sees_a_device_that_computes_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probe.scores
    monkeypatch.setattr(probe, "METHODS", ("ga_gd_in_dist",))
    monkeypatch.setattr(probe, "scores", lambda *a: right(*a[:2], "cpu") + (a[2] != "cpu"))
    assert "differs from the processor by 1 nats" in probe.compare("mps")


class Operations(TorchDispatchMode):
    """Collects the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_probe_runs_every_operation_of_a_run() -> None:
    with Operations() as probed:
        assert probe.compare("cpu") == ""
    bench = tiny_bench(dtype=torch.float32, oracle=tiny_bench(dtype=torch.float32).model)
    with Operations() as used:
        for method in ("ga_kl_in_dist", "adversarial"):
            for rank in (0, 2):
                execute(bench, RunSpec(method=method, updates=2, batch_size=2, lora_rank=rank))
    assert used.names - probed.names == set()


def test_every_branch_for_a_gpu_is_listed_in_contributing() -> None:
    root = Path(__file__).resolve().parent.parent
    listed = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in (root / "unlearnlib").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        if names & {"cuda", "mps", "is_cuda"} or words & {"cuda", "mps"}:
            assert f"`{path.relative_to(root).as_posix()}`" in listed, path
