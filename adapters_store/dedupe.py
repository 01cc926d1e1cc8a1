"""
Finding adapters that do the same, and merging them into one.

By weights: adapters whose delta-W point the same way. Random bilinear sketches find the candidate
pairs (the inner product of two sketches estimates that of the delta-W), then rank x rank Gram
matrices decide. By text: adapters whose descriptions' mean embeddings point the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from adapters_store import catalog, changes
from adapters_store.additions import copy_texts
from adapters_store.aliases import move_all
from adapters_store.blobs import Blobs
from adapters_store.delta import delta_cosine, to_float32
from adapters_store.identity import AdapterId
from adapters_store.ledger import Ledger
from adapters_store.partitions import active_encoder
from adapters_store.peft_files import AdapterFiles
from adapters_store.records import SERVED_STATES, AdapterRecord
from adapters_store.schema import adapters, descriptions, embeddings, encoders, partitions

SKETCH_DIM = 512
_SKETCH_SLACK = 0.2  # about four standard deviations of a sketch's cosine
_BLOCK = 512
Kind = Literal["delta", "text"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """
    Adapters of one tenant, base model and hypernetwork that do the same.

    Args:
        kind: By delta-W or by text.
        keep: The one to keep: pinned before not, then the most used, then the oldest.
        merge: The others.
        likeness: Smallest cosine between a member and the one it was joined by.
    """

    kind: Kind
    keep: AdapterRecord
    merge: tuple[AdapterRecord, ...]
    likeness: float


class Dedupe:
    """The search for duplicates."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def clusters(
        self,
        kind: Kind,
        *,
        tenant: str,
        threshold: float,
        on_adapter: Callable[[int, int], None] | None = None,
    ) -> list[Cluster]:
        """
        Groups of a tenant's adapters that are joined by a cosine of at least *threshold*.

        Args:
            kind: ``delta`` reads all weights once; ``text`` reads the database only.
            tenant: Whose adapters.
            threshold: In (0, 1].
            on_adapter: Called with the numbers of adapters sketched and in all.
        """
        with self._ledger.read() as connection:
            alive = [adapters.c.tenant == tenant, adapters.c.state.in_(SERVED_STATES)]
            rows = catalog.newest(connection, alive, limit=None)
            records = [catalog.record(row) for row in rows]
            centroids = _centroids(connection, tenant) if kind == "text" else {}
        if kind == "text":
            records = [record for record in records if record.key in centroids]
        found = []
        for group in _groups(records):
            if kind == "text":
                vectors = [centroids[record.key] for record in group]
                pairs = _near_pairs(vectors, threshold)
            else:
                pairs = _delta_pairs(self._ledger.blobs, group, threshold, on_adapter)
            found += _clusters(kind, group, pairs)
        return found

    def merge(self, cluster: Cluster) -> None:
        """
        Give the kept adapter the texts and aliases of the others and delete those.

        Undelete brings each back with its texts; its aliases stay with the kept one.

        Raises:
            AdapterPinned: One of the others is pinned; nothing was changed then.
        """
        tenant = cluster.keep.tenant
        with self._ledger.change() as change:
            keep = catalog.find(change.connection, cluster.keep.id, tenant=tenant, shared=False)
            for duplicate in cluster.merge:
                row = catalog.find(change.connection, duplicate.id, tenant=tenant, shared=False)
                changes.check_removable(row)
                copy_texts(change, row, keep)
                move_all(change, row.id, keep.id, tenant=tenant)
                changes.delete(change, row, because=f"merged into {keep.id}")
                change.log(tenant, "merge", keep.id, duplicate=row.id, kind=cluster.kind)


def _groups(records: Sequence[AdapterRecord]) -> list[list[AdapterRecord]]:
    """Adapters of one base model and one hypernetwork: no text leads to another one's."""
    groups: dict[tuple[str, str], list[AdapterRecord]] = {}
    for record in records:
        writer = record.lineage.hypernet_id if record.lineage.origin == "generated" else None
        groups.setdefault((record.base, writer or ""), []).append(record)
    return [group for _, group in sorted(groups.items())]


