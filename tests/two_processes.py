"""One process of runs that several share: `two_processes.py OUT WHICH` under RANK, WORLD_SIZE.

Writes the parameters after each run of `RUNS[WHICH]` to OUT-RANK.npz, the metrics to OUT-RANK.json.
The test starts two of these and compares with the same runs in one process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from helpers import flat, tiny_bench

from unlearnlib.engine import Execution
from unlearnlib.methods import METHODS
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

LORA = {"lora_rank": 3}  # odd, so that two processes hold unequal parts
# Name -> (method, how it is computed, other settings). With 64 chunks per micro-batch there is one
# per update, so that the second process has nothing to compute and must still take part.
Runs = dict[str, tuple[str, dict[str, Any], dict[str, Any]]]


def _whole_and_sharded(methods: Iterable[str]) -> Runs:
    ways = {"whole": {}, "sharded": {"shard": True}}
    return {
        f"{name}, {way}": (name, {"micro_chunks": 2, **more}, {})
        for name in methods
        for way, more in ways.items()
    }


PAPERS: Runs = {
    **_whole_and_sharded(PAPER_METHODS),
    "idle process": ("ga_gd_in_dist", {"micro_chunks": 64}, {}),
    "idle process, sharded": ("ga_gd_in_dist", {"micro_chunks": 64, "shard": True}, {}),
    "uneven, sharded": ("ga_kl_general", {"micro_chunks": 1, "shard": True}, {}),
    "recomputed, sharded": (
        "ga_kl_in_dist",
        {"micro_chunks": 2, "shard": True, "recompute": True},
        {},
    ),
    "packed, sharded": ("ga_gd_in_dist", {"micro_chunks": 2, "shard": True, "packed": True}, {}),
    "LoRA, whole": ("ga_kl_in_dist", {"micro_chunks": 2}, LORA),
    "LoRA, sharded": ("adversarial", {"micro_chunks": 2, "shard": True}, LORA),
    # One process's micro-batch may have no retain chunk, and the other's some: both must walk
    # through the model without its adapter.
    "LoRA, uneven, sharded": ("ga_kl_in_dist", {"micro_chunks": 1, "shard": True}, LORA),
    "LoRA, idle process, recomputed, sharded": (
        "ga_kl_general",
        {"micro_chunks": 64, "shard": True, "recompute": True},
        LORA,
    ),
}

# A weight of the whole chunk, one chunk to a micro-batch; of a token; and a retain weight that
# becomes 0 in the second update.
A_FEW: Runs = {
    "uneven, sharded, npo": ("npo_gd_in_dist", {"micro_chunks": 1, "shard": True}, {}),
    "LoRA, whole, tnpo": ("tnpo", {"micro_chunks": 2}, LORA),
    "budget, sharded": (
        "ga_gd_in_dist",
        {"micro_chunks": 1, "shard": True},
        {"retain_budget": 1.0, "retain_weight": 0.5},
    ),
}
LATER: Runs = _whole_and_sharded(name for name in METHODS if name not in PAPER_METHODS)
RUNS = {"the paper's": PAPERS | A_FEW, "all later ones": LATER}


def run(
    method: str, execution: dict[str, Any], settings: dict[str, Any]
) -> tuple[np.ndarray, dict[str, object]]:
    """Three updates in float64: all parameters in one vector, and the record's numbers."""
    bench = tiny_bench(execution=Execution(progress=False, **execution))
    spec = RunSpec(method=method, updates=3, batch_size=3, learning_rate=1e-3, precision="float64")
    spec = spec.replace(**settings)
    model, record = execute(bench, spec)
    return flat(model).numpy(), record.comparable()


def main() -> None:
    """All runs in this process's share; then leave the group in good order."""
    from accelerate import PartialState

    torch.set_num_threads(1)
    world = PartialState(cpu=True)
    results, numbers = {}, {}
    for name, case in RUNS[sys.argv[2]].items():
        results[name], numbers[name] = run(*case)
    out = f"{sys.argv[1]}-{world.process_index}"
    np.savez(f"{out}.npz", processes=world.num_processes, **results)
    with open(f"{out}.json", "w", encoding="utf-8") as stream:
        json.dump({name: values["metrics"] for name, values in numbers.items()}, stream)
    world.destroy_process_group()


if __name__ == "__main__":
    main()
