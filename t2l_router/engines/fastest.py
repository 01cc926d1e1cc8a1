"""Which numbers a host multiplies fastest: hosts differ several times over."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from t2l_router.engines.quantise import Int8Linear, PackedLinear

logger = logging.getLogger(__name__)

CpuDtype = Literal["float32", "bfloat16", "int4"]

# Enough weights not to stay in a cache between uses, as a model's don't.
_N_MATRICES, _D_OUT, _D_IN = 8, 1_536, 576
_REPEATS = 5
_MANY = 64  # rows of a prompt's piece
# Rounding must pay clearly, not by the noise of a measurement.
_CLEARLY = 0.9


@torch.inference_mode()
def fastest_on_cpu() -> CpuDtype:
    """
    Choose the weights' numbers by timing a few matrices, which takes a tenth of a second.

    Returns:
        ``float32`` where bfloat16 is emulated; ``int4``, which is 8 bits where 4 lose more, where
        decoding one row by integers is faster; else ``bfloat16``.
    """
    linears = [nn.Linear(_D_IN, _D_OUT, bias=False) for _ in range(_N_MATRICES)]
    packed = [PackedLinear(linear) for linear in linears]
    rounded = [Int8Linear(linear) for linear in linears]
    one, many = torch.randn(1, _D_IN), torch.randn(_MANY, _D_IN)
    in_float32 = _seconds(linears, one) + _seconds(linears, many)
    one, many = one.bfloat16(), many.bfloat16()
    one_in_bfloat16 = _seconds(packed, one)
    in_bfloat16 = one_in_bfloat16 + _seconds(packed, many)
    one_in_int8 = _seconds(rounded, one)
    chosen: CpuDtype = "float32"
    if in_bfloat16 <= in_float32:
        chosen = "int4" if one_in_int8 < _CLEARLY * one_in_bfloat16 else "bfloat16"
    logger.info(
        "%s is fastest here: a row takes %.0f us in int8 and %.0f in bfloat16; one row and many "
        "%.0f in bfloat16 and %.0f in float32",
        chosen,
        *(1e6 * s / _N_MATRICES for s in (one_in_int8, one_in_bfloat16, in_bfloat16, in_float32)),
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
