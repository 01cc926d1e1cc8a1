"""Thresholds from logged comparisons."""

import math
import random

from adapters_store.decisions import DecisionEntry
from t2l_router.policy import Thresholds
from training.calibrate_log import calibrate

CURRENT = Thresholds(math.inf, math.inf, 0.4, 0.3, "e", "h")


def logged(n, *, wrong_below, seed=0):
    """Comparisons whose held adapter is right from a score on, and wrong below it."""
    dice = random.Random(seed)
    entries = []
    for i in range(n):
        score = dice.uniform(0.4, 1)
        distance = 0.9 if score < wrong_below else 0.1
        entries.append(
            DecisionEntry(
                f"d{i}",
                "acme",
                "verified",
                description_hash=f"{i:032x}",
                score=score,
                margin=dice.uniform(0, 1),
                distance=distance,
            )
        )
    return entries


def test_finds_the_border():
    """With enough comparisons the score from which on reuse is right is found."""
    outcome = calibrate(logged(2_000, wrong_below=0.7), CURRENT, target=0.02)

    assert outcome.thresholds.score == 0.7
    assert (outcome.compared, outcome.wrong) == (2_000, 0)
    assert outcome.bound <= 0.02
    assert (outcome.thresholds.encoder, outcome.thresholds.max_distance) == ("e", 0.3)


def test_too_few_carry_no_bound():
    """A few comparisons, all of them right, prove nothing."""
    outcome = calibrate(logged(50, wrong_below=0), CURRENT, target=0.02)

    assert math.isinf(outcome.thresholds.score)


def test_wrong_everywhere():
    """Where scores don't tell right from wrong, nothing is reused for its score."""
    outcome = calibrate(logged(2_000, wrong_below=2), CURRENT, target=0.02)

    assert math.isinf(outcome.thresholds.score)
    assert outcome.n == 0


def test_decisions_without_a_comparison_do_not_count():
    """Exact hits and the like say nothing about scores."""
    entries = [DecisionEntry(f"d{i}", "acme", "exact", score=1.0) for i in range(1_000)]

    assert calibrate(entries, CURRENT, target=0.02).compared == 0
