"""Whether a new adapter is like the others of its hypernetwork; if not, nobody reuses it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

LEAST_POPULATION = 30
"""Below this many adapters nothing is odd."""

POPULATION = 1_000
"""So many of the newest adapters are looked at."""

_LIMIT = 8.0
_LEAST_SPREAD = 0.05  # adapters that are all alike must not make each small difference odd
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Why an adapter is odd.

    Args:
        delta_norm: Norm of its delta-W.
        median: Of the population's norms.
        deviations: How many robust standard deviations the logarithm of its norm is off.
        population: Adapters it was compared with.
    """

    delta_norm: float
    median: float
    deviations: float
    population: int

    def evidence(self) -> dict[str, float | int]:
        """What the audit log keeps."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def judge(delta_norm: float, population: Sequence[float]) -> Verdict | None:
    """
    Compare an adapter's norm with those of its hypernetwork's adapters.

    Semantics:
        Median and MAD of the logarithms, so that a few odd ones in the population don't matter.

    Returns:
        None if it is sound, or too few are known to tell.
    """
    logs = [math.log(norm) for norm in population if norm > 0]
    if len(logs) < LEAST_POPULATION:
        return None
    median = statistics.median(logs)
    spread = _MAD_TO_SIGMA * statistics.median(abs(log - median) for log in logs)
    own = math.log(delta_norm) if delta_norm > 0 else -math.inf
    deviations = abs(own - median) / max(spread, _LEAST_SPREAD)
    if deviations <= _LIMIT:
        return None
    return Verdict(delta_norm, math.exp(median), min(deviations, 1e6), len(logs))
