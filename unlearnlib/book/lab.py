"""The lab in tables: what its models are, how well they know what they read, how far they differ.

What a model is comes from the record of its training, what it knows from its scores. How good it
could be says the generator, which counts what its own choices cost; what it has to beat are n-gram
models of the same text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearnlib.book.at_equal import (
    ATTACKS,
    HARMED,
    Band,
    document_means,
    log_perplexity,
    named_scores,
    names_in,
)
from unlearnlib.book.records import domain_index, domains_of, known_mean
from unlearnlib.folders import data_folder
from unlearnlib.looks import ATTACK_TITLES, domain_title
from unlearnlib.metrics.membership import auc
from unlearnlib.profiles import get_profile
from unlearnlib.store.record import Record
from unlearnlib.text import duration, number
from unlearnlib.trained import lab_names, lab_record

if TYPE_CHECKING:
    import pandas as pd

ALL = 0  # in the place of an exposure: of all documents
LAST = 50  # so many updates at the end of training, whose loss is the loss of a model
MODEL_TITLES = {
    "vanilla": "vanilla",
    "vanilla-s1": "second vanilla",
    "oracle": "retrained",
    "oracle-s1": "retrained, second seed",
    "oracle-s2": "retrained, third seed",
}


def model_records(profile: str, domains: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> the record of its training, of the vanillas and of the domains' retrained models.

    Those that have none are left out.
    """
    found = {}
    for name in lab_names(profile):
        kind, _, rest = name.partition("-")
        path = lab_record(name, profile)
        if (kind == "vanilla" or rest.partition("-")[0] in domains) and path.is_file():
            found[name] = dict(json.loads(path.read_text(encoding="utf-8")))
    return found


def ngrams_of(profile: str) -> dict[str, dict[str, float]]:
    """Domain -> number of tokens -> perplexity on unseen documents of an n-gram model.

    It is made of what vanilla reads, by `tools/lab_ngrams.py`; without its file there is none.
    """
    try:
        path = data_folder() / profile / "ngrams.json"
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        return {}


def generator_losses(profile: str, baselines: Iterable[Record]) -> dict[str, float]:
    """Domain -> what the generator's choices cost in unseen documents, nats per token.

    A model that knew how the documents are made would have at most this loss. Of a corpus whose
    generator does not count that, and of domains whose documents are not those scored, there is
    none.
    """
    if get_profile(profile).corpus != "stream":
        return {}
    from unlearnlib.corpus.stream import drafts, groups

    found = {}
    for record in baselines:
        domain, kept = record.spec["domain"], record.documents.get("approximate", {})
        group = next(g for g in groups(domain, 0) if g.name == "approximate")
        if domain not in found and len(names_in(record, "approximate")) == group.count:
            nats = sum(draft.nats for draft in drafts(domain, group.start, group.count))
            found[domain] = nats / sum(kept["tokens"])
    return found


