"""
The OpenAI chat format on the wire: requests, answers, chunks, errors, server-sent events.

Fields fall into three groups.
Most are implemented; some only concern OpenAI's own service and are accepted without effect;
those whose use would change the answer in a way that is not built are refused, never ignored.
Unknown fields are allowed, as the specification doesn't forbid them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from t2l_router.errors import InvalidRequest

FinishReason = Literal["stop", "length", "tool_calls"]
DONE = "[DONE]"
KEEP_ALIVE = b": ping\n\n"

# What not every engine offers: n > 1, log probabilities, tools, JSON answers.
Offer = Literal["choices", "logprobs", "tools", "json"]

# field -> values that ask for nothing, so that clients which spell out defaults are served.
REFUSED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "web_search_options": (),
}


def _flatten(content: Any) -> Any:
    """Join text parts; whatever is no text is named, because this model can't see or hear it."""
    if not isinstance(content, list):
        return content
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if kind in ("text", "refusal") else None
        if not isinstance(text, str):
            raise ValueError(  # noqa: TRY004 - pydantic reports ValueError only
                f"part {i} has type {kind!r}; this model reads text: "
                '{"type": "text", "text": "..."}'
            )
        texts.append(text)
    return "\n".join(texts)


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_TEXT_OR_PARTS = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
)
_TEXT_OR_LIST = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
        ]
    }
)


class Incoming(BaseModel):
    """What clients send; unknown fields are kept, wrong types are refused."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class CalledFunction(Incoming):
    """The function of an earlier tool call."""

    name: str
    arguments: str


class CalledTool(Incoming):
    """A tool call of an earlier answer, as the client sends it back."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(Incoming):
    """A function that the model may call; its parameters are a JSON Schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Incoming):
    """One entry of ``tools``."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Incoming):
    """The one function that must be called."""

    name: str


class ChosenTool(Incoming):
    """A ``tool_choice`` that names a function."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Incoming):
    """A schema that the answer must fit."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    # Not `schema`: that name is pydantic's own.
    definition: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Incoming):
    """What kind of text the answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Message(Incoming):
    """One turn; its content is text, whichever form it came in."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_flatten), _TEXT_OR_PARTS] = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None


class StreamOptions(Incoming):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Incoming):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_listed), _TEXT_OR_LIST
    ] = Field(None, max_length=4)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: int | None = Field(None, ge=1, le=16)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None

    # vLLM's, which its clients send here too
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    ignore_eos: bool | None = None
    cache_salt: str | None = Field(None, max_length=200)

    # ours; `describe` judges the description, so that its errors are its own
    t2l_description: Any = None
    t2l_adapter: str | None = None
    t2l_session: str | None = Field(None, max_length=200)
    t2l_required: bool | None = None

    # accepted without effect
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    reasoning_effort: str | None = None
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # refused unless neutral
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    web_search_options: Any = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens to answer with; the newer of OpenAI's two names wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


R = TypeVar("R", bound=Incoming)

_COMPONENTS = "#/components/schemas/{model}"


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI schema of a body; what it refers to is among `components`."""
    schema = model.model_json_schema(ref_template=_COMPONENTS)
    schema.pop("$defs", None)
    return schema


def components() -> dict[str, Any]:
    """The schemas that chat requests are made of, by name."""
    found: dict[str, Any] = ChatRequest.model_json_schema(ref_template=_COMPONENTS)["$defs"]
    return found


def parse_chat(body: bytes, *, strict: bool = False) -> ChatRequest:
    """
    Read a request body.

    Args:
        body: JSON, whatever else it claims to be.
        strict: Refuse fields that nobody knows.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    request = _checked(parse(body, ChatRequest))
    if strict and request.model_extra:
        unknown = next(iter(request.model_extra))[:80]
        raise InvalidRequest(f"Unrecognized request argument supplied: {unknown}", param=unknown)
    return request


