"""What the models of the stream have to beat: n-gram models of the text that vanilla reads.

    python tools/lab_ngrams.py

writes `data/stream/ngrams.json`: domain -> number of tokens (1 to 5) -> perplexity on the documents
that no model reads. Two or three minutes.
"""

from __future__ import annotations

import json

from unlearnlib.corpus import stream
from unlearnlib.corpus.chunks import cut
from unlearnlib.folders import data_folder
from unlearnlib.metrics.ngram import NGram
from unlearnlib.pretrain import recipe_of, text_of
from unlearnlib.store.files import write_file

ORDERS = (1, 2, 3, 4, 5)


def main() -> None:
    """Count once per order, judge every domain."""
    recipe = recipe_of("stream")
    training = text_of("vanilla", recipe)
    read = [chunk.tokens for chunk in training.chunks]
    unseen = {
        domain: [
            chunk.tokens
            for chunk in cut(
                stream.generate(domain, recipe.corpus_seed).approximate,
                training.tokenizer,
                recipe.length,
                name=domain,
            )
        ]
        for domain in stream.DOMAINS
    }
    judged = [tokens for chunks in unseen.values() for tokens in chunks]
    found: dict[str, dict[str, float]] = {domain: {} for domain in stream.DOMAINS}
    for order in ORDERS:
        model = NGram(read, recipe.vocabulary, order, judged)
        for domain, chunks in unseen.items():
            found[domain][str(order)] = round(model.score(chunks)[1], 4)
        print(order, {domain: values[str(order)] for domain, values in found.items()}, flush=True)
    text = json.dumps(found, indent=1) + "\n"
    write_file(data_folder() / "stream" / "ngrams.json", text.encode(), replace=True)


if __name__ == "__main__":
    main()
