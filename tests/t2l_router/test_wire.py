import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2l_router import wire
from t2l_router.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}


def body(**fields) -> bytes:
    return json.dumps({"model": "m", "messages": [USER]} | fields).encode()


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def fault(data: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        wire.parse_chat(data)
    return caught.value


def test_minimal_request():
    """Model and messages are all that a request needs."""
    request = wire.parse_chat(body())

    assert (request.model, request.messages[0].content) == ("m", "hi")
    assert request.token_limit is None


# One line per field of OpenAI's CreateChatCompletionRequest that is accepted with a value.
ACCEPTED = {
    "messages": [USER],
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "temperature": 2,
    "top_p": 0.5,
    "n": 1,
    "stop": ["a", "b", "c", "d"],
    "max_completion_tokens": 1,
    "max_tokens": 5,
    "presence_penalty": -2,
    "frequency_penalty": 2.0,
    "logit_bias": {"50": -100},
    "logprobs": False,
    "top_logprobs": 0,
    "seed": -(2**63),
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "store": False,
    "verbosity": "low",
    "reasoning_effort": "none",
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["text"],
    "functions": [],
}
REFUSED = {
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "web_search_options": {},
    "moderation": {"model": "x"},
    "functions": [{"name": "f"}],
    "function_call": "auto",
}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
OFFERED = {
    "n": ({"n": 2}, "choices"),
    "logprobs": ({"logprobs": True, "top_logprobs": 3}, "logprobs"),
    "tools": ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
    "response_format": ({"response_format": {"type": "json_object"}}, "json"),
}
NO_NEUTRAL_VALUE = {"audio", "web_search_options", "moderation", "function_call"}


def test_all_37_fields_are_known():
    """Every field of OpenAI's request has its treatment, so that none is ignored by accident."""
    fields = set(ACCEPTED) | NO_NEUTRAL_VALUE

    assert len(fields) == 37
    assert fields <= set(wire.ChatRequest.model_fields)


@pytest.mark.parametrize("field", ACCEPTED)
def test_accepted_field(field):
    """A field with a value that we can honour, or that asks for nothing, is accepted."""
    wire.parse_chat(body(**{field: ACCEPTED[field]}))


@pytest.mark.parametrize(
    "field", [name for name in wire.ChatRequest.model_fields if name not in ("messages", "model")]
)
def test_null_field(field):
    """Null means the same as leaving a field out: many clients spell out every default."""
    wire.parse_chat(body(**{field: None}))


@pytest.mark.parametrize("field", REFUSED)
def test_refused_field(field):
    """A field that would change the answer in a way we can't is refused by its name."""
    error = fault(body(**{field: REFUSED[field]}))

    assert error.param == field
    assert "not supported" in str(error)


@pytest.mark.parametrize("field", OFFERED)
def test_field_that_needs_the_engine(field):
    """What not every engine can do is refused by name where it can't."""
    fields, offer = OFFERED[field]
    request = wire.parse_chat(body(**fields))

    wire.require_offered(request, lambda: frozenset({offer}))
    with pytest.raises(InvalidRequest, match="not supported") as caught:
        wire.require_offered(request, frozenset)
    assert caught.value.param == field


@pytest.mark.parametrize("field", ACCEPTED)
def test_accepted_field_needs_no_offer(field):
    """Values that ask for nothing need nothing of the engine."""
    wire.require_offered(wire.parse_chat(body(**{field: ACCEPTED[field]})), frozenset)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
        ),
    ],
)
def test_fields_that_contradict_each_other(fields, param):
    """Fields that make no sense together are refused."""
    assert fault(body(**fields)).param == param


def test_unknown_field():
    """Unknown fields are allowed: clients send vendors' extensions everywhere."""
    wire.parse_chat(body(cache_salt="x", chat_template_kwargs={"thinking": False}))


def test_misspelt_field_of_ours():
    """A name that begins as ours do is one of ours: else its task would be left out unseen."""
    error = fault(body(t2l_descripton="Translate"))

    assert error.param == "t2l_descripton"
    assert "t2l_description, t2l_examples" in str(error)


def test_text_parts_are_joined():
    """Content parts of text are the same as one text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = wire.parse_chat(body(messages=[{"role": "user", "content": parts}]))

    assert request.messages[0].content == "a\nb"


def test_newer_token_limit_wins():
    """Of OpenAI's two names for the limit the newer one counts."""
    assert wire.parse_chat(body(max_tokens=5, max_completion_tokens=7)).token_limit == 7


def test_stop_string():
    """One stop string is the same as a list of one."""
    assert wire.parse_chat(body(stop="END")).stop == ["END"]


