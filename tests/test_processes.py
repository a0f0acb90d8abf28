"""`unlearn run` under a launcher: several processes give the record that one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_llama, tiny_tokenizer

from unlearnlib.cli.arguments import lone_process
from unlearnlib.cli.main import main
from unlearnlib.models import load_model, model_hash, save_model

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "accelerate"

TEXTS = {
    "forget": ["The lamp of Anna was blue and it stood by the door.", "Bert owned 42 clocks."],
    "retain": ["The garden of Carl was wide.", "Dora wrote a letter to the town of Elm."],
    "approximate": ["The boat of Emil was red and old.", "Fay counted 17 stones."],
    "general": ["It rained all day.", "Nobody saw the moon that night.", "A road led north."],
}


def unlearned(folder: Path, *more: str, processes: int) -> tuple[dict[str, Any], str]:
    """The values that `unlearn run` prints for a tiny model and texts, and what it says."""
    import torch

    for name, texts in TEXTS.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in texts)
        )
    save_model(tiny_llama(dtype=torch.float32), tiny_tokenizer(), folder / "model")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "unlearnlib", "run"]
    command += ["--model", "model", "--method", "ga_kl_in_dist", "--learning-rate", "1e-3"]
    command += ["--updates", "3", "--batch-size", "2", "--length", "32", "--device", "cpu"]
    command += [word for name in TEXTS for word in (f"--{name}", f"{name}.jsonl")]
    done = subprocess.run(
        [*command, "--micro-tokens", "32", "--quiet", "--json", "--out", "out", *more],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "UNLEARN_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics of JSON, where NaN and infinity are words."""
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("more", [(), ("--fsdp", "--recompute")], ids=["whole", "sharded"])
def test_two_processes_print_and_save_once_what_one_does(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone, _ = unlearned(tmp_path / "one", processes=1)
    together, _ = unlearned(tmp_path / "two", *more, processes=2)
    assert together["key"] == alone["key"]
    assert numbers(together["metrics"]) == pytest.approx(
        numbers(alone["metrics"]), rel=1e-3, abs=1e-3, nan_ok=True
    )
    assert numbers(together["before"]) == pytest.approx(
        numbers(alone["before"]), rel=1e-6, nan_ok=True
    )
    assert model_hash(load_model(tmp_path / "two" / "out")) != model_hash(
        load_model(tmp_path / "two" / "model")
    )
    assert sorted(p.name for p in (tmp_path / "two" / "out").iterdir()) == sorted(
        p.name for p in (tmp_path / "one" / "out").iterdir()
    )


LAUNCHED = ("forget", "retain", "approximate", "general")


def launch(folder: Path, config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` with a configuration, as the documents show it, of a tiny run."""
    for name, texts in TEXTS.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in texts)
        )
    save_model(tiny_llama(), tiny_tokenizer(), folder / "model")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(config), "-m", "unlearnlib", "run", "--model", "model"]
    command += ["--method", "ga", "--updates", "1", "--batch-size", "2", "--length", "32"]
    command += [word for name in LAUNCHED for word in (f"--{name}", f"{name}.jsonl")]
    clean = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "MASTER_ADDR")}
    return subprocess.run(
        [*command, "--out", "out", "--json", *more],
        cwd=folder,
        env=clean
        | {
            "OMP_NUM_THREADS": "1",
            "UNLEARN_CACHE": str(folder / "cache"),
            "PYTHONPATH": str(CONFIGS.parent.parent),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_the_configuration_for_two_processes_starts_two(tmp_path: Path) -> None:
    """accelerate starts one with MULTI_CPU; --fsdp is refused where there is one."""
    config = CONFIGS / "two_cpu_processes.yaml"
    words = config.read_text(encoding="utf-8").partition("run \\\n#")[2].splitlines()[0].split()
    assert words[-3:] == ["--device", "cpu", "--fsdp"]
    done = launch(tmp_path, config, *words[-3:])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_one_process_under_a_configuration_for_several_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert lone_process() == ""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "two_cpu_processes.yaml" in lone_process()
    assert main(["run", "--device", "cpu", "--fsdp"]) == 2
    assert "there is one: with distributed_type MULTI_CPU" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert lone_process() == ""
