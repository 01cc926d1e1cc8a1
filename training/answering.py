"""Greedy answers to many prompts at once, each with its own adapter."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2l_router.engines.slots import SlotBank


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    One question to one adapter.

    Args:
        ids: Token ids of the rendered chat.
        slot: The adapter that answers; 0 is the base model.
    """

    ids: list[int]
    slot: int


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    bank: SlotBank,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch: int,
    label: str = "Answering",
) -> list[str]:
    """
    Answer every prompt.

    Args:
        model: The base model whose target modules *bank* replaced.
        bank: Holds the adapters.
        tokenizer: The base model's.
        prompts: In any order; those of similar length are answered together.
        max_new_tokens: Longest answer.
        batch: Prompts answered together, fewer where they are long.
        label: Of the progress bar, shown on a terminal only.

    Returns:
        The answers' texts, in the order of *prompts*.
    """
    answers = [""] * len(prompts)
    generate: Any = model.generate  # transformers leaves it untyped
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    console = Console(stderr=True)
    groups: Iterable[list[int]] = list(_groups(order, [len(p.ids) for p in prompts], batch))
    if console.is_terminal:
        groups = track(groups, label, console=console)
    for chosen in groups:
        rows = [prompts[i].ids for i in chosen]
        longest = max(map(len, rows))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        with bank.rows([prompts[i].slot for i in chosen]):
            out: torch.Tensor = generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
        texts = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text.strip()
    return answers


def _groups(order: Sequence[int], lengths: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Cut prompts, shortest first, into groups of at most *batch* and `_MOST_TOKENS`."""
    group: list[int] = []
    for i in order:
        if group and (len(group) == batch or (len(group) + 1) * lengths[i] > _MOST_TOKENS):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


# Padded prompt tokens in one batch: an attention mask grows with the square of the length.
_MOST_TOKENS = 1 << 17
