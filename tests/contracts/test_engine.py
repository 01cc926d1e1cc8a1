"""What every engine promises, whatever it runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef, Engine
from t2l_router.engines.echo import EchoEngine, EchoWeights
from t2l_router.engines.vllm import VllmEngine, VllmOptions
from t2l_router.errors import EngineBusy
from tests.tiny_engine import collect, request, tiny_adapter, tiny_engine
from tests.vllm_server import BASE, VllmServer, served


@dataclass
class Subject:
    """An engine with room for three requests, and adapters it takes."""

    engine: Engine
    adapter: Callable[[int], AdapterRef]


def echo_adapter(number: int) -> AdapterRef:
    name = AdapterId(f"t2l-{number:032x}")
    return AdapterRef(name, EchoWeights(name, 1))


@pytest.fixture(params=["echo", "vllm", "llama", "gemma"])
async def subject(request: Any) -> AsyncIterator[Subject]:
    if request.param == "echo":
        yield Subject(EchoEngine(delay_s=0.005, max_running=3), echo_adapter)
        return
    if request.param == "vllm":
        with served(VllmServer(delay_s=0.005, max_cpu_loras=2)) as server:
            engine = VllmEngine(VllmOptions((server.url,), BASE, max_in_flight=3))
            yield Subject(engine, echo_adapter)
            await engine.close()
        return
    base = request.getfixturevalue("tiny_base" if request.param == "llama" else "tiny_gemma")
    engine, spec = tiny_engine(base, slots=2, max_running=2, max_waiting=1)
    yield Subject(engine, lambda number: tiny_adapter(spec, number))
    await engine.close()


LONG = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4


async def test_last_delta(subject):
    """The last delta, and no other, says why the answer ended and what it cost."""
    deltas = [delta async for delta in subject.engine.stream_chat(request("a b c"), None)]

    *others, last = deltas
    assert all(delta.finish_reason is None and delta.usage is None for delta in others)
    assert last.finish_reason in ("stop", "length")
    usage = last.usage
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("limit", [1, 5])
async def test_token_limit(subject, limit):
    """An answer has no more tokens than asked for, and says that it was cut."""
    _, last = await collect(subject.engine, request(LONG, max_tokens=limit, ignore_eos=True))

    assert last.finish_reason == "length"
    assert last.usage.completion_tokens == limit


async def test_stop_string(subject):
    """A stop string ends the answer and is not part of it, wherever tokens are cut."""
    whole, _ = await collect(subject.engine, request(LONG))
    stop = whole[3:6]

    text, last = await collect(subject.engine, request(LONG, stop=[stop, "never said"]))

    assert text == whole[: whole.index(stop)]
    assert last.finish_reason == "stop"


async def test_adapter_changes_the_answer(subject):
    """Each adapter answers in its own way, and the base model is as it was afterwards."""
    base, _ = await collect(subject.engine, request())
    one, _ = await collect(subject.engine, request(), subject.adapter(1))
    two, _ = await collect(subject.engine, request(), subject.adapter(2))
    again, _ = await collect(subject.engine, request())

    assert len({base, one, two}) == 3
    assert again == base


async def test_side_by_side(subject):
    """Requests side by side, with different adapters, get the answers they get alone."""
    adapters = [None, subject.adapter(1), subject.adapter(2)]
    alone = [await collect(subject.engine, request("abc"), adapter) for adapter in adapters]

    together = await asyncio.gather(
        *(collect(subject.engine, request("abc"), adapter) for adapter in adapters)
    )

    assert together == alone


async def test_more_adapters_than_slots(subject):
    """Adapters take turns in the slots, and each answer is its own adapter's."""
    expected = [(await collect(subject.engine, request(), subject.adapter(i)))[0] for i in range(5)]
    again = [(await collect(subject.engine, request(), subject.adapter(i)))[0] for i in range(5)]

    assert again == expected
    assert len(set(expected)) == 5


async def test_ensure(subject):
    """An adapter that was made ready is resident."""
    adapter = subject.adapter(1)

    await subject.engine.ensure(adapter)

    assert adapter.adapter_id in subject.engine.health().resident


async def test_closing_the_stream_frees_the_engine(subject):
    """Who stops reading frees what his request held."""
    streams = [
        subject.engine.stream_chat(request(LONG, max_tokens=200, ignore_eos=True), None)
        for _ in range(3)
    ]
    for stream in streams[:2]:
        await anext(stream)
    for stream in streams:
        await stream.aclose()

    async with asyncio.timeout(5):  # "within a step" has no event to wait for
        while subject.engine.health().running or subject.engine.health().waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_busy(subject):
    """An engine that has no more room says so, and takes requests again later."""

    def long_answer():
        return collect(subject.engine, request(LONG, max_tokens=60, ignore_eos=True))

    running = [asyncio.create_task(long_answer()) for _ in range(3)]
    health = subject.engine.health
    while health().running + health().waiting < len(running):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)

    with pytest.raises(EngineBusy, match="try again"):
        await long_answer()

    await asyncio.gather(*running)
    await collect(subject.engine, request())


async def test_health(subject):
    """An engine that does nothing is healthy and says so."""
    health = subject.engine.health()

    assert (health.ok, health.running, health.waiting) == (True, 0, 0)
