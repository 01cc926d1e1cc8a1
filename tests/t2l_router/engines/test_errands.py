"""What nobody waits for in the engine's thread: answers go first, for a while."""

import asyncio
import time
from contextlib import aclosing

import pytest

from t2l_router.engines import jobs
from t2l_router.engines.jobs import AT_LEAST_S, AT_MOST_S, Errands, Visit
from t2l_router.errors import EngineFailed
from tests.tiny_engine import request, tiny_engine


def visit(age_s: float = 0.0) -> Visit:
    """One that was asked for some time ago."""
    return Visit(None, lambda _: None, asked_at=time.monotonic() - age_s)


@pytest.mark.parametrize(
    ("age_s", "is_quiet", "is_due"),
    [
        (0.0, True, False),
        (AT_LEAST_S, True, True),
        (AT_LEAST_S, False, False),
        (AT_MOST_S, False, True),
    ],
)
def test_when_errands_are_due(age_s, is_quiet, is_due):
    """Soon when it is quiet, in the end in any case."""
    errands, errand = Errands(), visit(age_s)
    errands.add(errand)

    assert (errands.wait_s(is_quiet=is_quiet) == 0) == is_due
    assert errands.take(is_quiet=is_quiet) is (errand if is_due else None)


def test_errands_in_turn():
    """First come, first served; there is nothing to wait for where there are none."""
    errands, visits = Errands(), [visit(AT_MOST_S), visit(AT_MOST_S)]
    assert errands.wait_s(is_quiet=True) is None
    assert errands.take(is_quiet=True) is None
    for one in visits:
        errands.add(one)

    assert errands.take(is_quiet=True) is visits[0]
    assert errands.clear() == visits[1:]
    assert errands.wait_s(is_quiet=True) is None


@pytest.mark.parametrize(("at_most_s", "beside"), [(60.0, 0.0), (0.0, 1.0)])
async def test_answers_go_first(tiny_base, monkeypatch, at_most_s, beside):
    """An errand waits until nothing is being answered, unless that takes too long."""
    monkeypatch.setattr(jobs, "AT_MOST_S", at_most_s)
    engine, _ = tiny_engine(tiny_base)
    worker = engine._worker

    def running(_: int) -> float:
        return float(len(worker._running))

    long = request(max_tokens=200, ignore_eos=True)
    async with aclosing(engine.stream_chat(long, None)) as deltas:
        await anext(deltas)
        found = worker.visit(None, running, can_wait=True)
        at_once = worker.visit(None, running)
        assert [delta async for delta in deltas][-1].usage.completion_tokens == 200
    assert await asyncio.wrap_future(found) == beside
    assert await asyncio.wrap_future(at_once) == 1.0
    await engine.close()


async def test_errands_end_with_the_engine(tiny_base, monkeypatch):
    """Whoever waits for one at shutdown is told."""
    monkeypatch.setattr(jobs, "AT_LEAST_S", 60.0)
    engine, _ = tiny_engine(tiny_base)
    measuring = asyncio.create_task(engine.neutral_loss(None))
    await asyncio.sleep(0.05)

    await engine.close()

    with pytest.raises(EngineFailed, match="shut down"):
        await measuring
