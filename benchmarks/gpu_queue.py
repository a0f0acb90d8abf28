"""The GPU jobs that wait for a GPU, most valuable first, resumable within a time budget.

    python benchmarks/gpu_queue.py --list
    python benchmarks/gpu_queue.py --seconds 540 --out OUT [--resume OUT_OF_BEFORE] \\
        [--only PATTERN] --model DIR_OR_FILE --corpora FOLDER
    python benchmarks/gpu_queue.py --publish OUT
    python benchmarks/gpu_queue.py --tiny --out OUT      # all of it on a CPU, in small

The first job is the tests marked `gpu`, then come the timings, then what notebooks show: every job
of a study asks a notebook's experiment (`open_experiment`, compute="missing") for the runs of one
method on one domain. A job whose records are there is skipped; none begins that would not fit into
the seconds left, and within a job of a study no run does. What a call leaves is two files in OUT,
whatever the number of records: `records.parquet`, and `state.json` with the trainings, the chosen
settings and the searches. A later call takes both up with --resume, on a bare machine too.

A bare machine has no vanilla and no oracles: they are made again. Training is made as repeatable as
torch can make it, and the hash of its result is compared with the one before. Where it differs,
the records of before are of another model, and are computed anew for the one at hand, unless
--mixed says that they count. --publish takes, of each study and domain, the records of one model.

Needs torch, transformers, pyarrow and unlearnlib's core (`gguf` to read a GGUF file, pytest and
hypothesis for the tests), no network and nothing that runs notebooks.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from unlearnlib.cost import SMOLLM2_135M, YI_6B, LlamaShape, run_flops
from unlearnlib.devices import choose_device, synchronize
from unlearnlib.errors import UnlearnError
from unlearnlib.spec import PROFILES, get_profile
from unlearnlib.store import (
    Basis,
    Record,
    Store,
    provenance,
    read_parquet,
    run_key,
    write_file,
    write_parquet,
)

if TYPE_CHECKING:
    from unlearnlib.experiment.experiment import Experiment

TINY = LlamaShape(32, 2, 4, 2, 64, 128, tied=True)  # to try the queue itself on a CPU
SHAPES = {"yi-6b": YI_6B, "smollm2-135m": SMOLLM2_135M, "tiny": TINY}
TIMED = ("ga_gd_in_dist", "ga_kl_in_dist")
FEW = ("ga", "ga_gd_in_dist", "ga_kl_in_dist")  # of sweeps that are too dear for all methods
REGION_RATES = (3e-5, 1e-4, 3e-4)
WEIGHTS = (0.1, 1.0, 10.0)
MARK = "mark.gpu"  # in the files of tests that have some for a GPU
RECORDS, STATE = "records.parquet", "state.json"
SAVE_SECONDS = 20.0  # between two writings of OUT

# About how many seconds on an H200, from the operations of each at half of a plain product's rate
# in bfloat16 plus what loading and evaluating take; not measured yet.
SECONDS = {
    "tests": 60,
    "throughput-yi-6b": 60,
    "plain-yi-6b": 60,
    "throughput-smollm2-135m": 15,
    "plain-smollm2-135m": 20,
    "models": 150,
    "bench": 20,  # and the scores of vanilla and the oracle
    "run": 4,
    "probed": 18,
    "region": 14,
    "tune": 45,
    "verify": 12,
}


# --- the desk: what all jobs of a call share -----------------------------------------------------


@dataclass
class Desk:
    """The store, what was resumed, and the experiment of one call.

    device     that computes, as the command names it
    state      what OUT's `state.json` holds: "tests" (how they ended), "continued" (name ->
               training record), "starts" (hash that runs start from -> what "continued" was then),
               "settings", "tuning" (lines), "verify" (rows)
    same_bits  whether the models here are those that resumed records started from
    bases      (domain, base) -> what the records that are made here rest on
    end        no run begins that would not be done by this time of `time.monotonic`
    """

    profile: str
    store: Store
    out: Path | None
    model: str | None
    corpora: str | None
    device: str
    mixed: bool = False
    tiny: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    same_bits: bool = True
    bases: dict[tuple[str, str], Basis] = field(default_factory=dict)
    end: float = float("inf")
    saved: float = 0.0

    def __post_init__(self) -> None:
        self.device = choose_device(self.device)
        if self.model is not None:  # what is trained further, and what the study `published` takes
            here = dataclasses.replace(get_profile(self.profile), model=self.model)
            PROFILES[self.profile] = here

    @functools.cached_property
    def experiment(self) -> Experiment:
        """What a notebook of all studies has; its models are made first."""
        from unlearnlib.experiment.experiment import open_experiment
        from unlearnlib.study import STUDIES

        self.make_models()
        given = {
            "profile": self.profile,
            "device": self.device,
            "compute": "missing",
            "corpora": self.corpora,
        }
        opened = open_experiment("gpu_queue", given, *STUDIES, tell=told, fail=_cannot)
        opened.store, opened.progress = self.store, False
        opened.tell = lambda text: None  # what is missing is told by the lines of the jobs
        return opened

    def resume(self, folder: Path) -> int:
        """Take up what an earlier call left; how many records that are."""
        from unlearnlib.experiment.searches import local_path

        with contextlib.suppress(FileNotFoundError):
            self.state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        found = read_parquet(folder / RECORDS) if (folder / RECORDS).exists() else []
        for record in found:
            self.put(record)
        for domain, chosen in self.state.get("settings", {}).items():
            self._settings(domain, chosen)
        if lines := self.state.get("tuning"):
            text = "".join(json.dumps(line) + "\n" for line in lines).encode("utf-8")
            write_file(local_path(self.store.root, self.profile), text, replace=True)
        return len(found)

    def ask(self, seconds: float, what: Callable[[Experiment], Any]) -> Any:
        """What the experiment answers; no run begins for which there are no `seconds` left."""
        self.experiment.told.clear()  # what failed once may fail again
        self.experiment.deadline = None if self.tiny else self.end - seconds
        try:
            return what(self.experiment)
        finally:
            self._collect()

    def _collect(self) -> None:
        """Take note of what the experiment computed, and of which model."""
        from unlearnlib.experiment.searches import local_path

        kept = self.experiment.kept
        if kept.name is not None and kept.bench is not None:
            _, domain, base = kept.name
            self.bases[domain, base] = kept.bench.basis
            if base == "vanilla":  # which training the records of that model belong to
                start = kept.bench.model_hash
                self.state.setdefault("starts", {})[start] = self.state["continued"]
        for key in set(self.store.keys()) - self.records.keys():
            self.records[key] = self.store.get(key)
        searches = local_path(self.store.root, self.profile)
        if searches.exists():
            lines = searches.read_text(encoding="utf-8").splitlines()
            self.state["tuning"] = [json.loads(line) for line in lines]

    def put(self, record: Record) -> None:
        """Keep a record, in the store and in OUT."""
        self.store.put(record)
        self.records[record.key] = record

    def save(self, now: bool = False) -> None:
        """Write OUT, unless that was done a moment ago."""
        if self.out is None or not (now or time.monotonic() - self.saved > SAVE_SECONDS):
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_parquet(self.records.values(), self.out / RECORDS)
        text = json.dumps(self.state, indent=1, sort_keys=True) + "\n"
        write_file(self.out / STATE, text.encode("utf-8"), replace=True)
        self.saved = time.monotonic()

    def _settings(self, domain: str, chosen: dict[str, Any]) -> None:
        from unlearnlib.study import write_settings

        write_settings(self.profile, domain, chosen)

    def choose(self, domain: str) -> bool:
        """Choose the settings from the records of `rates`, if all are there."""
        from unlearnlib.study import BASELINES, choose, get_study

        specs = [s.as_dict() for s in get_study("rates").runs(self.profile, domain)]
        basis = self.bases.get((domain, "vanilla"))  # None: not known to be another one
        runs = [
            r
            for r in self.records.values()
            if r.kind == "run" and r.spec in specs and (self.mixed or basis in (None, r.basis))
        ]
        vanilla = next(
            (
                r
                for r in self.records.values()
                if r.spec.get("baseline") == BASELINES[0]
                and r.spec["domain"] == domain
                and "base" not in r.spec
                and (self.mixed or basis in (None, r.basis))
            ),
            None,
        )
        if vanilla is None or len({json.dumps(r.spec) for r in runs}) < len(specs):
            return False
        chosen = choose(runs, vanilla)
        self.state.setdefault("settings", {})[domain] = chosen
        self._settings(domain, chosen)
        return True

    # --- models

    def made(self) -> bool:
        """Whether vanilla and all oracles are on this machine."""
        from unlearnlib.trained import continued_names, is_made

        return all(is_made(self.profile, name) for name in continued_names(self.profile))

    def make_models(self) -> dict[str, Any]:
        """Vanilla and the oracles, where this machine has them not yet; what there is to say."""
        from unlearnlib.continue_pretraining import train_further
        from unlearnlib.engine import Execution
        from unlearnlib.trained import continued_names, is_made, made_here

        if not self.made() and not self.model:
            raise UnlearnError("the models are to be trained further: give --model.")
        said: dict[str, Any] = {}
        before = self.state.get("continued", {})
        for name in continued_names(self.profile):
            if is_made(self.profile, name):
                record = made_here(self.profile, name)
            else:
                with repeatable():
                    record = train_further(
                        self.profile,
                        name,
                        source=self.model,
                        corpora=self.corpora,
                        recipe=TINY_RECIPE() if self.tiny else None,
                        device=self.device,
                        execution=Execution(
                            micro_tokens=16384, progress=False, autocast=self.device == "cuda"
                        ),
                    )
            old = before.get(name, {}).get("model_hash")
            said[name] = {"model_hash": record.get("model_hash"), "epochs": record.get("epochs")}
            if old is not None and old != record.get("model_hash"):
                # Told, and not hidden: what was recorded before is of another model.
                self.same_bits = False
                said[name]["differs_from"] = old
            self.state.setdefault("continued", {})[name] = record
        return said

    def has(self, spec: dict[str, Any], domain: str, base: str) -> bool:
        """Whether there is a record of that spec that counts."""
        found = [r for r in self.records.values() if r.spec == spec and r.kind == "run"]
        if not found or self.mixed:
            return bool(found)
        if (domain, base) in self.bases:
            return any(r.basis == self.bases[domain, base] for r in found)
        if base == "published":
            return True  # that model is not trained here
        return self.same_bits and self.made_or_same()

    def made_or_same(self) -> bool:
        """Whether the models at hand are known to be those of the records."""
        from unlearnlib.trained import made_here

        old = self.state.get("continued", {}).get("vanilla", {}).get("model_hash")
        return old is not None and made_here(self.profile, "vanilla").get("model_hash") == old


def told(text: str) -> None:
    """Print what the experiment tells."""
    print(json.dumps({"told": text}), flush=True)


def _cannot(text: str) -> None:
    """A study that cannot be computed is a job that failed."""
    raise UnlearnError(text.strip("*"))


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Train so that the same machine gives the same bits, as far as torch can.

    Products of float32 take TensorFloat32 where there is such a thing: it is as repeatable, and an
    epoch's evaluation is no place to spend the budget.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(before)


# --- jobs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A named job: about how many seconds it takes on an H200, how to do it, whether it is done.

    `run` returns what the call prints of it. `opens` says on which domain and base it computes:
    where that is not open yet, opening it counts. `least` are the seconds that must be left for it
    to begin, of a job that can end early; None: all of its seconds.
    """

    stage: str
    name: str
    seconds: float
    run: Callable[[Desk], dict[str, Any]]
    done: Callable[[Desk], bool]
    opens: tuple[str, str] | None = None
    least: float | None = None

    def needs(self, desk: Desk) -> float:
        """The seconds that must be left for it to begin, with what must be there first."""
        total = self.seconds if self.least is None else self.least
        if self.opens is not None and self.opens not in desk.bases:
            total += SECONDS["bench"]
            if not desk.made():
                total += SECONDS["models"]
        return total


