"""
Answers without any model, for tests, demos and for trying a client against the API.

`EchoEngine` repeats what it was asked and says which adapter it was given; `EchoEncoder` and
`EchoGenerator` make the adapters it takes. All three depend on nothing but their input.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store.identity import PREFIX, AdapterId
from t2l_router.engines.base import AdapterRef, Delta, EngineHealth
from t2l_router.engines.text import StopStrings
from t2l_router.errors import EngineBusy
from t2l_router.wire import ChatRequest, Usage


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


@dataclass(frozen=True, slots=True)
class EchoWeights:
    """An adapter without tensors."""

    adapter_id: AdapterId
    nbytes: int


class EchoEncoder:
    """Maps equal texts to equal unit vectors and different texts to unrelated ones."""

    dim = 384

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``[N, dim]``."""
        seeds = [
            int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts
        ]
        rows = np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
            np.float32
        )
        return unit


class EchoGenerator:
    """Maps equal embeddings to equal adapters."""

    hypernet_id = "echo"

    def generate(self, embeddings: NDArray[np.float32]) -> list[EchoWeights]:
        """Write one adapter per row."""
        digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in embeddings]
        return [EchoWeights(AdapterId(PREFIX + digest[:32]), 1_000) for digest in digests]
