"""
The OpenAI chat format on the wire: requests, answers, chunks, errors, server-sent events.

Fields fall into three groups.
Most are implemented; some only concern OpenAI's own service and are accepted without effect;
those whose use would change the answer in a way that is not built are refused, never ignored.
Unknown fields are allowed, as the specification doesn't forbid them.
"""

from t2l_router.wire.answers import (
    AdapterFacts,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    ChunkDelta,
    ErrorBody,
    ErrorDetail,
    FinishReason,
    ModelCard,
    ModelList,
    Usage,
)
from t2l_router.wire.events import (
    DONE,
    KEEP_ALIVE,
    SseDecoder,
    error_of,
    sse,
)
from t2l_router.wire.reading import (
    body_schema,
    checked_chat,
    components,
    invalid,
    parse,
    parse_chat,
    require_offered,
)
from t2l_router.wire.requests import (
    REFUSED,
    CalledFunction,
    CalledTool,
    ChatRequest,
    ChosenFunction,
    ChosenTool,
    Example,
    Function,
    Incoming,
    JsonSchema,
    Message,
    Offer,
    ResponseFormat,
    StreamOptions,
    Tool,
)

__all__ = [
    "DONE",
    "KEEP_ALIVE",
    "REFUSED",
    "AdapterFacts",
    "AnswerMessage",
    "CalledFunction",
    "CalledTool",
    "ChatChunk",
    "ChatCompletion",
    "ChatRequest",
    "Choice",
    "ChosenFunction",
    "ChosenTool",
    "ChunkChoice",
    "ChunkDelta",
    "ErrorBody",
    "ErrorDetail",
    "Example",
    "FinishReason",
    "Function",
    "Incoming",
    "JsonSchema",
    "Message",
    "ModelCard",
    "ModelList",
    "Offer",
    "ResponseFormat",
    "SseDecoder",
    "StreamOptions",
    "Tool",
    "Usage",
    "body_schema",
    "checked_chat",
    "components",
    "error_of",
    "invalid",
    "parse",
    "parse_chat",
    "require_offered",
    "sse",
]
