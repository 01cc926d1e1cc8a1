"""
A small client of our own server: JSON bodies in, JSON bodies or chunks out.

Bodies stay dictionaries, so that a field which this version doesn't know survives the way.
Whatever goes wrong is a `CallError`. Importing this loads neither torch nor FastAPI.
"""

import asyncio
import json
import random
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any, Protocol

import httpx

from t2l_router import wire
from t2l_router.errors import CallError, CallRefused, ServerTimeout, ServerUnreachable

Body = dict[str, Any]

CHAT = "/chat/completions"
EXPLAIN = "/t2l/explain"
MODELS = "/models"
_CONNECT_S = 5.0
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Client(Protocol):
    """Somebody who answers chat requests in OpenAI's format, for any kind of caller."""

    def chat(self, body: Body) -> Body:
        """Answer in one piece."""

    def stream(self, body: Body) -> Generator[Body, None, None]:
        """Answer chunk by chunk."""

    def explain(self, body: Body) -> Body:
        """Say which adapter would serve a chat request, and why; nothing is made or answered."""

    def models(self) -> list[str]:
        """Every value of ``model`` that a request may use, the base model's name first."""

    async def achat(self, body: Body) -> Body:
        """Answer in one piece."""

    def astream(self, body: Body) -> AsyncGenerator[Body, None]:
        """Answer chunk by chunk."""

    async def aexplain(self, body: Body) -> Body:
        """Say which adapter would serve a chat request, and why; nothing is made or answered."""

    async def amodels(self) -> list[str]:
        """Every value of ``model`` that a request may use, the base model's name first."""

    async def aclose(self) -> None:
        """Give back what is held."""


