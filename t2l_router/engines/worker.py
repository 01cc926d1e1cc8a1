"""The engine's one thread: it owns the model, its adapters and every running answer."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from t2l_router.engines.base import AdapterRef, EngineHealth
from t2l_router.engines.batch import Batch, Row
from t2l_router.engines.decoding import Answer, Vocabulary
from t2l_router.engines.jobs import Errands, Job, Visit
from t2l_router.engines.prefixes import MIN_TOKENS, PrefixStore, shared
from t2l_router.engines.residency import SlotTable
from t2l_router.engines.slots import SlotBank
from t2l_router.engines.waiting import FairQueue
from t2l_router.errors import EngineBusy, EngineFailed, InvalidAdapter, T2LError
from t2l_router.lora import LoraWeights

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    answer: Answer


class Worker:
    """
    Answers jobs side by side; they join and leave between steps.

    Semantics:
        Each step reads a piece of new prompts in one forward pass, and decodes one token of every
        other answer in another.

    Args:
        batch: Does the steps.
        bank: The adapters' slots in the batch's model.
        vocabulary: Of the model.
        max_running: Jobs in the batch.
        max_waiting: Jobs in the queue.
    """

    def __init__(
        self,
        batch: Batch,
        bank: SlotBank,
        vocabulary: Vocabulary,
        *,
        max_running: int,
        max_waiting: int,
    ) -> None:
        self._batch = batch
        self._bank = bank
        self._vocabulary = vocabulary
        self._max_running = max_running
        self._max_waiting = max_waiting
        # Both sides touch the queues and the flag, under this lock; the rest is the thread's.
        self._changed = threading.Condition()
        self._waiting: FairQueue[Job] = FairQueue()
        self._visits: deque[Visit] = deque()
        self._errands = Errands()
        self._closing = False
        self._table = SlotTable(bank.n_slots)
        self._running: dict[Row, _Running] = {}
        kv = batch.kv
        self._prefixes = PrefixStore(lambda: kv.budget_bytes - kv.nbytes)
        self._is_warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="t2l-engine", daemon=True)
        self._thread.start()
        self._is_warm.wait()

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
            self._waiting.push(job, job.key)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Have a job dropped: at once if it waits, before its next step if it runs."""
        with self._changed:
            job.cancelled = True
            self._waiting.remove(job)

    def load(self, adapter: AdapterRef) -> "Future[float | None]":
        """Have an adapter copied into a slot, unless all are in use."""
        return self.visit(adapter, lambda _: None)

    def visit(
        self,
        adapter: AdapterRef | None,
        work: Callable[[int], float | None],
        *,
        can_wait: bool = False,
    ) -> "Future[float | None]":
        """
        Have something done in the thread, between two steps, with an adapter in its slot.

        Args:
            adapter: None is the base model.
            work: Gets the slot. If all slots are in use it is not called, and the result is None.
            can_wait: Let answers go first, for a second at most.
        """
        visit = Visit(adapter, work)
        with self._changed:
            if self._closing:
                raise EngineFailed("the engine has shut down")
            if can_wait:
                self._errands.add(visit)
            else:
                self._visits.append(visit)
            self._changed.notify()
        return visit.done

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

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            self._warm_up()
            while self._wait_for_work():
                self._drop_cancelled()
                self._receive()
                self._admit_waiting()
                self._read()
                self._decode()
        finally:
            self._abandon_all()

    def _warm_up(self) -> None:
        try:
            self._batch.warm_up()
        finally:
            self._is_warm.set()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closing or self._waiting or self._visits or self._running):
                wait_s = self._errands.wait_s(is_quiet=True)
                if wait_s == 0:
                    break
                self._changed.wait(wait_s)
            return not self._closing

    def _receive(self) -> None:
        while self._visits:
            self._attend(self._visits.popleft())
        with self._changed:
            errand = self._errands.take(is_quiet=not (self._waiting or self._running))
        if errand is not None:
            self._attend(errand)

    def _attend(self, visit: Visit) -> None:
        if not visit.done.set_running_or_notify_cancel():
            return
        try:
            slot = self._occupy(visit.adapter)
            try:
                result = None if slot is None else visit.work(slot)
            finally:
                if slot:
                    assert visit.adapter is not None, "slot 0 is the base model"
                    self._table.release(visit.adapter.adapter_id)
        except Exception as error:  # noqa: BLE001 - whatever breaks belongs to this visit
            visit.done.set_exception(_reported(error))
        else:
            visit.done.set_result(result)

    def _drop_cancelled(self) -> None:
        for row in [row for row, running in self._running.items() if running.job.cancelled]:
            self._retire(row)

    def _admit_waiting(self) -> None:
        while len(self._running) < self._max_running:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.first()
            try:
                was_admitted = self._admit(job)
            except Exception as error:  # noqa: BLE001 - whatever breaks belongs to this job
                job.deliver(_reported(error))
            else:
                if not was_admitted:
                    return  # nobody overtakes it, or it might wait for ever
            with self._changed:
                self._waiting.take(job)

    def _admit(self, job: Job) -> bool:
        """Make a job a row of the batch; False if it has to wait."""
        ids = job.prompt.ids
        capacity = len(ids) + job.prompt.max_tokens
        if not self._batch.has_room(capacity):
            if self._running:
                return False
            raise EngineFailed(f"{capacity:,} tokens don't fit into the engine's kv_memory_mib")
        source, n_shared = self._shared_row(job)
        if source is not None and source.n_read < n_shared:
            return False  # what it shares is being read
        slot = self._occupy(job.adapter)
        if slot is None:
            return False
        row = Row(slot, list(ids), capacity)
        try:
            answer = Answer(job.prompt, self._vocabulary)
            place = self._batch.join(row)
        except BaseException:
            self._release(job)
            raise
        self._running[row] = _Running(job, answer)
        try:
            self._prefixes.shrink()
            saved = self._prefixes.longest(job.key, ids[:-1])
            if source is not None and n_shared >= (saved[0] if saved else 0):
                self._batch.kv.move(self._batch.rows.index(source), place, n_shared)
                row.n_read = row.n_written = n_shared
            elif saved is not None:
                row.n_read = row.n_written = saved[0]
                self._batch.kv.load(place, saved[1], saved[0])
            self._batch.settle()
        except BaseException:
            self._retire(row)
            raise
        return True

    def _shared_row(self, job: Job) -> tuple[Row | None, int]:
        """The running row that shares most tokens with a job's prompt, and how many."""
        wanted = np.asarray(job.prompt.ids[:-1], dtype=np.int32)
        best: Row | None = None
        longest = MIN_TOKENS - 1
        for row, running in self._running.items():
            if running.job.key == job.key:
                held = np.asarray(row.ids[:-1], dtype=np.int32)
                if (n := shared(held, wanted)) > longest:
                    best, longest = row, n
        return best, longest

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

    def _read(self) -> None:
        group = self._batch.unread
        try:
            self._batch.read(group)
        except Exception as error:  # noqa: BLE001 - a prompt that breaks must not end the others
            if len(group) == 1:
                self._fail(group[0], error)
                return
            # Together they broke; alone, only the one at fault does.
            try:
                self._batch.read(group[:1])
            except Exception as own_error:  # noqa: BLE001
                self._fail(group[0], own_error)

    def _decode(self) -> None:
        rows = list(self._batch.ready)
        if not rows:
            return
        try:
            self._choose(rows, self._batch.decode().float())
        except Exception:
            logger.warning("a step broke; its answers go on one by one", exc_info=True)
            for row in rows:
                try:
                    if row in self._running:
                        self._choose([row], self._batch.decode([row]).float())
                except Exception as error:  # noqa: BLE001 - it belongs to this answer
                    self._fail(row, error)

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> None:
        best, likeliest = logits.max(dim=-1)
        # NaN and infinity both show in the maximum.
        finite = best.isfinite().tolist()
        for row, scores, token, ok in zip(rows, logits, likeliest.tolist(), finite, strict=True):
            if not ok:
                self._fail(row, EngineFailed("the model's output is not finite with this adapter"))
                continue
            try:
                self._extend(row, self._running[row].answer.pick(scores, token))
            except Exception as error:  # noqa: BLE001 - it belongs to this answer
                self._fail(row, error)

    def _extend(self, row: Row, token: int) -> None:
        job, answer = self._running[row].job, self._running[row].answer
        delta = answer.add(token)
        self._batch.advance(row, token)
        if delta.finish_reason:
            self._keep(row)
            self._retire(row)
            job.n_tokens = answer.n_tokens
        if delta.text or delta.finish_reason:
            job.deliver(delta)

    def _keep(self, row: Row) -> None:
        """Keep what was read, for the conversation's next turn."""
        kv, place = self._batch.kv, self._batch.rows.index(row)
        self._prefixes.add(
            self._running[row].job.key,
            row.ids[: row.n_read],
            row.n_read * kv.bytes_per_token,
            lambda: kv.save(place, row.n_read),
        )

    def _fail(self, row: Row, error: Exception) -> None:
        job = self._running[row].job
        self._retire(row)
        job.deliver(_reported(error))

    def _retire(self, row: Row) -> None:
        job = self._running.pop(row).job
        self._batch.leave(row)
        self._release(job)

    def _release(self, job: Job) -> None:
        if job.adapter is not None:
            self._table.release(job.adapter.adapter_id)

    def _abandon_all(self) -> None:
        with self._changed:
            self._closing = True
            jobs = [*(running.job for running in self._running.values()), *self._waiting.clear()]
            self._running.clear()
            visits = [*self._visits, *self._errands.clear()]
            self._visits.clear()
        error = EngineFailed("the engine has shut down")
        for job in jobs:
            job.deliver(error)
        for visit in visits:
            if visit.done.set_running_or_notify_cancel():
                visit.done.set_exception(error)


def _reported(error: Exception) -> T2LError:
    """Pass an expected error on; log any other and say no more than that to the caller."""
    if isinstance(error, T2LError):
        return error
    logger.error("the engine broke", exc_info=error)
    return EngineFailed("the engine broke while answering; the log says how")
