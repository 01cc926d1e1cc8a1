"""
What the router adds to a request: real encoder, hypernetwork and library, an engine that echoes.

Each case is measured to the first piece and to the last, in turn with the same request straight to
the engine. ``near`` and ``verified`` are forced by thresholds, so that every request takes that
path; the single flight's figures come from 200 first requests in one process and over four.
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l_router import config, policy
from t2l_router.bootstrap import build_explainer
from t2l_router.engines.echo import EchoEngine
from t2l_router.policy import Thresholds
from t2l_router.router import Caller, Router
from t2l_router.wire import ChatRequest
from tests.bench.report import publish, spread
from tests.e2e.program import HYPERNET
from tests.flights import ask, ask_from
from tests.routers import open_store, request

if TYPE_CHECKING:
    from collections.abc import Callable

NEAR = Thresholds(score=-1, margin=-2, verify_score=-1, max_distance=2)
COMPARE = Thresholds(score=3, margin=3, verify_score=-1, max_distance=2)
STYLES = ("brief", "formal", "cheerful", "plain", "poetic", "technical", "friendly", "dry")
HELD = "Answer each question in one short sentence."
PLACES = (
    *("garden", "museum", "school", "harbour", "market", "library", "village", "theatre"),
    *("kitchen", "office", "bakery", "forest", "station", "palace", "bridge", "clinic"),
)
PEOPLE = (
    *("visitor", "driver", "teacher", "sailor", "farmer", "reader", "singer", "painter"),
    *("waiter", "clerk", "baker", "hunter", "porter", "prince", "walker", "doctor"),
)
HOURS = (
    *("morning", "winter", "lunch", "holiday", "evening", "autumn", "weekend", "summer"),
    *("breakfast", "midnight", "spring", "payday", "harvest", "election", "noon", "dawn"),
)


def told(i: int) -> str:
    """A description that nobody has sent before and that contradicts none of the others."""
    one, two = i % 16, i // 16 % 16
    # The third word follows from the others: any two texts differ in at least two words.
    place, person, hour = PLACES[one], PEOPLE[two], HOURS[(one + two) % 16]
    return f"{HELD[:-1]}, for a {person} who asks at the {place} around {hour} time."


def write(i: int) -> str:
    """A description of another task than those before."""
    return f"Rewrite paragraph {i} as a {STYLES[i % 8]} letter to customer number {i * 7919}."


async def timed(router: Router, chat: ChatRequest, kind: str) -> tuple[float, float]:
    """Milliseconds to the first and to the last piece."""
    start = time.perf_counter()
    answer = await router.chat(chat, Caller())
    assert answer.decision.kind == kind, answer.decision
    first_ms = 0.0
    async with aclosing(answer.deltas) as deltas:
        async for _ in deltas:
            first_ms = first_ms or (time.perf_counter() - start) * 1_000
    return first_ms, (time.perf_counter() - start) * 1_000


async def straight(engine: EchoEngine, chat: ChatRequest) -> tuple[float, float]:
    """The same without a router."""
    start = time.perf_counter()
    first_ms = 0.0
    async with aclosing(engine.stream_chat(chat, None)) as deltas:
        async for _ in deltas:
            first_ms = first_ms or (time.perf_counter() - start) * 1_000
    return first_ms, (time.perf_counter() - start) * 1_000


async def measure(router: Router, model: str, n: int) -> dict[str, Any]:
    """Every case in turn."""
    engine = EchoEngine()

    def chat(**fields: Any) -> ChatRequest:
        return request(model=model, **fields)

    def use(thresholds: Thresholds) -> None:
        router._library._thresholds["local"] = (time.monotonic() + 1e6, thresholds)

    use(policy.UNCALIBRATED)
    await timed(router, chat(t2l_description=HELD, t2l_session="bench"), "generated")
    cases: dict[str, tuple[Thresholds, str, Callable[[int], ChatRequest], int]] = {
        "base": (NEAR, "base", lambda _: chat(), n),
        "sticky": (NEAR, "sticky", lambda _: chat(t2l_session="bench"), n),
        "exact": (NEAR, "exact", lambda _: chat(t2l_description=HELD), n),
        "near": (NEAR, "reused", lambda i: chat(t2l_description=told(i)), n // 4),
        "verified": (COMPARE, "verified", lambda i: chat(t2l_description=told(120 + i)), n // 4),
        "generated": (
            policy.UNCALIBRATED,
            "generated",
            lambda i: chat(t2l_description=write(i)),
            n // 4,
        ),
    }
    metrics: dict[str, Any] = {}
    for name, (thresholds, kind, make, count) in cases.items():
        use(thresholds)
        firsts, lasts, plain = [], [], []
        for i in range(count + 10):
            subject = make(i)
            first_ms, last_ms = await timed(router, subject, kind)
            _, plain_ms = await straight(engine, subject)
            if i >= 10:
                firsts.append(first_ms)
                lasts.append(last_ms)
                plain.append(plain_ms)
        metrics[f"{name}_first_ms"] = spread(firsts)
        metrics[f"{name}_last_ms"] = spread(lasts)
        metrics[f"{name}_straight_ms"] = spread(plain)
    lone = []
    for i in range(50):
        start = time.perf_counter()
        await router._matcher.maker.embed(f"Only encode this sentence number {i}, please.")
        lone.append((time.perf_counter() - start) * 1_000)
    metrics["encoding_ms"] = spread(lone)
    return metrics


def flights() -> dict[str, Any]:
    """200 first requests for one task."""
    with tempfile.TemporaryDirectory() as directory:
        one = asyncio.run(ask(Path(directory), 200))
    with tempfile.TemporaryDirectory() as directory:
        with open_store(Path(directory)):
            pass
        four = ask_from(Path(directory), processes=4, requests=50)
    return {
        "flights_1_process_generations": one["generations"],
        "flights_1_process_s": one["took_s"],
        "flights_4_processes_generations": sum(part["generations"] for part in four),
        "flights_4_processes_adapters": len({name for part in four for name in part["adapters"]}),
        "flights_4_processes_s": max(part["took_s"] for part in four),
    }


async def overhead(settings: config.Settings, n: int) -> dict[str, Any]:
    """Build a router, measure, close."""
    router = build_explainer(settings)
    try:
        return await measure(router, router.model.name, n)
    finally:
        await router.close()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400, help="of the quick cases, up to 400")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        settings = config.load(
            {"data_dir": directory, "hypernet": HYPERNET, "generations_per_hour": 1_000_000}
        )
        metrics = asyncio.run(overhead(settings, arguments.n))
    metrics |= flights()
    publish("router", metrics, began=began, out=arguments.out, base_model=settings.base_model)


if __name__ == "__main__":
    main()
