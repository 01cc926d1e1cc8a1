"""
What the base model would answer with examples in its prompt, as a target for the adapter.

A packed row holds several examples of one task. Read as one conversation, without borders, every
example stands behind earlier ones: in-context learning, at the price of one more forward.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from t2l_router.hypernet import LoraPair
from training.base import AdaptedBase
from training.data import Batch

_SHOTS_LEAST = 2


def in_context_divergence(
    base: AdaptedBase, pairs: Mapping[str, LoraPair], batch: Batch, logits: Tensor
) -> Tensor:
    """
    Give the KL divergence from the base model that sees the row's earlier examples.

    Args:
        base: The base model.
        pairs: The adapters in use; the target is computed without them.
        batch: T rows.
        logits: ``[K, vocabulary]`` of the adapted model.

    Returns:
        ``[K]`` float32; where fewer than two examples come before, the loss of the right answer.
    """
    nothing = {
        name: LoraPair(torch.zeros_like(pair.lora_A), torch.zeros_like(pair.lora_B))
        for name, pair in pairs.items()
    }
    n_rows, width = batch.input_ids.shape
    positions = torch.arange(width, device=logits.device).expand(n_rows, width)
    with torch.no_grad():
        target = base(nothing, batch.input_ids, positions, batch.label_at).log_softmax(-1)
    said = logits.log_softmax(-1)
    divergence = F.kl_div(said, target, reduction="none", log_target=True).sum(-1)
    before = (batch.position_ids == 0).cumsum(1).flatten()[batch.label_at] - 1
    right = F.nll_loss(said, batch.labels, reduction="none")
    return torch.where(before >= _SHOTS_LEAST, divergence, right)
