"""Ours against the plain recipe: speed of training and evaluation, and memory.

    python benchmarks/run.py --quick                 under 10 minutes on 2 cores
    python benchmarks/run.py --pairs 5 --length 1024 --documents 4
    python benchmarks/run.py ... --out benchmarks/results/speed.json

Two processes stay loaded, one for each side, and work in turn on the same documents and the same
model: SmolLM2-135M's shape with random weights, since neither speed nor memory depends on their
values. Document lengths are spread log-uniformly from 60 tokens to three chunks. A ratio is that
of two runs next to each other; printed are the median of the ratios and their range. Memory is
measured in a process of its own for each side. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import torch
from gpu_queue import make_model

from unlearnlib.devices import accelerator, choose_device, synchronize

SHORTEST = 60  # tokens of the shortest document
SPREAD = 3  # the longest has so many chunks
WORKS = ("ga_gd_in_dist", "ga_kl_in_dist", "evaluation")
TARGETS = {"ga_gd_in_dist": 2.5, "ga_kl_in_dist": 2.5, "evaluation": 4.0, "memory": 1 / 3}
RATE = 1e-7
MICRO_CHUNKS = 64
# A processor's cache likes small micro-batches, a GPU large ones.
MICRO_TOKENS = 16384 if torch.cuda.is_available() else 1024


def lengths(count: int, length: int) -> list[int]:
    """Tokens of `count` documents: the middles of equal parts of a log-uniform distribution."""
    ratio = SPREAD * length / SHORTEST
    return [round(SHORTEST * ratio ** ((i + 0.5) / count)) for i in range(count)]


def chunks_of(name: str, sizes: list[int], length: int, vocabulary: int) -> list[Any]:
    """Chunks of documents of random tokens."""
    from unlearnlib.corpus.chunks import MINIMUM_TOKENS, Chunk

    generator = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
    made = []
    for number, size in enumerate(sizes):
        tokens = torch.randint(vocabulary, (size,), generator=generator).tolist()
        for index, start in enumerate(range(0, size, length)):
            part = tuple(tokens[start : start + length])
            if len(part) >= MINIMUM_TOKENS:
                made.append(
                    Chunk(f"{name}-{number}#{index}", f"{name}-{number}", part, 3 * len(part))
                )
    return made


def ours(model: Any, work: str, data: dict[str, list[Any]], execution: Any) -> float:
    """Seconds of one update, or of a full evaluation, by `unlearnlib`."""
    from unlearnlib.engine import Labelling, Part, Training, keep_original, optimise
    from unlearnlib.methods import get_method
    from unlearnlib.metrics.membership import attack_scores
    from unlearnlib.metrics.perplexity import accuracy, perplexity
    from unlearnlib.scoring import score_chunks

    start = clock()
    if work == "evaluation":
        for name, chunks in data.items():
            scores = score_chunks(model, chunks, execution=execution)
            perplexity(scores), accuracy(scores)
            if name != "general":
                attack_scores(scores)
        return clock() - start
    row = get_method(work)
    labelling = Labelling(frozenset(), model.config.vocab_size)
    parts = []
    for name, term in (("forget", row.forget), ("retain", row.retain)):
        assert term is not None
        kept = keep_original(  # counted: as if no document were seen twice
            model, data[name], term, labelling, execution=execution
        )
        parts.append(Part(name, data[name], term, 1.0, kept))
    optimise(
        model,
        parts,
        Training(1, max(len(part.chunks) for part in parts), rate=lambda update: RATE),
        execution=execution,
    )
    return clock() - start


def theirs(model: Any, work: str, data: dict[str, list[Any]], length: int) -> float:
    """Seconds of the same by the plain recipe."""
    import plain

    start = clock()
    if work == "evaluation":
        for chunks in data.values():
            plain.perplexity_and_accuracy(model, chunks, length)
        for name in ("forget", "retain"):
            plain.membership_scores(model, data[name], length)
        return clock() - start
    with tempfile.TemporaryDirectory() as folder:
        plain.train(
            model,
            data["forget"],
            data["retain"],
            kl="kl" in work,
            length=length,
            updates=1,
            rate=RATE,
            folder=folder,
        )
    return clock() - start


def clock() -> float:
    """The time, once the device has done what was asked of it."""
    synchronize(choose_device())
    return time.perf_counter()


def memory_bytes() -> int:
    """This process's largest resident set so far, or the GPU's largest allocation."""
    from unlearnlib.engine import peak_memory_bytes

    return peak_memory_bytes(choose_device())


def serve(arguments: argparse.Namespace) -> None:
    """A side: read a piece of work from standard input, do it, write what it took."""
    from unlearnlib.engine import Execution
    from unlearnlib.planning import product_rate

    model = make_model(arguments.shape, arguments.length)
    size = model.config.vocab_size
    sizes = lengths(arguments.documents, arguments.length)
    data = {n: chunks_of(n, sizes, arguments.length, size) for n in ("forget", "retain", "general")}
    narrow = None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        work, precision = json.loads(line)
        if work == "product":
            device = choose_device()
            rate = product_rate(precision, device, repeats=8)
            print(json.dumps({"rate": rate}), flush=True)
            continue
        used = model
        if precision == "bfloat16":
            narrow = narrow or make_model(arguments.shape, arguments.length, torch.bfloat16)
            used = narrow
        names = ("forget", "retain", "general") if work == "evaluation" else ("forget", "retain")
        chosen = {name: data[name] for name in names}
        if arguments.serve == "ours":
            execution = Execution(
                micro_tokens=max(MICRO_TOKENS, arguments.length),
                micro_chunks=MICRO_CHUNKS,
                progress=False,
            )
            seconds = ours(used, work, chosen, execution)
        else:
            seconds = theirs(used, work, chosen, arguments.length)
        tokens = sum(len(c.tokens) for chunks in chosen.values() for c in chunks)
        passed = forward_tokens(arguments.serve, work, chosen, arguments.length)
        answer = {"seconds": seconds, "tokens": tokens, "passed": passed}
        print(json.dumps(answer), flush=True)


def forward_tokens(side: str, work: str, data: dict[str, list[Any]], length: int) -> int:
    """Tokens, padding among them, that a side goes forward over once or twice."""
    from unlearnlib.corpus.chunks import pack

    def once(name: str) -> int:
        chunks = data[name]
        if side == "plain":
            return len(chunks) * length
        rows = pack(chunks, max(MICRO_TOKENS, length), MICRO_CHUNKS)
        return sum(len(row) * len(chunks[row[0]].tokens) for row in rows)

    # The plain recipe evaluates the two sets of the attacks twice.
    twice = ("forget", "retain") if side == "plain" and work == "evaluation" else ()
    return sum(once(name) * (1 + (name in twice)) for name in data)


def rounding(documents: int = 16) -> dict[str, float]:
    """By how much evaluation in bfloat16 differs from float32, on the lab's model and books.

    Of perplexities and accuracies the largest relative difference, of AUCs the largest absolute.
    """
    from unlearnlib import load_domain, load_model, load_tokenizer
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.metrics import summarise
    from unlearnlib.scoring import score_chunks

    data, tokenizer = load_domain("lab", "books"), load_tokenizer("lab")
    splits = [
        cut(part[:documents], tokenizer, 320)
        for part in (data.forget, data.approximate, data.retain, data.general_evaluation)
    ]
    found = [
        summarise(*(score_chunks(load_model("lab", precision), chunks) for chunks in splits))
        for precision in ("float32", "bfloat16")
    ]

    def worst(ending: str, relative: bool) -> float:
        names = [name for name in found[0] if name.endswith(ending)]
        gaps = [abs(found[1][n] - found[0][n]) / (found[0][n] if relative else 1) for n in names]
        return max(gaps)

    return {
        "perplexity": worst("/perplexity", True),
        "accuracy": worst("/accuracy", True),
        "auc": worst("/auc", False),
    }


def memory(arguments: argparse.Namespace) -> None:
    """One update on one forget and one retain chunk of 1024 tokens: bytes beyond the rest."""
    from unlearnlib.engine import Execution

    side, work, way = arguments.memory
    model = make_model(arguments.shape, 1024)
    size = model.config.vocab_size
    data = {name: chunks_of(name, [1024], 1024, size) for name in ("forget", "retain")}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    small = make_model("tiny", 64)  # what the libraries themselves need is neither side's
    few = {name: chunks_of(name, [64], 64, small.config.vocab_size) for name in data}
    execution = Execution(micro_tokens=1024, recompute=way == "recompute", progress=False)
    if side == "ours":
        ours(small, work, few, execution)
    else:
        theirs(small, work, few, 64)
    before = memory_bytes()
    if side == "ours":
        ours(model, work, data, execution)
    else:
        theirs(model, work, data, 1024)
    beyond = memory_bytes() - before - 2 * weights  # AdamW's two moments
    print(json.dumps({"bytes": beyond, "weights": weights}))


class Side:
    """A process that does one side's work."""

    def __init__(self, name: str, arguments: argparse.Namespace):
        self.process = subprocess.Popen(
            [*command(arguments), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def do(self, work: str, precision: str = "float32") -> dict[str, Any]:
        """What the work took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([work, precision]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and line.rstrip().endswith("}") and '"' in line:
                return json.loads(line)  # type: ignore[no-any-return]
        raise SystemExit("a side of the benchmark ended early: see its message above")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def command(arguments: argparse.Namespace) -> list[str]:
    """This script with the same settings."""
    return [
        sys.executable, __file__, "--shape", arguments.shape,
        "--length", str(arguments.length), "--documents", str(arguments.documents),
    ]  # fmt: skip


def summary(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows of the table."""
    from gpu_queue import SHAPES

    started = time.time()
    sides = {name: Side(name, arguments) for name in ("ours", "plain")}
    rates = {p: sides["ours"].do("product", p)["rate"] for p in ("float32", "bfloat16")}
    rows: list[dict[str, Any]] = []
    parameters = SHAPES[arguments.shape].active_parameters()
    for work in WORKS:
        precisions = ("float32", "bfloat16")
        found: dict[str, list[dict[str, Any]]] = {}
        for pair in range(arguments.pairs + 1):
            order = [("plain", "float32"), *(("ours", p) for p in precisions)]
            for side, precision in order if pair % 2 else order[::-1]:
                answer = sides[side].do(work, precision)
                if pair:  # the first warms up
                    found.setdefault(f"{side} {precision}", []).append(answer)
                say(f"{work} {side} {precision}: {answer['seconds']:.1f} s")
        for precision in precisions:
            mine, other = found[f"ours {precision}"], found["plain float32"]
            ratios = [o["seconds"] / m["seconds"] for m, o in zip(mine, other, strict=True)]
            speed = statistics.median(m["tokens"] / m["seconds"] for m in mine)
            operations = (2 if work == "evaluation" else 6) * parameters * speed
            rows.append(
                {
                    "work": work,
                    "ours": precision,
                    "ratio": summary(ratios),
                    "target": TARGETS[work],
                    "tokens_per_second": speed,
                    "plain_tokens_per_second": statistics.median(
                        o["tokens"] / o["seconds"] for o in other
                    ),
                    "share_of_product_rate": operations / rates[precision],
                    "fewer_tokens": other[0]["passed"] / mine[0]["passed"],
                }
            )
    for side in sides.values():
        side.close()
    for work in WORKS[:2]:
        taken = {}
        for side, way in (("plain", "keep"), ("ours", "keep"), ("ours", "recompute")):
            done = subprocess.run(
                [*command(arguments), "--memory", side, work, way],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            taken[side, way] = json.loads(done.stdout.splitlines()[-1])["bytes"]
            say(f"memory {work} {side} {way}: {taken[side, way] / 2**20:.0f} MiB")
        for way in ("keep", "recompute"):
            rows.append(
                {
                    "work": f"memory of {work}",
                    "ours": "activations kept" if way == "keep" else "recomputed",
                    "ratio": summary([taken["ours", way] / taken["plain", "keep"]]),
                    "target": TARGETS["memory"],
                    "bytes": taken["ours", way],
                    "plain_bytes": taken["plain", "keep"],
                }
            )
    return {
        "rows": rows,
        "shape": arguments.shape,
        "length": arguments.length,
        "documents": arguments.documents,
        "document_tokens": lengths(arguments.documents, arguments.length),
        "pairs": arguments.pairs,
        "product_rate": rates,
        "rounding": rounding(),
        "device": accelerator(choose_device()) or "cpu",
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "torch": torch.__version__,
        "seconds": time.time() - started,
        "load": os.getloadavg()[0],
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"{'work':26} {'ours':17} {'ratio':>6} {'range':>13} {'target':>7} {'fewer':>6} "
        f"{'limit':>6}"
    ]
    for row in result["rows"]:
        ratio = row["ratio"]
        sign = "<=" if row["target"] < 1 else ">="
        share = row.get("share_of_product_rate")
        lines.append(
            f"{row['work']:26} {row['ours']:17} {ratio['median']:6.2f} "
            f"{ratio['lowest']:6.2f}-{ratio['highest']:<6.2f} {sign}{row['target']:5.2f} "
            + (f"{row['fewer_tokens']:6.2f} {share:6.0%}" if share else "")
        )
    lines.append("fewer: tokens that the plain recipe goes over, padding among them, over ours")
    lines.append("limit: model operations per second over those of a plain matrix product")
    worst = result["rounding"]
    lines.append(
        "bfloat16 against float32, evaluation of the lab's model: perplexity and accuracy within "
        f"{worst['perplexity']:.1%} and {worst['accuracy']:.1%}, AUC within {worst['auc']:.1g}"
    )
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 pairs, 2 documents, chunks of 512")
    parser.add_argument("--pairs", type=int, default=3, help="timed runs of each side")
    parser.add_argument("--length", type=int, default=1024, help="tokens per chunk")
    parser.add_argument("--documents", type=int, default=4, help="documents in each split")
    parser.add_argument("--shape", default="smollm2-135m", help="a shape of gpu_queue.py")
    parser.add_argument("--out", type=Path, help="also write everything to this file")
    parser.add_argument("--serve", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pairs, arguments.length, arguments.documents = 3, 512, 2
    if arguments.serve:
        serve(arguments)
        return 0
    if arguments.memory:
        memory(arguments)
        return 0
    result = measure(arguments)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
