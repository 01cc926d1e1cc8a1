"""The one orchestrator: from a request to an adapter, with the reasons, and to the answer."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from t2l_router import describe
from t2l_router.engines.base import AdapterRef, Delta, Engine, EngineHealth, Weights
from t2l_router.errors import (
    AdapterError,
    EngineError,
    GenerationFailed,
    InvalidRequest,
    UnknownAdapter,
    UnknownModel,
)
from t2l_router.library import MemoryLibrary
from t2l_router.wire import ChatRequest

logger = logging.getLogger(__name__)

DecisionKind = Literal["exact", "generated", "explicit", "base"]
PREFIX = "t2l:"
BASE = "base"


class Encoder(Protocol):
    """Turns task descriptions into task embeddings."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``[N, D]`` float32 of unit L2 norm."""


class Generator(Protocol):
    """Turns task embeddings into adapters."""

    def generate(self, embeddings: NDArray[np.float32]) -> Sequence[Weights]:
        """Write one adapter per row of ``[N, D]``."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """
    The base model as clients know it.

    Args:
        name: What ``/v1/models`` shows.
        fingerprint: Of its config, weights and tokenizer.
        aliases: Other names a request may use for it.
    """

    name: str
    fingerprint: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What generation may cost a request.

    Args:
        timeout_s: Longest wait for a new adapter.
        max_generating: Adapters being written or waiting to be.
    """

    timeout_s: float = 5.0
    max_generating: int = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """
    What the transport knows about a request besides its body.

    Args:
        tenant: Whose adapters may serve; never taken from the body.
        description: The header ``X-T2L-Description`` as it came.
    """

    tenant: str = "local"
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Which adapter serves and why.

    Args:
        kind: How it was chosen.
        reason: Why, for people; says nothing about the conversation.
        adapter: None is the base model.
    """

    kind: DecisionKind
    reason: str
    adapter: AdapterRef | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A decision and the answer as it comes; whoever takes it closes *deltas*.

    Args:
        decision: Which adapter serves and why.
        deltas: The answer's pieces. Nothing runs before the first is asked for.
        timing_ms: What each phase took so far.
    """

    decision: Decision
    deltas: AsyncGenerator[Delta, None]
    timing_ms: dict[str, float] = field(default_factory=dict)


