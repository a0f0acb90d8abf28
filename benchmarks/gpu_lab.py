"""The lab's models and studies on one GPU, by many processes, within a time budget.

    python benchmarks/gpu_lab.py --sweep RECIPES.json --out OUT
    python benchmarks/gpu_lab.py --seconds 480 --workers 14 --out OUT
    python benchmarks/gpu_lab.py --seconds 300 --published --no-training [--only STUDY ...] \\
        --out OUT
    python benchmarks/gpu_lab.py --models NAME ... --out OUT
    python benchmarks/gpu_lab.py --take OUT --store STORE

A model of two million parameters keeps no GPU busy: a dozen processes share it, best under NVIDIA's
multi-process service (`nvidia-cuda-mps-control -d`), which lets their kernels run side by side.

--sweep trains one vanilla per recipe, all at once, and prints how each scores. RECIPES.json is a
list of what differs from the profile's recipe.

--seconds makes what `unlearn pretrain` and `unlearn study --all` make, in order of value, and stops
in time: all models, the study `rates`, the settings that it chooses, then the other studies. OUT
gets the records (`records-N.parquet`) and the chosen settings. With --published what is published
is not computed again, and with --no-training the models are those of the project: what unlearns the
second vanilla is then left out. --models adds weights, a file per model. --take puts OUT where it
belongs: the models into the project's data and the user's cache, the records into a run store, from
which `unlearn study --all --publish` goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tarfile
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnlib.store import Store

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROFILE = "stream"
ORDER = (  # of value; the dearest come last
    "main", "equal_forgetting", "trajectory", "alignment", "exposure", "retain_weight",
    "forget_size", "batch_size", "schedule", "sequential", "robust_region", "region_seeds",
    "modern", "chunk_beta",
)  # fmt: skip
STORE = Path(tempfile.gettempdir()) / "gpu-lab-store"
SAVING = 25.0  # seconds for writing OUT
LARGEST = 14 << 20  # bytes of a file of records
_BENCHES: dict[tuple[str, str, str], Any] = {}


def say(**told: Any) -> None:
    """One line of JSON."""
    print(json.dumps(told), flush=True)


def workers_of(count: int) -> ProcessPoolExecutor:
    """So many processes of one thread."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_quietly)


def _quietly() -> None:
    from unlearnlib.models import hush_transformers

    hush_transformers()


def train_trial(changes: dict[str, Any], device: str) -> dict[str, Any]:
    """Train a vanilla by another recipe: what it cost, and its scores by domain and exposure."""
    from unlearnlib.corpus import stream
    from unlearnlib.corpus.chunks import cut
    from unlearnlib.engine import Execution
    from unlearnlib.metrics.extraction import verbatim_share
    from unlearnlib.metrics.membership import auc, loss_score, min_k_plus_plus
    from unlearnlib.models import parameter_count
    from unlearnlib.pretrain import recipe_of, text_of, train_on_chunks
    from unlearnlib.scoring import score_chunks

    recipe = replace(recipe_of(PROFILE), **changes)
    text = text_of("vanilla", recipe)
    quiet = Execution(micro_tokens=32768, progress=False)
    started = time.monotonic()
    model, outcome = train_on_chunks(
        recipe, text.tokenizer, text.chunks, execution=quiet, device=device
    )
    seconds = time.monotonic() - started
    row: dict[str, Any] = {
        "changes": changes,
        "parameters": parameter_count(model),
        "seconds": round(seconds),
        "updates": len(outcome.trajectory),
        "diverged_at": outcome.diverged_at,
    }
    for domain in stream.DOMAINS:
        data = stream.generate(domain)

        def scored(documents: Any) -> Any:
            chunks = cut(documents, text.tokenizer, recipe.length)
            return score_chunks(model, chunks, execution=quiet)

        unread = scored(data.approximate)
        row[domain] = {"loss": -float(unread.logprob.mean())}
        for exposure in stream.EXPOSURES:
            read = scored([d for d in data.forget if d.exposure == exposure])
            row[domain][exposure] = [
                round(auc(loss_score(read), loss_score(unread)), 3),
                round(auc(min_k_plus_plus(read, 0.2), min_k_plus_plus(unread, 0.2)), 3),
                round(float(verbatim_share(read, 32).mean()), 3),
            ]
    row["mean_loss"] = sum(row[d]["loss"] for d in stream.DOMAINS) / 3
    return row


