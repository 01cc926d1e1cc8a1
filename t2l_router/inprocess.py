"""
A router in the caller's process behind the interface of a client: no server, no port.

Requests and answers take the wire format all the same, so that both ways give the same answers,
the same facts and the same errors.
"""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from t2l_router import wire
from t2l_router.client import Body, Chunks
from t2l_router.decision import explanation_of
from t2l_router.errors import CallRefused, T2LError
from t2l_router.faults import fault_of
from t2l_router.reply import Reply
from t2l_router.router import Caller, Router
from t2l_router.wording import ChatWording

T = TypeVar("T")
# Nobody waits at a connection that could look dead.
_NO_KEEP_ALIVE_S = 1e6


class InProcessClient:
    """
    Has a router answer; it may be called from any thread and any event loop.

    Args:
        router: As `t2l_router.build_router` makes it. It works on one event loop in a thread of
            its own, however many clients it has.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._loop = _loop_of(router)

    def chat(self, body: Body) -> Body:
        """Answer in one piece; see `Client.chat`."""
        return self._run(self._chat(body))

    def explain(self, body: Body) -> Body:
        """Say which adapter would serve; see `Client.explain`."""
        return self._run(self._explain(body))

    def models(self) -> list[str]:
        """What a request may name; see `Client.models`."""
        return self._run(self._router.models(Caller().tenant))

    def stream(self, body: Body) -> Generator[Body, None, None]:
        """Answer chunk by chunk; see `Client.stream`."""
        chunks = _Steps(self._stream(body))
        try:
            while (chunk := self._run(chunks.next())) is not None:
                yield chunk
        finally:
            self._run(chunks.close())

    async def achat(self, body: Body) -> Body:
        """Answer in one piece; see `Client.chat`."""
        return await self._arun(self._chat(body))

    async def aexplain(self, body: Body) -> Body:
        """Say which adapter would serve; see `Client.explain`."""
        return await self._arun(self._explain(body))

    async def amodels(self) -> list[str]:
        """What a request may name; see `Client.models`."""
        return await self._arun(self._router.models(Caller().tenant))

    async def astream(self, body: Body) -> AsyncGenerator[Body, None]:
        """Answer chunk by chunk; see `Client.stream`."""
        chunks = _Steps(self._stream(body))
        try:
            while (chunk := await self._arun(chunks.next())) is not None:
                yield chunk
        finally:
            await self._arun(chunks.close())

    def close(self) -> None:
        """Close the router and end its event loop."""
        self._run(self._router.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def aclose(self) -> None:
        """Close the router and end its event loop."""
        await asyncio.to_thread(self.close)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C ends the work too
            raise

    async def _arun(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _reply(self, body: Body) -> Reply:
        chat = wire.parse_chat(json.dumps(body).encode())
        answer = await self._router.chat(chat, Caller())
        return Reply(answer, ChatWording(chat, answer.fingerprint), n=chat.n or 1)

    async def _chat(self, body: Body) -> Body:
        try:
            reply = await self._reply(body | {"stream": False})
            return await reply.whole()
        except T2LError as error:
            raise _refused(error) from error

    async def _explain(self, body: Body) -> Body:
        try:
            chat = wire.parse_chat(json.dumps(body).encode())
            return explanation_of(await self._router.explain(chat, Caller()))
        except T2LError as error:
            raise _refused(error) from error

    async def _stream(self, body: Body) -> AsyncGenerator[Body, None]:
        chunks = Chunks()
        try:
            reply = await self._reply(body | {"stream": True})
            async with aclosing(await reply.begin(_NO_KEEP_ALIVE_S)) as events:
                async for event in events:
                    for chunk in chunks.feed(event):
                        yield chunk
        except CallRefused:
            raise
        except T2LError as error:
            raise _refused(error) from error


class _Steps:
    """Takes a generator's steps one by one: what was cancelled ends before it is closed."""

    def __init__(self, chunks: AsyncGenerator[Body, None]) -> None:
        self._chunks = chunks
        self._lock = asyncio.Lock()

    async def next(self) -> Body | None:
        """The next chunk; None is the end."""
        async with self._lock:
            return await anext(self._chunks, None)

    async def close(self) -> None:
        """Free what the rest would have needed."""
        async with self._lock:
            await self._chunks.aclose()


def _refused(error: T2LError) -> CallRefused:
    """The error that a server would have answered with."""
    fault, body = fault_of(error)
    told = body.error
    return CallRefused(told.message, status=fault.status, code=told.code, param=told.param)


_loops: WeakKeyDictionary[Router, asyncio.AbstractEventLoop] = WeakKeyDictionary()
_lock = threading.Lock()


def _loop_of(router: Router) -> asyncio.AbstractEventLoop:
    """The event loop that a router works on; started when first asked for."""
    with _lock:
        if router not in _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(loop,), name="t2l-router", daemon=True).start()
            _loops[router] = loop
        return _loops[router]


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
