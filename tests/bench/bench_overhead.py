"""
What a request costs over HTTP, beside LiteLLM Proxy: the first piece of a streamed answer.

    python -m tests.bench.bench_overhead --out tests/bench/results

One client asks in turn: bare FastAPI that echoes, a LiteLLM Proxy in front of
it, and t2l's server over an engine that echoes, for a conversation that holds its adapter
(``sticky``), a description known by its text (``exact``), and one never seen that a held adapter
serves (``reused``). Encoder, hypernetwork and library are the real ones.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from t2l_router import config
from tests.bench.bench_load import litellm_proxy
from tests.bench.bench_router import HELD, told
from tests.bench.bench_server import MESSAGES, PATH, bare
from tests.bench.report import publish, spread
from tests.integrations.litellm_proxy import KEY

READY_WITHIN_S = 120.0
WARM_UP = 10


@contextmanager
def ours(directory: str) -> Iterator[str]:
    """Our server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = [sys.executable, "-m", "tests.bench.overhead_server", str(port), directory]
    process = subprocess.Popen(program)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + READY_WITHIN_S
    try:
        while True:
            try:
                httpx.get(f"{url}/health/live")
                break
            except httpx.TransportError:
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


class Client:
    """Streams one answer after another, each on a connection opened before the clock starts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def ask(self, decision: str | None, **fields: Any) -> tuple[float, float]:
        """Milliseconds to the first piece of the answer and to its end."""
        body = json.dumps({"model": "echo", "messages": MESSAGES, "stream": True} | fields)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        self._connection.close()
        self._connection.connect()
        start = time.perf_counter()
        self._connection.request("POST", PATH, body, headers)
        response = self._connection.getresponse()
        assert response.status == 200, response.read()
        found = response.getheader("X-T2L-Decision")
        assert found == decision, (found, response.getheader("X-T2L-Reason"))
        while b'"content"' not in (line := response.readline()):
            assert line, "an answer has words"
        first_ms = (time.perf_counter() - start) * 1_000
        response.read()
        return first_ms, (time.perf_counter() - start) * 1_000


def measure(urls: dict[str, str], model: str, n: int) -> dict[str, Any]:
    """Every case in turn, so that all see the same machine."""
    clients = {name: Client(url) for name, url in urls.items()}
    chat = clients["t2l"].ask
    chat("generated", model=model, t2l_description=HELD, t2l_session="bench")
    cases: dict[str, Callable[[int], tuple[float, float]]] = {
        "fastapi": lambda _: clients["fastapi"].ask(None),
        "litellm": lambda _: clients["litellm"].ask(None),
        "sticky": lambda _: chat("sticky", model=model, t2l_session="bench"),
        "exact": lambda _: chat("exact", model=model, t2l_description=HELD),
        "reused": lambda i: chat("reused", model=model, t2l_description=told(i)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for i in range(n + WARM_UP):
        for name, case in cases.items():
            took = case(i)
            if i >= WARM_UP:
                times[name].append(took)
    metrics: dict[str, Any] = {}
    for name, took in times.items():
        metrics[f"{name}_first_ms"] = spread([first for first, _ in took])
        metrics[f"{name}_last_ms"] = spread([last for _, last in took])
        if name != "fastapi":
            over = [a - b for (a, _), (b, _) in zip(took, times["fastapi"], strict=True)]
            metrics[f"{name}_over_fastapi_first_ms"] = spread(over)
    return metrics


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="requests of each case, up to 240")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    model = config.load().base_model
    with (
        tempfile.TemporaryDirectory() as directory,
        bare() as fastapi,
        litellm_proxy(fastapi) as litellm,
        ours(directory) as t2l,
    ):
        assert litellm is not None, "there is a model for it"
        urls = {"fastapi": fastapi, "litellm": litellm, "t2l": t2l}
        metrics = measure(urls, model, arguments.n)
    publish("overhead", metrics, began=began, out=arguments.out, base_model=model)


if __name__ == "__main__":
    main()
