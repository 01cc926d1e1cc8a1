import pytest

from t2l_router.chat_format import render
from t2l_router.errors import InvalidRequest
from tests.tiny_models import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_render(tokenizer):
    """A conversation ends where the assistant's answer begins, and special tokens come once."""
    ids = render(tokenizer, [turn("system", "S"), turn("user", "U")])

    assert tokenizer.decode(ids) == "<system>S<eos><user>U<eos><assistant>"


def test_developer_is_system(tokenizer):
    """OpenAI's newer name for the system role renders as the one that templates know."""
    messages = [turn("user", "U")]

    assert render(tokenizer, [turn("developer", "S"), *messages]) == render(
        tokenizer, [turn("system", "S"), *messages]
    )


def test_without_template():
    """A pretrained model reads the contents as plain text."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None

    ids = render(tokenizer, [turn("system", "Be brief."), turn("user", "Hi")])

    assert tokenizer.decode(ids) == "Be brief.\n\nHi"


def test_template_refuses():
    """Roles that the model's template refuses are the caller's fault."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render(tokenizer, [turn("user", "U")])

    assert caught.value.param == "messages"


TOOL = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"a": 1}'}}
TURNS = [
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "noon", "tool_call_id": "c1"},
]


def test_tools_in_words(tokenizer):
    """A template that knows no tools has them in its system message, and calls in the text."""
    text = tokenizer.decode(render(tokenizer, TURNS, tools=[TOOL]))

    assert text.startswith("<system>You may call functions.")
    assert '{"name": "clock", "arguments": {"a": 1}}\n</tool_call><eos><tool>noon' in text
    behind = tokenizer.decode(render(tokenizer, [turn("system", "S"), *TURNS], tools=[TOOL]))
    assert behind.startswith("<system>S\n\nYou may call functions.")


def test_tools_in_the_template():
    """A template that knows tools gets them as they are, with arguments as objects."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{{ tools[0].function.name }}|{% for m in messages %}{{ m.role }}:"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.a }}{% endif %};{% endfor %}"
    )

    assert tokenizer.decode(render(tokenizer, TURNS, tools=[TOOL])) == (
        "clock|user:;assistant:1;tool:;"
    )
