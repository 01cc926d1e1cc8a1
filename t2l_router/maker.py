"""What makes adapters, on a thread of its own: texts to embeddings to adapters, and distances."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2l_router.adapters import Tensors
from t2l_router.engines.base import Weights
from t2l_router.errors import AdapterError, GenerationFailed

R = TypeVar("R")

_EMBED_AT_ONCE = 32


class Encoder(Protocol):
    """Turns task descriptions into task embeddings."""

    @property
    def fingerprint(self) -> str:
        """Its identity; embeddings of different ones can't be compared."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``[N, D]`` float32 of unit L2 norm."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` reads of them."""


class Generator(Protocol):
    """Turns task embeddings into adapters."""

    @property
    def hypernet_id(self) -> str:
        """The hypernetwork's identity."""

    def generate(self, embeddings: NDArray[np.float32]) -> Sequence[Weights]:
        """Write one adapter per row of ``[N, D]``."""


class Maker:
    """
    Embeds, writes and compares, one thing at a time.

    Args:
        encoder: Embeds descriptions.
        generator: Writes adapters.
        tensors: Packs and compares them.
    """

    def __init__(self, *, encoder: Encoder, generator: Generator, tensors: Tensors) -> None:
        self._encoder = encoder
        self._generator = generator
        self.tensors = tensors
        # One thread, because generations side by side would only make each of them slower.
        self._thread = ThreadPoolExecutor(1, "t2l-generate")

    async def embed(self, text: str) -> NDArray[np.float32]:
        """
        A text's embedding ``[D]``.

        Raises:
            AdapterError: The encoder broke.
        """
        embeddings = await self.run(self._embed, text)
        first: NDArray[np.float32] = embeddings[0]
        return first

    async def embed_all(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed texts, a few at a time so that generations get their turn; and their tokens."""
        rows, n_tokens = [], 0
        for start in range(0, len(texts), _EMBED_AT_ONCE):
            some = texts[start : start + _EMBED_AT_ONCE]
            rows.append(await self.run(self._encoder.embed, some))
            n_tokens += await self.run(self._encoder.count_tokens, some)
        return np.concatenate(rows), n_tokens

    async def generate(self, embedding: NDArray[np.float32]) -> Weights:
        """
        Write the adapter of an embedding ``[D]``.

        Raises:
            AdapterError: It couldn't be written.
        """
        return await self.run(self._generate, embedding)

    async def distance(self, one: Weights, two: Weights) -> float:
        """Delta-W distance of two adapters, from 0 to 2."""
        return await self.run(self.tensors.distance, one, two)

    async def run(self, work: Callable[..., R], *args: Any) -> R:
        """Do other work on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """End the thread; what waits for it is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, text: str) -> NDArray[np.float32]:
        with _survived():
            return self._encoder.embed([text])

    def _generate(self, embedding: NDArray[np.float32]) -> Weights:
        with _survived():
            (weights,) = self._generator.generate(embedding[None])
            return weights


@contextmanager
def _survived() -> Iterator[None]:
    """A chat must survive whatever breaks in here, our bugs and torch's errors included."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        raise GenerationFailed("the hypernetwork broke; the log says how") from error


@contextmanager
def timed(timing_ms: dict[str, float], phase: str) -> Iterator[None]:
    """Note what the block took."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timing_ms[phase] = (time.perf_counter() - start) * 1_000