class HttpClient:
    """
    Calls a server; connections are opened when they are needed and kept.

    Args:
        base_url: The server's address, with or without ``/v1``.
        api_key: Sent as a bearer token.
        timeout_s: Longest silence of the server; a plain answer comes after one silence.
        max_retries: Further attempts where the server is unreachable, busy or broken. An answer
            that has begun isn't asked for again, nor one that timed out: the server may still
            be at it.
        headers: Sent with every request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float | None = 60.0,
        max_retries: int = 2,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1") + "/v1"
        key = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": (headers or {}) | key,
            "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s or _CONNECT_S)),
        }
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        # A connection lives in the event loop that opened it, and callers may have several.
        self._ahttp: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    def chat(self, body: Body) -> Body:
        """Answer in one piece; see `Client.chat`."""
        return self._call("POST", CHAT, body | {"stream": False})

    def explain(self, body: Body) -> Body:
        """Say which adapter would serve; see `Client.explain`."""
        return self._call("POST", EXPLAIN, body)

    def models(self) -> list[str]:
        """What a request may name; see `Client.models`."""
        return _ids(self._call("GET", MODELS))

    def stream(self, body: Body) -> Generator[Body, None, None]:
        """Answer chunk by chunk; see `Client.stream`."""
        attempt = 0
        begun = False
        while True:
            chunks = Chunks()
            try:
                with self._client().stream("POST", CHAT, json=body | {"stream": True}) as response:
                    if not response.is_success:
                        response.read()
                        raise _refusal(response)
                    begun = True
                    for received in response.iter_bytes():
                        yield from chunks.feed(received)
                    chunks.end()
                    return
            except (httpx.HTTPError, CallError) as error:
                time.sleep(self._pause_s(error, attempt, begun=begun))
            attempt += 1

    async def achat(self, body: Body) -> Body:
        """Answer in one piece; see `Client.chat`."""
        return await self._acall("POST", CHAT, body | {"stream": False})

    async def aexplain(self, body: Body) -> Body:
        """Say which adapter would serve; see `Client.explain`."""
        return await self._acall("POST", EXPLAIN, body)

    async def amodels(self) -> list[str]:
        """What a request may name; see `Client.models`."""
        return _ids(await self._acall("GET", MODELS))

    async def astream(self, body: Body) -> AsyncGenerator[Body, None]:
        """Answer chunk by chunk; see `Client.stream`."""
        attempt = 0
        begun = False
        while True:
            chunks = Chunks()
            try:
                async with self._aclient().stream(
                    "POST", CHAT, json=body | {"stream": True}
                ) as response:
                    if not response.is_success:
                        await response.aread()
                        raise _refusal(response)
                    begun = True
                    async for received in response.aiter_bytes():
                        for chunk in chunks.feed(received):
                            yield chunk
                    chunks.end()
                    return
            except (httpx.HTTPError, CallError) as error:
                await asyncio.sleep(self._pause_s(error, attempt, begun=begun))
            attempt += 1

    def close(self) -> None:
        """Close the connections of the synchronous calls."""
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    async def aclose(self) -> None:
        """Close the connections of the asynchronous calls in the running event loop."""
        ahttp = self._ahttp.pop(asyncio.get_running_loop(), None)
        if ahttp is not None:
            await ahttp.aclose()

    def _client(self) -> httpx.Client:
        # Made late: reading the certificates takes longer than most calls.
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(**self._options)
                weakref.finalize(self, self._http.close)
            return self._http

    def _aclient(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._ahttp:
            self._ahttp[loop] = httpx.AsyncClient(**self._options)
        return self._ahttp[loop]

    def _call(self, method: str, path: str, body: Body | None = None) -> Body:
        attempt = 0
        while True:
            try:
                return _document(self._client().request(method, path, json=body))
            except (httpx.HTTPError, CallError) as error:
                time.sleep(self._pause_s(error, attempt))
            attempt += 1

    async def _acall(self, method: str, path: str, body: Body | None = None) -> Body:
        attempt = 0
        while True:
            try:
                return _document(await self._aclient().request(method, path, json=body))
            except (httpx.HTTPError, CallError) as error:
                await asyncio.sleep(self._pause_s(error, attempt))
            attempt += 1

    def _pause_s(self, error: Exception, attempt: int, *, begun: bool = False) -> float:
        """
        How long to wait before the next attempt.

        Raises:
            CallError: There is none; this is what went wrong.
        """
        failure = error if isinstance(error, CallError) else self._failure(error)
        if begun or not failure.is_retryable or attempt >= self._max_retries:
            raise failure from None
        asked_for = getattr(failure, "retry_after_s", None)
        if asked_for is not None and asked_for <= _LONGEST_PAUSE_S:
            return float(asked_for)
        # Spread out, so that callers who failed together don't come back together.
        return _PAUSE_S * 2.0**attempt * random.uniform(0.75, 1)  # noqa: S311 - no secret

    def _failure(self, error: Exception) -> CallError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            return ServerTimeout(f"{self.base_url} did not answer in time: {why}")
        return ServerUnreachable(f"no answer from {self.base_url}: {why}; is `t2l serve` running?")


class Chunks:
    """Finds the chunks in a stream's bytes, and whether it came to its end."""

    def __init__(self) -> None:
        self._decoder = wire.SseDecoder()
        self._done = False

    def feed(self, received: bytes) -> Iterator[Body]:
        """
        Yield the chunks that are now complete.

        Raises:
            CallRefused: The stream tells of an error.
        """
        for data in self._decoder.feed(received):
            if data == wire.DONE:
                self._done = True
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise _told(chunk, status=500)
            yield chunk

    def end(self) -> None:
        """Raise `ServerUnreachable` unless the end was announced."""
        if not self._done:
            raise ServerUnreachable("the connection broke before the answer's end")


def _document(response: httpx.Response) -> Body:
    if not response.is_success:
        raise _refusal(response)
    try:
        document: Body = response.json()
    except ValueError:
        raise _no_api(response) from None
    return document


def _refusal(response: httpx.Response) -> CallRefused:
    """The error that an error response tells of."""
    headers = response.headers
    try:
        told = response.json()
    except ValueError:
        return _no_api(response)
    return _told(
        told,
        status=response.status_code,
        request_id=headers.get("x-request-id"),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def _told(told: Any, *, status: int, **facts: Any) -> CallRefused:
    detail = told.get("error") if isinstance(told, dict) else None
    if not isinstance(detail, dict):
        return CallRefused(f"HTTP {status}: {json.dumps(told)[:200]}", status=status, **facts)
    message = str(detail.get("message") or f"HTTP {status}")
    code, param = detail.get("code"), detail.get("param")
    return CallRefused(
        message, status=status, code=code and str(code), param=param and str(param), **facts
    )


def _no_api(response: httpx.Response) -> CallRefused:
    return CallRefused(
        f"{response.url} answered HTTP {response.status_code} with what is no JSON; "
        "is this the address of a t2l server?",
        status=response.status_code,
    )


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None


def _ids(models: Body) -> list[str]:
    return [model["id"] for model in models["data"]]
