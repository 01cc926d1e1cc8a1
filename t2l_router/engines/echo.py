"""
Answers without any model, for tests, demos and for trying a client against the API.

`EchoEngine` repeats what it was asked and says which adapter it was given; `echo_adapters` makes
the adapters it takes. They depend on nothing but their input.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from adapters_store.identity import AdapterId
from t2l_router.engines.base import AdapterRef, Delta, EngineHealth
from t2l_router.engines.text import StopStrings
from t2l_router.errors import EngineBusy
from t2l_router.wire import ChatRequest, Usage


@dataclass(frozen=True, slots=True)
class EchoWeights:
    """An adapter without tensors."""

    adapter_id: AdapterId
    nbytes: int


class EchoEngine:
    """
    Streams ``[<adapter id>] <the last message>`` word by word; without an adapter, ``[base]``.

    A token is a word.

    Args:
        first_delay_s: Time before the first word, as if the prompt were read.
        delay_s: Time before each further word.
        max_running: Requests answered at once; more are refused.
    """

    def __init__(
        self, *, first_delay_s: float = 0.0, delay_s: float = 0.0, max_running: int = 1_000
    ) -> None:
        self._first_delay_s = first_delay_s
        self._delay_s = delay_s
        self._max_running = max_running
        self._running = 0
        self._resident: dict[AdapterId, None] = {}

    async def stream_chat(
        self, request: ChatRequest, adapter: AdapterRef | None
    ) -> AsyncGenerator[Delta, None]:
        """Answer with the last message's words."""
        if self._running >= self._max_running:
            raise EngineBusy(f"{self._running} requests are being answered; try again later")
        self._running += 1
        try:
            name = adapter.adapter_id if adapter else "base"
            words = [f"[{name}]", *(request.messages[-1].content or "").split()]
            limit = min(request.token_limit or len(words), len(words))
            stops = StopStrings(request.stop or [])
            n_words = 0
            for word in words[:limit]:
                await asyncio.sleep(self._delay_s if n_words else self._first_delay_s)
                text = stops.feed(f" {word}" if n_words else word)
                n_words += 1
                yield Delta(text)
                if stops.stopped:
                    break
            is_whole = stops.stopped or limit == len(words)
            n_prompt = sum(len((message.content or "").split()) for message in request.messages)
            yield Delta(
                stops.flush(), "stop" if is_whole else "length", Usage.of(n_prompt, n_words)
            )
        finally:
            self._running -= 1

    async def ensure(self, adapter: AdapterRef) -> None:
        """Remember the adapter."""
        self._resident[adapter.adapter_id] = None

    def health(self) -> EngineHealth:
        """Say what is going on."""
        return EngineHealth(
            ok=True, running=self._running, waiting=0, resident=tuple(self._resident)
        )

    async def close(self) -> None:
        """Hold nothing, so give nothing back."""
