"""One answer, token by token, as an iterator whose every step is one forward pass."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from t2l_router.engines.base import Delta
from t2l_router.engines.sampling import Sampler, SamplingParams
from t2l_router.engines.slots import SlotBank
from t2l_router.engines.text import StopStrings, TokenText
from t2l_router.wire import FinishReason, Usage

# A long prompt is read in pieces, so that other requests and cancellations get their turn.
PREFILL_TOKENS = 512


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
    """

    ids: list[int]
    sampling: SamplingParams
    stop: list[str]
    max_tokens: int
    ignore_eos: bool = False


class Decoder:
    """
    Decodes with one model; the model, its slots and this belong to one thread.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        slots: The adapters in it.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, slots: SlotBank
    ) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self._slots = slots
        self._vocab_size = model.config.get_text_config().vocab_size
        ends = model.generation_config.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    def answer(self, prompt: Prompt, slot: int) -> Generator[Delta, None, None]:
        """
        Answer a prompt; each step does one forward pass and yields a delta, perhaps an empty one.

        Args:
            prompt: What to answer, and how.
            slot: The adapter's slot; 0 is the base model.
        """
        cache = DynamicCache(config=self._model.config)
        # All but the last piece of the prompt give nothing to say.
        cut = (len(prompt.ids) - 1) // PREFILL_TOKENS * PREFILL_TOKENS
        for start in range(0, cut, PREFILL_TOKENS):
            self._forward(prompt.ids[start : start + PREFILL_TOKENS], slot, cache)
            yield Delta()
        yield from self._decode(prompt, prompt.ids[cut:], slot, cache)

    def _decode(
        self, prompt: Prompt, ids: list[int], slot: int, cache: DynamicCache
    ) -> Generator[Delta, None, None]:
        text, stops = TokenText(self._text_of), StopStrings(prompt.stop)
        sampler = Sampler(
            prompt.sampling, prompt.ids, vocab_size=self._vocab_size, device=self._model.device
        )
        for n_tokens in range(1, prompt.max_tokens + 1):
            token = sampler.pick(self._forward(ids, slot, cache))
            ids = [token]
            at_end = token in self._ends and not prompt.ignore_eos
            is_last = at_end or n_tokens == prompt.max_tokens
            new = "" if at_end else text.feed(token)
            shown = stops.feed(new + text.flush() if is_last else new)
            if not is_last and not stops.stopped:
                yield Delta(shown)
                continue
            finish: FinishReason = "stop" if at_end or stops.stopped else "length"
            usage = Usage.of(len(prompt.ids), n_tokens)
            yield Delta(shown if stops.stopped else shown + stops.flush(), finish, usage)
            return

    @torch.inference_mode()
    def _forward(self, ids: list[int], slot: int, cache: DynamicCache) -> Tensor:
        """Read tokens into the cache; the logits after the last one, ``[vocab_size]`` float32."""
        tokens = torch.tensor([ids], device=self._model.device)
        with self._slots.rows([slot]):
            out = self._model(
                input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        logits: Tensor = out.logits[0, -1].float()
        return logits

    def _text_of(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
