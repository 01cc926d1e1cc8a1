"""Routers and vLLM servers that share one library: one adapter, the same tokens, no way around."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel

from adapters_store.blobs import blob_files, shard
from adapters_store.identity import AdapterId
from adapters_store.peft_files import CONFIG_FILE, WEIGHTS_FILE
from t2l_router.chat_format import render
from t2l_router.models import load_base
from tests.scale.fleet import TENANT, ask, text_of
from tests.tiny_engine import collect, request

pytestmark = [pytest.mark.scale, pytest.mark.timeout(1_800), pytest.mark.filterwarnings("ignore")]

QUESTION = "What is the capital of France? Tell me about it."
N_TOKENS = 16


def object_path(adapter_id):
    return f"t2l/adapters/{shard(adapter_id)}/{adapter_id}"


def test_one_description_at_both_routers(fleet):
    """Sixteen clients with one new description at two routers: one generation, one id."""
    before = fleet.store.quotas.usage(TENANT)

    def chat(number):
        router = fleet.routers[number % 2]
        return fleet.chat(router.url, "Answer like a pirate", QUESTION)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(chat, range(16)))

    assert {answer.status_code for answer in answers} == {200}
    facts = [answer.json()["t2l"] for answer in answers]
    assert len({fact["adapter"] for fact in facts}) == 1, facts
    assert facts[0]["adapter"] is not None
    assert len({text_of(answer) for answer in answers}) == 1
    made = [entry for entry in fleet.store.history(facts[0]["adapter"]) if "add" in entry.action]
    assert len(made) == 1, made
    after = fleet.store.quotas.usage(TENANT)
    assert after.adapters == before.adapters + 1


@pytest.mark.parametrize("description", ["Reply in French", "Write a poem about the text"])
async def test_same_tokens(fleet, writer, description, tmp_path):
    """
    Router, either vLLM server, the local engine and PEFT give the same greedy tokens.

    All in float32: in bfloat16 near ties fall differently; see docs/scale.md.
    """
    served = fleet.chat(fleet.nginx.url, description, QUESTION)
    adapter_id = AdapterId(served.json()["t2l"]["adapter"])
    directory = fleet.store.directory(adapter_id, tenant=TENANT)

    engine = writer.engine()
    asked = request(QUESTION, max_tokens=N_TOKENS)
    local, _ = await collect(engine, asked, writer.read(directory))
    base, _ = await collect(engine, asked)
    await engine.close()

    assert text_of(served) == local
    for server in fleet.vllm:
        assert text_of(ask(server, adapter_id, QUESTION)) == local
        assert text_of(ask(server, "smollm2", QUESTION)) == base
    assert by_peft(writer.base, directory) == local


def by_peft(base, directory):
    """PEFT's greedy answer."""
    model, tokenizer = load_base(base, dtype=torch.float32, device="cpu")
    adapted = PeftModel.from_pretrained(model, directory)
    prompt = torch.tensor([render(tokenizer, [{"role": "user", "content": QUESTION}])])
    tokens = adapted.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=N_TOKENS,
        do_sample=False,
    )
    return tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("number", [0, 1])
def test_malicious_names(fleet, number):
    """Names that are paths or nearly ids are unknown, and the server lives."""
    server = fleet.vllm[number]
    known = "t2l-" + "0" * 32
    for name in (f"../{known}", f"/etc/{known}", f"{known}/..", known.upper(), "s3://t2l/x", known):
        assert ask(server, name).status_code == 404, name
    assert ask(server, "smollm2").is_success


def test_source_out_of_reach(fleet):
    """While adapters can't be fetched the answer is 503, which another server may do better."""
    server = fleet.vllm[1]
    fleet.nginx.kill()
    try:
        assert ask(server, "t2l-" + "3" * 32).status_code == 503
        assert ask(server, "smollm2", max_tokens=1).is_success
    finally:
        fleet.nginx.start().wait_ready(30)
    assert ask(server, "t2l-" + "3" * 32).status_code == 404


def publish(fleet, writer, files, adapter_id=None):
    """Put an adapter straight into the object store, under any id."""
    base = writer.base.fingerprint
    adapter_id = adapter_id or files.adapter_id(base)
    fleet.objects.makedirs(object_path(adapter_id), exist_ok=True)
    for name, data in blob_files(adapter_id, base, files).items():
        fleet.objects.pipe_file(f"{object_path(adapter_id)}/{name}", data)
    return adapter_id


def test_tampered_blobs(fleet, writer):
    """Changed weights, a changed scale, another adapter's id: refused, and the server lives."""
    server = fleet.vllm[0]
    sound = writer.files("Sound")
    flipped = type(sound)(sound.config, sound.weights[:-1] + bytes([sound.weights[-1] ^ 1]))
    louder = json.loads(sound.config) | {"lora_alpha": 1_000}
    loud = type(sound)(json.dumps(louder).encode(), sound.weights)

    for files, adapter_id in (
        (flipped, sound.adapter_id(writer.base.fingerprint)),
        (sound, "t2l-" + "1" * 32),
        (loud, "t2l-" + "2" * 32),
    ):
        answer = ask(server, publish(fleet, writer, files, adapter_id))
        assert answer.status_code == 400, answer.text
        assert "could not be loaded" in answer.json()["error"]["message"]
    assert ask(server, "smollm2").is_success

    # Mended, it is served once the refusal is forgotten.
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        fleet.objects.rm_file(f"{object_path(sound.adapter_id(writer.base.fingerprint))}/{name}")
    mended = publish(fleet, writer, sound)
    fleet.wait(lambda: ask(server, mended).is_success, within_s=30)


def test_vanished_blob(fleet, writer):
    """An adapter that vanished is unknown to a new server; one that has a copy serves on."""
    first, second = fleet.vllm
    adapter_id = publish(fleet, writer, writer.files("Soon gone"))
    expected = text_of(ask(first, adapter_id))
    fleet.objects.rm(object_path(adapter_id), recursive=True)

    assert ask(second, adapter_id).status_code == 404
    assert text_of(ask(first, adapter_id)) == expected
    # Also after it had to make room in memory for others.
    for number in range(18):
        other = publish(fleet, writer, writer.files(f"Number {number}"))
        assert ask(first, other, max_tokens=1).is_success
    assert text_of(ask(first, adapter_id)) == expected
