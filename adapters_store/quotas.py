"""How much a tenant may keep and generate."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from adapters_store.errors import InvalidInput, QuotaExceeded
from adapters_store.leases import count_held, take
from adapters_store.ledger import Ledger
from adapters_store.names import check_name
from adapters_store.schema import adapters, audit_log, quotas

_DROPPED = "generate.dropped"


@dataclass(frozen=True, slots=True)
class Quota:
    """
    One tenant's limits; None is no limit.

    Args:
        max_bytes: Bytes of all its adapters that are not deleted.
        max_adapters: Number of them.
        max_generations_per_hour: Adapters written in any 60 minutes, those not kept included.
    """

    max_bytes: int | None = None
    max_adapters: int | None = None
    max_generations_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has now, in the quota's units."""

    size_bytes: int
    adapters: int
    generations_last_hour: int


def generations(tenant: str) -> str:
    """How the names of the leases on a tenant's generations begin."""
    return f"generate:{tenant}:"


class Quotas:
    """The tenants' limits."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def set(self, tenant: str, quota: Quota) -> None:
        """Give a tenant new limits; what it already has stays."""
        check_name("tenant", tenant)
        limits = {
            "max_bytes": quota.max_bytes,
            "max_adapters": quota.max_adapters,
            "max_generations_per_hour": quota.max_generations_per_hour,
        }
        if any(limit is not None and limit < 0 for limit in limits.values()):
            raise InvalidInput(f"a quota can't be negative: {limits}")
        with self._ledger.change() as change:
            change.connection.execute(quotas.delete().where(quotas.c.tenant == tenant))
            change.connection.execute(quotas.insert().values(tenant=tenant, **limits))
            change.log(tenant, "quota.set", tenant, **limits)

    def get(self, tenant: str) -> Quota:
        """A tenant's limits; without an entry there are none."""
        with self._ledger.read() as connection:
            return quota_of(connection, tenant)

    def reserve_generation(
        self, lease: str, holder: str, *, ttl: timedelta, tenant: str, default: Quota = Quota()
    ) -> bool:
        """
        Take the lease on writing one more adapter, if the tenant's quota has room for it.

        Generations under way count, in whichever process: they are the leases of the tenant.

        Args:
            lease: Begins with `generations`.
            holder: Unique to the holder.
            ttl: How long it is held.
            tenant: Who asks.
            default: The limits of a tenant that has none of its own.

        Returns:
            Whether *holder* has the lease now; otherwise somebody else is at it.

        Raises:
            QuotaExceeded: Naming the limit and what is used of it.
        """
        with self._ledger.change() as change:
            if not take(change, lease, holder, ttl=ttl):
                return False
            # Raising takes the lease back: it is one transaction.
            check(
                change.connection,
                tenant=tenant,
                size_bytes=0,
                generated=True,
                now=change.now,
                default=default,
                number=count_held(change, generations(tenant)),
            )
            return True

    def count_generation(self, tenant: str, why: str) -> None:
        """Count an adapter that was written and is not kept."""
        with self._ledger.change() as change:
            change.log(tenant, _DROPPED, tenant, why=why)

    def usage(self, tenant: str) -> Usage:
        """What a tenant has now."""
        with self._ledger.read() as connection:
            return _usage(connection, tenant, self._ledger.database.now(connection))


def check(
    connection: Connection,
    *,
    tenant: str,
    size_bytes: int,
    generated: bool,
    now: datetime,
    default: Quota = Quota(),
    number: int = 1,
) -> None:
    """
    Make sure that *tenant* may add *number* adapters, together of *size_bytes*.

    Raises:
        QuotaExceeded: Naming the limit and what is used of it.
    """
    quota = quota_of(connection, tenant)
    if quota == Quota():
        quota = default
    if quota == Quota():
        return
    usage = _usage(connection, tenant, now)
    limits = [
        ("bytes", quota.max_bytes, usage.size_bytes + size_bytes),
        ("adapters", quota.max_adapters, usage.adapters + number),
    ]
    if generated:
        in_an_hour = usage.generations_last_hour + number
        limits.append(("generations per hour", quota.max_generations_per_hour, in_an_hour))
    for what, limit, needed in limits:
        if limit is not None and needed > limit:
            raise QuotaExceeded(
                f"tenant {tenant}: quota of {limit} {what} has no room ({needed} needed); "
                "remove adapters, wait, or raise the quota"
            )


def quota_of(connection: Connection, tenant: str) -> Quota:
    """A tenant's limits; without an entry there are none."""
    row = connection.execute(select(quotas).where(quotas.c.tenant == tenant)).first()
    if row is None:
        return Quota()
    return Quota(row.max_bytes, row.max_adapters, row.max_generations_per_hour)


def _usage(connection: Connection, tenant: str, now: datetime) -> Usage:
    held = connection.execute(
        select(
            func.count().label("n"), func.coalesce(func.sum(adapters.c.size_bytes), 0).label("b")
        ).where(adapters.c.tenant == tenant, adapters.c.state != "deleted")
    ).one()
    # Counted in the audit log: neither removing an adapter nor finding that a held one does the
    # same gives a generation back.
    generations = connection.execute(
        select(func.count()).where(
            audit_log.c.tenant == tenant,
            audit_log.c.action.in_(("add.generated", _DROPPED)),
            audit_log.c.at > now - timedelta(hours=1),
        )
    ).scalar_one()
    return Usage(int(held.b), int(held.n), int(generations))
