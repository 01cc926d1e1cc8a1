"""A LiteLLM Proxy in front of our server, with the configuration that we give as an example."""

import openai
import pytest

from tests.e2e.program import ROOT, serving
from tests.integrations.litellm_proxy import KEY, proxy

# LiteLLM is full of what pydantic warns of; its warnings aren't ours to end.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HELLO = [{"role": "user", "content": "one two"}]
TASK = {"t2l_description": "Translate to French"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    config = ROOT / "examples" / "litellm_proxy" / "config.yaml"
    with serving("--engine", "echo", cwd=tmp_path_factory.mktemp("server")) as server:
        server.wait_ready()
        base = {"T2L_BASE_URL": f"{server.url}/v1", "T2L_API_KEY": "unused"}
        with (
            proxy(config, **base) as url,
            openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client,
        ):
            yield client


def ask(client, model, **given):
    return client.chat.completions.create(model=model, messages=HELLO, **given)


def text_of(chunks) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@pytest.mark.parametrize("model", ["smollm2", "explained"])
def test_description_in_the_body(client, model):
    """A description passes through, and the answer's facts come back."""
    base = ask(client, model)
    adapted = ask(client, model, extra_body=TASK)

    assert base.choices[0].message.content == "[base] one two"
    assert adapted.choices[0].message.content == f"[{adapted.t2l['adapter']}] one two"
    assert adapted.usage.total_tokens == 5


@pytest.mark.parametrize("model", ["smollm2", "explained"])
def test_description_in_the_header(client, model):
    """The hook makes the header count, also percent-encoded."""
    body = ask(client, model, extra_body={"t2l_description": "Über alles"})
    header = ask(client, model, extra_headers={"X-T2L-Description": "%C3%9Cber alles"})
    assert header.t2l["adapter"] == body.t2l["adapter"]


def test_one_alias_one_task(client):
    """An alias may have a task of its own; a caller's wins."""
    alias, own = ask(client, "emotions"), ask(client, "emotions", extra_body=TASK)
    assert None is not alias.t2l["adapter"] != own.t2l["adapter"]
    assert own.t2l["adapter"] == ask(client, "smollm2", extra_body=TASK).t2l["adapter"]


@pytest.mark.parametrize("model", ["smollm2", "explained"])
def test_stream(client, model):
    """A stream adds up to the plain answer."""
    chunks = list(ask(client, model, extra_body=TASK, stream=True))
    assert text_of(chunks) == ask(client, model, extra_body=TASK).choices[0].message.content


def test_explained_stream(client):
    """Through the provider a stream says which adapter serves; the proxy drops it otherwise."""
    # Closed here: collected within httpcore's lock, the stream would wait for that lock for ever.
    with ask(client, "explained", extra_body=TASK, stream=True) as stream:
        first = next(iter(stream))
    assert first.t2l["adapter"] == ask(client, "smollm2", extra_body=TASK).t2l["adapter"]


@pytest.mark.parametrize("model", ["smollm2", "explained"])
@pytest.mark.parametrize("stream", [False, True])
def test_refusal(client, model, stream):
    """A refusal keeps its status and its words on the way through the proxy."""
    with pytest.raises(openai.BadRequestError, match="holds no word"):
        _ = list(ask(client, model, extra_body={"t2l_description": "?"}, stream=stream))


def test_adapter_by_name(client):
    """An adapter that a request names serves it."""
    adapter = ask(client, "smollm2", extra_body=TASK).t2l["adapter"]
    named = ask(client, "explained", extra_body={"t2l_adapter": adapter})
    assert (named.t2l["adapter"], named.t2l["decision"]) == (adapter, "explicit")


@pytest.mark.parametrize("model", ["smollm2", "explained"])
def test_tools(client, model):
    """A tool call comes through, in one piece and streamed."""
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    function = {"name": "add", "parameters": parameters}
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}

    (call,) = ask(client, model, **tools).choices[0].message.tool_calls
    chunks = list(ask(client, model, **tools, stream=True))
    pieces = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    streamed = "".join(piece.function.arguments or "" for (piece,) in pieces)
    assert (call.function.name, call.function.arguments) == ("add", streamed)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.real
def test_tasks_named_through_a_proxy(minilm, monkeypatch):
    """Where t2l stands in front, a proxy's model names the tasks that nobody states."""
    # Imported here: the other tests of the proxy don't pay for litellm and the heads.
    from t2l_router import heads  # noqa: PLC0415
    from t2l_router.inference_llm import LlmInference  # noqa: PLC0415
    from t2l_router.reading import Reading  # noqa: PLC0415

    with proxy(ROOT / "examples" / "litellm_proxy" / "upstream.yaml") as url:
        monkeypatch.setenv("LITELLM_PROXY_API_BASE", url)
        monkeypatch.setenv("LITELLM_PROXY_API_KEY", KEY)
        namer = LlmInference(
            minilm,
            heads.load(None, encoder=minilm.fingerprint),
            model="litellm_proxy/namer",
            timeout_s=60,
        )
        found = namer.infer(Reading(None, ("How do I say good morning?",)), tenant="local")

    assert found.text == "Translate English text into French."
    assert found.why == "a language model named the task"
