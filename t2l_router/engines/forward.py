"""Forward passes over the bank, through transformers or leaner where that is known to be equal."""

from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from t2l_router.engines.kv import KvWindow
from t2l_router.engines.llama import LlamaForward


class Forward(Protocol):
    """What a batch does with a model."""

    def read(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> None:
        """Write the keys and values of new tokens; arguments as in `decode`."""

    def decode(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> Tensor:
        """
        Read new tokens.

        Args:
            ids: ``[batch, new]`` int64.
            positions: Where they are, ``[batch, new]`` int64.
            mask: Which keys each may see, in the form that the model takes.
            window: Takes their keys and values.

        Returns:
            The logits after each row's last token, ``[batch, vocab_size]``.
        """


class TransformersForward:
    """A model's own forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._decoder: Any = model.get_decoder()

    def read(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> None:
        """Write the keys and values of new tokens; see `Forward.read`."""
        self._decoder(**_options(ids, positions, mask, window))

    def decode(self, ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> Tensor:
        """Read new tokens; see `Forward.decode`."""
        logits: Tensor = self._model(
            **_options(ids, positions, mask, window), logits_to_keep=1
        ).logits[:, -1]
        return logits


def forward_of(model: PreTrainedModel) -> Forward:
    """Choose how a model is run."""
    return LlamaForward(model) if LlamaForward.fits(model) else TransformersForward(model)


def _options(ids: Tensor, positions: Tensor, mask: Any, window: KvWindow) -> dict[str, Any]:
    return {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": mask,
        "past_key_values": window,
        "use_cache": True,
    }
