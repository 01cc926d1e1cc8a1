"""A process that writes is killed again and again; nothing acknowledged is ever lost."""

import multiprocessing
import os
import random
import signal
import time
from datetime import timedelta

import pytest

from adapters_store import AdapterStore, StoreConfig
from adapters_store.maintenance import PrunePolicy
from tests.adapters_store.writers import TENANT, events, write_and_search, write_until_killed


@pytest.fixture(name="processes", scope="module")
def _processes():
    """Processes that start in milliseconds, from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.adapters_store.writers", "adapters_store.store"])
    return context


def kill_writers(processes, library, journal, kills):
    """Start a writer and kill it at a random moment of its first quarter of a second of work."""
    rng = random.Random(kills)
    for seed in range(kills):
        size = journal.stat().st_size if journal.exists() else 0
        process = processes.Process(target=write_until_killed, args=(library, journal, seed))
        process.start()
        while process.is_alive() and (not journal.exists() or journal.stat().st_size == size):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "kills", [15, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_kills(tmp_path, processes, kills):
    """After any number of kills the library holds what was acknowledged and hides the rest."""
    library, journal = tmp_path / "library", tmp_path / "journal"
    AdapterStore.open(StoreConfig.in_directory(library)).close()

    kill_writers(processes, library, journal, kills)

    seen = {event: set(ids) for event, ids in events(journal).items()}
    deleting = seen.get("deleting", set())
    with AdapterStore.open(StoreConfig.in_directory(library)) as store:
        visible = {record.id for record in store.page(tenant=TENANT, limit=None)}
        assert seen["added"] - deleting <= visible
        assert visible <= seen["adding"]
        assert not visible & seen.get("deleted", set())
        assert len(visible - seen["added"]) <= kills  # committed, killed before the journal knew

        report = store.maintenance.verify()
        assert all(problem.harmless for problem in report.problems)
        store.maintenance.apply(
            store.maintenance.plan(PrunePolicy(purge_after=timedelta(0), stray_after=timedelta(0)))
        )
        assert store.maintenance.verify().problems == ()
        assert visible == {record.id for record in store.page(tenant=TENANT, limit=None)}
        kinds = [problem.kind for problem in report.problems]
        print(
            f"\n{kills} kills: {len(seen['added'])} acknowledged, {len(visible)} visible, "
            f"{len(visible - seen['added'])} unacknowledged, {kinds.count('orphan')} orphans, "
            f"{kinds.count('unfinished')} unfinished writes"
        )


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_many_processes(tmp_path, processes, seconds):
    """Eight processes that write and search at once lose nothing and find what they added."""
    library = tmp_path / "library"
    journals = [tmp_path / f"journal-{seed}" for seed in range(8)]
    workers = [
        processes.Process(target=write_and_search, args=(library, journal, seed, seconds))
        for seed, journal in enumerate(journals)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0] * 8
    seen = [events(journal) for journal in journals]
    assert all(one["added"] for one in seen)
    added = {adapter_id for one in seen for adapter_id in one["added"]}
    assert not any("lost" in one for one in seen)
    with AdapterStore.open(StoreConfig.in_directory(library)) as store:
        assert added == {record.id for record in store.page(tenant=TENANT, limit=None)}
        assert store.maintenance.verify().problems == ()
    print(f"\n8 processes, {seconds} s: {len(added)} added")
