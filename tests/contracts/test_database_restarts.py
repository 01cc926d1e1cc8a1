"""A database server that ends its connections, as it does when it restarts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from adapters_store import AdapterStore
from tests.adapter_files import add

pytestmark = pytest.mark.postgres

END_OTHERS = text(
    "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("new_fleet_config", ["postgresql+pgvector+s3"], indirect=True)
def test_broken_connections(new_fleet_config):
    """Connections that broke while nobody used them are replaced without an error."""
    with AdapterStore.open(new_fleet_config) as store:
        record = add(store, 1)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda _: store.history(), range(9)))

        engine = create_engine(new_fleet_config.database_url, poolclass=NullPool)
        with engine.begin() as connection:
            assert connection.execute(END_OTHERS).scalar_one() >= 1

        assert store.get(record.id, tenant=record.tenant).id == record.id
        assert add(store, 2).id != record.id
