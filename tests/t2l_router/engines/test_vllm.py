"""The engine over vLLM servers: what goes wrong on the way, and what reaches them."""

import asyncio
from contextlib import ExitStack
from itertools import count

import pytest
from starlette.responses import JSONResponse

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef, Elsewhere
from t2l_router.engines.fleet import rank
from t2l_router.engines.vllm import VllmEngine, VllmOptions, _beginning
from t2l_router.errors import (
    EngineBusy,
    EngineFailed,
    EngineUnreachable,
    InvalidAdapter,
    InvalidRequest,
    PromptTooLong,
)
from tests.tiny_engine import collect, request
from tests.vllm_server import BASE, VllmServer, refusal, served, shows

NAME = AdapterId(f"t2l-{7:032x}")
ADAPTER = AdapterRef(NAME, Elsewhere(NAME))
NOWHERE = "http://127.0.0.1:9"  # the port of "discard", where nobody listens


@pytest.fixture
def servers():
    """Three servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(served(VllmServer())) for _ in range(3)]


@pytest.fixture
async def engine(servers):
    """An engine over them; ``home`` is the server of the adapter."""
    engine = VllmEngine(VllmOptions(tuple(server.url for server in servers), BASE, timeout_s=2))
    yield engine
    await engine.close()


@pytest.fixture
def home(engine, servers):
    """The adapter's server, and the other two."""
    order = [server.url for server in rank(NAME, engine._fleet.servers)]
    return sorted(servers, key=lambda server: order.index(server.url))


def asked(servers):
    return [sum(server.asked.values()) for server in servers]


async def test_requests_stay_with_their_adapter(engine, home):
    """An adapter's requests go to one server, which loads it once."""
    await engine.ensure(ADAPTER)
    for _ in range(5):
        await collect(engine, request("abc"), ADAPTER)

    assert asked(home) == [5, 0, 0]
    assert home[0].loads == {NAME: 1}


async def test_turns_of_a_conversation_stay_together(engine, servers):
    """Without an adapter, a conversation's turns go to the server that has the earlier ones."""
    turns = [{"role": "user", "content": "abc"}]
    for reply in ("x", "y", "z"):
        await collect(engine, request(messages=turns))
        turns += [{"role": "assistant", "content": reply}, {"role": "user", "content": "go on"}]

    assert sorted(asked(servers)) == [0, 0, 3]


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500, "EngineCore encountered an issue", "InternalServerError"),
        refusal(503, "dead", "ServiceUnavailable"),
        refusal(429, "busy", "TooManyRequests"),
        JSONResponse({"error": "Unauthorized"}, status_code=401),
        refusal(400, f"LoRA adapter '{NAME}' was found but could not be loaded."),
    ],
    ids=["500", "503", "429", "401", "unloadable"],
)
async def test_another_server_answers(engine, home, fault):
    """What a server fails to answer, the next one answers, and the client sees nothing of it."""
    home[0].faults.append(fault)

    text, _ = await collect(engine, request("abc"), ADAPTER)

    assert text == f"[{NAME}] abc"
    assert asked(home) == [1, 1, 0]


async def test_unreachable_server(servers):
    """A server that is gone costs one refused connection, then nothing."""
    engine = VllmEngine(VllmOptions((NOWHERE, servers[0].url), BASE))
    gone, other = engine._fleet.servers
    texts = (f"abc {number}" for number in count())
    text = next(text for text in texts if rank(_beginning(request(text)), [gone, other])[0] is gone)

    for _ in range(3):
        assert (await collect(engine, request(text)))[0] == f"[base] {text}"

    assert [server.is_up for server in engine._fleet.servers] == [False, True]
    await engine.close()


async def test_no_server_at_all():
    """Without any server there is a clear error, and the engine isn't healthy."""
    engine = VllmEngine(VllmOptions((NOWHERE,), BASE))

    with pytest.raises(EngineUnreachable, match="try again"):
        await collect(engine, request("abc"))
    with pytest.raises(EngineUnreachable):
        await engine.ensure(ADAPTER)

    assert not engine.health().ok
    await engine.close()


async def test_an_answer_that_has_begun_is_not_asked_for_again(engine, home):
    """A server that dies in an answer ends it with an error; nobody hears half of it twice."""
    home[0].faults.append("died")
    deltas = engine.stream_chat(request("a b c d"), ADAPTER)

    assert (await anext(deltas)).text == f"[{NAME}]"
    with pytest.raises(EngineFailed, match="broke off"):
        async for _ in deltas:
            pass

    assert asked(home) == [1, 0, 0]


async def test_a_hung_server():
    """A server that says nothing is given up after the time set."""
    with served(VllmServer(delay_s=30)) as server:
        engine = VllmEngine(VllmOptions((server.url,), BASE, timeout_s=0.2))
        with pytest.raises(EngineFailed, match="said nothing in time"):
            await collect(engine, request("a b c"))
        await engine.close()


async def test_unknown_adapter(engine, servers):
    """An adapter that no server can get is refused when it should be loaded."""
    for server in servers:
        server.knows = lambda _: False

    with pytest.raises(InvalidAdapter, match=NAME):
        await engine.ensure(ADAPTER)
    with pytest.raises(InvalidAdapter, match=NAME):
        await collect(engine, request("abc"), ADAPTER)

    assert NAME not in engine.health().resident


