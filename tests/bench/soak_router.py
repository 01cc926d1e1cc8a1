"""
Two routers over one library under mixed traffic for a long time: does anything leak?

8 tenants, 500 tasks each, conversations by name and by history whose topics shift, clients that
leave, foreign sessions, named adapters. In the first half tasks are new ever again, and the
library grows with them; in the second all have been seen. Checked at the end: no answer by another
tenant's adapter, no lease that is still good once its time is over, none at all after a sweep, and
memory that has stopped growing with the library: the process' own, since file pages of the database
come and go with the machine's other needs.

``python -m tests.bench.soak_router --minutes 30 --out tests/bench/results``
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from array import array
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from adapters_store.errors import NotFound
from adapters_store.schema import leases
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import T2LError
from t2l_router.router import Caller, Router
from tests.bench.report import publish, resident_mib
from tests.routers import echo_router, open_store, request

TENANTS = 8
TASKS = 500
WORKERS = 16
RARE = 0.5  # of the tasks are drawn with equal chances
SAMPLE_S = 10.0
LEASE_S = 11.0  # longer than a lease is good for


@dataclass
class Soak:
    """What has happened so far."""

    routers: list[Router]
    until: float
    grows_until: float
    pause_s: float
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    owners: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)
    crossed: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    left: int = 0
    resident: list[float] = field(default_factory=list)
    n_adapters: list[int] = field(default_factory=list)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("f"))

    async def worker(self, seed: int) -> None:
        """Hold conversations until the end."""
        dice = random.Random(seed)
        while time.monotonic() < self.until:
            await self.conversation(dice)

    async def conversation(self, dice: random.Random) -> None:
        """Some turns of one tenant; the topic may shift."""
        tenant = f"tenant-{dice.randrange(TENANTS)}"
        name = f"chat-{dice.randrange(10**9)}" if dice.random() < 0.5 else None
        task = self.task(dice, tenant)
        history: list[dict[str, str]] = []
        held: str | None = None
        for turn in range(dice.randint(2, 8)):
            shifts = turn > 0 and dice.random() < 0.15
            if shifts:
                task = self.task(dice, tenant)
            describes = turn == 0 or shifts or dice.random() < 0.3
            fields: dict[str, Any] = {"t2l_description": task} if describes else {}
            if held and dice.random() < 0.05:
                fields = {"t2l_adapter": held}
            if name:
                fields["t2l_session"] = name
            history.append({"role": "user", "content": f"line {turn} {dice.random()}"})
            found = await self.ask(dice, tenant, history, fields)
            if found is None:
                return
            kind, used, text = found
            if held and used is None:
                self.lost[kind] += 1
            held = used
            history.append({"role": "assistant", "content": text})
            if name and dice.random() < 0.05:
                await self.intrude(dice, tenant, name)
            await asyncio.sleep(self.pause_s * dice.random() * 2)

    def task(self, dice: random.Random, tenant: str) -> str:
        """One of the tenant's tasks: popular ones come often, rare ones seldom."""
        seen = self.seen.setdefault(tenant, set())
        number = min(int(dice.paretovariate(0.6)) - 1, TASKS - 1)
        if dice.random() < RARE:
            number = dice.randrange(TASKS)
        if time.monotonic() > self.grows_until and number not in seen:
            number = dice.choice(sorted(seen))
        seen.add(number)
        return _task(number, tenant)

    async def ask(
        self, dice: random.Random, tenant: str, messages: list[dict[str, str]], fields: Any
    ) -> tuple[str, str | None, str] | None:
        """One request at one of the routers; None if it failed or the client left."""
        start = time.perf_counter()
        chat = request(messages=messages, **fields)
        try:
            answer = await dice.choice(self.routers).chat(chat, Caller(tenant))
        except T2LError as error:
            self.errors[type(error).__name__] += 1
            return None
        decision = answer.decision
        self.kinds[decision.kind] += 1
        used = decision.adapter.adapter_id if decision.adapter else None
        if used is not None and self.owners.setdefault(used, tenant) != tenant:
            self.crossed += 1
        leaves = dice.random() < 0.03
        texts = []
        async with aclosing(answer.deltas) as deltas:
            async for delta in deltas:
                texts.append(delta.text)
                if leaves:
                    self.left += 1
                    return None
        self.latencies_ms.append((time.perf_counter() - start) * 1_000)
        why = "found no session" if decision.reason == "no task description" else decision.reason
        return why if used is None else decision.kind, used, "".join(texts)

    async def intrude(self, dice: random.Random, tenant: str, name: str) -> None:
        """Another tenant uses the same session's name; it must find nothing."""
        other = f"tenant-{(int(tenant[-1]) + 1) % TENANTS}"
        turn = [{"role": "user", "content": "whose is this?"}]
        found = await self.ask(dice, other, turn, {"t2l_session": name})
        if found is not None and found[1] is not None:
            self.crossed += 1

    async def sample(self) -> None:
        """Note the memory in use."""
        while time.monotonic() < self.until:
            self.resident.append(resident_mib(_own_id(), "RssAnon"))
            self.n_adapters.append(len(self.owners))
            await asyncio.sleep(SAMPLE_S)


