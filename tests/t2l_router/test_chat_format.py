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
