"""Which adapter a conversation holds, for all routers that share the library."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select

from adapters_store.identity import AdapterId
from adapters_store.ledger import Change, Ledger
from adapters_store.schema import sessions


@dataclass(frozen=True, slots=True)
class SessionRow:
    """
    What one conversation holds.

    Args:
        tenant: Whose conversation it is.
        adapter_id: The adapter; None is the base model.
        state: What the router remembers besides, JSON.
    """

    tenant: str
    adapter_id: AdapterId | None
    state: str


class Sessions:
    """Conversations by a key that hashes tenant and conversation; they end by being idle."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, key: str, *, tenant: str, idle: timedelta) -> SessionRow | None:
        """What the tenant's conversation holds, unless it was idle for longer than *idle*."""
        # Asked at every turn of a conversation that routers share: one statement, no transaction.
        database = self._ledger.database
        query = select(sessions, database.clock().label("now"))
        with database.glance() as connection:
            row = connection.execute(
                query.where(sessions.c.key == key, sessions.c.tenant == tenant)
            ).first()
        if row is None or row.updated_at <= row.now - idle:
            return None
        return SessionRow(
            row.tenant, AdapterId(row.adapter_id) if row.adapter_id else None, row.state
        )

    def put(self, rows: Mapping[str, SessionRow | None]) -> None:
        """Remember conversations by their key, or forget those whose row is None."""
        if rows:
            with self._ledger.change() as change:
                put(change, rows)

    def sweep(self, *, idle: timedelta, keep: int) -> int:
        """
        Remove the conversations that are idle for longer than *idle*, and all but the newest.

        Args:
            idle: After this time a conversation has ended.
            keep: Rows that may stay.

        Returns:
            How many were removed.
        """
        with self._ledger.change() as change:
            newest = select(sessions.c.updated_at).order_by(sessions.c.updated_at.desc())
            beyond = change.connection.execute(newest.offset(keep).limit(1)).scalar_one_or_none()
            before = change.now - idle
            oldest = before if beyond is None else max(before, beyond)
            gone = change.connection.execute(
                sessions.delete().where(sessions.c.updated_at <= oldest)
            )
            return int(gone.rowcount)


def put(change: Change, rows: Mapping[str, SessionRow | None]) -> None:
    """Write conversations within the caller's transaction."""
    change.connection.execute(sessions.delete().where(sessions.c.key.in_(list(rows))))
    values = [
        {
            "key": key,
            "tenant": row.tenant,
            "adapter_id": row.adapter_id,
            "state": row.state,
            "updated_at": change.now,
        }
        for key, row in rows.items()
        if row is not None
    ]
    if values:
        change.connection.execute(sessions.insert(), values)


def touch(change: Change, keys: Collection[str]) -> None:
    """Note that conversations had a turn, and leave what they hold as it is."""
    change.connection.execute(
        sessions.update().where(sessions.c.key.in_(keys)).values(updated_at=change.now)
    )
