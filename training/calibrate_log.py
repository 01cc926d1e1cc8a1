"""
Thresholds from a server's own decisions: no corpus, no examples.

Whenever there is doubt, the router writes a new adapter and measures how far it lies from the held
one. Each such comparison tells whether reusing the held adapter for its score alone would have been
right. Comparisons say nothing about scores at which nothing is compared.
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from adapters_store.decisions import DecisionEntry
from t2l_router.policy import Thresholds, is_near, verified
from training.reuse_curve import upper_bound

_STEPS = 20


@dataclass(frozen=True, slots=True)
class LogOutcome:
    """
    What the log says.

    Args:
        thresholds: The chosen ones; an infinite score where the log carries no bound.
        compared: Comparisons in the log.
        n: Of those that were kept for checking, reused by the chosen score and margin.
        wrong: Of these, those whose new adapter was needed.
        bound: Upper 95 % Clopper-Pearson bound of the share of wrong ones; 1 without reuses.
    """

    thresholds: Thresholds
    compared: int
    n: int
    wrong: int
    bound: float


def calibrate(
    entries: Sequence[DecisionEntry], current: Thresholds, *, target: float
) -> LogOutcome:
    """
    Choose score and margin on half of the comparisons and check them on the other half.

    Args:
        entries: Decisions; those without a distance are passed over.
        current: The thresholds in use; their distance says what is harmless.
        target: Largest bound of the share of wrong reuses.
    """
    compared = [entry for entry in entries if entry.distance is not None]
    # By the description, so that equal ones are on one side.
    halves: tuple[list[DecisionEntry], list[DecisionEntry]] = ([], [])
    for entry in compared:
        halves[zlib.crc32((entry.description_hash or entry.trace).encode()) % 2].append(entry)
    best, most = dataclasses.replace(current, score=math.inf, margin=math.inf), 0
    for score in range(_STEPS + 1):
        for margin in range(_STEPS + 1):
            candidate = dataclasses.replace(current, score=score / _STEPS, margin=margin / _STEPS)
            wrong, n = _count(halves[0], candidate)
            if n > most and upper_bound(wrong, n) <= target:
                best, most = candidate, n
    wrong, n = _count(halves[1], best)
    bound = upper_bound(wrong, n)
    if bound > target:
        best = dataclasses.replace(best, score=math.inf, margin=math.inf)
    return LogOutcome(best, len(compared), n, wrong, bound)


def _count(entries: Sequence[DecisionEntry], thresholds: Thresholds) -> tuple[int, int]:
    near = [
        entry
        for entry in entries
        if entry.score is not None
        and entry.margin is not None
        and is_near(entry.score, entry.margin, thresholds)
    ]
    wrong = sum(not verified(entry.distance or 0.0, thresholds) for entry in near)
    return wrong, len(near)
