"""
Random joins, leaves, cancels and evictions, with a checker beside them.

    python -m tests.bench.soak_engine --minutes 30
    python -m tests.bench.soak_engine --minutes 30 --model smollm2    # the kernels, where they run

A model answers requests of random lengths, adapters and sampling; there are more adapters than
slots and more requests than rows, a tenth of them go away early, some adapters are poisoned. One in
*check-one-in* answers is asked again of an engine that runs nothing else and holds no earlier
turns. Memory is read every ten seconds.

A small random model in float32 has to give the very same answer. The real one, as it is served on
this CPU, answers greedily: kept turns were computed step by step, which differs in bfloat16's last
bits from reading them anew, so it may take another token where the two are nearly as likely.
"""

import argparse
import asyncio
import gc
import os
import random
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch

from t2l_router import config
from t2l_router.bootstrap import load_engine_model
from t2l_router.engines.base import AdapterRef, Delta, TokenLogprob
from t2l_router.engines.local import EngineLimits, LocalEngine
from t2l_router.errors import EngineBusy, EngineFailed, PromptTooLong
from t2l_router.lora import LoraSpec
from t2l_router.models import LocalModel, pull
from t2l_router.wire import ChatRequest
from tests.bench.report import publish, resident_mib, spread
from tests.tiny_engine import request, tiny_adapter, tiny_engine
from tests.tiny_models import save_tiny_gemma, save_tiny_llama

REAL = "smollm2"
# Nats that another token may be behind the likeliest, and that two computations of a token's log
# probability may differ: two steps of bfloat16 at logits of 16 to 32.
NEAR_TIE = APART = 0.25
N_ADAPTERS, N_SLOTS, N_ROWS, N_CLIENTS = 12, 4, 6, 10
POISONED = 3  # the number of the adapter that makes NaN
TALK = ("hello ", "and then? ", "tell me more ", "x", "12345 ")


@dataclass
class Findings:
    """What the clients saw."""

    answered: int = 0
    cancelled: int = 0
    refused: int = 0
    poisoned: int = 0
    checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    near_ties: list[float] = field(default_factory=list)  # nats that the other token was behind
    logprobs_apart: float = 0.0  # the most that a token's differed
    memory_mib: list[float] = field(default_factory=list)


@dataclass
class Soak:
    """
    Two engines over the same weights: one that everybody uses, one for checking.

    Args:
        busy: Everybody's.
        quiet: Makes a fresh engine for checking.
        adapters: Of every request but those of the base model.
        check_one_in: How often an answer is checked.
        is_real: Whether they are served in bfloat16, and greedily.
    """

    busy: LocalEngine
    quiet: LocalEngine
    adapters: list[AdapterRef]
    check_one_in: int
    is_real: bool = False
    findings: Findings = field(default_factory=Findings)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def client(self, number: int, until: float) -> None:
        """Hold conversations until it is time."""
        dice = random.Random(number)
        turns: list[dict[str, str]] = []
        adapter: AdapterRef | None = None
        while time.monotonic() < until:
            if not turns or len(turns) > 4 or dice.random() < 0.3:
                turns = []
                choice = dice.randrange(N_ADAPTERS + 2)
                adapter = self.adapters[choice] if choice < N_ADAPTERS else None
            said = dice.choice(TALK) * dice.choice([1, 1, 3, 10])
            turns.append({"role": "user", "content": said})
            asked = request(messages=turns, **(draw_greedy if self.is_real else draw)(dice))
            text = await self.ask(asked, adapter, dice)
            if text is None:
                turns = []
            else:
                turns.append({"role": "assistant", "content": text[:40]})

    async def ask(
        self, asked: ChatRequest, adapter: AdapterRef | None, dice: random.Random
    ) -> str | None:
        """One request; its answer, unless it was cut short."""
        found, deltas = self.findings, list[Delta]()
        leave_after = dice.randrange(1, 6) if dice.random() < 0.1 else None
        is_poisoned = adapter is self.adapters[POISONED]
        try:
            async with aclosing(self.busy.stream_chat(asked, adapter)) as stream:
                async for delta in stream:
                    deltas.append(delta)
                    if leave_after is not None and (leave_after := leave_after - 1) == 0:
                        found.cancelled += 1
                        return None
        except EngineBusy:
            found.refused += 1
            await asyncio.sleep(0.01)
            return None
        except PromptTooLong:  # the conversation is over
            return None
        except EngineFailed as error:
            if not is_poisoned:
                found.mismatches.append(f"failed: {error}")
            found.poisoned += 1
            return None
        if is_poisoned:
            found.mismatches.append("a poisoned adapter gave an answer")
        found.answered += 1
        if dice.randrange(self.check_one_in) == 0:
            await self.check(asked, adapter, deltas)
        return text_of(deltas)

    async def check(
        self, asked: ChatRequest, adapter: AdapterRef | None, given: list[Delta]
    ) -> None:
        """Ask again, alone and without earlier turns."""
        async with self.lock:
            unshared = asked.model_copy(update={"cache_salt": os.urandom(8).hex()})
            wanted = [delta async for delta in self.quiet.stream_chat(unshared, adapter)]
        self.findings.checked += 1
        if self.is_real:
            fault = self.compare_tokens(given, wanted)
        else:
            fault = text_of(given) != text_of(wanted)
        if fault:
            name = adapter.adapter_id if adapter else "base"
            told = f"{name}: {text_of(given)!r} should be {text_of(wanted)!r}"
            self.findings.mismatches.append(told)

    def compare_tokens(self, given: list[Delta], wanted: list[Delta]) -> bool:
        """Whether an answer is another one, and not for a near tie."""
        found = self.findings
        for ours, theirs in zip(tokens_of(given), tokens_of(wanted), strict=True):
            if ours.data != theirs.data:
                # Parts of a character have one text: of several the likeliest is meant.
                likely = [token.logprob for token in theirs.top if token.data == ours.data]
                behind = theirs.logprob - max(likely, default=-inf)
                found.near_ties.append(behind)
                return behind > NEAR_TIE
            apart = abs(ours.logprob - theirs.logprob)
            found.logprobs_apart = max(found.logprobs_apart, apart)
            if apart > APART:
                return True
        return False

    async def watch(self, until: float, every_s: float) -> None:
        """Read the memory."""
        while time.monotonic() < until:
            await asyncio.sleep(every_s)
            gc.collect()
            self.findings.memory_mib.append(resident_mib(os.getpid()))


