"""
The engine over plain vLLM servers: an adapter's id is the model's name.

The servers get an adapter's files from the library by our resolver plugin (`integrations.vllm`), at
its first use and by its id, so the library must have them before `ensure` is called. See ADR 10.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

from t2l_router.engines.base import AdapterRef, Delta, EngineHealth
from t2l_router.engines.fleet import Fleet, Server
from t2l_router.engines.vllm_format import Reader, body_of
from t2l_router.errors import (
    AdapterError,
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineUnreachable,
    InvalidAdapter,
    InvalidRequest,
    PromptTooLong,
)
from t2l_router.wire import ChatRequest, Offer

if TYPE_CHECKING:
    from adapters_store.identity import AdapterId

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_KEEP_ALIVE_S = 3.0  # vLLM closes idle connections after five
_MAX_TRIES = 3
_MAX_RESIDENT = 10_000
_ENSURE_S = 10.0
_UNLOADABLE = "was found but could not be loaded"
_TOO_LONG = ("maximum context length", "fewer output tokens")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """
    Which servers, and what is asked of them.

    Args:
        urls: Addresses of the servers, each without a path.
        model: The base model's served name.
        api_key: Theirs.
        max_in_flight: Requests of this router at each server.
        timeout_s: Longest silence of a server.
        max_tokens: Longest answer, unless a request names its own limit.
        temperature: Sampling temperature, unless a request names one.
    """

    urls: tuple[str, ...]
    model: str
    api_key: str | None = None
    max_in_flight: int = 64
    timeout_s: float = 60.0
    max_tokens: int = 512
    temperature: float = 0.2


class _TryNext(Exception):
    """Another server may answer what this one did not."""

    def __init__(self, error: AdapterError | EngineError) -> None:
        super().__init__(str(error))
        self.error = error


class VllmEngine:
    """
    Has vLLM servers answer.

    A request that a server did not begin to answer goes to the next one; an answer that has begun
    is never asked for again.

    Args:
        options: Which servers, and what is asked of them.
    """

    offers: frozenset[Offer] = frozenset({"choices", "logprobs", "tools", "json"})

    def __init__(self, options: VllmOptions) -> None:
        self._options = options
        self._fleet = Fleet(options.urls, max_in_flight=options.max_in_flight)
        self._resident: OrderedDict[AdapterId, None] = OrderedDict()
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {options.api_key}"} if options.api_key else {},
            timeout=httpx.Timeout(options.timeout_s, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
        )

    async def stream_chat(
        self, request: ChatRequest, adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """Answer a request piece by piece; see `Engine.stream_chat`."""
        body = body_of(
            request,
            model=adapter.adapter_id if adapter else self._options.model,
            max_tokens=self._options.max_tokens,
            temperature=self._options.temperature,
        )
        tries = self._tries(adapter.adapter_id if adapter else _beginning(request))
        if not tries:
            raise EngineBusy(
                f"every vLLM server has {self._options.max_in_flight} requests; try again later"
            )
        while tries:
            server = tries.pop(0)
            has_begun = False
            try:
                async with aclosing(self._answer(server, body)) as deltas:
                    async for delta in deltas:
                        has_begun = True
                        yield delta
            except PromptTooLong:
                if request.token_limit is not None or "max_tokens" not in body:
                    raise
                # The limit was ours, not the client's: what room there is will do.
                del body["max_tokens"]
                tries.insert(0, server)
            except _TryNext as unanswered:
                logger.warning("%s gave no answer: %s", server.url, unanswered)
                if has_begun:
                    raise EngineFailed(f"the answer broke off: {unanswered}") from unanswered.error
                if not tries:
                    self._forget(adapter)
                    raise unanswered.error from unanswered
            else:
                self._remember(adapter)
                return

    async def ensure(self, adapter: AdapterRef) -> None:
        """Have the adapter's own server load it; see `Engine.ensure`."""
        # Tokenizing for a model makes vLLM load it, and costs no forward pass.
        body = {"model": adapter.adapter_id, "prompt": "."}
        tries = self._tries(adapter.adapter_id)
        while tries:
            server = tries.pop(0)
            try:
                response = await self._http.post(
                    f"{server.url}/tokenize", json=body, timeout=_ENSURE_S
                )
                if not response.is_success:
                    self._refuse(server, response, body)
            except httpx.HTTPError as error:
                unanswered = self._broken(server, error)
            except _TryNext as refused:
                unanswered = refused
            else:
                self._remember(adapter)
                return
            logger.warning("%s did not load an adapter: %s", server.url, unanswered)
            if not tries:
                raise unanswered.error from unanswered

    def health(self) -> EngineHealth:
        """Say how the servers are doing, as of the last probe."""
        servers = self._fleet.servers
        return EngineHealth(
            ok=any(server.is_up for server in servers),
            running=sum(server.in_flight for server in servers),
            waiting=0,
            resident=self._resident.keys(),
        )

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._fleet.close)
        await self._http.aclose()

    def _tries(self, key: str) -> list[Server]:
        servers = self._fleet.choose(key)[:_MAX_TRIES]
        # A lone server is asked twice: its first connection may have been a stale one.
        return servers * 2 if len(servers) == 1 else servers

    async def _answer(self, server: Server, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        """One server's answer. Raises `_TryNext`, or what no other server would do better."""
        reader = Reader()
        url = f"{server.url}/v1/chat/completions"
        with server.occupied():
            try:
                async with self._http.stream("POST", url, json=body) as response:
                    if not response.is_success:
                        await response.aread()
                        self._refuse(server, response, body)
                    async for received in response.aiter_bytes():
                        for delta in reader.feed(received):
                            yield delta
                yield reader.end()
            except httpx.HTTPError as error:
                raise self._broken(server, error) from error
            except EngineFailed as error:
                raise _TryNext(error) from error

    def _broken(self, server: Server, error: httpx.HTTPError) -> _TryNext:
        self._fleet.doubt(server, is_down=isinstance(error, httpx.ConnectError))
        what = "said nothing in time" if isinstance(error, httpx.TimeoutException) else "broke off"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            what = "can't be reached"
        return _TryNext(EngineUnreachable(f"a vLLM server {what}; try again later"))

    def _refuse(self, server: Server, response: httpx.Response, body: dict[str, Any]) -> NoReturn:
        """Raise what an error response means."""
        status, model = response.status_code, body["model"]
        message, param = _told(response)
        if status == HTTPStatus.NOT_FOUND or _UNLOADABLE in message:
            if model == self._options.model:
                raise _TryNext(
                    EngineFailed(f"a vLLM server serves no {model}; set vllm_model to its name")
                )
            raise _TryNext(InvalidAdapter(f"vLLM can't load adapter {model}: {message}"))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise _TryNext(EngineFailed("a vLLM server refuses the key; set vllm_api_key"))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _TryNext(EngineBusy("the vLLM servers are busy; try again later"))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
            self._fleet.doubt(server, is_down=False)
            raise _TryNext(EngineUnreachable(f"a vLLM server failed: {message}"))
        if any(words in message for words in _TOO_LONG):
            raise PromptTooLong(message, param="messages")
        raise InvalidRequest(message, param=param)

    def _remember(self, adapter: AdapterRef | None) -> None:
        if adapter is None:
            return
        self._resident[adapter.adapter_id] = None
        self._resident.move_to_end(adapter.adapter_id)
        if len(self._resident) > _MAX_RESIDENT:
            self._resident.popitem(last=False)

    def _forget(self, adapter: AdapterRef | None) -> None:
        if adapter is not None:
            self._resident.pop(adapter.adapter_id, None)


def _beginning(request: ChatRequest) -> str:
    """How a conversation begins: its turns go to one server, which has the earlier ones cached."""
    texts = []
    for message in request.messages:
        texts.append(message.content or "")
        if message.role == "user":
            break
    return "\n".join(texts)


def _told(response: httpx.Response) -> tuple[str, str | None]:
    """What an error response says, and the field that it blames."""
    try:
        error = response.json()["error"]
        return str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):  # a proxy's page, or vLLM's plain "Unauthorized"
        return f"HTTP {response.status_code}", None
