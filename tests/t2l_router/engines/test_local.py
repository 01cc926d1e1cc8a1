"""What one request gets."""

import asyncio

import pytest
import torch

from t2l_router import wire
from t2l_router.chat_format import render
from t2l_router.engines import batch
from t2l_router.models import load_base
from tests.tiny_engine import collect, request, tiny_engine


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
