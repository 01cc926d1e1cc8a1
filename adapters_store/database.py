"""Connections and transactions: one code path for SQLite and PostgreSQL."""

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Table,
    create_engine,
    event,
    func,
    inspect,
    literal,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError

from adapters_store.errors import (
    InvalidInput,
    SchemaOutdated,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from adapters_store.faults import named_missing_packages, named_os_errors
from adapters_store.schema import UtcTime

SCHEMA_HEAD = "0003"
WORKS_WITH = "schema_works_with"
_WRITER_LOCK = 0x74326C  # "t2l": the advisory lock that makes PostgreSQL's writers take turns
_BUSY_TIMEOUT_MS = 30_000
_URLS = "give sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME"

# What the drivers say -> what happened. SQLite and PostgreSQL have no common error codes.
_MEANINGS: tuple[tuple[str, type[StoreError], str], ...] = (
    ("database is locked", StoreBusy, "other writers held the database too long; try again"),
    ("lock timeout", StoreBusy, "other writers held the database too long; try again"),
    ("readonly database", StoreReadOnly, "the database can't be written; check its permissions"),
    ("read-only transaction", StoreReadOnly, "the database is a read-only replica"),
    ("disk is full", StoreFull, "no room for the database; free some space, nothing was changed"),
    ("no space left", StoreFull, "no room for the database; free some space, nothing was changed"),
    ("disk i/o error", StoreUnavailable, "the disk failed under the database"),
    ("unable to open", StoreUnavailable, "the database can't be opened; check path and permission"),
    ("malformed", StoreCorrupt, "the database is damaged; restore a backup"),
    ("not a database", StoreCorrupt, "the file is no library database"),
    ("contain nul", InvalidInput, "no text here may hold the character NUL"),
    ("connection", StoreUnavailable, "the database server can't be reached"),
)


class Database:
    """
    The SQL side of the library.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql+psycopg://...``.

    Raises:
        InvalidInput: It is neither.
        StoreUnavailable: A package is missing.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError:
            raise InvalidInput(f"the library's database: no URL; {_URLS}") from None
        backend = self.url.get_backend_name()
        self.is_sqlite = backend == "sqlite"
        if backend not in ("sqlite", "postgresql"):
            raise InvalidInput(f"the library's database: {backend} can't be used; {_URLS}")
        if self.is_sqlite and self.url.database:
            with named_os_errors(f"create {self.url.database}"):
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        with named_missing_packages("a library on PostgreSQL"):
            self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run the block in a transaction that changes nothing."""
        with _named_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def glance(self) -> Iterator[Connection]:
        """Run a block that reads with one statement; PostgreSQL is asked once, not three times."""
        with _named_errors(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """
        Run the block as the only writer; commit at its end, or change nothing.

        Writers take turns, so rows commit in the order of their sequence numbers.
        """
        with _named_errors(), self.engine.connect() as plain:
            connection = plain.execution_options(t2l_write=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})"))
                yield connection

    def now(self, connection: Connection) -> datetime:
        """The time by the database's clock: the one clock that all processes share."""
        if self.is_sqlite:
            return datetime.now(UTC)
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now.astimezone(UTC)

    def clock(self) -> ColumnElement[datetime]:
        """That clock as a column, for a query that can't spare one for it alone."""
        if self.is_sqlite:
            return literal(datetime.now(UTC), UtcTime())
        return func.clock_timestamp(type_=DateTime(timezone=True))

    def open_schema(self) -> None:
        """
        Make sure that the tables are there and fit this version; an empty database gets them.

        Newer tables fit if their last migration has noted that: see `works_with`.

        Raises:
            SchemaOutdated: The tables are of another version.
        """
        version = self.schema_version()
        if version is None:
            self.migrate()
        elif version < SCHEMA_HEAD:
            raise SchemaOutdated(
                f"the library has schema {version}, this version of t2l needs {SCHEMA_HEAD}; "
                "make a backup and run: t2l db migrate"
            )
        elif version > SCHEMA_HEAD and self._oldest() > SCHEMA_HEAD:
            raise SchemaOutdated(
                f"the library has schema {version}, which this version of t2l (schema "
                f"{SCHEMA_HEAD}) can't use; install the newer version"
            )

    def _oldest(self) -> str:
        """The oldest schema whose code can use the tables, as the last migration has noted it."""
        with self.read() as connection:
            noted = connection.execute(
                text("SELECT value FROM library WHERE key = :key"), {"key": WORKS_WITH}
            ).scalar_one_or_none()
        return noted or "none"  # which sorts after all versions

    def schema_version(self) -> str | None:
        """The schema's version, or None for an empty database."""
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(
                text("SELECT version_num FROM alembic_version")
            ).scalar_one_or_none()

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to this version's schema; running it twice changes nothing."""
        # Lazy: Alembic is slow to import and only a new or old library needs it.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", "adapters_store:migrations")
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def works_with(connection: Connection, oldest: str) -> None:
    """
    Note, at a migration's end, that code of an older schema can use the tables as they are now.

    So servers of two versions can run side by side while they are replaced one after the other.
    True only of a migration that adds: tables, indexes, columns that may be left out. What is not
    needed any more is removed a release later, by a migration that raises *oldest*.

    Args:
        connection: The migration's.
        oldest: That schema, e.g. ``"0003"``.
    """
    connection.execute(text("DELETE FROM library WHERE key = :key"), {"key": WORKS_WITH})
    connection.execute(
        text("INSERT INTO library (key, value) VALUES (:key, :value)"),
        {"key": WORKS_WITH, "value": oldest},
    )


def insert_row(connection: Connection, table: Table, values: Mapping[str, object]) -> int:
    """Insert one row and return the number it was given."""
    key = table.primary_key.columns[0]
    return int(connection.execute(table.insert().values(values).returning(key)).scalar_one())


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        # The driver's own transactions would begin late and without the write lock.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {_BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "mmap_size = 268435456",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that turns into a writer fails at once when another one wrote.
        write = connection.get_execution_options().get("t2l_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgres_engine(url: str) -> Engine:
    engine = create_engine(url)

    @event.listens_for(engine, "checkout")
    def leave_closed_ones(connection: Any, *_: object) -> None:
        # The server has nothing to say on an idle connection, unless it ended it: after a restart,
        # say. Asking it (``pool_pre_ping``) would cost a round trip each time; this costs none.
        idle = select.poll()
        idle.register(connection.fileno(), select.POLLIN)
        if idle.poll(0):
            raise DisconnectionError("the server closed the connection")

    return engine


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        told = " ".join(str(error.orig).split())  # psycopg's go on in a second line
        for needle, kind, meaning in _MEANINGS:
            if needle in told.lower():
                raise kind(f"{meaning} ({told})") from error
        raise StoreError(f"database error: {told}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"database error: {error}") from error
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InvalidInput(f"no text here may hold {error.object[error.start]!a}") from error
