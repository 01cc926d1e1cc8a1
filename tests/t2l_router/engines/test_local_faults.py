"""What goes wrong in one request or with one adapter must not touch the others."""

import asyncio
import dataclasses

import pytest

from t2l_router.engines import batch
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.echo import EchoWeights
from t2l_router.errors import EngineFailed, InvalidAdapter, InvalidRequest, PromptTooLong
from tests.tiny_engine import collect, request, tiny_adapter, tiny_engine


async def test_prompt_too_long(engine):
    """A prompt that leaves no room for the answer is refused before anything runs."""
    with pytest.raises(PromptTooLong, match="512") as caught:
        await collect(engine, request("x" * 505))

    assert caught.value.param == "messages"
    _, last = await collect(engine, request("x" * 470, max_tokens=None, ignore_eos=True))
    assert last.usage.total_tokens == 512


@pytest.mark.parametrize("token", ["260", "-1", "x", "", "1" * 5_000, "1.0", "\u0661"])
async def test_bad_logit_bias(engine, token):
    """A bias on something that is no token is refused."""
    with pytest.raises(InvalidRequest, match="no token id"):
        await collect(engine, request(logit_bias={token: 1}))


async def test_adapter_of_another_base_model(engine, spec):
    """An adapter made for another base model is refused, and leaves its slot free."""
    alien = tiny_adapter(dataclasses.replace(spec, base_fingerprint="0" * 64), 1)

    with pytest.raises(InvalidAdapter, match="doesn't fit"):
        await engine.ensure(alien)
    with pytest.raises(InvalidAdapter):
        await collect(engine, request(), alien)
    assert engine.health().resident == ()


async def test_nobody_waits_for_the_adapter(engine, spec):
    """An adapter whose requester has gone away does no harm to the engine."""
    slow = asyncio.create_task(collect(engine, request(max_tokens=50, ignore_eos=True)))
    await asyncio.sleep(0.02)
    ensuring = asyncio.create_task(engine.ensure(tiny_adapter(spec, 1)))
    await asyncio.sleep(0)

    ensuring.cancel()
    await asyncio.gather(ensuring, return_exceptions=True)

    await slow
    await collect(engine, request())


async def test_adapter_without_tensors(engine):
    """An adapter that holds no tensors is refused."""
    ref = AdapterRef("t2l-00", EchoWeights("t2l-00", 0))

    with pytest.raises(InvalidAdapter, match="no tensors"):
        await engine.ensure(ref)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
async def test_poisoned_adapter_fails_alone(engine, spec, scale):
    """An adapter that makes NaN ends its own answer; those beside and after it are untouched."""
    poison = tiny_adapter(spec, 1, scale=scale)
    long, short = request("long " * 20), request()
    expected = await collect(engine, long), await collect(engine, short)

    bad, good = await asyncio.gather(
        collect(engine, long, poison), collect(engine, short), return_exceptions=True
    )

    with pytest.raises(EngineFailed, match="not finite"):
        raise bad
    assert good == expected[1]
    assert (await collect(engine, long), await collect(engine, short)) == expected
    assert engine.health().running == 0


async def test_broken_step_fails_alone(engine, spec, monkeypatch, caplog):
    """A failure that one row causes ends that row's answer, is logged, and the others go on."""
    good = request("abc", max_tokens=20, ignore_eos=True)
    expected = await collect(engine, good)
    seated = batch.Batch._seated

    def broken(self, rows, *args):
        if any(row.slot for row in rows):
            raise ZeroDivisionError
        return seated(self, rows, *args)

    with monkeypatch.context() as patch:
        patch.setattr(batch.Batch, "_seated", broken)
        bad, whole = await asyncio.gather(
            collect(engine, request("x"), tiny_adapter(spec, 1)),
            collect(engine, good),
            return_exceptions=True,
        )

    with pytest.raises(EngineFailed, match="log says how"):
        raise bad
    assert whole == expected
    assert "ZeroDivisionError" in caplog.text


async def test_waiting_request_is_cancelled(engine):
    """A request that goes away while it waits is never started."""
    slow = request(max_tokens=300, ignore_eos=True)
    running = [asyncio.create_task(collect(engine, slow)) for _ in range(2)]
    while engine.health().running < 2:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)
    waiting = asyncio.create_task(collect(engine, slow))
    await asyncio.sleep(0.02)
    assert engine.health().waiting == 1

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert engine.health().waiting == 0
    await asyncio.gather(*running)


async def test_close_ends_running_answers(tiny_base):
    """Closing ends what runs and what waits with an error, and later requests too."""
    engine, spec = tiny_engine(tiny_base, max_running=1)
    slow = request(max_tokens=400, ignore_eos=True)
    running = [asyncio.create_task(collect(engine, slow)) for _ in range(2)]
    await asyncio.sleep(0.05)

    await engine.close()

    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(outcome, EngineFailed) for outcome in outcomes)
    assert not engine.health().ok
    with pytest.raises(EngineFailed):
        await collect(engine, request())
    with pytest.raises(EngineFailed):
        await engine.ensure(tiny_adapter(spec, 1))


async def test_empty_conversation(engine, monkeypatch):
    """Messages that render to nothing are the caller's fault."""
    monkeypatch.setattr("t2l_router.chat_format.render", lambda *_, **__: [])

    with pytest.raises(InvalidRequest, match="empty"):
        await collect(engine, request())
