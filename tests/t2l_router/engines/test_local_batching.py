"""Requests side by side: each gets what it gets alone, and they share what they may."""

import asyncio

import pytest
import torch
from peft import PeftModel

from t2l_router.chat_format import render
from t2l_router.engines import batch
from t2l_router.errors import PromptTooLong
from t2l_router.models import load_base
from tests.tiny_engine import collect, request, tiny_adapter, tiny_engine


async def test_short_answer_does_not_wait_for_a_long_one(engine):
    """Running requests take turns, so the short one is done first."""
    done = []

    async def answer(n_tokens):
        await collect(engine, request(max_tokens=n_tokens, ignore_eos=True))
        done.append(n_tokens)

    await asyncio.gather(answer(200), answer(3))

    assert done == [3, 200]


async def test_full_slots_make_others_wait(spec, tiny_base):
    """With one slot, requests with different adapters run one after the other, and right."""
    engine, _ = tiny_engine(tiny_base, slots=1, max_running=3)
    adapters = [tiny_adapter(spec, i) for i in range(3)]
    alone = [await collect(engine, request(), adapter) for adapter in adapters]

    together = await asyncio.gather(*(collect(engine, request(), a) for a in adapters))

    assert together == alone
    await engine.close()


def held_answers(base, adapters, prompts, tmp_path, n_tokens):
    """What PEFT and transformers' ``generate`` answer, one row at a time."""
    answers = []
    for i, (adapter, text) in enumerate(zip(adapters, prompts, strict=True)):
        model, tokenizer = load_base(base, dtype=torch.float32, device="cpu")
        if adapter is not None:
            adapter.weights.save_peft(tmp_path / str(i))
            model = PeftModel.from_pretrained(model, tmp_path / str(i))
        model.generation_config.eos_token_id = None
        ids = torch.tensor([render(tokenizer, [{"role": "user", "content": text}])])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_tokens,
            do_sample=False,
        )
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return [answer.rstrip("\ufffd") for answer in answers]


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
async def test_mixed_batch_equals_peft(request_fixture, fixture, tmp_path):
    """Rows that join at different times, with different adapters, get PEFT's tokens."""
    base = request_fixture(fixture)
    engine, spec = tiny_engine(base, slots=4, max_running=6)
    adapters = [None, *(tiny_adapter(spec, i, scale=0.2) for i in range(3)), None]
    prompts = ["a", "bcd " * 30, "e" * 9, "fg " * 50, "h" * 40]
    expected = held_answers(base, adapters, prompts, tmp_path, 24)

    async def answer(i):
        await asyncio.sleep(0.01 * i)
        asked = request(prompts[i], max_tokens=24, ignore_eos=True)
        return (await collect(engine, asked, adapters[i]))[0]

    assert await asyncio.gather(*(answer(i) for i in range(5))) == expected
    await engine.close()


async def test_next_turn_reads_only_what_is_new(spec, tiny_base, monkeypatch):
    """A conversation's next turn reuses what was read, and its answer is the same as without."""
    engine, _ = tiny_engine(tiny_base, slots=2)
    adapter = tiny_adapter(spec, 1)
    lengths = []
    seated = batch.Batch._seated

    def counted(self, rows, first, n_tokens):
        lengths.append(n_tokens)
        return seated(self, rows, first, n_tokens)

    monkeypatch.setattr(batch.Batch, "_seated", counted)
    first, _ = await collect(engine, request("hello " * 20), adapter)
    turns = [
        {"role": "user", "content": "hello " * 20},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and more"},
    ]
    lengths.clear()
    again, last = await collect(engine, request(messages=turns), adapter)
    reused = sum(lengths)
    lengths.clear()
    other, _ = await collect(engine, request(messages=turns), tiny_adapter(spec, 2))
    without_reuse = sum(lengths)
    await engine.close()
    fresh, _ = tiny_engine(tiny_base, slots=2)

    assert (again, last) == await collect(fresh, request(messages=turns), adapter)
    assert other == (await collect(fresh, request(messages=turns), tiny_adapter(spec, 2)))[0]
    assert reused < 90
    assert without_reuse > 150
    await fresh.close()


async def test_same_prompt_is_read_once(tiny_base, monkeypatch):
    """Requests that come together with one prompt read it once."""
    engine, _ = tiny_engine(tiny_base, max_running=4)
    read = []
    one_read = batch.Batch._read

    def counted(self, group, first, n_tokens):
        read.append(len(group) * n_tokens)
        return one_read(self, group, first, n_tokens)

    monkeypatch.setattr(batch.Batch, "_read", counted)
    asked = request("x" * 150)

    answers = await asyncio.gather(*(collect(engine, asked) for _ in range(4)))

    assert len({text for text, _ in answers}) == 1
    assert sum(read) < 200
    await engine.close()


async def test_memory_for_keys_and_values(tiny_base):
    """What can never fit is refused; what doesn't fit now waits; nothing is held afterwards."""
    small, _ = tiny_engine(tiny_base, kv_memory_mib=0)
    with pytest.raises(PromptTooLong, match="kv_memory_mib"):
        await collect(small, request())
    await small.close()

    # 2 layers x 2 heads x 2 x 8 numbers x 4 bytes = 256 bytes a token
    engine, _ = tiny_engine(tiny_base, max_running=8)
    engine._kv.budget_bytes = 3 * 256 * 256
    asked = [request(f"{i}" * 30, max_tokens=200, ignore_eos=True) for i in range(8)]
    running = [asyncio.create_task(collect(engine, one)) for one in asked]
    await asyncio.sleep(0.1)

    assert 1 <= engine.health().running <= 3
    together = [text for text, _ in await asyncio.gather(*running)]
    assert together == [(await collect(engine, one))[0] for one in asked]
    worker = engine._worker
    assert engine._kv.nbytes + worker._prefixes.nbytes <= engine._kv.budget_bytes
    await engine.close()


async def test_rare_adapter_is_not_starved(spec, tiny_base):
    """One request of a rare adapter overtakes the queue of a busy one."""
    engine, _ = tiny_engine(tiny_base, slots=2, max_running=1)
    done = []

    async def answer(name, adapter):
        await collect(engine, request(max_tokens=200, ignore_eos=True), adapter)
        done.append(name)

    def n_here():
        return engine.health().running + engine.health().waiting + len(done)

    busy, rare = tiny_adapter(spec, 1), tiny_adapter(spec, 2)
    tasks = []
    for _ in range(6):
        tasks.append(asyncio.create_task(answer("busy", busy)))
        while n_here() < len(tasks):  # noqa: ASYNC110 - rendered side by side, yet in this order
            await asyncio.sleep(0.001)
    tasks.append(asyncio.create_task(answer("rare", rare)))
    await asyncio.gather(*tasks)

    assert done.index("rare") <= 2
    await engine.close()
