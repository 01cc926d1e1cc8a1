import asyncio
import dataclasses

import pytest
import torch

from t2l_router import wire
from t2l_router.chat_format import render
from t2l_router.engines import decoding
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
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", piece)
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


async def test_poisoned_adapter_fails_alone(engine, spec):
    """An adapter that makes NaN ends its own answer; the one beside it goes on."""
    poison = tiny_adapter(spec, 1, scale=float("nan"))

    bad, good = await asyncio.gather(
        collect(engine, request(), poison), collect(engine, request()), return_exceptions=True
    )

    assert isinstance(bad, EngineFailed)
    assert good == await collect(engine, request())
    assert engine.health().running == 0


async def test_broken_step_fails_alone(engine, monkeypatch, caplog):
    """An unexpected failure ends one answer, is logged, and the engine goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(decoding.Decoder, "_forward", lambda *_: 1 / 0)
        with pytest.raises(EngineFailed, match="log says how"):
            await collect(engine, request())

    assert "ZeroDivisionError" in caplog.text
    await collect(engine, request())


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
    monkeypatch.setattr("t2l_router.chat_format.render", lambda *_: [])

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
