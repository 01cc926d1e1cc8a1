"""
``/v1/completions``, OpenAI's older format, told as the chat that it is here.

The models served are instruction models, so a prompt is one turn of a user and the model's own
template stands around it; a raw continuation is not offered.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from t2l_router import wire
from t2l_router.errors import InvalidRequest

MAX_PROMPTS = 64


def _listed(prompt: Any) -> Any:
    if isinstance(prompt, list) and any(isinstance(part, int | list) for part in prompt):
        raise ValueError("token ids are not supported here; send text")
    return [prompt] if isinstance(prompt, str) else prompt


_TEXTS = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)


class CompletionRequest(wire.Incoming):
    """The body of ``POST /v1/completions``; fields that it shares with chats pass through."""

    model: str
    prompt: Annotated[list[str], BeforeValidator(_listed), _TEXTS] = Field(
        min_length=1, max_length=MAX_PROMPTS
    )
    stream: bool | None = None
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

    def chats(self, *, strict: bool = False) -> list[wire.ChatRequest]:
        """
        The chat request that each prompt amounts to.

        Args:
            strict: Refuse fields that nobody knows.

        Raises:
            InvalidRequest: Naming the first field at fault.
        """
        shared = dict(self.model_extra or {}) | {"model": self.model, "stream": self.stream}
        shared |= {"max_tokens": self.max_tokens}
        if self.logprobs is not None:
            shared |= {"logprobs": True, "top_logprobs": self.logprobs}
        return [
            wire.checked_chat(
                {**shared, "messages": [{"role": "user", "content": prompt}]}, strict=strict
            )
            for prompt in self.prompt
        ]


def parse(body: bytes) -> CompletionRequest:
    """
    Read a request body.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    request = wire.parse(body, CompletionRequest)
    n = (request.model_extra or {}).get("n") or 1
    for field, value, neutral in (
        ("best_of", request.best_of, (None, 1, n)),
        ("echo", request.echo, (None, False)),
        ("suffix", request.suffix, (None, "")),
        ("messages", (request.model_extra or {}).get("messages"), (None,)),
    ):
        if value not in neutral:
            raise InvalidRequest(f"{field} is not supported here; leave it out", param=field)
    if request.stream and len(request.prompt) > 1:
        raise InvalidRequest("a stream answers one prompt; send them one by one", param="prompt")
    return request
