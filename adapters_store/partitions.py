"""Embeddings in the database: partitions, encoders, and the stream that indexes follow."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, func, select

from adapters_store.database import Database, insert_row
from adapters_store.errors import DimensionMismatch, EncoderMismatch
from adapters_store.index import Batch
from adapters_store.schema import embeddings, encoders, library, partitions

ACTIVE_ENCODER = "active_encoder"
_BATCH_ROWS = 20_000
_NORM_TOLERANCE = 1e-3


def check_embedding(embedding: NDArray[np.float32], dim: int | None = None) -> NDArray[np.float32]:
    """
    Return *embedding* as contiguous little-endian float32.

    Raises:
        DimensionMismatch: It is not one unit vector of *dim* finite numbers.
    """
    vector = np.ascontiguousarray(embedding, dtype="<f4")
    if vector.ndim != 1 or vector.size == 0 or (dim is not None and vector.size != dim):
        raise DimensionMismatch(
            f"task embedding has shape {list(vector.shape)}; this encoder's have [{dim or 'D'}]"
        )
    norm = float(np.linalg.norm(vector))
    if not abs(norm - 1) <= _NORM_TOLERANCE:  # NaN fails this comparison too
        raise DimensionMismatch(f"task embedding has norm {norm:.4g}; scale it to 1")
    return vector


def active_encoder(connection: Connection) -> str | None:
    """The fingerprint of the encoder whose space is searched; None in an empty library."""
    return connection.execute(
        select(library.c.value).where(library.c.key == ACTIVE_ENCODER)
    ).scalar_one_or_none()


def require_encoder(connection: Connection, fingerprint: str) -> None:
    """
    Make sure that *fingerprint* is the active encoder.

    Raises:
        EncoderMismatch: The library is indexed by another one.
    """
    active = active_encoder(connection)
    if active is not None and active != fingerprint:
        raise EncoderMismatch(
            f"the library is indexed by encoder {active[:16]}, the request uses "
            f"{fingerprint[:16]}; configure that encoder, or run: t2l index migrate"
        )


def encoder_id(connection: Connection, fingerprint: str, dim: int) -> int:
    """The number of an encoder, entered at its first use. Raises `DimensionMismatch`."""
    row = connection.execute(
        select(encoders.c.id, encoders.c.dim).where(encoders.c.fingerprint == fingerprint)
    ).first()
    if row is None:
        return insert_row(connection, encoders, {"fingerprint": fingerprint, "dim": dim})
    if row.dim != dim:
        raise DimensionMismatch(f"encoder {fingerprint[:16]} has {row.dim} dimensions, not {dim}")
    return int(row.id)


def partition_id(connection: Connection, *, tenant: str, base: str, encoder: int) -> int:
    """The number of a partition, entered at its first use."""
    key = {"tenant": tenant, "base": base, "encoder_id": encoder}
    found = connection.execute(select(partitions.c.id).filter_by(**key)).scalar_one_or_none()
    return insert_row(connection, partitions, key) if found is None else int(found)


_ACTIVE = select(library.c.value).where(library.c.key == ACTIVE_ENCODER)
_NEWEST = select(func.coalesce(func.max(embeddings.c.seq), 0)).where(
    embeddings.c.partition_id == partitions.c.id
)
_FIND = (
    select(
        partitions.c.id,
        encoders.c.dim,
        _ACTIVE.scalar_subquery().label("active"),
        _NEWEST.scalar_subquery().label("newest"),
    )
    .join(encoders, encoders.c.id == partitions.c.encoder_id)
    .where(
        partitions.c.tenant.in_(bindparam("tenants", expanding=True)),
        partitions.c.base == bindparam("base"),
        encoders.c.fingerprint == bindparam("encoder"),
    )
    .order_by(partitions.c.id)
)


def find_partitions(
    connection: Connection, *, tenants: Sequence[str], base: str, encoder: str
) -> tuple[dict[int, int], int | None]:
    """
    The partitions that a search looks at.

    Returns:
        Partition -> the newest sequence number in it; and their dimensions, None without any.

    Raises:
        EncoderMismatch: The library is indexed by another encoder.
    """
    keys = {"tenants": tenants, "base": base, "encoder": encoder}
    rows = connection.execute(_FIND, keys).all()
    if not rows or rows[0].active != encoder:
        require_encoder(connection, encoder)
    return {row.id: row.newest for row in rows}, rows[0].dim if rows else None


_SINCE = (
    select(embeddings.c.seq, embeddings.c.vector)
    .where(embeddings.c.partition_id == bindparam("partition"), embeddings.c.seq > bindparam("seq"))
    .order_by(embeddings.c.seq)
    .limit(_BATCH_ROWS)
)


class SqlVectors:
    """The stream of a partition's embeddings, oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def since(self, partition: int, seq: int) -> Iterator[Batch]:
        """Yield the partition's embeddings after *seq* in order."""
        while True:
            with self._database.read() as connection:
                rows = connection.execute(_SINCE, {"partition": partition, "seq": seq}).all()
            if not rows:
                return
            vectors = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4")
            yield np.array([row.seq for row in rows]), vectors.reshape(len(rows), -1)
            if len(rows) < _BATCH_ROWS:
                return
            seq = rows[-1].seq
