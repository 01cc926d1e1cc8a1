"""
Adapters written by a hypernetwork that reads tokens: how long it takes and what it holds in memory.

    python -m tests.bench.bench_reading --out tests/bench/results

Each task is new: a sentence, a system prompt of 100 words that nobody describes, three examples,
and as many examples as are read at most. The memory is that of ``t2l serve`` with such a
hypernetwork and with the one that reads embeddings, idle and after the same work.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from t2l_router import config
from t2l_router.bootstrap import build_router
from t2l_router.router import Caller, Router
from t2l_router.wire import ChatRequest, Example, Message
from tests.bench.report import publish, resident_mib, spread
from tests.e2e.program import serving

HYPERNET = "default-examples"
WARM_UP = 2
PHASES = ("infer", "embed", "read", "generate", "load")
HELLO = [Message(role="user", content="The parcel came two days late and the box was open.")]
PROMPT = (
    "You sort what customers of the shop number {} write to us. Read the message and decide which "
    "of five desks should get it: delivery, billing, returns, technical help, or praise. Answer "
    "with the name of the desk alone, in small letters, and with nothing before or behind it. If a "
    "message belongs to two desks, name the one that the customer mentions first. If it is about "
    "money in any way, billing always wins over the others. Never answer the message itself, never "
    "apologise to the customer, and never make up a desk that is not among the five that are named "
    "above."
)
EXAMPLES = (
    ("Where is my parcel? It was to come on Monday, order {}", "delivery"),
    ("I was charged twice for the same shoes", "billing"),
    ("The lamp works very well, thank you so much!", "praise"),
)


def tasks(i: int) -> dict[str, dict[str, Any]]:
    """What requests bring, by its kind; new for each number."""
    shown = [Example(input=text.format(i), output=output) for text, output in EXAMPLES]
    sentence = f"Name the desk that should get the customer's message, shop {i}."
    system = Message(role="system", content=PROMPT.format(i))
    return {
        "sentence": {"t2l_description": sentence},
        "system_prompt": {"messages": [system, *HELLO]},
        "three_examples": {"t2l_examples": shown},
        "sixteen_examples": {"t2l_examples": (shown * 6)[:16]},
    }


async def measure(router: Router, n: int) -> dict[str, list[float]]:
    """Milliseconds until the engine has the adapter, and per phase."""
    found: dict[str, list[float]] = {}
    for i in range(n + WARM_UP):
        for kind, fields in tasks(i).items():
            request = ChatRequest(**{"model": router.model.name, "messages": HELLO} | fields)
            start = time.perf_counter()
            answer = await router.chat(request, Caller())
            total = (time.perf_counter() - start) * 1_000
            await answer.deltas.aclose()
            # Compared with a held one, it has been written all the same.
            assert answer.decision.kind in ("generated", "verified"), (kind, answer.decision)
            if i < WARM_UP:
                continue
            found.setdefault(f"{kind}_ms", []).append(total)
            for phase in PHASES:
                if phase in answer.timing_ms:
                    name = f"{kind}_{phase}_ms"
                    found.setdefault(name, []).append(answer.timing_ms[phase])
    await router.close()
    return found


def memory(hypernet: str) -> dict[str, float]:
    """MiB in RAM of a server, and seconds until it is ready."""
    given = config.load()
    began = time.perf_counter()
    variables = {
        "T2L_CACHE_DIR": str(given.cache_dir),
        "T2L_HYPERNET": hypernet,
        "T2L_GENERATION_TIMEOUT_S": "60",
    }
    with tempfile.TemporaryDirectory() as cwd, serving(cwd=Path(cwd), **variables) as program:
        program.wait_ready()
        found = {"ready_s": round(time.perf_counter() - began, 2)}
        process = program.process.pid
        found["resident_idle_mib"] = round(resident_mib(process), 1)
        body = {"model": given.base_model, "max_tokens": 8, "t2l_required": True}
        body["messages"] = [{"role": "user", "content": HELLO[0].content}]
        with httpx.Client(base_url=program.url, timeout=300) as client:
            for i in range(8):
                client.post(
                    "/v1/chat/completions", json=body | {"t2l_description": PROMPT.format(i)}
                ).raise_for_status()
        found["resident_after_work_mib"] = round(resident_mib(process), 1)
        found["of_that_not_of_files_mib"] = round(resident_mib(process, "RssAnon"), 1)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hypernet", default=HYPERNET, help="one that reads tokens")
    parser.add_argument("--n", type=int, default=40, help="tasks of each kind")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    metrics: dict[str, Any] = {}
    for name, hypernet in (("reads", arguments.hypernet), ("embeddings", "default-sentences")):
        metrics |= {f"{name}_{key}": value for key, value in memory(hypernet).items()}
    with tempfile.TemporaryDirectory() as directory:
        changes = {"data_dir": directory, "hypernet": arguments.hypernet}
        unbounded = {"generations_per_hour": 10**6, "generation_timeout_s": 60}
        settings = config.load(changes | unbounded)
        found = asyncio.run(measure(build_router(settings), arguments.n))
    publish(
        "reading" if arguments.hypernet == HYPERNET else "reading-together",
        metrics | {name: spread(times) for name, times in found.items()},
        began=began,
        out=arguments.out,
        module="bench_reading",
        base_model=settings.base_model,
        hypernet=arguments.hypernet,
        embeddings_hypernet="default-sentences",
    )


if __name__ == "__main__":
    main()
