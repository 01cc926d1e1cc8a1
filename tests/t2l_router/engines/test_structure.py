"""JSON, schemas and tool calls, from a random model that would never write them by itself."""

import json

import pytest

from t2l_router import wire
from t2l_router.engines.base import Delta
from t2l_router.engines.tools import ToolReader, call_schema
from t2l_router.errors import InvalidRequest
from tests.tiny_engine import collect, request, tiny_engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bo"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


@pytest.fixture
async def engine(tiny_base):
    subject, _ = tiny_engine(tiny_base, max_running=4)
    yield subject
    await subject.close()


def schema_request(schema, **fields) -> wire.ChatRequest:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return request(response_format=form, max_tokens=80, **fields)


@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_json_schema(engine, temperature):
    """An answer fits the schema, greedy or sampled, and ends when it is whole."""
    text, last = await collect(engine, schema_request(PERSON, temperature=temperature, seed=1))

    assert set(json.loads(text)) == {"name", "old"}
    assert last.finish_reason == "stop"


async def test_choices_have_states_of_their_own(engine):
    """Several choices of one schema don't disturb one another."""
    asked = schema_request(PERSON, n=3, temperature=1.5, seed=2)

    texts = [""] * 3
    async for delta in engine.stream_chat(asked, None):
        texts[delta.index] += delta.text

    assert all(set(json.loads(text)) == {"name", "old"} for text in texts)


async def test_json_object(engine):
    """JSON mode begins an object, whatever the model likes better."""
    text, _ = await collect(engine, request(response_format={"type": "json_object"}))

    assert text.startswith("{")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://example.org/x"}])
async def test_bad_schema(engine, schema):
    """A schema that can't be enforced is refused, before anything runs."""
    with pytest.raises(InvalidRequest, match="schema") as caught:
        await collect(engine, schema_request(schema))

    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_forced_call(engine, choice):
    """A call that must be made is one of a tool, with arguments that fit it."""
    asked = request(tools=[WEATHER], tool_choice=choice, max_tokens=60)

    text, last = await collect(engine, asked)

    assert (text, last.finish_reason) == ("", "tool_calls")
    assert [call.name for call in last.tool_calls] == ["weather"]
    arguments = json.loads(last.tool_calls[0].arguments)
    assert arguments["city"] in ("Oslo", "Rome")


async def test_call_that_was_cut(engine):
    """A call that the token limit cuts is no call; what came of it is text."""
    asked = request(tools=[WEATHER], tool_choice="required", max_tokens=5)

    text, last = await collect(engine, asked)

    assert text.startswith("{")
    assert (last.finish_reason, last.tool_calls) == ("length", ())


def test_schema_of_several_tools():
    """Of several tools any may be called; one without parameters takes any object."""
    schema = call_schema([WEATHER, CLOCK])

    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["weather", "clock"]
    weather, clock = (one["properties"]["arguments"] for one in schema["anyOf"])
    assert weather["additionalProperties"] is False
    assert clock == {"type": "object", "additionalProperties": True}


def read(text: str, *, size: int = 3) -> tuple[str, Delta]:
    reader = ToolReader(must_call=False, names=frozenset({"weather", "clock"}))
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    deltas = [reader.feed(Delta(piece)) for piece in pieces] + [reader.feed(Delta("", "stop"))]
    return "".join(delta.text for delta in deltas), deltas[-1]


def called(name: str, **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_free_calls():
    """Calls that the model makes by itself are taken out of the text, one or several."""
    text, last = read("\n" + called("clock") + "\n" + called("weather", city="Oslo"))

    assert (text, last.finish_reason) == ("", "tool_calls")
    assert [call.name for call in last.tool_calls] == ["clock", "weather"]
    assert len({call.id for call in last.tool_calls}) == 2


@pytest.mark.parametrize(
    "text",
    ["plain", "", "  <tool", "<tool_call>no JSON</tool_call>", called("nobody"), "a <tool_call>"],
)
def test_what_is_no_call(text):
    """Anything else is passed on as it is."""
    assert read(text) == (text, Delta(read(text)[1].text, "stop"))
