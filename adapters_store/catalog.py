"""Reading adapters: rows to records, one adapter by its name, pages of many."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select

from adapters_store.errors import AdapterNotFound
from adapters_store.identity import AdapterId
from adapters_store.names import ADAPTER_ID, SHARED
from adapters_store.records import AdapterRecord, Lineage
from adapters_store.schema import adapters, aliases, descriptions, tags

_MIN_PREFIX = len("t2l-") + 4

AdapterRow = Row[Any]
Condition = ColumnElement[bool]


def visible_to(tenant: str) -> ColumnElement[bool]:
    """The tenant's own adapters and the shared ones: the hard key of every query."""
    return adapters.c.tenant.in_((tenant, SHARED))


def find(
    connection: Connection, ref: str, *, tenant: str, deleted: bool = False, shared: bool = True
) -> AdapterRow:
    """
    The row of one adapter; the tenant's own wins over a shared one of the same id.

    Args:
        connection: Runs the query.
        ref: An id, the start of one (8 characters or more), or an alias.
        tenant: Whose adapters to look at.
        deleted: Look among the deleted ones instead of the rest.
        shared: Also look at the shared ones.

    Raises:
        AdapterNotFound: Nothing fits, or several do.
    """
    tenants = (tenant, SHARED) if shared else (tenant,)
    state = adapters.c.state == "deleted" if deleted else adapters.c.state != "deleted"
    query = select(adapters).where(adapters.c.tenant.in_(tenants), state, _named(ref, tenants))
    rows = connection.execute(query.order_by(adapters.c.pk).limit(20)).all()
    ids = {row.id for row in rows}
    if len(ids) > 1:
        raise AdapterNotFound(f"{ref!r} fits several adapters ({', '.join(sorted(ids))[:120]}...)")
    if not rows:
        where = " among the deleted ones" if deleted else ""
        raise AdapterNotFound(f"no adapter {ref!r}{where}; see: t2l adapters list")
    return next((row for row in rows if row.tenant == tenant), rows[0])


def _named(ref: str, tenants: Sequence[str]) -> ColumnElement[bool]:
    if ADAPTER_ID.fullmatch(ref):
        return adapters.c.id == ref
    if ref.startswith("t2l-") and len(ref) >= _MIN_PREFIX:
        return adapters.c.id.startswith(ref, autoescape=True)
    named = select(aliases.c.adapter_id).where(
        aliases.c.tenant.in_(tenants), aliases.c.name == ref, aliases.c.until.is_(None)
    )
    # The tenant's own alias hides a shared one of the same name.
    own_first = (aliases.c.tenant == SHARED, aliases.c.id)
    return adapters.c.id == named.order_by(*own_first).limit(1).scalar_subquery()


def records(connection: Connection, rows: Iterable[AdapterRow]) -> list[AdapterRecord]:
    """The records of *rows*, in their order, with descriptions, tags and aliases."""
    rows = list(rows)
    keys = [row.pk for row in rows]
    texts = _first_descriptions(connection, keys)
    names = defaultdict(list)
    for tag in connection.execute(
        select(tags).where(tags.c.adapter_pk.in_(keys)).order_by(tags.c.name)
    ):
        names[tag.adapter_pk].append(tag.name)
    current = defaultdict(list)
    for alias in connection.execute(
        select(aliases.c.tenant, aliases.c.adapter_id, aliases.c.name)
        .where(aliases.c.adapter_id.in_({row.id for row in rows}), aliases.c.until.is_(None))
        .order_by(aliases.c.name)
    ):
        current[alias.tenant, alias.adapter_id].append(alias.name)
    return [
        _record(
            row,
            texts.get(row.pk, ("", 0)),
            tuple(names[row.pk]),
            tuple(current[row.tenant, row.id]),
        )
        for row in rows
    ]


def record(connection: Connection, row: AdapterRow) -> AdapterRecord:
    """The record of one row."""
    return records(connection, [row])[0]


def by_key(connection: Connection, pk: int) -> AdapterRow:
    """The row with key *pk*, which exists."""
    return connection.execute(select(adapters).where(adapters.c.pk == pk)).one()


def newest(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    *,
    limit: int | None,
    before: int | None = None,
) -> list[AdapterRow]:
    """
    A page of adapters, newest first.

    Args:
        connection: Runs the query.
        conditions: All must hold.
        limit: Rows of the page; None for all.
        before: The key of the last row of the page before.
    """
    query = select(adapters).where(and_(True, *conditions))
    if before is not None:
        query = query.where(adapters.c.pk < before)
    return list(connection.execute(query.order_by(adapters.c.pk.desc()).limit(limit)))


def removable() -> ColumnElement[bool]:
    """Adapters that automatic removal may touch: neither pinned nor named by an alias."""
    named = (
        select(aliases.c.id)
        .where(
            aliases.c.adapter_id == adapters.c.id,
            aliases.c.until.is_(None),
            or_(aliases.c.tenant == adapters.c.tenant, adapters.c.tenant == SHARED),
        )
        .exists()
    )
    return and_(adapters.c.pinned.is_(False), ~named)


def _first_descriptions(connection: Connection, keys: list[int]) -> dict[int, tuple[str, int]]:
    grouped = (
        select(func.min(descriptions.c.id).label("first"), func.count().label("n"))
        .where(descriptions.c.adapter_pk.in_(keys))
        .group_by(descriptions.c.adapter_pk)
        .subquery()
    )
    rows = connection.execute(
        select(descriptions.c.adapter_pk, descriptions.c.text, grouped.c.n).join(
            grouped, grouped.c.first == descriptions.c.id
        )
    )
    return {row.adapter_pk: (row.text, row.n) for row in rows}


def _record(
    row: AdapterRow,
    first: tuple[str, int],
    tag_names: tuple[str, ...],
    alias_names: tuple[str, ...],
) -> AdapterRecord:
    text, count = first
    return AdapterRecord(
        key=row.pk,
        id=AdapterId(row.id),
        tenant=row.tenant,
        state=row.state,
        base=row.base,
        base_model=row.base_model,
        rank=row.rank,
        alpha=row.alpha,
        rslora=row.rslora,
        target_modules=tuple(row.target_modules.split(",")),
        size_bytes=row.size_bytes,
        delta_norm=row.delta_norm,
        lineage=Lineage(row.origin, row.source, row.hypernet_id),
        pinned=row.pinned,
        hits=row.hits,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        deleted_at=row.deleted_at,
        description=text,
        n_descriptions=count,
        tags=tag_names,
        aliases=alias_names,
    )
