"""Answers that stream, and what happens when their client leaves before the end."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_WATCH_AFTER_S = 0.25


class Watch:
    """
    Ends the block when the client goes away; `has_left` then says so.

    Most answers are complete before their client could leave, so only a block that takes longer
    than a quarter of a second gets a task that watches.

    Args:
        receive: Of the request, whose body has been read.
    """

    def __init__(self, receive: Receive) -> None:
        self.has_left = False
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "requests are answered in tasks"
        self._answering = task
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self.has_left:
            return False
        if kind is not asyncio.CancelledError:
            # The block ended in the moment in which it was cancelled: the next pause takes that.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        self._answering.uncancel()
        return kind is asyncio.CancelledError

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        self._answering.cancel()


class EventStream(Response):
    """
    Sends server-sent events as they come, until they or the client end.

    Args:
        events: Encoded; closed in any case.
        headers: Of the answer.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send them."""
        async with Watch(receive), aclosing(self._events) as events:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
