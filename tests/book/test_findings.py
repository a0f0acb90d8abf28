"""The sentences of the chapters on the new lab, held against the published records.

These sentences were written after the runs: they say what was found, and no run decided a claim
that was made before it. The second model to unlearn repeats each comparison. A comparison of two
groups of methods is also made with the groups exchanged, where it must fail.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import pytest

from unlearnlib.book import at_equal, exposure, lab
from unlearnlib.book.at_equal import DISTANCE, HARM, AtEqual
from unlearnlib.corpus.stream import DOMAINS, EXPOSURES
from unlearnlib.profiles import PAPER_METHODS
from unlearnlib.study import at_hand

PROFILE = "stream"
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LABELS = ("random_label", "adversarial")
ASCENT = tuple(method for method in PAPER_METHODS if method not in LABELS)
ATTACK = "auc/min_k_pp_20"


def text_of(notebook: str) -> str:
    """What a chapter says in short, its lines joined."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    (told,) = ("".join(c["source"]) for c in cells if c["id"].endswith("-short"))
    return " ".join(told.split())


@functools.cache
def equal() -> AtEqual:
    study = at_hand("equal_forgetting", PROFILE, DOMAINS)
    return at_equal.at_equal(study.records, study.baselines, resamples=20)


@functools.cache
def by_exposure() -> AtEqual:
    study = at_hand("exposure", PROFILE, DOMAINS)
    return at_equal.at_equal(study.records, study.baselines, resamples=20)


CELLS = [(domain, base) for domain in DOMAINS for base in at_equal.BASES]


def change(measure: str, domain: str, base: str, method: str) -> float:
    """How much more of a measure a method has at equal forgetting than there was before."""
    return (
        equal().estimate(measure, domain, method, base=base).value
        - (equal().before[domain, base][measure])
    )


def changes(measure: str, methods: tuple[str, ...]) -> list[float]:
    return [change(measure, *cell, method) for cell in CELLS for method in methods]


