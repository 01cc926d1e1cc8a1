"""Sizes and likeness of delta-W, computed from rank x rank matrices: delta-W is never formed."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import InvalidImport
from adapters_store.identity import TensorBytes
from adapters_store.peft_files import AdapterFiles


def to_float32(tensor: TensorBytes) -> NDArray[np.float32]:
    """The tensor's numbers; BF16, which numpy lacks, is the upper half of a float32."""
    if tensor.dtype == "BF16":
        upper = np.frombuffer(tensor.data, dtype="<u2").astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(tensor.shape)
    dtype = {"F16": "<f2", "F32": "<f4"}[tensor.dtype]
    return np.frombuffer(tensor.data, dtype=dtype).astype(np.float32).reshape(tensor.shape)


def check_shapes(files: AdapterFiles, expected: Mapping[str, tuple[int, int]] | None) -> None:
    """
    Check that each pair of matrices fits together, and the base model where it is known.

    Args:
        files: The adapter.
        expected: Module path -> (d_in, d_out) of the base model's modules; None checks the
            pairs alone.

    Raises:
        InvalidImport: Naming the module at fault.
    """
    rank = files.settings.rank
    for module in files.modules:
        a, b = files.pair(module)
        if (a.shape[:1], b.shape[1:], len(a.shape + b.shape)) != ((rank,), (rank,), 4):
            raise InvalidImport(
                f"{module}: lora_A {list(a.shape)} and lora_B {list(b.shape)} should be "
                f"[{rank}, d_in] and [d_out, {rank}]"
            )
        if expected is None:
            continue
        if module not in expected:
            raise InvalidImport(
                f"{module} is no module of this base model that adapters may change"
            )
        if (a.shape[1], b.shape[0]) != expected[module]:
            raise InvalidImport(
                f"{module}: the adapter maps {a.shape[1]} to {b.shape[0]} features, the base "
                f"model {expected[module][0]} to {expected[module][1]}; it is for another model"
            )


def delta_norm(files: AdapterFiles) -> float:
    """
    Frobenius norm of the scaled delta-W over all modules.

    Raises:
        InvalidImport: A tensor holds NaN or infinity.
    """
    total = 0.0
    for module in files.modules:
        a, b = (to_float32(tensor) for tensor in files.pair(module))
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise InvalidImport(f"{module}: the tensors hold NaN or infinity")
        total += float(np.sum((b.T @ b) * (a @ a.T), dtype=np.float64))
    norm = files.settings.scaling * math.sqrt(max(0.0, total))
    if not math.isfinite(norm):
        raise InvalidImport("delta-W overflows float32")
    return norm


def delta_cosine(one: AdapterFiles, two: AdapterFiles) -> float:
    """
    Cosine of two adapters' delta-W seen as long vectors, in [-1, 1].

    Semantics:
        <B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T)), summed over modules and scaled.

    Returns:
        1 for equal behaviour, 0 for unrelated; 1 as well when both change nothing.
    """
    norms = delta_norm(one) * delta_norm(two)
    if norms == 0:
        return 1.0 if delta_norm(one) == delta_norm(two) else 0.0
    inner = 0.0
    for module in set(one.modules) & set(two.modules):
        a1, b1 = (to_float32(tensor) for tensor in one.pair(module))
        a2, b2 = (to_float32(tensor) for tensor in two.pair(module))
        if a1.shape[1] == a2.shape[1] and b1.shape[0] == b2.shape[0]:
            inner += float(np.sum((b1.T @ b2) * (a1 @ a2.T), dtype=np.float64))
    scaling = one.settings.scaling * two.settings.scaling
    return max(-1.0, min(1.0, scaling * inner / norms))
