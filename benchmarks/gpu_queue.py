"""The GPU jobs that wait for a GPU, most valuable first, resumable within a time budget.

    python benchmarks/gpu_queue.py --list
    python benchmarks/gpu_queue.py --seconds 540 --store OUT/store [--only PATTERN] \\
        [--model DIR_OR_WHEEL] [--corpora FOLDER]

Each job is one record. A job whose record the store has is skipped, a job that would not fit
into the seconds left is not begun, and the records of a finished call are merged into the
project's store by `--merge FROM`. Needs torch, transformers and unlearnlib's core, no network.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unlearnlib.cost import YI_6B, LlamaShape, run_flops  # noqa: E402
from unlearnlib.errors import UnlearnError  # noqa: E402
from unlearnlib.methods import PAPER_METHODS  # noqa: E402
from unlearnlib.spec import DOMAINS, RunSpec  # noqa: E402
from unlearnlib.store import Record, Store, provenance, run_key  # noqa: E402

SMOLLM2_135M = LlamaShape(576, 30, 9, 3, 1536, 49152, tied=True)
TINY = LlamaShape(32, 2, 4, 2, 64, 128, tied=True)  # to try the queue itself on a CPU
SHAPES = {"yi-6b": YI_6B, "smollm2-135m": SMOLLM2_135M, "tiny": TINY}
OPEN_RATES = (4e-5, 6e-5)


@dataclass(frozen=True)
class Job:
    """A named job: about how many seconds it takes on an H200, and how to do it.

    A job that gives no record prepares others: it is done where what it makes is there.
    """

    name: str
    seconds: float
    run: Callable[[argparse.Namespace], Record | None]


def make_model(shape: str, length: int, dtype: Any = None) -> Any:
    """A Llama of that shape with random weights: neither speed nor memory depends on values."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    form = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=form.vocabulary,
        hidden_size=form.hidden,
        num_hidden_layers=form.layers,
        num_attention_heads=form.heads,
        num_key_value_heads=form.key_value_heads,
        intermediate_size=form.mlp,
        max_position_embeddings=length,
        tie_word_embeddings=form.tied,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM(config).to(dtype or torch.float32)


def throughput(shape: str, method: str, length: int, batch: int, updates: int = 4) -> Record:
    """Useful tokens per second, peak memory and model FLOPs utilisation at a Llama's shape.

    The first update warms up and is not timed.
    """
    import torch

    from unlearnlib.corpus.chunks import Chunk
    from unlearnlib.engine import Execution, Part, keep_original, optimise, peak_memory_bytes
    from unlearnlib.methods import get_method

    started = time.time()
    form, row = SHAPES[shape], get_method(method)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(shape, length, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)

    def chunks(name: str) -> list[Chunk]:
        draw = torch.randint(form.vocabulary, (batch, length), generator=generator).tolist()
        return [Chunk(f"{name}#{i}", name, tuple(tokens)) for i, tokens in enumerate(draw)]

    execution = Execution(micro_tokens=max(length, 16384), recompute=length >= 1024, progress=False)
    kept: dict[str, Any] = {
        "special": frozenset(),
        "vocabulary": form.vocabulary,
        "seed": 0,
        "alignment": "aligned",
        "execution": execution,
    }
    parts = []
    for name, term in (("forget", row.forget), ("retain", row.retain)):
        if term is not None:
            data = chunks(name)
            parts.append(Part(name, data, term, 1.0, keep_original(model, data, term, **kept)))
    stamps = []

    def stamp(update: int) -> dict[str, float]:
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return {}

    outcome = optimise(
        model,
        parts,
        updates=updates,
        batch_size=batch,
        rate=lambda u: 1e-7,
        seed=0,
        execution=execution,
        each=stamp,
    )
    seconds = (stamps[-1] - stamps[0]) / (updates - 1)
    tokens = outcome.tokens / updates
    spec = {"shape": shape, "method": method, "length": length, "batch": batch, **asdict(form)}
    return Record(
        key=run_key(spec, "random", "random", {"kind": "throughput"}),
        kind="throughput",
        status="done",
        spec=spec,
        data_hash="random",
        model_hash="random",
        extra={"tokens_per_update": tokens},
        provenance=provenance(
            started=datetime.fromtimestamp(started, UTC),
            seconds=time.time() - started,
            device=device,
            command=f"python benchmarks/gpu_queue.py --only throughput-{shape}-{method}",
            tokens_per_second=tokens / seconds,
            flops_per_second=run_flops(model, int(tokens)) / seconds,
            peak_memory_bytes=peak_memory_bytes(device),
        ),
    )


