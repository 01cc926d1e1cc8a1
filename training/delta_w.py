"""Products of delta-W of many tasks and layers, without forming them."""

from torch import Tensor

from t2l_router.hypernet import LoraPair


def inner(one: LoraPair, two: LoraPair) -> Tensor:
    """
    Give inner products of unscaled delta-W.

    ``<B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T))``: matrices as small as the ranks.

    Args:
        one: Pairs of T tasks and L layers.
        two: Likewise; the rank may be another.

    Returns:
        ``[T, L]``.
    """
    return ((one.lora_B.mT @ two.lora_B) * (one.lora_A @ two.lora_A.mT)).sum((-2, -1))


def squares(pair: LoraPair) -> Tensor:
    """Give squared Frobenius norms of unscaled delta-W, ``[T, L]``."""
    return inner(pair, pair).clamp_min(0)
