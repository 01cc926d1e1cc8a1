"""
Approximate search by FAISS: every embedding while they are few, inverted lists beyond.

A partition starts flat and is searched exhaustively. Once it has grown, inverted lists are built
beside it while the flat index goes on serving, and saved as a cache file for the next process.
Which of FAISS's indexes, when and how set up was decided by ``tests/bench/bench_index.py``.
"""

import contextlib
import hashlib
import json
import logging
import math
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import StoreError
from adapters_store.index import Candidate, PartitionStatus, VectorSource, best

# A flat search of 20,000 embeddings of 384 dimensions takes about as long as one through the lists
# of 1,000,000 with the SQL around it.
FLAT_BELOW = 20_000
_GROWTH_BEFORE_REBUILD = 4
_TRAINING_ROWS_PER_LIST = 20
_TRAINING_ROUNDS = 4
_LISTS_PROBED = 256
_REFINED_PER_HIT = 10
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partition:
    """One FAISS index; it numbers embeddings from 0, and ``seqs`` says which each of them is."""

    index: Any = None
    seqs: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    saved_seq: int = 0
    trained_on: int = 0
    is_loaded: bool = False
    builder: threading.Thread | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def count(self) -> int:
        return 0 if self.index is None else int(self.index.ntotal)

    @property
    def last_seq(self) -> int:
        return int(self.seqs[self.count - 1]) if self.count else 0

    def add(self, seqs: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        total = self.count + len(seqs)
        if total > len(self.seqs):
            # Twice the room each time, so that one-by-one additions don't copy everything.
            self.seqs = np.resize(self.seqs, 2 * total) if len(self.seqs) else np.empty(total, int)
        self.seqs[total - len(seqs) : total] = seqs
        self.index.add(vectors)

    def search(self, query: NDArray[np.float32], k: int) -> list[Candidate]:
        # One query gains nothing from more threads, and waits for them when the cores are busy.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            scores, positions = self.index.search(query[None, :], min(k, self.count))
        finally:
            faiss.omp_set_num_threads(threads)
        return [
            Candidate(int(self.seqs[position]), float(score))
            for position, score in zip(positions[0], scores[0], strict=True)
            if position >= 0  # FAISS pads with -1
        ]


class FaissIndex:
    """
    One FAISS index per partition, in memory, cached on the disk when it is large.

    Args:
        source: Where embeddings come from.
        cache_dir: Directory for cache files.
        library: Id of the library; files of another one are passed over.
        flat_below: Embeddings from which a partition gets inverted lists.
    """

    def __init__(
        self, source: VectorSource, *, cache_dir: Path, library: str, flat_below: int = FLAT_BELOW
    ) -> None:
        self._source = source
        self._cache_dir = cache_dir
        self._library = library
        self._flat_below = flat_below
        self._partitions: dict[int, _Partition] = {}
        self._lock = threading.Lock()

    def search(
        self, partitions: Mapping[int, int], query: NDArray[np.float32], k: int
    ) -> list[Candidate]:
        """The *k* best of the given partitions, best first."""
        found: list[Candidate] = []
        for number, newest in partitions.items():
            part = self._partition(number)
            with part.lock:
                if part.last_seq < newest:
                    self._pull(number, part)
                if part.count:
                    found += part.search(query, k)
        return best(found, k)

    def refresh(self, partition: int) -> PartitionStatus:
        """Take in what the database has and the index lacks."""
        part = self._partition(partition)
        with part.lock:
            self._pull(partition, part)
            kind = "ivf" if part.trained_on else "flat"
            return PartitionStatus(partition, kind, part.count, part.last_seq)

    def rebuild(self, partition: int) -> PartitionStatus:
        """Forget the partition and build it anew from the database, before returning."""
        part = self._partition(partition)
        with part.lock:
            part.index, part.trained_on = None, 0
            with contextlib.suppress(OSError):  # then its checks will tell that it is stale
                self._file(partition).unlink()
        self._pull(partition, part)
        self.wait()
        return self.refresh(partition)

    def wait(self) -> None:
        """Wait until no build is under way."""
        for part in list(self._partitions.values()):
            if part.builder is not None:
                part.builder.join()

    def close(self) -> None:
        """Save the partitions with inverted lists that have grown since they were saved."""
        for number, part in list(self._partitions.items()):
            with part.lock:
                if part.trained_on and part.saved_seq != part.last_seq:
                    self._save(number, part)

    def _partition(self, number: int) -> _Partition:
        with self._lock:
            part = self._partitions.setdefault(number, _Partition())
        # A large file takes seconds to read; searches of other partitions don't wait for it.
        with part.lock:
            if not part.is_loaded:
                self._load(number, part)
                part.is_loaded = True
        return part

    def _pull(self, number: int, part: _Partition) -> None:
        with part.lock:
            for seqs, vectors in self._source.since(number, part.last_seq):
                if part.index is None:
                    part.index = faiss.IndexFlatIP(vectors.shape[1])
                part.add(seqs, vectors)
            limit = max(self._flat_below, _GROWTH_BEFORE_REBUILD * part.trained_on)
            if part.count >= limit and part.builder is None:
                part.builder = threading.Thread(
                    target=self._build, args=(number, part), name=f"t2l-index-{number}", daemon=True
                )
                part.builder.start()

    def _build(self, number: int, part: _Partition) -> None:
        """Build inverted lists from the database and put them in the flat index's place."""
        try:
            batches = list(self._source.since(number, 0))
            seqs = np.concatenate([batch[0] for batch in batches])
            index = build_ivf(np.concatenate([batch[1] for batch in batches]))
        except StoreError:
            _log.exception("the index of partition %d could not be built; it stays flat", number)
            part.builder = None
            return
        built = _Partition(index, seqs, trained_on=len(seqs))
        self._save(number, built)  # before it serves: nobody waits for the disk
        with part.lock:
            part.index, part.seqs = built.index, built.seqs
            part.trained_on, part.saved_seq = built.trained_on, built.saved_seq
            part.builder = None

    # --- cache files: a header line of JSON, then FAISS's own format -------------------------

    def _file(self, number: int) -> Path:
        return self._cache_dir / f"{self._library}-{number}.faiss"

    def _save(self, number: int, part: _Partition) -> None:
        beside = self._cache_dir / f".{uuid.uuid4().hex}.tmp"
        seqs = part.seqs[: part.count]
        data = faiss.serialize_index(part.index)
        header = {
            "library": self._library,
            "partition": number,
            "count": part.count,
            "trained_on": part.trained_on,
            "sha256": _digest(seqs, data),
        }
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(seqs.data)
                file.write(data.data)
            beside.replace(self._file(number))
            part.saved_seq = part.last_seq
        except OSError as error:
            # A cache that can't be written costs time at the next start, nothing else.
            _log.warning("the index of partition %d could not be saved: %s", number, error)
            with contextlib.suppress(OSError):
                beside.unlink()

    def _load(self, number: int, part: _Partition) -> None:
        path = self._file(number)
        try:
            with path.open("rb") as file:
                header = json.loads(file.readline(10_000))
                seqs = np.fromfile(file, dtype=np.int64, count=int(header["count"]))
                data = np.fromfile(file, dtype=np.uint8)
            # FAISS trusts what it reads: a damaged file must not get that far.
            _check_file(header, _digest(seqs, data), library=self._library, partition=number)
            part.index, part.seqs = faiss.deserialize_index(data), seqs
            _tune(part.index)
            part.saved_seq, part.trained_on = part.last_seq, int(header["trained_on"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("index file %s is not used and will be rebuilt: %s", path.name, error)


def _digest(seqs: NDArray[np.int64], data: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(seqs.data)
    digest.update(data.data)
    return digest.hexdigest()


def _check_file(header: dict[str, object], digest: str, *, library: str, partition: int) -> None:
    if digest != header["sha256"]:
        raise ValueError("its checksum is wrong")
    if (header["library"], header["partition"]) != (library, partition):
        raise ValueError("it belongs to another library")


def build_ivf(vectors: NDArray[np.float32]) -> Any:
    """
    Inverted lists over *vectors*, ``[n, D]``, ready to search.

    About 4 sqrt(n) lists hold 4 bits for every 4 dimensions, which is enough to pick ten times as
    many candidates as are asked for; 8 bits per dimension then order those. The store scores what
    is left exactly.
    """
    count, dim = vectors.shape
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    pieces = next(n for n in range(max(1, dim // 4), 0, -1) if dim % n == 0)
    coarse = faiss.index_factory(dim, f"IVF{lists},PQ{pieces}x4fs", faiss.METRIC_INNER_PRODUCT)
    fine = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    inverted = faiss.extract_index_ivf(coarse)
    inverted.cp.niter = _TRAINING_ROUNDS
    inverted.cp.min_points_per_centroid = 1  # few rows a list lose no recall: measured
    index = faiss.IndexRefine(coarse, fine)
    sample = np.random.default_rng(0).permutation(count)[: _TRAINING_ROWS_PER_LIST * lists]
    index.train(vectors[np.sort(sample)])
    index.add(vectors)
    _tune(index)
    return index


def _tune(index: Any) -> None:
    """Set how hard inverted lists search; a file keeps what was set when it was written."""
    inverted = faiss.extract_index_ivf(faiss.downcast_index(index.base_index))
    inverted.nprobe = min(inverted.nlist, _LISTS_PROBED)
    index.k_factor = _REFINED_PER_HIT
