"""Answers of a given form: JSON, or JSON that fits a schema."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2l_router.errors import InvalidRequest

# Without free whitespace: a small model that may write spaces can go on with them for ever.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Structures:
    """
    Makes constraints for one model's tokens.

    Args:
        tokenizer: The model's.
        vocab_size: Number of logits.
        ends: Tokens that end an answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int, ends: frozenset[int]
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._vocab_size = vocab_size
        self._ends = sorted(ends)

    def json(self, schema: Mapping[str, Any], *, param: str) -> "JsonConstraint":
        """
        Have an answer fit a JSON Schema.

        Args:
            schema: The schema; ``{"type": "object"}`` is any object.
            param: The request field that it came from.

        Raises:
            InvalidRequest: The schema is wrong, or uses what can't be enforced.
        """
        import llguidance  # noqa: PLC0415 - only requests with structure pay for it

        matcher: Any = llguidance.LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(json.dumps(schema), overrides=_LAYOUT)
            wrong = matcher.validate_grammar(grammar, self._tokens)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise InvalidRequest(f"the JSON schema can't be used: {wrong[:300]}", param=param)
        return JsonConstraint(matcher(self._tokens, grammar), self._vocab_size, self._ends)

    @cached_property
    def _tokens(self) -> Any:
        import llguidance.hf  # noqa: PLC0415 - as above

        return llguidance.hf.from_tokenizer(
            self._tokenizer, n_vocab=self._vocab_size, eos_token=self._ends or None
        )


class JsonConstraint:
    """
    What one answer may go on with.

    Args:
        matcher: llguidance's state of the answer.
        vocab_size: Number of logits.
        ends: Tokens that end the answer.
    """

    def __init__(self, matcher: Any, vocab_size: int, ends: list[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._ends = ends

    def allowed(self) -> Tensor:
        """Tokens that may come next, ``[vocab_size]`` bool; the end, once the answer is whole."""
        if self._matcher.is_stopped():
            allowed = torch.zeros(self._vocab_size, dtype=torch.bool)
            allowed[self._ends] = True
            return allowed
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size]
        return torch.from_numpy(mask).bool()

    def accept(self, token: int) -> None:
        """Take the token that came."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    def copy(self) -> "JsonConstraint":
        """The same state for another answer."""
        return JsonConstraint(self._matcher.deep_copy(), self._vocab_size, self._ends)
