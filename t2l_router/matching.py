"""From a task description to the adapter that serves it: held, compared, or new."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from adapters_store import Hit, Task
from adapters_store.names import text_hash
from t2l_router import policy
from t2l_router.adapters import Adapters
from t2l_router.describe import TaskDescription
from t2l_router.engines.base import AdapterRef, Weights
from t2l_router.errors import AdapterError, GenerationFailed, LibraryUnavailable
from t2l_router.flights import Flights
from t2l_router.library import Claim, Library, is_own
from t2l_router.maker import Maker, timed
from t2l_router.writes import Writes

logger = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.03  # while another router writes the same adapter
_HELD = "an adapter for {} is held"


def _nothing() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


class Inspector(Protocol):
    """Looks at a new adapter before anyone reuses it."""

    async def doubts(self, adapter: AdapterRef) -> Mapping[str, float | int] | None:
        """Say what speaks against it, by name; None if nothing does."""


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
class Found:
    """
    The adapter for a task.

    Args:
        kind: How it was found.
        reason: The same for people.
        adapter: The adapter.
        reasons: What the decision was taken from; None where the library was away.
        distance: Delta-W distance of the new adapter and the held one, if they were compared.
        kept: Done when the library has it; None if there is nothing to write.
        timing_ms: What each phase took.
    """

    kind: Literal["exact", "reused", "verified", "generated"]
    reason: str
    adapter: AdapterRef
    reasons: policy.Reasons | None = None
    distance: float | None = None
    kept: "asyncio.Task[None] | None" = None
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What would serve a task; nothing was stored for it.

    Args:
        decision: The policy's last word.
        distance: As in `Found`.
    """

    decision: policy.Decision
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class _Query:
    """One task on its way: the policy's first word, and what is needed to go on."""

    tenant: str
    task: TaskDescription
    decision: policy.Decision
    embedding: NDArray[np.float32] = field(default_factory=_nothing)  # an exact hit has none
    hits: tuple[Hit, ...] = ()


