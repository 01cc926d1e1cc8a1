"""
The server under load, beside bare FastAPI doing the same: streams, memory, slow readers.

    python -m tests.bench.bench_load --out tests/bench/results
    python -m tests.bench.bench_load --litellm --out tests/bench/results

Both answer with the echo's words and no model, so that what is measured is the way through HTTP.
With ``--litellm`` a LiteLLM Proxy takes its turns too; bare FastAPI is the model behind it. It is
installed into an environment of its own at first use. The client is a process of its own with a
bare socket reader: it must not be the slow part.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.bench_server import MESSAGES, bare, workplace
from tests.bench.report import publish, resident_mib, spread
from tests.e2e.program import serving
from tests.integrations.litellm_proxy import KEY, proxy

END = b"data: [DONE]\n\n"
IDLE_STREAMS = 2_000
SLOW_READERS = 100
PATIENCE_S = 15.0  # for the answers that are under way when the time is over


def request_bytes(*, key: str = "none", **fields: Any) -> bytes:
    """A streamed chat request as it goes over the wire."""
    body = json.dumps({"model": "echo", "messages": MESSAGES, "stream": True} | fields).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    return (
        f"{head}authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def worker(address: tuple[str, int], until: float, times_ms: list[float]) -> None:
    """Ask again and again on one connection."""
    reader, writer = await asyncio.open_connection(*address)
    request = request_bytes(key=KEY)
    try:
        while time.perf_counter() < until:
            start = time.perf_counter()
            writer.write(request)
            # The last chunk of the chunked encoding ends the answer.
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert END in answer, answer[-500:]
            times_ms.append((time.perf_counter() - start) * 1_000)
    finally:
        writer.close()


def load(address: tuple[str, int], streams: int, seconds: float) -> dict[str, Any]:
    """Requests a second and their milliseconds with so many open streams at all times."""

    async def run() -> dict[str, Any]:
        times_ms: list[float] = []
        start = time.perf_counter()
        workers = [
            asyncio.create_task(worker(address, start + seconds, times_ms)) for _ in range(streams)
        ]
        done, stuck = await asyncio.wait(workers, timeout=seconds + PATIENCE_S)
        # Nobody's patience counts: a server is as fast as its answers came.
        took = time.perf_counter() - start - (PATIENCE_S if stuck else 0)
        for one in stuck:
            one.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        for one in done:
            one.result()
        ordered = sorted(times_ms) or [1_000 * (seconds + PATIENCE_S)]
        return {
            "requests_per_s": round(len(times_ms) / took, 1),
            "p50_ms": round(ordered[len(ordered) // 2], 2),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2),
            "n": len(times_ms),
            "unanswered": len(stuck),
        }

    return asyncio.run(run())


def _load(given: tuple[tuple[str, int], int, float]) -> dict[str, Any]:
    return load(*given)


def measure(url: str, streams: int, seconds: float) -> dict[str, Any]:
    """`load` in a process of its own, after a warm-up."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(_load, [(address, min(streams, 16), 0.5)])
        (found,) = pool.map(_load, [(address, streams, seconds)])
    print(url, streams, found, file=sys.stderr, flush=True)
    return found


async def hold(address: tuple[str, int], n: int) -> list[asyncio.StreamWriter]:
    """Open so many streams and read nothing but their first bytes."""
    held = []
    request = request_bytes()
    for _ in range(n):
        reader, writer = await asyncio.open_connection(*address, limit=1_024)
        writer.write(request)
        await reader.readuntil(b'"role"')
        held.append(writer)
    return held


def measure_idle(seconds: float) -> dict[str, Any]:
    """MiB of a server that holds streams in which nothing happens."""
    with workplace() as cwd, echo_server(cwd, T2L_ECHO_DELAY_S="3600") as program:
        parts = urlsplit(program.url)
        before = resident_mib(program.process.pid)

        async def run() -> float:
            held = await hold((parts.hostname or "", parts.port or 0), IDLE_STREAMS)
            await asyncio.sleep(seconds)
            found = resident_mib(program.process.pid)
            for writer in held:
                writer.close()
            return found

        during = asyncio.run(run())
    return {
        "idle_streams": IDLE_STREAMS,
        "resident_without_streams_mib": round(before, 1),
        "resident_with_idle_streams_mib": round(during, 1),
    }


