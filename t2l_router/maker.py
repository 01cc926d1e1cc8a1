"""What makes adapters, on a thread of its own: tasks to embeddings to adapters, and distances."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2l_router.adapters import Tensors
from t2l_router.describe import TaskDescription
from t2l_router.engines.base import Weights
from t2l_router.errors import AdapterError, GenerationFailed
from t2l_router.writer import Known, Writer

R = TypeVar("R")

_EMBED_AT_ONCE = 32


class Maker:
    """
    Embeds, writes and compares, one thing at a time.

    Args:
        writer: Writes adapters.
        tensors: Packs and compares them.
    """

    def __init__(self, writer: Writer[Weights], tensors: Tensors) -> None:
        self._writer = writer
        self._encoder = writer.encoder
        self.tensors = tensors
        # One thread, because generations side by side would only make each of them slower.
        self._thread = ThreadPoolExecutor(1, "t2l-generate")

    def check(self, task: TaskDescription) -> None:
        """Refuse a task that can't be read; see `Writer.check`."""
        self._writer.check(task)

    async def embed(self, task: TaskDescription) -> NDArray[np.float32]:
        """
        The embedding ``[D]`` of a task's description.

        Raises:
            AdapterError: The encoder broke.
        """
        return await self.run(_survived, self._writer.embed, task)

    async def embed_all(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed texts, a few at a time so that generations get their turn; and their tokens."""
        rows, n_tokens = [], 0
        for start in range(0, len(texts), _EMBED_AT_ONCE):
            some = texts[start : start + _EMBED_AT_ONCE]
            rows.append(await self.run(self._encoder.embed, some))
            n_tokens += await self.run(self._encoder.count_tokens, some)
        return np.concatenate(rows), n_tokens

    async def write(
        self, task: TaskDescription, embedding: NDArray[np.float32], timing_ms: dict[str, float]
    ) -> tuple[Weights, int]:
        """
        A new adapter, and how many of the task's examples there was no room to read.

        Args:
            task: Its tokens are read, where the hypernetwork reads any.
            embedding: As `embed` gave it.
            timing_ms: Gets what reading and writing took.

        Raises:
            AdapterError: It couldn't be written.
        """
        known = Known(embedding[None])
        if self._writer.reader is not None:
            with timed(timing_ms, "read"):
                known = await self.run(_survived, self._writer.read, task, embedding)
        with timed(timing_ms, "generate"):
            return await self.run(_survived, self._writer.generate, known), known.n_left_out

    async def distance(self, one: Weights, two: Weights) -> float:
        """Delta-W distance of two adapters, from 0 to 2."""
        return await self.run(self.tensors.distance, one, two)

    async def run(self, work: Callable[..., R], *args: Any) -> R:
        """Do other work on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """End the thread; what waits for it is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _survived(work: Callable[..., R], *args: Any) -> R:
    """A chat must survive whatever breaks in here, our bugs and torch's errors included."""
    try:
        return work(*args)
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
