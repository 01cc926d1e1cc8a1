"""Whatever is sent, the answer is a 4xx in OpenAI's error shape that says what to do."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2l_router.engines.echo import EchoEngine
from tests.e2e.conftest import MAX_BODY_BYTES, MODEL, serve

JSON = {"content-type": "application/json"}
PATH = "/v1/chat/completions"


def exchange(echo, body: bytes, headers=None, method="POST", path=PATH):
    """Send raw bytes, as no well-behaved client would."""
    connection = http.client.HTTPConnection(urlsplit(echo.url).netloc, timeout=30)
    try:
        connection.request(method, path, body, JSON if headers is None else headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def chat(**fields) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps(body | fields).encode()


def error_of(status, headers, body) -> dict:
    """The error, after checking that it is in OpenAI's shape."""
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]
    document = json.loads(body)
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return error


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"", 400, None, "not JSON"),
        (b"hello", 400, None, "not JSON"),
        (b"\xff\xfe\x00", 400, None, "not JSON"),
        (b'{"model": "\xc3\x28"}', 400, None, "not JSON"),
        (b"[" * 500_000, 400, None, "not JSON"),
        (b'{"a":' * 100_000, 400, None, "not JSON"),
        (b"1" + b"0" * 500_000, 400, None, "not JSON"),
        (b"null", 400, None, "object"),
        (b"{}", 400, "messages", "required"),
        (chat(messages=[]), 400, "messages", "at least 1"),
        (chat(model=7), 400, "model", "string"),
        (chat(model="nobody/nothing"), 404, "model", MODEL),
        (chat(model="t2l:../../etc/passwd"), 404, "model", "no adapter"),
        (chat(model="a\r\nSet-Cookie: x=1"), 404, "model", "no model"),
        (chat(temperature=float("nan")), 400, "temperature", "finite"),
        (chat(temperature=float("inf")), 400, "temperature", "finite"),
        (chat(temperature="0.5"), 400, "temperature", "number"),
        (chat(max_tokens=-1), 400, "max_tokens", "greater"),
        (chat(seed=10**30), 400, "seed", "less"),
        (chat(t2l_description=""), 400, "t2l_description", "empty"),
        (chat(t2l_description="   "), 400, "t2l_description", "empty"),
        (chat(t2l_description="!!!"), 400, "t2l_description", "no word"),
        (chat(t2l_description="a" * 4_001), 400, "t2l_description", "4,001"),
        (chat(t2l_description="a" * 100_000), 400, "t2l_description", "100,000"),
        (chat(t2l_description=["a"]), 400, "t2l_description", "not list"),
        (chat(t2l_description={"a": 1}), 400, "t2l_description", "not dict"),
        (chat(t2l_description=1.5), 400, "t2l_description", "not float"),
        (chat(t2l_description="a\x00b"), 400, "t2l_description", "control"),
        (chat(t2l_required=True), 400, "t2l_required", "needs a task"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, None, "1,048,576 bytes"),
    ],
)
def test_bad_body(echo, body, status, param, says):
    """A bad body is the caller's fault, by status, field and words."""
    got, headers, answer = exchange(echo, body)

    error = error_of(got, headers, answer)
    assert (got, error["param"]) == (status, param)
    assert says in error["message"]
    assert "\r" not in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    ("header", "says"),
    [("", "empty"), ("%20", "empty"), ("...", "no word"), ("a" * 4_001, "4,001")],
)
def test_bad_description_header(echo, header, says):
    """A bad description in the header is told as such."""
    got, headers, answer = exchange(echo, chat(), JSON | {"X-T2L-Description": header})

    error = error_of(got, headers, answer)
    assert (got, error["param"]) == (400, "X-T2L-Description")
    assert says in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", PATH, JSON, 405),
        ("PUT", PATH, JSON, 405),
        ("POST", "/v1/nothing", JSON, 404),
        ("GET", "/../../etc/passwd", JSON, 404),
        ("GET", "/v1/models/%2e%2e%2f", JSON, 404),
        ("GET", "/v1/models/" + "x" * 5_000, JSON, 404),
        ("POST", PATH, {}, 415),
        ("POST", PATH, {"content-type": "text/plain"}, 415),
        ("POST", PATH, {"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_wrong_door(echo, method, path, headers, status):
    """Wrong methods, paths and content types have our error shape too."""
    got, received, answer = exchange(echo, chat(), headers, method, path)

    error_of(got, received, answer)
    assert got == status


def test_json_with_charset(echo):
    """A charset parameter is no reason to refuse JSON."""
    status, _, _ = exchange(echo, chat(), {"content-type": "application/json; charset=utf-8"})

    assert status == 200


def test_connection_survives(echo):
    """A bad request doesn't cost the client its connection."""
    connection = http.client.HTTPConnection(urlsplit(echo.url).netloc, timeout=30)
    for body, status in ((b"no", 400), (chat(), 200), (b"no", 400), (chat(), 200)):
        connection.request("POST", PATH, body, JSON)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "temperature",
        "stop",
        "stream",
        "stream_options",
        "max_tokens",
        "seed",
        "logit_bias",
        "t2l_description",
        "t2l_adapter",
        "t2l_session",
        "t2l_required",
        "n",
        "tools",
        "metadata",
        "response_format",
        "user",
        "x",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text"]) | st.text(max_size=5),
            children,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_never_a_server_error(echo, fields):
    """No JSON body whatsoever gets a 5xx."""
    status, headers, body = exchange(echo, chat(**fields))

    assert status < 500, body
    if status != 200:
        error_of(status, headers, body)


def test_strict_everywhere():
    """A strict server refuses what nobody knows wherever requests come, and takes all else."""
    said = [{"role": "user", "content": "hi"}]
    routes = [
        (PATH, {"messages": said, "t2l_description": "Be brief."}),
        ("/v1/completions", {"prompt": "hi", "t2l_description": "Be brief.", "n": 1}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/t2l/explain", {"messages": said, "t2l_description": "Be brief."}),
    ]
    with serve(EchoEngine(), strict=True) as served:
        for path, body in routes:
            known = json.dumps({"model": MODEL, **body}).encode()
            unknown = json.dumps({"model": MODEL, "min_tokens": 3, **body}).encode()

            assert exchange(served, known, path=path)[0] == 200, path
            answer = exchange(served, unknown, path=path)
            assert (answer[0], error_of(*answer)["param"]) == (400, "min_tokens"), path
