"""
t2l for LiteLLM: `T2LProvider` answers models named ``t2l/...``; `T2LHook` serves proxies.

In a program call `register`; in a LiteLLM Proxy's config name
``custom_handler: integrations.litellm.provider`` and ``callbacks: integrations.litellm.hook``.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx

from t2l_router.client import Body, Client, HttpClient
from t2l_router.environment import keep_litellm_home
from t2l_router.errors import CallError, CallRefused, ServerTimeout, ServerUnreachable

keep_litellm_home()
try:
    import litellm
    from litellm import exceptions
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.llms.custom_llm import CustomLLM
    from litellm.secret_managers.main import get_secret_str
    from litellm.types.utils import GenericStreamingChunk
except ModuleNotFoundError as error:
    raise ImportError(
        "integrations.litellm needs litellm: pip install '.[litellm]' in a checkout of t2l"
    ) from error

if TYPE_CHECKING:
    from t2l_router.router import Router

PROVIDER = "t2l"
DEFAULT_URL = "http://127.0.0.1:8000/v1"
_WITH_USAGE = {"stream_options": {"include_usage": True}}
_COPIED = {"x-t2l-description": "t2l_description", "x-t2l-session": "t2l_session"}


class T2LProvider(CustomLLM):
    """
    Answers ``t2l/<model>``, where ``<model>`` is one that the server lists.

    ``t2l_description`` and its like are plain arguments of ``litellm.completion``; the answer's
    ``t2l``, and a stream's first chunk's, say which adapter served and why.
    The address is ``api_base``, else ``T2L_BASE_URL``; the key ``api_key``, else ``T2L_API_KEY``.

    Args:
        router: Answers in this process, without a server: ``build_router(Settings())``.
    """

    def __init__(self, router: "Router | None" = None) -> None:
        super().__init__()
        self._local: Client | None = None
        if router is not None:
            # Imported late: an HTTP client needs no router.
            from t2l_router.inprocess import InProcessClient  # noqa: PLC0415

            self._local = InProcessClient(router)

    def completion(self, *_: Any, **call: Any) -> litellm.ModelResponse:
        """Answer in one piece."""
        with _as_litellm(call["model"]):
            return _response(self._client(call).chat(_body(call)), call)

    async def acompletion(self, *_: Any, **call: Any) -> litellm.ModelResponse:
        """Answer in one piece."""
        with _as_litellm(call["model"]):
            return _response(await self._client(call).achat(_body(call)), call)

    def streaming(self, *_: Any, **call: Any) -> Iterator[GenericStreamingChunk]:
        """Answer chunk by chunk; what fails before the first is raised here and now."""
        parts = self._parts(call)
        return chain([next(parts)], parts)

    def _parts(self, call: dict[str, Any]) -> Iterator[GenericStreamingChunk]:
        with (
            _as_litellm(call["model"]),
            closing(self._client(call).stream(_body(call) | _WITH_USAGE)) as chunks,
        ):
            for chunk in chunks:
                yield from _generic(chunk)

    async def astreaming(  # type: ignore[override] # its base declares no generator
        self, *_: Any, **call: Any
    ) -> AsyncIterator[GenericStreamingChunk]:
        """
        Answer chunk by chunk.

        LiteLLM calls whatever fails in here, also at the first step, a `MidStreamFallbackError`
        around our error where trying again may help.
        """
        stream: AsyncGenerator[Body, None] = self._client(call).astream(_body(call) | _WITH_USAGE)
        with _as_litellm(call["model"]):
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    for part in _generic(chunk):
                        yield part

    def _client(self, call: dict[str, Any]) -> Client:
        if self._local is not None:
            return self._local
        timeout = call.get("timeout")
        if isinstance(timeout, httpx.Timeout):
            timeout = timeout.read
        return _http_client(
            call.get("api_base") or get_secret_str("T2L_BASE_URL") or DEFAULT_URL,
            call.get("api_key") or get_secret_str("T2L_API_KEY"),
            None if timeout is None else float(timeout),
            tuple((call.get("headers") or {}).items()),
        )


class T2LHook(CustomLogger):
    """
    Lets clients of a LiteLLM Proxy state the task in a header.

    Copies ``x-t2l-description`` and ``x-t2l-session`` into the body, where they reach a model's
    server however the proxy treats headers. What the body says already counts.

    Args:
        models: The proxy's names of models that t2l serves; by default all. Other providers may
            refuse the fields.
    """

    def __init__(self, models: frozenset[str] | None = None) -> None:
        super().__init__()
        self._models = models

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Give the request its task."""
        if self._models is not None and data.get("model") not in self._models:
            return data
        headers = (data.get("proxy_server_request") or {}).get("headers") or {}
        for header, field in _COPIED.items():
            if header in headers and field not in data:
                data[field] = unquote(headers[header])
        return data


