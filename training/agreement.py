"""How differently two descriptions of one task are written as adapters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from t2l_router.hypernet import LoraPair
from training.delta_w import inner

_LEAST = 1e-6


def disagreement(pairs: Mapping[str, LoraPair], twins: Tensor, rows: int) -> Tensor:
    """
    Give the distance of delta-W between twins as a share of that between tasks.

    Semantics:
        mean over twins of |delta_W - delta_W'|^2, divided by the mean over neighbouring rows, which
        are other tasks', of the same; all layers and modules together. The divisor has
        its gradient: without, the quotient grows as all adapters shrink, and all become one.

    Args:
        pairs: Target module -> pairs of ``rows`` tasks, then of M twins.
        twins: ``[M]`` int64, the row of each twin's task.
        rows: How many tasks.

    Returns:
        A number from 0 on; 1 where another wording changes as much as another task.
    """
    within = between = torch.zeros((), device=twins.device)
    for pair in pairs.values():
        first = LoraPair(pair.lora_A[:rows], pair.lora_B[:rows])
        own = LoraPair(first.lora_A[twins], first.lora_B[twins])
        other = LoraPair(pair.lora_A[rows:], pair.lora_B[rows:])
        within = within + _apart(own, other)
        between = between + _apart(first, LoraPair(*(side.roll(1, 0) for side in first)))
    return within / between.clamp_min(_LEAST)


def _apart(one: LoraPair, two: LoraPair) -> Tensor:
    """The mean squared Frobenius distance of unscaled delta-W, layers summed, unformed."""
    return (inner(one, one) + inner(two, two) - 2 * inner(one, two)).sum(-1).mean()
