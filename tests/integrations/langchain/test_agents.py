"""A LangChain agent whose steps have tasks of their own; its server plays a model that calls."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool

from integrations.langchain import ChatT2L, T2LMiddleware
from tests.answers import answering, send

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "x"}'}}


@tool
def look_up(q: str) -> str:
    """Look something up."""
    return f"found {q}"


@pytest.fixture
def model():
    """A model that calls the tool first and answers then, and the bodies that it was asked."""
    bodies = []

    def answer(handler, body):
        bodies.append(json.loads(body))
        calls = bodies[-1]["messages"][-1]["role"] == "user"
        message = {"content": None, "tool_calls": [CALL]} if calls else {"content": "done"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        send(handler, 200, json.dumps({"model": "m", "choices": [choice]}).encode())

    with answering(answer) as url:
        shown = [{"input": "own", "output": "OWN"}]
        llm = ChatT2L(base_url=url, model="m", t2l_description="own", t2l_examples=shown)
        yield llm, bodies
        llm.client.close()


@pytest.mark.parametrize(
    ("describe", "tasks"),
    [
        ("always", ["always", "always"]),
        ({None: "plan", "look_up": "sum up"}, ["plan", "sum up"]),
        ({"look_up": "sum up"}, ["own", "sum up"]),
        (lambda request: f"{len(request.messages)} turns", ["1 turns", "3 turns"]),
    ],
)
def test_task_of_each_step(model, describe, tasks):
    """Each model call gets the task of its step, else the model's own."""
    llm, bodies = model
    agent = create_agent(llm, [look_up], middleware=[T2LMiddleware(describe)])

    result = agent.invoke({"messages": [("user", "go")]})
    assert result["messages"][-1].content == "done"
    assert [body["t2l_description"] for body in bodies] == tasks
    # The model's own examples go with its own task only.
    assert ["t2l_examples" in body for body in bodies] == [task == "own" for task in tasks]
    assert bodies[1]["messages"][-1]["content"] == "found x"


async def test_asynchronous(model):
    """An asynchronous agent gets the same."""
    llm, bodies = model
    agent = create_agent(llm, [look_up], middleware=[T2LMiddleware({"look_up": "sum up"})])

    await agent.ainvoke({"messages": [("user", "go")]})
    assert [body["t2l_description"] for body in bodies] == ["own", "sum up"]
    await llm.client.aclose()
