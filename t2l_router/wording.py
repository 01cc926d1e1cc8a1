"""The pieces of an answer as OpenAI's two formats have them: chat completions and completions."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Protocol

from t2l_router import wire
from t2l_router.engines.base import Delta, TokenLogprob, ToolCall

# `json.dumps` would make an encoder at each call.
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Gathered:
    """One choice of an answer that is not streamed."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: wire.FinishReason | None = None

    def add(self, delta: Delta) -> None:
        """Add a piece."""
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.tool_calls += delta.tool_calls
        self.finish_reason = delta.finish_reason or self.finish_reason

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)


class Wording(Protocol):
    """How one answer is told."""

    common: dict[str, Any]

    def opening(self, facts: wire.AdapterFacts) -> bytes:
        """The events before the first piece."""

    def piece(self, delta: Delta) -> bytes:
        """The events of a piece."""

    def whole(
        self, choices: Sequence[Gathered], usage: wire.Usage, facts: wire.AdapterFacts
    ) -> dict[str, Any]:
        """The body of an answer that is not streamed."""


class ChatWording:
    """
    Tells an answer as a chat completion.

    Args:
        chat: What is answered.
        fingerprint: Of the base model: equal ones give equal tokens for equal seeds.
    """

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, chat: wire.ChatRequest, fingerprint: str) -> None:
        self._n = chat.n or 1
        self._wants_usage = chat.wants_usage_chunk
        self._wants_logprobs = bool(chat.logprobs)
        self.common: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": chat.model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }

    def opening(self, facts: wire.AdapterFacts) -> bytes:
        """A chunk for each choice that says who speaks; the first holds our facts."""
        said = {"role": "assistant", "content": ""}
        first = self._event([self._part(0, said)], t2l=facts.model_dump())
        others = [self._event([self._part(index, said)]) for index in range(1, self._n)]
        return b"".join([first, *others])

    def piece(self, delta: Delta) -> bytes:
        """A chunk for what the piece adds, one for its choice's end, one for the counts."""
        events = []
        if delta.logprobs or (delta.text and (delta.index or self._wants_logprobs)):
            logprobs = logprobs_of(delta.logprobs) if self._wants_logprobs else None
            part = self._part(delta.index, {"content": delta.text}, logprobs=logprobs)
            events.append(self._event([part]))
        elif delta.text:
            # Nearly every chunk is of this kind and differs in its text alone.
            head, tail = self._text_frame
            events.append(head + encode_basestring(delta.text).encode(errors="replace") + tail)
        if delta.tool_calls:
            calls = [{"index": i, **tool_call(call)} for i, call in enumerate(delta.tool_calls)]
            events.append(self._event([self._part(delta.index, {"tool_calls": calls})]))
        if delta.finish_reason:
            part = self._part(delta.index, {}, finish_reason=delta.finish_reason)
            events.append(self._event([part]))
        if delta.usage and self._wants_usage:
            events.append(self._event([], usage=delta.usage.model_dump()))
        return b"".join(events)

    def whole(
        self, choices: Sequence[Gathered], usage: wire.Usage, facts: wire.AdapterFacts
    ) -> dict[str, Any]:
        """The body of a chat completion."""
        return {
            **self.common,
            "object": self.kind,
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage.model_dump(),
            "t2l": facts.model_dump(),
        }

    def _choice(self, index: int, choice: Gathered) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if choice.tool_calls else ""),
            "refusal": None,
            "annotations": [],
        }
        if choice.tool_calls:
            message["tool_calls"] = [tool_call(call) for call in choice.tool_calls]
        return {
            "index": index,
            "message": message,
            "finish_reason": choice.finish_reason,
            "logprobs": logprobs_of(choice.logprobs) if self._wants_logprobs else None,
        }

    @staticmethod
    def _part(
        index: int,
        delta: dict[str, Any],
        *,
        finish_reason: wire.FinishReason | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": logprobs,
        }

    @cached_property
    def _text_frame(self) -> list[bytes]:
        """What stands before and after the text of a chunk that adds nothing else."""
        return self._event([self._part(0, {"content": "\0"})]).split(rb'"\u0000"')

    def _event(self, choices: list[dict[str, Any]], **extra: Any) -> bytes:
        if self._wants_usage:
            extra.setdefault("usage", None)
        chunk = {**self.common, "object": self.chunk_kind, "choices": choices, **extra}
        return wire.sse(_compact(chunk))


class TextWording(ChatWording):
    """Tells an answer as a completion, OpenAI's older format."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def opening(self, facts: wire.AdapterFacts) -> bytes:
        """A chunk without text, for our facts."""
        return self._event([self._text(0)], t2l=facts.model_dump())

    def piece(self, delta: Delta) -> bytes:
        """A chunk for what the piece adds, with its choice's end, and one for the counts."""
        events = []
        if delta.text or delta.logprobs or delta.finish_reason:
            logprobs = older_logprobs(delta.logprobs) if self._wants_logprobs else None
            text = self._text(delta.index, delta.text, delta.finish_reason, logprobs)
            events.append(self._event([text]))
        if delta.usage and self._wants_usage:
            events.append(self._event([], usage=delta.usage.model_dump()))
        return b"".join(events)

    def _choice(self, index: int, choice: Gathered) -> dict[str, Any]:
        logprobs = older_logprobs(choice.logprobs) if self._wants_logprobs else None
        return self._text(index, choice.text, choice.finish_reason, logprobs)

    @staticmethod
    def _text(
        index: int,
        text: str = "",
        finish_reason: wire.FinishReason | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": logprobs}


def tool_call(call: ToolCall) -> dict[str, Any]:
    """A call as OpenAI has it."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def logprobs_of(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log probabilities as chat completions have them."""
    return {
        "content": [
            {**_token(token), "top_logprobs": [_token(other) for other in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def older_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log probabilities as completions have them."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
