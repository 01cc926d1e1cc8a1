"""
Nearest-neighbour search over task embeddings: the seam, and the exact implementation.

An index is a cache. It pulls what it lacks from the database whenever it is asked, so it needs no
notice of changes, and losing it loses nothing. It may return candidates that are gone by now: the
store looks every candidate up, drops the dead and scores the rest exactly.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    One embedding that may be among the nearest.

    Args:
        seq: Its sequence number in the database.
        score: Its cosine with the query as far as the index knows; it may be quantised.
    """

    seq: int
    score: float


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """
    What an index holds of one partition.

    Args:
        partition: The partition's number.
        kind: How it is searched, e.g. ``exact``, ``flat``, ``ivf``.
        vectors: How many embeddings it holds, dead ones included.
        last_seq: The newest of them.
    """

    partition: int
    kind: str
    vectors: int
    last_seq: int


class VectorSource(Protocol):
    """Where an index gets embeddings: the database."""

    def since(self, partition: int, seq: int) -> Iterator[Batch]:
        """Yield the partition's embeddings after *seq* in order: ``[n]`` int64, ``[n, D]``."""


class VectorIndex(Protocol):
    """Finds the embeddings nearest to a query."""

    def search(
        self, partitions: Mapping[int, int], query: NDArray[np.float32], k: int
    ) -> list[Candidate]:
        """
        Find the *k* best of some partitions, best first.

        Args:
            partitions: Partition -> the newest sequence number that it has in the database; what
                the index lacks up to there is pulled first.
            query: ``[D]`` of unit norm.
            k: How many at most.
        """

    def refresh(self, partition: int) -> PartitionStatus:
        """Take in what the database has and the index lacks."""

    def rebuild(self, partition: int) -> PartitionStatus:
        """Forget the partition and build it anew from the database."""

    def close(self) -> None:
        """Save what is worth saving."""


def best(candidates: list[Candidate], k: int) -> list[Candidate]:
    """The *k* best, best first; equal scores in order of age."""
    return sorted(candidates, key=lambda hit: (-hit.score, hit.seq))[:k]


class ExactIndex:
    """Compares the query with every embedding; the reference for the others."""

    def __init__(self, source: VectorSource) -> None:
        self._source = source
        self._partitions: dict[int, _Rows] = {}
        self._lock = threading.Lock()

    def search(
        self, partitions: Mapping[int, int], query: NDArray[np.float32], k: int
    ) -> list[Candidate]:
        """The *k* best of the given partitions, best first."""
        found: list[Candidate] = []
        with self._lock:
            for partition, newest in partitions.items():
                rows = self._pulled(partition, newest)
                scores = rows.vectors[: rows.count] @ query if rows.count else np.empty(0)
                top = np.argsort(-scores, kind="stable")[:k]
                found += [Candidate(int(rows.seqs[i]), float(scores[i])) for i in top]
        return best(found, k)

    def refresh(self, partition: int) -> PartitionStatus:
        """Take in what the database has and the index lacks."""
        with self._lock:
            rows = self._pulled(partition, sys.maxsize)
        return PartitionStatus(partition, "exact", rows.count, rows.last_seq)

    def rebuild(self, partition: int) -> PartitionStatus:
        """Forget the partition and build it anew from the database."""
        with self._lock:
            self._partitions.pop(partition, None)
        return self.refresh(partition)

    def close(self) -> None:
        """Nothing is worth saving: the next process reads the database."""

    def _pulled(self, partition: int, newest: int) -> "_Rows":
        rows = self._partitions.setdefault(partition, _Rows())
        if rows.last_seq < newest:
            for seqs, vectors in self._source.since(partition, rows.last_seq):
                rows.append(seqs, vectors)
        return rows


class _Rows:
    """A matrix that grows at its end without being copied each time."""

    def __init__(self) -> None:
        self.count = 0
        self.seqs = np.empty(0, np.int64)
        self.vectors = np.empty((0, 0), np.float32)

    @property
    def last_seq(self) -> int:
        return int(self.seqs[self.count - 1]) if self.count else 0

    def append(self, seqs: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        total = self.count + len(seqs)
        if total > len(self.seqs):
            capacity = max(total, 2 * len(self.seqs))
            grown = np.empty((capacity, vectors.shape[1]), np.float32)
            grown_seqs = np.empty(capacity, np.int64)
            if self.count:
                grown[: self.count] = self.vectors[: self.count]
                grown_seqs[: self.count] = self.seqs[: self.count]
            self.vectors, self.seqs = grown, grown_seqs
        self.vectors[self.count : total] = vectors
        self.seqs[self.count : total] = seqs
        self.count = total
