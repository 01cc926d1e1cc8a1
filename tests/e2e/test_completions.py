"""OpenAI's older format, through its own client."""

import threading

import httpx
import openai
import pytest

from t2l_router.engines.echo import EchoEngine
from t2l_router.errors import EngineFailed
from tests.e2e.conftest import MODEL, serve


@pytest.fixture(scope="module")
def client(echo):
    with openai.OpenAI(base_url=f"{echo.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_prompt(client):
    """A prompt is answered, plain and streamed alike."""
    plain = client.completions.create(model=MODEL, prompt="one two")
    stream = client.completions.create(model=MODEL, prompt="one two", stream=True)

    assert (plain.choices[0].text, plain.choices[0].finish_reason) == ("[base] one two", "stop")
    assert "".join(c.text for chunk in stream for c in chunk.choices) == plain.choices[0].text
    assert plain.object == "text_completion"


def test_prompts(client):
    """Several prompts are answered in their order, with the counts of all."""
    answer = client.completions.create(model=MODEL, prompt=["one", "two three"], max_tokens=2)

    assert [(c.index, c.text) for c in answer.choices] == [(0, "[base] one"), (1, "[base] two")]
    assert answer.usage.prompt_tokens == 3


class OneFails(EchoEngine):
    """Fails at one prompt; answers the others for as long as they are waited for."""

    def __init__(self):
        super().__init__(delay_s=60)
        self.ended = threading.Event()

    async def stream_chat(self, request, adapter):
        if request.messages[-1].content == "fail":
            raise EngineFailed("out of memory")
        try:
            async for delta in super().stream_chat(request, adapter):
                yield delta
        finally:
            self.ended.set()


def test_one_of_several_prompts_fails():
    """The whole fails with it, and the other prompts are not answered for nobody."""
    with serve(OneFails()) as served:
        body = {"model": MODEL, "prompt": ["one two", "fail"]}
        answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=30)
        ended = served.engine.ended.wait(10)

    assert (answer.status_code, answer.json()["error"]["message"]) == (502, "out of memory")
    assert ended


def test_description(client):
    """The task description has the same effect as in a chat."""
    answer = client.completions.create(
        model=MODEL, prompt="one", extra_body={"t2l_description": "Count the words"}
    )

    assert answer.choices[0].text == f"[{answer.t2l['adapter']}] one"


def test_examples(client):
    """Examples tell a task of their own here, too."""
    task = {"t2l_description": "Count the words"}
    shown = task | {"t2l_examples": [{"input": "one two", "output": "2"}]}
    one, other = (
        client.completions.create(model=MODEL, prompt="one", extra_body=body)
        for body in (task, shown)
    )

    assert None is not one.t2l["adapter"] != other.t2l["adapter"] is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"temperature": 3}, "temperature"),
        ({"extra_body": {"messages": []}}, "messages"),
        ({"extra_body": {"t2l_examples": [{"input": "x"}]}}, "t2l_examples[0].output"),
        (
            {"extra_body": {"t2l_examples": [{"input": "x", "output": " "}]}},
            "t2l_examples[0].output",
        ),
    ],
)
def test_refused(client, fields, param):
    """What can't be done is refused by name."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": MODEL, "prompt": "a"} | fields)

    assert caught.value.param == param
