"""The benchmark compares like with like: the plain recipe computes what ours computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LENGTH, QUIET, documents, tiny_llama, tiny_tokenizer

from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.engine import Labelling, Part, Training, keep_original, optimise
from unlearnlib.methods import get_method
from unlearnlib.metrics.membership import attack_scores
from unlearnlib.metrics.perplexity import accuracy, perplexity
from unlearnlib.scoring import score_chunks

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain

    return plain


def chunks_of(name: str, count: int = 4) -> list[Chunk]:
    return cut(documents(name, count), tiny_tokenizer(), LENGTH)


@pytest.mark.parametrize("method", ["ga_gd_in_dist", "ga_kl_in_dist"])
def test_the_plain_recipe_takes_the_same_step(method: str, plain: Any, tmp_path: Path) -> None:
    forget, retain = chunks_of("forget"), chunks_of("retain")
    retain = retain[: len(forget)]
    forget = forget[: len(retain)]
    mine, other, start = (tiny_llama() for _ in range(3))
    row = get_method(method)
    parts = []
    for name, data, term in (("forget", forget, row.forget), ("retain", retain, row.retain)):
        assert term is not None
        labelling = Labelling(frozenset(), mine.config.vocab_size)
        kept = keep_original(mine, data, term, labelling, execution=QUIET)
        parts.append(Part(name, data, term, 1.0, kept))
    optimise(mine, parts, Training(3, len(forget), rate=lambda u: 1e-3), execution=QUIET)
    stamps = plain.train(
        other, forget, retain, kl="kl" in method, length=LENGTH, updates=3, rate=1e-3,
        folder=str(tmp_path),
    )  # fmt: skip
    assert len(stamps) == 3
    first, second, third = (
        torch.cat([p.detach().double().flatten() for p in m.parameters()])
        for m in (mine, other.cpu(), start)
    )
    moved = (first - third).norm()
    assert moved > 0
    # AdamW's first steps have the size of the rate whatever the gradient's: where that is near 0
    # its rounding decides the sign, so single parameters may differ.
    assert (first - second).norm() < 0.02 * moved


def test_the_plain_recipe_gives_the_same_scores(plain: Any) -> None:
    model, chunks = tiny_llama(), chunks_of("forget")
    scores = score_chunks(model, chunks)
    assert plain.perplexity_and_accuracy(model, chunks, LENGTH) == pytest.approx(
        (perplexity(scores), accuracy(scores)), rel=1e-5
    )
    ours = attack_scores(scores)
    for name, values in plain.membership_scores(model, chunks, LENGTH).items():
        short = name.replace("plus_plus", "pp")
        np.testing.assert_allclose(values, ours[short], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "--shape", "tiny", "--length", "64",
         "--documents", "2", "--pairs", "1", "--out", str(out)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 9
    assert all(row["ratio"]["median"] > 0 for row in rows if "memory" not in row["work"])
