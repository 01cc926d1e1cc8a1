"""
Many adapters in one batch on a GPU: the engine's layers, without a server around them.

    python -m tests.bench.bench_engine_gpu --smollm2 DIRECTORY --out DIRECTORY

Needs torch, transformers and peft, nothing else of the product's dependencies. SmolLM2's weights
come from a directory; without one they are random in its shape, as the larger model's always are:
only times are measured here, and greedy tokens compared between workloads of the same adapter.

Each workload decodes the same number of streams; they differ in the adapters of the rows only. The
baseline is PEFT's mixed batch (`adapter_names`) over transformers' own cache, with the same
prompts. The floor is the time that reading the weights, the adapters and the keys and values takes
at the memory bandwidth measured here: no decode step can be faster.
"""

import argparse
import gc
import json
import platform
import statistics
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig, MistralConfig

from t2l_router.engines.batch import Batch, Row
from t2l_router.engines.kv import KvBank
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec, LoraWeights

SMOLLM2 = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8_192,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
}
MISTRAL_7B = {"num_key_value_heads": 8, "sliding_window": None, "max_position_embeddings": 8_192}
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ZIPF = 1.5


def load(name: str, directory: Path | None, device: str) -> Any:
    """A model in bfloat16; random if there is no directory of it."""
    if directory is not None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        return model.to(device).eval()
    config = {
        "smollm2": lambda: LlamaConfig(**SMOLLM2),
        "mistral-7b": lambda: MistralConfig(**MISTRAL_7B),
        "tiny": lambda: LlamaConfig(**TINY),
    }[name]()
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def draw_adapter(spec: LoraSpec, seed: int, device: str) -> LoraWeights:
    """A random adapter of ordinary size."""
    random = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        numbers = torch.randn(*shape, generator=random, device=device)
        return (0.02 * numbers).bfloat16()

    return LoraWeights(
        spec,
        {m.name: draw(spec.n_layers, spec.rank, m.d_in) for m in spec.modules},
        {m.name: draw(spec.n_layers, m.d_out, spec.rank) for m in spec.modules},
    )


