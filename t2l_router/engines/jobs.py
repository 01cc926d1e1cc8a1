"""What the engine's thread is asked for."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from t2l_router.engines.base import AdapterRef, Delta
from t2l_router.engines.decoding import Prompt
from t2l_router.engines.prefixes import PrefixKey

AT_LEAST_S, AT_MOST_S = 0.05, 1.0  # that an errand waits


@dataclass(eq=False, slots=True)
class Job:
    """
    One request on its way through the thread.

    Args:
        prompt: What to answer.
        adapter: With which adapter; None is the base model.
        loop: Where *pieces* is read.
        pieces: The answer as it comes; an exception ends it.
        n_tokens: Tokens of the answer, once it has ended.
    """

    prompt: Prompt
    adapter: AdapterRef | None
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Delta | Exception]" = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    n_tokens: int = 0

    @property
    def key(self) -> PrefixKey:
        """Whose work it can share."""
        return PrefixKey(self.adapter.adapter_id if self.adapter else None, self.prompt.salt)

    def deliver(self, piece: Delta | Exception) -> None:
        """Hand a piece over to the event loop."""
        # At shutdown the loop may be closed already: then nobody waits for the piece.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


@dataclass(frozen=True, slots=True)
class Visit:
    """
    Something to be done in the thread, between two steps.

    Args:
        adapter: Whose slot it wants; None is the base model.
        work: Gets the slot.
        done: Its result; None if all slots were in use.
        asked_at: When it was asked for, by `time.monotonic`.
    """

    adapter: AdapterRef | None
    work: Callable[[int], float | None]
    done: "Future[float | None]" = field(default_factory=Future)
    asked_at: float = field(default_factory=time.monotonic)


class Errands:
    """
    Visits that no answer waits for, first come, first served: due when it is quiet, or in a second.

    A moment passes even when it is quiet: what an answer comes with may arrive before it does.
    """

    def __init__(self) -> None:
        self._visits: deque[Visit] = deque()

    def add(self, visit: Visit) -> None:
        """Take one in."""
        self._visits.append(visit)

    def wait_s(self, *, is_quiet: bool) -> float | None:
        """Seconds until the first is due; None without any."""
        if not self._visits:
            return None
        age = time.monotonic() - self._visits[0].asked_at
        return max(0.0, (AT_LEAST_S if is_quiet else AT_MOST_S) - age)

    def take(self, *, is_quiet: bool) -> Visit | None:
        """Hand out the first, if it is due."""
        return self._visits.popleft() if self.wait_s(is_quiet=is_quiet) == 0 else None

    def clear(self) -> list[Visit]:
        """Hand out all."""
        visits = list(self._visits)
        self._visits.clear()
        return visits
