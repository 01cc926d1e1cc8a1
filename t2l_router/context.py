"""
What is known of a task, token by token: its description, a few examples, or both.

The frozen base model itself reads the tokens. A label that the description names or the examples
answer with is then there as the base model knows it, and can be copied into an adapter. It is read
once, when the adapter is written, so that prompts stay as short as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2l_router.chat_format import render
from t2l_router.examples import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a token is; `FILLER` is read by nobody, `EMBEDDING` stands for the description's embedding
# and `NOTHING` is always there, so that attention has somewhere to rest.
FILLER, DESCRIPTION, INPUT, BEFORE_ANSWER, ANSWER, EMBEDDING, NOTHING = range(7)
KINDS = 7

DESCRIPTION_MOST, EXAMPLES_MOST = 255, 384  # tokens
CONTEXT_MOST = 1 + DESCRIPTION_MOST + EXAMPLES_MOST
_INPUT_MOST, _OUTPUT_MOST = 1200, 400  # characters; a question stands at an input's end


@dataclass(frozen=True, slots=True)
class Segment:
    """
    Tokens that are read together.

    Args:
        ids: Token ids.
        kinds: What each is.
    """

    ids: list[int]
    kinds: list[int]


@dataclass(frozen=True)
class Reading:
    """
    What is known of N tasks, as a hypernetwork takes it.

    Args:
        embeddings: ``[N, D]`` float32, descriptions' embeddings of unit L2 norm; rows of zeros
            where there is none.
        states: ``[N, C, F]``, the base model's hidden states of the tokens.
        kinds: ``[N, C]`` int64, what each token is.
    """

    embeddings: Tensor
    states: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, width: int) -> "Reading":
        """
        Give what is known of descriptions by their embeddings alone.

        Args:
            embeddings: ``[N, D]`` float32.
            width: F, of hidden states.
        """
        n = len(embeddings)
        kinds = torch.empty(n, 0, dtype=torch.long, device=embeddings.device)
        return cls(embeddings, embeddings.new_empty(n, 0, width), kinds)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: list[int]) -> "Reading":
        return Reading(self.embeddings[rows], self.states[rows], self.kinds[rows])


@dataclass(frozen=True)
class ContextReader:
    """
    Reads descriptions and examples for a hypernetwork.

    Args:
        model: The base model, unadapted.
        tokenizer: The base model's.
        depths: Of the hypernetwork.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    depths: tuple[int, ...]

    def read(
        self,
        embeddings: NDArray[np.float32],
        texts: Sequence[str],
        sets: Sequence[Sequence[Pair]],
    ) -> Reading:
        """
        Read N tasks.

        Args:
            embeddings: ``[N, D]``, of descriptions; zeros where there is none.
            texts: N descriptions; empty ones are not read.
            sets: N sets of examples; empty ones are not read.
        """
        groups = []
        for text, pairs in zip(texts, sets, strict=True):
            group = [describe(self.tokenizer, text)] if text else []
            groups.append([*group, show(self.tokenizer, pairs)] if pairs else group)
        ids, positions, kinds = (part.to(self.model.device) for part in lay_out(groups))
        states = states_of(self.model, ids, positions, self.depths)
        return Reading(torch.from_numpy(embeddings).to(self.model.device), states, kinds)

    def n_fitting(self, pairs: Sequence[Pair]) -> int:
        """How many examples of a task there is room for."""
        return show(self.tokenizer, pairs).kinds.count(BEFORE_ANSWER) if pairs else 0