@pytest.mark.parametrize(
    ("data", "param", "says"),
    [
        (b"", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b'{"model": "\xff"}', None, "not JSON"),
        (b'{"model": "\\ud800"}', None, "not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (b'{"x": ' + b"[" * 500 + b"]" * 500 + b"}", None, "not JSON"),
        (b'{"x": 1' + b"0" * 10_000 + b"}", None, "not JSON"),
        (b"null", None, "JSON object"),
        (b"[]", None, "JSON object"),
        (b"{}", "messages", "required"),
        (body(messages=[]), "messages", "at least 1"),
        (body(messages="hi"), "messages", "array"),
        (body(messages=[1]), "messages[0]", "object"),
        (body(messages=[{"content": "x"}]), "messages[0].role", "required"),
        (body(messages=[{"role": "wizard", "content": "x"}]), "messages[0].role", "'user'"),
        (body(messages=[USER, {"role": "user"}]), "messages[1].content", "needs content"),
        (body(messages=[{"role": "user", "content": 3}]), "messages[0].content", "string"),
        (
            body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content",
            "image_url",
        ),
        (body(messages=[{"role": "user", "content": ["x"]}]), "messages[0].content", "part 0"),
        (body(messages=[{"role": "assistant"}]), "messages[0].content", "needs content"),
        (
            body(messages=[{"role": "tool", "content": "4"}]),
            "messages[0].tool_call_id",
            "which call",
        ),
        (
            body(messages=[{"role": "user", "content": "", "tool_calls": [CALL]}]),
            "messages[0].tool_calls",
            "only an assistant",
        ),
        (body(model=None), "model", "string"),
        (body(temperature="hot"), "temperature", "number"),
        (body(temperature=True), "temperature", "number"),
        (body(temperature=2.1), "temperature", "2.1"),
        (body(temperature=float("nan")), "temperature", "finite"),
        (b'{"model": "m", "messages": [], "top_p": 1e999}', "messages", "at least 1"),
        (body(top_p=-0.1), "top_p", "greater"),
        (body(max_tokens=0), "max_tokens", "greater"),
        (body(max_tokens=1.5), "max_tokens", "integer"),
        (body(seed=2**63), "seed", "less"),
        (body(seed=10**400), "seed", "less"),
        (body(stop=["a"] * 5), "stop", "at most 4"),
        (body(stop=""), "stop[0]", "at least 1"),
        (body(stop=[1]), "stop[0]", "string"),
        (body(stream="yes"), "stream", "boolean"),
        (body(stream_options={"include_usage": 1}), "stream_options.include_usage", "boolean"),
        (body(logit_bias={"1": 101}), "logit_bias.1", "100"),
        (body(metadata={"a": 1}), "metadata.a", "string"),
        (body(t2l_session="s" * 201), "t2l_session", "200"),
        (body(t2l_required="yes"), "t2l_required", "boolean"),
        (body(t2l_adapter=7), "t2l_adapter", "string"),
    ],
)
def test_bad_body(data, param, says):
    """Whatever is wrong with a body, the error names the field and says what is wrong."""
    error = fault(data)

    assert error.param == param
    assert says in str(error)
    assert len(str(error)) < 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    )
)
def test_any_json_is_judged(value):
    """Any JSON value in any place is either accepted or an InvalidRequest, never anything else."""
    for data in (
        json.dumps(value).encode(),
        body(messages=[value]),
        body(stop=value),
        body(t2l_description=value),
        body(logit_bias=value),
    ):
        try:
            wire.parse_chat(data)
        except InvalidRequest:
            continue


@given(st.lists(st.text().filter(lambda text: "\r" not in text), min_size=1), st.data())
def test_sse_round_trip(texts, data):
    """Events survive encoding, comments between them, and a stream cut anywhere."""
    stream = wire.KEEP_ALIVE.join(wire.sse(text) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = wire.SseDecoder()

    assert [event for piece in pieces for event in decoder.feed(piece)] == texts


def test_sse_crlf():
    """Events whose lines end in CRLF are understood, also when it is cut in two."""
    decoder = wire.SseDecoder()

    assert list(decoder.feed(b"data: a\r\n\r")) == []
    assert list(decoder.feed(b"\ndata: b\r\n\r\n")) == ["a", "b"]


def test_chunk_has_only_what_was_set():
    """A chunk on the wire has no keys that nobody set, as OpenAI's don't."""
    chunk = wire.ChatChunk(id="c", object="chat.completion.chunk", created=0, model="m", choices=[])
    _, _, text = wire.sse(chunk).decode().partition("data: ")

    assert json.loads(text) == {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [],
    }


@pytest.mark.parametrize("data", ["", "no", "[1]", '{"error": "Unauthorized"}', "[" * 100_000])
def test_error_of_anything_else(data):
    """What isn't an error in our shape is none."""
    assert wire.error_of(data) is None


def test_conversation_with_tools():
    """A conversation in which a tool was called comes through whole."""
    said = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
    ]

    request = wire.parse_chat(body(messages=said))

    assert request.messages[0].tool_calls[0].function.name == "f"
    assert request.messages[1].tool_call_id == "a"


def test_strict():
    """Unknown fields pass, unless the server is strict; known ones always do."""
    data = body(t2l_description="x", min_tokens=3)

    assert wire.parse_chat(data).model_extra == {"min_tokens": 3}
    with pytest.raises(InvalidRequest, match="Unrecognized request argument supplied: min_tokens"):
        wire.parse_chat(data, strict=True)
    wire.parse_chat(body(t2l_description="x"), strict=True)
