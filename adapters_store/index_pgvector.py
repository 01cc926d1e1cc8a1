"""Search inside PostgreSQL by the pgvector extension: the index lives where the truth lives."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    MetaData,
    Table,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from adapters_store.database import Database
from adapters_store.errors import StoreUnavailable
from adapters_store.index import Candidate, PartitionStatus, VectorSource
from adapters_store.schema import embeddings, encoders, partitions

_MAX_EF_SEARCH = 1000  # pgvector's own limit
_EF_PER_HIT = 4


class PgVectorIndex:
    """
    One table of vectors per number of dimensions, with an HNSW index, shared by all processes.

    The tables hold copies of ``embeddings`` and lose a row when that does. They are no part of the
    migrations: like every index they can be dropped and are built anew.
    """

    def __init__(self, database: Database, source: VectorSource) -> None:
        self._database = database
        self._source = source
        self._tables: dict[int, Table] = {}
        self._pulled: dict[int, int] = {}

    def search(
        self, partitions: Mapping[int, int], query: NDArray[np.float32], k: int
    ) -> list[Candidate]:
        """The *k* best of the given partitions, best first."""
        for partition, newest in partitions.items():
            if self._pulled.get(partition, 0) < newest:
                self._pull(partition)
                self._pulled[partition] = newest
        table = self._table(query.size)
        distance = table.c.vector.max_inner_product(query)
        ef_search = min(_MAX_EF_SEARCH, max(100, _EF_PER_HIT * k))
        with self._database.read() as connection:
            # Without iterative scans the partition filter would drop hits after the fact.
            connection.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
            connection.execute(text(f"SET LOCAL hnsw.ef_search = {ef_search}"))
            rows = connection.execute(
                select(table.c.seq, distance.label("distance"))
                .where(table.c.partition_id.in_(list(partitions)))
                .order_by(distance)
                .limit(k)
            )
            return [Candidate(row.seq, -row.distance) for row in rows]

    def refresh(self, partition: int) -> PartitionStatus:
        """Take in what the database has and the index lacks."""
        self._pull(partition)
        with self._database.read() as connection:
            table = self._table(_dim(connection, partition))
            last = func.coalesce(func.max(table.c.seq), 0).label("last")
            row = connection.execute(
                select(func.count().label("n"), last).where(table.c.partition_id == partition)
            ).one()
        return PartitionStatus(partition, "pgvector", row.n, row.last)

    def rebuild(self, partition: int) -> PartitionStatus:
        """Forget the partition and build it anew from the database."""
        with self._database.read() as connection:
            dim = _dim(connection, partition)
        table = self._table(dim)
        with self._database.write() as connection:
            connection.execute(table.delete().where(table.c.partition_id == partition))
        self._pulled.pop(partition, None)
        return self.refresh(partition)

    def close(self) -> None:
        """Nothing is worth saving: the vectors are in the database."""

    def _table(self, dim: int) -> Table:
        """The table for vectors of *dim* dimensions, created at its first use."""
        if dim not in self._tables:
            name = f"vectors_{dim}"
            table = Table(
                name,
                MetaData(),
                Column(
                    "seq",
                    BigInteger,
                    ForeignKey(embeddings.c.seq, ondelete="CASCADE"),
                    primary_key=True,
                    autoincrement=False,
                ),
                Column("partition_id", BigInteger, nullable=False),
                Column("vector", Vector(dim), nullable=False),
                Index(f"ix_{name}_partition_id_seq", "partition_id", "seq"),
                Index(
                    f"ix_{name}_hnsw",
                    "vector",
                    postgresql_using="hnsw",
                    postgresql_ops={"vector": "vector_ip_ops"},
                ),
            )
            with self._database.write() as connection:
                _require_extension(connection)
                table.create(connection, checkfirst=True)
            self._tables[dim] = table
        return self._tables[dim]

    def _pull(self, partition: int) -> None:
        with self._database.read() as connection:
            table = self._table(_dim(connection, partition))
            last = connection.execute(
                select(func.coalesce(func.max(table.c.seq), 0)).where(
                    table.c.partition_id == partition
                )
            ).scalar_one()
        for seqs, vectors in self._source.since(partition, last):
            rows = [
                {"seq": int(seq), "partition_id": partition, "vector": vector}
                for seq, vector in zip(seqs, vectors, strict=True)
            ]
            with self._database.write() as connection:
                # Another process may pull the same rows.
                connection.execute(insert(table).on_conflict_do_nothing(), rows)


def _dim(connection: Connection, partition: int) -> int:
    return int(
        connection.execute(
            select(encoders.c.dim)
            .join(partitions, partitions.c.encoder_id == encoders.c.id)
            .where(partitions.c.id == partition)
        ).scalar_one()
    )


def _require_extension(connection: Connection) -> None:
    known = connection.execute(
        text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    ).scalar_one()
    if not known:
        raise StoreUnavailable(
            "this PostgreSQL server lacks the extension pgvector (0.8 or newer); install it there, "
            "or open the library with index='faiss'"
        )
    connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
