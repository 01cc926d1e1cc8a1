"""
A server among faults: clients that leave, malformed bodies, oversized headers, a locked database.

    python -m tests.bench.bench_faults --minutes 10 --out tests/bench/results

It ends with an error if an answer was wrong, a fault of a client or the database became a server
error other than 503, the server died or didn't become ready again, or connections stayed open.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.bench.bench_load import echo_server
from tests.bench.bench_server import workplace
from tests.bench.report import publish, resident_mib

PATH = "/v1/chat/completions"
CLIENTS = 16
OUTAGE_S, BETWEEN_OUTAGES_S = 5.0, 10.0
MALFORMED = (b"", b"{", b"[" * 50_000, b"\xff\xfe", b'{"messages": 3}', b'{"model": null}', b"null")


class Soak:
    """
    Clients that do everything wrong, beside some that do nothing wrong.

    Args:
        url: The server.
        until: When to stop, by `time.monotonic`.
        seed: Makes the order of faults repeatable.
    """

    def __init__(self, url: str, until: float, seed: int) -> None:
        self._url = url
        self._until = until
        self._random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, database: Path) -> None:
        """Let them all loose."""
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http:
            clients = (self._client(http, number) for number in range(CLIENTS))
            await asyncio.gather(self._outages(database), *clients)

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        acts = (self._ask, self._ask, self._leave, self._malformed, self._oversized)
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

    async def _outages(self, database: Path) -> None:
        """Lock the database again and again, as a stuck writer would."""
        while time.monotonic() + BETWEEN_OUTAGES_S + OUTAGE_S < self._until:
            await asyncio.sleep(BETWEEN_OUTAGES_S)
            lock = sqlite3.connect(database, timeout=30, isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(OUTAGE_S)
            lock.execute("ROLLBACK")
            lock.close()
            self.seen["outages"] += 1

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


def main() -> None:
    """Run, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with workplace() as cwd, echo_server(cwd) as program:
        pid = program.process.pid
        asyncio.run(Soak(program.url, time.monotonic() + 3, arguments.seed).run(cwd / "none"))
        time.sleep(2)
        files, memory = open_files(pid), resident_mib(pid)
        soak = Soak(program.url, time.monotonic() + 60 * arguments.minutes, arguments.seed)
        asyncio.run(soak.run(cwd / "data" / "library" / "library.db"))
        time.sleep(3)
        assert program.process.poll() is None, program.process.stderr.read()
        ready = httpx.get(f"{program.url}/health/ready").status_code
        metrics = {
            **{name.replace(" ", "_"): n for name, n in sorted(soak.seen.items())},
            "wrong": len(soak.wrong),
            "ready_afterwards": ready,
            "open_files_before": files,
            "open_files_after": open_files(pid),
            "resident_before_mib": round(memory, 1),
            "resident_after_mib": round(resident_mib(pid), 1),
        }
    publish("faults", metrics, began=began, out=arguments.out, seed=arguments.seed)
    assert not soak.wrong, json.dumps(soak.wrong[:10], indent=1)
    assert ready == 200
    assert metrics["open_files_after"] <= files + CLIENTS, "connections stayed open"


if __name__ == "__main__":
    main()
