"""The server with the real base model and the hypernetwork that reads tokens."""

import json

import httpx
import pytest

from tests.e2e.program import serving, t2l

pytestmark = [pytest.mark.real, pytest.mark.slow]

SHOWN = [
    {"input": "WINNER!! Claim your prize, call 09061701461 now", "output": "spam"},
    {"input": "ok, see you at six then", "output": "ham"},
]
OTHERS = [SHOWN[0], {"input": "ok, see you at six then", "output": "fine"}]
TASK = "Is the text message wanted?"
ASKED = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "You have won a holiday, text WIN to 80086"}],
    "temperature": 0,
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def variables(model_cache) -> dict[str, str]:
    return {
        "T2L_HYPERNET": "default",
        "T2L_CACHE_DIR": str(model_cache),
        # A machine that does other things besides reads slowly.
        "T2L_GENERATION_TIMEOUT_S": "120",
    }


@pytest.fixture(scope="module")
def ask(smollm2, minilm, variables, tmp_path_factory):
    """Answers to one question, with further fields."""
    with serving(cwd=tmp_path_factory.mktemp("server"), **variables) as program:
        program.wait_ready()
        with httpx.Client(base_url=program.url, timeout=300) as client:
            yield lambda path="/v1/chat/completions", **fields: client.post(
                path, json=ASKED | fields
            )


def test_same_and_other_examples(ask):
    """Equal examples are written for once; others, or another sentence, have their own adapter."""
    first, again = (ask(t2l_examples=SHOWN, t2l_required=True).json()["t2l"] for _ in range(2))
    others = ask(t2l_examples=OTHERS, t2l_required=True).json()["t2l"]
    sentence = ask(t2l_description=TASK, t2l_required=True).json()["t2l"]

    assert [found["decision"] for found in (first, again, others, sentence)] == [
        "generated", "exact", "generated", "generated",
    ]  # fmt: skip
    assert first["adapter"] == again["adapter"]
    assert len({found["adapter"] for found in (first, others, sentence)}) == 3
    assert first["timing_ms"]["read"] > 0


def test_conversation(ask):
    """A conversation stays with the adapter of its examples."""
    named = {"t2l_session": "holiday"}
    first = ask(t2l_examples=SHOWN, t2l_description=TASK, **named)
    second = ask(t2l_examples=SHOWN, t2l_description=TASK, **named)
    explained = ask("/v1/t2l/explain", t2l_examples=SHOWN, t2l_description=TASK).json()

    assert first.headers["x-t2l-decision"] == "generated"
    assert "read;dur=" in first.headers["server-timing"]
    assert second.headers["x-t2l-decision"] == "sticky"
    assert second.headers["x-t2l-adapter"] == first.headers["x-t2l-adapter"]
    assert (explained["decision"], explained["task"]["examples"]) == ("exact", 2)


@pytest.mark.parametrize(
    ("description", "examples"), [(TASK, None), (None, SHOWN), (TASK, SHOWN)], ids=str
)
def test_same_adapter_as_on_the_command_line(ask, variables, tmp_path, description, examples):
    """The server's adapter is, to the bit, the one that ``t2l generate`` writes."""
    fields = {"t2l_description": description, "t2l_examples": examples}
    served = ask(t2l_required=True, **{k: v for k, v in fields.items() if v}).json()["t2l"]
    words = [description] if description else []
    if examples:
        file = tmp_path / "examples.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))
        words += ["--examples", str(file)]
    done = t2l("generate", *words, "-o", "out", "--format", "json", cwd=tmp_path, **variables)

    assert done.returncode == 0, done.stderr
    # The id is a hash over all tensors.
    assert json.loads(done.stdout)["id"] == served["adapter"]


def test_examples_that_nobody_reads(smollm2, minilm, model_cache, tmp_path):
    """A server whose hypernetwork reads sentences alone says how to have examples read."""
    with serving(cwd=tmp_path, T2L_CACHE_DIR=str(model_cache)) as program:
        program.wait_ready()
        url = f"{program.url}/v1/chat/completions"
        answer = httpx.post(url, json=ASKED | {"t2l_examples": SHOWN}, timeout=300)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "t2l_examples")
    assert "--hypernet default" in error["message"]
