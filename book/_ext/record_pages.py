"""A Sphinx extension: the origin of every number, one click away.

Each chapter that says from which records its figures and tables were drawn has a page that lists
them: key, spec, command and commit. A number or row of a table leads to its own (`?only=KEYS`),
a figure or table to all of its own (`?of=ANCHOR`); the script `records.js` hides the others.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from exhibits import RECORDS, RESULTS, Exhibit, all_exhibits, in_order, label
from sphinx.application import Sphinx

from unlearnlib.book.exhibits import SHORT
from unlearnlib.looks import domain_title, method_title

Origin = dict[str, Any]


def written(value: Any) -> str:
    """A setting as text: "none" for None, numbers as they are in a command."""
    return "none" if value is None else str(value)


def name_of(origin: Origin) -> str:
    """What a record is of: "arXiv, GA, seed 0"."""
    spec = origin["spec"]
    model = spec.get("baseline") or method_title(str(spec.get("method", origin["kind"])))
    words = [domain_title(str(spec.get("domain", ""))), model]
    words += [f"seed {spec['seed']}"] if "seed" in spec else []
    return ", ".join(filter(None, words))


def place(origin: Origin) -> tuple[Any, ...]:
    """Orders records: by domain, baselines first, by method, by seed, by key."""
    spec = origin["spec"]
    method = str(spec.get("method", ""))
    return str(spec.get("domain", "")), method, int(spec.get("seed") or 0), origin["key"]


def common(origins: Sequence[Origin]) -> Origin:
    """The settings that all runs of these records share; none where there is but one."""
    specs = [origin["spec"] for origin in origins if "method" in origin["spec"]]
    if len(specs) < 2:
        return {}
    first = specs[0]
    return {
        name: value
        for name, value in first.items()
        if all(name in spec and spec[name] == value for spec in specs)
    }


def settings(spec: Origin) -> str:
    """Settings as HTML: "learning_rate 0.0002, updates 12"."""
    shown = ", ".join(f"{name} {written(value)}" for name, value in spec.items())
    return html.escape(shown)


def entry(origin: Origin, shared: Origin, exhibits: Sequence[int], repository: str) -> str:
    """HTML of one record in the list.

    shared    settings that are named once for all
    exhibits  numbers of the figures and tables that it is in
    """
    run = "method" in origin["spec"]
    spec = {k: v for k, v in origin["spec"].items() if not run or k not in shared}
    commit, _, dirty = origin["commit"].partition("-")
    made = []
    if commit:
        address = html.escape(f"{repository}/commit/{commit[:12]}")
        changed = " with changes that were not committed" if dirty else ""
        made.append(f'commit <a href="{address}">{html.escape(commit[:10])}</a>{changed}')
    made += [html.escape(str(origin[name])) for name in ("device",) if origin[name]]
    made += [html.escape(origin["started"][:10])] if origin["started"] else []
    made += [f"{origin['seconds']:.1f} s"] if origin["seconds"] is not None else []
    status = "" if origin["status"] == "done" else f" ({html.escape(origin['status'])})"
    command = f"<p><code>{html.escape(origin['command'])}</code></p>" if origin["command"] else ""
    return (
        f'<li id="{origin["key"][:SHORT]}" data-of="{" ".join(map(str, exhibits))}">'
        f"<p><strong>{html.escape(name_of(origin))}</strong>{status}<br>"
        f"key <code>{origin['key']}</code></p>"
        f"<p>{settings(spec)}</p>{command}<p>{', '.join(made)}</p></li>"
    )


def body(app: Sphinx, chapter: str, found: Sequence[Exhibit]) -> str:
    """HTML of the page that lists the records of a chapter."""
    origins: dict[str, Origin] = {}
    places: dict[str, list[int]] = {}
    contents = []
    title = html.escape(app.env.titles[chapter].astext())
    address = f"../_run/{chapter.removeprefix(RESULTS)}.html"
    for number, exhibit in enumerate(found):
        for origin in exhibit.records:
            origins[origin["key"]] = origin
            places.setdefault(origin["key"], []).append(number)
        anchor = exhibit.anchor
        contents.append(
            f'<li id="of-{anchor}" data-number="{number}">'
            f'<a href="{address}#{anchor}">{html.escape(label(app, exhibit))}</a>: '
            f"{html.escape(exhibit.title)} "
            f'(<a href="?of={anchor}#of-{anchor}">{len(exhibit.records)} of the records</a>)</li>'
        )
    ordered = sorted(origins.values(), key=place)
    if len({origin["key"][:SHORT] for origin in ordered}) < len(ordered):
        raise ValueError(f"two records of {chapter} have keys that begin alike: raise SHORT.")
    shared = common(ordered)
    repository = app.config.html_theme_options["repository_url"]
    alike = f"<p>All runs: {settings(shared)}.</p>" if shared else ""
    listed = "".join(entry(o, shared, places[o["key"]], repository) for o in ordered)
    return (
        f'<h1>Records of “{title}”</h1><p><a href="{address}">Back to the chapter.</a> '
        "A record is what a run leaves behind; its key is the hash of its spec, its data and the "
        "model that it began with. The command computes it again.</p>"
        f'<ul class="records-of">{"".join(contents)}</ul>{alike}'
        '<p class="records-shown" role="status" hidden></p>'
        f'<ol class="records">{listed}</ol>'
    )


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, context, template) of the page of each chapter that has records."""
    if app.builder.name == "singlehtml":
        return
    for chapter in in_order(app.env, app.config.root_doc):
        found = [each for each in all_exhibits(app.env).get(chapter, []) if each.records]
        if found:
            title = f"Records of “{app.env.titles[chapter].astext()}”"
            context = {"title": title, "body": body(app, chapter, found)}
            yield RECORDS + chapter.removeprefix(RESULTS), context, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
