"""
Answers by other servers, through litellm: for models that are not here, and in our engine's stead.

A request leaves with OpenAI's own fields alone: nothing of ours, and nothing that says whose it is.
"""

import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from t2l_router.config import Upstream
from t2l_router.engines.base import AdapterRef, Delta, EngineHealth, TokenLogprob, ToolCall
from t2l_router.environment import keep_litellm_home
from t2l_router.errors import (
    ConfigError,
    EngineBusy,
    EngineError,
    InvalidRequest,
    PromptTooLong,
    UpstreamFailed,
    UpstreamTimeout,
)
from t2l_router.wire import ChatRequest, FinishReason, Message, Offer, Usage

logger = logging.getLogger(__name__)

_PASSED_ON = frozenset(
    {
        "temperature", "top_p", "seed", "stop", "max_completion_tokens", "max_tokens",
        "presence_penalty", "frequency_penalty", "logit_bias", "n", "logprobs", "top_logprobs",
        "response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
        "verbosity",
    }
)  # fmt: skip
_FINISHES: dict[str, FinishReason] = {
    "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
}  # fmt: skip


@dataclass(slots=True)
class _Ending:
    """What a choice ends with, gathered from its chunks."""

    reason: FinishReason = "stop"
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def add(self, chosen: Any) -> None:
        """Add a chunk's part."""
        if chosen.finish_reason:
            self.reason = _FINISHES.get(chosen.finish_reason, "stop")
        for piece in chosen.delta.tool_calls or ():
            call = self.calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
            call["id"] = piece.id or call["id"]
            call["name"] = piece.function.name or call["name"]
            call["arguments"] += piece.function.arguments or ""

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, whole."""
        return tuple(ToolCall(**call) for _, call in sorted(self.calls.items()))


class UpstreamEngine:
    """
    Passes requests on; `t2l_router.engines.base.Engine` otherwise.

    Args:
        upstreams: By the names that requests call them.
        timeout_s: Longest wait for an answer's first byte, and between two of its pieces.

    Raises:
        ConfigError: litellm is not installed, or doesn't know how to reach one of them.
    """

    offers: frozenset[Offer] = frozenset({"choices", "logprobs", "tools", "json"})

    def __init__(self, upstreams: Sequence[Upstream], *, timeout_s: float) -> None:
        keep_litellm_home()
        try:
            import litellm  # noqa: PLC0415 - an extra, and slow to import
            from litellm.router import Router  # noqa: PLC0415
        except ImportError:
            raise ConfigError(
                "upstreams are set, but litellm is missing: "
                "pip install '.[litellm]' in a checkout of t2l"
            ) from None
        # It prints advice to stdout at each error.
        litellm.suppress_debug_info = True
        self._timeout_s = timeout_s
        self._running = 0
        models = [{"model_name": one.name, "litellm_params": _params(one)} for one in upstreams]
        try:
            # Any: its overloads want messages of litellm's own types.
            self._router: Any = Router(model_list=models, num_retries=1, timeout=timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever it raises is about the setting
            # Its text may hold the key that it was given.
            raise ConfigError(
                f"litellm refuses the upstreams ({type(error).__name__}); "
                "`model` needs a provider, as in openai/gpt-4o-mini"
            ) from None

    async def stream_chat(
        self, request: ChatRequest, adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """Answer as the upstream that the request's model names does."""
        assert adapter is None, "adapters are for our own base model"
        fields = request.model_dump(include=set(_PASSED_ON), exclude_none=True, by_alias=True)
        if "tools" in fields:
            # litellm would look among them for some to run itself, and need an extra to do so.
            fields["_skip_mcp_handler"] = True
        self._running += 1
        try:
            with _as_ours(request.model):
                chunks = await self._router.acompletion(
                    model=request.model,
                    messages=[_message(message) for message in request.messages],
                    stream=True,
                    stream_options={"include_usage": True},
                    **fields,
                )
                async with aclosing(chunks), aclosing(_deltas(chunks, request.n or 1)) as deltas:
                    async for delta in deltas:
                        yield delta
        finally:
            self._running -= 1

    async def ensure(self, adapter: AdapterRef) -> None:
        """
        Refuse: upstreams have no adapters.

        Raises:
            EngineError: Always.
        """
        raise UpstreamFailed(f"an upstream can't load {adapter.adapter_id}")

    def health(self) -> EngineHealth:
        """Say how many requests are with upstreams; whether these are well, only asking tells."""
        return EngineHealth(ok=True, running=self._running, waiting=0, resident=())

    async def close(self) -> None:
        """Hold nothing, so give nothing back."""


