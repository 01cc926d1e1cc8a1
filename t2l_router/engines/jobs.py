"""What the engine's thread is asked for."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from t2l_router.engines.base import AdapterRef, Delta
from t2l_router.engines.decoding import Prompt
from t2l_router.engines.prefixes import PrefixKey


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
    """

    adapter: AdapterRef | None
    work: Callable[[int], float | None]
    done: "Future[float | None]" = field(default_factory=Future)
