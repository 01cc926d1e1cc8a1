"""What may happen to an adapter after it was added, each within the caller's transaction."""

from collections.abc import Mapping

from sqlalchemy import select

from adapters_store import aliases, catalog, quotas
from adapters_store.additions import copy_to_shared
from adapters_store.errors import AdapterPinned, Conflict, InvalidInput
from adapters_store.identity import AdapterId
from adapters_store.ledger import Change
from adapters_store.names import SHARED, check_name
from adapters_store.records import State
from adapters_store.schema import adapters, tags


def check_removable(row: catalog.AdapterRow) -> None:
    """Raise `AdapterPinned` for an adapter that must stay."""
    if row.pinned:
        raise AdapterPinned(f"adapter {row.id} is pinned; run: t2l adapters unpin {row.id}")


def delete(change: Change, row: catalog.AdapterRow, *, because: str = "asked") -> list[str]:
    """
    Take an adapter out of service and end its aliases; its files stay until `prune`.

    Returns:
        The aliases that ended.

    Raises:
        AdapterPinned: It is pinned.
    """
    check_removable(row)
    change.connection.execute(
        adapters.update()
        .where(adapters.c.pk == row.pk)
        .values(state="deleted", state_before_deletion=row.state, deleted_at=change.now)
    )
    ended = aliases.end_all(change, AdapterId(row.id), tenant=row.tenant)
    change.log(row.tenant, "delete", row.id, because=because, aliases=ended)
    return ended


def undelete(change: Change, row: catalog.AdapterRow) -> None:
    """Put a deleted adapter back into the state it had. Raises `QuotaExceeded`."""
    quotas.check(
        change.connection,
        tenant=row.tenant,
        size_bytes=row.size_bytes,
        generated=False,
        now=change.now,
    )
    change.connection.execute(
        adapters.update()
        .where(adapters.c.pk == row.pk)
        .values(state=row.state_before_deletion, state_before_deletion=None, deleted_at=None)
    )
    change.log(row.tenant, "undelete", row.id)


def set_state(change: Change, row: catalog.AdapterRow, state: State) -> None:
    """Judge an adapter: approve it, put it into quarantine, or take the judgement back."""
    if state == "deleted":
        raise InvalidInput("to delete an adapter, use delete: it also ends its aliases")
    if row.state == state:
        return
    change.connection.execute(adapters.update().where(adapters.c.pk == row.pk).values(state=state))
    change.log(row.tenant, "state", row.id, state=state, previous=row.state)


def set_pinned(change: Change, row: catalog.AdapterRow, *, pinned: bool) -> None:
    """Protect an adapter from every kind of removal, or end that."""
    if row.pinned == pinned:
        return
    change.connection.execute(
        adapters.update().where(adapters.c.pk == row.pk).values(pinned=pinned)
    )
    change.log(row.tenant, "pin" if pinned else "unpin", row.id)


def tag(change: Change, row: catalog.AdapterRow, *, add: set[str], remove: set[str]) -> None:
    """Add and remove tags; what is already so stays."""
    for name in add | remove:
        check_name("tag", name)
    if add & remove:
        raise InvalidInput(f"tag {min(add & remove)!r} can't be added and removed at once")
    present = set(
        change.connection.execute(select(tags.c.name).where(tags.c.adapter_pk == row.pk)).scalars()
    )
    for name in sorted(add - present):
        change.connection.execute(tags.insert().values(adapter_pk=row.pk, name=name))
    for name in sorted(remove & present):
        change.connection.execute(
            tags.delete().where(tags.c.adapter_pk == row.pk, tags.c.name == name)
        )
    if add - present or remove & present:
        added, removed = sorted(add - present), sorted(remove & present)
        change.log(row.tenant, "tag", row.id, added=added, removed=removed)


def promote(change: Change, row: catalog.AdapterRow) -> catalog.AdapterRow:
    """
    Make a tenant's adapter available to every tenant; doing it again changes nothing.

    Raises:
        Conflict: It is in quarantine, or the shared copy is deleted.
    """
    if row.tenant == SHARED:
        return row
    if row.state == "quarantined":
        raise Conflict(f"adapter {row.id} is in quarantine; approve it before promoting it")
    known = change.connection.execute(
        select(adapters.c.pk, adapters.c.state).where(
            adapters.c.tenant == SHARED, adapters.c.id == row.id
        )
    ).first()
    if known is None:
        return copy_to_shared(change, row)
    if known.state == "deleted":
        raise Conflict(f"the shared copy of {row.id} is deleted; undelete it (--tenant shared)")
    return catalog.by_key(change.connection, known.pk)


def record_uses(change: Change, uses: Mapping[AdapterId, int], *, tenant: str) -> None:
    """Count that adapters were served; the tenant's own copy counts before a shared one."""
    for adapter_id, count in sorted(uses.items()):
        row = change.connection.execute(
            select(adapters.c.pk)
            .where(adapters.c.id == adapter_id, catalog.visible_to(tenant))
            .order_by(adapters.c.tenant == SHARED)
            .limit(1)
        ).first()
        if row is not None:
            change.connection.execute(
                adapters.update()
                .where(adapters.c.pk == row.pk)
                .values(hits=adapters.c.hits + count, last_used_at=change.now)
            )
