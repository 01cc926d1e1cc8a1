"""
Approximate search by FAISS: every embedding while they are few, inverted lists beyond.

A partition starts flat and is searched exhaustively. Once it has grown, inverted lists are built
beside it while the flat index goes on serving, and saved as a cache file for the next process.
Which of FAISS's indexes and with which settings was decided by ``tests/bench/bench_index.py``.
"""

import contextlib
import hashlib
import json
import logging
import math
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import StoreError
from adapters_store.index import Candidate, PartitionStatus, VectorSource, best

FLAT_BELOW = 50_000
_GROWTH_BEFORE_REBUILD = 4
_TRAINING_ROWS_PER_LIST = 40
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partition:
    index: Any = None
    last_seq: int = 0
    saved_seq: int = 0
    trained_on: int = 0
    builder: threading.Thread | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


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
        self, partitions: Sequence[int], query: NDArray[np.float32], k: int
    ) -> list[Candidate]:
        """The *k* best of the given partitions, best first."""
        found: list[Candidate] = []
        for number in partitions:
            part = self._partition(number)
            with part.lock:
                self._pull(number, part)
                if part.index is None:
                    continue
                scores, seqs = part.index.search(query[None, :], min(k, part.index.ntotal))
            found += [
                Candidate(int(seq), float(score))
                for seq, score in zip(seqs[0], scores[0], strict=True)
                if seq >= 0  # FAISS pads with -1
            ]
        return best(found, k)

    def refresh(self, partition: int) -> PartitionStatus:
        """Take in what the database has and the index lacks."""
        part = self._partition(partition)
        with part.lock:
            self._pull(partition, part)
            count = 0 if part.index is None else part.index.ntotal
            kind = "ivf" if part.trained_on else "flat"
            return PartitionStatus(partition, kind, count, part.last_seq)

    def rebuild(self, partition: int) -> PartitionStatus:
        """Forget the partition and build it anew from the database, before returning."""
        part = self._partition(partition)
        with part.lock:
            part.index, part.last_seq, part.trained_on = None, 0, 0
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
            part = self._partitions.get(number)
            if part is None:
                part = self._partitions[number] = _Partition()
                self._load(number, part)
            return part

    def _pull(self, number: int, part: _Partition) -> None:
        with part.lock:
            for seqs, vectors in self._source.since(number, part.last_seq):
                if part.index is None:
                    part.index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
                part.index.add_with_ids(vectors, seqs)
                part.last_seq = int(seqs[-1])
            count = 0 if part.index is None else part.index.ntotal
            if count >= max(self._flat_below, _GROWTH_BEFORE_REBUILD * part.trained_on) and (
                part.builder is None
            ):
                part.builder = threading.Thread(
                    target=self._build, args=(number, part), name=f"t2l-index-{number}", daemon=True
                )
                part.builder.start()

    def _build(self, number: int, part: _Partition) -> None:
        """Build inverted lists from the database and put them in the flat index's place."""
        try:
            batches = list(self._source.since(number, 0))
            seqs = np.concatenate([batch[0] for batch in batches])
            index = build_ivf(np.concatenate([batch[1] for batch in batches]), seqs)
        except StoreError:
            _log.exception("the index of partition %d could not be built; it stays flat", number)
            part.builder = None
            return
        with part.lock:
            part.index, part.last_seq, part.trained_on = index, int(seqs[-1]), len(seqs)
            part.builder = None
            self._save(number, part)

    # --- cache files: a header line of JSON, then FAISS's own format -------------------------

    def _file(self, number: int) -> Path:
        return self._cache_dir / f"{self._library}-{number}.faiss"

    def _save(self, number: int, part: _Partition) -> None:
        beside = self._cache_dir / f".{uuid.uuid4().hex}.tmp"
        data = faiss.serialize_index(part.index).data
        header = {
            "library": self._library,
            "partition": number,
            "last_seq": part.last_seq,
            "trained_on": part.trained_on,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(data)
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
                data = np.fromfile(file, dtype=np.uint8)
            # FAISS trusts what it reads: a damaged file must not get that far.
            _check_file(header, data, library=self._library, partition=number)
            part.index = faiss.deserialize_index(data)
            part.last_seq = part.saved_seq = int(header["last_seq"])
            part.trained_on = int(header["trained_on"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("index file %s is not used and will be rebuilt: %s", path.name, error)


def _check_file(
    header: dict[str, object], data: NDArray[np.uint8], *, library: str, partition: int
) -> None:
    if hashlib.sha256(data.data).hexdigest() != header["sha256"]:
        raise ValueError("its checksum is wrong")
    if (header["library"], header["partition"]) != (library, partition):
        raise ValueError("it belongs to another library")


def build_ivf(vectors: NDArray[np.float32], seqs: NDArray[np.int64]) -> Any:
    """
    Inverted lists over *vectors*, ``[n, D]``, ready to search.

    About 4 sqrt(n) lists; 8 bits per dimension, since the store scores candidates exactly.
    """
    count, dim = vectors.shape
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter = 8
    rng = np.random.default_rng(0)
    sample = rng.permutation(count)[: _TRAINING_ROWS_PER_LIST * lists]
    index.train(vectors[np.sort(sample)])
    index.add_with_ids(vectors, seqs)
    index.nprobe = max(16, lists // 32)
    return index
