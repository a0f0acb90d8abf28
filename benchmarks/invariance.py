"""Does the result depend on how it is computed? Every method, every way, two precisions.

    python benchmarks/invariance.py benchmarks/results/invariance.json

Runs the lab's model on a few of its books, five updates of 4 + 4 documents, once as a whole and
then in every other way: micro-batches of 1, 2 and 4 chunks, packed, with recomputed activations,
and divided among two processes that hold the whole model or a part of it each. Writes for every
method, precision and way the largest difference of a parameter, relative to the largest change
that the run made to one; the norm of the difference of all of them, relative to the norm of the
change; the largest relative difference of a perplexity; and whether two runs alike are
bit-identical.

In float64 the model's norms are computed in float64 here. `transformers` computes them in float32
whatever the model is in, and two ways of computing that agree to 1e-16 can round apart there: some
runs then end 1e-7 from the others, which says nothing about the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from unlearnlib.bench import Bench, Models, Selection, open_bench
from unlearnlib.engine import Execution
from unlearnlib.models import model_hash
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec

LIMITS = {
    "forget": 8, "retain": 8, "approximate": 4, "general_retain": 8, "general_evaluation": 4,
}  # fmt: skip
PRECISIONS = ("float64", "float32")
ALONE: dict[str, dict[str, Any]] = {
    "whole": {},
    "again": {},
    "micro-batches of 1": {"micro_chunks": 1},
    "micro-batches of 2": {"micro_chunks": 2},
    "micro-batches of 4": {"micro_chunks": 4},
    "packed": {"packed": True},
    "recomputed": {"recompute": True},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "two processes": {"micro_chunks": 2},
    "two processes, sharded": {"micro_chunks": 2, "shard": True},
    "two processes, sharded, packed, recomputed": {
        "micro_chunks": 2, "shard": True, "packed": True, "recompute": True,
    },
}  # fmt: skip


PERPLEXITIES = tuple(f"{s}/perplexity" for s in ("forget", "approximate", "retain", "general"))


def run(
    bench: Bench, method: str, precision: str, way: dict[str, Any]
) -> tuple[np.ndarray, str, np.ndarray]:
    """All parameters after the run, the hash of the model, and its perplexities."""
    bench.execution = Execution(progress=False, **way)
    spec = RunSpec(
        "lab", "books", method, learning_rate=3e-4, updates=5, batch_size=4, precision=precision
    )
    model, record = execute(bench, spec)
    return flat(model), model_hash(model), np.array([record.metrics[p] for p in PERPLEXITIES])


def flat(model: Any) -> np.ndarray:
    """All parameters in one vector."""
    values = [p.detach().double().reshape(-1) for p in model.parameters()]
    return torch.cat(values).numpy()


def opened(precision: str) -> Bench:
    """The bench in a precision: the model is loaded in it, so that hashes are of the same bits."""
    LlamaRMSNorm.forward = exact_norm if precision == "float64" else ROUNDED_NORM
    return open_bench(
        "lab", "books", models=Models(precision=precision), selection=Selection(limits=LIMITS)
    )


ROUNDED_NORM = LlamaRMSNorm.forward


def exact_norm(self: LlamaRMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
    """A norm in the dtype of what it is given."""
    square = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(square + self.variance_epsilon))


def worker(out: str, methods: Sequence[str]) -> None:
    """One of two processes: the parameters of every method, precision and way."""
    from accelerate import PartialState

    torch.set_num_threads(1)
    world = PartialState(cpu=True)
    found = {}
    for precision in PRECISIONS:
        bench = opened(precision)
        for method in methods:
            for name, way in TOGETHER.items():
                place = f"{precision}/{method}/{name}"
                found[place], _, found[f"{place}/scores"] = run(bench, method, precision, way)
    if world.is_main_process:
        np.savez(out, **found)
    world.destroy_process_group()


def main() -> None:
    """Run every way and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--worker", action="store_true", help="used by the script itself")
    parser.add_argument("--methods", nargs="+", default=PAPER_METHODS, help="default: all seven")
    args = parser.parse_args()
    if args.worker:
        worker(str(args.out), args.methods)
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        together = Path(scratch) / "together.npz"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", "2", __file__, str(together), "--worker", "--methods"]
        subprocess.run(
            [*launcher, *args.methods],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )
        with np.load(together) as others:
            for precision in PRECISIONS:
                bench = opened(precision)
                start = flat(bench.model)
                for method in args.methods:
                    whole, first, scores = run(bench, method, precision, {})
                    scale = float(np.abs(whole - start).max())
                    length = float(np.linalg.norm(whole - start))
                    results = {
                        name: run(bench, method, precision, way)
                        for name, way in ALONE.items()
                        if name != "whole"
                    }
                    ways = {name: (vector, own) for name, (vector, _, own) in results.items()}
                    ways |= {
                        name: (others[place], others[f"{place}/scores"])
                        for name in TOGETHER
                        for place in (f"{precision}/{method}/{name}",)
                    }
                    for name, (vector, own) in ways.items():
                        difference = float(np.abs(vector - whole).max())
                        rows.append(
                            {
                                "precision": precision,
                                "method": method,
                                "way": name,
                                "difference": difference / scale,
                                "norm": float(np.linalg.norm(vector - whole)) / length,
                                "perplexity": float(np.abs(own / scores - 1).max()),
                                "identical": name in results and results[name][1] == first,
                            }
                        )
                        print(precision, method, name, f"{difference / scale:.2e}", flush=True)
    body = {
        "updates": 5,
        "documents": "4 + 4 per update",
        "parameters": int(start.size),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
