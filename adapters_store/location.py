"""Where a library lies, and what it is searched with."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from sqlalchemy import select

from adapters_store.database import Database
from adapters_store.errors import InvalidInput
from adapters_store.faults import named_missing_packages
from adapters_store.index import ExactIndex, VectorIndex
from adapters_store.partitions import SqlVectors
from adapters_store.schema import library

IndexKind = Literal["exact", "faiss", "pgvector"]


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """
    Where a library lies.

    Args:
        database_url: SQLAlchemy URL of SQLite or PostgreSQL.
        blobs_url: Local path or fsspec URL of the weights.
        cache_dir: Local directory for index files and copies of remote adapters.
        index: How embeddings are searched.
        blobs_options: Passed to fsspec, e.g. ``{"endpoint_url": ...}``.
        actor: Who acts, for the audit log.
    """

    database_url: str
    blobs_url: str
    cache_dir: Path
    index: IndexKind = "faiss"
    blobs_options: Mapping[str, Any] = field(default_factory=dict)
    actor: str = "t2l"

    @classmethod
    def in_directory(
        cls, directory: Path, *, index: IndexKind = "faiss", actor: str = "t2l"
    ) -> Self:
        """The embedded library: SQLite, local files and FAISS below one directory."""
        return cls(
            database_url=f"sqlite:///{directory.absolute() / 'library.db'}",
            blobs_url=str(directory.absolute() / "adapters"),
            cache_dir=directory.absolute() / "cache",
            index=index,
            actor=actor,
        )


def open_index(config: StoreConfig, database: Database) -> VectorIndex:
    """
    The index that a library is searched with.

    Raises:
        InvalidInput: It doesn't go with the database.
        StoreUnavailable: A package is missing.
    """
    vectors = SqlVectors(database)
    if config.index == "exact":
        return ExactIndex(vectors)
    if config.index == "pgvector":
        # Lazy: pgvector is an optional dependency.
        with named_missing_packages("the index pgvector"):
            from adapters_store.index_pgvector import PgVectorIndex  # noqa: PLC0415

        if database.is_sqlite:
            raise InvalidInput("the index pgvector needs a library in PostgreSQL; use faiss")
        return PgVectorIndex(database, vectors)
    # Lazy: FAISS takes a while to import, and not every library needs it.
    from adapters_store.index_faiss import FaissIndex  # noqa: PLC0415

    library_id = _library_id(database)
    return FaissIndex(vectors, cache_dir=config.cache_dir / "index", library=library_id)


def _library_id(database: Database) -> str:
    """The library's own id, made at its creation; index files of another library don't count."""
    query = select(library.c.value).where(library.c.key == "library_id")
    with database.read() as connection:
        found = connection.execute(query).scalar_one_or_none()
    if found is None:
        with database.write() as connection:
            found = connection.execute(query).scalar_one_or_none()
            if found is None:
                found = uuid.uuid4().hex
                connection.execute(library.insert().values(key="library_id", value=found))
    return str(found)