@lru_cache(maxsize=64)
def _http_client(
    base_url: str,
    api_key: str | None,
    timeout_s: float | None,
    headers: tuple[tuple[str, str], ...],
) -> HttpClient:
    """One client for all calls that are alike. LiteLLM does the retries, so it does none."""
    return HttpClient(
        base_url, api_key=api_key, timeout_s=timeout_s, max_retries=0, headers=dict(headers)
    )


def _body(call: dict[str, Any]) -> Body:
    fields = dict(call["optional_params"])
    further = fields.pop("extra_body", None) or {}
    fields.pop("stream", None)
    return {**fields, **further, "model": call["model"], "messages": call["messages"]}


def _response(body: Body, call: dict[str, Any]) -> litellm.ModelResponse:
    return litellm.ModelResponse(**{**body, "model": call["model"]})


def _generic(chunk: Body) -> Iterator[GenericStreamingChunk]:
    """A chunk as LiteLLM takes it from providers of any kind: one tool call at most in each."""
    choice: dict[str, Any] = (chunk.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    calls = delta.get("tool_calls") or []
    reason = choice.get("finish_reason")
    index = choice.get("index", 0)
    for call in calls:
        yield GenericStreamingChunk(
            text="", tool_use=call, is_finished=False, finish_reason="", usage=None, index=index
        )
    if calls and not reason:
        return
    yield GenericStreamingChunk(
        text=delta.get("content") or "",
        is_finished=bool(reason),
        finish_reason=reason or "",
        usage=chunk.get("usage"),
        index=index,
        provider_specific_fields={"t2l": chunk["t2l"]} if chunk.get("t2l") else None,
    )


@contextmanager
def _as_litellm(model: str) -> Iterator[None]:
    """Raise a failed call as LiteLLM's error of that kind."""
    try:
        yield
    except CallError as error:
        raise translated(error, model) from error


_BY_STATUS: dict[int, type[Exception]] = {
    401: exceptions.AuthenticationError,
    403: exceptions.PermissionDeniedError,
    404: exceptions.NotFoundError,
    408: exceptions.Timeout,
    422: exceptions.UnprocessableEntityError,
    429: exceptions.RateLimitError,
    502: exceptions.BadGatewayError,
    503: exceptions.ServiceUnavailableError,
    504: exceptions.Timeout,
}
_SERVER_ERROR = 500


def translated(error: CallError, model: str) -> Exception:
    """LiteLLM's error of the same kind."""
    facts: dict[str, Any] = {"message": str(error), "llm_provider": PROVIDER, "model": model}
    if isinstance(error, ServerUnreachable):
        return exceptions.APIConnectionError(**facts)
    if isinstance(error, ServerTimeout):
        return exceptions.Timeout(**facts)
    assert isinstance(error, CallRefused), "every call error is unreachable, timeout or refused"
    usual = (
        exceptions.InternalServerError
        if error.status >= _SERVER_ERROR
        else exceptions.BadRequestError
    )
    kind = _BY_STATUS.get(error.status, usual)
    if error.code == "context_length_exceeded":
        kind = exceptions.ContextWindowExceededError
    if kind is exceptions.Timeout:
        return kind(**facts)
    # LiteLLM's router waits as long as the response's headers ask.
    waiting = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    request = httpx.Request("POST", "http://t2l/v1/chat/completions")
    facts["response"] = httpx.Response(error.status, headers=waiting, request=request)
    return kind(**facts)


provider = T2LProvider()
hook = T2LHook()


def register(handler: T2LProvider = provider) -> None:
    """Have ``litellm.completion`` and its like know ``t2l/...`` models."""
    others = [known for known in litellm.custom_provider_map if known["provider"] != PROVIDER]
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": handler}]
