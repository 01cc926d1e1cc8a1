"""What a request may hold, field by field."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

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


class Example(Incoming):
    """An input of a task, and what is answered to it."""

    input: str
    output: str


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
    t2l_examples: list[Example] | None = Field(None, min_length=1, max_length=16)
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
