"""The vector index as operators see it: what it holds of each partition, and building it anew."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select

from adapters_store.index import VectorIndex
from adapters_store.ledger import Ledger
from adapters_store.partitions import active_encoder
from adapters_store.records import SERVED_STATES
from adapters_store.schema import adapters, descriptions, embeddings, encoders, partitions


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """
    One tenant's embeddings for one base model by one encoder.

    Args:
        active: Whether its encoder is the one that is searched with.
        embeddings: In the database.
        searchable: Of them, those of adapters that may be found.
        kind: How the index searches them.
        indexed: How many the index holds; dead ones are dropped by a rebuild.
    """

    partition: int
    tenant: str
    base: str
    encoder: str
    active: bool
    dim: int
    embeddings: int
    searchable: int
    kind: str
    indexed: int


class Indexing:
    """Status and rebuild of the vector index."""

    def __init__(self, ledger: Ledger, index: VectorIndex) -> None:
        self._ledger = ledger
        self._index = index

    def status(self) -> list[PartitionReport]:
        """Every partition, after the index has caught up with the database."""
        alive = func.count().filter(adapters.c.state.in_(SERVED_STATES))
        with self._ledger.read() as connection:
            active = active_encoder(connection)
            rows = connection.execute(
                select(
                    partitions,
                    encoders.c.fingerprint,
                    encoders.c.dim,
                    func.count(embeddings.c.seq).label("n"),
                    alive.label("alive"),
                )
                .join(encoders, encoders.c.id == partitions.c.encoder_id)
                .join(embeddings, embeddings.c.partition_id == partitions.c.id)
                .join(descriptions, descriptions.c.id == embeddings.c.description_id)
                .join(adapters, adapters.c.pk == descriptions.c.adapter_pk)
                .group_by(*partitions.c, encoders.c.fingerprint, encoders.c.dim)
                .order_by(partitions.c.id)
            ).all()
        reports = []
        for row in rows:
            held = self._index.refresh(row.id)
            reports.append(
                PartitionReport(
                    partition=row.id,
                    tenant=row.tenant,
                    base=row.base,
                    encoder=row.fingerprint,
                    active=row.fingerprint == active,
                    dim=row.dim,
                    embeddings=row.n,
                    searchable=row.alive,
                    kind=held.kind,
                    indexed=held.vectors,
                )
            )
        return reports

    def rebuild(self, *, on_partition: Callable[[int, int], None] | None = None) -> None:
        """Build every partition's index anew from the database."""
        with self._ledger.read() as connection:
            numbers = connection.execute(select(partitions.c.id).order_by(partitions.c.id))
            wanted = list(numbers.scalars())
        for done, number in enumerate(wanted, start=1):
            self._index.rebuild(number)
            if on_partition is not None:
                on_partition(done, len(wanted))
