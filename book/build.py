"""Executes the notebooks and builds the book: what `make book` runs.

Every template `notebooks/NAME.ipynb` is run by papermill, with its own default parameters and
the repository's root as working directory, into `book/_run/NAME.ipynb`; Jupyter Book then makes
HTML of the chapters and of those results, and a warning is an error. A notebook is run again
only when something that it can depend on has changed: its template, the library, the published
data, the records of the local store or the locked requirements. Their hash is kept beside each
result. As many notebooks run at a time as there are cores, four at most.

    python book/build.py [--force] [--only NAME] [--jobs N] [--no-html | --single-page | --pdf]

With `--single-page` the book is one page, `_build/singlehtml/index.html`, and with `--pdf` that
page is also printed to `_build/book.pdf` by a Chromium, Chrome or Edge of this machine, which
$CHROMIUM names where it is not found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType

from unlearnlib.experiment.parameters import cell_of, failures_in

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "notebooks"
RESULTS = ROOT / "book" / "_run"
HTML = ROOT / "_build" / "html"
SINGLE = ROOT / "_build" / "singlehtml"
PDF = ROOT / "_build" / "book.pdf"
# What the pages may weigh, in bytes: all of the book, and the HTML of one page with what is in it.
HEAVIEST_BOOK, HEAVIEST_PAGE = 15_000_000, 700_000
NOTHING: Mapping[str, str] = MappingProxyType({})  # given to the notebooks
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def shared_inputs() -> Iterator[Path]:
    """The files that every notebook can depend on, in a fixed order."""
    yield ROOT / "requirements.lock"
    for folder in (ROOT / "unlearnlib", ROOT / "data", ROOT / "benchmarks" / "results"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def local_records() -> list[str]:
    """The names of the records in the local store: a chapter shows those that no study published.

    A record's name is the hash of what it is of, and it is never rewritten. See
    `study.default_store`; the notebooks run in the repository's root.
    """
    store = ROOT / os.environ.get("UNLEARN_STORE", "runs")
    return sorted(path.name for path in store.glob("records/??/*.json"))


def fingerprint(paths: Iterable[Path], records: Iterable[str] = ()) -> str:
    """SHA-256 (hex) over the names and contents of `paths`, and the names of `records`."""
    digest = hashlib.sha256()
    for name in records:
        digest.update(f"{name}\0".encode())
    for path in paths:
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def execute(
    template: Path, result: Path, given: Mapping[str, str] = NOTHING, *, progress: bool = False
) -> None:
    """Runs one template into `result`, with those of the parameters given that it has.

    Raises papermill's error for the cell that failed.
    """
    import papermill

    known = cell_of(template)
    papermill.execute_notebook(
        str(template),
        str(result),
        parameters={name: value for name, value in given.items() if name in known},
        cwd=str(ROOT),
        kernel_name="python3",
        progress_bar=progress,
    )


def default_jobs() -> int:
    """How many notebooks run at a time: one a core, four at most (each takes up to 1 GB)."""
    return max(1, min(4, os.cpu_count() or 1))


def execute_changed(
    templates: list[Path], given: Mapping[str, str] = NOTHING, *, force: bool, jobs: int = 1
) -> None:
    """Runs the templates whose inputs changed since their last run (all of them with `force`).

    What is `given` are parameters of the notebooks, and inputs as well.

    `jobs` run at a time. When one fails, those that have not begun are left out.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    shared = list(shared_inputs())
    names = [*local_records(), *(f"{name}={value}" for name, value in sorted(given.items()))]
    due: list[tuple[str, Path, str]] = []  # the beginning of its line, the template, its inputs
    for number, template in enumerate(templates, start=1):
        stamp = RESULTS / f"{template.stem}.sha256"
        inputs = fingerprint([template, *shared], names)
        line = f"[{number}/{len(templates)}] {template.stem}"
        done = (RESULTS / template.name).is_file() and stamp.is_file()
        if not force and done and stamp.read_text() == inputs:
            print(f"{line}: unchanged", flush=True)
        else:
            due.append((line, template, inputs))
    # Kernels with a thread for every core, beside each other, would wait for one another.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    failed = threading.Event()

    def run_next(line: str, template: Path, inputs: str) -> None:
        if failed.is_set():
            return
        try:
            execute_one(line, template, inputs, given, alone=jobs == 1)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run_next, *each) for each in due]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException as error:
            failed.set()
            if isinstance(error, KeyboardInterrupt):
                print("interrupted: the notebooks that are running end first", file=sys.stderr)
            raise


def execute_one(
    line: str, template: Path, inputs: str, given: Mapping[str, str] = NOTHING, *, alone: bool
) -> None:
    """Runs one template and leaves the hash of its inputs; says when, and how long it took."""
    from papermill.exceptions import PapermillExecutionError

    result, stamp = RESULTS / template.name, RESULTS / f"{template.stem}.sha256"
    # Without a stamp, a run that fails or is interrupted is never taken for a finished one.
    stamp.unlink(missing_ok=True)
    print(f"{line}: running", flush=True)
    start = time.monotonic()
    try:
        # A bar helps whoever watches one notebook; in a log, or beside others, it is noise.
        execute(template, result, given, progress=alone and sys.stderr.isatty())
    except PapermillExecutionError as error:
        raise SystemExit(
            f"{error}\n{template.relative_to(ROOT)}: the cell In [{error.exec_count}] failed "
            f"with {error.ename}; the run up to there is {result.relative_to(ROOT)}."
        ) from None
    for said in failures_in(json.loads(result.read_text(encoding="utf-8"))):
        print(f"{line}: {said}", flush=True)  # the page says it, too
    stamp.write_text(inputs)
    print(f"{line}: {time.monotonic() - start:.0f} s", flush=True)