def run_tests() -> tuple[int, list[str]]:
    """How the tests marked `gpu` end: pytest's exit status, and the lines that it prints.

    Where there is no CUDA device they are skipped, and say so.
    """
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(path) for path in tests if MARK in path.read_text(encoding="utf-8")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--gpu", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    said = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line for line in said if line.strip()]


def tests_job() -> Job:
    """The tests marked `gpu` come first: the records of a device that errs are worthless."""

    def run(desk: Desk) -> dict[str, Any]:
        status, lines = run_tests()
        last = lines[-1] if lines else f"status {status}"
        if status:
            why = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
            raise UnlearnError(f"{why} ({last})".strip())
        desk.state["tests"] = last
        return {"tests": last}

    return Job("tests", "tests", SECONDS["tests"], run, lambda desk: "tests" in desk.state)


def make_model(shape: str, length: int, dtype: Any = None, device: str = "auto") -> Any:
    """A Llama of that shape with random weights: neither speed nor memory depends on values."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from unlearnlib.decoder import cast

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
    with torch.device(choose_device(device)):
        return cast(LlamaForCausalLM(config), dtype or torch.float32)


def throughput(
    shape: str, method: str, length: int, batch: int, device: str = "auto", updates: int = 4
) -> Record:
    """Useful tokens per second, peak memory and model FLOPs utilisation at a Llama's shape.

    The first update warms up and is not timed.
    """
    import torch

    from unlearnlib.engine import Execution, Labelling, Part, Training, keep_original, optimise
    from unlearnlib.methods import get_method

    started = time.time()
    form, row = SHAPES[shape], get_method(method)
    device = choose_device(device)
    model = make_model(shape, length, torch.bfloat16, device)
    execution = Execution(micro_tokens=max(length, 16384), recompute=length >= 1024, progress=False)
    labelling = Labelling(frozenset(), form.vocabulary)
    parts = []
    for name, term in (("forget", row.forget), ("retain", row.retain)):
        if term is not None:
            data = random_chunks(name, form.vocabulary, batch, length)
            kept = keep_original(model, data, term, labelling, execution=execution)
            parts.append(Part(name, data, term, 1.0, kept))
    stamps = []

    def stamp(update: int) -> dict[str, float]:
        synchronize(device)
        stamps.append(time.perf_counter())
        return {}

    optimise(
        model,
        parts,
        Training(updates, batch, rate=lambda u: 1e-7),
        execution=execution,
        on_update=stamp,
    )
    seconds = (stamps[-1] - stamps[0]) / (updates - 1)
    return timed_record("ours", shape, method, length, batch, model, seconds, started, device)


def plain_throughput(
    shape: str, method: str, length: int, batch: int, device: str = "auto", updates: int = 3
) -> Record:
    """The same by the plain recipe (`plain.py`), its model in bfloat16 too.

    All its state is bfloat16 then, where ours keeps float32 master weights: it has that ahead.
    """
    import plain
    import torch

    started = time.time()
    device = choose_device(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = make_model(shape, length, torch.bfloat16, device)
    sets = [random_chunks(name, SHAPES[shape].vocabulary, batch, length) for name in ("f", "r")]
    with tempfile.TemporaryDirectory() as folder:
        stamps = plain.train(
            model, *sets, kl="kl" in method, length=length, updates=updates, rate=1e-7,
            folder=folder,
        )  # fmt: skip
    seconds = (stamps[-1] - stamps[0]) / (updates - 1)
    return timed_record("plain", shape, method, length, batch, model, seconds, started, device)


def random_chunks(name: str, vocabulary: int, count: int, length: int) -> list[Any]:
    """Chunks of random tokens: neither speed nor memory depends on what they are."""
    import torch

    from unlearnlib.corpus.chunks import Chunk

    generator = torch.Generator().manual_seed(len(name))
    draw = torch.randint(vocabulary, (count, length), generator=generator).tolist()
    return [Chunk(f"{name}#{i}", name, tuple(tokens)) for i, tokens in enumerate(draw)]


def timed_record(
    recipe: str,
    shape: str,
    method: str,
    length: int,
    batch: int,
    model: Any,
    seconds: float,
    started: float,
    device: str,
) -> Record:
    """The record of a timing: `seconds` an update of `batch` forget and as many retain chunks.

    Model FLOPs utilisation is a share of something: of what a plain product of bfloat16 matrices
    reaches on this machine, which is recorded beside it.
    """
    from unlearnlib.engine import peak_memory_bytes
    from unlearnlib.planning import product_rate

    tokens = 2 * batch * length
    spec = throughput_spec(recipe, shape, method, length, batch)
    size = 8192 if device == "cuda" else 512
    return Record(
        key=throughput_key(spec),
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
            command=f"python benchmarks/gpu_queue.py --only {timing_name(spec)}",
            tokens_per_second=tokens / seconds,
            flops_per_second=run_flops(model, tokens) / seconds,
            product_flops_per_second=product_rate("bfloat16", device, size),
            peak_memory_bytes=peak_memory_bytes(device),
        ),
    )


def throughput_spec(
    recipe: str, shape: str, method: str, length: int, batch: int
) -> dict[str, Any]:
    """What a timing is of."""
    timed = {"shape": shape, "method": method, "length": length, "batch": batch}
    return timed | {"recipe": recipe} | asdict(SHAPES[shape])


def throughput_key(spec: dict[str, Any]) -> str:
    """The key of a timing."""
    return run_key(spec, Basis("random", "random"))


def timing_name(spec: dict[str, Any]) -> str:
    """The job's name."""
    word = "plain" if spec["recipe"] == "plain" else "throughput"
    return f"{word}-{spec['shape']}-{spec['method']}"


