"""Hit rate against wrong reuse: every threshold, and the one to take."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from scipy.special import betaincinv

from t2l_router.policy import Thresholds, is_near, verified
from training.reuse_cases import Case

CONFIDENCE = 0.95
Rule = Callable[[Case], bool]


@dataclass(frozen=True, slots=True)
class Rates:
    """
    What a rule does to some cases.

    Args:
        hit_rate: Share of queries with their task in the library for which an adapter is reused.
        wrong_rate: Share of reuses, over all situations, that are wrong.
        bound: Upper 95 % Clopper-Pearson bound of *wrong_rate*; 1 without reuses.
        n: Reuses.
        wrong: Wrong ones.
        wrong_opposites: Those of them that serve the opposite of what was asked for.
        n_present: Queries with their task in the library.
        n_tasks: Distinct tasks among the reuses; queries of one task are not independent.
    """

    hit_rate: float
    wrong_rate: float
    bound: float
    n: int
    wrong: int
    wrong_opposites: int
    n_present: int
    n_tasks: int


def upper_bound(wrong: int, n: int, *, confidence: float = CONFIDENCE) -> float:
    """
    Give the one-sided Clopper-Pearson bound of a rate.

    Args:
        wrong: Events.
        n: Trials; 0 bounds nothing.
        confidence: That the true rate is not above it.
    """
    return 1.0 if wrong >= n else float(betaincinv(wrong + 1, n - wrong, confidence))


def least_n(target: float, *, confidence: float = CONFIDENCE) -> int:
    """Give how many trials without an event it takes to bound a rate by *target*."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - target))


def is_wrong(case: Case, max_distance: float) -> bool:
    """
    Whether reuse in this case would serve something worse than the query's own adapter.

    Semantics:
        An opposite's adapter is wrong by what the texts say: a hypernetwork may be blind to the
        difference. The adapter of the query's own task is right: it was made from a paraphrase,
        and neither paraphrase's adapter is better on average. Another task's adapter is wrong
        beyond *max_distance*.
    """
    if case.query.situation == "opposite":
        return True
    return case.found != case.query.task and case.distance > max_distance


def rates(cases: Iterable[Case], rule: Rule, *, max_distance: float) -> Rates:
    """Count what a rule reuses."""
    n_present = hits = wrong = turned = n = 0
    tasks = set()
    for case in cases:
        is_present = case.query.situation == "present"
        n_present += is_present
        if rule(case):
            n += 1
            hits += is_present
            wrong += is_wrong(case, max_distance)
            turned += case.query.situation == "opposite"
            tasks.add(case.query.task)
    return Rates(
        hit_rate=hits / n_present if n_present else 0.0,
        wrong_rate=wrong / n if n else 0.0,
        bound=upper_bound(wrong, n),
        n=n,
        wrong=wrong,
        wrong_opposites=turned,
        n_present=n_present,
        n_tasks=len(tasks),
    )


def plain(score: float) -> Rule:
    """Reuse as response caches do: one cosine threshold."""
    return lambda case: case.score >= score


def near(thresholds: Thresholds, *, guarded: bool = True) -> Rule:
    """Reuse as `policy.decide` does without comparing adapters."""
    return lambda case: (
        is_near(case.score, case.margin, thresholds) and not (guarded and case.is_contradicted)
    )


def near_or_verified(thresholds: Thresholds) -> Rule:
    """Reuse as `policy.decide` and `policy.settle` do together."""
    surely = near(thresholds)
    return lambda case: (
        surely(case)
        or (
            not case.is_contradicted
            and case.score >= thresholds.verify_score
            and verified(case.distance, thresholds)
        )
    )


def grid(max_distance: float, verify_score: float) -> list[Thresholds]:
    """Every pair of score and margin in steps of 0.02, margins up to 0.4."""
    return [
        Thresholds(score / 50, margin / 50, verify_score, max_distance)
        for score, margin in product(range(15, 50), range(21))
    ]


def choose(
    libraries: Sequence[Sequence[Case]], candidates: Iterable[Thresholds], *, target: float
) -> Thresholds | None:
    """
    Find the thresholds that reuse most while the bound keeps to a target in every library.

    Args:
        libraries: Cases to choose on; the result's rates must be stated on others.
        candidates: Of which the first wins a draw.
        target: Largest bound of the wrong-reuse rate.

    Returns:
        None if with no candidate the number of reuses carries such a bound.
    """
    best, most = None, 0.0
    for thresholds in candidates:
        found = [
            rates(cases, near(thresholds), max_distance=thresholds.max_distance)
            for cases in libraries
        ]
        hits = sum(each.hit_rate for each in found)
        if all(each.bound <= target for each in found) and hits > most:
            best, most = thresholds, hits
    return best
