"""Shadow mode: decide and log, but let the base model answer."""

import asyncio

import pytest

from t2l_router.errors import UnknownModel
from t2l_router.router import Caller
from tests.routers import answer, decide, echo_router, open_store

TASK = {"t2l_description": "Translate English sentences into French"}


async def test_shadow(tmp_path):
    """The base model answers; the log says what would have served."""
    router = echo_router(tmp_path, shadow=True)
    first, text = await answer(router, Caller(trace="one"), **TASK)
    second, _ = await answer(router, Caller(trace="two"), **TASK)
    await router.close()

    with open_store(tmp_path) as store:
        logged = [store.decisions.get(trace, tenant="local") for trace in ("one", "two")]
    assert (first.kind, first.adapter, second.kind) == ("base", None, "base")
    assert text == "[base] hello"
    assert [entry.kind for entry in logged] == ["generated", "exact"]
    assert all(entry.detail["shadow"] for entry in logged)


async def test_shadow_session(tmp_path):
    """Sessions go on under the shadow, so that its decisions are those of real traffic."""
    router = echo_router(tmp_path, shadow=True)
    turn = {"role": "user", "content": "hi"}
    _, text = await answer(router, messages=[turn], **TASK)
    history = [turn, {"role": "assistant", "content": text}, turn]
    await answer(router, Caller(trace="next"), messages=history)
    await router.close()

    with open_store(tmp_path) as store:
        assert store.decisions.get("next", tenant="local").kind == "sticky"


async def test_shadow_refuses_what_is_wrong(tmp_path):
    """A bad request is an error in shadow mode too."""
    router = echo_router(tmp_path, shadow=True)
    with pytest.raises(UnknownModel):
        await decide(router, model="gpt-4o")
    await asyncio.sleep(0)
    await router.close()
