"""Reading adapters: rows to records, one adapter by its name, pages of many."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    func,
    or_,
    select,
    true,
)

from adapters_store.errors import AdapterNotFound
from adapters_store.identity import AdapterId
from adapters_store.names import ADAPTER_ID, SHARED
from adapters_store.records import AdapterRecord, Lineage
from adapters_store.schema import adapters, aliases, descriptions, tags

_MIN_PREFIX = len("t2l-") + 4

_KEYS_PER_STATEMENT = 5000  # well below both databases' limits

AdapterRow = Row[Any]
Condition = ColumnElement[bool]


def _full() -> Select[Any]:
    """Everything a record shows, in one statement: adapters are read on every request."""
    mine = descriptions.c.adapter_pk == adapters.c.pk
    first = select(descriptions.c.text).where(mine).order_by(descriptions.c.id).limit(1)
    named = and_(
        aliases.c.tenant == adapters.c.tenant,
        aliases.c.adapter_id == adapters.c.id,
        aliases.c.until.is_(None),
    )
    # Names have no commas: see `names.check_name`.
    tag_names = select(func.aggregate_strings(tags.c.name, ",")).where(
        tags.c.adapter_pk == adapters.c.pk
    )
    alias_names = select(func.aggregate_strings(aliases.c.name, ",")).where(named)
    return select(
        adapters,
        first.scalar_subquery().label("first_text"),
        select(func.count()).where(mine).scalar_subquery().label("n_texts"),
        tag_names.scalar_subquery().label("tag_names"),
        alias_names.scalar_subquery().label("alias_names"),
    )


_FULL = _full()
_BY_KEYS = _FULL.where(adapters.c.pk.in_(bindparam("keys", expanding=True)))


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
    query = _FULL.where(adapters.c.tenant.in_(tenants), state, _named(ref, tenants))
    rows = connection.execute(query.order_by(adapters.c.pk).limit(20)).all()
    ids = {row.id for row in rows}
    if len(ids) > 1:
        raise AdapterNotFound(f"{ref!r} fits several adapters ({', '.join(sorted(ids))[:120]}...)")
    if not rows:
        where, which = (" among the deleted ones", " -f state=deleted") if deleted else ("", "")
        raise AdapterNotFound(f"no adapter {ref!r}{where}; see: t2l adapters list{which}")
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


def base_of(connection: Connection, adapter_id: AdapterId) -> str:
    """The base model of an adapter that any tenant has in service. Raises `AdapterNotFound`."""
    in_service = adapters.c.state.not_in(("deleted", "quarantined"))
    query = select(adapters.c.base).where(adapters.c.id == adapter_id, in_service).limit(1)
    base: str | None = connection.execute(query).scalar_one_or_none()
    if base is None:
        raise AdapterNotFound(f"no adapter {adapter_id!r} in service")
    return base


def by_key(connection: Connection, pk: int) -> AdapterRow:
    """The row with key *pk*, which exists."""
    return connection.execute(_BY_KEYS, {"keys": [pk]}).one()


def by_keys(connection: Connection, keys: Sequence[int]) -> dict[int, AdapterRow]:
    """The rows with these keys."""
    rows: dict[int, AdapterRow] = {}
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        some = keys[start : start + _KEYS_PER_STATEMENT]
        rows |= {row.pk: row for row in connection.execute(_BY_KEYS, {"keys": some})}
    return rows


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
    query = select(adapters.c.pk).where(and_(True, *conditions))
    if before is not None:
        query = query.where(adapters.c.pk < before)
    # First the page, then what it shows: otherwise every row that fits would be assembled.
    keys = list(connection.execute(query.order_by(adapters.c.pk.desc()).limit(limit)).scalars())
    rows = by_keys(connection, keys)
    return [rows[key] for key in keys if key in rows]


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


def chosen() -> ColumnElement[bool]:
    """Adapters that somebody chose: imported, merged or approved, pinned or named by an alias."""
    return or_(adapters.c.origin != "generated", adapters.c.state == "approved", ~removable())


def led_to(hypernet_id: str | None) -> ColumnElement[bool]:
    """
    Adapters that a text may lead to: the hypernetwork's own and the chosen ones.

    Args:
        hypernet_id: What would write an adapter for the text; None for all adapters.
    """
    if hypernet_id is None:
        return true()
    own = or_(adapters.c.hypernet_id == hypernet_id, adapters.c.hypernet_id.is_(None))
    return or_(own, chosen())


def record(row: AdapterRow) -> AdapterRecord:
    """The record of a row that was read here."""
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
        description=row.first_text or "",
        n_descriptions=row.n_texts,
        tags=_names(row.tag_names),
        aliases=_names(row.alias_names),
    )


def _names(joined: str | None) -> tuple[str, ...]:
    return tuple(sorted(joined.split(","))) if joined else ()
