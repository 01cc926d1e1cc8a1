"""The whole product on the real default models, with a hypernetwork of random weights."""

import json
import signal
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.program import ROOT, serving, t2l

pytestmark = [pytest.mark.real, pytest.mark.slow]

DESCRIPTION = "Name the capital of the country"
QUESTION = [{"role": "user", "content": "What is the capital of France? Tell me about it."}]
SHORT = {"model": "smollm2-135m-instruct", "messages": QUESTION, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def hypernet(smollm2, minilm, tmp_path_factory) -> Path:
    """A checkpoint whose adapters visibly change the model, whatever the trained one does."""
    # Imported here: the other end-to-end tests need no torch.
    import torch  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    from t2l_router import checkpoint  # noqa: PLC0415
    from t2l_router.hypernet import Hypernet, HypernetConfig  # noqa: PLC0415
    from t2l_router.lora import LoraSpec  # noqa: PLC0415

    spec = LoraSpec.from_config(
        AutoConfig.from_pretrained(smollm2.path),
        base_model=smollm2.name,
        base_fingerprint=smollm2.fingerprint,
    )
    config = HypernetConfig(
        lora=spec,
        embedding_dim=minilm.dim,
        encoder="sentence-transformers/all-MiniLM-L6-v2",
        encoder_fingerprint=minilm.fingerprint,
    )
    torch.manual_seed(0)
    network = Hypernet(config)
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    directory = tmp_path_factory.mktemp("hypernet") / "random"
    checkpoint.save_pretrained(network, directory, card="random weights, for tests")
    return directory


@pytest.fixture(scope="module")
def variables(hypernet, model_cache) -> dict[str, str]:
    # float32: bfloat16 rounds away what the comparison with PEFT is about.
    return {
        "T2L_HYPERNET": str(hypernet),
        "T2L_CACHE_DIR": str(model_cache),
        "T2L_DTYPE": "float32",
        # Random adapters spoil plain text, and would be quarantined for it.
        "T2L_MAX_LOSS_RISE": "100",
    }


@pytest.fixture(scope="module")
def server(variables, tmp_path_factory):
    with serving(cwd=tmp_path_factory.mktemp("server"), **variables) as program:
        program.wait_ready()
        yield program


# PEFT 0.21 still asks for a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_served_answer_is_that_of_the_exported_adapter(server, variables, smollm2, tmp_path):
    """
    The server's answer for a description is the one that PEFT gives with the adapter that
    ``t2l generate`` writes for it, token for token.
    """
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415

    from t2l_router.chat_format import render  # noqa: PLC0415
    from t2l_router.models import load_base  # noqa: PLC0415

    served = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=SHORT | {"t2l_description": DESCRIPTION},
        timeout=60,
    ).json()
    base = httpx.post(
        f"{server.url}/v1/chat/completions", json=SHORT | {"model": "t2l:base"}, timeout=60
    ).json()
    made = t2l(
        "generate", DESCRIPTION, "-o", "adapter", "--format", "json", cwd=tmp_path, **variables
    )
    assert made.returncode == 0, made.stderr

    model, tokenizer = load_base(smollm2, dtype=torch.float32, device="cpu")
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    prompt = torch.tensor([render(tokenizer, QUESTION)])
    tokens = adapted.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=24,
        do_sample=False,
    )
    expected = tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)

    assert json.loads(made.stdout)["id"] == served["t2l"]["adapter"]
    assert served["choices"][0]["message"]["content"] == expected
    assert base["choices"][0]["message"]["content"] != expected


