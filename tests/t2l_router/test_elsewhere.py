"""Models that are not here, and an engine that can't answer: upstreams, by litellm."""

import inspect
from collections.abc import AsyncGenerator

import httpx
import openai
import pytest
from click.testing import CliRunner
from litellm import exceptions

from t2l_router.assembly import build_elsewhere
from t2l_router.cli import config
from t2l_router.config import Settings, load
from t2l_router.engines.base import Delta, EngineHealth
from t2l_router.engines.echo import EchoEngine
from t2l_router.engines.upstream import error_of
from t2l_router.errors import ConfigError, EngineBusy, EngineError, EngineFailed, RequestError
from t2l_router.faults import fault_of
from tests.e2e.conftest import serve
from tests.e2e.test_streaming import wait_until
from tests.routers import MODEL, echo_router

# LiteLLM is full of what pydantic warns of; its warnings aren't ours to end.
pytestmark = pytest.mark.filterwarnings("ignore")

HELLO = [{"role": "user", "content": "one two three"}]


class Heard(EchoEngine):
    """An upstream that remembers what it was asked, or fails."""

    def __init__(self):
        super().__init__()
        self.requests = []
        self.error = None
        self.breaks_after = None

    async def stream_chat(self, request, adapter) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        n = 0
        async for delta in super().stream_chat(request, adapter):
            yield delta
            n += 1
            if n == self.breaks_after:
                raise EngineFailed("broke")


class Broken(EchoEngine):
    """Our own engine, which can't answer."""

    def __init__(self):
        super().__init__()
        self.ok = True
        self.error = EngineBusy("full")

    async def stream_chat(self, request, adapter) -> AsyncGenerator[Delta, None]:
        raise self.error
        yield

    def health(self):
        return EngineHealth(ok=self.ok, running=0, waiting=0, resident=())


@pytest.fixture(scope="module", name="there")
def _there():
    """Another t2l, whose model is `MODEL`."""
    with serve(Heard()) as served:
        yield served


@pytest.fixture(name="heard")
def _heard(there):
    there.engine.requests.clear()
    there.engine.error = there.engine.breaks_after = None
    return there.engine


def options(there, **more):
    upstream = {
        "name": "far", "model": f"openai/{MODEL}", "api_base": f"{there.url}/v1", "api_key": "sk-1"
    }  # fmt: skip
    return {"upstreams": [upstream], "upstream_timeout_s": 20} | more


@pytest.fixture(name="here")
def _here(there, heard):
    """Our server, in front of it, with a sound engine."""
    with serve(EchoEngine(), ready=False) as served:
        served.readiness.finish(echo_router(engine=served.engine, **options(there)))
        yield served


@pytest.fixture(name="standing_in")
def _standing_in(there, heard):
    """Our server with an engine that can't answer, and a stand-in."""
    with serve(Broken(), ready=False) as served:
        router = echo_router(engine=served.engine, **options(there, stand_in="far"))
        served.readiness.finish(router)
        yield served


@pytest.mark.parametrize("stream", [False, True])
def test_model_elsewhere(here, heard, stream):
    """A model that isn't here is answered by its upstream, and the answer says so."""
    answer = here.post(model="far", stream=stream, t2l_description="Translate", temperature=0.5)

    assert answer.is_success, answer.text
    assert answer.headers["x-t2l-decision"] == "base"
    assert "upstream" in answer.headers["x-t2l-reason"]
    (asked,) = heard.requests
    assert (asked.model, asked.temperature, asked.messages[0].content) == (
        MODEL, 0.5, "one two three",
    )  # fmt: skip
    if not stream:
        body = answer.json()
        assert body["choices"][0]["message"]["content"] == "[base] one two three"
        assert (body["model"], body["usage"]["total_tokens"]) == ("far", 7)
        assert (body["t2l"]["adapter"], body["system_fingerprint"]) == (None, "fp_upstream")


def test_our_fields_stay_here(here, heard):
    """Nothing of ours leaves: no description, session, salt or field that nobody knows."""
    here.post(
        model="far", t2l_description="Secret task", t2l_session="s", cache_salt="salt", user="me",
        metadata={"a": "b"}, top_k=3, unknown_field="x", store=True,
    )  # fmt: skip

    (asked,) = heard.requests
    sent = asked.model_dump(exclude_none=True)
    # The salt is what the other t2l makes of its own tenant.
    assert set(sent) - {"cache_salt"} <= {"messages", "model", "stream", "stream_options"}
    assert sent["cache_salt"] == "local:"


@pytest.mark.parametrize("stream", [False, True])
def test_same_answer_as_directly(here, there, stream):
    """Choices, log probabilities, tools and JSON come through as from the upstream itself."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    for fields in (
        {"n": 2},
        {"logprobs": True, "top_logprobs": 1},
        {"tools": [tool], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 2},
    ):
        found = [
            told(served, model, fields, stream=stream)
            for served, model in ((here, "far"), (there, MODEL))
        ]
        assert found[0] == found[1], fields


def told(served, model, fields, *, stream):
    """The choices of an answer, in one form for both ways."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0)
    asked = {"model": model, "messages": HELLO} | fields
    if not stream:
        choices = client.chat.completions.create(**asked).choices
        return [
            (c.message.content, c.finish_reason, calls(c.message.tool_calls), c.logprobs)
            for c in choices
        ]
    texts, ends = {}, {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    return texts, ends


def calls(found):
    # The echo makes a call's id of the request, which holds the model's name.
    return [(len(call.id), call.function.name, call.function.arguments) for call in found or ()]


def test_listed(here):
    """The upstream's name is among the models, and explain knows it."""
    names = [card["id"] for card in httpx.get(f"{here.url}/v1/models").json()["data"]]
    body = {"model": "far", "messages": HELLO}
    explained = httpx.post(f"{here.url}/v1/t2l/explain", json=body).json()

    assert names[-1] == "far"
    assert httpx.get(f"{here.url}/v1/models/far").is_success
    assert explained["decision"] == "base"


def test_unknown_model_stays_unknown(here, heard):
    """A model that is nowhere is refused here."""
    assert here.post(model="nowhere").status_code == 404
    assert heard.requests == []


def test_adapter_can_not_be_insisted_on(here):
    """An upstream has no adapters: a request that insists on one is told."""
    answer = here.post(model="far", t2l_required=True, t2l_description="Translate")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "t2l_required")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineBusy("full"), 429), (RequestError("no"), 400), (RuntimeError("secret"), 502)],
)
def test_errors_come_through(here, heard, error, status, stream):
    """What the upstream refuses or breaks at has the status that fits, and no inner words."""
    heard.error = error
    answer = here.post(model="far", stream=stream)

    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text
    assert "sk-1" not in answer.text


