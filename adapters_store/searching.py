"""From an index's candidates to hits: drop the dead, score exactly, one hit per adapter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, select

from adapters_store import catalog
from adapters_store.database import Database
from adapters_store.index import VectorIndex
from adapters_store.names import SHARED, text_hash
from adapters_store.partitions import check_embedding, find_partitions, require_encoder
from adapters_store.records import SERVED_STATES, Hit
from adapters_store.schema import adapters, descriptions, embeddings

_CANDIDATES_PER_HIT = 8
_QUANTISED_BY = 0.02  # more than an index's score differs from the exact one
_SQL_PARAMETERS = 10_000  # well below both databases' limits

_CANDIDATES = (
    select(
        embeddings.c.seq,
        embeddings.c.vector,
        descriptions.c.text,
        adapters.c.pk,
        adapters.c.id,
        adapters.c.tenant,
    )
    .join(descriptions, descriptions.c.id == embeddings.c.description_id)
    .join(adapters, adapters.c.pk == descriptions.c.adapter_pk)
    .where(
        embeddings.c.seq.in_(bindparam("seqs", expanding=True)),
        # Expressions, not columns: no index fits them, so that the database begins with the few
        # embeddings instead of with all adapters of a tenant (600 ms at 100,000 adapters).
        (adapters.c.tenant + "").in_(bindparam("tenants", expanding=True)),
        (adapters.c.state + "").in_(SERVED_STATES),
    )
)


def search(
    database: Database,
    index: VectorIndex,
    embedding: NDArray[np.float32],
    *,
    tenant: str,
    base: str,
    encoder: str,
    hypernet_id: str | None,
    k: int,
    at_least: float,
) -> list[Hit]:
    """The *k* nearest adapters, nearest first; `AdapterStore.search` says what counts."""
    tenants = (tenant, SHARED)
    with database.read() as connection:
        partitions, dim = find_partitions(connection, tenants=tenants, base=base, encoder=encoder)
    query = check_embedding(embedding, dim)
    wanted = _CANDIDATES_PER_HIT * k
    statement = _CANDIDATES.where(catalog.led_to(hypernet_id))
    while partitions and k > 0:
        candidates = index.search(partitions, query, wanted)
        with database.read() as connection:
            parameters = {"seqs": [found.seq for found in candidates], "tenants": tenants}
            rows = connection.execute(statement, parameters).all()
            hits = _hits(connection, rows, query, k)
        # Too few adapters that count among the candidates (many are deleted or another
        # hypernetwork's, or one has many descriptions): look further, until the index has no more
        # or what it has is too far away to matter.
        if len(hits) >= k or len(candidates) < wanted or wanted >= _SQL_PARAMETERS:
            return hits
        if candidates[-1].score < at_least - _QUANTISED_BY:
            return hits
        wanted = min(wanted * _CANDIDATES_PER_HIT, _SQL_PARAMETERS)
    return []


def exact(
    connection: Connection,
    text: str,
    *,
    tenant: str,
    base: str,
    encoder: str,
    hypernet_id: str | None,
) -> catalog.AdapterRow | None:
    """
    The served adapter that this very text reached before.

    Of several the tenant's own comes first, then one that somebody chose, then the newest.
    """
    require_encoder(connection, encoder)
    query = (
        select(adapters.c.pk)
        .join(descriptions, descriptions.c.adapter_pk == adapters.c.pk)
        .where(
            descriptions.c.text_hash == text_hash(text),
            catalog.visible_to(tenant),
            adapters.c.base == base,
            adapters.c.state.in_(SERVED_STATES),
            catalog.led_to(hypernet_id),
        )
        .order_by(adapters.c.tenant == SHARED, ~catalog.chosen(), adapters.c.pk.desc())
        .limit(1)
    )
    pk = connection.execute(query).scalar_one_or_none()
    return None if pk is None else catalog.by_key(connection, pk)


def _hits(
    connection: Connection, rows: Sequence[Any], query: NDArray[np.float32], k: int
) -> list[Hit]:
    nearest: dict[str, tuple[float, Any]] = {}
    for score, row in sorted(
        zip(_scores(rows, query), rows, strict=True),
        # Of equal scores the tenant's own adapter counts, then the older one.
        key=lambda pair: (-pair[0], pair[1].tenant == SHARED, pair[1].seq),
    ):
        nearest.setdefault(row.id, (score, row))
    chosen = list(nearest.values())[:k]
    found = catalog.by_keys(connection, [row.pk for _, row in chosen])
    return [Hit(catalog.record(found[row.pk]), score, row.text) for score, row in chosen]


def _scores(rows: Sequence[Any], query: NDArray[np.float32]) -> list[float]:
    if not rows:
        return []
    vectors = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4")
    scores = vectors.reshape(len(rows), -1) @ query
    return [float(score) for score in np.clip(scores, -1, 1)]
