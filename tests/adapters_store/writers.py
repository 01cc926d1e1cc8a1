"""What the other processes of the crash and concurrency tests do."""

import os
import random
import time
from datetime import timedelta
from pathlib import Path

from adapters_store import AdapterStore, StoreConfig
from adapters_store.errors import AdapterNotFound
from adapters_store.maintenance import PrunePolicy
from tests.adapter_files import BASE, ENCODER, make_files, make_task

TENANT = "acme"


def write_until_killed(library: Path, journal: Path, seed: int) -> None:
    """Add, delete and prune at random; write to the journal before and after each change."""
    rng = random.Random(seed)
    note = _journal(journal)
    with AdapterStore.open(StoreConfig.in_directory(library)) as store:
        mine = []
        for number in range(seed * 10_000, (seed + 1) * 10_000):
            files = make_files(number)
            adapter_id = files.canonical().adapter_id(BASE)
            note("adding", adapter_id)
            store.add(files, tenant=TENANT, base=BASE, task=make_task(number))
            note("added", adapter_id)
            mine.append(adapter_id)
            if rng.random() < 0.2:
                doomed = mine.pop(rng.randrange(len(mine)))
                note("deleting", doomed)
                store.delete(doomed, tenant=TENANT)
                note("deleted", doomed)
            if rng.random() < 0.05:
                # Frees deleted adapters, never a write that is under way.
                policy = PrunePolicy(purge_after=timedelta(0))
                store.maintenance.apply(store.maintenance.plan(policy))


def write_and_search(library: Path, journal: Path, seed: int, seconds: float) -> None:
    """Add adapters, and after each look for it and for what the other processes added last."""
    note = _journal(journal)
    end = time.monotonic() + seconds
    with AdapterStore.open(StoreConfig.in_directory(library)) as store:
        number = seed * 1_000_000
        # Once at least, however late a busy machine gives the process its turn.
        while number == seed * 1_000_000 or time.monotonic() < end:
            number += 1
            task = make_task(number)
            record = store.add(make_files(number), tenant=TENANT, base=BASE, task=task)
            note("added", record.id)
            hits = store.search(task.embedding, tenant=TENANT, base=BASE, encoder=ENCODER, k=1)
            note("found" if [hit.adapter.id for hit in hits] == [record.id] else "lost", record.id)
            newest = store.page(tenant=TENANT, limit=1)[0]
            try:
                store.files(newest.id, tenant=TENANT)
                note("read", newest.id)
            except AdapterNotFound:
                note("lost", newest.id)


def events(journal: Path) -> dict[str, list[str]]:
    """The journal's ids by event, in order."""
    found: dict[str, list[str]] = {}
    for line in journal.read_text().splitlines():
        event, adapter_id = line.split()
        found.setdefault(event, []).append(adapter_id)
    return found


def _journal(path: Path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, adapter_id: str) -> None:
        # One write of one line: it is in the file, whole, even if the process dies right after.
        os.write(descriptor, f"{event} {adapter_id}\n".encode())

    return note
