"""The one orchestrator: from a request to an adapter, with the reasons, and to the answer."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.decisions import DecisionEntry
from adapters_store.errors import DecisionNotFound
from adapters_store.identity import AdapterId
from t2l_router.behind import Behind
from t2l_router.choice import BASE, PREFIX, Choice, Chooser, ServedModel
from t2l_router.decision import Caller, Decision, DecisionKind, entry_of, new_trace
from t2l_router.describe import TaskDescription
from t2l_router.elsewhere import FINGERPRINT, Elsewhere, failing_at_once
from t2l_router.engines.base import AdapterRef, Delta, Engine, EngineHealth
from t2l_router.errors import (
    AdapterError,
    AdapterRefused,
    EngineError,
    EngineFailed,
    LibraryUnavailable,
    UnknownAdapter,
    UnknownDecision,
)
from t2l_router.intake import Fit
from t2l_router.library import Library
from t2l_router.maker import timed
from t2l_router.matching import Limits, Matcher
from t2l_router.sessions import Conversation, Sessions, conversation_of
from t2l_router.wire import ChatRequest, require_offered

__all__ = [
    "Answer", "Caller", "Decision", "DecisionKind", "Limits", "Router", "ServedModel",
]  # fmt: skip

logger = logging.getLogger(__name__)

_KEEP_WITHIN_S = 5.0
_NOT_HERE = "an upstream answers for this model; it has no adapters"
_SESSION_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A decision and the answer as it comes; whoever takes it closes *deltas*.

    Args:
        decision: Which adapter serves and why.
        deltas: The answer's pieces. Nothing runs before the first is asked for.
        fingerprint: Of the model that answers: equal ones give equal tokens for equal seeds.
        timing_ms: What each phase took so far.
    """

    decision: Decision
    deltas: AsyncGenerator[Delta, None]
    fingerprint: str = ""
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """
    How a router behaves.

    Args:
        shadow: Decide and log, but let the base model answer.
        log_text: Log task descriptions, not only their hashes.
        publish_first: The engine takes adapters from the library, so they must be there first.
        shared: A conversation's next turn may come to another router, so what changes of the
            session is written before the answer ends.
    """

    shadow: bool = False
    log_text: bool = False
    publish_first: bool = False
    shared: bool = False


