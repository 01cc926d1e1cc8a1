"""
From a task description to its adapter in the engine, as a request pays for it.

    python -m tests.bench.bench_generate --out tests/bench/results
    python -m tests.bench.bench_generate --hypernet default --out tests/bench/results

Each description is new. Phases: the encoder, the base model that reads, the hypernetwork with
validation and content id, the copy into a slot. For the hypernetwork that takes embeddings, the
target is a median of 25 ms for all of them, on two cores.
"""

import argparse
import asyncio
import math
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from t2l_router import config, policy
from t2l_router.bootstrap import build_router
from t2l_router.router import Caller, Router
from t2l_router.wire import ChatRequest, Message
from tests.bench.report import publish, spread
from tests.e2e.program import HYPERNET

VERBS = ("Translate", "Summarise", "Classify", "Rewrite", "Explain", "Correct", "Extract", "Rank")
THINGS = ("the review", "the legal text", "the poem", "the bug report", "the recipe", "the email")
MANNERS = ("for children", "in one word", "as a list", "politely", "in French", "with reasons")
WARM_UP = 20

PHASES = ("lookup", "embed", "search", "claim", "read", "generate", "load")


def descriptions(n: int) -> list[str]:
    """Distinct sentences of ordinary length."""
    sentences = [f"{verb} {thing} {how}" for verb in VERBS for thing in THINGS for how in MANNERS]
    return [f"{sentences[i % len(sentences)]}, variant {i}" for i in range(n)]


async def measure(router: Router, n: int) -> dict[str, list[float]]:
    """Milliseconds per phase, for *n* descriptions nobody has asked for."""
    found: dict[str, list[float]] = {
        phase: [] for phase in ("description_to_adapter", *PHASES, "exact_hit")
    }
    # A new adapter for each, however near another one lies.
    router._library._thresholds["local"] = (math.inf, policy.UNCALIBRATED)
    for i, text in enumerate(descriptions(n + WARM_UP)):
        request = ChatRequest(
            model=router.model.name,
            messages=[Message(role="user", content="hi")],
            t2l_description=text,
            t2l_required=True,
        )
        start = time.perf_counter()
        answer = await router.chat(request, Caller())
        total = (time.perf_counter() - start) * 1_000
        await answer.deltas.aclose()
        start = time.perf_counter()
        async with aclosing((await router.chat(request, Caller())).deltas):
            again = (time.perf_counter() - start) * 1_000
        if i >= WARM_UP:
            for phase in PHASES:
                found[phase].append(answer.timing_ms.get(phase, 0.0))
            found["description_to_adapter"].append(total)
            found["exact_hit"].append(again)
    await router.close()
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="descriptions")
    parser.add_argument("--hypernet", default=HYPERNET)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        settings = config.load(
            {
                "data_dir": directory,
                "hypernet": arguments.hypernet,
                "generations_per_hour": 1_000_000,
            }
        )
        found = asyncio.run(measure(build_router(settings), arguments.n))
    publish(
        "generate" if arguments.hypernet == HYPERNET else f"generate-{arguments.hypernet}",
        {f"{phase}_ms": spread(times) for phase, times in found.items()},
        began=began,
        out=arguments.out,
        module=f"bench_generate --hypernet {arguments.hypernet}",
        hypernet=arguments.hypernet,
        base_model=settings.base_model,
        dtype=settings.dtype,
        slots=settings.slots,
    )


if __name__ == "__main__":
    main()
