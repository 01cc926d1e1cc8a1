"""A library of its own for each test."""

import pytest

from adapters_store import AdapterStore, StoreConfig


@pytest.fixture(name="config")
def _config(tmp_path):
    """The configuration of a new, embedded library."""
    return StoreConfig.in_directory(tmp_path / "library")


@pytest.fixture(name="store")
def _store(config):
    """A new, embedded library."""
    with AdapterStore.open(config) as store:
        yield store
