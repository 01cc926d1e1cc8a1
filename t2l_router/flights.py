"""Single flight: concurrent requests for the same thing wait for one piece of work."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from t2l_router.errors import GenerationBusy, GenerationFailed

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """
    Work under way, by what it is for.

    Args:
        limit: Pieces of work at once; beyond it none begins.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._flights: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def join(
        self, key: K, begin: Callable[[], Coroutine[Any, Any, V]], *, timeout_s: float
    ) -> V:
        """
        Wait for the work on *key*; begin it if nobody has.

        Who gives up waiting doesn't take it from the others: the work goes on.

        Raises:
            GenerationBusy: Too much is under way.
            GenerationFailed: It takes longer than *timeout_s*.
        """
        flight = self._flights.get(key)
        if flight is None:
            if len(self) >= self._limit:
                raise GenerationBusy(f"{len(self)} adapters are being written already")
            flight = asyncio.create_task(begin())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        done, _ = await asyncio.wait([flight], timeout=timeout_s)
        if not done:
            raise GenerationFailed(f"not ready within {timeout_s:g} s")
        return flight.result()

    async def close(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _land(self, key: K, flight: "asyncio.Task[V]") -> None:
        del self._flights[key]
        if not flight.cancelled() and (error := flight.exception()):
            logger.warning("no adapter: %s", error, exc_info=error.__cause__)
