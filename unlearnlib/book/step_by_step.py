"""The chapter that follows one run: its losses, its trajectory, and samples of its text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from unlearnlib.book.drawing import (
    baseline_values,
    baselines_in_words,
    course,
    draw_baselines,
    scale_course_axis,
)
from unlearnlib.book.exhibits import exhibit
from unlearnlib.book.records import FORGET
from unlearnlib.experiment.parameters import (
    chosen_device,
    chosen_domains,
    chosen_folder,
    chosen_limits,
    chosen_values,
    command_of,
    one_value,
    positive,
    refuse_unknown,
)
from unlearnlib.figures import DescribedFigure, Layout, add_legend, clamp, figure_function
from unlearnlib.looks import SPLIT_COLOURS, domain_title, method_title
from unlearnlib.store.record import Record
from unlearnlib.text import number, plural

# The notebook's parameters and their defaults.
DEFAULTS: dict[str, Any] = {
    "profile": "lab",
    "domains": "books",
    "methods": "ga_gd_in_dist",
    "seeds": 0,
    "device": "auto",
    "limits": None,
    "corpora": None,
    "rates": None,
    "updates": None,
    "prompt_tokens": 24,
    "new_tokens": 40,
}


@dataclass(frozen=True)
class Asked:
    """The run that the notebook is asked for.

    rate, updates  None: as in the main study
    command        repeats the notebook
    """

    domain: str
    method: str
    seed: int
    rate: float | None
    updates: int | None
    limits: dict[str, int] | None
    command: str


def asked(namespace: Mapping[str, Any]) -> Asked:
    """The notebook's parameters, checked."""
    refuse_unknown(namespace, tuple(DEFAULTS))
    given = {name: namespace.get(name, default) for name, default in DEFAULTS.items()}
    values = chosen_values({n: given[n] for n in ("methods", "seeds", "rates", "updates")})
    domains = chosen_domains(given["profile"], given["domains"])
    chosen_device(given["device"])
    chosen_folder("corpora", given["corpora"])
    for name in ("prompt_tokens", "new_tokens"):
        positive(name, given[name], whole=True)
    changed = {name: given[name] for name, usual in DEFAULTS.items() if given[name] != usual}
    if changed.get("corpora") is not None:  # no folder of this machine is in a command
        changed["corpora"] = "FOLDER"
    return Asked(
        one_value("domains", given["domains"], domains, "books"),
        one_value("methods", given["methods"], values.methods, "ga_gd_in_dist"),
        one_value("seeds", given["seeds"], values.seeds, 0),
        one_value("rates", given["rates"], values.rates, None),
        one_value("updates", given["updates"], values.updates, None),
        chosen_limits(given["limits"]),
        command_of("step_by_step", changed),
    )


def beginning_shared(text: str, truth: str) -> str:
    """HTML of `text` with the words that it begins with as `truth` does in bold."""
    shared = 0
    for ours, true in zip(text, truth, strict=False):
        if ours != true:
            break
        shared += 1
    if shared < min(len(text), len(truth)) or len(text) > len(truth):
        # A word that is shared only in part does not count.
        shared = max(text[:shared].rfind(" "), text[:shared].rfind("\n")) + 1
    head, tail = html.escape(text[:shared]), html.escape(text[shared:])
    return (f"<strong>{head}</strong>" if head.strip() else head) + tail


def samples_html(samples: Iterable[tuple[str, str, Mapping[str, str]]]) -> str:
    """HTML of what models write: for each document its name, the prompt, and continuations.

    samples  (name, prompt, model -> continuation); "truth" is how the document itself goes on
    """
    parts = []
    for name, prompt, continuations in samples:
        truth = continuations.get("truth", "")
        rows = "".join(
            f'<tr><th scope="row" class="text">{html.escape(model)}</th>'
            f'<td class="text"><pre>{beginning_shared(text, truth)}</pre></td></tr>'
            for model, text in continuations.items()
        )
        caption = f"{name}, and how each model goes on"
        shown = (
            f'<div class="table-scroll"><table class="dataframe"><caption>{html.escape(caption)}'
            '</caption><thead><tr><th scope="row" class="text">given</th><td class="text">'
            f"<pre>{html.escape(prompt)}</pre></td></tr></thead><tbody>{rows}</tbody></table></div>"
        )
        parts.append(exhibit(shown, caption, name=f"{name} continued"))
    # Breaks and indentation belong to code and formulas; long lines may still be broken.
    style = "<style scoped>td.text pre {white-space: pre-wrap; margin: 0; padding: 0; border: 0; "
    style += "background: none; color: inherit; text-align: left;}</style>"
    return f"<div>{style}{''.join(parts)}</div>"


