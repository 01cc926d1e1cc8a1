"""Task embeddings to validated adapters, many in one forward."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2l_router import checkpoint
from t2l_router.context import Reading
from t2l_router.errors import GenerationFailed, InvalidAdapter
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.mean_hypernet import AnyHypernet, MeanHypernet


class AdapterGenerator:
    """
    Runs a hypernetwork on one device.

    Args:
        hypernet: In evaluation mode.
        hypernet_id: Names its weights.
        base: The base model that is served; its fingerprint goes into every adapter.
        device: Where the forward runs.
    """

    def __init__(
        self,
        hypernet: AnyHypernet | MeanHypernet,
        *,
        hypernet_id: str,
        base: LoraSpec,
        device: str = "cpu",
    ) -> None:
        checkpoint.check_base(hypernet.config, base)
        self.hypernet_id = hypernet_id
        self.encoder_name = hypernet.config.encoder
        self.spec = dataclasses.replace(
            hypernet.config.lora, base_fingerprint=base.base_fingerprint
        )
        self.reads = hypernet.config.reader
        self._device = device
        self._hypernet = hypernet.to(device)

    @classmethod
    def load(
        cls, name: str | Path = checkpoint.DEFAULT, *, base: LoraSpec, device: str = "cpu"
    ) -> "AdapterGenerator":
        """
        Load a checkpoint for a base model.

        Args:
            name: As in `checkpoint.from_pretrained`.
            base: Shapes and fingerprint of the base model.
            device: Where the forward runs.

        Raises:
            CheckpointMismatch: The checkpoint was trained for another base model.
            ModelCorrupt: The checkpoint can't be read.
            ModelUnavailable: There is no such checkpoint.
        """
        hypernet = checkpoint.from_pretrained(name)
        return cls(hypernet, hypernet_id=checkpoint.hypernet_id(name), base=base, device=device)

    @torch.inference_mode()
    def generate(self, known: NDArray[np.float32] | Reading) -> list[LoraWeights]:
        """
        Write one adapter per task.

        Args:
            known: ``[N, D]`` float32 embeddings of descriptions, rows of unit L2 norm; of a
                hypernetwork that reads tokens also what a `ContextReader` read.

        Returns:
            N validated adapters, bf16, on the generator's device.

        Raises:
            GenerationFailed: An adapter is not finite or larger than any seen in training.
        """
        pairs = self._hypernet(known if isinstance(known, Reading) else self._rows(known))
        # bf16 here, once: what is served, stored and exported is then the same to the bit.
        adapters = [
            LoraWeights(
                self.spec,
                {name: pair.lora_A[i].bfloat16() for name, pair in pairs.items()},
                {name: pair.lora_B[i].bfloat16() for name, pair in pairs.items()},
            )
            for i in range(len(known))
        ]
        try:
            for adapter in adapters:
                adapter.validate(max_delta_norm=self._hypernet.config.max_delta_norm)
        except InvalidAdapter as error:
            raise GenerationFailed(f"the generated adapter is unusable: {error}") from None
        return adapters

    def _rows(self, embeddings: NDArray[np.float32]) -> Tensor | Reading:
        config = self._hypernet.config
        if embeddings.ndim != 2 or embeddings.shape[1] != config.embedding_dim:  # noqa: PLR2004
            raise GenerationFailed(
                f"embeddings of shape {embeddings.shape}; this hypernetwork reads "
                f"[N, {config.embedding_dim}] from {config.encoder}"
            )
        rows = torch.from_numpy(embeddings).to(self._device)
        return Reading.of(rows, self.reads.raw) if self.reads else rows
