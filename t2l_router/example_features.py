"""
What a few examples tell of a task, as one vector: a hypernetwork's input beside the description.

A description of one sentence rarely names the labels or the format of the answers; three examples
do. The vector is read once, when the adapter is written, so that prompts stay as short as before.

Source: the hidden states are Hendel et al., In-Context Learning Creates Task Vectors, 2023, pooled
over several layers and over the answers too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t2l_router.chat_format import render
from t2l_router.errors import ConfigError, ModelCorrupt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = tuple[str, str]
Floats = NDArray[np.float32]

_INPUT_MOST, _OUTPUT_MOST = 1200, 400  # characters; a question stands at an input's end
_TOKENS_MOST = 2048
_BATCH_TOKENS = 1 << 15
_CLIP = 5.0  # some hidden dimensions are huge now and then


class TextEncoder(Protocol):
    """Maps texts to unit vectors."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Give ``[N, D]`` float32 rows of unit L2 norm."""
        ...


TEXT_KINDS: dict[str, Callable[[Pair], str]] = {
    # An encoder reads some 250 tokens: the output must be among them.
    "pairs": lambda pair: f"{pair[0][-500:]} => {pair[1][:200]}",
    "inputs": lambda pair: pair[0],
    "outputs": lambda pair: pair[1],
}
KINDS = ("hidden", *TEXT_KINDS)


@dataclass(frozen=True)
class Shown:
    """
    Examples as one conversation.

    Args:
        ids: Its token ids.
        answers: Start and end of each answer that fits.
    """

    ids: list[int]
    answers: list[tuple[int, int]]


@dataclass(frozen=True)
class Standard:
    """
    How raw features become a unit vector: by the mean and spread of those trained on.

    Args:
        kinds: Which features, of `KINDS`.
        sizes: The width of each.
        mean: ``[F]`` of the raw features of the training tasks.
        std: ``[F]`` likewise.
    """

    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    mean: Floats
    std: Floats

    @property
    def width(self) -> int:
        """Width of the vector."""
        return len(self.mean)

    def apply(self, raw: Floats) -> Floats:
        """Give ``[N, width]`` rows of unit L2 norm for ``[N, F]`` raw features."""
        scaled = np.clip((raw - self.mean) / self.std, -_CLIP, _CLIP)
        edges = np.cumsum(self.sizes)[:-1]
        return unit(np.concatenate([unit(part) for part in np.split(scaled, edges, 1)], 1))

    def tensors(self) -> dict[str, Floats]:
        """Give what `load` reads, by name."""
        return {"mean": self.mean, "std": self.std}

    def facts(self) -> dict[str, str]:
        """Give the metadata that `load` reads."""
        return {"kinds": ",".join(self.kinds), "sizes": ",".join(map(str, self.sizes))}

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        save_file(self.tensors(), path, metadata=self.facts())

    @classmethod
    def load(cls, path: Path) -> "Standard":
        """
        Read what `save` wrote; other tensors in the file don't matter.

        Raises:
            ModelCorrupt: The file can't be read or isn't one of these.
        """
        try:
            with safe_open(path, "np") as file:
                facts = file.metadata()
                return cls(
                    tuple(facts["kinds"].split(",")),
                    tuple(int(size) for size in facts["sizes"].split(",")),
                    file.get_tensor("mean"),
                    file.get_tensor("std"),
                )
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ModelCorrupt(f"{path}: {error!r}; get the checkpoint anew") from None


@dataclass(frozen=True)
class ExampleReader:
    """
    Reads sets of examples the way a hypernetwork was trained on them.

    Args:
        standard: The checkpoint's.
        encoder: The task encoder.
        model: The base model, unadapted.
        tokenizer: The base model's.
    """

    standard: Standard
    encoder: TextEncoder
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"

    def read(self, sets: Sequence[Sequence[Pair]]) -> Floats:
        """
        Give one vector a set.

        Args:
            sets: N sets of at least one input and output each.

        Returns:
            ``[N, width]`` float32, rows of unit L2 norm.

        Raises:
            ConfigError: A set is empty.
        """
        if not all(sets):
            raise ConfigError("no example given; give at least one input with its output")
        blocks = [
            hidden(self.model, [shown(self.tokenizer, pairs) for pairs in sets])
            if kind == "hidden"
            else embedded(self.encoder, sets, kind)
            for kind in self.standard.kinds
        ]
        return self.standard.apply(np.concatenate(blocks, 1))

    def condition(self, description: str | None, pairs: Sequence[Pair]) -> Floats:
        """
        Give a hypernetwork's input for one task.

        Args:
            description: Of the task, if there is one.
            pairs: Examples of the task.

        Returns:
            ``[1, D + F]`` float32, of unit L2 norm.
        """
        embedded_description = self.encoder.embed([description or "."])
        if description is None:
            embedded_description = np.zeros_like(embedded_description)
        return compose(embedded_description, self.read([pairs]))


