"""Choosing the next token of one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """
    How tokens are chosen; the names and meanings are OpenAI's and vLLM's.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: In (0, 1]; 1 is off.
        top_k: 0 is off.
        min_p: In [0, 1]; 0 is off.
        repetition_penalty: On tokens of prompt and answer; 1 is off.
        presence_penalty: On tokens of the answer.
        frequency_penalty: On tokens of the answer, each time they occur.
        logit_bias: Token id -> what is added to its logit.
        seed: Equal seeds give equal tokens, whatever else runs.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """
    Chooses one request's tokens and remembers them.

    Args:
        params: How to choose.
        prompt: Token ids before the answer.
        vocab_size: Number of logits.
        device: Where the logits are.
    """

    def __init__(
        self, params: SamplingParams, prompt: list[int], *, vocab_size: int, device: torch.device
    ) -> None:
        self._params = params
        self._warpers: Any = _warpers(params)
        self._repeats = params.repetition_penalty != 1
        # Only what is used: a vocabulary is long, and most requests ask for none of these.
        self._tokens = torch.tensor([prompt if self._repeats else []], device=device)
        self._bias = self._counts = None
        if params.presence_penalty or params.frequency_penalty:
            self._counts = torch.zeros(vocab_size, device=device)
        if params.logit_bias:
            self._bias = torch.zeros(vocab_size, device=device)
            for token, bias in params.logit_bias.items():
                self._bias[token] = bias
        # A generator of its own: what other requests draw doesn't change this one's tokens.
        self._random = torch.Generator(device)
        if params.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(params.seed)
        self.is_plain = (
            params.temperature == 0
            and self._counts is None
            and self._bias is None
            and not self._repeats
        )

    def pick(self, logits: Tensor, *, allowed: Tensor | None = None) -> int:
        """
        Choose the next token; where `is_plain` and everything is allowed, it is the likeliest.

        Args:
            logits: ``[vocab_size]`` float32.
            allowed: ``[vocab_size]`` bool; at least one of them is true.
        """
        scores = logits
        if self._bias is not None:
            scores = scores + self._bias
        if self._counts is not None:
            scores = scores - self._params.presence_penalty * (self._counts > 0)
            scores -= self._params.frequency_penalty * self._counts
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        scores = self._warpers(self._tokens, scores[None])
        if self._params.temperature == 0:
            chosen = scores.argmax(dim=-1, keepdim=True)
        else:
            chosen = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._random)
        if self._repeats:
            self._tokens = torch.cat([self._tokens, chosen], dim=-1)
        if self._counts is not None:
            self._counts[chosen[0]] += 1
        return int(chosen)


def _warpers(params: SamplingParams) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if params.repetition_penalty != 1:
        warpers.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature == 0:
        return warpers
    if params.temperature != 1:
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    return warpers