def timings(tiny: bool) -> list[Job]:
    """Throughput, ours and the plain recipe's, at both shapes."""
    sizes = [("tiny", 64, 2)] if tiny else [("yi-6b", 4096, 8), ("smollm2-135m", 1024, 64)]
    jobs = []
    for shape, length, batch in sizes:
        for recipe, measure in (("ours", throughput), ("plain", plain_throughput)):
            for method in TIMED:
                spec = throughput_spec(recipe, shape, method, length, batch)
                key, name = throughput_key(spec), timing_name(spec)

                def run(desk: Desk, measure: Any = measure, values: Any = spec) -> dict[str, Any]:
                    sizes = (values[n] for n in ("shape", "method", "length", "batch"))
                    record = measure(*sizes, desk.device)
                    desk.put(record)
                    empty_cache()
                    return brief(record)

                jobs.append(
                    Job(
                        "throughput",
                        name,
                        SECONDS.get(name.rsplit("-", 1)[0], 1),
                        run,
                        lambda desk, key=key: key in desk.records,  # type: ignore[misc]
                    )
                )
    return jobs


def brief(record: Record) -> dict[str, Any]:
    """What a call prints of a record: little, since all of it comes back in OUT."""
    wanted = ("tokens_per_second", "flops_per_second", "peak_memory_bytes")
    told = {n: record.provenance[n] for n in wanted if n in record.provenance}
    for name in ("forget/perplexity", "general/perplexity", "oracle_kl/forget"):
        if name in record.metrics:
            told[name] = float(f"{record.metrics[name]:.4g}")
    return ({} if record.status == "done" else {"status": record.status}) | told


