"""Leases: who may do something that only one process should do at a time."""

from datetime import datetime, timedelta

from sqlalchemy import func, select

from adapters_store.errors import LeaseLost
from adapters_store.ledger import Change, Ledger
from adapters_store.schema import leases


class Leases:
    """
    Named leases that expire by the database's clock, so that a killed holder blocks no one.

    They are no part of the audit log: they come and go with every generation.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def acquire(self, name: str, holder: str, *, ttl: timedelta) -> bool:
        """
        Take the lease if it is free, expired, or *holder*'s already.

        Args:
            name: What is leased, e.g. a hash of tenant, task and hypernetwork.
            holder: Unique to the holder.
            ttl: How long it is held without `renew`.

        Returns:
            Whether *holder* has it now.
        """
        with self._ledger.change() as change:
            return take(change, name, holder, ttl=ttl)

    def renew(self, name: str, holder: str, *, ttl: timedelta) -> datetime:
        """
        Hold the lease for *ttl* from now, and return its new end.

        Raises:
            LeaseLost: Somebody else took it after it had expired, or it was released.
        """
        with self._ledger.change() as change:
            expires_at = change.now + ttl
            renewed = change.connection.execute(
                leases.update()
                .where(leases.c.name == name, leases.c.holder == holder)
                .values(expires_at=expires_at)
            )
            if renewed.rowcount == 0:
                raise LeaseLost(f"{holder} no longer holds the lease {name!r}")
            return expires_at

    def release(self, name: str, holder: str) -> None:
        """Give the lease back; one that is lost already is no error."""
        with self._ledger.change() as change:
            change.connection.execute(
                leases.delete().where(leases.c.name == name, leases.c.holder == holder)
            )

    def holder(self, name: str) -> str | None:
        """Who holds the lease now."""
        with self._ledger.read() as connection:
            now = self._ledger.database.now(connection)
            return connection.execute(
                select(leases.c.holder).where(leases.c.name == name, leases.c.expires_at > now)
            ).scalar_one_or_none()

    def sweep(self) -> int:
        """Remove the leases whose holders let them expire; count them."""
        with self._ledger.change() as change:
            gone = change.connection.execute(
                leases.delete().where(leases.c.expires_at <= change.now)
            )
            return int(gone.rowcount)


def take(change: Change, name: str, holder: str, *, ttl: timedelta) -> bool:
    """Take a lease within the caller's transaction; see `Leases.acquire`."""
    row = change.connection.execute(select(leases).where(leases.c.name == name)).first()
    if row is not None and row.holder != holder and row.expires_at > change.now:
        return False
    change.connection.execute(leases.delete().where(leases.c.name == name))
    change.connection.execute(
        leases.insert().values(name=name, holder=holder, expires_at=change.now + ttl)
    )
    return True


def count_held(change: Change, prefix: str) -> int:
    """How many leases whose names begin so are held now."""
    return change.connection.execute(
        select(func.count())
        .select_from(leases)
        .where(leases.c.name.startswith(prefix, autoescape=True), leases.c.expires_at > change.now)
    ).scalar_one()
