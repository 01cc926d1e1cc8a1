"""What an answer led to is stored behind it, and tried again while the library is away."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from adapters_store.errors import StoreError
from t2l_router.errors import LibraryUnavailable

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = (0.6, 2.0, 8.0)


class Writes:
    """Writes under way."""

    def __init__(self) -> None:
        self._writes: set[asyncio.Task[None]] = set()

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """Begin a write that may be repeated; in the end it fails into the log."""
        write = asyncio.create_task(_persist(work))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return write

    async def settle(self) -> None:
        """Wait for all that were begun."""
        await asyncio.gather(*self._writes, return_exceptions=True)


async def _persist(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    for pause_s in (*_RETRY_AFTER_S, None):
        try:
            await work()
        except LibraryUnavailable as error:
            if pause_s is not None:
                await asyncio.sleep(pause_s)
                continue
            logger.warning("not stored: %s", error)
        except StoreError as error:
            logger.warning("not stored: %s", error)
        return