def open_models(arguments: argparse.Namespace) -> None:
    """Vanilla and the oracles of profile 'open', where this machine has them not yet.

    Their weights stay on the machine, in the cache; their records go beside the store.
    """
    import torch

    from unlearnlib.continued import (
        continued_names,
        is_made,
        record_path,
        train_further,
    )
    from unlearnlib.engine import Execution

    if not arguments.model or not arguments.corpora:
        raise UnlearnError("jobs at profile 'open' need --model and --corpora: give both.")
    for name in continued_names("open"):
        if is_made("open", name):
            continue
        train_further(
            "open",
            name,
            source=arguments.model,
            corpora=arguments.corpora,
            device="cuda" if torch.cuda.is_available() else "cpu",
            execution=Execution(micro_tokens=16384, progress=False),
        )
        kept = arguments.store / "continued" / record_path("open", name).name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(record_path("open", name).read_text())


def open_run(domain: str, method: str, rate: float) -> Callable[[argparse.Namespace], Record]:
    """One unlearning of profile 'open': vanilla and its oracle, on public texts."""

    def run(arguments: argparse.Namespace) -> Record:
        import torch

        from unlearnlib.engine import Execution
        from unlearnlib.run import execute, open_bench
        from unlearnlib.spec import get_profile
        from unlearnlib.study import BATCH

        open_models(arguments)
        scale = get_profile("open")
        if domain not in _BENCHES:
            _BENCHES.clear()  # one domain's models at a time
            _BENCHES[domain] = open_bench(
                "open",
                domain,
                folder=arguments.corpora,
                device="cuda" if torch.cuda.is_available() else "cpu",
                execution=Execution(micro_tokens=16384, progress=False),
            )
        spec = RunSpec("open", domain, method, rate, scale.updates, BATCH, seed=scale.tuning_seed)
        return execute(_BENCHES[domain], spec)[1]

    return run


_BENCHES: dict[str, Any] = {}


def queue() -> list[Job]:
    """All jobs, most valuable first."""
    jobs = [
        Job(
            f"throughput-yi-6b-{method}",
            90,
            lambda a, m=method: throughput("yi-6b", m, 4096, 8),  # type: ignore[misc]
        )
        for method in ("ga_gd_in_dist", "ga_kl_in_dist")
    ]
    jobs += [
        Job(
            f"throughput-smollm2-135m-{method}",
            25,
            lambda a, m=method: throughput("smollm2-135m", m, 1024, 64),  # type: ignore[misc]
        )
        for method in ("ga_gd_in_dist", "ga_kl_in_dist")
    ]
    jobs.append(Job("open-models", 300, open_models))
    jobs += [
        Job(f"open-{domain}-{method}-{rate:g}", 25, open_run(domain, method, rate))
        for domain in DOMAINS
        for rate in OPEN_RATES
        for method in PAPER_METHODS
    ]
    return jobs


def main() -> int:
    """Run what fits; print one JSON line per job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="name the jobs and stop")
    parser.add_argument("--seconds", type=float, default=540, help="begin no job beyond this")
    parser.add_argument("--store", type=Path, default=Path("runs"), help="where records go")
    parser.add_argument("--only", default="*", help="jobs whose name matches this pattern")
    parser.add_argument("--model", help="SmolLM2-135M: a folder, GGUF file or wheel")
    parser.add_argument("--corpora", help="the folder of public texts")
    parser.add_argument("--merge", type=Path, help="copy the records of this store and stop")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    if arguments.merge:
        merged = sum(store.put(record) for record in Store(arguments.merge).records())
        print(json.dumps({"merged": merged}))
        return 0
    jobs = [job for job in queue() if fnmatch.fnmatch(job.name, arguments.only)]
    if arguments.list:
        print("\n".join(f"{job.seconds:5.0f} s  {job.name}" for job in jobs))
        return 0
    # A small file beside the records tells which jobs are done: a key is only known by running.
    done_path = arguments.store / "queue.json"
    done = json.loads(done_path.read_text()) if done_path.exists() else {}
    end = time.monotonic() + arguments.seconds
    failed = 0
    for job in jobs:
        if job.name in done and done[job.name] in store:
            continue
        if time.monotonic() + job.seconds > end:
            continue
        try:
            record = job.run(arguments)
        except (UnlearnError, RuntimeError) as error:  # one job out of memory is not the others'
            failed += 1
            print(json.dumps({"job": job.name, "error": str(error)}), flush=True)
            continue
        if record is None:
            print(json.dumps({"job": job.name, "done": True}), flush=True)
            continue
        store.put(record)
        done[job.name] = record.key
        done_path.write_text(json.dumps(done, indent=1))
        print(json.dumps({"job": job.name, "key": record.key, **record.provenance}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
