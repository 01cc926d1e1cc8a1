"""
The task encoder trained along with the hypernetwork, by a LoRA of its own.

A frozen sentence encoder places texts by topic; what an adapter needs is what the answer should
look like. The base model's loss can teach it that.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router import encoder_lora
from t2l_router.checkpoint import ENCODER_FILE
from t2l_router.errors import ConfigError
from t2l_router.hypernet import Hypernet, LoraPair
from training.data import Batch
from training.trainer import Trainer

_BATCH = 256


class TunedHypernet(nn.Module):
    """
    A hypernetwork and the encoder in front of it, trained together.

    Args:
        hypernet: Maps embeddings to LoRA pairs.
        encoder: A sentence-transformers model that `encoder_lora.open_up` prepared.
    """

    def __init__(self, hypernet: Hypernet, encoder: nn.Module) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.encoder = encoder
        self._frozen_fingerprint = hypernet.config.encoder_fingerprint

    @classmethod
    def load(cls, hypernet: Hypernet, encoder: Path, *, rank: int, alpha: float) -> "TunedHypernet":
        """Put a hypernetwork behind an encoder from the disk whose LoRA can be trained."""
        # Lazy: it takes seconds, and other systems train without it.
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        model = SentenceTransformer(str(encoder), device="cpu", local_files_only=True).float()
        encoder_lora.open_up(model, rank=rank, alpha=alpha)
        return cls(hypernet, model)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Give ``[N, D]`` float32 embeddings of unit L2 norm of normalised texts."""
        encoder: Any = self.encoder
        device = next(self.hypernet.parameters()).device
        features = {
            key: value.to(device) if isinstance(value, Tensor) else value
            for key, value in encoder.preprocess(list(texts)).items()
        }
        fast = self.training and device.type == "cuda"
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            rows = encoder(features)["sentence_embedding"]
        return F.normalize(rows.float(), dim=-1)

    def forward(self, embeddings: Tensor) -> dict[str, LoraPair]:
        """Give the pairs for ``[B, D]`` embeddings, as the hypernetwork does."""
        pairs: dict[str, LoraPair] = self.hypernet(embeddings)
        return pairs

    def save_encoder(self, directory: Path) -> Path:
        """Write what was trained of the encoder; the hypernetwork's config then names it."""
        path = directory / ENCODER_FILE
        encoder_lora.save(self.encoder, path)
        tuned = encoder_lora.fingerprint(self._frozen_fingerprint, path)
        self.hypernet.config = dataclasses.replace(self.hypernet.config, encoder_fingerprint=tuned)
        return path


class TunedTrainer(Trainer):
    """A `Trainer` of a `TunedHypernet`; the pack must hold its descriptions' texts."""

    def _embed(self, batch: Batch) -> Tensor:
        assert isinstance(self.source, TunedHypernet)
        texts = self._texts()
        return self.source.encode([texts[at] for at in batch.descriptions])

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """Every training description's embedding by the encoder as it is now, ``[M, D]``."""
        assert isinstance(self.source, TunedHypernet)
        texts = self._texts()
        starts = range(0, len(texts), _BATCH)
        return torch.cat([self.source.encode(texts[at : at + _BATCH]) for at in starts])

    def _texts(self) -> list[str]:
        texts: list[str] | None = self.pack.facts.get("descriptions")
        if texts is None:
            raise ConfigError("the pack holds no texts; prepare it again with this version")
        return texts
