"""`unlearn notebook`: run one of the project's notebooks with parameters, and keep the result."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.cli.arguments import file_to_write, write_output
from unlearnlib.cli.output import Report, columns
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.experiment.parameters import cell_of, refuse_unknown, title_of
from unlearnlib.folders import notebooks_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = "papermill", "ipykernel", "nbformat"


def notebook_command(args: argparse.Namespace) -> Report:
    """Run a notebook with parameters into a file; without a name, list the notebooks."""
    folder = notebooks_folder()
    templates = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    if not templates:
        raise UnlearnError(
            f"there are no notebooks in {str(folder)!r}: install the package whole, or run the "
            "command in a clone of the repository."
        )
    if args.list or args.name is None:
        return _list(templates)
    if args.name not in templates:
        raise unknown("notebook", args.name, templates)
    template, given = templates[args.name], _parameters(args.parameters)
    known = cell_of(template)
    refuse_unknown(given, list(known))
    if args.show:
        return _show(known)
    out = file_to_write(args.out or f"{args.name}.ipynb", "--out", args.force)
    assert out is not None
    started = time.monotonic()
    _run(template, given, out, args.force, quiet=args.quiet)
    seconds = time.monotonic() - started
    values = {"notebook": args.name, "parameters": given, "out": out, "seconds": round(seconds, 1)}
    return Report(values, f"{args.name} ran in {seconds:.0f} s: {out}")


def _list(templates: dict[str, Path]) -> Report:
    """The notebooks that there are, each with its title."""
    rows = [(name, title_of(path)) for name, path in templates.items()]
    values = [{"name": name, "title": title} for name, title in rows]
    return Report({"notebooks": values}, columns(("notebook", "title"), rows))


def _show(known: Mapping[str, tuple[str, str]]) -> Report:
    """A notebook's parameters, each with its default and what it is."""
    rows = [(name, value, note) for name, (value, note) in known.items()]
    values = {name: {"default": value, "note": note} for name, value, note in rows}
    return Report({"parameters": values}, columns(("parameter", "default", "what it is"), rows))


def _parameters(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What -p gives, as papermill reads it: numbers, None and truth values by their look."""
    given: dict[str, Any] = {}
    for name, text in pairs:
        if name in given:
            raise UnlearnError(f"-p gives {name!r} twice: give it once.")
        given[name] = _value(text)
    return given


def _value(text: str) -> Any:
    """A number, None or a truth value for a text that reads like one; else the text."""
    if text in ("None", "True", "False"):
        return {"None": None, "True": True, "False": False}[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _run(template: Path, given: dict[str, Any], out: Path, force: bool, *, quiet: bool) -> None:
    """Execute a template with parameters; the result is written whole, also where a cell fails."""
    try:
        import nbformat
        import papermill
        from papermill.exceptions import PapermillExecutionError
    except ImportError as error:
        raise UnlearnError(
            f"running a notebook needs {', '.join(PARTS)} ({error.name} is missing): install them "
            "with pip install 'unlearnlib[book]'."
        ) from None
    # A kernel finds the package where this process has it, installed or not.
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    partial = out.with_name(f".{out.name}.part")
    try:
        papermill.execute_notebook(
            str(template),
            str(partial),
            parameters=given,
            kernel_name="python3",
            progress_bar=not quiet,
            stdout_file=io.StringIO(),
            stderr_file=io.StringIO() if quiet else sys.stderr,  # the bars of what it computes
            log_output=False,
        )
    except PapermillExecutionError as error:
        failed = f"cell {error.exec_count} of {template.stem} failed ({error.ename}: "
        kept = _keep(partial, out, force, nbformat)
        raise UnlearnError(f"{failed}{str(error.evalue).rstrip('.')}): see {kept}.") from None
    finally:
        if partial.exists():
            _keep(partial, out, force, nbformat)


def _keep(partial: Path, out: Path, force: bool, nbformat: Any) -> Path:
    """Move what papermill wrote into place, without the paths of this machine."""
    notebook = nbformat.read(partial, as_version=4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    write_output(out, nbformat.writes(notebook).encode("utf-8"), "--out", force)
    partial.unlink()
    return out
