"""Two ways to chat from the command line: with a router in this process, or with a server."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from t2l_router import wire
from t2l_router.client import Client, HttpClient
from t2l_router.config import Settings


class Talk:
    """
    Chats with whoever answers.

    Args:
        client: A server, or a router in this process.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[wire.AdapterFacts | str, None]:
        """Stream an answer: first which adapter serves and why, then the text as it comes."""
        async with aclosing(self._client.astream(body)) as chunks:
            async for document in chunks:
                chunk = wire.ChatChunk.model_validate(document)
                if chunk.t2l:
                    yield chunk.t2l
                for choice in chunk.choices:
                    if choice.delta.content:
                        yield choice.delta.content

    async def default_model(self) -> str:
        """The value of ``model`` that has the fitting adapter chosen."""
        return (await self._client.amodels())[0]

    async def close(self) -> None:
        """Give back what is held."""
        await self._client.aclose()


def client_of(server: str, settings: Settings) -> HttpClient:
    """A client of a server, with the key that the settings hold; it asks once."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return HttpClient(server, api_key=key, max_retries=0)
