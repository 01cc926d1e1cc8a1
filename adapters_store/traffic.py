"""What routers write behind their answers, in one transaction: sessions, decisions, uses."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from adapters_store import changes, decisions, sessions
from adapters_store.decisions import DecisionEntry, Decisions
from adapters_store.identity import AdapterId
from adapters_store.leases import Leases
from adapters_store.ledger import Ledger
from adapters_store.sessions import SessionRow, Sessions


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What happened since the last batch.

    Args:
        sessions: Conversations by their key; None forgets one.
        decisions: Decisions that were taken.
        uses: Tenant -> adapter -> how often it served.
        touched: Keys of conversations that had a turn and hold what they held.
    """

    sessions: Mapping[str, SessionRow | None] = field(default_factory=dict)
    decisions: tuple[DecisionEntry, ...] = ()
    uses: Mapping[str, Mapping[AdapterId, int]] = field(default_factory=dict)
    touched: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Retention:
    """
    What may stay of it.

    Args:
        session_idle: After this time without a turn a conversation has ended.
        sessions: Conversations at most.
        decision_age: After this time a decision is removed from the log.
        decisions: Decisions at most.
    """

    session_idle: timedelta = timedelta(days=1)
    sessions: int = 200_000
    decision_age: timedelta = timedelta(days=30)
    decisions: int = 1_000_000


class Traffic:
    """The rows that come and go with requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(self, batch: Batch) -> None:
        """Write a batch; all of it or nothing."""
        with self._ledger.change() as change:
            if batch.sessions:
                sessions.put(change, batch.sessions)
            if batch.touched:
                sessions.touch(change, batch.touched)
            if batch.decisions:
                decisions.append(change, batch.decisions)
            for tenant, uses in batch.uses.items():
                changes.record_uses(change, uses, tenant=tenant)

    def sweep(self, retention: Retention) -> int:
        """Remove what is too old or too much, expired leases included; count the rows."""
        expired = Leases(self._ledger).sweep()
        gone = Sessions(self._ledger).sweep(idle=retention.session_idle, keep=retention.sessions)
        return (
            expired
            + gone
            + Decisions(self._ledger).sweep(keep=retention.decision_age, rows=retention.decisions)
        )