class Matcher:
    """
    Finds or makes the adapter of a task.

    Args:
        maker: Writes adapters.
        library: Finds and keeps them.
        adapters: Holds those in use.
        limits: Bounds on generation.
        inspector: Looks at new adapters before others reuse them; None lets them in.
    """

    def __init__(
        self,
        *,
        maker: Maker,
        library: Library,
        adapters: Adapters,
        limits: Limits,
        inspector: Inspector | None = None,
    ) -> None:
        self.maker = maker
        self._library = library
        self._adapters = adapters
        self._limits = limits
        self._inspector = inspector
        self._flights: Flights[tuple[str, str], Found] = Flights(limits.max_generating)
        self._writes = Writes()
        self._fresh: dict[tuple[str, str], Found] = {}  # until the library has them

    async def find(self, task: TaskDescription, *, tenant: str) -> Found:
        """
        The adapter for a task, written if there is none; equal requests share the work.

        Raises:
            InvalidRequest: It brings examples, and the hypernetwork reads none.
            AdapterError: There is none, and none could be written in time.
        """
        self.maker.check(task)
        key = (tenant, text_hash(task.label))
        if fresh := self._fresh.get(key):
            return fresh
        return await self._flights.join(
            key, lambda: self._find(task, tenant), timeout_s=self._limits.timeout_s
        )

    async def preview(self, task: TaskDescription, *, tenant: str) -> Preview:
        """
        Decide as `find` would, but store nothing.

        Raises:
            InvalidRequest: It brings examples, and the hypernetwork reads none.
            LibraryUnavailable: The library is away.
            AdapterError: What had to be compared could not be.
        """
        self.maker.check(task)
        query = await self._look(task, tenant, {})
        if not isinstance(query.decision, policy.Verify):
            return Preview(query.decision)
        weights, _ = await self.maker.write(task, query.embedding, {})
        distance = await self._distance(query, query.decision, weights, {})
        return Preview(policy.settle(query.decision, distance), distance)

    async def settle(self) -> None:
        """Wait until the library has everything."""
        await self._writes.settle()

    async def close(self) -> None:
        """Stop generating, after what was begun has been stored."""
        await self._flights.close()
        await self.settle()
        self.maker.close()

    async def _find(self, task: TaskDescription, tenant: str) -> Found:
        timing_ms: dict[str, float] = {}
        try:
            query = await self._look(task, tenant, timing_ms)
            decision = query.decision
            if isinstance(decision, policy.Reuse):
                return await self._reused(query, decision, timing_ms)
            return await self._written(query, timing_ms)
        except LibraryUnavailable as error:
            return await self._without_library(task, tenant, timing_ms, str(error))

    async def _look(
        self, task: TaskDescription, tenant: str, timing_ms: dict[str, float]
    ) -> _Query:
        """Ask the library and the policy."""
        with timed(timing_ms, "lookup"):
            record = await self._library.exact(task.label, tenant=tenant)
            thresholds = await self._library.thresholds(tenant=tenant)
        if record is not None:
            decision = policy.decide(
                task.text, [], tenant=tenant, thresholds=thresholds, exact=record
            )
            return _Query(tenant, task, decision)
        with timed(timing_ms, "embed"):
            embedding = await self.maker.embed(task)
        hits: list[Hit] = []
        if not task.is_alone:
            with timed(timing_ms, "search"):
                hits = await self._library.search(
                    embedding, tenant=tenant, at_least=thresholds.least_score
                )
        decision = policy.decide(task.text, hits, tenant=tenant, thresholds=thresholds)
        return _Query(tenant, task, decision, embedding, tuple(hits))

    async def _reused(
        self, query: _Query, decision: policy.Reuse, timing_ms: dict[str, float]
    ) -> Found:
        with timed(timing_ms, "load"):
            adapter = await self._adapters.fetch(decision.adapter_id, tenant=query.tenant)
        if decision.how == "exact":
            reason = _HELD.format(query.task.told_by)
            return Found("exact", reason, adapter, decision.reasons, timing_ms=timing_ms)
        kept = self._described(query, decision, None)
        reason = "a held adapter's description is near enough"
        return Found("reused", reason, adapter, decision.reasons, kept=kept, timing_ms=timing_ms)

    async def _written(self, query: _Query, timing_ms: dict[str, float]) -> Found:
        """Write an adapter, unless another router is at it; compare it if there is doubt."""
        with timed(timing_ms, "claim"):
            claim = await self._claimed(query)
        if claim.record is not None:
            adapter = await self._adapters.fetch(claim.record.id, tenant=query.tenant)
            reasons = query.decision.reasons
            reason = f"another router has just written the adapter for {query.task.told_by}"
            return Found("exact", reason, adapter, reasons, timing_ms=timing_ms)
        handed_over = False
        try:
            found = await self._new(query, claim, timing_ms)
            handed_over = found.kept is not None
            return found
        finally:
            if not handed_over:
                self._writes.begin(lambda: self._library.release(claim, tenant=query.tenant))

    async def _new(self, query: _Query, claim: Claim, timing_ms: dict[str, float]) -> Found:
        task, first, distance = query.task, query.decision, None
        weights, n_left_out = await self.maker.write(task, query.embedding, timing_ms)
        if isinstance(first, policy.Verify):
            distance = await self._distance(query, first, weights, timing_ms)
            settled = policy.settle(first, distance)
            if isinstance(settled, policy.Reuse):
                adapter = await self._adapters.fetch(settled.adapter_id, tenant=query.tenant)
                kept = self._described(query, settled, claim)
                reason = "a held adapter does what a new one would do"
                return Found(
                    "verified", reason, adapter, settled.reasons, distance, kept, timing_ms
                )
        await self._check_allowed(weights, query.tenant)
        adapter = self._adapters.hold(weights, tenant=query.tenant)
        kept = self._writes.begin(lambda: self._keep(query, adapter, claim))
        key, held = (query.tenant, text_hash(task.label)), _HELD.format(task.told_by)
        self._fresh[key] = Found("exact", held, adapter, first.reasons, kept=kept)
        kept.add_done_callback(lambda _: self._fresh.pop(key, None))
        reason = _new_for(task, n_left_out)
        return Found("generated", reason, adapter, first.reasons, distance, kept, timing_ms)

    async def _without_library(
        self, task: TaskDescription, tenant: str, timing_ms: dict[str, float], why: str
    ) -> Found:
        """Serve a new adapter that nobody keeps; better than none."""
        if self._adapters.by_id:
            raise GenerationFailed(f"the engine takes adapters from the library, and {why}")
        with timed(timing_ms, "embed"):
            embedding = await self.maker.embed(task)
        weights, n_left_out = await self.maker.write(task, embedding, timing_ms)
        adapter = self._adapters.hold(weights, tenant=tenant)
        reason = f"{_new_for(task, n_left_out)}, and is not kept: {why}"
        return Found("generated", reason, adapter, timing_ms=timing_ms)

    async def _claimed(self, query: _Query) -> Claim:
        while True:
            claim = await self._library.claim(query.task.label, tenant=query.tenant)
            if claim.mine or claim.record is not None:
                return claim
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _distance(
        self, query: _Query, decision: policy.Verify, weights: Weights, timing_ms: dict[str, float]
    ) -> float:
        """How far a new adapter is from the held one; infinite if that can't be loaded."""
        with timed(timing_ms, "compare"):
            try:
                held = await self._adapters.load(decision.match.adapter_id, tenant=query.tenant)
                return await self.maker.distance(weights, held.weights)
            except AdapterError as error:
                logger.warning("no comparison: %s", error)
                return float("inf")

    async def _check_allowed(self, weights: Weights, tenant: str) -> None:
        """The same text gives the same adapter, and that one may have been quarantined before."""
        adapter_id = await self.maker.run(lambda: weights.adapter_id)  # a hash over all tensors
        if await self._library.state_of(adapter_id, tenant=tenant) == "quarantined":
            raise GenerationFailed(f"adapter {adapter_id} of this task is quarantined")

    def _described(
        self, query: _Query, decision: policy.Reuse, claim: Claim | None
    ) -> "asyncio.Task[None] | None":
        """Have the text remembered, so that it is found at once the next time."""
        hits = [hit for hit in query.hits if hit.adapter.id == decision.adapter_id]
        if not all(map(is_own, hits)):
            return None  # shared adapters are changed by their operators only
        task = self._task(query)
        return self._writes.begin(
            lambda: self._library.describe(
                decision.adapter_id, task, tenant=query.tenant, claim=claim
            )
        )

    async def _keep(self, query: _Query, adapter: AdapterRef, claim: Claim) -> None:
        doubts = await self._inspector.doubts(adapter) if self._inspector else None
        files = await asyncio.to_thread(self.maker.tensors.pack, adapter.weights)
        record = await self._library.keep(
            files, self._task(query), tenant=query.tenant, claim=claim, doubts=doubts
        )
        if record.state == "quarantined":
            logger.warning("%s is quarantined; t2l adapters history says why", record.id)
            self._adapters.forget(record.id, tenant=query.tenant)

    def _task(self, query: _Query) -> Task:
        assert query.embedding.size, "only an exact hit goes without an embedding"
        task, encoder = query.task, self._library.identity.encoder
        # What examples tell is found by its own label only, never by likeness.
        embedding = None if task.examples else query.embedding
        return Task(task.label, embedding, encoder, task.source)


def _new_for(task: TaskDescription, n_left_out: int) -> str:
    reason = f"a new adapter was written for {task.told_by}"
    return f"{reason}; {n_left_out} were left out as too long together" if n_left_out else reason
