"""Backups: they come back whole, while others write, and what is refused."""

import threading
from datetime import timedelta

import pytest

from adapters_store import AdapterStore, StoreConfig
from adapters_store.backup import backup, restore
from adapters_store.errors import (
    AdapterCorrupt,
    Conflict,
    NotFound,
)
from adapters_store.maintenance import PrunePolicy
from tests.adapter_files import (
    BASE,
    ENCODER,
    add,
    make_embedding,
)


def test_backup_and_restore(store, tmp_path):
    """A restored library has the same adapters, texts, names and audit log, and searches alike."""
    records = [add(store, seed) for seed in range(5)]
    store.aliases.set("mail", records[1].id, tenant="acme")
    store.tag(records[2].id, tenant="acme", add=["beta"])
    store.delete(records[3].id, tenant="acme")
    store.promote(records[4].id, tenant="acme")

    copied = backup(store.ledger, tmp_path / "backup")
    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "new")) as new:
        assert restore(new.ledger, tmp_path / "backup") == copied

        assert store.page(limit=None) == new.page(limit=None)
        assert new.get("mail", tenant="acme") == store.get("mail", tenant="acme")
        assert new.maintenance.verify().problems == ()
        query = {"tenant": "acme", "base": BASE, "encoder": ENCODER}
        assert new.search(make_embedding(7), **query) == store.search(make_embedding(7), **query)
        new.undelete(records[3].id, tenant="acme")
        add(new, 9)


def test_backup_while_writing(store, tmp_path):
    """A backup taken while others write is consistent."""
    stop = threading.Event()

    def write():
        seed = 0
        while not stop.is_set():
            seed += 1
            record = add(store, seed)
            if seed % 3 == 0:
                store.delete(record.id, tenant="acme")
                policy = PrunePolicy(purge_after=timedelta(0))
                store.maintenance.apply(store.maintenance.plan(policy))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backups = [tmp_path / f"backup-{i}" for i in range(3)]
        for path in backups:
            backup(store.ledger, path)
    finally:
        stop.set()
        writer.join()

    for path in backups:
        with AdapterStore.open(
            StoreConfig(f"sqlite:///{path / 'library.db'}", str(path / "adapters"), tmp_path)
        ) as copy:
            assert copy.maintenance.verify().problems == ()


def test_counts(store, tmp_path):
    """Both count adapters as lists do: equal ones of two tenants are two, pruned ones none."""
    ids = {add(store, seed).id: seed for seed in (1, 2)}
    first, last = sorted(ids)
    add(store, ids[first], tenant="rival")

    def prune(done, _):
        if done == 1:  # the rows are copied by now, the last one's weights aren't
            store.delete(last, tenant="acme")
            store.maintenance.apply(store.maintenance.plan(PrunePolicy(purge_after=timedelta(0))))

    copied = backup(store.ledger, tmp_path / "backup", on_adapter=prune)

    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "new")) as new:
        assert restore(new.ledger, tmp_path / "backup") == copied
        assert len(new.page()) == copied.adapters == 2


def test_restore_refuses(store, tmp_path):
    """Restoring into a library with adapters, or from no backup, changes nothing."""
    add(store)
    backup(store.ledger, tmp_path / "backup")

    with pytest.raises(Conflict, match="restore into an empty one"):
        restore(store.ledger, tmp_path / "backup")
    with pytest.raises(Conflict, match="exists"):
        backup(store.ledger, tmp_path / "backup")
    with pytest.raises(NotFound):
        restore(store.ledger, tmp_path)


def test_damaged_backup(store, tmp_path):
    """A damaged backup is refused, and nothing of it is visible."""
    record = add(store)
    backup(store.ledger, tmp_path / "backup")
    weights = next((tmp_path / "backup").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "new")) as new:
        with pytest.raises(AdapterCorrupt, match=record.id):
            restore(new.ledger, tmp_path / "backup")
        assert new.page() == []
