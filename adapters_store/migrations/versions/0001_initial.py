"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "adapters",
        sa.Column("pk", Id, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_before_deletion", sa.String(length=16), nullable=True),
        sa.Column("base", sa.String(length=128), nullable=False),
        sa.Column("base_model", sa.String(length=256), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("alpha", sa.Float(), nullable=False),
        sa.Column("rslora", sa.Boolean(), nullable=False),
        sa.Column("target_modules", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("delta_norm", sa.Float(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("hypernet_id", sa.String(length=128), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("hits", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('generated','approved','quarantined','deleted')",
            name=op.f("ck_adapters_state"),
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_adapters")),
        sa.UniqueConstraint("tenant", "id", name=op.f("uq_adapters_tenant_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_adapters_created_at", "adapters", ["created_at"], unique=False)
    op.create_index("ix_adapters_id", "adapters", ["id"], unique=False)
    op.create_index(
        "ix_adapters_tenant_state_pk", "adapters", ["tenant", "state", "pk"], unique=False
    )
    op.create_table(
        "aliases",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("adapter_id", sa.String(length=36), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_aliases_adapter_id", "aliases", ["adapter_id"], unique=False)
    op.create_index(
        "ix_aliases_tenant_name_since", "aliases", ["tenant", "name", "since"], unique=False
    )
    op.create_index(
        "uq_aliases_current",
        "aliases",
        ["tenant", "name"],
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )
    op.create_table(
        "audit_log",
        sa.Column("seq", Id, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_subject", "audit_log", ["subject"], unique=False)
    op.create_index(
        "ix_audit_log_tenant_action_at", "audit_log", ["tenant", "action", "at"], unique=False
    )
    op.create_table(
        "encoders",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encoders")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_encoders_fingerprint")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "library",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_library")),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_adapters", sa.BigInteger(), nullable=True),
        sa.Column("max_generations_per_hour", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_quotas")),
    )
    op.create_table(
        "descriptions",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("adapter_pk", Id, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_pk"],
            ["adapters.pk"],
            name=op.f("fk_descriptions_adapter_pk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_descriptions")),
        sa.UniqueConstraint(
            "adapter_pk", "text_hash", name=op.f("uq_descriptions_adapter_pk_text_hash")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_descriptions_text_hash", "descriptions", ["text_hash"], unique=False)
    op.create_table(
        "partitions",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=128), nullable=False),
        sa.Column("encoder_id", Id, nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["encoders.id"], name=op.f("fk_partitions_encoder_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_partitions")),
        sa.UniqueConstraint(
            "tenant", "base", "encoder_id", name=op.f("uq_partitions_tenant_base_encoder_id")
        ),
    )
    op.create_table(
        "tags",
        sa.Column("adapter_pk", Id, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_pk"], ["adapters.pk"], name=op.f("fk_tags_adapter_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("adapter_pk", "name", name=op.f("pk_tags")),
    )
    op.create_index("ix_tags_name", "tags", ["name"], unique=False)
    op.create_table(
        "embeddings",
        sa.Column("seq", Id, autoincrement=True, nullable=False),
        sa.Column("partition_id", Id, nullable=False),
        sa.Column("description_id", Id, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["description_id"],
            ["descriptions.id"],
            name=op.f("fk_embeddings_description_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["partition_id"], ["partitions.id"], name=op.f("fk_embeddings_partition_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_embeddings")),
        sa.UniqueConstraint(
            "description_id", "partition_id", name=op.f("uq_embeddings_description_id_partition_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_embeddings_partition_id_seq", "embeddings", ["partition_id", "seq"], unique=False
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_embeddings_partition_id_seq", table_name="embeddings")
    op.drop_table("embeddings")
    op.drop_index("ix_tags_name", table_name="tags")
    op.drop_table("tags")
    op.drop_table("partitions")
    op.drop_index("ix_descriptions_text_hash", table_name="descriptions")
    op.drop_table("descriptions")
    op.drop_table("quotas")
    op.drop_table("library")
    op.drop_table("leases")
    op.drop_table("encoders")
    op.drop_index("ix_audit_log_tenant_action_at", table_name="audit_log")
    op.drop_index("ix_audit_log_subject", table_name="audit_log")
    op.drop_table("audit_log")
    op.drop_index(
        "uq_aliases_current",
        table_name="aliases",
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )
    op.drop_index("ix_aliases_tenant_name_since", table_name="aliases")
    op.drop_index("ix_aliases_adapter_id", table_name="aliases")
    op.drop_table("aliases")
    op.drop_index("ix_adapters_tenant_state_pk", table_name="adapters")
    op.drop_index("ix_adapters_id", table_name="adapters")
    op.drop_index("ix_adapters_created_at", table_name="adapters")
    op.drop_table("adapters")
