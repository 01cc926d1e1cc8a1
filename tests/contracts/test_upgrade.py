"""
Routers of two versions over one library, while the old ones are replaced one after the other.

The rule: a migration only adds, and what it adds may be left out; things go a release later.
"""

import pytest
from sqlalchemy import inspect, text

from adapters_store import AdapterStore
from adapters_store.database import SCHEMA_HEAD, Database, works_with
from adapters_store.errors import SchemaOutdated
from tests.adapter_files import BASE, ENCODER, add, make_embedding
from tests.routers import answer, echo_router

REVISIONS = ["0001", "0002", "0003"]
NEXT = "0004"

# What a later version may do to the tables.
ADDITIONS = (
    "ALTER TABLE adapters ADD COLUMN quality FLOAT",
    "ALTER TABLE sessions ADD COLUMN region VARCHAR(16) DEFAULT 'home' NOT NULL",
    "ALTER TABLE leases ADD COLUMN purpose TEXT",
    "CREATE TABLE replicas (url VARCHAR(200) PRIMARY KEY)",
    "CREATE INDEX ix_adapters_base ON adapters (base)",
    f"UPDATE alembic_version SET version_num = '{NEXT}'",
)


@pytest.fixture(name="upgraded")
def _upgraded(library_config):
    """A library that a later version has migrated; it noted that this one can go on."""
    AdapterStore.open(library_config).close()
    database = Database(library_config.database_url)
    with database.write() as connection:
        for statement in ADDITIONS:
            connection.execute(text(statement))
        works_with(connection, SCHEMA_HEAD)
    yield library_config
    database.close()


def columns(database):
    """Table -> column -> what it is."""
    with database.read() as connection:
        inspector = inspect(connection)
        return {
            table: {column["name"]: column for column in inspector.get_columns(table)}
            for table in inspector.get_table_names()
        }


def test_migrations_only_add(library_config):
    """Each migration leaves what the version before knows, and adds nothing it must fill."""
    database = Database(library_config.database_url)
    assert REVISIONS[-1] == SCHEMA_HEAD, "a new migration belongs into this list"
    database.migrate(REVISIONS[0])
    for revision in REVISIONS[1:]:
        before = columns(database)
        database.migrate(revision)
        after = columns(database)

        for table, known in before.items():
            for name, column in known.items():
                now = after[table][name]
                assert str(now["type"]) == str(column["type"]), f"{revision}: {table}.{name}"
                assert now["nullable"] >= column["nullable"], f"{revision}: {table}.{name}"
            for name in after[table].keys() - known.keys():
                new = after[table][name]
                assert new["nullable"] or new["default"], f"{revision}: {table}.{name}"
    database.close()


def test_library_of_a_later_version(upgraded):
    """This version reads and writes tables that a later one has added to."""
    with AdapterStore.open(upgraded) as store:
        record = add(store, 1)
        hits = store.search(make_embedding(1), tenant="acme", base=BASE, encoder=ENCODER)
        store.delete(record.id, tenant="acme")
        store.undelete(record.id, tenant="acme")
        store.aliases.set("mine", record.id, tenant="acme")

        assert [hit.adapter.id for hit in hits] == [record.id]
        assert store.get("mine", tenant="acme").id == record.id


async def test_router_over_a_later_version(upgraded, tmp_path):
    """So does a whole router: sessions, leases, decisions, generations."""
    router = echo_router(tmp_path, store=AdapterStore.open(upgraded))

    first, _ = await answer(router, t2l_description="Sort the words", t2l_session="s")
    second, _ = await answer(router, t2l_session="s")

    assert (first.kind, second.kind) == ("generated", "sticky"), second.reason
    await router.close()
    with AdapterStore.open(upgraded) as store:
        assert [entry.kind for entry in store.decisions.newest(tenant="local")] == [
            "sticky",
            "generated",
        ]


def test_a_migration_that_did_not_note_it(upgraded):
    """Tables of which a later version did not say so are left alone."""
    database = Database(upgraded.database_url)
    with database.write() as connection:
        works_with(connection, NEXT)

    with pytest.raises(SchemaOutdated, match="install the newer version"):
        AdapterStore.open(upgraded)
    with database.write() as connection:
        connection.execute(text("DELETE FROM library WHERE key = 'schema_works_with'"))
    with pytest.raises(SchemaOutdated, match="install the newer version"):
        AdapterStore.open(upgraded)
    database.close()
