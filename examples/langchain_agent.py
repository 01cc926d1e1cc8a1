"""
An agent whose tools are one small model with an adapter for each of them.

    python examples/langchain_agent.py

The planner is scripted, so that this runs anywhere: put a model there that calls tools.
"""

from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from integrations.langchain import ChatT2L
from t2l_router import build_router
from t2l_router.config import load

llm = ChatT2L(router=build_router(load()), temperature=0, max_tokens=40)
emotions = llm.bind(t2l_description="Tell which emotion the sentence expresses, in one word.")
grammar = llm.bind(t2l_description="Revise the sentence so that it has no mistakes in grammar.")


@tool
def emotion_of(sentence: str) -> str:
    """Name the emotion that a sentence expresses."""
    return emotions.invoke(sentence).text


@tool
def corrected(sentence: str) -> str:
    """Correct the grammar of a sentence."""
    return grammar.invoke(sentence).text


class Planner(FakeMessagesListChatModel):
    """Calls both tools on the same mail, then ends."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> "Planner":  # noqa: ARG002
        """Know the tools already."""
        return self


MAIL = "i feel beaten down and nobody have noticed"
calls = [
    {"name": name, "args": {"sentence": MAIL}, "id": name, "type": "tool_call"}
    for name in ("emotion_of", "corrected")
]
planner = Planner(responses=[AIMessage("", tool_calls=calls), AIMessage("Both done.")])

agent = create_agent(planner, [emotion_of, corrected])
for message in agent.invoke({"messages": [("user", MAIL)]})["messages"]:
    print(f"{message.type:<6} {message.name or '':<10} {message.text}")
llm.client.close()
