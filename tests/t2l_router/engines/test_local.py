import asyncio
import dataclasses
import math
from contextlib import aclosing

import pytest
import torch
from peft import PeftModel

from t2l_router import wire
from t2l_router.chat_format import render
from t2l_router.engines import batch, neutral
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.echo import EchoWeights
from t2l_router.errors import EngineFailed, InvalidAdapter, InvalidRequest, PromptTooLong
from t2l_router.models import load_base
from tests.tiny_engine import collect, request, tiny_adapter, tiny_engine


@pytest.fixture
async def engine(tiny_base):
    subject, _ = tiny_engine(tiny_base, slots=2, max_running=2)
    yield subject
    await subject.close()


@pytest.fixture(scope="session")
def spec(tiny_base):
    engine, spec = tiny_engine(tiny_base)
    asyncio.run(engine.close())
    return spec


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_gemma"])
@pytest.mark.parametrize("piece", [512, 7])
async def test_greedy_tokens_are_those_of_generate(request_fixture, fixture, piece, monkeypatch):
    """Our loop gives transformers' greedy tokens, also when the prompt is read in pieces."""
    monkeypatch.setattr(batch, "READ_ALONE", piece)
    base = request_fixture(fixture)
    model, tokenizer = load_base(base, dtype=torch.float32, device="cpu")
    text = "The quick brown fox jumps over the lazy dog. " * 2
    prompt = torch.tensor([render(tokenizer, [{"role": "user", "content": text}])])
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
    )
    engine, _ = tiny_engine(base)

    got, last = await collect(engine, request(text, max_tokens=24))

    answer = tokenizer.decode(expected[0, prompt.shape[1] :], skip_special_tokens=True)
    assert got == answer.rstrip("\ufffd")
    assert last.usage.prompt_tokens == prompt.shape[1]
    await engine.close()


@pytest.fixture
def request_fixture(request):
    return request.getfixturevalue


async def test_seed(engine):
    """Equal seeds give equal answers, alone or beside others."""
    seeded = request(temperature=1.0, seed=3, ignore_eos=True)
    alone, _ = await collect(engine, seeded)
    (beside, _), _ = await asyncio.gather(
        collect(engine, seeded), collect(engine, request("other", temperature=1.5))
    )
    other, _ = await collect(engine, request(temperature=1.0, seed=4, ignore_eos=True))

    assert beside == alone
    assert other != alone


async def test_end_of_text(engine, tiny_base):
    """The end-of-text token ends an answer and doesn't show; ``ignore_eos`` goes on."""
    _, tokenizer = load_base(tiny_base, dtype=torch.float32, device="cpu")
    always_end = {str(tokenizer.eos_token_id): 100}

    text, last = await collect(engine, request(logit_bias=always_end))
    _, cut = await collect(engine, request(logit_bias=always_end, ignore_eos=True))

    assert (text, last.finish_reason, last.usage.completion_tokens) == ("", "stop", 1)
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 12)


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


async def test_neutral_loss_without_room(tiny_base, spec):
    """While all slots answer there is no measurement, and nobody waits for one."""
    engine, _ = tiny_engine(tiny_base, slots=1)
    long = request(max_tokens=200, ignore_eos=True)

    async with aclosing(engine.stream_chat(long, tiny_adapter(spec, 1))) as deltas:
        await anext(deltas)
        assert await engine.neutral_loss(tiny_adapter(spec, 2)) is None
    await engine.close()


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
    slow = request(max_tokens=100, ignore_eos=True)
    running = [asyncio.create_task(collect(engine, slow)) for _ in range(2)]
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(collect(engine, slow))
    await asyncio.sleep(0.02)
    assert engine.health().waiting == 1

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert engine.health().waiting == 0
    await asyncio.gather(*running)


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


async def test_default_limit_and_temperature(tiny_base):
    """Where a request says nothing, the engine's own limit holds."""
    engine, _ = tiny_engine(tiny_base, max_tokens=3, temperature=0.0)
    asked = wire.ChatRequest(
        model="m", messages=[wire.Message(role="user", content="x")], ignore_eos=True
    )

    one, last = await collect(engine, asked)
    two, _ = await collect(engine, asked)

    assert last.usage.completion_tokens == 3
    assert one == two
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


async def test_choices(engine):
    """``n`` choices differ when sampled, each equals what its own seed gives, usage adds up."""
    asked = request(temperature=1.0, seed=5, ignore_eos=True)
    several = wire.ChatRequest.model_validate(asked.model_dump(exclude_unset=True) | {"n": 3})

    texts, finishes, usages = ["", "", ""], [], []
    async for delta in engine.stream_chat(several, None):
        texts[delta.index] += delta.text
        finishes += [delta.index] if delta.finish_reason else []
        usages += [delta.usage] if delta.usage else []

    alone = [
        (await collect(engine, request(temperature=1.0, seed=5 + i, ignore_eos=True)))[0]
        for i in range(3)
    ]
    assert texts == alone
    assert len(set(texts)) == 3
    assert sorted(finishes) == [0, 1, 2]
    assert [usage.completion_tokens for usage in usages] == [36]


async def test_logprobs(engine, tiny_base):
    """Log probabilities are the model's own, of the tokens that make the text."""
    asked = request("abc", ignore_eos=True).model_copy(update={"logprobs": True, "top_logprobs": 3})

    deltas = [delta async for delta in engine.stream_chat(asked, None)]

    tokens = [token for delta in deltas for token in delta.logprobs]
    assert len(tokens) == deltas[-1].usage.completion_tokens
    assert all(token.logprob == token.top[0].logprob <= 0 for token in tokens)
    assert all(len(token.top) == 3 for token in tokens)
    model, tokenizer = load_base(tiny_base, dtype=torch.float32, device="cpu")
    ids = torch.tensor([render(tokenizer, [{"role": "user", "content": "abc"}])])
    expected = model(ids).logits[0, -1].log_softmax(-1).max().item()
    assert tokens[0].logprob == pytest.approx(expected, abs=1e-4)


async def test_rare_adapter_is_not_starved(spec, tiny_base):
    """One request of a rare adapter overtakes the queue of a busy one."""
    engine, _ = tiny_engine(tiny_base, slots=2, max_running=1)
    done = []

    async def answer(name, adapter):
        await collect(engine, request(max_tokens=20, ignore_eos=True), adapter)
        done.append(name)

    busy, rare = tiny_adapter(spec, 1), tiny_adapter(spec, 2)
    tasks = []
    for _ in range(6):
        tasks.append(asyncio.create_task(answer("busy", busy)))
        await asyncio.sleep(0.005)
    tasks.append(asyncio.create_task(answer("rare", rare)))
    await asyncio.gather(*tasks)

    assert done.index("rare") <= 2
    await engine.close()
