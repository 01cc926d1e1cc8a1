"""The log of decisions, and what people thought of the answers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from adapters_store.errors import DecisionNotFound
from adapters_store.ledger import Change, Ledger
from adapters_store.schema import decisions, feedback

_Z95 = 1.959964
_LEAST_OF_TRACE = 8


@dataclass(frozen=True, slots=True)
class DecisionEntry:
    """
    One decision as it is logged.

    Args:
        trace: Its name; unique.
        tenant: For whom it was taken.
        kind: How the adapter was chosen, e.g. ``reused``.
        adapter_id: The adapter; None is the base model.
        description_hash: `names.text_hash` of the task description.
        score: Cosine of the nearest description.
        margin: Its lead over the best other adapter.
        distance: Delta-W distance of the new adapter and the held one, where they were compared.
        detail: Everything else, JSON values only; no text of the conversation unless asked for.
        at: Set when it is read back.
    """

    trace: str
    tenant: str
    kind: str
    adapter_id: str | None = None
    description_hash: str | None = None
    score: float | None = None
    margin: float | None = None
    distance: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WinRate:
    """
    How often an adapter's answers were liked.

    Args:
        adapter_id: None is the base model.
        wins: Ratings above zero.
        n: Ratings other than zero.
        low: Lower end of the 95 % Wilson interval.
        high: Its upper end.
    """

    adapter_id: str | None
    wins: int
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DecisionStats:
    """
    Counts over a span of time.

    Args:
        total: Decisions.
        by_kind: Kind -> decisions.
        descriptions: Different task descriptions among them.
        win_rates: Per adapter, the most rated first.
    """

    total: int
    by_kind: dict[str, int]
    descriptions: int
    win_rates: tuple[WinRate, ...]


class Decisions:
    """The decision log of all tenants."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def append(self, entries: Sequence[DecisionEntry]) -> None:
        """Log decisions, all of them or none."""
        if entries:
            with self._ledger.change() as change:
                append(change, entries)

    def get(self, trace: str, *, tenant: str) -> DecisionEntry:
        """
        One of the tenant's decisions.

        Args:
            trace: Its name, or the beginning of one (8 characters or more).
            tenant: Only its own decisions are found.

        Raises:
            DecisionNotFound: Nothing fits, or several do.
        """
        with self._ledger.read() as connection:
            return _entry(_find(connection, trace, tenant, cut=len(trace) >= _LEAST_OF_TRACE))

    def newest(self, *, tenant: str | None = None, limit: int = 50) -> list[DecisionEntry]:
        """The last decisions, newest first, of one tenant or all."""
        query = select(decisions).where(*_of(decisions.c.tenant, tenant))
        with self._ledger.read() as connection:
            rows = connection.execute(query.order_by(decisions.c.at.desc()).limit(limit))
            return [_entry(row) for row in rows]

    def rate(self, trace: str, rating: int, *, tenant: str) -> DecisionEntry:
        """
        Judge the answer of a decision; judging it again replaces the judgement.

        Args:
            trace: The decision.
            rating: 1 for good, -1 for bad, 0 for neither.
            tenant: Only its own decisions are found.

        Raises:
            DecisionNotFound: It isn't in the log, or not any more.
        """
        with self._ledger.change() as change:
            entry = _entry(_find(change.connection, trace, tenant))
            change.connection.execute(feedback.delete().where(feedback.c.trace == trace))
            change.connection.execute(
                feedback.insert().values(
                    trace=trace,
                    at=change.now,
                    tenant=tenant,
                    kind=entry.kind,
                    adapter_id=entry.adapter_id,
                    rating=rating,
                )
            )
            return entry

    def stats(
        self, *, tenant: str | None = None, since: timedelta = timedelta(days=30), top: int = 10
    ) -> DecisionStats:
        """Counts of the last time span, of one tenant or all; *top* adapters by ratings."""
        with self._ledger.read() as connection:
            start = self._ledger.database.now(connection) - since
            mine = [decisions.c.at > start, *_of(decisions.c.tenant, tenant)]
            kinds = connection.execute(
                select(decisions.c.kind, func.count().label("n"))
                .where(*mine)
                .group_by(decisions.c.kind)
                .order_by(decisions.c.kind)
            ).all()
            texts = connection.execute(
                select(func.count(decisions.c.description_hash.distinct())).where(*mine)
            ).scalar_one()
            rated = func.count().label("n")
            wins = connection.execute(
                select(
                    feedback.c.adapter_id,
                    func.sum(case((feedback.c.rating > 0, 1), else_=0)).label("wins"),
                    rated,
                )
                .where(feedback.c.at > start, feedback.c.rating != 0)
                .where(*_of(feedback.c.tenant, tenant))
                .group_by(feedback.c.adapter_id)
                .order_by(rated.desc(), feedback.c.adapter_id)
                .limit(top)
            ).all()
        by_kind = {row.kind: row.n for row in kinds}
        rates = tuple(
            WinRate(row.adapter_id, int(row.wins), row.n, *wilson(int(row.wins), row.n))
            for row in wins
        )
        return DecisionStats(sum(by_kind.values()), by_kind, texts, rates)

    def sweep(self, *, keep: timedelta, rows: int) -> int:
        """Remove decisions older than *keep* and all but the newest *rows*; count them."""
        with self._ledger.change() as change:
            newest = select(decisions.c.at).order_by(decisions.c.at.desc())
            beyond = change.connection.execute(newest.offset(rows).limit(1)).scalar_one_or_none()
            before = change.now - keep
            oldest = before if beyond is None else max(before, beyond)
            gone = change.connection.execute(decisions.delete().where(decisions.c.at <= oldest))
            return int(gone.rowcount)


def append(change: Change, entries: Sequence[DecisionEntry]) -> None:
    """Log decisions within the caller's transaction; those that are logged already stay once."""
    traces = [entry.trace for entry in entries]
    change.connection.execute(decisions.delete().where(decisions.c.trace.in_(traces)))
    change.connection.execute(
        decisions.insert(),
        [
            {
                "trace": entry.trace,
                "at": entry.at or change.now,
                "tenant": entry.tenant,
                "kind": entry.kind,
                "adapter_id": entry.adapter_id,
                "description_hash": entry.description_hash,
                "score": entry.score,
                "margin": entry.margin,
                "distance": entry.distance,
                "detail": json.dumps(entry.detail, sort_keys=True),
            }
            for entry in entries
        ],
    )


def wilson(wins: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """
    The interval that holds the true rate with 95 % confidence; (0, 1) without observations.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if n == 0:
        return 0.0, 1.0
    rate = wins / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _of(column: ColumnElement[str], tenant: str | None) -> list[ColumnElement[bool]]:
    return [] if tenant is None else [column == tenant]


def _find(connection: Connection, trace: str, tenant: str, *, cut: bool = False) -> Any:
    """The row of a decision; with *cut* the beginning of its name will do."""
    named = decisions.c.trace.startswith(trace, autoescape=True)
    rows = connection.execute(
        select(decisions)
        .where(named if cut else decisions.c.trace == trace, decisions.c.tenant == tenant)
        .limit(2)
    ).all()
    if len(rows) != 1:
        what = "several decisions begin with" if rows else "no decision"
        raise DecisionNotFound(
            f"{what} {trace[:80]!r} in the log; X-T2L-Trace of a recent answer names one"
        )
    return rows[0]


def _entry(row: Any) -> DecisionEntry:
    return DecisionEntry(**{**row._mapping, "detail": json.loads(row.detail)})  # noqa: SLF001 - SQLAlchemy's public name