class Router:
    """
    Finds or makes the adapter for each request and has the engine answer with it.

    Args:
        model: The base model.
        engine: Produces tokens.
        encoder: Embeds task descriptions.
        generator: Writes adapters.
        library: Holds them.
        limits: Bounds on generation.
    """

    def __init__(
        self,
        *,
        model: ServedModel,
        engine: Engine,
        encoder: Encoder,
        generator: Generator,
        library: MemoryLibrary,
        limits: Limits,
    ) -> None:
        self.model = model
        self._engine = engine
        self._encoder = encoder
        self._generator = generator
        self._library = library
        self._limits = limits
        # One thread, because generations side by side would only make each of them slower.
        self._thread = ThreadPoolExecutor(1, "t2l-generate")
        self._flights: dict[tuple[str, str], asyncio.Task[tuple[AdapterRef, dict[str, float]]]] = {}

    async def chat(self, request: ChatRequest, caller: Caller) -> Answer:
        """
        Decide which adapter serves a request and prepare its answer.

        Args:
            request: The conversation and how to answer it.
            caller: Who asks.

        Raises:
            RequestError: The request can't be served as it is.
            GenerationFailed: There is no adapter and the request insists on one.
        """
        timing_ms: dict[str, float] = {}
        decision = await self._decide(request, caller, timing_ms)
        deltas = self._engine.stream_chat(request, decision.adapter)
        return Answer(decision, deltas, timing_ms)

    def models(self, tenant: str) -> list[str]:
        """Every value of ``model`` that the tenant's requests may use."""
        adapters = [f"{PREFIX}{adapter_id}" for adapter_id in self._library.ids(tenant)]
        return [self.model.name, f"{PREFIX}{BASE}", *adapters]

    def health(self) -> EngineHealth:
        """How the engine is doing."""
        return self._engine.health()

    async def close(self) -> None:
        """Stop generating and close the engine."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._engine.close()

    async def _decide(
        self, request: ChatRequest, caller: Caller, timing_ms: dict[str, float]
    ) -> Decision:
        chosen = self._chosen(request)
        with _timed(timing_ms, "describe"):
            task = describe.task_of(request, caller.description)
        if chosen == BASE:
            return Decision("base", "the request asks for the base model")
        if chosen is not None:
            adapter = self._library.get(caller.tenant, chosen)
            if adapter is None:
                raise UnknownAdapter(
                    f"no adapter {chosen[:80]!r}; /v1/models lists those held",
                    param="t2l_adapter" if request.t2l_adapter else "model",
                )
            return Decision("explicit", "the request names this adapter", adapter)
        if task is None:
            if request.t2l_required:
                raise InvalidRequest(
                    "t2l_required needs a task: give t2l_description or t2l_adapter",
                    param="t2l_required",
                )
            return Decision("base", "no task description")
        if adapter := self._library.find(caller.tenant, task.text):
            return Decision("exact", "an adapter for this description is held", adapter)
        try:
            adapter, phases_ms = await self._generated(caller.tenant, task.text)
        except (AdapterError, EngineError) as error:
            if request.t2l_required:
                raise GenerationFailed(f"no adapter for this task: {error}") from error
            return Decision("base", f"no adapter for this task: {error}")
        timing_ms |= phases_ms
        return Decision("generated", "a new adapter was written for this description", adapter)

    def _chosen(self, request: ChatRequest) -> str | None:
        """Which adapter the request names: ``base``, an id, or None for the one that fits."""
        chosen = request.t2l_adapter
        if request.model.startswith(PREFIX):
            named = request.model.removeprefix(PREFIX)
            if chosen not in (None, named):
                raise InvalidRequest(
                    "model and t2l_adapter name different adapters; give one of them",
                    param="t2l_adapter",
                )
            chosen = named
        elif request.model not in (self.model.name, *self.model.aliases):
            raise UnknownModel(
                f"no model {request.model[:80]!r} is served here; use {self.model.name!r}",
                param="model",
            )
        if chosen == BASE and request.t2l_required:
            raise InvalidRequest(
                "t2l_required and the base model contradict each other", param="t2l_required"
            )
        return chosen

    async def _generated(self, tenant: str, text: str) -> tuple[AdapterRef, dict[str, float]]:
        """
        Wait for the adapter that is being written for this description; start it if nobody has.

        Raises:
            GenerationFailed: It failed, takes too long, or too many are being written.
            InvalidAdapter: The engine refuses it.
        """
        flight = self._flights.get((tenant, text))
        if flight is None:
            if len(self._flights) >= self._limits.max_generating:
                raise GenerationFailed(f"{len(self._flights)} adapters are being written already")
            flight = asyncio.create_task(self._generate(tenant, text))
            self._flights[tenant, text] = flight
            flight.add_done_callback(lambda done: self._land((tenant, text), done))
        try:
            # Shielded: who gives up waiting doesn't take the adapter from the others.
            return await asyncio.wait_for(asyncio.shield(flight), self._limits.timeout_s)
        except TimeoutError:
            raise GenerationFailed(f"not ready within {self._limits.timeout_s:g} s") from None

    def _land(
        self, key: tuple[str, str], flight: "asyncio.Task[tuple[AdapterRef, dict[str, float]]]"
    ) -> None:
        del self._flights[key]
        if not flight.cancelled() and (error := flight.exception()):
            logger.error("no adapter was written: %s", error, exc_info=error.__cause__)

    async def _generate(self, tenant: str, text: str) -> tuple[AdapterRef, dict[str, float]]:
        timing_ms: dict[str, float] = {}
        loop = asyncio.get_running_loop()
        adapter = await loop.run_in_executor(self._thread, self._write, text, timing_ms)
        with _timed(timing_ms, "load"):
            await self._engine.ensure(adapter)
        self._library.add(tenant, text, adapter)
        return adapter, timing_ms

    def _write(self, text: str, timing_ms: dict[str, float]) -> AdapterRef:
        try:
            with _timed(timing_ms, "embed"):
                embeddings = self._encoder.embed([text])
            with _timed(timing_ms, "generate"):
                (weights,) = self._generator.generate(embeddings)
                # The id is a hash over the tensors, taken here and not on the event loop.
                return AdapterRef(weights.adapter_id, weights)
        except AdapterError:
            raise
        except Exception as error:
            # A chat must survive whatever breaks in here, our bugs and torch's errors included.
            raise GenerationFailed("the hypernetwork broke; the log says how") from error


@contextmanager
def _timed(timing_ms: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timing_ms[phase] = (time.perf_counter() - start) * 1_000
