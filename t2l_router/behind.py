"""What is written behind the answers: sessions, decisions and uses, in batches."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict

from adapters_store.decisions import DecisionEntry
from adapters_store.errors import StoreError
from adapters_store.identity import AdapterId
from adapters_store.sessions import SessionRow
from adapters_store.traffic import Batch, Retention
from t2l_router.calls import Calls
from t2l_router.errors import LibraryUnavailable

logger = logging.getLogger(__name__)

_GATHER_S = 0.05
_RETRY_S = 2.0
_BATCH = 500
_SWEEP_EVERY_S = 300.0


class Behind:
    """
    Gathers rows for a moment and writes them in one transaction.

    While the library is away the newest rows are kept, up to a number, and written when it is back.
    `flush` writes at once; `close` does so too, and then stops.

    Args:
        calls: Reaches the library.
        retention: What may stay in the tables.
        max_pending: Rows of each kind that wait at most; the oldest go first.
    """

    def __init__(self, calls: Calls, *, retention: Retention, max_pending: int = 10_000) -> None:
        self._calls = calls
        self._retention = retention
        self._max_pending = max_pending
        self._sessions: dict[str, SessionRow | None] = {}
        self._touched: set[str] = set()
        self._decisions: list[DecisionEntry] = []
        self._uses: dict[str, Counter[AdapterId]] = defaultdict(Counter)
        self._n_lost = 0
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = asyncio.Event()
        self._writing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None
        self._swept_at = 0.0

    def session(self, key: str, row: SessionRow | None) -> None:
        """Remember what a conversation holds; None forgets it."""
        self._sessions.pop(key, None)
        self._sessions[key] = row
        # The next turn may come to another router, and a tool's result comes at once.
        self._urgent.set()
        self._stir()

    def touch(self, key: str) -> None:
        """Note that a conversation had a turn and holds what it held."""
        self._touched.add(key)
        self._stir()

    def decision(self, entry: DecisionEntry) -> None:
        """Log a decision; if it was served by an adapter, count that too."""
        self._decisions.append(entry)
        self._stir()

    def use(self, tenant: str, adapter_id: AdapterId) -> None:
        """Count that an adapter served."""
        self._uses[tenant][adapter_id] += 1
        self._stir()

    async def flush(self) -> None:
        """
        Write everything now.

        Raises:
            LibraryUnavailable: It is kept for later.
        """
        while await self._write():
            pass

    async def settle(self, *, within_s: float) -> None:
        """Wait until what was noted so far is written, but not too long; it is tried further on."""
        # One write: it takes what all others have noted meanwhile, who then find nothing to do.
        writing = asyncio.create_task(self._write())
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([writing], timeout=within_s)

    async def _write(self) -> bool:
        """Write some rows; whether there were any, once those under way are written."""
        async with self._writing:
            if not (self._sessions or self._touched or self._decisions or self._uses):
                return False
            # The oldest first, and not too many: others want to write as well.
            rows = list(self._sessions.items())
            sessions, self._sessions = dict(rows[:_BATCH]), dict(rows[_BATCH:])
            decisions, self._decisions = self._decisions[:_BATCH], self._decisions[_BATCH:]
            uses, self._uses = self._uses, defaultdict(Counter)
            # Not put back after a failure: at worst a conversation ends that much earlier.
            keys = list(self._touched)
            touched, self._touched = keys[:_BATCH], set(keys[_BATCH:])
            batch = Batch(sessions, tuple(decisions), uses, touched)
            try:
                await self._calls.run(lambda store: store.traffic.record(batch), behind=True)
            except LibraryUnavailable:
                self._put_back(sessions, decisions, uses)
                raise
            except StoreError:
                # One unsound row must not hold up all that come after it.
                self._n_lost += len(decisions)
                logger.exception("%d decisions could not be logged", len(decisions))
            return True

    async def close(self) -> None:
        """Write what waits, and stop."""
        self._closing.set()
        self._wake.set()
        self._urgent.set()
        if self._loop is not None:
            await self._loop
        with contextlib.suppress(LibraryUnavailable):
            await self.flush()

    def _stir(self) -> None:
        if self._loop is None:
            self._loop = asyncio.create_task(self._run())
        self._wake.set()

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), _GATHER_S)
            self._wake.clear()
            self._urgent.clear()
            try:
                # Not until nothing is left: what comes while it writes makes up the next batch.
                await self._write()
                while self._has_batch():
                    await self._write()
                await self._sweep()
            except LibraryUnavailable:
                self._wake.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _RETRY_S)
            except Exception:
                # Our bug: it costs what was to be written now, not all that comes after it.
                logger.exception("rows behind the answers are lost")

    def _has_batch(self) -> bool:
        return any(len(rows) >= _BATCH for rows in (self._sessions, self._decisions, self._touched))

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept_at < _SWEEP_EVERY_S:
            return
        self._swept_at = time.monotonic()
        await self._calls.run(lambda store: store.traffic.sweep(self._retention), behind=True)

    def _put_back(
        self,
        sessions: dict[str, SessionRow | None],
        decisions: list[DecisionEntry],
        uses: dict[str, Counter[AdapterId]],
    ) -> None:
        """Keep what could not be written, as far as there is room; what is newer wins."""
        kept = [*(sessions | self._sessions).items()][-self._max_pending :]
        self._sessions = dict(kept)
        logged = [*decisions, *self._decisions]
        lost = len(logged) - self._max_pending
        if lost > 0:
            self._n_lost += lost
            logger.warning("the library is away: %d decisions are lost", self._n_lost)
        self._decisions = logged[-self._max_pending :]
        for tenant, counts in uses.items():
            self._uses[tenant].update(counts)
