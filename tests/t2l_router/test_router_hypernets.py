"""Routers with different hypernetworks over one library: which adapters their texts lead to."""

import asyncio

import pytest

from t2l_router.engines.echo_adapters import EchoGenerator
from tests.routers import answer, echo_router, open_store
from tests.t2l_router.test_library import COMPARE_ALL, calibrate

TASK = {"t2l_description": "Translate English sentences into French"}
SHOWN = {"t2l_examples": [{"input": "a", "output": "A"}]}
NAMED = {"t2l_session": "chat"}


class OtherGenerator(EchoGenerator):
    """Another hypernetwork: what it writes is the opposite."""

    hypernet_id = "other"

    def generate(self, embeddings):
        """Write one adapter per row."""
        return super().generate(-embeddings)


class CopiedGenerator(EchoGenerator):
    """The same hypernetwork under another id."""

    hypernet_id = "copied"


@pytest.fixture(name="routers")
async def _routers(tmp_path):
    """Makes routers over one library, and closes them."""
    made = []

    def make(generator):
        made.append(echo_router(tmp_path, generator=generator))
        return made[-1]

    yield make
    for router in made:
        await router.close()


async def asked(router, **fields):
    """How a request's adapter was found, and which it is."""
    decision, _ = await answer(router, **fields)
    return decision.kind, decision.adapter.adapter_id


@pytest.mark.parametrize("task", [TASK, SHOWN, TASK | SHOWN])
async def test_other_hypernetwork_writes_known_tasks_anew(routers, task):
    """A known task gets an adapter of the hypernetwork that serves, and then leads to it."""
    kind, old = await asked(routers(EchoGenerator()), **task)
    router = routers(OtherGenerator())

    written, new = await asked(router, **task)

    assert (kind, written) == ("generated", "generated")
    assert new != old
    assert await asked(router, **task) == ("exact", new)
    assert await asked(router, t2l_adapter=old[:12]) == ("explicit", old)


async def test_likeness_leads_to_none_of_another_hypernetwork(routers):
    """However alike, what another hypernetwork wrote replaces nothing."""
    _, old = await asked(routers(EchoGenerator()), **TASK)
    router = routers(OtherGenerator())
    calibrate(router, COMPARE_ALL)

    kind, new = await asked(router, t2l_description="Translate English into French")

    assert (kind, new != old) == ("generated", True)
    assert (await asked(router, **TASK)) == ("verified", new)


@pytest.mark.parametrize("other", [OtherGenerator, CopiedGenerator])
async def test_two_servers_take_turns(routers, tmp_path, other):
    """Two hypernetworks over one library write each task once, and neither undoes the other's."""
    one, two = routers(EchoGenerator()), routers(other())
    first = [await asked(router, **TASK) for router in (one, two)]

    for _ in range(3):
        for router, (_, adapter_id) in zip((one, two), first, strict=True):
            assert await asked(router, **TASK) == ("exact", adapter_id)
    assert [kind for kind, _ in first] == ["generated", "generated"]
    with open_store(tmp_path) as store:
        assert len(store.page()) == len({adapter_id for _, adapter_id in first})
        assert len(store.history()) == 2  # each has written once; nothing was changed since


async def test_two_servers_at_once(routers, tmp_path):
    """Asked at the same time, each writes its own; no lease is left."""
    one, two = routers(EchoGenerator()), routers(OtherGenerator())

    found = await asyncio.gather(*(asked(router, **TASK) for router in (one, two) * 8))

    assert len({adapter_id for _, adapter_id in found}) == 2
    with open_store(tmp_path) as store:
        assert len(store.page()) == 2
        assert store.leases.sweep() == 0


async def test_operators_choice_serves(routers, tmp_path):
    """An adapter that an operator named goes on serving its text under another hypernetwork."""
    _, old = await asked(routers(EchoGenerator()), **TASK)
    with open_store(tmp_path) as store:
        store.aliases.set("french", old, tenant="local")
    router = routers(OtherGenerator())

    assert await asked(router, **TASK) == ("exact", old)
    assert await asked(router, model="t2l:french") == ("explicit", old)


@pytest.mark.parametrize("task", [TASK, {}])
async def test_conversation_stays(routers, task):
    """A conversation goes on with the adapter that it holds, whatever hypernetwork wrote it."""
    before = routers(EchoGenerator())
    _, old = await asked(before, **TASK, **NAMED)
    await before._behind.flush()

    after = routers(OtherGenerator())

    assert await asked(after, **task, **NAMED) == ("sticky", old)
    assert (await asked(after, **TASK))[1] != old