def compose(descriptions: Floats, examples: Floats) -> Floats:
    """
    Put the two parts of a hypernetwork's input side by side.

    Args:
        descriptions: ``[N, D]`` unit rows, or zeros where there is none.
        examples: ``[N, F]`` unit rows, or zeros where there is none.

    Returns:
        ``[N, D + F]`` rows of unit L2 norm.
    """
    return unit(np.concatenate([descriptions, examples], 1))


def unit(rows: Floats) -> Floats:
    """Scale rows to unit L2 norm; zeros stay zero."""
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return scaled.astype(np.float32)


def embedded(encoder: TextEncoder, sets: Sequence[Sequence[Pair]], kind: str) -> Floats:
    """Give the mean embedding of each set's texts, ``[N, D]``."""
    sets_of_texts = [[TEXT_KINDS[kind](shorten(pair)) for pair in pairs] for pairs in sets]
    texts = sorted({text for group in sets_of_texts for text in group}, key=len)
    number = {text: row for row, text in enumerate(texts)}
    step = 256
    rows = np.concatenate(
        [encoder.embed(texts[at : at + step]) for at in range(0, len(texts), step)]
    )
    return np.stack([rows[[number[text] for text in group]].mean(0) for group in sets_of_texts])


def shorten(pair: Pair) -> Pair:
    """Keep the end of a long input and the start of a long output."""
    return pair[0][-_INPUT_MOST:], pair[1][:_OUTPUT_MOST]


def shown(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair]) -> Shown:
    """Give examples as the turns of one conversation."""
    turns: list[dict[str, Any]] = []
    ids: list[int] = []
    answers = []
    for text, output in map(shorten, pairs):
        turns.append({"role": "user", "content": text})
        prompt = render(tokenizer, turns)
        answer: list[int] = tokenizer(output, add_special_tokens=False)["input_ids"]
        answers.append((len(prompt), len(prompt) + max(1, len(answer))))
        ids = prompt + (answer or [prompt[-1]])
        turns.append({"role": "assistant", "content": output})
    cut = max(0, len(ids) - _TOKENS_MOST)
    kept = [(start - cut, end - cut) for start, end in answers if start > cut]
    return Shown(ids[cut:], kept or [(1, len(ids) - cut)])


@torch.no_grad()
def hidden(model: "PreTrainedModel", conversations: Sequence[Shown]) -> Floats:
    """
    Give the base model's hidden states around the answers.

    Args:
        model: The base model, unadapted.
        conversations: N of them.

    Returns:
        ``[N, 8 * hidden size]``: at the input and a third, two thirds and all of the layers, the
        mean state before the answers, and that over the answers' tokens.
    """
    decoder: Any = model.get_decoder()
    rows: list[Floats] = [np.empty(0, np.float32)] * len(conversations)
    for chosen in _batches(conversations):
        longest = max(len(conversations[i].ids) for i in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        weights = torch.zeros(2, len(chosen), longest)
        for row, i in enumerate(chosen):
            conversation = conversations[i]
            # Filler comes last, so that nothing attends to it.
            ids[row, : len(conversation.ids)] = torch.tensor(conversation.ids)
            share = 1 / len(conversation.answers)
            for start, end in conversation.answers:
                weights[0, row, start - 1] += share
                weights[1, row, start:end] += share / (end - start)
        states = decoder(
            input_ids=ids.to(model.device), use_cache=False, output_hidden_states=True
        ).hidden_states
        last = len(states) - 1
        picked = [states[round(last * third / 3)].float() for third in range(4)]
        pooled = torch.cat(
            [torch.einsum("wbs,bsh->bwh", weights.to(model.device), s).flatten(1) for s in picked],
            dim=1,
        )
        for i, values in zip(chosen, pooled.cpu().numpy(), strict=True):
            rows[i] = values
    return np.stack(rows)


def _batches(conversations: Sequence[Shown]) -> Iterator[list[int]]:
    """Cut conversations, shortest first, into groups that fit into memory."""
    group: list[int] = []
    for i in sorted(range(len(conversations)), key=lambda i: len(conversations[i].ids)):
        if group and (len(group) + 1) * len(conversations[i].ids) > _BATCH_TOKENS:
            yield group
            group = []
        group.append(i)
    yield group
