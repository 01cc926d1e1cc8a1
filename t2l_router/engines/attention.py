"""Attention over the bank: what transformers' SDPA function does, without copies of the keys."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "t2l"


def attend(  # noqa: PLR0917 - transformers calls it so
    module: Any,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """
    Attend with grouped queries.

    The queries that share a head of keys become its rows, where a step has one token a row: masked
    SDPA would else want every key once for each of them.

    Args:
        module: transformers' attention module.
        query: ``[batch, heads, new, d]``.
        key: ``[batch, kv_heads, length, d]``.
        value: As *key*.
        attention_mask: ``[batch, 1, new, length]``; without one, tokens attend to earlier ones.
        dropout: Probability; 0 in evaluation.
        scaling: Of the products.

    Returns:
        ``[batch, new, heads, d]``, and no weights.
    """
    batch, heads, new, _d = query.shape
    groups = heads // key.shape[1]
    if groups > 1 and new == 1:
        query = query.reshape(batch, key.shape[1], groups, -1)
    elif groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=attention_mask is None and new > 1,
        scale=scaling,
    )
    return out.reshape(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def install(model: PreTrainedModel) -> None:
    """Have a model attend in this way, if it attends by SDPA."""
    if model.config._attn_implementation == "sdpa":  # noqa: SLF001 - it has no public name
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
