"""The client against servers that fail, and both clients side by side."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import aclosing, closing, contextmanager

import pytest

from t2l_router.client import HttpClient
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import CallRefused, ServerTimeout, ServerUnreachable
from t2l_router.inprocess import InProcessClient
from tests.answers import answering, send
from tests.e2e.conftest import MODEL, serve
from tests.routers import echo_router

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
ERROR = {"error": {"message": "not now", "type": "t", "param": "p", "code": "c"}}


@pytest.fixture(scope="module")
def http():
    with serve(EchoEngine()) as served, closing(HttpClient(served.url)) as client:
        yield client


@pytest.fixture(scope="module")
def in_process():
    router = echo_router(engine=EchoEngine())
    with closing(InProcessClient(router)) as client:
        yield client


@pytest.fixture(params=["http", "in_process"])
def client(request):
    return request.getfixturevalue(request.param)


@contextmanager
def facing(answer, **options):
    """A client of a server that answers as *answer* does."""
    with answering(answer) as url, closing(HttpClient(url, **options)) as client:
        yield client


def text_of(chunks) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_plain_and_streamed(client):
    """A stream adds up to the plain answer, and both carry the facts."""
    body = HELLO | {"t2l_description": "Count the words"}
    plain = client.chat(body)
    chunks = list(client.stream(body))

    assert plain["choices"][0]["message"]["content"] == text_of(chunks)
    assert plain["t2l"]["adapter"] == chunks[0]["t2l"]["adapter"]
    assert client.models()[0] == MODEL


async def test_asynchronous(client):
    """What works in a thread works on an event loop, plain and streamed."""
    plain = await client.achat(HELLO)
    async with aclosing(client.astream(HELLO)) as chunks:
        text = text_of([chunk async for chunk in chunks])

    assert text == plain["choices"][0]["message"]["content"] == "[base] one two three"
    assert (await client.amodels())[0] == MODEL
    if isinstance(client, HttpClient):
        await client.aclose()


def test_several_event_loops(client):
    """A client outlives the event loops that used it."""

    async def ask() -> str:
        answer = await client.achat(HELLO)
        if isinstance(client, HttpClient):
            await client.aclose()
        return answer["choices"][0]["message"]["content"]

    assert asyncio.run(ask()) == asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True])
def test_refused(client, stream):
    """A refusal carries status, code and field, the same either way."""
    with pytest.raises(CallRefused, match="no model 'x'") as caught:
        _ = (
            list(client.stream({**HELLO, "model": "x"}))
            if stream
            else client.chat({**HELLO, "model": "x"})
        )

    refused = caught.value
    assert (refused.status, refused.code, refused.param) == (404, "model_not_found", "model")


def test_break_off(in_process):
    """A stream that is broken off frees what it holds, also for an asynchronous reader."""
    for chunk in in_process.stream(HELLO):
        assert chunk["object"] == "chat.completion.chunk"
        break

    async def broken() -> None:
        async with aclosing(in_process.astream(HELLO)) as chunks:
            await anext(chunks)

    asyncio.run(broken())
    assert in_process._router.health().running == 0


def test_cancelled_while_waiting():
    """A reader that is cancelled while it waits ends the answer at once."""
    router = echo_router(engine=EchoEngine(first_delay_s=30))

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), aclosing(client.astream(HELLO)) as chunks:
                await anext(chunks)

    with closing(InProcessClient(router)) as client:
        start = time.monotonic()
        asyncio.run(cancelled())
        assert time.monotonic() - start < 5
        assert router.health().running == 0


def test_unreachable():
    """Where nobody listens the error names the address and what to do."""
    client = HttpClient("http://127.0.0.1:1", max_retries=0)
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1/v1.*t2l serve"):
        client.chat(HELLO)


def test_timeout():
    """A silent server is a timeout, and is not asked again."""
    asked = []

    def silent(handler, body):
        asked.append(body)
        time.sleep(0.5)
        handler.close_connection = True

    with (
        facing(silent, timeout_s=0.1) as client,
        pytest.raises(ServerTimeout, match="did not answer in time"),
    ):
        client.chat(HELLO)
    assert len(asked) == 1


@pytest.mark.parametrize("way", ["chat", "stream", "achat", "astream"])
def test_retries(way):
    """A busy server is asked again after the time it names, whichever way."""
    asked = []

    def busy_twice(handler, body):
        asked.append(json.loads(body))
        if len(asked) < 3:
            send(handler, 429, json.dumps(ERROR).encode(), retry_after="0")
        elif asked[-1]["stream"]:
            send(handler, 200, b'data: {"choices": []}\n\ndata: [DONE]\n\n')
        else:
            send(handler, 200, b'{"choices": []}')

    async def ask(client):
        if way == "achat":
            answer = await client.achat(HELLO)
        else:
            (answer,) = [chunk async for chunk in client.astream(HELLO)]
        await client.aclose()
        return answer

    with facing(busy_twice) as client:
        if way.startswith("a"):
            answer = asyncio.run(ask(client))
        else:
            answer = client.chat(HELLO) if way == "chat" else next(client.stream(HELLO))

    assert answer == {"choices": []}
    assert len(asked) == 3


def test_retries_end():
    """After the last attempt the server's own words come through, with its request id."""

    def busy(handler, _):
        send(handler, 503, json.dumps(ERROR).encode(), retry_after="0", x_request_id="r1")

    with (
        facing(busy, max_retries=1) as client,
        pytest.raises(CallRefused, match="not now") as caught,
    ):
        client.chat(HELLO)

    refused = caught.value
    assert (refused.status, refused.code, refused.param) == (503, "c", "p")
    assert (refused.request_id, refused.retry_after_s) == ("r1", 0.0)


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (b'data: {"choices": []}\n\n', ServerUnreachable, "before the answer's end"),
        (
            b'data: {"choices": []}\n\ndata: ' + json.dumps(ERROR).encode() + b"\n\n",
            CallRefused,
            "not now",
        ),
    ],
)
def test_broken_stream(sent, error, words):
    """What breaks after the first chunk is an error, and isn't asked for again."""
    asked = []

    def answer(handler, body):
        asked.append(body)
        send(handler, 200, sent)

    got = []
    with facing(answer) as client, pytest.raises(error, match=words):
        got.extend(client.stream(HELLO))
    assert (len(asked), got) == (1, [{"choices": []}])


@pytest.mark.parametrize("status", [200, 502])
def test_no_api(status):
    """Another kind of server is told apart from ours."""
    with (
        facing(lambda handler, _: send(handler, status, b"<html>"), max_retries=0) as client,
        pytest.raises(CallRefused, match="the address of a t2l server"),
    ):
        client.chat(HELLO)


def test_first_chunk_is_not_held_back():
    """A chunk is passed on when it comes, not when more have come."""
    released = threading.Event()

    def two_chunks(handler, body):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b'data: {"choices": [], "n": 1}\n\n')
        released.wait(10)
        handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    with facing(two_chunks) as client, closing(client.stream(HELLO)) as chunks:
        assert next(chunks)["n"] == 1
        released.set()
        assert list(chunks) == []


def test_key_and_headers():
    """The key is a bearer token; other headers are sent as given."""
    seen = {}

    def note(handler, _):
        seen.update(handler.headers)
        send(handler, 200, b"{}")

    with facing(note, api_key="sk-1", headers={"X-T": "y"}) as client:
        client.chat(HELLO)

    assert (seen["authorization"], seen["X-T"]) == ("Bearer sk-1", "y")


def test_lean():
    """The client needs neither FastAPI nor torch."""
    code = "import sys, t2l_router.client; print({'torch', 'fastapi', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
