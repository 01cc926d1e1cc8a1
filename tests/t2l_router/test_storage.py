from t2l_router.config import load
from t2l_router.storage import library_config


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
