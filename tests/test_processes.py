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

from unlearnlib.models import load_model, model_hash, save_model

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
