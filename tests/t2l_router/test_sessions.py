"""An adapter stays with its conversation, and with no other."""

import asyncio
import json

import pytest
from sqlalchemy import select

from adapters_store.schema import sessions
from adapters_store.sessions import SessionRow
from t2l_router.errors import InvalidRequest
from t2l_router.router import Caller
from t2l_router.sessions import conversation_of
from tests.routers import answer, decide, echo_router, open_store, request

TASK = {"t2l_description": "Translate English sentences into French"}
OTHER = {"t2l_description": "Sort the words by length"}
USER = {"role": "user", "content": "one two"}


@pytest.fixture(name="routers")
async def _routers(tmp_path):
    """Makes routers over one library, and closes them."""
    made = []

    def make(**options):
        made.append(echo_router(tmp_path, **options))
        return made[-1]

    yield make
    for router in made:
        await router.close()


async def turn(router, messages, caller=None, **fields):
    """One turn; the decision and the history with the answer."""
    decision, text = await answer(router, caller, messages=messages, **fields)
    return decision, [*messages, {"role": "assistant", "content": text}]


async def test_history_is_recognised(routers):
    """Described once, the task stays for the turns that follow."""
    router = routers()
    first, history = await turn(router, [USER], **TASK)
    second, history = await turn(router, [*history, USER])
    third, _ = await turn(router, [*history, USER])

    assert [first.kind, second.kind, third.kind] == ["generated", "sticky", "sticky"]
    assert first.adapter == second.adapter == third.adapter


async def test_trimmed_answers_are_recognised(routers):
    """Clients that trim the answers they send back lose nothing."""
    router = routers()
    _, history = await turn(router, [USER], **TASK)
    history[-1]["content"] = f"  {history[-1]['content']}\n"

    assert (await turn(router, [*history, USER]))[0].kind == "sticky"


async def test_other_history_is_another_conversation(routers):
    """A changed answer, a changed question or another system prompt is no longer the same chat."""
    router = routers()
    _, history = await turn(router, [USER], **TASK)
    asked, answered = history
    others = [
        [asked, answered | {"content": "something else"}],
        [asked | {"content": "one"}, answered],
        [{"role": "system", "content": "Be brief."}, asked, answered],
    ]

    for other in others:
        assert (await turn(router, [*other, USER]))[0].kind == "base"


async def test_same_answer_asked_for_anew(routers):
    """The last answer may be asked for again; so may the turn before it go on differently."""
    router = routers()
    _, history = await turn(router, [USER], **TASK)
    question = [*history, USER]
    await turn(router, question)

    assert (await turn(router, question))[0].kind == "sticky"


async def test_named_session(routers):
    """A named session needs no history; field and header mean the same."""
    router = routers()
    first, _ = await turn(router, [USER], t2l_session="chat-1", **TASK)
    second, _ = await turn(router, [USER], t2l_session="chat-1")
    third, _ = await turn(router, [USER], Caller(session="chat-1"))

    assert (second.kind, third.kind) == ("sticky", "sticky")
    assert first.adapter == second.adapter == third.adapter


async def test_chat_ui_names_its_chats(routers):
    """A chat UI's id of the chat names the session, unless the request has a name of its own."""
    router = routers()
    await turn(router, [USER], Caller(chat_id="ui-1"), **TASK)
    same, _ = await turn(router, [USER], Caller(chat_id="ui-1"))
    other, _ = await turn(router, [USER], Caller(chat_id="ui-1"), t2l_session="mine")

    assert (same.kind, other.kind) == ("sticky", "base")


@pytest.mark.parametrize("how", ["named", "history"])
async def test_sessions_of_tenants(routers, how):
    """Another tenant's session is invisible, by name and by history."""
    router = routers()
    name = {"t2l_session": "chat-1"} if how == "named" else {}
    _, history = await turn(router, [USER], Caller("acme"), **TASK, **name)

    rival, _ = await turn(router, [*history, USER], Caller("rival"), **name)
    own, _ = await turn(router, [*history, USER], Caller("acme"), **name)

    assert (rival.kind, own.kind) == ("base", "sticky")


@pytest.mark.parametrize("how", ["named", "history"])
async def test_restart(tmp_path, how):
    """A session survives the router."""
    name = {"t2l_session": "chat-1"} if how == "named" else {}
    first = echo_router(tmp_path)
    made, history = await turn(first, [USER], **TASK, **name)
    await first.close()

    second = echo_router(tmp_path)
    again, _ = await turn(second, [*history, USER], **name)
    await second.close()

    assert again.kind == "sticky"
    assert again.adapter.adapter_id == made.adapter.adapter_id


async def test_two_routers(routers):
    """A conversation may go on at another router."""
    one, other = routers(), routers()
    _, history = await turn(one, [USER], **TASK)
    await one._behind.flush()

    assert (await turn(other, [*history, USER]))[0].kind == "sticky"


async def test_description_changes(routers):
    """Another description lets go of the adapter; the same one, however spelt, doesn't."""
    router = routers()
    _, history = await turn(router, [USER], **TASK)
    spelt = {"t2l_description": TASK["t2l_description"].upper()}
    same, history = await turn(router, [*history, USER], **spelt)
    other, history = await turn(router, [*history, USER], **OTHER)
    after, _ = await turn(router, [*history, USER])

    assert [same.kind, other.kind, after.kind] == ["sticky", "generated", "sticky"]
    assert same.adapter != other.adapter == after.adapter


