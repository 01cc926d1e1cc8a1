"""Between LangChain's messages and OpenAI's, which the wire speaks."""

from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call, tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

PROVIDER = "t2l"
# Blocks of an answer that its other fields hold already, or that a model isn't to read again.
_NOT_SENT = {"tool_call", "invalid_tool_call", "tool_call_chunk", "reasoning", "thinking"}


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Conversation turns as the server reads them."""
    sent = convert_to_openai_messages([_spoken(message) for message in messages])
    return [sent] if isinstance(sent, dict) else sent


def _spoken(message: BaseMessage) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    blocks = [
        block
        for block in message.content
        if isinstance(block, str) or block.get("type") not in _NOT_SENT
    ]
    return message.model_copy(update={"content": blocks})


def result_of(body: dict[str, Any]) -> ChatResult:
    """A plain answer; one generation for each choice."""
    usage = _usage(body.get("usage"))
    common = _metadata(body)
    generations: list[ChatGeneration] = []
    for choice in body["choices"]:
        message = choice["message"]
        calls, invalid = _tool_calls(message.get("tool_calls") or [])
        metadata = common | {"finish_reason": choice["finish_reason"]}
        if choice.get("logprobs"):
            metadata["logprobs"] = choice["logprobs"]
        answer = AIMessage(
            content=message.get("content") or "",
            tool_calls=calls,
            invalid_tool_calls=invalid,
            # The counts are the whole request's: on one message only, so that sums stay true.
            usage_metadata=None if generations else usage,
            response_metadata=metadata,
        )
        generations.append(ChatGeneration(message=answer))
    return ChatResult(generations=generations, llm_output={"model_name": body.get("model")})


def chunk_of(body: dict[str, Any]) -> ChatGenerationChunk:
    """
    One chunk of a streamed answer.

    Metadata stand where the wire has them, each once: LangChain adds up what comes twice.
    """
    choice: dict[str, Any] = (body.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    metadata: dict[str, Any] = {}
    if "t2l" in body:
        metadata |= _metadata(body)
    info: dict[str, Any] = {}
    if choice.get("finish_reason"):
        metadata["finish_reason"] = choice["finish_reason"]
    if choice.get("logprobs"):
        info["logprobs"] = choice["logprobs"]
    message = AIMessageChunk(
        content=delta.get("content") or "",
        tool_call_chunks=[_call_chunk(call) for call in delta.get("tool_calls") or []],
        usage_metadata=_usage(body.get("usage")),
        response_metadata=metadata,
    )
    return ChatGenerationChunk(message=message, generation_info=info or None)


def _metadata(body: dict[str, Any]) -> dict[str, Any]:
    found = {"model_provider": PROVIDER, "model_name": body.get("model"), "id": body.get("id")}
    kept = {key: body[key] for key in ("system_fingerprint", "t2l") if body.get(key)}
    return found | kept


def _usage(usage: dict[str, Any] | None) -> UsageMetadata | None:
    if not usage:
        return None
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
    )


def _tool_calls(told: list[dict[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in told:
        try:
            parsed = parse_tool_call(call)
        except OutputParserException as error:
            invalid.append(make_invalid_tool_call(call, str(error)))
            continue
        if parsed is not None and isinstance(parsed["args"], dict):
            calls.append(tool_call(name=parsed["name"], args=parsed["args"], id=parsed["id"]))
        else:
            invalid.append(make_invalid_tool_call(call, "the arguments are no JSON object"))
    return calls, invalid


def _call_chunk(call: dict[str, Any]) -> ToolCallChunk:
    function = call.get("function") or {}
    return tool_call_chunk(
        name=function.get("name"),
        args=function.get("arguments"),
        id=call.get("id"),
        index=call.get("index"),
    )
