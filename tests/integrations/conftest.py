"""Both ways to reach t2l: a server over the echo engine, and a router in this process."""

from collections.abc import Iterator

import pytest

from t2l_router.bootstrap import build_router
from t2l_router.config import Settings
from t2l_router.inprocess import InProcessClient
from t2l_router.router import Router
from tests.e2e.conftest import echo as echo  # noqa: PLC0414 - a fixture here too


@pytest.fixture(scope="session")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router over the echo engine."""
    router = build_router(Settings(engine="echo", data_dir=tmp_path_factory.mktemp("data")))
    yield router
    InProcessClient(router).close()
