"""The audit log: every change of the library, each entry hashed together with the one before."""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, Row, select

from adapters_store.errors import AuditBroken
from adapters_store.records import AuditEntry
from adapters_store.schema import audit_log, to_micros

GENESIS = "0" * 64


def append(
    connection: Connection,
    *,
    at: datetime,
    actor: str,
    tenant: str,
    action: str,
    subject: str,
    detail: dict[str, object],
) -> None:
    """Append one entry within the caller's write transaction."""
    last = connection.execute(
        select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc()).limit(1)
    ).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    text = json.dumps(detail, sort_keys=True)
    digest = _digest(previous, seq, to_micros(at), actor, tenant, action, subject, text)
    connection.execute(
        audit_log.insert().values(
            seq=seq,
            at=at,
            actor=actor,
            tenant=tenant,
            action=action,
            subject=subject,
            detail=text,
            hash=digest,
        )
    )


def entries(
    connection: Connection,
    *,
    subject: str | None = None,
    tenant: str | None = None,
    limit: int | None = None,
    before: int | None = None,
) -> list[AuditEntry]:
    """The newest entries first, of one adapter or tenant and before one where given."""
    query = select(audit_log).order_by(audit_log.c.seq.desc())
    if subject is not None:
        query = query.where(audit_log.c.subject == subject)
    if tenant is not None:
        query = query.where(audit_log.c.tenant == tenant)
    if before is not None:
        query = query.where(audit_log.c.seq < before)
    return [
        AuditEntry(**{**row, "detail": json.loads(row["detail"])})
        for row in connection.execute(query.limit(limit)).mappings()
    ]


def verify(connection: Connection) -> int:
    """
    Derive every hash anew and return the number of entries.

    Raises:
        AuditBroken: An entry was changed, removed from the middle or inserted.
    """
    previous, expected = GENESIS, 1
    for row in _in_order(connection):
        digest = _digest(
            previous,
            row.seq,
            to_micros(row.at),
            row.actor,
            row.tenant,
            row.action,
            row.subject,
            row.detail,
        )
        if row.seq != expected or digest != row.hash:
            raise AuditBroken(
                f"audit entry {row.seq} ({row.action} {row.subject}) does not follow from the "
                "one before it: the log was changed after the fact"
            )
        previous, expected = row.hash, expected + 1
    return expected - 1


def _in_order(connection: Connection) -> Iterator[Row[tuple[object, ...]]]:
    yield from connection.execution_options(yield_per=1000).execute(
        select(audit_log).order_by(audit_log.c.seq)
    )


def _digest(*fields: object) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
