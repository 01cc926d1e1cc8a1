"""Figures about the library: what is used, and what takes the space."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, case, func, select

from adapters_store import catalog
from adapters_store.ledger import Ledger
from adapters_store.records import AdapterRecord
from adapters_store.schema import adapters, descriptions


@dataclass(frozen=True, slots=True)
class Stats:
    """
    Counts over one tenant or all.

    Args:
        by_state: State -> adapters.
        by_origin: Origin -> adapters that are not deleted.
        descriptions: Texts that reached an adapter that is not deleted.
        hits: Times that an adapter was served.
        unused: Adapters, not deleted, that never were.
        top: The most served ones.
    """

    by_state: dict[str, int]
    by_origin: dict[str, int]
    descriptions: int
    hits: int
    unused: int
    top: tuple[AdapterRecord, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """
    What one tenant takes.

    Args:
        size_bytes: Bytes of its adapters, deleted ones included.
        pinned_bytes: Of that, pinned.
        reclaimable_bytes: Of that, deleted: `prune` frees it.
    """

    tenant: str
    adapters: int
    size_bytes: int
    pinned_bytes: int
    reclaimable_bytes: int


class Reports:
    """Figures for operators."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def stats(self, *, tenant: str | None = None, top: int = 5) -> Stats:
        """Counts over one tenant or all, with the *top* most served adapters."""
        mine = [] if tenant is None else [adapters.c.tenant == tenant]
        alive = [*mine, adapters.c.state != "deleted"]
        with self._ledger.read() as connection:
            states = connection.execute(
                select(adapters.c.state, func.count().label("n"))
                .where(*mine)
                .group_by(adapters.c.state)
                .order_by(adapters.c.state)
            )
            origins = connection.execute(
                select(adapters.c.origin, func.count().label("n"))
                .where(*alive)
                .group_by(adapters.c.origin)
                .order_by(adapters.c.origin)
            )
            totals = connection.execute(
                select(
                    func.coalesce(func.sum(adapters.c.hits), 0).label("hits"),
                    func.coalesce(func.sum(case((adapters.c.hits == 0, 1), else_=0)), 0).label(
                        "unused"
                    ),
                ).where(*alive)
            ).one()
            texts = connection.execute(
                select(func.count()).select_from(descriptions.join(adapters)).where(*alive)
            ).scalar_one()
            keys = connection.execute(
                select(adapters.c.pk)
                .where(*alive, adapters.c.hits > 0)
                .order_by(adapters.c.hits.desc(), adapters.c.pk)
                .limit(top)
            ).scalars()
            rows = catalog.by_keys(connection, list(keys)).values()
            return Stats(
                by_state={row.state: row.n for row in states},
                by_origin={row.origin: row.n for row in origins},
                descriptions=texts,
                hits=int(totals.hits),
                unused=int(totals.unused),
                top=tuple(sorted(map(catalog.record, rows), key=lambda r: (-r.hits, r.key))),
            )

    def space(self, *, tenant: str | None = None) -> list[Space]:
        """
        What each tenant takes, by name, or one of them.

        Equal content of two tenants lies on the disk once.
        """

        def bytes_where(condition: catalog.Condition) -> ColumnElement[int]:
            return func.coalesce(func.sum(case((condition, adapters.c.size_bytes), else_=0)), 0)

        query = (
            select(
                adapters.c.tenant,
                func.count().label("n"),
                func.sum(adapters.c.size_bytes).label("size"),
                bytes_where(adapters.c.pinned).label("pinned"),
                bytes_where(adapters.c.state == "deleted").label("deleted"),
            )
            .group_by(adapters.c.tenant)
            .order_by(adapters.c.tenant)
        )
        if tenant is not None:
            query = query.where(adapters.c.tenant == tenant)
        with self._ledger.read() as connection:
            return [
                Space(row.tenant, row.n, int(row.size), int(row.pinned), int(row.deleted))
                for row in connection.execute(query)
            ]