def _delta_pairs(
    blobs: Blobs,
    records: Sequence[AdapterRecord],
    threshold: float,
    on_adapter: Callable[[int, int], None] | None,
) -> list[tuple[int, int, float]]:
    sketches = []
    for done, record in enumerate(records, start=1):
        sketches.append(_sketch(blobs.get(record.id)))
        if on_adapter is not None:
            on_adapter(done, len(records))

    @lru_cache(maxsize=64)
    def files(adapter_id: AdapterId) -> AdapterFiles:
        return blobs.get(adapter_id)

    candidates = _near_pairs(sketches, max(0.0, threshold - _SKETCH_SLACK))
    exact = (
        (i, j, delta_cosine(files(records[i].id), files(records[j].id))) for i, j, _ in candidates
    )
    return [pair for pair in exact if pair[2] >= threshold]


def _sketch(files: AdapterFiles) -> NDArray[np.float32]:
    """
    A unit vector whose inner products estimate the cosines of delta-W.

    Semantics:
        s[k] = sum over modules of u[k]^T B A v[k], with u and v random signs per module.
    """
    sketch = np.zeros(SKETCH_DIM, np.float64)
    for module in files.modules:
        a, b = (to_float32(tensor) for tensor in files.pair(module))
        rng = np.random.default_rng(crc32(module.encode()))
        u = rng.choice(np.array([-1, 1], np.float32), size=(SKETCH_DIM, b.shape[0]))
        v = rng.choice(np.array([-1, 1], np.float32), size=(SKETCH_DIM, a.shape[1]))
        sketch += np.einsum("kr,kr->k", u @ b, v @ a.T)
    norm = float(np.linalg.norm(sketch))
    return (sketch / norm if norm else sketch).astype(np.float32)


def _near_pairs(
    vectors: Sequence[NDArray[np.float32]], threshold: float
) -> list[tuple[int, int, float]]:
    """Pairs i < j whose cosine is at least *threshold*; zero vectors are like each other."""
    if len(vectors) < 2:  # noqa: PLR2004 - a pair
        return []
    matrix = np.stack(vectors)
    zero = np.asarray(~matrix.any(axis=1))
    pairs = []
    for start in range(0, len(matrix), _BLOCK):
        scores = matrix[start : start + _BLOCK] @ matrix.T
        scores[np.ix_(zero[start : start + _BLOCK], zero)] = 1
        rows, columns = np.nonzero(scores >= threshold)
        pairs += [
            (start + int(i), int(j), float(scores[i, j]))
            for i, j in zip(rows, columns, strict=True)
            if start + i < j
        ]
    return pairs


def _centroids(connection: Connection, tenant: str) -> dict[int, NDArray[np.float32]]:
    """The mean embedding of each adapter's descriptions, of unit norm."""
    rows = connection.execute(
        select(descriptions.c.adapter_pk, embeddings.c.vector)
        .join(embeddings, embeddings.c.description_id == descriptions.c.id)
        .join(partitions, partitions.c.id == embeddings.c.partition_id)
        .join(encoders, encoders.c.id == partitions.c.encoder_id)
        .where(partitions.c.tenant == tenant, encoders.c.fingerprint == active_encoder(connection))
    )
    sums: dict[int, NDArray[np.float32]] = {}
    for row in rows:
        vector = np.frombuffer(row.vector, "<f4")
        sums[row.adapter_pk] = sums.get(row.adapter_pk, 0) + vector
    return {key: total / np.linalg.norm(total) for key, total in sums.items() if total.any()}


def _clusters(
    kind: Kind, records: Sequence[AdapterRecord], pairs: Sequence[tuple[int, int, float]]
) -> list[Cluster]:
    """Connected components of the pairs, best joined first."""
    root = list(range(len(records)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    likeness: dict[int, float] = {}
    for i, j, score in sorted(pairs, key=lambda pair: -pair[2]):
        a, b = find(i), find(j)
        if a != b:
            root[b] = a
            likeness[a] = min(score, likeness.get(a, 1.0), likeness.get(b, 1.0))
    members: dict[int, list[AdapterRecord]] = {}
    for i, record in enumerate(records):
        members.setdefault(find(i), []).append(record)
    found = []
    for top, group in members.items():
        if len(group) > 1:
            keep, *rest = sorted(group, key=lambda r: (not r.pinned, -r.hits, r.key))
            found.append(Cluster(kind, keep, tuple(rest), likeness[top]))
    return sorted(found, key=lambda cluster: cluster.keep.key)
