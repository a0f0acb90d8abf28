"""The paper's five claims, the test of each, and what the records say.

A test was written before the runs that decide it, so that it could fail; where the numbers had
been seen first, the claim says so. A verdict is a pure function of records.
"""

from __future__ import annotations

from dataclasses import dataclass

NEAR_TRUTH = 1.25  # a setting is usable if forget perplexity is within this factor of the oracle's
HARMLESS = 1.05  # ... and general perplexity rises by at most this factor
TARGET_WITHIN = 1.10  # the paper's target may be off by this factor
CHEAPER = 1e5
NEAR_BEST = 1.10  # tuning may end this factor of distance from the best grid point
RUNS_ALLOWED = 8


@dataclass(frozen=True)
class Claim:
    """What the paper says, and how it is tested here.

    test    what decides between "holds", "holds in part" and "does not hold here"
    seen    what was known of the numbers when the test was written
    reach   how far a model of the lab's size can speak for one of billions of parameters
    """

    name: str
    says: str
    test: str
    seen: str
    reach: str


CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim(
            "C1",
            "One framework holds seven methods, and they are evaluated on three domains.",
            "Every method is a forget term plus a weighted retain term of shared code, and at its "
            "chosen setting takes forget perplexity at least half of the way, in the logarithm, "
            "from vanilla's to the oracle's, without diverging, on every domain and seed of the "
            "study main. In part: some methods do on every domain.",
            "The study main had been run.",
            "That the methods run is independent of size; how far they get is not.",
        ),
        Claim(
            "C2",
            "Unlearning takes less than 1/10⁵ of the compute of retraining.",
            "By account, one pass over the forget set at the release's setting on Yi-6B is at "
            "least 10⁵ times cheaper than its pre-training for every kind of method and every "
            "domain whose size is known. In part: for some.",
            "The account had been made. In the lab the ratio is measured, and cannot be 10⁵ with "
            "so small a training set.",
            "The account is about the large model; the lab checks that operations counted are "
            "operations spent.",
        ),
        Claim(
            "C3",
            "Gradient ascent with gradient descent on in-distribution data is robust to "
            "hyperparameters.",
            f"Over a common grid of 7 learning rates (1e-5 to 1e-2, even in the logarithm) and 8 "
            f"numbers of updates (3 to 24), a setting is usable if forget perplexity lies within "
            f"a factor {NEAR_TRUTH} of the oracle's and general perplexity rises by at most "
            f"{(HARMLESS - 1):.0%}. Holds if this method has more usable settings than ascent "
            "alone in every domain; in part: in some.",
            "A coarser study of learning rates at 12 updates had been run: there it had 2 of 18 "
            "usable settings and ascent 1, and ascent broke at lower rates.",
            "The shape of the region depends on the model; that a retain term widens it is a "
            "property of the objective that a small model can show.",
        ),
        Claim(
            "C4",
            "There are guidelines that make tuning efficient.",
            f"The procedure of `unlearn tune` ends within {(NEAR_BEST - 1):.0%} of the best grid "
            f"point's distance to the target in at most {RUNS_ALLOWED} runs, on every domain and "
            "seed held out from its design; in part: on some.",
            "Nothing: the procedure had not been written.",
            "The procedure is tested as it would be used; the numbers in it may shift with size.",
        ),
        Claim(
            "C5",
            "The approximate set stands in for retraining: vanilla's score on it is what a "
            "retrained model would score on the forget set.",
            f"Vanilla's perplexity on the approximate set is within a factor {TARGET_WITHIN} of "
            "the oracle's on the forget set in every domain, and so are the accuracies; in part: "
            "in some. Beside it, how many updates too early or too late the target stops.",
            "The perplexities had been seen: within 5 % of each other.",
            "The lab's splits are random, which is the best case; published texts seldom are.",
        ),
    )
}
