"""ChatT2L over a server and in this process; what no engine answers on demand is played."""

import json
import pickle
import subprocess
import sys
from contextlib import contextmanager
from typing import Generic, TypeVar

import pytest
from langchain_core import exceptions as core
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from integrations.langchain import AdapterUnavailable, ChatT2L
from t2l_router.errors import CallRefused
from tests.answers import answering, send
from tests.e2e.conftest import MODEL

T = TypeVar("T")
FRENCH, RHYME = "Translate to French", "Rhyme"


@pytest.fixture(params=["http", "in_process"])
def llm(request, echo, router):
    if request.param == "in_process":
        yield ChatT2L(router=router)
        return
    llm = ChatT2L(base_url=echo.url)
    yield llm
    llm.client.close()


@contextmanager
def facing(answer, **fields):
    """A model whose server answers as *answer* does."""
    with answering(answer) as url:
        llm = ChatT2L(base_url=url, model="m", **fields)
        yield llm
        llm.client.close()


@contextmanager
def saying(message: dict, *, finish_reason="stop"):
    """A model that answers with this message, and the bodies it was asked."""
    bodies = []

    def answer(handler, body):
        bodies.append(json.loads(body))
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        send(handler, 200, json.dumps({"model": "m", "choices": [choice]}).encode())

    with facing(answer) as llm:
        yield llm, bodies


def adapter(message: AIMessage) -> str | None:
    return message.response_metadata["t2l"]["adapter"]


def test_without_description(llm):
    """Without a description the base model answers, and says so."""
    answer = llm.invoke("one two")

    assert answer.content == "[base] one two"
    assert answer.response_metadata["t2l"]["decision"] == "base"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"]
    assert answer.usage_metadata == {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}


def test_description_per_model_per_binding_and_per_call(llm):
    """The nearest description counts, and None takes it away."""
    french = llm.model_copy(update={"t2l_description": FRENCH})
    rhyming = french.bind(t2l_description=RHYME)

    in_french, rhymed = adapter(french.invoke("x")), adapter(rhyming.invoke("x"))
    assert None is not in_french != rhymed is not None
    assert adapter(french.invoke("x", t2l_description=RHYME)) == rhymed
    assert adapter(rhyming.invoke("x", t2l_description=None)) is None


def test_adapter_by_id(llm):
    """The adapter that an answer names can be asked for."""
    first = llm.invoke("x", t2l_description=FRENCH)
    again = llm.invoke("x", t2l_adapter=adapter(first))

    assert adapter(again) == adapter(first)
    assert again.response_metadata["t2l"]["decision"] == "explicit"


def test_stream(llm):
    """Chunks add up to the plain answer, with the facts, the reason it ended and the counts."""
    chunks = list(llm.stream("one two", t2l_description=FRENCH))
    whole = sum(chunks[1:], chunks[0])
    plain = llm.invoke("one two", t2l_description=FRENCH)

    assert whole.content == plain.content
    assert whole.usage_metadata == plain.usage_metadata
    assert adapter(whole) == adapter(plain)
    for key in ("finish_reason", "model_name", "system_fingerprint"):
        assert whole.response_metadata[key] == plain.response_metadata[key]


async def test_asynchronous(llm):
    """The asynchronous half gives the same."""
    plain = await llm.ainvoke("one two", t2l_description=FRENCH)
    streamed = [chunk async for chunk in llm.astream("one two", t2l_description=FRENCH)]
    both = await llm.abatch(["a", "b"])

    assert "".join(chunk.content for chunk in streamed) == plain.content
    assert [answer.content for answer in both] == ["[base] a", "[base] b"]
    if not llm.router:
        await llm.client.aclose()


def test_batch(llm):
    """A batch keeps its order."""
    answers = llm.batch([f"word {i}" for i in range(8)])
    assert [answer.content for answer in answers] == [f"[base] word {i}" for i in range(8)]


def test_chain(llm):
    """It stands in a chain, and its description may be configured from outside."""
    prompt = ChatPromptTemplate([("system", "Be brief."), ("user", "{text}")])
    assert (prompt | llm).invoke({"text": "hi there"}).content == "[base] hi there"


def test_model_override(llm):
    """A call may name another model."""
    answer = llm.invoke("x", model="t2l:base", t2l_description=FRENCH)
    assert adapter(answer) is None
    assert answer.response_metadata["model_name"] == "t2l:base"


def test_cache_keeps_tasks_apart(llm):
    """A cached answer never serves another task."""
    cached = llm.model_copy(update={"cache": InMemoryCache(), "t2l_description": FRENCH})
    other = cached.model_copy(update={"t2l_description": RHYME})

    first = cached.invoke("x")
    assert cached.invoke("x").response_metadata["id"] == first.response_metadata["id"]
    assert adapter(other.invoke("x")) != adapter(first)
    assert adapter(cached.invoke("x", t2l_description=None)) is None


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_saved_and_loaded(monkeypatch):
    """A saved model holds no key; it takes it from the environment when it is loaded."""
    monkeypatch.setenv("T2L_API_KEY", "sk-secret")
    llm = ChatT2L(model="m", t2l_description=FRENCH)
    saved = dumpd(llm)

    loaded = load(
        saved,
        allowed_objects=[ChatT2L],
        valid_namespaces=["integrations"],
        secrets_from_env=True,
    )
    assert "sk-secret" not in json.dumps(saved) + repr(llm)
    assert loaded.t2l_description == FRENCH
    assert loaded.api_key.get_secret_value() == "sk-secret"


