"""
Backup and restore: a consistent copy of a library, taken while it is used.

A backup is a directory that is itself an embedded library (SQLite and local files), whatever
database and filesystem the library stands on; restoring it into another kind moves the library.
"""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from adapters_store.audit import append
from adapters_store.blobs import Blobs, LocalBlobs
from adapters_store.database import Database
from adapters_store.errors import AdapterCorrupt, Conflict, NotFound
from adapters_store.faults import named_os_errors
from adapters_store.identity import AdapterId
from adapters_store.ledger import Ledger
from adapters_store.schema import adapters, leases, library, metadata

DATABASE_FILE = "library.db"
BLOBS_DIRECTORY = "adapters"
LIBRARY_ID = "library_id"
_BATCH_ROWS = 1000

OnAdapter = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """
    What `backup` or `restore` copied.

    Args:
        adapters: As lists count them: two tenants' equal ones are two.
        size_bytes: Of their weights, which equal ones share.
    """

    adapters: int
    size_bytes: int


def backup(ledger: Ledger, destination: Path, *, on_adapter: OnAdapter | None = None) -> Copied:
    """
    Copy the library as of now into a new directory, which appears whole or not at all.

    Writers go on meanwhile; what they add after the beginning is not in the backup.

    Raises:
        Conflict: *destination* exists.
        AdapterCorrupt: An adapter's files are damaged: a backup of them would be no help.
    """
    if destination.exists():
        raise Conflict(f"{destination} exists; give the backup a new name")
    beside = destination.parent / f".{destination.name}-{uuid.uuid4().hex}"
    with named_os_errors(f"write the backup {destination}"):
        try:
            beside.mkdir(parents=True)
            target = Database(f"sqlite:///{beside / DATABASE_FILE}")
            try:
                target.migrate()
                _copy_rows(ledger.database, target)
                blobs = LocalBlobs(beside / BLOBS_DIRECTORY)
                copied = _copy_blobs(ledger.blobs, target, blobs, ledger.database, on_adapter)
            finally:
                target.close()
            beside.rename(destination)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return copied


def restore(ledger: Ledger, source: Path, *, on_adapter: OnAdapter | None = None) -> Copied:
    """
    Fill an empty library from a backup; its weights are checked on the way.

    Raises:
        NotFound: *source* is no backup.
        Conflict: The library has adapters already.
        SchemaOutdated: The backup is of another version of t2l.
        AdapterCorrupt: The backup is damaged; nothing is visible in the library then.
    """
    if not (source / DATABASE_FILE).is_file():
        raise NotFound(f"{source} is no backup: it has no {DATABASE_FILE}")
    with ledger.read() as connection:
        _require_empty(connection)
    origin = Database(f"sqlite:///{source / DATABASE_FILE}")
    try:
        origin.open_schema()
        # Weights first: a row is never visible before its files.
        blobs = LocalBlobs(source / BLOBS_DIRECTORY)
        copied = _copy_blobs(blobs, origin, ledger.blobs, origin, on_adapter)
        _copy_rows(origin, ledger.database)
    finally:
        origin.close()
    with ledger.change() as change:
        # Numbers may be given out anew, so index files of the old library must not fit.
        change.connection.execute(
            library.update().where(library.c.key == LIBRARY_ID).values(value=uuid.uuid4().hex)
        )
        append(
            change.connection,
            at=change.now,
            actor=change.actor,
            tenant="-",
            action="restore",
            subject="library",
            detail={"adapters": copied.adapters},
        )
    return copied


def _require_empty(connection: Connection) -> None:
    if count := _count(connection):
        raise Conflict(
            f"the library holds {count} adapters; restore into an empty one (another --data-dir)"
        )


def _count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(adapters)).scalar_one())


def _copy_rows(source: Database, target: Database) -> None:
    """Copy every table but the leases, in one transaction on each side."""
    with source.read() as reading, target.write() as writing:
        if not source.is_sqlite:
            reading.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        _require_empty(writing)
        for table in metadata.sorted_tables:
            writing.execute(table.delete())
            if table is leases:
                continue
            rows = reading.execution_options(yield_per=_BATCH_ROWS).execute(select(table))
            for batch in rows.mappings().partitions():
                writing.execute(table.insert(), [dict(row) for row in batch])
            if not target.is_sqlite and table.primary_key.columns[0].autoincrement is True:
                key = table.primary_key.columns[0].name
                writing.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{table.name}', '{key}'), "  # noqa: S608 - our own names
                        f"coalesce(max({key}), 0) + 1, false) FROM {table.name}"
                    )
                )


def _copy_blobs(
    source: Blobs,
    rows: Database,
    target: Blobs,
    living: Database,
    on_adapter: OnAdapter | None,
) -> Copied:
    """Copy the weights of every adapter in *rows*, checking each."""
    with rows.read() as connection:
        wanted = connection.execute(
            select(adapters.c.id, adapters.c.base).distinct().order_by(adapters.c.id)
        ).all()
    size_bytes = 0
    for done, row in enumerate(wanted, start=1):
        adapter_id = AdapterId(row.id)
        try:
            files = source.get(adapter_id)
        except AdapterCorrupt:
            # Pruned since the rows were copied: then it was deleted before, and stays so.
            if _refers(living, adapter_id):
                raise
            with rows.write() as connection:
                connection.execute(adapters.delete().where(adapters.c.id == adapter_id))
        else:
            target.put(adapter_id, row.base, files)
            size_bytes += files.size_bytes
        if on_adapter is not None:
            on_adapter(done, len(wanted))
    with rows.read() as connection:
        return Copied(_count(connection), size_bytes)


def _refers(database: Database, adapter_id: AdapterId) -> bool:
    with database.read() as connection:
        query = select(func.count()).where(adapters.c.id == adapter_id)
        return bool(connection.execute(query).scalar_one())
