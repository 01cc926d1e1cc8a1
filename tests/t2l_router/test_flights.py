"""One generation for one task, however many ask for it at once."""

import asyncio
import subprocess
import sys

import pytest

from adapters_store.names import text_hash
from t2l_router.errors import GenerationFailed
from t2l_router.flights import Flights
from t2l_router.library import Identity, _lease_name
from tests.flights import TASK, ask, ask_from
from tests.routers import answer, echo_router, open_store


async def test_one_process(tmp_path):
    """200 first requests in one process: one generation, one adapter."""
    found = await ask(tmp_path, 200)

    assert found["generations"] == 1
    assert len(found["adapters"]) == 1
    assert found["kinds"] == {"generated": 200}


def test_four_processes(tmp_path):
    """200 first requests over four processes: one generation, one adapter."""
    with open_store(tmp_path):  # four processes that create the same database are another test
        pass

    found = ask_from(tmp_path, processes=4, requests=50)

    assert sum(one["generations"] for one in found) == 1
    assert len({adapter for one in found for adapter in one["adapters"]}) == 1
    assert sum(sum(one["kinds"].values()) for one in found) == 200
    assert all(set(one["kinds"]) <= {"generated", "exact"} for one in found)
    with open_store(tmp_path) as store:
        assert len(store.page(tenant="local")) == 1


async def test_lease_of_a_dead_router(tmp_path):
    """A router that was killed while it wrote holds the others up until its lease has expired."""
    router = echo_router(tmp_path, generation_timeout_s=2)
    name = _lease_name("local", TASK, router._library.identity)
    program = (
        "import sys; from datetime import timedelta; from pathlib import Path;"
        "from tests.routers import open_store;"
        "store = open_store(Path(sys.argv[1]));"
        "assert store.leases.acquire(sys.argv[2], 'dead', ttl=timedelta(seconds=1))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), name]
    await asyncio.to_thread(subprocess.run, command, check=True)

    early, _ = await answer(router, t2l_description=TASK)
    await asyncio.sleep(1)
    late, _ = await answer(router, t2l_description=TASK)
    with open_store(tmp_path) as store:
        holder = store.leases.holder(name)
    await router.close()

    assert {early.kind, late.kind} <= {"base", "generated", "exact"}
    assert late.kind in ("generated", "exact")
    assert holder is None


async def test_leases_are_given_back(tmp_path):
    """Whether an adapter was written or not, nothing stays leased."""

    class Broken:
        hypernet_id = "echo"

        def generate(self, embeddings):
            raise RuntimeError("no luck")

    router = echo_router(tmp_path, generator=Broken())
    decision, _ = await answer(router, t2l_description=TASK)
    await router._matcher.settle()
    with open_store(tmp_path) as store:
        holder = store.leases.holder(_lease_name("local", TASK, router._library.identity))
    await router.close()

    assert decision.kind == "base"
    assert holder is None


def test_lease_names_differ() -> None:
    """Tenants, texts and hypernetworks have leases of their own; case and spacing don't count."""
    identity = Identity("b", "e", "h")
    names = {
        _lease_name("acme", TASK, identity),
        _lease_name("rival", TASK, identity),
        _lease_name("acme", "Sort the words", identity),
        _lease_name("acme", TASK, Identity("b", "e", "other")),
    }

    assert len(names) == 4
    assert _lease_name("acme", TASK.upper(), identity) in names
    assert text_hash(TASK) == text_hash(f" {TASK.upper()} ")


async def test_flight_shared_and_forgotten():
    """Who asks meanwhile waits for the same work; afterwards it begins anew."""
    flights: Flights[str, int] = Flights(10)
    begun = []

    async def work() -> int:
        begun.append(1)
        await asyncio.sleep(0.01)
        return len(begun)

    first = await asyncio.gather(*(flights.join("a", work, timeout_s=1) for _ in range(5)))
    second = await flights.join("a", work, timeout_s=1)

    assert first == [1] * 5
    assert second == 2
    assert len(flights) == 0


async def test_flight_too_long():
    """Waiting is bounded."""
    flights: Flights[str, None] = Flights(10)

    with pytest.raises(GenerationFailed, match=r"not ready within 0\.01 s"):
        await flights.join("a", lambda: asyncio.sleep(10), timeout_s=0.01)
    await flights.close()
