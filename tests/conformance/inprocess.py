"""The application in this process, asked without a socket: hundreds of requests a second."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message

from t2l_router.application import build_access, build_app
from t2l_router.bootstrap import build_router
from t2l_router.config import Settings
from t2l_router.readiness import Readiness
from t2l_router.storage import open_library

_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Attack:
    """
    One request.

    Args:
        method: Of the request.
        path: Percent-encoded, with its query.
        body: All of it.
        headers: Besides the key.
        leaves_after: The client is gone after so many messages of the answer; None stays.
    """

    method: str
    path: str
    body: bytes
    headers: dict[str, bytes] = field(default_factory=dict)
    leaves_after: int | None = None


@dataclass(slots=True)
class Answered:
    """What came back."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    error: BaseException | None = None


class Asked:
    """
    Asks an application, one request after the other.

    Args:
        app: Its routes.
        key: Opens them.
        loop: Runs it.
    """

    def __init__(self, app: ASGIApp, key: str, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._key = key
        self._loop = loop

    def ask(self, attack: Attack) -> Answered:
        """The answer to a request, or what the application raised."""
        return self._loop.run_until_complete(asyncio.wait_for(self._ask(attack), _WITHIN_S))

    async def _ask(self, attack: Attack) -> Answered:
        path, _, query = attack.path.partition("?")
        headers = [(name.encode(), value) for name, value in attack.headers.items()]
        headers += [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {self._key}".encode()),
            (b"content-length", str(len(attack.body)).encode()),
        ]
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": attack.method, "scheme": "http", "root_path": "",
            "path": unquote_to_bytes(path).decode(errors="replace"),
            "raw_path": path.encode(), "query_string": query.encode(), "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8_000), "state": {},
        }  # fmt: skip
        unread = [{"type": "http.request", "body": attack.body, "more_body": False}]
        gone = asyncio.Event()
        answered = Answered()
        pieces: list[bytes] = []

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                answered.headers = dict(message["headers"])
            pieces.append(message.get("body", b""))
            if attack.leaves_after is not None and len(pieces) > attack.leaves_after:
                gone.set()
            await asyncio.sleep(0)

        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - what is looked for
            answered.error = error
        answered.body = b"".join(pieces)
        return answered


@contextmanager
def application(directory: Path) -> Iterator[Asked]:
    """The echo server over a library in *directory*, as ``t2l serve`` puts it together."""
    settings = Settings(engine="echo", data_dir=directory)
    with _silence(), open_library(settings, actor="server") as store:
        _, key = store.keys.create("local", scopes=("chat", "admin", "pull"))
        readiness = Readiness()
        access = build_access(settings, store, closed=False)
        app = build_app(settings, readiness, access=access, store=store)
        loop = asyncio.new_event_loop()
        try:
            readiness.finish(loop.run_until_complete(_router(settings, store)))
            yield Asked(app, key, loop)
            loop.run_until_complete(readiness.router.close())
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


@contextmanager
def _silence() -> Iterator[None]:
    """What thousands of bad requests would log is nobody's; other tests read their logs."""
    ours = logging.getLogger("t2l_router")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ours.setLevel(before)


async def _router(settings: Settings, store: Any) -> Any:
    return build_router(settings, store=store)
