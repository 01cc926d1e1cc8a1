from t2l_router.config import load
from t2l_router.engines.echo_adapters import BASE, EchoEncoder
from t2l_router.storage import library_config, warm_up
from tests.routers import answer, echo_router, open_store


def test_library_is_embedded_by_default(tmp_path) -> None:
    """Database, weights and index files lie below the data directory."""
    config = library_config(load({"data_dir": tmp_path}), actor="me")

    assert config.database_url == f"sqlite:///{tmp_path / 'library' / 'library.db'}"
    assert config.blobs_url == str(tmp_path / "library" / "adapters")
    assert config.index == "faiss"
    assert config.actor == "me"


def test_library_on_servers(tmp_path, monkeypatch) -> None:
    """A database and an object store can be named; the password shows nowhere."""
    monkeypatch.setenv("T2L_LIBRARY_DATABASE", "postgresql+psycopg://t2l:hunter2@db/t2l")
    monkeypatch.setenv("T2L_LIBRARY_BLOBS", "s3://adapters/prod")
    monkeypatch.setenv("T2L_LIBRARY_INDEX", "pgvector")
    settings = load({"data_dir": tmp_path})

    config = library_config(settings, actor="me")

    assert config.database_url == "postgresql+psycopg://t2l:hunter2@db/t2l"
    assert config.blobs_url == "s3://adapters/prod"
    assert config.index == "pgvector"
    assert config.cache_dir.is_relative_to(tmp_path)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


class OtherEncoder(EchoEncoder):
    """One that the library is not indexed by."""

    fingerprint = "other"


async def test_warm_up(tmp_path):
    """The index is read before the first request; a library of another encoder ends nothing."""
    router = echo_router(tmp_path)
    await answer(router, t2l_description="Translate English sentences into French")
    await router.close()

    with open_store(tmp_path) as store:
        warm_up(store, OtherEncoder(), base=BASE)
        before = dict(store.index._partitions)
        warm_up(store, EchoEncoder(), base=BASE)
        (partition,) = store.index._partitions.values()

    assert (before, partition.count) == ({}, 1)
