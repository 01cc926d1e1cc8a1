"""Names for adapters that may move, and what each of them named when."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, exists, select, tuple_

from adapters_store import catalog
from adapters_store.errors import AliasNotFound, AliasTaken
from adapters_store.identity import AdapterId
from adapters_store.ledger import Change, Ledger
from adapters_store.names import SHARED, check_name
from adapters_store.records import AliasSpan
from adapters_store.schema import adapters, aliases


class Aliases:
    """The tenants' aliases."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def set(self, name: str, ref: str, *, tenant: str, move: bool = False) -> AliasSpan:
        """
        Let *name* stand for an adapter from now on; setting it again changes nothing.

        Args:
            name: The alias.
            ref: An adapter of the tenant or a shared one.
            tenant: Whose alias it is.
            move: Take the alias away from another adapter.

        Raises:
            AliasTaken: It names another adapter and *move* is off.
            AdapterNotFound: There is no such adapter.
        """
        check_name("alias", name)
        with self._ledger.change() as change:
            row = catalog.find(change.connection, ref, tenant=tenant)
            current = _current(change.connection, name, tenant)
            if current is not None and current.adapter_id == row.id:
                return current
            if current is not None and not move:
                raise AliasTaken(
                    f"alias {name!r} names {current.adapter_id}; to move it, say so (--move)"
                )
            _end(change, name, tenant)
            change.connection.execute(
                aliases.insert().values(
                    tenant=tenant, name=name, adapter_id=row.id, since=change.now
                )
            )
            previous = None if current is None else current.adapter_id
            change.log(tenant, "alias.set", row.id, alias=name, previous=previous)
            return AliasSpan(tenant, name, AdapterId(row.id), change.now, None)

    def remove(self, name: str, *, tenant: str) -> AliasSpan:
        """End an alias; its history stays. Raises `AliasNotFound`."""
        with self._ledger.change() as change:
            current = _required(change.connection, name, tenant)
            _end(change, name, tenant)
            change.log(tenant, "alias.remove", current.adapter_id, alias=name)
            return current

    def get(self, name: str, *, tenant: str) -> AliasSpan:
        """What the alias names now. Raises `AliasNotFound`."""
        with self._ledger.read() as connection:
            return _required(connection, name, tenant)

    def current(
        self,
        *,
        tenant: str | None = None,
        limit: int | None = None,
        after: tuple[str, str] | None = None,
    ) -> list[AliasSpan]:
        """
        The current aliases by tenant and name.

        Args:
            tenant: Of this tenant only; None for all.
            limit: So many at most; None for all.
            after: Tenant and name of the last one of the page before.
        """
        query = select(aliases).where(aliases.c.until.is_(None))
        if tenant is not None:
            query = query.where(aliases.c.tenant == tenant)
        if after is not None:
            query = query.where(tuple_(aliases.c.tenant, aliases.c.name) > after)
        query = query.order_by(aliases.c.tenant, aliases.c.name).limit(limit)
        with self._ledger.read() as connection:
            return [_span(row) for row in connection.execute(query)]

    def at(self, name: str, when: datetime, *, tenant: str) -> AliasSpan:
        """What the alias named at a time. Raises `AliasNotFound`."""
        return span_at(self.history(name, tenant=tenant), name, when)

    def history(self, name: str, *, tenant: str) -> list[AliasSpan]:
        """Everything that the alias has named, newest first."""
        query = select(aliases).where(aliases.c.tenant == tenant, aliases.c.name == name)
        with self._ledger.read() as connection:
            return [_span(row) for row in connection.execute(query.order_by(aliases.c.id.desc()))]


def span_at(spans: Sequence[AliasSpan], name: str, when: datetime) -> AliasSpan:
    """What an alias of this history named at a time. Raises `AliasNotFound`."""
    for span in spans:
        if span.since <= when and (span.until is None or when < span.until):
            return span
    raise AliasNotFound(f"alias {name!r} named nothing at {when:%F %T %Z}")


def move_all(change: Change, source: str, target: str, *, tenant: str) -> None:
    """Let every alias of the tenant that names one adapter name another from now on."""
    named = select(aliases.c.name).where(
        aliases.c.tenant == tenant, aliases.c.adapter_id == source, aliases.c.until.is_(None)
    )
    for name in change.connection.execute(named).scalars().all():
        _end(change, name, tenant)
        change.connection.execute(
            aliases.insert().values(tenant=tenant, name=name, adapter_id=target, since=change.now)
        )
        change.log(tenant, "alias.set", target, alias=name, previous=source)


def end_all(change: Change, adapter_id: AdapterId, *, tenant: str) -> list[str]:
    """
    End every alias that would name nothing once *tenant*'s copy of an adapter is gone.

    Returns:
        The aliases that ended; those of a shared adapter's other users as ``tenant/name``.
    """
    named = select(aliases).where(aliases.c.adapter_id == adapter_id, aliases.c.until.is_(None))
    if tenant != SHARED:
        named = named.where(aliases.c.tenant == tenant)
    remaining = exists().where(
        adapters.c.id == adapter_id,
        adapters.c.state != "deleted",
        adapters.c.tenant.in_((aliases.c.tenant, SHARED)),
        adapters.c.tenant != tenant,
    )
    ended = []
    for row in change.connection.execute(named.where(~remaining).order_by(aliases.c.name)).all():
        _end(change, row.name, row.tenant)
        change.log(row.tenant, "alias.remove", adapter_id, alias=row.name, because="removed")
        ended.append(row.name if row.tenant == tenant else f"{row.tenant}/{row.name}")
    return ended


def _current(connection: Connection, name: str, tenant: str) -> AliasSpan | None:
    row = connection.execute(
        select(aliases).where(
            aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.until.is_(None)
        )
    ).first()
    return None if row is None else _span(row)


def _required(connection: Connection, name: str, tenant: str) -> AliasSpan:
    current = _current(connection, name, tenant)
    if current is None:
        raise AliasNotFound(f"tenant {tenant} has no alias {name!r}; see: t2l adapters alias list")
    return current


def _end(change: Change, name: str, tenant: str) -> None:
    change.connection.execute(
        aliases.update()
        .where(aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.until.is_(None))
        .values(until=change.now)
    )


def _span(row: catalog.AdapterRow) -> AliasSpan:
    return AliasSpan(row.tenant, row.name, AdapterId(row.adapter_id), row.since, row.until)