async def test_named_adapter_stays(routers):
    """An adapter named in one turn serves those that follow, until the base model is asked for."""
    router = routers()
    made, _ = await answer(router, **TASK)
    name = {"t2l_session": "chat-1"}
    first, _ = await turn(router, [USER], t2l_adapter=made.adapter.adapter_id, **name)
    second, _ = await turn(router, [USER], **name)
    base, _ = await turn(router, [USER], model="t2l:base", **name)
    after, _ = await turn(router, [USER], **name)

    assert [first.kind, second.kind, base.kind, after.kind] == [
        "explicit",
        "sticky",
        "base",
        "base",
    ]


async def test_idle(routers):
    """After its idle time a conversation has ended."""
    router = routers(session_idle_s=1)
    _, history = await turn(router, [USER], **TASK)
    await router._behind.flush()
    await asyncio.sleep(1.1)

    assert (await turn(router, [*history, USER]))[0].kind == "base"


async def test_quarantined_adapter_is_let_go(routers, tmp_path):
    """A conversation doesn't go on with an adapter that was taken out of service."""
    router = routers()
    made, history = await turn(router, [USER], **TASK)
    with open_store(tmp_path) as store:
        store.set_state(made.adapter.adapter_id, "quarantined", tenant="local")
    router._chooser._adapters._known.clear()

    assert (await turn(router, [*history, USER]))[0].kind == "base"


async def test_chat_ui_prompts(routers):
    """A chat UI's own prompt gets the base model and leaves the session alone."""
    router = routers()
    name = {"t2l_session": "chat-1"}
    await turn(router, [USER], **TASK, **name)

    helper, _ = await turn(router, [USER], Caller(helper=True), **name)
    after, _ = await turn(router, [USER], **name)

    assert (helper.kind, after.kind) == ("base", "sticky")


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({"t2l_session": "a"}, "b"),
        ({"t2l_session": ""}, None),
        ({"t2l_session": "   "}, None),
        ({}, "x" * 201),
    ],
)
async def test_bad_session(routers, fields, header):
    """Contradictory, empty and endless names are errors that name the field."""
    with pytest.raises(InvalidRequest) as caught:
        await decide(routers(), Caller(session=header), **fields)

    assert caught.value.param == "t2l_session"


async def test_rows_are_bounded(routers, tmp_path):
    """However long a conversation, its history takes two rows."""
    router = routers()
    history = []
    for _ in range(6):
        _, history = await turn(router, [*history, USER], **TASK)
    await router._behind.flush()

    with open_store(tmp_path) as store, store.ledger.read() as connection:
        rows = connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one()
    assert rows == 2


def test_keys_hold_no_text() -> None:
    """What is stored of a history can't be read back."""
    asked = request(messages=[USER, {"role": "assistant", "content": "secret"}, USER])
    key = conversation_of(asked, Caller("acme")).key

    assert len(key) == 64
    assert int(key, 16) >= 0


async def test_turn_that_changes_nothing(routers, tmp_path):
    """A sticky turn keeps its conversation alive, but doesn't undo what another router wrote."""
    router = routers(library_database=f"sqlite:///{tmp_path}/library.db")
    made, _ = await turn(router, [USER], t2l_session="chat-1", **TASK)
    request_ = request(messages=[USER], t2l_session="chat-1")
    conversation = conversation_of(request_, Caller())
    held = await router._sessions.find(conversation)
    began = await stored(router, conversation.key)
    # Between this router's decision and its answer's end another one changes the adapter.
    other = SessionRow(
        "local", None, json.dumps({"description_hash": None, "topic": None, "before": None})
    )
    await router._library.calls.run(lambda store: store.sessions.put({conversation.key: other}))

    changed = router._sessions.remember(conversation, "answer", held)
    await router._behind.flush()
    after = await stored(router, conversation.key)

    assert made.adapter.adapter_id == held.adapter_id == began.adapter_id
    assert not changed
    assert after.adapter_id is None
    assert after.updated_at > began.updated_at


async def stored(router, key):
    """A conversation's row."""

    def read(store):
        with store.ledger.read() as connection:
            return connection.execute(select(sessions).where(sessions.c.key == key)).one()

    return await router._library.calls.run(read)


@pytest.mark.parametrize(
    "state", ["{}", "[", '{"description_hash": null, "before": null, "topic": {"tasks": [{}]}}']
)
async def test_row_of_another_version(routers, tmp_path, state):
    """A conversation that another version has noted otherwise begins anew."""
    router = routers()
    first, _ = await turn(router, [USER], t2l_session="chat", **TASK)
    await router.close()
    with open_store(tmp_path) as store, store.ledger.change() as change:
        change.connection.execute(sessions.update().values(state=state))

    again = routers()
    begun, _ = await turn(again, [USER], t2l_session="chat")
    described, _ = await turn(again, [USER], t2l_session="chat", **TASK)

    assert (begun.kind, described.kind) == ("base", "exact")
    assert described.adapter == first.adapter