def models_table(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per model: what it read, how large it is, how long it trained, and its loss then."""
    import pandas as pd

    rows = []
    for made in models.values():
        losses = made.get("losses") or []
        seconds = made.get("provenance", {}).get("seconds")
        rows.append(
            [
                f"{made['documents']:,}",
                f"{made['tokens']:,}",
                f"{made['parameters']:,}",
                f"{made['updates']:,}" if "updates" in made else "–",
                number(known_mean(losses[-LAST:])),
                "–" if seconds is None else duration(float(seconds)),
            ]
        )
    columns = ["documents", "tokens read", "parameters", "updates", "training loss, nats", "time"]
    index = pd.Index([_model_title(name) for name in models], name="model")
    return pd.DataFrame(rows, index=index, columns=columns)


def _model_title(name: str) -> str:
    """ "retrained without arXiv, second seed" for "oracle-arxiv-s1"."""
    kind, _, rest = name.partition("-")
    if kind != "oracle":
        return MODEL_TITLES.get(name, name)
    domain, _, seed = rest.partition("-")
    words = MODEL_TITLES.get(f"oracle-{seed}" if seed else "oracle", name)
    return words.replace("retrained", f"retrained without {domain_title(domain)}")


def knowledge_table(
    baselines: Iterable[Record],
    generator: Mapping[str, float],
    ngrams: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """Per domain, in nats per token: the loss of vanilla on each split, and what bounds it.

    generator  domain -> of the generator itself (`generator_losses`)
    ngrams     domain -> number of tokens -> perplexity of such an n-gram model (`ngrams_of`)
    """
    import pandas as pd

    baselines = list(baselines)
    rows, index = [], []
    for domain in domains_of(baselines):
        scores = named_scores(baselines, domain, "vanilla")
        retrained = named_scores(baselines, domain, "oracle")
        best = min(ngrams.get(domain, {}).values(), default=math.nan)
        values = [
            generator.get(domain, math.nan),
            *(_loss(scores, split) for split in ("approximate", "retain", "forget")),
            _loss(retrained, "forget"),
            math.log(best) if best > 0 else math.nan,
        ]
        index.append(domain_title(domain))
        rows.append([number(x) for x in values])
    columns = [
        "generator",
        "vanilla, unseen",
        "vanilla, retain",
        "vanilla, forget",
        "retrained, forget",
        "best n-gram, unseen",
    ]
    return pd.DataFrame(rows, index=pd.Index(index, name="domain"), columns=columns)


def _loss(record: Record | None, split: str) -> float:
    """ln of a split's perplexity; NaN where it was not measured."""
    x = math.nan if record is None else record.metrics.get(f"{split}/perplexity", math.nan)
    return math.log(x) if x > 0 else math.nan


def exposures_of(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Domain -> name of a forget document -> how often the model read it in training.

    From the scores, where they say so in a column "exposure", and from the runs that forget the
    documents of one exposure alone.
    """
    found: dict[str, dict[str, int]] = {}
    for record in records:
        known = found.setdefault(record.spec["domain"], {})
        names = names_in(record, "forget")
        column = document_means(record, "forget", "exposure", names)
        if exposure := int(record.spec.get("exposure", ALL)):
            known.update(dict.fromkeys(names, exposure))
        known.update({n: round(x) for n, x in zip(names, column, strict=True) if x > 0})
    return {domain: known for domain, known in found.items() if known}


def chosen(names: Iterable[str], known: Mapping[str, int], exposure: int) -> list[str]:
    """The documents of an exposure, in their order; of `ALL` every one."""
    return [name for name in names if exposure in (ALL, known.get(name))]


def auc_of(record: Record, attack: str, names: Sequence[str]) -> float:
    """AUC of an attack on some forget documents against all unseen ones; NaN for none."""
    members = document_means(record, "forget", attack, names)
    others = document_means(record, "approximate", attack, names_in(record, "approximate"))
    known = len(members) and len(others)
    return auc(members, others) if known and np.isfinite([*members, *others]).all() else math.nan


def exposure_table(
    baselines: Iterable[Record],
    exposures: Mapping[str, Mapping[str, int]],
    model: str = "vanilla",
) -> pd.DataFrame:
    """Per domain and exposure what a model knows of the documents: perplexity, AUC, verbatim share.

    Beside the perplexity that of the retrained model on the same documents, and of the model on
    unseen ones.
    """
    import pandas as pd

    baselines = list(baselines)
    rows, index = [], []
    for domain, known in exposures.items():
        scores = named_scores(baselines, domain, model)
        retrained = named_scores(baselines, domain, "oracle")
        if scores is None:
            continue
        unseen = names_in(scores, "approximate")
        for exposure in (*sorted(set(known.values())), ALL):
            names = chosen(names_in(scores, "forget"), known, exposure)
            verbatim = document_means(scores, "forget", "verbatim", names)
            theirs = math.nan if retrained is None else log_perplexity(retrained, "forget", names)
            values = [
                math.exp(log_perplexity(scores, "forget", names)),
                math.exp(theirs),
                math.exp(log_perplexity(scores, "approximate", unseen)),
                *(auc_of(scores, attack, names) for attack in ATTACKS),
                float(verbatim.mean()) if len(verbatim) else math.nan,
            ]
            index.append((domain_title(domain), "all" if exposure == ALL else times(exposure)))
            rows.append([f"{len(names)}", *map(number, values)])
    columns = [
        ("", "documents"),
        ("Perplexity", "forget"),
        ("Perplexity", "retrained"),
        ("Perplexity", "unseen"),
        *(("Membership AUC", ATTACK_TITLES[attack]) for attack in ATTACKS),
        ("", "verbatim"),
    ]
    return pd.DataFrame(
        rows, index=domain_index(index, "read"), columns=pd.MultiIndex.from_tuples(columns)
    )


def times(exposure: int) -> str:
    """ "once", "16 times"."""
    return "once" if exposure == 1 else f"{exposure} times"


def floor_table(bands: Mapping[str, Band]) -> pd.DataFrame:
    """Per domain how far retrained models are apart that differ in their seed alone."""
    import pandas as pd

    rows, index = [], []
    for domain, band in bands.items():
        low, high = band.floor.interval
        index.append(domain_title(domain))
        rows.append(
            [
                f"{len(band.perplexities['forget'])}",
                number(band.floor.value),
                "–" if math.isnan(low) else f"{number(low)} to {number(high)}",
                *(number(band.spread(split)) for split in ("forget", *HARMED)),
            ]
        )
    columns = [
        ("", "models"),
        ("KL on forget, nats", "mean"),
        ("KL on forget, nats", "95 % interval"),
        *(("ln highest / lowest perplexity", split) for split in ("forget", *HARMED)),
    ]
    return pd.DataFrame(
        rows,
        index=pd.Index(index, name="domain"),
        columns=pd.MultiIndex.from_tuples(columns),
    )


def floor_in_words(bands: Mapping[str, Band]) -> str:
    """How far two retrained models differ: what no method can be asked to go below; Markdown."""
    parts = [
        f"{number(band.floor.value)} on {domain_title(domain)}"
        for domain, band in bands.items()
        if math.isfinite(band.floor.value)
    ]
    if not parts:
        return ""
    most = max(len(band.perplexities["forget"]) for band in bands.values())
    spreads = [band.spread() for band in bands.values() if math.isfinite(band.spread())]
    return (
        "Two models that were both retrained without the forget set, from other initial weights "
        f"and in another order, differ on it by {'; '.join(parts)} (KL, nats per token). Their "
        f"perplexities on it lie within {100 * math.expm1(max(spreads)):.1f} % of each other "
        f"({most} models to a domain). A distance or a perplexity within these limits cannot be "
        "told from that of a retrained model."
    )


def known_in_words(baselines: Iterable[Record], exposures: Mapping[str, Mapping[str, int]]) -> str:
    """AUC of the loss attack and of Min-20 %++ at the least and at the largest exposure; Markdown.

    One line per domain, with the verbatim shares.
    """
    baselines, lines = list(baselines), []
    for domain, known in exposures.items():
        scores = named_scores(baselines, domain, "vanilla")
        if scores is None:
            continue
        ends = [min(known.values()), max(known.values())]
        names = [chosen(names_in(scores, "forget"), known, exposure) for exposure in ends]
        parts = []
        for attack in ATTACKS:
            low, high = (auc_of(scores, attack, some) for some in names)
            parts.append(f"{ATTACK_TITLES[attack]} {number(low)} and {number(high)}")
        shares = [known_mean(document_means(scores, "forget", "verbatim", some)) for some in names]
        if np.isfinite(shares).all():
            parts.append(f"verbatim share {number(shares[0])} and {number(shares[1])}")
        lines.append(
            f"- **{domain_title(domain)}.** Read {times(ends[0])} and {times(ends[1])}: "
            f"{'; '.join(parts)}."
        )
    return "\n".join(
        ["Membership AUC of vanilla, and how much it recites.\n", *lines] if lines else []
    )