def test_openai_client(server):
    """The openai client streams an adapted answer, and the same task finds its adapter again."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-")
    ask = SHORT | {"extra_body": {"t2l_description": "Answer in rhymes"}}

    plain = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert (plain.t2l["decision"], chunks[0].t2l["decision"]) == ("generated", "exact")
    assert plain.t2l["adapter"] == chunks[0].t2l["adapter"]


def test_seed(server):
    """Equal seeds give equal answers at any temperature."""

    def ask(seed):
        body = SHORT | {"temperature": 1.0, "seed": seed}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        return answer.json()["choices"][0]["message"]["content"]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (
            {"messages": [{"role": "user", "content": "word " * 9_000}]},
            400,
            "context_length_exceeded",
        ),
        ({"max_tokens": 10**9}, 400, "context_length_exceeded"),
        ({"logit_bias": {"999999": 1}}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": ""}]}, 200, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_limits_of_the_real_model(server, fields, status, code, stream):
    """What only the model knows to be wrong is the caller's fault too, streamed or not."""
    body = SHORT | {"max_tokens": 2, "stream": stream} | fields
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)

    assert answer.status_code == status
    if code:
        assert answer.json()["error"]["code"] == code


def test_client_goes_away(server):
    """A client that goes away in the middle of an answer makes room for the next at once."""
    long = SHORT | {"stream": True, "max_tokens": 1_000, "ignore_eos": True}
    for _ in range(8):  # as many as run side by side
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=long) as response:
            next(response.iter_bytes())

    body = SHORT | {"max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=10)

    assert answer.json()["usage"]["completion_tokens"] == 1


def test_chat_in_process(variables, tmp_path):
    """``t2l chat`` loads the models itself when it is given no server."""
    result = t2l(
        "chat",
        "-d",
        DESCRIPTION,
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "Hello",
        cwd=tmp_path,
        **variables,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "a new adapter was written" in result.stderr


def test_generate_twice(variables, tmp_path):
    """An adapter isn't overwritten unless asked for, and its id is always the same."""

    def run(*more):
        return t2l(
            "generate",
            DESCRIPTION,
            "-o",
            "adapter",
            "--format",
            "json",
            *more,
            cwd=tmp_path,
            **variables,
        )

    first, second, third = run(), run(), run("--force")

    assert (first.returncode, second.returncode, third.returncode) == (0, 4, 0)
    assert "--force" in second.stderr
    assert json.loads(first.stdout)["id"] == json.loads(third.stdout)["id"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_generate_on_a_full_disk(variables, tmp_path):
    """Where there is no room the error is one line, and nothing half-written is left."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    (tmp_path / "sitecustomize.py").write_text(limited)
    result = t2l(
        "generate",
        DESCRIPTION,
        "-o",
        "adapter",
        cwd=tmp_path,
        **variables,
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert "Error: can't write adapter" in result.stderr
    assert [path.name for path in tmp_path.glob("*adapter*")] == []


def test_doctor(variables, tmp_path):
    """In a sound place the doctor finds nothing wrong, has an adapter answer and keeps none."""
    result = t2l("doctor", "--format", "json", "--port", "0", cwd=tmp_path, **variables)
    kept = t2l("adapters", "list", "--format", "json", cwd=tmp_path, **variables)

    checks = {check["check"]: check for check in json.loads(result.stdout)}
    assert result.returncode == 0, result.stderr
    assert "a new adapter" in checks["answer"]["found"]
    assert json.loads(kept.stdout) == []


def test_wrong_checkpoint_for_the_base_model(variables, tiny_base, tmp_path):
    """A hypernetwork for another base model is refused in one line, with the way out."""
    result = t2l(
        "generate",
        DESCRIPTION,
        "-o",
        "adapter",
        "--base-model",
        str(tiny_base.path),
        cwd=tmp_path,
        **variables,
    )

    assert result.returncode == 5
    assert "writes adapters for HuggingFaceTB/SmolLM2-135M-Instruct" in result.stderr
    assert not (tmp_path / "adapter").exists()


def test_stops_while_answering(variables, tmp_path):
    """SIGTERM in the middle of a real answer finishes it."""
    with serving(cwd=tmp_path, **variables) as program:
        program.wait_ready()
        body = SHORT | {"stream": True, "ignore_eos": True}
        with httpx.stream(
            "POST", f"{program.url}/v1/chat/completions", json=body, timeout=60
        ) as response:
            received = response.iter_text()
            text = next(received)
            program.process.send_signal(signal.SIGTERM)
            text += "".join(received)
        program.process.wait(20)

    assert text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in text
