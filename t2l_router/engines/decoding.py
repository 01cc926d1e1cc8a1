"""One answer as it grows: from logits to tokens, from tokens to text, to its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2l_router.engines.base import Delta, TokenLogprob
from t2l_router.engines.sampling import Sampler, SamplingParams
from t2l_router.engines.text import StopStrings, TokenText

if TYPE_CHECKING:
    from t2l_router.wire import FinishReason


class Constraint(Protocol):
    """What an answer's tokens must form."""

    def allowed(self) -> Tensor:
        """Tokens that may come next, ``[vocab_size]`` bool on the CPU; at least one."""

    def accept(self, token: int) -> None:
        """Take the token that came."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What one answer is made from.

    Args:
        ids: The rendered conversation, at least one token.
        sampling: How tokens are chosen.
        stop: Texts that end the answer.
        max_tokens: Longest answer.
        ignore_eos: Go on after the end-of-text token, for benchmarks.
        logprobs: Likeliest tokens to report for each one; None reports nothing.
        constraint: What the answer's tokens must form.
        index: The choice that the answer is.
        salt: Prompts with different salts share no work.
    """

    ids: list[int]
    sampling: SamplingParams
    stop: Sequence[str]
    max_tokens: int
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None
    index: int = 0
    salt: str | None = None


class Vocabulary:
    """
    A model's tokens: their texts, their number, and those that end an answer.

    Args:
        model: Its config says the number and the end.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.size: int = model.config.get_text_config().vocab_size
        self.device: torch.device = model.device
        ends: Any = model.generation_config and model.generation_config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    def text_of(self, ids: list[int]) -> str:
        """Text of some tokens, without special ones."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def logprob(self, token: int, logprob: float) -> TokenLogprob:
        """Describe a token."""
        text = str(self._tokenizer.decode([token], skip_special_tokens=False))
        return TokenLogprob(text, text.encode(), logprob)


class Answer:
    """
    One answer, token by token.

    Args:
        prompt: What it is made from.
        vocabulary: Of the model.
    """

    def __init__(self, prompt: Prompt, vocabulary: Vocabulary) -> None:
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._text = TokenText(vocabulary.text_of)
        self._stops = StopStrings(prompt.stop)
        self._unshown: list[TokenLogprob] = []
        self._sampler = Sampler(
            prompt.sampling, prompt.ids, vocab_size=vocabulary.size, device=vocabulary.device
        )
        self.n_tokens = 0

    def pick(self, logits: Tensor, likeliest: int) -> int:
        """
        Choose the next token.

        Args:
            logits: ``[vocab_size]`` float32.
            likeliest: Their argmax.
        """
        constraint = self._prompt.constraint
        if constraint is not None:
            token = self._sampler.pick(logits, allowed=constraint.allowed().to(logits.device))
            constraint.accept(token)
        elif self._sampler.is_plain:
            token = likeliest
        else:
            token = self._sampler.pick(logits)
        if self._prompt.logprobs is not None:
            self._unshown.append(self._logprob(logits, token, self._prompt.logprobs))
        return token

    def add(self, token: int) -> Delta:
        """Take the next token and say what it adds; a delta with a finish reason is the last."""
        self.n_tokens += 1
        prompt, stops = self._prompt, self._stops
        at_end = token in self._vocabulary.ends and not prompt.ignore_eos
        is_last = at_end or self.n_tokens == prompt.max_tokens
        new = "" if at_end else self._text.feed(token)
        shown = stops.feed(new + self._text.flush() if is_last else new)
        if at_end and self._unshown:
            self._unshown.pop()  # the token that only says that the text has ended
        if not is_last and not stops.stopped:
            return self._delta(shown)
        finish: FinishReason = "stop" if at_end or stops.stopped else "length"
        return self._delta(shown if stops.stopped else shown + stops.flush(), finish)

    def _delta(self, text: str, finish: "FinishReason | None" = None) -> Delta:
        # Tokens whose text is held back are reported with the text.
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._unshown and (text or finish):
            logprobs, self._unshown = tuple(self._unshown), []
        return Delta(text, finish, index=self._prompt.index, logprobs=logprobs)

    def _logprob(self, logits: Tensor, token: int, n_top: int) -> TokenLogprob:
        logprobs = logits.log_softmax(dim=-1)
        best = logprobs.topk(n_top)
        top = [
            self._vocabulary.logprob(other, value)
            for other, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        own = self._vocabulary.logprob(token, float(logprobs[token]))
        return TokenLogprob(own.text, own.data, own.logprob, tuple(top))