def text_of(deltas: list[Delta]) -> str:
    """An answer's text."""
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas: list[Delta]) -> list[TokenLogprob]:
    """An answer's tokens, the one that ends it included."""
    return [token for delta in deltas for token in delta.logprobs]


def draw_greedy(dice: random.Random) -> dict[str, Any]:
    """How one request is answered whose tokens are compared by their likelihood."""
    # The token that ends an answer is compared like any other, so answers don't end with it.
    shown = {"logprobs": True, "top_logprobs": 5, "ignore_eos": True}
    return {"max_tokens": dice.choice([1, 4, 12, 40])} | shown


def draw(dice: random.Random) -> dict[str, Any]:
    """How one request is answered."""
    fields: dict[str, Any] = {"max_tokens": dice.choice([1, 4, 12, 40])}
    if dice.random() < 0.3:
        fields |= {"temperature": 0.8, "seed": dice.randrange(1_000)}
    if dice.random() < 0.1:
        fields |= {"stop": ["a", "ZZ"]}
    if dice.random() < 0.1:
        fields |= {"presence_penalty": 0.5, "repetition_penalty": 1.1}
    return fields


def tiny_model(kind: str, folder: Path) -> LocalModel:
    """A random model of a kind, pulled from a directory."""
    source = folder / kind
    source.mkdir()
    {"llama": save_tiny_llama, "gemma": save_tiny_gemma}[kind](source)
    return pull(str(source), cache_dir=folder / "cache")


def served_engine(base: LocalModel, **limits: int) -> tuple[LocalEngine, LoraSpec]:
    """An engine as `t2l serve` has it on a CPU, and the spec of its adapters."""
    model, tokenizer = load_engine_model(base, config.load({"device": "cpu"}))
    spec = LoraSpec.from_model(model, base_model=base.name, base_fingerprint=base.fingerprint)
    return LocalEngine(model, tokenizer, spec=spec, limits=EngineLimits(**limits)), spec


async def soak(
    base: LocalModel, *, seconds: float, check_one_in: int, is_real: bool = False
) -> Findings:
    """Run all clients for a while."""
    engine = served_engine if is_real else tiny_engine
    token_bytes, size = (23_040, 0.02) if is_real else (512, 0.3)
    busy, spec = engine(base, slots=N_SLOTS, max_running=N_ROWS, max_waiting=2)
    # Little memory for keys and values, so that it runs out and earlier turns are dropped.
    busy._kv.budget_bytes = 3072 * token_bytes
    quiet, _ = engine(base, slots=1, max_running=1)
    quiet._kv.budget_bytes = 1024 * token_bytes  # or what it keeps would look like a leak
    adapters = [
        tiny_adapter(spec, number, scale=float("nan") if number == POISONED else size)
        for number in range(N_ADAPTERS)
    ]
    run = Soak(busy, quiet, adapters, check_one_in, is_real)
    until = time.monotonic() + seconds
    clients = [run.client(number, until) for number in range(N_CLIENTS)]
    await asyncio.gather(*clients, run.watch(until, min(10.0, seconds / 4)))
    health = busy.health()
    if health.running or health.waiting:
        run.findings.mismatches.append(f"left behind: {health}")
    await asyncio.gather(busy.close(), quiet.close())
    return run.findings


def main() -> None:
    """Soak and report; the exit status says whether it was dry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--check-one-in", type=int, default=20)
    parser.add_argument("--model", choices=["llama", "gemma", REAL], default="llama")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    is_real = arguments.model == REAL
    began = time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = (
            pull("smollm2-135m-instruct", cache_dir=config.load({}).cache_dir)
            if is_real
            else tiny_model(arguments.model, Path(folder))
        )
        seconds = arguments.minutes * 60
        found = asyncio.run(
            soak(base, seconds=seconds, check_one_in=arguments.check_one_in, is_real=is_real)
        )
    print("\n".join(found.mismatches[:10]))
    memory = found.memory_mib
    # The first tenth fills caches.
    settled = memory[len(memory) // 10 :]
    publish(
        "soak-engine-real" if is_real else "soak-engine",
        {
            **{name: getattr(found, name) for name in ("answered", "cancelled", "refused")},
            "poisoned": found.poisoned,
            "checked": found.checked,
            "mismatches": len(found.mismatches),
            "near_ties": len(found.near_ties),
            "near_ties_nats_at_most": round(max(found.near_ties, default=0.0), 4),
            "logprobs_apart_nats_at_most": round(found.logprobs_apart, 4),
            "memory_mib_early": round(settled[0], 1),
            "memory_mib_end": round(settled[-1], 1),
            "memory_mib": spread(settled),
        },
        began=began,
        out=arguments.out,
        module="soak_engine",
        minutes=arguments.minutes,
        model=f"{base.name}, as served" if is_real else f"random {arguments.model}, float32",
    )
    raise SystemExit(bool(found.mismatches))


if __name__ == "__main__":
    main()