def span(values: list[float], digits: int = 3) -> str:
    """ "LEAST to MOST", as the chapters write it."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def above(measure: str, more: tuple[str, ...], less: tuple[str, ...]) -> bool:
    """Whether every method of one group has more than every one of the other, in every cell."""
    return all(
        change(measure, *cell, one) > change(measure, *cell, other)
        for cell in CELLS
        for one in more
        for other in less
    )


def more_for_sixteen(method: str, domain: str) -> float:
    """How much more harm it does to forget what was read sixteen times than what was read once."""
    least, most = (
        by_exposure().finest().estimate(HARM, domain, method, exposure=read).value
        for read in (1, 16)
    )
    return most - least


@functools.cache
def aucs() -> dict[tuple[str, int], list[float]]:
    """(attack, exposure) -> its AUC on vanilla, by domain."""
    study = at_hand("rates", PROFILE, DOMAINS)
    read = lab.exposures_of([*study.records, *study.baselines])
    found: dict[tuple[str, int], list[float]] = {}
    for domain in DOMAINS:
        vanilla = at_equal.named_scores(study.baselines, domain, "vanilla")
        assert vanilla is not None
        unseen = at_equal.names_in(vanilla, "approximate")
        for attack in at_equal.ATTACKS:
            for exposed in EXPOSURES:
                names = lab.chosen(at_equal.names_in(vanilla, "forget"), read[domain], exposed)
                value = at_equal.auc_of(vanilla, attack, names, unseen)
                found.setdefault((attack, exposed), []).append(value)
    return found


@functools.cache
def targets() -> list[exposure.TargetAt]:
    study = at_hand("exposure", PROFILE, DOMAINS)
    read = lab.exposures_of([*study.records, *study.baselines])
    return exposure.targets(study.baselines, read)


@functools.cache
def falls() -> dict[str, list[float]]:
    """method -> how far the AUC of Min-20 %++ falls until equal forgetting, in each cell."""
    study = at_hand("equal_forgetting", PROFILE, DOMAINS)
    found: dict[str, list[float]] = {}
    for point in equal().points:
        start = at_equal.scores_for(study.baselines, point.run, at_equal.BEFORE)
        assert start is not None
        before = start.metrics["membership/min_k_pp_20/auc"]
        after = equal().estimate(ATTACK, point.domain, point.method, base=point.base).value
        found.setdefault(point.method, []).append(before - after)
    return found


@functools.cache
def growths(methods: tuple[str, ...]) -> list[float]:
    """How much more dose sixteen readings take than one, where one takes any."""
    finest = by_exposure().finest()
    return [
        exposure.growth(finest, exposure.DOSE, domain, method)
        for domain in ("github", "books")
        for method in methods
    ]


def floors() -> list[float]:
    study = at_hand("rates", PROFILE, DOMAINS)
    return [at_equal.band_of(study.baselines, domain).floor.value for domain in DOMAINS]


def own_distances() -> list[float]:
    return [equal().before[domain, "vanilla"][DISTANCE] for domain in DOMAINS]


def phrases(notebook: str) -> list[str]:
    """What a chapter says in short and has numbers in, as the records have it."""
    if notebook == "equal_forgetting":
        hidden = [fall for method in ASCENT for fall in falls()[method]]
        return [
            f"{len(equal().points)} runs.",
            f"at most {max(changes(HARM, ASCENT)):.3f} nats per token",
            f"harm rises by {span(changes(HARM, LABELS))}",
            f"changes by at most {max(map(abs, falls()['random_label'])):.2f}.",
            f"Ascent brings it {span(hidden, 2)} down",
            f"by {span(changes(DISTANCE, ASCENT))} nats per token for ascent",
            f"by {span(changes(DISTANCE, LABELS))} for labels",
        ]
    if notebook == "exposure":
        below = [-100 * math.expm1(-at.way.value) for at in targets() if at.exposure == 16]
        ascent = [abs(more_for_sixteen(m, domain)) for m in ASCENT for domain in DOMAINS]
        labels = [more_for_sixteen(m, domain) for m in LABELS for domain in DOMAINS]
        return [
            f"take ascent {span(growths(ASCENT), 0)} times",
            f"Wrong labels take {span(growths(LABELS), 0)} times",
            f"at most {max(ascent):.2f} nats per token. That",
            f"grows by {span(labels, 2)}",
            f"{span(below, 0)} percent below it",
        ]
    once = aucs()["loss", 1]
    return [
        f"between {min(once):.2f} and {max(once):.2f} there",
        f"At sixteen readings it is {span(aucs()['loss', 16], 2)}",
        f"its AUC is {span(aucs()['min_k_pp_20', 8], 2)}",
        f"loss {span(aucs()['loss', 8], 2)}",
        f"differ by {span(floors(), 2)} nats per token on the forget set",
        f"its retrained model by {span(own_distances(), 2)}",
    ]


TOLD = ("lab", "equal_forgetting", "exposure")
# 0.5 is chance, 0.85 what was aimed at; the others are of targets missed (test_lab_targets)
KNOWN = {"0.5", "0.85", "0.83", "0.01", "2.5"}


@pytest.mark.parametrize("notebook", TOLD)
def test_what_is_said_in_short_is_what_the_records_have(notebook: str) -> None:
    text = text_of(notebook)
    for phrase in phrases(notebook):
        assert phrase in text


@pytest.mark.parametrize("notebook", TOLD)
def test_no_number_is_said_that_is_not_held_against_the_records(notebook: str) -> None:
    held = set(re.findall(r"\d+\.\d+", " ".join(phrases(notebook)))) | KNOWN
    assert set(re.findall(r"\d+\.\d+", text_of(notebook))) <= held


# ---- equal forgetting


def test_every_run_was_made_and_reached_the_retrained_model() -> None:
    reached = sum(point.crossing is not None for point in equal().points)
    assert reached == len(equal().points) == 126


def test_ascent_costs_two_percent() -> None:
    assert round(100 * math.expm1(max(changes(HARM, ASCENT)))) == 2


@pytest.mark.parametrize("measure", [HARM, DISTANCE])
def test_labels_cost_more_than_every_kind_of_ascent_and_not_the_reverse(measure: str) -> None:
    assert above(measure, LABELS, ASCENT)
    assert not above(measure, ASCENT, LABELS)


def test_random_labels_leave_what_the_attack_sees_and_ascent_does_not() -> None:
    assert min(fall for m in ASCENT for fall in falls()[m]) > max(map(abs, falls()["random_label"]))


def test_no_method_comes_nearer_to_the_retrained_model() -> None:
    assert min(changes(DISTANCE, PAPER_METHODS)) > 0


def test_the_order_of_the_kinds_of_ascent_is_not_decided() -> None:
    for domain in DOMAINS:
        harms = {
            base: [equal().estimate(HARM, domain, m, base=base).value for m in ASCENT]
            for base in at_equal.BASES
        }
        apart = [max(values) - min(values) for values in harms.values()]
        between = abs(sum(harms["vanilla"]) - sum(harms["second"])) / len(ASCENT)
        assert sum(apart) / 2 < between, domain


# ---- exposure


def test_on_arxiv_there_is_nothing_to_forget_of_documents_read_once_or_twice() -> None:
    for method in PAPER_METHODS:
        for read in EXPOSURES[:2]:
            assert exposure.nothing_to_forget(by_exposure(), "arxiv", method, read)
        assert not exposure.nothing_to_forget(by_exposure(), "books", method, 1)


def test_the_first_update_is_often_too_much() -> None:
    words = exposure.at_once_in_words(by_exposure())
    assert "14 of 21 where the documents were read once" in words
    assert "in 14 of 21 cases" in text_of("exposure")


def test_more_readings_take_ascent_more_than_they_take_labels() -> None:
    assert min(growths(ASCENT)) > max(growths(LABELS))
    assert not min(growths(LABELS)) > max(growths(ASCENT))


def test_the_target_of_the_paper_holds_at_every_exposure() -> None:
    assert len(targets()) == len(DOMAINS) * len(EXPOSURES)
    assert all(abs(math.expm1(at.error.value)) < 0.05 for at in targets())


def test_one_run_forgets_the_rare_too_much_and_the_frequent_too_little() -> None:
    study = at_hand("equal_forgetting", PROFILE, DOMAINS)
    read = lab.exposures_of([*study.records, *study.baselines])
    words = exposure.mixed_in_words(exposure.mixed(equal(), study.baselines, read))
    assert "off by 4." in words and "−7." in words


# ---- the models


def test_two_retrained_models_are_further_apart_than_vanilla_and_its_own() -> None:
    assert min(floors()) > max(own_distances())


def test_the_models_stand_between_n_grams_and_the_generator() -> None:
    study = at_hand("rates", PROFILE, DOMAINS)
    known = lab.knowledge_table(
        study.baselines, lab.generator_losses(PROFILE, study.baselines), lab.ngrams_of(PROFILE)
    ).astype(float)
    assert ((known["vanilla, unseen"] - known["generator"]) < 0.2).all()
    assert ((known["best n-gram, unseen"] - known["vanilla, unseen"]) > 0.5).all()
