"""`unlearn tune` on domains and seeds that its design did not see: one line of JSON per search.

    python benchmarks/tuning.py data/results/lab-tuning.jsonl

The procedure was designed on the domain arxiv with seed 100. What is there already is not run
again, so an interrupted call goes on. A figure of the book compares the lines with the full grid
and with random search, both from the records of the study robust_region.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from unlearnlib.engine import Execution
from unlearnlib.run import open_bench
from unlearnlib.spec import RunSpec
from unlearnlib.study import BATCH, UPDATES
from unlearnlib.tune import Tuned, tune

SEARCHES = [("arxiv", 100)] + [(d, s) for s in (200, 201, 202) for d in ("books", "github")]
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


def main() -> None:
    """Run the searches that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(line["domain"], line["seed"]) for line in map(json.loads, lines)}
    for domain, seed in SEARCHES:
        if (domain, seed) in done:
            continue
        bench = open_bench("lab", domain, execution=Execution(progress=False))
        spec = RunSpec("lab", domain, METHOD, updates=UPDATES, batch_size=BATCH, seed=seed)
        found = tune(bench, spec, told=lambda n, p: logger.info("%d: %s", n, p.reason))
        line = line_of(found, domain, seed, METHOD, design=(domain, seed) == SEARCHES[0])
        with out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
