"""Upkeep that every library offers: verify, prune, leases, figures, backup, another encoder."""

from datetime import timedelta

import numpy as np
import pytest

from adapters_store import AdapterStore, StoreConfig
from adapters_store.backup import backup, restore
from adapters_store.errors import LeaseLost
from adapters_store.maintenance import PrunePolicy
from adapters_store.quotas import Quota
from adapters_store.records import EXAMPLES, Task
from tests.adapter_files import BASE, ENCODER, make_embedding, make_files, make_task

NOW = PrunePolicy(purge_after=timedelta(0), stray_after=timedelta(0))
OTHER = "o" * 64


@pytest.fixture(name="store")
def _store(library_config):
    with AdapterStore.open(library_config) as store:
        yield store


def add(store, seed=0, *, tenant="acme"):
    return store.add(make_files(seed), tenant=tenant, base=BASE, task=make_task(seed))


def search(store, seed, *, encoder=ENCODER, dim=16):
    scope = {"tenant": "acme", "base": BASE, "encoder": encoder}
    return [hit.adapter.id for hit in store.search(make_embedding(seed, dim), **scope)]


def test_verify_names_orphans_and_prune_removes_them(store):
    """Files without a row are named and removed; deleted adapters are purged with their files."""
    kept, gone = add(store, 1), add(store, 2)
    store.delete(gone.id, tenant="acme")
    files = make_files(3).canonical()
    orphan = files.adapter_id(BASE)
    store.ledger.blobs.put(orphan, BASE, files)

    (problem,) = store.maintenance.verify().problems
    assert (problem.subject, problem.kind, problem.harmless) == (orphan, "orphan", True)
    plan = store.maintenance.plan(NOW)
    assert {(step.subject, step.action) for step in plan} == {
        (gone.id, "purge"),
        (orphan, "remove"),
    }
    assert store.maintenance.apply(plan) == plan
    assert store.maintenance.plan(NOW) == []
    assert [blob.name for blob in store.ledger.blobs.published()] == [kept.id]
    assert store.maintenance.verify().problems == ()
    assert search(store, 1) == [kept.id]


def test_plan_is_checked_again(store):
    """What was planned and has changed since is left alone."""
    record = add(store, 1)
    store.delete(record.id, tenant="acme")
    plan = store.maintenance.plan(NOW)
    store.undelete(record.id, tenant="acme")

    assert store.maintenance.apply(plan) == []
    assert store.files(record.id, tenant="acme") == make_files(1).canonical()


def test_quota_prune(store):
    """A tenant over its quota is brought back into it, the least recently used first."""
    records = [add(store, seed) for seed in range(3)]
    store.record_uses({records[0].id: 1}, tenant="acme")
    store.quotas.set("acme", Quota(max_adapters=2))

    store.maintenance.apply(store.maintenance.plan(PrunePolicy(to_quota=True)))

    assert {record.id for record in store.page()} == {records[0].id, records[2].id}


def test_lease(store):
    """A lease has one holder until it is released."""
    ttl = timedelta(minutes=1)

    assert store.leases.acquire("task", "one", ttl=ttl)
    assert not store.leases.acquire("task", "two", ttl=ttl)
    with pytest.raises(LeaseLost):
        store.leases.renew("task", "two", ttl=ttl)
    store.leases.release("task", "one")
    assert store.leases.acquire("task", "two", ttl=timedelta(0))
    assert store.leases.acquire("task", "one", ttl=ttl)


def test_figures(store):
    """Counts and sizes are those of what was added, used and deleted."""
    one, two = add(store, 1), add(store, 2, tenant="rival")
    store.record_uses({one.id: 2}, tenant="acme")
    store.delete(two.id, tenant="rival")

    stats = store.reports.stats()
    assert (stats.by_state, stats.hits, stats.unused) == ({"deleted": 1, "generated": 1}, 2, 0)
    assert [record.id for record in stats.top] == [one.id]
    acme, rival = store.reports.space()
    assert (acme.size_bytes, acme.reclaimable_bytes) == (one.size_bytes, 0)
    assert rival.reclaimable_bytes == two.size_bytes


