"""One answer in OpenAI's words: headers, a body or a stream of events, and our facts in each."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from t2l_router import wire
from t2l_router.engines.base import Delta
from t2l_router.faults import fault_of
from t2l_router.router import Answer, Decision

logger = logging.getLogger(__name__)


class Reply:
    """
    Puts one answer into OpenAI's words.

    Args:
        chat: What is answered.
        answer: How it is answered.
        fingerprint: Of the base model: equal ones give equal tokens for equal seeds.
    """

    def __init__(self, chat: wire.ChatRequest, answer: Answer, fingerprint: str) -> None:
        self._deltas = answer.deltas
        self._decision = answer.decision
        self._timing_ms = dict(answer.timing_ms)
        self._wants_usage_chunk = chat.wants_usage_chunk
        self._started = time.perf_counter()
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
        async with aclosing(self._deltas) as deltas:
            async for delta in deltas:
                self._note_first_token()
                texts.append(delta.text)
        assert delta.finish_reason is not None, "an engine's last delta says why it ended"
        assert delta.usage is not None, "an engine's last delta holds the usage"
        message = wire.AnswerMessage(content="".join(texts))
        return wire.ChatCompletion(
            **self._common,
            choices=[wire.Choice(message=message, finish_reason=delta.finish_reason)],
            usage=delta.usage,
            t2l=self._facts(),
        )

    async def begin(self, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
        """
        Wait for the first piece, but no longer than *keep_alive_s*, and return the events.

        Most errors show before the first piece, when the answer can still have their status.
        """
        paced = _paced(self._deltas, keep_alive_s)
        first = await anext(paced)
        if first is not None:
            self._note_first_token()
        return self._events(first, paced)

    async def _events(
        self, first: Delta | None, rest: AsyncGenerator[Delta | None, None]
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(rest):
            opening = wire.ChunkDelta(role="assistant", content="")
            yield wire.sse(self._chunk(opening, t2l=self._facts()))
            try:
                for event in self._encode(first):
                    yield event
                async for delta in rest:
                    for event in self._encode(delta):
                        yield event
            except Exception as error:
                # The status is sent: an error can only be an event, and after it there is no DONE.
                _, body = fault_of(error)
                logger.exception("the stream of %s broke", self._common["id"])
                yield wire.sse(body)
            else:
                yield wire.sse(wire.DONE)

    def _encode(self, delta: Delta | None) -> list[bytes]:
        if delta is None:
            return [wire.KEEP_ALIVE]
        events = []
        if delta.text:
            events.append(self._chunk(wire.ChunkDelta(content=delta.text)))
        if delta.finish_reason:
            events.append(self._chunk(wire.ChunkDelta(), finish_reason=delta.finish_reason))
            if self._wants_usage_chunk:
                events.append(self._chunk(None, usage=delta.usage))
        return [wire.sse(event) for event in events]

    def _chunk(
        self,
        delta: wire.ChunkDelta | None,
        *,
        finish_reason: wire.FinishReason | None = None,
        **extra: Any,
    ) -> wire.ChatChunk:
        if self._wants_usage_chunk:
            extra.setdefault("usage", None)
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        choices = [] if delta is None else [wire.ChunkChoice(**choice)]
        kind = "chat.completion.chunk"
        return wire.ChatChunk(**self._common, object=kind, choices=choices, **extra)

    def _note_first_token(self) -> None:
        if "first_token" not in self._timing_ms:
            self._timing_ms["first_token"] = (time.perf_counter() - self._started) * 1_000

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


async def _paced(
    deltas: AsyncGenerator[Delta, None], silence_s: float
) -> AsyncGenerator[Delta | None, None]:
    """Pass deltas on, and None whenever *silence_s* goes by without one; closes *deltas*."""
    pending = asyncio.ensure_future(anext(deltas))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=silence_s)
            if not done:
                yield None
                continue
            try:
                delta = pending.result()
            except StopAsyncIteration:
                return
            pending = asyncio.ensure_future(anext(deltas))
            yield delta
    finally:
        # A generator can't be closed while it runs, so its step is ended first.
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        await deltas.aclose()