def train(name: str, device: str) -> float:
    """Train one of the profile's models; the seconds that it took."""
    from unlearnlib.engine import Execution
    from unlearnlib.pretrain import train_lab_model

    started = time.monotonic()
    train_lab_model(
        name,
        execution=Execution(micro_tokens=32768, progress=False),
        profile=PROFILE,
        device=device,
    )
    return time.monotonic() - started


@dataclass(frozen=True)
class Task:
    """What every process is told: where records go, what counts as computed, and until when."""

    store: str
    device: str
    deadline: float
    fresh: bool = True


def go_through(studies: list[str], domains: list[str], task: Task) -> dict[str, Any]:
    """Compute the runs of some studies that no other process has begun, until the deadline."""
    from unlearnlib.bench import Bench, Models, open_bench
    from unlearnlib.engine import Execution
    from unlearnlib.store import Store
    from unlearnlib.study.compute import Portion, run_study

    def bench(profile: str, domain: str, base: str) -> Bench:
        key = profile, domain, base
        if key not in _BENCHES:
            _BENCHES[key] = open_bench(
                profile,
                domain,
                models=Models(base=base, device=task.device),
                execution=Execution(micro_tokens=32768, progress=False),
            )
        return _BENCHES[key]

    made = {}
    for study in studies:
        if time.monotonic() >= task.deadline:
            break
        try:
            made[study] = run_study(
                study,
                PROFILE,
                domains,
                portion=Portion(deadline=task.deadline),
                store=Store(Path(task.store)),
                fresh=task.fresh,
                benches=bench,
                progress=False,
            ).computed
        except Exception:
            traceback.print_exc()
            made[study] = -1
    return made


def divide(pool: ProcessPoolExecutor, workers: int, studies: list[str], task: Task) -> None:
    """Let every process go through some studies, each beginning with a domain of its own."""
    from unlearnlib.profiles import get_profile

    domains = list(get_profile(PROFILE).domains)
    turned = [domains[i % 3 :] + domains[: i % 3] for i in range(workers)]
    began = time.monotonic()
    waiting = [pool.submit(go_through, studies, turn, task) for turn in turned]
    made: dict[str, int] = {}
    for one in waiting:
        for study, count in one.result().items():
            made[study] = made.get(study, 0) + count
    say(made=made, seconds=round(time.monotonic() - began))


def compute(args: argparse.Namespace, end: float) -> None:
    """All models, and the studies, until `end`."""
    from unlearnlib.experiment.everything import studies_of
    from unlearnlib.profiles import get_profile
    from unlearnlib.store import Store
    from unlearnlib.trained import is_whole, lab_checkpoint, lab_names

    domains = get_profile(PROFILE).domains
    task = Task(str(args.store), args.device, end, fresh=not args.published)
    lacking = [n for n in lab_names(PROFILE) if not is_whole(lab_checkpoint(n, PROFILE))]
    if args.no_training:
        lacking = []
    with workers_of(args.workers) as pool:
        if lacking:
            began = time.monotonic()
            took = list(pool.map(train, lacking, [args.device] * len(lacking)))
            seconds = round(time.monotonic() - began)
            say(trained=len(took), each=[round(t) for t in took], seconds=seconds)
        if not args.published:
            divide(pool, args.workers, ["rates"], task)
            if not choose(Store(args.store)):
                return
        rest = sorted(set(studies_of(PROFILE, domains)) - {"rates"}, key=ORDER.index)
        divide(pool, args.workers, [n for n in rest if n in (args.only or rest)], task)