def samples(given: Iterable[tuple[str, str, Mapping[str, str]]]) -> Any:
    """`samples_html` as notebooks and the book show it."""
    from IPython.display import HTML

    return HTML(samples_html(given))


def run_in_words(record: Record) -> str:
    """What a run did, in a Markdown sentence, and the command that repeats it."""
    spec, done = record.spec, record.provenance
    memory = done.get("peak_memory_bytes")
    stop = f" It diverged at update {record.diverged_at}." if record.diverged_at else ""
    return (
        f"{method_title(spec['method'])} on {domain_title(spec['domain'])}: {spec['updates']} "
        f"{plural('update', spec['updates'])} of {spec['batch_size']} forget chunks at learning "
        f"rate {spec['learning_rate']:g}; {record.extra.get('tokens', 0):,} tokens went forward "
        f"and backward. With all evaluations it took "
        f"{number(float(done.get('seconds', math.nan)))} seconds on {done.get('device', '?')}"
        + (f", and at most {number(memory / 2**30)} GiB of memory" if memory else "")
        + f".{stop} To repeat it: `{done.get('command', '?')}`."
    )


@figure_function
def loss_terms(record: Record, *, narrow: bool = False) -> DescribedFigure:
    """The two terms of the objective after each update of one run: how they come apart."""
    layout = Layout(narrow)
    figure, (ax,) = layout.grid(1, 3.0)
    said = []
    styles = {"forget": SPLIT_COLOURS["forget"], "retain": SPLIT_COLOURS["approximate"]}
    for name, colour in styles.items():
        updates, values = course(record, name)
        points = [(u, v) for u, v in zip(updates, values, strict=True) if math.isfinite(v)]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        ax.plot(xs, ys, color=colour, marker="o", markersize=4)
        ax.annotate(
            f"{name} term",
            (xs[-1], ys[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
        )
        said.append(f"the {name} term goes from {number(ys[0])} to {number(ys[-1])}")
    ax.margins(x=0.02)
    left, right = ax.get_xlim()
    ax.set_xlim(left, right + 0.2 * (right - left))  # room for the labels
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("update")
    ax.set_ylabel("loss term, nats per token")
    title = method_title(record.spec["method"])
    ax.set_title(f"{title} on {domain_title(record.spec['domain'])}")
    stop = f" It diverged at update {record.diverged_at}." if record.diverged_at else ""
    figure.alt = (
        f"Loss terms of {title} on {domain_title(record.spec['domain'])} after each update: "
        f"{'; '.join(said) or 'no finite loss'}.{stop}"
    )
    return figure


@figure_function
def run_trajectory(
    record: Record, baselines: Iterable[Record], *, narrow: bool = False
) -> DescribedFigure:
    """Perplexities on forget, approximate and general documents after each update of one run."""
    baselines, layout, domain = list(baselines), Layout(narrow), record.spec["domain"]
    figure, (ax,) = layout.grid(1, 3.4, extra=0.2)
    colours = {**SPLIT_COLOURS, "general": "#7a828b"}
    splits = ("forget", "approximate", "general")
    courses = {s: course(record, f"{s}/perplexity") for s in splits}
    known = baseline_values(baselines, domain, FORGET, [record])
    marks = [known["target"], known["oracle"]]
    every = [v for _, values in courses.values() for v in values]
    scale_course_axis(ax, "perplexity", every, marks)
    low, high = ax.get_ylim()
    draw_baselines(ax, "y", baselines, domain, FORGET, [record], ("target", "oracle"))
    said = []
    handles = []
    for split, (updates, values) in courses.items():
        if values:
            inside = [clamp(v, low, high) for v in values]
            ax.plot(updates, inside, color=colours[split], marker="o", markersize=4)
            handles.append(
                Line2D([], [], color=colours[split], marker="o", markersize=4, label=f"{split} set")
            )
            said.append(f"{split} from {number(values[0])} to {number(values[-1])}")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("update")
    ax.set_ylabel("perplexity")
    ax.set_title(f"{method_title(record.spec['method'])} on {domain_title(domain)}")
    add_legend(figure, layout, lines=("target", "oracle"), extra=handles)
    figure.alt = (
        f"Perplexity over updates: {'; '.join(said) or 'no probe'}; "
        f"{baselines_in_words(baselines, domain, FORGET, [record])}."
    )
    return figure
