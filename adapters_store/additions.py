"""Rows that enter the library: adapters, descriptions, embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from adapters_store import catalog, gate, quotas
from adapters_store.database import insert_row
from adapters_store.identity import AdapterId
from adapters_store.ledger import Change
from adapters_store.names import SHARED, check_description, text_hash
from adapters_store.partitions import (
    ACTIVE_ENCODER,
    active_encoder,
    check_embedding,
    encoder_id,
    partition_id,
    require_encoder,
)
from adapters_store.peft_files import LoraSettings
from adapters_store.records import EXAMPLES, SERVED_STATES, Lineage, Task
from adapters_store.schema import adapters, descriptions, embeddings, library, partitions


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """
    What `insert_adapter` writes, all of it checked.

    Args:
        doubts: What speaks against a generated adapter, by name; None if nothing does.
    """

    id: AdapterId
    tenant: str
    base: str
    settings: LoraSettings
    size_bytes: int
    delta_norm: float
    lineage: Lineage
    doubts: Mapping[str, float | int] | None = None


def insert_adapter(change: Change, new: NewAdapter) -> catalog.AdapterRow:
    """
    Enter an adapter, or find it: a deleted one comes back to life, a living one keeps its state.

    One that was generated and is imported counts as imported; one that two hypernetworks wrote is
    nobody's, so that either finds it by its texts.

    Raises:
        QuotaExceeded: The tenant has no room for it.
    """
    known = change.connection.execute(
        select(adapters).where(adapters.c.tenant == new.tenant, adapters.c.id == new.id)
    ).first()
    if known is not None:
        _come_again(change, known, new)
        if known.state != "deleted":
            return catalog.by_key(change.connection, known.pk)
    generated = new.lineage.origin == "generated"
    quotas.check(
        change.connection,
        tenant=new.tenant,
        size_bytes=new.size_bytes,
        generated=generated,
        now=change.now,
    )
    if known is not None:
        state = known.state_before_deletion
        change.connection.execute(
            adapters.update()
            .where(adapters.c.pk == known.pk)
            .values(state=state, state_before_deletion=None, deleted_at=None)
        )
        pk = known.pk
    else:
        values = _columns(new) | {"created_at": change.now}
        pk = insert_row(change.connection, adapters, values)
    change.log(
        new.tenant,
        f"add.{new.lineage.origin}",
        new.id,
        source=new.lineage.source,
        hypernet_id=new.lineage.hypernet_id,
        revived=known is not None,
    )
    if known is None and generated:
        _judge(change, new, pk)
    return catalog.by_key(change.connection, pk)


def _come_again(change: Change, known: catalog.AdapterRow, new: NewAdapter) -> None:
    """Note how an adapter that was generated came to be once more."""
    if known.origin != "generated":
        return
    values: dict[str, str | None] = {}
    if new.lineage.origin != "generated":
        values = {"origin": new.lineage.origin, "source": new.lineage.source}
    elif known.hypernet_id not in (None, new.lineage.hypernet_id):
        # Each would write it for ever, were it the other's.
        values = {"hypernet_id": None}
    if values:
        change.connection.execute(adapters.update().where(adapters.c.pk == known.pk).values(values))
        previous = {"origin": known.origin, "hypernet_id": known.hypernet_id}
        change.log(new.tenant, "lineage", new.id, **values, previous=previous)


def _judge(change: Change, new: NewAdapter, pk: int) -> None:
    """Quarantine a generated adapter that is in doubt, or unlike its hypernetwork's others."""
    if new.doubts is not None:
        _quarantine(change, new, pk, new.doubts)
        return
    others = change.connection.execute(
        select(adapters.c.delta_norm)
        .where(
            adapters.c.hypernet_id == new.lineage.hypernet_id,
            adapters.c.base == new.base,
            adapters.c.state.in_(SERVED_STATES),
            adapters.c.pk != pk,
        )
        .order_by(adapters.c.pk.desc())
        .limit(gate.POPULATION)
    )
    verdict = gate.judge(new.delta_norm, list(others.scalars()))
    if verdict is not None:
        _quarantine(change, new, pk, verdict.evidence())


def _quarantine(
    change: Change, new: NewAdapter, pk: int, evidence: Mapping[str, float | int]
) -> None:
    change.connection.execute(
        adapters.update().where(adapters.c.pk == pk).values(state="quarantined")
    )
    change.log(new.tenant, "quarantine", new.id, **evidence)