def choose(store: Store) -> bool:
    """Choose the settings from the records of `rates`; whether all of these are there."""
    from unlearnlib.profiles import get_profile
    from unlearnlib.study.chosen import choose_settings
    from unlearnlib.study.grids import specs_of

    domains = get_profile(PROFILE).domains
    wanted = [spec.as_dict() for spec in specs_of("rates", PROFILE, domains)]
    records = list(store.records())
    runs = [record for record in records if record.kind == "run" and record.spec in wanted]
    if len(runs) < len(wanted):
        say(left_of_rates=len(wanted) - len(runs))
        return False
    scores = [r for r in records if r.kind == "score" and "base" not in r.spec]
    say(chosen=choose_settings(PROFILE, domains, runs, scores))
    return True


def save(args: argparse.Namespace) -> None:
    """Write OUT: records in files that are not too large, and the settings."""
    from unlearnlib.folders import settings_path
    from unlearnlib.store import Store, write_parquet

    args.out.mkdir(parents=True, exist_ok=True)
    records = list(Store(args.store).records())
    for parts in (1, 2, 3, 4):
        size = math.ceil(len(records) / parts)
        for part in range(parts):
            path = args.out / f"records-{part}.parquet"
            write_parquet(records[part * size : (part + 1) * size], path)
        if all(p.stat().st_size < LARGEST for p in args.out.glob("records-*.parquet")):
            break
    if settings_path().exists():
        (args.out / "settings.json").write_bytes(settings_path().read_bytes())
    say(records=len(records), bytes=[p.stat().st_size for p in args.out.iterdir()])


def pack(out: Path, names: list[str]) -> None:
    """The folder of each model that there is in a file of OUT, with its record."""
    from unlearnlib.trained import is_whole, lab_checkpoint, lab_record

    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = lab_checkpoint(name, PROFILE)
        if not is_whole(folder):
            continue
        with tarfile.open(out / f"models-{name}.tar.gz", "w:gz", compresslevel=1) as packed:
            packed.add(folder, name)
            if not (folder / "record.json").exists():
                packed.add(lab_record(name, PROFILE), f"{name}/record.json")


def take(folder: Path, store: Path) -> None:
    """Put what OUT holds where it belongs."""
    from unlearnlib.store import Store, read_parquet, write_file
    from unlearnlib.trained import lab_checkpoint, lab_names, lab_record, seed_of

    for path in sorted(folder.glob("models-*.tar.gz")):
        with tarfile.open(path) as packed:
            for member in packed.getmembers():
                name, _, file = member.name.partition("/")
                if name not in lab_names(PROFILE) or not member.isfile() or "/" in file:
                    continue
                content = packed.extractfile(member)
                assert content is not None
                place = lab_checkpoint(name, PROFILE)
                place.mkdir(parents=True, exist_ok=True)
                data = content.read()
                write_file(place / file, data, replace=True)
                if file == "record.json" and seed_of(name)[1]:
                    write_file(lab_record(name, PROFILE), data, replace=True)
        say(models=path.name)
    count = 0
    for path in sorted(folder.glob("records-*.parquet")):
        for record in read_parquet(path):
            Store(store).put(record)
            count += 1
    say(records=count)


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sweep", type=Path, metavar="RECIPES.json")
    parser.add_argument("--seconds", type=float, default=480, help="in all, from the start on")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--published", action="store_true", help="published records count")
    parser.add_argument("--no-training", action="store_true", help="take the project's models")
    parser.add_argument("--only", nargs="+", metavar="STUDY", help="these studies alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="pack these into OUT and stop")
    parser.add_argument("--take", type=Path, metavar="OUT", help="put OUT into place and stop")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.take:
        take(args.take, args.store)
    elif args.models:
        pack(args.out, args.models)
    elif args.sweep:
        trials = json.loads(args.sweep.read_text(encoding="utf-8"))
        with workers_of(len(trials)) as pool:
            for waiting in [pool.submit(train_trial, trial, args.device) for trial in trials]:
                try:
                    say(**waiting.result())
                except Exception:
                    traceback.print_exc()
    else:
        try:
            compute(args, end - SAVING)
        finally:
            save(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
