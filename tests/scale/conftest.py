"""One fleet for all tests: its servers take a minute to start."""

import pytest

from t2l_router.config import Settings
from tests.scale.adapters import Writer
from tests.scale.fleet import running


@pytest.fixture(scope="session", name="writer")
def _writer():
    return Writer(Settings(device="cpu"))


@pytest.fixture(scope="session", name="fleet")
def _fleet(writer, tmp_path_factory):
    with running(tmp_path_factory.mktemp("fleet"), writer.base) as fleet:
        yield fleet
