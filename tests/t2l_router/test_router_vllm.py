"""The router over vLLM servers: they get adapters from the library, so it has them first."""

import asyncio

import pytest

from adapters_store.errors import StoreUnavailable
from t2l_router.engines.vllm import VllmEngine, VllmOptions
from tests.routers import answer, decide, echo_router, open_store
from tests.vllm_server import BASE, VllmServer, served

TASK = "Translate English sentences into French"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "library"


@pytest.fixture
def upstream(directory):
    """A vLLM server whose resolver looks into the library's directory."""
    blobs = directory / "adapters"
    with served(VllmServer(knows=lambda name: (blobs / name[4:6] / name).is_dir())) as server:
        yield server


@pytest.fixture
async def router(directory, upstream):
    engine = VllmEngine(VllmOptions((upstream.url,), BASE))
    router = echo_router(store=open_store(directory), engine=engine, kind="vllm")
    yield router
    await router.close()


async def test_published_first(router, upstream):
    """The first request of all for a task is answered with its adapter, which is in the library."""
    decision, text = await answer(router, t2l_description=TASK)

    assert decision.kind == "generated"
    assert text == f"[{decision.adapter.adapter_id}] hello"
    assert upstream.loads == {decision.adapter.adapter_id: 1}


async def test_many_first_requests(router, upstream):
    """Requests at once for a new task wait for one adapter and one write."""
    found = await asyncio.gather(*(answer(router, t2l_description=TASK) for _ in range(20)))

    assert len({text for _, text in found}) == 1
    assert list(upstream.loads.values()) == [1]


async def test_no_tensors_are_read(router, directory, upstream, monkeypatch):
    """An adapter that is held serves without the router reading its tensors."""
    first = await decide(router, t2l_description=TASK)
    other = echo_router(
        store=open_store(directory),
        engine=VllmEngine(VllmOptions((upstream.url,), BASE)),
        kind="vllm",
    )
    monkeypatch.setattr(other._library, "directory", None)

    decision, text = await answer(other, t2l_description=TASK)

    assert (decision.kind, text) == ("exact", f"[{first.adapter.adapter_id}] hello")
    await other.close()


async def test_vanished_blob(router, upstream):
    """An adapter whose files are gone is replaced by the base model, with the reason."""
    upstream.knows = lambda _: False

    decision, text = await answer(router, t2l_description=TASK)

    assert (decision.kind, text) == ("base", "[base] hello")
    assert "does not exist" in decision.reason


async def test_library_away(router, monkeypatch):
    """Without the library nothing is written: the servers could not get it."""

    def away(*args, **kwargs):
        raise StoreUnavailable("the database server can't be reached")

    monkeypatch.setattr(router._library, "_exact", away)

    decision, text = await answer(router, t2l_description=TASK)

    assert (decision.kind, text) == ("base", "[base] hello")
    assert "takes adapters from the library" in decision.reason