def of_the_book(templates: list[Path]) -> list[Path]:
    """Those that are pages of the book, by its table of contents; one that trains for half an hour
    is not."""
    pages = set(re.findall(r"book/_run/(\w+)", (ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return [template for template in templates if template.stem in pages]


def remove_orphans(templates: list[Path]) -> None:
    """Deletes results whose template is gone, so that the book cannot show them."""
    names = {template.stem for template in templates}
    for path in RESULTS.glob("*"):
        if path.suffix in {".ipynb", ".sha256"} and path.stem not in names:
            path.unlink()


def build_html(builder: str = "html") -> None:
    """Builds the HTML from scratch; any warning of Sphinx fails the build.

    builder  "html" for a page per chapter, "singlehtml" for the book as one page
    """
    # An incremental build reports no warning for a page that it does not read again, so a second
    # try after a failed one would pass.
    for folder in (HTML.parent / builder, HTML.parent / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(program), "build", ".", "--all", "-W", "-n", "--keep-going"]
    command += ["--builder", builder]
    # The book's extensions use the package: that of this checkout, wherever another is installed.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode:
        raise SystemExit("The book was not built: each warning above counts as an error.")


def too_heavy(folder: Path) -> list[str]:
    """What in a built book weighs more than it may, each in a sentence."""
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    found = [
        f"{name} has {size / 1e3:,.0f} kB, more than {HEAVIEST_PAGE / 1e3:,.0f}: show less on it, "
        "or as files beside it."
        for name, size in sizes.items()
        if name.endswith(".html") and size > HEAVIEST_PAGE
    ]
    if (total := sum(sizes.values())) > HEAVIEST_BOOK:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        found.append(
            f"The book has {total / 1e6:.1f} MB, more than {HEAVIEST_BOOK / 1e6:.0f}; its largest "
            f"files are {', '.join(f'{name} ({sizes[name] / 1e3:,.0f} kB)' for name in largest)}."
        )
    return found


def find_browser() -> str | None:
    """The program of a browser that can print to PDF, or None: $CHROMIUM, else a usual one."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def print_pdf(page: Path, pdf: Path, browser: str) -> None:
    """Prints a page to PDF once its equations are set; says in one sentence why it cannot."""
    pdf.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # it refuses to start as root with one
        command += [
            "--no-pdf-header-footer",
            "--generate-pdf-document-outline",
            # Milliseconds of the page's own clock, which runs as fast as the page is ready.
            "--virtual-time-budget=120000",
            f"--print-to-pdf={pdf}",
            page.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SystemExit(f"{browser} did not print the book: {error}.") from None
    if done.returncode or not pdf.is_file():
        raise SystemExit(f"{browser} did not print the book (it exited with {done.returncode}).")


def main() -> None:
    """Parses the command line, runs what is needed, says where the book is."""
    parser = argparse.ArgumentParser(description="Execute the notebooks and build the book.")
    parser.add_argument("--force", action="store_true", help="run notebooks that did not change")
    parser.add_argument("--only", action="append", metavar="NAME", help="run these notebooks only")
    parser.add_argument(
        "--jobs", type=int, metavar="N", default=default_jobs(), help="notebooks at a time"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--no-html", action="store_true", help="run the notebooks, build nothing")
    what.add_argument("--single-page", action="store_true", help="build the book as one page")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every notebook that has it, as in -p compute missing",
    )
    what.add_argument("--pdf", action="store_true", help="print it to PDF as well (needs Chromium)")
    arguments = parser.parse_args()

    given = dict(arguments.parameters)
    templates = sorted(TEMPLATES.glob("*.ipynb"))
    known = {name for template in templates for name in cell_of(template)}
    for name in given:
        if name not in known:
            parser.error(f"unknown parameter {name!r}: choose of {', '.join(sorted(known))}.")
    if arguments.jobs < 1:
        parser.error(f"--jobs is {arguments.jobs}: give at least 1.")
    browser = find_browser() if arguments.pdf else None
    if arguments.pdf and browser is None:
        raise SystemExit(
            "There is no browser to print the book with: install Chromium or Chrome, name one as "
            "in CHROMIUM=/path/to/chrome make pdf, or print the page of make single-page yourself."
        )
    templates = of_the_book(sorted(TEMPLATES.glob("*.ipynb")))
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
    execute_changed(chosen, given, force=arguments.force, jobs=arguments.jobs)
    if arguments.single_page or arguments.pdf:
        build_html("singlehtml")
        print(f"\nThe book as one page: {SINGLE / 'index.html'}")
        if browser is not None:
            print_pdf(SINGLE / "index.html", PDF, browser)
            print(f"The book as PDF: {PDF}")
    elif not arguments.no_html:
        build_html()
        if heavy := too_heavy(HTML):
            raise SystemExit("\n".join(heavy))
        print(f"\nThe book: {HTML / 'index.html'}")


if __name__ == "__main__":
    main()