def test_pickle(echo):
    """A model that was used can be sent to another process."""
    llm = ChatT2L(base_url=echo.url)
    llm.invoke("x")
    copy = pickle.loads(pickle.dumps(llm))
    assert copy.invoke("x").content == "[base] x"
    llm.client.close()
    copy.client.close()


def test_unknown_fields():
    """A misspelt field is an error, given to the model or to a call."""
    with pytest.raises(ValidationError, match="t2l_descripton"):
        ChatT2L(t2l_descripton="x")
    with pytest.raises(ValueError, match="no such field: t2l_descripton; there are t2l_desc"):
        ChatT2L(model="m").invoke("x", t2l_descripton="x")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", core.ModelInvalidRequestError),
        (400, "context_length_exceeded", core.ContextOverflowError),
        (401, "invalid_api_key", core.ModelAuthenticationError),
        (403, None, core.ModelPermissionDeniedError),
        (404, "model_not_found", core.ModelNotFoundError),
        (408, None, core.ModelTimeoutError),
        (413, "request_too_large", core.ModelInvalidRequestError),
        (429, "engine_busy", core.ModelRateLimitError),
        (500, None, core.ModelAPIError),
        (503, "adapter_unavailable", AdapterUnavailable),
        (504, None, core.ModelTimeoutError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(status, code, kind, stream):
    """Every refusal is LangChain's error of that kind, and ours with status and code."""
    body = json.dumps({"error": {"message": "why", "type": "t", "param": None, "code": code}})

    with (
        facing(lambda handler, _: send(handler, status, body.encode()), max_retries=0) as llm,
        pytest.raises(kind, match="why") as caught,
    ):
        _ = list(llm.stream("x")) if stream else llm.invoke("x")

    assert isinstance(caught.value, CallRefused)
    assert isinstance(caught.value, core.ModelError)
    assert (caught.value.status, caught.value.code) == (status, code)


async def test_errors_asynchronous(llm):
    """The asynchronous half raises the same."""
    with pytest.raises(core.ModelNotFoundError):
        await llm.ainvoke("x", model="none")
    with pytest.raises(core.ModelNotFoundError):
        _ = [chunk async for chunk in llm.astream("x", model="none")]
    if not llm.router:
        await llm.client.aclose()


def test_unreachable():
    """Where nobody listens, a fallback for connection errors takes over."""
    away = ChatT2L(model="m", base_url="http://127.0.0.1:1", max_retries=0)
    with pytest.raises(core.ModelConnectionError, match="t2l serve"):
        away.invoke("x")

    with saying({"content": "here"}) as (near, _):
        chain = away.with_fallbacks([near], exceptions_to_handle=(core.ModelConnectionError,))
        assert chain.invoke("x").content == "here"


def test_messages_on_the_wire():
    """Roles, tool calls and their results arrive in OpenAI's form; blocks become text."""
    call = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    spoken = AIMessage([{"type": "text", "text": "wait"}, call], tool_calls=[call])
    turns = [
        SystemMessage("s"),
        HumanMessage([{"type": "text", "text": "a"}, "b"]),
        spoken,
        ToolMessage("2", tool_call_id="c1"),
    ]
    with saying({"content": "ok"}) as (llm, bodies):
        llm.invoke(turns, stop=["x"], seed=3)

    wired = {"name": "add", "arguments": '{"a": 1}'}
    assert bodies[0] == {
        "model": "m",
        "stop": ["x"],
        "seed": 3,
        "stream": False,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a\nb"},
            {
                "role": "assistant",
                "content": "wait",
                "tool_calls": [{"type": "function", "id": "c1", "function": wired}],
            },
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ],
    }


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


def test_default_model(llm):
    """Without a name the server's first model answers, and is asked for once."""
    assert llm.invoke("x").response_metadata["model_name"] in (MODEL, "echo")
    assert llm._first_model in (MODEL, "echo")


def test_several_choices():
    """Each choice is a generation; the counts stand on the first alone."""
    usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    choices = [
        {"index": i, "message": {"content": text}, "finish_reason": "stop"}
        for i, text in enumerate("ab")
    ]
    body = json.dumps({"model": "m", "choices": choices, "usage": usage}).encode()
    with facing(lambda handler, _: send(handler, 200, body)) as llm:
        ((first, second),) = llm.generate([[HumanMessage("x")]], n=2).generations

    assert (first.text, second.text) == ("a", "b")
    assert (first.message.usage_metadata["total_tokens"], second.message.usage_metadata) == (
        5,
        None,
    )


def test_missing_extra():
    """Without langchain-core the error names the command that installs it."""
    code = "import sys; sys.modules['langchain_core'] = None; import integrations.langchain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 't2l[langchain]'" in done.stderr
