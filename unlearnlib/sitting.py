"""The whole story in one sitting: a published model, vanilla, oracle, all methods, on any machine.

What the notebook `open_in_colab` computes. The model, the texts and the device are found; the plan
says how large the sitting can be, so that it ends within its minutes, and whether all parameters
can be trained here or adapters (LoRA) have to do. Vanilla is the published model trained further
on documents to forget and to keep, the oracle the same without those to forget (see
`continue_pretraining.py`); then each method unlearns.

What is made is kept: models in the user's cache, records in a store of their own. A sitting that
was interrupted goes on where it was.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unlearnlib import lora
from unlearnlib.bench import Bench, key_of
from unlearnlib.continue_pretraining import (
    Continuation,
    course,
    scored_chunks,
    train_on,
    training_documents,
)
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import SPLITS, DomainData, clip, hash_documents
from unlearnlib.corpus.public import FOLDER_VARIABLE, fetch
from unlearnlib.cost import FLOPS_FORWARD, training_flops
from unlearnlib.devices import Device, describe
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.folders import cache_folder
from unlearnlib.methods import get_method
from unlearnlib.models import (
    hush_transformers,
    load_model,
    load_tokenizer,
    model_config,
    model_hash,
    save_model,
    weights_of,
)
from unlearnlib.planning import (
    Anatomy,
    Machine,
    anatomy,
    expected_rate,
    plan_run,
)
from unlearnlib.profiles import PAPER_METHODS, Precision, get_profile, limited, load_domain
from unlearnlib.run import execute
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.provenance import provenance
from unlearnlib.store.record import Record
from unlearnlib.study.chosen import BATCH, settings
from unlearnlib.study.compute import baseline
from unlearnlib.study.records import default_store
from unlearnlib.text import duration, gigabytes
from unlearnlib.trained import TRAINING, is_whole

# Documents of a sitting that has the time for all of them: on a T4 about twenty minutes.
LARGEST = {
    "forget": 96,
    "retain": 384,
    "approximate": 96,
    "general_retain": 192,
    "general_evaluation": 96,
}
FEWEST = 8  # documents to forget, however little time there is
RECIPE = Continuation(most_epochs=3)  # vanilla stops earlier where membership shows earlier
LORA_RANK = 16
LORA_FACTOR = 10.0  # the learning rate of adapters over that of all parameters
FILLED = 0.9  # share of the memory that the plan may fill; allocators keep some


@dataclass(frozen=True)
class Wish:
    """What a sitting is asked for.

    model     a source (see `models.load_model`); None: the profile's
    updates   of each run
    rate      learning rate of all runs; None: what the profile `open_cpu` chose for each method,
              ten times that for adapters
    length    tokens taken of each document; less where the model reads less
    limits    documents by split; None: as many as the plan says there is time for
    minutes   that the sitting may take, by the plan
    corpora   a folder with the texts; None: fetched from public repositories, once
    command   what repeats the sitting
    """

    profile: str = "open"
    domain: str = "books"
    methods: tuple[str, ...] = PAPER_METHODS
    seeds: tuple[int, ...] = (0,)
    model: str | None = None
    device: str = "auto"
    updates: int = 6
    rate: float | None = None
    length: int = 512
    limits: Mapping[str, int] | None = None
    minutes: float = 30.0
    corpora: str | None = None
    command: str = "unlearn notebook open_in_colab"


@dataclass(frozen=True)
class Way:
    """How a model is trained here: adapters or all of it, and what that holds in memory."""

    precision: Precision
    lora_rank: int
    execution: Execution
    peak: int = 0

    def __str__(self) -> str:
        what = f"adapters of rank {self.lora_rank}" if self.lora_rank else "all parameters"
        again = ", activations computed again" if self.execution.recompute else ""
        return f"{what} in {self.precision}{again}"


@dataclass
class Step:
    """A part of the sitting: its seconds by the plan, and those that it took (None: not yet)."""

    name: str
    planned: float
    took: float | None = None


@dataclass
class Sitting:
    """A model, texts, a device and a plan. Make one with `open_sitting`.

    weights   which weights the model has (see `models.weights_of`)
    limits    documents by split
    length    tokens of a document at most
    rate      operations per second that the plan counts on
    steps     by their names, in their order
    fresh     whether all is made anew
    opened    seconds that finding and planning all this took
    histories the records of training vanilla and oracle, once they are made
    """

    wish: Wish
    source: str
    device: Device
    weights: Mapping[str, Any]
    tokenizer: Any
    data: DomainData
    limits: Mapping[str, int]
    length: int
    way: Way
    rate: float
    steps: dict[str, Step]
    fresh: bool = False
    opened: float = 0.0
    histories: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all steps, by the plan."""
        return sum(step.planned for step in self.steps.values())

    @property
    def folder(self) -> Path:
        """Where vanilla and oracle are kept: named by all that determines them."""
        made_of = [
            dict(self.weights),
            self.data.hash(),
            asdict(RECIPE),
            self.length,
            self.way.precision,
            self.way.lora_rank,
        ]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "sittings" / digest[:16]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Take the time of a step."""
        begun = time.monotonic()
        yield
        self.steps[name].took = time.monotonic() - begun

    def train(self, name: str) -> dict[str, Any]:
        """Make "vanilla" or "oracle", unless it is kept already: the record of its training."""
        with self.timed(name):
            folder = self.folder / name
            if is_whole(folder) and not self.fresh:
                made = dict(json.loads((folder / TRAINING).read_text(encoding="utf-8")))
            else:
                made = self._train(name, folder)
        self.histories[name] = made
        return made

    def _train(self, name: str, folder: Path) -> dict[str, Any]:
        begun, domain = datetime.now(UTC), self.wish.domain
        model: Any = load_model(self.source, self.way.precision, self.device.name)
        base = model_hash(model)
        rank = self.way.lora_rank
        attached = lora.attach(model, rank, 2.0 * rank, RECIPE.seed) if rank else None
        data = {domain: self.data}
        documents = training_documents("vanilla" if name == "vanilla" else f"oracle-{domain}", data)
        recipe = RECIPE
        if attached is not None:
            recipe = replace(RECIPE, learning_rate=LORA_FACTOR * RECIPE.learning_rate)
        outcome, history = train_on(
            model,
            name,
            self.chunks(documents, "training"),
            scored_chunks(data, self.tokenizer, self.length),
            recipe,
            recipe.most_epochs if name == "vanilla" else int(self.histories["vanilla"]["epochs"]),
            self.way.execution,
        )
        model.zero_grad(set_to_none=True)
        if attached is not None:
            lora.take_off(model, attached)
        record = {
            "profile": self.wish.profile,
            "name": name,
            "base": self.weights["name"],
            "base_weights": {**self.weights, "hash": base},
            "base_hash": base,
            "recipe": asdict(recipe),
            "lora_rank": rank,
            "documents": len(documents),
            "data_hash": hash_documents(documents),
            "model_hash": model_hash(model),
            **course(outcome, history),
            "provenance": provenance(
                begun,
                (datetime.now(UTC) - begun).total_seconds(),
                self.device.name,
                self.wish.command,
            ),
        }
        save_model(model, self.tokenizer, folder, {TRAINING: json.dumps(record, indent=1) + "\n"})
        return record

    def chunks(self, documents: Any, name: str) -> list[Chunk]:
        """Documents as tokens; each is one chunk, since they are clipped."""
        return cut(documents, self.tokenizer, self.length, name=name)

    def open_bench(self) -> Bench:
        """Vanilla and oracle as runs and their evaluation need them."""
        place = self.way.precision, self.device.name
        folder = self.folder / "vanilla"
        return Bench(
            load_model(folder, *place),
            self.tokenizer,
            self.data,
            self.length,
            get_profile(self.wish.profile).prefix,
            load_model(self.folder / "oracle", *place),
            replace(self.way.execution, progress=False),
            str(folder),
            weights_of(folder),
        )

    def baselines(self, bench: Bench) -> list[Record]:
        """The scores of vanilla and of the oracle.

        Afterwards the oracle leaves the device: of it only its hidden states on the evaluated
        chunks are needed, and those are kept.
        """
        with self.timed("baselines"):
            made = [baseline(bench, self.wish.profile, which) for which in ("vanilla", "oracle")]
            for record in made:
                record.provenance["command"] = self.wish.command
            assert bench.oracle is not None
            bench.oracle.to("cpu")
            gc.collect()
        return made

    def specs(self, method: str) -> list[RunSpec]:
        """The runs of a method, one a seed."""
        wish, rank = self.wish, self.way.lora_rank
        rate = wish.rate
        if rate is None:
            profile = "open_cpu" if get_profile(wish.profile).continued else wish.profile
            domain = "books" if profile == "open_cpu" else wish.domain
            rate = float(settings(profile, domain, method)["learning_rate"])
            rate *= LORA_FACTOR if rank else 1.0
        spec = RunSpec(wish.profile, wish.domain, method, rate, wish.updates, BATCH)
        spec = spec.replace(length=self.length, precision=self.way.precision, lora_rank=rank)
        return [spec.replace(seed=seed) for seed in wish.seeds]

    def unlearn(self, bench: Bench, method: str) -> list[Record]:
        """The runs of a method, computed or, of an earlier call, kept."""
        store = Store(default_store().root / "sittings")
        found = []
        with self.timed(method):
            for spec in self.specs(method):
                key = key_of(bench, spec)
                if key in store and not self.fresh:
                    found.append(store.get(key))
                    continue
                _, record = execute(bench, spec, command=self.wish.command)
                store.put(record)
                found.append(record)
        return found

    def run(self, progress: bool = True) -> tuple[list[Record], list[Record]]:
        """All of it: the runs, and the scores of vanilla and oracle."""
        hush_transformers()
        for name in ("vanilla", "oracle"):
            self.train(name)
        bench = self.open_bench()
        baselines = self.baselines(bench)
        runs = []
        for method in tqdm(self.wish.methods, desc="methods", disable=not progress):
            runs += self.unlearn(bench, method)
        return runs, baselines


def open_sitting(wish: Wish, fresh: bool = False, rate: float | None = None) -> Sitting:
    """Find model, texts and device, and plan: as many documents as there is time for.

    `fresh` has everything made anew; `rate` is the operations per second to expect, in place of
    what is measured. `UnlearnError` where the model fits in no way, or the few documents that a
    sitting needs take too long.
    """
    begun = time.monotonic()
    hush_transformers()
    for method in wish.methods:
        get_method(method)
    device = describe(wish.device)
    source = wish.model or get_profile(wish.profile).model
    tokenizer, config = load_tokenizer(source), model_config(source)
    reads = getattr(config.get_text_config(), "max_position_embeddings", None) or wish.length
    length = min(wish.length, int(reads))
    whole = _texts(wish, tokenizer, length)
    way = _way(source, wish, device, whole, tokenizer, length)
    if rate is None:
        rate = expected_rate(way.precision, device.name)
    shape = anatomy(config, way.precision, 1, 8, way.lora_rank)
    lengths = {
        split: [len(ids) for ids in tokenizer([d.text for d in whole.split(split)])["input_ids"]]
        if whole.split(split)
        else []
        for split in SPLITS
    }
    steps = _steps(wish, way, lengths, shape, rate)
    while not wish.limits and sum(s.planned for s in steps) > 60 * wish.minutes:
        if len(lengths["forget"]) <= FEWEST:
            raise UnlearnError(
                f"with {len(lengths['forget'])} documents to forget the sitting takes "
                f"{duration(sum(s.planned for s in steps))} by the plan, and budget_minutes is "
                f"{wish.minutes:g}: give more minutes, fewer methods, a smaller length, or limits."
            )
        lengths = {split: each[: max(FEWEST, len(each) // 2)] for split, each in lengths.items()}
        steps = _steps(wish, way, lengths, shape, rate)
    limits = {split: len(each) for split, each in lengths.items()}
    return Sitting(
        wish,
        source,
        device,
        weights_of(source),
        tokenizer,
        limited(whole, {split: count for split, count in limits.items() if count}),
        limits,
        length,
        way,
        rate,
        {step.name: step for step in steps},
        fresh,
        time.monotonic() - begun,
    )


def _texts(wish: Wish, tokenizer: Any, length: int) -> DomainData:
    """The texts of a sitting, clipped; public ones are fetched where no folder has them."""
    corpora: str | Path | None = wish.corpora
    if get_profile(wish.profile).corpus == "public" and corpora is None:
        corpora = os.environ.get(FOLDER_VARIABLE)
        if corpora is None:
            corpora = cache_folder() / "corpora"
            fetch(corpora, wish.domain)
    data = load_domain(wish.profile, wish.domain, corpora, dict(wish.limits or LARGEST))
    return clip(data, tokenizer, length)


def _way(
    source: str,
    wish: Wish,
    device: Device,
    data: DomainData,
    tokenizer: Any,
    length: int,
) -> Way:
    """The first way to train that fits into the memory: all parameters rather than adapters.

    Held against the dearest run, with vanilla beside the copy that it changes, and on a processor
    the oracle too.
    """
    plain = Execution()
    thrifty = Execution(micro_tokens=1024, recompute=True)
    ways = [
        Way(device.precision, 0, plain),
        Way(device.precision, 0, thrifty),
        Way(device.precision, LORA_RANK, thrifty),
    ]
    forget, retain = (
        cut(part[:BATCH], tokenizer, length, name=name)
        for name, part in (("forget", data.forget), ("retain", data.retain))
    )
    machine = Machine(device.name, rate=1.0)  # memory is asked for, not time
    peak = 0
    for way in ways:
        spec = RunSpec(
            wish.profile,
            wish.domain,
            "ga_kl_in_dist",
            updates=wish.updates,
            batch_size=BATCH,
            length=length,
            precision=way.precision,
            lora_rank=way.lora_rank,
        )
        planned = plan_run(
            source,
            spec,
            forget,
            retain,
            execution=way.execution,
            machine=machine,
            copied=True,
            oracle=device.name == "cpu",  # elsewhere it waits in the computer's memory
        )
        peak = planned.peak
        if device.memory is None or peak <= FILLED * device.memory:
            return replace(way, peak=peak)
    raise UnlearnError(
        f"{source!r} needs {gigabytes(peak)} by the plan, with adapters alone and activations "
        f"computed again, and {device.title} has {gigabytes(device.memory or 0)}: give a smaller "
        "model, a smaller length, or a larger device; the profile lab fits anywhere."
    )


def _steps(
    wish: Wish,
    way: Way,
    lengths: Mapping[str, Sequence[int]],
    shape: Anatomy,
    rate: float,
) -> list[Step]:
    """What a sitting does, with its seconds at `rate` operations a second.

    `lengths` are the tokens of each document, by split. The time of vanilla is that of the most
    epochs that the recipe allows.
    """
    tokens = {split: sum(each) for split, each in lengths.items()}
    count = {split: max(1, len(each)) for split, each in lengths.items()}
    few = tokens["retain"] * min(1.0, count["forget"] / count["retain"])  # of retain, evaluated
    forward = FLOPS_FORWARD * shape.active
    look = forward * (tokens["forget"] + tokens["approximate"] + few + tokens["general_evaluation"])
    epochs, again = RECIPE.most_epochs, way.execution.recompute

    def trained(amount: float) -> float:
        """Operations of training on so many tokens."""
        return training_flops(shape.active, int(amount), adapter=shape.adapter, recompute=again)

    whole = tokens["forget"] + tokens["retain"]
    looks = (epochs + 1) * look
    steps = [
        Step("vanilla", (trained(epochs * whole) + looks) / rate),
        Step("oracle", (trained(epochs * tokens["retain"]) + looks) / rate),
        Step("baselines", 3 * look / rate),  # and the oracle once more, to be kept as a reference
    ]
    for method in wish.methods:
        row = get_method(method)
        used = {"forget": row.forget}
        if row.retain is not None:
            used["retain" if row.data == "in_distribution" else "general_retain"] = row.retain
        work = look
        for split, term in used.items():
            drawn = wish.updates * min(BATCH, count[split])
            amount = drawn * tokens[split] / count[split]
            work += trained(amount)
            if term.needs_original:
                work += forward * min(amount, float(tokens[split]))
        steps.append(Step(method, work * len(wish.seeds) / rate))
    return steps


def spent(steps: Sequence[Step]) -> tuple[float, float]:
    """(seconds by the plan, seconds that were taken) of the steps that are done."""
    done = [step for step in steps if step.took is not None]
    return sum(step.planned for step in done), sum(step.took or 0.0 for step in done)
