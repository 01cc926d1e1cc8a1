"""
The server as a whole: until it is ready, in memory, and per request beside bare FastAPI.

    python -m tests.bench.bench_server --out tests/bench/results
    python -m tests.bench.bench_server --hypernet default --out tests/bench/results

Starts ``t2l serve`` with the models in the cache, several times; then has it write adapters and
answer eight streams side by side. The cost per request is that of the echo engine, whose answers a
bare FastAPI application gives too; it is measured once, since no hypernetwork takes part in it.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from t2l_router import config
from tests.bench.report import publish, resident_mib, spread
from tests.e2e.program import HYPERNET, serving

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Tell me about the capital of France and its river."}]
READY_WITHIN_S = 120


def measure_start(settings: dict[str, str], starts: int) -> dict[str, Any]:
    """Seconds until ready and MiB in RAM, idle and after work."""
    ready_s, idle_mib, busy_mib = [], [], []
    for _ in range(starts):
        began = time.perf_counter()
        with workplace() as cwd, serving(cwd=cwd, **settings) as program:
            program.wait_ready(READY_WITHIN_S)
            ready_s.append(time.perf_counter() - began)
            idle_mib.append(resident_mib(program.process.pid))
            work(program.url)
            busy_mib.append(resident_mib(program.process.pid))
    return {
        "ready_s": spread(ready_s),
        "resident_idle_mib": spread(idle_mib),
        "resident_after_work_mib": spread(busy_mib),
    }


def work(url: str) -> None:
    """64 adapters written, 8 of them answering side by side."""
    body = {"model": config.load().base_model, "messages": MESSAGES, "max_tokens": 1}
    with httpx.Client(base_url=url, timeout=300) as client:
        for i in range(64):
            client.post(PATH, json=body | {"t2l_description": f"Task {i}"}).raise_for_status()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: answer(url, f"Task {i}"), range(8)))


def answer(url: str, description: str) -> None:
    """One answer of 32 tokens."""
    body = {
        "model": config.load().base_model,
        "messages": MESSAGES,
        "max_tokens": 32,
        "ignore_eos": True,
        "t2l_description": description,
    }
    httpx.post(f"{url}{PATH}", json=body, timeout=300).raise_for_status()


def measure_requests(url: str, n: int, **extra: Any) -> dict[str, Any]:
    """Milliseconds per request on one connection, plain and streamed."""
    found = {}
    with httpx.Client(base_url=url) as client:
        for kind in ("plain", "stream"):
            body = {"model": "echo", "messages": MESSAGES, "stream": kind == "stream"} | extra
            times = []
            for i in range(n + 20):
                start = time.perf_counter()
                client.post(PATH, json=body).raise_for_status()
                if i >= 20:
                    times.append((time.perf_counter() - start) * 1_000)
            found[kind] = spread(times)
    return found


@contextmanager
def bare() -> Iterator[str]:
    """The baseline on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.bare", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty working directory."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def measure_costs(n: int) -> dict[str, Any]:
    """Milliseconds of a request beside bare FastAPI, by an engine that echoes."""
    metrics: dict[str, Any] = {}
    with workplace() as cwd, serving("--engine", "echo", cwd=cwd, T2L_LOG_LEVEL="warning") as echo:
        echo.wait_ready(READY_WITHIN_S)
        base = measure_requests(echo.url, n)
        adapted = measure_requests(echo.url, n, t2l_description="Answer briefly")
        metrics["resident_echo_mib"] = round(resident_mib(echo.process.pid), 1)
    with bare() as url:
        plain_fastapi = measure_requests(url, n)
    for name, found in {"t2l": base, "t2l_adapted": adapted, "fastapi": plain_fastapi}.items():
        metrics |= {f"{name}_{kind}_ms": times for kind, times in found.items()}
    return metrics


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--n", type=int, default=1_000, help="requests of each kind")
    parser.add_argument("--hypernet", default=HYPERNET)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    given = config.load()
    settings = {"T2L_CACHE_DIR": str(given.cache_dir), "T2L_HYPERNET": arguments.hypernet}
    metrics = measure_start(settings, arguments.starts)
    facts = {"base_model": given.base_model, "hypernet": arguments.hypernet}
    if arguments.hypernet == HYPERNET:
        metrics |= measure_costs(arguments.n)
    publish(
        "server" if arguments.hypernet == HYPERNET else f"server-{arguments.hypernet}",
        metrics,
        began=began,
        out=arguments.out,
        module=f"bench_server --hypernet {arguments.hypernet}",
        **facts,
    )


if __name__ == "__main__":
    main()
