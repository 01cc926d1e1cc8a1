"""Blocking calls of the adapter library, made from the event loop without ever blocking it."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from adapters_store.errors import (
    AdapterCorrupt,
    Conflict,
    EncoderMismatch,
    InvalidInput,
    NotFound,
    StoreError,
)
from adapters_store.store import AdapterStore
from t2l_router.errors import LibraryUnavailable

logger = logging.getLogger(__name__)

R = TypeVar("R")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# What the caller asked for is the problem, not the library.
_ANSWERS = (NotFound, Conflict, InvalidInput, AdapterCorrupt)


class Calls:
    """
    Runs calls of the library in a few threads; while it is broken they fail at once.

    After a failure calls are refused for a pause that doubles up to ten seconds, so that requests
    don't queue before a database that is gone; the first call that succeeds ends this.

    Args:
        store: The library.
        threads: Calls at once.
        max_waiting: Calls under way and in the queue; more are refused.
        timeout_s: Longest wait for a call that a request waits for. The call itself can't be ended
            and goes on.
        patience_s: Longest wait for one that nobody waits for.
    """

    def __init__(
        self,
        store: AdapterStore,
        *,
        threads: int = 4,
        max_waiting: int = 512,
        timeout_s: float = 5.0,
        patience_s: float = 60.0,
    ) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(threads, "t2l-library")
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._waiting = 0
        self._pause_s = 0.0
        self._away_until = 0.0
        self._why = ""

    @property
    def problem(self) -> str | None:
        """Why calls are refused just now; None while they aren't."""
        return self._why if time.monotonic() < self._away_until else None

    async def run(self, work: Callable[[AdapterStore], R], *, behind: bool = False) -> R:
        """
        Call *work* with the library in a thread.

        Args:
            work: Is to bear being called again: after a timeout it may still succeed.
            behind: No request waits for it.

        Raises:
            LibraryUnavailable: It is broken, too slow or overrun.
            StoreError: `NotFound`, `Conflict`, `InvalidInput` or `AdapterCorrupt`, as it came.
        """
        if why := self.problem:
            raise LibraryUnavailable(why)
        if self._waiting >= self._max_waiting:
            raise LibraryUnavailable(f"the library has {self._waiting} calls waiting")
        self._waiting += 1
        call = asyncio.get_running_loop().run_in_executor(self._pool, work, self._store)
        call.add_done_callback(self._done)
        timeout_s = self._patience_s if behind else self._timeout_s
        done, _ = await asyncio.wait([call], timeout=timeout_s)
        if not done:
            raise self._broke(f"it did not answer within {timeout_s:g} s")
        try:
            result = call.result()
        except EncoderMismatch as error:
            raise LibraryUnavailable(str(error)) from error
        except _ANSWERS:
            self._pause_s = 0.0
            raise
        except StoreError as error:
            raise self._broke("it can't be reached", error) from error
        self._pause_s = 0.0
        return result

    async def close(self) -> None:
        """Finish what was begun, then close the library."""
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self._store.close)

    def _done(self, call: "asyncio.Future[R]") -> None:
        self._waiting -= 1
        if not call.cancelled():
            call.exception()  # seen: whoever gave up waiting doesn't read it

    def _broke(self, why: str, detail: object = "") -> LibraryUnavailable:
        self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
        self._away_until = time.monotonic() + self._pause_s
        # Clients read this; addresses and paths, which the detail may hold, are for the log alone.
        self._why = f"the adapter library is unavailable: {why}"
        logger.error("%s %s; next try in %g s", self._why, detail, self._pause_s)
        return LibraryUnavailable(self._why)
