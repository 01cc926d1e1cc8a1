"""Which source of a task wins, turn by turn; inference is played by a script."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from t2l_router import choice
from t2l_router.engines.echo import EchoEngine
from t2l_router.inference import Heard
from t2l_router.router import Caller
from t2l_router.topics import Topic, TopicTask
from tests.routers import answer, echo_router, open_store

TASK = "Translate English sentences into French"
FRENCH = "Say it in French"
SORT = "Sort the words by length"
_ZERO = np.zeros(4, np.float32)


def script(inference, reading, topic, *, tenant):
    """Go by the last word: ``french`` and ``sort`` are tasks, ``hello`` is an aside."""
    last = reading.last.split()[-1]
    if last == "hello":
        return Heard(None, topic, "small talk")
    if last == "broken":
        raise RuntimeError("secret")
    wanted = {"french": FRENCH, "sort": SORT}.get(last)
    if wanted is None and topic is not None:
        return Heard(topic.active.description, topic, "goes on", kept=True)
    if wanted is None:
        return Heard(None, None, "no task can be told")
    task = TopicTask(wanted, "inferred", _ZERO, *[_ZERO] * 3)
    return Heard(wanted, Topic(task), "asked for")


class Chat:
    """A conversation with a router, turn by turn."""

    def __init__(self, router):
        self.router = router
        self.history = []

    async def say(self, text, *, role="user", caller=None, **fields):
        """The decision on one more turn."""
        self.history.append({"role": role, "content": text})
        decision, said = await answer(self.router, caller, messages=self.history, **fields)
        self.history.append({"role": "assistant", "content": said})
        return decision


@pytest.fixture(name="chat")
async def _chat(tmp_path, monkeypatch):
    """A new conversation with a router that infers by the script."""
    monkeypatch.setattr(choice, "hear", script)
    router = echo_router(tmp_path)
    router._chooser._inference = object()
    yield Chat(router)
    await router.close()


async def test_inferred_task_stays(chat):
    """An inferred task gets its adapter, which stays while the topic does."""
    first = await chat.say("now french")
    second = await chat.say("one more")

    assert (first.kind, second.kind) == ("generated", "sticky")
    assert first.task.source == "inferred"
    assert first.adapter == second.adapter


async def test_shift(chat):
    """Another task gets another adapter, and the way back finds the first one again."""
    first = await chat.say("now french")
    second = await chat.say("now sort")
    third = await chat.say("again french")

    assert [first.kind, second.kind, third.kind] == ["generated", "generated", "exact"]
    assert first.adapter == third.adapter != second.adapter


async def test_aside(chat):
    """Small talk is answered by the base model, and the task goes on after it."""
    first = await chat.say("now french")
    aside = await chat.say("oh hello")
    after = await chat.say("one more")

    assert [first.kind, aside.kind, after.kind] == ["generated", "base", "sticky"]
    assert aside.reason == "small talk"
    assert after.adapter == first.adapter


async def test_description_wins_over_inference(chat):
    """What a client describes beats what its conversation seems to say, and stays."""
    described = await chat.say("now french", t2l_description=TASK)
    after = await chat.say("now sort")

    assert described.task.text == TASK
    assert (after.kind, after.adapter) == ("sticky", described.adapter)


async def test_tool_results_choose_nothing(chat):
    """Amid a tool call the conversation keeps its adapter, whatever the tool says."""
    first = await chat.say("now french", t2l_session="s")
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "now sort"}
    chat.history[-1:] = [asked, result]
    tool, _ = await answer(chat.router, messages=chat.history, t2l_session="s")

    assert (tool.kind, tool.adapter) == ("sticky", first.adapter)


async def test_no_task(chat):
    """Where no task can be told the base model answers, with the reason."""
    decision = await chat.say("what now")

    assert (decision.kind, decision.reason) == ("base", "no task can be told")


async def test_broken_inference(chat):
    """A strategy that breaks costs the adapter, not the answer, and shows no internals."""
    decision = await chat.say("all broken")

    assert decision.kind == "base"
    assert "the log says how" in decision.reason
    assert "secret" not in decision.reason


async def test_helper_prompt(chat):
    """A chat UI's own prompt isn't even read."""
    decision = await chat.say("now french", caller=Caller(helper=True))

    assert decision.kind == "base"


async def test_helper_prompt_by_its_wording(chat):
    """Where a described task is held, too, the base model names the chat; the chat goes on."""
    made = await chat.say("now rhyme", t2l_description="Rhyme", t2l_session="c")
    asked = "### Task:\nGenerate a title for the chat history, as JSON only."
    title = await chat.say(asked, t2l_session="c")
    goes_on = await chat.say("more", t2l_session="c")

    assert (made.kind, title.kind, goes_on.kind) == ("generated", "base", "sticky")
    assert title.reason == "a chat UI's own prompt"
    assert goes_on.adapter == made.adapter


async def test_topic_survives_a_restart(tmp_path, monkeypatch):
    """What tells topic shifts is stored with the session."""
    monkeypatch.setattr(choice, "hear", script)
    first = echo_router(tmp_path)
    first._chooser._inference = object()
    chat = Chat(first)
    made = await chat.say("now french")
    await first.close()

    second = echo_router(tmp_path)
    second._chooser._inference = object()
    chat.router = second
    after = await chat.say("one more")
    await second.close()

    assert (after.kind, after.adapter.adapter_id) == ("sticky", made.adapter.adapter_id)


async def test_engine_that_pulls_adapters(tmp_path):
    """An engine that takes adapters from the library is told of one only when it is there."""
    seen = []

    class Pulling(EchoEngine):
        async def ensure(self, adapter):
            def look():
                with open_store(tmp_path) as store:
                    return store.get(adapter.adapter_id, tenant="local").id

            seen.append(await asyncio.to_thread(look))

    router = echo_router(tmp_path, engine=Pulling())
    router._options = replace(router._options, publish_first=True)
    decision, _ = await answer(router, t2l_description=TASK)
    await router.close()

    assert seen == [decision.adapter.adapter_id]
