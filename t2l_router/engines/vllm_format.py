"""Requests as vLLM's chat endpoint takes them, and its chunks as deltas."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from t2l_router.engines.base import Delta, TokenLogprob, ToolCall
from t2l_router.errors import EngineFailed
from t2l_router.wire import ChatRequest, FinishReason, SseDecoder, Usage

# What reaches vLLM. Not here, because one tenant's request could harm or read another's:
# `priority`, `request_id`, `kv_transfer_params`, `chat_template`, `vllm_xargs`.
_OPENAI = frozenset(
    {
        "temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens",
        "presence_penalty", "frequency_penalty", "logit_bias", "n", "logprobs", "top_logprobs",
        "response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
    }
)  # fmt: skip
_VLLM = frozenset(
    {
        "top_k", "min_p", "repetition_penalty", "length_penalty", "min_tokens", "ignore_eos",
        "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens",
        "spaces_between_special_tokens", "truncate_prompt_tokens", "truncation_side",
        "allowed_token_ids", "bad_words", "structured_outputs", "chat_template_kwargs",
        "add_generation_prompt", "continue_final_message", "thinking_token_budget", "cache_salt",
    }
)  # fmt: skip
_MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id"}


def body_of(
    request: ChatRequest, *, model: str, max_tokens: int, temperature: float
) -> dict[str, Any]:
    """
    The body of a request to vLLM.

    Args:
        request: The client's.
        model: The adapter's id, or the base model's served name.
        max_tokens: Longest answer if the request names no limit.
        temperature: If the request names none.
    """
    # Always a stream: an answer in one piece would hide how far it got, and go on unread.
    fixed = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body = request.model_dump(
        mode="json", by_alias=True, exclude_none=True, include=set(_OPENAI | _VLLM)
    )
    body.setdefault("temperature", temperature)
    if request.token_limit is None:
        body["max_tokens"] = max_tokens
    return body | fixed | {"messages": [_message(turn) for turn in request.messages]}


def _message(turn: Any) -> dict[str, Any]:
    message: dict[str, Any] = turn.model_dump(mode="json", exclude_none=True, include=_MESSAGE)
    if message["role"] == "developer":  # OpenAI's newer name, which chat templates don't know
        message["role"] = "system"
    if not turn.tool_calls:
        message.setdefault("content", "")
    return message


@dataclass
class _Call:
    """A tool call that is still being written."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Reader:
    """
    Turns the bytes of vLLM's event stream into deltas.

    The last delta waits for the token counts, which vLLM sends after it.
    """

    _events: SseDecoder = field(default_factory=SseDecoder)
    _last: Delta | None = None
    _usage: Usage | None = None
    _calls: dict[int, dict[int, _Call]] = field(default_factory=dict)

    def feed(self, received: bytes) -> Iterator[Delta]:
        """
        Yield what is now known to be no last delta.

        Raises:
            EngineFailed: The stream tells of an error or can't be read.
        """
        for data in self._events.feed(received):
            if data == "[DONE]":
                return
            chunk = _read(data)
            if usage := chunk.get("usage"):
                self._usage = Usage.of(usage["prompt_tokens"], usage["completion_tokens"])
            for choice in chunk["choices"]:
                delta = self._delta(choice)
                if delta.finish_reason:
                    if self._last:
                        yield self._last
                    self._last = delta
                elif delta.text or delta.logprobs:
                    yield delta

    def end(self) -> Delta:
        """
        The very last delta.

        Raises:
            EngineFailed: The stream was cut.
        """
        if self._last is None or self._usage is None:
            raise EngineFailed("the vLLM server's answer was cut off")
        return replace(self._last, usage=self._usage)

    def _delta(self, choice: dict[str, Any]) -> Delta:
        index, told = choice["index"], choice["delta"]
        for part in told.get("tool_calls") or ():
            call = self._calls.setdefault(index, {}).setdefault(part["index"], _Call())
            function = part.get("function") or {}
            call.id += part.get("id") or ""
            call.name += function.get("name") or ""
            call.arguments += function.get("arguments") or ""
        calls: tuple[ToolCall, ...] = ()
        reason = _reason(choice.get("finish_reason"))
        if reason is not None and (written := self._calls.get(index)):
            calls = tuple(ToolCall(c.id, c.name, c.arguments) for _, c in sorted(written.items()))
            reason = "tool_calls"  # after a call that was asked for by name, vLLM says `stop`
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        return Delta(
            text=told.get("content") or "",
            finish_reason=reason,
            index=index,
            logprobs=tuple(map(_logprob, logprobs)),
            tool_calls=calls,
        )


def _read(data: str) -> dict[str, Any]:
    try:
        chunk: dict[str, Any] = json.loads(data)
    except ValueError:
        raise EngineFailed("the vLLM server sent an event that is no JSON") from None
    if error := chunk.get("error"):
        message = error.get("message") if isinstance(error, dict) else error
        raise EngineFailed(f"the vLLM server broke off: {message}")
    return chunk


def _reason(told: str | None) -> FinishReason | None:
    if told in ("abort", "error"):
        raise EngineFailed(f"the vLLM server ended the answer with {told!r}")
    if told is None:
        return None
    if told == "length":
        return "length"
    return "tool_calls" if told == "tool_calls" else "stop"


def _logprob(told: dict[str, Any]) -> TokenLogprob:
    data = told.get("bytes")
    return TokenLogprob(
        told["token"],
        told["token"].encode() if data is None else bytes(data),
        told["logprob"],
        tuple(map(_logprob, told.get("top_logprobs") or ())),
    )
