"""The identity of an adapter: a hash of what it is, not of who made it or where it lies."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

AdapterId = NewType("AdapterId", str)
"""``t2l-`` and 32 hex digits; the only name under which an engine ever sees an adapter."""

PREFIX = "t2l-"


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """
    One tensor as safetensors stores it.

    Args:
        dtype: safetensors' name of the dtype, e.g. ``BF16`` or ``F32``.
        shape: The tensor's shape.
        data: Its elements, row-major, little-endian.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def adapter_id(
    base_fingerprint: str,
    lora_config: Mapping[str, object],
    tensors: Mapping[str, TensorBytes],
) -> AdapterId:
    """
    Derive the content id of an adapter; equal ids mean equal behaviour on the same base model.

    Args:
        base_fingerprint: Fingerprint of the base model the adapter belongs to.
        lora_config: What changes how the tensors act: ``r``, ``lora_alpha``, ``use_rslora``,
            ``target_modules`` (JSON values only).
        tensors: The adapter's tensors by their PEFT name.

    Returns:
        The id. It does not depend on the order of keys or tensors.
    """
    digest = hashlib.sha256()

    def field(data: bytes) -> None:
        # A length before each field: no two different inputs give the same byte stream.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    field(base_fingerprint.encode())
    field(json.dumps(lora_config, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        field(name.encode())
        field(f"{tensor.dtype}{list(tensor.shape)}".encode())
        field(tensor.data)
    return AdapterId(PREFIX + digest.hexdigest()[:32])
