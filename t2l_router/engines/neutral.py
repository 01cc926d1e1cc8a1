"""How well a model predicts plain text: what an adapter must not spoil, whatever its task."""

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from t2l_router.engines.slots import SlotBank

TEXT = (
    "The river rises in the hills and runs south for about sixty miles before it meets the sea. "
    "Most of the towns along its banks were built around mills, and some of the old buildings are "
    "now used as homes, shops or schools. In spring, when the snow melts, the water can be high "
    "for several weeks, and people who live close to it move their things to the upper floor. "
    "To make a pot of tea, boil fresh water, warm the pot, add one spoon of leaves for each cup, "
    "and wait for four minutes. Yesterday she said that the meeting would begin at nine, so we "
    "took the early train."
)
"""Plain prose about nothing in particular, written for this purpose; about 120 tokens."""


@torch.inference_mode()
def neutral_loss(model: PreTrainedModel, bank: SlotBank, slot: int, ids: torch.Tensor) -> float:
    """
    Give the mean next-token loss on a text, in nats.

    Args:
        model: With the bank's modules in it.
        bank: Holds the adapters.
        slot: Whose; 0 is the base model.
        ids: The text's tokens, ``[T]`` int64 on the model's device.
    """
    with bank.rows([slot]):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return float(cross_entropy(logits[:-1].float(), ids[1:]))
