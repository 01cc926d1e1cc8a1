"""Requests that bring examples, over the echo engine and a real library."""

import asyncio
import time
from dataclasses import replace

import pytest

from adapters_store.errors import StoreUnavailable
from t2l_router import policy
from t2l_router.describe import of_examples
from t2l_router.engines.echo_adapters import EchoReader
from t2l_router.errors import GenerationFailed, InvalidRequest
from t2l_router.examples import label_of
from t2l_router.router import Caller
from tests.routers import answer, decide, echo_router, open_store, request

PAIRS = (("red cat", "RED CAT"), ("sun", "SUN"))
SHOWN = [{"input": text, "output": output} for text, output in PAIRS]
OTHERS = [SHOWN[0], {"input": "sun", "output": "Sun"}]
TASK = "Say it louder"
NEAR = replace(policy.UNCALIBRATED, score=-1.0, margin=-1.0, verify_score=-1.0, max_distance=2.0)


@pytest.fixture(name="router")
async def _router(tmp_path):
    router = echo_router(tmp_path)
    yield router
    await router.close()


def reuse_all(router, monkeypatch):
    """Let the policy take any adapter for any task that it is shown."""

    async def thresholds(*, tenant):
        return NEAR

    monkeypatch.setattr(router._library, "thresholds", thresholds)


async def test_same_task_again(router):
    """Equal examples with an equal description are one task, whatever their spelling."""
    first, _ = await answer(router, t2l_examples=SHOWN, t2l_description=TASK)
    spelt = [{"input": " red cat\r\n", "output": "RED CAT"}, SHOWN[1]]
    again, _ = await answer(router, t2l_examples=spelt, t2l_description=TASK.upper())

    assert (first.kind, again.kind) == ("generated", "exact")
    assert first.adapter.adapter_id == again.adapter.adapter_id
    assert first.reason == "a new adapter was written for these examples"
    assert again.reason == "an adapter for these examples is held"


@pytest.mark.parametrize(
    "other",
    [
        {"t2l_examples": OTHERS, "t2l_description": TASK},
        {"t2l_examples": SHOWN},
        {"t2l_examples": SHOWN[:1], "t2l_description": TASK},
        {"t2l_examples": SHOWN, "t2l_description": "Another one"},
        {"t2l_description": TASK},
    ],
)
async def test_other_task(router, other, monkeypatch):
    """Whatever differs makes another task with its own adapter, however lenient the thresholds."""
    reuse_all(router, monkeypatch)
    first, _ = await answer(router, t2l_examples=SHOWN, t2l_description=TASK)
    second, _ = await answer(router, **other)

    assert (first.kind, second.kind) == ("generated", "generated")
    assert first.adapter.adapter_id != second.adapter.adapter_id


async def test_examples_after_a_sentence(router, monkeypatch):
    """Nor does the adapter of a sentence serve examples of the same description."""
    reuse_all(router, monkeypatch)
    first, _ = await answer(router, t2l_description=TASK)
    near, _ = await answer(router, t2l_description="Say it quite loud")
    second, _ = await answer(router, t2l_examples=SHOWN, t2l_description=TASK)

    assert (first.kind, near.kind, second.kind) == ("generated", "reused", "generated")
    assert second.adapter.adapter_id != first.adapter.adapter_id


async def test_tenants_never_share(router):
    """Equal examples of two tenants are two tasks: each has its own record."""
    kinds = [
        (await answer(router, Caller(tenant), t2l_examples=SHOWN))[0].kind
        for tenant in ("a", "b", "a")
    ]

    assert kinds == ["generated", "generated", "exact"]


async def test_restart(router, tmp_path):
    """What was written from examples is found after a restart, and the library says what it is."""
    first, _ = await answer(router, t2l_examples=SHOWN, t2l_description=TASK)
    await router.close()
    other = echo_router(tmp_path)
    again, _ = await answer(other, t2l_examples=SHOWN, t2l_description=TASK)
    await other.close()

    assert again.kind == "exact"
    with open_store(tmp_path) as store:
        (text,) = store.descriptions(first.adapter.adapter_id, tenant="local")
    assert (text.text, text.source) == (label_of(TASK, PAIRS), "examples")


async def test_conversation(router):
    """A conversation stays with its examples' adapter until it brings others."""
    named = {"t2l_session": "one"}
    first, _ = await answer(router, t2l_examples=SHOWN, **named)
    same, _ = await answer(router, t2l_examples=SHOWN, **named)
    silent, _ = await answer(router, **named)
    others, _ = await answer(router, t2l_examples=OTHERS, **named)

    assert [d.kind for d in (first, same, silent, others)] == [
        "generated", "sticky", "sticky", "generated",
    ]  # fmt: skip
    assert others.adapter.adapter_id != silent.adapter.adapter_id == first.adapter.adapter_id


