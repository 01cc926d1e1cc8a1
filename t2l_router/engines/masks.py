"""Attention masks over the bank."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2l_router.engines import attention


class Masks:
    """
    Which tokens see which, in the form that a model takes.

    Args:
        model: Its config says how it attends.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config.get_text_config()
        self._dtype = model.dtype
        # CUDA's kernels add; a mask of truth values would be converted in every layer.
        self._is_additive = (
            config._attn_implementation != attention.NAME  # noqa: SLF001 - it has no public name
            or model.device.type == "cuda"
        )
        self._window: int | None = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or [])
        sliding = "sliding_attention"
        if self._window is None or kinds == {"full_attention"}:
            self._kinds: tuple[str, ...] = ("full_attention",)
        else:
            self._kinds = tuple(sorted(kinds)) if kinds else (sliding,)

    def of(self, positions: Tensor, length: int) -> Tensor | dict[str, Tensor]:
        """Masks for new tokens at *positions* ``[batch, new]`` before *length* keys."""
        keys = torch.arange(length, device=positions.device)
        here = positions[:, None, :, None]  # [batch, 1, new, 1]
        causal = keys <= here
        masks = {}
        for kind in self._kinds:
            seen = causal
            if kind == "sliding_attention":
                assert self._window is not None, "checked when the kinds were read"
                seen = causal & (keys > here - self._window)
            masks[kind] = self._form(seen)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _form(self, seen: Tensor) -> Tensor:
        if not self._is_additive:
            return seen
        least = torch.finfo(self._dtype).min
        return torch.zeros_like(seen, dtype=self._dtype).masked_fill(~seen, least)
