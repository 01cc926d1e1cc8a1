"""What is written behind the answers arrives, once, and waits within bounds."""

import asyncio
import time

import pytest

from adapters_store.decisions import DecisionEntry
from adapters_store.errors import StoreUnavailable
from adapters_store.sessions import SessionRow
from adapters_store.traffic import Retention
from t2l_router.behind import Behind
from t2l_router.calls import Calls
from t2l_router.errors import LibraryUnavailable
from tests.routers import open_store


class Faulty:
    """A library whose traffic is written as told: at once, too slowly, or not at all."""

    def __init__(self, store):
        self._store = store
        self.delay_s = 0.0
        self.error = None

    def __getattr__(self, name):
        if name == "traffic":
            time.sleep(self.delay_s)
            if self.error:
                raise self.error
        return getattr(self._store, name)


@pytest.fixture(name="faulty")
def _faulty(tmp_path):
    return Faulty(open_store(tmp_path))


def traces(tmp_path):
    """What the log holds."""
    with open_store(tmp_path) as store:
        return sorted(entry.trace for entry in store.decisions.newest(limit=10_000))


async def test_everything_arrives(faulty, tmp_path):
    """More rows than a batch holds are all written by closing."""
    calls = Calls(faulty)
    behind = Behind(calls, retention=Retention())
    for i in range(1_200):
        behind.decision(DecisionEntry(f"{i:05}", "acme", "exact"))
        behind.session(f"k{i % 700}", SessionRow("acme", None, "{}"))
    await behind.close()
    await calls.close()

    assert traces(tmp_path) == [f"{i:05}" for i in range(1_200)]


async def test_slow_write_is_not_a_second_row(faulty, tmp_path):
    """A write that took too long and succeeded after all does no harm when it is repeated."""
    calls = Calls(faulty, patience_s=0.1)
    behind = Behind(calls, retention=Retention())
    faulty.delay_s = 0.3
    behind.decision(DecisionEntry("once", "acme", "exact"))
    with pytest.raises(LibraryUnavailable, match="did not answer"):
        await behind.flush()
    await asyncio.sleep(0.8)
    faulty.delay_s = 0.0
    await behind.close()
    await calls.close()

    assert traces(tmp_path) == ["once"]


async def test_waiting_rows_are_bounded(faulty, tmp_path):
    """While the library is away the newest rows wait, up to their number."""
    calls = Calls(faulty)
    behind = Behind(calls, retention=Retention(), max_pending=10)
    faulty.error = StoreUnavailable("away")
    for i in range(30):
        behind.decision(DecisionEntry(f"{i:05}", "acme", "exact"))
    with pytest.raises(LibraryUnavailable):
        await behind.flush()
    faulty.error = None
    await asyncio.sleep(0.6)  # the pause after a failure
    await behind.close()
    await calls.close()

    assert traces(tmp_path) == [f"{i:05}" for i in range(20, 30)]


async def test_what_comes_during_a_write_is_one_batch(faulty, tmp_path):
    """A steady stream is written a few times a second, not as often as the library can."""
    calls = Calls(faulty)
    behind = Behind(calls, retention=Retention())
    faulty.delay_s = 0.01
    batches = []
    run = calls.run

    async def counted(work, **fields):
        batches.append(work)
        return await run(work, **fields)

    calls.run = counted
    for i in range(100):
        behind.decision(DecisionEntry(f"{i:05}", "acme", "exact"))
        await asyncio.sleep(0.004)
    await behind.close()
    await calls.close()

    assert len(batches) < 15
    assert len(traces(tmp_path)) == 100


async def test_bug_costs_one_batch(faulty, tmp_path, caplog):
    """What breaks on one batch is in the log, and what comes later is written."""
    calls = Calls(faulty)
    behind = Behind(calls, retention=Retention())
    faulty.error = TypeError("a bug")
    behind.decision(DecisionEntry("lost", "acme", "exact"))
    while not caplog.records:  # noqa: ASYNC110 - it is written behind
        await asyncio.sleep(0.01)
    faulty.error = None
    behind.decision(DecisionEntry("later", "acme", "exact"))
    await behind.close()
    await calls.close()

    assert traces(tmp_path) == ["later"]
    assert "are lost" in caplog.text
