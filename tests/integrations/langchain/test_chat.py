"""ChatT2L over a server and in this process."""

import json
import pickle

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from pydantic import ValidationError

from integrations.langchain import ChatT2L
from tests.answers import send
from tests.e2e.conftest import MODEL
from tests.integrations.langchain.played import facing, saying

FRENCH, RHYME = "Translate to French", "Rhyme"


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
