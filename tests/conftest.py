"""Models that tests share: the real ones once per machine, tiny random ones once per run."""

# torch is imported inside the fixtures: tests of the store and the request path don't pay for it.
# ruff: noqa: PLC0415

import os
from pathlib import Path

import platformdirs
import pytest
from hypothesis import settings

from t2l_router.models import LocalModel, pull

# What an example costs depends on what else the machine does.
settings.register_profile("t2l", deadline=None)
settings.load_profile("t2l")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the work, files of slow tests come first, short ones last."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The cache of converted models; shared by all runs, so that weights are pulled once."""
    configured = os.environ.get("T2L_CACHE_DIR")  # noqa: TID251 - tests choose the cache to share
    return Path(configured) if configured else platformdirs.user_cache_path("t2l")


@pytest.fixture(scope="session")
def smollm2(model_cache: Path) -> LocalModel:
    """The default base model."""
    return pull("smollm2-135m-instruct", cache_dir=model_cache)


@pytest.fixture(scope="session")
def minilm(model_cache: Path):
    """The default encoder, loaded."""
    from t2l_router.encoder import TaskEncoder

    return TaskEncoder.load(pull("all-minilm-l6-v2", cache_dir=model_cache))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A random two-layer Llama whose keys and values are narrower than its queries."""
    from tests.tiny_models import save_tiny_llama

    folder = tmp_path_factory.mktemp("tiny-base")
    save_tiny_llama(folder)
    return pull(str(folder), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A random two-layer Gemma 3 whose queries are wider than its hidden state."""
    from tests.tiny_models import save_tiny_gemma

    folder = tmp_path_factory.mktemp("tiny-gemma")
    save_tiny_gemma(folder)
    return pull(str(folder), cache_dir=tmp_path_factory.mktemp("cache"))