async def test_at_once(tmp_path):
    """Of many requests with the same examples, at two routers, one has them read."""
    reader = Reader()
    routers = [echo_router(tmp_path, reader=reader, generation_timeout_s=30) for _ in range(2)]
    decisions = await asyncio.gather(
        *(answer(routers[i % 2], t2l_examples=SHOWN) for i in range(8))
    )
    for router in routers:
        await router.close()

    assert reader.calls == 1
    assert len({decision.adapter.adapter_id for decision, _ in decisions}) == 1


class Reader(EchoReader):
    """Takes its time, breaks, or has little room."""

    def __init__(self, *, takes_s=0.2, room=16, error=None):
        self.calls, self.takes_s, self.room, self.error = 0, takes_s, room, error

    def read(self, embeddings, texts, sets):
        self.calls += 1
        time.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return super().read(embeddings, texts, sets)

    def n_fitting(self, pairs):
        return min(self.room, len(pairs))


async def test_phases(router):
    """The time that reading took is told beside that of embedding."""
    found = await router.chat(request(t2l_examples=SHOWN, t2l_description=TASK), Caller())
    await found.deltas.aclose()

    assert {"embed", "read", "generate"} <= found.timing_ms.keys()


async def test_sentences_are_read_too(tmp_path):
    """Where the hypernetwork reads, it reads descriptions without examples as well."""
    reader = Reader(takes_s=0)
    router = echo_router(tmp_path, reader=reader)
    await answer(router, t2l_description=TASK)
    await router.close()

    assert reader.calls == 1


@pytest.mark.parametrize(
    ("reader", "why"),
    [
        (Reader(takes_s=1), "not ready within 0.3 s"),
        (Reader(takes_s=0, error=RuntimeError("secret")), "the hypernetwork broke"),
    ],
)
async def test_reading_fails(tmp_path, reader, why):
    """A reading that breaks or takes too long costs the adapter, not the answer."""
    router = echo_router(tmp_path, reader=reader, generation_timeout_s=0.3)
    decision, said = await answer(router, t2l_examples=SHOWN)

    assert (decision.kind, bool(said)) == ("base", True)
    assert why in decision.reason
    assert "secret" not in decision.reason
    with pytest.raises(GenerationFailed, match=why):
        await answer(router, t2l_examples=SHOWN, t2l_required=True)
    await router.close()


async def test_too_long_together(tmp_path):
    """Examples that there was no room for are no secret."""
    router = echo_router(tmp_path, reader=Reader(takes_s=0, room=1))
    decision, _ = await answer(router, t2l_examples=SHOWN)
    await router.close()

    assert decision.reason.endswith("for these examples; 1 were left out as too long together")


async def test_nobody_reads(tmp_path):
    """A hypernetwork that reads no examples makes them an error that says what to do."""
    router = echo_router(tmp_path, reader=None)
    asked = [
        answer(router, t2l_examples=SHOWN),
        answer(router, t2l_examples=SHOWN, t2l_session="s", t2l_description=TASK),
        router.explain(request(t2l_examples=SHOWN), Caller()),
        router.prepare(of_examples("", PAIRS), tenant="local"),
    ]
    for ask in asked:
        with pytest.raises(InvalidRequest, match="--hypernet default") as caught:
            await ask
        assert caught.value.param == "t2l_examples"
    await router.close()


async def test_explain(router):
    """Explaining writes nothing and tells how many examples there were."""
    before = await router.explain(request(t2l_examples=SHOWN), Caller())
    written = await decide(router, t2l_examples=SHOWN)
    await asyncio.sleep(0.1)
    after = await router.explain(request(t2l_examples=SHOWN), Caller())

    assert (before.kind, before.adapter) == ("generated", None)
    assert before.reason == "a new adapter would be written for these examples"
    assert (after.kind, after.adapter.adapter_id) == ("exact", written.adapter.adapter_id)


async def test_library_away(router, monkeypatch):
    """While the library is away an adapter is written from examples, and not kept."""

    def away(*_, **__):
        raise StoreUnavailable("gone")

    monkeypatch.setattr(router._library.calls._store, "exact", away)
    decision, _ = await answer(router, t2l_examples=SHOWN)

    assert decision.kind == "generated"
    assert "for these examples, and is not kept" in decision.reason
