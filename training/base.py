"""The frozen base model with its target modules opened for adapters."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from t2l_router.engines.slots import adapt
from t2l_router.errors import ConfigError
from t2l_router.hypernet import LoraPair
from t2l_router.lora import LoraSpec

# 2 GiB in float32: a step's answers for most models, a part of them for Gemma's 262,144 tokens.
MOST_LOGITS = 1 << 29


def find_model(name: str) -> Path:
    """Give the directory of a model: *name* itself if it is one, else the cached, pulled model."""
    if Path(name).is_dir():
        return Path(name)
    # Lazy: machines without the serving dependencies train from a directory.
    from t2l_router import models  # noqa: PLC0415
    from t2l_router.config import Settings  # noqa: PLC0415

    return models.pull(name, cache_dir=Settings().cache_dir).path


def load_frozen(directory: Path, *, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """
    Load a base model for training through it or scoring it: frozen, in evaluation mode.

    Raises:
        ConfigError: *directory* holds no model.
    """
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory} holds no model; get one with: t2l models pull NAME")
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    model.to(device)
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    return frozen


class AdaptedBase(nn.Module):
    """
    A frozen base model in which batch row i is adapted by the i-th LoRA pair.

    Args:
        model: The base model; its target modules are replaced.
        spec: Which modules, and the scaling.
        dropout: LoRA dropout, training mode only.
    """

    def __init__(self, model: PreTrainedModel, spec: LoraSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self._adapted = adapt(model, spec, dropout=dropout)
        self._softcap: float | None = getattr(model.config, "final_logit_softcapping", None)

    def layer_parameters(self) -> Iterator[nn.Parameter]:
        """Give the decoder layers' own parameters: no embeddings, no adapters."""
        parameters: Iterator[nn.Parameter] = self.model.get_decoder().layers.parameters()
        return parameters

    def forward(
        self,
        pairs: Mapping[str, LoraPair],
        input_ids: Tensor,
        position_ids: Tensor,
        label_at: Tensor,
    ) -> Tensor:
        """
        Give the next-token logits at some positions only; the vocabulary is wide.

        Args:
            pairs: Target module -> pairs of ``[T, L, ...]``.
            input_ids: ``[T, S]`` int64, several examples a row.
            position_ids: ``[T, S]`` int64, starting over with each example; attention doesn't
                cross these borders.
            label_at: ``[K]`` int64, flat positions in ``[0, T * S)``.

        Returns:
            ``[K, vocabulary]`` float32.
        """
        return self._logits(self._hidden(pairs, input_ids, position_ids, label_at))

    def losses(
        self,
        pairs: Mapping[str, LoraPair],
        input_ids: Tensor,
        position_ids: Tensor,
        label_at: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """
        Give the cross-entropy at some positions, never holding more than `MOST_LOGITS` logits.

        Args:
            pairs: As `forward` takes them.
            input_ids: Likewise.
            position_ids: Likewise.
            label_at: Likewise.
            labels: ``[K]`` int64, the right tokens.

        Returns:
            ``[K]`` float32.
        """
        hidden = self._hidden(pairs, input_ids, position_ids, label_at)
        at_once = max(1, MOST_LOGITS // self.model.config.vocab_size)
        if len(hidden) <= at_once:
            return self._cross_entropy(hidden, labels)
        # The backward pass computes a part's logits again instead of keeping them all.
        return torch.cat(
            [
                checkpoint(self._cross_entropy, *part, use_reentrant=False)
                for part in zip(hidden.split(at_once), labels.split(at_once), strict=True)
            ]
        )

    def _cross_entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self._logits(hidden), labels, reduction="none")

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        return self._softcap * torch.tanh(logits / self._softcap) if self._softcap else logits

    def _hidden(
        self,
        pairs: Mapping[str, LoraPair],
        input_ids: Tensor,
        position_ids: Tensor,
        label_at: Tensor,
    ) -> Tensor:
        """The last layer's states at some positions, ``[K, d_model]``."""
        dtype = self.model.dtype
        for module in self.spec.modules:
            lora_a = pairs[module.name].lora_A.to(dtype)
            lora_b = (pairs[module.name].lora_B * self.spec.scaling).to(dtype)
            for layer in range(self.spec.n_layers):
                adapted = self._adapted[module.path.format(layer=layer)]
                adapted.lora_A, adapted.lora_B = lora_a[:, layer], lora_b[:, layer]
        decoder = self.model.get_decoder()
        hidden = decoder(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        chosen: Tensor = hidden.flatten(0, 1)[label_at]
        return chosen
