"""Thresholds chosen on some tasks, and what they do to others."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2l_router.policy import Thresholds
from training.reuse_cases import Case
from training.reuse_curve import Rates, choose, grid, near, near_or_verified, plain, rates

COSINE = 0.8
"""What response caches ship with."""

_UNVERIFIED = 0.01  # share of harmless adapters that may lie below the score for a comparison
Parts = Mapping[str, Sequence[Case]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What the measurement says.

    Args:
        thresholds: The chosen ones; an infinite score where the data carry no bound.
        cosine: The plain cosine threshold chosen the same way.
        rates: Number of aliases -> part -> rule -> rates.
        curves: Number of aliases -> rule -> thresholds and rates, on the part that checks.
    """

    thresholds: Thresholds
    cosine: float
    rates: dict[int, dict[str, dict[str, Rates]]]
    curves: dict[int, dict[str, list[tuple[Thresholds, Rates]]]]


def evaluate(libraries: Mapping[int, Parts], *, max_distance: float, target: float) -> Outcome:
    """
    Choose thresholds that hold in every library and state their rates.

    Args:
        libraries: Number of aliases -> part -> cases; the part ``choose`` is for choosing,
            ``check`` for the curves.
        max_distance: Delta-W distance up to which another task's adapter is harmless.
        target: Largest bound of the wrong-reuse rate.
    """
    seen = [parts["choose"] for parts in libraries.values()]
    candidates = grid(max_distance, verify_score(seen, max_distance))
    # Where no bound holds, nothing is reused for its score alone; comparisons still work.
    unsure = dataclasses.replace(candidates[0], score=math.inf, margin=math.inf)
    thresholds = choose(seen, candidates, target=target) or unsure
    cosine = _best_cosine(seen, max_distance, target)
    rules = {
        f"cosine {COSINE}": plain(COSINE),
        "cosine, best": plain(cosine),
        "score and margin": near(thresholds, guarded=False),
        "near": near(thresholds),
        "near or verified": near_or_verified(thresholds),
    }
    return Outcome(
        thresholds,
        cosine,
        {
            n: {
                part: {
                    name: rates(cases, rule, max_distance=max_distance)
                    for name, rule in rules.items()
                }
                for part, cases in parts.items()
            }
            for n, parts in libraries.items()
        },
        {n: _curves(parts["check"], candidates) for n, parts in libraries.items()},
    )


def verify_score(libraries: Sequence[Sequence[Case]], max_distance: float) -> float:
    """Give the score above which almost all adapters lie that a comparison accepts."""
    scores = [c.score for cases in libraries for c in cases if c.distance <= max_distance]
    return math.floor(50 * float(np.quantile(scores, _UNVERIFIED))) / 50 if scores else math.inf


def _best_cosine(libraries: Sequence[Sequence[Case]], max_distance: float, target: float) -> float:
    cuts = [step / 50 for step in range(15, 50)]
    return min(
        (
            cut
            for cut in cuts
            if all(
                rates(cases, plain(cut), max_distance=max_distance).bound <= target
                for cases in libraries
            )
        ),
        default=math.inf,
    )


def _curves(
    cases: Sequence[Case], candidates: Sequence[Thresholds]
) -> dict[str, list[tuple[Thresholds, Rates]]]:
    return {
        "cosine": [
            (t, rates(cases, plain(t.score), max_distance=t.max_distance))
            for t in candidates
            if t.margin == 0
        ],
        "score, margin, guard": [
            (t, rates(cases, near(t), max_distance=t.max_distance)) for t in candidates
        ],
    }
