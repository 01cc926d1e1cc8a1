import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router.policy import Thresholds
from training import reuse_curve
from training.reuse_cases import Case, Query

OTHER = 1_000


def case(
    *,
    score=0.9,
    margin=0.3,
    distance=0.1,
    situation="present",
    contradicted=False,
    task=0,
    found=OTHER,
):
    query = Query("text", 0, task, terse=False, situation=situation)
    return Case(query, found, "alias", score, margin, contradicted, distance, distance)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bound_is_clopper_pearsons(counts) -> None:
    """At the bound, so few events have a probability of 5 %."""
    wrong, n = counts
    bound = reuse_curve.upper_bound(wrong, n)
    at_most = sum(math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(wrong + 1))

    assert at_most == pytest.approx(1.0 if wrong == n else 0.05, abs=1e-9)


@pytest.mark.parametrize(("target", "n"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_least_n(target, n) -> None:
    """So many clean reuses carry the bound, and one less doesn't."""
    assert reuse_curve.least_n(target) == n
    assert reuse_curve.upper_bound(0, n) <= target < reuse_curve.upper_bound(0, n - 1)


def test_no_reuse_bounds_nothing() -> None:
    """Without a reuse the bound is 1, not 0."""
    assert reuse_curve.upper_bound(0, 0) == 1


def test_rates_count_each_situation() -> None:
    """Wrong are far adapters of other tasks, and opposites at any distance."""
    cases = [
        case(),
        case(distance=0.9, task=1),
        case(distance=0.9, task=4, found=4),
        case(score=0.1, task=2),
        case(situation="absent", distance=0.1, task=3),
        case(situation="opposite", distance=0.0, task=3),
    ]
    found = reuse_curve.rates(cases, reuse_curve.plain(0.8), max_distance=0.5)

    assert found.hit_rate == pytest.approx(3 / 4)
    assert (found.n, found.wrong, found.n_present, found.n_tasks) == (5, 2, 4, 4)
    assert found.wrong_opposites == 1
    assert found.wrong_rate == pytest.approx(2 / 5)


def test_guard_and_comparison_count() -> None:
    """A contradicted case is reused by neither; a far one only if the comparison allows."""
    thresholds = Thresholds(0.8, 0.1, 0.5, 0.3)
    doubtful, far = case(score=0.6), case(score=0.6, distance=0.4)

    assert reuse_curve.near(thresholds)(case())
    assert not reuse_curve.near(thresholds)(case(contradicted=True))
    assert reuse_curve.near(thresholds, guarded=False)(case(contradicted=True))
    assert not reuse_curve.near(thresholds)(doubtful)
    assert reuse_curve.near_or_verified(thresholds)(doubtful)
    assert not reuse_curve.near_or_verified(thresholds)(far)
    assert not reuse_curve.near_or_verified(thresholds)(case(score=0.6, contradicted=True))


def test_choose_takes_the_most_hits_within_the_target() -> None:
    """The laxest thresholds whose bound holds are chosen."""
    good = [case(score=0.7 + 0.001 * i, task=i) for i in range(200)]
    bad = [case(score=0.55, distance=1, situation="absent", task=i) for i in range(50)]
    candidates = [Thresholds(score, 0, 0.3, 0.5) for score in (0.9, 0.5, 0.6, 0.8)]

    chosen = reuse_curve.choose([[*good, *bad]], candidates, target=0.02)

    assert chosen is candidates[2]


def test_choose_refuses_what_n_cannot_carry() -> None:
    """148 clean reuses don't bound a rate by 2 %."""
    cases = [case(task=i) for i in range(148)]

    assert reuse_curve.choose([cases], [Thresholds(0.5, 0, 0, 0.5)], target=0.02) is None
    enough = [*cases, case()]
    assert reuse_curve.choose([enough], [Thresholds(0.5, 0, 0, 0.5)], target=0.02)
    assert not reuse_curve.choose([enough, cases], [Thresholds(0.5, 0, 0, 0.5)], target=0.02)