def _short(why: str) -> str:
    """A reason as a name of letters."""
    return "_".join("".join(c if c.isalpha() else " " for c in why[:60]).lower().split())


def _own_id() -> int:
    return int(Path("/proc/self").resolve().name)


def _task(number: int, tenant: str) -> str:
    # The tenant's name makes its adapters its own.
    return f"Task {number} of {tenant}: rewrite each line in style {number * 7919 % 1000}"


async def soak(directory: Path, minutes: float, pause_s: float) -> dict[str, Any]:
    """Run, close, and look at what is left."""
    routers = [
        echo_router(
            directory,
            engine=EchoEngine(),
            adapter_memory_mib=1,
            generations_per_hour=100_000,
            max_decisions=20_000,
            max_sessions=5_000,
        )
        for _ in range(2)
    ]
    now = time.monotonic()
    soaking = Soak(routers, now + minutes * 60, now + minutes * 30, pause_s)
    workers = [soaking.worker(seed) for seed in range(WORKERS)]
    await asyncio.gather(*workers, soaking.sample())
    for router in routers:
        await router.close()
    foreign = 0
    with open_store(directory) as store:
        for adapter_id, tenant in soaking.owners.items():
            try:
                store.get(adapter_id, tenant=tenant)
            except NotFound:
                foreign += 1
        await asyncio.sleep(LEASE_S)
        with store.ledger.read() as connection:
            at = store.ledger.database.now(connection)
            good = select(func.count()).where(leases.c.expires_at > at)
            stuck = connection.execute(good).scalar_one()
            rows = {
                table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
                for table in ("leases", "sessions", "decisions", "adapters", "descriptions")
            }
        expired = store.leases.sweep()
    # In the second half the library no longer grows, and so memory must not.
    half = len(soaking.resident) // 2
    quarter = max(1, len(soaking.resident) // 4)
    middle = statistics.mean(soaking.resident[half : half + quarter])
    end = statistics.mean(soaking.resident[-quarter:])
    ordered = sorted(soaking.latencies_ms)
    return {
        "minutes": minutes,
        "requests": sum(soaking.kinds.values()),
        **{f"decided_{kind}": count for kind, count in sorted(soaking.kinds.items())},
        **{f"error_{kind}": count for kind, count in sorted(soaking.errors.items())},
        "clients_left": soaking.left,
        "cross_tenant": soaking.crossed,
        "turns_that_lost_their_adapter": soaking.lost.total(),
        **{f"lost_{_short(why)}": n for why, n in soaking.lost.most_common(4)},
        "leases_stuck": stuck,
        "leases_expired_not_yet_swept": expired,
        "adapters_not_in_the_library": foreign,
        **{f"rows_{table}": count for table, count in rows.items()},
        "adapters_served": len(soaking.owners),
        "adapters_served_at_half": soaking.n_adapters[half],
        "resident_start_mib": round(soaking.resident[0], 1),
        "resident_half_mib": round(soaking.resident[half], 1),
        "resident_third_quarter_mib": round(middle, 1),
        "resident_last_quarter_mib": round(end, 1),
        "latency_p50_ms": round(ordered[len(ordered) // 2], 3),
        "latency_p99_ms": round(ordered[int(len(ordered) * 0.99)], 3),
    }


def main() -> None:
    """Soak and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--pause", type=float, default=0.3, help="mean seconds between turns")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        metrics = asyncio.run(soak(Path(directory), arguments.minutes, arguments.pause))
    publish("soak", metrics, began=began, out=arguments.out, module="soak_router")


if __name__ == "__main__":
    main()
