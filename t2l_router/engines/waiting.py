"""The queue in front of the batch: bounded, and fair between adapters."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """
    Gives every flow its turn: many jobs of one flow don't hold up the one job of another.

    Semantics:
        Start-time fair queueing with jobs of equal cost. A job is tagged one behind the last job
        of its flow, but not before the clock, and the lowest tag goes first; the clock is the tag
        of the last job that went. So no job waits for ever, whatever comes after it.

    Source:
        Goyal, Vin and Cheng, Start-time Fair Queuing, SIGCOMM 1996.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._numbers = itertools.count()
        self._last_tag: dict[Hashable, int] = {}
        self._clock = 0

    def push(self, job: T, flow: Hashable) -> None:
        """Queue a job."""
        tag = max(self._clock, self._last_tag.get(flow, 0)) + 1
        self._last_tag[flow] = tag
        heapq.heappush(self._heap, (tag, next(self._numbers), job))

    def first(self) -> T:
        """The job whose turn it is; it stays."""
        return self._heap[0][2]

    def take(self, job: T) -> None:
        """Take the job whose turn it was, unless it was removed meanwhile."""
        if self._heap and self.first() is job:
            self._clock, *_ = heapq.heappop(self._heap)
            # A flow whose last tag is not ahead of the clock starts like a new one.
            self._last_tag = {flow: t for flow, t in self._last_tag.items() if t > self._clock}

    def remove(self, job: T) -> None:
        """Take a job out, if it is there."""
        self._heap = [entry for entry in self._heap if entry[2] is not job]
        heapq.heapify(self._heap)

    def clear(self) -> list[T]:
        """Take all jobs out, in their order."""
        jobs = [job for *_, job in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return jobs

    def __len__(self) -> int:
        return len(self._heap)