def insert_task(change: Change, row: catalog.AdapterRow, task: Task) -> None:
    """
    Enter a description of an adapter and its embedding; one that is known stays as it is.

    Raises:
        EncoderMismatch: The library is indexed by another encoder.
        DimensionMismatch: The embedding is unsound.
    """
    connection = change.connection
    text = check_description(task.text)
    vector = check_task(task)
    require_encoder(connection, task.encoder)
    if active_encoder(connection) is None:
        connection.execute(library.insert().values(key=ACTIVE_ENCODER, value=task.encoder))
    known = connection.execute(
        select(descriptions.c.id).where(
            descriptions.c.adapter_pk == row.pk, descriptions.c.text_hash == text_hash(text)
        )
    ).scalar_one_or_none()
    if known is not None:
        return
    description = insert_row(
        connection,
        descriptions,
        {
            "adapter_pk": row.pk,
            "text": text,
            "text_hash": text_hash(text),
            "source": task.source,
            "created_at": change.now,
        },
    )
    if vector is None:
        return
    encoder = encoder_id(connection, task.encoder, vector.size)
    partition = partition_id(connection, tenant=row.tenant, base=row.base, encoder=encoder)
    connection.execute(
        embeddings.insert().values(
            partition_id=partition, description_id=description, vector=vector.tobytes()
        )
    )


def check_task(task: Task) -> NDArray[np.float32] | None:
    """
    Return a task's embedding as it is stored; None where no search is to find it.

    Raises:
        DimensionMismatch: The embedding is unsound.
    """
    assert (task.embedding is None) == (task.source == EXAMPLES), "what examples name is not found"
    return None if task.embedding is None else check_embedding(task.embedding)


def copy_to_shared(change: Change, row: catalog.AdapterRow) -> catalog.AdapterRow:
    """Enter an approved copy of a tenant's adapter, with its descriptions, for every tenant."""
    connection = change.connection
    own = connection.execute(select(adapters).where(adapters.c.pk == row.pk)).mappings().one()
    columns = dict(own) | {
        "tenant": SHARED,
        "state": "approved",
        "source": f"promoted from tenant {row.tenant}",
        "pinned": False,
        "hits": 0,
        "last_used_at": None,
        "created_at": change.now,
    }
    del columns["pk"]
    shared = catalog.by_key(connection, insert_row(connection, adapters, columns))
    copied = copy_texts(change, row, shared)
    change.log(row.tenant, "promote", row.id, descriptions=copied)
    change.log(SHARED, "add.promoted", row.id, promoted_from=row.tenant)
    return catalog.by_key(connection, shared.pk)


def copy_texts(change: Change, source: catalog.AdapterRow, target: catalog.AdapterRow) -> int:
    """Give *target* the descriptions of *source* that it lacks, and return how many."""
    connection = change.connection
    known = select(descriptions.c.text_hash).where(descriptions.c.adapter_pk == target.pk)
    texts = connection.execute(
        select(descriptions)
        .where(descriptions.c.adapter_pk == source.pk, descriptions.c.text_hash.not_in(known))
        .order_by(descriptions.c.id)
    )
    rows = texts.mappings().all()
    for row in rows:
        values = {key: value for key, value in row.items() if key != "id"}
        copy = insert_row(connection, descriptions, values | {"adapter_pk": target.pk})
        vectors = connection.execute(
            select(embeddings.c.vector, partitions.c.encoder_id)
            .join(partitions, partitions.c.id == embeddings.c.partition_id)
            .where(embeddings.c.description_id == row["id"])
        )
        for vector in vectors.all():
            partition = partition_id(
                connection, tenant=target.tenant, base=target.base, encoder=vector.encoder_id
            )
            connection.execute(
                embeddings.insert().values(
                    partition_id=partition, description_id=copy, vector=vector.vector
                )
            )
    return len(rows)


def _columns(new: NewAdapter) -> dict[str, object]:
    return {
        "id": new.id,
        "tenant": new.tenant,
        "state": "generated",
        "base": new.base,
        "base_model": new.settings.base_model,
        "rank": new.settings.rank,
        "alpha": new.settings.alpha,
        "rslora": new.settings.rslora,
        "target_modules": ",".join(new.settings.target_modules),
        "size_bytes": new.size_bytes,
        "delta_norm": new.delta_norm,
        "origin": new.lineage.origin,
        "source": new.lineage.source,
        "hypernet_id": new.lineage.hypernet_id,
        "pinned": False,
        "hits": 0,
    }
