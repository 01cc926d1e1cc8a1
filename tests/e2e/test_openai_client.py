"""The openai package is our users' client: what it does with us is what they see."""

from typing import Literal

import openai
import pydantic
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
        "trace": answer.t2l["trace"],
        "score": None,
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
        ({"n": 0}, openai.BadRequestError, "invalid_value"),
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


def test_choices_and_logprobs(client):
    """Several choices come side by side, each token with its probability."""
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, n=2, logprobs=True, top_logprobs=1
    )

    assert [choice.message.content for choice in answer.choices] == ["[base] hello there"] * 2
    assert [t.token for t in answer.choices[1].logprobs.content] == ["[base]", " hello", " there"]
    assert answer.choices[0].logprobs.content[0].top_logprobs[0].logprob == 0
    assert answer.usage.completion_tokens == 6


class Weather(pydantic.BaseModel):
    """What a forecast says."""

    place: str
    degrees: int
    sky: Literal["clear", "cloudy"]
    hours: list[float] = pydantic.Field(min_length=1)


def test_structured_output(client):
    """`parse` gives an object of the caller's class."""
    answer = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Weather)

    assert answer.choices[0].message.parsed == Weather(place="", degrees=0, sky="clear", hours=[0])


def test_tools(client):
    """A tool is called with arguments that fit, plain and streamed, and its result is answered."""
    tool = openai.pydantic_function_tool(Weather, name="forecast")
    plain = client.chat.completions.parse(model=MODEL, messages=HELLO, tools=[tool])
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[tool]) as stream:
        streamed = stream.get_final_completion()

    (call,) = plain.choices[0].message.tool_calls
    assert plain.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, call.function.parsed_arguments.sky) == ("forecast", "clear")
    assert streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    messages = [
        *HELLO,
        plain.choices[0].message.model_dump(exclude={"parsed"}, exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny all day"},
    ]
    after = client.chat.completions.create(model=MODEL, messages=messages, tools=[tool])
    assert after.choices[0].message.content == "[base] sunny all day"


def test_embeddings(client):
    """Vectors are the same in both encodings, of unit length, in the order of the texts."""
    texts = ["one", "two words"]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    single = client.embeddings.create(model="echo", input="one")

    for one, two in zip(packed.data, plain.data, strict=True):
        assert one.index == two.index
        assert one.embedding == pytest.approx(two.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-5)
    assert single.data[0].embedding == pytest.approx(packed.data[0].embedding, abs=1e-6)
    assert plain.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_bad_embeddings(client, fields, param):
    """What can't be embedded is refused by name."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": MODEL, "input": "a"} | fields)

    assert caught.value.param == param
