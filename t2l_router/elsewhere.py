"""Answers from elsewhere: of models that are not here, and in the stead of our own engine."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass

from t2l_router.engines.base import Delta, Engine
from t2l_router.errors import EngineError, InvalidRequest
from t2l_router.wire import ChatRequest

FINGERPRINT = "upstream"
"""In the place of the base model's fingerprint, which says nothing about an upstream."""
_FAILS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """
    What can answer besides our own engine.

    Args:
        engine: Passes requests on; their model says to which upstream.
        models: The upstreams' names.
        stand_in: The one that answers when our engine can't; None leaves its errors to the client.
    """

    engine: Engine
    models: Collection[str]
    stand_in: str | None = None

    def answer(self, request: ChatRequest, model: str) -> AsyncGenerator[Delta, None]:
        """
        An upstream's answer.

        Raises:
            InvalidRequest: The request insists on an adapter.
        """
        if request.t2l_required:
            raise InvalidRequest(
                f"t2l_required needs a model that has adapters; {model[:80]!r} has none",
                param="t2l_required",
            )
        return self.engine.stream_chat(request.model_copy(update={"model": model}), None)


async def failing_at_once(deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """
    The same pieces, once it is known that they don't fail at once.

    Whoever is busy or broken says so with the first piece. An engine that thinks for longer than a
    second works, and is left to work.

    Raises:
        EngineError: They do; *deltas* is closed.
    """
    first = asyncio.ensure_future(_first(deltas))
    try:
        await asyncio.wait([first], timeout=_FAILS_WITHIN_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    if first.done() and isinstance(error := first.exception(), EngineError):
        raise error
    return _resumed(first, deltas)


async def _first(deltas: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(deltas)


async def _resumed(
    first: asyncio.Task[Delta], deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[Delta, None]:
    async with aclosing(deltas):
        yield await first
        async for delta in deltas:
            yield delta