def describe(tokenizer: "PreTrainedTokenizerBase", text: str) -> Segment:
    """Give a description's tokens."""
    return described(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


def described(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> Segment:
    """Give a tokenised description behind a token on which attention rests and nobody reads."""
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    ids = ids[:DESCRIPTION_MOST]
    return Segment([first, *ids], [FILLER, *[DESCRIPTION] * len(ids)])


def show(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair]) -> Segment:
    """Give examples as the turns of one conversation; those that don't fit are left out."""
    turns = []
    for text, output in pairs:
        prompt = render(tokenizer, [{"role": "user", "content": text[-_INPUT_MOST:]}])
        answer = tokenizer(output[:_OUTPUT_MOST], add_special_tokens=False)["input_ids"]
        turns.append((prompt, answer))
    return shown(turns, Seam.of(tokenizer))


def shown(turns: Sequence[tuple[list[int], list[int]]], seam: "Seam") -> Segment:
    """
    Put turns together.

    Args:
        turns: Each a rendered prompt and the tokens of its answer, without end of turn.
        seam: Of the tokenizer's template.
    """
    ids: list[int] = []
    kinds: list[int] = []
    for whole, said in turns:
        answer = said[: EXAMPLES_MOST // 2] or whole[-1:]
        prompt = [*seam.between, *whole[seam.skip :]] if ids else whole
        room = EXAMPLES_MOST - len(ids) - len(answer)
        if len(prompt) > room:
            if ids:
                continue
            prompt = prompt[-room:]
        ids += prompt + answer
        kinds += [INPUT] * (len(prompt) - 1) + [BEFORE_ANSWER] + [ANSWER] * len(answer)
    # The first token holds attention and nothing else.
    return Segment(ids, [FILLER, *kinds[1:]])


@dataclass(frozen=True, slots=True)
class Seam:
    """
    How a chat template joins turns that were rendered alone.

    Args:
        skip: How many tokens only the first turn of a conversation begins with.
        between: The tokens that end an answer before the next turn.
    """

    skip: int
    between: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Seam":
        """Read it off a conversation of two turns."""
        turn = {"role": "user", "content": "b"}
        before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]
        said = len(tokenizer("x", add_special_tokens=False)["input_ids"])
        alone, later = render(tokenizer, [turn]), render(tokenizer, [*before, turn])
        later = later[len(render(tokenizer, before[:1])) + said :]
        shared = 0
        while shared < min(len(alone), len(later)) and alone[-1 - shared] == later[-1 - shared]:
            shared += 1
        return cls(len(alone) - shared, tuple(later[: len(later) - shared]))


def lay_out(groups: Sequence[Sequence[Segment]], width: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """
    Put each task's segments into one row; positions start over with each segment.

    Args:
        groups: N tasks' segments.
        width: Of the rows; by default that of the longest.

    Returns:
        Ids, positions and kinds, ``[N, C]`` int64.
    """
    width = width or max(sum(len(segment.ids) for segment in group) for group in groups)
    ids = torch.zeros(len(groups), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    kinds = torch.full_like(ids, FILLER)
    for row, group in enumerate(groups):
        at = 0
        for segment in group:
            end = at + len(segment.ids)
            ids[row, at:end] = torch.tensor(segment.ids)
            kinds[row, at:end] = torch.tensor(segment.kinds)
            positions[row, at:end] = torch.arange(end - at)
            at = end
        # Filler is a segment of its own, so that nothing attends to it.
        positions[row, at:] = torch.arange(width - at)
    return ids, positions, kinds


@torch.no_grad()
def states_of(
    model: "PreTrainedModel", ids: Tensor, positions: Tensor, depths: Sequence[int]
) -> Tensor:
    """
    Give the base model's hidden states.

    Args:
        model: The base model, unadapted.
        ids: ``[N, C]`` token ids.
        positions: ``[N, C]``, starting over with each segment; attention doesn't cross segments.
        depths: After how many layers; 0 is the input embedding.

    Returns:
        ``[N, C, len(depths) * hidden size]``.
    """
    decoder: Any = model.get_decoder()
    if not ids.shape[1] or tuple(depths) == (0,):
        embedded: Tensor = decoder.get_input_embeddings()(ids)
        return embedded.repeat(1, 1, len(depths))
    states = decoder(
        input_ids=ids, position_ids=positions, use_cache=False, output_hidden_states=True
    ).hidden_states
    return torch.cat([states[depth] for depth in depths], -1)
