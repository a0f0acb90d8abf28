"""One process of a run that several share: `python two_processes.py OUT` under RANK, WORLD_SIZE.

Writes the parameters after each run of `RUNS` to OUT-RANK.npz. The test starts two of these and
compares with the same runs in one process.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from helpers import flat, tiny_bench

from unlearnlib.engine import Execution
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

# Name -> (method, chunks per micro-batch). With 64 there is one micro-batch per update, so that
# the second process has nothing to compute and must still take part.
RUNS = {
    "descent": ("ga_gd_in_dist", 2),
    "kl": ("ga_kl_in_dist", 1),
    "idle process": ("ga_gd_in_dist", 64),
}


def run(method: str, micro_chunks: int) -> tuple[np.ndarray, dict[str, object]]:
    """Three updates in float64: all parameters in one vector, and the record's numbers."""
    bench = tiny_bench(execution=Execution(micro_chunks=micro_chunks, progress=False))
    spec = RunSpec(method=method, updates=3, batch_size=3, learning_rate=1e-3, precision="float64")
    model, record = execute(bench, spec)
    return flat(model).numpy(), record.comparable()


def main() -> None:
    """All runs in this process's share; then leave the group in good order."""
    from accelerate import PartialState

    torch.set_num_threads(1)
    world = PartialState(cpu=True)
    results = {name: run(*settings)[0] for name, settings in RUNS.items()}
    np.savez(f"{sys.argv[1]}-{world.process_index}.npz", processes=world.num_processes, **results)
    world.destroy_process_group()


if __name__ == "__main__":
    main()