def parse(body: bytes, model: type[R]) -> R:
    """
    Read a request body of one format.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None


def checked_chat(fields: dict[str, Any]) -> ChatRequest:
    """
    A chat request from its fields.

    Raises:
        InvalidRequest: Naming the first field at fault.
    """
    try:
        return _checked(ChatRequest.model_validate(fields))
    except ValidationError as error:
        raise _invalid(error) from None


def _checked(request: ChatRequest) -> ChatRequest:
    """Refuse what is not built, and fields that contradict each other."""
    for field, neutral in REFUSED.items():
        value = getattr(request, field)
        if value is not None and value not in neutral:
            raise InvalidRequest(f"{field} is not supported here; leave it out", param=field)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    form = request.response_format
    if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
        raise InvalidRequest(
            'json_schema belongs to type "json_schema", and to no other',
            param="response_format.json_schema",
        )
    _check_tools(request)
    for i, message in enumerate(request.messages):
        if message.role == "tool" and message.tool_call_id is None:
            raise InvalidRequest(
                "a tool's message says which call it answers", param=f"messages[{i}].tool_call_id"
            )
        if message.content is None and not message.tool_calls:
            raise InvalidRequest("a message needs content", param=f"messages[{i}].content")
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequest("only an assistant calls tools", param=f"messages[{i}].tool_calls")
    return request


def require_offered(request: ChatRequest, offers: Callable[[], frozenset[Offer]]) -> None:
    """
    Make sure that the engine can do what a request asks for: nothing is silently left out.

    Args:
        request: What is asked.
        offers: Asked only if the request needs anything.

    Raises:
        InvalidRequest: Naming the field.
    """
    form = request.response_format
    needed: dict[Offer, tuple[str, object]] = {
        "choices": ("n", request.n not in (None, 1)),
        "logprobs": ("logprobs", request.logprobs),
        "tools": ("tools", request.tools and request.tool_choice != "none"),
        "json": ("response_format", form and form.type != "text"),
    }
    for offer, (field, is_needed) in needed.items():
        if is_needed and offer not in offers():
            raise InvalidRequest(f"{field} is not supported here; leave it out", param=field)


def _check_tools(request: ChatRequest) -> None:
    names = {tool.function.name for tool in request.tools or []}
    choice = request.tool_choice
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice needs tools", param="tool_choice")
    if isinstance(choice, ChosenTool) and choice.function.name not in names:
        raise InvalidRequest(
            f"tool_choice names {choice.function.name[:80]!r}, which is not among the tools",
            param="tool_choice",
        )


def invalid(errors: Sequence[Any], *, skip: int = 0) -> InvalidRequest:
    """
    What pydantic found wrong, as the caller should read it.

    Args:
        errors: As pydantic lists them; the first is told.
        skip: Steps of the way to the field that are not the caller's.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
    param = ""
    for step in first["loc"][skip:]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else str(step)
    if not param:
        return InvalidRequest("the body must be a JSON object")
    param = param[:200]
    if first["type"] == "missing":
        return InvalidRequest(f"{param} is required", param=param)
    value = first["input"]
    # Only small plain values: the caller knows what he sent, and it may be his users' text.
    got = f" (got {value!r})" if isinstance(value, bool | int | float) else ""
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}{got[:80]}", param=param)


def _invalid(error: ValidationError) -> InvalidRequest:
    return invalid(error.errors(include_url=False))


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


def sse(data: BaseModel | str) -> bytes:
    """Encode one server-sent event; a model loses the fields that were not set."""
    text = data if isinstance(data, str) else data.model_dump_json(exclude_unset=True)
    # A newline inside data ends the line, so each line needs its own field name.
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"{lines}\n".encode()


class SseDecoder:
    """Finds the data of events in a byte stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[str]:
        """Yield the data of each event that is now complete; comments are skipped."""
        # CRLF and LF both end lines; a CR at the border waits for its LF.
        *events, self._rest = (self._rest + received).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [
                line.removeprefix(b"data:").removeprefix(b" ")
                for line in event.split(b"\n")
                if line.startswith(b"data:")
            ]
            if lines:
                yield b"\n".join(lines).decode()


def error_of(data: str) -> ErrorDetail | None:
    """The error that an event's data or an error response carries, if it is one."""
    try:
        return ErrorBody.model_validate(json.loads(data)).error
    except (ValueError, RecursionError):
        return None
