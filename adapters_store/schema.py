"""The library's tables. Alembic's migrations create them; a test compares the two."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A time as whole microseconds since 1970: exact, sortable and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turn an aware time into microseconds."""
        del dialect
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Turn microseconds into an aware time."""
        del dialect
        return None if value is None else from_micros(value)


def to_micros(time: datetime) -> int:
    """Microseconds since 1970, without a float in between."""
    assert time.tzinfo is not None, "times in the library know their zone"
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The aware time of *micros* microseconds since 1970."""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)


# SQLite counts only INTEGER keys automatically; PostgreSQL's INTEGER would end at 2^31.
_Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

library = Table(
    "library",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

adapters = Table(
    "adapters",
    metadata,
    Column("pk", _Id, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_before_deletion", String(16)),
    Column("base", String(128), nullable=False),
    Column("base_model", String(256), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("alpha", Float, nullable=False),
    Column("rslora", Boolean, nullable=False),
    Column("target_modules", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("delta_norm", Float, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("source", Text),
    Column("hypernet_id", String(128)),
    Column("pinned", Boolean, nullable=False, default=False),
    Column("hits", BigInteger, nullable=False, default=0),
    Column("created_at", UtcTime, nullable=False),
    Column("last_used_at", UtcTime),
    Column("deleted_at", UtcTime),
    UniqueConstraint("tenant", "id"),
    CheckConstraint("state IN ('generated','approved','quarantined','deleted')", name="state"),
    Index("ix_adapters_id", "id"),
    Index("ix_adapters_tenant_state_pk", "tenant", "state", "pk"),
    Index("ix_adapters_created_at", "created_at"),
    sqlite_autoincrement=True,
)

descriptions = Table(
    "descriptions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("adapter_pk", _Id, ForeignKey("adapters.pk", ondelete="CASCADE"), nullable=False),
    Column("text", Text, nullable=False),
    Column("text_hash", String(32), nullable=False),
    Column("source", String(32), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("adapter_pk", "text_hash"),
    Index("ix_descriptions_text_hash", "text_hash"),
    sqlite_autoincrement=True,
)

encoders = Table(
    "encoders",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("fingerprint", String(128), nullable=False, unique=True),
    Column("dim", Integer, nullable=False),
)

# One tenant's embeddings for one base model by one encoder: the unit that a search looks at.
partitions = Table(
    "partitions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("base", String(128), nullable=False),
    Column("encoder_id", _Id, ForeignKey("encoders.id"), nullable=False),
    UniqueConstraint("tenant", "base", "encoder_id"),
)

# ``seq`` grows in commit order (writers take turns), so an index follows by ``seq > last seen``.
embeddings = Table(
    "embeddings",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=True),
    Column("partition_id", _Id, ForeignKey("partitions.id"), nullable=False),
    Column(
        "description_id", _Id, ForeignKey("descriptions.id", ondelete="CASCADE"), nullable=False
    ),
    Column("vector", LargeBinary, nullable=False),
    UniqueConstraint("description_id", "partition_id"),
    Index("ix_embeddings_partition_id_seq", "partition_id", "seq"),
    sqlite_autoincrement=True,
)

aliases = Table(
    "aliases",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("adapter_id", String(36), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime),
    Index("ix_aliases_adapter_id", "adapter_id"),
    Index("ix_aliases_tenant_name_since", "tenant", "name", "since"),
    sqlite_autoincrement=True,
)
Index(
    "uq_aliases_current",
    aliases.c.tenant,
    aliases.c.name,
    unique=True,
    sqlite_where=aliases.c.until.is_(None),
    postgresql_where=aliases.c.until.is_(None),
)

tags = Table(
    "tags",
    metadata,
    Column("adapter_pk", _Id, ForeignKey("adapters.pk", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Index("ix_tags_name", "name"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("max_bytes", BigInteger),
    Column("max_adapters", BigInteger),
    Column("max_generations_per_hour", BigInteger),
)

# Only a hash of the secret: who steals the database can't use the keys.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("scopes", String(32), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
    Index("ix_api_keys_tenant", "tenant"),
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
)

# One row per tenant and day (UTC), however many requests there are.
token_usage = Table(
    "token_usage",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Index("ix_token_usage_day", "day"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_log_subject", "subject"),
    Index("ix_audit_log_tenant_action_at", "tenant", "action", "at"),
)

# What a conversation holds. The key hashes tenant and conversation, so no text is kept here.
sessions = Table(
    "sessions",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("adapter_id", String(36)),
    Column("state", Text, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Index("ix_sessions_updated_at", "updated_at"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("trace", String(64), primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("adapter_id", String(36)),
    Column("description_hash", String(32)),
    Column("score", Float),
    Column("margin", Float),
    Column("distance", Float),
    Column("detail", Text, nullable=False),
    Index("ix_decisions_at", "at"),
    Index("ix_decisions_tenant_at", "tenant", "at"),
)

# It outlives the decision it judges, so it repeats what win rates need.
feedback = Table(
    "feedback",
    metadata,
    Column("trace", String(64), primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("adapter_id", String(36)),
    Column("rating", Integer, nullable=False),
    Index("ix_feedback_tenant_adapter_id", "tenant", "adapter_id"),
)

# None as a score or margin: nothing is near enough. An empty tenant: everybody.
calibrations = Table(
    "calibrations",
    metadata,
    Column("encoder", String(128), primary_key=True),
    Column("hypernet_id", String(128), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("score", Float),
    Column("margin", Float),
    Column("verify_score", Float),
    Column("max_distance", Float, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
)
