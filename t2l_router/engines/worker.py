"""The engine's one thread: it owns the model, its adapters and every running answer."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field

from t2l_router.engines.base import AdapterRef, Delta, EngineHealth
from t2l_router.engines.decoding import Decoder, Prompt
from t2l_router.engines.residency import SlotTable
from t2l_router.engines.slots import SlotBank
from t2l_router.errors import EngineBusy, EngineFailed, InvalidAdapter, T2LError
from t2l_router.lora import LoraWeights

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Job:
    """
    One request on its way through the thread.

    Args:
        prompt: What to answer.
        adapter: With which adapter; None is the base model.
        loop: Where *pieces* is read.
        pieces: The answer as it comes; an exception ends it.
    """

    prompt: Prompt
    adapter: AdapterRef | None
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Delta | Exception]" = field(default_factory=asyncio.Queue)
    cancelled: bool = False

    def deliver(self, piece: Delta | Exception) -> None:
        """Hand a piece over to the event loop."""
        # At shutdown the loop may be closed already: then nobody waits for the piece.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


@dataclass(eq=False, slots=True)
class _Running:
    job: Job
    steps: Generator[Delta, None, None]


class Worker:
    """
    Runs jobs side by side, one token each in turn: a short answer never waits for a long one.

    Args:
        decoder: Does the steps.
        bank: The adapters' slots in the decoder's model.
        max_running: Jobs that take turns.
        max_waiting: Jobs in the queue.
    """

    def __init__(
        self, decoder: Decoder, bank: SlotBank, *, max_running: int, max_waiting: int
    ) -> None:
        self._decoder = decoder
        self._bank = bank
        self._max_running = max_running
        self._max_waiting = max_waiting
        # Both sides touch the two queues and the flag, under this lock; the rest is the thread's.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._loads: deque[tuple[AdapterRef, Future[None]]] = deque()
        self._closing = False
        self._table = SlotTable(bank.n_slots)
        self._running: list[_Running] = []
        self._thread = threading.Thread(target=self._run, name="t2l-engine", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """
        Make sure that one more job is taken.

        Raises:
            EngineBusy: The queue is full.
            EngineFailed: The thread has ended.
        """
        if self._closing:
            raise EngineFailed("the engine has shut down")
        busy = len(self._running) + len(self._waiting)
        if busy >= self._max_running + self._max_waiting:
            raise EngineBusy(f"{busy} requests are being answered or wait; try again later")

    def submit(self, job: Job) -> None:
        """Queue a job; raises as `check_room`."""
        with self._changed:
            self.check_room()
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Have a job dropped: at once if it waits, before its next step if it runs."""
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def load(self, adapter: AdapterRef) -> "Future[None]":
        """Have an adapter copied into a slot, unless all are in use."""
        done: Future[None] = Future()
        with self._changed:
            if self._closing:
                raise EngineFailed("the engine has shut down")
            self._loads.append((adapter, done))
            self._changed.notify()
        return done

    def health(self) -> EngineHealth:
        """Say how the thread is doing."""
        return EngineHealth(
            ok=not self._closing,
            running=len(self._running),
            waiting=len(self._waiting),
            resident=self._table.resident,
        )

    def close(self) -> None:
        """End every job with an error, and then the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._load_waiting()
                self._admit_waiting()
                for running in list(self._running):
                    self._step(running)
        finally:
            self._abandon_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closing or self._waiting or self._loads or self._running):
                self._changed.wait()
            return not self._closing

    def _load_waiting(self) -> None:
        while self._loads:
            adapter, done = self._loads.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                if self._occupy(adapter) is not None:
                    self._table.release(adapter.adapter_id)
            except Exception as error:  # noqa: BLE001 - whatever breaks belongs to this adapter
                done.set_exception(_reported(error))
            else:
                done.set_result(None)

    def _admit_waiting(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            with self._changed:
                if not self._waiting:  # cancelled meanwhile
                    return
                job = self._waiting.popleft()
            try:
                slot = self._occupy(job.adapter)
            except Exception as error:  # noqa: BLE001 - whatever breaks belongs to this job
                job.deliver(_reported(error))
                continue
            if slot is None:
                with self._changed:
                    self._waiting.appendleft(job)
                return
            self._running.append(_Running(job, self._decoder.answer(job.prompt, slot)))

    def _occupy(self, adapter: AdapterRef | None) -> int | None:
        """The adapter's slot, with its tensors in it; None while all slots are in use."""
        if adapter is None:
            return 0
        if not isinstance(adapter.weights, LoraWeights):
            raise InvalidAdapter(f"{adapter.adapter_id} has no tensors")
        assigned = self._table.acquire(adapter.adapter_id)
        if assigned is None:
            return None
        slot, is_new = assigned
        if is_new:
            try:
                self._bank.insert(slot, adapter.weights)
            except BaseException:
                self._table.release(adapter.adapter_id)
                self._table.evict(adapter.adapter_id)
                raise
        return slot

    def _step(self, running: _Running) -> None:
        job = running.job
        if job.cancelled:
            self._retire(running)
            return
        try:
            delta = next(running.steps)
        except Exception as error:  # noqa: BLE001 - an answer that breaks must not end the others
            self._retire(running)
            job.deliver(_reported(error))
            return
        if delta.finish_reason:
            self._retire(running)
        if delta.text or delta.finish_reason:
            job.deliver(delta)

    def _retire(self, running: _Running) -> None:
        self._running.remove(running)
        running.steps.close()
        if running.job.adapter is not None:
            self._table.release(running.job.adapter.adapter_id)

    def _abandon_all(self) -> None:
        with self._changed:
            self._closing = True
            jobs = [*(running.job for running in self._running), *self._waiting]
            self._running.clear()
            self._waiting.clear()
            loads = [done for _, done in self._loads]
            self._loads.clear()
        error = EngineFailed("the engine has shut down")
        for job in jobs:
            job.deliver(error)
        for done in loads:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)


def _reported(error: Exception) -> T2LError:
    """Pass an expected error on; log any other and say no more than that to the caller."""
    if isinstance(error, T2LError):
        return error
    logger.error("the engine broke", exc_info=error)
    return EngineFailed("the engine broke while answering; the log says how")