def empty_cache() -> None:
    """Give memory back between models of very different sizes."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def models_job() -> Job:
    """Vanilla and the oracles."""
    return Job(
        "models",
        "models",
        SECONDS["models"],
        lambda desk: desk.make_models(),
        lambda desk: desk.made() and len(desk.state.get("continued", {})) > 0,
    )


def study_jobs(
    profile: str, study: str, domain: str, seconds: float, **asked: Sequence[Any] | None
) -> list[Job]:
    """The runs of a study on a domain, a job per method; none if no settings have been chosen yet.

    `asked` are values in place of the study's own, as fields of `Asked`; `seconds` are of one run.
    """
    from unlearnlib.study import get_study
    from unlearnlib.study.chosen import NotChosen
    from unlearnlib.study.grids import Asked

    wanted = get_study(study)
    try:
        grid = wanted.runs(profile, domain, Asked(**asked))
    except NotChosen:
        return []
    jobs = []
    for method in dict.fromkeys(spec.method for spec in grid):
        specs = [spec.as_dict() for spec in grid if spec.method == method]
        values = {**asked, "methods": (method,)}

        def run(desk: Desk, values: Any = values) -> dict[str, Any]:
            before = set(desk.records)
            desk.ask(seconds, lambda e: e.study(study, domains=(domain,), **values))
            new = [desk.records[key] for key in desk.records.keys() - before]
            last = max(new, key=lambda r: str(r.provenance["started"]), default=None)
            return {"computed": len(new)} | ({} if last is None else brief(last))

        def done(desk: Desk, specs: Any = specs) -> bool:
            return all(desk.has(spec, domain, wanted.base) for spec in specs)

        name, whole = f"{study}-{domain}-{method}", seconds * len(specs)
        jobs.append(Job(study, name, whole, run, done, (domain, wanted.base), seconds))
    return jobs


def choose_job(domain: str) -> Job:
    """The settings of the main study, by the rule, from the records of `rates`."""

    def run(desk: Desk) -> dict[str, Any]:
        if not desk.choose(domain):
            return {"waits": f"the study rates on {domain} is not whole yet"}
        return dict(desk.state["settings"][domain])

    # Never done: it takes no time, and the records may be of another model than before.
    return Job("rates", f"choose-{domain}", 0.1, run, lambda desk: False)


def tune_job(domain: str) -> Job:
    """`unlearn tune`, from start to end, as the chapter on guidelines asks for it."""

    def run(desk: Desk) -> dict[str, Any]:
        found = desk.ask(0, lambda e: e.searches((domain,)))
        return {"endings": [search.ending for search in found]}

    def done(desk: Desk) -> bool:
        return any(line["domain"] == domain for line in desk.state.get("tuning", []))

    return Job("tune", f"tune-{domain}", SECONDS["tune"], run, done, (domain, "vanilla"))


def verify_job(domain: str, sample: int = 2) -> Job:
    """Run records of the main study again, as `unlearn verify` does."""

    def run(desk: Desk) -> dict[str, Any]:
        from unlearnlib.comparison import as_row
        from unlearnlib.study import get_study
        from unlearnlib.verification import pick, verify_records

        specs = [s.as_dict() for s in get_study("main").runs(desk.profile, domain)]
        bench = desk.ask(0, lambda e: e.bench(domain))
        if bench is None:
            raise UnlearnError(f"the model or the texts of {domain} cannot be loaded.")
        found = [
            r
            for r in desk.records.values()
            if r.kind == "run" and r.spec in specs and r.basis == bench.basis
        ]
        if not found:  # of another model none can be repeated here
            raise UnlearnError(f"the study main on {domain} has no record of this model to verify.")
        picked = pick(sorted(found, key=lambda r: r.key), sample, 0)
        rows = [as_row(c) for c in verify_records(picked, lambda _: bench, progress=False)]
        desk.state["verify"] = json.loads(json.dumps(rows))
        return {"verify": rows}

    seconds = SECONDS["verify"]
    return Job("verify", f"verify-{domain}", seconds, run, _verified, (domain, "vanilla"))


def _verified(desk: Desk) -> bool:
    return bool(desk.state.get("verify"))


def stages(profile: str, tiny: bool) -> list[Callable[[], list[Job]]]:
    """All jobs, most valuable first, in pieces: what a study runs may follow from one before."""
    domains = sorted(get_profile(profile).domains, key=lambda d: d != "books")  # books first
    first = domains[0]

    def study(name: str, domain: str, kind: str, **asked: Any) -> Callable[[], list[Job]]:
        return lambda: study_jobs(profile, name, domain, SECONDS[kind], **asked)

    pieces: list[Callable[[], list[Job]]] = [
        lambda: [tests_job()],
        lambda: timings(tiny),
        lambda: [models_job()],
    ]
    for domain in domains:
        pieces += [
            study("rates", domain, "run"),
            lambda d=domain: [choose_job(d)],  # type: ignore[misc]
            study("main", domain, "run"),
        ]
    pieces.append(lambda: [verify_job(first)])
    pieces += [study("published", domain, "run") for domain in domains]
    few, rates = (FEW[:2], REGION_RATES[-1:]) if tiny else (FEW, REGION_RATES)
    weights = WEIGHTS[:1] if tiny else WEIGHTS
    sizes = (1,) if tiny else None
    pieces += [
        study("trajectory", first, "probed", methods=few if tiny else None),
        study("robust_region", first, "region", methods=few, rates=rates),
        study(
            "retain_weight", first, "run", methods=few[1:] if tiny else None, retain_weights=weights
        ),
        study("forget_size", first, "run", methods=few, sizes=sizes),
        lambda: [tune_job(first)],
    ]
    return pieces


# --- a profile for trying the queue --------------------------------------------------------------


def TINY_RECIPE() -> Any:
    """Training further that is over in a second."""
    from unlearnlib.continue_pretraining import Continuation

    return Continuation(batch_size=4, learning_rate=3e-3, auc=0.7, most_epochs=2)


def tiny_profile(folder: Path) -> str:
    """A profile like `open`, of a tiny random Llama and few invented texts; its model's folder."""
    from unlearnlib.models import load_tokenizer, save_model

    limits = {"forget": 6, "retain": 12, "approximate": 6}
    limits |= {"general_retain": 6, "general_evaluation": 6}
    PROFILES["tiny"] = dataclasses.replace(
        PROFILES["open"],
        name="tiny",
        corpus="fictitious",
        length=48,
        prefix=4,
        domains=("books",),
        limits=tuple(limits.items()),
        clipped=True,
        seeds=(0,),
        rates=(1e-3,),
        updates=1,
        precision="float32",
    )
    tokenizer = load_tokenizer("lab")
    SHAPES["tiny"] = dataclasses.replace(TINY, vocabulary=len(tokenizer))
    save_model(make_model("tiny", 128), tokenizer, folder)
    return str(folder)


