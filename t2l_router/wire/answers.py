"""Answers, chunks, model lists and errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class _Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)


class Usage(_Outgoing):
    """Token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> "Usage":
        """Add the two counts up."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class AdapterFacts(_Outgoing):
    """Which adapter served and why: the body key ``t2l``."""

    adapter: str | None
    decision: str
    reason: str
    score: float | None = None
    trace: str = ""
    timing_ms: dict[str, float]


class AnswerMessage(_Outgoing):
    """The whole answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Any] = []


class Choice(_Outgoing):
    """One answer; there is one a request."""

    index: int = 0
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class ChatCompletion(_Outgoing):
    """The body of a plain answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[Choice]
    usage: Usage
    t2l: AdapterFacts


class ChunkDelta(_Outgoing):
    """What a chunk adds; fields it doesn't add are absent."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(_Outgoing):
    """One choice's part of a chunk."""

    index: int
    delta: ChunkDelta
    finish_reason: FinishReason | None
    logprobs: None


class ChatChunk(_Outgoing):
    """One event of a streamed answer; fields that were not set are absent."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChunkChoice]
    usage: Usage | None = None
    t2l: AdapterFacts | None = None


class ModelCard(_Outgoing):
    """One entry of ``/v1/models``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "t2l"


class ModelList(_Outgoing):
    """The body of ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(_Outgoing):
    """What went wrong, in OpenAI's four fields."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(_Outgoing):
    """The body of every error."""

    error: ErrorDetail
