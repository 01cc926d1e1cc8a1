"""Two ways to chat from the command line: with a router in this process, or with a server."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import httpx

from t2l_router import wire
from t2l_router.cli.output import ServerUnreachable
from t2l_router.errors import EngineFailed, InvalidRequest, T2LError, UnknownModel
from t2l_router.reply import facts_of
from t2l_router.router import Caller, Router

# A model on a busy CPU may take minutes for a long prompt; keep-alive comments come before that.
_SILENCE_S = 60.0


class Talk(Protocol):
    """Somebody who answers chat requests."""

    def ask(self, body: dict[str, Any]) -> AsyncGenerator[wire.AdapterFacts | str, None]:
        """Stream an answer: first which adapter serves and why, then the text as it comes."""

    async def default_model(self) -> str:
        """The value of ``model`` that has the fitting adapter chosen."""

    async def close(self) -> None:
        """Give back what is held."""


class LocalTalk:
    """Chats with a router in this process."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[wire.AdapterFacts | str, None]:
        """Stream an answer; see `Talk.ask`."""
        request = wire.parse_chat(json.dumps(body).encode())
        answer = await self._router.chat(request, Caller())
        async with aclosing(answer.deltas) as deltas:
            yield facts_of(answer.decision, answer.timing_ms)
            async for delta in deltas:
                yield delta.text

    async def default_model(self) -> str:
        """The base model's name."""
        return self._router.model.name

    async def close(self) -> None:
        """Close the router."""
        await self._router.close()


class RemoteTalk:
    """
    Chats with a server.

    Args:
        url: Its address, with or without ``/v1``.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.AsyncClient(base_url=self._url, timeout=_SILENCE_S)

    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[wire.AdapterFacts | str, None]:
        """Stream an answer; see `Talk.ask`."""
        decoder = wire.SseDecoder()
        try:
            async with self._client.stream(
                "POST", "/v1/chat/completions", json=body | {"stream": True}
            ) as response:
                await _check(response)
                async for received in response.aiter_bytes():
                    for data in decoder.feed(received):
                        for piece in _pieces(data):
                            yield piece
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    async def default_model(self) -> str:
        """The first model that the server lists."""
        try:
            response = await self._client.get("/v1/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        await _check(response)
        return wire.ModelList.model_validate_json(response.content).data[0].id

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _unreachable(self, error: httpx.HTTPError) -> ServerUnreachable:
        why = str(error) or type(error).__name__
        return ServerUnreachable(f"no answer from {self._url}: {why}; is `t2l serve` running?")


def _pieces(data: str) -> list[wire.AdapterFacts | str]:
    if data == wire.DONE:
        return []
    if error := wire.error_of(data):
        raise EngineFailed(error.message)
    chunk = wire.ChatChunk.model_validate_json(data)
    texts = [choice.delta.content for choice in chunk.choices if choice.delta.content]
    return [chunk.t2l, *texts] if chunk.t2l else [*texts]


async def _check(response: httpx.Response) -> None:
    """Turn an error response into the error it tells of."""
    if response.is_success:
        return
    text = (await response.aread()).decode(errors="replace")
    error = wire.error_of(text)
    message = error.message if error else f"HTTP {response.status_code}: {text[:200]}"
    if response.status_code == httpx.codes.NOT_FOUND:
        raise UnknownModel(message)
    if response.is_client_error:
        raise InvalidRequest(message)
    raise T2LError(message)
