"""Audit, leases, re-embedding, pruning, faults: what only the whole library shows."""

import sqlite3
import threading
from datetime import timedelta

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from adapters_store import AdapterStore, StoreConfig, blobs, transfer
from adapters_store.errors import (
    AdapterCorrupt,
    AuditBroken,
    Conflict,
    EncoderMismatch,
    InvalidImport,
    InvalidInput,
    LeaseLost,
    SchemaOutdated,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from adapters_store.faults import named_os_errors
from adapters_store.imports import read_path
from adapters_store.maintenance import PrunePolicy
from adapters_store.quotas import Quota
from adapters_store.schema import metadata
from tests.adapter_files import (
    BASE,
    ENCODER,
    add,
    make_embedding,
    make_files,
)

MINUTE = timedelta(minutes=1)


def sql(config, statement):
    """Do something to the database behind the library's back."""
    with sqlite3.connect(config.database_url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    connection.close()


def test_migrations_make_the_schema(store):
    """The migrations lead to exactly the tables that the code describes."""
    with store.ledger.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_other_schema(config, store):
    """A library of another version is refused, and the message says what to do."""
    sql(config, "UPDATE alembic_version SET version_num = '0000'")

    with pytest.raises(SchemaOutdated, match="t2l db migrate"):
        AdapterStore.open(config)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_log SET actor = 'somebody' WHERE seq = 2",
        "UPDATE audit_log SET detail = '{}' WHERE seq = 1",
        "DELETE FROM audit_log WHERE seq = 2",
    ],
)
def test_audit_shows_tampering(config, store, tampering):
    """A changed or removed audit entry is found; an untouched log is sound."""
    for seed in range(3):
        add(store, seed)
    assert store.maintenance.verify().problems == ()

    sql(config, tampering)

    (problem,) = store.maintenance.verify().problems
    assert problem.kind == "audit"
    assert not problem.harmless
    assert issubclass(AuditBroken, StoreError)


def test_lease_is_exclusive(store):
    """One holder at a time; renewing keeps it, releasing gives it to the next."""
    assert store.leases.acquire("task", "one", ttl=MINUTE)
    assert store.leases.acquire("task", "one", ttl=MINUTE)
    assert not store.leases.acquire("task", "two", ttl=MINUTE)
    store.leases.renew("task", "one", ttl=MINUTE)
    with pytest.raises(LeaseLost):
        store.leases.renew("task", "two", ttl=MINUTE)

    store.leases.release("task", "two")
    assert store.leases.holder("task") == "one"
    store.leases.release("task", "one")
    assert store.leases.acquire("task", "two", ttl=MINUTE)


def test_lease_expires(store):
    """An expired lease is free, and its old holder is told."""
    store.leases.acquire("task", "one", ttl=timedelta(0))

    assert store.leases.holder("task") is None
    assert store.leases.acquire("task", "two", ttl=MINUTE)
    with pytest.raises(LeaseLost):
        store.leases.renew("task", "one", ttl=MINUTE)


def test_lease_race(store):
    """Of many that ask at once exactly one gets it."""
    got = []

    def ask(name):
        if store.leases.acquire("task", name, ttl=MINUTE):
            got.append(name)

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 1


OTHER = "o" * 64


def embed(texts):
    """Another encoder: unit vectors of 8 dimensions."""
    return np.stack([make_embedding(len(text), 8) for text in texts])


def test_new_encoder(store):
    """The old encoder serves until everything is embedded anew; then the new one alone does."""
    ids = [add(store, seed, text="x" * (seed + 1)).id for seed in range(7)]
    steps = []

    def interrupt(count):
        steps.append(count)
        store.search(make_embedding(0), tenant="acme", base=BASE, encoder=ENCODER)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.reembedding.apply(OTHER, embed, batch=2, on_batch=interrupt)
    status = store.reembedding.status(OTHER)
    assert (status.descriptions, status.missing, status.is_done) == (7, 3, False)

    assert store.reembedding.apply(OTHER, embed, batch=2, on_batch=steps.append).is_done
    assert steps == [2, 2, 2, 1]
    query = {"tenant": "acme", "base": BASE}
    with pytest.raises(EncoderMismatch):
        store.search(make_embedding(0), encoder=ENCODER, **query)
    (hit,) = store.search(make_embedding(5, 8), encoder=OTHER, k=1, **query)
    assert hit.adapter.id == ids[4]
    assert store.reembedding.forget_others(OTHER) == 7
    assert store.reembedding.status(OTHER).others == 0


def test_prune_to_quota(store):
    """Of a tenant over its quota the least recently used go; pins and aliases stay."""
    records = [add(store, seed) for seed in range(6)]
    store.pin(records[0].id, tenant="acme")
    store.aliases.set("mail", records[1].id, tenant="acme")
    store.record_uses({records[2].id: 1}, tenant="acme")
    other = add(store, 7, tenant="rival")
    store.quotas.set("acme", Quota(max_adapters=4))

    steps = store.maintenance.plan(PrunePolicy(to_quota=True))
    assert len(store.page()) == 7
    store.maintenance.apply(steps)

    left = {record.id for record in store.page()}
    assert left == {records[i].id for i in (0, 1, 2, 5)} | {other.id}


