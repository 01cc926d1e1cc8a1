import contextlib
import json
import logging
import socket
import time

import httpx
import pytest

from t2l_router import wire
from t2l_router.engines.base import Delta
from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import EngineFailed
from tests.e2e.conftest import MODEL, serve

MESSAGES = [{"role": "user", "content": "one two three four"}]


def stream(served, **body):
    """Open a streamed answer."""
    chat = {"model": MODEL, "messages": MESSAGES, "stream": True} | body
    return httpx.stream("POST", f"{served.url}/v1/chat/completions", json=chat, timeout=30)


def events(response) -> list[str]:
    """The data of all events."""
    decoder = wire.SseDecoder()
    return [data for received in response.iter_bytes() for data in decoder.feed(received)]


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "fields",
    [{}, {"max_tokens": 2}, {"stop": "three"}, {"t2l_description": "Count"}, {"max_tokens": 1}],
)
def test_stream_and_plain_are_the_same(echo, fields):
    """A streamed answer is the plain one, cut into pieces."""
    echo.post(messages=MESSAGES, **fields)  # so that both find the adapter
    plain = echo.post(messages=MESSAGES, **fields).json()
    with stream(echo, stream_options={"include_usage": True}, **fields) as response:
        *chunks, done = events(response)

    chunks = [json.loads(chunk) for chunk in chunks]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    (choice,) = plain["choices"]
    assert done == "[DONE]"
    assert "".join(c["delta"].get("content", "") for c in choices) == choice["message"]["content"]
    assert choices[-1]["finish_reason"] == choice["finish_reason"]
    assert [c["finish_reason"] for c in choices[:-1]] == [None] * (len(choices) - 1)
    assert chunks[-1]["usage"] == plain["usage"]
    own = {"timing_ms": 0, "trace": ""}
    assert chunks[0]["t2l"] | own == plain["t2l"] | own
    assert {key: response.headers[key] for key in ("x-t2l-adapter", "x-t2l-decision")} == {
        "x-t2l-adapter": plain["t2l"]["adapter"] or "base",
        "x-t2l-decision": plain["t2l"]["decision"],
    }


def test_required_fields(echo):
    """A plain answer has every field that OpenAI's specification requires."""
    answer = echo.post().json()

    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer)
    (choice,) = answer["choices"]
    assert set(choice) == {"index", "message", "finish_reason", "logprobs"}
    assert set(choice["message"]) == {"role", "content", "refusal", "annotations"}


def test_keep_alive(slow_echo):
    """While nothing comes, comments keep proxies from closing the stream."""
    with stream(slow_echo) as response:
        received = b"".join(response.iter_bytes())

    assert received.count(wire.KEEP_ALIVE) >= 3
    assert received.endswith(b"data: [DONE]\n\n")


def test_text_comes_as_it_is_made(slow_echo):
    """The first words are there long before the last."""
    start = time.monotonic()
    with stream(slow_echo) as response:
        seen = [
            time.monotonic() - start
            for received in response.iter_bytes()
            if b'"content":' in received and b'"content":""' not in received
        ]

    assert len(seen) >= 4
    assert seen[-1] - seen[0] > 0.25


@pytest.mark.parametrize("streamed", [True, False])
def test_client_goes_away(slow_echo, streamed):
    """A client that goes away frees the engine, whichever kind of answer it asked for."""
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(
            f"{slow_echo.url}/v1/chat/completions",
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": "word " * 1_000}],
                "stream": streamed,
            },
            timeout=httpx.Timeout(5, read=0.02),
        )

    wait_until(lambda: slow_echo.engine.health().running == 0, 1.0)


class BreakingEngine(EchoEngine):
    """Says one word and breaks."""

    def __init__(self, error, *, words=1):
        super().__init__()
        self.error = error
        self.words = words

    async def stream_chat(self, request, adapter):
        for _ in range(self.words):
            yield Delta("word")
        raise self.error


def test_error_in_a_stream():
    """After the first byte an error is an event, and no [DONE] follows."""
    with serve(BreakingEngine(EngineFailed("out of memory"))) as served, stream(served) as response:
        *_, last = events(response)

    assert response.status_code == 200
    assert json.loads(last)["error"]["message"] == "out of memory"


def test_bug_in_a_stream():
    """What went wrong inside is for the log alone."""
    with serve(BreakingEngine(KeyError("/srv/secret"))) as served, stream(served) as response:
        *_, last = events(response)

    assert "internal error" in json.loads(last)["error"]["message"]
    assert "secret" not in last


@pytest.mark.parametrize("streamed", [True, False])
def test_error_before_the_first_piece(streamed):
    """An error that comes before any text has a status of its own, streamed or not."""
    with serve(BreakingEngine(EngineFailed("out of memory"), words=0)) as served:
        answer = served.post(stream=streamed)

    assert (answer.status_code, answer.json()["error"]["message"]) == (502, "out of memory")


def test_busy():
    """A full engine answers 429 and says when to come again."""
    with serve(EchoEngine(max_running=0)) as served:
        answer = served.post(stream=True)

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"


def test_loading():
    """While models load the server lives but isn't ready, and says what it waits for."""
    with serve(EchoEngine(), ready=False) as served:
        served.readiness.enter("loading the base model")
        live = httpx.get(f"{served.url}/health/live")
        ready = httpx.get(f"{served.url}/health/ready")
        chat = served.post()

    assert live.json() == {"status": "ok"}
    assert ready.status_code == 503
    assert ready.json() == {"status": "unavailable", "phase": "loading the base model"}
    assert chat.status_code == 503
    assert chat.json()["error"]["message"] == "not ready: loading the base model"
    assert chat.headers["retry-after"] == "2"


def test_ready(echo):
    """A server that can chat says so."""
    answer = httpx.get(f"{echo.url}/health/ready")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "phase": "ready"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/t2l/explain", "/v1/embeddings"])
def test_client_leaves_before_the_body(echo, caplog, path):
    """A client that announces a body and leaves is no error, and the next one is served."""
    host, port = echo.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for _ in range(5):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}content-length: 1000\r\n\r\nabc".encode())
    time.sleep(0.3)

    assert echo.post().is_success
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
