"""General ability by the tasks of lm-evaluation-harness, the interface that the field uses.

A task is given by its name in the harness (arc_easy, mmlu, gsm8k, humaneval), and its data then
comes from the hub. Or it is a YAML file in the harness's format, or a folder of such files, with
data of one's own: `dataset_path: json` and `data_files` beside the file. Results are metrics
"task/NAME/METRIC", with the harness's standard error as "task/NAME/METRIC_stderr". If a task
filters the answers before it scores them, the filter's name follows, as in
"task/gsm8k/exact_match,strict-match".

Tasks evaluate a run and do not change it, so they are not in its spec or its key. The store never
rewrites a record, so the results of tasks are a record of their own (kind "tasks", `tasks_key`),
beside the run's. A run that was recorded without tasks is computed again to get them, since
weights are not stored; its own record stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.errors import UnlearnError, first_line, unknown
from unlearnlib.store.record import Basis, Record, run_key

if TYPE_CHECKING:
    from torch import nn

PREFIX = "task/"
BOOTSTRAPS = 1000  # resamples for the standard error of a metric that is not a mean
BATCH = 8  # requests at a time


@dataclass(frozen=True)
class TaskSet:
    """Tasks with their data, ready to be run on a model.

    names        as they were given, a file by its own name
    tasks        name -> the harness's task
    groups       the harness's groups, whose results are means over their tasks
    limit        questions per task; None for all
    unsafe       whether tasks may execute code that the model wrote
    fingerprint  SHA-256 (hex) of what determines the results, apart from the model: the tasks'
                 settings and questions, and the harness's version
    """

    names: tuple[str, ...]
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    limit: int | None
    unsafe: bool
    fingerprint: str


def load_tasks(names: Sequence[str], *, limit: int | None = None, unsafe: bool = False) -> TaskSet:
    """The named tasks with their data; `UnlearnError` for one that is unknown or cannot be read.

    A task that executes code which the model writes is refused unless `unsafe`, before its data
    is read. So is a task file of one's own, before the file is: its templates, functions and
    metrics are code, which the harness runs.
    """
    manager_class = _task_manager()
    files = {name: _task_files(name) for name in names if _is_file(name)}
    if files and not unsafe:
        raise UnlearnError(
            f"the task file {next(iter(files))!r} is not one of the harness's own, and the harness "
            "runs the code in a task file, on this machine: read it, and give "
            "--confirm-unsafe-code if it may."
        )
    hub = [name for name in names if name not in files]
    with _quiet():
        manager = manager_class(include_defaults=bool(hub))
    wanted: list[Any] = []
    for name in names:
        if name in files:
            configs = [_own_task(path) for path in files[name]]
        elif name in manager.task_index:
            configs = _configs(manager, name, set())
        else:
            raise unknown("task", name, manager.all_tasks)
        executing = next((c for c in configs if c.get("unsafe_code")), None)
        if executing is not None and not unsafe:
            raise UnlearnError(
                f"task {executing.get('task', name)!r} runs the code that the model writes, on "
                "this machine: give --confirm-unsafe-code if it may, best inside a container."
            )
        wanted += configs if name in files else [name]
    if unsafe:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric asks for it once more
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}}
    for spec in wanted:
        name = spec if isinstance(spec, str) else spec["task"]
        try:
            with _quiet():
                found = manager.load([spec])
        except Exception as error:  # datasets, hub, YAML and Jinja each have errors of their own
            raise UnlearnError(_unreadable(name, isinstance(spec, str), error)) from error
        for part in loaded:
            if again := sorted(set(loaded[part]) & set(found[part])):
                raise UnlearnError(f"the task {again[0]!r} is given twice: give it once.")
            loaded[part].update(found[part])
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=0)
    shown = tuple(Path(os.path.abspath(n)).name if n in files else n for n in names)
    return TaskSet(
        shown,
        loaded["tasks"],
        loaded["groups"],
        limit,
        unsafe,
        _fingerprint(loaded["tasks"], limit),
    )


def run_tasks(
    model: nn.Module, tokenizer: Any, tasks: TaskSet, *, progress: bool = True
) -> dict[str, float]:
    """Run all tasks on a model: "task/NAME/METRIC" -> value, and its standard error."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    training = model.training
    with _quiet(everything=not progress):
        open_ended = without_ending(tokenizer)
        wrapped = HFLM(pretrained=model, tokenizer=open_ended, batch_size=BATCH)  # type: ignore[arg-type, unused-ignore]
        try:
            found = evaluate(
                lm=wrapped,
                task_dict={
                    "tasks": dict(tasks.tasks),
                    "groups": dict(tasks.groups),
                    "group_map": {n: group.child_names for n, group in tasks.groups.items()},
                },
                limit=tasks.limit,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=False,
                confirm_run_unsafe_code=tasks.unsafe,
            )
        except (ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
            raise UnlearnError(
                f"the tasks {', '.join(tasks.names)} cannot be asked ({first_line(error)}): check "
                "the task's file."
            ) from error
    model.train(training)
    return metrics_of(found or {})


def without_ending(tokenizer: Any) -> Any:
    """A copy of a tokenizer that puts the same special tokens before a text, and none after it.

    The harness takes the tokens of a question and of question with answer, and calls the answer
    what the latter has more. A special token after the question would stand in its midst there.

    It is a copy because the harness adds a padding token if there is none, and ours is saved as
    it was. Raises `UnlearnError` for a tokenizer that ends every text and cannot be told not to.
    """
    made = copy.deepcopy(tokenizer)
    before, after = _around(made)
    if not after:
        return made
    backend = getattr(made, "backend_tokenizer", None)
    if backend is not None:
        from tokenizers.processors import TemplateProcessing

        names = made.convert_ids_to_tokens(before)
        backend.post_processor = TemplateProcessing(
            single=[*names, "$A"],
            special_tokens=list(dict(zip(names, before, strict=True)).items()),
        )
    elif hasattr(made, "add_eos_token"):
        made.add_eos_token = False
    if _around(made) != (before, []):
        raise UnlearnError(
            f"the tokenizer ends every text with {made.convert_ids_to_tokens(after)}, which tasks "
            "cannot be asked with: give a tokenizer that does not, or leave out --tasks."
        )
    return made


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after every text."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return list(whole[:start]), list(whole[start + len(inner) :])
    return [], []


def metrics_of(found: Mapping[str, Any]) -> dict[str, float]:
    """The harness's results as metrics; values that are not numbers are left out."""
    metrics: dict[str, float] = {}
    for part in ("groups", "results"):
        for name, row in (found.get(part) or {}).items():
            for key, value in row.items():
                metric, comma, chosen = key.partition(",")
                if not comma or isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                title = metric if chosen == "none" else f"{metric},{chosen}"
                metrics[f"{PREFIX}{name}/{title}"] = float(value)
    return metrics


def task_rows(
    metrics: Mapping[str, float],
) -> list[tuple[str, str, str]]:
    """(metric, task, measure) of each result of a task; standard errors are left out."""
    rows = []
    for name in metrics:
        if name.startswith(PREFIX):
            task, _, metric = name.removeprefix(PREFIX).rpartition("/")
            if not metric.partition(",")[0].endswith("_stderr"):
                rows.append((name, task, metric))
    return rows


def stderr_of(metrics: Mapping[str, float], name: str) -> float:
    """The standard error of a task's metric; NaN where there is none."""
    metric, comma, chosen = name.partition(",")
    return metrics.get(f"{metric}_stderr{comma}{chosen}", math.nan)


def tasks_key(record_spec: Mapping[str, Any], basis: Basis, tasks: TaskSet) -> str:
    """The key of a run's results on tasks, from the run's spec, its basis, and the tasks."""
    return run_key(_asked(record_spec, tasks), basis)


def _asked(record_spec: Mapping[str, Any], tasks: TaskSet) -> dict[str, Any]:
    """The spec of a run's results on tasks: all that determines them."""
    return {
        **record_spec,
        "tasks": list(tasks.names),
        "task_limit": tasks.limit,
        "task_fingerprint": tasks.fingerprint,
    }


def tasks_record(run: Record, tasks: TaskSet, metrics: Mapping[str, float]) -> Record:
    """The record of a run's results on tasks; `metrics` are those of `run_tasks`."""
    return Record(
        key=tasks_key(run.spec, run.basis, tasks),
        kind="tasks",
        status="done",
        spec=_asked(run.spec, tasks),
        **run.basis.as_dict(),
        metrics=dict(metrics),
        provenance=run.provenance,
        extra={"run": run.key},
    )


def _task_manager() -> Any:
    """The harness's class `TaskManager`; `UnlearnError` if the harness is not installed."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UnlearnError(
            f"lm-evaluation-harness cannot be imported ({first_line(error)}): install it with "
            "pip install 'unlearnlib[tasks]', or leave out --tasks."
        ) from error
    return TaskManager


@contextlib.contextmanager
def _quiet(everything: bool = False) -> Iterator[None]:
    """Leave the terminal to our own sentences; `everything` silences progress bars too."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()) if everything else contextlib.nullcontext():
            yield
    finally:
        log.setLevel(before)


def _is_file(name: str) -> bool:
    """Whether a task is given as a file or folder: it exists, or it looks like one."""
    path = Path(name)
    return path.suffix in (".yaml", ".yml") or path.is_dir() or os.sep in name


def _task_files(name: str) -> list[Path]:
    """The YAML files of a task that is given as a file or as a folder."""
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.y*ml") if p.suffix in (".yaml", ".yml"))
        # A file that starts with "_" is included by others, by the harness's own custom.
        files = [p for p in files if not p.name.startswith("_")]
        if not files:
            raise UnlearnError(f"the task folder {name!r} has no *.yaml: give one that has.")
        return files
    if not path.is_file():
        raise UnlearnError(
            f"there is no task file {name!r}: give a YAML file, a folder of them, or a task's name."
        )
    return [path]


def _own_task(path: Path) -> dict[str, Any]:
    """The settings in a task file; data files are looked for beside it first."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path)
    except Exception as error:  # YAML's own errors, and those of a file's !function
        raise UnlearnError(
            f"the task file {str(path)!r} cannot be read ({first_line(error)}): write it as "
            "lm-evaluation-harness's tasks are."
        ) from error
    if not isinstance(config.get("task"), str):
        raise UnlearnError(
            f"the task file {str(path)!r} has no name under 'task': give it one, in a line "
            "'task: NAME'."
        )
    options = dict(config.get("dataset_kwargs") or {})
    if files := options.get("data_files"):
        config["dataset_kwargs"] = options | {"data_files": _beside(files, path.parent)}
    return config


def _beside(files: Any, folder: Path) -> Any:
    """File names, alone or in lists and dictionaries, as paths beside a task's file."""
    if isinstance(files, Mapping):
        return {key: _beside(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [_beside(value, folder) for value in files]
    found = folder / str(files)
    return str(found.resolve()) if found.exists() else files


def _configs(manager: Any, name: str, seen: set[str]) -> list[dict[str, Any]]:
    """The settings of a named task, or of all tasks of a group or tag; no function is resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(name)
    if entry is None or name in seen:
        return []
    seen.add(name)
    config = dict(entry.cfg or {})
    if entry.yaml_path is not None:
        config = load_yaml(entry.yaml_path, resolve_func=False)
    inner = config.get("task")
    if entry.kind.name == "TAG":
        members: list[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP" and isinstance(inner, list):
        members = inner
    else:
        return [config]
    found = []
    for member in members:
        if isinstance(member, str):
            found += _configs(manager, member, seen)
        elif isinstance(member, Mapping):
            child = member.get("task")
            found += _configs(manager, child, seen) if isinstance(child, str) else []
            found.append(dict(member))
    return found


def _fingerprint(tasks: Mapping[str, Any], limit: int | None) -> str:
    """SHA-256 (hex) of the harness's version, and of each task's settings and questions."""
    from importlib.metadata import version

    digest = hashlib.sha256(f"lm_eval {version('lm_eval')}".encode())
    for name in sorted(tasks):
        config = dict(tasks[name].dump_config())
        config.pop("metadata", None)  # has the file's path, which changes no result
        config.pop("dataset_kwargs", None)  # has it too; the questions themselves are hashed
        documents = list(tasks[name].eval_docs)[:limit]
        text = json.dumps([name, config, documents], sort_keys=True, default=repr)
        digest.update(text.encode("utf-8"))
    return digest.hexdigest()


def _unreadable(name: str, named: bool, error: Exception) -> str:
    """The sentence for a task that cannot be read; `named`: given by its name in the harness."""
    why = f"the task {name!r} cannot be read ({first_line(error)})"
    if named:
        return (
            f"{why}: its data is on the Hugging Face hub, so check that this machine reaches it "
            "and has the packages that the task needs, or give a task file with data of your own."
        )
    return f"{why}: check the file and the data that it names."
