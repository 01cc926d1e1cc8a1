"""The loss on plain text, which shows what an adapter breaks."""

import asyncio
import math
from contextlib import aclosing

import pytest
import torch

from t2l_router.engines import jobs, neutral
from t2l_router.models import load_base
from tests.tiny_engine import collect, request, tiny_adapter, tiny_engine


async def test_neutral_loss(engine, spec, tiny_base):
    """The loss on plain text is the model's own, with or without an adapter, beside an answer."""
    model, tokenizer = load_base(tiny_base, dtype=torch.float32, device="cpu")
    ids = tokenizer(neutral.TEXT, truncation=True, max_length=512, return_tensors="pt").input_ids
    expected = model(input_ids=ids, labels=ids).loss.item()
    answering = asyncio.create_task(collect(engine, request(max_tokens=30, ignore_eos=True)))

    plain, adapted, poisoned = [
        await engine.neutral_loss(adapter)
        for adapter in (None, tiny_adapter(spec, 1), tiny_adapter(spec, 2, scale=float("nan")))
    ]

    assert plain == pytest.approx(expected, rel=1e-5)
    assert abs(adapted - plain) > 1e-4
    assert not math.isfinite(poisoned)
    assert (await answering)[1].usage.completion_tokens == 30
    await collect(engine, request(), tiny_adapter(spec, 1))  # the slots are free again


async def test_neutral_loss_without_room(tiny_base, spec, monkeypatch):
    """Where all slots still answer when its time has come, there is no measurement."""
    monkeypatch.setattr(jobs, "AT_MOST_S", 0.0)
    engine, _ = tiny_engine(tiny_base, slots=1)
    long = request(max_tokens=200, ignore_eos=True)

    async with aclosing(engine.stream_chat(long, tiny_adapter(spec, 1))) as deltas:
        await anext(deltas)
        assert await engine.neutral_loss(tiny_adapter(spec, 2)) is None
    await engine.close()
