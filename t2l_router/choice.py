"""Which adapter serves a request: what it names, what it describes, what its conversation holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from adapters_store.names import text_hash
from t2l_router import describe, policy
from t2l_router.adapters import Adapters
from t2l_router.decision import Caller, Decision, DecisionKind
from t2l_router.describe import TaskDescription
from t2l_router.errors import (
    AdapterError,
    AdapterRefused,
    EngineError,
    GenerationFailed,
    InvalidRequest,
    LibraryUnavailable,
    UnknownAdapter,
    UnknownModel,
)
from t2l_router.inference import Heard, Inference, hear
from t2l_router.maker import timed
from t2l_router.matching import Matcher
from t2l_router.reading import is_helper_prompt, read
from t2l_router.sessions import Conversation, Held, Sessions
from t2l_router.topics import Topic
from t2l_router.wire import ChatRequest

logger = logging.getLogger(__name__)

PREFIX = "t2l:"
BASE = "base"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """
    The base model as clients know it.

    Args:
        name: What ``/v1/models`` shows.
        fingerprint: Of its config, weights and tokenizer.
        aliases: Other names a request may use for it.
        encoder: What embeds texts; a request for embeddings names it, or the base model.
    """

    name: str
    fingerprint: str
    aliases: tuple[str, ...] = ()
    encoder: str = "echo"


@dataclass(frozen=True, slots=True)
class Choice:
    """
    A decision and what follows from it.

    Args:
        decision: Which adapter serves and why.
        held: What the conversation holds once it is answered; None leaves that as it was.
        lets_go: The conversation no longer holds anything.
        kept: Done when the library has what was decided on.
    """

    decision: Decision
    held: Held | None = None
    lets_go: bool = False
    kept: "asyncio.Task[None] | None" = None


_Match = Callable[[TaskDescription, str, dict[str, float]], Awaitable[Choice]]


class Chooser:
    """
    Decides what serves each request.

    In this order: the adapter that it names, the task that it describes, the adapter that its
    conversation holds, the task that can be inferred.

    Args:
        model: The base model.
        matcher: Task to adapter.
        adapters: Holds the tensors.
        sessions: What conversations hold.
        inference: Finds out tasks that nobody described; None leaves it.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        matcher: Matcher,
        adapters: Adapters,
        sessions: Sessions,
        inference: Inference | None = None,
    ) -> None:
        self.model = model
        self._matcher = matcher
        self._adapters = adapters
        self._sessions = sessions
        self._inference = inference
        # Inference encodes text, or asks another model over the network.
        self._readers = ThreadPoolExecutor(4, "t2l-read")

    def check(self, request: ChatRequest, caller: Caller) -> None:
        """
        Raise what is wrong with a request, whatever the library holds.

        Raises:
            RequestError: Naming the field at fault.
        """
        self._named(request)
        if task := describe.task_of(request, caller.description):
            self._matcher.maker.check(task)

    async def choose(
        self,
        request: ChatRequest,
        caller: Caller,
        conversation: Conversation,
        timing_ms: dict[str, float],
    ) -> Choice:
        """
        Decide; write an adapter where it takes one.

        Raises:
            RequestError: The request can't be served as it is.
            AdapterError: There is no adapter and the request insists on one.
        """
        return await self._choose(request, caller, conversation, timing_ms, self._matched)

    async def preview(
        self, request: ChatRequest, caller: Caller, conversation: Conversation
    ) -> Choice:
        """Decide as `choose` would, but store nothing."""
        return await self._choose(request, caller, conversation, {}, self._previewed)

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _choose(
        self,
        request: ChatRequest,
        caller: Caller,
        conversation: Conversation,
        timing_ms: dict[str, float],
        match: _Match,
    ) -> Choice:
        name = self._named(request)
        with timed(timing_ms, "describe"):
            task = describe.task_of(request, caller.description)
        if name == BASE:
            decision = Decision("base", "the request asks for the base model")
            return Choice(decision, lets_go=True)
        if name is not None:
            return await self._explicit(name, request, caller.tenant)
        if caller.helper or (task is None and _is_helper(request)):
            return Choice(Decision("base", "a chat UI's own prompt"))
        with timed(timing_ms, "session"):
            held = await self._sessions.find(conversation)
        try:
            if task is not None:
                choice = await self._described(task, held, caller.tenant, timing_ms, match)
            else:
                choice = await self._heard(request, held, caller.tenant, timing_ms, match)
        except (AdapterError, EngineError, LibraryUnavailable) as error:
            return self.fallback(error, task, held, required=request.t2l_required)
        if request.t2l_required and choice.decision.kind == "base":
            raise InvalidRequest(
                "t2l_required needs a task: give t2l_description, t2l_examples or t2l_adapter",
                param="t2l_required",
            )
        return choice

    def _named(self, request: ChatRequest) -> str | None:
        """Which adapter the request names: ``base``, a name, or None for the one that fits."""
        name = request.t2l_adapter
        if request.model.startswith(PREFIX):
            named = request.model.removeprefix(PREFIX)
            if name not in (None, named):
                raise InvalidRequest(
                    "model and t2l_adapter name different adapters; give one of them",
                    param="t2l_adapter",
                )
            name = named
        elif request.model not in (self.model.name, *self.model.aliases):
            raise UnknownModel(
                f"no model {request.model[:80]!r} is served here; use {self.model.name!r}",
                param="model",
            )
        if name == BASE and request.t2l_required:
            raise InvalidRequest(
                "t2l_required and the base model contradict each other", param="t2l_required"
            )
        return name

    async def _explicit(self, name: str, request: ChatRequest, tenant: str) -> Choice:
        try:
            adapter = await self._adapters.named(name, tenant=tenant)
        except (UnknownAdapter, AdapterRefused) as error:
            error.param = "t2l_adapter" if request.t2l_adapter else "model"
            raise
        except (AdapterError, LibraryUnavailable) as error:
            return self.fallback(error, None, required=request.t2l_required)
        decision = Decision("explicit", "the request names this adapter", adapter)
        return Choice(decision, Held(adapter.adapter_id))

    async def _described(
        self,
        task: TaskDescription,
        held: Held | None,
        tenant: str,
        timing_ms: dict[str, float],
        match: _Match,
    ) -> Choice:
        hashed = text_hash(task.label)
        if held is not None and held.description_hash == hashed:
            reason = f"the conversation goes on with {task.told_by}"
            if choice := await self._sticky(held, tenant, reason, task):
                return choice
        return _held_after(await match(task, tenant, timing_ms), held, hashed)

    async def _heard(
        self,
        request: ChatRequest,
        held: Held | None,
        tenant: str,
        timing_ms: dict[str, float],
        match: _Match,
    ) -> Choice:
        """Nobody described the task: go by the conversation."""
        last = request.messages[-1]
        in_tool_loop = last.role == "tool" or bool(last.tool_calls)
        if held is not None and (held.topic is None or in_tool_loop):
            reason = "the conversation holds this adapter"
            if choice := await self._sticky(held, tenant, reason):
                return choice
        if self._inference is None:
            return Choice(Decision("base", "no task description"), held)
        with timed(timing_ms, "infer"):
            heard = await self._hear(request, held.topic if held else None, tenant)
        if heard.description is None:
            stays = replace(held or Held(None), description_hash=None, topic=heard.topic)
            return Choice(Decision("base", heard.why), stays if heard.topic else held)
        if heard.kept and held is not None:
            reason = f"the conversation holds this adapter: {heard.why}"
            goes_on = replace(held, topic=heard.topic)
            if choice := await self._sticky(goes_on, tenant, reason):
                return choice
        source = heard.topic.active.source if heard.topic else "inferred"
        is_common = heard.inferred is not None and heard.inferred.is_common
        task = TaskDescription(heard.description, source, is_common)
        return _held_after(await match(task, tenant, timing_ms), held, topic=heard.topic)

    async def _hear(self, request: ChatRequest, topic: Topic | None, tenant: str) -> Heard:
        inference = self._inference
        assert inference is not None, "asked for by _heard only"

        def work() -> Heard:
            return hear(inference, read(request), topic, tenant=tenant)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)
        except Exception as error:
            # A chat must survive whatever breaks in a strategy.
            logger.exception("inference broke")
            raise GenerationFailed("inference broke; the log says how") from error

    async def _sticky(
        self, held: Held, tenant: str, reason: str, task: TaskDescription | None = None
    ) -> Choice | None:
        """The adapter that the conversation holds, if it may still serve."""
        if held.adapter_id is None:
            return None
        try:
            adapter = await self._adapters.named(held.adapter_id, tenant=tenant)
        except (UnknownAdapter, AdapterRefused, AdapterError) as error:
            logger.info("a conversation lets go of its adapter: %s", error)
            return None
        return Choice(Decision("sticky", reason, adapter, task), held)

    async def _matched(
        self, task: TaskDescription, tenant: str, timing_ms: dict[str, float]
    ) -> Choice:
        found = await self._matcher.find(task, tenant=tenant)
        timing_ms |= found.timing_ms
        decision = Decision(
            found.kind, found.reason, found.adapter, task, found.reasons, found.distance
        )
        return Choice(decision, kept=found.kept)

    async def _previewed(self, task: TaskDescription, tenant: str, _: dict[str, float]) -> Choice:
        """As `_matched`, without effects."""
        preview = await self._matcher.preview(task, tenant=tenant)
        decision, adapter = preview.decision, None
        kind: DecisionKind = "generated"
        reason = f"a new adapter would be written for {task.told_by}"
        if isinstance(decision, policy.Reuse):
            adapter = await self._adapters.fetch(decision.adapter_id, tenant=tenant)
            kind, reason = _REUSES[decision.how]
            reason = reason.format(task.told_by)
        return Choice(Decision(kind, reason, adapter, task, decision.reasons, preview.distance))

    def fallback(
        self,
        error: Exception,
        task: TaskDescription | None,
        held: Held | None = None,
        *,
        required: bool | None,
    ) -> Choice:
        """
        The base model, with the reason, unless the request insists on an adapter.

        Args:
            error: Why there is no adapter.
            task: What it was for.
            held: What the conversation goes on to hold.
            required: Whether the request insists.

        Raises:
            AdapterError: It does.
        """
        if required:
            if isinstance(error, GenerationFailed | LibraryUnavailable):
                raise error
            raise GenerationFailed(f"no adapter for this task: {error}") from error
        return Choice(Decision("base", f"no adapter for this task: {error}", task=task), held)


_REUSES: dict[str, tuple[DecisionKind, str]] = {
    "exact": ("exact", "an adapter for {} is held"),
    "near": ("reused", "a held adapter's description is near enough"),
    "verified": ("verified", "a held adapter does what a new one would do"),
}


def _held_after(
    choice: Choice, held: Held | None, hashed: str | None = None, topic: Topic | None = None
) -> Choice:
    """The same choice, with what the conversation holds after it."""
    adapter = choice.decision.adapter
    now = replace(held or Held(None), description_hash=hashed, topic=topic)
    return replace(choice, held=replace(now, adapter_id=adapter.adapter_id if adapter else None))


def _is_helper(request: ChatRequest) -> bool:
    """Whether the last turn is a chat UI's own prompt: also where a described task is held."""
    last = request.messages[-1]
    return last.role == "user" and is_helper_prompt(last.content or "")
