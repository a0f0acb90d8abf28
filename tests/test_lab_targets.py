"""What the lab is built to show, checked on the records of its models.

These targets were set before the models were trained. Vanilla must be a model that has seen its
documents once or a few times among many: a loss attack can hardly tell what it read once, and tells
what it read sixteen times; what it never read it predicts as well as a retrained model does.

Three targets were missed, in the places that `MISSED` names with what was found instead. The tests
of these places must fail: a lab that reaches a target takes its place out of the list.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from unlearnlib.corpus.stream import DOMAINS, EXPOSURES, PER_EXPOSURE
from unlearnlib.metrics.membership import auc
from unlearnlib.store.record import Record
from unlearnlib.study import at_hand

PROFILE = "stream"
MISSED = {
    "attack": {"arxiv": "an AUC of 0.83 at sixteen readings, not 0.85", "github": "of 0.8497"},
    "unseen": {
        "github": "3.1 % from one of three retrained models",
        "books": "7.4 % from one of three retrained models: these differ by as much",
    },
    "verbatim": dict.fromkeys(
        DOMAINS, "a share of 0.01 at any exposure: 2.5 million parameters recite nothing"
    ),
}
NOISE = 0.06  # the standard error of an AUC with 24 members is 0.03 to 0.06


def domains(target: str) -> list[Any]:
    """The domains, those where a target was missed as expected failures."""
    missed = MISSED[target]
    return [
        pytest.param(d, marks=pytest.mark.xfail(reason=missed[d], strict=True))
        if d in missed
        else d
        for d in DOMAINS
    ]


def scores_of(name: str, domain: str) -> Record:
    """The scores of a model on a domain's documents."""
    found = at_hand("rates", PROFILE, (domain,)).baselines
    for record in found:
        if record.spec.get("baseline") == name and record.spec["domain"] == domain:
            return record
    pytest.skip(f"the scores of {name} on {domain} are not published yet: run `make study`")


def by_exposure(record: Record, column: str) -> dict[int, np.ndarray]:
    """A column's values of the forget documents by how often they were read."""
    kept = record.documents["forget"]
    values, read = np.array(kept[column], dtype=float), np.array(kept["exposure"])
    return {exposure: values[read == exposure] for exposure in EXPOSURES}


@pytest.mark.parametrize("domain", domains("attack"))
def test_the_loss_attack_sees_more_of_what_was_read_more_often(domain: str) -> None:
    record = scores_of("vanilla", domain)
    members, others = by_exposure(record, "loss"), record.documents["approximate"]["loss"]
    found = [auc(members[exposure], np.array(others)) for exposure in EXPOSURES]
    assert all(len(values) >= PER_EXPOSURE == 24 for values in members.values())
    assert found[0] <= 0.65
    assert found[-1] >= 0.85
    for less, more in itertools.pairwise(found):
        assert more >= less - NOISE, found
    assert np.corrcoef(np.log(EXPOSURES), found)[0, 1] > 0.8


@pytest.mark.parametrize("domain", domains("unseen"))
def test_vanilla_predicts_unseen_documents_as_well_as_the_retrained_models(domain: str) -> None:
    vanilla = scores_of("vanilla", domain).metrics["approximate/perplexity"]
    for name in ("oracle", "oracle-s1", "oracle-s2"):
        retrained = scores_of(name, domain).metrics["approximate/perplexity"]
        assert abs(math.log(vanilla / retrained)) < math.log(1.03), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_vanilla_predicts_unseen_documents_as_the_retrained_models_do_on_average(
    domain: str,
) -> None:
    vanilla = math.log(scores_of("vanilla", domain).metrics["approximate/perplexity"])
    retrained = [
        math.log(scores_of(name, domain).metrics["approximate/perplexity"])
        for name in ("oracle", "oracle-s1", "oracle-s2")
    ]
    assert abs(vanilla - np.mean(retrained)) < math.log(1.03)


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_was_read_once_is_predicted_almost_like_what_was_not(domain: str) -> None:
    metrics = scores_of("vanilla", domain).metrics
    ratio = metrics["approximate/perplexity"] / metrics["retain/perplexity"]
    assert 1 / 1.1 < ratio < 1.1


@pytest.mark.parametrize("domain", domains("verbatim"))
def test_vanilla_recites_what_it_read_often(domain: str) -> None:
    shares = {e: v.mean() for e, v in by_exposure(scores_of("vanilla", domain), "verbatim").items()}
    assert shares[16] > 2 * shares[1], shares


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_retrained_model_sees_no_difference_between_exposures(domain: str) -> None:
    """To it all forget documents are unseen, however often vanilla read them."""
    record = scores_of("oracle", domain)
    others = np.array(record.documents["approximate"]["loss"])
    for exposure, members in by_exposure(record, "loss").items():
        assert abs(auc(members, others) - 0.5) < 3 * NOISE, exposure