async def test_wrong_model_name(servers):
    """A server that knows the base model by another name is the operator's fault, and says so."""
    engine = VllmEngine(VllmOptions((servers[0].url,), "org/other"))
    servers[0].knows = lambda _: False

    with pytest.raises(EngineFailed, match="set vllm_model"):
        await collect(engine, request("abc"))
    await engine.close()


async def test_key():
    """The key goes to the servers; without it they answer nothing."""
    with served(VllmServer(key="secret")) as server:
        good = VllmEngine(VllmOptions((server.url,), BASE, api_key="secret"))
        bad = VllmEngine(VllmOptions((server.url,), BASE))

        await collect(good, request("abc"))
        with pytest.raises(EngineFailed, match="set vllm_api_key"):
            await collect(bad, request("abc"))
        await good.close()
        await bad.close()


async def test_refused_request(engine, servers):
    """A fault of the request is told with its field, and no other server is bothered."""
    for server in servers:
        server.faults.append(refusal(400, "top_p must be in (0, 1].", param="top_p"))

    with pytest.raises(InvalidRequest, match="top_p must be") as caught:
        await collect(engine, request("abc", top_p=0.0))

    assert caught.value.param == "top_p"
    assert sum(asked(servers)) == 1


async def test_the_clients_limit_is_too_long():
    """A limit that the context can't hold is the client's fault; the default one gives way."""
    with served(VllmServer(max_model_len=100)) as server:
        engine = VllmEngine(VllmOptions((server.url,), BASE, max_tokens=512))

        with pytest.raises(PromptTooLong):
            await collect(engine, request("abc", max_tokens=101))
        text, _ = await collect(engine, request("abc", max_tokens=None))

        assert text == "[base] abc"
        assert "max_tokens" not in server.bodies[-1]
        await engine.close()


async def test_leaving_closes_the_request_upstream():
    """When a client leaves, vLLM is told, so that it stops writing."""
    with served(VllmServer(delay_s=0.02)) as server:
        engine = VllmEngine(VllmOptions((server.url,), BASE))
        deltas = engine.stream_chat(request("a b c " * 200, max_tokens=500), None)
        await anext(deltas)
        assert server.running == 1

        await deltas.aclose()

        await shows(lambda: server.running == 0)
        await engine.close()


async def test_full(servers):
    """More requests than the servers may be given are refused at once."""
    engine = VllmEngine(VllmOptions((servers[0].url,), BASE, max_in_flight=1))
    running = engine.stream_chat(request("a b c"), None)
    await anext(running)

    with pytest.raises(EngineBusy, match="try again"):
        await collect(engine, request("abc"))

    await running.aclose()
    await engine.close()


async def test_what_reaches_vllm(engine, servers):
    """Sampling fields arrive, vLLM's own too; ours, and what would touch others, don't."""
    sent = request(
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "a"}],
        top_k=5, min_tokens=2, structured_outputs={"choice": ["a"]}, n=2, seed=3, stop="x",
        cache_salt="acme:", t2l_description="d", user="u", metadata={"a": "b"},
        priority=-9, kv_transfer_params={"a": 1}, request_id="other", stream=False,
    )  # fmt: skip

    await collect(engine, sent)

    (body,) = [body for server in servers for body in server.bodies]
    assert body == {
        "model": BASE,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
        "temperature": 0, "max_tokens": 12, "top_k": 5, "min_tokens": 2, "n": 2, "seed": 3,
        "structured_outputs": {"choice": ["a"]}, "stop": ["x"], "cache_salt": "acme:",
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def test_defaults_of_the_router(engine, servers):
    """What a request leaves open is what the router's settings say, as with the local engine."""
    await collect(engine, request("a", temperature=None, max_tokens=None))

    (body,) = [body for server in servers for body in server.bodies]
    assert (body["temperature"], body["max_tokens"]) == (0.2, 512)


async def test_choices_and_logprobs(engine):
    """Several choices end one by one, with the tokens of all on the last; log probabilities too."""
    sent = request("b c", n=2, logprobs=True, top_logprobs=1)
    deltas = [delta async for delta in engine.stream_chat(sent, None)]

    ends = [delta for delta in deltas if delta.finish_reason]
    assert [delta.index for delta in ends] == [0, 1]
    assert ends[0].usage is None
    assert deltas[-1].usage.completion_tokens == 6
    logprobs = [one for delta in deltas if delta.index == 1 for one in delta.logprobs]
    assert "".join(one.text for one in logprobs) == "[base] b c"
    assert logprobs[0].data == b"[base]"
    assert logprobs[0].top[0].text == "[base]"


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "function": {"name": "f"}}])
async def test_tool_calls(engine, choice):
    """A call that comes in pieces is whole on the last delta, whatever vLLM says of its end."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]

    text, last = await collect(engine, request("a", tools=tools, tool_choice=choice))

    (call,) = last.tool_calls
    assert (text, last.finish_reason, call.name, call.arguments) == (
        "",
        "tool_calls",
        "f",
        '{"x": 0}',
    )


async def test_side_by_side_on_all_servers(engine, servers):
    """Under load every server gets work, and every answer is its own adapter's."""
    names = [AdapterId(f"t2l-{number:032x}") for number in range(40)]
    adapters = [AdapterRef(name, Elsewhere(name)) for name in names]

    answers = await asyncio.gather(*(collect(engine, request("abc"), ref) for ref in adapters))

    assert [text for text, _ in answers] == [f"[{name}] abc" for name in names]
    assert all(asked(servers))
