"""A real server in this process, over the echo engine, on a free port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from t2l_router.cli.serve import listen
from t2l_router.engines.base import Engine
from t2l_router.engines.echo import EchoEngine
from t2l_router.readiness import Readiness
from t2l_router.server import create_app
from tests.routers import MODEL, echo_router

MAX_BODY_BYTES = 1 << 20


@dataclass
class Served:
    """A running server."""

    url: str
    engine: Engine
    readiness: Readiness

    def post(self, **body: Any) -> httpx.Response:
        """Post a chat request with defaults for what isn't given."""
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=chat | body, timeout=30)


@contextmanager
def serve(
    engine: Engine, *, keep_alive_s: float = 5.0, ready: bool = True, **options: Any
) -> Iterator[Served]:
    """Serve an engine until the end of the block; options are those of `create_app`."""
    readiness = Readiness()
    router = echo_router(engine=engine, store=options.get("store"))
    if ready:
        readiness.finish(router)
    app = create_app(readiness, max_body_bytes=MAX_BODY_BYTES, keep_alive_s=keep_alive_s, **options)
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", engine, readiness)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def echo() -> Iterator[Served]:
    """A server that answers at once."""
    with serve(EchoEngine()) as served:
        yield served


@pytest.fixture
def slow_echo() -> Iterator[Served]:
    """A server that takes a tenth of a second a word, and doesn't like silence."""
    with serve(EchoEngine(first_delay_s=0.1, delay_s=0.1), keep_alive_s=0.03) as served:
        yield served
