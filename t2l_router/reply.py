"""One answer in OpenAI's words: headers, a body or a stream of events, and our facts in each."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from t2l_router import wire
from t2l_router.engines.base import Delta
from t2l_router.faults import fault_of
from t2l_router.router import Answer, Decision

logger = logging.getLogger(__name__)

_READ_AHEAD = 16
"""Pieces that wait for a slow reader before the engine waits too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an answer went.

    Args:
        decision: Which adapter served and why.
        usage: Token counts; of an answer that was cut, the pieces that came.
        end: Why it ended: in the model's way, by an error, or because the client left.
        first_token_s: Time to the first piece; None if there was none.
        duration_s: Time to the end.
        timing_ms: What each phase took.
    """

    decision: Decision
    usage: wire.Usage
    end: wire.FinishReason | Literal["error", "cancelled"]
    first_token_s: float | None
    duration_s: float
    timing_ms: dict[str, float]


def _ignore(outcome: Outcome) -> None:
    """Do nothing about how an answer went."""


class Reply:
    """
    Puts one answer into OpenAI's words.

    Args:
        chat: What is answered.
        answer: How it is answered.
        fingerprint: Of the base model: equal ones give equal tokens for equal seeds.
        report: Told once how it went, whichever way it ended.
    """

    def __init__(
        self,
        chat: wire.ChatRequest,
        answer: Answer,
        fingerprint: str,
        *,
        report: Callable[[Outcome], None] = _ignore,
    ) -> None:
        self._deltas = answer.deltas
        self._decision = answer.decision
        self._timing_ms = dict(answer.timing_ms)
        self._wants_usage_chunk = chat.wants_usage_chunk
        self._report = report
        self._started = time.perf_counter()
        self._first_token_s: float | None = None
        self._n_pieces = 0
        self._last = Delta()
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": chat.model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }

    def headers(self) -> dict[str, str]:
        """Which adapter served and why, in characters that a header may have."""
        facts = self._facts()
        return {
            "X-T2L-Adapter": facts.adapter or "base",
            "X-T2L-Decision": facts.decision,
            "X-T2L-Reason": "".join(c if " " <= c <= "~" else "?" for c in facts.reason[:200]),
            "Server-Timing": ", ".join(f"{k};dur={ms}" for k, ms in facts.timing_ms.items()),
        }

    async def whole(self) -> wire.ChatCompletion:
        """Collect the answer."""
        texts = []
        try:
            async with aclosing(self._deltas) as deltas:
                async for delta in deltas:
                    self._note(delta)
                    texts.append(delta.text)
        except BaseException as error:
            self._finish(error)
            raise
        self._finish()
        assert self._last.finish_reason is not None, "an engine's last delta says why it ended"
        assert self._last.usage is not None, "an engine's last delta holds the usage"
        message = wire.AnswerMessage(content="".join(texts))
        return wire.ChatCompletion(
            **self._common,
            choices=[wire.Choice(message=message, finish_reason=self._last.finish_reason)],
            usage=self._last.usage,
            t2l=self._facts(),
        )

    async def begin(self, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
        """
        Wait for the first piece, but no longer than *keep_alive_s*, and return the events.

        Most errors show before the first piece, when the answer can still have their status.
        """
        paced = _paced(self._deltas, keep_alive_s)
        try:
            first = await anext(paced)
        except BaseException as error:
            self._finish(error)
            raise
        for delta in first:
            self._note(delta)
        return self._events(first, paced)

    async def _events(
        self, first: list[Delta], rest: AsyncGenerator[list[Delta], None]
    ) -> AsyncGenerator[bytes, None]:
        ended_by: BaseException | None = asyncio.CancelledError()
        try:
            async with aclosing(rest):
                facts = self._facts().model_dump()
                yield self._event([_choice({"role": "assistant", "content": ""})], t2l=facts)
                yield self._encode(first)
                async for deltas in rest:
                    for delta in deltas:
                        self._note(delta)
                    yield self._encode(deltas)
            yield wire.sse(wire.DONE)
            ended_by = None
        except Exception as error:
            # The status is sent: an error can only be an event, and after it there is no DONE.
            ended_by = error
            _, body = fault_of(error)
            logger.exception("the stream of %s broke", self._common["id"])
            yield wire.sse(body)
        finally:
            self._finish(ended_by)

    def _encode(self, deltas: list[Delta]) -> bytes:
        """The events of the pieces that came together; silence is a comment."""
        if not deltas:
            return wire.KEEP_ALIVE
        events = []
        for delta in deltas:
            if delta.text:
                events.append(self._text_event(delta.text))
            if delta.finish_reason:
                events.append(self._event([_choice({}, delta.finish_reason)]))
            if delta.usage and self._wants_usage_chunk:
                events.append(self._event([], usage=delta.usage.model_dump()))
        return b"".join(events)

    def _text_event(self, text: str) -> bytes:
        head, tail = self._text_frame
        return head + json.dumps(text, ensure_ascii=False).encode(errors="replace") + tail

    @cached_property
    def _text_frame(self) -> list[bytes]:
        """What stands before and after the text: nearly every event differs in its text alone."""
        return self._event([_choice({"content": "\0"})]).split(rb'"\u0000"')

    def _event(self, choices: list[dict[str, Any]], **extra: Any) -> bytes:
        if self._wants_usage_chunk:
            extra.setdefault("usage", None)
        kind = {"object": "chat.completion.chunk"}
        chunk = {**self._common, **kind, "choices": choices, **extra}
        return wire.sse(json.dumps(chunk, separators=(",", ":")))

    def _note(self, delta: Delta) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
            self._timing_ms["first_token"] = self._first_token_s * 1_000
        self._n_pieces += 1
        self._last = delta

    def _finish(self, error: BaseException | None = None) -> None:
        end: wire.FinishReason | Literal["error", "cancelled"]
        if error is None and self._last.finish_reason:
            end = self._last.finish_reason
        else:
            end = "error" if isinstance(error, Exception) else "cancelled"
        outcome = Outcome(
            decision=self._decision,
            usage=self._last.usage or wire.Usage.of(0, self._n_pieces),
            end=end,
            first_token_s=self._first_token_s,
            duration_s=time.perf_counter() - self._started,
            timing_ms=self._timing_ms,
        )
        self._report(outcome)

    def _facts(self) -> wire.AdapterFacts:
        return facts_of(self._decision, self._timing_ms)


def facts_of(decision: Decision, timing_ms: dict[str, float]) -> wire.AdapterFacts:
    """Which adapter serves, why, and what that took."""
    return wire.AdapterFacts(
        adapter=decision.adapter.adapter_id if decision.adapter else None,
        decision=decision.kind,
        reason=decision.reason,
        timing_ms={phase: round(ms, 2) for phase, ms in timing_ms.items()},
    )


def _choice(
    delta: dict[str, Any], finish_reason: wire.FinishReason | None = None
) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


async def _paced(
    deltas: AsyncGenerator[Delta, None], silence_s: float
) -> AsyncGenerator[list[Delta], None]:
    """
    Pass deltas on as they come, those that came together together.

    Whenever *silence_s* goes by without one, the list is empty. Closes *deltas*.
    """
    arrived: asyncio.Queue[Delta | None] = asyncio.Queue(_READ_AHEAD)

    async def pump() -> None:
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    await arrived.put(delta)
        finally:
            # Wakes the reader; if there is no room, he is not asleep.
            if not arrived.full():
                arrived.put_nowait(None)

    pumping = asyncio.create_task(pump())
    try:
        while not (pumping.done() and arrived.empty()):
            together: list[Delta | None] = []
            try:
                async with asyncio.timeout(silence_s):
                    together.append(await arrived.get())
            except TimeoutError:
                yield []
                continue
            while not arrived.empty():
                together.append(arrived.get_nowait())
            if came := [delta for delta in together if delta is not None]:
                yield came
        pumping.result()
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