class Router:
    """
    Finds or makes the adapter for each request and has the engine answer with it.

    Args:
        engine: Produces tokens.
        chooser: Decides.
        matcher: What it finds adapters with.
        library: Where they are.
        sessions: What conversations hold.
        behind: Writes what need not be waited for.
        options: How to behave.
        elsewhere: Answers for models that are not here; None refuses them.
    """

    def __init__(
        self,
        engine: Engine,
        chooser: Chooser,
        *,
        matcher: Matcher,
        library: Library,
        sessions: Sessions,
        behind: Behind,
        options: Options = Options(),
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.model = chooser.model
        self._engine = engine
        self._chooser = chooser
        self._matcher = matcher
        self._library = library
        self._sessions = sessions
        self._behind = behind
        self._options = options
        self._elsewhere = elsewhere

    async def chat(self, request: ChatRequest, caller: Caller) -> Answer:
        """
        Decide which adapter serves a request and prepare its answer.

        Args:
            request: The conversation and how to answer it.
            caller: Who asks.

        Raises:
            RequestError: The request can't be served as it is.
            AdapterError: There is no adapter and the request insists on one.
        """
        elsewhere = self._elsewhere
        if elsewhere is not None and self._is_elsewhere(request.model):
            return self._passed_on(elsewhere, request.model, request, caller, _NOT_HERE)
        if elsewhere is None or elsewhere.stand_in is None or request.t2l_required:
            return await self._answered(request, caller)
        try:
            if not self._engine.health().ok:
                self._chooser.check(request, caller)
                raise EngineFailed("our engine is not well")
            answer = await self._answered(request, caller)
            return replace(answer, deltas=await failing_at_once(answer.deltas))
        except EngineError as error:
            logger.warning("an upstream stands in: %s", error)
            reason = f"an upstream stands in for our engine: {type(error).__name__}"
            # What our engine was to answer with is in the log under the other trace.
            caller = replace(caller, trace=new_trace())
            return self._passed_on(elsewhere, elsewhere.stand_in, request, caller, reason)

    async def explain(self, request: ChatRequest, caller: Caller) -> Decision:
        """
        Decide as `chat` would, but store nothing and answer nothing.

        Raises:
            RequestError: The request can't be served as it is.
            T2LError: The decision can't be taken.
        """
        if self._is_elsewhere(request.model):
            return Decision("base", _NOT_HERE, trace=caller.trace)
        conversation = conversation_of(request, caller)
        choice = await self._chooser.preview(request, caller, conversation)
        return replace(choice.decision, trace=caller.trace)

    async def rate(self, trace: str, rating: int, *, tenant: str) -> DecisionEntry:
        """
        Judge the answer that a decision led to: 1 is good, -1 bad, 0 takes it back.

        Raises:
            UnknownDecision: It isn't in the log.
            LibraryUnavailable: Nothing can be stored now.
        """
        await self._behind.flush()
        try:
            return await self._library.calls.run(
                lambda store: store.decisions.rate(trace, rating, tenant=tenant)
            )
        except DecisionNotFound as error:
            raise UnknownDecision(str(error), param="trace") from None

    async def models(self, tenant: str) -> list[str]:
        """Values of ``model`` for the tenant's requests: aliases and the newest adapters."""
        try:
            names = await self._library.names(tenant=tenant)
        except LibraryUnavailable:
            names = []
        passed_on = self._elsewhere.models if self._elsewhere else ()
        adapted = [f"{PREFIX}{name}" for name in names]
        return [self.model.name, f"{PREFIX}{BASE}", *adapted, *passed_on]

    async def has_model(self, model: str, tenant: str) -> bool:
        """Whether the tenant's requests may use this value of ``model``."""
        if model in (self.model.name, *self.model.aliases, f"{PREFIX}{BASE}"):
            return True
        if self._is_elsewhere(model):
            return True
        if not model.startswith(PREFIX):
            return False
        try:
            await self._library.find(model.removeprefix(PREFIX), tenant=tenant)
        except (UnknownAdapter, AdapterRefused):
            return False
        return True

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed texts as task descriptions are: ``[N, D]`` float32 of unit L2 norm, and tokens."""
        return await self._matcher.maker.embed_all(texts)

    @property
    def fit(self) -> Fit:
        """What adapters from elsewhere must fit."""
        identity = self._library.identity
        shapes = self._matcher.maker.tensors.shapes
        return Fit(self.model.name, identity.base, identity.encoder, shapes)

    async def prepare(self, task: TaskDescription, *, tenant: str) -> AdapterId:
        """
        Find or write the adapter of a task as `chat` would, and wait until the library has it.

        Raises:
            AdapterError: There is none, and none could be written.
        """
        found = await self._matcher.find(task, tenant=tenant)
        if found.kept is not None:
            await found.kept
        return found.adapter.adapter_id

    def health(self) -> EngineHealth:
        """How the engine is doing."""
        return self._engine.health()

    async def close(self) -> None:
        """Stop generating, store what was begun, and close the engine and the library."""
        await self._matcher.close()
        await self._behind.close()
        self._chooser.close()
        await self._engine.close()
        if self._elsewhere is not None:
            await self._elsewhere.engine.close()
        await self._library.calls.close()

    async def _answered(self, request: ChatRequest, caller: Caller) -> Answer:
        """Our engine's answer."""
        require_offered(request, lambda: self._engine.offers)
        # Tenants share no prefixes: the time they save would tell what another has sent.
        salt = f"{caller.tenant}:{request.cache_salt or ''}"
        request = request.model_copy(update={"cache_salt": salt})
        timing_ms: dict[str, float] = {}
        conversation = conversation_of(request, caller)
        self._chooser.check(request, caller)
        deciding = self._decided(request, caller, conversation, timing_ms)
        if self._options.shadow:
            # The answer doesn't wait for a decision that it won't follow.
            choosing = asyncio.create_task(deciding)
            choosing.add_done_callback(lambda done: done.cancelled() or done.exception())
            reason = "shadow mode: what would have served is in the log"
            decision = Decision("base", reason, trace=caller.trace)
            deltas = self._serve(request, None, conversation, choosing)
            return Answer(decision, deltas, self.model.fingerprint, timing_ms)
        choice = await deciding
        decided: asyncio.Future[Choice] = asyncio.get_running_loop().create_future()
        decided.set_result(choice)
        deltas = self._serve(request, choice.decision.adapter, conversation, decided)
        return Answer(choice.decision, deltas, self.model.fingerprint, timing_ms)

    def _is_elsewhere(self, model: str) -> bool:
        if self._elsewhere is None or model in (self.model.name, *self.model.aliases):
            return False
        return model in self._elsewhere.models

    def _passed_on(
        self, elsewhere: Elsewhere, model: str, request: ChatRequest, caller: Caller, reason: str
    ) -> Answer:
        deltas = elsewhere.answer(request, model)
        decision = Decision("base", reason, trace=caller.trace)
        self._log(decision, caller, {})
        return Answer(decision, deltas, FINGERPRINT)

    async def _decided(
        self,
        request: ChatRequest,
        caller: Caller,
        conversation: Conversation,
        timing_ms: dict[str, float],
    ) -> Choice:
        choice = await self._chooser.choose(request, caller, conversation, timing_ms)
        decision = choice.decision
        if decision.adapter is not None:
            try:
                if self._options.publish_first and choice.kept is not None:
                    with timed(timing_ms, "store"):
                        await _done(choice.kept)
                await self._load(decision.adapter, timing_ms)
            except (AdapterError, EngineError) as error:
                choice = self._chooser.fallback(error, decision.task, required=request.t2l_required)
        choice = replace(choice, decision=replace(choice.decision, trace=caller.trace))
        self._log(choice.decision, caller, timing_ms)
        return choice

    async def _load(self, adapter: AdapterRef, timing_ms: dict[str, float]) -> None:
        if adapter.adapter_id not in self._engine.health().resident:
            with timed(timing_ms, "load"):
                await self._engine.ensure(adapter)

    async def _serve(
        self,
        request: ChatRequest,
        adapter: AdapterRef | None,
        conversation: Conversation,
        choosing: "asyncio.Future[Choice]",
    ) -> AsyncGenerator[Delta, None]:
        texts: dict[int, list[str]] = {}
        async with aclosing(self._engine.stream_chat(request, adapter)) as deltas:
            async for delta in deltas:
                index = getattr(delta, "index", 0)
                texts.setdefault(index, []).append(delta.text)
                if delta.finish_reason:
                    await self._finish(conversation, "".join(texts[index]), choosing)
                yield delta

    async def _finish(
        self, conversation: Conversation, answer: str, choosing: "asyncio.Future[Choice]"
    ) -> None:
        """
        Before the last piece goes out: the library has the adapter, the session is noted.

        So whoever has read a whole answer can rely on the adapter that it names.
        """
        await _done(choosing)
        if not choosing.done() or choosing.cancelled() or choosing.exception():
            return
        choice = choosing.result()
        if choice.kept is not None:
            await _done(choice.kept)
        changed = False
        if choice.held is not None:
            changed = self._sessions.remember(conversation, answer, choice.held)
        elif choice.lets_go:
            changed = self._sessions.forget(conversation)
        if changed and self._options.shared:
            await self._behind.settle(within_s=_SESSION_WITHIN_S)

    def _log(self, decision: Decision, caller: Caller, timing_ms: dict[str, float]) -> None:
        self._behind.decision(
            entry_of(
                decision,
                caller,
                timing_ms,
                is_shadow=self._options.shadow,
                with_text=self._options.log_text,
            )
        )
        if decision.adapter is not None and not self._options.shadow:
            self._behind.use(caller.tenant, decision.adapter.adapter_id)


async def _done(future: "asyncio.Future[Any]") -> None:
    """Wait for a future, but not for ever; one that is done costs no turn of the event loop."""
    if not future.done():
        await asyncio.wait([future], timeout=_KEEP_WITHIN_S)