def test_backup_is_a_library(store, tmp_path):
    """A backup opens as an embedded library with the same adapters, whatever it was taken of."""
    records = [add(store, seed) for seed in range(3)]
    store.aliases.set("mail", records[0].id, tenant="acme")

    backup(store.ledger, tmp_path / "backup")

    with AdapterStore.open(
        StoreConfig(
            f"sqlite:///{tmp_path}/backup/library.db", str(tmp_path / "backup/adapters"), tmp_path
        )
    ) as copy:
        assert copy.page() == store.page()
        assert copy.maintenance.verify().problems == ()
        assert search(copy, 1) == search(store, 1)


def test_restore_moves_a_library(store, tmp_path):
    """An embedded library's backup restores into any kind, which can then be used."""
    with AdapterStore.open(StoreConfig.in_directory(tmp_path / "old")) as old:
        records = [add(old, seed) for seed in range(3)]
        old.aliases.set("mail", records[0].id, tenant="acme")
        backup(old.ledger, tmp_path / "backup")

    restore(store.ledger, tmp_path / "backup")

    assert search(store, 2)[0] == records[2].id
    new = add(store, 9)
    assert new.key > max(record.key for record in records)
    store.aliases.set("mail", new.id, tenant="acme", move=True)
    assert store.maintenance.verify().problems == ()


def test_another_encoder(store):
    """After a migration the new encoder finds what the old one found."""
    ids = [add(store, seed).id for seed in range(3)]

    def embed(texts):
        return np.stack([make_embedding(int(text.split()[-1]), 8) for text in texts])

    assert store.reembedding.apply(OTHER, embed, batch=2).is_done
    assert search(store, 1, encoder=OTHER, dim=8)[0] == ids[1]
    assert store.reembedding.forget_others(OTHER) == 3
    assert search(store, 2, encoder=OTHER, dim=8)[0] == ids[2]


def test_told_by_examples(store):
    """What examples tell is found by its very text alone, also after a migration."""
    task = Task("Loud [1 example, 0f]", None, ENCODER, EXAMPLES)
    record = store.add(make_files(7), tenant="acme", base=BASE, task=task)
    add(store, 1)

    def embed(texts):
        assert "Loud [1 example, 0f]" not in texts
        return np.stack([make_embedding(1, 8) for _ in texts])

    def named(encoder):
        scope = {"tenant": "acme", "base": BASE, "encoder": encoder}
        return store.exact("loud [1 example, 0f]", **scope).id

    assert named(ENCODER) == record.id
    assert record.id not in search(store, 1)
    migration = store.reembedding.apply(OTHER, embed)
    assert (migration.is_done, migration.descriptions, migration.missing) == (True, 1, 0)
    assert named(OTHER) == record.id
    assert record.id not in search(store, 1, encoder=OTHER, dim=8)
    shared = store.promote(record.id, tenant="acme")
    assert shared.description == "Loud [1 example, 0f]"


def test_index_rebuild(store):
    """The index is described, and built anew without what is dead."""
    add(store, 1)
    gone = add(store, 2)
    store.delete(gone.id, tenant="acme")
    store.maintenance.apply(store.maintenance.plan(NOW))

    store.indexing.rebuild()

    (report,) = store.indexing.status()
    assert (report.embeddings, report.searchable, report.indexed) == (1, 1, 1)
    assert (report.tenant, report.base, report.encoder, report.active) == (
        "acme", BASE, ENCODER, True,
    )  # fmt: skip


def test_dedupe(store):
    """Duplicates by text are found and merged."""
    one = store.add(make_files(1), tenant="acme", base=BASE, task=make_task(5, "One"))
    store.add(make_files(2), tenant="acme", base=BASE, task=make_task(5, "Two"))

    (cluster,) = store.dedupe.clusters("text", tenant="acme", threshold=0.99)
    store.dedupe.merge(cluster)

    assert [record.id for record in store.page()] == [one.id]
    assert store.get(one.id, tenant="acme").n_descriptions == 2