def measure_slow_readers(url: str, pid: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of a client beside others that ask for much and read nothing."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    alone = measure(url, 1, seconds)

    async def beside() -> dict[str, Any]:
        words = [{"role": "user", "content": "word " * 20_000}]
        held = []
        for _ in range(SLOW_READERS):
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            small.connect(address)
            _, writer = await asyncio.open_connection(sock=small, limit=1_024)
            writer.write(request_bytes(messages=words))
            held.append(writer)
        await asyncio.to_thread(wait_idle, pid)  # until the buffers are full and nothing moves
        found = await asyncio.to_thread(measure, url, 1, seconds)
        for writer in held:
            writer.close()
        return found

    found = {"alone": alone, "beside_slow_readers": asyncio.run(beside())}
    figures = {
        f"{name}_{key}": run[key] for name, run in found.items() for key in ("p50_ms", "p99_ms")
    }
    return figures | {"slow_readers": SLOW_READERS}


def wait_idle(pid: int) -> None:
    """Wait until a process does next to nothing for a second, a minute at most."""
    for _ in range(60):
        before = cpu_s(pid)
        time.sleep(1)
        if cpu_s(pid) - before < 0.1:
            return


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def litellm_proxy(model_url: str | None) -> Iterator[str | None]:
    """A LiteLLM Proxy in front of a model; None where there is none."""
    if model_url is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "config.yaml")
        config.write_text(
            "model_list:\n- model_name: echo\n  litellm_params: "
            f"{{model: openai/echo, api_base: {model_url}/v1, api_key: none}}\n"
            "litellm_settings: {telemetry: false}\n"
        )
        with proxy(config) as url:
            yield url


@contextmanager
def echo_server(cwd: Path, **settings: str) -> Iterator[Any]:
    """``t2l serve`` over the echo engine, ready."""
    variables = {"T2L_LOG_LEVEL": "warning"} | settings
    with serving("--engine", "echo", cwd=cwd, **variables) as program:
        program.wait_ready()
        yield program


def figures(streams: int, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What the rounds with so many streams say, and t2l beside the others in each of them."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        for what in ("requests_per_s", "p99_ms"):
            found[f"{name}_{streams}_streams_{what}"] = spread([r[name][what] for r in rounds])
        if unanswered := sum(r[name]["unanswered"] for r in rounds):
            found[f"{name}_{streams}_streams_unanswered"] = unanswered
        ratios = [
            r["t2l"]["requests_per_s"] / r[name]["requests_per_s"]
            for r in rounds
            if r[name]["requests_per_s"]
        ]
        if name != "t2l" and ratios:
            found[f"ratio_to_{name}_{streams}_streams"] = spread(ratios)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="t2l and FastAPI take turns")
    parser.add_argument("--litellm", action="store_true", help="a LiteLLM Proxy takes turns too")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.perf_counter()
    metrics: dict[str, Any] = {}
    with workplace() as cwd, echo_server(cwd) as ours, bare() as theirs:
        urls = {"t2l": ours.url, "fastapi": theirs}
        for streams in (1, 64, 512):
            # A proxy that has stopped answering gets another chance.
            with litellm_proxy(theirs if arguments.litellm else None) as third:
                asked = urls | ({"litellm": third} if third else {})
                rounds = [
                    {name: measure(url, streams, arguments.seconds) for name, url in asked.items()}
                    for _ in range(arguments.rounds)
                ]
            metrics |= figures(streams, rounds)
        metrics["resident_after_mib"] = round(resident_mib(ours.process.pid), 1)
        metrics |= measure_slow_readers(ours.url, ours.process.pid, arguments.seconds)
    metrics |= measure_idle(2.0)
    publish("load", metrics, began=began, out=arguments.out)


if __name__ == "__main__":
    main()