def test_prune_by_filter(store):
    """Adapters that fit a filter are deleted, and can be brought back."""
    records = [add(store, seed) for seed in range(3)]
    store.tag(records[0].id, tenant="acme", add=["old"])

    store.maintenance.apply(store.maintenance.plan(PrunePolicy(("tag=old",))))

    assert {record.id for record in store.page()} == {records[1].id, records[2].id}
    store.undelete(records[0].id, tenant="acme")


def test_purge_keeps_shared_content(store):
    """Content that another tenant holds too stays when one tenant's row is purged."""
    mine, theirs = add(store, 1), add(store, 1, tenant="rival")
    store.delete(mine.id, tenant="acme")

    store.maintenance.apply(store.maintenance.plan(PrunePolicy(purge_after=timedelta(0))))

    assert store.files(theirs.id, tenant="rival") == make_files(1).canonical()


def test_full_disk_under_the_weights(store, monkeypatch):
    """A full disk while weights are written is named, and leaves no trace."""

    def full(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs, "_write_synced", full)

    with pytest.raises(StoreFull):
        add(store)
    assert store.page() == []
    assert [*store.ledger.blobs.published(), *store.ledger.blobs.strays()] == []


def test_full_disk_under_the_database(config, store):
    """A full disk under the database is named, and nothing becomes visible."""
    add(store, 0)
    with store.ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFull):  # noqa: PT012 - some pages are free, so not the first one fails
        for seed in range(1, 200):
            add(store, seed)
    with AdapterStore.open(config) as other:
        assert all(problem.harmless for problem in other.maintenance.verify().problems)


def test_read_only_library(store):
    """A library that can't be written still reads, and says why it doesn't write."""
    record = add(store)
    with store.ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    assert store.get(record.id, tenant="acme") == record
    with pytest.raises(StoreReadOnly):
        store.pin(record.id, tenant="acme")


def test_locked_database(config, store):
    """A database that another program holds too long is named as busy."""
    record = add(store)
    with store.ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(config.database_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreBusy, match="try again"):
            store.pin(record.id, tenant="acme")
    finally:
        holder.close()


def test_no_database(tmp_path):
    """A file that is no database is named as such."""
    (tmp_path / "library.db").write_bytes(b"something else entirely" * 100)

    with pytest.raises(StoreCorrupt):
        AdapterStore.open(StoreConfig.in_directory(tmp_path))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "t2l.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_damaged_blob(store, name, damage):
    """Files that were changed, emptied or removed are never handed out."""
    record = add(store)
    path = store.directory(record.id, tenant="acme") / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)

    for read in (store.files, store.directory, store.export):
        with pytest.raises(AdapterCorrupt, match=record.id):
            read(record.id, tenant="acme")


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_export_comes_back(store, tmp_path, suffix):
    """What export writes, import reads: the same adapter with the same texts."""
    record = add(store, text="Write a haiku")
    destination = tmp_path / f"out{suffix}"
    write = transfer.write_zip if suffix else transfer.write_directory
    write(store.export(record.id, tenant="acme"), destination)

    foreign = read_path(destination)

    assert foreign.files.adapter_id(foreign.manifest.base) == record.id
    assert foreign.manifest.descriptions == ("Write a haiku",)
    with pytest.raises(Conflict):
        write(store.export(record.id, tenant="acme"), destination)


def test_push_and_pull(store):
    """What push writes below a URL, pull reads."""
    record = add(store)
    url = f"memory://hub/{record.id}"

    transfer.push(store.export(record.id, tenant="acme"), url, options={})

    assert transfer.pull(url, options={}).files == store.files(record.id, tenant="acme")


@pytest.mark.parametrize("url", ["library.db", "mysql://root@db/t2l"])
def test_other_databases(tmp_path, url):
    """What is neither SQLite nor PostgreSQL is refused with what to give."""
    with pytest.raises(InvalidInput, match=r"give sqlite:///PATH or postgresql\+psycopg://"):
        AdapterStore.open(StoreConfig(url, str(tmp_path / "blobs"), tmp_path / "cache"))


def test_pgvector_needs_postgresql(tmp_path):
    """An index that can't lie in the database is refused when the library is opened."""
    pytest.importorskip("pgvector")
    location = f"sqlite:///{tmp_path}/library.db", str(tmp_path / "blobs"), tmp_path / "cache"
    with pytest.raises(InvalidInput, match="pgvector needs a library in PostgreSQL"):
        AdapterStore.open(StoreConfig(*location, "pgvector"))


@pytest.mark.parametrize(
    ("module", "error"), [("botocore.exceptions", "NoCredentialsError"), ("httpx", "ConnectError")]
)
def test_what_drivers_say(module, error):
    """What fsspec's drivers raise of their own is the library's own error."""
    kind = getattr(pytest.importorskip(module), error)
    with (
        pytest.raises(StoreUnavailable, match="can't pull s3://a: "),
        named_os_errors("pull s3://a"),
    ):
        raise kind("who are you?") if module == "httpx" else kind


@pytest.mark.parametrize("revision", ["", "@main", "@abc123", "@" + "g" * 40])
def test_hub_needs_a_pin(revision):
    """A hub repository without a full commit is refused before anything is fetched."""
    with pytest.raises(InvalidImport, match="pin the revision"):
        transfer.pull(f"hf://owner/repository{revision}", options={})
