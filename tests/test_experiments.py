"""Notebooks as experiments: what they are asked for, what is missing of it, and computing that.

Every notebook computes what it shows when it is asked to, here at a scale of seconds by the same
parameters that anyone has. They run in this process, without a kernel, but for one.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from templates import NOTEBOOKS, TEMPLATES, code, shown

from unlearnlib.book import exhibits
from unlearnlib.cli import arguments, main
from unlearnlib.comparison import compare
from unlearnlib.errors import UnlearnError
from unlearnlib.experiment import effort, work
from unlearnlib.experiment import experiment as module
from unlearnlib.experiment.effort import effort_of, seconds_recorded
from unlearnlib.experiment.experiment import Experiment, agreement_in_words, open_experiment
from unlearnlib.experiment.parameters import known_parameters
from unlearnlib.experiment.searches import same_search, usual_searches
from unlearnlib.experiment.work import Work, parse
from unlearnlib.folders import data_folder
from unlearnlib.profiles import PROFILES, default_domains, get_profile, left_out
from unlearnlib.spec import RunSpec
from unlearnlib.store.folder import Store
from unlearnlib.store.published import read_parquet
from unlearnlib.store.record import Record
from unlearnlib.study.grids import STUDIES, Asked
from unlearnlib.study.searches import load_searches

LIMITS = {
    "forget": 3, "retain": 3, "approximate": 3, "general_retain": 3, "general_evaluation": 3,
}  # fmt: skip
# One method, one domain, one seed, one update, three documents a split.
SMALL: dict[str, Any] = {
    "domains": "books",
    "methods": "ga",
    "seeds": 0,
    "rates": 3e-4,
    "updates": 1,
    "limits": LIMITS,
    "device": "cpu",
}
OWN_PARAMETERS: dict[str, dict[str, Any]] = {
    "forget_size": {"sizes": [1, 2], "requests": [1, 2]},
    "guidelines": {"methods": "ga_gd_in_dist"},
    "main_table": {"methods": "ga,ga_gd_in_dist"},
    "release": {"methods": "random_label,adversarial"},
    "sensitivity": {
        "batch_sizes": [1, 2],
        "methods": "ga_gd_in_dist",
        "retain_weights": [1, 3],
        "schedules": ["constant", "linear 0.5"],
    },
    "trajectories": {"updates": 2},
    # Models of other seeds, which these ask for at their usual profile, need not be on a machine.
    **{name: {"profile": "lab"} for name in ("lab", "equal_forgetting", "modern_methods")},
    "real_model": {"profile": "lab"},  # SmolLM2 is not here: the same code on the lab's model
    "engine": {"measures": "invariance", "methods": "ga"},
}
# Those that compute always, or make their own models, have tests of their own.
EXPERIMENTS = [p.stem for p in TEMPLATES if p.stem not in ("step_by_step", "open_in_colab")]
# Benchmarks and searches leave files of their own; the others leave records of runs.
NO_RUNS = {"data", "engine"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, in which whatever is computed ends."""
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("UNLEARN_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "runs"


def records(folder: Path, kind: str = "run") -> dict[str, Record]:
    """The records below a folder, by key."""
    found = {}
    for root in {path.parent.parent.parent for path in folder.rglob("records/??/*.json")}:
        one = Store(root)
        found.update({r.key: r for r in map(one.get, one.keys()) if r.kind == kind})
    return found


def parameters(name: str, **changes: Any) -> dict[str, Any]:
    """The parameters of a notebook at a scale of seconds, all of it computed anew."""
    text = code(NOTEBOOKS / f"{name}.ipynb")
    given = {**SMALL, "compute": "fresh", **OWN_PARAMETERS.get(name, {}), **changes}
    return {n: v for n, v in given.items() if f"\n{n} = " in text}


# Of the lab's documents it is not known how often they were read, until they are the stream's.
UNREAD = pytest.mark.skipif(get_profile("lab").corpus != "stream", reason="no known exposure")
# The engine's measures invariance in processes of its own, which takes a minute and a half.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("engine",)]


COMPUTING = [
    *(n for n in EXPERIMENTS if n not in ("engine", "exposure")),
    pytest.param("exposure", marks=UNREAD),
    *SLOW,
]


@pytest.mark.parametrize("name", COMPUTING)
def test_a_notebook_computes_what_it_shows(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = shown(name, parameters(name), monkeypatch)
    runs = records(store)
    assert bool(runs) == (name not in NO_RUNS)
    if name != "engine":
        assert len(records(store, "score")) == 2  # vanilla and the retrained model
    else:
        assert list(store.rglob("benchmarks/invariance.json"))
    specs = [RunSpec.from_dict(record.spec) for record in runs.values()]
    asked = parameters(name)["methods"].split(",")
    assert {spec.method for spec in specs} <= set(asked)
    assert {spec.domain for spec in specs} <= {"books"}
    figures = sum("<figure" in page for page in pages)
    wanted = len(set((tmp_path / "figures").glob("*.svg")))
    assert (figures and wanted >= figures) or sum("<table" in page for page in pages)
    assert any("Computed on " in page for page in pages)
    # The lab's model is published by nobody else: its chapter says that this study cannot be run.
    left_out = ["`published`"] if name == "real_model" else []
    told = [page for page in pages if "cannot be computed" in page]
    assert len(told) == len(left_out) and all(x in t for x, t in zip(left_out, told, strict=True))
    if runs:  # a part of the documents is not what is published
        assert any("there is nothing to compare with" in page for page in pages)


def test_papermill_runs_an_experiment_and_another_value_is_another_run(
    store: Path, tmp_path: Path
) -> None:
    """Through the command, a kernel and papermill; what is there already is not computed again."""
    out = tmp_path / "out.ipynb"
    words = ["notebook", "trajectories", "--out", str(out), "--force", "--quiet"]
    given = {**SMALL, "compute": "missing", "methods": "ga", "limits": "forget=3,retain=3"}
    for name, value in {**given, "updates": 1}.items():
        words += ["-p", name, str(value)]
    assert main(words) == 0
    first = records(store)
    assert [r.spec["updates"] for r in first.values()] == [1]
    notebook = nbformat.read(out, as_version=4)
    assert "input_path" not in notebook.metadata["papermill"]
    assert str(tmp_path) not in out.read_text(encoding="utf-8").replace(str(out), "")
    html = [
        o.data["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for o in cell.outputs
        if "text/html" in o.get("data", {})
    ]
    assert any("<figure" in page for page in html)
    assert main([*words, "-p", "rates", "1e-3"]) == 2  # given twice
    words[words.index("updates") + 1] = "2"
    assert main(words) == 0
    assert sorted(r.spec["updates"] for r in records(store).values()) == [1, 2]


def test_a_command_goes_on_as_it_was_given_and_loses_no_result(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left is replaced by the same command, and by nothing else without --force."""
    import papermill

    ends: list[BaseException | None] = []

    def execute(source: str, out: str, parameters: dict[str, Any], **how: Any) -> None:
        assert Path(out).suffix == ".ipynb"  # papermill warns of any other
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["papermill"] = {"input_path": source, "parameters": parameters}
        nbformat.write(notebook, out)
        if (end := ends.pop(0)) is not None:
            raise end

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    out, other = tmp_path / "out.ipynb", tmp_path / "out-unfinished.ipynb"
    words = ["notebook", "cost", "--out", str(out), "-p", "domains", "books", "-p", "workers", "2"]
    ends[:] = [KeyboardInterrupt(), None, None]
    assert main(words) == 130 and out.exists()
    assert main(words) == 0 and main(words) == 0
    assert main([*words, "-p", "seeds", "1"]) == 2  # another command
    whole = out.read_bytes()
    ends[:] = [KeyboardInterrupt(), KeyboardInterrupt()]
    assert main([*words, "-p", "seeds", "1", "--force"]) == 130 and main(words) == 130
    assert out.read_bytes() == whole and other.exists()
    assert sorted(p.name for p in tmp_path.glob("*.ipynb")) == [other.name, out.name]
    out.write_bytes(whole.replace(b"# Cost", b"# My cost"))
    assert main(words) == 2 and b"My cost" in out.read_bytes()
    assert main([*words[:3], str(tmp_path), "--force"]) == 2  # a folder
    monkeypatch.setattr("unlearnlib.cli.notebook.notebooks_folder", lambda: tmp_path)
    out.rename(tmp_path / "cost.ipynb")
    assert main(["notebook", "cost", "--out", str(tmp_path / "cost.ipynb"), "--force"]) == 2
    assert b"My cost" in (tmp_path / "cost.ipynb").read_bytes()


def test_what_cannot_be_computed_is_an_error_of_the_command(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The notebook comes to its end and shows the rest; the command says what it lacks."""
    import papermill
    from IPython import display

    seen: list[Any] = []

    def execute(source: str, out: str, parameters: dict[str, Any], **how: Any) -> None:
        """What a kernel does of it: ask for a study whose texts are not on this machine."""

        def shows(thing: Any, metadata: Any = None) -> None:
            data = {"text/markdown": thing.data}
            seen.append(nbformat.v4.new_output("display_data", data=data, metadata=metadata or {}))

        monkeypatch.setattr(display, "display", shows)
        exhibits.experiment("cost", {**parameters, "device": "cpu"}, "main").study("main")
        notebook = nbformat.read(source, as_version=4)
        notebook.cells[-1] = nbformat.v4.new_code_cell("", outputs=list(seen))
        nbformat.write(notebook, out)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.delenv("UNLEARN_CORPORA", raising=False)
    out = tmp_path / "out.ipynb"
    words = ["notebook", "cost", "--out", str(out), "--quiet"]
    words += ["-p", "profile", "open_cpu", "-p", "methods", "ga", "-p", "updates", "2"]
    assert main([*words, "-p", "compute", "missing"]) == 2
    said = capsys.readouterr().err.strip()
    assert "The study `main` cannot be computed: no folder of public texts is given" in said
    assert said.endswith(f"what could be shown is in {out}.") and "\n" not in said
    assert len(nbformat.read(out, as_version=4).cells[-1].outputs) == len(seen) == 2
    seen.clear()  # what is named and not asked to be computed is no error
    words[words.index(str(out))] = str(tmp_path / "other.ipynb")
    assert main([*words, "-p", "compute", "published"]) == 0 and len(seen) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rat", 3e-4, "unknown parameter 'rat': choose one of rates"),
        ("domain", "books", "unknown parameter 'domain': choose one of domains"),
        ("domains", "book", "unknown domain 'book': choose one of books"),
        ("methods", "gaa", "unknown method 'gaa'"),
        ("rates", "fast", "rates has the value 'fast': give numbers."),
        ("rates", [], "rates is []: give at least one value"),
        ("rates", -1, "learning_rate is -1.0: give a number that is not negative."),
        ("seeds", 1.5, "seeds has the value 1.5: give whole numbers."),
        ("seeds", True, "seeds has the value True: give whole numbers."),
        ("compute", "all", "unknown value of compute 'all': choose one of"),
        ("workers", 0, "workers is 0: give a whole number above 0."),
        ("workers", 1.5, "workers is 1.5: give a whole number above 0."),
        ("budget_minutes", "soon", "budget_minutes is 'soon': give a number above 0."),
        ("limits", "forget", "limits is 'forget': give numbers of documents by split"),
        ("limits", "forget=3,forget=4", "limits is 'forget=3,forget=4': give each split once."),
        ("limits", {"forget": True}, "limits is {'forget': True}: give numbers of documents"),
        ("rates", "[1e-4", "rates is '[1e-4', which begins as a list or dictionary of Python"),
        ("corpora", "/nowhere", "corpora is '/nowhere': give a folder that is there, or None."),
        ("corpora", 3, "corpora is 3: give a folder that is there, or None."),
        ("limits", {"forgot": 3}, "forgot"),
        ("profile", "lap", "unknown profile 'lap': choose one of lab"),
        ("device", "gpu", "unknown device 'gpu'"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(
    name: str, value: Any, said: str, store: Path
) -> None:
    for compute in ("published", "missing"):
        given = {"compute": compute, "limits": LIMITS, "domains": "books", name: value}
        with pytest.raises(UnlearnError) as error:
            open_experiment("learning_rates", given, "rates")
        assert str(error.value).startswith(said) or said in str(error.value)
        assert "\n" not in str(error.value) and not store.exists()


def test_a_list_is_read_as_it_is_shown(store: Path) -> None:
    """`--show` writes lists and dictionaries as Python has them: -p takes them so."""
    asked = {"domains": "['books']", "rates": "[1e-4, 7e-4]", "limits": '{"forget": 8}'}
    experiment, _ = opened(**asked)
    assert experiment.domains == ("books",) and experiment.limits == {"forget": 8}
    assert experiment.asked.rates == (1e-4, 7e-4)
    assert experiment.asked == opened(rates="1e-4,7e-4")[0].asked
    assert opened(limits={})[0].counts_published  # no limits are no limits


def test_the_default_domains_are_those_of_the_command_line_and_the_rest_is_told(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    experiment = open_experiment("cost", {"profile": "paper"}, "main", tell=told.append)
    with caplog.at_level("INFO"):
        assert experiment.domains == arguments.chosen_domains("paper", None) == ("arxiv", "github")
    (said,) = told
    assert "books is left out at the profile 'paper'" in said and "--domain books" in said
    assert said.strip("*") in caplog.text
    given = {"profile": "paper", "domains": "books"}
    assert open_experiment("cost", given, "main", tell=told.append).domains == ("books",)
    assert len(told) == 1
    for profile in sorted(set(PROFILES) - {"paper"}):
        assert default_domains(profile) == PROFILES[profile].domains and not left_out(profile)


@pytest.mark.parametrize("value", [0.25, "linear a", "linear 0.5 3", [["linear"], 3], [None]])
def test_a_schedule_that_is_none_is_one_sentence(value: Any, store: Path) -> None:
    with pytest.raises(UnlearnError) as error:
        open_experiment("sensitivity", {"domains": "books", "schedules": value}, "schedules")
    assert "\n" not in str(error.value)


def test_no_more_workers_start_than_there_are_cores_and_runs(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)
    experiment, told = opened(workers=50, compute="missing", limits=LIMITS, rates=1e-4)
    assert experiment.workers == 2 and "this machine has 2 cores: 2 compute" in told[-1]
    made: list[Work] = []
    monkeypatch.setattr(work, "compute", lambda one, *_, **__: made.append(one))
    monkeypatch.setattr(work.subprocess, "Popen", None)  # with one run, no other process starts
    experiment.study("rates")
    assert len(made) == 1


@pytest.mark.parametrize("study", sorted(STUDIES))
def test_a_study_takes_values_in_place_of_its_own(study: str) -> None:
    """And is what it was without any; the key of a run knows of no grid."""
    own = STUDIES[study].runs("lab", "books")
    assert own and STUDIES[study].runs("lab", "books", Asked()) == own
    asked = Asked(methods=("ga",), seeds=(7, 8), rates=(1e-5, 2e-5), updates=(4,))
    specs = STUDIES[study].runs("lab", "books", asked)
    assert specs and {s.method for s in specs} == {"ga"} and {s.seed for s in specs} == {7, 8}
    scale = 4 if study == "sequential" else 1
    assert {round(s.learning_rate * scale, 9) for s in specs} == {1e-5, 2e-5}
    assert not set(specs) & set(own)
    if (axis := STUDIES[study].axis) is not None:
        values = {
            "schedules": [("linear", 0.5)],
            "bases": ["second"],
            "lengths": [40],
        }.get(axis, [3])
        one = STUDIES[study].runs("lab", "books", Asked(**{axis: values}))  # type: ignore[arg-type]
        assert 0 < len(one) < len(own) or axis == "bases"  # of which the lab has one
        assert one != own
    other = "sizes" if STUDIES[study].axis != "sizes" else "requests"
    with pytest.raises(UnlearnError, match=f"{other} is given, and study '{study}' does not vary"):
        STUDIES[study].runs("lab", "books", Asked(**{other: (1,)}))


def opened(**given: Any) -> tuple[Experiment, list[str]]:
    """An experiment of the chapter on learning rates, and what it tells."""
    told: list[str] = []
    given = {"domains": "books", "methods": "ga", "device": "cpu", **given}
    return open_experiment("learning_rates", given, "rates", tell=told.append), told


def test_what_is_not_recorded_is_named_with_its_time_and_its_command(store: Path) -> None:
    experiment, told = opened(rates=[1e-4, 7e-4])
    found = experiment.study("rates")
    assert [r.spec["learning_rate"] for r in found.records] == [1e-4]  # the nearest is not shown
    (state,) = told
    assert "1 of 2 runs are not recorded" in state and "learning rate 0.0007" in state
    assert "-p rates 0.0001,0.0007 -p compute missing`" in state and "They take about " in state
    assert not store.exists()
    experiment.study("rates")
    assert len(told) == 1  # it is told once


def test_all_that_is_asked_is_recorded_and_nothing_is_told(store: Path) -> None:
    experiment, told = opened(rates=1e-4)
    found = experiment.study("rates")
    assert len(found.records) == 1 and len(found.baselines) == 2 and told == []
    assert "-p compute fresh" in found.source.command and found.source.took
    assert list(found.source.records) == [*found.records, *found.baselines]


def test_what_is_missing_is_computed_once_and_a_budget_ends_it(store: Path) -> None:
    given = {"rates": [3e-4], "updates": [1, 2], "limits": LIMITS, "compute": "missing"}
    experiment, told = opened(budget_minutes=1e-9, **given)
    assert experiment.study("rates").records == []
    assert "2 of 2 runs of the study `rates` are not computed yet" in told[-1]
    experiment, told = opened(**given)
    assert "2 runs in float32 have no record yet" in told[0] and told[0].startswith("Computed on ")
    assert len(experiment.study("rates").records) == 2 and len(told) == 1
    times = {p: p.stat().st_mtime_ns for p in store.rglob("records/??/*.json")}
    again, told = opened(**given)
    assert len(again.study("rates").records) == 2 and "All runs are recorded" in told[0]
    assert times == {p: p.stat().st_mtime_ns for p in store.rglob("records/??/*.json")}


@pytest.mark.slow
def test_several_processes_share_the_runs(store: Path) -> None:
    given = {"rates": [1e-4, 3e-4], "updates": [1, 2], "limits": LIMITS, "compute": "missing"}
    experiment, _ = opened(workers=2, **given)
    assert len(experiment.study("rates").records) == 4


def test_what_a_process_is_told_arrives_as_it_was() -> None:
    asked = Asked(methods=("ga",), rates=(1e-4,), schedules=(("linear", 0.5),))
    work = Work("rates", "lab", ("books",), asked, "runs", limits={"forget": 3}, deadline=1.5)
    assert parse(json.dumps(dataclasses.asdict(work))) == work


def test_fresh_records_are_held_against_the_published_ones(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of the lab, whole: it agrees; and a record that was changed is named."""
    experiment, told = opened(rates=3e-4, compute="fresh")
    found = experiment.study("rates")
    assert "3 of 3 that are published agree with it" in found.source.footer
    assert "1 run in float32 has no record yet" in told[0]
    (record,) = found.records
    changed = compare(record, _with(record, "forget/perplexity", 2.0))
    assert not changed.agrees
    words = agreement_in_words([changed], 1)
    assert "0 of 1" in words and "forget/perplexity was" in words and record.key[:12] in words


def _with(record: Record, metric: str, factor: float) -> Record:
    metrics = {**record.metrics, metric: record.metrics[metric] * factor}
    return dataclasses.replace(record, metrics=metrics)


def test_code_that_changed_computes_again(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    experiment, _ = opened(compute="fresh")
    monkeypatch.setattr(module, "code_state", lambda: "0" * 12)
    other, _ = opened(compute="fresh")
    assert experiment.store.root != other.store.root


def test_the_time_of_runs_follows_from_those_that_are_recorded() -> None:
    whole = STUDIES["rates"].runs("lab", "books")
    one = seconds_recorded(whole[0])
    assert one is not None and 2 < one < 200
    probed = seconds_recorded(whole[0].replace(probe_every=1))
    assert probed is not None and probed > one
    told = effort_of(whole, "cpu")
    assert told.seconds is not None and told.seconds > 10 * one
    assert "They take about" in str(told) and "recorded" in str(told)
    planned = effort_of(whole[:1], "cpu", LIMITS)
    assert planned.seconds is not None and "by the plan" in str(planned)
    twice = effort_of([whole[0].replace(updates=2 * whole[0].updates)], "cpu", LIMITS)
    assert twice.seconds is not None and twice.seconds > planned.seconds


def test_a_run_that_may_stop_is_taken_to_make_all_of_its_updates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And of one that was recorded those count that it made."""
    spec = STUDIES["rates"].runs("lab", "books")[0]
    along, stops = spec.replace(probe_every=1), spec.replace(stop="retrained")
    assert seconds_recorded(stops) == seconds_recorded(along)
    recorded = read_parquet(data_folder() / "results" / "lab-trajectory.parquet")[:1]
    looks = int(recorded[0].spec["updates"]) + 1
    short = dataclasses.replace(
        recorded[0],
        spec=stops.replace(updates=32).as_dict(),
        trajectory=recorded[0].trajectory[:4],  # the probe before the first update, and three
        provenance={"seconds": 8.0},
    )
    monkeypatch.setattr(effort, "_published_runs", lambda profile: (short,))
    assert seconds_recorded(stops.replace(updates=looks - 1)) == pytest.approx(2.0 * looks)
    assert seconds_recorded(stops.replace(updates=32)) == pytest.approx(2.0 * 33)


def test_the_searches_of_the_guidelines_are_those_that_are_published() -> None:
    experiment, told = opened(domains=None, methods=None)
    found = experiment.searches()
    assert len(found) == len(usual_searches("lab")) and found[0].design and told == []
    assert sum(search.design for search in found) == 1
    other, told = opened(methods=None, seeds=5)
    assert other.searches() == [] and "searches are not recorded" in told[0]


def test_two_searches_are_the_same_where_their_runs_are() -> None:
    one, *_ = load_searches("lab")
    assert one.steps and same_search(one, one)
    step = one.steps[0]
    for changed in (
        dataclasses.replace(step, learning_rate=step.learning_rate * 2),
        dataclasses.replace(step, path=(*step.path[:-1], step.path[-1] * 1.01)),
        dataclasses.replace(step, updates=step.updates + 1),
    ):
        assert not same_search(one, dataclasses.replace(one, steps=(changed, *one.steps[1:])))
    assert not same_search(one, dataclasses.replace(one, ending="another"))


def test_the_command_lists_notebooks_and_their_parameters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["notebook", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["notebooks"]
    assert [row["name"] for row in listed] == [path.stem for path in TEMPLATES]
    assert main(["notebook", "learning_rates", "--show", "--json"]) == 0
    shown_parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert tuple(shown_parameters) == known_parameters(["rates"])
    assert main(["notebook", "learning_rate"]) == 2
    assert "unknown notebook 'learning_rate': choose one of learning_rates" in (
        capsys.readouterr().err
    )
    assert main(["notebook", "learning_rates", "-p", "rate", "1"]) == 2
    assert "unknown parameter 'rate': choose one of rates" in capsys.readouterr().err


def test_an_executed_notebook_replaces_no_file_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.ipynb"
    out.write_text("mine")
    assert main(["notebook", "cost", "--out", str(out)]) == 2
    assert "exists: give another name, or --force" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_worker_ends_with_the_process_that_started_it(store: Path) -> None:
    """However that ends: the pipe between them is closed."""
    told = Work("rates", "lab", ("books",), Asked(methods=("ga",)), str(store), device="cpu")
    worker = subprocess.Popen(
        [sys.executable, "-m", "unlearnlib.experiment.work"], stdin=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(dataclasses.asdict(told)) + "\n")
    worker.stdin.close()
    assert worker.wait(60) == -signal.SIGTERM
    assert not records(store)
