"""The LiteLLM provider over a server and in this process; what no engine does is played."""

import json
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # noqa: TID251 - else it asks the network

import litellm
import pytest
from litellm import exceptions

from integrations.litellm import T2LHook, T2LProvider, register
from tests.answers import answering, send
from tests.e2e.conftest import MODEL

# LiteLLM is full of what pydantic warns of; its warnings aren't ours to end.
pytestmark = pytest.mark.filterwarnings("ignore")

HELLO = [{"role": "user", "content": "one two"}]
FRENCH = "Translate to French"


@pytest.fixture(params=["http", "in_process"])
def call(request, echo, router, monkeypatch):
    """The arguments of every call."""
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    if request.param == "in_process":
        register(T2LProvider(router))
        return {"model": "t2l/echo", "messages": HELLO}
    register()
    return {"model": f"t2l/{MODEL}", "messages": HELLO, "api_base": echo.url}


def test_plain(call):
    """The answer, the counts, and which adapter served."""
    answer = litellm.completion(**call, t2l_description=FRENCH)

    assert answer.choices[0].message.content == f"[{answer.t2l['adapter']}] one two"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    assert litellm.completion(**call).t2l["decision"] == "base"


def test_examples(call):
    """Examples are a plain argument, too, and tell a task of their own."""
    shown = [{"input": "one two", "output": "un deux"}]
    by_examples = litellm.completion(**call, t2l_description=FRENCH, t2l_examples=shown)
    by_sentence = litellm.completion(**call, t2l_description=FRENCH)

    assert None is not by_examples.t2l["adapter"] != by_sentence.t2l["adapter"]


def test_extra_body(call):
    """``extra_body``, which other providers need, has the same effect."""
    plain = litellm.completion(**call, t2l_description=FRENCH)
    extra = litellm.completion(**call, extra_body={"t2l_description": FRENCH})
    assert extra.t2l["adapter"] == plain.t2l["adapter"]


def test_stream(call):
    """A stream adds up, its first chunk has the facts, and its last the counts if asked for."""
    chunks = list(
        litellm.completion(
            **call, t2l_description=FRENCH, stream=True, stream_options={"include_usage": True}
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == f"[{chunks[0].t2l['adapter']}] one two"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage.total_tokens == 5


async def test_asynchronous(call):
    """The asynchronous half gives the same."""
    plain = await litellm.acompletion(**call, t2l_description=FRENCH)
    stream = await litellm.acompletion(**call, t2l_description=FRENCH, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert text == plain.choices[0].message.content


def test_parameters():
    """OpenAI's parameters arrive under their own names, and the key as a bearer token."""
    seen = {}

    def note(handler, body):
        seen.update(json.loads(body), key=handler.headers["authorization"])
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
        send(handler, 200, json.dumps({"model": "m", "choices": [choice]}).encode())

    register()
    with answering(note) as url:
        litellm.completion(
            model="t2l/t2l:base",
            messages=HELLO,
            api_base=f"{url}/v1",
            api_key="sk-1",
            temperature=0,
            max_tokens=7,
            seed=3,
            stop=["x"],
            response_format={"type": "json_object"},
            t2l_required=True,
        )

    assert seen == {
        "model": "t2l:base",
        "messages": HELLO,
        "temperature": 0,
        "max_tokens": 7,
        "seed": 3,
        "stop": ["x"],
        "response_format": {"type": "json_object"},
        "t2l_required": True,
        "stream": False,
        "key": "Bearer sk-1",
    }


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", exceptions.BadRequestError),
        (400, "context_length_exceeded", exceptions.ContextWindowExceededError),
        (401, "invalid_api_key", exceptions.AuthenticationError),
        (403, None, exceptions.PermissionDeniedError),
        (404, "model_not_found", exceptions.NotFoundError),
        (408, None, exceptions.Timeout),
        (413, "request_too_large", exceptions.BadRequestError),
        (422, None, exceptions.UnprocessableEntityError),
        (429, "engine_busy", exceptions.RateLimitError),
        (500, None, exceptions.InternalServerError),
        (502, None, exceptions.BadGatewayError),
        (503, "adapter_unavailable", exceptions.ServiceUnavailableError),
        (504, None, exceptions.Timeout),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(status, code, kind, stream):
    """Every refusal is LiteLLM's error of that kind, with our message."""
    body = json.dumps({"error": {"message": "why", "type": "t", "param": None, "code": code}})
    register()

    def ask(url):
        return list(litellm.completion(model="t2l/m", messages=HELLO, api_base=url, stream=stream))

    with (
        answering(lambda handler, _: send(handler, status, body.encode(), retry_after="7")) as url,
        pytest.raises(kind, match="why") as caught,
    ):
        ask(url)

    assert type(caught.value) is kind
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "7.0"


def test_unreachable():
    """Where nobody listens the error says what to do."""
    register()
    with pytest.raises(exceptions.APIConnectionError, match="t2l serve"):
        litellm.completion(model="t2l/m", messages=HELLO, api_base="http://127.0.0.1:1")


def test_router_falls_back(echo):
    """LiteLLM's own router leaves a dead server for a living one."""
    register()
    router = litellm.Router(
        model_list=[
            {
                "model_name": name,
                "litellm_params": {"model": f"t2l/{MODEL}", "api_base": url},
            }
            for name, url in (("dead", "http://127.0.0.1:1"), ("alive", echo.url))
        ],
        fallbacks=[{"dead": ["alive"]}],
        num_retries=0,
    )
    answer = router.completion(model="dead", messages=HELLO, t2l_description=FRENCH)
    assert answer.t2l["adapter"]


@pytest.mark.parametrize(
    ("headers", "data", "description"),
    [
        ({"x-t2l-description": "%C3%9Cbersetze"}, {}, "Übersetze"),
        ({"x-t2l-description": "header"}, {"t2l_description": "body"}, "body"),
        ({}, {}, None),
    ],
)
async def test_hook(headers, data, description):
    """The header's task becomes the body's, unless the body has one."""
    request = {"model": "m", "proxy_server_request": {"headers": headers}} | data
    given = await T2LHook().async_pre_call_hook(None, None, request, "completion")
    assert given.get("t2l_description") == description


async def test_hook_for_some_models():
    """Other models' requests are left alone."""
    headers = {"x-t2l-description": "d", "x-t2l-session": "s"}
    request = {"proxy_server_request": {"headers": headers}}
    hook = T2LHook(frozenset({"adapted"}))

    ours = await hook.async_pre_call_hook(None, None, request | {"model": "adapted"}, "completion")
    other = await hook.async_pre_call_hook(None, None, request | {"model": "gpt"}, "completion")
    assert (ours["t2l_description"], ours["t2l_session"]) == ("d", "s")
    assert other == request | {"model": "gpt"}
