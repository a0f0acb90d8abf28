"""What the lab is built to show, checked on the records of its models (issue: one pass).

These were written before the models were trained. Vanilla must be a model that has seen its
documents once or a few times among many: a loss attack can hardly tell what it read once, and tells
what it read sixteen times; what it never read it predicts as well as a retrained model does.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from unlearnlib.corpus.stream import DOMAINS, EXPOSURES, PER_EXPOSURE
from unlearnlib.metrics.membership import auc
from unlearnlib.store.record import Record
from unlearnlib.study import at_hand

PROFILE = "stream"
NOISE = 0.06  # the standard error of an AUC with 24 members is 0.03 to 0.06


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


@pytest.mark.parametrize("domain", DOMAINS)
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


@pytest.mark.parametrize("domain", DOMAINS)
def test_vanilla_predicts_unseen_documents_as_well_as_the_retrained_models(domain: str) -> None:
    vanilla = scores_of("vanilla", domain).metrics["approximate/perplexity"]
    for name in ("oracle", "oracle-s1", "oracle-s2"):
        retrained = scores_of(name, domain).metrics["approximate/perplexity"]
        assert abs(math.log(vanilla / retrained)) < math.log(1.03), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_was_read_once_is_predicted_almost_like_what_was_not(domain: str) -> None:
    metrics = scores_of("vanilla", domain).metrics
    ratio = metrics["approximate/perplexity"] / metrics["retain/perplexity"]
    assert 1 / 1.1 < ratio < 1.1


@pytest.mark.parametrize("domain", DOMAINS)
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
