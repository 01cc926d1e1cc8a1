"""One answer over HTTP: headers, a body or a stream of events, and how it went."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from t2l_router import wire
from t2l_router.engines.base import Delta
from t2l_router.faults import fault_of
from t2l_router.router import Answer, Decision
from t2l_router.wording import Gathered, Wording

logger = logging.getLogger(__name__)

_READ_AHEAD = 16
"""Pieces that wait for a slow reader before the engine waits too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an answer went.

    Args:
        model: What the request named.
        decision: Which adapter served and why.
        usage: Token counts; of an answer that was cut, the pieces that came.
        end: Why it ended: in the model's way, by an error, or because the client left.
        first_token_s: Time to the first piece; None if there was none.
        duration_s: Time to the end.
        timing_ms: What each phase took.
    """

    model: str
    decision: Decision
    usage: wire.Usage
    end: wire.FinishReason | Literal["error", "cancelled"]
    first_token_s: float | None
    duration_s: float
    timing_ms: dict[str, float]


def _ignore(outcome: Outcome) -> None:
    """Do nothing about how an answer went."""


_DONE = wire.sse(wire.DONE)


class Reply:
    """
    Takes an engine's pieces and gives an HTTP answer.

    Args:
        answer: The pieces, and why this adapter.
        wording: How they are told.
        n: Choices that were asked for.
        report: Told once how it went, whichever way it ended.
    """

    def __init__(
        self,
        answer: Answer,
        wording: Wording,
        *,
        n: int = 1,
        report: Callable[[Outcome], None] = _ignore,
    ) -> None:
        self._deltas = answer.deltas
        self._decision = answer.decision
        self._timing_ms = dict(answer.timing_ms)
        self._wording = wording
        self._n = n
        self._report = report
        self._started = time.perf_counter()
        self._first_token_s: float | None = None
        self._n_pieces = 0
        self._usage: wire.Usage | None = None
        self._finish_reason: wire.FinishReason | None = None

    def headers(self) -> dict[str, str]:
        """Which adapter served and why, in characters that a header may have."""
        facts = self._facts()
        return {
            "X-T2L-Adapter": facts.adapter or "base",
            "X-T2L-Decision": facts.decision,
            "X-T2L-Trace": facts.trace,
            **({} if facts.score is None else {"X-T2L-Score": str(facts.score)}),
            "X-T2L-Reason": "".join(c if " " <= c <= "~" else "?" for c in facts.reason[:200]),
            "Server-Timing": ", ".join(f"{k};dur={ms}" for k, ms in facts.timing_ms.items()),
        }

    async def whole(self) -> dict[str, Any]:
        """Collect the answer."""
        choices = [Gathered() for _ in range(self._n)]
        try:
            async with aclosing(self._deltas) as deltas:
                async for delta in deltas:
                    self._note(delta)
                    choices[delta.index].add(delta)
        except BaseException as error:
            self._finish(error)
            raise
        self._finish()
        assert self._usage is not None, "an engine's last delta holds the usage"
        return self._wording.whole(choices, self._usage, self._facts())

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
        return self._events(first, paced)

    async def _events(
        self, first: list[Delta], rest: AsyncGenerator[list[Delta], None]
    ) -> AsyncGenerator[bytes, None]:
        ended_by: BaseException | None = asyncio.CancelledError()
        try:
            async with aclosing(rest):
                told = self._tell(first)  # before the facts, which hold the time of the first
                told = self._wording.opening(self._facts()) + told
                # Whatever is there together goes out together: sending is the dearest part.
                while self._usage is None:
                    yield told
                    told = self._tell(await anext(rest))
            ended_by = None
            yield told + _DONE
        except Exception as error:
            # The status is sent: an error can only be an event, and after it there is no DONE.
            ended_by = error
            _, body = fault_of(error)
            logger.exception("the stream of %s broke", self._wording.common["id"])
            yield wire.sse(body)
        finally:
            self._finish(ended_by)

    def _tell(self, deltas: list[Delta]) -> bytes:
        """The events of the pieces that came together; silence is a comment."""
        for delta in deltas:
            self._note(delta)
        return b"".join(map(self._wording.piece, deltas)) if deltas else wire.KEEP_ALIVE

    def _note(self, delta: Delta) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
            self._timing_ms["first_token"] = self._first_token_s * 1_000
        self._n_pieces += 1
        self._usage = delta.usage or self._usage
        self._finish_reason = delta.finish_reason or self._finish_reason

    def _finish(self, error: BaseException | None = None) -> None:
        end: wire.FinishReason | Literal["error", "cancelled"]
        if error is None and self._finish_reason:
            end = self._finish_reason
        else:
            end = "error" if isinstance(error, Exception) else "cancelled"
        outcome = Outcome(
            model=self._wording.common["model"],
            decision=self._decision,
            usage=self._usage or wire.Usage.of(0, self._n_pieces),
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
        score=None if decision.score is None else round(decision.score, 4),
        trace=decision.trace,
        timing_ms={phase: round(ms, 2) for phase, ms in timing_ms.items()},
    )


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
                    if arrived.full():
                        await arrived.put(delta)
                    else:
                        arrived.put_nowait(delta)
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
