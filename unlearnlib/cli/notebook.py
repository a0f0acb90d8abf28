"""`unlearn notebook`: run one of the project's notebooks with parameters, and keep the result."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnlib.cli.arguments import file_to_write, write_output
from unlearnlib.cli.output import Report, columns
from unlearnlib.errors import UnlearnError, unknown
from unlearnlib.experiment.parameters import cell_of, failures_in, refuse_unknown, title_of
from unlearnlib.folders import notebooks_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARK = "unlearn"  # in a notebook's metadata: which command made it, and its digest
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
    out = _out(args.out or f"{args.name}.ipynb", template, given, args.force)
    started = time.monotonic()
    _run(template, given, out, args.force or out.exists(), quiet=args.quiet)
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


def _out(name: str, template: Path, given: dict[str, Any], force: bool) -> Path:
    """The file to write. What the same command made before is replaced unless somebody changed it.

    So a command that was interrupted, or whose budget was spent, goes on as it was given.
    """
    path = Path(name)
    if path.is_dir():
        raise UnlearnError(f"--out {name!r} is a folder: give the name of a file.")
    if path.exists() and path.resolve().parent == template.resolve().parent:
        raise UnlearnError(f"--out {name!r} is among the notebooks that are run: give another.")
    mark = _mark_of(path)
    same = mark is not None and (mark["notebook"], mark["parameters"]) == (template.stem, given)
    out = file_to_write(name, "--out", force or same)
    assert out is not None
    if not os.access(out.absolute().parent, os.W_OK):
        raise UnlearnError(f"the folder of --out {name!r} cannot be written: give another name.")
    return out


def _mark_of(path: Path) -> dict[str, Any] | None:
    """What `_keep` wrote into a notebook about itself; None where it is not as it was written."""
    if not path.is_file():  # reading a pipe would wait
        return None
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        mark = notebook["metadata"].pop(MARK)
        return mark if mark["sha256"] == _digest(notebook) and mark["notebook"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(notebook: Mapping[str, Any]) -> str:
    """SHA-256 of a notebook's content."""
    return hashlib.sha256(json.dumps(notebook, sort_keys=True).encode("utf-8")).hexdigest()


def _run(template: Path, given: dict[str, Any], out: Path, replace: bool, *, quiet: bool) -> None:
    """Execute a template with parameters; the result is written whole, also where a cell fails.

    What fails or is interrupted does not take the place of an earlier result, see `_keep`. A study
    that cannot be computed is a failure, though the notebook comes to its end without it.
    """
    try:
        import nbformat  # noqa: F401
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
    # Two commands may have one --out: each writes a file of its own until it has ended.
    folder = tempfile.TemporaryDirectory(prefix="unlearn-notebook-")
    partial = Path(folder.name) / f"{template.stem}.ipynb"
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
            # What it logs of its connection, and of its end, is no concern of a reader.
            extra_arguments=["--log-level=CRITICAL"],
        )
        if failed := failures_in(json.loads(partial.read_text(encoding="utf-8"))):
            kept = _keep(partial, _unfinished(out), template, given, True)
            raise UnlearnError(f"{failed[0].rstrip('.')}: what could be shown is in {kept}.")
        _keep(partial, out, template, given, replace)
    except PapermillExecutionError as error:
        where = f"cell {error.exec_count} of {template.stem} failed ({error.ename}: "
        kept = _keep(partial, _unfinished(out), template, given, True)
        raise UnlearnError(f"{where}{str(error.evalue).rstrip('.')}): see {kept}.") from None
    finally:
        with contextlib.suppress(ValueError):  # the disk was full, and it is no whole notebook
            if partial.exists():
                _keep(partial, _unfinished(out), template, given, True)
        folder.cleanup()


def _unfinished(out: Path) -> Path:
    """Where a notebook goes that did not come to its end: not over an earlier result."""
    paths = (out, *(out.with_name(f"{out.stem}-unfinished{n or ''}.ipynb") for n in range(100)))
    return next((p for p in paths if not p.exists() or (p != out and _mark_of(p))), paths[-1])


def _keep(partial: Path, out: Path, template: Path, given: dict[str, Any], replace: bool) -> Path:
    """Move what papermill wrote into place, without the paths of this machine, and marked."""
    import nbformat

    form: Any = nbformat  # it has no types
    notebook = form.read(partial, as_version=4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    notebook = json.loads(form.writes(notebook))
    mark = {"notebook": template.stem, "parameters": given, "sha256": _digest(notebook)}
    notebook["metadata"][MARK] = mark
    text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_output(out, text.encode("utf-8"), "--out", replace)
    partial.unlink()
    return out
