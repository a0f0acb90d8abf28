"""How the peak learning rate of the stream's models was chosen: a short stream at several rates.

    python tools/peak_rate.py --documents 2200 --rates 1.5e-3 3e-3 6e-3

trains a model of the profile's shape at each rate on a stream of so many documents per corpus (all
forget sets stand in it, too) and writes `data/stream/peak_rate.json`: the loss on documents that
no model read, nats per token, by corpus. The rate with the lowest mean is the recipe's. Rates that
are in the file are not tried again. Minutes per rate on one core.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from unlearnlib.corpus import stream
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import Document
from unlearnlib.engine import Execution
from unlearnlib.folders import data_folder
from unlearnlib.pretrain import Recipe, recipe_of, text_of, train_on_chunks
from unlearnlib.scoring import score_chunks
from unlearnlib.store.files import write_file


def unseen(seed: int) -> dict[str, tuple[Document, ...]]:
    """Documents that no model reads, by corpus."""
    found = {domain: stream.generate(domain, seed).approximate for domain in stream.DOMAINS}
    return found | {"general": stream.generate("books", seed).general_evaluation}


def try_rate(recipe: Recipe) -> dict[str, float]:
    """Corpus -> loss of a model trained by `recipe`, nats per token, on unseen documents."""
    text = text_of("vanilla", recipe)
    name = f"rate {recipe.learning_rate:g}"
    model, _ = train_on_chunks(recipe, text.tokenizer, text.chunks, name=name)
    losses = {}
    for corpus, texts in unseen(recipe.corpus_seed).items():
        chunks = cut(texts, text.tokenizer, recipe.length, name=corpus)
        scores = score_chunks(model, chunks, execution=Execution(progress=False))
        losses[corpus] = round(-float(np.mean(scores.logprob, dtype=np.float64)), 5)
    return losses


def main() -> None:
    """Try the rates that are not in the file yet, and say which is best."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=2200, help="of each corpus")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=data_folder() / "stream" / "peak_rate.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = replace(recipe_of("stream"), documents=args.documents)
    for rate in args.rates:
        found = json.loads(args.out.read_text()) if args.out.exists() else []
        recipe = replace(base, learning_rate=rate)
        if any(row["recipe"] == asdict(recipe) for row in found):
            continue
        losses = try_rate(recipe)
        # Another rate may have been tried by another process meanwhile.
        found = json.loads(args.out.read_text()) if args.out.exists() else []
        found.append({"recipe": asdict(recipe), "losses": losses})
        found.sort(key=lambda row: row["recipe"]["learning_rate"])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(args.out, (json.dumps(found, indent=1) + "\n").encode(), replace=True)
    for row in json.loads(args.out.read_text()):
        mean = sum(row["losses"].values()) / len(row["losses"])
        print(f"{row['recipe']['learning_rate']:g}  {mean:.4f}  {row['losses']}")


if __name__ == "__main__":
    main()
