"""`unlearn tune` on domains and seeds that its design did not see: one line of JSON per search.

    python benchmarks/tuning.py data/results/lab-tuning.jsonl
    python benchmarks/tuning.py data/results/open_cpu-tuning.jsonl --profile open_cpu \\
        --corpora FOLDER --trace FOLDER

The procedure was designed on the domain arxiv of the lab with seed 100. What is there already is
not run again, and with --trace a search that was interrupted goes on, so a call can be repeated.
The book compares the lines with the full grid and with random search, both from the records of the
study robust_region.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from unlearnlib.bench import Selection, open_bench
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.experiment.searches import by_domain, make_search, usual_searches
from unlearnlib.store import manifest
from unlearnlib.study.searches import read_searches


def main() -> None:
    """Run the searches that the file lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a file of lines, which grows")
    parser.add_argument("--profile", default="lab")
    parser.add_argument("--corpora", help="local copy of the public texts")
    parser.add_argument("--trace", type=Path, help="a folder for what an interrupted search did")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        done = read_searches(arguments.out)
        lacking = [
            wanted
            for wanted in usual_searches(arguments.profile)
            if not any(wanted.fits(search) for search in done)
        ]
        for domain, several in by_domain(lacking):
            bench = open_bench(
                arguments.profile,
                domain,
                selection=Selection(arguments.corpora),
                execution=Execution(progress=False),
            )
            for wanted in several:
                make_search(bench, wanted, arguments.out, arguments.trace)
                if (arguments.out.parent / manifest.NAME).exists():  # it is published
                    manifest.note(arguments.out)
    except UnlearnError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