def workloads(streams: int) -> dict[str, list[int]]:
    """Slots of the rows; 0 is the base model."""
    shares = [1 / rank**ZIPF for rank in range(1, streams + 1)]
    random = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.tensor(shares), streams, replacement=True, generator=random)
    return {
        "base": [0] * streams,
        "identical": [1] * streams,
        "distinct": list(range(1, streams + 1)),
        "zipf": [int(slot) + 1 for slot in drawn],
    }


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def decode(
    batch: Batch, slots: list[int], prompts: list[list[int]], n_tokens: int, device: str
) -> tuple[list[float], float, list[list[int]]]:
    """Answer all prompts together: times of the steps, time of reading, tokens."""
    rows = [
        Row(slot, list(prompt), len(prompt) + n_tokens)
        for slot, prompt in zip(slots, prompts, strict=True)
    ]
    wait(device)
    start = time.perf_counter()
    for row in rows:
        batch.join(row)
    batch.settle()
    while group := batch.unread:
        batch.read(group)
    wait(device)
    reading = time.perf_counter() - start
    times = []
    for _ in range(n_tokens):
        start = time.perf_counter()
        ready = list(batch.ready)
        tokens = batch.decode().argmax(dim=-1).tolist()
        for row, token in zip(ready, tokens, strict=True):
            batch.advance(row, token)
        times.append(time.perf_counter() - start)
    answers = [row.ids[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    for row in rows:
        batch.leave(row)
    return times, reading, answers


@torch.inference_mode()
def decode_peft(
    model: Any, names: list[str], prompts: list[list[int]], n_tokens: int, device: str
) -> list[float]:
    """The same with PEFT's mixed batch: times of the steps."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor(prompts, device=device)
    times = []
    for _ in range(n_tokens + 1):
        start = time.perf_counter()
        out = model(
            input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            adapter_names=names,
        )
        ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)
        ids[:, 0].tolist()
        times.append(time.perf_counter() - start)
    return times[1:]  # the first one read the prompts


def with_peft(model: Any, spec: LoraSpec, n_adapters: int) -> Any:
    """PEFT around the model with as many random adapters."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - the baseline only

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(spec.alpha),
        target_modules=[module.name for module in spec.modules],
        init_lora_weights=False,
    )
    wrapped: Any = get_peft_model(model, config, "a1", autocast_adapter_dtype=False)
    for number in range(2, n_adapters + 1):
        wrapped.add_adapter(f"a{number}", config)
    return wrapped.to(torch.bfloat16).eval()


def bandwidth(device: str) -> float:
    """Bytes a second that a large reduction reads."""
    large = torch.ones((1 << 30) if device == "cuda" else (1 << 26), dtype=torch.bfloat16)
    large = large.to(device)
    best = float("inf")
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        large.sum(dtype=torch.float32)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return large.nbytes / best


def insert_times(bank: SlotBank, weights: LoraWeights, device: str) -> list[float]:
    """Milliseconds of putting an adapter into a slot and of seating a row with it."""
    times = []
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        bank.insert(1, weights)
        bank.seat([1])
        wait(device)
        times.append((time.perf_counter() - start) * 1_000)
    return times[5:]


def measure(name: str, directory: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """All workloads of one model."""
    device, streams, n_tokens = arguments.device, arguments.streams, arguments.tokens
    start = time.perf_counter()
    model = load(name, directory, device)
    spec = LoraSpec.from_model(model, base_model=name, base_fingerprint="0" * 64)
    weight_bytes = sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values())
    # An embedding that is not the output layer too is looked up, not read.
    if not model.config.tie_word_embeddings:
        weight_bytes -= model.get_input_embeddings().weight.nbytes
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, model.config.vocab_size, (streams, arguments.prompt), generator=random)
    prompts = drawn.tolist()
    peft = measure_peft(model, spec, prompts, arguments) if arguments.peft else None
    bank = SlotBank(model, spec, streams)
    adapters = [draw_adapter(spec, seed, device) for seed in range(streams)]
    for slot, adapter in enumerate(adapters, 1):
        bank.insert(slot, adapter)
    total = arguments.prompt + n_tokens
    found: dict[str, Any] = {"load_s": round(time.perf_counter() - start, 1)}
    ways = {"eager": False} | ({"graphs": True} if device == "cuda" else {})
    answers: dict[tuple[str, str], list[list[int]]] = {}
    for way, use_graphs in ways.items():
        with bank.rows([0]):  # the bank's first forward has one row, whatever ran before
            kv = KvBank(model, max_rows=streams, max_length=2 * total, budget_bytes=1 << 40)
        batch = Batch(model, bank, kv, read_together=8, use_graphs=use_graphs)
        step_ms: dict[str, list[float]] = {workload: [] for workload in workloads(streams)}
        reading_ms: dict[str, list[float]] = {workload: [] for workload in workloads(streams)}
        try:
            for turn in range(arguments.repeats + 1):
                for workload, slots in workloads(streams).items():
                    times, reading, answers[way, workload] = decode(
                        batch, slots, prompts, n_tokens, device
                    )
                    if turn:  # the first turn warms up
                        step_ms[workload].append(statistics.median(times) * 1_000)
                        reading_ms[workload].append(reading * 1_000)
        except RuntimeError as error:
            found[way] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            continue
        found[way] = {
            workload: {
                "step_ms": round(statistics.median(times), 3),
                "tokens_per_s": round(streams / statistics.median(times) * 1_000, 1),
                "reading_ms": round(statistics.median(reading_ms[workload]), 2),
            }
            for workload, times in step_ms.items()
        }
        found[way]["distinct_to_identical"] = ratio(step_ms, "identical", "distinct")
        found[way]["zipf_to_identical"] = ratio(step_ms, "identical", "zipf")
        found[way]["distinct_to_base"] = ratio(step_ms, "base", "distinct")
        if peft is not None:
            found[way]["distinct_to_peft"] = round(
                peft["distinct"]["step_ms"] / statistics.median(step_ms["distinct"]), 2
            )
    if ("graphs", "distinct") in answers:
        same = sum(
            one == two
            for one, two in zip(
                answers["eager", "distinct"], answers["graphs", "distinct"], strict=True
            )
        )
        found["graphs_equal_eager_rows"] = same
    found["peft"] = peft
    kv_bytes = kv.bytes_per_token * streams * (arguments.prompt + n_tokens // 2)
    lora_bytes = adapters[0].nbytes * streams
    rate = bandwidth(device)
    found["floor"] = {
        "bandwidth_gb_s": round(rate / 1e9, 1),
        "base_step_ms": round((weight_bytes + kv_bytes) / rate * 1_000, 3),
        "distinct_step_ms": round((weight_bytes + kv_bytes + lora_bytes) / rate * 1_000, 3),
        "weight_mb": round(weight_bytes / 1e6, 1),
        "kv_mb": round(kv_bytes / 1e6, 1),
        "adapters_mb": round(lora_bytes / 1e6, 1),
    }
    inserts = insert_times(bank, adapters[0], device)
    found["insert_ms"] = {"median": round(statistics.median(inserts), 3), "max": max(inserts)}
    found["seconds"] = round(time.perf_counter() - start, 1)
    return found


def measure_peft(
    model: Any, spec: LoraSpec, prompts: list[list[int]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The baseline; the model is as it was afterwards."""
    streams = len(prompts)
    wrapped = with_peft(model, spec, streams)
    found: dict[str, Any] = {}
    for workload, slots in workloads(streams).items():
        if workload == "zipf":
            continue
        names = [f"a{slot}" if slot else "__base__" for slot in slots]
        times = decode_peft(wrapped, names, prompts, arguments.peft_tokens, arguments.device)
        step = statistics.median(times[1:]) * 1_000
        found[workload] = {
            "step_ms": round(step, 3),
            "tokens_per_s": round(streams / step * 1_000, 1),
        }
    wrapped.unload()
    return found


def ratio(step_ms: dict[str, list[float]], one: str, other: str) -> float:
    """Speed of *other* as a share of the speed of *one*."""
    return round(statistics.median(step_ms[one]) / statistics.median(step_ms[other]), 3)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2", "mistral-7b"])
    parser.add_argument("--smollm2", type=Path, help="directory of SmolLM2's weights")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peft", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peft-tokens", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--commit", default="unknown", help="goes into the JSON document")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    began = time.perf_counter()
    found = {}
    for name in arguments.models:
        directory = arguments.smollm2 if name == "smollm2" else None
        if directory is not None and not (directory / "config.json").is_file():
            directory = None
        if directory is not None:
            AutoConfig.from_pretrained(directory)
        found[name] = measure(name, directory, arguments) | {"weights_random": directory is None}
        print(json.dumps({name: found[name]}, indent=1), flush=True)
        gc.collect()
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    report(found, arguments, began)


def report(found: dict[str, Any], arguments: argparse.Namespace, began: float) -> None:
    """Print and write the document."""
    is_cuda = arguments.device == "cuda"
    device = torch.cuda.get_device_name() if is_cuda else f"cpu {platform.machine()}"
    kept = ("streams", "prompt", "tokens", "repeats", "peft_tokens")
    document = {
        "run": {
            "command": "python -m tests.bench.bench_engine_gpu",
            "commit": arguments.commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.perf_counter() - began, 1),
        },
        "setup": {
            "device": device,
            "packages": {name: version(name) for name in ("torch", "transformers", "peft")},
            "dtype": "bfloat16",
            **{name: getattr(arguments, name) for name in kept},
        },
        "metrics": found,
    }
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = device.lower().replace(" ", "-")
        path = arguments.out / f"engine--{name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
