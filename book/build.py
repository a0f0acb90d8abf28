"""Executes the notebooks and builds the book: what `make book` runs.

Every template `notebooks/NAME.ipynb` is run by papermill, with its own default parameters and
the repository's root as working directory, into `book/_run/NAME.ipynb`; Jupyter Book then makes
HTML of the chapters and of those results, and a warning is an error. A notebook is run again
only when something that it can depend on has changed: its template, the library, the published
data or the locked requirements. Their hash is kept beside each result.

    python book/build.py [--force] [--only NAME] [--no-html]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "notebooks"
RESULTS = ROOT / "book" / "_run"
HTML = ROOT / "_build" / "html"


def shared_inputs() -> Iterator[Path]:
    """The files that every notebook can depend on, in a fixed order."""
    yield ROOT / "requirements.lock"
    for folder in (ROOT / "unlearnlib", ROOT / "data", ROOT / "benchmarks" / "results"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) over the names and contents of `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def execute(template: Path, result: Path) -> None:
    """Runs one template into `result`; raises papermill's error for the cell that failed."""
    import papermill

    papermill.execute_notebook(
        str(template),
        str(result),
        cwd=str(ROOT),
        kernel_name="python3",
        # A bar helps whoever watches; in a log it is noise.
        progress_bar=sys.stderr.isatty(),
    )


def execute_changed(templates: list[Path], *, force: bool) -> None:
    """Runs the templates whose inputs changed since their last run (all of them with `force`)."""
    from papermill.exceptions import PapermillExecutionError

    RESULTS.mkdir(parents=True, exist_ok=True)
    shared = list(shared_inputs())
    for number, template in enumerate(templates, start=1):
        result = RESULTS / template.name
        stamp = RESULTS / f"{template.stem}.sha256"
        inputs = fingerprint([template, *shared])
        line = f"[{number}/{len(templates)}] {template.stem}"
        if not force and result.is_file() and stamp.is_file() and stamp.read_text() == inputs:
            print(f"{line}: unchanged", flush=True)
            continue
        # Without a stamp, a run that fails or is interrupted is never taken for a finished one.
        stamp.unlink(missing_ok=True)
        print(f"{line}: running", flush=True)
        start = time.monotonic()
        try:
            execute(template, result)
        except PapermillExecutionError as error:
            raise SystemExit(
                f"{error}\n{template.relative_to(ROOT)}: the cell In [{error.exec_count}] failed "
                f"with {error.ename}; the run up to there is {result.relative_to(ROOT)}."
            ) from None
        stamp.write_text(inputs)
        print(f"{line}: {time.monotonic() - start:.0f} s", flush=True)


def remove_orphans(templates: list[Path]) -> None:
    """Deletes results whose template is gone, so that the book cannot show them."""
    names = {template.stem for template in templates}
    for path in RESULTS.glob("*"):
        if path.suffix in {".ipynb", ".sha256"} and path.stem not in names:
            path.unlink()


def build_html() -> None:
    """Builds the HTML from scratch; any warning of Sphinx fails the build."""
    # An incremental build reports no warning for a page that it does not read again, so a second
    # try after a failed one would pass.
    shutil.rmtree(HTML.parent, ignore_errors=True)
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(program), "build", ".", "--all", "-W", "-n", "--keep-going"]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit("The book was not built: each warning above counts as an error.")


def main() -> None:
    """Parses the command line, runs what is needed, says where the book is."""
    parser = argparse.ArgumentParser(description="Execute the notebooks and build the book.")
    parser.add_argument("--force", action="store_true", help="run notebooks that did not change")
    parser.add_argument("--only", action="append", metavar="NAME", help="run these notebooks only")
    parser.add_argument("--no-html", action="store_true", help="run the notebooks, build nothing")
    arguments = parser.parse_args()

    templates = sorted(TEMPLATES.glob("*.ipynb"))
    remove_orphans(templates)
    chosen = templates
    if arguments.only:
        names = [template.stem for template in templates]
        for name in arguments.only:
            if name not in names:
                parser.error(f"unknown notebook {name!r}: choose of {', '.join(names)}.")
        chosen = [template for template in templates if template.stem in arguments.only]
    # The book is made of what the repository holds; a hub that does not answer must not slow it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    execute_changed(chosen, force=arguments.force)
    if not arguments.no_html:
        build_html()
        print(f"\nThe book: {HTML / 'index.html'}")


if __name__ == "__main__":
    main()
