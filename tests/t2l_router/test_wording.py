import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from t2l_router import wire
from t2l_router.engines.base import Delta, TokenLogprob, ToolCall
from t2l_router.reply import Reply
from t2l_router.router import Answer, Decision
from t2l_router.wording import ChatWording, TextWording

LOGPROB = TokenLogprob("hé", "hé".encode(), -0.5, (TokenLogprob("a", b"a", -1.0),))
USAGE = wire.Usage.of(3, 4)


def asked(**fields):
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return wire.ChatRequest.model_validate(chat | fields)


def reply(chat, deltas, wording=ChatWording):
    async def pieces():
        for delta in deltas:
            yield delta

    answer = Answer(Decision("base", "because"), pieces())
    return Reply(answer, wording(chat, "f" * 64), n=chat.n or 1)


async def streamed(chat, deltas, wording=ChatWording):
    """The documents of all events but the last, which is DONE."""
    decoder = wire.SseDecoder()
    events = await reply(chat, deltas, wording).begin(5)
    data = [text async for event in events for text in decoder.feed(event)]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


ANSWERS = {
    "text": ({}, [Delta("a"), Delta("b", "stop", USAGE)]),
    "choices": (
        {"n": 2},
        [Delta("a"), Delta("x", index=1), Delta("", "stop"), Delta("y", "length", USAGE, index=1)],
    ),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 1},
        [Delta("hé", logprobs=(LOGPROB,)), Delta("", "stop", USAGE)],
    ),
    "tools": ({}, [Delta("", "tool_calls", USAGE, tool_calls=(ToolCall("c1", "f", "{}"),))]),
}


@pytest.mark.parametrize(("fields", "deltas"), ANSWERS.values(), ids=ANSWERS)
async def test_whole_and_streamed_are_the_same(fields, deltas):
    """Each kind of answer fits OpenAI's own types, and its stream adds up to the plain answer."""
    options = {"stream_options": {"include_usage": True}}
    plain = ChatCompletion.model_validate(await reply(asked(**fields), deltas).whole(), strict=True)
    chunks = [
        ChatCompletionChunk.model_validate(chunk)
        for chunk in await streamed(asked(**fields, **options), deltas)
    ]

    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage == plain.usage
    for choice in plain.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in parts) == (choice.message.content or "")
        assert [c.finish_reason for c in parts if c.finish_reason] == [choice.finish_reason]
        tokens = [t for c in parts if c.logprobs for t in c.logprobs.content]
        assert tokens == (choice.logprobs.content if choice.logprobs else [])
        calls = [call for c in parts for call in c.delta.tool_calls or []]
        assert [call.function.name for call in calls] == [
            call.function.name for call in choice.message.tool_calls or []
        ]


async def test_tool_call():
    """An answer that only calls a tool has no content, and the call has OpenAI's form."""
    fields, deltas = ANSWERS["tools"]
    (choice,) = (await reply(asked(**fields), deltas).whole())["choices"]

    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


async def test_logprobs():
    """A token comes with its bytes, and with what might have stood in its place."""
    fields, deltas = ANSWERS["logprobs"]
    (choice,) = (await reply(asked(**fields), deltas).whole())["choices"]

    assert choice["logprobs"]["content"] == [
        {
            "token": "hé",
            "logprob": -0.5,
            "bytes": [104, 195, 169],
            "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}],
        }
    ]


@pytest.mark.parametrize("name", ["text", "choices", "logprobs"])
async def test_older_format(name):
    """The older format fits OpenAI's own types too."""
    fields, deltas = ANSWERS[name]
    plain = Completion.model_validate(await reply(asked(**fields), deltas, TextWording).whole())
    chunks = await streamed(asked(**fields), deltas, TextWording)

    for choice in plain.choices:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice.index]
        assert "".join(part["text"] for part in parts) == choice.text
        assert [c["finish_reason"] for c in parts if c["finish_reason"]] == [choice.finish_reason]
    if name == "logprobs":
        assert plain.choices[0].logprobs.tokens == ["hé"]
        assert math.isclose(plain.choices[0].logprobs.top_logprobs[0]["a"], -1.0)


@given(st.lists(st.text(), max_size=5))
async def test_any_text(texts):
    """Whatever the text is, the stream carries it unchanged, or with U+FFFD for half characters."""
    deltas = [*map(Delta, texts), Delta("", "stop", USAGE)]
    said = [
        chunk["choices"][0]["delta"].get("content", "") for chunk in await streamed(asked(), deltas)
    ]

    assert "".join(said) == "".join(texts)


async def test_slow_pieces_are_bridged():
    """Silence is filled with comments, and what comes together goes out together."""

    async def pieces():
        await asyncio.sleep(0.05)
        yield Delta("a")
        await asyncio.sleep(0.05)
        yield Delta("b", "stop", USAGE)

    answer = Answer(Decision("base", "because"), pieces())
    events = await Reply(answer, ChatWording(asked(), "f" * 64)).begin(0.01)
    sent = [event async for event in events]

    assert sent.count(wire.KEEP_ALIVE) >= 4
    assert sent[-1].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("ended", ["whole", "error", "left"])
async def test_outcome_is_reported_once(ended):
    """However an answer ends, it is reported once, with what it cost."""
    seen = []

    async def pieces():
        yield Delta("a")
        if ended == "error":
            raise RuntimeError("broken")
        if ended == "left":
            await asyncio.sleep(60)
        yield Delta("b", "stop", USAGE)

    answer = Answer(Decision("base", "because"), pieces())
    subject = Reply(answer, ChatWording(asked(), "f" * 64), report=seen.append)
    events = await subject.begin(5)
    if ended == "left":
        await anext(events)
        await events.aclose()
    else:
        assert [event async for event in events]

    (outcome,) = seen
    expected = {"whole": ("stop", 7), "error": ("error", 1), "left": ("cancelled", 1)}
    assert (outcome.end, outcome.usage.total_tokens) == expected[ended]
    assert outcome.first_token_s <= outcome.duration_s
