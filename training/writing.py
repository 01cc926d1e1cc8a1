"""Adapters of descriptions, whatever a hypernetwork takes of them: embeddings, or tokens, too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from t2l_router.context import ContextReader
from t2l_router.generator import AdapterGenerator
from t2l_router.lora import LoraWeights
from training.base import find_model, load_frozen


@dataclass(frozen=True)
class BatchWriter:
    """
    Writes adapters of many descriptions at once.

    Args:
        generator: Runs the hypernetwork.
        reader: Reads the descriptions' tokens; None for a hypernetwork that takes embeddings alone.
    """

    generator: AdapterGenerator
    reader: ContextReader | None = None

    @classmethod
    def load(cls, generator: AdapterGenerator) -> "BatchWriter":
        """Load what reads tokens beside the hypernetwork, if it takes any."""
        if not generator.reads:
            return cls(generator)
        directory = find_model(generator.spec.base_model)
        model = load_frozen(directory, device="cpu", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        return cls(generator, ContextReader(model, tokenizer, generator.reads.depths))

    def __call__(self, texts: Sequence[str], embeddings: NDArray[np.float32]) -> list[LoraWeights]:
        """
        Write one adapter a description.

        Args:
            texts: N descriptions.
            embeddings: Theirs, ``[N, D]``.
        """
        if self.reader is None:
            return self.generator.generate(embeddings)
        known = self.reader.read(embeddings, texts, [()] * len(texts))
        return self.generator.generate(known)
