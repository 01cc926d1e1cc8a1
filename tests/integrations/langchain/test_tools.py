"""Tools and structured output; what no engine answers on demand is played."""

import json
from typing import Generic, TypeVar

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import tool
from pydantic import BaseModel

from integrations.langchain import ChatT2L
from tests.answers import send
from tests.integrations.langchain.played import facing, saying

T = TypeVar("T")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def called(arguments: str) -> dict:
    function = {"name": "add", "arguments": arguments}
    return {
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("any", "required"),
        (True, "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("add", {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_tools(choice, sent):
    """Tools and the choice among them are sent in OpenAI's form; calls come back parsed."""
    with saying(called('{"a": 1, "b": 2}'), finish_reason="tool_calls") as (llm, bodies):
        answer = llm.bind_tools([add], tool_choice=choice).invoke("1 + 2?")

    assert bodies[0].get("tool_choice") == sent
    assert bodies[0]["tools"][0]["function"]["name"] == "add"
    assert add.invoke(answer.tool_calls[0]["args"]) == 3


def test_unknown_tool_choice():
    """A choice that is none of the tools is named."""
    with pytest.raises(ValueError, match="'mul' is none of the tools: add"):
        ChatT2L(model="m").bind_tools([add], tool_choice="mul")


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1, 2]"])
def test_broken_tool_call(arguments):
    """Arguments that can't be read are an invalid call, not an error."""
    with saying(called(arguments)) as (llm, _):
        answer = llm.bind_tools([add]).invoke("x")
    assert (answer.tool_calls, answer.invalid_tool_calls[0]["args"]) == ([], arguments)


def test_streamed_tool_call():
    """Pieces of a call add up."""
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add"}}
    pieces = [first, *({"index": 0, "function": {"arguments": text}} for text in ('{"a"', ": 1}"))]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"

    with facing(lambda handler, _: send(handler, 200, body.encode())) as llm:
        chunks = list(llm.bind_tools([add]).stream("x"))

    (call,) = sum(chunks[1:], chunks[0]).tool_calls
    assert (call["name"], call["args"], call["id"]) == ("add", {"a": 1}, "c1")


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


ANN = {"name": "Ann", "age": 30}


@pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output(schema, method):
    """Each method asks in its own way, and gives the same value."""
    message = {"content": json.dumps(ANN)}
    if method == "function_calling":
        message = called(json.dumps(ANN))
        message["tool_calls"][0]["function"]["name"] = "Person"
    with saying(message) as (llm, bodies):
        value = llm.with_structured_output(schema, method=method).invoke("Ann, 30")

    assert value == (Person(**ANN) if schema is Person else ANN)
    if method == "json_schema":
        asked = bodies[0]["response_format"]["json_schema"]
        assert asked["name"] == "Person"
        assert asked["schema"]["required"] == ["name", "age"]
    elif method == "json_mode":
        assert bodies[0]["response_format"] == {"type": "json_object"}
    else:
        assert bodies[0]["tool_choice"]["function"]["name"] == "Person"


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"properties": {"a": {}}}, True),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, False),
        ({"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}, False),
        ({}, False),
    ],
)
def test_structured_output_holds_what_is_named(schema, closed):
    """An object, however deep, has no further properties unless its schema speaks of them."""
    given = {"type": "object"} | schema
    deep = {"title": "Deep", "type": "object", "properties": {"listed": {"items": given}}}
    with saying({"content": "{}"}) as (llm, bodies):
        for asked in (given | {"title": "Flat"}, deep):
            llm.with_structured_output(asked).invoke("x")

    flat, deep = (body["response_format"]["json_schema"]["schema"] for body in bodies)
    assert deep["additionalProperties"] is False
    for sent in (flat, deep["properties"]["listed"]["items"]):
        assert (sent.get("additionalProperties") is False) == closed


class Result(BaseModel, Generic[T]):
    """A value of some type."""

    value: T


def test_structured_output_of_an_engine(llm):
    """An engine keeps to the schema, also to one whose class has brackets in its name."""
    result = llm.with_structured_output(Result[int]).invoke("x")
    assert isinstance(result.value, int)


def test_tool_call_of_an_engine(llm):
    """An engine calls the tool that is asked for, in one piece and streamed."""
    bound = llm.bind_tools([add], tool_choice="any")
    plain = bound.invoke("1 + 2?")
    chunks = list(bound.stream("1 + 2?"))

    (call,) = plain.tool_calls
    (streamed,) = sum(chunks[1:], chunks[0]).tool_calls
    assert (call["name"], call["args"]) == (streamed["name"], streamed["args"])
    assert isinstance(add.invoke(call["args"]), int)
    assert plain.response_metadata["finish_reason"] == "tool_calls"


def test_structured_output_that_does_not_parse():
    """What can't be parsed is LangChain's parsing error, or stands beside the message."""
    with saying({"content": '{"name": "Ann"'}, finish_reason="length") as (llm, _):
        with pytest.raises(OutputParserException):
            llm.with_structured_output(Person).invoke("x")
        found = llm.with_structured_output(Person, include_raw=True).invoke("x")

    assert found["raw"].content == '{"name": "Ann"'
    assert (found["parsed"], type(found["parsing_error"])) == (None, OutputParserException)
