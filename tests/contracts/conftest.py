"""The libraries that the contract suite runs on."""

import uuid

import pytest

from adapters_store import StoreConfig


@pytest.fixture(name="library_config", params=["sqlite+faiss+local", "sqlite+exact+memory"])
def _library_config(request, tmp_path):
    """The configuration of a new, empty library."""
    database, index, blobs = request.param.split("+")
    assert database == "sqlite"
    config = StoreConfig.in_directory(tmp_path / "library", index=index)
    if blobs == "memory":
        return StoreConfig(config.database_url, f"memory://{uuid.uuid4().hex}", tmp_path, index)
    return config