def test_upstream_away(there):
    """An upstream that nobody hears is a 502, and says nothing of its address."""
    away = options(there)
    away["upstreams"][0]["api_base"] = "http://127.0.0.1:9/v1"
    with serve(EchoEngine(), ready=False) as served:
        served.readiness.finish(echo_router(engine=served.engine, **away))
        answer = served.post(model="far")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert "127.0.0.1" not in answer.text


def test_client_that_leaves(here, heard):
    """An upstream stops when the client goes away."""
    heard._delay_s = 0.1
    body = {"model": "far", "stream": True, "messages": [{"role": "user", "content": "a " * 300}]}
    try:
        with httpx.stream("POST", f"{here.url}/v1/chat/completions", json=body) as response:
            next(response.iter_raw())
            assert heard.health().running == 1
        wait_until(lambda: heard.health().running == 0)
    finally:
        heard._delay_s = 0.0


def test_stream_that_breaks(here, heard):
    """An upstream that breaks within a stream ends it with an error event, without DONE."""
    heard.breaks_after = 2
    answer = here.post(model="far", stream=True)

    assert answer.status_code == 200
    assert "upstream_failed" in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("why", ["busy", "failed", "unwell"])
def test_stand_in(standing_in, heard, why, stream):
    """Where our engine can't answer an upstream does, and the answer says why."""
    standing_in.engine.ok = why != "unwell"
    standing_in.engine.error = EngineFailed("x") if why == "failed" else EngineBusy("full")
    answer = standing_in.post(stream=stream, t2l_description="Translate")

    assert answer.is_success, answer.text
    assert answer.headers["x-t2l-adapter"] == "base"
    assert "stands in" in answer.headers["x-t2l-reason"]
    assert len(heard.requests) == 1


def test_stand_in_for_no_nonsense(standing_in, heard):
    """The stand-in gets no request that is wrong, nor one that insists on an adapter."""
    standing_in.engine.ok = False

    assert standing_in.post(model="nowhere").status_code == 404
    assert standing_in.post(t2l_required=True, t2l_description="Translate").status_code == 429
    assert heard.requests == []


def test_slow_engine_is_left_to_work(there, heard):
    """An engine that thinks for long answers itself."""
    with serve(EchoEngine(first_delay_s=1.3), ready=False) as served:
        router = echo_router(engine=served.engine, **options(there, stand_in="far"))
        served.readiness.finish(router)
        answer = served.post()

    assert answer.json()["choices"][0]["message"]["content"] == "[base] one two three"
    assert "stands in" not in answer.headers["x-t2l-reason"]
    assert heard.requests == []


def every_error():
    """Each class of litellm's errors."""
    return [
        kind
        for _, kind in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
    ]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_status(kind):
    """Each error that litellm knows becomes one of ours, never a 500, and keeps its words."""
    error = error_of("far", kind.__new__(kind))
    fault, body = fault_of(error)

    assert isinstance(error, EngineError | RequestError)
    assert fault.status in (400, 429, 502, 504)
    assert "far" in body.error.message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"upstreams": [{"name": "a", "model": "openai/x"}] * 2}, "same name"),
        ({"stand_in": "b", "upstreams": [{"name": "a", "model": "openai/x"}]}, "no upstream"),
        ({"stand_in": "b"}, "no upstream"),
        ({"upstreams": [{"name": MODEL, "model": "openai/x"}]}, "our own"),
        ({"upstreams": [{"name": "t2l:a", "model": "openai/x"}]}, "our own"),
    ],
)
def test_bad_settings(given, says):
    """Upstreams that contradict each other are refused at the start."""
    with pytest.raises(ConfigError, match=says):
        build_elsewhere(Settings(**given), (MODEL,))


def test_keys_stay_out_of_errors():
    """A wrong upstream is named without the key that was given."""
    with pytest.raises(ConfigError) as caught:
        load({"upstreams": [{"name": "a", "api_key": "sk-secret"}]})

    assert "model" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_shown_without_keys(monkeypatch):
    """``t2l config`` shows upstreams by their names, and no key in either form."""
    monkeypatch.setenv("T2L_UPSTREAMS", '[{"name": "a", "model": "b/c", "api_key": "sk-secret"}]')
    table = CliRunner().invoke(config.command, []).output
    lines = CliRunner().invoke(config.command, ["--format", "json"]).output

    assert "upstreams\ta\tT2L_UPSTREAMS" in table
    assert "b/c" in lines
    assert "sk-secret" not in table + lines


def test_none_set():
    """Without upstreams nothing is imported."""
    assert build_elsewhere(Settings()) is None
