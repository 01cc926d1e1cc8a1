"""The audited way to read and change the library: what each noun of the store is built on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from adapters_store import audit
from adapters_store.blobs import Blobs
from adapters_store.database import Database


@dataclass(frozen=True, slots=True)
class Change:
    """
    One write transaction.

    Args:
        connection: Runs statements within it.
        now: Its time, by the database's clock.
        actor: Who makes it.
    """

    connection: Connection
    now: datetime
    actor: str

    def log(self, tenant: str, action: str, subject: str, **detail: object) -> None:
        """Append an entry to the audit log, within the transaction."""
        audit.append(
            self.connection,
            at=self.now,
            actor=self.actor,
            tenant=tenant,
            action=action,
            subject=subject,
            detail=detail,
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    Database, blobs and the name of whoever acts.

    Args:
        database: The SQL side.
        blobs: The weights.
        actor: Goes into the audit log with each change.
    """

    database: Database
    blobs: Blobs
    actor: str

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run the block in a transaction that changes nothing."""
        with self.database.read() as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Run the block as the only writer; all of it happens or nothing."""
        with self.database.write() as connection:
            yield Change(connection, self.database.now(connection), self.actor)
