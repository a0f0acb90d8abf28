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
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from unlearnlib.bench import Selection, open_bench
from unlearnlib.engine import Execution
from unlearnlib.errors import UnlearnError
from unlearnlib.spec import RunSpec, get_profile
from unlearnlib.study import BATCH
from unlearnlib.tuning import Tuned, search

DESIGN = ("lab", "arxiv", 100)
HELD_OUT = (200, 201, 202)  # seeds; of other profiles the first alone
METHOD = "ga_gd_in_dist"
KEPT = ("forget/perplexity", "general/perplexity", "oracle_kl/forget", "membership/min_k_40/auc")

logger = logging.getLogger("tuning")


def line_of(found: Tuned, domain: str, seed: int, method: str, design: bool) -> dict[str, Any]:
    """A search in one line; `design` says that the procedure was designed on it."""
    best = None if found.best is None else found.steps[found.best]
    record = found.record
    return {
        "domain": domain,
        "seed": seed,
        "method": method,
        "design": design,
        "situation": dataclasses.asdict(found.situation),
        "steps": [dataclasses.asdict(step) for step in found.steps],
        "best": found.best,
        "shortfall": None if best is None else best.shortfall(found.situation),
        "ending": found.ending,
        "before": {name: found.before[name] for name in KEPT if name in found.before},
        "after": record and {n: record.metrics[n] for n in KEPT if n in record.metrics},
        "versions": record and record.provenance["versions"],
    }


def searches(profile: str) -> list[tuple[str, int]]:
    """(domain, seed) of a profile's searches, the design's first."""
    domains = sorted(get_profile(profile).domains)
    if profile != DESIGN[0]:
        return [(domain, HELD_OUT[0]) for domain in domains]
    return [DESIGN[1:], *((d, s) for s in HELD_OUT for d in domains if d != DESIGN[1])]


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
    out, profile = arguments.out, arguments.profile
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        scale = get_profile(profile)
        lines = out.read_text().splitlines() if out.exists() else []
        done = {(line["domain"], line["seed"]) for line in map(json.loads, lines)}
        for domain, seed in searches(profile):
            if (domain, seed) in done:
                continue
            bench = open_bench(
                profile,
                domain,
                selection=Selection(arguments.corpora),
                execution=Execution(progress=False),
            )
            spec = RunSpec(
                profile, domain, METHOD, updates=scale.updates, batch_size=BATCH, seed=seed,
                precision=scale.precision,
            )  # fmt: skip
            found = search(
                bench,
                spec,
                trace=arguments.trace,
                on_proposal=lambda n, p: logger.info("%d: %s", n, p.reason),
            )
            line = line_of(found, domain, seed, METHOD, design=(profile, domain, seed) == DESIGN)
            with out.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    except UnlearnError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