def _params(upstream: Upstream) -> dict[str, Any]:
    key = upstream.api_key.get_secret_value() if upstream.api_key else None
    given = {"model": upstream.model, "api_base": upstream.api_base, "api_key": key}
    return {name: value for name, value in given.items() if value is not None}


def _message(message: Message) -> dict[str, Any]:
    sent = message.model_dump(
        include={"role", "content", "name", "tool_calls", "tool_call_id"}, exclude_none=True
    )
    return {"content": None} | sent


async def _deltas(chunks: Any, n: int) -> AsyncGenerator[Delta, None]:
    """The pieces of a litellm stream; ends and token counts come last, as our engines tell them."""
    endings = [_Ending() for _ in range(n)]
    usage: Usage | None = None
    n_pieces = 0
    async for chunk in chunks:
        counted = getattr(chunk, "usage", None)
        if counted is not None:
            usage = Usage.of(counted.prompt_tokens or 0, counted.completion_tokens or 0)
        for chosen in chunk.choices:
            endings[chosen.index].add(chosen)
            if text := chosen.delta.content:
                n_pieces += 1
                yield Delta(text, index=chosen.index, logprobs=_logprobs(chosen))
    last = len(endings) - 1
    for index, ending in enumerate(endings):
        counts = (usage or Usage.of(0, n_pieces)) if index == last else None
        calls = ending.tool_calls()
        reason: FinishReason = "tool_calls" if calls else ending.reason
        yield Delta("", reason, counts, index=index, tool_calls=calls)


def _logprobs(chosen: Any) -> tuple[TokenLogprob, ...]:
    told = getattr(chosen, "logprobs", None)
    tokens = (
        told.get("content") if isinstance(told, dict) else getattr(told, "content", None)
    ) or ()
    return tuple(_token(token, getattr(token, "top_logprobs", None) or ()) for token in tokens)


def _token(token: Any, top: Sequence[Any] = ()) -> TokenLogprob:
    data = bytes(token.bytes) if token.bytes is not None else token.token.encode()
    return TokenLogprob(token.token, data, token.logprob, tuple(map(_token, top)))


@contextmanager
def _as_ours(model: str) -> Iterator[None]:
    """Turn what litellm raises into our errors; keys and addresses stay out of them."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        logger.warning("upstream %s: %s", model, type(error).__name__)
        raise error_of(model, error) from error


def error_of(model: str, error: Exception) -> Exception:
    """What an upstream's error is to our caller; whatever is unknown is the upstream's fault."""
    from litellm import exceptions as theirs  # noqa: PLC0415 - imported by whoever raised it

    refusals = (
        theirs.BadRequestError, theirs.UnprocessableEntityError, theirs.InvalidRequestError,
        theirs.ContentPolicyViolationError,
    )  # fmt: skip
    operators = (theirs.PaymentRequiredError, theirs.LiteLLMUnknownProvider)
    if isinstance(error, theirs.ContextWindowExceededError):
        return PromptTooLong(f"the conversation is too long for {model!r}", param="messages")
    if isinstance(error, refusals) and not isinstance(error, operators):
        return InvalidRequest(f"{model!r} refuses the request as it is")
    if isinstance(error, theirs.RateLimitError):
        return EngineBusy(f"{model!r} has too many requests; try again later")
    if isinstance(error, theirs.Timeout):
        return UpstreamTimeout(f"{model!r} did not answer in time")
    return UpstreamFailed(f"{model!r} can't be had just now")
