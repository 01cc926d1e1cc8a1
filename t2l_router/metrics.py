"""
What Prometheus reads.

No label holds anything that a client chooses: routes, decisions, ends and phases are closed sets,
and neither tenants nor adapters are labels. So the number of series has a bound.
"""

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

from t2l_router.observing import Exchange
from t2l_router.readiness import Readiness

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES = frozenset(
    {
        "describe",
        "session",
        "infer",
        "lookup",
        "embed",
        "search",
        "claim",
        "read",
        "generate",
        "compare",
        "store",
        "load",
        "first_token",
    }
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS_PER_S = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Metrics:
    """
    Counts exchanges and reads the engine's health.

    Args:
        readiness: Holds the router, once there is one.
        slots: Adapters that fit into the engine at once; None if it has no slots.
        shared: Where several processes add up what they count; whichever is asked tells it all.
    """

    def __init__(
        self, readiness: Readiness, *, slots: int | None = None, shared: Path | None = None
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._readiness = readiness
        self._shared = shared
        self._requests = Counter(
            "t2l_requests", "HTTP requests.", ("route", "method", "status"), registry=registry
        )
        self._request_s = Histogram(
            "t2l_request_seconds",
            "Until the last byte was sent.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers = Counter(
            "t2l_answers",
            "Answers by how the adapter was chosen and why the answer ended.",
            ("decision", "end"),
            registry=registry,
        )
        self._first_token_s = Histogram(
            "t2l_first_token_seconds",
            "From the decision to the first token.",
            ("decision",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._phase_s = Histogram(
            "t2l_phase_seconds",
            "Parts of finding or making an adapter.",
            ("phase",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "t2l_tokens", "Tokens read (prompt) and written (completion).", ("kind",),
            registry=registry,
        )  # fmt: skip
        self._tokens_per_s = Histogram(
            "t2l_tokens_per_second",
            "Of one answer, after its first token.",
            buckets=_TOKENS_PER_S,
            registry=registry,
        )
        self._ready = Gauge(
            "t2l_ready",
            "Whether requests are answered, by all processes.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._running, self._waiting, self._resident = (
            Gauge(f"t2l_engine_{name}", meaning, multiprocess_mode="livesum", registry=registry)
            for name, meaning in (
                ("running", "Requests being answered."),
                ("waiting", "Requests in the queue."),
                ("resident_adapters", "Adapters in the engine."),
            )
        )
        if slots is not None:
            fitting = Gauge(
                "t2l_engine_slots",
                "Adapters that fit.",
                multiprocess_mode="livesum",
                registry=registry,
            )
            fitting.set(slots)
        if shared is None:
            ProcessCollector(registry=registry)

    def observe(self, exchange: Exchange) -> None:
        """Count an exchange."""
        route, status = exchange.route, str(exchange.status)
        self._requests.labels(route, exchange.method, status).inc()
        self._request_s.labels(route).observe(exchange.duration_s)
        for outcome in exchange.outcomes:
            kind = outcome.decision.kind
            self._answers.labels(kind, outcome.end).inc()
            self._tokens.labels("prompt").inc(outcome.usage.prompt_tokens)
            self._tokens.labels("completion").inc(outcome.usage.completion_tokens)
            for phase, ms in outcome.timing_ms.items():
                self._phase_s.labels(phase if phase in PHASES else "other").observe(ms / 1_000)
            if outcome.first_token_s is None:
                continue
            self._first_token_s.labels(kind).observe(outcome.first_token_s)
            rest_s = outcome.duration_s - outcome.first_token_s
            if outcome.usage.completion_tokens > 1 and rest_s > 0:
                self._tokens_per_s.observe((outcome.usage.completion_tokens - 1) / rest_s)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        self.refresh()
        if self._shared is None:
            return generate_latest(self._registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, path=str(self._shared))
        return generate_latest(everybody)

    def refresh(self) -> None:
        """Read the engine's health."""
        self._ready.set(float(self._readiness.is_ready))
        if self._readiness.is_loaded:
            health = self._readiness.router.health()
            self._running.set(health.running)
            self._waiting.set(health.waiting)
            self._resident.set(len(health.resident))

    async def keep_fresh(self) -> None:
        """Read it every second until cancelled: who is asked can't ask the other processes."""
        while True:
            self.refresh()
            await asyncio.sleep(1)
