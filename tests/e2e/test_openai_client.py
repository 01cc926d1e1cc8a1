"""The openai package is our users' client: what it does with us is what they see."""

import openai
import pytest

from tests.e2e.conftest import MODEL

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def client(echo):
    with openai.OpenAI(base_url=f"{echo.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_plain(client):
    """A plain answer has the text, the reason it ended and the token counts."""
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)

    assert answer.choices[0].message.content == "[base] hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    assert answer._request_id.startswith("req_")


def test_description(client):
    """``extra_body`` carries the description, and the answer says which adapter served."""
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body={"t2l_description": "Translate the text"}
    )

    assert answer.t2l["decision"] in ("generated", "exact")
    assert answer.choices[0].message.content == f"[{answer.t2l['adapter']}] hello there"


def test_description_header(client):
    """The header has the same effect, for clients that can't add to the body."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, extra_headers={"X-T2L-Description": "%C3%9Cbersetze"}
    )

    assert raw.headers["X-T2L-Adapter"] == raw.parse().t2l["adapter"]
    assert raw.headers["X-T2L-Decision"] == "generated"
    assert raw.headers["X-T2L-Reason"] == raw.parse().t2l["reason"]
    assert "embed;dur=" in raw.headers["Server-Timing"]


def test_stream(client):
    """A stream adds up to the plain answer; its first chunk holds the facts."""
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, extra_body={"t2l_description": "Sum up"}
        )
    )

    first, *_, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert first.choices[0].delta.role == "assistant"
    assert text == f"[{first.t2l['adapter']}] hello there"
    assert last.choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)


def test_stream_with_usage(client):
    """With ``include_usage`` a last chunk without choices holds the counts."""
    *others, last = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )

    assert (last.choices, last.usage.total_tokens) == ([], 5)
    assert all(chunk.usage is None for chunk in others)
    assert all("usage" in chunk.model_fields_set for chunk in others)


def test_stream_helper(client):
    """The client's own stream accumulator understands us."""
    with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.content == "[base] hello there"


async def test_async_client(echo):
    """The asynchronous client works the same, plain and streamed."""
    async with openai.AsyncOpenAI(base_url=f"{echo.url}/v1", api_key="-") as client:
        plain = await client.chat.completions.create(model=MODEL, messages=HELLO)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert text == plain.choices[0].message.content


def test_generated_adapter_by_name(client):
    """An adapter that was generated is a model, to be listed, looked up and asked for."""
    made = client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body={"t2l_description": "Rhyme"}
    )
    name = f"t2l:{made.t2l['adapter']}"

    answer = client.chat.completions.create(model=name, messages=HELLO)

    assert answer.t2l == made.t2l | {
        "decision": "explicit",
        "reason": "the request names this adapter",
        "timing_ms": answer.t2l["timing_ms"],
    }
    assert answer.model == name
    assert name in [model.id for model in client.models.list()]
    assert client.models.retrieve(name).id == name
    assert client.models.retrieve(MODEL).owned_by == "t2l"


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found"),
        ({"model": "t2l:nobody"}, openai.NotFoundError, "adapter_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value"),
        ({"n": 2}, openai.BadRequestError, "invalid_value"),
        (
            {"extra_body": {"t2l_description": ""}},
            openai.BadRequestError,
            "invalid_task_description",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client, fields, error, code, stream):
    """The client maps our errors to its own classes, also where a stream was asked for."""
    with pytest.raises(error) as caught:
        client.chat.completions.create(
            **{"model": MODEL, "messages": HELLO, "stream": stream} | fields
        )

    assert caught.value.code == code
    assert caught.value.request_id.startswith("req_")


def test_unknown_model_page(client):
    """Looking up a model that isn't there is a 404 in OpenAI's shape."""
    with pytest.raises(openai.NotFoundError, match="no model 'a/b'"):
        client.models.retrieve("a/b")