# --- the command ---------------------------------------------------------------------------------


def listed(profile: str, tiny: bool) -> str:
    """The stages with their jobs and estimated seconds; settings that are not chosen are stood for.

    Counted for a machine that has nothing yet; a run that two studies share counts twice.
    """
    from unlearnlib.profiles import PAPER_METHODS
    from unlearnlib.study import write_settings

    with tempfile.TemporaryDirectory() as folder, data_at(Path(folder)):
        for domain in get_profile(profile).domains:
            write_settings(profile, domain, {m: {"learning_rate": 1e-4} for m in PAPER_METHODS})
        jobs = [job for piece in stages(profile, tiny) for job in piece()]
    counts: dict[tuple[str, str], list[float]] = {}
    opened: set[tuple[str, str]] = set()
    for job in jobs:
        where = job.opens[0] if job.opens else ""
        seconds = job.seconds
        if job.opens is not None and job.opens not in opened:
            opened.add(job.opens)
            seconds += SECONDS["bench"]
        counts.setdefault((job.stage, where), []).append(seconds)
    lines = [
        f"{sum(each):6.0f} s  {stage} {where}".rstrip() + f": {len(each)} jobs"
        for (stage, where), each in counts.items()
    ]
    total = sum(map(sum, counts.values()))
    return "\n".join([*lines, f"{total:6.0f} s  in all, about {total / 60:.0f} minutes"])


