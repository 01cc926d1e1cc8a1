"""Which of the numbers that lose nothing a host multiplies fastest: some emulate bfloat16."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from t2l_router.engines.quantise import PackedLinear

logger = logging.getLogger(__name__)

CpuDtype = Literal["float32", "bfloat16"]

# Enough weights not to stay in a cache between uses, as a model's don't.
_N_MATRICES, _D_OUT, _D_IN = 8, 1_536, 576
_REPEATS = 5
_MANY = 64  # rows of a prompt's piece


@torch.inference_mode()
def fastest_on_cpu() -> CpuDtype:
    """
    Choose the weights' numbers by timing a few matrices, which takes a tenth of a second.

    Returns:
        ``bfloat16``, or ``float32`` where one row and many take less time in it. Rounded weights
        are never chosen: they cost some of the answers (ADR 12).
    """
    linears = [nn.Linear(_D_IN, _D_OUT, bias=False) for _ in range(_N_MATRICES)]
    packed = [PackedLinear(linear) for linear in linears]
    one, many = torch.randn(1, _D_IN), torch.randn(_MANY, _D_IN)
    in_float32 = _seconds(linears, one) + _seconds(linears, many)
    in_bfloat16 = _seconds(packed, one.bfloat16()) + _seconds(packed, many.bfloat16())
    chosen: CpuDtype = "bfloat16" if in_bfloat16 <= in_float32 else "float32"
    logger.info(
        "%s is fastest here: one row and many take %.0f us in bfloat16 and %.0f in float32",
        chosen,
        *(1e6 * seconds / _N_MATRICES for seconds in (in_bfloat16, in_float32)),
    )
    return chosen


def _seconds(linears: Sequence[Callable[[Tensor], Tensor]], rows: Tensor) -> float:
    """Least time that all of them take, one after the other."""
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for linear in linears:
            linear(rows)
        best = min(best, time.perf_counter() - start)
    return best
