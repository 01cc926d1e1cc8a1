"""
What makes adapters for the echo engine, without any model.

The adapters are tiny but real LoRA files, so that the library keeps them like any other.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from adapters_store import AdapterFiles
from adapters_store.delta import delta_cosine
from adapters_store.identity import AdapterId
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE
from t2l_router.engines.base import Weights
from t2l_router.errors import InvalidAdapter
from t2l_router.examples import Pair

BASE = "0" * 64
_MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


class EchoEncoder:
    """Maps equal texts to equal unit vectors and different texts to unrelated ones."""

    dim = 384
    fingerprint = "echo"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``[N, dim]``."""
        seeds = [
            int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts
        ]
        rows = np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
            np.float32
        )
        return unit

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count words."""
        return sum(len(text.split()) for text in texts)


@dataclass(frozen=True, slots=True)
class EchoAdapter:
    """
    An adapter that nothing computes with.

    Args:
        adapter_id: Its content id.
        files: Its PEFT files.
    """

    adapter_id: AdapterId
    files: AdapterFiles = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return len(self.files.weights)


class EchoGenerator:
    """Maps equal embeddings to equal adapters."""

    hypernet_id = "echo"

    def generate(self, embeddings: NDArray[np.float32]) -> list[EchoAdapter]:
        """Write one adapter of rank 1 per row: lora_A is the embedding."""
        return [_adapter(_files(row)) for row in embeddings]


class EchoReader:
    """Reads a task as its description's embedding, turned by its examples."""

    def read(
        self,
        embeddings: NDArray[np.float32],
        texts: Sequence[str],  # noqa: ARG002 - equal texts have equal embeddings
        sets: Sequence[Sequence[Pair]],
    ) -> NDArray[np.float32]:
        """Read tasks as ``[N, dim]``."""
        shown = [EchoEncoder().embed([repr(pairs)])[0] if pairs else 0 for pairs in sets]
        return np.stack([row + turn for row, turn in zip(embeddings, shown, strict=True)])

    def n_fitting(self, pairs: Sequence[Pair]) -> int:
        """All fit."""
        return len(pairs)


class EchoTensors:
    """Files and distances of echo adapters; see `t2l_router.adapters.Tensors`."""

    shapes = {_MODULE.removeprefix("base_model.model."): (EchoEncoder.dim, 1)}  # noqa: RUF012

    def pack(self, weights: Weights) -> AdapterFiles:
        """The adapter as the library stores it."""
        return _files_of(weights)

    def read(self, directory: Path) -> EchoAdapter:
        """The adapter of a PEFT directory."""
        config, tensors = (directory / name for name in (CONFIG_FILE, WEIGHTS_FILE))
        return _adapter(AdapterFiles(config.read_bytes(), tensors.read_bytes()))

    def distance(self, one: Weights, two: Weights) -> float:
        """Delta-W distance, of adapters that all have the same norm."""
        cosine = delta_cosine(_files_of(one), _files_of(two))
        return float(np.sqrt(max(0.0, 2 - 2 * cosine)))


def _files(row: NDArray[np.float32]) -> AdapterFiles:
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "echo",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
    }
    tensors = {
        f"{_MODULE}.lora_A.weight": np.ascontiguousarray(row[None], dtype=np.float32),
        f"{_MODULE}.lora_B.weight": np.ones((1, 1), np.float32),
    }
    return AdapterFiles(json.dumps(config).encode(), save(tensors))


def _adapter(files: AdapterFiles) -> EchoAdapter:
    return EchoAdapter(files.adapter_id(BASE), files)


def _files_of(weights: Weights) -> AdapterFiles:
    if not isinstance(weights, EchoAdapter):
        raise InvalidAdapter(f"{weights.adapter_id} was not made for the echo engine")
    return weights.files