@contextlib.contextmanager
def data_at(folder: Path) -> Iterator[None]:
    """Settings and training records are written there, not into the project's data."""
    before = os.environ.get("UNLEARN_DATA")
    os.environ["UNLEARN_DATA"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("UNLEARN_DATA")
        else:
            os.environ["UNLEARN_DATA"] = before


def publish(folder: Path, profile: str) -> dict[str, Any]:
    """Put what a call left into the project's data: settings, trainings, records, searches."""
    from unlearnlib.folders import data_folder
    from unlearnlib.store.manifest import note
    from unlearnlib.study import publish_records, write_settings
    from unlearnlib.trained import record_path

    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    records = read_parquet(folder / RECORDS)
    for domain, chosen in state.get("settings", {}).items():
        write_settings(profile, domain, chosen)
    # The trainings of the model that most runs are of: it need not be that of the last call.
    runs = [r for r in records if r.kind == "run" and r.spec.get("base", "vanilla") == "vanilla"]
    most = [start for start, _ in Counter(r.model_hash for r in runs).most_common(1)]
    found = [state.get("starts", {}).get(start) for start in most]
    trainings = next(filter(None, found), state.get("continued", {}))
    for name, record in trainings.items():
        text = (json.dumps(record, indent=1) + "\n").encode("utf-8")
        write_file(record_path(profile, name), text, replace=True)
    counts = publish_records(profile, records)
    results = data_folder() / "results"
    timed = [r for r in records if r.kind == "throughput"]
    if timed:  # a smaller GPU has no room for some: what another call timed stays
        path = results / f"{profile}-throughput.parquet"
        before = read_parquet(path) if path.exists() else []
        write_parquet({r.key: r for r in (*before, *timed)}.values(), path)
        note(path)
    if lines := state.get("tuning"):
        text = "".join(json.dumps(line) + "\n" for line in lines).encode("utf-8")
        write_file(results / f"{profile}-tuning.jsonl", text, replace=True)
        note(results / f"{profile}-tuning.jsonl")
    return {"published": counts, "throughput": len(timed), "verify": state.get("verify", [])}


def work(desk: Desk, seconds: float, only: str) -> int:
    """Do what fits; one JSON line per job. Returns how many jobs failed.

    What was done is saved whatever ends the call.
    """
    try:
        return _work(desk, seconds, only)
    finally:
        desk.save(now=True)


def attempt(job: Job, desk: Desk) -> tuple[dict[str, Any], str]:
    """What a job tells, and why it failed, if it did: one's fault is not the others'.

    A library that is missing or another than expected may raise anything. The frames that an error
    holds, with the models in them, are gone when this returns, so that their memory can be freed.
    """
    try:
        return job.run(desk), ""
    except Exception as error:
        if not isinstance(error, UnlearnError):
            traceback.print_exc()
        return {}, (str(error).strip() or type(error).__name__).splitlines()[0]


def _work(desk: Desk, seconds: float, only: str) -> int:
    desk.end = time.monotonic() + seconds
    failed = did = left = 0
    for piece in stages(desk.profile, desk.tiny):
        for job in piece():
            if not (fnmatch.fnmatch(job.name, only) or fnmatch.fnmatch(job.stage, only)):
                continue
            if job.done(desk):
                continue
            if time.monotonic() + (0 if desk.tiny else job.needs(desk)) > desk.end:
                left += 1
                continue
            started = time.monotonic()
            said, error = attempt(job, desk)
            if error:
                failed += 1
                said = {"error": error}
                empty_cache()
            did += 1
            left += job.least is not None and not error and not job.done(desk)
            took = round(time.monotonic() - started, 2)
            line = {"job": job.name, "took": took, "estimate": job.seconds, **said}
            print(json.dumps(line), flush=True)
            desk.save()
    print(
        json.dumps(
            {
                "did": did,
                "failed": failed,
                "no_time_for": left,
                "records": len(desk.records),
                "same_models_as_resumed": desk.same_bits,
            }
        )
    )
    return failed


def main() -> int:
    """Run what fits; print one JSON line per job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="list the jobs, with estimates")
    parser.add_argument("--seconds", type=float, default=540, help="begin no job beyond this")
    parser.add_argument("--out", type=Path, help="the folder that receives records and state")
    parser.add_argument("--resume", type=Path, help="what an earlier call left in its --out")
    parser.add_argument("--store", type=Path, help="the run store (default: a temporary one)")
    parser.add_argument("--only", default="*", help="jobs or stages that match this pattern")
    parser.add_argument("--model", help="SmolLM2-135M: a folder, GGUF file or wheel")
    parser.add_argument("--corpora", help="the folder of public texts")
    parser.add_argument("--device", help="cuda (with --tiny: cpu), or another one")
    parser.add_argument("--mixed", action="store_true", help="whole jobs of another vanilla count")
    parser.add_argument("--publish", type=Path, metavar="OUT", help="put OUT into data/, and stop")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and texts, on a CPU")
    arguments = parser.parse_args()
    # A call that is ended at its limit saves what it has, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # cuBLAS reads it once: with it its products are repeatable.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profile = "tiny" if arguments.tiny else "open"
        if arguments.tiny:
            os.environ["UNLEARN_CACHE"] = str(scratch / "cache")  # each call is a bare machine
            arguments.model = tiny_profile(scratch / "tiny-model")
        try:
            if arguments.list:
                print(listed(profile, arguments.tiny))
                return 0
            if arguments.publish:
                print(json.dumps(publish(arguments.publish, profile)))
                return 0
            if importlib.util.find_spec("pyarrow") is None:  # found out only after a job, else
                raise UnlearnError("OUT is written with the package pyarrow: install it first.")
            store = arguments.store or scratch / "store"
            stack.enter_context(data_at(store.resolve() / "data"))
            desk = Desk(
                profile, Store(store), arguments.out, arguments.model, arguments.corpora,
                arguments.device or ("cpu" if arguments.tiny else "cuda"),
                arguments.mixed, arguments.tiny,
            )  # fmt: skip
            if arguments.resume:
                print(json.dumps({"resumed": desk.resume(arguments.resume)}), flush=True)
            return 1 if work(desk, arguments.seconds, arguments.only) else 0
        except UnlearnError as error:
            print(f"gpu_queue: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
