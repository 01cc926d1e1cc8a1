"""
Moving the library to another encoder.

Every description is embedded anew beside its old embedding, in steps that may be interrupted. The
old encoder's index serves all the while; when nothing is missing, one transaction switches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, func, select

from adapters_store.errors import Conflict
from adapters_store.ledger import Change, Ledger
from adapters_store.partitions import (
    ACTIVE_ENCODER,
    active_encoder,
    check_embedding,
    encoder_id,
    partition_id,
)
from adapters_store.records import EXAMPLES
from adapters_store.schema import adapters, descriptions, embeddings, encoders, library, partitions

_FOUND = descriptions.c.source != EXAMPLES
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Migration:
    """
    How far the library is on its way to an encoder.

    Args:
        active: Fingerprint of the encoder that is searched with now; None in an empty library.
        target: Fingerprint of the encoder to move to.
        descriptions: All texts in the library that searches find.
        missing: Of them, without an embedding by the target.
        others: Embeddings by other encoders than the target, which `forget_others` would free.
    """

    active: str | None
    target: str
    descriptions: int
    missing: int
    others: int

    @property
    def is_done(self) -> bool:
        """Whether the target serves."""
        return self.active == self.target


class Reembedding:
    """Planning, doing and finishing the move to another encoder."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def status(self, target: str) -> Migration:
        """What there is to do, and what is done."""
        with self._ledger.read() as connection:
            total = connection.execute(
                select(func.count()).select_from(descriptions).where(_FOUND)
            ).scalar_one()
            others = connection.execute(
                select(func.count())
                .select_from(embeddings.join(partitions).join(encoders))
                .where(encoders.c.fingerprint != target)
            ).scalar_one()
            missing = _missing(connection, target)
            return Migration(active_encoder(connection), target, total, missing, others)

    def apply(
        self,
        target: str,
        embed: Embed,
        *,
        batch: int = 256,
        on_batch: Callable[[int], None] | None = None,
    ) -> Migration:
        """
        Embed what is missing and then switch; interrupted, it goes on where it stopped.

        Args:
            target: Fingerprint of the new encoder.
            embed: Texts -> ``[N, D]`` float32 of unit norm, by that encoder.
            batch: Texts embedded at once, and committed at once.
            on_batch: Called with the number of texts embedded just now.
        """
        while True:
            with self._ledger.read() as connection:
                rows = connection.execute(
                    select(descriptions.c.id, descriptions.c.text)
                    .where(_FOUND, _lacks(target))
                    .order_by(descriptions.c.id)
                    .limit(batch)
                ).all()
            if rows:
                vectors = embed([row.text for row in rows])
                with self._ledger.change() as change:
                    for row, vector in zip(rows, vectors, strict=True):
                        _insert(change, target, row.id, vector)
                if on_batch is not None:
                    on_batch(len(rows))
            elif self._switch(target):
                return self.status(target)

    def forget_others(self, target: str) -> int:
        """
        Remove the embeddings of all encoders but the active one, and return how many.

        Raises:
            Conflict: *target* is not the active encoder yet.
        """
        with self._ledger.change() as change:
            if active_encoder(change.connection) != target:
                raise Conflict("the library still uses another encoder; finish: t2l index migrate")
            stale = (
                select(partitions.c.id)
                .join(encoders, encoders.c.id == partitions.c.encoder_id)
                .where(encoders.c.fingerprint != target)
            )
            removed = change.connection.execute(
                embeddings.delete().where(embeddings.c.partition_id.in_(stale))
            )
            change.log("-", "encoder.forget", target[:128], removed=removed.rowcount)
            return removed.rowcount

    def _switch(self, target: str) -> bool:
        """Make the target the active encoder, if nothing came in since nothing was missing."""
        with self._ledger.change() as change:
            if _missing(change.connection, target):
                return False
            previous = active_encoder(change.connection)
            if previous != target:
                key = library.c.key == ACTIVE_ENCODER
                change.connection.execute(library.delete().where(key))
                change.connection.execute(library.insert().values(key=ACTIVE_ENCODER, value=target))
                change.log("-", "encoder.switch", target[:128], previous=previous)
            return True


def _lacks(target: str) -> ColumnElement[bool]:
    """Descriptions without an embedding by the target."""
    return ~(
        select(embeddings.c.seq)
        .join(partitions, partitions.c.id == embeddings.c.partition_id)
        .join(encoders, encoders.c.id == partitions.c.encoder_id)
        .where(embeddings.c.description_id == descriptions.c.id, encoders.c.fingerprint == target)
        .exists()
    )


def _missing(connection: Connection, target: str) -> int:
    query = select(func.count()).select_from(descriptions).where(_FOUND, _lacks(target))
    return int(connection.execute(query).scalar_one())


def _insert(change: Change, target: str, description: int, vector: NDArray[np.float32]) -> None:
    checked = check_embedding(vector)
    owner = change.connection.execute(
        select(adapters.c.tenant, adapters.c.base)
        .join(descriptions, descriptions.c.adapter_pk == adapters.c.pk)
        .where(descriptions.c.id == description, _lacks(target))
    ).first()
    if owner is None:  # purged, or embedded by another process meanwhile
        return
    encoder = encoder_id(change.connection, target, checked.size)
    partition = partition_id(
        change.connection, tenant=owner.tenant, base=owner.base, encoder=encoder
    )
    change.connection.execute(
        embeddings.insert().values(
            partition_id=partition, description_id=description, vector=checked.tobytes()
        )
    )
